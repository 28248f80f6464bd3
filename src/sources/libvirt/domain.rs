//! The words for what is known of a virtual machine, whoever told it. What is not known is
//! `None`, never 0.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::sources::LinkTraffic;

/// A virtual machine.
#[derive(Debug, Clone, Default)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID, as it is written.
    pub uuid: String,
    /// libvirt's number for this run; only while it runs.
    pub id: Option<u32>,
    /// What it is doing.
    pub state: Option<DomainState>,
    /// Why, as libvirt's number: what it means depends on the state.
    pub reason: Option<i32>,
    /// What its description says, as it was last read.
    pub definition: Option<Arc<DomainDef>>,
    /// What it used. Of one that does not run neither CPU time nor memory, whatever libvirt
    /// says of them.
    pub stats: DomainStats,
    /// Whether libvirt left out what it could not get without waiting.
    pub is_partial: bool,
    /// Whether an earlier question about it has no answer yet.
    pub is_stuck: bool,
    /// How long the answer took.
    pub response_time: Option<Duration>,
    /// When it was started, from 1970 on, by its control group; nothing where that is not
    /// seen.
    pub started: Option<Duration>,
    /// What became of it since this exporter listens, if anybody tells.
    pub lifecycle: Option<LifecycleCounts>,
    /// Its migration, save or other job, if that was asked for.
    pub job: Option<DomainJob>,
}

/// What is known of a run of a domain without asking libvirt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostStats {
    /// libvirt's number for the run.
    pub id: u32,
    /// When it began, from 1970 on.
    pub started: Option<Duration>,
    /// CPU time, all three of it.
    pub cpu: Option<CpuTimes>,
    /// The virtual CPUs that it has now.
    pub vcpus: Option<Vec<Vcpu>>,
    /// The network interfaces of the host that its process sees.
    pub links: Option<Arc<HashMap<String, LinkTraffic>>>,
}

/// What a domain is doing, with libvirt's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainState {
    /// 0
    NoState,
    /// 1
    Running,
    /// 2: waits for something.
    Blocked,
    /// 3
    Paused,
    /// 4: about to be off.
    Shutdown,
    /// 5
    Shutoff,
    /// 6
    Crashed,
    /// 7: the guest sleeps.
    PmSuspended,
}

impl DomainState {
    /// All of them, in the order of their numbers.
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

    /// The one of this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether there is a process for it.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, Self::NoState | Self::Shutoff | Self::Crashed)
    }
}

/// What became of a domain since this exporter listens, by events; or, of those that libvirt
/// was asked about through its library, since it looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifecycleCounts {
    /// How often it was started.
    pub starts: u64,
    /// How often it stopped, for whatever reason.
    pub stops: u64,
    /// How often it crashed.
    pub crashes: u64,
    /// Errors of its disks, by the name the guest knows them by, if anybody tells.
    pub io_errors: Option<BTreeMap<String, u64>>,
}

/// What a domain's description says: its XML, documented in libvirt's `formatdomain`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainDef {
    /// Its title.
    pub title: Option<String>,
    /// `hvm` and the like.
    pub os_type: Option<String>,
    /// `x86_64` and the like.
    pub arch: Option<String>,
    /// `pc-q35-7.2` and the like.
    pub machine: Option<String>,
    /// Virtual CPUs that it can have without a restart.
    pub max_vcpus: Option<u64>,
    /// Seconds from one report of the guest's about its memory to the next; without it
    /// the guest is not asked.
    pub balloon_period: Option<u32>,
    /// Its disks, floppies and CD-ROMs, in order.
    pub disks: Vec<DiskDef>,
    /// Its network interfaces, in order.
    pub interfaces: Vec<InterfaceDef>,
    /// What `OpenStack` Nova wrote into its metadata.
    pub nova: Option<Nova>,
}

/// What a domain's description says of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskDef {
    /// The name it has in statistics: `vda`.
    pub target: String,
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// `file`, `block`, `network`, `volume`, …
    pub kind: Option<String>,
    /// `virtio`, `scsi`, …
    pub bus: Option<String>,
    /// `qemu`
    pub driver_name: Option<String>,
    /// `qcow2`, `raw`, …
    pub driver_type: Option<String>,
    /// How it is cached.
    pub cache: Option<String>,
    /// What becomes of requests to discard.
    pub discard: Option<String>,
    /// The file, device, or name of what it is made of; none without a medium.
    pub source: Option<String>,
    /// How it is reached over the network: `rbd`, `nbd`, …
    pub source_protocol: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// What it is held to, if it is held to anything.
    pub limits: Option<Box<IoTune>>,
}

/// What a disk is held to by its description's `<iotune>`. Of what has no limit there is
/// none here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoTune {
    /// Bytes.
    pub bytes: IoTuneLimits,
    /// Requests.
    pub requests: IoTuneLimits,
    /// Bytes of which each so many, where a request has more, count as a request.
    pub request_size: Option<u64>,
}

/// Limits by what is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoTuneLimits {
    /// Of all together.
    pub total: IoLimit,
    /// Of what is read.
    pub read: IoLimit,
    /// Of what is written.
    pub write: IoLimit,
}

/// A limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// So many a second.
    pub rate: Option<u64>,
    /// So many a second for a while.
    pub burst: Option<u64>,
    /// For so long.
    pub burst_length: Option<Duration>,
}

/// What a domain's description says of a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceDef {
    /// The host's name for it; none before the domain runs, and for those that are no
    /// device of the host's.
    pub target: Option<String>,
    /// `bridge`, `network`, `ethernet`, `hostdev`, `user`, …
    pub kind: String,
    /// The bridge it is on.
    pub source_bridge: Option<String>,
    /// The network it is on.
    pub source_network: Option<String>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// `virtio` and the like.
    pub model: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// The id of its port on a virtual switch.
    pub virtual_port: Option<String>,
}

/// What `OpenStack` Nova says of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nova {
    /// Its name as its users see it.
    pub name: Option<String>,
    /// The name of its flavor.
    pub flavor: Option<String>,
    /// Who owns it.
    pub user_name: Option<String>,
    /// The same, as an id.
    pub user_id: Option<String>,
    /// The project it is in.
    pub project_name: Option<String>,
    /// The same, as an id.
    pub project_id: Option<String>,
    /// What its root disk was made from: `image` and the like.
    pub root_type: Option<String>,
    /// The same, as an id.
    pub root_id: Option<String>,
}

/// What a domain used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainStats {
    /// CPU time of all it runs on the host.
    pub cpu: CpuTimes,
    /// Memory.
    pub balloon: Balloon,
    /// How many virtual CPUs it has.
    pub vcpu_current: Option<u64>,
    /// How many it could have.
    pub vcpu_maximum: Option<u64>,
    /// Its virtual CPUs that there are, in order.
    pub vcpus: Vec<Vcpu>,
    /// Its network interfaces that libvirt counts for, in order.
    pub interfaces: Vec<DomainInterface>,
    /// Its disks, in order.
    pub disks: Vec<DomainDisk>,
    /// Threads of QEMU's that do I/O, in order.
    pub io_threads: Vec<IoThread>,
    /// How fast its memory is written to.
    pub dirty_rate: Option<DirtyRate>,
    /// KVM's statistics of the whole domain: the name without `vm.`, such as
    /// `remote_tlb_flush.sum`, and the value.
    pub kvm: Vec<(String, u64)>,
    /// Hardware counters by name: `cache_misses`.
    pub perf: Vec<(String, u64)>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In any mode.
    pub time: Option<Duration>,
    /// In user mode.
    pub user: Option<Duration>,
    /// In the kernel.
    pub system: Option<Duration>,
}

/// Memory, in bytes where it is no count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balloon {
    /// What it has now.
    pub current: Option<u64>,
    /// What it may have.
    pub maximum: Option<u64>,
    /// Read back from swap by the guest.
    pub swap_in: Option<u64>,
    /// Swapped out by the guest.
    pub swap_out: Option<u64>,
    /// Faults of the guest's that waited for a disk.
    pub major_fault: Option<u64>,
    /// Other faults of the guest's.
    pub minor_fault: Option<u64>,
    /// What the guest does not use at all.
    pub unused: Option<u64>,
    /// What the guest sees.
    pub available: Option<u64>,
    /// What the guest could use without swapping.
    pub usable: Option<u64>,
    /// The guest's page cache.
    pub disk_caches: Option<u64>,
    /// Huge pages that the guest got.
    pub hugetlb_pgalloc: Option<u64>,
    /// Huge pages that the guest did not get.
    pub hugetlb_pgfail: Option<u64>,
    /// When the guest last reported, from 1970 on; none if it never did.
    pub last_update: Option<Duration>,
    /// What the host has in RAM for it.
    pub rss: Option<u64>,
}

/// A virtual CPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vcpu {
    /// Its number.
    pub number: u32,
    /// libvirt's number for what it is doing: 0 offline, 1 running, 2 blocked.
    pub state: Option<u64>,
    /// CPU time that it used.
    pub time: Option<Duration>,
    /// Time that it waited for I/O.
    pub wait: Option<Duration>,
    /// Time that it could have run and the host ran something else.
    pub delay: Option<Duration>,
    /// The host's CPU that it ran on last.
    pub cpu: Option<u32>,
    /// KVM's statistics of it: the name without `vcpu.N.`, and the value.
    pub kvm: Vec<(String, u64)>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainInterface {
    /// The host's name for it.
    pub name: String,
    /// What the guest received.
    pub received: InterfaceTraffic,
    /// What the guest sent.
    pub sent: InterfaceTraffic,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceTraffic {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Packets that were damaged.
    pub errors: Option<u64>,
    /// Packets that were dropped.
    pub drops: Option<u64>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainDisk {
    /// The name the guest's description has for it: `vda`.
    pub name: String,
    /// The file or device it is made of; none without a medium.
    pub path: Option<String>,
    /// What was read.
    pub read: DiskOperations,
    /// What was written.
    pub written: DiskOperations,
    /// How often it was told to write back what it caches; without bytes.
    pub flushed: DiskOperations,
    /// Errors, where the hypervisor counts them.
    pub errors: Option<u64>,
    /// Bytes in use of what it is made of, holes left out.
    pub allocation: Option<u64>,
    /// Bytes that the guest sees.
    pub capacity: Option<u64>,
    /// Bytes of the file or device that it is made of.
    pub physical: Option<u64>,
}

/// Requests to a disk of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOperations {
    /// How many.
    pub requests: Option<u64>,
    /// How much.
    pub bytes: Option<u64>,
    /// How long they took together.
    pub time: Option<Duration>,
}

/// A thread of QEMU's that does I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoThread {
    /// Its number.
    pub number: u32,
    /// How long it polls at most before it sleeps.
    pub poll_max: Option<Duration>,
}

/// How fast a domain's memory is written to, as was last measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirtyRate {
    /// Bytes per second; none before it was measured.
    pub bytes_per_second: Option<u64>,
}

/// A migration, save or dump that goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainJob {
    /// libvirt's number for its kind: 0 none, 1 bounded, 2 unbounded, …
    pub kind: Option<i32>,
    /// How long it runs.
    pub elapsed: Option<Duration>,
    /// How long it may still run.
    pub remaining: Option<Duration>,
    /// Bytes of everything: in all, done, and left.
    pub data: [Option<u64>; 3],
    /// Bytes of memory: in all, done, and left.
    pub memory: [Option<u64>; 3],
    /// Bytes of disks: in all, done, and left.
    pub file: [Option<u64>; 3],
}
