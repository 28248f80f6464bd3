//! Parser of the two text formats, as strict as `node_exporter` for the older of them.
//!
//! It is part of the collector and not of the sources because its result consists of metric
//! types: kinds, parts of a histogram, values.
//!
//! The input is untrusted, so the parser works line by line without recursion, borrows from the
//! text where possible, and stops at the caller's limit. It is stricter than `node_exporter` in
//! two ways: a name must be followed by white space or a brace (`node_exporter` parses `x-1` as
//! value -1 of `x`), and label names that begin with `__` are rejected.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write},
};

use crate::{
    error::{Error, Result},
    family::{SampleSuffix, Value},
    metric::MetricType,
    sources::UserFile,
};

/// Maximum number of characters of the input in an error.
const MAX_EXCERPT: usize = 60;

#[derive(Debug)]
pub(super) struct ParsedFile<'a> {
    pub families: Vec<ParsedFamily<'a>>,
    /// Lines of valid samples that were skipped because they have no meaning, and the reason.
    pub skipped: Vec<(usize, &'static str)>,
    /// Number of samples, labels and families.
    pub item_count: usize,
}

/// A family in a file.
#[derive(Debug)]
pub(super) struct ParsedFamily<'a> {
    /// The name in terms of the older format.
    pub name: Cow<'a, str>,
    pub kind: MetricType,
    pub help: Option<String>,
    pub samples: Vec<ParsedSample<'a>>,
    /// Line of the first occurrence.
    pub line: usize,
}

/// A sample line.
#[derive(Debug)]
pub(super) struct ParsedSample<'a> {
    pub part: SampleSuffix,
    /// Sorted by name, without empty labels, and without `le` or `quantile` if stored in
    /// `bound`.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Value of `le` or `quantile`.
    pub bound: Option<f64>,
    pub value: Value,
}

/// Parses a file with at most `max` samples, labels and families.
pub(super) fn parse(file: &UserFile, max: usize) -> Result<ParsedFile<'_>> {
    let body = file.body.as_slice();
    let is_open_metrics = is_open_metrics(body);
    let mut parser = Parser {
        is_open_metrics,
        builders: Vec::new(),
        by_name: HashMap::new(),
        item_count: 0,
        max_items: max,
    };
    let mut skipped = Vec::new();
    let mut lines = body.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        let is_last = lines.peek().is_none();
        let parsed = if is_last && !line.iter().all(|byte| is_blank(*byte)) && line != b"# EOF" {
            // The writer may not have finished the line.
            Err("last line has no newline".to_owned())
        } else {
            parser.parse_line(i + 1, line)
        };
        let reason = parsed.map_err(|reason| Error::Parse {
            path: file.path.clone(),
            line: i + 1,
            reason,
        })?;
        skipped.extend(reason.map(|reason| (i + 1, reason)));
    }
    Ok(ParsedFile {
        item_count: parser.item_count,
        families: parser
            .builders
            .into_iter()
            .filter_map(|builder| builder.build(is_open_metrics))
            .collect(),
        skipped,
    })
}

fn is_open_metrics(body: &[u8]) -> bool {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body == b"# EOF" || body.ends_with(b"\n# EOF")
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A family that is being built from its lines.
#[derive(Debug)]
struct FamilyBuilder<'a> {
    name: &'a str,
    /// `None` until a `TYPE` line or a sample without one.
    kind: Option<MetricType>,
    help: Option<String>,
    samples: Vec<ParsedSample<'a>>,
    line: usize,
}

/// Meaning of the suffix after the family name in the name of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SuffixMeaning {
    Part(SampleSuffix),
    /// Part of the family name in the older format, but not in `OpenMetrics`.
    NameSuffix,
    /// Creation time; exists only in `OpenMetrics` and is ignored.
    Created,
}

const SUFFIXES: &[(&str, SuffixMeaning, &[MetricType])] = &[
    (
        "_count",
        SuffixMeaning::Part(SampleSuffix::Count),
        &[MetricType::Summary, MetricType::Histogram],
    ),
    (
        "_sum",
        SuffixMeaning::Part(SampleSuffix::Sum),
        &[MetricType::Summary, MetricType::Histogram],
    ),
    (
        "_bucket",
        SuffixMeaning::Part(SampleSuffix::Bucket),
        &[MetricType::Histogram, MetricType::GaugeHistogram],
    ),
    (
        "_gcount",
        SuffixMeaning::Part(SampleSuffix::GaugeCount),
        &[MetricType::GaugeHistogram],
    ),
    (
        "_gsum",
        SuffixMeaning::Part(SampleSuffix::GaugeSum),
        &[MetricType::GaugeHistogram],
    ),
    ("_total", SuffixMeaning::NameSuffix, &[MetricType::Counter]),
    ("_info", SuffixMeaning::NameSuffix, &[MetricType::Info]),
    (
        "_created",
        SuffixMeaning::Created,
        &[
            MetricType::Counter,
            MetricType::Histogram,
            MetricType::Summary,
        ],
    ),
];

/// Returns the suffix that `OpenMetrics` omits from the family name.
fn name_suffix(kind: MetricType) -> &'static str {
    match kind {
        MetricType::Counter => "_total",
        MetricType::Info => "_info",
        _ => "",
    }
}

fn parse_type(word: &str, is_open_metrics: bool) -> Option<MetricType> {
    Some(match (word, is_open_metrics) {
        ("counter", _) => MetricType::Counter,
        ("gauge", _) => MetricType::Gauge,
        ("histogram", _) => MetricType::Histogram,
        ("summary", _) => MetricType::Summary,
        ("untyped", _) | ("unknown", true) => MetricType::Unknown,
        ("info", true) => MetricType::Info,
        ("stateset", true) => MetricType::StateSet,
        ("gaugehistogram", true) => MetricType::GaugeHistogram,
        _ => return None,
    })
}

#[derive(Debug)]
struct Parser<'a> {
    is_open_metrics: bool,
    builders: Vec<FamilyBuilder<'a>>,
    by_name: HashMap<&'a str, usize>,
    item_count: usize,
    max_items: usize,
}

/// Reason why a valid line is skipped.
type LineSkipReason = Option<&'static str>;

impl<'a> Parser<'a> {
    fn parse_line(&mut self, number: usize, line: &'a [u8]) -> Result<LineSkipReason, String> {
        // Comments and help texts may be in any encoding.
        let valid = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                let valid = line.get(..error.valid_up_to()).unwrap_or_default();
                std::str::from_utf8(valid).unwrap_or_default()
            }
        };
        let mut cursor = Cursor(valid);
        cursor.skip_blanks();
        if cursor.eat('#') {
            let before = valid.len() - cursor.0.len();
            let after = line.get(before..).unwrap_or_default();
            return self.parse_comment(number, cursor, after).map(|()| None);
        }
        if valid.len() < line.len() {
            return Err("not UTF-8".to_owned());
        }
        if cursor.0.is_empty() {
            return Ok(None);
        }
        self.parse_sample(number, cursor)
    }

    /// Parses the text after a `#`. `line` has the same text as `cursor`, but continues after
    /// bytes that are not UTF-8.
    fn parse_comment(
        &mut self,
        number: usize,
        mut cursor: Cursor<'a>,
        line: &[u8],
    ) -> Result<(), String> {
        let len = cursor.0.len();
        cursor.skip_blanks();
        let keyword = cursor.word();
        if !matches!(keyword, "HELP" | "TYPE") {
            return Ok(());
        }
        cursor.skip_blanks();
        let name = cursor.name(is_in_metric_name);
        let rest = line.get(len - cursor.0.len()..).unwrap_or_default();
        let Some((after_name, rest)) = rest.split_first() else {
            return Ok(());
        };
        if name.is_empty() || !is_blank(*after_name) {
            return Err(format!("missing metric name after {keyword}"));
        }
        let rest = String::from_utf8_lossy(rest);
        let text = rest.trim_start_matches([' ', '\t']);
        if text.is_empty() {
            return Ok(());
        }
        let is_open_metrics = self.is_open_metrics;
        let builder = self.builder_for_metadata(number, name)?;
        if keyword == "HELP" {
            let help = unescape_help(text)?;
            if builder.help.replace(help).is_some() {
                return Err(format!("duplicate HELP for {name}"));
            }
        } else {
            let text = if is_open_metrics {
                text.to_owned()
            } else {
                text.to_ascii_lowercase()
            };
            let kind = parse_type(&text, is_open_metrics)
                .ok_or_else(|| format!("{name} has unknown type {}", Excerpt(&text)))?;
            if builder.kind.replace(kind).is_some() {
                return Err(format!(
                    "TYPE of {name} is duplicate or follows its samples"
                ));
            }
        }
        Ok(())
    }

    fn parse_sample(
        &mut self,
        number: usize,
        mut cursor: Cursor<'a>,
    ) -> Result<LineSkipReason, String> {
        let line = cursor.0;
        let name = cursor.name(is_in_metric_name);
        if name.is_empty() || !cursor.0.starts_with([' ', '\t', '{']) {
            return Err(format!("invalid metric name: {}", Excerpt(line)));
        }
        cursor.skip_blanks();
        self.count_item()?;
        let mut labels = self.parse_labels(&mut cursor)?;
        cursor.skip_blanks();
        let word = cursor.word();
        let value = self::parse_number(word)
            .ok_or_else(|| format!("invalid value of {name}: {}", Excerpt(word)))?;
        self.check_end(cursor)?;

        labels.sort_by_key(|(name, _)| *name);
        let mut pairs = labels.iter().zip(labels.iter().skip(1));
        if let Some(((duplicate, _), _)) = pairs.find(|((a, _), (b, _))| a == b) {
            return Err(format!("{name} has duplicate label {}", Excerpt(duplicate)));
        }
        let (is_open_metrics, (builder, suffix)) =
            (self.is_open_metrics, self.builder_for_sample(number, name)?);
        let kind = *builder.kind.get_or_insert(MetricType::Unknown);
        let part = match suffix {
            SuffixMeaning::Part(part) => part,
            SuffixMeaning::NameSuffix => SampleSuffix::None,
            SuffixMeaning::Created => return Ok(None),
        };
        if is_open_metrics && !name.ends_with(name_suffix(kind)) {
            return Err(format!(
                "sample of {name} must be named {name}{}",
                name_suffix(kind)
            ));
        }
        if kind == MetricType::Info && value != Value::Unsigned(1) && value != Value::Float(1.0) {
            return Err(format!("value of info metric {name} must be 1"));
        }
        let bound = match bound_label(kind) {
            Some(label) => take_bound(&mut labels, label)?,
            None => None,
        };
        let bound = match (part, bound) {
            (SampleSuffix::Bucket, None) => return Ok(Some("bucket without le label")),
            (SampleSuffix::None, None) if kind == MetricType::Summary => {
                return Ok(Some("summary sample without quantile label"));
            }
            (SampleSuffix::None, _)
                if matches!(kind, MetricType::Histogram | MetricType::GaugeHistogram) =>
            {
                return Ok(Some(
                    "histogram sample without _bucket, _sum or _count suffix",
                ));
            }
            (SampleSuffix::Bucket | SampleSuffix::None, bound) => bound,
            _ => None,
        };
        // An empty label is equivalent to a missing one.
        labels.retain(|(_, value)| !value.is_empty());
        builder.samples.push(ParsedSample {
            part,
            labels,
            bound,
            value,
        });
        Ok(None)
    }

    /// Parses labels in braces, if any.
    fn parse_labels(
        &mut self,
        cursor: &mut Cursor<'a>,
    ) -> Result<Vec<(&'a str, Cow<'a, str>)>, String> {
        let mut labels = Vec::new();
        if !cursor.eat('{') {
            return Ok(labels);
        }
        loop {
            cursor.skip_blanks();
            if cursor.eat('}') {
                return Ok(labels);
            }
            let at = cursor.0;
            let name = cursor.name(is_in_label_name);
            if name.is_empty() {
                return Err(format!("invalid label name: {}", Excerpt(at)));
            }
            if name.starts_with("__") {
                return Err(format!("label name {} is reserved", Excerpt(name)));
            }
            cursor.skip_blanks();
            if !cursor.eat('=') {
                return Err(format!("missing = after label name {}", Excerpt(name)));
            }
            cursor.skip_blanks();
            if !cursor.eat('"') {
                return Err(format!("value of label {} is not quoted", Excerpt(name)));
            }
            let value = cursor.label_value()?;
            self.count_item()?;
            labels.push((name, value));
            cursor.skip_blanks();
            if !cursor.eat(',') && !cursor.0.starts_with('}') {
                return Err(format!("expected , or }} after label {}", Excerpt(name)));
            }
        }
    }

    /// Checks that nothing follows the value, except for an exemplar.
    fn check_end(&self, mut cursor: Cursor<'_>) -> Result<(), String> {
        if cursor.0.is_empty() {
            return Ok(());
        }
        cursor.skip_blanks();
        // An exemplar is ignored.
        if self.is_open_metrics && cursor.0.starts_with('#') {
            return Ok(());
        }
        let word = cursor.word();
        Err(match parse_number(word) {
            Some(_) => format!("timestamps are not supported: {}", Excerpt(word)),
            None => format!("unexpected text after value: {}", Excerpt(word)),
        })
    }

    fn count_item(&mut self) -> Result<(), String> {
        self.item_count += 1;
        if self.item_count > self.max_items {
            return Err("too many samples and labels in all files".to_owned());
        }
        Ok(())
    }

    /// Returns the family that a `HELP` or `TYPE` line describes.
    fn builder_for_metadata(
        &mut self,
        line: usize,
        name: &'a str,
    ) -> Result<&mut FamilyBuilder<'a>, String> {
        let found = if self.is_open_metrics {
            self.by_name.get(name).copied()
        } else {
            // As in node_exporter, `x_count` describes the summary `x`.
            self.find_family(name).map(|(at, _)| at)
        };
        self.builder_for(found, line, name)
    }

    /// Returns the family of a sample.
    fn builder_for_sample(
        &mut self,
        line: usize,
        name: &'a str,
    ) -> Result<(&mut FamilyBuilder<'a>, SuffixMeaning), String> {
        let found = self.find_family(name);
        let suffix = found.map_or(SuffixMeaning::Part(SampleSuffix::None), |(_, suffix)| {
            suffix
        });
        let builder = self.builder_for(found.map(|(at, _)| at), line, name)?;
        Ok((builder, suffix))
    }

    fn find_family(&self, name: &str) -> Option<(usize, SuffixMeaning)> {
        if let Some(at) = self.by_name.get(name) {
            return Some((*at, SuffixMeaning::Part(SampleSuffix::None)));
        }
        SUFFIXES.iter().find_map(|(text, suffix, kinds)| {
            let at = *self.by_name.get(name.strip_suffix(text)?)?;
            let kind = self.builders.get(at)?.kind?;
            let is_valid_suffix = self.is_open_metrics || matches!(suffix, SuffixMeaning::Part(_));
            (is_valid_suffix && kinds.contains(&kind)).then_some((at, *suffix))
        })
    }

    fn builder_for(
        &mut self,
        found: Option<usize>,
        line: usize,
        name: &'a str,
    ) -> Result<&mut FamilyBuilder<'a>, String> {
        let at = found.unwrap_or(self.builders.len());
        if found.is_none() {
            self.count_item()?;
            self.by_name.insert(name, at);
            self.builders.push(FamilyBuilder {
                name,
                kind: None,
                help: None,
                samples: Vec::new(),
                line,
            });
        }
        self.builders.get_mut(at).ok_or_else(String::default)
    }
}

impl<'a> FamilyBuilder<'a> {
    /// Returns the family, or `None` if it has no samples.
    fn build(self, is_open_metrics: bool) -> Option<ParsedFamily<'a>> {
        if self.samples.is_empty() {
            return None;
        }
        let kind = self.kind.unwrap_or(MetricType::Unknown);
        let mut name = Cow::Borrowed(self.name);
        if is_open_metrics && !name.ends_with(name_suffix(kind)) {
            name.to_mut().push_str(name_suffix(kind));
        }
        let samples = match bound_label(kind) {
            Some(_) => sort_samples(self.samples, kind),
            None => self.samples,
        };
        Some(ParsedFamily {
            name,
            kind,
            help: self.help,
            samples,
            line: self.line,
        })
    }
}

/// The label that distinguishes the series of one histogram or summary.
pub(super) fn bound_label(kind: MetricType) -> Option<&'static str> {
    match kind {
        MetricType::Histogram | MetricType::GaugeHistogram => Some("le"),
        MetricType::Summary => Some("quantile"),
        _ => None,
    }
}

fn take_bound(
    labels: &mut Vec<(&str, Cow<'_, str>)>,
    label: &'static str,
) -> Result<Option<f64>, String> {
    let Some(at) = labels.iter().position(|(name, _)| *name == label) else {
        return Ok(None);
    };
    let (_, text) = labels.remove(at);
    let bound = parse_number(&text).and_then(|_| text.parse().ok());
    let bound: f64 = bound.ok_or_else(|| format!("invalid {label}: {}", Excerpt(&text)))?;
    Ok((!bound.is_nan()).then_some(bound))
}

/// Sorts the samples of a histogram or summary as both formats require: samples with the same
/// labels are adjacent. Adds the `+Inf` bucket if it is missing.
fn sort_samples(mut samples: Vec<ParsedSample<'_>>, kind: MetricType) -> Vec<ParsedSample<'_>> {
    let rank = |sample: &ParsedSample<'_>| match sample.part {
        SampleSuffix::None | SampleSuffix::Bucket => 0,
        SampleSuffix::Sum | SampleSuffix::GaugeSum => 1,
        SampleSuffix::Count | SampleSuffix::GaugeCount => 2,
    };
    samples.sort_by(|a, b| {
        let bounds = || a.bound.unwrap_or(0.0).total_cmp(&b.bound.unwrap_or(0.0));
        let ranks = || rank(a).cmp(&rank(b));
        a.labels.cmp(&b.labels).then_with(ranks).then_with(bounds)
    });
    if kind == MetricType::Summary {
        return samples;
    }
    let missing: Vec<_> = samples
        .chunk_by(|a, b| a.labels == b.labels)
        .filter(|group| {
            !group
                .iter()
                .any(|sample| sample.bound == Some(f64::INFINITY))
        })
        .filter_map(|group| {
            let count = group.iter().find(|sample| rank(sample) == 2)?;
            Some(ParsedSample {
                part: SampleSuffix::Bucket,
                labels: count.labels.clone(),
                bound: Some(f64::INFINITY),
                value: count.value,
            })
        })
        .collect();
    if missing.is_empty() {
        return samples;
    }
    samples.extend(missing);
    sort_samples(samples, kind)
}

/// Formats a bound like Go, as `node_exporter` does regardless of the text in the file: `1e+06`
/// for a million, `1` for `1.0`.
pub(super) fn format_bound(bound: f64) -> String {
    let mut text = String::new();
    let scientific = format!("{bound:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) if bound.is_finite() => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            if (-4..6).contains(&exponent) {
                return bound.to_string();
            }
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => {
            Value::Float(bound).write_to(&mut text);
            text
        }
    }
}

/// Parses a number of the formats: decimal, infinite, or NaN.
fn parse_number(word: &str) -> Option<Value> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if let Ok(value) = word.parse() {
        return Some(value);
    }
    let float: f64 = word.parse().ok()?;
    // Rejects NaN with a sign and numbers that overflow to infinity.
    let is_special = if float.is_nan() {
        unsigned == word
    } else {
        unsigned.starts_with(['i', 'I'])
    };
    is_special.then_some(Value::Float(float))
}

fn unescape_help(text: &str) -> Result<String, String> {
    let mut help = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => help.push(unescape(chars.next())?),
            c => help.push(c),
        }
    }
    Ok(help)
}

/// Returns the character that follows a backslash, unescaped.
fn unescape(c: Option<char>) -> Result<char, String> {
    match c {
        Some('n') => Ok('\n'),
        Some(c @ ('\\' | '"')) => Ok(c),
        Some(c) => Err(format!("invalid escape sequence: {c:?} after backslash")),
        None => Err("incomplete escape sequence after backslash".to_owned()),
    }
}

fn is_in_metric_name(c: char) -> bool {
    is_in_label_name(c) || c == ':'
}

fn is_in_label_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The rest of a line.
#[derive(Debug)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Takes everything up to the next blank.
    fn word(&mut self) -> &'a str {
        self.take(|c| !matches!(c, ' ' | '\t'))
    }

    /// Takes a name of the given characters that does not begin with a digit; empty if there is
    /// none.
    fn name(&mut self, is_allowed: fn(char) -> bool) -> &'a str {
        if self.0.starts_with(|c: char| c.is_ascii_digit()) {
            return "";
        }
        self.take(is_allowed)
    }

    fn take(&mut self, is_accepted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !is_accepted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Parses a label value after its opening quote, up to the closing quote.
    fn label_value(&mut self) -> Result<Cow<'a, str>, String> {
        let mut value = Cow::Borrowed(self.take(|c| !matches!(c, '"' | '\\')));
        loop {
            if self.eat('"') {
                return Ok(value);
            }
            if !self.eat('\\') {
                return Err("unterminated label value".to_owned());
            }
            let mut chars = self.0.chars();
            let escaped = unescape(chars.next())?;
            self.0 = chars.as_str();
            let value = value.to_mut();
            value.push(escaped);
            value.push_str(self.take(|c| !matches!(c, '"' | '\\')));
        }
    }
}

/// Beginning of a text, in quotes.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars().take(MAX_EXCERPT) {
            write!(f, "{}", c.escape_debug())?;
        }
        f.write_str(if self.0.chars().nth(MAX_EXCERPT).is_some() {
            "\"…"
        } else {
            "\""
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(body: impl AsRef<[u8]>) -> UserFile {
        UserFile {
            path: "x.prom".into(),
            body: body.as_ref().to_owned(),
            modified: 0,
        }
    }

    /// Parses a text and returns one line per sample, followed by a skipped line or by the
    /// error.
    fn read(body: impl AsRef<[u8]>) -> Vec<String> {
        let file = file(body);
        let parsed = match parse(&file, 1000) {
            Ok(parsed) => parsed,
            Err(error) => return vec![error.to_string()],
        };
        let mut lines = Vec::new();
        for block in parsed.families {
            for sample in block.samples {
                let mut line = format!("{:?} {}{}", block.kind, block.name, sample.part.suffix());
                for (name, value) in sample.labels {
                    write!(line, " {name}={value:?}").unwrap();
                }
                if let Some(bound) = sample.bound {
                    write!(line, " <{}>", format_bound(bound)).unwrap();
                }
                line.push(' ');
                sample.value.write_to(&mut line);
                if let Some(help) = &block.help {
                    write!(line, " # {help:?}").unwrap();
                }
                lines.push(line);
            }
        }
        lines.extend(
            parsed
                .skipped
                .iter()
                .map(|(line, reason)| format!("{line}: {reason}")),
        );
        lines
    }

    #[test]
    fn accepts_what_node_exporter_accepts() {
        for (body, expected) in [
            ("", &[][..]),
            ("# EOF\n", &[]),
            (
                "# HELP\n# TYPE\n# HELP x\n# TYPE x\n#\n#  \n\n \t \nx 1\n",
                &["Unknown x 1"],
            ),
            ("  \tx\t{\ta\t=\t\"b\" , }\t1\n", &["Unknown x a=\"b\" 1"]),
            (
                "x{a=\"b\"}1\nx{} 2\n \t",
                &["Unknown x a=\"b\" 1", "Unknown x 2"],
            ),
            ("# TYPE x COUNTER\nx 1\n", &["Counter x 1"]),
            ("# TYPE x untyped\nx 1\n", &["Unknown x 1"]),
            (
                "#HELP x two  words \nx 1\n",
                &["Unknown x 1 # \"two  words \""],
            ),
            ("x 1\n# HELP x late\n", &["Unknown x 1 # \"late\""]),
            (
                "# HELP x a\\nb\\\\c\nx 1\n",
                &["Unknown x 1 # \"a\\nb\\\\c\""],
            ),
            (
                "x{a=\"b\\n\\\"\\\\\"} 1\n",
                &["Unknown x a=\"b\\n\\\"\\\\\" 1"],
            ),
            ("x:y 1\n_z 2\n", &["Unknown x:y 1", "Unknown _z 2"]),
            ("x{a=\"Ü,}\"} 1\n", &["Unknown x a=\"Ü,}\" 1"]),
            ("x{b=\"1\",a=\"\"} 1\n", &["Unknown x b=\"1\" 1"]),
            (
                "x .5\nx 5.\nx +5\nx 1e3\nx -0.0\n",
                &[
                    "Unknown x 0.5",
                    "Unknown x 5",
                    "Unknown x 5",
                    "Unknown x 1000",
                    "Unknown x -0",
                ],
            ),
            (
                "x inf\nx +INF\nx -Infinity\nx nan\n",
                &[
                    "Unknown x +Inf",
                    "Unknown x +Inf",
                    "Unknown x -Inf",
                    "Unknown x NaN",
                ],
            ),
            (
                "x 18446744073709551615\n",
                &["Unknown x 18446744073709551615"],
            ),
            ("# y\n# x y z {\nx 1\n", &["Unknown x 1"]),
            // In 0.0.4 these suffixes have no special meaning.
            (
                "# TYPE x counter\nx_total 1\nx_created 2\n",
                &["Unknown x_total 1", "Unknown x_created 2"],
            ),
        ] {
            assert_eq!(read(body), expected, "{body:?}");
        }
    }

    #[test]
    fn rejects_what_node_exporter_rejects_naming_the_line() {
        for (body, error) in [
            ("x 1", "1: last line has no newline"),
            ("x 1\n# HELP x", "2: last line has no newline"),
            ("x 1\r\n", r#"1: invalid value of x: "1\r""#),
            ("# TYPE x gauge\r\n", r#"1: x has unknown type "gauge\r""#),
            ("# TYPE x gauge \n", r#"1: x has unknown type "gauge ""#),
            ("# TYPE x info\n", r#"1: x has unknown type "info""#),
            ("\u{feff}x 1\n", r#"1: invalid metric name: "\u{feff}x 1""#),
            ("\nx 0x1p-2\n", r#"2: invalid value of x: "0x1p-2""#),
            ("x 1_000\n", r#"1: invalid value of x: "1_000""#),
            ("x 1e999\n", r#"1: invalid value of x: "1e999""#),
            ("x -nan\n", r#"1: invalid value of x: "-nan""#),
            ("x\n", r#"1: invalid metric name: "x""#),
            ("x \n", r#"1: invalid value of x: """#),
            ("x{} \n", r#"1: invalid value of x: """#),
            ("x 1 \n", r#"1: unexpected text after value: """#),
            ("x 1 # {} 1\n", r##"1: unexpected text after value: "#""##),
            ("x 1 1234\n", r#"1: timestamps are not supported: "1234""#),
            ("0x 1\n", r#"1: invalid metric name: "0x 1""#),
            ("x\0y 1\n", r#"1: invalid metric name: "x\0y 1""#),
            ("{\"x\"} 1\n", r#"1: invalid metric name: "{\"x\"} 1""#),
            ("# HELP 9x y\n", "1: missing metric name after HELP"),
            ("# TYPE x-y gauge\n", "1: missing metric name after TYPE"),
            (
                "# HELP x a\\tb\n",
                "1: invalid escape sequence: 't' after backslash",
            ),
            (
                "# HELP x a\\\n",
                "1: incomplete escape sequence after backslash",
            ),
            ("# HELP x a\n# HELP x a\n", "2: duplicate HELP for x"),
            (
                "# TYPE x gauge\n# TYPE x gauge\n",
                "2: TYPE of x is duplicate or follows its samples",
            ),
            (
                "x 1\n# TYPE x gauge\n",
                "2: TYPE of x is duplicate or follows its samples",
            ),
            (
                "# TYPE x summary\n# TYPE x_sum gauge\n",
                "2: TYPE of x_sum is duplicate or follows its samples",
            ),
            (
                "x{a=\"1\",b=\"2\",a=\"3\"} 1\n",
                r#"1: x has duplicate label "a""#,
            ),
            (
                "x{__name__=\"y\"} 1\n",
                r#"1: label name "__name__" is reserved"#,
            ),
            ("x{a=\"b\",,} 1\n", r#"1: invalid label name: ",} 1""#),
            ("x{a:b=\"c\"} 1\n", r#"1: missing = after label name "a""#),
            ("x{a=b} 1\n", r#"1: value of label "a" is not quoted"#),
            (
                "x{a=\"b\" c=\"d\"} 1\n",
                r#"1: expected , or } after label "a""#,
            ),
            ("x{a=\"b\"\n", r#"1: expected , or } after label "a""#),
            ("x{a=\"b\nc\"} 1\n", "1: unterminated label value"),
            ("x{a=\"b\\", "1: last line has no newline"),
            (
                "x{a=\"b\\\n",
                "1: incomplete escape sequence after backslash",
            ),
            (
                "x{a=\"\\t\"} 1\n",
                "1: invalid escape sequence: 't' after backslash",
            ),
            (
                "# TYPE x histogram\nx_bucket{le=\"y\"} 1\n",
                r#"2: invalid le: "y""#,
            ),
            (
                "# TYPE x summary\nx{quantile=\"\"} 1\n",
                r#"2: invalid quantile: """#,
            ),
        ] {
            assert_eq!(read(body), [format!("x.prom:{error}")], "{body:?}");
        }
    }

    #[test]
    fn rejects_name_running_into_value() {
        // node_exporter parses it as value -1 of x.
        assert_eq!(read("x-1\n"), [r#"x.prom:1: invalid metric name: "x-1""#]);
        assert_eq!(
            read("x{__a=\"1\"} 1\n"),
            [r#"x.prom:1: label name "__a" is reserved"#]
        );
    }

    #[test]
    fn only_comments_may_be_non_utf8() {
        let comment = b"# \xff\n# HELP x M\xfcnchen\nx 1\n";
        assert_eq!(read(comment), ["Unknown x 1 # \"M\u{fffd}nchen\""]);
        for (body, error) in [
            (&b"x{a=\"\xff\"} 1\n"[..], "1: not UTF-8"),
            (b"\xff\xfe\n", "1: not UTF-8"),
            (b"x 1\n\x7fELF\x00\xff\n", "2: not UTF-8"),
            (b"# TYPE x\xff gauge\n", "1: missing metric name after TYPE"),
            (
                b"# TYPE x gauge\xff\n",
                "1: x has unknown type \"gauge\u{fffd}\"",
            ),
        ] {
            assert_eq!(read(body), [format!("x.prom:{error}")], "{body:?}");
        }
    }

    #[test]
    fn sorts_histogram_and_adds_inf_bucket() {
        let body = "# TYPE h histogram
h_sum{a=\"2\"} 7.5
h_bucket{le=\"1000000\",a=\"1\"} 3
h_count{a=\"1\"} 4
h_bucket{a=\"1\",le=\"0.50\"} 2
h_bucket{a=\"1\"} 9
h 8
h_bucket{a=\"2\",le=\"+Inf\"} 5
h_count{a=\"2\"} 5
h_bucket{a=\"3\",le=\"NaN\"} 6
";
        assert_eq!(
            read(body),
            [
                r#"Histogram h_bucket a="1" <0.5> 2"#,
                r#"Histogram h_bucket a="1" <1e+06> 3"#,
                r#"Histogram h_bucket a="1" <+Inf> 4"#,
                r#"Histogram h_count a="1" 4"#,
                r#"Histogram h_bucket a="2" <+Inf> 5"#,
                r#"Histogram h_sum a="2" 7.5"#,
                r#"Histogram h_count a="2" 5"#,
                "6: bucket without le label",
                "7: histogram sample without _bucket, _sum or _count suffix",
                "10: bucket without le label",
            ]
        );
    }

    #[test]
    fn a_summary_has_quantiles() {
        let body = "# TYPE s summary\ns_count 3\ns{quantile=\"0.90\"} 5\ns{quantile=\"0.5\"} 4\ns_sum 2\ns 1\n";
        assert_eq!(
            read(body),
            [
                "Summary s <0.5> 4",
                "Summary s <0.9> 5",
                "Summary s_sum 2",
                "Summary s_count 3",
                "6: summary sample without quantile label",
            ]
        );
        // In other types `quantile` and `le` are ordinary labels.
        let body = "s{quantile=\"high\",le=\"\"} 1\n";
        assert_eq!(read(body), ["Unknown s quantile=\"high\" 1"]);
    }

    #[test]
    fn file_ending_with_eof_is_open_metrics() {
        let body = "# TYPE c_seconds counter
# UNIT c_seconds seconds
# HELP c_seconds A \\\"c\\\".
c_seconds_total{a=\"b\"} 1 # {trace=\"#\"} 0.5 123.4
c_seconds_created{a=\"b\"} 1700000000.1
# TYPE i info
i_info{v=\"1\"} 1
# TYPE s stateset
s{s=\"up\"} 1
s{s=\"down\"} 0
# TYPE u unknown
u 3
# TYPE g gaugehistogram
g_gsum 2
g_bucket{le=\"1.0\"} 3
g_gcount 4
# TYPE h histogram
h_bucket{le=\"+Inf\"} 3 # {} 1
h_created 1
h_count 3
v 9
# TYPE old_total counter
old_total 6
# EOF";
        let expected = [
            r#"Counter c_seconds_total a="b" 1 # "A \"c\".""#,
            r#"Info i_info v="1" 1"#,
            r#"StateSet s s="up" 1"#,
            r#"StateSet s s="down" 0"#,
            "Unknown u 3",
            "GaugeHistogram g_bucket <1> 3",
            "GaugeHistogram g_bucket <+Inf> 4",
            "GaugeHistogram g_gsum 2",
            "GaugeHistogram g_gcount 4",
            "Histogram h_bucket <+Inf> 3",
            "Histogram h_count 3",
            "Unknown v 9",
            "Counter old_total 6",
        ];
        assert_eq!(read(body), expected);
        assert_eq!(read(format!("{body}\n")), expected);
        // `# EOF` is not at the end, so it is a comment, and the text is in the older format.
        let error = r##"x.prom:4: unexpected text after value: "#""##;
        assert_eq!(read(format!("{body}\nx 1\n")), [error]);
    }

    #[test]
    fn rejects_what_open_metrics_forbids() {
        for (body, error) in [
            (
                "# TYPE x counter\nx 1\n",
                "2: sample of x must be named x_total",
            ),
            (
                "# TYPE x info\nx_info 2\n",
                "2: value of info metric x_info must be 1",
            ),
            ("# TYPE x Gauge\n", r#"1: x has unknown type "Gauge""#),
            ("x 1 1.5\n", r#"1: timestamps are not supported: "1.5""#),
        ] {
            assert_eq!(
                read(format!("{body}# EOF\n")),
                [format!("x.prom:{error}")],
                "{body:?}"
            );
        }
    }

    #[test]
    fn formats_bounds_like_go() {
        for (bound, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (123_456.0, "123456"),
            (1e6, "1e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(format_bound(bound), text);
        }
    }

    #[test]
    fn item_count_and_error_length_are_bounded() {
        let long = "x".repeat(64 << 10);
        assert_eq!(
            read(format!("x{{a=\"{long}\"}} 1\n")),
            [format!("Unknown x a={long:?} 1")]
        );
        // An error is truncated.
        let error = read(format!("x {long}\n")).concat();
        assert!(error.ends_with("xxx\"…") && error.len() < 200, "{error}");

        let too_many = "too many samples and labels in all files";
        let many = file("x 1\n".repeat(1000));
        let error = parse(&many, 1000).unwrap_err().to_string();
        // The family counts as an item, too.
        assert_eq!(error, format!("x.prom:1000: {too_many}"));
        assert!(parse(&many, 1001).is_ok());
        let labels = file(format!("x{{{}}} 1\n", "a=\"\",".repeat(1000)));
        let error = parse(&labels, 1000).unwrap_err().to_string();
        assert_eq!(error, format!("x.prom:1: {too_many}"));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let words: [&[u8]; 14] = [
            b"x",
            b"# HELP x ",
            b"# TYPE x ",
            b"histogram",
            b"x_bucket",
            b"{",
            b"le=\"",
            b"\"",
            b"}",
            b" ",
            b"1",
            b"\n",
            b"\\",
            b"\xc3",
        ];
        let mut random = 42_u64;
        for _ in 0..20_000 {
            let mut body = Vec::new();
            for _ in 0..24 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = usize::try_from(random >> 33).unwrap() % words.len();
                body.extend_from_slice(words[at]);
            }
            for end in [&b"\n"[..], b"\n# EOF"] {
                let file = file([&body, end].concat());
                drop(parse(&file, 50));
            }
        }
    }
}
