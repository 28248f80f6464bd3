//! How much memory this process may have, by its own control group, and what is kept from
//! scrape to scrape under such a limit.
//!
//! Kept files make scrapes cheaper and samples are worth having, but neither is worth
//! being killed for: what the kernel keeps for an open file counts against the limit. So a
//! share of a small limit is kept, and the rest is opened and closed.
//!
//! Read below `/proc/self`, not below `--path.procfs`, for it is about this process.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{Resource, getrlimit};

use super::{Dir, Text, dir, syscall, text::unescape_octal};
use crate::error::Result;

/// Files for what is opened to be closed again, and for connections: where there are no more,
/// nothing is kept.
const RESERVED_FILES: u64 = 256;
/// Kept files of control groups: eight for each of a thousand groups.
const MAX_CGROUP_FILES: u64 = 8192;
/// More processes than are worth a descriptor.
const MAX_PROCESS_DIRS: u64 = 4096;
/// Of these some are kept in any case: what guests do is read of theirs alone.
const MIN_PROCESS_DIRS: u64 = 64;
/// What the kernel needs for a kept file, and for a kept directory, where few are kept
/// among many that are not: each entry and inode holds the page that others were in.
const FILE_BYTES: u64 = 16 << 10;
const DIR_BYTES: u64 = 12 << 10;
/// What it takes without anything that is kept. Only of a limit beyond it a share goes to
/// kept files and directories.
const BASE_BYTES: u64 = 32 << 20;
const FILES_SHARE: u64 = 4;
const DIRS_SHARE: u64 = 8;
const PROCESSES_SHARE: u64 = 8;
/// The shares of the whole limit for samples, and for answers that nobody takes.
const HISTORY_SHARE: u64 = 16;
const RESPONSE_BUFFER_SHARE: u64 = 8;
/// What a scrape of a thousand containers needs, and somewhat more.
const SCRAPE_BYTES: u64 = 24 << 20;
/// Answers that are held for whoever is slow to take them: some twelve of a machine with a
/// thousand containers.
const RESPONSE_BUFFER_BYTES: u64 = 64 << 20;

/// How much this process may keep from scrape to scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceBudget {
    /// Memory that its control group may have, in bytes; `None` for any amount.
    pub memory_limit: Option<u64>,
    /// Directories of control groups that may be kept open.
    pub(super) cgroup_dirs: usize,
    /// Files of control groups that may be kept open.
    pub cgroup_files: usize,
    /// Processes whose directories may be kept open.
    pub(super) process_dirs: usize,
    /// Connections that may be open: who has them all must not leave us without a file to
    /// read.
    pub connections: usize,
    /// Bytes that samples may take; `None` for as many as the flags say.
    pub history_bytes: Option<u64>,
    /// Bytes of answers that may be held for slow readers.
    pub response_buffer_bytes: usize,
    /// Scrapes that may be answered at the same time; more have to wait.
    pub concurrent_scrapes: usize,
    /// Whether the memory limit is why it is not more.
    pub is_reduced: bool,
}

impl ResourceBudget {
    /// That of this process, as it was when first asked for: once it is open, a file stays
    /// so.
    pub fn for_this_process() -> Self {
        static BUDGET: OnceLock<ResourceBudget> = OnceLock::new();
        *BUDGET.get_or_init(|| {
            let files = getrlimit(Resource::Nofile).current;
            Self::from_limits(files.unwrap_or(1 << 16), memory_limit())
        })
    }

    fn from_limits(open_files: u64, memory_limit: Option<u64>) -> Self {
        let beyond = memory_limit.map(|limit| limit.saturating_sub(BASE_BYTES));
        let share =
            |bytes: Option<u64>, of: u64, each: u64| bytes.map_or(u64::MAX, |it| it / of / each);
        let fewer_files = share(beyond, FILES_SHARE, FILE_BYTES);
        // The rest of the descriptors is for everybody else.
        let keepable = open_files.saturating_sub(RESERVED_FILES);
        let files = MAX_CGROUP_FILES.min(keepable / 4);
        let dirs = (keepable / 2).min(share(beyond, DIRS_SHARE, DIR_BYTES));
        let processes = MAX_PROCESS_DIRS.min(keepable / 8);
        let fewer_processes = share(beyond, PROCESSES_SHARE, DIR_BYTES);
        let processes = processes.min(fewer_processes.saturating_add(MIN_PROCESS_DIRS));
        let unsent = RESPONSE_BUFFER_BYTES.min(share(memory_limit, RESPONSE_BUFFER_SHARE, 1));
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            memory_limit,
            cgroup_dirs: count(dirs),
            cgroup_files: count(files.min(fewer_files)),
            process_dirs: count(processes),
            connections: count(open_files / 4).max(1),
            history_bytes: memory_limit.map(|limit| limit / HISTORY_SHARE),
            response_buffer_bytes: count(unsent),
            concurrent_scrapes: count(share(memory_limit, 1, SCRAPE_BYTES)).max(1),
            is_reduced: fewer_files < files,
        }
    }
}

/// Memory that this process may have: the least that its control group, and those that it
/// is in, may have. `None` without a limit, and where nobody can tell.
fn memory_limit() -> Option<u64> {
    let own = Dir::open(Path::new("/proc/self")).ok()?;
    let (mounts, groups) = (own.read("mountinfo").ok()?, own.read("cgroup").ok()?);
    let places = memory_limit_sources(&mounts, &groups);
    // Version 1 has a number near the largest for no limit.
    let none = u64::MAX >> 2;
    places
        .iter()
        .filter_map(MemoryLimitSource::read_limit)
        .min()
        .filter(|limit| *limit < none)
}

/// Where a hierarchy says how much memory this process may have.
#[derive(Debug, PartialEq)]
enum MemoryLimitSource {
    /// Its group in version 1, where each group knows the limits of those above.
    V1(PathBuf),
    /// Its groups in version 2, from its own up to the one that is mounted.
    V2(Vec<PathBuf>),
}

impl MemoryLimitSource {
    fn read_limit(&self) -> Option<u64> {
        match self {
            Self::V1(group) => hierarchical_limit(&dir::read(&group.join("memory.stat")).ok()?),
            Self::V2(groups) => {
                // Above `high` a process is let to starve.
                let files = groups
                    .iter()
                    .flat_map(|group| ["memory.max", "memory.high"].map(|it| group.join(it)));
                // `max` is no number.
                let limits = files.filter_map(|file| dir::read(&file).ok()?.parse_number().ok());
                limits.min()
            }
        }
    }
}

/// `hierarchical_memory_limit 33554432`
fn hierarchical_limit(stat: &Text) -> Option<u64> {
    stat.lines().find_map(|mut line| {
        let is_it = line.next_word() == Some("hierarchical_memory_limit");
        is_it.then(|| line.parse("limit").ok())?
    })
}

/// Where the groups of a process are mounted, from its `mountinfo` and `cgroup`.
fn memory_limit_sources(mounts: &Text, groups: &Text) -> Vec<MemoryLimitSource> {
    let own = |is_it: &dyn Fn(&str) -> bool| {
        groups.body().lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            is_it(controllers).then(|| parts.next().map(Path::new))?
        })
    };
    let mut places = Vec::new();
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
        let has_memory = |controllers: &str| controllers.split(',').any(|it| it == "memory");
        let is_first = kind == "cgroup" && has_memory(options);
        let group = match kind {
            "cgroup" if is_first => own(&has_memory),
            "cgroup2" => own(&str::is_empty),
            _ => None,
        };
        // What is mounted may be a part that the process is not in.
        let Some(below) = group.and_then(|group| group.strip_prefix(Path::new(&*root)).ok()) else {
            continue;
        };
        let point = Path::new(&*point);
        places.push(if is_first {
            MemoryLimitSource::V1(point.join(below))
        } else {
            MemoryLimitSource::V2(below.ancestors().map(|below| point.join(below)).collect())
        });
    }
    places
}

/// Sets how memory is taken and given back, for this process: to be called before there
/// are other threads.
///
/// A page is made by whichever worker is free. Each would have an arena of its own, which
/// keeps what the largest page needed: 47 MB were seen at a thousand groups, where 24 are
/// enough, and no difference in time.
pub fn tune_malloc() {
    syscall::limit_malloc_arenas();
}

/// Gives back memory that nothing of late needed: the program's own code, of which the start
/// uses more than all that comes later, and what was freed. What is needed again the kernel
/// has at hand.
pub fn release_memory() -> Result<()> {
    syscall::malloc_trim();
    syscall::discard_clean_code_pages()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container that sees version 1 as Docker shows it, and version 2 of the host.
    const MOUNTS: &str = "\
24 1 0:5 / /proc rw - proc proc rw
30 1 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
31 1 0:27 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct
32 1 0:28 / /host\\040sys/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 1 0:28 /other /elsewhere rw - cgroup2 cgroup2 rw
";

    #[test]
    fn the_groups_of_a_process_are_found_where_they_are_mounted() {
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
    fn the_least_limit_above_a_group_holds() {
        let dir = std::env::temp_dir().join(format!("strata-own-memory-{}", std::process::id()));
        let inner = dir.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        let say = |file: &str, text: &str| std::fs::write(dir.join(file), text).unwrap();
        say("memory.max", "max\n");
        say("inner/memory.max", "max\n");
        let second = MemoryLimitSource::V2(vec![inner.clone(), dir.clone()]);
        assert_eq!(second.read_limit(), None);
        say("inner/memory.high", "40000\n");
        assert_eq!(second.read_limit(), Some(40_000));
        say("memory.max", "30000\n");
        assert_eq!(second.read_limit(), Some(30_000));

        let first = MemoryLimitSource::V1(dir.clone());
        assert_eq!(first.read_limit(), None);
        say("memory.stat", "cache 5\nhierarchical_memory_limit 20000\n");
        assert_eq!(first.read_limit(), Some(20_000));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn less_is_kept_the_smaller_the_limit() {
        let whole = ResourceBudget::from_limits(65_536, None);
        assert_eq!((whole.cgroup_dirs, whole.cgroup_files), (32_640, 8192));
        assert!(!whole.is_reduced && whole.history_bytes.is_none());

        let bare = ResourceBudget::from_limits(65_536, Some(32 << 20));
        assert_eq!(
            (bare.cgroup_dirs, bare.cgroup_files, bare.process_dirs),
            (0, 0, 64)
        );
        assert_eq!(
            (bare.response_buffer_bytes, bare.concurrent_scrapes),
            (4 << 20, 1)
        );
        assert_eq!(bare.history_bytes, Some(2 << 20));
        assert!(bare.is_reduced);

        let some = ResourceBudget::from_limits(65_536, Some(128 << 20));
        assert_eq!(
            (some.cgroup_dirs, some.cgroup_files, some.process_dirs),
            (1024, 1536, 1088)
        );
        assert_eq!(
            (some.response_buffer_bytes, some.concurrent_scrapes),
            (16 << 20, 5)
        );
        assert!(some.is_reduced && !ResourceBudget::from_limits(65_536, Some(1 << 30)).is_reduced);

        let few = ResourceBudget::from_limits(64, Some(1 << 40));
        assert_eq!(
            (few.cgroup_dirs, few.cgroup_files, few.process_dirs),
            (0, 0, 0)
        );
        assert_eq!(few.connections, 16);
        assert!(!few.is_reduced);
        let none = ResourceBudget::from_limits(64, Some(0));
        assert_eq!((none.cgroup_files, none.concurrent_scrapes), (0, 1));
    }

    #[test]
    fn a_program_runs_on_without_its_code_in_memory() {
        release_memory().unwrap();
        let numbers: Vec<u64> = (0..1000).collect();
        assert_eq!(numbers.iter().sum::<u64>(), 499_500);
    }
}
