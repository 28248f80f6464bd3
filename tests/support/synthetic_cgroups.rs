//! Control groups made by hand, as Docker makes them for containers: in every hierarchy, and
//! without a process.

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

/// What containers need of version 2, where its controllers are.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Groups that are gone with the test.
pub struct SyntheticCgroups {
    roots: Vec<PathBuf>,
    /// Below each root.
    parent: String,
    /// No two containers have the same id.
    set_id: usize,
}

impl SyntheticCgroups {
    /// Makes so many; `None`, which is said, where that cannot be.
    pub fn new(test: &str, number: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root, to make control groups");
            return None;
        }
        let roots = hierarchies();
        if roots.is_empty() {
            skip("control groups");
            return None;
        }
        let made = CREATED_SETS.fetch_add(1, Ordering::Relaxed);
        let groups = Self {
            roots,
            parent: format!("{}-strata-{test}-{}", set_letter(made), std::process::id()),
            set_id: made,
        };
        for root in &groups.roots {
            // Where somebody may not, nobody may.
            if let Err(error) = fs::create_dir_all(groups.parent_in(root)) {
                skip(&format!("the right to make control groups: {error}"));
                return None;
            }
            for dir in [
                root.clone(),
                root.join(&groups.parent),
                groups.parent_in(root),
            ] {
                delegate(&dir);
            }
        }
        (0..number).for_each(|at| groups.create(at));
        Some(groups)
    }

    /// Makes one more.
    pub fn create(&self, number: usize) {
        for root in &self.roots {
            let group = self.parent_in(root).join(self.name(number));
            fs::create_dir(&group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        }
    }

    pub fn remove(&self, number: usize) {
        for root in &self.roots {
            remove(&self.parent_in(root).join(self.name(number)));
        }
    }

    /// The flag that has the exporter pass over all others, of which this machine may have
    /// thousands while other tests run: those of these begin with letters of their own.
    pub fn exclude_others_flag(all: &[&Self]) -> String {
        let letters: String = all.iter().map(|it| set_letter(it.set_id)).collect();
        format!("--cgroup.exclude=^/[^{letters}]")
    }

    /// What is in all their paths.
    pub fn path_prefix(&self) -> String {
        format!("/{}/docker/", self.parent)
    }

    /// Moves a process into one of them.
    pub fn add_process(&self, number: usize, pid: u32) {
        for root in &self.roots {
            let group = self.parent_in(root).join(self.name(number));
            // One that has no CPU yet takes nobody.
            let _taken = fs::write(group.join("cgroup.procs"), pid.to_string());
        }
    }

    /// Whether a series is about one of them.
    pub fn is_own_series(&self) -> impl Fn(&Labels) -> bool + Sync + use<> {
        let within = self.path_prefix();
        move |labels| labels.get("id").is_some_and(|id| id.starts_with(&within))
    }

    /// Of how many a page tells.
    pub fn count_exposed(&self, page: &Scrape) -> usize {
        self.count_series("container_memory_usage_bytes", page)
    }

    /// Of how many a page tells what was sampled, which is not from the first scrape on.
    pub fn count_sampled(&self, page: &Scrape) -> usize {
        self.count_series("container_memory_usage_bytes_max", page)
    }

    fn count_series(&self, family: &str, page: &Scrape) -> usize {
        let is_ours = self.is_own_series();
        let all = page.series_named(family);
        all.filter(|(labels, _)| is_ours(labels)).count()
    }

    /// Of 64 digits, as containers' are.
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
            for group in child_groups(&parent) {
                remove(&group);
            }
            remove(&parent);
            remove(&root.join(&self.parent));
        }
    }
}

/// A control group that may use only so much memory.
pub struct MemoryLimitedCgroup {
    dir: PathBuf,
    is_v2: bool,
}

impl MemoryLimitedCgroup {
    /// `None`, which is said, where there can be none.
    pub fn new(test: &str, bytes: u64) -> Option<Self> {
        let name = format!("strata-{test}-{}", std::process::id());
        let limits = hierarchies().into_iter().flat_map(|root| {
            let limits = [("memory.limit_in_bytes", false), ("memory.max", true)];
            limits.map(|(limit, is_v2)| (root.clone(), limit, is_v2))
        });
        for (root, limit, is_v2) in limits {
            let cell = Self {
                dir: root.join(&name),
                is_v2,
            };
            let made = fs::create_dir(&cell.dir);
            if made.is_ok() && fs::write(cell.dir.join(limit), bytes.to_string()).is_ok() {
                return Some(cell);
            }
        }
        skip("control groups that limit memory");
        None
    }

    /// Where processes are moved into it.
    pub fn procs_path(&self) -> String {
        self.dir.join("cgroup.procs").display().to_string()
    }

    /// How many of its processes were ended for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let text = self.read("memory.oom_control", "memory.events");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("oom_kill "));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// The most memory that it used, and how often it wanted more than it may.
    pub fn usage_summary(&self) -> String {
        let most = self.read("memory.max_usage_in_bytes", "memory.peak");
        let wanted = self.read("memory.failcnt", "memory.events");
        format!("most: {most}wanted more: {wanted}")
    }

    fn read(&self, one: &str, two: &str) -> String {
        let file = if self.is_v2 { two } else { one };
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }
}

impl Drop for MemoryLimitedCgroup {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes the groups of a guest that is over: libvirt leaves them where it was ended while the
/// guest ran.
pub fn remove_domain_cgroups(domain: &str) {
    let ending = format!("-{domain}.libvirt-qemu");
    for group in hierarchies()
        .iter()
        .flat_map(|root| child_groups(&root.join("machine")))
    {
        if group.to_string_lossy().ends_with(&ending) {
            for part in child_groups(&group) {
                remove(&part);
            }
            remove(&group);
        }
    }
}

/// The groups in a group, if there is any such.
fn child_groups(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|group| group.path()).collect()
}

/// How many there are of these.
static CREATED_SETS: AtomicUsize = AtomicUsize::new(0);

/// The hierarchies that can be read.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next().unwrap(), words.next().unwrap());
        if kind.starts_with("cgroup") && Path::new(place).join("cgroup.procs").exists() {
            found.push(PathBuf::from(place));
        }
    }
    found
}

fn set_letter(number: usize) -> char {
    char::from(b'A' + u8::try_from(number).unwrap())
}

/// Lets groups below have the controllers of version 2 that there are.
fn delegate(dir: &Path) {
    let there = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS {
        if there.split_whitespace().any(|it| it == controller) {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
    }
}

fn remove(group: &Path) {
    let started = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                // The kernel may still be about a process that was in it.
                if started.elapsed() > Duration::from_secs(10) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}
