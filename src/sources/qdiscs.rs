//! Queueing disciplines of network interfaces, from rtnetlink, documented in `rtnetlink(7)`,
//! `linux/pkt_sched.h` and `linux/gen_stats.h`.

use super::{
    Snapshot,
    netlink::{self, Dump, attributes},
};
use crate::error::Result;

const RTM_GETQDISC: u16 = 38;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;
/// `struct tcmsg`.
const HEADER: usize = 20;

/// Root queueing discipline of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qdisc {
    /// Interface index.
    pub ifindex: u32,
    /// Its kind, such as `fq_codel`.
    pub kind: String,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Queued packets.
    pub qlen: u32,
    /// Queued bytes.
    pub backlog: u32,
    /// Packets dropped.
    pub drops: u32,
    /// Packets requeued.
    pub requeues: u32,
    /// Number of times the limit was exceeded.
    pub overlimits: u32,
}

impl Qdisc {
    pub(super) fn parse_into(all: &mut Vec<Self>, message: &[u8]) {
        all.extend(Self::parse(message));
    }

    /// Parses root disciplines only: children count the same packets again.
    fn parse(message: &[u8]) -> Option<Self> {
        let (header, rest) = message.split_at_checked(HEADER)?;
        if netlink::parse_u32(header.get(12..)?)? != TC_H_ROOT {
            return None;
        }
        let mut qdisc = Self {
            ifindex: netlink::parse_u32(header.get(4..)?)?,
            ..Self::default()
        };
        let mut has_stats = false;
        for (kind, value) in attributes(rest) {
            match kind {
                TCA_KIND => qdisc.kind = netlink::parse_string(value),
                TCA_STATS2 => has_stats = qdisc.parse_stats(value).is_some(),
                _ => {}
            }
        }
        has_stats.then_some(qdisc)
    }

    fn parse_stats(&mut self, stats: &[u8]) -> Option<()> {
        let find = |expected| attributes(stats).find(|(kind, _)| *kind == expected);
        let (_, basic) = find(TCA_STATS_BASIC)?;
        self.bytes = netlink::parse_u64(basic)?;
        // Since Linux 5.5. Before, or if the value would be the same, only a 32-bit counter is
        // reported.
        self.packets = match find(TCA_STATS_PKT64) {
            Some((_, packets)) => netlink::parse_u64(packets)?,
            None => netlink::parse_u32(basic.get(8..)?)?.into(),
        };
        let (_, queue) = find(TCA_STATS_QUEUE)?;
        let mut fields = queue.chunks_exact(4).map_while(netlink::parse_u32);
        self.qlen = fields.next()?;
        self.backlog = fields.next()?;
        self.drops = fields.next()?;
        self.requeues = fields.next()?;
        self.overlimits = fields.next()?;
        Some(())
    }
}

impl Snapshot {
    /// Returns the root queueing disciplines in the exporter's network namespace, sorted by
    /// interface index.
    pub fn qdiscs(&self) -> Result<Vec<Qdisc>> {
        let dump = Dump {
            name: "RTM_GETQDISC",
            protocol: None,
            message_type: RTM_GETQDISC,
            body: &[0; HEADER],
        };
        let mut qdiscs = dump.fold(self.deadline(), Qdisc::parse_into)?;
        qdiscs.sort_by_key(|qdisc| qdisc.ifindex);
        qdiscs.dedup_by_key(|qdisc| qdisc.ifindex);
        Ok(qdiscs)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const TC_HEADER: &str = "00000000 04000000 00000000 ffffffff 02000000 07000100 66710000";
    const BASIC: &str = "14000100 0001000000000000 07000000 00000000";
    const QUEUE: &str = "18000300 01000000 02000000 03000000 04000000 05000000";

    #[test]
    fn each_counter_fills_its_field() {
        let message = format!("{TC_HEADER} 30000700 {BASIC} {QUEUE}");
        let qdisc = Qdisc::parse(&netlink::hex(&message)).unwrap();
        let expected = Qdisc {
            ifindex: 4,
            kind: "fq".to_owned(),
            bytes: 256,
            packets: 7,
            qlen: 1,
            backlog: 2,
            drops: 3,
            requeues: 4,
            overlimits: 5,
        };
        assert_eq!(qdisc, expected);
    }

    #[test]
    fn packets_are_counted_beyond_32_bits() {
        let message = format!("{TC_HEADER} 3c000700 {BASIC} 0c000800 0800000001000000 {QUEUE}");
        let qdisc = Qdisc::parse(&netlink::hex(&message)).unwrap();
        assert_eq!(qdisc.packets, (1 << 32) + 8);
    }

    #[test]
    fn qdiscs_without_counters_or_root_are_skipped() {
        let parse = |message: &str| Qdisc::parse(&netlink::hex(message));
        assert_eq!(parse(TC_HEADER), None);
        let child = format!("{TC_HEADER} 30000700 {BASIC} {QUEUE}").replace("ffffffff", "01000000");
        assert_eq!(parse(&child), None);
    }
}
