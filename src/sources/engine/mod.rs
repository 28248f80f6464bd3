//! What the container engines know: names, images, states. Docker's API, version 1.24
//! and later, and Podman's which is like it.
//!
//! A task per engine follows its events and keeps a copy of what it knows; who asks
//! gets the copy, so no scrape waits for an engine.

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
pub use flags::{Flags, SizeFlags};
pub use watcher::EngineIntervals;

/// Of containers that no engine told of, no more than this many are remembered to have
/// been asked about.
const MAX_TRACKED_UNKNOWN: usize = 10_000;
/// Of those, how many may wait for an engine to be asked.
const MAX_QUEUED_INSPECTS: usize = 64;

/// A container as its engine last described it.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The engine's name for it: 64 hexadecimal digits.
    pub id: String,
    /// Its name, without a slash before it.
    pub name: String,
    /// The image as it was asked for, such as `nginx:1.27`.
    pub image: String,
    /// The image's own id, such as `sha256:…`.
    pub image_id: String,
    /// The labels that are on the list of those to be kept, sorted.
    pub labels: Vec<(String, String)>,
    /// What it is doing.
    pub state: ContainerState,
    /// Its first process, as this machine numbers it; only while it runs.
    pub pid: Option<u32>,
    /// The cgroup it was told to be made in, if not the engine's default.
    pub cgroup_parent: Option<String>,
    /// How often the engine restarted it.
    pub restart_count: Option<u64>,
    /// What its first process exited with, unless it runs.
    pub exit_code: Option<i64>,
    /// Out-of-memory events that the engine told of since we listen.
    pub oom_events: u64,
    /// How its health check ended; `None` where it has none, or does not run.
    pub health: Option<Health>,
    /// When it was made, from 1970 on.
    pub created: Option<Duration>,
    /// When it was last started, from 1970 on.
    pub started: Option<Duration>,
    /// When it last ended, from 1970 on.
    pub finished: Option<Duration>,
    /// Bytes it may have in memory, as it was configured; `None` without a limit.
    pub memory_limit: Option<u64>,
}

/// What a container is doing, as Docker calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerState {
    /// Never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Between an end and the next start.
    Restarting,
    /// About to be gone.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed.
    Dead,
}

impl ContainerState {
    /// All of them, in the order of the numbers of `container_status`.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// Docker's name for it.
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

    /// Whether it has processes.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// How a container's health check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Has not ended yet.
    Starting,
    /// Well.
    Healthy,
    /// Badly, often enough.
    Unhealthy,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Healthy, Self::Unhealthy];

    /// As engines call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// An image as its engine last described it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:…`
    pub id: String,
    /// Names it goes by, such as `nginx:1.27`; none for a dangling one.
    pub tags: Vec<String>,
    /// Whether it has names, of which none is to be told.
    pub has_hidden_tags: bool,
    /// Bytes of all its layers.
    pub size: Option<u64>,
    /// When it was made, from 1970 on.
    pub created: Option<Duration>,
}

/// Which engine it is.
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

/// What is known of one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where it listens.
    pub socket: PathBuf,
    /// What it is, once it said so.
    pub kind: Option<EngineKind>,
    /// Its version, once it said so.
    pub version: Option<String>,
    /// The version of its API that is spoken.
    pub api_version: Option<String>,
    /// `systemd` or `cgroupfs`, once it said so.
    pub cgroup_driver: Option<String>,
    /// Whether its events are followed at this moment, and the copy is complete.
    pub up: bool,
    /// Why not, if it is not.
    pub error: Option<String>,
    /// When the copy was last known to be current; `None` if there never was one.
    pub confirmed: Option<Instant>,
    /// How often it was connected to.
    pub connections: u64,
    /// Requests that were made so far.
    pub requests: u64,
    /// Events that were taken in so far.
    pub events: u64,
    /// Its containers, by id.
    pub containers: BTreeMap<String, Arc<Container>>,
    /// Its images, once it listed them.
    pub images: Option<Arc<Vec<Image>>>,
    /// What it last said of room on disk, if anybody wants to know.
    pub disk_usage: Option<Arc<EngineDiskUsage>>,
    /// How often it was asked for that in vain.
    pub disk_usage_failures: u64,
}

impl Engine {
    /// One that nobody has asked yet.
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

    /// What it is, or is taken for until it says so.
    #[must_use]
    pub fn kind_or_default(&self) -> EngineKind {
        self.kind.unwrap_or(EngineKind::Docker)
    }

    /// The path of the control group that a container would have, by the engine's
    /// habits: for one that does not run.
    #[must_use]
    pub fn expected_cgroup_path(&self, container: &Container) -> String {
        let parent = container.cgroup_parent.as_deref().unwrap_or_default();
        let id = &container.id;
        let kind = self.kind_or_default();
        let is_slice = parent.strip_suffix(".slice").is_some()
            || (parent.is_empty() && self.cgroup_driver.as_deref() == Some("systemd"));
        if is_slice {
            let (maker, slice) = match kind {
                EngineKind::Docker => ("docker", "system.slice"),
                EngineKind::Podman => ("libpod", "machine.slice"),
            };
            let slice = if parent.is_empty() { slice } else { parent };
            return format!("{}/{maker}-{id}.scope", slice_path(slice));
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

/// Containers by id, each with an engine that shows it.
pub type ContainersById<'a> = BTreeMap<&'a str, (&'a Engine, &'a Arc<Container>)>;

/// The containers of these engines; one that several show is the first one's, of those
/// that are followed if there is any.
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

/// Whether two paths are of one socket.
#[must_use]
pub fn is_same_socket(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

/// Where systemd puts a slice: `a-b.slice` is in `a.slice`.
fn slice_path(slice: &str) -> String {
    let slice = slice.rsplit('/').next().unwrap_or_default();
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let (upto, _) = name.split_at(at);
        path += &format!("/{upto}.slice");
    }
    path
}

/// All engines, each followed by a task of its own.
#[derive(Debug)]
pub struct Engines {
    flags: Flags,
    intervals: EngineIntervals,
    is_watched: AtomicBool,
    engines: Mutex<Arc<Vec<Arc<Engine>>>>,
    unknown_containers: Mutex<UnknownContainers>,
}

/// Containers that no engine told of.
#[derive(Debug, Default)]
struct UnknownContainers {
    /// When they were asked about.
    queried_at: HashMap<String, Instant>,
    /// The tasks that ask.
    inspect_senders: Vec<(PathBuf, mpsc::Sender<String>)>,
}

impl Engines {
    /// Those that the flags name. Nothing is asked before [`watch`](Self::watch).
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self::with_intervals(flags, EngineIntervals::default())
    }

    /// Those that the flags name, asked as often and waited for as long as is said.
    #[must_use]
    pub fn with_intervals(flags: Flags, intervals: EngineIntervals) -> Self {
        Self {
            flags,
            intervals,
            is_watched: AtomicBool::new(false),
            engines: Mutex::default(),
            unknown_containers: Mutex::default(),
        }
    }

    /// Where they are asked, and whether flags say so: those that none names need not be
    /// there.
    #[must_use]
    pub fn sockets(&self) -> (Vec<PathBuf>, bool) {
        self.flags.sockets()
    }

    /// Begins to follow them, on the runtime that this is called on, for as long as it
    /// runs.
    pub fn watch(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watcher::discover(Arc::clone(self)));
        }
    }

    /// What is known now, without asking anybody.
    #[must_use]
    pub fn engines(&self) -> Arc<Vec<Arc<Engine>>> {
        Arc::clone(&self.engines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that there is a container of this id, in case its engine did not tell of it.
    /// It will be asked about once, not now.
    pub fn request_inspect(&self, id: &str) {
        if !is_container_id(id) {
            return;
        }
        let mut unknown = self
            .unknown_containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let UnknownContainers {
            queried_at: asked,
            inspect_senders: askers,
        } = &mut *unknown;
        let ask_again = self.intervals.unknown_retry_after;
        if asked.get(id).is_some_and(|when| when.elapsed() < ask_again) {
            return;
        }
        let known = self.engines();
        if !known.iter().any(|engine| engine.up) {
            return;
        }
        if asked.len() >= MAX_TRACKED_UNKNOWN {
            asked.retain(|_, when| when.elapsed() < ask_again);
        }
        if asked.len() >= MAX_TRACKED_UNKNOWN {
            return;
        }
        let is_up = |socket: &Path| known.iter().any(|e| e.up && e.socket == socket);
        let mut all_told = true;
        for (_, asker) in askers.iter().filter(|(socket, _)| is_up(socket)) {
            all_told &= asker.try_send(id.to_owned()).is_ok();
        }
        // Who had no room is told at the next scrape.
        if all_told {
            asked.insert(id.to_owned(), Instant::now());
        }
    }

    /// Changes what is known of an engine.
    fn update<T>(&self, socket: &Path, change: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let mut known = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        // Copied only if somebody looks at it right now.
        let engine = Arc::make_mut(&mut known)
            .iter_mut()
            .find(|engine| engine.socket == socket)?;
        Some(change(Arc::make_mut(engine)))
    }

    fn add(&self, engine: Engine) {
        let mut known = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut known).push(Arc::new(engine));
    }

    fn remove(&self, socket: &Path) {
        let mut known = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut known).retain(|engine| engine.socket != socket);
    }

    fn add_inspect_sender(&self, socket: &Path, sender: mpsc::Sender<String>) {
        let mut unknown = self
            .unknown_containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unknown.inspect_senders.push((socket.to_owned(), sender));
    }
}

/// Whether this is how engines name containers.
pub(super) fn is_container_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_in_those_that_its_name_begins_with() {
        assert_eq!(slice_path("system.slice"), "/system.slice");
        assert_eq!(slice_path("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
    }
}
