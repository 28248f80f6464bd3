//! What containers and the machine did lately: a ring of samples for each, and what they
//! say over any window of time. Whoever samples hands them in; nothing is read here.
//!
//! ```text
//! history.containers()       each Series that is remembered, those gone lately among them
//! history.container(id)      one of them
//! history.host()             that of the machine
//! series.latest()            the last sample
//! series.window(duration)    average, peak, minimum, sums
//! series.points(100)         the last samples one by one
//! history.status()           what is remembered, and what could not be sampled
//! ```

mod eviction;
mod flags;
mod monotonic;
mod packed;
mod ring;
mod window;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use flags::HistoryFlags;
pub use monotonic::BootInstant;
pub use ring::{Baseline, Sample};
pub use window::{Aggregates, Increase, MinAvgMax, Point, parse_window};

use eviction::RingAllocator;
use monotonic::ClockReading;
use packed::PACKED_SIZE;
use ring::Ring;

/// The samples of all containers and of the machine.
#[derive(Debug)]
pub struct History {
    flags: HistoryFlags,
    host: Series,
    containers: RwLock<BTreeMap<Arc<str>, Arc<Series>>>,
    is_sampled: AtomicBool,
    is_full: AtomicBool,
    samples: AtomicU64,
    skipped: [AtomicU64; SkipReason::ALL.len()],
    /// Containers that there is no room for.
    dropped: AtomicU64,
}

/// The samples of one container, or of the machine.
#[derive(Debug)]
pub struct Series {
    id: Arc<str>,
    path: Arc<str>,
    created: BootInstant,
    is_gone: AtomicBool,
    ring: Mutex<Ring>,
}

/// Why there is no sample where there should be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Nothing of it could be read.
    Failed,
    /// It was not read in time, or still is not since an earlier sample.
    Slow,
    /// All were late: the time for a round of samples had passed.
    Late,
}

/// How much is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryStatus {
    /// From one sample to the next.
    pub interval: Duration,
    /// How many samples of one thing there may be.
    pub max_points: usize,
    /// Bytes that rings take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub max_bytes: u64,
    /// How many rings there are, that of the machine among them.
    pub series: usize,
    /// How many samples there are in them.
    pub points: usize,
    /// How many rings are shorter than they should be.
    pub truncated: usize,
    /// How many containers have no ring for want of room.
    pub dropped: u64,
    /// How many samples were taken so far.
    pub samples: u64,
    /// How many were not, and why not.
    pub skipped: [(SkipReason, u64); SkipReason::ALL.len()],
}

impl SkipReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Slow, Self::Late];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Late => "late",
        }
    }
}

impl History {
    /// An empty one.
    #[must_use]
    pub fn new(flags: HistoryFlags) -> Self {
        let room = eviction::max_points(&flags) / 2;
        Self {
            host: Series::new("/", "/", flags.history_points.min(room), BootInstant::now()),
            flags,
            containers: RwLock::default(),
            is_sampled: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            skipped: Default::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// How often it is to be sampled.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.flags.history_interval
    }

    /// The samples of the machine.
    #[must_use]
    pub fn host(&self) -> &Series {
        &self.host
    }

    /// The samples of one container, or virtual machine, by the id that
    /// [`Series::id`] explains.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Arc<Series>> {
        let containers = self.containers.read();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.get(id).cloned()
    }

    /// The same by its engine's id, where it has one, or else by the path of its control
    /// group.
    #[must_use]
    pub fn find_container(&self, id: Option<&str>, path: &str) -> Option<Arc<Series>> {
        let by_id = id.and_then(|id| self.container(id));
        by_id.or_else(|| self.container(path))
    }

    /// Those of all containers and virtual machines, in the order of their ids.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Series>> {
        let containers = self.containers.read();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.values().cloned().collect()
    }

    /// Whether anybody samples; else there is nothing and will be nothing.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.is_sampled.load(Relaxed)
    }

    /// Whether containers have a shorter ring than they should have, or none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// How much is remembered.
    #[must_use]
    pub fn status(&self) -> HistoryStatus {
        let mut status = HistoryStatus {
            interval: self.flags.history_interval,
            max_points: self.flags.history_points,
            max_bytes: self.flags.history_max_bytes,
            dropped: self.dropped.load(Relaxed),
            samples: self.samples.load(Relaxed),
            skipped: SkipReason::ALL.map(|why| (why, self.skip_counter(why).load(Relaxed))),
            bytes: 0,
            series: 0,
            points: 0,
            truncated: 0,
        };
        let mut add = |ring: MutexGuard<'_, Ring>| {
            status.series += 1;
            status.points += ring.len();
            status.bytes += (ring.capacity() * PACKED_SIZE) as u64;
            status.truncated += usize::from(ring.capacity() < self.flags.history_points);
        };
        add(self.host.ring());
        for series in self.containers() {
            add(series.ring());
        }
        status
    }

    /// Says that somebody samples from now on.
    pub fn mark_sampled(&self) {
        self.is_sampled.store(true, Relaxed);
    }

    /// Makes place for the samples of those that are there, given by id and path, in that
    /// order: a ring for each, or nothing where there is no room. Those that are not there
    /// any more are remembered for `grace`.
    pub fn update_containers<'a>(
        &self,
        present: impl Iterator<Item = (&'a str, &'a str)>,
        grace: Duration,
    ) -> Vec<Option<Arc<Series>>> {
        self.update_containers_at(BootInstant::now(), present, grace)
    }

    fn update_containers_at<'a>(
        &self,
        now: BootInstant,
        present: impl Iterator<Item = (&'a str, &'a str)>,
        grace: Duration,
    ) -> Vec<Option<Arc<Series>>> {
        let mut containers = self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for series in containers.values() {
            series.is_gone.store(true, Relaxed);
        }
        let there: Vec<_> = present.collect();
        for (id, _) in &there {
            if let Some(known) = containers.get(*id) {
                known.is_gone.store(false, Relaxed);
            }
        }
        containers.retain(|_, it| !it.is_gone() || now.duration_since(it.last_sampled()) < grace);
        let all = eviction::max_points(&self.flags).saturating_sub(self.host.ring().capacity());
        let mut room = RingAllocator::new(&mut containers, all, self.flags.history_points);
        let kept: Vec<_> = there
            .iter()
            .map(|(id, path)| room.get_or_create(id, path, now))
            .collect();
        room.regrow();
        let without = kept.iter().filter(|it| it.is_none()).count();
        self.dropped.store(without as u64, Relaxed);
        let mut all = containers.values();
        let is_short = all.any(|it| it.ring().capacity() < self.flags.history_points);
        self.is_full.store(is_short || without > 0, Relaxed);
        kept
    }

    /// Counts a sample that was taken.
    pub fn record_sample(&self) {
        self.samples.fetch_add(1, Relaxed);
    }

    /// Counts samples that were not taken.
    pub fn record_skipped(&self, reason: SkipReason, count: u64) {
        self.skip_counter(reason).fetch_add(count, Relaxed);
    }

    fn skip_counter(&self, reason: SkipReason) -> &AtomicU64 {
        let [failed, slow, late] = &self.skipped;
        match reason {
            SkipReason::Failed => failed,
            SkipReason::Slow => slow,
            SkipReason::Late => late,
        }
    }
}

impl Series {
    fn new(id: &str, path: &str, capacity: usize, created: BootInstant) -> Self {
        Self {
            id: id.into(),
            path: path.into(),
            created,
            is_gone: AtomicBool::new(false),
            ring: Mutex::new(Ring::new(capacity)),
        }
    }

    /// Whose it is: an engine's container by the engine's id, which it keeps over restarts;
    /// everything else by the path of its control group.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of its control group, when it was first seen.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it was not there any more when it was last looked for.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    /// The last sample, if there is one.
    #[must_use]
    pub fn latest(&self) -> Option<Point> {
        window::latest(&self.ring(), ClockReading::now())
    }

    /// What the samples say together that were taken in the last so long.
    #[must_use]
    pub fn window(&self, window: Duration) -> Aggregates {
        let ring = self.ring();
        let now = ClockReading::now();
        window::aggregates(ring.since(now.boot.saturating_sub(window)), now)
    }

    /// The last so many samples one by one, the newest last.
    #[must_use]
    pub fn points(&self, count: usize) -> Vec<Point> {
        let ring = self.ring();
        let before = ring.len().saturating_sub(count);
        let points = window::points(ring.iter(), ClockReading::now());
        points.skip(before).collect()
    }

    /// Adds a sample. One that is not later than the last is none.
    pub fn push(&self, at: BootInstant, sample: &Sample) {
        self.ring().push(at, sample);
    }

    /// When it was last sampled, or made.
    fn last_sampled(&self) -> BootInstant {
        self.ring().newest().unwrap_or(self.created)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
