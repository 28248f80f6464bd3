//! Domain usage read from the host: cgroups, QEMU's threads and the host's network interfaces.
//!
//! libvirt reads the same sources, but for CPU statistics it also queries each domain's monitor,
//! for no gain, and for each interface it reads the counters of all interfaces. It is queried only
//! where these sources lack data.

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

/// How long a domain whose process was not found is not searched for again. The search is
/// expensive, and some domains have no process whose threads identify their virtual CPUs.
const RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// Processes of domains, cached between scrapes.
#[derive(Debug, Default)]
pub(super) struct DomainUsage {
    lookups: Mutex<HashMap<String, QemuLookup>>,
}

/// Result of the search for the process of a domain's run.
#[derive(Debug)]
struct QemuLookup {
    /// libvirt's ID of the run.
    id: u32,
    looked_at: Instant,
    qemu: Option<Qemu>,
}

/// A QEMU process with named threads.
#[derive(Debug)]
struct Qemu {
    process: Process,
    network: NetworkNamespace,
    /// Thread IDs, each with the number of its virtual CPU, if it is one.
    threads: BTreeMap<u32, Option<u32>>,
}

/// A domain whose usage is to be read.
struct DomainTarget<'a> {
    uuid: &'a str,
    domain: &'a WorkloadDomain,
    cgroup: &'a Cgroup,
}

impl DomainUsage {
    /// Returns the usage of the domains reported by libvirt, by UUID.
    pub(super) fn collect(&self, snapshot: &Snapshot, inventory: &Inventory) -> HostStatsByUuid {
        let targets = inventory.present().filter_map(|(workload, group)| {
            let domain = workload.domain.as_ref()?;
            let uuid = domain.uuid.as_deref()?;
            Some((
                workload.path.as_str(),
                DomainTarget {
                    uuid,
                    domain,
                    cgroup: group,
                },
            ))
        });
        let targets: HashMap<&str, DomainTarget<'_>> = targets.collect();
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let running_ids: HashMap<_, _> = targets
            .values()
            .map(|target| (target.uuid, target.domain.id))
            .collect();
        lookups.retain(|uuid, lookup| running_ids.get(uuid.as_str()) == Some(&lookup.id));
        find_qemu_processes(&mut lookups, snapshot, &targets);
        let has_wait_sum = is_schedstats_enabled(snapshot);
        let mut networks = HashMap::new();
        let all_stats = targets.values().map(|target| {
            let mut qemu = lookups
                .get_mut(target.uuid)
                .and_then(|lookup| lookup.qemu.as_mut());
            let vcpus = qemu.as_mut().map(|qemu| qemu.vcpus(has_wait_sum));
            // Most processes are in the host's network namespace.
            let links = qemu.and_then(|qemu| {
                let links = networks.entry(qemu.network);
                let links = links.or_insert_with(|| qemu.process.link_traffic().ok().map(Arc::new));
                links.clone()
            });
            let stats = HostStats {
                id: target.domain.id,
                started: target.cgroup.created().ok(),
                cpu: cpu_times(target.cgroup),
                vcpus: vcpus.and_then(Result::ok).filter(|vcpus| !vcpus.is_empty()),
                links,
            };
            (target.uuid.to_owned(), stats)
        });
        all_stats.collect()
    }
}

/// Searches for the processes of domains without a known process.
fn find_qemu_processes(
    lookups: &mut HashMap<String, QemuLookup>,
    snapshot: &Snapshot,
    targets: &HashMap<&str, DomainTarget<'_>>,
) {
    let now = Instant::now();
    let is_due = |lookup: &QemuLookup| {
        lookup.qemu.is_none() && now.duration_since(lookup.looked_at) >= RETRY_INTERVAL
    };
    let is_missing = |uuid: &str| lookups.get(uuid).is_none_or(is_due);
    let free = snapshot.max_process_dirs().saturating_sub(lookups.len());
    let missing = targets
        .iter()
        .filter(|(_, target)| is_missing(target.uuid))
        .take(free);
    let missing: HashMap<&str, &DomainTarget<'_>> =
        missing.map(|(path, target)| (*path, target)).collect();
    if missing.is_empty() {
        return;
    }
    for target in missing.values() {
        let lookup = QemuLookup {
            id: target.domain.id,
            looked_at: now,
            qemu: None,
        };
        lookups.insert(target.uuid.to_owned(), lookup);
    }
    let target_of = |path: &str| ancestors(path).find_map(|path| missing.get(path).copied());
    let result = snapshot.cgroups().processes(
        |path| target_of(path).is_some(),
        |path, pids| {
            let lookup = target_of(path).and_then(|target| lookups.get_mut(target.uuid));
            let (Some(lookup), Ok(pids)) = (lookup, pids) else {
                return;
            };
            // Helper processes, for example for TPM, file systems or networks, share the cgroup.
            let qemu = pids
                .into_iter()
                .filter_map(|pid| Qemu::open(snapshot, pid).ok());
            lookup.qemu = lookup.qemu.take().or_else(|| qemu.flatten().next());
        },
    );
    // For domains that were not found, libvirt is queried.
    result.ok();
}

impl Qemu {
    /// Opens a process, if its threads are virtual CPUs and the kernel accounts them.
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

    /// Updates the list of threads: virtual CPUs may be plugged and unplugged, and other threads
    /// may be short-lived.
    fn refresh_threads(&mut self) -> Result<()> {
        let threads = self.process.threads()?;
        let mut previous = std::mem::take(&mut self.threads);
        for tid in threads {
            let vcpu = match previous.remove(&tid) {
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

    /// Returns the plugged virtual CPUs, by number.
    fn vcpus(&mut self, has_wait_sum: bool) -> Result<Vec<Vcpu>> {
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
            let wait = has_wait_sum.then(|| self.process.thread_wait_sum(*tid).ok());
            vcpus.push(Vcpu {
                number,
                // libvirt reports this state for every plugged virtual CPU.
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

/// Parses `CPU 3/KVM`, the name of a virtual CPU's thread if libvirt started QEMU.
fn parse_vcpu_number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("CPU ")?.split_once('/')?;
    number.parse().ok()
}

/// Returns the CPU times of a cgroup; libvirt reads all three from there as well.
fn cpu_times(group: &Cgroup) -> Option<CpuTimes> {
    let cpu = group.cpu().ok()?;
    let times = CpuTimes {
        time: cpu.usage,
        user: cpu.user,
        system: cpu.system,
    };
    (times.time.is_some() && times.user.is_some() && times.system.is_some()).then_some(times)
}

/// Whether the kernel accounts how long threads wait (`kernel.sched_schedstats`).
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

    /// A host with one domain; a helper and QEMU run in its cgroup.
    fn host_tree(name: &str) -> TempTree {
        let tree = TempTree::new(&format!("domain-usage-{name}"));
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

    fn collect(usage: &DomainUsage, tree: &TempTree, id: u32) -> Option<HostStats> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let snapshot = Snapshot::new(tree.roots().into(), deadline);
        let host = &snapshot.host;
        let running = RunningDomain {
            id,
            name: "web".to_owned(),
            uuid: UUID.to_owned(),
        };
        let inventory =
            host.workloads
                .discover(&host.roots, &host.cgroups, &host.engines, &[running]);
        usage.collect(&snapshot, &inventory.unwrap()).remove(UUID)
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
    fn domain_usage_is_from_cgroup_and_qemu_threads() {
        let tree = host_tree("counted");
        let host_stats = collect(&DomainUsage::default(), &tree, 7).unwrap();
        let times = CpuTimes {
            time: Some(Duration::from_micros(30)),
            user: Some(Duration::from_micros(20)),
            system: Some(Duration::from_micros(10)),
        };
        assert_eq!((host_stats.id, host_stats.cpu), (7, Some(times)));
        assert!(host_stats.started.is_some());
        let vcpus = vec![vcpu(0, [400, 50]), vcpu(1, [500, 60])];
        assert_eq!(host_stats.vcpus, Some(vcpus));
        let link = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        let links = HashMap::from([("vnet0".to_owned(), link)]);
        assert_eq!(*host_stats.links.unwrap(), links);
        // A different run, to which this cgroup does not belong.
        assert_eq!(collect(&DomainUsage::default(), &tree, 8), None);
    }

    #[test]
    fn vcpus_are_hot_plugged_while_helper_threads_change() {
        let (tree, usage) = (host_tree("plugged"), DomainUsage::default());
        collect(&usage, &tree, 7);
        thread(&tree, 41, 44, "CPU 2/KVM", "5 6 7\n");
        thread(&tree, 41, 45, "worker", "5 6 7\n");
        fs::remove_dir_all(tree.path("proc/41/task/42")).unwrap();
        let vcpus = collect(&usage, &tree, 7).unwrap().vcpus;
        assert_eq!(vcpus, Some(vec![vcpu(0, [400, 50]), vcpu(2, [5, 6])]));
    }

    #[test]
    fn missing_kernel_data_is_left_to_libvirt() {
        // A kernel without scheduler statistics.
        let tree = host_tree("uncounted");
        thread(&tree, 41, 43, "CPU 0/KVM", "0 0 0\n");
        let host_stats = collect(&DomainUsage::default(), &tree, 7).unwrap();
        assert!(host_stats.cpu.is_some() && host_stats.vcpus.is_none());
        // Virtual CPUs that share one thread, and CPU time without user and system time.
        let tree = host_tree("shared");
        thread(&tree, 41, 42, "ALL CPUs/TCG", "500 60 7\n");
        thread(&tree, 41, 43, "IO mon_iothread", "500 60 7\n");
        tree.write(&format!("{GROUP}/cpu.stat"), "usage_usec 30\n");
        let host_stats = collect(&DomainUsage::default(), &tree, 7).unwrap();
        assert_eq!((host_stats.cpu, host_stats.vcpus), (None, None));
        // A QEMU process that ended.
        let (tree, usage) = (host_tree("gone"), DomainUsage::default());
        collect(&usage, &tree, 7);
        fs::remove_dir_all(tree.path("proc/41")).unwrap();
        let host_stats = collect(&usage, &tree, 7).unwrap();
        assert_eq!((host_stats.vcpus, host_stats.links), (None, None));
    }

    #[test]
    fn vcpu_wait_requires_schedstats() {
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
