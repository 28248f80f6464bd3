//! One point in 32 bytes: how much counters grew since the point before, and what there
//! is of the rest.
//!
//! | what | unit | bits | up to, in 5 s |
//! | --- | --- | --- | --- |
//! | time since the point before | 1 ms | 25 | 9 hours |
//! | CPU time | 10 µs | 31 | 4,294 CPUs |
//! | memory | 4 KiB | 33 | 32 TiB |
//! | received, sent | 1 byte | 39 each | 880 Gbit/s |
//! | read, written | 512 bytes | 32 each | 440 GB/s |
//! | tasks | 1 | 22 | all that Linux allows |
//! | restarts since the point before | 1 | 3 | 7 |
//!
//! The kernel counts memory of groups in whole pages and their I/O in sectors, so that only
//! CPU time loses something, and never adds that up: counters are divided, not what they
//! grew by. What does not fit is unknown, as what could not be read is, but of restarts.

/// How many bytes a point takes.
pub(super) const PACKED_SIZE: usize = size_of::<PackedSample>();

const _: () = assert!(PACKED_SIZE == 32, "a point takes 32 bytes");

/// A point; see the module's documentation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PackedSample([u64; 4]);

/// Where in a point a number is.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitField {
    word: usize,
    shift: u32,
    bits: u32,
}

/// Milliseconds since the point before.
pub(super) const ELAPSED_MILLIS: BitField = BitField::new(0, 39, 25);
/// How often it was started since the point before.
pub(super) const RESTARTS: BitField = BitField::new(1, 61, 3);

/// What goes up and down.
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

/// What only grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterField {
    /// Its place among the counters.
    pub(super) index: usize,
    field: BitField,
    pub(super) unit: u64,
}

/// How many counters there are.
pub(super) const COUNTER_COUNT: usize = 5;

/// In microseconds.
pub(super) const CPU: CounterField = CounterField::new(0, BitField::new(3, 33, 31), 10);
pub(super) const RECEIVED: CounterField = CounterField::new(1, BitField::new(0, 0, 39), 1);
pub(super) const SENT: CounterField = CounterField::new(2, BitField::new(1, 0, 39), 1);
pub(super) const READ: CounterField = CounterField::new(3, BitField::new(2, 0, 32), 512);
pub(super) const WRITTEN: CounterField = CounterField::new(4, BitField::new(2, 32, 32), 512);

/// What became of a counter since it was last known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CounterDelta {
    /// It is not known.
    Missing,
    /// It is known, but not by how much it grew.
    NoBaseline,
    /// It grew by so much, in its unit.
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

    /// The number must fit.
    pub(super) fn set(&mut self, field: BitField, value: u64) {
        if let Some(word) = self.0.get_mut(field.word) {
            *word &= !(field.max() << field.shift);
            *word |= (value & field.max()) << field.shift;
        }
    }

    pub(super) fn gauge(&self, level: GaugeField) -> Option<u64> {
        let value = self.get(level.field);
        (value != level.field.max()).then(|| value.saturating_mul(level.unit))
    }

    pub(super) fn set_gauge(&mut self, level: GaugeField, value: Option<u64>) {
        let value = value.map(|value| value / level.unit);
        let value = value.filter(|value| *value < level.field.max());
        self.set(level.field, value.unwrap_or(level.field.max()));
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
    fn no_number_stands_in_anothers_place() {
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
    fn what_does_not_fit_is_unknown_and_not_another_number() {
        let mut point = PackedSample::default();
        for level in [MEMORY, PIDS] {
            let most = (level.field.max() - 1) * level.unit;
            point.set_gauge(level, Some(most));
            assert_eq!(point.gauge(level), Some(most));
            for unknown in [None, Some(most + level.unit), Some(u64::MAX)] {
                point.set_gauge(level, unknown);
                assert_eq!(point.gauge(level), None);
            }
        }
        for counter in ALL_COUNTERS {
            let most = counter.field.max() - 2;
            for step in [
                CounterDelta::Missing,
                CounterDelta::NoBaseline,
                CounterDelta::Increased(0),
                CounterDelta::Increased(most),
            ] {
                point.set_delta(counter, step);
                assert_eq!(point.delta(counter), step);
            }
            point.set_delta(counter, CounterDelta::Increased(most + 1));
            assert_eq!(point.delta(counter), CounterDelta::NoBaseline);
        }
    }
}
