"""What there is in a fleet: how many of what, made of what, in which versions."""

from grafana import (
    NONE_IS_BEST,
    TOP,
    Board,
    Query,
    Row,
    bars,
    lines,
    table,
    tile,
    values_of,
)

STATE = Row(
    "State",
    collapsed=False,
    panels=[
        tile(
            "Machines",
            "Exporters that answered.",
            "count(count by (instance) (strata_build_info{@}))",
            "short",
            decimals=0,
        ),
        tile(
            "Containers running",
            "Containers that run.",
            'sum(census_containers{@, engine=~"$engine", state="running"})',
            "short",
            decimals=0,
        ),
        tile(
            "Containers stopped",
            "Containers that exited or are dead.",
            'sum(census_containers{@, engine=~"$engine", state="stopped"})',
            "short",
            decimals=0,
        ),
        tile(
            "Restarted often",
            "Containers that their engine restarted more often than --collector.census.high-restarts.",
            "sum(census_containers_high_restarts{@})",
            "short",
            NONE_IS_BEST,
            decimals=0,
        ),
        tile(
            "Guests running",
            "Virtual machines that run.",
            'sum(census_domains{@, state="running"})',
            "short",
            decimals=0,
        ),
        tile(
            "Guests stopped",
            "Virtual machines that are off or crashed.",
            'sum(census_domains{@, state="stopped"})',
            "short",
            decimals=0,
        ),
        tile(
            "Images",
            "Images on all machines; one that is on several counts on each.",
            "sum(census_images{@})",
            "short",
            decimals=0,
        ),
        tile(
            "Bytes of images",
            "Bytes of all images. Layers that several images share count in each of them, so they"
            " take less room.",
            "sum(census_image_bytes{@})",
            "bytes",
        ),
        lines(
            "Containers by state",
            "Containers by what they do; other is created, restarting or being removed.",
            [
                Query(
                    'sum by (state) (census_containers{@, engine=~"$engine"})',
                    "{{state}}",
                )
            ],
            "short",
            stacked=True,
        ),
        lines(
            "Virtual machines by state",
            "Virtual machines by what they do.",
            [Query("sum by (state) (census_domains{@})", "{{state}}")],
            "short",
            stacked=True,
        ),
    ],
)

USE = Row(
    "Use and restarts",
    [
        lines(
            "CPU of a container",
            "CPU time that a running container used on average, 100 % being one CPU; machines with"
            " most.",
            [Query("topk($top, census_container_cpu_percent_avg{@})", "{{instance}}")],
            "percent",
        ),
        lines(
            "Memory of a container",
            "Working set of a running container on average; machines with most.",
            [Query("topk($top, census_container_memory_bytes_avg{@})", "{{instance}}")],
            "bytes",
        ),
        lines(
            "Restarts of a container",
            "How often a container was restarted by its engine on average, over all there are;"
            " machines with most.",
            [Query("topk($top, census_container_restarts_avg{@})", "{{instance}}")],
            "short",
        ),
        lines(
            "Memory promised to containers",
            "Memory limits of running containers together, as part of the machine's memory;"
            " containers without a limit do not count.",
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
            "What each machine has.",
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
                    column="Restarted often",
                    unit="short",
                    steps=NONE_IS_BEST,
                ),
                Query(
                    'sum by (instance) (census_domains{@, state="running"})',
                    column="Virtual machines",
                    unit="short",
                ),
                Query("sum by (instance) (census_images{@})", column="Images", unit="short"),
                Query(
                    "sum by (instance) (census_image_bytes{@})", column="Bytes of images", unit="bytes"
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
            "Images of the fleet by name: on how many machines, used by how many containers, how"
            " large. More than one id is more than one build under one name.",
            [
                Query(
                    "count by (image) (census_image_info{@})", column="Machines", unit="short"
                ),
                Query(
                    "count by (image) (count by (image, image_id) (census_image_info{@}))",
                    column="Ids",
                    unit="short",
                    steps=[
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
        bars(
            "Largest images",
            "Bytes of an image's layers, shared ones included.",
            Query("topk($top, max by (image) (census_image_size_bytes{@}))", "{{image}}"),
            "bytes",
            width=12,
            height=12,
        ),
        lines(
            "Bytes of images by machine",
            "How many bytes of images a machine keeps; those with most.",
            [Query("topk($top, sum by (instance) (census_image_bytes{@}))", "{{instance}}")],
            "bytes",
        ),
        lines(
            "Room that could be had back",
            "Bytes of an engine that nothing uses, by kind. Needs --collector.container_size.",
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
        bars(
            "Exporters",
            "Machines by version of this exporter.",
            Query("count by (version) (strata_build_info{@})", "{{version}}"),
            "short",
        ),
        bars(
            "Distributions",
            "Machines by distribution.",
            Query("count by (pretty_name) (node_os_info{@})", "{{pretty_name}}"),
            "short",
        ),
        bars(
            "Kernels",
            "Machines by version of Linux.",
            Query("count by (release) (node_uname_info{@})", "{{release}}"),
            "short",
        ),
        bars(
            "Container engines",
            "Engines by version.",
            Query(
                'count by (engine, version) (strata_engine_info{@, engine=~"$engine"})',
                "{{engine}} {{version}}",
            ),
            "short",
        ),
        bars(
            "Hypervisors",
            "Machines by versions of libvirt's daemon and of the hypervisor.",
            Query(
                """count by (libvirtd_running, hypervisor_running) (libvirt_versions_info{@})""",
                "libvirt {{libvirtd_running}}, hypervisor {{hypervisor_running}}",
            ),
            "short",
        ),
        bars(
            "Control groups",
            "Machines by version of control groups.",
            Query("count by (version) (strata_cgroup_info{@})", "{{version}}"),
            "short",
        ),
        bars(
            "Time zones",
            "Machines by time zone.",
            Query("count by (timezone) (census_timezone_info{@})", "{{timezone}}"),
            "short",
        ),
        table(
            "Each machine",
            "What each machine runs, to be filtered by its columns.",
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

BOARD = Board(
    uid="strata-census",
    title="Strata / Census",
    description="What there is in a fleet: containers, virtual machines and images by state, size,"
    " version and time zone, without naming containers.",
    known_by="strata_build_info",
    variables=[
        values_of(
            "engine",
            "Engine",
            "Kinds of container engines, for what is told by engine.",
            'label_values(census_containers{job=~"$job", instance=~"$instance"}, engine)',
            ".*",
        ),
        TOP,
    ],
    rows=[STATE, USE, IMAGES, VERSIONS],
)
