//! Finds the mounted cgroup hierarchies and their controllers.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};

use super::CgroupVersion;
use crate::{
    error::{Error, Result},
    sources::{Dir, Roots, dir, mounts::MountInfo},
};

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`.
const CGROUP_MAGICS: [i128; 2] = [0x0027_e0eb, 0x6367_7270];

/// Version 1 controllers: those whose files are read, and those that are only reported.
const CONTROLLERS: &[&str] = &[
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// Hierarchies of version 1 in order of preference for walks; the first mounted one is the primary
/// hierarchy. All engines create their cgroups in each of these; systemd creates those of services
/// mainly in `memory` and `pids`, which it accounts by default.
const PRIMARY_CONTROLLERS: &[&str] = &["memory", "cpuacct", "cpu", "pids", "blkio", "hugetlb"];

/// Controllers whose files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupController {
    Cpu,
    Cpuacct,
    Memory,
    Io,
    Pids,
    Hugetlb,
}

impl CgroupController {
    const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Memory,
        Self::Io,
        Self::Pids,
        Self::Hugetlb,
    ];

    /// Name of its controller in version 1.
    fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Io => "blkio",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// Name of its controller in version 2; `None` for CPU time, which needs no controller there.
    fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpuacct => None,
            Self::Io => Some("io"),
            other => Some(other.v1_name()),
        }
    }
}

/// Version of the files in a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterfaceVersion {
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    /// Inode number of its root directory.
    pub(super) inode: u64,
    device: u64,
    /// Whether it is a cgroup file system and not a copy in an ordinary file system.
    pub(super) is_cgroupfs: bool,
}

impl Hierarchy {
    fn open(path: &Path) -> Result<Self> {
        let failed = |errno| Error::io(path, errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let kind = rustix::fs::fstatfs(&fd).map_err(failed)?.f_type;
        Ok(Self {
            fd,
            path: path.to_owned(),
            inode: stat.st_ino,
            device: stat.st_dev,
            is_cgroupfs: CGROUP_MAGICS.contains(&i128::from(kind)),
        })
    }
}

/// All mounted hierarchies and their controllers.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) version: CgroupVersion,
    /// Names of all controllers, sorted.
    pub(super) controllers: Vec<String>,
    pub(super) hierarchies: Vec<Hierarchy>,
    /// Index of the primary hierarchy, which is walked to find cgroups.
    pub(super) primary: usize,
    /// Index of the unified hierarchy.
    pub(super) unified: Option<usize>,
    /// Mount point of version 1's `cpuset` controller, of which one file is read on request. It is
    /// not in `hierarchies`, for which descriptors are cached.
    pub(super) cpuset: Option<PathBuf>,
    hierarchy_by_controller: [Option<(usize, InterfaceVersion)>; CgroupController::ALL.len()],
}

impl Layout {
    /// Looks for hierarchies at the customary mount points, then, if there are none, in the mount
    /// table.
    pub(super) fn find(roots: &Roots) -> Result<Self> {
        let default_path = roots.sysfs.join("fs/cgroup");
        let scanned = MountedHierarchies::scan_default_path(&default_path);
        if let Some(layout) = scanned.into_layout()? {
            return Ok(layout);
        }
        let mounted = MountedHierarchies::from_mountinfo(roots);
        mounted.into_layout()?.ok_or(Error::NotFound(default_path))
    }

    /// Returns the hierarchy that has this controller, and the version of its files.
    pub(super) fn hierarchy_for(
        &self,
        controller: CgroupController,
    ) -> Option<(usize, InterfaceVersion)> {
        *self.hierarchy_by_controller.get(controller as usize)?
    }

    fn open_hierarchy(&mut self, path: &Path) -> Result<usize> {
        let hierarchy = Hierarchy::open(path)?;
        let is_same =
            |other: &Hierarchy| (other.device, other.inode) == (hierarchy.device, hierarchy.inode);
        // A hierarchy with several controllers has a symbolic link for each.
        if let Some(slot) = self.hierarchies.iter().position(is_same) {
            return Ok(slot);
        }
        self.hierarchies.push(hierarchy);
        Ok(self.hierarchies.len() - 1)
    }
}

/// Hierarchies found so far.
#[derive(Debug, Default)]
struct MountedHierarchies {
    unified: Option<PathBuf>,
    /// Mount points by controller.
    v1: BTreeMap<String, PathBuf>,
}

impl MountedHierarchies {
    fn scan_default_path(path: &Path) -> Self {
        if has_controllers(path) {
            return Self {
                unified: Some(path.to_owned()),
                v1: BTreeMap::new(),
            };
        }
        let mut found = Self::default();
        let names = Dir::open(path).and_then(|dir| dir.names());
        for name in names.unwrap_or_default() {
            let dir = path.join(&name);
            let Some(name) = name.to_str() else { continue };
            if name == "unified" && has_controllers(&dir) {
                found.unified = Some(dir);
            } else if dir.is_dir() {
                found.add(name, &dir);
            }
        }
        found
    }

    fn from_mountinfo(roots: &Roots) -> Self {
        let mut found = Self::default();
        let Ok(info) = MountInfo::read(&roots.procfs) else {
            return found;
        };
        for mount in info.mounts().flatten() {
            let point = mount
                .mount_point
                .strip_prefix("/")
                .unwrap_or(&mount.mount_point);
            let path = roots.rootfs.join(point);
            match &*mount.fs_type {
                "cgroup2" if found.unified.is_none() && has_controllers(&path) => {
                    found.unified = Some(path);
                }
                "cgroup" if path.is_dir() => found.add(&mount.options, &path),
                _ => {}
            }
        }
        found
    }

    /// Adds the named controllers; the first mount point of each is used.
    fn add(&mut self, names: &str, path: &Path) {
        for name in names.split(',').filter(|name| CONTROLLERS.contains(name)) {
            let entry = self.v1.entry(name.to_owned());
            entry.or_insert_with(|| path.to_owned());
        }
    }

    fn into_layout(self) -> Result<Option<Layout>> {
        let version = match (&self.unified, self.v1.is_empty()) {
            (None, true) => return Ok(None),
            (None, false) => CgroupVersion::V1,
            (Some(_), true) => CgroupVersion::V2,
            (Some(_), false) => CgroupVersion::Hybrid,
        };
        let mut layout = Layout {
            version,
            controllers: self.v1.keys().cloned().collect(),
            hierarchies: Vec::new(),
            primary: 0,
            unified: None,
            cpuset: self.v1.get("cpuset").cloned(),
            hierarchy_by_controller: [None; CgroupController::ALL.len()],
        };
        let mut unified = Vec::new();
        if let Some(path) = &self.unified {
            layout.unified = Some(layout.open_hierarchy(path)?);
            let words = dir::read(&path.join("cgroup.controllers"))?;
            unified.extend(words.body().split_whitespace().map(str::to_owned));
            layout.controllers.extend(unified.iter().cloned());
            layout.controllers.sort_unstable();
            layout.controllers.dedup();
        }
        for (controller, index) in CgroupController::ALL.into_iter().zip(0..) {
            let found = if let Some(path) = self.v1.get(controller.v1_name()) {
                Some((layout.open_hierarchy(path)?, InterfaceVersion::V1))
            } else {
                // On hybrid hosts, some controllers may be in the unified hierarchy.
                let is_available = |name: &str| unified.iter().any(|available| available == name);
                let slot = layout
                    .unified
                    .filter(|_| controller.v2_name().is_none_or(is_available));
                slot.map(|slot| (slot, InterfaceVersion::V2))
            };
            if let Some(index) = layout.hierarchy_by_controller.get_mut::<usize>(index) {
                *index = found;
            }
        }
        let primary = PRIMARY_CONTROLLERS
            .iter()
            .find_map(|name| self.v1.get(*name));
        layout.primary = match primary.or(self.unified.as_ref()) {
            Some(path) => layout.open_hierarchy(path)?,
            None => return Ok(None),
        };
        Ok(Some(layout))
    }
}

fn has_controllers(dir: &Path) -> bool {
    dir.join("cgroup.controllers").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::cgroup::testing::TempTree;

    fn dir_and_version(
        layout: &Layout,
        controller: CgroupController,
    ) -> Option<(String, InterfaceVersion)> {
        let (slot, version) = layout.hierarchy_for(controller)?;
        let name = layout.hierarchies[slot].path.file_name().unwrap();
        Some((name.to_str().unwrap().to_owned(), version))
    }

    #[test]
    fn jointly_mounted_controllers_are_one_hierarchy() {
        let tree = TempTree::new("together");
        tree.write("sys/fs/cgroup/cpu,cpuacct/cpu.shares", "1024\n");
        tree.link("sys/fs/cgroup/cpu", "cpu,cpuacct");
        tree.link("sys/fs/cgroup/cpuacct", "cpu,cpuacct");
        tree.write("sys/fs/cgroup/memory/memory.stat", "");
        tree.write("sys/fs/cgroup/systemd/cgroup.procs", "");
        let layout = Layout::find(&tree.roots()).unwrap();
        assert_eq!(layout.version, CgroupVersion::V1);
        assert_eq!(layout.controllers, ["cpu", "cpuacct", "memory"]);
        assert_eq!(layout.hierarchies.len(), 2);
        assert_eq!(
            layout.hierarchy_for(CgroupController::Cpu),
            layout.hierarchy_for(CgroupController::Cpuacct)
        );
        assert!(layout.hierarchies[layout.primary].path.ends_with("memory"));
        assert_eq!(
            (layout.hierarchy_for(CgroupController::Io), layout.cpuset),
            (None, None)
        );
    }

    #[test]
    fn hybrid_hosts_may_have_controllers_in_unified_hierarchy() {
        let tree = TempTree::new("hybrid-layout");
        tree.write("sys/fs/cgroup/cpu/cpu.shares", "1024\n");
        tree.write(
            "sys/fs/cgroup/unified/cgroup.controllers",
            "memory hugetlb\n",
        );
        let layout = Layout::find(&tree.roots()).unwrap();
        assert_eq!(layout.version, CgroupVersion::Hybrid);
        assert_eq!(layout.controllers, ["cpu", "hugetlb", "memory"]);
        let expected = Some(("unified".to_owned(), InterfaceVersion::V2));
        assert_eq!(dir_and_version(&layout, CgroupController::Memory), expected);
        assert_eq!(
            dir_and_version(&layout, CgroupController::Cpuacct),
            expected
        );
        assert_eq!(
            dir_and_version(&layout, CgroupController::Cpu),
            Some(("cpu".to_owned(), InterfaceVersion::V1))
        );
        assert_eq!(dir_and_version(&layout, CgroupController::Pids), None);
    }

    #[test]
    fn custom_mount_points_are_found_in_mountinfo() {
        let tree = TempTree::new("elsewhere");
        tree.write("odd/one/cpu.shares", "1024\n");
        tree.write("odd/two/cgroup.controllers", "\n");
        tree.write(
            "proc/1/mountinfo",
            "1 2 3:4 / /odd/one rw - cgroup cgroup rw,cpu,cpuacct\n\
             1 2 3:5 / /odd/two rw - cgroup2 cgroup2 rw,nsdelegate\n\
             1 2 3:6 / /odd/three rw - cgroup systemd rw,xattr,name=systemd\n",
        );
        let layout = Layout::find(&tree.roots()).unwrap();
        assert_eq!(layout.version, CgroupVersion::Hybrid);
        assert_eq!(layout.controllers, ["cpu", "cpuacct"]);
        assert_eq!(
            dir_and_version(&layout, CgroupController::Cpu),
            Some(("one".to_owned(), InterfaceVersion::V1))
        );
        assert!(layout.hierarchies[layout.primary].path.ends_with("odd/one"));
    }

    #[test]
    fn host_without_cgroups_is_not_an_error() {
        let tree = TempTree::new("none");
        tree.write("sys/fs/cgroup/other/x", "");
        let error = Layout::find(&tree.roots()).unwrap_err();
        assert!(error.is_gone(), "{error}");
    }
}
