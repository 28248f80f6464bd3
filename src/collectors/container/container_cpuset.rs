//! Memory migration of containers: `cpuset.memory_migrate`, documented in
//! `Documentation/admin-guide/cgroup-v1/cpusets.rst`.
//!
//! Off by default, as in cAdvisor. With version 2, where memory always migrates, cAdvisor exposes
//! 0; here the metric is absent.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Whether memory is migrated when the cpuset changes to other NUMA nodes (1) or not (0);
    /// cgroup version 1 only.
    MEMORY_MIGRATE: Gauge = "container_memory_migrate" base CGROUP [];
}

#[derive(Debug)]
pub(super) struct ContainerCpuset;

impl Collector for ContainerCpuset {
    const NAME: &'static str = "container_cpuset";
    const ABOUT: &'static str = "cpuset memory migration of containers";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            if let Some(migrates) = out.ok_or_skip(group.memory_migrates()) {
                out.add_with(&MEMORY_MIGRATE, base_labels(workload), [], migrates);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    fn lines(machine: &MachineFixture) -> (Vec<String>, usize) {
        let families = ContainerCpuset.collect(&machine.snapshot()).unwrap();
        (families.lines(), families.errors().0)
    }

    #[test]
    fn v1_reports_memory_migrate_per_group() {
        let machine = MachineFixture::new("container-cpuset-v1");
        for (group, migrates) in [
            ("", "0\n"),
            ("/user.slice", "1\n"),
            ("/system.slice", "x\n"),
        ] {
            let path = |controller, file| format!("sys/fs/cgroup/{controller}{group}/{file}");
            machine.write(&path("memory", "memory.stat"), "");
            machine.write(&path("cpuset", "cpuset.memory_migrate"), migrates);
        }
        let (lines, skipped) = lines(&machine);
        assert_eq!(
            lines,
            [
                r#"container_memory_migrate{id="/"} 0"#,
                r#"container_memory_migrate{id="/user.slice"} 1"#,
            ]
        );
        assert_eq!(skipped, 1);
    }

    #[test]
    fn v2_reports_nothing() {
        let machine = MachineFixture::new("container-cpuset-v2");
        machine.write("sys/fs/cgroup/cgroup.controllers", "cpuset\n");
        machine.write("sys/fs/cgroup/system.slice/cpuset.mems", "\n");
        assert_eq!(lines(&machine), (vec![], 0));
    }
}
