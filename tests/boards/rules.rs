//! The rules in `prometheus/rules`, held against what collectors describe.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use serde_json::Value;

use crate::{
    PYTHON,
    promql::{Known, Question},
    root,
    support::lacks,
};

/// All rules of `prometheus/rules`, by their files; none where there is no Python to read
/// them, which is said.
fn rules() -> Vec<(String, Value)> {
    let pattern = root().join("prometheus/rules/*.yml");
    let files: Vec<PathBuf> = glob::glob(pattern.to_str().unwrap())
        .unwrap()
        .flatten()
        .collect();
    let program = "import json, sys, yaml\n\
                   print(json.dumps([yaml.safe_load(open(f)) for f in sys.argv[1:]]))";
    if files.is_empty() {
        return Vec::new();
    }
    let said = Command::new(PYTHON)
        .args(["-c", program])
        .args(&files)
        .output();
    let Some(said) = said.ok().filter(|it| it.status.success()) else {
        lacks("python3-yaml");
        return Vec::new();
    };
    let read: Vec<Value> = serde_json::from_slice(&said.stdout).unwrap();
    let mut rules = Vec::new();
    for (file, read) in files.iter().zip(read) {
        let file = file.file_name().unwrap().to_str().unwrap().to_owned();
        for group in read["groups"].as_array().unwrap() {
            let inner = group["rules"].as_array().unwrap().iter();
            rules.extend(inner.map(|rule| (file.clone(), rule.clone())));
        }
    }
    rules
}

/// What rules record.
pub fn recorded() -> BTreeSet<String> {
    let records = rules().into_iter();
    records
        .filter_map(|(_, rule)| Some(rule["record"].as_str()?.to_owned()))
        .collect()
}

#[test]
fn rules_ask_for_metrics_and_labels_that_collectors_describe() {
    let known = Known::new(recorded());
    let mut wrong = Vec::new();
    for (file, rule) in rules() {
        let name = rule["record"]
            .as_str()
            .or(rule["alert"].as_str())
            .unwrap_or("?");
        // A number alone is one to YAML, too.
        let expr = rule["expr"]
            .as_str()
            .map_or_else(|| rule["expr"].to_string(), str::to_owned);
        let complaints = match Question::new(&expr) {
            Ok((question, _)) => known.complaints(&question),
            Err(error) => vec![error],
        };
        wrong.extend(complaints.iter().map(|it| format!("{file} {name}: {it}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
