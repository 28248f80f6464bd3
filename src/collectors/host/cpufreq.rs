//! CPU frequencies and their limits, from `/sys/devices/system/cpu/cpu*/cpufreq`, documented in
//! `Documentation/admin-guide/pm/cpufreq.rst`.
//!
//! CPUs that change frequency together link to one directory, which is read once. Some drivers
//! return a busy error while they are read, and `cpuinfo_cur_freq` is readable only by root; in
//! both cases the series is missing.

use std::collections::HashMap;

use super::cpu::cpu_number;
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Current CPU frequency in hertz, as reported by the kernel.
    FREQUENCY_HERTZ: Gauge = "node_cpu_frequency_hertz" ["cpu"];
    /// Minimum CPU frequency of the hardware in hertz.
    FREQUENCY_MIN_HERTZ: Gauge = "node_cpu_frequency_min_hertz" ["cpu"];
    /// Maximum CPU frequency of the hardware in hertz.
    FREQUENCY_MAX_HERTZ: Gauge = "node_cpu_frequency_max_hertz" ["cpu"];
    /// Last requested CPU frequency in hertz, or the current frequency if the driver can report it.
    SCALING_FREQUENCY_HERTZ: Gauge = "node_cpu_scaling_frequency_hertz" ["cpu"];
    /// Minimum CPU frequency allowed by the scaling policy in hertz.
    SCALING_FREQUENCY_MIN_HERTZ: Gauge = "node_cpu_scaling_frequency_min_hertz" ["cpu"];
    /// Maximum CPU frequency allowed by the scaling policy in hertz.
    SCALING_FREQUENCY_MAX_HERTZ: Gauge = "node_cpu_scaling_frequency_max_hertz" ["cpu"];
    /// Available CPU frequency governors: 1 for the active one, 0 for the others.
    SCALING_GOVERNOR: Gauge = "node_cpu_scaling_governor" ["cpu", "governor"];
}

/// Files that contain a frequency in kHz.
const FREQUENCIES: [(&str, &Metric<1>); 6] = [
    ("cpuinfo_cur_freq", &FREQUENCY_HERTZ),
    ("cpuinfo_min_freq", &FREQUENCY_MIN_HERTZ),
    ("cpuinfo_max_freq", &FREQUENCY_MAX_HERTZ),
    ("scaling_cur_freq", &SCALING_FREQUENCY_HERTZ),
    ("scaling_min_freq", &SCALING_FREQUENCY_MIN_HERTZ),
    ("scaling_max_freq", &SCALING_FREQUENCY_MAX_HERTZ),
];

#[derive(Debug)]
pub(super) struct CpuFreq;

impl Collector for CpuFreq {
    const NAME: &'static str = "cpufreq";
    const ABOUT: &'static str = "CPU frequencies and their limits";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let cpus = snapshot.sys_dir("devices/system/cpu")?;
        let mut policies = HashMap::new();
        for name in cpus.names()? {
            let Some(cpu) = cpu_number(&name) else {
                continue;
            };
            let path = format!("cpu{cpu}/cpufreq");
            let policy = match cpus.read_link_name(&path) {
                Ok(policy) if policy.starts_with("policy") => policy,
                Err(error) if error.is_gone() => continue,
                // Before Linux 4.3 it is a directory, or a link to another CPU's.
                Ok(_) | Err(_) => path.clone(),
            };
            let policy = policies
                .entry(policy)
                .or_insert_with(|| cpus.dir(&path).map(|dir| Policy::read(&mut out, &dir)));
            if let Ok(policy) = policy {
                policy.add(&mut out, cpu);
            }
        }
        Ok(out)
    }
}

/// Frequency scaling policy of a group of CPUs.
struct Policy {
    frequencies: [Option<Value>; FREQUENCIES.len()],
    governor: Option<String>,
    governors: Option<String>,
}

impl Policy {
    fn read(out: &mut Families, dir: &Dir) -> Self {
        let frequencies = FREQUENCIES.map(|(file, _)| match read_frequency(dir, file) {
            Err(error) if error.is_permission_denied() => None,
            frequency => out.ok_or_skip(frequency).flatten(),
        });
        let governor = dir.read_trimmed("scaling_governor");
        let governors = dir.read_trimmed("scaling_available_governors");
        Self {
            frequencies,
            governor: out.ok_or_skip(governor),
            governors: out.ok_or_skip(governors),
        }
    }

    fn add(&self, out: &mut Families, cpu: &str) {
        for ((_, metric), value) in FREQUENCIES.iter().zip(self.frequencies) {
            if let Some(hertz) = value {
                out.add(metric, [cpu], hertz);
            }
        }
        let Some(current) = &self.governor else {
            return;
        };
        let governors = self.governors.as_ref().unwrap_or(current);
        for governor in governors.split_ascii_whitespace() {
            out.add(&SCALING_GOVERNOR, [cpu, governor], governor == current);
        }
    }
}

/// Reads a frequency in hertz; `None` if the driver does not know it.
fn read_frequency(dir: &Dir, file: &str) -> Result<Option<Value>> {
    let text = dir.read(file)?;
    match text.trimmed() {
        "<unknown>" => Ok(None),
        _ => text
            .parse_number()
            .map(|khz| Some(Value::product(khz, 1000))),
    }
}
