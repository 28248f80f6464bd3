use std::{
    fs,
    sync::mpsc::{self, Receiver, Sender},
};

use super::{
    target::{SampleTarget, TargetKind},
    *,
};
use crate::{
    history::Series,
    sources::cgroup::{CgroupReader, testing::TempTree},
};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const CGROUPS: &str = "sys/fs/cgroup";
/// Longer than any read that is not blocked.
const LONG: Duration = Duration::from_secs(60);

fn cgroup() -> String {
    format!("{CGROUPS}/docker/{ID}")
}

/// Writes the container's counters: CPU time in µs, bytes in memory, received and written.
fn write_usage(tree: &TempTree, [cpu, memory, received, written]: [u64; 4]) {
    let cgroup = cgroup();
    tree.write(
        &format!("{cgroup}/cpu.stat"),
        &format!("usage_usec {cpu}\n"),
    );
    tree.write(&format!("{cgroup}/memory.current"), &format!("{memory}\n"));
    tree.write(&format!("{cgroup}/pids.current"), "3\n");
    let io = format!("8:16 rbytes=512 wbytes={written}\n7:0 rbytes=999999 wbytes=9999999\n");
    tree.write(&format!("{cgroup}/io.stat"), &io);
    tree.write(&format!("{cgroup}/cgroup.procs"), "40\n");
    let table = format!(
        "head\nhead\n lo: 9 9 9 9 9 9 9 9 9 9 9 9\n eth0: {received} 2 3 4 5 6 7 8 50 10 11 12\n"
    );
    tree.write("proc/40/net/dev", &table);
}

fn host_tree(name: &str) -> TempTree {
    let tree = TempTree::new(&format!("sampler-{name}"));
    tree.write(
        &format!("{CGROUPS}/cgroup.controllers"),
        "cpu io memory pids\n",
    );
    tree.write(&format!("{CGROUPS}/cpu.stat"), "usage_usec 5000000\n");
    tree.write("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 60 kB\n");
    tree.write("proc/loadavg", "0 0 0 1/77 9\n");
    write_usage(&tree, [1_000_000, 8192, 100, 1024]);
    tree
}

struct SamplerFixture {
    sampler: Sampler,
    history: Arc<History>,
}

impl SamplerFixture {
    fn new(tree: &TempTree) -> Self {
        let sampler = Sampler::new(&tree.roots().into());
        let history = Arc::clone(&sampler.history);
        Self { sampler, history }
    }

    fn round(&self, refresh: bool) {
        // Two samples in the same millisecond would be stored as one.
        thread::sleep(Duration::from_millis(3));
        self.sampler.sample_all(refresh, LONG);
    }

    fn container(&self) -> Arc<Series> {
        self.history.container(ID).unwrap()
    }

    fn skipped(&self, reason: SkipReason) -> u64 {
        let skipped = self.history.status().skipped;
        skipped.iter().find(|(it, _)| *it == reason).unwrap().1
    }
}

#[test]
fn samples_changes_between_discoveries() {
    let tree = host_tree("seen");
    let samples = SamplerFixture::new(&tree);
    samples.round(true);
    write_usage(&tree, [1_500_000, 3 << 20, 150, 5120]);
    samples.round(false);
    write_usage(&tree, [1_600_000, 4096, 175, 5120]);
    samples.round(false);
    let all = samples.container().window(LONG);
    assert_eq!((all.samples, all.restarts), (3, 0));
    assert_eq!((all.received, all.sent), (Some(75), Some(0)));
    // Writes of a loop device are also counted by the device below it.
    assert_eq!((all.read, all.written), (Some(0), Some(4096)));
    let memory = all.memory.unwrap();
    assert_eq!((memory.peak, memory.minimum), (3 << 20, 4096));
    let points = samples.container().points(9);
    let used = points.iter().filter_map(|point| point.cpu_percent);
    let cpu = all.cpu_percent.unwrap();
    assert!(used.clone().any(|used| used >= cpu.peak));
    assert!(used.count() == 2 && cpu.peak > cpu.minimum && cpu.minimum > 0.0);
    assert_eq!(points[0].pids, Some(3));
    let host = samples.history.host().latest().unwrap();
    assert_eq!((host.memory, host.pids), (Some(40 << 10), Some(77)));
    assert_eq!(host.cpu_percent, Some(0.0));
    assert_eq!(samples.history.status().samples, 6);
}

#[test]
fn recreated_container_has_restarted_and_counts_from_zero() {
    let tree = host_tree("recreated");
    let samples = SamplerFixture::new(&tree);
    samples.round(true);
    let old = format!("{}-old", cgroup());
    fs::rename(tree.path(&cgroup()), tree.path(&old)).unwrap();
    write_usage(&tree, [2_000_000, 4096, 100, 1024]);
    samples.round(true);
    let all = samples.container().window(LONG);
    assert_eq!((all.samples, all.restarts), (2, 1));
    // Not only the increase over the previous value.
    assert_eq!((all.read, all.written), (Some(512), Some(1024)));
    // Its namespace has the inode number of the old one, so the baseline is unknown.
    assert_eq!(all.received, None);
}

#[test]
fn unreadable_values_are_missing_and_gone_is_no_failure() {
    let tree = host_tree("gone");
    let samples = SamplerFixture::new(&tree);
    samples.round(true);
    tree.write(&format!("{}/memory.current", cgroup()), "x\n");
    samples.round(false);
    let latest = samples.container().latest().unwrap();
    assert_eq!(latest.memory, None);
    assert_eq!(
        (latest.pids, samples.skipped(SkipReason::Failed)),
        (Some(3), 0)
    );
    for file in ["cpu.stat", "memory.current", "pids.current", "io.stat"] {
        tree.write(&format!("{}/{file}", cgroup()), "rbytes x\n8:0 rbytes=x\n");
    }
    tree.write(&format!("{}/cpu.stat", cgroup()), "usage_usec x\n");
    samples.round(false);
    assert_eq!(samples.container().points(9).len(), 2);
    assert_eq!(samples.skipped(SkipReason::Failed), 1);
    fs::remove_dir_all(tree.path(&cgroup())).unwrap();
    samples.round(false);
    assert!(samples.sampler.queue.wants_look());
    assert_eq!(samples.skipped(SkipReason::Failed), 1);
    samples.round(true);
    assert!(!samples.sampler.queue.wants_look());
    assert!(samples.container().is_gone());
    assert_eq!(samples.container().points(9).len(), 2);
}

/// A reader that is blocked until it is released.
fn slow_reader(
    queue: &Arc<Desk>,
    worker_id: u64,
    release: Receiver<()>,
) -> Receiver<SampleOutcome> {
    let desk = Arc::clone(queue);
    let (send_outcome, outcomes) = mpsc::channel();
    let read = move || {
        while let Some(Job::Sample(target)) = desk.next(worker_id) {
            let outcome = target.sample(|_, _| {
                release.recv().ok();
                true
            });
            send_outcome.send(outcome).unwrap();
        }
        desk.leave(worker_id);
    };
    thread::spawn(read);
    outcomes
}

fn targets(tree: &TempTree, history: &History) -> Vec<Arc<SampleTarget>> {
    let cgroups = CgroupReader::new(&tree.roots());
    let cgroups = cgroups.walk(|path| path.contains("/docker/")).unwrap();
    let ids = cgroups.iter().map(|cgroup| (cgroup.path(), cgroup.path()));
    let series = history.update_containers(ids, LONG);
    let target = |(cgroup, series): (&Arc<_>, Option<_>)| {
        Arc::new(SampleTarget::new(TargetKind::Container {
            series: series.unwrap(),
            cgroup: Arc::clone(cgroup),
            process: None,
        }))
    };
    cgroups.iter().zip(series).map(target).collect()
}

#[test]
fn blocked_target_is_skipped_and_others_are_sampled() {
    let tree = host_tree("hangs");
    let other = format!("{CGROUPS}/docker/{}", ID.replace('0', "f"));
    tree.write(&format!("{other}/pids.current"), "5\n");
    let history = History::new(crate::history::HistoryFlags::default());
    let desk = Arc::new(Desk::default());
    desk.found(targets(&tree, &history));
    let blocked_series = history.container(&format!("/docker/{ID}")).unwrap();

    desk.begin(false);
    assert_eq!(desk.wait(LONG), Waited::Nobody);
    let (release, blocked): (Sender<()>, _) = mpsc::channel();
    let first = slow_reader(&desk, desk.hire(2).unwrap(), blocked);
    assert_eq!(desk.wait(Duration::from_millis(50)), Waited::Hung(true));
    assert_eq!(desk.wait(LONG), Waited::Nobody);
    let (go, blocked) = mpsc::channel();
    drop(go);
    let second = slow_reader(&desk, desk.hire(2).unwrap(), blocked);
    assert_eq!(desk.wait(LONG), Waited::Done);
    assert_eq!(second.recv().unwrap(), SampleOutcome::Sampled);

    // Still blocked.
    desk.begin(false);
    assert_eq!(desk.wait(LONG), Waited::Done);
    let outcomes: Vec<_> = second.iter().take(2).collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|it| **it == SampleOutcome::Busy)
            .count(),
        1
    );
    assert_eq!(blocked_series.points(9).len(), 0);

    // It returns, but too late.
    drop(release);
    assert_eq!(first.recv().unwrap(), SampleOutcome::Abandoned);
    assert_eq!(blocked_series.points(9).len(), 0);
    desk.begin(false);
    assert_eq!(desk.wait(LONG), Waited::Done);
    assert_eq!(blocked_series.points(9).len(), 1);
}

#[test]
fn rounds_stay_on_schedule_and_are_not_made_up_for() {
    let last = Instant::now();
    let interval = Duration::from_secs(5);
    let at = |millis| last + Duration::from_millis(millis);
    assert_eq!(next_round(last, at(20), interval), (at(5_000), 0));
    assert_eq!(next_round(last, at(5_000), interval), (at(5_000), 0));
    assert_eq!(next_round(last, at(5_001), interval), (at(10_000), 1));
    assert_eq!(
        next_round(last, at(3_600_000), interval),
        (at(3_600_000), 719)
    );
}
