//! Every fuzz target bears its seeds, and what is near them, without libFuzzer: see
//! `docs/development/fuzzing.md`. What a fuzzer once found is a seed.
//!
//! `STRATA_FUZZ_SEEDS=DIR cargo test --test fuzz_seeds` writes the seeds to `DIR/TARGET`, for
//! `fuzz/run.sh`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
    panic,
    path::{Path, PathBuf},
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

use strata_exporter::fuzzing::{COLLECTORS, TARGETS, Tree, collected};

/// How often each seed is cut, and how often a bit of it is turned over.
const NEAR: usize = 400;
/// Of targets that make files and sockets.
const NEAR_SLOW: usize = 24;
const SLOW: [&str; 5] = [
    "collectors",
    "dbus",
    "engine_http",
    "libvirt_session",
    "top",
];
/// Seeds are for reading.
const MAX_SEED: usize = 32 << 10;

/// A seed: its name, and its bytes.
type Seed = (String, Vec<u8>);

#[test]
fn no_seed_and_nothing_near_one_breaks_a_target() {
    let work: Vec<_> = TARGETS
        .iter()
        .flat_map(|(target, run)| {
            seeds(target)
                .into_iter()
                .map(move |seed| (target, run, seed))
        })
        .collect();
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((target, run, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let near = if SLOW.contains(target) {
                        NEAR_SLOW
                    } else {
                        NEAR
                    };
                    if let Some(input) = broken_by(**run, &seed.1, near) {
                        let input = input.escape_ascii();
                        let said = format!("{target}, near the seed {}: \"{input}\"", seed.0);
                        broken.lock().unwrap().push(said);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn targets_programs_and_seeds_have_the_same_names() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    let names = |dir: &str, ending: &str| -> BTreeSet<String> {
        let names = paths(&root().join(dir)).into_iter().map(|path| name(&path));
        names
            .map(|name| name.strip_suffix(ending).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("fuzz/seeds", ""), targets);
    assert_eq!(names("fuzz/fuzz_targets", ".rs"), targets);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for target in &targets {
        let program = format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n");
        assert_eq!(manifest.matches(&program).count(), 1, "{target}");
        let code = format!("fuzz/fuzz_targets/{target}.rs");
        let code = fs::read_to_string(root().join(code)).unwrap();
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
fn each_target_makes_something_of_a_seed_of_its_own() {
    for (target, run) in TARGETS {
        let made: usize = seeds(target).iter().map(|(_, bytes)| run(bytes)).sum();
        assert!(made > 0, "{target} makes nothing of any seed");
    }
}

#[test]
fn each_collector_that_reads_files_has_a_seed_of_which_it_makes_metrics() {
    let seeds = seeds("collectors");
    for collector in COLLECTORS {
        let says_much = seeds.iter().any(|(_, bytes)| {
            let Some(files) = bytes.strip_prefix(format!("{collector}\n").as_bytes()) else {
                return false;
            };
            let tree = Tree::new(files);
            collected(collector, &tree.snapshot()).iter().count() > 0
        });
        assert!(says_much, "{collector} is given nothing that it can read");
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

/// What breaks the target: the seed, its beginning, or the seed with a bit turned over.
fn broken_by(run: fn(&[u8]) -> usize, seed: &[u8], near: usize) -> Option<Vec<u8>> {
    let breaks = |bytes: &[u8]| panic::catch_unwind(|| run(bytes)).is_err();
    let every = seed.len().div_ceil(near).max(1);
    let cut = (0..=seed.len()).rev().step_by(every);
    let turned = (0..seed.len()).step_by(every).map(|at| {
        let mut bytes = seed.to_vec();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    cut.map(|len| seed[..len].to_vec())
        .chain(turned)
        .find(|bytes| breaks(bytes))
}

/// The seeds of a target: those of its own, and those that are gathered from fixtures.
fn seeds(target: &str) -> Vec<Seed> {
    let mut seeds = BTreeMap::new();
    for path in paths(&root().join("fuzz/seeds").join(target)) {
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|ending| ending == "hex") {
            bytes = of_hex(&String::from_utf8(bytes).unwrap());
        }
        seeds.insert(name(&path), bytes);
    }
    assert!(!seeds.is_empty(), "{target} has no seed of its own");
    for line in gathered() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["tree", of, name, head, dir, ref paths @ ..] if of == target => {
                let dir = root().join(dir);
                let mut bytes = format!("{head}\n").into_bytes();
                for path in paths {
                    let there = bytes.len();
                    add_below(&mut bytes, &dir, &dir.join(path));
                    assert!(bytes.len() > there, "{} has no {path}", dir.display());
                }
                assert_eq!(seeds.insert(name.to_owned(), bytes), None, "{name}");
            }
            ["each", of, ref paths @ ..] if of == target => {
                for path in paths {
                    let pattern = root().join(path);
                    let found = glob::glob(pattern.to_str().unwrap()).unwrap();
                    let found: Vec<_> = found.map(Result::unwrap).collect();
                    assert!(!found.is_empty(), "there is no {path}");
                    for path in found {
                        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
                        seeds.insert(name.replace('/', "-"), fs::read(&path).unwrap());
                    }
                }
            }
            ["tree" | "each", of, ..] => {
                assert!(TARGETS.iter().any(|(name, _)| *name == of), "{of}");
            }
            _ => panic!("neither tree nor each: {line}"),
        }
    }
    for (name, bytes) in &seeds {
        assert!(bytes.len() <= MAX_SEED, "{target}/{name} is too long");
    }
    seeds.into_iter().collect()
}

/// The entries of `fuzz/gathered.txt`, each in one line.
fn gathered() -> Vec<String> {
    let text = fs::read_to_string(root().join("fuzz/gathered.txt")).unwrap();
    let mut entries: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match entries.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ if line.is_empty() => {}
            _ => entries.push(line.to_owned()),
        }
    }
    entries
}

/// Adds files as `fuzzing::Tree` reads them.
fn add_below(bytes: &mut Vec<u8>, root: &Path, path: &Path) {
    let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
    if path.is_symlink() {
        let target = fs::read_link(path).unwrap();
        bytes.extend([b"#### ", name, b" -> ", target.as_os_str().as_bytes()].concat());
    } else if path.is_dir() {
        for path in paths(path) {
            add_below(bytes, root, &path);
        }
        return;
    } else {
        bytes.extend([b"#### ", name, b"\n"].concat());
        bytes.extend(fs::read(path).unwrap());
    }
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
}

/// Bytes of hexadecimal digits, with white space between them and comments behind `#`.
fn of_hex(text: &str) -> Vec<u8> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let digits: String = lines.collect::<String>().split_whitespace().collect();
    let digits = digits.as_bytes();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// What is in a directory, sorted.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
