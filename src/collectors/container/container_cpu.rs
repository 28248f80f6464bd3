//! What containers use of the CPUs: `cpu.stat`, or version 1's `cpuacct.*`.
//!
//! cAdvisor leaves a usage of 0 out; here it is there, because it is known.

use super::labels::{CGROUP, block};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// CPU time used, in user mode and in the kernel together. The label cpu is total.
    USAGE: Counter = "container_cpu_usage_seconds_total" of CGROUP ["cpu"];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ContainerCpu;

impl Collector for ContainerCpu {
    const NAME: &'static str = "container_cpu";
    const ABOUT: &'static str = "what containers and services use of the CPUs";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in machine.workloads()?.present() {
            if let Some(cpu) = out.keep(group.cpu())
                && let Some(usage) = cpu.usage
            {
                out.add_of(&USAGE, block(workload), ["total"], usage);
            }
        }
        Ok(out)
    }
}
