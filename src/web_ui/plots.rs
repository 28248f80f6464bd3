//! Plots of the history.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::table;
use crate::{
    error::Result,
    history::{History, Increase, Point, Series, parse_window},
    plot::{Plot, PlotLine, PlotSize, PlotUnit, Theme},
};

/// Windows offered as links.
pub(super) const WINDOWS: [(&str, Duration); 4] = [
    ("1m", Duration::from_secs(60)),
    ("5m", Duration::from_secs(300)),
    ("15m", Duration::from_secs(900)),
    ("1h", Duration::from_secs(3600)),
];
const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);
/// Points further apart than this many intervals are not connected.
const MAX_GAP_INTERVALS: f64 = 2.5;

/// Value of a sample.
type PointValue = fn(&Point) -> Option<f64>;

/// The metric that a plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlotMetric {
    Cpu,
    Memory,
    Network,
    Disk,
}

impl PlotMetric {
    pub(super) const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Network, Self::Disk];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Disk => "disk",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU, 100 % = one core",
            Self::Memory => "Memory",
            Self::Network => "Network",
            Self::Disk => "Disk",
        }
    }

    const fn unit(self) -> PlotUnit {
        match self {
            Self::Cpu => PlotUnit::Percent,
            Self::Memory => PlotUnit::Bytes,
            Self::Network | Self::Disk => PlotUnit::BytesPerSecond,
        }
    }

    /// The lines: name, and value of a sample.
    fn series(self) -> &'static [(&'static str, PointValue)] {
        match self {
            Self::Cpu => &[("CPU", |point| point.cpu_percent)],
            Self::Memory => &[("memory", table::memory_bytes)],
            Self::Network => &[
                ("received", |point| point.received.map(Increase::per_second)),
                ("sent", |point| point.sent.map(Increase::per_second)),
            ],
            Self::Disk => &[
                ("read", |point| point.read.map(Increase::per_second)),
                ("written", |point| point.written.map(Increase::per_second)),
            ],
        }
    }
}

/// What is plotted.
#[derive(Debug)]
pub(super) enum PlotTarget {
    Host,
    /// Display name and samples.
    Container(String, Option<Arc<Series>>),
}

/// A plot's query parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlotRequest {
    metric: PlotMetric,
    window: Duration,
    size: PlotSize,
    theme: Theme,
}

impl PlotRequest {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut request = Self {
            metric: PlotMetric::Cpu,
            window: DEFAULT_WINDOW,
            size: PlotSize::default(),
            theme: Theme::Auto,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let pixels = || {
                let pixels = value.parse::<u32>();
                pixels.map_err(|_| format!("invalid {name} {value:?}: expected a number of pixels"))
            };
            match &*name {
                "what" => {
                    let metric = PlotMetric::ALL
                        .into_iter()
                        .find(|metric| metric.name() == value);
                    request.metric = metric.ok_or_else(|| {
                        format!("invalid what {value:?}: expected cpu, memory, network or disk")
                    })?;
                }
                "window" => request.window = parse_window(&value)?,
                "width" => request.size = PlotSize::clamped(pixels()?, request.size.height()),
                "height" => request.size = PlotSize::clamped(request.size.width(), pixels()?),
                "theme" => {
                    request.theme = match &*value {
                        "auto" => Theme::Auto,
                        "light" => Theme::Light,
                        "dark" => Theme::Dark,
                        _ => {
                            return Err(format!(
                                "invalid theme {value:?}: expected auto, light or dark"
                            ));
                        }
                    }
                }
                // Defeats the browser's cache.
                "at" => {}
                _ => {
                    return Err(format!(
                        "unknown parameter {name:?}: expected what, window, width, height or theme"
                    ));
                }
            }
        }
        Ok(request)
    }
}

/// The window in a page's query string.
pub(super) fn parse_window_query(query: &str) -> Result<Duration, String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    match pairs.find(|(name, _)| name == "window") {
        Some((_, value)) => parse_window(&value),
        None => Ok(DEFAULT_WINDOW),
    }
}

/// A window as written in links.
pub(super) fn format_window(window: Duration) -> String {
    let named = WINDOWS.iter().find(|(_, it)| *it == window);
    named.map_or_else(
        || format!("{}s", window.as_secs()),
        |(name, _)| (*name).to_owned(),
    )
}

/// Path of a plot; `target` is `host` or `containers/ID`, percent-encoded.
pub(super) fn plot_path(target: &str, metric: PlotMetric, window: Duration) -> String {
    let (what, window) = (metric.name(), format_window(window));
    format!("/plot/{target}.svg?what={what}&window={window}")
}

pub(super) fn render(
    history: &History,
    target: &PlotTarget,
    request: &PlotRequest,
) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let to = now.unwrap_or_default();
    let interval = history.interval();
    let (name, series) = match target {
        PlotTarget::Host => ("this host", Some(history.host())),
        PlotTarget::Container(name, series) => (name.as_str(), series.as_deref()),
    };
    let count = request.window.as_millis() / interval.as_millis().max(1) + 2;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let points = series
        .map(|series| series.points(count))
        .unwrap_or_default();
    let lines = request
        .metric
        .series()
        .iter()
        .map(|(name, value)| PlotLine {
            name,
            points: points.iter().map(|it| (it.at, value(it))).collect(),
        });
    let title = match target {
        PlotTarget::Host => request.metric.title().to_owned(),
        PlotTarget::Container(..) => format!("{name}: {}", request.metric.title()),
    };
    Plot {
        title: &title,
        unit: request.metric.unit(),
        from: to.saturating_sub(request.window),
        to,
        gap: interval.mul_f64(MAX_GAP_INTERVALS),
        lines: lines.collect(),
        size: request.size,
        theme: request.theme,
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{BootInstant, HistoryFlags, Sample};

    #[test]
    fn rejects_invalid_plot_parameters() {
        let request = PlotRequest::parse("what=disk&window=5m&width=9&theme=dark&at=7").unwrap();
        assert_eq!(
            (request.metric, request.theme),
            (PlotMetric::Disk, Theme::Dark)
        );
        assert_eq!(request.window, Duration::from_secs(300));
        assert_eq!(request.size, PlotSize::clamped(240, 220));
        for invalid in [
            "what=love",
            "window=0s",
            "window=1",
            "window=9999h",
            "width=-1",
            "theme=pink",
            "x=1",
        ] {
            assert!(PlotRequest::parse(invalid).is_err(), "{invalid}");
        }
        assert_eq!(parse_window_query(""), Ok(DEFAULT_WINDOW));
        assert!(parse_window_query("window=x").is_err());
    }

    #[test]
    fn sampled_values_are_drawn() {
        let history = History::new(HistoryFlags::default());
        let added = history.update_containers([("ab", "/docker/ab")].into_iter(), Duration::ZERO);
        let series = added.into_iter().next().unwrap().unwrap();
        for seconds in [10, 5, 0] {
            let sample = Sample {
                memory: Some(64 << 20),
                cpu: Some(Duration::from_millis(7000 - seconds * 500)),
                ..Sample::default()
            };
            series.push(
                BootInstant::now().saturating_sub(Duration::from_secs(seconds)),
                &sample,
            );
        }
        let target = PlotTarget::Container("web".to_owned(), Some(series));
        let svg =
            |query: &str| render(&history, &target, &PlotRequest::parse(query).unwrap()).unwrap();
        assert!(svg("what=memory").contains("last 64 MiB, from 64 MiB to 64 MiB."));
        assert!(svg("what=cpu&window=1m").contains("CPU: last 50 %, from 50 % to 50 %."));
        assert!(svg("what=disk").contains("written: no known values in this time range."));
        assert!(svg("what=cpu").contains(">web: CPU, 100 % = one core</title>"));
        let host = render(
            &history,
            &PlotTarget::Host,
            &PlotRequest::parse("").unwrap(),
        );
        assert!(
            host.unwrap()
                .contains("CPU: no samples in this time range.")
        );
    }
}
