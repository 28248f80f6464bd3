//! The IP addresses of the network interfaces, from rtnetlink, documented in
//! `rtnetlink(7)` and `linux/if_addr.h`.

use std::net::IpAddr;

use super::{
    Snapshot,
    netlink::{self, Dump, attributes},
};
use crate::error::Result;

const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `struct ifaddrmsg`.
const HEADER: usize = 8;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface's number.
    pub ifindex: u32,
    /// Our own address, not the peer's.
    pub ip: IpAddr,
    /// How many of its bits are the network's.
    pub prefix_len: u8,
}

impl InterfaceAddress {
    pub(super) fn parse_into(all: &mut Vec<Self>, message: &[u8]) {
        all.extend(Self::parse(message));
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let (header, rest) = message.split_at_checked(HEADER)?;
        let (mut address, mut local) = (None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                // On a point-to-point link this is the peer's.
                IFA_ADDRESS => address = netlink::parse_ip(value),
                IFA_LOCAL => local = netlink::parse_ip(value),
                _ => {}
            }
        }
        Some(Self {
            ifindex: netlink::parse_u32(header.get(4..)?)?,
            ip: local.or(address)?,
            prefix_len: *header.get(1)?,
        })
    }
}

impl Snapshot {
    /// The addresses in the exporter's own network namespace, each once.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>> {
        let dump = Dump {
            name: "RTM_GETADDR",
            protocol: None,
            message_type: RTM_GETADDR,
            body: &[0; HEADER],
        };
        let mut addresses = dump.fold(self.deadline(), InterfaceAddress::parse_into)?;
        // One address can lead to several peers.
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn a_point_to_point_link_has_its_own_address_not_the_peers() {
        let message = "02200000 07000000 08000100 0a000002 08000200 0a000001";
        let address = InterfaceAddress::parse(&netlink::hex(message)).unwrap();
        let expected = InterfaceAddress {
            ifindex: 7,
            ip: [10, 0, 0, 1].into(),
            prefix_len: 32,
        };
        assert_eq!(address, expected);
    }

    #[test]
    fn an_ipv6_address_stands_alone() {
        let message = "0a400000 02000000 14000100 fe80000000000000 00000000000000fe";
        let address = InterfaceAddress::parse(&netlink::hex(message)).unwrap();
        assert_eq!(address.ip.to_string(), "fe80::fe");
        assert_eq!(
            InterfaceAddress::parse(&netlink::hex("0a400000 02000000")),
            None
        );
    }
}
