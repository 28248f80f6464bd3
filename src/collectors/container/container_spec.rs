//! Resource limits of containers, in the form of cAdvisor's `container_spec_*`: microseconds,
//! shares with a default of 1024, and 0 for unlimited memory, as dashboards expect.
//!
//! The files change rarely, but `docker update` can change them at any time without a notification
//! from the kernel, so they are read at each scrape: those of memory, about a microsecond each,
//! once for all collectors.
//!
//! cAdvisor converts version 2's weight of 100 to 2597 shares instead of 1024, and reads the
//! reservation from `memory.min`, which no engine writes.

use std::time::Duration;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{
        Snapshot, Text,
        cgroup::{CpuLimits, MemoryLimits},
    },
};

metrics! {
    /// CFS quota period in microseconds.
    CPU_PERIOD: Gauge = "container_spec_cpu_period" base CGROUP [];
    /// CFS quota in microseconds per period; absent without a limit.
    CPU_QUOTA: Gauge = "container_spec_cpu_quota" base CGROUP [];
    /// CPU shares (relative weight); 1024 is the default.
    CPU_SHARES: Gauge = "container_spec_cpu_shares" base CGROUP [];
    /// Memory limit in bytes, 0 without a limit; of the root cgroup the memory of the machine.
    MEMORY_LIMIT: Gauge = "container_spec_memory_limit_bytes" base CGROUP [];
    /// Swap limit in bytes with cgroup version 2, memory and swap limit with version 1; 0 without a
    /// limit.
    MEMORY_SWAP_LIMIT: Gauge = "container_spec_memory_swap_limit_bytes" base CGROUP [];
    /// Memory reservation in bytes (memory.low, or the soft limit of version 1); 0 without one.
    MEMORY_RESERVATION: Gauge = "container_spec_memory_reservation_limit_bytes" base CGROUP [];
}

#[derive(Debug)]
pub(super) struct ContainerSpec;

impl Collector for ContainerSpec {
    const NAME: &'static str = "container_spec";
    const ABOUT: &'static str = "CPU and memory limits of containers and services";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let present = snapshot.workloads()?.present();
        for ((workload, group), memory) in present.zip(snapshot.memory_limits()?) {
            let base = base_labels(workload);
            if let Some(limits) = out.ok_or_skip(group.cpu_limits()) {
                add_cpu_limits(&mut out, base, &limits);
            }
            let mut limits = out.ok_or_skip(memory.clone()).unwrap_or_default();
            if group.path() == "/" {
                let total = snapshot
                    .read_proc("meminfo")
                    .and_then(|text| parse_mem_total(&text));
                limits.limit = out.ok_or_skip(total).map(Some);
            }
            self::add_memory_limits(&mut out, base, &limits);
        }
        Ok(out)
    }
}

fn add_cpu_limits(out: &mut Families, base: &BaseLabels, limits: &CpuLimits) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).ok();
    for (metric, value) in [
        (&CPU_PERIOD, limits.period.and_then(micros)),
        (&CPU_QUOTA, limits.quota.and_then(micros)),
        (&CPU_SHARES, limits.shares),
    ] {
        if let Some(value) = value {
            out.add_with(metric, base, [], value);
        }
    }
}

fn add_memory_limits(out: &mut Families, base: &BaseLabels, limits: &MemoryLimits) {
    for (metric, limit) in [
        (&MEMORY_LIMIT, limits.limit),
        (&MEMORY_SWAP_LIMIT, limits.swap_limit),
        (&MEMORY_RESERVATION, limits.reservation),
    ] {
        if let Some(limit) = limit {
            out.add_with(metric, base, [], limit.unwrap_or(0));
        }
    }
}

/// Total memory of the machine in bytes, from `/proc/meminfo`.
fn parse_mem_total(text: &Text) -> Result<u64> {
    for mut line in text.lines() {
        if line.next_word() == Some("MemTotal:") {
            return Ok(line.parse::<u64>("MemTotal")?.saturating_mul(1024));
        }
    }
    Err(text.error(1, "MemTotal is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    #[test]
    fn quota_is_in_microseconds_and_optional() {
        let mut out = Families::default();
        let limits = CpuLimits {
            period: Some(Duration::from_millis(100)),
            quota: Some(Duration::from_millis(250)),
            shares: Some(512),
        };
        let base = family::render_labels([]);
        add_cpu_limits(&mut out, &base, &limits);
        assert_eq!(
            out.lines(),
            [
                "container_spec_cpu_period 100000",
                "container_spec_cpu_quota 250000",
                "container_spec_cpu_shares 512",
            ]
        );
        let mut out = Families::default();
        let quota = None;
        add_cpu_limits(&mut out, &base, &CpuLimits { quota, ..limits });
        assert_eq!(out.lines().len(), 2);
    }

    #[test]
    fn no_limit_is_zero_and_unknown_is_absent() {
        let mut out = Families::default();
        let limits = MemoryLimits {
            limit: Some(Some(67_108_864)),
            swap_limit: None,
            reservation: Some(None),
        };
        add_memory_limits(&mut out, &family::render_labels([]), &limits);
        assert_eq!(
            out.lines(),
            [
                "container_spec_memory_limit_bytes 67108864",
                "container_spec_memory_reservation_limit_bytes 0",
            ]
        );
        let mut out = Families::default();
        let limits = MemoryLimits {
            limit: Some(None),
            swap_limit: Some(Some(134_217_728)),
            reservation: Some(Some(33_554_432)),
        };
        add_memory_limits(&mut out, &family::render_labels([]), &limits);
        assert_eq!(
            out.lines(),
            [
                "container_spec_memory_limit_bytes 0",
                "container_spec_memory_swap_limit_bytes 134217728",
                "container_spec_memory_reservation_limit_bytes 33554432",
            ]
        );
    }

    #[test]
    fn mem_total_is_read_in_kib() {
        let text = Text::from("MemTotal:        4041064 kB\nMemFree: 1 kB\n");
        assert_eq!(parse_mem_total(&text).unwrap(), 4_138_049_536);
        assert!(parse_mem_total(&Text::from("MemFree: 1 kB\n")).is_err());
    }
}
