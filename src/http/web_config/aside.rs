//! Runs jobs that take long, or hang, on threads other than those that serve and collect.

use std::thread;

use tokio::sync::oneshot;
use tracing::error;

/// Enough for the deepest nesting of a file; little of it is ever touched.
const STACK: usize = 512 << 10;

/// Runs a job on a thread of its own and returns its result; `None` if the thread cannot be
/// started or the job panics. Callers must limit the number of concurrent jobs.
pub(super) async fn aside<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (give, given) = oneshot::channel();
    let started = thread::Builder::new()
        .name("web config".into())
        .stack_size(STACK)
        // The caller may have been dropped.
        .spawn(move || drop(give.send(job())));
    if let Err(error) = started {
        error!(%error, "cannot start a thread");
        return None;
    }
    given.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_is_done_elsewhere_and_one_that_panics_gives_nothing() {
        let here = thread::current().id();
        let there = aside(|| thread::current().id()).await;
        assert!(there.is_some_and(|there| there != here));
        assert_eq!(aside(|| assert_eq!(1, 2, "meant to be")).await, None);
    }
}
