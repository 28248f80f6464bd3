//! State of container engines: names, images and states of containers. Supports Docker's API,
//! version 1.24 and later, and Podman's compatible API.
//!
//! One task per engine follows its event stream and maintains a cache; callers read the cache, so
//! no scrape waits for an engine.

mod api_types;
mod cache;
mod connection;
mod disk_usage;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod rfc3339;
mod watcher;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

pub use disk_usage::{EngineDiskUsage, StorageKind, StorageUsage};
pub use flags::{EngineFlags, SizeFlags};
pub use watcher::EngineIntervals;

/// Maximum number of containers, unknown to every engine, whose last inspect is remembered.
const MAX_TRACKED_UNKNOWN: usize = 10_000;
/// Maximum number of them that may be queued for an inspect.
const MAX_QUEUED_INSPECTS: usize = 64;

/// A container as last reported by its engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its ID: 64 hexadecimal digits.
    pub id: String,
    /// Its name, without the leading slash.
    pub name: String,
    /// Image reference it was created from, such as `nginx:1.27`.
    pub image: String,
    /// Image ID, such as `sha256:…`.
    pub image_id: String,
    /// Its labels that pass the label filter, sorted.
    pub labels: Vec<(String, String)>,
    /// Its state.
    pub state: ContainerState,
    /// Host PID of its first process; only while it runs.
    pub pid: Option<u32>,
    /// Configured parent cgroup, if not the engine's default.
    pub cgroup_parent: Option<String>,
    /// Number of restarts by the engine.
    pub restart_count: Option<u64>,
    /// Exit code of its first process, unless it runs.
    pub exit_code: Option<i64>,
    /// Out-of-memory events received since the exporter follows the engine.
    pub oom_events: u64,
    /// Result of its health check; `None` if it has none or does not run.
    pub health: Option<Health>,
    /// Creation time since the Unix epoch.
    pub created: Option<Duration>,
    /// Last start since the Unix epoch.
    pub started: Option<Duration>,
    /// Last exit since the Unix epoch.
    pub finished: Option<Duration>,
    /// Configured memory limit in bytes; `None` without a limit.
    pub memory_limit: Option<u64>,
}

/// State of a container, by Docker's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Exited and about to be started again.
    Restarting,
    /// Being removed.
    Removing,
    /// Exited.
    Exited,
    /// Removal failed.
    Dead,
}

impl ContainerState {
    /// All states, in the order of the values of `container_status`.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// Docker's name of the state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether the container has processes.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Result of a container's health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// No result yet.
    Starting,
    /// The check succeeded.
    Healthy,
    /// The check failed as often as configured.
    Unhealthy,
}

impl Health {
    /// All results.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Healthy, Self::Unhealthy];

    /// The engines' name of the result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// An image as last reported by its engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Image ID, `sha256:…`.
    pub id: String,
    /// Its tags, such as `nginx:1.27`; empty for a dangling image.
    pub tags: Vec<String>,
    /// Whether it has tags, all of which are hidden by the image filter.
    pub has_hidden_tags: bool,
    /// Size of all its layers in bytes.
    pub size: Option<u64>,
    /// Creation time since the Unix epoch.
    pub created: Option<Duration>,
}

/// Kind of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineKind {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

impl EngineKind {
    /// Its name in labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// State of one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Path of its socket.
    pub socket: PathBuf,
    /// Its kind, once reported.
    pub kind: Option<EngineKind>,
    /// Its version, once reported.
    pub version: Option<String>,
    /// API version in use.
    pub api_version: Option<String>,
    /// `systemd` or `cgroupfs`, once reported.
    pub cgroup_driver: Option<String>,
    /// Whether the event stream is open and the cache complete.
    pub up: bool,
    /// Reason why it is not up or not complete.
    pub error: Option<String>,
    /// When the cache was last known to be current; `None` before it was first complete.
    pub confirmed: Option<Instant>,
    /// Number of connections established.
    pub connections: u64,
    /// Number of requests sent.
    pub requests: u64,
    /// Number of events received.
    pub events: u64,
    /// Its containers, by ID.
    pub containers: BTreeMap<String, Arc<Container>>,
    /// Its images, once listed.
    pub images: Option<Arc<Vec<Image>>>,
    /// Its last reported disk usage, if enabled.
    pub disk_usage: Option<Arc<EngineDiskUsage>>,
    /// Number of failed disk usage requests.
    pub disk_usage_failures: u64,
}

impl Engine {
    /// Creates the state of an engine that was not contacted yet.
    fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            kind: None,
            version: None,
            api_version: None,
            cgroup_driver: None,
            up: false,
            error: None,
            confirmed: None,
            connections: 0,
            requests: 0,
            events: 0,
            containers: BTreeMap::new(),
            images: None,
            disk_usage: None,
            disk_usage_failures: 0,
        }
    }

    /// Returns its kind, or the presumed one until it is reported.
    #[must_use]
    pub fn kind_or_default(&self) -> EngineKind {
        self.kind.unwrap_or(EngineKind::Docker)
    }

    /// Returns the cgroup path that a container that is not running would have, by the engine's
    /// conventions.
    #[must_use]
    pub fn expected_cgroup_path(&self, container: &Container) -> String {
        let parent = container.cgroup_parent.as_deref().unwrap_or_default();
        let id = &container.id;
        let kind = self.kind_or_default();
        let is_slice = parent.strip_suffix(".slice").is_some()
            || (parent.is_empty() && self.cgroup_driver.as_deref() == Some("systemd"));
        if is_slice {
            let (prefix, slice) = match kind {
                EngineKind::Docker => ("docker", "system.slice"),
                EngineKind::Podman => ("libpod", "machine.slice"),
            };
            let slice = if parent.is_empty() { slice } else { parent };
            return format!("{}/{prefix}-{id}.scope", slice_path(slice));
        }
        let parent = parent.trim_matches('/');
        match (kind, parent) {
            (EngineKind::Docker, "") => format!("/docker/{id}"),
            (EngineKind::Docker, parent) => format!("/{parent}/{id}"),
            (EngineKind::Podman, "") => format!("/libpod_parent/libpod-{id}"),
            (EngineKind::Podman, parent) => format!("/{parent}/libpod-{id}"),
        }
    }
}

/// Containers by ID, each with the engine it belongs to.
pub type ContainersById<'a> = BTreeMap<&'a str, (&'a Engine, &'a Arc<Container>)>;

/// Merges the containers of several engines. A container listed by several belongs to the first
/// one that is up, or else to the first one.
#[must_use]
pub fn dedup_by_id<'a>(engines: impl IntoIterator<Item = &'a Engine>) -> ContainersById<'a> {
    let mut engines: Vec<_> = engines.into_iter().collect();
    engines.sort_by_key(|engine| !engine.up);
    let mut containers = ContainersById::new();
    for engine in engines {
        for (id, container) in &engine.containers {
            containers.entry(id).or_insert((engine, container));
        }
    }
    containers
}

/// Whether two paths refer to the same socket.
#[must_use]
pub fn is_same_socket(a: &Path, b: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    a == b || canonical(a).is_some_and(|a| Some(a) == canonical(b))
}

/// Returns systemd's path of a slice: `a-b.slice` is in `a.slice`.
fn slice_path(slice: &str) -> String {
    let slice = slice.rsplit('/').next().unwrap_or_default();
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let (ancestor, _) = name.split_at(end);
        path += &format!("/{ancestor}.slice");
    }
    path
}

/// All engines, each with a watcher task.
#[derive(Debug)]
pub struct Engines {
    flags: EngineFlags,
    intervals: EngineIntervals,
    is_watched: AtomicBool,
    engines: Mutex<Arc<Vec<Arc<Engine>>>>,
    unknown_containers: Mutex<UnknownContainers>,
}

/// Containers that no engine reported.
#[derive(Debug, Default)]
struct UnknownContainers {
    /// Time of the last inspect request, by ID.
    queried_at: HashMap<String, Instant>,
    /// Senders to the tasks that inspect.
    inspect_senders: Vec<(PathBuf, mpsc::Sender<String>)>,
}

impl Engines {
    /// Creates the engines named by flags. Nothing is requested before `watch` is called.
    #[must_use]
    pub fn new(flags: EngineFlags) -> Self {
        Self::with_intervals(flags, EngineIntervals::default())
    }

    /// Like [`Self::new`], with other intervals and timeouts.
    #[must_use]
    pub fn with_intervals(flags: EngineFlags, intervals: EngineIntervals) -> Self {
        Self {
            flags,
            intervals,
            is_watched: AtomicBool::new(false),
            engines: Mutex::default(),
            unknown_containers: Mutex::default(),
        }
    }

    /// Returns the sockets, and whether flags name them. Default sockets may be missing.
    #[must_use]
    pub fn sockets(&self) -> (Vec<PathBuf>, bool) {
        self.flags.sockets()
    }

    /// Spawns the watcher tasks on the current runtime.
    pub fn watch(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watcher::discover(Arc::clone(self)));
        }
    }

    /// Returns the cached state of all engines, without a request.
    #[must_use]
    pub fn engines(&self) -> Arc<Vec<Arc<Engine>>> {
        Arc::clone(&self.engines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reports a container ID that was found on the host, in case its engine did not report it.
    /// The engines inspect it once, in the background.
    pub fn request_inspect(&self, id: &str) {
        if !is_container_id(id) {
            return;
        }
        let mut unknown = self
            .unknown_containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let UnknownContainers {
            queried_at,
            inspect_senders,
        } = &mut *unknown;
        let retry_after = self.intervals.unknown_retry_after;
        if queried_at
            .get(id)
            .is_some_and(|queried| queried.elapsed() < retry_after)
        {
            return;
        }
        let engines = self.engines();
        if !engines.iter().any(|engine| engine.up) {
            return;
        }
        if queried_at.len() >= MAX_TRACKED_UNKNOWN {
            queried_at.retain(|_, queried| queried.elapsed() < retry_after);
        }
        if queried_at.len() >= MAX_TRACKED_UNKNOWN {
            return;
        }
        let is_up = |socket: &Path| {
            engines
                .iter()
                .any(|engine| engine.up && engine.socket == socket)
        };
        let mut all_sent = true;
        for (_, sender) in inspect_senders.iter().filter(|(socket, _)| is_up(socket)) {
            all_sent &= sender.try_send(id.to_owned()).is_ok();
        }
        // A full queue is tried again at the next scrape.
        if all_sent {
            queried_at.insert(id.to_owned(), Instant::now());
        }
    }

    /// Updates the state of an engine.
    fn update<T>(&self, socket: &Path, change: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        // Copied only if a reader holds the current state.
        let engine = Arc::make_mut(&mut engines)
            .iter_mut()
            .find(|engine| engine.socket == socket)?;
        Some(change(Arc::make_mut(engine)))
    }

    fn add(&self, engine: Engine) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut engines).push(Arc::new(engine));
    }

    fn remove(&self, socket: &Path) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut engines).retain(|engine| engine.socket != socket);
    }

    fn add_inspect_sender(&self, socket: &Path, sender: mpsc::Sender<String>) {
        let mut unknown = self
            .unknown_containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unknown.inspect_senders.push((socket.to_owned(), sender));
    }
}

/// Whether the word has the form of a container ID.
pub(super) fn is_container_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_path_contains_all_parent_slices() {
        assert_eq!(slice_path("system.slice"), "/system.slice");
        assert_eq!(slice_path("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
    }
}
