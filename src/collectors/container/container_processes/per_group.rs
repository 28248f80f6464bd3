//! State of cgroups that persists between scrapes.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::sources::cgroup::Cgroup;

/// A value for each cgroup, dropped with the cgroup: one recreated under the same name starts with
/// the default.
#[derive(Debug)]
pub(super) struct PerGroup<T>(HashMap<usize, PerGroupEntry<T>>);

#[derive(Debug)]
struct PerGroupEntry<T> {
    /// Keeps the allocation, so that no other cgroup gets its address, which is the key.
    _group: Weak<Cgroup>,
    is_used: bool,
    value: T,
}

impl<T> Default for PerGroup<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Default> PerGroup<T> {
    /// The value of this cgroup, created if missing.
    pub(super) fn get_or_default(&mut self, group: &Arc<Cgroup>) -> &mut T {
        let entry = self.0.entry(Arc::as_ptr(group).addr());
        let entry = entry.or_insert_with(|| PerGroupEntry {
            _group: Arc::downgrade(group),
            is_used: true,
            value: T::default(),
        });
        entry.is_used = true;
        &mut entry.value
    }

    /// Marks all entries as unused.
    pub(super) fn begin_scrape(&mut self) {
        for entry in self.0.values_mut() {
            entry.is_used = false;
        }
    }

    /// Removes the cgroups that were not used since the scrape began.
    pub(super) fn remove_unused(&mut self) {
        self.0.retain(|_, entry| entry.is_used);
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::collectors::testing::MachineFixture;

    #[test]
    fn value_is_dropped_with_its_group() {
        let machine = MachineFixture::new("container-processes-per-group");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/a/cgroup.procs", "");
        let scrapes = machine.snapshots();
        let group = || {
            let groups = scrapes().cgroups().walk(|path| path == "/a").unwrap();
            Arc::clone(groups.first().unwrap())
        };
        let mut per_group = PerGroup::<u32>::default();
        *per_group.get_or_default(&group()) = 7;
        per_group.begin_scrape();
        assert_eq!(*per_group.get_or_default(&group()), 7);
        let dir = scrapes().roots().sysfs.join("fs/cgroup/a");
        // Created before the other is removed, so that it cannot reuse the inode number.
        fs::create_dir(dir.with_file_name("b")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(dir.with_file_name("b"), &dir).unwrap();
        assert_eq!(*per_group.get_or_default(&group()), 0);
        assert_eq!(per_group.values().count(), 2);
        per_group.begin_scrape();
        per_group.get_or_default(&group());
        per_group.remove_unused();
        assert_eq!(per_group.values().count(), 1);
        per_group.begin_scrape();
        per_group.remove_unused();
        assert_eq!(per_group.values().count(), 0);
    }
}
