"""Virtual machines: which is not well, and what each uses."""

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

BY = "by (instance, domain)"
DISK = "by (instance, domain, target_device)"
LEGEND = "{{instance}} {{domain}}"
DEVICE = LEGEND + " {{target_device}}"

VCPUS = f"max {BY} (libvirt_domain_info_virtual_cpus{{@}})"
CPU = f"max {BY} (rate(libvirt_domain_info_cpu_time_seconds_total{{@}}[$__rate_interval])) / {VCPUS}"
STEAL = f"""sum {BY} (rate(libvirt_domain_vcpu_delay_seconds_total{{@}}[$__rate_interval]))
    / {VCPUS}"""
RUNNING = 'max by (job, instance, domain) (libvirt_domain_state{@, state="running"} == 1)'


def top(expr: str, legend: str = LEGEND) -> list[Query]:
    return grafana.top(expr, legend)


def both_ways(
    first: str, second: str, words_: tuple[str, str], by: str = DISK, legend: str = DEVICE
) -> list[Query]:
    """The devices with most of two counters, and both of them."""
    return top_rates(f"sum {by}", legend, first, second, words_)


def per_request(total: str, requests: str) -> str:
    return f"""topk($top, sum {DISK} (rate({total}{{@}}[$__rate_interval]))
        / (sum {DISK} (rate({requests}{{@}}[$__rate_interval])) > 0))"""


READS = "libvirt_domain_block_stats_read_requests_total"
WRITES = "libvirt_domain_block_stats_write_requests_total"


def count(state: str) -> str:
    return f'sum(libvirt_domain_state{{@, state="{state}"}})'


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        tile(
            "libvirt",
            "Whether libvirt answers on all hosts chosen. Where it does not, nothing is said of"
            " domains.",
            "min(libvirt_up{@target})",
            "short",
            ALL_IS_GOOD,
            mappings=words((0, "down", "red"), (1, "up", "green")),
        ),
        tile("Running", "Domains that run.", count("running"), "short", decimals=0),
        tile(
            "Paused",
            "Domains that are paused: by somebody, or by QEMU because a disk failed or is full. The"
            " table has the reason.",
            count("paused"),
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Crashed",
            "Domains that crashed and are still in that state.",
            count("crashed"),
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile("Off", "Domains that are defined and do not run.", count("shutoff"), "short", decimals=0),
        tile(
            "Hung",
            "Domains of which a question has no answer, or had none in time.",
            "sum((libvirt_domain_stuck{@} + libvirt_domain_timed_out{@}) > bool 0)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Disk errors",
            "I/O errors of disks in the time range shown that the hypervisor told of.",
            "sum(increase(libvirt_domain_block_io_errors_total{@}[$__range]))",
            "short",
            NONE_IS_GOOD,
            decimals=0,
            instant=True,
        ),
        tile(
            "Crashes",
            "How often domains crashed in the time range shown, those that were started again"
            " among them.",
            "sum(increase(libvirt_domain_crashes_total{@}[$__range]))",
            "short",
            NONE_IS_GOOD,
            decimals=0,
            instant=True,
        ),
        tile(
            "Alerts firing",
            "Alerts about virtual machines that fire for these targets; 0 also where no rules are loaded.",
            'count(ALERTS{@target, alertname=~"Domain.*", alertstate="firing"}) or vector(0)',
            "short",
            NONE_IS_GOOD,
            width=4,
            decimals=0,
        ),
        tile(
            "Virtual CPUs given",
            "Virtual CPUs of running domains for each CPU of their hosts.",
            f"""sum(max by (job, instance, domain) (libvirt_domain_info_virtual_cpus{{@}})
                and {RUNNING}) / sum(max by (instance) (machine_cpu_cores{{@target}}))""",
            "percentunit",
            high(2, 4),
            width=5,
        ),
        tile(
            "Memory given",
            "Memory given to domains, as part of what their hosts have.",
            """sum(max by (instance, domain) (libvirt_domain_info_memory_usage_bytes{@}))
                / sum(max by (instance) (machine_memory_bytes{@target}))""",
            "percentunit",
            high(0.9, 1),
            width=5,
        ),
        tile(
            "Most steal",
            "Part of its time for which the domain that suffers most could have run, while its host"
            " ran something else.",
            f"max({STEAL})",
            "percentunit",
            high(0.05, 0.2),
            width=5,
        ),
        tile(
            "Fullest memory",
            "Part of its memory that the domain with least room could not have without swapping, by"
            " the guest's own account.",
            "max(libvirt_domain_memory_stats_used_percent{@})",
            "percent",
            high(85, 95),
            width=5,
            missing="no reports",
        ),
        table(
            "Domains",
            "Each domain. A click on a name chooses it.",
            [
                Query(
                    f"max {BY} (libvirt_domain_info_vstate{{@}})",
                    column="State",
                    unit="short",
                    mappings=words(
                        (0, "unknown", "yellow"),
                        (1, "running", "green"),
                        (2, "blocked", "green"),
                        (3, "paused", "yellow"),
                        (4, "ending", "yellow"),
                        (5, "off", "blue"),
                        (6, "crashed", "red"),
                        (7, "asleep", "blue"),
                    ),
                ),
                Query("max by (instance, domain, reason) (libvirt_domain_info_state_reason{@})"),
                Query("max by (instance, domain, uuid, title) (libvirt_domain_info{@})"),
                Query(
                    "max by (instance, domain, project_name, flavor_name)"
                    " (libvirt_domain_openstack_info{@})"
                ),
                Query(f"max {BY} (libvirt_domain_uptime_seconds{{@}})", column="Up for", unit="s"),
                Query(VCPUS, column="vCPUs", unit="short"),
                Query(CPU, column="CPU", unit="percentunit", steps=high(0.8, 0.95)),
                Query(STEAL, column="Steal", unit="percentunit", steps=high(0.05, 0.2)),
                Query(
                    f"max {BY} (libvirt_domain_info_memory_usage_bytes{{@}})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max {BY} (libvirt_domain_memory_stats_used_percent{{@}})",
                    column="Used in it",
                    unit="percent",
                    steps=high(85, 95),
                ),
                Query(
                    f"sum {BY} (libvirt_domain_block_stats_capacity_bytes{{@}})",
                    column="Disks",
                    unit="bytes",
                ),
                Query(
                    f"""max {BY} (libvirt_domain_stuck{{@}} + libvirt_domain_timed_out{{@}}
                        + libvirt_domain_stats_partial{{@}})""",
                    column="Answers",
                    unit="short",
                    mappings=words(
                        (0, "whole", "transparent"),
                        (1, "in part", "yellow"),
                        (2, "no", "red"),
                        (3, "no", "red"),
                    ),
                ),
            ],
            labels={
                "instance": "Instance",
                "domain": "Domain",
                "title": "Title",
                "project_name": "Project",
                "flavor_name": "Flavour",
                "reason": "Reason",
                "uuid": "UUID",
            },
            links={
                "Domain": (
                    "Only this one",
                    "/d/strata-domains?${datasource:queryparam}&${job:queryparam}"
                    '&var-instance=${__data.fields["Instance"]}'
                    '&var-domain=${__data.fields["Domain"]}&${__url_time_range}',
                )
            },
            sort="Domain",
            descending=False,
            height=12,
        ),
    ],
)

CPUS = Row(
    "CPU",
    collapsed=False,
    panels=[
        lines(
            "CPU",
            "CPU time of a domain and what serves it, as part of its virtual CPUs; those with most.",
            top(CPU),
            "percentunit",
        ),
        lines(
            "Steal",
            "Part of the time of its virtual CPUs in which a domain could have run, while the host"
            " ran something else; those with most. The host is overcommitted, or a quota holds.",
            top(STEAL),
            "percentunit",
        ),
    ],
)

MORE_CPU = Row(
    "Virtual CPUs",
    [
        lines(
            "Each virtual CPU",
            "Part of its time in which each virtual CPU ran; those with most.",
            top(
                """sum by (instance, domain, vcpu)
                    (rate(libvirt_domain_vcpu_time_seconds_total{@}[$__rate_interval]))""",
                LEGEND + " vCPU {{vcpu}}",
            ),
            "percentunit",
        ),
        lines(
            "Waiting for I/O",
            "Part of its time in which each virtual CPU waited for I/O; absent where the host does"
            " not count it, see kernel.sched_schedstats.",
            top(
                """sum by (instance, domain, vcpu)
                    (rate(libvirt_domain_vcpu_wait_seconds_total{@}[$__rate_interval]))""",
                LEGEND + " vCPU {{vcpu}}",
            ),
            "percentunit",
        ),
        lines(
            "User and system",
            "CPU time on the host in programs and guests, and downwards in the host's kernel; those"
            " with most.",
            both_ways(
                "libvirt_domain_cpu_user_seconds_total",
                "libvirt_domain_cpu_system_seconds_total",
                ("user", "system"),
                BY,
                LEGEND,
            ),
            "short",
            below="/ system$/",
        ),
        lines(
            "Exits",
            "How often a second guests gave way to the host, summed over virtual CPUs; those with"
            " most. Absent where KVM does not count for libvirt.",
            top(
                f"""sum {BY}
                    (rate(libvirt_domain_vcpu_kvm_events_total{{@, stat="exits"}}[$__rate_interval]))"""
            ),
            "ops",
        ),
    ],
)

MEMORY = Row(
    "Memory",
    [
        lines(
            "Used by the guest",
            "Part of the memory it sees that a guest could not have without swapping, by its own"
            " account; those with most.",
            top(f"max {BY} (libvirt_domain_memory_stats_used_percent{{@}})"),
            "percent",
            most=100,
            colors=high(85, 95),
        ),
        lines(
            "Given and held",
            "Memory that a domain was given, and what its host holds in RAM for it, QEMU's own"
            " included; those with most.",
            [
                Query(
                    f"topk($top, max {BY} (libvirt_domain_info_memory_usage_bytes{{@}}))",
                    LEGEND + " given",
                ),
                Query(
                    f"topk($top, max {BY} (libvirt_domain_memory_stats_rss_bytes{{@}}))",
                    LEGEND + " held",
                ),
            ],
            "bytes",
        ),
        lines(
            "Balloon",
            "Memory that the host took back from a domain; those with most.",
            top(
                f"""max {BY} (libvirt_domain_info_maximum_memory_bytes{{@}})
                    - max {BY} (libvirt_domain_info_memory_usage_bytes{{@}})"""
            ),
            "bytes",
        ),
        lines(
            "Swapping in guests",
            "Bytes a second that guests read back from swap, and downwards those swapped out, by"
            " their own account.",
            [
                Query(
                    f"""topk($top, max {BY}
                        (rate(libvirt_domain_memory_stats_swap_in_bytes{{@}}[$__rate_interval])))""",
                    LEGEND + " in",
                ),
                Query(
                    f"""topk($top, max {BY}
                        (rate(libvirt_domain_memory_stats_swap_out_bytes{{@}}[$__rate_interval])))""",
                    LEGEND + " out",
                ),
            ],
            "Bps",
            below="/ out$/",
        ),
        lines(
            "Page cache of guests",
            "Page cache of guests, by their own account; those with most.",
            top(f"max {BY} (libvirt_domain_memory_stats_disk_caches_bytes{{@}})"),
            "bytes",
        ),
        lines(
            "Major page faults of guests",
            "Page faults a second that waited for a disk, by the guests' own account.",
            top(
                f"""max {BY}
                    (rate(libvirt_domain_memory_stats_major_fault_total{{@}}[$__rate_interval]))"""
            ),
            "ops",
        ),
    ],
)

BLOCK = Row(
    "Disks",
    [
        lines(
            "Throughput",
            "Bytes read, and downwards those written; disks with most.",
            both_ways(
                "libvirt_domain_block_stats_read_bytes_total",
                "libvirt_domain_block_stats_write_bytes_total",
                ("read", "written"),
            ),
            "Bps",
            below="/ written$/",
        ),
        lines(
            "Requests",
            "Reads, and downwards writes; disks with most.",
            both_ways(READS, WRITES, ("reads", "writes")),
            "iops",
            below="/ writes$/",
        ),
        lines(
            "Time for a request",
            "How long a read, a write or a flush took on average; the slowest disks.",
            [
                Query(
                    per_request("libvirt_domain_block_stats_read_time_seconds_total", READS),
                    DEVICE + " read",
                ),
                Query(
                    per_request("libvirt_domain_block_stats_write_time_seconds_total", WRITES),
                    DEVICE + " write",
                ),
                Query(
                    per_request(
                        "libvirt_domain_block_stats_flush_time_seconds_total",
                        "libvirt_domain_block_stats_flush_requests_total",
                    ),
                    DEVICE + " flush",
                ),
            ],
            "s",
        ),
        lines(
            "Size of a request",
            "Bytes of a read or a write on average; the disks with the largest.",
            [
                Query(
                    per_request("libvirt_domain_block_stats_read_bytes_total", READS),
                    DEVICE + " read",
                ),
                Query(
                    per_request("libvirt_domain_block_stats_write_bytes_total", WRITES),
                    DEVICE + " write",
                ),
            ],
            "bytes",
        ),
        lines(
            "Errors",
            "I/O errors in each step that the hypervisor told of.",
            [
                Query(
                    f"""sum {DISK}
                        (increase(libvirt_domain_block_io_errors_total{{@}}[$__rate_interval])) > 0""",
                    DEVICE,
                )
            ],
            "short",
        ),
        lines(
            "Room taken on the host",
            "What a disk takes of the host's storage, as part of what the guest sees; a thin disk"
            " grows towards 100 %.",
            top(
                f"""max {DISK} (libvirt_domain_block_stats_allocation_bytes{{@}})
                    / (max {DISK} (libvirt_domain_block_stats_capacity_bytes{{@}}) > 0)""",
                DEVICE,
            ),
            "percentunit",
        ),
    ],
)

NETWORK = Row(
    "Network",
    [
        lines(
            "Throughput",
            "Bytes that guests received, and downwards those they sent; interfaces with most.",
            both_ways(
                "libvirt_domain_interface_stats_receive_bytes_total",
                "libvirt_domain_interface_stats_transmit_bytes_total",
                ("received", "sent"),
            ),
            "Bps",
            below="/ sent$/",
        ),
        lines(
            "Packets",
            "Packets that guests received, and downwards those they sent; interfaces with most.",
            both_ways(
                "libvirt_domain_interface_stats_receive_packets_total",
                "libvirt_domain_interface_stats_transmit_packets_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
        lines(
            "Drops",
            "Packets on the way to guests that were dropped, mostly because they did not take them"
            " fast enough, and downwards those from them.",
            both_ways(
                "libvirt_domain_interface_stats_receive_drops_total",
                "libvirt_domain_interface_stats_transmit_drops_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
        lines(
            "Errors",
            "Damaged packets on the way to guests, and downwards those from them.",
            both_ways(
                "libvirt_domain_interface_stats_receive_errors_total",
                "libvirt_domain_interface_stats_transmit_errors_total",
                ("received", "sent"),
            ),
            "pps",
            below="/ sent$/",
        ),
    ],
)

HOST = Row(
    "Hosts, pools and networks",
    [
        lines(
            "Domains by state",
            "How many domains are in each state.",
            [Query("sum by (state) (libvirt_domain_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        lines(
            "Starts, stops, crashes",
            "How often domains were started, stopped and crashed in each step.",
            [
                Query(
                    "sum(increase(libvirt_domain_starts_total{@}[$__rate_interval]))", "starts"
                ),
                Query("sum(increase(libvirt_domain_stops_total{@}[$__rate_interval]))", "stops"),
                Query(
                    "sum(increase(libvirt_domain_crashes_total{@}[$__rate_interval]))", "crashes"
                ),
            ],
            "short",
        ),
        table(
            "Storage pools",
            "How full pools are.",
            [
                Query(
                    "max by (instance, storage_pool) (libvirt_storage_pool_state{@target})",
                    column="State",
                    unit="short",
                    mappings=words(
                        (0, "inactive", "yellow"),
                        (1, "being built", "blue"),
                        (2, "running", "green"),
                        (3, "part missing", "red"),
                        (4, "out of reach", "red"),
                    ),
                ),
                Query(
                    """max by (instance, storage_pool) (libvirt_storage_pool_allocation_bytes{@target}
                        / (libvirt_storage_pool_capacity_bytes{@target} > 0))""",
                    column="Used",
                    unit="percentunit",
                    steps=high(0.85, 0.95),
                ),
                Query(
                    "max by (instance, storage_pool) (libvirt_storage_pool_available_bytes{@target})",
                    column="Left",
                    unit="bytes",
                ),
            ],
            labels={"instance": "Instance", "storage_pool": "Pool"},
            sort="Used",
            width=12,
            height=8,
        ),
        table(
            "Virtual networks",
            "Whether libvirt's networks are up.",
            [
                Query(
                    "max by (instance, network) (libvirt_network_active{@target})",
                    column="State",
                    unit="short",
                    mappings=words((0, "down", "yellow"), (1, "up", "green")),
                ),
                Query("max by (instance, network, bridge) (libvirt_network_info{@target})"),
            ],
            labels={"instance": "Instance", "network": "Network", "bridge": "Bridge"},
            sort="Network",
            descending=False,
            width=12,
            height=8,
        ),
        lines(
            "Slowest answers",
            "How long libvirt took to answer about a domain in a scrape; the slowest.",
            top(f"max {BY} (libvirt_domain_scrape_duration_seconds{{@}})"),
            "s",
        ),
        lines(
            "Migration and other jobs",
            "Bytes that are left for a domain's job.",
            [Query(f"max {BY} (libvirt_domain_job_info_data_remaining_bytes{{@}}) > 0", LEGEND)],
            "bytes",
        ),
    ],
)

BOARD = Board(
    uid="strata-domains",
    title="Strata / Virtual machines",
    description="libvirt's domains: which is not well, and what each uses.",
    known_by="libvirt_up",
    matchers='domain=~"$domain"',
    variables=[
        values_of(
            "domain",
            "Domain",
            "Names of domains.",
            'label_values(libvirt_domain_info_vstate{job=~"$job", instance=~"$instance"}, domain)',
        ),
        TOP,
    ],
    rows=[STATE, CPUS, MORE_CPU, MEMORY, BLOCK, NETWORK, HOST],
)
