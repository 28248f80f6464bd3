//! IP addresses of network interfaces, from rtnetlink, documented in `rtnetlink(7)` and
//! `linux/if_addr.h`.

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

/// An IP address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// Interface index.
    pub ifindex: u32,
    /// The local address, not the peer's.
    pub ip: IpAddr,
    /// Length of the network prefix in bits.
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
                // On a point-to-point link, this is the peer's address.
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
    /// Returns the addresses in the exporter's network namespace, without duplicates.
    pub fn addresses(&self) -> Result<Vec<InterfaceAddress>> {
        let dump = Dump {
            name: "RTM_GETADDR",
            protocol: None,
            message_type: RTM_GETADDR,
            body: &[0; HEADER],
        };
        let mut addresses = dump.fold(self.deadline(), InterfaceAddress::parse_into)?;
        // An address with several peers is listed once per peer.
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn point_to_point_address_is_the_local_one() {
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
    fn ipv6_address_needs_no_local_attribute() {
        let message = "0a400000 02000000 14000100 fe80000000000000 00000000000000fe";
        let address = InterfaceAddress::parse(&netlink::hex(message)).unwrap();
        assert_eq!(address.ip.to_string(), "fe80::fe");
        assert_eq!(
            InterfaceAddress::parse(&netlink::hex("0a400000 02000000")),
            None
        );
    }
}
