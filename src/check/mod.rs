//! `strata_exporter check`: reports what is collected on this machine, and for missing data the
//! cause and the fix.
//!
//! Each enabled collector runs once, as in a scrape. Then common causes of missing container and
//! domain data are checked: cgroups, engines, names, libvirt, privileges.

mod findings;
mod libvirt;
mod privileges;
mod report;
mod sandbox;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task, time};

use crate::{
    collector::{Entry, Layer},
    family::Family,
    scrape::{CollectorReport, Outcome, Scraper},
    sources::{HostState, Snapshot},
};
use findings::Finding;
use privileges::CollectedFamilies;
pub use report::Checked;

/// Timeout for engines to list their containers.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for the collectors, and again for the diagnosis.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of `strata_exporter check`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub struct CheckFlags {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print only errors; print nothing if all enabled collectors work.
    #[arg(long)]
    pub quiet: bool,
}

/// Runs all checks once. `all` lists all collectors, of which the scraper has the enabled ones;
/// `web_config` is the result of validating the web config file, if any.
pub async fn run(
    machine: Arc<HostState>,
    scraper: &Scraper,
    all: &[Entry],
    web_config: Option<Result<String, String>>,
) -> Checked {
    if scraper.collectors().any(|(_, layer)| layer.needs_libvirt()) {
        machine.libvirt().start();
    }
    let containers = scraper.collectors().any(|(_, layer)| layer.needs_engines());
    if containers {
        machine.engines().watch();
        machine.wait_for_engines(ENGINE_TIMEOUT).await;
    }
    let on: BTreeSet<&str> = scraper.collectors().map(|(name, _)| name).collect();
    let result = scraper.scrape(&on, CHECK_TIMEOUT).await;

    let reports: Vec<_> = result.reports().collect();
    let collected = CollectedFamilies::from_reports(&reports, all);
    let names: BTreeSet<String> = on.iter().map(|name| (*name).to_owned()).collect();
    let diagnosed = task::spawn_blocking(move || {
        let snapshot = Snapshot::new(machine, Instant::now() + CHECK_TIMEOUT);
        let is_on = |name: &str| names.contains(name);
        let mut found = findings::run_checks(&snapshot, &is_on, containers);
        found.push(("RIGHTS", privileges::findings(&snapshot, &collected)));
        found.push(("SANDBOX", sandbox::findings()));
        (findings::describe_user(&snapshot), found)
    });
    let failed = |why: &str| {
        let found = vec![("DIAGNOSIS", vec![Finding::error(why)])];
        ("unknown user".to_owned(), found)
    };
    let (user, diagnosed) = match time::timeout(CHECK_TIMEOUT, diagnosed).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => failed("internal error, please report it"),
        Err(_) => failed("timed out: a system call hangs in the kernel"),
    };

    let mut areas = collectors(&reports);
    areas.extend(diagnosed);
    if let Some(web_config) = web_config {
        let found = match web_config {
            Ok(text) => Finding::ok(text),
            Err(text) => {
                Finding::error(text).fix("correct this file; the exporter does not start with it")
            }
        };
        areas.push(("WEB CONFIG", vec![found]));
    }
    let names = |is_listed: &dyn Fn(&Entry) -> bool| {
        let listed = all.iter().filter(|entry| is_listed(entry));
        listed.map(|entry| entry.name).collect()
    };
    Checked {
        user,
        areas,
        off: names(&|entry| !entry.is_planned() && !on.contains(entry.name)),
        not_built: names(&Entry::is_planned),
    }
}

/// The outcome of each collector, by layer.
fn collectors(
    reports: &[(&'static str, Layer, &CollectorReport)],
) -> Vec<(&'static str, Vec<Finding>)> {
    let layer_findings = |layer| {
        let reports = reports.iter().filter(move |(_, its_layer, report)| {
            *its_layer == layer && !matches!(report.outcome, Outcome::Unsupported)
        });
        let findings = reports.map(|(name, _, report)| outcome_finding(report).of_collector(name));
        findings.collect::<Vec<_>>()
    };
    let title = |layer| match layer {
        Layer::Host => "HOST",
        Layer::Containers => "CONTAINERS",
        Layer::Domains => "DOMAINS",
        Layer::Census => "CENSUS",
    };
    let layers = Layer::ALL.into_iter();
    let layers = layers.map(|layer| (title(layer), layer_findings(layer)));
    layers
        .filter(|(_, findings)| !findings.is_empty())
        .collect()
}

fn outcome_finding(report: &CollectorReport) -> Finding {
    let denied = "run as root, or disable the collector with --no-collector.NAME";
    match &report.outcome {
        Outcome::Collected => {
            let series: usize = report.families.iter().map(Family::len).sum();
            let collected = match series {
                0 => "no series".to_owned(),
                many => format!("{many} series"),
            };
            match report.families.errors() {
                (skipped, Some(why)) => {
                    let parts = if skipped == 1 { "part" } else { "parts" };
                    let message = format!("{collected}; {skipped} {parts} skipped: {why}");
                    let note = Finding::warning(message);
                    if why.is_permission_denied() {
                        note.fix("run as root")
                    } else {
                        note
                    }
                }
                _ if series == 0 => Finding::info(collected),
                _ => Finding::ok(collected),
            }
        }
        Outcome::NotFound(why) => Finding::info(format!("no data: {why}")),
        Outcome::Unsupported => Finding::info("not implemented yet"),
        Outcome::Failed(why) => {
            let failed = Finding::error(format!("failed: {why}"));
            if why.is_permission_denied() {
                failed.fix(denied)
            } else {
                failed
            }
        }
        Outcome::Panicked(why) => {
            Finding::error(format!("internal error, please report it: {why}"))
        }
        Outcome::TimedOut | Outcome::StillRunning => {
            let seconds = report.duration.as_secs_f64();
            let message = format!("timed out after {seconds:.0} s: a read hangs");
            Finding::error(message)
        }
    }
}
