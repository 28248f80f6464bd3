//! Properties of block devices by device number: `dev/block` in sysfs.

use std::collections::{HashMap, hash_map::Entry};

use super::Snapshot;
use crate::error::Result;

/// Major number of loop devices.
const LOOP: u32 = 7;

/// A block device.
#[derive(Debug, Clone)]
pub struct BlockDevice {
    /// Name in `/dev`.
    pub name: String,
    /// Whether its I/O is also counted on a device below it.
    pub is_stacked: bool,
    /// Whether it is a partition.
    pub is_partition: bool,
}

/// Block devices seen so far, each read once.
#[derive(Debug, Default)]
pub struct BlockDevices(HashMap<(u32, u32), BlockDevice>);

impl BlockDevices {
    /// Returns the device with these numbers.
    pub fn get(&mut self, snapshot: &Snapshot, major: u32, minor: u32) -> &BlockDevice {
        match self.0.entry((major, minor)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(read_block_device(snapshot, major, minor)),
        }
    }
}

fn read_block_device(snapshot: &Snapshot, major: u32, minor: u32) -> BlockDevice {
    let numbers = format!("{major}:{minor}");
    let devices = snapshot.sys_dir("dev/block");
    let device = devices.as_ref().ok().map(|devices| devices.dir(&numbers));
    let device = device.and_then(Result::ok);
    let name = devices.and_then(|devices| devices.read_link_name(&numbers));
    // Multipath passes requests on below the layer where the kernel counts.
    let is_multipath = || {
        let id = device.as_ref()?.read_trimmed("dm/uuid").ok()?;
        id.starts_with("mpath-").then_some(())
    };
    let has_slaves = || {
        let slaves = device.as_ref()?.dir("slaves").ok()?.names().ok()?;
        (!slaves.is_empty()).then_some(())
    };
    let is_partition = device
        .as_ref()
        .is_some_and(|device| device.has("partition"));
    BlockDevice {
        is_partition,
        // The kernel cannot have a slash in a file name here.
        name: match name {
            Ok(name) => format!("/dev/{}", name.replace('!', "/")),
            Err(_) => numbers,
        },
        is_stacked: major == LOOP || (has_slaves().is_some() && is_multipath().is_none()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sources::cgroup::testing::TempTree;

    #[test]
    fn devices_have_their_names_in_dev() {
        let tree = TempTree::new("disks-names");
        for (numbers, name) in [
            ("8:16", "sdb"),
            ("104:0", "cciss!c0d0"),
            ("253:0", "dm-0"),
            ("253:1", "dm-1"),
        ] {
            tree.write(&format!("sys/devices/{name}/size"), "1\n");
            tree.link(
                &format!("sys/dev/block/{numbers}"),
                &format!("../../devices/{name}"),
            );
        }
        for name in ["dm-0", "dm-1"] {
            tree.write(&format!("sys/devices/{name}/slaves/sdb/size"), "1\n");
        }
        tree.write("sys/devices/dm-0/dm/uuid", "LVM-xyz\n");
        tree.write("sys/devices/dm-1/dm/uuid", "mpath-3600\n");
        let deadline = Instant::now() + Duration::from_secs(60);
        let snapshot = Snapshot::new(tree.roots().into(), deadline);
        let mut disks = BlockDevices::default();
        for (major, minor, name, is_stacked) in [
            (8, 16, "/dev/sdb", false),
            (104, 0, "/dev/cciss/c0d0", false),
            (253, 0, "/dev/dm-0", true),
            (253, 1, "/dev/dm-1", false),
            (7, 3, "7:3", true),
            (9, 9, "9:9", false),
        ] {
            let disk = disks.get(&snapshot, major, minor);
            assert_eq!((disk.name.as_str(), disk.is_stacked), (name, is_stacked));
        }
        assert_eq!(disks.0.len(), 6);
    }
}
