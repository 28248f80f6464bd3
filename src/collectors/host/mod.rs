//! The machine itself: `node_exporter`'s families, under their old names.
//!
//! To add a collector, write its module and name it here, twice.

mod conntrack;
mod lnstat;
mod buddyinfo;
mod cpu;
mod cpu_vulnerabilities;
mod cpufreq;
mod interrupts;
mod ksmd;
mod loadavg;
mod logind;
mod meminfo;
mod mountstats;
mod netstat;
mod nfs;
mod nfsd;
mod sockstat;
mod softnet;
mod stat;
mod systemd;
mod udp_queues;
mod meminfo_numa;
mod pressure;
mod processes;
mod rapl;
mod schedstat;
mod softirqs;
mod stat;
mod thermal_zone;
mod zoneinfo;

use crate::collector::{Entry, Layer::Host};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<conntrack::Conntrack>(Host),
    Entry::of::<lnstat::LnStat>(Host),
    Entry::of::<buddyinfo::BuddyInfo>(Host),
    Entry::of::<cpu::Cpu>(Host),
    Entry::of::<cpu_vulnerabilities::CpuVulnerabilities>(Host),
    Entry::of::<cpufreq::CpuFreq>(Host),
    Entry::of::<interrupts::Interrupts>(Host),
    Entry::of::<ksmd::Ksmd>(Host),
    Entry::of::<loadavg::LoadAvg>(Host),
    Entry::of::<logind::Logind>(Host),
    Entry::of::<meminfo::MemInfo>(Host),
    Entry::of::<mountstats::MountStats>(Host),
    Entry::of::<netstat::NetStat>(Host),
    Entry::of::<nfs::Nfs>(Host),
    Entry::of::<nfsd::NfsD>(Host),
    Entry::of::<sockstat::SockStat>(Host),
    Entry::of::<softnet::SoftNet>(Host),
    Entry::of::<stat::Stat>(Host),
    Entry::of::<systemd::Systemd>(Host),
    Entry::of::<udp_queues::UdpQueues>(Host),
    Entry::of::<meminfo_numa::MemInfoNuma>(Host),
    Entry::of::<pressure::Pressure>(Host),
    Entry::of::<processes::Processes>(Host),
    Entry::of::<rapl::Rapl>(Host),
    Entry::of::<schedstat::SchedStat>(Host),
    Entry::of::<softirqs::SoftIrqs>(Host),
    Entry::of::<stat::Stat>(Host),
    Entry::of::<thermal_zone::ThermalZone>(Host),
    Entry::of::<zoneinfo::ZoneInfo>(Host),
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
