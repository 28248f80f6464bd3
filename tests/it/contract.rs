//! What every collector guarantees: valid, consistent names, readable help, and metrics that are
//! all described and covered by a fixture.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use strata_exporter::{
    collectors,
    exposition::Format,
    family::Families,
    metric::{Desc, MetricType},
    scrape, self_metrics,
};

/// The only metric name that two collectors share, because `node_exporter` has it in both.
const SHARED: (&str, [&str; 2]) = ("node_cpu_frequency_hertz", ["cpu", "cpufreq"]);

/// Metrics that no fixture machine exposes: they come from netlink, exist only on mainframes, need
/// a flag that excludes another family, need two scrapes, or need the sampler. Each is tested
/// beside its collector.
const NOT_IN_FIXTURES: &[&str] = &[
    "container_cpu_load_average_10s",
    "container_cpu_load_d_average_10s",
    "container_cpu_usage_percent",
    "container_cpu_usage_percent_avg",
    "container_cpu_usage_percent_max",
    "container_cpu_usage_percent_min",
    "container_memory_usage_bytes_avg",
    "container_memory_usage_bytes_max",
    "container_memory_usage_bytes_min",
    "machine_cpu_books",
    "machine_cpu_drawers",
    "node_network_address_info",
    "node_network_altnames_info",
    "node_network_collisions_total",
    "node_network_multicast_total",
    "node_network_receive_crc_errors_total",
    "node_network_receive_dropped_total",
    "node_network_receive_errors_total",
    "node_network_receive_fifo_errors_total",
    "node_network_receive_frame_errors_total",
    "node_network_receive_length_errors_total",
    "node_network_receive_missed_errors_total",
    "node_network_receive_nohandler_total",
    "node_network_receive_over_errors_total",
    "node_network_transmit_aborted_errors_total",
    "node_network_transmit_carrier_errors_total",
    "node_network_transmit_dropped_total",
    "node_network_transmit_errors_total",
    "node_network_transmit_fifo_errors_total",
    "node_network_transmit_heartbeat_errors_total",
    "node_network_transmit_window_errors_total",
    "node_rapl_joules_total",
];

/// Every described metric with its collector's name, which is empty for metrics of the exporter
/// itself.
fn described() -> impl Iterator<Item = (&'static str, &'static Desc)> {
    let own = scrape::SCRAPE_METRICS
        .iter()
        .chain(self_metrics::SELF_METRICS);
    collector_descs().chain(own.map(|desc| ("", *desc)))
}

fn collector_descs() -> impl Iterator<Item = (&'static str, &'static Desc)> {
    collectors::ALL
        .iter()
        .flat_map(|entry| entry.metrics.iter().map(|desc| (entry.name, *desc)))
}

/// Whether the name is valid in Prometheus and `OpenMetrics`. Colons are rejected because they are
/// reserved for recording rules.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The family name in the `OpenMetrics` format.
fn stem(desc: &Desc) -> &str {
    match desc.kind {
        MetricType::Counter => desc.name.strip_suffix("_total"),
        MetricType::Info => desc.name.strip_suffix("_info"),
        _ => None,
    }
    .unwrap_or(desc.name)
}

#[test]
fn collector_names_are_unique() {
    let mut seen = BTreeSet::new();
    for entry in collectors::ALL {
        assert!(
            seen.insert(entry.name),
            "duplicate collector {}",
            entry.name
        );
        assert!(!entry.about.ends_with('.'), "{}", entry.about);
    }
}

#[test]
fn each_metric_belongs_to_one_collector() {
    let mut owners = BTreeMap::new();
    for (collector, desc) in described() {
        let Some((other, first)) = owners.insert(desc.name, (collector, desc)) else {
            continue;
        };
        if collector == other && desc.name.contains('*') {
            // The `*` stands for different words, or the labels differ.
            assert_eq!(first.kind, desc.kind, "{}", desc.name);
            continue;
        }
        let (name, both) = SHARED;
        assert!(
            desc.name == name && both.contains(&collector) && both.contains(&other),
            "{} is described by {other:?} and by {collector:?}",
            desc.name
        );
        assert_ne!(collector, other, "{name}");
        assert_eq!(first.kind, desc.kind, "{name}");
        assert_ne!(first.labels, desc.labels, "{name}");
    }
}

#[test]
fn metric_and_label_names_are_valid() {
    for (_, desc) in described() {
        let name = desc.name;
        assert!(name.matches('*').count() <= 1, "{name}");
        assert!(is_name(&name.replace('*', "x")), "{name}");
        let mut labels = BTreeSet::new();
        for label in desc.labels {
            assert!(
                is_name(label) && !label.starts_with("__"),
                "{name}: {label}"
            );
            assert!(
                !matches!(*label, "job" | "instance" | "le" | "quantile"),
                "{name}: {label} is a reserved label"
            );
            assert!(labels.insert(label), "{name} has {label} twice");
        }
    }
}

#[test]
fn help_is_one_sentence_without_escapes() {
    for (_, Desc { name, help, .. }) in described() {
        assert!(help.ends_with('.'), "{name}: {help}");
        assert_eq!(help.trim(), *help, "{name}: {help}");
        assert!(!help.contains(['\n', '\\', '"']), "{name}: {help}");
    }
}

/// `OpenMetrics` strips the suffix of a counter from the family name, which must then not equal a
/// gauge's. Names that end in a word from the kernel are checked on the fixtures instead.
#[test]
fn openmetrics_family_names_are_unique() {
    let mut stems = BTreeMap::new();
    for (_, desc) in described().filter(|(_, desc)| !desc.name.contains('*')) {
        if let Some(other) = stems.insert(stem(desc), desc.name) {
            assert_eq!(other, desc.name, "both are {} in OpenMetrics", stem(desc));
        }
    }
}

/// A metric that no fixture exposes has never been tested.
#[tokio::test(flavor = "multi_thread")]
async fn every_described_metric_is_exercised() {
    let mut seen = BTreeSet::new();
    for machine in crate::support::MACHINES {
        let families = scrape(machine).await;
        let descs = families.iter().flat_map(|families| families.iter());
        let descs = descs.filter(|family| !family.is_empty());
        // Labels distinguish the two metrics that share a name.
        seen.extend(descs.filter_map(|f| f.desc.map(|desc| (desc.name, desc.labels))));
    }
    let missing: Vec<_> = collector_descs()
        .filter(|(collector, _)| !crate::support::NOT_IN_FIXTURES.contains(collector))
        .filter(|(_, desc)| !NOT_IN_FIXTURES.contains(&desc.name))
        .filter(|(_, desc)| !seen.contains(&(desc.name, desc.labels)))
        .map(|(collector, desc)| format!("{collector}: {}", desc.name))
        .collect();
    assert!(missing.is_empty(), "exercised by no fixture: {missing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_unique() {
    for machine in crate::support::MACHINES {
        let mut seen = BTreeSet::new();
        for families in scrape(machine).await {
            // Families from text files may repeat a series; the exposition has each series once.
            for family in families.iter().filter(|family| family.desc.is_some()) {
                for (part, labels, _) in family.samples() {
                    let series = format!("{}{}{{{labels}}}", family.name, part.suffix());
                    assert!(
                        !seen.contains(&series),
                        "{machine}: duplicate series {series}"
                    );
                    seen.insert(series);
                }
            }
        }
        assert!(!seen.is_empty(), "{machine}");
    }
}

/// This includes families whose names contain words from the kernel.
#[tokio::test(flavor = "multi_thread")]
async fn every_family_has_one_header() {
    for machine in crate::support::MACHINES {
        for format in [Format::Text, Format::OpenMetrics] {
            let body = crate::support::fixture_exposition(machine, format).await;
            let mut seen = BTreeSet::new();
            for head in body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
                let (name, _) = head.split_once(' ').unwrap_or((head, ""));
                assert!(is_name(name), "{machine}: {head}");
                assert!(seen.insert(name), "{machine}: duplicate header {head}");
            }
        }
    }
}

async fn scrape(machine: &str) -> Vec<Arc<Families>> {
    crate::support::scrape_all(&crate::support::fixture_scraper(&crate::support::fixture(
        machine,
    )))
    .await
}
