//! Memory limit of this process from its own cgroup, and the caches that fit into it.
//!
//! Open files make scrapes cheaper, and samples are useful, but neither is worth an OOM kill: the
//! kernel's memory for an open file counts against the limit. Under a small limit, only a share of
//! it is used for caches; other files are opened and closed.
//!
//! Read below `/proc/self`, not below `--path.procfs`, because it is about this process.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{Resource, getrlimit};

use super::{Dir, Text, dir, syscall, text::unescape_octal};
use crate::error::Result;

/// Descriptors reserved for connections and for files that are opened briefly. If there are no
/// more than these, none is cached.
const RESERVED_FILES: u64 = 256;
/// Maximum number of cached cgroup files: eight for each of 1,000 cgroups.
const MAX_CGROUP_FILES: u64 = 8192;
/// More processes than are worth a descriptor.
const MAX_PROCESS_DIRS: u64 = 4096;
/// Minimum number of cached process directories: domain usage is read only through them.
const MIN_PROCESS_DIRS: u64 = 64;
/// Kernel memory per cached file or directory where few are cached among many that are not: each
/// entry and inode pins a whole page that it shared with others.
const FILE_BYTES: u64 = 16 << 10;
const DIR_BYTES: u64 = 12 << 10;
/// Memory used without any cache. Only a limit beyond it is shared with cached files and
/// directories.
const BASE_BYTES: u64 = 32 << 20;
const FILES_SHARE: u64 = 4;
const DIRS_SHARE: u64 = 8;
const PROCESSES_SHARE: u64 = 8;
/// Fractions of the whole limit for samples and for buffered responses.
const HISTORY_SHARE: u64 = 16;
const RESPONSE_BUFFER_SHARE: u64 = 8;
/// Memory needed by a scrape of 1,000 containers, with a margin.
const SCRAPE_BYTES: u64 = 24 << 20;
/// Memory for responses to slow clients: about twelve responses of a host with 1,000 containers.
const RESPONSE_BUFFER_BYTES: u64 = 64 << 20;

/// Limits of what this process may cache or buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceBudget {
    /// Memory limit of its cgroup in bytes; `None` if unlimited.
    pub memory_limit: Option<u64>,
    /// Maximum number of cgroup directories to keep open.
    pub(super) cgroup_dirs: usize,
    /// Maximum number of cgroup files to keep open.
    pub cgroup_files: usize,
    /// Maximum number of process directories to keep open.
    pub(super) process_dirs: usize,
    /// Maximum number of connections, so that clients cannot use up the descriptors needed for
    /// reading files.
    pub connections: usize,
    /// Maximum size of samples in bytes; `None` leaves it to the flags.
    pub history_bytes: Option<u64>,
    /// Maximum size of responses buffered for slow clients, in bytes.
    pub response_buffer_bytes: usize,
    /// Maximum number of concurrent scrapes; others wait.
    pub concurrent_scrapes: usize,
    /// Whether the memory limit reduced any of these.
    pub is_reduced: bool,
}

impl ResourceBudget {
    /// Returns the budget of this process, computed at the first call: open files stay open.
    pub fn for_this_process() -> Self {
        static BUDGET: OnceLock<ResourceBudget> = OnceLock::new();
        *BUDGET.get_or_init(|| {
            let files = getrlimit(Resource::Nofile).current;
            Self::from_limits(files.unwrap_or(1 << 16), memory_limit())
        })
    }

    fn from_limits(open_files: u64, memory_limit: Option<u64>) -> Self {
        let available = memory_limit.map(|limit| limit.saturating_sub(BASE_BYTES));
        let share = |bytes: Option<u64>, share_divisor: u64, unit: u64| {
            bytes.map_or(u64::MAX, |bytes| bytes / share_divisor / unit)
        };
        let affordable_files = share(available, FILES_SHARE, FILE_BYTES);
        // The remaining descriptors are for everything else.
        let usable = open_files.saturating_sub(RESERVED_FILES);
        let files = MAX_CGROUP_FILES.min(usable / 4);
        let dirs = (usable / 2).min(share(available, DIRS_SHARE, DIR_BYTES));
        let processes = MAX_PROCESS_DIRS.min(usable / 8);
        let affordable_processes = share(available, PROCESSES_SHARE, DIR_BYTES);
        let processes = processes.min(affordable_processes.saturating_add(MIN_PROCESS_DIRS));
        let response_buffer =
            RESPONSE_BUFFER_BYTES.min(share(memory_limit, RESPONSE_BUFFER_SHARE, 1));
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            memory_limit,
            cgroup_dirs: count(dirs),
            cgroup_files: count(files.min(affordable_files)),
            process_dirs: count(processes),
            connections: count(open_files / 4).max(1),
            history_bytes: memory_limit.map(|limit| limit / HISTORY_SHARE),
            response_buffer_bytes: count(response_buffer),
            concurrent_scrapes: count(share(memory_limit, 1, SCRAPE_BYTES)).max(1),
            is_reduced: affordable_files < files,
        }
    }
}

/// Returns the memory limit of this process: the lowest of its cgroup and all ancestors. `None` if
/// unlimited or unknown.
fn memory_limit() -> Option<u64> {
    let proc_self = Dir::open(Path::new("/proc/self")).ok()?;
    let (mounts, groups) = (
        proc_self.read("mountinfo").ok()?,
        proc_self.read("cgroup").ok()?,
    );
    let sources = memory_limit_sources(&mounts, &groups);
    // Version 1 reports a number close to the maximum for no limit.
    let unlimited = u64::MAX >> 2;
    sources
        .iter()
        .filter_map(MemoryLimitSource::read_limit)
        .min()
        .filter(|limit| *limit < unlimited)
}

/// Where a hierarchy reports the memory limit of this process.
#[derive(Debug, PartialEq)]
enum MemoryLimitSource {
    /// Version 1: its cgroup, which reports the lowest limit of all ancestors.
    V1(PathBuf),
    /// Version 2: its cgroup and all ancestors up to the mounted one.
    V2(Vec<PathBuf>),
}

impl MemoryLimitSource {
    fn read_limit(&self) -> Option<u64> {
        match self {
            Self::V1(group) => hierarchical_limit(&dir::read(&group.join("memory.stat")).ok()?),
            Self::V2(groups) => {
                // Above `high`, a process is throttled until it hardly runs.
                let files = groups
                    .iter()
                    .flat_map(|group| ["memory.max", "memory.high"].map(|file| group.join(file)));
                // `max` is not a number and means no limit.
                let limits = files.filter_map(|file| dir::read(&file).ok()?.parse_number().ok());
                limits.min()
            }
        }
    }
}

/// Parses `hierarchical_memory_limit 33554432`.
fn hierarchical_limit(stat: &Text) -> Option<u64> {
    stat.lines().find_map(|mut line| {
        let is_match = line.next_word() == Some("hierarchical_memory_limit");
        is_match.then(|| line.parse("limit").ok())?
    })
}

/// Returns where a process's cgroups are mounted, from its `mountinfo` and `cgroup`.
fn memory_limit_sources(mounts: &Text, groups: &Text) -> Vec<MemoryLimitSource> {
    let own_group = |is_match: &dyn Fn(&str) -> bool| {
        groups.body().lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            is_match(controllers).then(|| parts.next().map(Path::new))?
        })
    };
    let mut sources = Vec::new();
    for line in mounts.body().lines() {
        let Some((mount, kind)) = line.split_once(" - ") else {
            continue;
        };
        let mut mount = mount.split(' ').skip(3).map(unescape_octal);
        let (Some(root), Some(point)) = (mount.next(), mount.next()) else {
            continue;
        };
        let mut kind = kind.split(' ');
        let (kind, options) = (
            kind.next().unwrap_or_default(),
            kind.nth(1).unwrap_or_default(),
        );
        let has_memory = |controllers: &str| controllers.split(',').any(|name| name == "memory");
        let is_v1 = kind == "cgroup" && has_memory(options);
        let group = match kind {
            "cgroup" if is_v1 => own_group(&has_memory),
            "cgroup2" => own_group(&str::is_empty),
            _ => None,
        };
        // The mounted subtree may not contain the process.
        let Some(relative) = group.and_then(|group| group.strip_prefix(Path::new(&*root)).ok())
        else {
            continue;
        };
        let point = Path::new(&*point);
        sources.push(if is_v1 {
            MemoryLimitSource::V1(point.join(relative))
        } else {
            MemoryLimitSource::V2(
                relative
                    .ancestors()
                    .map(|relative| point.join(relative))
                    .collect(),
            )
        });
    }
    sources
}

/// Configures the memory allocator of this process. Call it before other threads are started.
///
/// A response is rendered by any free worker thread. By default, each has an arena, which keeps
/// the memory of its largest response: at 1,000 cgroups, 47 MB were measured where 24 MB suffice,
/// without a difference in time.
pub fn tune_malloc() {
    syscall::limit_malloc_arenas();
}

/// Releases memory that is currently unused: freed heap memory, and the program's code pages, of
/// which startup uses more than later operation. Pages that are needed again are still in the page
/// cache.
pub fn release_memory() -> Result<()> {
    syscall::malloc_trim();
    syscall::discard_clean_code_pages()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that sees version 1 as Docker mounts it, and version 2 of the host.
    const MOUNTS: &str = "\
24 1 0:5 / /proc rw - proc proc rw
30 1 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
31 1 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct
32 1 0:28 / /host\\040sys/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 1 0:28 /other /elsewhere rw - cgroup2 cgroup2 rw
";

    #[test]
    fn cgroups_of_a_process_are_found_in_mountinfo() {
        let groups = "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc/x\n0::/a.slice/b\n";
        assert_eq!(
            memory_limit_sources(&MOUNTS.into(), &groups.into()),
            [
                MemoryLimitSource::V1("/sys/fs/cgroup/memory/x".into()),
                MemoryLimitSource::V2(vec![
                    "/host sys/unified/a.slice/b".into(),
                    "/host sys/unified/a.slice".into(),
                    "/host sys/unified/".into(),
                ]),
            ]
        );
        assert_eq!(
            memory_limit_sources(&MOUNTS.into(), &"4:memory:/\n".into()),
            []
        );
        assert_eq!(memory_limit_sources(&"24 1\n".into(), &groups.into()), []);
    }

    #[test]
    fn lowest_limit_of_all_ancestors_applies() {
        let dir = std::env::temp_dir().join(format!("strata-own-memory-{}", std::process::id()));
        let inner = dir.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.join(file), text).unwrap();
        write("memory.max", "max\n");
        write("inner/memory.max", "max\n");
        let v2 = MemoryLimitSource::V2(vec![inner.clone(), dir.clone()]);
        assert_eq!(v2.read_limit(), None);
        write("inner/memory.high", "40000\n");
        assert_eq!(v2.read_limit(), Some(40_000));
        write("memory.max", "30000\n");
        assert_eq!(v2.read_limit(), Some(30_000));

        let v1 = MemoryLimitSource::V1(dir.clone());
        assert_eq!(v1.read_limit(), None);
        write("memory.stat", "cache 5\nhierarchical_memory_limit 20000\n");
        assert_eq!(v1.read_limit(), Some(20_000));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn smaller_limits_allow_smaller_caches() {
        let unlimited = ResourceBudget::from_limits(65_536, None);
        assert_eq!(
            (unlimited.cgroup_dirs, unlimited.cgroup_files),
            (32_640, 8192)
        );
        assert!(!unlimited.is_reduced && unlimited.history_bytes.is_none());

        let minimal = ResourceBudget::from_limits(65_536, Some(32 << 20));
        assert_eq!(
            (
                minimal.cgroup_dirs,
                minimal.cgroup_files,
                minimal.process_dirs
            ),
            (0, 0, 64)
        );
        assert_eq!(
            (minimal.response_buffer_bytes, minimal.concurrent_scrapes),
            (4 << 20, 1)
        );
        assert_eq!(minimal.history_bytes, Some(2 << 20));
        assert!(minimal.is_reduced);

        let medium = ResourceBudget::from_limits(65_536, Some(128 << 20));
        assert_eq!(
            (medium.cgroup_dirs, medium.cgroup_files, medium.process_dirs),
            (1024, 1536, 1088)
        );
        assert_eq!(
            (medium.response_buffer_bytes, medium.concurrent_scrapes),
            (16 << 20, 5)
        );
        assert!(
            medium.is_reduced && !ResourceBudget::from_limits(65_536, Some(1 << 30)).is_reduced
        );

        let few_files = ResourceBudget::from_limits(64, Some(1 << 40));
        assert_eq!(
            (
                few_files.cgroup_dirs,
                few_files.cgroup_files,
                few_files.process_dirs
            ),
            (0, 0, 0)
        );
        assert_eq!(few_files.connections, 16);
        assert!(!few_files.is_reduced);
        let none = ResourceBudget::from_limits(64, Some(0));
        assert_eq!((none.cgroup_files, none.concurrent_scrapes), (0, 1));
    }

    #[test]
    fn program_runs_after_its_code_pages_were_released() {
        release_memory().unwrap();
        let numbers: Vec<u64> = (0..1000).collect();
        assert_eq!(numbers.iter().sum::<u64>(), 499_500);
    }
}
