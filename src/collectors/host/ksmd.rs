//! Kernel samepage merging (KSM), from `/sys/kernel/mm/ksm`, documented in
//! `Documentation/admin-guide/mm/ksm.rst`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Full scans of all mergeable memory.
    FULL_SCANS: Counter = "node_ksmd_full_scans_total" [];
    /// Bytes saved by merging minus the memory used for it; negative if merging does not pay off.
    GENERAL_PROFIT_BYTES: Gauge = "node_ksmd_general_profit_bytes" [];
    /// Whether pages of different NUMA nodes are merged.
    MERGE_ACROSS_NODES: Gauge = "node_ksmd_merge_across_nodes" [];
    /// Shared pages in use.
    PAGES_SHARED: Gauge = "node_ksmd_pages_shared" [];
    /// Sites that share the shared pages, i.e. the number of pages saved.
    PAGES_SHARING: Gauge = "node_ksmd_pages_sharing" [];
    /// Pages to scan before the daemon sleeps.
    PAGES_TO_SCAN: Gauge = "node_ksmd_pages_to_scan" [];
    /// Pages that are unique but repeatedly checked for merging.
    PAGES_UNSHARED: Gauge = "node_ksmd_pages_unshared" [];
    /// Pages that change too fast to be merged.
    PAGES_VOLATILE: Gauge = "node_ksmd_pages_volatile" [];
    /// Daemon state: stopped (0), running (1), or stopped with all pages unmerged (2).
    RUN: Gauge = "node_ksmd_run" [];
    /// Seconds the daemon sleeps between scans.
    SLEEP_SECONDS: Gauge = "node_ksmd_sleep_seconds" [];
}

/// Files whose values are exposed unchanged.
const FILES: [(&str, &Metric<0>); 9] = [
    ("full_scans", &FULL_SCANS),
    ("general_profit", &GENERAL_PROFIT_BYTES),
    ("merge_across_nodes", &MERGE_ACROSS_NODES),
    ("pages_shared", &PAGES_SHARED),
    ("pages_sharing", &PAGES_SHARING),
    ("pages_to_scan", &PAGES_TO_SCAN),
    ("pages_unshared", &PAGES_UNSHARED),
    ("pages_volatile", &PAGES_VOLATILE),
    ("run", &RUN),
];

#[derive(Debug)]
pub(super) struct Ksmd;

impl Collector for Ksmd {
    const NAME: &'static str = "ksmd";
    const ABOUT: &'static str = "kernel samepage merging (KSM)";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let ksm = snapshot.sys_dir("kernel/mm/ksm")?;
        for (file, metric) in FILES {
            let value = ksm.read_number::<Value>(file);
            if let Some(value) = out.ok_or_skip(value) {
                out.add(metric, [], value);
            }
        }
        let sleep = ksm.read_number("sleep_millisecs");
        if let Some(milliseconds) = out.ok_or_skip(sleep) {
            out.add(&SLEEP_SECONDS, [], Value::quotient(milliseconds, 1000));
        }
        Ok(out)
    }
}
