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
pub(super) const BYTES: usize = size_of::<Packed>();

const _: () = assert!(BYTES == 32, "a point takes 32 bytes");

/// A point; see the module's documentation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Packed([u64; 4]);

/// Where in a point a number is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    word: usize,
    shift: u32,
    bits: u32,
}

/// Milliseconds since the point before.
pub(super) const AFTER: Field = Field::new(0, 39, 25);
/// How often it was started since the point before.
pub(super) const RESTARTS: Field = Field::new(1, 61, 3);

/// What goes up and down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    field: Field,
    unit: u64,
}

pub(super) const MEMORY: Level = Level {
    field: Field::new(3, 0, 33),
    unit: 4096,
};
pub(super) const PIDS: Level = Level {
    field: Field::new(1, 39, 22),
    unit: 1,
};

/// What only grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counter {
    /// Its place among the counters.
    pub(super) at: usize,
    field: Field,
    pub(super) unit: u64,
}

/// How many counters there are.
pub(super) const COUNTERS: usize = 5;

/// In microseconds.
pub(super) const CPU: Counter = Counter::new(0, Field::new(3, 33, 31), 10);
pub(super) const RECEIVED: Counter = Counter::new(1, Field::new(0, 0, 39), 1);
pub(super) const SENT: Counter = Counter::new(2, Field::new(1, 0, 39), 1);
pub(super) const READ: Counter = Counter::new(3, Field::new(2, 0, 32), 512);
pub(super) const WRITTEN: Counter = Counter::new(4, Field::new(2, 32, 32), 512);

/// What became of a counter since it was last known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not known.
    Missing,
    /// It is known, but not by how much it grew.
    Begins,
    /// It grew by so much, in its unit.
    Grew(u64),
}

impl Field {
    const fn new(word: usize, shift: u32, bits: u32) -> Self {
        Self { word, shift, bits }
    }

    pub(super) const fn max(self) -> u64 {
        (1 << self.bits) - 1
    }
}

impl Packed {
    pub(super) fn get(&self, field: Field) -> u64 {
        let word = self.0.get(field.word).copied().unwrap_or_default();
        (word >> field.shift) & field.max()
    }

    /// The number must fit.
    pub(super) fn set(&mut self, field: Field, value: u64) {
        if let Some(word) = self.0.get_mut(field.word) {
            *word &= !(field.max() << field.shift);
            *word |= (value & field.max()) << field.shift;
        }
    }

    pub(super) fn level(&self, level: Level) -> Option<u64> {
        let value = self.get(level.field);
        (value != level.field.max()).then(|| value.saturating_mul(level.unit))
    }

    pub(super) fn set_level(&mut self, level: Level, value: Option<u64>) {
        let value = value.map(|value| value / level.unit);
        let value = value.filter(|value| *value < level.field.max());
        self.set(level.field, value.unwrap_or(level.field.max()));
    }

    pub(super) fn step(&self, counter: Counter) -> Step {
        let max = counter.field.max();
        match self.get(counter.field) {
            value if value == max => Step::Missing,
            value if value == max - 1 => Step::Begins,
            value => Step::Grew(value),
        }
    }

    pub(super) fn set_step(&mut self, counter: Counter, step: Step) {
        let max = counter.field.max();
        let value = match step {
            Step::Missing => max,
            Step::Grew(value) if value < max - 1 => value,
            Step::Begins | Step::Grew(_) => max - 1,
        };
        self.set(counter.field, value);
    }
}

impl Counter {
    const fn new(at: usize, field: Field, unit: u64) -> Self {
        Self { at, field, unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Counter; COUNTERS] = [CPU, RECEIVED, SENT, READ, WRITTEN];

    #[test]
    fn no_number_stands_in_anothers_place() {
        let fields = ALL.map(|counter| counter.field);
        let all = [AFTER, RESTARTS, MEMORY.field, PIDS.field];
        let fields = [fields.as_slice(), &all].concat();
        let bits: u32 = fields.iter().map(|field| field.bits).sum();
        assert_eq!(bits, 256);
        for (n, field) in fields.iter().enumerate() {
            let mut point = Packed::default();
            point.set(*field, u64::MAX);
            for (m, other) in fields.iter().enumerate() {
                let expected = if n == m { other.max() } else { 0 };
                assert_eq!(point.get(*other), expected, "{field:?} and {other:?}");
            }
            point.set(*field, 0);
            assert_eq!(point, Packed::default());
        }
        for (at, counter) in ALL.iter().enumerate() {
            assert_eq!(counter.at, at);
        }
    }

    #[test]
    fn what_does_not_fit_is_unknown_and_not_another_number() {
        let mut point = Packed::default();
        for level in [MEMORY, PIDS] {
            let most = (level.field.max() - 1) * level.unit;
            point.set_level(level, Some(most));
            assert_eq!(point.level(level), Some(most));
            for unknown in [None, Some(most + level.unit), Some(u64::MAX)] {
                point.set_level(level, unknown);
                assert_eq!(point.level(level), None);
            }
        }
        for counter in ALL {
            let most = counter.field.max() - 2;
            for step in [Step::Missing, Step::Begins, Step::Grew(0), Step::Grew(most)] {
                point.set_step(counter, step);
                assert_eq!(point.step(counter), step);
            }
            point.set_step(counter, Step::Grew(most + 1));
            assert_eq!(point.step(counter), Step::Begins);
        }
    }
}
