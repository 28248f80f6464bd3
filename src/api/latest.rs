//! The latest sample of a container or of the host.

use std::time::Duration;

use serde::Serialize;

use super::seconds;
use crate::history::{Increase, Point, Series};

/// The last sample, and rates since the one before.
#[derive(Debug, Serialize)]
pub(super) struct LatestSample {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<u64>,
}

impl LatestSample {
    /// `None` if the container was removed.
    pub(super) fn from_series(series: &Series) -> Option<Self> {
        let existing = Some(series).filter(|series| !series.is_gone());
        existing?.latest().map(Self::from)
    }
}

impl From<Point> for LatestSample {
    fn from(point: Point) -> Self {
        let rate = |increase: Option<Increase>| increase.map(Increase::per_second);
        Self {
            time: Some(point.at),
            cpu_percent: point.cpu_percent,
            memory_bytes: point.memory,
            received_bytes_per_second: rate(point.received),
            sent_bytes_per_second: rate(point.sent),
            read_bytes_per_second: rate(point.read),
            written_bytes_per_second: rate(point.written),
            pids: point.pids,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_are_omitted() {
        let point = Point {
            at: Duration::from_secs(7),
            memory: Some(4096),
            sent: Some(Increase {
                amount: 10,
                over: Duration::from_secs(5),
            }),
            ..Point::default()
        };
        let expected = serde_json::json!({
            "time": 7.0, "memory_bytes": 4096, "sent_bytes_per_second": 2.0,
        });
        assert_eq!(
            serde_json::to_value(LatestSample::from(point)).unwrap(),
            expected
        );
    }
}
