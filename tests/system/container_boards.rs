//! Fifty containers in one exposition: Prometheus scrapes it, promtool and the strict parser accept
//! it, and the queries of widely used dashboards and alerts return data.
//!
//! The queries follow popular cAdvisor dashboards, which are named by their number on grafana.com
//! or their project. They use the same families, labels and functions, but do not copy every panel.
//! Variables are substituted as Grafana does.

use std::thread;

use crate::support::{
    cgroups::CgroupReader,
    engines::Engine,
    prometheus_tools::{
        self, TOLERATED_LINTS, assert_promtool_lint, assert_strict_parse, query_values,
        scrape_warnings,
    },
    server_process::{ServerProcess, TempDir, wait_until},
};

/// Number of containers.
const CONTAINERS: usize = 50;

/// Queries of a dashboard, all of which should return data.
const QUERIES: &[(&str, &[&str])] = &[
    (
        "193, Docker monitoring",
        &[
            r#"count(container_last_seen{image!=""})"#,
            r#"sum(container_memory_usage_bytes{image!=""})"#,
            r#"container_cpu_load_average_10s{image!=""} / 1000"#,
            r#"sum(rate(container_cpu_user_seconds_total{image!=""}[5m]) * 100)"#,
            r#"rate(container_cpu_user_seconds_total{image!=""}[5m]) * 100"#,
            r#"container_memory_usage_bytes{image!=""}"#,
            r#"rate(container_network_receive_bytes_total{image!=""}[5m])"#,
            r#"rate(container_network_transmit_bytes_total{image!=""}[5m])"#,
        ],
    ),
    (
        "893, Docker and system monitoring",
        &[
            "sum(rate(container_cpu_system_seconds_total[1m]))",
            r#"sum(rate(container_cpu_system_seconds_total{name=~".+"}[1m]))"#,
            r#"sum(rate(container_cpu_system_seconds_total{id="/"}[1m]))"#,
            "sum(rate(process_cpu_seconds_total[1m])) * 100",
            r#"sum(rate(container_cpu_usage_seconds_total{name=~".+"}[1m])) by (name) * 100"#,
            r#"count(container_last_seen{name=~".+"})"#,
            r#"sum(container_memory_rss{name=~".+"}) by (name)"#,
            r#"sum(container_memory_swap{name=~".+"}) by (name)"#,
            r#"container_memory_rss{id="/"}"#,
            r#"sum(container_memory_usage_bytes{name=~".+"}) by (name)"#,
            r#"sum(rate(container_network_receive_bytes_total{name=~".+"}[1m])) by (name)"#,
            r#"- sum(rate(container_network_transmit_bytes_total{name=~".+"}[1m])) by (name)"#,
            r#"sum(rate(container_network_receive_bytes_total{id="/"}[1m])) by (id)"#,
            r#"sum(container_spec_memory_limit_bytes{name=~".+"} - container_memory_usage_bytes{name=~".+"}) by (name)"#,
        ],
    ),
    (
        "179, Docker and host monitoring",
        &[
            "cadvisor_version_info",
            "sum(cadvisor_version_info) by (kernelVersion, osVersion, dockerVersion, cadvisorVersion)",
            r#"count(rate(container_last_seen{name=~".+"}[5m]))"#,
            r#"sum(rate(container_cpu_usage_seconds_total{name!~".*prometheus.*", image!=""}[1m])) by (name) * 100"#,
            r#"container_memory_max_usage_bytes{image!=""}"#,
            r#"sum(rate(container_network_receive_bytes_total{image!=""}[1m])) by (name, interface)"#,
        ],
    ),
    (
        "10619, Docker host and container overview",
        &[
            r#"count(rate(container_last_seen{name=~".+"}[1m]))"#,
            r#"sum(rate(container_cpu_usage_seconds_total{name=~".+"}[1m])) by (name) * 100"#,
            r#"sum(container_memory_rss{name=~".+"}) by (name)"#,
            r#"sum(container_memory_cache{name=~".+"}) by (name)"#,
            "avg by (instance) (time() - node_boot_time_seconds)",
            r#"container_memory_rss{name=~".+"} / on (instance) group_left node_memory_MemTotal_bytes"#,
        ],
    ),
    (
        "10566, Docker on a Raspberry Pi",
        &[
            r#"sum(rate(container_cpu_system_seconds_total{name=~".+"}[1m])) by (name)"#,
            r#"container_spec_memory_limit_bytes{name=~".+"}"#,
            r#"container_memory_max_usage_bytes{name=~".+"}"#,
            r#"sum(container_tasks_state{state="running"})"#,
            r#"sum(container_tasks_state{state="sleeping", name=~".+"}) by (name)"#,
        ],
    ),
    (
        "13946, Docker by cAdvisor",
        &[
            r#"count(container_last_seen{image!=""})"#,
            "sum(machine_cpu_cores)",
            "sum(machine_memory_bytes)",
            r#"sum(container_memory_usage_bytes{image!=""}) / sum(machine_memory_bytes) * 100"#,
            r#"sum(rate(container_cpu_user_seconds_total{image!=""}[5m])) / sum(machine_cpu_cores) * 100"#,
            r#"sum(container_memory_cache{image!=""}) by (name)"#,
        ],
    ),
    (
        "14282, cAdvisor exporter, and its copies",
        &[
            r#"count by (instance) ({__name__=~"container.*"})"#,
            r#"count by (name) ({__name__=~"container.*", instance=~".*", name!=""})"#,
            r#"sum(rate(container_cpu_usage_seconds_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name) * 100"#,
            r#"sum(container_memory_rss{instance=~".*",name=~".*",name=~".+"}) by (name)"#,
            r#"sum(container_memory_cache{instance=~".*",name=~".*",name=~".+"}) by (name)"#,
            r#"sum(rate(container_network_receive_bytes_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name)"#,
            r#"sum(rate(container_network_transmit_bytes_total{instance=~".*",name=~".*",name=~".+"}[5m])) by (name)"#,
            r#"(time() - container_start_time_seconds{instance=~".*",name=~".*",name=~".+"}) / 86400"#,
            r#"container_last_seen{container_label_com_docker_compose_project="shop", container_label_com_docker_compose_service="till"}"#,
            r#"container_health_state{name=~".+"}"#,
            r#"sum(container_memory_working_set_bytes{name=~".+"}) by (name) / (sum(container_spec_memory_limit_bytes{name=~".+"}) by (name) > 0) * 100"#,
            r#"sum(rate(container_network_receive_errors_total{name=~".+"}[5m])) by (name)"#,
            r#"sum(rate(container_network_transmit_errors_total{name=~".+"}[5m])) by (name)"#,
            r#"sum(rate(container_network_receive_packets_dropped_total{name=~".+"}[5m])) by (name)"#,
            r#"sum(rate(container_network_transmit_packets_dropped_total{name=~".+"}[5m])) by (name)"#,
            r#"sum(increase(container_oom_events_total{name=~".+"}[5m])) by (name)"#,
            r#"sum(rate(container_cpu_cfs_throttled_periods_total{name=~".+"}[5m])) by (name) / sum(rate(container_cpu_cfs_periods_total{name=~".+"}[5m])) by (name)"#,
        ],
    ),
    (
        "18512, Docker, and 19908, cAdvisor Docker insights",
        &[
            "sum(container_fs_usage_bytes)",
            r#"count(container_last_seen{name!=""}) by (instance)"#,
            r#"topk(5, sum by (name) (rate(container_cpu_usage_seconds_total{name!=""}[5m])))"#,
            r#"sum(container_memory_usage_bytes{name!=""}) by (name)"#,
            r#"time() - container_last_seen{name!=""}"#,
        ],
    ),
    (
        "dockprom",
        &[
            r#"sum(rate(container_cpu_user_seconds_total{image!=""}[1m])) / count(node_cpu_seconds_total{mode="user"}) * 100"#,
            "machine_cpu_cores",
            r#"sum(container_memory_usage_bytes{image!=""})"#,
            "((sum(node_memory_MemTotal_bytes) - sum(node_memory_MemFree_bytes) - sum(node_memory_Buffers_bytes) - sum(node_memory_Cached_bytes)) / sum(node_memory_MemTotal_bytes)) * 100",
            r#"scalar(count(container_memory_usage_bytes{image!=""}) > 0)"#,
            r#"sum(container_fs_usage_bytes{id="/"})"#,
            r#"sum by (name) (rate(container_cpu_usage_seconds_total{image!="",container_label_org_label_schema_group=""}[1m])) / scalar(count(node_cpu_seconds_total{mode="user"})) * 100"#,
            r#"sum by (name) (container_memory_usage_bytes{image!="",container_label_org_label_schema_group=""})"#,
            r#"sum by (name) (container_memory_cache{image!="",container_label_org_label_schema_group=""})"#,
            r#"sum by (name) (rate(container_network_receive_bytes_total{image!="",container_label_org_label_schema_group=""}[1m]))"#,
            r#"sum by (name) (rate(container_network_transmit_bytes_total{image!="",container_label_org_label_schema_group=""}[1m]))"#,
            r#"sum by (name) (rate(container_cpu_usage_seconds_total{image!="",container_label_org_label_schema_group="monitoring"}[1m]))"#,
            r#"sum by (name) (container_memory_usage_bytes{image!="",container_label_org_label_schema_group="monitoring"})"#,
        ],
    ),
    (
        "swarmprom",
        &[
            r#"count(rate(container_last_seen{container_label_com_docker_swarm_node_id=~".+"}[5m]))"#,
            r#"sum(container_tasks_state{state="sleeping", container_label_com_docker_swarm_node_id=~".+"})"#,
            r#"topk(10, sum by (container_label_com_docker_swarm_service_name) (rate(container_cpu_usage_seconds_total{container_label_com_docker_swarm_node_id=~".+", id=~"/docker/.*"}[1m])))"#,
            r#"sum(container_memory_usage_bytes{container_label_com_docker_swarm_task_name=~".+", container_label_com_docker_swarm_node_id=~".+"}) by (container_label_com_docker_swarm_task_name)"#,
            r#"sum(irate(container_network_receive_bytes_total{container_label_com_docker_swarm_node_id=~".+"}[1m])) by (container_label_com_docker_swarm_service_name)"#,
            r#"count(container_last_seen{container_label_com_docker_stack_namespace="shop"})"#,
        ],
    ),
    (
        "Grafana's mixin for Docker",
        &[
            r#"count(container_last_seen{job="strata", instance=~".+", image!=""})"#,
            r#"count(count by (image) (container_last_seen{image!=""}))"#,
            r#"sum(container_spec_memory_reservation_limit_bytes{name!=""}) / sum(machine_memory_bytes)"#,
            r#"sum(container_memory_usage_bytes{image!=""}) / sum(machine_memory_bytes)"#,
            r#"sum by (name) (rate(container_cpu_usage_seconds_total{image!=""}[1m])) * 100"#,
            r#"sum by (instance, name, interface) (rate(container_network_transmit_bytes_total{image!=""}[1m]))"#,
            r#"sum by (instance, name, interface) (increase(container_network_receive_errors_total{name!=""}[1m]))"#,
            "sum(container_fs_usage_bytes) by (device)",
        ],
    ),
    (
        "Alerts of awesome-prometheus-alerts and the mixins",
        &[
            r#"time() - container_last_seen{name!=""} < 60"#,
            r#"(sum(rate(container_cpu_usage_seconds_total{name!=""}[3m])) by (instance, name) * 100)"#,
            r#"(sum(container_memory_working_set_bytes{name!=""}) by (instance, name) / sum(container_spec_memory_limit_bytes > 0) by (instance, name) * 100)"#,
            r#"(sum(container_memory_rss{name!=""}) by (instance, name) / sum(container_spec_memory_limit_bytes > 0) by (instance, name) * 100)"#,
            "(1 - (sum(container_fs_inodes_free) by (instance) / sum(container_fs_inodes_total) by (instance))) * 100",
            r#"sum(rate(container_cpu_usage_seconds_total{name!=""}[3m])) by (instance, name) / sum(container_spec_cpu_quota{name!=""} / container_spec_cpu_period{name!=""}) by (instance, name) * 100"#,
            r#"sum(increase(container_cpu_cfs_throttled_periods_total{name!=""}[5m])) by (name) / sum(increase(container_cpu_cfs_periods_total{name!=""}[5m])) by (name)"#,
            r#"rate(container_cpu_cfs_throttled_seconds_total{name!=""}[3m])"#,
        ],
    ),
];

/// Queries that return no data here, and why. If the kernel provides the data, they must return
/// some.
const WITHOUT_RESULT: &[(&str, &str)] = &[
    (
        r#"sum(container_fs_usage_bytes{name=~".+"}) by (name)"#,
        "what a container's own layer takes is found by walking it: not in a scrape",
    ),
    (
        r#"container_fs_inodes_free{name!=""}"#,
        "cAdvisor exposes 0 for containers, which have no inodes of their own",
    ),
    (
        "container_state_status",
        "another exporter's name; cAdvisor does not have it",
    ),
    (
        r#"sum(increase(container_cpu_cfs_throttled_periods_total{container!=""}[5m])) by (container, pod, namespace)"#,
        "only Kubernetes has these labels",
    ),
    (
        r#"container_memory_events_max_total{name!=""}"#,
        "cgroup version 1 does not count it",
    ),
];

/// Queries for block I/O, which cgroup v1 on newer kernels does not count before a limit is set.
const BLOCK_IO: &[&str] = &[
    r#"sum(rate(container_fs_reads_bytes_total{id="/"}[5m]))"#,
    r#"sum(rate(container_fs_writes_bytes_total{id="/"}[5m]))"#,
    r#"sum(rate(container_fs_reads_total{id="/"}[5m]))"#,
    r#"sum(rate(container_fs_writes_total{id="/"}[5m]))"#,
];

/// Queries for pressure, which must be enabled in the kernel.
const PRESSURE: &[&str] = &[
    r#"sum(rate(container_pressure_cpu_waiting_seconds_total{name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_pressure_cpu_stalled_seconds_total{name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_pressure_io_waiting_seconds_total{name=~".+"}[5m])) by (name)"#,
    r#"sum(rate(container_pressure_io_stalled_seconds_total{name=~".+"}[5m])) by (name)"#,
];

#[test]
fn common_dashboards_show_fifty_containers() {
    for program in ["prometheus", "promtool"] {
        if !crate::support::is_installed(program) {
            return crate::support::skip(program);
        }
    }
    if !prometheus_tools::has_strict_parser() {
        return crate::support::skip("Debian's python3-prometheus-client");
    }
    let Some(docker) = Engine::docker("boards") else {
        return;
    };
    start_containers(&docker);
    let dir = TempDir::new("boards");
    let flags = [
        format!("--engine.socket={}", docker.socket_url()),
        "--collector.container_processes".to_owned(),
        "--collector.container_processes.tasks-state=true".to_owned(),
    ];
    let exporter = ServerProcess::start_exporter(&flags, &dir.0);
    wait_until("all have names", || {
        let metrics = exporter.metrics_text();
        let is_named =
            |line: &&str| line.starts_with("container_last_seen{") && line.contains("name=\"box-");
        (metrics.lines().filter(is_named).count() == CONTAINERS).then_some(())
    });
    assert_promtool_lint(
        &exporter.metrics_text(),
        TOLERATED_LINTS,
        "with fifty containers",
    );
    assert_strict_parse(&exporter.openmetrics_text(), "with fifty containers");

    let job = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
        scrape_configs:\n\
        - {{job_name: strata, static_configs: [{{targets: ['{}']}}]}}\n",
        exporter.address
    );
    let prometheus = prometheus_tools::start_prometheus(&dir, &job);
    wait_until("five good scrapes", || {
        let good = query_values(&prometheus, "sum_over_time(up[1m]) >= 5 and up == 1");
        (!good.is_empty()).then_some(())
    });
    assert_eq!(scrape_warnings(&prometheus, "strata"), Vec::<String>::new());
    let log = exporter.log();
    assert!(!log.contains("level=error"), "{log}");

    // Each container exactly once, for both usual selectors of containers.
    for ours in [r#"name=~"box-.+""#, r#"image!="", name=~"box-.*""#] {
        for family in ["container_last_seen", "container_memory_usage_bytes"] {
            let count = query_values(&prometheus, &format!("count({family}{{{ours}}})"));
            assert_eq!(count, [50.0], "{family}{{{ours}}}");
        }
    }
    let without_result = |all: &[&'static str]| -> Vec<&'static str> {
        let mut empty = all.to_vec();
        empty.retain(|promql| query_values(&prometheus, promql).is_empty());
        empty
    };
    for (board, queries) in QUERIES {
        assert_eq!(without_result(queries), Vec::<&str>::new(), "{board}");
    }
    for (promql, reason) in WITHOUT_RESULT {
        let result = query_values(&prometheus, promql);
        assert_eq!(result, Vec::<f64>::new(), "{promql}, though {reason}");
    }
    let group = CgroupReader::for_pid(docker.pid("box-0"));
    for (queries, is_counted) in [
        (BLOCK_IO, group.block_io().is_some()),
        (PRESSURE, group.has_pressure()),
    ] {
        let expected = if is_counted { &[] } else { queries };
        assert_eq!(without_result(queries), expected);
    }
}

/// Starts the containers a few at a time, all with limits and with the labels that dashboards
/// select by.
fn start_containers(docker: &Engine) {
    const AT_A_TIME: usize = 4;
    thread::scope(|scope| {
        for first in 0..AT_A_TIME {
            scope.spawn(move || {
                for number in (first..CONTAINERS).step_by(AT_A_TIME) {
                    let group = if number % 2 == 0 { "monitoring" } else { "" };
                    let label = |key: &str, value: &str| format!("--label={key}={value}");
                    let mut flags: Vec<String> =
                        ["--memory=64m", "--cpus=0.5"].map(String::from).into();
                    flags.extend([
                        label("com.docker.compose.project", "shop"),
                        label("com.docker.compose.service", "till"),
                        label("com.docker.swarm.node.id", "node"),
                        label("com.docker.swarm.service.name", "till"),
                        label("com.docker.swarm.task.name", &format!("till.{number}")),
                        label("com.docker.stack.namespace", "shop"),
                    ]);
                    if !group.is_empty() {
                        flags.push(label("org.label-schema.group", group));
                    }
                    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                    let load = ["sh", "-c", "while sleep 1; do :; done"];
                    docker.start_container(&format!("box-{number}"), &flags, &load);
                }
            });
        }
    });
}
