//! CPU statistics: time per mode from `/proc/stat`, documented in `proc_stat(5)`; online,
//! isolated and throttling state from `/sys/devices/system/cpu`, documented in
//! `Documentation/ABI/testing/sysfs-devices-system-cpu`; and CPU properties from
//! `/proc/cpuinfo`.
//!
//! The kernel's idle and I/O wait times can decrease slightly, and all times restart when a CPU
//! is unplugged: see [`parse_times`].

mod info;
mod throttle;
mod times;

use std::ffi::OsStr;

use clap::ArgAction;

use self::{info::CpuInfo, throttle::Topology, times::MonotonicTimes};
use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    pattern::Pattern,
    sources::{Dir, Snapshot, Text},
};

metrics! {
    /// Seconds the CPUs spent in each mode; guest time is included in user and nice.
    SECONDS: Counter = "node_cpu_seconds_total" ["cpu", "mode"];
    /// Seconds the CPUs spent in guests (VMs) for each mode; included in node_cpu_seconds_total.
    GUEST_SECONDS: Counter = "node_cpu_guest_seconds_total" ["cpu", "mode"];
    /// CPU information from /proc/cpuinfo.
    INFO: Info = "node_cpu_info" [
        "cachesize", "core", "cpu", "family", "microcode", "model", "model_name", "package",
        "stepping", "vendor",
    ];
    /// The flags field of CPU information from /proc/cpuinfo, taken from the first CPU.
    FLAG_INFO: Info = "node_cpu_flag_info" ["flag"];
    /// The bugs field of CPU information from /proc/cpuinfo, taken from the first CPU.
    BUG_INFO: Info = "node_cpu_bug_info" ["bug"];
    /// Current CPU frequency in hertz, as reported by the kernel.
    FREQUENCY_HERTZ: Gauge = "node_cpu_frequency_hertz" ["core", "cpu", "package"];
    /// Number of times this CPU core has been throttled.
    CORE_THROTTLES: Counter = "node_cpu_core_throttles_total" ["core", "package"];
    /// Number of times this CPU package has been throttled.
    PACKAGE_THROTTLES: Counter = "node_cpu_package_throttles_total" ["package"];
    /// Whether the CPU is isolated from the scheduler (isolcpus); only isolated CPUs have a series.
    ISOLATED: Gauge = "node_cpu_isolated" ["cpu"];
    /// Whether the CPU is online (1) or not (0); exposed only if the first CPU can be taken
    /// offline.
    ONLINE: Gauge = "node_cpu_online" ["cpu"];
}

/// CPU modes in the order of the columns in `/proc/stat`.
const MODES: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];
/// The columns after those: guest time, by the mode that includes it.
const GUEST_MODES: [&str; 2] = ["user", "nice"];
/// `USER_HZ`: `/proc/stat` counts in hundredths of a second on every architecture.
const TICKS_PER_SECOND: u64 = 100;
/// Upper bound that exceeds the number of CPUs supported by any kernel.
const MAX_CPUS: usize = 1 << 16;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct CpuCollectorFlags {
    /// Expose the time spent in guests.
    #[arg(long = "collector.cpu.guest", default_value_t = true, action = ArgAction::Set)]
    cpu_guest: bool,
    /// Expose CPU information from /proc/cpuinfo.
    #[arg(long = "collector.cpu.info", default_value_t = false, action = ArgAction::Set)]
    cpu_info: bool,
    /// Regexp of CPU flags to include; enables --collector.cpu.info.
    #[arg(long = "collector.cpu.info.flags-include", value_name = "REGEX")]
    cpu_info_flags_include: Option<Pattern>,
    /// Regexp of CPU bugs to include; enables --collector.cpu.info.
    #[arg(long = "collector.cpu.info.bugs-include", value_name = "REGEX")]
    cpu_info_bugs_include: Option<Pattern>,
}

#[derive(Debug)]
pub(super) struct CpuCollector {
    guest: bool,
    info: bool,
    flags_include: Pattern,
    bugs_include: Pattern,
    times: MonotonicTimes,
    topology: Topology,
}

impl Collector for CpuCollector {
    const NAME: &'static str = "cpu";
    const ABOUT: &'static str = "CPU time by mode";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = CpuCollectorFlags;

    fn new(flags: CpuCollectorFlags) -> Result<Self, String> {
        let flags_include = flags.cpu_info_flags_include.unwrap_or_default();
        let bugs_include = flags.cpu_info_bugs_include.unwrap_or_default();
        Ok(Self {
            guest: flags.cpu_guest,
            info: flags.cpu_info || !flags_include.is_empty() || !bugs_include.is_empty(),
            flags_include,
            bugs_include,
            times: MonotonicTimes::default(),
            topology: Topology::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let online = self.times.add(&mut out, snapshot.proc_stat()?, self.guest);
        if self.info {
            let cpuinfo = snapshot.read_proc("cpuinfo");
            if let Some(cpuinfo) = out.ok_or_skip(cpuinfo) {
                self.add_info(&mut out, &CpuInfo::parse(&cpuinfo));
            }
        }
        let cpus = snapshot.sys_dir("devices/system/cpu");
        if let Some(cpus) = out.ok_or_skip(cpus) {
            let isolated = cpus.read("isolated").and_then(|list| parse_cpu_list(&list));
            for cpu in out.ok_or_skip(isolated).unwrap_or_default() {
                out.add(&ISOLATED, [&cpu.to_string()], true);
            }
            self.topology.add_throttles(&mut out, &cpus, &online);
            let hotpluggable = hotpluggable_cpus(&cpus);
            for (cpu, online) in out.ok_or_skip(hotpluggable).unwrap_or_default() {
                out.add(&ONLINE, [&cpu], online);
            }
        }
        Ok(out)
    }
}

impl CpuCollector {
    fn add_info(&self, out: &mut Families, cpuinfo: &CpuInfo<'_>) {
        for cpu in &cpuinfo.cpus {
            let labels = [
                cpu.cache_size,
                cpu.core,
                cpu.number,
                cpu.family,
                cpu.microcode,
                cpu.model,
                cpu.model_name,
                cpu.package,
                cpu.stepping,
                cpu.vendor,
            ];
            out.add(&INFO, labels, true);
            if let Some(hertz) = cpu.hertz {
                out.add(&FREQUENCY_HERTZ, [cpu.core, cpu.number, cpu.package], hertz);
            }
        }
        for flag in cpuinfo.flags.split_ascii_whitespace() {
            if self.flags_include.matches(flag) {
                out.add(&FLAG_INFO, [flag], true);
            }
        }
        for bug in cpuinfo.bugs.split_ascii_whitespace() {
            if self.bugs_include.matches(bug) {
                out.add(&BUG_INFO, [bug], true);
            }
        }
    }
}

/// Returns the CPU number of a directory name in `/sys/devices/system/cpu`.
pub(super) fn cpu_number(name: &OsStr) -> Option<&str> {
    let number = name.to_str()?.strip_prefix("cpu")?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(number)
}

/// Returns the CPUs that can be taken offline, and whether they are online. Empty if the first
/// CPU cannot be taken offline, as on x86 since Linux 6.5.
fn hotpluggable_cpus(cpus: &Dir) -> Result<Vec<(String, bool)>> {
    if !cpus.has("cpu0/online") {
        return Ok(Vec::new());
    }
    let online = parse_cpu_list(&cpus.read("online")?)?;
    let names = cpus.names()?;
    let with_state = |name: &str| (name.to_owned(), contains_cpu(&online, name));
    Ok(names
        .iter()
        .filter_map(|n| cpu_number(n))
        .map(with_state)
        .collect())
}

fn contains_cpu(sorted: &[u32], number: &str) -> bool {
    number
        .parse()
        .is_ok_and(|n| sorted.binary_search(&n).is_ok())
}

/// Parses a CPU list in the kernel's format: `0-3,8`, or empty.
fn parse_cpu_list(text: &Text) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trimmed().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return Err(text.error(1, format_args!("invalid CPU range {range:?}")));
        };
        cpus.extend((first..=last).take(MAX_CPUS));
        if cpus.len() > MAX_CPUS {
            return Err(text.error(1, "too many CPUs"));
        }
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_cpu_lists_with_ranges_and_gaps() {
        assert_eq!(parse_cpu_list(&"0-2,7\n".into()).unwrap(), [0, 1, 2, 7]);
        assert!(parse_cpu_list(&"\n".into()).unwrap().is_empty());
        let error = parse_cpu_list(&"0-x\n".into()).unwrap_err().to_string();
        assert_eq!(error, r#"test:1: invalid CPU range "0-x""#);
        assert!(parse_cpu_list(&"0-4294967295".into()).unwrap().len() <= MAX_CPUS);
        assert!(parse_cpu_list(&"0-65535,70000-80000".into()).is_err());
    }

    #[test]
    fn only_cpu_directories_match() {
        let number = |name| cpu_number(OsStr::new(name));
        assert_eq!(number("cpu12"), Some("12"));
        for other in ["cpu", "cpufreq", "cpuidle", "online", "cpu1x"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn flags_include_enables_info() {
        let flags = |pattern: &str| CpuCollectorFlags {
            cpu_guest: true,
            cpu_info: false,
            cpu_info_flags_include: pattern.parse().ok(),
            cpu_info_bugs_include: None,
        };
        assert!(CpuCollector::new(flags("^aes$")).unwrap().info);
        assert!(!CpuCollector::new(flags("")).unwrap().info);

        let mut out = Families::default();
        let text =
            Text::from("processor : 3\ncpu MHz : 1000.5\nflags : fpu aes vaes\nbugs : mds\n");
        let cpu = CpuCollector::new(flags("^aes$")).unwrap();
        cpu.add_info(&mut out, &CpuInfo::parse(&text));
        let lines = out.lines();
        assert_eq!(
            lines[1..],
            [
                r#"node_cpu_frequency_hertz{core="",cpu="3",package=""} 1000500000"#,
                r#"node_cpu_flag_info{flag="aes"} 1"#
            ]
        );
    }
}
