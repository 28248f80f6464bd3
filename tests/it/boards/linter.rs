//! The rules of Grafana's dashboard-linter, reimplemented because it is not packaged everywhere,
//! and a few more. Exceptions are listed in `dashboards/lint-exceptions.txt`.

use std::{collections::BTreeSet, fmt, fs};

use regex::Regex;
use serde_json::{Value, json};
use strata_exporter::metric::MetricType;

use super::{Place, RANGE, RATE_INTERVAL, boards, panels, root, text, without_variables};
use crate::support::{
    promql::{MetricCatalog, PromqlQuery, has_label},
    rules::recorded_names,
};

/// Grafana units (`valueFormats` of @grafana/data) in use here.
const UNITS: &[&str] = &[
    "Bps",
    "bps",
    "bytes",
    "celsius",
    "hertz",
    "iops",
    "none",
    "ops",
    "percent",
    "percentunit",
    "pps",
    "reqps",
    "rotrpm",
    "s",
    "short",
    "watt",
];

/// `PromQL` functions that require a counter.
const OF_COUNTERS: &[&str] = &["rate", "irate", "increase"];

/// A violation of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    rule: &'static str,
    place: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule, self.place, self.what)
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn unless(&mut self, is_so: bool, rule: &'static str, place: &str, what: impl Into<String>) {
        if !is_so {
            let (place, what) = (place.to_owned(), what.into());
            self.0.push(Finding { rule, place, what });
        }
    }
}

/// Exceptions: rule, panel pattern, and whether the exception was used.
fn exceptions() -> Vec<(String, glob::Pattern)> {
    let file = fs::read_to_string(root().join("dashboards/lint-exceptions.txt")).unwrap();
    let lines = file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (what, why) = line.split_once(" -- ").expect("an exception has a reason");
            assert!(!why.trim().is_empty(), "{line}: why?");
            let (rule, place) = what.split_once(' ').unwrap();
            (rule.to_owned(), glob::Pattern::new(place.trim()).unwrap())
        })
        .collect()
}

#[test]
fn boards_pass_the_linter() {
    let known = MetricCatalog::new(recorded_names());
    let mut findings = Findings::default();
    for (name, board) in boards() {
        about_board(&mut findings, &name, &board);
        about_variables(&mut findings, &name, &board);
        for place in panels(&name, &board) {
            about_panel(&mut findings, &place, &known);
            for (at, target) in place.targets() {
                about_target(&mut findings, &at, target, &known);
            }
        }
    }
    let exceptions = exceptions();
    let mut met = BTreeSet::new();
    findings.0.retain(|finding| {
        let mut which = exceptions.iter();
        let which =
            which.position(|(rule, place)| rule == finding.rule && place.matches(&finding.place));
        met.extend(which);
        which.is_none()
    });
    let lines: Vec<_> = findings.0.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    let idle: Vec<_> = (0..exceptions.len())
        .filter(|it| !met.contains(it))
        .collect();
    assert!(
        idle.is_empty(),
        "exceptions that nothing needs, from 0: {idle:?}"
    );
}

fn about_board(findings: &mut Findings, name: &str, board: &Value) {
    findings.unless(
        board["uid"] == format!("strata-{name}"),
        "uid",
        name,
        "not strata-NAME",
    );
    findings.unless(board["id"].is_null(), "id", name, "is another's to give");
    findings.unless(
        board["editable"] == false,
        "uneditable",
        name,
        "can be edited",
    );
    findings.unless(
        board.get("__inputs").is_none(),
        "inputs",
        name,
        "has __inputs",
    );
    findings.unless(
        board["schemaVersion"] == 42,
        "schema",
        name,
        "not version 42",
    );
    findings.unless(
        board["tags"] == json!(["strata"]),
        "tags",
        name,
        "not strata",
    );
    let links = board["links"].as_array().unwrap();
    let is_to_all = |it: &Value| it["type"] == "dashboards" && it["tags"] == json!(["strata"]);
    findings.unless(
        links.iter().any(is_to_all),
        "links",
        name,
        "no link to the others",
    );
}

fn about_variables(findings: &mut Findings, name: &str, board: &Value) {
    let variables = board["templating"]["list"].as_array().unwrap();
    let first = &variables[0];
    let is_source = first["type"] == "datasource"
        && first["name"] == "datasource"
        && first["label"] == "Data Source"
        && first["query"] == "prometheus";
    findings.unless(
        is_source,
        "template-datasource",
        name,
        "no datasource \"Data Source\"",
    );
    for (variable, label) in [("job", "Job"), ("instance", "Instance")] {
        let is_it = |it: &&Value| it["name"] == variable;
        let Some(found) = variables.iter().find(is_it) else {
            findings.unless(false, "template-target", name, format!("no ${variable}"));
            continue;
        };
        let is_right = found["type"] == "query"
            && found["label"] == label
            && found["multi"] == true
            && found["includeAll"] == true
            && found["allValue"] == ".+";
        findings.unless(
            is_right,
            "template-target",
            name,
            format!("${variable}: not multi, All, .+"),
        );
    }
    let known = MetricCatalog::new(BTreeSet::new());
    let query = Regex::new(r"^label_values\((.+), (\w+)\)$").unwrap();
    for variable in variables.iter().filter(|it| it["type"] == "query") {
        let at = format!("{name} / ${}", text(&variable["name"]));
        findings.unless(
            variable["refresh"] == 2,
            "template-reload",
            &at,
            "not on time change",
        );
        let source = &variable["datasource"]["uid"];
        findings.unless(
            source == "${datasource}",
            "template-datasource",
            &at,
            "another's",
        );
        let Some(parts) = query.captures(text(&variable["query"]["query"])) else {
            findings.unless(false, "template-promql", &at, "not label_values(…)");
            continue;
        };
        match PromqlQuery::new(&parts[1]) {
            Err(error) => findings.unless(false, "template-promql", &at, error),
            Ok((question, expr)) => {
                let wrong = known.validate(&question);
                findings.unless(wrong.is_empty(), "metric", &at, wrong.join(", "));
                let label = &parts[2];
                findings.unless(
                    has_label(&known.result_labels(&expr), label),
                    "label",
                    &at,
                    label,
                );
            }
        }
    }
    // Grafana evaluates variables in order.
    for (position, variable) in variables.iter().enumerate() {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        for later in &variables[position..] {
            let later = format!("\"${}\"", text(&later["name"]));
            findings.unless(
                !query.contains(&later),
                "template-order",
                name,
                format!("{later} is asked before"),
            );
        }
    }
}

fn about_panel(findings: &mut Findings, place: &Place<'_>, known: &MetricCatalog) {
    let (at, panel) = (&place.name, place.panel);
    let title = text(&panel["title"]);
    findings.unless(!title.is_empty(), "panel-title", at, "has none");
    let description = text(&panel["description"]);
    let is_sentence = description.ends_with('.') && description.starts_with(char::is_uppercase);
    // The name libvirt starts with a lower-case letter.
    let is_sentence = is_sentence || description.starts_with("libvirt");
    findings.unless(is_sentence, "panel-description", at, "no sentence");
    let source = &panel["datasource"]["uid"];
    findings.unless(
        source == "${datasource}",
        "panel-datasource",
        at,
        "another's",
    );
    let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
    findings.unless(
        UNITS.contains(&unit),
        "panel-unit",
        at,
        format!("unknown: {unit}"),
    );
    for replaced in panel["fieldConfig"]["overrides"].as_array().unwrap() {
        for property in replaced["properties"].as_array().unwrap() {
            if property["id"] == "unit" {
                let unit = text(&property["value"]);
                findings.unless(
                    UNITS.contains(&unit),
                    "panel-unit",
                    at,
                    format!("unknown: {unit}"),
                );
            }
        }
    }
    let targets = panel["targets"].as_array().unwrap();
    findings.unless(!targets.is_empty(), "panel-targets", at, "has none");
    let letters: BTreeSet<_> = targets.iter().map(|it| text(&it["refId"])).collect();
    findings.unless(
        letters.len() == targets.len(),
        "panel-targets",
        at,
        "letters repeat",
    );
    if panel["type"] == "table" {
        about_columns(findings, place, known);
    }
}

/// Table columns must be exactly the labels of the query's result.
fn about_columns(findings: &mut Findings, place: &Place<'_>, known: &MetricCatalog) {
    let transformations = place.panel["transformations"].as_array().unwrap();
    let organize = &transformations.last().unwrap()["options"];
    let renamed = organize["renameByName"].as_object().unwrap();
    let mut there = BTreeSet::new();
    for (_, target) in place.targets() {
        let Ok((_, expr)) = PromqlQuery::new(&without_variables(text(&target["expr"]))) else {
            continue;
        };
        there.extend(known.result_labels(&expr).unwrap_or_default());
    }
    let is_value = |it: &&String| it.starts_with("Value");
    let columns: BTreeSet<_> = renamed.keys().filter(|it| !is_value(it)).cloned().collect();
    let same = columns == there;
    findings.unless(
        same,
        "table-columns",
        &place.name,
        format!("{columns:?} and {there:?}"),
    );
    // Two columns must not have the same title.
    let titles: BTreeSet<_> = renamed.values().map(text).collect();
    findings.unless(
        titles.len() == renamed.len(),
        "table-columns",
        &place.name,
        "titles repeat",
    );
    let sorted = place.panel["options"]["sortBy"].as_array().unwrap().iter();
    let sorted = sorted.map(|it| text(&it["displayName"]));
    let replaced = place.panel["fieldConfig"]["overrides"]
        .as_array()
        .unwrap()
        .iter();
    let replaced = replaced.map(|it| text(&it["matcher"]["options"]));
    for column in sorted.chain(replaced) {
        findings.unless(
            titles.contains(column),
            "table-columns",
            &place.name,
            format!("no {column}"),
        );
    }
    let field = Regex::new(r#"__data\.fields\["([^"]+)"\]"#).unwrap();
    let said = place.panel.to_string().replace("\\\"", "\"");
    for linked in field.captures_iter(&said) {
        findings.unless(
            titles.contains(&linked[1]),
            "table-columns",
            &place.name,
            format!("no {}", &linked[1]),
        );
    }
}

fn about_target(findings: &mut Findings, at: &str, target: &Value, known: &MetricCatalog) {
    let source = &target["datasource"]["uid"];
    findings.unless(
        source == "${datasource}",
        "target-datasource",
        at,
        "another's",
    );
    let (question, expr) = match PromqlQuery::new(&without_variables(text(&target["expr"]))) {
        Ok(both) => both,
        Err(error) => return findings.unless(false, "target-promql", at, error),
    };
    let wrong = known.validate(&question);
    findings.unless(wrong.is_empty(), "metric", at, wrong.join(", "));
    for used in &question.uses {
        for (label, value) in [("job", "$job"), ("instance", "$instance")] {
            let is_it = |it: &promql_parser::label::Matcher| {
                it.name == label && it.value == value && it.op.to_string() == "=~"
            };
            let is_there = used.matchers.iter().any(is_it);
            findings.unless(
                is_there,
                "target-job-instance",
                at,
                format!("{}: no {value}", used.metric),
            );
        }
        if let Some(range) = used.range {
            // `increase` in an instant query may cover the whole dashboard range.
            let for_all = target["instant"] == true && used.function == Some("increase");
            let is_right = range == RATE_INTERVAL || for_all && range == RANGE;
            findings.unless(is_right, "target-rate-interval", at, format!("{range:?}"));
        }
        let descriptions = known.descriptions(&used.metric);
        let is_counted = used.function.is_some_and(|it| OF_COUNTERS.contains(&it));
        let counts = descriptions.iter().all(|it| it.kind == MetricType::Counter);
        if counts && !descriptions.is_empty() {
            findings.unless(
                is_counted,
                "target-counter",
                at,
                format!("{} without rate", used.metric),
            );
        }
        let is_gauge = descriptions.iter().any(|it| it.kind == MetricType::Gauge);
        findings.unless(
            !(is_gauge && is_counted),
            "target-gauge",
            at,
            format!("rate of {}", used.metric),
        );
    }
    let labels = known.result_labels(&expr);
    let named = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    for label in named.captures_iter(text(&target["legendFormat"])) {
        findings.unless(
            has_label(&labels, &label[1]),
            "target-legend",
            at,
            format!("no {}", &label[1]),
        );
    }
}
