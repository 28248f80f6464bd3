//! The command line decides whether the sampler runs.

use std::fs;

use crate::support::{
    server_process::{ServerProcess, TempDir, wait_until},
    text_format::Scrape,
};

/// Names of the exporter's threads.
fn threads(exporter: &ServerProcess) -> Vec<String> {
    let process = format!("/proc/{}/task", exporter.pid());
    let tasks = fs::read_dir(process).unwrap().map(Result::unwrap);
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Number of samples, if the metric is exposed.
fn samples(exporter: &ServerProcess) -> Option<f64> {
    let metrics = Scrape::parse(&exporter.metrics_text());
    metrics.value("strata_history_samples_total", &[])
}

fn exporter(dir: &TempDir, flag: &str) -> ServerProcess {
    let flags = ["--engine.socket=", "--history.interval=100ms", flag];
    ServerProcess::start_exporter(&flags.map(String::from), &dir.0)
}

#[test]
fn machine_is_sampled_between_scrapes() {
    let dir = TempDir::new("history-on");
    let exporter = exporter(&dir, "--history.points=20");
    let first = wait_until("a sample", || samples(&exporter));
    wait_until("more samples", || {
        samples(&exporter).filter(|now| *now > first + 3.0)
    });
    let threads = threads(&exporter);
    assert!(threads.iter().any(|name| name == "sampler"), "{threads:?}");
}

#[test]
fn sampler_is_off_without_the_collector() {
    let dir = TempDir::new("history-off");
    let exporter = exporter(&dir, "--no-collector.history");
    assert_eq!(samples(&exporter), None);
    let threads = threads(&exporter);
    assert!(
        !threads.iter().any(|name| name.starts_with("sampler")),
        "{threads:?}"
    );
}
