//! Resource usage of the exporter, from `/proc/self`, documented in `proc(5)`.
//!
//! It is not read below `--path.procfs`: if that belongs to another PID namespace, its `self` is
//! not this process.

use std::{path::Path, sync::OnceLock, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::Dir;
use crate::error::Result;

/// The exporter never needs more descriptors, and some systems allow a billion.
const MAX_OPEN_FILES: u64 = 65_536;

/// Raises the soft limit of open files to the hard limit, up to a maximum: one directory is kept
/// open per cgroup and hierarchy. The default soft limit is low only for programs that use
/// select(2).
pub fn raise_open_files_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let target = maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    if current.is_some_and(|current| current < target) {
        let raised = Rlimit {
            current: Some(target),
            maximum,
        };
        // If this fails, files are opened by longer paths.
        setrlimit(Resource::Nofile, raised).ok();
    }
}

/// Number of threads of this process.
pub fn thread_count() -> Result<usize> {
    Ok(Dir::open(Path::new("/proc/self/task"))?.names()?.len())
}

/// Resource usage and limits of this process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time.
    pub cpu: Duration,
    /// Open file descriptors.
    pub fds: usize,
    /// Limit of open file descriptors; `None` if unlimited.
    pub max_fds: Option<u64>,
    /// Address space in bytes.
    pub virtual_memory: u64,
    /// Limit of the address space in bytes; `None` if unlimited.
    pub max_virtual_memory: Option<u64>,
    /// Resident memory in bytes.
    pub resident_memory: u64,
}

impl ProcessUsage {
    /// Reads the current usage.
    pub fn read() -> Result<Self> {
        let proc_self = Dir::open(Path::new("/proc/self"))?;
        let statm = proc_self.read("statm")?;
        let mut fields = statm.line()?;
        let page = rustix::param::page_size() as u64;
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Ok(Self {
            cpu: Duration::try_from(time).unwrap_or_default(),
            fds: count_open_fds(&proc_self)?,
            max_fds: getrlimit(Resource::Nofile).current,
            virtual_memory: fields.parse::<u64>("size")?.saturating_mul(page),
            max_virtual_memory: getrlimit(Resource::As).current,
            resident_memory: fields.parse::<u64>("resident")?.saturating_mul(page),
        })
    }
}

/// Whether the size of `/proc/PID/fd` is the number of open files: since Linux 6.2. A size of 0
/// then means none, as for kernel threads.
pub(super) fn fd_dir_size_counts_fds() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        // This process has at least one open file: its own directory.
        let proc_self =
            Dir::open(Path::new("/proc/self")).and_then(|proc_self| proc_self.stat("fd"));
        proc_self.is_ok_and(|fd| fd.st_size > 0)
    })
}

/// Number of its open files, without those opened to count them.
fn count_open_fds(proc_self: &Dir) -> Result<usize> {
    // Since Linux 6.2, this is the directory's size.
    match usize::try_from(proc_self.stat("fd")?.st_size) {
        Ok(count) if count > 0 => Ok(count.saturating_sub(1)),
        _ => Ok(proc_self.dir("fd")?.names()?.len().saturating_sub(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_descriptors_are_counted() {
        let before = ProcessUsage::read().unwrap();
        let files: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let after = ProcessUsage::read().unwrap();
        // Other tests of this process open files too, but not as many.
        assert!(after.fds >= before.fds + 30, "{before:?} {after:?}");
        assert!(after.resident_memory > 100_000 && after.virtual_memory > after.resident_memory);
        assert!(after.cpu > Duration::ZERO);
        drop(files);
    }
}
