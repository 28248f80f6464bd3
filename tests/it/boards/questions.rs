//! Dashboard queries are valid `PromQL`, and `dashboards/query.py` runs them all.

use std::{fs, path::Path, process::Command};

use regex::Regex;
use serde_json::{Value, json};

use super::{PYTHON, Place, boards, panels, root, text, without_variables};
use crate::support::{
    is_installed,
    prometheus_tools::start_prometheus,
    server_process::{ServerProcess, TempDir},
    skip,
};

#[test]
fn promtool_accepts_every_expression() {
    if !is_installed("promtool") {
        return skip("promtool");
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
    let scratch = TempDir::new("boards-promtool");
    // JSON is valid YAML.
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

/// Without scrape targets only queries that need no data return a result.
#[test]
fn query_script_runs_every_query_and_reports_missing_data() {
    if !is_installed("prometheus") || !Path::new(PYTHON).exists() {
        return skip("Prometheus and Python");
    }
    let scratch = TempDir::new("boards-questions");
    let prometheus = start_prometheus(&scratch, "");
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

    // An excused query is not reported, unless it is marked `never` and returns data.
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

/// Output and exit code of `query.py` with these excuses.
fn questions(prometheus: &ServerProcess, dir: &TempDir, excuses: &str) -> (Option<i32>, Value) {
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
fn excuses_refer_to_existing_queries() {
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
