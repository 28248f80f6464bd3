//! Threads of a cgroup that run or wait for a disk, averaged over about 10 seconds by cAdvisor's
//! formula: with each count, the previous average decays by `exp(-interval / 10 s)`.
//!
//! cAdvisor counts at its own fixed interval. Here scrapes set the interval, and the formula uses
//! the measured one. The first scrape of a cgroup has a count but no average.

use std::{sync::Arc, time::Instant};

use super::{LOAD, LOAD_UNINTERRUPTIBLE, per_group::PerGroup};
use crate::{
    family::{BaseLabels, Families, Value},
    sources::cgroup::Cgroup,
};

/// The time in which the previous average decays to 1/e.
const DECAY_SECONDS: f64 = 10.0;

/// The averages of all exposed cgroups.
#[derive(Debug, Default)]
pub(super) struct GroupLoads(PerGroup<Option<GroupLoad>>);

#[derive(Debug, Clone, Copy)]
struct GroupLoad {
    /// Time of the last count.
    counted_at: Instant,
    running: f64,
    uninterruptible: f64,
}

impl GroupLoads {
    pub(super) fn begin_scrape(&mut self) {
        self.0.begin_scrape();
    }

    /// Adds the averages of a cgroup whose threads are in these states.
    pub(super) fn add_load(
        &mut self,
        out: &mut Families,
        base: &BaseLabels,
        group: &Arc<Cgroup>,
        threads: &[char],
    ) {
        let now = GroupLoad::from_thread_states(threads, Instant::now());
        let stored = self.0.get_or_default(group);
        let before = stored.replace(now);
        if let Some(before) = before {
            let load = stored.insert(now.averaged_with(&before));
            out.add_with(&LOAD, base, [], to_thousandths(load.running));
            let uninterruptible = to_thousandths(load.uninterruptible);
            out.add_with(&LOAD_UNINTERRUPTIBLE, base, [], uninterruptible);
        }
    }

    /// Ends a scrape: removes the cgroups that were not counted in it.
    pub(super) fn end_scrape(&mut self) {
        self.0.remove_unused();
    }
}

impl GroupLoad {
    #[expect(
        clippy::cast_precision_loss,
        reason = "thread counts are far below 2^52"
    )]
    fn from_thread_states(threads: &[char], counted_at: Instant) -> Self {
        let count = |state| threads.iter().filter(|it| **it == state).count() as f64;
        Self {
            counted_at,
            running: count('R'),
            uninterruptible: count('D'),
        }
    }

    /// The new average from this count and the previous average.
    fn averaged_with(self, before: &Self) -> Self {
        let interval = self.counted_at.saturating_duration_since(before.counted_at);
        let decay = (-interval.as_secs_f64() / DECAY_SECONDS).exp();
        let average = |now: f64, before: f64| before * decay + now * (1.0 - decay);
        Self {
            counted_at: self.counted_at,
            running: average(self.running, before.running),
            uninterruptible: average(self.uninterruptible, before.uninterruptible),
        }
    }
}

fn to_thousandths(load: f64) -> Value {
    Value::Float((load * 1000.0).round())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{collectors::testing::MachineFixture, family};

    #[test]
    fn old_load_decays_with_sample_interval() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let busy = GroupLoad::from_thread_states(&['R', 'R', 'S', 'D', 'R', 'D'], start);
        let assert_load = |load: GroupLoad, expected: [u32; 2]| {
            let loads = [load.running, load.uninterruptible].map(to_thousandths);
            assert_eq!(loads, expected.map(|it| Value::Float(it.into())));
        };
        assert_load(busy, [3000, 2000]);
        let idle = |seconds| GroupLoad::from_thread_states(&['S'], at(seconds));
        assert_load(idle(0).averaged_with(&busy), [3000, 2000]);
        assert_load(idle(10).averaged_with(&busy), [1104, 736]);
        assert_load(idle(600).averaged_with(&busy), [0, 0]);
        // Counting more often gives the same result.
        let sampled_often =
            idle(10).averaged_with(&idle(7).averaged_with(&idle(3).averaged_with(&busy)));
        assert_load(sampled_often, [1104, 736]);
        let steady = GroupLoad::from_thread_states(&['R'], at(9))
            .averaged_with(&GroupLoad::from_thread_states(&['R'], start));
        assert_load(steady, [1000, 0]);
    }

    #[test]
    fn first_sample_has_no_average() {
        let machine = MachineFixture::new("container-load");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        let scrapes = machine.snapshots();
        let groups = scrapes().cgroups().walk(|path| path == "/").unwrap();
        let mut loads = GroupLoads::default();
        let mut scrape = |threads: Option<&[char]>| {
            let mut out = Families::default();
            loads.begin_scrape();
            if let Some(threads) = threads {
                let block = family::render_labels([("id", "/")]);
                loads.add_load(&mut out, &block, groups.first().unwrap(), threads);
            }
            loads.end_scrape();
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
