//! File system usage from statfs(2), which can hang.
//!
//! A call to a dead NFS or FUSE server never returns and cannot be cancelled. Every type of file
//! system may be affected, because the path to a local one may lead through a dead one. All calls
//! are therefore made on separate worker threads. One worker parks between scrapes; normally no
//! thread is started, and both sides wake up once. If a call stalls, another worker continues with
//! the rest, so that the timeouts of any number of dead servers run in parallel. A stuck worker is
//! left alone, and its mount is not queried again until the call returns.

use std::{
    collections::HashSet,
    fmt, mem,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

/// Duration of a call after which another worker continues with the rest.
const STALL_THRESHOLD: Duration = Duration::from_millis(25);
/// Number of stuck calls from which on only mounts that responded last time are queried.
const MAX_STUCK: usize = 64;
/// Leaves threads for mounts that responded last time and then hang.
const MAX_THREADS: usize = 2 * MAX_STUCK;
/// Enough for one system call and for the message of a panic.
const STACK_SIZE: usize = 128 << 10;

/// A path to query.
#[derive(Debug)]
pub struct MountPath {
    /// ID of the mount at the path: a different mount at the same path is not stuck because this
    /// one is.
    pub mount: u64,
    /// A path on the mount.
    pub path: PathBuf,
}

/// Result of a query.
#[derive(Debug, Clone, PartialEq)]
pub enum StatfsResult {
    /// Usage of the file system.
    Space(Space),
    /// The call failed.
    Failed(Errno),
    /// The call did not return in time, now or since an earlier scrape.
    TimedOut,
    /// Not queried, because too many other calls are stuck.
    Skipped,
}

/// Usage of a file system.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Block size in bytes.
    pub block_size: u64,
    /// Total blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks available to unprivileged users.
    pub available: u64,
    /// Total inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// Queries file systems on worker threads that may hang.
pub struct Statfs {
    /// Maximum duration of a call.
    timeout: Duration,
    call: StatfsFn,
    /// Held by the caller of a query; queries run one at a time.
    query_lock: Mutex<()>,
    shared: Arc<StatfsWorkers>,
}

/// The call that may hang. Tests replace it.
type StatfsFn = fn(&MountPath) -> Result<Space, Errno>;

#[derive(Default)]
struct StatfsWorkers {
    state: Mutex<StatfsState>,
    /// Signals that there is work.
    work_available: Condvar,
    /// Signals that all results are complete.
    batch_done: Condvar,
}

#[derive(Default)]
struct StatfsState {
    batch: StatfsBatch,
    /// Calls in progress, of this batch or stuck since an earlier one.
    in_flight: Vec<PendingStatfs>,
    /// Mounts that responded in the previous batch.
    responsive_mounts: HashSet<u64>,
    threads: usize,
    idle: usize,
    closing: bool,
}

/// The paths of one query.
#[derive(Default)]
struct StatfsBatch {
    id: u64,
    paths: Option<Arc<[MountPath]>>,
    results: Vec<Option<StatfsResult>>,
    /// Index of the first path that was not started.
    next: usize,
    /// Number of missing results.
    remaining: usize,
    /// Start of the last call.
    last_started: Option<Instant>,
}

/// One path of one batch.
#[derive(Clone)]
struct PendingStatfs {
    batch_id: u64,
    paths: Arc<[MountPath]>,
    index: usize,
}

impl Statfs {
    /// Creates a client whose calls time out after `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self::with_statfs_fn(timeout, statfs)
    }

    fn with_statfs_fn(timeout: Duration, call: StatfsFn) -> Self {
        Self {
            timeout,
            call,
            query_lock: Mutex::default(),
            shared: Arc::default(),
        }
    }

    /// Queries all paths; returns the results in the same order, before `deadline`.
    #[must_use]
    pub fn query(&self, paths: &Arc<[MountPath]>, deadline: Instant) -> Vec<StatfsResult> {
        let _lock = self
            .query_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let mut state = self.shared.lock();
        state.begin_batch(paths);
        if state.batch.remaining > 0 {
            if state.idle > 0 {
                self.shared.work_available.notify_one();
            } else {
                self.start_thread(&mut state);
            }
        }
        while state.batch.remaining > 0 && !state.is_stalled() {
            let last_started = state.batch.last_started.unwrap_or(started);
            let waited = last_started.elapsed();
            let remaining = self.timeout.saturating_sub(waited);
            let remaining = remaining.min(deadline.saturating_duration_since(Instant::now()));
            if remaining.is_zero() {
                break;
            }
            let wait = if state.batch.is_all_started() {
                remaining
            } else if waited < STALL_THRESHOLD {
                remaining.min(STALL_THRESHOLD)
            } else {
                self.start_thread(&mut state);
                remaining.min(STALL_THRESHOLD)
            };
            let waited = self.shared.batch_done.wait_timeout(state, wait);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.finish_batch()
    }

    fn start_thread(&self, state: &mut StatfsState) {
        if state.threads >= MAX_THREADS {
            return;
        }
        let (shared, call) = (Arc::clone(&self.shared), self.call);
        let started = thread::Builder::new()
            .name("statfs".into())
            .stack_size(STACK_SIZE)
            .spawn(move || shared.run_worker(call));
        // If no thread can be started, existing ones continue, if any is not stuck.
        if started.is_ok() {
            state.threads += 1;
        }
    }
}

impl Drop for Statfs {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work_available.notify_all();
    }
}

impl fmt::Debug for Statfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statfs")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl StatfsWorkers {
    fn lock(&self) -> MutexGuard<'_, StatfsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Main loop of a worker thread.
    fn run_worker(&self, call: StatfsFn) {
        let mut state = self.lock();
        loop {
            if let Some(pending) = state.next_pending() {
                drop(state);
                let result = match pending.paths.get(pending.index).map(call) {
                    Some(Ok(space)) => StatfsResult::Space(space),
                    Some(Err(errno)) => StatfsResult::Failed(errno),
                    None => StatfsResult::Skipped,
                };
                state = self.lock();
                state.complete(&pending, result);
                continue;
            }
            if state.batch.remaining == 0 {
                self.batch_done.notify_one();
            }
            if state.idle > 0 || state.closing {
                state.threads -= 1;
                return;
            }
            state.idle += 1;
            let woken = self.work_available.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl StatfsState {
    fn begin_batch(&mut self, paths: &Arc<[MountPath]>) {
        let result = |path: &MountPath| self.is_stuck(path).then_some(StatfsResult::TimedOut);
        let results: Vec<_> = paths.iter().map(result).collect();
        self.batch = StatfsBatch {
            id: self.batch.id,
            paths: Some(Arc::clone(paths)),
            remaining: results.iter().filter(|result| result.is_none()).count(),
            results,
            next: 0,
            last_started: None,
        };
    }

    /// Ends the batch; later results are discarded.
    fn finish_batch(&mut self) -> Vec<StatfsResult> {
        let batch = mem::take(&mut self.batch);
        self.batch.id = batch.id + 1;
        let paths = batch.paths.as_deref().unwrap_or_default();
        let results: Vec<_> = batch
            .results
            .into_iter()
            .zip(paths)
            .map(|(result, path)| {
                result.unwrap_or_else(|| {
                    if self.is_stuck(path) {
                        StatfsResult::TimedOut
                    } else {
                        StatfsResult::Skipped
                    }
                })
            })
            .collect();
        self.responsive_mounts.clear();
        let responsive = results.iter().zip(paths);
        let responsive = responsive.filter(|(result, _)| matches!(result, StatfsResult::Space(_)));
        self.responsive_mounts
            .extend(responsive.map(|(_, path)| path.mount));
        results
    }

    /// Whether a worker is stuck in a call for this path.
    fn is_stuck(&self, path: &MountPath) -> bool {
        let mut pending = self.in_flight.iter().filter_map(PendingStatfs::path);
        pending.any(|pending| pending.mount == path.mount && pending.path == path.path)
    }

    /// Whether no more results can arrive: all workers are stuck since an earlier batch, and no
    /// other could be started.
    fn is_stalled(&self) -> bool {
        let batch_id = self.batch.id;
        self.threads == self.in_flight.len()
            && self
                .in_flight
                .iter()
                .all(|pending| pending.batch_id != batch_id)
    }

    /// Takes the next path to query.
    fn next_pending(&mut self) -> Option<PendingStatfs> {
        let batch = &mut self.batch;
        let paths = batch.paths.as_ref()?;
        let only_responsive = self.in_flight.len() >= MAX_STUCK;
        while let (Some(path), Some(result)) =
            (paths.get(batch.next), batch.results.get_mut(batch.next))
        {
            let index = batch.next;
            batch.next += 1;
            if result.is_some() {
                continue;
            }
            if only_responsive && !self.responsive_mounts.contains(&path.mount) {
                *result = Some(StatfsResult::Skipped);
                batch.remaining -= 1;
                continue;
            }
            batch.last_started = Some(Instant::now());
            let pending = PendingStatfs {
                batch_id: batch.id,
                paths: Arc::clone(paths),
                index,
            };
            self.in_flight.push(pending.clone());
            return Some(pending);
        }
        None
    }

    /// Stores a result, unless its batch has ended.
    fn complete(&mut self, pending: &PendingStatfs, result: StatfsResult) {
        self.in_flight.retain(|other| !other.is_same(pending));
        let batch = &mut self.batch;
        let slot = batch.results.get_mut(pending.index);
        if let Some(slot) = slot.filter(|_| batch.id == pending.batch_id) {
            *slot = Some(result);
            batch.remaining -= 1;
        }
    }
}

impl StatfsBatch {
    fn is_all_started(&self) -> bool {
        self.next >= self.results.len()
    }
}

impl PendingStatfs {
    fn path(&self) -> Option<&MountPath> {
        self.paths.get(self.index)
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.batch_id, self.index) == (other.batch_id, other.index)
    }
}

fn statfs(path: &MountPath) -> Result<Space, Errno> {
    // Not rustix's `statfs`: only statvfs accounts for blocks being counted in `f_frsize`, which
    // some FUSE servers set to a different value than `f_bsize`.
    let space = rustix::io::retry_on_intr(|| rustix::fs::statvfs(&path.path))?;
    Ok(Space {
        block_size: space.f_frsize,
        blocks: space.f_blocks,
        free: space.f_bfree,
        available: space.f_bavail,
        files: space.f_files,
        files_free: space.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(400);
    /// Longer than any test runs.
    const FAR: Duration = Duration::from_secs(60);

    fn mount_paths(mounts: impl IntoIterator<Item = (u64, PathBuf)>) -> Arc<[MountPath]> {
        let mount_path = |(mount, path)| MountPath { mount, path };
        mounts.into_iter().map(mount_path).collect()
    }

    fn named(names: &[&str]) -> Arc<[MountPath]> {
        mount_paths((0..).zip(names.iter().map(PathBuf::from)))
    }

    /// Hangs while a file with this path exists.
    fn hanging(path: &MountPath) -> Result<Space, Errno> {
        while path.path.starts_with("/") && path.path.exists() {
            thread::sleep(Duration::from_millis(2));
        }
        if path.path.ends_with("odd") {
            return Err(Errno::STALE);
        }
        Ok(space(path.mount))
    }

    fn space(n: u64) -> Space {
        Space {
            block_size: n,
            blocks: 0,
            free: 0,
            available: 0,
            files: 0,
            files_free: 0,
        }
    }

    /// Directory for the files that make calls hang.
    fn scratch(name: &str) -> PathBuf {
        let dir = format!("strata-statfs-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn query(statfs: &Statfs, paths: &Arc<[MountPath]>) -> (Vec<StatfsResult>, Duration) {
        let started = Instant::now();
        let results = statfs.query(paths, started + FAR);
        (results, started.elapsed())
    }

    fn threads(statfs: &Statfs) -> usize {
        statfs.shared.lock().threads
    }

    #[test]
    fn responsive_mounts_are_queried_in_order_on_one_thread() {
        let statfs = Statfs::with_statfs_fn(TIMEOUT, hanging);
        for _ in 0..3 {
            let (results, _) = query(&statfs, &named(&["a", "odd", "c"]));
            let [a, b, c] = results.try_into().unwrap();
            assert_eq!(
                (a, c),
                (StatfsResult::Space(space(0)), StatfsResult::Space(space(2)))
            );
            assert_eq!(b, StatfsResult::Failed(Errno::STALE));
        }
        assert_eq!(threads(&statfs), 1);
        assert!(query(&statfs, &named(&[])).0.is_empty());
    }

    #[test]
    fn stuck_mounts_cost_one_timeout_and_recover() {
        let dir = scratch("hangs");
        let stuck = [dir.join("x"), dir.join("y")];
        for path in &stuck {
            std::fs::write(path, "").unwrap();
        }
        let [x, y] = stuck.clone();
        let all = mount_paths([(0, "a".into()), (1, x), (2, y), (3, "d".into())]);
        let expected = [
            StatfsResult::Space(space(0)),
            StatfsResult::TimedOut,
            StatfsResult::TimedOut,
            StatfsResult::Space(space(3)),
        ];
        let statfs = Statfs::with_statfs_fn(TIMEOUT, hanging);
        let (results, elapsed) = query(&statfs, &all);
        assert_eq!(results, expected);
        // The timeouts run in parallel.
        assert!(TIMEOUT <= elapsed && elapsed < 2 * TIMEOUT, "{elapsed:?}");
        for _ in 0..3 {
            let (results, elapsed) = query(&statfs, &all);
            assert_eq!(results, expected);
            assert!(elapsed < TIMEOUT, "{elapsed:?}");
        }
        assert_eq!(threads(&statfs), 3);

        std::fs::remove_dir_all(&dir).unwrap();
        while threads(&statfs) > 1 {
            thread::sleep(Duration::from_millis(5));
        }
        let (results, _) = query(&statfs, &all);
        assert_eq!(results[1], StatfsResult::Space(space(1)));
    }

    #[test]
    fn new_mount_on_path_of_stuck_mount_is_queried() {
        let dir = scratch("again");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with_statfs_fn(TIMEOUT, |path| match path.mount {
            1 => hanging(path),
            n => Ok(space(n)),
        });
        let (results, _) = query(&statfs, &mount_paths([(1, path.clone())]));
        assert_eq!(results, [StatfsResult::TimedOut]);
        let (results, _) = query(&statfs, &mount_paths([(2, path)]));
        assert_eq!(results, [StatfsResult::Space(space(2))]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn earlier_deadline_of_scrape_applies() {
        let dir = scratch("deadline");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with_statfs_fn(FAR, hanging);
        let started = Instant::now();
        let results = statfs.query(&mount_paths([(1, path)]), started + TIMEOUT);
        assert_eq!(results, [StatfsResult::TimedOut]);
        assert!(started.elapsed() < 2 * TIMEOUT);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn threads_are_bounded_and_responsive_mounts_continue() {
        let dir = scratch("many");
        let path = dir.join("x");
        let with_stuck = |n: u64| {
            let responsive = mount_paths([(1000, "good".into())]);
            let stuck = (0..n).map(|mount| (mount, path.clone()));
            mount_paths(stuck.chain([(1000, responsive[0].path.clone()), (1001, "new".into())]))
        };
        let timeout = Duration::from_secs(1);
        let statfs = Statfs::with_statfs_fn(timeout, hanging);
        assert_eq!(
            query(&statfs, &with_stuck(0)).0[0],
            StatfsResult::Space(space(1000))
        );
        std::fs::write(&path, "").unwrap();
        let many = MAX_STUCK + 10;
        let all = with_stuck(many as u64);
        for round in 0..3 {
            let (results, elapsed) = query(&statfs, &all);
            assert_eq!(results[0], StatfsResult::TimedOut);
            assert_eq!(
                results[many],
                StatfsResult::Space(space(1000)),
                "round {round}"
            );
            assert_eq!(results[many - 1], StatfsResult::Skipped);
            if round > 0 {
                // There was no further wait.
                assert!(elapsed < timeout, "{elapsed:?}");
            }
        }
        assert!(threads(&statfs) <= MAX_STUCK + 1, "{}", threads(&statfs));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
