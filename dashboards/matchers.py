"""Label matchers and joins shared by several dashboards.

Matchers follow the dashboard's own in a selector: `node_filesystem_size_bytes{@, DISK_FILESYSTEMS}`.
"""

# File systems with persistent data that can fill up.
DISK_FILESYSTEMS = 'fstype!~"tmpfs|ramfs|devtmpfs|squashfs|erofs|iso9660|overlay|nsfs"'

# Physical interfaces. Interfaces of containers and domains would count the same packets again.
PHYSICAL_INTERFACES = (
    'device!~"lo|veth.*|docker.*|br-.*|virbr.*|vnet.*|tap.*|cni.*|flannel.*|cali.*|podman.*'
    '|ifb.*|dummy.*"'
)

# `job=~".+"` (All) also matches other jobs, and `up`, `scrape_…`, `process_…` and ALERTS exist for
# every target of Prometheus. Append one of these to such an expression to keep only the jobs in
# which some target was a host, or an exporter, within the last day. Targets that are down count.
HOST_JOBS = "and on (job) last_over_time(node_uname_info{@target}[1d])"
EXPORTER_JOBS = "and on (job) last_over_time(strata_build_info{@target}[1d])"
# Keeps only exporters that are up.
LIVE_EXPORTERS = "and on (job, instance) strata_build_info{@target}"
