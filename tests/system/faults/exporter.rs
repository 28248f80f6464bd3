//! The exporter's process, observed from outside during a fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    faults::{Cost, MAX_SCRAPE_DURATION, Resources},
    server_process::{ServerProcess, WAIT_TIMEOUT},
    text_format::{Labels, Scrape},
    unshare_mounts,
};

/// Number of scrapes during each fault.
pub const SCRAPES: usize = 1000;
/// Maximum growth of memory between the tenth and the last scrape. It allows for the allocator, but
/// not for a leak of 10 kB per scrape.
const GROWTH: u64 = 8 << 20;

/// Number of log lines of every start.
const START: usize = 2;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata_exporter");

/// Collectors that no fault affects.
pub const OTHERS: [&str; 3] = ["loadavg", "meminfo", "stat"];

/// For exporters that use daemons, because reconnecting must work inside the sandbox, too.
pub const SANDBOXED: &str = "--sandbox=auto";

/// Name and labels of a series.
type Series = (String, Labels);

pub struct Exporter {
    pub program: ServerProcess,
    /// Selects the test's own cgroups and the like; others come and go.
    is_own: Box<dyn Fn(&Labels) -> bool + Sync>,
    /// Parts of their paths.
    path_parts: Vec<String>,
}

/// Series and resources before the fault.
pub struct Baseline {
    pub series: BTreeSet<Series>,
    resources: Resources,
}

/// A fault and its permitted effects.
pub struct Fault<'a> {
    pub name: &'a str,
    /// What remains in the exposition, in the words of the docs' table.
    pub remaining: &'a str,
    /// Series that may be lost.
    pub may_lose: &'a (dyn Fn(&str, &Labels) -> bool + Sync),
    /// Collectors that may fail.
    pub may_fail: &'a [&'a str],
    /// Permitted additional threads and descriptors.
    pub threads: usize,
    pub fds: usize,
    /// Permitted number of log lines.
    pub log_lines: usize,
    /// Number of scrapes.
    pub scrapes: usize,
    /// Whether the fault existed when the exporter was started.
    pub from_start: bool,
}

impl Default for Fault<'_> {
    fn default() -> Self {
        Self {
            name: "",
            remaining: "everything",
            may_lose: &|_, _| false,
            may_fail: &[],
            threads: 0,
            fds: 0,
            log_lines: 0,
            scrapes: SCRAPES,
            from_start: false,
        }
    }
}

/// Command line with these collectors, the unaffected ones, and these flags.
pub fn flags(collectors: &[&str], others: &[String]) -> Vec<String> {
    let all = collectors.iter().chain(&OTHERS);
    let mut line = vec!["--collector.disable-defaults".to_owned()];
    line.extend(all.map(|name| format!("--collector.{name}")));
    line.extend_from_slice(others);
    line
}

/// Makes the exporter, which reads the mounts of process 1, read its own mounts instead.
pub const BIND_OWN_MOUNTS: &str = "mount --bind /proc/$$ /proc/1\n";

/// The exporter's program in its own mount namespace, which a script sets up in a directory.
pub fn with_mounts(dir: &Path, script: &str, prefix: &[&str]) -> Command {
    let script = format!("cd \"$0\"\n{script}\ncd /\nexec \"$@\"");
    let mut command = unshare_mounts();
    command.args(["sh", "-ec", &script]).arg(dir);
    command.args(prefix).arg(PROGRAM);
    command
}

/// The exporter's program, started by another program.
pub fn wrapped_command(prefix: &[&str]) -> Command {
    let mut parts = prefix.iter().copied().chain([PROGRAM]);
    let mut command = Command::new(parts.next().unwrap());
    command.args(parts);
    command
}

impl Exporter {
    pub fn start(mut command: Command, flags: &[String], dir: &Path) -> Self {
        let command = command.args(flags);
        let program = ServerProcess::start_and_wait_for_path(command, dir, "/-/healthy");
        Self {
            program,
            is_own: Box::new(|labels| !labels.contains_key("id")),
            path_parts: Vec::new(),
        }
    }

    /// Restricts the compared cgroups to these.
    pub fn restrict_to(
        mut self,
        path_part: String,
        is: impl Fn(&Labels) -> bool + Sync + 'static,
    ) -> Self {
        self.path_parts.push(path_part);
        self.is_own = Box::new(move |labels| !labels.contains_key("id") || is(labels));
        self
    }

    /// A script that runs in the exporter's mount namespace.
    pub fn namespace_command(&self, dir: &Path, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.program.pid().to_string();
        command.args(["--target", &pid, "--mount", "sh", "-ec", script]);
        command.arg(dir);
        command
    }

    /// Runs such a script, which must succeed.
    pub fn run_in_namespace(&self, dir: &Path, script: &str) {
        let output = self.namespace_command(dir, script).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {stderr}");
    }

    pub fn scrape(&self) -> Scrape {
        self.timed().0
    }

    fn timed(&self) -> (Scrape, Duration) {
        let started = Instant::now();
        let text = self.program.metrics_text();
        let duration = started.elapsed();
        assert!(duration < MAX_SCRAPE_DURATION, "a scrape took {duration:?}");
        (Scrape::parse(&text), duration)
    }

    /// Series of a scrape that are constant without a fault.
    fn series(&self, metrics: &Scrape) -> BTreeSet<Series> {
        let mut all = BTreeSet::new();
        for (name, series) in &metrics.series {
            // Labels of these change all the time.
            let changing = [
                "node_processes_state",
                "node_processes_threads_state",
                "strata_collector_outcome",
            ];
            if changing.contains(&name.as_str()) {
                continue;
            }
            let own = series.keys().filter(|labels| (self.is_own)(labels));
            all.extend(own.map(|labels| (name.clone(), labels.clone())));
        }
        all
    }

    /// Waits until all series are exposed and stable.
    pub fn wait_until_stable(&self, what: &str, is_complete: impl Fn(&Scrape) -> bool) -> Baseline {
        let started = Instant::now();
        let series = loop {
            let metrics = self.scrape();
            let series = self.series(&metrics);
            let fails = failing(&metrics);
            let lasts = (0..3).all(|_| self.series(&self.scrape()) == series);
            if is_complete(&metrics) && fails.is_empty() && lasts {
                break series;
            }
            let log = self.program.log();
            assert!(
                started.elapsed() < WAIT_TIMEOUT,
                "timed out: {what}: {fails:?} {log}"
            );
            thread::sleep(Duration::from_millis(100));
        };
        let resources = self.resources();
        Baseline { series, resources }
    }

    /// Waits until all series are back.
    pub fn assert_recovers(&self, baseline: &Baseline) {
        let mut missing = Vec::new();
        let started = Instant::now();
        while started.elapsed() < WAIT_TIMEOUT {
            let metrics = self.scrape();
            let exposed = self.series(&metrics);
            missing = baseline.series.difference(&exposed).cloned().collect();
            if missing.is_empty() && failing(&metrics).is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("not recovered: {missing:#?}\n{}", self.program.log());
    }

    fn resources(&self) -> Resources {
        Resources::when_idle(self.program.pid(), &self.path_parts)
    }

    /// Also counts the descriptors of cgroups with this word in their path.
    pub fn count_path(mut self, path_part: String) -> Self {
        self.path_parts.push(path_part);
        self
    }

    /// Scrapes the exporter during the fault and compares the effects with the docs. Returns the
    /// last scrape for further checks.
    pub fn assert_fault(&self, baseline: &Baseline, fault: &Fault<'_>) -> Scrape {
        self.assert_fault_while(baseline, fault, || ())
    }

    /// Like `assert_fault`, with an action that starts after the tenth scrape.
    pub fn assert_fault_while(
        &self,
        before_fault: &Baseline,
        fault: &Fault<'_>,
        action: impl FnOnce() + Send,
    ) -> Scrape {
        let lines = if fault.from_start {
            START
        } else {
            self.program.log().lines().count()
        };
        let mut longest = Duration::ZERO;
        let mut scraped = || {
            let (metrics, duration) = self.timed();
            longest = longest.max(duration);
            self.assert_remaining(before_fault, fault, &metrics);
            (metrics, duration)
        };
        let (_, first) = scraped();
        for _ in 1..9 {
            scraped();
        }
        let (_, tenth) = scraped();
        let after_ten = self.resources();
        let mut last = Scrape::default();
        thread::scope(|scope| {
            let action = scope.spawn(action);
            let mut remaining_scrapes = fault.scrapes - 10;
            while remaining_scrapes > 0 || !action.is_finished() {
                remaining_scrapes = remaining_scrapes.saturating_sub(1);
                last = scraped().0;
            }
        });
        let cost = Cost {
            first,
            tenth,
            longest,
            baseline: before_fault.resources,
            after_ten,
            after_all: self.resources(),
            log_lines: self.program.log().lines().count() - lines,
        };
        println!("{}: {cost:#?}", fault.name);
        self.assert_flat(fault, &cost);
        cost.assert_matches_docs(fault.name, fault.remaining, fault.threads, fault.fds);
        last
    }

    fn assert_remaining(&self, baseline: &Baseline, fault: &Fault<'_>, metrics: &Scrape) {
        let exposed = self.series(metrics);
        let required = baseline.series.iter();
        let mut required = required.filter(|(name, labels)| !(fault.may_lose)(name, labels));
        let missing = required.find(|series| !exposed.contains(*series));
        assert!(missing.is_none(), "{} costs {missing:?}", fault.name);
        let failing = failing(metrics);
        let mut unexpected = failing.keys();
        let unexpected = unexpected.find(|it| !fault.may_fail.contains(&it.as_str()));
        assert!(
            unexpected.is_none(),
            "{} makes {failing:?} fail: {}",
            fault.name,
            self.program.log()
        );
        for other in OTHERS {
            let labels = [("collector", other)];
            let success = metrics.value("node_scrape_collector_success", &labels);
            assert_eq!(success, Some(1.0), "{other}");
        }
    }

    fn assert_flat(&self, fault: &Fault<'_>, cost: &Cost) {
        let (ten, all, what) = (cost.after_ten, cost.after_all, fault.name);
        assert!(
            all.resident_bytes <= ten.resident_bytes + GROWTH,
            "{what}: {cost:#?}"
        );
        let log = self.program.log();
        assert!(cost.log_lines <= fault.log_lines, "{what}: {cost:#?} {log}");
    }
}

/// Collectors that failed, with their outcome.
pub fn failing(metrics: &Scrape) -> BTreeMap<String, String> {
    let success = metrics.series_named("node_scrape_collector_success");
    let failed = success.filter(|(_, value)| *value < 1.0);
    let failed = failed.map(|(labels, _)| labels["collector"].clone());
    let outcome = |collector: &String| {
        let mut outcomes = metrics.series_named("strata_collector_outcome");
        let found = outcomes.find(|(labels, _)| labels["collector"] == *collector);
        found.map_or_else(String::new, |(labels, _)| labels["outcome"].clone())
    };
    failed.map(|name| (name.clone(), outcome(&name))).collect()
}

/// Creates a directory below the test's.
pub fn subdir(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}
