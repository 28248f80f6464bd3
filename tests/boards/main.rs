//! The boards in `dashboards/` are what their generator makes, are boards to Grafana, and
//! ask for what there is.
//!
//! The rules are those of Grafana's dashboard-linter, which cannot be had everywhere, and
//! a few more. What is an exception to one is in `dashboards/lint-exceptions.txt`.

#![allow(clippy::disallowed_methods, reason = "tests read files as they are")]

mod promql;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jsonschema::{ValidationError, error::ValidationErrorKind};
use promql::{Known, Question, has};
use regex::Regex;
use serde_json::{Value, json};
use strata_exporter::metric::Kind;
use support::{
    is_installed, lacks,
    live::{Program, Scratch},
    readers::prometheus,
};

const PYTHON: &str = "/usr/bin/python3";

/// The boards that there must be, by their files.
const BOARDS: &[&str] = &[
    "census",
    "containers",
    "domains",
    "exporter",
    "fleet",
    "host",
];

/// Units that Grafana knows (`valueFormats` of @grafana/data) and that are used here.
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

/// What `$__rate_interval` and `$__range` are to the rules: as nobody would write them.
const RATE_INTERVAL: Duration = Duration::from_secs(257);
const RANGE: Duration = Duration::from_secs(4211);

/// Functions that make something of a counter.
const OF_COUNTERS: &[&str] = &["rate", "irate", "increase"];

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

/// An expression as Prometheus takes it.
fn without_variables(expr: &str) -> String {
    let seconds = |it: Duration| format!("{}s", it.as_secs());
    expr.replace("$__rate_interval", &seconds(RATE_INTERVAL))
        .replace("$__range_s", "4211")
        .replace("$__range", &seconds(RANGE))
        .replace("$top", "10")
}

/// A panel and where it is.
struct Place<'a> {
    name: String,
    panel: &'a Value,
}

impl Place<'_> {
    fn targets(&self) -> impl Iterator<Item = (String, &Value)> {
        let targets = self.panel["targets"].as_array().unwrap().iter();
        targets.map(|it| (format!("{} / {}", self.name, text(&it["refId"])), it))
    }
}

/// All panels, those in rows that are closed among them; without the rows.
fn panels<'a>(board: &str, model: &'a Value) -> Vec<Place<'a>> {
    let mut places = Vec::new();
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
            places.push(Place { name, panel });
        }
    }
    places
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Something that a rule does not like.
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

/// Exceptions to rules: the rule, where, and whether it was met with.
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
fn committed_boards_are_what_the_generator_makes() {
    if !Path::new(PYTHON).exists() {
        return lacks(PYTHON);
    }
    let said = Command::new(PYTHON)
        .arg(root().join("dashboards/make.py"))
        .arg("--check")
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{why}run dashboards/make.py");
}

#[test]
fn boards_keep_the_rules_of_the_linter() {
    let known = Known::new(recorded());
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
    let known = Known::new(BTreeSet::new());
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
        match Question::new(&parts[1]) {
            Err(error) => findings.unless(false, "template-promql", &at, error),
            Ok((question, expr)) => {
                let wrong = known.complaints(&question);
                findings.unless(wrong.is_empty(), "metric", &at, wrong.join(", "));
                let label = &parts[2];
                findings.unless(has(&known.answer(&expr), label), "label", &at, label);
            }
        }
    }
    // Grafana fills them in order.
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

fn about_panel(findings: &mut Findings, place: &Place<'_>, known: &Known) {
    let (at, panel) = (&place.name, place.panel);
    let title = text(&panel["title"]);
    findings.unless(!title.is_empty(), "panel-title", at, "has none");
    let description = text(&panel["description"]);
    let is_sentence = description.ends_with('.') && description.starts_with(char::is_uppercase);
    // libvirt is written small.
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

/// Columns have the labels that are asked for, and all of them.
fn about_columns(findings: &mut Findings, place: &Place<'_>, known: &Known) {
    let transformations = place.panel["transformations"].as_array().unwrap();
    let organize = &transformations.last().unwrap()["options"];
    let renamed = organize["renameByName"].as_object().unwrap();
    let mut there = BTreeSet::new();
    for (_, target) in place.targets() {
        let Ok((_, expr)) = Question::new(&without_variables(text(&target["expr"]))) else {
            continue;
        };
        there.extend(known.answer(&expr).unwrap_or_default());
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
    // What is said of a column is said of one that is there.
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

fn about_target(findings: &mut Findings, at: &str, target: &Value, known: &Known) {
    let source = &target["datasource"]["uid"];
    findings.unless(
        source == "${datasource}",
        "target-datasource",
        at,
        "another's",
    );
    let (question, expr) = match Question::new(&without_variables(text(&target["expr"]))) {
        Ok(both) => both,
        Err(error) => return findings.unless(false, "target-promql", at, error),
    };
    let wrong = known.complaints(&question);
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
            // What is to be counted for one look may be counted over all that is shown.
            let for_all = target["instant"] == true && used.function == Some("increase");
            let is_right = range == RATE_INTERVAL || for_all && range == RANGE;
            findings.unless(is_right, "target-rate-interval", at, format!("{range:?}"));
        }
        let descriptions = known.descriptions(&used.metric);
        let is_counted = used.function.is_some_and(|it| OF_COUNTERS.contains(&it));
        let counts = descriptions.iter().all(|it| it.kind == Kind::Counter);
        if counts && !descriptions.is_empty() {
            findings.unless(
                is_counted,
                "target-counter",
                at,
                format!("{} without rate", used.metric),
            );
        }
        let is_gauge = descriptions.iter().any(|it| it.kind == Kind::Gauge);
        findings.unless(
            !(is_gauge && is_counted),
            "target-gauge",
            at,
            format!("rate of {}", used.metric),
        );
    }
    let labels = known.answer(&expr);
    let named = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    for label in named.captures_iter(text(&target["legendFormat"])) {
        findings.unless(
            has(&labels, &label[1]),
            "target-legend",
            at,
            format!("no {}", &label[1]),
        );
    }
}

#[test]
fn no_panel_lies_over_another_and_none_is_there_twice() {
    for (name, board) in boards() {
        let mut ids = BTreeSet::new();
        let mut places = Vec::new();
        let top = board["panels"].as_array().unwrap();
        assert_no_overlap(&name, top);
        for panel in top {
            let inner = panel["panels"].as_array().map_or(&[][..], Vec::as_slice);
            assert_no_overlap(&name, inner);
            if panel["type"] == "row" {
                let is_closed = panel["collapsed"] == true;
                assert_eq!(is_closed, !inner.is_empty(), "{name}: {}", panel["title"]);
            }
            for panel in [panel].into_iter().chain(inner) {
                let id = panel["id"].as_u64().expect("a panel has an id");
                assert!(ids.insert(id), "{name}: {id} twice");
            }
        }
        for place in panels(&name, &board) {
            places.push(place.name);
        }
        let all = places.len();
        places.sort();
        places.dedup();
        assert_eq!(
            places.len(),
            all,
            "{name}: two panels of a row have one title"
        );
        assert_eq!(top[0]["title"], "State", "{name}: the state comes first");
        assert_eq!(top[0]["collapsed"], false, "{name}: and is open");
    }
}

fn assert_no_overlap(name: &str, panels: &[Value]) {
    let mut taken = BTreeMap::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|it| panel["gridPos"][it].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {}", panel["title"]);
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            if let Some(other) = taken.insert(cell, &panel["title"]) {
                panic!("{name}: {} lies over {other}", panel["title"]);
            }
        }
    }
}

#[test]
fn promtool_takes_every_expression() {
    if !is_installed("promtool") {
        return lacks("promtool");
    }
    let mut rules = Vec::new();
    for (name, board) in boards() {
        for place in panels(&name, &board) {
            for (_, target) in place.targets() {
                let record = format!("board:question_{}", rules.len());
                let expr = without_variables(text(&target["expr"]));
                rules.push(json!({ "record": record, "expr": expr }));
            }
        }
    }
    assert!(rules.len() > 100);
    let scratch = Scratch::new("boards-promtool");
    // JSON is YAML.
    let file = scratch.0.join("rules.yml");
    let group = json!({ "groups": [{ "name": "boards", "rules": rules }] });
    fs::write(&file, group.to_string()).unwrap();
    let said = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{why}");
}

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
fn recorded() -> BTreeSet<String> {
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

/// Where nothing is scraped nothing has an answer, but what needs none.
#[test]
fn every_question_is_asked_and_what_has_no_answer_is_told() {
    if !is_installed("prometheus") || !Path::new(PYTHON).exists() {
        return lacks("Prometheus and Python");
    }
    let scratch = Scratch::new("boards-questions");
    let prometheus = prometheus(&scratch, "");
    let (code, said) = questions(&prometheus, &scratch, "");
    assert_eq!(code, Some(1), "{said}");
    let all: usize = boards()
        .iter()
        .flat_map(|(name, board)| panels(name, board))
        .map(|place| place.targets().count())
        .sum();
    assert_eq!(said["asked"], all, "{said}");
    let of = |what: &str| {
        let findings = said["findings"].as_array().unwrap().iter();
        let found: Vec<_> = findings.filter(|it| it["what"] == what).collect();
        found
            .iter()
            .map(|it| text(&it["where"]).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("refused"), [""; 0]);
    let answered = usize::try_from(said["answered"].as_u64().unwrap()).unwrap();
    assert_eq!(of("no data").len(), all - answered);
    assert!((1..10).contains(&answered), "{said}");
    assert!(of("variable").contains(&"host".to_owned()));

    // What is excused is not told, unless there is data where there never is.
    let excused = "may host / CPU / * -- nothing is scraped\n\
                   never host / State / Alerts firing / A -- to see that it is told\n\
                   may host / Nowhere / * -- to see that it is told\n";
    let (code, said) = questions(&prometheus, &scratch, excused);
    assert_eq!(code, Some(1));
    let told = |what: &str, part: &str| {
        let findings = said["findings"].as_array().unwrap().iter();
        let mut places = findings.filter(|it| it["what"] == what);
        places.any(|it| text(&it["where"]).contains(part) || text(&it["why"]).contains(part))
    };
    assert!(!told("no data", "host / CPU / "));
    assert!(told("no data", "host / Memory / "));
    assert!(told("data", "host / State / Alerts firing / A"));
    assert!(told("excuse", "host / Nowhere / *"));
    assert!(!told("excuse", "host / CPU / *"));
}

/// What `query.py` says with these excuses, and its exit status.
fn questions(prometheus: &Program, dir: &Scratch, excuses: &str) -> (Option<i32>, Value) {
    let file = dir.0.join("no-data.txt");
    fs::write(&file, excuses).unwrap();
    let said = Command::new(PYTHON)
        .arg(root().join("dashboards/query.py"))
        .args([
            "--json",
            "--prometheus",
            &format!("http://{}", prometheus.address),
        ])
        .arg("--no-data")
        .arg(&file)
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&said.stderr);
    let report = serde_json::from_slice(&said.stdout);
    (
        said.status.code(),
        report.unwrap_or_else(|error| panic!("{error}: {why}")),
    )
}

#[test]
fn excuses_for_missing_data_are_of_questions_that_are_asked() {
    let places: Vec<_> = boards()
        .iter()
        .flat_map(|(name, board)| {
            let of_panel = |place: Place<'_>| place.targets().map(|(at, _)| at).collect::<Vec<_>>();
            panels(name, board)
                .into_iter()
                .flat_map(of_panel)
                .collect::<Vec<_>>()
        })
        .collect();
    let file = fs::read_to_string(root().join("dashboards/no-data.txt")).unwrap();
    let line = Regex::new(r"^(may|never|blank)\s+(.+?) -- \S").unwrap();
    for excuse in file
        .lines()
        .filter(|it| !it.is_empty() && !it.starts_with('#'))
    {
        let parts = line.captures(excuse).unwrap_or_else(|| panic!("{excuse}"));
        let pattern = glob::Pattern::new(&parts[2]).unwrap();
        assert!(
            places.iter().any(|it| pattern.matches(it)),
            "no such question: {excuse}"
        );
    }
}

#[test]
fn boards_are_what_grafanas_types_say() {
    for program in ["npm", "node"] {
        if !is_installed(program) {
            return lacks(program);
        }
    }
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut wrong = Vec::new();
    let boards = boards();
    for (name, board) in &boards {
        for error in validator.iter_errors(board) {
            wrong.push(format!("{name}: {}", deepest(&error)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // It would say so otherwise.
    let mut other = boards["host"].clone();
    other["panels"][1]["options"]["colourMode"] = json!("value");
    assert!(!validator.is_valid(&other));
}

/// Of all that would have to be otherwise, what is furthest inside: of what was meant.
fn deepest(error: &ValidationError<'_>) -> String {
    fn leaves<'a>(error: &'a ValidationError<'a>, found: &mut Vec<&'a ValidationError<'a>>) {
        match error.kind() {
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                context.iter().flatten().for_each(|it| leaves(it, found));
            }
            _ => found.push(error),
        }
    }
    let mut found = Vec::new();
    leaves(error, &mut found);
    let depth = |it: &&ValidationError<'_>| it.instance_path().as_str().matches('/').count();
    let most = found.iter().map(depth).max();
    found.retain(|it| Some(depth(it)) == most);
    let said: BTreeSet<_> = found
        .iter()
        .map(|it| format!("{}: {it}", it.instance_path()))
        .collect();
    said.into_iter().collect::<Vec<_>>().join("\n")
}

/// The JSON schema of `tests/boards/schema/board.ts`. It is made once.
fn schema() -> Value {
    let from = root().join("tests/boards/schema");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("board_schema");
    let sources = ["package.json", "package-lock.json", "board.ts"];
    let texts = sources.map(|name| fs::read_to_string(from.join(name)).unwrap());
    let (stamp, made) = (place.join("stamp"), place.join("schema.json"));
    let whole = texts.concat();
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&whole) {
        let _absent = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).unwrap();
        for (name, text) in sources.iter().zip(&texts) {
            fs::write(place.join(name), text).unwrap();
        }
        run(&place, "npm ci --ignore-scripts --no-audit --no-fund");
        run(
            &place,
            "node node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js \
             --path board.ts --type Board --expose none --no-type-check --out schema.json",
        );
        fs::write(stamp, whole).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(made).unwrap()).unwrap()
}

fn run(dir: &Path, line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let said = command.args(words).current_dir(dir).output().unwrap();
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{line}: {why}");
}
