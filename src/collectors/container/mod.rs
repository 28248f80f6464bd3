//! Containers, services and other cgroups: cAdvisor's families under their names, and families
//! that cAdvisor does not have.
//!
//! To add a collector, write its module and list it here twice.

mod container_cpu;
mod container_cpuset;
mod container_disk;
mod container_engine;
mod container_filesystem;
mod container_hugetlb;
mod container_lifecycle;
mod container_memory;
mod container_network;
mod container_numa;
mod container_pids;
mod container_pressure;
mod container_processes;
mod container_size;
mod container_spec;
mod history;
mod labels;
mod machine;

use crate::collector::{Entry, Layer::Containers};

/// All collectors of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::new::<container_cpu::ContainerCpu>(Containers),
    Entry::new::<container_cpuset::ContainerCpuset>(Containers),
    Entry::new::<container_disk::ContainerDisk>(Containers),
    Entry::new::<container_engine::ContainerEngine>(Containers),
    Entry::new::<container_filesystem::ContainerFilesystem>(Containers),
    Entry::new::<container_hugetlb::ContainerHugeTlb>(Containers),
    Entry::new::<container_lifecycle::ContainerLifecycle>(Containers),
    Entry::new::<container_memory::ContainerMemory>(Containers),
    Entry::new::<container_network::ContainerNetwork>(Containers),
    Entry::new::<container_numa::ContainerNuma>(Containers),
    Entry::new::<container_pids::ContainerPids>(Containers),
    Entry::new::<container_pressure::ContainerPressure>(Containers),
    Entry::new::<container_processes::ContainerProcesses>(Containers),
    Entry::new::<container_size::ContainerSize>(Containers),
    Entry::new::<container_spec::ContainerSpec>(Containers),
    Entry::new::<history::HistoryCollector>(Containers),
    Entry::new::<machine::MachineCollector>(Containers),
];
