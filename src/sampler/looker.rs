//! Which containers there are, and which of them began anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use super::target::{Changes, Target, Whose};
use crate::{
    history::{History, Since},
    sources::{
        Machine, NetworkNamespace, Networks, Process, Snapshot,
        engine::{Container, Engine},
        workloads::Workload,
    },
};

/// What a look at engines and groups is given, which ask nobody: they are known.
const DEADLINE: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Looker {
    machine: Arc<Machine>,
    /// What the engines had said when it was last asked whether they have news.
    heard: Mutex<Arc<Vec<Arc<Engine>>>>,
    seen: Mutex<Seen>,
}

/// What is kept from one look to the next.
#[derive(Debug, Default)]
struct Seen {
    networks: Networks,
    host: Option<Arc<Target>>,
    known: HashMap<String, Known>,
}

/// A container that was seen.
#[derive(Debug)]
struct Known {
    target: Option<Arc<Target>>,
    run: Run,
    namespace: Option<NetworkNamespace>,
}

/// What tells one run of a container from the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    /// The number of its group's directory.
    group: u64,
    /// How often its engine had restarted it, and when it was last started.
    restarts: Option<u64>,
    started: Option<Duration>,
    /// How many new groups its engine did not tell of yet.
    untold: u64,
}

impl Run {
    fn of(group: u64, container: Option<&Container>) -> Self {
        Self {
            group,
            restarts: container.and_then(|container| container.restarts),
            started: container.and_then(|container| container.started),
            untold: 0,
        }
    }

    /// How often it was started anew since. A new group tells at once; the engine tells of
    /// several, but mostly later, and not twice of one.
    fn restarts_until(self, later: &mut Self) -> u64 {
        let count = self.restarts.zip(later.restarts);
        let told = count.map_or(0, |(old, new)| new.saturating_sub(old));
        let times = self.started.zip(later.started);
        let is_told = told > 0 || times.is_some_and(|(old, new)| old != new);
        let told = told.max(is_told.into());
        let is_new = later.group != self.group;
        // An engine that cannot be asked just now has forgotten nothing.
        later.restarts = later.restarts.or(self.restarts);
        later.started = later.started.or(self.started);
        later.untold = match (is_new, is_told) {
            (_, true) => 0,
            (true, false) => self.untold + 1,
            (false, false) => self.untold,
        };
        if is_told {
            told.saturating_sub(self.untold).max(is_new.into())
        } else {
            is_new.into()
        }
    }
}

impl Looker {
    pub(super) fn of(machine: &Arc<Machine>) -> Self {
        Self {
            machine: Arc::clone(machine),
            heard: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Whether engines told of something since this was last asked.
    pub(super) fn has_news(&self) -> bool {
        let known = self.machine.engines().known();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !Arc::ptr_eq(&heard, &known);
        *heard = known;
        is_new
    }

    /// Everything that is to be sampled, the machine first; nothing where that cannot be
    /// seen, or somebody still looks.
    pub(super) fn look(&self) -> Option<Vec<Arc<Target>>> {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(seen)) => seen.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let machine = Snapshot::begin(Arc::clone(&self.machine), Instant::now() + DEADLINE);
        let history = self.machine.history();
        let mut targets: Vec<_> = seen.host(&machine, history).into_iter().collect();
        // Where there are no groups there is the machine.
        if machine.workloads().is_ok() {
            targets.extend(seen.containers(&machine, history, self.machine.grace()));
        }
        Some(targets)
    }
}

impl Seen {
    fn host(&mut self, machine: &Snapshot, history: &Arc<History>) -> Option<Arc<Target>> {
        // One that hangs is not waited for by another one.
        let is_busy = self.host.as_ref().is_some_and(|host| host.is_busy());
        let usage = (!is_busy).then(|| machine.host_usage().ok());
        let Some(usage) = usage.flatten() else {
            return self.host.clone();
        };
        let target = Target::new(Whose::Host(Arc::clone(history), Box::new(usage)));
        if let Some(before) = &self.host {
            target.note(before.changes());
        }
        self.host = Some(Arc::new(target));
        self.host.clone()
    }

    fn containers(
        &mut self,
        machine: &Snapshot,
        history: &History,
        grace: Duration,
    ) -> Vec<Arc<Target>> {
        let Ok(there) = machine.workloads() else {
            return Vec::new();
        };
        let there = there.identified();
        // What has no network that can be seen has one that is not known.
        let owners = self.networks.owners(machine, |_| {}).unwrap_or_default();
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
        let rings = history.keep(ids, grace);
        let mut targets = Vec::with_capacity(there.len());
        for ((id, workload, group), series) in there.into_iter().zip(rings) {
            let Some(series) = series else {
                continue;
            };
            let network = networks.get(workload.path.as_str());
            let process = network.map(|(process, _)| process);
            let run = Run::of(group.number(), container(workload));
            let known = self.known.entry(id.to_owned()).or_insert_with(|| Known {
                target: None,
                run,
                namespace: None,
            });
            let changes = known.see(run, network.map(|(_, namespace)| *namespace));
            let target = match &known.target {
                Some(target) if target.is_busy() || target.is_of(&series, group, process) => {
                    Arc::clone(target)
                }
                _ => Arc::new(Target::new(Whose::Container {
                    series,
                    group: Arc::clone(group),
                    process: process.cloned(),
                })),
            };
            target.note(changes);
            known.target = Some(Arc::clone(&target));
            targets.push(target);
        }
        self.known.retain(|id, known| {
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

impl Known {
    /// What changed that no sample has yet.
    fn see(&mut self, mut run: Run, namespace: Option<NetworkNamespace>) -> Changes {
        let target = self.target.as_ref();
        let mut changes = target.map(|target| target.changes()).unwrap_or_default();
        let restarts = self.run.restarts_until(&mut run);
        changes.restarts = changes.restarts.saturating_add(restarts);
        if run.group != self.run.group {
            changes.usage_since = Since::Zero;
        }
        match self.namespace.zip(namespace) {
            Some((old, new)) if old != new => changes.traffic_since = Since::Zero,
            // A pod's, that outlived the run, or another that got its number.
            Some(_) if run.group != self.run.group => changes.traffic_since = Since::Unknown,
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

    fn run(group: u64, restarts: u64, started: u64) -> Run {
        Run {
            group,
            restarts: Some(restarts),
            started: Some(Duration::from_secs(started)),
            untold: 0,
        }
    }

    /// How often it was started anew from one to the next.
    fn restarts(runs: &[Run]) -> Vec<u64> {
        let mut last = runs[0];
        let counts = runs.iter().skip(1).map(|run| {
            let mut run = *run;
            let count = last.restarts_until(&mut run);
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
        let alone = |group| Run::of(group, None);
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
        let silent = Run::of(1, None);
        assert_eq!(
            restarts(&[run(1, 5, 9), silent, run(1, 5, 9), run(1, 6, 10)]),
            [0, 0, 1]
        );
    }
}
