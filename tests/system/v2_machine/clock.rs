//! The system clock steps back by a day and is corrected later: counters stay correct, and no
//! series is missing.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::booted;
use crate::support::{
    faults::{Cost, Resources},
    text_format::{Labels, Scrape},
};

/// The step in seconds.
const DAY: f64 = 86_400.0;
const UPTIME: &str = "container_uptime_seconds";
const STAYS: &str = "everything but `container_uptime_seconds`, which would be negative";
/// Upper bound of the time that everything in between takes in the machine.
const MEANWHILE: f64 = 900.0;

#[test]
fn clock_step_back_costs_nothing() {
    let Some(out) = booted() else { return };
    let out = out.join("clock");
    let metrics = |name: &str| {
        let metrics = fs::read_to_string(out.join(name)).unwrap();
        Scrape::parse(&metrics)
    };
    let (before, back, after) = (
        metrics("before.prom"),
        metrics("back.prom"),
        metrics("after.prom"),
    );
    let time = |metrics: &Scrape| metrics.value("node_time_seconds", &[]).unwrap();
    let passed = time(&back) + DAY - time(&before);
    assert!((0.0..MEANWHILE).contains(&passed), "{passed}");
    let passed = time(&after) - time(&before);
    assert!((0.0..MEANWHILE).contains(&passed), "{passed}");

    for (later, when) in [(&back, "set back"), (&after, "set right")] {
        assert_all_there(&before, later, when);
        assert_counting(&before, later, when);
        let last_seen = later.series_named("container_last_seen");
        for (labels, last_seen) in last_seen.filter(|(labels, _)| is_container(labels)) {
            assert!(
                (time(later) - last_seen).abs() < 2.0,
                "{when}: {labels:?} {last_seen}"
            );
        }
        for (labels, took) in later.series_named("node_scrape_collector_duration_seconds") {
            assert!((0.0..60.0).contains(&took), "{when}: {labels:?} {took}");
        }
        let started = |metrics: &Scrape| metrics.value("process_start_time_seconds", &[]);
        assert_eq!(started(later), started(&before), "{when}");
    }
    // A container that starts in the future has no valid uptime.
    assert!(
        before.series_named(UPTIME).next().is_some() && after.series_named(UPTIME).next().is_some()
    );
    assert_eq!(back.series_named(UPTIME).next(), None);

    let samples = |metrics: &Scrape| metrics.value("strata_history_samples_total", &[]);
    assert!(samples(&back) > samples(&before), "no sample was taken");

    let cost = cost(&out);
    println!("{cost:#?}");
    let grown = cost
        .after_all
        .resident_bytes
        .saturating_sub(cost.after_ten.resident_bytes);
    assert!(grown < 8 << 20, "{cost:#?}");
    assert!(cost.log_lines <= 1, "{cost:#?}");
    cost.assert_matches_docs("the clock steps back", STAYS, 0, 2);
}

/// Containers and the host, which are in each scrape, unlike services.
fn is_container(labels: &Labels) -> bool {
    labels.contains_key("name")
}

fn assert_all_there(before: &Scrape, later: &Scrape, when: &str) {
    for (name, series) in &before.series {
        if name == "strata_collector_outcome" || name == UPTIME {
            continue;
        }
        let is_kept = |labels: &&Labels| is_container(labels) || !labels.contains_key("id");
        for labels in series.keys().filter(is_kept) {
            let exists = later.series.get(name);
            let exists = exists.is_some_and(|exists| exists.contains_key(labels));
            assert!(exists, "{when}: {name}{labels:?} is missing");
        }
    }
}

fn assert_counting(before: &Scrape, later: &Scrape, when: &str) {
    let counters = before.types.iter().filter(|(_, kind)| *kind == "counter");
    for (name, _) in counters {
        for (labels, value) in before.series_named(name) {
            let now = later.series.get(name).and_then(|all| all.get(labels));
            let steps_back = now.is_some_and(|now| *now < value);
            assert!(
                !steps_back,
                "{when}: {name}{labels:?} was {value}, is {now:?}"
            );
        }
    }
}

fn cost(out: &Path) -> Cost {
    let text = fs::read_to_string(out.join("figures")).unwrap();
    let figures = text.lines().filter_map(|line| line.split_once(' '));
    let figures: BTreeMap<&str, u64> = figures
        .map(|(name, number)| (name, number.parse().unwrap()))
        .collect();
    assert_eq!(figures["answers"], 90);
    let count = |name: String| usize::try_from(figures[name.as_str()]).unwrap();
    let resources = |when: &str| Resources {
        threads: count(format!("{when}-threads")),
        fds: count(format!("{when}-fds")),
        resident_bytes: figures[format!("{when}-resident").as_str()] * 1024,
    };
    let [first, tenth] = ["first", "tenth"].map(|it| Duration::from_millis(figures[it]));
    Cost {
        first,
        tenth,
        longest: first.max(tenth),
        baseline: resources("well"),
        after_ten: resources("ten"),
        after_all: resources("all"),
        log_lines: count("all-lines".to_owned()) - count("well-lines".to_owned()),
    }
}
