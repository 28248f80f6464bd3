//! The machine itself: `node_exporter`'s families, under their old names.
//!
//! To add a collector, write its module and name it here, twice.

mod arp;
mod bonding;
mod loadavg;
mod meminfo;
mod netclass;
mod netdev;
mod network_route;
mod qdisc;
mod stat;
mod tcpstat;

use crate::collector::{Entry, Layer::Host};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<arp::Arp>(Host),
    Entry::of::<bonding::Bonding>(Host),
    Entry::of::<loadavg::LoadAvg>(Host),
    Entry::of::<meminfo::MemInfo>(Host),
    Entry::of::<netclass::NetClass>(Host),
    Entry::of::<netdev::NetDev>(Host),
    Entry::of::<network_route::NetworkRoute>(Host),
    Entry::of::<qdisc::Qdiscs>(Host),
    Entry::of::<stat::Stat>(Host),
    Entry::of::<tcpstat::TcpStat>(Host),
    // Still to come: replace the line by the collector.
    Entry::to_come("bcache", true),
    Entry::to_come("bcachefs", true),
    Entry::to_come("dmmultipath", true),
    Entry::to_come("drbd", false),
    Entry::to_come("drm", false),
    Entry::to_come("fibrechannel", true),
    Entry::to_come("infiniband", true),
    Entry::to_come("ipvs", true),
    Entry::to_come("ntp", false),
    Entry::to_come("nvmesubsystem", false),
    Entry::to_come("pcidevice", false),
    Entry::to_come("perf", false),
    Entry::to_come("runit", false),
    Entry::to_come("supervisord", false),
    Entry::to_come("tapestats", true),
    Entry::to_come("wifi", false),
    Entry::to_come("xfrm", false),
    Entry::to_come("zfs", true),
];
