//! Domain data shared by all libvirt clients. An unknown value is `None`, never 0.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::sources::LinkTraffic;

/// A domain.
#[derive(Debug, Clone, Default)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID in text form.
    pub uuid: String,
    /// libvirt's ID of this run; only while the domain is active.
    pub id: Option<u32>,
    /// Its state.
    pub state: Option<DomainState>,
    /// Reason for the state, as libvirt's number: its meaning depends on the state.
    pub reason: Option<i32>,
    /// The last definition that was read.
    pub definition: Option<Arc<DomainDef>>,
    /// Its statistics. An inactive domain has neither CPU time nor current memory here, although
    /// libvirt reports both.
    pub stats: DomainStats,
    /// Whether libvirt left out what it could not read without waiting.
    pub is_partial: bool,
    /// Whether an earlier call about it is still pending.
    pub is_stuck: bool,
    /// How long the reply took.
    pub response_time: Option<Duration>,
    /// Start time since the Unix epoch, from its cgroup; `None` where the cgroup is not visible.
    pub started: Option<Duration>,
    /// Lifecycle counts since the exporter started, if the daemon reports events.
    pub lifecycle: Option<LifecycleCounts>,
    /// Its migration, save or other job, if jobs are collected.
    pub job: Option<DomainJob>,
}

/// Statistics of a running domain that come from the host instead of libvirt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostStats {
    /// libvirt's ID of the run.
    pub id: u32,
    /// Start time since the Unix epoch.
    pub started: Option<Duration>,
    /// CPU time: total, user and system.
    pub cpu: Option<CpuTimes>,
    /// Its current virtual CPUs.
    pub vcpus: Option<Vec<Vcpu>>,
    /// The host's network interfaces visible to its process, by name.
    pub links: Option<Arc<HashMap<String, LinkTraffic>>>,
}

/// Domain state (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainState {
    /// 0
    NoState,
    /// 1
    Running,
    /// 2: waiting for a resource.
    Blocked,
    /// 3
    Paused,
    /// 4: being shut down.
    Shutdown,
    /// 5
    Shutoff,
    /// 6
    Crashed,
    /// 7: suspended by the guest's power management.
    PmSuspended,
}

impl DomainState {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::NoState,
        Self::Running,
        Self::Blocked,
        Self::Paused,
        Self::Shutdown,
        Self::Shutoff,
        Self::Crashed,
        Self::PmSuspended,
    ];

    /// Returns the state with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether the domain has a process.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, Self::NoState | Self::Shutoff | Self::Crashed)
    }
}

/// Lifecycle counts of a domain, from events since the exporter started; with libvirt's library,
/// which delivers no events here, from the differences between two scrapes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifecycleCounts {
    /// Starts.
    pub starts: u64,
    /// Stops, for any reason.
    pub stops: u64,
    /// Crashes.
    pub crashes: u64,
    /// I/O errors by target name of the disk, if the daemon reports them.
    pub io_errors: Option<BTreeMap<String, u64>>,
}

/// Parsed domain XML, documented in libvirt's `formatdomain`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainDef {
    /// Title.
    pub title: Option<String>,
    /// Operating system type, such as `hvm`.
    pub os_type: Option<String>,
    /// Architecture, such as `x86_64`.
    pub arch: Option<String>,
    /// Machine type, such as `pc-q35-7.2`.
    pub machine: Option<String>,
    /// Maximum number of virtual CPUs, reachable without a restart.
    pub max_vcpus: Option<u64>,
    /// Interval in seconds at which the guest reports its memory statistics; `None` if it does not
    /// report them.
    pub balloon_period: Option<u32>,
    /// Disks, floppies and CD-ROMs, in order.
    pub disks: Vec<DiskDef>,
    /// Network interfaces, in order.
    pub interfaces: Vec<InterfaceDef>,
    /// Metadata of `OpenStack` Nova.
    pub nova: Option<Nova>,
}

/// A disk in the domain XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskDef {
    /// Target name, also used in statistics: `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// Type: `file`, `block`, `network`, `volume`, …
    pub kind: Option<String>,
    /// Bus: `virtio`, `scsi`, …
    pub bus: Option<String>,
    /// Driver name, such as `qemu`.
    pub driver_name: Option<String>,
    /// Driver type: `qcow2`, `raw`, …
    pub driver_type: Option<String>,
    /// Cache mode.
    pub cache: Option<String>,
    /// Discard mode.
    pub discard: Option<String>,
    /// File, device or name of the source; `None` without a medium.
    pub source: Option<String>,
    /// Network protocol of the source: `rbd`, `nbd`, …
    pub source_protocol: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// I/O limits, if there are any.
    pub limits: Option<Box<IoTune>>,
}

/// I/O limits of a disk from `<iotune>`. A missing or zero limit is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoTune {
    /// Limits in bytes.
    pub bytes: IoTuneLimits,
    /// Limits in requests.
    pub requests: IoTuneLimits,
    /// Size in bytes above which a request counts as several requests.
    pub request_size: Option<u64>,
}

/// Limits by direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoTuneLimits {
    /// Reads and writes together.
    pub total: IoLimit,
    /// Reads.
    pub read: IoLimit,
    /// Writes.
    pub write: IoLimit,
}

/// One limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// Units per second.
    pub rate: Option<u64>,
    /// Units per second during a burst.
    pub burst: Option<u64>,
    /// Maximum duration of a burst.
    pub burst_length: Option<Duration>,
}

/// A network interface in the domain XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceDef {
    /// Name of the host's device; `None` before the domain runs, and for interfaces without a host
    /// device.
    pub target: Option<String>,
    /// Type: `bridge`, `network`, `ethernet`, `hostdev`, `user`, …
    pub kind: String,
    /// Source bridge.
    pub source_bridge: Option<String>,
    /// Source network.
    pub source_network: Option<String>,
    /// MAC address.
    pub mac: Option<String>,
    /// Device model, such as `virtio`.
    pub model: Option<String>,
    /// MTU.
    pub mtu: Option<u32>,
    /// ID of its port on a virtual switch.
    pub virtual_port: Option<String>,
}

/// Instance metadata of `OpenStack` Nova.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nova {
    /// Display name.
    pub name: Option<String>,
    /// Name of the flavor.
    pub flavor: Option<String>,
    /// Name of the owner.
    pub user_name: Option<String>,
    /// ID of the owner.
    pub user_id: Option<String>,
    /// Name of the project.
    pub project_name: Option<String>,
    /// ID of the project.
    pub project_id: Option<String>,
    /// Type of the root disk's source, such as `image`.
    pub root_type: Option<String>,
    /// ID of the root disk's source.
    pub root_id: Option<String>,
}

/// Statistics of a domain.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainStats {
    /// CPU time of all its processes and threads on the host.
    pub cpu: CpuTimes,
    /// Memory statistics.
    pub balloon: Balloon,
    /// Current number of virtual CPUs.
    pub vcpu_current: Option<u64>,
    /// Maximum number of virtual CPUs.
    pub vcpu_maximum: Option<u64>,
    /// Online virtual CPUs, in order.
    pub vcpus: Vec<Vcpu>,
    /// Network interfaces for which libvirt has counters, in order.
    pub interfaces: Vec<DomainInterface>,
    /// Disks, in order.
    pub disks: Vec<DomainDisk>,
    /// QEMU's I/O threads, in order.
    pub io_threads: Vec<IoThread>,
    /// Rate at which its memory is dirtied.
    pub dirty_rate: Option<DirtyRate>,
    /// KVM statistics of the whole domain: the name without `vm.`, such as `remote_tlb_flush.sum`,
    /// and the value.
    pub kvm: Vec<(String, u64)>,
    /// Hardware counters by name: `cache_misses`.
    pub perf: Vec<(String, u64)>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Total.
    pub time: Option<Duration>,
    /// User mode.
    pub user: Option<Duration>,
    /// Kernel mode.
    pub system: Option<Duration>,
}

/// Memory statistics, in bytes unless they are counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balloon {
    /// Current balloon size.
    pub current: Option<u64>,
    /// Maximum memory.
    pub maximum: Option<u64>,
    /// Swapped in by the guest.
    pub swap_in: Option<u64>,
    /// Swapped out by the guest.
    pub swap_out: Option<u64>,
    /// Major page faults in the guest.
    pub major_fault: Option<u64>,
    /// Minor page faults in the guest.
    pub minor_fault: Option<u64>,
    /// Memory that the guest does not use at all.
    pub unused: Option<u64>,
    /// Memory visible to the guest.
    pub available: Option<u64>,
    /// Memory that the guest can use without swapping.
    pub usable: Option<u64>,
    /// Page cache of the guest.
    pub disk_caches: Option<u64>,
    /// Successful huge page allocations in the guest.
    pub hugetlb_pgalloc: Option<u64>,
    /// Failed huge page allocations in the guest.
    pub hugetlb_pgfail: Option<u64>,
    /// Last report of the guest since the Unix epoch; `None` if there was none.
    pub last_update: Option<Duration>,
    /// Resident set size of its process on the host.
    pub rss: Option<u64>,
}

/// Statistics of a virtual CPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vcpu {
    /// Index.
    pub number: u32,
    /// State as libvirt's number: 0 offline, 1 running, 2 blocked.
    pub state: Option<u64>,
    /// CPU time.
    pub time: Option<Duration>,
    /// Time spent waiting for I/O.
    pub wait: Option<Duration>,
    /// Time spent runnable while the host ran something else.
    pub delay: Option<Duration>,
    /// The host CPU that it last ran on.
    pub cpu: Option<u32>,
    /// KVM statistics: the name without `vcpu.N.`, and the value.
    pub kvm: Vec<(String, u64)>,
}

/// Counters of a network interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainInterface {
    /// Name of the host's device.
    pub name: String,
    /// Received by the guest.
    pub received: InterfaceTraffic,
    /// Sent by the guest.
    pub sent: InterfaceTraffic,
}

/// Traffic in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceTraffic {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Packets with errors.
    pub errors: Option<u64>,
    /// Dropped packets.
    pub drops: Option<u64>,
}

/// Counters of a disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainDisk {
    /// Target name in the domain XML: `vda`.
    pub name: String,
    /// File or device of the source; `None` without a medium.
    pub path: Option<String>,
    /// Reads.
    pub read: DiskOperations,
    /// Writes.
    pub written: DiskOperations,
    /// Flushes; they have no bytes.
    pub flushed: DiskOperations,
    /// I/O errors, where the hypervisor counts them.
    pub errors: Option<u64>,
    /// Allocated bytes of the source, without holes.
    pub allocation: Option<u64>,
    /// Size in bytes as seen by the guest.
    pub capacity: Option<u64>,
    /// Size in bytes of the file or device of the source.
    pub physical: Option<u64>,
}

/// Requests of one kind to a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOperations {
    /// Number of requests.
    pub requests: Option<u64>,
    /// Bytes transferred.
    pub bytes: Option<u64>,
    /// Total time of all requests.
    pub time: Option<Duration>,
}

/// An I/O thread of QEMU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoThread {
    /// ID.
    pub number: u32,
    /// Maximum time to poll before sleeping.
    pub poll_max: Option<Duration>,
}

/// Memory dirty rate from the last measurement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirtyRate {
    /// Bytes per second; `None` before the first measurement.
    pub bytes_per_second: Option<u64>,
}

/// An active migration, save or dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainJob {
    /// Job type as libvirt's number: 0 none, 1 bounded, 2 unbounded, …
    pub kind: Option<i32>,
    /// Time since the start.
    pub elapsed: Option<Duration>,
    /// Estimated time to completion.
    pub remaining: Option<Duration>,
    /// Bytes of memory and disks: total, processed, remaining.
    pub data: [Option<u64>; 3],
    /// Bytes of memory: total, processed, remaining.
    pub memory: [Option<u64>; 3],
    /// Bytes of disks: total, processed, remaining.
    pub file: [Option<u64>; 3],
}
