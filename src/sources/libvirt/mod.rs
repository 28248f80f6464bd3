//! Virtual machines as libvirt knows them, over its own protocol on a local socket; or,
//! with the feature `virt`, through its library.
//!
//! A task keeps the connection, hears of events and remembers what is dear; whoever asks
//! gets each domain asked about by itself, so that one that hangs costs only itself.

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

/// What it is called in errors.
const NAME: &str = "libvirt";
/// How much of the time before the deadline is left to expose the answers: a tenth, but
/// not more than the first and not less than the second.
const MAX_MARGIN: Duration = Duration::from_millis(500);
const MIN_MARGIN: Duration = Duration::from_millis(20);

/// What libvirt said in one scrape.
#[derive(Debug, Clone, Default)]
pub struct FetchResult {
    /// How the daemon was reached.
    pub connection: ConnectionInfo,
    /// All domains, running or not, sorted by name, each name once.
    pub domains: Vec<Domain>,
}

/// How the daemon was reached.
#[derive(Debug, Clone, Default)]
pub struct ConnectionInfo {
    /// What was connected to: a socket or a URI.
    pub uri: String,
    /// Whether the daemon answered in this scrape.
    pub is_up: bool,
    /// Why not, or what is missing although it did.
    pub error: Option<String>,
    /// Whether that is because the daemon does not let this user in.
    pub is_permission_denied: bool,
    /// How often it was connected to so far.
    pub connections: u64,
    /// Requests that were made so far.
    pub requests: u64,
    /// Events that were taken in so far.
    pub events: u64,
    /// Requests that have no answer yet and whose scrapes are over.
    pub abandoned_requests: u64,
    /// The versions of what is there, once known.
    pub versions: Option<Versions>,
}

/// The versions of what is there, such as `9.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The name of the driver, such as `QEMU`.
    pub driver: String,
    /// Of the hypervisor, where it says so.
    pub hypervisor: Option<String>,
    /// Of the daemon.
    pub daemon: String,
}

/// What is known of runs of domains without libvirt, by the domains' UUIDs.
pub type HostStatsByUuid = HashMap<String, HostStats>;

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePool {
    /// Its name.
    pub name: String,
    /// libvirt's number for what it is doing: 0 inactive, 1 building, 2 running, 3
    /// degraded, 4 inaccessible.
    pub state: Option<u32>,
    /// Bytes that it can hold.
    pub capacity: Option<u64>,
    /// Bytes in use.
    pub allocation: Option<u64>,
    /// Bytes left.
    pub available: Option<u64>,
    /// Whether it did not answer in time.
    pub timed_out: bool,
}

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualNetwork {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is up.
    pub is_active: Option<bool>,
    /// The bridge it is on, while it is up and has one.
    pub bridge: Option<String>,
}

/// A domain that runs, as far as is known without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningDomain {
    /// libvirt's number for this run.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
}

/// The libvirt of this machine.
#[derive(Debug)]
pub struct Libvirt {
    selection: StatsSelection,
    /// Nothing for a URI that this client does not know.
    manager: Option<Arc<ConnectionManager>>,
    /// Who asks then, if this build has one.
    virt: Option<Virt>,
    status_log: Arc<StatusLog>,
    /// What was named, or would be looked for first.
    uri: String,
    runtime: OnceLock<Handle>,
}

impl Libvirt {
    /// The one that the flags name, else the one whose socket is there, below the host's
    /// root file system. Nothing is asked before [`watch`](Self::watch).
    #[must_use]
    pub fn new(flags: LibvirtFlags, rootfs: &Path) -> Self {
        let here = SocketPaths::new(rootfs);
        let places = Endpoints::from_uri(flags.libvirt_uri.as_deref(), &here);
        Self::with(flags, places, Timing::default())
    }

    fn with(flags: LibvirtFlags, endpoints: Option<Endpoints>, timing: Timing) -> Self {
        let first = endpoints.as_ref().and_then(|places| places.list.first());
        let first = first.map(|place| place.socket.display().to_string());
        let news = Arc::<StatusLog>::default();
        let keeper = |places| Arc::new(ConnectionManager::new(places, timing, Arc::clone(&news)));
        let uri = flags.libvirt_uri.as_deref().filter(|_| endpoints.is_none());
        Self {
            virt: uri.and_then(|uri| Virt::new(uri, &flags.libvirt_stats, flags.libvirt_jobs)),
            selection: StatsSelection::new(&flags.libvirt_stats, flags.libvirt_jobs),
            uri: flags.libvirt_uri.or(first).unwrap_or_default(),
            manager: endpoints.map(keeper),
            status_log: news,
            runtime: OnceLock::new(),
        }
    }

    /// Why nobody in this build could ask the one that the flags name.
    pub fn check(&self) -> Result<(), String> {
        if self.manager.is_none() && self.virt.is_none() {
            let uri = &self.uri;
            return Err(format!(
                "--libvirt.uri: {uri} needs a build with --features virt"
            ));
        }
        Ok(())
    }

    /// The sockets that are looked for, in turn, and whether the flags name them. None
    /// where it takes more than a socket.
    #[must_use]
    pub fn sockets(&self) -> (Vec<PathBuf>, bool) {
        let Some(keeper) = &self.manager else {
            return (Vec::new(), true);
        };
        let sockets = keeper
            .endpoints
            .list
            .iter()
            .map(|place| place.socket.clone());
        (sockets.collect(), keeper.endpoints.is_explicit)
    }

    /// The URI that libvirt's own library is asked for, if it takes that.
    #[must_use]
    pub fn library_uri(&self) -> Option<&str> {
        self.virt.as_ref().map(|_| self.uri.as_str())
    }

    /// Begins to connect and to listen, on the runtime that this is called on, for as
    /// long as it runs.
    pub fn start(self: &Arc<Self>) {
        if self.runtime.set(Handle::current()).is_err() {
            return;
        }
        if let Some(keeper) = &self.manager {
            tokio::spawn(Arc::clone(keeper).run());
        }
    }

    /// Asks about all domains and waits for the answers, not beyond the deadline less a
    /// margin in which they can be exposed. What was counted of them is not asked for, but
    /// in the answer. [`Error::Absent`] where there is no libvirt; a
    /// daemon that is there and does not answer is no error, but said in the answer.
    pub fn fetch(&self, deadline: Instant, host_stats: HostStatsByUuid) -> Result<FetchResult> {
        let wanted = self.selection;
        let fetched = match &self.virt {
            Some(virt) => virt.fetch(deadline),
            None => self.query(deadline, async move |keeper, by| {
                fetch_from_daemon(&keeper, wanted, host_stats, by).await
            })?,
        };
        let connection = &fetched.connection;
        if connection.is_up {
            self.status_log.log_up(&connection.uri);
        } else {
            let error = connection.error.as_deref();
            self.status_log.log_down(error.unwrap_or("no answer"));
        }
        Ok(fetched)
    }

    /// Asks about storage pools, in the same way.
    pub fn pools(&self, deadline: Instant) -> Result<Vec<StoragePool>> {
        if let Some(virt) = &self.virt {
            return virt.pools(deadline);
        }
        self.query(deadline, async |keeper, by| {
            let session = connected_session(&keeper, by).await?;
            storage::list_pools(&session, by)
                .await
                .map_err(into_source_error)
        })
    }

    /// Asks about virtual networks, in the same way.
    pub fn networks(&self, deadline: Instant) -> Result<Vec<VirtualNetwork>> {
        if let Some(virt) = &self.virt {
            return virt.networks(deadline);
        }
        self.query(deadline, async |keeper, by| {
            let session = connected_session(&keeper, by).await?;
            storage::list_networks(&session, by)
                .await
                .map_err(into_source_error)
        })
    }

    /// The domains that run, as was last heard, without asking anybody. None where it
    /// takes more than a local socket: that may well be another machine.
    #[must_use]
    pub fn running(&self) -> Arc<Vec<RunningDomain>> {
        let keeper = self.manager.as_ref();
        keeper
            .map(|keeper| keeper.events.running())
            .unwrap_or_default()
    }

    /// Lets something be asked on the runtime, and waits for it here.
    fn query<T, F>(
        &self,
        deadline: Instant,
        request: impl FnOnce(Arc<ConnectionManager>, Instant) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let keeper = self.manager.as_ref().ok_or_else(|| {
            let reason = format!("{}: takes a build with the feature virt", self.uri);
            Error::api(NAME, reason)
        })?;
        let absent = || Error::NotFound(self.uri.clone().into());
        let runtime = self.runtime.get().ok_or_else(absent)?;
        if matches!(keeper.status(), ConnectionStatus::NotFound) && !keeper.any_socket_exists() {
            return Err(absent());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let margin = (left / 10).clamp(MIN_MARGIN.min(left), MAX_MARGIN);
        let reply_deadline = deadline.checked_sub(margin).unwrap_or(deadline);
        let (reply_tx, reply_rx) = std::sync::mpsc::sync_channel(1);
        let answer = request(Arc::clone(keeper), reply_deadline);
        runtime.spawn(async move {
            // Whoever asked may have gone.
            reply_tx.try_send(answer.await).ok();
        });
        let left = deadline.saturating_duration_since(Instant::now());
        let said = reply_rx.recv_timeout(left);
        said.unwrap_or_else(|_| Err(Error::TimedOut(NAME.to_owned())))
            .map_err(|error| match error {
                Error::NotFound(_) => absent(),
                error => error,
            })
    }
}

/// The connection by then.
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
        failure => Error::api(NAME, failure),
    }
}

async fn fetch_from_daemon(
    manager: &ConnectionManager,
    selection: StatsSelection,
    host_stats: HostStatsByUuid,
    deadline: Instant,
) -> Result<FetchResult> {
    let mut fetched = FetchResult::default();
    let connection = &mut fetched.connection;
    let first = manager.endpoints.list.first();
    let uri = |place: &Endpoint| place.socket.display().to_string();
    connection.uri = first.map(uri).unwrap_or_default();
    match connected_session(manager, deadline).await {
        Ok(session) => {
            connection.uri = uri(session.endpoint());
            connection.versions.clone_from(&session.versions);
            match fetch_domains(&session, selection, host_stats, deadline).await {
                Ok((domains, error)) => {
                    connection.is_up = true;
                    connection.error = error.or_else(|| session.degraded_reason.clone());
                    fetched.domains = domains;
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
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    connection.connections = count(&manager.counters.connections);
    connection.requests = count(&manager.counters.requests);
    connection.events = count(&manager.counters.events);
    Ok(fetched)
}

/// The domains and what is missing although there are some, or why there are none.
async fn fetch_domains(
    session: &Arc<LibvirtSession>,
    selection: StatsSelection,
    host_stats: HostStatsByUuid,
    deadline: Instant,
) -> std::result::Result<(Vec<Domain>, Option<String>), String> {
    let unanswered = || {
        let since = session.listing_hung_for()?;
        Some(format!("no answer for {} s", since.as_secs()))
    };
    // Nobody is asked twice at a time.
    let turn = timeout_at(deadline.into(), session.fetch_lock.lock()).await;
    let _turn = turn.map_err(|_| "another scrape is not done yet".to_owned())?;
    if let Some(reason) = unanswered() {
        return Err(reason);
    }
    let domains = fetch::fetch_domains(session, selection, host_stats, deadline).await;
    domains.map_err(|failure| failure.to_string())
}
