//! The tasks: one that looks for engines, and one for each that follows it.
//!
//! Who follows listens for events first, then lists all containers, then asks about each,
//! and takes in afterwards what was told meanwhile: so nothing is missed. An engine that
//! cannot be followed any more keeps its copy, and is tried again, ever more seldom.

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
    Engine, Engines, Image, MAX_WAITING, Sizes,
    answers::{Event, Inspected, Kept, Listed},
    cache::{Cache, MAX_CONTAINERS, Next},
    connection::{Client, Events, Failure, Result},
};

/// So many containers are asked about at a time.
const ABREAST: usize = 4;
/// So many events are kept while a list is on its way; who tells more has to wait.
const MAX_KEPT_EVENTS: usize = 10_000;
/// So many events are taken in a second; who tells more has to wait.
const MAX_EVENTS: u32 = 1000;
/// Of the time, no more than one part in so many goes by with sizes being reckoned.
const SIZES_SHARE: u32 = 10;
/// More images are left out.
const MAX_IMAGES: usize = 10_000;
/// So many times of questions are remembered before old ones are forgotten, at least.
const MAX_TIMES: usize = 1000;

/// How often engines are asked, and how long they are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From one look for sockets to the next.
    pub look: Duration,
    /// Until an engine that failed is tried again, the first time.
    pub backoff: Duration,
    /// The same, at most. Who was followed for so long begins anew.
    pub max_backoff: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long the first list may take.
    pub first_list: Duration,
    /// How long an engine may be silent before it is asked whether it is there.
    pub silence: Duration,
    /// From one list of containers and images to the next.
    pub refresh: Duration,
    /// From one question about a container to the next about the same one.
    pub pause: Duration,
    /// The same, if all that was told is that its health was checked.
    pub long_pause: Duration,
    /// From what happens to images to a list of them.
    pub settle: Duration,
    /// From one question about a container that no engine told of to the next.
    pub unknown: Duration,
    /// How long such a container is not asked about again.
    pub ask_again: Duration,
    /// From when an engine is followed to the first question for sizes on disk.
    pub first_sizes: Duration,
    /// How long that answer may take.
    pub sizes: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(30),
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            answer: Duration::from_secs(10),
            first_list: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            refresh: Duration::from_secs(300),
            pause: Duration::from_millis(200),
            long_pause: Duration::from_secs(10),
            settle: Duration::from_secs(1),
            unknown: Duration::from_millis(100),
            ask_again: Duration::from_secs(600),
            first_sizes: Duration::from_secs(60),
            sizes: Duration::from_secs(300),
        }
    }
}

/// Looks for engines for ever, and lets each be followed.
pub(super) async fn all(engines: Arc<Engines>) {
    let (sockets, are_named) = engines.flags.sockets();
    // By where they really are: one may be linked to the other.
    let mut followed: HashMap<PathBuf, PathBuf> = HashMap::new();
    while !sockets.is_empty() {
        for socket in &sockets {
            let is_listed = |engines: &Engines| {
                let known = engines.known();
                known.iter().any(|engine| engine.socket == *socket)
            };
            let Ok(place) = socket.canonicalize() else {
                if are_named && !is_listed(&engines) {
                    let mut engine = Engine::at(socket.clone());
                    engine.error = Some("there is no such socket".to_owned());
                    warn!(socket = %socket.display(), "there is no such engine socket yet");
                    engines.add(engine);
                }
                continue;
            };
            if let Some(first) = followed.get(&place) {
                if first != socket {
                    engines.remove(socket);
                }
                continue;
            }
            if followed.values().any(|known| known == socket) {
                // It is somewhere else now, and followed all the same.
                continue;
            }
            followed.insert(place, socket.clone());
            if !is_listed(&engines) {
                engines.add(Engine::at(socket.clone()));
            }
            let task = Follower::new(Arc::clone(&engines), socket).run();
            tokio::spawn(task);
        }
        if followed.len() == sockets.len() {
            return;
        }
        sleep(engines.timing.look).await;
    }
}

/// Follows one engine.
struct Follower {
    engines: Arc<Engines>,
    socket: PathBuf,
    timing: Timing,
    kept: Arc<Kept>,
    cache: Cache,
    /// Containers that somebody saw.
    seen: mpsc::Receiver<String>,
    /// Whether the log last said that it is followed.
    is_said_up: Option<bool>,
    sizes: SizesPlan,
}

/// When to ask for sizes on disk: from one connection to the next.
#[derive(Default)]
struct SizesPlan {
    /// How often, if at all.
    every: Option<Duration>,
    /// When next, at the earliest.
    due: Option<Instant>,
    /// Since when it is being asked.
    asked: Option<Instant>,
    /// Whether the log last said that there is no answer.
    is_said_failed: bool,
}

impl SizesPlan {
    /// When to ask next, unless it is being asked.
    fn next(&self) -> Option<Instant> {
        self.due.filter(|_| self.asked.is_none())
    }

    /// Puts off the next question until this time.
    fn not_before(&mut self, time: Instant) {
        if self.every.is_some() {
            self.due = self.due.max(Some(time));
        }
    }

    /// Plans the next question after one that was answered or not.
    fn over(&mut self) {
        let (Some(every), Some(asked)) = (self.every, self.asked.take()) else {
            return;
        };
        let pause = asked.elapsed().saturating_mul(SIZES_SHARE);
        self.due = asked.checked_add(every.max(pause));
    }
}

impl Follower {
    fn new(engines: Arc<Engines>, socket: &Path) -> Self {
        let (asker, seen) = mpsc::channel(MAX_WAITING);
        engines.add_asker(socket, asker);
        Self {
            socket: socket.to_owned(),
            timing: engines.timing,
            kept: Arc::new(Kept {
                labels: engines.flags.engine_label_include.iter().cloned().collect(),
                images: engines.flags.engine_image_include.clone(),
            }),
            cache: Cache::default(),
            seen,
            is_said_up: None,
            sizes: SizesPlan {
                every: engines.flags.sizes,
                ..SizesPlan::default()
            },
            engines,
        }
    }

    async fn run(mut self) {
        let mut backoff = self.timing.backoff;
        loop {
            let mut up_since = None;
            let failure = self.follow(&mut up_since).await;
            if self.sizes.asked.is_some() {
                self.have_sizes(Err(failure.clone()));
            }
            self.with(|engine, _| {
                engine.up = false;
                engine.error = Some(failure.to_string());
            });
            if self.is_said_up != Some(false) {
                let (engine, socket) = (self.name(), self.socket.display());
                warn!(engine, %socket, error = %failure, "engine is not followed");
                self.is_said_up = Some(false);
            }
            if up_since.is_some_and(|up: Instant| up.elapsed() >= self.timing.max_backoff) {
                backoff = self.timing.backoff;
            }
            sleep(about(backoff)).await;
            backoff = backoff.saturating_mul(2).min(self.timing.max_backoff);
        }
    }

    /// Follows until that fails.
    async fn follow(&mut self, up_since: &mut Option<Instant>) -> Failure {
        let begun = match self.begin().await {
            Ok(begun) => begun,
            Err(failure) => return failure,
        };
        let (client, events) = begun;
        while self.seen.try_recv().is_ok() {}
        let session = Session::new(self, client, events, up_since);
        let Err(failure) = session.run().await;
        failure
    }

    async fn begin(&mut self) -> Result<(Client, Events)> {
        let mut client = Client::new(&self.socket, Arc::clone(&self.kept));
        self.ask();
        let version = client.version(self.timing.answer).await?;
        client.speak(version.api.as_deref());
        self.with(|engine, _| {
            engine.connections = engine.connections.saturating_add(1);
            engine.kind = Some(version.kind);
            engine.version = version.version;
            engine.api_version = version.api;
        });
        self.ask();
        let events = client.events(self.timing.answer).await?;
        Ok((client, events))
    }

    /// Takes in what was said of room on disk. Without an answer the old one stays.
    fn have_sizes(&mut self, answer: Result<Sizes>) {
        self.sizes.over();
        let failure = match answer {
            Ok(sizes) => {
                self.sizes.is_said_failed = false;
                self.with(|engine, _| engine.sizes = Some(Arc::new(sizes)));
                return;
            }
            Err(failure) => failure,
        };
        self.with(|engine, _| {
            engine.sizes_failures = engine.sizes_failures.saturating_add(1);
        });
        if !self.sizes.is_said_failed {
            let (engine, socket) = (self.name(), self.socket.display());
            warn!(engine, %socket, error = %failure, "engine does not say what is on its disk");
            self.sizes.is_said_failed = true;
        }
    }

    /// Counts a request.
    fn ask(&mut self) {
        self.with(|engine, _| engine.requests = engine.requests.saturating_add(1));
    }

    fn with<T: Default>(&mut self, change: impl FnOnce(&mut Engine, &mut Cache) -> T) -> T {
        let cache = &mut self.cache;
        let change = |engine: &mut Engine| change(engine, cache);
        self.engines.with(&self.socket, change).unwrap_or_default()
    }

    fn name(&self) -> &'static str {
        let known = self.engines.known();
        let engine = known.iter().find(|engine| engine.socket == self.socket);
        let kind = engine.and_then(|engine| engine.kind);
        kind.map_or("unknown", super::Kind::name)
    }
}

/// An answer that was waited for.
enum Answer {
    Containers(Result<Vec<Listed>>),
    Container(String, Result<Option<Box<Inspected>>>),
    Images(Result<Vec<Image>>),
    CgroupDriver(Result<Option<String>>),
    Ping(Result<()>),
    Sizes(Result<Sizes>),
}

impl Answer {
    /// Whether the engine said something: who gives up waiting has heard nothing.
    fn is_heard(&self) -> bool {
        match self {
            Self::Containers(answer) => answer.is_ok(),
            Self::Container(_, answer) => answer.is_ok(),
            Self::Images(answer) => answer.is_ok(),
            Self::CgroupDriver(answer) => answer.is_ok(),
            Self::Ping(answer) => answer.is_ok(),
            Self::Sizes(answer) => answer.is_ok(),
        }
    }
}

/// From connecting to an engine to losing it.
struct Session<'a> {
    follower: &'a mut Follower,
    client: Client,
    events: Events,
    up_since: &'a mut Option<Instant>,
    answers: JoinSet<Answer>,
    /// Events that came while the list is on its way, to be taken in after it.
    while_listing: Option<VecDeque<Event>>,
    /// All are asked about after the next list, changed or not.
    ask_all: bool,
    /// Those that were there at the beginning and have not been asked about.
    initial: HashSet<String>,
    /// Whether the engine's settings are on their way for the first time.
    waits_for_settings: bool,
    /// To be asked about.
    queue: VecDeque<String>,
    queued: HashSet<String>,
    later: BTreeMap<String, Instant>,
    /// Being asked about, and whether to ask again because something happened.
    asking: HashMap<String, bool>,
    /// Questions about containers that are on their way, also about those that are gone.
    under_way: usize,
    asked_at: HashMap<String, Instant>,
    /// With how many of those to look for old ones.
    full_at: usize,
    /// Those that were asked about in vain, and why.
    failed: BTreeMap<String, Failure>,
    images_failed: Option<Failure>,
    heard: Instant,
    pinging: bool,
    /// Whether the images are on their way, and whether something happened to them since.
    listing_images: Option<bool>,
    refresh_at: Instant,
    images_at: Option<Instant>,
    next_seen: Instant,
    /// Events of this second.
    second: (Instant, u32),
}

impl<'a> Session<'a> {
    fn new(
        follower: &'a mut Follower,
        client: Client,
        events: Events,
        up_since: &'a mut Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        Self {
            refresh_at: now + follower.timing.refresh,
            follower,
            client,
            events,
            up_since,
            answers: JoinSet::new(),
            while_listing: None,
            ask_all: true,
            initial: HashSet::new(),
            waits_for_settings: true,
            queue: VecDeque::new(),
            queued: HashSet::new(),
            later: BTreeMap::new(),
            asking: HashMap::new(),
            under_way: 0,
            asked_at: HashMap::new(),
            full_at: MAX_TIMES,
            failed: BTreeMap::new(),
            images_failed: None,
            heard: now,
            pinging: false,
            listing_images: None,
            images_at: None,
            next_seen: now,
            second: (now, 0),
        }
    }

    async fn run(mut self) -> Result<std::convert::Infallible> {
        let timing = self.follower.timing;
        self.list_containers(timing.first_list);
        self.list_images();
        self.ask(|client| async move {
            Answer::CgroupDriver(client.cgroup_driver(timing.answer).await)
        });
        loop {
            self.ask_next();
            self.note_up();
            let now = Instant::now();
            if now >= self.second.0 + Duration::from_secs(1) {
                self.second = (now, 0);
            }
            let kept = self.while_listing.as_ref().map_or(0, VecDeque::len);
            let has_room = self.second.1 < MAX_EVENTS && kept < MAX_KEPT_EVENTS;
            let wake = self.next_wake(has_room);
            tokio::select! {
                event = self.events.next(), if has_room => self.take(event?),
                Some(answer) = self.answers.join_next() => {
                    if let Ok(answer) = answer {
                        self.answered(answer)?;
                    }
                }
                Some(id) = self.follower.seen.recv(), if now >= self.next_seen => self.saw(id),
                () = sleep_until(wake.into()) => self.woke(),
            }
        }
    }

    /// Asks in the background.
    fn ask<F>(&mut self, question: impl FnOnce(Client) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.follower.ask();
        self.answers.spawn(question(self.client.clone()));
    }

    fn list_containers(&mut self, within: Duration) {
        if self.while_listing.is_none() {
            self.while_listing = Some(VecDeque::new());
            self.refresh_at = Instant::now() + self.follower.timing.refresh;
            self.ask(|client| async move { Answer::Containers(client.containers(within).await) });
        }
    }

    fn list_images(&mut self) {
        self.images_at = None;
        if self.listing_images.is_some() {
            self.listing_images = Some(true);
            return;
        }
        self.listing_images = Some(false);
        let within = self.follower.timing.answer;
        self.ask(|client| async move { Answer::Images(client.images(MAX_IMAGES, within).await) });
    }

    /// Asks about as many containers as may be asked about now.
    fn ask_next(&mut self) {
        let within = self.follower.timing.answer;
        while self.under_way < ABREAST {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            self.queued.remove(&id);
            self.asking.insert(id.clone(), false);
            self.under_way += 1;
            self.ask(|client| async move {
                let answer = client.container(&id, within).await;
                Answer::Container(id, answer.map(|found| found.map(Box::new)))
            });
        }
    }

    /// Lets a container be asked about, not too soon after the last time.
    fn want(&mut self, id: String, pause: Duration) {
        if let Some(again) = self.asking.get_mut(&id) {
            *again = true;
            return;
        }
        if self.queued.contains(&id) {
            return;
        }
        let now = Instant::now();
        match self.asked_at.get(&id).map(|asked| *asked + pause) {
            Some(due) if due > now => {
                let at = self.later.entry(id).or_insert(due);
                *at = due.min(*at);
            }
            _ => {
                self.later.remove(&id);
                self.queued.insert(id.clone());
                self.queue.push_back(id);
            }
        }
    }

    /// Asks no more about a container.
    fn forget(&mut self, id: &str) {
        self.asking.remove(id);
        self.later.remove(id);
        self.failed.remove(id);
        self.initial.remove(id);
        self.asked_at.remove(id);
        if self.queued.remove(id) {
            self.queue.retain(|queued| queued != id);
        }
    }

    fn take(&mut self, event: Event) {
        self.second.1 += 1;
        self.heard = Instant::now();
        let heard = self.heard;
        let is_up = self.up_since.is_some();
        self.follower.with(|engine, _| {
            engine.events = engine.events.saturating_add(1);
            if is_up {
                engine.confirmed = Some(heard);
            }
        });
        match &mut self.while_listing {
            Some(events) => events.push_back(event),
            None => self.apply(event),
        }
    }

    fn apply(&mut self, event: Event) {
        let timing = self.follower.timing;
        match self
            .follower
            .with(|engine, cache| cache.happened(engine, event))
        {
            Next::Nothing => {}
            Next::Ask(id) => self.want(id, timing.pause),
            Next::AskSeldom(id) => self.want(id, timing.long_pause),
            Next::Forget(id) => self.forget(&id),
            Next::ListImages => {
                let due = Instant::now() + timing.settle;
                self.images_at.get_or_insert(due);
            }
            Next::ListAll => {
                self.ask_all = true;
                self.list_containers(timing.answer);
            }
        }
    }

    fn answered(&mut self, answer: Answer) -> Result<()> {
        if answer.is_heard() {
            self.heard = Instant::now();
        }
        match answer {
            Answer::Containers(list) => self.listed(list?),
            Answer::Container(id, answer) => {
                self.under_way = self.under_way.saturating_sub(1);
                self.described(id, answer);
            }
            Answer::Images(images) => self.listed_images(images),
            Answer::CgroupDriver(driver) => {
                self.waits_for_settings = false;
                self.follower.with(|engine, _| {
                    // Who does not say it now has said it before, perhaps.
                    if let Ok(Some(driver)) = driver {
                        engine.cgroup_driver = Some(driver);
                    }
                });
            }
            Answer::Ping(pong) => {
                self.pinging = false;
                pong?;
            }
            Answer::Sizes(sizes) => self.follower.have_sizes(sizes),
        }
        self.confirm();
        Ok(())
    }

    fn listed(&mut self, list: Vec<Listed>) {
        let timing = self.follower.timing;
        let all: Vec<String> = if self.ask_all {
            list.iter().map(|listed| listed.id.clone()).collect()
        } else {
            Vec::new()
        };
        let changed = self
            .follower
            .with(|engine, cache| cache.listed(engine, list));
        let all = if self.ask_all {
            all.into_iter().take(MAX_CONTAINERS).collect()
        } else {
            changed
        };
        if self.ask_all && self.up_since.is_none() {
            self.initial = all.iter().cloned().collect();
        }
        self.ask_all = false;
        let known = self.follower.engines.known();
        let known = known.iter().find(|e| e.socket == self.follower.socket);
        if let Some(known) = known {
            self.failed
                .retain(|id, _| known.containers.contains_key(id));
        }
        for id in all {
            self.want(id, timing.pause);
        }
        for event in self.while_listing.take().into_iter().flatten() {
            match self.while_listing.as_mut() {
                // One of them asked for yet another list.
                Some(events) => events.push_back(event),
                None => self.apply(event),
            }
        }
    }

    fn listed_images(&mut self, images: Result<Vec<Image>>) {
        if self.listing_images.take() == Some(true) {
            let due = Instant::now() + self.follower.timing.settle;
            self.images_at.get_or_insert(due);
        }
        match images {
            Ok(list) => {
                self.images_failed = None;
                self.follower.with(|engine, _| {
                    if engine.images.as_deref() != Some(&list) {
                        engine.images = Some(Arc::new(list));
                    }
                });
            }
            Err(failure) => self.images_failed = Some(failure),
        }
    }

    fn described(&mut self, id: String, answer: Result<Option<Box<Inspected>>>) {
        // Who is not waited for any more is gone.
        let Some(again) = self.asking.remove(&id) else {
            return;
        };
        let timing = self.follower.timing;
        let now = Instant::now();
        self.initial.remove(&id);
        self.failed.remove(&id);
        if self.asked_at.len() >= self.full_at {
            self.asked_at
                .retain(|_, asked| asked.elapsed() < timing.long_pause);
            // Not with each question, where many are asked at a time.
            self.full_at = MAX_TIMES.max(self.asked_at.len() * 2);
        }
        self.asked_at.insert(id.clone(), now);
        match answer {
            Ok(Some(inspected)) => {
                self.follower
                    .with(|engine, cache| cache.inspected(engine, *inspected));
            }
            Ok(None) => {
                self.follower
                    .with(|engine, cache| cache.removed(engine, &id));
                self.forget(&id);
                return;
            }
            Err(failure) => {
                let is_known =
                    (self.follower).with(|engine, _| engine.containers.contains_key(&id));
                if is_known {
                    self.failed.insert(id.clone(), failure);
                    self.later.insert(id.clone(), now + timing.silence);
                }
            }
        }
        if again {
            self.want(id, timing.pause);
        }
    }

    fn saw(&mut self, id: String) {
        let timing = self.follower.timing;
        self.next_seen = Instant::now() + timing.unknown;
        let is_known = self
            .follower
            .with(|engine, _| engine.containers.contains_key(&id));
        if !is_known {
            self.want(id, timing.pause);
        }
    }

    /// The copy is current now, if it is complete.
    fn confirm(&mut self) {
        let (is_up, heard) = (self.up_since.is_some(), self.heard);
        let problem = self.problem();
        self.follower.with(|engine, _| {
            if is_up {
                engine.confirmed = Some(heard);
                engine.error = problem;
            }
        });
    }

    /// What is missing although the engine is followed.
    fn problem(&self) -> Option<String> {
        if self.follower.cache.left_out > 0 {
            let left_out = self.follower.cache.left_out;
            return Some(format!(
                "{left_out} containers beyond {MAX_CONTAINERS} are left out"
            ));
        }
        if let Some((id, failure)) = self.failed.first_key_value() {
            let short: String = id.chars().take(12).collect();
            let more = match self.failed.len() {
                1 => String::new(),
                n => format!(", and {} more", n - 1),
            };
            return Some(format!("{failure} ({short}{more})"));
        }
        self.images_failed.as_ref().map(ToString::to_string)
    }

    /// Says that the copy is complete, once it is.
    fn note_up(&mut self) {
        let is_complete = self.while_listing.is_none()
            && self.initial.is_empty()
            && !self.waits_for_settings
            && !self.ask_all;
        if self.up_since.is_some() || !is_complete {
            return;
        }
        let now = Instant::now();
        *self.up_since = Some(now);
        let first_sizes = self.follower.timing.first_sizes;
        self.follower.sizes.not_before(now + first_sizes);
        let heard = self.heard;
        let problem = self.problem();
        let (version, containers) = self.follower.with(|engine, _| {
            engine.up = true;
            engine.confirmed = Some(heard);
            engine.error = problem;
            (engine.version.clone(), engine.containers.len())
        });
        if self.follower.is_said_up != Some(true) {
            let (engine, socket) = (self.follower.name(), self.follower.socket.display());
            let version = version.unwrap_or_default();
            info!(engine, %socket, version, containers, "engine is followed");
            self.follower.is_said_up = Some(true);
        }
    }

    /// When there is something to do, if nothing is heard until then.
    fn next_wake(&self, has_room: bool) -> Instant {
        let mut wake = self.refresh_at;
        if !self.pinging {
            wake = wake.min(self.heard + self.follower.timing.silence);
        }
        if !has_room {
            wake = wake.min(self.second.0 + Duration::from_secs(1));
        }
        if self.next_seen > Instant::now() {
            wake = wake.min(self.next_seen);
        }
        let sizes_at = self.sizes_at();
        let others = self.later.values().chain(&self.images_at).chain(&sizes_at);
        others.fold(wake, |wake, at| wake.min(*at))
    }

    /// When to ask for sizes on disk: only who is followed is asked.
    fn sizes_at(&self) -> Option<Instant> {
        let next = self.follower.sizes.next();
        next.filter(|_| self.up_since.is_some())
    }

    fn woke(&mut self) {
        let timing = self.follower.timing;
        let now = Instant::now();
        if self.sizes_at().is_some_and(|at| now >= at) {
            self.follower.sizes.asked = Some(now);
            self.ask(|client| async move { Answer::Sizes(client.sizes(timing.sizes).await) });
        }
        if self.images_at.is_some_and(|at| now >= at) {
            self.list_images();
        }
        if now >= self.refresh_at {
            self.asked_at
                .retain(|_, asked| asked.elapsed() < timing.long_pause);
            self.list_containers(timing.answer);
            self.refresh_at = now + timing.refresh;
            self.list_images();
        }
        if !self.pinging && now >= self.heard + timing.silence {
            self.pinging = true;
            self.ask(|client| async move { Answer::Ping(client.ping(timing.answer).await) });
        }
        let due: Vec<_> = self.later.iter().filter(|(_, at)| now >= **at).collect();
        let due: Vec<String> = due.into_iter().map(|(id, _)| id.clone()).collect();
        for id in due {
            self.later.remove(&id);
            self.want(id, Duration::ZERO);
        }
    }
}

/// Somewhat more or less, so that many who lost the same engine do not come back at once.
fn about(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    let factor = 768 + u32::try_from(random).unwrap_or_default();
    time.saturating_mul(factor) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_waiting_has_heard_nothing() {
        let failure = || Failure::new("it", "no answer in time");
        assert!(Answer::Ping(Ok(())).is_heard());
        assert!(Answer::Container(String::new(), Ok(None)).is_heard());
        for answer in [
            Answer::Containers(Err(failure())),
            Answer::Container(String::new(), Err(failure())),
            Answer::Images(Err(failure())),
            Answer::CgroupDriver(Err(failure())),
            Answer::Ping(Err(failure())),
            Answer::Sizes(Err(failure())),
        ] {
            assert!(!answer.is_heard());
        }
    }

    #[test]
    fn a_pause_is_somewhat_more_or_less_than_it_should_be() {
        let second = Duration::from_secs(1);
        for _ in 0..1000 {
            let pause = about(second);
            assert!(
                pause >= second * 3 / 4 && pause < second * 5 / 4,
                "{pause:?}"
            );
        }
        assert_eq!(about(Duration::ZERO), Duration::ZERO);
        assert!(about(Duration::MAX) > Duration::ZERO);
    }

    #[test]
    fn sizes_are_asked_for_as_often_as_is_wanted_and_not_for_more_than_a_part_of_the_time() {
        let (minute, now) = (Duration::from_secs(60), Instant::now());
        let Some(earlier) = now.checked_sub(10 * minute) else {
            return;
        };
        let mut plan = SizesPlan::default();
        plan.not_before(now);
        assert_eq!(plan.next(), None, "nobody wants them");

        plan.every = Some(200 * minute);
        plan.not_before(now + minute);
        plan.not_before(now);
        assert_eq!(plan.next(), Some(now + minute));
        plan.asked = Some(earlier);
        assert_eq!(plan.next(), None, "one at a time");
        plan.over();
        assert_eq!(plan.next(), Some(earlier + 200 * minute));

        plan.every = Some(minute);
        plan.asked = Some(earlier);
        plan.over();
        assert!(plan.next() >= Some(earlier + 100 * minute));
    }
}
