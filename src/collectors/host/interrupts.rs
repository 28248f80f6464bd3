//! Interrupts per CPU, from `/proc/interrupts`, documented in `proc_interrupts(5)`.
//!
//! A line starts with a number, followed by the counts and the devices, or with an abbreviation,
//! followed by the counts and a description. `ERR` and `MIS` have no count per CPU and are not
//! exposed. CPU numbers come from the first line, which omits offline CPUs.

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    pattern::{Filter, Pattern},
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Interrupts serviced, by CPU and type (an interrupt number or an abbreviation).
    INTERRUPTS: Counter = "node_interrupts_total" ["cpu", "devices", "info", "type"];
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct InterruptsFlags {
    /// Regexp of interrupts to include, matched against type;info;devices.
    #[arg(long = "collector.interrupts.name-include", value_name = "REGEX")]
    interrupts_name_include: Option<Pattern>,
    /// Regexp of interrupts to exclude, matched against type;info;devices.
    #[arg(long = "collector.interrupts.name-exclude", value_name = "REGEX")]
    interrupts_name_exclude: Option<Pattern>,
    /// Expose interrupts whose count is zero, too.
    #[arg(
        long = "collector.interrupts.include-zeros",
        default_value_t = true,
        action = ArgAction::Set
    )]
    interrupts_include_zeros: bool,
}

#[derive(Debug)]
pub(super) struct Interrupts {
    filter: Filter,
    include_zeros: bool,
}

impl Collector for Interrupts {
    const NAME: &'static str = "interrupts";
    const ABOUT: &'static str = "interrupts by CPU and type";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = InterruptsFlags;

    fn new(flags: InterruptsFlags) -> Result<Self, String> {
        let include = (
            "collector.interrupts.name-include",
            flags.interrupts_name_include,
        );
        let exclude = (
            "collector.interrupts.name-exclude",
            flags.interrupts_name_exclude,
        );
        Ok(Self {
            filter: Filter::new(include, exclude, "")?,
            include_zeros: flags.interrupts_include_zeros,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        self.families(&snapshot.read_proc("interrupts")?)
    }
}

impl Interrupts {
    fn families(&self, interrupts: &Text) -> Result<Families> {
        let mut out = Families::default();
        let cpus: Vec<&str> = super::softirqs::parse_cpus(interrupts.line()?);
        for line in interrupts.lines().skip(1) {
            let interrupt = parse_interrupt(&line, cpus.len());
            let Some(Some(interrupt)) = out.ok_or_skip(interrupt) else {
                continue;
            };
            let Interrupt {
                kind,
                info,
                devices,
                counts,
            } = interrupt;
            if !self.filter.matches(&format!("{kind};{info};{devices}")) {
                continue;
            }
            for (cpu, count) in cpus.iter().zip(counts) {
                if self.include_zeros || count > 0 {
                    out.add(&INTERRUPTS, [cpu, &devices, &info, kind], count);
                }
            }
        }
        Ok(out)
    }
}

struct Interrupt<'a> {
    kind: &'a str,
    info: String,
    devices: String,
    counts: Vec<u64>,
}

/// Parses a line; `None` if it has no counts per CPU.
fn parse_interrupt<'a>(line: &Fields<'a>, cpus: usize) -> Result<Option<Interrupt<'a>>> {
    // Not split at white space: on arm64 a wide number is adjacent to the colon.
    let Some((kind, rest)) = line.rest().split_once(':') else {
        return Ok(None);
    };
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let Some((counts, details)) = words.split_at_checked(cpus).filter(|(_, d)| !d.is_empty())
    else {
        return Ok(None);
    };
    let counts = counts.iter().map(|count| line.parse_word(count, "count"));
    let counts = counts.collect::<Result<_>>()?;
    let is_number = kind.bytes().all(|b| b.is_ascii_digit());
    let (info, devices) = details.split_at(if is_number { 1 } else { details.len() });
    Ok(Some(Interrupt {
        kind,
        info: info.join(" "),
        devices: devices.join(" "),
        counts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS_OF_TWO: &str = "           CPU0       CPU2       \n\
        \x20 8:          1          0  IO-APIC   8-edge      rtc0\n\
        \x20 9:          x          0  IO-APIC   9-fasteoi   acpi\n\
        IPI0:4          5       Rescheduling interrupts\n\
        ERR:          7\n";

    fn interrupts(include: &str, exclude: &str, include_zeros: bool) -> Interrupts {
        Interrupts::new(InterruptsFlags {
            interrupts_name_include: include.parse().ok(),
            interrupts_name_exclude: exclude.parse().ok(),
            interrupts_include_zeros: include_zeros,
        })
        .unwrap()
    }

    #[test]
    fn an_offline_cpu_leaves_a_gap_in_the_numbers() {
        let text = Text::from(INTERRUPTS_OF_TWO);
        let out = interrupts("", "", true).families(&text).unwrap();
        assert_eq!(
            out.lines(),
            [
                r#"node_interrupts_total{cpu="0",devices="8-edge rtc0",info="IO-APIC",type="8"} 1"#,
                r#"node_interrupts_total{cpu="2",devices="8-edge rtc0",info="IO-APIC",type="8"} 0"#,
                r#"node_interrupts_total{cpu="0",devices="",info="Rescheduling interrupts",type="IPI0"} 4"#,
                r#"node_interrupts_total{cpu="2",devices="",info="Rescheduling interrupts",type="IPI0"} 5"#,
            ]
        );
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, r#"test:3: count is not a number: "x""#);
    }

    #[test]
    fn filter_matches_type_info_and_devices() {
        let text = Text::from(INTERRUPTS_OF_TWO);
        let lines = |interrupts: Interrupts| interrupts.families(&text).unwrap().lines();
        assert_eq!(
            lines(interrupts("^8;IO-APIC;8-edge rtc0$", "", true)).len(),
            2
        );
        assert_eq!(lines(interrupts("", "^IPI", true)).len(), 2);
        assert_eq!(lines(interrupts("", "", false)).len(), 3);
    }
}
