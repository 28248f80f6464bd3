//! Periodically samples containers, domains and the host into the history.
//!
//! There are two threads: a ticker and a reader. A read that blocks in the kernel cannot be
//! cancelled, so the ticker abandons that sample, starts another reader for the remaining targets,
//! and skips the blocked target until its reader returns. The number of blocked readers is limited;
//! at the limit sampling pauses until one returns. A scrape waits for none of them, except if it
//! has to list cgroups while the kernel does not return the listing of a refresh either.
//!
//! Targets are refreshed when engines report a change, when a container is gone, and every 15 s; in
//! between a round only reads a few files per target. No engine is queried.

mod desk;
mod discovery;
mod target;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    history::{History, SkipReason},
    sources::{BlockDevices, HostState, Snapshot},
};
use desk::{Desk, Job, Waited};
use discovery::Discovery;
use target::SampleOutcome;

/// Interval between refreshes without a reported change.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(15);
/// Timeout for reading the files of one target.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of blocked reader threads.
const MAX_HUNG_THREADS: usize = 8;
/// Enough for the deepest reader; most of it is never touched.
const STACK_SIZE: usize = 512 << 10;

/// Starts the sampler threads, which run until the process ends.
pub fn start(host: &Arc<HostState>) {
    let sampler = Sampler::new(host);
    host.history().mark_sampled();
    if let Err(error) = spawn("sampler", move || sampler.run_ticker()) {
        warn!(%error, "cannot start the sampler thread, the history is disabled");
    }
}

/// State shared by all threads.
#[derive(Debug, Clone)]
struct Sampler {
    host: Arc<HostState>,
    history: Arc<History>,
    queue: Arc<Desk>,
    discovery: Arc<Discovery>,
}

impl Sampler {
    fn new(host: &Arc<HostState>) -> Self {
        Self {
            history: Arc::clone(host.history()),
            queue: Arc::default(),
            discovery: Arc::new(Discovery::new(host)),
            host: Arc::clone(host),
        }
    }

    /// Starts a round at every interval.
    fn run_ticker(self) {
        let interval = self.history.interval();
        let mut next = Instant::now();
        let mut last_refresh: Option<Instant> = None;
        let mut has_warned = false;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let engines_changed = self.discovery.engines_changed();
            let is_due = last_refresh
                .is_none_or(|last_refresh| last_refresh.elapsed() >= DISCOVERY_INTERVAL);
            let refresh = is_due || engines_changed || self.queue.wants_look();
            if refresh {
                last_refresh = Some(Instant::now());
            }
            self.sample_all(refresh, interval.min(READ_TIMEOUT));
            if !has_warned && self.history.is_full() {
                has_warned = true;
                warn!("history is full: storing fewer samples of the oldest containers");
            }
            let skipped;
            (next, skipped) = next_round(next, Instant::now(), interval);
            if skipped > 0 {
                let samples = skipped.saturating_mul(self.queue.targets() as u64);
                self.history.record_skipped(SkipReason::Late, samples);
            }
        }
    }

    /// Samples every target once.
    fn sample_all(&self, refresh: bool, timeout: Duration) {
        self.queue.begin(refresh);
        loop {
            match self.queue.wait(timeout) {
                Waited::Done => return,
                Waited::Hung(is_sample) => {
                    self.history
                        .record_skipped(SkipReason::Slow, is_sample.into());
                }
                Waited::Nobody => {}
            }
            if let Some(reader) = self.queue.hire(MAX_HUNG_THREADS) {
                let sampler = self.clone();
                let started = spawn("sampler-reader", move || sampler.run_worker(reader));
                if started.is_err() {
                    self.queue.leave(reader);
                }
            }
        }
    }

    /// Reads targets until another reader takes over.
    fn run_worker(&self, worker_id: u64) {
        // Also on a panic.
        let _leaves = WorkerExitGuard {
            queue: &self.queue,
            worker_id,
        };
        // Only used for block devices, which are read again in each refresh.
        let snapshot = Snapshot::new(Arc::clone(&self.host), Instant::now());
        let mut disks = BlockDevices::default();
        while let Some(job) = self.queue.next(worker_id) {
            match job {
                Job::Look => {
                    disks = BlockDevices::default();
                    if let Some(targets) = self.discovery.refresh() {
                        self.queue.found(targets);
                    }
                }
                Job::Sample(target) => {
                    let outcome = target.sample(|major, minor| {
                        let disk = disks.get(&snapshot, major, minor);
                        !disk.is_stacked && !disk.is_partition
                    });
                    match outcome {
                        SampleOutcome::Sampled => self.history.record_sample(),
                        SampleOutcome::Gone => self.queue.want_look(),
                        SampleOutcome::Failed => self.history.record_skipped(SkipReason::Failed, 1),
                        SampleOutcome::Busy => self.history.record_skipped(SkipReason::Slow, 1),
                        // Already counted when it was abandoned.
                        SampleOutcome::Abandoned => {}
                    }
                }
            }
        }
    }
}

/// Removes a reader from the queue when it exits.
struct WorkerExitGuard<'a> {
    queue: &'a Desk,
    worker_id: u64,
}

impl Drop for WorkerExitGuard<'_> {
    fn drop(&mut self) {
        self.queue.leave(self.worker_id);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_SIZE);
    thread.spawn(run).map(drop)
}

/// The start of the next round, and the number of skipped rounds: missed rounds are not made up
/// for, and later rounds stay on the schedule.
fn next_round(last: Instant, now: Instant, interval: Duration) -> (Instant, u64) {
    let next = last + interval;
    let behind = now.saturating_duration_since(next).as_nanos();
    if behind == 0 {
        return (next, 0);
    }
    let skipped = behind.div_ceil(interval.as_nanos().max(1));
    let skipped = u32::try_from(skipped).unwrap_or(u32::MAX);
    (next + interval.saturating_mul(skipped), skipped.into())
}

#[cfg(test)]
mod tests;
