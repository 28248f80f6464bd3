//! The host's virtual machines, from libvirt. Names and labels are those of the libvirt exporters
//! for which dashboards exist.
//!
//! To add a collector, write its module and list it here twice.

mod libvirt;
mod libvirt_network;
mod libvirt_pool;

use crate::collector::{Entry, Layer::Domains};

/// All collectors of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::new::<libvirt::LibvirtCollector>(Domains),
    Entry::new::<libvirt_network::LibvirtNetwork>(Domains),
    Entry::new::<libvirt_pool::LibvirtPool>(Domains),
];
