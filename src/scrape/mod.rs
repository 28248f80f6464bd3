//! Runs the collectors of a scrape concurrently and isolated from each other.

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

/// Descriptions of the metrics about collectors, part of every scrape.
pub const SCRAPE_METRICS: &[&Desc] = METRICS;

/// Interval at which a persistent problem of a collector is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Outcome of a collector in one scrape.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It returned samples.
    Collected,
    /// There is nothing to collect on this machine.
    NotFound(Error),
    /// A collector of `node_exporter` that is not implemented yet.
    Unsupported,
    /// It returned an error.
    Failed(Error),
    /// It panicked with this message.
    Panicked(String),
    /// It did not return before the deadline.
    TimedOut,
    /// It has not returned since an earlier scrape, and was not started again.
    StillRunning,
}

impl Outcome {
    /// The name in the label.
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

/// The last run of a collector.
#[derive(Debug, Clone)]
pub struct LastRun {
    /// Its outcome.
    pub outcome: Outcome,
    /// How long it ran; for a run that is still in progress, how long so far.
    pub duration: Duration,
    /// Number of errors that caused parts to be left out.
    pub error_count: usize,
    /// The first of these errors.
    pub first_error: Option<Error>,
    /// When it was reported.
    pub at: SystemTime,
}

/// The result of one scrape.
#[derive(Debug)]
pub struct ScrapeResult {
    /// The metrics about the collectors.
    scrape_metrics: Families,
    reports: Vec<(&'static str, Layer, Arc<CollectorReport>)>,
}

impl ScrapeResult {
    /// The reports of the collectors.
    pub fn reports(&self) -> impl Iterator<Item = (&'static str, Layer, &CollectorReport)> {
        let reports = self.reports.iter();
        reports.map(|(name, layer, report)| (*name, *layer, &**report))
    }

    /// All families, those about the collectors first.
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

/// The enabled collectors and the host state they read.
#[derive(Debug)]
pub struct Scraper {
    host: Arc<HostState>,
    slots: Vec<Arc<CollectorSlot>>,
    workers: Workers,
}

impl Scraper {
    /// Creates a scraper of these collectors.
    #[must_use]
    pub fn new(
        host: impl Into<Arc<HostState>>,
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
            host: host.into(),
            slots,
            workers,
        }
    }

    /// The names and layers of the collectors, sorted by name.
    pub fn collectors(&self) -> impl Iterator<Item = (&'static str, Layer)> {
        self.slots.iter().map(|slot| (slot.name, slot.layer))
    }

    /// The names and layers of the collectors, sorted by name, with the last run of each, if there
    /// was one.
    pub fn last_runs(&self) -> impl Iterator<Item = (&'static str, Layer, Option<LastRun>)> {
        self.slots.iter().map(|slot| {
            let last = slot.last_run.lock().unwrap_or_else(PoisonError::into_inner);
            (slot.name, slot.layer, last.clone())
        })
    }

    /// Runs the selected collectors for at most `timeout`.
    ///
    /// If a collector is already running for another scrape, it is not started again: both scrapes
    /// share its result.
    pub async fn scrape(&self, selected: &BTreeSet<&str>, timeout: Duration) -> ScrapeResult {
        let deadline = Instant::now() + timeout;
        let snapshot = Arc::new(Snapshot::new(Arc::clone(&self.host), deadline));
        let wait_group = WaitGroup::new();
        let slots = self
            .slots
            .iter()
            .filter(|slot| selected.contains(slot.name));
        let runs: Vec<_> = slots
            .map(|slot| (slot, slot.join_or_start(&snapshot, &self.workers)))
            .collect();
        for (_, handle) in &runs {
            if let RunHandle::Pending(run) = handle {
                run.add_waiter(&wait_group);
            }
        }
        wait_group.done();
        // At the deadline the scrape continues with the results so far.
        let all_done = self.workers.wait_for(wait_group.wait());
        drop(time::timeout_at(deadline.into(), all_done).await);

        let mut scrape_metrics = Families::default();
        let mut reports = Vec::with_capacity(runs.len());
        for (slot, handle) in runs {
            let report = handle.report();
            slot.log(&report);
            slot.record_last_run(&report);
            scrape_metrics.add(&DURATION, [slot.name], report.duration);
            let success = matches!(report.outcome, Outcome::Collected);
            scrape_metrics.add(&SUCCESS, [slot.name], success);
            scrape_metrics.add(&OUTCOME, [slot.name, report.outcome.name()], true);
            if success {
                scrape_metrics.add(&PARTIAL_ERRORS, [slot.name], report.families.errors().0);
            }
            reports.push((slot.name, slot.layer, report));
        }
        ScrapeResult {
            scrape_metrics,
            reports,
        }
    }
}

/// A collector and its state across scrapes.
struct CollectorSlot {
    name: &'static str,
    layer: Layer,
    collect: CollectFn,
    /// The last run that was started.
    current_run: Mutex<Option<Arc<CollectorRun>>>,
    last_run: Mutex<Option<LastRun>>,
    log_state: Mutex<LogState>,
}

/// A scrape's handle to a collector run.
enum RunHandle {
    /// A run to wait for.
    Pending(Arc<CollectorRun>),
    /// A run that exceeded an earlier deadline and must not be waited for.
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
    fn join_or_start(self: &Arc<Self>, snapshot: &Arc<Snapshot>, workers: &Workers) -> RunHandle {
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
            // It waited for a worker until its deadline because all workers were busy. Start it
            // again: workers are only added while a scrape waits for one.
        }
        let run = Arc::new(CollectorRun::new(snapshot.deadline()));
        *current = Some(Arc::clone(&run));
        let (slot, snapshot, started) = (Arc::clone(self), Arc::clone(snapshot), Arc::clone(&run));
        workers.spawn(move || {
            let current = || {
                slot.current_run
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
            };
            let is_this_run = |run: &Arc<CollectorRun>| Arc::ptr_eq(run, &started);
            {
                let current = current();
                if !current.as_ref().is_some_and(is_this_run) {
                    // It waited for a worker so long that it was replaced.
                    return;
                }
                started.mark_started();
            }
            started.execute(&slot.collect, &snapshot);
            // Scrapes that wait for the result have their own reference to it.
            current().take_if(|run| is_this_run(run));
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

    /// Logs the outcome if it changed, or if the problem persists.
    fn log(&self, report: &CollectorReport) {
        let (skipped, reason) = report.families.errors();
        let outcome = report.outcome.name();
        let problem = if skipped > 0 { "partial" } else { outcome };
        let mut logged = self
            .log_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = logged.problem;
        if before == problem
            && logged
                .logged_at
                .is_none_or(|at| at.elapsed() < LOG_INTERVAL)
        {
            return;
        }
        *logged = LogState {
            problem,
            logged_at: Some(Instant::now()),
        };
        drop(logged);
        let (collector, duration) = (self.name, report.duration);
        match &report.outcome {
            Outcome::Collected => match reason {
                Some(error) => warn!(collector, skipped, %error, "collector returned partial data"),
                None if matches!(before, "" | "no_data") => debug!(collector, "collected"),
                None => info!(collector, "collector recovered"),
            },
            Outcome::NotFound(error) => debug!(collector, %error, "nothing to collect"),
            Outcome::Unsupported => debug!(collector, "collector not implemented yet"),
            Outcome::Failed(error) => warn!(collector, %error, "collector failed"),
            Outcome::Panicked(panic) => warn!(collector, panic, "collector panicked"),
            Outcome::TimedOut => warn!(collector, ?duration, "collector timed out"),
            Outcome::StillRunning => {
                warn!(
                    collector,
                    ?duration,
                    "collector still running since an earlier scrape"
                );
            }
        }
    }
}

/// The last logged state of a collector.
#[derive(Debug, Default)]
struct LogState {
    problem: &'static str,
    logged_at: Option<Instant>,
}

impl fmt::Debug for CollectorSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorSlot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
