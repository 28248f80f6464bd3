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
        let _turn = self
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
            let begun = state.batch.last_started.unwrap_or(started);
            let waited = begun.elapsed();
            let left = self.timeout.saturating_sub(waited);
            let left = left.min(deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let moment = if state.batch.is_all_started() {
                left
            } else if waited < STALL_THRESHOLD {
                left.min(STALL_THRESHOLD)
            } else {
                self.start_thread(&mut state);
                left.min(STALL_THRESHOLD)
            };
            let waited = self.shared.batch_done.wait_timeout(state, moment);
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
            if let Some(question) = state.next_pending() {
                drop(state);
                let answer = match question.paths.get(question.index).map(call) {
                    Some(Ok(space)) => StatfsResult::Space(space),
                    Some(Err(errno)) => StatfsResult::Failed(errno),
                    None => StatfsResult::Skipped,
                };
                state = self.lock();
                state.complete(&question, answer);
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
        let answer = |place: &MountPath| self.is_stuck(place).then_some(StatfsResult::TimedOut);
        let answers: Vec<_> = paths.iter().map(answer).collect();
        self.batch = StatfsBatch {
            id: self.batch.id,
            paths: Some(Arc::clone(paths)),
            remaining: answers.iter().filter(|answer| answer.is_none()).count(),
            results: answers,
            next: 0,
            last_started: None,
        };
    }

    /// Ends the batch; later results are discarded.
    fn finish_batch(&mut self) -> Vec<StatfsResult> {
        let round = mem::take(&mut self.batch);
        self.batch.id = round.id + 1;
        let places = round.paths.as_deref().unwrap_or_default();
        let answers: Vec<_> = round
            .results
            .into_iter()
            .zip(places)
            .map(|(answer, place)| {
                answer.unwrap_or_else(|| {
                    if self.is_stuck(place) {
                        StatfsResult::TimedOut
                    } else {
                        StatfsResult::Skipped
                    }
                })
            })
            .collect();
        self.responsive_mounts.clear();
        let answered = answers.iter().zip(places);
        let answered = answered.filter(|(answer, _)| matches!(answer, StatfsResult::Space(_)));
        self.responsive_mounts
            .extend(answered.map(|(_, place)| place.mount));
        answers
    }

    /// Whether a worker is stuck in a call for this path.
    fn is_stuck(&self, path: &MountPath) -> bool {
        let mut asked = self.in_flight.iter().filter_map(PendingStatfs::path);
        asked.any(|asked| asked.mount == path.mount && asked.path == path.path)
    }

    /// Whether no more results can arrive: all workers are stuck since an earlier batch, and no
    /// other could be started.
    fn is_stalled(&self) -> bool {
        let now = self.batch.id;
        self.threads == self.in_flight.len() && self.in_flight.iter().all(|q| q.batch_id != now)
    }

    /// Takes the next path to query.
    fn next_pending(&mut self) -> Option<PendingStatfs> {
        let round = &mut self.batch;
        let places = round.paths.as_ref()?;
        let careful = self.in_flight.len() >= MAX_STUCK;
        while let (Some(place), Some(answer)) =
            (places.get(round.next), round.results.get_mut(round.next))
        {
            let at = round.next;
            round.next += 1;
            if answer.is_some() {
                continue;
            }
            if careful && !self.responsive_mounts.contains(&place.mount) {
                *answer = Some(StatfsResult::Skipped);
                round.remaining -= 1;
                continue;
            }
            round.last_started = Some(Instant::now());
            let question = PendingStatfs {
                batch_id: round.id,
                paths: Arc::clone(places),
                index: at,
            };
            self.in_flight.push(question.clone());
            return Some(question);
        }
        None
    }

    /// Stores a result, unless its batch has ended.
    fn complete(&mut self, pending: &PendingStatfs, result: StatfsResult) {
        self.in_flight.retain(|asked| !asked.is_same(pending));
        let round = &mut self.batch;
        let place = round.results.get_mut(pending.index);
        if let Some(place) = place.filter(|_| round.id == pending.batch_id) {
            *place = Some(result);
            round.remaining -= 1;
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

    fn mount_paths(of: impl IntoIterator<Item = (u64, PathBuf)>) -> Arc<[MountPath]> {
        let place = |(mount, path)| MountPath { mount, path };
        of.into_iter().map(place).collect()
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
        let answers = statfs.query(paths, started + FAR);
        (answers, started.elapsed())
    }

    fn threads(statfs: &Statfs) -> usize {
        statfs.shared.lock().threads
    }

    #[test]
    fn responsive_mounts_are_queried_in_order_on_one_thread() {
        let statfs = Statfs::with_statfs_fn(TIMEOUT, hanging);
        for _ in 0..3 {
            let (answers, _) = query(&statfs, &named(&["a", "odd", "c"]));
            let [a, b, c] = answers.try_into().unwrap();
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
        let hang = [
            StatfsResult::Space(space(0)),
            StatfsResult::TimedOut,
            StatfsResult::TimedOut,
            StatfsResult::Space(space(3)),
        ];
        let statfs = Statfs::with_statfs_fn(TIMEOUT, hanging);
        let (answers, took) = query(&statfs, &all);
        assert_eq!(answers, hang);
        // The timeouts run in parallel.
        assert!(TIMEOUT <= took && took < 2 * TIMEOUT, "{took:?}");
        for _ in 0..3 {
            let (answers, took) = query(&statfs, &all);
            assert_eq!(answers, hang);
            assert!(took < TIMEOUT, "{took:?}");
        }
        assert_eq!(threads(&statfs), 3);

        std::fs::remove_dir_all(&dir).unwrap();
        while threads(&statfs) > 1 {
            thread::sleep(Duration::from_millis(5));
        }
        let (answers, _) = query(&statfs, &all);
        assert_eq!(answers[1], StatfsResult::Space(space(1)));
    }

    #[test]
    fn new_mount_on_path_of_stuck_mount_is_queried() {
        let dir = scratch("again");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with_statfs_fn(TIMEOUT, |place| match place.mount {
            1 => hanging(place),
            n => Ok(space(n)),
        });
        let (answers, _) = query(&statfs, &mount_paths([(1, path.clone())]));
        assert_eq!(answers, [StatfsResult::TimedOut]);
        let (answers, _) = query(&statfs, &mount_paths([(2, path)]));
        assert_eq!(answers, [StatfsResult::Space(space(2))]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn earlier_deadline_of_scrape_applies() {
        let dir = scratch("deadline");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with_statfs_fn(FAR, hanging);
        let started = Instant::now();
        let answers = statfs.query(&mount_paths([(1, path)]), started + TIMEOUT);
        assert_eq!(answers, [StatfsResult::TimedOut]);
        assert!(started.elapsed() < 2 * TIMEOUT);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn threads_are_bounded_and_responsive_mounts_continue() {
        let dir = scratch("many");
        let path = dir.join("x");
        let of = |n: u64| {
            let good = mount_paths([(1000, "good".into())]);
            let bad = (0..n).map(|mount| (mount, path.clone()));
            mount_paths(bad.chain([(1000, good[0].path.clone()), (1001, "new".into())]))
        };
        let patience = Duration::from_secs(1);
        let statfs = Statfs::with_statfs_fn(patience, hanging);
        assert_eq!(
            query(&statfs, &of(0)).0[0],
            StatfsResult::Space(space(1000))
        );
        std::fs::write(&path, "").unwrap();
        let many = MAX_STUCK + 10;
        let all = of(many as u64);
        for round in 0..3 {
            let (answers, took) = query(&statfs, &all);
            assert_eq!(answers[0], StatfsResult::TimedOut);
            assert_eq!(
                answers[many],
                StatfsResult::Space(space(1000)),
                "round {round}"
            );
            assert_eq!(answers[many - 1], StatfsResult::Skipped);
            if round > 0 {
                // There was no further wait.
                assert!(took < patience, "{took:?}");
            }
        }
        assert!(threads(&statfs) <= MAX_STUCK + 1, "{}", threads(&statfs));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
