//! Disk I/O statistics, from `/proc/diskstats`, documented in the kernel's
//! `Documentation/admin-guide/iostats.rst`, and disk properties, from the udev database.
//!
//! A sector is 512 bytes here, regardless of the sector size of the device.

use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    pattern::{Filter, Pattern},
    sources::{Dir, DiskCounters, Fields, IGNORED_DEVICES, Snapshot, Text},
};

metrics! {
    /// Info about a disk, from the udev database and sysfs; rotational is empty if unknown.
    DISK: Info = "node_disk_info" ["device", "major", "minor", "path", "wwn", "model", "serial", "revision", "rotational"];
    /// The total number of reads completed successfully.
    READS_COMPLETED: Counter = "node_disk_reads_completed_total" ["device"];
    /// The total number of reads merged.
    READS_MERGED: Counter = "node_disk_reads_merged_total" ["device"];
    /// The total number of bytes read successfully.
    READ_BYTES: Counter = "node_disk_read_bytes_total" ["device"];
    /// The total number of seconds spent by all reads.
    READ_TIME: Counter = "node_disk_read_time_seconds_total" ["device"];
    /// The total number of writes completed successfully.
    WRITES_COMPLETED: Counter = "node_disk_writes_completed_total" ["device"];
    /// The total number of writes merged.
    WRITES_MERGED: Counter = "node_disk_writes_merged_total" ["device"];
    /// The total number of bytes written successfully.
    WRITTEN_BYTES: Counter = "node_disk_written_bytes_total" ["device"];
    /// The total number of seconds spent by all writes.
    WRITE_TIME: Counter = "node_disk_write_time_seconds_total" ["device"];
    /// The number of I/Os currently in progress.
    IO_NOW: Gauge = "node_disk_io_now" ["device"];
    /// Total seconds spent doing I/Os; parallel I/Os count once.
    IO_TIME: Counter = "node_disk_io_time_seconds_total" ["device"];
    /// The weighted number of seconds spent doing I/Os; its rate is the mean queue length.
    IO_TIME_WEIGHTED: Counter = "node_disk_io_time_weighted_seconds_total" ["device"];
    /// The total number of discards completed successfully.
    DISCARDS_COMPLETED: Counter = "node_disk_discards_completed_total" ["device"];
    /// The total number of discards merged.
    DISCARDS_MERGED: Counter = "node_disk_discards_merged_total" ["device"];
    /// The total number of 512-byte sectors discarded successfully.
    DISCARDED_SECTORS: Counter = "node_disk_discarded_sectors_total" ["device"];
    /// The total number of seconds spent by all discards.
    DISCARD_TIME: Counter = "node_disk_discard_time_seconds_total" ["device"];
    /// The total number of flush requests completed successfully; not counted for partitions.
    FLUSH_REQUESTS: Counter = "node_disk_flush_requests_total" ["device"];
    /// The total number of seconds spent by all flush requests.
    FLUSH_TIME: Counter = "node_disk_flush_requests_time_seconds_total" ["device"];
    /// Info about the file system on a device, from the udev database.
    FILE_SYSTEM: Info = "node_disk_filesystem_info" ["device", "type", "usage", "uuid", "version"];
    /// Info about a device mapper device, such as a logical volume.
    DEVICE_MAPPER: Info = "node_disk_device_mapper_info" ["device", "name", "uuid", "vg_name", "lv_name", "lv_layer"];
    /// Whether an ATA disk has a write cache.
    ATA_WRITE_CACHE: Gauge = "node_disk_ata_write_cache" ["device"];
    /// Whether the write cache of an ATA disk is enabled.
    ATA_WRITE_CACHE_ENABLED: Gauge = "node_disk_ata_write_cache_enabled" ["device"];
    /// Rotation rate of an ATA disk in revolutions per minute; 0 for a non-rotating one.
    ATA_ROTATION_RATE: Gauge = "node_disk_ata_rotation_rate_rpm" ["device"];
}

const SECTOR: u64 = 512;

#[derive(Clone, Copy)]
enum ColumnUnit {
    Count,
    Sector,
    Millisecond,
}
use ColumnUnit::{Count, Millisecond, Sector};

type DiskColumn = (&'static Metric<1>, ColumnUnit);

/// The columns after the device name.
const COLUMNS: [DiskColumn; 17] = [
    (&READS_COMPLETED, Count),
    (&READS_MERGED, Count),
    (&READ_BYTES, Sector),
    (&READ_TIME, Millisecond),
    (&WRITES_COMPLETED, Count),
    (&WRITES_MERGED, Count),
    (&WRITTEN_BYTES, Sector),
    (&WRITE_TIME, Millisecond),
    (&IO_NOW, Count),
    (&IO_TIME, Millisecond),
    (&IO_TIME_WEIGHTED, Millisecond),
    (&DISCARDS_COMPLETED, Count),
    (&DISCARDS_MERGED, Count),
    // Exposed in sectors, because the metric's name says so.
    (&DISCARDED_SECTORS, Count),
    (&DISCARD_TIME, Millisecond),
    (&FLUSH_REQUESTS, Count),
    (&FLUSH_TIME, Millisecond),
];
/// The columns of a partition before Linux 2.6.25.
const PARTITION_COLUMNS: [DiskColumn; 4] = [
    (&READS_COMPLETED, Count),
    (&READ_BYTES, Sector),
    (&WRITES_COMPLETED, Count),
    (&WRITTEN_BYTES, Sector),
];

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct DiskStatsFlags {
    /// Regexp of devices to exclude; by default RAM disks, loop devices, floppies and partitions.
    #[arg(
        long = "collector.diskstats.device-exclude",
        alias = "collector.diskstats.ignored-devices",
        value_name = "REGEX"
    )]
    diskstats_device_exclude: Option<Pattern>,
    /// Regexp of devices to include; clears the default of the exclude flag.
    #[arg(long = "collector.diskstats.device-include", value_name = "REGEX")]
    diskstats_device_include: Option<Pattern>,
}

#[derive(Debug)]
pub(super) struct DiskStats {
    devices: Filter,
}

impl Collector for DiskStats {
    const NAME: &'static str = "diskstats";
    const ABOUT: &'static str = "disk I/O statistics and device information";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = DiskStatsFlags;

    fn new(flags: DiskStatsFlags) -> Result<Self, String> {
        Ok(Self {
            devices: Filter::new(
                (
                    "collector.diskstats.device-include",
                    flags.diskstats_device_include,
                ),
                (
                    "collector.diskstats.device-exclude",
                    flags.diskstats_device_exclude,
                ),
                IGNORED_DEVICES,
            )?,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let diskstats = snapshot.diskstats()?;
        let mut out = Families::default();
        let block = out.ok_or_skip(snapshot.sys_dir("block"));
        let udev = out.ok_or_skip(snapshot.udev_data());
        for line in diskstats.lines() {
            let disk = DiskLine::parse(line);
            let Some(disk) = out
                .ok_or_skip(disk)
                .filter(|disk| self.devices.matches(disk.stats.name))
            else {
                continue;
            };
            disk.add_stats(&mut out);
            let rotational = disk.read_rotational(block.as_ref(), &mut out);
            let udev_text = udev.as_ref().map(|udev| disk.read_udev(udev));
            let udev_text = udev_text.and_then(|text| out.ok_or_skip(text));
            disk.add_identity(&mut out, &rotational, udev_text.as_ref());
        }
        Ok(out)
    }
}

/// A line of the file and the meaning of its columns.
struct DiskLine<'a> {
    stats: DiskCounters<'a>,
    columns: &'static [DiskColumn],
}

impl<'a> DiskLine<'a> {
    fn parse(line: Fields<'a>) -> Result<Self> {
        let stats = DiskCounters::parse(line)?;
        let columns: &[_] = match stats.columns.len() {
            4 => &PARTITION_COLUMNS,
            _ => &COLUMNS,
        };
        Ok(Self { stats, columns })
    }

    fn add_stats(&self, out: &mut Families) {
        for ((metric, unit), number) in self.columns.iter().zip(&self.stats.columns) {
            let value = match unit {
                Count => (*number).into(),
                Sector => Value::product(*number, SECTOR),
                Millisecond => Value::quotient(*number, 1000),
            };
            out.add(metric, [self.stats.name], value);
        }
    }

    /// Reads whether the device is rotational; a partition has no queue of its own and no value.
    fn read_rotational(&self, block: Option<&Dir>, out: &mut Families) -> String {
        // A name in sysfs cannot contain a slash: `cciss/c0d0` is `cciss!c0d0`.
        let name = self.stats.name.replace('/', "!");
        let read = block.map(|block| block.read_trimmed(format!("{name}/queue/rotational")));
        read.and_then(|word| out.ok_or_skip(word))
            .unwrap_or_default()
    }

    fn read_udev(&self, udev: &Dir) -> Result<Text> {
        udev.read(format!("b{}:{}", self.stats.major, self.stats.minor))
    }

    fn add_identity(&self, out: &mut Families, rotational: &str, udev_text: Option<&Text>) {
        let DiskCounters {
            major, minor, name, ..
        } = self.stats;
        let udev = udev_text
            .map(|text| UdevProperties::parse(text.body()))
            .unwrap_or_default();
        // The first is the serial number printed on the disk; virtio has only the last one.
        let serials = [udev.scsi_serial, udev.short_serial, udev.serial];
        let serial = serials.into_iter().find(|serial| !serial.is_empty());
        let labels = [
            name,
            major,
            minor,
            udev.path,
            udev.wwn,
            udev.model,
            serial.unwrap_or_default(),
            udev.revision,
            rotational,
        ];
        out.add(&DISK, labels, true);
        if !udev.fs_type.is_empty() {
            let labels = [
                name,
                udev.fs_type,
                udev.fs_usage,
                udev.fs_uuid,
                udev.fs_version,
            ];
            out.add(&FILE_SYSTEM, labels, true);
        }
        if !udev.dm_name.is_empty() {
            let labels = [
                name,
                udev.dm_name,
                udev.dm_uuid,
                udev.vg_name,
                udev.lv_name,
                udev.lv_layer,
            ];
            out.add(&DEVICE_MAPPER, labels, true);
        }
        let Some(udev_text) = udev_text.filter(|_| !udev.ata.is_empty()) else {
            return;
        };
        for (metric, word) in [
            (&ATA_WRITE_CACHE, udev.write_cache),
            (&ATA_WRITE_CACHE_ENABLED, udev.write_cache_enabled),
            (&ATA_ROTATION_RATE, udev.rotation_rate),
        ] {
            let Some((line, word)) = word else { continue };
            let invalid = |_| udev_text.error(line, format_args!("invalid number {word:?}"));
            if let Some(value) = out.ok_or_skip(word.parse::<Value>().map_err(invalid)) {
                out.add(metric, [name], value);
            }
        }
    }
}

/// Properties of a device in the udev database; unknown ones are empty.
#[derive(Default)]
struct UdevProperties<'a> {
    path: &'a str,
    wwn: &'a str,
    model: &'a str,
    revision: &'a str,
    scsi_serial: &'a str,
    short_serial: &'a str,
    serial: &'a str,
    fs_type: &'a str,
    fs_usage: &'a str,
    fs_uuid: &'a str,
    fs_version: &'a str,
    dm_name: &'a str,
    dm_uuid: &'a str,
    vg_name: &'a str,
    lv_name: &'a str,
    lv_layer: &'a str,
    ata: &'a str,
    /// Value and its line number, as for the fields below.
    write_cache: Option<(usize, &'a str)>,
    write_cache_enabled: Option<(usize, &'a str)>,
    rotation_rate: Option<(usize, &'a str)>,
}

impl<'a> UdevProperties<'a> {
    /// Parses a file of the udev database, whose properties are lines such as `E:ID_MODEL=x`.
    fn parse(text: &'a str) -> Self {
        let mut udev = Self::default();
        for (i, line) in text.lines().enumerate() {
            let property = line
                .strip_prefix("E:")
                .and_then(|line| line.split_once('='));
            let Some((key, value)) = property else {
                continue;
            };
            let number = Some((i + 1, value));
            match key {
                "ID_PATH" => udev.path = value,
                "ID_WWN" => udev.wwn = value,
                "ID_MODEL" => udev.model = value,
                "ID_REVISION" => udev.revision = value,
                "SCSI_IDENT_SERIAL" => udev.scsi_serial = value,
                "ID_SERIAL_SHORT" => udev.short_serial = value,
                "ID_SERIAL" => udev.serial = value,
                "ID_FS_TYPE" => udev.fs_type = value,
                "ID_FS_USAGE" => udev.fs_usage = value,
                "ID_FS_UUID" => udev.fs_uuid = value,
                "ID_FS_VERSION" => udev.fs_version = value,
                "DM_NAME" => udev.dm_name = value,
                "DM_UUID" => udev.dm_uuid = value,
                "DM_VG_NAME" => udev.vg_name = value,
                "DM_LV_NAME" => udev.lv_name = value,
                "DM_LV_LAYER" => udev.lv_layer = value,
                "ID_ATA" => udev.ata = value,
                "ID_ATA_WRITE_CACHE" => udev.write_cache = number,
                "ID_ATA_WRITE_CACHE_ENABLED" => udev.write_cache_enabled = number,
                "ID_ATA_ROTATION_RATE_RPM" => udev.rotation_rate = number,
                _ => {}
            }
        }
        udev
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of columns that every kernel has.
    const ALWAYS: usize = 11;

    fn stats(text: &str) -> (Vec<String>, usize) {
        let mut out = Families::default();
        for line in Text::from(text).lines() {
            if let Some(disk) = out.ok_or_skip(DiskLine::parse(line)) {
                disk.add_stats(&mut out);
            }
        }
        (out.lines(), out.errors().0)
    }

    fn identity(udev: &str) -> (Vec<String>, usize) {
        let mut out = Families::default();
        let line = Text::from("8 1 sda 1 2 3 4 5 6 7 8 9 10 11\n");
        let disk = DiskLine::parse(line.line().unwrap()).unwrap();
        disk.add_identity(&mut out, "1", Some(&Text::from(udev)));
        (out.lines(), out.errors().0)
    }

    #[test]
    fn every_column_has_its_unit() {
        let line = "8 0 sda 1 2 3 4000 5 6 7 8000 9 10000 11000 12 13 14 15000 16 17000 999\n";
        let (lines, skipped) = stats(line);
        let values: Vec<_> = lines
            .iter()
            .map(|line| line.split_once(' ').unwrap().1)
            .collect();
        assert_eq!(
            values,
            [
                "1", "2", "1536", "4", "5", "6", "3584", "8", "9", "10", "11", "12", "13", "14",
                "15", "16", "17"
            ]
        );
        assert_eq!(skipped, 0);
    }

    #[test]
    fn old_kernels_have_fewer_columns() {
        let (lines, skipped) = stats("8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n");
        assert_eq!(lines.len(), ALWAYS);
        assert_eq!(skipped, 0);
        assert_eq!(
            stats("8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n")
                .0
                .len(),
            15
        );
    }

    #[test]
    fn old_partition_format_has_four_columns() {
        let (lines, _) = stats("3 1 hda1 4 3 2 1\n");
        assert_eq!(
            lines,
            [
                r#"node_disk_reads_completed_total{device="hda1"} 4"#,
                r#"node_disk_read_bytes_total{device="hda1"} 1536"#,
                r#"node_disk_writes_completed_total{device="hda1"} 2"#,
                r#"node_disk_written_bytes_total{device="hda1"} 512"#,
            ]
        );
    }

    #[test]
    fn malformed_line_skips_only_its_device() {
        let (lines, skipped) = stats(
            "8 0 sda 1 2 3\n8 1 sdb 1 2 x 4 5 6 7 8 9 10 11\n8 2 sdc 1 2 3 4 5 6 7 8 9 10 11\n",
        );
        assert_eq!(lines.len(), ALWAYS);
        assert!(lines.iter().all(|line| line.contains("sdc")));
        assert_eq!(skipped, 2);
    }

    #[test]
    fn prefers_serial_printed_on_the_disk() {
        let mut properties = String::new();
        for (property, serial) in [
            ("E:ID_MODEL=m", ""),
            ("E:ID_SERIAL=m_7", "m_7"),
            ("E:ID_SERIAL_SHORT=7", "7"),
            ("E:SCSI_IDENT_SERIAL=S-7", "S-7"),
            ("E:SCSI_IDENT_SERIAL=", "7"),
        ] {
            properties += &format!("{property}\n");
            let (lines, _) = identity(&properties);
            assert!(
                lines[0].contains(&format!(r#"serial="{serial}""#)),
                "{properties}"
            );
        }
    }

    #[test]
    fn only_ata_disks_expose_ata_properties() {
        let ata = "E:ID_ATA=1\nE:ID_ATA_WRITE_CACHE=1\nE:ID_ATA_WRITE_CACHE_ENABLED=x\n";
        let (lines, skipped) = identity(ata);
        assert_eq!(lines[1..], [r#"node_disk_ata_write_cache{device="sda"} 1"#]);
        assert_eq!(skipped, 1);
        assert_eq!(identity("E:ID_ATA_WRITE_CACHE=1\nS:odd\n").0.len(), 1);
    }
}
