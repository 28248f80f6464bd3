//! Reads `/proc/PID` of one process, documented in `proc(5)`.
//!
//! A process is held by an open descriptor of its directory: once it ends, its number may be
//! reused, but all reads through the descriptor fail.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::SplitAsciiWhitespace,
    time::Duration,
};

use rustix::io::Errno;

use super::{
    Dir, ResourceBudget, Snapshot, Text, net_dev::interface_rows,
    self_process::fd_dir_size_counts_fds,
};
use crate::error::{Error, Result};

/// Prefix of the link target of a socket.
const SOCKET_LINK_PREFIX: &str = "socket:[";

/// Scheduler statistics of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadSchedStat {
    /// Time spent on CPUs.
    pub run_time: Duration,
    /// Time spent waiting for a CPU.
    pub run_delay: Duration,
    /// Number of time slices run.
    pub timeslices: u64,
}

/// A process, which may have ended.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    dir: Dir,
}

/// Traffic of a network interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Received bytes, packets, errors and dropped packets.
    pub received: [u64; 4],
    /// The same counters for transmission.
    pub sent: [u64; 4],
}

/// Sum of the traffic of several network interfaces, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TotalTraffic {
    /// Received bytes.
    pub received: u64,
    /// Transmitted bytes.
    pub sent: u64,
    /// Hash of the interface names: a different value means that other interfaces were summed.
    pub interfaces_hash: u64,
}

/// A network namespace. Two that exist at the same time differ; the number of a removed one may be
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetworkNamespace {
    device: u64,
    inode: u64,
}

impl Snapshot {
    /// Opens the process with this ID, if it exists.
    pub fn process(&self, pid: u32) -> Result<Process> {
        match self.proc_dir(pid.to_string()) {
            Ok(dir) => Ok(Process { pid, dir }),
            Err(error) if error.is_gone() => {
                self.check_process_visibility()?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns an error if other users' processes may be hidden: with `hidepid=2`, procfs hides
    /// them as if they had ended. Checked with process 1, which always exists and belongs to root.
    pub fn check_process_visibility(&self) -> Result<()> {
        let proc = self.proc_dir("")?;
        if proc.is_procfs() && !self.can_see_other_processes() {
            return Err(Error::io(proc.path().join("1"), Errno::ACCESS));
        }
        Ok(())
    }

    /// Maximum number of processes to keep open between scrapes; each takes one descriptor.
    #[must_use]
    pub fn max_process_dirs(&self) -> usize {
        ResourceBudget::for_this_process().process_dirs
    }
}

impl Process {
    /// Its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Reads one of its files.
    pub fn read(&self, file: impl AsRef<Path>) -> Result<Text> {
        self.dir.read(file)
    }

    /// Whether it is in this cgroup or in a descendant of it.
    pub fn is_in_cgroup(&self, path: &str) -> Result<bool> {
        Ok(is_in_cgroup(self.read("cgroup")?.body(), path))
    }

    /// Returns its network namespace.
    ///
    /// The link `ns/net` identifies the namespace as well, but requires ptrace permission.
    /// Instead, this stats a file that each namespace has for itself and that everyone may access.
    pub fn network_namespace(&self) -> Result<NetworkNamespace> {
        let stat = self.dir.stat("net/dev")?;
        Ok(NetworkNamespace {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Returns the traffic of the network interfaces in its namespace, by name.
    pub fn link_traffic(&self) -> Result<HashMap<String, LinkTraffic>> {
        parse_link_traffic(&self.read("net/dev")?)
    }

    /// Returns the summed traffic of the network interfaces that pass the filter. Does not
    /// allocate.
    pub fn total_traffic(&self, filter: impl Fn(&str) -> bool) -> Result<TotalTraffic> {
        self.dir
            .with_bytes("net/dev", |table| parse_total_traffic(table, filter))
    }

    /// Number of its open files. Before Linux 6.2, this requires ptrace permission.
    pub fn open_files(&self) -> Result<u64> {
        // Since 6.2, the directory's size is this number and needs no permission.
        match u64::try_from(self.dir.stat("fd")?.st_size) {
            Ok(count) if self.dir.is_procfs() && (count > 0 || fd_dir_size_counts_fds()) => {
                Ok(count)
            }
            _ => Ok(self.dir.dir("fd")?.names()?.len() as u64),
        }
    }

    /// Number of its open sockets. Requires ptrace permission.
    pub fn open_sockets(&self) -> Result<u64> {
        let files = self.dir.dir("fd")?;
        let mut sockets = 0;
        for file in files.names()? {
            match files.read_link_name(file) {
                Ok(target) => sockets += u64::from(target.starts_with(SOCKET_LINK_PREFIX)),
                // It was closed in the meantime.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// States of its threads, as the kernel's letters: `R`, `S`, `D`, `T`, …
    pub fn thread_states(&self) -> Result<Vec<char>> {
        let (state, threads) = parse_state_and_threads(&self.read("stat")?)?;
        if threads == 1 {
            return Ok(vec![state]);
        }
        let tasks = self.dir.dir("task")?;
        let mut states = Vec::new();
        for task in tasks.names()? {
            let stat = PathBuf::from(task).join("stat");
            match tasks
                .read(stat)
                .and_then(|stat| parse_state_and_threads(&stat))
            {
                Ok((state, _)) => states.push(state),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(states)
    }

    /// IDs of its threads.
    pub fn threads(&self) -> Result<Vec<u32>> {
        let names = self.dir.dir("task")?.names()?;
        let threads = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        Ok(threads.collect())
    }

    /// Name of one of its threads.
    pub fn thread_name(&self, tid: u32) -> Result<String> {
        Ok(self
            .read(format!("task/{tid}/comm"))?
            .body()
            .trim_end()
            .to_owned())
    }

    /// Scheduler statistics of one of its threads; all 0 if the kernel does not account them.
    pub fn thread_schedstat(&self, tid: u32) -> Result<ThreadSchedStat> {
        parse_schedstat(&self.read(format!("task/{tid}/schedstat"))?)
    }

    /// The CPU on which one of its threads ran last.
    pub fn thread_cpu(&self, tid: u32) -> Result<u32> {
        parse_last_cpu(&self.read(format!("task/{tid}/stat"))?)
    }

    /// Wait time of one of its threads; 0 unless `kernel.sched_schedstats` is enabled.
    pub fn thread_wait_sum(&self, tid: u32) -> Result<Duration> {
        parse_wait_sum(&self.read(format!("task/{tid}/sched"))?)
    }

    /// Start time in clock ticks since boot. It distinguishes processes that had the same ID.
    pub fn start_time(&self) -> Result<u64> {
        parse_start_time(&self.read("stat")?)
    }

    /// Scheduler statistics of its main thread; the kernel has no sum over threads. All 0 if the
    /// kernel does not account them.
    pub fn schedstat(&self) -> Result<ThreadSchedStat> {
        parse_schedstat(&self.read("schedstat")?)
    }

    /// Bytes of its memory that were referenced since they were last marked as unreferenced, which
    /// the kernel does on its own under memory pressure. The kernel inspects every page for this.
    /// Requires ptrace permission; kernel threads have no memory.
    pub fn referenced_bytes(&self) -> Result<u64> {
        parse_referenced(&self.read("smaps_rollup")?)
    }

    /// Soft limit of its open files; `None` if unlimited.
    pub fn open_files_limit(&self) -> Result<Option<u64>> {
        parse_open_files_limit(&self.read("limits")?)
    }
}

/// Whether one of the lines `hierarchy:controllers:path` matches.
fn is_in_cgroup(cgroup: &str, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let mut paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|line_path| {
        line_path
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Parses fields 3 and 20 of `stat`.
fn parse_state_and_threads(stat: &Text) -> Result<(char, u64)> {
    let mut fields = fields_after_comm(stat);
    let state = fields.next().and_then(|state| state.parse().ok());
    let threads = fields.nth(16).and_then(|threads| threads.parse().ok());
    let both = state.zip(threads);
    both.ok_or_else(|| stat.error(1, "state or thread count is missing"))
}

/// Parses field 22 of `stat`.
fn parse_start_time(stat: &Text) -> Result<u64> {
    let started = fields_after_comm(stat).nth(19);
    let started = started.and_then(|started| started.parse().ok());
    started.ok_or_else(|| stat.error(1, "start time is missing"))
}

/// Parses field 39 of `stat`.
fn parse_last_cpu(stat: &Text) -> Result<u32> {
    let cpu = fields_after_comm(stat)
        .nth(36)
        .and_then(|cpu| cpu.parse().ok());
    cpu.ok_or_else(|| stat.error(1, "last CPU is missing"))
}

/// Returns the fields of `stat` from the third on. The second is a name in parentheses that may
/// contain any character.
fn fields_after_comm(stat: &Text) -> SplitAsciiWhitespace<'_> {
    let fields = stat.body().rsplit_once(')').map(|(_, fields)| fields);
    fields.unwrap_or_default().split_ascii_whitespace()
}

/// Parses `411948 90210 7`: nanoseconds run, nanoseconds waited, time slices.
fn parse_schedstat(text: &Text) -> Result<ThreadSchedStat> {
    let mut fields = text.line()?;
    Ok(ThreadSchedStat {
        run_time: Duration::from_nanos(fields.parse("run time")?),
        run_delay: Duration::from_nanos(fields.parse("run delay")?),
        timeslices: fields.parse("timeslices")?,
    })
}

/// Parses `wait_sum     :     1234.567890`, in milliseconds; prefixed by `se.statistics.` before
/// Linux 5.16.
fn parse_wait_sum(sched: &Text) -> Result<Duration> {
    let wait = sched.body().lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_wait = name.trim_end().rsplit('.').next() == Some("wait_sum");
        is_wait.then_some(value.trim())
    });
    let wait = wait.and_then(|wait| wait.parse::<f64>().ok());
    let wait = wait.and_then(|wait| Duration::try_from_secs_f64(wait / 1e3).ok());
    wait.ok_or_else(|| sched.error(1, "wait_sum is missing"))
}

/// Returns all interfaces or an error, because callers need complete data.
fn parse_link_traffic(table: &Text) -> Result<HashMap<String, LinkTraffic>> {
    let rows = interface_rows(table.body().as_bytes());
    let links = rows.map(|(number, row)| {
        let link = row.and_then(|row| {
            let counters = row.counters()?;
            let four = |from: usize| counters.get(from..)?.first_chunk().copied();
            let (received, sent) = (four(0)?, four(8)?);
            Some((row.name.to_owned(), LinkTraffic { received, sent }))
        });
        link.ok_or_else(|| table.error(number, "interface counters are missing"))
    });
    links.collect()
}

/// Sums the interfaces that pass the filter.
fn parse_total_traffic(
    table: &[u8],
    filter: impl Fn(&str) -> bool,
) -> Result<TotalTraffic, &'static str> {
    let mut total = TotalTraffic::default();
    for (_, row) in interface_rows(table) {
        let row = row.ok_or("colon after interface name is missing")?;
        if !filter(row.name) {
            continue;
        }
        let counters = row.counters().ok_or("interface counters are missing")?;
        let [received, _, _, _, _, _, _, _, sent, ..] = counters;
        total.received = total.received.saturating_add(received);
        total.sent = total.sent.saturating_add(sent);
        // FNV-1a, with a terminator after each name.
        for byte in row.name.bytes().chain([b'/']) {
            total.interfaces_hash =
                (total.interfaces_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(total)
}

/// Parses `Referenced:         1234 kB`.
fn parse_referenced(rollup: &Text) -> Result<u64> {
    let mut lines = rollup.lines();
    let found = lines.find_map(|mut line| (line.next_word()? == "Referenced:").then_some(line));
    let mut line = found.ok_or_else(|| rollup.error(1, "Referenced is missing"))?;
    let kilobytes: u64 = line.parse("Referenced")?;
    Ok(kilobytes.saturating_mul(1024))
}

/// Parses `Max open files            1024                 524288               files`.
fn parse_open_files_limit(limits: &Text) -> Result<Option<u64>> {
    for (number, line) in (1..).zip(limits.body().lines()) {
        let Some(rest) = line.strip_prefix("Max open files") else {
            continue;
        };
        return match rest.split_ascii_whitespace().next() {
            Some("unlimited") => Ok(None),
            Some(limit) => match limit.parse() {
                Ok(limit) => Ok(Some(limit)),
                Err(_) => Err(limits.error(number, format_args!("not a number: {limit:?}"))),
            },
            None => Err(limits.error(number, "limit is missing")),
        };
    }
    Err(Error::NotFound(limits.path().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current_process() -> Process {
        Snapshot::for_test_host()
            .process(std::process::id())
            .unwrap()
    }

    #[test]
    fn process_is_in_its_cgroup_and_all_ancestors() {
        let cgroup = "3:memory:/a/b\n1:name=systemd:/x:y\n0::/u\n";
        for path in ["/", "/a", "/a/b", "/x:y", "/u"] {
            assert!(is_in_cgroup(cgroup, path), "{path}");
        }
        for path in ["/a/b/c", "/a/", "/b", "/x"] {
            assert_eq!(is_in_cgroup(cgroup, path), path == "/a/", "{path}");
        }
        assert!(!is_in_cgroup("0::/ab\n", "/a"));
        assert!(!is_in_cgroup("", "/"));
        assert!(current_process().is_in_cgroup("/").unwrap());
    }

    #[test]
    fn total_traffic_sums_filtered_interfaces() {
        let table =
            b"head\nhead\n    lo: 9 9 9 9 9 9 9 9 9 9 9 9\n  eth0:100 2 3 4 5 6 7 8 50 10 11 12\n\
                      a:1: 1 2 3 4 5 6 7 8 2 10 11 12\n";
        let all = parse_total_traffic(table, |name| name != "lo").unwrap();
        assert_eq!((all.received, all.sent), (101, 52));
        let one = parse_total_traffic(table, |name| name == "eth0").unwrap();
        assert_eq!((one.received, one.sent), (100, 50));
        assert_ne!(one.interfaces_hash, all.interfaces_hash);
        assert_eq!(
            parse_total_traffic(b"head\nhead\n", |_| true),
            Ok(TotalTraffic::default())
        );
        for row in [
            "eth0 1 2",
            "eth0: 1 2 3 4 5 6 7 8 9 10 11",
            "eth0: x 2 3 4 5 6 7 8 9 10 11 12",
        ] {
            let table = format!("head\nhead\n{row}\n");
            assert!(
                parse_total_traffic(table.as_bytes(), |_| true).is_err(),
                "{row}"
            );
        }
        assert!(current_process().total_traffic(|_| true).is_ok());
    }

    #[test]
    fn parentheses_in_name_do_not_hide_state() {
        let fields = "D 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 99 18";
        let stat = Text::from(format!("7 (a) R (b) {fields}").as_str());
        assert_eq!(parse_state_and_threads(&stat).unwrap(), ('D', 99));
        let error = parse_state_and_threads(&Text::from("7 (a) R 1\n")).unwrap_err();
        let expected = "test:1: state or thread count is missing";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn start_time_distinguishes_reused_process_ids() {
        let stat = "7 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 99 18 4711 20\n";
        assert_eq!(parse_start_time(&Text::from(stat)).unwrap(), 4711);
        for bad in ["7 (a) R 1\n", ""] {
            let error = parse_start_time(&Text::from(bad)).unwrap_err();
            assert_eq!(error.to_string(), "test:1: start time is missing");
        }
        let parent = Snapshot::for_test_host()
            .process(std::os::unix::process::parent_id())
            .unwrap();
        assert!(parent.start_time().unwrap() <= current_process().start_time().unwrap());
    }

    #[test]
    fn parses_last_cpu_of_thread() {
        let fields: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("7 (CPU 1/KVM) S {}\n", fields.join(" "));
        assert_eq!(parse_last_cpu(&Text::from(stat.as_str())).unwrap(), 39);
        let error = parse_last_cpu(&Text::from("7 (a) S 1 2\n")).unwrap_err();
        assert_eq!(error.to_string(), "test:1: last CPU is missing");
    }

    #[test]
    fn parses_schedstat_nanoseconds_and_timeslices() {
        let expected = ThreadSchedStat {
            run_time: Duration::from_nanos(411_948),
            run_delay: Duration::from_nanos(90_210),
            timeslices: 7,
        };
        assert_eq!(
            parse_schedstat(&Text::from("411948 90210 7\n")).unwrap(),
            expected
        );
        for bad in ["", "1 2\n", "1 -2 3\n"] {
            assert!(parse_schedstat(&Text::from(bad)).is_err(), "{bad:?}");
        }
        assert!(
            current_process()
                .schedstat()
                .is_ok_and(|stat| stat.timeslices > 0)
        );
    }

    #[test]
    fn parses_wait_sum_under_both_names() {
        let wait = |sched: &str| parse_wait_sum(&Text::from(sched));
        let old = "x (1, #threads: 2)\nse.statistics.wait_sum   :     12.500000\n";
        assert_eq!(wait(old).unwrap(), Duration::from_micros(12_500));
        let new = "wait_max   :   9.0\nwait_sum   :   0.000250\nwait_count  :   7\n";
        assert_eq!(wait(new).unwrap(), Duration::from_nanos(250));
        for bad in ["", "wait_count : 7\n", "wait_sum : x\n", "wait_sum : -1\n"] {
            let error = wait(bad).unwrap_err();
            assert_eq!(error.to_string(), "test:1: wait_sum is missing", "{bad:?}");
        }
    }

    #[test]
    fn threads_have_their_own_names_and_statistics() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tid_tx, tid_rx) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("CPU 3/TCG".to_owned());
        let thread = thread.spawn(move || {
            tid_tx.send(rustix::thread::gettid()).unwrap();
            stopped.recv().ok();
        });
        let tid = tid_rx
            .recv()
            .unwrap()
            .as_raw_nonzero()
            .get()
            .try_into()
            .unwrap();
        let process = current_process();
        assert!(process.threads().unwrap().contains(&tid));
        assert_eq!(process.thread_name(tid).unwrap(), "CPU 3/TCG");
        let stat = process.thread_schedstat(tid).unwrap();
        let cpus = Snapshot::for_test_host().read_proc("stat").unwrap();
        let cpu = format!("cpu{} ", process.thread_cpu(tid).unwrap());
        assert!(cpus.body().contains(&cpu), "{cpu}");
        assert!(
            stat.timeslices > 0
                && stat.run_time < process.schedstat().unwrap().run_time + stat.run_time
        );
        drop(stop);
        thread.unwrap().join().unwrap();
        assert!(process.thread_name(tid).unwrap_err().is_gone());
        assert!(!process.threads().unwrap().contains(&tid));
    }

    #[test]
    fn parses_columns_of_net_dev() {
        let header = "Inter-|   Receive |  Transmit\n face |bytes    packets |bytes\n";
        let table =
            |rows: &str| parse_link_traffic(&Text::from(format!("{header}{rows}").as_str()));
        let links = table(
            "    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n a:b:1 2 3 4 5 6 7 8 9 10 11 12\n",
        );
        let expected = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [9, 10, 11, 12],
        };
        let both = ["lo", "a:b"].map(|name| (name.to_owned(), expected));
        assert_eq!(links.unwrap(), both.into());
        for bad in ["lo 1\n", "lo: 1 2 3\n", "lo: 1 2 3 4 5 6 7 8 9 x 11 12\n"] {
            let error = table(bad).unwrap_err();
            assert_eq!(
                error.to_string(),
                "test:3: interface counters are missing",
                "{bad:?}"
            );
        }
        assert!(current_process().link_traffic().unwrap().contains_key("lo"));
    }

    #[test]
    fn referenced_memory_is_in_kilobytes() {
        let rollup = "55d0-7ffd ---p 0 00:00 0 [rollup]\nRss: 9 kB\nReferenced:   8 kB\n";
        assert_eq!(parse_referenced(&Text::from(rollup)).unwrap(), 8192);
        let error = parse_referenced(&Text::from("Rss: 9 kB\n")).unwrap_err();
        assert_eq!(error.to_string(), "test:1: Referenced is missing");
        assert!(parse_referenced(&Text::from("Referenced: x kB\n")).is_err());
        match current_process().referenced_bytes() {
            Ok(bytes) => assert!(bytes > 0 && bytes.is_multiple_of(1024)),
            Err(error) => assert!(error.is_gone(), "{error}"),
        }
    }

    #[test]
    fn open_files_limit_is_the_first_column() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n";
        let limit = |limits: &str| parse_open_files_limit(&Text::from(limits));
        assert_eq!(limit(limits).unwrap(), Some(1024));
        assert_eq!(limit("Max open files unlimited 9 files").unwrap(), None);
        assert!(limit("").unwrap_err().is_gone());
        let error = limit("\nMax open files x\n").unwrap_err();
        assert_eq!(error.to_string(), r#"test:2: not a number: "x""#);
        assert!(current_process().open_files_limit().unwrap().unwrap() > 0);
    }

    #[test]
    fn counts_files_sockets_and_threads_of_a_process() {
        let process = current_process();
        let before = process.open_files().unwrap();
        let sockets: Vec<_> = (0..32)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        // Other tests open and close files meanwhile, but not as many.
        assert!(process.open_files().unwrap() > before + 8);
        assert!(process.open_sockets().unwrap() >= sockets.len() as u64);
        assert!(process.thread_states().unwrap().contains(&'R'));
    }

    #[test]
    fn threads_share_a_network_namespace_unless_unshared() {
        let ours = current_process().network_namespace().unwrap();
        let theirs = Snapshot::for_test_host()
            .process(std::os::unix::process::parent_id())
            .unwrap();
        assert_eq!(theirs.network_namespace().unwrap(), ours);
    }

    #[test]
    fn ended_process_is_not_confused_with_its_successor() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Snapshot::for_test_host().process(child.id()).unwrap();
        assert!(process.network_namespace().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.network_namespace().unwrap_err().is_gone());
        assert!(process.read("net/dev").unwrap_err().is_gone());
        assert!(
            Snapshot::for_test_host()
                .process(child.id())
                .unwrap_err()
                .is_gone()
        );
    }
}
