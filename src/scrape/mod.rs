//! Runs the collectors of a scrape concurrently and isolated from each other.

mod run;
mod shared_read;
mod workers;

use std::{
    collections::BTreeSet,
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::time;
use tracing::{debug, info, warn};

pub use run::{CollectorReport, install_panic_hook};
pub use shared_read::SharedRead;
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

/// Lines that may be logged about one collector within `LOG_WINDOW`, whatever its outcomes are.
const MAX_LOG_LINES: u32 = 4;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// How long a scrape waits for a collector that is known to take longer than the scrape's timeout.
const SLOW_WAIT: Duration = Duration::from_millis(50);
/// Lower bound of the time that a collector has for its reads. Scrapes with longer timeouts may
/// join its run, so a client's short timeout must not make its reads fail.
const MIN_READ_TIME: Duration = Duration::from_secs(1);

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
    /// When it finished or was reported as running.
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
                    last_duration: Mutex::default(),
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
    /// share its result, and each waits to its own deadline. A collector that has been running for
    /// longer than `timeout`, or whose last run took longer, is waited for only briefly.
    pub async fn scrape(&self, selected: &BTreeSet<&str>, timeout: Duration) -> ScrapeResult {
        let now = Instant::now();
        let deadline = now + timeout;
        // Other scrapes may share the results: they must not fail because this one has little time.
        let snapshot_deadline = now + timeout.max(MIN_READ_TIME);
        let snapshot = Arc::new(Snapshot::new(Arc::clone(&self.host), snapshot_deadline));
        let (normal, slow) = (WaitGroup::new(), WaitGroup::new());
        let slots = self
            .slots
            .iter()
            .filter(|slot| selected.contains(slot.name));
        let runs: Vec<_> = slots
            .map(|slot| (slot, slot.join_or_start(&snapshot, timeout, &self.workers)))
            .collect();
        for (_, handle) in &runs {
            let wait_group = if handle.is_slow { &slow } else { &normal };
            handle.run.add_waiter(wait_group);
        }
        normal.all_added();
        slow.all_added();
        // At the deadline the scrape continues with the results so far.
        let slow_deadline = deadline.min(now + SLOW_WAIT);
        let all_done = self.workers.wait_for(async {
            tokio::join!(
                time::timeout_at(deadline.into(), normal.wait()),
                time::timeout_at(slow_deadline.into(), slow.wait()),
            )
        });
        drop(all_done.await);

        let mut scrape_metrics = Families::default();
        let mut reports = Vec::with_capacity(runs.len());
        for (slot, handle) in runs {
            let report = handle.report();
            // A timeout that is only the client's is no problem of the collector.
            if !report.is_client_timeout() {
                slot.log(&report);
                slot.record_last_run(&report);
            }
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
    /// The run in progress, if any.
    current_run: Mutex<Option<Arc<CollectorRun>>>,
    /// How long the last finished run took.
    last_duration: Mutex<Duration>,
    last_run: Mutex<Option<LastRun>>,
    log_state: Mutex<LogState>,
}

/// A scrape's handle to a collector run.
struct RunHandle {
    run: Arc<CollectorRun>,
    /// Whether an earlier scrape started it.
    is_joined: bool,
    /// Whether it has been running, or its last run took, at least as long as the scrape's timeout.
    is_slow: bool,
}

impl RunHandle {
    fn report(self) -> Arc<CollectorReport> {
        self.run.report().unwrap_or_else(|| {
            let outcome = if self.is_joined && self.is_slow {
                Outcome::StillRunning
            } else {
                Outcome::TimedOut
            };
            let duration = self.run.requested_at.elapsed();
            Arc::new(CollectorReport::without_result(outcome, duration))
        })
    }
}

impl CollectorSlot {
    fn join_or_start(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        timeout: Duration,
        workers: &Workers,
    ) -> RunHandle {
        let mut current = self
            .current_run
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last_duration = *self
            .last_duration
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = current.as_ref().filter(|run| run.report().is_none()) {
            run.use_snapshot_if_later(snapshot);
            return RunHandle {
                is_joined: true,
                is_slow: run.running_time().max(last_duration) >= timeout,
                run: Arc::clone(run),
            };
        }
        let run = Arc::new(CollectorRun::new(Arc::clone(snapshot)));
        *current = Some(Arc::clone(&run));
        drop(current);
        let (slot, queued) = (Arc::clone(self), Arc::clone(&run));
        workers.spawn(move || {
            let duration = queued.execute(&slot.collect);
            *slot
                .last_duration
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = duration;
            // Scrapes that wait for the result have their own reference to it.
            slot.current_run
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take_if(|run| Arc::ptr_eq(run, &queued));
        });
        RunHandle {
            run,
            is_joined: false,
            is_slow: last_duration >= timeout,
        }
    }

    fn record_last_run(&self, report: &CollectorReport) {
        let (error_count, first_error) = report.families.errors();
        let last = LastRun {
            outcome: report.outcome.clone(),
            duration: report.duration,
            error_count,
            first_error: first_error.cloned(),
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
        let Some((before, suppressed)) = logged.update(problem, Instant::now()) else {
            return;
        };
        drop(logged);
        let (collector, duration) = (self.name, report.duration);
        if suppressed > 0 {
            warn!(
                collector,
                suppressed, "log lines about this collector suppressed"
            );
        }
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

/// What was last logged about a collector.
#[derive(Debug, Default)]
struct LogState {
    problem: &'static str,
    logged_at: Option<Instant>,
    /// Start of the window in which lines are counted.
    window_start: Option<Instant>,
    lines: u32,
    suppressed: u32,
}

impl LogState {
    /// Decides whether to log a problem: if it differs from the last logged one or persists, and
    /// the window has lines left. Returns the last logged problem and the number of lines that
    /// were suppressed since. A suppressed problem is logged later if it persists.
    fn update(&mut self, problem: &'static str, now: Instant) -> Option<(&'static str, u32)> {
        let elapsed = |at: Instant| now.saturating_duration_since(at);
        if self.problem == problem && self.logged_at.is_none_or(|at| elapsed(at) < LOG_INTERVAL) {
            return None;
        }
        let is_in_window = self
            .window_start
            .is_some_and(|start| elapsed(start) < LOG_WINDOW);
        if !is_in_window {
            self.window_start = Some(now);
            self.lines = 0;
        }
        if self.lines >= MAX_LOG_LINES {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.lines += 1;
        self.logged_at = Some(now);
        let before = mem::replace(&mut self.problem, problem);
        Some((before, mem::take(&mut self.suppressed)))
    }
}

impl fmt::Debug for CollectorSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorSlot")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{LOG_WINDOW, LogState, MAX_LOG_LINES};
    use std::time::{Duration, Instant};

    #[test]
    fn log_lines_of_a_collector_are_bounded_per_window() {
        let start = Instant::now();
        let mut state = LogState::default();
        let mut update =
            |problem, seconds| state.update(problem, start + Duration::from_secs(seconds));
        let problems = ["failed", "collected"].into_iter().cycle();
        let mut before = "";
        for problem in problems.take(MAX_LOG_LINES as usize) {
            assert_eq!(update(problem, 0), Some((before, 0)));
            assert_eq!(update(problem, 0), None);
            before = problem;
        }
        assert_eq!(before, "collected");
        for seconds in 1..8 {
            assert_eq!(update("failed", seconds), None);
            assert_eq!(update("collected", seconds), None);
        }
        // A problem that persists is logged in the next window, with the number of suppressed lines.
        assert_eq!(
            update("failed", LOG_WINDOW.as_secs()),
            Some(("collected", 7))
        );
        assert_eq!(update("failed", LOG_WINDOW.as_secs() + 1), None);
    }
}
