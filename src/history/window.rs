//! What samples say: one by one, and together over a window of time.
//!
//! A counter says something between two samples that know it. What it grew by counts where
//! both are in the window, and so does the time between them, in which a container that
//! was gone used nothing. After a start it counts from 0; one that steps back without one
//! says nothing of that time.

use std::time::Duration;

use super::{
    monotonic::{BootInstant, ClockReading},
    packed::{
        COUNTER_COUNT, CPU, CounterDelta, CounterField, MEMORY, PIDS, PackedSample, READ, RECEIVED,
        RESTARTS, SENT, WRITTEN,
    },
    ring::Ring,
};
use crate::duration;

/// A sample, and what changed since the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// When it was taken, counted from 1970 on by the clock as it goes now.
    pub at: Duration,
    /// How long ago that was.
    pub age: Duration,
    /// CPU time in percent of the time since it was last known: 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Bytes in memory, in pages of 4 KiB.
    pub memory: Option<u64>,
    /// Bytes received since that was last known.
    pub received: Option<Increase>,
    /// Bytes sent since that was last known.
    pub sent: Option<Increase>,
    /// Bytes read from disks since that was last known.
    pub read: Option<Increase>,
    /// Bytes written to disks since that was last known.
    pub written: Option<Increase>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// How often it was started since the sample before; 7 stands for more.
    pub restarts: u64,
}

/// What a counter grew by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Increase {
    /// How much.
    pub amount: u64,
    /// In how long.
    pub over: Duration,
}

impl Increase {
    /// How much in a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
    pub fn per_second(self) -> f64 {
        self.amount as f64 / self.over.as_secs_f64()
    }
}

/// What the samples of a window say together. What none of them knows is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Aggregates {
    /// How many samples there are.
    pub samples: u64,
    /// When the first was taken, counted from 1970 on.
    pub start: Option<Duration>,
    /// When the last was taken.
    pub end: Option<Duration>,
    /// CPU time in percent: 100 is one core. The average is over the time in which it is
    /// known, peak and minimum are between two samples.
    pub cpu_percent: Option<MinAvgMax<f64>>,
    /// Bytes in memory. The average is that of the samples.
    pub memory: Option<MinAvgMax<u64>>,
    /// Bytes received.
    pub received: Option<u64>,
    /// Bytes sent.
    pub sent: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Processes and threads. The average is that of the samples.
    pub pids: Option<MinAvgMax<u64>>,
    /// How often it was started between the first sample and the last.
    pub restarts: u64,
}

/// How something spreads over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinAvgMax<T> {
    /// The mean.
    pub average: f64,
    /// The most.
    pub peak: T,
    /// The least.
    pub minimum: T,
}

/// Longer than rings are.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 86400);

/// Reads a window as it is asked for: a duration within reason.
pub fn parse_window(text: &str) -> Result<Duration, String> {
    let window = duration::parse(text).map_err(|error| format!("window: {error}"))?;
    if window < Duration::from_secs(1) || window > MAX_WINDOW {
        return Err(format!("window is not from 1s to 744h: {text:?}"));
    }
    Ok(window)
}

const ALL_COUNTERS: [CounterField; COUNTER_COUNT] = [CPU, RECEIVED, SENT, READ, WRITTEN];

/// Percent of one core: 10 µs in each ms.
#[expect(clippy::cast_precision_loss, reason = "a rate is no count")]
fn percent(amount: u64, millis: u64) -> f64 {
    amount as f64 / millis as f64
}

/// When counters were last known.
#[derive(Debug, Default)]
struct LastKnown([Option<BootInstant>; COUNTER_COUNT]);

impl LastKnown {
    /// What a counter grew by since it was last known, in its unit, and in how many
    /// milliseconds.
    fn increase(
        &mut self,
        counter: CounterField,
        at: BootInstant,
        point: &PackedSample,
    ) -> Option<(u64, u64)> {
        let known = self.0.get_mut(counter.index)?;
        let grew = match point.delta(counter) {
            CounterDelta::Missing => return None,
            CounterDelta::NoBaseline => None,
            CounterDelta::Increased(amount) => known.map(|then| (amount, at.millis_since(then))),
        };
        *known = Some(at);
        grew
    }
}

/// The points one by one.
pub(super) fn points<'a>(
    samples: impl Iterator<Item = (BootInstant, &'a PackedSample)>,
    now: ClockReading,
) -> impl Iterator<Item = Point> {
    let mut known = LastKnown::default();
    samples.map(move |(at, packed)| {
        let cpu = known.increase(CPU, at, packed);
        let mut increase = |counter: CounterField| {
            let (amount, millis) = known.increase(counter, at, packed)?;
            Some(Increase {
                amount: amount.saturating_mul(counter.unit),
                over: Duration::from_millis(millis),
            })
        };
        Point {
            at: now.wall_time_at(at),
            age: now.boot.duration_since(at),
            cpu_percent: cpu.map(|(amount, millis)| percent(amount, millis)),
            memory: packed.gauge(MEMORY),
            received: increase(RECEIVED),
            sent: increase(SENT),
            read: increase(READ),
            written: increase(WRITTEN),
            pids: packed.gauge(PIDS),
            restarts: packed.get(RESTARTS),
        }
    })
}

/// The last point.
pub(super) fn latest(ring: &Ring, now: ClockReading) -> Option<Point> {
    // Mostly the one before it knew all that it knows.
    let (_, newest) = ring.tail(1).next()?;
    let knows = |point: &PackedSample, counter| point.delta(counter) != CounterDelta::Missing;
    let mut before = ring.tail(2).map(|(_, point)| point);
    let before = before.next().filter(|_| ring.len() > 1);
    let is_enough = before.is_some_and(|before| {
        let mut counters = ALL_COUNTERS.into_iter();
        counters.all(|counter| knows(before, counter) || !knows(newest, counter))
    });
    let count = if is_enough { 2 } else { ring.len() };
    points(ring.tail(count), now).last()
}

/// A counter over a window.
#[derive(Debug, Default)]
struct CounterStats {
    sum: u64,
    millis: u64,
    min_max: Option<(f64, f64)>,
}

impl CounterStats {
    fn add(&mut self, increase: Option<(u64, u64)>) {
        let Some((amount, millis)) = increase else {
            return;
        };
        self.sum = self.sum.saturating_add(amount);
        self.millis = self.millis.saturating_add(millis);
        let rate = percent(amount, millis);
        let (peak, minimum) = self.min_max.unwrap_or((rate, rate));
        self.min_max = Some((peak.max(rate), minimum.min(rate)));
    }

    fn sum(&self, counter: CounterField) -> Option<u64> {
        self.min_max?;
        Some(self.sum.saturating_mul(counter.unit))
    }

    fn min_avg_max(&self) -> Option<MinAvgMax<f64>> {
        let (peak, minimum) = self.min_max?;
        Some(MinAvgMax {
            average: percent(self.sum, self.millis),
            peak,
            minimum,
        })
    }
}

/// What goes up and down over a window.
#[derive(Debug, Default)]
struct GaugeStats {
    count: u64,
    sum: u128,
    min_max: Option<(u64, u64)>,
}

impl GaugeStats {
    fn add(&mut self, value: Option<u64>) {
        if let Some(value) = value {
            self.count += 1;
            self.sum = self.sum.saturating_add(value.into());
            let (peak, minimum) = self.min_max.unwrap_or((value, value));
            self.min_max = Some((peak.max(value), minimum.min(value)));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean is no count")]
    fn min_avg_max(&self) -> Option<MinAvgMax<u64>> {
        let (peak, minimum) = self.min_max?;
        Some(MinAvgMax {
            average: self.sum as f64 / self.count as f64,
            peak,
            minimum,
        })
    }
}

/// The points together.
pub(super) fn aggregates<'a>(
    samples: impl Iterator<Item = (BootInstant, &'a PackedSample)>,
    now: ClockReading,
) -> Aggregates {
    let mut all = Aggregates::default();
    let mut known = LastKnown::default();
    let mut tallies: [CounterStats; COUNTER_COUNT] = Default::default();
    let (mut memory, mut pids) = (GaugeStats::default(), GaugeStats::default());
    for (at, point) in samples {
        if all.samples > 0 {
            all.restarts = all.restarts.saturating_add(point.get(RESTARTS));
        }
        all.samples += 1;
        all.start = all.start.or_else(|| Some(now.wall_time_at(at)));
        all.end = Some(now.wall_time_at(at));
        for (tally, counter) in tallies.iter_mut().zip(ALL_COUNTERS) {
            tally.add(known.increase(counter, at, point));
        }
        memory.add(point.gauge(MEMORY));
        pids.add(point.gauge(PIDS));
    }
    let [cpu, received, sent, read, written] = &tallies;
    Aggregates {
        cpu_percent: cpu.min_avg_max(),
        memory: memory.min_avg_max(),
        received: received.sum(RECEIVED),
        sent: sent.sum(SENT),
        read: read.sum(READ),
        written: written.sum(WRITTEN),
        pids: pids.min_avg_max(),
        ..all
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "the oracle divides the same numbers"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::history::ring::{Baseline, Sample};

    const NOW: Duration = Duration::from_secs(1_000_000);

    /// How many bytes or microseconds a unit is, in the order of the counters.
    const UNITS: [u64; COUNTER_COUNT] = [10, 1, 1, 512, 512];

    /// A sample, and how many milliseconds after the one before it was taken.
    type TimedSample = (u64, Sample);

    fn since() -> impl Strategy<Value = Baseline> {
        prop_oneof![8 => Just(Baseline::Previous), 1 => Just(Baseline::Zero), 1 => Just(Baseline::Unknown)]
    }

    /// Mostly what moves as counters do, and now and then anything.
    fn number() -> impl Strategy<Value = Option<u64>> {
        prop_oneof![
            8 => (0_u64..1 << 20).prop_map(Some),
            1 => Just(None),
            1 => any::<u64>().prop_map(|n| Some(n >> (n % 64))),
        ]
    }

    prop_compose! {
        fn taken()(
            after in prop_oneof![9 => 1_u64..10_000, 1 => 1_u64..10_000_000],
            [cpu, memory, received, sent, read, written, pids] in
                [number(), number(), number(), number(), number(), number(), number()],
            restarts in prop_oneof![4 => Just(0), 1 => 0_u64..12],
            usage_since in since(),
            traffic_since in since(),
        ) -> TimedSample {
            let sample = Sample {
                cpu: cpu.map(Duration::from_micros),
                memory, received, sent, read, written, pids, restarts, usage_baseline: usage_since, traffic_baseline: traffic_since,
            };
            (after, sample)
        }
    }

    fn counters(sample: &Sample) -> [(Option<u64>, Baseline); COUNTER_COUNT] {
        let cpu = sample.cpu.map(|cpu| cpu.as_micros().try_into().unwrap());
        [
            (cpu, sample.usage_baseline),
            (sample.received, sample.traffic_baseline),
            (sample.sent, sample.traffic_baseline),
            (sample.read, sample.usage_baseline),
            (sample.written, sample.usage_baseline),
        ]
    }

    /// By how much a counter grew between each two samples that know it, in its unit, and
    /// in how many milliseconds; as slowly and plainly as can be.
    fn steps(all: &[(BootInstant, Sample)], counter: usize, most: u64) -> Vec<(u64, u64)> {
        let unit = UNITS[counter];
        let mut steps = Vec::new();
        for (n, (then, before)) in all.iter().enumerate() {
            let Some(old) = counters(before)[counter].0 else {
                continue;
            };
            let later = all.iter().enumerate().skip(n + 1);
            let mut known = later.filter(|(_, (_, s))| counters(s)[counter].0.is_some());
            let Some((m, (now, after))) = known.next() else {
                continue;
            };
            let new = counters(after)[counter].0.unwrap() / unit;
            // What was said on the way from one to the other.
            let mut said = all[n + 1..=m].iter().map(|(_, s)| counters(s)[counter].1);
            let base = said.try_fold(old / unit, |base, since| match since {
                Baseline::Previous => Some(base),
                Baseline::Zero => Some(0),
                Baseline::Unknown => None,
            });
            match base.and_then(|base| new.checked_sub(base)) {
                Some(grew) if grew <= most => steps.push((grew, now.millis_since(*then))),
                _ => {}
            }
        }
        steps
    }

    /// The numbers that fit into a point.
    fn levels(
        all: &[(BootInstant, Sample)],
        unit: u64,
        bits: u32,
        of: fn(&Sample) -> Option<u64>,
    ) -> Vec<u64> {
        let values = all.iter().filter_map(|(_, sample)| of(sample));
        let values = values.filter(|value| value / unit < (1 << bits) - 1);
        values.map(|value| value / unit * unit).collect()
    }

    fn min_avg_max(values: &[u64]) -> Option<MinAvgMax<u64>> {
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        Some(MinAvgMax {
            average: sum as f64 / values.len() as f64,
            peak: *values.iter().max()?,
            minimum: *values.iter().min()?,
        })
    }

    fn oracle(all: &[(BootInstant, Sample)], now: ClockReading) -> Aggregates {
        let most = [31, 39, 39, 32, 32].map(|bits| (1 << bits) - 3);
        let sum = |counter: usize| {
            let steps = steps(all, counter, most[counter]);
            let sum = steps.iter().map(|(grew, _)| grew * UNITS[counter]).sum();
            (!steps.is_empty()).then_some(sum)
        };
        let cpu = steps(all, 0, most[0]);
        let rates = cpu
            .iter()
            .map(|(grew, millis)| *grew as f64 / *millis as f64);
        let totals = cpu
            .iter()
            .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        let restarts = all.iter().skip(1).map(|(_, sample)| sample.restarts.min(7));
        Aggregates {
            samples: all.len() as u64,
            start: all.first().map(|(at, _)| now.wall_time_at(*at)),
            end: all.last().map(|(at, _)| now.wall_time_at(*at)),
            cpu_percent: (!cpu.is_empty()).then(|| MinAvgMax {
                average: totals.0 as f64 / totals.1 as f64,
                peak: rates.clone().fold(f64::MIN, f64::max),
                minimum: rates.fold(f64::MAX, f64::min),
            }),
            memory: min_avg_max(&levels(all, 4096, 33, |sample| sample.memory)),
            received: sum(1),
            sent: sum(2),
            read: sum(3),
            written: sum(4),
            pids: min_avg_max(&levels(all, 1, 22, |sample| sample.pids)),
            restarts: restarts.sum(),
        }
    }

    proptest! {
        // What it once failed with is no part of the sources.
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_window_says_what_whoever_kept_every_sample_would_say(
            taken in prop::collection::vec(taken(), 0..60),
            capacity in 2_usize..40,
            resized in prop::option::of((0_usize..60, 2_usize..40)),
            window in prop_oneof![1_u64..100_000, Just(u64::MAX >> 32)],
            late in 0_u64..20_000,
        ) {
            let mut ring = Ring::new(capacity);
            let mut all = Vec::new();
            let mut at = BootInstant::from_millis(1_000_000);
            let mut kept = capacity;
            for (n, (after, sample)) in taken.iter().enumerate() {
                at = at.plus_millis(*after);
                ring.push(at, sample);
                all.push((at, *sample));
                let forget = all.len().saturating_sub(kept);
                all.drain(..forget);
                if let Some((when, capacity)) = resized && when == n {
                    ring.resize(capacity);
                    kept = capacity;
                    let forget = all.len().saturating_sub(kept);
                    all.drain(..forget);
                }
            }
            let now = ClockReading::new(at.plus_millis(late), NOW);
            let from = now.boot.saturating_sub(Duration::from_millis(window));
            let seen: Vec<_> = all.iter().copied().filter(|(at, _)| *at >= from).collect();
            prop_assert_eq!(aggregates(ring.since(from), now), oracle(&seen, now));

            // And one by one.
            let points: Vec<_> = points(ring.iter(), now).collect();
            prop_assert_eq!(points.len(), all.len());
            prop_assert_eq!(latest(&ring, now), points.last().copied());
            let read: Vec<_> = points.iter().filter_map(|point| point.read).collect();
            let expected: Vec<_> = steps(&all, 3, (1 << 32) - 3);
            let expected: Vec<_> = expected.iter().map(|(grew, millis)| Increase {
                amount: grew * 512,
                over: Duration::from_millis(*millis),
            }).collect();
            prop_assert_eq!(read, expected);
            for (point, (at, sample)) in points.iter().zip(&all) {
                prop_assert_eq!(point.age, now.boot.duration_since(*at));
                prop_assert_eq!(point.restarts, sample.restarts.min(7));
            }
        }
    }

    fn window(samples: &[(u64, Sample)]) -> Aggregates {
        let mut ring = Ring::new(samples.len().max(2));
        for (seconds, sample) in samples {
            ring.push(BootInstant::from_millis(seconds * 1000), sample);
        }
        let now = ClockReading::new(BootInstant::from_millis(60_000), NOW);
        aggregates(ring.iter(), now)
    }

    fn cpu(millis: u64) -> Sample {
        Sample {
            cpu: Some(Duration::from_millis(millis)),
            ..Sample::default()
        }
    }

    #[test]
    fn one_core_is_100_percent_and_a_peak_is_between_two_samples() {
        let said = window(&[
            (10, cpu(0)),
            (15, cpu(2500)),
            (20, cpu(12_500)),
            (25, cpu(13_000)),
        ]);
        let spread = MinAvgMax {
            average: 13_000.0 / 150.0,
            peak: 200.0,
            minimum: 10.0,
        };
        assert_eq!(said.cpu_percent, Some(spread));
        let (start, end) = (Duration::from_secs(999_950), Duration::from_secs(999_965));
        assert_eq!(
            (said.samples, said.start, said.end),
            (4, Some(start), Some(end))
        );
    }

    #[test]
    fn one_sample_says_how_much_memory_there_was_and_nothing_of_cpu_time() {
        let sample = Sample {
            memory: Some(8192),
            received: Some(7),
            restarts: 3,
            ..cpu(500)
        };
        let said = window(&[(10, sample)]);
        assert_eq!(
            (said.cpu_percent, said.received, said.restarts),
            (None, None, 0)
        );
        let memory = said.memory.unwrap();
        assert_eq!((memory.peak, memory.minimum), (8192, 8192));
        assert_eq!(window(&[]), Aggregates::default());
    }

    #[test]
    fn a_container_that_was_started_anew_counts_from_0() {
        let anew = Sample {
            usage_baseline: Baseline::Zero,
            restarts: 1,
            ..cpu(1000)
        };
        // Its second run has used more than the first.
        let said = window(&[(10, cpu(900)), (20, anew)]);
        assert_eq!(said.cpu_percent.unwrap().peak, 10.0);
        assert_eq!(said.restarts, 1);
        // Nobody knows why.
        let said = window(&[(10, cpu(900)), (20, cpu(100)), (30, cpu(1100))]);
        let spread = said.cpu_percent.unwrap();
        assert_eq!((spread.average, spread.minimum), (10.0, 10.0));
    }

    #[test]
    fn what_a_sample_lacks_is_counted_in_the_next() {
        let said = window(&[(10, cpu(0)), (15, Sample::default()), (20, cpu(5000))]);
        assert_eq!(said.cpu_percent.unwrap().average, 50.0);
        assert_eq!(said.samples, 3);
        assert_eq!((said.memory, said.read), (None, None));
    }
}
