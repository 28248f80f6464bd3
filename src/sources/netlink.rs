//! Questions to the kernel over netlink, documented in `netlink(7)` and the kernel's
//! `Documentation/userspace-api/netlink/intro.rst`: one request for a dump, answered
//! in as many parts as it takes.
//!
//! What each message holds is the business of the sources that ask.

use std::time::{Duration, Instant};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink, sockopt,
    },
};

use crate::error::{Error, Result};

/// As much as the kernel ever puts into one part of a dump.
const MAX_DATAGRAM: usize = 32 << 10;
/// More than any dump we ask for, such as that of two million sockets; a longer one is
/// an error.
const MAX_RESPONSE: usize = 256 << 20;
/// The shortest timeout a socket can have; it takes zero for no timeout at all.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// How often a dump is asked for again because what it lists changed meanwhile.
const MAX_ATTEMPTS: u32 = 3;

// From linux/netlink.h.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The first type that is not about netlink itself.
const NLMSG_MIN_TYPE: u16 = 16;
const HEADER: usize = 16;
/// Leaves out of an attribute's type that it is nested or in network order.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A request for a list of everything of a kind.
#[derive(Debug)]
pub(super) struct Dump<'a> {
    /// What it is called in the kernel's headers, for errors.
    pub(super) name: &'static str,
    /// Which subsystem to ask; `None` is rtnetlink.
    pub(super) protocol: Option<Protocol>,
    /// The message's type.
    pub(super) message_type: u16,
    /// What stands behind its header.
    pub(super) body: &'a [u8],
}

impl Dump<'_> {
    /// Asks, and adds up what stands behind the header of each message.
    ///
    /// Begins again where the kernel says that the list changed while it was being
    /// written down; a list that never stands still is taken as it last was, so that
    /// something in it may be missing or there twice.
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
        // To a connected socket nobody but the kernel can send.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))
            .map_err(|errno| self.os_error(errno))?;

        let mut part = vec![0; MAX_DATAGRAM];
        let mut try_number = 1;
        loop {
            let request = self.request(try_number);
            rustix::net::send(&socket, &request, SendFlags::empty())
                .map_err(|errno| self.os_error(errno))?;
            let mut answer = DumpResponse::new(try_number);
            let mut total = 0;
            while !answer.done {
                let left = deadline.saturating_duration_since(Instant::now());
                if left < MIN_TIMEOUT {
                    return Err(Error::TimedOut(self.name.to_owned()));
                }
                sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(left))
                    .map_err(|errno| self.os_error(errno))?;
                let len = match rustix::net::recv(&socket, &mut part[..], RecvFlags::TRUNC) {
                    Ok((_, len)) => len,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => return Err(Error::TimedOut(self.name.to_owned())),
                    Err(errno) => return Err(self.os_error(errno)),
                };
                let Some(datagram) = part.get(..len) else {
                    return Err(self.error("a part of the answer is too long"));
                };
                answer
                    .parse_datagram(datagram, &add)
                    .map_err(|e| self.error(&e))?;
                total += len;
                if total > MAX_RESPONSE {
                    return Err(self.error("the answer is too long"));
                }
            }
            if !answer.interrupted || try_number == MAX_ATTEMPTS {
                return Ok(answer.value);
            }
            try_number += 1;
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

/// What has come of an answer.
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
                .ok_or("a message is cut short")?;
            let (Some(kind), Some(flags), Some(sequence), Some(payload)) = (
                message.get(4..).and_then(parse_u16),
                message.get(6..).and_then(parse_u16),
                message.get(8..).and_then(parse_u32),
                message.get(HEADER..),
            ) else {
                return Err("a message is too short".to_owned());
            };
            datagram = datagram.get(aligned(message.len())..).unwrap_or_default();
            if sequence != self.sequence {
                continue;
            }
            self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    // Both begin with zero or a negated errno; so old a kernel that
                    // its end of a dump does not has nothing to report.
                    let code = parse_u32(payload).unwrap_or_default().cast_signed();
                    if code != 0 {
                        // Not an `Errno`, which panics where it is none.
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

/// What comes of a whole answer that is there already.
#[cfg(any(test, fuzzing))]
pub(super) fn parse_response<T: Default>(
    datagram: &[u8],
    add: impl Fn(&mut T, &[u8]),
) -> Option<T> {
    let sequence = datagram.get(8..).and_then(parse_u32)?;
    let mut answer = DumpResponse::new(sequence);
    answer.parse_datagram(datagram, add).ok()?;
    Some(answer.value)
}

/// The attributes in a message or in another attribute: their type and contents.
/// Ends where a length makes no sense.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let attribute = rest.get(..usize::from(parse_u16(rest)?))?;
        let kind = parse_u16(attribute.get(2..)?)? & NLA_TYPE_MASK;
        let payload = attribute.get(4..)?;
        rest = rest.get(aligned(attribute.len())..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// An attribute as it is sent.
pub(super) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = 4 + payload.len();
    let mut attribute = Vec::with_capacity(aligned(len));
    attribute.extend(u16::try_from(len).unwrap_or_default().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(payload);
    attribute.resize(aligned(len), 0);
    attribute
}

/// Everything in netlink begins at a multiple of four.
pub(super) fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// The byte at the beginning.
pub(super) fn parse_u8(bytes: &[u8]) -> Option<u8> {
    bytes.first().copied()
}

/// The 16 bit number at the beginning.
pub(super) fn parse_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The 32 bit number at the beginning.
pub(super) fn parse_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The 64 bit number at the beginning.
pub(super) fn parse_u64(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// A text that ends at the first zero.
pub(super) fn parse_string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An address, told apart by its length.
pub(super) fn parse_ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// What a test was given in hexadecimal digits, as `strace -xx` or `xxd -p` show it.
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
        let mut answer = DumpResponse::<Vec<u8>>::new(7);
        for datagram in datagrams {
            answer.parse_datagram(&hex(datagram), |all, payload| all.extend(payload))?;
        }
        Ok((answer.value, answer.interrupted, answer.done))
    }

    const ONE: &str = "12000000 1000 0200 07000000 00000000 aabb 0000";
    const FOREIGN: &str = "12000000 1000 0200 08000000 00000000 cccc 0000";
    const CHANGED: &str = "11000000 1000 1200 07000000 00000000 dd 000000";
    const DONE: &str = "14000000 0300 0200 07000000 00000000 00000000";

    #[test]
    fn an_answer_goes_on_until_the_kernel_says_that_it_is_done() {
        let one_part = [ONE, FOREIGN].concat();
        let answer = take(&[&one_part, ONE]).unwrap();
        assert_eq!(answer, (vec![0xaa, 0xbb, 0xaa, 0xbb], false, false));
        let answer = take(&[&one_part, &[CHANGED, DONE, ONE].concat()]).unwrap();
        assert_eq!(answer, (vec![0xaa, 0xbb, 0xdd], true, true));
    }

    #[test]
    fn a_refusal_says_what_the_kernel_answered() {
        let refused = "24000000 0200 0000 07000000 00000000 a1ffffff 00000000";
        let cut_short = "24000000 0200 0000 07000000 00000000 a1ff";
        let failed_late = "14000000 0300 0200 07000000 00000000 edffffff";
        assert_eq!(take(&[cut_short]).unwrap_err(), "a message is cut short");
        assert_eq!(take(&["04000000"]).unwrap_err(), "a message is too short");
        let whole = refused.replace("24000000 0200", "18000000 0200");
        let error = take(&[&whole]).unwrap_err();
        assert!(error.contains("os error 95"), "{error}");
        let error = take(&[ONE, failed_late]).unwrap_err();
        assert!(error.contains("os error 19"), "{error}");
    }

    #[test]
    fn a_refusal_for_no_known_reason_is_one_all_the_same() {
        for code in ["00000080", "01000000", "ffffff7f", "00e0ffff"] {
            let refused = format!("14000000 0200 0000 07000000 00000000 {code}");
            assert!(take(&[&refused]).unwrap_err().contains("os error"));
        }
    }

    #[test]
    fn attributes_end_where_a_length_makes_no_sense() {
        let bytes = hex("0500 0100 07 000000 0800 0280 01020304 0300 0100 0900 0300 01");
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
        let made = [attribute(1, &[7]), attribute(0x8002, &[1, 2, 3, 4])].concat();
        assert_eq!(attributes(&made).collect::<Vec<_>>(), all);
    }

    #[test]
    fn after_the_deadline_no_answer_is_waited_for() {
        let dump = Dump {
            name: "late",
            protocol: None,
            message_type: 18,
            body: &[0; 16],
        };
        let error = dump.fold(Instant::now(), |(), _| {}).unwrap_err();
        assert_eq!(error.to_string(), "late did not answer in time");
    }

    #[test]
    fn an_unknown_question_is_refused_not_waited_for() {
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
