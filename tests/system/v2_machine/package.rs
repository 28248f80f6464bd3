//! The Debian package installs, its service starts, and the service's restrictions hide nothing: it
//! is scraped between two scrapes of the same program as root without restrictions.
//!
//! `tests/machine/package.sh` does what must run in the machine. It fails if the package leaves
//! files behind or the service does not restart after a change of its unit.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::booted;
use crate::support::text_format::{Labels, Scrape};

/// Maximum exposure level from `systemd-analyze security`, of 10.
const EXPOSURE: f64 = 2.0;

type Series = BTreeSet<(String, Labels)>;

#[test]
fn unit_restrictions_hide_no_series() {
    let Some(out) = out() else {
        return;
    };
    let series_in = |name: &str| -> Series {
        let metrics = fs::read_to_string(out.join(name)).unwrap();
        let metrics = Scrape::parse(&metrics);
        // These describe the difference itself.
        let names = metrics.series.into_iter();
        let names = names.filter(|(name, _)| name != "strata_sandbox_info");
        let series = names.flat_map(|(name, series_in)| {
            let labels = series_in.into_keys();
            labels.map(move |labels| (name.clone(), labels))
        });
        series.collect()
    };
    let rounds = |name: &str| -> Vec<Series> {
        let rounds = (1..=2).map(|round| series_in(&format!("{name}-{round}.prom")));
        rounds.collect()
    };
    // Series in all scrapes, and series in any scrape.
    let always = |all: &[Series]| {
        let (first, rest) = all.split_first().unwrap();
        let is_always = |it: &&_| rest.iter().all(|other| other.contains(it));
        first.iter().filter(is_always).cloned().collect::<Series>()
    };
    let free = [rounds("free-before"), rounds("free-after")].concat();
    let unit = rounds("unit");
    let ever = |all: &[Series]| all.iter().flatten().cloned().collect::<Series>();
    let hidden: Vec<_> = always(&free).difference(&ever(&unit)).cloned().collect();
    assert!(hidden.is_empty(), "{hidden:#?}");
    let more: Vec<_> = always(&unit).difference(&ever(&free)).cloned().collect();
    assert!(more.is_empty(), "{more:#?}");
    assert!(always(&unit).len() > 2000, "{}", always(&unit).len());
}

#[test]
fn unit_sees_mounts_unchanged() {
    let Some(out) = out() else {
        return;
    };
    let metrics = fs::read_to_string(out.join("unit-2.prom")).unwrap();
    let metrics = Scrape::parse(&metrics);
    let size = |mount: &str| {
        metrics
            .value("node_filesystem_size_bytes", &[("mountpoint", mount)])
            .unwrap_or_else(|| panic!("{mount} is not shown"))
    };
    assert_eq!(size("/home"), f64::from(5 << 20));
    assert_eq!(size("/srv/closed"), f64::from(3 << 20));
    for (labels, value) in metrics.series_named("node_filesystem_readonly") {
        assert_eq!(value, 0.0, "{labels:?}");
    }
    // Other containers are exposed with their Docker names.
    assert!(
        metrics
            .value("container_memory_usage_bytes", &[("name", "seen")])
            .is_some()
    );
    assert!(metrics.value("node_timex_sync_status", &[]).is_some());
}

#[test]
fn service_sandbox_is_as_strict_as_the_kernel_allows() {
    let Some(out) = out() else {
        return;
    };
    let metrics = fs::read_to_string(out.join("unit-2.prom")).unwrap();
    let metrics = Scrape::parse(&metrics);
    let (labels, _) = metrics.series_named("strata_sandbox_info").next().unwrap();
    assert_eq!(labels["seccomp"], "on");
    assert!(labels["landlock"].starts_with("abi "), "{labels:?}");
}

#[test]
fn running_service_exposure_level_is_low() {
    let Some(out) = out() else {
        return;
    };
    let report = fs::read_to_string(out.join("security")).unwrap();
    let (_, level) = report.split_once("strata_exporter.service: ").unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= EXPOSURE, "{report}");
}

/// Directory of the package script's output.
fn out() -> Option<PathBuf> {
    let out = booted()?.join("package");
    // It was not run, and reported so, if no package could be built.
    out.is_dir().then_some(out)
}
