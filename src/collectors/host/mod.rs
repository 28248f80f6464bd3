//! The machine itself: `node_exporter`'s families, under their old names.
//!
//! To add a collector, write its module and name it here, twice.

mod cgroups;
mod dmi;
mod entropy;
mod ethtool;
mod filefd;
mod kernel_hung;
mod loadavg;
mod meminfo;
mod memo;
mod names;
mod os;
mod selinux;
mod slabinfo;
mod stat;
mod swap;
mod sysctl;
#[cfg(test)]
mod testing;
mod time;
mod timex;
mod uname;
mod vmstat;
mod watchdog;

use crate::collector::{Entry, Layer::Host};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<cgroups::Cgroups>(Host),
    Entry::of::<dmi::Dmi>(Host),
    Entry::of::<entropy::Entropy>(Host),
    Entry::of::<ethtool::Ethtool>(Host),
    Entry::of::<filefd::FileFd>(Host),
    Entry::of::<kernel_hung::KernelHung>(Host),
    Entry::of::<loadavg::LoadAvg>(Host),
    Entry::of::<meminfo::MemInfo>(Host),
    Entry::of::<os::Os>(Host),
    Entry::of::<selinux::SeLinux>(Host),
    Entry::of::<slabinfo::SlabInfo>(Host),
    Entry::of::<stat::Stat>(Host),
    Entry::of::<swap::Swap>(Host),
    Entry::of::<sysctl::Sysctl>(Host),
    Entry::of::<time::Time>(Host),
    Entry::of::<timex::Timex>(Host),
    Entry::of::<uname::Uname>(Host),
    Entry::of::<vmstat::VmStat>(Host),
    Entry::of::<watchdog::Watchdog>(Host),
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
