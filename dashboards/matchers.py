"""What is meant by a file system, a network interface, a host and an exporter.

Matchers stand in PromQL behind a board's own, as in `node_filesystem_size_bytes{@, DISKS}`.
"""

# File systems that hold what somebody wants to keep, and can fill up.
DISKS = 'fstype!~"tmpfs|ramfs|devtmpfs|squashfs|erofs|iso9660|overlay|nsfs"'

# Interfaces that packets leave the machine by: those that are made for containers and
# virtual machines count the same packets again.
WIRES = (
    'device!~"lo|veth.*|docker.*|br-.*|virbr.*|vnet.*|tap.*|cni.*|flannel.*|cali.*|podman.*'
    '|ifb.*|dummy.*"'
)

# All jobs is `job=~".+"`, and `up`, `scrape_…`, `process_…` and ALERTS are there for whatever
# Prometheus scrapes. These follow such an expression and leave those of our jobs: jobs in
# which any target was a host, or an exporter, in the last day, so that what is down counts.
OF_HOSTS = "and on (job) last_over_time(node_uname_info{@target}[1d])"
OF_EXPORTERS = "and on (job) last_over_time(strata_build_info{@target}[1d])"
# And those of exporters that answer.
OURS = "and on (job, instance) strata_build_info{@target}"
