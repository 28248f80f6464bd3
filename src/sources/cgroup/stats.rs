//! Statistics and limits of cgroups, in the same types for both versions.

use std::time::Duration;

/// CPU usage of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupCpu {
    /// CPU time on all CPUs.
    pub usage: Option<Duration>,
    /// CPU time in user mode.
    pub user: Option<Duration>,
    /// CPU time in kernel mode.
    pub system: Option<Duration>,
    /// Throttling by its quota; `None` without a quota.
    pub throttling: Option<Throttling>,
}

/// Throttling of a cgroup by its CPU quota.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Throttling {
    /// Periods in which it was runnable.
    pub periods: Option<u64>,
    /// Periods in which it was throttled.
    pub throttled_periods: Option<u64>,
    /// Throttled time, summed over CPUs.
    pub throttled: Option<Duration>,
    /// Periods in which it exceeded its quota in a burst.
    pub burst_periods: Option<u64>,
    /// Time in which it exceeded its quota in bursts.
    pub burst: Option<Duration>,
}

/// CPU limits and shares of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuLimits {
    /// Period of the quota.
    pub period: Option<Duration>,
    /// CPU time allowed per period on all CPUs; `None` without a limit.
    pub quota: Option<Duration>,
    /// Relative share, 1024 by default: version 1's `cpu.shares`, or version 2's weight as scaled
    /// by the scheduler, `weight * 1024 / 100`.
    pub shares: Option<u64>,
}

/// Memory usage of a cgroup, in bytes unless noted otherwise, including its descendants where the
/// kernel sums them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupMemory {
    /// All memory charged to it.
    pub usage: Option<u64>,
    /// Peak of the charged memory.
    pub max_usage: Option<u64>,
    /// Times its limit was hit.
    pub failcnt: Option<u64>,
    /// Anonymous memory.
    pub rss: Option<u64>,
    /// Page cache.
    pub cache: Option<u64>,
    /// Swap usage.
    pub swap: Option<u64>,
    /// Mapped files.
    pub mapped_file: Option<u64>,
    /// Kernel memory.
    pub kernel: Option<u64>,
    /// Page cache on the active LRU list.
    pub active_file: Option<u64>,
    /// Page cache on the inactive LRU list.
    pub inactive_file: Option<u64>,
    /// Page cache that is not yet written back.
    pub file_dirty: Option<u64>,
    /// Page cache that is being written back.
    pub file_writeback: Option<u64>,
    /// Page faults, including its descendants.
    pub pgfault: Option<u64>,
    /// Major page faults, including its descendants.
    pub pgmajfault: Option<u64>,
    /// Its own page faults; version 2 does not count these separately.
    pub own_pgfault: Option<u64>,
    /// Its own major page faults.
    pub own_pgmajfault: Option<u64>,
    /// Pages scanned for reclaim.
    pub pgscan: Option<u64>,
    /// Pages reclaimed.
    pub pgsteal: Option<u64>,
    /// File pages that were read again soon after they were reclaimed.
    pub workingset_refault_file: Option<u64>,
    /// Anonymous pages that were read again soon after they were reclaimed.
    pub workingset_refault_anon: Option<u64>,
    /// Times it was throttled above `memory.high`.
    pub events_high: Option<u64>,
    /// Times its usage was about to exceed `memory.max`.
    pub events_max: Option<u64>,
    /// Tasks killed by the OOM killer.
    pub oom_kills: Option<u64>,
}

impl CgroupMemory {
    /// Memory that cannot easily be reclaimed, as cAdvisor and Kubernetes compute it: usage minus
    /// inactive page cache.
    #[must_use]
    pub fn working_set(&self) -> Option<u64> {
        Some(self.usage?.saturating_sub(self.inactive_file?))
    }
}

/// Number of pages of one kind on one NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumaPages {
    /// Node number.
    pub node: u32,
    /// Kind of memory.
    pub kind: PageKind,
    /// Whether descendants are included; always so in version 2.
    pub is_hierarchical: bool,
    /// Number of pages.
    pub pages: u64,
}

/// Kind of memory. Version 1 counts by LRU list: shared memory is anonymous, and unevictable pages
/// are of no other kind. Version 2 counts shared memory as file pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// Page cache.
    File,
    /// Anonymous memory.
    Anon,
    /// Unevictable memory.
    Unevictable,
}

impl PageKind {
    /// All kinds.
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

/// Memory limits of a cgroup. `Some(None)` is no limit, `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MemoryLimits {
    /// Hard limit in bytes.
    pub limit: Option<Option<u64>>,
    /// Bytes: the limit of memory plus swap in version 1, of swap in version 2.
    pub swap_limit: Option<Option<u64>>,
    /// Memory left to the cgroup under memory pressure, in bytes: version 1's soft limit, version
    /// 2's `memory.low`.
    pub reservation: Option<Option<u64>>,
}

/// Tasks of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pids {
    /// Processes and threads.
    pub current: Option<u64>,
    /// Limit of processes and threads. `Some(None)` is no limit.
    pub max: Option<Option<u64>>,
}

/// Stall time of a cgroup's tasks on one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureStall {
    /// Time in which at least one task was stalled.
    pub some: Option<Duration>,
    /// Time in which all tasks were stalled.
    pub full: Option<Duration>,
}

/// Stall time of a cgroup's tasks by resource; `None` without a file for it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CgroupPressure {
    /// Stalled on CPU.
    pub cpu: Option<PressureStall>,
    /// Stalled on memory.
    pub memory: Option<PressureStall>,
    /// Stalled on I/O.
    pub io: Option<PressureStall>,
}

/// Block device I/O of a cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockIo {
    /// By device.
    pub devices: Vec<DeviceIo>,
    /// Whether the kernel accounts block I/O. In version 1, newer kernels start to count, for all
    /// cgroups, when a limit is first written for a device; until then every file reads `Total 0`.
    /// `None` where this cannot be distinguished from an idle cgroup.
    pub is_accounted: Option<bool>,
}

/// I/O of a cgroup on one block device.
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
    /// Read requests.
    pub reads: Option<u64>,
    /// Write requests.
    pub writes: Option<u64>,
    /// Bytes by the kernel's operation names: Read, Write, Sync, Async, Discard, Total; version 2
    /// has only Read, Write and Discard.
    pub bytes_by_operation: Vec<(Operation, u64)>,
    /// blk-iocost: device time used.
    pub cost_usage: Option<Duration>,
    /// blk-iocost: time its requests waited.
    pub cost_wait: Option<Duration>,
    /// blk-iocost: time in debt.
    pub cost_indebt: Option<Duration>,
    /// blk-iocost: time it was delayed.
    pub cost_indelay: Option<Duration>,
}

/// Kind of request, as named in version 1's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Synchronous requests.
    Sync,
    /// Asynchronous requests.
    Async,
    /// Discards.
    Discard,
    /// Sum of all requests.
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
    /// Page size as in the file names: `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: Option<u64>,
    /// Peak of the bytes in use.
    pub max_usage: Option<u64>,
    /// Times the limit was hit.
    pub failcnt: Option<u64>,
}
