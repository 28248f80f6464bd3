//! The Prometheus text format, version 0.0.4.

use super::{Exposition, MergedFamily};
use crate::metric::MetricType;

pub(super) fn encode(body: &mut String, exposition: &Exposition) {
    for group in exposition.groups() {
        let name = group.first.name.as_ref();
        body.push_str("# HELP ");
        body.push_str(name);
        body.push(' ');
        escape_help(body, &group.first.help);
        body.push_str("\n# TYPE ");
        body.push_str(name);
        body.push_str(type_line_suffix(group.first.kind));
        write_samples(body, &group);
    }
}

/// Writes a family's samples. Used for both formats: those written by this crate are the same in
/// both.
pub(super) fn write_samples(body: &mut String, group: &MergedFamily<'_>) {
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

fn type_line_suffix(kind: MetricType) -> &'static str {
    match kind {
        MetricType::Counter => " counter\n",
        MetricType::Gauge | MetricType::Info | MetricType::StateSet => " gauge\n",
        MetricType::Unknown | MetricType::GaugeHistogram => " untyped\n",
        MetricType::Histogram => " histogram\n",
        MetricType::Summary => " summary\n",
    }
}

fn escape_help(body: &mut String, help: &str) {
    if help.contains(['\\', '\n']) {
        body.push_str(&help.replace('\\', r"\\").replace('\n', r"\n"));
    } else {
        body.push_str(help);
    }
}
