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
mod looker;
mod target;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    history::{History, Skipped},
    sources::{Disks, Machine, Snapshot},
};
use desk::{Desk, Job, Waited};
use looker::Looker;
use target::Outcome;

/// How often containers are looked for even if nobody told of a change.
const LOOK: Duration = Duration::from_secs(15);
/// How long one container's files may take, at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many threads may hang.
const MAX_HUNG: usize = 8;
/// Enough for the deepest reader, and little of it is ever touched.
const STACK: usize = 512 << 10;

/// Samples for ever, on threads of its own.
pub fn start(machine: &Arc<Machine>) {
    let sampler = Sampler::of(machine);
    machine.history().begin();
    if let Err(error) = spawn("sampler", move || sampler.run()) {
        warn!(%error, "there will be no history");
    }
}

/// What all threads share.
#[derive(Debug, Clone)]
struct Sampler {
    machine: Arc<Machine>,
    history: Arc<History>,
    desk: Arc<Desk>,
    looker: Arc<Looker>,
}

impl Sampler {
    fn of(machine: &Arc<Machine>) -> Self {
        Self {
            history: Arc::clone(machine.history()),
            desk: Arc::default(),
            looker: Arc::new(Looker::of(machine)),
            machine: Arc::clone(machine),
        }
    }

    /// Watches the clock.
    fn run(self) {
        let interval = self.history.interval();
        let mut next = Instant::now();
        let mut looked: Option<Instant> = None;
        let mut has_warned = false;
        loop {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let engines_changed = self.looker.has_news();
            let is_due = looked.is_none_or(|looked| looked.elapsed() >= LOOK);
            let looks = is_due || engines_changed || self.desk.wants_look();
            if looks {
                looked = Some(Instant::now());
            }
            self.round(looks, interval.min(PATIENCE));
            if !has_warned && self.history.is_full() {
                has_warned = true;
                warn!("the history is full: the oldest containers are remembered for less long");
            }
            let late;
            (next, late) = after(next, Instant::now(), interval);
            if late > 0 {
                let samples = late.saturating_mul(self.desk.targets() as u64);
                self.history.skipped(Skipped::Late, samples);
            }
        }
    }

    /// Lets each be sampled once.
    fn round(&self, looks: bool, patience: Duration) {
        self.desk.begin(looks);
        loop {
            match self.desk.wait(patience) {
                Waited::Done => return,
                Waited::Hung(is_sample) => {
                    self.history.skipped(Skipped::Slow, is_sample.into());
                }
                Waited::Nobody => {}
            }
            if let Some(reader) = self.desk.hire(MAX_HUNG) {
                let sampler = self.clone();
                let started = spawn("sampler-reader", move || sampler.read(reader));
                if started.is_err() {
                    self.desk.leave(reader);
                }
            }
        }
    }

    /// Reads what there is to read, until another does.
    fn read(&self, reader: u64) {
        // Also where it panics.
        let _leaves = Leaves {
            desk: &self.desk,
            reader,
        };
        // Of devices only, which are read anew each time.
        let machine = Snapshot::begin(Arc::clone(&self.machine), Instant::now());
        let mut disks = Disks::default();
        while let Some(job) = self.desk.next(reader) {
            match job {
                Job::Look => {
                    disks = Disks::default();
                    if let Some(targets) = self.looker.look() {
                        self.desk.found(targets);
                    }
                }
                Job::Sample(target) => {
                    let outcome = target.sample(|major, minor| {
                        let disk = disks.get(&machine, major, minor);
                        !disk.is_above_another && !disk.is_partition
                    });
                    match outcome {
                        Outcome::Sampled => self.history.sampled(),
                        Outcome::Vanished => self.desk.want_look(),
                        Outcome::Failed => self.history.skipped(Skipped::Failed, 1),
                        Outcome::Busy => self.history.skipped(Skipped::Slow, 1),
                        // It was counted when it was given up.
                        Outcome::GivenUp => {}
                    }
                }
            }
        }
    }
}

/// Says that a reader is gone.
struct Leaves<'a> {
    desk: &'a Desk,
    reader: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.desk.leave(self.reader);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
    thread.spawn(run).map(drop)
}

/// When the round after this one begins, and how many are left out: time that has passed
/// is not made up for, and the rest keep the beat.
fn after(last: Instant, now: Instant, interval: Duration) -> (Instant, u64) {
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
