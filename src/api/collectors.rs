//! The collectors, and the outcome of each one's last run, for a scrape or for the census.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{error::ApiError, seconds, to_json};
use crate::{
    collector::{Entry, Layer},
    scrape::{LastRun, Outcome, Scraper},
    sources::Snapshot,
};

#[derive(Serialize)]
struct CollectorsResponse {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    collectors: Vec<CollectorStatus>,
}

#[derive(Serialize)]
struct CollectorStatus {
    name: &'static str,
    about: &'static str,
    layer: &'static str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<LastRunResponse>,
}

#[derive(Serialize)]
struct LastRunResponse {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    outcome: &'static str,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    skipped_parts: usize,
}

pub(super) fn respond(
    entries: &[Entry],
    scraper: &Scraper,
    snapshot: &Snapshot,
) -> Result<Vec<u8>, ApiError> {
    let enabled: Vec<(&str, Layer, Option<LastRun>)> = scraper.last_runs().collect();
    let implemented = entries.iter().filter(|entry| !entry.is_planned());
    let collectors = implemented.map(|entry| {
        let slot = enabled.iter().find(|(name, ..)| *name == entry.name);
        CollectorStatus {
            name: entry.name,
            about: entry.about,
            layer: entry.layer.name(),
            enabled: slot.is_some(),
            last: slot.and_then(|(.., last)| last.as_ref()).map(last_run),
        }
    });
    to_json(&CollectorsResponse {
        time: snapshot.unix_time(),
        collectors: collectors.collect(),
    })
}

fn last_run(last: &LastRun) -> LastRunResponse {
    let error = match &last.outcome {
        Outcome::NotFound(error) | Outcome::Failed(error) => Some(error.to_string()),
        Outcome::Panicked(panic) => Some(panic.clone()),
        Outcome::TimedOut => Some("timed out".to_owned()),
        Outcome::StillRunning => Some("still running since an earlier scrape".to_owned()),
        // The error of the first part that was dropped.
        Outcome::Collected | Outcome::Unsupported => {
            last.first_error.as_ref().map(ToString::to_string)
        }
    };
    LastRunResponse {
        time: last.at.duration_since(SystemTime::UNIX_EPOCH).ok(),
        outcome: last.outcome.name(),
        duration_seconds: last.duration.as_secs_f64(),
        error,
        skipped_parts: last.error_count,
    }
}
