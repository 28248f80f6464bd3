"""What is meant by a file system and by a network interface: matchers for both.

They stand in PromQL behind a board's own, as in `node_filesystem_size_bytes{@, DISKS}`.
"""

# File systems that hold what somebody wants to keep, and can fill up.
DISKS = 'fstype!~"tmpfs|ramfs|devtmpfs|squashfs|erofs|iso9660|overlay|nsfs"'

# Interfaces that packets leave the machine by: those that are made for containers and
# virtual machines count the same packets again.
WIRES = (
    'device!~"lo|veth.*|docker.*|br-.*|virbr.*|vnet.*|tap.*|cni.*|flannel.*|cali.*|podman.*'
    '|ifb.*|dummy.*"'
)
