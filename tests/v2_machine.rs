//! On a machine with cgroup v2, systemd and Docker, `node_exporter` as Debian has it and
//! this exporter say the same.
//!
//! The machine is `tests/machine`'s: this test needs root to build it and QEMU to boot
//! it. Only what stands still while three scrapes are taken can be compared by value.

#![allow(clippy::disallowed_methods, reason = "tests read files as they are")]
#![allow(
    clippy::float_cmp,
    reason = "what stands still is the same to the last bit"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use strata_exporter::collectors;

/// What both are started with. Debian's defaults are not upstream's, so those that
/// differ are given.
const FLAGS: &[&str] = &[
    "--collector.systemd",
    r"--collector.systemd.unit-exclude=.+\.(automount|device|scope|slice)",
    "--collector.systemd.enable-task-metrics",
    "--collector.systemd.enable-restarts-metrics",
    "--collector.systemd.enable-start-time-metrics",
    "--collector.logind",
    "--collector.buddyinfo",
    "--collector.cgroups",
    "--collector.cpu.info",
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
    "--collector.sysctl",
    "--collector.tcpstat",
    "--collector.zoneinfo",
    "--collector.netdev.device-exclude=",
    "--collector.netdev.address-info",
    "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|var/lib/docker/.+)($|/)",
    "--collector.textfile.directory=",
];

/// Families of the anchor's that ours does not have, or has with other labels.
const OTHERWISE: &[(&str, &str)] = &[
    ("go_", "there is no Go runtime"),
    ("promhttp_", "that is Go's library for metrics"),
    ("process_", "its own process"),
    ("node_exporter_build_info", "its own build"),
    ("node_scrape_collector_duration_seconds", "its own time"),
];

/// What asking changes, so that it may stand still for one asker and not the other.
const CHANGED_BY_ASKING: &[&str] = &[
    "node_filefd_allocated",
    "node_forks_total",
    "node_memory_",
    "node_processes_",
    "node_procs_",
    "node_sockstat_",
    "node_tcp_connection_states",
];

/// Families that must be the same both ways: nothing of the anchor's is missing, and
/// nothing is there that it does not have.
const THE_SAME: &[&str] = &["node_systemd_", "node_logind_"];
/// But these are upstream's since.
const NEWER: &[&str] = &["node_systemd_virtualization_info"];

#[test]
fn ours_says_what_node_exporter_says() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = env::var_os("STRATA_MACHINE_DIR")
        .map_or_else(|| manifest.join("target/machine"), PathBuf::from);
    if !machine.join("stamp").exists() {
        return support::lacks("the machine that tests/machine/build.sh builds");
    }
    if !support::is_installed("qemu-system-x86_64") {
        return support::lacks("qemu-system-x86_64");
    }

    let scripts = manifest.join("tests/machine");
    let task = env::temp_dir().join(format!("strata-machine-{}", std::process::id()));
    fs::create_dir_all(&task).unwrap();
    fs::copy(scripts.join("compare.sh"), task.join("run.sh")).unwrap();
    let exporter = env!("CARGO_BIN_EXE_strata_exporter");
    fs::copy(exporter, task.join("strata_exporter")).unwrap();
    let flags: Vec<String> = FLAGS.iter().map(|flag| format!("'{flag}'\n")).collect();
    fs::write(task.join("flags"), flags.concat()).unwrap();
    let ran = Command::new(scripts.join("run.sh"))
        .arg(&task)
        .env("STRATA_MACHINE_DIR", &machine)
        .output()
        .unwrap();
    let read = |name: &str| fs::read_to_string(task.join("out").join(name)).unwrap_or_default();
    assert!(
        ran.status.success(),
        "{}\n{}\n{}\n{}\nleft in {}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
        read("anchor.log"),
        read("ours.log"),
        task.display()
    );

    let rounds = [1, 2, 3].map(|round| {
        let scrape = |who: &str| Scrape::parse(&read(&format!("{who}-{round}.prom")));
        differences(&scrape("before"), &scrape("ours"), &scrape("after"))
    });
    let [first, others @ ..] = &rounds;
    let lasting: Vec<&str> = first
        .iter()
        .filter(|(what, _)| others.iter().all(|round| round.contains_key(*what)))
        .map(|(_, said)| said.as_str())
        .collect();
    assert!(
        lasting.is_empty(),
        "{} differences:\n{}\nleft in {}",
        lasting.len(),
        lasting.join("\n"),
        task.display()
    );
    fs::remove_dir_all(task).unwrap();
}

type Labels = BTreeMap<String, String>;

/// A scrape in the text format.
#[derive(Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, BTreeMap<Labels, f64>>,
}

impl Scrape {
    fn parse(page: &str) -> Self {
        let mut scrape = Self::default();
        for line in page.lines() {
            if let Some(line) = line.strip_prefix("# TYPE ") {
                let (name, kind) = line.split_once(' ').unwrap();
                scrape.types.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let of = scrape.series.entry(name.into()).or_default();
                of.insert(parse_labels(labels), value.parse().unwrap());
            }
        }
        scrape
    }
}

/// Parses `a="b",c="d"}`.
fn parse_labels(mut text: &str) -> Labels {
    let mut labels = Labels::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut escaped = false;
        let end = rest.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        let (value, rest) = rest.split_at(end.unwrap());
        labels.insert(name.into(), value.into());
        text = rest.trim_start_matches(['"', ',']);
    }
    labels
}

/// What differs, by what it is about.
fn differences(before: &Scrape, ours: &Scrape, after: &Scrape) -> BTreeMap<String, String> {
    let to_come: BTreeSet<&str> = collectors::ALL
        .iter()
        .filter(|entry| entry.is_to_come())
        .map(|entry| entry.name)
        .collect();
    let mut found = BTreeMap::new();
    let none = BTreeMap::new();
    for (name, series) in &before.series {
        if OTHERWISE.iter().any(|(prefix, _)| name.starts_with(prefix)) {
            continue;
        }
        let Some(of_ours) = ours.series.get(name) else {
            found.insert(name.clone(), format!("{name} is missing"));
            continue;
        };
        let (kind, our_kind) = (&before.types.get(name), &ours.types.get(name));
        if kind != our_kind {
            let said = format!("{name} is {our_kind:?}, not {kind:?}");
            found.insert(format!("{name} type"), said);
        }
        let stands_still = !CHANGED_BY_ASKING.iter().any(|it| name.starts_with(it));
        let later = after.series.get(name).unwrap_or(&none);
        for (labels, value) in series {
            let collector = labels.get("collector").map_or("", String::as_str);
            // Gone since, or nobody's yet.
            let (Some(later), false) = (later.get(labels), to_come.contains(collector)) else {
                continue;
            };
            let what = format!("{name}{labels:?}");
            let Some(our_value) = find(of_ours, labels) else {
                found.insert(what.clone(), format!("{what} is missing"));
                continue;
            };
            if stands_still && value == later && !is_close(*value, our_value) {
                let said = format!("{what} is {our_value}, not {value}");
                found.insert(what, said);
            }
        }
    }
    for (name, series) in &ours.series {
        let same = THE_SAME.iter().any(|prefix| name.starts_with(prefix));
        if !same || NEWER.contains(&name.as_str()) {
            continue;
        }
        let of_theirs = before.series.get(name).unwrap_or(&none);
        for labels in series.keys().filter(|it| !of_theirs.contains_key(*it)) {
            let what = format!("{name}{labels:?}");
            found.insert(what.clone(), format!("{what} is only in ours"));
        }
    }
    found
}

/// The value of the series with these labels, and perhaps others.
fn find(series: &BTreeMap<Labels, f64>, labels: &Labels) -> Option<f64> {
    let has_all = |more: &Labels| labels.iter().all(|(k, v)| more.get(k) == Some(v));
    series.get(labels).copied().or_else(|| {
        let with_more = series.iter().find(|(more, _)| has_all(more));
        with_more.map(|(_, value)| *value)
    })
}

fn is_close(a: f64, b: f64) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn labels_are_read_back_whatever_is_in_them() {
    let labels = parse_labels(r#"a="x\",\\",b="",c="}"}"#);
    let expected = [("a", r#"x\",\\"#), ("b", ""), ("c", "}")];
    assert!(labels.iter().map(|(k, v)| (&**k, &**v)).eq(expected));
}
