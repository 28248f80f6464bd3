//! Targets and their labels, validated as Prometheus does.
//!
//! Valid is what Debian's Prometheus 2.42 accepts; `tests/it/targets.rs` compares with it. It also
//! accepts every label that begins with `__`, of which it reads `__scheme__`, `__metrics_path__`, `__param_*`, `__scrape_interval__`
//! and `__scrape_timeout__`, and drops all after relabeling. It sets `__address__` and
//! `__meta_filepath` itself, regardless of the file.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Maximum number of labels of a target, because lookups are linear.
const MAX_LABELS: usize = 1_000;

/// Targets with the same labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetGroup {
    #[serde(default, deserialize_with = "or_empty")]
    pub(super) targets: Vec<String>,
    #[serde(
        default,
        deserialize_with = "labels_or_none",
        skip_serializing_if = "TargetLabels::is_empty"
    )]
    pub(super) labels: TargetLabels,
}

/// Labels, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TargetLabels(pub(super) Vec<TargetLabel>);

/// One label, `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetLabel {
    pub(super) name: String,
    pub(super) value: String,
}

impl TargetLabels {
    /// The value, empty for a missing label: Prometheus does not distinguish the two.
    fn value(&self, name: &str) -> &str {
        let mut named = self.0.iter().filter(|label| label.name == name);
        named.next().map_or("", |label| &label.value)
    }

    /// Whether these labels include all of the others.
    pub(super) fn match_all(&self, others: &TargetLabels) -> bool {
        let mut others = others.0.iter();
        others.all(|label| self.value(&label.name) == label.value)
    }

    /// Whether both have the same labels, in any order.
    pub(super) fn have_same_labels(&self, others: &TargetLabels) -> bool {
        self.match_all(others) && others.match_all(self)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn set(&mut self, label: TargetLabel) {
        match self.0.iter_mut().find(|it| it.name == label.name) {
            Some(existing) => existing.value = label.value,
            None => self.0.push(label),
        }
    }

    /// Converts labels of the command line, where duplicates are an error.
    pub(super) fn from_args(labels: &[TargetLabel]) -> Result<Self, String> {
        let mut unique = Self::default();
        for label in labels {
            if unique.0.iter().any(|it| it.name == label.name) {
                return Err(format!("duplicate label {:?}", label.name));
            }
            unique.0.push(label.clone());
        }
        Ok(unique)
    }
}

impl FromStr for TargetLabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("expected NAME=VALUE, such as service_id=web")?;
        validate_label_name(name)?;
        let (name, value) = (name.to_owned(), value.to_owned());
        Ok(Self { name, value })
    }
}

/// Formats as `{service_id="web"}`.
impl fmt::Display for TargetLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (number, TargetLabel { name, value }) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

/// Escapes control characters of an address for output on a terminal.
pub(super) fn escape_control(address: &str) -> String {
    address.chars().flat_map(escape_char).collect()
}

fn escape_char(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_control() {
        Box::new(c.escape_default())
    } else {
        Box::new(std::iter::once(c))
    }
}

/// Validates a label name; errors have Prometheus's wording.
fn validate_label_name(name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let first = chars.next();
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name = first.is_some_and(is_letter) && chars.all(|c| is_letter(c) || c.is_ascii_digit());
    if is_name {
        Ok(())
    } else {
        Err(format!("{name:?} is not a valid label name"))
    }
}

/// Validates a target as Prometheus does, with its error messages.
pub(super) fn validate(address: &str, labels: &TargetLabels) -> Result<(), String> {
    if address.is_empty() {
        return Err("no address".to_owned());
    }
    if address.contains('/') {
        let advice = "expected HOST:PORT, without scheme and path";
        return Err(format!("{address:?} is not a valid hostname: {advice}"));
    }
    let scheme = labels.value("__scheme__");
    if !matches!(scheme, "" | "http" | "https") && is_missing_port(address) {
        return Err(format!(
            "{} has no port, and scheme {scheme:?} has no default port",
            escape_control(address)
        ));
    }
    let duration = |what| {
        let text = labels.value(&format!("__scrape_{what}__"));
        parse_milliseconds(text).map_err(|error| format!("scrape {what} {error}: {text:?}"))
    };
    match (duration("interval")?, duration("timeout")?) {
        (Some(interval), Some(timeout)) if timeout > interval => {
            Err("scrape timeout cannot be greater than scrape interval".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether Prometheus appends the scheme's port, that is: whether the address is valid only with a
/// port.
fn is_missing_port(address: &str) -> bool {
    !is_host_port(address) && is_host_port(&format!("{address}:80"))
}

/// Go's `net.SplitHostPort`: host name and port number are not validated.
fn is_host_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let host = match host.strip_prefix('[') {
        Some(bracketed) => match bracketed.strip_suffix(']') {
            Some(host) => host,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    let bracket = ['[', ']'];
    !host.contains(bracket) && !port.contains(bracket)
}

/// Parses a Prometheus duration, such as `1m30s`, to milliseconds; `None` if empty.
fn parse_milliseconds(text: &str) -> Result<Option<u64>, &'static str> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    /// 2^63 nanoseconds, the maximum of Go's `time.Duration`.
    const MAX_MILLISECONDS: u64 = i64::MAX as u64 / 1_000_000;
    let invalid = "is not a valid duration";
    let mut sum = Some(0_u64);
    let (mut rest, mut units) = (text, UNITS.iter());
    while !rest.is_empty() && rest != "0" {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = rest.strip_suffix(after).unwrap_or_default();
        let letters = after.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let unit = after.strip_suffix(letters).unwrap_or_default();
        // Units must be in descending order.
        let size = units.find(|(name, _)| *name == unit);
        let (_, size) = size.filter(|_| !number.is_empty()).ok_or(invalid)?;
        let part = number
            .parse()
            .ok()
            .and_then(|it: u64| it.checked_mul(*size));
        sum = sum.zip(part).and_then(|(sum, part)| sum.checked_add(part));
        rest = letters;
    }
    match (text, rest) {
        ("", _) => return Ok(None),
        ("0", _) | (_, "") => {}
        _ => return Err(invalid),
    }
    match sum {
        Some(0) => Err("cannot be 0"),
        Some(sum) if sum <= MAX_MILLISECONDS => Ok(Some(sum)),
        _ => Err("is out of range"),
    }
}

impl Serialize for TargetLabels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|label| (&label.name, &label.value)))
    }
}

impl<'de> Deserialize<'de> for TargetLabels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = TargetLabels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TargetLabels, A::Error> {
                let mut labels = TargetLabels::default();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    validate_label_name(&name).map_err(serde::de::Error::custom)?;
                    // Only JSON allows duplicate names; the last one counts.
                    let value = value.unwrap_or_default();
                    labels.set(TargetLabel { name, value });
                    if labels.0.len() > MAX_LABELS {
                        let message = format!("more than {MAX_LABELS} labels");
                        return Err(serde::de::Error::custom(message));
                    }
                }
                Ok(labels)
            }
        }
        from.deserialize_map(LabelsVisitor)
    }
}

/// A null among targets stays an empty address, as in Prometheus.
fn or_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let targets = Option::<Vec<Option<String>>>::deserialize(from)?;
    let targets = targets.unwrap_or_default().into_iter();
    Ok(targets.map(Option::unwrap_or_default).collect())
}

fn labels_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<TargetLabels, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> TargetLabels {
        let labels: Vec<TargetLabel> = text
            .split_whitespace()
            .map(|label| label.parse().unwrap())
            .collect();
        TargetLabels::from_args(&labels).unwrap()
    }

    #[test]
    fn rejects_addresses_with_scheme_or_path() {
        for address in ["h:9100", "h", "[::1]:9100", "10.0.0.1:9100", "a:b:c"] {
            assert_eq!(
                validate(address, &TargetLabels::default()),
                Ok(()),
                "{address}"
            );
        }
        for (address, expected) in [
            ("", "no address"),
            (
                "http://h:9100",
                "\"http://h:9100\" is not a valid hostname: expected HOST:PORT, without scheme \
                 and path",
            ),
        ] {
            assert_eq!(
                validate(address, &TargetLabels::default()),
                Err(expected.to_owned())
            );
        }
    }

    #[test]
    fn label_names_are_validated() {
        for name in ["a", "_", "A9", "__metrics_path__"] {
            assert_eq!(validate_label_name(name), Ok(()), "{name}");
        }
        for name in ["", "9a", "a-b", "a.b", "a:b", "\u{e4}", "a b", "a\n"] {
            assert!(validate_label_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn number_of_labels_is_bounded() {
        let group = |number: usize| {
            // The last one is a duplicate, which does not count.
            let labels = (0..=number).map(|at| format!("\"a{}\": \"\"", at.min(number - 1)));
            let labels: Vec<_> = labels.collect();
            let text = format!("{{\"labels\": {{{}}}}}", labels.join(", "));
            serde_json::from_str::<TargetGroup>(&text)
        };
        assert_eq!(group(MAX_LABELS).unwrap().labels.0.len(), MAX_LABELS);
        let error = group(MAX_LABELS + 1).unwrap_err().to_string();
        assert!(
            error.starts_with("more than 1000 labels at line 1"),
            "{error}"
        );
    }

    #[test]
    fn empty_label_equals_missing_label() {
        assert!(labels("a=1 b=").have_same_labels(&labels("a=1")));
        assert!(labels("a=1").have_same_labels(&labels("b= a=1")));
        assert!(labels("b=2 a=1").have_same_labels(&labels("a=1 b=2")));
        assert!(!labels("a=1 b=2").have_same_labels(&labels("a=1")));
        assert!(labels("a=1 b=2").match_all(&labels("a=1")));
        assert!(!labels("a=1").match_all(&labels("a=1 b=2")));
    }

    #[test]
    fn durations_parse_as_in_prometheus() {
        assert_eq!(parse_milliseconds(""), Ok(None));
        assert_eq!(parse_milliseconds("1m0s"), Ok(Some(60_000)));
        assert_eq!(parse_milliseconds("1h30m5ms"), Ok(Some(5_400_005)));
        assert_eq!(parse_milliseconds("290y"), Ok(Some(290 * 365 * 86_400_000)));
        for (text, error) in [
            ("0", "cannot be 0"),
            ("0ms", "cannot be 0"),
            ("300y", "is out of range"),
            ("999999999999999999999y", "is out of range"),
            ("1m0", "is not a valid duration"),
            ("60", "is not a valid duration"),
            ("s", "is not a valid duration"),
            ("1.5h", "is not a valid duration"),
            ("30m1h", "is not a valid duration"),
            ("1s1s", "is not a valid duration"),
        ] {
            assert_eq!(parse_milliseconds(text), Err(error), "{text}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape_control("h\u{1b}[2J:1"), "h\\u{1b}[2J:1");
        let label = TargetLabels(vec![TargetLabel {
            name: "a".to_owned(),
            value: "\u{1b}\"".to_owned(),
        }]);
        assert_eq!(label.to_string(), r#"{a="\u{1b}\""}"#);
    }
}
