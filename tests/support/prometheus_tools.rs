//! Consumers of expositions: Prometheus, promtool and the strict `OpenMetrics` parser.

use std::{fmt::Write, fs, process::Command};

use super::server_process::{self, ServerProcess, TempDir, wait_until};

const SYSTEM_PYTHON: &str = "/usr/bin/python3";
const COUNT_SAMPLES: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(sum(len(family.samples) for family in text_string_to_metric_families(sys.stdin.read())))
";

/// Lint findings of promtool that are accepted, and why.
pub const TOLERATED_LINTS: &[(&str, &str, &str)] = &[
    (
        "node_memory_",
        "metric names should be written in 'snake_case' not 'camelCase'",
        "names of the kernel and of node_exporter",
    ),
    (
        "node_netstat_",
        "metric names should be written in 'snake_case' not 'camelCase'",
        "names of the kernel and of node_exporter",
    ),
    (
        "node_entropy_",
        "use base unit \"bytes\" instead of \"bits\"",
        "entropy is counted in bits, as in node_exporter",
    ),
    (
        "cadvisor_version_info",
        "label names should be written in 'snake_case' not 'camelCase'",
        "cAdvisor's labels",
    ),
    (
        "container_",
        "non-counter metrics should not have \"_total\" suffix",
        "cAdvisor's names",
    ),
    (
        "container_",
        "counter metrics should have \"_total\" suffix",
        "cAdvisor's names",
    ),
    (
        "container_cpu_load_d_average_10s",
        "metric names should not contain abbreviated units",
        "cAdvisor's names",
    ),
    (
        "machine_",
        "metrics should not have \"_count\" suffix",
        "cAdvisor's names",
    ),
    (
        "libvirt_domain_memory_stats_hugetlb_",
        "non-counter metrics should not have \"_total\" suffix",
        "inovex's names and types",
    ),
];

/// Starts Prometheus with this configuration.
pub fn start_prometheus(dir: &TempDir, config: &str) -> ServerProcess {
    let path = dir.0.join("prometheus.yml");
    fs::write(&path, config).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", path.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.0.join("data").display()
        ))
        // Prometheus logs lines that it cannot parse at debug level.
        .arg("--log.level=debug");
    let prometheus = ServerProcess::start(&mut command, &dir.0);
    wait_until("Prometheus is ready", || {
        prometheus.get("/-/ready", "").ok()
    });
    prometheus
}

/// Current values of a `PromQL` query.
pub fn query_values(prometheus: &ServerProcess, promql: &str) -> Vec<f64> {
    let mut path = "/api/v1/query?query=".to_owned();
    for byte in promql.bytes() {
        write!(path, "%{byte:02x}").unwrap();
    }
    let response = prometheus.get(&path, "");
    let response = response.unwrap_or_else(|error| panic!("{promql}: {error}"));
    // `"value":[1700000000.5,"1"]`, or the same as the "result" of a scalar.
    let values = response.split("\"value\":[").skip(1);
    let scalar = response.split("\"scalar\",\"result\":[").nth(1).into_iter();
    let numbers = values.chain(scalar).map(|rest| {
        let quoted = rest.split('"').nth(1).unwrap();
        quoted.parse().unwrap()
    });
    numbers.collect()
}

/// Log lines in which Prometheus complains about a job's exposition.
pub fn scrape_warnings(prometheus: &ServerProcess, job: &str) -> Vec<String> {
    let log = prometheus.log();
    let pool = format!("scrape_pool={job} ");
    let lines = log.lines().filter(|line| line.contains(&pool));
    // Timeouts and connection errors are not about the content.
    let lines = lines.filter(|line| !line.contains("msg=\"Scrape failed\""));
    let is_bad = |line: &&str| {
        let signs = ["level=warn", "level=error", "err="];
        signs.iter().any(|sign| line.contains(sign))
    };
    lines.filter(is_bad).map(str::to_owned).collect()
}

/// Asserts that promtool reports only tolerated findings.
pub fn assert_promtool_lint(exposition: &str, tolerated: &[(&str, &str, &str)], source: &str) {
    let (code, output) = run_promtool(exposition);
    // It could be parsed: 3 means lint findings.
    assert!(matches!(code, Some(0 | 3)), "{source}: {output}");
    let is_tolerated = |line: &&str| {
        let mut lints = tolerated.iter();
        lints.any(|(prefix, problem, _)| line.starts_with(prefix) && line.ends_with(problem))
    };
    let (accepted, new): (Vec<_>, Vec<_>) = output.lines().partition(is_tolerated);
    println!("tolerated for {source}: {accepted:#?}");
    assert!(new.is_empty(), "{source}: {new:#?}");
}

/// Output and exit code of promtool for an exposition.
pub fn run_promtool(exposition: &str) -> (Option<i32>, String) {
    server_process::run_with_input(
        Command::new("promtool").args(["check", "metrics"]),
        exposition,
    )
}

/// Whether the strict parser is installed.
pub fn has_strict_parser() -> bool {
    let import = ["-c", "import prometheus_client.openmetrics.parser"];
    let import = Command::new(SYSTEM_PYTHON).args(import).output();
    import.is_ok_and(|it| it.status.success())
}

/// Asserts that the strict parser reads every sample.
pub fn assert_strict_parse(exposition: &str, source: &str) {
    let (code, output) = run_strict_parser(exposition);
    assert_eq!(code, Some(0), "{source}: {output}");
    let lines = exposition
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert_eq!(output.trim().parse(), Ok(lines), "{source}");
    assert!(lines > 300, "{source}: {lines} samples");
}

/// Output and exit code of the strict parser for an exposition.
pub fn run_strict_parser(exposition: &str) -> (Option<i32>, String) {
    server_process::run_with_input(
        Command::new(SYSTEM_PYTHON).args(["-c", COUNT_SAMPLES]),
        exposition,
    )
}
