//! OOM kills of a container, over its restarts.
//!
//! The kernel's count dies with the group, and the group dies with the container's first
//! process, which is often the one that is killed. So counts are added up here, and where
//! the engine told of more out-of-memory events since a container was first seen, that is
//! how many there were. Added up they would count one kill twice.
//!
//! A restart shows in a count that falls back, or in a scrape in which there is no group.
//! One between two scrapes, after which the count is as high as before, shows only in what
//! the engine says. Podman says nothing.

use std::collections::HashMap;

use crate::sources::{engine, workloads::Workload};

/// The containers that had a count, by id. There are as many as are known or not gone for
/// long.
#[derive(Debug, Default)]
pub(super) struct OomKills {
    of: HashMap<String, Kills>,
    round: u64,
}

#[derive(Debug)]
struct Kills {
    /// What both counts were when the container was first seen, the greater of them.
    first: u64,
    /// How the kernel's count grew since then.
    grown: u64,
    /// The kernel's count when last read; 0 once the group is gone.
    last: u64,
    /// What the engine had told of when the container was first seen.
    told_first: u64,
    /// The most that the engine told of.
    told: u64,
    /// When it was last seen.
    round: u64,
}

impl OomKills {
    /// Begins a scrape.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
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
        let round = self.round;
        let Some(kills) = self.of.get_mut(id) else {
            let first = kernel.max(told)?;
            let kills = Kills {
                first,
                grown: 0,
                last: kernel.unwrap_or(0),
                told_first: told.unwrap_or(0),
                told: told.unwrap_or(0),
                round,
            };
            self.of.insert(id.to_owned(), kills);
            return Some(first);
        };
        kills.round = round;
        if let Some(count) = kernel {
            let since = count.checked_sub(kills.last).unwrap_or(count);
            kills.grown = kills.grown.saturating_add(since);
            kills.last = count;
        } else if !has_group {
            kills.last = 0;
        }
        kills.told = kills.told.max(told.unwrap_or(0));
        let grown = kills.grown.max(kills.told - kills.told_first);
        Some(kills.first.saturating_add(grown))
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

    /// What is counted in one scrape after the other.
    fn counted(scrapes: &[(bool, Option<u64>, Option<u64>)]) -> Vec<Option<u64>> {
        let mut kills = OomKills::default();
        let scrapes = scrapes.iter().map(|(has_group, kernel, told)| {
            kills.begin();
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
    }

    #[test]
    fn a_kill_from_before_the_exporter_ran_hides_none_after() {
        let late = counted(&[(RUNS, Some(1), Some(0)), (ENDED, None, Some(1))]);
        assert_eq!(late, [1, 2].map(Some));
    }

    #[test]
    fn what_ended_before_anybody_looked_is_not_known_to_be_0() {
        assert_eq!(counted(&[(ENDED, None, None)]), [None]);
        assert_eq!(counted(&[(ENDED, None, Some(0))]), [Some(0)]);
    }

    #[test]
    fn a_container_that_is_not_known_any_more_is_forgotten() {
        let mut kills = OomKills::default();
        kills.begin();
        kills.count_of("a", RUNS, Some(1), None);
        kills.count_of("b", RUNS, Some(1), None);
        kills.end([].into_iter());
        kills.begin();
        kills.count_of("b", RUNS, Some(1), None);
        kills.end([].into_iter());
        assert_eq!(kills.of.keys().collect::<Vec<_>>(), ["b"]);
    }
}
