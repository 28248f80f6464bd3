//! Tasks that discover engines and watch each of them.
//!
//! A watcher opens the event stream first, then lists all containers, inspects each, and applies
//! the events received meanwhile, so nothing is missed. If an engine fails, its cache is kept and
//! the connection is retried with backoff.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Engine, EngineDiskUsage, Engines, Image, MAX_QUEUED_INSPECTS,
    api_types::{EngineEvent, InspectedContainer, LabelFilter, ListedContainer},
    cache::{ContainerCache, MAX_CONTAINERS, NextAction},
    connection::{EngineClient, EngineError, EngineResult, EventStream},
};

/// Maximum number of concurrent inspects.
const MAX_CONCURRENT_INSPECTS: usize = 4;
/// Maximum number of events buffered while a list is pending; further events are not read.
const MAX_BUFFERED_EVENTS: usize = 10_000;
/// Maximum number of events read per second; further events are delayed.
const MAX_EVENTS_PER_SECOND: u32 = 1000;
/// Disk usage requests take at most one part in this many of the time.
const DISK_USAGE_MAX_DUTY_DIVISOR: u32 = 10;
/// Maximum number of images; the rest are dropped.
const MAX_IMAGES: usize = 10_000;
/// Minimum number of remembered inspect times before old ones are pruned.
const MIN_PRUNE_LEN: usize = 1000;

/// Intervals and timeouts of requests to engines.
#[derive(Debug, Clone, Copy)]
pub struct EngineIntervals {
    /// Interval of the search for sockets.
    pub discover_every: Duration,
    /// Delay before the first retry after a failure.
    pub backoff: Duration,
    /// Maximum retry delay. An engine that was up for this long starts with the first delay again.
    pub max_backoff: Duration,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Timeout of the first list.
    pub first_list_timeout: Duration,
    /// Time without data from an engine after which it is pinged.
    pub ping_after: Duration,
    /// Interval of lists of containers and images.
    pub resync_every: Duration,
    /// Minimum time between two inspects of a container.
    pub min_inspect_gap: Duration,
    /// The same, after events that only report a health check.
    pub min_health_inspect_gap: Duration,
    /// Delay of an image list after image events (debounce).
    pub debounce: Duration,
    /// Minimum time between inspects of containers that no engine reported.
    pub min_unknown_inspect_gap: Duration,
    /// Time until such a container is inspected again.
    pub unknown_retry_after: Duration,
    /// Time between the engine coming up and the first disk usage request.
    pub first_disk_usage_after: Duration,
    /// Timeout of a disk usage request.
    pub disk_usage_timeout: Duration,
}

impl Default for EngineIntervals {
    fn default() -> Self {
        Self {
            discover_every: Duration::from_secs(30),
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            request_timeout: Duration::from_secs(10),
            first_list_timeout: Duration::from_secs(60),
            ping_after: Duration::from_secs(60),
            resync_every: Duration::from_secs(300),
            min_inspect_gap: Duration::from_millis(200),
            min_health_inspect_gap: Duration::from_secs(10),
            debounce: Duration::from_secs(1),
            min_unknown_inspect_gap: Duration::from_millis(100),
            unknown_retry_after: Duration::from_secs(600),
            first_disk_usage_after: Duration::from_secs(60),
            disk_usage_timeout: Duration::from_secs(300),
        }
    }
}

/// Discovers engines and spawns a watcher for each; ends once every socket has one.
pub(super) async fn discover(engines: Arc<Engines>) {
    let (sockets, are_explicit) = engines.flags.sockets();
    // By canonical path: one socket path may be a link to the other.
    let mut watched: HashMap<PathBuf, PathBuf> = HashMap::new();
    while !sockets.is_empty() {
        for socket in &sockets {
            let is_listed = |engines: &Engines| {
                let listed = engines.engines();
                listed.iter().any(|engine| engine.socket == *socket)
            };
            let Ok(canonical) = socket.canonicalize() else {
                if are_explicit && !is_listed(&engines) {
                    let mut engine = Engine::new(socket.clone());
                    engine.error = Some("socket not found".to_owned());
                    warn!(socket = %socket.display(), "engine socket not found, retrying");
                    engines.add(engine);
                }
                continue;
            };
            if let Some(first) = watched.get(&canonical) {
                if first != socket {
                    engines.remove(socket);
                }
                continue;
            }
            if watched.values().any(|other| other == socket) {
                // The path resolves to another location now; its watcher already runs.
                continue;
            }
            watched.insert(canonical, socket.clone());
            if !is_listed(&engines) {
                engines.add(Engine::new(socket.clone()));
            }
            let task = EngineWatcher::new(Arc::clone(&engines), socket).run();
            tokio::spawn(task);
        }
        if watched.len() == sockets.len() {
            return;
        }
        sleep(engines.intervals.discover_every).await;
    }
}

/// Watches one engine.
struct EngineWatcher {
    engines: Arc<Engines>,
    socket: PathBuf,
    intervals: EngineIntervals,
    filter: Arc<LabelFilter>,
    cache: ContainerCache,
    /// IDs of containers that were found on the host.
    inspect_requests: mpsc::Receiver<String>,
    /// Whether the engine was up when this was last logged.
    logged_up: Option<bool>,
    disk_usage: DiskUsageSchedule,
}

/// Schedule of disk usage requests, kept across connections.
#[derive(Default)]
struct DiskUsageSchedule {
    /// Interval, if enabled.
    interval: Option<Duration>,
    /// Earliest time of the next request.
    due: Option<Instant>,
    /// Start of the pending request.
    started: Option<Instant>,
    /// Whether the last logged outcome was a failure.
    failure_logged: bool,
}

impl DiskUsageSchedule {
    /// Returns when to send the next request, unless one is pending.
    fn next_due(&self) -> Option<Instant> {
        self.due.filter(|_| self.started.is_none())
    }

    /// Delays the next request at least until this time.
    fn delay_until(&mut self, time: Instant) {
        if self.interval.is_some() {
            self.due = self.due.max(Some(time));
        }
    }

    /// Schedules the next request after one that ended, successfully or not.
    fn finish(&mut self) {
        let (Some(interval), Some(started)) = (self.interval, self.started.take()) else {
            return;
        };
        let delay = started
            .elapsed()
            .saturating_mul(DISK_USAGE_MAX_DUTY_DIVISOR);
        self.due = started.checked_add(interval.max(delay));
    }
}

impl EngineWatcher {
    fn new(engines: Arc<Engines>, socket: &Path) -> Self {
        let (inspect_tx, inspect_rx) = mpsc::channel(MAX_QUEUED_INSPECTS);
        engines.add_inspect_sender(socket, inspect_tx);
        Self {
            socket: socket.to_owned(),
            intervals: engines.intervals,
            filter: Arc::new(LabelFilter {
                labels: engines.flags.engine_label_include.iter().cloned().collect(),
                images: engines.flags.engine_image_include.clone(),
            }),
            cache: ContainerCache::default(),
            inspect_requests: inspect_rx,
            logged_up: None,
            disk_usage: DiskUsageSchedule {
                interval: engines.flags.disk_usage_interval,
                ..DiskUsageSchedule::default()
            },
            engines,
        }
    }

    async fn run(mut self) {
        let mut backoff = self.intervals.backoff;
        loop {
            let mut up_since = None;
            let error = self.watch_until_error(&mut up_since).await;
            if self.disk_usage.started.is_some() {
                self.store_disk_usage(Err(error.clone()));
            }
            self.update(|engine, _| {
                engine.up = false;
                engine.error = Some(error.to_string());
            });
            if self.logged_up != Some(false) {
                let (engine, socket) = (self.name(), self.socket.display());
                warn!(engine, %socket, error = %error, "engine unavailable");
                self.logged_up = Some(false);
            }
            if up_since.is_some_and(|since: Instant| since.elapsed() >= self.intervals.max_backoff)
            {
                backoff = self.intervals.backoff;
            }
            sleep(jittered(backoff)).await;
            backoff = backoff.saturating_mul(2).min(self.intervals.max_backoff);
        }
    }

    /// Connects and watches until an error.
    async fn watch_until_error(&mut self, up_since: &mut Option<Instant>) -> EngineError {
        let connected = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        let (client, events) = connected;
        while self.inspect_requests.try_recv().is_ok() {}
        let session = EngineSession::new(self, client, events, up_since);
        let Err(error) = session.run().await;
        error
    }

    async fn connect(&mut self) -> EngineResult<(EngineClient, EventStream)> {
        let mut client = EngineClient::new(&self.socket, Arc::clone(&self.filter));
        self.count_request();
        let version = client.version(self.intervals.request_timeout).await?;
        client.set_api_version(version.api_version.as_deref());
        self.update(|engine, _| {
            engine.connections = engine.connections.saturating_add(1);
            engine.kind = Some(version.kind);
            engine.version = version.version;
            engine.api_version = version.api_version;
        });
        self.count_request();
        let events = client.events(self.intervals.request_timeout).await?;
        Ok((client, events))
    }

    /// Stores a disk usage result. After an error, the previous one is kept.
    fn store_disk_usage(&mut self, result: EngineResult<EngineDiskUsage>) {
        self.disk_usage.finish();
        let error = match result {
            Ok(disk_usage) => {
                self.disk_usage.failure_logged = false;
                self.update(|engine, _| engine.disk_usage = Some(Arc::new(disk_usage)));
                return;
            }
            Err(error) => error,
        };
        self.update(|engine, _| {
            engine.disk_usage_failures = engine.disk_usage_failures.saturating_add(1);
        });
        if !self.disk_usage.failure_logged {
            let (engine, socket) = (self.name(), self.socket.display());
            warn!(engine, %socket, error = %error, "engine disk usage request failed");
            self.disk_usage.failure_logged = true;
        }
    }

    /// Counts a request.
    fn count_request(&mut self) {
        self.update(|engine, _| engine.requests = engine.requests.saturating_add(1));
    }

    fn update<T: Default>(
        &mut self,
        change: impl FnOnce(&mut Engine, &mut ContainerCache) -> T,
    ) -> T {
        let cache = &mut self.cache;
        let change = |engine: &mut Engine| change(engine, cache);
        self.engines
            .update(&self.socket, change)
            .unwrap_or_default()
    }

    fn name(&self) -> &'static str {
        let engines = self.engines.engines();
        let engine = engines.iter().find(|engine| engine.socket == self.socket);
        let kind = engine.and_then(|engine| engine.kind);
        kind.map_or("unknown", super::EngineKind::name)
    }
}

/// The result of a request.
enum RequestResult {
    Containers(EngineResult<Vec<ListedContainer>>),
    Container(String, EngineResult<Option<Box<InspectedContainer>>>),
    Images(EngineResult<Vec<Image>>),
    CgroupDriver(EngineResult<Option<String>>),
    Ping(EngineResult<()>),
    DiskUsage(EngineResult<EngineDiskUsage>),
}

impl RequestResult {
    /// Whether the engine responded successfully; a timeout is no sign of life.
    fn is_ok(&self) -> bool {
        match self {
            Self::Containers(result) => result.is_ok(),
            Self::Container(_, result) => result.is_ok(),
            Self::Images(result) => result.is_ok(),
            Self::CgroupDriver(result) => result.is_ok(),
            Self::Ping(result) => result.is_ok(),
            Self::DiskUsage(result) => result.is_ok(),
        }
    }
}

/// State from connecting to an engine until the connection is lost.
struct EngineSession<'a> {
    watcher: &'a mut EngineWatcher,
    client: EngineClient,
    events: EventStream,
    up_since: &'a mut Option<Instant>,
    results: JoinSet<RequestResult>,
    /// Events received while a list is pending, applied after it.
    buffered_events: Option<VecDeque<EngineEvent>>,
    /// Whether to inspect all containers after the next list, changed or not.
    inspect_all: bool,
    /// Containers of the first list that are not inspected yet.
    initial: HashSet<String>,
    /// Whether the first request for the engine's settings is pending.
    awaiting_info: bool,
    /// Containers to inspect.
    queue: VecDeque<String>,
    queued: HashSet<String>,
    delayed: BTreeMap<String, Instant>,
    /// Pending inspects, and whether to repeat each because of a later event.
    in_flight: HashMap<String, bool>,
    /// Number of pending inspects, including those of removed containers.
    in_flight_count: usize,
    inspected_at: HashMap<String, Instant>,
    /// Number of inspect times at which old ones are pruned.
    prune_at_len: usize,
    /// Failed inspects and their errors.
    failed_inspects: BTreeMap<String, EngineError>,
    images_error: Option<EngineError>,
    last_activity: Instant,
    pinging: bool,
    /// `Some` while the image list is pending; `true` if images changed since.
    listing_images: Option<bool>,
    resync_due: Instant,
    images_due: Option<Instant>,
    next_unknown_inspect: Instant,
    /// Start of the current one-second window and number of its events.
    event_window: (Instant, u32),
}

impl<'a> EngineSession<'a> {
    fn new(
        watcher: &'a mut EngineWatcher,
        client: EngineClient,
        events: EventStream,
        up_since: &'a mut Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        Self {
            resync_due: now + watcher.intervals.resync_every,
            watcher,
            client,
            events,
            up_since,
            results: JoinSet::new(),
            buffered_events: None,
            inspect_all: true,
            initial: HashSet::new(),
            awaiting_info: true,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            delayed: BTreeMap::new(),
            in_flight: HashMap::new(),
            in_flight_count: 0,
            inspected_at: HashMap::new(),
            prune_at_len: MIN_PRUNE_LEN,
            failed_inspects: BTreeMap::new(),
            images_error: None,
            last_activity: now,
            pinging: false,
            listing_images: None,
            images_due: None,
            next_unknown_inspect: now,
            event_window: (now, 0),
        }
    }

    async fn run(mut self) -> EngineResult<std::convert::Infallible> {
        let timing = self.watcher.intervals;
        self.list_containers(timing.first_list_timeout);
        self.list_images();
        self.spawn_request(|client| async move {
            RequestResult::CgroupDriver(client.cgroup_driver(timing.request_timeout).await)
        });
        loop {
            self.start_inspects();
            self.mark_up_if_complete();
            let now = Instant::now();
            if now >= self.event_window.0 + Duration::from_secs(1) {
                self.event_window = (now, 0);
            }
            let buffered = self.buffered_events.as_ref().map_or(0, VecDeque::len);
            let can_receive =
                self.event_window.1 < MAX_EVENTS_PER_SECOND && buffered < MAX_BUFFERED_EVENTS;
            let wake = self.next_wake(can_receive);
            tokio::select! {
                event = self.events.next(), if can_receive => self.receive_event(event?),
                Some(result) = self.results.join_next() => {
                    if let Ok(result) = result {
                        self.handle_result(result)?;
                    }
                }
                Some(id) = self.watcher.inspect_requests.recv(), if now >= self.next_unknown_inspect => self.handle_unknown_container(id),
                () = sleep_until(wake.into()) => self.run_due_tasks(),
            }
        }
    }

    /// Spawns a request in the background.
    fn spawn_request<F>(&mut self, request: impl FnOnce(EngineClient) -> F)
    where
        F: Future<Output = RequestResult> + Send + 'static,
    {
        self.watcher.count_request();
        self.results.spawn(request(self.client.clone()));
    }

    fn list_containers(&mut self, timeout: Duration) {
        if self.buffered_events.is_none() {
            self.buffered_events = Some(VecDeque::new());
            self.resync_due = Instant::now() + self.watcher.intervals.resync_every;
            self.spawn_request(|client| async move {
                RequestResult::Containers(client.containers(timeout).await)
            });
        }
    }

    fn list_images(&mut self) {
        self.images_due = None;
        if self.listing_images.is_some() {
            self.listing_images = Some(true);
            return;
        }
        self.listing_images = Some(false);
        let timeout = self.watcher.intervals.request_timeout;
        self.spawn_request(|client| async move {
            RequestResult::Images(client.images(MAX_IMAGES, timeout).await)
        });
    }

    /// Starts as many queued inspects as the limit allows.
    fn start_inspects(&mut self) {
        let timeout = self.watcher.intervals.request_timeout;
        while self.in_flight_count < MAX_CONCURRENT_INSPECTS {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            self.queued.remove(&id);
            self.in_flight.insert(id.clone(), false);
            self.in_flight_count += 1;
            self.spawn_request(|client| async move {
                let result = client.container(&id, timeout).await;
                RequestResult::Container(id, result.map(|container| container.map(Box::new)))
            });
        }
    }

    /// Queues an inspect of a container, delayed to the minimum gap since the last one.
    fn schedule_inspect(&mut self, id: String, min_gap: Duration) {
        if let Some(repeat) = self.in_flight.get_mut(&id) {
            *repeat = true;
            return;
        }
        if self.queued.contains(&id) {
            return;
        }
        let now = Instant::now();
        match self
            .inspected_at
            .get(&id)
            .map(|inspected| *inspected + min_gap)
        {
            Some(due) if due > now => {
                let scheduled = self.delayed.entry(id).or_insert(due);
                *scheduled = due.min(*scheduled);
            }
            _ => {
                self.delayed.remove(&id);
                self.queued.insert(id.clone());
                self.queue.push_back(id);
            }
        }
    }

    /// Cancels inspects of a container.
    fn cancel_inspect(&mut self, id: &str) {
        self.in_flight.remove(id);
        self.delayed.remove(id);
        self.failed_inspects.remove(id);
        self.initial.remove(id);
        self.inspected_at.remove(id);
        if self.queued.remove(id) {
            self.queue.retain(|queued| queued != id);
        }
    }

    fn receive_event(&mut self, event: EngineEvent) {
        self.event_window.1 += 1;
        self.last_activity = Instant::now();
        let last_activity = self.last_activity;
        let is_up = self.up_since.is_some();
        self.watcher.update(|engine, _| {
            engine.events = engine.events.saturating_add(1);
            if is_up {
                engine.confirmed = Some(last_activity);
            }
        });
        match &mut self.buffered_events {
            Some(events) => events.push_back(event),
            None => self.apply_event(event),
        }
    }

    fn apply_event(&mut self, event: EngineEvent) {
        let timing = self.watcher.intervals;
        match self
            .watcher
            .update(|engine, cache| cache.apply_event(engine, event))
        {
            NextAction::Nothing => {}
            NextAction::Inspect(id) => self.schedule_inspect(id, timing.min_inspect_gap),
            NextAction::InspectThrottled(id) => {
                self.schedule_inspect(id, timing.min_health_inspect_gap);
            }
            NextAction::CancelInspect(id) => self.cancel_inspect(&id),
            NextAction::ListImages => {
                let due = Instant::now() + timing.debounce;
                self.images_due.get_or_insert(due);
            }
            NextAction::Resync => {
                self.inspect_all = true;
                self.list_containers(timing.request_timeout);
            }
        }
    }

    fn handle_result(&mut self, result: RequestResult) -> EngineResult<()> {
        if result.is_ok() {
            self.last_activity = Instant::now();
        }
        match result {
            RequestResult::Containers(list) => self.apply_container_list(list?),
            RequestResult::Container(id, result) => {
                self.in_flight_count = self.in_flight_count.saturating_sub(1);
                self.apply_inspect(id, result);
            }
            RequestResult::Images(images) => self.apply_image_list(images),
            RequestResult::CgroupDriver(driver) => {
                self.awaiting_info = false;
                self.watcher.update(|engine, _| {
                    // After an error, the value from an earlier connection is kept.
                    if let Ok(Some(driver)) = driver {
                        engine.cgroup_driver = Some(driver);
                    }
                });
            }
            RequestResult::Ping(result) => {
                self.pinging = false;
                result?;
            }
            RequestResult::DiskUsage(disk_usage) => self.watcher.store_disk_usage(disk_usage),
        }
        self.mark_confirmed();
        Ok(())
    }

    fn apply_container_list(&mut self, list: Vec<ListedContainer>) {
        let timing = self.watcher.intervals;
        let ids: Vec<String> = if self.inspect_all {
            list.iter().map(|listed| listed.id.clone()).collect()
        } else {
            Vec::new()
        };
        let changed = self
            .watcher
            .update(|engine, cache| cache.apply_list(engine, list));
        let ids = if self.inspect_all {
            ids.into_iter().take(MAX_CONTAINERS).collect()
        } else {
            changed
        };
        if self.inspect_all && self.up_since.is_none() {
            self.initial = ids.iter().cloned().collect();
        }
        self.inspect_all = false;
        let engine = self.watcher.engines.engines();
        let engine = engine.iter().find(|e| e.socket == self.watcher.socket);
        if let Some(engine) = engine {
            self.failed_inspects
                .retain(|id, _| engine.containers.contains_key(id));
        }
        for id in ids {
            self.schedule_inspect(id, timing.min_inspect_gap);
        }
        for event in self.buffered_events.take().into_iter().flatten() {
            match self.buffered_events.as_mut() {
                // One of these events started another list.
                Some(events) => events.push_back(event),
                None => self.apply_event(event),
            }
        }
    }

    fn apply_image_list(&mut self, images: EngineResult<Vec<Image>>) {
        if self.listing_images.take() == Some(true) {
            let due = Instant::now() + self.watcher.intervals.debounce;
            self.images_due.get_or_insert(due);
        }
        match images {
            Ok(list) => {
                self.images_error = None;
                self.watcher.update(|engine, _| {
                    if engine.images.as_deref() != Some(&list) {
                        engine.images = Some(Arc::new(list));
                    }
                });
            }
            Err(error) => self.images_error = Some(error),
        }
    }

    fn apply_inspect(&mut self, id: String, result: EngineResult<Option<Box<InspectedContainer>>>) {
        // The inspect was cancelled because the container was removed.
        let Some(repeat) = self.in_flight.remove(&id) else {
            return;
        };
        let timing = self.watcher.intervals;
        let now = Instant::now();
        self.initial.remove(&id);
        self.failed_inspects.remove(&id);
        if self.inspected_at.len() >= self.prune_at_len {
            self.inspected_at
                .retain(|_, inspected| inspected.elapsed() < timing.min_health_inspect_gap);
            // Doubling the threshold avoids a scan per inspect when there are many containers.
            self.prune_at_len = MIN_PRUNE_LEN.max(self.inspected_at.len() * 2);
        }
        self.inspected_at.insert(id.clone(), now);
        match result {
            Ok(Some(inspected)) => {
                self.watcher
                    .update(|engine, cache| cache.apply_inspect(engine, *inspected));
            }
            Ok(None) => {
                self.watcher
                    .update(|engine, cache| cache.remove(engine, &id));
                self.cancel_inspect(&id);
                return;
            }
            Err(error) => {
                let is_known =
                    (self.watcher).update(|engine, _| engine.containers.contains_key(&id));
                if is_known {
                    self.failed_inspects.insert(id.clone(), error);
                    self.delayed.insert(id.clone(), now + timing.ping_after);
                }
            }
        }
        if repeat {
            self.schedule_inspect(id, timing.min_inspect_gap);
        }
    }

    fn handle_unknown_container(&mut self, id: String) {
        let timing = self.watcher.intervals;
        self.next_unknown_inspect = Instant::now() + timing.min_unknown_inspect_gap;
        let is_known = self
            .watcher
            .update(|engine, _| engine.containers.contains_key(&id));
        if !is_known {
            self.schedule_inspect(id, timing.min_inspect_gap);
        }
    }

    /// Marks the cache as current, if it is complete.
    fn mark_confirmed(&mut self) {
        let (is_up, last_activity) = (self.up_since.is_some(), self.last_activity);
        let degraded_reason = self.degraded_reason();
        self.watcher.update(|engine, _| {
            if is_up {
                engine.confirmed = Some(last_activity);
                engine.error = degraded_reason;
            }
        });
    }

    /// Returns what is missing although the engine is up.
    fn degraded_reason(&self) -> Option<String> {
        if self.watcher.cache.dropped > 0 {
            let dropped = self.watcher.cache.dropped;
            return Some(format!(
                "{dropped} containers beyond the limit of {MAX_CONTAINERS} were dropped"
            ));
        }
        if let Some((id, error)) = self.failed_inspects.first_key_value() {
            let short_id: String = id.chars().take(12).collect();
            let others = match self.failed_inspects.len() {
                1 => String::new(),
                n => format!(", and {} more", n - 1),
            };
            return Some(format!("{error} ({short_id}{others})"));
        }
        self.images_error.as_ref().map(ToString::to_string)
    }

    /// Marks the engine up once the cache is complete.
    fn mark_up_if_complete(&mut self) {
        let is_complete = self.buffered_events.is_none()
            && self.initial.is_empty()
            && !self.awaiting_info
            && !self.inspect_all;
        if self.up_since.is_some() || !is_complete {
            return;
        }
        let now = Instant::now();
        *self.up_since = Some(now);
        let first_disk_usage_after = self.watcher.intervals.first_disk_usage_after;
        self.watcher
            .disk_usage
            .delay_until(now + first_disk_usage_after);
        let last_activity = self.last_activity;
        let degraded_reason = self.degraded_reason();
        let (version, containers) = self.watcher.update(|engine, _| {
            engine.up = true;
            engine.confirmed = Some(last_activity);
            engine.error = degraded_reason;
            (engine.version.clone(), engine.containers.len())
        });
        if self.watcher.logged_up != Some(true) {
            let (engine, socket) = (self.watcher.name(), self.watcher.socket.display());
            let version = version.unwrap_or_default();
            info!(engine, %socket, version, containers, "engine connected");
            self.watcher.logged_up = Some(true);
        }
    }

    /// Returns when the next scheduled work is due, if no data arrives before.
    fn next_wake(&self, can_receive: bool) -> Instant {
        let mut wakeup = self.resync_due;
        if !self.pinging {
            wakeup = wakeup.min(self.last_activity + self.watcher.intervals.ping_after);
        }
        if !can_receive {
            wakeup = wakeup.min(self.event_window.0 + Duration::from_secs(1));
        }
        if self.next_unknown_inspect > Instant::now() {
            wakeup = wakeup.min(self.next_unknown_inspect);
        }
        let disk_usage_due = self.disk_usage_due();
        let others = self
            .delayed
            .values()
            .chain(&self.images_due)
            .chain(&disk_usage_due);
        others.fold(wakeup, |wakeup, due| wakeup.min(*due))
    }

    /// Returns when to request disk usage; only while the engine is up.
    fn disk_usage_due(&self) -> Option<Instant> {
        let next = self.watcher.disk_usage.next_due();
        next.filter(|_| self.up_since.is_some())
    }

    fn run_due_tasks(&mut self) {
        let timing = self.watcher.intervals;
        let now = Instant::now();
        if self.disk_usage_due().is_some_and(|due| now >= due) {
            self.watcher.disk_usage.started = Some(now);
            self.spawn_request(|client| async move {
                RequestResult::DiskUsage(client.disk_usage(timing.disk_usage_timeout).await)
            });
        }
        if self.images_due.is_some_and(|due| now >= due) {
            self.list_images();
        }
        if now >= self.resync_due {
            self.inspected_at
                .retain(|_, inspected| inspected.elapsed() < timing.min_health_inspect_gap);
            self.list_containers(timing.request_timeout);
            self.resync_due = now + timing.resync_every;
            self.list_images();
        }
        if !self.pinging && now >= self.last_activity + timing.ping_after {
            self.pinging = true;
            self.spawn_request(|client| async move {
                RequestResult::Ping(client.ping(timing.request_timeout).await)
            });
        }
        let due: Vec<_> = self
            .delayed
            .iter()
            .filter(|(_, due)| now >= **due)
            .collect();
        let due: Vec<String> = due.into_iter().map(|(id, _)| id.clone()).collect();
        for id in due {
            self.delayed.remove(&id);
            self.schedule_inspect(id, Duration::ZERO);
        }
    }
}

/// Returns the time with jitter, so that exporters that lost an engine do not reconnect at once.
fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    let factor = 768 + u32::try_from(random).unwrap_or_default();
    time.saturating_mul(factor) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_is_no_sign_of_life() {
        let error = || EngineError::new("ping", "timed out");
        assert!(RequestResult::Ping(Ok(())).is_ok());
        assert!(RequestResult::Container(String::new(), Ok(None)).is_ok());
        for result in [
            RequestResult::Containers(Err(error())),
            RequestResult::Container(String::new(), Err(error())),
            RequestResult::Images(Err(error())),
            RequestResult::CgroupDriver(Err(error())),
            RequestResult::Ping(Err(error())),
            RequestResult::DiskUsage(Err(error())),
        ] {
            assert!(!result.is_ok());
        }
    }

    #[test]
    fn jittered_delay_stays_near_its_base() {
        let second = Duration::from_secs(1);
        for _ in 0..1000 {
            let delay = jittered(second);
            assert!(
                delay >= second * 3 / 4 && delay < second * 5 / 4,
                "{delay:?}"
            );
        }
        assert_eq!(jittered(Duration::ZERO), Duration::ZERO);
        assert!(jittered(Duration::MAX) > Duration::ZERO);
    }

    #[test]
    fn disk_usage_requests_keep_interval_and_time_share() {
        let (minute, now) = (Duration::from_secs(60), Instant::now());
        let Some(earlier) = now.checked_sub(10 * minute) else {
            return;
        };
        let mut schedule = DiskUsageSchedule::default();
        schedule.delay_until(now);
        assert_eq!(schedule.next_due(), None, "no interval");

        schedule.interval = Some(200 * minute);
        schedule.delay_until(now + minute);
        schedule.delay_until(now);
        assert_eq!(schedule.next_due(), Some(now + minute));
        schedule.started = Some(earlier);
        assert_eq!(schedule.next_due(), None, "request in flight");
        schedule.finish();
        assert_eq!(schedule.next_due(), Some(earlier + 200 * minute));

        schedule.interval = Some(minute);
        schedule.started = Some(earlier);
        schedule.finish();
        assert!(schedule.next_due() >= Some(earlier + 100 * minute));
    }
}
