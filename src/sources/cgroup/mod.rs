//! Statistics and limits of control groups (containers, services, slices) from cgroup v1 and v2,
//! documented in the kernel's `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.
//!
//! Both versions share one set of types. What a version, a kernel or a controller does not report
//! is `None`, never 0. Files are opened relative to cached directory descriptors; files read in
//! every scrape keep descriptors of their own, up to a limit; settings are read again only when
//! they may have changed.

mod discovery;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod inotify;
mod layout;
mod parse;
mod stats;
mod v1;
mod v2;

use std::{
    collections::HashMap,
    ffi::CString,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

pub use stats::{
    BlockIo, CgroupCpu, CgroupMemory, CgroupPressure, CpuLimits, DeviceIo, HugePages, MemoryLimits,
    NumaPages, Operation, PageKind, Pids, PressureStall, Throttling,
};

use super::{Dir, ResourceBudget, Roots, dir};
use crate::error::{Error, Result};
use files::{CgroupDir, CgroupFile, DescriptorLimits, Descriptors, HandleBudget, HotFile, Setting};
use inotify::InotifyWatcher;
use layout::{CgroupController, InterfaceVersion, Layout};

const TASKS: CgroupFile<'_> = CgroupFile::hot(c"pids.current", HotFile::Pids);

/// Cgroup versions in use on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1 hierarchies only.
    V1,
    /// Version 1 hierarchies plus the unified hierarchy, mostly without controllers.
    Hybrid,
    /// The unified hierarchy only.
    V2,
}

/// Reader of a host's cgroups, with the descriptors it keeps open between scrapes.
#[derive(Debug)]
pub struct CgroupReader {
    roots: Roots,
    limits: DescriptorLimits,
    discovered: Mutex<Option<DiscoveredCgroups>>,
    is_partial: AtomicBool,
}

/// Layout and cgroups found by the last walk.
#[derive(Debug)]
struct DiscoveredCgroups {
    shared: Arc<CgroupContext>,
    groups: HashMap<Arc<str>, Arc<Cgroup>>,
    walk_count: u32,
}

/// State shared by all cgroups of a layout.
#[derive(Debug)]
struct CgroupContext {
    layout: Layout,
    dir_budget: HandleBudget,
    file_budget: HandleBudget,
    watcher: InotifyWatcher,
    huge_page_sizes: Vec<HugePageSize>,
    diskstats: PathBuf,
    /// How version 1 accounts block I/O: a constant of [`block_io_accounting`] or an index into
    /// `v1::BLOCK_IO`. A detected index never changes, because another file counts from a
    /// different start.
    block_io: AtomicU8,
}

/// Values of `block_io` when no version 1 file was detected.
mod block_io_accounting {
    pub(super) const UNDETECTED: u8 = 255;
    pub(super) const UNKNOWN: u8 = 254;
    pub(super) const UNACCOUNTED: u8 = 253;
}

/// One huge page size and the names of its files.
#[derive(Debug)]
struct HugePageSize {
    name: String,
    v1: HugetlbV1Files,
    v2: HugetlbV2Files,
}

#[derive(Debug)]
struct HugetlbV1Files {
    usage: CString,
    max_usage: CString,
    failcnt: CString,
}

#[derive(Debug)]
struct HugetlbV2Files {
    usage: CString,
    events: CString,
}

impl CgroupReader {
    /// Creates a reader of the cgroups mounted at `roots`. Nothing is read until the first call.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        let budget = ResourceBudget::for_this_process();
        Self {
            roots: roots.clone(),
            limits: DescriptorLimits {
                dirs: budget.cgroup_dirs,
                files: budget.cgroup_files,
            },
            discovered: Mutex::default(),
            is_partial: AtomicBool::new(false),
        }
    }

    /// Returns which cgroup versions are mounted.
    pub fn version(&self) -> Result<CgroupVersion> {
        self.with_discovered(|found| Ok(found.shared.layout.version))
    }

    /// Returns the kernel's names of the available controllers, sorted.
    pub fn controllers(&self) -> Result<Vec<String>> {
        self.with_discovered(|found| Ok(found.shared.layout.controllers.clone()))
    }

    /// Returns all cgroups whose path passes the filter, sorted by path. A path begins with `/`,
    /// which is the root's path, and locates the cgroup in its hierarchy; paths that are not UTF-8
    /// are left out.
    ///
    /// Removed cgroups are dropped from the cache and their descriptors closed. A cgroup that
    /// still exists is returned as the same `Arc` as before; one that was recreated under the same
    /// name gets a new `Arc`.
    pub fn walk(&self, filter: impl Fn(&str) -> bool) -> Result<Vec<Arc<Cgroup>>> {
        self.with_discovered(|found| {
            let (groups, is_partial) = found.walk(&filter)?;
            self.is_partial.store(is_partial, Relaxed);
            Ok(groups)
        })
    }

    /// Returns an error if the last walk left out cgroups because there are too many.
    #[must_use]
    pub fn partial_error(&self) -> Option<Error> {
        self.is_partial.load(Relaxed).then(too_many)
    }

    /// Calls `each` with the process IDs of each cgroup whose path passes the filter, without
    /// those of its descendants: every process is in exactly one cgroup. Cgroups are not cached.
    pub fn processes(
        &self,
        filter: impl Fn(&str) -> bool,
        mut each: impl FnMut(&str, Result<Vec<u32>>),
    ) -> Result<()> {
        let shared = self.with_discovered(|found| Ok(Arc::clone(&found.shared)))?;
        let layout = &shared.layout;
        let Some(hierarchy) = layout.hierarchies.get(layout.primary) else {
            return Ok(());
        };
        let mut read = |path: &str, inode| {
            if filter(path) {
                each(path, shared.new_cgroup(path, inode).processes());
            }
        };
        read("/", hierarchy.inode);
        let is_partial = discovery::walk_descendants(hierarchy, read)?;
        if is_partial { Err(too_many()) } else { Ok(()) }
    }

    /// Returns the root cgroup. This instance is not the one that `walk` returns.
    pub fn root(&self) -> Result<Cgroup> {
        self.with_discovered(|found| Ok(found.shared.new_cgroup("/", 0)))
    }

    /// Runs a closure on the layout. A layout is kept until a call on it fails; then, or if none
    /// was found, the next call looks for it again.
    fn with_discovered<T>(
        &self,
        run: impl FnOnce(&mut DiscoveredCgroups) -> Result<T>,
    ) -> Result<T> {
        let mut discovered = self
            .discovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = match discovered.take() {
            Some(found) => found,
            None => DiscoveredCgroups::discover(&self.roots, self.limits)?,
        };
        let result = run(&mut found)?;
        *discovered = Some(found);
        Ok(result)
    }
}

/// Returns the paths of a cgroup and all its ancestors: `/`, `/a`, `/a/b`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let root = (path != "/").then_some("/");
    let slashes = path.match_indices('/').skip(1);
    let intermediate = slashes.filter_map(|(slash, _)| path.get(..slash));
    root.into_iter().chain(intermediate).chain([path])
}

fn too_many() -> Error {
    Error::api("cgroups", "more than 100000 cgroups")
}

impl DiscoveredCgroups {
    fn discover(roots: &Roots, limits: DescriptorLimits) -> Result<Self> {
        let layout = Layout::find(roots)?;
        let shared = CgroupContext {
            layout,
            dir_budget: HandleBudget::new(limits.dirs),
            file_budget: HandleBudget::new(limits.files),
            watcher: InotifyWatcher::new(roots),
            huge_page_sizes: HugePageSize::read_all(roots),
            diskstats: roots.procfs.join("diskstats"),
            block_io: AtomicU8::new(block_io_accounting::UNDETECTED),
        };
        Ok(Self {
            shared: Arc::new(shared),
            groups: HashMap::new(),
            walk_count: 0,
        })
    }
}

impl CgroupContext {
    /// Makes the next scrape detect again whether block I/O is accounted by now.
    fn reset_block_io_detection(&self) {
        let is_undecided = |state| {
            matches!(
                state,
                block_io_accounting::UNKNOWN | block_io_accounting::UNACCOUNTED
            )
        };
        let update = |state| is_undecided(state).then_some(block_io_accounting::UNDETECTED);
        self.block_io.fetch_update(Relaxed, Relaxed, update).ok();
    }

    /// Detects which version 1 file accounts block I/O, from the files of the root, which cover
    /// the whole host. An idle cgroup has no devices in any of them.
    fn detect_v1_block_io(self: &Arc<Self>, slot: usize) -> u8 {
        let state = self.block_io.load(Relaxed);
        if state != block_io_accounting::UNDETECTED {
            return state;
        }
        let root = self.new_cgroup("/", 0);
        let index = v1::detect_block_io_files(root.dir_in(slot, InterfaceVersion::V1));
        let state = match index.and_then(|index| u8::try_from(index).ok()) {
            Some(index) => index,
            None if self.has_disk_activity() => block_io_accounting::UNACCOUNTED,
            None => block_io_accounting::UNKNOWN,
        };
        self.block_io.store(state, Relaxed);
        state
    }

    /// Whether a disk was ever read or written; the root's files must then list it.
    fn has_disk_activity(&self) -> bool {
        let Ok(text) = dir::read(&self.diskstats) else {
            return false;
        };
        text.lines().any(|mut fields| {
            let mut fields = std::iter::from_fn(|| fields.next_word()).skip(2);
            let is_disk = fields.next().is_some_and(|name| {
                let virtual_prefixes = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
                !virtual_prefixes
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            });
            // Completed reads and writes.
            is_disk && fields.step_by(4).take(2).any(|count| count != "0")
        })
    }
}

impl HugePageSize {
    /// All sizes that the kernel supports, in ascending order.
    fn read_all(roots: &Roots) -> Vec<Self> {
        let names = Dir::open(&roots.sysfs.join("kernel/mm/hugepages")).and_then(|dir| dir.names());
        let names = names.unwrap_or_default();
        let sizes = names.iter().filter_map(|name| {
            let size = name.to_str()?.strip_prefix("hugepages-")?;
            size.strip_suffix("kB")?.parse::<u64>().ok()
        });
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort_unstable();
        sizes.into_iter().filter_map(Self::from_kilobytes).collect()
    }

    fn from_kilobytes(kilobytes: u64) -> Option<Self> {
        let name = match kilobytes {
            1_048_576.. => format!("{}GB", kilobytes >> 20),
            1024.. => format!("{}MB", kilobytes >> 10),
            _ => format!("{kilobytes}KB"),
        };
        let file = |suffix| CString::new(format!("hugetlb.{name}.{suffix}")).ok();
        Some(Self {
            v1: HugetlbV1Files {
                usage: file("usage_in_bytes")?,
                max_usage: file("max_usage_in_bytes")?,
                failcnt: file("failcnt")?,
            },
            v2: HugetlbV2Files {
                usage: file("current")?,
                events: file("events")?,
            },
            name,
        })
    }
}

/// A control group.
#[derive(Debug)]
pub struct Cgroup {
    path: Arc<str>,
    /// Inode number of its directory in the primary hierarchy.
    inode: u64,
    /// Number of the last walk that found it.
    last_walk: AtomicU32,
    shared: Arc<CgroupContext>,
    descriptors: Descriptors,
}

impl Cgroup {
    /// Its path in the hierarchy; cAdvisor's `id`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Inode number of its directory. A cgroup that later gets the same path has another number.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// CPU time used. Reads one file and does not allocate.
    pub fn cpu_time(&self) -> Result<Option<Duration>> {
        let dir = self.dir_for(CgroupController::Cpuacct)?;
        if dir.version == InterfaceVersion::V2 {
            return v2::cpu_time(dir);
        }
        match (v1::cpu_time(dir), self.shared.layout.unified) {
            (Err(error), Some(slot)) if error.is_gone() => {
                v2::cpu_time_without_controller(self.dir_in(slot, InterfaceVersion::V2))
            }
            (cpu, _) => cpu.map(Some),
        }
    }

    /// Charged memory in bytes. Reads one file and does not allocate.
    pub fn memory_usage(&self) -> Result<u64> {
        let dir = self.dir_for(CgroupController::Memory)?;
        match dir.version {
            InterfaceVersion::V1 => v1::memory_usage(dir),
            InterfaceVersion::V2 => v2::memory_usage(dir),
        }
    }

    /// Number of processes and threads. Reads one file and does not allocate.
    pub fn tasks(&self) -> Result<u64> {
        self.dir_for(CgroupController::Pids)?
            .read(TASKS, parse::number)
    }

    /// Bytes read from and written to the devices that pass the filter; `None` where the kernel
    /// does not account block I/O. Reads one file and does not allocate.
    pub fn disk_bytes(&self, filter: impl FnMut(u32, u32) -> bool) -> Result<Option<(u64, u64)>> {
        let dir = self.dir_for(CgroupController::Io)?;
        if dir.version == InterfaceVersion::V2 {
            return v2::disk_bytes(dir, filter).map(Some);
        }
        match self.shared.detect_v1_block_io(dir.slot) {
            block_io_accounting::UNACCOUNTED | block_io_accounting::UNKNOWN => Ok(None),
            index => v1::disk_bytes(dir, index.into(), filter),
        }
    }

    /// CPU usage. On hybrid hosts, the unified hierarchy counts CPU time as well, and libvirt then
    /// creates none of the version 1 cgroups for it.
    pub fn cpu(&self) -> Result<CgroupCpu> {
        let dir = self.dir_for(CgroupController::Cpuacct)?;
        if dir.version == InterfaceVersion::V2 {
            return v2::cpu(dir);
        }
        let quota = self.dir_for(CgroupController::Cpu).ok();
        let quota = quota.filter(|quota| quota.version == InterfaceVersion::V1);
        match (v1::cpu(dir, quota), self.shared.layout.unified) {
            (Err(error), Some(slot)) if error.is_gone() => Ok(CgroupCpu {
                throttling: quota.map(v1::throttling).transpose()?.flatten(),
                ..v2::cpu_without_controller(self.dir_in(slot, InterfaceVersion::V2))?
            }),
            (cpu, _) => cpu,
        }
    }

    /// CPU time used per CPU number; version 1 only. CPUs that are possible but not present report
    /// 0.
    pub fn percpu_usage(&self) -> Result<Vec<(u32, Duration)>> {
        let dir = self.dir_for(CgroupController::Cpuacct)?;
        match dir.version {
            InterfaceVersion::V1 => v1::percpu_usage(dir),
            InterfaceVersion::V2 => self.not_found(),
        }
    }

    /// CPU limits and shares.
    pub fn cpu_limits(&self) -> Result<CpuLimits> {
        let dir = self.dir_for(CgroupController::Cpu)?;
        match dir.version {
            InterfaceVersion::V1 => v1::cpu_limits(dir),
            InterfaceVersion::V2 => v2::cpu_limits(dir),
        }
    }

    /// Memory usage. The root reports only what the kernel has for it.
    pub fn memory(&self) -> Result<CgroupMemory> {
        let dir = self.dir_for(CgroupController::Memory)?;
        match dir.version {
            InterfaceVersion::V1 => v1::memory(dir),
            InterfaceVersion::V2 => v2::memory(dir),
        }
    }

    /// Memory limits. The root has no such files in version 2 and reports no limit in version 1.
    pub fn memory_limits(&self) -> Result<MemoryLimits> {
        let dir = self.dir_for(CgroupController::Memory)?;
        match dir.version {
            InterfaceVersion::V1 => v1::memory_limits(dir),
            InterfaceVersion::V2 => v2::memory_limits(dir),
        }
    }

    /// Memory per NUMA node, if the kernel supports NUMA.
    pub fn numa_pages(&self) -> Result<Vec<NumaPages>> {
        let dir = self.dir_for(CgroupController::Memory)?;
        match dir.version {
            InterfaceVersion::V1 => v1::numa_pages(dir),
            InterfaceVersion::V2 => v2::numa_pages(dir),
        }
    }

    /// Whether its memory migrates when it is moved to other NUMA nodes; version 1 only.
    pub fn memory_migrates(&self) -> Result<bool> {
        let Some(cpuset) = &self.shared.layout.cpuset else {
            return self.not_found();
        };
        let group = cpuset.join(self.relative_path());
        let text = dir::read(&group.join("cpuset.memory_migrate"))?;
        Ok(text.parse_number::<u64>()? != 0)
    }

    /// Number of its tasks and their limit; the root has no such files.
    pub fn pids(&self) -> Result<Pids> {
        let dir = self.dir_for(CgroupController::Pids)?;
        Ok(Pids {
            current: Some(dir.read(TASKS, parse::number)?),
            max: dir.read_if_available(
                CgroupFile::setting(c"pids.max", Setting::Pids),
                parse::limit,
            )?,
        })
    }

    /// IDs of its processes, without those of its descendants.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let dir = self.primary_dir();
        match dir.read(
            CgroupFile::with_short_reads(c"cgroup.procs"),
            parse::processes,
        ) {
            // In a threaded cgroup, only `cgroup.threads` can be read.
            Err(error) if error.is_unavailable() => self.not_found(),
            processes => processes,
        }
    }

    /// Time its tasks were stalled; on hybrid hosts from the unified hierarchy.
    pub fn pressure(&self) -> Result<CgroupPressure> {
        match self.shared.layout.unified {
            Some(slot) => v2::pressure(self.dir_in(slot, InterfaceVersion::V2)),
            None => self.not_found(),
        }
    }

    /// Its block device I/O.
    pub fn block_io(&self) -> Result<BlockIo> {
        let dir = self.dir_for(CgroupController::Io)?;
        if dir.version == InterfaceVersion::V2 {
            return v2::block_io(dir);
        }
        let empty = |accounted| BlockIo {
            devices: Vec::new(),
            is_accounted: accounted,
        };
        match self.shared.detect_v1_block_io(dir.slot) {
            block_io_accounting::UNACCOUNTED => Ok(empty(Some(false))),
            block_io_accounting::UNKNOWN => Ok(empty(None)),
            index => v1::block_io(dir, index.into()),
        }
    }

    /// Its huge page usage, by page size.
    pub fn huge_pages(&self) -> Result<Vec<HugePages>> {
        let dir = self.dir_for(CgroupController::Hugetlb)?;
        let mut all = Vec::new();
        for size in &self.shared.huge_page_sizes {
            let pages = match dir.version {
                InterfaceVersion::V1 => v1::huge_pages(dir, size)?,
                InterfaceVersion::V2 => v2::huge_pages(dir, size)?,
            };
            // If one file is missing, the controller is disabled.
            let Some(pages) = pages else { break };
            all.push(pages);
        }
        Ok(all)
    }

    /// Creation time since the Unix epoch: the earliest time that any of its directories shows.
    /// The root has none.
    pub fn created(&self) -> Result<Duration> {
        if self.is_root() {
            return self.not_found();
        }
        if let Some(created) = self.descriptors.created.get() {
            return Ok(*created);
        }
        let stat = self.primary_dir().stat()?;
        let other_stats = (0..self.shared.layout.hierarchies.len())
            .filter_map(|slot| self.dir_in(slot, InterfaceVersion::V1).stat().ok());
        let time = |seconds: i64, nanos: u64| {
            let nanos = u32::try_from(nanos)
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000)?;
            Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
        };
        let times = other_stats.chain([stat]).flat_map(|stat| {
            [
                time(stat.st_mtime, stat.st_mtime_nsec),
                time(stat.st_ctime, stat.st_ctime_nsec),
            ]
        });
        match times.flatten().min() {
            Some(created) => Ok(*self.descriptors.created.get_or_init(|| created)),
            None => self.not_found(),
        }
    }

    fn primary_dir(&self) -> CgroupDir<'_> {
        self.dir_in(self.shared.layout.primary, InterfaceVersion::V1)
    }

    fn not_found<T>(&self) -> Result<T> {
        Err(Error::NotFound(self.path().into()))
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
