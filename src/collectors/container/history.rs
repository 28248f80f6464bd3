//! Usage of containers and virtual machines between two scrapes, from samples that the sampler
//! takes every few seconds: see [`crate::history`]. Without this collector nothing is sampled.
//!
//! It reads no file. A workload that was not sampled recently, or only once, has no series.

use std::time::Duration;

use clap::ArgAction;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    duration,
    error::Result,
    family::{BaseLabels, Families},
    history::{Aggregates, HistoryStatus, MinAvgMax},
    metric::{Desc, Metric},
    metrics,
    sources::Snapshot,
};

metrics! {
    /// CPU usage between the last two samples in percent of one core.
    CPU: Gauge = "container_cpu_usage_percent" base CGROUP [];
    /// Maximum CPU usage between two samples in the window, in percent of one core.
    CPU_MAX: Gauge = "container_cpu_usage_percent_max" base CGROUP ["window"];
    /// Minimum CPU usage between two samples in the window, in percent of one core.
    CPU_MIN: Gauge = "container_cpu_usage_percent_min" base CGROUP ["window"];
    /// Average CPU usage in the window, in percent of one core.
    CPU_AVG: Gauge = "container_cpu_usage_percent_avg" base CGROUP ["window"];
    /// Maximum memory usage of the samples in the window, including page cache.
    MEMORY_MAX: Gauge = "container_memory_usage_bytes_max" base CGROUP ["window"];
    /// Minimum memory usage of the samples in the window, including page cache.
    MEMORY_MIN: Gauge = "container_memory_usage_bytes_min" base CGROUP ["window"];
    /// Average memory usage of the samples in the window, including page cache.
    MEMORY_AVG: Gauge = "container_memory_usage_bytes_avg" base CGROUP ["window"];
    /// Memory of the sample history in bytes.
    BYTES: Gauge = "strata_history_bytes" [];
    /// Limit on the memory of the sample history in bytes (--history.max-bytes).
    MAX_BYTES: Gauge = "strata_history_max_bytes" [];
    /// Sampled series: one for each container and virtual machine, including recently removed ones,
    /// and one for the machine.
    SERIES: Gauge = "strata_history_series" [];
    /// Series with fewer samples than --history.points because of the memory limit; those of the
    /// oldest containers are truncated first.
    SERIES_TRUNCATED: Gauge = "strata_history_series_truncated" [];
    /// Containers and virtual machines without a series because of the memory limit.
    SERIES_DROPPED: Gauge = "strata_history_series_dropped" [];
    /// Samples in all series.
    POINTS: Gauge = "strata_history_points" [];
    /// Samples taken.
    SAMPLES: Counter = "strata_history_samples_total" [];
    /// Samples not taken, by reason: the read failed (failed), timed out or still hangs (slow), or
    /// the round was too late (late).
    SKIPPED: Counter = "strata_history_skipped_samples_total" ["reason"];
}

/// Number of intervals without a sample after which the last sample is stale.
const MAX_AGE_INTERVALS: u32 = 3;

/// The flags of the history collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct HistoryCollectorFlags {
    /// Windows over which to expose peaks.
    #[arg(
        long = "collector.history.windows",
        value_name = "DURATION,...",
        value_delimiter = ',',
        default_value = "1m",
        value_parser = parse_window
    )]
    history_windows: Vec<HistoryWindow>,
    /// Also expose the minimum of each window.
    #[arg(long = "collector.history.minima", default_value_t = false, action = ArgAction::Set)]
    history_minima: bool,
    /// Also expose the average of each window.
    #[arg(long = "collector.history.averages", default_value_t = false, action = ArgAction::Set)]
    history_averages: bool,
}

/// A time window that ends now.
#[derive(Debug, Clone)]
struct HistoryWindow {
    /// The value of the flag.
    name: String,
    length: Duration,
}

fn parse_window(text: &str) -> Result<HistoryWindow, String> {
    let length = duration::parse(text)?;
    if length.is_zero() {
        return Err("window must be greater than 0".to_owned());
    }
    Ok(HistoryWindow {
        name: text.to_owned(),
        length,
    })
}

#[derive(Debug)]
pub(super) struct HistoryCollector {
    flags: HistoryCollectorFlags,
}

impl Collector for HistoryCollector {
    const NAME: &'static str = "history";
    const ABOUT: &'static str =
        "peaks of container metrics between scrapes, sampled in the background";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = HistoryCollectorFlags;

    fn new(mut flags: HistoryCollectorFlags) -> Result<Self, String> {
        // One series for each window.
        flags.history_windows.sort_by(|a, b| a.name.cmp(&b.name));
        flags.history_windows.dedup_by(|a, b| a.name == b.name);
        Ok(Self { flags })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let history = snapshot.history();
        add_status(&mut out, &history.status());
        if !history.is_sampled() {
            return Ok(out);
        }
        let max_age = history.interval().saturating_mul(MAX_AGE_INTERVALS);
        for (id, workload, _) in snapshot.workloads()?.identified() {
            let Some(series) = history.container(id) else {
                continue;
            };
            let latest = series.latest().filter(|latest| latest.age <= max_age);
            if let Some(percent) = latest.and_then(|latest| latest.cpu_percent) {
                out.add_with(&CPU, base_labels(workload), [], percent);
            }
            for window in &self.flags.history_windows {
                let aggregates = series.window(window.length);
                self.add_aggregates(&mut out, base_labels(workload), &window.name, &aggregates);
            }
        }
        Ok(out)
    }
}

impl HistoryCollector {
    fn add_aggregates(
        &self,
        out: &mut Families,
        base: &BaseLabels,
        window: &str,
        aggregates: &Aggregates,
    ) {
        if let Some(cpu) = aggregates.cpu_percent {
            let metrics = [&CPU_MAX, &CPU_MIN, &CPU_AVG];
            self.add_min_avg_max(out, metrics, base, window, cpu);
        }
        if let Some(memory) = aggregates.memory {
            let metrics = [&MEMORY_MAX, &MEMORY_MIN, &MEMORY_AVG];
            self.add_min_avg_max(out, metrics, base, window, memory);
        }
    }

    fn add_min_avg_max<T: Into<crate::family::Value>>(
        &self,
        out: &mut Families,
        [max, min, avg]: [&'static Metric<1>; 3],
        base: &BaseLabels,
        window: &str,
        stats: MinAvgMax<T>,
    ) {
        out.add_with(max, base, [window], stats.peak);
        if self.flags.history_minima {
            out.add_with(min, base, [window], stats.minimum);
        }
        if self.flags.history_averages {
            out.add_with(avg, base, [window], stats.average);
        }
    }
}

fn add_status(out: &mut Families, status: &HistoryStatus) {
    out.add(&BYTES, [], status.bytes);
    out.add(&MAX_BYTES, [], status.max_bytes);
    out.add(&SERIES, [], status.series);
    out.add(&SERIES_TRUNCATED, [], status.truncated);
    out.add(&SERIES_DROPPED, [], status.dropped);
    out.add(&POINTS, [], status.points);
    out.add(&SAMPLES, [], status.samples);
    for (reason, count) in status.skipped {
        out.add(&SKIPPED, [reason.name()], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collectors::testing::MachineFixture,
        history::{BootInstant, Sample},
    };

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn collector(windows: &[&str], with_all: bool) -> HistoryCollector {
        let windows = windows.iter().map(|text| parse_window(text).unwrap());
        HistoryCollector::new(HistoryCollectorFlags {
            history_windows: windows.collect(),
            history_minima: with_all,
            history_averages: with_all,
        })
        .unwrap()
    }

    fn machine(name: &str) -> MachineFixture {
        let machine = MachineFixture::new(&format!("history-{name}"));
        machine.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
        machine.write(&format!("sys/fs/cgroup/docker/{ID}/cgroup.procs"), "");
        machine
    }

    /// Adds a sample that is `ago` seconds old.
    fn push(snapshot: &Snapshot, ago: u64, cpu_seconds: u64, memory: u64) {
        let history = snapshot.history();
        history.mark_sampled();
        let histories =
            history.update_containers([(ID, "/docker")].into_iter(), Duration::from_secs(60));
        let sample = Sample {
            cpu: Some(Duration::from_secs(cpu_seconds)),
            memory: Some(memory),
            ..Sample::default()
        };
        let at = BootInstant::now().saturating_sub(Duration::from_secs(ago));
        histories[0].as_ref().unwrap().push(at, &sample);
    }

    /// The container lines, with the window as their only label.
    fn lines(collector: &HistoryCollector, snapshot: &Snapshot) -> Vec<String> {
        let lines = collector.collect(snapshot).unwrap().lines().into_iter();
        let lines = lines.filter(|line| line.starts_with("container_"));
        let id = format!(r#"id="/docker/{ID}""#);
        lines
            .map(|line| {
                assert!(line.contains(&id), "{line}");
                line.replace(&id, "").replace("{,", "{").replace("{}", "")
            })
            .collect()
    }

    /// Compares a value approximately, because its last digits vary; `name` is the text before it.
    fn close(lines: &[String], name: &str, expected: f64) {
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        let value: f64 = line
            .unwrap_or_else(|| panic!("{name}: {lines:#?}"))
            .trim()
            .parse()
            .unwrap();
        assert!((value - expected).abs() < expected / 10.0, "{name}{value}");
    }

    #[test]
    fn peaks_cover_samples_in_the_window() {
        let machine = machine("peaks");
        let snapshot = machine.snapshot();
        for (ago, cpu, memory) in [
            (100, 0, 9 << 20),
            (50, 100, 4096),
            (30, 110, 12_288),
            (10, 130, 8192),
        ] {
            push(&snapshot, ago, cpu, memory);
        }
        let lines = lines(&collector(&["1m", "1m"], true), &snapshot);
        assert_eq!(lines.len(), 7, "{lines:#?}");
        close(&lines, "container_cpu_usage_percent ", 100.0);
        close(
            &lines,
            r#"container_cpu_usage_percent_max{window="1m"} "#,
            100.0,
        );
        close(
            &lines,
            r#"container_cpu_usage_percent_min{window="1m"} "#,
            50.0,
        );
        close(
            &lines,
            r#"container_cpu_usage_percent_avg{window="1m"} "#,
            75.0,
        );
        for (aggregate, bytes) in [("max", 12_288), ("min", 4096), ("avg", 8192)] {
            let line =
                format!(r#"container_memory_usage_bytes_{aggregate}{{window="1m"}} {bytes}"#);
            assert!(lines.contains(&line), "{lines:#?}");
        }
        let own = super::HistoryCollector::collect(&collector(&[], false), &snapshot)
            .unwrap()
            .lines();
        for line in [
            "strata_history_series 2",
            "strata_history_points 4",
            "strata_history_samples_total 0",
        ] {
            assert!(own.iter().any(|it| it == line), "{own:#?}");
        }
    }

    #[test]
    fn stale_series_has_no_current_usage() {
        let machine = machine("stale");
        let snapshot = machine.snapshot();
        for (ago, cpu) in [(100, 0), (50, 100), (30, 110)] {
            push(&snapshot, ago, cpu, 4096);
        }
        let names: Vec<_> = lines(&collector(&["1m", "10s"], false), &snapshot);
        assert_eq!(names.len(), 2, "{names:#?}");
        assert!(
            names
                .iter()
                .all(|line| line.contains(r#"_max{window="1m"}"#))
        );
    }

    #[test]
    fn no_container_series_without_sampler() {
        let machine = machine("off");
        let snapshot = machine.snapshot();
        assert!(lines(&collector(&["1m"], true), &snapshot).is_empty());
    }

    #[test]
    fn rejects_zero_length_window() {
        assert!(parse_window("0s").is_err());
        assert!(parse_window("x").is_err());
        assert_eq!(parse_window("90s").unwrap().length, Duration::from_secs(90));
    }
}
