//! State of containers, including those that do not run, as reported by their engine, and the
//! creation time of other cgroups. It reads no file.
//!
//! cAdvisor has the times, and the health frozen at the start of the container; the rest is in
//! labels or missing. cAdvisor sets explicit timestamps, which keep a removed container on
//! dashboards for five minutes; here there are none.

use std::time::Duration;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        engine::{Container, ContainerState, Health},
        workloads::{Inventory, Workload},
    },
};

metrics! {
    /// Unix time at which the container was last seen: now while it exists, and the last time for
    /// --cgroup.grace after it stopped or disappeared.
    LAST_SEEN: Gauge = "container_last_seen" base CGROUP [];
    /// Unix time of the last start of the container; of a cgroup without an engine, the time of its
    /// creation.
    START_TIME: Gauge = "container_start_time_seconds" base CGROUP [];
    /// Unix time at which the container was created; of a cgroup without an engine, the time of its
    /// creation.
    CREATION_TIME: Gauge = "container_creation_time_seconds" base CGROUP [];
    /// Unix time at which the container last exited; absent while it runs.
    FINISH_TIME: Gauge = "container_finish_time_seconds" base CGROUP [];
    /// Time since the start of the container; absent unless it is running or paused.
    UPTIME: Gauge = "container_uptime_seconds" base CGROUP [];
    /// Restarts by the restart policy of the engine, as the engine counts them; manual restarts are
    /// not counted and may reset the count.
    RESTARTS: Counter = "container_restarts_total" base CGROUP [];
    /// State of the container as a number: 0 created, 1 running, 2 paused, 3 restarting, 4
    /// removing, 5 exited, 6 dead.
    STATUS: Gauge = "container_status" base CGROUP [];
    /// Whether the container is in this state: 1 for one of the seven states, 0 for the others.
    STATE: Gauge = "container_state" base CGROUP ["state"];
    /// Exit code of the first process, 128 plus the signal if it was killed; 127 or 126 if it could
    /// not be started; absent while the container runs and before its first start.
    EXIT_CODE: Gauge = "container_exit_code" base CGROUP [];
    /// Health of a running container: 1 healthy, 0 starting or unhealthy, -1 without a health
    /// check.
    HEALTH_STATE: Gauge = "container_health_state" base CGROUP [];
    /// Whether the health check of a running container has this status: 1 for one of the three, 0
    /// for the others; absent without a health check.
    HEALTH: Gauge = "container_health" base CGROUP ["status"];
}

#[derive(Debug)]
pub(super) struct ContainerLifecycle;

impl Collector for ContainerLifecycle {
    const NAME: &'static str = "container_lifecycle";
    const ABOUT: &'static str =
        "state, health, restarts, exit codes and times of running and stopped containers";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(snapshot.workloads()?, snapshot.unix_time()))
    }
}

fn families(inventory: &Inventory, now: Option<Duration>) -> Families {
    let mut out = Families::default();
    for (workload, last_seen) in &inventory.gone {
        out.add_with(&LAST_SEEN, base_labels(workload), [], last_seen.as_secs());
    }
    for workload in &inventory.all {
        let base = base_labels(workload);
        if let (Some(now), true) = (now, workload.cgroup.is_some()) {
            out.add_with(&LAST_SEEN, base, [], now.as_secs());
        }
        match &workload.container {
            Some((_, container)) => {
                let now = now.filter(|_| is_confirmed(inventory, workload, container));
                add_container(&mut out, base, container, now);
            }
            None => {
                if let Some(created) = workload.cgroup.as_ref().map(|group| group.created())
                    && let Some(created) = out.ok_or_skip(created)
                {
                    out.add_with(&START_TIME, base, [], created);
                    out.add_with(&CREATION_TIME, base, [], created);
                }
            }
        }
    }
    out
}

/// Whether the data of a container is current: its cgroup exists, or a connected engine lists it.
fn is_confirmed(inventory: &Inventory, workload: &Workload, container: &Container) -> bool {
    let mut reachable = inventory.engines.iter().filter(|engine| engine.up);
    workload.cgroup.is_some()
        || reachable.any(|engine| engine.containers.contains_key(&container.id))
}

/// Adds what the engine reports about a container; `now` is set if the data is current.
fn add_container(
    out: &mut Families,
    base: &BaseLabels,
    container: &Container,
    now: Option<Duration>,
) {
    let state = container.state;
    if let Some(started) = container.started {
        out.add_with(&START_TIME, base, [], started);
    }
    if let Some(created) = container.created {
        out.add_with(&CREATION_TIME, base, [], created);
    }
    if let Some(restarts) = container.restart_count {
        out.add_with(&RESTARTS, base, [], restarts);
    }
    if let Some(number) = ContainerState::ALL.iter().position(|each| *each == state) {
        out.add_with(&STATUS, base, [], number);
    }
    for each in ContainerState::ALL {
        out.add_with(&STATE, base, [each.name()], each == state);
    }
    if state.is_alive() {
        // If the clock was set back, the start time may be in the future.
        if let (Some(now), Some(started)) = (now, container.started)
            && let Some(uptime) = now.checked_sub(started)
        {
            out.add_with(&UPTIME, base, [], uptime);
        }
        add_health(out, base, container.health);
        return;
    }
    // For a container that never ran, Docker reports exit code 0 and an end long ago.
    let has_run = state != ContainerState::Created;
    if let Some(finished) = container.finished.filter(|_| has_run) {
        out.add_with(&FINISH_TIME, base, [], finished);
    }
    if let Some(code) = container.exit_code.filter(|code| has_run || *code != 0) {
        out.add_with(&EXIT_CODE, base, [], code);
    }
}

fn add_health(out: &mut Families, base: &BaseLabels, health: Option<Health>) {
    let number: i64 = match health {
        Some(Health::Healthy) => 1,
        Some(Health::Starting | Health::Unhealthy) => 0,
        None => -1,
    };
    out.add_with(&HEALTH_STATE, base, [], number);
    if let Some(health) = health {
        for each in Health::ALL {
            out.add_with(&HEALTH, base, [each.name()], each == health);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sources::workloads::container;

    const NOW: Option<Duration> = Some(Duration::from_secs(10_000));

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the fields of a container are options"
    )]
    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    /// An inventory of one container, changed by the test; no engine is up.
    fn inventory(change: impl FnOnce(&mut Container)) -> Inventory {
        let mut web = container("0abc", "web");
        change(&mut web);
        Inventory {
            all: vec![Workload::from_parts("/docker/0abc", None, Some(web))],
            ..Inventory::default()
        }
    }

    /// The lines without the labels that all have, and without the states that are 0.
    fn lines(inventory: &Inventory) -> Vec<String> {
        let common_labels = r#"id="/docker/0abc",name="web""#;
        let lines = families(inventory, NOW).lines();
        assert!(
            lines.iter().all(|line| line.contains(common_labels)),
            "{lines:#?}"
        );
        let lines = lines.iter().map(|line| line.replace(common_labels, ""));
        let lines = lines.filter(|line| !line.ends_with("} 0") || !line.contains("state="));
        lines
            .map(|line| line.replace("{}", "").replace("{,", "{"))
            .collect()
    }

    #[test]
    fn exited_container_has_finish_time_and_exit_code() {
        let inventory = inventory(|container| {
            container.state = ContainerState::Exited;
            container.created = seconds(100);
            container.started = seconds(200);
            container.finished = seconds(300);
            container.exit_code = Some(137);
            container.restart_count = Some(3);
            container.health = Some(Health::Unhealthy);
        });
        assert_eq!(
            lines(&inventory),
            [
                "container_start_time_seconds 200",
                "container_creation_time_seconds 100",
                "container_restarts_total 3",
                "container_status 5",
                r#"container_state{state="exited"} 1"#,
                "container_finish_time_seconds 300",
                "container_exit_code 137",
            ]
        );
    }

    #[test]
    fn created_container_has_no_exit_code_or_finish_time() {
        let inventory = inventory(|container| {
            container.state = ContainerState::Created;
            container.exit_code = Some(0);
        });
        assert_eq!(
            lines(&inventory),
            [
                "container_status 0",
                r#"container_state{state="created"} 1"#
            ]
        );
    }

    #[test]
    fn failed_start_exposes_exit_code() {
        let inventory = inventory(|container| {
            container.state = ContainerState::Created;
            container.exit_code = Some(127);
        });
        assert_eq!(lines(&inventory).last().unwrap(), "container_exit_code 127");
    }

    #[test]
    fn exactly_one_of_seven_states_is_set() {
        for (number, state) in ContainerState::ALL.into_iter().enumerate() {
            let lines = families(&inventory(|container| container.state = state), NOW).lines();
            let states = lines
                .iter()
                .filter(|line| line.starts_with("container_state{"));
            let (set, unset): (Vec<_>, Vec<_>) = states.partition(|line| line.ends_with(" 1"));
            assert_eq!((set.len(), unset.len()), (1, 6), "{lines:#?}");
            assert!(set[0].contains(&format!("state=\"{}\"", state.name())));
            let last = format!(" {number}");
            let mut status_lines = lines
                .iter()
                .filter(|line| line.starts_with("container_status{"));
            assert!(status_lines.all(|line| line.ends_with(&last)), "{lines:#?}");
        }
    }

    #[test]
    fn health_only_while_running_and_minus_one_without_check() {
        for (health, number) in [
            (None, "-1"),
            (Some(Health::Starting), "0"),
            (Some(Health::Healthy), "1"),
            (Some(Health::Unhealthy), "0"),
        ] {
            let lines = lines(&inventory(|container| container.health = health));
            assert!(lines.contains(&format!("container_health_state {number}")));
            let set = lines
                .iter()
                .filter(|line| line.starts_with("container_health{"));
            assert_eq!(set.count(), if health.is_some() { 3 } else { 0 });
        }
        let lines = lines(&inventory(|container| {
            container.health = Some(Health::Healthy);
        }));
        assert!(lines.contains(&r#"container_health{status="healthy"} 1"#.to_owned()));
        assert!(lines.contains(&r#"container_health{status="starting"} 0"#.to_owned()));
    }

    #[test]
    fn no_uptime_if_engine_is_down_and_cgroup_is_missing() {
        let running = inventory(|container| container.started = seconds(9_000));
        let uptimes = |inventory: &Inventory| {
            let lines = lines(inventory);
            let mut lines = lines.into_iter();
            lines.find(|line| line.starts_with("container_uptime"))
        };
        assert_eq!(uptimes(&running), None);
        let mut out = Families::default();
        let block = base_labels(&running.all[0]);
        let (_, container) = running.all[0].container.as_ref().unwrap();
        add_container(&mut out, block, container, NOW);
        let uptime = r#"container_uptime_seconds{id="/docker/0abc",name="web"} 1000"#;
        assert!(out.lines().contains(&uptime.to_owned()));
        // The clock was set back after the start.
        let mut out = Families::default();
        add_container(&mut out, block, container, seconds(8_000));
        assert!(!out.lines().iter().any(|line| line.contains("uptime")));
    }

    #[test]
    fn removed_workload_keeps_last_seen() {
        let workload = Workload::from_parts("/docker/0abc", None, Some(container("0abc", "web")));
        let gone = Inventory {
            gone: vec![(Arc::clone(&workload), Duration::from_millis(7_500))],
            ..Inventory::default()
        };
        assert_eq!(lines(&gone), ["container_last_seen 7"]);
        let service = Workload::from_parts("/system.slice/ssh.service", None, None);
        let gone = Inventory {
            gone: vec![(service, Duration::from_secs(8))],
            ..Inventory::default()
        };
        let line = r#"container_last_seen{id="/system.slice/ssh.service"} 8"#;
        assert_eq!(families(&gone, NOW).lines(), [line]);
    }
}
