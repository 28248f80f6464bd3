//! Pressure stall information (PSI), from `/proc/pressure`, documented in
//! `Documentation/accounting/psi.rst`.
//!
//! Reading the files fails on kernels with PSI disabled (boot option `psi=0`), and kernels
//! without interrupt accounting lack that file: in both cases the metrics are missing without an
//! error. `full` of the CPU is not exposed because it is undefined at the system level.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Total time in seconds that processes have waited for CPU time.
    CPU_WAITING_SECONDS: Counter = "node_pressure_cpu_waiting_seconds_total" [];
    /// Total time in seconds that processes have waited due to IO congestion.
    IO_WAITING_SECONDS: Counter = "node_pressure_io_waiting_seconds_total" [];
    /// Total time in seconds no process could make progress due to IO congestion.
    IO_STALLED_SECONDS: Counter = "node_pressure_io_stalled_seconds_total" [];
    /// Total time in seconds that processes have waited for memory.
    MEMORY_WAITING_SECONDS: Counter = "node_pressure_memory_waiting_seconds_total" [];
    /// Total time in seconds no process could make progress due to memory congestion.
    MEMORY_STALLED_SECONDS: Counter = "node_pressure_memory_stalled_seconds_total" [];
    /// Total time in seconds no process could make progress due to IRQ congestion.
    IRQ_STALLED_SECONDS: Counter = "node_pressure_irq_stalled_seconds_total" [];
}

/// Lines of a file: `some` task waited, or all tasks were stalled (`full`).
type Lines = &'static [(&'static str, &'static Metric<0>)];

const RESOURCES: [(&str, Lines); 4] = [
    ("pressure/cpu", &[("some", &CPU_WAITING_SECONDS)]),
    (
        "pressure/io",
        &[("some", &IO_WAITING_SECONDS), ("full", &IO_STALLED_SECONDS)],
    ),
    (
        "pressure/memory",
        &[
            ("some", &MEMORY_WAITING_SECONDS),
            ("full", &MEMORY_STALLED_SECONDS),
        ],
    ),
    ("pressure/irq", &[("full", &IRQ_STALLED_SECONDS)]),
];

#[derive(Debug)]
pub(super) struct PressureCollector;

impl Collector for PressureCollector {
    const NAME: &'static str = "pressure";
    const ABOUT: &'static str = "pressure stall information (PSI)";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (path, lines) in RESOURCES {
            let text = snapshot.read_proc(path);
            if let Some(text) = out.ok_or_skip(text) {
                add_resource(&mut out, &text, lines);
            }
        }
        match out.errors() {
            (0, _) if out.is_empty() => {
                Err(Error::NotFound(snapshot.roots().procfs.join("pressure")))
            }
            _ => Ok(out),
        }
    }
}

fn add_resource(out: &mut Families, text: &Text, lines: Lines) {
    for mut line in text.lines() {
        let kind = line.next_word();
        let Some((_, metric)) = lines.iter().find(|(name, _)| kind == Some(name)) else {
            continue;
        };
        let total = parse_total(line);
        if let Some(microseconds) = out.ok_or_skip(total) {
            out.add(metric, [], Value::quotient(microseconds, 1_000_000));
        }
    }
}

/// Parses `avg10=0.12 avg60=0.05 avg300=0.01 total=1234567`, in microseconds.
fn parse_total(mut line: Fields<'_>) -> Result<u64> {
    while let Some(word) = line.next_word() {
        if let Some(total) = word.strip_prefix("total=") {
            return line.parse_word(total, "total");
        }
    }
    Err(line.error("total is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_to_seconds_and_skips_malformed_lines() {
        let mut out = Families::default();
        let some = "some avg10=0.12 avg60=0.05 avg300=0.00 total=2500000\n";
        let text = Text::from(format!("{some}full avg10=0.00 total=x\n").as_str());
        add_resource(&mut out, &text, RESOURCES[1].1);
        assert_eq!(out.lines(), ["node_pressure_io_waiting_seconds_total 2.5"]);
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, r#"test:2: total is not a number: "x""#);
    }

    #[test]
    fn cpu_full_is_not_exposed() {
        let mut out = Families::default();
        let text = "some avg10=0 total=2500000\nfull avg10=0 total=0\n".into();
        add_resource(&mut out, &text, RESOURCES[0].1);
        assert_eq!(out.lines(), ["node_pressure_cpu_waiting_seconds_total 2.5"]);
    }
}
