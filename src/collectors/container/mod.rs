//! Containers, services and other control groups: cAdvisor's families, under their old
//! names, and what cAdvisor never had.
//!
//! To add a collector, write its module and name it here, twice.

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

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<container_cpu::ContainerCpu>(Containers),
    Entry::of::<container_cpuset::ContainerCpuset>(Containers),
    Entry::of::<container_disk::ContainerDisk>(Containers),
    Entry::of::<container_engine::ContainerEngine>(Containers),
    Entry::of::<container_filesystem::ContainerFilesystem>(Containers),
    Entry::of::<container_hugetlb::ContainerHugeTlb>(Containers),
    Entry::of::<container_lifecycle::ContainerLifecycle>(Containers),
    Entry::of::<container_memory::ContainerMemory>(Containers),
    Entry::of::<container_network::ContainerNetwork>(Containers),
    Entry::of::<container_numa::ContainerNuma>(Containers),
    Entry::of::<container_pids::ContainerPids>(Containers),
    Entry::of::<container_pressure::ContainerPressure>(Containers),
    Entry::of::<container_processes::ContainerProcesses>(Containers),
    Entry::of::<container_size::ContainerSize>(Containers),
    Entry::of::<container_spec::ContainerSpec>(Containers),
    Entry::of::<history::History>(Containers),
    Entry::of::<machine::Machine>(Containers),
];
