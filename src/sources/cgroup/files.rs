//! Reads files of a cgroup: relative to a cached descriptor of its directory, hot files through
//! cached descriptors of their own, and by full path once the limits of both are reached.
//!
//! A cached directory costs the kernel 0.2 KB, a cached file 4.5 KB once it was read. After a
//! cgroup is removed, its descriptors return ENODEV, even if another cgroup has its name by then.

use std::{
    cell::RefCell,
    ffi::CStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Cgroup, CgroupContext,
    inotify::Watch,
    layout::{CgroupController, Hierarchy, InterfaceVersion},
    parse::CgroupParseResult,
};
use crate::error::{Error, Result};

/// More hierarchies than the exporter reads.
const MAX_HIERARCHIES: usize = 8;
/// Initial buffer size: larger than nearly all files.
const BUFFER: usize = 16 << 10;
/// Larger than any of these files; a larger one is an error.
const MAX_FILE: usize = 32 << 20;

/// Limits of open descriptors for all cgroups together.
#[derive(Debug, Clone, Copy)]
pub(super) struct DescriptorLimits {
    pub(super) dirs: usize,
    pub(super) files: usize,
}

/// Handles that may still be opened.
#[derive(Debug)]
pub(super) struct HandleBudget(AtomicUsize);

impl HandleBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self(AtomicUsize::new(limit))
    }

    pub(super) fn try_acquire(&self) -> bool {
        let acquired = self
            .0
            .fetch_update(Relaxed, Relaxed, |available| available.checked_sub(1));
        acquired.is_ok()
    }

    #[cfg(test)]
    pub(super) fn available(&self) -> usize {
        self.0.load(Relaxed)
    }

    pub(super) fn release(&self, count: usize) {
        self.0.fetch_add(count, Relaxed);
    }
}

/// A file of a cgroup.
#[derive(Debug, Clone, Copy)]
pub(super) struct CgroupFile<'a> {
    pub(super) name: &'a CStr,
    hot: Option<HotFile>,
    setting: Option<Setting>,
    /// Whether records are returned one by one, so that a short read is not the end of the file.
    has_short_reads: bool,
}

impl<'a> CgroupFile<'a> {
    pub(super) const fn new(name: &'a CStr) -> Self {
        Self {
            name,
            hot: None,
            setting: None,
            has_short_reads: false,
        }
    }

    pub(super) const fn hot(name: &'a CStr, hot: HotFile) -> Self {
        let mut file = Self::new(name);
        file.hot = Some(hot);
        file
    }

    pub(super) const fn setting(name: &'a CStr, setting: Setting) -> Self {
        let mut file = Self::new(name);
        file.setting = Some(setting);
        file
    }

    pub(super) const fn with_short_reads(name: &'a CStr) -> Self {
        let mut file = Self::new(name);
        file.has_short_reads = true;
        file
    }
}

/// Files that are read in each scrape and therefore keep a descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) enum HotFile {
    Cpu,
    CpuPressure,
    Io,
    IoPressure,
    Memory,
    MemoryPressure,
    MemoryStat,
    Pids,
    /// `cpu.stat` of the unified hierarchy, for cgroups that also have version 1 files.
    UnifiedCpu,
}

/// Number of hot files of each cgroup.
const HOT_FILES: usize = HotFile::UnifiedCpu as usize + 1;

/// Files that change only by a write to them or to another file of their directory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    CpuPeriod,
    CpuQuota,
    CpuShares,
    Memory,
    Pids,
    Reservation,
    Swap,
}

/// Number of settings of each cgroup.
const SETTINGS: usize = Setting::Swap as usize + 1;

/// A setting is read again after this many walks even if no write was reported, in case a kernel
/// can change it in other ways.
const MAX_CACHED_WALKS: u32 = 32;

/// Cached content of a settings file, unless it is too long.
#[derive(Debug, Clone, Copy)]
struct CachedSetting {
    /// The walk in which it was read.
    walk: u32,
    /// Number of writes in its directory when it was read.
    writes: u32,
    len: u8,
    /// Enough for two numbers of 20 digits.
    bytes: [u8; 43],
}

impl CachedSetting {
    fn new(walk: u32, writes: u32, bytes: &[u8]) -> Option<Self> {
        let mut cached = Self {
            walk,
            writes,
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; 43],
        };
        cached.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(cached)
    }

    fn is_fresh(&self, walk: u32, writes: u32) -> bool {
        self.writes == writes && walk.wrapping_sub(self.walk) < MAX_CACHED_WALKS
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

/// Files that some kernels lack. A missing file is remembered and not opened again.
#[derive(Debug, Clone, Copy)]
pub(super) enum OptionalFile {
    CpuMax,
    KernelMemory,
    MemoryEvents,
    MemoryLow,
    MemoryPeak,
    Swap,
    SwapLimit,
}

/// Descriptors and settings cached for a cgroup.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    dirs: [OnceLock<OwnedFd>; MAX_HIERARCHIES],
    files: [OnceLock<OwnedFd>; HOT_FILES],
    watches: [OnceLock<Option<Watch>>; MAX_HIERARCHIES],
    settings: Mutex<[Option<CachedSetting>; SETTINGS]>,
    missing_optional: AtomicU32,
    /// Whether a directory outside the primary hierarchy, where walks do not notice it, was
    /// replaced.
    is_stale: AtomicBool,
    pub(super) created: OnceLock<Duration>,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let count = |slots: &[OnceLock<OwnedFd>]| slots.iter().filter_map(OnceLock::get).count();
        self.shared
            .dir_budget
            .release(count(&self.descriptors.dirs));
        self.shared
            .file_budget
            .release(count(&self.descriptors.files));
        let watches = self.descriptors.watches.iter();
        for watch in watches.filter_map(OnceLock::get).flatten() {
            self.shared.watcher.unwatch(watch);
        }
    }
}

/// A cgroup in one hierarchy.
#[derive(Debug, Clone, Copy)]
pub(super) struct CgroupDir<'a> {
    pub(super) cgroup: &'a Cgroup,
    pub(super) slot: usize,
    pub(super) version: InterfaceVersion,
}

impl Cgroup {
    /// Returns the directory in the hierarchy that has this controller.
    pub(super) fn dir_for(&self, controller: CgroupController) -> Result<CgroupDir<'_>> {
        match self.shared.layout.hierarchy_for(controller) {
            Some((slot, version)) => Ok(CgroupDir {
                cgroup: self,
                slot,
                version,
            }),
            None => Err(Error::NotFound(self.path().into())),
        }
    }

    /// Returns the directory in a given hierarchy, to be read with the files of this version.
    pub(super) fn dir_in(&self, slot: usize, version: InterfaceVersion) -> CgroupDir<'_> {
        CgroupDir {
            cgroup: self,
            slot,
            version,
        }
    }

    /// Whether its descriptors refer to a directory that was removed or replaced.
    pub(super) fn is_stale(&self) -> bool {
        self.descriptors.is_stale.load(Relaxed)
    }

    pub(super) fn is_root(&self) -> bool {
        self.path() == "/"
    }

    pub(super) fn relative_path(&self) -> &str {
        match self.path().strip_prefix('/') {
            Some("") | None => ".",
            Some(path) => path,
        }
    }
}

impl<'a> CgroupDir<'a> {
    /// Reads a file that exists if the cgroup is in this hierarchy and its controller is enabled.
    pub(super) fn read<T>(
        self,
        file: CgroupFile<'_>,
        parse: impl FnOnce(&[u8]) -> CgroupParseResult<T>,
    ) -> Result<T> {
        match self.with_content(file, parse) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::Parse {
                path: self.file_path(file.name),
                line: error.line,
                reason: error.reason,
            }),
            Err(errno) => {
                if matches!(errno, Errno::NODEV | Errno::NOENT) {
                    self.detect_replacement();
                }
                Err(Error::io(self.file_path(file.name), errno))
            }
        }
    }

    /// Reads a file that may be missing or unsupported by the kernel; `None` then.
    pub(super) fn read_if_available<T>(
        self,
        file: CgroupFile<'_>,
        parse: impl FnOnce(&[u8]) -> CgroupParseResult<T>,
    ) -> Result<Option<T>> {
        match self.read(file, parse) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_unavailable() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a file that some kernels lack, after one that all kernels have.
    pub(super) fn read_optional<T>(
        self,
        file: CgroupFile<'_>,
        optional: OptionalFile,
        parse: impl FnOnce(&[u8]) -> CgroupParseResult<T>,
    ) -> Result<Option<T>> {
        let missing = &self.cgroup.descriptors.missing_optional;
        let bit = 1 << optional as u32;
        if missing.load(Relaxed) & bit != 0 {
            return Ok(None);
        }
        match self.read(file, parse) {
            Ok(value) => Ok(Some(value)),
            Err(Error::NotFound(_)) => {
                missing.fetch_or(bit, Relaxed);
                Ok(None)
            }
            Err(error) if error.is_unavailable() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the `stat` data of its directory.
    pub(super) fn stat(self) -> Result<Stat> {
        let stat = match self.dir() {
            Ok(Some(dir)) => rustix::fs::fstat(dir),
            Ok(None) => self.stat_by_path(),
            Err(errno) => Err(errno),
        };
        stat.map_err(|errno| Error::io(self.file_path(c""), errno))
    }

    fn stat_by_path(self) -> Result<Stat, Errno> {
        let hierarchy = self.hierarchy()?;
        rustix::fs::statat(&hierarchy.fd, self.cgroup.relative_path(), AtFlags::empty())
    }

    fn hierarchy(self) -> Result<&'a Hierarchy, Errno> {
        let hierarchies = &self.cgroup.shared.layout.hierarchies;
        hierarchies.get(self.slot).ok_or(Errno::NOENT)
    }

    /// Returns the full path of a file, for error messages only.
    fn file_path(self, name: &CStr) -> PathBuf {
        let hierarchy = self.hierarchy().map(|hierarchy| hierarchy.path.as_path());
        let mut path = hierarchy.unwrap_or("".as_ref()).to_owned();
        if !self.cgroup.is_root() {
            path.push(self.cgroup.relative_path());
        }
        if !name.is_empty() {
            path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
        }
        path
    }

    /// Returns the cached descriptor of its directory; opens it if the limit allows.
    fn dir(self) -> Result<Option<BorrowedFd<'a>>, Errno> {
        let hierarchy = self.hierarchy()?;
        if self.cgroup.is_root() {
            return Ok(Some(hierarchy.fd.as_fd()));
        }
        let Some(slot) = self.cgroup.descriptors.dirs.get(self.slot) else {
            return Ok(None);
        };
        if let Some(dir) = slot.get() {
            return Ok(Some(dir.as_fd()));
        }
        let budget = &self.cgroup.shared.dir_budget;
        if !budget.try_acquire() {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.cgroup.relative_path();
        match rustix::fs::openat(&hierarchy.fd, path, flags, Mode::empty()) {
            Ok(dir) => {
                // Another thread may have opened it first.
                if slot.set(dir).is_err() {
                    budget.release(1);
                }
                Ok(slot.get().map(AsFd::as_fd))
            }
            Err(errno) => {
                budget.release(1);
                Err(errno)
            }
        }
    }

    fn open(self, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        if let Some(dir) = self.dir()? {
            return rustix::fs::openat(dir, name, flags, Mode::empty());
        }
        let group = self.cgroup.relative_path().as_bytes();
        let path = [group, b"/", name.to_bytes()].concat();
        let hierarchy = self.hierarchy()?;
        rustix::fs::openat(&hierarchy.fd, path, flags, Mode::empty())
    }

    fn with_content<T>(
        self,
        file: CgroupFile<'_>,
        parse: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Errno> {
        let slot = file.hot.and_then(|hot| {
            let files = &self.cgroup.descriptors.files;
            files.get(hot as usize)
        });
        if let Some(fd) = slot.and_then(OnceLock::get) {
            let parsed = with_bytes(fd, file.has_short_reads, parse)?;
            self.mark_dir_alive();
            return Ok(parsed);
        }
        if let Some(setting) = file.setting
            && let Some(watch) = self.watch()
        {
            return self.read_setting(file.name, setting, watch, parse);
        }
        let fd = self.open(file.name)?;
        let parsed = with_bytes(&fd, file.has_short_reads, parse)?;
        self.mark_dir_alive();
        let budget = &self.cgroup.shared.file_budget;
        // In an ordinary file system, a descriptor of a replaced file would report no error.
        if let Some(slot) = slot
            && self.hierarchy()?.is_cgroupfs
            && budget.try_acquire()
            && slot.set(fd).is_err()
        {
            budget.release(1);
        }
        Ok(parsed)
    }

    /// Returns a setting, from the cache if there was no write since.
    fn read_setting<T>(
        self,
        name: &CStr,
        setting: Setting,
        watch: &Watch,
        parse: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Errno> {
        let settings = || {
            let settings = &self.cgroup.descriptors.settings;
            settings.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let (walk, writes) = (self.cgroup.last_walk.load(Relaxed), watch.writes());
        let cached = settings().get(setting as usize).copied().flatten();
        if let Some(cached) = cached.filter(|cached| cached.is_fresh(walk, writes))
            && self.is_dir_alive(name, watch)
        {
            return Ok(parse(cached.bytes()));
        }
        let open = self.open(name)?;
        with_bytes(&open, false, |bytes| {
            if let Some(slot) = settings().get_mut(setting as usize) {
                *slot = CachedSetting::new(walk, writes, bytes);
            }
            parse(bytes)
        })
    }

    /// Whether a cached directory still existed at the last walk; its removal is not reported by
    /// inotify.
    fn is_dir_alive(self, name: &CStr, watch: &Watch) -> bool {
        let walk = self.cgroup.last_walk.load(Relaxed);
        if self.slot == self.cgroup.shared.layout.primary
            || watch.verified_walk.load(Relaxed) == walk
        {
            return true;
        }
        let Ok(Some(dir)) = self.dir() else {
            return false;
        };
        let exists = rustix::fs::statat(dir, name, AtFlags::empty()).is_ok();
        if exists {
            watch.verified_walk.store(walk, Relaxed);
        }
        exists
    }

    /// Records that the directory exists, because one of its files was just read.
    fn mark_dir_alive(self) {
        let watch = self.cgroup.descriptors.watches.get(self.slot);
        if let Some(Some(watch)) = watch.and_then(OnceLock::get) {
            watch
                .verified_walk
                .store(self.cgroup.last_walk.load(Relaxed), Relaxed);
        }
    }

    /// Returns the watch of its directory, if the directory is cached and can be watched.
    fn watch(self) -> Option<&'a Watch> {
        let watch = self.cgroup.descriptors.watches.get(self.slot)?;
        if let Some(watch) = watch.get() {
            return watch.as_ref();
        }
        // In an ordinary file system, inotify may miss some writes.
        if !self.hierarchy().ok()?.is_cgroupfs {
            return None;
        }
        let dir = self.dir().ok().flatten()?;
        let watcher = &self.cgroup.shared.watcher;
        watch.get_or_init(|| watcher.watch(dir)).as_ref()
    }

    /// Marks the cgroup stale if its directory, in a hierarchy other than the primary one, was
    /// replaced. The next walk then opens the whole cgroup again.
    fn detect_replacement(self) {
        let descriptors = &self.cgroup.descriptors;
        if self.slot == self.cgroup.shared.layout.primary {
            return;
        }
        let Some(dir) = descriptors.dirs.get(self.slot).and_then(OnceLock::get) else {
            return;
        };
        let cached = rustix::fs::fstat(dir).map(|stat| stat.st_ino);
        let current = self.stat_by_path().map(|stat| stat.st_ino);
        if cached != current {
            descriptors.is_stale.store(true, Relaxed);
        }
    }
}

/// Reads an open file and passes its content to a closure.
fn with_bytes<T>(
    file: &OwnedFd,
    has_short_reads: bool,
    parse: impl FnOnce(&[u8]) -> T,
) -> Result<T, Errno> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < self::BUFFER {
            buffer.resize(self::BUFFER, 0);
        }
        let len = fill(buffer, file, has_short_reads);
        let parsed = len.map(|len| parse(buffer.get(..len).unwrap_or_default()));
        // A buffer that grew for a rare large file is released.
        if buffer.len() > 16 * self::BUFFER {
            *buffer = Vec::new();
        }
        parsed
    })
}

/// Reads a file from its start to its end; returns its length.
fn fill(buffer: &mut Vec<u8>, file: &OwnedFd, has_short_reads: bool) -> Result<usize, Errno> {
    let mut len = 0;
    loop {
        let free = buffer.get_mut(len..).unwrap_or_default();
        let requested = free.len();
        let read = match rustix::io::pread(file, free, len as u64) {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        len += read;
        // The kernel generates the whole file at once and fills the buffer as far as it can.
        if read == 0 || (read < requested && !has_short_reads) {
            return Ok(len);
        }
        if len == buffer.len() {
            if len >= MAX_FILE {
                return Err(Errno::FBIG);
            }
            buffer.resize(len * 2, 0);
        }
    }
}

impl CgroupContext {
    pub(super) fn new_cgroup(self: &Arc<Self>, path: &str, inode: u64) -> Cgroup {
        Cgroup {
            path: path.into(),
            inode,
            last_walk: AtomicU32::new(0),
            shared: Arc::clone(self),
            descriptors: Descriptors::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_is_read_again_after_write_and_after_max_walks() {
        let setting = CachedSetting::new(u32::MAX, 5, b"50000\n").unwrap();
        assert_eq!(setting.bytes(), b"50000\n");
        assert!(setting.is_fresh(u32::MAX, 5));
        // The walk number wraps around.
        assert!(setting.is_fresh(MAX_CACHED_WALKS - 2, 5));
        assert!(!setting.is_fresh(MAX_CACHED_WALKS - 1, 5));
        assert!(!setting.is_fresh(u32::MAX, 6));
        assert!(CachedSetting::new(0, 0, &[b'1'; 44]).is_none());
    }
}
