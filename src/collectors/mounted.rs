//! Which file systems are mounted, and how full they are: `/proc/1/mountinfo` says what
//! is mounted, documented in `proc_pid_mountinfo(5)`, and statfs(2) how full it is.
//!
//! A mount that does not answer costs its timeout once. From then on it counts as one
//! that does not answer, without being asked again, until it is back. A mount that
//! another one was mounted over is left out: asking about its path would give the other
//! one's numbers.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    family::Families,
    sources::{Answer, Mount, Place, Snapshot, Statfs},
};

/// Types of file systems that hold no files, or whose size says nothing: a regular
/// expression.
pub(super) const NO_FILE_SYSTEMS: &str = "^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|\
    fusectl|hugetlbfs|iso9660|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|\
    selinuxfs|squashfs|erofs|sysfs|tracefs)$";
/// What is left of a scrape's time for everything after the asking.
const MARGIN: Duration = Duration::from_millis(250);

/// Asks some of the mounts how full they are, each under labels `L`.
#[derive(Debug)]
pub(super) struct Mounted<L> {
    labels: fn(Mount<'_>) -> L,
    statfs: Statfs,
    /// What the last scrape found. Mounts seldom change between two.
    known: Mutex<Option<Known<L>>>,
}

/// The mounts that a mountinfo file lists and that are wanted.
#[derive(Debug)]
struct Known<L> {
    mountinfo: Vec<u8>,
    wanted: Wanted<L>,
}

/// The labels of the mounts, and in the same order where to ask about them.
type Wanted<L> = (Arc<[L]>, Arc<[Place]>);

impl<L> Mounted<L> {
    /// Those that do not answer are given up after `timeout`.
    pub(super) fn new(timeout: Duration, labels: fn(Mount<'_>) -> L) -> Self {
        Self {
            labels,
            statfs: Statfs::new(timeout),
            known: Mutex::default(),
        }
    }

    /// Asks those that are wanted, which must be the same ones for as long as the same
    /// is mounted: their labels, and in the same order what came of it. What cannot be
    /// read of the list is noted.
    pub(super) fn ask(
        &self,
        machine: &Snapshot,
        out: &mut Families,
        wants: impl FnMut(&Mount<'_>) -> bool,
    ) -> Result<(Arc<[L]>, Vec<Answer>)> {
        let (labels, places) = self.wanted(machine, out, wants)?;
        let answers = self.statfs.ask(&places, give_up_at(machine.deadline()));
        Ok((labels, answers))
    }

    fn wanted(
        &self,
        machine: &Snapshot,
        out: &mut Families,
        mut wants: impl FnMut(&Mount<'_>) -> bool,
    ) -> Result<Wanted<L>> {
        let mounts = machine.mounts()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.as_ref();
        if let Some(same) = same.filter(|known| known.mountinfo == mounts.bytes()) {
            let (labels, places) = &same.wanted;
            return Ok((Arc::clone(labels), Arc::clone(places)));
        }
        let (skipped, _) = out.skipped();
        let all: Vec<_> = mounts.mounts().filter_map(|m| out.keep(m)).collect();
        let (labels, places): (Vec<_>, Vec<_>) = uppermost(&machine.roots().rootfs, all)
            .into_iter()
            .filter(|mount| wants(mount))
            .map(|mount| {
                let place = Place {
                    mount: mount.id,
                    path: machine.root_path(&mount.point),
                };
                ((self.labels)(mount), place)
            })
            .unzip();
        let (labels, places): Wanted<L> = (labels.into(), places.into());
        // What could not be read is to be counted with each scrape.
        *known = (out.skipped().0 == skipped).then(|| Known {
            mountinfo: mounts.bytes().to_vec(),
            wanted: (Arc::clone(&labels), Arc::clone(&places)),
        });
        Ok((labels, places))
    }
}

/// Before the scrape is over: partial answers are of use only if they are in time.
fn give_up_at(deadline: Instant) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    now + (left * 3 / 4).max(left.saturating_sub(MARGIN))
}

/// The mounts that can be reached, each with its mount point as the host sees it.
///
/// Of mounts on the same path that is the last, unless it was put beneath.
fn uppermost<'a>(rootfs: &Path, all: Vec<Mount<'a>>) -> Vec<Mount<'a>> {
    let mut at: HashMap<PathBuf, usize> = HashMap::with_capacity(all.len());
    let mut kept: Vec<Option<Mount<'a>>> = Vec::with_capacity(all.len());
    for mut mount in all {
        mount.point = without(rootfs, &mount.point);
        let before = at.insert(mount.point.clone(), kept.len());
        if let Some(before) = before
            && let Some(place) = kept.get_mut(before)
        {
            if place.as_ref().is_some_and(|below| below.parent == mount.id) {
                at.insert(mount.point, before);
                continue;
            }
            *place = None;
        }
        kept.push(Some(mount));
    }
    kept.into_iter().flatten().collect()
}

/// A mount point without the directory under which the host's root is mounted.
fn without(rootfs: &Path, point: &Path) -> PathBuf {
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
            parent,
            major: 8,
            minor: 1,
            point: point.into(),
            kind: "ext4".into(),
            source: format!("/dev/{id}").into(),
            read_only: false,
            options: "".into(),
        }
    }

    fn kept(rootfs: &str, all: Vec<Mount<'static>>) -> Vec<(u64, String)> {
        let mounts = uppermost(Path::new(rootfs), all).into_iter();
        mounts
            .map(|m| (m.id, m.point.display().to_string()))
            .collect()
    }

    #[test]
    fn of_mounts_on_the_same_path_only_the_uppermost_can_be_asked() {
        let over = vec![
            mount(1, 0, "/"),
            mount(2, 1, "/a"),
            mount(3, 2, "/a"),
            mount(4, 1, "/b"),
        ];
        assert_eq!(
            kept("/", over),
            [(1, "/".into()), (3, "/a".into()), (4, "/b".into())]
        );
        let beneath = vec![mount(2, 5, "/a"), mount(5, 1, "/a"), mount(6, 2, "/a")];
        assert_eq!(kept("/", beneath), [(6, "/a".into())]);
    }

    #[test]
    fn the_directory_of_the_hosts_root_is_no_part_of_a_mount_point() {
        let all = ["/host", "/host/boot", "/hostile", "/etc"];
        let all = (1..)
            .zip(all)
            .map(|(id, point)| mount(id, 0, point))
            .collect();
        let points: Vec<_> = kept("/host", all)
            .into_iter()
            .map(|(_, point)| point)
            .collect();
        assert_eq!(points, ["/", "/boot", "/hostile", "/etc"]);
    }

    #[test]
    fn mounts_are_chosen_anew_only_when_they_changed_or_could_not_all_be_read() {
        let machine = testing::Machine::new("mounted");
        let scrape = machine.scrapes();
        let mounted = Mounted::new(Duration::from_secs(5), |mount| mount.source.into_owned());
        // What is wanted and answers, what was looked at for that, and what was skipped.
        let ask = |list: &str| {
            machine.write("proc/1/mountinfo", list);
            let mut out = Families::default();
            let mut looked = 0;
            let (devices, answers) = mounted
                .ask(&scrape(), &mut out, |mount| {
                    looked += 1;
                    mount.kind == "ext4"
                })
                .unwrap();
            let answers = devices.iter().zip(answers);
            let space = answers.filter(|(_, answer)| matches!(answer, Answer::Space(_)));
            let devices: Vec<_> = space.map(|(device, _)| device.clone()).collect();
            (devices.join(" "), looked, out.skipped().0)
        };
        let one = "1 0 8:1 / / rw - ext4 one rw\n2 1 0:5 / /a rw - nfs two rw\n";
        assert_eq!(ask(one), ("one".to_owned(), 2, 0));
        assert_eq!(ask(one), ("one".to_owned(), 0, 0));
        let other = "1 0 8:1 / / rw - ext4 other rw\ndamaged\n";
        assert_eq!(ask(other), ("other".to_owned(), 1, 1));
        assert_eq!(ask(other), ("other".to_owned(), 1, 1));
    }
}
