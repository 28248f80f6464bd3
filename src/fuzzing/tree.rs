//! A machine made of a few files, and what a collector makes of it.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use clap::{ArgMatches, Command};

use super::{
    exposed::{self, Has},
    sources,
};
use crate::{
    collector::{CollectFn, Entry},
    collectors::ALL,
    family::Families,
    sources::Snapshot,
};

/// More files and longer ones are not made.
const MAX_FILES: usize = 256;
const MAX_PATH: usize = 300;

/// The collectors that read files which somebody else writes. The others ask the kernel or
/// a daemon, which have targets of their own, or count what was asked.
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

/// Those flags that make collectors read more.
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

/// A directory in which files are made as bytes say, until it is dropped.
///
/// The bytes are parted by lines `#### PATH`, behind which a file's contents are, and lines
/// `#### PATH -> TARGET` for symbolic links, which do not lead out. The path begins with
/// `proc`, `sys`, `root` or `udev`. What cannot be made so is not.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

impl Tree {
    /// Makes the files.
    #[must_use]
    pub(super) fn new(bytes: &[u8]) -> Self {
        let tree = Self(super::place());
        fs::create_dir_all(&tree.0).ok();
        for (head, body) in files(bytes).take(MAX_FILES) {
            tree.make(head, body);
        }
        tree
    }

    fn make(&self, head: &[u8], body: &[u8]) -> Option<()> {
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
        let whole = self.0.join(path);
        fs::create_dir_all(whole.parent()?).ok()?;
        match target {
            Some(target) => {
                let target = Path::new(std::ffi::OsStr::from_bytes(target));
                depth(&path.parent()?.join(target))?;
                symlink(target, whole).ok()
            }
            None => fs::write(whole, body).ok(),
        }
    }

    /// The machine that it is.
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

/// How deep below the tree's root a path is, if it never leaves it and is not too long.
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

/// What stands in the lines that part the files, and what stands behind these.
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

/// The first line names the collector; the rest is a [`Tree`]. Says how many families there
/// are.
pub(super) fn collect(bytes: &[u8]) -> usize {
    let (name, files) = split_line(bytes);
    let Some(name) = COLLECTORS.iter().find(|it| it.as_bytes() == name) else {
        return 0;
    };
    let tree = Tree::new(files);
    let families = collected(name, &tree.snapshot());
    // A name may stand in each of the series of a thing, and escapes make more of it.
    let most = (64 << 10) + 400 * bytes.len();
    // The kernel lists nothing twice; if it did, so would we.
    let has = Has {
        series_once: false,
        finite_values: true,
    };
    exposed::check(families, most, has)
}

/// What a collector says of a machine; nothing if it fails.
#[must_use]
pub(super) fn collected(name: &str, snapshot: &Snapshot) -> Families {
    let Some((entry, flags)) = entries().iter().find(|(entry, _)| entry.name == name) else {
        return Families::default();
    };
    let made: Result<CollectFn, clap::Error> = (entry.make)(flags);
    match made.map(|collect| collect(snapshot)) {
        Ok(Ok(families)) => families,
        Ok(Err(error)) => {
            assert!(!error.to_string().is_empty());
            Families::default()
        }
        // Flags that clash.
        Err(_) => Families::default(),
    }
}

/// Every collector, with its flags read.
fn entries() -> &'static [(&'static Entry, ArgMatches)] {
    static ENTRIES: OnceLock<Vec<(&'static Entry, ArgMatches)>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let entry = |entry: &'static Entry| {
            let command = Command::new("fuzzing").no_binary_name(true);
            let of_it = format!("--collector.{}", entry.name);
            let is_its = |flag: &&&str| {
                flag.strip_prefix(of_it.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            let flags = FLAGS.iter().filter(is_its);
            let flags = (entry.add_flags)(command).try_get_matches_from(flags);
            let wrong = flags.as_ref().err().map(ToString::to_string);
            assert!(wrong.is_none(), "{wrong:?}");
            Some((entry, flags.ok()?))
        };
        ALL.iter().filter_map(entry).collect()
    })
}
