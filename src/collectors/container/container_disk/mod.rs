//! Block I/O of containers: `io.stat`, or `blkio.*` of cgroup version 1.
//!
//! A cgroup's series include only its own I/O, whereas cAdvisor mixes in the counters of whole
//! devices from `/proc/diskstats`. Those concern the whole machine and have families of their own,
//! exposed for the root cgroup alone: see [`host_devices`].
//!
//! Of the BFQ scheduler's files in version 1, only bytes and requests are read. The others (merged
//! requests, sectors, queues, times) are empty unless the kernel was built to debug that
//! scheduler.

mod host_devices;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::{Desc, Metric},
    metrics,
    pattern::Pattern,
    sources::{
        BlockDevice, BlockDevices, IGNORED_DEVICES, Snapshot,
        cgroup::{BlockIo, DeviceIo},
    },
};

metrics! {
    /// Bytes read from this device.
    READ_BYTES: Counter = "container_fs_reads_bytes_total" base CGROUP ["device"];
    /// Bytes written to this device; dirty page cache is not included.
    WRITTEN_BYTES: Counter = "container_fs_writes_bytes_total" base CGROUP ["device"];
    /// Read requests to this device.
    READS: Counter = "container_fs_reads_total" base CGROUP ["device"];
    /// Write requests to this device.
    WRITES: Counter = "container_fs_writes_total" base CGROUP ["device"];
    /// Bytes by operation, with the names of the kernel; Sync, Async and Total, which only version
    /// 1 reports, are sums of the others.
    BYTES_BY_OPERATION: Counter = "container_blkio_device_usage_total" base CGROUP ["device", "major", "minor", "operation"];
    /// Device time used, by the cost model of the blk-iocost controller.
    COST_USAGE: Counter = "container_fs_io_cost_usage_seconds_total" base CGROUP ["device"];
    /// Time that requests waited for budget of the blk-iocost controller.
    COST_WAIT: Counter = "container_fs_io_cost_wait_seconds_total" base CGROUP ["device"];
    /// Time spent in debt for requests that could not wait, by the blk-iocost controller.
    COST_INDEBT: Counter = "container_fs_io_cost_indebt_seconds_total" base CGROUP ["device"];
    /// Time that processes were delayed because of debt, by the blk-iocost controller.
    COST_INDELAY: Counter = "container_fs_io_cost_indelay_seconds_total" base CGROUP ["device"];
    /// Bytes read from all devices, without loop devices and stacked devices (device mapper, md),
    /// whose bytes the kernel counts again below.
    ALL_READ_BYTES: Counter = "container_disk_read_bytes_total" base CGROUP [];
    /// Bytes written to all devices, without loop devices and stacked devices (device mapper, md),
    /// whose bytes the kernel counts again below.
    ALL_WRITTEN_BYTES: Counter = "container_disk_write_bytes_total" base CGROUP [];
    /// Read requests to all devices, without loop devices and stacked devices.
    ALL_READS: Counter = "container_disk_read_ops_total" base CGROUP [];
    /// Write requests to all devices, without loop devices and stacked devices.
    ALL_WRITES: Counter = "container_disk_write_ops_total" base CGROUP [];
    /// Sectors of 512 bytes read from this device by the whole machine; root cgroup only.
    DEVICE_SECTOR_READS: Counter = "container_fs_sector_reads_total" base CGROUP ["device"];
    /// Sectors of 512 bytes written to this device by the whole machine; root cgroup only.
    DEVICE_SECTOR_WRITES: Counter = "container_fs_sector_writes_total" base CGROUP ["device"];
    /// Read requests to this device merged with adjacent requests, of the whole machine; root
    /// cgroup only.
    DEVICE_READS_MERGED: Counter = "container_fs_reads_merged_total" base CGROUP ["device"];
    /// Write requests to this device merged with adjacent requests, of the whole machine; root
    /// cgroup only.
    DEVICE_WRITES_MERGED: Counter = "container_fs_writes_merged_total" base CGROUP ["device"];
    /// Time of all read requests to this device, summed over concurrent requests of the whole
    /// machine; root cgroup only.
    DEVICE_READ_SECONDS: Counter = "container_fs_read_seconds_total" base CGROUP ["device"];
    /// Time of all write requests to this device, summed over concurrent requests of the whole
    /// machine; root cgroup only.
    DEVICE_WRITE_SECONDS: Counter = "container_fs_write_seconds_total" base CGROUP ["device"];
    /// Time in which this device had requests in flight; root cgroup only.
    DEVICE_IO_SECONDS: Counter = "container_fs_io_time_seconds_total" base CGROUP ["device"];
    /// Time of all requests to this device, including the time in the queue; its rate is the mean
    /// queue length; root cgroup only.
    DEVICE_IO_WEIGHTED_SECONDS: Counter = "container_fs_io_time_weighted_seconds_total" base CGROUP ["device"];
    /// Requests in flight on this device; root cgroup only.
    DEVICE_IO_CURRENT: Gauge = "container_fs_io_current" base CGROUP ["device"];
    /// Whether the kernel accounts block I/O of cgroups; with version 1, newer kernels start only
    /// when a throttle limit is set on a device, and without it there are no container_fs_reads,
    /// container_fs_writes and container_disk series.
    ACCOUNTED: Gauge = "strata_container_block_io_accounted" [];
}

#[derive(Debug)]
pub(super) struct ContainerDisk {
    excluded_devices: Pattern,
}

impl Collector for ContainerDisk {
    const NAME: &'static str = "container_disk";
    const ABOUT: &'static str = "disk I/O of containers and services";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self {
            excluded_devices: IGNORED_DEVICES.parse()?,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let mut disks = BlockDevices::default();
        let mut accounted = None;
        for (workload, group) in snapshot.workloads()?.present() {
            if let Some(io) = out.ok_or_skip(group.block_io()) {
                add_block_io(&mut out, base_labels(workload), &io, |major, minor| {
                    disks.get(snapshot, major, minor).clone()
                });
                // One cgroup with counters proves that the kernel accounts block I/O.
                accounted = accounted.max(io.is_accounted);
            }
            if group.path() == "/"
                && let Some(diskstats) = out.ok_or_skip(snapshot.diskstats())
            {
                let is_disk = |name: &str| !self.excluded_devices.matches(name);
                host_devices::add_devices(&mut out, base_labels(workload), diskstats, is_disk);
            }
        }
        if let Some(accounted) = accounted {
            out.add(&ACCOUNTED, [], accounted);
        }
        Ok(out)
    }
}

fn add_block_io(
    out: &mut Families,
    base: &BaseLabels,
    io: &BlockIo,
    mut disk: impl FnMut(u32, u32) -> BlockDevice,
) {
    if io.is_accounted == Some(false) {
        return;
    }
    // No devices means that the cgroup was idle, if the kernel is known to account block I/O.
    let is_accounted = io.is_accounted == Some(true) || !io.devices.is_empty();
    let mut sums = [is_accounted.then_some(0_u64); 4];
    for device in &io.devices {
        let DeviceIo { major, minor, .. } = *device;
        let disk = disk(major, minor);
        let name = disk.name.as_str();
        let counts = counts(device);
        for ((metric, count), sum) in counts.into_iter().zip(&mut sums) {
            if let Some(count) = count {
                out.add_with(metric, base, [name], count);
            }
            if !disk.is_stacked {
                *sum = sum.zip(count).map(|(sum, count)| sum.saturating_add(count));
            }
        }
        for (metric, cost) in [
            (&COST_USAGE, device.cost_usage),
            (&COST_WAIT, device.cost_wait),
            (&COST_INDEBT, device.cost_indebt),
            (&COST_INDELAY, device.cost_indelay),
        ] {
            if let Some(cost) = cost {
                out.add_with(metric, base, [name], cost);
            }
        }
        let (major, minor) = (major.to_string(), minor.to_string());
        for (operation, bytes) in &device.bytes_by_operation {
            let labels = [name, &major, &minor, operation.name()];
            out.add_with(&BYTES_BY_OPERATION, base, labels, *bytes);
        }
    }
    let all = [&ALL_READ_BYTES, &ALL_WRITTEN_BYTES, &ALL_READS, &ALL_WRITES];
    for (metric, sum) in all.into_iter().zip(sums) {
        if let Some(sum) = sum {
            out.add_with(metric, base, [], sum);
        }
    }
}

/// The counters of one device, in the order of the sums.
fn counts(device: &DeviceIo) -> [(&'static Metric<1>, Option<u64>); 4] {
    [
        (&READ_BYTES, device.read_bytes),
        (&WRITTEN_BYTES, device.written_bytes),
        (&READS, device.reads),
        (&WRITES, device.writes),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{family, sources::cgroup::Operation};

    fn lines(io: &BlockIo) -> Vec<String> {
        let mut out = Families::default();
        let block = family::render_labels([("id", "/a")]);
        add_block_io(&mut out, &block, io, |major, minor| BlockDevice {
            is_partition: false,
            name: format!("{major}:{minor}"),
            is_stacked: major == 253,
        });
        out.lines()
    }

    fn device(major: u32, base: u64) -> DeviceIo {
        DeviceIo {
            major,
            minor: 16,
            read_bytes: Some(base + 1),
            written_bytes: Some(base + 2),
            reads: Some(base + 3),
            writes: Some(base + 4),
            ..DeviceIo::default()
        }
    }

    #[test]
    fn stacked_devices_are_summed_once() {
        let io = BlockIo {
            devices: vec![device(8, 10), device(253, 100), device(259, 1000)],
            is_accounted: Some(true),
        };
        let lines = lines(&io);
        assert_eq!(lines.len(), 3 * 4 + 4);
        let sums = lines
            .iter()
            .filter(|line| line.starts_with("container_disk"));
        let sums: Vec<_> = sums.collect();
        assert_eq!(
            sums,
            [
                r#"container_disk_read_bytes_total{id="/a"} 1012"#,
                r#"container_disk_write_bytes_total{id="/a"} 1014"#,
                r#"container_disk_read_ops_total{id="/a"} 1016"#,
                r#"container_disk_write_ops_total{id="/a"} 1018"#,
            ]
        );
        let expected = r#"container_fs_writes_total{id="/a",device="253:16"} 104"#;
        assert!(lines.iter().any(|line| line == expected), "{lines:#?}");
    }

    #[test]
    fn incomplete_sum_is_not_exposed() {
        let half = DeviceIo {
            reads: None,
            ..device(259, 1)
        };
        let io = BlockIo {
            devices: vec![device(8, 10), half],
            is_accounted: Some(true),
        };
        let lines = lines(&io);
        assert!(!lines.iter().any(|line| line.contains("disk_read_ops")));
        assert!(lines.iter().any(|line| line.contains("disk_write_ops")));
    }

    #[test]
    fn idle_group_is_zero_only_if_io_is_accounted() {
        let idle = |accounted| BlockIo {
            devices: Vec::new(),
            is_accounted: accounted,
        };
        assert_eq!(lines(&idle(Some(true))).len(), 4);
        assert_eq!(lines(&idle(None)), Vec::<String>::new());
        assert_eq!(lines(&idle(Some(false))), Vec::<String>::new());
        let no_counters = BlockIo {
            devices: vec![device(8, 0)],
            is_accounted: Some(false),
        };
        assert_eq!(lines(&no_counters), Vec::<String>::new());
    }

    #[test]
    fn operations_and_costs_have_their_own_series() {
        let io = BlockIo {
            devices: vec![DeviceIo {
                major: 8,
                minor: 16,
                bytes_by_operation: vec![(Operation::Read, 1), (Operation::Discard, 2)],
                cost_usage: Some(Duration::from_millis(3)),
                cost_wait: Some(Duration::from_millis(4)),
                cost_indebt: Some(Duration::from_millis(5)),
                cost_indelay: Some(Duration::from_millis(6)),
                ..DeviceIo::default()
            }],
            is_accounted: None,
        };
        let series = r#"{id="/a",device="8:16""#;
        let by = |operation, n| {
            format!(
                r#"container_blkio_device_usage_total{series},major="8",minor="16",operation="{operation}"}} {n}"#
            )
        };
        let cost = |name, n| format!("container_fs_io_cost_{name}_seconds_total{series}}} {n}");
        assert_eq!(
            lines(&io),
            [
                cost("usage", 0.003),
                cost("wait", 0.004),
                cost("indebt", 0.005),
                cost("indelay", 0.006),
                by("Read", 1),
                by("Discard", 2),
            ]
        );
    }
}
