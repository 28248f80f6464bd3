//! Reads cgroup v1 files, documented in `Documentation/admin-guide/cgroup-v1` and, in part, in
//! `sched-bwc.rst`.

use std::time::Duration;

use super::{
    files::{CgroupDir, CgroupFile, HotFile, OptionalFile, Setting},
    parse::{self, CgroupParseError, CgroupParseResult},
    stats::{
        BlockIo, CgroupCpu, CgroupMemory, CpuLimits, DeviceIo, HugePages, MemoryLimits, NumaPages,
        Operation, Throttling,
    },
};
use crate::{
    error::{Error, Result},
    sources::cgroup::HugePageSize,
};

const USAGE: CgroupFile<'_> = CgroupFile::hot(c"cpuacct.usage", HotFile::Cpu);
const PER_CPU: CgroupFile<'_> = CgroupFile::new(c"cpuacct.usage_percpu");
const CPUACCT_STAT: CgroupFile<'_> = CgroupFile::new(c"cpuacct.stat");
const QUOTA: CgroupFile<'_> = CgroupFile::setting(c"cpu.cfs_quota_us", Setting::CpuQuota);
const PERIOD: CgroupFile<'_> = CgroupFile::setting(c"cpu.cfs_period_us", Setting::CpuPeriod);
const SHARES: CgroupFile<'_> = CgroupFile::setting(c"cpu.shares", Setting::CpuShares);
const CPU_STAT: CgroupFile<'_> = CgroupFile::new(c"cpu.stat");
const MEMORY: CgroupFile<'_> = CgroupFile::hot(c"memory.usage_in_bytes", HotFile::Memory);
const MAX_MEMORY: CgroupFile<'_> = CgroupFile::new(c"memory.max_usage_in_bytes");
const FAILCNT: CgroupFile<'_> = CgroupFile::new(c"memory.failcnt");
const KERNEL_MEMORY: CgroupFile<'_> = CgroupFile::new(c"memory.kmem.usage_in_bytes");
const MEMORY_STAT: CgroupFile<'_> = CgroupFile::hot(c"memory.stat", HotFile::MemoryStat);
const OOM: CgroupFile<'_> = CgroupFile::new(c"memory.oom_control");
const MEMORY_LIMIT: CgroupFile<'_> = CgroupFile::setting(c"memory.limit_in_bytes", Setting::Memory);
const SWAP_LIMIT: CgroupFile<'_> =
    CgroupFile::setting(c"memory.memsw.limit_in_bytes", Setting::Swap);
const SOFT_LIMIT: CgroupFile<'_> =
    CgroupFile::setting(c"memory.soft_limit_in_bytes", Setting::Reservation);

/// Larger limits mean no limit: the kernel's maximum is 2^63 minus one page.
const NO_LIMIT: u64 = 1 << 62;

/// Files of bytes and requests of block devices, in the order in which cAdvisor tries them: BFQ's,
/// CFQ's, which was removed in 5.0, and those of throttling, with and without descendants.
pub(super) const BLOCK_IO: [(CgroupFile<'_>, CgroupFile<'_>); 4] = [
    (
        CgroupFile::hot(c"blkio.bfq.io_service_bytes_recursive", HotFile::Io),
        CgroupFile::new(c"blkio.bfq.io_serviced_recursive"),
    ),
    (
        CgroupFile::hot(c"blkio.io_service_bytes_recursive", HotFile::Io),
        CgroupFile::new(c"blkio.io_serviced_recursive"),
    ),
    (
        CgroupFile::hot(c"blkio.throttle.io_service_bytes_recursive", HotFile::Io),
        CgroupFile::new(c"blkio.throttle.io_serviced_recursive"),
    ),
    (
        CgroupFile::hot(c"blkio.throttle.io_service_bytes", HotFile::Io),
        CgroupFile::new(c"blkio.throttle.io_serviced"),
    ),
];

/// User and system time are from `cpuacct.stat`, which has only clock tick resolution but adds up
/// to the usage. `cpuacct.usage_user` and `_sys` are finer but sampled, and do not add up.
pub(super) fn cpu(cpuacct: CgroupDir<'_>, cpu: Option<CgroupDir<'_>>) -> Result<CgroupCpu> {
    let usage = cpuacct.read(USAGE, parse::number)?;
    let (user, system) = cpuacct
        .read_if_available(CPUACCT_STAT, cpuacct_stat)?
        .unwrap_or_default();
    Ok(CgroupCpu {
        usage: Some(Duration::from_nanos(usage)),
        user,
        system,
        throttling: cpu.map(throttling).transpose()?.flatten(),
    })
}

fn cpuacct_stat(bytes: &[u8]) -> CgroupParseResult<(Option<Duration>, Option<Duration>)> {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let time = |key: &[u8]| {
        let ticks = parse::number_for_key(bytes, key)?;
        let nanos = ticks.map(|ticks| u128::from(ticks) * 1_000_000_000 / u128::from(per_second));
        Ok(nanos.map(|nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
    };
    Ok((time(b"user")?, time(b"system")?))
}

pub(super) fn throttling(cpu: CgroupDir<'_>) -> Result<Option<Throttling>> {
    let quota = cpu.read_if_available(QUOTA, parse::limit_unless_negative)?;
    match quota.flatten() {
        Some(_) => cpu.read_if_available(CPU_STAT, cpu_stat),
        None => Ok(None),
    }
}

fn cpu_stat(bytes: &[u8]) -> CgroupParseResult<Throttling> {
    let mut stat = Throttling::default();
    for (key, value) in parse::flat_keyed(bytes) {
        match key {
            b"nr_periods" => stat.periods = Some(value.number()?),
            b"nr_throttled" => stat.throttled_periods = Some(value.number()?),
            b"throttled_time" => stat.throttled = Some(value.nanos()?),
            b"nr_bursts" => stat.burst_periods = Some(value.number()?),
            b"burst_time" => stat.burst = Some(value.nanos()?),
            _ => {}
        }
    }
    Ok(stat)
}

pub(super) fn percpu_usage(cpuacct: CgroupDir<'_>) -> Result<Vec<(u32, Duration)>> {
    cpuacct.read(PER_CPU, parse::percpu_usage)
}

pub(super) fn cpu_limits(cpu: CgroupDir<'_>) -> Result<CpuLimits> {
    let shares = cpu.read(SHARES, parse::number)?;
    // Without CONFIG_CFS_BANDWIDTH, none of these files exists.
    let period = cpu.read_if_available(PERIOD, parse::number)?;
    let quota = cpu.read_if_available(QUOTA, parse::limit_unless_negative)?;
    Ok(CpuLimits {
        period: period.map(Duration::from_micros),
        quota: quota.flatten().map(Duration::from_micros),
        shares: Some(shares),
    })
}

pub(super) fn memory(group: CgroupDir<'_>) -> Result<CgroupMemory> {
    let usage = group.read(MEMORY, parse::number)?;
    let mut memory = group.read(MEMORY_STAT, memory_stat)?;
    memory.usage = Some(usage);
    memory.max_usage = group.read_if_available(MAX_MEMORY, parse::number)?;
    memory.failcnt = group.read_if_available(FAILCNT, parse::number)?;
    memory.kernel =
        group.read_optional(KERNEL_MEMORY, OptionalFile::KernelMemory, parse::number)?;
    let kills = group.read_if_available(OOM, |bytes| parse::number_for_key(bytes, b"oom_kill"))?;
    memory.oom_kills = kills.flatten();
    Ok(memory)
}

/// Names of sums over descendants begin with `total_`; where memory is not charged to parents,
/// they are the cgroup's own values.
fn memory_stat(bytes: &[u8]) -> CgroupParseResult<CgroupMemory> {
    let mut memory = CgroupMemory::default();
    for (key, value) in parse::flat_keyed(bytes) {
        let slot = match key {
            b"pgfault" => &mut memory.own_pgfault,
            b"pgmajfault" => &mut memory.own_pgmajfault,
            [b't', b'o', b't', b'a', b'l', b'_', key @ ..] => match key {
                b"cache" => &mut memory.cache,
                b"rss" => &mut memory.rss,
                b"mapped_file" => &mut memory.mapped_file,
                b"dirty" => &mut memory.file_dirty,
                b"writeback" => &mut memory.file_writeback,
                b"swap" => &mut memory.swap,
                b"pgfault" => &mut memory.pgfault,
                b"pgmajfault" => &mut memory.pgmajfault,
                b"active_file" => &mut memory.active_file,
                b"inactive_file" => &mut memory.inactive_file,
                b"workingset_refault_anon" => &mut memory.workingset_refault_anon,
                b"workingset_refault_file" => &mut memory.workingset_refault_file,
                _ => continue,
            },
            _ => continue,
        };
        *slot = Some(value.number()?);
    }
    Ok(memory)
}

pub(super) fn numa_pages(group: CgroupDir<'_>) -> Result<Vec<NumaPages>> {
    let file = CgroupFile::new(c"memory.numa_stat");
    group.read(file, |bytes| parse::numa_pages(bytes, false, 1))
}

pub(super) fn memory_limits(group: CgroupDir<'_>) -> Result<MemoryLimits> {
    let limit = |bytes: &[u8]| parse::number(bytes).map(|max| (max <= NO_LIMIT).then_some(max));
    Ok(MemoryLimits {
        limit: Some(group.read(MEMORY_LIMIT, limit)?),
        swap_limit: group.read_optional(SWAP_LIMIT, OptionalFile::SwapLimit, limit)?,
        reservation: group.read_if_available(SOFT_LIMIT, limit)?,
    })
}

/// Returns the devices in the file with this index in [`BLOCK_IO`].
pub(super) fn block_io(group: CgroupDir<'_>, index: usize) -> Result<BlockIo> {
    let mut io = BlockIo {
        devices: Vec::new(),
        is_accounted: Some(true),
    };
    if let Some((bytes, requests)) = BLOCK_IO.get(index) {
        group.read(*bytes, |bytes| io_service_bytes(bytes, &mut io.devices))?;
        if !io.devices.is_empty() {
            group.read_if_available(*requests, |bytes| io_serviced(bytes, &mut io.devices))?;
        }
    }
    Ok(io)
}

/// Returns the index of the first of [`BLOCK_IO`] in which the root has devices.
pub(super) fn detect_block_io_files(root: CgroupDir<'_>) -> Option<usize> {
    let has_devices = |bytes: &[u8]| {
        let mut lines = parse::lines(bytes);
        Ok(lines.any(|(_, line)| operation_line(line).is_some()))
    };
    BLOCK_IO
        .iter()
        // The descriptor is not cached: it would be reused for each of the files.
        .position(|(bytes, _)| {
            let file = CgroupFile::new(bytes.name);
            root.read(file, has_devices).unwrap_or(false)
        })
}

pub(super) fn cpu_time(cpuacct: CgroupDir<'_>) -> Result<Duration> {
    Ok(Duration::from_nanos(cpuacct.read(USAGE, parse::number)?))
}

pub(super) fn memory_usage(group: CgroupDir<'_>) -> Result<u64> {
    group.read(MEMORY, parse::number)
}

/// Returns bytes read and written, from the file with this index in [`BLOCK_IO`].
pub(super) fn disk_bytes(
    group: CgroupDir<'_>,
    index: usize,
    mut filter: impl FnMut(u32, u32) -> bool,
) -> Result<Option<(u64, u64)>> {
    let Some((bytes, _)) = BLOCK_IO.get(index) else {
        return Ok(None);
    };
    group.read(*bytes, |bytes| {
        let (mut read, mut written) = (0_u64, 0_u64);
        for_each_operation(bytes, |(major, minor), operation, value| {
            let sum = match operation {
                Operation::Read => &mut read,
                Operation::Write => &mut written,
                _ => return,
            };
            if filter(major, minor) {
                *sum = sum.saturating_add(value);
            }
        })?;
        Ok(Some((read, written)))
    })
}

/// Device number, name of the operation, value.
type OperationLine<'a> = ((u32, u32), &'a [u8], &'a [u8]);

/// Parses a line `254:0 Read 4096`; the last line, `Total 4096`, has no device.
fn operation_line(line: &[u8]) -> Option<OperationLine<'_>> {
    let mut words = parse::words(line);
    let device = parse::device(words.next()?)?;
    Some((device, words.next()?, words.next()?))
}

fn for_each_operation(
    bytes: &[u8],
    mut visit: impl FnMut((u32, u32), Operation, u64),
) -> CgroupParseResult<()> {
    for (number, line) in parse::lines(bytes) {
        let Some((device, name, value)) = operation_line(line) else {
            continue;
        };
        let operation = match name {
            b"Read" => Operation::Read,
            b"Write" => Operation::Write,
            b"Sync" => Operation::Sync,
            b"Async" => Operation::Async,
            b"Discard" => Operation::Discard,
            b"Total" => Operation::Total,
            _ => continue,
        };
        let error = || {
            let value = value.escape_ascii();
            CgroupParseError::new(number, format_args!("value is not a number: \"{value}\""))
        };
        visit(device, operation, parse::decimal(value).ok_or_else(error)?);
    }
    Ok(())
}

fn io_service_bytes(bytes: &[u8], devices: &mut Vec<DeviceIo>) -> CgroupParseResult<()> {
    for_each_operation(bytes, |(major, minor), operation, value| {
        let is_new = devices
            .last()
            .is_none_or(|last| (last.major, last.minor) != (major, minor));
        if is_new {
            devices.push(DeviceIo {
                major,
                minor,
                ..DeviceIo::default()
            });
        }
        if let Some(device) = devices.last_mut() {
            device.bytes_by_operation.push((operation, value));
            match operation {
                Operation::Read => device.read_bytes = Some(value),
                Operation::Write => device.written_bytes = Some(value),
                _ => {}
            }
        }
    })
}

fn io_serviced(bytes: &[u8], devices: &mut [DeviceIo]) -> CgroupParseResult<()> {
    for_each_operation(bytes, |(major, minor), operation, value| {
        let mut devices = devices.iter_mut();
        if let Some(device) = devices.find(|device| (device.major, device.minor) == (major, minor))
        {
            match operation {
                Operation::Read => device.reads = Some(value),
                Operation::Write => device.writes = Some(value),
                _ => {}
            }
        }
    })
}

pub(super) fn huge_pages(group: CgroupDir<'_>, size: &HugePageSize) -> Result<Option<HugePages>> {
    let number =
        |name: &std::ffi::CStr| group.read_if_available(CgroupFile::new(name), parse::number);
    let usage = match group.read(CgroupFile::new(&size.v1.usage), parse::number) {
        Err(Error::NotFound(_)) => return Ok(None),
        usage => usage?,
    };
    Ok(Some(HugePages {
        size: size.name.clone(),
        usage: Some(usage),
        max_usage: number(&size.v1.max_usage)?,
        failcnt: number(&size.v1.failcnt)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a 6.18 kernel, trimmed; each value is different.
    const STAT: &[u8] = b"cache 1\nrss 2\nmapped_file 3\nworkingset_refault_file 4\n\
        pgfault 5\npgmajfault 6\ninactive_file 7\nhierarchical_memory_limit 9223372036854771712\n\
        total_cache 11\ntotal_rss 12\ntotal_shmem 13\ntotal_mapped_file 14\ntotal_dirty 15\n\
        total_writeback 16\ntotal_workingset_refault_anon 17\ntotal_workingset_refault_file 18\n\
        total_swap 19\ntotal_pgfault 20\ntotal_pgmajfault 21\ntotal_inactive_file 22\n\
        total_active_file 23\ntotal_unevictable 24\n";

    #[test]
    fn memory_includes_descendants() {
        let expected = CgroupMemory {
            cache: Some(11),
            rss: Some(12),
            mapped_file: Some(14),
            file_dirty: Some(15),
            file_writeback: Some(16),
            workingset_refault_anon: Some(17),
            workingset_refault_file: Some(18),
            swap: Some(19),
            pgfault: Some(20),
            pgmajfault: Some(21),
            inactive_file: Some(22),
            active_file: Some(23),
            own_pgfault: Some(5),
            own_pgmajfault: Some(6),
            ..CgroupMemory::default()
        };
        assert_eq!(memory_stat(STAT), Ok(expected));
    }

    #[test]
    fn memory_missing_in_old_kernels_is_none() {
        let memory = memory_stat(b"pgfault 5\ntotal_cache 1\ntotal_rss 2\n").unwrap();
        assert_eq!((memory.swap, memory.file_dirty), (None, None));
        let error = memory_stat(b"pgfault 5\ntotal_cache 1x\n").unwrap_err();
        assert_eq!(
            error.reason,
            "cache is not a number: \"1x\"".replace("cache", "total_cache")
        );
        assert_eq!(error.line, 2);
        assert!(memory_stat(b"total_rss 18446744073709551616\n").is_err());
    }

    #[test]
    fn throttling_is_in_nanoseconds_and_bursts_are_optional() {
        let old = Throttling {
            periods: Some(10),
            throttled_periods: Some(4),
            throttled: Some(Duration::from_nanos(1_500_000_001)),
            ..Throttling::default()
        };
        let text = "nr_periods 10\nnr_throttled 4\nthrottled_time 1500000001\n";
        assert_eq!(cpu_stat(text.as_bytes()), Ok(old));
        let new = Throttling {
            burst_periods: Some(2),
            burst: Some(Duration::from_nanos(7)),
            ..old
        };
        let text = format!("{text}nr_bursts 2\nburst_time 7\n");
        assert_eq!(cpu_stat(text.as_bytes()), Ok(new));
        assert!(cpu_stat(b"nr_periods -1\n").is_err());
    }

    #[test]
    fn user_and_system_time_are_in_ticks() {
        let per_second = rustix::param::clock_ticks_per_second();
        let text = format!("user {}\nsystem 0\n", per_second * 3);
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(cpuacct_stat(text.as_bytes()), Ok((seconds(3), seconds(0))));
        assert_eq!(
            cpuacct_stat(b"user 18446744073709551615\n").unwrap().1,
            None
        );
        assert!(cpuacct_stat(b"user x\n").is_err());
    }

    #[test]
    fn line_without_device_is_the_total() {
        let mut devices = Vec::new();
        io_service_bytes(
            b"254:0 Read 1\n254:0 Write 2\n254:0 Sync 3\n254:0 Async 4\n254:0 Discard 5\n\
              254:0 Total 6\n8:16 Read 7\n8:16 Odd x\nTotal 13\n",
            &mut devices,
        )
        .unwrap();
        io_serviced(
            b"254:0 Read 8\n254:0 Write 9\n8:16 Write 10\n1:1 Read 99\nTotal 27\n",
            &mut devices,
        )
        .unwrap();
        let by_operation = vec![
            (Operation::Read, 1),
            (Operation::Write, 2),
            (Operation::Sync, 3),
            (Operation::Async, 4),
            (Operation::Discard, 5),
            (Operation::Total, 6),
        ];
        let first = DeviceIo {
            major: 254,
            read_bytes: Some(1),
            written_bytes: Some(2),
            reads: Some(8),
            writes: Some(9),
            bytes_by_operation: by_operation,
            ..DeviceIo::default()
        };
        let second = DeviceIo {
            major: 8,
            minor: 16,
            read_bytes: Some(7),
            writes: Some(10),
            bytes_by_operation: vec![(Operation::Read, 7)],
            ..DeviceIo::default()
        };
        assert_eq!(devices, [first, second]);
        let error = io_service_bytes(b"Total 0\n254:0 Read x\n", &mut devices).unwrap_err();
        assert_eq!(
            (error.line, error.reason.as_str()),
            (2, "value is not a number: \"x\"")
        );
    }
}
