//! When a sample was taken, by a clock that nobody sets and that goes on while the machine
//! sleeps: `CLOCK_BOOTTIME`. What is shown is in the time of day, reckoned back from now.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(u64);

impl BootInstant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let whole = u64::try_from(now.tv_sec).unwrap_or_default();
        let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default();
        Self(whole.saturating_mul(1000).saturating_add(millis))
    }

    /// So many milliseconds after boot.
    #[cfg(test)]
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// How long after `earlier` it is; nothing if it is before.
    #[must_use]
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis_since(earlier))
    }

    pub(super) fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(super) fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    pub(super) fn minus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }

    /// So long before this one; the boot, if that was later.
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        self.minus_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

/// This moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    pub(super) boot: BootInstant,
    /// The time of day, counted from 1970 on.
    wall: Duration,
}

impl ClockReading {
    pub(super) fn now() -> Self {
        let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            boot: BootInstant::now(),
            wall: day.unwrap_or_default(),
        }
    }

    #[cfg(test)]
    pub(super) fn new(boot: BootInstant, wall: Duration) -> Self {
        Self { boot, wall }
    }

    /// What the clock would have shown then, had it always gone as it does now.
    pub(super) fn wall_time_at(self, moment: BootInstant) -> Duration {
        self.wall.saturating_sub(self.boot.duration_since(moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_reckoned_back_from_now() {
        let now = ClockReading::new(
            BootInstant::from_millis(10_000),
            Duration::from_secs(1_000_000),
        );
        let then = now.wall_time_at(BootInstant::from_millis(4_000));
        assert_eq!(then, Duration::from_secs(999_994));
        assert_eq!(
            BootInstant::from_millis(5).saturating_sub(Duration::from_secs(1)),
            BootInstant::from_millis(0)
        );
        assert!(BootInstant::now() > BootInstant::from_millis(0));
    }
}
