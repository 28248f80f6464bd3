//! Reads cgroup v2 files, documented in `Documentation/admin-guide/cgroup-v2.rst`.

use std::time::Duration;

use super::{
    files::{CgroupDir, CgroupFile, HotFile, OptionalFile, Setting},
    parse::{self, CgroupParseError, CgroupParseResult},
    stats::{
        BlockIo, CgroupCpu, CgroupMemory, CgroupPressure, CpuLimits, DeviceIo, HugePages,
        MemoryLimits, NumaPages, Operation, Throttling,
    },
};
use crate::{
    error::{Error, Result},
    sources::cgroup::HugePageSize,
};

const CPU_STAT: CgroupFile<'_> = CgroupFile::hot(c"cpu.stat", HotFile::Cpu);
const UNIFIED_CPU_STAT: CgroupFile<'_> = CgroupFile::hot(c"cpu.stat", HotFile::UnifiedCpu);
const CPU_MAX: CgroupFile<'_> = CgroupFile::setting(c"cpu.max", Setting::CpuQuota);
const WEIGHT: CgroupFile<'_> = CgroupFile::setting(c"cpu.weight", Setting::CpuShares);
const MEMORY: CgroupFile<'_> = CgroupFile::hot(c"memory.current", HotFile::Memory);
const MEMORY_STAT: CgroupFile<'_> = CgroupFile::hot(c"memory.stat", HotFile::MemoryStat);
const PEAK: CgroupFile<'_> = CgroupFile::new(c"memory.peak");
const SWAP: CgroupFile<'_> = CgroupFile::new(c"memory.swap.current");
const EVENTS: CgroupFile<'_> = CgroupFile::new(c"memory.events");
const MEMORY_MAX: CgroupFile<'_> = CgroupFile::setting(c"memory.max", Setting::Memory);
const SWAP_MAX: CgroupFile<'_> = CgroupFile::setting(c"memory.swap.max", Setting::Swap);
const MEMORY_LOW: CgroupFile<'_> = CgroupFile::setting(c"memory.low", Setting::Reservation);
const IO: CgroupFile<'_> = CgroupFile::hot(c"io.stat", HotFile::Io);
const CPU_PRESSURE: CgroupFile<'_> = CgroupFile::hot(c"cpu.pressure", HotFile::CpuPressure);
const MEMORY_PRESSURE: CgroupFile<'_> =
    CgroupFile::hot(c"memory.pressure", HotFile::MemoryPressure);
const IO_PRESSURE: CgroupFile<'_> = CgroupFile::hot(c"io.pressure", HotFile::IoPressure);

pub(super) fn cpu(group: CgroupDir<'_>) -> Result<CgroupCpu> {
    let mut cpu = group.read(CPU_STAT, cpu_stat)?;
    // The counters exist, with value 0, even without a quota.
    let has_quota = cpu.throttling.is_some() && {
        let max = group.read_optional(CPU_MAX, OptionalFile::CpuMax, parse::quota_and_period)?;
        matches!(max, Some((Some(_), _)))
    };
    if !has_quota {
        cpu.throttling = None;
    }
    Ok(cpu)
}

/// Reads CPU usage from a hierarchy without the cpu controller.
pub(super) fn cpu_without_controller(group: CgroupDir<'_>) -> Result<CgroupCpu> {
    group.read(UNIFIED_CPU_STAT, cpu_stat)
}

pub(super) fn cpu_time(group: CgroupDir<'_>) -> Result<Option<Duration>> {
    let micros = group.read(CPU_STAT, |bytes| {
        parse::number_for_key(bytes, b"usage_usec")
    })?;
    Ok(micros.map(Duration::from_micros))
}

/// Reads CPU time from a hierarchy without the cpu controller.
pub(super) fn cpu_time_without_controller(group: CgroupDir<'_>) -> Result<Option<Duration>> {
    let micros = group.read(UNIFIED_CPU_STAT, |bytes| {
        parse::number_for_key(bytes, b"usage_usec")
    })?;
    Ok(micros.map(Duration::from_micros))
}

fn cpu_stat(bytes: &[u8]) -> CgroupParseResult<CgroupCpu> {
    let mut cpu = CgroupCpu::default();
    let mut throttling = Throttling::default();
    for (key, value) in parse::flat_keyed(bytes) {
        match key {
            b"usage_usec" => cpu.usage = Some(value.micros()?),
            b"user_usec" => cpu.user = Some(value.micros()?),
            b"system_usec" => cpu.system = Some(value.micros()?),
            b"nr_periods" => throttling.periods = Some(value.number()?),
            b"nr_throttled" => throttling.throttled_periods = Some(value.number()?),
            b"throttled_usec" => throttling.throttled = Some(value.micros()?),
            b"nr_bursts" => throttling.burst_periods = Some(value.number()?),
            b"burst_usec" => throttling.burst = Some(value.micros()?),
            _ => {}
        }
    }
    // Without the controller, none of these counters exists.
    cpu.throttling = throttling.periods.map(|_| throttling);
    Ok(cpu)
}

pub(super) fn cpu_limits(group: CgroupDir<'_>) -> Result<CpuLimits> {
    let (quota, period) = group.read(CPU_MAX, parse::quota_and_period)?;
    let weight = group.read_if_available(WEIGHT, parse::number)?;
    Ok(CpuLimits {
        period: Some(Duration::from_micros(period)),
        quota: quota.map(Duration::from_micros),
        shares: weight.map(|weight| weight.saturating_mul(1024) / 100),
    })
}

pub(super) fn memory(group: CgroupDir<'_>) -> Result<CgroupMemory> {
    if group.cgroup.is_root() {
        let mut memory = group.read(MEMORY_STAT, memory_stat)?;
        // No memory is charged to the root; its `memory.stat` covers the whole host.
        memory.usage = memory.rss.zip(memory.cache).and_then(sum);
        return Ok(memory);
    }
    let usage = group.read(MEMORY, parse::number)?;
    let mut memory = group.read(MEMORY_STAT, memory_stat)?;
    memory.usage = Some(usage);
    memory.max_usage = group.read_optional(PEAK, OptionalFile::MemoryPeak, parse::number)?;
    memory.swap = group.read_optional(SWAP, OptionalFile::Swap, parse::number)?;
    let events = group.read_optional(EVENTS, OptionalFile::MemoryEvents, memory_events)?;
    let events = events.unwrap_or_default();
    memory.events_high = events.events_high;
    memory.events_max = events.events_max;
    memory.failcnt = events.events_max;
    memory.oom_kills = events.oom_kills;
    Ok(memory)
}

pub(super) fn memory_usage(group: CgroupDir<'_>) -> Result<u64> {
    group.read(MEMORY, parse::number)
}

fn sum((a, b): (u64, u64)) -> Option<u64> {
    a.checked_add(b)
}

fn memory_stat(bytes: &[u8]) -> CgroupParseResult<CgroupMemory> {
    let mut memory = CgroupMemory::default();
    for (key, value) in parse::flat_keyed(bytes) {
        let slot = match key {
            b"anon" => &mut memory.rss,
            b"file" => &mut memory.cache,
            b"kernel" => &mut memory.kernel,
            b"file_mapped" => &mut memory.mapped_file,
            b"file_dirty" => &mut memory.file_dirty,
            b"file_writeback" => &mut memory.file_writeback,
            b"active_file" => &mut memory.active_file,
            b"inactive_file" => &mut memory.inactive_file,
            b"pgfault" => &mut memory.pgfault,
            b"pgmajfault" => &mut memory.pgmajfault,
            b"pgscan" => &mut memory.pgscan,
            b"pgsteal" => &mut memory.pgsteal,
            b"workingset_refault_anon" => &mut memory.workingset_refault_anon,
            // Before 5.9, only file pages were counted.
            b"workingset_refault_file" | b"workingset_refault" => {
                &mut memory.workingset_refault_file
            }
            _ => continue,
        };
        *slot = Some(value.number()?);
    }
    Ok(memory)
}

fn memory_events(bytes: &[u8]) -> CgroupParseResult<CgroupMemory> {
    let mut memory = CgroupMemory::default();
    for (key, value) in parse::flat_keyed(bytes) {
        let slot = match key {
            b"high" => &mut memory.events_high,
            b"max" => &mut memory.events_max,
            b"oom_kill" => &mut memory.oom_kills,
            _ => continue,
        };
        *slot = Some(value.number()?);
    }
    Ok(memory)
}

/// Values are in bytes; version 1 counts pages.
pub(super) fn numa_pages(group: CgroupDir<'_>) -> Result<Vec<NumaPages>> {
    let page = rustix::param::page_size() as u64;
    let file = CgroupFile::new(c"memory.numa_stat");
    group.read(file, |bytes| parse::numa_pages(bytes, true, page))
}

pub(super) fn memory_limits(group: CgroupDir<'_>) -> Result<MemoryLimits> {
    Ok(MemoryLimits {
        limit: Some(group.read(MEMORY_MAX, parse::limit)?),
        swap_limit: group.read_optional(SWAP_MAX, OptionalFile::SwapLimit, parse::limit)?,
        reservation: group.read_optional(MEMORY_LOW, OptionalFile::MemoryLow, parse::limit)?,
    })
}

/// The kernel has all of these files or none, and may fail to open them (`psi=0`).
pub(super) fn pressure(group: CgroupDir<'_>) -> Result<CgroupPressure> {
    let stalls = |file| group.read_if_available(file, parse::pressure);
    let cpu = stalls(CPU_PRESSURE)?;
    if cpu.is_none() {
        return Ok(CgroupPressure::default());
    }
    Ok(CgroupPressure {
        cpu,
        memory: stalls(MEMORY_PRESSURE)?,
        io: stalls(IO_PRESSURE)?,
    })
}

pub(super) fn block_io(group: CgroupDir<'_>) -> Result<BlockIo> {
    Ok(BlockIo {
        devices: group.read(IO, io_stat)?,
        is_accounted: Some(true),
    })
}

/// Returns bytes read and written.
pub(super) fn disk_bytes(
    group: CgroupDir<'_>,
    filter: impl FnMut(u32, u32) -> bool,
) -> Result<(u64, u64)> {
    group.read(IO, |bytes| io_bytes(bytes, filter))
}

fn io_bytes(
    bytes: &[u8],
    mut filter: impl FnMut(u32, u32) -> bool,
) -> CgroupParseResult<(u64, u64)> {
    let (mut read, mut written) = (0_u64, 0_u64);
    for (number, line) in parse::lines(bytes) {
        let mut is_counted = false;
        for word in parse::words(line) {
            if let Some((major, minor)) = parse::device(word) {
                is_counted = filter(major, minor);
                continue;
            }
            let (sum, value) = match (word.strip_prefix(b"rbytes="), word.strip_prefix(b"wbytes="))
            {
                (Some(value), _) => (&mut read, value),
                (_, Some(value)) => (&mut written, value),
                _ => continue,
            };
            let value = parse::decimal(value)
                .ok_or_else(|| CgroupParseError::new(number, "bytes are not a number"))?;
            if is_counted {
                *sum = sum.saturating_add(value);
            }
        }
    }
    Ok((read, written))
}

/// Parses lines `254:0 rbytes=1 wbytes=2 …`. A device without counters has no line, or on some
/// kernels a line that does not end: `253:0 254:0 rbytes=1`.
fn io_stat(bytes: &[u8]) -> CgroupParseResult<Vec<DeviceIo>> {
    let mut devices = Vec::new();
    for (number, line) in parse::lines(bytes) {
        let mut current: Option<DeviceIo> = None;
        for word in parse::words(line) {
            if let Some((major, minor)) = parse::device(word) {
                devices.extend(current.take().filter(has_counters));
                current = Some(DeviceIo {
                    major,
                    minor,
                    ..DeviceIo::default()
                });
            } else if let Some(device) = &mut current {
                parse_io_field(device, word)
                    .map_err(|reason| CgroupParseError::new(number, reason))?;
            }
        }
        devices.extend(current.filter(has_counters));
    }
    Ok(devices)
}

fn has_counters(device: &DeviceIo) -> bool {
    device.read_bytes.is_some() || device.cost_usage.is_some()
}

fn parse_io_field(device: &mut DeviceIo, word: &[u8]) -> Result<(), String> {
    let Some(equals) = word.iter().position(|b| *b == b'=') else {
        return Ok(());
    };
    let (key, value) = word.split_at_checked(equals).unwrap_or_default();
    let value = value.strip_prefix(b"=").unwrap_or_default();
    let number = || {
        let (key, word) = (key.escape_ascii(), value.escape_ascii());
        parse::decimal(value).ok_or_else(|| format!("{key} is not a number: \"{word}\""))
    };
    let micros = || number().map(Duration::from_micros);
    let mut by_operation = |operation, bytes| device.bytes_by_operation.push((operation, bytes));
    match key {
        b"rbytes" => {
            by_operation(Operation::Read, number()?);
            device.read_bytes = Some(number()?);
        }
        b"wbytes" => {
            by_operation(Operation::Write, number()?);
            device.written_bytes = Some(number()?);
        }
        b"dbytes" => by_operation(Operation::Discard, number()?),
        b"rios" => device.reads = Some(number()?),
        b"wios" => device.writes = Some(number()?),
        b"cost.usage" => device.cost_usage = Some(micros()?),
        b"cost.wait" => device.cost_wait = Some(micros()?),
        b"cost.indebt" => device.cost_indebt = Some(micros()?),
        b"cost.indelay" => device.cost_indelay = Some(micros()?),
        _ => {}
    }
    Ok(())
}

pub(super) fn huge_pages(group: CgroupDir<'_>, size: &HugePageSize) -> Result<Option<HugePages>> {
    let usage = match group.read(CgroupFile::new(&size.v2.usage), parse::number) {
        Err(Error::NotFound(_)) => return Ok(None),
        usage => usage?,
    };
    let events = group.read_if_available(CgroupFile::new(&size.v2.events), |bytes| {
        parse::number_for_key(bytes, b"max")
    })?;
    Ok(Some(HugePages {
        size: size.name.clone(),
        usage: Some(usage),
        max_usage: None,
        failcnt: events.flatten(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_in_microseconds() {
        let cpu = cpu_stat(
            b"usage_usec 7\nuser_usec 4\nsystem_usec 3\nnr_periods 10\nnr_throttled 2\n\
              throttled_usec 5\nnr_bursts 1\nburst_usec 6\n",
        );
        let micros = |n| Some(Duration::from_micros(n));
        let throttling = Throttling {
            periods: Some(10),
            throttled_periods: Some(2),
            throttled: micros(5),
            burst_periods: Some(1),
            burst: micros(6),
        };
        let expected = CgroupCpu {
            usage: micros(7),
            user: micros(4),
            system: micros(3),
            throttling: Some(throttling),
        };
        assert_eq!(cpu, Ok(expected));
        let without_quota = cpu_stat(b"usage_usec 7\nuser_usec 4\nsystem_usec 3\n").unwrap();
        assert_eq!(without_quota.throttling, None);
        assert_eq!(
            cpu_stat(b"usage_usec 1\nuser_usec x\n").unwrap_err().line,
            2
        );
    }

    #[test]
    fn each_memory_key_fills_its_field() {
        let memory = memory_stat(
            b"anon 1\nfile 2\nkernel 3\nkernel_stack 99\nfile_mapped 4\nfile_dirty 5\n\
              file_writeback 6\nactive_file 7\ninactive_file 8\nworkingset_refault_anon 9\n\
              workingset_refault_file 10\npgscan 11\npgsteal 12\npgfault 13\npgmajfault 14\n",
        );
        let expected = CgroupMemory {
            rss: Some(1),
            cache: Some(2),
            kernel: Some(3),
            mapped_file: Some(4),
            file_dirty: Some(5),
            file_writeback: Some(6),
            active_file: Some(7),
            inactive_file: Some(8),
            workingset_refault_anon: Some(9),
            workingset_refault_file: Some(10),
            pgscan: Some(11),
            pgsteal: Some(12),
            pgfault: Some(13),
            pgmajfault: Some(14),
            ..CgroupMemory::default()
        };
        assert_eq!(memory, Ok(expected));
        let old = memory_stat(b"anon 1\nworkingset_refault 5\n").unwrap();
        assert_eq!((old.kernel, old.workingset_refault_file), (None, Some(5)));
        assert!(memory_stat(b"anon\nfile 18446744073709551616\n").is_err());
    }

    #[test]
    fn oom_kills_differ_from_oom_events() {
        let events = memory_events(b"low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
        let expected = CgroupMemory {
            events_high: Some(2),
            events_max: Some(3),
            oom_kills: Some(5),
            ..CgroupMemory::default()
        };
        assert_eq!(events, Ok(expected));
    }

    #[test]
    fn device_without_counters_is_skipped() {
        let devices = io_stat(
            b"7:0 \n254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7 \
              cost.wait=8 cost.indebt=9 cost.indelay=10 new=x\n\
              253:0 8:0 rbytes=11 wbytes=12 rios=13 wios=14\n8:16 (null)\n(null) rbytes=1\n",
        );
        let micros = |n| Some(Duration::from_micros(n));
        let full = DeviceIo {
            major: 254,
            read_bytes: Some(1),
            written_bytes: Some(2),
            reads: Some(3),
            writes: Some(4),
            bytes_by_operation: vec![
                (Operation::Read, 1),
                (Operation::Write, 2),
                (Operation::Discard, 5),
            ],
            cost_usage: micros(7),
            cost_wait: micros(8),
            cost_indebt: micros(9),
            cost_indelay: micros(10),
            ..DeviceIo::default()
        };
        let old = DeviceIo {
            major: 8,
            read_bytes: Some(11),
            written_bytes: Some(12),
            reads: Some(13),
            writes: Some(14),
            bytes_by_operation: vec![(Operation::Read, 11), (Operation::Write, 12)],
            ..DeviceIo::default()
        };
        assert_eq!(devices, Ok(vec![full, old]));
        let error = io_stat(b"1:2 rbytes=1\n254:0 rbytes=1 wbytes=2x\n").unwrap_err();
        assert_eq!(
            (error.line, error.reason.as_str()),
            (2, "wbytes is not a number: \"2x\"")
        );
    }

    #[test]
    fn disk_bytes_sum_the_filtered_devices() {
        let text = b"253:0 254:0 rbytes=1 wbytes=2 rios=9\n8:16 rbytes=40 dbytes=7\n7:0 rbytes=5 wbytes=6\n";
        assert_eq!(io_bytes(text, |major, _| major != 7), Ok((41, 2)));
        assert_eq!(io_bytes(b"", |_, _| true), Ok((0, 0)));
        assert_eq!(
            io_bytes(b"8:0 rbytes=x\n", |_, _| true).unwrap_err().line,
            1
        );
    }
}
