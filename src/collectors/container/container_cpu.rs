//! What containers use of the CPUs: `cpu.stat`, and version 1's `cpuacct.*`.
//!
//! cAdvisor leaves a usage of 0 out; here it is there, because it is known. Its series per
//! CPU, which only version 1 has, come by a flag and then in place of the total, as there:
//! a sum over the label cpu is the same either way, and never counts twice.

use std::{fmt::Write, time::Duration};

use clap::ArgAction;

use super::labels::{CGROUP, block};
use crate::{
    collector::Collector,
    error::Result,
    family::{Block, Families},
    metric::{Desc, Metric},
    metrics,
    sources::{
        Snapshot,
        cgroup::{Cpu, Throttling},
    },
};

metrics! {
    /// CPU time used, in user mode and in the kernel together. The label cpu is total, or by
    /// a flag, with cgroup version 1, the number of one CPU.
    USAGE: Counter = "container_cpu_usage_seconds_total" of CGROUP ["cpu"];
    /// CPU time used in user mode.
    USER: Counter = "container_cpu_user_seconds_total" of CGROUP [];
    /// CPU time used in the kernel.
    SYSTEM: Counter = "container_cpu_system_seconds_total" of CGROUP [];
    /// Periods of the quota in which a task wanted to run; absent without a quota.
    CFS_PERIODS: Counter = "container_cpu_cfs_periods_total" of CGROUP [];
    /// Periods in which the quota was used up and tasks had to wait; absent without a quota.
    CFS_THROTTLED_PERIODS: Counter = "container_cpu_cfs_throttled_periods_total" of CGROUP [];
    /// Time for which the quota kept tasks waiting, summed over CPUs, so that it can grow by
    /// more than a second per second; absent without a quota.
    CFS_THROTTLED: Counter = "container_cpu_cfs_throttled_seconds_total" of CGROUP [];
    /// Periods in which tasks ran beyond the quota on time saved up before (a burst); absent
    /// without a quota.
    CFS_BURST_PERIODS: Counter = "container_cpu_cfs_burst_periods_total" of CGROUP [];
    /// Time for which tasks ran beyond the quota on time saved up before (bursts); absent
    /// without a quota.
    CFS_BURST: Counter = "container_cpu_cfs_burst_seconds_total" of CGROUP [];
}

/// The flags of this collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Expose the usage of each CPU instead of the total, where cgroup version 1 has it.
    #[arg(long = "collector.container_cpu.per-cpu", default_value_t = false, action = ArgAction::Set)]
    container_cpu_per_cpu: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ContainerCpu {
    per_cpu: bool,
}

impl Collector for ContainerCpu {
    const NAME: &'static str = "container_cpu";
    const ABOUT: &'static str = "what containers and services use of the CPUs";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = Flags;

    fn new(flags: Flags) -> Result<Self, String> {
        Ok(Self {
            per_cpu: flags.container_cpu_per_cpu,
        })
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in machine.workloads()?.present() {
            let each = if self.per_cpu {
                out.keep(group.cpu_by_number())
            } else {
                None
            };
            if let Some(cpu) = out.keep(group.cpu()) {
                families(&mut out, block(workload), &cpu, &each.unwrap_or_default());
            }
        }
        Ok(out)
    }
}

/// `each` is the usage of each CPU; where there is none, the total takes its place.
fn families(out: &mut Families, of: &Block, cpu: &Cpu, each: &[(u32, Duration)]) {
    let mut label = String::new();
    for (number, usage) in each {
        label.clear();
        // As cAdvisor numbers them. Writing to a string does not fail.
        if write!(label, "cpu{number:02}").is_ok() {
            out.add_of(&USAGE, of, [label.as_str()], *usage);
        }
    }
    if each.is_empty()
        && let Some(usage) = cpu.usage
    {
        out.add_of(&USAGE, of, ["total"], usage);
    }
    let mut time = |metric: &'static Metric<0>, time: Option<Duration>| {
        if let Some(time) = time {
            out.add_of(metric, of, [], time);
        }
    };
    time(&USER, cpu.user);
    time(&SYSTEM, cpu.system);
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
    time(&CFS_THROTTLED, throttled);
    time(&CFS_BURST, burst);
    for (metric, count) in [
        (&CFS_PERIODS, periods),
        (&CFS_THROTTLED_PERIODS, throttled_periods),
        (&CFS_BURST_PERIODS, burst_periods),
    ] {
        if let Some(count) = count {
            out.add_of(metric, of, [], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    fn lines(cpu: &Cpu, each: &[(u32, Duration)]) -> Vec<String> {
        let mut out = Families::default();
        families(&mut out, &family::block([("id", "/a")]), cpu, each);
        out.lines()
    }

    const BUSY: Cpu = Cpu {
        usage: Some(Duration::from_millis(2500)),
        user: Some(Duration::from_millis(1500)),
        system: Some(Duration::from_millis(750)),
        throttling: None,
    };

    #[test]
    fn a_group_without_a_quota_is_never_held_back() {
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
    fn a_quota_holds_back_and_a_burst_goes_beyond_it() {
        let throttling = Throttling {
            periods: Some(40),
            throttled_periods: Some(30),
            throttled: Some(Duration::from_millis(1250)),
            burst_periods: Some(3),
            burst: Some(Duration::from_millis(250)),
        };
        let cpu = Cpu {
            throttling: Some(throttling),
            ..Cpu::default()
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
        let cpu = Cpu {
            throttling: Some(older_kernel),
            ..Cpu::default()
        };
        assert_eq!(lines(&cpu, &[]).len(), 3);
    }

    #[test]
    fn cpus_stand_in_place_of_their_total_and_an_idle_one_is_there() {
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
