//! Debian's `node_exporter` and this exporter have the same metrics.
//!
//! `node_exporter` is scraped before and after this exporter: constant values must be equal,
//! counters must lie in between. Only what differs in each of three rounds counts as a difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use strata_exporter::collectors;

use super::booted;
use crate::support::text_format::{Labels, Scrape};

/// Flags of both. Debian's defaults differ from upstream's, so these are set explicitly.
pub(super) const FLAGS: &[&str] = &[
    "--collector.systemd",
    r"--collector.systemd.unit-exclude=.+\.(automount|device|scope|slice)",
    "--collector.systemd.enable-task-metrics",
    "--collector.systemd.enable-restarts-metrics",
    "--collector.systemd.enable-start-time-metrics",
    "--collector.logind",
    "--collector.buddyinfo",
    "--collector.cgroups",
    "--collector.cpu.info",
    "--collector.cpu.info.bugs-include=.",
    "--collector.cpu.info.flags-include=^s",
    "--collector.ethtool",
    "--collector.interrupts",
    "--collector.ksmd",
    "--collector.lnstat",
    "--collector.meminfo_numa",
    "--collector.mountstats",
    "--collector.network_route",
    "--collector.processes",
    "--collector.qdisc",
    "--collector.slabinfo",
    "--collector.stat.softirq",
    "--collector.sysctl",
    "--collector.sysctl.include=fs.file-max",
    "--collector.sysctl.include=kernel.printk:current,default,minimum,boot",
    "--collector.sysctl.include-info=kernel.core_pattern",
    "--collector.tcpstat",
    "--collector.zoneinfo",
    "--collector.netdev.device-exclude=",
    "--collector.netdev.address-info",
    "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|var/lib/docker/.+)($|/)",
    "--collector.textfile.directory=",
];

/// Families of `node_exporter` that this exporter lacks or has with other labels.
const NOT_COMPARED: &[(&str, &str)] = &[
    ("go_", "there is no Go runtime"),
    ("promhttp_", "that is Go's library for metrics"),
    ("process_", "its own process"),
    ("node_exporter_build_info", "its own build"),
    ("node_scrape_collector_duration_seconds", "its own time"),
];

/// Families and series that only this exporter has.
const NEWER: &[(&str, &str)] = &[
    ("strata_", "not in node_exporter"),
    ("cadvisor_", "cAdvisor's"),
    ("census_", "not in node_exporter"),
    ("container_", "cAdvisor's"),
    ("machine_", "cAdvisor's"),
    (
        "node_cpu_frequency_hertz",
        "upstream's cpu collector has it since, with --collector.cpu.info",
    ),
    ("node_filesystem_mount_info", "upstream's since"),
    (
        "node_netstat_TcpExt_TCPOFOQueue",
        "in upstream's default of --collector.netstat.fields since",
    ),
    (
        "node_netstat_TcpExt_TCPRcvQDrop",
        "in upstream's default of --collector.netstat.fields since",
    ),
    (
        "node_network_altnames_info",
        "upstream needs --collector.netclass.netlink",
    ),
    (
        "node_scrape_collector_success",
        "collectors that upstream has since",
    ),
    ("node_softnet_backlog_len", "upstream's since"),
    ("node_softnet_cpu_collision_total", "upstream's since"),
    ("node_softnet_flow_limit_count_total", "upstream's since"),
    ("node_softnet_received_rps_total", "upstream's since"),
    ("node_systemd_virtualization_info", "upstream's since"),
    (
        "node_tcp_connection_states",
        "this exporter exposes 0 for states without sockets",
    ),
];

/// Labels that only this exporter has.
const NEWER_LABELS: &[(&str, &str, &str)] = &[
    ("node_disk_info", "rotational", "upstream's since"),
    ("node_filesystem_", "device_error", "upstream's since"),
    ("node_network_info", "adminstate", "upstream's since"),
];

/// Metrics that scraping itself changes, so they may be constant for one exporter only.
const CHANGED_BY_SCRAPING: &[&str] = &[
    "node_filefd_allocated",
    "node_memory_",
    "node_processes_",
    "node_procs_",
    "node_slabinfo_",
    "node_sockstat_",
    "node_tcp_connection_states",
    "node_zoneinfo_",
];

/// States that may contain only the exporter itself: `node_exporter`'s main thread runs while it
/// reads, this exporter's sleeps while another thread reads.
const CHANGED_BY_THE_EXPORTER: &[&str] = &["node_processes_state", "node_processes_threads_state"];

/// Metrics that an exporter must have under every user.
const BASICS: &[&str] = &[
    "cpu",
    "diskstats",
    "filesystem",
    "loadavg",
    "meminfo",
    "netdev",
    "stat",
];

/// Outcomes of a collector that has a bug or hangs.
const BROKEN: &[&str] = &["panicked", "timed_out", "still_running"];

#[test]
fn metrics_match_node_exporter() {
    let Some(out) = booted() else { return };
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    let mut errors = Vec::new();
    for user in ["root", "nobody"] {
        let rounds = [1, 2, 3].map(|round| {
            let scrape =
                |exporter: &str| scraped(&read(&format!("{user}-{exporter}-{round}.prom")));
            let (before, ours, after) = (scrape("before"), scrape("ours"), scrape("after"));
            assert!(after.series.contains_key("node_load1"), "no anchor");
            errors.extend(broken(&ours).map(|what| format!("as {user}, {what}")));
            differences(&before, &ours, &after)
        });
        let [first, others @ ..] = &rounds;
        let lasting = first
            .iter()
            .filter(|(what, _)| others.iter().all(|round| round.contains_key(*what)));
        errors.extend(lasting.map(|(_, message)| format!("as {user}, {message}")));
        let ours = scraped(&read(&format!("{user}-ours-1.prom")));
        let failed: Vec<&str> = collectors_with(&ours, "failed").collect();
        println!("as {user}, these collectors fail: {failed:?}");
    }
    assert!(
        errors.is_empty(),
        "{} differences:\n{}\nleft in {}",
        errors.len(),
        errors.join("\n"),
        out.display()
    );
}

/// Parses a page, without labels that Debian's `node_exporter` is too old for.
fn scraped(text: &str) -> Scrape {
    let mut scrape = Scrape::parse(text);
    for (name, series) in &mut scrape.series {
        let newer = NEWER_LABELS
            .iter()
            .filter(|(prefix, ..)| name.starts_with(prefix));
        let newer: Vec<&str> = newer.map(|(_, label, _)| *label).collect();
        let without = |mut labels: Labels| {
            labels.retain(|name, _| !newer.contains(&name.as_str()));
            labels
        };
        let all = std::mem::take(series).into_iter();
        *series = all
            .map(|(labels, value)| (without(labels), value))
            .collect();
    }
    scrape
}

/// Value of a series.
fn value(scrape: &Scrape, name: &str, labels: &Labels) -> Option<f64> {
    scrape.series.get(name)?.get(labels).copied()
}

/// This exporter's collectors with this outcome.
fn collectors_with<'a>(scrape: &'a Scrape, outcome: &str) -> impl Iterator<Item = &'a str> {
    let outcomes = scrape
        .series_named("strata_collector_outcome")
        .map(|(labels, _)| labels);
    let with = move |labels: &&Labels| labels.get("outcome").is_some_and(|it| it == outcome);
    outcomes
        .filter(with)
        .filter_map(|labels| labels.get("collector").map(String::as_str))
}

/// Outcomes that must not occur.
fn broken(ours: &Scrape) -> impl Iterator<Item = String> {
    let broken = BROKEN.iter().flat_map(|outcome| {
        let collectors = collectors_with(ours, outcome);
        collectors.map(move |collector| format!("{collector} {outcome}"))
    });
    let collected: BTreeSet<&str> = collectors_with(ours, "collected").collect();
    let basics = BASICS.iter().filter(move |it| !collected.contains(*it));
    broken.chain(basics.map(|it| format!("{it} was not collected")))
}

/// Differences, by what differs.
fn differences(before: &Scrape, ours: &Scrape, after: &Scrape) -> BTreeMap<String, String> {
    let planned: BTreeSet<&str> = collectors::ALL
        .iter()
        .filter(|entry| entry.is_planned())
        .map(|entry| entry.name)
        .collect();
    let starts =
        |list: &[(&str, &str)], name: &str| list.iter().any(|(it, _)| name.starts_with(it));
    let mut found = BTreeMap::new();
    for (name, series) in &before.series {
        if starts(NOT_COMPARED, name) {
            continue;
        }
        let (kind, our_kind) = (before.types.get(name), ours.types.get(name));
        if kind != our_kind && ours.series.contains_key(name) {
            let message = format!("{name} is {our_kind:?}, not {kind:?}");
            found.insert(format!("{name} type"), message);
        }
        for (labels, before) in series {
            let collector = labels.get("collector").map_or("", String::as_str);
            // Gone since, or of a planned collector.
            let (Some(later), false) = (value(after, name, labels), planned.contains(collector))
            else {
                continue;
            };
            let what = format!("{name}{labels:?}");
            let Some(our_value) = value(ours, name, labels) else {
                if *before <= 1.0 && CHANGED_BY_THE_EXPORTER.contains(&name.as_str()) {
                    continue;
                }
                found.insert(what.clone(), format!("{what} is missing"));
                continue;
            };
            let kind = kind.map_or("", String::as_str);
            if !agrees(name, kind, [*before, our_value, later]) {
                let message = format!("{what} is {our_value}, not from {before} to {later}");
                found.insert(what, message);
            }
        }
    }
    for (name, series) in &ours.series {
        let is_own_effect = CHANGED_BY_THE_EXPORTER.contains(&name.as_str());
        if starts(NOT_COMPARED, name) || starts(NEWER, name) || is_own_effect {
            continue;
        }
        let is_theirs = |it: &Labels| {
            [before, after]
                .iter()
                .any(|text| value(text, name, it).is_some())
        };
        for labels in series.keys().filter(|it| !is_theirs(it)) {
            let what = format!("{name}{labels:?}");
            found.insert(what.clone(), format!("{what} is only in ours"));
        }
    }
    found
}

/// Whether this exporter's value is plausible between two of `node_exporter`'s.
fn agrees(name: &str, kind: &str, [before, ours, after]: [f64; 3]) -> bool {
    let (least, most) = (before.min(after), before.max(after));
    if is_close(before, ours) || is_close(after, ours) || (least..=most).contains(&ours) {
        return true;
    }
    let stands_still =
        before == after && !CHANGED_BY_SCRAPING.iter().any(|it| name.starts_with(it));
    if kind == "counter" || stands_still {
        return false;
    }
    // A gauge may have had another value in between, but not a very different one.
    let little: f64 = if name.contains("bytes") { 4e6 } else { 16.0 };
    let slack = little.max(most.abs() / 4.0);
    (least - slack..=most + slack).contains(&ours)
}

fn is_close(a: f64, b: f64) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn gauges_have_tolerance_and_counters_have_none() {
    for (name, kind, values, expected) in [
        ("node_x_total", "counter", [5.0, 5.0, 7.0], true),
        ("node_x_total", "counter", [5.0, 6.0, 7.0], true),
        ("node_x_total", "counter", [5.0, 8.0, 7.0], false),
        ("node_x", "gauge", [5.0, 6.0, 5.0], false),
        ("node_x", "gauge", [5.0, 7.0, 6.0], true),
        ("node_x", "gauge", [500.0, 700.0, 501.0], false),
        ("node_memory_x_bytes", "gauge", [5e6, 6e6, 5e6], true),
        ("node_memory_x_bytes", "gauge", [5e7, 9e7, 5e7], false),
        ("node_x", "gauge", [f64::NAN, f64::NAN, f64::NAN], true),
        ("node_x", "gauge", [f64::NAN, 0.0, f64::NAN], false),
    ] {
        assert_eq!(agrees(name, kind, values), expected, "{name} {values:?}");
    }
}
