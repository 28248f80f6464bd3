//! Connection tracking: entries and limit from
//! `/proc/sys/net/netfilter/nf_conntrack_{count,max}`, documented in the kernel's
//! `networking/nf_conntrack-sysctl.rst`, and statistics from `/proc/net/stat/nf_conntrack`,
//! documented in `conntrack(8)` under `--stats`.
//!
//! The columns of the statistics have changed position and name between kernels, so they are
//! looked up by name: a column that a kernel has removed is missing and never confused with
//! another one.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Snapshot, Text},
};

use super::lnstat;

metrics! {
    /// Number of currently allocated flow entries for connection tracking.
    ENTRIES: Gauge = "node_nf_conntrack_entries" [];
    /// Maximum size of the connection tracking table; packets of further connections are dropped.
    ENTRIES_LIMIT: Gauge = "node_nf_conntrack_entries_limit" [];
    /// Successful lookups (a counter despite its type).
    STAT_FOUND: Gauge = "node_nf_conntrack_stat_found" [];
    /// Packets that could not be tracked (a counter despite its type).
    STAT_INVALID: Gauge = "node_nf_conntrack_stat_invalid" [];
    /// Packets of connections that need no tracking (a counter despite its type); always 0 on newer
    /// kernels.
    STAT_IGNORE: Gauge = "node_nf_conntrack_stat_ignore" [];
    /// Entries inserted into the table (a counter despite its type).
    STAT_INSERT: Gauge = "node_nf_conntrack_stat_insert" [];
    /// Insertions that failed, mostly because the entry already existed (a counter despite its
    /// type).
    STAT_INSERT_FAILED: Gauge = "node_nf_conntrack_stat_insert_failed" [];
    /// Packets dropped because the table was full or memory was short (a counter despite its type).
    STAT_DROP: Gauge = "node_nf_conntrack_stat_drop" [];
    /// Entries evicted early to make room for new ones (a counter despite its type).
    STAT_EARLY_DROP: Gauge = "node_nf_conntrack_stat_early_drop" [];
    /// Lookups restarted because the table was resized (a counter despite its type).
    STAT_SEARCH_RESTART: Gauge = "node_nf_conntrack_stat_search_restart" [];
}

#[derive(Debug)]
pub(super) struct Conntrack;

impl Collector for Conntrack {
    const NAME: &'static str = "conntrack";
    const ABOUT: &'static str = "tracked connections";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let dir = snapshot.proc_dir("sys/net/netfilter")?;
        let mut out = Families::default();
        out.add(
            &ENTRIES,
            [],
            dir.read_number::<Value>("nf_conntrack_count")?,
        );
        if let Some(limit) = out.ok_or_skip(dir.read_number::<Value>("nf_conntrack_max")) {
            out.add(&ENTRIES_LIMIT, [], limit);
        }
        if let Some(stat) = out.ok_or_skip(snapshot.read_proc("net/stat/nf_conntrack")) {
            add_stat(&mut out, &stat);
        }
        Ok(out)
    }
}

fn add_stat(out: &mut Families, stat: &Text) {
    let names: Vec<_> = lnstat::column_names(stat).collect();
    // All CPUs or nothing: an incomplete sum would be wrong.
    let sums = sum_columns(stat, names.len());
    for (name, sum) in names.iter().zip(out.ok_or_skip(sums).unwrap_or_default()) {
        if let Some(metric) = metric(name) {
            out.add(metric, [], sum);
        }
    }
}

fn metric(column: &str) -> Option<&'static Metric<0>> {
    Some(match column {
        "found" => &STAT_FOUND,
        "invalid" => &STAT_INVALID,
        "ignore" => &STAT_IGNORE,
        "insert" => &STAT_INSERT,
        "insert_failed" => &STAT_INSERT_FAILED,
        "drop" => &STAT_DROP,
        "early_drop" => &STAT_EARLY_DROP,
        "search_restart" => &STAT_SEARCH_RESTART,
        _ => return None,
    })
}

fn sum_columns(stat: &Text, columns: usize) -> Result<Vec<u64>> {
    let mut sums = vec![0_u64; columns];
    for row in lnstat::parse_rows(stat, columns) {
        for (sum, count) in sums.iter_mut().zip(row?) {
            *sum = sum.saturating_add(count);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_summed_over_the_cpus() {
        let mut out = Families::default();
        let stat = "entries clashres found insert drop\n10 1 2 ffffffff 4\n10 1 20 1 40\n";
        add_stat(&mut out, &Text::from(stat));
        assert_eq!(
            out.lines(),
            [
                "node_nf_conntrack_stat_found 34",
                "node_nf_conntrack_stat_insert 4294967296",
                "node_nf_conntrack_stat_drop 68",
            ]
        );
    }

    #[test]
    fn incomplete_sum_is_not_exposed() {
        let mut out = Families::default();
        add_stat(&mut out, &Text::from("found drop\n1 2\n3\n"));
        assert!(out.is_empty());
        assert_eq!(out.errors().0, 1);
    }
}
