//! `OpenMetrics` 1.0, by `prometheus-client`, and by hand for the few types that it
//! does not have and that only text files bring.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{
        CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue,
        EncodeLabelSet, GaugeValueEncoder, LabelSetEncoder, MetricEncoder, NoLabelSet, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Page, Shown, plain};
use crate::{
    family::{LabelText, Value},
    metric::Kind,
};

pub(super) fn encode(body: &mut String, page: &Arc<Page>) -> fmt::Result {
    // A registry per page: it is dropped with it, so scrapes share nothing.
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(page)));
    text::encode_registry(body, &registry)?;
    for group in page.groups() {
        if let Type::Foreign(kind) = Type::of(&group.first.name, group.first.kind) {
            by_hand(body, &group, kind);
        }
    }
    text::encode_eof(body)
}

/// How a family is written.
enum Type {
    /// As one of the library's types.
    Known(MetricType),
    /// By hand, under this name of the type.
    Foreign(&'static str),
}

impl Type {
    fn of(name: &str, kind: Kind) -> Self {
        match kind {
            Kind::Counter if name.ends_with("_total") => Self::Known(MetricType::Counter),
            Kind::Gauge => Self::Known(MetricType::Gauge),
            Kind::Info => Self::Known(MetricType::Info),
            // A counter of an older name keeps the name and loses the type.
            Kind::Unknown | Kind::Counter => Self::Known(MetricType::Unknown),
            Kind::Histogram => Self::Foreign("histogram"),
            Kind::Summary => Self::Foreign("summary"),
            Kind::GaugeHistogram => Self::Foreign("gaugehistogram"),
            Kind::StateSet => Self::Foreign("stateset"),
        }
    }
}

/// The name in `OpenMetrics`' own header lines, where the suffix of the type is not
/// part of it.
pub(super) fn stem(name: &str, kind: Kind) -> &str {
    match kind {
        Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
        Kind::Info => name.strip_suffix("_info").unwrap_or(name),
        _ => name,
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for group in self.groups() {
            let (name, kind) = (group.first.name.as_ref(), group.first.kind);
            if let Type::Known(kind_on_wire) = Type::of(name, kind) {
                let (stem, unit) = without_unit(stem(name, kind));
                let help = escape_help(&group.first.help);
                let mut metric =
                    encoder.encode_descriptor(stem, &help, unit.as_ref(), kind_on_wire)?;
                for (_, labels, value) in group.samples() {
                    encode_sample(&mut metric, kind_on_wire, Rendered(labels), value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_sample(
    metric: &mut MetricEncoder<'_>,
    kind: MetricType,
    labels: Rendered<'_>,
    value: Value,
) -> fmt::Result {
    if let MetricType::Info = kind {
        return metric.encode_info(&labels);
    }
    // With no labels, `encode_family` would write an empty pair of braces.
    if labels.0.is_empty() {
        return encode_value(metric, kind, value);
    }
    encode_value(&mut metric.encode_family(&labels)?, kind, value)
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: MetricType, value: Value) -> fmt::Result {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

/// Labels that are written as they will stand on the wire.
#[derive(Debug, Clone, Copy)]
struct Rendered<'a>(LabelText<'a>);

impl EncodeLabelSet for Rendered<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use fmt::Write;
        // The key's writer escapes nothing, so it takes them all at once: a third of
        // the time that it takes one by one.
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
            #[expect(clippy::cast_precision_loss, reason = "Prometheus keeps no more")]
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

/// A name without its unit, which `prometheus-client` puts back.
fn without_unit(stem: &str) -> (&str, Option<Unit>) {
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

fn by_hand(body: &mut String, group: &Shown<'_>, kind: &str) {
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
    plain::write_samples(body, group);
}

fn escape_help(help: &str) -> Cow<'_, str> {
    if help.contains(['\\', '\n', '"']) {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        help.replace('"', r#"\""#).into()
    } else {
        help.into()
    }
}
