//! Data from network interface drivers through `ioctl`, documented in the kernel's
//! `include/uapi/linux/ethtool.h`.
//!
//! Covers the interfaces of this process's network namespace.

use std::{borrow::Cow, os::fd::AsFd, os::fd::OwnedFd, path::PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::syscall::{self, EthtoolCommand, GuardedBuffer};
use crate::error::{Error, Result};

/// More statistics than any driver has (a hundred for each of several hundred queues).
const MAX_STATISTICS: usize = 1 << 16;
/// `ETH_GSTRING_LEN`: length of a statistic's name.
const NAME_LEN: usize = 32;
/// `ETH_SS_STATS`: the string set of statistics.
const STATISTICS_SET: u32 = 1;

/// Information about a driver.
#[derive(Debug, PartialEq, Eq)]
pub struct DriverInfo {
    /// Name of the driver.
    pub name: String,
    /// Version of the driver; for most, that of the kernel.
    pub version: String,
    /// Version of the device's firmware.
    pub firmware_version: String,
    /// Bus address of the device, such as its PCI address.
    pub bus_info: String,
    /// Version of the device's boot firmware.
    pub expansion_rom_version: String,
}

/// Supported and configured properties of a link.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Whether autonegotiation is enabled.
    pub autoneg: bool,
    /// Link modes that the interface supports.
    pub supported: LinkModeSet,
    /// Link modes that the interface advertises.
    pub advertising: LinkModeSet,
}

/// A set of link modes.
#[derive(Debug, PartialEq, Eq)]
pub struct LinkModeSet(Vec<u32>);

impl LinkModeSet {
    /// Whether the set contains a mode, by its number in `ethtool_link_mode_bit_indices`.
    #[must_use]
    pub fn has(&self, mode: u32) -> bool {
        let word = self.0.get(mode as usize / 32);
        word.is_some_and(|word| word >> (mode % 32) & 1 == 1)
    }
}

#[cfg(test)]
impl<const N: usize> From<[u32; N]> for LinkModeSet {
    fn from(words: [u32; N]) -> Self {
        Self(words.to_vec())
    }
}

/// Statistics of a driver.
#[derive(Debug, Default)]
pub struct Statistics {
    names: Vec<u8>,
    values: Vec<u8>,
}

impl Statistics {
    /// Iterates over names and values, in the driver's order.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, u64)> {
        let (names, _) = self.names.as_chunks::<NAME_LEN>();
        let (values, _) = self.values.as_chunks();
        let values = values.iter().map(|value| u64::from_ne_bytes(*value));
        names.iter().map(|name| nul_terminated(name)).zip(values)
    }
}

#[cfg(test)]
impl From<&[(&str, u64)]> for Statistics {
    fn from(list: &[(&str, u64)]) -> Self {
        let mut statistics = Self::default();
        for (name, value) in list {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME_LEN, 0);
            statistics.names.extend(bytes);
            statistics.values.extend(value.to_ne_bytes());
        }
        statistics
    }
}

/// A client for the drivers of network interfaces.
#[derive(Debug)]
pub struct EthtoolSocket {
    socket: OwnedFd,
    request: GuardedBuffer,
    /// Number of words in a set of link modes; reported by the kernel at the first request.
    link_mode_words: i8,
}

impl EthtoolSocket {
    pub(super) fn open() -> Result<Self> {
        let failed = |error| Error::io("ethtool", error);
        // The ioctl works on any family; this one is permitted even where IP is not.
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        );
        // Names need the most space, after a header.
        let request = GuardedBuffer::new(16 + MAX_STATISTICS * NAME_LEN);
        Ok(Self {
            socket: socket.map_err(|errno| failed(errno.into()))?,
            request: request.map_err(failed)?,
            link_mode_words: 0,
        })
    }

    /// Requests the driver of an interface.
    pub fn driver_info(&mut self, interface: &str) -> Result<DriverInfo> {
        let response = self.ioctl(interface, EthtoolCommand::DriverInfo, &[])?;
        parse_driver_info(response).ok_or_else(|| malformed_response(interface))
    }

    /// Requests the link settings of an interface.
    pub fn link_settings(&mut self, interface: &str) -> Result<LinkSettings> {
        for _ in 0..2 {
            let mut request = [0; 44];
            if let Some(words) = request.get_mut(LINK_MODE_WORDS_OFFSET - 4) {
                *words = self.link_mode_words.cast_unsigned();
            }
            let response = self.ioctl(interface, EthtoolCommand::LinkSettings, &request)?;
            match parse_link_settings(response).ok_or_else(|| malformed_response(interface))? {
                Ok(link) => return Ok(link),
                Err(words) => self.link_mode_words = words,
            }
        }
        Err(malformed_response(interface))
    }

    /// Requests the driver statistics of an interface; there may be none.
    pub fn statistics(&mut self, interface: &str) -> Result<Statistics> {
        let mut set = [0; 12];
        // After a reserved word, one bit for each set whose size is requested.
        if let Some(mask) = set.get_mut(4..) {
            mask.copy_from_slice(&(1_u64 << STATISTICS_SET).to_ne_bytes());
        }
        let sizes = self.ioctl(interface, EthtoolCommand::StringSetInfo, &set)?;
        let count = parse_set_size(sizes).ok_or_else(|| malformed_response(interface))?;
        if count == 0 {
            return Ok(Statistics::default());
        }
        let count = u32::try_from(count).unwrap_or_default().to_ne_bytes();
        let request = [STATISTICS_SET.to_ne_bytes(), count];
        let response = self.ioctl(interface, EthtoolCommand::StringSet, request.as_flattened())?;
        let names =
            counted_entries(response, 8, NAME_LEN).ok_or_else(|| malformed_response(interface))?;
        let names = names.to_vec();
        let response = self.ioctl(interface, EthtoolCommand::Stats, &count)?;
        let values =
            counted_entries(response, 4, 8).ok_or_else(|| malformed_response(interface))?;
        // If the number of queues changed in between, names and values would not match.
        if names.len() / NAME_LEN != values.len() / 8 {
            return Err(malformed_response(interface));
        }
        Ok(Statistics {
            names,
            values: values.to_vec(),
        })
    }

    /// Sends a request, given the data after the command.
    fn ioctl(&mut self, interface: &str, cmd: EthtoolCommand, request: &[u8]) -> Result<&[u8]> {
        let bytes = self.request.bytes_mut();
        // Clears the previous response, so that it is not taken for part of this one.
        bytes.iter_mut().take(MAX_HEADER_LEN).for_each(|b| *b = 0);
        for (dst, src) in bytes.iter_mut().skip(4).zip(request) {
            *dst = *src;
        }
        syscall::ethtool(self.socket.as_fd(), interface, cmd, &mut self.request)
            .map_err(|error| Error::io(error_path(interface), error))?;
        Ok(self.request.bytes())
    }
}

/// Parses a reply as each type of reply, for the fuzz target `ethtool`. Returns how much could
/// be parsed.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_all(response: &[u8]) -> usize {
    let mut parsed = usize::from(parse_driver_info(response).is_some());
    if let Some(Ok(link)) = parse_link_settings(response) {
        let words = link.supported.0.len();
        assert!(words == link.advertising.0.len() && 8 * words <= response.len());
        parsed += 1;
        (0..=u8::MAX).for_each(|mode| _ = link.supported.has(mode.into()));
    }
    parse_set_size(response);
    let (names, values) = (
        counted_entries(response, 8, NAME_LEN),
        counted_entries(response, 4, 8),
    );
    let statistics = Statistics {
        names: names.unwrap_or_default().to_vec(),
        values: values.unwrap_or_default().to_vec(),
    };
    let count = statistics.iter().count();
    assert!(count <= response.len() / 8);
    parsed + count
}

/// Maximum length of the fixed part of a response.
const MAX_HEADER_LEN: usize = 512;
/// Offset of the number of words in `ethtool_link_settings`.
const LINK_MODE_WORDS_OFFSET: usize = 15;

/// Path used in errors.
fn error_path(interface: &str) -> PathBuf {
    format!("ethtool {interface}").into()
}

fn malformed_response(interface: &str) -> Error {
    let reason = format_args!("{interface}: malformed response");
    Error::api("ethtool", reason)
}

/// Parses `ethtool_drvinfo`.
fn parse_driver_info(response: &[u8]) -> Option<DriverInfo> {
    let string =
        |offset: usize| Some(nul_terminated(response.get(offset..offset + 32)?).into_owned());
    Some(DriverInfo {
        name: string(4)?,
        version: string(36)?,
        firmware_version: string(68)?,
        bus_info: string(100)?,
        expansion_rom_version: string(132)?,
    })
}

/// Parses `ethtool_link_settings`; if the request had space for a different number of words,
/// returns the right number as an error.
fn parse_link_settings(response: &[u8]) -> Option<Result<LinkSettings, i8>> {
    let words = response.get(LINK_MODE_WORDS_OFFSET)?.cast_signed();
    if words <= 0 {
        return Some(Err(words.checked_neg()?));
    }
    let words = usize::from(words.unsigned_abs());
    let set = |number: usize| {
        let set = response.get(48..)?.get(4 * words * number..)?;
        let (words, _) = set.get(..4 * words)?.as_chunks();
        let words = words.iter().map(|word| u32::from_ne_bytes(*word));
        Some(LinkModeSet(words.collect()))
    };
    Some(Ok(LinkSettings {
        autoneg: *response.get(11)? == 1,
        supported: set(0)?,
        advertising: set(1)?,
    }))
}

/// Parses `ethtool_sset_info` of a request for one set.
fn parse_set_size(response: &[u8]) -> Option<usize> {
    let sets = u64::from_ne_bytes(*response.get(8..)?.first_chunk()?);
    if sets == 0 {
        return Some(0);
    }
    read_count(response, 16)
}

/// Returns the entries of `ethtool_gstrings` or `ethtool_stats`, as many as the count in it.
fn counted_entries(response: &[u8], count_offset: usize, len: usize) -> Option<&[u8]> {
    let count = read_count(response, count_offset)?;
    let (_, entries) = response.split_at_checked(count_offset + 4)?;
    entries.get(..count.checked_mul(len)?)
}

fn read_count(response: &[u8], offset: usize) -> Option<usize> {
    let bytes = response.get(offset..)?.first_chunk()?;
    usize::try_from(u32::from_ne_bytes(*bytes)).ok()
}

/// Decodes a string up to its terminating zero, or all of it.
fn nul_terminated(bytes: &[u8]) -> Cow<'_, str> {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(32, 0);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn parses_driver_info() {
        let mut response = words(&[3]);
        for word in ["virtio_net", "1.0.0", "fw", "0000:00:03.0"] {
            response.extend(padded(word));
        }
        // As long as the field, without a terminating zero.
        response.extend([b'x'; 32]);
        let expected = DriverInfo {
            name: "virtio_net".into(),
            version: "1.0.0".into(),
            firmware_version: "fw".into(),
            bus_info: "0000:00:03.0".into(),
            expansion_rom_version: "x".repeat(32),
        };
        assert_eq!(parse_driver_info(&response), Some(expected));
        response.pop();
        assert_eq!(parse_driver_info(&response), None);
    }

    #[test]
    fn request_is_repeated_if_kernel_has_more_link_modes() {
        let mut response = words(&[0x4c, 1000]);
        //           duplex, port, address, autoneg, mdio, mdix, mdix control, words
        response.extend([1, 0, 0, 1, 0, 0, 0, (-2_i8).cast_unsigned()]);
        response.resize(48, 0);
        assert_eq!(parse_link_settings(&response), Some(Err(2)));

        response[15] = 2;
        response.extend(words(&[1 << 5, 1, 1 << 6, 0]));
        let expected = LinkSettings {
            autoneg: true,
            supported: [1 << 5, 1].into(),
            advertising: [1 << 6, 0].into(),
        };
        assert_eq!(parse_link_settings(&response), Some(Ok(expected)));
        response.pop();
        assert_eq!(parse_link_settings(&response), None);
        response[15] = 0x80;
        assert_eq!(parse_link_settings(&response), None);
    }

    #[test]
    fn link_modes_unknown_to_the_kernel_are_not_set() {
        let modes = LinkModeSet::from([1 << 31, 1]);
        assert!(modes.has(31) && modes.has(32));
        assert!(!modes.has(30) && !modes.has(33) && !modes.has(64));
    }

    #[test]
    fn driver_without_statistics_has_no_such_set() {
        assert_eq!(parse_set_size(&words(&[0x37, 0, 1 << 1, 0, 70])), Some(70));
        assert_eq!(parse_set_size(&words(&[0x37, 0, 0, 0, 70])), Some(0));
        assert_eq!(parse_set_size(&words(&[0x37, 0, 1 << 1])), None);
    }

    #[test]
    fn response_shorter_than_its_count_is_rejected() {
        let response = words(&[0x1d, 2, 5, 6, 7, 8]);
        assert_eq!(
            counted_entries(&response, 4, 8),
            Some(&words(&[5, 6, 7, 8])[..])
        );
        assert_eq!(counted_entries(&words(&[0x1d, 2, 5, 6, 7]), 4, 8), None);
        assert_eq!(counted_entries(&words(&[0x1d, u32::MAX, 5]), 4, 8), None);
        assert_eq!(counted_entries(&words(&[0x1d]), 4, 8), None);
    }

    #[test]
    fn names_and_values_match() {
        let list: &[(&str, u64)] = &[("rx_drops", 1 << 40), ("tx_drops", 7)];
        let statistics = Statistics::from(list);
        let pairs: Vec<_> = statistics.iter().collect();
        assert_eq!(
            pairs,
            [("rx_drops".into(), 1 << 40), ("tx_drops".into(), 7)]
        );
    }

    /// A pair of virtual interfaces, removed when dropped.
    struct VethPair;

    impl VethPair {
        fn new() -> Option<Self> {
            ip("link add strata-a type veth peer name strata-b").then_some(Self)
        }
    }

    impl Drop for VethPair {
        fn drop(&mut self) {
            ip("link del strata-a");
        }
    }

    fn ip(words: &str) -> bool {
        let output = std::process::Command::new("ip")
            .args(words.split_whitespace())
            .output();
        output.is_ok_and(|output| output.status.success())
    }

    #[test]
    fn virtual_interface_reports_driver_and_statistics() {
        // In a separate network namespace of this thread, so that no other test is affected.
        std::thread::spawn(|| {
            #[expect(deprecated, reason = "a thread's network namespace is safe to leave")]
            let unshared = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
            let Some(_pair) = unshared.ok().and_then(|()| VethPair::new()) else {
                let requirements = "CAP_SYS_ADMIN, CAP_NET_ADMIN, ip(8) and veth";
                let required = std::env::var_os("STRATA_TEST_REQUIRE").is_some();
                assert!(!required, "needs {requirements}");
                // Not printed with `println!`: the harness hides the output of passing tests.
                let line = format!("ethtool test skipped: needs {requirements}\n");
                std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
                return;
            };
            let mut ethtool = EthtoolSocket::open().unwrap();
            for _ in 0..2 {
                assert_eq!(ethtool.driver_info("strata-a").unwrap().name, "veth");
                let link = ethtool.link_settings("strata-a").unwrap();
                assert!(!link.autoneg);
                let statistics = ethtool.statistics("strata-a").unwrap();
                let (name, _) = statistics.iter().next().unwrap();
                assert_eq!(name, "peer_ifindex");
            }
            assert!(ethtool.driver_info("lo").unwrap_err().is_unavailable());
            assert_eq!(ethtool.statistics("lo").unwrap().iter().count(), 0);
            assert!(ethtool.link_settings("strata-c").unwrap_err().is_gone());
        })
        .join()
        .unwrap();
    }
}
