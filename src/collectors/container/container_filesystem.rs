//! Disk space of the host, which cAdvisor reports for the cgroup `/`: one mount of each block
//! device is read, with a guard against mounts that do not respond.
//!
//! Other file systems (overlay, tmpfs, network) are left to `node_filesystem_*`: they mean nothing
//! as devices of a cgroup. What a container has written is not here.

use std::{collections::BTreeSet, time::Duration};

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    collectors::mount_usage::{FS_TYPES_EXCLUDE, MountUsage},
    duration,
    error::Result,
    family::{BaseLabels, Families, Value},
    metric::Desc,
    metrics,
    pattern::Pattern,
    sources::{Mount, Snapshot, StatfsResult},
};

metrics! {
    /// Bytes used on the file system of this device.
    USAGE: Gauge = "container_fs_usage_bytes" base CGROUP ["device"];
    /// Size of the file system of this device in bytes.
    LIMIT: Gauge = "container_fs_limit_bytes" base CGROUP ["device"];
    /// Inodes of the file system of this device; absent where inodes are allocated on demand.
    INODES: Gauge = "container_fs_inodes_total" base CGROUP ["device"];
    /// Free inodes of the file system of this device; absent where inodes are allocated on demand.
    INODES_FREE: Gauge = "container_fs_inodes_free" base CGROUP ["device"];
}

/// Prefix of the names of real devices.
const DEVICE_PREFIX: &str = "/dev/";

/// The flags of the `container_filesystem` collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct ContainerFilesystemFlags {
    /// Time limit for reading a mount, after which it counts as stuck.
    #[arg(
        long = "collector.container_filesystem.mount-timeout",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration::parse
    )]
    container_filesystem_mount_timeout: Duration,
}

#[derive(Debug)]
pub(super) struct ContainerFilesystem {
    excluded_types: Pattern,
    /// Keyed by the device name.
    mount_usage: MountUsage<String>,
}

impl Collector for ContainerFilesystem {
    const NAME: &'static str = "container_filesystem";
    const ABOUT: &'static str = "usage of the host's filesystems, under cAdvisor's names";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = ContainerFilesystemFlags;

    fn new(flags: ContainerFilesystemFlags) -> Result<Self, String> {
        if flags.container_filesystem_mount_timeout.is_zero() {
            let flag = "--collector.container_filesystem.mount-timeout";
            return Err(format!("{flag} must be greater than 0"));
        }
        Ok(Self {
            excluded_types: FS_TYPES_EXCLUDE
                .parse()
                .map_err(|error| format!("{FS_TYPES_EXCLUDE}: {error}"))?,
            mount_usage: MountUsage::new(flags.container_filesystem_mount_timeout, |mount| {
                mount.source.into_owned()
            }),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let mut present = snapshot.workloads()?.present();
        let Some((root, _)) = present.find(|(workload, _)| workload.path == "/") else {
            return Ok(out);
        };
        let mut is_first_mount = first_mount_per_device();
        let (devices, results) = self.mount_usage.query(snapshot, &mut out, |mount| {
            !self.excluded_types.matches(&mount.fs_type) && is_first_mount(mount)
        })?;
        for (device, result) in devices.iter().zip(&results) {
            add_space(&mut out, base_labels(root), device, result);
        }
        Ok(out)
    }
}

/// Returns a predicate that is true for the first mount of each block device. Btrfs subvolumes
/// have their own device numbers but share the device's name; a root file system may have its own
/// name but shares the device's number.
fn first_mount_per_device() -> impl FnMut(&Mount<'_>) -> bool {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    move |mount| {
        mount.source.starts_with(DEVICE_PREFIX)
            && names.insert(mount.source.clone().into_owned())
            && numbers.insert((mount.major, mount.minor))
    }
}

/// Adds nothing for a mount that does not respond.
fn add_space(out: &mut Families, base: &BaseLabels, device: &str, result: &StatfsResult) {
    let StatfsResult::Space(space) = result else {
        return;
    };
    let used = space.blocks.saturating_sub(space.free);
    out.add_with(
        &USAGE,
        base,
        [device],
        Value::product(used, space.block_size),
    );
    out.add_with(
        &LIMIT,
        base,
        [device],
        Value::product(space.blocks, space.block_size),
    );
    if space.files > 0 {
        out.add_with(&INODES, base, [device], space.files);
        out.add_with(&INODES_FREE, base, [device], space.files_free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{family, sources::Space};

    fn mount(id: u64, minor: u32, source: &'static str) -> Mount<'static> {
        Mount {
            id,
            parent_id: 1,
            major: 8,
            minor,
            mount_point: format!("/{id}").into(),
            fs_type: "ext4".into(),
            source: source.into(),
            read_only: false,
            options: "".into(),
        }
    }

    #[test]
    fn device_is_queried_once_for_all_its_mounts() {
        let mounts = [
            mount(1, 1, "/dev/root"),
            mount(2, 1, "/dev/sda1"),
            mount(3, 2, "/dev/sdb"),
            mount(4, 3, "/dev/sdb"),
            mount(5, 4, "tank/data"),
            mount(6, 5, "tmpfs"),
            mount(7, 6, "/dev/sdc"),
        ];
        let mut is_first = first_mount_per_device();
        let first_mounts = mounts.iter().filter(|mount| is_first(mount));
        let ids = first_mounts.map(|mount| mount.id);
        assert_eq!(ids.collect::<Vec<_>>(), [1, 3, 7]);
    }

    fn lines(result: &StatfsResult) -> Vec<String> {
        let mut out = Families::default();
        add_space(
            &mut out,
            &family::render_labels([("id", "/")]),
            "/dev/sda",
            result,
        );
        out.lines()
    }

    #[test]
    fn root_reserved_blocks_are_not_used() {
        let space = Space {
            block_size: 4096,
            blocks: 7,
            free: 5,
            available: 3,
            files: 11,
            files_free: 2,
        };
        let series = r#"{id="/",device="/dev/sda"}"#;
        let expected = [
            ("usage_bytes", 8192),
            ("limit_bytes", 28672),
            ("inodes_total", 11),
            ("inodes_free", 2),
        ];
        let expected = expected.map(|(name, value)| format!("container_fs_{name}{series} {value}"));
        assert_eq!(lines(&StatfsResult::Space(space.clone())), expected);
        // Btrfs, for example.
        let without_inodes = Space { files: 0, ..space };
        assert_eq!(lines(&StatfsResult::Space(without_inodes)).len(), 2);
    }

    #[test]
    fn unresponsive_device_has_no_values() {
        for result in [
            StatfsResult::TimedOut,
            StatfsResult::Skipped,
            StatfsResult::Failed(rustix::io::Errno::IO),
        ] {
            assert_eq!(lines(&result), Vec::<String>::new());
        }
    }
}
