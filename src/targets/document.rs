//! A file of targets as text: JSON and YAML, read as Prometheus reads them.
//!
//! JSON is written anew. Of YAML only what changed is: groups that stay the same, and lines of
//! targets that stay, keep their text with its comments. That is done by lines and without a
//! second parser of YAML: whatever comes of it is read again, and thrown away unless it says what
//! it should. Then, as with groups that are written in other ways than one item below the other,
//! the file is written anew without comments.
//!
//! YAML is read with `serde-saphyr`, which is bounded in depth, nodes and aliases. `serde_norway`,
//! measured beside it, takes time with the square of the depth, hours for 16 MiB of brackets, and
//! has no bound on how often an alias repeats a long list. What it, as JSON's reader, refuses and
//! Prometheus does not: a second document, a key of a group given twice in JSON or in capital letters
//! there, a label named null. Rewriting any of these would change what they mean.

use std::{collections::HashSet, path::Path};

use serde::de::DeserializeOwned;
use serde_saphyr::Options;

use super::{
    edit::EditedGroup,
    target_group::{TargetGroup, TargetLabel},
};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// A file's text, and the groups in it.
#[derive(Debug)]
pub(super) struct Document {
    format: Format,
    text: String,
    pub(super) groups: Vec<TargetGroup>,
}

/// A new text.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: String,
    /// Whether there were comments that are not in it.
    pub(super) lost_comments: bool,
}

impl Format {
    /// As Prometheus tells it by the file's name.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json" | "JSON") => Ok(Self::Json),
            Some("yml" | "yaml" | "YML" | "YAML") => Ok(Self::Yaml),
            _ => Err(format!(
                "{} is not valid for file discovery: its name has to end in .json, .yml or .yaml",
                path.display()
            )),
        }
    }

    /// The file that is not there yet.
    pub(super) fn empty(self) -> Document {
        let (format, text, groups) = (self, String::new(), Vec::new());
        Document {
            format,
            text,
            groups,
        }
    }

    /// Reads a file's text.
    pub(super) fn read(self, text: String) -> Result<Document, String> {
        let groups: Option<Vec<Option<TargetGroup>>> = match self {
            Self::Json => serde_json::from_str(&text).map_err(|error| error.to_string())?,
            Self::Yaml => yaml(&text)?,
        };
        let groups = groups.unwrap_or_default().into_iter().enumerate();
        let groups = groups.map(|(number, group)| {
            group.ok_or_else(|| format!("nil target group item found (index {number})"))
        });
        Ok(Document {
            groups: groups.collect::<Result<_, _>>()?,
            format: self,
            text,
        })
    }
}

impl Document {
    /// The text with other groups in it.
    pub(super) fn write(&self, edited: &[EditedGroup]) -> Result<Written, String> {
        let groups = edited.iter().map(|it| &it.group);
        let groups: Vec<TargetGroup> = groups.cloned().collect();
        if self.format == Format::Json {
            let mut text = json(&groups)?;
            text.push('\n');
            let lost_comments = false;
            return Ok(Written {
                text,
                lost_comments,
            });
        }
        let says = |text: &String| says(text, &groups);
        if let Some(text) = self.patched(edited).filter(says) {
            let lost_comments = false;
            return Ok(Written {
                text,
                lost_comments,
            });
        }
        let anew: Vec<_> = groups.iter().map(|group| block(group, "")).collect();
        let text = match anew.concat() {
            none if none.is_empty() => "[]\n".to_owned(),
            text => text,
        };
        if !says(&text) {
            return Err(
                "cannot be written as YAML: use a file whose name ends in .json".to_owned(),
            );
        }
        let comments = self.text.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with('#') || line.contains(" #")
        });
        Ok(Written {
            text,
            lost_comments: comments,
        })
    }

    /// The text with the changed lines changed, if it is written in a way that allows it. The
    /// result may be wrong.
    fn patched(&self, edited: &[EditedGroup]) -> Option<String> {
        let items = Items::of(&self.text);
        if items.items.len() != self.groups.len() || edited.is_empty() {
            return None;
        }
        let mut text = items.head.to_owned();
        for EditedGroup {
            original_index: was,
            group,
        } in edited
        {
            let known = was.and_then(|was| Some((self.groups.get(was)?, items.items.get(was)?)));
            end_line(&mut text);
            match known {
                Some((old, item)) => {
                    text.push_str(item.above);
                    if old == group {
                        text.push_str(item.body);
                    } else {
                        let changed = item
                            .with(old, group)
                            .filter(|it| says(it, std::slice::from_ref(group)));
                        text.push_str(&changed.unwrap_or_else(|| block(group, items.indent)));
                    }
                }
                None => text.push_str(&block(group, items.indent)),
            }
        }
        end_line(&mut text);
        text.push_str(items.foot);
        Some(text)
    }
}

/// The groups as JSON, as Prometheus takes it from files and over HTTP.
pub(super) fn json(groups: &[TargetGroup]) -> Result<String, String> {
    serde_json::to_string_pretty(groups).map_err(|error| error.to_string())
}

/// Bounded whatever is in it.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options: Options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: 16,
            // Of a file with a hundred thousand targets there are half a million.
            max_nodes: 2_000_000,
            max_events: 8_000_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Whether that is what the text says.
fn says(text: &str, groups: &[TargetGroup]) -> bool {
    matches!(yaml::<Vec<TargetGroup>>(text), Ok(said) if said == groups)
}

/// A text whose groups are items below each other, cut into these.
struct Items<'a> {
    /// What is above the first one.
    head: &'a str,
    /// What is left of their dashes.
    indent: &'a str,
    items: Vec<Item<'a>>,
    /// Comments below the last one.
    foot: &'a str,
}

struct Item<'a> {
    /// Comments between it and the one above.
    above: &'a str,
    body: &'a str,
}

impl<'a> Items<'a> {
    fn of(text: &'a str) -> Self {
        let mut starts = Vec::new();
        let (mut at, mut indent) = (0, None);
        for line in text.split_inclusive('\n') {
            if let Some((left, _)) = dash(line)
                && *indent.get_or_insert(left) == left
            {
                starts.push(at);
            }
            at += line.len();
        }
        let cut = |from, to| text.get(from..to).unwrap_or_default();
        let head = cut(0, starts.first().copied().unwrap_or(text.len()));
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let (mut items, mut above) = (Vec::new(), "");
        for (start, end) in starts.iter().zip(ends) {
            let (body, below) = without_comments_below(cut(*start, end));
            items.push(Item { above, body });
            above = below;
        }
        Self {
            head,
            indent: indent.unwrap_or_default(),
            items,
            foot: above,
        }
    }
}

impl Item<'_> {
    /// With the group's targets instead of the old ones, if each has a line of its own. The result
    /// may be wrong.
    fn with(&self, old: &TargetGroup, group: &TargetGroup) -> Option<String> {
        let before: HashSet<&String> = old.targets.iter().collect();
        let after: HashSet<&String> = group.targets.iter().collect();
        let mut lines = Vec::new();
        // Where new ones go, and what is left of the last one's dash.
        let mut last = None;
        for line in self.body.split_inclusive('\n') {
            let target = target_of(line).filter(|(_, target)| before.contains(target));
            let mut kept = line;
            if let Some((left, target)) = target {
                last = Some((lines.len(), left));
                if !after.contains(&target) {
                    kept = "";
                }
            }
            lines.push(kept.to_owned());
        }
        let mut new = group.targets.iter().filter(|it| !before.contains(it));
        if let Some((at, left)) = last {
            let line = lines.get_mut(at)?;
            for target in &mut new {
                end_line(line);
                line.push_str(&format!("{left}- {}\n", quoted(target)));
            }
        }
        new.next().is_none().then(|| lines.concat())
    }
}

/// What is left and right of the dash of an item's line.
fn dash(line: &str) -> Option<(&str, &str)> {
    let (left, right) = line.split_once('-')?;
    let is_dash = left.chars().all(|c| c == ' ') && right.starts_with([' ', '\n', '\r']);
    is_dash.then_some((left, right))
}

/// The target of a line that has nothing else, and what is left of its dash.
fn target_of(line: &str) -> Option<(&str, String)> {
    let (left, right) = dash(line)?;
    Some((left, yaml::<String>(right).ok()?))
}

/// A text, and the lines of comments and the blank ones below it.
fn without_comments_below(text: &str) -> (&str, &str) {
    let mut end = text.len();
    for line in text.split_inclusive('\n').rev() {
        let is_none = line.trim().is_empty() || line.trim_start().starts_with('#');
        if !is_none {
            break;
        }
        end -= line.len();
    }
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// A group as an item of YAML.
fn block(group: &TargetGroup, indent: &str) -> String {
    let mut lines = vec![format!("{indent}- targets:")];
    if group.targets.is_empty() {
        lines = vec![format!("{indent}- targets: []")];
    }
    for target in &group.targets {
        lines.push(format!("{indent}    - {}", quoted(target)));
    }
    if !group.labels.0.is_empty() {
        lines.push(format!("{indent}  labels:"));
    }
    for TargetLabel { name, value } in &group.labels.0 {
        let (name, value) = (key(name), quoted(value));
        lines.push(format!("{indent}    {name}: {value}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A label's name as a key: some are more than words to one YAML or another.
fn key(name: &str) -> String {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_word = words.iter().any(|word| name.eq_ignore_ascii_case(word));
    if is_word {
        quoted(name)
    } else {
        name.to_owned()
    }
}

/// A text in double quotes: JSON's, with what YAML does not print escaped, too.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~'
            | '\u{a0}'..='\u{2027}'
            | '\u{202a}'..='\u{fefe}'
            | '\u{ff00}'..='\u{fffd}' => {
                quoted.push(c);
            }
            '\u{10000}'.. => quoted.push(c),
            _ => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::{edit::Edit, target_group::TargetLabels};

    const COMMENTED: &str = "\
# Whoever adds a machine says so in the channel.

- targets:
  - a:1 # the old one
  # next to it
  - 'b:1'
  labels: {x: 1} # since March

# Those of the others.
- labels:
    y: 2
  targets: [c:1, d:1]
# The end.
";

    fn labels(text: &str) -> TargetLabels {
        let labels: Vec<TargetLabel> = text
            .split_whitespace()
            .map(|label| label.parse().unwrap())
            .collect();
        TargetLabels::from_args(&labels).unwrap()
    }

    fn yaml_with(text: &str, change: impl FnOnce(&mut Edit)) -> (String, bool) {
        let document = Format::Yaml.read(text.to_owned()).unwrap();
        let mut edit = Edit::new(&document.groups);
        change(&mut edit);
        let written = document.write(&edit.groups).unwrap();
        (written.text, written.lost_comments)
    }

    #[test]
    fn names_of_files_say_how_they_are_written() {
        for (name, format) in [
            ("a.json", Some(Format::Json)),
            ("a.JSON", Some(Format::Json)),
            ("a.yml", Some(Format::Yaml)),
            ("a.yaml", Some(Format::Yaml)),
            ("a.Json", None),
            ("a", None),
            ("json", None),
            ("a.json.bak", None),
        ] {
            assert_eq!(Format::of(Path::new(name)).ok(), format, "{name}");
        }
    }

    #[test]
    fn comments_stay_where_nothing_changes() {
        let (text, lost) = yaml_with(COMMENTED, |edit| {
            edit.add("e:1", &labels("x=1"), false).unwrap();
            edit.add("f:1", &labels("z=1"), false).unwrap();
            edit.remove(|_, it| it == "a:1");
        });
        let expected = "\
# Whoever adds a machine says so in the channel.

- targets:
  # next to it
  - 'b:1'
  - \"e:1\"
  labels: {x: 1} # since March

# Those of the others.
- labels:
    y: 2
  targets: [c:1, d:1]
- targets:
    - \"f:1\"
  labels:
    z: \"1\"
# The end.
";
        assert_eq!((text.as_str(), lost), (expected, false));
    }

    #[test]
    fn a_group_that_is_written_in_another_way_is_written_anew() {
        let (text, lost) = yaml_with(COMMENTED, |edit| edit.remove(|_, it| it == "c:1"));
        assert!(
            text.contains("- 'b:1'\n  labels: {x: 1} # since March\n"),
            "{text}"
        );
        let anew =
            "# Those of the others.\n- targets:\n    - \"d:1\"\n  labels:\n    \"y\": \"2\"\n";
        assert!(text.contains(anew), "{text}");
        assert!(!lost);
    }

    #[test]
    fn what_cannot_be_cut_into_groups_is_written_anew_and_lost_comments_are_said() {
        let anew = "- targets:\n    - \"a:1\"\n    - \"b:1\"\n- targets:\n    - \"a:1\"\n";
        let add = |edit: &mut Edit| {
            edit.groups[0].group.targets.push("b:1".to_owned());
        };
        for (text, lost) in [
            ("[{targets: [a:1]}, {targets: [a:1]}]", false),
            ("- targets: &all [a:1]\n- targets: *all # the same\n", true),
            ("# Two.\n[{targets: [a:1]}, {targets: [a:1]}]", true),
            ("- &a\n  targets: [a:1]\n- <<: *a\n", false),
        ] {
            assert_eq!(yaml_with(text, add), (anew.to_owned(), lost), "{text}");
        }
    }

    #[test]
    fn lines_that_only_look_like_targets_do_not_mislead() {
        // The same address is a label's text.
        let text = "- targets:\n  - a:1\n  - b:1\n  labels:\n    x: |\n      - a:1\n      - b:1\n";
        let (after, _) = yaml_with(text, |edit| edit.remove(|_, it| it == "a:1"));
        let read = Format::Yaml.read(after).unwrap().groups;
        assert_eq!(read[0].targets, ["b:1"]);
        assert_eq!(read[0].labels.0[0].value, "- a:1\n- b:1\n");
    }

    #[test]
    fn ends_of_lines_do_not_matter() {
        let (text, _) = yaml_with("- targets:\r\n  - a:1\r\n  - b:1", |edit| {
            edit.add("c:1", &labels(""), false).unwrap();
        });
        assert_eq!(text, "- targets:\r\n  - a:1\r\n  - b:1\n  - \"c:1\"\n");
    }

    #[test]
    fn the_last_group_leaves_an_empty_list() {
        let (text, _) = yaml_with("- targets: [a:1]\n", |edit| edit.remove(|_, _| true));
        assert_eq!(text, "[]\n");
    }

    #[test]
    fn texts_come_back_as_they_were() {
        let mut values: Vec<String> = (0..0x300)
            .filter_map(char::from_u32)
            .map(String::from)
            .collect();
        for value in [
            "",
            " ",
            "a ",
            "null",
            "~",
            "yes",
            "1e3",
            "0x10",
            "1:20",
            "=",
            "<<",
            "- a",
            "# a",
            "a: b",
            "\u{2028}",
            "\u{feff}",
            "\u{fffe}",
            "\u{ffff}",
            "\u{10ffff}",
            "\u{1f600}",
            "\"\\",
            "!a",
            "&a",
        ] {
            values.push(value.to_owned());
        }
        for value in values {
            let group = TargetGroup {
                targets: vec![value.clone()],
                labels: TargetLabels(vec![TargetLabel {
                    name: "on".to_owned(),
                    value,
                }]),
            };
            let groups = [group];
            let text = block(&groups[0], "");
            assert!(says(&text, &groups), "{text}");
            let read = Format::Json.read(json(&groups).unwrap()).unwrap();
            assert_eq!(read.groups, groups);
        }
    }

    #[test]
    fn hostile_files_are_refused_at_once() {
        let mut bomb = format!("- targets: &a [{}]\n", "h:1, ".repeat(100_000));
        bomb += &"- targets: *a\n".repeat(100_000);
        for text in [
            "[".repeat(1 << 20),
            "{".repeat(1 << 20),
            "- ".repeat(1 << 20),
            format!("- targets: [h]\n  labels: {{a: {}", "[".repeat(1 << 20)),
            bomb,
        ] {
            assert!(Format::Yaml.read(text).is_err());
        }
        assert!(Format::Json.read("[".repeat(1 << 20)).is_err());
    }
}
