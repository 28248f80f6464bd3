//! One point in 32 bytes: the increases of counters since the previous point, and the values of
//! gauges.
//!
//! | value | unit | bits | maximum, in 5 s |
//! | --- | --- | --- | --- |
//! | time since the previous point | 1 ms | 25 | 9 hours |
//! | CPU time | 10 µs | 31 | 4,294 CPUs |
//! | memory | 4 KiB | 33 | 32 TiB |
//! | received, sent | 1 byte | 39 each | 880 Gbit/s |
//! | read, written | 512 bytes | 32 each | 440 GB/s |
//! | tasks | 1 | 22 | all that Linux allows |
//! | restarts since the previous point | 1 | 3 | 7 |
//!
//! The kernel counts memory of cgroups in whole pages and their I/O in sectors, so only CPU time
//! loses precision, and that does not accumulate: counters are divided, not their increases. Values
//! that do not fit are stored as missing, like those that could not be read, except restarts.

/// Size of a point in bytes.
pub(super) const PACKED_SIZE: usize = size_of::<PackedSample>();

const _: () = assert!(PACKED_SIZE == 32, "a point must take 32 bytes");

/// A point in the layout described above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PackedSample([u64; 4]);

/// Position of a value in a point.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitField {
    word: usize,
    shift: u32,
    bits: u32,
}

/// Milliseconds since the previous point.
pub(super) const ELAPSED_MILLIS: BitField = BitField::new(0, 39, 25);
/// Number of restarts since the previous point.
pub(super) const RESTARTS: BitField = BitField::new(1, 61, 3);

/// A value that increases and decreases.
#[derive(Debug, Clone, Copy)]
pub(super) struct GaugeField {
    field: BitField,
    unit: u64,
}

pub(super) const MEMORY: GaugeField = GaugeField {
    field: BitField::new(3, 0, 33),
    unit: 4096,
};
pub(super) const PIDS: GaugeField = GaugeField {
    field: BitField::new(1, 39, 22),
    unit: 1,
};

/// A value that only increases.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterField {
    /// Its index among the counters.
    pub(super) index: usize,
    field: BitField,
    pub(super) unit: u64,
}

/// Number of counters.
pub(super) const COUNTER_COUNT: usize = 5;

/// In microseconds.
pub(super) const CPU: CounterField = CounterField::new(0, BitField::new(3, 33, 31), 10);
pub(super) const RECEIVED: CounterField = CounterField::new(1, BitField::new(0, 0, 39), 1);
pub(super) const SENT: CounterField = CounterField::new(2, BitField::new(1, 0, 39), 1);
pub(super) const READ: CounterField = CounterField::new(3, BitField::new(2, 0, 32), 512);
pub(super) const WRITTEN: CounterField = CounterField::new(4, BitField::new(2, 32, 32), 512);

/// Increase of a counter since its last known value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CounterDelta {
    /// The counter could not be read.
    Missing,
    /// The counter was read, but its increase is unknown.
    NoBaseline,
    /// The counter increased by this many units.
    Increased(u64),
}

impl BitField {
    const fn new(word: usize, shift: u32, bits: u32) -> Self {
        Self { word, shift, bits }
    }

    pub(super) const fn max(self) -> u64 {
        (1 << self.bits) - 1
    }
}

impl PackedSample {
    pub(super) fn get(&self, field: BitField) -> u64 {
        let word = self.0.get(field.word).copied().unwrap_or_default();
        (word >> field.shift) & field.max()
    }

    /// Stores a value, which must fit.
    pub(super) fn set(&mut self, field: BitField, value: u64) {
        if let Some(word) = self.0.get_mut(field.word) {
            *word &= !(field.max() << field.shift);
            *word |= (value & field.max()) << field.shift;
        }
    }

    pub(super) fn gauge(&self, gauge: GaugeField) -> Option<u64> {
        let value = self.get(gauge.field);
        (value != gauge.field.max()).then(|| value.saturating_mul(gauge.unit))
    }

    pub(super) fn set_gauge(&mut self, gauge: GaugeField, value: Option<u64>) {
        let value = value.map(|value| value / gauge.unit);
        let value = value.filter(|value| *value < gauge.field.max());
        self.set(gauge.field, value.unwrap_or(gauge.field.max()));
    }

    pub(super) fn delta(&self, counter: CounterField) -> CounterDelta {
        let max = counter.field.max();
        match self.get(counter.field) {
            value if value == max => CounterDelta::Missing,
            value if value == max - 1 => CounterDelta::NoBaseline,
            value => CounterDelta::Increased(value),
        }
    }

    pub(super) fn set_delta(&mut self, counter: CounterField, delta: CounterDelta) {
        let max = counter.field.max();
        let value = match delta {
            CounterDelta::Missing => max,
            CounterDelta::Increased(value) if value < max - 1 => value,
            CounterDelta::NoBaseline | CounterDelta::Increased(_) => max - 1,
        };
        self.set(counter.field, value);
    }
}

impl CounterField {
    const fn new(index: usize, field: BitField, unit: u64) -> Self {
        Self { index, field, unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_COUNTERS: [CounterField; COUNTER_COUNT] = [CPU, RECEIVED, SENT, READ, WRITTEN];

    #[test]
    fn fields_do_not_overlap() {
        let fields = ALL_COUNTERS.map(|counter| counter.field);
        let all = [ELAPSED_MILLIS, RESTARTS, MEMORY.field, PIDS.field];
        let fields = [fields.as_slice(), &all].concat();
        let bits: u32 = fields.iter().map(|field| field.bits).sum();
        assert_eq!(bits, 256);
        for (n, field) in fields.iter().enumerate() {
            let mut point = PackedSample::default();
            point.set(*field, u64::MAX);
            for (m, other) in fields.iter().enumerate() {
                let expected = if n == m { other.max() } else { 0 };
                assert_eq!(point.get(*other), expected, "{field:?} and {other:?}");
            }
            point.set(*field, 0);
            assert_eq!(point, PackedSample::default());
        }
        for (at, counter) in ALL_COUNTERS.iter().enumerate() {
            assert_eq!(counter.index, at);
        }
    }

    #[test]
    fn values_that_do_not_fit_are_missing() {
        let mut point = PackedSample::default();
        for gauge in [MEMORY, PIDS] {
            let max = (gauge.field.max() - 1) * gauge.unit;
            point.set_gauge(gauge, Some(max));
            assert_eq!(point.gauge(gauge), Some(max));
            for unrepresentable in [None, Some(max + gauge.unit), Some(u64::MAX)] {
                point.set_gauge(gauge, unrepresentable);
                assert_eq!(point.gauge(gauge), None);
            }
        }
        for counter in ALL_COUNTERS {
            let max = counter.field.max() - 2;
            for delta in [
                CounterDelta::Missing,
                CounterDelta::NoBaseline,
                CounterDelta::Increased(0),
                CounterDelta::Increased(max),
            ] {
                point.set_delta(counter, delta);
                assert_eq!(point.delta(counter), delta);
            }
            point.set_delta(counter, CounterDelta::Increased(max + 1));
            assert_eq!(point.delta(counter), CounterDelta::NoBaseline);
        }
    }
}
