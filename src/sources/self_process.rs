//! The exporter's own use of the machine, from `/proc/self`, documented in `proc(5)`.
//!
//! Not below `--path.procfs`: where that is another PID namespace's, it has no `self`
//! of ours.

use std::{path::Path, sync::OnceLock, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::Dir;
use crate::error::Result;

/// More descriptors than this are never of use here, and some systems allow a thousand
/// million.
const MAX_OPEN_FILES: u64 = 65_536;

/// Lets this process open as many files as it may, up to a bound: one directory is kept
/// open for each control group and hierarchy. The soft limit is low by default only for
/// programs that use select(2).
pub fn raise_open_files_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        // Where it cannot be had, files are opened by longer paths.
        setrlimit(Resource::Nofile, raised).ok();
    }
}

/// How many threads this process has.
pub fn thread_count() -> Result<usize> {
    Ok(Dir::open(Path::new("/proc/self/task"))?.names()?.len())
}

/// What this process uses, and may use.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessUsage {
    /// User and system CPU time.
    pub cpu: Duration,
    /// Open file descriptors.
    pub fds: usize,
    /// How many of them there may be; `None` for any number.
    pub max_fds: Option<u64>,
    /// Address space in bytes.
    pub virtual_memory: u64,
    /// How large that may be; `None` for any size.
    pub max_virtual_memory: Option<u64>,
    /// Memory in bytes.
    pub resident_memory: u64,
}

impl ProcessUsage {
    /// What it is now.
    pub fn read() -> Result<Self> {
        let own = Dir::open(Path::new("/proc/self"))?;
        let statm = own.read("statm")?;
        let mut fields = statm.line()?;
        let page = rustix::param::page_size() as u64;
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Ok(Self {
            cpu: Duration::try_from(time).unwrap_or_default(),
            fds: count_open_fds(&own)?,
            max_fds: getrlimit(Resource::Nofile).current,
            virtual_memory: fields.parse::<u64>("size")?.saturating_mul(page),
            max_virtual_memory: getrlimit(Resource::As).current,
            resident_memory: fields.parse::<u64>("resident")?.saturating_mul(page),
        })
    }
}

/// Whether the size of a process's directory of files says how many there are: since Linux
/// 6.2. A size of 0 means none then, as of the kernel's own threads.
pub(super) fn fd_dir_size_counts_fds() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        // This process has one open at least: its own directory.
        let own = Dir::open(Path::new("/proc/self")).and_then(|own| own.stat("fd"));
        own.is_ok_and(|fd| fd.st_size > 0)
    })
}

/// How many files it has open, without those that are opened to count them.
fn count_open_fds(own: &Dir) -> Result<usize> {
    // Since Linux 6.2 the directory's size says it.
    match usize::try_from(own.stat("fd")?.st_size) {
        Ok(count) if count > 0 => Ok(count.saturating_sub(1)),
        _ => Ok(own.dir("fd")?.names()?.len().saturating_sub(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_opens_is_counted() {
        let before = ProcessUsage::read().unwrap();
        let files: Vec<_> = (0..50)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let after = ProcessUsage::read().unwrap();
        // Other tests of this process open files too, but not so many.
        assert!(after.fds >= before.fds + 30, "{before:?} {after:?}");
        assert!(after.resident_memory > 100_000 && after.virtual_memory > after.resident_memory);
        assert!(after.cpu > Duration::ZERO);
        drop(files);
    }
}
