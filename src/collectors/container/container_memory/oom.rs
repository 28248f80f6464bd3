//! OOM kills of a container, accumulated over its restarts.
//!
//! The kernel's count is lost with the cgroup, and the cgroup is removed when the container's
//! first process ends, which is often the one that is killed. So this module adds up the growth of
//! the kernel's count and the engine's out-of-memory events, except events for kills that the
//! kernel has already counted: the events arrive a little later.
//!
//! A restart is detected by a count that decreases, or by a scrape without a cgroup. A restart
//! between two scrapes, after which the count is as high as before, shows only in the engine's
//! events. Podman sends none.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::sources::{engine, workloads::Workload};

/// Maximum delay of an engine's event after the kernel counted the kill.
const MAX_EVENT_DELAY: Duration = Duration::from_secs(10);

/// Counts by container id, for current containers and those that went a short time ago.
#[derive(Debug)]
pub(super) struct OomKills {
    by_id: HashMap<String, KillCount>,
    generation: u64,
    now: Instant,
}

#[derive(Debug)]
struct KillCount {
    total: u64,
    /// The kernel's count at the last read; 0 once the cgroup is gone.
    last_kernel: u64,
    /// The highest number of events that the engine reported.
    engine_events: u64,
    /// Kills that the kernel counted and for which an engine event may still arrive, and until
    /// when.
    pending: (u64, Instant),
    /// Number of the scrape that last counted it.
    generation: u64,
}

impl KillCount {
    /// Adds the growth of both counts.
    fn update(&mut self, has_group: bool, kernel: Option<u64>, engine_events: u64, now: Instant) {
        if let Some(count) = kernel {
            let grown = count.checked_sub(self.last_kernel).unwrap_or(count);
            self.last_kernel = count;
            if now >= self.pending.1 {
                self.pending.0 = 0;
            }
            if grown > 0 {
                self.total = self.total.saturating_add(grown);
                self.pending = (self.pending.0.saturating_add(grown), now + MAX_EVENT_DELAY);
            }
        } else if has_group {
            // The kernel may have counted the kills behind new events: left for a later scrape.
            return;
        } else {
            self.last_kernel = 0;
        }
        let new_events = engine_events.saturating_sub(self.engine_events);
        self.engine_events = self.engine_events.max(engine_events);
        let already_counted = if now < self.pending.1 {
            new_events.min(self.pending.0)
        } else {
            0
        };
        self.pending.0 -= already_counted;
        self.total = self.total.saturating_add(new_events - already_counted);
    }
}

impl OomKills {
    pub(super) fn new() -> Self {
        Self {
            by_id: HashMap::new(),
            generation: 0,
            now: Instant::now(),
        }
    }

    pub(super) fn begin_scrape(&mut self, now: Instant) {
        self.generation = self.generation.wrapping_add(1);
        self.now = now;
    }

    /// Total kills, updated with the kernel's current count; `None` if neither the kernel nor the
    /// engine reports a count. For a cgroup that is not a container, the kernel's count.
    pub(super) fn count(&mut self, workload: &Workload, kernel: Option<u64>) -> Option<u64> {
        let Some(id) = container_id(workload) else {
            return kernel;
        };
        let has_group = workload.cgroup.is_some();
        self.count_by_id(id, has_group, kernel, engine_events(workload))
    }

    fn count_by_id(
        &mut self,
        id: &str,
        has_group: bool,
        kernel: Option<u64>,
        engine_events: Option<u64>,
    ) -> Option<u64> {
        let (generation, now) = (self.generation, self.now);
        if let Some(kills) = self.by_id.get_mut(id) {
            kills.generation = generation;
            kills.update(has_group, kernel, engine_events.unwrap_or(0), now);
            return Some(kills.total);
        }
        let total = kernel.max(engine_events)?;
        let (last_kernel, engine_events) = (kernel.unwrap_or(0), engine_events.unwrap_or(0));
        let kills = KillCount {
            total,
            last_kernel,
            engine_events,
            pending: (
                last_kernel.saturating_sub(engine_events),
                now + MAX_EVENT_DELAY,
            ),
            generation,
        };
        self.by_id.insert(id.to_owned(), kills);
        Some(total)
    }

    /// Ends a scrape: removes containers that were not counted in it, unless they went a short
    /// time ago and may come back.
    pub(super) fn end_scrape<'a>(&mut self, gone: impl Iterator<Item = &'a Workload>) {
        for id in gone.filter_map(container_id) {
            if let Some(kills) = self.by_id.get_mut(id)
                && kills.generation != self.generation
            {
                kills.generation = self.generation;
                kills.last_kernel = 0;
            }
        }
        let generation = self.generation;
        self.by_id.retain(|_, kills| kills.generation == generation);
    }
}

/// The container id of the workload, if it is a container.
fn container_id(workload: &Workload) -> Option<&str> {
    match (&workload.container, &workload.runtime_id) {
        (Some((_, container)), _) => Some(&container.id),
        (None, Some(handle)) => Some(&handle.id),
        (None, None) => None,
    }
}

/// OOM events reported by the engine. Podman reports none, so its 0 means unknown.
fn engine_events(workload: &Workload) -> Option<u64> {
    let (kind, container) = workload.container.as_ref()?;
    let events = container.oom_events;
    (events > 0 || *kind == engine::EngineKind::Docker).then_some(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: bool = true;
    const ENDED: bool = false;

    /// The totals of consecutive scrapes, one second apart.
    fn counted(scrapes: &[(bool, Option<u64>, Option<u64>)]) -> Vec<Option<u64>> {
        counted_every(Duration::from_secs(1), scrapes)
    }

    fn counted_every(
        pause: Duration,
        scrapes: &[(bool, Option<u64>, Option<u64>)],
    ) -> Vec<Option<u64>> {
        let mut kills = OomKills::new();
        let mut now = kills.now;
        let scrapes = scrapes.iter().map(|(has_group, kernel, engine_events)| {
            now += pause;
            kills.begin_scrape(now);
            let count = kills.count_by_id("a", *has_group, *kernel, *engine_events);
            kills.end_scrape([].into_iter());
            count
        });
        scrapes.collect()
    }

    #[test]
    fn count_continues_when_cgroup_is_recreated() {
        let counts = counted(&[
            (RUNS, Some(2), None),
            (RUNS, Some(5), None),
            (RUNS, Some(1), None),
            (ENDED, None, None),
            (RUNS, Some(3), None),
            (RUNS, Some(3), None),
        ]);
        assert_eq!(counts, [2, 5, 6, 6, 9, 9].map(Some));
    }

    #[test]
    fn read_failure_does_not_reset_count() {
        let counts = counted(&[
            (RUNS, Some(2), None),
            (RUNS, None, None),
            (RUNS, Some(2), None),
        ]);
        assert_eq!(counts, [2, 2, 2].map(Some));
    }

    #[test]
    fn kill_of_init_process_is_counted_from_engine_event() {
        let crashes = counted(&[
            (RUNS, Some(0), Some(0)),
            (ENDED, None, Some(1)),
            (RUNS, Some(0), Some(1)),
            (RUNS, Some(0), Some(2)),
        ]);
        assert_eq!(crashes, [0, 1, 1, 2].map(Some));
    }

    #[test]
    fn kill_reported_by_kernel_and_engine_counts_once() {
        let child = counted(&[
            (RUNS, Some(0), Some(0)),
            (RUNS, Some(1), Some(0)),
            (RUNS, Some(1), Some(1)),
        ]);
        assert_eq!(child, [0, 1, 1].map(Some));
        // The same if the first scrape saw the kill before the engine reported it.
        let fresh = counted(&[(RUNS, Some(1), Some(0)), (RUNS, Some(1), Some(1))]);
        assert_eq!(fresh, [1, 1].map(Some));
        let unread = counted(&[
            (RUNS, Some(0), Some(0)),
            (RUNS, None, Some(1)),
            (RUNS, Some(1), Some(1)),
        ]);
        assert_eq!(unread, [0, 0, 1].map(Some));
    }

    #[test]
    fn unreported_kill_does_not_hide_later_event() {
        let late = counted_every(
            MAX_EVENT_DELAY,
            &[
                (RUNS, Some(1), Some(0)),
                (RUNS, Some(2), Some(0)),
                (ENDED, None, Some(1)),
                (RUNS, Some(0), Some(1)),
            ],
        );
        assert_eq!(late, [1, 2, 3, 3].map(Some));
    }

    #[test]
    fn no_count_without_any_report() {
        assert_eq!(counted(&[(ENDED, None, None)]), [None]);
        assert_eq!(counted(&[(ENDED, None, Some(0))]), [Some(0)]);
    }

    #[test]
    fn unknown_container_is_dropped() {
        let mut kills = OomKills::new();
        let now = kills.now;
        kills.begin_scrape(now);
        kills.count_by_id("a", RUNS, Some(1), None);
        kills.count_by_id("b", RUNS, Some(1), None);
        kills.end_scrape([].into_iter());
        kills.begin_scrape(now);
        kills.count_by_id("b", RUNS, Some(1), None);
        kills.end_scrape([].into_iter());
        assert_eq!(kills.by_id.keys().collect::<Vec<_>>(), ["b"]);
    }
}
