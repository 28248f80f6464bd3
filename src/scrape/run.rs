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
use crate::{collector::Collect, error::Error, family::Families, sources::Snapshot};

/// What a collector did with the time it took.
#[derive(Debug)]
pub struct Report {
    /// What became of it.
    pub outcome: Outcome,
    /// How long it ran; for one that still runs, how long so far.
    pub duration: Duration,
    /// What it saw. Empty unless it succeeded.
    pub families: Arc<Families>,
}

impl Report {
    pub(super) fn without_result(outcome: Outcome, duration: Duration) -> Self {
        Self {
            outcome,
            duration,
            families: Arc::default(),
        }
    }
}

/// A run that was started.
pub(super) struct Run {
    pub started: Instant,
    /// When the scrape that started it gave up waiting.
    pub deadline: Instant,
    /// Whether a thread has taken it up.
    begun: AtomicBool,
    state: Mutex<State>,
}

enum State {
    Running(Vec<Arc<Latch>>),
    Done(Arc<Report>),
}

impl Run {
    pub(super) fn new(deadline: Instant) -> Self {
        Self {
            started: Instant::now(),
            deadline,
            begun: AtomicBool::new(false),
            state: Mutex::new(State::Running(Vec::new())),
        }
    }

    /// Whether it should have returned by now. A read that hangs in the kernel
    /// cannot be cancelled, only kept from piling up.
    pub(super) fn is_overdue(&self) -> bool {
        self.report().is_none() && self.deadline <= Instant::now()
    }

    /// A thread takes it up.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    /// Whether a thread has taken it up, and it is not only waiting for one.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn report(&self) -> Option<Arc<Report>> {
        match &*self.lock() {
            State::Running(_) => None,
            State::Done(report) => Some(Arc::clone(report)),
        }
    }

    /// Lets a latch wait for this run too.
    pub(super) fn wake(&self, latch: &Arc<Latch>) {
        if let State::Running(latches) = &mut *self.lock() {
            latch.waiting_for.fetch_add(1, Ordering::SeqCst);
            latches.push(Arc::clone(latch));
        }
    }

    /// Runs the collector to its end, on a thread where that may take long.
    pub(super) fn execute(&self, collect: &Collect, machine: &Snapshot) {
        let started = Instant::now();
        let collected = catch(|| collect(machine));
        let duration = started.elapsed();
        let report = match collected {
            Ok(Ok(families)) => Report {
                outcome: Outcome::Collected,
                duration,
                families: Arc::new(families),
            },
            Ok(Err(error)) => Report::without_result(error.into(), duration),
            Err(panic) => Report::without_result(Outcome::Panicked(panic), duration),
        };
        let done = State::Done(Arc::new(report));
        if let State::Running(latches) = mem::replace(&mut *self.lock(), done) {
            for latch in latches {
                latch.release();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Absent(_) => Self::Absent(error),
            Error::Unsupported => Self::Unsupported,
            error => Self::Failed(error),
        }
    }
}

thread_local! {
    /// Set while a panic is caught, to what it said and where.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs code that may panic; the error is what the panic said and where.
pub(super) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT.set(Some(String::new()));
    // What the code holds is either made anew for each scrape or behind locks that
    // bear being poisoned.
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    let said = CAUGHT.take().unwrap_or_default();
    result.map_err(|_| said)
}

/// Keeps the panics that [`catch`] catches off standard error, where they would
/// stand again with every scrape. Other panics are printed as ever.
pub fn quiet_caught_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let caught = CAUGHT.with_borrow_mut(|caught| match caught {
            Some(said) => {
                let place = panic.location().map(ToString::to_string);
                *said = format!(
                    "{}: {}",
                    place.unwrap_or_default(),
                    payload(panic.payload())
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

fn payload(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Opens when all the runs it waits for are done, so that a scrape of fifty
/// collectors is woken once and not fifty times.
#[derive(Debug)]
pub(super) struct Latch {
    waiting_for: AtomicUsize,
    open: Notify,
}

impl Latch {
    /// Held by whoever sets it up, until [`release`](Self::release)d.
    pub(super) fn held() -> Arc<Self> {
        Arc::new(Self {
            waiting_for: AtomicUsize::new(1),
            open: Notify::new(),
        })
    }

    pub(super) fn release(&self) {
        if self.waiting_for.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.open.notify_one();
        }
    }

    pub(super) async fn opened(&self) {
        self.open.notified().await;
    }
}
