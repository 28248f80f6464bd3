//! Processes of containers and what they have open: `cgroup.procs`, and for each process its files
//! below `/proc/PID`, documented in `proc(5)`.
//!
//! Off by default, because it reads every process. A partial sum would be wrong, so if one process
//! may not be read, its cgroup has no sum.
//!
//! `container_referenced_bytes` comes from `smaps_rollup`, for which the kernel visits every page.
//! cAdvisor can be configured to write to `clear_refs` periodically to reset the value; this
//! collector only reads.

mod load;
mod per_group;
mod schedstat;

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::ArgAction;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{Process, Snapshot},
};
use load::GroupLoads;
use schedstat::GroupSchedStats;

metrics! {
    /// Processes in the cgroup, without child cgroups.
    PROCESSES: Gauge = "container_processes" base CGROUP [];
    /// Open file descriptors of the processes; a shared one counts once for each process.
    FILE_DESCRIPTORS: Gauge = "container_file_descriptors" base CGROUP [];
    /// Open sockets of the processes; a shared one counts once for each process.
    SOCKETS: Gauge = "container_sockets" base CGROUP [];
    /// Soft resource limits of the first process; absent if unlimited.
    ULIMITS: Gauge = "container_ulimits_soft" base CGROUP ["ulimit"];
    /// Threads by state; those that wait for a disk are uninterruptible, so iowaiting is always
    /// part of it.
    TASKS: Gauge = "container_tasks_state" base CGROUP ["state"];
    /// Running and runnable threads in thousandths, averaged over about 10 seconds. Sampled at
    /// scrapes, so with long intervals close to the last count; child cgroups are not included.
    LOAD: Gauge = "container_cpu_load_average_10s" base CGROUP [];
    /// Threads in uninterruptible sleep in thousandths, averaged over about 10 seconds. Sampled at
    /// scrapes, so with long intervals close to the last count; child cgroups are not included.
    LOAD_UNINTERRUPTIBLE: Gauge = "container_cpu_load_d_average_10s" base CGROUP [];
    /// Memory referenced since the kernel last cleared the referenced bits, which it does under
    /// memory pressure; shared memory counts once for each process.
    REFERENCED: Gauge = "container_referenced_bytes" base CGROUP [];
    /// Time that main threads ran on a CPU, including child cgroups and exited processes; without
    /// other threads and processes that lived between two scrapes.
    RUN_SECONDS: Counter = "container_cpu_schedstat_run_seconds_total" base CGROUP [];
    /// Time that main threads waited on a run queue, including child cgroups and exited processes;
    /// without other threads and processes that lived between two scrapes.
    RUNQUEUE_SECONDS: Counter = "container_cpu_schedstat_runqueue_seconds_total" base CGROUP [];
    /// Time slices of main threads, including child cgroups and exited processes; without other
    /// threads and processes that lived between two scrapes.
    RUN_PERIODS: Counter = "container_cpu_schedstat_run_periods_total" base CGROUP [];
}

/// cAdvisor's names of thread states, and the kernel's letters for them. The other letters belong
/// to idle kernel threads and to threads that ended.
const STATES: [(&str, &[char]); 4] = [
    ("sleeping", &['S']),
    ("running", &['R']),
    ("stopped", &['T', 't']),
    ("uninterruptible", &['D']),
];

/// The flags of the `container_processes` collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct ContainerProcessesFlags {
    /// Count the open file descriptors of the processes.
    #[arg(long = "collector.container_processes.file-descriptors", default_value_t = true, action = ArgAction::Set)]
    container_processes_file_descriptors: bool,
    /// Count the open sockets of the processes, which reads each open file descriptor.
    #[arg(long = "collector.container_processes.sockets", default_value_t = false, action = ArgAction::Set)]
    container_processes_sockets: bool,
    /// Count the threads of the processes by state, and average those that run or wait for a disk,
    /// which reads each thread.
    #[arg(long = "collector.container_processes.tasks-state", default_value_t = false, action = ArgAction::Set)]
    container_processes_tasks_state: bool,
    /// Add up the memory that the processes referenced recently; expensive, as the kernel visits
    /// every page.
    #[arg(long = "collector.container_processes.referenced", default_value_t = false, action = ArgAction::Set)]
    container_processes_referenced: bool,
    /// Add up the run time and CPU wait time of the main threads of the processes.
    #[arg(long = "collector.container_processes.schedstat", default_value_t = false, action = ArgAction::Set)]
    container_processes_schedstat: bool,
}

#[derive(Debug)]
pub(super) struct ContainerProcesses {
    flags: ContainerProcessesFlags,
    loads: Mutex<GroupLoads>,
    schedstats: Mutex<GroupSchedStats>,
}

impl Collector for ContainerProcesses {
    const NAME: &'static str = "container_processes";
    const ABOUT: &'static str = "processes of containers and services";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = ContainerProcessesFlags;

    fn new(flags: ContainerProcessesFlags) -> Result<Self, String> {
        Ok(Self {
            flags,
            loads: Mutex::default(),
            schedstats: Mutex::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let inventory = snapshot.workloads()?;
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.begin_scrape();
        for (workload, group) in inventory.present() {
            let base = base_labels(workload);
            let threads = out
                .ok_or_skip(group.processes())
                .and_then(|pids| self.add_processes(&mut out, base, snapshot, &pids));
            if let Some(threads) = threads {
                loads.add_load(&mut out, base, group, &threads);
            }
        }
        loads.end_scrape();
        if self.flags.container_processes_schedstat {
            let stats = self.schedstats.lock();
            let mut stats = stats.unwrap_or_else(PoisonError::into_inner);
            stats.add_totals(&mut out, snapshot, inventory);
        }
        Ok(out)
    }
}

impl ContainerProcesses {
    /// Adds the metrics of the processes. Returns the states of their threads if enabled and read.
    fn add_processes(
        &self,
        out: &mut Families,
        base: &BaseLabels,
        snapshot: &Snapshot,
        pids: &[u32],
    ) -> Option<Vec<char>> {
        out.add_with(&PROCESSES, base, [], pids.len());
        // Pid 0 stands for a process outside the PID namespaces visible to the exporter.
        if pids.contains(&0) {
            return None;
        }
        let processes: Result<Vec<_>> = pids
            .iter()
            .map(|pid| snapshot.process(*pid))
            .filter_map(ignore_gone)
            .collect();
        let processes = out.ok_or_skip(processes)?;
        if let Some(first) = processes.first() {
            let limit = first.open_files_limit();
            if let Some(limit) = out.ok_or_skip(limit).flatten() {
                out.add_with(&ULIMITS, base, ["max_open_files"], limit);
            }
        }
        if self.flags.container_processes_file_descriptors {
            let sum = sum_over(&processes, Process::open_files);
            if let Some(sum) = out.ok_or_skip(sum) {
                out.add_with(&FILE_DESCRIPTORS, base, [], sum);
            }
        }
        if self.flags.container_processes_sockets {
            let sum = sum_over(&processes, Process::open_sockets);
            if let Some(sum) = out.ok_or_skip(sum) {
                out.add_with(&SOCKETS, base, [], sum);
            }
        }
        if self.flags.container_processes_referenced {
            let sum = sum_referenced(&processes, snapshot.deadline());
            if let Some(sum) = out.ok_or_skip(sum).flatten() {
                out.add_with(&REFERENCED, base, [], sum);
            }
        }
        if !self.flags.container_processes_tasks_state {
            return None;
        }
        let threads = processes.iter().map(Process::thread_states);
        let threads: Result<Vec<_>> = threads.filter_map(ignore_gone).collect();
        let threads = out.ok_or_skip(threads)?.concat();
        add_states(out, base, &threads);
        Some(threads)
    }
}

/// Drops a process that ended meanwhile from the sum.
fn ignore_gone<T>(read: Result<T>) -> Option<Result<T>> {
    match read {
        Err(error) if error.is_gone() => None,
        read => Some(read),
    }
}

fn sum_over(processes: &[Process], read: impl Fn(&Process) -> Result<u64>) -> Result<u64> {
    processes
        .iter()
        .map(read)
        .filter_map(ignore_gone)
        .try_fold(0_u64, |sum, count| Ok(sum.saturating_add(count?)))
}

/// `None` if no process reports the value, as on kernels before 4.14 and for kernel threads.
fn sum_referenced(processes: &[Process], deadline: Instant) -> Result<Option<u64>> {
    let mut sum = processes.is_empty().then_some(0_u64);
    for process in processes {
        if Instant::now() > deadline {
            return Err(Error::TimedOut("smaps_rollup of all processes".to_owned()));
        }
        if let Some(bytes) = ignore_gone(process.referenced_bytes()) {
            sum = Some(sum.unwrap_or(0).saturating_add(bytes?));
        }
    }
    Ok(sum)
}

fn add_states(out: &mut Families, base: &BaseLabels, threads: &[char]) {
    for (state, letters) in STATES {
        let count = threads.iter().filter(|letter| letters.contains(letter));
        out.add_with(&TASKS, base, [state], count.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{collectors::testing::MachineFixture, family};

    fn with_all_flags() -> ContainerProcesses {
        let flags = ContainerProcessesFlags {
            container_processes_file_descriptors: true,
            container_processes_sockets: true,
            container_processes_tasks_state: true,
            container_processes_referenced: true,
            container_processes_schedstat: true,
        };
        ContainerProcesses::new(flags).unwrap()
    }

    fn lines(machine: &MachineFixture, pids: &[u32]) -> (Vec<String>, usize) {
        let mut out = Families::default();
        let block = family::render_labels([("id", "/a")]);
        with_all_flags().add_processes(&mut out, &block, &machine.snapshot(), pids);
        (out.lines(), out.errors().0)
    }

    fn stat(state: char, threads: u32) -> String {
        format!("9 (a) {state} 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 {threads} 0 1\n")
    }

    #[test]
    fn sums_skip_exited_processes() {
        let machine = MachineFixture::new("container-processes-sums");
        for (pid, limit) in [(7, 1024), (9, 2048)] {
            let limits = format!("Max open files            {limit}  4096  files\n");
            machine.write(&format!("proc/{pid}/limits"), &limits);
        }
        for (number, file) in ["socket:[7]", "/dev/null", "socket:[8]"].iter().enumerate() {
            machine.link(&format!("proc/7/fd/{number}"), file);
        }
        machine.link("proc/9/fd/0", "socket:[9]");
        machine.write("proc/7/stat", &stat('S', 3));
        for (thread, state) in [(7, 'S'), (70, 'D'), (71, 't')] {
            machine.write(&format!("proc/7/task/{thread}/stat"), &stat(state, 3));
        }
        machine.write("proc/9/stat", &stat('R', 1));
        let (lines, skipped) = lines(&machine, &[7, 8, 9]);
        let expected = [
            r#"container_processes{id="/a"} 3"#,
            r#"container_ulimits_soft{id="/a",ulimit="max_open_files"} 1024"#,
            r#"container_file_descriptors{id="/a"} 4"#,
            r#"container_sockets{id="/a"} 3"#,
            r#"container_tasks_state{id="/a",state="sleeping"} 1"#,
            r#"container_tasks_state{id="/a",state="running"} 1"#,
            r#"container_tasks_state{id="/a",state="stopped"} 1"#,
            r#"container_tasks_state{id="/a",state="uninterruptible"} 1"#,
        ];
        assert_eq!((lines, skipped), (expected.map(str::to_owned).to_vec(), 0));
    }

    #[test]
    fn one_unreadable_process_drops_the_sum() {
        let permission_denied = || {
            let errno = std::io::Error::from_raw_os_error(libc::EACCES);
            Err(crate::error::Error::io("/proc/9/fd", errno))
        };
        let machine = MachineFixture::new("container-processes-denied");
        machine.write("proc/7/stat", &stat('S', 1));
        machine.write("proc/9/stat", &stat('S', 1));
        let snapshot = machine.snapshot();
        let processes = [7, 9].map(|pid| snapshot.process(pid).unwrap());
        let read = |process: &Process| match process.pid() {
            7 => Ok(5),
            _ => permission_denied(),
        };
        assert!(
            sum_over(&processes, read)
                .unwrap_err()
                .is_permission_denied()
        );
        assert_eq!(sum_over(&processes, |_| Ok(5)).unwrap(), 10);
    }

    #[test]
    fn referenced_sums_processes_with_memory() {
        let machine = MachineFixture::new("container-processes-referenced");
        let rollup = |kilobytes| format!("Rss: 99 kB\nReferenced:  {kilobytes} kB\n");
        machine.write("proc/7/smaps_rollup", &rollup("3"));
        machine.write("proc/8/stat", &stat('S', 1));
        machine.write("proc/9/smaps_rollup", &rollup("4"));
        machine.write("proc/10/smaps_rollup", &rollup("x"));
        let snapshot = machine.snapshot();
        let sum = |pids: &[u32], deadline| {
            let processes = pids.iter().map(|pid| snapshot.process(*pid).unwrap());
            sum_referenced(&processes.collect::<Vec<_>>(), deadline)
        };
        let deadline = snapshot.deadline();
        assert_eq!(sum(&[7, 8, 9], deadline).unwrap(), Some(7168));
        assert_eq!(sum(&[8], deadline).unwrap(), None);
        assert_eq!(sum(&[], deadline).unwrap(), Some(0));
        assert!(sum(&[7, 10], deadline).is_err());
        let past = Instant::now().checked_sub(std::time::Duration::from_secs(1));
        let error = sum(&[7], past.unwrap()).unwrap_err();
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
    }

    #[test]
    fn invisible_processes_are_only_counted() {
        let machine = MachineFixture::new("container-processes-hidden");
        machine.write("proc/7/stat", &stat('S', 1));
        let (lines, skipped) = lines(&machine, &[7, 0]);
        assert_eq!(
            (lines, skipped),
            (vec![r#"container_processes{id="/a"} 2"#.into()], 0)
        );
    }

    #[test]
    fn load_average_starts_with_second_scrape() {
        let machine = MachineFixture::new("container-processes-load");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/cgroup.procs", "7\n");
        machine.write("sys/fs/cgroup/user.slice/cgroup.procs", "0\n");
        machine.write("proc/7/stat", &stat('D', 1));
        let (collector, scrapes) = (with_all_flags(), machine.snapshots());
        let loads = || {
            let lines = collector.collect(&scrapes()).unwrap().lines();
            let loads = lines.into_iter().filter(|line| line.contains("load"));
            loads.collect::<Vec<_>>()
        };
        assert_eq!(loads(), Vec::<String>::new());
        let expected = [
            r#"container_cpu_load_average_10s{id="/"} 0"#,
            r#"container_cpu_load_d_average_10s{id="/"} 1000"#,
        ];
        assert_eq!(loads(), expected);
    }

    #[test]
    fn empty_group_has_zero_processes() {
        let machine = MachineFixture::new("container-processes-none");
        let (lines, skipped) = lines(&machine, &[]);
        assert_eq!(lines.len(), 1 + 3 + 4);
        assert!(lines.iter().all(|line| line.ends_with(" 0")), "{lines:#?}");
        assert_eq!(skipped, 0);
    }
}
