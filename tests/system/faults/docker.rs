//! A Docker daemon that starts late, hangs, is killed and is restarted. Its containers are still
//! read from the kernel, and the cached engine state is kept.

use rustix::process::Signal;

use super::exporter::{Exporter, Fault, SANDBOXED, flags, wrapped_command};
use crate::support::{
    engines::Engine,
    server_process::{TempDir, wait_until},
    text_format::{Labels, Scrape},
};

const COLLECTORS: [&str; 4] = [
    "container_cpu",
    "container_engine",
    "container_lifecycle",
    "container_memory",
];
const USAGE: &str = "container_memory_usage_bytes";

#[test]
fn docker_daemon_faults_are_isolated() {
    let Some(later) = Engine::docker_dir("fault") else {
        return;
    };
    let scratch = TempDir::new("fault-docker");
    let socket = format!("--engine.socket=unix://{}", later.0.join("sock").display());
    let others = "--cgroup.exclude=^/[^d]".to_owned();
    let flags = flags(&COLLECTORS, &[socket, others, SANDBOXED.to_owned()]);
    // A name that no other test's container has.
    let name = format!("web-{}", std::process::id());
    let is_ours = {
        let name = name.clone();
        move |labels: &Labels| labels.get("name") == Some(&name)
    };
    let exporter = Exporter::start(wrapped_command(&[]), &flags, &scratch.0)
        .restrict_to(name.clone(), is_ours);
    let up = |metrics: &Scrape| metrics.value("strata_engine_up", &[]);
    let web = |metrics: &Scrape| metrics.value(USAGE, &[("name", &name)]);

    let baseline = exporter.wait_until_stable("no engine", |metrics| up(metrics) == Some(0.0));
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "dockerd starts late",
            remaining: "everything; containers without names, `strata_engine_up` is 0",
            fds: 1,
            log_lines: 2,
            ..Fault::default()
        },
    );
    assert_eq!((up(&metrics), web(&metrics)), (Some(0.0), None));

    let mut docker = Engine::start_docker_in(later);
    let quickly = ["--restart=always", "--stop-timeout=1"];
    let id = docker.start_container(&name, &quickly, &["sleep", "100000"]);
    let exporter = exporter.count_path(id);
    let is_up = |metrics: &Scrape| up(metrics) == Some(1.0) && web(metrics).is_some();
    let baseline = exporter.wait_until_stable("a container", is_up);

    docker.signal(Signal::STOP);
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "dockerd hangs",
            remaining: "everything, under the last known names",
            log_lines: 2,
            ..Fault::default()
        },
    );
    assert!(web(&metrics).is_some());
    docker.signal(Signal::CONT);
    exporter.assert_recovers(&baseline);

    docker.stop_with(Signal::KILL);
    wait_until("a disconnected engine", || {
        (up(&exporter.scrape()) == Some(0.0)).then_some(())
    });
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "dockerd is killed",
            remaining: "everything, under the last known names; `strata_engine_up` is 0",
            log_lines: 2,
            ..Fault::default()
        },
    );
    assert!(web(&metrics).is_some());
    docker.restart();
    wait_until("the container again", || {
        is_up(&exporter.scrape()).then_some(())
    });
    exporter.assert_recovers(&baseline);

    // The containers stop with the daemon and are started again.
    let is_live_series =
        |name: &str, labels: &Labels| labels.contains_key("id") && !name.starts_with("container_l");
    exporter.assert_fault_while(
        &baseline,
        &Fault {
            name: "dockerd is restarted",
            remaining: "everything but resource usage of containers that do not run",
            may_lose: &is_live_series,
            log_lines: 4,
            ..Fault::default()
        },
        || {
            docker.stop_with(Signal::TERM);
            docker.restart();
        },
    );
    exporter.assert_recovers(&baseline);
}
