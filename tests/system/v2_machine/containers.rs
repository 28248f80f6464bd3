//! Metrics of Docker containers under systemd match Docker and the files of their cgroups.

use std::{collections::BTreeMap, fs, path::Path};

use super::booted;
use crate::support::{
    cgroups::{CgroupReader, assert_between, assert_block_io, assert_usage},
    engines::parse_unix_seconds,
    text_format::Scrape,
};

const MIB: f64 = 1024.0 * 1024.0;

/// Containers that ran to the end.
const RUNNING: &[&str] = &["limited", "load", "child", "checked", "sender"];

#[test]
fn containers_match_docker_and_kernel() {
    let Some(out) = booted() else { return };
    let out = out.join("containers");
    let read = |name: &str| {
        let path = out.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let metrics = Scrape::parse(&read("page.prom"));
    let disks = read("disks");
    let disk = |numbers: &str| {
        let disk = disks.lines().find_map(|line| line.strip_prefix(numbers));
        format!("/dev/{}", disk.unwrap().trim())
    };
    for name in RUNNING {
        let (before, after) = (out.join("before").join(name), out.join("after").join(name));
        let (before, after) = (CgroupReader::V2(before), CgroupReader::V2(after));
        assert_usage(
            &metrics,
            name,
            &before.expected_samples(),
            &after.expected_samples(),
        );
        assert_block_io(&metrics, name, &before, &after, disk);
        assert_network(&metrics, name, &out);
    }
    assert_limits(&metrics, &out.join("before/limited"));
    assert_loads(&metrics);
    assert_lives(&metrics, &read("inspect"));
    // The kernel's counter is gone with the container, so Docker's events are counted.
    let ooms = read("ooms").lines().filter(|name| *name == "whole").count();
    assert_eq!(
        container_value(&metrics, "container_oom_events_total", "whole"),
        u32::try_from(ooms).ok().map(f64::from)
    );

    let value = |family: &str, labels: &[(&str, &str)]| metrics.value(family, labels);
    assert_eq!(value("strata_cgroup_info", &[("version", "v2")]), Some(1.0));
    let engine = [("engine", "docker"), ("cgroup_driver", "systemd")];
    assert_eq!(value("strata_engine_info", &engine), Some(1.0));
    // Services are exposed, too, without a name.
    let daemon = [("id", "/system.slice/docker.service")];
    assert!(value("container_memory_usage_bytes", &daemon) > Some(10.0 * MIB));
    for (labels, _) in metrics.series_named("container_memory_usage_bytes") {
        let is_container = labels["id"].starts_with("/system.slice/docker-");
        assert_eq!(labels.contains_key("name"), is_container, "{labels:?}");
        assert_eq!(labels.contains_key("image"), is_container, "{labels:?}");
    }
}

/// A family's value for the container of this name.
fn container_value(metrics: &Scrape, family: &str, name: &str) -> Option<f64> {
    metrics.value(family, &[("name", name)])
}

/// Traffic of its only interface, by the columns of `net/dev`.
fn assert_network(metrics: &Scrape, name: &str, out: &Path) {
    let column = |when: &str, column: usize| -> f64 {
        let text = fs::read_to_string(out.join(when).join(name).join("net-dev")).unwrap();
        let mut lines = text.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix("eth0:")).unwrap();
        let field = line.split_whitespace().nth(column).unwrap();
        field.parse().unwrap()
    };
    for (what, at) in [
        ("receive_bytes", 0),
        ("receive_packets", 1),
        ("receive_errors", 2),
        ("receive_packets_dropped", 3),
        ("transmit_bytes", 8),
        ("transmit_packets", 9),
        ("transmit_errors", 10),
        ("transmit_packets_dropped", 11),
    ] {
        let family = format!("container_network_{what}_total");
        let value = metrics.value(&family, &[("name", name), ("interface", "eth0")]);
        assert_between(
            &family,
            value,
            column("before", at),
            column("after", at),
            0.0,
        );
    }
}

/// Limits as requested and as the kernel has them.
fn assert_limits(metrics: &Scrape, group: &Path) {
    let name = "limited";
    let kernel = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    assert_eq!(kernel("cpu.max"), "20000 100000\n");
    assert_eq!(kernel("memory.max"), "67108864\n");
    assert_eq!(kernel("memory.low"), "33554432\n");
    assert_eq!(kernel("pids.max"), "23\n");
    let weight: f64 = kernel("cpu.weight").trim().parse().unwrap();
    for (family, expected) in [
        ("container_spec_cpu_quota", 20000.0),
        ("container_spec_cpu_period", 100_000.0),
        // The default weight of 100 corresponds to the default of 1024 shares.
        ("container_spec_cpu_shares", (weight * 10.24).floor()),
        ("container_spec_memory_limit_bytes", 64.0 * MIB),
        ("container_spec_memory_reservation_limit_bytes", 32.0 * MIB),
        ("container_memory_limit_bytes", 64.0 * MIB),
        ("container_threads_max", 23.0),
    ] {
        assert_eq!(
            container_value(metrics, family, name),
            Some(expected),
            "{family}"
        );
    }
    // Unlimited.
    let family = "container_spec_memory_limit_bytes";
    assert_eq!(container_value(metrics, family, "load"), Some(0.0));
    assert_eq!(
        container_value(metrics, "container_spec_cpu_quota", "load"),
        None
    );
    let default = container_value(metrics, "container_spec_cpu_shares", "load");
    assert_eq!(default, Some(1024.0));
}

/// Known effects of each load, independent of the kernel's files.
fn assert_loads(metrics: &Scrape) {
    let value = |family: &str, name: &str| {
        container_value(metrics, family, name).unwrap_or_else(|| panic!("no {family} of {name}"))
    };
    // It was throttled most of the time and waited meanwhile.
    let throttled = value("container_cpu_cfs_throttled_periods_total", "limited");
    let periods = value("container_cpu_cfs_periods_total", "limited");
    assert!(throttled > 0.5 * periods, "{throttled} of {periods}");
    assert!(value("container_cpu_cfs_throttled_seconds_total", "limited") > 1.0);
    assert!(value("container_pressure_cpu_waiting_seconds_total", "limited") > 1.0);
    // The data written to a tmpfs and to a file is in the page cache.
    let cache = value("container_memory_cache", "load");
    assert!((28.0 * MIB..34.0 * MIB).contains(&cache), "{cache}");
    assert!(value("container_memory_max_usage_bytes", "load") >= 28.0 * MIB);
    let written = value("container_disk_write_bytes_total", "load");
    assert!((8.0 * MIB..12.0 * MIB).contains(&written), "{written}");
    // It hit its limit and had to wait for memory.
    assert!(value("container_memory_events_max_total", "child") > 0.0);
    assert!(value("container_memory_max_usage_bytes", "child") >= 30.0 * MIB);
    assert!(value("container_pressure_memory_waiting_seconds_total", "child") > 0.0);
    let load = 5e6;
    for (way, name) in [("receive", "load"), ("transmit", "sender")] {
        let family = format!("container_network_{way}_bytes_total");
        assert_between(
            &family,
            container_value(metrics, &family, name),
            load,
            load * 1.1,
            0.0,
        );
    }
}

/// States of all containers, including those that are not running.
fn assert_lives(metrics: &Scrape, inspected: &str) {
    let lives = inspected.lines().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[0].trim_start_matches('/'), fields)
    });
    let lives: BTreeMap<&str, Vec<&str>> = lives.collect();
    assert_eq!(lives.len(), 8);
    for (name, value_of) in &lives {
        let [
            _,
            id,
            state,
            restarts,
            code,
            _,
            created,
            started,
            finished,
            memory,
            image,
        ] = value_of[..]
        else {
            panic!("{value_of:?}")
        };
        let is_running = RUNNING.contains(name);
        let value = |family: &str| container_value(metrics, family, name);
        let labels = [("name", *name), ("state", state)];
        assert_eq!(
            metrics.value("container_state", &labels),
            Some(1.0),
            "{labels:?}"
        );
        let mut all = metrics.series_named("container_state");
        let (labels, _) = all.find(|(labels, _)| labels["name"] == *name).unwrap();
        assert_eq!(labels["image"], image);
        assert_eq!(labels["id"], format!("/system.slice/docker-{id}.scope"));
        assert_eq!(value("container_restarts_total"), restarts.parse().ok());
        let limit = if is_running {
            memory.parse().ok()
        } else {
            None
        };
        assert_eq!(value("container_spec_memory_limit_bytes"), limit, "{name}");
        for (family, time, is_there) in [
            ("container_creation_time_seconds", created, true),
            ("container_start_time_seconds", started, true),
            ("container_finish_time_seconds", finished, !is_running),
        ] {
            if is_there {
                let time = parse_unix_seconds(time);
                // The event may be late, by several seconds on an emulated machine.
                let slack = if is_running { 1e-3 } else { 30.0 };
                assert_between(family, value(family), time, time, slack);
            } else {
                assert_eq!(value(family), None, "{family} of {name}");
            }
        }
        let expected = (!is_running).then(|| code.parse().unwrap());
        assert_eq!(value("container_exit_code"), expected, "{name}");
    }
    for (name, state, code) in [
        ("loop", "exited", "3"),
        ("whole", "exited", "137"),
        ("ended", "exited", "137"),
        ("checked", "paused", "0"),
    ] {
        assert_eq!((lives[name][2], lives[name][4]), (state, code), "{name}");
    }
    assert_eq!(
        container_value(metrics, "container_restarts_total", "loop"),
        Some(1.0)
    );
    for (family, name, expected) in [
        ("container_oom_events_total", "child", 1.0),
        ("container_health_state", "checked", 1.0),
        ("container_health_state", "load", -1.0),
        ("container_status", "checked", 2.0),
    ] {
        assert_eq!(
            container_value(metrics, family, name),
            Some(expected),
            "{family}"
        );
    }
    // It is still exposed, because it ended less than the grace period ago.
    let ended = container_value(metrics, "container_finish_time_seconds", "ended").unwrap();
    let last_seen = container_value(metrics, "container_last_seen", "ended");
    assert_between("last seen", last_seen, ended - 60.0, ended, 1.0);
    assert_eq!(
        container_value(metrics, "container_memory_usage_bytes", "ended"),
        None
    );
    let till = [("container_label_com_docker_compose_service", "till")];
    let shop = [("container_label_com_docker_compose_project", "shop")];
    for label in [till, shop] {
        let usage = metrics.value("container_memory_usage_bytes", &label);
        assert_eq!(
            usage,
            container_value(metrics, "container_memory_usage_bytes", "limited")
        );
    }
}
