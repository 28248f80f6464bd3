//! Ring buffer of the last samples of one series, each packed into 32 bytes.

use std::time::Duration;

use super::{
    monotonic::BootInstant,
    packed::{
        COUNTER_COUNT, CPU, CounterDelta, CounterField, ELAPSED_MILLIS, MEMORY, PIDS, PackedSample,
        READ, RECEIVED, RESTARTS, SENT, WRITTEN,
    },
};

/// The state of a container, or of the host, at one time. Unknown values are `None`, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// CPU time on all CPUs.
    pub cpu: Option<Duration>,
    /// Memory usage in bytes.
    pub memory: Option<u64>,
    /// Bytes received.
    pub received: Option<u64>,
    /// Bytes sent.
    pub sent: Option<u64>,
    /// Bytes read from disks.
    pub read: Option<u64>,
    /// Bytes written to disks.
    pub written: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Number of restarts since the previous sample.
    pub restarts: u64,
    /// Baseline of CPU time and disk I/O.
    pub usage_baseline: Baseline,
    /// Baseline of network traffic.
    pub traffic_baseline: Baseline,
}

/// The value that a counter's increase is relative to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Baseline {
    /// The previous sample. If the counter is below it, the increase is unknown.
    #[default]
    Previous,
    /// Zero: the counter was reset after the previous sample.
    Zero,
    /// Unknown: another counter than that of the previous sample.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Ring {
    points: Vec<PackedSample>,
    capacity: usize,
    /// Index of the oldest point once the ring is full.
    head: usize,
    newest: BootInstant,
    /// Last known values of the counters, in their units.
    last_values: [Option<u64>; COUNTER_COUNT],
}

impl Ring {
    /// Creates an empty ring and allocates all its memory.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            points: Vec::with_capacity(capacity),
            capacity,
            head: 0,
            newest: BootInstant::default(),
            last_values: [None; COUNTER_COUNT],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The time of the last sample, if there is one.
    pub(super) fn newest(&self) -> Option<BootInstant> {
        (!self.points.is_empty()).then_some(self.newest)
    }

    /// Adds a sample; it is dropped unless it is at least a millisecond later than the last one.
    pub(super) fn push(&mut self, at: BootInstant, sample: &Sample) {
        let mut elapsed = at.millis_since(self.newest);
        if !self.points.is_empty() && elapsed == 0 {
            return;
        }
        if elapsed > ELAPSED_MILLIS.max() {
            self.points.clear();
            self.head = 0;
            self.last_values = [None; COUNTER_COUNT];
        }
        if self.points.is_empty() {
            elapsed = 0;
        }
        let mut point = PackedSample::default();
        point.set(ELAPSED_MILLIS, elapsed);
        point.set(RESTARTS, sample.restarts.min(RESTARTS.max()));
        point.set_gauge(MEMORY, sample.memory);
        point.set_gauge(PIDS, sample.pids);
        let cpu = sample.cpu.map(|cpu| cpu.as_micros());
        let cpu = cpu.and_then(|cpu| u64::try_from(cpu).ok());
        for (counter, baseline, value) in [
            (CPU, sample.usage_baseline, cpu),
            (RECEIVED, sample.traffic_baseline, sample.received),
            (SENT, sample.traffic_baseline, sample.sent),
            (READ, sample.usage_baseline, sample.read),
            (WRITTEN, sample.usage_baseline, sample.written),
        ] {
            let delta = self.delta(counter, baseline, value);
            point.set_delta(counter, delta);
        }
        self.newest = at;
        self.push_packed(point);
    }

    fn delta(
        &mut self,
        counter: CounterField,
        baseline: Baseline,
        value: Option<u64>,
    ) -> CounterDelta {
        let Some(last) = self.last_values.get_mut(counter.index) else {
            return CounterDelta::Missing;
        };
        match baseline {
            Baseline::Previous => {}
            Baseline::Zero => *last = last.map(|_| 0),
            Baseline::Unknown => *last = None,
        }
        let Some(value) = value.map(|value| value / counter.unit) else {
            return CounterDelta::Missing;
        };
        let increase = last.and_then(|last| value.checked_sub(last));
        *last = Some(value);
        increase.map_or(CounterDelta::NoBaseline, CounterDelta::Increased)
    }

    fn push_packed(&mut self, point: PackedSample) {
        if self.points.len() < self.capacity {
            self.points.push(point);
            return;
        }
        if let Some(oldest) = self.points.get_mut(self.head) {
            *oldest = point;
        }
        self.head = (self.head + 1) % self.capacity.max(1);
    }

    /// All points, from the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BootInstant, &PackedSample)> {
        self.tail(self.points.len())
    }

    /// The last `count` points.
    pub(super) fn tail(&self, count: usize) -> impl Iterator<Item = (BootInstant, &PackedSample)> {
        let count = count.min(self.points.len());
        let later = self.ordered().rev().take(count.saturating_sub(1));
        let millis = later.map(|point| point.get(ELAPSED_MILLIS)).sum();
        self.iter_last(count, self.newest.minus_millis(millis))
    }

    /// The points taken at `from` or later.
    pub(super) fn since(
        &self,
        from: BootInstant,
    ) -> impl Iterator<Item = (BootInstant, &PackedSample)> {
        let (mut at, mut first, mut count) = (self.newest, self.newest, 0);
        for point in self.ordered().rev() {
            if at < from {
                break;
            }
            (first, count) = (at, count + 1);
            at = at.minus_millis(point.get(ELAPSED_MILLIS));
        }
        self.iter_last(count, first)
    }

    /// The last `count` points, of which the first was taken at `first`.
    fn iter_last(
        &self,
        count: usize,
        first: BootInstant,
    ) -> impl Iterator<Item = (BootInstant, &PackedSample)> {
        let last = self.ordered().skip(self.points.len() - count);
        let mut at = first;
        last.enumerate().map(move |(n, point)| {
            if n > 0 {
                at = at.plus_millis(point.get(ELAPSED_MILLIS));
            }
            (at, point)
        })
    }

    fn ordered(&self) -> impl DoubleEndedIterator<Item = &PackedSample> {
        let (new, old) = self.points.split_at(self.head.min(self.points.len()));
        old.iter().chain(new)
    }

    /// Changes the capacity; the newest points are retained.
    pub(super) fn resize(&mut self, capacity: usize) {
        let mut points = Vec::with_capacity(capacity);
        points.extend(self.tail(capacity).map(|(_, point)| *point));
        self.points = points;
        self.head = 0;
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_sample(pages: u64) -> Sample {
        Sample {
            memory: Some(pages << 12),
            ..Sample::default()
        }
    }

    fn filled(capacity: usize, samples: u64) -> Ring {
        let mut ring = Ring::new(capacity);
        for n in 1..=samples {
            ring.push(
                BootInstant::from_millis(1000 * n + n * n),
                &memory_sample(n),
            );
        }
        ring
    }

    fn timestamps_and_pages(ring: &Ring) -> Vec<(BootInstant, u64)> {
        let points = ring.iter();
        let pages = points.map(|(at, point)| (at, point.gauge(MEMORY).unwrap() >> 12));
        pages.collect()
    }

    fn expected(samples: std::ops::RangeInclusive<u64>) -> Vec<(BootInstant, u64)> {
        samples
            .map(|n| (BootInstant::from_millis(1000 * n + n * n), n))
            .collect()
    }

    #[test]
    fn full_ring_drops_oldest_points() {
        assert_eq!(timestamps_and_pages(&filled(5, 3)), expected(1..=3));
        assert_eq!(timestamps_and_pages(&filled(5, 5)), expected(1..=5));
        assert_eq!(timestamps_and_pages(&filled(5, 13)), expected(9..=13));
        assert_eq!(
            filled(5, 13).newest(),
            Some(BootInstant::from_millis(13_169))
        );
        assert_eq!(filled(5, 0).newest(), None);
    }

    #[test]
    fn tail_and_since_return_newest_points() {
        for ring in [filled(13, 13), filled(5, 13)] {
            let timestamps = |it: &mut dyn Iterator<Item = (BootInstant, &PackedSample)>| {
                it.map(|(at, _)| at).collect::<Vec<_>>()
            };
            let at = |n: u64| BootInstant::from_millis(1000 * n + n * n);
            assert_eq!(timestamps(&mut ring.tail(2)), [at(12), at(13)]);
            assert_eq!(timestamps(&mut ring.since(at(12))), [at(12), at(13)]);
            assert_eq!(timestamps(&mut ring.since(at(12).plus_millis(1))), [at(13)]);
            assert!(timestamps(&mut ring.since(at(14))).is_empty());
            assert!(timestamps(&mut ring.tail(0)).is_empty());
            let all = timestamps(&mut ring.iter());
            assert_eq!(timestamps(&mut ring.tail(99)), all);
            assert_eq!(
                timestamps(&mut ring.since(BootInstant::from_millis(0))),
                all
            );
        }
    }

    #[test]
    fn shrunk_ring_retains_newest_and_grows_again() {
        let mut ring = filled(5, 13);
        ring.resize(3);
        assert_eq!(timestamps_and_pages(&ring), expected(11..=13));
        for n in 14..=15 {
            ring.push(
                BootInstant::from_millis(1000 * n + n * n),
                &memory_sample(n),
            );
        }
        assert_eq!(timestamps_and_pages(&ring), expected(13..=15));
        ring.resize(4);
        for n in 16..=18 {
            ring.push(
                BootInstant::from_millis(1000 * n + n * n),
                &memory_sample(n),
            );
        }
        assert_eq!(
            (timestamps_and_pages(&ring), ring.capacity()),
            (expected(15..=18), 4)
        );
    }

    #[test]
    fn push_does_not_allocate() {
        let mut ring = Ring::new(5);
        let before = ring.points.as_ptr();
        for n in 1..50 {
            ring.push(BootInstant::from_millis(n), &memory_sample(n));
        }
        assert_eq!((ring.points.as_ptr(), ring.points.capacity()), (before, 5));
    }

    #[test]
    fn rejects_samples_from_the_past() {
        let mut ring = filled(5, 3);
        ring.push(BootInstant::from_millis(3009), &memory_sample(9));
        ring.push(BootInstant::from_millis(1), &memory_sample(9));
        assert_eq!(timestamps_and_pages(&ring), expected(1..=3));
    }

    #[test]
    fn long_gap_clears_the_ring() {
        let mut ring = filled(5, 3);
        let later = BootInstant::from_millis(3009 + ELAPSED_MILLIS.max() + 1);
        ring.push(later, &memory_sample(7));
        assert_eq!(timestamps_and_pages(&ring), [(later, 7)]);
    }
}
