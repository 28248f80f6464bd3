//! Time that tasks of containers waited for resources: the files `*.pressure`, documented in the
//! kernel's `accounting/psi.rst`.
//!
//! On hybrid hosts they are in the unified hierarchy beside those of version 1, where cAdvisor
//! does not look: it exposes 0. The root cgroup has those of `/proc/pressure`, whose line `full`
//! for the CPU is a meaningless 0.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::{Desc, Metric},
    metrics,
    sources::{
        Snapshot,
        cgroup::{CgroupPressure, PressureStall},
    },
};

metrics! {
    /// Time in which at least one task waited for a CPU or for the CPU quota.
    CPU_WAITING: Counter = "container_pressure_cpu_waiting_seconds_total" base CGROUP [];
    /// Time in which all non-idle tasks waited for a CPU; absent for the root cgroup.
    CPU_STALLED: Counter = "container_pressure_cpu_stalled_seconds_total" base CGROUP [];
    /// Time in which at least one task waited for memory (reclaim or refault).
    MEMORY_WAITING: Counter = "container_pressure_memory_waiting_seconds_total" base CGROUP [];
    /// Time in which all non-idle tasks waited for memory.
    MEMORY_STALLED: Counter = "container_pressure_memory_stalled_seconds_total" base CGROUP [];
    /// Time in which at least one task waited for I/O.
    IO_WAITING: Counter = "container_pressure_io_waiting_seconds_total" base CGROUP [];
    /// Time in which all non-idle tasks waited for I/O.
    IO_STALLED: Counter = "container_pressure_io_stalled_seconds_total" base CGROUP [];
}

#[derive(Debug)]
pub(super) struct ContainerPressure;

impl Collector for ContainerPressure {
    const NAME: &'static str = "container_pressure";
    const ABOUT: &'static str = "pressure stall information (PSI) of containers and services";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            if let Some(pressure) = out.ok_or_skip(group.pressure()) {
                let is_root = group.path() == "/";
                add_pressure(&mut out, base_labels(workload), pressure, is_root);
            }
        }
        Ok(out)
    }
}

fn add_pressure(
    out: &mut Families,
    base: &BaseLabels,
    mut pressure: CgroupPressure,
    is_root: bool,
) {
    if let Some(cpu) = &mut pressure.cpu
        && is_root
    {
        cpu.full = None;
    }
    let mut add_resource = |stalls: Option<PressureStall>, metrics: [&'static Metric<0>; 2]| {
        let PressureStall { some, full } = stalls.unwrap_or_default();
        for (metric, time) in metrics.into_iter().zip([some, full]) {
            if let Some(time) = time {
                out.add_with(metric, base, [], time);
            }
        }
    };
    add_resource(pressure.cpu, [&CPU_WAITING, &CPU_STALLED]);
    add_resource(pressure.memory, [&MEMORY_WAITING, &MEMORY_STALLED]);
    add_resource(pressure.io, [&IO_WAITING, &IO_STALLED]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::family;

    fn lines(pressure: CgroupPressure, is_root: bool) -> Vec<String> {
        let mut out = Families::default();
        add_pressure(&mut out, &family::render_labels([]), pressure, is_root);
        out.lines()
    }

    fn stalls(some: u64, full: u64) -> PressureStall {
        PressureStall {
            some: Some(Duration::from_secs(some)),
            full: Some(Duration::from_secs(full)),
        }
    }

    #[test]
    fn some_is_waiting_and_full_is_stalled() {
        let pressure = CgroupPressure {
            cpu: Some(stalls(6, 5)),
            memory: Some(stalls(4, 3)),
            io: Some(stalls(2, 1)),
        };
        assert_eq!(
            lines(pressure, false),
            [
                "container_pressure_cpu_waiting_seconds_total 6",
                "container_pressure_cpu_stalled_seconds_total 5",
                "container_pressure_memory_waiting_seconds_total 4",
                "container_pressure_memory_stalled_seconds_total 3",
                "container_pressure_io_waiting_seconds_total 2",
                "container_pressure_io_stalled_seconds_total 1",
            ]
        );
    }

    #[test]
    fn no_cpu_stalled_for_root_or_old_kernels() {
        let with_cpu = |cpu| CgroupPressure {
            cpu: Some(cpu),
            ..CgroupPressure::default()
        };
        let waiting = ["container_pressure_cpu_waiting_seconds_total 6"];
        assert_eq!(lines(with_cpu(stalls(6, 0)), true), waiting);
        let older = PressureStall {
            full: None,
            ..stalls(6, 0)
        };
        assert_eq!(lines(with_cpu(older), false), waiting);
    }
}
