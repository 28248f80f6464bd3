//! Btrfs file systems, from `/sys/fs/btrfs/UUID`, documented in `btrfs(5)`.
//!
//! Device errors come from `devinfo/DEVID/error_stats` (Linux 5.14), which is readable without
//! privileges. `node_exporter` uses ioctls instead, which need an open mount point and a
//! capability. Sysfs does not map `DEVID` to a device name, so the `device` label is set only if
//! the file system has a single device. The unallocated bytes of a device are available only
//! through the ioctls and are not exposed.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot, Text},
};

metrics! {
    /// Filesystem information.
    FILE_SYSTEM: Info = "node_btrfs_info" ["uuid", "label"];
    /// Size of the global reserve in bytes.
    GLOBAL_RSV_SIZE: Gauge = "node_btrfs_global_rsv_size_bytes" ["uuid"];
    /// Transactions committed.
    COMMITS: Counter = "node_btrfs_commits_total" ["uuid"];
    /// Duration of the last commit in seconds.
    LAST_COMMIT: Gauge = "node_btrfs_last_commit_seconds" ["uuid"];
    /// Duration of the longest commit in seconds.
    MAX_COMMIT: Gauge = "node_btrfs_max_commit_seconds" ["uuid"];
    /// Total time spent in commits in seconds.
    COMMIT_TIME: Counter = "node_btrfs_commit_seconds_total" ["uuid"];
    /// Size of a device in bytes, including space that the file system does not use.
    DEVICE_SIZE: Gauge = "node_btrfs_device_size_bytes" ["uuid", "device"];
    /// Errors of a device since the last reset; the device label is set only on file systems with a
    /// single device.
    DEVICE_ERRORS: Counter = "node_btrfs_device_errors_total" ["uuid", "device", "devid", "type"];
    /// Bytes reserved for writes in progress.
    RESERVED: Gauge = "node_btrfs_reserved_bytes" ["uuid", "block_group_type"];
    /// Bytes in use, not counting redundant copies.
    USED: Gauge = "node_btrfs_used_bytes" ["uuid", "block_group_type", "mode"];
    /// Bytes that can be stored in the allocated space, not counting redundant copies.
    SIZE: Gauge = "node_btrfs_size_bytes" ["uuid", "block_group_type", "mode"];
    /// Bytes allocated on the devices per byte stored; parity profiles are assumed to span all
    /// devices.
    ALLOCATION_RATIO: Gauge = "node_btrfs_allocation_ratio" ["uuid", "block_group_type", "mode"];
}

const SECTOR: u64 = 512;

#[derive(Debug)]
pub(super) struct Btrfs;

impl Collector for Btrfs {
    const NAME: &'static str = "btrfs";
    const ABOUT: &'static str = "btrfs allocation, commits and device errors";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for file_system in snapshot.sys_dirs("fs/btrfs")? {
            let uuid = file_system.name();
            // The others are `features` and `debug`.
            if uuid.contains('-') {
                add_file_system(&mut out, &uuid, &file_system);
            }
        }
        Ok(out)
    }
}

fn add_file_system(out: &mut Families, uuid: &str, file_system: &Dir) {
    if let Some(label) = out.ok_or_skip(file_system.read_trimmed("label")) {
        out.add(&FILE_SYSTEM, [uuid, &label], true);
    }
    if let Some(size) = out.ok_or_skip(file_system.read_number::<u64>("allocation/global_rsv_size"))
    {
        out.add(&GLOBAL_RSV_SIZE, [uuid], size);
    }
    if let Some(stats) = out.ok_or_skip(file_system.read("commit_stats")) {
        add_commits(out, uuid, &stats);
    }

    let dirs = |name| file_system.dir(name).and_then(|dir| dir.dirs());
    let devices = out.ok_or_skip(dirs("devices")).unwrap_or_default();
    for device in &devices {
        if let Some(sectors) = out.ok_or_skip(device.read_number::<u64>("size")) {
            let size = Value::product(sectors, SECTOR);
            out.add(&DEVICE_SIZE, [uuid, &device.name()], size);
        }
    }
    let devinfo = out.ok_or_skip(dirs("devinfo")).unwrap_or_default();
    let single_device = match (devices.as_slice(), devinfo.len()) {
        ([device], 1) => device.name(),
        _ => String::new(),
    };
    for device in devinfo {
        if let Some(stats) = out.ok_or_skip(device.read("error_stats")) {
            add_errors(out, [uuid, &single_device, &device.name()], &stats);
        }
    }
    for group in out.ok_or_skip(dirs("allocation")).unwrap_or_default() {
        add_block_group(out, uuid, &group, devices.len());
    }
}

/// Adds the metrics of a file with lines such as `last_commit_ms 7`.
fn add_commits(out: &mut Families, uuid: &str, stats: &Text) {
    for mut line in stats.lines() {
        let metric = match line.next_word() {
            Some("commits") => {
                if let Some(commits) = out.ok_or_skip(line.parse::<u64>("commits")) {
                    out.add(&COMMITS, [uuid], commits);
                }
                continue;
            }
            Some("last_commit_ms") => &LAST_COMMIT,
            Some("max_commit_ms") => &MAX_COMMIT,
            Some("total_commit_ms") => &COMMIT_TIME,
            _ => continue,
        };
        if let Some(milliseconds) = out.ok_or_skip(line.parse("milliseconds")) {
            out.add(metric, [uuid], Value::quotient(milliseconds, 1000));
        }
    }
}

/// Adds the metrics of a file with lines such as `write_errs 7`. The file contains `invalid`
/// until the device's statistics have been read.
fn add_errors(out: &mut Families, [uuid, device, devid]: [&str; 3], stats: &Text) {
    for mut line in stats.lines() {
        let kind = match line.next_word() {
            Some("write_errs") => "write_io",
            Some("read_errs") => "read_io",
            Some("flush_errs") => "flush_io",
            Some("corruption_errs") => "corruption",
            Some("generation_errs") => "generation",
            _ => continue,
        };
        if let Some(errors) = out.ok_or_skip(line.parse::<u64>("errors")) {
            out.add(&DEVICE_ERRORS, [uuid, device, devid, kind], errors);
        }
    }
}

/// Adds the metrics of one block group type, which has one or more profiles.
fn add_block_group(out: &mut Families, uuid: &str, group: &Dir, devices: usize) {
    let kind = group.name();
    if let Some(reserved) = out.ok_or_skip(group.read_number::<u64>("bytes_reserved")) {
        out.add(&RESERVED, [uuid, &kind], reserved);
    }
    for mode in out.ok_or_skip(group.dirs()).unwrap_or_default() {
        let name = mode.name();
        let labels = [uuid, &kind, &name];
        if let Some(used) = out.ok_or_skip(mode.read_number::<u64>("used_bytes")) {
            out.add(&USED, labels, used);
        }
        if let Some(size) = out.ok_or_skip(mode.read_number::<u64>("total_bytes")) {
            out.add(&SIZE, labels, size);
            if let Some(ratio) = allocation_ratio(&name, devices) {
                out.add(&ALLOCATION_RATIO, labels, ratio);
            }
        }
    }
}

/// Bytes allocated on the devices per byte stored.
fn allocation_ratio(mode: &str, devices: usize) -> Option<f64> {
    let striped = |parity: u32| {
        let all = u32::try_from(devices).ok()?;
        let data = all.checked_sub(parity).filter(|data| *data > 0)?;
        Some(f64::from(all) / f64::from(data))
    };
    match mode {
        "single" | "raid0" => Some(1.0),
        "dup" | "raid1" | "raid10" => Some(2.0),
        "raid1c3" => Some(3.0),
        "raid1c4" => Some(4.0),
        "raid5" => striped(1),
        "raid6" => striped(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    #[test]
    fn succeeds_without_btrfs() {
        let machine = MachineFixture::new("no-btrfs");
        let families = Btrfs.collect(&machine.snapshot()).unwrap();
        assert!(families.is_empty());
    }

    #[test]
    fn allocation_ratio_follows_raid_profile() {
        for (mode, devices, expected) in [
            ("single", 3, Some(1.0)),
            ("dup", 1, Some(2.0)),
            ("raid1c3", 3, Some(3.0)),
            ("raid5", 5, Some(1.25)),
            ("raid6", 4, Some(2.0)),
            ("raid5", 1, None),
            ("raid6", 0, None),
            ("raid7", 4, None),
        ] {
            assert_eq!(
                allocation_ratio(mode, devices),
                expected,
                "{mode} of {devices}"
            );
        }
    }

    #[test]
    fn unknown_device_errors_are_not_zero() {
        let mut out = Families::default();
        add_errors(&mut out, ["u", "", "2"], &Text::from("invalid\n"));
        assert!(out.is_empty());
        let stats = Text::from("write_errs 3\nread_errs x\nodd_errs 4\n");
        add_errors(&mut out, ["u", "", "2"], &stats);
        assert_eq!(
            out.lines(),
            [r#"node_btrfs_device_errors_total{uuid="u",device="",devid="2",type="write_io"} 3"#]
        );
        assert_eq!(out.errors().0, 1);
    }

    #[test]
    fn commits_are_counted_in_seconds() {
        let mut out = Families::default();
        let stats =
            Text::from("commits 7\ncur_commit_ms 0\nlast_commit_ms 12\ntotal_commit_ms 1500\n");
        add_commits(&mut out, "u", &stats);
        assert_eq!(
            out.lines(),
            [
                r#"node_btrfs_commits_total{uuid="u"} 7"#,
                r#"node_btrfs_last_commit_seconds{uuid="u"} 0.012"#,
                r#"node_btrfs_commit_seconds_total{uuid="u"} 1.5"#,
            ]
        );
    }
}
