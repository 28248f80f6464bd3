//! What is kept of groups from scrape to scrape.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::sources::cgroup::Group;

/// Something of each group. It goes with the group: of one that was made anew under the
/// same name nothing is kept.
#[derive(Debug)]
pub(super) struct PerGroup<T>(HashMap<usize, Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    /// While this is held, no other group is in its place, by which it is known.
    _group: Weak<Group>,
    was_asked_for: bool,
    value: T,
}

impl<T> Default for PerGroup<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Default> PerGroup<T> {
    /// What is kept of this one.
    pub(super) fn of(&mut self, group: &Arc<Group>) -> &mut T {
        let kept = self.0.entry(Arc::as_ptr(group).addr());
        let kept = kept.or_insert_with(|| Kept {
            _group: Arc::downgrade(group),
            was_asked_for: true,
            value: T::default(),
        });
        kept.was_asked_for = true;
        &mut kept.value
    }

    /// Begins a scrape.
    pub(super) fn begin(&mut self) {
        for kept in self.0.values_mut() {
            kept.was_asked_for = false;
        }
    }

    /// Forgets the groups that were not asked for since the scrape began.
    pub(super) fn forget_others(&mut self) {
        self.0.retain(|_, kept| kept.was_asked_for);
    }

    /// What is kept of all.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|kept| &kept.value)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::collectors::testing::Machine;

    #[test]
    fn what_is_kept_goes_with_the_group() {
        let machine = Machine::new("container-processes-kept");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/a/cgroup.procs", "");
        let scrapes = machine.scrapes();
        let group = || {
            let groups = scrapes().cgroups().walk(|path| path == "/a").unwrap();
            Arc::clone(groups.first().unwrap())
        };
        let mut kept = PerGroup::<u32>::default();
        *kept.of(&group()) = 7;
        kept.begin();
        assert_eq!(*kept.of(&group()), 7);
        let dir = scrapes().roots().sysfs.join("fs/cgroup/a");
        // Made before the other is gone, so that it cannot have its number.
        fs::create_dir(dir.with_file_name("b")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(dir.with_file_name("b"), &dir).unwrap();
        assert_eq!(*kept.of(&group()), 0);
        assert_eq!(kept.values().count(), 2);
        kept.begin();
        kept.of(&group());
        kept.forget_others();
        assert_eq!(kept.values().count(), 1);
        kept.begin();
        kept.forget_others();
        assert_eq!(kept.values().count(), 0);
    }
}
