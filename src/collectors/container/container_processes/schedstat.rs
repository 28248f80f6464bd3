//! Scheduler statistics of processes of containers: `/proc/PID/schedstat`, documented in
//! `Documentation/scheduler/sched-stats.rst`.
//!
//! As in cAdvisor, the sum covers the processes of a cgroup and its descendants, and of each
//! process only the main thread, the only one in that file. It also includes the last values of
//! processes that ended, as far as a scrape saw them, so sums never decrease.
//!
//! A process that is missing from its cgroup has not always ended: it may have moved, even during
//! the scan, and would count twice if it were found again. While it lives, its last values are
//! used.

use std::{
    cell::Cell,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use super::{
    super::labels::base_labels, RUN_PERIODS, RUN_SECONDS, RUNQUEUE_SECONDS, per_group::PerGroup,
};
use crate::{
    error::{Error, Result},
    family::Families,
    sources::{
        Snapshot, ThreadSchedStat,
        cgroup::{Cgroup, ancestors},
        workloads::Inventory,
    },
};

/// Maximum number of remembered processes; each counts once for every cgroup that contains it
/// directly or through a descendant.
const MAX_PROCESSES: usize = 1 << 17;

/// The state of all exposed cgroups.
#[derive(Debug, Default)]
pub(super) struct GroupSchedStats {
    groups: PerGroup<TrackedGroup>,
    /// Number of remembered processes.
    process_count: usize,
    generation: u64,
}

/// The state of one cgroup.
#[derive(Debug, Default)]
struct TrackedGroup {
    /// Sum of the last values of processes that ended.
    ended_total: ThreadSchedStat,
    living: HashMap<u32, TrackedProcess>,
    /// Whether a process could not be read in this scrape.
    is_partial: bool,
}

#[derive(Debug, Clone, Copy)]
struct TrackedProcess {
    /// Start time in ticks since boot.
    started: u64,
    stat: ThreadSchedStat,
    /// Number of the last scrape that saw it.
    generation: u64,
}

impl GroupSchedStats {
    /// Adds the sums of all current cgroups.
    pub(super) fn add_totals(
        &mut self,
        out: &mut Families,
        snapshot: &Snapshot,
        inventory: &Inventory,
    ) {
        let groups_by_path: HashMap<&str, &Arc<Cgroup>> = inventory
            .present()
            .map(|(_, group)| (group.path(), group))
            .collect();
        self.begin_scrape(groups_by_path.values().copied());
        let is_late = Cell::new(false);
        let walked = snapshot.cgroups().processes(
            |path| !is_late.get() && ancestors(path).any(|path| groups_by_path.contains_key(path)),
            |path, pids| {
                let groups = ancestors(path).filter_map(|path| groups_by_path.get(path).copied());
                let groups: Vec<_> = groups.collect();
                let pids = match pids {
                    Err(error) if error.is_unavailable() => return,
                    Err(error) => return self.mark_partial(out, &groups, Some(error)),
                    Ok(pids) => pids,
                };
                for pid in pids {
                    if Instant::now() > snapshot.deadline() {
                        is_late.set(true);
                        return;
                    }
                    match read_process(snapshot, pid) {
                        // Pid 0 stands for a process outside the PID namespaces visible to the
                        // exporter.
                        _ if pid == 0 => self.mark_partial(out, &groups, None),
                        Ok((started, stat)) => self.record(out, &groups, pid, started, stat),
                        Err(error) if error.is_gone() => {}
                        Err(error) => self.mark_partial(out, &groups, Some(error)),
                    }
                }
            },
        );
        if out.ok_or_skip(walked).is_none() {
            return;
        }
        if is_late.get() {
            return out.record_error(Error::TimedOut("schedstat of all processes".to_owned()));
        }
        for (workload, group) in inventory.present() {
            let tracked = self.groups.get_or_default(group);
            let total = tracked.total(self.generation, |pid, started| {
                is_alive(snapshot, pid, started)
            });
            // No process, or a kernel that does not count: unknown, not 0.
            if tracked.is_partial || total == ThreadSchedStat::default() {
                continue;
            }
            let base = base_labels(workload);
            out.add_with(&RUN_SECONDS, base, [], total.run_time);
            out.add_with(&RUNQUEUE_SECONDS, base, [], total.run_delay);
            out.add_with(&RUN_PERIODS, base, [], total.timeslices);
        }
    }

    /// Begins a scrape with these cgroups.
    fn begin_scrape<'a>(&mut self, groups: impl Iterator<Item = &'a Arc<Cgroup>>) {
        self.generation = self.generation.wrapping_add(1);
        self.groups.begin_scrape();
        for group in groups {
            self.groups.get_or_default(group).is_partial = false;
        }
        self.groups.remove_unused();
        self.process_count = self.groups.values().map(|group| group.living.len()).sum();
    }

    /// Records the values of a process for all cgroups that contain it.
    fn record(
        &mut self,
        out: &mut Families,
        groups: &[&Arc<Cgroup>],
        pid: u32,
        started: u64,
        stat: ThreadSchedStat,
    ) {
        let process = TrackedProcess {
            started,
            stat,
            generation: self.generation,
        };
        for group in groups {
            let has_capacity = self.process_count < MAX_PROCESSES;
            match self
                .groups
                .get_or_default(group)
                .record(pid, process, has_capacity)
            {
                Some(is_new) => self.process_count += usize::from(is_new),
                None => self.mark_partial(out, &[group], Some(too_many_processes())),
            }
        }
    }

    /// Marks the sums of these cgroups as incomplete, and records the error once.
    fn mark_partial(&mut self, out: &mut Families, groups: &[&Arc<Cgroup>], error: Option<Error>) {
        let mut is_new = false;
        for group in groups {
            is_new |= !std::mem::replace(&mut self.groups.get_or_default(group).is_partial, true);
        }
        if let Some(error) = error.filter(|_| is_new) {
            out.record_error(error);
        }
    }
}

impl TrackedGroup {
    /// Records the values of a process. Returns whether it is new, or `None` if there is no
    /// capacity.
    fn record(&mut self, pid: u32, process: TrackedProcess, has_capacity: bool) -> Option<bool> {
        match self.living.entry(pid) {
            Entry::Occupied(mut entry) => {
                let before = entry.insert(process);
                if !process.is_continuation_of(&before) {
                    self.ended_total = sum(self.ended_total, before.stat);
                }
                Some(false)
            }
            Entry::Vacant(new) if has_capacity => {
                new.insert(process);
                Some(true)
            }
            Entry::Vacant(_) => None,
        }
    }

    /// Sum over all processes ever seen, after those of this scrape were recorded.
    fn total(&mut self, generation: u64, is_alive: impl Fn(u32, u64) -> bool) -> ThreadSchedStat {
        let ended_total = &mut self.ended_total;
        let mut total = ThreadSchedStat::default();
        self.living.retain(|pid, process| {
            let is_running = process.generation == generation || is_alive(*pid, process.started);
            let to = if is_running {
                &mut total
            } else {
                &mut *ended_total
            };
            *to = sum(*to, process.stat);
            is_running
        });
        sum(total, self.ended_total)
    }
}

impl TrackedProcess {
    /// Whether this is the process that was seen before. If a thread other than the main one
    /// executes a program, it takes over the main thread's place, pid and start time, but has
    /// counters of its own.
    fn is_continuation_of(&self, before: &Self) -> bool {
        let (now, then) = (&self.stat, &before.stat);
        self.started == before.started
            && now.run_time >= then.run_time
            && now.run_delay >= then.run_delay
            && now.timeslices >= then.timeslices
    }
}

fn sum(a: ThreadSchedStat, b: ThreadSchedStat) -> ThreadSchedStat {
    ThreadSchedStat {
        run_time: a.run_time.saturating_add(b.run_time),
        run_delay: a.run_delay.saturating_add(b.run_delay),
        timeslices: a.timeslices.saturating_add(b.timeslices),
    }
}

fn read_process(snapshot: &Snapshot, pid: u32) -> Result<(u64, ThreadSchedStat)> {
    let process = snapshot.process(pid)?;
    Ok((process.start_time()?, process.schedstat()?))
}

/// A process that cannot be read may still be alive.
fn is_alive(snapshot: &Snapshot, pid: u32, started: u64) -> bool {
    match snapshot
        .process(pid)
        .and_then(|process| process.start_time())
    {
        Ok(now) => now == started,
        Err(error) => !error.is_gone(),
    }
}

fn too_many_processes() -> Error {
    Error::api("schedstat", "too many processes")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collectors::testing::MachineFixture;

    const GONE: fn(u32, u64) -> bool = |_, _| false;
    const ALIVE: fn(u32, u64) -> bool = |_, _| true;

    fn stat(n: u64) -> ThreadSchedStat {
        ThreadSchedStat {
            run_time: Duration::from_nanos(n),
            run_delay: Duration::from_nanos(n * 10),
            timeslices: n * 100,
        }
    }

    fn record_one(group: &mut TrackedGroup, round: u64, pid: u32, started: u64, n: u64) {
        let process = TrackedProcess {
            started,
            stat: stat(n),
            generation: round,
        };
        group.record(pid, process, true).unwrap();
    }

    #[test]
    fn exited_process_stays_in_the_sum() {
        let mut group = TrackedGroup::default();
        record_one(&mut group, 1, 7, 70, 3);
        record_one(&mut group, 1, 8, 80, 4);
        assert_eq!(group.total(1, GONE), stat(7));
        record_one(&mut group, 2, 7, 70, 5);
        assert_eq!(group.total(2, GONE), stat(9));
        assert_eq!(group.living.len(), 1);
        assert_eq!(group.total(3, GONE), stat(9));
        assert_eq!(group.total(4, GONE), stat(9));
        assert!(group.living.is_empty());
    }

    #[test]
    fn reused_pid_is_a_new_process() {
        let mut group = TrackedGroup::default();
        record_one(&mut group, 1, 7, 70, 3);
        record_one(&mut group, 2, 7, 71, 4);
        assert_eq!(group.total(2, GONE), stat(7));
        // Another thread took the place of the main thread.
        record_one(&mut group, 3, 7, 71, 1);
        assert_eq!(group.total(3, GONE), stat(8));
    }

    #[test]
    fn invisible_process_is_not_counted_twice() {
        let mut group = TrackedGroup::default();
        record_one(&mut group, 1, 7, 70, 3);
        assert_eq!(group.total(2, ALIVE), stat(3));
        record_one(&mut group, 3, 7, 70, 5);
        assert_eq!(group.total(3, ALIVE), stat(5));
        assert_eq!(group.total(4, GONE), stat(5));
    }

    #[test]
    fn at_capacity_only_tracked_processes_are_updated() {
        let mut group = TrackedGroup::default();
        record_one(&mut group, 1, 7, 70, 3);
        let process = TrackedProcess {
            started: 70,
            stat: stat(4),
            generation: 2,
        };
        assert_eq!(group.record(7, process, false), Some(false));
        assert_eq!(group.record(8, process, false), None);
        assert_eq!(group.total(2, GONE), stat(4));
    }

    fn write(machine: &MachineFixture, pid: u32, started: u64, schedstat: &str) {
        let stat = format!("{pid} (a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 {started} 1\n");
        machine.write(&format!("proc/{pid}/stat"), &stat);
        machine.write(&format!("proc/{pid}/schedstat"), schedstat);
    }

    fn lines(stats: &mut GroupSchedStats, snapshot: &Snapshot) -> (Vec<String>, usize) {
        let mut out = Families::default();
        stats.add_totals(&mut out, snapshot, snapshot.workloads().unwrap());
        let periods = out.lines().into_iter().filter_map(|line| {
            let line = line.strip_prefix("container_cpu_schedstat_run_periods_total")?;
            Some(line.to_owned())
        });
        (periods.collect(), out.errors().0)
    }

    #[test]
    fn processes_count_for_group_and_ancestors() {
        let machine = MachineFixture::new("container-schedstat");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        let procs = |group: &str| format!("sys/fs/cgroup{group}/cgroup.procs");
        machine.write(&procs(""), "1\n");
        machine.write(&procs("/system.slice/a.service/inside"), "2\n3\n");
        machine.write(&procs("/user.slice"), "");
        for (pid, schedstat) in [(1, "1000000000 5 7\n"), (2, "2 2 20\n"), (3, "3 3 300\n")] {
            write(&machine, pid, 9, schedstat);
        }
        let scrapes = machine.snapshots();
        let mut stats = GroupSchedStats::default();
        let mut out = Families::default();
        let first = scrapes();
        stats.add_totals(&mut out, &first, first.workloads().unwrap());
        let root_lines = out
            .lines()
            .into_iter()
            .filter(|line| line.contains(r#"{id="/"}"#));
        assert_eq!(
            root_lines.collect::<Vec<_>>(),
            [
                r#"container_cpu_schedstat_run_seconds_total{id="/"} 1.000000005"#,
                r#"container_cpu_schedstat_runqueue_seconds_total{id="/"} 1e-8"#,
                r#"container_cpu_schedstat_run_periods_total{id="/"} 327"#,
            ]
        );
        // One process ends, one pid is reused, and one process moves out of sight.
        machine.remove("proc/3");
        write(&machine, 2, 10, "1 1 1\n");
        machine.write(&procs(""), "");
        let both = |root: u32, service: u32| {
            let lines = [
                format!(r#"{{id="/"}} {root}"#),
                format!(r#"{{id="/system.slice"}} {service}"#),
                format!(r#"{{id="/system.slice/a.service"}} {service}"#),
            ];
            (lines.to_vec(), 0)
        };
        assert_eq!(lines(&mut stats, &scrapes()), both(328, 321));
        machine.write(&procs(""), "1\n");
        write(&machine, 1, 9, "1000000001 6 8\n");
        assert_eq!(lines(&mut stats, &scrapes()), both(329, 321));
        assert_eq!(stats.process_count, 1 + 3 + 1 - 1);
        // A process that cannot be read removes the sums that would include it.
        write(&machine, 2, 10, "x\n");
        let root = (vec![], 1);
        assert_eq!(lines(&mut stats, &scrapes()), root);
        write(&machine, 2, 10, "2 2 2\n");
        assert_eq!(lines(&mut stats, &scrapes()), both(330, 322));
        // When cgroups are removed, their state is removed.
        machine.remove("sys/fs/cgroup/system.slice");
        machine.remove("proc/2");
        lines(&mut stats, &scrapes());
        assert_eq!(stats.groups.values().count(), 2);
    }

    #[test]
    fn no_series_if_kernel_does_not_count() {
        let machine = MachineFixture::new("container-schedstat-none");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/cgroup.procs", "1\n2\n");
        write(&machine, 1, 9, "0 0 0\n");
        machine.write("proc/2/stat", "");
        let scrapes = machine.snapshots();
        assert_eq!(
            lines(&mut GroupSchedStats::default(), &scrapes()),
            (vec![], 1),
            "malformed file"
        );
        machine.remove("proc/2");
        assert_eq!(
            lines(&mut GroupSchedStats::default(), &scrapes()),
            (vec![], 0)
        );
        write(&machine, 1, 9, "0 0 1\n");
        assert_eq!(
            lines(&mut GroupSchedStats::default(), &scrapes()).0,
            [r#"{id="/"} 1"#]
        );
    }

    #[test]
    fn invisible_processes_drop_the_sum() {
        let machine = MachineFixture::new("container-schedstat-hidden");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/cgroup.procs", "1\n");
        machine.write("sys/fs/cgroup/user.slice/cgroup.procs", "0\n");
        write(&machine, 1, 9, "1 2 3\n");
        let scrapes = machine.snapshots();
        assert_eq!(
            lines(&mut GroupSchedStats::default(), &scrapes()),
            (vec![], 0)
        );
    }
}
