//! Selects the container that exposes each network namespace, so that each is exposed once.
//! Containers in the host's namespace have none of their own. Of containers that share one, as in
//! a pod, the one that started first exposes it: it is the one for which it was created.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{NetworkNamespace, Process, Snapshot, cgroup::Cgroup, workloads::Workload};
use crate::error::{Error, Result};

/// Prefixes of interfaces that belong to the loopback or to engines, not to a container.
const IGNORED_PREFIXES: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// First processes of containers, cached between scrapes.
#[derive(Debug, Default)]
pub struct NetnsOwners {
    /// By cgroup path.
    processes: Mutex<HashMap<String, Arc<Process>>>,
}

/// A container and the network namespace it is in.
#[derive(Debug)]
pub struct NetnsMember<'a> {
    /// The container, or the host.
    pub workload: &'a Workload,
    cgroup: &'a Cgroup,
    /// Its first process.
    pub process: Arc<Process>,
    /// Network namespace of that process.
    pub namespace: NetworkNamespace,
}

impl NetnsMember<'_> {
    /// Whether it is the host.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.workload.path == "/"
    }

    /// Start time; unknown start times sort last.
    fn started(&self) -> Duration {
        let container = self.workload.container.as_ref();
        let started = container.and_then(|(_, container)| container.started);
        started
            .or_else(|| self.cgroup.created().ok())
            .unwrap_or(Duration::MAX)
    }
}

impl NetnsOwners {
    /// Whether an interface of this name is the loopback or belongs to an engine.
    #[must_use]
    pub fn is_engine_interface(interface: &str) -> bool {
        IGNORED_PREFIXES
            .iter()
            .any(|name| interface.starts_with(name))
    }

    /// Returns the host and the containers that expose a network namespace, sorted by path: the
    /// only container in it, or the first one started. Calls `on_error` for containers whose
    /// namespace cannot be read.
    pub fn owners<'a>(
        &self,
        snapshot: &'a Snapshot,
        on_error: impl FnMut(Error),
    ) -> Result<Vec<NetnsMember<'a>>> {
        Ok(select_owners(self.members(snapshot, on_error)?))
    }

    /// Returns the namespaces of the host and all containers, sorted by path.
    fn members<'a>(
        &self,
        snapshot: &'a Snapshot,
        mut on_error: impl FnMut(Error),
    ) -> Result<Vec<NetnsMember<'a>>> {
        let inventory = snapshot.workloads()?;
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut last = std::mem::take(&mut *processes);
        let max_processes = snapshot.max_process_dirs();
        let mut members = Vec::new();
        for (workload, group) in inventory.present() {
            let process = last.remove(workload.path.as_str());
            let member = process.and_then(|process| member(workload, group, process).ok());
            let member = member.map_or_else(
                || find_member(snapshot, workload, group),
                |member| Ok(Some(member)),
            );
            let member = match member {
                Ok(Some(member)) => member,
                Ok(None) => continue,
                Err(error) => {
                    on_error(error);
                    continue;
                }
            };
            if processes.len() < max_processes {
                processes.insert(workload.path.clone(), Arc::clone(&member.process));
            }
            members.push(member);
        }
        Ok(members)
    }
}

fn member<'a>(
    workload: &'a Workload,
    group: &'a Cgroup,
    process: Arc<Process>,
) -> Result<NetnsMember<'a>> {
    Ok(NetnsMember {
        namespace: process.network_namespace()?,
        workload,
        cgroup: group,
        process,
    })
}

/// Returns the namespace of a container's first process: the process that its engine reports, if
/// that is still in its cgroup, else another process of the cgroup. `None` for workloads that are
/// not containers.
fn find_member<'a>(
    snapshot: &Snapshot,
    workload: &'a Workload,
    group: &'a Cgroup,
) -> Result<Option<NetnsMember<'a>>> {
    if workload.path == "/" {
        let process = snapshot.process(1)?;
        return member(workload, group, process.into()).map(Some);
    }
    if workload.container.is_none() && workload.runtime_id.is_none() {
        return Ok(None);
    }
    let container = workload.container.as_ref();
    if let Some(pid) = container.and_then(|(_, container)| container.pid)
        && let Ok(process) = snapshot.process(pid)
        && process.is_in_cgroup(&workload.path).unwrap_or(false)
    {
        return member(workload, group, process.into()).map(Some);
    }
    for pid in group.processes()? {
        let found = snapshot
            .process(pid)
            .and_then(|process| member(workload, group, process.into()));
        match found {
            Err(error) if error.is_gone() => {}
            found => return found.map(Some),
        }
    }
    Ok(None)
}

/// Selects the only or first started container of each namespace.
fn select_owners(members: Vec<NetnsMember<'_>>) -> Vec<NetnsMember<'_>> {
    let keys = members
        .iter()
        .map(|member| (member.namespace, member.is_host()));
    let keys: Vec<_> = keys.collect();
    let is_owner = owner_flags(&keys, |index| members.get(index).map(NetnsMember::started));
    let owners = members.into_iter().zip(is_owner);
    owners
        .filter_map(|(member, is_owner)| is_owner.then_some(member))
        .collect()
}

/// Selects which of them exposes the namespace it is in: the host in the host's namespace, else
/// the one that started first. Start times are read only where several share a namespace.
fn owner_flags<N: std::hash::Hash + Eq + Copy>(
    members: &[(N, bool)],
    started: impl Fn(usize) -> Option<Duration>,
) -> Vec<bool> {
    let mut owner: HashMap<N, usize> = HashMap::with_capacity(members.len());
    let hosts: HashSet<N> = members
        .iter()
        .filter(|(_, is_host)| *is_host)
        .map(|(namespace, _)| *namespace)
        .collect();
    for (index, (namespace, is_host)) in members.iter().enumerate() {
        if *is_host {
            owner.insert(*namespace, index);
        } else if !hosts.contains(namespace) {
            let first = owner.entry(*namespace).or_insert(index);
            if *first != index && started(index) < started(*first) {
                *first = index;
            }
        }
    }
    members
        .iter()
        .enumerate()
        .map(|(index, (namespace, _))| owner.get(namespace) == Some(&index))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netns_owner_is_host_or_first_started() {
        let start_times = [9, 5, 3, 4, 4, 1].map(Duration::from_secs);
        let started = |index: usize| start_times.get(index).copied();
        let shared = [
            (0, true),
            (0, false),
            (7, false),
            (8, false),
            (8, false),
            (7, false),
        ];
        assert_eq!(
            owner_flags(&shared, started),
            [true, false, false, true, false, true]
        );
        // The host is last.
        assert_eq!(
            owner_flags(&[(0, false), (0, true)], started),
            [false, true]
        );
        // The host is not among the candidates.
        assert_eq!(
            owner_flags(&[(0, false), (1, false)], started),
            [true, true]
        );
    }

    #[test]
    fn start_times_are_read_only_for_shared_namespaces() {
        let started = |index| panic!("start time {index} was read");
        assert_eq!(
            owner_flags(&[(0, true), (0, false), (1, false)], started),
            [true, false, true]
        );
    }
}
