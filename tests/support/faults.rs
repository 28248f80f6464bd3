//! Measured cost of faults: the table in `docs/faults.md`, with one row per fault.
//!
//! Each test compares its row with the table: the description, threads and descriptors must be
//! equal, while times and memory are those of the last update. To write the measured values, run
//! `UPDATE=1 cargo test --test system -- faults v2_machine`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Maximum duration of every scrape, whatever the fault: the deadline of scrapers that send none,
/// with ample time for a busy machine.
pub const MAX_SCRAPE_DURATION: Duration = Duration::from_secs(30);

/// The tested faults, in the order of the table.
pub const FAULTS: &[&str] = &[
    "a mount that never responds",
    "a FIFO among the text files",
    "dockerd starts late",
    "dockerd hangs",
    "dockerd is killed",
    "dockerd is restarted",
    "libvirtd starts late",
    "libvirtd hangs",
    "libvirtd is killed",
    "libvirtd is restarted",
    "the disk is full",
    "no file descriptors",
    "32 MB of memory, 1,000 containers",
    "the clock steps back",
    "10,000 control groups come and go",
    "procfs with hidepid=2",
    "no capabilities",
    "everything read-only",
];

/// Resources of a process that may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    pub threads: usize,
    pub fds: usize,
    /// Bytes.
    pub resident_bytes: u64,
}

impl Resources {
    /// Resources of an idle process: threads and descriptors used only during a scrape are not
    /// counted. Descriptors of cgroups count only if their path contains one of these words,
    /// because other tests create cgroups, too.
    pub fn when_idle(pid: u32, own_words: &[String]) -> Self {
        let mut min = Self::sample(pid, own_words);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(20));
            let now = Self::sample(pid, own_words);
            min.threads = min.threads.min(now.threads);
            min.fds = min.fds.min(now.fds);
            min.resident_bytes = now.resident_bytes;
        }
        min
    }

    fn sample(pid: u32, own_words: &[String]) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.unwrap_or_else(|| panic!("{key} in {status}"))
                .parse()
                .unwrap()
        };
        let counts = |file: &str| {
            !file.starts_with("/sys/fs/cgroup/") || own_words.iter().any(|word| file.contains(word))
        };
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let fds = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        let fds = fds.filter(|file| counts(&file.to_string_lossy())).count();
        Self {
            threads: usize::try_from(number("Threads:")).unwrap(),
            fds,
            resident_bytes: number("VmRSS:") * 1024,
        }
    }
}

/// Measured cost of a fault.
#[derive(Debug)]
pub struct Cost {
    pub first: Duration,
    pub tenth: Duration,
    pub longest: Duration,
    /// Before the fault.
    pub baseline: Resources,
    pub after_ten: Resources,
    pub after_all: Resources,
    /// Number of log lines during the fault.
    pub log_lines: usize,
}

impl Cost {
    /// Compares the fault with its row: what remains exposed, and the maximum of additional threads
    /// and descriptors, which must not be exceeded.
    pub fn assert_matches_docs(&self, fault: &str, stays: &str, threads: usize, fds: usize) {
        let (baseline, after_all) = (self.baseline, self.after_all);
        // The second of two workers is started when first needed.
        let max_threads = baseline.threads + threads + 1;
        assert!(after_all.threads <= max_threads, "{fault}: {self:#?}");
        assert!(
            after_all.threads <= self.after_ten.threads + 1,
            "{fault}: {self:#?}"
        );
        assert!(after_all.fds <= baseline.fds + fds, "{fault}: {self:#?}");
        let more = |count| match count {
            0 => "no more".to_owned(),
            count => format!("at most {count} more"),
        };
        let megabytes = |resources: Resources| {
            let tenths = (resources.resident_bytes + 50_000) / 100_000;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        let cells = [
            fault.to_owned(),
            stays.to_owned(),
            format!(
                "{} ms, {} ms",
                format_millis(self.first),
                format_millis(self.tenth)
            ),
            more(threads),
            more(fds),
            format!(
                "{}, {}",
                megabytes(self.after_ten),
                megabytes(self.after_all)
            ),
            self.log_lines.to_string(),
        ];
        check_row(&cells);
    }
}

fn format_millis(duration: Duration) -> String {
    let tenths = duration.as_micros().div_ceil(100);
    if tenths < 100 {
        format!("{}.{}", tenths / 10, tenths % 10)
    } else {
        (tenths / 10).to_string()
    }
}

/// Columns that must not change.
const STABLE_COLUMNS: [(usize, &str); 3] = [
    (1, "what stays in the answer"),
    (3, "threads"),
    (4, "file descriptors"),
];

fn docs_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md")
}

fn check_row(cells: &[String; 7]) {
    static FILE: Mutex<()> = Mutex::new(());
    let _alone = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(docs_path()).unwrap();
    let start = format!("| {} |", cells[0]);
    let old = text.lines().find(|line| line.starts_with(&start));
    let old = old.unwrap_or_else(|| panic!("{start} is not in {}", docs_path().display()));
    if std::env::var_os("UPDATE").is_some() {
        let mut new = String::new();
        for cell in cells {
            write!(new, "| {cell} ").unwrap();
        }
        new += "|";
        fs::write(docs_path(), text.replace(old, &new)).unwrap();
        return;
    }
    let documented: Vec<&str> = old.split('|').map(str::trim).skip(1).collect();
    for (at, what) in STABLE_COLUMNS {
        assert_eq!(
            documented[at],
            cells[at],
            "{what} of {:?} in {}; if that is right, run UPDATE=1 cargo test --test system -- faults v2_machine",
            cells[0],
            docs_path().display()
        );
    }
}

/// Faults in the table, in order.
pub fn documented_faults() -> Vec<String> {
    let text = fs::read_to_string(docs_path()).unwrap();
    let mut rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| Fault |"));
    rows.by_ref().take(2).for_each(drop);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let first = |row: &str| row.split('|').nth(1).unwrap().trim().to_owned();
    rows.map(first).collect()
}
