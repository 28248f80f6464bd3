//! What the kernel counts of virtual machines, by their control groups, QEMU's threads and
//! the host's network interfaces.
//!
//! libvirt could be asked instead, and would say what it reads here. But for CPUs it would
//! ask each guest's monitor all over again, for nothing; and for each interface it would
//! read the counters of all. It is asked where this finds nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Snapshot,
    cgroup::{Group, and_above},
    libvirt::{Counted, CpuTimes, Runs, Vcpu},
    processes::{NetworkNamespace, Process},
    workloads::{Guest, Seen},
};
use crate::error::Result;

/// How long a guest whose process was not found is not looked for again. It is dear, and
/// some have none that says which threads are its CPUs.
const PAUSE: Duration = Duration::from_secs(300);

/// The processes of virtual machines, kept from scrape to scrape.
#[derive(Debug, Default)]
pub(super) struct Guests {
    kept: Mutex<HashMap<String, Kept>>,
}

/// What is known of the process of a run.
#[derive(Debug)]
struct Kept {
    /// libvirt's number for the run.
    id: u32,
    looked: Instant,
    qemu: Option<Qemu>,
}

/// A process, whose threads have names.
#[derive(Debug)]
struct Qemu {
    process: Process,
    network: NetworkNamespace,
    /// The virtual CPU that each thread is, if it is one.
    threads: BTreeMap<u32, Option<u32>>,
}

/// A virtual machine that is to be counted.
struct Wanted<'a> {
    uuid: &'a str,
    guest: &'a Guest,
    group: &'a Group,
}

impl Guests {
    /// What was counted of those that libvirt told of, by UUID.
    pub(super) fn look(&self, machine: &Snapshot, seen: &Seen) -> Runs {
        let wanted = seen.present().filter_map(|(workload, group)| {
            let guest = workload.guest.as_ref()?;
            let uuid = guest.uuid.as_deref()?;
            Some((workload.path.as_str(), Wanted { uuid, guest, group }))
        });
        let wanted: HashMap<&str, Wanted<'_>> = wanted.collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let runs: HashMap<_, _> = wanted.values().map(|it| (it.uuid, it.guest.id)).collect();
        kept.retain(|uuid, it| runs.get(uuid.as_str()) == Some(&it.id));
        find(&mut kept, machine, &wanted);
        let counts_wait = counts_wait(machine);
        let mut networks = HashMap::new();
        let counted = wanted.values().map(|wanted| {
            let mut qemu = kept.get_mut(wanted.uuid).and_then(|it| it.qemu.as_mut());
            let vcpus = qemu.as_mut().map(|qemu| qemu.vcpus(counts_wait));
            // Mostly one sees what all see.
            let links = qemu.and_then(|qemu| {
                let links = networks.entry(qemu.network);
                let links = links.or_insert_with(|| qemu.process.links().ok().map(Arc::new));
                links.clone()
            });
            let counted = Counted {
                id: wanted.guest.id,
                started: wanted.group.made().ok(),
                cpu: cpu(wanted.group),
                vcpus: vcpus.and_then(Result::ok).filter(|it| !it.is_empty()),
                links,
            };
            (wanted.uuid.to_owned(), counted)
        });
        counted.collect()
    }
}

/// Looks for the processes of those that none is known of.
fn find(kept: &mut HashMap<String, Kept>, machine: &Snapshot, wanted: &HashMap<&str, Wanted<'_>>) {
    let now = Instant::now();
    let is_due = |it: &Kept| it.qemu.is_none() && now.duration_since(it.looked) >= PAUSE;
    let missing = |uuid: &str| kept.get(uuid).is_none_or(is_due);
    let room = machine.max_kept_processes().saturating_sub(kept.len());
    let missing = wanted.iter().filter(|(_, it)| missing(it.uuid)).take(room);
    let missing: HashMap<&str, &Wanted<'_>> = missing.map(|(path, it)| (*path, it)).collect();
    if missing.is_empty() {
        return;
    }
    for it in missing.values() {
        let run = Kept {
            id: it.guest.id,
            looked: now,
            qemu: None,
        };
        kept.insert(it.uuid.to_owned(), run);
    }
    let of = |path: &str| and_above(path).find_map(|path| missing.get(path).copied());
    let walked = machine.cgroups().processes(
        |path| of(path).is_some(),
        |path, pids| {
            let run = of(path).and_then(|it| kept.get_mut(it.uuid));
            let (Some(run), Ok(pids)) = (run, pids) else {
                return;
            };
            // Others help it: with a TPM, a file system, a network.
            let qemu = pids
                .into_iter()
                .filter_map(|pid| Qemu::of(machine, pid).ok());
            run.qemu = run.qemu.take().or_else(|| qemu.flatten().next());
        },
    );
    // libvirt is asked about those that were not found.
    walked.ok();
}

impl Qemu {
    /// The process of this number, if its threads are virtual CPUs, and are counted.
    fn of(machine: &Snapshot, pid: u32) -> Result<Option<Self>> {
        let process = machine.process(pid)?;
        let mut qemu = Self {
            network: process.network_namespace()?,
            process,
            threads: BTreeMap::new(),
        };
        qemu.see_threads()?;
        for tid in qemu.vcpu_threads() {
            if qemu.process.thread_schedstat(tid)?.periods == 0 {
                return Ok(None);
            }
        }
        let has_vcpus = qemu.vcpu_threads().next().is_some();
        Ok(has_vcpus.then_some(qemu))
    }

    /// Threads come and go: those of virtual CPUs as these are plugged in and out, others
    /// for a moment's work.
    fn see_threads(&mut self) -> Result<()> {
        let threads = self.process.threads()?;
        let mut known = std::mem::take(&mut self.threads);
        for tid in threads {
            let vcpu = match known.remove(&tid) {
                Some(vcpu) => vcpu,
                None => match self.process.thread_name(tid) {
                    Ok(name) => vcpu(&name),
                    Err(error) if error.is_vanished() => continue,
                    Err(error) => return Err(error),
                },
            };
            self.threads.insert(tid, vcpu);
        }
        Ok(())
    }

    fn vcpu_threads(&self) -> impl Iterator<Item = u32> {
        let threads = self.threads.iter();
        threads.filter_map(|(tid, vcpu)| vcpu.map(|_| *tid))
    }

    /// The virtual CPUs that are plugged in, by number.
    fn vcpus(&mut self, counts_wait: bool) -> Result<Vec<Vcpu>> {
        self.see_threads()?;
        let mut vcpus = Vec::new();
        for (tid, vcpu) in &self.threads {
            let Some(number) = *vcpu else {
                continue;
            };
            let stat = match self.process.thread_schedstat(*tid) {
                Ok(stat) => stat,
                Err(error) if error.is_vanished() => continue,
                Err(error) => return Err(error),
            };
            let wait = counts_wait.then(|| self.process.thread_wait(*tid).ok());
            vcpus.push(Vcpu {
                number,
                // What libvirt says of every one that is plugged in.
                state: Some(1),
                time: Some(stat.run),
                wait: wait.flatten(),
                delay: Some(stat.waited),
                cpu: self.process.thread_cpu(*tid).ok(),
                kvm: Vec::new(),
            });
        }
        vcpus.sort_by_key(|vcpu| vcpu.number);
        Ok(vcpus)
    }
}

/// `CPU 3/KVM`: QEMU calls its threads so if libvirt started it.
fn vcpu(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("CPU ")?.split_once('/')?;
    number.parse().ok()
}

/// What libvirt would say: all three are from there, too.
fn cpu(group: &Group) -> Option<CpuTimes> {
    let cpu = group.cpu().ok()?;
    let times = CpuTimes {
        time: cpu.usage,
        user: cpu.user,
        system: cpu.system,
    };
    (times.time.is_some() && times.user.is_some() && times.system.is_some()).then_some(times)
}

/// Whether the kernel counts how long threads wait.
fn counts_wait(machine: &Snapshot) -> bool {
    let schedstats = machine.proc("sys/kernel/sched_schedstats");
    schedstats.is_ok_and(|text| text.body().trim() == "1")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::{LinkTraffic, cgroup::testing::Tree, libvirt::Running};

    const GROUP: &str = "sys/fs/cgroup/machine/qemu-7-web.libvirt-qemu";
    const UUID: &str = "5a0877b8-bef9-4f1b-953c-90760c196fdc";

    /// A machine with one guest, in whose group a helper and QEMU run.
    fn machine(name: &str) -> Tree {
        let tree = Tree::new(&format!("guests-{name}"));
        tree.write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
        let times = "usage_usec 30\nuser_usec 20\nsystem_usec 10\n";
        tree.write(&format!("{GROUP}/cpu.stat"), times);
        tree.write(&format!("{GROUP}/cgroup.procs"), "");
        tree.write(&format!("{GROUP}/emulator/cgroup.procs"), "40\n41\n");
        thread(&tree, 40, 40, "swtpm", "1 2 3\n");
        thread(&tree, 41, 41, "qemu-system-x86", "1 2 3\n");
        thread(&tree, 41, 42, "CPU 1/KVM", "500 60 7\n");
        thread(&tree, 41, 43, "CPU 0/KVM", "400 50 7\n");
        let links = "\n\n vnet0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        tree.write("proc/40/net/dev", links);
        tree.write("proc/41/net/dev", links);
        tree
    }

    fn thread(tree: &Tree, pid: u32, tid: u32, name: &str, schedstat: &str) {
        let task = format!("proc/{pid}/task/{tid}");
        tree.write(&format!("{task}/comm"), &format!("{name}\n"));
        tree.write(&format!("{task}/schedstat"), schedstat);
        let stat = format!("{tid} ({name}) S {}6\n", "1 ".repeat(35));
        tree.write(&format!("{task}/stat"), &stat);
    }

    fn look(guests: &Guests, tree: &Tree, id: u32) -> Option<Counted> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let snapshot = Snapshot::begin(tree.roots().into(), deadline);
        let machine = &snapshot.machine;
        let running = Running {
            id,
            name: "web".to_owned(),
            uuid: UUID.to_owned(),
        };
        let seen = machine.workloads.look(
            &machine.roots,
            &machine.cgroups,
            &machine.engines,
            &[running],
        );
        guests.look(&snapshot, &seen.unwrap()).remove(UUID)
    }

    fn vcpu(number: u32, [time, delay]: [u64; 2]) -> Vcpu {
        Vcpu {
            number,
            state: Some(1),
            time: Some(Duration::from_nanos(time)),
            delay: Some(Duration::from_nanos(delay)),
            cpu: Some(6),
            ..Vcpu::default()
        }
    }

    #[test]
    fn a_guest_is_counted_by_its_group_and_the_threads_of_its_qemu() {
        let tree = machine("counted");
        let counted = look(&Guests::default(), &tree, 7).unwrap();
        let times = CpuTimes {
            time: Some(Duration::from_micros(30)),
            user: Some(Duration::from_micros(20)),
            system: Some(Duration::from_micros(10)),
        };
        assert_eq!((counted.id, counted.cpu), (7, Some(times)));
        assert!(counted.started.is_some());
        let vcpus = vec![vcpu(0, [400, 50]), vcpu(1, [500, 60])];
        assert_eq!(counted.vcpus, Some(vcpus));
        let link = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        let links = HashMap::from([("vnet0".to_owned(), link)]);
        assert_eq!(*counted.links.unwrap(), links);
        // Another run, that this group is not of.
        assert_eq!(look(&Guests::default(), &tree, 8), None);
    }

    #[test]
    fn virtual_cpus_are_plugged_in_and_out_while_helpers_come_and_go() {
        let (tree, guests) = (machine("plugged"), Guests::default());
        look(&guests, &tree, 7);
        thread(&tree, 41, 44, "CPU 2/KVM", "5 6 7\n");
        thread(&tree, 41, 45, "worker", "5 6 7\n");
        fs::remove_dir_all(tree.path("proc/41/task/42")).unwrap();
        let vcpus = look(&guests, &tree, 7).unwrap().vcpus;
        assert_eq!(vcpus, Some(vec![vcpu(0, [400, 50]), vcpu(2, [5, 6])]));
    }

    #[test]
    fn libvirt_is_left_what_the_kernel_does_not_say() {
        // A kernel that does not count.
        let tree = machine("uncounted");
        thread(&tree, 41, 43, "CPU 0/KVM", "0 0 0\n");
        let counted = look(&Guests::default(), &tree, 7).unwrap();
        assert!(counted.cpu.is_some() && counted.vcpus.is_none());
        // Virtual CPUs that share one thread, and modes that are not told apart.
        let tree = machine("shared");
        thread(&tree, 41, 42, "ALL CPUs/TCG", "500 60 7\n");
        thread(&tree, 41, 43, "IO mon_iothread", "500 60 7\n");
        tree.write(&format!("{GROUP}/cpu.stat"), "usage_usec 30\n");
        let counted = look(&Guests::default(), &tree, 7).unwrap();
        assert_eq!((counted.cpu, counted.vcpus), (None, None));
        // A QEMU that is gone.
        let (tree, guests) = (machine("gone"), Guests::default());
        look(&guests, &tree, 7);
        fs::remove_dir_all(tree.path("proc/41")).unwrap();
        let counted = look(&guests, &tree, 7).unwrap();
        assert_eq!((counted.vcpus, counted.links), (None, None));
    }

    #[test]
    fn waits_are_told_where_the_kernel_counts_them() {
        let tree = machine("waits");
        for tid in [42, 43] {
            let sched = "wait_max   :   9.0\nwait_sum   :   2.5\n";
            tree.write(&format!("proc/41/task/{tid}/sched"), sched);
        }
        for (setting, expected) in [("0\n", None), ("1\n", Some(Duration::from_micros(2500)))] {
            tree.write("proc/sys/kernel/sched_schedstats", setting);
            let vcpus = look(&Guests::default(), &tree, 7).unwrap().vcpus.unwrap();
            assert!(vcpus.iter().all(|vcpu| vcpu.wait == expected), "{vcpus:?}");
        }
    }
}
