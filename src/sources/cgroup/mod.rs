//! Control groups: what the kernel counts and limits per container, service and slice.
//! Documented in `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.
//!
//! One vocabulary for both versions. What a version, a kernel or a controller does not
//! say is `None`, never 0. Files are read below kept directory descriptors, the hot
//! ones by kept descriptors of their own, up to a bound; settings are read when they may
//! have changed.

mod changes;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group;
mod layout;
mod parse;
mod usage;
mod v1;
mod v2;
mod walk;

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

pub use usage::{
    BlockIo, Cpu, CpuLimits, DeviceIo, HugePages, Memory, MemoryLimits, NumaPages, Operation,
    PageKind, Pids, Pressure, Stalls, Throttling,
};

use super::{Allowance, Dir, Roots, dir};
use crate::error::{Error, Result};
use changes::Changes;
use group::{Bounds, Descriptors, File, Kept, Left, Place, Setting};
use layout::{Files, Layout, Subject};

const TASKS: File<'_> = File::kept(c"pids.current", Kept::Pids);

/// Which versions of control groups a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Hierarchies of controllers only.
    V1,
    /// Hierarchies of controllers, and the unified one beside them, mostly without
    /// controllers.
    Hybrid,
    /// The unified hierarchy only.
    V2,
}

/// The control groups of a machine, with the descriptors that are kept from scrape to
/// scrape.
#[derive(Debug)]
pub struct Cgroups {
    roots: Roots,
    bounds: Bounds,
    found: Mutex<Option<Found>>,
    is_partial: AtomicBool,
}

/// What was found at the last walk, and is kept.
#[derive(Debug)]
struct Found {
    shared: Arc<Shared>,
    groups: HashMap<Arc<str>, Arc<Group>>,
    walks: u32,
}

/// What all groups share.
#[derive(Debug)]
struct Shared {
    layout: Layout,
    dirs: Left,
    files: Left,
    changes: Changes,
    huge_sizes: Vec<HugeSize>,
    diskstats: PathBuf,
    /// How version 1 accounts block I/O: one of the numbers of [`accounts`], or the place
    /// of a file in [`v1::BLOCK_IO`], which stays for ever: another one would count from
    /// another beginning.
    block_io: AtomicU8,
}

/// How version 1 accounts block I/O, where no file does.
mod accounts {
    pub(super) const NOT_LOOKED: u8 = 255;
    pub(super) const UNKNOWN: u8 = 254;
    pub(super) const NOTHING: u8 = 253;
}

/// Huge pages of one size, and the names of the files about them.
#[derive(Debug)]
struct HugeSize {
    name: String,
    v1: HugeV1,
    v2: HugeV2,
}

#[derive(Debug)]
struct HugeV1 {
    usage: CString,
    max_usage: CString,
    failcnt: CString,
}

#[derive(Debug)]
struct HugeV2 {
    usage: CString,
    events: CString,
}

impl Cgroups {
    /// Those that are mounted there. Nothing is read before it is asked for.
    #[must_use]
    pub fn at(roots: &Roots) -> Self {
        let allowance = Allowance::of_this_process();
        Self {
            roots: roots.clone(),
            bounds: Bounds {
                dirs: allowance.dirs,
                files: allowance.kept_files,
            },
            found: Mutex::default(),
            is_partial: AtomicBool::new(false),
        }
    }

    /// Which versions are mounted.
    pub fn version(&self) -> Result<Version> {
        self.with_found(|found| Ok(found.shared.layout.version))
    }

    /// The names of the controllers that there are, as the kernel calls them, sorted.
    pub fn controllers(&self) -> Result<Vec<String>> {
        self.with_found(|found| Ok(found.shared.layout.controllers.clone()))
    }

    /// All groups whose path is `wanted`, sorted by path. A path begins with `/`, which
    /// is the root's, and is the group's place in its hierarchy; one that is not UTF-8 is
    /// left out.
    ///
    /// Groups that are gone since are forgotten, with their descriptors; one that is
    /// still there is the same `Arc` as before, and one that was made anew under the same
    /// name is not.
    pub fn walk(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Arc<Group>>> {
        self.with_found(|found| {
            let (groups, is_partial) = found.walk(&wanted)?;
            self.is_partial.store(is_partial, Relaxed);
            Ok(groups)
        })
    }

    /// Why groups were left out of the last walk, if they were: there are too many.
    #[must_use]
    pub fn left_out(&self) -> Option<Error> {
        self.is_partial.load(Relaxed).then(too_many)
    }

    /// The numbers of the processes in each group whose path is `wanted`, those in groups
    /// below it left out: every process is in one group. Groups are not kept.
    pub fn processes(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&str, Result<Vec<u32>>),
    ) -> Result<()> {
        let shared = self.with_found(|found| Ok(Arc::clone(&found.shared)))?;
        let layout = &shared.layout;
        let Some(hierarchy) = layout.hierarchies.get(layout.walked) else {
            return Ok(());
        };
        let mut read = |path: &str, inode| {
            if wanted(path) {
                each(path, shared.group(path, inode).processes());
            }
        };
        read("/", hierarchy.inode);
        let is_partial = walk::each_below(hierarchy, read)?;
        if is_partial { Err(too_many()) } else { Ok(()) }
    }

    /// The root, which is not the one that walks find.
    pub fn root(&self) -> Result<Group> {
        self.with_found(|found| Ok(found.shared.group("/", 0)))
    }

    /// A layout that was not found is looked for again the next time; one that was is
    /// kept while it answers.
    fn with_found<T>(&self, ask: impl FnOnce(&mut Found) -> Result<T>) -> Result<T> {
        let mut kept = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = match kept.take() {
            Some(found) => found,
            None => Found::look(&self.roots, self.bounds)?,
        };
        let answer = ask(&mut found)?;
        *kept = Some(found);
        Ok(answer)
    }
}

/// The path of a group, and of those it is in: `/`, `/a`, `/a/b`.
pub fn and_above(path: &str) -> impl Iterator<Item = &str> {
    let root = (path != "/").then_some("/");
    let slashes = path.match_indices('/').skip(1);
    let between = slashes.filter_map(|(slash, _)| path.get(..slash));
    root.into_iter().chain(between).chain([path])
}

fn too_many() -> Error {
    Error::api("control groups", "there are more than 100,000")
}

impl Found {
    fn look(roots: &Roots, bounds: Bounds) -> Result<Self> {
        let layout = Layout::find(roots)?;
        let shared = Shared {
            layout,
            dirs: Left::new(bounds.dirs),
            files: Left::new(bounds.files),
            changes: Changes::new(roots),
            huge_sizes: HugeSize::all(roots),
            diskstats: roots.procfs.join("diskstats"),
            block_io: AtomicU8::new(accounts::NOT_LOOKED),
        };
        Ok(Self {
            shared: Arc::new(shared),
            groups: HashMap::new(),
            walks: 0,
        })
    }
}

impl Shared {
    /// Groups of a new scrape may find that block I/O is accounted by now.
    fn look_at_block_io_again(&self) {
        let again = |how| matches!(how, accounts::UNKNOWN | accounts::NOTHING);
        let update = |how| again(how).then_some(accounts::NOT_LOOKED);
        self.block_io.fetch_update(Relaxed, Relaxed, update).ok();
    }

    /// Which of version 1's files has block I/O, as the root's do: that of the whole
    /// machine. An idle group has no devices in any.
    fn block_io_of_v1(self: &Arc<Self>, slot: usize) -> u8 {
        let known = self.block_io.load(Relaxed);
        if known != accounts::NOT_LOOKED {
            return known;
        }
        let root = self.group("/", 0);
        let choice = v1::block_io_choice(root.place_in(slot, Files::V1));
        let how = match choice.and_then(|choice| u8::try_from(choice).ok()) {
            Some(choice) => choice,
            None if self.disks_are_used() => accounts::NOTHING,
            None => accounts::UNKNOWN,
        };
        self.block_io.store(how, Relaxed);
        how
    }

    /// Whether a disk was ever read or written, so that the root must have done it.
    fn disks_are_used(&self) -> bool {
        let Ok(text) = dir::read(&self.diskstats) else {
            return false;
        };
        text.lines().any(|mut fields| {
            let mut fields = std::iter::from_fn(|| fields.next_word()).skip(2);
            let is_disk = fields.next().is_some_and(|name| {
                let virtual_ones = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
                !virtual_ones.iter().any(|kind| name.starts_with(kind))
            });
            // Reads and writes that were completed.
            is_disk && fields.step_by(4).take(2).any(|count| count != "0")
        })
    }
}

impl HugeSize {
    /// All that the kernel has, in order.
    fn all(roots: &Roots) -> Vec<Self> {
        let names = Dir::open(&roots.sysfs.join("kernel/mm/hugepages")).and_then(|it| it.names());
        let names = names.unwrap_or_default();
        let sizes = names.iter().filter_map(|name| {
            let size = name.to_str()?.strip_prefix("hugepages-")?;
            size.strip_suffix("kB")?.parse::<u64>().ok()
        });
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort_unstable();
        sizes.into_iter().filter_map(Self::of).collect()
    }

    fn of(kilobytes: u64) -> Option<Self> {
        let name = match kilobytes {
            1_048_576.. => format!("{}GB", kilobytes >> 20),
            1024.. => format!("{}MB", kilobytes >> 10),
            _ => format!("{kilobytes}KB"),
        };
        let file = |what| CString::new(format!("hugetlb.{name}.{what}")).ok();
        Some(Self {
            v1: HugeV1 {
                usage: file("usage_in_bytes")?,
                max_usage: file("max_usage_in_bytes")?,
                failcnt: file("failcnt")?,
            },
            v2: HugeV2 {
                usage: file("current")?,
                events: file("events")?,
            },
            name,
        })
    }
}

/// One control group.
#[derive(Debug)]
pub struct Group {
    path: Arc<str>,
    /// The number of its directory in the hierarchy that is walked.
    inode: u64,
    /// The walk that saw it last.
    seen: AtomicU32,
    shared: Arc<Shared>,
    descriptors: Descriptors,
}

impl Group {
    /// Its place in the hierarchy, which is cAdvisor's `id`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The number of its directory. Another that has its path later has another number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inode
    }

    /// Time it used of all CPUs: one file, and nothing is allocated.
    pub fn cpu_time(&self) -> Result<Option<Duration>> {
        let place = self.place(Subject::Cpuacct)?;
        if place.files == Files::V2 {
            return v2::cpu_time(place);
        }
        match (v1::cpu_time(place), self.shared.layout.unified) {
            (Err(error), Some(slot)) if error.is_vanished() => {
                v2::cpu_time_alone(self.place_in(slot, Files::V2))
            }
            (cpu, _) => cpu.map(Some),
        }
    }

    /// Bytes that are charged to it: one file, and nothing is allocated.
    pub fn memory_usage(&self) -> Result<u64> {
        let place = self.place(Subject::Memory)?;
        match place.files {
            Files::V1 => v1::memory_usage(place),
            Files::V2 => v2::memory_usage(place),
        }
    }

    /// Processes and threads: one file, and nothing is allocated.
    pub fn tasks(&self) -> Result<u64> {
        self.place(Subject::Pids)?.read(TASKS, parse::number)
    }

    /// Bytes read from and written to the devices that count: one file, and nothing is
    /// allocated. Nothing where the kernel does not count.
    pub fn disk_bytes(&self, counts: impl FnMut(u32, u32) -> bool) -> Result<Option<(u64, u64)>> {
        let place = self.place(Subject::Io)?;
        if place.files == Files::V2 {
            return v2::disk_bytes(place, counts).map(Some);
        }
        match self.shared.block_io_of_v1(place.slot) {
            accounts::NOTHING | accounts::UNKNOWN => Ok(None),
            chosen => v1::disk_bytes(place, chosen.into(), counts),
        }
    }

    /// What it used of the CPUs. On hybrid machines the unified hierarchy counts this too,
    /// and libvirt makes none of version 1's groups for it then.
    pub fn cpu(&self) -> Result<Cpu> {
        let place = self.place(Subject::Cpuacct)?;
        if place.files == Files::V2 {
            return v2::cpu(place);
        }
        let quota = self.place(Subject::Cpu).ok();
        let quota = quota.filter(|quota| quota.files == Files::V1);
        match (v1::cpu(place, quota), self.shared.layout.unified) {
            (Err(error), Some(slot)) if error.is_vanished() => Ok(Cpu {
                throttling: quota.map(v1::throttling).transpose()?.flatten(),
                ..v2::cpu_alone(self.place_in(slot, Files::V2))?
            }),
            (cpu, _) => cpu,
        }
    }

    /// Time it used of each CPU, by its number; version 1 only. CPUs that there could be
    /// and are not have 0.
    pub fn cpu_by_number(&self) -> Result<Vec<(u32, Duration)>> {
        let place = self.place(Subject::Cpuacct)?;
        match place.files {
            Files::V1 => v1::cpu_by_number(place),
            Files::V2 => self.absent(),
        }
    }

    /// What it may use of the CPUs.
    pub fn cpu_limits(&self) -> Result<CpuLimits> {
        let place = self.place(Subject::Cpu)?;
        match place.files {
            Files::V1 => v1::cpu_limits(place),
            Files::V2 => v2::cpu_limits(place),
        }
    }

    /// What it has in memory. The root has what the kernel says of it.
    pub fn memory(&self) -> Result<Memory> {
        let place = self.place(Subject::Memory)?;
        match place.files {
            Files::V1 => v1::memory(place),
            Files::V2 => v2::memory(place),
        }
    }

    /// What it may have in memory; version 2's root has no such files, and version 1's
    /// says that there is no limit.
    pub fn memory_limits(&self) -> Result<MemoryLimits> {
        let place = self.place(Subject::Memory)?;
        match place.files {
            Files::V1 => v1::memory_limits(place),
            Files::V2 => v2::memory_limits(place),
        }
    }

    /// What it has in memory on each NUMA node; only kernels that know of such nodes say.
    pub fn numa_pages(&self) -> Result<Vec<NumaPages>> {
        let place = self.place(Subject::Memory)?;
        match place.files {
            Files::V1 => v1::numa_pages(place),
            Files::V2 => v2::numa_pages(place),
        }
    }

    /// Whether its memory follows it when it is moved to other NUMA nodes; version 1 only.
    pub fn memory_migrates(&self) -> Result<bool> {
        let Some(cpuset) = &self.shared.layout.cpuset else {
            return self.absent();
        };
        let group = cpuset.join(self.relative());
        let text = dir::read(&group.join("cpuset.memory_migrate"))?;
        Ok(text.number::<u64>()? != 0)
    }

    /// Its tasks and how many there may be; the root has no such files.
    pub fn pids(&self) -> Result<Pids> {
        let place = self.place(Subject::Pids)?;
        Ok(Pids {
            current: Some(place.read(TASKS, parse::number)?),
            max: place.read_if_any(File::setting(c"pids.max", Setting::Pids), parse::limit)?,
        })
    }

    /// The numbers of the processes in it, not in those below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let place = self.walked();
        match place.read(File::in_parts(c"cgroup.procs"), parse::processes) {
            // Of a group of threads only `cgroup.threads` can be read.
            Err(error) if error.is_unsaid() => self.absent(),
            processes => processes,
        }
    }

    /// How long its tasks waited; on hybrid machines as the unified hierarchy says.
    pub fn pressure(&self) -> Result<Pressure> {
        match self.shared.layout.unified {
            Some(slot) => v2::pressure(self.place_in(slot, Files::V2)),
            None => self.absent(),
        }
    }

    /// What it did to block devices.
    pub fn block_io(&self) -> Result<BlockIo> {
        let place = self.place(Subject::Io)?;
        if place.files == Files::V2 {
            return v2::block_io(place);
        }
        let nothing = |accounted| BlockIo {
            devices: Vec::new(),
            accounted,
        };
        match self.shared.block_io_of_v1(place.slot) {
            accounts::NOTHING => Ok(nothing(Some(false))),
            accounts::UNKNOWN => Ok(nothing(None)),
            chosen => v1::block_io(place, chosen.into()),
        }
    }

    /// Its huge pages, by size.
    pub fn huge_pages(&self) -> Result<Vec<HugePages>> {
        let place = self.place(Subject::Hugetlb)?;
        let mut all = Vec::new();
        for size in &self.shared.huge_sizes {
            let pages = match place.files {
                Files::V1 => v1::huge_pages(place, size)?,
                Files::V2 => v2::huge_pages(place, size)?,
            };
            // Where one is missing, the controller is off.
            let Some(pages) = pages else { break };
            all.push(pages);
        }
        Ok(all)
    }

    /// When it was made, from 1970 on: the earliest time that any of its directories
    /// shows. The root was not made.
    pub fn made(&self) -> Result<Duration> {
        if self.is_root() {
            return self.absent();
        }
        if let Some(made) = self.descriptors.made.get() {
            return Ok(*made);
        }
        let stat = self.walked().stat()?;
        let others = (0..self.shared.layout.hierarchies.len())
            .filter_map(|slot| self.place_in(slot, Files::V1).stat().ok());
        let time = |seconds: i64, nanos: u64| {
            let nanos = u32::try_from(nanos).ok().filter(|it| *it < 1_000_000_000)?;
            Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
        };
        let times = others.chain([stat]).flat_map(|stat| {
            [
                time(stat.st_mtime, stat.st_mtime_nsec),
                time(stat.st_ctime, stat.st_ctime_nsec),
            ]
        });
        match times.flatten().min() {
            Some(made) => Ok(*self.descriptors.made.get_or_init(|| made)),
            None => self.absent(),
        }
    }

    fn walked(&self) -> Place<'_> {
        self.place_in(self.shared.layout.walked, Files::V1)
    }

    fn absent<T>(&self) -> Result<T> {
        Err(Error::Absent(self.path().into()))
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
