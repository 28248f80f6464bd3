//! Containers by state, with their total usage, limits and restarts.
//!
//! CPU usage is a rate and needs two samples, so this collector keeps the previous one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        engine::{Container, ContainerState, Engine, EngineKind, dedup_by_id},
        workloads::Inventory,
    },
};

metrics! {
    /// Containers by state: running, stopped (exited or dead), paused, other (created, restarting,
    /// removing).
    CONTAINERS: Gauge = "census_containers" ["engine", "state"];
    /// Average CPU usage of running containers in percent of one core since the last run of this
    /// collector; absent in the first run and where no container ran in both.
    CPU: Gauge = "census_container_cpu_percent_avg" [];
    /// Average memory of running containers less inactive page cache, as
    /// container_memory_working_set_bytes.
    MEMORY: Gauge = "census_container_memory_bytes_avg" [];
    /// Sum of the memory limits of running containers, without unlimited ones.
    MEMORY_LIMIT: Gauge = "census_container_memory_limit_bytes" [];
    /// Average number of restarts by the engine over all containers.
    RESTARTS: Gauge = "census_container_restarts_avg" [];
    /// Containers with more restarts than --collector.census.high-restarts.
    HIGH_RESTARTS: Gauge = "census_containers_high_restarts" [];
}

/// A shorter interval is too short to measure CPU usage; the result of the last longer interval is
/// returned instead.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The flags of this collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct CensusCollectorFlags {
    /// Number of restarts above which a container counts as restarting often.
    #[arg(
        long = "collector.census.high-restarts",
        value_name = "N",
        default_value_t = 10
    )]
    census_high_restarts: u64,
}

#[derive(Debug)]
pub(super) struct CensusCollector {
    high_restarts: u64,
    last_sample: Mutex<Option<CpuUsageSample>>,
}

/// CPU time of the cgroups of running containers, by path.
#[derive(Debug, Default)]
struct CpuUsageSample {
    taken_at: Option<Instant>,
    usage: HashMap<String, Duration>,
    /// Result of the interval that ends with this sample, in percent of a core.
    percent: Option<f64>,
}

impl Collector for CensusCollector {
    const NAME: &'static str = "census";
    const ABOUT: &'static str = "container counts and average resource usage, without names";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = CensusCollectorFlags;

    fn new(flags: CensusCollectorFlags) -> Result<Self, String> {
        Ok(Self {
            high_restarts: flags.census_high_restarts,
            last_sample: Mutex::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let engines = snapshot.engines();
        // Without a complete list, the containers of an engine are unknown.
        let reachable = engines.iter().filter(|engine| engine.confirmed.is_some());
        let reachable: Vec<&Engine> = reachable.map(|engine| &**engine).collect();
        if reachable.is_empty() {
            return Err(Error::NotFound("container engine".into()));
        }
        let mut out = Families::default();
        add_counts(&mut out, &reachable, self.high_restarts);
        if let Some(inventory) = out.ok_or_skip(snapshot.workloads()) {
            self.add_usage(&mut out, inventory);
        }
        Ok(out)
    }
}

fn add_counts(out: &mut Families, engines: &[&Engine], high_restarts: u64) {
    // Includes engines without containers, or whose containers are counted for another engine.
    let kinds = engines
        .iter()
        .map(|engine| (engine.kind_or_default(), [0; 4]));
    let mut by_state: BTreeMap<EngineKind, [u64; 4]> = kinds.collect();
    let (mut limits, mut restarts, mut reporting_containers, mut high) =
        (0_u64, 0_u64, 0_u64, 0_u64);
    for (engine, container) in dedup_by_id(engines.iter().copied()).into_values() {
        let [running, stopped, paused, other] =
            by_state.entry(engine.kind_or_default()).or_default();
        *match container.state {
            ContainerState::Running => running,
            ContainerState::Exited | ContainerState::Dead => stopped,
            ContainerState::Paused => paused,
            ContainerState::Created | ContainerState::Restarting | ContainerState::Removing => {
                other
            }
        } += 1;
        if let (ContainerState::Running, Some(limit)) = (container.state, container.memory_limit) {
            limits = limits.saturating_add(limit);
        }
        if let Some(count) = container.restart_count {
            restarts = restarts.saturating_add(count);
            reporting_containers += 1;
            high += u64::from(count > high_restarts);
        }
    }
    for (kind, counts) in by_state {
        let names = ["running", "stopped", "paused", "other"];
        for (state, count) in names.into_iter().zip(counts) {
            out.add(&CONTAINERS, [kind.name(), state], count);
        }
    }
    out.add(&MEMORY_LIMIT, [], limits);
    out.add(&HIGH_RESTARTS, [], high);
    if reporting_containers > 0 {
        out.add(
            &RESTARTS,
            [],
            Value::quotient(restarts, reporting_containers),
        );
    }
}

impl CensusCollector {
    fn add_usage(&self, out: &mut Families, inventory: &Inventory) {
        let mut memory = Vec::new();
        let mut usage = HashMap::new();
        for (workload, group) in inventory.present() {
            let is_running = |it: &Container| it.state == ContainerState::Running;
            let container = workload.container.as_ref().map(|(_, it)| &**it);
            if !container.is_some_and(is_running) {
                continue;
            }
            if let Some(set) = out
                .ok_or_skip(group.memory())
                .and_then(|it| it.working_set())
            {
                memory.push(set);
            }
            if let Some(used) = out.ok_or_skip(group.cpu()).and_then(|it| it.usage) {
                usage.insert(workload.path.clone(), used);
            }
        }
        let sum = memory.iter().fold(0_u64, |sum, it| sum.saturating_add(*it));
        if !memory.is_empty() {
            out.add(&MEMORY, [], Value::quotient(sum, memory.len() as u64));
        }
        if let Some(percent) = self.cpu_percent(usage, Instant::now()) {
            out.add(&CPU, [], percent);
        }
    }

    /// Average CPU usage per container since the previous sample, in percent of a core.
    fn cpu_percent(&self, usage: HashMap<String, Duration>, now: Instant) -> Option<f64> {
        let mut last_sample = self
            .last_sample
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last_sample = last_sample.get_or_insert_default();
        let interval = last_sample
            .taken_at
            .map(|taken| now.saturating_duration_since(taken));
        if let Some(interval) = interval
            && interval < MIN_INTERVAL
        {
            return last_sample.percent;
        }
        let percent = interval.and_then(|interval| {
            // The CPU time of a container that restarted is lower than before: left out.
            let used = usage
                .iter()
                .filter_map(|(path, used)| used.checked_sub(*last_sample.usage.get(path)?));
            let (count, used) = used.fold((0_u32, Duration::ZERO), |(count, sum), used| {
                (count + 1, sum.saturating_add(used))
            });
            let percent = used.as_secs_f64() / interval.as_secs_f64() / f64::from(count) * 100.0;
            (count > 0).then_some(percent)
        });
        *last_sample = CpuUsageSample {
            taken_at: Some(now),
            usage,
            percent,
        };
        percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::workloads::{container, engine};

    fn census() -> CensusCollector {
        CensusCollector {
            high_restarts: 10,
            last_sample: Mutex::default(),
        }
    }

    fn counts(engines: &[&Engine]) -> Vec<String> {
        let mut out = Families::default();
        add_counts(&mut out, engines, 10);
        out.lines()
    }

    #[test]
    fn each_container_is_counted_in_exactly_one_state() {
        let states = [
            ContainerState::Running,
            ContainerState::Running,
            ContainerState::Exited,
            ContainerState::Dead,
            ContainerState::Exited,
            ContainerState::Paused,
            ContainerState::Created,
            ContainerState::Restarting,
            ContainerState::Removing,
            ContainerState::Created,
        ];
        let containers = states.into_iter().enumerate().map(|(at, state)| {
            let mut container = container(&format!("id{at}"), "secret-name");
            container.state = state;
            container.memory_limit = Some(1000);
            container.restart_count = Some([0, 11, 10, 0, 0, 0, 0, 0, 0, 4][at]);
            container
        });
        let docker = engine(containers);
        // The same Docker behind another socket, and an engine without containers.
        let same_docker = docker.clone();
        let mut podman = engine([]);
        podman.kind = Some(EngineKind::Podman);
        assert_eq!(
            counts(&[&docker, &same_docker, &podman]),
            [
                r#"census_containers{engine="docker",state="running"} 2"#,
                r#"census_containers{engine="docker",state="stopped"} 3"#,
                r#"census_containers{engine="docker",state="paused"} 1"#,
                r#"census_containers{engine="docker",state="other"} 4"#,
                r#"census_containers{engine="podman",state="running"} 0"#,
                r#"census_containers{engine="podman",state="stopped"} 0"#,
                r#"census_containers{engine="podman",state="paused"} 0"#,
                r#"census_containers{engine="podman",state="other"} 0"#,
                "census_container_memory_limit_bytes 2000",
                "census_containers_high_restarts 1",
                "census_container_restarts_avg 2.5",
            ]
        );
    }

    #[test]
    fn no_containers_yield_no_average() {
        let lines = counts(&[&engine([])]);
        assert!(!lines.iter().any(|line| line.contains("avg")), "{lines:#?}");
    }

    #[test]
    fn cpu_averages_only_containers_running_throughout() {
        let census = census();
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let at = |after: u64, usage: &[(&str, u64)]| {
            let usage = usage
                .iter()
                .map(|(path, used)| ((*path).to_owned(), seconds(*used)));
            census.cpu_percent(usage.collect(), start + seconds(after))
        };
        assert_eq!(at(0, &[("/a", 100), ("/b", 50), ("/c", 7)]), None);
        // In 10 s, a used 20 s and b none; c restarted and d is new.
        let later = [("/a", 120), ("/b", 50), ("/c", 2), ("/d", 9)];
        assert_eq!(at(10, &later), Some(100.0));
        // A second sample at once, as with two Prometheus servers.
        assert_eq!(at(10, &[("/a", 121)]), Some(100.0));
        assert_eq!(at(20, &[("/a", 125)]), Some(50.0));
        assert_eq!(at(30, &[("/z", 1)]), None);
    }
}
