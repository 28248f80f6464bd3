//! The machine itself at a glance. Each file is read by itself, so that one that hangs or
//! makes no sense costs only what it says.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{Api, Missing, error::Problem, json, keep, latest::Latest, seconds};
use crate::{
    error::Result,
    scrape::Reading,
    sources::{Snapshot, Text},
};

#[derive(Debug)]
pub(super) struct Readings {
    load: Reading<Load>,
    memory: Reading<Memory>,
    os: Reading<Option<String>>,
    stat: Reading<Stat>,
}

impl Readings {
    pub(super) fn new() -> Self {
        Self {
            load: Reading::new("load", |machine| load(&machine.proc("loadavg")?)),
            memory: Reading::new("memory", |machine| memory(&machine.proc("meminfo")?)),
            os: Reading::new("os", |machine| machine.os_name()),
            stat: Reading::new("cpus", |machine| stat(machine.proc_stat()?)),
        }
    }
}

#[derive(Serialize)]
struct Host {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    name: String,
    kernel: Kernel,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus_online: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<Latest>,
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Kernel {
    release: String,
    version: String,
    machine: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Load {
    #[serde(rename = "1m")]
    one: f64,
    #[serde(rename = "5m")]
    five: f64,
    #[serde(rename = "15m")]
    fifteen: f64,
}

/// In bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Memory {
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

/// Of `/proc/stat` what does not change while the machine runs, or not often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    boot_time: u64,
    cpus_online: usize,
}

pub(super) async fn answer(api: &Api, machine: Arc<Snapshot>) -> Result<Vec<u8>, Problem> {
    let (readings, workers) = (&api.host, &api.workers);
    let (load, memory, os, stat) = tokio::join!(
        readings.load.take(&machine, workers),
        readings.memory.take(&machine, workers),
        readings.os.take(&machine, workers),
        readings.stat.take(&machine, workers),
    );
    let mut missing = Vec::new();
    let stat = keep(&mut missing, readings.stat.what(), stat);
    let load = keep(&mut missing, readings.load.what(), load);
    let memory = keep(&mut missing, readings.memory.what(), memory);
    let os = keep(&mut missing, readings.os.what(), os).flatten();
    let uname = machine.uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    json(&Host {
        time: machine.now(),
        name: text(uname.nodename()),
        kernel: Kernel {
            release: text(uname.release()),
            version: text(uname.version()),
            machine: text(uname.machine()),
        },
        os,
        boot_time: stat.map(|stat| stat.boot_time),
        cpus_online: stat.map(|stat| stat.cpus_online),
        load,
        memory,
        latest: Latest::of(api.machine.history().host()),
        missing,
    })
}

fn load(text: &Text) -> Result<Load> {
    let mut line = text.line()?;
    Ok(Load {
        one: line.parse("load of a minute")?,
        five: line.parse("load of 5 minutes")?,
        fifteen: line.parse("load of 15 minutes")?,
    })
}

fn memory(text: &Text) -> Result<Memory> {
    let mut memory = Memory::default();
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

fn stat(text: &Text) -> Result<Stat> {
    let mut boot_time = None;
    let mut cpus_online = 0;
    for mut line in text.lines() {
        match line.next_word() {
            Some("btime") => boot_time = Some(line.parse("boot time")?),
            Some(word) if is_cpu(word) => cpus_online += 1,
            _ => {}
        }
    }
    Ok(Stat {
        boot_time: boot_time.ok_or_else(|| text.error(1, "btime is missing"))?,
        cpus_online,
    })
}

/// Whether a line is of one CPU; `cpu` alone is of all.
fn is_cpu(word: &str) -> bool {
    let number = word.strip_prefix("cpu");
    number.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_does_not_say_is_not_there() {
        let text = Text::from("MemTotal:  2 kB\nMemFree: 1 kB\nHugePages_Total: 7\n");
        let expected = Memory {
            total_bytes: Some(2048),
            free_bytes: Some(1024),
            ..Memory::default()
        };
        assert_eq!(memory(&text).unwrap(), expected);
        assert!(memory(&Text::from("MemTotal: much kB\n")).is_err());
    }

    #[test]
    fn cpus_are_counted_one_by_one() {
        let text = Text::from("cpu  9 9\ncpu0 4 4\ncpu2 5 5\nintr 7\nbtime 1700000000\n");
        let expected = Stat {
            boot_time: 1_700_000_000,
            cpus_online: 2,
        };
        assert_eq!(stat(&text).unwrap(), expected);
        let error = stat(&Text::from("cpu0 1\n")).unwrap_err();
        assert_eq!(error.to_string(), "test:1: btime is missing");
    }

    #[test]
    fn load_is_three_numbers() {
        let expected = Load {
            one: 0.5,
            five: 1.0,
            fifteen: 2.25,
        };
        let line = Text::from("0.50 1.00 2.25 1/99 4001\n");
        assert_eq!(load(&line).unwrap(), expected);
        assert!(load(&Text::from("0.50\n")).is_err());
    }
}
