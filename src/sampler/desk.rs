//! Where whoever watches the clock lays out the work, and readers take it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::target::SampleTarget;

#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    targets: Vec<Arc<SampleTarget>>,
    /// Those that the last look found, for the next round, or for this one if nothing of
    /// it is sampled yet.
    found: Option<Vec<Arc<SampleTarget>>>,
    is_running: bool,
    /// What of the round nobody took yet.
    look: bool,
    next: usize,
    wants_look: bool,
    /// The reader of now, if there is one; those before it hang.
    reader: Option<u64>,
    /// What it does, and since when.
    doing: Option<(Job, Instant)>,
    hired: u64,
    alive: usize,
}

/// What a reader is to do.
#[derive(Debug, Clone)]
pub(super) enum Job {
    /// See which containers there are.
    Look,
    /// Sample one of them.
    Sample(Arc<SampleTarget>),
}

/// What came of waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The round is over.
    Done,
    /// The reader hangs. What it does is given up; whether that is a sample.
    Hung(bool),
    /// There is no reader.
    Nobody,
}

impl Desk {
    /// Begins a round.
    pub(super) fn begin(&self, looks: bool) {
        let mut state = self.lock();
        state.look = looks;
        state.wants_look &= !looks;
        state.next = 0;
        state.is_running = true;
        self.changed.notify_all();
    }

    /// Waits for the end of the round, or until the reader is at one thing for too long.
    pub(super) fn wait(&self, patience: Duration) -> Waited {
        let mut state = self.lock();
        while state.is_running {
            if state.reader.is_none() {
                return Waited::Nobody;
            }
            let passed = state.doing.as_ref().map(|(_, since)| since.elapsed());
            let left = patience.saturating_sub(passed.unwrap_or_default());
            if left.is_zero() {
                state.reader = None;
                let doing = state.doing.take();
                let is_sample = matches!(doing, Some((Job::Sample(target), _)) if target.abandon());
                return Waited::Hung(is_sample);
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Waited::Done
    }

    /// The number of a new reader, if one is needed. Where too many hang this waits until
    /// one is back.
    pub(super) fn hire(&self, max: usize) -> Option<u64> {
        let mut state = self.lock();
        while state.alive >= max {
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if state.reader.is_some() {
            return None;
        }
        state.hired += 1;
        state.alive += 1;
        state.reader = Some(state.hired);
        state.reader
    }

    /// A reader is gone.
    pub(super) fn leave(&self, reader: u64) {
        let mut state = self.lock();
        state.alive = state.alive.saturating_sub(1);
        if state.reader == Some(reader) {
            state.reader = None;
            state.doing = None;
        }
        self.changed.notify_all();
    }

    /// Waits for the next thing to do; nothing once another reader does it.
    pub(super) fn next(&self, reader: u64) -> Option<Job> {
        let mut state = self.lock();
        while state.reader == Some(reader) {
            state.doing = None;
            if state.is_running {
                if let Some(job) = state.take() {
                    state.doing = Some((job.clone(), Instant::now()));
                    return Some(job);
                }
                state.is_running = false;
                self.changed.notify_all();
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// What there is to sample from now on.
    pub(super) fn found(&self, targets: Vec<Arc<SampleTarget>>) {
        self.lock().found = Some(targets);
    }

    /// Asks for a look in the next round.
    pub(super) fn want_look(&self) {
        self.lock().wants_look = true;
    }

    /// Whether somebody asked for that.
    pub(super) fn wants_look(&self) -> bool {
        self.lock().wants_look
    }

    /// How many are sampled.
    pub(super) fn targets(&self) -> usize {
        self.lock().targets.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Job> {
        if std::mem::take(&mut self.look) {
            return Some(Job::Look);
        }
        if self.next == 0
            && let Some(found) = self.found.take()
        {
            self.targets = found;
        }
        let target = self.targets.get(self.next)?;
        self.next += 1;
        Some(Job::Sample(Arc::clone(target)))
    }
}
