//! Interrupts, context switches, forks and processes, from `/proc/stat`, documented in
//! `proc_stat(5)`. The lines of the CPUs are read by the `cpu` collector.

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Total number of interrupts serviced.
    INTR: Counter = "node_intr_total" [];
    /// Total number of context switches.
    CONTEXT_SWITCHES: Counter = "node_context_switches_total" [];
    /// Total number of forks.
    FORKS: Counter = "node_forks_total" [];
    /// Node boot time, in unixtime.
    BOOT_TIME: Gauge = "node_boot_time_seconds" [];
    /// Number of processes in runnable state.
    PROCS_RUNNING: Gauge = "node_procs_running" [];
    /// Number of processes blocked waiting for I/O to complete.
    PROCS_BLOCKED: Gauge = "node_procs_blocked" [];
    /// Number of softirq calls.
    SOFTIRQS: Counter = "node_softirqs_total" ["vector"];
}

/// The vectors in the order of the `softirq` line, named as in the kernel's `softirq_to_name`.
const SOFTIRQ_VECTORS: [&str; 10] = [
    "hi",
    "timer",
    "net_tx",
    "net_rx",
    "block",
    "block_iopoll",
    "tasklet",
    "sched",
    "hrtimer",
    "rcu",
];

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct StatCollectorFlags {
    /// Export softirq calls per vector.
    #[arg(long = "collector.stat.softirq", default_value_t = false, action = ArgAction::Set)]
    stat_softirq: bool,
}

#[derive(Debug)]
pub(super) struct StatCollector {
    softirq: bool,
}

impl Collector for StatCollector {
    const NAME: &'static str = "stat";
    const ABOUT: &'static str = "interrupts, context switches, forks and processes";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = StatCollectorFlags;

    fn new(flags: StatCollectorFlags) -> Result<Self, String> {
        Ok(Self {
            softirq: flags.stat_softirq,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(self.families(snapshot.proc_stat()?))
    }
}

impl StatCollector {
    fn families(&self, stat: &Text) -> Families {
        let mut out = Families::default();
        for mut fields in stat.lines() {
            let metric: &'static Metric<0> = match fields.next_word() {
                Some("intr") => &INTR,
                Some("ctxt") => &CONTEXT_SWITCHES,
                Some("processes") => &FORKS,
                Some("btime") => &BOOT_TIME,
                Some("procs_running") => &PROCS_RUNNING,
                Some("procs_blocked") => &PROCS_BLOCKED,
                Some("softirq") if self.softirq => {
                    add_softirqs(&mut out, fields);
                    continue;
                }
                _ => continue,
            };
            // The first number of `intr` is the sum of the others.
            let value = fields.parse::<Value>("count");
            if let Some(value) = out.ok_or_skip(value) {
                out.add(metric, [], value);
            }
        }
        out
    }
}

fn add_softirqs(out: &mut Families, mut fields: Fields<'_>) {
    let _sum = fields.next_word();
    for vector in SOFTIRQ_VECTORS {
        let calls = fields.parse::<u64>("calls");
        if let Some(calls) = out.ok_or_skip(calls) {
            out.add(&SOFTIRQS, [vector], calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1 2\nintr 9 4 5\nctxt x\nbtime 7\nsoftirq 55 1 2 3 4 5 6 7 8 9 10\n";

    #[test]
    fn malformed_line_is_skipped() {
        let out = StatCollector { softirq: false }.families(&Text::from(STAT));
        assert_eq!(
            out.lines(),
            ["node_intr_total 9", "node_boot_time_seconds 7"]
        );
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 1);
        let reason = reason.unwrap().to_string();
        assert_eq!(reason, r#"test:3: count is not a number: "x""#);
    }

    #[test]
    fn softirq_vectors_are_optional() {
        let out = StatCollector { softirq: true }.families(&Text::from(STAT));
        let lines = out.lines();
        assert_eq!(lines[2], r#"node_softirqs_total{vector="hi"} 1"#);
        assert_eq!(lines[11], r#"node_softirqs_total{vector="rcu"} 10"#);
    }
}
