//! The kernel's neighbour table (known hardware addresses), from rtnetlink, documented in
//! `rtnetlink(7)` and `linux/neighbour.h`.

use rustix::net::AddressFamily;

use super::{
    Snapshot,
    netlink::{self, Dump},
};
use crate::error::Result;

const RTM_GETNEIGH: u16 = 30;
const NUD_NOARP: u16 = 0x40;
/// `struct ndmsg`.
const HEADER: usize = 12;

/// An entry of the ARP table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface it is reached through.
    pub ifindex: u32,
    /// Its state: one or more `NUD_*` flags.
    state: u16,
}

impl Neighbour {
    /// Whether it needs no address resolution, such as a broadcast address.
    #[must_use]
    pub fn is_noarp(&self) -> bool {
        self.state & NUD_NOARP != 0
    }

    pub(super) fn parse_into(all: &mut Vec<Self>, message: &[u8]) {
        all.extend(Self::parse(message));
    }

    fn parse(message: &[u8]) -> Option<Self> {
        // A kernel may return more families than requested.
        let family = u16::from(netlink::parse_u8(message)?);
        (family == AddressFamily::INET.as_raw()).then_some(Self {
            ifindex: netlink::parse_u32(message.get(4..)?)?,
            state: netlink::parse_u16(message.get(8..)?)?,
        })
    }
}

impl Snapshot {
    /// Returns the IPv4 neighbours in the exporter's network namespace.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>> {
        let mut body = [0; HEADER];
        let [family, _] = AddressFamily::INET.as_raw().to_le_bytes();
        body[0] = family;
        let dump = Dump {
            name: "RTM_GETNEIGH",
            protocol: None,
            message_type: RTM_GETNEIGH,
            body: &body,
        };
        dump.fold(self.deadline(), Neighbour::parse_into)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_other_families_are_skipped() {
        let parse = |message| Neighbour::parse(&netlink::hex(message));
        let reachable = parse("02000000 04000000 0200 00 01").unwrap();
        assert_eq!((reachable.ifindex, reachable.is_noarp()), (4, false));
        let noarp = parse("02000000 04000000 4000 00 02").unwrap();
        assert!(noarp.is_noarp());
        assert_eq!(parse("0a000000 04000000 0200 00 01"), None);
        assert_eq!(parse("02000000 0400"), None);
    }
}
