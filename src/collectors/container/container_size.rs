//! Disk space used by containers, images, volumes and builds, as computed by engines.
//!
//! For this request an engine walks all files that containers wrote, so it is sent in the
//! background, rarely, and never for a scrape: each value is as old as its age metric reports. It
//! is not `container_fs_usage_bytes`, in which cAdvisor includes logs.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        engine::{Engine, EngineKind, SizeFlags},
        workloads::Inventory,
    },
};

metrics! {
    /// Size of the writable layer of the container at the last disk usage request
    /// (strata_engine_disk_usage_age_seconds), without volumes and logs.
    RW_SIZE: Gauge = "container_rw_size_bytes" base CGROUP [];
    /// Disk usage of images (shared layers once), containers, volumes and build cache at the last
    /// disk usage request; absent where the engine does not report it, such as images with Podman.
    USAGE: Gauge = "strata_engine_disk_usage_bytes" ["engine", "socket", "type"];
    /// Part of strata_engine_disk_usage_bytes that the engine reports as unused: stopped
    /// containers, volumes without a container, and images from Docker 29 on.
    RECLAIMABLE: Gauge = "strata_engine_disk_reclaimable_bytes" ["engine", "socket", "type"];
    /// Time since the last successful disk usage request; above --collector.container_size.interval
    /// while the engine does not respond; absent before the first response.
    AGE: Gauge = "strata_engine_disk_usage_age_seconds" ["engine", "socket"];
    /// Duration of the last disk usage request.
    DURATION: Gauge = "strata_engine_disk_usage_duration_seconds" ["engine", "socket"];
    /// Disk usage requests that failed or took longer than 5 minutes.
    FAILURES: Counter = "strata_engine_disk_usage_failures_total" ["engine", "socket"];
}

#[derive(Debug)]
pub(super) struct ContainerSize;

impl Collector for ContainerSize {
    const NAME: &'static str = "container_size";
    const ABOUT: &'static str =
        "disk usage of containers, images, volumes and build cache; expensive for the engine";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = SizeFlags;

    /// The flags are read by the engine client, which sends the requests before any scrape.
    fn new(_: SizeFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let engines = snapshot.engines();
        if engines.is_empty() {
            return Err(Error::NotFound("a container engine's socket".into()));
        }
        let mut out = Families::default();
        for engine in engines.iter() {
            add_engine(&mut out, engine);
        }
        if let Some(inventory) = out.ok_or_skip(snapshot.workloads()) {
            add_containers(&mut out, inventory);
        }
        Ok(out)
    }
}

fn add_engine(out: &mut Families, engine: &Engine) {
    let socket = engine.socket.to_string_lossy();
    let kind = engine.kind.map_or("", EngineKind::name);
    let labels = [kind, &*socket];
    out.add(&FAILURES, labels, engine.disk_usage_failures);
    let Some(sizes) = &engine.disk_usage else {
        return;
    };
    out.add(&AGE, labels, sizes.requested_at.elapsed());
    out.add(&DURATION, labels, sizes.duration);
    for (storage_kind, disk_usage) in &sizes.by_kind {
        let labels = [kind, &*socket, storage_kind.name()];
        if let Some(used) = disk_usage.used {
            out.add(&USAGE, labels, used);
        }
        if let Some(reclaimable) = disk_usage.reclaimable {
            out.add(&RECLAIMABLE, labels, reclaimable);
        }
    }
}

fn add_containers(out: &mut Families, inventory: &Inventory) {
    for (workload, _, container) in inventory.containers() {
        let mut sizes = inventory
            .engines
            .iter()
            .filter_map(|it| it.disk_usage.as_deref());
        if let Some(bytes) = sizes.find_map(|it| it.containers.get(&container.id)) {
            out.add_with(&RW_SIZE, base_labels(workload), [], *bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::sources::{
        engine::{EngineDiskUsage, StorageKind, StorageUsage},
        workloads::{Workload, container, engine},
    };

    fn engine_with_sizes() -> Engine {
        let usage = |used, reclaimable| StorageUsage { used, reclaimable };
        let mut engine = engine([container("a", "web"), container("b", "db")]);
        engine.disk_usage_failures = 3;
        engine.disk_usage = Some(Arc::new(EngineDiskUsage {
            requested_at: Instant::now()
                .checked_sub(Duration::from_secs(50))
                .unwrap_or_else(Instant::now),
            duration: Duration::from_millis(1500),
            containers: [("a".to_owned(), 12), ("gone".to_owned(), 7)].into(),
            by_kind: [
                (StorageKind::Images, usage(Some(100), None)),
                (StorageKind::Containers, usage(Some(19), Some(7))),
                (StorageKind::Volumes, usage(Some(0), Some(0))),
                (StorageKind::BuildCache, StorageUsage::default()),
            ],
        }));
        engine
    }

    fn lines(engine: &Engine) -> Vec<String> {
        let mut out = Families::default();
        add_engine(&mut out, engine);
        out.lines()
    }

    #[test]
    fn disk_usage_has_an_age() {
        let lines = lines(&engine_with_sizes());
        let line = |name: &str, extra_labels: &str, value: &str| {
            let labels = format!(r#"engine="docker",socket="/run/docker.sock"{extra_labels}"#);
            format!("strata_engine_disk_{name}{{{labels}}} {value}")
        };
        let (images, containers, volumes) = (
            r#",type="images""#,
            r#",type="containers""#,
            r#",type="volumes""#,
        );
        let (age, others): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|line| line.contains("_age_"));
        assert!(age.len() == 1 && age[0].contains("} 5"), "{age:?}");
        assert_eq!(
            others,
            [
                line("usage_failures_total", "", "3"),
                line("usage_duration_seconds", "", "1.5"),
                line("usage_bytes", images, "100"),
                line("usage_bytes", containers, "19"),
                line("usage_bytes", volumes, "0"),
                line("reclaimable_bytes", containers, "7"),
                line("reclaimable_bytes", volumes, "0"),
            ]
        );
    }

    #[test]
    fn unanswered_engine_exposes_only_failures() {
        let mut engine = engine_with_sizes();
        engine.disk_usage = None;
        let labels = r#"engine="docker",socket="/run/docker.sock""#;
        let failures = format!("strata_engine_disk_usage_failures_total{{{labels}}} 3");
        assert_eq!(lines(&engine), [failures]);
    }

    #[test]
    fn only_present_measured_containers_have_a_size() {
        let workload = |id: &str, name: &str| {
            let container = Some(container(id, name));
            Workload::from_parts(&format!("/docker/{id}"), None, container)
        };
        let inventory = Inventory {
            all: vec![workload("a", "web"), workload("b", "db")],
            gone: Vec::new(),
            engines: Arc::new(vec![Arc::new(engine([])), Arc::new(engine_with_sizes())]),
        };
        let mut out = Families::default();
        add_containers(&mut out, &inventory);
        let web = r#"container_rw_size_bytes{id="/docker/a",name="web"} 12"#;
        assert_eq!(out.lines(), [web]);
    }
}
