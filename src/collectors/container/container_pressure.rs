//! How long tasks of containers waited: the files `*.pressure`, documented in the kernel's
//! `accounting/psi.rst`.
//!
//! On hybrid machines they are in the unified hierarchy beside those of version 1, where
//! cAdvisor does not look: it says 0 there. The root's are those of `/proc/pressure`, whose
//! line `full` for the CPU is a 0 that means nothing.

use super::labels::{CGROUP, block};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Block, Families},
    metric::{Desc, Metric},
    metrics,
    sources::{
        Snapshot,
        cgroup::{Pressure, Stalls},
    },
};

metrics! {
    /// Time in which some task waited for a CPU, be it that others ran or that the quota was
    /// used up.
    CPU_WAITING: Counter = "container_pressure_cpu_waiting_seconds_total" of CGROUP [];
    /// Time in which all tasks that could run waited for a CPU; absent for the whole machine,
    /// where it cannot be.
    CPU_STALLED: Counter = "container_pressure_cpu_stalled_seconds_total" of CGROUP [];
    /// Time in which some task waited for memory: for pages to be reclaimed, or to be read
    /// back.
    MEMORY_WAITING: Counter = "container_pressure_memory_waiting_seconds_total" of CGROUP [];
    /// Time in which all tasks that had work waited for memory.
    MEMORY_STALLED: Counter = "container_pressure_memory_stalled_seconds_total" of CGROUP [];
    /// Time in which some task waited for I/O.
    IO_WAITING: Counter = "container_pressure_io_waiting_seconds_total" of CGROUP [];
    /// Time in which all tasks that had work waited for I/O.
    IO_STALLED: Counter = "container_pressure_io_stalled_seconds_total" of CGROUP [];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ContainerPressure;

impl Collector for ContainerPressure {
    const NAME: &'static str = "container_pressure";
    const ABOUT: &'static str = "how long containers and services waited for CPU, memory or I/O";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in machine.workloads()?.present() {
            if let Some(pressure) = out.keep(group.pressure()) {
                let is_root = group.path() == "/";
                families(&mut out, block(workload), pressure, is_root);
            }
        }
        Ok(out)
    }
}

fn families(out: &mut Families, of: &Block, mut pressure: Pressure, is_root: bool) {
    if let Some(cpu) = &mut pressure.cpu
        && is_root
    {
        cpu.full = None;
    }
    let mut resource = |stalls: Option<Stalls>, metrics: [&'static Metric<0>; 2]| {
        let Stalls { some, full } = stalls.unwrap_or_default();
        for (metric, time) in metrics.into_iter().zip([some, full]) {
            if let Some(time) = time {
                out.add_of(metric, of, [], time);
            }
        }
    };
    resource(pressure.cpu, [&CPU_WAITING, &CPU_STALLED]);
    resource(pressure.memory, [&MEMORY_WAITING, &MEMORY_STALLED]);
    resource(pressure.io, [&IO_WAITING, &IO_STALLED]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::family;

    fn lines(pressure: Pressure, is_root: bool) -> Vec<String> {
        let mut out = Families::default();
        families(&mut out, &family::block([]), pressure, is_root);
        out.lines()
    }

    fn stalls(some: u64, full: u64) -> Stalls {
        Stalls {
            some: Some(Duration::from_secs(some)),
            full: Some(Duration::from_secs(full)),
        }
    }

    #[test]
    fn some_wait_where_all_stall() {
        let pressure = Pressure {
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
    fn the_machines_cpus_never_stall_and_an_older_kernel_does_not_say() {
        let of_cpu = |cpu| Pressure {
            cpu: Some(cpu),
            ..Pressure::default()
        };
        let waiting = ["container_pressure_cpu_waiting_seconds_total 6"];
        assert_eq!(lines(of_cpu(stalls(6, 0)), true), waiting);
        let older = Stalls {
            full: None,
            ..stalls(6, 0)
        };
        assert_eq!(lines(of_cpu(older), false), waiting);
    }
}
