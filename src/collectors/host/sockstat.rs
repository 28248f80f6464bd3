//! Sockets in use by protocol, from `/proc/net/sockstat` and `/proc/net/sockstat6`,
//! documented in `proc_pid_net(5)`.
//!
//! `mem` is in pages, and exposed as such and in bytes; `memory`, of fragments, is in
//! bytes already.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Sockets of every kind that processes hold.
    USED: Gauge = "node_sockstat_sockets_used" [];
    /// Sockets of * in use; for FRAG and FRAG6, packets that are being put together from fragments.
    INUSE: Gauge = "node_sockstat_*_inuse" [];
    /// Sockets of * that no process holds any more and that are not yet closed.
    ORPHAN: Gauge = "node_sockstat_*_orphan" [];
    /// Sockets of * that are waiting out the time after a close.
    TW: Gauge = "node_sockstat_*_tw" [];
    /// Sockets of * that the kernel has memory for, whatever their state.
    ALLOC: Gauge = "node_sockstat_*_alloc" [];
    /// Memory held by buffers of * sockets, in pages.
    MEM: Gauge = "node_sockstat_*_mem" [];
    /// Memory held by buffers of * sockets, in bytes.
    MEM_BYTES: Gauge = "node_sockstat_*_mem_bytes" [];
    /// Memory held by packets of * that are being put together, in bytes.
    MEMORY: Gauge = "node_sockstat_*_memory" [];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct SockStat;

impl Collector for SockStat {
    const NAME: &'static str = "sockstat";
    const ABOUT: &'static str = "sockets in use by protocol";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let page = rustix::param::page_size() as u64;
        let mut out = Families::default();
        add_sockstat(&mut out, &snapshot.read_proc("net/sockstat")?, page);
        // Absent where IPv6 is off.
        if let Some(sockstat6) = out.ok_or_skip(snapshot.read_proc("net/sockstat6")) {
            add_sockstat(&mut out, &sockstat6, page);
        }
        Ok(out)
    }
}

fn add_sockstat(out: &mut Families, text: &Text, page: u64) {
    for mut fields in text.lines() {
        let Some(protocol) = fields.next_word() else {
            continue;
        };
        let protocol = protocol.trim_end_matches(':');
        while let Some(name) = fields.next_word() {
            let amount = parse_amount(&mut fields, protocol, name);
            let Some((metric, amount)) = out.ok_or_skip(amount) else {
                continue;
            };
            match metric {
                Amount::Used => out.add(&USED, [], amount),
                Amount::PerProtocol(metric) => out.add_named(metric, protocol, [], amount),
                Amount::Pages => {
                    out.add_named(&MEM, protocol, [], amount);
                    out.add_named(&MEM_BYTES, protocol, [], Value::product(amount, page));
                }
            }
        }
    }
}

/// What a number is an amount of.
enum Amount {
    /// Of all sockets.
    Used,
    /// Of what the metric says.
    PerProtocol(&'static Metric<0>),
    /// Of pages.
    Pages,
}

fn parse_amount(fields: &mut Fields<'_>, protocol: &str, name: &str) -> Result<(Amount, u64)> {
    let amount = fields.parse(name)?;
    let metric = match name {
        "used" if protocol == "sockets" => Amount::Used,
        "inuse" => Amount::PerProtocol(&INUSE),
        "orphan" => Amount::PerProtocol(&ORPHAN),
        "tw" => Amount::PerProtocol(&TW),
        "alloc" => Amount::PerProtocol(&ALLOC),
        "mem" => Amount::Pages,
        "memory" => Amount::PerProtocol(&MEMORY),
        _ => return Err(fields.error(format_args!("{protocol} has an unknown {name:?}"))),
    };
    Ok((metric, amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_also_exposed_as_bytes() {
        let mut out = Families::default();
        let text = Text::from("sockets: used 9\nTCP: inuse 1 mem 3\nFRAG: inuse 2 memory 77\n");
        add_sockstat(&mut out, &text, 65536);
        assert_eq!(
            out.lines(),
            [
                "node_sockstat_sockets_used 9",
                "node_sockstat_TCP_inuse 1",
                "node_sockstat_TCP_mem 3",
                "node_sockstat_TCP_mem_bytes 196608",
                "node_sockstat_FRAG_inuse 2",
                "node_sockstat_FRAG_memory 77",
            ]
        );
    }

    #[test]
    fn unknown_field_is_skipped() {
        let mut out = Families::default();
        let text = Text::from("TCP: inuse 1 novel 5 tw x\nUDP: inuse 2 mem\n");
        add_sockstat(&mut out, &text, 4096);
        assert_eq!(
            out.lines(),
            ["node_sockstat_TCP_inuse 1", "node_sockstat_UDP_inuse 2"]
        );
        assert_eq!(out.errors().0, 3);
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, r#"test:1: TCP has an unknown "novel""#);
    }
}
