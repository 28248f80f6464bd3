//! Which libvirt, and what to ask it.

use clap::ArgAction;

/// The flags about libvirt itself.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct LibvirtFlags {
    /// Where libvirt is: the path of a socket, or `qemu:///system` and the like; every
    /// other URI needs a build with the feature virt. Without it, the read-only socket
    /// that exists.
    #[arg(long = "libvirt.uri", value_name = "URI")]
    pub libvirt_uri: Option<String>,
    /// Which groups of statistics to ask for. Of the others, iothread and vm ask each
    /// domain's monitor one more question and two.
    #[arg(
        long = "libvirt.stats",
        value_name = "GROUP,...",
        value_delimiter = ',',
        default_value = "state,cpu,balloon,vcpu,interface,block"
    )]
    pub libvirt_stats: Vec<StatsGroup>,
    /// Ask each domain that runs what migration, save or other job it is at, too.
    #[arg(long = "libvirt.jobs", default_value_t = false, action = ArgAction::Set)]
    pub libvirt_jobs: bool,
}

/// A group of statistics, as `virsh domstats` calls it.
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
    /// Hardware counters, where they were switched on.
    Perf,
    /// Threads of QEMU's that do I/O.
    Iothread,
    /// Memory bandwidth, where it is monitored.
    Memory,
    /// How fast memory is written to, where that was measured.
    Dirtyrate,
    /// KVM's own statistics.
    Vm,
}

impl StatsGroup {
    /// Its bit in a request, as in libvirt's header `libvirt-domain.h`.
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
