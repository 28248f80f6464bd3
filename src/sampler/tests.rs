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
const GROUPS: &str = "sys/fs/cgroup";
/// More than any read takes that does not hang.
const LONG: Duration = Duration::from_secs(60);

fn group() -> String {
    format!("{GROUPS}/docker/{ID}")
}

/// What the container did so far: CPU time in µs, bytes in memory, received and written.
fn write_usage(tree: &TempTree, [cpu, memory, received, written]: [u64; 4]) {
    let group = group();
    tree.write(&format!("{group}/cpu.stat"), &format!("usage_usec {cpu}\n"));
    tree.write(&format!("{group}/memory.current"), &format!("{memory}\n"));
    tree.write(&format!("{group}/pids.current"), "3\n");
    let io = format!("8:16 rbytes=512 wbytes={written}\n7:0 rbytes=999999 wbytes=9999999\n");
    tree.write(&format!("{group}/io.stat"), &io);
    tree.write(&format!("{group}/cgroup.procs"), "40\n");
    let table = format!(
        "head\nhead\n lo: 9 9 9 9 9 9 9 9 9 9 9 9\n eth0: {received} 2 3 4 5 6 7 8 50 10 11 12\n"
    );
    tree.write("proc/40/net/dev", &table);
}

fn host_tree(name: &str) -> TempTree {
    let tree = TempTree::new(&format!("sampler-{name}"));
    tree.write(
        &format!("{GROUPS}/cgroup.controllers"),
        "cpu io memory pids\n",
    );
    tree.write(&format!("{GROUPS}/cpu.stat"), "usage_usec 5000000\n");
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
        // Two samples in one millisecond would be one.
        thread::sleep(Duration::from_millis(3));
        self.sampler.sample_all(refresh, LONG);
    }

    fn container(&self) -> Arc<Series> {
        self.history.container(ID).unwrap()
    }

    fn skipped(&self, why: SkipReason) -> u64 {
        let skipped = self.history.status().skipped;
        skipped.iter().find(|(it, _)| *it == why).unwrap().1
    }
}

#[test]
fn what_a_container_does_between_two_looks_is_seen() {
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
    // A loop device's writes are those of what it lies on.
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
fn a_container_that_was_made_anew_has_restarted_and_counts_from_0() {
    let tree = host_tree("anew");
    let samples = SamplerFixture::new(&tree);
    samples.round(true);
    let old = format!("{}-old", group());
    fs::rename(tree.path(&group()), tree.path(&old)).unwrap();
    write_usage(&tree, [2_000_000, 4096, 100, 1024]);
    samples.round(true);
    let all = samples.container().window(LONG);
    assert_eq!((all.samples, all.restarts), (2, 1));
    // Not only what it is more than before.
    assert_eq!((all.read, all.written), (Some(512), Some(1024)));
    // Its namespace has the old one's number: nobody knows which it is.
    assert_eq!(all.received, None);
}

#[test]
fn what_cannot_be_read_is_missing_and_what_is_gone_is_looked_for_and_no_failure() {
    let tree = host_tree("gone");
    let samples = SamplerFixture::new(&tree);
    samples.round(true);
    tree.write(&format!("{}/memory.current", group()), "x\n");
    samples.round(false);
    let latest = samples.container().latest().unwrap();
    assert_eq!(latest.memory, None);
    assert_eq!(
        (latest.pids, samples.skipped(SkipReason::Failed)),
        (Some(3), 0)
    );
    for file in ["cpu.stat", "memory.current", "pids.current", "io.stat"] {
        tree.write(&format!("{}/{file}", group()), "rbytes x\n8:0 rbytes=x\n");
    }
    tree.write(&format!("{}/cpu.stat", group()), "usage_usec x\n");
    samples.round(false);
    assert_eq!(samples.container().points(9).len(), 2);
    assert_eq!(samples.skipped(SkipReason::Failed), 1);
    fs::remove_dir_all(tree.path(&group())).unwrap();
    samples.round(false);
    assert!(samples.sampler.queue.wants_look());
    assert_eq!(samples.skipped(SkipReason::Failed), 1);
    samples.round(true);
    assert!(!samples.sampler.queue.wants_look());
    assert!(samples.container().is_gone());
    assert_eq!(samples.container().points(9).len(), 2);
}

/// A reader whose disks are not known before it is told so.
fn slow_reader(
    queue: &Arc<Desk>,
    worker_id: u64,
    release: Receiver<()>,
) -> Receiver<SampleOutcome> {
    let desk = Arc::clone(queue);
    let (say, said) = mpsc::channel();
    let read = move || {
        while let Some(Job::Sample(target)) = desk.next(worker_id) {
            let outcome = target.sample(|_, _| {
                release.recv().ok();
                true
            });
            say.send(outcome).unwrap();
        }
        desk.leave(worker_id);
    };
    thread::spawn(read);
    said
}

fn targets(tree: &TempTree, history: &History) -> Vec<Arc<SampleTarget>> {
    let groups = CgroupReader::new(&tree.roots());
    let groups = groups.walk(|path| path.contains("/docker/")).unwrap();
    let ids = groups.iter().map(|group| (group.path(), group.path()));
    let series = history.update_containers(ids, LONG);
    let target = |(group, series): (&Arc<_>, Option<_>)| {
        Arc::new(SampleTarget::new(TargetKind::Container {
            series: series.unwrap(),
            group: Arc::clone(group),
            process: None,
        }))
    };
    groups.iter().zip(series).map(target).collect()
}

#[test]
fn one_that_hangs_is_left_out_until_it_is_back_and_the_others_are_sampled() {
    let tree = host_tree("hangs");
    let other = format!("{GROUPS}/docker/{}", ID.replace('0', "f"));
    tree.write(&format!("{other}/pids.current"), "5\n");
    let history = History::new(crate::history::HistoryFlags::default());
    let desk = Arc::new(Desk::default());
    desk.found(targets(&tree, &history));
    let hung = history.container(&format!("/docker/{ID}")).unwrap();

    desk.begin(false);
    assert_eq!(desk.wait(LONG), Waited::Nobody);
    let (release, told): (Sender<()>, _) = mpsc::channel();
    let first = slow_reader(&desk, desk.hire(2).unwrap(), told);
    assert_eq!(desk.wait(Duration::from_millis(50)), Waited::Hung(true));
    assert_eq!(desk.wait(LONG), Waited::Nobody);
    let (go, told) = mpsc::channel();
    drop(go);
    let second = slow_reader(&desk, desk.hire(2).unwrap(), told);
    assert_eq!(desk.wait(LONG), Waited::Done);
    assert_eq!(second.recv().unwrap(), SampleOutcome::Sampled);

    // It hangs still.
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
    assert_eq!(hung.points(9).len(), 0);

    // It is back, and too late.
    drop(release);
    assert_eq!(first.recv().unwrap(), SampleOutcome::Abandoned);
    assert_eq!(hung.points(9).len(), 0);
    desk.begin(false);
    assert_eq!(desk.wait(LONG), Waited::Done);
    assert_eq!(hung.points(9).len(), 1);
}

#[test]
fn a_round_begins_on_the_beat_and_none_is_made_up_for() {
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
