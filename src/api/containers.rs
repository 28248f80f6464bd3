//! Containers, and other control groups: what is known of each but what it uses.
//!
//! Where control groups cannot be listed, the containers that engines know are there all
//! the same. Labels are those that the metrics have, too: what `--engine.label-include` allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::{
    Api, Missing,
    error::{Candidate, Problem},
    json, keep,
    latest::Latest,
    query::Query,
    seconds,
};
use crate::{
    error::{Error, Result},
    history::{History, Series},
    scrape::Reading,
    sources::{
        Snapshot,
        engine::{Container, Engine, Health, Kind, State},
        workloads::{Handle, Runtime, Seen, Unnamed, Workload},
    },
};

/// `all`: whether to list services, slices and other control groups, too.
pub(super) const PARAMETERS: &[&str] = &["all"];

/// Of what a word may mean, no more than this many are named.
const MAX_CANDIDATES: usize = 20;

#[derive(Debug)]
pub(super) struct Readings {
    seen: Reading<Arc<Listed>>,
}

impl Readings {
    pub(super) fn new() -> Self {
        Self {
            seen: Reading::new("control groups", |machine| {
                Listed::of_groups(machine).map(Arc::new)
            }),
        }
    }
}

/// What was seen, by the snapshot that saw it or without.
#[derive(Debug)]
struct Listed {
    seen: Source,
    /// When those that no engine knows were made, in their order.
    made: Vec<Option<Duration>>,
    /// Why groups are missing, if some are.
    left_out: Option<Error>,
}

#[derive(Debug)]
enum Source {
    Groups(Arc<Snapshot>),
    Engines(Seen),
}

impl Listed {
    fn of_groups(machine: &Arc<Snapshot>) -> Result<Self> {
        let seen = machine.workloads()?;
        let made = |workload: &Arc<Workload>| {
            let group = workload.group.as_ref();
            // An engine's times say more.
            let group = group.filter(|_| workload.container.is_none());
            group?.made().ok()
        };
        Ok(Self {
            made: seen.all.iter().map(made).collect(),
            left_out: machine.cgroups().left_out(),
            seen: Source::Groups(Arc::clone(machine)),
        })
    }

    fn seen(&self) -> Option<&Seen> {
        match &self.seen {
            // Was read before, or it would not be here.
            Source::Groups(machine) => machine.workloads().ok(),
            Source::Engines(seen) => Some(seen),
        }
    }
}

/// What there is, and what is missing of it.
struct Read {
    history: Arc<History>,
    time: Option<Duration>,
    listed: Arc<Listed>,
    /// Whether there would be more if everything could be read.
    is_partial: bool,
    missing: Vec<Missing>,
}

impl Read {
    async fn now(api: &Api, machine: &Arc<Snapshot>) -> Self {
        let reading = &api.containers.seen;
        let mut missing = Vec::new();
        let read = reading.take(machine, &api.workers).await;
        let listed = keep(&mut missing, reading.what(), read).unwrap_or_else(|| {
            Arc::new(Listed {
                seen: Source::Engines(machine.known_containers()),
                made: Vec::new(),
                left_out: None,
            })
        });
        let left_out = listed.left_out.as_ref();
        missing.extend(left_out.map(|why| Missing::new(reading.what(), why)));
        Self {
            history: Arc::clone(api.machine.history()),
            time: machine.now(),
            is_partial: !missing.is_empty(),
            listed,
            missing,
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let seen = self.listed.seen();
        let made = self.listed.made.iter().copied();
        let made = made.chain(std::iter::repeat(None));
        let all = seen.into_iter().flat_map(|seen| {
            let all = seen.all.iter();
            all.map(move |workload| (seen, &**workload))
        });
        all.zip(made)
            .map(|((seen, workload), made)| Row::of(seen, workload, made, self.is_partial))
    }

    /// Those that are gone and still remembered, each once.
    fn gone(&self) -> impl Iterator<Item = Row<'_>> {
        let seen = self.listed.seen();
        let all = seen.into_iter().flat_map(|seen| {
            let gone = seen.gone.iter().map(|(workload, _)| workload);
            gone.map(move |workload| Row::of(seen, workload, None, false))
        });
        let mut ids = BTreeSet::new();
        all.filter(move |row| {
            let series = row.series(&self.history);
            series.is_some_and(|series| ids.insert(series.id().to_owned()))
        })
    }

    /// That there is none; or, where it may be among those that could not be listed, that
    /// nobody knows.
    fn explain(&self, problem: Problem) -> Problem {
        match self.missing.first() {
            Some(Missing { part, reason }) if problem.is_not_found() => {
                let reason = format!("{problem}, but not all can be seen: {part}: {reason}");
                Problem::new(503, reason)
            }
            _ => problem,
        }
    }
}

/// Every container.
pub(super) async fn list(
    api: &Api,
    machine: Arc<Snapshot>,
    query: &Query,
) -> std::result::Result<Vec<u8>, Problem> {
    let all = query.switch("all")?;
    let read = Read::now(api, &machine).await;
    api.write(move || {
        let engines = machine.engines();
        let is_known = matches!(read.listed.seen, Source::Groups(_))
            || engines.iter().any(|it| it.confirmed.is_some());
        json(&List {
            time: read.time,
            engines: engines
                .iter()
                .map(|engine| AboutEngine::of(engine))
                .collect(),
            containers: is_known.then_some(Rows { read: &read, all }),
            missing: &read.missing,
        })
    })
    .await
}

/// The one that is meant.
pub(super) async fn one(
    api: &Api,
    machine: Arc<Snapshot>,
    named: String,
) -> std::result::Result<Vec<u8>, Problem> {
    let read = Read::now(api, &machine).await;
    api.write(move || {
        let row = find(read.rows(), &named).map_err(|problem| read.explain(problem))?;
        json(&One {
            time: read.time,
            container: Detail::of(row.with_latest(&read.history)),
            missing: &read.missing,
        })
    })
    .await
}

/// Which container is meant, and its samples if there are some. One that is there comes
/// before one that is gone.
pub(super) async fn remembered(
    api: &Api,
    machine: &Arc<Snapshot>,
    named: String,
) -> std::result::Result<(Candidate, Option<Arc<Series>>), Problem> {
    let read = Read::now(api, machine).await;
    let found = api.workers.call(move || {
        let row = match find(read.rows(), &named) {
            Err(problem) if problem.is_not_found() => {
                find(read.gone(), &named).map_err(|problem| read.explain(problem))
            }
            found => found,
        }?;
        if row.kind == "group" {
            let reason = format!("{named:?} is no container: only those have a history");
            return Err(Problem::new(404, reason));
        }
        Ok((row.candidate(), row.series(&read.history)))
    });
    let lost = || Err(Problem::new(500, "the container could not be looked for"));
    found.await.unwrap_or_else(lost)
}

/// What the container of these samples is called, as far as memory tells.
pub(super) fn called(machine: &Snapshot, series: &Series) -> Candidate {
    let handle = Handle::of(series.path());
    let has_path = series.id() == series.path();
    let id = Some(series.id()).filter(|_| !has_path);
    let id = id.or_else(|| Some(handle.as_ref()?.id.as_str()));
    let engines = machine.engines();
    let mut known = engines
        .iter()
        .filter_map(|it| it.containers.get(series.id()));
    let name = known.find(|it| !it.name.is_empty());
    let name = name.map(|it| it.name.as_str());
    let lxc = handle.as_ref().filter(|it| it.runtime == Runtime::Lxc);
    Candidate {
        name: name.or(lxc.map(|it| &*it.id)).map(str::to_owned),
        id: id.map(str::to_owned),
        cgroup: series.path().to_owned(),
    }
}

/// The row that a word means: the one with this id or control group, else with this name,
/// else the one whose id begins so.
fn find<'a>(
    rows: impl Iterator<Item = Row<'a>>,
    named: &str,
) -> std::result::Result<Row<'a>, Problem> {
    // By how well they match.
    let mut found: [Vec<Row<'a>>; 3] = Default::default();
    for row in rows {
        let is_prefix = row.id.is_some_and(|id| id.starts_with(named));
        let [exactly, by_name, by_prefix] = &mut found;
        if row.id == Some(named) || row.cgroup == named {
            exactly.push(row);
        } else if row.has_name(named) {
            by_name.push(row);
        } else if is_prefix && !named.is_empty() {
            by_prefix.push(row);
        }
    }
    let Some(mut best) = found.into_iter().find(|rows| !rows.is_empty()) else {
        let reason = format!("there is no container {named:?}");
        return Err(Problem::new(404, reason));
    };
    if best.len() > 1 {
        let reason = format!("{named:?} may be one of {} containers", best.len());
        let candidates = best.iter().take(MAX_CANDIDATES).map(Row::candidate);
        return Err(Problem::ambiguous(reason, candidates.collect()));
    }
    best.pop()
        .ok_or_else(|| Problem::new(404, "there is no such container"))
}

#[derive(Serialize)]
struct List<'a> {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    engines: Vec<AboutEngine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<Rows<'a>>,
    missing: &'a [Missing],
}

#[derive(Serialize)]
struct One<'a> {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    container: Detail<'a>,
    missing: &'a [Missing],
}

/// How an engine is reached.
#[derive(Serialize)]
struct AboutEngine<'a> {
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

impl<'a> AboutEngine<'a> {
    fn of(engine: &'a Engine) -> Self {
        let is_known = engine.confirmed.is_some();
        Self {
            socket: engine.socket.to_string_lossy().into_owned(),
            engine: engine.kind.map(Kind::name),
            version: engine.version.as_deref(),
            is_up: engine.up,
            error: engine.error.as_deref().filter(|_| !engine.up),
            containers: is_known.then_some(engine.containers.len()),
        }
    }
}

/// Written one by one, without being gathered before.
struct Rows<'a> {
    read: &'a Read,
    all: bool,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let wanted = |row: &Row<'_>| self.all || row.kind != "group";
        let rows = self.read.rows().filter(wanted);
        serializer.collect_seq(rows.map(|row| row.with_latest(&self.read.history)))
    }
}

#[derive(Serialize)]
struct Row<'a> {
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
    /// Not known where it was not found and not all groups could be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    has_cgroup: Option<bool>,
    /// Whether what the engine said still holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_current: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unnamed: Option<WhyUnnamed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<Domain<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<Latest>,
    #[serde(skip)]
    container: Option<&'a Container>,
}

/// The virtual machine in a control group.
#[derive(Serialize)]
struct Domain<'a> {
    id: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
}

#[derive(Serialize)]
struct WhyUnnamed {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl<'a> Row<'a> {
    fn of(
        seen: &'a Seen,
        workload: &'a Workload,
        made: Option<Duration>,
        is_partial: bool,
    ) -> Self {
        let known = workload.container.as_ref();
        let container = known.map(|(_, container)| &**container);
        let handle = workload.handle.as_ref();
        let kind = match (container, handle, &workload.guest) {
            (None, None, Some(_)) => "guest",
            (None, None, None) => "group",
            _ => "container",
        };
        let is_alive = container.is_some_and(|it| it.state.is_alive());
        // Where it never ran, it says of its end that it was in the year 1.
        let ended = container.filter(|it| !is_alive && it.state != State::Created);
        let said = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            kind,
            id: container
                .map(|it| it.id.as_str())
                .or_else(|| Some(handle?.id.as_str())),
            name: match (container, handle) {
                (Some(it), _) => said(&it.name),
                // Its id is its name.
                (None, Some(it)) if it.runtime == Runtime::Lxc => said(&it.id),
                _ => None,
            },
            engine: known.map(|(kind, _)| kind.name()),
            runtime: handle.and_then(|it| it.runtime.name()),
            image: container.and_then(|it| said(&it.image)),
            image_id: container.and_then(|it| said(&it.image_id)),
            state: container.map(|it| it.state.name()),
            health: container
                .filter(|_| is_alive)
                .and_then(|it| it.health)
                .map(Health::name),
            restarts: container.and_then(|it| it.restarts),
            exit_code: ended.and_then(|it| it.exit_code),
            created: container.map_or(made, |it| it.created),
            started: container.map_or(made, |it| it.started),
            finished: ended.and_then(|it| it.finished),
            memory_limit_bytes: container.and_then(|it| it.memory_limit),
            cgroup: &workload.path,
            has_cgroup: match &workload.group {
                Some(_) => Some(true),
                None => (!is_partial).then_some(false),
            },
            is_current: container.map(|it| {
                let mut up = seen.engines.iter().filter(|engine| engine.up);
                up.any(|engine| engine.containers.contains_key(&it.id))
            }),
            unnamed: seen.why_unnamed(workload).map(WhyUnnamed::of),
            domain: workload.guest.as_ref().map(|guest| Domain {
                id: guest.id,
                name: &guest.name,
                uuid: guest.uuid.as_deref(),
            }),
            latest: None,
            container,
        }
    }

    /// What the history knows of it.
    fn series(&self, history: &History) -> Option<Arc<Series>> {
        history.container_of(self.id, self.cgroup)
    }

    fn with_latest(mut self, history: &History) -> Self {
        let series = self.series(history);
        self.latest = series.and_then(|series| Latest::of(&series));
        self
    }

    fn has_name(&self, named: &str) -> bool {
        let of_domain = self.domain.as_ref();
        self.name == Some(named)
            || of_domain.is_some_and(|it| it.name == named || it.uuid == Some(named))
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

impl WhyUnnamed {
    fn of(why: Unnamed) -> Self {
        let (reason, detail) = match why {
            Unnamed::NotKnown(kind) => {
                let detail = format!("made by another {} than those asked", kind.name());
                ("not_known", Some(detail))
            }
            Unnamed::Down(kind, error) => {
                let error = error.unwrap_or_else(|| "did not answer yet".to_owned());
                ("engine_down", Some(format!("{}: {error}", kind.name())))
            }
            Unnamed::NotAsked(kind) => {
                let detail = format!("no {} is asked", kind.name());
                ("not_asked", Some(detail))
            }
            Unnamed::NoNames(runtime) => {
                let name = runtime.name().unwrap_or_default();
                ("runtime_not_asked", Some(name.to_owned()))
            }
            Unnamed::Unknown => ("unknown_runtime", None),
        };
        Self { reason, detail }
    }
}

/// A row, and what is too long for a list.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_events: Option<u64>,
}

impl<'a> Detail<'a> {
    fn of(row: Row<'a>) -> Self {
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
            Workload::of_parts(&path, None, Some(container(id, name)))
        });
        let seen = Seen {
            all: all.collect(),
            ..Seen::default()
        };
        let rows = seen.all.iter();
        let rows = rows.map(|workload| Row::of(&seen, workload, None, false));
        let found = find(rows, named);
        found
            .map(|row| row.id.unwrap_or_default().to_owned())
            .map_err(|problem| (problem.status(), problem.candidates().len()))
    }

    #[test]
    fn a_word_means_an_id_before_a_name_and_a_name_before_the_beginning_of_an_id() {
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
    fn of_many_candidates_some_are_named() {
        let ids_of: Vec<_> = (0..100).map(|n| format!("a{n}")).collect();
        let rows: Vec<_> = ids_of.iter().map(|id| (id.as_str(), "web")).collect();
        assert_eq!(ids(&rows, "a"), Err((409, MAX_CANDIDATES)));
        assert_eq!(ids(&rows, "web"), Err((409, MAX_CANDIDATES)));
    }

    #[test]
    fn what_never_ran_did_not_end() {
        let row = |state: State| {
            let mut web = container("abc1", "web");
            web.state = state;
            web.health = Some(Health::Healthy);
            web.exit_code = Some(0);
            web.finished = Some(Duration::from_secs(7));
            let workload = Workload::of_parts("/docker/abc1", None, Some(web));
            serde_json::to_value(Row::of(&Seen::default(), &workload, None, false)).unwrap()
        };
        let has = |state| {
            let row = row(state);
            ["health", "exit_code", "finished"].map(|field| row.get(field).is_some())
        };
        assert_eq!(has(State::Created), [false, false, false]);
        assert_eq!(has(State::Running), [true, false, false]);
        assert_eq!(has(State::Exited), [false, true, true]);
    }

    #[test]
    fn a_guest_and_a_service_are_no_containers() {
        let kind = |path: &str| {
            let workload = Workload::of_parts(path, None, None);
            Row::of(&Seen::default(), &workload, None, true).kind
        };
        assert_eq!(
            kind(r"/machine.slice/machine-qemu\x2d7\x2dweb.scope"),
            "guest"
        );
        assert_eq!(kind("/system.slice/ssh.service"), "group");
        assert_eq!(kind("/lxc/web"), "container");
    }
}
