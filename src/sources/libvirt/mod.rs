//! Virtual machines as libvirt knows them, over its own protocol on a local socket; or,
//! with the feature `virt`, through its library.
//!
//! A task keeps the connection, hears of events and remembers what is dear; whoever asks
//! gets each domain asked about by itself, so that one that hangs costs only itself.

mod cache;
mod connection;
mod domain;
#[cfg(test)]
mod fake;
mod fetch;
mod flags;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod heard;
#[cfg(test)]
mod hostile;
mod news;
mod params;
mod place;
mod session;
mod storage;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "virt"), path = "no_virt.rs")]
mod virt;
mod watch;
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
    About, AboutDisk, AboutInterface, Balloon, Counted, CpuTimes, DirtyRate, Disk, Domain,
    Interface, IoThread, Job, Lifecycle, Limit, Limited, Limits, Nova, Operations, State, Stats,
    Traffic, Vcpu,
};
pub use flags::{Flags, Group};

use crate::error::{Error, Result};
use connection::Failure;
use fetch::Wanted;
use news::News;
use place::{Here, Place, Places};
use session::Session;
use virt::Virt;
use watch::{Keeper, Status, Timing};

/// What it is called in errors.
const NAME: &str = "libvirt";
/// How much of the time before the deadline is left to expose the answers: a tenth, but
/// not more than the first and not less than the second.
const MAX_MARGIN: Duration = Duration::from_millis(500);
const MIN_MARGIN: Duration = Duration::from_millis(20);

/// What libvirt said in one scrape.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// How the daemon was reached.
    pub connection: Connection,
    /// All domains, running or not, sorted by name, each name once.
    pub domains: Vec<Domain>,
}

/// How the daemon was reached.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// What was connected to: a socket or a URI.
    pub uri: String,
    /// Whether the daemon answered in this scrape.
    pub is_up: bool,
    /// Why not, or what is missing although it did.
    pub error: Option<String>,
    /// Whether that is because the daemon does not let this user in.
    pub is_locked_out: bool,
    /// How often it was connected to so far.
    pub connections: u64,
    /// Requests that were made so far.
    pub requests: u64,
    /// Events that were taken in so far.
    pub events: u64,
    /// Requests that have no answer yet and whose scrapes are over.
    pub stuck_requests: u64,
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
pub type Runs = HashMap<String, Counted>;

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
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
pub struct Network {
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
pub struct Running {
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
    wanted: Wanted,
    /// Nothing for a URI that this client does not know.
    keeper: Option<Arc<Keeper>>,
    /// Who asks then, if this build has one.
    virt: Option<Virt>,
    news: Arc<News>,
    /// What was named, or would be looked for first.
    uri: String,
    runtime: OnceLock<Handle>,
}

impl Libvirt {
    /// The one that the flags name, else the one whose socket is there, below the host's
    /// root file system. Nothing is asked before [`watch`](Self::watch).
    #[must_use]
    pub fn new(flags: Flags, rootfs: &Path) -> Self {
        let here = Here::below(rootfs);
        let places = Places::of(flags.libvirt_uri.as_deref(), &here);
        Self::with(flags, places, Timing::default())
    }

    fn with(flags: Flags, places: Option<Places>, timing: Timing) -> Self {
        let first = places.as_ref().and_then(|places| places.all.first());
        let first = first.map(|place| place.socket.display().to_string());
        let news = Arc::<News>::default();
        let keeper = |places| Arc::new(Keeper::new(places, timing, Arc::clone(&news)));
        let uri = flags.libvirt_uri.as_deref().filter(|_| places.is_none());
        Self {
            virt: uri.and_then(|uri| Virt::new(uri, &flags.libvirt_stats, flags.libvirt_jobs)),
            wanted: Wanted::new(&flags.libvirt_stats, flags.libvirt_jobs),
            uri: flags.libvirt_uri.or(first).unwrap_or_default(),
            keeper: places.map(keeper),
            news,
            runtime: OnceLock::new(),
        }
    }

    /// Why nobody in this build could ask the one that the flags name.
    pub fn check(&self) -> Result<(), String> {
        if self.keeper.is_none() && self.virt.is_none() {
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
        let Some(keeper) = &self.keeper else {
            return (Vec::new(), true);
        };
        let sockets = keeper.places.all.iter().map(|place| place.socket.clone());
        (sockets.collect(), keeper.places.is_named)
    }

    /// The URI that libvirt's own library is asked for, if it takes that.
    #[must_use]
    pub fn library(&self) -> Option<&str> {
        self.virt.as_ref().map(|_| self.uri.as_str())
    }

    /// Begins to connect and to listen, on the runtime that this is called on, for as
    /// long as it runs.
    pub fn watch(self: &Arc<Self>) {
        if self.runtime.set(Handle::current()).is_err() {
            return;
        }
        if let Some(keeper) = &self.keeper {
            tokio::spawn(Arc::clone(keeper).run());
        }
    }

    /// Asks about all domains and waits for the answers, not beyond the deadline less a
    /// margin in which they can be exposed. What was counted of them is not asked for, but
    /// in the answer. [`Error::Absent`] where there is no libvirt; a
    /// daemon that is there and does not answer is no error, but said in the answer.
    pub fn fetch(&self, deadline: Instant, counted: Runs) -> Result<Fetched> {
        let wanted = self.wanted;
        let fetched = match &self.virt {
            Some(virt) => virt.fetch(deadline),
            None => self.ask(deadline, async move |keeper, by| {
                fetched(&keeper, wanted, counted, by).await
            })?,
        };
        let connection = &fetched.connection;
        if connection.is_up {
            self.news.is_up(&connection.uri);
        } else {
            let error = connection.error.as_deref();
            self.news.is_down(error.unwrap_or("no answer"));
        }
        Ok(fetched)
    }

    /// Asks about storage pools, in the same way.
    pub fn pools(&self, deadline: Instant) -> Result<Vec<Pool>> {
        if let Some(virt) = &self.virt {
            return virt.pools(deadline);
        }
        self.ask(deadline, async |keeper, by| {
            let session = session(&keeper, by).await?;
            storage::pools(&session, by).await.map_err(failed)
        })
    }

    /// Asks about virtual networks, in the same way.
    pub fn networks(&self, deadline: Instant) -> Result<Vec<Network>> {
        if let Some(virt) = &self.virt {
            return virt.networks(deadline);
        }
        self.ask(deadline, async |keeper, by| {
            let session = session(&keeper, by).await?;
            storage::networks(&session, by).await.map_err(failed)
        })
    }

    /// The domains that run, as was last heard, without asking anybody. None where it
    /// takes more than a local socket: that may well be another machine.
    #[must_use]
    pub fn running(&self) -> Arc<Vec<Running>> {
        let keeper = self.keeper.as_ref();
        keeper
            .map(|keeper| keeper.heard.running())
            .unwrap_or_default()
    }

    /// Lets something be asked on the runtime, and waits for it here.
    fn ask<T, F>(
        &self,
        deadline: Instant,
        question: impl FnOnce(Arc<Keeper>, Instant) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let keeper = self.keeper.as_ref().ok_or_else(|| {
            let reason = format!("{}: takes a build with the feature virt", self.uri);
            Error::api(NAME, reason)
        })?;
        let absent = || Error::Absent(self.uri.clone().into());
        let runtime = self.runtime.get().ok_or_else(absent)?;
        if matches!(keeper.status(), Status::Absent) && !keeper.is_anywhere() {
            return Err(absent());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let margin = (left / 10).clamp(MIN_MARGIN.min(left), MAX_MARGIN);
        let by = deadline.checked_sub(margin).unwrap_or(deadline);
        let (say, said) = std::sync::mpsc::sync_channel(1);
        let answer = question(Arc::clone(keeper), by);
        runtime.spawn(async move {
            // Whoever asked may have gone.
            say.try_send(answer.await).ok();
        });
        let left = deadline.saturating_duration_since(Instant::now());
        let said = said.recv_timeout(left);
        said.unwrap_or_else(|_| Err(Error::TimedOut(NAME.to_owned())))
            .map_err(|error| match error {
                Error::Absent(_) => absent(),
                error => error,
            })
    }
}

/// The connection by then.
async fn session(keeper: &Keeper, by: Instant) -> Result<Arc<Session>> {
    match keeper.stands(by).await {
        Status::Up(session) => Ok(session),
        Status::Connecting => Err(Error::TimedOut(NAME.to_owned())),
        Status::Absent => Err(Error::Absent(PathBuf::new())),
        Status::Down { reason, .. } => Err(Error::api(NAME, reason)),
    }
}

fn failed(failure: Failure) -> Error {
    match failure {
        Failure::Late => Error::TimedOut(NAME.to_owned()),
        failure => Error::api(NAME, failure),
    }
}

async fn fetched(keeper: &Keeper, wanted: Wanted, counted: Runs, by: Instant) -> Result<Fetched> {
    let mut fetched = Fetched::default();
    let connection = &mut fetched.connection;
    let first = keeper.places.all.first();
    let uri = |place: &Place| place.socket.display().to_string();
    connection.uri = first.map(uri).unwrap_or_default();
    match session(keeper, by).await {
        Ok(session) => {
            connection.uri = uri(session.place());
            connection.versions.clone_from(&session.versions);
            match domains(&session, wanted, counted, by).await {
                Ok((domains, error)) => {
                    connection.is_up = true;
                    connection.error = error.or_else(|| session.missing.clone());
                    fetched.domains = domains;
                }
                Err(reason) => connection.error = Some(reason),
            }
            connection.stuck_requests = session.stuck();
        }
        Err(error @ Error::Absent(_)) => return Err(error),
        Err(Error::Api { reason, .. }) => {
            connection.error = Some(reason);
            connection.is_locked_out = keeper.is_locked_out();
        }
        Err(error) => connection.error = Some(error.to_string()),
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    connection.connections = count(&keeper.counts.connections);
    connection.requests = count(&keeper.counts.requests);
    connection.events = count(&keeper.counts.events);
    Ok(fetched)
}

/// The domains and what is missing although there are some, or why there are none.
async fn domains(
    session: &Arc<Session>,
    wanted: Wanted,
    counted: Runs,
    by: Instant,
) -> std::result::Result<(Vec<Domain>, Option<String>), String> {
    let unanswered = || {
        let since = session.is_hung()?;
        Some(format!("no answer for {} s", since.as_secs()))
    };
    // Nobody is asked twice at a time.
    let turn = timeout_at(by.into(), session.turn.lock()).await;
    let _turn = turn.map_err(|_| "another scrape is not done yet".to_owned())?;
    if let Some(reason) = unanswered() {
        return Err(reason);
    }
    let domains = fetch::domains(session, wanted, counted, by).await;
    domains.map_err(|failure| failure.to_string())
}
