//! What the machine's control groups are: containers, services, slices. A group gets the
//! identity that an engine has for it, and is shown whether it has one or not.
//!
//! A container's group is found through its first process, `/proc/PID/cgroup`, once for
//! each start: that holds for any driver, version, parent and nesting. Where an engine
//! does not say which process it is, the id in the group's name will do.

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

/// The groups that are shown beside those of containers: the whole machine, the slices of
/// system, users and machines, services, and machines, also where libvirt puts them without
/// systemd-machined, but not those in the machines' slice who look after Podman's
/// containers.
const DEFAULT_INCLUDE: &str = r"^/$|^/(system|user|machine)\.slice$|^/(system|user)\.slice/(.*/)?[^/]+\.service$|^/machine\.slice/(machine-[^/]+\.scope|[^/]+\.service)$|^/machine(/[^/]+\.libvirt-[^/]+)?$";

/// Of groups that are gone, no more than this many are remembered.
const MAX_GONE: usize = 10_000;

/// Which control groups to show.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Control groups to show beside those of containers, by their paths: a regular
    /// expression.
    #[arg(long = "cgroup.include", value_name = "REGEX", default_value = DEFAULT_INCLUDE)]
    pub cgroup_include: Pattern,
    /// Control groups never to show, those of containers among them.
    #[arg(long = "cgroup.exclude", value_name = "REGEX", default_value = "")]
    pub cgroup_exclude: Pattern,
    /// How long to say when a container or service was last seen, once it is gone.
    #[arg(long = "cgroup.grace", value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub cgroup_grace: Duration,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            cgroup_include: DEFAULT_INCLUDE.parse().unwrap_or_default(),
            cgroup_exclude: Pattern::default(),
            cgroup_grace: Duration::from_secs(300),
        }
    }
}

/// A control group that is shown, or a container that has none now.
#[derive(Debug)]
pub struct Workload {
    /// The path of its group; of a container that does not run, the path that it had or
    /// would have.
    pub path: String,
    /// Its group, while there is one.
    pub cgroup: Option<Arc<Cgroup>>,
    /// What an engine says of it, and which.
    pub container: Option<(EngineKind, Arc<Container>)>,
    /// What its path says of it.
    pub runtime_id: Option<RuntimeId>,
    /// The virtual machine in it.
    pub domain: Option<WorkloadDomain>,
    cached_labels: OnceLock<Arc<str>>,
}

impl Workload {
    /// The engine's id, or the path.
    fn identity(&self) -> &str {
        match (&self.container, &self.runtime_id) {
            (Some((_, container)), _) => &container.id,
            // LXC's are names.
            (None, Some(handle)) if handle.runtime != Runtime::Lxc => &handle.id,
            _ => &self.path,
        }
    }

    /// What is remembered of it when it is gone: its group's open files would go on being
    /// held, and with them what the kernel still has of the group.
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

    /// A place for the text that stands for it everywhere, which is made once.
    pub fn cached_labels(&self, make: impl FnOnce(&Self) -> Arc<str>) -> &Arc<str> {
        self.cached_labels.get_or_init(|| make(self))
    }

    /// One made of parts, for tests.
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

    /// Whether it is what the arguments say.
    fn is_unchanged(
        &self,
        group: Option<&Arc<Cgroup>>,
        container: Option<&(EngineKind, Arc<Container>)>,
        domain: Option<&WorkloadDomain>,
    ) -> bool {
        let same_group = match (&self.cgroup, group) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (None, None) => true,
            _ => false,
        };
        same_group
            && self.domain.as_ref() == domain
            && match (&self.container, container) {
                (Some((_, ours)), Some((_, theirs))) => Arc::ptr_eq(ours, theirs),
                (None, None) => true,
                _ => false,
            }
    }
}

/// What the path of a control group says of the container in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeId {
    /// Who made it.
    pub runtime: Runtime,
    /// What that one calls it: for most 64 hexadecimal digits, for LXC a name.
    pub id: String,
}

/// Who makes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd by itself.
    Containerd,
    /// CRI-O.
    CriO,
    /// LXC.
    Lxc,
    /// The path does not tell.
    Unknown,
}

impl Runtime {
    /// Its name; nothing where the path does not tell.
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
    /// What this path says.
    #[must_use]
    pub fn from_cgroup_path(path: &str) -> Option<Self> {
        let (parent, name) = path.rsplit_once('/')?;
        let parent = parent.rsplit('/').next().unwrap_or_default();
        let handle = |runtime, id: &str| {
            let id = id.to_owned();
            Some(Self { runtime, id })
        };
        if let Some(name) = name.strip_prefix("lxc.payload.") {
            return handle(Runtime::Lxc, name);
        }
        if matches!(parent, "lxc" | "lxc.payload") && !name.is_empty() {
            return handle(Runtime::Lxc, name);
        }
        let name = name.strip_suffix(".scope").unwrap_or(name);
        // Where the kubelet means slices and containerd does not: `SLICE:MAKER:ID`.
        let (maker, id) = match name.rsplit_once(':') {
            Some((slice, id)) => (slice.rsplit(':').next().unwrap_or_default(), id),
            None => name.rsplit_once('-').unwrap_or(("", name)),
        };
        if !is_container_id(id) {
            return None;
        }
        let runtime = match maker {
            "docker" => Runtime::Docker,
            "" if parent == "docker" => Runtime::Docker,
            // A pod: its containers are in it.
            "" if parent == "libpod_parent" => return None,
            "libpod" | "libpod-payload" => Runtime::Podman,
            "cri-containerd" | "nerdctl" => Runtime::Containerd,
            "crio" => Runtime::CriO,
            "" => Runtime::Unknown,
            // Those who look after a container have its id too: `libpod-conmon-…`.
            _ => return None,
        };
        handle(runtime, id)
    }
}

/// Everything that is shown, in one scrape.
#[derive(Debug, Default)]
pub struct Inventory {
    /// What is there, and the containers that engines know and that have no group, sorted
    /// by path.
    pub all: Vec<Arc<Workload>>,
    /// What is gone, and when it was last there, from 1970 on.
    pub gone: Vec<(Arc<Workload>, Duration)>,
    /// What the engines said.
    pub engines: Arc<Vec<Arc<Engine>>>,
}

impl Inventory {
    /// Those that have a group now.
    pub fn present(&self) -> impl Iterator<Item = (&Arc<Workload>, &Arc<Cgroup>)> {
        self.all
            .iter()
            .filter_map(|workload| Some((workload, workload.cgroup.as_ref()?)))
    }

    /// Containers and virtual machines that are there, and the id of each in the history:
    /// the engine's, which is in the path too where the engine cannot be asked; of what no
    /// engine has an id for, the path. Each id is there once.
    #[must_use]
    pub fn identified(&self) -> Vec<(&str, &Arc<Workload>, &Arc<Cgroup>)> {
        let (known, unknown): (Vec<_>, Vec<_>) = self
            .present()
            .filter(|(it, _)| {
                it.container.is_some() || it.runtime_id.is_some() || it.domain.is_some()
            })
            .partition(|(workload, _)| workload.container.is_some());
        let mut seen = BTreeSet::new();
        let all = known.into_iter().chain(unknown);
        // Of the groups that an earlier run left over there may be several with one id.
        all.map(|(workload, group)| (workload.identity(), workload, group))
            .filter(|(id, ..)| seen.insert(*id))
            .collect()
    }

    /// Containers that some engine knows, each once.
    pub fn containers(
        &self,
    ) -> impl Iterator<Item = (&Arc<Workload>, EngineKind, &Arc<Container>)> {
        self.all.iter().filter_map(|workload| {
            let (kind, container) = workload.container.as_ref()?;
            Some((workload, *kind, container))
        })
    }
}

/// Looks at the control groups, and remembers from scrape to scrape.
#[derive(Debug)]
pub(super) struct Workloads {
    flags: Flags,
    cache: Mutex<WorkloadCache>,
}

#[derive(Debug, Default)]
struct WorkloadCache {
    /// What was there last, by path.
    last: HashMap<String, Arc<Workload>>,
    /// Where the containers are, by id: the process that was looked up, and the path.
    container_cgroups: HashMap<String, (u32, Option<String>)>,
    gone: BTreeMap<String, GoneWorkload>,
    /// When it was last looked, from 1970 on.
    last_scan: Option<Duration>,
}

#[derive(Debug)]
struct GoneWorkload {
    workload: Arc<Workload>,
    last_seen: Duration,
    noticed_at: Instant,
}

impl Workloads {
    pub(super) fn new(flags: Flags) -> Self {
        Self {
            flags,
            cache: Mutex::default(),
        }
    }

    /// Everything that is to be shown now.
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
            |wanted| cgroups.walk(wanted),
            |id| engines.request_inspect(id),
        )
    }

    /// What engines know, where control groups cannot be seen. Nothing is waited for.
    pub(super) fn inventory_from_engines(&self, engines: Arc<Vec<Arc<Engine>>>) -> Inventory {
        let known = dedup_by_id(engines.iter().map(|engine| &**engine));
        let known = known.into_values().map(|(engine, container)| {
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
        let shown = known.filter(|it| !self.flags.cgroup_exclude.matches(&it.path));
        let mut all: Vec<_> = shown.collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Inventory {
            all,
            gone: Vec::new(),
            engines,
        }
    }

    /// How long something is remembered that is gone.
    pub(super) fn grace(&self) -> Duration {
        self.flags.cgroup_grace
    }

    /// The paths of the groups of containers that a flag hides.
    pub(super) fn hidden_cgroups(&self, roots: &Roots) -> Result<Vec<String>> {
        let is_hidden = |path: &str| {
            self.flags.cgroup_exclude.matches(path) && RuntimeId::from_cgroup_path(path).is_some()
        };
        // Not with those that are kept: of these the walk forgets what it does not want.
        let groups = CgroupReader::new(roots).walk(is_hidden)?;
        Ok(groups.iter().map(|group| group.path().to_owned()).collect())
    }

    /// Joins what engines and libvirt know with the groups that there are: `place` says which group a
    /// process is in, `walk` lists those that are wanted, and `unknown` hears of ids that
    /// no engine told of.
    fn join(
        &self,
        known: &Arc<Vec<Arc<Engine>>>,
        domains: &[RunningDomain],
        read_path: impl Fn(u32, &str) -> Option<String>,
        walk: impl FnOnce(&dyn Fn(&str) -> bool) -> Result<Vec<Arc<Cgroup>>>,
        unknown: impl Fn(&str),
    ) -> Result<Inventory> {
        let mut kept = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let containers = dedup_by_id(known.iter().map(|engine| &**engine));
        kept.locate_containers(&containers, read_path);

        let mut at: HashMap<&str, (&Engine, &Arc<Container>)> = HashMap::new();
        for (id, entry) in &containers {
            if let Some(path) = kept.container_path(id) {
                at.entry(path).or_insert(*entry);
            }
        }
        let excluded = |path: &str| self.flags.cgroup_exclude.matches(path);
        let wanted = |path: &str| {
            !excluded(path)
                && (at.contains_key(path)
                    || self.flags.cgroup_include.matches(path)
                    || RuntimeId::from_cgroup_path(path).is_some())
        };
        let groups = walk(&wanted)?;

        let mut all = Vec::with_capacity(groups.len().max(containers.len()));
        let mut found = BTreeSet::new();
        for group in groups {
            let handle = RuntimeId::from_cgroup_path(group.path());
            let entry = at.get(group.path()).copied().or_else(|| {
                let id = handle.as_ref()?.id.as_str();
                // Where its process is known, that is where it is; and it is in one
                // place, even where the groups of an earlier run are left over.
                let is_elsewhere = kept.container_path(id).is_some() || found.contains(id);
                containers.get(id).copied().filter(|_| !is_elsewhere)
            });
            match (entry, &handle) {
                (Some((_, container)), _) => {
                    found.insert(container.id.clone());
                }
                (None, Some(handle))
                    if handle.runtime != Runtime::Lxc
                        && !containers.contains_key(handle.id.as_str()) =>
                {
                    unknown(&handle.id);
                }
                _ => {}
            }
            let container =
                entry.map(|(engine, container)| (engine.kind_or_default(), Arc::clone(container)));
            let path = group.path().to_owned();
            let guest = WorkloadDomain::from_cgroup_path(&path)
                .map(|guest| guest.with_libvirt_identity(domains));
            all.push(kept.reuse_or_create(path, Some(group), container, guest, || handle));
        }
        // Those that do not run.
        for (id, (engine, container)) in &containers {
            if found.contains(*id) {
                continue;
            }
            let path = kept
                .container_path(id)
                .map_or_else(|| engine.expected_cgroup_path(container), str::to_owned);
            if !excluded(&path) {
                let container = Some((engine.kind_or_default(), Arc::clone(container)));
                all.push(
                    kept.reuse_or_create(path.clone(), None, container, None, || {
                        RuntimeId::from_cgroup_path(&path)
                    }),
                );
            }
        }
        drop(at);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        kept.update(&all, self.flags.cgroup_grace);
        let gone = kept.gone.values();
        Ok(Inventory {
            gone: gone
                .map(|gone| (Arc::clone(&gone.workload), gone.last_seen))
                .collect(),
            all,
            engines: Arc::clone(known),
        })
    }
}

impl WorkloadCache {
    /// Looks up where containers are whose process is new. A place is kept when the
    /// container has ended, for its series to keep their name, and also when it has
    /// started anew and that process, too, is gone already.
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
            let known = self.container_cgroups.get(*id);
            if known.is_none_or(|(known, _)| *known != pid) {
                let place = read_path(pid, id).or_else(|| known?.1.clone());
                self.container_cgroups
                    .insert((*id).to_owned(), (pid, place));
            }
        }
    }

    /// The path of a container's group, if it was ever found.
    fn container_path(&self, id: &str) -> Option<&str> {
        self.container_cgroups.get(id)?.1.as_deref()
    }

    /// What was there last, if it is the same, else a new one.
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

    /// Remembers what is there, and of what is not there any more that it was.
    fn update(&mut self, all: &[Arc<Workload>], grace: Duration) {
        let now = clock::unix_time().unwrap_or_default();
        let there = all.iter().filter(|workload| workload.cgroup.is_some());
        let there: BTreeSet<&str> = there.map(|workload| workload.path.as_str()).collect();
        let last = std::mem::take(&mut self.last);
        let went = last
            .into_iter()
            .filter(|(path, workload)| workload.cgroup.is_some() && !there.contains(path.as_str()));
        for (path, workload) in went {
            let gone = GoneWorkload {
                workload: Arc::new(workload.without_cgroup()),
                last_seen: self.last_scan.unwrap_or(now),
                noticed_at: Instant::now(),
            };
            self.gone.insert(path, gone);
        }
        // What does not run may have another name by now.
        for workload in all.iter().filter(|workload| workload.cgroup.is_none()) {
            if let Some(gone) = self.gone.get_mut(&workload.path) {
                gone.workload = Arc::clone(workload);
            }
        }
        self.gone.retain(|path, gone| {
            !there.contains(path.as_str()) && gone.noticed_at.elapsed() < grace
        });
        while self.gone.len() > MAX_GONE {
            self.gone.pop_first();
        }
        let there = all
            .iter()
            .map(|workload| (workload.path.clone(), Arc::clone(workload)));
        self.last = there.collect();
        self.last_scan = Some(now);
    }
}

/// The control group of a container's first process: `/proc/PID/cgroup`, documented in
/// `cgroups(7)`. Nothing where the process is gone, or in the root.
fn read_cgroup_path(roots: &Roots, pid: u32, id: &str) -> Option<String> {
    let text = dir::read(&roots.procfs.join(format!("{pid}/cgroup"))).ok()?;
    parse_cgroup_path(text.body(), id)
}

/// Of the lines `hierarchy:controllers:path` the one that matters, cut off behind the
/// part with the container's id: below that is what the container made itself.
///
/// A path without the id is not the container's own: it has none (`--cgroups=disabled`)
/// and is in somebody else's, or the number is another process's by now, or that of
/// another PID namespace, as with an engine that runs in a container.
fn parse_cgroup_path(cgroup: &str, id: &str) -> Option<String> {
    let lines = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let mut best: Option<(usize, &str)> = None;
    for (controllers, path) in lines {
        let rank = controllers.split(',').filter_map(|controller| {
            let preferred = ["memory", "cpu", "pids", ""];
            preferred.iter().position(|it| *it == controller)
        });
        if let Some(rank) = rank.min()
            && best.is_none_or(|(other, _)| rank < other)
        {
            best = Some((rank, path));
        }
    }
    let (_, path) = best?;
    let mut whole = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        whole.push('/');
        whole.push_str(part);
        if part.contains(id) {
            // Or it is out of sight, as seen from another namespace.
            return (!whole.starts_with("/..")).then_some(whole);
        }
    }
    None
}

/// A container that runs and of which nothing else is known, for tests.
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

/// Docker, followed at this moment, with these containers, for tests.
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
    fn a_container_is_known_by_its_path_whoever_made_it() {
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
            let handle = RuntimeId::from_cgroup_path(&path);
            assert_eq!(handle.as_ref().map(|it| it.runtime), runtime, "{path}");
            assert!(handle.is_none_or(|it| it.id == ID), "{path}");
        }
        let lxc = RuntimeId::from_cgroup_path("/lxc.payload.web-1").unwrap();
        assert_eq!((lxc.runtime, lxc.id.as_str()), (Runtime::Lxc, "web-1"));
        assert_eq!(RuntimeId::from_cgroup_path("/lxc/web").unwrap().id, "web");
        assert_eq!(RuntimeId::from_cgroup_path("/lxc.monitor.web"), None);
    }

    #[test]
    fn of_a_processs_groups_that_with_the_memory_counts() {
        let v1 = format!("9:name=systemd:/x\n4:memory:/docker/{ID}\n2:cpu,cpuacct:/other\n0::/\n");
        assert_eq!(parse_cgroup_path(&v1, ID), Some(format!("/docker/{ID}")));
        let inside = format!("0::/system.slice/docker-{ID}.scope/init.scope\n");
        let scope = format!("/system.slice/docker-{ID}.scope");
        assert_eq!(parse_cgroup_path(&inside, ID), Some(scope));
        for nothing in ["0::/\n", "", "x\n"] {
            assert_eq!(parse_cgroup_path(nothing, ID), None, "{nothing:?}");
        }
        assert_eq!(
            parse_cgroup_path(&format!("0::/../../docker/{ID}\n"), ID),
            None
        );
    }

    #[test]
    fn a_process_that_is_in_somebody_elses_group_does_not_give_it_the_containers_name() {
        let session = "0::/user.slice/user-1000.slice/session-1.scope\n";
        assert_eq!(parse_cgroup_path(session, ID), None);
        let other = format!("0::/docker/{}\n", ID.replace('3', "4"));
        assert_eq!(parse_cgroup_path(&other, ID), None);
    }

    #[test]
    fn services_and_slices_are_shown_and_not_what_is_in_them() {
        let Flags { cgroup_include, .. } = Flags::default();
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
    fn each_id_is_that_of_one_group_and_an_engines_word_counts_first() {
        let tree = TempTree::new("workloads-identified");
        tree.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        let guest = "/machine/qemu-7-web.libvirt-qemu";
        let (left_over, renamed) = (format!("/a/{ID}"), "/z/renamed");
        let other = ID.replace('3', "4");
        let unknown = format!("/docker/{other}");
        let paths = [
            &left_over,
            guest,
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
        let seen = Inventory {
            all: all.collect(),
            ..Inventory::default()
        };
        let ids = seen.identified();
        let ids: Vec<_> = ids
            .iter()
            .map(|(id, it, _)| (*id, it.path.as_str()))
            .collect();
        let expected = [
            (ID, renamed),
            (&*other, &*unknown),
            ("/lxc/web", "/lxc/web"),
            (guest, guest),
        ];
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_guest_has_its_whole_name_as_soon_as_libvirt_tells() {
        let path = "/machine/qemu-7-web1.libvirt-qemu";
        let mut kept = WorkloadCache::default();
        let look = |kept: &WorkloadCache, domains: &[RunningDomain]| {
            let guest = WorkloadDomain::from_cgroup_path(path)
                .map(|guest| guest.with_libvirt_identity(domains));
            kept.reuse_or_create(path.to_owned(), None, None, guest, || None)
        };
        let first = look(&kept, &[]);
        kept.last.insert(path.to_owned(), Arc::clone(&first));
        assert!(Arc::ptr_eq(&first, &look(&kept, &[])));
        let told = RunningDomain {
            id: 7,
            name: "web_1".to_owned(),
            uuid: "u".to_owned(),
        };
        let named = look(&kept, &[told]);
        assert_eq!(named.domain.as_ref().unwrap().name, "web_1");
    }
}
