//! The collectors, and what became of each when it was last asked for: by a scrape, or for
//! the census.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{error::Problem, json, seconds};
use crate::{
    collector::{Entry, Layer},
    scrape::{Last, Outcome, Scraper},
    sources::Snapshot,
};

#[derive(Serialize)]
struct Collectors {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    collectors: Vec<Collector>,
}

#[derive(Serialize)]
struct Collector {
    name: &'static str,
    about: &'static str,
    layer: &'static str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Run>,
}

#[derive(Serialize)]
struct Run {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    outcome: &'static str,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    skipped_parts: usize,
}

pub(super) fn answer(
    entries: &[Entry],
    scraper: &Scraper,
    machine: &Snapshot,
) -> Result<Vec<u8>, Problem> {
    let on: Vec<(&str, Layer, Option<Last>)> = scraper.last().collect();
    let built = entries.iter().filter(|entry| !entry.is_to_come());
    let collectors = built.map(|entry| {
        let slot = on.iter().find(|(name, ..)| *name == entry.name);
        Collector {
            name: entry.name,
            about: entry.about,
            layer: entry.layer.name(),
            enabled: slot.is_some(),
            last: slot.and_then(|(.., last)| last.as_ref()).map(run),
        }
    });
    json(&Collectors {
        time: machine.now(),
        collectors: collectors.collect(),
    })
}

fn run(last: &Last) -> Run {
    let error = match &last.outcome {
        Outcome::Absent(error) | Outcome::Failed(error) => Some(error.to_string()),
        Outcome::Panicked(panic) => Some(panic.clone()),
        Outcome::TimedOut => Some("did not end in time".to_owned()),
        Outcome::StillRunning => Some("has not ended since an earlier scrape".to_owned()),
        // Why the first of the parts was left out.
        Outcome::Collected | Outcome::Unsupported => last.reason.as_ref().map(ToString::to_string),
    };
    Run {
        time: last.at.duration_since(SystemTime::UNIX_EPOCH).ok(),
        outcome: last.outcome.name(),
        duration_seconds: last.duration.as_secs_f64(),
        error,
        skipped_parts: last.skipped,
    }
}
