//! Summary of the host. Each file is read separately, so one that hangs or is invalid affects only
//! its own fields.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    Api, MissingPart, error::ApiError, latest::LatestSample, ok_or_missing, seconds, to_json,
};
use crate::{
    error::Result,
    scrape::SharedRead,
    sources::{Snapshot, Text},
};

#[derive(Debug)]
pub(super) struct HostReads {
    load: SharedRead<LoadAverages>,
    memory: SharedRead<HostMemory>,
    os: SharedRead<Option<String>>,
    stat: SharedRead<BootStat>,
}

impl HostReads {
    pub(super) fn new() -> Self {
        Self {
            load: SharedRead::new("load", |snapshot| {
                parse_loadavg(&snapshot.read_proc("loadavg")?)
            }),
            memory: SharedRead::new("memory", |snapshot| {
                parse_meminfo(&snapshot.read_proc("meminfo")?)
            }),
            os: SharedRead::new("os", |snapshot| snapshot.os_name()),
            stat: SharedRead::new("cpus", |snapshot| parse_stat(snapshot.proc_stat()?)),
        }
    }
}

#[derive(Serialize)]
struct HostResponse {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    name: String,
    kernel: KernelVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus_online: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<LoadAverages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<HostMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<LatestSample>,
    missing: Vec<MissingPart>,
}

#[derive(Serialize)]
struct KernelVersion {
    release: String,
    version: String,
    machine: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct LoadAverages {
    #[serde(rename = "1m")]
    load1: f64,
    #[serde(rename = "5m")]
    load5: f64,
    #[serde(rename = "15m")]
    load15: f64,
}

/// In bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct HostMemory {
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_free_bytes: Option<u64>,
}

/// Values of `/proc/stat` that change rarely or never while the host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BootStat {
    boot_time: u64,
    cpus_online: usize,
}

pub(super) async fn respond(api: &Api, snapshot: Arc<Snapshot>) -> Result<Vec<u8>, ApiError> {
    let (readings, workers) = (&api.host, &api.workers);
    let (load, memory, os, stat) = tokio::join!(
        readings.load.take(&snapshot, workers),
        readings.memory.take(&snapshot, workers),
        readings.os.take(&snapshot, workers),
        readings.stat.take(&snapshot, workers),
    );
    let mut missing = Vec::new();
    let stat = ok_or_missing(&mut missing, readings.stat.what(), stat);
    let load = ok_or_missing(&mut missing, readings.load.what(), load);
    let memory = ok_or_missing(&mut missing, readings.memory.what(), memory);
    let os = ok_or_missing(&mut missing, readings.os.what(), os).flatten();
    let uname = snapshot.uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    to_json(&HostResponse {
        time: snapshot.unix_time(),
        name: text(uname.nodename()),
        kernel: KernelVersion {
            release: text(uname.release()),
            version: text(uname.version()),
            machine: text(uname.machine()),
        },
        os,
        boot_time: stat.map(|stat| stat.boot_time),
        cpus_online: stat.map(|stat| stat.cpus_online),
        load,
        memory,
        latest: LatestSample::from_series(api.machine.history().host()),
        missing,
    })
}

fn parse_loadavg(text: &Text) -> Result<LoadAverages> {
    let mut line = text.line()?;
    Ok(LoadAverages {
        load1: line.parse("load average over 1 minute")?,
        load5: line.parse("load average over 5 minutes")?,
        load15: line.parse("load average over 15 minutes")?,
    })
}

fn parse_meminfo(text: &Text) -> Result<HostMemory> {
    let mut memory = HostMemory::default();
    for mut line in text.lines() {
        let field = match line.next_word() {
            Some("MemTotal:") => &mut memory.total_bytes,
            Some("MemAvailable:") => &mut memory.available_bytes,
            Some("MemFree:") => &mut memory.free_bytes,
            Some("SwapTotal:") => &mut memory.swap_total_bytes,
            Some("SwapFree:") => &mut memory.swap_free_bytes,
            _ => continue,
        };
        let kilobytes: u64 = line.parse("value")?;
        *field = kilobytes.checked_mul(1024);
    }
    Ok(memory)
}

fn parse_stat(text: &Text) -> Result<BootStat> {
    let mut boot_time = None;
    let mut cpus_online = 0;
    for mut line in text.lines() {
        match line.next_word() {
            Some("btime") => boot_time = Some(line.parse("boot time")?),
            Some(word) if is_cpu_line(word) => cpus_online += 1,
            _ => {}
        }
    }
    Ok(BootStat {
        boot_time: boot_time.ok_or_else(|| text.error(1, "missing btime"))?,
        cpus_online,
    })
}

/// Whether the line is about one CPU; `cpu` without a number is the sum of all.
fn is_cpu_line(word: &str) -> bool {
    let number = word.strip_prefix("cpu");
    number.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_meminfo_fields_are_none() {
        let text = Text::from("MemTotal:  2 kB\nMemFree: 1 kB\nHugePages_Total: 7\n");
        let expected = HostMemory {
            total_bytes: Some(2048),
            free_bytes: Some(1024),
            ..HostMemory::default()
        };
        assert_eq!(parse_meminfo(&text).unwrap(), expected);
        assert!(parse_meminfo(&Text::from("MemTotal: much kB\n")).is_err());
    }

    #[test]
    fn stat_counts_online_cpus() {
        let text = Text::from("cpu  9 9\ncpu0 4 4\ncpu2 5 5\nintr 7\nbtime 1700000000\n");
        let expected = BootStat {
            boot_time: 1_700_000_000,
            cpus_online: 2,
        };
        assert_eq!(parse_stat(&text).unwrap(), expected);
        let error = parse_stat(&Text::from("cpu0 1\n")).unwrap_err();
        assert_eq!(error.to_string(), "test:1: missing btime");
    }

    #[test]
    fn loadavg_has_three_values() {
        let expected = LoadAverages {
            load1: 0.5,
            load5: 1.0,
            load15: 2.25,
        };
        let line = Text::from("0.50 1.00 2.25 1/99 4001\n");
        assert_eq!(parse_loadavg(&line).unwrap(), expected);
        assert!(parse_loadavg(&Text::from("0.50\n")).is_err());
    }
}
