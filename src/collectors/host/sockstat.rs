//! Sockets in use by protocol, from `/proc/net/sockstat` and `/proc/net/sockstat6`, documented
//! in `proc_pid_net(5)`.
//!
//! `mem` is in pages and is exposed in pages and in bytes; `memory`, of fragments, is already in
//! bytes.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Number of sockets in use.
    USED: Gauge = "node_sockstat_sockets_used" [];
    /// Number of * sockets in state inuse; for FRAG and FRAG6, packets being reassembled.
    INUSE: Gauge = "node_sockstat_*_inuse" [];
    /// Number of * sockets in state orphan, i.e. without a process but not yet closed.
    ORPHAN: Gauge = "node_sockstat_*_orphan" [];
    /// Number of * sockets in state tw (TIME_WAIT).
    TW: Gauge = "node_sockstat_*_tw" [];
    /// Number of * sockets in state alloc, i.e. allocated in any state.
    ALLOC: Gauge = "node_sockstat_*_alloc" [];
    /// Memory used by buffers of * sockets, in pages.
    MEM: Gauge = "node_sockstat_*_mem" [];
    /// Memory used by buffers of * sockets, in bytes.
    MEM_BYTES: Gauge = "node_sockstat_*_mem_bytes" [];
    /// Memory used by * packets being reassembled, in bytes.
    MEMORY: Gauge = "node_sockstat_*_memory" [];
}

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
        // Missing if IPv6 is disabled.
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

/// Meaning of a number in the file.
enum Amount {
    /// Sockets of all protocols.
    Used,
    /// The value of the given metric.
    PerProtocol(&'static Metric<0>),
    /// Buffer memory in pages.
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
        _ => return Err(fields.error(format_args!("unknown field {name:?} of {protocol}"))),
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
        assert_eq!(reason, r#"test:1: unknown field "novel" of TCP"#);
    }
}
