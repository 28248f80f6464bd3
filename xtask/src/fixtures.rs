//! The text archives of the fixture machines: see `tests/fixtures/README.md`.

#![allow(clippy::disallowed_methods, reason = "not part of the exporter")]

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use ttar::{Archive, Entry};

/// The result of a task.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Unpacks the archives of a machine into a directory.
    Unpack {
        /// A machine in tests/fixtures, such as `hardware` or `vm-v2`.
        machine: String,
        /// The directory, which must be empty or not exist.
        directory: PathBuf,
    },
    /// Rewrites the archives of a machine from a directory.
    ///
    /// A file stays in the archive that contains its path. An unknown machine gets one archive,
    /// MACHINE.ttar.
    Pack {
        /// A machine in tests/fixtures, such as `hardware` or `vm-v2`.
        machine: String,
        /// The directory, as `unpack` created it.
        directory: PathBuf,
        /// The archive for files that are in none yet: the collector that reads them, or `common`.
        #[arg(long, value_name = "NAME", value_parser = archive_name)]
        collector: Option<String>,
    },
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let fixtures = fixtures
            .canonicalize()
            .map_err(|error| format!("{}: {error}", fixtures.display()))?;
        match self {
            Self::Unpack { machine, directory } => unpack(&fixtures, &machine, &directory),
            Self::Pack {
                machine,
                directory,
                collector,
            } => pack(&fixtures, &machine, &directory, collector.as_deref()),
        }
    }
}

/// Parses a name of lower-case letters, digits, `_` and `-`, which cannot lead out of a directory.
fn archive_name(name: &str) -> std::result::Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if !name.is_empty() && name.chars().all(is_allowed) {
        Ok(name.to_owned())
    } else {
        Err("expected lower-case letters, digits, _ and -".to_owned())
    }
}

fn unpack(fixtures: &Path, machine: &str, directory: &Path) -> Result<()> {
    let archives = archives(fixtures, machine)?;
    if archives.is_empty() {
        let names = machines(fixtures)?.join(", ");
        return Err(format!("unknown machine {machine:?}: tests/fixtures has {names}").into());
    }
    if directory.exists() && fs::read_dir(directory)?.next().is_some() {
        return Err(format!("{}: directory is not empty", directory.display()).into());
    }
    let mut all = Archive::default();
    for (path, archive) in archives {
        let merged = all.merge(archive);
        merged.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    all.unpack(directory)?;
    println!(
        "unpacked {} entries to {}",
        all.entries().count(),
        directory.display()
    );
    Ok(())
}

fn pack(fixtures: &Path, machine: &str, directory: &Path, collector: Option<&str>) -> Result<()> {
    archive_name(machine).map_err(|error| format!("machine {machine:?}: {error}"))?;
    let tree = Archive::from_directory(directory)?;
    if tree.is_empty() {
        return Err(format!("{}: directory is empty", directory.display()).into());
    }
    let old = archives(fixtures, machine)?;
    let is_split = fixtures.join(machine).is_dir();
    let single = fixtures.join(format!("{machine}.ttar"));
    let archive_of_new = match collector {
        Some(name) if is_split => Some(fixtures.join(machine).join(format!("{name}.ttar"))),
        Some(_) => return Err(format!("{machine} has one archive, without --collector").into()),
        None if is_split => None,
        None => Some(single),
    };
    let mut new: BTreeMap<PathBuf, Archive> = BTreeMap::new();
    let mut without_archive = Vec::new();
    for (path, content) in tree.entries() {
        let is_in = |(_, archive): &&(PathBuf, Archive)| archive.get(path).is_some();
        let current = old.iter().find(is_in).map(|(file, _)| file);
        let Some(file) = current.or(archive_of_new.as_ref()) else {
            without_archive.push(path.display().to_string());
            continue;
        };
        let path = path.to_owned();
        let content = content.clone();
        let archive = new.entry(file.clone()).or_default();
        archive.insert(Entry { path, content })?;
    }
    if !without_archive.is_empty() {
        let paths = without_archive.join("\n  ");
        return Err(format!(
            "in no archive yet, pass --collector NAME for the collector that reads them:\n  {paths}"
        )
        .into());
    }
    // Encode everything before writing, so that an error leaves all files unchanged.
    let mut texts = Vec::new();
    for (file, archive) in &new {
        texts.push((file, archive.to_text()?));
    }
    for (file, text) in texts {
        let previous = old.iter().find(|(path, _)| path == file);
        if previous.is_some_and(|(_, archive)| new.get(file) == Some(archive)) {
            continue;
        }
        fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("wrote {}", file.display());
    }
    for (file, _) in old.iter().filter(|(file, _)| !new.contains_key(file)) {
        fs::remove_file(file).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("removed {}: no entries left", file.display());
    }
    Ok(())
}

/// The archives of a machine with their files; empty if there is no such machine.
fn archives(fixtures: &Path, machine: &str) -> Result<Vec<(PathBuf, Archive)>> {
    if !machines(fixtures)?.iter().any(|name| name == machine) {
        return Ok(Vec::new());
    }
    let mut archives = Vec::new();
    for file in ttar::archive_files(&fixtures.join(machine))? {
        let archive = Archive::read(&file)?;
        archives.push((file, archive));
    }
    Ok(archives)
}

/// The names of all machines, sorted.
fn machines(fixtures: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(fixtures)? {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.is_dir() && !ttar::archive_files(&path)?.is_empty()
            || path
                .extension()
                .is_some_and(|extension| extension == "ttar")
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixtures with a machine in two archives, `split`, and one in a single archive, `single`, and
    /// a directory to unpack into.
    struct Scratch {
        fixtures: PathBuf,
        tree: PathBuf,
    }

    impl Scratch {
        fn new(test: &str) -> Self {
            let root = std::env::temp_dir().join(format!("xtask-{test}-{}", std::process::id()));
            let fixtures = root.join("fixtures");
            fs::create_dir_all(fixtures.join("split")).unwrap();
            let entry = |path: &str, line: &str| {
                format!(
                    "Path: {path}\nLines: 1\n{line}\nMode: 644\n# ttar - - - - - - - - - - - - - - - - - - - - - - - - - - - -\n"
                )
            };
            for (archive, text) in [
                ("split/common.ttar", entry("proc/stat", "cpu 1")),
                ("split/swap.ttar", entry("proc/swaps", "none")),
                ("single.ttar", entry("proc/stat", "cpu 2")),
            ] {
                fs::write(fixtures.join(archive), text).unwrap();
            }
            let tree = root.join("tree");
            Self { fixtures, tree }
        }

        fn archive(&self, name: &str) -> String {
            fs::read_to_string(self.fixtures.join(name)).unwrap()
        }

        fn pack(&self, machine: &str, collector: Option<&str>) -> Result<()> {
            pack(&self.fixtures, machine, &self.tree, collector)
        }

        fn unpack(&self, machine: &str) -> Result<()> {
            unpack(&self.fixtures, machine, &self.tree)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(self.fixtures.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn files_stay_in_their_archive() {
        let scratch = Scratch::new("stays");
        let swap = scratch.archive("split/swap.ttar");
        scratch.unpack("split").unwrap();
        fs::write(scratch.tree.join("proc/stat"), "cpu 3\n").unwrap();
        scratch.pack("split", None).unwrap();
        assert!(scratch.archive("split/common.ttar").contains("\ncpu 3\n"));
        assert_eq!(scratch.archive("split/swap.ttar"), swap);
    }

    #[test]
    fn new_file_requires_a_collector() {
        let scratch = Scratch::new("new");
        scratch.unpack("split").unwrap();
        fs::write(scratch.tree.join("proc/loadavg"), "0\n").unwrap();
        let error = scratch.pack("split", None).unwrap_err().to_string();
        assert!(error.contains("--collector NAME"), "{error}");
        assert!(error.ends_with("\n  proc/loadavg"), "{error}");
        scratch.pack("split", Some("loadavg")).unwrap();
        let loadavg = scratch.archive("split/loadavg.ttar");
        assert!(loadavg.starts_with("Path: proc/loadavg\n"), "{loadavg}");
    }

    #[test]
    fn empty_archive_is_removed() {
        let scratch = Scratch::new("removed");
        scratch.unpack("split").unwrap();
        fs::remove_file(scratch.tree.join("proc/swaps")).unwrap();
        scratch.pack("split", None).unwrap();
        assert!(!scratch.fixtures.join("split/swap.ttar").exists());
    }

    #[test]
    fn captured_machine_gets_one_archive() {
        let scratch = Scratch::new("captured");
        fs::create_dir_all(scratch.tree.join("proc")).unwrap();
        fs::write(scratch.tree.join("proc/stat"), "cpu 4\n").unwrap();
        for machine in ["single", "unknown"] {
            scratch.pack(machine, None).unwrap();
            let text = scratch.archive(&format!("{machine}.ttar"));
            assert!(text.contains("\ncpu 4\n"), "{text}");
            let error = scratch.pack(machine, Some("stat")).unwrap_err();
            assert!(error.to_string().ends_with("without --collector"));
        }
    }

    #[test]
    fn rejects_unknown_machine_and_non_empty_directory() {
        let scratch = Scratch::new("errors");
        let error = scratch.unpack("missing").unwrap_err().to_string();
        assert!(
            error.ends_with("tests/fixtures has single, split"),
            "{error}"
        );
        let error = scratch.pack("../x", None).unwrap_err().to_string();
        assert!(error.contains("expected lower-case letters"), "{error}");
        scratch.unpack("single").unwrap();
        let error = scratch.unpack("split").unwrap_err().to_string();
        assert!(error.ends_with("directory is not empty"), "{error}");
    }
}
