//! Space and inodes of the mounted file systems, and mounts that do not respond. The module
//! `mount_usage` documents what is read, and how a mount that hangs is isolated.

use std::{io, time::Duration};

use crate::{
    collector::Collector,
    collectors::mount_usage::{FS_TYPES_EXCLUDE, MountUsage},
    duration,
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    pattern::{Filter, Pattern},
    sources::{Mount, Snapshot, Space, StatfsResult},
};

metrics! {
    /// Filesystem size in bytes.
    SIZE: Gauge = "node_filesystem_size_bytes" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem free space in bytes, including space reserved for root.
    FREE: Gauge = "node_filesystem_free_bytes" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem space available to non-root users in bytes.
    AVAIL: Gauge = "node_filesystem_avail_bytes" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem total file nodes; 0 if they are allocated dynamically.
    FILES: Gauge = "node_filesystem_files" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem total free file nodes; 0 if they are allocated dynamically.
    FILES_FREE: Gauge = "node_filesystem_files_free" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem read-only status.
    READONLY: Gauge = "node_filesystem_readonly" ["device", "mountpoint", "fstype", "device_error"];
    /// Whether an error occurred while getting statistics for the given device.
    DEVICE_ERROR: Gauge = "node_filesystem_device_error" ["device", "mountpoint", "fstype", "device_error"];
    /// Filesystem mount information: the device number of each responsive mount.
    MOUNT: Info = "node_filesystem_mount_info" ["device", "major", "minor", "mountpoint"];
    /// Bytes of purgeable space; never exposed on Linux, since only macOS reports it.
    PURGEABLE: Gauge = "node_filesystem_purgeable_bytes" ["device", "mountpoint", "fstype", "device_error"];
}

/// Default exclude pattern: mount points that do not belong to a file system of the host.
const MOUNT_POINTS_EXCLUDE: &str =
    "^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct FileSystemFlags {
    /// Regexp of mount points to exclude; by default /dev, /proc, /sys, credentials of services
    /// and storage of containers.
    #[arg(
        long = "collector.filesystem.mount-points-exclude",
        alias = "collector.filesystem.ignored-mount-points",
        value_name = "REGEX"
    )]
    filesystem_mount_points_exclude: Option<Pattern>,
    /// Regexp of mount points to include; clears the default of the exclude flag.
    #[arg(
        long = "collector.filesystem.mount-points-include",
        value_name = "REGEX"
    )]
    filesystem_mount_points_include: Option<Pattern>,
    /// Regexp of filesystem types to exclude; by default pseudo filesystems, overlay, squashfs and
    /// similar.
    #[arg(
        long = "collector.filesystem.fs-types-exclude",
        alias = "collector.filesystem.ignored-fs-types",
        value_name = "REGEX"
    )]
    filesystem_fs_types_exclude: Option<Pattern>,
    /// Regexp of filesystem types to include; clears the default of the exclude flag.
    #[arg(long = "collector.filesystem.fs-types-include", value_name = "REGEX")]
    filesystem_fs_types_include: Option<Pattern>,
    /// How long to wait for a mount to respond before it is marked as stuck.
    #[arg(
        long = "collector.filesystem.mount-timeout",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = duration::parse
    )]
    filesystem_mount_timeout: Duration,
    /// Accepted for compatibility and ignored; threads are started on demand.
    #[arg(
        long = "collector.filesystem.stat-workers",
        value_name = "N",
        hide = true
    )]
    filesystem_stat_workers: Option<i64>,
}

#[derive(Debug)]
pub(super) struct FileSystem {
    mount_points: Filter,
    types: Filter,
    mount_usage: MountUsage<MountEntry>,
}

impl Collector for FileSystem {
    const NAME: &'static str = "filesystem";
    const ABOUT: &'static str = "filesystem usage";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = FileSystemFlags;

    fn new(flags: FileSystemFlags) -> Result<Self, String> {
        if flags.filesystem_mount_timeout.is_zero() {
            return Err("--collector.filesystem.mount-timeout must be greater than 0".into());
        }
        Ok(Self {
            mount_points: Filter::new(
                (
                    "collector.filesystem.mount-points-include",
                    flags.filesystem_mount_points_include,
                ),
                (
                    "collector.filesystem.mount-points-exclude",
                    flags.filesystem_mount_points_exclude,
                ),
                MOUNT_POINTS_EXCLUDE,
            )?,
            types: Filter::new(
                (
                    "collector.filesystem.fs-types-include",
                    flags.filesystem_fs_types_include,
                ),
                (
                    "collector.filesystem.fs-types-exclude",
                    flags.filesystem_fs_types_exclude,
                ),
                FS_TYPES_EXCLUDE,
            )?,
            mount_usage: MountUsage::new(flags.filesystem_mount_timeout, entry),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let (mounts, results) = self.mount_usage.query(snapshot, &mut out, |mount| {
            self.types.matches(&mount.fs_type)
                && self
                    .mount_points
                    .matches(&mount.mount_point.to_string_lossy())
        })?;
        for (mount, result) in mounts.iter().zip(&results) {
            add_mount(&mut out, mount, result);
        }
        Ok(out)
    }
}

#[derive(Debug)]
struct MountEntry {
    device: String,
    mount_point: String,
    fs_type: String,
    major: String,
    minor: String,
    read_only: bool,
}

fn entry(mount: Mount<'_>) -> MountEntry {
    MountEntry {
        device: mount.source.into_owned(),
        mount_point: mount.mount_point.to_string_lossy().into_owned(),
        fs_type: mount.fs_type.into_owned(),
        major: mount.major.to_string(),
        minor: mount.minor.to_string(),
        read_only: mount.read_only,
    }
}

fn add_mount(out: &mut Families, mount: &MountEntry, result: &StatfsResult) {
    let (device, point) = (mount.device.as_str(), mount.mount_point.as_str());
    let error = match result {
        StatfsResult::Space(_) => String::new(),
        StatfsResult::Failed(errno) => go_error_text(&(*errno).into()),
        StatfsResult::TimedOut => "mountpoint timeout".to_owned(),
        StatfsResult::Skipped => "not asked, too many mountpoints time out".to_owned(),
    };
    let labels = [device, point, &mount.fs_type, &error];
    let space = match result {
        StatfsResult::Space(space) => Some(space),
        _ => None,
    };
    out.add(&DEVICE_ERROR, labels, space.is_none());
    out.add(&READONLY, labels, mount.read_only);
    let Some(space) = space else { return };
    let Space {
        block_size: block, ..
    } = *space;
    out.add(&SIZE, labels, Value::product(space.blocks, block));
    out.add(&FREE, labels, Value::product(space.free, block));
    out.add(&AVAIL, labels, Value::product(space.available, block));
    out.add(&FILES, labels, space.files);
    out.add(&FILES_FREE, labels, space.files_free);
    out.add(&MOUNT, [device, &mount.major, &mount.minor, point], true);
}

/// Returns the text of an error as in Go: the text of the C library with a lower-case first
/// letter.
fn go_error_text(error: &io::Error) -> String {
    if error.raw_os_error() == Some(libc::ESTALE) {
        return "stale NFS file handle".to_owned();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    // Acronyms such as `RPC` keep their case.
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_worded_as_in_node_exporter() {
        for (errno, words) in [
            (libc::EACCES, "permission denied"),
            (libc::ESTALE, "stale NFS file handle"),
            (libc::EIO, "input/output error"),
            (libc::ENOTCONN, "transport endpoint is not connected"),
            (libc::EDOTDOT, "RFS specific error"),
        ] {
            assert_eq!(go_error_text(&io::Error::from_raw_os_error(errno)), words);
        }
    }

    #[test]
    fn unresponsive_mount_has_no_values() {
        let mount = MountEntry {
            device: "srv:/x".into(),
            mount_point: "/mnt".into(),
            fs_type: "nfs".into(),
            major: "0".into(),
            minor: "52".into(),
            read_only: true,
        };
        let mut out = Families::default();
        add_mount(&mut out, &mount, &StatfsResult::TimedOut);
        let series =
            r#"{device="srv:/x",mountpoint="/mnt",fstype="nfs",device_error="mountpoint timeout"}"#;
        assert_eq!(
            out.lines(),
            [
                format!("node_filesystem_device_error{series} 1"),
                format!("node_filesystem_readonly{series} 1"),
            ]
        );
    }

    #[test]
    fn blocks_are_counted_in_bytes() {
        let mount = MountEntry {
            device: "d".into(),
            mount_point: "/".into(),
            fs_type: "ext4".into(),
            major: "8".into(),
            minor: "1".into(),
            read_only: false,
        };
        let space = Space {
            block_size: 4096,
            blocks: 7,
            free: 5,
            available: 3,
            files: 11,
            files_free: 2,
        };
        let mut out = Families::default();
        add_mount(&mut out, &mount, &StatfsResult::Space(space));
        let series = r#"{device="d",mountpoint="/",fstype="ext4",device_error=""}"#;
        assert_eq!(
            out.lines(),
            [
                format!("node_filesystem_device_error{series} 0"),
                format!("node_filesystem_readonly{series} 0"),
                format!("node_filesystem_size_bytes{series} 28672"),
                format!("node_filesystem_free_bytes{series} 20480"),
                format!("node_filesystem_avail_bytes{series} 12288"),
                format!("node_filesystem_files{series} 11"),
                format!("node_filesystem_files_free{series} 2"),
                r#"node_filesystem_mount_info{device="d",major="8",minor="1",mountpoint="/"} 1"#
                    .into(),
            ]
        );
    }
}
