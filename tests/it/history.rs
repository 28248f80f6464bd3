//! Whether anybody samples is what the command line says.

use std::fs;

use crate::support::{
    live::{Program, Scratch, until},
    text::Scrape,
};

/// The names of the threads of whoever listens there.
fn threads(exporter: &Program) -> Vec<String> {
    let process = format!("/proc/{}/task", exporter.pid());
    let tasks = fs::read_dir(process).unwrap().map(Result::unwrap);
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// How many samples were taken, if that is said.
fn samples(exporter: &Program) -> Option<f64> {
    let page = Scrape::parse(&exporter.text());
    page.value("strata_history_samples_total", &[])
}

fn exporter(dir: &Scratch, flag: &str) -> Program {
    let flags = ["--engine.socket=", "--history.interval=100ms", flag];
    Program::ours(&flags.map(String::from), &dir.0)
}

#[test]
fn the_machine_is_sampled_between_scrapes() {
    let dir = Scratch::new("history-on");
    let exporter = exporter(&dir, "--history.points=20");
    let first = until("a sample", || samples(&exporter));
    until("more samples", || {
        samples(&exporter).filter(|now| *now > first + 3.0)
    });
    let threads = threads(&exporter);
    assert!(threads.iter().any(|name| name == "sampler"), "{threads:?}");
}

#[test]
fn without_the_collector_nobody_samples() {
    let dir = Scratch::new("history-off");
    let exporter = exporter(&dir, "--no-collector.history");
    assert_eq!(samples(&exporter), None);
    let threads = threads(&exporter);
    assert!(
        !threads.iter().any(|name| name.starts_with("sampler")),
        "{threads:?}"
    );
}
