//! The machine itself: `node_exporter`'s families, under their old names.
//!
//! To add a collector, write its module and name it here, twice.

mod arp;
mod bonding;
mod btrfs;
mod buddyinfo;
mod cgroups;
mod conntrack;
mod cpu;
mod cpu_vulnerabilities;
mod cpufreq;
mod diskstats;
mod dmi;
mod edac;
mod entropy;
mod ethtool;
mod filefd;
mod filesystem;
mod hwmon;
mod interrupts;
mod kernel_hung;
mod ksmd;
mod lnstat;
mod loadavg;
pub(crate) mod logind;
mod mdadm;
mod meminfo;
mod meminfo_numa;
mod memo;
mod mountstats;
mod names;
mod netclass;
mod netdev;
mod netstat;
mod network_route;
mod nfs;
mod nfsd;
mod nvme;
mod os;
mod powersupplyclass;
mod pressure;
mod processes;
mod qdisc;
mod rapl;
mod schedstat;
mod selinux;
mod slabinfo;
mod sockstat;
mod softirqs;
mod softnet;
mod stat;
mod swap;
mod sysctl;
pub(crate) mod systemd;
mod tcpstat;
pub(crate) mod textfile;
mod thermal_zone;
mod time;
mod timex;
mod udp_queues;
mod uname;
mod vmstat;
mod watchdog;
mod xfs;
mod zoneinfo;

use crate::collector::{Entry, Layer::Host};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<arp::Arp>(Host),
    Entry::of::<bonding::Bonding>(Host),
    Entry::of::<btrfs::Btrfs>(Host),
    Entry::of::<buddyinfo::BuddyInfo>(Host),
    Entry::of::<cgroups::Cgroups>(Host),
    Entry::of::<conntrack::Conntrack>(Host),
    Entry::of::<cpu::Cpu>(Host),
    Entry::of::<cpu_vulnerabilities::CpuVulnerabilities>(Host),
    Entry::of::<cpufreq::CpuFreq>(Host),
    Entry::of::<diskstats::DiskStats>(Host),
    Entry::of::<dmi::Dmi>(Host),
    Entry::of::<edac::Edac>(Host),
    Entry::of::<entropy::Entropy>(Host),
    Entry::of::<ethtool::Ethtool>(Host),
    Entry::of::<filefd::FileFd>(Host),
    Entry::of::<filesystem::FileSystem>(Host),
    Entry::of::<hwmon::Hwmon>(Host),
    Entry::of::<interrupts::Interrupts>(Host),
    Entry::of::<kernel_hung::KernelHung>(Host),
    Entry::of::<ksmd::Ksmd>(Host),
    Entry::of::<lnstat::LnStat>(Host),
    Entry::of::<loadavg::LoadAvg>(Host),
    Entry::of::<logind::Logind>(Host),
    Entry::of::<mdadm::Mdadm>(Host),
    Entry::of::<meminfo::MemInfo>(Host),
    Entry::of::<meminfo_numa::MemInfoNuma>(Host),
    Entry::of::<mountstats::MountStats>(Host),
    Entry::of::<netclass::NetClass>(Host),
    Entry::of::<netdev::NetDev>(Host),
    Entry::of::<netstat::NetStat>(Host),
    Entry::of::<network_route::NetworkRoute>(Host),
    Entry::of::<nfs::Nfs>(Host),
    Entry::of::<nfsd::NfsD>(Host),
    Entry::of::<nvme::Nvme>(Host),
    Entry::of::<os::Os>(Host),
    Entry::of::<powersupplyclass::PowerSupplies>(Host),
    Entry::of::<pressure::Pressure>(Host),
    Entry::of::<processes::Processes>(Host),
    Entry::of::<qdisc::Qdiscs>(Host),
    Entry::of::<rapl::Rapl>(Host),
    Entry::of::<schedstat::SchedStat>(Host),
    Entry::of::<selinux::SeLinux>(Host),
    Entry::of::<slabinfo::SlabInfo>(Host),
    Entry::of::<sockstat::SockStat>(Host),
    Entry::of::<softirqs::SoftIrqs>(Host),
    Entry::of::<softnet::SoftNet>(Host),
    Entry::of::<stat::Stat>(Host),
    Entry::of::<swap::Swap>(Host),
    Entry::of::<sysctl::Sysctl>(Host),
    Entry::of::<systemd::Systemd>(Host),
    Entry::of::<tcpstat::TcpStat>(Host),
    Entry::of::<textfile::TextFile>(Host),
    Entry::of::<thermal_zone::ThermalZone>(Host),
    Entry::of::<time::Time>(Host),
    Entry::of::<timex::Timex>(Host),
    Entry::of::<udp_queues::UdpQueues>(Host),
    Entry::of::<uname::Uname>(Host),
    Entry::of::<vmstat::VmStat>(Host),
    Entry::of::<watchdog::Watchdog>(Host),
    Entry::of::<xfs::Xfs>(Host),
    Entry::of::<zoneinfo::ZoneInfo>(Host),
    // Still to come: replace the line by the collector.
    Entry::to_come("bcache", true, &["priorityStats"]),
    Entry::to_come("bcachefs", true, &[]),
    Entry::to_come("dmmultipath", true, &[]),
    Entry::to_come("drbd", false, &[]),
    Entry::to_come("drm", false, &[]),
    Entry::to_come("fibrechannel", true, &[]),
    Entry::to_come("infiniband", true, &["device-exclude", "device-include"]),
    Entry::to_come("ipvs", true, &["backend-labels"]),
    Entry::to_come(
        "ntp",
        false,
        &[
            "ip-ttl",
            "local-offset-tolerance",
            "max-distance",
            "protocol-version",
            "server",
            "server-is-local",
            "server-port",
        ],
    ),
    Entry::to_come("nvmesubsystem", false, &[]),
    Entry::to_come("pcidevice", false, &[]),
    Entry::to_come("perf", false, &["cpus", "tracepoint"]),
    Entry::to_come("runit", false, &["servicedir"]),
    Entry::to_come("supervisord", false, &["url"]),
    Entry::to_come("tapestats", true, &["ignored-devices"]),
    Entry::to_come("wifi", false, &["fixtures"]),
    Entry::to_come("xfrm", false, &[]),
    Entry::to_come("zfs", true, &[]),
];
