"""The exporter itself: does it see everything, in time, and what does it cost."""

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
    low,
    steps,
    table,
    tile,
    top,
    words,
)
from matchers import OF_EXPORTERS, OURS

BAD = 'outcome=~"failed|panicked|timed_out|still_running"'


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        tile(
            "Reached",
            "Part of the exporters that Prometheus could scrape just now.",
            f"avg(up{{@}} {OF_EXPORTERS})",
            "percentunit",
            low(0.5, 1),
        ),
        tile(
            "Alerts firing",
            "Alerts about exporters that fire for these targets; 0 also where no rules are loaded.",
            'count(ALERTS{@target, alertname=~"Exporter.*", alertstate="firing"}) or vector(0)',
            "short",
            NONE_IS_GOOD,
            width=3,
            decimals=0,
        ),
        tile(
            "Collectors failing",
            "Collectors that failed, panicked or took too long in their last scrape. Those that"
            " find nothing to collect do not count.",
            f"count(strata_collector_outcome{{@, {BAD}}}) or sum(strata_collector_outcome{{@}} * 0)",
            "short",
            NONE_IS_GOOD,
            decimals=0,
        ),
        tile(
            "Parts left out",
            "Parts that collectors left out of the last scrape because they could not be read or"
            " made no sense; the log has the reason for the first.",
            "sum(strata_collector_skipped_parts{@})",
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Slowest scrape",
            "How long Prometheus waited for the slowest of these exporters.",
            f"max(scrape_duration_seconds{{@}} {OURS})",
            "s",
            high(1, 5),
        ),
        tile(
            "Engines",
            "Whether all container engines are followed.",
            "min(strata_engine_up{@})",
            "short",
            ALL_IS_GOOD,
            mappings=words((0, "down", "red"), (1, "up", "green")),
            missing="none",
        ),
        tile(
            "libvirt",
            "Whether libvirt answers wherever it is asked.",
            "min(libvirt_up{@})",
            "short",
            ALL_IS_GOOD,
            mappings=words((0, "down", "red"), (1, "up", "green")),
            width=2,
            missing="none",
        ),
        tile(
            "CPU",
            "CPU time of the exporter that uses most, as part of one CPU.",
            f"max(rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {OURS})",
            "percentunit",
            high(0.05, 0.2),
            width=2,
            decimals=1,
        ),
        tile(
            "Memory",
            "Memory in RAM of the exporter that uses most.",
            f"max(process_resident_memory_bytes{{@}} {OURS})",
            "bytes",
            high(128 * 1024**2, 512 * 1024**2),
            width=2,
        ),
        table(
            "Exporters",
            "Each exporter, with what is wrong on it.",
            [
                Query("max by (instance, version) (strata_build_info{@})"),
                Query(
                    f"min by (instance) (up{{@}} {OF_EXPORTERS})",
                    column="Reached",
                    unit="short",
                    mappings=words((0, "no", "red"), (1, "yes", "green")),
                ),
                Query(
                    f"sum by (instance) (strata_collector_outcome{{@, {BAD}}})",
                    column="Failing",
                    unit="short",
                    steps=NONE_IS_GOOD,
                ),
                Query(
                    "sum by (instance) (strata_collector_skipped_parts{@})",
                    column="Left out",
                    unit="short",
                    steps=NONE_IS_BEST,
                ),
                Query(
                    f"max by (instance) (scrape_duration_seconds{{@}} {OURS})",
                    column="Scrape",
                    unit="s",
                    steps=high(1, 5),
                ),
                Query(
                    f"max by (instance) (scrape_samples_scraped{{@}} {OURS})",
                    column="Series",
                    unit="short",
                ),
                Query(
                    f"""max by (instance)
                        (rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {OURS})""",
                    column="CPU",
                    unit="percentunit",
                ),
                Query(
                    f"max by (instance) (process_resident_memory_bytes{{@}} {OURS})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max by (instance) (process_open_fds{{@}} {OURS})",
                    column="Descriptors",
                    unit="short",
                ),
                Query(
                    f"min by (instance) (time() - process_start_time_seconds{{@}} {OURS})",
                    column="Up for",
                    unit="s",
                    steps=steps((None, "yellow"), (900, "transparent")),
                ),
            ],
            labels={"instance": "Instance", "version": "Version"},
            sort="Failing",
            height=8,
        ),
    ],
)

COLLECTORS = Row(
    "Collectors",
    collapsed=False,
    panels=[
        lines(
            "Duration",
            "How long a collector took; the slowest.",
            top("node_scrape_collector_duration_seconds{@}", "{{instance}} {{collector}}"),
            "s",
        ),
        table(
            "Not collected",
            "Collectors that had nothing to show and why. Absent means that the machine has"
            " nothing of the kind, unsupported that the collector is still to come.",
            [
                Query(
                    """count by (collector, outcome)
                        (strata_collector_outcome{@, outcome!~"collected|unsupported"})""",
                    column="Exporters",
                    unit="short",
                ),
            ],
            labels={"collector": "Collector", "outcome": "Outcome"},
            sort="Outcome",
            width=12,
            height=8,
        ),
    ],
)

MORE = Row(
    "Collectors in detail",
    [
        lines(
            "Success",
            "Part of the exporters on which each collector succeeded; those below 100 %. Also 0"
            " where there is nothing to collect.",
            [
                Query(
                    "avg by (collector) (node_scrape_collector_success{@}) < 1",
                    "{{collector}}",
                )
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Failing",
            "Collectors that failed, panicked or took too long.",
            [
                Query(
                    f"strata_collector_outcome{{@, {BAD}}}",
                    "{{instance}} {{collector}} {{outcome}}",
                )
            ],
            "short",
        ),
        lines(
            "Parts left out",
            "Parts that a collector left out because they could not be read or made no sense.",
            [Query("strata_collector_skipped_parts{@} > 0", "{{instance}} {{collector}}")],
            "short",
        ),
        lines(
            "Threads for collectors",
            "Threads that collectors run on. More than two were needed because something hung.",
            [Query("strata_worker_threads{@}", "{{instance}}")],
            "short",
            colors=steps((None, "green"), (3, "yellow")),
        ),
    ],
)

COST = Row(
    "Cost",
    [
        lines(
            "CPU",
            "CPU time as part of one CPU; exporters with most.",
            top(f"rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {OURS}"),
            "percentunit",
        ),
        lines(
            "Memory",
            "Memory in RAM; exporters with most.",
            top(f"process_resident_memory_bytes{{@}} {OURS}"),
            "bytes",
        ),
        lines(
            "Descriptors",
            "File descriptors in use as part of how many there may be.",
            top(f"process_open_fds{{@}} / process_max_fds{{@}} {OURS}"),
            "percentunit",
            colors=high(0.5, 0.8),
        ),
        lines(
            "Writing answers",
            "Time to write down and compress an answer, without collecting.",
            top(
                """rate(strata_exposition_encode_seconds_total{@}[$__rate_interval])
                    / on (job, instance) (rate(promhttp_metric_handler_requests_total{@,
                    code="200"}[$__rate_interval]) > 0)"""
            ),
            "s",
        ),
    ],
)

SCRAPES = Row(
    "Scrapes",
    [
        lines(
            "Series",
            "Series that Prometheus took from each exporter; those with most.",
            top(f"scrape_samples_scraped{{@}} {OURS}"),
            "short",
        ),
        lines(
            "New series",
            "Series in a scrape that were not in the last: what churns costs Prometheus memory.",
            top(f"scrape_series_added{{@}} {OURS}"),
            "short",
        ),
        lines(
            "Duration",
            "How long Prometheus waited for an answer; the slowest exporters.",
            top(f"scrape_duration_seconds{{@}} {OURS}"),
            "s",
        ),
        lines(
            "Sent",
            "Bytes of answers as they are sent, and downwards what they are before compression.",
            [
                Query(
                    "topk($top, rate(strata_exposition_sent_bytes_total{@}[$__rate_interval]))",
                    "{{instance}} sent",
                ),
                Query(
                    "topk($top, rate(strata_exposition_bytes_total{@}[$__rate_interval]))",
                    "{{instance}} before",
                ),
            ],
            "Bps",
            below="/ before$/",
        ),
        lines(
            "Answers",
            "Requests for metrics a second, by HTTP status.",
            [
                Query(
                    f"""sum by (code)
                        (rate(promhttp_metric_handler_requests_total{{@}}[$__rate_interval])
                        {OURS})""",
                    "{{code}}",
                )
            ],
            "reqps",
        ),
        lines(
            "Answers with something wrong",
            "Families and series left out because others have their name, and answers that could"
            " not be written, a second.",
            [
                Query(
                    f"""sum by (instance, cause)
                        (rate(promhttp_metric_handler_errors_total{{@}}[$__rate_interval])
                        {OURS})""",
                    "{{instance}} {{cause}}",
                )
            ],
            "ops",
        ),
        lines(
            "Connections",
            "HTTP connections that are open.",
            top("strata_http_connections{@}"),
            "short",
        ),
        lines(
            "Connections closed unasked",
            "Connections a second that were closed because they were idle, slow or too many.",
            [
                Query(
                    """sum by (instance, reason)
                        (rate(strata_http_connections_closed_total{@}[$__rate_interval]))""",
                    "{{instance}} {{reason}}",
                )
            ],
            "ops",
        ),
    ],
)

SOURCES = Row(
    "Engines and libvirt",
    [
        lines(
            "Age of what is shown",
            "How long ago an engine's containers were known to be current: 0 while it is followed.",
            [Query("strata_engine_copy_age_seconds{@}", "{{instance}} {{engine}}")],
            "s",
        ),
        lines(
            "Connections made",
            "How often an engine or libvirt was connected to in each step: again and again where"
            " one restarts or is lost.",
            [
                Query(
                    "increase(strata_engine_connections_total{@}[$__rate_interval])",
                    "{{instance}} {{engine}}",
                ),
                Query(
                    "increase(strata_libvirt_connections_total{@}[$__rate_interval])",
                    "{{instance}} libvirt",
                ),
            ],
            "short",
        ),
        lines(
            "Events",
            "Events a second that engines and libvirt told of.",
            [
                Query(
                    "rate(strata_engine_events_total{@}[$__rate_interval])",
                    "{{instance}} {{engine}}",
                ),
                Query(
                    "rate(strata_libvirt_events_total{@}[$__rate_interval])", "{{instance}} libvirt"
                ),
            ],
            "ops",
        ),
        lines(
            "Requests",
            "Requests a second made to engines and libvirt. Scrapes make none to engines.",
            [
                Query(
                    "rate(strata_engine_requests_total{@}[$__rate_interval])",
                    "{{instance}} {{engine}}",
                ),
                Query(
                    "rate(strata_libvirt_requests_total{@}[$__rate_interval])",
                    "{{instance}} libvirt",
                ),
            ],
            "reqps",
        ),
        lines(
            "Requests that hang",
            "Requests to libvirt without an answer whose scrapes are over: each is about a guest,"
            " or a daemon, that hangs.",
            [Query("strata_libvirt_stuck_requests{@}", "{{instance}}")],
            "short",
        ),
        lines(
            "Seen",
            "Containers that engines have, and domains that libvirt has.",
            [
                Query("strata_engine_containers{@}", "{{instance}} {{engine}} containers"),
                Query("libvirt_domains{@}", "{{instance}} domains"),
            ],
            "short",
        ),
    ],
)

HISTORY = Row(
    "History",
    [
        lines(
            "Room",
            "Bytes that the history of the last hour takes, as part of --history.max-bytes.",
            top("strata_history_bytes{@} / strata_history_max_bytes{@}"),
            "percentunit",
            most=1,
            colors=high(0.8, 1),
        ),
        lines(
            "Rings",
            "Containers, virtual machines and hosts that are sampled, those with less history than"
            " asked for, and those with none for want of room.",
            [
                Query("strata_history_rings{@}", "{{instance}} sampled"),
                Query("strata_history_rings_shrunk{@}", "{{instance}} shrunk"),
                Query("strata_history_rings_missing{@}", "{{instance}} missing"),
            ],
            "short",
        ),
        lines(
            "Samples",
            "Samples taken a second.",
            [Query("rate(strata_history_samples_total{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        lines(
            "Samples not taken",
            "Samples a second that were not taken, by reason: nothing could be read, not in time,"
            " or the time for all had passed.",
            [
                Query(
                    "rate(strata_history_skipped_samples_total{@}[$__rate_interval])",
                    "{{instance}} {{reason}}",
                )
            ],
            "ops",
        ),
    ],
)

BOARD = Board(
    uid="strata-exporter",
    title="Strata / Exporter",
    description="The exporter itself: whether it sees everything, in time, and what it costs.",
    known_by="strata_build_info",
    variables=[TOP],
    rows=[STATE, COLLECTORS, MORE, COST, SCRAPES, SOURCES, HISTORY],
)
