"""One host: is it well, and if not, what is short.

With several hosts chosen the tiles show the worst of them.
"""

from grafana import (
    ALL_IS_GOOD,
    NONE_IS_BEST,
    NONE_IS_GOOD,
    Board,
    Query,
    Row,
    bars,
    high,
    lines,
    low,
    steps,
    table,
    tile,
    words,
)
from matchers import DISKS, OF_HOSTS, WIRES

WORST = " With several hosts, the worst of them."

STATE = Row(
    "State",
    collapsed=False,
    panels=[
        tile(
            "Targets reached",
            "Part of the targets chosen that Prometheus could scrape just now. Below 100 % all"
            " else here is incomplete.",
            f"avg(up{{@}} {OF_HOSTS})",
            "percentunit",
            low(0.5, 1),
        ),
        tile(
            "Alerts firing",
            "Alerts of Prometheus' rules that fire for these hosts; 0 also where no rules are loaded.",
            f'count(ALERTS{{@, alertstate="firing"}} {OF_HOSTS}) or vector(0)',
            "short",
            NONE_IS_GOOD,
        ),
        tile(
            "Uptime",
            "Time since the last boot; yellow in the first 15 minutes. With several hosts, the"
            " shortest.",
            "min(node_time_seconds{@} - node_boot_time_seconds{@})",
            "s",
            steps((None, "yellow"), (900, "green")),
            decimals=1,
        ),
        tile(
            "CPU busy",
            "Part of the time of all CPUs in which they did not idle or wait for I/O." + WORST,
            """max(1 - avg by (job, instance) (sum by (job, instance, cpu)
                (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))))""",
            "percentunit",
            high(0.8, 0.95),
        ),
        tile(
            "Load per CPU",
            "Tasks that run, want to, or wait for a disk, over 5 minutes, for each CPU; above 1"
            " some wait." + WORST,
            """max(node_load5{@} / on (job, instance) count by (job, instance)
                (rate(node_cpu_seconds_total{@, mode="idle"}[$__rate_interval])))""",
            "short",
            high(1, 2),
            decimals=2,
        ),
        tile(
            "Memory used",
            "Part of memory that could not be had without swapping; page cache is not used." + WORST,
            "max(1 - node_memory_MemAvailable_bytes{@} / node_memory_MemTotal_bytes{@})",
            "percentunit",
            high(0.85, 0.95),
        ),
        tile(
            "Swap used",
            "Part of swap space in use." + WORST,
            "max(1 - node_memory_SwapFree_bytes{@} / (node_memory_SwapTotal_bytes{@} > 0))",
            "percentunit",
            high(0.5, 0.8),
            missing="no swap",
        ),
        tile(
            "Fullest file system",
            "Part in use of the fullest file system that can be written to, what is reserved for"
            " root among it." + WORST,
            f"""max((1 - node_filesystem_avail_bytes{{@, {DISKS}}}
                / node_filesystem_size_bytes{{@, {DISKS}}})
                unless node_filesystem_readonly{{@}} == 1)""",
            "percentunit",
            high(0.85, 0.95),
        ),
        tile(
            "Pressure",
            "Part of the time in which some task waited for want of CPU, of memory or of I/O."
            + WORST,
            [
                Query("max(rate(node_pressure_cpu_waiting_seconds_total{@}[$__rate_interval]))", "CPU"),
                Query(
                    "max(rate(node_pressure_memory_waiting_seconds_total{@}[$__rate_interval]))",
                    "memory",
                ),
                Query("max(rate(node_pressure_io_waiting_seconds_total{@}[$__rate_interval]))", "I/O"),
            ],
            "percentunit",
            high(0.25, 0.5),
            width=6,
        ),
        tile(
            "OOM kills",
            "Processes killed for want of memory in the time range shown.",
            "sum(increase(node_vmstat_oom_kill{@}[$__range]))",
            "short",
            NONE_IS_GOOD,
            decimals=0,
            instant=True,
        ),
        tile(
            "Read-only or failed",
            "File systems with a disk below that are read-only or could not be asked. Some are"
            " meant to be read-only, such as media.",
            f"""sum(node_filesystem_readonly{{@, {DISKS}}} == bool 1)
                + sum(node_filesystem_device_error{{@, {DISKS}}})""",
            "short",
            NONE_IS_BEST,
        ),
        tile(
            "Busiest disk",
            "Part of the time in which the busiest disk had something to do." + WORST,
            "max(rate(node_disk_io_time_seconds_total{@}[$__rate_interval]))",
            "percentunit",
            high(0.8, 0.95),
        ),
        tile(
            "Network errors",
            "Packets a second that were damaged or dropped, in and out, on interfaces of hardware.",
            f"""sum(rate(node_network_receive_errs_total{{@, {WIRES}}}[$__rate_interval])
                + rate(node_network_receive_drop_total{{@, {WIRES}}}[$__rate_interval])
                + rate(node_network_transmit_errs_total{{@, {WIRES}}}[$__rate_interval])
                + rate(node_network_transmit_drop_total{{@, {WIRES}}}[$__rate_interval]))""",
            "pps",
            high(1, 100),
            decimals=1,
        ),
        tile(
            "Clock",
            "Whether something, such as an NTP daemon, keeps the clock right. With several hosts,"
            " whether it does on all.",
            "min(node_timex_sync_status{@})",
            "short",
            ALL_IS_GOOD,
            mappings=words((0, "adrift", "red"), (1, "in sync", "green")),
        ),
        tile(
            "RAID disks missing",
            "Disks that software RAID arrays lack.",
            "sum(node_md_degraded{@})",
            "short",
            NONE_IS_GOOD,
            missing="no array",
        ),
    ],
)

OVERVIEW = Row(
    "Overview",
    collapsed=False,
    panels=[
        lines(
            "CPU by mode",
            "What the CPUs did with their time, on average over all of them; idle is left out."
            " Steal is what the hypervisor gave to others.",
            [
                Query(
                    'avg by (mode) (rate(node_cpu_seconds_total{@, mode!="idle"}[$__rate_interval]))',
                    "{{mode}}",
                )
            ],
            "percentunit",
            stacked=True,
            most=1,
        ),
        lines(
            "Memory",
            "Where memory is. Applications is what is neither cache, buffers, slabs nor free.",
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
        lines(
            "Disk throughput",
            "Bytes read, and downwards those written, by disk.",
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
            below="/ written$/",
        ),
        lines(
            "Network throughput",
            "Bits received, and downwards those sent, by interface of hardware.",
            [
                Query(
                    f"rate(node_network_receive_bytes_total{{@, {WIRES}}}[$__rate_interval]) * 8",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"rate(node_network_transmit_bytes_total{{@, {WIRES}}}[$__rate_interval]) * 8",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "bps",
            below="/ sent$/",
        ),
    ],
)

CPU = Row(
    "CPU",
    [
        lines(
            "Busy by CPU",
            "Part of its time in which each CPU did not idle or wait for I/O: one at 100 % with"
            " the others idle is a single thread that is short of CPU.",
            [
                Query(
                    """1 - sum by (job, instance, cpu)
                        (rate(node_cpu_seconds_total{@, mode=~"idle|iowait"}[$__rate_interval]))""",
                    "{{instance}} CPU {{cpu}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Load",
            "Tasks that run, want to, or wait for a disk, over 1, 5 and 15 minutes, beside the"
            " number of CPUs.",
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
        lines(
            "Waiting for a CPU",
            "Part of the time in which some task was ready to run and had no CPU, and in which"
            " interrupts kept all tasks from running.",
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
        lines(
            "Running and blocked",
            "Tasks that run or want to, and those that wait for a disk.",
            [
                Query("node_procs_running{@}", "{{instance}} running"),
                Query("node_procs_blocked{@}", "{{instance}} blocked"),
            ],
            "short",
        ),
        lines(
            "Frequency",
            "How fast each CPU runs, where the machine tells.",
            [Query("node_cpu_scaling_frequency_hertz{@}", "{{instance}} CPU {{cpu}}")],
            "hertz",
        ),
        lines(
            "Throttled by heat",
            "How often a core or a whole package was slowed down because it was too hot, a second.",
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
        lines(
            "Available",
            "Memory that could be had without swapping, and all there is.",
            [
                Query("node_memory_MemAvailable_bytes{@}", "{{instance}} available"),
                Query("node_memory_MemTotal_bytes{@}", "{{instance}} total"),
            ],
            "bytes",
        ),
        lines(
            "Waiting for memory",
            "Part of the time in which some task, and in which every task, waited for memory.",
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
        lines(
            "Major page faults",
            "Page faults a second that waited for a disk.",
            [Query("rate(node_vmstat_pgmajfault{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        lines(
            "Swapping",
            "Pages read back from swap, and downwards those swapped out, a second.",
            [
                Query("rate(node_vmstat_pswpin{@}[$__rate_interval])", "{{instance}} in"),
                Query("rate(node_vmstat_pswpout{@}[$__rate_interval])", "{{instance}} out"),
            ],
            "ops",
            below="/ out$/",
        ),
        lines(
            "Committed",
            "Memory promised to processes, and the limit that holds where vm.overcommit_memory is 2.",
            [
                Query("node_memory_Committed_AS_bytes{@}", "{{instance}} committed"),
                Query("node_memory_CommitLimit_bytes{@}", "{{instance}} limit"),
            ],
            "bytes",
        ),
        lines(
            "OOM kills",
            "Processes killed for want of memory, a second.",
            [Query("rate(node_vmstat_oom_kill{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        lines(
            "Dirty pages",
            "Page cache that must still be written, and that is being written.",
            [
                Query("node_memory_Dirty_bytes{@}", "{{instance}} dirty"),
                Query("node_memory_Writeback_bytes{@}", "{{instance}} being written"),
            ],
            "bytes",
        ),
        lines(
            "The kernel's own",
            "Slabs that can be given back, slabs that cannot, page tables and stacks. One that only"
            " grows is a leak.",
            [
                Query("node_memory_SReclaimable_bytes{@}", "{{instance}} slabs to give back"),
                Query("node_memory_SUnreclaim_bytes{@}", "{{instance}} slabs to keep"),
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
        lines(
            "Requests",
            "Reads completed, and downwards writes, a second.",
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
            below="/ writes$/",
        ),
        lines(
            "Time for a request",
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
        lines(
            "Busy",
            "Part of the time in which a disk had something to do. Disks that do many things at"
            " once can take more at 100 %.",
            [
                Query(
                    "rate(node_disk_io_time_seconds_total{@}[$__rate_interval])",
                    "{{instance}} {{device}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Queue",
            "Requests that a disk had on average, those it worked on and those that waited.",
            [
                Query(
                    "rate(node_disk_io_time_weighted_seconds_total{@}[$__rate_interval])",
                    "{{instance}} {{device}}",
                )
            ],
            "short",
        ),
        lines(
            "Waiting for I/O",
            "Part of the time in which some task, and in which every task, waited for I/O.",
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
        lines(
            "Size of a request",
            "Bytes of a read or a write on average.",
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
            "How full file systems are, and in how many days the trend of the last six hours fills"
            " them; no number where they do not fill up.",
            [
                Query(
                    f"""{MOUNT} (1 - node_filesystem_avail_bytes{{@, {DISKS}}}
                        / node_filesystem_size_bytes{{@, {DISKS}}})""",
                    column="Used",
                    unit="percentunit",
                    steps=high(0.85, 0.95),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_avail_bytes{{@, {DISKS}}})",
                    column="Left",
                    unit="bytes",
                ),
                Query(
                    f"{MOUNT} (node_filesystem_size_bytes{{@, {DISKS}}})",
                    column="Size",
                    unit="bytes",
                ),
                Query(
                    f"""{MOUNT} (node_filesystem_avail_bytes{{@, {DISKS}}}
                        / (deriv(node_filesystem_avail_bytes{{@, {DISKS}}}[6h]) < 0) * -1)""",
                    column="Full in",
                    unit="s",
                    steps=low(86400, 4 * 86400),
                ),
                Query(
                    f"""{MOUNT} (1 - node_filesystem_files_free{{@, {DISKS}}}
                        / (node_filesystem_files{{@, {DISKS}}} > 0))""",
                    column="Inodes used",
                    unit="percentunit",
                    steps=high(0.85, 0.95),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_readonly{{@, {DISKS}}})",
                    column="Read-only",
                    unit="short",
                    mappings=words((0, "no", "transparent"), (1, "yes", "yellow")),
                ),
                Query(
                    f"{MOUNT} (node_filesystem_device_error{{@, {DISKS}}})",
                    column="Failed",
                    unit="short",
                    mappings=words((0, "no", "transparent"), (1, "yes", "red")),
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
        lines(
            "Space used",
            "Part of each file system in use.",
            [
                Query(
                    f"""1 - node_filesystem_avail_bytes{{@, {DISKS}}}
                        / node_filesystem_size_bytes{{@, {DISKS}}}""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Inodes used",
            "Part of each file system's inodes in use: without free ones no file can be made,"
            " however much room there is.",
            [
                Query(
                    f"""1 - node_filesystem_files_free{{@, {DISKS}}}
                        / (node_filesystem_files{{@, {DISKS}}} > 0)""",
                    "{{instance}} {{mountpoint}}",
                )
            ],
            "percentunit",
            most=1,
        ),
    ],
)

NETWORK = Row(
    "Network",
    [
        lines(
            "Packets",
            "Packets received, and downwards those sent, a second.",
            [
                Query(
                    f"rate(node_network_receive_packets_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"rate(node_network_transmit_packets_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "pps",
            below="/ sent$/",
        ),
        lines(
            "Used of the link",
            "Bits a second in the fuller direction, as part of what the interface can take; absent"
            " where it has no speed, as those of virtual machines.",
            [
                Query(
                    f"""rate(node_network_receive_bytes_total{{@, {WIRES}}}[$__rate_interval])
                        / (node_network_speed_bytes{{@, {WIRES}}} > 0)""",
                    "{{instance}} {{device}} received",
                ),
                Query(
                    f"""rate(node_network_transmit_bytes_total{{@, {WIRES}}}[$__rate_interval])
                        / (node_network_speed_bytes{{@, {WIRES}}} > 0)""",
                    "{{instance}} {{device}} sent",
                ),
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Errors and drops",
            "Packets that were damaged or could not be taken or sent, a second; downwards those"
            " that were to be sent.",
            [
                Query(
                    f"rate(node_network_receive_errs_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} errors",
                ),
                Query(
                    f"rate(node_network_receive_drop_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} drops",
                ),
                Query(
                    f"rate(node_network_transmit_errs_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} errors, sent",
                ),
                Query(
                    f"rate(node_network_transmit_drop_total{{@, {WIRES}}}[$__rate_interval])",
                    "{{instance}} {{device}} drops, sent",
                ),
            ],
            "pps",
            below="/, sent$/",
        ),
        lines(
            "TCP retransmits",
            "Segments sent again, as part of all sent: a lossy network, or a peer that is gone.",
            [
                Query(
                    """rate(node_netstat_Tcp_RetransSegs{@}[$__rate_interval])
                        / (rate(node_netstat_Tcp_OutSegs{@}[$__rate_interval]) > 0)""",
                    "{{instance}}",
                )
            ],
            "percentunit",
        ),
        lines(
            "Connections refused for want of room",
            "Connections a second that a listening program did not take in time.",
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
        lines(
            "TCP connections",
            "Connections that are open, and those that are over and kept a while.",
            [
                Query("node_netstat_Tcp_CurrEstab{@}", "{{instance}} open"),
                Query("node_sockstat_TCP_tw{@}", "{{instance}} over"),
                Query("node_sockstat_TCP_orphan{@}", "{{instance}} without a process"),
            ],
            "short",
        ),
        lines(
            "Connection tracking",
            "Part of the table of tracked connections in use; packets of new ones are dropped when"
            " it is full.",
            [
                Query(
                    "node_nf_conntrack_entries{@} / node_nf_conntrack_entries_limit{@}",
                    "{{instance}}",
                )
            ],
            "percentunit",
            most=1,
            colors=high(0.8, 0.95),
        ),
        lines(
            "Packets that a CPU had no time for",
            "Packets lost because a CPU's backlog was full, and rounds that ended with packets"
            " left, a second.",
            [
                Query(
                    "sum by (instance) (rate(node_softnet_dropped_total{@}[$__rate_interval]))",
                    "{{instance}} lost",
                ),
                Query(
                    "sum by (instance) (rate(node_softnet_times_squeezed_total{@}[$__rate_interval]))",
                    "{{instance}} left for later",
                ),
            ],
            "ops",
        ),
        lines(
            "UDP",
            "Datagrams a second that nobody listened for, that were damaged, or that had no room.",
            [
                Query("rate(node_netstat_Udp_NoPorts{@}[$__rate_interval])", "{{instance}} no listener"),
                Query("rate(node_netstat_Udp_InErrors{@}[$__rate_interval])", "{{instance}} errors"),
                Query(
                    "rate(node_netstat_Udp_RcvbufErrors{@}[$__rate_interval])",
                    "{{instance}} no room in",
                ),
                Query(
                    "rate(node_netstat_Udp_SndbufErrors{@}[$__rate_interval])",
                    "{{instance}} no room out",
                ),
            ],
            "pps",
        ),
        lines(
            "TCP connections by state",
            "Connections in each state. Needs --collector.tcpstat.",
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
        lines(
            "Context switches, interrupts, forks",
            "How often the kernel switched tasks, was interrupted and made processes, a second.",
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
            least=None,
        ),
        lines(
            "Open files",
            "Part of the files that may be open in the whole system.",
            [Query("node_filefd_allocated{@} / node_filefd_maximum{@}", "{{instance}}")],
            "percentunit",
        ),
        lines(
            "Clock",
            "How far the clock is from its reference, and how wrong it may be at most.",
            [
                Query("node_timex_offset_seconds{@}", "{{instance}} offset"),
                Query("node_timex_maxerror_seconds{@}", "{{instance}} at most"),
            ],
            "s",
            least=None,
        ),
        lines(
            "Processes",
            "Processes by state. Needs --collector.processes.",
            [Query("sum by (state) (node_processes_state{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
        lines(
            "Room for processes",
            "Part of the process numbers, and of the threads that there may be, in use. Needs"
            " --collector.processes.",
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
        lines(
            "Entropy",
            "Random bits that the kernel has; kernels since 5.18 always say 256.",
            [Query("node_entropy_available_bits{@}", "{{instance}}")],
            "short",
        ),
        lines(
            "Hung tasks",
            "Tasks found in each step to wait for too long without letting themselves be"
            " interrupted.",
            [Query("increase(node_kernel_hung_tasks_total{@}[$__rate_interval])", "{{instance}}")],
            "short",
        ),
        table(
            "What it is",
            "Kernel, distribution and name of each host.",
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
        lines(
            "Temperature",
            "What sensors of chips say.",
            [
                Query(
                    """node_hwmon_temp_celsius{@} * on (job, instance, chip) group_left (chip_name)
                        node_hwmon_chip_names{@}""",
                    "{{instance}} {{chip_name}} {{sensor}}",
                ),
                Query("node_thermal_zone_temp{@}", "{{instance}} {{type}} {{zone}}"),
            ],
            "celsius",
            least=None,
        ),
        lines(
            "Fans",
            "How fast fans turn.",
            [Query("node_hwmon_fan_rpm{@}", "{{instance}} {{chip}} {{sensor}}")],
            "rotrpm",
        ),
        lines(
            "Power",
            "What the processor's packages and memory take, where it tells.",
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
        lines(
            "Memory errors",
            "Errors of memory in each step that were corrected, and those that were not.",
            [
                Query(
                    "increase(node_edac_correctable_errors_total{@}[$__rate_interval])",
                    "{{instance}} {{controller}} corrected",
                ),
                Query(
                    "increase(node_edac_uncorrectable_errors_total{@}[$__rate_interval])",
                    "{{instance}} {{controller}} not corrected",
                ),
            ],
            "short",
        ),
        lines(
            "RAID",
            "Disks of arrays that are failed, and part of each array that is in sync.",
            [
                Query('node_md_disks{@, state="failed"}', "{{instance}} {{device}} failed disks"),
                Query(
                    "node_md_blocks_synced{@} / (node_md_blocks{@} > 0)",
                    "{{instance}} {{device}} in sync",
                ),
            ],
            "short",
        ),
        bars(
            "Batteries",
            "How full batteries are.",
            Query("node_power_supply_capacity{@}", "{{instance}} {{power_supply}}"),
            "percent",
            width=12,
            colors=low(10, 30),
            most=100,
        ),
    ],
)

SYSTEMD = Row(
    "systemd",
    [
        tile(
            "Units failed",
            "Units in the state failed. Needs --collector.systemd.",
            'sum(node_systemd_units{@, state="failed"})',
            "short",
            NONE_IS_GOOD,
            width=4,
            height=8,
        ),
        lines(
            "Units by state",
            "Units in each state. Needs --collector.systemd.",
            [Query("sum by (state) (node_systemd_units{@})", "{{state}}")],
            "short",
            width=10,
        ),
        lines(
            "Restarts",
            "Services that systemd started again by itself, in each step. Needs --collector.systemd.",
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
            "Units in the state failed. Needs --collector.systemd.",
            [Query('max by (instance, name) (node_systemd_unit_state{@, state="failed"} == 1)')],
            labels={"instance": "Instance", "name": "Unit"},
            sort="Unit",
            descending=False,
            height=6,
        ),
    ],
)

BOARD = Board(
    uid="strata-host",
    title="Strata / Host",
    description="One host in its layers: state first, then CPU, memory, disks, network and the rest.",
    known_by="node_uname_info",
    rows=[STATE, OVERVIEW, CPU, MEMORY, DISK, FILESYSTEM, NETWORK, SYSTEM, HARDWARE, SYSTEMD],
)
