//! `strata_exporter check`: reports for this machine what will be collected, and for what will
//! not, why and the fix.
//!
//! Every collector that is on runs once, as in a scrape. Then the usual causes of missing data of
//! containers and virtual machines are examined: control groups, engines, names, libvirt, rights.

mod diagnosis;
mod libvirt;
mod report;
mod rights;
mod sandboxed;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task, time};

use crate::{
    collector::{Entry, Layer},
    family::Family,
    scrape::{Outcome, Report, Scraper},
    sources::{Machine, Snapshot},
};
use diagnosis::Finding;
pub use report::Checked;
use rights::Collected;

/// How long engines may take to list their containers.
const ENGINES_ANSWER: Duration = Duration::from_secs(5);
/// How long the collectors may take, and then the diagnosis.
const DEADLINE: Duration = Duration::from_secs(10);

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
    machine: Arc<Machine>,
    scraper: &Scraper,
    all: &[Entry],
    web_config: Option<Result<String, String>>,
) -> Checked {
    if scraper.collectors().any(|(_, layer)| layer.asks_libvirt()) {
        machine.libvirt().watch();
    }
    let containers = scraper.collectors().any(|(_, layer)| layer.asks_engines());
    if containers {
        machine.engines().watch();
        machine.engines_answered(ENGINES_ANSWER).await;
    }
    let on: BTreeSet<&str> = scraper.collectors().map(|(name, _)| name).collect();
    let result = scraper.scrape(&on, DEADLINE).await;

    let reports: Vec<_> = result.reports().collect();
    let collected = Collected::of(&reports, all);
    let names: BTreeSet<String> = on.iter().map(|name| (*name).to_owned()).collect();
    let diagnosed = task::spawn_blocking(move || {
        let machine = Snapshot::begin(machine, Instant::now() + DEADLINE);
        let is_on = |name: &str| names.contains(name);
        let mut found = diagnosis::all(&machine, &is_on, containers);
        found.push(("RIGHTS", rights::findings(&machine, &collected)));
        found.push(("SANDBOX", sandboxed::findings()));
        (diagnosis::user(&machine), found)
    });
    let failed = |why: &str| {
        let found = vec![("DIAGNOSIS", vec![Finding::wrong(why)])];
        ("an unknown user".to_owned(), found)
    };
    let (user, diagnosed) = match time::timeout(DEADLINE, diagnosed).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => failed("failed by a bug, please report it"),
        Err(_) => failed("the machine did not answer in time: something hangs in the kernel"),
    };

    let mut areas = collectors(&reports);
    areas.extend(diagnosed);
    if let Some(web_config) = web_config {
        let found = match web_config {
            Ok(text) => Finding::fine(text),
            Err(text) => Finding::wrong(text).fix("the exporter does not start with this file"),
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
        off: names(&|entry| !entry.is_to_come() && !on.contains(entry.name)),
        not_built: names(&Entry::is_to_come),
    }
}

/// The outcome of each collector, by layer.
fn collectors(reports: &[(&'static str, Layer, &Report)]) -> Vec<(&'static str, Vec<Finding>)> {
    let of_layer = |layer| {
        let reports = reports.iter().filter(move |(_, of, report)| {
            *of == layer && !matches!(report.outcome, Outcome::Unsupported)
        });
        let findings = reports.map(|(name, _, report)| outcome(report).of_collector(name));
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

fn outcome(report: &Report) -> Finding {
    let refused = "run as root, or turn the collector off with --no-collector.NAME";
    match &report.outcome {
        Outcome::Collected => {
            let series: usize = report.families.iter().map(Family::len).sum();
            let collected = match series {
                0 => "nothing to show here".to_owned(),
                many => format!("{many} series"),
            };
            match report.families.skipped() {
                (skipped, Some(why)) => {
                    let parts = if skipped == 1 { "part" } else { "parts" };
                    let said = format!("{collected}; {skipped} {parts} left out: {why}");
                    let note = Finding::note(said);
                    if why.is_refused() {
                        note.fix("run as root")
                    } else {
                        note
                    }
                }
                _ if series == 0 => Finding::nothing(collected),
                _ => Finding::fine(collected),
            }
        }
        Outcome::Absent(why) => Finding::nothing(format!("nothing here: {why}")),
        Outcome::Unsupported => Finding::nothing("not built yet"),
        Outcome::Failed(why) => {
            let wrong = Finding::wrong(format!("failed: {why}"));
            if why.is_refused() {
                wrong.fix(refused)
            } else {
                wrong
            }
        }
        Outcome::Panicked(why) => {
            Finding::wrong(format!("failed by a bug, please report it: {why}"))
        }
        Outcome::TimedOut | Outcome::StillRunning => {
            let seconds = report.duration.as_secs_f64();
            let said = format!("did not end within {seconds:.0} s: what it reads hangs");
            Finding::wrong(said)
        }
    }
}
