//! The history of real containers under a known load, compared with the counters of their cgroups
//! over the same time.
//!
//! These tests need root, Docker, Podman and a static busybox, and start everything else
//! themselves.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use crate::support::{
    cgroups::CgroupReader,
    engines::Engine,
    server_process::{ServerProcess, TempDir, wait_until},
    text_format::Scrape,
};
use serde_json::Value;

const INTERVAL: Duration = Duration::from_millis(250);
const MIB: f64 = 1024.0 * 1024.0;

/// A cgroup with a higher CPU weight than others.
const FIRST: &str = "strata-first";

/// A busy loop.
const BUSY: &[&str] = &["sh", "-c", "while :; do :; done"];

/// Waits for a signal, then is busy for two seconds.
const BURST: &str = "
trap : USR1
sleep 1000 & wait $!
timeout 2 sh -c 'while :; do :; done'
touch /done
sleep 1000";

/// Waits for a signal, then holds 64 MiB until the next signal.
const ALLOCATE: &str = "
trap : USR1
sleep 1000 & wait $!
dd if=/dev/zero bs=67108864 count=1 | sleep 1000 & wait $!
killall dd
wait";

fn exporter(dir: &TempDir, engine: &Engine) -> ServerProcess {
    let flags = [
        format!("--engine.socket={}", engine.socket_url()),
        format!("--history.interval={}ms", INTERVAL.as_millis()),
        "--collector.history.averages=true".to_owned(),
        "--collector.history.minima=true".to_owned(),
    ];
    ServerProcess::start_exporter(&flags, &dir.0)
}

/// Values of a container: current, and over the last minute.
#[derive(Debug)]
struct WindowValues {
    now: f64,
    average: f64,
    peak: f64,
    minimum: f64,
}

impl WindowValues {
    /// `None` before the second sample.
    fn cpu(exporter: &ServerProcess, name: &str) -> Option<Self> {
        let metrics = Scrape::parse(&exporter.metrics_text());
        let now = metrics.value("container_cpu_usage_percent", &[("name", name)])?;
        Self::from_scrape(&metrics, "container_cpu_usage_percent", name, now)
    }

    /// The current value comes from the JSON API.
    fn memory(exporter: &ServerProcess, name: &str) -> Option<Self> {
        let response = exporter.get(&format!("/api/v1/containers/{name}"), "");
        let response: Value = serde_json::from_str(&response.ok()?).unwrap();
        let now = response["container"]["latest"]["memory_bytes"].as_f64()?;
        let metrics = Scrape::parse(&exporter.metrics_text());
        Self::from_scrape(&metrics, "container_memory_usage_bytes", name, now)
    }

    fn from_scrape(metrics: &Scrape, family: &str, name: &str, now: f64) -> Option<Self> {
        let labels = [("name", name), ("window", "1m")];
        let value = |aggregate: &str| metrics.value(&format!("{family}_{aggregate}"), &labels);
        Some(Self {
            now,
            average: value("avg")?,
            peak: value("max")?,
            minimum: value("min")?,
        })
    }
}

/// JSON at a path below the container's.
fn json(exporter: &ServerProcess, name: &str, path: &str) -> Value {
    let path = format!("/api/v1/containers/{name}/{path}");
    serde_json::from_str(&exporter.get(&path, "").unwrap()).unwrap()
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Records the CPU time of a cgroup continuously.
struct CpuRecorder {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(f64, f64)>>,
}

impl CpuRecorder {
    fn begin(group: CgroupReader) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut record = Vec::new();
            while !over.load(Ordering::Relaxed) {
                record.push((now(), group.cpu_seconds()));
                thread::sleep(Duration::from_millis(10));
            }
            record
        });
        Self { is_over, thread }
    }

    fn end(self) -> CpuRecord {
        self.is_over.store(true, Ordering::Relaxed);
        CpuRecord(self.thread.join().unwrap())
    }
}

/// Times, and the CPU time up to each.
struct CpuRecord(Vec<(f64, f64)>);

impl CpuRecord {
    /// CPU use between two times, in percent of one core.
    fn percent(&self, start: f64, end: f64) -> f64 {
        100.0 * (self.until(end) - self.until(start)) / (end - start)
    }

    fn until(&self, time: f64) -> f64 {
        let after = self.0.partition_point(|(at, _)| *at < time);
        assert!((1..self.0.len()).contains(&after), "no record at {time}");
        let ((t0, c0), (t1, c1)) = (self.0[after - 1], self.0[after]);
        c0 + (c1 - c0) * (time - t0) / (t1 - t0)
    }
}

/// Removes the cgroup when dropped, after the engine that created it.
struct EngineCgroup;

impl EngineCgroup {
    /// Raises the weight: on a machine with many runnable tasks a container would not reach its
    /// limit.
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

impl Drop for EngineCgroup {
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
    let _last = EngineCgroup;
    let Some(docker) = Engine::docker("half") else {
        return;
    };
    let parent = format!("--cgroup-parent=/{FIRST}");
    docker.start_container("half", &["--cpus=0.5", &parent], BUSY);
    EngineCgroup::favour();
    let recorder = CpuRecorder::begin(CgroupReader::for_pid(docker.pid("half")));
    let dir = TempDir::new("half");
    let exporter = exporter(&dir, &docker);
    let is_close = |one: f64, other: f64| (one - other).abs() <= 3.0;
    let (values, window) = wait_until("50 ± 3 % in the last minute", || {
        let values = WindowValues::cpu(&exporter, "half")?;
        let window = json(&exporter, "half", "history?window=1m");
        println!("{values:?}, {window}");
        let is_met = window["samples"].as_u64()? > 24 && is_close(values.average, 50.0);
        is_met.then_some((values, window))
    });
    thread::sleep(INTERVAL);
    let record = recorder.end();
    // A sample of 250 ms contains a fraction of the 100 ms quota periods, so it deviates from 50 %.
    assert!(values.minimum <= values.average, "{values:?}");
    assert!(
        (values.average..110.0).contains(&values.peak),
        "{values:?}: one thread uses at most one core"
    );
    assert!(
        (values.minimum..=values.peak).contains(&values.now),
        "{values:?}: the last sample is in the window"
    );

    let number = |field: &Value| field.as_f64().unwrap_or_else(|| panic!("{window}"));
    let (start, end) = (number(&window["start"]), number(&window["end"]));
    let average = number(&window["cpu_percent"]["average"]);
    let counted = record.percent(start, end);
    println!("{average} % exposed, {counted} % counted from {start} to {end}");
    assert!(is_close(average, 50.0), "{window}");
    assert!(
        (average - counted).abs() <= 1.0,
        "{counted} % as counted: {window}"
    );
}

#[test]
fn peak_between_scrapes_is_in_the_minutes_maximum() {
    let Some(docker) = Engine::docker("peak") else {
        return;
    };
    docker.start_container("peak", &[], &["sh", "-c", BURST]);
    let pid = docker.pid("peak");
    let dir = TempDir::new("peak");
    let exporter = exporter(&dir, &docker);
    let before = wait_until("a sample", || WindowValues::cpu(&exporter, "peak"));
    assert!(before.peak < 30.0, "{before:?}");

    let group = CgroupReader::for_pid(pid);
    let (started, used) = (now(), group.cpu_seconds());
    docker.run(&["kill", "--signal=USR1", "peak"]);
    let done = format!("/proc/{pid}/root/done");
    wait_until("the end of the burst", || {
        Path::new(&done).exists().then_some(())
    });
    let (ended, used) = (now(), group.cpu_seconds() - used);

    let after = wait_until("an idle sample", || {
        WindowValues::cpu(&exporter, "peak").filter(|values| values.now < 10.0)
    });
    let seconds = ended - started;
    println!("{before:?}, {after:?}: {used} s in {seconds} s");
    // The busy intervals together are up to two intervals longer than the busy time, and twice that
    // on a slow machine. At least one of them reaches their mean.
    let interval = INTERVAL.as_secs_f64();
    let mean = 100.0 * used / (seconds + 4.0 * interval);
    assert!(after.peak >= mean, "{after:?}: {mean} % at least");
    // The counter may be read later than the clock.
    assert!(after.peak < 150.0, "{after:?}: one thread");
    assert!(after.average < after.peak, "{after:?}");
    assert!(after.minimum < 10.0, "{after:?}");

    // Sample by sample: the maximum is within the busy time.
    let points_json = json(&exporter, "peak", "points?last=720");
    let points = points_json["points"].as_array().unwrap().iter();
    let cpu_points =
        points.filter_map(|it| Some((it["cpu_percent"].as_f64()?, it["time"].as_f64()?)));
    let (peak, at) = cpu_points
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .unwrap();
    assert!((peak - after.peak).abs() < 1e-6, "{peak}: {after:?}");
    assert!(
        (started..ended + 2.0 * interval).contains(&at),
        "{points_json}"
    );
}

#[test]
fn memory_peak_is_in_the_minutes_maximum() {
    let Some(podman) = Engine::podman("hoard") else {
        return;
    };
    podman.start_container("hoard", &[], &["sh", "-c", ALLOCATE]);
    let group = CgroupReader::for_pid(podman.pid("hoard"));
    let dir = TempDir::new("hoard");
    let exporter = exporter(&dir, &podman);
    let before = wait_until("a sample", || WindowValues::memory(&exporter, "hoard"));
    assert!(before.peak < 16.0 * MIB, "{before:?}");

    podman.run(&["kill", "--signal=USR1", "hoard"]);
    let during = wait_until("a sample of 64 MiB", || {
        WindowValues::memory(&exporter, "hoard").filter(|values| values.now >= 64.0 * MIB)
    });
    let counted = group.memory();
    println!("{before:?}, {during:?}: {counted} as counted");
    // CPUs charge memory in batches and may return a part.
    assert!((during.now - counted).abs() < MIB, "{during:?}: {counted}");
    assert!(during.now < 80.0 * MIB, "{during:?}");
    assert!(during.minimum < 16.0 * MIB, "{during:?}");

    podman.run(&["kill", "--signal=USR1", "hoard"]);
    let after = wait_until("a sample after the release", || {
        WindowValues::memory(&exporter, "hoard").filter(|values| values.now < 16.0 * MIB)
    });
    assert!(
        (64.0 * MIB..80.0 * MIB).contains(&after.peak),
        "{after:?}: the peak is in the window"
    );
    assert!(
        (after.minimum..after.peak).contains(&after.average),
        "{after:?}"
    );
}
