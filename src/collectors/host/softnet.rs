//! Processing of received packets by CPU, from `/proc/net/softnet_stat`, documented in the
//! kernel's `networking/scaling.rst`; the columns are documented only by
//! `net/core/net-procfs.c`.
//!
//! The file has no column names: kernels append columns, and the thirteenth is the CPU number.
//! On kernels without this column lines are numbered instead, which is undetectably wrong if a
//! CPU is offline.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Number of processed packets.
    PROCESSED: Counter = "node_softnet_processed_total" ["cpu"];
    /// Number of dropped packets because the backlog was full (net.core.netdev_max_backlog).
    DROPPED: Counter = "node_softnet_dropped_total" ["cpu"];
    /// Number of times processing packets ran out of quota or time (net.core.netdev_budget).
    TIMES_SQUEEZED: Counter = "node_softnet_times_squeezed_total" ["cpu"];
    /// Number of collisions on the transmit lock; always 0 on newer kernels.
    CPU_COLLISION: Counter = "node_softnet_cpu_collision_total" ["cpu"];
    /// Number of times the CPU was woken up by another CPU to process packets (RPS).
    RECEIVED_RPS: Counter = "node_softnet_received_rps_total" ["cpu"];
    /// Number of times the flow limit has been reached.
    FLOW_LIMIT_COUNT: Counter = "node_softnet_flow_limit_count_total" ["cpu"];
    /// Packets in the CPU's backlog.
    BACKLOG_LEN: Gauge = "node_softnet_backlog_len" ["cpu"];
}

const CPU_COLUMN: usize = 12;

#[derive(Debug)]
pub(super) struct SoftNet;

impl Collector for SoftNet {
    const NAME: &'static str = "softnet";
    const ABOUT: &'static str = "packets received by each CPU";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("net/softnet_stat")?))
    }
}

fn families(text: &Text) -> Families {
    let mut out = Families::default();
    for (number, line) in text.lines().enumerate() {
        let columns = parse_columns(line);
        let Some(columns) = out.ok_or_skip(columns) else {
            continue;
        };
        let cpu = columns.get(CPU_COLUMN).copied().unwrap_or(number as u64);
        let mut buffer = itoa::Buffer::new();
        let cpu = buffer.format(cpu);
        let mut counter = |metric: &'static Metric<1>, at: usize| {
            if let Some(count) = columns.get(at) {
                out.add(metric, [cpu], *count);
            }
        };
        counter(&PROCESSED, 0);
        counter(&DROPPED, 1);
        counter(&TIMES_SQUEEZED, 2);
        // The columns between are unused; they once counted fast routes.
        counter(&CPU_COLLISION, 8);
        counter(&RECEIVED_RPS, 9);
        counter(&FLOW_LIMIT_COUNT, 10);
        counter(&BACKLOG_LEN, 11);
    }
    out
}

/// Parses all columns; fails if one is malformed, because columns are identified by position
/// only.
fn parse_columns(mut line: Fields<'_>) -> Result<Vec<u64>> {
    let mut columns = Vec::with_capacity(16);
    while let Some(word) = line.next_word() {
        columns.push(line.parse_hex(word, "column")?);
    }
    if columns.len() < 9 {
        return Err(line.error("too few columns"));
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_have_fewer_columns() {
        for (columns, expected) in [(9, 4), (10, 5), (11, 6), (13, 7), (15, 7)] {
            let line: Vec<_> = (0..columns).map(|i| format!("{:08x}", 16 + i)).collect();
            let out = families(&Text::from(line.join(" ").as_str()));
            assert_eq!(out.iter().count(), expected, "{columns} columns");
        }
    }

    #[test]
    fn offline_cpu_leaves_a_gap_if_cpu_column_exists() {
        let rest = "0 0 0 0 0 0 0 0 0 0 0";
        let text = Text::from(format!("1f {rest} 0\n2f {rest} 2\n").as_str());
        let lines = families(&text).lines();
        assert_eq!(lines[0], r#"node_softnet_processed_total{cpu="0"} 31"#);
        assert_eq!(lines[1], r#"node_softnet_processed_total{cpu="2"} 47"#);
        let old = Text::from("1f 0 0 0 0 0 0 0 0\n2f 0 0 0 0 0 0 0 0\n");
        let lines = families(&old).lines();
        assert_eq!(lines[1], r#"node_softnet_processed_total{cpu="1"} 47"#);
    }

    #[test]
    fn malformed_line_is_skipped() {
        let text = Text::from("1 2\n1 2 3 4 5 6 7 8 x\n1f 0 0 0 0 0 0 0 0\n");
        let out = families(&text);
        assert_eq!(
            out.lines()[0],
            r#"node_softnet_processed_total{cpu="2"} 31"#
        );
        assert_eq!(out.errors().0, 2);
    }
}
