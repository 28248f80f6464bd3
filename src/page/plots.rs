//! Plots of what the history knows.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::cells;
use crate::{
    error::Result,
    history::{History, Increase, Point, Series, parse_window},
    plot::{Line, Plot, Size, Theme, Unit},
};

/// The windows that are linked.
pub(super) const WINDOWS: [(&str, Duration); 4] = [
    ("1m", Duration::from_secs(60)),
    ("5m", Duration::from_secs(300)),
    ("15m", Duration::from_secs(900)),
    ("1h", Duration::from_secs(3600)),
];
const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);
/// What is further apart than this many intervals is not connected.
const GAP: f64 = 2.5;

/// A value of a sample.
type Value = fn(&Point) -> Option<f64>;

/// What a plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Cpu,
    Memory,
    Network,
    Disk,
}

impl What {
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

    const fn unit(self) -> Unit {
        match self {
            Self::Cpu => Unit::Percent,
            Self::Memory => Unit::Bytes,
            Self::Network | Self::Disk => Unit::BytesPerSecond,
        }
    }

    /// Its lines: what each is called, and its value of a sample.
    fn lines(self) -> &'static [(&'static str, Value)] {
        match self {
            Self::Cpu => &[("CPU", |point| point.cpu_percent)],
            Self::Memory => &[("memory", cells::memory)],
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

/// Of what.
#[derive(Debug)]
pub(super) enum Of {
    Host,
    /// What it is called, and what is remembered of it.
    Container(String, Option<Arc<Series>>),
}

/// What a request for a plot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    what: What,
    window: Duration,
    size: Size,
    theme: Theme,
}

impl Asked {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut asked = Self {
            what: What::Cpu,
            window: DEFAULT_WINDOW,
            size: Size::default(),
            theme: Theme::Auto,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let pixels = || {
                let pixels = value.parse::<u32>();
                pixels.map_err(|_| format!("{name} is not a number of pixels: {value:?}"))
            };
            match &*name {
                "what" => {
                    let what = What::ALL.into_iter().find(|what| what.name() == value);
                    asked.what = what.ok_or_else(|| {
                        format!("what is not cpu, memory, network or disk: {value:?}")
                    })?;
                }
                "window" => asked.window = parse_window(&value)?,
                "width" => asked.size = Size::within_bounds(pixels()?, asked.size.height()),
                "height" => asked.size = Size::within_bounds(asked.size.width(), pixels()?),
                "theme" => {
                    asked.theme = match &*value {
                        "auto" => Theme::Auto,
                        "light" => Theme::Light,
                        "dark" => Theme::Dark,
                        _ => return Err(format!("theme is not auto, light or dark: {value:?}")),
                    }
                }
                // What makes a browser ask again.
                "at" => {}
                _ => {
                    return Err(format!(
                        "unknown parameter {name:?}: there is what, window, width, height, theme"
                    ));
                }
            }
        }
        Ok(asked)
    }
}

/// The window that a page is asked for.
pub(super) fn window(query: &str) -> Result<Duration, String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    match pairs.find(|(name, _)| name == "window") {
        Some((_, value)) => parse_window(&value),
        None => Ok(DEFAULT_WINDOW),
    }
}

/// A window as it is written in links.
pub(super) fn window_text(window: Duration) -> String {
    let known = WINDOWS.iter().find(|(_, it)| *it == window);
    known.map_or_else(
        || format!("{}s", window.as_secs()),
        |(name, _)| (*name).to_owned(),
    )
}

/// The path of a plot; `of` is `host` or `containers/ID` with what paths need escaped.
pub(super) fn src(of: &str, what: What, window: Duration) -> String {
    let (what, window) = (what.name(), window_text(window));
    format!("/plot/{of}.svg?what={what}&window={window}")
}

pub(super) fn draw(history: &History, of: &Of, asked: &Asked) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let to = now.unwrap_or_default();
    let interval = history.interval();
    let (name, series) = match of {
        Of::Host => ("this machine", Some(history.host())),
        Of::Container(name, series) => (name.as_str(), series.as_deref()),
    };
    let count = asked.window.as_millis() / interval.as_millis().max(1) + 2;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let points = series
        .map(|series| series.points(count))
        .unwrap_or_default();
    let lines = asked.what.lines().iter().map(|(name, value)| Line {
        name,
        points: points.iter().map(|it| (it.at, value(it))).collect(),
    });
    let title = match of {
        Of::Host => asked.what.title().to_owned(),
        Of::Container(..) => format!("{name}: {}", asked.what.title()),
    };
    Plot {
        title: &title,
        unit: asked.what.unit(),
        from: to.saturating_sub(asked.window),
        to,
        gap: interval.mul_f64(GAP),
        lines: lines.collect(),
        size: asked.size,
        theme: asked.theme,
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Flags, Moment, Sample};

    #[test]
    fn a_plot_that_is_asked_for_wrongly_is_refused() {
        let asked = Asked::parse("what=disk&window=5m&width=9&theme=dark&at=7").unwrap();
        assert_eq!((asked.what, asked.theme), (What::Disk, Theme::Dark));
        assert_eq!(asked.window, Duration::from_secs(300));
        assert_eq!(asked.size, Size::within_bounds(240, 220));
        for wrong in [
            "what=love",
            "window=0s",
            "window=1",
            "window=9999h",
            "width=-1",
            "theme=pink",
            "x=1",
        ] {
            assert!(Asked::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(window(""), Ok(DEFAULT_WINDOW));
        assert!(window("window=x").is_err());
    }

    #[test]
    fn what_was_sampled_is_drawn() {
        let history = History::new(Flags::default());
        let kept = history.keep([("ab", "/docker/ab")].into_iter(), Duration::ZERO);
        let series = kept.into_iter().next().unwrap().unwrap();
        for seconds in [10, 5, 0] {
            let sample = Sample {
                memory: Some(64 << 20),
                cpu: Some(Duration::from_millis(7000 - seconds * 500)),
                ..Sample::default()
            };
            series.push(Moment::now().minus(Duration::from_secs(seconds)), &sample);
        }
        let of = Of::Container("web".to_owned(), Some(series));
        let said = |query: &str| draw(&history, &of, &Asked::parse(query).unwrap()).unwrap();
        assert!(said("what=memory").contains("last 64 MiB, from 64 MiB to 64 MiB."));
        assert!(said("what=cpu&window=1m").contains("CPU: last 50 %, from 50 % to 50 %."));
        assert!(said("what=disk").contains("written: not known in this time."));
        assert!(said("what=cpu").contains(">web: CPU, 100 % = one core</title>"));
        let host = draw(&history, &Of::Host, &Asked::parse("").unwrap());
        assert!(host.unwrap().contains("CPU: no samples in this time."));
    }
}
