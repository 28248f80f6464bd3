//! Which container shows which network: a namespace is shown once. A container in the
//! host's has none of its own. Of containers that share one, as those of a pod do, the one
//! that began first shows it, which is the one that was made for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{NetworkNamespace, Process, Snapshot, cgroup::Cgroup, workloads::Workload};
use crate::error::{Error, Result};

/// Interfaces whose names begin so are the engines' and no container's.
const IGNORED_PREFIXES: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// The first processes of containers, kept from one look to the next.
#[derive(Debug, Default)]
pub struct NetnsOwners {
    /// By the paths of their groups.
    processes: Mutex<HashMap<String, Arc<Process>>>,
}

/// What one container sees of a network.
#[derive(Debug)]
pub struct NetnsMember<'a> {
    /// The container, or the machine.
    pub workload: &'a Workload,
    cgroup: &'a Cgroup,
    /// Its first process.
    pub process: Arc<Process>,
    /// What that one sees.
    pub namespace: NetworkNamespace,
}

impl NetnsMember<'_> {
    /// Whether it is the machine.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.workload.path == "/"
    }

    /// When it began; what does not say so comes last.
    fn started(&self) -> Duration {
        let container = self.workload.container.as_ref();
        let started = container.and_then(|(_, container)| container.started);
        started
            .or_else(|| self.cgroup.created().ok())
            .unwrap_or(Duration::MAX)
    }
}

impl NetnsOwners {
    /// Whether an interface of this name is an engine's, or the loopback.
    #[must_use]
    pub fn is_engine_interface(interface: &str) -> bool {
        IGNORED_PREFIXES
            .iter()
            .any(|name| interface.starts_with(name))
    }

    /// The machine, and the containers whose network is their own, or that began first of
    /// those who share it, in the order of their paths. Hears of those that cannot be seen.
    pub fn owners<'a>(
        &self,
        snapshot: &'a Snapshot,
        on_error: impl FnMut(Error),
    ) -> Result<Vec<NetnsMember<'a>>> {
        Ok(select_owners(self.members(snapshot, on_error)?))
    }

    /// What each container sees, and the machine, in the order of their paths.
    fn members<'a>(
        &self,
        snapshot: &'a Snapshot,
        mut on_error: impl FnMut(Error),
    ) -> Result<Vec<NetnsMember<'a>>> {
        let seen = snapshot.workloads()?;
        let mut kept = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut last = std::mem::take(&mut *kept);
        let max_kept = snapshot.max_process_dirs();
        let mut views = Vec::new();
        for (workload, group) in seen.present() {
            let known = last.remove(workload.path.as_str());
            let view = known.and_then(|process| member(workload, group, process).ok());
            let view =
                view.map_or_else(|| find_member(snapshot, workload, group), |it| Ok(Some(it)));
            let view = match view {
                Ok(Some(view)) => view,
                Ok(None) => continue,
                Err(error) => {
                    on_error(error);
                    continue;
                }
            };
            if kept.len() < max_kept {
                kept.insert(workload.path.clone(), Arc::clone(&view.process));
            }
            views.push(view);
        }
        Ok(views)
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

/// What the first process sees: of a container the one that its engine named, if it is
/// still in the container's group, else one that is; none of what is no container.
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

/// Those whose network is their own, or that began first of those who share it.
fn select_owners(views: Vec<NetnsMember<'_>>) -> Vec<NetnsMember<'_>> {
    let keys = views.iter().map(|view| (view.namespace, view.is_host()));
    let keys: Vec<_> = keys.collect();
    let owns = owner_flags(&keys, |at| views.get(at).map(NetnsMember::started));
    let owners = views.into_iter().zip(owns);
    owners
        .filter_map(|(view, owns)| owns.then_some(view))
        .collect()
}

/// Which of them shows the namespace it is in: the host if it is the host's, else the one
/// that began first. When that was is asked only where several are in one.
fn owner_flags<N: std::hash::Hash + Eq + Copy>(
    of: &[(N, bool)],
    started: impl Fn(usize) -> Option<Duration>,
) -> Vec<bool> {
    let mut owner: HashMap<N, usize> = HashMap::with_capacity(of.len());
    let hosts: HashSet<N> = of
        .iter()
        .filter(|(_, host)| *host)
        .map(|(n, _)| *n)
        .collect();
    for (at, (namespace, is_host)) in of.iter().enumerate() {
        if *is_host {
            owner.insert(*namespace, at);
        } else if !hosts.contains(namespace) {
            let first = owner.entry(*namespace).or_insert(at);
            if *first != at && started(at) < started(*first) {
                *first = at;
            }
        }
    }
    let at = of.iter().enumerate();
    at.map(|(at, (namespace, _))| owner.get(namespace) == Some(&at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_shown_by_the_host_or_by_who_began_first() {
        let begun = [9, 5, 3, 4, 4, 1].map(Duration::from_secs);
        let when = |at: usize| begun.get(at).copied();
        let shared = [
            (0, true),
            (0, false),
            (7, false),
            (8, false),
            (8, false),
            (7, false),
        ];
        assert_eq!(
            owner_flags(&shared, when),
            [true, false, false, true, false, true]
        );
        // The host comes last.
        assert_eq!(owner_flags(&[(0, false), (0, true)], when), [false, true]);
        // And is not among those shown.
        assert_eq!(owner_flags(&[(0, false), (1, false)], when), [true, true]);
    }

    #[test]
    fn nobody_is_asked_when_it_began_that_shares_with_nobody() {
        let never = |at| panic!("{at} was asked");
        assert_eq!(
            owner_flags(&[(0, true), (0, false), (1, false)], never),
            [true, false, true]
        );
    }
}
