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
    cgroup::{Cgroup, ancestors},
    libvirt::{CpuTimes, HostStats, HostStatsByUuid, Vcpu},
    processes::{NetworkNamespace, Process},
    workloads::{Inventory, WorkloadDomain},
};
use crate::error::Result;

/// How long a guest whose process was not found is not looked for again. It is dear, and
/// some have none that says which threads are its CPUs.
const RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// The processes of virtual machines, kept from scrape to scrape.
#[derive(Debug, Default)]
pub(super) struct DomainUsage {
    lookups: Mutex<HashMap<String, QemuLookup>>,
}

/// What is known of the process of a run.
#[derive(Debug)]
struct QemuLookup {
    /// libvirt's number for the run.
    id: u32,
    looked_at: Instant,
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
struct DomainTarget<'a> {
    uuid: &'a str,
    domain: &'a WorkloadDomain,
    cgroup: &'a Cgroup,
}

impl DomainUsage {
    /// What was counted of those that libvirt told of, by UUID.
    pub(super) fn collect(&self, snapshot: &Snapshot, inventory: &Inventory) -> HostStatsByUuid {
        let wanted = inventory.present().filter_map(|(workload, group)| {
            let guest = workload.domain.as_ref()?;
            let uuid = guest.uuid.as_deref()?;
            Some((
                workload.path.as_str(),
                DomainTarget {
                    uuid,
                    domain: guest,
                    cgroup: group,
                },
            ))
        });
        let wanted: HashMap<&str, DomainTarget<'_>> = wanted.collect();
        let mut kept = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let runs: HashMap<_, _> = wanted.values().map(|it| (it.uuid, it.domain.id)).collect();
        kept.retain(|uuid, it| runs.get(uuid.as_str()) == Some(&it.id));
        find_qemu_processes(&mut kept, snapshot, &wanted);
        let counts_wait = is_schedstats_enabled(snapshot);
        let mut networks = HashMap::new();
        let counted = wanted.values().map(|wanted| {
            let mut qemu = kept.get_mut(wanted.uuid).and_then(|it| it.qemu.as_mut());
            let vcpus = qemu.as_mut().map(|qemu| qemu.vcpus(counts_wait));
            // Mostly one sees what all see.
            let links = qemu.and_then(|qemu| {
                let links = networks.entry(qemu.network);
                let links = links.or_insert_with(|| qemu.process.link_traffic().ok().map(Arc::new));
                links.clone()
            });
            let counted = HostStats {
                id: wanted.domain.id,
                started: wanted.cgroup.created().ok(),
                cpu: cpu_times(wanted.cgroup),
                vcpus: vcpus.and_then(Result::ok).filter(|it| !it.is_empty()),
                links,
            };
            (wanted.uuid.to_owned(), counted)
        });
        counted.collect()
    }
}

/// Looks for the processes of those that none is known of.
fn find_qemu_processes(
    kept: &mut HashMap<String, QemuLookup>,
    snapshot: &Snapshot,
    wanted: &HashMap<&str, DomainTarget<'_>>,
) {
    let now = Instant::now();
    let is_due =
        |it: &QemuLookup| it.qemu.is_none() && now.duration_since(it.looked_at) >= RETRY_INTERVAL;
    let missing = |uuid: &str| kept.get(uuid).is_none_or(is_due);
    let room = snapshot.max_process_dirs().saturating_sub(kept.len());
    let missing = wanted.iter().filter(|(_, it)| missing(it.uuid)).take(room);
    let missing: HashMap<&str, &DomainTarget<'_>> = missing.map(|(path, it)| (*path, it)).collect();
    if missing.is_empty() {
        return;
    }
    for it in missing.values() {
        let run = QemuLookup {
            id: it.domain.id,
            looked_at: now,
            qemu: None,
        };
        kept.insert(it.uuid.to_owned(), run);
    }
    let of = |path: &str| ancestors(path).find_map(|path| missing.get(path).copied());
    let walked = snapshot.cgroups().processes(
        |path| of(path).is_some(),
        |path, pids| {
            let run = of(path).and_then(|it| kept.get_mut(it.uuid));
            let (Some(run), Ok(pids)) = (run, pids) else {
                return;
            };
            // Others help it: with a TPM, a file system, a network.
            let qemu = pids
                .into_iter()
                .filter_map(|pid| Qemu::open(snapshot, pid).ok());
            run.qemu = run.qemu.take().or_else(|| qemu.flatten().next());
        },
    );
    // libvirt is asked about those that were not found.
    walked.ok();
}

impl Qemu {
    /// The process of this number, if its threads are virtual CPUs, and are counted.
    fn open(snapshot: &Snapshot, pid: u32) -> Result<Option<Self>> {
        let process = snapshot.process(pid)?;
        let mut qemu = Self {
            network: process.network_namespace()?,
            process,
            threads: BTreeMap::new(),
        };
        qemu.refresh_threads()?;
        for tid in qemu.vcpu_threads() {
            if qemu.process.thread_schedstat(tid)?.timeslices == 0 {
                return Ok(None);
            }
        }
        let has_vcpus = qemu.vcpu_threads().next().is_some();
        Ok(has_vcpus.then_some(qemu))
    }

    /// Threads come and go: those of virtual CPUs as these are plugged in and out, others
    /// for a moment's work.
    fn refresh_threads(&mut self) -> Result<()> {
        let threads = self.process.threads()?;
        let mut known = std::mem::take(&mut self.threads);
        for tid in threads {
            let vcpu = match known.remove(&tid) {
                Some(vcpu) => vcpu,
                None => match self.process.thread_name(tid) {
                    Ok(name) => parse_vcpu_number(&name),
                    Err(error) if error.is_gone() => continue,
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
    fn vcpus(&mut self, with_wait: bool) -> Result<Vec<Vcpu>> {
        self.refresh_threads()?;
        let mut vcpus = Vec::new();
        for (tid, vcpu) in &self.threads {
            let Some(number) = *vcpu else {
                continue;
            };
            let stat = match self.process.thread_schedstat(*tid) {
                Ok(stat) => stat,
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            let wait = with_wait.then(|| self.process.thread_wait_sum(*tid).ok());
            vcpus.push(Vcpu {
                number,
                // What libvirt says of every one that is plugged in.
                state: Some(1),
                time: Some(stat.run_time),
                wait: wait.flatten(),
                delay: Some(stat.run_delay),
                cpu: self.process.thread_cpu(*tid).ok(),
                kvm: Vec::new(),
            });
        }
        vcpus.sort_by_key(|vcpu| vcpu.number);
        Ok(vcpus)
    }
}

/// `CPU 3/KVM`: QEMU calls its threads so if libvirt started it.
fn parse_vcpu_number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("CPU ")?.split_once('/')?;
    number.parse().ok()
}

/// What libvirt would say: all three are from there, too.
fn cpu_times(group: &Cgroup) -> Option<CpuTimes> {
    let cpu = group.cpu().ok()?;
    let times = CpuTimes {
        time: cpu.usage,
        user: cpu.user,
        system: cpu.system,
    };
    (times.time.is_some() && times.user.is_some() && times.system.is_some()).then_some(times)
}

/// Whether the kernel counts how long threads wait.
fn is_schedstats_enabled(snapshot: &Snapshot) -> bool {
    let schedstats = snapshot.read_proc("sys/kernel/sched_schedstats");
    schedstats.is_ok_and(|text| text.body().trim() == "1")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::{LinkTraffic, cgroup::testing::TempTree, libvirt::RunningDomain};

    const GROUP: &str = "sys/fs/cgroup/machine/qemu-7-web.libvirt-qemu";
    const UUID: &str = "5a0877b8-bef9-4f1b-953c-90760c196fdc";

    /// A machine with one guest, in whose group a helper and QEMU run.
    fn host_tree(name: &str) -> TempTree {
        let tree = TempTree::new(&format!("guests-{name}"));
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

    fn thread(tree: &TempTree, pid: u32, tid: u32, name: &str, schedstat: &str) {
        let task = format!("proc/{pid}/task/{tid}");
        tree.write(&format!("{task}/comm"), &format!("{name}\n"));
        tree.write(&format!("{task}/schedstat"), schedstat);
        let stat = format!("{tid} ({name}) S {}6\n", "1 ".repeat(35));
        tree.write(&format!("{task}/stat"), &stat);
    }

    fn collect(guests: &DomainUsage, tree: &TempTree, id: u32) -> Option<HostStats> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let snapshot = Snapshot::new(tree.roots().into(), deadline);
        let machine = &snapshot.host;
        let running = RunningDomain {
            id,
            name: "web".to_owned(),
            uuid: UUID.to_owned(),
        };
        let seen = machine.workloads.discover(
            &machine.roots,
            &machine.cgroups,
            &machine.engines,
            &[running],
        );
        guests.collect(&snapshot, &seen.unwrap()).remove(UUID)
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
        let tree = host_tree("counted");
        let counted = collect(&DomainUsage::default(), &tree, 7).unwrap();
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
        assert_eq!(collect(&DomainUsage::default(), &tree, 8), None);
    }

    #[test]
    fn virtual_cpus_are_plugged_in_and_out_while_helpers_come_and_go() {
        let (tree, guests) = (host_tree("plugged"), DomainUsage::default());
        collect(&guests, &tree, 7);
        thread(&tree, 41, 44, "CPU 2/KVM", "5 6 7\n");
        thread(&tree, 41, 45, "worker", "5 6 7\n");
        fs::remove_dir_all(tree.path("proc/41/task/42")).unwrap();
        let vcpus = collect(&guests, &tree, 7).unwrap().vcpus;
        assert_eq!(vcpus, Some(vec![vcpu(0, [400, 50]), vcpu(2, [5, 6])]));
    }

    #[test]
    fn libvirt_is_left_what_the_kernel_does_not_say() {
        // A kernel that does not count.
        let tree = host_tree("uncounted");
        thread(&tree, 41, 43, "CPU 0/KVM", "0 0 0\n");
        let counted = collect(&DomainUsage::default(), &tree, 7).unwrap();
        assert!(counted.cpu.is_some() && counted.vcpus.is_none());
        // Virtual CPUs that share one thread, and modes that are not told apart.
        let tree = host_tree("shared");
        thread(&tree, 41, 42, "ALL CPUs/TCG", "500 60 7\n");
        thread(&tree, 41, 43, "IO mon_iothread", "500 60 7\n");
        tree.write(&format!("{GROUP}/cpu.stat"), "usage_usec 30\n");
        let counted = collect(&DomainUsage::default(), &tree, 7).unwrap();
        assert_eq!((counted.cpu, counted.vcpus), (None, None));
        // A QEMU that is gone.
        let (tree, guests) = (host_tree("gone"), DomainUsage::default());
        collect(&guests, &tree, 7);
        fs::remove_dir_all(tree.path("proc/41")).unwrap();
        let counted = collect(&guests, &tree, 7).unwrap();
        assert_eq!((counted.vcpus, counted.links), (None, None));
    }

    #[test]
    fn waits_are_told_where_the_kernel_counts_them() {
        let tree = host_tree("waits");
        for tid in [42, 43] {
            let sched = "wait_max   :   9.0\nwait_sum   :   2.5\n";
            tree.write(&format!("proc/41/task/{tid}/sched"), sched);
        }
        for (setting, expected) in [("0\n", None), ("1\n", Some(Duration::from_micros(2500)))] {
            tree.write("proc/sys/kernel/sched_schedstats", setting);
            let vcpus = collect(&DomainUsage::default(), &tree, 7)
                .unwrap()
                .vcpus
                .unwrap();
            assert!(vcpus.iter().all(|vcpu| vcpu.wait == expected), "{vcpus:?}");
        }
    }
}
