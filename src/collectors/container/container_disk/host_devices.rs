//! I/O of whole devices by the whole machine, from `/proc/diskstats`, documented in the kernel's
//! `Documentation/admin-guide/iostats.rst`.
//!
//! The series belong to the root cgroup, which contains all of the machine. cAdvisor repeats them
//! for each container, too, and divides the milliseconds by 10^9. The devices are those that the
//! collector `diskstats` includes by default: without partitions, so that a sum over devices
//! counts no request twice.
//!
//! `container_fs_reads_total`, `container_fs_writes_total` and the bytes are not taken from here
//! if the kernel does not account block I/O of cgroups, because their meaning differs: a cgroup's
//! requests are counted when they are submitted, a device's when they complete, after many were
//! merged. The counters would also drop when the kernel starts to account.

use super::{
    DEVICE_IO_CURRENT, DEVICE_IO_SECONDS, DEVICE_IO_WEIGHTED_SECONDS, DEVICE_READ_SECONDS,
    DEVICE_READS_MERGED, DEVICE_SECTOR_READS, DEVICE_SECTOR_WRITES, DEVICE_WRITE_SECONDS,
    DEVICE_WRITES_MERGED,
};
use crate::{
    family::{BaseLabels, Families, Value},
    metric::Metric,
    sources::{DiskCounters, Text},
};

/// The unit of a column.
#[derive(Clone, Copy)]
enum DeviceColumnUnit {
    Count,
    Millisecond,
}
use DeviceColumnUnit::{Count, Millisecond};

/// The columns after the device's name. Those of completed requests are left out.
const COLUMNS: [Option<(&Metric<1>, DeviceColumnUnit)>; 11] = [
    None,
    Some((&DEVICE_READS_MERGED, Count)),
    Some((&DEVICE_SECTOR_READS, Count)),
    Some((&DEVICE_READ_SECONDS, Millisecond)),
    None,
    Some((&DEVICE_WRITES_MERGED, Count)),
    Some((&DEVICE_SECTOR_WRITES, Count)),
    Some((&DEVICE_WRITE_SECONDS, Millisecond)),
    Some((&DEVICE_IO_CURRENT, Count)),
    Some((&DEVICE_IO_SECONDS, Millisecond)),
    Some((&DEVICE_IO_WEIGHTED_SECONDS, Millisecond)),
];

/// Adds the counters of the devices that are disks.
pub(super) fn add_devices(
    out: &mut Families,
    root_base: &BaseLabels,
    diskstats: &Text,
    is_disk: impl Fn(&str) -> bool,
) {
    for line in diskstats.lines() {
        let disk = out.ok_or_skip(DiskCounters::parse(line));
        let Some(disk) = disk.filter(|disk| is_disk(disk.name)) else {
            continue;
        };
        // Partitions have other columns on very old kernels.
        if disk.columns.len() < COLUMNS.len() {
            continue;
        }
        let device = format!("/dev/{}", disk.name);
        for (column, number) in COLUMNS.iter().zip(disk.columns) {
            let Some((metric, unit)) = column else {
                continue;
            };
            let value = match unit {
                Count => number.into(),
                Millisecond => Value::quotient(number, 1000),
            };
            out.add_with(metric, root_base, [device.as_str()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        collector::{Collector, NoFlags},
        collectors::{container::container_disk::ContainerDisk, testing::MachineFixture},
    };

    fn collected(machine: &MachineFixture) -> (Vec<String>, usize) {
        let collector = ContainerDisk::new(NoFlags {}).unwrap();
        let families = collector.collect(&machine.snapshot()).unwrap();
        (families.lines(), families.errors().0)
    }

    #[test]
    fn diskstats_belong_to_root_group_in_seconds() {
        let machine = MachineFixture::new("container-disk-devices");
        machine.write("sys/fs/cgroup/cgroup.controllers", "io\n");
        machine.write("sys/fs/cgroup/system.slice/io.stat", "");
        let line = "1 2 3 4000 5 6 7 8000 9 10000 11000 12 13 14 15 16 17\n";
        let disks = format!("8 0 sda {line}8 1 sda1 {line}7 0 loop0 {line}1 0 ram0 {line}");
        let odd = "104 0 cciss/c0d0 0 0 0 0 0 0 0 0 0 0 1\n8 16 sdb 1 2\n3 1 hdx 4 3 2 1\n";
        machine.write("proc/diskstats", &(disks + odd));
        let (lines, skipped) = collected(&machine);
        let series_of = |device: &str| {
            let device = format!(r#"{{id="/",device="{device}"}} "#);
            let lines = lines.iter().filter_map(|line| {
                let (name, value) = line.split_once(&device)?;
                Some((name.strip_prefix("container_fs_")?.to_owned(), value))
            });
            lines.collect::<Vec<_>>()
        };
        let expected = [
            ("sector_reads_total", "3"),
            ("sector_writes_total", "7"),
            ("reads_merged_total", "2"),
            ("writes_merged_total", "6"),
            ("read_seconds_total", "4"),
            ("write_seconds_total", "8"),
            ("io_time_seconds_total", "10"),
            ("io_time_weighted_seconds_total", "11"),
            ("io_current", "9"),
        ];
        let mut expected = expected.map(|(name, value)| (name.to_owned(), value));
        expected.sort();
        let mut sda = series_of("/dev/sda");
        sda.sort();
        assert_eq!(sda, expected);
        let mut cciss = series_of("/dev/cciss/c0d0")
            .into_iter()
            .filter(|it| it.1 != "0");
        let weighted = "io_time_weighted_seconds_total".to_owned();
        assert_eq!(cciss.next(), Some((weighted, "0.001")));
        let device_lines = lines.iter().filter(|line| line.contains("device="));
        assert_eq!(device_lines.count(), 2 * 9, "{lines:#?}");
        assert_eq!(skipped, 1);
    }

    #[test]
    fn unreadable_diskstats_do_not_affect_groups() {
        let machine = MachineFixture::new("container-disk-no-diskstats");
        machine.write("sys/fs/cgroup/cgroup.controllers", "io\n");
        machine.write(
            "sys/fs/cgroup/io.stat",
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n",
        );
        let (lines, skipped) = collected(&machine);
        assert!(lines.iter().any(|line| line.contains("reads_bytes")));
        assert!(
            !lines.iter().any(|line| line.contains("sector")),
            "{lines:#?}"
        );
        assert_eq!(skipped, 0);
    }
}
