//! The rules of Grafana's dashboard-linter, reimplemented because it is not packaged everywhere,
//! and a few more. Exceptions are listed in `dashboards/lint-exceptions.txt`.

use std::{collections::BTreeSet, fmt, fs};

use regex::Regex;
use serde_json::{Value, json};
use strata_exporter::metric::MetricType;

use super::{NamedPanel, RANGE, RATE_INTERVAL, boards, panels, root, text, without_variables};
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
const COUNTER_FUNCTIONS: &[&str] = &["rate", "irate", "increase"];

/// A violation of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    rule: &'static str,
    location: String,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.rule, self.location, self.message)
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn unless(
        &mut self,
        holds: bool,
        rule: &'static str,
        location: &str,
        message: impl Into<String>,
    ) {
        if !holds {
            let (location, message) = (location.to_owned(), message.into());
            self.0.push(Finding {
                rule,
                location,
                message,
            });
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
            let (key, reason) = line.split_once(" -- ").expect("an exception has a reason");
            assert!(!reason.trim().is_empty(), "{line}: no reason");
            let (rule, pattern) = key.split_once(' ').unwrap();
            (rule.to_owned(), glob::Pattern::new(pattern.trim()).unwrap())
        })
        .collect()
}

#[test]
fn boards_pass_the_linter() {
    let catalog = MetricCatalog::new(recorded_names());
    let mut findings = Findings::default();
    for (name, board) in boards() {
        lint_board(&mut findings, &name, &board);
        lint_variables(&mut findings, &name, &board);
        for named_panel in panels(&name, &board) {
            lint_panel(&mut findings, &named_panel, &catalog);
            for (at, target) in named_panel.targets() {
                lint_target(&mut findings, &at, target, &catalog);
            }
        }
    }
    let exceptions = exceptions();
    let mut met = BTreeSet::new();
    findings.0.retain(|finding| {
        let mut which = exceptions.iter();
        let which = which
            .position(|(rule, pattern)| rule == finding.rule && pattern.matches(&finding.location));
        met.extend(which);
        which.is_none()
    });
    let lines: Vec<_> = findings.0.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    let idle: Vec<_> = (0..exceptions.len())
        .filter(|it| !met.contains(it))
        .collect();
    assert!(idle.is_empty(), "unused exceptions, by index: {idle:?}");
}

fn lint_board(findings: &mut Findings, name: &str, board: &Value) {
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

fn lint_variables(findings: &mut Findings, name: &str, board: &Value) {
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
        let has_name = |it: &&Value| it["name"] == variable;
        let Some(found) = variables.iter().find(has_name) else {
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
    let catalog = MetricCatalog::new(BTreeSet::new());
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
            Ok((parsed, expr)) => {
                let errors = catalog.validate(&parsed);
                findings.unless(errors.is_empty(), "metric", &at, errors.join(", "));
                let label = &parts[2];
                findings.unless(
                    has_label(&catalog.result_labels(&expr), label),
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
                format!("{later} is queried before"),
            );
        }
    }
}

fn lint_panel(findings: &mut Findings, named_panel: &NamedPanel<'_>, catalog: &MetricCatalog) {
    let (at, panel) = (&named_panel.name, named_panel.panel);
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
        lint_columns(findings, named_panel, catalog);
    }
}

/// Table columns must be exactly the labels of the query's result.
fn lint_columns(findings: &mut Findings, named_panel: &NamedPanel<'_>, catalog: &MetricCatalog) {
    let transformations = named_panel.panel["transformations"].as_array().unwrap();
    let organize = &transformations.last().unwrap()["options"];
    let renamed = organize["renameByName"].as_object().unwrap();
    let mut available = BTreeSet::new();
    for (_, target) in named_panel.targets() {
        let Ok((_, expr)) = PromqlQuery::new(&without_variables(text(&target["expr"]))) else {
            continue;
        };
        available.extend(catalog.result_labels(&expr).unwrap_or_default());
    }
    let is_value = |it: &&String| it.starts_with("Value");
    let columns: BTreeSet<_> = renamed.keys().filter(|it| !is_value(it)).cloned().collect();
    let same = columns == available;
    findings.unless(
        same,
        "table-columns",
        &named_panel.name,
        format!("{columns:?} and {available:?}"),
    );
    // Two columns must not have the same title.
    let titles: BTreeSet<_> = renamed.values().map(text).collect();
    findings.unless(
        titles.len() == renamed.len(),
        "table-columns",
        &named_panel.name,
        "titles repeat",
    );
    let sorted = named_panel.panel["options"]["sortBy"]
        .as_array()
        .unwrap()
        .iter();
    let sorted = sorted.map(|it| text(&it["displayName"]));
    let replaced = named_panel.panel["fieldConfig"]["overrides"]
        .as_array()
        .unwrap()
        .iter();
    let replaced = replaced.map(|it| text(&it["matcher"]["options"]));
    for column in sorted.chain(replaced) {
        findings.unless(
            titles.contains(column),
            "table-columns",
            &named_panel.name,
            format!("no {column}"),
        );
    }
    let field = Regex::new(r#"__data\.fields\["([^"]+)"\]"#).unwrap();
    let panel_json = named_panel.panel.to_string().replace("\\\"", "\"");
    for linked in field.captures_iter(&panel_json) {
        findings.unless(
            titles.contains(&linked[1]),
            "table-columns",
            &named_panel.name,
            format!("no {}", &linked[1]),
        );
    }
}

fn lint_target(findings: &mut Findings, at: &str, target: &Value, catalog: &MetricCatalog) {
    let source = &target["datasource"]["uid"];
    findings.unless(
        source == "${datasource}",
        "target-datasource",
        at,
        "another's",
    );
    let (query, expr) = match PromqlQuery::new(&without_variables(text(&target["expr"]))) {
        Ok(both) => both,
        Err(error) => return findings.unless(false, "target-promql", at, error),
    };
    let errors = catalog.validate(&query);
    findings.unless(errors.is_empty(), "metric", at, errors.join(", "));
    for used in &query.uses {
        for (label, value) in [("job", "$job"), ("instance", "$instance")] {
            let has_name = |it: &promql_parser::label::Matcher| {
                it.name == label && it.value == value && it.op.to_string() == "=~"
            };
            let is_there = used.matchers.iter().any(has_name);
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
        let descriptions = catalog.descriptions(&used.metric);
        let is_counted = used
            .function
            .is_some_and(|it| COUNTER_FUNCTIONS.contains(&it));
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
    let labels = catalog.result_labels(&expr);
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
