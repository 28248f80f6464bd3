//! Debian's `node_exporter` and this exporter run side by side with default settings: this exporter
//! has the same families, types, labels and series, and the same values where they do not change.

#![allow(
    clippy::float_cmp,
    reason = "values that do not change are equal to the last bit"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use crate::support::{
    server_process::{ServerProcess, TempDir},
    text_format::{Labels, Scrape},
};
use strata_exporter::collectors;

const ANCHOR: &str = "prometheus-node-exporter";

/// Debian's defaults and those of version 1.5 differ from today's upstream, so these flags set
/// upstream's. This exporter has upstream's defaults and gets no flags.
const UPSTREAM: &[&str] = &[
    "--no-collector.systemd",
    "--collector.netdev.device-exclude=",
    "--collector.textfile.directory=",
    r"--collector.diskstats.device-exclude=^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$",
    "--collector.filesystem.mount-points-exclude=^/(dev|proc|run/credentials/.+|sys|\
        var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
    "--collector.filesystem.fs-types-exclude=^(autofs|binfmt_misc|bpf|cgroup2?|configfs|\
        debugfs|devpts|devtmpfs|fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|\
        pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|erofs|sysfs|tracefs)$",
];

/// Families of `node_exporter` that this exporter lacks or has with other labels.
const NOT_COMPARED: &[(&str, &str)] = &[
    ("go_", "there is no Go runtime"),
    ("promhttp_", "that is Go's library for metrics"),
    ("process_", "its own process"),
    ("node_exporter_build_info", "its own build"),
    ("node_scrape_collector_duration_seconds", "its own time"),
];

/// Labels that upstream has added since.
const NEWER_LABELS: &[(&str, &str)] = &[
    ("node_disk_info", "rotational"),
    ("node_network_info", "adminstate"),
];

/// Metrics that scraping itself changes, so they may be constant for one exporter only.
const CHANGED_BY_SCRAPING: &[&str] = &[
    "node_filefd_allocated",
    "node_forks_total",
    "node_memory_",
    "node_processes_",
    "node_procs_",
    "node_sockstat_",
    "node_tcp_connection_states",
];

/// Metrics that every machine has and that do not change, so their values must have been compared.
const STEADY: &[&str] = &[
    "node_boot_time_seconds",
    "node_filefd_maximum",
    "node_filesystem_readonly",
    "node_filesystem_size_bytes",
    "node_memory_MemTotal_bytes",
    "node_network_mtu_bytes",
    "node_network_up",
    "node_os_info",
    "node_uname_info",
];

#[test]
fn default_metrics_include_those_of_node_exporter() {
    if !crate::support::is_installed(ANCHOR) {
        return crate::support::skip(ANCHOR);
    }
    let dir = TempDir::new("compare");
    let anchor = ServerProcess::start(Command::new(ANCHOR).args(UPSTREAM), &dir.0);
    let ours = ServerProcess::start_exporter(&[], &dir.0);
    // Only differences found in every round are real; others are changes during a round.
    let rounds = [(); 3].map(|()| {
        let [before, ours, after] = [&anchor, &ours, &anchor].map(scrape);
        Round::compare(&before, &ours, &after)
    });
    let [first, others @ ..] = &rounds;
    let lasting: Vec<&str> = first
        .differences
        .iter()
        .filter(|(what, _)| others.iter().all(|it| it.differences.contains_key(*what)))
        .map(|(_, message)| message.as_str())
        .collect();
    assert!(lasting.is_empty(), "{lasting:#?}");
    for name in STEADY {
        let compared = rounds.iter().any(|round| round.compared.contains(*name));
        assert!(compared, "{name} was never compared");
    }
    let cpus = |exporter: &ServerProcess| {
        scrape(exporter)
            .series_named("node_cpu_seconds_total")
            .count()
    };
    assert_eq!(cpus(&ours), cpus(&anchor));
}

fn scrape(program: &ServerProcess) -> Scrape {
    let mut scrape = Scrape::parse(&program.metrics_text());
    for (name, series) in &mut scrape.series {
        let normalized = std::mem::take(series)
            .into_iter()
            .map(|(mut labels, value)| {
                // Prometheus treats an empty label as absent.
                labels.retain(|label, value| {
                    !value.is_empty() && !NEWER_LABELS.contains(&(name.as_str(), label.as_str()))
                });
                (labels, value)
            });
        *series = normalized.collect();
    }
    scrape
}

#[derive(Default)]
struct Round {
    /// By what differs.
    differences: BTreeMap<String, String>,
    /// Names whose values were compared.
    compared: BTreeSet<String>,
}

impl Round {
    fn compare(before: &Scrape, ours: &Scrape, after: &Scrape) -> Self {
        let mut round = Self::default();
        for (name, series) in &before.series {
            if NOT_COMPARED
                .iter()
                .any(|(prefix, _)| name.starts_with(prefix))
            {
                continue;
            }
            let (kind, our_kind) = (before.types.get(name), ours.types.get(name));
            if kind != our_kind {
                round.differ(format!("{name} is {our_kind:?}, not {kind:?}"));
            }
            if !ours.series.contains_key(name) {
                round.differ(format!("{name} is missing"));
                continue;
            }
            for (labels, value) in series {
                round.compare_series(name, labels, *value, ours, after);
            }
        }
        round
    }

    fn compare_series(
        &mut self,
        name: &str,
        labels: &Labels,
        value: f64,
        ours: &Scrape,
        after: &Scrape,
    ) {
        let value_in = |scrape: &Scrape| scrape.series.get(name)?.get(labels).copied();
        let Some(later) = value_in(after) else {
            return;
        };
        let Some(our_value) = value_in(ours) else {
            self.differ(format!("{name}{labels:?} is missing"));
            return;
        };
        let collector = labels.get("collector").map_or("", String::as_str);
        let planned = collectors::ALL.iter().filter(|it| it.is_planned());
        let is_planned = planned.map(|it| it.name).any(|it| it == collector);
        let is_moving =
            CHANGED_BY_SCRAPING.iter().any(|it| name.starts_with(it)) && !STEADY.contains(&name);
        if value != later || is_moving || is_planned {
            return;
        }
        self.compared.insert(name.to_owned());
        if !is_close(value, our_value) {
            let what = format!("{name}{labels:?}");
            let message = format!("{what} is {our_value}, not {value}");
            self.differences.insert(what, message);
        }
    }

    fn differ(&mut self, what: String) {
        self.differences.insert(what.clone(), what);
    }
}

/// Equal except for the last bits: Go's client multiplies by 0.001, this exporter divides.
fn is_close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}
