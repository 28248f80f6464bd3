//! Workloads: the containers, services and slices that the host's cgroups belong to. A cgroup gets
//! the identity that an engine reports, and is exposed with or without one.
//!
//! A container's cgroup is found through its first process, `/proc/PID/cgroup`, once per start.
//! This works for every driver, version, parent and nesting. If no engine reports the process, the
//! ID in the cgroup's name is used.

mod domain;
mod unnamed;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

pub use domain::WorkloadDomain;
pub use unnamed::UnnamedCause;

use super::{
    Roots,
    cgroup::{Cgroup, CgroupReader},
    clock, dir,
    engine::{
        Container, ContainersById, Engine, EngineKind, Engines, dedup_by_id, is_container_id,
    },
    libvirt::RunningDomain,
};
use crate::{duration, error::Result, pattern::Pattern};

/// Cgroups exposed in addition to containers: the whole host; the slices of system, users and
/// machines; services; and virtual machines, also where libvirt creates their cgroups without
/// systemd-machined. Cgroups in the machines' slice that supervise Podman's containers are not
/// included.
const DEFAULT_INCLUDE: &str = r"^/$|^/(system|user|machine)\.slice$|^/(system|user)\.slice/(.*/)?[^/]+\.service$|^/machine\.slice/(machine-[^/]+\.scope|[^/]+\.service)$|^/machine(/[^/]+\.libvirt-[^/]+)?$";

/// Maximum number of removed workloads that are remembered.
const MAX_GONE: usize = 10_000;

/// Which cgroups to expose.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct WorkloadFlags {
    /// Cgroups to expose in addition to those of containers, as a regular expression for their
    /// paths.
    #[arg(long = "cgroup.include", value_name = "REGEX", default_value = DEFAULT_INCLUDE)]
    pub cgroup_include: Pattern,
    /// Cgroups never to expose, including those of containers.
    #[arg(long = "cgroup.exclude", value_name = "REGEX", default_value = "")]
    pub cgroup_exclude: Pattern,
    /// How long to expose when a container or service was last seen after it is gone.
    #[arg(long = "cgroup.grace", value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub cgroup_grace: Duration,
}

impl Default for WorkloadFlags {
    fn default() -> Self {
        Self {
            cgroup_include: DEFAULT_INCLUDE.parse().unwrap_or_default(),
            cgroup_exclude: Pattern::default(),
            cgroup_grace: Duration::from_secs(300),
        }
    }
}

/// A cgroup that is exposed, or a container without one.
#[derive(Debug)]
pub struct Workload {
    /// Path of its cgroup; for a container that is not running, the path it had or would have.
    pub path: String,
    /// Its cgroup, while it exists.
    pub cgroup: Option<Arc<Cgroup>>,
    /// The container as reported by an engine, and the kind of engine.
    pub container: Option<(EngineKind, Arc<Container>)>,
    /// Runtime and ID parsed from the path.
    pub runtime_id: Option<RuntimeId>,
    /// The domain in it.
    pub domain: Option<WorkloadDomain>,
    cached_labels: OnceLock<Arc<str>>,
}

impl Workload {
    /// Returns the engine's ID, or the path.
    fn identity(&self) -> &str {
        match (&self.container, &self.runtime_id) {
            (Some((_, container)), _) => &container.id,
            // LXC's IDs are names.
            (None, Some(runtime_id)) if runtime_id.runtime != Runtime::Lxc => &runtime_id.id,
            _ => &self.path,
        }
    }

    /// Returns a copy without the cgroup, to remember it after removal: the cgroup's open files
    /// would otherwise keep it alive in the kernel.
    fn without_cgroup(&self) -> Self {
        Self {
            path: self.path.clone(),
            cgroup: None,
            container: self.container.clone(),
            runtime_id: self.runtime_id.clone(),
            domain: self.domain.clone(),
            cached_labels: self.cached_labels.clone(),
        }
    }

    /// Returns its rendered labels, which are created once.
    pub fn cached_labels(&self, create: impl FnOnce(&Self) -> Arc<str>) -> &Arc<str> {
        self.cached_labels.get_or_init(|| create(self))
    }

    /// Creates a workload from its parts, for tests.
    #[cfg(test)]
    pub(crate) fn from_parts(
        path: &str,
        group: Option<Arc<Cgroup>>,
        container: Option<Container>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            cgroup: group,
            container: container.map(|container| (EngineKind::Docker, Arc::new(container))),
            runtime_id: RuntimeId::from_cgroup_path(path),
            domain: WorkloadDomain::from_cgroup_path(path),
            cached_labels: OnceLock::new(),
        })
    }

    /// Whether it equals a workload of these parts.
    fn is_unchanged(
        &self,
        group: Option<&Arc<Cgroup>>,
        container: Option<&(EngineKind, Arc<Container>)>,
        domain: Option<&WorkloadDomain>,
    ) -> bool {
        let is_same_cgroup = match (&self.cgroup, group) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        is_same_cgroup
            && self.domain.as_ref() == domain
            && match (&self.container, container) {
                (Some((_, a)), Some((_, b))) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
    }
}

/// Runtime and ID of a container, parsed from its cgroup path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeId {
    /// The runtime that created it.
    pub runtime: Runtime,
    /// The runtime's ID: 64 hexadecimal digits for most, a name for LXC.
    pub id: String,
}

/// Container runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd without Docker.
    Containerd,
    /// CRI-O.
    CriO,
    /// LXC.
    Lxc,
    /// Not recognizable from the path.
    Unknown,
}

impl Runtime {
    /// Name of the runtime; `None` if unknown.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Lxc => "lxc",
            Self::Unknown => return None,
        })
    }
}

impl RuntimeId {
    /// Parses a cgroup path.
    #[must_use]
    pub fn from_cgroup_path(path: &str) -> Option<Self> {
        let (parent, name) = path.rsplit_once('/')?;
        let parent = parent.rsplit('/').next().unwrap_or_default();
        let runtime_id = |runtime, id: &str| {
            let id = id.to_owned();
            Some(Self { runtime, id })
        };
        if let Some(name) = name.strip_prefix("lxc.payload.") {
            return runtime_id(Runtime::Lxc, name);
        }
        if matches!(parent, "lxc" | "lxc.payload") && !name.is_empty() {
            return runtime_id(Runtime::Lxc, name);
        }
        let name = name.strip_suffix(".scope").unwrap_or(name);
        // The kubelet uses the systemd cgroup driver, containerd does not: `SLICE:MAKER:ID`.
        let (prefix, id) = match name.rsplit_once(':') {
            Some((slice, id)) => (slice.rsplit(':').next().unwrap_or_default(), id),
            None => name.rsplit_once('-').unwrap_or(("", name)),
        };
        if !is_container_id(id) {
            return None;
        }
        let runtime = match prefix {
            "docker" => Runtime::Docker,
            "" if parent == "docker" => Runtime::Docker,
            // A pod, whose containers are below it.
            "" if parent == "libpod_parent" => return None,
            "libpod" | "libpod-payload" => Runtime::Podman,
            "cri-containerd" | "nerdctl" => Runtime::Containerd,
            "crio" => Runtime::CriO,
            "" => Runtime::Unknown,
            // Helpers of a container have its ID too: `libpod-conmon-…`.
            _ => return None,
        };
        runtime_id(runtime, id)
    }
}

/// All workloads of one scrape.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Existing workloads, and containers that engines report without a cgroup, sorted by path.
    pub all: Vec<Arc<Workload>>,
    /// Removed workloads, each with the time it was last seen, since the Unix epoch.
    pub gone: Vec<(Arc<Workload>, Duration)>,
    /// State of the engines.
    pub engines: Arc<Vec<Arc<Engine>>>,
}

impl Inventory {
    /// Returns the workloads that have a cgroup.
    pub fn present(&self) -> impl Iterator<Item = (&Arc<Workload>, &Arc<Cgroup>)> {
        self.all
            .iter()
            .filter_map(|workload| Some((workload, workload.cgroup.as_ref()?)))
    }

    /// Returns existing containers and virtual machines with their IDs in the history: the
    /// engine's ID, which the path contains too while the engine is unavailable, or the path where
    /// no engine has an ID. Each ID occurs once.
    #[must_use]
    pub fn identified(&self) -> Vec<(&str, &Arc<Workload>, &Arc<Cgroup>)> {
        let (named, unnamed): (Vec<_>, Vec<_>) = self
            .present()
            .filter(|(workload, _)| {
                workload.container.is_some()
                    || workload.runtime_id.is_some()
                    || workload.domain.is_some()
            })
            .partition(|(workload, _)| workload.container.is_some());
        let mut seen = BTreeSet::new();
        let all = named.into_iter().chain(unnamed);
        // Several cgroups may have the same ID if an earlier run left one over.
        all.map(|(workload, group)| (workload.identity(), workload, group))
            .filter(|(id, ..)| seen.insert(*id))
            .collect()
    }

    /// Returns the containers that any engine reports, each once.
    pub fn containers(
        &self,
    ) -> impl Iterator<Item = (&Arc<Workload>, EngineKind, &Arc<Container>)> {
        self.all.iter().filter_map(|workload| {
            let (kind, container) = workload.container.as_ref()?;
            Some((workload, *kind, container))
        })
    }
}

/// Discovers workloads, with state kept between scrapes.
#[derive(Debug)]
pub(super) struct Workloads {
    flags: WorkloadFlags,
    cache: Mutex<WorkloadCache>,
}

#[derive(Debug, Default)]
struct WorkloadCache {
    /// Workloads of the last scan, by path.
    last: HashMap<String, Arc<Workload>>,
    /// Cgroup of each container, by ID: the process that was looked up, and its path.
    container_cgroups: HashMap<String, (u32, Option<String>)>,
    gone: BTreeMap<String, GoneWorkload>,
    /// Time of the last scan, since the Unix epoch.
    last_scan: Option<Duration>,
}

#[derive(Debug)]
struct GoneWorkload {
    workload: Arc<Workload>,
    last_seen: Duration,
    noticed_at: Instant,
}

impl Workloads {
    pub(super) fn new(flags: WorkloadFlags) -> Self {
        Self {
            flags,
            cache: Mutex::default(),
        }
    }

    /// Returns all workloads at this time.
    pub(super) fn discover(
        &self,
        roots: &Roots,
        cgroups: &CgroupReader,
        engines: &Engines,
        domains: &[RunningDomain],
    ) -> Result<Inventory> {
        self.join(
            &engines.engines(),
            domains,
            |pid, id| read_cgroup_path(roots, pid, id),
            |filter| cgroups.walk(filter),
            |id| engines.request_inspect(id),
        )
    }

    /// Returns the containers that engines report, for hosts whose cgroups cannot be read. Does
    /// not wait.
    pub(super) fn inventory_from_engines(&self, engines: Arc<Vec<Arc<Engine>>>) -> Inventory {
        let workloads = dedup_by_id(engines.iter().map(|engine| &**engine));
        let workloads = workloads.into_values().map(|(engine, container)| {
            let path = engine.expected_cgroup_path(container);
            Arc::new(Workload {
                runtime_id: RuntimeId::from_cgroup_path(&path),
                path,
                cgroup: None,
                container: Some((engine.kind_or_default(), Arc::clone(container))),
                domain: None,
                cached_labels: OnceLock::new(),
            })
        });
        let visible =
            workloads.filter(|workload| !self.flags.cgroup_exclude.matches(&workload.path));
        let mut all: Vec<_> = visible.collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Inventory {
            all,
            gone: Vec::new(),
            engines,
        }
    }

    /// Returns how long a removed workload is remembered.
    pub(super) fn grace(&self) -> Duration {
        self.flags.cgroup_grace
    }

    /// Returns the cgroup paths of containers that a flag hides.
    pub(super) fn hidden_cgroups(&self, roots: &Roots) -> Result<Vec<String>> {
        let is_hidden = |path: &str| {
            self.flags.cgroup_exclude.matches(path) && RuntimeId::from_cgroup_path(path).is_some()
        };
        // A separate reader: a walk drops cached cgroups that do not pass its filter.
        let groups = CgroupReader::new(roots).walk(is_hidden)?;
        Ok(groups.iter().map(|group| group.path().to_owned()).collect())
    }

    /// Joins the containers and domains that engines and libvirt report with the host's cgroups:
    /// `read_path` returns the cgroup of a process, `walk` lists the cgroups that pass a filter,
    /// and `report_unknown` is called with IDs that no engine reported.
    fn join(
        &self,
        engines: &Arc<Vec<Arc<Engine>>>,
        domains: &[RunningDomain],
        read_path: impl Fn(u32, &str) -> Option<String>,
        walk: impl FnOnce(&dyn Fn(&str) -> bool) -> Result<Vec<Arc<Cgroup>>>,
        report_unknown: impl Fn(&str),
    ) -> Result<Inventory> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let containers = dedup_by_id(engines.iter().map(|engine| &**engine));
        cache.locate_containers(&containers, read_path);

        let mut by_path: HashMap<&str, (&Engine, &Arc<Container>)> = HashMap::new();
        for (id, entry) in &containers {
            if let Some(path) = cache.container_path(id) {
                by_path.entry(path).or_insert(*entry);
            }
        }
        let is_excluded = |path: &str| self.flags.cgroup_exclude.matches(path);
        let filter = |path: &str| {
            !is_excluded(path)
                && (by_path.contains_key(path)
                    || self.flags.cgroup_include.matches(path)
                    || RuntimeId::from_cgroup_path(path).is_some())
        };
        let groups = walk(&filter)?;

        let mut all = Vec::with_capacity(groups.len().max(containers.len()));
        let mut found = BTreeSet::new();
        for group in groups {
            let runtime_id = RuntimeId::from_cgroup_path(group.path());
            let entry = by_path.get(group.path()).copied().or_else(|| {
                let id = runtime_id.as_ref()?.id.as_str();
                // The path of its process takes precedence. A container has one cgroup, even where
                // an earlier run left others over.
                let is_located = cache.container_path(id).is_some() || found.contains(id);
                containers.get(id).copied().filter(|_| !is_located)
            });
            match (entry, &runtime_id) {
                (Some((_, container)), _) => {
                    found.insert(container.id.clone());
                }
                (None, Some(runtime_id))
                    if runtime_id.runtime != Runtime::Lxc
                        && !containers.contains_key(runtime_id.id.as_str()) =>
                {
                    report_unknown(&runtime_id.id);
                }
                _ => {}
            }
            let container =
                entry.map(|(engine, container)| (engine.kind_or_default(), Arc::clone(container)));
            let path = group.path().to_owned();
            let domain = WorkloadDomain::from_cgroup_path(&path)
                .map(|domain| domain.with_libvirt_identity(domains));
            all.push(cache.reuse_or_create(path, Some(group), container, domain, || runtime_id));
        }
        // Containers without a cgroup.
        for (id, (engine, container)) in &containers {
            if found.contains(*id) {
                continue;
            }
            let path = cache
                .container_path(id)
                .map_or_else(|| engine.expected_cgroup_path(container), str::to_owned);
            if !is_excluded(&path) {
                let container = Some((engine.kind_or_default(), Arc::clone(container)));
                all.push(
                    cache.reuse_or_create(path.clone(), None, container, None, || {
                        RuntimeId::from_cgroup_path(&path)
                    }),
                );
            }
        }
        drop(by_path);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        cache.update(&all, self.flags.cgroup_grace);
        let gone = cache.gone.values();
        Ok(Inventory {
            gone: gone
                .map(|gone| (Arc::clone(&gone.workload), gone.last_seen))
                .collect(),
            all,
            engines: Arc::clone(engines),
        })
    }
}

impl WorkloadCache {
    /// Looks up the cgroups of containers with a new process. The path is kept after the container
    /// exits, so that its series keep their name, and also if it restarted and the new process has
    /// ended as well.
    fn locate_containers(
        &mut self,
        containers: &ContainersById<'_>,
        read_path: impl Fn(u32, &str) -> Option<String>,
    ) {
        self.container_cgroups
            .retain(|id, _| containers.contains_key(id.as_str()));
        for (id, (_, container)) in containers {
            let Some(pid) = container.pid else {
                continue;
            };
            let cached = self.container_cgroups.get(*id);
            if cached.is_none_or(|(cached, _)| *cached != pid) {
                let path = read_path(pid, id).or_else(|| cached?.1.clone());
                self.container_cgroups.insert((*id).to_owned(), (pid, path));
            }
        }
    }

    /// Returns the cgroup path of a container, if it was found before.
    fn container_path(&self, id: &str) -> Option<&str> {
        self.container_cgroups.get(id)?.1.as_deref()
    }

    /// Returns the previous workload if it is unchanged, else a new one.
    fn reuse_or_create(
        &self,
        path: String,
        group: Option<Arc<Cgroup>>,
        container: Option<(EngineKind, Arc<Container>)>,
        domain: Option<WorkloadDomain>,
        runtime_id: impl FnOnce() -> Option<RuntimeId>,
    ) -> Arc<Workload> {
        match self.last.get(&path) {
            Some(last)
                if last.is_unchanged(group.as_ref(), container.as_ref(), domain.as_ref()) =>
            {
                Arc::clone(last)
            }
            _ => Arc::new(Workload {
                runtime_id: runtime_id(),
                path,
                cgroup: group,
                container,
                domain,
                cached_labels: OnceLock::new(),
            }),
        }
    }

    /// Stores the current workloads, and remembers the ones that were removed.
    fn update(&mut self, all: &[Arc<Workload>], grace: Duration) {
        let now = clock::unix_time().unwrap_or_default();
        let present = all.iter().filter(|workload| workload.cgroup.is_some());
        let present: BTreeSet<&str> = present.map(|workload| workload.path.as_str()).collect();
        let last = std::mem::take(&mut self.last);
        let disappeared = last.into_iter().filter(|(path, workload)| {
            workload.cgroup.is_some() && !present.contains(path.as_str())
        });
        for (path, workload) in disappeared {
            let gone = GoneWorkload {
                workload: Arc::new(workload.without_cgroup()),
                last_seen: self.last_scan.unwrap_or(now),
                noticed_at: Instant::now(),
            };
            self.gone.insert(path, gone);
        }
        // A stopped container may have been renamed.
        for workload in all.iter().filter(|workload| workload.cgroup.is_none()) {
            if let Some(gone) = self.gone.get_mut(&workload.path) {
                gone.workload = Arc::clone(workload);
            }
        }
        self.gone.retain(|path, gone| {
            !present.contains(path.as_str()) && gone.noticed_at.elapsed() < grace
        });
        while self.gone.len() > MAX_GONE {
            self.gone.pop_first();
        }
        let present = all
            .iter()
            .map(|workload| (workload.path.clone(), Arc::clone(workload)));
        self.last = present.collect();
        self.last_scan = Some(now);
    }
}

/// Returns the cgroup of a container's first process from `/proc/PID/cgroup`, documented in
/// `cgroups(7)`. `None` if the process ended or is in the root cgroup.
fn read_cgroup_path(roots: &Roots, pid: u32, id: &str) -> Option<String> {
    let text = dir::read(&roots.procfs.join(format!("{pid}/cgroup"))).ok()?;
    parse_cgroup_path(text.body(), id)
}

/// Selects the relevant one of the lines `hierarchy:controllers:path` and cuts it off after the
/// component with the container's ID: cgroups below it were created by the container.
///
/// A path without the ID does not belong to the container: it has no cgroup (`--cgroups=disabled`)
/// and is in another one, or the process ID was reused or belongs to another PID namespace, as
/// with an engine that runs in a container.
fn parse_cgroup_path(cgroup: &str, id: &str) -> Option<String> {
    let lines = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let mut best: Option<(usize, &str)> = None;
    for (controllers, path) in lines {
        let rank = controllers.split(',').filter_map(|controller| {
            let preferred = ["memory", "cpu", "pids", ""];
            preferred.iter().position(|name| *name == controller)
        });
        if let Some(rank) = rank.min()
            && best.is_none_or(|(other, _)| rank < other)
        {
            best = Some((rank, path));
        }
    }
    let (_, path) = best?;
    let mut prefix = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        prefix.push('/');
        prefix.push_str(part);
        if part.contains(id) {
            // A path that begins with `/..` is outside of this cgroup namespace.
            return (!prefix.starts_with("/..")).then_some(prefix);
        }
    }
    None
}

/// A running container with no other data, for tests.
#[cfg(test)]
pub(crate) fn container(id: &str, name: &str) -> Container {
    Container {
        id: id.to_owned(),
        name: name.to_owned(),
        image: String::new(),
        image_id: String::new(),
        labels: Vec::new(),
        state: super::engine::ContainerState::Running,
        pid: None,
        cgroup_parent: None,
        restart_count: None,
        exit_code: None,
        oom_events: 0,
        health: None,
        created: None,
        started: None,
        finished: None,
        memory_limit: None,
    }
}

/// A Docker engine that is up and has these containers, for tests.
#[cfg(test)]
pub(crate) fn engine(containers: impl IntoIterator<Item = Container>) -> Engine {
    let containers = containers.into_iter();
    Engine {
        socket: "/run/docker.sock".into(),
        kind: Some(EngineKind::Docker),
        version: None,
        api_version: None,
        cgroup_driver: None,
        up: true,
        error: None,
        confirmed: Some(Instant::now()),
        connections: 1,
        requests: 0,
        events: 0,
        containers: containers
            .map(|container| (container.id.clone(), Arc::new(container)))
            .collect(),
        images: Some(Arc::default()),
        disk_usage: None,
        disk_usage_failures: 0,
    }
}

#[cfg(test)]
mod join_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::cgroup::testing::TempTree;

    const ID: &str = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899";

    #[test]
    fn container_id_is_parsed_from_path_of_each_runtime() {
        for (path, runtime) in [
            (format!("/docker/{ID}"), Some(Runtime::Docker)),
            (
                format!("/system.slice/docker-{ID}.scope"),
                Some(Runtime::Docker),
            ),
            (
                format!("/machine.slice/libpod-{ID}.scope"),
                Some(Runtime::Podman),
            ),
            (format!("/libpod_parent/libpod-{ID}"), Some(Runtime::Podman)),
            (
                format!("/kubepods.slice/x.slice/cri-containerd-{ID}.scope"),
                Some(Runtime::Containerd),
            ),
            (
                format!("/kubepods.slice/crio-{ID}.scope"),
                Some(Runtime::CriO),
            ),
            (
                format!("/kubepods/besteffort/pod1/{ID}"),
                Some(Runtime::Unknown),
            ),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), None),
            (format!("/docker/{ID}/init.scope"), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), None),
            ("/docker/3f4e".to_owned(), None),
            ("/".to_owned(), None),
        ] {
            let runtime_id = RuntimeId::from_cgroup_path(&path);
            assert_eq!(
                runtime_id.as_ref().map(|runtime_id| runtime_id.runtime),
                runtime,
                "{path}"
            );
            assert!(
                runtime_id.is_none_or(|runtime_id| runtime_id.id == ID),
                "{path}"
            );
        }
        let lxc = RuntimeId::from_cgroup_path("/lxc.payload.web-1").unwrap();
        assert_eq!((lxc.runtime, lxc.id.as_str()), (Runtime::Lxc, "web-1"));
        assert_eq!(RuntimeId::from_cgroup_path("/lxc/web").unwrap().id, "web");
        assert_eq!(RuntimeId::from_cgroup_path("/lxc.monitor.web"), None);
    }

    #[test]
    fn memory_hierarchy_takes_precedence_in_proc_cgroup() {
        let v1 = format!("9:name=systemd:/x\n4:memory:/docker/{ID}\n2:cpu,cpuacct:/other\n0::/\n");
        assert_eq!(parse_cgroup_path(&v1, ID), Some(format!("/docker/{ID}")));
        let inside = format!("0::/system.slice/docker-{ID}.scope/init.scope\n");
        let scope = format!("/system.slice/docker-{ID}.scope");
        assert_eq!(parse_cgroup_path(&inside, ID), Some(scope));
        for text in ["0::/\n", "", "x\n"] {
            assert_eq!(parse_cgroup_path(text, ID), None, "{text:?}");
        }
        assert_eq!(
            parse_cgroup_path(&format!("0::/../../docker/{ID}\n"), ID),
            None
        );
    }

    #[test]
    fn process_in_foreign_cgroup_does_not_name_it() {
        let session = "0::/user.slice/user-1000.slice/session-1.scope\n";
        assert_eq!(parse_cgroup_path(session, ID), None);
        let other = format!("0::/docker/{}\n", ID.replace('3', "4"));
        assert_eq!(parse_cgroup_path(&other, ID), None);
    }

    #[test]
    fn default_include_matches_services_and_slices_only() {
        let WorkloadFlags { cgroup_include, .. } = WorkloadFlags::default();
        for path in [
            "/",
            "/system.slice",
            "/user.slice",
            "/system.slice/ssh.service",
            "/system.slice/system-getty.slice/getty@tty1.service",
            "/user.slice/user-0.slice/user@0.service",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope",
            "/machine.slice/systemd-nspawn@web.service",
            "/machine",
            "/machine/qemu-1-web.libvirt-qemu",
        ] {
            assert!(cgroup_include.matches(path), "{path}");
        }
        for path in [
            "/system.slice/tmp.mount",
            "/init.scope",
            "/system.slice/a.service/b",
            r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator",
            "/machine/qemu-1-web.libvirt-qemu/vcpu0",
        ] {
            assert!(!cgroup_include.matches(path), "{path}");
        }
    }

    #[test]
    fn history_ids_are_unique_and_prefer_the_engine() {
        let tree = TempTree::new("workloads-identified");
        tree.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        let domain = "/machine/qemu-7-web.libvirt-qemu";
        let (left_over, renamed) = (format!("/a/{ID}"), "/z/renamed");
        let other = ID.replace('3', "4");
        let unknown = format!("/docker/{other}");
        let paths = [
            &left_over,
            domain,
            renamed,
            &unknown,
            "/lxc/web",
            "/system.slice",
        ];
        for path in paths {
            tree.write(&format!("sys/fs/cgroup{path}/cgroup.procs"), "");
        }
        let groups = CgroupReader::new(&tree.roots()).walk(|path| paths.contains(&path));
        let all = groups.unwrap().into_iter().map(|group| {
            let path = group.path().to_owned();
            let container = (path == renamed).then(|| container(ID, "web"));
            Workload::from_parts(&path, Some(group), container)
        });
        let inventory = Inventory {
            all: all.collect(),
            ..Inventory::default()
        };
        let ids = inventory.identified();
        let ids: Vec<_> = ids
            .iter()
            .map(|(id, workload, _)| (*id, workload.path.as_str()))
            .collect();
        let expected = [
            (ID, renamed),
            (&*other, &*unknown),
            ("/lxc/web", "/lxc/web"),
            (domain, domain),
        ];
        assert_eq!(ids, expected);
    }

    #[test]
    fn domain_gets_its_full_name_once_libvirt_reports_it() {
        let path = "/machine/qemu-7-web1.libvirt-qemu";
        let mut cache = WorkloadCache::default();
        let create = |cache: &WorkloadCache, domains: &[RunningDomain]| {
            let domain = WorkloadDomain::from_cgroup_path(path)
                .map(|domain| domain.with_libvirt_identity(domains));
            cache.reuse_or_create(path.to_owned(), None, None, domain, || None)
        };
        let first = create(&cache, &[]);
        cache.last.insert(path.to_owned(), Arc::clone(&first));
        assert!(Arc::ptr_eq(&first, &create(&cache, &[])));
        let reported = RunningDomain {
            id: 7,
            name: "web_1".to_owned(),
            uuid: "u".to_owned(),
        };
        let named = create(&cache, &[reported]);
        assert_eq!(named.domain.as_ref().unwrap().name, "web_1");
    }
}
