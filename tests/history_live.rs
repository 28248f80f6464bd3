//! What the history says of real containers under a known load, held against what their
//! control groups counted over the same time.
//!
//! These tests need root, Docker, Podman and a static busybox, and start all by themselves.

#![allow(clippy::disallowed_methods, reason = "tests read files as they are")]

mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{
    engines::Engine,
    groups::Group,
    live::{Program, Scratch, until},
    text::Scrape,
};

const INTERVAL: Duration = Duration::from_millis(250);
const MIB: f64 = 1024.0 * 1024.0;

/// A control group that goes before others.
const FIRST: &str = "strata-first";

/// A busy loop.
const BUSY: &[&str] = &["sh", "-c", "while :; do :; done"];

/// Does nothing until it is told; then it is busy for two seconds.
const BURST: &str = "
trap : USR1
sleep 1000 & wait $!
timeout 2 sh -c 'while :; do :; done'
touch /done
sleep 1000";

/// Does nothing until it is told; then it has 64 MiB, until it is told again.
const HOARD: &str = "
trap : USR1
sleep 1000 & wait $!
dd if=/dev/zero bs=67108864 count=1 | sleep 1000 & wait $!
killall dd
wait";

fn exporter(dir: &Scratch, engine: &Engine) -> Program {
    let flags = [
        format!("--engine.socket={}", engine.socket()),
        format!("--history.interval={}ms", INTERVAL.as_millis()),
        "--collector.history.averages=true".to_owned(),
        "--collector.history.minima=true".to_owned(),
    ];
    Program::ours(&flags, &dir.0)
}

/// What is said of a container: now, and over the last minute.
#[derive(Debug)]
struct Said {
    now: f64,
    average: f64,
    peak: f64,
    minimum: f64,
}

impl Said {
    /// Nothing before it was sampled twice.
    fn cpu(exporter: &Program, name: &str) -> Option<Self> {
        let page = Scrape::parse(&exporter.text());
        let now = page.value("container_cpu_usage_percent", &[("name", name)])?;
        Self::of(&page, "container_cpu_usage_percent", name, now)
    }

    /// What it has now is in the JSON.
    fn memory(exporter: &Program, name: &str) -> Option<Self> {
        let said = exporter.get(&format!("/api/v1/containers/{name}"), "");
        let said: Value = serde_json::from_str(&said.ok()?).unwrap();
        let now = said["container"]["latest"]["memory_bytes"].as_f64()?;
        let page = Scrape::parse(&exporter.text());
        Self::of(&page, "container_memory_usage_bytes", name, now)
    }

    fn of(page: &Scrape, family: &str, name: &str, now: f64) -> Option<Self> {
        let labels = [("name", name), ("window", "1m")];
        let value = |which: &str| page.value(&format!("{family}_{which}"), &labels);
        Some(Self {
            now,
            average: value("avg")?,
            peak: value("max")?,
            minimum: value("min")?,
        })
    }
}

/// What a control group counted from a moment on.
struct Counted {
    group: Group,
    begun: Instant,
    cpu_seconds: f64,
}

impl Counted {
    fn from_now(group: Group) -> Self {
        Self {
            begun: Instant::now(),
            cpu_seconds: group.cpu_seconds(),
            group,
        }
    }

    /// Seconds, and those of CPU time in them.
    fn so_far(&self) -> (f64, f64) {
        let used = self.group.cpu_seconds() - self.cpu_seconds;
        (self.begun.elapsed().as_secs_f64(), used)
    }
}

/// Is there to remove the group after whoever made it has gone.
struct First;

impl First {
    /// With many tasks on few CPUs each gets less than it may have: these do not.
    fn favour() {
        let root = Path::new("/sys/fs/cgroup");
        let one = root.join("cpu").join(FIRST).join("cpu.shares");
        let two = root.join(FIRST).join("cpu.weight");
        if one.exists() {
            fs::write(one, "262144").unwrap();
        } else {
            fs::write(two, "10000").unwrap();
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let _not_there = fs::remove_dir(root.join(FIRST));
        for hierarchy in fs::read_dir(root).into_iter().flatten().flatten() {
            let _not_there = fs::remove_dir(hierarchy.path().join(FIRST));
        }
    }
}

#[test]
fn half_a_core_is_fifty_percent() {
    let _last = First;
    let Some(docker) = Engine::docker("half") else {
        return;
    };
    let parent = format!("--cgroup-parent=/{FIRST}");
    docker.start_container("half", &["--cpus=0.5", &parent], BUSY);
    First::favour();
    let counted = Counted::from_now(Group::of(docker.pid("half")));
    let dir = Scratch::new("half");
    let exporter = exporter(&dir, &docker);
    let is_close = |one: f64, other: f64| (one - other).abs() <= 3.0;
    let (said, percent) = until("50 ± 3 % in the last minute", || {
        let said = Said::cpu(&exporter, "half")?;
        let (seconds, used) = counted.so_far();
        let percent = 100.0 * used / seconds;
        println!("{said:?}: {percent} % of {seconds} s as counted");
        let is_so = is_close(said.average, 50.0) && is_close(said.average, percent);
        (is_so && seconds > 6.0).then_some((said, percent))
    });
    // A quarter of a second has parts of the tenths of which it may have half.
    assert!(said.minimum <= said.average, "{said:?}, {percent}");
    assert!(
        (said.average..110.0).contains(&said.peak),
        "{said:?}: its one thread has one core at most"
    );
    assert!(
        (said.minimum..=said.peak).contains(&said.now),
        "{said:?}: the last sample is in the window"
    );
}

#[test]
fn a_peak_between_two_scrapes_is_in_the_most_of_the_minute() {
    let Some(docker) = Engine::docker("peak") else {
        return;
    };
    docker.start_container("peak", &[], &["sh", "-c", BURST]);
    let pid = docker.pid("peak");
    let dir = Scratch::new("peak");
    let exporter = exporter(&dir, &docker);
    let before = until("a sample", || Said::cpu(&exporter, "peak"));
    assert!(before.peak < 30.0, "{before:?}");

    let counted = Counted::from_now(Group::of(pid));
    docker.run(&["kill", "--signal=USR1", "peak"]);
    let done = format!("/proc/{pid}/root/done");
    until("an end of it", || Path::new(&done).exists().then_some(()));
    let (seconds, used) = counted.so_far();

    let after = until("a sample of it doing nothing", || {
        Said::cpu(&exporter, "peak").filter(|said| said.now < 10.0)
    });
    println!("{before:?}, {after:?}: {used} s in {seconds} s");
    // The intervals in which it was busy are longer than it was by two at most, and by as
    // much again on a machine that is late. One of them has their mean or more.
    let mean = 100.0 * used / (seconds + 4.0 * INTERVAL.as_secs_f64());
    assert!(after.peak >= mean, "{after:?}: {mean} % at least");
    // What is read may be later than the clock.
    assert!(after.peak < 150.0, "{after:?}: it has one thread");
    assert!(after.average < after.peak, "{after:?}");
    assert!(after.minimum < 10.0, "{after:?}");
}

#[test]
fn memory_is_there_while_it_is_held_and_in_the_most_of_the_minute_after() {
    let Some(podman) = Engine::podman("hoard") else {
        return;
    };
    podman.start_container("hoard", &[], &["sh", "-c", HOARD]);
    let group = Group::of(podman.pid("hoard"));
    let dir = Scratch::new("hoard");
    let exporter = exporter(&dir, &podman);
    let before = until("a sample", || Said::memory(&exporter, "hoard"));
    assert!(before.peak < 16.0 * MIB, "{before:?}");

    podman.run(&["kill", "--signal=USR1", "hoard"]);
    let held = until("a sample of 64 MiB", || {
        Said::memory(&exporter, "hoard").filter(|said| said.now >= 64.0 * MIB)
    });
    let counted = group.memory();
    println!("{before:?}, {held:?}: {counted} as counted");
    // What a CPU was given in advance it may give back.
    assert!((held.now - counted).abs() < MIB, "{held:?}: {counted}");
    assert!(held.now < 80.0 * MIB, "{held:?}");
    assert!(held.minimum < 16.0 * MIB, "{held:?}");

    podman.run(&["kill", "--signal=USR1", "hoard"]);
    let after = until("a sample without them", || {
        Said::memory(&exporter, "hoard").filter(|said| said.now < 16.0 * MIB)
    });
    assert!(
        (64.0 * MIB..80.0 * MIB).contains(&after.peak),
        "{after:?}: what was held is in the minute"
    );
    assert!(
        (after.minimum..after.peak).contains(&after.average),
        "{after:?}"
    );
}
