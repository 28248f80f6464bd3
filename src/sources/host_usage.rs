//! Usage of the whole host: CPU time from the root cgroup, or else from `/proc/stat`, which is
//! expensive to generate; memory, tasks, disks and network from procfs, documented in `proc(5)`.
//! Reading does not allocate.

use std::{collections::BTreeSet, time::Duration};

use super::{Dir, NetnsOwners, Process, Snapshot, TotalTraffic, cgroup::Cgroup};
use crate::error::{Error, Result};

/// Sector size in `/proc/diskstats`.
const SECTOR: u64 = 512;

/// Prefixes of devices that are not disks or are stacked on one.
const IGNORED_DISK_PREFIXES: [&str; 5] = ["ram", "zram", "loop", "fd", "sr"];

/// Reads the CPU, memory, network and disk usage of the host.
#[derive(Debug)]
pub struct HostUsage {
    procfs: Dir,
    root: Option<Cgroup>,
    init: Option<Process>,
    /// Interfaces with a hardware device, if there are any: traffic of other interfaces passes
    /// through these too.
    physical_interfaces: BTreeSet<String>,
}

impl Snapshot {
    /// Creates a reader of the host's usage, which can be used repeatedly.
    pub fn host_usage(&self) -> Result<HostUsage> {
        let interfaces = self.sys_dir("class/net");
        let names = interfaces.as_ref().ok().and_then(|dir| dir.names().ok());
        let names = names.unwrap_or_default().into_iter();
        let names = names.filter_map(|name| name.into_string().ok());
        let has_device = |name: &String| {
            let dir = interfaces.as_ref();
            dir.is_ok_and(|dir| dir.has(format!("{name}/device")))
        };
        Ok(HostUsage {
            procfs: self.proc_dir("")?,
            root: self.cgroups().root().ok(),
            init: self.process(1).ok(),
            physical_interfaces: names.filter(has_device).collect(),
        })
    }
}

impl HostUsage {
    /// CPU time used on all CPUs.
    pub fn cpu_time(&self) -> Result<Duration> {
        let root = self.root.as_ref().map(Cgroup::cpu_time);
        if let Some(Ok(Some(time))) = root {
            return Ok(time);
        }
        self.procfs.with_bytes("stat", parse_cpu_time)
    }

    /// Memory in bytes that is not available.
    pub fn memory(&self) -> Result<u64> {
        self.procfs.with_bytes("meminfo", parse_used_memory)
    }

    /// Number of processes and threads.
    pub fn tasks(&self) -> Result<u64> {
        self.procfs.with_bytes("loadavg", parse_tasks)
    }

    /// Bytes received and transmitted by network interfaces.
    pub fn traffic(&self) -> Result<TotalTraffic> {
        let Some(init) = &self.init else {
            return Err(Error::NotFound(self.procfs.path().join("1")));
        };
        init.total_traffic(|name| {
            if self.physical_interfaces.is_empty() {
                !NetnsOwners::is_engine_interface(name)
            } else {
                self.physical_interfaces.contains(name)
            }
        })
    }

    /// Bytes read from and written to the devices that pass the filter.
    pub fn disk_bytes(&self, filter: impl FnMut(u32, u32) -> bool) -> Result<(u64, u64)> {
        self.procfs
            .with_bytes("diskstats", |bytes| parse_disk_bytes(bytes, filter))
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &str> {
    let words = line.split(u8::is_ascii_whitespace);
    words
        .filter(|word| !word.is_empty())
        .map(|word| std::str::from_utf8(word).unwrap_or_default())
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

/// Parses `cpu  USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL …`, in ticks.
fn parse_cpu_time(stat: &[u8]) -> Result<Duration, &'static str> {
    let mut words = words(lines(stat).next().unwrap_or_default());
    if words.next() != Some("cpu") {
        return Err("cpu line is missing");
    }
    let mut ticks = 0_u64;
    for (column, word) in words.take(8).enumerate() {
        let count: u64 = word.parse().map_err(|_| "ticks are not a number")?;
        if !matches!(column, 3 | 4) {
            ticks = ticks.saturating_add(count);
        }
    }
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(
        ticks.saturating_mul(1000) / per_second,
    ))
}

/// Parses used memory. Before Linux 3.14, available memory is not reported.
fn parse_used_memory(meminfo: &[u8]) -> Result<u64, &'static str> {
    let kilobytes = |key: &str| {
        lines(meminfo).find_map(|line| {
            let mut words = words(line);
            (words.next()? == key).then(|| words.next()?.parse::<u64>().ok())?
        })
    };
    let total = kilobytes("MemTotal:").ok_or("MemTotal is missing")?;
    let available = kilobytes("MemAvailable:").ok_or("MemAvailable is missing")?;
    Ok(total.saturating_sub(available).saturating_mul(1024))
}

/// Parses `0.01 0.02 0.03 1/234 5678`.
fn parse_tasks(loadavg: &[u8]) -> Result<u64, &'static str> {
    let tasks = words(loadavg)
        .nth(3)
        .and_then(|tasks| tasks.split_once('/'));
    let total = tasks.and_then(|(_, total)| total.parse().ok());
    total.ok_or("task count is missing")
}

/// Parses `MAJOR MINOR NAME READS MERGED SECTORS TIME WRITES MERGED SECTORS …`.
fn parse_disk_bytes(
    diskstats: &[u8],
    mut filter: impl FnMut(u32, u32) -> bool,
) -> Result<(u64, u64), &'static str> {
    let (mut read, mut written) = (0_u64, 0_u64);
    for line in lines(diskstats) {
        let mut words = words(line);
        let Some(major) = words.next() else {
            continue;
        };
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
        let major = number(Some(major)).ok_or("invalid major number")?;
        let minor = number(words.next()).ok_or("invalid minor number")?;
        let name = words.next().ok_or("name is missing")?;
        let mut number = |skip| words.nth(skip).and_then(|word| word.parse::<u64>().ok());
        // Partitions before 2.6.25 have fewer columns.
        let Some((sectors_read, sectors_written)) = number(2).zip(number(3)) else {
            continue;
        };
        if !IGNORED_DISK_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && filter(major, minor)
        {
            read = read.saturating_add(sectors_read);
            written = written.saturating_add(sectors_written);
        }
    }
    Ok((read.saturating_mul(SECTOR), written.saturating_mul(SECTOR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iowait_and_idle_are_not_busy() {
        let per_second = rustix::param::clock_ticks_per_second();
        let stat = format!("cpu  {per_second} 0 {per_second} 99 99 0 0 {per_second} 7 7\ncpu0 1\n");
        assert_eq!(parse_cpu_time(stat.as_bytes()), Ok(Duration::from_secs(3)));
        assert!(parse_cpu_time(b"cpu0 1 2\n").is_err());
        assert!(parse_cpu_time(b"cpu 1 x\n").is_err());
    }

    #[test]
    fn used_memory_is_total_minus_available() {
        let meminfo = b"MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\n";
        assert_eq!(parse_used_memory(meminfo), Ok(40 << 10));
        assert!(parse_used_memory(b"MemTotal: 100 kB\nMemFree: 10 kB\n").is_err());
    }

    #[test]
    fn tasks_include_threads() {
        assert_eq!(parse_tasks(b"0.01 0.02 0.03 1/234 5678\n"), Ok(234));
        assert!(parse_tasks(b"0.01 0.02 0.03\n").is_err());
    }

    #[test]
    fn disk_bytes_sum_filtered_disks() {
        let text = b"   8 0 sda 1 2 10 4 5 6 20 8 9\n   8 1 sda1 1 2 3 4 5 6 7 8 9\n\
                     7 0 loop0 1 2 3 4 5 6 7 8 9\n 8 2 sda2 1 2 3 4\n 9 0 md0 1 2 1 4 5 6 2 8\n";
        let is_whole_disk = |major, minor| (major, minor) != (8, 1);
        assert_eq!(
            parse_disk_bytes(text, is_whole_disk),
            Ok((11 * 512, 22 * 512))
        );
        assert!(parse_disk_bytes(b"8 x sda\n", is_whole_disk).is_err());
    }

    #[test]
    fn test_host_reports_all_visible_usage() {
        let usage = Snapshot::for_test_host().host_usage().unwrap();
        assert!(usage.cpu_time().unwrap() > Duration::ZERO);
        assert!(usage.memory().unwrap() > 0);
        assert!(usage.tasks().unwrap() > 0);
        assert!(usage.traffic().is_ok());
        assert!(usage.disk_bytes(|_, _| true).is_ok());
    }
}
