//! Samples as points, and aggregates over a time window.
//!
//! The increase of a counter is known between two samples that have it. It is counted if both are
//! in the window, and so is the time between them, during which a container that was gone used
//! nothing. After a restart a counter starts from 0; the increase of one that decreased without a
//! restart is unknown.

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

/// A sample, and the changes since the previous one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// When it was taken, since the Unix epoch by the current setting of the clock.
    pub at: Duration,
    /// Time since it was taken.
    pub age: Duration,
    /// CPU usage in percent since the last known value: 100 is one core.
    pub cpu_percent: Option<f64>,
    /// Memory usage in bytes, in pages of 4 KiB.
    pub memory: Option<u64>,
    /// Bytes received since the last known value.
    pub received: Option<Increase>,
    /// Bytes sent since the last known value.
    pub sent: Option<Increase>,
    /// Bytes read from disks since the last known value.
    pub read: Option<Increase>,
    /// Bytes written to disks since the last known value.
    pub written: Option<Increase>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Number of restarts since the previous sample, at most 7.
    pub restarts: u64,
}

/// Increase of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Increase {
    /// The increase.
    pub amount: u64,
    /// The time in which it occurred.
    pub over: Duration,
}

impl Increase {
    /// The increase per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate is approximate")]
    pub fn per_second(self) -> f64 {
        self.amount as f64 / self.over.as_secs_f64()
    }
}

/// Aggregates of the samples in a window. Values that no sample has are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Aggregates {
    /// Number of samples.
    pub samples: u64,
    /// When the first was taken, since the Unix epoch.
    pub start: Option<Duration>,
    /// When the last was taken.
    pub end: Option<Duration>,
    /// CPU usage in percent: 100 is one core. The average is over the time in which it is known;
    /// peak and minimum are between two samples.
    pub cpu_percent: Option<MinAvgMax<f64>>,
    /// Memory usage in bytes. The average is over the samples.
    pub memory: Option<MinAvgMax<u64>>,
    /// Bytes received.
    pub received: Option<u64>,
    /// Bytes sent.
    pub sent: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Processes and threads. The average is over the samples.
    pub pids: Option<MinAvgMax<u64>>,
    /// Number of restarts between the first sample and the last.
    pub restarts: u64,
}

/// Distribution of a value over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinAvgMax<T> {
    /// Mean.
    pub average: f64,
    /// Maximum.
    pub peak: T,
    /// Minimum.
    pub minimum: T,
}

/// Maximum length of a window; longer than any ring.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 86400);

/// Parses a window parameter and checks its range.
pub fn parse_window(text: &str) -> Result<Duration, String> {
    let window = duration::parse(text).map_err(|error| format!("window: {error}"))?;
    if window < Duration::from_secs(1) || window > MAX_WINDOW {
        return Err(format!("window must be between 1s and 744h: {text:?}"));
    }
    Ok(window)
}

const ALL_COUNTERS: [CounterField; COUNTER_COUNT] = [CPU, RECEIVED, SENT, READ, WRITTEN];

/// Percent of one core: 10 µs per ms.
#[expect(clippy::cast_precision_loss, reason = "a rate is approximate")]
fn percent(amount: u64, millis: u64) -> f64 {
    amount as f64 / millis as f64
}

/// When each counter was last known.
#[derive(Debug, Default)]
struct LastKnown([Option<BootInstant>; COUNTER_COUNT]);

impl LastKnown {
    /// The increase of a counter since it was last known, in its unit, and the time in
    /// milliseconds.
    fn increase(
        &mut self,
        counter: CounterField,
        at: BootInstant,
        point: &PackedSample,
    ) -> Option<(u64, u64)> {
        let last = self.0.get_mut(counter.index)?;
        let increase = match point.delta(counter) {
            CounterDelta::Missing => return None,
            CounterDelta::NoBaseline => None,
            CounterDelta::Increased(amount) => last.map(|then| (amount, at.millis_since(then))),
        };
        *last = Some(at);
        increase
    }
}

/// Converts packed samples to points.
pub(super) fn points<'a>(
    samples: impl Iterator<Item = (BootInstant, &'a PackedSample)>,
    now: ClockReading,
) -> impl Iterator<Item = Point> {
    let mut last_known = LastKnown::default();
    samples.map(move |(at, packed)| {
        let cpu = last_known.increase(CPU, at, packed);
        let mut increase = |counter: CounterField| {
            let (amount, millis) = last_known.increase(counter, at, packed)?;
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
    // Usually the previous point has all counters that the newest has.
    let (_, newest) = ring.tail(1).next()?;
    let has = |point: &PackedSample, counter| point.delta(counter) != CounterDelta::Missing;
    let mut before = ring.tail(2).map(|(_, point)| point);
    let before = before.next().filter(|_| ring.len() > 1);
    let is_enough = before.is_some_and(|before| {
        let mut counters = ALL_COUNTERS.into_iter();
        counters.all(|counter| has(before, counter) || !has(newest, counter))
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

/// A gauge over a window.
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

    #[expect(clippy::cast_precision_loss, reason = "a mean is approximate")]
    fn min_avg_max(&self) -> Option<MinAvgMax<u64>> {
        let (peak, minimum) = self.min_max?;
        Some(MinAvgMax {
            average: self.sum as f64 / self.count as f64,
            peak,
            minimum,
        })
    }
}

/// Aggregates the samples.
pub(super) fn aggregates<'a>(
    samples: impl Iterator<Item = (BootInstant, &'a PackedSample)>,
    now: ClockReading,
) -> Aggregates {
    let mut all = Aggregates::default();
    let mut last_known = LastKnown::default();
    let mut counter_stats: [CounterStats; COUNTER_COUNT] = Default::default();
    let (mut memory, mut pids) = (GaugeStats::default(), GaugeStats::default());
    for (at, point) in samples {
        if all.samples > 0 {
            all.restarts = all.restarts.saturating_add(point.get(RESTARTS));
        }
        all.samples += 1;
        all.start = all.start.or_else(|| Some(now.wall_time_at(at)));
        all.end = Some(now.wall_time_at(at));
        for (stats, counter) in counter_stats.iter_mut().zip(ALL_COUNTERS) {
            stats.add(last_known.increase(counter, at, point));
        }
        memory.add(point.gauge(MEMORY));
        pids.add(point.gauge(PIDS));
    }
    let [cpu, received, sent, read, written] = &counter_stats;
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
    reason = "the oracle computes the same quotients"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::history::ring::{Baseline, Sample};

    const NOW: Duration = Duration::from_secs(1_000_000);

    /// Bytes or microseconds per unit, in the order of the counters.
    const UNITS: [u64; COUNTER_COUNT] = [10, 1, 1, 512, 512];

    /// Milliseconds since the previous sample, and the sample.
    type TimedSample = (u64, Sample);

    fn baseline() -> impl Strategy<Value = Baseline> {
        prop_oneof![8 => Just(Baseline::Previous), 1 => Just(Baseline::Zero), 1 => Just(Baseline::Unknown)]
    }

    /// Mostly realistic counter values, sometimes any number.
    fn number() -> impl Strategy<Value = Option<u64>> {
        prop_oneof![
            8 => (0_u64..1 << 20).prop_map(Some),
            1 => Just(None),
            1 => any::<u64>().prop_map(|n| Some(n >> (n % 64))),
        ]
    }

    prop_compose! {
        fn timed_sample()(
            after in prop_oneof![9 => 1_u64..10_000, 1 => 1_u64..10_000_000],
            [cpu, memory, received, sent, read, written, pids] in
                [number(), number(), number(), number(), number(), number(), number()],
            restarts in prop_oneof![4 => Just(0), 1 => 0_u64..12],
            usage_baseline in baseline(),
            traffic_baseline in baseline(),
        ) -> TimedSample {
            let sample = Sample {
                cpu: cpu.map(Duration::from_micros),
                memory, received, sent, read, written, pids, restarts, usage_baseline, traffic_baseline,
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

    /// Increases of a counter between each two samples that have it, in its unit, and the
    /// milliseconds between them; implemented as simply as possible.
    fn steps(all: &[(BootInstant, Sample)], counter: usize, max: u64) -> Vec<(u64, u64)> {
        let unit = UNITS[counter];
        let mut steps = Vec::new();
        for (n, (then, before)) in all.iter().enumerate() {
            let Some(old) = counters(before)[counter].0 else {
                continue;
            };
            let later = all.iter().enumerate().skip(n + 1);
            let mut later = later.filter(|(_, (_, s))| counters(s)[counter].0.is_some());
            let Some((m, (now, after))) = later.next() else {
                continue;
            };
            let new = counters(after)[counter].0.unwrap() / unit;
            // The baselines from one sample to the other.
            let mut baselines = all[n + 1..=m].iter().map(|(_, s)| counters(s)[counter].1);
            let base = baselines.try_fold(old / unit, |base, since| match since {
                Baseline::Previous => Some(base),
                Baseline::Zero => Some(0),
                Baseline::Unknown => None,
            });
            match base.and_then(|base| new.checked_sub(base)) {
                Some(increase) if increase <= max => {
                    steps.push((increase, now.millis_since(*then)));
                }
                _ => {}
            }
        }
        steps
    }

    /// The values that fit into a point.
    fn levels(
        all: &[(BootInstant, Sample)],
        unit: u64,
        bits: u32,
        value_of: fn(&Sample) -> Option<u64>,
    ) -> Vec<u64> {
        let values = all.iter().filter_map(|(_, sample)| value_of(sample));
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
        let max = [31, 39, 39, 32, 32].map(|bits| (1 << bits) - 3);
        let sum = |counter: usize| {
            let steps = steps(all, counter, max[counter]);
            let sum = steps
                .iter()
                .map(|(increase, _)| increase * UNITS[counter])
                .sum();
            (!steps.is_empty()).then_some(sum)
        };
        let cpu = steps(all, 0, max[0]);
        let rates = cpu
            .iter()
            .map(|(increase, millis)| *increase as f64 / *millis as f64);
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
        // Failures are not persisted in the source tree.
        #![proptest_config(ProptestConfig {
            cases: 512,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn aggregates_match_the_oracle(
            samples in prop::collection::vec(timed_sample(), 0..60),
            capacity in 2_usize..40,
            resized in prop::option::of((0_usize..60, 2_usize..40)),
            window in prop_oneof![1_u64..100_000, Just(u64::MAX >> 32)],
            late in 0_u64..20_000,
        ) {
            let mut ring = Ring::new(capacity);
            let mut all = Vec::new();
            let mut at = BootInstant::from_millis(1_000_000);
            let mut retained = capacity;
            for (n, (after, sample)) in samples.iter().enumerate() {
                at = at.plus_millis(*after);
                ring.push(at, sample);
                all.push((at, *sample));
                let excess = all.len().saturating_sub(retained);
                all.drain(..excess);
                if let Some((when, capacity)) = resized && when == n {
                    ring.resize(capacity);
                    retained = capacity;
                    let excess = all.len().saturating_sub(retained);
                    all.drain(..excess);
                }
            }
            let now = ClockReading::new(at.plus_millis(late), NOW);
            let from = now.boot.saturating_sub(Duration::from_millis(window));
            let in_window: Vec<_> = all.iter().copied().filter(|(at, _)| *at >= from).collect();
            prop_assert_eq!(aggregates(ring.since(from), now), oracle(&in_window, now));

            // The same for the individual points.
            let points: Vec<_> = points(ring.iter(), now).collect();
            prop_assert_eq!(points.len(), all.len());
            prop_assert_eq!(latest(&ring, now), points.last().copied());
            let read: Vec<_> = points.iter().filter_map(|point| point.read).collect();
            let expected: Vec<_> = steps(&all, 3, (1 << 32) - 3);
            let expected: Vec<_> = expected.iter().map(|(increase, millis)| Increase {
                amount: increase * 512,
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
    fn cpu_peak_is_between_two_samples() {
        let aggregates = window(&[
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
        assert_eq!(aggregates.cpu_percent, Some(spread));
        let (start, end) = (Duration::from_secs(999_950), Duration::from_secs(999_965));
        assert_eq!(
            (aggregates.samples, aggregates.start, aggregates.end),
            (4, Some(start), Some(end))
        );
    }

    #[test]
    fn one_sample_has_gauges_but_no_increases() {
        let sample = Sample {
            memory: Some(8192),
            received: Some(7),
            restarts: 3,
            ..cpu(500)
        };
        let aggregates = window(&[(10, sample)]);
        assert_eq!(
            (
                aggregates.cpu_percent,
                aggregates.received,
                aggregates.restarts
            ),
            (None, None, 0)
        );
        let memory = aggregates.memory.unwrap();
        assert_eq!((memory.peak, memory.minimum), (8192, 8192));
        assert_eq!(window(&[]), Aggregates::default());
    }

    #[test]
    fn restarted_container_counts_from_zero() {
        let restarted = Sample {
            usage_baseline: Baseline::Zero,
            restarts: 1,
            ..cpu(1000)
        };
        // The second run used more than the first.
        let aggregates = window(&[(10, cpu(900)), (20, restarted)]);
        assert_eq!(aggregates.cpu_percent.unwrap().peak, 10.0);
        assert_eq!(aggregates.restarts, 1);
        // Without a known restart the increase is unknown.
        let aggregates = window(&[(10, cpu(900)), (20, cpu(100)), (30, cpu(1100))]);
        let spread = aggregates.cpu_percent.unwrap();
        assert_eq!((spread.average, spread.minimum), (10.0, 10.0));
    }

    #[test]
    fn missing_values_are_counted_in_the_next_sample() {
        let aggregates = window(&[(10, cpu(0)), (15, Sample::default()), (20, cpu(5000))]);
        assert_eq!(aggregates.cpu_percent.unwrap().average, 50.0);
        assert_eq!(aggregates.samples, 3);
        assert_eq!((aggregates.memory, aggregates.read), (None, None));
    }
}
