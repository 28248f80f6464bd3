//! Thread pool for blocking work.
//!
//! Two threads do all the work of an ordinary scrape: a collector takes less time than waking a
//! thread of its own. A thread that is blocked in the kernel cannot be cancelled, so another is
//! started when all are busy for longer than a short timeout. Each blocked job therefore costs one
//! thread, once, and no thread polls.

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

/// Number of threads that are never stopped.
const CORE_THREADS: usize = 2;
/// More than the number of collectors, each of which can block at most one thread.
const MAX_THREADS: usize = 256;
/// Enough for the deepest collector; most of it is never touched.
const STACK_SIZE: usize = 512 << 10;

/// How long jobs may be queued while none is started.
const STALL_TIMEOUT: Duration = Duration::from_millis(25);

type Job = Box<dyn FnOnce() + Send>;

/// The thread pool.
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
    /// Number of jobs started since the pool was created.
    jobs_started: u64,
    /// `jobs_started` at the last check for a stall.
    jobs_started_at_last_check: u64,
    threads: usize,
    idle: usize,
}

impl Workers {
    /// Runs a job and waits for its result; `None` if it panicked. The job is queued before others
    /// because a client with a deadline waits for it.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        // The caller may have been cancelled.
        let job = Box::new(move || drop(sender.send(job())));
        self.enqueue(|queue| queue.push_front(job));
        self.wait_for(receiver).await.ok()
    }

    /// Waits for the result of jobs, and starts another thread if they are delayed by blocked ones.
    pub async fn wait_for<F: Future>(&self, result: F) -> F::Output {
        let mut result = pin!(result);
        loop {
            match time::timeout(STALL_TIMEOUT, result.as_mut()).await {
                Ok(result) => return result,
                Err(_) => self.grow_if_stalled(),
            }
        }
    }

    /// Queues a job.
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

    /// Starts another thread if jobs are queued and none was started since the last call.
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

    /// Current number of threads.
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
            // The job stays queued for the existing threads.
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

    /// The main loop of a thread.
    fn run_worker(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.jobs_started += 1;
                drop(state);
                // A panicking job reports that itself; the thread continues.
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
    fn blocked_jobs_cost_one_thread_each() {
        let workers = Workers::default();
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        for _ in 0..4 {
            let blocked = Arc::clone(&blocked);
            workers.spawn(move || assert!(blocked.lock().unwrap().recv().is_err()));
        }
        let (done, result) = mpsc::channel();
        workers.spawn(move || done.send(7).unwrap());
        // Each call detects a stall only if no job was started since the previous call.
        for _ in 0..10 {
            workers.grow_if_stalled();
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(result.try_recv(), Ok(7));
        assert_eq!(
            workers.threads(),
            5 - 1 + usize::from(workers.threads() == 5)
        );
        drop(release);
    }

    #[tokio::test]
    async fn panicking_job_does_not_stop_its_thread() {
        let workers = Workers::default();
        let panics = || assert_eq!(1, 2, "intended panic");
        assert_eq!(workers.call(panics).await, None);
        assert_eq!(workers.call(|| 3).await, Some(3));
        assert!(workers.threads() <= CORE_THREADS);
    }

    #[test]
    fn ordinary_load_does_not_start_more_threads() {
        let workers = Workers::default();
        let (done, result) = mpsc::channel();
        for n in 0..100 {
            let done = done.clone();
            workers.spawn(move || done.send(n).unwrap());
        }
        let mut results: Vec<i32> = (0..100).map(|_| result.recv().unwrap()).collect();
        results.sort_unstable();
        assert_eq!(results, (0..100).collect::<Vec<_>>());
        // One thread may be enough.
        assert!(workers.threads() <= CORE_THREADS);
    }
}
