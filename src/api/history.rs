//! What the history knows of a container, or of the machine: over a window of time, or
//! sample by sample.
//!
//! It comes from memory alone. Only a container that is asked for by less than its whole
//! id or the path of its control group is looked for among those that are there.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Api, containers,
    error::{Candidate, Problem},
    json,
    latest::Latest,
    query::Query,
    seconds,
};
use crate::{
    history::{Aggregates, History, Point, Series, Spread, parse_window},
    sources::Snapshot,
};

pub(super) const WINDOW_PARAMETERS: &[&str] = &["window"];
pub(super) const POINTS_PARAMETERS: &[&str] = &["last"];

const DEFAULT_WINDOW: Duration = Duration::from_secs(300);
const DEFAULT_POINTS: usize = 100;
/// Some two megabytes of JSON.
const MAX_POINTS: usize = 10_000;

/// What is to be told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Window(Duration),
    Points(usize),
}

impl Asked {
    pub(super) fn window(query: &Query) -> Result<Self, Problem> {
        let window = query.get("window").map_or(Ok(DEFAULT_WINDOW), parse_window);
        window
            .map(Self::Window)
            .map_err(|reason| Problem::new(400, reason))
    }

    pub(super) fn points(query: &Query) -> Result<Self, Problem> {
        let last = query.number("last", 1..=MAX_POINTS)?;
        Ok(Self::Points(last.unwrap_or(DEFAULT_POINTS)))
    }
}

/// Of the machine.
pub(super) async fn host(
    api: &Api,
    machine: Arc<Snapshot>,
    asked: Asked,
) -> Result<Vec<u8>, Problem> {
    let history = sampled(api)?;
    api.write(move || {
        json(&Remembered {
            time: machine.now(),
            interval_seconds: history.interval().as_secs_f64(),
            container: None,
            is_gone: None,
            said: Said::of(Some(history.host()), asked),
        })
    })
    .await
}

/// Of the container that is meant, be it there or gone.
pub(super) async fn container(
    api: &Api,
    machine: Arc<Snapshot>,
    named: String,
    asked: Asked,
) -> Result<Vec<u8>, Problem> {
    let history = sampled(api)?;
    let found = match history.container(&named) {
        Some(series) => (containers::called(&machine, &series), Some(series)),
        None => containers::remembered(api, &machine, named).await?,
    };
    api.write(move || {
        let (container, series) = found;
        let series = series.as_deref();
        json(&Remembered {
            time: machine.now(),
            interval_seconds: history.interval().as_secs_f64(),
            container: Some(container),
            is_gone: series.map(Series::is_gone),
            said: Said::of(series, asked),
        })
    })
    .await
}

/// The history, if there is one.
fn sampled(api: &Api) -> Result<Arc<History>, Problem> {
    let history = api.machine.history();
    if history.is_sampled() {
        return Ok(Arc::clone(history));
    }
    let reason = "there is no history: its collector is off, by --no-collector.history or by \
                  --collector.disable-defaults without --collector.history";
    Err(Problem::new(404, reason))
}

#[derive(Serialize)]
struct Remembered {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    interval_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Candidate>,
    /// Not known of what was never sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_gone: Option<bool>,
    #[serde(flatten)]
    said: Said,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said {
    Window(Box<Window>),
    Points { points: Vec<Sampled> },
}

impl Said {
    /// Where there is no ring there are no samples.
    fn of(series: Option<&Series>, asked: Asked) -> Self {
        match asked {
            Asked::Window(window) => {
                let said = series.map(|series| series.window(window));
                Self::Window(Box::new(Window::of(window, said.unwrap_or_default())))
            }
            Asked::Points(last) => {
                let points = series.map(|series| series.points(last)).unwrap_or_default();
                Self::Points {
                    points: points.into_iter().map(Sampled::from).collect(),
                }
            }
        }
    }
}

/// What the samples of a window say together.
#[derive(Debug, Serialize)]
struct Window {
    window_seconds: f64,
    samples: u64,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    start: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    end: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<Range<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<Range<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<Range<u64>>,
    /// Between two samples, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    restarts: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Range<T> {
    average: f64,
    peak: T,
    minimum: T,
}

impl<T> From<Spread<T>> for Range<T> {
    fn from(spread: Spread<T>) -> Self {
        Self {
            average: spread.average,
            peak: spread.peak,
            minimum: spread.minimum,
        }
    }
}

impl Window {
    fn of(window: Duration, said: Aggregates) -> Self {
        Self {
            window_seconds: window.as_secs_f64(),
            samples: said.samples,
            start: said.start,
            end: said.end,
            cpu_percent: said.cpu_percent.map(Range::from),
            memory_bytes: said.memory.map(Range::from),
            received_bytes: said.received,
            sent_bytes: said.sent,
            read_bytes: said.read,
            written_bytes: said.written,
            pids: said.pids.map(Range::from),
            restarts: (said.samples > 1).then_some(said.restarts),
        }
    }
}

/// One sample.
#[derive(Debug, Serialize)]
struct Sampled {
    #[serde(flatten)]
    values: Latest,
    restarts: u64,
}

impl From<Point> for Sampled {
    fn from(point: Point) -> Self {
        Self {
            values: Latest::from(point),
            restarts: point.restarts,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(query: &str, known: &[&str]) -> Result<Asked, u16> {
        let query = Query::parse(query, known).unwrap();
        let asked = match known {
            WINDOW_PARAMETERS => Asked::window(&query),
            _ => Asked::points(&query),
        };
        asked.map_err(|problem| problem.status())
    }

    #[test]
    fn a_window_is_any_duration_within_reason() {
        for (query, seconds) in [("", 300), ("window=15m", 900), ("window=1h1m1s", 3661)] {
            let asked = asked(query, WINDOW_PARAMETERS);
            let Ok(Asked::Window(window)) = asked else {
                panic!("{query}: {asked:?}");
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
            assert_eq!(asked(query, WINDOW_PARAMETERS).err(), Some(400), "{query}");
        }
    }

    #[test]
    fn points_are_so_many_and_not_too_many() {
        for (query, count) in [("", 100), ("last=1", 1), ("last=10000", 10_000)] {
            let asked = asked(query, POINTS_PARAMETERS);
            let Ok(Asked::Points(last)) = asked else {
                panic!("{query}: {asked:?}");
            };
            assert_eq!(last, count, "{query}");
        }
        for query in ["last=", "last=0", "last=-1", "last=10001", "last=1e3"] {
            assert_eq!(asked(query, POINTS_PARAMETERS).err(), Some(400), "{query}");
        }
    }

    #[test]
    fn what_no_sample_of_a_window_knows_is_left_out() {
        let of = |said| Window::of(Duration::from_secs(60), said);
        let none = json!({"window_seconds": 60.0, "samples": 0});
        let said = serde_json::to_value(of(Aggregates::default())).unwrap();
        assert_eq!(said, none);
        let one = Aggregates {
            samples: 1,
            start: Some(Duration::from_secs(7)),
            end: Some(Duration::from_secs(7)),
            memory: Some(Spread {
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
        assert_eq!(serde_json::to_value(of(one)).unwrap(), expected);
        let two = Aggregates { samples: 2, ..one };
        assert_eq!(serde_json::to_value(of(two)).unwrap()["restarts"], 0);
    }
}
