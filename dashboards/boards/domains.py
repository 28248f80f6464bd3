"""libvirt domains: state, problems and resource usage."""

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
    table,
    stat,
    top_rates,
    query_variable,
    value_mappings,
)

BY = "by (instance, domain)"
DISK = "by (instance, domain, target_device)"
LEGEND = "{{instance}} {{domain}}"
DEVICE = LEGEND + " {{target_device}}"

VCPUS = f"max {BY} (libvirt_domain_info_virtual_cpus{{@}})"
CPU = (
    f"max {BY} (rate(libvirt_domain_info_cpu_time_seconds_total{{@}}[$__rate_interval])) / {VCPUS}"
)
STEAL = f"""sum {BY} (rate(libvirt_domain_vcpu_delay_seconds_total{{@}}[$__rate_interval]))
    / {VCPUS}"""
RUNNING = 'max by (job, instance, domain) (libvirt_domain_state{@, state="running"} == 1)'


def top(expr: str, legend: str = LEGEND) -> list[Query]:
    return grafana.top(expr, legend)


def paired_rates(
    first: str, second: str, suffixes: tuple[str, str], by: str = DISK, legend: str = DEVICE
) -> list[Query]:
    """The top devices by each of two counters, as rates."""
    return top_rates(f"sum {by}", legend, first, second, suffixes)


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
        stat(
            "libvirt",
            "Whether libvirt responds on all selected hosts. Domain metrics of a host are"
            " missing while its libvirt is down.",
            "min(libvirt_up{@target})",
            "short",
            RED_BELOW_ONE,
            mappings=value_mappings((0, "down", "red"), (1, "up", "green")),
        ),
        stat("Running", "Number of running domains.", count("running"), "short", decimals=0),
        stat(
            "Paused",
            "Number of paused domains: paused by a user, or by QEMU because a disk failed or is"
            " full. The table shows the reason.",
            count("paused"),
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Crashed",
            "Number of domains in state crashed.",
            count("crashed"),
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Shut off",
            "Number of defined domains that are shut off.",
            count("shutoff"),
            "short",
            decimals=0,
        ),
        stat(
            "Unresponsive",
            "Number of domains for which libvirt does not respond, or did not respond in time.",
            "sum((libvirt_domain_stuck{@} + libvirt_domain_timed_out{@}) > bool 0)",
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Disk errors",
            "Disk I/O errors reported by the hypervisor in the selected time range.",
            "sum(increase(libvirt_domain_block_io_errors_total{@}[$__range]))",
            "short",
            RED_FROM_ONE,
            decimals=0,
            instant=True,
        ),
        stat(
            "Crashes",
            "Domain crashes in the selected time range, including domains that were restarted.",
            "sum(increase(libvirt_domain_crashes_total{@}[$__range]))",
            "short",
            RED_FROM_ONE,
            decimals=0,
            instant=True,
        ),
        stat(
            "Alerts firing",
            "Number of firing domain alerts for the selected targets. Also 0 if no rules are"
            " loaded.",
            'count(ALERTS{@target, alertname=~"Domain.*", alertstate="firing"}) or vector(0)',
            "short",
            RED_FROM_ONE,
            width=4,
            decimals=0,
        ),
        stat(
            "CPU overcommit",
            "Virtual CPUs of running domains as a fraction of the host CPUs. Above 100 % the"
            " hosts are overcommitted.",
            f"""sum(max by (job, instance, domain) (libvirt_domain_info_virtual_cpus{{@}})
                and {RUNNING}) / sum(max by (instance) (machine_cpu_cores{{@target}}))""",
            "percentunit",
            high_is_bad(2, 4),
            width=5,
        ),
        stat(
            "Memory overcommit",
            "Memory assigned to domains as a fraction of the host memory. Above 100 % the hosts"
            " are overcommitted.",
            """sum(max by (instance, domain) (libvirt_domain_info_memory_usage_bytes{@}))
                / sum(max by (instance) (machine_memory_bytes{@target}))""",
            "percentunit",
            high_is_bad(0.9, 1),
            width=5,
        ),
        stat(
            "Highest steal",
            "Fraction of time in which the virtual CPUs of a domain waited for a host CPU. The"
            " worst domain.",
            f"max({STEAL})",
            "percentunit",
            high_is_bad(0.05, 0.2),
            width=5,
        ),
        stat(
            "Highest memory usage",
            "Memory used by a domain, in per cent of its memory, as reported by its balloon"
            " driver. The worst domain.",
            "max(libvirt_domain_memory_stats_used_percent{@})",
            "percent",
            high_is_bad(85, 95),
            width=5,
            no_value="no data",
        ),
        table(
            "Domains",
            "One row per domain. Click a name to select the domain.",
            [
                Query(
                    f"max {BY} (libvirt_domain_info_vstate{{@}})",
                    column="State",
                    unit="short",
                    mappings=value_mappings(
                        (0, "unknown", "yellow"),
                        (1, "running", "green"),
                        (2, "blocked", "green"),
                        (3, "paused", "yellow"),
                        (4, "shutting down", "yellow"),
                        (5, "shut off", "blue"),
                        (6, "crashed", "red"),
                        (7, "suspended", "blue"),
                    ),
                ),
                Query("max by (instance, domain, reason) (libvirt_domain_info_state_reason{@})"),
                Query("max by (instance, domain, uuid, title) (libvirt_domain_info{@})"),
                Query(
                    "max by (instance, domain, project_name, flavor_name)"
                    " (libvirt_domain_openstack_info{@})"
                ),
                Query(f"max {BY} (libvirt_domain_uptime_seconds{{@}})", column="Uptime", unit="s"),
                Query(VCPUS, column="vCPUs", unit="short"),
                Query(CPU, column="CPU", unit="percentunit", thresholds=high_is_bad(0.8, 0.95)),
                Query(STEAL, column="Steal", unit="percentunit", thresholds=high_is_bad(0.05, 0.2)),
                Query(
                    f"max {BY} (libvirt_domain_info_memory_usage_bytes{{@}})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max {BY} (libvirt_domain_memory_stats_used_percent{{@}})",
                    column="Memory used",
                    unit="percent",
                    thresholds=high_is_bad(85, 95),
                ),
                Query(
                    f"sum {BY} (libvirt_domain_block_stats_capacity_bytes{{@}})",
                    column="Disks",
                    unit="bytes",
                ),
                Query(
                    f"""max {BY} (libvirt_domain_stuck{{@}} + libvirt_domain_timed_out{{@}}
                        + libvirt_domain_stats_partial{{@}})""",
                    column="Responds",
                    unit="short",
                    mappings=value_mappings(
                        (0, "yes", "transparent"),
                        (1, "partially", "yellow"),
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
                    "Select only this one",
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
        timeseries(
            "CPU",
            "CPU time of a domain and its emulator threads, as a fraction of its virtual CPUs."
            " Top domains only.",
            top(CPU),
            "percentunit",
        ),
        timeseries(
            "Steal",
            "Fraction of time in which the virtual CPUs of a domain waited for a host CPU. High"
            " values mean an overcommitted host or a CPU quota. Top domains only.",
            top(STEAL),
            "percentunit",
        ),
    ],
)

VIRTUAL_CPUS = Row(
    "Virtual CPUs",
    [
        timeseries(
            "Virtual CPU usage",
            "Fraction of time in which each virtual CPU ran. Top virtual CPUs only.",
            top(
                """sum by (instance, domain, vcpu)
                    (rate(libvirt_domain_vcpu_time_seconds_total{@}[$__rate_interval]))""",
                LEGEND + " vCPU {{vcpu}}",
            ),
            "percentunit",
        ),
        timeseries(
            "I/O wait",
            "Fraction of time in which each virtual CPU waited for I/O. No data if"
            " kernel.sched_schedstats is off on the host.",
            top(
                """sum by (instance, domain, vcpu)
                    (rate(libvirt_domain_vcpu_wait_seconds_total{@}[$__rate_interval]))""",
                LEGEND + " vCPU {{vcpu}}",
            ),
            "percentunit",
        ),
        timeseries(
            "User and system CPU",
            "Host CPU time of a domain in user mode, including its virtual CPUs, in cores;"
            " below zero: in the host's kernel. Top domains only.",
            paired_rates(
                "libvirt_domain_cpu_user_seconds_total",
                "libvirt_domain_cpu_system_seconds_total",
                ("user", "system"),
                BY,
                LEGEND,
            ),
            "short",
            mirrored="/ system$/",
        ),
        timeseries(
            "VM exits",
            "VM exits per second, summed over the virtual CPUs of a domain. No data without KVM"
            " statistics in libvirt. Top domains only.",
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
        timeseries(
            "Memory usage",
            "Memory used by a domain, in per cent of its memory, as reported by its balloon"
            " driver. Near 100 % the domain swaps. Top domains only.",
            top(f"max {BY} (libvirt_domain_memory_stats_used_percent{{@}})"),
            "percent",
            max_value=100,
            thresholds=high_is_bad(85, 95),
        ),
        timeseries(
            "Assigned and resident memory",
            "Memory assigned to a domain, and resident memory of its QEMU process on the host,"
            " in bytes. Top domains only.",
            [
                Query(
                    f"topk($top, max {BY} (libvirt_domain_info_memory_usage_bytes{{@}}))",
                    LEGEND + " assigned",
                ),
                Query(
                    f"topk($top, max {BY} (libvirt_domain_memory_stats_rss_bytes{{@}}))",
                    LEGEND + " resident",
                ),
            ],
            "bytes",
        ),
        timeseries(
            "Balloon",
            "Memory that the balloon reclaimed from a domain, in bytes. Top domains only.",
            top(
                f"""max {BY} (libvirt_domain_info_maximum_memory_bytes{{@}})
                    - max {BY} (libvirt_domain_info_memory_usage_bytes{{@}})"""
            ),
            "bytes",
        ),
        timeseries(
            "Swapping in domains",
            "Bytes per second swapped in by domains; below zero: swapped out. Reported by the"
            " balloon driver.",
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
            mirrored="/ out$/",
        ),
        timeseries(
            "Page cache of domains",
            "Page cache inside domains, in bytes, as reported by the balloon driver. Top"
            " domains only.",
            top(f"max {BY} (libvirt_domain_memory_stats_disk_caches_bytes{{@}})"),
            "bytes",
        ),
        timeseries(
            "Major page faults in domains",
            "Major page faults per second (faults that read from disk), as reported by the"
            " balloon driver.",
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
        timeseries(
            "Throughput",
            "Bytes read per second; below zero: written. Top disks only.",
            paired_rates(
                "libvirt_domain_block_stats_read_bytes_total",
                "libvirt_domain_block_stats_write_bytes_total",
                ("read", "written"),
            ),
            "Bps",
            mirrored="/ written$/",
        ),
        timeseries(
            "Requests",
            "Read requests per second; below zero: write requests. Top disks only.",
            paired_rates(READS, WRITES, ("reads", "writes")),
            "iops",
            mirrored="/ writes$/",
        ),
        timeseries(
            "Request latency",
            "Average duration of a read, write or flush request, in seconds. Slowest disks only.",
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
        timeseries(
            "Request size",
            "Average size of a read or write request, in bytes. Top disks only.",
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
        timeseries(
            "Errors",
            "I/O errors per interval, reported by the hypervisor. Any error is a fault.",
            [
                Query(
                    f"""sum {DISK}
                        (increase(libvirt_domain_block_io_errors_total{{@}}[$__rate_interval])) > 0""",
                    DEVICE,
                )
            ],
            "short",
        ),
        timeseries(
            "Allocated disk space",
            "Space allocated for a disk on the host, as a fraction of the disk's capacity. A"
            " thin disk grows towards 100 %.",
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
        timeseries(
            "Throughput",
            "Bytes received per second by domains; below zero: sent. Top interfaces only.",
            paired_rates(
                "libvirt_domain_interface_stats_receive_bytes_total",
                "libvirt_domain_interface_stats_transmit_bytes_total",
                ("received", "sent"),
            ),
            "Bps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Packets",
            "Packets received per second by domains; below zero: sent. Top interfaces only.",
            paired_rates(
                "libvirt_domain_interface_stats_receive_packets_total",
                "libvirt_domain_interface_stats_transmit_packets_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Drops",
            "Packets to domains dropped per second, mostly because the domain did not process"
            " them fast enough; below zero: packets from domains.",
            paired_rates(
                "libvirt_domain_interface_stats_receive_drops_total",
                "libvirt_domain_interface_stats_transmit_drops_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Errors",
            "Errored packets to domains per second; below zero: from domains.",
            paired_rates(
                "libvirt_domain_interface_stats_receive_errors_total",
                "libvirt_domain_interface_stats_transmit_errors_total",
                ("received", "sent"),
            ),
            "pps",
            mirrored="/ sent$/",
        ),
    ],
)

HOST = Row(
    "Hosts, pools and networks",
    [
        timeseries(
            "Domains by state",
            "Number of domains by state.",
            [Query("sum by (state) (libvirt_domain_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        timeseries(
            "Starts, stops and crashes",
            "Domain starts, stops and crashes per interval.",
            [
                Query("sum(increase(libvirt_domain_starts_total{@}[$__rate_interval]))", "starts"),
                Query("sum(increase(libvirt_domain_stops_total{@}[$__rate_interval]))", "stops"),
                Query(
                    "sum(increase(libvirt_domain_crashes_total{@}[$__rate_interval]))", "crashes"
                ),
            ],
            "short",
        ),
        table(
            "Storage pools",
            "State and usage of storage pools.",
            [
                Query(
                    "max by (instance, storage_pool) (libvirt_storage_pool_state{@target})",
                    column="State",
                    unit="short",
                    mappings=value_mappings(
                        (0, "inactive", "yellow"),
                        (1, "building", "blue"),
                        (2, "running", "green"),
                        (3, "degraded", "red"),
                        (4, "inaccessible", "red"),
                    ),
                ),
                Query(
                    """max by (instance, storage_pool) (libvirt_storage_pool_allocation_bytes{@target}
                        / (libvirt_storage_pool_capacity_bytes{@target} > 0))""",
                    column="Used",
                    unit="percentunit",
                    thresholds=high_is_bad(0.85, 0.95),
                ),
                Query(
                    "max by (instance, storage_pool) (libvirt_storage_pool_available_bytes{@target})",
                    column="Available",
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
            "State of libvirt's virtual networks.",
            [
                Query(
                    "max by (instance, network) (libvirt_network_active{@target})",
                    column="State",
                    unit="short",
                    mappings=value_mappings((0, "down", "yellow"), (1, "up", "green")),
                ),
                Query("max by (instance, network, bridge) (libvirt_network_info{@target})"),
            ],
            labels={"instance": "Instance", "network": "Network", "bridge": "Bridge"},
            sort="Network",
            descending=False,
            width=12,
            height=8,
        ),
        timeseries(
            "Slowest libvirt responses",
            "Time libvirt took to respond about a domain during a scrape, in seconds. Slowest"
            " domains only.",
            top(f"max {BY} (libvirt_domain_scrape_duration_seconds{{@}})"),
            "s",
        ),
        timeseries(
            "Migration and other jobs",
            "Remaining bytes of a domain's job.",
            [Query(f"max {BY} (libvirt_domain_job_info_data_remaining_bytes{{@}}) > 0", LEGEND)],
            "bytes",
        ),
    ],
)

DASHBOARD = Dashboard(
    uid="strata-domains",
    title="Strata / Domains",
    description="libvirt domains: state, problems and resource usage.",
    target_metric="libvirt_up",
    matchers='domain=~"$domain"',
    variables=[
        query_variable(
            "domain",
            "Domain",
            "Domain name.",
            'label_values(libvirt_domain_info_vstate{job=~"$job", instance=~"$instance"}, domain)',
        ),
        TOP,
    ],
    rows=[STATE, CPUS, VIRTUAL_CPUS, MEMORY, BLOCK, NETWORK, HOST],
)
