//! The findings as text and as JSON.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::findings::{Finding, Severity};

/// Maximum line width; longer words are not broken.
const WIDTH: usize = 100;

/// The result of the check.
#[derive(Debug)]
pub struct Checked {
    /// The user that ran the check.
    pub(super) user: String,
    /// Findings by area, in display order.
    pub(super) areas: Vec<(&'static str, Vec<Finding>)>,
    /// Disabled collectors.
    pub(super) off: Vec<&'static str>,
    /// Planned collectors of `node_exporter`.
    pub(super) not_built: Vec<&'static str>,
}

/// The JSON of `check --json`.
#[derive(Debug, Serialize)]
struct Json<'a> {
    version: &'static str,
    user: &'a str,
    /// Whether all enabled collectors work, that is: no finding is an error.
    ok: bool,
    counts: Counts,
    findings: Vec<JsonFinding<'a>>,
    collectors_off: &'a [&'static str],
    collectors_not_built: &'a [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    wrong: usize,
    note: usize,
    ok: usize,
    nothing: usize,
}

#[derive(Debug, Serialize)]
struct JsonFinding<'a> {
    area: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    collector: Option<&'static str>,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

impl Checked {
    /// Whether all enabled collectors work, that is: no finding is an error.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.counts().wrong == 0
    }

    /// Returns the whole report with colours: a summary, errors, warnings, and then the rest by
    /// area.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let version = env!("CARGO_PKG_VERSION");
        let summary = self.summary();
        let summary = format!("strata_exporter {version}, run as {}: {summary}", self.user);
        line(&mut text, 0, &summary);
        let scope = "The result applies to a server run by the same user with the same flags.";
        line(&mut text, 0, scope);
        for severity in [Severity::Error, Severity::Warning] {
            let mut items = String::new();
            self.items(&mut items, severity);
            if !items.is_empty() {
                text += "\n";
                text += &items;
            }
        }
        for (title, findings) in &self.areas {
            let others = findings.iter().filter(|it| !it.severity.needs_attention());
            let names = others.clone().filter_map(|it| it.collector);
            let width = names.map(str::len).max().unwrap_or_default();
            if others.clone().next().is_none() {
                continue;
            }
            self::title(&mut text, title);
            for finding in others {
                let padded = finding.collector.map(|name| format!("{name:width$}  "));
                let padded = padded.unwrap_or_default();
                item(
                    &mut text,
                    finding.severity,
                    &format!("{padded}{}", finding.text),
                );
                fix(&mut text, finding);
            }
        }
        if !self.off.is_empty() {
            title(&mut text, "OFF");
            let off = self.off.join(", ");
            line(
                &mut text,
                2,
                &format!("{off}. Enable with --collector.NAME."),
            );
        }
        if !self.not_built.is_empty() {
            title(&mut text, "NOT IMPLEMENTED YET");
            line(&mut text, 2, &self.not_built.join(", "));
        }
        text
    }

    /// Returns only the errors, with colours.
    #[must_use]
    pub fn wrong(&self) -> String {
        let mut text = String::new();
        self.items(&mut text, Severity::Error);
        text
    }

    /// Returns the report without colours.
    #[must_use]
    pub fn plain_text(&self) -> String {
        anstream::adapter::strip_str(&self.text()).to_string()
    }

    /// Returns JSON with all findings, or only with the errors.
    pub fn json(&self, only_wrong: bool) -> Result<String, String> {
        let findings = self.areas.iter().flat_map(|(title, findings)| {
            let findings = findings
                .iter()
                .filter(|it| !only_wrong || it.severity == Severity::Error);
            findings.map(|finding| JsonFinding {
                area: title.to_lowercase(),
                status: finding.severity.status(),
                collector: finding.collector,
                text: &finding.text,
                fix: finding.fix.as_deref(),
            })
        });
        let json = Json {
            version: env!("CARGO_PKG_VERSION"),
            user: &self.user,
            ok: self.is_well(),
            counts: self.counts(),
            findings: findings.collect(),
            collectors_off: &self.off,
            collectors_not_built: &self.not_built,
        };
        let text = serde_json::to_string_pretty(&json);
        text.map(|text| text + "\n")
            .map_err(|error| error.to_string())
    }

    fn counts(&self) -> Counts {
        let findings = self.areas.iter().flat_map(|(_, findings)| findings);
        let count = |severity| {
            findings
                .clone()
                .filter(|it| it.severity == severity)
                .count()
        };
        Counts {
            wrong: count(Severity::Error),
            note: count(Severity::Warning),
            ok: count(Severity::Ok),
            nothing: count(Severity::Info),
        }
    }

    fn summary(&self) -> String {
        let counts = self.counts();
        let (wrong, note, ok) = (counts.wrong, counts.note, counts.ok);
        let notes = if note == 1 { "note" } else { "notes" };
        let wrong = match wrong {
            0 => "all enabled collectors work".to_owned(),
            1 => "1 error".to_owned(),
            many => format!("{many} errors"),
        };
        format!("{wrong}, {note} {notes}, {ok} ok.")
    }

    /// Writes the findings of this severity, each with its area.
    fn items(&self, text: &mut String, severity: Severity) {
        for (title, findings) in &self.areas {
            for finding in findings.iter().filter(|it| it.severity == severity) {
                let area = title.to_lowercase();
                let collector = finding.collector.map(|name| format!("{name}: "));
                let collector = collector.unwrap_or_default();
                item(
                    text,
                    severity,
                    &format!("{area}: {collector}{}", finding.text),
                );
                fix(text, finding);
            }
        }
    }
}

fn title(text: &mut String, title: &str) {
    let bold = Style::new().bold();
    *text += &format!("\n{bold}{title}{bold:#}\n");
}

fn fix(text: &mut String, finding: &Finding) {
    if let Some(fix) = &finding.fix {
        line(text, 8, &format!("Fix: {fix}"));
    }
}

fn item(text: &mut String, severity: Severity, content: &str) {
    let (mark, style) = match severity {
        Severity::Ok => ("ok", AnsiColor::Green.on_default()),
        Severity::Info => ("-", Style::new()),
        Severity::Warning => ("note", AnsiColor::Yellow.on_default()),
        Severity::Error => ("WRONG", AnsiColor::Red.on_default().bold()),
    };
    let start = text.len();
    line(text, 8, content);
    // The mark replaces the first spaces.
    let blanks = format!("  {mark:<6}").len();
    text.replace_range(
        start..start + blanks,
        &format!("  {style}{mark}{style:#}{:1$}", "", 6 - mark.len()),
    );
}

/// Appends content wrapped at `WIDTH`.
fn line(text: &mut String, indent: usize, content: &str) {
    let mut column = 0;
    // Spaces within a table row are kept.
    for word in content.split_inclusive(' ') {
        // External text may contain control characters.
        let word = word.replace(char::is_control, " ");
        let length = word.trim_end().chars().count();
        if column > indent && column + length > WIDTH && length > 0 {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            write!(text, "{:indent$}", "").ok();
            column = indent;
        }
        *text += &word;
        column += word.chars().count();
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn wraps_long_text_below_its_mark() {
        let mut text = String::new();
        item(&mut text, Severity::Error, &"word ".repeat(30));
        let text = strip_str(&text).to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("  WRONG word word"), "{text}");
        assert!(lines[1].starts_with("        word"), "{text}");
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= WIDTH && !line.ends_with(' '))
        );
    }

    #[test]
    fn replaces_control_characters() {
        let mut text = String::new();
        line(&mut text, 0, "a\u{1b}[31mb\nc");
        assert_eq!(text, "a [31mb c\n");
    }
}
