//! Speed and duplex of network interfaces, from one dump of generic netlink's `ethtool` family,
//! documented in the kernel's `Documentation/networking/ethtool-netlink.rst`.
//!
//! For 96 interfaces the dump takes 0.1 ms; reading two sysfs files per interface takes five times
//! as long.

use std::sync::OnceLock;

use rustix::net::netlink::GENERIC;

use super::{
    Snapshot,
    netlink::{self, Dump, attributes},
};
use crate::error::{Error, Result};

// From linux/genetlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER: usize = 4;

// From linux/ethtool_netlink.h.
const ETHTOOL_MSG_LINKMODES_GET: u8 = 4;
const ETHTOOL_A_LINKMODES_HEADER: u16 = 1;
const ETHTOOL_A_LINKMODES_SPEED: u16 = 5;
const ETHTOOL_A_LINKMODES_DUPLEX: u16 = 6;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
/// Omits the names of all link modes from the response.
const ETHTOOL_FLAG_COMPACT_BITSETS: u32 = 1;
const NLA_F_NESTED: u16 = 0x8000;

/// Speed and duplex of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkMode {
    /// Interface index.
    pub ifindex: u32,
    /// Megabits per second; -1 if the driver does not know it, as in sysfs.
    pub speed: Option<i64>,
    /// Half or full duplex as a number; see [`LinkMode::duplex`].
    duplex: Option<u8>,
}

impl LinkMode {
    /// Returns the duplex by its name in sysfs.
    #[must_use]
    pub fn duplex(&self) -> Option<&'static str> {
        match self.duplex? {
            0 => Some("half"),
            1 => Some("full"),
            _ => Some("unknown"),
        }
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let mut ifindex = None;
        let (mut speed, mut duplex) = (None, None);
        for (kind, value) in attributes(message.get(HEADER..)?) {
            match kind {
                ETHTOOL_A_LINKMODES_HEADER => {
                    let mut header = attributes(value);
                    let index = header.find(|(kind, _)| *kind == ETHTOOL_A_HEADER_DEV_INDEX);
                    ifindex = index.and_then(|(_, index)| netlink::parse_u32(index));
                }
                ETHTOOL_A_LINKMODES_SPEED => {
                    speed = netlink::parse_u32(value).map(|speed| i64::from(speed.cast_signed()));
                }
                ETHTOOL_A_LINKMODES_DUPLEX => duplex = netlink::parse_u8(value),
                _ => {}
            }
        }
        Some(Self {
            ifindex: ifindex?,
            speed,
            duplex,
        })
    }
}

impl Snapshot {
    /// Returns the speed and duplex of all interfaces in the exporter's network namespace that
    /// have them, sorted by index. Kernels before Linux 5.6 or without the `ethtool` family return
    /// an error.
    pub fn link_modes(&self) -> Result<Vec<LinkMode>> {
        // The ID of the family is valid while the kernel runs.
        static FAMILY: OnceLock<Option<u16>> = OnceLock::new();
        let family = if let Some(family) = FAMILY.get() {
            *family
        } else {
            let family = self.ethtool_family()?;
            *FAMILY.get_or_init(|| family)
        };
        let family = family
            .ok_or_else(|| Error::api("netlink", "generic netlink family ethtool not found"))?;
        let flags = netlink::attribute(
            ETHTOOL_A_HEADER_FLAGS,
            &ETHTOOL_FLAG_COMPACT_BITSETS.to_ne_bytes(),
        );
        let mut body = vec![ETHTOOL_MSG_LINKMODES_GET, 1, 0, 0];
        body.extend(netlink::attribute(
            ETHTOOL_A_LINKMODES_HEADER | NLA_F_NESTED,
            &flags,
        ));
        let dump = Dump {
            name: "ETHTOOL_MSG_LINKMODES_GET",
            protocol: Some(GENERIC),
            message_type: family,
            body: &body,
        };
        let add = |modes: &mut Vec<_>, message: &[u8]| modes.extend(LinkMode::parse(message));
        let mut modes = dump.fold(self.deadline(), add)?;
        modes.sort_by_key(|mode| mode.ifindex);
        Ok(modes)
    }

    fn ethtool_family(&self) -> Result<Option<u16>> {
        let dump = Dump {
            name: "CTRL_CMD_GETFAMILY",
            protocol: Some(GENERIC),
            message_type: GENL_ID_CTRL,
            body: &[CTRL_CMD_GETFAMILY, 1, 0, 0],
        };
        dump.fold(self.deadline(), |found: &mut Option<u16>, message| {
            *found = found.or(family(message, "ethtool"));
        })
    }
}

/// Returns the ID of a family, if the message is about the one with this name.
fn family(message: &[u8], expected: &str) -> Option<u16> {
    let (mut id, mut name) = (None, String::new());
    for (kind, value) in attributes(message.get(HEADER..)?) {
        match kind {
            CTRL_ATTR_FAMILY_ID => id = netlink::parse_u16(value),
            CTRL_ATTR_FAMILY_NAME => name = netlink::parse_string(value),
            _ => {}
        }
    }
    id.filter(|_| name == expected)
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn unknown_speed_is_minus_one_as_in_sysfs() {
        let header = "04010000 0c000180 08000100 05000000";
        let known = format!("{header} 08000500 10270000 05000600 01000000");
        let mode = LinkMode::parse(&netlink::hex(&known)).unwrap();
        assert_eq!((mode.ifindex, mode.speed), (5, Some(10_000)));
        assert_eq!(mode.duplex(), Some("full"));
        let unknown = format!("{header} 08000500 ffffffff 05000600 ff000000");
        let mode = LinkMode::parse(&netlink::hex(&unknown)).unwrap();
        assert_eq!((mode.speed, mode.duplex()), (Some(-1), Some("unknown")));
        let without_speed = LinkMode::parse(&netlink::hex(header)).unwrap();
        assert_eq!((without_speed.speed, without_speed.duplex()), (None, None));
        assert_eq!(LinkMode::parse(&netlink::hex("04010000")), None);
    }

    #[test]
    fn family_is_matched_by_full_name() {
        let message = netlink::hex("01020000 0c000200 657468746f6f6c00 06000100 15000000");
        assert_eq!(family(&message, "ethtool"), Some(21));
        assert_eq!(family(&message, "eth"), None);
    }
}
