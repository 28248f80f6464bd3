//! Fuzz targets for kernel data other than plain files: see [`crate::fuzzing`].

use std::path::Path;

use super::{
    Snapshot, addresses::InterfaceAddress, ethtool, libvirt::FetchResult, links, mounts::MountInfo,
    neighbours::Neighbour, netlink, qdiscs::Qdisc, routes::Route, tcp_sockets::TcpSockets,
};
use crate::sources::{HostState, Roots};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use super::{
    cgroup::fuzzing as cgroup_files, dbus::fuzzing as dbus, engine::fuzzing as engine,
    libvirt::fuzzing as libvirt,
};

/// Creates a snapshot of a host in a directory, with these domains.
pub(crate) fn snapshot(root: &Path, domains: Option<FetchResult>) -> Snapshot {
    let roots = Roots {
        procfs: root.join("proc"),
        sysfs: root.join("sys"),
        rootfs: root.join("root"),
        udev_data: root.join("udev"),
    };
    let host: Arc<HostState> = roots.into();
    let snapshot = Snapshot::new(host, Instant::now() + Duration::from_secs(60));
    if let Some(domains) = domains {
        // The snapshot is new, so the value is not set yet.
        snapshot.domains.get_or_read(|| Ok(domains)).ok();
    }
    snapshot
}

/// Parses a netlink response: the first byte selects the request, the rest are datagrams in one.
/// Returns the number of parsed objects.
pub(crate) fn netlink(bytes: &[u8]) -> usize {
    let Some((kind, datagram)) = bytes.split_first() else {
        return 0;
    };
    let max_len = datagram.len();
    match kind % 6 {
        0 => {
            let links = netlink::parse_response(datagram, links::parse_into).unwrap_or_default();
            let links = links::sort_and_dedup(links);
            let text = |link: &super::Link| {
                let names: usize = link.altnames.iter().map(String::len).sum();
                link.name.len() + link.ifalias.len() + link.address.len() + names
            };
            // One byte becomes at most three: in an address, or as U+FFFD.
            assert!(links.iter().map(text).sum::<usize>() <= 3 * max_len);
            for link in &links {
                assert!(!link.name.is_empty() && !link.name.contains('\0'));
                assert!(super::Link::find(&links, link.ifindex) == Some(link));
                assert!(link.operstate().is_none() || link.operstate.is_some());
                assert!(link.sysfs_flags().is_none() || link.allmulti.is_some());
            }
            links.len()
        }
        1 => {
            let routes = netlink::parse_response(datagram, Route::parse_into).unwrap_or_default();
            assert!(routes.len() <= max_len);
            assert!(routes.iter().all(|item| !item.protocol_name().is_empty()));
            routes.len()
        }
        2 => {
            let neighbours =
                netlink::parse_response(datagram, Neighbour::parse_into).unwrap_or_default();
            assert!(neighbours.len() <= max_len);
            neighbours.len()
        }
        3 => {
            let qdiscs = netlink::parse_response(datagram, Qdisc::parse_into).unwrap_or_default();
            assert!(qdiscs.iter().map(|item| item.kind.len()).sum::<usize>() <= 3 * max_len);
            qdiscs.len()
        }
        4 => {
            let sockets =
                netlink::parse_response(datagram, TcpSockets::add_message).unwrap_or_default();
            let sockets = sockets.states().map(|(_, count)| count).sum::<u64>();
            let sockets = usize::try_from(sockets).unwrap_or(usize::MAX);
            assert!(sockets <= max_len);
            sockets
        }
        _ => {
            let addresses =
                netlink::parse_response(datagram, InterfaceAddress::parse_into).unwrap_or_default();
            assert!(addresses.len() <= max_len);
            addresses.len()
        }
    }
}

pub(crate) use ethtool::parse_all as ethtool;

/// Parses `/proc/PID/mountinfo`; returns the number of mounts.
pub(crate) fn mountinfo(bytes: &[u8]) -> usize {
    let info = MountInfo::from_bytes(bytes);
    let (mut text, mut mounts) = (0, 0);
    for mount in info.mounts().flatten() {
        text += mount.mount_point.as_os_str().len();
        mounts += 1;
        text += mount.source.len() + mount.fs_type.len() + mount.options.len();
    }
    // One byte becomes at most three, as U+FFFD.
    assert!(text <= 3 * bytes.len());
    mounts
}
