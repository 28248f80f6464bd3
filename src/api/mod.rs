//! JSON API for programs and the status page: read-only, versioned, and described by `openapi.json`
//! in this directory.
//!
//! Requests follow the rules of a scrape: workers read files within a deadline, a source that hangs
//! costs only its own part of the response, which contains the reason, and a source that still
//! hangs is not read again. Concurrent requests share reads.
//!
//! Except in the census, whose format its consumers define, times are seconds since the Unix epoch,
//! values are in base units, and unknown values are omitted: they are neither null nor 0.

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
    sources::{HostState, Snapshot},
};
use census::Census;
use error::ApiError;
use history::HistoryQuery;
use query::QueryParams;

/// The `OpenAPI` description.
const OPENAPI: &[u8] = include_bytes!("openapi.json");

/// Resources of the API.
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

/// Path templates as in the description: `{…}` matches one path segment.
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

/// A response.
#[derive(Debug)]
pub struct ApiResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, always JSON.
    pub json: Vec<u8>,
}

impl ApiResponse {
    /// An error response.
    #[must_use]
    pub fn error(status: u16, reason: &str) -> Self {
        ApiError::new(status, reason).into()
    }
}

/// Everything that responses are created from.
#[derive(Debug)]
pub struct Api {
    machine: Arc<HostState>,
    workers: Workers,
    scraper: Arc<Scraper>,
    /// All collectors, including disabled ones.
    entries: &'static [Entry],
    census: Census,
    containers: containers::ContainerReads,
    domains: domains::DomainReads,
    host: host::HostReads,
}

impl Api {
    /// Creates the API for this machine. The scraper has the enabled ones of the collectors in
    /// `entries`.
    #[must_use]
    pub fn new(
        machine: Arc<HostState>,
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
            containers: containers::ContainerReads::new(),
            domains: domains::DomainReads::new(),
            host: host::HostReads::new(),
        }
    }

    /// The machine that the API reads.
    #[must_use]
    pub fn machine(&self) -> &Arc<HostState> {
        &self.machine
    }

    /// Whether a path belongs to the API, even if nothing exists there.
    #[must_use]
    pub fn is_api_path(path: &str) -> bool {
        let below = path.strip_prefix("/api");
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Responds to a request within about this time.
    pub async fn respond(&self, path: &str, query: &str, limit: Duration) -> ApiResponse {
        let result = self.dispatch(path, query, limit).await;
        match result {
            Ok(json) => ApiResponse { status: 200, json },
            Err(error) => error.into(),
        }
    }

    async fn dispatch(
        &self,
        path: &str,
        query: &str,
        limit: Duration,
    ) -> Result<Vec<u8>, ApiError> {
        let (resource, segment) = match_route(path)?;
        let allowed = match resource {
            Resource::Containers => containers::PARAMETERS,
            Resource::ContainerHistory | Resource::HostHistory => history::WINDOW_PARAMETERS,
            Resource::ContainerPoints | Resource::HostPoints => history::POINTS_PARAMETERS,
            _ => &[],
        };
        let query = QueryParams::parse(query, allowed)?;
        let machine = Arc::clone(&self.machine);
        let snapshot = Arc::new(Snapshot::new(machine, Instant::now() + limit));
        match resource {
            Resource::Containers => containers::list(self, snapshot, &query).await,
            Resource::Container => containers::detail(self, snapshot, segment).await,
            Resource::ContainerHistory => {
                history::container(
                    self,
                    snapshot,
                    segment,
                    HistoryQuery::from_window_parameter(&query)?,
                )
                .await
            }
            Resource::ContainerPoints => {
                history::container(
                    self,
                    snapshot,
                    segment,
                    HistoryQuery::from_points_parameter(&query)?,
                )
                .await
            }
            Resource::Host => host::respond(self, snapshot).await,
            Resource::HostHistory => {
                history::host(self, snapshot, HistoryQuery::from_window_parameter(&query)?).await
            }
            Resource::HostPoints => {
                history::host(self, snapshot, HistoryQuery::from_points_parameter(&query)?).await
            }
            Resource::Domains => domains::respond(self, snapshot).await,
            Resource::Census => {
                let report = self.census.report(&self.scraper, limit).await;
                self.run_on_worker(move || to_json(&report)).await
            }
            Resource::Collectors => {
                let (entries, scraper) = (self.entries, Arc::clone(&self.scraper));
                self.run_on_worker(move || collectors::respond(entries, &scraper, &snapshot))
                    .await
            }
            Resource::OpenApi => Ok(OPENAPI.to_vec()),
        }
    }

    /// Serializes a response on a worker, because it may be large.
    async fn run_on_worker(
        &self,
        write: impl FnOnce() -> Result<Vec<u8>, ApiError> + Send + 'static,
    ) -> Result<Vec<u8>, ApiError> {
        let written = self.workers.call(write).await;
        written.unwrap_or_else(|| Err(ApiError::new(500, "cannot encode the response")))
    }
}

/// A missing part of a response.
#[derive(Debug, Clone, Serialize)]
struct MissingPart {
    part: &'static str,
    reason: String,
}

impl MissingPart {
    fn new(part: &'static str, reason: &Error) -> Self {
        let reason = reason.to_string();
        Self { part, reason }
    }
}

/// The value, or `None` after recording the error as a missing part.
fn ok_or_missing<T>(
    missing: &mut Vec<MissingPart>,
    part: &'static str,
    read: crate::error::Result<T>,
) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            missing.push(MissingPart::new(part, &error));
            None
        }
    }
}

/// The resource at a path, and the segment that matches `{…}`.
fn match_route(path: &str) -> Result<(Resource, String), ApiError> {
    for (template, resource) in ROUTES {
        if *template == path {
            return Ok((*resource, String::new()));
        }
        let around = template.split_once('{').and_then(|(before, rest)| {
            let (_, after) = rest.split_once('}')?;
            Some((before, after))
        });
        let segment = around
            .and_then(|(before, after)| path.strip_prefix(before)?.strip_suffix(after))
            .filter(|segment| !segment.is_empty() && !segment.contains('/'));
        if let Some(segment) = segment {
            let segment = percent_encoding::percent_decode_str(segment).decode_utf8();
            let not_utf8 = |_| ApiError::new(400, "path is not UTF-8");
            return Ok((*resource, segment.map_err(not_utf8)?.into_owned()));
        }
    }
    Err(ApiError::new(404, "no such path"))
}

fn to_json(response: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(response).map_err(|error| ApiError::new(500, error.to_string()))
}

/// Serializes a duration, or a time since the Unix epoch, as seconds.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn seconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.as_ref()
        .map(Duration::as_secs_f64)
        .serialize(serializer)
}

/// Validates a response, or a part of one, against its schema, which must describe all fields.
#[cfg(test)]
fn assert_matches_schema(schema: &str, response: &impl Serialize) {
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
    let response = serde_json::to_value(response).unwrap();
    let errors = validator.iter_errors(&response);
    let errors: Vec<_> = errors.map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_matches_at_most_one_route() {
        let routed = |path| match_route(path).map_err(|error| error.status());
        let none = String::new;
        assert_eq!(routed("/api/v1/host"), Ok((Resource::Host, none())));
        let group = "/api/v1/containers/%2Fsystem.slice%2Fa+b.service";
        let segment = "/system.slice/a+b.service".to_owned();
        assert_eq!(routed(group), Ok((Resource::Container, segment.clone())));
        let points = format!("{group}/points");
        assert_eq!(routed(&points), Ok((Resource::ContainerPoints, segment)));
        for path in [
            "/api",
            "/api/",
            "/api/v2/host",
            "/api/v1/host/",
            "/api/v1/containers/",
            "/api/v1/containers/a/b",
            "/api/v1/containers//history",
            "/api/v1/containers/a/b/history",
        ] {
            assert_eq!(routed(path), Err(404), "{path}");
        }
        assert_eq!(routed("/api/v1/containers/%ff"), Err(400));
    }

    #[test]
    fn similar_prefix_is_not_an_api_path() {
        for (path, is_below) in [
            ("/api", true),
            ("/api/", true),
            ("/api/x", true),
            ("/apis", false),
            ("/", false),
        ] {
            assert_eq!(Api::is_api_path(path), is_below, "{path}");
        }
    }

    #[test]
    fn routes_and_openapi_paths_match() {
        let description: serde_json::Value = serde_json::from_slice(OPENAPI).unwrap();
        let described = description["paths"].as_object().unwrap().keys();
        let mut described: Vec<_> = described.map(String::as_str).collect();
        let mut routes: Vec<_> = ROUTES.iter().map(|(path, _)| *path).collect();
        described.sort_unstable();
        routes.sort_unstable();
        assert_eq!(described, routes);
    }
}
