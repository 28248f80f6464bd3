//! Hung tasks, from `/proc/sys/kernel/hung_task_detect_count`, documented in the kernel's
//! `Documentation/admin-guide/sysctl/kernel.rst`.
//!
//! The file exists since Linux 6.13, in kernels built with `CONFIG_DETECT_HUNG_TASK`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Total number of tasks that have been detected as hung.
    TASKS: Counter = "node_kernel_hung_tasks_total" [];
}

#[derive(Debug)]
pub(super) struct KernelHung;

impl Collector for KernelHung {
    const NAME: &'static str = "kernel_hung";
    const ABOUT: &'static str = "hung tasks";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let count: u64 = snapshot
            .read_proc("sys/kernel/hung_task_detect_count")?
            .parse_number()?;
        let mut out = Families::default();
        out.add(&TASKS, [], count);
        Ok(out)
    }
}
