//! The dashboards in `dashboards/` match their generator, are valid for Grafana, and query existing
//! metrics.

mod grid;
mod linter;
mod queries;
mod types;

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use crate::support::skip;
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";

/// File names of the expected dashboards.
const BOARDS: &[&str] = &[
    "census",
    "containers",
    "domains",
    "exporter",
    "fleet",
    "host",
];

/// Values substituted for `$__rate_interval` and `$__range`: unusual ones, which no expression
/// contains itself.
const RATE_INTERVAL: Duration = Duration::from_secs(257);
const RANGE: Duration = Duration::from_secs(4211);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn boards() -> BTreeMap<String, Value> {
    let mut boards = BTreeMap::new();
    for file in fs::read_dir(root().join("dashboards")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|it| it == "json") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let board = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            boards.insert(name, board);
        }
    }
    assert_eq!(boards.keys().collect::<Vec<_>>(), BOARDS);
    boards
}

/// An expression with Grafana's variables replaced, so that Prometheus can parse it.
fn without_variables(expr: &str) -> String {
    let seconds = |it: Duration| format!("{}s", it.as_secs());
    expr.replace("$__rate_interval", &seconds(RATE_INTERVAL))
        .replace("$__range_s", "4211")
        .replace("$__range", &seconds(RANGE))
        .replace("$top", "10")
}

/// A panel and its location.
struct NamedPanel<'a> {
    name: String,
    panel: &'a Value,
}

impl NamedPanel<'_> {
    fn targets(&self) -> impl Iterator<Item = (String, &Value)> {
        let targets = self.panel["targets"].as_array().unwrap().iter();
        targets.map(|it| (format!("{} / {}", self.name, text(&it["refId"])), it))
    }
}

/// All panels including those in collapsed rows, but not the rows themselves.
fn panels<'a>(board: &str, model: &'a Value) -> Vec<NamedPanel<'a>> {
    let mut named = Vec::new();
    let mut row = "";
    for panel in model["panels"].as_array().unwrap() {
        let is_row = panel["type"] == "row";
        if is_row {
            row = text(&panel["title"]);
        }
        let inner = if is_row {
            panel["panels"].as_array().unwrap().iter().collect()
        } else {
            vec![panel]
        };
        for panel in inner {
            let name = format!("{board} / {row} / {}", text(&panel["title"]));
            named.push(NamedPanel { name, panel });
        }
    }
    named
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn committed_boards_match_the_generator() {
    if !Path::new(PYTHON).exists() {
        return skip(PYTHON);
    }
    let output = Command::new(PYTHON)
        .arg(root().join("dashboards/make.py"))
        .arg("--check")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}run dashboards/make.py");
}
