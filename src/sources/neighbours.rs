//! The machines that the kernel knows the hardware address of, from rtnetlink,
//! documented in `rtnetlink(7)` and `linux/neighbour.h`.

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

/// A line of the ARP table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the interface behind which it is.
    pub ifindex: u32,
    /// What the kernel knows of it, one or more `NUD_*`.
    state: u16,
}

impl Neighbour {
    /// Whether it is there without having been asked for, such as a broadcast address.
    #[must_use]
    pub fn is_noarp(&self) -> bool {
        self.state & NUD_NOARP != 0
    }

    pub(super) fn parse_into(all: &mut Vec<Self>, message: &[u8]) {
        all.extend(Self::parse(message));
    }

    fn parse(message: &[u8]) -> Option<Self> {
        // A kernel may answer with more families than it was asked for.
        let family = u16::from(netlink::parse_u8(message)?);
        (family == AddressFamily::INET.as_raw()).then_some(Self {
            ifindex: netlink::parse_u32(message.get(4..)?)?,
            state: netlink::parse_u16(message.get(8..)?)?,
        })
    }
}

impl Snapshot {
    /// The IPv4 neighbours in the exporter's own network namespace.
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
    fn a_neighbour_of_another_family_is_not_in_the_arp_table() {
        let parse = |message| Neighbour::parse(&netlink::hex(message));
        let reachable = parse("02000000 04000000 0200 00 01").unwrap();
        assert_eq!((reachable.ifindex, reachable.is_noarp()), (4, false));
        let noarp = parse("02000000 04000000 4000 00 02").unwrap();
        assert!(noarp.is_noarp());
        assert_eq!(parse("0a000000 04000000 0200 00 01"), None);
        assert_eq!(parse("02000000 0400"), None);
    }
}
