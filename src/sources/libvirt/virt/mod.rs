//! Client through libvirt's own library, for every URI that needs more than a local socket:
//! `test:///default`, `qemu+ssh://…`, `qemu+tls://…`, and drivers inside the library.
//!
//! Each call blocks without a timeout, so all calls are made on worker threads. A call that hangs
//! costs its scrape the deadline and occupies its thread; the next scrape reports it at once.
//!
//! The `virt` crate has no events. So definitions are read in each scrape, and lifecycle counts
//! come from the differences between two scrapes: of two starts between them only one is counted,
//! and I/O errors of disks are not seen.

mod connect;
mod crew;
mod ffi;
mod query;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use ::virt::domain::Domain as Handle;

use self::{
    connect::{CallCounters, LibraryConnection},
    crew::{Crew, Doing, Hand},
    query::QueryOptions,
};
use super::{
    ConnectionInfo, Domain, DomainState, FetchResult, LifecycleCounts, StatsGroup, StoragePool,
    Versions, VirtualNetwork,
};
use crate::error::{Error, Result};

/// Name in errors.
const NAME: &str = "libvirt";
/// Number of worker threads for domains: when all are hung, no domain can be queried.
const MAX_THREADS: usize = 4;
/// A domain that this many threads hang in is not queried.
const MAX_THREADS_PER_DOMAIN: usize = 2;
/// Maximum number of domains, and of pools and networks, per query.
const MAX_LISTED: usize = 10_000;
/// Maximum time reserved before the deadline for exposing the result.
const MAX_MARGIN: Duration = Duration::from_millis(500);
const VIR_DOMAIN_SHUTOFF_CRASHED: i32 = 3;

/// Client for one URI.
#[derive(Debug)]
pub(super) struct Virt {
    uri: Arc<str>,
    groups: Vec<StatsGroup>,
    has_jobs: bool,
    counters: Arc<CallCounters>,
    domains: Crew,
    pools: Crew,
    networks: Crew,
    /// Domains of the last scrape, by UUID.
    last_seen: Mutex<HashMap<String, LastSeen>>,
}

/// State of a domain in the last scrape.
#[derive(Debug, Default)]
struct LastSeen {
    id: Option<u32>,
    is_crashed: bool,
    lifecycle: LifecycleCounts,
}

/// A message from a worker thread.
enum WorkerMessage<T> {
    /// The list, with the data that needs no further call.
    Listed(Vec<T>, Option<Versions>),
    /// Details of the object with this index; `None` if it has disappeared.
    Details(usize, Option<Box<T>>),
    /// Why there is no list.
    Failed(String),
}

/// Results received before the deadline.
struct WorkerResults<T> {
    listed: Vec<T>,
    /// Whether details have arrived, by index.
    has_details: Vec<bool>,
    gone: HashSet<usize>,
    versions: Option<Versions>,
}

impl Virt {
    /// Creates a client without connecting.
    #[expect(clippy::unnecessary_wraps, reason = "other builds return None")]
    pub(super) fn new(uri: &str, groups: &[StatsGroup], has_jobs: bool) -> Option<Self> {
        Some(Self {
            uri: uri.into(),
            groups: groups.to_vec(),
            has_jobs,
            counters: Arc::default(),
            domains: Crew::new("libvirt-domains", MAX_THREADS),
            pools: Crew::new("libvirt-pools", 1),
            networks: Crew::new("libvirt-nets", 1),
            last_seen: Mutex::default(),
        })
    }

    /// Queries all domains and waits for the results.
    pub(super) fn fetch(&self, deadline: Instant) -> FetchResult {
        let mut connection = ConnectionInfo {
            uri: self.uri.to_string(),
            ..ConnectionInfo::default()
        };
        let domains = match self.fetch_domains(with_margin(deadline), &mut connection) {
            Ok(domains) => domains,
            Err(reason) => {
                connection.error = Some(reason);
                vec![]
            }
        };
        let crews = [&self.domains, &self.pools, &self.networks];
        let stuck: usize = crews.iter().map(|crew| crew.stuck()).sum();
        connection.abandoned_requests = stuck.try_into().unwrap_or(u64::MAX);
        connection.connections = self.counters.connections.load(Ordering::Relaxed);
        connection.requests = self.counters.requests.load(Ordering::Relaxed);
        FetchResult {
            connection,
            domains,
        }
    }

    fn fetch_domains(
        &self,
        deadline: Instant,
        connection: &mut ConnectionInfo,
    ) -> Result<Vec<Domain>, String> {
        let turn = self
            .domains
            .turn(deadline)
            .ok_or("another scrape is still in progress")?;
        let (worker, stuck) = turn.engage(|| self.new_connection())?;
        let options = QueryOptions {
            groups: self.groups.clone(),
            has_jobs: self.has_jobs,
            deadline,
        };
        let skipped = stuck.clone();
        let results = run_task(&worker, deadline, move |connection, doing, send| {
            let (handles, versions) = connection.list(|connect| connect.list_all_domains(0))?;
            let handles: Vec<_> = handles.into_iter().take(MAX_LISTED).collect();
            let listed: Vec<_> = handles.iter().map(domain_from_handle).collect();
            send(WorkerMessage::Listed(listed.clone(), versions));
            for (index, (handle, listed)) in handles.iter().zip(&listed).enumerate() {
                if Instant::now() >= options.deadline {
                    break;
                }
                let stuck = skipped.get(&listed.uuid).copied().unwrap_or(0);
                if stuck >= MAX_THREADS_PER_DOMAIN {
                    continue;
                }
                doing.asks_about(&listed.uuid);
                let details = match stuck {
                    0 => query::query_domain(handle, listed, &options, &connection.counters),
                    _ => query::query_domain_quick(handle, listed, &options, &connection.counters),
                };
                send(WorkerMessage::Details(index, details.map(Box::new)));
            }
            Ok(())
        })?;
        connection.is_up = true;
        connection.versions = results.versions;
        let current = worker.doing.about();
        let mut skipped_count = 0;
        let mut domains = vec![];
        for (index, (mut domain, has_details)) in results
            .listed
            .into_iter()
            .zip(results.has_details)
            .enumerate()
        {
            let is_current = Some(&domain.uuid) == current.as_ref();
            domain.is_stuck = !has_details && is_current || stuck.contains_key(&domain.uuid);
            if !has_details && !domain.is_stuck {
                skipped_count += 1;
            }
            domain.is_partial |= !has_details;
            // A domain without a name cannot be exposed.
            if !results.gone.contains(&index) && !domain.name.is_empty() {
                domains.push(domain);
            }
        }
        if skipped_count > 0 {
            connection.error = Some(format!(
                "deadline exceeded before {skipped_count} domains were queried"
            ));
        }
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        domains.dedup_by(|a, b| a.name == b.name);
        self.update_lifecycles(&mut domains);
        Ok(domains)
    }

    /// Updates and stores lifecycle counts; drops those of missing domains.
    fn update_lifecycles(&self, domains: &mut [Domain]) {
        let mut last_seen = self
            .last_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut previous = std::mem::take(&mut *last_seen);
        for domain in domains {
            let before = previous.remove(&domain.uuid);
            let now = update_lifecycle(before, domain);
            domain.lifecycle = Some(now.lifecycle.clone());
            last_seen.insert(domain.uuid.clone(), now);
        }
    }

    /// Queries storage pools, with the same deadline handling.
    pub(super) fn pools(&self, deadline: Instant) -> Result<Vec<StoragePool>> {
        let deadline = with_margin(deadline);
        let turn = self.pools.turn(deadline).ok_or_else(timed_out)?;
        let worker = turn.engage(|| self.new_connection());
        let (worker, _) = worker.map_err(|reason| Error::api(NAME, reason))?;
        let results = run_task(&worker, deadline, |connection, _, send| {
            let (handles, _) = connection.list(|connect| connect.list_all_storage_pools(0))?;
            let pools: Vec<_> = handles.into_iter().take(MAX_LISTED).collect();
            let listed: Vec<_> = pools
                .iter()
                .map(|pool| StoragePool {
                    name: pool.name().unwrap_or_default(),
                    state: None,
                    capacity: None,
                    allocation: None,
                    available: None,
                    timed_out: false,
                })
                .collect();
            send(WorkerMessage::Listed(listed.clone(), None));
            for (index, (pool, listed)) in pools.iter().zip(listed).enumerate() {
                connection.counters.count_request();
                let pool = match pool.info() {
                    Ok(info) => StoragePool {
                        state: Some(info.state),
                        capacity: Some(info.capacity),
                        allocation: Some(info.allocation),
                        available: Some(info.available),
                        ..listed
                    },
                    Err(_) => listed,
                };
                send(WorkerMessage::Details(index, Some(Box::new(pool))));
            }
            Ok(())
        });
        let results = results.map_err(|reason| Error::api(NAME, reason))?;
        let pools = results.listed.into_iter().zip(results.has_details);
        let mut pools: Vec<_> = pools
            .map(|(pool, has_details)| StoragePool {
                timed_out: !has_details,
                ..pool
            })
            .collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    /// Queries virtual networks, with the same deadline handling.
    pub(super) fn networks(&self, deadline: Instant) -> Result<Vec<VirtualNetwork>> {
        let deadline = with_margin(deadline);
        let turn = self.networks.turn(deadline).ok_or_else(timed_out)?;
        let worker = turn.engage(|| self.new_connection());
        let (worker, _) = worker.map_err(|reason| Error::api(NAME, reason))?;
        let results = run_task(&worker, deadline, |connection, _, send| {
            let (handles, _) = connection.list(|connect| connect.list_all_networks(0))?;
            let networks: Vec<_> = handles.into_iter().take(MAX_LISTED).collect();
            let from_handle = |network: &::virt::network::Network| VirtualNetwork {
                name: network.name().unwrap_or_default(),
                uuid: network.uuid_string().unwrap_or_default(),
                is_active: None,
                bridge: None,
            };
            let listed: Vec<_> = networks.iter().map(from_handle).collect();
            send(WorkerMessage::Listed(listed.clone(), None));
            for (index, (network, listed)) in networks.iter().zip(listed).enumerate() {
                connection.counters.count_request();
                let is_active = network.is_active().ok();
                let bridge = network
                    .bridge_name()
                    .ok()
                    .filter(|_| is_active == Some(true));
                let network = VirtualNetwork {
                    is_active,
                    bridge,
                    ..listed
                };
                send(WorkerMessage::Details(index, Some(Box::new(network))));
            }
            Ok(())
        });
        let mut networks = results.map_err(|reason| Error::api(NAME, reason))?.listed;
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    fn new_connection(&self) -> LibraryConnection {
        LibraryConnection::new(Arc::clone(&self.uri), Arc::clone(&self.counters))
    }
}

/// Starts a task and collects its messages until it is done or the deadline has passed.
fn run_task<T: Send + 'static>(
    worker: &Hand,
    deadline: Instant,
    task: impl FnOnce(&mut LibraryConnection, &Doing, &dyn Fn(WorkerMessage<T>)) -> Result<(), String>
    + Send
    + 'static,
) -> Result<WorkerResults<T>, String> {
    // Bounded by the length of the list. The receiver may be gone before all is sent.
    let (sender, messages) = mpsc::channel();
    let error_sender = sender.clone();
    let task = move |connection: &mut LibraryConnection, doing: &Doing| {
        task(connection, doing, &|message| {
            sender.send(message).ok();
        })
    };
    // This drops the last sender, after the thread has become idle.
    let on_done = move |result: Result<(), String>| {
        if let Err(reason) = result {
            error_sender.send(WorkerMessage::Failed(reason)).ok();
        }
    };
    worker.begin(task, on_done);
    collect_results(&messages, deadline).ok_or_else(|| "timed out".to_owned())?
}

/// Collects messages until the deadline; `None` if no list arrived.
fn collect_results<T>(
    messages: &Receiver<WorkerMessage<T>>,
    deadline: Instant,
) -> Option<Result<WorkerResults<T>, String>> {
    let mut results = None::<WorkerResults<T>>;
    loop {
        match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(WorkerMessage::Listed(listed, versions)) => {
                results = Some(WorkerResults {
                    has_details: listed.iter().map(|_| false).collect(),
                    gone: HashSet::new(),
                    listed,
                    versions,
                });
            }
            Ok(WorkerMessage::Details(index, details)) => {
                let results = results.as_mut()?;
                if let Some(has_details) = results.has_details.get_mut(index) {
                    *has_details = true;
                }
                match (details, results.listed.get_mut(index)) {
                    (Some(details), Some(listed)) => *listed = *details,
                    _ => drop(results.gone.insert(index)),
                }
            }
            Ok(WorkerMessage::Failed(reason)) => return Some(Err(reason)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return results.map(Ok);
            }
        }
    }
}

/// Converts a list entry.
fn domain_from_handle(handle: &Handle) -> Domain {
    Domain {
        name: handle.name().unwrap_or_default(),
        uuid: handle.uuid_string().unwrap_or_default(),
        id: handle.id(),
        ..Domain::default()
    }
}

/// Updates lifecycle counts from the last state and the current one.
fn update_lifecycle(previous: Option<LastSeen>, domain: &Domain) -> LastSeen {
    let was_shut_off_by_crash = (domain.state, domain.reason)
        == (Some(DomainState::Shutoff), Some(VIR_DOMAIN_SHUTOFF_CRASHED));
    let is_crashed = was_shut_off_by_crash || domain.state == Some(DomainState::Crashed);
    let id = domain.id;
    let Some(before) = previous else {
        return LastSeen {
            id,
            is_crashed,
            lifecycle: LifecycleCounts::default(),
        };
    };
    let mut lifecycle = before.lifecycle;
    if id != before.id {
        lifecycle.starts += u64::from(id.is_some());
        lifecycle.stops += u64::from(before.id.is_some());
    }
    // An unknown state counts as unchanged.
    let is_crashed = is_crashed || domain.state.is_none() && before.is_crashed;
    lifecycle.crashes += u64::from(is_crashed && !before.is_crashed);
    LastSeen {
        id,
        is_crashed,
        lifecycle,
    }
}

/// Returns the deadline less the time for exposing the result.
fn with_margin(deadline: Instant) -> Instant {
    let remaining = deadline.saturating_duration_since(Instant::now());
    let margin = (remaining / 10).min(MAX_MARGIN);
    deadline.checked_sub(margin).unwrap_or(deadline)
}

fn timed_out() -> Error {
    Error::TimedOut(NAME.to_owned())
}

#[cfg(test)]
mod tests;
