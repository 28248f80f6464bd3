//! What the machine is doing, as JSON for programs and pages: read-only, versioned,
//! described by `openapi.json` beside this file.
//!
//! What holds for a scrape holds here: files are read by the workers and by a deadline, a
//! source that hangs costs only its part of the answer, which says why, and nothing hung is
//! asked again. Requests at the same time share what is read.
//!
//! In every answer but the census, which has the form that others expect of it: times are
//! seconds since 1970, values are in base units, and what is not known is left out, never
//! null and never 0.

pub mod census;
mod collectors;
mod containers;
mod domains;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod history;
mod host;
mod latest;
mod query;
pub(crate) mod said;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    collector::Entry,
    error::Error,
    scrape::{Scraper, Workers},
    sources::{Machine, Snapshot},
};
use census::Census;
use error::Problem;
use history::Asked;
use query::Query;

/// The description of all answers.
const OPENAPI: &[u8] = include_bytes!("openapi.json");

/// What is there to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Containers,
    Container,
    ContainerHistory,
    ContainerPoints,
    Host,
    HostHistory,
    HostPoints,
    Domains,
    Census,
    Collectors,
    OpenApi,
}

/// Where each of them is, in the description's words: `{…}` is any one part of a path.
const ROUTES: &[(&str, Resource)] = &[
    ("/api/v1/census", Resource::Census),
    ("/api/v1/collectors", Resource::Collectors),
    ("/api/v1/containers", Resource::Containers),
    ("/api/v1/containers/{container}", Resource::Container),
    (
        "/api/v1/containers/{container}/history",
        Resource::ContainerHistory,
    ),
    (
        "/api/v1/containers/{container}/points",
        Resource::ContainerPoints,
    ),
    ("/api/v1/domains", Resource::Domains),
    ("/api/v1/host", Resource::Host),
    ("/api/v1/host/history", Resource::HostHistory),
    ("/api/v1/host/points", Resource::HostPoints),
    ("/api/v1/openapi.json", Resource::OpenApi),
];

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, always JSON.
    pub json: Vec<u8>,
}

impl Answer {
    /// Why there is no other.
    #[must_use]
    pub fn error(status: u16, reason: &str) -> Self {
        Problem::new(status, reason).into()
    }
}

/// Everything that answers are made of.
#[derive(Debug)]
pub struct Api {
    machine: Arc<Machine>,
    workers: Workers,
    scraper: Arc<Scraper>,
    /// The collectors there are.
    entries: &'static [Entry],
    census: Census,
    containers: containers::Readings,
    domains: domains::Readings,
    host: host::Readings,
}

impl Api {
    /// Makes one that reads this machine. Of the collectors that there are the scraper has
    /// those that are on.
    #[must_use]
    pub fn new(
        machine: Arc<Machine>,
        scraper: Arc<Scraper>,
        workers: Workers,
        entries: &'static [Entry],
        census: Census,
    ) -> Self {
        Self {
            machine,
            workers,
            scraper,
            entries,
            census,
            containers: containers::Readings::new(),
            domains: domains::Readings::new(),
            host: host::Readings::new(),
        }
    }

    /// The machine that it reads.
    #[must_use]
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Whether a path is one of this module's, be there anything or not.
    #[must_use]
    pub fn is_below(path: &str) -> bool {
        let below = path.strip_prefix("/api");
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Answers within about this time.
    pub async fn answer(&self, path: &str, query: &str, limit: Duration) -> Answer {
        let answered = self.resource(path, query, limit).await;
        match answered {
            Ok(json) => Answer { status: 200, json },
            Err(problem) => problem.into(),
        }
    }

    async fn resource(&self, path: &str, query: &str, limit: Duration) -> Result<Vec<u8>, Problem> {
        let (resource, named) = routed(path)?;
        let known = match resource {
            Resource::Containers => containers::PARAMETERS,
            Resource::ContainerHistory | Resource::HostHistory => history::WINDOW_PARAMETERS,
            Resource::ContainerPoints | Resource::HostPoints => history::POINTS_PARAMETERS,
            _ => &[],
        };
        let query = Query::parse(query, known)?;
        let machine = Arc::clone(&self.machine);
        let machine = Arc::new(Snapshot::begin(machine, Instant::now() + limit));
        match resource {
            Resource::Containers => containers::list(self, machine, &query).await,
            Resource::Container => containers::one(self, machine, named).await,
            Resource::ContainerHistory => {
                history::container(self, machine, named, Asked::window(&query)?).await
            }
            Resource::ContainerPoints => {
                history::container(self, machine, named, Asked::points(&query)?).await
            }
            Resource::Host => host::answer(self, machine).await,
            Resource::HostHistory => history::host(self, machine, Asked::window(&query)?).await,
            Resource::HostPoints => history::host(self, machine, Asked::points(&query)?).await,
            Resource::Domains => domains::answer(self, machine).await,
            Resource::Census => {
                let report = self.census.report(&self.scraper, limit).await;
                self.write(move || json(&report)).await
            }
            Resource::Collectors => {
                let (entries, scraper) = (self.entries, Arc::clone(&self.scraper));
                self.write(move || collectors::answer(entries, &scraper, &machine))
                    .await
            }
            Resource::OpenApi => Ok(OPENAPI.to_vec()),
        }
    }

    /// Writes an answer down on a worker, for it may be long.
    async fn write(
        &self,
        write: impl FnOnce() -> Result<Vec<u8>, Problem> + Send + 'static,
    ) -> Result<Vec<u8>, Problem> {
        let written = self.workers.call(write).await;
        written.unwrap_or_else(|| Err(Problem::new(500, "the answer could not be written down")))
    }
}

/// A part of an answer that is not there.
#[derive(Debug, Clone, Serialize)]
struct Missing {
    part: &'static str,
    reason: String,
}

impl Missing {
    fn new(part: &'static str, reason: &Error) -> Self {
        let reason = reason.to_string();
        Self { part, reason }
    }
}

/// What was read, or nothing and a note why.
fn keep<T>(
    missing: &mut Vec<Missing>,
    part: &'static str,
    read: crate::error::Result<T>,
) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            missing.push(Missing::new(part, &error));
            None
        }
    }
}

/// What is at a path, and what stands in place of its `{…}`.
fn routed(path: &str) -> Result<(Resource, String), Problem> {
    for (template, resource) in ROUTES {
        if *template == path {
            return Ok((*resource, String::new()));
        }
        let around = template.split_once('{').and_then(|(before, rest)| {
            let (_, after) = rest.split_once('}')?;
            Some((before, after))
        });
        let named = around
            .and_then(|(before, after)| path.strip_prefix(before)?.strip_suffix(after))
            .filter(|named| !named.is_empty() && !named.contains('/'));
        if let Some(named) = named {
            let named = percent_encoding::percent_decode_str(named).decode_utf8();
            let wrong = |_| Problem::new(400, "the path is not UTF-8");
            return Ok((*resource, named.map_err(wrong)?.into_owned()));
        }
    }
    Err(Problem::new(404, "there is nothing at this path"))
}

fn json(answer: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(answer).map_err(|error| Problem::new(500, error.to_string()))
}

/// A time from 1970 on, or how long something took, as it is written.
#[expect(clippy::ref_option, reason = "as serde calls what writes a field")]
fn seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.as_ref()
        .map(Duration::as_secs_f64)
        .serialize(serializer)
}

/// Holds an answer, or a part of one, against its description; what that does not know
/// may not be there.
#[cfg(test)]
fn assert_described(schema: &str, answer: &impl Serialize) {
    fn close(schema: &mut serde_json::Value) {
        if let Some(object) = schema.as_object_mut() {
            if object.contains_key("properties") {
                let closed = object.entry("additionalProperties");
                closed.or_insert(false.into());
            }
            object.values_mut().for_each(close);
        }
    }
    let mut description: serde_json::Value = serde_json::from_slice(OPENAPI).unwrap();
    close(&mut description["components"]);
    let schema = serde_json::json!({
        "$ref": format!("#/components/schemas/{schema}"),
        "components": description["components"],
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    let errors = validator.iter_errors(&answer);
    let errors: Vec<_> = errors.map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_resource_or_to_none() {
        let routed = |path| routed(path).map_err(|problem| problem.status());
        let none = String::new;
        assert_eq!(routed("/api/v1/host"), Ok((Resource::Host, none())));
        let group = "/api/v1/containers/%2Fsystem.slice%2Fa+b.service";
        let named = "/system.slice/a+b.service".to_owned();
        assert_eq!(routed(group), Ok((Resource::Container, named.clone())));
        let points = format!("{group}/points");
        assert_eq!(routed(&points), Ok((Resource::ContainerPoints, named)));
        for nothing in [
            "/api",
            "/api/",
            "/api/v2/host",
            "/api/v1/host/",
            "/api/v1/containers/",
            "/api/v1/containers/a/b",
            "/api/v1/containers//history",
            "/api/v1/containers/a/b/history",
        ] {
            assert_eq!(routed(nothing), Err(404), "{nothing}");
        }
        assert_eq!(routed("/api/v1/containers/%ff"), Err(400));
    }

    #[test]
    fn what_only_begins_alike_is_somebody_elses() {
        for (path, is_below) in [
            ("/api", true),
            ("/api/", true),
            ("/api/x", true),
            ("/apis", false),
            ("/", false),
        ] {
            assert_eq!(Api::is_below(path), is_below, "{path}");
        }
    }

    #[test]
    fn each_route_is_described_and_each_description_has_a_route() {
        let description: serde_json::Value = serde_json::from_slice(OPENAPI).unwrap();
        let described = description["paths"].as_object().unwrap().keys();
        let mut described: Vec<_> = described.map(String::as_str).collect();
        let mut routes: Vec<_> = ROUTES.iter().map(|(path, _)| *path).collect();
        described.sort_unstable();
        routes.sort_unstable();
        assert_eq!(described, routes);
    }
}
