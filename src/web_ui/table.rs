//! Table cells, which the script `page.js` fills in the same way. Each has its sort key beside its
//! text.

use std::sync::Arc;

use maud::{Markup, html};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::said::{Container, Latest};
use crate::{
    history::{History, Point, Series},
    plot::{PlotUnit, sparkline},
};

/// Text of an unknown value.
pub(super) const UNKNOWN: &str = "–";
/// Number of values in a sparkline; the script uses the same.
const SPARKLINE_POINTS: usize = 48;
const SPARKLINE_SIZE: (f64, f64) = (96.0, 20.0);

/// Characters that are percent-encoded in a path segment.
const PATH_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A column of a table.
pub(super) struct TableColumn {
    pub cell: &'static str,
    pub title: &'static str,
}

const fn column(cell: &'static str, title: &'static str) -> TableColumn {
    TableColumn { cell, title }
}

pub(super) const CONTAINER_COLUMNS: &[TableColumn] = &[
    column("name", "Name"),
    column("image", "Image"),
    column("state", "State"),
    column("cpu", "CPU"),
    column("memory", "Memory"),
    column("network", "Network"),
    column("disk", "Disk"),
    column("restarts", "Restarts"),
    column("uptime", "Up"),
];

pub(super) const DOMAIN_COLUMNS: &[TableColumn] = &[
    column("name", "Name"),
    column("vcpus", "vCPUs"),
    column("state", "State"),
    column("cpu", "CPU"),
    column("memory", "Memory"),
    column("network", "Network"),
    column("disk", "Disk"),
    column("uptime", "Up"),
];

/// A row of a table.
#[derive(Default)]
pub(super) struct TableRow<'a> {
    pub key: &'a str,
    pub title: &'a str,
    /// `None` for rows without a page of their own.
    pub href: Option<String>,
    pub note: Option<String>,
    pub image: Option<&'a str>,
    pub vcpus: Option<u64>,
    pub state: Option<&'a str>,
    pub health: Option<&'a str>,
    pub latest: Option<&'a Latest>,
    pub restarts: Option<u64>,
    /// Uptime in seconds.
    pub uptime: Option<f64>,
    pub series: Option<Arc<Series>>,
}

impl TableRow<'_> {
    pub(super) fn render(&self, columns: &[TableColumn]) -> Markup {
        let points = self
            .series
            .as_deref()
            .map(sparkline_points)
            .unwrap_or_default();
        html! {
            tr data-key=(self.key) {
                @for column in columns { (self.cell(column.cell, &points)) }
            }
        }
    }

    fn cell(&self, cell: &'static str, points: &[Point]) -> Markup {
        let none = Latest::default();
        let latest = self.latest.unwrap_or(&none);
        match cell {
            "name" => html! {
                th scope="row" data-cell="name" data-sort=(self.title) {
                    a href=[self.href.as_deref()] { (self.title) }
                    small { @if let Some(note) = &self.note { (note) } }
                }
            },
            "image" => text_cell(cell, self.image),
            "state" => self.state_cell(),
            "cpu" => {
                let line = sparkline_svg(points, |it| it.cpu_percent);
                sparkline_cell(cell, PlotUnit::Percent, latest.cpu_percent, &line)
            }
            "memory" => {
                let line = sparkline_svg(points, memory_bytes);
                sparkline_cell(cell, PlotUnit::Bytes, latest.memory_bytes, &line)
            }
            "network" => {
                let (received, sent) = (
                    latest.received_bytes_per_second,
                    latest.sent_bytes_per_second,
                );
                rate_pair_cell(cell, ("↓", "received", received), ("↑", "sent", sent))
            }
            "disk" => {
                let (read, html) = (
                    latest.read_bytes_per_second,
                    latest.written_bytes_per_second,
                );
                rate_pair_cell(cell, ("r", "read", read), ("w", "written", html))
            }
            "restarts" => number_cell(cell, self.restarts),
            "vcpus" => number_cell(cell, self.vcpus),
            "uptime" => html! {
                td.number data-cell=(cell) data-sort=[self.uptime] { (format_age(self.uptime)) }
            },
            _ => html! { td data-cell=(cell) {} },
        }
    }

    fn state_cell(&self) -> Markup {
        let state = self.state.unwrap_or(UNKNOWN);
        html! {
            td data-cell="state" data-sort=(state) {
                span.state data-state=(state) data-health=[self.health] {
                    (state_text(state, self.health))
                }
            }
        }
    }
}

fn sparkline_cell(cell: &str, unit: PlotUnit, value: Option<f64>, line: &Markup) -> Markup {
    html! {
        td.number.sparked data-cell=(cell) data-sort=[value] {
            span.value { (format_value(unit, value)) }
            (line)
        }
    }
}

/// Samples of a sparkline.
pub(super) fn sparkline_points(series: &Series) -> Vec<Point> {
    series.points(SPARKLINE_POINTS)
}

/// Memory in bytes, for drawing.
#[expect(clippy::cast_precision_loss, reason = "precise enough for drawing")]
pub(super) fn memory_bytes(point: &Point) -> Option<f64> {
    point.memory.map(|bytes| bytes as f64)
}

/// A sparkline, with its values for the script to continue.
pub(super) fn sparkline_svg(points: &[Point], value: impl Fn(&Point) -> Option<f64>) -> Markup {
    let values: Vec<_> = points.iter().map(value).collect();
    let slots = u32::try_from(SPARKLINE_POINTS).unwrap_or(u32::MAX);
    let path = sparkline(&values, slots, SPARKLINE_SIZE);
    let formatted: Vec<_> = values
        .iter()
        .map(|value| value.map(|it| format!("{it:.3}")).unwrap_or_default())
        .collect();
    let (width, height) = SPARKLINE_SIZE;
    html! {
        svg.spark viewBox=(format!("0 -1 {width} {}", height + 2.0)) preserveAspectRatio="none"
            aria-hidden="true" data-values=(formatted.join(",")) {
            path d=(path) {}
        }
    }
}

fn text_cell(cell: &str, text: Option<&str>) -> Markup {
    html! {
        td data-cell=(cell) data-sort=[text] title=[text] { (text.unwrap_or(UNKNOWN)) }
    }
}

fn number_cell(cell: &str, number: Option<u64>) -> Markup {
    html! {
        td.number data-cell=(cell) data-sort=[number] {
            @match number { Some(number) => (number), None => (UNKNOWN) }
        }
    }
}

type LabeledRate = (&'static str, &'static str, Option<f64>);

fn rate_pair_cell(cell: &str, one: LabeledRate, other: LabeledRate) -> Markup {
    let has_rate = one.2.is_some() || other.2.is_some();
    let sum = has_rate.then(|| one.2.unwrap_or_default() + other.2.unwrap_or_default());
    html! {
        td.number data-cell=(cell) data-sort=[sum] {
            @for (sign, name, rate) in [one, other] {
                span.rate data-rate=(name) {
                    span aria-hidden="true" { (sign) " " }
                    span.sr { (name) " " }
                    span.value { (format_value(PlotUnit::BytesPerSecond, rate)) }
                }
            }
        }
    }
}

/// A value with its unit, or the text for unknown values.
pub(super) fn format_value(unit: PlotUnit, number: Option<f64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| unit.format(number))
}

/// A duration or an age.
pub(super) fn format_age(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|it| it.is_finite()) else {
        return UNKNOWN.to_owned();
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and the cast saturates"
    )]
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        (..) => format!("{days} d {} h", hours % 24),
    }
}

/// State and health status.
pub(super) fn state_text(state: &str, health: Option<&str>) -> String {
    match health {
        Some(health) => format!("{state}, {health}"),
        None => state.to_owned(),
    }
}

/// The path of a container's page.
pub(super) fn container_href(key: &str) -> String {
    format!("/containers/{}", percent_encode(key))
}

/// Percent-encodes a key as one path segment.
pub(super) fn percent_encode(key: &str) -> String {
    utf8_percent_encode(key, PATH_ESCAPES).to_string()
}

/// The samples of a container.
pub(super) fn container_series(history: &History, container: &Container) -> Option<Arc<Series>> {
    history.find_container(container.id.as_deref(), &container.cgroup)
}

/// Table header; the script adds buttons for sorting.
pub(super) fn table_head(columns: &[TableColumn]) -> Markup {
    html! {
        thead {
            tr {
                @for column in columns {
                    th scope="col" data-cell=(column.cell) { (column.title) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_text_is_escaped() {
        let hostile = "\"><script>alert(1)</script>&";
        let row = TableRow {
            key: hostile,
            title: hostile,
            href: Some(container_href(hostile)),
            note: Some(hostile.to_owned()),
            image: Some(hostile),
            state: Some(hostile),
            health: Some(hostile),
            ..TableRow::default()
        };
        let html = row.render(CONTAINER_COLUMNS).into_string();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("href=\"/containers/%22%3E%3Cscript%3Ealert%281%29"));
        let tree = format!("<t>{}</t>", html.replace('–', "-"));
        let tree = roxmltree::Document::parse(&tree).unwrap();
        let row = tree.root_element().first_element_child().unwrap();
        assert_eq!(row.attribute("data-key"), Some(hostile));
        assert_eq!(row.children().count(), CONTAINER_COLUMNS.len());
    }

    #[test]
    fn unknown_differs_from_zero() {
        let html = TableRow::default().render(CONTAINER_COLUMNS).into_string();
        assert!(!html.contains(">0<"), "{html}");
        assert!(!html.contains("data-sort=\"0\""), "{html}");
        assert!(html.matches(UNKNOWN).count() >= 8, "{html}");
    }

    #[test]
    fn ages_have_at_most_two_units() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (-5.0, "0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (3_720.0, "1 h 2 min"),
            (200_000.0, "2 d 7 h"),
        ] {
            assert_eq!(format_age(Some(seconds)), text);
        }
        assert_eq!(format_age(None), UNKNOWN);
        assert_eq!(format_age(Some(f64::NAN)), UNKNOWN);
    }

    #[test]
    fn cgroup_path_encodes_to_one_segment() {
        assert_eq!(
            container_href("/system.slice/a b.service"),
            "/containers/%2Fsystem.slice%2Fa%20b.service"
        );
        assert_eq!(container_href("0af1"), "/containers/0af1");
    }
}
