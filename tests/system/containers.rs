//! Containers of real engines, tested through the command line: metrics are compared with the
//! engine, the cgroup files and the known load.
//!
//! These tests need root, Docker, Podman and a static busybox, and start everything else
//! themselves.

#![allow(
    clippy::float_cmp,
    reason = "values are copied from the kernel, not computed"
)]

use std::{
    fs, thread,
    time::{Duration, SystemTime},
};

use crate::support::{
    cgroups::{CgroupReader, assert_between, assert_block_io, assert_usage},
    engines::{Engine, IMAGE, parse_unix_seconds},
    server_process::{ServerProcess, TempDir, wait_until},
    text_format::Scrape,
};
use rustix::process::Signal;

const MIB: f64 = 1024.0 * 1024.0;

/// A busy loop.
const BUSY: &[&str] = &["sh", "-c", "while :; do :; done"];

const MEMORY: &str = "container_memory_usage_bytes";

/// Allocates memory without end.
const OOM_COMMAND: &str = "tail /dev/zero";

fn exporter(dir: &TempDir, engines: &[&Engine], flags: &[&str]) -> ServerProcess {
    let sockets = engines.iter().map(|it| it.socket_url());
    let sockets = sockets.map(|it| format!("--engine.socket={it}"));
    let flags = flags.iter().map(|flag| (*flag).to_owned());
    ServerProcess::start_exporter(&sockets.chain(flags).collect::<Vec<_>>(), &dir.0)
}

fn scrape(exporter: &ServerProcess) -> Scrape {
    Scrape::parse(&exporter.metrics_text())
}

/// A family's value for the container of this name.
fn container_value(scrape: &Scrape, family: &str, name: &str) -> Option<f64> {
    scrape.value(family, &[("name", name)])
}

/// The exposed state of a container.
fn state(scrape: &Scrape, name: &str) -> Option<String> {
    let mut states = scrape
        .series_named("container_state")
        .filter(|(labels, value)| *value == 1.0 && labels.get("name").is_some_and(|it| it == name));
    let (labels, _) = states.next()?;
    assert!(states.next().is_none(), "{name} is in two states");
    Some(labels["state"].clone())
}

/// Waits for a scrape that meets the condition.
fn scrape_when(what: &str, exporter: &ServerProcess, is_met: impl Fn(&Scrape) -> bool) -> Scrape {
    wait_until(what, || {
        Some(scrape(exporter)).filter(|metrics| is_met(metrics))
    })
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

#[test]
fn limits_and_usage_match_engine_and_kernel() {
    let (Some(docker), Some(podman)) = (Engine::docker("usage"), Engine::podman("usage")) else {
        return;
    };
    let dir = TempDir::new("usage");
    let exporter = exporter(
        &dir,
        &[&docker, &podman],
        &["--collector.container_processes"],
    );
    let limits: &[&str] = &[
        "--memory=64m",
        "--memory-reservation=32m",
        "--cpus=0.2",
        "--cpu-shares=512",
        "--pids-limit=23",
        "--label=com.docker.compose.project=shop",
        "--label=com.docker.compose.service=till",
        "--label=secret=x",
    ];
    for (engine, limited, free) in [
        (&docker, "docker-limited", "docker-free"),
        (&podman, "podman-limited", "podman-free"),
    ] {
        engine.start_container(limited, limits, BUSY);
        engine.start_container(free, &[], &["sleep", "1000"]);
        let both = [limited, free];
        scrape_when("both have names", &exporter, |metrics| {
            both.iter().all(|name| {
                container_value(metrics, "container_cpu_usage_seconds_total", name).is_some()
            })
        });
        for name in both {
            assert_usage_now(engine, name, &exporter);
        }
        let metrics = scrape(&exporter);
        let group = CgroupReader::for_pid(engine.pid(limited));
        let value = |family: &str, name: &str| container_value(&metrics, family, name);

        // As requested, as the engine reports it, and as the kernel has it.
        assert_eq!(group.memory_limit(), Some(64.0 * MIB));
        let limit = engine.inspect(limited, "{{.HostConfig.Memory}}");
        assert_eq!(limit.parse(), Ok(64.0 * MIB));
        for family in [
            "container_spec_memory_limit_bytes",
            "container_memory_limit_bytes",
        ] {
            assert_eq!(value(family, limited), Some(64.0 * MIB), "{family}");
        }
        let family = "container_spec_memory_reservation_limit_bytes";
        assert_eq!(value(family, limited), Some(32.0 * MIB));
        assert_eq!(group.reservation(), Some(32.0 * MIB));
        let (quota, period) = group.quota();
        assert_eq!(quota.unwrap() / period, 0.2);
        assert_eq!(value("container_spec_cpu_quota", limited), quota);
        assert_eq!(value("container_spec_cpu_period", limited), Some(period));
        assert_eq!(value("container_spec_cpu_shares", limited), Some(512.0));
        assert_eq!(group.pids_limit(), Some(23.0));
        assert_eq!(value("container_threads_max", limited), Some(23.0));
        // Unlimited: no series, or 0 in cAdvisor's families.
        assert_eq!(value("container_memory_limit_bytes", free), None);
        let spec = value("container_spec_memory_limit_bytes", free);
        assert_eq!(spec, Some(0.0));
        assert_eq!(value("container_spec_cpu_quota", free), None);
        assert_eq!(value("container_cpu_cfs_periods_total", free), None);

        // Identifying labels.
        let usage = "container_cpu_usage_seconds_total";
        let mut disk_series = metrics
            .series_named(usage)
            .filter(|(labels, _)| labels.get("name").is_some_and(|name| name == limited));
        let (labels, _) = disk_series.next().unwrap();
        assert_eq!(labels["id"], group.id());
        assert_eq!(
            labels["image"],
            engine.inspect(limited, "{{.Config.Image}}")
        );
        assert_eq!(labels["container_label_com_docker_compose_project"], "shop");
        assert_eq!(labels["container_label_com_docker_compose_service"], "till");
        assert!(!labels.contains_key("container_label_secret"));

        for (family, template) in [
            ("container_start_time_seconds", "{{.State.StartedAt}}"),
            ("container_creation_time_seconds", "{{.Created}}"),
        ] {
            let time = parse_unix_seconds(&engine.inspect(limited, template));
            assert_between(family, value(family, limited), time, time, 1e-3);
        }
    }
    // Cgroups without a container are exposed, too, without container labels.
    let metrics = scrape(&exporter);
    let root = metrics.value("container_memory_usage_bytes", &[("id", "/")]);
    assert!(root.is_some_and(|bytes| bytes > 10.0 * MIB), "{root:?}");
    for (labels, _) in metrics.series_named("container_memory_usage_bytes") {
        let is_container = labels["id"].contains("docker/") || labels["id"].contains("libpod-");
        if !is_container {
            assert!(!labels.contains_key("name"), "{labels:?}");
            assert!(!labels.contains_key("image"), "{labels:?}");
        }
    }
}

/// Compares usage with the kernel's files just before and after the scrape; returns the page.
fn assert_usage_now(engine: &Engine, name: &str, exporter: &ServerProcess) -> Scrape {
    let group = CgroupReader::for_pid(engine.pid(name));
    let before = group.expected_samples();
    let metrics = scrape(exporter);
    assert_usage(&metrics, name, &before, &group.expected_samples());
    metrics
}

#[test]
fn known_load_is_counted() {
    let (Some(docker), Some(podman)) = (Engine::docker("load"), Engine::podman("load")) else {
        return;
    };
    let dir = TempDir::new("load");
    let flags = [
        "--collector.container_processes",
        "--collector.container_processes.sockets=true",
        "--collector.container_processes.tasks-state=true",
    ];
    let exporter = exporter(&dir, &[&docker, &podman], &flags);
    let load = "
        head -c 20971520 /dev/zero >/dev/shm/cached
        dd if=/dev/zero of=/written bs=1M count=8 conv=fsync
        sleep 1000 & sleep 1000 & nc -l -p 5000 &
        touch /ready
        wait";
    for (engine, name) in [(&docker, "docker-load"), (&podman, "podman-load")] {
        engine.start_container(name, &["--cpus=0.5"], &["sh", "-c", load]);
        wait_until("the load", || {
            engine.try_run(&["exec", name, "test", "-e", "/ready"]).ok()
        });
        scrape_when("a name", &exporter, |metrics| {
            container_value(metrics, MEMORY, name).is_some()
        });
        let group = CgroupReader::for_pid(engine.pid(name));
        // Until processes of `docker exec` have exited and the rest has settled.
        let metrics = wait_until("the same number of processes and files", || {
            let metrics = assert_usage_now(engine, name, &exporter);
            let (open, sockets) = group.open_files();
            let value = |family| container_value(&metrics, family, name).unwrap();
            // The kernel counts the descriptor that is reserved for nc's accept(2).
            let additional = value("container_file_descriptors") - open;
            let is_same = [0.0, 1.0].contains(&additional) && value("container_sockets") == sockets;
            let all = value("container_processes") == 4.0 && sockets == 1.0;
            (is_same && all).then_some(metrics)
        });
        let value = |family: &str| {
            container_value(&metrics, family, name).unwrap_or_else(|| panic!("{family}"))
        };
        // The data written to a tmpfs and to a file is in the page cache: 28 MiB, less what CPUs
        // have not added to the cgroup's counter yet.
        let cache = value("container_memory_cache");
        assert!((26.0 * MIB..34.0 * MIB).contains(&cache), "{cache}");
        assert!(value("container_memory_max_usage_bytes") >= 28.0 * MIB);
        assert_eq!(value("container_threads"), 4.0);
        let asleep = [("name", name), ("state", "sleeping")];
        assert_eq!(metrics.value("container_tasks_state", &asleep), Some(4.0));
        assert_block_io(&metrics, name, &group, &group, disk);
    }
}

/// Name of a block device by its numbers.
fn disk(numbers: &str) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{numbers}")).unwrap();
    format!("/dev/{}", link.file_name().unwrap().to_str().unwrap())
}

#[test]
fn container_lifecycle_is_exposed() {
    let Some(docker) = Engine::docker("life") else {
        return;
    };
    let dir = TempDir::new("life");
    let exporter = exporter(&dir, &[&docker], &["--cgroup.grace=4s"]);
    // Exits by itself and is restarted.
    docker.start_container(
        "loop",
        &["--restart=on-failure:3"],
        &["sh", "-c", "sleep 0.2; exit 3"],
    );
    // Exceeds its limit, which is more than runc needs to start it, and is killed as a whole.
    docker.start_container(
        "whole",
        &["--memory=32m"],
        &["sh", "-c", &format!("exec {OOM_COMMAND}")],
    );
    // Its child exceeds the limit; the container keeps running.
    docker.start_container(
        "child",
        &["--memory=32m"],
        &["sh", "-c", &format!("{OOM_COMMAND}; sleep 1000")],
    );
    docker.start_container(
        "checked",
        &[
            "--health-cmd=test ! -e /unhealthy",
            "--health-interval=500ms",
            "--health-retries=1",
        ],
        &["sleep", "1000"],
    );
    docker.run(&["create", "--name", "never", IMAGE, "true"]);

    assert_crash_loop(&docker, &exporter, "loop");
    let metrics = scrape(&exporter);
    assert!(is(&metrics, "never", "created"));
    assert_eq!(
        container_value(&metrics, "container_status", "never"),
        Some(0.0)
    );
    assert_out_of_memory(&docker, &exporter, "whole", "child");
    assert_health(&docker, &exporter, "checked", "child");
    assert_pause(&docker, &exporter, "child");
    assert_renaming(&docker, &exporter, "child", "grown");
    assert_end(&docker, &exporter, "grown");
}

/// Whether a container is exposed in this state.
fn is(metrics: &Scrape, name: &str, expected: &str) -> bool {
    state(metrics, name).is_some_and(|state| state == expected)
}

/// Checks a container that exits with 3 and may be restarted three times.
fn assert_crash_loop(docker: &Engine, exporter: &ServerProcess, name: &str) {
    let metrics = scrape_when("the end of the restart loop", exporter, |metrics| {
        is(metrics, name, "exited")
            && container_value(metrics, "container_restarts_total", name) == Some(3.0)
    });
    assert_eq!(docker.inspect(name, "{{.RestartCount}}"), "3");
    assert_eq!(
        container_value(&metrics, "container_exit_code", name),
        Some(3.0)
    );
    assert_eq!(
        container_value(&metrics, "container_status", name),
        Some(5.0)
    );
    assert_eq!(
        container_value(&metrics, "container_uptime_seconds", name),
        None
    );
    let finished = parse_unix_seconds(&docker.inspect(name, "{{.State.FinishedAt}}"));
    assert_between(
        "the end",
        container_value(&metrics, "container_finish_time_seconds", name),
        finished,
        finished,
        // Docker's event may be slightly later than the recorded time.
        0.5,
    );
}

/// Checks a container that was killed as a whole, and one that lost only a child.
fn assert_out_of_memory(docker: &Engine, exporter: &ServerProcess, container: &str, child: &str) {
    let metrics = scrape_when("both are out of memory", exporter, |metrics| {
        is(metrics, container, "exited")
            && container_value(metrics, "container_oom_events_total", child) == Some(1.0)
            && container_value(metrics, "container_oom_events_total", container) == Some(1.0)
    });
    assert_eq!(
        container_value(&metrics, "container_exit_code", container),
        Some(137.0)
    );
    assert!(is(&metrics, child, "running"));
    assert_eq!(
        container_value(&metrics, "container_exit_code", child),
        None
    );
    assert_eq!(CgroupReader::for_pid(docker.pid(child)).oom_kills(), 1.0);
    assert_eq!(docker.inspect(child, "{{.State.OOMKilled}}"), "false");
    assert_eq!(docker.inspect(container, "{{.State.OOMKilled}}"), "true");
}

/// Checks a container with a health check, and one without.
fn assert_health(docker: &Engine, exporter: &ServerProcess, name: &str, without: &str) {
    let health = |metrics: &Scrape| container_value(metrics, "container_health_state", name);
    let metrics = scrape_when("a healthy state", exporter, |metrics| {
        health(metrics) == Some(1.0)
    });
    let healthy = [("name", name), ("status", "healthy")];
    assert_eq!(metrics.value("container_health", &healthy), Some(1.0));
    assert_eq!(
        container_value(&metrics, "container_health_state", without),
        Some(-1.0)
    );
    docker.run(&["exec", name, "touch", "/unhealthy"]);
    let metrics = scrape_when("an unhealthy state", exporter, |metrics| {
        health(metrics) == Some(0.0)
    });
    let unhealthy = [("name", name), ("status", "unhealthy")];
    assert_eq!(metrics.value("container_health", &unhealthy), Some(1.0));
    assert_eq!(metrics.value("container_health", &healthy), Some(0.0));
    assert_eq!(
        docker.inspect(name, "{{.State.Health.Status}}"),
        "unhealthy"
    );
}

fn assert_pause(docker: &Engine, exporter: &ServerProcess, name: &str) {
    docker.run(&["pause", name]);
    let metrics = scrape_when("the pause", exporter, |metrics| is(metrics, name, "paused"));
    assert_eq!(
        container_value(&metrics, "container_status", name),
        Some(2.0)
    );
    assert!(container_value(&metrics, MEMORY, name).is_some());
    docker.run(&["unpause", name]);
    scrape_when("a running container", exporter, |metrics| {
        is(metrics, name, "running")
    });
}

fn assert_renaming(docker: &Engine, exporter: &ServerProcess, old: &str, new: &str) {
    docker.run(&["rename", old, new]);
    let metrics = scrape_when("the new name", exporter, |metrics| {
        is(metrics, new, "running")
    });
    assert_eq!(state(&metrics, old), None);
    assert!(container_value(&metrics, MEMORY, new).is_some());
    assert_eq!(container_value(&metrics, MEMORY, old), None);
    // Counters continue under the new name.
    assert_eq!(
        container_value(&metrics, "container_oom_events_total", new),
        Some(1.0)
    );
}

/// Checks a container that is stopped, stays stopped for some time, and is removed.
fn assert_end(docker: &Engine, exporter: &ServerProcess, name: &str) {
    let metrics = scrape(exporter);
    let last_seen = container_value(&metrics, "container_last_seen", name).unwrap();
    assert!((now() - last_seen).abs() < 2.0, "{last_seen}");
    docker.run(&["stop", "--time=0", name]);
    let ended = now();
    let metrics = scrape_when("the stop", exporter, |metrics| is(metrics, name, "exited"));
    assert_eq!(
        container_value(&metrics, "container_exit_code", name),
        Some(137.0)
    );
    assert_eq!(container_value(&metrics, MEMORY, name), None);
    let last = container_value(&metrics, "container_last_seen", name);
    assert_between("last seen", last, last_seen, ended, 1.0);
    assert_eq!(
        container_value(&scrape(exporter), "container_last_seen", name),
        last
    );
    let metrics = scrape_when("the end of the grace period", exporter, |metrics| {
        container_value(metrics, "container_last_seen", name).is_none()
    });
    assert!(is(&metrics, name, "exited"));

    docker.run(&["rm", name]);
    let metrics = scrape_when("the removal", exporter, |metrics| {
        state(metrics, name).is_none()
    });
    let remaining = metrics.series.values().flatten();
    let mut remaining =
        remaining.filter(|(labels, _)| labels.get("name").is_some_and(|it| it == name));
    assert_eq!(remaining.next(), None);
}

#[test]
fn network_load_is_counted_to_the_byte() {
    let Some(docker) = Engine::docker("net") else {
        return;
    };
    let dir = TempDir::new("net");
    let exporter = exporter(&dir, &[&docker], &[]);
    let load = 20_000_000;
    // nc stops receiving when its standard input ends, so that is kept open.
    docker.start_container(
        "receiver",
        &[],
        &["sh", "-c", "tail -f /dev/null | nc -l -p 5000 | wc -c"],
    );
    let address = docker.inspect("receiver", "{{.NetworkSettings.IPAddress}}");
    let send = format!(
        "until head -c {load} /dev/zero | nc {address} 5000; do sleep 0.1; done; sleep 1000"
    );
    docker.start_container("sender", &[], &["sh", "-c", &send]);
    wait_until("all data", || {
        (docker.run(&["logs", "receiver"]) == load.to_string()).then_some(())
    });
    let name = "container_network_receive_bytes_total";
    scrape_when("both have names", &exporter, |metrics| {
        ["receiver", "sender"].iter().all(|it| {
            metrics
                .value(name, &[("name", it), ("interface", "eth0")])
                .is_some()
        })
    });
    let columns = [("receive", "receiver", 0, 1), ("transmit", "sender", 8, 9)];
    for (way, container, bytes, packets) in columns {
        let device = |column| eth0(docker.pid(container), column);
        let before = (device(bytes), device(packets));
        let metrics = scrape(&exporter);
        let after = (device(bytes), device(packets));
        let value = |what: &str| {
            let family = format!("container_network_{way}_{what}_total");
            metrics.value(&family, &[("name", container), ("interface", "eth0")])
        };
        assert_between("bytes", value("bytes"), before.0, after.0, 0.0);
        assert_between("packets", value("packets"), before.1, after.1, 0.0);
        // Apart from the load there are its headers and little else.
        let load = f64::from(load);
        assert_between("the load", value("bytes"), load, load * 1.1, 0.0);
        assert_eq!(value("errors"), Some(0.0));
        let loopback = [("name", container), ("interface", "lo")];
        assert_eq!(metrics.value(name, &loopback), None);
    }
}

/// A column of `/proc/PID/net/dev`.
fn eth0(pid: u32, column: usize) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("eth0:"));
    let line = lines.next().unwrap();
    line.split_whitespace()
        .nth(column)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn scrape_neither_queries_nor_waits_for_an_engine() {
    let Some(later) = Engine::docker_dir("asks") else {
        return;
    };
    let dir = TempDir::new("asks");
    let socket = format!("--engine.socket=unix://{}", later.0.join("sock").display());
    // The socket's directory exists before the engine.
    let exporter = ServerProcess::start_exporter(&[socket], &dir.0);
    let up = |metrics: &Scrape| metrics.value("strata_engine_up", &[]);
    let metrics = scrape(&exporter);
    assert!(
        matches!(up(&metrics), None | Some(0.0)),
        "{:?}",
        up(&metrics)
    );
    assert!(metrics.value("node_load1", &[]).is_some());

    let docker = Engine::start_docker_in(later);
    docker.start_container("web", &[], &["sleep", "1000"]);
    let usage = "container_cpu_usage_seconds_total";
    let is_named = |metrics: &Scrape| container_value(metrics, usage, "web").is_some();
    scrape_when("an engine started later", &exporter, |metrics| {
        is_named(metrics) && up(metrics) == Some(1.0)
    });

    // Requests at startup have completed by then.
    let requests = |metrics: &Scrape| metrics.value("strata_engine_requests_total", &[]);
    let settled = wait_until("no more engine requests", || {
        let before = requests(&scrape(&exporter));
        thread::sleep(Duration::from_millis(700));
        let after = requests(&scrape(&exporter));
        (before == after).then_some(after)
    });
    assert!(settled.is_some_and(|count| count > 0.0), "{settled:?}");
    for _ in 0..20 {
        assert_eq!(requests(&scrape(&exporter)), settled);
    }

    // The engine hangs: metrics and names stay, without delay.
    docker.signal(Signal::STOP);
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert!(is_named(&scrape(&exporter)));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    docker.signal(Signal::CONT);

    // The engine is gone, which is exposed; its container is gone, too.
    drop(docker);
    let metrics = scrape_when("a disconnected engine", &exporter, |metrics| {
        up(metrics) == Some(0.0)
    });
    let age = metrics.value("strata_engine_cache_age_seconds", &[]);
    assert!(age.is_some_and(|age| age > 0.0), "{age:?}");
    assert!(container_value(&metrics, "container_last_seen", "web").is_some());
    assert!(metrics.value("node_load1", &[]).is_some());
}
