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
        let mut f = f.debug_struct("LibvirtSession");
        f.field("endpoint", &self.endpoint).finish_non_exhaustive()
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
        let deadline = Instant::now() + timing.connect_timeout;
        let cache = Arc::<DefinitionCache>::default();
        let on_event: EventHandler = {
            let (cache, domain_events) = (Arc::clone(&cache), Arc::clone(&events));
            Arc::new(move |procedure, body: &[u8]| {
                // Malformed events are ignored.
                if let Ok(Some(event)) = wire::parse_event(procedure, body) {
                    cache.handle_event(&event);
                    domain_events.handle_event(&event);
                }
            })
        };
        let main_connection =
            RpcConnection::connect(&endpoint.socket, Arc::clone(&counters), on_event).await?;
        let uri = open_first_uri(&main_connection, &endpoint.uris, deadline).await?;
        let versions = read_versions(&main_connection, deadline).await?;
        let unsubscribed = subscribe(&main_connection, deadline).await?;
        events.set_subscriptions(|event| unsubscribed.iter().all(|(failed, _)| *failed != event));
        let describe = |(event, error): &_| format!("event {event}: {error}");
        let degraded_reason = unsubscribed.first().map(describe);
        let session = Arc::new(Self {
            versions,
            degraded_reason,
            cache,
            lacks_bulk_stats: AtomicBool::new(false),
            fetch_lock: sync::Mutex::default(),
            timing,
            endpoint,
            uri,
            main_connection,
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
        let mut domains = wire::parse_domain_list(&self.main_connection.call(request).await?)?;
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        domains.dedup_by(|a, b| a.name == b.name || a.uuid == b.uuid);
        self.events.replace_domains(&domains);
        Ok(domains)
    }

    /// Returns the number of pending calls about a subject.
    pub(super) fn pending_calls(&self, subject: CallSubject) -> usize {
        self.pending().get(&subject).copied().unwrap_or_default()
    }

    /// Returns the number of calls whose caller has timed out.
    pub(super) fn abandoned_calls(&self) -> u64 {
        let extra = self
            .extra()
            .connections
            .iter()
            .fold(0_u64, |sum, connection| {
                sum.saturating_add(connection.abandoned_calls())
            });
        extra.saturating_add(self.main_connection.abandoned_calls())
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
        let on_reply = self.track(subject, on_reply);
        let mut unsent = match self
            .main_connection
            .try_call(SlotClass::Slow, request, on_reply)
        {
            Ok(()) => return Ok(()),
            Err(unsent) => unsent,
        };
        let connections = self.extra().connections.clone();
        for connection in connections {
            let (request, on_reply) = unsent;
            unsent = match connection.try_call(SlotClass::Slow, request, on_reply) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent,
            };
        }
        self.untrack(subject);
        self.open_extra_connection();
        Err(unsent)
    }

    /// Sends a call that the daemon completes by itself, if a slot is free.
    pub(super) fn try_call_quick(
        self: &Arc<Self>,
        subject: CallSubject,
        request: RpcRequest,
        on_reply: ReplyHandler,
    ) -> std::result::Result<(), (RpcRequest, ReplyHandler)> {
        let on_reply = self.track(subject, on_reply);
        let result = self
            .main_connection
            .try_call(SlotClass::Any, request, on_reply);
        result.inspect_err(|_| self.untrack(subject))
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
        let mut on_reply: ReplyHandler = Box::new(|reply| drop(reply_tx.send(reply)));
        let mut request = RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline,
        };
        loop {
            let mut slot_freed = std::pin::pin!(self.slot_freed());
            slot_freed.as_mut().enable();
            (request, on_reply) = match self.try_call(subject, request, on_reply) {
                Ok(()) => break,
                Err(unsent) => unsent,
            };
            if timeout_at(deadline.into(), slot_freed).await.is_err() {
                return Err(CallError::TimedOut);
            }
        }
        match timeout_at(deadline.into(), reply_rx).await {
            Ok(reply) => reply.unwrap_or_else(|_| Err(CallError::closed("closed"))),
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Returns whether no slot for slow calls will become free: all have been occupied for that
    /// long, and no further connection can be opened.
    pub(super) fn is_saturated(&self, timeout: Duration) -> bool {
        let extra = self.extra();
        let can_open = extra.connections.len().saturating_add(1) < MAX_CONNECTIONS
            && !self.failed_recently(&extra);
        !can_open
            && self.main_connection.is_saturated(timeout)
            && extra
                .connections
                .iter()
                .all(|connection| connection.is_saturated(timeout))
    }

    /// Counts the call as pending until its reply arrives.
    fn track(self: &Arc<Self>, subject: CallSubject, on_reply: ReplyHandler) -> ReplyHandler {
        let mut pending = self.pending();
        let count = pending.entry(subject).or_default();
        *count = count.saturating_add(1);
        drop(pending);
        let session = Arc::downgrade(self);
        Box::new(move |reply| {
            if let Some(session) = session.upgrade() {
                session.untrack(subject);
                session.slot_freed.notify_waiters();
            }
            on_reply(reply);
        })
    }

    fn untrack(&self, subject: CallSubject) {
        let mut pending = self.pending();
        if let Some(count) = pending.get_mut(&subject) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pending.remove(&subject);
            }
        }
    }

    fn open_extra_connection(self: &Arc<Self>) {
        let mut extra = self.extra();
        extra
            .connections
            .retain(|connection| connection.close_error().is_none());
        let is_full = extra.connections.len().saturating_add(1) >= MAX_CONNECTIONS;
        if is_full || extra.is_opening || self.failed_recently(&extra) {
            return;
        }
        extra.is_opening = true;
        drop(extra);
        let session = Arc::downgrade(self);
        let (socket, uri) = (self.endpoint.socket.clone(), self.uri.clone());
        let (counters, connect_timeout) = (Arc::clone(&self.counters), self.timing.connect_timeout);
        tokio::spawn(async move {
            let deadline = Instant::now() + connect_timeout;
            let opened = async {
                let connection =
                    RpcConnection::connect(&socket, counters, Arc::new(|_, _| {})).await?;
                open_first_uri(&connection, &[uri], deadline).await?;
                Ok::<_, CallError>(connection)
            };
            let opened = opened.await;
            let Some(session) = session.upgrade() else {
                return;
            };
            let mut extra = session.extra();
            extra.is_opening = false;
            match opened {
                Ok(connection) => {
                    extra.connections.push(Arc::new(connection));
                    extra.failed_at = None;
                }
                Err(_) => extra.failed_at = Some(Instant::now()),
            }
            drop(extra);
            session.slot_freed.notify_waiters();
        });
    }

    fn failed_recently(&self, extra: &ExtraConnections) -> bool {
        let backoff = self.timing.max_backoff;
        extra
            .failed_at
            .is_some_and(|failed_at| failed_at.elapsed() < backoff)
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
    let call = |procedure, body: XdrEncoder| {
        connection.call(RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline,
        })
    };
    let auths = wire::parse_auth_list(
        &call(procedure::REMOTE_PROC_AUTH_LIST, XdrEncoder::default()).await?,
    )?;
    if !auths.contains(&Auth::None) {
        if !auths.contains(&Auth::Polkit) {
            let reason = "unsupported authentication scheme, such as SASL";
            return Err(CallError::PermissionDenied(reason.to_owned()));
        }
        let polkit = call(procedure::REMOTE_PROC_AUTH_POLKIT, XdrEncoder::default()).await;
        let completed = polkit.map_err(|error| match error {
            CallError::Remote(error) => CallError::PermissionDenied(error.to_string()),
            error => error,
        })?;
        if wire::parse_i32(&completed)? == 0 {
            let reason = "polkit authentication incomplete";
            return Err(CallError::PermissionDenied(reason.to_owned()));
        }
    }
    let mut first_error = None;
    for uri in uris {
        let body = XdrEncoder::default()
            .put_optional_string(uri.as_bytes())
            .put_u32(VIR_CONNECT_RO);
        match call(procedure::REMOTE_PROC_CONNECT_OPEN, body).await {
            Ok(_) => return Ok(uri.clone()),
            Err(error @ CallError::Remote(_)) => first_error.get_or_insert(error),
            Err(error) => return Err(error),
        };
    }
    Err(first_error.unwrap_or(CallError::TimedOut))
}

/// Reads the versions. An error from the daemon yields `None`.
async fn read_versions(connection: &RpcConnection, deadline: Instant) -> Result<Option<Versions>> {
    let call = |procedure| {
        connection.call(RpcRequest {
            procedure,
            body: Vec::new(),
            deadline,
        })
    };
    let driver = optional_reply(call(procedure::REMOTE_PROC_CONNECT_GET_TYPE).await)?;
    let daemon = optional_reply(call(procedure::REMOTE_PROC_CONNECT_GET_LIB_VERSION).await)?;
    let hypervisor = optional_reply(call(procedure::REMOTE_PROC_CONNECT_GET_VERSION).await)?;
    let (Some(driver), Some(daemon)) = (driver, daemon) else {
        return Ok(None);
    };
    let hypervisor = hypervisor.and_then(|version| wire::parse_u64(&version).ok());
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
        let reply = connection.call(RpcRequest {
            procedure: procedure::REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY,
            // No domain is given: all domains.
            body: XdrEncoder::default().put_u32(event).put_u32(0).into_bytes(),
            deadline,
        });
        match reply.await {
            Err(error @ CallError::Remote(_)) => unsubscribed.push((event, error)),
            reply => drop(reply?),
        }
    }
    Ok(unsubscribed)
}

fn optional_reply(reply: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match reply {
        Err(CallError::Remote(_)) => Ok(None),
        reply => reply.map(Some),
    }
}
