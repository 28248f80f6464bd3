//! From connecting to the daemon to losing it: one connection on which events come and
//! domains are listed, and more where requests hang.
//!
//! A request about a domain that hangs takes a slot of its connection, and a worker of
//! the daemon's, until the domain goes on, and leaving the connection would not free the
//! worker. So there are never more than three such requests on a connection, and no more
//! than four connections.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::{
    sync::{self, Notify, oneshot},
    time::timeout_at,
};

use super::{
    Timing, Versions,
    cache::Cache,
    connection::{Counts, Failure, Line, Request, Result, Slot, Then, Told},
    heard::Heard,
    place::Place,
    wire::{self, Auth, Body, Guest, Uuid, procedure},
};

/// So many connections, the first one among them.
pub(super) const MAX_LINES: usize = 4;
/// Opened with `VIR_CONNECT_RO`.
const READ_ONLY: u32 = 1;

/// What a question is about that may hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// What a domain does and uses.
    Domain(Uuid),
    /// What is said of domains that do not run.
    Off,
    Xml(Uuid),
    Pools,
    Pool(Uuid),
    Networks,
}

/// See the module's documentation.
pub(super) struct Session {
    pub(super) versions: Option<Versions>,
    /// What did not work at the beginning.
    pub(super) missing: Option<String>,
    pub(super) cache: Arc<Cache>,
    /// Whether statistics of all kinds come in one answer.
    pub(super) lacks_stats: AtomicBool,
    /// Whoever asks about all domains.
    pub(super) turn: sync::Mutex<()>,
    timing: Timing,
    place: Place,
    /// What was opened there.
    name: String,
    main: Line,
    more: Mutex<More>,
    /// What was asked and has no answer.
    asked: Mutex<HashMap<Subject, usize>>,
    /// Told when there may be room for a question.
    room: Notify,
    heard: Arc<Heard>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct More {
    lines: Vec<Arc<Line>>,
    is_opening: bool,
    /// When one could not be opened.
    failed: Option<Instant>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Session");
        f.field("place", &self.place).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects and begins to listen.
    pub(super) async fn begin(
        place: Place,
        timing: Timing,
        heard: Arc<Heard>,
        counts: Arc<Counts>,
    ) -> Result<Arc<Self>> {
        let by = Instant::now() + timing.handshake;
        let cache = Arc::<Cache>::default();
        let told: Told = {
            let (cache, heard) = (Arc::clone(&cache), Arc::clone(&heard));
            Arc::new(move |procedure, body: &[u8]| {
                // What makes no sense tells nothing.
                if let Ok(Some(event)) = wire::event(procedure, body) {
                    cache.take(&event);
                    heard.take(&event);
                }
            })
        };
        let main = Line::connect(&place.socket, Arc::clone(&counts), told).await?;
        let name = open(&main, &place.names, by).await?;
        let versions = versions(&main, by).await?;
        let unheard = listen(&main, by).await?;
        heard.listens(|event| unheard.iter().all(|(of, _)| *of != event));
        let said = |(event, failure): &_| format!("event {event}: {failure}");
        let missing = unheard.first().map(said);
        let session = Arc::new(Self {
            versions,
            missing,
            cache,
            lacks_stats: AtomicBool::new(false),
            turn: sync::Mutex::default(),
            timing,
            place,
            name,
            main,
            more: Mutex::default(),
            asked: Mutex::default(),
            room: Notify::new(),
            heard,
            counts,
        });
        Ok(session)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Whether it is the driver whose statistics are known to be complete or not.
    pub(super) fn is_qemu(&self) -> bool {
        let mut versions = self.versions.iter();
        versions.any(|versions| versions.driver == "QEMU")
    }

    /// Waits until it is over, and says why.
    pub(super) async fn over(&self) -> String {
        self.main.closed().await
    }

    /// Why it is over, if it is.
    pub(super) fn end(&self) -> Option<Failure> {
        self.main.end()
    }

    /// For how long the daemon has not answered whoever asked for the list of domains and
    /// went.
    pub(super) fn is_hung(&self) -> Option<Duration> {
        let since = self.main.is_hung(procedure::DOMAINS)?;
        Some(since.elapsed())
    }

    /// All domains, running or not.
    pub(super) async fn guests(&self, by: Instant) -> Result<Vec<Guest>> {
        let request = Request {
            procedure: procedure::DOMAINS,
            // With results; all.
            body: Body::default().number(1).number(0).bytes(),
            by,
        };
        let mut guests = wire::guests(&self.main.ask(request).await?)?;
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        guests.dedup_by(|a, b| a.name == b.name || a.uuid == b.uuid);
        self.heard.listed(&guests);
        Ok(guests)
    }

    /// How many questions about this have no answer yet.
    pub(super) fn asked(&self, subject: Subject) -> usize {
        self.questions().get(&subject).copied().unwrap_or_default()
    }

    /// Requests whose askers have gone.
    pub(super) fn stuck(&self) -> u64 {
        let more = self
            .more()
            .lines
            .iter()
            .fold(0_u64, |sum, line| sum.saturating_add(line.overdue()));
        more.saturating_add(self.main.overdue())
    }

    /// Waits until there may be room for another question.
    pub(super) fn room(&self) -> sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// Asks what may hang if there is room for it, else gives the question back.
    pub(super) fn try_ask(
        self: &Arc<Self>,
        subject: Subject,
        request: Request,
        then: Then,
    ) -> std::result::Result<(), (Request, Then)> {
        let then = self.counted(subject, then);
        let mut unasked = match self.main.try_ask(Slot::Slow, request, then) {
            Ok(()) => return Ok(()),
            Err(unasked) => unasked,
        };
        let lines = self.more().lines.clone();
        for line in lines {
            let (request, then) = unasked;
            unasked = match line.try_ask(Slot::Slow, request, then) {
                Ok(()) => return Ok(()),
                Err(unasked) => unasked,
            };
        }
        self.uncount(subject);
        self.open_another();
        Err(unasked)
    }

    /// Asks what the daemon answers by itself, if there is room for it.
    pub(super) fn try_ask_quick(
        self: &Arc<Self>,
        subject: Subject,
        request: Request,
        then: Then,
    ) -> std::result::Result<(), (Request, Then)> {
        let then = self.counted(subject, then);
        let asked = self.main.try_ask(Slot::Any, request, then);
        asked.inspect_err(|_| self.uncount(subject))
    }

    /// Asks what may hang as soon as there is room, and waits for the answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        subject: Subject,
        procedure: u32,
        body: Body,
        by: Instant,
    ) -> Result<Vec<u8>> {
        let (say, said) = oneshot::channel();
        // Whoever waited may have gone.
        let mut then: Then = Box::new(|answer| drop(say.send(answer)));
        let mut request = Request {
            procedure,
            body: body.bytes(),
            by,
        };
        loop {
            let mut room = std::pin::pin!(self.room());
            room.as_mut().enable();
            (request, then) = match self.try_ask(subject, request, then) {
                Ok(()) => break,
                Err(unasked) => unasked,
            };
            if timeout_at(by.into(), room).await.is_err() {
                return Err(Failure::Late);
            }
        }
        match timeout_at(by.into(), said).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Failure::closed("closed"))),
            Err(_) => Err(Failure::Late),
        }
    }

    /// Whether what may hang will find no room, for all there is has been taken for so
    /// long.
    pub(super) fn is_full_for(&self, long: Duration) -> bool {
        let more = self.more();
        let can_open = more.lines.len().saturating_add(1) < MAX_LINES && !self.has_failed(&more);
        !can_open
            && self.main.is_full_for(long)
            && more.lines.iter().all(|line| line.is_full_for(long))
    }

    /// An answer that is known to be on its way while it is.
    fn counted(self: &Arc<Self>, subject: Subject, then: Then) -> Then {
        let mut asked = self.questions();
        let count = asked.entry(subject).or_default();
        *count = count.saturating_add(1);
        drop(asked);
        let session = Arc::downgrade(self);
        Box::new(move |answer| {
            if let Some(session) = session.upgrade() {
                session.uncount(subject);
                session.room.notify_waiters();
            }
            then(answer);
        })
    }

    fn uncount(&self, subject: Subject) {
        let mut asked = self.questions();
        if let Some(count) = asked.get_mut(&subject) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                asked.remove(&subject);
            }
        }
    }

    fn open_another(self: &Arc<Self>) {
        let mut more = self.more();
        more.lines.retain(|line| line.end().is_none());
        let is_enough = more.lines.len().saturating_add(1) >= MAX_LINES;
        if is_enough || more.is_opening || self.has_failed(&more) {
            return;
        }
        more.is_opening = true;
        drop(more);
        let session = Arc::downgrade(self);
        let (socket, name) = (self.place.socket.clone(), self.name.clone());
        let (counts, within) = (Arc::clone(&self.counts), self.timing.handshake);
        tokio::spawn(async move {
            let by = Instant::now() + within;
            let opened = async {
                let line = Line::connect(&socket, counts, Arc::new(|_, _| {})).await?;
                open(&line, &[name], by).await?;
                Ok::<_, Failure>(line)
            };
            let opened = opened.await;
            let Some(session) = session.upgrade() else {
                return;
            };
            let mut more = session.more();
            more.is_opening = false;
            match opened {
                Ok(line) => {
                    more.lines.push(Arc::new(line));
                    more.failed = None;
                }
                Err(_) => more.failed = Some(Instant::now()),
            }
            drop(more);
            session.room.notify_waiters();
        });
    }

    fn has_failed(&self, more: &More) -> bool {
        let long = self.timing.max_backoff;
        more.failed.is_some_and(|failed| failed.elapsed() < long)
    }

    fn more(&self) -> MutexGuard<'_, More> {
        self.more.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<Subject, usize>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the first of these that there is; says which.
async fn open(line: &Line, names: &[String], by: Instant) -> Result<String> {
    let ask = |procedure, body: Body| {
        line.ask(Request {
            procedure,
            body: body.bytes(),
            by,
        })
    };
    let auths = wire::auths(&ask(procedure::AUTH_LIST, Body::default()).await?)?;
    if !auths.contains(&Auth::None) {
        if !auths.contains(&Auth::Polkit) {
            let reason = "it asks for a way to authenticate that is not spoken, such as SASL";
            return Err(Failure::LockedOut(reason.to_owned()));
        }
        let polkit = ask(procedure::AUTH_POLKIT, Body::default()).await;
        let is_complete = polkit.map_err(|failure| match failure {
            Failure::Refused(refusal) => Failure::LockedOut(refusal.to_string()),
            failure => failure,
        })?;
        if wire::int(&is_complete)? == 0 {
            let reason = "authentication is not complete";
            return Err(Failure::LockedOut(reason.to_owned()));
        }
    }
    let mut first = None;
    for name in names {
        let body = Body::default().some(name.as_bytes()).number(READ_ONLY);
        match ask(procedure::OPEN, body).await {
            Ok(_) => return Ok(name.clone()),
            Err(refused @ Failure::Refused(_)) => first.get_or_insert(refused),
            Err(failure) => return Err(failure),
        };
    }
    Err(first.unwrap_or(Failure::Late))
}

/// What is there. Refusals are no failure.
async fn versions(line: &Line, by: Instant) -> Result<Option<Versions>> {
    let ask = |procedure| {
        line.ask(Request {
            procedure,
            body: Vec::new(),
            by,
        })
    };
    let driver = said(ask(procedure::TYPE).await)?;
    let daemon = said(ask(procedure::LIB_VERSION).await)?;
    let hypervisor = said(ask(procedure::VERSION).await)?;
    let (Some(driver), Some(daemon)) = (driver, daemon) else {
        return Ok(None);
    };
    let hypervisor = hypervisor.and_then(|it| wire::long(&it).ok());
    Ok(Some(Versions {
        driver: wire::string(&driver)?,
        hypervisor: hypervisor.and_then(version),
        daemon: version(wire::long(&daemon)?).unwrap_or_default(),
    }))
}

/// libvirt has three places for each number.
fn version(number: u64) -> Option<String> {
    let (major, minor, patch) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
    (number > 0).then(|| format!("{major}.{minor}.{patch}"))
}

/// Begins to listen for events; says which cannot be listened for, and why.
async fn listen(line: &Line, by: Instant) -> Result<Vec<(u32, Failure)>> {
    let mut unheard = Vec::new();
    for event in wire::EVENTS {
        let register = line.ask(Request {
            procedure: procedure::REGISTER,
            // Of all domains.
            body: Body::default().number(event).number(0).bytes(),
            by,
        });
        match register.await {
            Err(refused @ Failure::Refused(_)) => unheard.push((event, refused)),
            answer => drop(answer?),
        }
    }
    Ok(unheard)
}

fn said(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Err(Failure::Refused(_)) => Ok(None),
        answer => answer.map(Some),
    }
}
