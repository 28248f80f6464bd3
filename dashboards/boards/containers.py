"""Containers: state, problems and resource usage.

`name=~".+"` selects containers among all cgroups. There is no variable for the engine: container
series have no engine label.
"""

from functools import partial

import grafana
from grafana import (
    RED_BELOW_ONE,
    YELLOW_FROM_ONE,
    RED_FROM_ONE,
    TOP,
    Dashboard,
    Query,
    Row,
    high_is_bad,
    timeseries,
    threshold_steps,
    table,
    stat,
    top_rates,
    query_variable,
    value_mappings,
)

BY = "by (instance, name)"
BY_CONTAINER = "by (instance, name, image, container_label_com_docker_compose_project)"
LEGEND = "{{instance}} {{name}}"

CPU = f"sum {BY} (rate(container_cpu_usage_seconds_total{{@}}[$__rate_interval]))"
THROTTLED = f"""sum {BY} (rate(container_cpu_cfs_throttled_periods_total{{@}}[$__rate_interval]))
    / (sum {BY} (rate(container_cpu_cfs_periods_total{{@}}[$__rate_interval])) > 0)"""
# CPU quota, in cores.
QUOTA = f"sum {BY} (container_spec_cpu_quota{{@}} / container_spec_cpu_period{{@}})"
MEMORY_OF_LIMIT = "container_memory_working_set_bytes{@} / container_memory_limit_bytes{@}"


def top(expr: str, legend: str = LEGEND) -> list[Query]:
    return grafana.top(expr, legend)


paired_rates = partial(top_rates, f"sum {BY}", LEGEND)
pressure = partial(top_rates, f"max {BY}", LEGEND, suffixes=("some", "all"))


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        stat(
            "Running",
            "Number of running containers.",
            'sum(container_state{@, state="running"})',
            "short",
            decimals=0,
        ),
        stat(
            "Not running",
            "Number of exited, dead and never started containers. Some may be finished as"
            " intended.",
            'sum(container_state{@, state=~"exited|dead|created"})',
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Restarting",
            "Number of containers waiting for a restart by their engine. They crash repeatedly.",
            'sum(container_state{@, state="restarting"})',
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Restarts",
            "Container restarts by the engine's restart policy in the selected time range.",
            "sum(increase(container_restarts_total{@}[$__range]))",
            "short",
            threshold_steps((None, "green"), (1, "yellow"), (4, "red")),
            decimals=0,
            instant=True,
        ),
        stat(
            "Unhealthy",
            "Number of containers whose health check fails.",
            'sum(container_health{@, status="unhealthy"})',
            "short",
            RED_FROM_ONE,
            decimals=0,
            no_value="no checks",
        ),
        stat(
            "OOM kills",
            "OOM kills in containers in the selected time range.",
            "sum(increase(container_oom_events_total{@}[$__range]))",
            "short",
            RED_FROM_ONE,
            decimals=0,
            instant=True,
        ),
        stat(
            "Near memory limit",
            "Number of containers whose working set is above 90 % of their memory limit.",
            f"sum({MEMORY_OF_LIMIT} > bool 0.9)",
            "short",
            RED_FROM_ONE,
            decimals=0,
            no_value="no limits",
        ),
        stat(
            "Engines",
            "Whether all container engines are connected. While one is down, its containers"
            " keep their last known names and states.",
            "min(strata_engine_up{@target})",
            "short",
            RED_BELOW_ONE,
            mappings=value_mappings((0, "down", "red"), (1, "up", "green")),
            no_value="none",
        ),
        stat(
            "Alerts firing",
            "Number of firing container alerts for the selected targets. Also 0 if no rules are"
            " loaded.",
            'count(ALERTS{@target, alertname=~"Container.*", alertstate="firing"}) or vector(0)',
            "short",
            RED_FROM_ONE,
            width=3,
            decimals=0,
        ),
        stat(
            "Throttled",
            "Number of containers throttled in more than a quarter of their CFS periods.",
            f"sum({THROTTLED} > bool 0.25)",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
            no_value="no quotas",
        ),
        stat(
            "CPU used",
            "CPU usage of all selected containers, in cores, and CPUs of their machines.",
            [
                Query("sum(rate(container_cpu_usage_seconds_total{@}[$__rate_interval]))", "used"),
                Query("sum(max by (instance) (machine_cpu_cores{@target}))", "total"),
            ],
            "short",
            width=5,
            decimals=2,
        ),
        stat(
            "Memory used",
            "Working sets of all selected containers, and memory of their machines, in bytes.",
            [
                Query("sum(container_memory_working_set_bytes{@})", "used"),
                Query("sum(max by (instance) (machine_memory_bytes{@target}))", "total"),
            ],
            "bytes",
            width=5,
        ),
        stat(
            "Network",
            "Bits received and sent per second by all selected containers.",
            [
                Query(
                    "sum(rate(container_network_receive_bytes_total{@}[$__rate_interval])) * 8",
                    "received",
                ),
                Query(
                    "sum(rate(container_network_transmit_bytes_total{@}[$__rate_interval])) * 8",
                    "sent",
                ),
            ],
            "bps",
            width=4,
        ),
        stat(
            "Disk",
            "Bytes read and written per second by all selected containers.",
            [
                Query("sum(rate(container_disk_read_bytes_total{@}[$__rate_interval]))", "read"),
                Query(
                    "sum(rate(container_disk_write_bytes_total{@}[$__rate_interval]))", "written"
                ),
            ],
            "Bps",
            width=4,
            no_value="no data",
        ),
        table(
            "Containers",
            "One row per container, most restarts first. Click a name to select the container.",
            [
                Query(
                    f"max {BY_CONTAINER} (container_status{{@}})",
                    column="State",
                    unit="short",
                    mappings=value_mappings(
                        (0, "created", "blue"),
                        (1, "running", "green"),
                        (2, "paused", "yellow"),
                        (3, "restarting", "red"),
                        (4, "removing", "yellow"),
                        (5, "exited", "yellow"),
                        (6, "dead", "red"),
                    ),
                ),
                Query(
                    f"""max {BY_CONTAINER} (container_health{{@, status="unhealthy"}} == 1) * 2
                        or max {BY_CONTAINER} (container_health{{@, status="starting"}} == 1) * 1
                        or max {BY_CONTAINER} (container_health{{@, status="healthy"}} == 1) * 0""",
                    column="Health",
                    unit="short",
                    mappings=value_mappings(
                        (0, "healthy", "green"), (1, "starting", "blue"), (2, "unhealthy", "red")
                    ),
                ),
                Query(
                    f"max {BY_CONTAINER} (container_uptime_seconds{{@}})", column="Uptime", unit="s"
                ),
                Query(
                    f"max {BY_CONTAINER} (increase(container_restarts_total{{@}}[$__range]))",
                    column="Restarts",
                    unit="short",
                    thresholds=threshold_steps((None, "transparent"), (1, "yellow"), (4, "red")),
                ),
                Query(
                    f"max {BY_CONTAINER} (increase(container_oom_events_total{{@}}[$__range]))",
                    column="OOM kills",
                    unit="short",
                    thresholds=threshold_steps((None, "transparent"), (1, "red")),
                ),
                Query(
                    f"max {BY_CONTAINER} (container_exit_code{{@}})",
                    column="Exit code",
                    unit="none",
                    thresholds=threshold_steps((None, "transparent"), (1, "yellow")),
                ),
                Query(
                    f"""sum {BY_CONTAINER}
                        (rate(container_cpu_usage_seconds_total{{@}}[$__rate_interval]))""",
                    column="CPUs",
                    unit="short",
                ),
                Query(
                    f"max {BY_CONTAINER} (container_memory_working_set_bytes{{@}})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max {BY_CONTAINER} (container_memory_limit_bytes{{@}})",
                    column="Limit",
                    unit="bytes",
                ),
                Query(
                    f"max {BY_CONTAINER} ({MEMORY_OF_LIMIT})",
                    column="Memory of limit",
                    unit="percentunit",
                    thresholds=high_is_bad(0.8, 0.9),
                ),
            ],
            labels={
                "instance": "Instance",
                "name": "Name",
                "container_label_com_docker_compose_project": "Project",
                "image": "Image",
            },
            links={
                "Name": (
                    "Select only this one",
                    "/d/strata-containers?${datasource:queryparam}&${job:queryparam}"
                    '&var-instance=${__data.fields["Instance"]}&var-name=${__data.fields["Name"]}'
                    "&${__url_time_range}",
                )
            },
            sort="Restarts",
            height=12,
        ),
    ],
)

OVERVIEW = Row(
    "Overview",
    collapsed=False,
    panels=[
        timeseries("CPU", "CPU usage in cores. Top containers only.", top(CPU), "short"),
        timeseries(
            "Memory",
            "Working set: memory without inactive page cache, in bytes. Top containers only.",
            top(f"max {BY} (container_memory_working_set_bytes{{@}})"),
            "bytes",
        ),
    ],
)

CPUS = Row(
    "CPU",
    [
        timeseries(
            "CPU quota usage",
            "CPU usage as a fraction of the CPU quota. No data for containers without a quota.",
            top(f"{CPU} / {QUOTA}"),
            "percentunit",
            thresholds=high_is_bad(0.8, 0.95),
        ),
        timeseries(
            "Throttled",
            "Fraction of CFS periods in which a container was throttled. Top containers only.",
            top(THROTTLED),
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Peaks",
            "Maximum CPU usage in the window before each scrape, from the exporter's own"
            " samples every few seconds; 100 % is one CPU. Shows peaks between scrapes.",
            top(
                "max by (instance, name, window) (container_cpu_usage_percent_max{@})",
                LEGEND + " {{window}}",
            ),
            "percent",
        ),
        timeseries(
            "User and system CPU",
            "CPU time in user mode, in cores; below zero: in the kernel. Top containers only.",
            paired_rates(
                "container_cpu_user_seconds_total",
                "container_cpu_system_seconds_total",
                ("user", "system"),
            ),
            "short",
            mirrored="/ system$/",
        ),
    ],
)

MEMORY = Row(
    "Memory",
    [
        timeseries(
            "Memory limit usage",
            "Working set as a fraction of the memory limit. Near 100 % the container is OOM"
            " killed. No data for containers without a limit.",
            top(f"max {BY} ({MEMORY_OF_LIMIT})"),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.8, 0.9),
        ),
        timeseries(
            "Peaks",
            "Maximum memory usage, including page cache, in the window before each scrape, from"
            " the exporter's own samples, in bytes. Top containers only.",
            top(
                "max by (instance, name, window) (container_memory_usage_bytes_max{@})",
                LEGEND + " {{window}}",
            ),
            "bytes",
        ),
        timeseries(
            "Anonymous memory",
            "Anonymous memory (heap and stack) in bytes; it can only be reclaimed by swapping."
            " Top containers only.",
            top(f"max {BY} (container_memory_rss{{@}})"),
            "bytes",
        ),
        timeseries(
            "Page cache",
            "Page cache in bytes; it can be reclaimed. Top containers only.",
            top(f"max {BY} (container_memory_cache{{@}})"),
            "bytes",
        ),
        timeseries(
            "Swap",
            "Memory swapped out, in bytes. Top containers only.",
            top(f"max {BY} (container_memory_swap{{@}})"),
            "bytes",
        ),
        timeseries(
            "Memory limit hits",
            "Reclaims per second because memory usage reached the limit.",
            top(f"max {BY} (rate(container_memory_failcnt{{@}}[$__rate_interval]))"),
            "ops",
        ),
        timeseries(
            "Page cache refaults",
            "File pages per second read again soon after they were reclaimed. High values mean"
            " that the memory limit leaves too little page cache.",
            top(
                f"""max {BY}
                    (rate(container_memory_workingset_refault_file_total{{@}}[$__rate_interval]))"""
            ),
            "ops",
        ),
        timeseries(
            "Major page faults",
            "Major page faults per second (faults that read from disk). Top containers only.",
            top(
                f"""max {BY} (rate(container_memory_failures_total{{@,
                    failure_type="pgmajfault", scope="hierarchy"}}[$__rate_interval]))"""
            ),
            "ops",
        ),
    ],
)

NETWORK = Row(
    "Network",
    [
        timeseries(
            "Throughput",
            "Bytes received per second; below zero: sent. Of containers that share a network"
            " namespace only the first is shown; containers in the host's network are not shown."
            " Top containers only.",
            paired_rates(
                "container_network_receive_bytes_total",
                "container_network_transmit_bytes_total",
                ("received", "sent"),
            ),
            "Bps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Packets",
            "Packets received per second; below zero: sent. Top containers only.",
            paired_rates(
                "container_network_receive_packets_total",
                "container_network_transmit_packets_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Drops",
            "Received packets dropped per second; below zero: sent packets. Top containers only.",
            paired_rates(
                "container_network_receive_packets_dropped_total",
                "container_network_transmit_packets_dropped_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Errors",
            "Receive errors per second; below zero: transmit errors. Top containers only.",
            paired_rates(
                "container_network_receive_errors_total",
                "container_network_transmit_errors_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
    ],
)

DISK = Row(
    "Disk",
    [
        timeseries(
            "Throughput",
            "Bytes read from disks per second; below zero: written. No data if the kernel does"
            " not account block I/O, see strata_container_block_io_accounted. Top containers"
            " only.",
            paired_rates(
                "container_disk_read_bytes_total",
                "container_disk_write_bytes_total",
                ("read", "written"),
            ),
            "Bps",
            mirrored="/ written$/",
        ),
        timeseries(
            "Requests",
            "Read requests per second; below zero: write requests. Top containers only.",
            paired_rates(
                "container_disk_read_ops_total",
                "container_disk_write_ops_total",
                ("reads", "writes"),
            ),
            "iops",
            mirrored="/ writes$/",
        ),
        timeseries(
            "Dirty pages",
            "Page cache not yet written to disk, in bytes. Top containers only.",
            top(f"max {BY} (container_memory_file_dirty_bytes{{@}})"),
            "bytes",
        ),
        timeseries(
            "Writable layer",
            "Size of the writable layer, without volumes, in bytes. Requires"
            " --collector.container_size.",
            top(f"max {BY} (container_rw_size_bytes{{@}})"),
            "bytes",
        ),
    ],
)

PRESSURE = Row(
    "Pressure",
    [
        timeseries(
            "CPU",
            "Fraction of time in which some, or all, tasks of a container were ready to run but"
            " had no CPU.",
            pressure(
                "container_pressure_cpu_waiting_seconds_total",
                "container_pressure_cpu_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
        timeseries(
            "Memory",
            "Fraction of time in which some, or all, tasks of a container waited for memory.",
            pressure(
                "container_pressure_memory_waiting_seconds_total",
                "container_pressure_memory_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
        timeseries(
            "I/O",
            "Fraction of time in which some, or all, tasks of a container waited for I/O.",
            pressure(
                "container_pressure_io_waiting_seconds_total",
                "container_pressure_io_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
    ],
)

LIFECYCLE = Row(
    "Tasks and lifecycle",
    [
        timeseries(
            "Tasks",
            "Number of processes and threads. Top containers only.",
            top(f"max {BY} (container_threads{{@}})"),
            "short",
        ),
        timeseries(
            "Pids limit usage",
            "Processes and threads as a fraction of the pids limit. At 100 % no process or"
            " thread can be started.",
            top(f"max {BY} (container_threads{{@}} / container_threads_max{{@}})"),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.8, 0.95),
        ),
        timeseries(
            "Restarts",
            "Container restarts per interval.",
            [
                Query(
                    f"max {BY} (increase(container_restarts_total{{@}}[$__rate_interval])) > 0",
                    LEGEND,
                )
            ],
            "short",
        ),
        timeseries(
            "OOM kills",
            "OOM kills per interval.",
            [
                Query(
                    f"max {BY} (increase(container_oom_events_total{{@}}[$__rate_interval])) > 0",
                    LEGEND,
                )
            ],
            "short",
        ),
        timeseries(
            "Containers by state",
            "Number of containers by state.",
            [Query("sum by (state) (container_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        timeseries(
            "Age of engine data",
            "Time since the engine's container data was last current, in seconds. 0 while the"
            " engine is connected.",
            [Query("strata_engine_cache_age_seconds{@target}", "{{instance}} {{engine}}")],
            "s",
        ),
    ],
)

PROJECT = "container_label_com_docker_compose_project"
NAMED_CONTAINERS = 'container_start_time_seconds{job=~"$job", instance=~"$instance", name=~".+"'

DASHBOARD = Dashboard(
    uid="strata-containers",
    title="Strata / Containers",
    description="Containers of Docker, Podman and other engines: state, problems and resource usage.",
    target_metric="machine_cpu_cores",
    matchers=f'name=~"$name", image=~"$image", {PROJECT}=~"$project"',
    variables=[
        query_variable(
            "project",
            "Project",
            "Compose project. All includes containers without a project.",
            f"label_values({NAMED_CONTAINERS}}}, {PROJECT})",
            ".*",
        ),
        query_variable(
            "image",
            "Image",
            "Container image. All includes containers that no engine knows.",
            f'label_values({NAMED_CONTAINERS}, {PROJECT}=~"$project"}}, image)',
            ".*",
        ),
        query_variable(
            "name",
            "Name",
            "Container name, or the ID of a container that no engine knows.",
            f'label_values({NAMED_CONTAINERS}, {PROJECT}=~"$project", image=~"$image"}}, name)',
        ),
        TOP,
    ],
    rows=[STATE, OVERVIEW, CPUS, MEMORY, NETWORK, DISK, PRESSURE, LIFECYCLE],
)
