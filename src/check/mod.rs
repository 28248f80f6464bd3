//! `strata_exporter check`: reports for this machine what will be collected, and for what will
//! not, why and the fix.
//!
//! Every collector that is on runs once, as in a scrape. Then the usual causes of missing data of
//! containers and virtual machines are examined: control groups, engines, names, libvirt, rights.

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

/// How long engines may take to list their containers.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the collectors may take, and then the diagnosis.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The flags of `strata_exporter check`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print only what is wrong: nothing if everything that is on works.
    #[arg(long)]
    pub quiet: bool,
}

/// Checks everything once. `all` are all collectors, of which the scraper has those that are on;
/// `web_config` is the result of validating that file, if there is one.
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
        ("an unknown user".to_owned(), found)
    };
    let (user, diagnosed) = match time::timeout(CHECK_TIMEOUT, diagnosed).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => failed("failed by a bug, please report it"),
        Err(_) => failed("the machine did not answer in time: something hangs in the kernel"),
    };

    let mut areas = collectors(&reports);
    areas.extend(diagnosed);
    if let Some(web_config) = web_config {
        let found = match web_config {
            Ok(text) => Finding::ok(text),
            Err(text) => Finding::error(text).fix("the exporter does not start with this file"),
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
    let of_layer = |layer| {
        let reports = reports.iter().filter(move |(_, of, report)| {
            *of == layer && !matches!(report.outcome, Outcome::Unsupported)
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
    let layers = layers.map(|layer| (title(layer), of_layer(layer)));
    layers
        .filter(|(_, findings)| !findings.is_empty())
        .collect()
}

fn outcome_finding(report: &CollectorReport) -> Finding {
    let refused = "run as root, or turn the collector off with --no-collector.NAME";
    match &report.outcome {
        Outcome::Collected => {
            let series: usize = report.families.iter().map(Family::len).sum();
            let collected = match series {
                0 => "nothing to show here".to_owned(),
                many => format!("{many} series"),
            };
            match report.families.errors() {
                (skipped, Some(why)) => {
                    let parts = if skipped == 1 { "part" } else { "parts" };
                    let message = format!("{collected}; {skipped} {parts} left out: {why}");
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
        Outcome::NotFound(why) => Finding::info(format!("nothing here: {why}")),
        Outcome::Unsupported => Finding::info("not built yet"),
        Outcome::Failed(why) => {
            let wrong = Finding::error(format!("failed: {why}"));
            if why.is_permission_denied() {
                wrong.fix(refused)
            } else {
                wrong
            }
        }
        Outcome::Panicked(why) => {
            Finding::error(format!("failed by a bug, please report it: {why}"))
        }
        Outcome::TimedOut | Outcome::StillRunning => {
            let seconds = report.duration.as_secs_f64();
            let message = format!("did not end within {seconds:.0} s: what it reads hangs");
            Finding::error(message)
        }
    }
}
