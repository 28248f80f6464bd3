//! A minimal parser of the text format.

use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// A parsed exposition.
#[derive(Debug, Default)]
pub struct Scrape {
    /// By family.
    pub types: BTreeMap<String, String>,
    /// By series name.
    pub series: BTreeMap<String, BTreeMap<Labels, f64>>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                scrape.types.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (name, labels, value) = parse_sample(line);
                let series = scrape.series.entry(name.into()).or_default();
                assert_eq!(
                    series.insert(labels, value),
                    None,
                    "duplicate sample: {line}"
                );
            }
        }
        scrape
    }

    /// Series of this name.
    pub fn series_named(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        let series = self.series.get(name).into_iter().flatten();
        series.map(|(labels, value)| (labels, *value))
    }

    /// Value of the only series with these labels; it may have more labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series_labels: &Labels| {
            labels
                .iter()
                .all(|(k, v)| series_labels.get(*k).is_some_and(|is| is == v))
        };
        let mut found = self
            .series_named(name)
            .filter(|(series_labels, _)| has(series_labels));
        let (_, value) = found.next()?;
        assert!(found.next().is_none(), "{name}{labels:?} is not one series");
        Some(value)
    }
}

/// Parses `name{a="b"} 1` and `name 1`, with an optional timestamp.
fn parse_sample(line: &str) -> (&str, Labels, f64) {
    let (name, mut rest) = line.split_at(line.find(['{', ' ']).unwrap());
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while let Some((label, after)) = rest.split_once("=\"") {
            if rest.starts_with('}') {
                break;
            }
            let mut escaped = false;
            let end = after.find(|c| {
                let is_end = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                is_end
            });
            let (value, after) = after.split_at(end.unwrap());
            labels.insert(label.into(), value.into());
            rest = after.strip_prefix('"').unwrap();
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.split_ascii_whitespace().next().unwrap();
    (name, labels, value.parse().unwrap())
}

#[test]
fn parses_samples_with_escaped_labels() {
    let sample = r#"x{a="x\",=\"\\",b="",c="}"} 1.5 1700000000"#;
    let (name, labels, value) = parse_sample(sample);
    let expected = [("a", r#"x\",=\"\\"#), ("b", ""), ("c", "}")];
    assert!(labels.iter().map(|(k, v)| (&**k, &**v)).eq(expected));
    assert_eq!((name, value.to_string().as_str()), ("x", "1.5"));
    assert_eq!(parse_sample("x +Inf"), ("x", Labels::new(), f64::INFINITY));
}
