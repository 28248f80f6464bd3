"""Inventory of a fleet: containers, domains, images and versions."""

from grafana import (
    YELLOW_FROM_ONE,
    TOP,
    Dashboard,
    Query,
    Row,
    bar_gauge,
    timeseries,
    table,
    stat,
    query_variable,
)

STATE = Row(
    "State",
    collapsed=False,
    panels=[
        stat(
            "Machines",
            "Number of exporters that were scraped successfully.",
            "count(count by (instance) (strata_build_info{@}))",
            "short",
            decimals=0,
        ),
        stat(
            "Running containers",
            "Number of running containers.",
            'sum(census_containers{@, engine=~"$engine", state="running"})',
            "short",
            decimals=0,
        ),
        stat(
            "Stopped containers",
            "Number of exited and dead containers.",
            'sum(census_containers{@, engine=~"$engine", state="stopped"})',
            "short",
            decimals=0,
        ),
        stat(
            "Frequent restarts",
            "Number of containers that their engine restarted more often than"
            " --collector.census.high-restarts.",
            "sum(census_containers_high_restarts{@})",
            "short",
            YELLOW_FROM_ONE,
            decimals=0,
        ),
        stat(
            "Running domains",
            "Number of running domains.",
            'sum(census_domains{@, state="running"})',
            "short",
            decimals=0,
        ),
        stat(
            "Stopped domains",
            "Number of domains that are shut off or crashed.",
            'sum(census_domains{@, state="stopped"})',
            "short",
            decimals=0,
        ),
        stat(
            "Images",
            "Number of images on all machines. An image on several machines counts once per"
            " machine.",
            "sum(census_images{@})",
            "short",
            decimals=0,
        ),
        stat(
            "Image size",
            "Total size of all images, in bytes. Shared layers count in each image, so the disk"
            " usage is lower.",
            "sum(census_image_bytes{@})",
            "bytes",
        ),
        timeseries(
            "Containers by state",
            "Number of containers by state. `other` is created, restarting or removing.",
            [
                Query(
                    'sum by (state) (census_containers{@, engine=~"$engine"})',
                    "{{state}}",
                )
            ],
            "short",
            stacked=True,
        ),
        timeseries(
            "Domains by state",
            "Number of domains by state.",
            [Query("sum by (state) (census_domains{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
    ],
)

USE = Row(
    "Usage and restarts",
    [
        timeseries(
            "CPU per container",
            "Average CPU usage of a running container; 100 % is one CPU. Top machines only.",
            [Query("topk($top, census_container_cpu_percent_avg{@})", "{{instance}}")],
            "percent",
        ),
        timeseries(
            "Memory per container",
            "Average working set of a running container, in bytes. Top machines only.",
            [Query("topk($top, census_container_memory_bytes_avg{@})", "{{instance}}")],
            "bytes",
        ),
        timeseries(
            "Restarts per container",
            "Average number of restarts by the engine, over all containers. Top machines only.",
            [Query("topk($top, census_container_restarts_avg{@})", "{{instance}}")],
            "short",
        ),
        timeseries(
            "Memory committed to containers",
            "Sum of the memory limits of running containers, as a fraction of the machine's"
            " memory. Containers without a limit do not count.",
            [
                Query(
                    """topk($top, max by (instance) (census_container_memory_limit_bytes{@})
                        / max by (instance) (machine_memory_bytes{@}))""",
                    "{{instance}}",
                )
            ],
            "percentunit",
        ),
        table(
            "Machines",
            "Number of containers, domains and images per machine.",
            [
                Query(
                    """sum by (instance)
                        (census_containers{@, engine=~"$engine", state="running"})""",
                    column="Running",
                    unit="short",
                ),
                Query(
                    """sum by (instance)
                        (census_containers{@, engine=~"$engine", state="stopped"})""",
                    column="Stopped",
                    unit="short",
                ),
                Query(
                    "sum by (instance) (census_containers_high_restarts{@})",
                    column="Frequent restarts",
                    unit="short",
                    thresholds=YELLOW_FROM_ONE,
                ),
                Query(
                    'sum by (instance) (census_domains{@, state="running"})',
                    column="Domains",
                    unit="short",
                ),
                Query("sum by (instance) (census_images{@})", column="Images", unit="short"),
                Query(
                    "sum by (instance) (census_image_bytes{@})", column="Image size", unit="bytes"
                ),
            ],
            labels={"instance": "Instance"},
            sort="Running",
        ),
    ],
)

IMAGES = Row(
    "Images",
    [
        table(
            "Images",
            "Images of the fleet by name: number of machines and containers that have them, and"
            " size. More than one ID means different builds with the same name.",
            [
                Query("count by (image) (census_image_info{@})", column="Machines", unit="short"),
                Query(
                    "count by (image) (count by (image, image_id) (census_image_info{@}))",
                    column="IDs",
                    unit="short",
                    thresholds=[
                        {"color": "transparent", "value": None},
                        {"color": "yellow", "value": 2},
                    ],
                ),
                Query(
                    "sum by (image) (census_image_containers{@})", column="Containers", unit="short"
                ),
                Query("max by (image) (census_image_size_bytes{@})", column="Size", unit="bytes"),
            ],
            labels={"image": "Image"},
            sort="Containers",
            width=12,
            height=12,
        ),
        bar_gauge(
            "Largest images",
            "Image size in bytes, including shared layers.",
            Query("topk($top, max by (image) (census_image_size_bytes{@}))", "{{image}}"),
            "bytes",
            width=12,
            height=12,
        ),
        timeseries(
            "Image size by machine",
            "Total size of the images on a machine, in bytes. Top machines only.",
            [Query("topk($top, sum by (instance) (census_image_bytes{@}))", "{{instance}}")],
            "bytes",
        ),
        timeseries(
            "Reclaimable space",
            "Unused bytes that the engine can free, by type. Requires --collector.container_size.",
            [
                Query(
                    """topk($top, sum by (instance, engine, type)
                        (strata_engine_disk_reclaimable_bytes{@, engine=~"$engine"}))""",
                    "{{instance}} {{engine}} {{type}}",
                )
            ],
            "bytes",
        ),
    ],
)

VERSIONS = Row(
    "Versions and time zones",
    [
        bar_gauge(
            "Exporters",
            "Number of machines by exporter version.",
            Query("count by (version) (strata_build_info{@})", "{{version}}"),
            "short",
        ),
        bar_gauge(
            "Distributions",
            "Number of machines by distribution.",
            Query("count by (pretty_name) (node_os_info{@})", "{{pretty_name}}"),
            "short",
        ),
        bar_gauge(
            "Kernels",
            "Number of machines by kernel release.",
            Query("count by (release) (node_uname_info{@})", "{{release}}"),
            "short",
        ),
        bar_gauge(
            "Container engines",
            "Number of engines by version.",
            Query(
                'count by (engine, version) (strata_engine_info{@, engine=~"$engine"})',
                "{{engine}} {{version}}",
            ),
            "short",
        ),
        bar_gauge(
            "Hypervisors",
            "Number of machines by version of the libvirt daemon and of the hypervisor.",
            Query(
                """count by (libvirtd_running, hypervisor_running) (libvirt_versions_info{@})""",
                "libvirt {{libvirtd_running}}, hypervisor {{hypervisor_running}}",
            ),
            "short",
        ),
        bar_gauge(
            "Cgroup version",
            "Number of machines by cgroup version.",
            Query("count by (version) (strata_cgroup_info{@})", "{{version}}"),
            "short",
        ),
        bar_gauge(
            "Time zones",
            "Number of machines by time zone.",
            Query("count by (timezone) (census_timezone_info{@})", "{{timezone}}"),
            "short",
        ),
        table(
            "Machine details",
            "Kernel, distribution, time zone and exporter version per machine.",
            [
                Query("max by (instance, nodename, release, machine) (node_uname_info{@})"),
                Query("max by (instance, pretty_name) (node_os_info{@})"),
                Query("max by (instance, timezone) (census_timezone_info{@})"),
                Query("max by (instance, version) (strata_build_info{@})"),
            ],
            labels={
                "instance": "Instance",
                "nodename": "Name",
                "pretty_name": "Distribution",
                "release": "Kernel",
                "machine": "Architecture",
                "timezone": "Time zone",
                "version": "Exporter",
            },
            sort="Instance",
            descending=False,
            width=16,
        ),
    ],
)

DASHBOARD = Dashboard(
    uid="strata-census",
    title="Strata / Census",
    description="Inventory of a fleet: containers, domains and images by state, size, version and time zone, without container names.",
    target_metric="strata_build_info",
    variables=[
        query_variable(
            "engine",
            "Engine",
            "Container engine; applies to panels whose metrics have an engine label.",
            'label_values(census_containers{job=~"$job", instance=~"$instance"}, engine)',
            ".*",
        ),
        TOP,
    ],
    rows=[STATE, USE, IMAGES, VERSIONS],
)
