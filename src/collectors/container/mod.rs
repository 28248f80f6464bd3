//! Containers, services and other control groups: cAdvisor's families, under their old
//! names, and what cAdvisor never had.
//!
//! To add a collector, write its module and name it here, twice.

mod container_cpu;
mod container_engine;
mod container_lifecycle;
mod labels;

use crate::collector::{Entry, Layer::Containers};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<container_cpu::ContainerCpu>(Containers),
    Entry::of::<container_engine::ContainerEngine>(Containers),
    Entry::of::<container_lifecycle::ContainerLifecycle>(Containers),
];
