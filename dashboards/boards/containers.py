"""Containers: which is not well, and what each uses.

`name=~".+"` is what tells containers from the machine's other control groups. There is no
variable for the engine: series of containers do not carry its name.
"""

from functools import partial

import grafana
from grafana import (
    ALL_IS_GOOD,
    NONE_IS_BEST,
    NONE_IS_GOOD,
    TOP,
    Board,
    Query,
    Row,
    high,
    lines,
    steps,
    table,
    tile,
    top_rates,
    values_of,
    words,
)

BY = "by (instance, name)"
NAMES = "by (instance, name, image, container_label_com_docker_compose_project)"
LEGEND = "{{instance}} {{name}}"

CPU = f"sum {BY} (rate(container_cpu_usage_seconds_total{{@}}[$__rate_interval]))"
THROTTLED = f"""sum {BY} (rate(container_cpu_cfs_throttled_periods_total{{@}}[$__rate_interval]))
    / (sum {BY} (rate(container_cpu_cfs_periods_total{{@}}[$__rate_interval])) > 0)"""
# On the CPU time that its quota allows.
QUOTA = f"sum {BY} (container_spec_cpu_quota{{@}} / container_spec_cpu_period{{@}})"
NEAR = "container_memory_working_set_bytes{@} / container_memory_limit_bytes{@}"


def top(expr: str, legend: str = LEGEND) -> list[Query]:
    return grafana.top(expr, legend)


both_ways = partial(top_rates, f"sum {BY}", LEGEND)
pressure = partial(top_rates, f"max {BY}", LEGEND, words_=("some", "all"))


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        tile(
            "Running",
            "Containers that run.",
            'sum(container_state{@, state="running"})',
            "short",
            decimals=0,
        ),
        tile(
            "Not running",
            "Containers that exited, are dead, or were never started. Some are meant to be over.",
            'sum(container_state{@, state=~"exited|dead|created"})',
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Restarting",
            "Containers that ended and wait to be started anew: those that crash again and again.",
            'sum(container_state{@, state="restarting"})',
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Restarts",
            "How often engines started containers anew in the time range shown, because of their"
            " restart policy.",
            "sum(increase(container_restarts_total{@}[$__range]))",
            "short",
            steps((None, "green"), (1, "yellow"), (4, "red")),
            decimals=0,
            instant=True,
        ),
        tile(
            "Unhealthy",
            "Containers whose health check fails.",
            'sum(container_health{@, status="unhealthy"})',
            "short",
            NONE_IS_GOOD,
            decimals=0,
            missing="no checks",
        ),
        tile(
            "OOM kills",
            "Tasks of containers killed for want of memory in the time range shown.",
            "sum(increase(container_oom_events_total{@}[$__range]))",
            "short",
            NONE_IS_GOOD,
            decimals=0,
            instant=True,
        ),
        tile(
            "Near memory limit",
            "Containers whose working set is above 90 % of their limit.",
            f"sum({NEAR} > bool 0.9)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
            missing="no limits",
        ),
        tile(
            "Engines",
            "Whether all engines are followed. While one is not, its containers go on under the"
            " names and states that were known last.",
            "min(strata_engine_up{@target})",
            "short",
            ALL_IS_GOOD,
            mappings=words((0, "down", "red"), (1, "up", "green")),
            missing="none",
        ),
        tile(
            "Alerts firing",
            "Alerts about containers that fire for these targets; 0 also where no rules are loaded.",
            'count(ALERTS{@target, alertname=~"Container.*", alertstate="firing"}) or vector(0)',
            "short",
            NONE_IS_GOOD,
            width=3,
            decimals=0,
        ),
        tile(
            "Throttled",
            "Containers that were held back by their CPU quota in more than a quarter of its"
            " periods.",
            f"sum({THROTTLED} > bool 0.25)",
            "short",
            NONE_IS_BEST,
            decimals=0,
            missing="no quotas",
        ),
        tile(
            "CPU used",
            "CPUs that all containers chosen use, and that their machines have.",
            [
                Query("sum(rate(container_cpu_usage_seconds_total{@}[$__rate_interval]))", "used"),
                Query("sum(max by (instance) (machine_cpu_cores{@target}))", "there"),
            ],
            "short",
            width=5,
            decimals=2,
        ),
        tile(
            "Memory used",
            "Working sets of all containers chosen, and the memory of their machines.",
            [
                Query("sum(container_memory_working_set_bytes{@})", "used"),
                Query("sum(max by (instance) (machine_memory_bytes{@target}))", "there"),
            ],
            "bytes",
            width=5,
        ),
        tile(
            "Network",
            "Bits that all containers chosen receive and send.",
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
        tile(
            "Disk",
            "Bytes that all containers chosen read and write.",
            [
                Query("sum(rate(container_disk_read_bytes_total{@}[$__rate_interval]))", "read"),
                Query("sum(rate(container_disk_write_bytes_total{@}[$__rate_interval]))", "written"),
            ],
            "Bps",
            width=4,
            missing="not counted",
        ),
        table(
            "Containers",
            "Each container, those with restarts first. A click on a name chooses it.",
            [
                Query(
                    f"max {NAMES} (container_status{{@}})",
                    column="State",
                    unit="short",
                    mappings=words(
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
                    f"""max {NAMES} (container_health{{@, status="unhealthy"}} == 1) * 2
                        or max {NAMES} (container_health{{@, status="starting"}} == 1) * 1
                        or max {NAMES} (container_health{{@, status="healthy"}} == 1) * 0""",
                    column="Health",
                    unit="short",
                    mappings=words(
                        (0, "healthy", "green"), (1, "starting", "blue"), (2, "unhealthy", "red")
                    ),
                ),
                Query(f"max {NAMES} (container_uptime_seconds{{@}})", column="Up for", unit="s"),
                Query(
                    f"max {NAMES} (increase(container_restarts_total{{@}}[$__range]))",
                    column="Restarts",
                    unit="short",
                    steps=steps((None, "transparent"), (1, "yellow"), (4, "red")),
                ),
                Query(
                    f"max {NAMES} (increase(container_oom_events_total{{@}}[$__range]))",
                    column="OOM kills",
                    unit="short",
                    steps=steps((None, "transparent"), (1, "red")),
                ),
                Query(
                    f"max {NAMES} (container_exit_code{{@}})",
                    column="Exit code",
                    unit="none",
                    steps=steps((None, "transparent"), (1, "yellow")),
                ),
                Query(
                    f"""sum {NAMES}
                        (rate(container_cpu_usage_seconds_total{{@}}[$__rate_interval]))""",
                    column="CPUs",
                    unit="short",
                ),
                Query(
                    f"max {NAMES} (container_memory_working_set_bytes{{@}})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max {NAMES} (container_memory_limit_bytes{{@}})", column="Limit", unit="bytes"
                ),
                Query(
                    f"max {NAMES} ({NEAR})",
                    column="Of limit",
                    unit="percentunit",
                    steps=high(0.8, 0.9),
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
                    "Only this one",
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
        lines("CPU", "CPUs that containers use; those with most.", top(CPU), "short"),
        lines(
            "Memory",
            "Working sets of containers: memory less the page cache that was not used lately;"
            " those with most.",
            top(f"max {BY} (container_memory_working_set_bytes{{@}})"),
            "bytes",
        ),
    ],
)

CPUS = Row(
    "CPU",
    [
        lines(
            "Of the quota",
            "CPU time in use as part of what the quota allows; containers without one are absent.",
            top(f"{CPU} / {QUOTA}"),
            "percentunit",
            colors=high(0.8, 0.95),
        ),
        lines(
            "Throttled",
            "Part of the quota's periods in which a container was held back; those with most.",
            top(THROTTLED),
            "percentunit",
            most=1,
        ),
        lines(
            "Peaks",
            "The most CPU time in any of the exporter's own samples, taken every few seconds, in"
            " the window before each scrape; 100 % is one CPU. Peaks between scrapes are seen here"
            " only.",
            top(
                "max by (instance, name, window) (container_cpu_usage_percent_max{@})",
                LEGEND + " {{window}}",
            ),
            "percent",
        ),
        lines(
            "User and system",
            "CPU time of programs, and downwards that of the kernel for them; those with most.",
            both_ways(
                "container_cpu_user_seconds_total",
                "container_cpu_system_seconds_total",
                ("user", "system"),
            ),
            "short",
            below="/ system$/",
        ),
    ],
)

MEMORY = Row(
    "Memory",
    [
        lines(
            "Of the limit",
            "Working sets as part of the limit; containers without one are absent.",
            top(f"max {BY} ({NEAR})"),
            "percentunit",
            most=1,
            colors=high(0.8, 0.9),
        ),
        lines(
            "Peaks",
            "The most memory in any of the exporter's own samples in the window before each"
            " scrape, page cache included; those with most.",
            top(
                "max by (instance, name, window) (container_memory_usage_bytes_max{@})",
                LEGEND + " {{window}}",
            ),
            "bytes",
        ),
        lines(
            "Anonymous memory",
            "Heaps and stacks, which only swap could take; those with most.",
            top(f"max {BY} (container_memory_rss{{@}})"),
            "bytes",
        ),
        lines(
            "Page cache",
            "Pages of files kept in memory, which can be given back; those with most.",
            top(f"max {BY} (container_memory_cache{{@}})"),
            "bytes",
        ),
        lines("Swap", "Memory swapped out; those with most.", top(f"max {BY} (container_memory_swap{{@}})"), "bytes"),
        lines(
            "At the limit",
            "How often a second memory was about to go over the limit, and had to be reclaimed.",
            top(f"max {BY} (rate(container_memory_failcnt{{@}}[$__rate_interval]))"),
            "ops",
        ),
        lines(
            "Read again",
            "Pages of files a second that were read again soon after they had been reclaimed: the"
            " limit leaves too little page cache.",
            top(
                f"""max {BY}
                    (rate(container_memory_workingset_refault_file_total{{@}}[$__rate_interval]))"""
            ),
            "ops",
        ),
        lines(
            "Major page faults",
            "Page faults a second that waited for a disk; those with most.",
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
        lines(
            "Throughput",
            "Bytes received, and downwards those sent; containers with most. Of those that share a"
            " network only the first is here, and none in the host's network.",
            both_ways(
                "container_network_receive_bytes_total",
                "container_network_transmit_bytes_total",
                ("received", "sent"),
            ),
            "Bps",
            below="/ sent$/",
        ),
        lines(
            "Packets",
            "Packets received, and downwards those sent; containers with most.",
            both_ways(
                "container_network_receive_packets_total",
                "container_network_transmit_packets_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
        lines(
            "Drops",
            "Packets dropped on receiving, and downwards on sending; containers with most.",
            both_ways(
                "container_network_receive_packets_dropped_total",
                "container_network_transmit_packets_dropped_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
        lines(
            "Errors",
            "Packets received damaged, and downwards those that could not be sent; containers with"
            " most.",
            both_ways(
                "container_network_receive_errors_total",
                "container_network_transmit_errors_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
    ],
)

DISK = Row(
    "Disk",
    [
        lines(
            "Throughput",
            "Bytes read from disks, and downwards those written; containers with most. Absent where"
            " the kernel does not count them: see strata_container_block_io_accounted.",
            both_ways(
                "container_disk_read_bytes_total",
                "container_disk_write_bytes_total",
                ("read", "written"),
            ),
            "Bps",
            below="/ written$/",
        ),
        lines(
            "Requests",
            "Reads, and downwards writes; containers with most.",
            both_ways(
                "container_disk_read_ops_total",
                "container_disk_write_ops_total",
                ("reads", "writes"),
            ),
            "iops",
            below="/ writes$/",
        ),
        lines(
            "Dirty pages",
            "Page cache that must still be written; containers with most.",
            top(f"max {BY} (container_memory_file_dirty_bytes{{@}})"),
            "bytes",
        ),
        lines(
            "Written layer",
            "What containers wrote beside their volumes. Needs --collector.container_size.",
            top(f"max {BY} (container_rw_size_bytes{{@}})"),
            "bytes",
        ),
    ],
)

PRESSURE = Row(
    "Pressure",
    [
        lines(
            "CPU",
            "Part of the time in which some, or every, task of a container was ready to run and had"
            " no CPU.",
            pressure(
                "container_pressure_cpu_waiting_seconds_total",
                "container_pressure_cpu_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
        lines(
            "Memory",
            "Part of the time in which some, or every, task of a container waited for memory.",
            pressure(
                "container_pressure_memory_waiting_seconds_total",
                "container_pressure_memory_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
        lines(
            "I/O",
            "Part of the time in which some, or every, task of a container waited for I/O.",
            pressure(
                "container_pressure_io_waiting_seconds_total",
                "container_pressure_io_stalled_seconds_total",
            ),
            "percentunit",
            width=8,
        ),
    ],
)

LIFE = Row(
    "Tasks and life",
    [
        lines(
            "Tasks",
            "Processes and threads; containers with most.",
            top(f"max {BY} (container_threads{{@}})"),
            "short",
        ),
        lines(
            "Of the limit on tasks",
            "Processes and threads as part of how many there may be.",
            top(f"max {BY} (container_threads{{@}} / container_threads_max{{@}})"),
            "percentunit",
            most=1,
            colors=high(0.8, 0.95),
        ),
        lines(
            "Restarts",
            "How often a container was started anew in each step.",
            [Query(f"max {BY} (increase(container_restarts_total{{@}}[$__rate_interval])) > 0", LEGEND)],
            "short",
        ),
        lines(
            "OOM kills",
            "Tasks killed for want of memory in each step.",
            [Query(f"max {BY} (increase(container_oom_events_total{{@}}[$__rate_interval])) > 0", LEGEND)],
            "short",
        ),
        lines(
            "Containers by state",
            "How many containers are in each state.",
            [Query("sum by (state) (container_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        lines(
            "Age of what is shown of an engine",
            "How long ago an engine's containers were known to be current: 0 while it is followed.",
            [Query("strata_engine_copy_age_seconds{@target}", "{{instance}} {{engine}}")],
            "s",
        ),
    ],
)

PROJECT = "container_label_com_docker_compose_project"
KNOWN = 'container_start_time_seconds{job=~"$job", instance=~"$instance", name=~".+"'

BOARD = Board(
    uid="strata-containers",
    title="Strata / Containers",
    description="Containers of Docker, Podman and others: which is not well, and what each uses.",
    known_by="machine_cpu_cores",
    matchers=f'name=~"$name", image=~"$image", {PROJECT}=~"$project"',
    variables=[
        values_of(
            "project",
            "Project",
            "Projects of Compose. All has those that are in none, too.",
            f"label_values({KNOWN}}}, {PROJECT})",
            ".*",
        ),
        values_of(
            "image",
            "Image",
            "Images that containers are made of. All has those that no engine knows, too.",
            f'label_values({KNOWN}, {PROJECT}=~"$project"}}, image)',
            ".*",
        ),
        values_of(
            "name",
            "Name",
            "Names of containers; the id of those that no engine knows.",
            f'label_values({KNOWN}, {PROJECT}=~"$project", image=~"$image"}}, name)',
        ),
        TOP,
    ],
    rows=[STATE, OVERVIEW, CPUS, MEMORY, NETWORK, DISK, PRESSURE, LIFE],
)
