//! The two text formats, as strict as `node_exporter` is with the older of them.
//!
//! Beside the collector and not among the sources, because what it makes is put in
//! terms of metrics: kinds, parts of a histogram, values.
//!
//! The text may be anything, so the reading is by lines, without recursion, borrows
//! from the text what it can, and stops where the caller's limit is. Stricter than
//! `node_exporter` in that a name must end at white space or a brace (there, `x-1` is
//! the number -1 of `x`) and in that label names which begin with `__` are refused.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write},
};

use crate::{
    error::{Error, Result},
    family::{Part, Value},
    metric::Kind,
    sources::UserFile,
};

/// How much of what is wrong an error shows.
const SHOWN: usize = 60;

/// What a file says.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub blocks: Vec<Block<'a>>,
    /// The lines of samples that were left out because they mean nothing, and why.
    pub odd: Vec<(usize, &'static str)>,
    /// How many samples and labels there are.
    pub items: usize,
}

/// What a file says of one family.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// The name, as the older format has it.
    pub name: Cow<'a, str>,
    pub kind: Kind,
    pub help: Option<String>,
    pub samples: Vec<Sample<'a>>,
    /// The line that named it first.
    pub line: usize,
}

/// One line with a value.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    pub part: Part,
    /// Sorted by name; without those that are empty, and without `le` and `quantile`
    /// where they are `bound`.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Of a bucket or quantile, which.
    pub bound: Option<f64>,
    pub value: Value,
}

/// Reads a file that has no more than `max` samples and labels.
pub(super) fn parse(file: &UserFile, max: usize) -> Result<Parsed<'_>> {
    let body = file.body.as_slice();
    let is_open_metrics = is_open_metrics(body);
    let mut parser = Parser {
        is_open_metrics,
        drafts: Vec::new(),
        by_name: HashMap::new(),
        items: 0,
        max,
    };
    let mut odd = Vec::new();
    let mut lines = body.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        let is_last = lines.peek().is_none();
        let read = if is_last && !line.iter().all(|byte| is_blank(*byte)) && line != b"# EOF" {
            // It may go on in what is still to be written.
            Err("the last line does not end".to_owned())
        } else {
            parser.line(i + 1, line)
        };
        let reason = read.map_err(|reason| Error::Parse {
            path: file.path.clone(),
            line: i + 1,
            reason,
        })?;
        odd.extend(reason.map(|reason| (i + 1, reason)));
    }
    Ok(Parsed {
        items: parser.items,
        blocks: parser
            .drafts
            .into_iter()
            .filter_map(|draft| draft.finish(is_open_metrics))
            .collect(),
        odd,
    })
}

fn is_open_metrics(body: &[u8]) -> bool {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    body == b"# EOF" || body.ends_with(b"\n# EOF")
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A family while its lines come in.
#[derive(Debug)]
struct Draft<'a> {
    name: &'a str,
    /// None until a line says it, or a sample comes without.
    kind: Option<Kind>,
    help: Option<String>,
    samples: Vec<Sample<'a>>,
    line: usize,
}

/// What stands behind a family's name in the name of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suffix {
    Part(Part),
    /// What belongs to the name in the older format and not in `OpenMetrics`.
    OfName,
    /// When something began to count; only `OpenMetrics` has it, and nobody reads it.
    Created,
}

const SUFFIXES: &[(&str, Suffix, &[Kind])] = &[
    (
        "_count",
        Suffix::Part(Part::Count),
        &[Kind::Summary, Kind::Histogram],
    ),
    (
        "_sum",
        Suffix::Part(Part::Sum),
        &[Kind::Summary, Kind::Histogram],
    ),
    (
        "_bucket",
        Suffix::Part(Part::Bucket),
        &[Kind::Histogram, Kind::GaugeHistogram],
    ),
    (
        "_gcount",
        Suffix::Part(Part::GaugeCount),
        &[Kind::GaugeHistogram],
    ),
    (
        "_gsum",
        Suffix::Part(Part::GaugeSum),
        &[Kind::GaugeHistogram],
    ),
    ("_total", Suffix::OfName, &[Kind::Counter]),
    ("_info", Suffix::OfName, &[Kind::Info]),
    (
        "_created",
        Suffix::Created,
        &[Kind::Counter, Kind::Histogram, Kind::Summary],
    ),
];

/// The suffix that `OpenMetrics` leaves out of a family's name.
fn suffix_of_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        _ => "",
    }
}

fn kind(word: &str, is_open_metrics: bool) -> Option<Kind> {
    Some(match (word, is_open_metrics) {
        ("counter", _) => Kind::Counter,
        ("gauge", _) => Kind::Gauge,
        ("histogram", _) => Kind::Histogram,
        ("summary", _) => Kind::Summary,
        ("untyped", _) | ("unknown", true) => Kind::Unknown,
        ("info", true) => Kind::Info,
        ("stateset", true) => Kind::StateSet,
        ("gaugehistogram", true) => Kind::GaugeHistogram,
        _ => return None,
    })
}

#[derive(Debug)]
struct Parser<'a> {
    is_open_metrics: bool,
    drafts: Vec<Draft<'a>>,
    by_name: HashMap<&'a str, usize>,
    items: usize,
    max: usize,
}

/// Why a line means nothing, if it does although nothing is wrong with it.
type Odd = Option<&'static str>;

impl<'a> Parser<'a> {
    fn line(&mut self, number: usize, line: &'a [u8]) -> Result<Odd, String> {
        // What is for people to read may be in any encoding.
        let valid = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                let valid = line.get(..error.valid_up_to()).unwrap_or_default();
                std::str::from_utf8(valid).unwrap_or_default()
            }
        };
        let mut cursor = Cursor(valid);
        cursor.blanks();
        if cursor.eat('#') {
            let before = valid.len() - cursor.0.len();
            let after = line.get(before..).unwrap_or_default();
            return self.comment(number, cursor, after).map(|()| None);
        }
        if valid.len() < line.len() {
            return Err("not UTF-8".to_owned());
        }
        if cursor.0.is_empty() {
            return Ok(None);
        }
        self.sample(number, cursor)
    }

    /// What stands behind a `#`; `line` is the same as `cursor`, and goes on where that
    /// is not UTF-8.
    fn comment(
        &mut self,
        number: usize,
        mut cursor: Cursor<'a>,
        line: &[u8],
    ) -> Result<(), String> {
        let len = cursor.0.len();
        cursor.blanks();
        let keyword = cursor.word();
        if !matches!(keyword, "HELP" | "TYPE") {
            return Ok(());
        }
        cursor.blanks();
        let name = cursor.name(is_in_metric_name);
        let rest = line.get(len - cursor.0.len()..).unwrap_or_default();
        let Some((after_name, rest)) = rest.split_first() else {
            return Ok(());
        };
        if name.is_empty() || !is_blank(*after_name) {
            return Err(format!("no metric's name behind {keyword}"));
        }
        let rest = String::from_utf8_lossy(rest);
        let text = rest.trim_start_matches([' ', '\t']);
        if text.is_empty() {
            return Ok(());
        }
        let is_open_metrics = self.is_open_metrics;
        let draft = self.described(number, name)?;
        if keyword == "HELP" {
            let help = unescaped_help(text)?;
            if draft.help.replace(help).is_some() {
                return Err(format!("a second HELP of {name}"));
            }
        } else {
            let text = if is_open_metrics {
                text.to_owned()
            } else {
                text.to_ascii_lowercase()
            };
            let kind = kind(&text, is_open_metrics)
                .ok_or_else(|| format!("{name} has the unknown type {}", Shown(&text)))?;
            if draft.kind.replace(kind).is_some() {
                return Err(format!(
                    "a second TYPE of {name}, or one behind its samples"
                ));
            }
        }
        Ok(())
    }

    fn sample(&mut self, number: usize, mut cursor: Cursor<'a>) -> Result<Odd, String> {
        let line = cursor.0;
        let name = cursor.name(is_in_metric_name);
        if name.is_empty() || !cursor.0.starts_with([' ', '\t', '{']) {
            return Err(format!("not a metric's name: {}", Shown(line)));
        }
        cursor.blanks();
        self.count()?;
        let mut labels = self.labels(&mut cursor)?;
        cursor.blanks();
        let word = cursor.word();
        let value = self::number(word)
            .ok_or_else(|| format!("the value of {name} is not a number: {}", Shown(word)))?;
        self.after_value(cursor)?;

        labels.sort_by_key(|(name, _)| *name);
        let mut pairs = labels.iter().zip(labels.iter().skip(1));
        if let Some(((twice, _), _)) = pairs.find(|((a, _), (b, _))| a == b) {
            return Err(format!("{name} has the label {} twice", Shown(twice)));
        }
        let (is_open_metrics, (draft, suffix)) =
            (self.is_open_metrics, self.sampled(number, name)?);
        let kind = *draft.kind.get_or_insert(Kind::Unknown);
        let part = match suffix {
            Suffix::Part(part) => part,
            Suffix::OfName => Part::Plain,
            Suffix::Created => return Ok(None),
        };
        if is_open_metrics && !name.ends_with(suffix_of_name(kind)) {
            return Err(format!(
                "a sample of {name} must be named {name}{}",
                suffix_of_name(kind)
            ));
        }
        if kind == Kind::Info && value != Value::Unsigned(1) && value != Value::Float(1.0) {
            return Err(format!("{name} says something other than 1"));
        }
        let bound = match bound_label(kind) {
            Some(label) => take_bound(&mut labels, label)?,
            None => None,
        };
        let bound = match (part, bound) {
            (Part::Bucket, None) => return Ok(Some("a bucket without a bound")),
            (Part::Plain, None) if kind == Kind::Summary => {
                return Ok(Some("a summary's sample without a quantile"));
            }
            (Part::Plain, _) if matches!(kind, Kind::Histogram | Kind::GaugeHistogram) => {
                return Ok(Some("a histogram's sample that is no part of one"));
            }
            (Part::Bucket | Part::Plain, bound) => bound,
            _ => None,
        };
        // An empty label is the same as none.
        labels.retain(|(_, value)| !value.is_empty());
        draft.samples.push(Sample {
            part,
            labels,
            bound,
            value,
        });
        Ok(None)
    }

    /// The labels in braces, or none.
    fn labels(&mut self, cursor: &mut Cursor<'a>) -> Result<Vec<(&'a str, Cow<'a, str>)>, String> {
        let mut labels = Vec::new();
        if !cursor.eat('{') {
            return Ok(labels);
        }
        loop {
            cursor.blanks();
            if cursor.eat('}') {
                return Ok(labels);
            }
            let at = cursor.0;
            let name = cursor.name(is_in_label_name);
            if name.is_empty() {
                return Err(format!("not a label's name: {}", Shown(at)));
            }
            if name.starts_with("__") {
                return Err(format!("the label name {} is reserved", Shown(name)));
            }
            cursor.blanks();
            if !cursor.eat('=') {
                return Err(format!("no = behind the label name {}", Shown(name)));
            }
            cursor.blanks();
            if !cursor.eat('"') {
                return Err(format!(
                    "the value of the label {} is not in quotes",
                    Shown(name)
                ));
            }
            let value = cursor.label_value()?;
            self.count()?;
            labels.push((name, value));
            cursor.blanks();
            if !cursor.eat(',') && !cursor.0.starts_with('}') {
                return Err(format!("neither , nor }} behind the label {}", Shown(name)));
            }
        }
    }

    /// Sees to it that there is nothing more, or only what we have no use for.
    fn after_value(&self, mut cursor: Cursor<'_>) -> Result<(), String> {
        if cursor.0.is_empty() {
            return Ok(());
        }
        cursor.blanks();
        // An exemplar.
        if self.is_open_metrics && cursor.0.starts_with('#') {
            return Ok(());
        }
        let word = cursor.word();
        Err(match number(word) {
            Some(_) => format!("a timestamp, which no text file may have: {}", Shown(word)),
            None => format!("not expected behind the value: {}", Shown(word)),
        })
    }

    fn count(&mut self) -> Result<(), String> {
        self.items += 1;
        if self.items > self.max {
            return Err("too many samples and labels in all files together".to_owned());
        }
        Ok(())
    }

    /// The family that a `HELP` or `TYPE` speaks of.
    fn described(&mut self, line: usize, name: &'a str) -> Result<&mut Draft<'a>, String> {
        let found = if self.is_open_metrics {
            self.by_name.get(name).copied()
        } else {
            // As in node_exporter, `x_count` speaks of the summary `x`.
            self.find(name).map(|(at, _)| at)
        };
        self.draft(found, line, name)
    }

    /// The family that a sample is of.
    fn sampled(&mut self, line: usize, name: &'a str) -> Result<(&mut Draft<'a>, Suffix), String> {
        let found = self.find(name);
        let suffix = found.map_or(Suffix::Part(Part::Plain), |(_, suffix)| suffix);
        let draft = self.draft(found.map(|(at, _)| at), line, name)?;
        Ok((draft, suffix))
    }

    fn find(&self, name: &str) -> Option<(usize, Suffix)> {
        if let Some(at) = self.by_name.get(name) {
            return Some((*at, Suffix::Part(Part::Plain)));
        }
        SUFFIXES.iter().find_map(|(text, suffix, kinds)| {
            let at = *self.by_name.get(name.strip_suffix(text)?)?;
            let kind = self.drafts.get(at)?.kind?;
            let is_here = self.is_open_metrics || matches!(suffix, Suffix::Part(_));
            (is_here && kinds.contains(&kind)).then_some((at, *suffix))
        })
    }

    fn draft(
        &mut self,
        found: Option<usize>,
        line: usize,
        name: &'a str,
    ) -> Result<&mut Draft<'a>, String> {
        let at = found.unwrap_or(self.drafts.len());
        if found.is_none() {
            self.count()?;
            self.by_name.insert(name, at);
            self.drafts.push(Draft {
                name,
                kind: None,
                help: None,
                samples: Vec::new(),
                line,
            });
        }
        self.drafts.get_mut(at).ok_or_else(String::default)
    }
}

impl<'a> Draft<'a> {
    /// The family, if it has samples.
    fn finish(self, is_open_metrics: bool) -> Option<Block<'a>> {
        if self.samples.is_empty() {
            return None;
        }
        let kind = self.kind.unwrap_or(Kind::Unknown);
        let mut name = Cow::Borrowed(self.name);
        if is_open_metrics && !name.ends_with(suffix_of_name(kind)) {
            name.to_mut().push_str(suffix_of_name(kind));
        }
        let samples = match bound_label(kind) {
            Some(_) => in_order(self.samples, kind),
            None => self.samples,
        };
        Some(Block {
            name,
            kind,
            help: self.help,
            samples,
            line: self.line,
        })
    }
}

/// The label that tells the series of one histogram or summary apart.
pub(super) fn bound_label(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Histogram | Kind::GaugeHistogram => Some("le"),
        Kind::Summary => Some("quantile"),
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
    let bound = number(&text).and_then(|_| text.parse().ok());
    let bound: f64 = bound.ok_or_else(|| format!("{label} is not a number: {}", Shown(&text)))?;
    Ok((!bound.is_nan()).then_some(bound))
}

/// A histogram's or summary's samples as both formats want them: those with the
/// same labels together, and the bucket of everything among them.
fn in_order(mut samples: Vec<Sample<'_>>, kind: Kind) -> Vec<Sample<'_>> {
    let rank = |sample: &Sample<'_>| match sample.part {
        Part::Plain | Part::Bucket => 0,
        Part::Sum | Part::GaugeSum => 1,
        Part::Count | Part::GaugeCount => 2,
    };
    samples.sort_by(|a, b| {
        let bounds = || a.bound.unwrap_or(0.0).total_cmp(&b.bound.unwrap_or(0.0));
        let ranks = || rank(a).cmp(&rank(b));
        a.labels.cmp(&b.labels).then_with(ranks).then_with(bounds)
    });
    if kind == Kind::Summary {
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
            Some(Sample {
                part: Part::Bucket,
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
    in_order(samples, kind)
}

/// A bound as Go writes it, which is how `node_exporter` shows it whatever the file
/// says: `1e+06` for a million, 1 for `1.0`.
pub(super) fn bound_text(bound: f64) -> String {
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

/// A number as the formats have it: decimal, or infinite, or not a number.
fn number(word: &str) -> Option<Value> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if let Ok(value) = word.parse() {
        return Some(value);
    }
    let float: f64 = word.parse().ok()?;
    // Not `-nan`, and nothing that is too large to be kept.
    let is_meant = if float.is_nan() {
        unsigned == word
    } else {
        unsigned.starts_with(['i', 'I'])
    };
    is_meant.then_some(Value::Float(float))
}

fn unescaped_help(text: &str) -> Result<String, String> {
    let mut help = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => help.push(unescaped(chars.next())?),
            c => help.push(c),
        }
    }
    Ok(help)
}

/// What a character behind a backslash means.
fn unescaped(c: Option<char>) -> Result<char, String> {
    match c {
        Some('n') => Ok('\n'),
        Some(c @ ('\\' | '"')) => Ok(c),
        Some(c) => Err(format!("{c:?} behind a backslash")),
        None => Err("nothing behind a backslash".to_owned()),
    }
}

fn is_in_metric_name(c: char) -> bool {
    is_in_label_name(c) || c == ':'
}

fn is_in_label_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What is left of a line.
#[derive(Debug)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, c: char) -> bool {
        let rest = self.0.strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Everything up to the next blank.
    fn word(&mut self) -> &'a str {
        self.take(|c| !matches!(c, ' ' | '\t'))
    }

    /// A name of such characters that does not begin with a digit; empty if there is none.
    fn name(&mut self, is_in_it: fn(char) -> bool) -> &'a str {
        if self.0.starts_with(|c: char| c.is_ascii_digit()) {
            return "";
        }
        self.take(is_in_it)
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// What is between the quote that was eaten and the one that ends it.
    fn label_value(&mut self) -> Result<Cow<'a, str>, String> {
        let mut value = Cow::Borrowed(self.take(|c| !matches!(c, '"' | '\\')));
        loop {
            if self.eat('"') {
                return Ok(value);
            }
            if !self.eat('\\') {
                return Err("a label's value does not end".to_owned());
            }
            let mut chars = self.0.chars();
            let escaped = unescaped(chars.next())?;
            self.0 = chars.as_str();
            let value = value.to_mut();
            value.push(escaped);
            value.push_str(self.take(|c| !matches!(c, '"' | '\\')));
        }
    }
}

/// The beginning of a text, in quotes.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars().take(SHOWN) {
            write!(f, "{}", c.escape_debug())?;
        }
        f.write_str(if self.0.chars().nth(SHOWN).is_some() {
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

    /// What a file says, one line a sample, or its error; a line that was left out ends it.
    fn read(body: impl AsRef<[u8]>) -> Vec<String> {
        let file = file(body);
        let parsed = match parse(&file, 1000) {
            Ok(parsed) => parsed,
            Err(error) => return vec![error.to_string()],
        };
        let mut lines = Vec::new();
        for block in parsed.blocks {
            for sample in block.samples {
                let mut line = format!("{:?} {}{}", block.kind, block.name, sample.part.suffix());
                for (name, value) in sample.labels {
                    write!(line, " {name}={value:?}").unwrap();
                }
                if let Some(bound) = sample.bound {
                    write!(line, " <{}>", bound_text(bound)).unwrap();
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
                .odd
                .iter()
                .map(|(line, reason)| format!("{line}: {reason}")),
        );
        lines
    }

    #[test]
    fn what_node_exporter_takes_is_taken() {
        for (body, says) in [
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
            // In 0.0.4 these are names like any others.
            (
                "# TYPE x counter\nx_total 1\nx_created 2\n",
                &["Unknown x_total 1", "Unknown x_created 2"],
            ),
        ] {
            assert_eq!(read(body), says, "{body:?}");
        }
    }

    #[test]
    fn what_node_exporter_refuses_is_refused_and_the_line_named() {
        for (body, error) in [
            ("x 1", "1: the last line does not end"),
            ("x 1\n# HELP x", "2: the last line does not end"),
            ("x 1\r\n", r#"1: the value of x is not a number: "1\r""#),
            (
                "# TYPE x gauge\r\n",
                r#"1: x has the unknown type "gauge\r""#,
            ),
            ("# TYPE x gauge \n", r#"1: x has the unknown type "gauge ""#),
            ("# TYPE x info\n", r#"1: x has the unknown type "info""#),
            ("\u{feff}x 1\n", r#"1: not a metric's name: "\u{feff}x 1""#),
            (
                "\nx 0x1p-2\n",
                r#"2: the value of x is not a number: "0x1p-2""#,
            ),
            ("x 1_000\n", r#"1: the value of x is not a number: "1_000""#),
            ("x 1e999\n", r#"1: the value of x is not a number: "1e999""#),
            ("x -nan\n", r#"1: the value of x is not a number: "-nan""#),
            ("x\n", r#"1: not a metric's name: "x""#),
            ("x \n", r#"1: the value of x is not a number: """#),
            ("x{} \n", r#"1: the value of x is not a number: """#),
            ("x 1 \n", r#"1: not expected behind the value: """#),
            ("x 1 # {} 1\n", r##"1: not expected behind the value: "#""##),
            (
                "x 1 1234\n",
                r#"1: a timestamp, which no text file may have: "1234""#,
            ),
            ("0x 1\n", r#"1: not a metric's name: "0x 1""#),
            ("x\0y 1\n", r#"1: not a metric's name: "x\0y 1""#),
            ("{\"x\"} 1\n", r#"1: not a metric's name: "{\"x\"} 1""#),
            ("# HELP 9x y\n", "1: no metric's name behind HELP"),
            ("# TYPE x-y gauge\n", "1: no metric's name behind TYPE"),
            ("# HELP x a\\tb\n", "1: 't' behind a backslash"),
            ("# HELP x a\\\n", "1: nothing behind a backslash"),
            ("# HELP x a\n# HELP x a\n", "2: a second HELP of x"),
            (
                "# TYPE x gauge\n# TYPE x gauge\n",
                "2: a second TYPE of x, or one behind its samples",
            ),
            (
                "x 1\n# TYPE x gauge\n",
                "2: a second TYPE of x, or one behind its samples",
            ),
            (
                "# TYPE x summary\n# TYPE x_sum gauge\n",
                "2: a second TYPE of x_sum, or one behind its samples",
            ),
            (
                "x{a=\"1\",b=\"2\",a=\"3\"} 1\n",
                r#"1: x has the label "a" twice"#,
            ),
            (
                "x{__name__=\"y\"} 1\n",
                r#"1: the label name "__name__" is reserved"#,
            ),
            ("x{a=\"b\",,} 1\n", r#"1: not a label's name: ",} 1""#),
            ("x{a:b=\"c\"} 1\n", r#"1: no = behind the label name "a""#),
            (
                "x{a=b} 1\n",
                r#"1: the value of the label "a" is not in quotes"#,
            ),
            (
                "x{a=\"b\" c=\"d\"} 1\n",
                r#"1: neither , nor } behind the label "a""#,
            ),
            ("x{a=\"b\"\n", r#"1: neither , nor } behind the label "a""#),
            ("x{a=\"b\nc\"} 1\n", "1: a label's value does not end"),
            ("x{a=\"b\\", "1: the last line does not end"),
            ("x{a=\"b\\\n", "1: nothing behind a backslash"),
            ("x{a=\"\\t\"} 1\n", "1: 't' behind a backslash"),
            (
                "# TYPE x histogram\nx_bucket{le=\"y\"} 1\n",
                r#"2: le is not a number: "y""#,
            ),
            (
                "# TYPE x summary\nx{quantile=\"\"} 1\n",
                r#"2: quantile is not a number: """#,
            ),
        ] {
            assert_eq!(read(body), [format!("x.prom:{error}")], "{body:?}");
        }
    }

    #[test]
    fn a_name_that_runs_into_its_value_is_refused() {
        // node_exporter takes it for the number -1 of x.
        assert_eq!(read("x-1\n"), [r#"x.prom:1: not a metric's name: "x-1""#]);
        assert_eq!(
            read("x{__a=\"1\"} 1\n"),
            [r#"x.prom:1: the label name "__a" is reserved"#]
        );
    }

    #[test]
    fn only_what_is_for_people_may_be_other_than_utf8() {
        let comment = b"# \xff\n# HELP x M\xfcnchen\nx 1\n";
        assert_eq!(read(comment), ["Unknown x 1 # \"M\u{fffd}nchen\""]);
        for (body, error) in [
            (&b"x{a=\"\xff\"} 1\n"[..], "1: not UTF-8"),
            (b"\xff\xfe\n", "1: not UTF-8"),
            (b"x 1\n\x7fELF\x00\xff\n", "2: not UTF-8"),
            (b"# TYPE x\xff gauge\n", "1: no metric's name behind TYPE"),
            (
                b"# TYPE x gauge\xff\n",
                "1: x has the unknown type \"gauge\u{fffd}\"",
            ),
        ] {
            assert_eq!(read(body), [format!("x.prom:{error}")], "{body:?}");
        }
    }

    #[test]
    fn a_histogram_is_put_in_order_and_its_last_bucket_added() {
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
                "6: a bucket without a bound",
                "7: a histogram's sample that is no part of one",
                "10: a bucket without a bound",
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
                "6: a summary's sample without a quantile",
            ]
        );
        // Elsewhere the labels are labels.
        let body = "s{quantile=\"high\",le=\"\"} 1\n";
        assert_eq!(read(body), ["Unknown s quantile=\"high\" 1"]);
    }

    #[test]
    fn a_file_that_ends_with_eof_is_open_metrics() {
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
        // Not at the end, so it is a comment, and the rest is the older format.
        let error = r##"x.prom:4: not expected behind the value: "#""##;
        assert_eq!(read(format!("{body}\nx 1\n")), [error]);
    }

    #[test]
    fn what_open_metrics_forbids_is_refused() {
        for (body, error) in [
            (
                "# TYPE x counter\nx 1\n",
                "2: a sample of x must be named x_total",
            ),
            (
                "# TYPE x info\nx_info 2\n",
                "2: x_info says something other than 1",
            ),
            ("# TYPE x Gauge\n", r#"1: x has the unknown type "Gauge""#),
            (
                "x 1 1.5\n",
                r#"1: a timestamp, which no text file may have: "1.5""#,
            ),
        ] {
            assert_eq!(
                read(format!("{body}# EOF\n")),
                [format!("x.prom:{error}")],
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_bound_is_written_as_go_writes_it() {
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
            assert_eq!(bound_text(bound), text);
        }
    }

    #[test]
    fn large_things_are_bounded() {
        let long = "x".repeat(64 << 10);
        assert_eq!(
            read(format!("x{{a=\"{long}\"}} 1\n")),
            [format!("Unknown x a={long:?} 1")]
        );
        // An error shows only the beginning of it.
        let error = read(format!("x {long}\n")).concat();
        assert!(error.ends_with("xxx\"…") && error.len() < 200, "{error}");

        let too_many = "too many samples and labels in all files together";
        let many = file("x 1\n".repeat(1000));
        let error = parse(&many, 1000).unwrap_err().to_string();
        // The family counts too.
        assert_eq!(error, format!("x.prom:1000: {too_many}"));
        assert!(parse(&many, 1001).is_ok());
        let labels = file(format!("x{{{}}} 1\n", "a=\"\",".repeat(1000)));
        let error = parse(&labels, 1000).unwrap_err().to_string();
        assert_eq!(error, format!("x.prom:1: {too_many}"));
    }

    #[test]
    fn whatever_bytes_there_are_nothing_panics() {
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
