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
            .ok_or("another scrape is not done yet")?;
        let (hand, stuck) = turn.engage(|| self.new_connection())?;
        let question = QueryOptions {
            groups: self.groups.clone(),
            has_jobs: self.has_jobs,
            deadline,
        };
        let skipped = stuck.clone();
        let heard = run_task(&hand, deadline, move |link, doing, say| {
            let (handles, versions) = link.list(|connect| connect.list_all_domains(0))?;
            let handles: Vec<_> = handles.into_iter().take(MAX_LISTED).collect();
            let listed: Vec<_> = handles.iter().map(domain_from_handle).collect();
            say(WorkerMessage::Listed(listed.clone(), versions));
            for (place, (handle, listed)) in handles.iter().zip(&listed).enumerate() {
                if Instant::now() >= question.deadline {
                    break;
                }
                let stuck = skipped.get(&listed.uuid).copied().unwrap_or(0);
                if stuck >= MAX_THREADS_PER_DOMAIN {
                    continue;
                }
                doing.asks_about(&listed.uuid);
                let about = match stuck {
                    0 => query::query_domain(handle, listed, &question, &link.counters),
                    _ => query::query_domain_quick(handle, listed, &question, &link.counters),
                };
                say(WorkerMessage::Details(place, about.map(Box::new)));
            }
            Ok(())
        })?;
        connection.is_up = true;
        connection.versions = heard.versions;
        let asks_about = hand.doing.about();
        let mut unasked = 0;
        let mut domains = vec![];
        for (place, (mut domain, is_known)) in
            heard.listed.into_iter().zip(heard.has_details).enumerate()
        {
            let is_asked = Some(&domain.uuid) == asks_about.as_ref();
            domain.is_stuck = !is_known && is_asked || stuck.contains_key(&domain.uuid);
            if !is_known && !domain.is_stuck {
                unasked += 1;
            }
            domain.is_partial |= !is_known;
            // A domain without a name cannot be exposed.
            if !heard.gone.contains(&place) && !domain.name.is_empty() {
                domains.push(domain);
            }
        }
        if unasked > 0 {
            connection.error = Some(format!("no time was left for {unasked} domains"));
        }
        domains.sort_by(|one, other| one.name.cmp(&other.name));
        domains.dedup_by(|one, other| one.name == other.name);
        self.update_lifecycles(&mut domains);
        Ok(domains)
    }

    /// Updates and stores lifecycle counts; drops those of missing domains.
    fn update_lifecycles(&self, domains: &mut [Domain]) {
        let mut seen = self
            .last_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut last = std::mem::take(&mut *seen);
        for domain in domains {
            let before = last.remove(&domain.uuid);
            let now = update_lifecycle(before, domain);
            domain.lifecycle = Some(now.lifecycle.clone());
            seen.insert(domain.uuid.clone(), now);
        }
    }

    /// Queries storage pools, with the same deadline handling.
    pub(super) fn pools(&self, deadline: Instant) -> Result<Vec<StoragePool>> {
        let by = with_margin(deadline);
        let turn = self.pools.turn(by).ok_or_else(timed_out)?;
        let engaged = turn.engage(|| self.new_connection());
        let (hand, _) = engaged.map_err(|reason| Error::api(NAME, reason))?;
        let heard = run_task(&hand, by, |link, _, say| {
            let (all, _) = link.list(|connect| connect.list_all_storage_pools(0))?;
            let pools: Vec<_> = all.into_iter().take(MAX_LISTED).collect();
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
            say(WorkerMessage::Listed(listed.clone(), None));
            for (place, (pool, listed)) in pools.iter().zip(listed).enumerate() {
                link.counters.count_request();
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
                say(WorkerMessage::Details(place, Some(Box::new(pool))));
            }
            Ok(())
        });
        let heard = heard.map_err(|reason| Error::api(NAME, reason))?;
        let pools = heard.listed.into_iter().zip(heard.has_details);
        let mut pools: Vec<_> = pools
            .map(|(pool, is_known)| StoragePool {
                timed_out: !is_known,
                ..pool
            })
            .collect();
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(pools)
    }

    /// Queries virtual networks, with the same deadline handling.
    pub(super) fn networks(&self, deadline: Instant) -> Result<Vec<VirtualNetwork>> {
        let by = with_margin(deadline);
        let turn = self.networks.turn(by).ok_or_else(timed_out)?;
        let engaged = turn.engage(|| self.new_connection());
        let (hand, _) = engaged.map_err(|reason| Error::api(NAME, reason))?;
        let heard = run_task(&hand, by, |link, _, say| {
            let (all, _) = link.list(|connect| connect.list_all_networks(0))?;
            let networks: Vec<_> = all.into_iter().take(MAX_LISTED).collect();
            let of = |network: &::virt::network::Network| VirtualNetwork {
                name: network.name().unwrap_or_default(),
                uuid: network.uuid_string().unwrap_or_default(),
                is_active: None,
                bridge: None,
            };
            let listed: Vec<_> = networks.iter().map(of).collect();
            say(WorkerMessage::Listed(listed.clone(), None));
            for (place, (network, listed)) in networks.iter().zip(listed).enumerate() {
                link.counters.count_request();
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
                say(WorkerMessage::Details(place, Some(Box::new(network))));
            }
            Ok(())
        });
        let mut networks = heard.map_err(|reason| Error::api(NAME, reason))?.listed;
        networks.sort_by(|one, other| one.name.cmp(&other.name));
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
    let (sender, said) = mpsc::channel();
    let refuses = sender.clone();
    let task = move |link: &mut LibraryConnection, doing: &Doing| {
        task(link, doing, &|said| {
            sender.send(said).ok();
        })
    };
    // This drops the last sender, after the thread has become idle.
    let tell = move |result: Result<(), String>| {
        if let Err(reason) = result {
            refuses.send(WorkerMessage::Failed(reason)).ok();
        }
    };
    worker.begin(task, tell);
    collect_results(&said, deadline).ok_or_else(|| "no answer in time".to_owned())?
}

/// Collects messages until the deadline; `None` if no list arrived.
fn collect_results<T>(
    messages: &Receiver<WorkerMessage<T>>,
    deadline: Instant,
) -> Option<Result<WorkerResults<T>, String>> {
    let mut heard = None::<WorkerResults<T>>;
    loop {
        match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(WorkerMessage::Listed(listed, versions)) => {
                heard = Some(WorkerResults {
                    has_details: listed.iter().map(|_| false).collect(),
                    gone: HashSet::new(),
                    listed,
                    versions,
                });
            }
            Ok(WorkerMessage::Details(place, about)) => {
                let heard = heard.as_mut()?;
                if let Some(is_known) = heard.has_details.get_mut(place) {
                    *is_known = true;
                }
                match (about, heard.listed.get_mut(place)) {
                    (Some(about), Some(listed)) => *listed = *about,
                    _ => drop(heard.gone.insert(place)),
                }
            }
            Ok(WorkerMessage::Failed(reason)) => return Some(Err(reason)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return heard.map(Ok);
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
    let is_off_by_crash = (domain.state, domain.reason)
        == (Some(DomainState::Shutoff), Some(VIR_DOMAIN_SHUTOFF_CRASHED));
    let is_crashed = is_off_by_crash || domain.state == Some(DomainState::Crashed);
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
    let left = deadline.saturating_duration_since(Instant::now());
    let margin = (left / 10).min(MAX_MARGIN);
    deadline.checked_sub(margin).unwrap_or(deadline)
}

fn timed_out() -> Error {
    Error::TimedOut(NAME.to_owned())
}

#[cfg(test)]
mod tests;
