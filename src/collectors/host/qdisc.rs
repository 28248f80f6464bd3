//! Queueing disciplines of network interfaces, from rtnetlink, documented in `tc(8)`. Only the
//! root qdisc of each interface is exposed: the qdiscs below it, one for each queue of a
//! multiqueue interface, count the same packets again.

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    pattern::{Filter, Pattern},
    sources::{Link, Qdisc, Snapshot},
};

metrics! {
    /// Number of bytes sent.
    BYTES: Counter = "node_qdisc_bytes_total" ["device", "kind"];
    /// Number of packets sent.
    PACKETS: Counter = "node_qdisc_packets_total" ["device", "kind"];
    /// Number of packets dropped.
    DROPS: Counter = "node_qdisc_drops_total" ["device", "kind"];
    /// Number of packets dequeued, not transmitted, and requeued.
    REQUEUES: Counter = "node_qdisc_requeues_total" ["device", "kind"];
    /// Number of packets delayed because a limit was reached.
    OVERLIMITS: Counter = "node_qdisc_overlimits_total" ["device", "kind"];
    /// Number of packets currently in queue to be sent.
    CURRENT_QUEUE_LENGTH: Gauge = "node_qdisc_current_queue_length" ["device", "kind"];
    /// Number of bytes currently in queue to be sent.
    BACKLOG: Gauge = "node_qdisc_backlog" ["device", "kind"];
}

const INCLUDE: &str = "collector.qdisc.device-include";
const EXCLUDE: &str = "collector.qdisc.device-exclude";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct QdiscCollectorFlags {
    /// Regexp of qdisc devices to include (mutually exclusive with device-exclude).
    #[arg(
        long = INCLUDE,
        value_name = "REGEX",
        alias = "collector.qdisk.device-include"
    )]
    qdisc_device_include: Option<Pattern>,
    /// Regexp of qdisc devices to exclude (mutually exclusive with device-include).
    #[arg(
        long = EXCLUDE,
        value_name = "REGEX",
        alias = "collector.qdisk.device-exclude"
    )]
    qdisc_device_exclude: Option<Pattern>,
}

#[derive(Debug)]
pub(super) struct QdiscCollector {
    devices: Filter,
}

impl Collector for QdiscCollector {
    const NAME: &'static str = "qdisc";
    const ABOUT: &'static str = "queueing disciplines of network interfaces";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = QdiscCollectorFlags;

    fn new(flags: QdiscCollectorFlags) -> Result<Self, String> {
        let devices = Filter::new(
            (INCLUDE, flags.qdisc_device_include),
            (EXCLUDE, flags.qdisc_device_exclude),
            "",
        )?;
        Ok(Self { devices })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(self.families(snapshot.links()?, &snapshot.qdiscs()?))
    }
}

impl QdiscCollector {
    fn families(&self, links: &[Link], qdiscs: &[Qdisc]) -> Families {
        let mut out = Families::default();
        for qdisc in qdiscs {
            let Some(link) = Link::find(links, qdisc.ifindex) else {
                continue;
            };
            if !self.devices.matches(&link.name) {
                continue;
            }
            let labels = [link.name.as_str(), &qdisc.kind];
            out.add(&BYTES, labels, qdisc.bytes);
            out.add(&PACKETS, labels, qdisc.packets);
            out.add(&DROPS, labels, qdisc.drops);
            out.add(&REQUEUES, labels, qdisc.requeues);
            out.add(&OVERLIMITS, labels, qdisc.overlimits);
            out.add(&CURRENT_QUEUE_LENGTH, labels, qdisc.qlen);
            out.add(&BACKLOG, labels, qdisc.backlog);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_or_removed_interface_is_skipped() {
        let link = |ifindex, name: &str| Link {
            ifindex,
            name: name.to_owned(),
            ..Link::default()
        };
        let qdisc = |ifindex| Qdisc {
            ifindex,
            kind: "fq".to_owned(),
            bytes: 1,
            packets: 2,
            drops: 3,
            requeues: 4,
            overlimits: 5,
            qlen: 6,
            backlog: 7,
        };
        let devices = Filter::new((INCLUDE, None), (EXCLUDE, "^lo$".parse().ok()), "");
        let qdiscs = QdiscCollector {
            devices: devices.unwrap(),
        };
        let links = [link(1, "lo"), link(2, "eth0")];
        let out = qdiscs.families(&links, &[qdisc(1), qdisc(2), qdisc(3)]);
        assert_eq!(
            out.lines(),
            [
                r#"node_qdisc_bytes_total{device="eth0",kind="fq"} 1"#,
                r#"node_qdisc_packets_total{device="eth0",kind="fq"} 2"#,
                r#"node_qdisc_drops_total{device="eth0",kind="fq"} 3"#,
                r#"node_qdisc_requeues_total{device="eth0",kind="fq"} 4"#,
                r#"node_qdisc_overlimits_total{device="eth0",kind="fq"} 5"#,
                r#"node_qdisc_current_queue_length{device="eth0",kind="fq"} 6"#,
                r#"node_qdisc_backlog{device="eth0",kind="fq"} 7"#,
            ]
        );
    }
}
