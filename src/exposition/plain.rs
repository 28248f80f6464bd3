//! The older format, version 0.0.4, as `node_exporter` writes it.

use super::{Page, Shown};
use crate::metric::Kind;

pub(super) fn encode(body: &mut String, page: &Page) {
    for group in page.groups() {
        let name = group.first.name.as_ref();
        body.push_str("# HELP ");
        body.push_str(name);
        body.push(' ');
        escape_help(body, &group.first.help);
        body.push_str("\n# TYPE ");
        body.push_str(name);
        body.push_str(kind(group.first.kind));
        write_samples(body, &group);
    }
}

/// Writes a family's samples, which for what is written by hand are the same in
/// both formats.
pub(super) fn write_samples(body: &mut String, group: &Shown<'_>) {
    for (part, labels, value) in group.samples() {
        body.push_str(&group.first.name);
        body.push_str(part.suffix());
        if !labels.is_empty() {
            body.push('{');
            for piece in labels.pieces() {
                body.push_str(piece);
            }
            body.push('}');
        }
        body.push(' ');
        value.write_to(body);
        body.push('\n');
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => " counter\n",
        Kind::Gauge | Kind::Info | Kind::StateSet => " gauge\n",
        Kind::Unknown | Kind::GaugeHistogram => " untyped\n",
        Kind::Histogram => " histogram\n",
        Kind::Summary => " summary\n",
    }
}

fn escape_help(body: &mut String, help: &str) {
    if help.contains(['\\', '\n']) {
        body.push_str(&help.replace('\\', r"\\").replace('\n', r"\n"));
    } else {
        body.push_str(help);
    }
}
