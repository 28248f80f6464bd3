//! Mounted filesystems from `/proc/1/mountinfo`, documented in `proc_pid_mountinfo(5)`, and their
//! usage from statfs(2).
//!
//! A mount that does not respond costs its timeout once. Until it responds, it is reported as
//! timed out without another call. Mounts hidden by another mount on the same path are excluded,
//! because statfs would return the values of the other mount.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    family::Families,
    sources::{Mount, MountPath, Snapshot, Statfs, StatfsResult},
};

/// Regular expression for types of filesystems without files or without a meaningful size.
pub(super) const FS_TYPES_EXCLUDE: &str = "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|\
    fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|\
    selinuxfs|squashfs|erofs|sysfs|tracefs)$";
/// Part of a scrape's time reserved for the work after the statfs calls.
const STATFS_MARGIN: Duration = Duration::from_millis(250);

/// Queries the usage of selected mounts, which have labels `L`.
#[derive(Debug)]
pub(super) struct MountUsage<L> {
    labels: fn(Mount<'_>) -> L,
    statfs: Statfs,
    /// Mounts of the last scrape; they rarely change between scrapes.
    cache: Mutex<Option<CachedMounts<L>>>,
}

/// The selected mounts of a mountinfo file.
#[derive(Debug)]
struct CachedMounts<L> {
    mountinfo: Vec<u8>,
    selected: SelectedMounts<L>,
}

/// Labels of the mounts, and their paths in the same order.
type SelectedMounts<L> = (Arc<[L]>, Arc<[MountPath]>);

impl<L> MountUsage<L> {
    /// A mount that does not respond is abandoned after `timeout`.
    pub(super) fn new(timeout: Duration, labels: fn(Mount<'_>) -> L) -> Self {
        Self {
            labels,
            statfs: Statfs::new(timeout),
            cache: Mutex::default(),
        }
    }

    /// Queries the mounts for which `include` returns true. The selection is cached, so `include`
    /// must return the same while mountinfo is unchanged. Returns the labels, and the results in
    /// the same order. Malformed lines of mountinfo are recorded as errors.
    pub(super) fn query(
        &self,
        snapshot: &Snapshot,
        out: &mut Families,
        include: impl FnMut(&Mount<'_>) -> bool,
    ) -> Result<(Arc<[L]>, Vec<StatfsResult>)> {
        let (labels, paths) = self.select(snapshot, out, include)?;
        let results = self
            .statfs
            .query(&paths, statfs_deadline(snapshot.deadline()));
        Ok((labels, results))
    }

    fn select(
        &self,
        snapshot: &Snapshot,
        out: &mut Families,
        mut include: impl FnMut(&Mount<'_>) -> bool,
    ) -> Result<SelectedMounts<L>> {
        let mounts = snapshot.mounts()?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.as_ref();
        if let Some(cached) = cached.filter(|cached| cached.mountinfo == mounts.bytes()) {
            let (labels, paths) = &cached.selected;
            return Ok((Arc::clone(labels), Arc::clone(paths)));
        }
        let (skipped, _) = out.errors();
        let all: Vec<_> = mounts.mounts().filter_map(|m| out.ok_or_skip(m)).collect();
        let (labels, paths): (Vec<_>, Vec<_>) = visible_mounts(&snapshot.roots().rootfs, all)
            .into_iter()
            .filter(|mount| include(mount))
            .map(|mount| {
                let path = MountPath {
                    mount: mount.id,
                    path: snapshot.root_path(&mount.mount_point),
                };
                ((self.labels)(mount), path)
            })
            .unzip();
        let (labels, paths): SelectedMounts<L> = (labels.into(), paths.into());
        // Not cached after an error, so that each scrape counts it.
        *cache = (out.errors().0 == skipped).then(|| CachedMounts {
            mountinfo: mounts.bytes().to_vec(),
            selected: (Arc::clone(&labels), Arc::clone(&paths)),
        });
        Ok((labels, paths))
    }
}

/// Deadline before the end of the scrape: partial results are useful only in time.
fn statfs_deadline(deadline: Instant) -> Instant {
    let now = Instant::now();
    let remaining = deadline.saturating_duration_since(now);
    now + (remaining * 3 / 4).max(remaining.saturating_sub(STATFS_MARGIN))
}

/// Returns the mounts that are not hidden by others, with mount points as seen by the host: of
/// mounts on the same path the last, unless it was mounted below the others.
fn visible_mounts<'a>(rootfs: &Path, all: Vec<Mount<'a>>) -> Vec<Mount<'a>> {
    let mut at: HashMap<PathBuf, usize> = HashMap::with_capacity(all.len());
    let mut visible: Vec<Option<Mount<'a>>> = Vec::with_capacity(all.len());
    for mut mount in all {
        mount.mount_point = strip_rootfs(rootfs, &mount.mount_point);
        let before = at.insert(mount.mount_point.clone(), visible.len());
        if let Some(before) = before
            && let Some(hidden) = visible.get_mut(before)
        {
            if hidden
                .as_ref()
                .is_some_and(|below| below.parent_id == mount.id)
            {
                at.insert(mount.mount_point, before);
                continue;
            }
            *hidden = None;
        }
        visible.push(Some(mount));
    }
    visible.into_iter().flatten().collect()
}

/// Strips the directory on which the host's root is mounted from a mount point.
fn strip_rootfs(rootfs: &Path, point: &Path) -> PathBuf {
    match point.strip_prefix(rootfs) {
        Ok(point) => Path::new("/").join(point),
        Err(_) => point.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing;

    fn mount(id: u64, parent: u64, point: &str) -> Mount<'static> {
        Mount {
            id,
            parent_id: parent,
            major: 8,
            minor: 1,
            mount_point: point.into(),
            fs_type: "ext4".into(),
            source: format!("/dev/{id}").into(),
            read_only: false,
            options: "".into(),
        }
    }

    fn visible(rootfs: &str, all: Vec<Mount<'static>>) -> Vec<(u64, String)> {
        let mounts = visible_mounts(Path::new(rootfs), all).into_iter();
        mounts
            .map(|m| (m.id, m.mount_point.display().to_string()))
            .collect()
    }

    #[test]
    fn only_topmost_mount_of_a_path_is_queried() {
        let stacked = vec![
            mount(1, 0, "/"),
            mount(2, 1, "/a"),
            mount(3, 2, "/a"),
            mount(4, 1, "/b"),
        ];
        assert_eq!(
            visible("/", stacked),
            [(1, "/".into()), (3, "/a".into()), (4, "/b".into())]
        );
        let mounted_below = vec![mount(2, 5, "/a"), mount(5, 1, "/a"), mount(6, 2, "/a")];
        assert_eq!(visible("/", mounted_below), [(6, "/a".into())]);
    }

    #[test]
    fn rootfs_prefix_is_stripped_from_mount_points() {
        let all = ["/host", "/host/boot", "/hostile", "/etc"];
        let all = (1..)
            .zip(all)
            .map(|(id, point)| mount(id, 0, point))
            .collect();
        let points: Vec<_> = visible("/host", all)
            .into_iter()
            .map(|(_, point)| point)
            .collect();
        assert_eq!(points, ["/", "/boot", "/hostile", "/etc"]);
    }

    #[test]
    fn mounts_are_reselected_after_change_or_read_error() {
        let machine = testing::MachineFixture::new("mounted");
        let scrape = machine.snapshots();
        let mounted = MountUsage::new(Duration::from_secs(5), |mount| mount.source.into_owned());
        // Devices with a result, the number of mounts checked by the filter, and the errors.
        let query = |list: &str| {
            machine.write("proc/1/mountinfo", list);
            let mut out = Families::default();
            let mut filter_calls = 0;
            let (devices, results) = mounted
                .query(&scrape(), &mut out, |mount| {
                    filter_calls += 1;
                    mount.fs_type == "ext4"
                })
                .unwrap();
            let results = devices.iter().zip(results);
            let space = results.filter(|(_, result)| matches!(result, StatfsResult::Space(_)));
            let devices: Vec<_> = space.map(|(device, _)| device.clone()).collect();
            (devices.join(" "), filter_calls, out.errors().0)
        };
        let one = "1 0 8:1 / / rw - ext4 one rw\n2 1 0:5 / /a rw - nfs two rw\n";
        assert_eq!(query(one), ("one".to_owned(), 2, 0));
        assert_eq!(query(one), ("one".to_owned(), 0, 0));
        let other = "1 0 8:1 / / rw - ext4 other rw\ndamaged\n";
        assert_eq!(query(other), ("other".to_owned(), 1, 1));
        assert_eq!(query(other), ("other".to_owned(), 1, 1));
    }
}
