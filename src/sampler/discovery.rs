//! Discovery of containers, and detection of their restarts.

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

/// Deadline of a refresh, which uses engine state that is already known and makes no API calls.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Discovery {
    host: Arc<HostState>,
    /// The engine state at the last call of `engines_changed`.
    last_engines: Mutex<Arc<Vec<Arc<Engine>>>>,
    state: Mutex<DiscoveryState>,
}

/// State retained from one refresh to the next.
#[derive(Debug, Default)]
struct DiscoveryState {
    networks: NetnsOwners,
    host: Option<Arc<SampleTarget>>,
    containers: HashMap<String, KnownContainer>,
}

/// State of a container at the last refresh.
#[derive(Debug)]
struct KnownContainer {
    target: Option<Arc<SampleTarget>>,
    run: ContainerRun,
    namespace: Option<NetworkNamespace>,
}

/// Identifies one run of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ContainerRun {
    /// Inode number of the cgroup's directory.
    cgroup: u64,
    /// The engine's restart count, and the time of the last start.
    restarts: Option<u64>,
    started: Option<Duration>,
    /// Number of new cgroups that the engine has not reported as a restart yet.
    unreported_cgroups: u64,
}

impl ContainerRun {
    fn new(cgroup: u64, container: Option<&Container>) -> Self {
        Self {
            cgroup,
            restarts: container.and_then(|container| container.restart_count),
            started: container.and_then(|container| container.started),
            unreported_cgroups: 0,
        }
    }

    /// Number of restarts since then. A new cgroup is visible at once; the engine may report
    /// several restarts, but mostly later, and a restart must not be counted twice.
    fn restarts_since(self, later: &mut Self) -> u64 {
        let count = self.restarts.zip(later.restarts);
        let reported = count.map_or(0, |(old, new)| new.saturating_sub(old));
        let times = self.started.zip(later.started);
        let is_reported = reported > 0 || times.is_some_and(|(old, new)| old != new);
        let reported = reported.max(is_reported.into());
        let is_new_cgroup = later.cgroup != self.cgroup;
        // An engine that is temporarily unavailable does not reset the counts.
        later.restarts = later.restarts.or(self.restarts);
        later.started = later.started.or(self.started);
        later.unreported_cgroups = match (is_new_cgroup, is_reported) {
            (_, true) => 0,
            (true, false) => self.unreported_cgroups + 1,
            (false, false) => self.unreported_cgroups,
        };
        if is_reported {
            reported
                .saturating_sub(self.unreported_cgroups)
                .max(is_new_cgroup.into())
        } else {
            is_new_cgroup.into()
        }
    }
}

impl Discovery {
    pub(super) fn new(host: &Arc<HostState>) -> Self {
        Self {
            host: Arc::clone(host),
            last_engines: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Whether the engine state changed since the last call.
    pub(super) fn engines_changed(&self) -> bool {
        let engines = self.host.engines().engines();
        let mut last_engines = self
            .last_engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_changed = !Arc::ptr_eq(&last_engines, &engines);
        *last_engines = engines;
        is_changed
    }

    /// Everything to be sampled, the host first; `None` while another refresh is in progress.
    pub(super) fn refresh(&self) -> Option<Vec<Arc<SampleTarget>>> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let snapshot = Snapshot::new(Arc::clone(&self.host), Instant::now() + REFRESH_TIMEOUT);
        let history = self.host.history();
        let mut targets: Vec<_> = state.host_target(&snapshot, history).into_iter().collect();
        // Without cgroups only the host is sampled.
        if snapshot.workloads().is_ok() {
            targets.extend(state.container_targets(&snapshot, history, self.host.grace()));
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
        // Another read of a host that is blocked would block as well.
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
        let Ok(workloads) = snapshot.workloads() else {
            return Vec::new();
        };
        let workloads = workloads.identified();
        // A workload without a visible network namespace has unknown traffic.
        let owners = self.networks.owners(snapshot, |_| {}).unwrap_or_default();
        let networks: HashMap<&str, (Arc<Process>, NetworkNamespace)> = owners
            .into_iter()
            .map(|owner| {
                let network = (Arc::clone(&owner.process), owner.namespace);
                (owner.workload.path.as_str(), network)
            })
            .collect();
        let ids = workloads
            .iter()
            .map(|(id, workload, _)| (*id, workload.path.as_str()));
        let series = history.update_containers(ids, grace);
        let mut targets = Vec::with_capacity(workloads.len());
        for ((id, workload, cgroup), series) in workloads.into_iter().zip(series) {
            let Some(series) = series else {
                continue;
            };
            let network = networks.get(workload.path.as_str());
            let process = network.map(|(process, _)| process);
            let run = ContainerRun::new(cgroup.inode(), container_of(workload));
            let container =
                self.containers
                    .entry(id.to_owned())
                    .or_insert_with(|| KnownContainer {
                        target: None,
                        run,
                        namespace: None,
                    });
            let changes = container.update(run, network.map(|(_, namespace)| *namespace));
            let target = match &container.target {
                Some(target) if target.is_busy() || target.matches(&series, cgroup, process) => {
                    Arc::clone(target)
                }
                _ => Arc::new(SampleTarget::new(TargetKind::Container {
                    series,
                    cgroup: Arc::clone(cgroup),
                    process: process.cloned(),
                })),
            };
            target.set_changes(changes);
            container.target = Some(Arc::clone(&target));
            targets.push(target);
        }
        self.containers.retain(|id, container| {
            let series = history.container(id);
            // Don't hold files of a container that is gone open.
            if series.as_ref().is_some_and(|series| series.is_gone()) {
                container.target = None;
            }
            series.is_some()
        });
        targets
    }
}

fn container_of(workload: &Workload) -> Option<&Container> {
    workload
        .container
        .as_ref()
        .map(|(_, container)| &**container)
}

impl KnownContainer {
    /// Updates the state of the container and returns the changes that no sample includes yet.
    fn update(
        &mut self,
        mut run: ContainerRun,
        namespace: Option<NetworkNamespace>,
    ) -> PendingChanges {
        let target = self.target.as_ref();
        let mut changes = target.map(|target| target.changes()).unwrap_or_default();
        let restarts = self.run.restarts_since(&mut run);
        changes.restarts = changes.restarts.saturating_add(restarts);
        if run.cgroup != self.run.cgroup {
            changes.usage_baseline = Baseline::Zero;
        }
        match self.namespace.zip(namespace) {
            Some((old, new)) if old != new => changes.traffic_baseline = Baseline::Zero,
            // The namespace of a pod, which outlived the run, or a new one with a reused inode
            // number.
            Some(_) if run.cgroup != self.run.cgroup => {
                changes.traffic_baseline = Baseline::Unknown;
            }
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

    fn run(cgroup: u64, restarts: u64, started: u64) -> ContainerRun {
        ContainerRun {
            cgroup,
            restarts: Some(restarts),
            started: Some(Duration::from_secs(started)),
            unreported_cgroups: 0,
        }
    }

    /// Number of restarts between each two successive runs.
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
    fn new_cgroup_and_later_engine_report_are_one_restart() {
        assert_eq!(
            restarts(&[run(1, 0, 9), run(2, 0, 9), run(2, 1, 10), run(2, 1, 10)]),
            [1, 0, 0]
        );
        // Without an engine, only cgroups show restarts.
        let without_engine = |cgroup| ContainerRun::new(cgroup, None);
        assert_eq!(
            restarts(&[
                without_engine(1),
                without_engine(1),
                without_engine(2),
                without_engine(3)
            ]),
            [0, 1, 1]
        );
    }

    #[test]
    fn missed_restarts_are_taken_from_the_engine_count() {
        assert_eq!(restarts(&[run(1, 0, 9), run(4, 3, 12)]), [3]);
        assert_eq!(
            restarts(&[run(1, 0, 9), run(4, 0, 9), run(4, 3, 12)]),
            [1, 2]
        );
    }

    #[test]
    fn manual_restart_resets_the_engine_count() {
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
    fn unavailable_engine_is_not_a_restart() {
        let unavailable = ContainerRun::new(1, None);
        assert_eq!(
            restarts(&[run(1, 5, 9), unavailable, run(1, 5, 9), run(1, 6, 10)]),
            [0, 0, 1]
        );
    }
}
