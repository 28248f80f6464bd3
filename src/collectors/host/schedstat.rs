//! Running and waiting time of tasks by CPU, from `/proc/schedstat`, documented in
//! `Documentation/scheduler/sched-stats.rst`.
//!
//! The format has a version number, but between versions 15 and 17 only the lines of scheduling
//! domains changed, which are not read.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Number of seconds CPU spent running a process.
    RUNNING_SECONDS: Counter = "node_schedstat_running_seconds_total" ["cpu"];
    /// Number of seconds spent by processes waiting for this CPU.
    WAITING_SECONDS: Counter = "node_schedstat_waiting_seconds_total" ["cpu"];
    /// Number of timeslices executed by CPU.
    TIMESLICES: Counter = "node_schedstat_timeslices_total" ["cpu"];
}

/// Number of columns before the exposed ones; these count scheduler calls.
const SKIPPED_COLUMNS: usize = 6;

#[derive(Debug)]
pub(super) struct SchedStatCollector;

impl Collector for SchedStatCollector {
    const NAME: &'static str = "schedstat";
    const ABOUT: &'static str = "run time and run queue wait of each CPU";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("schedstat")?))
    }
}

fn families(schedstat: &Text) -> Families {
    let mut out = Families::default();
    for mut line in schedstat.lines() {
        let Some(cpu) = line.next_word().and_then(|word| word.strip_prefix("cpu")) else {
            continue;
        };
        let times = parse_times(line);
        if let Some(times) = out.ok_or_skip(times) {
            let seconds = |nanoseconds| Value::quotient(nanoseconds, 1_000_000_000);
            out.add(&RUNNING_SECONDS, [cpu], seconds(times.running));
            out.add(&WAITING_SECONDS, [cpu], seconds(times.waiting));
            out.add(&TIMESLICES, [cpu], times.timeslices);
        }
    }
    out
}

/// Exposed columns of a CPU's line.
struct SchedTimes {
    /// In nanoseconds.
    running: u64,
    /// In nanoseconds.
    waiting: u64,
    timeslices: u64,
}

fn parse_times(mut line: Fields<'_>) -> Result<SchedTimes> {
    for _ in 0..SKIPPED_COLUMNS {
        line.word("calls")?;
    }
    Ok(SchedTimes {
        running: line.parse("running time")?,
        waiting: line.parse("waiting time")?,
        timeslices: line.parse("timeslices")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "domain0 MC 3 1 2 3 4 5 6 7 8 9\n";

    #[test]
    fn parses_cpu_lines_of_versions_since_15() {
        for version in ["15", "16", "17"] {
            let cpu = "cpu7 1 0 3 4 5 6 2500000000 1250000000 9";
            let text = format!("version {version}\ntimestamp 8\n{cpu}\n{DOMAIN}");
            assert_eq!(
                families(&Text::from(text.as_str())).lines(),
                [
                    r#"node_schedstat_running_seconds_total{cpu="7"} 2.5"#,
                    r#"node_schedstat_waiting_seconds_total{cpu="7"} 1.25"#,
                    r#"node_schedstat_timeslices_total{cpu="7"} 9"#,
                ]
            );
        }
    }

    #[test]
    fn malformed_line_skips_only_its_cpu() {
        let text = Text::from("cpu0 1 0 3 4 5 6 7 8\ncpu1 1 0 3 4 5 6 7 8 9\n");
        let out = families(&text);
        assert_eq!(out.lines().len(), 3);
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, "test:1: timeslices is missing");
    }
}
