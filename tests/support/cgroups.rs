//! The kernel's view of a container: its cgroup files, found and parsed independently of the
//! exporter, to compare the exporter's metrics with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::text_format::Scrape;

/// Charges to a cgroup's memory are batched per CPU, so counters differ by up to this.
const CHARGE_BATCH_SLACK: f64 = 512.0 * 1024.0;

const PRESSURE: [(&str, &str, &str); 6] = [
    (
        "container_pressure_cpu_waiting_seconds_total",
        "cpu",
        "some",
    ),
    (
        "container_pressure_cpu_stalled_seconds_total",
        "cpu",
        "full",
    ),
    (
        "container_pressure_memory_waiting_seconds_total",
        "memory",
        "some",
    ),
    (
        "container_pressure_memory_stalled_seconds_total",
        "memory",
        "full",
    ),
    ("container_pressure_io_waiting_seconds_total", "io", "some"),
    ("container_pressure_io_stalled_seconds_total", "io", "full"),
];

/// Metrics that only v2 has, or that are elsewhere in v2: family, file, key and tolerance.
const V2_ONLY: &[(&str, &str, &str, f64)] = &[
    (
        "container_memory_events_high_total",
        "memory.events",
        "high",
        0.0,
    ),
    (
        "container_memory_events_max_total",
        "memory.events",
        "max",
        0.0,
    ),
    (
        "container_memory_kernel_usage",
        "memory.stat",
        "kernel",
        CHARGE_BATCH_SLACK,
    ),
    (
        "container_memory_file_dirty_bytes",
        "memory.stat",
        "file_dirty",
        CHARGE_BATCH_SLACK,
    ),
    (
        "container_memory_file_writeback_bytes",
        "memory.stat",
        "file_writeback",
        CHARGE_BATCH_SLACK,
    ),
    (
        "container_memory_total_inactive_file_bytes",
        "memory.stat",
        "inactive_file",
        CHARGE_BATCH_SLACK,
    ),
    (
        "container_memory_pgscan_total",
        "memory.stat",
        "pgscan",
        0.0,
    ),
    (
        "container_memory_pgsteal_total",
        "memory.stat",
        "pgsteal",
        0.0,
    ),
    (
        "container_memory_workingset_refault_file_total",
        "memory.stat",
        "workingset_refault_file",
        0.0,
    ),
    (
        "container_memory_workingset_refault_anon_total",
        "memory.stat",
        "workingset_refault_anon",
        0.0,
    ),
    (
        "container_oom_events_total",
        "memory.events",
        "oom_kill",
        0.0,
    ),
];

/// Expected value of a family for a cgroup.
#[derive(Debug, Clone)]
pub struct ExpectedSample {
    pub family: &'static str,
    /// `None` if the series must be absent.
    pub value: Option<f64>,
    /// By how much the kernel's own files may differ from each other.
    pub tolerance: f64,
}

/// Compares a container's metrics with the kernel's values before and after the scrape.
pub fn assert_usage(
    scrape: &Scrape,
    name: &str,
    before: &[ExpectedSample],
    after: &[ExpectedSample],
) {
    for (before, after) in before.iter().zip(after) {
        let family = before.family;
        let what = format!("{family} of {name}");
        let exposed = scrape.value(family, &[("name", name)]);
        match (before.value, after.value) {
            (Some(before_value), Some(after_value)) => {
                assert_between(&what, exposed, before_value, after_value, before.tolerance);
            }
            (None, None) => assert_eq!(exposed, None, "{what}"),
            mixed => panic!("{what}: {mixed:?}"),
        }
    }
}

/// Asserts that the exposed value lies between the values before and after.
pub fn assert_between(what: &str, exposed: Option<f64>, before: f64, after: f64, slack: f64) {
    let exposed = exposed.unwrap_or_else(|| panic!("{what} is missing"));
    let (min, max) = (before.min(after) - slack, before.max(after) + slack);
    assert!(
        (min..=max).contains(&exposed),
        "{what} is {exposed}, expected {min} to {max}"
    );
}

/// Compares a container's block I/O metrics with the kernel's values.
pub fn assert_block_io(
    scrape: &Scrape,
    name: &str,
    before: &CgroupReader,
    after: &CgroupReader,
    disk: impl Fn(&str) -> String,
) {
    const FAMILIES: [(&str, &str); 4] = [
        (
            "container_fs_reads_bytes_total",
            "container_disk_read_bytes_total",
        ),
        (
            "container_fs_writes_bytes_total",
            "container_disk_write_bytes_total",
        ),
        ("container_fs_reads_total", "container_disk_read_ops_total"),
        (
            "container_fs_writes_total",
            "container_disk_write_ops_total",
        ),
    ];
    let accounted = scrape.value("strata_container_block_io_accounted", &[]);
    let (Some(before), Some(after)) = (before.block_io(), after.block_io()) else {
        assert_eq!(accounted, Some(0.0));
        for family in FAMILIES
            .iter()
            .flat_map(|(per_disk, total)| [per_disk, total])
        {
            assert_eq!(scrape.series_named(family).next(), None, "{family}");
        }
        return;
    };
    assert_eq!(accounted, Some(1.0));
    for (numbers, counts) in &before {
        let disk = disk(numbers);
        for (at, (family, _)) in FAMILIES.iter().enumerate() {
            let exposed = scrape.value(family, &[("name", name), ("device", &disk)]);
            assert_between(family, exposed, counts[at], after[numbers][at], 0.0);
        }
    }
    if before.len() == 1 {
        for (at, (_, family)) in FAMILIES.iter().enumerate() {
            let total =
                |counts: &BTreeMap<String, [f64; 4]>| counts.values().map(|it| it[at]).sum();
            let exposed = scrape.value(family, &[("name", name)]);
            assert_between(family, exposed, total(&before), total(&after), 0.0);
        }
    }
}

/// A container's cgroup, found by its first process.
#[derive(Debug, Clone)]
pub enum CgroupReader {
    /// v1: the directory of the hierarchies, and the path below each of them.
    V1(PathBuf, String),
    /// v2: the directory, or a copy of it.
    V2(PathBuf),
}

impl CgroupReader {
    /// The cgroup of a process on this machine.
    pub fn for_pid(pid: u32) -> Self {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = |controller: &str| {
            lines.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                let is_it = controllers.split(',').any(|it| it == controller);
                is_it.then(|| path.to_owned())
            })
        };
        let root = Path::new("/sys/fs/cgroup");
        match path("memory") {
            Some(path) => Self::V1(root.to_owned(), path),
            None => Self::V2(root.join(path("").unwrap().trim_start_matches('/'))),
        }
    }

    /// Its `id` label; a copy has none.
    pub fn id(&self) -> String {
        match self {
            Self::V1(_, path) => path.clone(),
            Self::V2(dir) => {
                let path = dir.strip_prefix("/sys/fs/cgroup").unwrap();
                format!("/{}", path.display())
            }
        }
    }

    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        match self {
            Self::V1(root, path) => {
                // Nearly every file's name starts with its controller's.
                let controller = match v1 {
                    "cpu.stat" => "cpu",
                    "cgroup.procs" => "pids",
                    _ => v1.split('.').next().unwrap(),
                };
                root.join(controller)
                    .join(path.trim_start_matches('/'))
                    .join(v1)
            }
            Self::V2(dir) => dir.join(v2),
        }
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = self.file(v1, v2);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// First number of a file; `None` for the values that mean no limit.
    fn read_number(&self, v1: &str, v2: &str) -> Option<f64> {
        let text = self.read(v1, v2);
        let number: f64 = text.split_whitespace().next()?.parse().ok()?;
        (0.0..4e18).contains(&number).then_some(number)
    }

    /// The number after a key.
    fn read_keyed(&self, files: (&str, &str), v1: &str, v2: &str) -> f64 {
        let text = self.read(files.0, files.1);
        let key = if self.is_v1() { v1 } else { v2 };
        let mut words = text.split_whitespace();
        let value = words.find(|word| *word == key).and_then(|_| words.next());
        value
            .unwrap_or_else(|| panic!("no {key} in {text}"))
            .parse()
            .unwrap()
    }

    fn is_v1(&self) -> bool {
        matches!(self, Self::V1(..))
    }

    /// Expected values by family.
    pub fn expected_samples(&self) -> Vec<ExpectedSample> {
        let sample = |family, value: Option<f64>, slack| ExpectedSample {
            family,
            value,
            tolerance: slack,
        };
        let cpu = |v1, v2| match self {
            // Clock ticks.
            Self::V1(..) => self.read_keyed(("cpuacct.stat", ""), v1, "") / 100.0,
            Self::V2(_) => self.read_keyed(("", "cpu.stat"), "", v2) / 1e6,
        };
        let cfs = |v1: &str, v2: &str, scale: f64| {
            let is_limited = self.quota().0.is_some();
            is_limited.then(|| self.read_keyed(("cpu.stat", "cpu.stat"), v1, v2) / scale)
        };
        let throttled = if self.is_v1() { 1e9 } else { 1e6 };
        let mut all = vec![
            sample(
                "container_cpu_usage_seconds_total",
                Some(self.cpu_seconds()),
                1e-6,
            ),
            sample(
                "container_cpu_user_seconds_total",
                Some(cpu("user", "user_usec")),
                1e-6,
            ),
            sample(
                "container_cpu_system_seconds_total",
                Some(cpu("system", "system_usec")),
                1e-6,
            ),
            sample(
                "container_cpu_cfs_periods_total",
                cfs("nr_periods", "nr_periods", 1.0),
                0.0,
            ),
            sample(
                "container_cpu_cfs_throttled_periods_total",
                cfs("nr_throttled", "nr_throttled", 1.0),
                0.0,
            ),
            sample(
                "container_cpu_cfs_throttled_seconds_total",
                cfs("throttled_time", "throttled_usec", throttled),
                1e-6,
            ),
            sample(
                "container_memory_usage_bytes",
                Some(self.memory()),
                CHARGE_BATCH_SLACK,
            ),
            sample(
                "container_memory_working_set_bytes",
                Some(self.working_set()),
                CHARGE_BATCH_SLACK,
            ),
            sample(
                "container_memory_rss",
                Some(self.memory_stat("total_rss", "anon")),
                CHARGE_BATCH_SLACK,
            ),
            sample(
                "container_memory_cache",
                Some(self.memory_stat("total_cache", "file")),
                CHARGE_BATCH_SLACK,
            ),
            sample(
                "container_memory_mapped_file",
                Some(self.memory_stat("total_mapped_file", "file_mapped")),
                CHARGE_BATCH_SLACK,
            ),
            sample(
                "container_memory_max_usage_bytes",
                self.read_number("memory.max_usage_in_bytes", "memory.peak"),
                CHARGE_BATCH_SLACK,
            ),
            sample("container_memory_limit_bytes", self.memory_limit(), 0.0),
            sample("container_threads", Some(self.pids()), 0.0),
            sample("container_threads_max", self.pids_limit(), 0.0),
        ];
        if let Self::V2(_) = self {
            let (stat, events) = (("", "memory.stat"), ("", "memory.events"));
            for (family, file, key, slack) in V2_ONLY {
                let file = if *file == "memory.stat" { stat } else { events };
                all.push(sample(family, Some(self.read_keyed(file, "", key)), *slack));
            }
        }
        for (family, resource, scope) in PRESSURE {
            all.push(sample(family, self.pressure(resource, scope), 1e-6));
        }
        all
    }

    /// Numbers of open files of its processes, and of sockets among them.
    pub fn open_files(&self) -> (f64, f64) {
        let mut counts = [0_u32; 2];
        for pid in self.read("cgroup.procs", "cgroup.procs").lines() {
            for file in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
                let target = fs::read_link(file.unwrap().path()).unwrap();
                counts[0] += 1;
                counts[1] += u32::from(target.to_str().unwrap().starts_with("socket:"));
            }
        }
        (counts[0].into(), counts[1].into())
    }

    /// Whether the kernel provides pressure stall information.
    pub fn has_pressure(&self) -> bool {
        self.pressure("cpu", "some").is_some()
    }

    /// Seconds for which some or all tasks were stalled.
    fn pressure(&self, resource: &str, scope: &str) -> Option<f64> {
        let file = format!("{resource}.pressure");
        let file = match self {
            Self::V1(root, path) => root
                .join("unified")
                .join(path.trim_start_matches('/'))
                .join(file),
            Self::V2(dir) => dir.join(file),
        };
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(scope))?;
        let (_, total) = line.rsplit_once("total=")?;
        Some(total.parse::<f64>().unwrap() / 1e6)
    }

    /// Bytes and requests, read and written, by device number; `None` if the kernel does not count
    /// them.
    pub fn block_io(&self) -> Option<BTreeMap<String, [f64; 4]>> {
        let mut all = BTreeMap::<String, [f64; 4]>::new();
        if self.is_v1() {
            let root = Self::V1("/sys/fs/cgroup".into(), "/".into());
            let (bytes, requests) = (
                "blkio.throttle.io_service_bytes",
                "blkio.throttle.io_serviced",
            );
            // The root cgroup has certainly read something, so 0 means that nothing is counted.
            if root.read(bytes, "").trim() == "Total 0" {
                return None;
            }
            for (file, columns) in [(bytes, [0, 1]), (requests, [2, 3])] {
                for line in self.read(file, "").lines() {
                    let mut words = line.split(' ');
                    let (device, way) = (words.next().unwrap(), words.next().unwrap());
                    let column = match way {
                        "Read" => columns[0],
                        "Write" => columns[1],
                        _ => continue,
                    };
                    all.entry(device.to_owned()).or_default()[column] =
                        words.next().unwrap().parse().unwrap();
                }
            }
        } else {
            for line in self.read("", "io.stat").lines() {
                let mut words = line.split(' ');
                let counts = all.entry(words.next().unwrap().to_owned()).or_default();
                for word in words {
                    let (key, value) = word.split_once('=').unwrap();
                    if let Some(at) = ["rbytes", "wbytes", "rios", "wios"]
                        .iter()
                        .position(|it| *it == key)
                    {
                        counts[at] = value.parse().unwrap();
                    }
                }
            }
        }
        Some(all)
    }

    pub fn cpu_seconds(&self) -> f64 {
        match self {
            Self::V1(..) => self.read_number("cpuacct.usage", "").unwrap() / 1e9,
            Self::V2(_) => self.read_keyed(("", "cpu.stat"), "", "usage_usec") / 1e6,
        }
    }

    /// Quota per period in microseconds, and the period.
    pub fn quota(&self) -> (Option<f64>, f64) {
        if let Self::V1(..) = self {
            let period = self.read_number("cpu.cfs_period_us", "").unwrap();
            (self.read_number("cpu.cfs_quota_us", ""), period)
        } else {
            let text = self.read("", "cpu.max");
            let mut words = text.split_whitespace();
            let quota = words.next().unwrap().parse().ok();
            (quota, words.next().unwrap().parse().unwrap())
        }
    }

    pub fn memory(&self) -> f64 {
        self.read_number("memory.usage_in_bytes", "memory.current")
            .unwrap()
    }

    pub fn memory_stat(&self, v1: &str, v2: &str) -> f64 {
        self.read_keyed(("memory.stat", "memory.stat"), v1, v2)
    }

    pub fn working_set(&self) -> f64 {
        self.memory() - self.memory_stat("total_inactive_file", "inactive_file")
    }

    pub fn memory_limit(&self) -> Option<f64> {
        self.read_number("memory.limit_in_bytes", "memory.max")
    }

    pub fn reservation(&self) -> Option<f64> {
        self.read_number("memory.soft_limit_in_bytes", "memory.low")
    }

    pub fn oom_kills(&self) -> f64 {
        let files = ("memory.oom_control", "memory.events");
        self.read_keyed(files, "oom_kill", "oom_kill")
    }

    pub fn pids(&self) -> f64 {
        self.read_number("pids.current", "pids.current").unwrap()
    }

    pub fn pids_limit(&self) -> Option<f64> {
        self.read_number("pids.max", "pids.max")
    }
}
