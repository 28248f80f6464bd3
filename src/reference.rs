//! The README's list of metrics, written from their descriptions.

use crate::{
    collector::Entry,
    metric::{Desc, Kind},
};

/// The comment the list starts after.
pub const BEGIN: &str = "<!-- metrics: written by `UPDATE=1 cargo test`, do not edit -->\n";
/// The comment the list ends before.
pub const END: &str = "<!-- /metrics -->\n";

/// The list, as Markdown.
#[must_use]
pub fn markdown(collectors: &[Entry], own: &[&Desc]) -> String {
    let mut out = String::new();
    for entry in collectors.iter().filter(|entry| !entry.is_to_come()) {
        let state = if entry.enabled { "On" } else { "Off" };
        out += &format!(
            "\n### {}\n\nCollects {}. {state} by default.\n\n",
            entry.name, entry.about
        );
        table(&mut out, entry.metrics);
    }
    out += "\n### The exporter itself\n\nIn every answer, whatever the collectors.\n\n";
    table(&mut out, own);
    let to_come: Vec<_> = collectors
        .iter()
        .filter(|entry| entry.is_to_come())
        .map(|entry| format!("`{}`", entry.name))
        .collect();
    if !to_come.is_empty() {
        out += &format!(
            "\n### Not built yet\n\nThese collectors of node_exporter's are still to come. Their \
             flags are taken, and they collect nothing: {}.\n",
            to_come.join(", ")
        );
    }
    out + "\n"
}

fn table(out: &mut String, metrics: &[&Desc]) {
    *out += "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n";
    for Desc {
        name,
        help,
        kind,
        labels,
        block,
    } in metrics
    {
        let labels: Vec<_> = block
            .iter()
            .chain(*labels)
            .map(|label| format!("`{label}`"))
            .collect();
        let help = help.replace('|', r"\|");
        let (kind, labels) = (word(*kind), labels.join(", "));
        *out += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Info => "info",
        Kind::Unknown => "untyped",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
        Kind::GaugeHistogram => "gauge histogram",
        Kind::StateSet => "state set",
    }
}

/// A README with the list brought up to date, or `None` if it has no place for it.
#[must_use]
pub fn update(readme: &str, collectors: &[Entry], own: &[&Desc]) -> Option<String> {
    let (head, rest) = readme.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some([head, BEGIN, &markdown(collectors, own), END, tail].concat())
}
