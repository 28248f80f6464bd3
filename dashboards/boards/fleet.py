"""All hosts: which is not well, by utilisation, saturation and errors."""

from grafana import (
    NONE_IS_BEST,
    NONE_IS_GOOD,
    TOP,
    Board,
    Query,
    Row,
    high,
    lines,
    low,
    steps,
    table,
    tile,
    to_board,
    top,
    words,
)
from matchers import DISKS, OF_HOSTS, WIRES

BUSY = """(1 - avg by (instance) (sum by (job, instance, cpu)
    (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))))"""
LOAD = """(max by (instance) (node_load5{@}) / count by (instance)
    (sum by (instance, cpu) (rate(node_cpu_seconds_total{@, mode="idle"}[$__rate_interval]))))"""
MEMORY = """max by (instance)
    (1 - node_memory_MemAvailable_bytes{@} / node_memory_MemTotal_bytes{@})"""
FULLEST = f"""max by (instance) ((1 - node_filesystem_avail_bytes{{@, {DISKS}}}
    / node_filesystem_size_bytes{{@, {DISKS}}}) unless node_filesystem_readonly{{@}} == 1)"""
DISK = "max by (instance) (rate(node_disk_io_time_seconds_total{@}[$__rate_interval]))"
TROUBLE = f"""sum by (instance)
    (rate(node_network_receive_errs_total{{@, {WIRES}}}[$__rate_interval])
    + rate(node_network_receive_drop_total{{@, {WIRES}}}[$__rate_interval])
    + rate(node_network_transmit_errs_total{{@, {WIRES}}}[$__rate_interval])
    + rate(node_network_transmit_drop_total{{@, {WIRES}}}[$__rate_interval]))"""


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
        tile(
            "Reached",
            "Targets that Prometheus could scrape just now.",
            f"sum(up{{@}} {OF_HOSTS})",
            "short",
            steps((None, "red"), (1, "green")),
            decimals=0,
        ),
        tile(
            "Not reached",
            "Targets that Prometheus could not scrape just now. What they last said is not here.",
            f"sum((up{{@}} {OF_HOSTS}) == bool 0)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Alerts firing",
            "Alerts of Prometheus' rules that fire for these targets; 0 also where no rules are"
            " loaded.",
            f'count(ALERTS{{@, alertstate="firing"}} {OF_HOSTS}) or vector(0)',
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Short of CPU",
            "Hosts where tasks were kept waiting for a CPU for more than a quarter of the time.",
            f"sum({pressure('cpu')} > bool 0.25)",
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Short of memory",
            "Hosts with less than a tenth of their memory available.",
            f"sum({MEMORY} > bool 0.9)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Disk nearly full",
            "Hosts with a file system that is more than 90 % full.",
            f"sum({FULLEST} > bool 0.9)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Clock adrift",
            "Hosts whose clock nothing keeps right.",
            "sum(node_timex_sync_status{@} == bool 0)",
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Booted",
            "Hosts that were booted in the time range shown.",
            "sum((node_time_seconds{@} - node_boot_time_seconds{@}) < bool $__range_s)",
            "short",
            NONE_IS_BEST,
            decimals=0,
            instant=True,
        ),
        table(
            "Hosts",
            "Each host with what is worst on it. The name leads to the host's own board.",
            [
                Query("max by (instance, nodename) (node_uname_info{@})"),
                Query(
                    f"min by (instance) (up{{@}} {OF_HOSTS})",
                    column="Reached",
                    unit="short",
                    mappings=words((0, "no", "red"), (1, "yes", "green")),
                ),
                Query(
                    f'count by (instance) (ALERTS{{@, alertstate="firing"}} {OF_HOSTS})',
                    column="Alerts",
                    unit="short",
                    steps=NONE_IS_GOOD,
                ),
                Query(BUSY, column="CPU busy", unit="percentunit", steps=high(0.8, 0.95)),
                Query(LOAD, column="Load per CPU", unit="short", steps=high(1, 2)),
                Query(MEMORY, column="Memory used", unit="percentunit", steps=high(0.85, 0.95)),
                Query(FULLEST, column="Fullest disk", unit="percentunit", steps=high(0.85, 0.95)),
                Query(DISK, column="Busiest disk", unit="percentunit", steps=high(0.8, 0.95)),
                Query(TROUBLE, column="Network errors", unit="pps", steps=high(1, 100)),
                Query(
                    "min by (instance) (node_timex_sync_status{@})",
                    column="Clock",
                    unit="short",
                    mappings=words((0, "adrift", "yellow"), (1, "in sync", "green")),
                ),
                Query(
                    "min by (instance) (node_time_seconds{@} - node_boot_time_seconds{@})",
                    column="Uptime",
                    unit="s",
                    steps=steps((None, "yellow"), (900, "transparent")),
                ),
            ],
            labels={"instance": "Instance", "nodename": "Name"},
            links={"Instance": ("This host", to_board("strata-host", ("instance", "Instance")))},
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
            "What fires for these targets now. Empty also where no rules are loaded.",
            [
                Query(
                    f"""count by (alertname, severity, instance, name, domain, mountpoint, device)
                        (ALERTS{{@, alertstate="firing"}} {OF_HOSTS})""",
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
        lines(
            "CPU busy",
            "Part of the time of all CPUs in which they did not idle or wait for I/O; the busiest"
            " hosts.",
            top(BUSY),
            "percentunit",
            most=1,
            colors=high(0.8, 0.95),
        ),
        lines(
            "Waiting for a CPU",
            "Part of the time in which some task was ready to run and had no CPU; the hosts with"
            " most of it.",
            top(pressure("cpu")),
            "percentunit",
        ),
    ],
)

MEMORIES = Row(
    "Memory",
    collapsed=False,
    panels=[
        lines(
            "Memory used",
            "Part of memory that could not be had without swapping; the fullest hosts.",
            top(MEMORY),
            "percentunit",
            most=1,
            colors=high(0.85, 0.95),
        ),
        lines(
            "Waiting for memory",
            "Part of the time in which some task waited for memory; the hosts with most of it.",
            top(pressure("memory")),
            "percentunit",
        ),
    ],
)

DISKS_ROW = Row(
    "Disks",
    [
        lines(
            "Busiest disk",
            "Part of the time in which a host's busiest disk had something to do.",
            top(DISK),
            "percentunit",
            most=1,
        ),
        lines(
            "Waiting for I/O",
            "Part of the time in which some task waited for I/O; the hosts with most of it.",
            top(pressure("io")),
            "percentunit",
        ),
        lines(
            "Fullest file system",
            "Part in use of a host's fullest file system that can be written to.",
            top(FULLEST),
            "percentunit",
            most=1,
            colors=high(0.85, 0.95),
        ),
        lines(
            "Queue",
            "Requests that all disks of a host had on average.",
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
        lines(
            "Received",
            "Bits that a host received on interfaces of hardware; the hosts with most.",
            top(
                f"""sum by (instance)
                    (rate(node_network_receive_bytes_total{{@, {WIRES}}}[$__rate_interval])) * 8"""
            ),
            "bps",
        ),
        lines(
            "Sent",
            "Bits that a host sent on interfaces of hardware; the hosts with most.",
            top(
                f"""sum by (instance)
                    (rate(node_network_transmit_bytes_total{{@, {WIRES}}}[$__rate_interval])) * 8"""
            ),
            "bps",
        ),
        lines(
            "Errors and drops",
            "Packets that were damaged or dropped, in and out; the hosts with most.",
            top(TROUBLE),
            "pps",
        ),
        lines(
            "TCP retransmits",
            "Segments sent again, as part of all sent; the hosts with most.",
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
        lines(
            "OOM kills",
            "Processes killed for want of memory in each step.",
            top("max by (instance) (increase(node_vmstat_oom_kill{@}[$__rate_interval]))"),
            "short",
        ),
        lines(
            "Memory errors",
            "Errors of memory in each step that could not be corrected.",
            top(
                """sum by (instance)
                    (increase(node_edac_uncorrectable_errors_total{@}[$__rate_interval]))"""
            ),
            "short",
        ),
        lines(
            "RAID disks missing",
            "Disks that arrays of a host lack.",
            top("sum by (instance) (node_md_degraded{@})"),
            "short",
        ),
        lines(
            "File systems that are read-only or failed",
            "File systems with a disk below that are read-only or could not be asked.",
            top(
                f"""sum by (instance) (node_filesystem_readonly{{@, {DISKS}}}
                    + node_filesystem_device_error{{@, {DISKS}}})"""
            ),
            "short",
        ),
        lines(
            "Time until a file system is full",
            "By the trend of the last six hours; only those that fill within four days.",
            [
                Query(
                    f"""min by (instance, mountpoint) (node_filesystem_avail_bytes{{@, {DISKS}}}
                        / (deriv(node_filesystem_avail_bytes{{@, {DISKS}}}[6h]) < 0) * -1)
                        < 4 * 86400""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "s",
            colors=low(86400, 2 * 86400),
        ),
    ],
)

BOARD = Board(
    uid="strata-fleet",
    title="Strata / Fleet",
    description="All hosts side by side: which is not well, by utilisation, saturation and errors.",
    known_by="node_uname_info",
    variables=[TOP],
    rows=[STATE, ALERTS, CPU, MEMORIES, DISKS_ROW, NETWORK, ERRORS],
)
