"""The exporter itself: completeness, latency and resource usage."""

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
    low_is_bad,
    threshold_steps,
    table,
    stat,
    top,
    value_mappings,
)
from matchers import EXPORTER_JOBS, LIVE_EXPORTERS

FAILED = 'outcome=~"failed|panicked|timed_out|still_running"'


STATE = Row(
    "State",
    collapsed=False,
    panels=[
        stat(
            "Up",
            "Fraction of the exporters whose last scrape succeeded.",
            f"avg(up{{@}} {EXPORTER_JOBS})",
            "percentunit",
            low_is_bad(0.5, 1),
        ),
        stat(
            "Alerts firing",
            "Number of firing exporter alerts for the selected targets. Also 0 if no rules are"
            " loaded.",
            'count(ALERTS{@target, alertname=~"Exporter.*", alertstate="firing"}) or vector(0)',
            "short",
            RED_FROM_ONE,
            width=3,
            decimals=0,
        ),
        stat(
            "Failing collectors",
            "Number of collectors that failed, panicked or timed out in the last scrape."
            " Collectors with nothing to collect do not count.",
            f"count(strata_collector_outcome{{@, {FAILED}}}) or sum(strata_collector_outcome{{@}} * 0)",
            "short",
            RED_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Skipped items",
            "Items that collectors skipped in the last scrape because they could not be read or"
            " parsed. The log has the first reason.",
            "sum(strata_collector_partial_errors{@})",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Slowest scrape",
            "Longest scrape duration of the selected exporters, in seconds.",
            f"max(scrape_duration_seconds{{@}} {LIVE_EXPORTERS})",
            "s",
            high_is_bad(1, 5),
        ),
        stat(
            "Engines",
            "Whether all container engines are connected.",
            "min(strata_engine_up{@})",
            "short",
            RED_BELOW_ONE,
            mappings=value_mappings((0, "down", "red"), (1, "up", "green")),
            no_value="none",
        ),
        stat(
            "libvirt",
            "Whether libvirt responds on all machines where it is used.",
            "min(libvirt_up{@})",
            "short",
            RED_BELOW_ONE,
            mappings=value_mappings((0, "down", "red"), (1, "up", "green")),
            width=2,
            no_value="none",
        ),
        stat(
            "CPU",
            "CPU usage of the exporter, as a fraction of one CPU. The worst exporter.",
            f"max(rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {LIVE_EXPORTERS})",
            "percentunit",
            high_is_bad(0.05, 0.2),
            width=2,
            decimals=1,
        ),
        stat(
            "Memory",
            "Resident memory of the exporter, in bytes. The worst exporter.",
            f"max(process_resident_memory_bytes{{@}} {LIVE_EXPORTERS})",
            "bytes",
            high_is_bad(128 * 1024**2, 512 * 1024**2),
            width=2,
        ),
        table(
            "Exporters",
            "One row per exporter, with its problems.",
            [
                Query("max by (instance, version) (strata_build_info{@})"),
                Query(
                    f"min by (instance) (up{{@}} {EXPORTER_JOBS})",
                    column="Up",
                    unit="short",
                    mappings=value_mappings((0, "no", "red"), (1, "yes", "green")),
                ),
                Query(
                    f"sum by (instance) (strata_collector_outcome{{@, {FAILED}}})",
                    column="Failing",
                    unit="short",
                    thresholds=RED_FROM_ONE,
                ),
                Query(
                    "sum by (instance) (strata_collector_partial_errors{@})",
                    column="Skipped",
                    unit="short",
                    thresholds=YELLOW_FROM_ONE,
                ),
                Query(
                    f"max by (instance) (scrape_duration_seconds{{@}} {LIVE_EXPORTERS})",
                    column="Scrape",
                    unit="s",
                    thresholds=high_is_bad(1, 5),
                ),
                Query(
                    f"max by (instance) (scrape_samples_scraped{{@}} {LIVE_EXPORTERS})",
                    column="Series",
                    unit="short",
                ),
                Query(
                    f"""max by (instance)
                        (rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {LIVE_EXPORTERS})""",
                    column="CPU",
                    unit="percentunit",
                ),
                Query(
                    f"max by (instance) (process_resident_memory_bytes{{@}} {LIVE_EXPORTERS})",
                    column="Memory",
                    unit="bytes",
                ),
                Query(
                    f"max by (instance) (process_open_fds{{@}} {LIVE_EXPORTERS})",
                    column="File descriptors",
                    unit="short",
                ),
                Query(
                    f"min by (instance) (time() - process_start_time_seconds{{@}} {LIVE_EXPORTERS})",
                    column="Uptime",
                    unit="s",
                    thresholds=threshold_steps((None, "yellow"), (900, "transparent")),
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
        timeseries(
            "Duration",
            "Duration of a collector run, in seconds. Slowest collectors only.",
            top("node_scrape_collector_duration_seconds{@}", "{{instance}} {{collector}}"),
            "s",
        ),
        table(
            "Collectors without data",
            "Collectors without data, and the reason. `no_data` means that the machine has"
            " nothing of the kind; `unsupported` collectors, which are not implemented, are not"
            " listed.",
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

DETAILS = Row(
    "Collectors in detail",
    [
        timeseries(
            "Success ratio",
            "Fraction of the exporters on which a collector succeeded; only collectors below"
            " 100 %. A collector with nothing to collect counts as 0.",
            [
                Query(
                    "avg by (collector) (node_scrape_collector_success{@}) < 1",
                    "{{collector}}",
                )
            ],
            "percentunit",
            max_value=1,
        ),
        timeseries(
            "Failing",
            "Collectors that failed, panicked or timed out.",
            [
                Query(
                    f"strata_collector_outcome{{@, {FAILED}}}",
                    "{{instance}} {{collector}} {{outcome}}",
                )
            ],
            "short",
        ),
        timeseries(
            "Skipped items",
            "Number of items that a collector skipped because they could not be read or parsed.",
            [Query("strata_collector_partial_errors{@} > 0", "{{instance}} {{collector}}")],
            "short",
        ),
        timeseries(
            "Collector threads",
            "Threads that run collectors. More than two mean that a resource hangs.",
            [Query("strata_worker_threads{@}", "{{instance}}")],
            "short",
            thresholds=threshold_steps((None, "green"), (3, "yellow")),
        ),
    ],
)

COST = Row(
    "Cost",
    [
        timeseries(
            "CPU",
            "CPU usage as a fraction of one CPU. Top exporters only.",
            top(f"rate(process_cpu_seconds_total{{@}}[$__rate_interval]) {LIVE_EXPORTERS}"),
            "percentunit",
        ),
        timeseries(
            "Memory",
            "Resident memory, in bytes. Top exporters only.",
            top(f"process_resident_memory_bytes{{@}} {LIVE_EXPORTERS}"),
            "bytes",
        ),
        timeseries(
            "File descriptors",
            "Open file descriptors as a fraction of the limit. At 100 % the exporter cannot"
            " open files or connections.",
            top(f"process_open_fds{{@}} / process_max_fds{{@}} {LIVE_EXPORTERS}"),
            "percentunit",
            thresholds=high_is_bad(0.5, 0.8),
        ),
        timeseries(
            "Encoding time",
            "Average time to encode and compress a response, without collection, in seconds.",
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
        timeseries(
            "Series",
            "Number of series per scrape. Top exporters only.",
            top(f"scrape_samples_scraped{{@}} {LIVE_EXPORTERS}"),
            "short",
        ),
        timeseries(
            "New series",
            "Series in a scrape that were not in the previous one. Series churn costs memory in"
            " Prometheus. Top exporters only.",
            top(f"scrape_series_added{{@}} {LIVE_EXPORTERS}"),
            "short",
        ),
        timeseries(
            "Duration",
            "Scrape duration as measured by Prometheus, in seconds. Slowest exporters only.",
            top(f"scrape_duration_seconds{{@}} {LIVE_EXPORTERS}"),
            "s",
        ),
        timeseries(
            "Sent",
            "Response bytes sent per second; below zero: before compression.",
            [
                Query(
                    "topk($top, rate(strata_exposition_sent_bytes_total{@}[$__rate_interval]))",
                    "{{instance}} sent",
                ),
                Query(
                    "topk($top, rate(strata_exposition_bytes_total{@}[$__rate_interval]))",
                    "{{instance}} uncompressed",
                ),
            ],
            "Bps",
            mirrored="/ uncompressed$/",
        ),
        timeseries(
            "Responds",
            "Metrics requests per second, by HTTP status code.",
            [
                Query(
                    f"""sum by (code)
                        (rate(promhttp_metric_handler_requests_total{{@}}[$__rate_interval])
                        {LIVE_EXPORTERS})""",
                    "{{code}}",
                )
            ],
            "reqps",
        ),
        timeseries(
            "Response errors",
            "Metric families and series dropped as duplicates, and responses that could not be"
            " written, per second. Any value above 0 is a fault.",
            [
                Query(
                    f"""sum by (instance, cause)
                        (rate(promhttp_metric_handler_errors_total{{@}}[$__rate_interval])
                        {LIVE_EXPORTERS})""",
                    "{{instance}} {{cause}}",
                )
            ],
            "ops",
        ),
        timeseries(
            "Connections",
            "Number of open HTTP connections. Top exporters only.",
            top("strata_http_connections{@}"),
            "short",
        ),
        timeseries(
            "Connections closed by the exporter",
            "Connections per second that the exporter closed because they were idle or slow, or"
            " because there were too many.",
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
        timeseries(
            "Age of engine data",
            "Time since the engine's container data was last current, in seconds. 0 while the"
            " engine is connected.",
            [Query("strata_engine_cache_age_seconds{@}", "{{instance}} {{engine}}")],
            "s",
        ),
        timeseries(
            "Connections established",
            "Connections to engines and libvirt established per interval. Repeated connections"
            " mean that the daemon restarts or the connection is lost.",
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
        timeseries(
            "Events",
            "Events per second received from engines and libvirt.",
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
        timeseries(
            "Requests",
            "Requests per second to engines and libvirt. A scrape makes no requests to engines.",
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
        timeseries(
            "Unanswered libvirt requests",
            "libvirt requests still unanswered after their scrape ended. Each one means a"
            " domain or a daemon that hangs.",
            [Query("strata_libvirt_stuck_requests{@}", "{{instance}}")],
            "short",
        ),
        timeseries(
            "Containers and domains",
            "Number of containers known to engines, and of domains known to libvirt.",
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
        timeseries(
            "Memory usage",
            "Memory used by the history, as a fraction of --history.max-bytes. Near 100 % rings"
            " are shortened.",
            top("strata_history_bytes{@} / strata_history_max_bytes{@}"),
            "percentunit",
            max_value=1,
            thresholds=high_is_bad(0.8, 1),
        ),
        timeseries(
            "Rings",
            "Containers, domains and hosts that are sampled; that have a shortened history; and"
            " that have none because the memory limit is reached.",
            [
                Query("strata_history_series{@}", "{{instance}} sampled"),
                Query("strata_history_series_truncated{@}", "{{instance}} shrunk"),
                Query("strata_history_series_dropped{@}", "{{instance}} missing"),
            ],
            "short",
        ),
        timeseries(
            "Samples",
            "Samples taken per second.",
            [Query("rate(strata_history_samples_total{@}[$__rate_interval])", "{{instance}}")],
            "ops",
        ),
        timeseries(
            "Skipped samples",
            "Samples skipped per second, by reason: the read failed, took too long, or was due"
            " too late.",
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

DASHBOARD = Dashboard(
    uid="strata-exporter",
    title="Strata / Exporter",
    description="The exporter itself: completeness, latency and resource usage.",
    target_metric="strata_build_info",
    variables=[TOP],
    rows=[STATE, COLLECTORS, DETAILS, COST, SCRAPES, SOURCES, HISTORY],
)
