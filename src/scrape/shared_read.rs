//! A read with a deadline, shared by concurrent callers (single-flight), for JSON and pages.
//!
//! The rules are those of collectors: it may panic, is not started again while it hangs, and each
//! caller waits to its own deadline, unless the read is known to take longer than that.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};

use super::{MIN_READ_TIME, SLOW_WAIT, Workers, run::catch_panic};
use crate::{
    error::{Error, Result},
    sources::Snapshot,
};

type Read<T> = Box<dyn Fn(&Arc<Snapshot>) -> Result<T> + Send + Sync>;
type Done<T> = watch::Receiver<Option<Result<T>>>;

/// A read shared by concurrent callers.
pub struct SharedRead<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// What is read, as errors name it.
    what: &'static str,
    read: Read<T>,
    state: Mutex<ReadState<T>>,
}

struct ReadState<T> {
    /// The last run that was started.
    current: Option<ReadRun<T>>,
    /// How long the last finished run took.
    last_duration: Duration,
}

struct ReadRun<T> {
    phase: Arc<Mutex<ReadPhase>>,
    done: Done<T>,
}

enum ReadPhase {
    /// With the snapshot to read.
    Queued(Arc<Snapshot>),
    /// With the time at which it was requested.
    Started(Instant),
}

impl<T: Clone + Send + Sync + 'static> SharedRead<T> {
    /// Creates a read that errors call `what`.
    #[must_use]
    pub fn new(
        what: &'static str,
        read: impl Fn(&Arc<Snapshot>) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                what,
                read: Box::new(read),
                state: Mutex::new(ReadState {
                    current: None,
                    last_duration: Duration::ZERO,
                }),
            }),
        }
    }

    /// What is read, as errors name it.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.shared.what
    }

    /// Returns the result of the run in progress, or of a new one, by the snapshot's deadline.
    pub async fn take(&self, snapshot: &Arc<Snapshot>, workers: &Workers) -> Result<T> {
        let what = self.shared.what;
        let now = Instant::now();
        let deadline = snapshot.deadline();
        let (mut done, duration) = self.join_or_start(snapshot, workers);
        let is_slow = duration >= deadline.saturating_duration_since(now);
        let wait_until = if is_slow {
            deadline.min(now + SLOW_WAIT)
        } else {
            deadline
        };
        let result = workers.wait_for(done.wait_for(Option::is_some));
        match time::timeout_at(wait_until.into(), result).await {
            Ok(Ok(result)) => result.clone().unwrap_or_else(|| Err(gone(what))),
            Ok(Err(_)) => Err(gone(what)),
            Err(_) if is_slow => Err(Error::api(
                what,
                "has not responded since an earlier request",
            )),
            Err(_) => Err(Error::TimedOut(what.to_owned())),
        }
    }

    /// Returns a run and the larger of its running time and the duration of the last finished run.
    fn join_or_start(&self, snapshot: &Arc<Snapshot>, workers: &Workers) -> (Done<T>, Duration) {
        let shared = &self.shared;
        let mut state = shared.lock();
        let last_duration = state.last_duration;
        let is_running =
            |run: &&ReadRun<T>| run.done.borrow().is_none() && run.done.has_changed().is_ok();
        if let Some(run) = state.current.as_ref().filter(is_running) {
            let running_time = match &mut *lock(&run.phase) {
                // The deadline of the first caller may pass while the run is queued.
                ReadPhase::Queued(own) => {
                    if own.deadline() < snapshot.deadline() {
                        *own = Arc::clone(snapshot);
                    }
                    Duration::ZERO
                }
                ReadPhase::Started(requested_at) => requested_at.elapsed(),
            };
            return (run.done.clone(), running_time.max(last_duration));
        }
        let (sender, done) = watch::channel(None);
        // Another caller with more time may share the result.
        let queued = ReadPhase::Queued(snapshot.with_min_time(MIN_READ_TIME));
        let phase = Arc::new(Mutex::new(queued));
        state.current = Some(ReadRun {
            phase: Arc::clone(&phase),
            done: done.clone(),
        });
        drop(state);
        let shared = Arc::clone(shared);
        let requested_at = Instant::now();
        workers.spawn(move || {
            let started = Instant::now();
            let before = mem::replace(&mut *lock(&phase), ReadPhase::Started(requested_at));
            let ReadPhase::Queued(snapshot) = before else {
                return;
            };
            let result = catch_panic(|| (shared.read)(&snapshot));
            let result = result.unwrap_or_else(|panic| {
                let reason = format!("failed by a bug, please report it: {panic}");
                Err(Error::api(shared.what, reason))
            });
            let mut state = shared.lock();
            state.last_duration = started.elapsed();
            // Callers that wait for it have their own reference to the result.
            state.current.take_if(|run| Arc::ptr_eq(&run.phase, &phase));
            drop(state);
            sender.send(Some(result)).ok();
        });
        (done, last_duration)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, ReadState<T>> {
        lock(&self.state)
    }
}

/// The error of a run that ended without a result, as when the exporter stops.
fn gone(what: &'static str) -> Error {
    Error::api(what, "was not read")
}

impl<T> fmt::Debug for SharedRead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRead")
            .field("what", &self.shared.what)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;
    use crate::sources::Roots;

    fn snapshot(limit: Duration) -> Arc<Snapshot> {
        let roots = Roots {
            procfs: "/nowhere".into(),
            sysfs: "/nowhere".into(),
            rootfs: "/nowhere".into(),
            udev_data: "/nowhere".into(),
        };
        Arc::new(Snapshot::new(roots.into(), Instant::now() + limit))
    }

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// A read that blocks until it receives a message, and the number of its starts.
    fn hanging() -> (SharedRead<u32>, mpsc::Sender<()>, Arc<AtomicU32>) {
        let (release, hang) = mpsc::channel();
        let (hang, starts) = (Mutex::new(hang), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&starts);
        let read = SharedRead::new("the disk", move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            hang.lock().unwrap().recv().ok();
            Ok(number)
        });
        (read, release, starts)
    }

    #[tokio::test]
    async fn hanging_read_is_not_started_twice() {
        let workers = Workers::default();
        let (read, release, starts) = hanging();
        let error = read.take(&snapshot(SHORT), &workers).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk timed out");
        let error = read.take(&snapshot(SHORT), &workers).await.unwrap_err();
        let expected = "the disk: has not responded since an earlier request";
        assert_eq!(error.to_string(), expected);
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        // A caller with more time still waits for it.
        let late = snapshot(LONG);
        let (result, ()) = tokio::join!(read.take(&late, &workers), async {
            release.send(()).unwrap();
        });
        assert_eq!(result.unwrap(), 0);
        release.send(()).unwrap();
        assert_eq!(read.take(&snapshot(LONG), &workers).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn concurrent_callers_share_a_read() {
        let workers = Workers::default();
        let (read, release, starts) = hanging();
        let snapshot = snapshot(LONG);
        // Futures are polled in their order: both wait before the read can end.
        let (one, other, ()) = tokio::join!(
            read.take(&snapshot, &workers),
            read.take(&snapshot, &workers),
            async { release.send(()).unwrap() },
        );
        assert_eq!((one.unwrap(), other.unwrap()), (0, 0));
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn panic_is_an_error_of_its_read() {
        let workers = Workers::default();
        let read = SharedRead::<u32>::new("the disk", |_| panic!("intended panic"));
        for _ in 0..2 {
            let error = read.take(&snapshot(LONG), &workers).await.unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("the disk: failed by a bug"), "{error}");
        }
    }
}
