//! Consumers of the exposition accept it: Prometheus, promtool and Python's strict `OpenMetrics`
//! parser.

#![allow(
    clippy::float_cmp,
    reason = "values are copied from the kernel, not computed"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
};

use crate::support::{
    prometheus_tools::{
        self, TOLERATED_LINTS, assert_promtool_lint, assert_strict_parse, run_promtool,
        run_strict_parser, scrape_warnings,
    },
    server_process::{self, ServerProcess, TempDir},
    text_format::{Labels, Scrape},
};
use strata_exporter::collectors;

/// Lint findings in the text files of the fixture machines, which have other authors.
const TOLERATED_IN_FIXTURES: &[(&str, &str, &str)] = &[
    ("", "no help text", "a text file need not say"),
    (
        "",
        "metric name should not include type 'counter'",
        "a text file may choose its names",
    ),
    (
        "",
        "metric names should be written in 'snake_case' not 'camelCase'",
        "a text file may choose its names",
    ),
];

/// Every implemented collector.
fn all_collectors() -> Vec<String> {
    let built = collectors::ALL.iter().filter(|it| !it.is_planned());
    let mut flags: Vec<String> = built.map(|it| format!("--collector.{}", it.name)).collect();
    flags.extend(["--collector.cpu.info", "--collector.stat.softirq"].map(String::from));
    flags
}

#[test]
fn prometheus_scrapes_both_formats() {
    if !crate::support::is_installed("prometheus") {
        return crate::support::skip("prometheus");
    }
    let before = Kernel::read();
    let dir = TempDir::new("prometheus");
    let exporter = ServerProcess::start_exporter(&[], &dir.0);
    let text_only = without_accept(exporter.address);
    let broken = always("x{ 1\n");
    let jobs = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
        scrape_configs:\n\
        - {{job_name: openmetrics, static_configs: [{{targets: ['{}']}}]}}\n\
        - {{job_name: text, static_configs: [{{targets: ['{text_only}']}}]}}\n\
        - {{job_name: broken, static_configs: [{{targets: ['{broken}']}}]}}\n",
        exporter.address
    );
    let prometheus = prometheus_tools::start_prometheus(&dir, &jobs);

    for job in ["openmetrics", "text"] {
        let query = format!(
            "/api/v1/query?query=sum_over_time(up%7Bjob%3D%22{job}%22%7D%5B1m%5D)%3E%3D3\
            %20and%20up%7Bjob%3D%22{job}%22%7D%20%3D%3D%201"
        );
        server_process::wait_until("three good scrapes", || {
            let response = prometheus.get(&query, "").ok()?;
            assert!(response.contains("\"status\":\"success\""), "{response}");
            response.contains("\"value\":").then_some(())
        });
        let query = format!("/api/v1/query?query=up%7Bjob%3D%22{job}%22%7D");
        let up = prometheus.get(&query, "").unwrap();
        assert!(up.contains(",\"1\"]"), "{up}");
    }
    // The metadata shows which format was used.
    assert_metadata(&prometheus, "openmetrics", "node_uname", "info");
    assert_metadata(&prometheus, "text", "node_uname_info", "gauge");
    for (name, kind) in [
        ("node_network_receive_bytes_total", "counter"),
        ("node_memory_MemTotal_bytes", "gauge"),
        ("node_load1", "gauge"),
    ] {
        assert_metadata(&prometheus, "text", name, kind);
    }
    assert_metadata(&prometheus, "openmetrics", "node_cpu_seconds", "counter");

    // Not scraped in the same second, so a container may have started in between.
    let (open_metrics, text) =
        server_process::wait_until("the same number of samples in both formats", || {
            let [open_metrics, text] =
                ["openmetrics", "text"].map(|job| federated(&prometheus, job));
            let count = |metrics: &Scrape| metrics.value("scrape_samples_scraped", &[]);
            let same =
                count(&open_metrics)? == count(&text)? && names(&open_metrics) == names(&text);
            same.then_some((open_metrics, text))
        });
    let after = Kernel::read();
    for scrape in [&open_metrics, &text] {
        assert!(scrape.value("scrape_samples_scraped", &[]) > Some(300.0));
        assert_is_kernels(scrape, &before, &after);
    }

    // Prometheus reports what it cannot parse.
    server_process::wait_until("an error message", || {
        scrape_warnings(&prometheus, "broken").pop()
    });
    for job in ["openmetrics", "text"] {
        let warnings = scrape_warnings(&prometheus, job);
        assert!(warnings.is_empty(), "{warnings:#?}");
    }
    let log = exporter.log();
    assert!(!log.contains("level=error"), "{log}");
}

fn assert_metadata(prometheus: &ServerProcess, job: &str, name: &str, kind: &str) {
    let matcher = format!("match_target=%7Bjob%3D%22{job}%22%7D&metric={name}");
    let metadata = prometheus
        .get(&format!("/api/v1/targets/metadata?{matcher}"), "")
        .unwrap();
    assert!(
        metadata.contains(&format!("\"type\":\"{kind}\",\"help\":\"")),
        "{name} of {job}: {metadata}"
    );
}

/// All series of a job's last scrape, without the labels that the job adds.
fn federated(prometheus: &ServerProcess, job: &str) -> Scrape {
    let path = format!("/federate?match[]=%7Bjob%3D%22{job}%22%7D");
    let mut scrape = Scrape::parse(&prometheus.get(&path, "").unwrap());
    for series in scrape.series.values_mut() {
        let bare = std::mem::take(series)
            .into_iter()
            .map(|(mut labels, value)| {
                labels.remove("job");
                labels.remove("instance");
                (labels, value)
            });
        *series = bare.collect();
    }
    scrape
}

fn names(scrape: &Scrape) -> BTreeSet<(&str, &Labels)> {
    let series = scrape.series.iter();
    series
        .flat_map(|(name, metrics)| metrics.keys().map(move |labels| (name.as_str(), labels)))
        .collect()
}

/// The kernel's values for the same metrics.
struct Kernel {
    memory: f64,
    boot_time: f64,
    switches: f64,
    load: f64,
    cpus: usize,
    received: f64,
    interfaces: BTreeSet<String>,
    files: f64,
    release: String,
    node: String,
}

impl Kernel {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(Path::new("/proc").join(path)).unwrap();
        let number = |text: &str, key: &str, nth: usize| -> f64 {
            let line = text.lines().find(|line| line.trim_start().starts_with(key));
            let line = line.unwrap_or_else(|| panic!("no {key} in {text}"));
            line.split_whitespace().nth(nth).unwrap().parse().unwrap()
        };
        let (stat, dev) = (read("stat"), read("net/dev"));
        let is_cpu = |line: &&str| {
            let number = line.strip_prefix("cpu");
            number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let interfaces = dev.lines().skip(2).filter_map(|line| line.split_once(':'));
        Self {
            memory: number(&read("meminfo"), "MemTotal:", 1) * 1024.0,
            boot_time: number(&stat, "btime", 1),
            switches: number(&stat, "ctxt", 1),
            load: number(&read("loadavg"), "", 0),
            cpus: stat.lines().filter(is_cpu).count(),
            received: number(&dev, "lo:", 1),
            interfaces: interfaces.map(|(name, _)| name.trim().to_owned()).collect(),
            files: number(&read("sys/fs/file-nr"), "", 2),
            release: read("sys/kernel/osrelease").trim().to_owned(),
            node: read("sys/kernel/hostname").trim().to_owned(),
        }
    }
}

fn assert_is_kernels(scrape: &Scrape, before: &Kernel, after: &Kernel) {
    let value = |name: &str| {
        scrape
            .value(name, &[])
            .unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(value("node_memory_MemTotal_bytes"), after.memory);
    assert_eq!(value("node_boot_time_seconds"), after.boot_time);
    assert_eq!(value("node_filefd_maximum"), after.files);
    let switches = value("node_context_switches_total");
    assert!((before.switches..=after.switches).contains(&switches));
    // It changes by less than one in five seconds for every runnable task.
    let load = value("node_load1");
    assert!(load >= 0.0 && (load - after.load).abs() < 64.0, "{load}");

    let idle = scrape.series_named("node_cpu_seconds_total");
    let idle: Vec<f64> = idle
        .filter(|(labels, _)| labels["mode"] == "idle")
        .map(|(_, seconds)| seconds)
        .collect();
    assert_eq!(idle.len(), after.cpus);
    assert!(idle.iter().all(|seconds| *seconds > 0.0));

    let uname = [("release", &*after.release), ("nodename", &*after.node)];
    assert_eq!(scrape.value("node_uname_info", &uname), Some(1.0));

    let received = scrape.series_named("node_network_receive_bytes_total");
    let devices: BTreeSet<&str> = received.map(|(labels, _)| &*labels["device"]).collect();
    for interface in before.interfaces.intersection(&after.interfaces) {
        assert!(devices.contains(&**interface), "{interface}: {devices:?}");
    }
    let lo = [("device", "lo")];
    let received = scrape.value("node_network_receive_bytes_total", &lo);
    assert!((before.received..=after.received).contains(&received.unwrap()));
}

/// Address of a proxy that forwards requests without the `Accept` header.
fn without_accept(target: SocketAddr) -> SocketAddr {
    serve(move |connection| pass_on(connection, target))
}

/// Address of a server that always sends this body.
fn always(body: &'static str) -> SocketAddr {
    serve(move |mut connection| {
        let mut request = BufReader::new(connection.try_clone()?).lines();
        while request
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        write!(
            connection,
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n{body}"
        )
    })
}

/// Serves one connection after the other until the test ends.
fn serve(handle: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            // The client tries again after an error.
            connection.and_then(&handle).ok();
        }
    });
    address
}

fn pass_on(mut from: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut to = TcpStream::connect(target)?;
    for line in BufReader::new(from.try_clone()?).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, _) = line.split_once(':').unwrap_or((&line, ""));
        if !["accept", "connection"].contains(&&*name.to_ascii_lowercase()) {
            write!(to, "{line}\r\n")?;
        }
    }
    write!(to, "Connection: close\r\n\r\n")?;
    io::copy(&mut to, &mut from).map(drop)
}

#[test]
fn promtool_accepts_the_text_format() {
    if !crate::support::is_installed("promtool") {
        return crate::support::skip("promtool, which is in Debian's prometheus");
    }
    let dir = TempDir::new("promtool");
    let exporter = ServerProcess::start_exporter(&all_collectors(), &dir.0);
    assert_promtool_lint(&exporter.metrics_text(), TOLERATED_LINTS, "this machine");
    for (path, metrics) in golden("prom") {
        let tolerated = [TOLERATED_LINTS, TOLERATED_IN_FIXTURES].concat();
        assert_promtool_lint(&metrics, &tolerated, &path.display().to_string());
    }
    // promtool does reject invalid input.
    let (code, output) = run_promtool("x{ 1\n");
    assert_eq!(code, Some(1), "{output}");
}

#[test]
fn strict_parser_reads_every_openmetrics_sample() {
    if !prometheus_tools::has_strict_parser() {
        return crate::support::skip("Debian's python3-prometheus-client");
    }
    let dir = TempDir::new("python");
    let exporter = ServerProcess::start_exporter(&all_collectors(), &dir.0);
    assert_strict_parse(&exporter.openmetrics_text(), "this machine");
    for (path, metrics) in golden("openmetrics") {
        assert_strict_parse(&metrics, &path.display().to_string());
    }
    // The parser does reject invalid input.
    let (code, output) = run_strict_parser("# TYPE x counter\nx 1\n# EOF\n");
    assert_eq!(code, Some(1), "{output}");
}

/// Golden files of one format.
fn golden(extension: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let machines = crate::support::MACHINES.iter();
    let paths = machines.map(|machine| dir.join(format!("{machine}.{extension}")));
    let files = paths.filter_map(|path| {
        let metrics = fs::read_to_string(&path).ok()?;
        Some((path, metrics))
    });
    let files: Vec<_> = files.collect();
    assert!(!files.is_empty(), "no golden file ends in .{extension}");
    files
}
