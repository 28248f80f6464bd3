//! Detects with `inotify(7)` whether settings of a cgroup may have changed, from writes in its
//! directory.
//!
//! A third of a cgroup's files are settings, which hardly ever change, yet opening and reading
//! each takes as long as reading a counter. They are therefore read again only after a write in
//! their directory. Cgroups are not discovered this way: only directories whose settings were read
//! are watched. If there are too many of these, or the kernel has no watches left, settings are
//! read in every scrape.

use std::{
    collections::HashMap,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::{Roots, files::HandleBudget};
use crate::sources::dir;

/// Default limit per user in older kernels, for hosts where the limit cannot be read.
const DEFAULT_MAX_USER_WATCHES: usize = 8192;
/// Fraction of the user's watches that the exporter may use: one in this many.
const USER_WATCHES_DIVISOR: usize = 8;
/// Buffer size of one read of events.
const BUFFER: usize = 4096;
/// More events than the kernel queues by default. What is left is read in the next scrape.
const MAX_EVENTS: usize = 32_768;

/// Counts writes in the watched directories.
#[derive(Debug)]
pub(super) struct InotifyWatcher {
    inotify: Option<OwnedFd>,
    budget: HandleBudget,
    /// Number of writes by watch descriptor.
    writes: Mutex<HashMap<i32, Arc<AtomicU32>>>,
}

/// A watched directory.
#[derive(Debug)]
pub(super) struct Watch {
    wd: i32,
    writes: Arc<AtomicU32>,
    /// The last walk in which the directory was known to exist.
    pub(super) verified_walk: AtomicU32,
}

impl Watch {
    /// Number of writes up to the last walk. The caller reads it before it reads files of the
    /// directory, so a concurrent write is not missed.
    pub(super) fn writes(&self) -> u32 {
        self.writes.load(Relaxed)
    }
}

impl InotifyWatcher {
    pub(super) fn new(roots: &Roots) -> Self {
        let limit = dir::read(&roots.procfs.join("sys/fs/inotify/max_user_watches"));
        let limit = limit
            .and_then(|text| text.parse_number())
            .unwrap_or(DEFAULT_MAX_USER_WATCHES);
        Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(),
            budget: HandleBudget::new(limit / USER_WATCHES_DIVISOR),
            writes: Mutex::default(),
        }
    }

    /// Starts to watch a directory, unless watches are unavailable or used up.
    pub(super) fn watch(&self, dir: BorrowedFd<'_>) -> Option<Watch> {
        let inotify = self.inotify.as_ref()?;
        // Locked until the watch is in the map, so that its first events are not discarded.
        let mut writes = self.lock_writes();
        if !self.budget.try_acquire() {
            return None;
        }
        // Names the open directory itself, not one that may have replaced it since.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let flags = WatchFlags::MODIFY | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(inotify, path, flags);
        if wd.is_err() || wd.is_ok_and(|wd| writes.contains_key(&wd)) {
            self.budget.release(1);
        }
        let wd = wd.ok()?;
        Some(Watch {
            wd,
            writes: Arc::clone(writes.entry(wd).or_default()),
            verified_walk: AtomicU32::default(),
        })
    }

    /// Ends a watch, unless another `Watch` of the same directory exists.
    pub(super) fn unwatch(&self, watch: &Watch) {
        let mut writes = self.lock_writes();
        // One reference is in the map, one in `watch`.
        if Arc::strong_count(&watch.writes) > 2 {
            return;
        }
        writes.remove(&watch.wd);
        self.budget.release(1);
        if let Some(inotify) = &self.inotify {
            inotify::remove_watch(inotify, watch.wd).ok();
        }
    }

    /// Reads all queued events and counts the writes since the last call.
    pub(super) fn drain_events(&self) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let writes = self.lock_writes();
        if writes.is_empty() {
            return;
        }
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(inotify, &mut buffer);
        let mut overflowed = false;
        for _ in 0..MAX_EVENTS {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    overflowed = true;
                }
                Ok(event) => {
                    if let Some(writes) = writes.get(&event.wd()) {
                        writes.fetch_add(1, Relaxed);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // The queue overflowed: assume a write in every directory.
        if overflowed {
            for writes in writes.values() {
                writes.fetch_add(1, Relaxed);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn watches(&self) -> usize {
        self.lock_writes().len()
    }

    fn lock_writes(&self) -> MutexGuard<'_, HashMap<i32, Arc<AtomicU32>>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::{super::testing::TempTree, *};

    #[test]
    fn watches_are_limited_and_shared_per_directory() {
        let tree = TempTree::new("changes");
        tree.write("proc/sys/fs/inotify/max_user_watches", "8\n");
        for name in ["a", "b"] {
            tree.write(&format!("{name}/file"), "1\n");
        }
        let watcher = InotifyWatcher::new(&tree.roots());
        let open = |name| File::open(tree.path(name)).unwrap();
        let (a, b) = (open("a"), open("b"));
        let first = watcher.watch(a.as_fd()).unwrap();
        assert!(watcher.watch(b.as_fd()).is_none());

        tree.write("a/file", "2\n");
        tree.write("b/file", "2\n");
        assert_eq!(first.writes(), 0);
        watcher.drain_events();
        let after = first.writes();
        assert!(after > 0);
        watcher.drain_events();
        assert_eq!(first.writes(), after);

        watcher.unwatch(&first);
        drop(first);
        let second = watcher.watch(b.as_fd()).unwrap();
        assert_eq!((second.writes(), watcher.watches()), (0, 1));
    }
}
