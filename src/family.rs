//! Samples produced by collectors, grouped into families by metric name.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::Duration};

use crate::{
    error::{Error, Result},
    metric::{Desc, Metric, MetricType},
};

/// The value of one sample. Integers are not converted to floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A non-negative integer.
    Unsigned(u64),
    /// An integer that may be negative.
    Signed(i64),
    /// A float.
    Float(f64),
}

impl Value {
    /// Multiplies a count by a size, such as sectors by bytes per sector. A product that overflows
    /// becomes a float, which is how Prometheus stores it.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus stores every value as a float anyway"
    )]
    pub fn product(count: u64, size: u64) -> Self {
        count
            .checked_mul(size)
            .map_or_else(|| Self::Float(count as f64 * size as f64), Self::Unsigned)
    }

    /// Divides a count by the number of counts per base unit, such as ticks by ticks per second.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus stores every value as a float anyway"
    )]
    pub fn quotient(count: u64, per_unit: u64) -> Self {
        Self::Float(count as f64 / per_unit as f64)
    }

    /// Writes the value in the Prometheus text format.
    pub fn write_to(self, out: &mut String) {
        match self {
            Self::Unsigned(value) => out.push_str(itoa::Buffer::new().format(value)),
            Self::Signed(value) => out.push_str(itoa::Buffer::new().format(value)),
            Self::Float(value) if value.is_finite() => {
                // Parsers read `24.0` and `24` alike; Go writes the shorter one.
                let mut buffer = ryu::Buffer::new();
                let text = buffer.format_finite(value);
                out.push_str(text.strip_suffix(".0").unwrap_or(text));
            }
            Self::Float(value) if value.is_nan() => out.push_str("NaN"),
            Self::Float(value) => out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" }),
        }
    }
}

/// The text is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANumber;

/// Parses a number as the kernel writes it: an integer if possible, else a float. `nan`, `inf` and
/// numbers too large for a float are rejected.
impl FromStr for Value {
    type Err = NotANumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(value) = text.parse() {
            return Ok(Self::Unsigned(value));
        }
        if let Ok(value) = text.parse() {
            return Ok(Self::Signed(value));
        }
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Self::Float(value)),
            _ => Err(NotANumber),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Unsigned(value as u64)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Float(value.as_secs_f64())
    }
}

/// The suffix between a family's name and its labels in one sample. Collectors other than
/// `textfile` use only [`None`](Self::None).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleSuffix {
    /// No suffix.
    None,
    /// `_bucket` of a histogram.
    Bucket,
    /// `_sum` of a histogram or summary.
    Sum,
    /// `_count` of a histogram or summary.
    Count,
    /// `_gsum` of a gauge histogram.
    GaugeSum,
    /// `_gcount` of a gauge histogram.
    GaugeCount,
}

impl SampleSuffix {
    /// The suffix as text.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
            Self::GaugeSum => "_gsum",
            Self::GaugeCount => "_gcount",
        }
    }
}

/// One sample; its labels are in the `labels` of its family.
#[derive(Debug)]
struct FamilySample {
    /// Labels that are already rendered, written before those in the family's text.
    base_labels: Option<BaseLabels>,
    /// End of its labels in the family's text.
    labels_end: usize,
    suffix: SampleSuffix,
    value: Value,
}

/// Labels in the exposition format, rendered once for many samples.
pub type BaseLabels = Arc<str>;

/// Renders labels in the exposition format. Characters that are invalid in a label name become `_`.
#[must_use]
pub fn render_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> BaseLabels {
    let mut text = String::new();
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        let name: String = name.chars().map(sanitize_char).collect();
        write_label(&mut text, &name, value);
    }
    text.into()
}

/// The labels of one sample in the exposition format, without braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelText<'a> {
    base: &'a str,
    own: &'a str,
}

impl<'a> LabelText<'a> {
    /// The parts to write in sequence; all are empty if there is no label.
    #[must_use]
    pub fn pieces(self) -> [&'a str; 3] {
        let comma = !self.base.is_empty() && !self.own.is_empty();
        [self.base, if comma { "," } else { "" }, self.own]
    }

    /// The value of a label, unescaped.
    #[must_use]
    pub fn value(self, name: &str) -> Option<String> {
        [self.base, self.own].into_iter().find_map(|mut text| {
            loop {
                let (label, rest) = text.split_once("=\"")?;
                let mut chars = rest.chars();
                let mut value = String::new();
                loop {
                    value.push(match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            'n' => '\n',
                            c => c,
                        },
                        c => c,
                    });
                }
                if label.trim_start_matches(',') == name {
                    return Some(value);
                }
                text = chars.as_str();
            }
        })
    }

    /// Whether there is no label.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.base.is_empty() && self.own.is_empty()
    }

    /// All labels as one string.
    #[must_use]
    pub fn joined(self) -> Cow<'a, str> {
        match (self.base, self.own) {
            ("", labels) | (labels, "") => labels.into(),
            _ => self.pieces().concat().into(),
        }
    }
}

/// All samples of one metric.
#[derive(Debug)]
pub struct Family {
    /// The full name, as in the Prometheus text format.
    pub name: Cow<'static, str>,
    /// The HELP text.
    pub help: Cow<'static, str>,
    /// The type.
    pub kind: MetricType,
    /// The description it was created from; `None` if it was read from a text file.
    pub desc: Option<&'static Desc>,
    /// The labels of all samples, concatenated, in the exposition format: it is the same in both
    /// formats, so they are rendered once, here.
    labels: String,
    samples: Vec<FamilySample>,
}

impl Family {
    /// Creates a family without a description, such as one from a text file.
    #[must_use]
    pub fn new(name: String, help: String, kind: MetricType) -> Self {
        Self {
            name: name.into(),
            help: help.into(),
            kind,
            desc: None,
            labels: String::new(),
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub fn push<'a>(
        &mut self,
        suffix: SampleSuffix,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: Value,
    ) {
        self.push_with(None, suffix, labels, value);
    }

    fn push_with<'a>(
        &mut self,
        base_labels: Option<BaseLabels>,
        suffix: SampleSuffix,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: Value,
    ) {
        let start = self.labels.len();
        for (name, value) in labels {
            if self.labels.len() > start {
                self.labels.push(',');
            }
            write_label(&mut self.labels, name, value);
        }
        self.samples.push(FamilySample {
            base_labels,
            labels_end: self.labels.len(),
            suffix,
            value,
        });
    }

    /// The samples: suffix, labels and value.
    pub fn samples(&self) -> impl Iterator<Item = (SampleSuffix, LabelText<'_>, Value)> {
        let mut start = 0;
        self.samples.iter().map(move |sample| {
            let labels = LabelText {
                base: sample.base_labels.as_deref().unwrap_or_default(),
                own: self
                    .labels
                    .get(start..sample.labels_end)
                    .unwrap_or_default(),
            };
            start = sample.labels_end;
            (sample.suffix, labels, sample.value)
        })
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

impl fmt::Display for LabelText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces()
            .into_iter()
            .try_for_each(|piece| f.write_str(piece))
    }
}

fn write_label(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    write_escaped(out, value);
    out.push('"');
}

fn write_escaped(out: &mut String, value: &str) {
    let needs_escape = |b: u8| matches!(b, b'\\' | b'"' | b'\n');
    if !value.bytes().any(needs_escape) {
        out.push_str(value);
        return;
    }
    for c in value.chars() {
        match c {
            '\\' => out.push_str(r"\\"),
            '"' => out.push_str(r#"\""#),
            '\n' => out.push_str(r"\n"),
            c => out.push(c),
        }
    }
}

/// The samples of one collector run, and the errors that caused parts to be left out.
#[derive(Debug, Default)]
pub struct Families {
    list: Vec<Family>,
    /// Index of the family of the last sample. Collectors add the samples of one device after the
    /// other in the same order, so the next family is nearly always the next in the list: a search
    /// from here takes one step and needs no hashing.
    last: usize,
    error_count: usize,
    first_error: Option<Error>,
}

impl Families {
    /// Adds a sample.
    pub fn add<const N: usize>(
        &mut self,
        metric: &'static Metric<N>,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        let desc = metric.desc();
        let family = self.get_or_insert(desc, desc.name, || desc.name.into());
        family.push(SampleSuffix::None, label_pairs(desc, &labels), value.into());
    }

    /// Adds a sample with labels that are already rendered: those of the metric's `base_labels`.
    /// Only a reference to them is stored.
    pub fn add_with<const N: usize>(
        &mut self,
        metric: &'static Metric<N>,
        base_labels: &BaseLabels,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        let desc = metric.desc();
        debug_assert!(
            !desc.base_labels.is_empty(),
            "{} has no base labels",
            desc.name
        );
        let family = self.get_or_insert(desc, desc.name, || desc.name.into());
        let base = Some(BaseLabels::clone(base_labels));
        family.push_with(
            base,
            SampleSuffix::None,
            label_pairs(desc, &labels),
            value.into(),
        );
    }

    /// Adds a sample whose metric name has `word` in place of the `*`. Characters that are invalid
    /// in a name become `_`.
    pub fn add_named<const N: usize>(
        &mut self,
        metric: &'static Metric<N>,
        word: &str,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        let desc = metric.desc();
        let mut name = String::with_capacity(desc.name.len() + word.len());
        for c in desc.name.chars() {
            match c {
                '*' => name.extend(word.chars().map(sanitize_char)),
                c => name.push(c),
            }
        }
        let family = self.get_or_insert(desc, &name, || name.clone().into());
        if let (Cow::Borrowed(help), true) = (&family.help, desc.help.contains('*')) {
            family.help = help.replace('*', word).into();
        }
        family.push(SampleSuffix::None, label_pairs(desc, &labels), value.into());
    }

    /// Adds a sample with additional labels whose names are only known at run time. Characters that
    /// are invalid in a label name become `_`.
    pub fn add_dynamic<const N: usize>(
        &mut self,
        metric: &'static Metric<N>,
        labels: [&str; N],
        extra_labels: &[(&str, &str)],
        value: impl Into<Value>,
    ) {
        let desc = metric.desc();
        let more: Vec<_> = extra_labels
            .iter()
            .map(|(name, value)| (name.chars().map(sanitize_char).collect::<String>(), *value))
            .collect();
        let family = self.get_or_insert(desc, desc.name, || desc.name.into());
        let all = label_pairs(desc, &labels).chain(more.iter().map(|(n, v)| (n.as_str(), *v)));
        family.push(SampleSuffix::None, all, value.into());
    }

    /// Adds a family without a description.
    pub fn push(&mut self, family: Family) {
        self.list.push(family);
    }

    /// Returns the value, or `None` after recording the error.
    ///
    /// If the kernel reported that there is no value ([`Error::is_unavailable`]), no error is
    /// recorded.
    pub fn ok_or_skip<T>(&mut self, read: Result<T>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                if !error.is_unavailable() {
                    self.record_error(error);
                }
                None
            }
        }
    }

    /// Records an error that caused a part to be left out.
    pub fn record_error(&mut self, error: Error) {
        self.error_count += 1;
        self.first_error.get_or_insert(error);
    }

    /// The number of recorded errors, and the first of them.
    #[must_use]
    pub fn errors(&self) -> (usize, Option<&Error>) {
        (self.error_count, self.first_error.as_ref())
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The families, in the order they were first added.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.list.iter()
    }

    /// The family at this index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Family> {
        self.list.get(index)
    }

    /// Removes a family and returns it.
    pub fn remove(&mut self, name: &str) -> Option<Family> {
        let at = self.list.iter().position(|family| family.name == name)?;
        self.last = 0;
        Some(self.list.remove(at))
    }

    fn get_or_insert(
        &mut self,
        desc: &'static Desc,
        name: &str,
        new_name: impl FnOnce() -> Cow<'static, str>,
    ) -> &mut Family {
        let matches = |family: &Family| {
            family.desc.is_some_and(|d| std::ptr::eq(d, desc)) && family.name == name
        };
        let (before, after) = self.list.split_at(self.last.min(self.list.len()));
        let found = after
            .iter()
            .position(matches)
            .map(|at| before.len() + at)
            .or_else(|| before.iter().position(matches));
        self.last = found.unwrap_or_else(|| {
            self.list.push(Family {
                name: new_name(),
                help: desc.help.into(),
                kind: desc.kind,
                desc: Some(desc),
                labels: String::new(),
                samples: Vec::new(),
            });
            self.list.len() - 1
        });
        &mut self.list[self.last]
    }
}

#[cfg(test)]
impl Families {
    /// Every sample in the Prometheus text format, for the collectors' tests.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for family in &self.list {
            for (part, labels, value) in family.samples() {
                let mut line = format!("{}{}", family.name, part.suffix());
                if !labels.is_empty() {
                    line += &format!("{{{labels}}}");
                }
                line.push(' ');
                value.write_to(&mut line);
                lines.push(line);
            }
        }
        lines
    }
}

fn label_pairs<'a>(desc: &Desc, values: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
    desc.labels.iter().copied().zip(values.iter().copied())
}

fn sanitize_char(c: char) -> char {
    if c.is_ascii_alphanumeric() { c } else { '_' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    metrics! {
        /// Field *.
        FIELD: Gauge = "x_*_bytes" ["device"];
        /// Another.
        OTHER: Counter = "x_other_total" ["device"];
        /// Bytes per CPU.
        WITH_BASE: Gauge = "x_thing_bytes" base BASE ["cpu"];
        /// Things.
        ONLY_BASE: Gauge = "x_things" base BASE [];
    }

    const BASE: &[&str] = &["id", "label_*"];

    #[test]
    fn rejects_non_numeric_text() {
        for text in ["nan", "-NaN", "inf", "-infinity", "1e999", "", " 1", "0x1"] {
            assert_eq!(text.parse::<Value>(), Err(NotANumber), "{text}");
        }
        let large = "18446744073709551616".parse();
        assert_eq!(large, Ok(Value::Float(18_446_744_073_709_551_616.0)));
        assert_eq!("-7".parse(), Ok(Value::Signed(-7)));
    }

    #[test]
    fn samples_join_their_family_in_any_order() {
        let mut out = Families::default();
        for device in ["a", "b\"\\\n"] {
            out.add(&OTHER, [device], 1_u64);
            out.add_named(&FIELD, "Free (now)", [device], 2.5);
        }
        out.add(&OTHER, ["c"], 3_i64);
        assert_eq!(METRICS.len(), 4);
        assert_eq!(
            out.lines(),
            [
                r#"x_other_total{device="a"} 1"#,
                r#"x_other_total{device="b\"\\\n"} 1"#,
                r#"x_other_total{device="c"} 3"#,
                r#"x_Free__now__bytes{device="a"} 2.5"#,
                r#"x_Free__now__bytes{device="b\"\\\n"} 2.5"#,
            ]
        );
        assert_eq!(out.iter().nth(1).unwrap().help, "Field Free (now).");
    }

    #[test]
    fn label_value_is_unescaped() {
        let mut out = Families::default();
        let base = render_labels([("id", "/a\\,x=\"y\""), ("e", "")]);
        out.add_with(&WITH_BASE, &base, ["7\n8"], 1_u64);
        let (_, labels, _) = out.iter().next().unwrap().samples().next().unwrap();
        for (name, value) in [
            ("id", Some("/a\\,x=\"y\"")),
            ("e", Some("")),
            ("cpu", Some("7\n8")),
            ("x", None),
            ("u", None),
        ] {
            assert_eq!(labels.value(name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn base_labels_come_first_and_are_escaped() {
        let mut out = Families::default();
        let base = render_labels([("id", "/a"), ("label_x.y", "\"q\"\n")]);
        out.add_with(&WITH_BASE, &base, ["0"], 1_u64);
        out.add_with(&ONLY_BASE, &base, [], 2_u64);
        assert_eq!(
            out.lines(),
            [
                r#"x_thing_bytes{id="/a",label_x_y="\"q\"\n",cpu="0"} 1"#,
                r#"x_things{id="/a",label_x_y="\"q\"\n"} 2"#,
            ]
        );
    }

    #[test]
    fn overflowing_product_becomes_float() {
        assert_eq!(Value::product(3, 512), Value::Unsigned(1536));
        let huge = Value::product(u64::MAX, 512);
        assert_eq!(huge, Value::Float(9_444_732_965_739_290_427_392.0));
    }

    #[test]
    fn unavailable_value_is_not_an_error() {
        let mut out = Families::default();
        assert_eq!(
            out.ok_or_skip::<u64>(Err(Error::NotFound("/x".into()))),
            None
        );
        assert_eq!(out.errors().0, 0);
        let denied = Error::io("/y", std::io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(out.ok_or_skip::<u64>(Err(denied)), None);
        assert_eq!(out.errors().0, 1);
        assert!(out.errors().1.unwrap().to_string().starts_with("/y"));
    }

    #[test]
    fn parses_kernel_numbers() {
        for (text, value) in [
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            ("-1", Value::Signed(-1)),
            ("0.25", Value::Float(0.25)),
        ] {
            assert_eq!(text.parse::<Value>().unwrap(), value);
        }
        assert!("x".parse::<Value>().is_err());
    }
}
