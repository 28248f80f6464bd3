//! How the files of a group are read: below a kept descriptor of its directory, the hot
//! ones by kept descriptors of their own, and by their whole path where there are too
//! many of both.
//!
//! A kept directory costs the kernel 0.2 KB, a kept file 4.5 KB once it was read. Of a
//! group that was removed they say so (ENODEV), even if another has its name by then.

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
    Group, Shared,
    changes::Watch,
    layout::{Files, Hierarchy, Subject},
    parse::Parsed,
};
use crate::error::{Error, Result};

/// More hierarchies than we read in.
const MAX_HIERARCHIES: usize = 8;
/// What is asked for at first: more than nearly all files hold.
const BUFFER: usize = 16 << 10;
/// More than any of the files holds; what is larger is an error.
const MAX_FILE: usize = 32 << 20;

/// How much may be kept open for all groups together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) dirs: usize,
    pub(super) files: usize,
}

/// What of that is left.
#[derive(Debug)]
pub(super) struct Left(AtomicUsize);

impl Left {
    pub(super) fn new(bound: usize) -> Self {
        Self(AtomicUsize::new(bound))
    }

    pub(super) fn take(&self) -> bool {
        let taken = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Relaxed)
    }

    pub(super) fn give_back(&self, count: usize) {
        self.0.fetch_add(count, Relaxed);
    }
}

/// A file of a group's.
#[derive(Debug, Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) name: &'a CStr,
    kept: Option<Kept>,
    setting: Option<Setting>,
    /// Whether its records come one by one, so that a short read is not the end.
    is_in_parts: bool,
}

impl<'a> File<'a> {
    pub(super) const fn new(name: &'a CStr) -> Self {
        Self {
            name,
            kept: None,
            setting: None,
            is_in_parts: false,
        }
    }

    pub(super) const fn kept(name: &'a CStr, kept: Kept) -> Self {
        let mut file = Self::new(name);
        file.kept = Some(kept);
        file
    }

    pub(super) const fn setting(name: &'a CStr, setting: Setting) -> Self {
        let mut file = Self::new(name);
        file.setting = Some(setting);
        file
    }

    pub(super) const fn in_parts(name: &'a CStr) -> Self {
        let mut file = Self::new(name);
        file.is_in_parts = true;
        file
    }
}

/// Files that are worth a descriptor: they are read in each scrape.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kept {
    Cpu,
    CpuPressure,
    Io,
    IoPressure,
    Memory,
    MemoryPressure,
    MemoryStat,
    Pids,
    /// Of groups that have version 1's files too.
    UnifiedCpu,
}

/// How many there are of each group.
const KEPT: usize = Kept::UnifiedCpu as usize + 1;

/// Files that only change when somebody writes to them, or to one beside them.
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

/// How many settings there are.
const SETTINGS: usize = Setting::Swap as usize + 1;

/// A setting is read anew in one of so many walks even if nobody told of a write: for a
/// kernel that has other ways to change it.
const MAX_WALKS: u32 = 32;

/// What a file of settings said, unless it was long.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// The walk that it is from.
    walk: u32,
    /// How many writes in its directory it is from.
    writes: u32,
    len: u8,
    /// Two numbers of 20 digits.
    bytes: [u8; 43],
}

impl Said {
    fn new(walk: u32, writes: u32, bytes: &[u8]) -> Option<Self> {
        let mut said = Self {
            walk,
            writes,
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; 43],
        };
        said.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(said)
    }

    fn still_holds(&self, walk: u32, writes: u32) -> bool {
        self.writes == writes && walk.wrapping_sub(self.walk) < MAX_WALKS
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

/// Files that a kernel may not have; that it does not is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Optional {
    CpuMax,
    KernelMemory,
    MemoryEvents,
    MemoryLow,
    MemoryPeak,
    Swap,
    SwapLimit,
}

/// What is kept of a group.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    dirs: [OnceLock<OwnedFd>; MAX_HIERARCHIES],
    files: [OnceLock<OwnedFd>; KEPT],
    watches: [OnceLock<Option<Watch>>; MAX_HIERARCHIES],
    settings: Mutex<[Option<Said>; SETTINGS]>,
    absent: AtomicU32,
    /// Whether a directory was replaced that the walk does not see.
    is_stale: AtomicBool,
    pub(super) made: OnceLock<Duration>,
}

impl Drop for Group {
    fn drop(&mut self) {
        let count = |kept: &[OnceLock<OwnedFd>]| kept.iter().filter_map(OnceLock::get).count();
        self.shared.dirs.give_back(count(&self.descriptors.dirs));
        self.shared.files.give_back(count(&self.descriptors.files));
        let watches = self.descriptors.watches.iter();
        for watch in watches.filter_map(OnceLock::get).flatten() {
            self.shared.changes.unwatch(watch);
        }
    }
}

/// A group in one hierarchy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) group: &'a Group,
    pub(super) slot: usize,
    pub(super) files: Files,
}

impl Group {
    /// Where this is said of the group.
    pub(super) fn place(&self, subject: Subject) -> Result<Place<'_>> {
        match self.shared.layout.place(subject) {
            Some((slot, files)) => Ok(Place {
                group: self,
                slot,
                files,
            }),
            None => Err(Error::Absent(self.path().into())),
        }
    }

    /// The group in a hierarchy, whose files of this version are asked for.
    pub(super) fn place_in(&self, slot: usize, files: Files) -> Place<'_> {
        Place {
            group: self,
            slot,
            files,
        }
    }

    /// Whether its descriptors are of something else than what is there.
    pub(super) fn is_stale(&self) -> bool {
        self.descriptors.is_stale.load(Relaxed)
    }

    pub(super) fn is_root(&self) -> bool {
        self.path() == "/"
    }

    pub(super) fn relative(&self) -> &str {
        match self.path().strip_prefix('/') {
            Some("") | None => ".",
            Some(path) => path,
        }
    }
}

impl<'a> Place<'a> {
    /// Reads a file that is there if the group is in this hierarchy and its controller is
    /// on.
    pub(super) fn read<T>(
        self,
        file: File<'_>,
        parse: impl FnOnce(&[u8]) -> Parsed<T>,
    ) -> Result<T> {
        match self.bytes(file, parse) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(damaged)) => Err(Error::Parse {
                path: self.path_of(file.name),
                line: damaged.line,
                reason: damaged.reason,
            }),
            Err(errno) => {
                if matches!(errno, Errno::NODEV | Errno::NOENT) {
                    self.notice_replacement();
                }
                Err(Error::io(self.path_of(file.name), errno))
            }
        }
    }

    /// Reads a file of which it is no failure that there is none, or that the kernel does
    /// not answer.
    pub(super) fn read_if_any<T>(
        self,
        file: File<'_>,
        parse: impl FnOnce(&[u8]) -> Parsed<T>,
    ) -> Result<Option<T>> {
        match self.read(file, parse) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_unsaid() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a file that not all kernels have, after one that all have.
    pub(super) fn read_optional<T>(
        self,
        file: File<'_>,
        optional: Optional,
        parse: impl FnOnce(&[u8]) -> Parsed<T>,
    ) -> Result<Option<T>> {
        let absent = &self.group.descriptors.absent;
        let bit = 1 << optional as u32;
        if absent.load(Relaxed) & bit != 0 {
            return Ok(None);
        }
        match self.read(file, parse) {
            Ok(value) => Ok(Some(value)),
            Err(Error::Absent(_)) => {
                absent.fetch_or(bit, Relaxed);
                Ok(None)
            }
            Err(error) if error.is_unsaid() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known about its directory.
    pub(super) fn stat(self) -> Result<Stat> {
        let stat = match self.dir() {
            Ok(Some(dir)) => rustix::fs::fstat(dir),
            Ok(None) => self.stat_by_path(),
            Err(errno) => Err(errno),
        };
        stat.map_err(|errno| Error::io(self.path_of(c""), errno))
    }

    fn stat_by_path(self) -> Result<Stat, Errno> {
        let hierarchy = self.hierarchy()?;
        rustix::fs::statat(&hierarchy.fd, self.group.relative(), AtFlags::empty())
    }

    fn hierarchy(self) -> Result<&'a Hierarchy, Errno> {
        let all = &self.group.shared.layout.hierarchies;
        all.get(self.slot).ok_or(Errno::NOENT)
    }

    /// For errors only.
    fn path_of(self, name: &CStr) -> PathBuf {
        let hierarchy = self.hierarchy().map(|it| it.path.as_path());
        let mut path = hierarchy.unwrap_or("".as_ref()).to_owned();
        if !self.group.is_root() {
            path.push(self.group.relative());
        }
        if !name.is_empty() {
            path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
        }
        path
    }

    /// Its directory, if that is open, or may be opened to stay so.
    fn dir(self) -> Result<Option<BorrowedFd<'a>>, Errno> {
        let hierarchy = self.hierarchy()?;
        if self.group.is_root() {
            return Ok(Some(hierarchy.fd.as_fd()));
        }
        let Some(kept) = self.group.descriptors.dirs.get(self.slot) else {
            return Ok(None);
        };
        if let Some(dir) = kept.get() {
            return Ok(Some(dir.as_fd()));
        }
        let left = &self.group.shared.dirs;
        if !left.take() {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.group.relative();
        match rustix::fs::openat(&hierarchy.fd, path, flags, Mode::empty()) {
            Ok(dir) => {
                // Somebody else may have been faster.
                if kept.set(dir).is_err() {
                    left.give_back(1);
                }
                Ok(kept.get().map(AsFd::as_fd))
            }
            Err(errno) => {
                left.give_back(1);
                Err(errno)
            }
        }
    }

    fn open(self, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        if let Some(dir) = self.dir()? {
            return rustix::fs::openat(dir, name, flags, Mode::empty());
        }
        let group = self.group.relative().as_bytes();
        let path = [group, b"/", name.to_bytes()].concat();
        let hierarchy = self.hierarchy()?;
        rustix::fs::openat(&hierarchy.fd, path, flags, Mode::empty())
    }

    fn bytes<T>(self, file: File<'_>, made: impl FnOnce(&[u8]) -> T) -> Result<T, Errno> {
        let kept = file.kept.and_then(|kept| {
            let files = &self.group.descriptors.files;
            files.get(kept as usize)
        });
        if let Some(open) = kept.and_then(OnceLock::get) {
            let made = with_bytes(open, file.is_in_parts, made)?;
            self.is_there_now();
            return Ok(made);
        }
        if let Some(setting) = file.setting
            && let Some(watch) = self.watch()
        {
            return self.setting(file.name, setting, watch, made);
        }
        let open = self.open(file.name)?;
        let made = with_bytes(&open, file.is_in_parts, made)?;
        self.is_there_now();
        let left = &self.group.shared.files;
        // In an ordinary file system a file that was replaced would never say so.
        if let Some(kept) = kept
            && self.hierarchy()?.is_kernels
            && left.take()
            && kept.set(open).is_err()
        {
            left.give_back(1);
        }
        Ok(made)
    }

    /// What a setting is, from before if nothing was written since.
    fn setting<T>(
        self,
        name: &CStr,
        setting: Setting,
        watch: &Watch,
        made: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Errno> {
        let settings = || {
            let settings = &self.group.descriptors.settings;
            settings.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let (walk, writes) = (self.group.seen.load(Relaxed), watch.writes());
        let said = settings().get(setting as usize).copied().flatten();
        if let Some(said) = said.filter(|said| said.still_holds(walk, writes))
            && self.is_there(name, watch)
        {
            return Ok(made(said.bytes()));
        }
        let open = self.open(name)?;
        with_bytes(&open, false, |bytes| {
            if let Some(slot) = settings().get_mut(setting as usize) {
                *slot = Said::new(walk, writes, bytes);
            }
            made(bytes)
        })
    }

    /// Whether a kept directory was not removed since the walk before, of which nobody
    /// tells.
    fn is_there(self, name: &CStr, watch: &Watch) -> bool {
        let walk = self.group.seen.load(Relaxed);
        if self.slot == self.group.shared.layout.walked || watch.there.load(Relaxed) == walk {
            return true;
        }
        let Ok(Some(dir)) = self.dir() else {
            return false;
        };
        let is_there = rustix::fs::statat(dir, name, AtFlags::empty()).is_ok();
        if is_there {
            watch.there.store(walk, Relaxed);
        }
        is_there
    }

    /// Another of its files was just read.
    fn is_there_now(self) {
        let watch = self.group.descriptors.watches.get(self.slot);
        if let Some(Some(watch)) = watch.and_then(OnceLock::get) {
            watch.there.store(self.group.seen.load(Relaxed), Relaxed);
        }
    }

    /// Its directory's watch, if it is kept open and can be watched.
    fn watch(self) -> Option<&'a Watch> {
        let watch = self.group.descriptors.watches.get(self.slot)?;
        if let Some(watch) = watch.get() {
            return watch.as_ref();
        }
        // Of writes to an ordinary file system somebody may tell, but not of all.
        if !self.hierarchy().ok()?.is_kernels {
            return None;
        }
        let dir = self.dir().ok().flatten()?;
        let changes = &self.group.shared.changes;
        watch.get_or_init(|| changes.watch(dir)).as_ref()
    }

    /// Where a kept directory of a hierarchy that is not walked is gone, the group's may
    /// be another by now: it is to be opened anew, with the rest of the group.
    fn notice_replacement(self) {
        let descriptors = &self.group.descriptors;
        if self.slot == self.group.shared.layout.walked {
            return;
        }
        let Some(dir) = descriptors.dirs.get(self.slot).and_then(OnceLock::get) else {
            return;
        };
        let ours = rustix::fs::fstat(dir).map(|stat| stat.st_ino);
        let there = self.stat_by_path().map(|stat| stat.st_ino);
        if ours != there {
            descriptors.is_stale.store(true, Relaxed);
        }
    }
}

/// Hands over all that an open file says.
fn with_bytes<T>(
    file: &OwnedFd,
    is_in_parts: bool,
    made: impl FnOnce(&[u8]) -> T,
) -> Result<T, Errno> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < self::BUFFER {
            buffer.resize(self::BUFFER, 0);
        }
        let len = fill(buffer, file, is_in_parts);
        let made = len.map(|len| made(buffer.get(..len).unwrap_or_default()));
        // What a rare large file needed is not held for ever.
        if buffer.len() > 16 * self::BUFFER {
            *buffer = Vec::new();
        }
        made
    })
}

/// Reads from start to end; says how much it was.
fn fill(buffer: &mut Vec<u8>, file: &OwnedFd, is_in_parts: bool) -> Result<usize, Errno> {
    let mut len = 0;
    loop {
        let room = buffer.get_mut(len..).unwrap_or_default();
        let wanted = room.len();
        let read = match rustix::io::pread(file, room, len as u64) {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        len += read;
        // The kernel makes each file at once and hands over all that there is room for.
        if read == 0 || (read < wanted && !is_in_parts) {
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

/// What all groups of a layout share.
impl Shared {
    pub(super) fn group(self: &Arc<Self>, path: &str, inode: u64) -> Group {
        Group {
            path: path.into(),
            inode,
            seen: AtomicU32::new(0),
            shared: Arc::clone(self),
            descriptors: Descriptors::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_again_after_a_write_and_once_in_a_while() {
        let said = Said::new(u32::MAX, 5, b"50000\n").unwrap();
        assert_eq!(said.bytes(), b"50000\n");
        assert!(said.still_holds(u32::MAX, 5));
        // The number of the walk begins anew at its end.
        assert!(said.still_holds(MAX_WALKS - 2, 5));
        assert!(!said.still_holds(MAX_WALKS - 1, 5));
        assert!(!said.still_holds(u32::MAX, 6));
        assert!(Said::new(0, 0, &[b'1'; 44]).is_none());
    }
}
