//! The lifetime of a connection to a daemon: a main connection for events and the domain list, and
//! extra connections where calls hang.
//!
//! A call about a hung domain occupies a slot of its connection, and a worker of the daemon, until
//! the domain resumes; closing the connection would not free the worker. So there are at most
//! three such calls per connection, and at most four connections.

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
    cache::DefinitionCache,
    connection::{
        CallError, EventHandler, ReplyHandler, Result, RpcConnection, RpcCounters, RpcRequest,
        SlotClass,
    },
    endpoint::Endpoint,
    event_state::DomainEvents,
    wire::{self, Auth, DomainRef, Uuid, XdrEncoder, procedure},
};

/// Maximum number of connections, including the main one.
pub(super) const MAX_CONNECTIONS: usize = 4;
/// Flag of the open call: a read-only connection.
const VIR_CONNECT_RO: u32 = 1;

/// What a call that may hang is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CallSubject {
    /// State and statistics of a domain.
    Domain(Uuid),
    /// Statistics of inactive domains.
    InactiveDomains,
    DomainXml(Uuid),
    Pools,
    Pool(Uuid),
    Networks,
}

pub(super) struct LibvirtSession {
    pub(super) versions: Option<Versions>,
    /// What failed during setup.
    pub(super) degraded_reason: Option<String>,
    pub(super) cache: Arc<DefinitionCache>,
    /// Whether the driver lacks the call that returns statistics of all groups.
    pub(super) lacks_bulk_stats: AtomicBool,
    /// Serializes fetches of all domains.
    pub(super) fetch_lock: sync::Mutex<()>,
    timing: Timing,
    endpoint: Endpoint,
    /// URI that was opened.
    uri: String,
    main_connection: RpcConnection,
    extra: Mutex<ExtraConnections>,
    /// Number of pending calls by subject.
    pending: Mutex<HashMap<CallSubject, usize>>,
    /// Notified when a slot may have become free.
    slot_freed: Notify,
    events: Arc<DomainEvents>,
    counters: Arc<RpcCounters>,
}

#[derive(Default)]
struct ExtraConnections {
    connections: Vec<Arc<RpcConnection>>,
    is_opening: bool,
    /// When an extra connection last failed to open.
    failed_at: Option<Instant>,
}

impl fmt::Debug for LibvirtSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Session");
        f.field("place", &self.endpoint).finish_non_exhaustive()
    }
}

impl LibvirtSession {
    /// Connects and subscribes to events.
    pub(super) async fn connect(
        endpoint: Endpoint,
        timing: Timing,
        events: Arc<DomainEvents>,
        counters: Arc<RpcCounters>,
    ) -> Result<Arc<Self>> {
        let by = Instant::now() + timing.connect_timeout;
        let cache = Arc::<DefinitionCache>::default();
        let told: EventHandler = {
            let (cache, heard) = (Arc::clone(&cache), Arc::clone(&events));
            Arc::new(move |procedure, body: &[u8]| {
                // Malformed events are ignored.
                if let Ok(Some(event)) = wire::parse_event(procedure, body) {
                    cache.handle_event(&event);
                    heard.handle_event(&event);
                }
            })
        };
        let main = RpcConnection::connect(&endpoint.socket, Arc::clone(&counters), told).await?;
        let name = open_first_uri(&main, &endpoint.uris, by).await?;
        let versions = read_versions(&main, by).await?;
        let unsubscribed = subscribe(&main, by).await?;
        events.set_subscriptions(|event| unsubscribed.iter().all(|(of, _)| *of != event));
        let said = |(event, failure): &_| format!("event {event}: {failure}");
        let missing = unsubscribed.first().map(said);
        let session = Arc::new(Self {
            versions,
            degraded_reason: missing,
            cache,
            lacks_bulk_stats: AtomicBool::new(false),
            fetch_lock: sync::Mutex::default(),
            timing,
            endpoint,
            uri: name,
            main_connection: main,
            extra: Mutex::default(),
            pending: Mutex::default(),
            slot_freed: Notify::new(),
            events,
            counters,
        });
        Ok(session)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    pub(super) fn events(&self) -> &DomainEvents {
        &self.events
    }

    /// Whether the driver is QEMU, for which missing statistics can be recognized.
    pub(super) fn is_qemu(&self) -> bool {
        let mut versions = self.versions.iter();
        versions.any(|versions| versions.driver == "QEMU")
    }

    /// Waits until the session ends and returns the reason.
    pub(super) async fn wait_closed(&self) -> String {
        self.main_connection.wait_closed().await
    }

    /// Returns the reason if the session has ended.
    pub(super) fn close_error(&self) -> Option<CallError> {
        self.main_connection.close_error()
    }

    /// Returns for how long an abandoned list call has been pending.
    pub(super) fn listing_hung_for(&self) -> Option<Duration> {
        let since = self
            .main_connection
            .hung_since(procedure::REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS)?;
        Some(since.elapsed())
    }

    /// Lists all domains, active or not.
    pub(super) async fn list_domains(&self, deadline: Instant) -> Result<Vec<DomainRef>> {
        let request = RpcRequest {
            procedure: procedure::REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS,
            // need_results = 1, flags = 0 (all).
            body: XdrEncoder::default().put_u32(1).put_u32(0).into_bytes(),
            deadline,
        };
        let mut guests = wire::parse_domain_list(&self.main_connection.call(request).await?)?;
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        guests.dedup_by(|a, b| a.name == b.name || a.uuid == b.uuid);
        self.events.replace_domains(&guests);
        Ok(guests)
    }

    /// Returns the number of pending calls about a subject.
    pub(super) fn pending_calls(&self, subject: CallSubject) -> usize {
        self.pending().get(&subject).copied().unwrap_or_default()
    }

    /// Returns the number of calls whose caller has timed out.
    pub(super) fn abandoned_calls(&self) -> u64 {
        let more = self.extra().connections.iter().fold(0_u64, |sum, line| {
            sum.saturating_add(line.abandoned_calls())
        });
        more.saturating_add(self.main_connection.abandoned_calls())
    }

    /// Waits until a slot may be free.
    pub(super) fn slot_freed(&self) -> sync::futures::Notified<'_> {
        self.slot_freed.notified()
    }

    /// Sends a call that may hang if a slot is free, else returns it and the reply handler.
    pub(super) fn try_call(
        self: &Arc<Self>,
        subject: CallSubject,
        request: RpcRequest,
        on_reply: ReplyHandler,
    ) -> std::result::Result<(), (RpcRequest, ReplyHandler)> {
        let then = self.track(subject, on_reply);
        let mut unasked = match self
            .main_connection
            .try_call(SlotClass::Slow, request, then)
        {
            Ok(()) => return Ok(()),
            Err(unasked) => unasked,
        };
        let lines = self.extra().connections.clone();
        for line in lines {
            let (request, then) = unasked;
            unasked = match line.try_call(SlotClass::Slow, request, then) {
                Ok(()) => return Ok(()),
                Err(unasked) => unasked,
            };
        }
        self.untrack(subject);
        self.open_extra_connection();
        Err(unasked)
    }

    /// Sends a call that the daemon answers by itself, if a slot is free.
    pub(super) fn try_call_quick(
        self: &Arc<Self>,
        subject: CallSubject,
        request: RpcRequest,
        on_reply: ReplyHandler,
    ) -> std::result::Result<(), (RpcRequest, ReplyHandler)> {
        let then = self.track(subject, on_reply);
        let asked = self.main_connection.try_call(SlotClass::Any, request, then);
        asked.inspect_err(|_| self.untrack(subject))
    }

    /// Sends a call that may hang as soon as a slot is free, and waits for the reply.
    pub(super) async fn call(
        self: &Arc<Self>,
        subject: CallSubject,
        procedure: u32,
        body: XdrEncoder,
        deadline: Instant,
    ) -> Result<Vec<u8>> {
        let (reply_tx, reply_rx) = oneshot::channel();
        // The caller may have timed out.
        let mut then: ReplyHandler = Box::new(|answer| drop(reply_tx.send(answer)));
        let mut request = RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline,
        };
        loop {
            let mut room = std::pin::pin!(self.slot_freed());
            room.as_mut().enable();
            (request, then) = match self.try_call(subject, request, then) {
                Ok(()) => break,
                Err(unasked) => unasked,
            };
            if timeout_at(deadline.into(), room).await.is_err() {
                return Err(CallError::TimedOut);
            }
        }
        match timeout_at(deadline.into(), reply_rx).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(CallError::closed("closed"))),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Returns whether no slot for slow calls will become free: all have been occupied for that
    /// long, and no further connection can be opened.
    pub(super) fn is_saturated(&self, timeout: Duration) -> bool {
        let more = self.extra();
        let can_open = more.connections.len().saturating_add(1) < MAX_CONNECTIONS
            && !self.failed_recently(&more);
        !can_open
            && self.main_connection.is_saturated(timeout)
            && more
                .connections
                .iter()
                .all(|line| line.is_saturated(timeout))
    }

    /// Counts the call as pending until its reply arrives.
    fn track(self: &Arc<Self>, subject: CallSubject, on_reply: ReplyHandler) -> ReplyHandler {
        let mut asked = self.pending();
        let count = asked.entry(subject).or_default();
        *count = count.saturating_add(1);
        drop(asked);
        let session = Arc::downgrade(self);
        Box::new(move |answer| {
            if let Some(session) = session.upgrade() {
                session.untrack(subject);
                session.slot_freed.notify_waiters();
            }
            on_reply(answer);
        })
    }

    fn untrack(&self, subject: CallSubject) {
        let mut asked = self.pending();
        if let Some(count) = asked.get_mut(&subject) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                asked.remove(&subject);
            }
        }
    }

    fn open_extra_connection(self: &Arc<Self>) {
        let mut more = self.extra();
        more.connections.retain(|line| line.close_error().is_none());
        let is_enough = more.connections.len().saturating_add(1) >= MAX_CONNECTIONS;
        if is_enough || more.is_opening || self.failed_recently(&more) {
            return;
        }
        more.is_opening = true;
        drop(more);
        let session = Arc::downgrade(self);
        let (socket, name) = (self.endpoint.socket.clone(), self.uri.clone());
        let (counts, within) = (Arc::clone(&self.counters), self.timing.connect_timeout);
        tokio::spawn(async move {
            let by = Instant::now() + within;
            let opened = async {
                let line = RpcConnection::connect(&socket, counts, Arc::new(|_, _| {})).await?;
                open_first_uri(&line, &[name], by).await?;
                Ok::<_, CallError>(line)
            };
            let opened = opened.await;
            let Some(session) = session.upgrade() else {
                return;
            };
            let mut more = session.extra();
            more.is_opening = false;
            match opened {
                Ok(line) => {
                    more.connections.push(Arc::new(line));
                    more.failed_at = None;
                }
                Err(_) => more.failed_at = Some(Instant::now()),
            }
            drop(more);
            session.slot_freed.notify_waiters();
        });
    }

    fn failed_recently(&self, extra: &ExtraConnections) -> bool {
        let long = self.timing.max_backoff;
        extra
            .failed_at
            .is_some_and(|failed| failed.elapsed() < long)
    }

    fn extra(&self) -> MutexGuard<'_, ExtraConnections> {
        self.extra.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<CallSubject, usize>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the first of these URIs that the daemon supports and returns it.
async fn open_first_uri(
    connection: &RpcConnection,
    uris: &[String],
    deadline: Instant,
) -> Result<String> {
    let ask = |procedure, body: XdrEncoder| {
        connection.call(RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline,
        })
    };
    let auths = wire::parse_auth_list(
        &ask(procedure::REMOTE_PROC_AUTH_LIST, XdrEncoder::default()).await?,
    )?;
    if !auths.contains(&Auth::None) {
        if !auths.contains(&Auth::Polkit) {
            let reason = "it asks for a way to authenticate that is not spoken, such as SASL";
            return Err(CallError::PermissionDenied(reason.to_owned()));
        }
        let polkit = ask(procedure::REMOTE_PROC_AUTH_POLKIT, XdrEncoder::default()).await;
        let is_complete = polkit.map_err(|failure| match failure {
            CallError::Remote(refusal) => CallError::PermissionDenied(refusal.to_string()),
            failure => failure,
        })?;
        if wire::parse_i32(&is_complete)? == 0 {
            let reason = "authentication is not complete";
            return Err(CallError::PermissionDenied(reason.to_owned()));
        }
    }
    let mut first = None;
    for name in uris {
        let body = XdrEncoder::default()
            .put_optional_string(name.as_bytes())
            .put_u32(VIR_CONNECT_RO);
        match ask(procedure::REMOTE_PROC_CONNECT_OPEN, body).await {
            Ok(_) => return Ok(name.clone()),
            Err(refused @ CallError::Remote(_)) => first.get_or_insert(refused),
            Err(failure) => return Err(failure),
        };
    }
    Err(first.unwrap_or(CallError::TimedOut))
}

/// Reads the versions. An error from the daemon yields `None`.
async fn read_versions(connection: &RpcConnection, deadline: Instant) -> Result<Option<Versions>> {
    let ask = |procedure| {
        connection.call(RpcRequest {
            procedure,
            body: Vec::new(),
            deadline,
        })
    };
    let driver = optional_reply(ask(procedure::REMOTE_PROC_CONNECT_GET_TYPE).await)?;
    let daemon = optional_reply(ask(procedure::REMOTE_PROC_CONNECT_GET_LIB_VERSION).await)?;
    let hypervisor = optional_reply(ask(procedure::REMOTE_PROC_CONNECT_GET_VERSION).await)?;
    let (Some(driver), Some(daemon)) = (driver, daemon) else {
        return Ok(None);
    };
    let hypervisor = hypervisor.and_then(|it| wire::parse_u64(&it).ok());
    Ok(Some(Versions {
        driver: wire::parse_string(&driver)?,
        hypervisor: hypervisor.and_then(format_version),
        daemon: format_version(wire::parse_u64(&daemon)?).unwrap_or_default(),
    }))
}

/// Formats a version; libvirt uses three decimal digits per component.
fn format_version(number: u64) -> Option<String> {
    let (major, minor, patch) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
    (number > 0).then(|| format!("{major}.{minor}.{patch}"))
}

/// Subscribes to events; returns those that cannot be subscribed to, with the error.
async fn subscribe(connection: &RpcConnection, deadline: Instant) -> Result<Vec<(u32, CallError)>> {
    let mut unsubscribed = Vec::new();
    for event in wire::EVENTS {
        let register = connection.call(RpcRequest {
            procedure: procedure::REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY,
            // No domain is given: all domains.
            body: XdrEncoder::default().put_u32(event).put_u32(0).into_bytes(),
            deadline,
        });
        match register.await {
            Err(refused @ CallError::Remote(_)) => unsubscribed.push((event, refused)),
            answer => drop(answer?),
        }
    }
    Ok(unsubscribed)
}

fn optional_reply(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Err(CallError::Remote(_)) => Ok(None),
        answer => answer.map(Some),
    }
}
