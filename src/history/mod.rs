//! Recent samples of containers and of the host: one ring per series, and aggregates over any time
//! window. The sampler adds the samples; nothing is read here.
//!
//! ```text
//! history.containers()       all series, including those of containers that are gone
//! history.container(id)      one of them
//! history.host()             the series of the host
//! series.latest()            the last sample
//! series.window(duration)    average, peak, minimum, sums
//! series.points(100)         the last samples
//! history.status()           stored samples, and samples that were not taken
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

/// The samples of all containers and of the host.
#[derive(Debug)]
pub struct History {
    flags: HistoryFlags,
    host: Series,
    containers: RwLock<BTreeMap<Arc<str>, Arc<Series>>>,
    is_sampled: AtomicBool,
    is_full: AtomicBool,
    samples: AtomicU64,
    skipped: [AtomicU64; SkipReason::ALL.len()],
    /// Number of containers without a ring for lack of memory.
    dropped: AtomicU64,
}

/// The samples of one container, or of the host.
#[derive(Debug)]
pub struct Series {
    id: Arc<str>,
    path: Arc<str>,
    created: BootInstant,
    is_gone: AtomicBool,
    ring: Mutex<Ring>,
}

/// Why a sample was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// None of its files could be read.
    Failed,
    /// It was not read in time, or an earlier read is still blocked.
    Slow,
    /// The whole round was skipped because its time had passed.
    Late,
}

/// State of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryStatus {
    /// Time between two samples.
    pub interval: Duration,
    /// Maximum number of samples per series.
    pub max_points: usize,
    /// Bytes allocated for rings.
    pub bytes: u64,
    /// Maximum number of bytes for rings.
    pub max_bytes: u64,
    /// Number of rings, including that of the host.
    pub series: usize,
    /// Number of stored samples.
    pub points: usize,
    /// Number of rings below their full capacity.
    pub truncated: usize,
    /// Number of containers without a ring for lack of memory.
    pub dropped: u64,
    /// Number of samples taken since the start.
    pub samples: u64,
    /// Number of samples that were not taken, by reason.
    pub skipped: [(SkipReason, u64); SkipReason::ALL.len()],
}

impl SkipReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Slow, Self::Late];

    /// The name in label values and JSON.
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
    /// Creates an empty history.
    #[must_use]
    pub fn new(flags: HistoryFlags) -> Self {
        let max_points = eviction::max_points(&flags) / 2;
        Self {
            host: Series::new(
                "/",
                "/",
                flags.history_points.min(max_points),
                BootInstant::now(),
            ),
            flags,
            containers: RwLock::default(),
            is_sampled: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            skipped: Default::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Interval at which it must be sampled.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.flags.history_interval
    }

    /// The samples of the host.
    #[must_use]
    pub fn host(&self) -> &Series {
        &self.host
    }

    /// The samples of one container, or domain, by the id that [`Series::id`] explains.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Arc<Series>> {
        let containers = self.containers.read();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.get(id).cloned()
    }

    /// The same by the engine's container id, or else by the path of the cgroup.
    #[must_use]
    pub fn find_container(&self, id: Option<&str>, path: &str) -> Option<Arc<Series>> {
        let by_id = id.and_then(|id| self.container(id));
        by_id.or_else(|| self.container(path))
    }

    /// The samples of all containers and domains, ordered by id.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Series>> {
        let containers = self.containers.read();
        let containers = containers.unwrap_or_else(PoisonError::into_inner);
        containers.values().cloned().collect()
    }

    /// Whether the sampler runs; otherwise the history stays empty.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.is_sampled.load(Relaxed)
    }

    /// Whether containers have a ring below its full capacity, or none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Current usage and limits.
    #[must_use]
    pub fn status(&self) -> HistoryStatus {
        let mut status = HistoryStatus {
            interval: self.flags.history_interval,
            max_points: self.flags.history_points,
            max_bytes: self.flags.history_max_bytes,
            dropped: self.dropped.load(Relaxed),
            samples: self.samples.load(Relaxed),
            skipped: SkipReason::ALL
                .map(|reason| (reason, self.skip_counter(reason).load(Relaxed))),
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

    /// Records that the sampler runs.
    pub fn mark_sampled(&self) {
        self.is_sampled.store(true, Relaxed);
    }

    /// Updates the set of present containers, by id and path, and returns their series in the same
    /// order; `None` for lack of memory. Containers that are no longer present are remembered for
    /// `grace`.
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
        let present: Vec<_> = present.collect();
        for (id, _) in &present {
            if let Some(series) = containers.get(*id) {
                series.is_gone.store(false, Relaxed);
            }
        }
        containers.retain(|_, it| !it.is_gone() || now.duration_since(it.last_sampled()) < grace);
        let max_points =
            eviction::max_points(&self.flags).saturating_sub(self.host.ring().capacity());
        let mut allocator =
            RingAllocator::new(&mut containers, max_points, self.flags.history_points);
        let series: Vec<_> = present
            .iter()
            .map(|(id, path)| allocator.get_or_create(id, path, now))
            .collect();
        allocator.regrow();
        let dropped = series.iter().filter(|it| it.is_none()).count();
        self.dropped.store(dropped as u64, Relaxed);
        let mut rings = containers.values();
        let is_truncated = rings.any(|it| it.ring().capacity() < self.flags.history_points);
        self.is_full.store(is_truncated || dropped > 0, Relaxed);
        series
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

    /// The engine's container id, which is stable across restarts; without one, the path of the
    /// cgroup.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path of the cgroup when it was first seen.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it was missing from the last update.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    /// The last sample, if there is one.
    #[must_use]
    pub fn latest(&self) -> Option<Point> {
        window::latest(&self.ring(), ClockReading::now())
    }

    /// Aggregates of the samples in the last `window`.
    #[must_use]
    pub fn window(&self, window: Duration) -> Aggregates {
        let ring = self.ring();
        let now = ClockReading::now();
        window::aggregates(ring.since(now.boot.saturating_sub(window)), now)
    }

    /// The last `count` samples, the newest last.
    #[must_use]
    pub fn points(&self, count: usize) -> Vec<Point> {
        let ring = self.ring();
        let before = ring.len().saturating_sub(count);
        let points = window::points(ring.iter(), ClockReading::now());
        points.skip(before).collect()
    }

    /// Adds a sample; it is dropped unless it is later than the last one.
    pub fn push(&self, at: BootInstant, sample: &Sample) {
        self.ring().push(at, sample);
    }

    /// When it was last sampled, or else created.
    fn last_sampled(&self) -> BootInstant {
        self.ring().newest().unwrap_or(self.created)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
