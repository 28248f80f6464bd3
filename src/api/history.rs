//! The history of a container or of the host: aggregated over a window, or sample by sample.
//!
//! It is read from memory. Only a container that is identified by something other than its full ID
//! or cgroup path is looked up among the existing containers.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Api, containers,
    error::{ApiError, Candidate},
    latest::LatestSample,
    query::QueryParams,
    seconds, to_json,
};
use crate::{
    history::{Aggregates, History, MinAvgMax, Point, Series, parse_window},
    sources::Snapshot,
};

pub(super) const WINDOW_PARAMETERS: &[&str] = &["window"];
pub(super) const POINTS_PARAMETERS: &[&str] = &["last"];

const DEFAULT_WINDOW: Duration = Duration::from_secs(300);
const DEFAULT_POINTS: usize = 100;
/// About 2 MB of JSON.
const MAX_POINTS: usize = 10_000;

/// The requested form.
#[derive(Debug, Clone, Copy)]
pub(super) enum HistoryQuery {
    Window(Duration),
    Points(usize),
}

impl HistoryQuery {
    pub(super) fn from_window_parameter(query: &QueryParams) -> Result<Self, ApiError> {
        let window = query.get("window").map_or(Ok(DEFAULT_WINDOW), parse_window);
        window
            .map(Self::Window)
            .map_err(|reason| ApiError::new(400, reason))
    }

    pub(super) fn from_points_parameter(query: &QueryParams) -> Result<Self, ApiError> {
        let last = query.parse_number("last", 1..=MAX_POINTS)?;
        Ok(Self::Points(last.unwrap_or(DEFAULT_POINTS)))
    }
}

/// History of the host.
pub(super) async fn host(
    api: &Api,
    snapshot: Arc<Snapshot>,
    query: HistoryQuery,
) -> Result<Vec<u8>, ApiError> {
    let history = require_history(api)?;
    api.run_on_worker(move || {
        to_json(&HistoryResponse {
            time: snapshot.unix_time(),
            interval_seconds: history.interval().as_secs_f64(),
            container: None,
            is_gone: None,
            data: HistoryData::from_series(Some(history.host()), query),
        })
    })
    .await
}

/// History of a container, existing or removed.
pub(super) async fn container(
    api: &Api,
    snapshot: Arc<Snapshot>,
    name_or_id: String,
    query: HistoryQuery,
) -> Result<Vec<u8>, ApiError> {
    let history = require_history(api)?;
    let entry = match history.container(&name_or_id) {
        Some(series) => (
            containers::describe_series(&snapshot, &series),
            Some(series),
        ),
        None => containers::find_series(api, &snapshot, name_or_id).await?,
    };
    api.run_on_worker(move || {
        let (container, series) = entry;
        let series = series.as_deref();
        to_json(&HistoryResponse {
            time: snapshot.unix_time(),
            interval_seconds: history.interval().as_secs_f64(),
            container: Some(container),
            is_gone: series.map(Series::is_gone),
            data: HistoryData::from_series(series, query),
        })
    })
    .await
}

/// The history, or an error if it is not sampled.
fn require_history(api: &Api) -> Result<Arc<History>, ApiError> {
    let history = api.machine.history();
    if history.is_sampled() {
        return Ok(Arc::clone(history));
    }
    let reason = "history is disabled (--no-collector.history, or --collector.disable-defaults \
                  without --collector.history)";
    Err(ApiError::new(404, reason))
}

#[derive(Serialize)]
struct HistoryResponse {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    interval_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Candidate>,
    /// Unknown for a container that was never sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_gone: Option<bool>,
    #[serde(flatten)]
    data: HistoryData,
}

#[derive(Serialize)]
#[serde(untagged)]
enum HistoryData {
    Window(Box<WindowStats>),
    Points { points: Vec<SamplePoint> },
}

impl HistoryData {
    /// Without a series there are no samples.
    fn from_series(series: Option<&Series>, query: HistoryQuery) -> Self {
        match query {
            HistoryQuery::Window(window) => {
                let stats = series.map(|series| series.window(window));
                Self::Window(Box::new(WindowStats::from_aggregates(
                    window,
                    stats.unwrap_or_default(),
                )))
            }
            HistoryQuery::Points(last) => {
                let points = series.map(|series| series.points(last)).unwrap_or_default();
                Self::Points {
                    points: points.into_iter().map(SamplePoint::from).collect(),
                }
            }
        }
    }
}

/// Aggregates of the samples in a window.
#[derive(Debug, Serialize)]
struct WindowStats {
    window_seconds: f64,
    samples: u64,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    start: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    end: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<ValueRange<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<ValueRange<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<ValueRange<u64>>,
    /// Restarts between the first and the last sample, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    restarts: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ValueRange<T> {
    average: f64,
    peak: T,
    minimum: T,
}

impl<T> From<MinAvgMax<T>> for ValueRange<T> {
    fn from(stats: MinAvgMax<T>) -> Self {
        Self {
            average: stats.average,
            peak: stats.peak,
            minimum: stats.minimum,
        }
    }
}

impl WindowStats {
    fn from_aggregates(window: Duration, aggregates: Aggregates) -> Self {
        Self {
            window_seconds: window.as_secs_f64(),
            samples: aggregates.samples,
            start: aggregates.start,
            end: aggregates.end,
            cpu_percent: aggregates.cpu_percent.map(ValueRange::from),
            memory_bytes: aggregates.memory.map(ValueRange::from),
            received_bytes: aggregates.received,
            sent_bytes: aggregates.sent,
            read_bytes: aggregates.read,
            written_bytes: aggregates.written,
            pids: aggregates.pids.map(ValueRange::from),
            restarts: (aggregates.samples > 1).then_some(aggregates.restarts),
        }
    }
}

/// One sample.
#[derive(Debug, Serialize)]
struct SamplePoint {
    #[serde(flatten)]
    values: LatestSample,
    restarts: u64,
}

impl From<Point> for SamplePoint {
    fn from(point: Point) -> Self {
        Self {
            values: LatestSample::from(point),
            restarts: point.restarts,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_query(query: &str, allowed: &[&str]) -> Result<HistoryQuery, u16> {
        let query = QueryParams::parse(query, allowed).unwrap();
        let parsed = match allowed {
            WINDOW_PARAMETERS => HistoryQuery::from_window_parameter(&query),
            _ => HistoryQuery::from_points_parameter(&query),
        };
        parsed.map_err(|error| error.status())
    }

    #[test]
    fn window_accepts_bounded_durations() {
        for (query, seconds) in [("", 300), ("window=15m", 900), ("window=1h1m1s", 3661)] {
            let parsed = parse_query(query, WINDOW_PARAMETERS);
            let Ok(HistoryQuery::Window(window)) = parsed else {
                panic!("{query}: {parsed:?}");
            };
            assert_eq!(window, Duration::from_secs(seconds), "{query}");
        }
        for query in [
            "window=",
            "window=5",
            "window=0",
            "window=1ms",
            "window=9999h",
        ] {
            assert_eq!(
                parse_query(query, WINDOW_PARAMETERS).err(),
                Some(400),
                "{query}"
            );
        }
    }

    #[test]
    fn points_parameter_is_bounded() {
        for (query, count) in [("", 100), ("last=1", 1), ("last=10000", 10_000)] {
            let parsed = parse_query(query, POINTS_PARAMETERS);
            let Ok(HistoryQuery::Points(last)) = parsed else {
                panic!("{query}: {parsed:?}");
            };
            assert_eq!(last, count, "{query}");
        }
        for query in ["last=", "last=0", "last=-1", "last=10001", "last=1e3"] {
            assert_eq!(
                parse_query(query, POINTS_PARAMETERS).err(),
                Some(400),
                "{query}"
            );
        }
    }

    #[test]
    fn unknown_values_are_omitted_from_window() {
        let stats = |aggregates| WindowStats::from_aggregates(Duration::from_secs(60), aggregates);
        let none = json!({"window_seconds": 60.0, "samples": 0});
        let value = serde_json::to_value(stats(Aggregates::default())).unwrap();
        assert_eq!(value, none);
        let one = Aggregates {
            samples: 1,
            start: Some(Duration::from_secs(7)),
            end: Some(Duration::from_secs(7)),
            memory: Some(MinAvgMax {
                average: 4096.0,
                peak: 4096,
                minimum: 4096,
            }),
            ..Aggregates::default()
        };
        let memory = json!({"average": 4096.0, "peak": 4096, "minimum": 4096});
        let expected = json!({
            "window_seconds": 60.0, "samples": 1, "start": 7.0, "end": 7.0,
            "memory_bytes": memory,
        });
        assert_eq!(serde_json::to_value(stats(one)).unwrap(), expected);
        let two = Aggregates { samples: 2, ..one };
        assert_eq!(serde_json::to_value(stats(two)).unwrap()["restarts"], 0);
    }
}
