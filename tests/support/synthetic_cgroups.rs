//! Cgroups without processes, laid out like Docker's containers in every hierarchy.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    skip,
    text_format::{Labels, Scrape},
};

/// v2 controllers that containers need, where v2 has them.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// A set of cgroups, removed when dropped.
pub struct SyntheticCgroups {
    roots: Vec<PathBuf>,
    /// Below each root.
    parent: String,
    /// Makes IDs unique across sets.
    set_id: usize,
}

impl SyntheticCgroups {
    /// Creates a set of this size. Skips the test and returns `None` where that is impossible.
    pub fn new(test: &str, number: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root to create cgroups");
            return None;
        }
        let roots = hierarchies();
        if roots.is_empty() {
            skip("cgroups");
            return None;
        }
        let set_id = CREATED_SETS.fetch_add(1, Ordering::Relaxed);
        let cgroups = Self {
            roots,
            parent: format!(
                "{}-strata-{test}-{}",
                set_letter(set_id),
                std::process::id()
            ),
            set_id,
        };
        for root in &cgroups.roots {
            // Without permission in one hierarchy there is none in the others.
            if let Err(error) = fs::create_dir_all(cgroups.parent_in(root)) {
                skip(&format!("permission to create cgroups: {error}"));
                return None;
            }
            for dir in [
                root.clone(),
                root.join(&cgroups.parent),
                cgroups.parent_in(root),
            ] {
                delegate(&dir);
            }
        }
        (0..number).for_each(|at| cgroups.create(at));
        Some(cgroups)
    }

    /// Creates one more.
    pub fn create(&self, number: usize) {
        for root in &self.roots {
            let cgroup = self.parent_in(root).join(self.name(number));
            fs::create_dir(&cgroup).unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
        }
    }

    pub fn remove(&self, number: usize) {
        for root in &self.roots {
            remove(&self.parent_in(root).join(self.name(number)));
        }
    }

    /// The flag that excludes all cgroups except these, because concurrent tests may create
    /// thousands. The path of each set starts with its own letter.
    pub fn exclude_others_flag(all: &[&Self]) -> String {
        let letters: String = all.iter().map(|it| set_letter(it.set_id)).collect();
        format!("--cgroup.exclude=^/[^{letters}]")
    }

    /// Common part of their paths.
    pub fn path_prefix(&self) -> String {
        format!("/{}/docker/", self.parent)
    }

    /// Moves a process into one of them.
    pub fn add_process(&self, number: usize, pid: u32) {
        for root in &self.roots {
            let cgroup = self.parent_in(root).join(self.name(number));
            // Fails in a cpuset without CPUs.
            let _taken = fs::write(cgroup.join("cgroup.procs"), pid.to_string());
        }
    }

    /// Whether a series belongs to one of them.
    pub fn is_own_series(&self) -> impl Fn(&Labels) -> bool + Sync + use<> {
        let within = self.path_prefix();
        move |labels| labels.get("id").is_some_and(|id| id.starts_with(&within))
    }

    /// Number of them in a scrape.
    pub fn count_exposed(&self, scrape: &Scrape) -> usize {
        self.count_series("container_memory_usage_bytes", scrape)
    }

    /// Number of them with sampled metrics, which are absent in the first scrapes.
    pub fn count_sampled(&self, scrape: &Scrape) -> usize {
        self.count_series("container_memory_usage_bytes_max", scrape)
    }

    fn count_series(&self, family: &str, scrape: &Scrape) -> usize {
        let is_ours = self.is_own_series();
        let all = scrape.series_named(family);
        all.filter(|(labels, _)| is_ours(labels)).count()
    }

    /// 64 digits, like a container's ID.
    fn name(&self, number: usize) -> String {
        let process = std::process::id();
        format!("{process:08x}{:08x}{number:048x}", self.set_id)
    }

    fn parent_in(&self, root: &Path) -> PathBuf {
        root.join(&self.parent).join("docker")
    }
}

impl Drop for SyntheticCgroups {
    fn drop(&mut self) {
        for root in &self.roots {
            let parent = self.parent_in(root);
            for cgroup in child_cgroups(&parent) {
                remove(&cgroup);
            }
            remove(&parent);
            remove(&root.join(&self.parent));
        }
    }
}

/// A cgroup with a memory limit.
pub struct MemoryLimitedCgroup {
    dir: PathBuf,
    is_v2: bool,
}

impl MemoryLimitedCgroup {
    /// Creates the cgroup. Skips the test and returns `None` where that is impossible.
    pub fn new(test: &str, bytes: u64) -> Option<Self> {
        let name = format!("strata-{test}-{}", std::process::id());
        let limits = hierarchies().into_iter().flat_map(|root| {
            let limits = [("memory.limit_in_bytes", false), ("memory.max", true)];
            limits.map(|(limit, is_v2)| (root.clone(), limit, is_v2))
        });
        for (root, limit, is_v2) in limits {
            let cgroup = Self {
                dir: root.join(&name),
                is_v2,
            };
            let result = fs::create_dir(&cgroup.dir);
            if result.is_ok() && fs::write(cgroup.dir.join(limit), bytes.to_string()).is_ok() {
                return Some(cgroup);
            }
        }
        skip("cgroups with a memory controller");
        None
    }

    /// File to which processes are written to join.
    pub fn procs_path(&self) -> String {
        self.dir.join("cgroup.procs").display().to_string()
    }

    /// Number of its processes that were killed at the memory limit.
    pub fn oom_kills(&self) -> u64 {
        let text = self.read("memory.oom_control", "memory.events");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("oom_kill "));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// Peak memory use, and how often the limit was hit.
    pub fn usage_summary(&self) -> String {
        let peak = self.read("memory.max_usage_in_bytes", "memory.peak");
        let hits = self.read("memory.failcnt", "memory.events");
        format!("peak: {peak}limit hits: {hits}")
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = if self.is_v2 { v2 } else { v1 };
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

impl Drop for MemoryLimitedCgroup {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes the cgroups of a domain that has ended: libvirt leaves them if it was killed while the
/// domain ran.
pub fn remove_domain_cgroups(domain: &str) {
    let ending = format!("-{domain}.libvirt-qemu");
    for cgroup in hierarchies()
        .iter()
        .flat_map(|root| child_cgroups(&root.join("machine")))
    {
        if cgroup.to_string_lossy().ends_with(&ending) {
            for part in child_cgroups(&cgroup) {
                remove(&part);
            }
            remove(&cgroup);
        }
    }
}

/// Child cgroups, if any.
fn child_cgroups(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let cgroups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    cgroups.map(|cgroup| cgroup.path()).collect()
}

/// Number of sets created so far.
static CREATED_SETS: AtomicUsize = AtomicUsize::new(0);

/// The mounted hierarchies that are readable.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (mount_point, kind) = (words.next().unwrap(), words.next().unwrap());
        if kind.starts_with("cgroup") && Path::new(mount_point).join("cgroup.procs").exists() {
            found.push(PathBuf::from(mount_point));
        }
    }
    found
}

fn set_letter(number: usize) -> char {
    char::from(b'A' + u8::try_from(number).unwrap())
}

/// Enables the available v2 controllers for the children.
fn delegate(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS {
        if controllers.split_whitespace().any(|it| it == controller) {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
    }
}

fn remove(cgroup: &Path) {
    let started = Instant::now();
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // The kernel may still be cleaning up a process.
                if started.elapsed() > Duration::from_secs(10) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
