//! Layout: a host line, a table, and a status line with missing data.

use std::{cmp::Ordering, collections::BTreeMap};

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::{Line, Text},
    widgets::{Cell, Row, StatefulWidget, Table, TableState, Widget},
};

use super::client::Said;
use crate::{
    api::said::{Host, Latest, Missing},
    plot::PlotUnit,
};

/// Shown for unknown values.
const UNKNOWN: &str = "–";
/// Columns after the name, and their width.
const COLUMNS: [(&str, u16); 7] = [
    ("KIND", 10),
    ("STATE", 10),
    ("CPU", 7),
    ("MEMORY", 8),
    ("NETWORK", 9),
    ("DISK", 9),
    ("PIDS", 5),
];
/// First of the columns with numbers, which are right-aligned.
const FIRST_NUMERIC_COLUMN: usize = 2;
/// Width of a table without its names.
const FIXED_WIDTH: u16 = 10 + 10 + 7 + 8 + 9 + 9 + 5 + 7;
/// Limits of the name column's width when printing text.
const NAME_WIDTH: std::ops::RangeInclusive<usize> = 15..=64;

/// Sort order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    #[default]
    Cpu,
    Memory,
    Name,
}

/// A table row: a container or a domain.
#[derive(Debug)]
pub(super) struct TopRow<'a> {
    name: &'a str,
    kind: &'a str,
    state: Option<&'a str>,
    latest: Option<&'a Latest>,
}

impl<'a> TopRow<'a> {
    fn cells(&self) -> [String; 7] {
        let none = Latest::default();
        let latest = self.latest.unwrap_or(&none);
        let sum = |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(a, b)| a + b);
        let network = sum(
            latest.received_bytes_per_second,
            latest.sent_bytes_per_second,
        );
        let disk = sum(
            latest.read_bytes_per_second,
            latest.written_bytes_per_second,
        );
        [
            self.kind.to_owned(),
            self.state.unwrap_or(UNKNOWN).to_owned(),
            format_value(PlotUnit::Percent, latest.cpu_percent),
            format_value(PlotUnit::Bytes, latest.memory_bytes),
            format_value(PlotUnit::BytesPerSecond, network),
            format_value(PlotUnit::BytesPerSecond, disk),
            format_value(PlotUnit::Count, latest.pids),
        ]
    }

    /// Descending, unknown values last.
    fn cmp_by(&self, other: &Self, sort: Sort) -> Ordering {
        let value = |it: &TopRow<'a>| match sort {
            Sort::Cpu => it.latest?.cpu_percent,
            Sort::Memory => it.latest?.memory_bytes,
            Sort::Name => None,
        };
        let number = |it| value(it).unwrap_or(f64::NEG_INFINITY);
        let by_number = number(other).total_cmp(&number(self));
        by_number.then_with(|| self.name.cmp(other.name))
    }
}

/// Rows whose name contains the filter, sorted.
pub(super) fn rows<'a>(data: &'a Said, sort: Sort, filter: &str) -> Vec<TopRow<'a>> {
    let domains = data.domains.domains.iter().flatten();
    let mut domains: BTreeMap<_, _> = domains.map(|it| (it.name.as_str(), it)).collect();
    let containers = data.containers.containers.iter().flatten();
    let containers = containers.map(|it| {
        let domain = it.domain.as_ref();
        let domain = domain.and_then(|it| domains.remove(it.name.as_str()));
        let runtime = it.engine.as_deref().or(it.runtime.as_deref());
        TopRow {
            name: it.title(),
            kind: runtime.unwrap_or(&it.kind),
            state: (it.state.as_deref()).or_else(|| domain?.state.as_deref()),
            latest: Some(&it.latest),
        }
    });
    let mut rows: Vec<_> = containers.collect();
    // Domains that do not run have no cgroup.
    rows.extend(domains.into_values().map(|it| TopRow {
        name: &it.name,
        kind: "guest",
        state: it.state.as_deref(),
        latest: None,
    }));
    let filter = filter.to_lowercase();
    rows.retain(|it| it.name.to_lowercase().contains(&filter));
    rows.sort_by(|one, other| one.cmp_by(other, sort));
    rows
}

/// A number with its unit, or [`UNKNOWN`].
fn format_value(unit: PlotUnit, number: Option<f64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| unit.format(number))
}

fn host_line(host: &Host) -> Line<'_> {
    let name = if host.name.is_empty() {
        UNKNOWN
    } else {
        &host.name
    };
    let memory = &host.memory;
    let total = memory.total_bytes;
    let used = total
        .zip(memory.available_bytes)
        .map(|(all, free)| all - free);
    let load = host.load.as_ref();
    let load = load.map(|it| format!("{:.2} {:.2} {:.2}", it.one, it.five, it.fifteen));
    Line::from(vec![
        name.bold(),
        format!(
            "  CPU {} of {} × 100 %  memory {} of {}  load {}",
            format_value(PlotUnit::Percent, host.latest.cpu_percent),
            host.cpus_online
                .map_or_else(|| UNKNOWN.to_owned(), |cpus| cpus.to_string()),
            format_value(PlotUnit::Bytes, used),
            format_value(PlotUnit::Bytes, total),
            load.as_deref().unwrap_or(UNKNOWN),
        )
        .into(),
    ])
}

/// The first missing part of the data and the reason.
pub(super) fn missing_message(data: &Said) -> Option<String> {
    let (host, containers) = (&data.host, &data.containers);
    let is_domain = |it: &crate::api::said::Container| it.domain.is_some();
    let has_domains = containers.containers.iter().flatten().any(is_domain);
    // Most machines have no libvirt, so it is only missing if there are domains.
    let domains = data.domains.missing.iter().filter(|_| has_domains);
    let text = |it: &Missing| format!("missing: {}: {}", it.part, it.reason);
    let parts = host
        .missing
        .iter()
        .chain(&containers.missing)
        .chain(domains);
    let unsampled = host.latest.cpu_percent.is_none() && host.latest.memory_bytes.is_none();
    let unsampled = unsampled
        .then(|| "no samples yet, or history is disabled (--no-collector.history)".to_owned());
    unsampled.or_else(|| parts.map(text).next())
}

/// Draws the whole view, with the caller's status line at the bottom.
pub(super) fn draw(
    data: &Said,
    rows: &[TopRow<'_>],
    sort: Sort,
    last: Line<'_>,
    selected: &mut TableState,
    (area, buffer): (Rect, &mut Buffer),
) {
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    host_line(&data.host).render(top, buffer);
    last.render(bottom, buffer);
    let sorted = match sort {
        Sort::Cpu => "CPU",
        Sort::Memory => "MEMORY",
        Sort::Name => "NAME",
    };
    let title = |(at, (title, _)): (usize, &(&'static str, u16))| {
        let cell = cell(at, (*title).to_owned());
        if *title == sorted {
            cell.underlined()
        } else {
            cell
        }
    };
    let name = Cell::from("NAME");
    let name = if sorted == "NAME" {
        name.underlined()
    } else {
        name
    };
    let titles = std::iter::once(name).chain(COLUMNS.iter().enumerate().map(title));
    let table_rows = rows.iter().map(|it| {
        let cells = it.cells().into_iter().enumerate();
        let cells = cells.map(|(at, text)| cell(at, text));
        Row::new(std::iter::once(Cell::from(it.name)).chain(cells))
    });
    let widths = COLUMNS.iter().map(|(_, width)| Constraint::Length(*width));
    let widths = std::iter::once(Constraint::Fill(1)).chain(widths);
    let table = Table::new(table_rows, widths)
        .header(Row::new(titles).bold())
        .row_highlight_style(Style::new().reversed());
    StatefulWidget::render(table, middle, buffer, selected);
}

fn cell(at: usize, text: String) -> Cell<'static> {
    let text = Text::from(text);
    Cell::from(if at < FIRST_NUMERIC_COLUMN {
        text
    } else {
        text.right_aligned()
    })
}

/// Renders the view as text, of any width and height.
pub(super) fn render_text(data: &Said) -> String {
    let rows = rows(data, Sort::default(), "");
    let names = rows.iter().map(|it| it.name.chars().count());
    let names = names.max().unwrap_or_default();
    let names = names.clamp(*NAME_WIDTH.start(), *NAME_WIDTH.end());
    let width = FIXED_WIDTH.saturating_add(u16::try_from(names).unwrap_or(u16::MAX));
    let height = u16::try_from(rows.len().saturating_add(3)).unwrap_or(u16::MAX);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let last = Line::from(missing_message(data).unwrap_or_default());
    let mut none = TableState::new();
    draw(
        data,
        &rows,
        Sort::default(),
        last,
        &mut none,
        (area, &mut buffer),
    );
    let mut text = String::new();
    for line in buffer.content.chunks(usize::from(width)) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_data() -> Said {
        Said {
            host: serde_json::from_str(
                r#"{"name": "here", "cpus_online": 2, "load": {"1m": 0.5, "5m": 1, "15m": 2.25},
                    "memory": {"total_bytes": 4294967296, "available_bytes": 1073741824},
                    "latest": {"cpu_percent": 12.5}}"#,
            )
            .unwrap(),
            containers: serde_json::from_str(
                r#"{"containers": [
                    {"kind": "container", "id": "ab", "name": "web", "engine": "docker",
                     "state": "running", "latest": {"cpu_percent": 50.1, "memory_bytes": 1048576,
                     "received_bytes_per_second": 900, "sent_bytes_per_second": 600,
                     "read_bytes_per_second": 5, "pids": 17}},
                    {"kind": "container", "id": "cd", "runtime": "containerd"},
                    {"kind": "guest", "domain": {"name": "vm1"}, "latest":
                     {"cpu_percent": 7, "memory_bytes": 2097152}}]}"#,
            )
            .unwrap(),
            domains: serde_json::from_str(
                r#"{"domains": [{"name": "vm1", "state": "paused"},
                    {"name": "Off", "state": "shutoff"}],
                    "missing": [{"part": "libvirt", "reason": "hung"}]}"#,
            )
            .unwrap(),
        }
    }

    fn names(data: &Said, sort: Sort, filter: &str) -> Vec<String> {
        let rows = rows(data, sort, filter);
        rows.iter().map(|it| it.name.to_owned()).collect()
    }

    #[test]
    fn unknown_values_render_as_dash() {
        let text = render_text(&sample_data());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "here  CPU 12.5 % of 2 × 100 %  memory 3 GiB of 4 GiB  load 0.50 1.00 2.25",
                "NAME            KIND       STATE          CPU   MEMORY   NETWORK      DISK  PIDS",
                "web             docker     running     50.1 %    1 MiB  1.5 kB/s         –    17",
                "vm1             guest      paused         7 %    2 MiB         –         –     –",
                "Off             guest      shutoff          –        –         –         –     –",
                "cd              containerd –                –        –         –         –     –",
                "missing: libvirt: hung",
            ]
        );
        let none = super::render_text(&Said::default());
        let machine = "–  CPU – of – × 100 %  memory – of –  load –";
        assert_eq!(none.lines().next(), Some(machine));
        assert!(none.contains("no samples yet"), "{none}");
    }

    #[test]
    fn sorts_descending_and_filters_case_insensitively() {
        let data = sample_data();
        assert_eq!(names(&data, Sort::Cpu, ""), ["web", "vm1", "Off", "cd"]);
        assert_eq!(names(&data, Sort::Memory, ""), ["vm1", "web", "Off", "cd"]);
        assert_eq!(names(&data, Sort::Name, ""), ["Off", "cd", "vm1", "web"]);
        assert_eq!(names(&data, Sort::Cpu, "oFF"), ["Off"]);
    }

    #[test]
    fn no_libvirt_warning_without_domains() {
        let mut data = sample_data();
        data.containers.containers.as_mut().unwrap().pop();
        assert_eq!(missing_message(&data), None);
        let groups = r#"{"missing": [{"part": "control groups", "reason": "hung"}]}"#;
        data.containers = serde_json::from_str(groups).unwrap();
        let reason = missing_message(&data);
        assert_eq!(reason.as_deref(), Some("missing: control groups: hung"));
    }

    #[test]
    fn control_characters_in_names_are_escaped() {
        let mut data = sample_data();
        let containers = data.containers.containers.as_mut().unwrap();
        containers[0].name = Some("a\u{1b}[2Jb\nc".to_owned());
        let text = render_text(&data);
        assert!(text.contains("\na[2Jb "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
