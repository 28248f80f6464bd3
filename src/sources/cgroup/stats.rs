//! What control groups say, in one vocabulary for both versions.

use std::time::Duration;

/// What a group used of the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupCpu {
    /// Time on all CPUs.
    pub usage: Option<Duration>,
    /// Time in user mode.
    pub user: Option<Duration>,
    /// Time in the kernel.
    pub system: Option<Duration>,
    /// How its quota held it back; `None` where it has no quota.
    pub throttling: Option<Throttling>,
}

/// How a quota of CPU time held a group back.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Throttling {
    /// Periods in which it wanted to run.
    pub periods: Option<u64>,
    /// Of those, the periods in which it was held back.
    pub throttled_periods: Option<u64>,
    /// How long it was held back, summed over CPUs.
    pub throttled: Option<Duration>,
    /// Periods in which it ran beyond its quota by a burst.
    pub burst_periods: Option<u64>,
    /// How long it ran beyond its quota.
    pub burst: Option<Duration>,
}

/// What a group may use of the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuLimits {
    /// The period of the quota.
    pub period: Option<Duration>,
    /// Time on all CPUs in each period; `None` where there is no limit.
    pub quota: Option<Duration>,
    /// Its share beside others, 1024 being the default: version 1's `cpu.shares`, or
    /// version 2's weight as the scheduler scales it, `weight * 1024 / 100`.
    pub shares: Option<u64>,
}

/// What a group has in memory, in bytes unless said otherwise. Sums over the groups
/// below it where the kernel has them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupMemory {
    /// Everything that is charged to it.
    pub usage: Option<u64>,
    /// The most that was charged to it.
    pub max_usage: Option<u64>,
    /// How often its limit was hit.
    pub failcnt: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// In swap.
    pub swap: Option<u64>,
    /// Files that are mapped.
    pub mapped_file: Option<u64>,
    /// Memory of the kernel's.
    pub kernel: Option<u64>,
    /// Page cache that was used lately.
    pub active_file: Option<u64>,
    /// Page cache that was not used lately.
    pub inactive_file: Option<u64>,
    /// Page cache that must be written.
    pub file_dirty: Option<u64>,
    /// Page cache that is being written.
    pub file_writeback: Option<u64>,
    /// Page faults of the group and those below it.
    pub pgfault: Option<u64>,
    /// Page faults of the group and those below it that had to wait for a disk.
    pub pgmajfault: Option<u64>,
    /// Page faults of the group itself; version 2 does not tell them apart.
    pub own_pgfault: Option<u64>,
    /// Page faults of the group itself that had to wait for a disk.
    pub own_pgmajfault: Option<u64>,
    /// Pages that were looked at to be reclaimed.
    pub pgscan: Option<u64>,
    /// Pages that were reclaimed.
    pub pgsteal: Option<u64>,
    /// Pages of files that were read again soon after they had been reclaimed.
    pub workingset_refault_file: Option<u64>,
    /// Anonymous pages that were read again soon after they had been reclaimed.
    pub workingset_refault_anon: Option<u64>,
    /// How often it was throttled above `memory.high`.
    pub events_high: Option<u64>,
    /// How often its usage was about to go over `memory.max`.
    pub events_max: Option<u64>,
    /// Tasks that the kernel killed for want of memory.
    pub oom_kills: Option<u64>,
}

impl CgroupMemory {
    /// What could not be reclaimed easily, as cAdvisor and Kubernetes reckon it: usage
    /// less inactive page cache.
    #[must_use]
    pub fn working_set(&self) -> Option<u64> {
        Some(self.usage?.saturating_sub(self.inactive_file?))
    }
}

/// How many pages of a kind a group has on one NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumaPages {
    /// The node's number.
    pub node: u32,
    /// What they hold.
    pub kind: PageKind,
    /// Whether those of the groups below it are among them; version 2 counts no others.
    pub is_hierarchical: bool,
    /// How many.
    pub pages: u64,
}

/// What pages hold. Version 1 counts by the lists from which pages are reclaimed: there
/// shared memory is anonymous, and what cannot be reclaimed is of no other kind. Version
/// 2 counts shared memory with the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Page cache.
    File,
    /// What is in no file.
    Anon,
    /// What cannot be reclaimed.
    Unevictable,
}

impl PageKind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::File, Self::Anon, Self::Unevictable];

    /// Its name in the kernel's files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Anon => "anon",
            Self::Unevictable => "unevictable",
        }
    }
}

/// What a group may have in memory. `Some(None)` is without a limit, `None` unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryLimits {
    /// The hard limit in bytes.
    pub limit: Option<Option<u64>>,
    /// In bytes: version 1's limit of memory and swap together, version 2's of swap.
    pub swap_limit: Option<Option<u64>>,
    /// What it is left with when memory is scarce, in bytes: version 1's soft limit,
    /// version 2's `memory.low`.
    pub reservation: Option<Option<u64>>,
}

/// Tasks of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pids {
    /// Processes and threads.
    pub current: Option<u64>,
    /// How many there may be. `Some(None)` is without a limit.
    pub max: Option<Option<u64>>,
}

/// How long tasks of a group waited for a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureStall {
    /// Time in which some task waited.
    pub some: Option<Duration>,
    /// Time in which all tasks waited.
    pub full: Option<Duration>,
}

/// How long tasks of a group waited, by resource; `None` where it has no such file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupPressure {
    /// For a CPU.
    pub cpu: Option<PressureStall>,
    /// For memory.
    pub memory: Option<PressureStall>,
    /// For I/O.
    pub io: Option<PressureStall>,
}

/// What a group did to block devices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockIo {
    /// By device.
    pub devices: Vec<DeviceIo>,
    /// Whether the kernel counts at all: version 1 on newer kernels begins to count, for
    /// all groups, when a limit is first written for a device, and until then every file
    /// says `Total 0`. `None` where that cannot be told from an idle group.
    pub is_accounted: Option<bool>,
}

/// What a group did to one block device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceIo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub written_bytes: Option<u64>,
    /// Requests to read.
    pub reads: Option<u64>,
    /// Requests to write.
    pub writes: Option<u64>,
    /// Bytes by operation as the kernel names them: Read, Write, Sync, Async, Discard,
    /// Total; version 2 has only the first two, and Discard.
    pub bytes_by_operation: Vec<(Operation, u64)>,
    /// blk-iocost: how long it used the device.
    pub cost_usage: Option<Duration>,
    /// blk-iocost: how long its requests waited.
    pub cost_wait: Option<Duration>,
    /// blk-iocost: how long it was in debt.
    pub cost_indebt: Option<Duration>,
    /// blk-iocost: how long it was delayed.
    pub cost_indelay: Option<Duration>,
}

/// A kind of request, as version 1's files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Requests that somebody waits for.
    Sync,
    /// Requests that nobody waits for.
    Async,
    /// Discards.
    Discard,
    /// All of them.
    Total,
}

impl Operation {
    /// Its name in the kernel's files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Sync => "Sync",
            Self::Async => "Async",
            Self::Discard => "Discard",
            Self::Total => "Total",
        }
    }
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HugePages {
    /// The size as the files are named: `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: Option<u64>,
    /// The most bytes that were in use.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub failcnt: Option<u64>,
}
