//! Whether what is set of a group may have changed: writes in its directory, as
//! `inotify(7)` tells of them.
//!
//! A third of the files of a group are settings, which hardly ever change, and each takes
//! as long to open and read as a number that counts. So they are read anew only once
//! something was written beside them. This is not how groups are found: only directories
//! of which settings were read are watched, and where there are too many of these, or the
//! kernel has no watch left, settings are read each time.

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

/// What older kernels allow each user, if it is not said.
const DEFAULT_MAX_USER_WATCHES: usize = 8192;
/// The share of the user's watches that may be ours.
const USER_WATCHES_DIVISOR: usize = 8;
/// What is asked for of the kernel at once.
const BUFFER: usize = 4096;
/// More events than the kernel keeps by default; what is left is told of in the next
/// scrape.
const MAX_EVENTS: usize = 32_768;

/// The writes in the directories that are watched.
#[derive(Debug)]
pub(super) struct InotifyWatcher {
    inotify: Option<OwnedFd>,
    budget: HandleBudget,
    /// How many there were, by the number of the watch.
    writes: Mutex<HashMap<i32, Arc<AtomicU32>>>,
}

/// A directory that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    wd: i32,
    writes: Arc<AtomicU32>,
    /// The walk in which the directory was last known to be there.
    pub(super) verified_walk: AtomicU32,
}

impl Watch {
    /// How many writes there were until the last walk. They count before anything is read
    /// in it.
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

    /// Watches a directory from now on, if that can be.
    pub(super) fn watch(&self, dir: BorrowedFd<'_>) -> Option<Watch> {
        let inotify = self.inotify.as_ref()?;
        // Held, so that nobody takes a new watch's first events for those of none.
        let mut writes = self.lock_writes();
        if !self.budget.try_acquire() {
            return None;
        }
        // The very directory that is open, and not what may have its name by now.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let flags = WatchFlags::MODIFY | WatchFlags::ONLYDIR;
        let number = inotify::add_watch(inotify, path, flags);
        if number.is_err() || number.is_ok_and(|number| writes.contains_key(&number)) {
            self.budget.release(1);
        }
        let number = number.ok()?;
        Some(Watch {
            wd: number,
            writes: Arc::clone(writes.entry(number).or_default()),
            verified_walk: AtomicU32::default(),
        })
    }

    /// Ends a watch, unless the same directory is watched for another.
    pub(super) fn unwatch(&self, watch: &Watch) {
        let mut writes = self.lock_writes();
        // One is in the map, one is its own.
        if Arc::strong_count(&watch.writes) > 2 {
            return;
        }
        writes.remove(&watch.wd);
        self.budget.release(1);
        if let Some(inotify) = &self.inotify {
            inotify::remove_watch(inotify, watch.wd).ok();
        }
    }

    /// Counts the writes since the last time.
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
        let mut all = false;
        for _ in 0..MAX_EVENTS {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => all = true,
                Ok(event) => {
                    if let Some(writes) = writes.get(&event.wd()) {
                        writes.fetch_add(1, Relaxed);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        // Some were lost.
        if all {
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
    fn there_are_no_more_watches_than_allowed_and_one_serves_all_of_a_directory() {
        let tree = TempTree::new("changes");
        tree.write("proc/sys/fs/inotify/max_user_watches", "8\n");
        for name in ["a", "b"] {
            tree.write(&format!("{name}/file"), "1\n");
        }
        let changes = InotifyWatcher::new(&tree.roots());
        let open = |name| File::open(tree.path(name)).unwrap();
        let (a, b) = (open("a"), open("b"));
        let first = changes.watch(a.as_fd()).unwrap();
        assert!(changes.watch(b.as_fd()).is_none());

        tree.write("a/file", "2\n");
        tree.write("b/file", "2\n");
        assert_eq!(first.writes(), 0);
        changes.drain_events();
        let after = first.writes();
        assert!(after > 0);
        changes.drain_events();
        assert_eq!(first.writes(), after);

        changes.unwatch(&first);
        drop(first);
        let second = changes.watch(b.as_fd()).unwrap();
        assert_eq!((second.writes(), changes.watches()), (0, 1));
    }
}
