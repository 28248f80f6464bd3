//! State of the connections to container engines, from the exporter's cache, and the cgroup
//! version of the host.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        cgroup::CgroupVersion,
        engine::{Engine, EngineKind},
    },
};

metrics! {
    /// Whether the exporter is connected to the event stream of the engine; without it, containers
    /// keep their last known names.
    UP: Gauge = "strata_engine_up" ["engine", "socket"];
    /// Version and identity that the engine reported at the last connection: always 1.
    INFO: Info = "strata_engine_info" ["engine", "socket", "version", "api_version", "cgroup_driver"];
    /// Age of the cached container data of the engine: 0 while connected; absent if the engine was
    /// never reached.
    CACHE_AGE: Gauge = "strata_engine_cache_age_seconds" ["engine", "socket"];
    /// Containers of the engine in any state, from the cache.
    CONTAINERS: Gauge = "strata_engine_containers" ["engine", "socket"];
    /// Images of the engine, from the cache; absent if they were never listed.
    IMAGES: Gauge = "strata_engine_images" ["engine", "socket"];
    /// Events received from the engine.
    EVENTS: Counter = "strata_engine_events_total" ["engine", "socket"];
    /// API requests sent to the engine; scrapes send none.
    REQUESTS: Counter = "strata_engine_requests_total" ["engine", "socket"];
    /// Connections opened to the event stream of the engine; more than one after a restart or a
    /// lost connection.
    CONNECTIONS: Counter = "strata_engine_connections_total" ["engine", "socket"];
    /// Cgroup version (v1, hybrid or v2) and sorted controllers of the machine: always 1.
    CGROUP_INFO: Info = "strata_cgroup_info" ["version", "controllers"];
}

#[derive(Debug)]
pub(super) struct ContainerEngine;

impl Collector for ContainerEngine {
    const NAME: &'static str = "container_engine";
    const ABOUT: &'static str = "container engine state and version, and the cgroup version";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let cgroups = snapshot.cgroups();
        if let Some(version) = out.ok_or_skip(cgroups.version()) {
            let controllers = out.ok_or_skip(cgroups.controllers()).unwrap_or_default();
            let labels = [version_name(version), &controllers.join(",")];
            out.add(&CGROUP_INFO, labels, true);
        }
        for engine in snapshot.engines().iter() {
            add_engine(&mut out, engine);
        }
        if out.is_empty() && out.errors().0 == 0 {
            return Err(Error::NotFound("a container engine's socket".into()));
        }
        Ok(out)
    }
}

/// Label value of the version.
fn version_name(version: CgroupVersion) -> &'static str {
    match version {
        CgroupVersion::V1 => "v1",
        CgroupVersion::Hybrid => "hybrid",
        CgroupVersion::V2 => "v2",
    }
}

fn add_engine(out: &mut Families, engine: &Engine) {
    let socket = engine.socket.to_string_lossy();
    let kind = engine.kind.map_or("", EngineKind::name);
    let labels = [kind, &*socket];
    out.add(&UP, labels, engine.up);
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if engine.kind.is_some() || engine.version.is_some() {
        let (version, api, driver) = (
            text(&engine.version),
            text(&engine.api_version),
            text(&engine.cgroup_driver),
        );
        let labels = [kind, &socket, &version, &api, &driver];
        out.add(&INFO, labels, true);
    }
    if engine.up {
        out.add(&CACHE_AGE, labels, 0_u64);
    } else if let Some(confirmed) = engine.confirmed {
        out.add(&CACHE_AGE, labels, confirmed.elapsed());
    }
    if engine.confirmed.is_some() {
        out.add(&CONTAINERS, labels, engine.containers.len());
    }
    if let Some(images) = &engine.images {
        out.add(&IMAGES, labels, images.len());
    }
    out.add(&EVENTS, labels, engine.events);
    out.add(&REQUESTS, labels, engine.requests);
    out.add(&CONNECTIONS, labels, engine.connections);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::sources::workloads::{container, engine};

    fn lines(engine: &Engine) -> Vec<String> {
        let mut out = Families::default();
        add_engine(&mut out, engine);
        out.lines()
    }

    #[test]
    fn connected_engine_is_up_with_cache_age_zero() {
        let mut engine = engine([container("a", "web"), container("b", "db")]);
        engine.version = Some("20.10.24".into());
        engine.api_version = Some("1.41".into());
        engine.cgroup_driver = Some("cgroupfs".into());
        (engine.events, engine.requests, engine.connections) = (3, 4, 2);
        engine.confirmed = Instant::now().checked_sub(Duration::from_secs(50));
        let line = |name: &str, value| {
            let labels = r#"engine="docker",socket="/run/docker.sock""#;
            format!("strata_engine_{name}{{{labels}}} {value}")
        };
        let info = r#"strata_engine_info{engine="docker",socket="/run/docker.sock",version="20.10.24",api_version="1.41",cgroup_driver="cgroupfs"} 1"#;
        assert_eq!(
            lines(&engine),
            [
                line("up", 1),
                info.to_owned(),
                line("cache_age_seconds", 0),
                line("containers", 2),
                line("images", 0),
                line("events_total", 3),
                line("requests_total", 4),
                line("connections_total", 2),
            ]
        );
    }

    #[test]
    fn lost_engine_is_down_and_cache_ages() {
        let mut engine = engine([container("a", "web")]);
        engine.up = false;
        engine.confirmed = Instant::now().checked_sub(Duration::from_secs(50));
        let lines = lines(&engine);
        assert!(lines[0].ends_with(" 0"), "{lines:#?}");
        let age = lines
            .iter()
            .find(|line| line.contains("cache_age"))
            .unwrap();
        assert!(age.contains("} 5"), "{age}");
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("strata_engine_containers{"))
        );
    }

    #[test]
    fn no_image_count_if_engine_lists_no_images() {
        let mut engine = engine([]);
        engine.images = None;
        let is_image_line = |line: &String| line.starts_with("strata_engine_images");
        assert!(!lines(&engine).iter().any(is_image_line));
        engine.images = Some(Arc::default());
        assert!(lines(&engine).iter().any(is_image_line));
    }

    #[test]
    fn never_connected_engine_has_no_details() {
        let mut engine = engine([]);
        (engine.up, engine.kind, engine.confirmed) = (false, None, None);
        engine.images = None;
        engine.connections = 0;
        let line = |name: &str| {
            format!("strata_engine_{name}{{engine=\"\",socket=\"/run/docker.sock\"}} 0")
        };
        let names = ["up", "events_total", "requests_total", "connections_total"];
        assert_eq!(lines(&engine), names.map(line));
    }
}
