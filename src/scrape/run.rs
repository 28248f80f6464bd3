//! A collector run shared by concurrent scrapes (single-flight).

use std::{
    any::Any,
    cell::RefCell,
    mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::Outcome;
use crate::{collector::CollectFn, error::Error, family::Families, sources::Snapshot};

/// Result of a collector run.
#[derive(Debug)]
pub struct CollectorReport {
    /// Its outcome.
    pub outcome: Outcome,
    /// How long it ran; for a run that is still in progress, how long so far.
    pub duration: Duration,
    /// Its samples. Empty unless it succeeded.
    pub families: Arc<Families>,
}

impl CollectorReport {
    /// Whether it has no result only because the scrape's timeout is short. That is no problem of
    /// the collector, so it is neither logged nor shown as its last run.
    pub(super) fn is_client_timeout(&self) -> bool {
        matches!(self.outcome, Outcome::TimedOut | Outcome::StillRunning)
            && self.duration < super::MIN_READ_TIME
    }

    pub(super) fn without_result(outcome: Outcome, duration: Duration) -> Self {
        Self {
            outcome,
            duration,
            families: Arc::default(),
        }
    }
}

/// A run that is queued, in progress or completed. It belongs to no caller: callers with different
/// deadlines wait for it.
pub(super) struct CollectorRun {
    /// When the first caller requested it.
    pub requested_at: Instant,
    /// What the collector reads; `None` once it has started.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    state: Mutex<RunState>,
}

enum RunState {
    Running(Vec<Arc<WaitGroup>>),
    Done(Arc<CollectorReport>),
}

impl CollectorRun {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            requested_at: Instant::now(),
            snapshot: Mutex::new(Some(snapshot)),
            state: Mutex::new(RunState::Running(Vec::new())),
        }
    }

    /// How long ago it was requested, if it has started; zero while it is queued, because that is
    /// no sign that it is slow.
    pub(super) fn running_time(&self) -> Duration {
        if self.lock_snapshot().is_none() {
            self.requested_at.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// Has a run that is still queued read the later of the two snapshots, because the earlier
    /// one's deadline may pass while it is queued.
    pub(super) fn use_snapshot_if_later(&self, snapshot: &Arc<Snapshot>) {
        let mut own = self.lock_snapshot();
        if let Some(own) = &mut *own
            && own.deadline() < snapshot.deadline()
        {
            *own = Arc::clone(snapshot);
        }
    }

    pub(super) fn report(&self) -> Option<Arc<CollectorReport>> {
        match &*self.lock() {
            RunState::Running(_) => None,
            RunState::Done(report) => Some(Arc::clone(report)),
        }
    }

    /// Adds a wait group that is notified when this run is done.
    pub(super) fn add_waiter(&self, wait_group: &Arc<WaitGroup>) {
        if let RunState::Running(wait_groups) = &mut *self.lock() {
            wait_group.pending.fetch_add(1, Ordering::SeqCst);
            wait_groups.push(Arc::clone(wait_group));
        }
    }

    /// Runs the collector, once, and returns how long that took. May block for long.
    pub(super) fn execute(&self, collect: &CollectFn) -> Duration {
        let started = Instant::now();
        let snapshot = self.lock_snapshot().take();
        let Some(snapshot) = snapshot else {
            return Duration::ZERO;
        };
        let collected = catch_panic(|| collect(&snapshot));
        let duration = started.elapsed();
        let report = match collected {
            Ok(Ok(families)) => CollectorReport {
                outcome: Outcome::Collected,
                duration,
                families: Arc::new(families),
            },
            Ok(Err(error)) => CollectorReport::without_result(error.into(), duration),
            Err(panic) => CollectorReport::without_result(Outcome::Panicked(panic), duration),
        };
        let done = RunState::Done(Arc::new(report));
        if let RunState::Running(wait_groups) = mem::replace(&mut *self.lock(), done) {
            for wait_group in wait_groups {
                wait_group.done();
            }
        }
        duration
    }

    fn lock_snapshot(&self) -> MutexGuard<'_, Option<Arc<Snapshot>>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Self::NotFound(error),
            Error::Unsupported => Self::Unsupported,
            error => Self::Failed(error),
        }
    }
}

thread_local! {
    /// `Some` while panics are caught; then the message and location of the panic.
    static CAUGHT_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs code that may panic; the error is the message and location of the panic.
pub(super) fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT_PANIC.set(Some(String::new()));
    // State captured by the code is either created per scrape or behind locks that tolerate
    // poisoning.
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    let message = CAUGHT_PANIC.take().unwrap_or_default();
    result.map_err(|_| message)
}

/// Suppresses the default message of panics that `catch_panic` catches, which would be repeated
/// in every scrape. Other panics are printed as usual.
pub fn install_panic_hook() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let caught = CAUGHT_PANIC.with_borrow_mut(|caught| match caught {
            Some(message) => {
                let location = panic.location().map(ToString::to_string);
                *message = format!(
                    "{}: {}",
                    location.unwrap_or_default(),
                    panic_message(panic.payload())
                );
                true
            }
            None => false,
        });
        if !caught {
            print(panic);
        }
    }));
}

fn panic_message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

/// Notified when all added runs are done, so that a scrape of fifty collectors is woken once
/// instead of fifty times.
#[derive(Debug)]
pub(super) struct WaitGroup {
    pending: AtomicUsize,
    all_done: Notify,
}

impl WaitGroup {
    /// Held by its creator until [`all_added`](Self::all_added).
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicUsize::new(1),
            all_done: Notify::new(),
        })
    }

    /// Ends the creator's hold: from now on the group is done when its runs are.
    pub(super) fn all_added(&self) {
        self.done();
    }

    fn done(&self) {
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.all_done.notify_one();
        }
    }

    pub(super) async fn wait(&self) {
        self.all_done.notified().await;
    }
}
