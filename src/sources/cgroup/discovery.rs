//! Discovers cgroups by walking the directories of one hierarchy.
//!
//! A directory with a link count of 2 has no subdirectories and is not opened, which saves two
//! thirds of the cost of a walk.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir},
    io::Errno,
};

use super::{Cgroup, DiscoveredCgroups, layout::Hierarchy};
use crate::error::{Error, Result};

/// Deeper cgroups are left out.
const MAX_DEPTH: usize = 32;
/// Maximum number of cgroups; beyond it the deepest ones are left out.
pub(super) const MAX_GROUPS: usize = 100_000;
/// Buffer size of one read of a directory.
const BUFFER: usize = 32 << 10;

/// A directory to be walked: its path without a trailing slash.
struct PendingDir {
    path: String,
    depth: usize,
}

impl DiscoveredCgroups {
    /// Returns the cgroups that pass the filter, sorted, and whether some were left out.
    pub(super) fn walk(
        &mut self,
        filter: &impl Fn(&str) -> bool,
    ) -> Result<(Vec<Arc<Cgroup>>, bool)> {
        self.walk_count = self.walk_count.wrapping_add(1);
        self.shared.reset_block_io_detection();
        self.shared.watcher.drain_events();
        let shared = Arc::clone(&self.shared);
        let layout = &shared.layout;
        let Some(hierarchy) = layout.hierarchies.get(layout.primary) else {
            return Ok((Vec::new(), false));
        };
        let mut groups = Vec::with_capacity(self.groups.len());
        if filter("/") {
            groups.push(self.get_or_create("/", hierarchy.inode));
        }
        let is_partial = walk_descendants(hierarchy, |path, inode| {
            if filter(path) {
                groups.push(self.get_or_create(path, inode));
            }
        })?;
        if self.groups.len() > groups.len() {
            let walk = self.walk_count;
            let is_seen = |group: &Cgroup| group.last_walk.load(Relaxed) == walk;
            self.groups.retain(|_, group| is_seen(group));
        }
        groups.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok((groups, is_partial))
    }

    /// Returns the cached cgroup with this path if it still has this inode, else a new one.
    fn get_or_create(&mut self, path: &str, inode: u64) -> Arc<Cgroup> {
        let cached = self.groups.get(path);
        let cached = cached.filter(|group| group.inode == inode && !group.is_stale());
        let group = if let Some(group) = cached {
            Arc::clone(group)
        } else {
            let group = Arc::new(self.shared.new_cgroup(path, inode));
            // Replacing the value would keep the old key, which belongs to the old cgroup.
            self.groups.remove(path);
            self.groups
                .insert(Arc::clone(&group.path), Arc::clone(&group));
            group
        };
        group.last_walk.store(self.walk_count, Relaxed);
        group
    }
}

/// Calls `visit` for all cgroups but the root, with path and inode number. Returns whether some
/// were left out.
pub(super) fn walk_descendants(
    hierarchy: &Hierarchy,
    mut visit: impl FnMut(&str, u64),
) -> Result<bool> {
    let mut parents = VecDeque::from([PendingDir {
        path: String::new(),
        depth: 0,
    }]);
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut visited = 0;
    // Breadth first, so that a deep tree cannot displace shallow cgroups.
    'all: while let Some(parent) = parents.pop_front() {
        let path = parent.path.strip_prefix('/').unwrap_or(".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(&hierarchy.fd, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(errno) if parent.depth == 0 => return Err(Error::io(&hierarchy.path, errno)),
            // It was removed, or permission is denied.
            Err(_) => continue,
        };
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        let mut path = parent.path;
        let len = path.len();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                Err(_) => break,
            };
            let kind = entry.file_type();
            if !matches!(kind, FileType::Directory | FileType::Unknown) {
                continue;
            }
            let name = match entry.file_name().to_str() {
                Ok(name) if name != "." && name != ".." => name,
                _ => continue,
            };
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let Ok(stat) = rustix::fs::statat(&dir, entry.file_name(), flags) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            visited += 1;
            if visited > MAX_GROUPS {
                break 'all;
            }
            path.truncate(len);
            path.push('/');
            path.push_str(name);
            visit(&path, stat.st_ino);
            // Some ordinary file systems do not count links and report 1.
            if stat.st_nlink != 2 && parent.depth < MAX_DEPTH {
                parents.push_back(PendingDir {
                    path: path.clone(),
                    depth: parent.depth + 1,
                });
            }
        }
    }
    Ok(visited > MAX_GROUPS)
}
