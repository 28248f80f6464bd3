//! What the kernel says of a container in the files of its control group, found and
//! read as plainly as can be, for what the exporter says to be held against.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A container's control group: that of its first process.
#[derive(Debug, Clone)]
pub enum Group {
    /// Version 1: the hierarchies' directory, and the path below each of them.
    One(PathBuf, String),
    /// Version 2: the directory, or a copy of it.
    Two(PathBuf),
}

impl Group {
    /// That of a process on this machine.
    pub fn of(pid: u32) -> Self {
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
            Some(path) => Self::One(root.to_owned(), path),
            None => Self::Two(root.join(path("").unwrap().trim_start_matches('/'))),
        }
    }

    /// The label `id` of its metrics; of a copy there is none.
    pub fn id(&self) -> String {
        match self {
            Self::One(_, path) => path.clone(),
            Self::Two(dir) => {
                let path = dir.strip_prefix("/sys/fs/cgroup").unwrap();
                format!("/{}", path.display())
            }
        }
    }

    fn file(&self, one: &str, two: &str) -> PathBuf {
        match self {
            Self::One(root, path) => {
                // Everything is called after its controller, but for one.
                let controller = match one {
                    "cpu.stat" => "cpu",
                    _ => one.split('.').next().unwrap(),
                };
                root.join(controller)
                    .join(path.trim_start_matches('/'))
                    .join(one)
            }
            Self::Two(dir) => dir.join(two),
        }
    }

    fn read(&self, one: &str, two: &str) -> String {
        let file = self.file(one, two);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// The first number of a file; `None` for what stands for no limit.
    fn number(&self, one: &str, two: &str) -> Option<f64> {
        let text = self.read(one, two);
        let number: f64 = text.split_whitespace().next()?.parse().ok()?;
        (0.0..4e18).contains(&number).then_some(number)
    }

    /// The number behind a word.
    fn entry(&self, files: (&str, &str), one: &str, two: &str) -> f64 {
        let text = self.read(files.0, files.1);
        let key = if matches!(self, Self::One(..)) {
            one
        } else {
            two
        };
        let mut words = text.split_whitespace();
        let value = words.find(|word| *word == key).and_then(|_| words.next());
        value
            .unwrap_or_else(|| panic!("no {key} in {text}"))
            .parse()
            .unwrap()
    }

    pub fn cpu_seconds(&self) -> f64 {
        match self {
            Self::One(..) => self.number("cpuacct.usage", "").unwrap() / 1e9,
            Self::Two(_) => self.entry(("", "cpu.stat"), "", "usage_usec") / 1e6,
        }
    }

    /// Periods in which it had used up its share, and all that it ran in.
    pub fn throttled(&self) -> (f64, f64) {
        let of = |key| self.entry(("cpu.stat", "cpu.stat"), key, key);
        (of("nr_throttled"), of("nr_periods"))
    }

    /// Microseconds that it may run in a period, and the period.
    pub fn quota(&self) -> (Option<f64>, f64) {
        if let Self::One(..) = self {
            let period = self.number("cpu.cfs_period_us", "").unwrap();
            (self.number("cpu.cfs_quota_us", ""), period)
        } else {
            let text = self.read("", "cpu.max");
            let mut words = text.split_whitespace();
            let quota = words.next().unwrap().parse().ok();
            (quota, words.next().unwrap().parse().unwrap())
        }
    }

    pub fn memory(&self) -> f64 {
        self.number("memory.usage_in_bytes", "memory.current")
            .unwrap()
    }

    pub fn memory_stat(&self, one: &str, two: &str) -> f64 {
        self.entry(("memory.stat", "memory.stat"), one, two)
    }

    pub fn working_set(&self) -> f64 {
        self.memory() - self.memory_stat("total_inactive_file", "inactive_file")
    }

    pub fn memory_limit(&self) -> Option<f64> {
        self.number("memory.limit_in_bytes", "memory.max")
    }

    pub fn reservation(&self) -> Option<f64> {
        self.number("memory.soft_limit_in_bytes", "memory.low")
    }

    pub fn oom_kills(&self) -> f64 {
        let files = ("memory.oom_control", "memory.events");
        self.entry(files, "oom_kill", "oom_kill")
    }

    pub fn pids(&self) -> f64 {
        self.number("pids.current", "pids.current").unwrap()
    }

    pub fn pids_limit(&self) -> Option<f64> {
        self.number("pids.max", "pids.max")
    }
}
