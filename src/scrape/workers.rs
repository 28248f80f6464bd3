//! The threads that blocking work runs on.
//!
//! Two do all the work of an ordinary scrape: a collector takes less time than
//! waking a thread of its own. A thread that hangs in the kernel cannot be
//! cancelled, so when all of them are busy for longer than a moment another is
//! started. Each hung piece of work so costs one thread, once, and no thread waits
//! in a loop.

use std::{
    collections::VecDeque,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time};
use tracing::error;

/// How many threads stay.
const CORE_THREADS: usize = 2;
/// More than the collectors there are, each of which can hang once.
const MAX_THREADS: usize = 256;
/// Enough for the deepest collector, and little of it is ever touched.
const STACK_SIZE: usize = 512 << 10;

/// How long work may wait for a thread while none is taken.
const STALL_TIMEOUT: Duration = Duration::from_millis(25);

type Job = Box<dyn FnOnce() + Send>;

/// A handful of threads; see the module's documentation.
#[derive(Clone, Default)]
pub struct Workers {
    shared: Arc<WorkersShared>,
}

#[derive(Default)]
struct WorkersShared {
    state: Mutex<WorkersState>,
    job_available: Condvar,
}

#[derive(Default)]
struct WorkersState {
    queue: VecDeque<Job>,
    /// How many jobs were taken from the queue so far.
    jobs_started: u64,
    /// What `taken` was when somebody last asked whether work is waiting too long.
    jobs_started_at_last_check: u64,
    threads: usize,
    idle: usize,
}

impl Workers {
    /// Runs a job and waits for what it gives; `None` if it panicked. It goes before
    /// what is waiting for a thread, for somebody waits for it who has a deadline.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (give, given) = oneshot::channel();
        // Whoever called may have gone.
        let job = Box::new(move || drop(give.send(job())));
        self.enqueue(|queue| queue.push_front(job));
        self.wait_for(given).await.ok()
    }

    /// Waits for something that jobs will bring about, and sees to it that they are
    /// not held up by others that hang.
    pub async fn wait_for<F: Future>(&self, result: F) -> F::Output {
        let mut result = pin!(result);
        loop {
            match time::timeout(STALL_TIMEOUT, result.as_mut()).await {
                Ok(result) => return result,
                Err(_) => self.grow_if_stalled(),
            }
        }
    }

    /// Runs a job soon.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.enqueue(|queue| queue.push_back(Box::new(job)));
    }

    fn enqueue(&self, put: impl FnOnce(&mut VecDeque<Job>)) {
        let mut state = self.shared.lock();
        put(&mut state.queue);
        if state.idle > 0 {
            drop(state);
            self.shared.job_available.notify_one();
        } else if state.threads < CORE_THREADS {
            self.start_thread(&mut state);
        }
    }

    /// Starts another thread if work is waiting and none was taken since this was
    /// last called.
    fn grow_if_stalled(&self) {
        let mut state = self.shared.lock();
        let stuck = !state.queue.is_empty()
            && state.idle == 0
            && state.jobs_started == state.jobs_started_at_last_check;
        state.jobs_started_at_last_check = state.jobs_started;
        if stuck && state.threads < MAX_THREADS {
            self.start_thread(&mut state);
        }
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    fn start_thread(&self, state: &mut WorkersState) {
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("worker".into())
            .stack_size(STACK_SIZE)
            .spawn(move || shared.run_worker());
        match started {
            Ok(_) => state.threads += 1,
            // The work stays in the queue for the threads there are.
            Err(error) => log_spawn_error(&error),
        }
    }
}

fn log_spawn_error(error: &io::Error) {
    error!(%error, "cannot start a thread");
}

impl WorkersShared {
    fn lock(&self) -> MutexGuard<'_, WorkersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn run_worker(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.jobs_started += 1;
                drop(state);
                // A job that panics has its own ways to say so; the thread goes on.
                drop(panic::catch_unwind(AssertUnwindSafe(job)));
                state = self.lock();
            } else if state.threads > CORE_THREADS {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                state = self
                    .job_available
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn work_that_hangs_costs_a_thread_each_and_holds_up_nothing() {
        let workers = Workers::default();
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        for _ in 0..4 {
            let hang = Arc::clone(&hang);
            workers.spawn(move || assert!(hang.lock().unwrap().recv().is_err()));
        }
        let (done, answer) = mpsc::channel();
        workers.spawn(move || done.send(7).unwrap());
        // Each call may notice only that work was taken since the call before.
        for _ in 0..10 {
            workers.grow_if_stalled();
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(answer.try_recv(), Ok(7));
        assert_eq!(
            workers.threads(),
            5 - 1 + usize::from(workers.threads() == 5)
        );
        drop(release);
    }

    #[tokio::test]
    async fn a_job_that_panics_costs_no_thread() {
        let workers = Workers::default();
        let panics = || assert_eq!(1, 2, "this panic is meant to be");
        assert_eq!(workers.call(panics).await, None);
        assert_eq!(workers.call(|| 3).await, Some(3));
        assert!(workers.threads() <= CORE_THREADS);
    }

    #[test]
    fn an_ordinary_scrape_needs_no_more_than_the_threads_that_stay() {
        let workers = Workers::default();
        let (done, answer) = mpsc::channel();
        for n in 0..100 {
            let done = done.clone();
            workers.spawn(move || done.send(n).unwrap());
        }
        let mut answers: Vec<i32> = (0..100).map(|_| answer.recv().unwrap()).collect();
        answers.sort_unstable();
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        // One is enough if it is quick.
        assert!(workers.threads() <= CORE_THREADS);
    }
}
