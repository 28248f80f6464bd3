//! The Prometheus rules follow their conventions, and each rule has a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use crate::support::{
    promql::{MetricCatalog, PromqlQuery},
    rules::{
        LAYERS, Rule, all_rules, read_groups, read_yaml, recorded_names, repo_root, rule_files,
        rules_dir,
    },
};
use regex::Regex;
use serde::Deserialize;
use strata_exporter::collectors;

const RUNBOOKS: &str =
    "https://github.com/strata-exporter/strata_exporter/blob/main/docs/operations/runbooks.md#";

#[derive(Deserialize)]
struct TestFile {
    tests: Vec<TestGroup>,
}

#[derive(Deserialize)]
struct TestGroup {
    #[serde(default)]
    alert_rule_test: Vec<AlertCase>,
    #[serde(default)]
    promql_expr_test: Vec<ValueCase>,
}

#[derive(Deserialize)]
struct AlertCase {
    alertname: String,
    exp_alerts: Vec<ExpectedAlert>,
}

#[derive(Deserialize)]
struct ExpectedAlert {
    exp_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ValueCase {
    exp_samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    labels: String,
}

fn alerts() -> BTreeMap<String, Rule> {
    let alerts = all_rules().into_iter();
    let mut alerts = alerts.filter_map(|mut rule| Some((rule.alert.take()?, rule)));
    let mut out = BTreeMap::new();
    for (name, rule) in &mut alerts {
        assert!(out.insert(name.clone(), rule).is_none(), "{name} twice");
    }
    assert!(out.len() > 70, "{} alerts", out.len());
    out
}

fn test_groups(layer: &str) -> Vec<TestGroup> {
    read_yaml::<TestFile>(&rules_dir().join(format!("tests/{layer}.yml"))).tests
}

fn runbooks() -> String {
    fs::read_to_string(repo_root().join("docs/operations/runbooks.md")).unwrap()
}

/// Sections of the runbooks, by heading.
fn sections() -> BTreeMap<String, String> {
    let text = runbooks();
    let sections = text.split("\n### ").skip(1);
    let sections = sections.map(|section| section.split_once('\n').unwrap());
    sections
        .map(|(heading, body)| {
            let body = body.split("\n## ").next().unwrap();
            (heading.to_owned(), body.to_owned())
        })
        .collect()
}

fn tokens(promql: &str) -> Vec<String> {
    let token = r#""[^"]*"|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9][0-9a-zA-Z.]*|[=!<>]=|[=!]~|[^\s]"#;
    let token = Regex::new(token).unwrap();
    token
        .find_iter(promql)
        .map(|it| it.as_str().to_owned())
        .collect()
}

fn promtool(args: &[&str], files: &[PathBuf]) {
    if !crate::support::is_installed("promtool") {
        crate::support::skip("promtool");
        return;
    }
    let output = Command::new("promtool").args(args).args(files).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    assert!(text.matches("SUCCESS").count() == files.len(), "{text}");
}

#[test]
fn promtool_accepts_the_rules() {
    let files = rule_files();
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &files);
    let rule_paths = fs::read_dir(rules_dir()).unwrap();
    let rule_paths = rule_paths.filter(|file| file.as_ref().unwrap().path().is_file());
    assert_eq!(rule_paths.count(), files.len(), "a file without a test");
}

#[test]
fn promtool_rule_tests_pass() {
    let files = LAYERS
        .iter()
        .map(|(layer, _)| rules_dir().join(format!("tests/{layer}.yml")));
    let files: Vec<_> = files.collect();
    promtool(&["test", "rules"], &files);
}

#[test]
fn every_alert_has_a_firing_and_a_silent_case() {
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for (layer, _) in LAYERS {
        let cases = test_groups(layer)
            .into_iter()
            .flat_map(|group| group.alert_rule_test);
        for case in cases {
            let annotations = case
                .exp_alerts
                .iter()
                .flat_map(|alert| &alert.exp_annotations);
            for (name, text) in annotations {
                // `<no value>` and `<error expanding template>` are failed templates.
                assert!(!text.contains('<'), "{name}: {text}");
            }
            let kind = if case.exp_alerts.is_empty() {
                &mut silent
            } else {
                &mut firing
            };
            kind.insert(case.alertname);
        }
    }
    let all: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(firing, all, "firing");
    assert_eq!(silent, all, "silent");
}

#[test]
fn every_recording_rule_has_a_test() {
    let name = Regex::new(r#"^\{__name__="([^"]+)""#).unwrap();
    let mut expected = BTreeSet::new();
    for (layer, _) in LAYERS {
        let cases = test_groups(layer)
            .into_iter()
            .flat_map(|group| group.promql_expr_test);
        for sample in cases.flat_map(|case| case.exp_samples) {
            expected.insert(name.captures(&sample.labels).unwrap()[1].to_owned());
        }
    }
    assert_eq!(expected, recorded_names());
}

#[test]
fn alerts_have_severity_texts_and_runbook() {
    let sections = sections();
    for (layer_name, prefix) in LAYERS {
        let groups = read_groups(layer_name);
        for rule in groups.iter().flat_map(|group| &group.rules) {
            let Some(name) = &rule.alert else { continue };
            assert!(name.starts_with(prefix), "{name} in {layer_name}.yml");
            let severity = rule.labels.get("severity").map(String::as_str);
            assert!(matches!(severity, Some("warning" | "critical")), "{name}");
            let keys: Vec<_> = rule.annotations.keys().map(String::as_str).collect();
            assert_eq!(keys, ["description", "runbook_url", "summary"], "{name}");
            assert!(rule.annotations["summary"].len() < 120, "{name}");
            let url = format!("{RUNBOOKS}{}", name.to_lowercase());
            assert_eq!(rule.annotations["runbook_url"], url, "{name}");
            let section = sections.get(name);
            let section = section.unwrap_or_else(|| panic!("no section for {name}"));
            for part in ["\nCheck:\n\n- ", "\nFix: ", "\nSilence: "] {
                assert!(section.contains(part), "{name} lacks {part:?}");
            }
            for token in tokens(&rule.expr) {
                if token.starts_with("strata_threshold:") {
                    assert!(section.contains(&token), "{name}'s section lacks {token}");
                }
            }
        }
    }
}

#[test]
fn every_runbook_section_is_about_an_alert() {
    let sections: BTreeSet<_> = sections().into_keys().collect();
    let alerts: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(sections, alerts);
    let headings = runbooks().matches("\n### ").count();
    assert_eq!(headings, alerts.len(), "duplicate heading");
}

#[test]
fn runbooks_name_existing_alerts_metrics_and_rules() {
    let text = runbooks();
    let (alerts, catalog) = (alerts(), MetricCatalog::new(recorded_names()));
    let name = Regex::new(r"\b(Host|Container|Domain|Exporter)[A-Z]\w+").unwrap();
    for found in name.find_iter(&text) {
        let found = found.as_str();
        assert!(alerts.contains_key(found), "{found}");
    }
    let name = r"\b(node|container|libvirt|strata|instance|instance_[a-z]+|job|machine|process)[_:][a-zA-Z0-9_:]+";
    let name = Regex::new(name).unwrap();
    let mut count = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        for found in name.find_iter(quoted) {
            let found = found.as_str();
            let is_collector = collectors::ALL.iter().any(|entry| entry.name == found);
            if !is_collector && found != "strata_exporter" && found != "strata_threshold:" {
                assert!(catalog.has_metric(found), "{found}");
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} names");
}

#[test]
fn alerts_compare_only_with_thresholds_defined_at_the_top() {
    for (name, _) in LAYERS {
        let groups = read_groups(name);
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        let expected = ["thresholds", "recorded", "alerts"].map(|it| format!("strata-{name}-{it}"));
        assert_eq!(names, expected);
        let [thresholds, recordings, alerting] = groups.try_into().ok().unwrap();
        let is_threshold = |rule: &&Rule| {
            let name = rule.record.as_deref();
            name.is_some_and(|name| name.starts_with("strata_threshold:"))
        };
        let selections = thresholds
            .rules
            .iter()
            .skip_while(is_threshold)
            .chain(&recordings.rules);
        for rule in selections {
            assert!(rule.record.is_some() && !is_threshold(&rule), "{name}");
        }
        let defined = thresholds.rules.iter().filter(is_threshold);
        let defined: BTreeSet<_> = defined
            .map(|rule| {
                let value: f64 = rule.expr.parse().unwrap();
                assert!(value > 0.0);
                rule.record.clone().unwrap()
            })
            .collect();

        let mut used = BTreeSet::new();
        for rule in &alerting.rules {
            assert!(rule.alert.is_some(), "{:?} among alerts", rule.record);
            let tokens = tokens(&rule.expr);
            let found = tokens.iter().enumerate();
            for (at, token) in found {
                let before = |by: usize| at.checked_sub(by).map_or("", |at| tokens[at].as_str());
                if token.starts_with("strata_threshold:") {
                    // Without `scalar` the labels of both sides would have to match.
                    assert_eq!((before(2), before(1)), ("scalar", "("), "{}", rule.expr);
                    used.insert(token.clone());
                }
                if let Ok(number) = token.parse::<f64>() {
                    let is_state = before(1) == "==" && number.fract() == 0.0;
                    let is_any = before(1) == ">" && number == 0.0;
                    let is_zero_left = before(1) == "<" && number == 0.0;
                    assert!(is_state || is_any || is_zero_left, "{}", rule.expr);
                }
            }
        }
        assert_eq!(used, defined, "{name}");
    }
}

#[test]
fn recording_names_contain_their_range() {
    let over = Regex::new(r"\[(\w+)\]").unwrap();
    let named = Regex::new("(?:rate|increase|changes)([0-9]+[mh])$").unwrap();
    let mut count = 0;
    for rule in all_rules() {
        let Some(name) = rule.record else { continue };
        for found in over.captures_iter(&rule.expr) {
            let named = named.captures(&name);
            let named = named.unwrap_or_else(|| panic!("{name} is over {}", &found[1]));
            assert_eq!(named[1], found[1], "{name}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} times");
}

#[test]
fn rules_use_described_metrics_and_labels() {
    let catalog = MetricCatalog::new(recorded_names());
    let mut count = 0;
    let mut check = |expr: &str, location: &str| {
        let (parsed, _) =
            PromqlQuery::new(expr).unwrap_or_else(|error| panic!("{location}: {error}"));
        count += parsed.uses.len();
        assert_eq!(catalog.validate(&parsed), [""; 0], "{location}");
    };
    // Queries in descriptions, to which labels are added.
    let query = Regex::new(r#"printf "([^"]+)""#).unwrap();
    for rule in all_rules() {
        let name = rule.alert.or(rule.record).unwrap();
        check(&rule.expr, &name);
        for text in rule.annotations.values() {
            for found in query.captures_iter(text) {
                check(&found[1].replace("%q", "\"\"").replace('\'', "\""), &name);
            }
        }
    }
    assert!(count > 200, "{count} names");
}
