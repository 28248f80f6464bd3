//! A reading of the machine for which somebody waits who is no scrape.
//!
//! What holds for collectors holds for it: it has a deadline, may panic, and is not started
//! again while it hangs. Whoever asks while it runs gets its result.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::{sync::watch, time};

use super::{Workers, run::catch_panic};
use crate::{
    error::{Error, Result},
    sources::Snapshot,
};

type Read<T> = Box<dyn Fn(&Arc<Snapshot>) -> Result<T> + Send + Sync>;
type Done<T> = watch::Receiver<Option<Result<T>>>;

/// See the module's documentation.
pub struct Reading<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// What is read, as errors name it.
    what: &'static str,
    read: Read<T>,
    /// The last run that was started.
    current: Mutex<Option<Run<T>>>,
}

struct Run<T> {
    /// When whoever started it gives up waiting.
    deadline: Instant,
    /// Whether a thread has taken it up.
    begun: Arc<AtomicBool>,
    done: Done<T>,
}

impl<T: Clone + Send + Sync + 'static> Reading<T> {
    /// One that errors call `what`.
    #[must_use]
    pub fn new(
        what: &'static str,
        read: impl Fn(&Arc<Snapshot>) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                what,
                read: Box::new(read),
                current: Mutex::default(),
            }),
        }
    }

    /// What is read, as errors name it.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.shared.what
    }

    /// What it says of the machine, by the snapshot's deadline.
    pub async fn take(&self, machine: &Arc<Snapshot>, workers: &Workers) -> Result<T> {
        let what = self.shared.what;
        let mut done = self.join_or_start(machine, workers)?;
        let said = workers.wait_for(done.wait_for(Option::is_some));
        match time::timeout_at(machine.deadline().into(), said).await {
            Ok(Ok(said)) => said.clone().unwrap_or_else(|| Err(gone(what))),
            Ok(Err(_)) => Err(gone(what)),
            Err(_) => Err(Error::TimedOut(what.to_owned())),
        }
    }

    fn join_or_start(&self, machine: &Arc<Snapshot>, workers: &Workers) -> Result<Done<T>> {
        let shared = &self.shared;
        let mut current = shared.lock();
        let is_running =
            |run: &&Run<T>| run.done.borrow().is_none() && run.done.has_changed().is_ok();
        if let Some(run) = current.as_ref().filter(is_running) {
            if run.deadline > Instant::now() {
                return Ok(run.done.clone());
            }
            if run.begun.load(Ordering::SeqCst) {
                let reason = "has not answered since an earlier request";
                return Err(Error::api(shared.what, reason));
            }
            // Every thread was busy for all its time: it did not hang itself.
        }
        let (say, done) = watch::channel(None);
        let begun = Arc::new(AtomicBool::new(false));
        *current = Some(Run {
            deadline: machine.deadline(),
            begun: Arc::clone(&begun),
            done: done.clone(),
        });
        drop(current);
        let (shared, machine) = (Arc::clone(shared), Arc::clone(machine));
        workers.spawn(move || {
            {
                let current = shared.lock();
                let is_it = |run: &Run<T>| Arc::ptr_eq(&run.begun, &begun);
                if !current.as_ref().is_some_and(is_it) {
                    // It waited for a thread so long that another took its place.
                    return;
                }
                begun.store(true, Ordering::SeqCst);
            }
            let read = catch_panic(|| (shared.read)(&machine));
            let read = read.unwrap_or_else(|panic| {
                let reason = format!("failed by a bug, please report it: {panic}");
                Err(Error::api(shared.what, reason))
            });
            // Whoever waits for it has a hold of its own on it.
            shared.lock().take_if(|run| Arc::ptr_eq(&run.begun, &begun));
            say.send(Some(read)).ok();
        });
        Ok(done)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Run<T>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of a run that ended without a word, as when the exporter stops.
fn gone(what: &'static str) -> Error {
    Error::api(what, "was not read")
}

impl<T> fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("what", &self.shared.what)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{atomic::AtomicU32, mpsc},
        time::Duration,
    };

    use super::*;
    use crate::sources::Roots;

    fn machine(limit: Duration) -> Arc<Snapshot> {
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

    /// A reading that hangs until it is let go, and how often it was begun.
    fn hanging() -> (Reading<u32>, mpsc::Sender<()>, Arc<AtomicU32>) {
        let (release, hang) = mpsc::channel();
        let (hang, begun) = (Mutex::new(hang), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&begun);
        let reading = Reading::new("the disk", move |_| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            hang.lock().unwrap().recv().ok();
            Ok(number)
        });
        (reading, release, begun)
    }

    #[tokio::test]
    async fn what_hangs_is_not_asked_again_until_it_is_done() {
        let workers = Workers::default();
        let (reading, release, begun) = hanging();
        let error = reading.take(&machine(SHORT), &workers).await.unwrap_err();
        assert_eq!(error.to_string(), "the disk timed out");
        let error = reading.take(&machine(LONG), &workers).await.unwrap_err();
        let said = "the disk: has not answered since an earlier request";
        assert_eq!(error.to_string(), said);
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        release.send(()).unwrap();
        release.send(()).unwrap();
        // The first may need a moment to end.
        let again = loop {
            match reading.take(&machine(LONG), &workers).await {
                Ok(number) => break number,
                Err(_) => time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(again, 1);
    }

    #[tokio::test]
    async fn who_asks_while_it_runs_gets_the_same() {
        let workers = Workers::default();
        let (reading, release, begun) = hanging();
        let machine = machine(LONG);
        // Not before both are there: futures are polled in their order.
        let (one, other, ()) = tokio::join!(
            reading.take(&machine, &workers),
            reading.take(&machine, &workers),
            async { release.send(()).unwrap() },
        );
        assert_eq!((one.unwrap(), other.unwrap()), (0, 0));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_bug_costs_only_its_reading() {
        let workers = Workers::default();
        let reading = Reading::<u32>::new("the disk", |_| panic!("this panic is meant to be"));
        for _ in 0..2 {
            let error = reading.take(&machine(LONG), &workers).await.unwrap_err();
            let said = error.to_string();
            assert!(said.starts_with("the disk: failed by a bug"), "{said}");
        }
    }
}
