//! Domains, storage pools and networks of libvirt, over its RPC protocol on a local socket or,
//! with feature `virt`, through its library.
//!
//! A background task holds the connection, receives events and caches definitions. A fetch queries
//! each domain with a call of its own, so that a hung domain does not delay the others.

mod cache;
mod connection;
mod domain;
mod endpoint;
mod event_state;
#[cfg(test)]
mod fake;
mod fetch;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod log_on_change;
#[cfg(test)]
mod malformed_tests;
mod params;
mod reconnect;
mod session;
mod storage;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "virt"), path = "no_virt.rs")]
mod virt;
mod wire;
mod xml;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, time::timeout_at};

pub use domain::{
    Balloon, CpuTimes, DirtyRate, DiskDef, DiskOperations, Domain, DomainDef, DomainDisk,
    DomainInterface, DomainJob, DomainState, DomainStats, HostStats, InterfaceDef,
    InterfaceTraffic, IoLimit, IoThread, IoTune, IoTuneLimits, LifecycleCounts, Nova, Vcpu,
};
pub use flags::{LibvirtFlags, StatsGroup};

use crate::error::{Error, Result};
use connection::CallError;
use endpoint::{Endpoint, Endpoints, SocketPaths};
use fetch::StatsSelection;
use log_on_change::StatusLog;
use reconnect::{ConnectionManager, ConnectionStatus, Timing};
use session::LibvirtSession;
use virt::Virt;

/// Name in errors.
const NAME: &str = "libvirt";
/// Time reserved before the deadline for exposing the result: a tenth of the time left, but at
/// most `MAX_MARGIN` and at least `MIN_MARGIN`.
const MAX_MARGIN: Duration = Duration::from_millis(500);
const MIN_MARGIN: Duration = Duration::from_millis(20);

/// Result of one fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchResult {
    /// State of the connection.
    pub connection: ConnectionInfo,
    /// All domains, active or not, sorted by name; names are unique.
    pub domains: Vec<Domain>,
}

/// State of the connection to the daemon.
#[derive(Debug, Clone, Default)]
pub struct ConnectionInfo {
    /// The socket or URI.
    pub uri: String,
    /// Whether the daemon answered this fetch.
    pub is_up: bool,
    /// Why the daemon did not reply, or which data is missing although it did.
    pub error: Option<String>,
    /// Whether the error is that the daemon rejects this user.
    pub is_permission_denied: bool,
    /// Successful connects so far.
    pub connections: u64,
    /// Requests sent so far.
    pub requests: u64,
    /// Events received so far.
    pub events: u64,
    /// Pending requests of earlier scrapes.
    pub abandoned_requests: u64,
    /// Versions of the driver, the hypervisor and the daemon, once known.
    pub versions: Option<Versions>,
}

/// Versions of the driver, the hypervisor and the daemon, such as `9.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Name of the driver, such as `QEMU`.
    pub driver: String,
    /// Version of the hypervisor, where reported.
    pub hypervisor: Option<String>,
    /// Version of the daemon.
    pub daemon: String,
}

/// Host statistics of running domains, by UUID.
pub type HostStatsByUuid = HashMap<String, HostStats>;

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePool {
    /// Its name.
    pub name: String,
    /// State as libvirt's number: 0 inactive, 1 building, 2 running, 3 degraded, 4 inaccessible.
    pub state: Option<u32>,
    /// Capacity in bytes.
    pub capacity: Option<u64>,
    /// Allocated bytes.
    pub allocation: Option<u64>,
    /// Free bytes.
    pub available: Option<u64>,
    /// Whether the query of this pool timed out.
    pub timed_out: bool,
}

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNetwork {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is active.
    pub is_active: Option<bool>,
    /// Name of its bridge, while it is active and has one.
    pub bridge: Option<String>,
}

/// A running domain, from the maintained state without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningDomain {
    /// libvirt's ID of this run.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
}

/// Client of the host's libvirt.
#[derive(Debug)]
pub struct Libvirt {
    selection: StatsSelection,
    /// `None` for a URI that this client does not support.
    manager: Option<Arc<ConnectionManager>>,
    /// Client through libvirt's library for other URIs, if this build has it.
    virt: Option<Virt>,
    status_log: Arc<StatusLog>,
    /// The configured URI or socket, or the first default socket.
    uri: String,
    runtime: OnceLock<Handle>,
}

impl Libvirt {
    /// Creates a client for the configured URI or else for the default sockets below the host's
    /// root file system. Does not connect before [`watch`](Self::watch).
    #[must_use]
    pub fn new(flags: LibvirtFlags, rootfs: &Path) -> Self {
        let paths = SocketPaths::new(rootfs);
        let endpoints = Endpoints::from_uri(flags.libvirt_uri.as_deref(), &paths);
        Self::with(flags, endpoints, Timing::default())
    }

    fn with(flags: LibvirtFlags, endpoints: Option<Endpoints>, timing: Timing) -> Self {
        let first_socket = endpoints
            .as_ref()
            .and_then(|endpoints| endpoints.list.first());
        let first_socket = first_socket.map(|endpoint| endpoint.socket.display().to_string());
        let status_log = Arc::<StatusLog>::default();
        let manager = |endpoints| {
            Arc::new(ConnectionManager::new(
                endpoints,
                timing,
                Arc::clone(&status_log),
            ))
        };
        let uri = flags.libvirt_uri.as_deref().filter(|_| endpoints.is_none());
        Self {
            virt: uri.and_then(|uri| Virt::new(uri, &flags.libvirt_stats, flags.libvirt_jobs)),
            selection: StatsSelection::new(&flags.libvirt_stats, flags.libvirt_jobs),
            uri: flags.libvirt_uri.or(first_socket).unwrap_or_default(),
            manager: endpoints.map(manager),
            status_log,
            runtime: OnceLock::new(),
        }
    }

    /// Returns an error if this build does not support the configured URI.
    pub fn check(&self) -> Result<(), String> {
        if self.manager.is_none() && self.virt.is_none() {
            let uri = &self.uri;
            return Err(format!(
                "--libvirt.uri: {uri} needs a build with --features virt"
            ));
        }
        Ok(())
    }

    /// Returns the sockets that are tried, in order, and whether they are configured. Empty if the
    /// URI needs more than a local socket.
    #[must_use]
    pub fn sockets(&self) -> (Vec<PathBuf>, bool) {
        let Some(manager) = &self.manager else {
            return (Vec::new(), true);
        };
        let sockets = manager
            .endpoints
            .list
            .iter()
            .map(|endpoint| endpoint.socket.clone());
        (sockets.collect(), manager.endpoints.is_explicit)
    }

    /// Returns the URI if it needs libvirt's own library.
    #[must_use]
    pub fn library_uri(&self) -> Option<&str> {
        self.virt.as_ref().map(|_| self.uri.as_str())
    }

    /// Starts the connection task on the current runtime. It runs as long as the runtime.
    pub fn start(self: &Arc<Self>) {
        if self.runtime.set(Handle::current()).is_err() {
            return;
        }
        if let Some(manager) = &self.manager {
            tokio::spawn(Arc::clone(manager).run());
        }
    }

    /// Queries all domains and waits for the replies until shortly before the deadline, so that
    /// they can still be exposed. Statistics in `host_stats` are not queried but copied to the
    /// result. Returns [`Error::NotFound`] where there is no libvirt; a daemon that exists and does
    /// not answer is reported in the result instead.
    pub fn fetch(&self, deadline: Instant, host_stats: HostStatsByUuid) -> Result<FetchResult> {
        let selection = self.selection;
        let result = match &self.virt {
            Some(virt) => virt.fetch(deadline),
            None => self.query(deadline, async move |manager, reply_deadline| {
                fetch_from_daemon(&manager, selection, host_stats, reply_deadline).await
            })?,
        };
        let connection = &result.connection;
        if connection.is_up {
            self.status_log.log_up(&connection.uri);
        } else {
            let error = connection.error.as_deref();
            self.status_log.log_down(error.unwrap_or("no reply"));
        }
        Ok(result)
    }

    /// Queries storage pools, with the same deadline and errors as [`fetch`](Self::fetch).
    pub fn pools(&self, deadline: Instant) -> Result<Vec<StoragePool>> {
        if let Some(virt) = &self.virt {
            return virt.pools(deadline);
        }
        self.query(deadline, async |manager, reply_deadline| {
            let session = connected_session(&manager, reply_deadline).await?;
            storage::list_pools(&session, reply_deadline)
                .await
                .map_err(into_source_error)
        })
    }

    /// Queries virtual networks, with the same deadline and errors as [`fetch`](Self::fetch).
    pub fn networks(&self, deadline: Instant) -> Result<Vec<VirtualNetwork>> {
        if let Some(virt) = &self.virt {
            return virt.networks(deadline);
        }
        self.query(deadline, async |manager, reply_deadline| {
            let session = connected_session(&manager, reply_deadline).await?;
            storage::list_networks(&session, reply_deadline)
                .await
                .map_err(into_source_error)
        })
    }

    /// Returns the running domains without a query. Empty if the URI needs more than a local
    /// socket, because that may be another host.
    #[must_use]
    pub fn running(&self) -> Arc<Vec<RunningDomain>> {
        let manager = self.manager.as_ref();
        manager
            .map(|manager| manager.events.running())
            .unwrap_or_default()
    }

    /// Runs a query on the runtime and blocks until its result or the deadline.
    fn query<T, F>(
        &self,
        deadline: Instant,
        request: impl FnOnce(Arc<ConnectionManager>, Instant) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let manager = self.manager.as_ref().ok_or_else(|| {
            let reason = format!("{}: requires a build with --features virt", self.uri);
            Error::api(NAME, reason)
        })?;
        let not_found = || Error::NotFound(self.uri.clone().into());
        let runtime = self.runtime.get().ok_or_else(not_found)?;
        if matches!(manager.status(), ConnectionStatus::NotFound) && !manager.any_socket_exists() {
            return Err(not_found());
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        let margin = (remaining / 10).clamp(MIN_MARGIN.min(remaining), MAX_MARGIN);
        let reply_deadline = deadline.checked_sub(margin).unwrap_or(deadline);
        let (reply_tx, reply_rx) = std::sync::mpsc::sync_channel(1);
        let reply = request(Arc::clone(manager), reply_deadline);
        runtime.spawn(async move {
            // The caller may have timed out.
            reply_tx.try_send(reply.await).ok();
        });
        let remaining = deadline.saturating_duration_since(Instant::now());
        let reply = reply_rx.recv_timeout(remaining);
        reply
            .unwrap_or_else(|_| Err(Error::TimedOut(NAME.to_owned())))
            .map_err(|error| match error {
                Error::NotFound(_) => not_found(),
                error => error,
            })
    }
}

/// Returns the session, waiting until the deadline for a connection.
async fn connected_session(
    manager: &ConnectionManager,
    deadline: Instant,
) -> Result<Arc<LibvirtSession>> {
    match manager.wait_connected(deadline).await {
        ConnectionStatus::Up(session) => Ok(session),
        ConnectionStatus::Connecting => Err(Error::TimedOut(NAME.to_owned())),
        ConnectionStatus::NotFound => Err(Error::NotFound(PathBuf::new())),
        ConnectionStatus::Down { reason, .. } => Err(Error::api(NAME, reason)),
    }
}

fn into_source_error(error: CallError) -> Error {
    match error {
        CallError::TimedOut => Error::TimedOut(NAME.to_owned()),
        error => Error::api(NAME, error),
    }
}

async fn fetch_from_daemon(
    manager: &ConnectionManager,
    selection: StatsSelection,
    host_stats: HostStatsByUuid,
    deadline: Instant,
) -> Result<FetchResult> {
    let mut result = FetchResult::default();
    let connection = &mut result.connection;
    let first = manager.endpoints.list.first();
    let uri = |endpoint: &Endpoint| endpoint.socket.display().to_string();
    connection.uri = first.map(uri).unwrap_or_default();
    match connected_session(manager, deadline).await {
        Ok(session) => {
            connection.uri = uri(session.endpoint());
            connection.versions.clone_from(&session.versions);
            match fetch_domains(&session, selection, host_stats, deadline).await {
                Ok((domains, error)) => {
                    connection.is_up = true;
                    connection.error = error.or_else(|| session.degraded_reason.clone());
                    result.domains = domains;
                }
                Err(reason) => connection.error = Some(reason),
            }
            connection.abandoned_requests = session.abandoned_calls();
        }
        Err(error @ Error::NotFound(_)) => return Err(error),
        Err(Error::Api { reason, .. }) => {
            connection.error = Some(reason);
            connection.is_permission_denied = manager.is_permission_denied();
        }
        Err(error) => connection.error = Some(error.to_string()),
    }
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    connection.connections = load(&manager.counters.connections);
    connection.requests = load(&manager.counters.requests);
    connection.events = load(&manager.counters.events);
    Ok(result)
}

/// Returns the domains and the first error that did not prevent a result, or why there are none.
async fn fetch_domains(
    session: &Arc<LibvirtSession>,
    selection: StatsSelection,
    host_stats: HostStatsByUuid,
    deadline: Instant,
) -> std::result::Result<(Vec<Domain>, Option<String>), String> {
    let hung_reason = || {
        let since = session.listing_hung_for()?;
        Some(format!("no reply for {} s", since.as_secs()))
    };
    // Concurrent fetches are serialized.
    let lock = timeout_at(deadline.into(), session.fetch_lock.lock()).await;
    let _lock = lock.map_err(|_| "another scrape is still in progress".to_owned())?;
    if let Some(reason) = hung_reason() {
        return Err(reason);
    }
    let domains = fetch::fetch_domains(session, selection, host_stats, deadline).await;
    domains.map_err(|error| error.to_string())
}
