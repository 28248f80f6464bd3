//! The machine's virtual machines, as libvirt knows them. Names and labels are those of
//! the exporters for libvirt that boards are made for.
//!
//! To add a collector, write its module and name it here, twice.

mod libvirt;
mod libvirt_network;
mod libvirt_pool;

use crate::collector::{Entry, Layer::Domains};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::new::<libvirt::LibvirtCollector>(Domains),
    Entry::new::<libvirt_network::LibvirtNetwork>(Domains),
    Entry::new::<libvirt_pool::LibvirtPool>(Domains),
];
