"""All hosts side by side, by utilisation, saturation and errors."""

from grafana import (
    YELLOW_FROM_ONE,
    RED_FROM_ONE,
    TOP,
    Dashboard,
    Query,
    Row,
    high_is_bad,
    timeseries,
    low_is_bad,
    threshold_steps,
    table,
    stat,
    dashboard_url,
    top,
    value_mappings,
)
from matchers import DISK_FILESYSTEMS, HOST_JOBS, PHYSICAL_INTERFACES

BUSY = """(1 - avg by (instance) (sum by (job, instance, cpu)
    (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))))"""
LOAD = """(max by (instance) (node_load5{@}) / count by (instance)
    (sum by (instance, cpu) (rate(node_cpu_seconds_total{@, mode="idle"}[$__rate_interval]))))"""
MEMORY = """max by (instance)
    (1 - node_memory_MemAvailable_bytes{@} / node_memory_MemTotal_bytes{@})"""
FULLEST = f"""max by (instance) ((1 - node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
    / node_filesystem_size_bytes{{@, {DISK_FILESYSTEMS}}}) unless node_filesystem_readonly{{@}} == 1)"""
DISK = "max by (instance) (rate(node_disk_io_time_seconds_total{@}[$__rate_interval]))"
NETWORK_ERRORS = f"""sum by (instance)
    (rate(node_network_receive_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
    + rate(node_network_receive_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
    + rate(node_network_transmit_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
    + rate(node_network_transmit_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval]))"""


def pressure(what: str) -> str:
    names = {
        "cpu": "node_pressure_cpu_waiting_seconds_total",
        "memory": "node_pressure_memory_waiting_seconds_total",
        "io": "node_pressure_io_waiting_seconds_total",
    }
    return f"max by (instance) (rate({names[what]}{{@}}[$__rate_interval]))"


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        stat(
            "Up",
            "Number of targets whose last scrape succeeded.",
            f"sum(up{{@}} {HOST_JOBS})",
            "short",
            threshold_steps((None, "red"), (1, "green")),
            decimals=0,
        ),
        stat(
            "Down",
            "Number of targets whose last scrape failed. Their last values are not shown.",
            f"sum((up{{@}} {HOST_JOBS}) == bool 0)",
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Alerts firing",
            "Number of firing alerts for the selected targets. Also 0 if no rules are loaded.",
            f'count(ALERTS{{@, alertstate="firing"}} {HOST_JOBS}) or vector(0)',
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Short of CPU",
            "Number of hosts where some task waited for a CPU for more than a quarter of the time.",
            f"sum({pressure('cpu')} > bool 0.25)",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Short of memory",
            "Number of hosts with less than 10 % of their memory available.",
            f"sum({MEMORY} > bool 0.9)",
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "File system nearly full",
            "Number of hosts with a file system that is more than 90 % full.",
            f"sum({FULLEST} > bool 0.9)",
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Clock not synchronised",
            "Number of hosts whose clock is not synchronised.",
            "sum(node_timex_sync_status{@} == bool 0)",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Recently booted",
            "Number of hosts that booted in the selected time range.",
            "sum((node_time_seconds{@} - node_boot_time_seconds{@}) < bool $__range_s)",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
            instant=True,
        ),
        table(
            "Hosts",
            "One row per host with its worst values. Click an instance to open its host dashboard.",
            [
                Query("max by (instance, nodename) (node_uname_info{@})"),
                Query(
                    f"min by (instance) (up{{@}} {HOST_JOBS})",
                    column="Up",
                    unit="short",
                    mappings=value_mappings((0, "no", "red"), (1, "yes", "green")),
                ),
                Query(
                    f'count by (instance) (ALERTS{{@, alertstate="firing"}} {HOST_JOBS})',
                    column="Alerts",
                    unit="short",
                    thresholds=RED_FROM_ONE,
                ),
                Query(
                    BUSY, column="CPU busy", unit="percentunit", thresholds=high_is_bad(0.8, 0.95)
                ),
                Query(LOAD, column="Load per CPU", unit="short", thresholds=high_is_bad(1, 2)),
                Query(
                    MEMORY,
                    column="Memory used",
                    unit="percentunit",
                    thresholds=high_is_bad(0.85, 0.95),
                ),
                Query(
                    FULLEST,
                    column="Fullest file system",
                    unit="percentunit",
                    thresholds=high_is_bad(0.85, 0.95),
                ),
                Query(
                    DISK,
                    column="Busiest disk",
                    unit="percentunit",
                    thresholds=high_is_bad(0.8, 0.95),
                ),
                Query(
                    NETWORK_ERRORS,
                    column="Network errors",
                    unit="pps",
                    thresholds=high_is_bad(1, 100),
                ),
                Query(
                    "min by (instance) (node_timex_sync_status{@})",
                    column="Clock",
                    unit="short",
                    mappings=value_mappings(
                        (0, "not synchronised", "yellow"), (1, "synchronised", "green")
                    ),
                ),
                Query(
                    "min by (instance) (node_time_seconds{@} - node_boot_time_seconds{@})",
                    column="Uptime",
                    unit="s",
                    thresholds=threshold_steps((None, "yellow"), (900, "transparent")),
                ),
            ],
            labels={"instance": "Instance", "nodename": "Name"},
            links={
                "Instance": (
                    "Open this host",
                    dashboard_url("strata-host", ("instance", "Instance")),
                )
            },
            sort="Alerts",
            height=12,
        ),
    ],
)

ALERTS = Row(
    "Alerts",
    [
        table(
            "Firing",
            "Alerts firing for the selected targets. Also empty if no rules are loaded.",
            [
                Query(
                    f"""count by (alertname, severity, instance, name, domain, mountpoint, device)
                        (ALERTS{{@, alertstate="firing"}} {HOST_JOBS})""",
                    column="Series",
                    unit="short",
                )
            ],
            labels={
                "severity": "Severity",
                "alertname": "Alert",
                "instance": "Instance",
                "name": "Container",
                "domain": "Domain",
                "mountpoint": "Mount point",
                "device": "Device",
            },
            sort="Severity",
            descending=False,
        )
    ],
)

CPU = Row(
    "CPU",
    collapsed=False,
    panels=[
        timeseries(
            "CPU busy",
            "Fraction of CPU time not spent idle or in iowait. Top hosts only.",
            top(BUSY),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.8, 0.95),
        ),
        timeseries(
            "CPU pressure",
            "Fraction of time in which some task was ready to run but had no CPU. Top hosts only.",
            top(pressure("cpu")),
            "percentunit",
        ),
    ],
)

MEMORY_ROW = Row(
    "Memory",
    collapsed=False,
    panels=[
        timeseries(
            "Memory used",
            "Fraction of memory that is not available without swapping. Top hosts only.",
            top(MEMORY),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.85, 0.95),
        ),
        timeseries(
            "Memory pressure",
            "Fraction of time in which some task waited for memory. Top hosts only.",
            top(pressure("memory")),
            "percentunit",
        ),
    ],
)

DISK_ROW = Row(
    "Disks",
    [
        timeseries(
            "Busiest disk",
            "Fraction of time in which the busiest disk of a host had requests in progress. Top"
            " hosts only.",
            top(DISK),
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "I/O pressure",
            "Fraction of time in which some task waited for I/O. Top hosts only.",
            top(pressure("io")),
            "percentunit",
        ),
        timeseries(
            "Fullest file system",
            "Usage of the fullest writable file system of a host. Top hosts only.",
            top(FULLEST),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.85, 0.95),
        ),
        timeseries(
            "Queue length",
            "Average number of requests queued or in progress on all disks of a host. Top hosts"
            " only.",
            top(
                """sum by (instance)
                    (rate(node_disk_io_time_weighted_seconds_total{@}[$__rate_interval]))"""
            ),
            "short",
        ),
    ],
)

NETWORK = Row(
    "Network",
    [
        timeseries(
            "Received",
            "Bits received per second on physical interfaces. Top hosts only.",
            top(
                f"""sum by (instance)
                    (rate(node_network_receive_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])) * 8"""
            ),
            "bps",
        ),
        timeseries(
            "Sent",
            "Bits sent per second on physical interfaces. Top hosts only.",
            top(
                f"""sum by (instance)
                    (rate(node_network_transmit_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])) * 8"""
            ),
            "bps",
        ),
        timeseries(
            "Errors and drops",
            "Packets with errors and dropped packets per second, received and sent. Top hosts"
            " only.",
            top(NETWORK_ERRORS),
            "pps",
        ),
        timeseries(
            "TCP retransmits",
            "Retransmitted TCP segments as a fraction of all sent segments. Top hosts only.",
            top(
                """max by (instance) (rate(node_netstat_Tcp_RetransSegs{@}[$__rate_interval])
                    / (rate(node_netstat_Tcp_OutSegs{@}[$__rate_interval]) > 0))"""
            ),
            "percentunit",
        ),
    ],
)

ERRORS = Row(
    "Errors",
    [
        timeseries(
            "OOM kills",
            "OOM kills per interval. Top hosts only.",
            top("max by (instance) (increase(node_vmstat_oom_kill{@}[$__rate_interval]))"),
            "short",
        ),
        timeseries(
            "Memory errors",
            "Uncorrected memory errors per interval. Any error is a hardware fault. Top hosts"
            " only.",
            top(
                """sum by (instance)
                    (increase(node_edac_uncorrectable_errors_total{@}[$__rate_interval]))"""
            ),
            "short",
        ),
        timeseries(
            "Missing RAID disks",
            "Number of disks missing from RAID arrays. Above 0 the array is degraded. Top hosts"
            " only.",
            top("sum by (instance) (node_md_degraded{@})"),
            "short",
        ),
        timeseries(
            "Read-only or failed file systems",
            "Number of disk-backed file systems that are read-only or whose usage could not be"
            " read. Top hosts only.",
            top(
                f"""sum by (instance) (node_filesystem_readonly{{@, {DISK_FILESYSTEMS}}}
                    + node_filesystem_device_error{{@, {DISK_FILESYSTEMS}}})"""
            ),
            "short",
        ),
        timeseries(
            "Time until a file system is full",
            "Time until a file system is full, in seconds, by the trend of the last six hours."
            " Only file systems that fill within four days.",
            [
                Query(
                    f"""min by (instance, mountpoint) (node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
                        / (deriv(node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}[6h]) < 0) * -1)
                        < 4 * 86400""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "s",
            thresholds=low_is_bad(86400, 2 * 86400),
        ),
    ],
)

DASHBOARD = Dashboard(
    uid="strata-fleet",
    title="Strata / Fleet",
    description="All hosts side by side, by utilisation, saturation and errors.",
    target_metric="node_uname_info",
    variables=[TOP],
    rows=[STATE, ALERTS, CPU, MEMORY_ROW, DISK_ROW, NETWORK, ERRORS],
)
