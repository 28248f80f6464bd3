//! Runs each target on its seeds and on damaged copies of them, without libFuzzer: see
//! `docs/development/fuzzing.md`. Inputs found by a fuzzer are added to the seeds.
//!
//! `STRATA_FUZZ_SEEDS=DIR cargo test --lib seeds_are_written` writes the seeds to `DIR/TARGET`,
//! for `fuzz/run.sh`.

#![allow(clippy::disallowed_methods, reason = "tests read files as they are")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
    panic,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use ttar::{Archive, Content};

use super::{
    TARGETS,
    tree::{COLLECTORS, Tree, collected},
};
use crate::fixtures::{from_hex, manifest_dir};

/// Number of truncated copies of each seed, and of copies with one bit flipped.
const DAMAGED: usize = 400;
/// The same for targets that create files and sockets.
const DAMAGED_SLOW: usize = 24;
const SLOW: [&str; 5] = [
    "collectors",
    "dbus",
    "engine_http",
    "libvirt_session",
    "top",
];
/// Maximum length of a seed, so that it can be read.
const MAX_SEED: usize = 32 << 10;

/// A seed: its name, and its bytes.
type Seed = (String, Vec<u8>);

/// One test per target, so that a test runner can spread them.
macro_rules! damaged_seeds {
    ($($target:ident)*) => {
        mod damaged_seeds_never_panic {
            $(#[test]
            fn $target() {
                super::run_damaged_seeds(stringify!($target));
            })*
        }

        const TESTED: &[&str] = &[$(stringify!($target)),*];
    };
}

damaged_seeds! {
    cgroup_file
    client_certificate
    collectors
    dbus
    engine_http
    engine_json
    ethtool
    file_sd_json
    file_sd_yaml
    headers
    libvirt_rpc
    libvirt_session
    libvirt_xml
    mountinfo
    netlink
    query
    textfile
    top
    web_config
}

fn run_damaged_seeds(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let copies = if SLOW.contains(&target) {
        DAMAGED_SLOW
    } else {
        DAMAGED
    };
    let seeds = seeds(target);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((name, seed)) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(input) = failing_input(*run, seed, copies) {
                        let input = input.escape_ascii();
                        let failure = format!("{target}, from the seed {name}: \"{input}\"");
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn targets_tests_programs_and_seeds_have_the_same_names() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    let tested: BTreeSet<_> = TESTED.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(tested, targets);
    let names = |dir: &str, ending: &str| -> BTreeSet<String> {
        let names = paths(&manifest_dir().join(dir))
            .into_iter()
            .map(|path| name(&path));
        names
            .map(|name| name.strip_suffix(ending).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("fuzz/seeds", ""), targets);
    assert_eq!(names("fuzz/fuzz_targets", ".rs"), targets);
    let manifest = fs::read_to_string(manifest_dir().join("fuzz/Cargo.toml")).unwrap();
    for target in &targets {
        let program = format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n");
        assert_eq!(manifest.matches(&program).count(), 1, "{target}");
        let code = format!("fuzz/fuzz_targets/{target}.rs");
        let code = fs::read_to_string(manifest_dir().join(code)).unwrap();
        assert!(
            code.contains(&format!("fuzzing::{target}(bytes)")),
            "{code}"
        );
    }
    assert_eq!(
        manifest.matches("[[bin]]").count(),
        targets.len(),
        "a program without a target"
    );
}

#[test]
fn each_target_parses_one_of_its_seeds() {
    for (target, run) in TARGETS {
        let parsed: usize = seeds(target).iter().map(|(_, bytes)| run(bytes)).sum();
        assert!(parsed > 0, "{target} parses none of its seeds");
    }
}

#[test]
fn each_collector_returns_metrics_for_one_of_its_seeds() {
    let seeds = seeds("collectors");
    for collector in COLLECTORS {
        let has_metrics = seeds.iter().any(|(_, bytes)| {
            let Some(files) = bytes.strip_prefix(format!("{collector}\n").as_bytes()) else {
                return false;
            };
            let tree = Tree::new(files);
            collected(collector, &tree.snapshot()).iter().count() > 0
        });
        assert!(has_metrics, "no seed with metrics of {collector}");
    }
}

#[test]
fn seeds_are_written_for_the_fuzzer() {
    let Some(to) = std::env::var_os("STRATA_FUZZ_SEEDS") else {
        return;
    };
    for (target, _) in TARGETS {
        let dir = Path::new(&to).join(target);
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in seeds(target) {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

/// The first input on which the target panics: the seed, a truncated copy of it, or a copy with
/// one bit flipped.
fn failing_input(run: fn(&[u8]) -> usize, seed: &[u8], copies: usize) -> Option<Vec<u8>> {
    let panics = |bytes: &[u8]| panic::catch_unwind(|| run(bytes)).is_err();
    let step = seed.len().div_ceil(copies).max(1);
    let truncated = (0..=seed.len()).rev().step_by(step);
    let flipped = (0..seed.len()).step_by(step).map(|at| {
        let mut bytes = seed.to_vec();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    truncated
        .map(|len| seed[..len].to_vec())
        .chain(flipped)
        .find(|bytes| panics(bytes))
}

/// The seeds of a target: the files in its directory, and those derived from fixtures.
fn seeds(target: &str) -> Vec<Seed> {
    let mut seeds = BTreeMap::new();
    for path in paths(&manifest_dir().join("fuzz/seeds").join(target)) {
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "hex") {
            bytes = from_hex(&String::from_utf8(bytes).unwrap());
        }
        seeds.insert(name(&path), bytes);
    }
    assert!(!seeds.is_empty(), "{target} has no seed in its directory");
    let derived = seeds_from_fixtures();
    for (_, name, bytes) in derived.into_iter().filter(|(it, ..)| it == target) {
        assert_eq!(seeds.insert(name.clone(), bytes), None, "{target}/{name}");
    }
    for (name, bytes) in &seeds {
        assert!(bytes.len() <= MAX_SEED, "{target}/{name} is too long");
    }
    seeds.into_iter().collect()
}

/// Seeds derived from `tests/fixtures`: one for each collector with an archive, and those that
/// `fuzz/seeds_from_fixtures.txt` lists. Each has a target, a name, and its bytes.
fn seeds_from_fixtures() -> Vec<(String, String, Vec<u8>)> {
    let text = fs::read_to_string(manifest_dir().join("fuzz/seeds_from_fixtures.txt")).unwrap();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ if line.is_empty() => {}
            _ => lines.push(line.to_owned()),
        }
    }
    let mut seeds = Vec::new();
    let mut trees: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for collector in COLLECTORS {
        let archive = format!("hardware/{collector}.ttar");
        if fixtures().join(&archive).exists() {
            let tree = trees.entry((*collector).to_owned()).or_default();
            add_below(tree, &read_archive(&archive), "");
        }
    }
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["common", collector, ref paths @ ..] => {
                let common = read_archive("hardware/common.ttar");
                let tree = trees.entry(collector.to_owned()).or_default();
                for path in paths {
                    add_below(tree, &common, path);
                }
            }
            ["collector", collector, machine, ref paths @ ..] => {
                let archive = read_archive(&format!("{machine}.ttar"));
                let mut bytes = format!("{collector}\n").into_bytes();
                for path in paths {
                    add_below(&mut bytes, &archive, path);
                }
                let name = format!("{collector}-{machine}");
                seeds.push(("collectors".to_owned(), name, bytes));
            }
            ["each", target, archive, ref files @ ..] => {
                assert!(TESTED.contains(&target), "{target} is not a target");
                let prefix = archive.replace('/', "-");
                let archive = read_archive(&format!("{archive}.ttar"));
                for path in files {
                    let Some(Content::File { bytes, .. }) = archive.get(Path::new(path)) else {
                        panic!("no file {path} for {target}");
                    };
                    let name = format!("{prefix}-{}", path.replace('/', "-"));
                    seeds.push((target.to_owned(), name, bytes.clone()));
                }
            }
            _ => panic!("neither common, collector nor each: {line}"),
        }
    }
    for (collector, files) in trees {
        let bytes = [collector.as_bytes(), b"\n", &files].concat();
        let name = format!("{collector}-hardware");
        seeds.push(("collectors".to_owned(), name, bytes));
    }
    for (target, name, bytes) in &seeds {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap();
        let is_known = COLLECTORS.iter().any(|it| it.as_bytes() == first);
        assert!(
            is_known || target != "collectors",
            "{name}: unknown collector"
        );
    }
    seeds
}

/// Appends the entries at a path and below it in the format that `Tree` parses.
fn add_below(bytes: &mut Vec<u8>, archive: &Archive, path: &str) {
    let mut found = false;
    for (at, content) in archive.entries().filter(|(at, _)| at.starts_with(path)) {
        found = true;
        let name = at.as_os_str().as_bytes();
        match content {
            Content::Directory { .. } => {}
            Content::File { bytes: content, .. } => {
                bytes.extend([b"#### ", name, b"\n", content.as_slice()].concat());
            }
            Content::Symlink(target) => {
                let target = target.as_os_str().as_bytes();
                bytes.extend([b"#### ", name, b" -> ", target].concat());
            }
        }
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
    }
    assert!(found, "nothing in the archive at {path:?}");
}

fn read_archive(name: &str) -> Archive {
    Archive::read(&fixtures().join(name)).unwrap()
}

fn fixtures() -> PathBuf {
    manifest_dir().join("tests/fixtures")
}

/// The entries of a directory, sorted.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
