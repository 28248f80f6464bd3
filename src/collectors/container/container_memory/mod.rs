//! Memory of containers: `memory.stat` and the files beside it, documented in
//! `Documentation/admin-guide/cgroup-v1/memory.rst` and `cgroup-v2.rst`.
//!
//! Values that a version or kernel does not report are absent, where cAdvisor exposes 0.
//!
//! Page faults need a decision about their label. cAdvisor exposes one number both as scope
//! `container` and as `hierarchy`. Version 1 has two numbers, and each is exposed under its own
//! scope. Version 2 has only the number of the hierarchy. If the cgroup is a container, it is
//! exposed as `container`, too, because everything that runs in a container belongs to it and
//! dashboards select that scope. For slices and services, where it could be wrong, it is not.
//!
//! OOM kills are counted here because they come from the same files.

mod oom;

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{
        Snapshot,
        cgroup::{CgroupMemory, MemoryLimits},
        workloads::Workload,
    },
};
use oom::OomKills;

metrics! {
    /// Memory charged to the cgroup: anonymous memory, page cache and kernel memory.
    USAGE: Gauge = "container_memory_usage_bytes" base CGROUP [];
    /// Memory usage less inactive page cache; Kubernetes evicts by this value.
    WORKING_SET: Gauge = "container_memory_working_set_bytes" base CGROUP [];
    /// Anonymous memory in bytes; with cgroup version 1 without shared memory. Not the RSS of the
    /// processes, which includes mapped files.
    RSS: Gauge = "container_memory_rss" base CGROUP [];
    /// Page cache in bytes, including tmpfs and shared memory.
    CACHE: Gauge = "container_memory_cache" base CGROUP [];
    /// Swap usage in bytes.
    SWAP: Gauge = "container_memory_swap" base CGROUP [];
    /// Page cache mapped into processes, in bytes.
    MAPPED_FILE: Gauge = "container_memory_mapped_file" base CGROUP [];
    /// Kernel memory in bytes: stacks, page tables, slabs, socket buffers; absent with cgroup
    /// version 2 before Linux 5.18.
    KERNEL_USAGE: Gauge = "container_memory_kernel_usage" base CGROUP [];
    /// Maximum memory usage in bytes; absent with cgroup version 2 before Linux 5.19.
    MAX_USAGE: Gauge = "container_memory_max_usage_bytes" base CGROUP [];
    /// Times that memory usage reached the limit; some kernels leave it at 0 with cgroup version 1
    /// even when tasks are killed.
    FAILCNT: Counter = "container_memory_failcnt" base CGROUP [];
    /// Active page cache in bytes.
    ACTIVE_FILE: Gauge = "container_memory_total_active_file_bytes" base CGROUP [];
    /// Inactive page cache in bytes, which is reclaimed first.
    INACTIVE_FILE: Gauge = "container_memory_total_inactive_file_bytes" base CGROUP [];
    /// Page faults; pgmajfault are those that waited for a disk. The scope hierarchy includes child
    /// cgroups, as does container with cgroup version 2, which has it for containers only.
    FAILURES: Counter = "container_memory_failures_total" base CGROUP ["failure_type", "scope"];
    /// Times that tasks were throttled and forced to reclaim because memory.high was exceeded;
    /// cgroup version 2 only.
    EVENTS_HIGH: Counter = "container_memory_events_high_total" base CGROUP [];
    /// Times that memory usage was about to exceed memory.max; cgroup version 2 only.
    EVENTS_MAX: Counter = "container_memory_events_max_total" base CGROUP [];
    /// Dirty page cache in bytes.
    FILE_DIRTY: Gauge = "container_memory_file_dirty_bytes" base CGROUP [];
    /// Page cache under writeback in bytes.
    FILE_WRITEBACK: Gauge = "container_memory_file_writeback_bytes" base CGROUP [];
    /// Pages scanned for reclaim; cgroup version 2 only.
    PGSCAN: Counter = "container_memory_pgscan_total" base CGROUP [];
    /// Pages reclaimed; cgroup version 2 only.
    PGSTEAL: Counter = "container_memory_pgsteal_total" base CGROUP [];
    /// Refaults of recently reclaimed file pages: the page cache is too small.
    REFAULT_FILE: Counter = "container_memory_workingset_refault_file_total" base CGROUP [];
    /// Refaults of recently reclaimed anonymous pages.
    REFAULT_ANON: Counter = "container_memory_workingset_refault_anon_total" base CGROUP [];
    /// Memory limit in bytes; absent without a limit.
    LIMIT: Gauge = "container_memory_limit_bytes" base CGROUP [];
    /// Memory usage, including page cache, in percent of the limit; absent without a limit. Page
    /// cache may fill it without harm, the working set may not.
    USAGE_PERCENT: Gauge = "container_memory_usage_percent" base CGROUP [];
    /// Tasks killed by the OOM killer, continued over restarts of a container. Where the count of
    /// the cgroup is lost because its first process was killed, the OOM events of the engine count.
    OOM_EVENTS: Counter = "container_oom_events_total" base CGROUP [];
}

#[derive(Debug)]
pub(super) struct ContainerMemory {
    oom_kills: Mutex<OomKills>,
}

impl Collector for ContainerMemory {
    const NAME: &'static str = "container_memory";
    const ABOUT: &'static str = "memory usage and OOM kills of containers and services";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self {
            oom_kills: Mutex::new(OomKills::new()),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let inventory = snapshot.workloads()?;
        let mut limits = snapshot.memory_limits()?.iter();
        // Held while reading, so that concurrent scrapes never see a count decrease.
        let mut oom_kills = self
            .oom_kills
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        oom_kills.begin_scrape(Instant::now());
        for workload in &inventory.all {
            let mut kernel = None;
            if let Some(group) = &workload.cgroup {
                let limits = limits
                    .next()
                    .and_then(|limits| out.ok_or_skip(limits.clone()));
                if let Some(memory) = out.ok_or_skip(group.memory()) {
                    add_memory(
                        &mut out,
                        base_labels(workload),
                        &memory,
                        is_container(workload),
                    );
                    add_limit(&mut out, base_labels(workload), memory.usage, limits);
                    kernel = memory.oom_kills;
                }
            }
            if let Some(kills) = oom_kills.count(workload, kernel) {
                out.add_with(&OOM_EVENTS, base_labels(workload), [], kills);
            }
        }
        oom_kills.end_scrape(inventory.gone.iter().map(|(workload, _)| &**workload));
        Ok(out)
    }
}

fn is_container(workload: &Workload) -> bool {
    workload.container.is_some() || workload.runtime_id.is_some()
}

fn add_memory(out: &mut Families, base: &BaseLabels, memory: &CgroupMemory, is_container: bool) {
    let mut add_value = |metric: &'static Metric<0>, value: Option<u64>| {
        if let Some(value) = value {
            out.add_with(metric, base, [], value);
        }
    };
    add_value(&USAGE, memory.usage);
    add_value(&WORKING_SET, memory.working_set());
    add_value(&RSS, memory.rss);
    add_value(&CACHE, memory.cache);
    add_value(&SWAP, memory.swap);
    add_value(&MAPPED_FILE, memory.mapped_file);
    add_value(&KERNEL_USAGE, memory.kernel);
    add_value(&MAX_USAGE, memory.max_usage);
    add_value(&FAILCNT, memory.failcnt);
    add_value(&ACTIVE_FILE, memory.active_file);
    add_value(&INACTIVE_FILE, memory.inactive_file);
    add_value(&EVENTS_HIGH, memory.events_high);
    add_value(&EVENTS_MAX, memory.events_max);
    add_value(&FILE_DIRTY, memory.file_dirty);
    add_value(&FILE_WRITEBACK, memory.file_writeback);
    add_value(&PGSCAN, memory.pgscan);
    add_value(&PGSTEAL, memory.pgsteal);
    add_value(&REFAULT_FILE, memory.workingset_refault_file);
    add_value(&REFAULT_ANON, memory.workingset_refault_anon);
    for (failure, own, all) in [
        ("pgfault", memory.own_pgfault, memory.pgfault),
        ("pgmajfault", memory.own_pgmajfault, memory.pgmajfault),
    ] {
        let own = own.or(if is_container { all } else { None });
        for (scope, count) in [("container", own), ("hierarchy", all)] {
            if let Some(count) = count {
                out.add_with(&FAILURES, base, [failure, scope], count);
            }
        }
    }
}

/// Adds the limit and its utilization.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus stores every value as a float anyway"
)]
fn add_limit(
    out: &mut Families,
    base: &BaseLabels,
    usage: Option<u64>,
    limits: Option<MemoryLimits>,
) {
    let Some(limit) = limits.and_then(|limits| limits.limit.flatten()) else {
        return;
    };
    out.add_with(&LIMIT, base, [], limit);
    if let Some(usage) = usage
        && limit > 0
    {
        let percent = usage as f64 / limit as f64 * 100.0;
        out.add_with(&USAGE_PERCENT, base, [], Value::Float(percent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    fn lines(memory: &CgroupMemory, is_container: bool) -> Vec<String> {
        let mut out = Families::default();
        add_memory(&mut out, &family::render_labels([]), memory, is_container);
        out.lines()
    }

    #[test]
    fn each_value_has_its_metric() {
        let memory = CgroupMemory {
            usage: Some(100),
            max_usage: Some(101),
            failcnt: Some(102),
            rss: Some(103),
            cache: Some(104),
            swap: Some(105),
            mapped_file: Some(106),
            kernel: Some(107),
            active_file: Some(108),
            inactive_file: Some(40),
            file_dirty: Some(110),
            file_writeback: Some(111),
            pgfault: None,
            pgmajfault: None,
            own_pgfault: None,
            own_pgmajfault: None,
            pgscan: Some(112),
            pgsteal: Some(113),
            workingset_refault_file: Some(114),
            workingset_refault_anon: Some(115),
            events_high: Some(116),
            events_max: Some(117),
            oom_kills: Some(118),
        };
        assert_eq!(
            lines(&memory, true),
            [
                "container_memory_usage_bytes 100",
                "container_memory_working_set_bytes 60",
                "container_memory_rss 103",
                "container_memory_cache 104",
                "container_memory_swap 105",
                "container_memory_mapped_file 106",
                "container_memory_kernel_usage 107",
                "container_memory_max_usage_bytes 101",
                "container_memory_failcnt 102",
                "container_memory_total_active_file_bytes 108",
                "container_memory_total_inactive_file_bytes 40",
                "container_memory_events_high_total 116",
                "container_memory_events_max_total 117",
                "container_memory_file_dirty_bytes 110",
                "container_memory_file_writeback_bytes 111",
                "container_memory_pgscan_total 112",
                "container_memory_pgsteal_total 113",
                "container_memory_workingset_refault_file_total 114",
                "container_memory_workingset_refault_anon_total 115",
            ]
        );
        assert!(lines(&CgroupMemory::default(), true).is_empty());
    }

    #[test]
    fn own_page_faults_exclude_children() {
        let name = "container_memory_failures_total";
        let memory = CgroupMemory {
            pgfault: Some(40),
            pgmajfault: Some(4),
            own_pgfault: Some(30),
            own_pgmajfault: Some(3),
            ..CgroupMemory::default()
        };
        let sample = |failure: &str, scope: &str, count: u64| {
            format!(r#"{name}{{failure_type="{failure}",scope="{scope}"}} {count}"#)
        };
        let version_1 = [
            sample("pgfault", "container", 30),
            sample("pgfault", "hierarchy", 40),
            sample("pgmajfault", "container", 3),
            sample("pgmajfault", "hierarchy", 4),
        ];
        assert_eq!(lines(&memory, true), version_1);
        assert_eq!(lines(&memory, false), version_1);
        let memory = CgroupMemory {
            own_pgfault: None,
            own_pgmajfault: None,
            ..memory
        };
        let version_2 = [
            sample("pgfault", "container", 40),
            sample("pgfault", "hierarchy", 40),
            sample("pgmajfault", "container", 4),
            sample("pgmajfault", "hierarchy", 4),
        ];
        assert_eq!(lines(&memory, true), version_2);
        let [_, all_faults, _, all_major] = version_2;
        assert_eq!(lines(&memory, false), [all_faults, all_major]);
    }

    #[test]
    fn usage_percent_requires_limit() {
        let share = |usage, limit| {
            let mut out = Families::default();
            let limits = MemoryLimits {
                limit,
                ..MemoryLimits::default()
            };
            super::add_limit(&mut out, &family::render_labels([]), usage, Some(limits));
            out.lines()
        };
        let limit = |bytes: u64| format!("container_memory_limit_bytes {bytes}");
        let percent = "container_memory_usage_percent 37.5".to_owned();
        assert_eq!(share(Some(3), Some(Some(8))), [limit(8), percent]);
        assert_eq!(share(None, Some(Some(8))), [limit(8)]);
        assert_eq!(share(Some(3), Some(Some(0))), [limit(0)]);
        assert!(share(Some(3), Some(None)).is_empty());
        assert!(share(Some(3), None).is_empty());
    }
}
