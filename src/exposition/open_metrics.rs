//! `OpenMetrics` 1.0, encoded by `prometheus-client`. Types it does not support, which only text
//! files have, are encoded here.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{
        CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue,
        EncodeLabelSet, GaugeValueEncoder, LabelSetEncoder, MetricEncoder, NoLabelSet, text,
    },
    metrics::MetricType as WireType,
    registry::{Registry, Unit},
};

use super::{Exposition, MergedFamily, text_format};
use crate::{
    family::{LabelText, Value},
    metric::MetricType,
};

pub(super) fn encode(body: &mut String, exposition: &Arc<Exposition>) -> fmt::Result {
    // A registry per exposition, dropped with it: scrapes share no state.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(exposition)));
    text::encode_registry(body, &registry)?;
    for group in exposition.groups() {
        if let Encoding::Manual(kind) = Encoding::for_family(&group.first.name, group.first.kind) {
            encode_manually(body, &group, kind);
        }
    }
    text::encode_eof(body)
}

/// How a family is encoded.
enum Encoding {
    /// By the library, as this type.
    Library(WireType),
    /// By this module, with this type name.
    Manual(&'static str),
}

impl Encoding {
    fn for_family(name: &str, kind: MetricType) -> Self {
        match kind {
            MetricType::Counter if name.ends_with("_total") => Self::Library(WireType::Counter),
            MetricType::Gauge => Self::Library(WireType::Gauge),
            MetricType::Info => Self::Library(WireType::Info),
            // A counter without the suffix keeps its name and loses its type.
            MetricType::Unknown | MetricType::Counter => Self::Library(WireType::Unknown),
            MetricType::Histogram => Self::Manual("histogram"),
            MetricType::Summary => Self::Manual("summary"),
            MetricType::GaugeHistogram => Self::Manual("gaugehistogram"),
            MetricType::StateSet => Self::Manual("stateset"),
        }
    }
}

/// The name in the header lines of `OpenMetrics`, which does not include the suffix of the type.
pub(super) fn stem(name: &str, kind: MetricType) -> &str {
    match kind {
        MetricType::Counter => name.strip_suffix("_total").unwrap_or(name),
        MetricType::Info => name.strip_suffix("_info").unwrap_or(name),
        _ => name,
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for group in self.groups() {
            let (name, kind) = (group.first.name.as_ref(), group.first.kind);
            if let Encoding::Library(wire_type) = Encoding::for_family(name, kind) {
                let (stem, unit) = split_unit(stem(name, kind));
                let help = escape_help(&group.first.help);
                let mut metric =
                    encoder.encode_descriptor(stem, &help, unit.as_ref(), wire_type)?;
                for (_, labels, value) in group.samples() {
                    encode_sample(&mut metric, wire_type, RenderedLabels(labels), value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_sample(
    metric: &mut MetricEncoder<'_>,
    kind: WireType,
    labels: RenderedLabels<'_>,
    value: Value,
) -> fmt::Result {
    if let WireType::Info = kind {
        return metric.encode_info(&labels);
    }
    // With no labels, `encode_family` would write an empty pair of braces.
    if labels.0.is_empty() {
        return encode_value(metric, kind, value);
    }
    encode_value(&mut metric.encode_family(&labels)?, kind, value)
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: WireType, value: Value) -> fmt::Result {
    match kind {
        WireType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

/// Labels that are already in the exposition format.
#[derive(Debug, Clone, Copy)]
struct RenderedLabels<'a>(LabelText<'a>);

impl EncodeLabelSet for RenderedLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use fmt::Write;
        // The writer of the key does not escape, so all labels are written through it at once: a
        // third of the time of writing them one by one.
        let mut label = encoder.encode_label();
        let mut key = label.encode_label_key()?;
        self.0
            .pieces()
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .try_for_each(|piece| key.write_str(piece))
    }
}

impl EncodeCounterValue for Value {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match *self {
            Self::Unsigned(value) => EncodeCounterValue::encode(&value, encoder),
            #[expect(clippy::cast_precision_loss, reason = "Prometheus stores floats")]
            Self::Signed(value) => EncodeCounterValue::encode(&(value as f64), encoder),
            Self::Float(value) => EncodeCounterValue::encode(&value, encoder),
        }
    }
}

impl EncodeGaugeValue for Value {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match *self {
            Self::Unsigned(value) => EncodeGaugeValue::encode(&value, encoder),
            Self::Signed(value) => EncodeGaugeValue::encode(&value, encoder),
            Self::Float(value) => EncodeGaugeValue::encode(&value, encoder),
        }
    }
}

/// Splits the unit off a name; `prometheus-client` appends it again.
fn split_unit(stem: &str) -> (&str, Option<Unit>) {
    for unit in [
        Unit::Seconds,
        Unit::Bytes,
        Unit::Celsius,
        Unit::Volts,
        Unit::Joules,
    ] {
        let bare = stem.strip_suffix(unit.as_str());
        if let Some(bare) = bare.and_then(|bare| bare.strip_suffix('_')) {
            return (bare, Some(unit));
        }
    }
    (stem, None)
}

fn encode_manually(body: &mut String, group: &MergedFamily<'_>, kind: &str) {
    let name = group.first.name.as_ref();
    let help = escape_help(&group.first.help);
    for text in [
        "# HELP ",
        name,
        " ",
        &help,
        "\n# TYPE ",
        name,
        " ",
        kind,
        "\n",
    ] {
        body.push_str(text);
    }
    text_format::write_samples(body, group);
}

fn escape_help(help: &str) -> Cow<'_, str> {
    if help.contains(['\\', '\n', '"']) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        help.replace('"', r#"\""#).into()
    } else {
        help.into()
    }
}
