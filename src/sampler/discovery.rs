//! Which containers there are, and which of them began anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use super::target::{PendingChanges, SampleTarget, TargetKind};
use crate::{
    history::{Baseline, History},
    sources::{
        HostState, NetnsOwners, NetworkNamespace, Process, Snapshot,
        engine::{Container, Engine},
        workloads::Workload,
    },
};

/// What a look at engines and groups is given, which ask nobody: they are known.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Discovery {
    machine: Arc<HostState>,
    /// What the engines had said when it was last asked whether they have news.
    last_engines: Mutex<Arc<Vec<Arc<Engine>>>>,
    state: Mutex<DiscoveryState>,
}

/// What is kept from one look to the next.
#[derive(Debug, Default)]
struct DiscoveryState {
    networks: NetnsOwners,
    host: Option<Arc<SampleTarget>>,
    containers: HashMap<String, KnownContainer>,
}

/// A container that was seen.
#[derive(Debug)]
struct KnownContainer {
    target: Option<Arc<SampleTarget>>,
    run: ContainerRun,
    namespace: Option<NetworkNamespace>,
}

/// What tells one run of a container from the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ContainerRun {
    /// The number of its group's directory.
    group: u64,
    /// How often its engine had restarted it, and when it was last started.
    restarts: Option<u64>,
    started: Option<Duration>,
    /// How many new groups its engine did not tell of yet.
    unreported_groups: u64,
}

impl ContainerRun {
    fn new(group: u64, container: Option<&Container>) -> Self {
        Self {
            group,
            restarts: container.and_then(|container| container.restart_count),
            started: container.and_then(|container| container.started),
            unreported_groups: 0,
        }
    }

    /// How often it was started anew since. A new group tells at once; the engine tells of
    /// several, but mostly later, and not twice of one.
    fn restarts_since(self, later: &mut Self) -> u64 {
        let count = self.restarts.zip(later.restarts);
        let told = count.map_or(0, |(old, new)| new.saturating_sub(old));
        let times = self.started.zip(later.started);
        let is_told = told > 0 || times.is_some_and(|(old, new)| old != new);
        let told = told.max(is_told.into());
        let is_new = later.group != self.group;
        // An engine that cannot be asked just now has forgotten nothing.
        later.restarts = later.restarts.or(self.restarts);
        later.started = later.started.or(self.started);
        later.unreported_groups = match (is_new, is_told) {
            (_, true) => 0,
            (true, false) => self.unreported_groups + 1,
            (false, false) => self.unreported_groups,
        };
        if is_told {
            told.saturating_sub(self.unreported_groups)
                .max(is_new.into())
        } else {
            is_new.into()
        }
    }
}

impl Discovery {
    pub(super) fn new(machine: &Arc<HostState>) -> Self {
        Self {
            machine: Arc::clone(machine),
            last_engines: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Whether engines told of something since this was last asked.
    pub(super) fn engines_changed(&self) -> bool {
        let known = self.machine.engines().engines();
        let mut heard = self
            .last_engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_new = !Arc::ptr_eq(&heard, &known);
        *heard = known;
        is_new
    }

    /// Everything that is to be sampled, the machine first; nothing where that cannot be
    /// seen, or somebody still looks.
    pub(super) fn refresh(&self) -> Option<Vec<Arc<SampleTarget>>> {
        let mut seen = match self.state.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(seen)) => seen.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let machine = Snapshot::new(Arc::clone(&self.machine), Instant::now() + REFRESH_TIMEOUT);
        let history = self.machine.history();
        let mut targets: Vec<_> = seen.host_target(&machine, history).into_iter().collect();
        // Where there are no groups there is the machine.
        if machine.workloads().is_ok() {
            targets.extend(seen.container_targets(&machine, history, self.machine.grace()));
        }
        Some(targets)
    }
}

impl DiscoveryState {
    fn host_target(
        &mut self,
        snapshot: &Snapshot,
        history: &Arc<History>,
    ) -> Option<Arc<SampleTarget>> {
        // One that hangs is not waited for by another one.
        let is_busy = self.host.as_ref().is_some_and(|host| host.is_busy());
        let usage = (!is_busy).then(|| snapshot.host_usage().ok());
        let Some(usage) = usage.flatten() else {
            return self.host.clone();
        };
        let target = SampleTarget::new(TargetKind::Host(Arc::clone(history), Box::new(usage)));
        if let Some(before) = &self.host {
            target.set_changes(before.changes());
        }
        self.host = Some(Arc::new(target));
        self.host.clone()
    }

    fn container_targets(
        &mut self,
        snapshot: &Snapshot,
        history: &History,
        grace: Duration,
    ) -> Vec<Arc<SampleTarget>> {
        let Ok(there) = snapshot.workloads() else {
            return Vec::new();
        };
        let there = there.identified();
        // What has no network that can be seen has one that is not known.
        let owners = self.networks.owners(snapshot, |_| {}).unwrap_or_default();
        let networks: HashMap<&str, (Arc<Process>, NetworkNamespace)> = owners
            .into_iter()
            .map(|view| {
                let network = (Arc::clone(&view.process), view.namespace);
                (view.workload.path.as_str(), network)
            })
            .collect();
        let ids = there
            .iter()
            .map(|(id, workload, _)| (*id, workload.path.as_str()));
        let rings = history.update_containers(ids, grace);
        let mut targets = Vec::with_capacity(there.len());
        for ((id, workload, group), series) in there.into_iter().zip(rings) {
            let Some(series) = series else {
                continue;
            };
            let network = networks.get(workload.path.as_str());
            let process = network.map(|(process, _)| process);
            let run = ContainerRun::new(group.inode(), container(workload));
            let known = self
                .containers
                .entry(id.to_owned())
                .or_insert_with(|| KnownContainer {
                    target: None,
                    run,
                    namespace: None,
                });
            let changes = known.update(run, network.map(|(_, namespace)| *namespace));
            let target = match &known.target {
                Some(target) if target.is_busy() || target.matches(&series, group, process) => {
                    Arc::clone(target)
                }
                _ => Arc::new(SampleTarget::new(TargetKind::Container {
                    series,
                    group: Arc::clone(group),
                    process: process.cloned(),
                })),
            };
            target.set_changes(changes);
            known.target = Some(Arc::clone(&target));
            targets.push(target);
        }
        self.containers.retain(|id, known| {
            let series = history.container(id);
            // What is gone is not kept open.
            if series.as_ref().is_some_and(|series| series.is_gone()) {
                known.target = None;
            }
            series.is_some()
        });
        targets
    }
}

fn container(workload: &Workload) -> Option<&Container> {
    workload
        .container
        .as_ref()
        .map(|(_, container)| &**container)
}

impl KnownContainer {
    /// What changed that no sample has yet.
    fn update(
        &mut self,
        mut run: ContainerRun,
        namespace: Option<NetworkNamespace>,
    ) -> PendingChanges {
        let target = self.target.as_ref();
        let mut changes = target.map(|target| target.changes()).unwrap_or_default();
        let restarts = self.run.restarts_since(&mut run);
        changes.restarts = changes.restarts.saturating_add(restarts);
        if run.group != self.run.group {
            changes.usage_baseline = Baseline::Zero;
        }
        match self.namespace.zip(namespace) {
            Some((old, new)) if old != new => changes.traffic_baseline = Baseline::Zero,
            // A pod's, that outlived the run, or another that got its number.
            Some(_) if run.group != self.run.group => changes.traffic_baseline = Baseline::Unknown,
            _ => {}
        }
        self.run = run;
        self.namespace = namespace.or(self.namespace);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(group: u64, restarts: u64, started: u64) -> ContainerRun {
        ContainerRun {
            group,
            restarts: Some(restarts),
            started: Some(Duration::from_secs(started)),
            unreported_groups: 0,
        }
    }

    /// How often it was started anew from one to the next.
    fn restarts(runs: &[ContainerRun]) -> Vec<u64> {
        let mut last = runs[0];
        let counts = runs.iter().skip(1).map(|run| {
            let mut run = *run;
            let count = last.restarts_since(&mut run);
            last = run;
            count
        });
        counts.collect()
    }

    #[test]
    fn a_new_group_is_a_restart_and_what_the_engine_says_later_is_the_same_one() {
        assert_eq!(
            restarts(&[run(1, 0, 9), run(2, 0, 9), run(2, 1, 10), run(2, 1, 10)]),
            [1, 0, 0]
        );
        // Nobody but the groups tells.
        let alone = |group| ContainerRun::new(group, None);
        assert_eq!(
            restarts(&[alone(1), alone(1), alone(2), alone(3)]),
            [0, 1, 1]
        );
    }

    #[test]
    fn restarts_that_nobody_saw_are_those_that_the_engine_counted() {
        assert_eq!(restarts(&[run(1, 0, 9), run(4, 3, 12)]), [3]);
        assert_eq!(
            restarts(&[run(1, 0, 9), run(4, 0, 9), run(4, 3, 12)]),
            [1, 2]
        );
    }

    #[test]
    fn a_restart_by_hand_begins_the_engines_count_anew() {
        assert_eq!(
            restarts(&[run(1, 5, 9), run(2, 0, 10), run(3, 1, 11)]),
            [1, 1]
        );
        assert_eq!(
            restarts(&[run(1, 5, 9), run(2, 5, 9), run(2, 0, 10)]),
            [1, 0]
        );
    }

    #[test]
    fn an_engine_that_cannot_be_asked_for_a_while_restarted_nothing() {
        let silent = ContainerRun::new(1, None);
        assert_eq!(
            restarts(&[run(1, 5, 9), silent, run(1, 5, 9), run(1, 6, 10)]),
            [0, 0, 1]
        );
    }
}
