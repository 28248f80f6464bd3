//! A host emulated by a few files, and the metrics a collector reads from it.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use clap::{ArgMatches, Command};

use super::{
    exposed::{self, Invariants},
    sources,
};
use crate::{
    collector::{CollectFn, Entry},
    collectors::ALL,
    family::Families,
    sources::Snapshot,
};

/// Further files and longer paths are ignored.
const MAX_FILES: usize = 256;
const MAX_PATH: usize = 300;

/// The collectors that read files. The others query the kernel or a daemon, which have their own
/// targets, or count requests.
pub(super) const COLLECTORS: &[&str] = &[
    "bonding",
    "btrfs",
    "buddyinfo",
    "cgroups",
    "conntrack",
    "container_cpu",
    "container_cpuset",
    "container_disk",
    "container_hugetlb",
    "container_memory",
    "container_network",
    "container_numa",
    "container_pids",
    "container_pressure",
    "container_processes",
    "container_spec",
    "cpu",
    "cpu_vulnerabilities",
    "cpufreq",
    "diskstats",
    "dmi",
    "edac",
    "entropy",
    "filefd",
    "hwmon",
    "interrupts",
    "kernel_hung",
    "ksmd",
    "lnstat",
    "loadavg",
    "machine",
    "mdadm",
    "meminfo",
    "meminfo_numa",
    "mountstats",
    "netstat",
    "nfs",
    "nfsd",
    "nvme",
    "os",
    "powersupplyclass",
    "pressure",
    "processes",
    "rapl",
    "schedstat",
    "selinux",
    "slabinfo",
    "sockstat",
    "softirqs",
    "softnet",
    "stat",
    "swap",
    "sysctl",
    "thermal_zone",
    "udp_queues",
    "vmstat",
    "watchdog",
    "xfs",
    "zoneinfo",
];

/// Flags that make collectors read more files.
const FLAGS: &[&str] = &[
    "--collector.container_network.advanced-tcp=true",
    "--collector.container_network.tcp=true",
    "--collector.container_network.udp=true",
    "--collector.container_processes.referenced=true",
    "--collector.container_processes.schedstat=true",
    "--collector.container_processes.sockets=true",
    "--collector.container_processes.tasks-state=true",
    "--collector.cpu.info=true",
    "--collector.cpu.info.flags-include=^(aes|avx.?)$",
    "--collector.machine.topology=true",
    "--collector.stat.softirq=true",
    "--collector.sysctl.include=fs.file-nr:total,current,max",
    "--collector.sysctl.include=kernel.threads-max",
    "--collector.sysctl.include-info=kernel.core_pattern",
];

/// A directory of files described by the input, removed when dropped.
///
/// The input consists of lines `#### PATH`, each followed by the content of a file, and lines `####
/// PATH -> TARGET` for symbolic links, which may not leave the directory. The path begins with
/// `proc`, `sys`, `root` or `udev`. Invalid entries are ignored.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

impl Tree {
    /// Creates the files.
    #[must_use]
    pub(super) fn new(bytes: &[u8]) -> Self {
        let tree = Self(super::unique_path());
        fs::create_dir_all(&tree.0).ok();
        for (head, body) in files(bytes).take(MAX_FILES) {
            tree.create(head, body);
        }
        tree
    }

    fn create(&self, head: &[u8], body: &[u8]) -> Option<()> {
        let arrow = head.windows(4).position(|it| it == b" -> ");
        let (path, target) = match arrow {
            Some(at) => (head.get(..at)?, head.get(at + 4..)),
            None => (head, None),
        };
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        depth(path).filter(|depth| *depth > 0)?;
        let is_plain = |part| matches!(part, Component::Normal(_));
        if !path.components().all(is_plain) {
            return None;
        }
        let full_path = self.0.join(path);
        fs::create_dir_all(full_path.parent()?).ok()?;
        match target {
            Some(target) => {
                let target = Path::new(std::ffi::OsStr::from_bytes(target));
                depth(&path.parent()?.join(target))?;
                symlink(target, full_path).ok()
            }
            None => fs::write(full_path, body).ok(),
        }
    }

    /// A snapshot of the emulated host.
    #[must_use]
    pub(super) fn snapshot(&self) -> Snapshot {
        sources::snapshot(&self.0, None)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Depth of a path below the tree's root; `None` if it leaves the tree or is too long.
fn depth(path: &Path) -> Option<usize> {
    if path.as_os_str().len() > MAX_PATH {
        return None;
    }
    path.components()
        .try_fold(0_usize, |depth, part| match part {
            Component::Normal(_) => depth.checked_add(1),
            Component::CurDir => Some(depth),
            Component::ParentDir => depth.checked_sub(1),
            Component::Prefix(_) | Component::RootDir => None,
        })
}

/// Splits the input into pairs of the separator line and the content after it.
fn files(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut files: Vec<(&[u8], &[u8])> = Vec::new();
    let mut body = bytes;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (line, below) = split_line(rest);
        if let Some(head) = line.strip_prefix(b"#### ") {
            if let Some((_, last)) = files.last_mut() {
                *last = body.get(..body.len() - rest.len()).unwrap_or_default();
            }
            files.push((head, below));
            body = below;
        }
        rest = below;
    }
    files.into_iter()
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let end = end.unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    (line, rest.get(1..).unwrap_or_default())
}

/// Runs the collector named by the first line on a [`Tree`] of the rest. Returns the number of
/// series.
pub(super) fn collect(bytes: &[u8]) -> usize {
    let (name, files) = split_line(bytes);
    let Some(name) = COLLECTORS.iter().find(|it| it.as_bytes() == name) else {
        return 0;
    };
    let tree = Tree::new(files);
    let families = collected(name, &tree.snapshot());
    // A name may be in each series of an object, and escapes lengthen it.
    let max_len = (64 << 10) + 400 * bytes.len();
    // The kernel lists nothing twice; otherwise series would be duplicated.
    let invariants = Invariants {
        series_once: false,
        finite_values: true,
    };
    exposed::check(families, max_len, invariants)
}

/// The metrics of a collector; none if it fails.
#[must_use]
pub(super) fn collected(name: &str, snapshot: &Snapshot) -> Families {
    let Some((entry, flags)) = entries().iter().find(|(entry, _)| entry.name == name) else {
        return Families::default();
    };
    let collect: Result<CollectFn, clap::Error> = (entry.make)(flags);
    match collect.map(|collect| collect(snapshot)) {
        Ok(Ok(families)) => families,
        Ok(Err(error)) => {
            assert!(!error.to_string().is_empty());
            Families::default()
        }
        // Conflicting flags.
        Err(_) => Families::default(),
    }
}

/// Every collector, with its parsed flags.
fn entries() -> &'static [(&'static Entry, ArgMatches)] {
    static ENTRIES: OnceLock<Vec<(&'static Entry, ArgMatches)>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let entry = |entry: &'static Entry| {
            let command = Command::new("fuzzing").no_binary_name(true);
            let prefix = format!("--collector.{}", entry.name);
            let belongs_to_collector = |flag: &&&str| {
                flag.strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            let flags = FLAGS.iter().filter(belongs_to_collector);
            let flags = (entry.add_flags)(command).try_get_matches_from(flags);
            let error = flags.as_ref().err().map(ToString::to_string);
            assert!(error.is_none(), "{error:?}");
            Some((entry, flags.ok()?))
        };
        ALL.iter().filter_map(entry).collect()
    })
}
