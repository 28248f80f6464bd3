//! How many threads of a group run or wait for a disk, averaged over about 10 seconds, by
//! cAdvisor's formula: with each count what was before fades by `exp(-interval / 10 s)`.
//!
//! cAdvisor counts in its own beat and takes the interval for granted. Here the beat is
//! that of the scrapes, and the interval what it was. At the first sight of a group there
//! is a count and no average.

use std::{sync::Arc, time::Instant};

use super::{LOAD, LOAD_UNINTERRUPTIBLE, kept::PerGroup};
use crate::{
    family::{Block, Families, Value},
    sources::cgroup::Group,
};

/// The time in which what was fades to 1/e.
const SECONDS: f64 = 10.0;

/// The averages of all groups that are shown.
#[derive(Debug, Default)]
pub(super) struct Loads(PerGroup<Option<Load>>);

#[derive(Debug, Clone, Copy)]
struct Load {
    /// When it was counted last.
    counted: Instant,
    running: f64,
    uninterruptible: f64,
}

impl Loads {
    /// Begins a scrape.
    pub(super) fn begin(&mut self) {
        self.0.begin();
    }

    /// Adds the averages of a group whose threads are in these states.
    pub(super) fn add(
        &mut self,
        out: &mut Families,
        block: &Block,
        group: &Arc<Group>,
        threads: &[char],
    ) {
        let now = Load::count(threads, Instant::now());
        let known = self.0.of(group);
        let before = known.replace(now);
        if let Some(before) = before {
            let load = known.insert(now.after(&before));
            out.add_of(&LOAD, block, [], thousandths(load.running));
            let uninterruptible = thousandths(load.uninterruptible);
            out.add_of(&LOAD_UNINTERRUPTIBLE, block, [], uninterruptible);
        }
    }

    /// Ends a scrape: forgets the groups that had no count in it.
    pub(super) fn end(&mut self) {
        self.0.forget_others();
    }
}

impl Load {
    #[expect(clippy::cast_precision_loss, reason = "no machine has so many threads")]
    fn count(threads: &[char], counted: Instant) -> Self {
        let count = |state| threads.iter().filter(|it| **it == state).count() as f64;
        Self {
            counted,
            running: count('R'),
            uninterruptible: count('D'),
        }
    }

    /// The average, given what it was before.
    fn after(self, before: &Self) -> Self {
        let interval = self.counted.saturating_duration_since(before.counted);
        let stays = (-interval.as_secs_f64() / SECONDS).exp();
        let average = |now: f64, before: f64| before * stays + now * (1.0 - stays);
        Self {
            counted: self.counted,
            running: average(self.running, before.running),
            uninterruptible: average(self.uninterruptible, before.uninterruptible),
        }
    }
}

fn thousandths(load: f64) -> Value {
    Value::Float((load * 1000.0).round())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{collectors::testing::Machine, family};

    #[test]
    fn what_was_fades_with_the_time_between_two_counts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let busy = Load::count(&['R', 'R', 'S', 'D', 'R', 'D'], start);
        let is = |load: Load, expected: [u32; 2]| {
            let loads = [load.running, load.uninterruptible].map(thousandths);
            assert_eq!(loads, expected.map(|it| Value::Float(it.into())));
        };
        is(busy, [3000, 2000]);
        let idle = |seconds| Load::count(&['S'], at(seconds));
        is(idle(0).after(&busy), [3000, 2000]);
        is(idle(10).after(&busy), [1104, 736]);
        is(idle(600).after(&busy), [0, 0]);
        // Counting more often comes to the same.
        let often = idle(10).after(&idle(7).after(&idle(3).after(&busy)));
        is(often, [1104, 736]);
        let steady = Load::count(&['R'], at(9)).after(&Load::count(&['R'], start));
        is(steady, [1000, 0]);
    }

    #[test]
    fn at_first_sight_there_is_no_average() {
        let machine = Machine::new("container-load");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        let scrapes = machine.scrapes();
        let groups = scrapes().cgroups().walk(|path| path == "/").unwrap();
        let mut loads = Loads::default();
        let mut scrape = |threads: Option<&[char]>| {
            let mut out = Families::default();
            loads.begin();
            if let Some(threads) = threads {
                let block = family::block([("id", "/")]);
                loads.add(&mut out, &block, groups.first().unwrap(), threads);
            }
            loads.end();
            out.lines()
        };
        let expected = [
            r#"container_cpu_load_average_10s{id="/"} 2000"#,
            r#"container_cpu_load_d_average_10s{id="/"} 1000"#,
        ];
        let threads = ['R', 'D', 'R'];
        assert!(scrape(Some(&threads)).is_empty());
        assert_eq!(scrape(Some(&threads)), expected);
        assert_eq!(scrape(Some(&threads)), expected);
        assert!(scrape(None).is_empty());
        assert!(scrape(Some(&threads)).is_empty());
    }
}
