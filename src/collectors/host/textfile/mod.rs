//! Metrics that other programs write to files named `*.prom`, in the text format 0.0.4 or, if
//! the file ends with `# EOF`, in `OpenMetrics`.
//!
//! The files are untrusted, so a fault of a file must not affect more than that file: only
//! regular files are read, the size of each and of all together is limited, and a file with any
//! error or with a timestamp is dropped as a whole, because it could be truncated.
//! `node_exporter` adds empty labels to the series of a family that lack them; an empty label is
//! equivalent to a missing one, so none are added here.

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
    family::{Families, Family, SampleSuffix},
    metric::{Desc, MetricType},
    metrics,
    sources::{Snapshot, UserFile},
};
use parse::{ParsedFamily, ParsedFile};

metrics! {
    /// Unixtime mtime of textfiles successfully read.
    MTIME: Gauge = "node_textfile_mtime_seconds" ["file"];
    /// 1 if there was an error opening or reading a file, 0 otherwise; details are in the log.
    SCRAPE_ERROR: Gauge = "node_textfile_scrape_error" [];
}

/// Maximum file size in bytes.
const MAX_FILE: usize = 64 << 20;
/// Maximum number of samples and labels of all files: a hundred times what is found in practice,
/// and about 100 MB of memory.
const MAX_ITEMS: usize = 2_000_000;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct TextfileFlags {
    /// Directory to read *.prom files from, or a glob pattern of directories; can be repeated.
    #[arg(long = "collector.textfile.directory", value_name = "DIR")]
    textfile_directory: Vec<OsString>, // a PathBuf may not be empty
}

#[derive(Debug)]
pub(super) struct Textfile {
    directories: Vec<PathBuf>,
}

impl Collector for Textfile {
    const NAME: &'static str = "textfile";
    const ABOUT: &'static str = "metrics from *.prom files";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = TextfileFlags;

    fn new(flags: TextfileFlags) -> Result<Self, String> {
        let mut directories = flags.textfile_directory;
        directories.retain(|directory| !directory.is_empty());
        let directories = directories.into_iter().map(PathBuf::from).collect();
        Ok(Self { directories })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut merger = FamilyMerger::new(snapshot.deadline());
        let mut seen = BTreeSet::new();
        for directory in self.directories.iter().flat_map(|path| snapshot.glob(path)) {
            if seen.insert(directory.clone())
                && let Err(error) = merger.read_directory(snapshot, &directory)
            {
                merger.record_error(error);
            }
        }
        Ok(merger.into_families())
    }
}

/// Merges the families of all files.
#[derive(Debug)]
struct FamilyMerger {
    out: Families,
    has_failed: bool,
    /// When to stop reading, so that there is time left to return what was read.
    deadline: Instant,
    remaining_items: usize,
    families: Vec<FileFamily>,
    by_name: HashMap<String, usize>,
}

/// A family and the files it was read from.
#[derive(Debug)]
struct FileFamily {
    family: Family,
    help: Option<String>,
    files: Vec<String>,
}

impl FileFamily {
    fn new(parsed: &ParsedFamily<'_>) -> Self {
        let name = parsed.name.clone().into_owned();
        Self {
            family: Family::new(name, String::new(), parsed.kind),
            help: None,
            files: Vec::new(),
        }
    }

    fn merge(&mut self, parsed: ParsedFamily<'_>, file: &str) -> Result<(), String> {
        let first = self.files.first().map_or("", String::as_str);
        if self.family.kind != parsed.kind {
            return Err(format!("{} has a different type in {first}", parsed.name));
        }
        match (&self.help, parsed.help) {
            (Some(help_text), Some(help)) if *help_text != help => {
                return Err(format!(
                    "{} has a different help text in {first}",
                    parsed.name
                ));
            }
            (None, help) => self.help = help,
            _ => {}
        }
        self.files.push(file.to_owned());
        let bound_label = parse::bound_label(parsed.kind);
        for sample in parsed.samples {
            let bound = sample.bound.map(parse::format_bound);
            let bound = bound_label.zip(bound.as_deref());
            let labels = sample.labels.iter();
            let labels = labels.map(|(name, value)| (*name, value.as_ref()));
            self.family
                .push(sample.part, labels.chain(bound), sample.value);
        }
        Ok(())
    }
}

impl FamilyMerger {
    fn new(deadline: Instant) -> Self {
        let now = Instant::now();
        let time = deadline.saturating_duration_since(now);
        Self {
            out: Families::default(),
            has_failed: false,
            deadline: now + time * 3 / 4,
            remaining_items: MAX_ITEMS,
            families: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    fn record_error(&mut self, error: Error) {
        self.has_failed = true;
        self.out.record_error(error);
    }

    fn read_directory(&mut self, snapshot: &Snapshot, path: &Path) -> Result<()> {
        let directory = snapshot.open_dir(path)?;
        for name in directory.names()? {
            if !is_prom_file(&name) {
                continue;
            }
            if Instant::now() >= self.deadline {
                let file = path.join(name).display().to_string();
                return Err(Error::TimedOut(file));
            }
            let read = directory.read_user_file(&name, MAX_FILE);
            if let Err(error) =
                read.and_then(|file| self.merge_file(&file, &normalize_path(&path.join(&name))))
            {
                self.record_error(error);
            }
        }
        Ok(())
    }

    fn merge_file(&mut self, file: &UserFile, label: &str) -> Result<()> {
        let ParsedFile {
            families,
            skipped,
            item_count,
        } = parse::parse(file, self.remaining_items)?;
        self.remaining_items = self.remaining_items.saturating_sub(item_count);
        let at = |line, reason| Error::Parse {
            path: file.path.clone(),
            line,
            reason,
        };
        for (line, reason) in skipped {
            self.out.record_error(at(line, reason.to_owned()));
        }
        for parsed in families {
            let line = parsed.line;
            if let Err(reason) = self.merge_family(parsed, label) {
                self.record_error(at(line, reason));
            }
        }
        self.out.add(&MTIME, [label], file.modified);
        Ok(())
    }

    /// Merges a family of a file; fails if it contradicts earlier files.
    fn merge_family(&mut self, parsed: ParsedFamily<'_>, file: &str) -> Result<(), String> {
        let index = self.by_name.get(parsed.name.as_ref()).copied();
        let at = index.unwrap_or(self.families.len());
        if index.is_none() {
            if let Some(other) = self.conflicting_family(&parsed.name, parsed.kind) {
                return Err(format!(
                    "{} conflicts with a series name of {other}",
                    parsed.name
                ));
            }
            self.by_name.insert(parsed.name.clone().into_owned(), at);
            self.families.push(FileFamily::new(&parsed));
        }
        match self.families.get_mut(at) {
            Some(family) => family.merge(parsed, file),
            None => Ok(()),
        }
    }

    /// Returns the family that has a series of this name, or the family whose name equals a
    /// series of this one: `x_count` and a summary `x`.
    fn conflicting_family(&self, name: &str, kind: MetricType) -> Option<&str> {
        let find_family = |name: &str| self.families.get(*self.by_name.get(name)?);
        let is_part = |part: &SampleSuffix| {
            let parent = find_family(name.strip_suffix(part.suffix())?)?;
            parts(parent.family.kind).contains(part).then_some(parent)
        };
        let complex = [
            MetricType::Histogram,
            MetricType::GaugeHistogram,
            MetricType::Summary,
        ];
        let mut all_parts = complex.iter().flat_map(|kind| parts(*kind));
        let mut own_parts = parts(kind).iter();
        all_parts
            .find_map(is_part)
            .or_else(|| own_parts.find_map(|part| find_family(&format!("{name}{}", part.suffix()))))
            .map(|other| other.family.name.as_ref())
    }

    fn into_families(mut self) -> Families {
        for FileFamily {
            mut family,
            help,
            files,
        } in self.families
        {
            let help = help.unwrap_or_else(|| format!("Metric read from {}", files.join(", ")));
            family.help = help.into();
            self.out.push(family);
        }
        self.out.add(&SCRAPE_ERROR, [], self.has_failed);
        self.out
    }
}

/// Parts of a metric type whose series have a suffix.
fn parts(kind: MetricType) -> &'static [SampleSuffix] {
    match kind {
        MetricType::Histogram => &[SampleSuffix::Bucket, SampleSuffix::Sum, SampleSuffix::Count],
        MetricType::GaugeHistogram => &[
            SampleSuffix::Bucket,
            SampleSuffix::GaugeSum,
            SampleSuffix::GaugeCount,
        ],
        MetricType::Summary => &[SampleSuffix::Sum, SampleSuffix::Count],
        _ => &[],
    }
}

fn is_prom_file(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".prom")
}

/// Normalizes a path for the `file` label: resolves `.` and `..` lexically.
fn normalize_path(path: &Path) -> String {
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

    /// Merges files, given as names and contents.
    fn merged(files: &[(&str, &str)]) -> (Vec<String>, Families) {
        let mut gathering = FamilyMerger::new(Instant::now());
        for (name, body) in files {
            let file = UserFile {
                path: name.into(),
                body: body.as_bytes().to_owned(),
                modified: 1_700_000_000,
            };
            if let Err(error) = gathering.merge_file(&file, name) {
                gathering.record_error(error);
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
    fn family_in_two_files_is_merged() {
        let (lines, families) = merged(&[
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
    fn first_file_wins_on_conflict() {
        let first = "# HELP x One.\n# TYPE x gauge\nx 1\n# TYPE s summary\ns_sum 1\nt_count 1\n";
        for (second, reason) in [
            (
                "# HELP x Two.\n# TYPE x gauge\nx 2\nz 3\n",
                "1: x has a different help text in a",
            ),
            ("\nx 2\nz 3\n", "2: x has a different type in a"),
            (
                "s_count 2\nz 3\n",
                "1: s_count conflicts with a series name of s",
            ),
            (
                "# TYPE t summary\nt{quantile=\"1\"} 2\nz 3\n",
                "1: t conflicts with a series name of t_count",
            ),
        ] {
            let (lines, families) = merged(&[("a", first), ("b", second)]);
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
            let (skipped, error) = families.errors();
            assert_eq!(
                (skipped, error.unwrap().to_string()),
                (1, format!("b:{reason}"))
            );
        }
    }

    #[test]
    fn invalid_file_exposes_no_metrics_or_mtime() {
        let (lines, families) = merged(&[("a", "x 1\ny\n"), ("b", "x 2\n")]);
        assert_eq!(lines, ["# x Metric read from b", "{} 2", "{} 1"]);
        assert!(
            families
                .lines()
                .contains(&"node_textfile_mtime_seconds{file=\"b\"} 1700000000".to_owned())
        );
        assert_eq!(families.iter().next().unwrap().len(), 1);
    }

    #[test]
    fn no_files_are_read_after_the_deadline() {
        let roots = Roots {
            procfs: "/".into(),
            sysfs: "/".into(),
            rootfs: "/".into(),
            udev_data: "/".into(),
        };
        let directory = crate::fixtures::fixture("hardware").join("textfile");
        let read = |deadline| {
            let collector = Textfile {
                directories: vec![directory.clone()],
            };
            let machine = Snapshot::new(roots.clone().into(), deadline);
            let out = collector.collect(&machine).unwrap();
            let times = out.iter().find(|family| family.name == MTIME.desc().name);
            (
                times.map_or(0, Family::len),
                out.errors().1.map(ToString::to_string),
            )
        };
        let timed_out = format!("{}/backup.prom timed out", directory.display());
        assert_eq!(read(Instant::now()), (0, Some(timed_out)));
        assert_eq!(read(Instant::now() + Duration::from_secs(60)).0, 3);
    }

    #[test]
    fn file_label_is_normalized() {
        for (path, label) in [
            ("/a//b/./x.prom", "/a/b/x.prom"),
            ("/a/../../b/x.prom", "/b/x.prom"),
            ("./a/x.prom", "a/x.prom"),
            ("../a/x.prom", "../a/x.prom"),
            ("a/../../x.prom", "../x.prom"),
        ] {
            assert_eq!(normalize_path(Path::new(path)), label);
        }
    }
}
