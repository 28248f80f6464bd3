"""One host: state, resource usage and hardware.

With several hosts selected, stat panels show the worst value.
"""

from grafana import (
    RED_BELOW_ONE,
    YELLOW_FROM_ONE,
    RED_FROM_ONE,
    Dashboard,
    Query,
    Row,
    bar_gauge,
    high_is_bad,
    timeseries,
    low_is_bad,
    threshold_steps,
    table,
    stat,
    value_mappings,
)
from matchers import DISK_FILESYSTEMS, HOST_JOBS, PHYSICAL_INTERFACES

WORST = " With several hosts selected, the worst value."

STATE = Row(
    "State",
    collapsed=False,
    panels=[
        stat(
            "Targets up",
            "Fraction of the selected targets whose last scrape succeeded. Below 100 % all"
            " other panels are incomplete.",
            f"avg(up{{@}} {HOST_JOBS})",
            "percentunit",
            low_is_bad(0.5, 1),
        ),
        stat(
            "Alerts firing",
            "Number of firing alerts for the selected hosts. Also 0 if no rules are loaded.",
            f'count(ALERTS{{@, alertstate="firing"}} {HOST_JOBS}) or vector(0)',
            "short",
            RED_FROM_ONE,
        ),
        stat(
            "Uptime",
            "Time since the last boot; yellow in the first 15 minutes. With several hosts"
            " selected, the shortest.",
            "min(node_time_seconds{@} - node_boot_time_seconds{@})",
            "s",
            threshold_steps((None, "yellow"), (900, "green")),
            decimals=1,
        ),
        stat(
            "CPU busy",
            "Fraction of CPU time not spent idle or in iowait." + WORST,
            """max(1 - avg by (job, instance) (sum by (job, instance, cpu)
                (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))))""",
            "percentunit",
            high_is_bad(0.8, 0.95),
        ),
        stat(
            "Load per CPU",
            "Load average over 5 minutes (running, runnable and uninterruptible tasks) per CPU. Above"
            " 1 some tasks wait." + WORST,
            """max(node_load5{@} / on (job, instance) count by (job, instance)
                (rate(node_cpu_seconds_total{@, mode="idle"}[$__rate_interval])))""",
            "short",
            high_is_bad(1, 2),
            decimals=2,
        ),
        stat(
            "Memory used",
            "Fraction of memory that is not available without swapping. Page cache does not"
            " count as used." + WORST,
            "max(1 - node_memory_MemAvailable_bytes{@} / node_memory_MemTotal_bytes{@})",
            "percentunit",
            high_is_bad(0.85, 0.95),
        ),
        stat(
            "Swap used",
            "Fraction of swap space in use." + WORST,
            "max(1 - node_memory_SwapFree_bytes{@} / (node_memory_SwapTotal_bytes{@} > 0))",
            "percentunit",
            high_is_bad(0.5, 0.8),
            no_value="no swap",
        ),
        stat(
            "Fullest file system",
            "Usage of the fullest writable file system, including space reserved for root." + WORST,
            f"""max((1 - node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
                / node_filesystem_size_bytes{{@, {DISK_FILESYSTEMS}}})
                unless node_filesystem_readonly{{@}} == 1)""",
            "percentunit",
            high_is_bad(0.85, 0.95),
        ),
        stat(
            "Pressure",
            "Fraction of time in which some task waited for CPU, memory or I/O." + WORST,
            [
                Query(
                    "max(rate(node_pressure_cpu_waiting_seconds_total{@}[$__rate_interval]))", "CPU"
                ),
                Query(
                    "max(rate(node_pressure_memory_waiting_seconds_total{@}[$__rate_interval]))",
                    "memory",
                ),
                Query(
                    "max(rate(node_pressure_io_waiting_seconds_total{@}[$__rate_interval]))", "I/O"
                ),
            ],
            "percentunit",
            high_is_bad(0.25, 0.5),
            width=6,
        ),
        stat(
            "OOM kills",
            "OOM kills in the selected time range.",
            "sum(increase(node_vmstat_oom_kill{@}[$__range]))",
            "short",
            RED_FROM_ONE,
            decimals=0,
            instant=True,
        ),
        stat(
            "Read-only or failed",
            "Number of disk-backed file systems that are read-only or whose usage could not be"
            " read. Some are read-only as intended, such as installation media.",
            f"""sum(node_filesystem_readonly{{@, {DISK_FILESYSTEMS}}} == bool 1)
                + sum(node_filesystem_device_error{{@, {DISK_FILESYSTEMS}}})""",
            "short",
            YELLOW_FROM_ONE,
        ),
        stat(
            "Busiest disk",
            "Fraction of time in which the busiest disk had requests in progress." + WORST,
            "max(rate(node_disk_io_time_seconds_total{@}[$__rate_interval]))",
            "percentunit",
            high_is_bad(0.8, 0.95),
        ),
        stat(
            "Network errors",
            "Packets with errors and dropped packets per second, received and sent, on physical"
            " interfaces.",
            f"""sum(rate(node_network_receive_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
                + rate(node_network_receive_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
                + rate(node_network_transmit_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
                + rate(node_network_transmit_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval]))""",
            "pps",
            high_is_bad(1, 100),
            decimals=1,
        ),
        stat(
            "Clock",
            "Whether the clock is synchronised, for example by an NTP daemon. With several"
            " hosts selected, whether all are.",
            "min(node_timex_sync_status{@})",
            "short",
            RED_BELOW_ONE,
            mappings=value_mappings((0, "not synchronised", "red"), (1, "synchronised", "green")),
        ),
        stat(
            "Missing RAID disks",
            "Number of disks missing from software RAID arrays. Above 0 an array is degraded.",
            "sum(node_md_degraded{@})",
            "short",
            RED_FROM_ONE,
            no_value="no array",
        ),
    ],
)

OVERVIEW = Row(
    "Overview",
    collapsed=False,
    panels=[
        timeseries(
            "CPU by mode",
            "CPU time by mode as a fraction of all CPU time, without idle. Steal is time that"
            " the hypervisor gave to other virtual machines.",
            [
                Query(
                    'avg by (mode) (rate(node_cpu_seconds_total{@, mode!="idle"}[$__rate_interval]))',
                    "{{mode}}",
                )
            ],
            "percentunit",
            stacked=True,
            max_value=1,
        ),
        timeseries(
            "Memory",
            "Memory by use, in bytes. `applications` is everything except page cache, buffers,"
            " slabs and free memory.",
            [
                Query(
                    """sum(node_memory_MemTotal_bytes{@} - node_memory_MemFree_bytes{@}
                        - node_memory_Buffers_bytes{@} - node_memory_Cached_bytes{@}
                        - node_memory_Slab_bytes{@})""",
                    "applications",
                ),
                Query("sum(node_memory_Slab_bytes{@})", "slabs"),
                Query("sum(node_memory_Buffers_bytes{@})", "buffers"),
                Query("sum(node_memory_Cached_bytes{@})", "page cache"),
                Query("sum(node_memory_MemFree_bytes{@})", "free"),
            ],
            "bytes",
            stacked=True,
        ),
        timeseries(
            "Disk throughput",
            "Bytes read per second by disk; below zero: written.",
            [
                Query(
                    "rate(node_disk_read_bytes_total{@}[$__rate_interval])",
                    "{{instance}} {{device}} read",
                ),
                Query(
                    "rate(node_disk_written_bytes_total{@}[$__rate_interval])",
                    "{{instance}} {{device}} written",
                ),
            ],
            "Bps",
            mirrored="/ written$/",
        ),
        timeseries(
            "Network throughput",
            "Bits received per second by physical interface; below zero: sent.",
            [
                Query(
                    f"rate(node_network_receive_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval]) * 8",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"rate(node_network_transmit_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval]) * 8",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "bps",
            mirrored="/ sent$/",
        ),
    ],
)

CPU = Row(
    "CPU",
    [
        timeseries(
            "Usage by CPU",
            "Fraction of time in which each CPU was neither idle nor in iowait. One CPU at 100"
            " % with all others idle is a single-threaded bottleneck.",
            [
                Query(
                    """1 - sum by (job, instance, cpu)
                        (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))""",
                    "{{instance}} CPU {{cpu}}",
                )
            ],
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Load",
            "Load averages (running, runnable and uninterruptible tasks) over 1, 5 and 15"
            " minutes, and the number of CPUs.",
            [
                Query("node_load1{@}", "{{instance}} 1 min"),
                Query("node_load5{@}", "{{instance}} 5 min"),
                Query("node_load15{@}", "{{instance}} 15 min"),
                Query(
                    """count by (instance)
                        (rate(node_cpu_seconds_total{@, mode="idle"}[$__rate_interval]))""",
                    "{{instance}} CPUs",
                ),
            ],
            "short",
        ),
        timeseries(
            "CPU pressure",
            "Fraction of time in which some task was ready to run but had no CPU, and in which"
            " interrupts stalled all tasks.",
            [
                Query(
                    "rate(node_pressure_cpu_waiting_seconds_total{@}[$__rate_interval])",
                    "{{instance}} waiting",
                ),
                Query(
                    "rate(node_pressure_irq_stalled_seconds_total{@}[$__rate_interval])",
                    "{{instance}} stalled by interrupts",
                ),
            ],
            "percentunit",
        ),
        timeseries(
            "Running and blocked tasks",
            "Number of running or runnable tasks, and of tasks blocked on I/O.",
            [
                Query("node_procs_running{@}", "{{instance}} running"),
                Query("node_procs_blocked{@}", "{{instance}} blocked"),
            ],
            "short",
        ),
        timeseries(
            "CPU frequency",
            "Current frequency of each CPU, in hertz, if the machine reports it.",
            [Query("node_cpu_scaling_frequency_hertz{@}", "{{instance}} CPU {{cpu}}")],
            "hertz",
        ),
        timeseries(
            "Thermal throttling",
            "Thermal throttling events per second, by core and package. Above 0 the CPU is too"
            " hot.",
            [
                Query(
                    "rate(node_cpu_core_throttles_total{@}[$__rate_interval])",
                    "{{instance}} core {{package}}/{{core}}",
                ),
                Query(
                    "rate(node_cpu_package_throttles_total{@}[$__rate_interval])",
                    "{{instance}} package {{package}}",
                ),
            ],
            "ops",
        ),
    ],
)

MEMORY = Row(
    "Memory",
    [
        timeseries(
            "Available memory",
            "Memory available without swapping, and total memory, in bytes.",
            [
                Query("node_memory_MemAvailable_bytes{@}", "{{instance}} available"),
                Query("node_memory_MemTotal_bytes{@}", "{{instance}} total"),
            ],
            "bytes",
        ),
        timeseries(
            "Memory pressure",
            "Fraction of time in which some task, and in which all tasks, waited for memory.",
            [
                Query(
                    "rate(node_pressure_memory_waiting_seconds_total{@}[$__rate_interval])",
                    "{{instance}} some",
                ),
                Query(
                    "rate(node_pressure_memory_stalled_seconds_total{@}[$__rate_interval])",
                    "{{instance}} all",
                ),
            ],
            "percentunit",
        ),
        timeseries(
            "Major page faults",
            "Major page faults per second (faults that read from disk).",
            [Query("rate(node_vmstat_pgmajfault{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        timeseries(
            "Swapping",
            "Pages swapped in per second; below zero: swapped out.",
            [
                Query("rate(node_vmstat_pswpin{@}[$__rate_interval])", "{{instance}} in"),
                Query("rate(node_vmstat_pswpout{@}[$__rate_interval])", "{{instance}} out"),
            ],
            "ops",
            mirrored="/ out$/",
        ),
        timeseries(
            "Committed memory",
            "Memory committed to processes, and the commit limit, which applies if"
            " vm.overcommit_memory is 2, in bytes.",
            [
                Query("node_memory_Committed_AS_bytes{@}", "{{instance}} committed"),
                Query("node_memory_CommitLimit_bytes{@}", "{{instance}} limit"),
            ],
            "bytes",
        ),
        timeseries(
            "OOM kills",
            "OOM kills per second.",
            [Query("rate(node_vmstat_oom_kill{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        timeseries(
            "Dirty pages",
            "Page cache waiting to be written, and being written, in bytes.",
            [
                Query("node_memory_Dirty_bytes{@}", "{{instance}} dirty"),
                Query("node_memory_Writeback_bytes{@}", "{{instance}} being written"),
            ],
            "bytes",
        ),
        timeseries(
            "Kernel memory",
            "Reclaimable slabs, unreclaimable slabs, page tables and kernel stacks, in bytes. A"
            " value that only grows is a leak.",
            [
                Query("node_memory_SReclaimable_bytes{@}", "{{instance}} reclaimable slabs"),
                Query("node_memory_SUnreclaim_bytes{@}", "{{instance}} unreclaimable slabs"),
                Query("node_memory_PageTables_bytes{@}", "{{instance}} page tables"),
                Query("node_memory_KernelStack_bytes{@}", "{{instance}} stacks"),
            ],
            "bytes",
        ),
    ],
)

DISK = Row(
    "Disks",
    [
        timeseries(
            "Requests",
            "Reads completed per second; below zero: writes.",
            [
                Query(
                    "rate(node_disk_reads_completed_total{@}[$__rate_interval])",
                    "{{instance}} {{device}} reads",
                ),
                Query(
                    "rate(node_disk_writes_completed_total{@}[$__rate_interval])",
                    "{{instance}} {{device}} writes",
                ),
            ],
            "iops",
            mirrored="/ writes$/",
        ),
        timeseries(
            "Request latency",
            "How long a read or a write took on average, waiting in the queue included.",
            [
                Query(
                    """rate(node_disk_read_time_seconds_total{@}[$__rate_interval])
                        / (rate(node_disk_reads_completed_total{@}[$__rate_interval]) > 0)""",
                    "{{instance}} {{device}} read",
                ),
                Query(
                    """rate(node_disk_write_time_seconds_total{@}[$__rate_interval])
                        / (rate(node_disk_writes_completed_total{@}[$__rate_interval]) > 0)""",
                    "{{instance}} {{device}} write",
                ),
            ],
            "s",
        ),
        timeseries(
            "Utilisation",
            "Fraction of time in which a disk had requests in progress. A disk that processes"
            " requests in parallel is not necessarily saturated at 100 %.",
            [
                Query(
                    "rate(node_disk_io_time_seconds_total{@}[$__rate_interval])",
                    "{{instance}} {{device}}",
                )
            ],
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Queue length",
            "Average number of requests queued or in progress.",
            [
                Query(
                    "rate(node_disk_io_time_weighted_seconds_total{@}[$__rate_interval])",
                    "{{instance}} {{device}}",
                )
            ],
            "short",
        ),
        timeseries(
            "I/O pressure",
            "Fraction of time in which some task, and in which all tasks, waited for I/O.",
            [
                Query(
                    "rate(node_pressure_io_waiting_seconds_total{@}[$__rate_interval])",
                    "{{instance}} some",
                ),
                Query(
                    "rate(node_pressure_io_stalled_seconds_total{@}[$__rate_interval])",
                    "{{instance}} all",
                ),
            ],
            "percentunit",
        ),
        timeseries(
            "Request size",
            "Average size of a read or write request, in bytes.",
            [
                Query(
                    """rate(node_disk_read_bytes_total{@}[$__rate_interval])
                        / (rate(node_disk_reads_completed_total{@}[$__rate_interval]) > 0)""",
                    "{{instance}} {{device}} read",
                ),
                Query(
                    """rate(node_disk_written_bytes_total{@}[$__rate_interval])
                        / (rate(node_disk_writes_completed_total{@}[$__rate_interval]) > 0)""",
                    "{{instance}} {{device}} write",
                ),
            ],
            "bytes",
        ),
    ],
)

MOUNT = "max by (instance, mountpoint, device, fstype)"
FILESYSTEM = Row(
    "File systems",
    [
        table(
            "File systems",
            "Usage of each file system, and the time until it is full by the trend of the last"
            " six hours. Empty if the usage does not grow.",
            [
                Query(
                    f"""{MOUNT} (1 - node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
                        / node_filesystem_size_bytes{{@, {DISK_FILESYSTEMS}}})""",
                    column="Used",
                    unit="percentunit",
                    thresholds=high_is_bad(0.85, 0.95),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}})",
                    column="Available",
                    unit="bytes",
                ),
                Query(
                    f"{MOUNT} (node_filesystem_size_bytes{{@, {DISK_FILESYSTEMS}}})",
                    column="Size",
                    unit="bytes",
                ),
                Query(
                    f"""{MOUNT} (node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
                        / (deriv(node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}[6h]) < 0) * -1)""",
                    column="Full in",
                    unit="s",
                    thresholds=low_is_bad(86400, 4 * 86400),
                ),
                Query(
                    f"""{MOUNT} (1 - node_filesystem_files_free{{@, {DISK_FILESYSTEMS}}}
                        / (node_filesystem_files{{@, {DISK_FILESYSTEMS}}} > 0))""",
                    column="Inodes used",
                    unit="percentunit",
                    thresholds=high_is_bad(0.85, 0.95),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_readonly{{@, {DISK_FILESYSTEMS}}})",
                    column="Read-only",
                    unit="short",
                    mappings=value_mappings((0, "no", "transparent"), (1, "yes", "yellow")),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_device_error{{@, {DISK_FILESYSTEMS}}})",
                    column="Failed",
                    unit="short",
                    mappings=value_mappings((0, "no", "transparent"), (1, "yes", "red")),
                ),
            ],
            labels={
                "instance": "Instance",
                "mountpoint": "Mount point",
                "device": "Device",
                "fstype": "Type",
            },
            sort="Used",
            height=9,
        ),
        timeseries(
            "Space used",
            "Usage of each file system. At 100 % writes fail.",
            [
                Query(
                    f"""1 - node_filesystem_avail_bytes{{@, {DISK_FILESYSTEMS}}}
                        / node_filesystem_size_bytes{{@, {DISK_FILESYSTEMS}}}""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Inodes used",
            "Fraction of each file system's inodes in use. Without a free inode no file can be"
            " created, even if there is free space.",
            [
                Query(
                    f"""1 - node_filesystem_files_free{{@, {DISK_FILESYSTEMS}}}
                        / (node_filesystem_files{{@, {DISK_FILESYSTEMS}}} > 0)""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "percentunit",
            max_value=1,
        ),
    ],
)

NETWORK = Row(
    "Network",
    [
        timeseries(
            "Packets",
            "Packets received per second; below zero: sent.",
            [
                Query(
                    f"rate(node_network_receive_packets_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"rate(node_network_transmit_packets_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "pps",
            mirrored="/ sent$/",
        ),
        timeseries(
            "Link utilisation",
            "Throughput in each direction as a fraction of the link speed. No data for"
            " interfaces without a speed, such as those of virtual machines.",
            [
                Query(
                    f"""rate(node_network_receive_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
                        / (node_network_speed_bytes{{@, {PHYSICAL_INTERFACES}}} > 0)""",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"""rate(node_network_transmit_bytes_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])
                        / (node_network_speed_bytes{{@, {PHYSICAL_INTERFACES}}} > 0)""",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Errors and drops",
            "Receive errors and drops per second; below zero: transmit errors and drops.",
            [
                Query(
                    f"rate(node_network_receive_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} errors",
                ),
                Query(
                    f"rate(node_network_receive_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} drops",
                ),
                Query(
                    f"rate(node_network_transmit_errs_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} errors, sent",
                ),
                Query(
                    f"rate(node_network_transmit_drop_total{{@, {PHYSICAL_INTERFACES}}}[$__rate_interval])",
                    "{{instance}} {{device}} drops, sent",
                ),
            ],
            "pps",
            mirrored="/, sent$/",
        ),
        timeseries(
            "TCP retransmits",
            "Retransmitted TCP segments as a fraction of all sent segments. High values mean"
            " packet loss or an unreachable peer.",
            [
                Query(
                    """rate(node_netstat_Tcp_RetransSegs{@}[$__rate_interval])
                        / (rate(node_netstat_Tcp_OutSegs{@}[$__rate_interval]) > 0)""",
                    "{{instance}}",
                )
            ],
            "percentunit",
        ),
        timeseries(
            "Listen queue drops",
            "Incoming connections dropped per second because the listening program did not"
            " accept them in time.",
            [
                Query(
                    "rate(node_netstat_TcpExt_ListenDrops{@}[$__rate_interval])",
                    "{{instance}} dropped",
                ),
                Query(
                    "rate(node_netstat_TcpExt_ListenOverflows{@}[$__rate_interval])",
                    "{{instance}} queue full",
                ),
            ],
            "ops",
        ),
        timeseries(
            "TCP connections",
            "Number of TCP connections that are open, in TIME-WAIT, or orphaned.",
            [
                Query("node_netstat_Tcp_CurrEstab{@}", "{{instance}} open"),
                Query("node_sockstat_TCP_tw{@}", "{{instance}} TIME-WAIT"),
                Query("node_sockstat_TCP_orphan{@}", "{{instance}} orphaned"),
            ],
            "short",
        ),
        timeseries(
            "Connection tracking",
            "Fraction of the connection tracking table in use. A full table drops packets of"
            " new connections.",
            [
                Query(
                    "node_nf_conntrack_entries{@} / node_nf_conntrack_entries_limit{@}",
                    "{{instance}}",
                )
            ],
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.8, 0.95),
        ),
        timeseries(
            "Softnet drops and squeezes",
            "Packets dropped because a CPU's backlog was full, and polls that ended with"
            " packets left, per second.",
            [
                Query(
                    "sum by (instance) (rate(node_softnet_dropped_total{@}[$__rate_interval]))",
                    "{{instance}} dropped",
                ),
                Query(
                    "sum by (instance) (rate(node_softnet_times_squeezed_total{@}[$__rate_interval]))",
                    "{{instance}} squeezed",
                ),
            ],
            "ops",
        ),
        timeseries(
            "UDP errors",
            "UDP datagrams per second without a listener, with errors, or dropped because a"
            " socket buffer was full.",
            [
                Query(
                    "rate(node_netstat_Udp_NoPorts{@}[$__rate_interval])",
                    "{{instance}} no listener",
                ),
                Query(
                    "rate(node_netstat_Udp_InErrors{@}[$__rate_interval])", "{{instance}} errors"
                ),
                Query(
                    "rate(node_netstat_Udp_RcvbufErrors{@}[$__rate_interval])",
                    "{{instance}} receive buffer full",
                ),
                Query(
                    "rate(node_netstat_Udp_SndbufErrors{@}[$__rate_interval])",
                    "{{instance}} send buffer full",
                ),
            ],
            "pps",
        ),
        timeseries(
            "TCP connections by state",
            "Number of TCP connections by state. Requires --collector.tcpstat.",
            [
                Query(
                    "sum by (state) (node_tcp_connection_states{@})",
                    "{{state}}",
                )
            ],
            "short",
        ),
    ],
)

SYSTEM = Row(
    "System",
    [
        timeseries(
            "Context switches, interrupts, forks",
            "Context switches, interrupts and forks per second.",
            [
                Query(
                    "rate(node_context_switches_total{@}[$__rate_interval])",
                    "{{instance}} context switches",
                ),
                Query("rate(node_intr_total{@}[$__rate_interval])", "{{instance}} interrupts"),
                Query("rate(node_forks_total{@}[$__rate_interval])", "{{instance}} forks"),
            ],
            "ops",
            log=True,
            min_value=None,
        ),
        timeseries(
            "Open files",
            "Open file handles as a fraction of the system limit. At 100 % no program can open"
            " a file.",
            [Query("node_filefd_allocated{@} / node_filefd_maximum{@}", "{{instance}}")],
            "percentunit",
        ),
        timeseries(
            "Clock",
            "Offset of the clock from its reference, and maximum error, in seconds.",
            [
                Query("node_timex_offset_seconds{@}", "{{instance}} offset"),
                Query("node_timex_maxerror_seconds{@}", "{{instance}} maximum error"),
            ],
            "s",
            min_value=None,
        ),
        timeseries(
            "Processes",
            "Number of processes by state. Requires --collector.processes.",
            [Query("sum by (state) (node_processes_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        timeseries(
            "Process and thread limits",
            "Fraction of PIDs and of the thread limit in use. At 100 % no process or thread can"
            " be started. Requires --collector.processes.",
            [
                Query(
                    "node_processes_pids{@} / node_processes_max_processes{@}",
                    "{{instance}} processes",
                ),
                Query(
                    "node_processes_threads{@} / node_processes_max_threads{@}",
                    "{{instance}} threads",
                ),
            ],
            "percentunit",
        ),
        timeseries(
            "Entropy",
            "Available entropy, in bits. Kernels since 5.18 always report 256.",
            [Query("node_entropy_available_bits{@}", "{{instance}}")],
            "short",
        ),
        timeseries(
            "Hung tasks",
            "Tasks per interval that the kernel reported as blocked in uninterruptible sleep"
            " for too long.",
            [Query("increase(node_kernel_hung_tasks_total{@}[$__rate_interval])", "{{instance}}")],
            "short",
        ),
        table(
            "Host details",
            "Host name, kernel, distribution and architecture of each host.",
            [
                Query("max by (instance, nodename, release, machine) (node_uname_info{@})"),
                Query("max by (instance, pretty_name) (node_os_info{@})"),
            ],
            labels={
                "instance": "Instance",
                "nodename": "Name",
                "pretty_name": "Distribution",
                "release": "Kernel",
                "machine": "Architecture",
            },
            sort="Instance",
            descending=False,
            width=12,
            height=8,
        ),
    ],
)

HARDWARE = Row(
    "Hardware",
    [
        timeseries(
            "Temperature",
            "Temperature reported by hardware sensors, in degrees Celsius.",
            [
                Query(
                    """node_hwmon_temp_celsius{@} * on (job, instance, chip) group_left (chip_name)
                        node_hwmon_chip_names{@}""",
                    "{{instance}} {{chip_name}} {{sensor}}",
                ),
                Query("node_thermal_zone_temp{@}", "{{instance}} {{type}} {{zone}}"),
            ],
            "celsius",
            min_value=None,
        ),
        timeseries(
            "Fans",
            "Fan speed, in revolutions per minute.",
            [Query("node_hwmon_fan_rpm{@}", "{{instance}} {{chip}} {{sensor}}")],
            "rotrpm",
        ),
        timeseries(
            "Power",
            "Power consumption of processor packages and memory, in watts, if the processor"
            " reports it.",
            [
                Query(
                    "rate(node_rapl_package_joules_total{@}[$__rate_interval])",
                    "{{instance}} package {{index}}",
                ),
                Query(
                    "rate(node_rapl_dram_joules_total{@}[$__rate_interval])",
                    "{{instance}} memory {{index}}",
                ),
            ],
            "watt",
        ),
        timeseries(
            "Memory errors",
            "Corrected and uncorrected memory errors per interval. Any uncorrected error is a"
            " hardware fault.",
            [
                Query(
                    "increase(node_edac_correctable_errors_total{@}[$__rate_interval])",
                    "{{instance}} {{controller}} corrected",
                ),
                Query(
                    "increase(node_edac_uncorrectable_errors_total{@}[$__rate_interval])",
                    "{{instance}} {{controller}} uncorrected",
                ),
            ],
            "short",
        ),
        timeseries(
            "RAID",
            "Number of failed disks, and synchronised fraction of each array. Any failed disk"
            " is a fault.",
            [
                Query('node_md_disks{@, state="failed"}', "{{instance}} {{device}} failed disks"),
                Query(
                    "node_md_blocks_synced{@} / (node_md_blocks{@} > 0)",
                    "{{instance}} {{device}} in sync",
                ),
            ],
            "short",
        ),
        bar_gauge(
            "Batteries",
            "Battery charge, in per cent.",
            Query("node_power_supply_capacity{@}", "{{instance}} {{power_supply}}"),
            "percent",
            width=12,
            thresholds=low_is_bad(10, 30),
            max_value=100,
        ),
    ],
)

SYSTEMD = Row(
    "systemd",
    [
        stat(
            "Failed unit count",
            "Units in state failed. Requires --collector.systemd.",
            'sum(node_systemd_units{@, state="failed"})',
            "short",
            RED_FROM_ONE,
            width=4,
            height=8,
        ),
        timeseries(
            "Units by state",
            "Number of systemd units by state. Requires --collector.systemd.",
            [Query("sum by (state) (node_systemd_units{@})", "{{state}}")],
            "short",
            width=10,
        ),
        timeseries(
            "Restarts",
            "Automatic service restarts by systemd per interval. Requires --collector.systemd.",
            [
                Query(
                    """increase(node_systemd_service_restart_total{@}[$__rate_interval]) > 0""",
                    "{{instance}} {{name}}",
                )
            ],
            "short",
            width=10,
        ),
        table(
            "Failed units",
            "Units in state failed. Requires --collector.systemd.",
            [Query('max by (instance, name) (node_systemd_unit_state{@, state="failed"} == 1)')],
            labels={"instance": "Instance", "name": "Unit"},
            sort="Unit",
            descending=False,
            height=6,
        ),
    ],
)

DASHBOARD = Dashboard(
    uid="strata-host",
    title="Strata / Host",
    description="One host: state, CPU, memory, disks, file systems, network, system and hardware.",
    target_metric="node_uname_info",
    rows=[STATE, OVERVIEW, CPU, MEMORY, DISK, FILESYSTEM, NETWORK, SYSTEM, HARDWARE, SYSTEMD],
)
