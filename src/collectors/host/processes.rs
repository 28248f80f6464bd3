//! Number and states of processes and threads, from the `stat` file of each in `/proc`,
//! documented in `proc_pid_stat(5)`.
//!
//! The most expensive collector on hosts with many threads, and therefore disabled by default:
//! the kernel has no counters by state, so the file of every thread is read. For a
//! single-threaded process one file is read, and one that exits meanwhile is not counted. A sum
//! that lacks a process would be wrong, so the sums are missing if a process is not readable or
//! not visible (mount option `hidepid`).

use std::collections::BTreeMap;

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot, Text},
};

metrics! {
    /// Allocated threads in system.
    THREADS: Gauge = "node_processes_threads" [];
    /// Limit of threads in the system.
    MAX_THREADS: Gauge = "node_processes_max_threads" [];
    /// Number of processes in each state.
    STATE: Gauge = "node_processes_state" ["state"];
    /// Number of threads in each state.
    THREADS_STATE: Gauge = "node_processes_threads_state" ["thread_state"];
    /// Number of PIDs, without the threads of processes.
    PIDS: Gauge = "node_processes_pids" [];
    /// Limit on the number of PIDs.
    MAX_PROCESSES: Gauge = "node_processes_max_processes" [];
}

#[derive(Debug)]
pub(super) struct Processes;

impl Collector for Processes {
    const NAME: &'static str = "processes";
    const ABOUT: &'static str = "process and thread counts by state";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let proc = snapshot.proc_dir("")?;
        let mut out = Families::default();
        for (file, metric) in [
            ("sys/kernel/threads-max", &MAX_THREADS),
            ("sys/kernel/pid_max", &MAX_PROCESSES),
        ] {
            let limit = proc.read_number::<u64>(file);
            if let Some(limit) = out.ok_or_skip(limit) {
                out.add(metric, [], limit);
            }
        }
        let counts = ProcessCounts::read(snapshot, &proc);
        if let Some(counts) = out.ok_or_skip(counts) {
            out.add(&PIDS, [], counts.processes);
            out.add(&THREADS, [], counts.threads);
            for (metric, states) in [
                (&STATE, &counts.states),
                (&THREADS_STATE, &counts.thread_states),
            ] {
                for (state, count) in states {
                    out.add(metric, [state.encode_utf8(&mut [0; 4])], *count);
                }
            }
        }
        Ok(out)
    }
}

#[derive(Default)]
struct ProcessCounts {
    processes: u64,
    threads: u64,
    states: BTreeMap<char, u64>,
    thread_states: BTreeMap<char, u64>,
}

impl ProcessCounts {
    fn read(snapshot: &Snapshot, proc: &Dir) -> Result<Self> {
        let mut counts = Self::default();
        snapshot.check_process_visibility()?;
        for pid in numeric_names(proc)? {
            let Some(process) = ignore_gone(read_task_stat(proc, &format!("{pid}/stat")))? else {
                continue;
            };
            counts.processes += 1;
            counts.threads += u64::from(process.threads);
            *counts.states.entry(process.state).or_default() += 1;
            // The first thread is the process itself.
            *counts.thread_states.entry(process.state).or_default() += 1;
            if process.threads > 1 {
                counts.add_threads(proc, &pid)?;
            }
        }
        Ok(counts)
    }

    fn add_threads(&mut self, proc: &Dir, pid: &str) -> Result<()> {
        let threads = proc.dir(format!("{pid}/task"));
        let Some(threads) = ignore_gone(threads)? else {
            return Ok(());
        };
        let numbers = ignore_gone(numeric_names(&threads))?.unwrap_or_default();
        for tid in numbers.iter().filter(|tid| *tid != pid) {
            let thread = read_task_stat(&threads, &format!("{tid}/stat"));
            if let Some(thread) = ignore_gone(thread)? {
                *self.thread_states.entry(thread.state).or_default() += 1;
            }
        }
        Ok(())
    }
}

/// Lists the entries whose name is a process or thread ID.
fn numeric_names(dir: &Dir) -> Result<Vec<String>> {
    let mut names = dir.names()?;
    names.retain(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    Ok(names
        .iter()
        .filter_map(|name| name.to_str().map(str::to_owned))
        .collect())
}

fn ignore_gone<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Debug, PartialEq)]
struct TaskStat {
    state: char,
    threads: u32,
}

fn read_task_stat(dir: &Dir, path: &str) -> Result<TaskStat> {
    let text = dir.read(path)?;
    parse_task_stat(&text).ok_or_else(|| invalid_stat(&text))
}

fn parse_task_stat(text: &Text) -> Option<TaskStat> {
    // The name may contain anything, including parentheses and line feeds.
    let (_, rest) = text.body().rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    // state is the third field; num_threads is the 20th and an int.
    let threads = words.nth(16)?.parse().ok()?;
    Some(TaskStat { state, threads })
}

fn invalid_stat(text: &Text) -> Error {
    text.error(1, "invalid process state")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 77 18 19";

    fn parsed(text: &str) -> Option<TaskStat> {
        parse_task_stat(&text.into())
    }

    #[test]
    fn a_process_may_have_any_name() {
        for name in ["bash", "tmux: server", ") R 1 (", "a\nb"] {
            let task = parsed(&format!("42 ({name}) S {REST}\n")).unwrap();
            assert_eq!(
                task,
                TaskStat {
                    state: 'S',
                    threads: 77
                },
                "{name}"
            );
        }
        assert_eq!(parsed("42 (bash) S 1 2\n"), None);
        // The sum of two of these overflows.
        let many = REST.replace("77", "18446744073709551615");
        assert_eq!(parsed(&format!("42 (bash) S {many}\n")), None);
    }

    #[test]
    fn exited_process_is_no_error_but_hidden_one_is() {
        let read = |errno| Err::<(), _>(Error::io("/x", std::io::Error::from_raw_os_error(errno)));
        assert!(ignore_gone(read(libc::ESRCH)).unwrap().is_none());
        assert!(ignore_gone(read(libc::ENOENT)).unwrap().is_none());
        assert!(ignore_gone(read(libc::EPERM)).is_err());
    }
}
