//! One run of one collector, which any number of scrapes can wait for.

use std::{
    any::Any,
    cell::RefCell,
    mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::Outcome;
use crate::{collector::CollectFn, error::Error, family::Families, sources::Snapshot};

/// What a collector did with the time it took.
#[derive(Debug)]
pub struct CollectorReport {
    /// What became of it.
    pub outcome: Outcome,
    /// How long it ran; for one that still runs, how long so far.
    pub duration: Duration,
    /// What it saw. Empty unless it succeeded.
    pub families: Arc<Families>,
}

impl CollectorReport {
    pub(super) fn without_result(outcome: Outcome, duration: Duration) -> Self {
        Self {
            outcome,
            duration,
            families: Arc::default(),
        }
    }
}

/// A run that was started.
pub(super) struct CollectorRun {
    pub started: Instant,
    /// When the scrape that started it gave up waiting.
    pub deadline: Instant,
    /// Whether a thread has taken it up.
    is_started: AtomicBool,
    state: Mutex<RunState>,
}

enum RunState {
    Running(Vec<Arc<WaitGroup>>),
    Done(Arc<CollectorReport>),
}

impl CollectorRun {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            started: Instant::now(),
            deadline,
            is_started: AtomicBool::new(false),
            state: Mutex::new(RunState::Running(Vec::new())),
        }
    }

    /// Whether it should have returned by now. A read that hangs in the kernel
    /// cannot be cancelled, only kept from piling up.
    pub(super) fn is_overdue(&self) -> bool {
        self.report().is_none() && self.deadline <= Instant::now()
    }

    /// A thread takes it up.
    pub(super) fn mark_started(&self) {
        self.is_started.store(true, Ordering::SeqCst);
    }

    /// Whether a thread has taken it up, and it is not only waiting for one.
    pub(super) fn is_started(&self) -> bool {
        self.is_started.load(Ordering::SeqCst)
    }

    pub(super) fn report(&self) -> Option<Arc<CollectorReport>> {
        match &*self.lock() {
            RunState::Running(_) => None,
            RunState::Done(report) => Some(Arc::clone(report)),
        }
    }

    /// Lets a latch wait for this run too.
    pub(super) fn add_waiter(&self, wait_group: &Arc<WaitGroup>) {
        if let RunState::Running(latches) = &mut *self.lock() {
            wait_group.pending.fetch_add(1, Ordering::SeqCst);
            latches.push(Arc::clone(wait_group));
        }
    }

    /// Runs the collector to its end, on a thread where that may take long.
    pub(super) fn execute(&self, collect: &CollectFn, snapshot: &Snapshot) {
        let started = Instant::now();
        let collected = catch_panic(|| collect(snapshot));
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
        if let RunState::Running(latches) = mem::replace(&mut *self.lock(), done) {
            for latch in latches {
                latch.done();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RunState> {
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
    /// Set while a panic is caught, to what it said and where.
    static CAUGHT_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs code that may panic; the error is what the panic said and where.
pub(super) fn catch_panic<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT_PANIC.set(Some(String::new()));
    // What the code holds is either made anew for each scrape or behind locks that
    // bear being poisoned.
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    let said = CAUGHT_PANIC.take().unwrap_or_default();
    result.map_err(|_| said)
}

/// Keeps the panics that [`catch`] catches off standard error, where they would
/// stand again with every scrape. Other panics are printed as ever.
pub fn install_panic_hook() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let caught = CAUGHT_PANIC.with_borrow_mut(|caught| match caught {
            Some(said) => {
                let place = panic.location().map(ToString::to_string);
                *said = format!(
                    "{}: {}",
                    place.unwrap_or_default(),
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
        .unwrap_or("a panic without a message")
}

/// Opens when all the runs it waits for are done, so that a scrape of fifty
/// collectors is woken once and not fifty times.
#[derive(Debug)]
pub(super) struct WaitGroup {
    pending: AtomicUsize,
    all_done: Notify,
}

impl WaitGroup {
    /// Held by whoever sets it up, until [`release`](Self::release)d.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicUsize::new(1),
            all_done: Notify::new(),
        })
    }

    pub(super) fn done(&self) {
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.all_done.notify_one();
        }
    }

    pub(super) async fn wait(&self) {
        self.all_done.notified().await;
    }
}
