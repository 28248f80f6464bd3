//! Dashboard queries are valid `PromQL`, and `dashboards/query.py` runs them all.

use std::{fs, path::Path, process::Command};

use regex::Regex;
use serde_json::{Value, json};

use super::{NamedPanel, PYTHON, boards, panels, root, text, without_variables};
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
        for panel in panels(&name, &board) {
            for (_, target) in panel.targets() {
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
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}

/// Without scrape targets only queries that need no data return a result.
#[test]
fn query_script_runs_every_query_and_reports_missing_data() {
    if !is_installed("prometheus") || !Path::new(PYTHON).exists() {
        return skip("Prometheus and Python");
    }
    let scratch = TempDir::new("boards-queries");
    let prometheus = start_prometheus(&scratch, "");
    let (code, report) = run_queries(&prometheus, &scratch, "");
    assert_eq!(code, Some(1), "{report}");
    let all: usize = boards()
        .iter()
        .flat_map(|(name, board)| panels(name, board))
        .map(|panel| panel.targets().count())
        .sum();
    assert_eq!(report["queries"], all, "{report}");
    let findings_of = |what: &str| {
        let findings = report["findings"].as_array().unwrap().iter();
        let found: Vec<_> = findings.filter(|it| it["what"] == what).collect();
        found
            .iter()
            .map(|it| text(&it["where"]).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(findings_of("refused"), [""; 0]);
    let with_data = usize::try_from(report["with_data"].as_u64().unwrap()).unwrap();
    assert_eq!(findings_of("no data").len(), all - with_data);
    assert!((1..10).contains(&with_data), "{report}");
    assert!(findings_of("variable").contains(&"host".to_owned()));

    // An excused query is not reported, unless it is marked `never` and returns data.
    let excused = "may host / CPU / * -- nothing is scraped\n\
                   never host / State / Alerts firing / A -- to check that it is reported\n\
                   may host / Nowhere / * -- to check that it is reported\n";
    let (code, report) = run_queries(&prometheus, &scratch, excused);
    assert_eq!(code, Some(1));
    let has_finding = |what: &str, part: &str| {
        let findings = report["findings"].as_array().unwrap().iter();
        let mut matching = findings.filter(|it| it["what"] == what);
        matching.any(|it| text(&it["where"]).contains(part) || text(&it["why"]).contains(part))
    };
    assert!(!has_finding("no data", "host / CPU / "));
    assert!(has_finding("no data", "host / Memory / "));
    assert!(has_finding("data", "host / State / Alerts firing / A"));
    assert!(has_finding("excuse", "host / Nowhere / *"));
    assert!(!has_finding("excuse", "host / CPU / *"));
}

/// Output and exit code of `query.py` with these excuses.
fn run_queries(prometheus: &ServerProcess, dir: &TempDir, excuses: &str) -> (Option<i32>, Value) {
    let file = dir.0.join("no-data.txt");
    fs::write(&file, excuses).unwrap();
    let output = Command::new(PYTHON)
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
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|error| panic!("{error}: {stderr}")),
    )
}

#[test]
fn excuses_refer_to_existing_queries() {
    let targets: Vec<_> = boards()
        .iter()
        .flat_map(|(name, board)| {
            let names_of =
                |panel: NamedPanel<'_>| panel.targets().map(|(at, _)| at).collect::<Vec<_>>();
            panels(name, board)
                .into_iter()
                .flat_map(names_of)
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
            targets.iter().any(|it| pattern.matches(it)),
            "no such query: {excuse}"
        );
    }
}
