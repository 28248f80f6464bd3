//! Damaged or vanished files: the scrape continues and exposes no wrong value.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    mem::MaybeUninit,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use strata_exporter::{
    cli, collectors,
    exposition::{Exposition, Format},
    scrape::{Scraper, Workers},
};

/// Enables collectors that `support::fixture_args` leaves out although they read files, and
/// replaces netlink by files.
const EXTRA_FLAGS: &[&str] = &[
    "--collector.filesystem",
    "--collector.time",
    "--no-collector.arp.netlink",
    "--no-collector.netdev.netlink",
];
const LIMIT: Duration = Duration::from_secs(60);
const OVERFLOWING: &str = "99999999999999999999999";

/// A copy of a fixture machine, removed at the end of the test.
struct FixtureCopy {
    root: PathBuf,
    scraper: Scraper,
    runtime: tokio::runtime::Runtime,
}

impl FixtureCopy {
    fn new(machine: &str, name: &str) -> Self {
        let dir = format!("strata-robustness-{name}-{machine}-{}", std::process::id());
        let root = std::env::temp_dir().join(dir);
        copy(&crate::support::fixture(machine), &root);
        let mut line = crate::support::fixture_args(&root);
        line.extend(EXTRA_FLAGS.iter().map(ToString::to_string));
        let settings = cli::parse_server(collectors::ALL, line).unwrap_or_else(|e| panic!("{e}"));
        let roots = settings.flags.roots;
        Self {
            root,
            scraper: Scraper::new(roots, settings.collectors, Workers::default()),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap(),
        }
    }

    fn collectors(&self) -> BTreeSet<&'static str> {
        self.scraper.collectors().map(|(name, _)| name).collect()
    }

    /// Scrapes these collectors in both formats, which must have the same samples.
    fn scrape(&self, selected: &BTreeSet<&str>) -> Scrape {
        let families = self
            .runtime
            .block_on(self.scraper.scrape(selected, LIMIT))
            .into_families();
        let exposition = Arc::new(Exposition::new(families, |_| true));
        let plain = exposition.encode(Format::Text).unwrap();
        let open_metrics = exposition.encode(Format::OpenMetrics).unwrap();
        let rest = open_metrics.strip_suffix("# EOF\n");
        assert_eq!(
            samples(rest.expect("an end")).len(),
            samples(&plain).len(),
            "the formats differ"
        );
        Scrape(plain)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(&self.root, &mut |path, kind| {
            if kind.is_file() {
                files.push(path.to_owned());
            }
        });
        files
    }

    /// The collectors that open each file, found with inotify.
    fn readers(&self) -> BTreeMap<PathBuf, BTreeSet<&'static str>> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let mut directories = BTreeMap::new();
        walk(&self.root, &mut |path, kind| {
            if kind.is_dir() {
                let number = inotify::add_watch(&watch, path, WatchFlags::OPEN).unwrap();
                directories.insert(number, path.to_owned());
            }
        });
        let mut readers = BTreeMap::<_, BTreeSet<_>>::new();
        let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
        for collector in self.collectors() {
            self.scrape(&[collector].into());
            let mut events = inotify::Reader::new(&watch, &mut buffer);
            loop {
                let event = match events.next() {
                    Err(Errno::AGAIN) => break,
                    event => event.unwrap(),
                };
                let overflow = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                assert!(!overflow, "inotify queue overflow");
                let name = event.file_name().unwrap_or_default();
                if let Some(dir) = directories.get(&event.wd()) {
                    let path = dir.join(OsStr::from_bytes(name.to_bytes()));
                    readers.entry(path).or_default().insert(collector);
                }
            }
        }
        readers
    }
}

impl Drop for FixtureCopy {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(from).unwrap(), to).unwrap();
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Everything below a directory, including the directory itself, in order.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path, fs::FileType)) {
    visit(dir, fs::symlink_metadata(dir).unwrap().file_type());
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path, kind);
        }
    }
}

/// An exposition in the text format.
struct Scrape(String);

impl Scrape {
    fn samples(&self) -> Vec<(&str, f64)> {
        samples(&self.0)
    }

    /// Outcome of each collector.
    fn outcomes(&self) -> BTreeMap<&str, &str> {
        let lines = self.0.lines();
        let matching = lines.filter_map(|line| {
            let labels = line.strip_prefix("strata_collector_outcome{collector=\"")?;
            let (collector, rest) = labels.split_once("\",outcome=\"")?;
            Some((collector, rest.split_once('"')?.0))
        });
        matching.collect()
    }

    fn value(&self, series: &str) -> Option<f64> {
        let samples = self.samples();
        let found = samples.iter().find(|(name, _)| *name == series);
        found.map(|(_, value)| *value)
    }
}

/// Series of an exposition and their values; every line must be well-formed.
fn samples(exposition: &str) -> Vec<(&str, f64)> {
    assert!(exposition.ends_with('\n'));
    let mut samples = Vec::new();
    for line in exposition.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let kind = comment.split(' ').next();
            assert!(matches!(kind, Some("HELP" | "TYPE" | "UNIT")), "{line:?}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(is_name(name), "{line:?}");
        assert!(are_labels(labels), "{line:?}");
        let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
        samples.push((series, value));
    }
    samples
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// Whether this is `a="b",c="d"}`, with escapes where necessary.
fn are_labels(mut rest: &str) -> bool {
    loop {
        if rest == "}" {
            return true;
        }
        let Some((name, value)) = rest.split_once("=\"") else {
            return false;
        };
        let mut escaped = false;
        let end = value.bytes().position(|b| {
            let ends = b == b'"' && !escaped;
            escaped = b == b'\\' && !escaped;
            ends
        });
        let Some((_, after)) = end.and_then(|end| value.split_at_checked(end + 1)) else {
            return false;
        };
        if !is_name(name) {
            return false;
        }
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Kinds of damage to a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    /// Truncated to this many thirds.
    Cut(usize),
    /// Without the last byte, usually a newline.
    Short,
    /// Only the first byte.
    FirstByte,
    Empty,
    Junk,
    /// A line of 5 MiB.
    Huge,
    /// All numbers replaced.
    Numbers(&'static str),
    /// Some bits flipped.
    Flipped,
    /// Some bytes invalid in UTF-8.
    NotText,
    Directory,
    Gone,
}

const DAMAGES: [Damage; 13] = [
    Damage::Numbers(OVERFLOWING),
    Damage::Cut(1),
    Damage::Empty,
    Damage::Flipped,
    Damage::Directory,
    Damage::Short,
    Damage::Numbers("-1"),
    Damage::Junk,
    Damage::Cut(2),
    Damage::Gone,
    Damage::NotText,
    Damage::FirstByte,
    Damage::Huge,
];

impl Damage {
    fn apply(self, path: &Path, body: &[u8], huge: &Path) {
        fs::remove_file(path).unwrap();
        let damaged = match self {
            Self::Gone => return,
            Self::Directory => return fs::create_dir(path).unwrap(),
            Self::Huge => return fs::hard_link(huge, path).unwrap(),
            Self::Empty => Vec::new(),
            Self::Cut(thirds) => body[..body.len() * thirds / 3].to_vec(),
            Self::Short => body[..body.len().saturating_sub(1)].to_vec(),
            Self::FirstByte => body[..body.len().min(1)].to_vec(),
            Self::Junk => RandomBytes(7).take(700).collect(),
            Self::Numbers(number) => with_numbers(body, number),
            Self::Flipped => {
                let mut random = RandomBytes(3);
                let flip = |b: &u8| b ^ if random.byte() < 24 { 1 << (b % 7) } else { 0 };
                body.iter().map(flip).collect()
            }
            Self::NotText => {
                let mut random = RandomBytes(5);
                let corrupt = |b: &u8| if random.byte() < 24 { 0xff } else { *b };
                body.iter().map(corrupt).collect()
            }
        };
        fs::write(path, damaged).unwrap();
    }

    fn revert(self, path: &Path, body: &[u8]) {
        match self {
            Self::Gone => {}
            Self::Directory => fs::remove_dir(path).unwrap(),
            // Removed first, because the write below would go through the hard link of `Huge`.
            _ => fs::remove_file(path).unwrap(),
        }
        fs::write(path, body).unwrap();
    }
}

/// Deterministic pseudo-random bytes.
struct RandomBytes(u64);

impl RandomBytes {
    fn byte(&mut self) -> u8 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}

impl Iterator for RandomBytes {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        Some(self.byte())
    }
}

fn with_numbers(body: &[u8], number: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut in_number = false;
    for &b in body {
        if !b.is_ascii_digit() {
            out.push(b);
        } else if !in_number {
            out.extend(number.bytes());
        }
        in_number = b.is_ascii_digit();
    }
    out
}

/// Values that out-of-range numbers become by wrapping or saturation.
#[expect(
    clippy::cast_precision_loss,
    reason = "they would be exposed in this form"
)]
const WRAPPED: [f64; 8] = [
    u64::MAX as f64,
    i64::MAX as f64,
    i64::MIN as f64,
    u64::MAX as f64 * 1024.0,
    u32::MAX as f64,
    i32::MAX as f64,
    i32::MIN as f64,
    u16::MAX as f64,
];

fn walk_damages(machine: &str) {
    let copy = FixtureCopy::new(machine, "damages");
    let all = copy.collectors();
    let huge = copy.root.join("huge");
    let words = format!("{} 1 ", "x".repeat(4 << 10));
    fs::write(&huge, words.repeat(5 << 8)).unwrap();
    let readers = copy.readers();
    let healthy = copy.scrape(&all);
    let before = healthy.outcomes();
    let usual: Vec<f64> = healthy.samples().into_iter().map(|(_, v)| v).collect();
    let (mut damaged, mut swamped) = (0, BTreeSet::new());
    for path in copy.files() {
        let Some(readers) = readers.get(&path) else {
            continue;
        };
        let body = fs::read(&path).unwrap();
        let is_swamped = swamped.insert(readers.clone());
        damaged += 1;
        for (n, damage) in DAMAGES.into_iter().enumerate() {
            // Each file gets a quarter of the damages, its neighbours the others. The slow one is
            // applied once per set of collectors.
            let suffers = match damage {
                Damage::Huge => is_swamped,
                _ => n % 4 == damaged % 4,
            };
            if !suffers {
                continue;
            }
            damage.apply(&path, &body, &huge);
            let what = format!("{} {damage:?}", path.display());
            let scrape = copy.scrape(readers);
            for (collector, outcome) in scrape.outcomes() {
                let bearable = matches!(outcome, "collected" | "no_data" | "failed");
                assert!(bearable, "{what}: {collector} {outcome}");
            }
            if matches!(damage, Damage::Numbers(_)) {
                for (series, value) in scrape.samples() {
                    let wrapped = WRAPPED.contains(&value) && !usual.contains(&value);
                    assert!(!wrapped, "{what}: {series} {value}");
                }
            }
            if damaged % 8 == 0 && n < 4 {
                let scrape = copy.scrape(&all);
                for (collector, outcome) in scrape.outcomes() {
                    if !readers.contains(collector) {
                        assert_eq!(outcome, before[collector], "{what}: {collector}");
                    }
                }
            }
            damage.revert(&path, &body);
        }
    }
    assert!(damaged > 80, "{damaged}");
    // Everything has recovered.
    assert_eq!(copy.scrape(&all).outcomes(), before);
}

#[test]
fn damaged_file_affects_only_its_readers_hardware() {
    walk_damages("hardware");
}

#[test]
fn damaged_file_affects_only_its_readers_v1() {
    walk_damages("vm-v1");
}

#[test]
fn damaged_file_affects_only_its_readers_v2() {
    walk_damages("vm-v2");
}

#[test]
fn out_of_range_number_is_dropped() {
    /// Exposed as it is read, without arithmetic.
    const COPIED: &str = "node_context_switches_total";
    let copy = FixtureCopy::new("vm-v1", "numbers");
    let proc = |file: &str| copy.root.join("proc").join(file);
    let replace = |file: &str, from: &str, to: &str| {
        let body = fs::read_to_string(proc(file)).unwrap();
        assert!(body.contains(from), "{from} in {body}");
        fs::write(proc(file), body.replacen(from, to, 1)).unwrap();
    };
    let word = |file: &str, line: &str, n: usize| {
        let body = fs::read_to_string(proc(file)).unwrap();
        let line = body.lines().find(|l| l.trim().starts_with(line));
        let line = line.unwrap_or_else(|| panic!("{body}")).to_owned();
        let word = line.split_whitespace().nth(n).unwrap().to_owned();
        (line, word)
    };
    let scrape = || copy.scrape(&["diskstats", "meminfo", "netdev", "stat"].into());
    let disk = |name: &str| format!("node_disk_{name}{{device=\"vda\"}}");
    let net = "node_network_receive_bytes_total{device=\"eth0\"}";
    let healthy = scrape();
    for (damage, fits) in [
        (OVERFLOWING, false),
        ("-1", false),
        ("18446744073709551615", true),
    ] {
        let (line, total) = word("meminfo", "MemTotal:", 1);
        replace("meminfo", &line, &line.replace(&total, damage));
        let (row, sectors) = word("diskstats", "254", 5);
        replace(
            "diskstats",
            &row,
            &row.replace(&format!(" {sectors} "), &format!(" {damage} ")),
        );
        let (interface, bytes) = word("net/dev", "eth0:", 1);
        replace(
            "net/dev",
            &interface,
            &interface.replace(&format!(" {bytes} "), &format!(" {damage} ")),
        );
        let (switches, count) = word("stat", "ctxt", 1);
        replace("stat", &switches, &format!("ctxt {damage}"));

        let result = scrape();
        let max = 18_446_744_073_709_551_615.0;
        let number: f64 = damage.parse().unwrap();
        for (series, value) in [
            ("node_memory_MemTotal_bytes", max * 1024.0),
            (&disk("read_bytes_total"), max * 512.0),
            (net, max),
            (COPIED, max),
        ] {
            assert!(healthy.value(series).is_some(), "{series}");
            let actual = result.value(series);
            let exact = actual.is_none_or(|actual| (actual / (value / max) - number).abs() <= 0.0);
            assert!(exact, "{series} {damage}: {actual:?}");
            assert_eq!(
                actual.is_some(),
                fits || series == COPIED,
                "{series} {damage}"
            );
        }
        // Other series of the same files are unchanged.
        for series in [
            "node_memory_MemFree_bytes".to_owned(),
            "node_disk_io_now{device=\"vdb\"}".to_owned(),
            "node_network_receive_bytes_total{device=\"lo\"}".to_owned(),
            "node_forks_total".to_owned(),
        ] {
            assert_eq!(
                result.value(&series),
                healthy.value(&series),
                "{series} {damage}"
            );
        }

        let (damaged, _) = word("meminfo", "MemTotal:", 1);
        replace("meminfo", &damaged, &line);
        let (damaged, _) = word("diskstats", "254", 5);
        replace("diskstats", &damaged, &row);
        let (damaged, _) = word("net/dev", "eth0:", 1);
        replace("net/dev", &damaged, &interface);
        replace("stat", &format!("ctxt {damage}"), &format!("ctxt {count}"));
    }
}

/// Another thread moves directories away and back during the scrapes.
#[test]
fn directory_that_vanishes_after_listing_costs_only_itself() {
    let copy = FixtureCopy::new("hardware", "vanishing");
    let all = copy.collectors();
    let healthy = copy.scrape(&all);
    let before = healthy.outcomes();
    let mut listed = Vec::new();
    for dir in [
        "proc",
        "sys/class/hwmon",
        "sys/class/net",
        "sys/block",
        "sys/class/thermal",
        "sys/class/power_supply",
    ] {
        let entries = fs::read_dir(copy.root.join(dir)).into_iter().flatten();
        listed.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap().as_bytes();
            dir != "proc" || name.iter().all(u8::is_ascii_digit)
        }));
    }
    assert!(listed.len() > 10, "{listed:?}");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let away = copy.root.join("away");
            while !over.load(Ordering::Relaxed) {
                for path in &listed {
                    fs::rename(path, &away).unwrap();
                    thread::yield_now();
                    fs::rename(&away, path).unwrap();
                }
            }
        });
        let ends = SetOnDrop(&over);
        for _ in 0..60 {
            let scrape = copy.scrape(&all);
            for (collector, outcome) in scrape.outcomes() {
                // The only directory of its kind may be away.
                let bearable = outcome == before[collector] || outcome == "no_data";
                assert!(bearable, "{collector} {outcome}");
            }
        }
        drop(ends);
    });
    assert_eq!(copy.scrape(&all).outcomes(), before);
}

/// Ends a thread's loop when dropped, also when the test panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn names_of_any_bytes_and_length_are_exposed() {
    let fixture = FixtureCopy::new("hardware", "names");
    let all = fixture.collectors();
    let before = fixture.scrape(&all);
    let root = &fixture.root;
    let long = "l\u{e4}\\".repeat(16 << 10);
    let add = |file: &str, line: &str| {
        let path = root.join(file);
        let mut body = fs::read(&path).unwrap();
        body.extend_from_slice(line.as_bytes());
        fs::write(path, body).unwrap();
    };
    let text = format!(
        "from_a_text_file{{long=\"{}\"}} 7\n",
        long.replace('\\', "\\\\")
    );
    fs::write(root.join("textfile/long.prom"), text).unwrap();
    add(
        "proc/diskstats",
        &format!("8 99 {long} 1 2 3 4 5 6 7 8 9 10 11\n"),
    );
    let mount = format!("999 1 8:99 / /{long} rw - ext4 /dev/{long} rw\n");
    let mounts = root.join("proc/1/mountinfo");
    if mounts.exists() {
        add("proc/1/mountinfo", &mount);
    } else {
        fs::create_dir_all(root.join("proc/1")).unwrap();
        fs::write(mounts, mount).unwrap();
    }
    for class in ["net", "hwmon", "thermal", "power_supply"] {
        let class = root.join("sys/class").join(class);
        let Ok(entries) = fs::read_dir(&class) else {
            continue;
        };
        let entries = entries.map(Result::unwrap).filter(|e| e.path().is_dir());
        for entry in entries.collect::<Vec<_>>() {
            let mut name = entry.file_name().as_bytes().to_vec();
            name.extend(b"\xff\xfe\"\n");
            copy(
                &fs::canonicalize(entry.path()).unwrap(),
                &class.join(OsStr::from_bytes(&name)),
            );
        }
    }
    let scrape = fixture.scrape(&all);
    let outcomes = scrape.outcomes();
    for (collector, outcome) in before.outcomes() {
        let same = outcomes[collector] == outcome || collector == "filesystem";
        assert!(same, "{collector}: {outcome}, then {}", outcomes[collector]);
    }
    assert_eq!(outcomes["filesystem"], "collected");
    let escaped = long.replace('\\', "\\\\");
    for series in [
        format!("from_a_text_file{{long=\"{escaped}\"}}"),
        format!("node_disk_io_now{{device=\"{escaped}\"}}"),
    ] {
        assert!(scrape.value(&series).is_some());
    }
    assert!(scrape.0.contains(&format!("mountpoint=\"/{escaped}\"")));
    for family in [
        "node_network_",
        "node_power_supply_",
        "node_thermal_zone_temp",
    ] {
        let mut samples = scrape.samples().into_iter();
        let odd =
            samples.any(|(series, _)| series.starts_with(family) && series.contains('\u{fffd}'));
        assert!(odd, "{family}");
    }
    // All earlier series are still exposed.
    let after: BTreeSet<&str> = scrape
        .samples()
        .into_iter()
        .map(|(series, _)| series)
        .collect();
    let is_steady = |series: &str| !series.contains("filesystem");
    for (series, _) in before.samples() {
        assert!(after.contains(series) || !is_steady(series), "{series}");
    }
}
