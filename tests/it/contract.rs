//! What every collector promises: names that fit together, help that can be read, and
//! metrics that are described and exercised.

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

/// The one name that two collectors have, because `node_exporter` has it twice, and
/// which two.
const SHARED: (&str, [&str; 2]) = ("node_cpu_frequency_hertz", ["cpu", "cpufreq"]);

/// What no fixture machine can show, because the kernel says it over netlink only, because
/// only mainframes have it, because a flag that another family needs rules it out,
/// because it takes two scrapes or because nobody samples. Each has a test beside its collector.
const ELSEWHERE: &[&str] = &[
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

/// Every described metric, and the collector that has it; none for what the exporter
/// says of itself.
fn described() -> impl Iterator<Item = (&'static str, &'static Desc)> {
    let own = scrape::SCRAPE_METRICS
        .iter()
        .chain(self_metrics::SELF_METRICS);
    of_collectors().chain(own.map(|desc| ("", *desc)))
}

fn of_collectors() -> impl Iterator<Item = (&'static str, &'static Desc)> {
    collectors::ALL
        .iter()
        .flat_map(|entry| entry.metrics.iter().map(|desc| (entry.name, *desc)))
}

/// Whether it is a name as Prometheus and `OpenMetrics` want it, short of colons, which
/// are for recording rules.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The name as `OpenMetrics` has it in a family's head.
fn stem(desc: &Desc) -> &str {
    match desc.kind {
        MetricType::Counter => desc.name.strip_suffix("_total"),
        MetricType::Info => desc.name.strip_suffix("_info"),
        _ => None,
    }
    .unwrap_or(desc.name)
}

#[test]
fn collectors_have_each_their_own_name() {
    let mut seen = BTreeSet::new();
    for entry in collectors::ALL {
        assert!(seen.insert(entry.name), "{} is there twice", entry.name);
        assert!(!entry.about.ends_with('.'), "{}", entry.about);
    }
}

#[test]
fn a_name_belongs_to_one_collector() {
    let mut owners = BTreeMap::new();
    for (collector, desc) in described() {
        let Some((other, first)) = owners.insert(desc.name, (collector, desc)) else {
            continue;
        };
        if collector == other && desc.name.contains('*') {
            // The kernel's words differ, or the labels do.
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
fn names_of_metrics_and_labels_are_well_formed() {
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
                "{name}: {label} is taken"
            );
            assert!(labels.insert(label), "{name} has {label} twice");
        }
    }
}

#[test]
fn help_is_a_sentence_that_needs_no_escapes() {
    for (_, Desc { name, help, .. }) in described() {
        assert!(help.ends_with('.'), "{name}: {help}");
        assert_eq!(help.trim(), *help, "{name}: {help}");
        assert!(!help.contains(['\n', '\\', '"']), "{name}: {help}");
    }
}

/// `OpenMetrics` keeps the suffix of a counter out of its head, where it would meet a
/// gauge of that name. Where the kernel chooses the word, the fixtures must tell.
#[test]
fn stems_do_not_clash() {
    let mut stems = BTreeMap::new();
    for (_, desc) in described().filter(|(_, desc)| !desc.name.contains('*')) {
        if let Some(other) = stems.insert(stem(desc), desc.name) {
            assert_eq!(other, desc.name, "both are {} in OpenMetrics", stem(desc));
        }
    }
}

/// A metric that no fixture exercises is a metric nobody has seen.
#[tokio::test(flavor = "multi_thread")]
async fn every_described_metric_is_exercised() {
    let mut seen = BTreeSet::new();
    for machine in crate::support::MACHINES {
        let families = scrape(machine).await;
        let descs = families.iter().flat_map(|families| families.iter());
        let descs = descs.filter(|family| !family.is_empty());
        // With the labels, which tell the two of a shared name apart.
        seen.extend(descs.filter_map(|f| f.desc.map(|desc| (desc.name, desc.labels))));
    }
    let missing: Vec<_> = of_collectors()
        .filter(|(collector, _)| !crate::support::NOT_IN_FIXTURES.contains(collector))
        .filter(|(_, desc)| !ELSEWHERE.contains(&desc.name))
        .filter(|(_, desc)| !seen.contains(&(desc.name, desc.labels)))
        .map(|(collector, desc)| format!("{collector}: {}", desc.name))
        .collect();
    assert!(missing.is_empty(), "exercised by no fixture: {missing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_series_is_collected_twice() {
    for machine in crate::support::MACHINES {
        let mut seen = BTreeSet::new();
        for families in scrape(machine).await {
            // What text files say is their writers'; the page has each series once.
            for family in families.iter().filter(|family| family.desc.is_some()) {
                for (part, labels, _) in family.samples() {
                    let series = format!("{}{}{{{labels}}}", family.name, part.suffix());
                    assert!(
                        !seen.contains(&series),
                        "{machine}: {series} is there twice"
                    );
                    seen.insert(series);
                }
            }
        }
        assert!(!seen.is_empty(), "{machine}");
    }
}

/// Whatever words the kernel chose for the names.
#[tokio::test(flavor = "multi_thread")]
async fn every_family_has_one_head() {
    for machine in crate::support::MACHINES {
        for format in [Format::Text, Format::OpenMetrics] {
            let body = crate::support::fixture_exposition(machine, format).await;
            let mut seen = BTreeSet::new();
            for head in body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
                let (name, _) = head.split_once(' ').unwrap_or((head, ""));
                assert!(is_name(name), "{machine}: {head}");
                assert!(seen.insert(name), "{machine}: {head} is there twice");
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
