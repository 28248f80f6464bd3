//! Timestamps of samples by `CLOCK_BOOTTIME`, which cannot be set and continues during suspend.
//! They are converted to wall-clock time relative to the current time.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(u64);

impl BootInstant {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default();
        Self(seconds.saturating_mul(1000).saturating_add(millis))
    }

    /// This many milliseconds after boot.
    #[cfg(test)]
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The time since `earlier`; zero if that is later.
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

    /// This instant minus the duration; boot, if that is later.
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        self.minus_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The current time by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockReading {
    pub(super) boot: BootInstant,
    /// Wall-clock time, since the Unix epoch.
    wall: Duration,
}

impl ClockReading {
    pub(super) fn now() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            boot: BootInstant::now(),
            wall: wall.unwrap_or_default(),
        }
    }

    #[cfg(test)]
    pub(super) fn new(boot: BootInstant, wall: Duration) -> Self {
        Self { boot, wall }
    }

    /// The wall-clock time at this instant, assuming that the clock was never set since.
    pub(super) fn wall_time_at(self, at: BootInstant) -> Duration {
        self.wall.saturating_sub(self.boot.duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_relative_to_now() {
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
