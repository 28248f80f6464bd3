//! Command-line flags of the libvirt client.

use clap::ArgAction;

/// Command-line flags of the libvirt client.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct LibvirtFlags {
    /// Path of the libvirt socket, or a URI such as `qemu:///system`. URIs that need more than a
    /// local socket require a build with feature `virt`. Default: the read-only socket that
    /// exists.
    #[arg(long = "libvirt.uri", value_name = "URI")]
    pub libvirt_uri: Option<String>,
    /// Groups of statistics to query. Group iothread needs one additional monitor command per
    /// domain, group vm two.
    #[arg(
        long = "libvirt.stats",
        value_name = "GROUP,...",
        value_delimiter = ',',
        default_value = "state,cpu,balloon,vcpu,interface,block"
    )]
    pub libvirt_stats: Vec<StatsGroup>,
    /// Also query the migration, save or other job of each running domain.
    #[arg(long = "libvirt.jobs", default_value_t = false, action = ArgAction::Set)]
    pub libvirt_jobs: bool,
}

/// Group of statistics, named as in `virsh domstats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StatsGroup {
    /// State and reason.
    State,
    /// CPU time.
    Cpu,
    /// Memory.
    Balloon,
    /// Virtual CPUs.
    Vcpu,
    /// Network interfaces.
    Interface,
    /// Disks.
    Block,
    /// Hardware counters, where enabled.
    Perf,
    /// QEMU's I/O threads.
    Iothread,
    /// Memory bandwidth, where monitored.
    Memory,
    /// Memory dirty rate, where measured.
    Dirtyrate,
    /// KVM statistics.
    Vm,
}

impl StatsGroup {
    /// Bit of the group in a request, as in libvirt's header `libvirt-domain.h`.
    #[must_use]
    pub fn bit(self) -> u32 {
        match self {
            Self::State => 1,
            Self::Cpu => 1 << 1,
            Self::Balloon => 1 << 2,
            Self::Vcpu => 1 << 3,
            Self::Interface => 1 << 4,
            Self::Block => 1 << 5,
            Self::Perf => 1 << 6,
            Self::Iothread => 1 << 7,
            Self::Memory => 1 << 8,
            Self::Dirtyrate => 1 << 9,
            Self::Vm => 1 << 10,
        }
    }
}
