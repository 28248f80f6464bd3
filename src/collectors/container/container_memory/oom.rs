//! OOM kills of a container, over its restarts.
//!
//! The kernel's count dies with the group, and the group dies with the container's first
//! process, which is often the one that is killed. So growth of that count is added up
//! here, and so are the engine's out-of-memory events, but for those that tell of what the
//! kernel has counted: they come a little later.
//!
//! A restart shows in a count that falls back, or in a scrape in which there is no group.
//! One between two scrapes, after which the count is as high as before, shows only in what
//! the engine says. Podman says nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::sources::{engine, workloads::Workload};

/// How long after the kernel an engine may tell of a kill.
const LATE: Duration = Duration::from_secs(10);

/// The containers that had a count, by id. There are as many as are known or not gone for
/// long.
#[derive(Debug)]
pub(super) struct OomKills {
    of: HashMap<String, Kills>,
    round: u64,
    now: Instant,
}

#[derive(Debug)]
struct Kills {
    total: u64,
    /// The kernel's count when last read; 0 once the group is gone.
    last: u64,
    /// The most that the engine told of.
    told: u64,
    /// Kills that the kernel counted and the engine may still tell of, until when.
    untold: (u64, Instant),
    /// When it was last seen.
    round: u64,
}

impl Kills {
    /// Takes in what both say now.
    fn go_on(&mut self, has_group: bool, kernel: Option<u64>, told: u64, now: Instant) {
        if let Some(count) = kernel {
            let grown = count.checked_sub(self.last).unwrap_or(count);
            self.last = count;
            if now >= self.untold.1 {
                self.untold.0 = 0;
            }
            if grown > 0 {
                self.total = self.total.saturating_add(grown);
                self.untold = (self.untold.0.saturating_add(grown), now + LATE);
            }
        } else if has_group {
            // What the engine tells of now the kernel may have counted: later.
            return;
        } else {
            self.last = 0;
        }
        let news = told.saturating_sub(self.told);
        self.told = self.told.max(told);
        let counted = if now < self.untold.1 {
            news.min(self.untold.0)
        } else {
            0
        };
        self.untold.0 -= counted;
        self.total = self.total.saturating_add(news - counted);
    }
}

impl OomKills {
    pub(super) fn new() -> Self {
        Self {
            of: HashMap::new(),
            round: 0,
            now: Instant::now(),
        }
    }

    /// Begins a scrape.
    pub(super) fn begin(&mut self, now: Instant) {
        self.round = self.round.wrapping_add(1);
        self.now = now;
    }

    /// How many there were, given what the kernel says now; nothing where nobody said
    /// anything. For what is no container that is what the kernel says.
    pub(super) fn count(&mut self, workload: &Workload, kernel: Option<u64>) -> Option<u64> {
        let Some(id) = id(workload) else {
            return kernel;
        };
        let has_group = workload.group.is_some();
        self.count_of(id, has_group, kernel, told(workload))
    }

    fn count_of(
        &mut self,
        id: &str,
        has_group: bool,
        kernel: Option<u64>,
        told: Option<u64>,
    ) -> Option<u64> {
        let (round, now) = (self.round, self.now);
        if let Some(kills) = self.of.get_mut(id) {
            kills.round = round;
            kills.go_on(has_group, kernel, told.unwrap_or(0), now);
            return Some(kills.total);
        }
        let total = kernel.max(told)?;
        let (last, told) = (kernel.unwrap_or(0), told.unwrap_or(0));
        let kills = Kills {
            total,
            last,
            told,
            untold: (last.saturating_sub(told), now + LATE),
            round,
        };
        self.of.insert(id.to_owned(), kills);
        Some(total)
    }

    /// Ends a scrape: forgets the containers that were not counted in it and are not among
    /// those that went a short time ago, which may come back.
    pub(super) fn end<'a>(&mut self, gone: impl Iterator<Item = &'a Workload>) {
        for id in gone.filter_map(id) {
            if let Some(kills) = self.of.get_mut(id)
                && kills.round != self.round
            {
                kills.round = self.round;
                kills.last = 0;
            }
        }
        let round = self.round;
        self.of.retain(|_, kills| kills.round == round);
    }
}

/// The id of the container that it is.
fn id(workload: &Workload) -> Option<&str> {
    match (&workload.container, &workload.handle) {
        (Some((_, container)), _) => Some(&container.id),
        (None, Some(handle)) => Some(&handle.id),
        (None, None) => None,
    }
}

/// The events that its engine told of. Podman tells of none, so that its 0 says nothing.
fn told(workload: &Workload) -> Option<u64> {
    let (kind, container) = workload.container.as_ref()?;
    let events = container.oom_events;
    (events > 0 || *kind == engine::Kind::Docker).then_some(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: bool = true;
    const ENDED: bool = false;

    /// What is counted in one scrape after the other, a second apart.
    fn counted(scrapes: &[(bool, Option<u64>, Option<u64>)]) -> Vec<Option<u64>> {
        counted_every(Duration::from_secs(1), scrapes)
    }

    fn counted_every(
        pause: Duration,
        scrapes: &[(bool, Option<u64>, Option<u64>)],
    ) -> Vec<Option<u64>> {
        let mut kills = OomKills::new();
        let mut now = kills.now;
        let scrapes = scrapes.iter().map(|(has_group, kernel, told)| {
            now += pause;
            kills.begin(now);
            let count = kills.count_of("a", *has_group, *kernel, *told);
            kills.end([].into_iter());
            count
        });
        scrapes.collect()
    }

    #[test]
    fn the_count_goes_on_when_the_group_is_made_anew() {
        let podmans = counted(&[
            (RUNS, Some(2), None),
            (RUNS, Some(5), None),
            (RUNS, Some(1), None),
            (ENDED, None, None),
            (RUNS, Some(3), None),
            (RUNS, Some(3), None),
        ]);
        assert_eq!(podmans, [2, 5, 6, 6, 9, 9].map(Some));
    }

    #[test]
    fn a_group_that_could_not_be_read_is_the_same_afterwards() {
        let once = counted(&[
            (RUNS, Some(2), None),
            (RUNS, None, None),
            (RUNS, Some(2), None),
        ]);
        assert_eq!(once, [2, 2, 2].map(Some));
    }

    #[test]
    fn a_first_process_that_is_killed_takes_the_kernels_count_with_it() {
        let crashes = counted(&[
            (RUNS, Some(0), Some(0)),
            (ENDED, None, Some(1)),
            (RUNS, Some(0), Some(1)),
            (RUNS, Some(0), Some(2)),
        ]);
        assert_eq!(crashes, [0, 1, 1, 2].map(Some));
    }

    #[test]
    fn one_kill_is_not_counted_twice_because_two_tell_of_it() {
        let child = counted(&[
            (RUNS, Some(0), Some(0)),
            (RUNS, Some(1), Some(0)),
            (RUNS, Some(1), Some(1)),
        ]);
        assert_eq!(child, [0, 1, 1].map(Some));
        // Not even if it was seen first when the engine had not told of it yet.
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
    fn a_kill_that_the_engine_kept_to_itself_hides_none_that_it_tells_of_later() {
        let late = counted_every(
            LATE,
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
    fn what_ended_before_anybody_looked_is_not_known_to_be_0() {
        assert_eq!(counted(&[(ENDED, None, None)]), [None]);
        assert_eq!(counted(&[(ENDED, None, Some(0))]), [Some(0)]);
    }

    #[test]
    fn a_container_that_is_not_known_any_more_is_forgotten() {
        let mut kills = OomKills::new();
        let now = kills.now;
        kills.begin(now);
        kills.count_of("a", RUNS, Some(1), None);
        kills.count_of("b", RUNS, Some(1), None);
        kills.end([].into_iter());
        kills.begin(now);
        kills.count_of("b", RUNS, Some(1), None);
        kills.end([].into_iter());
        assert_eq!(kills.of.keys().collect::<Vec<_>>(), ["b"]);
    }
}
