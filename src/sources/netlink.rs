//! Netlink dump requests, documented in `netlink(7)` and the kernel's
//! `Documentation/userspace-api/netlink/intro.rst`: one request, answered in any number of
//! datagrams.
//!
//! The contents of messages are parsed by the individual sources.

use std::time::{Duration, Instant};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink, sockopt,
    },
};

use crate::error::{Error, Result};

/// Maximum size of one datagram of a dump.
const MAX_DATAGRAM: usize = 32 << 10;
/// Larger than any dump used here, such as that of two million sockets; a longer one is an error.
const MAX_RESPONSE: usize = 256 << 20;
/// Minimum timeout of a socket; zero would mean no timeout.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Maximum number of attempts if the listed objects change during the dump.
const MAX_ATTEMPTS: u32 = 3;

// From linux/netlink.h.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// First type that is not reserved for netlink itself.
const NLMSG_MIN_TYPE: u16 = 16;
const HEADER: usize = 16;
/// Masks the flags for nested and network byte order out of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A request for a list of all objects of a kind.
#[derive(Debug)]
pub(super) struct Dump<'a> {
    /// Its name in the kernel's headers, for errors.
    pub(super) name: &'static str,
    /// Netlink protocol; `None` is rtnetlink.
    pub(super) protocol: Option<Protocol>,
    /// Message type.
    pub(super) message_type: u16,
    /// Data after the header.
    pub(super) body: &'a [u8],
}

impl Dump<'_> {
    /// Sends the request, and folds the payloads of all messages into a result.
    ///
    /// Repeats the request if the kernel reports that the list changed during the dump. If it
    /// changes in every attempt, the last result is used; objects may then be missing or listed
    /// twice.
    pub(super) fn fold<T: Default>(
        &self,
        deadline: Instant,
        add: impl Fn(&mut T, &[u8]),
    ) -> Result<T> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            self.protocol,
        );
        let socket = socket.map_err(|errno| self.os_error(errno))?;
        // Only the kernel can send to a connected socket.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))
            .map_err(|errno| self.os_error(errno))?;

        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut attempt = 1;
        loop {
            let request = self.request(attempt);
            rustix::net::send(&socket, &request, SendFlags::empty())
                .map_err(|errno| self.os_error(errno))?;
            let mut response = DumpResponse::new(attempt);
            let mut total = 0;
            while !response.done {
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining < MIN_TIMEOUT {
                    return Err(Error::TimedOut(self.name.to_owned()));
                }
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(remaining))
                    .map_err(|errno| self.os_error(errno))?;
                let len = match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC) {
                    Ok((_, len)) => len,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => return Err(Error::TimedOut(self.name.to_owned())),
                    Err(errno) => return Err(self.os_error(errno)),
                };
                let Some(datagram) = buffer.get(..len) else {
                    return Err(self.error("datagram too long"));
                };
                response
                    .parse_datagram(datagram, &add)
                    .map_err(|reason| self.error(&reason))?;
                total += len;
                if total > MAX_RESPONSE {
                    return Err(self.error("response too long"));
                }
            }
            if !response.interrupted || attempt == MAX_ATTEMPTS {
                return Ok(response.value);
            }
            attempt += 1;
        }
    }

    fn request(&self, sequence: u32) -> Vec<u8> {
        let len = HEADER + self.body.len();
        let mut request = Vec::with_capacity(len);
        request.extend(u32::try_from(len).unwrap_or_default().to_ne_bytes());
        request.extend(self.message_type.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(self.body);
        request
    }

    fn os_error(&self, errno: Errno) -> Error {
        self.error(&errno.to_string())
    }

    fn error(&self, reason: &str) -> Error {
        Error::api("netlink", format_args!("{}: {reason}", self.name))
    }
}

/// The state of a response that is being parsed.
#[derive(Debug)]
struct DumpResponse<T> {
    sequence: u32,
    value: T,
    interrupted: bool,
    done: bool,
}

impl<T: Default> DumpResponse<T> {
    fn new(sequence: u32) -> Self {
        Self {
            sequence,
            value: T::default(),
            interrupted: false,
            done: false,
        }
    }

    fn parse_datagram(
        &mut self,
        mut datagram: &[u8],
        add: impl Fn(&mut T, &[u8]),
    ) -> Result<(), String> {
        while !datagram.is_empty() && !self.done {
            let message = parse_u32(datagram)
                .and_then(|len| datagram.get(..usize::try_from(len).ok()?))
                .ok_or("truncated message")?;
            let (Some(kind), Some(flags), Some(sequence), Some(payload)) = (
                message.get(4..).and_then(parse_u16),
                message.get(6..).and_then(parse_u16),
                message.get(8..).and_then(parse_u32),
                message.get(HEADER..),
            ) else {
                return Err("message shorter than its header".to_owned());
            };
            datagram = datagram.get(aligned(message.len())..).unwrap_or_default();
            if sequence != self.sequence {
                continue;
            }
            self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    // Both types begin with zero or a negated errno. Kernels whose end of a dump
                    // lacks it are too old to report errors there.
                    let code = parse_u32(payload).unwrap_or_default().cast_signed();
                    if code != 0 {
                        // Not an `Errno`, which panics on invalid values.
                        let code = code.saturating_neg();
                        return Err(std::io::Error::from_raw_os_error(code).to_string());
                    }
                    self.done = true;
                }
                kind if kind >= NLMSG_MIN_TYPE => add(&mut self.value, payload),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Parses a complete response.
#[cfg(any(test, fuzzing))]
pub(super) fn parse_response<T: Default>(
    datagram: &[u8],
    add: impl Fn(&mut T, &[u8]),
) -> Option<T> {
    let sequence = datagram.get(8..).and_then(parse_u32)?;
    let mut response = DumpResponse::new(sequence);
    response.parse_datagram(datagram, add).ok()?;
    Some(response.value)
}

/// Iterates over the attributes in a message or in another attribute: type and payload. Stops at
/// an invalid length.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let attribute = rest.get(..usize::from(parse_u16(rest)?))?;
        let kind = parse_u16(attribute.get(2..)?)? & NLA_TYPE_MASK;
        let payload = attribute.get(4..)?;
        rest = rest.get(aligned(attribute.len())..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Encodes an attribute.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = 4 + payload.len();
    let mut attribute = Vec::with_capacity(aligned(len));
    attribute.extend(u16::try_from(len).unwrap_or_default().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(payload);
    attribute.resize(aligned(len), 0);
    attribute
}

/// Rounds up to the netlink alignment of four bytes.
pub(super) fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Reads the byte at the start.
pub(super) fn parse_u8(bytes: &[u8]) -> Option<u8> {
    bytes.first().copied()
}

/// Reads the 16-bit number at the start.
pub(super) fn parse_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// Reads the 32-bit number at the start.
pub(super) fn parse_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Reads the 64-bit number at the start.
pub(super) fn parse_u64(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// Reads a string up to the first zero byte.
pub(super) fn parse_string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Reads an IP address; its length determines the version.
pub(super) fn parse_ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// Parses the hexadecimal input of a test, as printed by `strace -xx` or `xxd -p`.
#[cfg(test)]
pub(super) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn take(datagrams: &[&str]) -> Result<(Vec<u8>, bool, bool), String> {
        let mut response = DumpResponse::<Vec<u8>>::new(7);
        for datagram in datagrams {
            response
                .parse_datagram(&hex(datagram), |payloads, payload| payloads.extend(payload))?;
        }
        Ok((response.value, response.interrupted, response.done))
    }

    const ONE: &str = "12000000 1000 0200 07000000 00000000 aabb 0000";
    const FOREIGN: &str = "12000000 1000 0200 08000000 00000000 cccc 0000";
    const CHANGED: &str = "11000000 1000 1200 07000000 00000000 dd 000000";
    const DONE: &str = "14000000 0300 0200 07000000 00000000 00000000";

    #[test]
    fn response_continues_until_done_message() {
        let one_part = [ONE, FOREIGN].concat();
        let response = take(&[&one_part, ONE]).unwrap();
        assert_eq!(response, (vec![0xaa, 0xbb, 0xaa, 0xbb], false, false));
        let response = take(&[&one_part, &[CHANGED, DONE, ONE].concat()]).unwrap();
        assert_eq!(response, (vec![0xaa, 0xbb, 0xdd], true, true));
    }

    #[test]
    fn error_contains_the_kernels_errno() {
        let error_message = "24000000 0200 0000 07000000 00000000 a1ffffff 00000000";
        let truncated = "24000000 0200 0000 07000000 00000000 a1ff";
        let done_with_error = "14000000 0300 0200 07000000 00000000 edffffff";
        assert_eq!(take(&[truncated]).unwrap_err(), "truncated message");
        assert_eq!(
            take(&["04000000"]).unwrap_err(),
            "message shorter than its header"
        );
        let complete = error_message.replace("24000000 0200", "18000000 0200");
        let error = take(&[&complete]).unwrap_err();
        assert!(error.contains("os error 95"), "{error}");
        let error = take(&[ONE, done_with_error]).unwrap_err();
        assert!(error.contains("os error 19"), "{error}");
    }

    #[test]
    fn invalid_errno_is_still_an_error() {
        for code in ["00000080", "01000000", "ffffff7f", "00e0ffff"] {
            let message = format!("14000000 0200 0000 07000000 00000000 {code}");
            assert!(take(&[&message]).unwrap_err().contains("os error"));
        }
    }

    #[test]
    fn attributes_stop_at_invalid_length() {
        let bytes = hex("0500 0100 07 000000 0800 0280 01020304 0300 0100 0900 0300 01");
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
        let encoded = [attribute(1, &[7]), attribute(0x8002, &[1, 2, 3, 4])].concat();
        assert_eq!(attributes(&encoded).collect::<Vec<_>>(), all);
    }

    #[test]
    fn no_response_is_awaited_after_deadline() {
        let dump = Dump {
            name: "late",
            protocol: None,
            message_type: 18,
            body: &[0; 16],
        };
        let error = dump.fold(Instant::now(), |(), _| {}).unwrap_err();
        assert_eq!(error.to_string(), "late timed out");
    }

    #[test]
    fn unknown_request_fails_without_waiting() {
        let dump = Dump {
            name: "nonsense",
            protocol: None,
            message_type: 0x3ff,
            body: &[0; 16],
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = dump.fold(deadline, |(), _| {}).unwrap_err().to_string();
        assert!(error.starts_with("netlink: nonsense: "), "{error}");
        assert!(error.contains("os error 95"), "{error}");
    }
}
