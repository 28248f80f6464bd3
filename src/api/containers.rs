//! Containers and other cgroups: all their properties except resource usage.
//!
//! If cgroups cannot be listed, the containers known to engines are returned. Labels are the same
//! as in metrics: those selected by `--engine.label-include`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::{
    Api, MissingPart,
    error::{ApiError, Candidate},
    latest::LatestSample,
    ok_or_missing,
    query::QueryParams,
    seconds, to_json,
};
use crate::{
    error::{Error, Result},
    history::{History, Series},
    scrape::SharedRead,
    sources::{
        Snapshot,
        engine::{Container, ContainerState, Engine, EngineKind, Health},
        workloads::{Inventory, Runtime, RuntimeId, UnnamedCause, Workload},
    },
};

/// `all`: whether to include services, slices and other cgroups.
pub(super) const PARAMETERS: &[&str] = &["all"];

/// Maximum number of candidates in the error for an ambiguous name.
const MAX_CANDIDATES: usize = 20;

#[derive(Debug)]
pub(super) struct ContainerReads {
    listing: SharedRead<Arc<ContainerListing>>,
}

impl ContainerReads {
    pub(super) fn new() -> Self {
        Self {
            listing: SharedRead::new("control groups", |snapshot| {
                ContainerListing::from_cgroups(snapshot).map(Arc::new)
            }),
        }
    }
}

/// The listed workloads, and the snapshot that they are from, if any.
#[derive(Debug)]
struct ContainerListing {
    source: ListingSource,
    /// Creation times of cgroups that no engine knows, in the same order.
    created: Vec<Option<Duration>>,
    /// The error if some cgroups are missing.
    skipped: Option<Error>,
}

#[derive(Debug)]
enum ListingSource {
    Cgroups(Arc<Snapshot>),
    Engines(Inventory),
}

impl ContainerListing {
    fn from_cgroups(snapshot: &Arc<Snapshot>) -> Result<Self> {
        let inventory = snapshot.workloads()?;
        let created_at = |workload: &Arc<Workload>| {
            let group = workload.cgroup.as_ref();
            // An engine's timestamps are more accurate.
            let group = group.filter(|_| workload.container.is_none());
            group?.created().ok()
        };
        Ok(Self {
            created: inventory.all.iter().map(created_at).collect(),
            skipped: snapshot.cgroups().partial_error(),
            source: ListingSource::Cgroups(Arc::clone(snapshot)),
        })
    }

    fn inventory(&self) -> Option<&Inventory> {
        match &self.source {
            // Was read before this value was created.
            ListingSource::Cgroups(machine) => machine.workloads().ok(),
            ListingSource::Engines(inventory) => Some(inventory),
        }
    }
}

/// The listed containers, and the missing parts.
struct ContainerView {
    history: Arc<History>,
    time: Option<Duration>,
    listing: Arc<ContainerListing>,
    /// Whether the listing is incomplete.
    is_partial: bool,
    missing: Vec<MissingPart>,
}

impl ContainerView {
    async fn fetch(api: &Api, snapshot: &Arc<Snapshot>) -> Self {
        let reading = &api.containers.listing;
        let mut missing = Vec::new();
        let read = reading.take(snapshot, &api.workers).await;
        let listing = ok_or_missing(&mut missing, reading.what(), read).unwrap_or_else(|| {
            Arc::new(ContainerListing {
                source: ListingSource::Engines(snapshot.engine_containers()),
                created: Vec::new(),
                skipped: None,
            })
        });
        let skipped = listing.skipped.as_ref();
        missing.extend(skipped.map(|why| MissingPart::new(reading.what(), why)));
        Self {
            history: Arc::clone(api.machine.history()),
            time: snapshot.unix_time(),
            is_partial: !missing.is_empty(),
            listing,
            missing,
        }
    }

    fn rows(&self) -> impl Iterator<Item = ContainerRow<'_>> {
        let inventory = self.listing.inventory();
        let created = self.listing.created.iter().copied();
        let created = created.chain(std::iter::repeat(None));
        let all = inventory.into_iter().flat_map(|inventory| {
            let all = inventory.all.iter();
            all.map(move |workload| (inventory, &**workload))
        });
        all.zip(created).map(|((inventory, workload), created)| {
            ContainerRow::new(inventory, workload, created, self.is_partial)
        })
    }

    /// Removed containers with a retained history, each once.
    fn gone(&self) -> impl Iterator<Item = ContainerRow<'_>> {
        let inventory = self.listing.inventory();
        let all = inventory.into_iter().flat_map(|inventory| {
            let gone = inventory.gone.iter().map(|(workload, _)| workload);
            gone.map(move |workload| ContainerRow::new(inventory, workload, None, false))
        });
        let mut ids = BTreeSet::new();
        all.filter(move |row| {
            let series = row.series(&self.history);
            series.is_some_and(|series| ids.insert(series.id().to_owned()))
        })
    }

    /// Turns "not found" into 503 if the listing is incomplete, because the container may exist.
    fn explain(&self, error: ApiError) -> ApiError {
        match self.missing.first() {
            Some(MissingPart { part, reason }) if error.is_not_found() => {
                let reason = format!("{error}, but the listing is incomplete: {part}: {reason}");
                ApiError::new(503, reason)
            }
            _ => error,
        }
    }
}

/// Lists all containers.
pub(super) async fn list(
    api: &Api,
    snapshot: Arc<Snapshot>,
    query: &QueryParams,
) -> std::result::Result<Vec<u8>, ApiError> {
    let all = query.parse_bool("all")?;
    let read = ContainerView::fetch(api, &snapshot).await;
    api.run_on_worker(move || {
        let engines = snapshot.engines();
        let is_available = matches!(read.listing.source, ListingSource::Cgroups(_))
            || engines.iter().any(|it| it.confirmed.is_some());
        to_json(&ContainersResponse {
            time: read.time,
            engines: engines
                .iter()
                .map(|engine| EngineStatus::from_engine(engine))
                .collect(),
            containers: is_available.then_some(ContainerRows { view: &read, all }),
            missing: &read.missing,
        })
    })
    .await
}

/// Returns a single container.
pub(super) async fn detail(
    api: &Api,
    snapshot: Arc<Snapshot>,
    name_or_id: String,
) -> std::result::Result<Vec<u8>, ApiError> {
    let read = ContainerView::fetch(api, &snapshot).await;
    api.run_on_worker(move || {
        let row = find(read.rows(), &name_or_id).map_err(|error| read.explain(error))?;
        to_json(&ContainerResponse {
            time: read.time,
            container: ContainerDetail::new(row.with_latest(&read.history)),
            missing: &read.missing,
        })
    })
    .await
}

/// Finds a container and its samples, if any. Existing containers take precedence over removed
/// ones.
pub(super) async fn find_series(
    api: &Api,
    snapshot: &Arc<Snapshot>,
    name_or_id: String,
) -> std::result::Result<(Candidate, Option<Arc<Series>>), ApiError> {
    let read = ContainerView::fetch(api, snapshot).await;
    let result = api.workers.call(move || {
        let row = match find(read.rows(), &name_or_id) {
            Err(error) if error.is_not_found() => {
                find(read.gone(), &name_or_id).map_err(|error| read.explain(error))
            }
            result => result,
        }?;
        if row.kind == "group" {
            let reason =
                format!("{name_or_id:?} is not a container: only containers have a history");
            return Err(ApiError::new(404, reason));
        }
        Ok((row.candidate(), row.series(&read.history)))
    });
    let failed = || Err(ApiError::new(500, "container lookup failed"));
    result.await.unwrap_or_else(failed)
}

/// ID, name and cgroup of the container that these samples are of, from cached state.
pub(super) fn describe_series(snapshot: &Snapshot, series: &Series) -> Candidate {
    let handle = RuntimeId::from_cgroup_path(series.path());
    let has_path = series.id() == series.path();
    let id = Some(series.id()).filter(|_| !has_path);
    let id = id.or_else(|| Some(handle.as_ref()?.id.as_str()));
    let engines = snapshot.engines();
    let mut containers = engines
        .iter()
        .filter_map(|it| it.containers.get(series.id()));
    let name = containers.find(|it| !it.name.is_empty());
    let name = name.map(|it| it.name.as_str());
    let lxc = handle.as_ref().filter(|it| it.runtime == Runtime::Lxc);
    Candidate {
        name: name.or(lxc.map(|it| &*it.id)).map(str::to_owned),
        id: id.map(str::to_owned),
        cgroup: series.path().to_owned(),
    }
}

/// Finds the row with this ID or cgroup path, else with this name, else with this ID prefix.
fn find<'a>(
    rows: impl Iterator<Item = ContainerRow<'a>>,
    name_or_id: &str,
) -> std::result::Result<ContainerRow<'a>, ApiError> {
    // Exact matches, matching names, matching prefixes.
    let mut found: [Vec<ContainerRow<'a>>; 3] = Default::default();
    for row in rows {
        let is_prefix = row.id.is_some_and(|id| id.starts_with(name_or_id));
        let [exact, by_name, by_prefix] = &mut found;
        if row.id == Some(name_or_id) || row.cgroup == name_or_id {
            exact.push(row);
        } else if row.has_name(name_or_id) {
            by_name.push(row);
        } else if is_prefix && !name_or_id.is_empty() {
            by_prefix.push(row);
        }
    }
    let Some(mut best) = found.into_iter().find(|rows| !rows.is_empty()) else {
        let reason = format!("no such container: {name_or_id:?}");
        return Err(ApiError::new(404, reason));
    };
    if best.len() > 1 {
        let reason = format!("ambiguous container {name_or_id:?}: {} matches", best.len());
        let candidates = best
            .iter()
            .take(MAX_CANDIDATES)
            .map(ContainerRow::candidate);
        return Err(ApiError::ambiguous(reason, candidates.collect()));
    }
    best.pop()
        .ok_or_else(|| ApiError::new(404, "no such container"))
}

#[derive(Serialize)]
struct ContainersResponse<'a> {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    engines: Vec<EngineStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<ContainerRows<'a>>,
    missing: &'a [MissingPart],
}

#[derive(Serialize)]
struct ContainerResponse<'a> {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    container: ContainerDetail<'a>,
    missing: &'a [MissingPart],
}

/// Connection status of an engine.
#[derive(Serialize)]
struct EngineStatus<'a> {
    socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    is_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<usize>,
}

impl<'a> EngineStatus<'a> {
    fn from_engine(engine: &'a Engine) -> Self {
        let is_confirmed = engine.confirmed.is_some();
        Self {
            socket: engine.socket.to_string_lossy().into_owned(),
            engine: engine.kind.map(EngineKind::name),
            version: engine.version.as_deref(),
            is_up: engine.up,
            error: engine.error.as_deref().filter(|_| !engine.up),
            containers: is_confirmed.then_some(engine.containers.len()),
        }
    }
}

/// Serialized row by row, without collecting them first.
struct ContainerRows<'a> {
    view: &'a ContainerView,
    all: bool,
}

impl Serialize for ContainerRows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let is_listed = |row: &ContainerRow<'_>| self.all || row.kind != "group";
        let rows = self.view.rows().filter(is_listed);
        serializer.collect_seq(rows.map(|row| row.with_latest(&self.view.history)))
    }
}

#[derive(Serialize)]
struct ContainerRow<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restarts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    created: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    started: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    finished: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit_bytes: Option<u64>,
    cgroup: &'a str,
    /// Unknown if not found in an incomplete listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    has_cgroup: Option<bool>,
    /// Whether the engine's state is up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_current: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unnamed: Option<UnnamedReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<ContainerDomain<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<LatestSample>,
    #[serde(skip)]
    container: Option<&'a Container>,
}

/// The libvirt domain in a cgroup.
#[derive(Serialize)]
struct ContainerDomain<'a> {
    id: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
}

#[derive(Serialize)]
struct UnnamedReason {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl<'a> ContainerRow<'a> {
    fn new(
        inventory: &'a Inventory,
        workload: &'a Workload,
        created: Option<Duration>,
        is_partial: bool,
    ) -> Self {
        let engine_container = workload.container.as_ref();
        let container = engine_container.map(|(_, container)| &**container);
        let handle = workload.runtime_id.as_ref();
        let kind = match (container, handle, &workload.domain) {
            (None, None, Some(_)) => "guest",
            (None, None, None) => "group",
            _ => "container",
        };
        let is_alive = container.is_some_and(|it| it.state.is_alive());
        // For a container that never ran, the engine reports the year 1 as its end.
        let ended = container.filter(|it| !is_alive && it.state != ContainerState::Created);
        let non_empty = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            kind,
            id: container
                .map(|it| it.id.as_str())
                .or_else(|| Some(handle?.id.as_str())),
            name: match (container, handle) {
                (Some(it), _) => non_empty(&it.name),
                // The ID is the name.
                (None, Some(it)) if it.runtime == Runtime::Lxc => non_empty(&it.id),
                _ => None,
            },
            engine: engine_container.map(|(kind, _)| kind.name()),
            runtime: handle.and_then(|it| it.runtime.name()),
            image: container.and_then(|it| non_empty(&it.image)),
            image_id: container.and_then(|it| non_empty(&it.image_id)),
            state: container.map(|it| it.state.name()),
            health: container
                .filter(|_| is_alive)
                .and_then(|it| it.health)
                .map(Health::name),
            restarts: container.and_then(|it| it.restart_count),
            exit_code: ended.and_then(|it| it.exit_code),
            created: container.map_or(created, |it| it.created),
            started: container.map_or(created, |it| it.started),
            finished: ended.and_then(|it| it.finished),
            memory_limit_bytes: container.and_then(|it| it.memory_limit),
            cgroup: &workload.path,
            has_cgroup: match &workload.cgroup {
                Some(_) => Some(true),
                None => (!is_partial).then_some(false),
            },
            is_current: container.map(|it| {
                let mut up = inventory.engines.iter().filter(|engine| engine.up);
                up.any(|engine| engine.containers.contains_key(&it.id))
            }),
            unnamed: inventory
                .unnamed_cause(workload)
                .map(UnnamedReason::from_unnamed),
            domain: workload.domain.as_ref().map(|domain| ContainerDomain {
                id: domain.id,
                name: &domain.name,
                uuid: domain.uuid.as_deref(),
            }),
            latest: None,
            container,
        }
    }

    /// The container's samples.
    fn series(&self, history: &History) -> Option<Arc<Series>> {
        history.find_container(self.id, self.cgroup)
    }

    fn with_latest(mut self, history: &History) -> Self {
        let series = self.series(history);
        self.latest = series.and_then(|series| LatestSample::from_series(&series));
        self
    }

    fn has_name(&self, name: &str) -> bool {
        let domain = self.domain.as_ref();
        self.name == Some(name) || domain.is_some_and(|it| it.name == name || it.uuid == Some(name))
    }

    fn candidate(&self) -> Candidate {
        let name = self.name.or_else(|| Some(self.domain.as_ref()?.name));
        Candidate {
            id: self.id.map(str::to_owned),
            name: name.map(str::to_owned),
            cgroup: self.cgroup.to_owned(),
        }
    }
}

impl UnnamedReason {
    fn from_unnamed(why: UnnamedCause) -> Self {
        let (reason, detail) = match why {
            UnnamedCause::UnknownToEngine(kind) => {
                let detail = format!(
                    "created by a {} instance that is not configured",
                    kind.name()
                );
                ("not_known", Some(detail))
            }
            UnnamedCause::EngineDown(kind, error) => {
                let error = error.unwrap_or_else(|| "no response yet".to_owned());
                ("engine_down", Some(format!("{}: {error}", kind.name())))
            }
            UnnamedCause::EngineNotConfigured(kind) => {
                let detail = format!("no {} socket is configured", kind.name());
                ("not_asked", Some(detail))
            }
            UnnamedCause::UnsupportedRuntime(runtime) => {
                let name = runtime.name().unwrap_or_default();
                ("runtime_not_asked", Some(name.to_owned()))
            }
            UnnamedCause::UnknownRuntime => ("unknown_runtime", None),
        };
        Self { reason, detail }
    }
}

/// A row, and fields that are too long for a list.
#[derive(Serialize)]
struct ContainerDetail<'a> {
    #[serde(flatten)]
    row: ContainerRow<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_events: Option<u64>,
}

impl<'a> ContainerDetail<'a> {
    fn new(row: ContainerRow<'a>) -> Self {
        let container = row.container;
        let labels = container.map(|it| it.labels.iter());
        Self {
            row,
            labels: labels.map(|labels| {
                let pairs = labels.map(|(name, value)| (name.as_str(), value.as_str()));
                pairs.collect()
            }),
            pid: container.and_then(|it| it.pid),
            cgroup_parent: container.and_then(|it| it.cgroup_parent.as_deref()),
            oom_events: container.map(|it| it.oom_events),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::workloads::container;

    fn ids(rows: &[(&str, &str)], named: &str) -> std::result::Result<String, (u16, usize)> {
        let all = rows.iter().map(|(id, name)| {
            let path = format!("/docker/{id}");
            Workload::from_parts(&path, None, Some(container(id, name)))
        });
        let inventory = Inventory {
            all: all.collect(),
            ..Inventory::default()
        };
        let rows = inventory.all.iter();
        let rows = rows.map(|workload| ContainerRow::new(&inventory, workload, None, false));
        let found = find(rows, named);
        found
            .map(|row| row.id.unwrap_or_default().to_owned())
            .map_err(|error| (error.status(), error.candidates().len()))
    }

    #[test]
    fn lookup_prefers_id_then_name_then_id_prefix() {
        let rows = [
            ("abc1", "web"),
            ("abc2", "abc"),
            ("ff00", "abc1"),
            ("ff01", "db"),
        ];
        let found = |id: &str| Ok(id.to_owned());
        assert_eq!(ids(&rows, "abc1"), found("abc1"));
        assert_eq!(ids(&rows, "abc"), found("abc2"));
        assert_eq!(ids(&rows, "web"), found("abc1"));
        assert_eq!(ids(&rows, "ff01"), found("ff01"));
        assert_eq!(ids(&rows, "/docker/ff00"), found("ff00"));
        assert_eq!(ids(&rows, "f"), Err((409, 2)));
        assert_eq!(ids(&rows, "we"), Err((404, 0)));
        assert_eq!(ids(&rows, ""), Err((404, 0)));
    }

    #[test]
    fn ambiguous_lookup_lists_bounded_candidates() {
        let ids_of: Vec<_> = (0..100).map(|n| format!("a{n}")).collect();
        let rows: Vec<_> = ids_of.iter().map(|id| (id.as_str(), "web")).collect();
        assert_eq!(ids(&rows, "a"), Err((409, MAX_CANDIDATES)));
        assert_eq!(ids(&rows, "web"), Err((409, MAX_CANDIDATES)));
    }

    #[test]
    fn created_container_has_no_exit_code() {
        let row = |state: ContainerState| {
            let mut web = container("abc1", "web");
            web.state = state;
            web.health = Some(Health::Healthy);
            web.exit_code = Some(0);
            web.finished = Some(Duration::from_secs(7));
            let workload = Workload::from_parts("/docker/abc1", None, Some(web));
            serde_json::to_value(ContainerRow::new(
                &Inventory::default(),
                &workload,
                None,
                false,
            ))
            .unwrap()
        };
        let has = |state| {
            let row = row(state);
            ["health", "exit_code", "finished"].map(|field| row.get(field).is_some())
        };
        assert_eq!(has(ContainerState::Created), [false, false, false]);
        assert_eq!(has(ContainerState::Running), [true, false, false]);
        assert_eq!(has(ContainerState::Exited), [false, true, true]);
    }

    #[test]
    fn domains_and_services_are_not_containers() {
        let kind = |path: &str| {
            let workload = Workload::from_parts(path, None, None);
            ContainerRow::new(&Inventory::default(), &workload, None, true).kind
        };
        assert_eq!(
            kind(r"/machine.slice/machine-qemu\x2d7\x2dweb.scope"),
            "guest"
        );
        assert_eq!(kind("/system.slice/ssh.service"), "group");
        assert_eq!(kind("/lxc/web"), "container");
    }
}
