//! Flags of the sample history.

use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use crate::{duration, size};

/// Minimum value of `--history.interval`.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Over longer intervals counters may increase by more than a point can store.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Minimum value of `--history.max-bytes`.
const MIN_BYTES: u64 = 64 << 10;

/// The flags of the history.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct HistoryFlags {
    /// Interval between samples of containers and the host, from 100ms to 1m.
    #[arg(long = "history.interval", value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub history_interval: Duration,
    /// Samples to store per container, 32 bytes each.
    #[arg(long = "history.points", value_name = "N", default_value = "720", value_parser = points())]
    pub history_points: usize,
    /// Maximum memory of all samples, at least 64KiB; at the limit the oldest containers store
    /// fewer.
    #[arg(long = "history.max-bytes", value_name = "SIZE", default_value = "32MiB", value_parser = max_bytes)]
    pub history_max_bytes: u64,
}

impl HistoryFlags {
    /// The same flags, with at most this many bytes for samples.
    #[must_use]
    pub fn capped_to(self, bytes: u64) -> Self {
        Self {
            history_max_bytes: self.history_max_bytes.min(bytes),
            ..self
        }
    }
}

impl Default for HistoryFlags {
    fn default() -> Self {
        Self {
            history_interval: Duration::from_secs(5),
            history_points: 720,
            history_max_bytes: 32 << 20,
        }
    }
}

fn points() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(2..=1_000_000)
}

fn max_bytes(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes < MIN_BYTES {
        return Err("must be at least 64KiB".to_owned());
    }
    Ok(bytes)
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("must be between 100ms and 1m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_interval_out_of_range() {
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        for invalid in ["99ms", "61s", "0", "x"] {
            assert!(interval(invalid).is_err(), "{invalid}");
        }
    }
}
