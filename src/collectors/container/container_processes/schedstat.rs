//! How processes of containers came by the CPUs: `/proc/PID/schedstat`, documented in
//! `Documentation/scheduler/sched-stats.rst`.
//!
//! As cAdvisor has it: a sum over the processes of a group and of those below it, of each
//! its main thread, as the file knows no other, and over what processes had that have
//! ended, as far as a scrape saw them. So the sums never step back.
//!
//! A process that is not found in its group any more has not always ended: it may have
//! moved away, also while we looked, and would be counted twice if it were found again.
//! As long as it lives, what it last had stands for it.

use std::{
    cell::Cell,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use super::{super::labels::block, RUN_PERIODS, RUN_SECONDS, RUNQUEUE_SECONDS, kept::PerGroup};
use crate::{
    error::{Error, Result},
    family::Families,
    sources::{
        SchedStat, Snapshot,
        cgroup::{Group, and_above},
        workloads::Seen,
    },
};

/// No more processes than this are remembered, each once for every group that it is in or
/// below.
const MAX_PROCESSES: usize = 1 << 17;

/// What is remembered of all groups that are shown.
#[derive(Debug, Default)]
pub(super) struct SchedStats {
    groups: PerGroup<Known>,
    /// How many processes are remembered.
    count: usize,
    round: u64,
}

/// What is remembered of a group.
#[derive(Debug, Default)]
struct Known {
    /// What processes had that have ended.
    ended: SchedStat,
    living: HashMap<u32, Process>,
    /// Whether there are processes that could not be read in this scrape.
    is_partial: bool,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    /// When it was started, in ticks since boot.
    started: u64,
    stat: SchedStat,
    /// The scrape that saw it last.
    round: u64,
}

impl SchedStats {
    /// Adds the sums of all groups that are there.
    pub(super) fn add(&mut self, out: &mut Families, machine: &Snapshot, seen: &Seen) {
        let shown: HashMap<&str, &Arc<Group>> = seen
            .present()
            .map(|(_, group)| (group.path(), group))
            .collect();
        self.begin(shown.values().copied());
        let is_late = Cell::new(false);
        let walked = machine.cgroups().processes(
            |path| !is_late.get() && and_above(path).any(|path| shown.contains_key(path)),
            |path, pids| {
                let groups = and_above(path).filter_map(|path| shown.get(path).copied());
                let groups: Vec<_> = groups.collect();
                let pids = match pids {
                    Err(error) if error.is_unsaid() => return,
                    Err(error) => return self.lack(out, &groups, Some(error)),
                    Ok(pids) => pids,
                };
                for pid in pids {
                    if Instant::now() > machine.deadline() {
                        is_late.set(true);
                        return;
                    }
                    match process(machine, pid) {
                        // Such as are in no namespace that we see.
                        _ if pid == 0 => self.lack(out, &groups, None),
                        Ok((started, stat)) => self.see(out, &groups, pid, started, stat),
                        Err(error) if error.is_vanished() => {}
                        Err(error) => self.lack(out, &groups, Some(error)),
                    }
                }
            },
        );
        if out.keep(walked).is_none() {
            return;
        }
        if is_late.get() {
            return out.skip(Error::TimedOut("schedstat of all processes".to_owned()));
        }
        for (workload, group) in seen.present() {
            let known = self.groups.of(group);
            let total = known.total(self.round, |pid, started| is_alive(machine, pid, started));
            // Of no process, or of a kernel that does not count: it is not known to be 0.
            if known.is_partial || total == SchedStat::default() {
                continue;
            }
            let block = block(workload);
            out.add_of(&RUN_SECONDS, block, [], total.run);
            out.add_of(&RUNQUEUE_SECONDS, block, [], total.waited);
            out.add_of(&RUN_PERIODS, block, [], total.periods);
        }
    }

    /// Begins a scrape in which there are these groups.
    fn begin<'a>(&mut self, groups: impl Iterator<Item = &'a Arc<Group>>) {
        self.round = self.round.wrapping_add(1);
        self.groups.begin();
        for group in groups {
            self.groups.of(group).is_partial = false;
        }
        self.groups.forget_others();
        self.count = self.groups.values().map(|known| known.living.len()).sum();
    }

    /// Notes what a process has, of all groups that it is in or below.
    fn see(
        &mut self,
        out: &mut Families,
        groups: &[&Arc<Group>],
        pid: u32,
        started: u64,
        stat: SchedStat,
    ) {
        let process = Process {
            started,
            stat,
            round: self.round,
        };
        for group in groups {
            let has_room = self.count < MAX_PROCESSES;
            match self.groups.of(group).see(pid, process, has_room) {
                Some(is_new) => self.count += usize::from(is_new),
                None => self.lack(out, &[group], Some(too_many())),
            }
        }
    }

    /// Notes that sums of these groups would lack something.
    fn lack(&mut self, out: &mut Families, groups: &[&Arc<Group>], error: Option<Error>) {
        let mut is_news = false;
        for group in groups {
            is_news |= !std::mem::replace(&mut self.groups.of(group).is_partial, true);
        }
        if let Some(error) = error.filter(|_| is_news) {
            out.skip(error);
        }
    }
}

impl Known {
    /// Notes what a process has, and says whether it is new; nothing if there is no room.
    fn see(&mut self, pid: u32, process: Process, has_room: bool) -> Option<bool> {
        match self.living.entry(pid) {
            Entry::Occupied(mut known) => {
                let before = known.insert(process);
                if !process.continues(&before) {
                    self.ended = sum(self.ended, before.stat);
                }
                Some(false)
            }
            Entry::Vacant(new) if has_room => {
                new.insert(process);
                Some(true)
            }
            Entry::Vacant(_) => None,
        }
    }

    /// What all had that were ever seen, once those of this scrape were.
    fn total(&mut self, round: u64, is_alive: impl Fn(u32, u64) -> bool) -> SchedStat {
        let ended = &mut self.ended;
        let mut total = SchedStat::default();
        self.living.retain(|pid, process| {
            let stays = process.round == round || is_alive(*pid, process.started);
            let to = if stays { &mut total } else { &mut *ended };
            *to = sum(*to, process.stat);
            stays
        });
        sum(total, self.ended)
    }
}

impl Process {
    /// Whether it is the same that was seen before. Where another thread than the main one
    /// executes a program it takes the main one's place, number and time of start, but
    /// counts for itself.
    fn continues(&self, before: &Self) -> bool {
        let (now, then) = (&self.stat, &before.stat);
        self.started == before.started
            && now.run >= then.run
            && now.waited >= then.waited
            && now.periods >= then.periods
    }
}

fn sum(a: SchedStat, b: SchedStat) -> SchedStat {
    SchedStat {
        run: a.run.saturating_add(b.run),
        waited: a.waited.saturating_add(b.waited),
        periods: a.periods.saturating_add(b.periods),
    }
}

fn process(machine: &Snapshot, pid: u32) -> Result<(u64, SchedStat)> {
    let process = machine.process(pid)?;
    Ok((process.started()?, process.schedstat()?))
}

/// What cannot be read has not ended for sure.
fn is_alive(machine: &Snapshot, pid: u32, started: u64) -> bool {
    match machine.process(pid).and_then(|process| process.started()) {
        Ok(now) => now == started,
        Err(error) => !error.is_vanished(),
    }
}

fn too_many() -> Error {
    Error::api("schedstat", "there are too many processes")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collectors::testing::Machine;

    const GONE: fn(u32, u64) -> bool = |_, _| false;
    const ALIVE: fn(u32, u64) -> bool = |_, _| true;

    fn stat(n: u64) -> SchedStat {
        SchedStat {
            run: Duration::from_nanos(n),
            waited: Duration::from_nanos(n * 10),
            periods: n * 100,
        }
    }

    fn sees(known: &mut Known, round: u64, pid: u32, started: u64, n: u64) {
        let process = Process {
            started,
            stat: stat(n),
            round,
        };
        known.see(pid, process, true).unwrap();
    }

    #[test]
    fn what_an_ended_process_had_stays_in_the_sum() {
        let mut known = Known::default();
        sees(&mut known, 1, 7, 70, 3);
        sees(&mut known, 1, 8, 80, 4);
        assert_eq!(known.total(1, GONE), stat(7));
        sees(&mut known, 2, 7, 70, 5);
        assert_eq!(known.total(2, GONE), stat(9));
        assert_eq!(known.living.len(), 1);
        assert_eq!(known.total(3, GONE), stat(9));
        assert_eq!(known.total(4, GONE), stat(9));
        assert!(known.living.is_empty());
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut known = Known::default();
        sees(&mut known, 1, 7, 70, 3);
        sees(&mut known, 2, 7, 71, 4);
        assert_eq!(known.total(2, GONE), stat(7));
        // The place of its main thread was taken.
        sees(&mut known, 3, 7, 71, 1);
        assert_eq!(known.total(3, GONE), stat(8));
    }

    #[test]
    fn a_process_that_was_out_of_sight_is_not_counted_twice() {
        let mut known = Known::default();
        sees(&mut known, 1, 7, 70, 3);
        assert_eq!(known.total(2, ALIVE), stat(3));
        sees(&mut known, 3, 7, 70, 5);
        assert_eq!(known.total(3, ALIVE), stat(5));
        assert_eq!(known.total(4, GONE), stat(5));
    }

    #[test]
    fn where_there_is_no_room_only_known_processes_go_on() {
        let mut known = Known::default();
        sees(&mut known, 1, 7, 70, 3);
        let process = Process {
            started: 70,
            stat: stat(4),
            round: 2,
        };
        assert_eq!(known.see(7, process, false), Some(false));
        assert_eq!(known.see(8, process, false), None);
        assert_eq!(known.total(2, GONE), stat(4));
    }

    fn write(machine: &Machine, pid: u32, started: u64, schedstat: &str) {
        let stat = format!("{pid} (a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 {started} 1\n");
        machine.write(&format!("proc/{pid}/stat"), &stat);
        machine.write(&format!("proc/{pid}/schedstat"), schedstat);
    }

    fn lines(stats: &mut SchedStats, machine: &Snapshot) -> (Vec<String>, usize) {
        let mut out = Families::default();
        stats.add(&mut out, machine, machine.workloads().unwrap());
        let periods = out.lines().into_iter().filter_map(|line| {
            let line = line.strip_prefix("container_cpu_schedstat_run_periods_total")?;
            Some(line.to_owned())
        });
        (periods.collect(), out.skipped().0)
    }

    #[test]
    fn processes_count_for_their_group_and_for_those_above_it() {
        let machine = Machine::new("container-schedstat");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        let procs = |group: &str| format!("sys/fs/cgroup{group}/cgroup.procs");
        machine.write(&procs(""), "1\n");
        machine.write(&procs("/system.slice/a.service/inside"), "2\n3\n");
        machine.write(&procs("/user.slice"), "");
        for (pid, schedstat) in [(1, "1000000000 5 7\n"), (2, "2 2 20\n"), (3, "3 3 300\n")] {
            write(&machine, pid, 9, schedstat);
        }
        let scrapes = machine.scrapes();
        let mut stats = SchedStats::default();
        let mut out = Families::default();
        let first = scrapes();
        stats.add(&mut out, &first, first.workloads().unwrap());
        let of_root = out
            .lines()
            .into_iter()
            .filter(|line| line.contains(r#"{id="/"}"#));
        assert_eq!(
            of_root.collect::<Vec<_>>(),
            [
                r#"container_cpu_schedstat_run_seconds_total{id="/"} 1.000000005"#,
                r#"container_cpu_schedstat_runqueue_seconds_total{id="/"} 1e-8"#,
                r#"container_cpu_schedstat_run_periods_total{id="/"} 327"#,
            ]
        );
        // One ends, one is another's number by now, and one moves out of sight.
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
        assert_eq!(stats.count, 1 + 3 + 1 - 1);
        // What cannot be read costs the sums that it is part of.
        write(&machine, 2, 10, "x\n");
        let root = (vec![], 1);
        assert_eq!(lines(&mut stats, &scrapes()), root);
        write(&machine, 2, 10, "2 2 2\n");
        assert_eq!(lines(&mut stats, &scrapes()), both(330, 322));
        // The groups go, and all that was known of them.
        machine.remove("sys/fs/cgroup/system.slice");
        machine.remove("proc/2");
        lines(&mut stats, &scrapes());
        assert_eq!(stats.groups.values().count(), 2);
    }

    #[test]
    fn a_kernel_that_does_not_count_says_nothing() {
        let machine = Machine::new("container-schedstat-none");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/cgroup.procs", "1\n2\n");
        write(&machine, 1, 9, "0 0 0\n");
        machine.write("proc/2/stat", "");
        let scrapes = machine.scrapes();
        assert_eq!(
            lines(&mut SchedStats::default(), &scrapes()),
            (vec![], 1),
            "a damaged file"
        );
        machine.remove("proc/2");
        assert_eq!(lines(&mut SchedStats::default(), &scrapes()), (vec![], 0));
        write(&machine, 1, 9, "0 0 1\n");
        assert_eq!(
            lines(&mut SchedStats::default(), &scrapes()).0,
            [r#"{id="/"} 1"#]
        );
    }

    #[test]
    fn processes_out_of_sight_cost_the_sum() {
        let machine = Machine::new("container-schedstat-hidden");
        machine.write("sys/fs/cgroup/cgroup.controllers", "\n");
        machine.write("sys/fs/cgroup/cgroup.procs", "1\n");
        machine.write("sys/fs/cgroup/user.slice/cgroup.procs", "0\n");
        write(&machine, 1, 9, "1 2 3\n");
        let scrapes = machine.scrapes();
        assert_eq!(lines(&mut SchedStats::default(), &scrapes()), (vec![], 0));
    }
}
