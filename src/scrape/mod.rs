//! Runs the collectors of one scrape, keeping them out of each other's way.

mod reading;
mod run;
mod workers;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::time;
use tracing::{debug, info, warn};

pub use reading::Reading;
pub use run::{CollectorReport, install_panic_hook};
pub use workers::Workers;

use crate::{
    collector::{CollectFn, Layer},
    error::Error,
    family::Families,
    metric::Desc,
    metrics,
    sources::{HostState, Snapshot},
};
use run::{CollectorRun, WaitGroup};

metrics! {
    /// Duration of a collector scrape.
    DURATION: Gauge = "node_scrape_collector_duration_seconds" ["collector"];
    /// Whether the collector succeeded; also 0 where there is nothing to collect, as in
    /// node_exporter (see strata_collector_outcome).
    SUCCESS: Gauge = "node_scrape_collector_success" ["collector"];
    /// Outcome of the collector in this scrape, one series per collector: collected, no_data,
    /// unsupported, failed, panicked, timed_out, or still_running since an earlier scrape.
    OUTCOME: Gauge = "strata_collector_outcome" ["collector", "outcome"];
    /// Errors that caused part of a collector's data to be dropped from this scrape; the log has
    /// the first.
    PARTIAL_ERRORS: Gauge = "strata_collector_partial_errors" ["collector"];
}

/// What every scrape exposes about itself, whatever the collectors.
pub const SCRAPE_METRICS: &[&Desc] = METRICS;

/// The same trouble of the same collector is logged again after this long.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// What became of a collector in one scrape.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It saw something, or everything.
    Collected,
    /// There is nothing here for it to see.
    NotFound(Error),
    /// `node_exporter` has it and this exporter does not yet.
    Unsupported,
    /// What it needs should have been there.
    Failed(Error),
    /// It has a bug, which said this.
    Panicked(String),
    /// It did not return before the deadline.
    TimedOut,
    /// It has not returned since an earlier scrape, and was not started again.
    StillRunning,
}

impl Outcome {
    /// Its name in the label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Collected => "collected",
            Self::NotFound(_) => "no_data",
            Self::Unsupported => "unsupported",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut => "timed_out",
            Self::StillRunning => "still_running",
        }
    }
}

/// What became of a collector when it was last asked for.
#[derive(Debug, Clone)]
pub struct LastRun {
    /// What became of it.
    pub outcome: Outcome,
    /// How long it ran; for one that still ran, how long until then.
    pub duration: Duration,
    /// How many parts it left out.
    pub error_count: usize,
    /// Why the first of them.
    pub first_error: Option<Error>,
    /// When that was.
    pub at: SystemTime,
}

/// What one scrape brought.
#[derive(Debug)]
pub struct ScrapeResult {
    /// About the collectors themselves.
    scrape_metrics: Families,
    reports: Vec<(&'static str, Layer, Arc<CollectorReport>)>,
}

impl ScrapeResult {
    /// What became of each collector.
    pub fn reports(&self) -> impl Iterator<Item = (&'static str, Layer, &CollectorReport)> {
        let reports = self.reports.iter();
        reports.map(|(name, layer, report)| (*name, *layer, &**report))
    }

    /// Everything that was collected, by collector.
    #[must_use]
    pub fn into_families(self) -> Vec<Arc<Families>> {
        let collected = self
            .reports
            .iter()
            .map(|(.., report)| Arc::clone(&report.families));
        std::iter::once(Arc::new(self.scrape_metrics))
            .chain(collected)
            .collect()
    }
}

/// The collectors that are enabled, and what they read from.
#[derive(Debug)]
pub struct Scraper {
    machine: Arc<HostState>,
    slots: Vec<Arc<CollectorSlot>>,
    workers: Workers,
}

impl Scraper {
    /// Makes a scraper of these collectors.
    #[must_use]
    pub fn new(
        machine: impl Into<Arc<HostState>>,
        collectors: impl IntoIterator<Item = (&'static str, Layer, CollectFn)>,
        workers: Workers,
    ) -> Self {
        let mut slots: Vec<_> = collectors
            .into_iter()
            .map(|(name, layer, collect)| {
                Arc::new(CollectorSlot {
                    name,
                    layer,
                    collect,
                    current_run: Mutex::default(),
                    last_run: Mutex::default(),
                    log_state: Mutex::default(),
                })
            })
            .collect();
        slots.sort_by_key(|slot| slot.name);
        Self {
            machine: machine.into(),
            slots,
            workers,
        }
    }

    /// The names and layers of the collectors, in order.
    pub fn collectors(&self) -> impl Iterator<Item = (&'static str, Layer)> {
        self.slots.iter().map(|slot| (slot.name, slot.layer))
    }

    /// The names and layers of the collectors, in order, and what became of each when it
    /// was last asked for, if it ever was.
    pub fn last_runs(&self) -> impl Iterator<Item = (&'static str, Layer, Option<LastRun>)> {
        self.slots.iter().map(|slot| {
            let last = slot.last_run.lock().unwrap_or_else(PoisonError::into_inner);
            (slot.name, slot.layer, last.clone())
        })
    }

    /// Runs the collectors whose name is `wanted`, for no longer than `limit`.
    ///
    /// A collector that is running already, for another scrape, is not started
    /// again: both scrapes get what it sees.
    pub async fn scrape(&self, selected: &BTreeSet<&str>, timeout: Duration) -> ScrapeResult {
        let deadline = Instant::now() + timeout;
        let machine = Arc::new(Snapshot::new(Arc::clone(&self.machine), deadline));
        let latch = WaitGroup::new();
        let slots = self
            .slots
            .iter()
            .filter(|slot| selected.contains(slot.name));
        let runs: Vec<_> = slots
            .map(|slot| (slot, slot.join_or_start(&machine, &self.workers)))
            .collect();
        for (_, started) in &runs {
            if let RunHandle::Pending(run) = started {
                run.add_waiter(&latch);
            }
        }
        latch.done();
        // At the deadline, what is there is there.
        let opened = self.workers.wait_for(latch.wait());
        drop(time::timeout_at(deadline.into(), opened).await);

        let mut own = Families::default();
        let mut reports = Vec::with_capacity(runs.len());
        for (slot, started) in runs {
            let report = started.report();
            slot.log(&report);
            slot.record_last_run(&report);
            own.add(&DURATION, [slot.name], report.duration);
            let success = matches!(report.outcome, Outcome::Collected);
            own.add(&SUCCESS, [slot.name], success);
            own.add(&OUTCOME, [slot.name, report.outcome.name()], true);
            if success {
                own.add(&PARTIAL_ERRORS, [slot.name], report.families.errors().0);
            }
            reports.push((slot.name, slot.layer, report));
        }
        ScrapeResult {
            scrape_metrics: own,
            reports,
        }
    }
}

/// One collector's place in every scrape.
struct CollectorSlot {
    name: &'static str,
    layer: Layer,
    collect: CollectFn,
    /// The last run that was started.
    current_run: Mutex<Option<Arc<CollectorRun>>>,
    last_run: Mutex<Option<LastRun>>,
    log_state: Mutex<LogState>,
}

/// What a scrape got when it asked for a collector to be run.
enum RunHandle {
    /// A run to wait for.
    Pending(Arc<CollectorRun>),
    /// A run that nobody should wait for any more.
    Overdue(Arc<CollectorRun>),
}

impl RunHandle {
    fn report(self) -> Arc<CollectorReport> {
        match self {
            Self::Pending(run) => run.report().unwrap_or_else(|| {
                let outcome = Outcome::TimedOut;
                Arc::new(CollectorReport::without_result(
                    outcome,
                    run.started.elapsed(),
                ))
            }),
            Self::Overdue(run) => {
                let outcome = Outcome::StillRunning;
                Arc::new(CollectorReport::without_result(
                    outcome,
                    run.started.elapsed(),
                ))
            }
        }
    }
}

impl CollectorSlot {
    fn join_or_start(self: &Arc<Self>, machine: &Arc<Snapshot>, workers: &Workers) -> RunHandle {
        let mut current = self
            .current_run
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = current.as_ref().filter(|run| run.report().is_none()) {
            if !run.is_overdue() {
                return RunHandle::Pending(Arc::clone(run));
            }
            if run.is_started() {
                return RunHandle::Overdue(Arc::clone(run));
            }
            // Every thread was busy for all its time. That is not its fault, and
            // somebody has to wait for it, or no thread is started for it.
        }
        let run = Arc::new(CollectorRun::new(machine.deadline()));
        *current = Some(Arc::clone(&run));
        let (slot, machine, started) = (Arc::clone(self), Arc::clone(machine), Arc::clone(&run));
        workers.spawn(move || {
            let current = || {
                slot.current_run
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            };
            let is_it = |run: &Arc<CollectorRun>| Arc::ptr_eq(run, &started);
            {
                let current = current();
                if !current.as_ref().is_some_and(is_it) {
                    // It waited for a thread so long that another took its place.
                    return;
                }
                started.mark_started();
            }
            started.execute(&slot.collect, &machine);
            // Whoever waits for the result has its own hold on it.
            current().take_if(|run| is_it(run));
        });
        RunHandle::Pending(run)
    }

    fn record_last_run(&self, report: &CollectorReport) {
        let (skipped, reason) = report.families.errors();
        let last = LastRun {
            outcome: report.outcome.clone(),
            duration: report.duration,
            error_count: skipped,
            first_error: reason.cloned(),
            at: SystemTime::now(),
        };
        *self.last_run.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// Logs what became of the collector if that is news.
    fn log(&self, report: &CollectorReport) {
        let (skipped, reason) = report.families.errors();
        let outcome = report.outcome.name();
        let trouble = if skipped > 0 {
            "left parts out"
        } else {
            outcome
        };
        let mut logged = self
            .log_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = logged.problem;
        if before == trouble
            && logged
                .logged_at
                .is_none_or(|at| at.elapsed() < LOG_INTERVAL)
        {
            return;
        }
        *logged = LogState {
            problem: trouble,
            logged_at: Some(Instant::now()),
        };
        drop(logged);
        let (collector, duration) = (self.name, report.duration);
        match &report.outcome {
            Outcome::Collected => match reason {
                Some(error) => warn!(collector, skipped, %error, "collector left parts out"),
                None if matches!(before, "" | "no_data") => debug!(collector, "collected"),
                None => info!(collector, "collector works again"),
            },
            Outcome::NotFound(error) => debug!(collector, %error, "nothing to collect"),
            Outcome::Unsupported => debug!(collector, "collector is not built yet"),
            Outcome::Failed(error) => warn!(collector, %error, "collector failed"),
            Outcome::Panicked(panic) => warn!(collector, panic, "collector panicked"),
            Outcome::TimedOut => warn!(collector, ?duration, "collector timed out"),
            Outcome::StillRunning => {
                warn!(
                    collector,
                    ?duration,
                    "collector still runs since an earlier scrape"
                );
            }
        }
    }
}

/// What the log says about a collector.
#[derive(Debug, Default)]
struct LogState {
    problem: &'static str,
    logged_at: Option<Instant>,
}

impl fmt::Debug for CollectorSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
