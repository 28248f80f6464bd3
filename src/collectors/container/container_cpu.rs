//! CPU usage of containers: `cpu.stat`, and `cpuacct.*` of cgroup version 1.
//!
//! cAdvisor leaves out a usage of 0; here it is exposed, because it is known. The series per CPU,
//! which only version 1 has, are enabled by a flag and replace the total, as in cAdvisor: a sum
//! over the label cpu is the same either way and never counts twice.

use std::{fmt::Write, time::Duration};

use clap::ArgAction;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    error::Result,
    family::{BaseLabels, Families},
    metric::{Desc, Metric},
    metrics,
    sources::{
        Snapshot,
        cgroup::{CgroupCpu, Throttling},
    },
};

metrics! {
    /// CPU time used, user and system; cpu is total, or with a flag and cgroup version 1 the number
    /// of a CPU.
    USAGE: Counter = "container_cpu_usage_seconds_total" base CGROUP ["cpu"];
    /// CPU time used in user mode.
    USER: Counter = "container_cpu_user_seconds_total" base CGROUP [];
    /// CPU time used in kernel mode.
    SYSTEM: Counter = "container_cpu_system_seconds_total" base CGROUP [];
    /// CFS quota periods in which a task was runnable; absent without a quota.
    CFS_PERIODS: Counter = "container_cpu_cfs_periods_total" base CGROUP [];
    /// CFS quota periods in which tasks were throttled; absent without a quota.
    CFS_THROTTLED_PERIODS: Counter = "container_cpu_cfs_throttled_periods_total" base CGROUP [];
    /// Time that tasks were throttled by the CFS quota, summed over CPUs; absent without a quota.
    CFS_THROTTLED: Counter = "container_cpu_cfs_throttled_seconds_total" base CGROUP [];
    /// CFS quota periods in which tasks used accumulated burst time; absent without a quota.
    CFS_BURST_PERIODS: Counter = "container_cpu_cfs_burst_periods_total" base CGROUP [];
    /// CPU time used beyond the CFS quota from accumulated burst time; absent without a quota.
    CFS_BURST: Counter = "container_cpu_cfs_burst_seconds_total" base CGROUP [];
}

/// The flags of this collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct ContainerCpuFlags {
    /// Expose the usage of each CPU instead of the total; cgroup version 1 only.
    #[arg(long = "collector.container_cpu.per-cpu", default_value_t = false, action = ArgAction::Set)]
    container_cpu_per_cpu: bool,
}

#[derive(Debug)]
pub(super) struct ContainerCpu {
    per_cpu: bool,
}

impl Collector for ContainerCpu {
    const NAME: &'static str = "container_cpu";
    const ABOUT: &'static str = "CPU usage of containers and services";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = ContainerCpuFlags;

    fn new(flags: ContainerCpuFlags) -> Result<Self, String> {
        Ok(Self {
            per_cpu: flags.container_cpu_per_cpu,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            let per_cpu = if self.per_cpu {
                out.ok_or_skip(group.percpu_usage())
            } else {
                None
            };
            if let Some(cpu) = out.ok_or_skip(group.cpu()) {
                add_cpu(
                    &mut out,
                    base_labels(workload),
                    &cpu,
                    &per_cpu.unwrap_or_default(),
                );
            }
        }
        Ok(out)
    }
}

/// `per_cpu` is the usage of each CPU; if it is empty, the total is exposed.
fn add_cpu(out: &mut Families, base: &BaseLabels, cpu: &CgroupCpu, per_cpu: &[(u32, Duration)]) {
    let mut label = String::new();
    for (number, usage) in per_cpu {
        label.clear();
        // cAdvisor's numbering. Writing to a string does not fail.
        if write!(label, "cpu{number:02}").is_ok() {
            out.add_with(&USAGE, base, [label.as_str()], *usage);
        }
    }
    if per_cpu.is_empty()
        && let Some(usage) = cpu.usage
    {
        out.add_with(&USAGE, base, ["total"], usage);
    }
    let mut add_time = |metric: &'static Metric<0>, time: Option<Duration>| {
        if let Some(time) = time {
            out.add_with(metric, base, [], time);
        }
    };
    add_time(&USER, cpu.user);
    add_time(&SYSTEM, cpu.system);
    let Some(throttling) = cpu.throttling else {
        return;
    };
    let Throttling {
        periods,
        throttled_periods,
        throttled,
        burst_periods,
        burst,
    } = throttling;
    add_time(&CFS_THROTTLED, throttled);
    add_time(&CFS_BURST, burst);
    for (metric, count) in [
        (&CFS_PERIODS, periods),
        (&CFS_THROTTLED_PERIODS, throttled_periods),
        (&CFS_BURST_PERIODS, burst_periods),
    ] {
        if let Some(count) = count {
            out.add_with(metric, base, [], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    fn lines(cpu: &CgroupCpu, each: &[(u32, Duration)]) -> Vec<String> {
        let mut out = Families::default();
        add_cpu(&mut out, &family::render_labels([("id", "/a")]), cpu, each);
        out.lines()
    }

    const BUSY: CgroupCpu = CgroupCpu {
        usage: Some(Duration::from_millis(2500)),
        user: Some(Duration::from_millis(1500)),
        system: Some(Duration::from_millis(750)),
        throttling: None,
    };

    #[test]
    fn no_throttling_metrics_without_quota() {
        assert_eq!(
            lines(&BUSY, &[]),
            [
                r#"container_cpu_usage_seconds_total{id="/a",cpu="total"} 2.5"#,
                r#"container_cpu_user_seconds_total{id="/a"} 1.5"#,
                r#"container_cpu_system_seconds_total{id="/a"} 0.75"#,
            ]
        );
    }

    #[test]
    fn quota_throttles_and_burst_exceeds_quota() {
        let throttling = Throttling {
            periods: Some(40),
            throttled_periods: Some(30),
            throttled: Some(Duration::from_millis(1250)),
            burst_periods: Some(3),
            burst: Some(Duration::from_millis(250)),
        };
        let cpu = CgroupCpu {
            throttling: Some(throttling),
            ..CgroupCpu::default()
        };
        assert_eq!(
            lines(&cpu, &[]),
            [
                r#"container_cpu_cfs_throttled_seconds_total{id="/a"} 1.25"#,
                r#"container_cpu_cfs_burst_seconds_total{id="/a"} 0.25"#,
                r#"container_cpu_cfs_periods_total{id="/a"} 40"#,
                r#"container_cpu_cfs_throttled_periods_total{id="/a"} 30"#,
                r#"container_cpu_cfs_burst_periods_total{id="/a"} 3"#,
            ]
        );
        let older_kernel = Throttling {
            burst_periods: None,
            burst: None,
            ..throttling
        };
        let cpu = CgroupCpu {
            throttling: Some(older_kernel),
            ..CgroupCpu::default()
        };
        assert_eq!(lines(&cpu, &[]).len(), 3);
    }

    #[test]
    fn per_cpu_series_replace_total_and_include_idle_cpus() {
        let each = [(0, Duration::from_secs(2)), (11, Duration::ZERO)];
        let usage = lines(&BUSY, &each);
        assert_eq!(
            usage[..2],
            [
                r#"container_cpu_usage_seconds_total{id="/a",cpu="cpu00"} 2"#,
                r#"container_cpu_usage_seconds_total{id="/a",cpu="cpu11"} 0"#,
            ]
        );
        assert!(!usage.iter().any(|line| line.contains("total\"}")));
    }
}
