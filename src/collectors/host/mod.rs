//! Host metrics: the metric families of `node_exporter` under their original names.
//!
//! To add a collector, write its module and add it here in two places.

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
mod mountstats;
mod netclass;
mod netdev;
mod netstat;
mod network_route;
mod nfs;
mod nfsd;
mod nvme;
mod os;
mod positional_cache;
mod powersupplyclass;
mod pressure;
mod processes;
mod qdisc;
mod rapl;
mod sanitize;
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

/// All host collectors.
pub(super) const ALL: &[Entry] = &[
    Entry::new::<arp::Arp>(Host),
    Entry::new::<bonding::Bonding>(Host),
    Entry::new::<btrfs::Btrfs>(Host),
    Entry::new::<buddyinfo::BuddyInfo>(Host),
    Entry::new::<cgroups::CgroupsCollector>(Host),
    Entry::new::<conntrack::Conntrack>(Host),
    Entry::new::<cpu::CpuCollector>(Host),
    Entry::new::<cpu_vulnerabilities::CpuVulnerabilities>(Host),
    Entry::new::<cpufreq::CpuFreq>(Host),
    Entry::new::<diskstats::DiskStats>(Host),
    Entry::new::<dmi::Dmi>(Host),
    Entry::new::<edac::Edac>(Host),
    Entry::new::<entropy::Entropy>(Host),
    Entry::new::<ethtool::EthtoolCollector>(Host),
    Entry::new::<filefd::FileFd>(Host),
    Entry::new::<filesystem::FileSystem>(Host),
    Entry::new::<hwmon::Hwmon>(Host),
    Entry::new::<interrupts::Interrupts>(Host),
    Entry::new::<kernel_hung::KernelHung>(Host),
    Entry::new::<ksmd::Ksmd>(Host),
    Entry::new::<lnstat::LnStat>(Host),
    Entry::new::<loadavg::LoadAvg>(Host),
    Entry::new::<logind::Logind>(Host),
    Entry::new::<mdadm::Mdadm>(Host),
    Entry::new::<meminfo::MemInfo>(Host),
    Entry::new::<meminfo_numa::MemInfoNuma>(Host),
    Entry::new::<mountstats::MountStats>(Host),
    Entry::new::<netclass::NetClass>(Host),
    Entry::new::<netdev::NetDev>(Host),
    Entry::new::<netstat::NetStat>(Host),
    Entry::new::<network_route::NetworkRoute>(Host),
    Entry::new::<nfs::Nfs>(Host),
    Entry::new::<nfsd::Nfsd>(Host),
    Entry::new::<nvme::Nvme>(Host),
    Entry::new::<os::Os>(Host),
    Entry::new::<powersupplyclass::PowerSupplyClass>(Host),
    Entry::new::<pressure::PressureCollector>(Host),
    Entry::new::<processes::Processes>(Host),
    Entry::new::<qdisc::QdiscCollector>(Host),
    Entry::new::<rapl::Rapl>(Host),
    Entry::new::<schedstat::SchedStatCollector>(Host),
    Entry::new::<selinux::SeLinux>(Host),
    Entry::new::<slabinfo::SlabInfo>(Host),
    Entry::new::<sockstat::SockStat>(Host),
    Entry::new::<softirqs::SoftIrqs>(Host),
    Entry::new::<softnet::SoftNet>(Host),
    Entry::new::<stat::StatCollector>(Host),
    Entry::new::<swap::Swap>(Host),
    Entry::new::<sysctl::Sysctl>(Host),
    Entry::new::<systemd::Systemd>(Host),
    Entry::new::<tcpstat::TcpStat>(Host),
    Entry::new::<textfile::Textfile>(Host),
    Entry::new::<thermal_zone::ThermalZone>(Host),
    Entry::new::<time::Time>(Host),
    Entry::new::<timex::Timex>(Host),
    Entry::new::<udp_queues::UdpQueues>(Host),
    Entry::new::<uname::Uname>(Host),
    Entry::new::<vmstat::VmStat>(Host),
    Entry::new::<watchdog::Watchdog>(Host),
    Entry::new::<xfs::Xfs>(Host),
    Entry::new::<zoneinfo::ZoneInfo>(Host),
    // Not implemented yet; replace each entry by its collector.
    Entry::planned("bcache", true, &["priorityStats"]),
    Entry::planned("bcachefs", true, &[]),
    Entry::planned("dmmultipath", true, &[]),
    Entry::planned("drbd", false, &[]),
    Entry::planned("drm", false, &[]),
    Entry::planned("fibrechannel", true, &[]),
    Entry::planned("infiniband", true, &["device-exclude", "device-include"]),
    Entry::planned("ipvs", true, &["backend-labels"]),
    Entry::planned(
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
    Entry::planned("nvmesubsystem", false, &[]),
    Entry::planned("pcidevice", false, &[]),
    Entry::planned("perf", false, &["cpus", "tracepoint"]),
    Entry::planned("runit", false, &["servicedir"]),
    Entry::planned("supervisord", false, &["url"]),
    Entry::planned("tapestats", true, &["ignored-devices"]),
    Entry::planned("wifi", false, &["fixtures"]),
    Entry::planned("xfrm", false, &[]),
    Entry::planned("zfs", true, &[]),
];
