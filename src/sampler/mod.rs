//! Samples containers, virtual machines and the machine into the history, every so often.
//!
//! Two threads: one watches the clock, the other reads. A read that hangs in the kernel
//! cannot be cancelled, so whoever watches gives up that one sample, lets another thread go
//! on with the rest, and leaves that container out until the first one is back. A few may
//! hang so; beyond that sampling stops until one is back. A scrape waits for none of them,
//! but where it has to look for groups that the kernel does not show just then either.
//!
//! Which containers there are is looked for when engines tell of a change, when one is
//! gone, and every 15 s; between that a round is some reads of each and nothing else. No
//! engine is asked.

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

/// How often containers are looked for even if nobody told of a change.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(15);
/// How long one container's files may take, at most.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How many threads may hang.
const MAX_HUNG_THREADS: usize = 8;
/// Enough for the deepest reader, and little of it is ever touched.
const STACK_SIZE: usize = 512 << 10;

/// Samples for ever, on threads of its own.
pub fn start(machine: &Arc<HostState>) {
    let sampler = Sampler::new(machine);
    machine.history().mark_sampled();
    if let Err(error) = spawn("sampler", move || sampler.run_ticker()) {
        warn!(%error, "there will be no history");
    }
}

/// What all threads share.
#[derive(Debug, Clone)]
struct Sampler {
    machine: Arc<HostState>,
    history: Arc<History>,
    queue: Arc<Desk>,
    discovery: Arc<Discovery>,
}

impl Sampler {
    fn new(machine: &Arc<HostState>) -> Self {
        Self {
            history: Arc::clone(machine.history()),
            queue: Arc::default(),
            discovery: Arc::new(Discovery::new(machine)),
            machine: Arc::clone(machine),
        }
    }

    /// Watches the clock.
    fn run_ticker(self) {
        let interval = self.history.interval();
        let mut next = Instant::now();
        let mut looked: Option<Instant> = None;
        let mut has_warned = false;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let engines_changed = self.discovery.engines_changed();
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= DISCOVERY_INTERVAL);
            let looks = is_due || engines_changed || self.queue.wants_look();
            if looks {
                looked = Some(Instant::now());
            }
            self.sample_all(looks, interval.min(READ_TIMEOUT));
            if !has_warned && self.history.is_full() {
                has_warned = true;
                warn!("the history is full: the oldest containers are remembered for less long");
            }
            let late;
            (next, late) = next_round(next, Instant::now(), interval);
            if late > 0 {
                let samples = late.saturating_mul(self.queue.targets() as u64);
                self.history.record_skipped(SkipReason::Late, samples);
            }
        }
    }

    /// Lets each be sampled once.
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

    /// Reads what there is to read, until another does.
    fn run_worker(&self, worker_id: u64) {
        // Also where it panics.
        let _leaves = WorkerExitGuard {
            queue: &self.queue,
            worker_id,
        };
        // Of devices only, which are read anew each time.
        let machine = Snapshot::new(Arc::clone(&self.machine), Instant::now());
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
                        let disk = disks.get(&machine, major, minor);
                        !disk.is_stacked && !disk.is_partition
                    });
                    match outcome {
                        SampleOutcome::Sampled => self.history.record_sample(),
                        SampleOutcome::Gone => self.queue.want_look(),
                        SampleOutcome::Failed => self.history.record_skipped(SkipReason::Failed, 1),
                        SampleOutcome::Busy => self.history.record_skipped(SkipReason::Slow, 1),
                        // It was counted when it was given up.
                        SampleOutcome::Abandoned => {}
                    }
                }
            }
        }
    }
}

/// Says that a reader is gone.
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

/// When the round after this one begins, and how many are left out: time that has passed
/// is not made up for, and the rest keep the beat.
fn next_round(last: Instant, now: Instant, interval: Duration) -> (Instant, u64) {
    let next = last + interval;
    let behind = now.saturating_duration_since(next).as_nanos();
    if behind == 0 {
        return (next, 0);
    }
    let left_out = behind.div_ceil(interval.as_nanos().max(1));
    let left_out = u32::try_from(left_out).unwrap_or(u32::MAX);
    (next + interval.saturating_mul(left_out), left_out.into())
}

#[cfg(test)]
mod tests;
