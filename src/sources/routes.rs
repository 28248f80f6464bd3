//! Routing tables, from rtnetlink, documented in `rtnetlink(7)` and `linux/rtnetlink.h`.

use std::net::IpAddr;

use rustix::net::AddressFamily;

use super::{
    Snapshot,
    netlink::{self, Dump, aligned, attributes},
};
use crate::error::Result;

const RTM_GETROUTE: u16 = 26;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
/// `struct rtmsg`.
const HEADER: usize = 12;
/// `struct rtnexthop`.
const NEXT_HOP_HEADER: usize = 8;

/// One next hop to one destination; a multipath route becomes several of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network; `None` for the default route.
    pub destination: Option<(IpAddr, u8)>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Gateway; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub ifindex: u32,
    /// Metric; the lowest is preferred.
    pub priority: u32,
    /// Origin of the route; see [`Route::protocol_name`].
    pub protocol: u8,
    /// Weight of the next hop in a multipath route.
    pub weight: Option<u16>,
}

impl Route {
    /// Returns the origin of the route by its name in iproute2's `rt_protos`.
    #[must_use]
    pub fn protocol_name(&self) -> &'static str {
        match self.protocol {
            0 => "unspec",
            1 => "redirect",
            2 => "kernel",
            3 => "boot",
            4 => "static",
            8 => "gated",
            9 => "ra",
            10 => "mrt",
            11 => "zebra",
            12 => "bird",
            13 => "dnrouted",
            14 => "xorp",
            15 => "ntk",
            16 => "dhcp",
            17 => "mrouted",
            42 => "babel",
            186 => "bgp",
            187 => "isis",
            188 => "ospf",
            189 => "rip",
            192 => "eigrp",
            _ => "unknown",
        }
    }

    pub(super) fn parse_into(all: &mut Vec<Self>, message: &[u8]) {
        Self::try_parse_into(all, message).unwrap_or_default();
    }

    /// Adds the routes of a message, unless it is of a family other than IP or not a unicast
    /// route.
    fn try_parse_into(all: &mut Vec<Self>, message: &[u8]) -> Option<()> {
        let (header, rest) = message.split_at_checked(HEADER)?;
        let [family, dst_len, _, _, _, protocol, _, kind] = *header.first_chunk()?;
        let ip = [AddressFamily::INET, AddressFamily::INET6];
        if kind != RTN_UNICAST || !ip.map(AddressFamily::as_raw).contains(&family.into()) {
            return None;
        }
        let mut route = Self {
            destination: None,
            source: None,
            gateway: None,
            ifindex: 0,
            priority: 0,
            protocol,
            weight: None,
        };
        let mut hops = None;
        for (kind, value) in attributes(rest) {
            match kind {
                RTA_DST if dst_len > 0 => {
                    route.destination = Some((netlink::parse_ip(value)?, dst_len));
                }
                RTA_OIF => route.ifindex = netlink::parse_u32(value)?,
                RTA_GATEWAY => route.gateway = netlink::parse_ip(value),
                RTA_VIA => route.gateway = value.get(2..).and_then(netlink::parse_ip),
                RTA_PRIORITY => route.priority = netlink::parse_u32(value)?,
                RTA_PREFSRC => route.source = netlink::parse_ip(value),
                RTA_MULTIPATH => hops = Some(value),
                _ => {}
            }
        }
        // A destination that cannot be parsed must not become the default route.
        if dst_len > 0 && route.destination.is_none() {
            return None;
        }
        match hops {
            None => all.push(route),
            Some(hops) => all.extend(NextHops(hops).map(|hop| route.with_next_hop(hop))),
        }
        Some(())
    }

    fn with_next_hop(self, (ifindex, hops, gateway): NextHop) -> Self {
        Self {
            ifindex,
            gateway,
            weight: Some(u16::from(hops) + 1),
            ..self
        }
    }
}

/// Interface index, weight minus one, gateway.
type NextHop = (u32, u8, Option<IpAddr>);

/// The next hops of a multipath route.
#[derive(Debug)]
struct NextHops<'a>(&'a [u8]);

impl Iterator for NextHops<'_> {
    type Item = NextHop;

    fn next(&mut self) -> Option<NextHop> {
        let hop = self.0.get(..usize::from(netlink::parse_u16(self.0)?))?;
        let (header, rest) = hop.split_at_checked(NEXT_HOP_HEADER)?;
        self.0 = self.0.get(aligned(hop.len())..).unwrap_or_default();
        let gateway = attributes(rest).find_map(|(kind, value)| match kind {
            RTA_GATEWAY => netlink::parse_ip(value),
            RTA_VIA => value.get(2..).and_then(netlink::parse_ip),
            _ => None,
        });
        Some((
            netlink::parse_u32(header.get(4..)?)?,
            *header.get(3)?,
            gateway,
        ))
    }
}

impl Snapshot {
    /// Returns the IP unicast routes of all tables in the exporter's network namespace.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let dump = Dump {
            name: "RTM_GETROUTE",
            protocol: None,
            message_type: RTM_GETROUTE,
            body: &[0; HEADER],
        };
        dump.fold(self.deadline(), Route::parse_into)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn parse(message: &str) -> Vec<Route> {
        let mut all = Vec::new();
        Route::try_parse_into(&mut all, &netlink::hex(message)).unwrap_or_default();
        all
    }

    #[test]
    fn default_route_has_gateway_and_no_destination() {
        let header = "02000000 fe100001 00000000";
        let rest = "08000500 0a000001 08000400 03000000 08000600 64000000 08000700 0a000005";
        let all = parse(&format!("{header} {rest}"));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].destination, None);
        assert_eq!(all[0].gateway, Some([10, 0, 0, 1].into()));
        assert_eq!(all[0].source, Some([10, 0, 0, 5].into()));
        assert_eq!((all[0].ifindex, all[0].priority), (3, 100));
        assert_eq!((all[0].protocol_name(), all[0].weight), ("dhcp", None));
    }

    #[test]
    fn next_hops_have_their_own_gateway_and_weight() {
        let header = "02180000 fe040001 00000000 08000100 0a010200";
        let hops =
            "24000900 10000002 05000000 08000500 0a000001 10000000 06000000 08000500 0a000002";
        let all = parse(&format!("{header} {hops}"));
        let next_hops: Vec<_> = all.iter().map(|r| (r.ifindex, r.weight)).collect();
        assert_eq!(next_hops, [(5, Some(3)), (6, Some(1))]);
        assert_eq!(all[1].destination, Some(([10, 1, 2, 0].into(), 24)));
        assert_eq!(all[1].gateway, Some([10, 0, 0, 2].into()));
    }

    #[test]
    fn non_unicast_routes_are_skipped() {
        assert_eq!(parse("02200000 ff020002 00000000 08000100 7f000001"), []);
        assert_eq!(parse("1c140000 fe040001 00000000"), []);
        // Destination too short for an address.
        assert_eq!(parse("02180000 fe040001 00000000 06000100 0a010000"), []);
    }
}
