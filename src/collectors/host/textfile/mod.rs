//! Metrics that other programs leave in files named `*.prom`, in the text format
//! 0.0.4 or, where the file ends with `# EOF`, in `OpenMetrics`.
//!
//! These files are anybody's, so nothing in them or about them may cost more than
//! the file itself: only regular files are read, each of them and all together of a
//! limited size, and one that has a single error, or a timestamp, is left out whole,
//! because it may be half a file. `node_exporter` fills up labels that only some series of a
//! family have with empty ones; an empty label is the same as none, so here there is none.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parse;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    time::Instant,
};

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{Families, Family, Part},
    metric::{Desc, Kind},
    metrics,
    sources::{Snapshot, UserFile},
};
use parse::{Block, Parsed};

metrics! {
    /// When a text file was last written, as a unix time; only of files that were read without an error.
    MTIME: Gauge = "node_textfile_mtime_seconds" ["file"];
    /// Whether a text file or a directory of them could not be read or used in full, 1 or 0; the log says which and why.
    SCRAPE_ERROR: Gauge = "node_textfile_scrape_error" [];
}

/// The largest file that is read.
const MAX_FILE: usize = 64 << 20;
/// How many samples and labels all files may have together: a hundred times what is
/// found in practice, and some 100 MB of memory.
const MAX_ITEMS: usize = 2_000_000;

/// The flags of the textfile collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Read the *.prom files in this directory, or in all that match a pattern; can be repeated.
    #[arg(long = "collector.textfile.directory", value_name = "DIR")]
    textfile_directory: Vec<OsString>, // a PathBuf may not be empty
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct TextFile {
    directories: Vec<PathBuf>,
}

impl Collector for TextFile {
    const NAME: &'static str = "textfile";
    const ABOUT: &'static str = "metrics that other programs leave in files";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = Flags;

    fn new(flags: Flags) -> Result<Self, String> {
        let mut directories = flags.textfile_directory;
        directories.retain(|directory| !directory.is_empty());
        let directories = directories.into_iter().map(PathBuf::from).collect();
        Ok(Self { directories })
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut gathering = Gathering::until(machine.deadline());
        let mut seen = BTreeSet::new();
        for directory in self
            .directories
            .iter()
            .flat_map(|path| machine.matching(path))
        {
            if seen.insert(directory.clone())
                && let Err(error) = gathering.directory(machine, &directory)
            {
                gathering.failed(error);
            }
        }
        Ok(gathering.into_families())
    }
}

/// What the files said so far.
#[derive(Debug)]
struct Gathering {
    out: Families,
    has_failed: bool,
    /// When to stop, so that what was read can still be handed over.
    until: Instant,
    left: usize,
    families: Vec<Gathered>,
    by_name: HashMap<String, usize>,
}

/// A family, and where it came from.
#[derive(Debug)]
struct Gathered {
    family: Family,
    help: Option<String>,
    files: Vec<String>,
}

impl Gathered {
    fn new(block: &Block<'_>) -> Self {
        let name = block.name.clone().into_owned();
        Self {
            family: Family::foreign(name, String::new(), block.kind),
            help: None,
            files: Vec::new(),
        }
    }

    fn add(&mut self, block: Block<'_>, file: &str) -> Result<(), String> {
        let first = self.files.first().map_or("", String::as_str);
        if self.family.kind != block.kind {
            return Err(format!("{} has another type in {first}", block.name));
        }
        match (&self.help, block.help) {
            (Some(known), Some(help)) if *known != help => {
                return Err(format!("{} has another help text in {first}", block.name));
            }
            (None, help) => self.help = help,
            _ => {}
        }
        self.files.push(file.to_owned());
        let bound_label = parse::bound_label(block.kind);
        for sample in block.samples {
            let bound = sample.bound.map(parse::bound_text);
            let bound = bound_label.zip(bound.as_deref());
            let labels = sample.labels.iter();
            let labels = labels.map(|(name, value)| (*name, value.as_ref()));
            self.family
                .push(sample.part, labels.chain(bound), sample.value);
        }
        Ok(())
    }
}

impl Gathering {
    fn until(deadline: Instant) -> Self {
        let now = Instant::now();
        let time = deadline.saturating_duration_since(now);
        Self {
            out: Families::default(),
            has_failed: false,
            until: now + time * 3 / 4,
            left: MAX_ITEMS,
            families: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    fn failed(&mut self, error: Error) {
        self.has_failed = true;
        self.out.skip(error);
    }

    fn directory(&mut self, machine: &Snapshot, path: &Path) -> Result<()> {
        let directory = machine.dir(path)?;
        for name in directory.names()? {
            if !is_for_us(&name) {
                continue;
            }
            if Instant::now() >= self.until {
                let file = path.join(name).display().to_string();
                return Err(Error::TimedOut(file));
            }
            let read = directory.user_file(&name, MAX_FILE);
            if let Err(error) = read.and_then(|file| self.file(&file, &clean(&path.join(&name)))) {
                self.failed(error);
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &UserFile, label: &str) -> Result<()> {
        let Parsed { blocks, odd, items } = parse::parse(file, self.left)?;
        self.left = self.left.saturating_sub(items);
        let at = |line, reason| Error::Parse {
            path: file.path.clone(),
            line,
            reason,
        };
        for (line, reason) in odd {
            self.out.skip(at(line, reason.to_owned()));
        }
        for block in blocks {
            let line = block.line;
            if let Err(reason) = self.family(block, label) {
                self.failed(at(line, reason));
            }
        }
        self.out.add(&MTIME, [label], file.modified);
        Ok(())
    }

    /// Adds what a file says of one family, unless it contradicts earlier files.
    fn family(&mut self, block: Block<'_>, file: &str) -> Result<(), String> {
        let known = self.by_name.get(block.name.as_ref()).copied();
        let at = known.unwrap_or(self.families.len());
        if known.is_none() {
            if let Some(other) = self.owner(&block.name, block.kind) {
                return Err(format!("{} is the name of a part of {other}", block.name));
            }
            self.by_name.insert(block.name.clone().into_owned(), at);
            self.families.push(Gathered::new(&block));
        }
        match self.families.get_mut(at) {
            Some(family) => family.add(block, file),
            None => Ok(()),
        }
    }

    /// The family some of whose series would have this one's name, or the other way
    /// round: `x_count` beside a summary `x`.
    fn owner(&self, name: &str, kind: Kind) -> Option<&str> {
        let known = |name: &str| self.families.get(*self.by_name.get(name)?);
        let is_part = |part: &Part| {
            let whole = known(name.strip_suffix(part.suffix())?)?;
            parts(whole.family.kind).contains(part).then_some(whole)
        };
        let complex = [Kind::Histogram, Kind::GaugeHistogram, Kind::Summary];
        let mut all_parts = complex.iter().flat_map(|kind| parts(*kind));
        let mut own_parts = parts(kind).iter();
        all_parts
            .find_map(is_part)
            .or_else(|| own_parts.find_map(|part| known(&format!("{name}{}", part.suffix()))))
            .map(|known| known.family.name.as_ref())
    }

    fn into_families(mut self) -> Families {
        for Gathered {
            mut family,
            help,
            files,
        } in self.families
        {
            let help = help.unwrap_or_else(|| format!("Metric read from {}", files.join(", ")));
            family.help = help.into();
            self.out.add_foreign(family);
        }
        self.out.add(&SCRAPE_ERROR, [], self.has_failed);
        self.out
    }
}

/// The parts of a metric of this kind whose series have names of their own.
fn parts(kind: Kind) -> &'static [Part] {
    match kind {
        Kind::Histogram => &[Part::Bucket, Part::Sum, Part::Count],
        Kind::GaugeHistogram => &[Part::Bucket, Part::GaugeSum, Part::GaugeCount],
        Kind::Summary => &[Part::Sum, Part::Count],
        _ => &[],
    }
}

fn is_for_us(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".prom")
}

/// A path as the `file` label has it: what `.` and `..` in it say is done, by the
/// text alone.
fn clean(path: &Path) -> String {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match (component, clean.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                clean.pop();
            }
            (component, _) => clean.push(component),
        }
    }
    clean.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sources::Roots;

    /// What these files say together: names and contents.
    fn gathered(files: &[(&str, &str)]) -> (Vec<String>, Families) {
        let mut gathering = Gathering::until(Instant::now());
        for (name, body) in files {
            let file = UserFile {
                path: name.into(),
                body: body.as_bytes().to_owned(),
                modified: 1_700_000_000,
            };
            if let Err(error) = gathering.file(&file, name) {
                gathering.failed(error);
            }
        }
        let families = gathering.into_families();
        let mut lines = Vec::new();
        for family in families.iter() {
            if !family.name.starts_with("node_textfile_mtime") {
                lines.push(format!("# {} {}", family.name, family.help));
                for (part, labels, value) in family.samples() {
                    let mut line = format!("{}{{{labels}}} ", part.suffix());
                    value.write_to(&mut line);
                    lines.push(line);
                }
            }
        }
        lines.retain(|line| !line.starts_with("# node_textfile_scrape_error"));
        (lines, families)
    }

    #[test]
    fn a_family_in_two_files_is_one() {
        let (lines, families) = gathered(&[
            ("a", "x{b=\"1\",a=\"2\"} 1\ny 1\n"),
            ("b", "x{a=\"3\"} 2\n# HELP y Why.\ny{a=\"4\"} 3\n"),
        ]);
        assert_eq!(
            lines,
            [
                "# x Metric read from a, b",
                "{a=\"2\",b=\"1\"} 1",
                "{a=\"3\"} 2",
                "# y Why.",
                "{} 1",
                "{a=\"4\"} 3",
                "{} 0",
            ]
        );
        let mtimes = families.iter().next().unwrap();
        assert_eq!(
            (mtimes.name.as_ref(), mtimes.len()),
            ("node_textfile_mtime_seconds", 2)
        );
    }

    #[test]
    fn of_contradictions_the_first_file_is_right_and_the_rest_of_the_other_is_kept() {
        let first = "# HELP x One.\n# TYPE x gauge\nx 1\n# TYPE s summary\ns_sum 1\nt_count 1\n";
        for (second, reason) in [
            (
                "# HELP x Two.\n# TYPE x gauge\nx 2\nz 3\n",
                "1: x has another help text in a",
            ),
            ("\nx 2\nz 3\n", "2: x has another type in a"),
            ("s_count 2\nz 3\n", "1: s_count is the name of a part of s"),
            (
                "# TYPE t summary\nt{quantile=\"1\"} 2\nz 3\n",
                "1: t is the name of a part of t_count",
            ),
        ] {
            let (lines, families) = gathered(&[("a", first), ("b", second)]);
            assert_eq!(
                lines,
                [
                    "# x One.",
                    "{} 1",
                    "# s Metric read from a",
                    "_sum{} 1",
                    "# t_count Metric read from a",
                    "{} 1",
                    "# z Metric read from b",
                    "{} 3",
                    "{} 1",
                ],
                "{second:?}"
            );
            let (skipped, error) = families.skipped();
            assert_eq!(
                (skipped, error.unwrap().to_string()),
                (1, format!("b:{reason}"))
            );
        }
    }

    #[test]
    fn a_broken_file_says_nothing_and_has_no_time() {
        let (lines, families) = gathered(&[("a", "x 1\ny\n"), ("b", "x 2\n")]);
        assert_eq!(lines, ["# x Metric read from b", "{} 2", "{} 1"]);
        assert!(
            families
                .lines()
                .contains(&"node_textfile_mtime_seconds{file=\"b\"} 1700000000".to_owned())
        );
        assert_eq!(families.iter().next().unwrap().len(), 1);
    }

    #[test]
    fn when_time_is_up_no_more_files_are_read() {
        let roots = Roots {
            procfs: "/".into(),
            sysfs: "/".into(),
            rootfs: "/".into(),
            udev_data: "/".into(),
        };
        let directory = crate::fixtures::fixture("hardware").join("textfile");
        let read = |deadline| {
            let collector = TextFile {
                directories: vec![directory.clone()],
            };
            let machine = Snapshot::begin(roots.clone().into(), deadline);
            let out = collector.collect(&machine).unwrap();
            let times = out.iter().find(|family| family.name == MTIME.desc().name);
            (
                times.map_or(0, Family::len),
                out.skipped().1.map(ToString::to_string),
            )
        };
        let timed_out = format!("{}/backup.prom did not answer in time", directory.display());
        assert_eq!(read(Instant::now()), (0, Some(timed_out)));
        assert_eq!(read(Instant::now() + Duration::from_secs(60)).0, 3);
    }

    #[test]
    fn the_file_label_is_tidy() {
        for (path, label) in [
            ("/a//b/./x.prom", "/a/b/x.prom"),
            ("/a/../../b/x.prom", "/b/x.prom"),
            ("./a/x.prom", "a/x.prom"),
            ("../a/x.prom", "../a/x.prom"),
            ("a/../../x.prom", "../x.prom"),
        ] {
            assert_eq!(clean(Path::new(path)), label);
        }
    }
}
