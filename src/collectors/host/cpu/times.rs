//! CPU times that never decrease.
//!
//! Idle and I/O wait time are sums over values that other CPUs update concurrently, so the
//! kernel sometimes reports slightly less than before. Prometheus treats such a decrease as a
//! counter reset, with a rate as large as all the time since boot. Therefore the largest value
//! seen is kept for each mode. A CPU that was unplugged and plugged in again does restart its
//! counters, which shows as an idle time much smaller than before.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::{GUEST_MODES, GUEST_SECONDS, MODES, SECONDS, TICKS_PER_SECOND};
use crate::{
    error::Result,
    family::{Families, Value},
    sources::{Fields, Text},
};

/// The column of [`CPUACCT_STAT`] that reveals a restarted CPU.
const IDLE: usize = 3;
/// Decrease of the idle time that indicates a restart; larger than any spurious decrease.
const RESTART_TICKS: u64 = 3 * TICKS_PER_SECOND;

/// Ticks of one CPU, by column; `None` if the kernel is too old to report the column.
type Ticks = [Option<u64>; MODES.len() + GUEST_MODES.len()];

/// Largest values seen for the CPUs that were present in the last scrape.
#[derive(Debug, Default)]
pub(super) struct MonotonicTimes(Mutex<BTreeMap<u32, Ticks>>);

impl MonotonicTimes {
    /// Adds the times of every CPU in `/proc/stat` and returns the CPU numbers.
    pub(super) fn add(&self, out: &mut Families, stat: &Text, guest: bool) -> Vec<u32> {
        let mut cpus = BTreeMap::new();
        for line in stat.lines() {
            let cpu = parse_ticks(line);
            if let Some(Some((cpu, ticks))) = out.ok_or_skip(cpu) {
                cpus.insert(cpu, ticks);
            }
        }
        let cpus = self.make_monotonic(cpus);
        for (cpu, ticks) in &cpus {
            let cpu = cpu.to_string();
            let (times, guests) = ticks.split_at(MODES.len());
            for (mode, ticks) in MODES.iter().zip(times) {
                if let Some(ticks) = *ticks {
                    let seconds = Value::quotient(ticks, TICKS_PER_SECOND);
                    out.add(&SECONDS, [&cpu, mode], seconds);
                }
            }
            for (mode, ticks) in GUEST_MODES.iter().zip(guests).filter(|_| guest) {
                if let Some(ticks) = *ticks {
                    let seconds = Value::quotient(ticks, TICKS_PER_SECOND);
                    out.add(&GUEST_SECONDS, [&cpu, mode], seconds);
                }
            }
        }
        cpus.into_keys().collect()
    }

    fn make_monotonic(&self, mut cpus: BTreeMap<u32, Ticks>) -> BTreeMap<u32, Ticks> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (cpu, ticks) in &mut cpus {
            if let Some(before) = last.get(cpu) {
                *ticks = monotonic(before, ticks);
            }
        }
        // CPUs that have been removed are dropped.
        last.clone_from(&cpus);
        cpus
    }
}

fn monotonic(before: &Ticks, now: &Ticks) -> Ticks {
    let lost = before[IDLE].zip(now[IDLE]);
    let lost = lost.map_or(0, |(before, now)| before.saturating_sub(now));
    if lost >= RESTART_TICKS {
        return *now;
    }
    let mut ticks = *now;
    for (ticks, before) in ticks.iter_mut().zip(before) {
        *ticks = (*ticks).max(*before);
    }
    ticks
}

/// Parses a line; `None` if it is not about a single CPU.
fn parse_ticks(mut line: Fields<'_>) -> Result<Option<(u32, Ticks)>> {
    let cpu = line.next_word().and_then(|word| word.strip_prefix("cpu"));
    // The line without a CPU number is the sum of the others.
    let Some(cpu) = cpu.filter(|cpu| !cpu.is_empty()) else {
        return Ok(None);
    };
    let cpu = line.parse_word(cpu, "CPU")?;
    let mut ticks = Ticks::default();
    for ticks in &mut ticks {
        *ticks = line.parse_opt("ticks")?;
    }
    Ok(Some((cpu, ticks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(times: &MonotonicTimes, stat: &str) -> Vec<String> {
        let mut out = Families::default();
        times.add(&mut out, &stat.into(), true);
        out.lines()
    }

    /// User and idle time of a CPU as exposed by the second of two scrapes.
    fn second_scrape(first: &str, second: &str) -> [String; 2] {
        let times = MonotonicTimes::default();
        lines(&times, first);
        let lines = lines(&times, second);
        [lines[0].clone(), lines[3].clone()]
    }

    #[test]
    fn each_column_is_a_mode() {
        let stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu2 101 2 3 4 5 6 7 8 9 10 99\nintr 1\n";
        assert_eq!(
            lines(&MonotonicTimes::default(), stat),
            [
                r#"node_cpu_seconds_total{cpu="2",mode="user"} 1.01"#,
                r#"node_cpu_seconds_total{cpu="2",mode="nice"} 0.02"#,
                r#"node_cpu_seconds_total{cpu="2",mode="system"} 0.03"#,
                r#"node_cpu_seconds_total{cpu="2",mode="idle"} 0.04"#,
                r#"node_cpu_seconds_total{cpu="2",mode="iowait"} 0.05"#,
                r#"node_cpu_seconds_total{cpu="2",mode="irq"} 0.06"#,
                r#"node_cpu_seconds_total{cpu="2",mode="softirq"} 0.07"#,
                r#"node_cpu_seconds_total{cpu="2",mode="steal"} 0.08"#,
                r#"node_cpu_guest_seconds_total{cpu="2",mode="user"} 0.09"#,
                r#"node_cpu_guest_seconds_total{cpu="2",mode="nice"} 0.1"#,
            ]
        );
    }

    #[test]
    fn old_kernels_and_malformed_lines_are_tolerated() {
        let mut out = Families::default();
        let stat = "cpu0 1 2 3 4\ncpu1 1 x 3 4\n".into();
        assert_eq!(MonotonicTimes::default().add(&mut out, &stat, true), [0]);
        assert_eq!(out.lines().len(), 4);
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 1);
        let reason = reason.unwrap().to_string();
        assert_eq!(reason, r#"test:2: ticks is not a number: "x""#);
    }

    #[test]
    fn small_decrease_is_ignored() {
        let [user, idle] = second_scrape("cpu0 500 0 0 1000\n", "cpu0 499 0 0 701\n");
        assert_eq!(user, r#"node_cpu_seconds_total{cpu="0",mode="user"} 5"#);
        assert_eq!(idle, r#"node_cpu_seconds_total{cpu="0",mode="idle"} 10"#);
    }

    #[test]
    fn unplugged_cpu_restarts_its_counters() {
        let [user, idle] = second_scrape("cpu0 500 0 0 1000\n", "cpu0 499 0 0 700\n");
        assert_eq!(user, r#"node_cpu_seconds_total{cpu="0",mode="user"} 4.99"#);
        assert_eq!(idle, r#"node_cpu_seconds_total{cpu="0",mode="idle"} 7"#);
    }

    #[test]
    fn removed_cpu_is_dropped() {
        let times = MonotonicTimes::default();
        lines(&times, "cpu0 1 2 3 4\ncpu1 500 0 0 10\n");
        lines(&times, "cpu0 1 2 3 4\n");
        assert_eq!(times.0.lock().unwrap().len(), 1);
        let lines = lines(&times, "cpu1 400 0 0 10\n");
        assert_eq!(lines[0], r#"node_cpu_seconds_total{cpu="1",mode="user"} 4"#);
    }
}
