//! Memory of containers by NUMA node: `memory.numa_stat`, documented in
//! `Documentation/admin-guide/cgroup-v1/memory.rst` and `cgroup-v2.rst`.
//!
//! Off by default, as in cAdvisor: with one node, `container_memory` reports the same. Version 2
//! has no numbers of a cgroup without its children, so the scope is always `hierarchy`; cAdvisor
//! exposes nothing with version 2.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{Snapshot, cgroup::NumaPages},
};

metrics! {
    /// Memory pages by NUMA node and type: file, anonymous, unevictable. The scope hierarchy
    /// includes child cgroups and is the only one with cgroup version 2. Shared memory is anonymous
    /// with version 1 and file with version 2.
    PAGES: Gauge = "container_memory_numa_pages" base CGROUP ["type", "scope", "node"];
}

#[derive(Debug)]
pub(super) struct ContainerNuma;

impl Collector for ContainerNuma {
    const NAME: &'static str = "container_numa";
    const ABOUT: &'static str = "memory of containers and services by NUMA node";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            for pages in out.ok_or_skip(group.numa_pages()).into_iter().flatten() {
                add_pages(&mut out, base_labels(workload), pages);
            }
        }
        Ok(out)
    }
}

fn add_pages(out: &mut Families, base: &BaseLabels, pages: NumaPages) {
    let scope = if pages.is_hierarchical {
        "hierarchy"
    } else {
        "container"
    };
    let mut node = itoa::Buffer::new();
    let labels = [pages.kind.name(), scope, node.format(pages.node)];
    out.add_with(&PAGES, base, labels, pages.pages);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    fn lines(machine: &MachineFixture) -> Vec<String> {
        let families = ContainerNuma.collect(&machine.snapshot()).unwrap();
        assert_eq!(families.errors().0, 0);
        families.lines()
    }

    #[test]
    fn v1_separates_own_pages_from_hierarchy() {
        let machine = MachineFixture::new("container-numa-v1");
        let stat = "total=7 N0=3 N1=4\nanon=7 N0=3 N1=4\nhierarchical_unevictable=5 N0=5\n";
        machine.write("sys/fs/cgroup/memory/system.slice/memory.numa_stat", stat);
        let series = r#"container_memory_numa_pages{id="/system.slice""#;
        assert_eq!(
            lines(&machine),
            [
                format!(r#"{series},type="anon",scope="container",node="0"}} 3"#),
                format!(r#"{series},type="anon",scope="container",node="1"}} 4"#),
                format!(r#"{series},type="unevictable",scope="hierarchy",node="0"}} 5"#),
            ]
        );
    }

    #[test]
    fn v2_reports_hierarchy_in_bytes() {
        let machine = MachineFixture::new("container-numa-v2");
        machine.write("sys/fs/cgroup/cgroup.controllers", "memory\n");
        let page = rustix::param::page_size();
        let stat = format!("anon N0={}\nfile_mapped N0=1\n", page * 3);
        machine.write("sys/fs/cgroup/system.slice/memory.numa_stat", &stat);
        let series = r#"container_memory_numa_pages{id="/system.slice""#;
        assert_eq!(
            lines(&machine),
            [format!(
                r#"{series},type="anon",scope="hierarchy",node="0"}} 3"#
            )]
        );
    }
}
