//! How much is remembered, and how often it is looked.

use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use crate::{duration, size};

/// Shorter than this it is no sampling any more.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// In a longer time counters may grow by more than a point holds.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// The smallest value of `--history.max-bytes`.
const MIN_BYTES: u64 = 64 << 10;

/// The flags about the history.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct HistoryFlags {
    /// How often to sample containers and the machine, from 100ms to 1m.
    #[arg(long = "history.interval", value_name = "DURATION", default_value = "5s", value_parser = interval)]
    pub history_interval: Duration,
    /// How many samples to keep of each, of 32 bytes.
    #[arg(long = "history.points", value_name = "N", default_value = "720", value_parser = points())]
    pub history_points: usize,
    /// How many bytes all samples may take together, at least 64KiB; beyond it the oldest
    /// containers keep fewer.
    #[arg(long = "history.max-bytes", value_name = "SIZE", default_value = "32MiB", value_parser = max_bytes)]
    pub history_max_bytes: u64,
}

impl HistoryFlags {
    /// The same, with samples that take no more than so many bytes.
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
        return Err("less than 64KiB".to_owned());
    }
    Ok(bytes)
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("not from 100ms to 1m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_a_moment_nor_an_hour() {
        assert_eq!(interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        for wrong in ["99ms", "61s", "0", "x"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
