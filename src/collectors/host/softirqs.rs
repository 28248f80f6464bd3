//! Softirq calls per CPU, from `/proc/softirqs`, documented in
//! `Documentation/filesystems/proc.rst`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Softirq counts per CPU.
    FUNCTIONS: Counter = "node_softirqs_functions_total" ["cpu", "type"];
}

#[derive(Debug)]
pub(super) struct SoftIrqs;

impl Collector for SoftIrqs {
    const NAME: &'static str = "softirqs";
    const ABOUT: &'static str = "softirqs by CPU and type";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        families(&snapshot.read_proc("softirqs")?)
    }
}

fn families(softirqs: &Text) -> Result<Families> {
    let mut out = Families::default();
    let cpus = parse_cpus(softirqs.line()?);
    for mut line in softirqs.lines().skip(1) {
        let Some(kind) = line.next_word() else {
            continue;
        };
        let kind = kind.trim_end_matches(':');
        let counts = cpus.iter().map(|_| line.parse::<u64>("count"));
        let counts = counts.collect::<Result<Vec<_>>>();
        if let Some(counts) = out.ok_or_skip(counts) {
            for (cpu, count) in cpus.iter().zip(counts) {
                out.add(&FUNCTIONS, [cpu, kind], count);
            }
        }
    }
    Ok(out)
}

/// Parses the CPU numbers in a table's first line: `CPU0 CPU2`.
pub(super) fn parse_cpus(mut line: Fields<'_>) -> Vec<&str> {
    std::iter::from_fn(|| line.next_word())
        .filter_map(|word| word.strip_prefix("CPU"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_is_the_cpu_above_it() {
        let text = Text::from("   CPU0  CPU2\nHI: 1 2\nTIMER: 3\nNEW_ONE: 4 5\n");
        let out = families(&text).unwrap();
        assert_eq!(
            out.lines(),
            [
                r#"node_softirqs_functions_total{cpu="0",type="HI"} 1"#,
                r#"node_softirqs_functions_total{cpu="2",type="HI"} 2"#,
                r#"node_softirqs_functions_total{cpu="0",type="NEW_ONE"} 4"#,
                r#"node_softirqs_functions_total{cpu="2",type="NEW_ONE"} 5"#,
            ]
        );
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, "test:3: count is missing");
    }
}
