//! Targets in a file that Prometheus reads (`file_sd_configs`): who is to be scraped.
//!
//! `strata_exporter targets add|remove|list|sync` changes such a file for machines that come and
//! go. All or nothing is changed, and nothing is written where nothing changes.

mod document;
mod edit;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod target_group;

use std::{
    collections::HashSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::duration;
use document::{Document, Format, json};
use edit::Edit;
use file::TargetFile;
use target_group::{TargetGroup, TargetLabel, TargetLabels, escape_control};

const AFTER_HELP: &str = "\
Labels that Prometheus attaches to what it scrapes are given as --label NAME=VALUE. Names that
begin with __ are for Prometheus itself: __scheme__, __metrics_path__, __param_NAME,
__scrape_interval__ and __scrape_timeout__ change how a target is scraped.

The exit code is 0 if the file is as wanted, whether it was changed or not; 1 if that could not
be done; 2 for a wrong command line.";

/// Edit the scrape targets in a file of Prometheus's (`file_sd_configs`).
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    arg_required_else_help = false,
    disable_help_subcommand = true
)]
pub struct Flags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add targets to the group with exactly these labels.
    Add(AddArgs),
    /// Remove targets, by address, by labels, or by both.
    Remove(RemoveArgs),
    /// Print the targets.
    List(ListArgs),
    /// Make the targets with these labels exactly those given.
    ///
    /// Other groups of the file stay as they are. Targets that are there keep their other labels,
    /// new ones get just these. Without --label, it is about the whole file.
    Sync(SyncArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The file, whose name ends in .json, .yml or .yaml; made if it is not there.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// A label of the targets; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Take targets that are there with other labels out of their groups.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Whom to scrape: HOST:PORT, without http:// and path.
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The file, whose name ends in .json, .yml or .yaml.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only where this label has this value; can be repeated.
    #[arg(
        long = "label",
        value_name = "NAME=VALUE",
        required_unless_present = "targets"
    )]
    labels: Vec<TargetLabel>,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Which ones, as they are written in the file; all with the labels, if none is given.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The file, whose name ends in .json, .yml or .yaml.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only where this label has this value; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Print JSON, as Prometheus takes it from files and over HTTP.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// The file, whose name ends in .json, .yml or .yaml; made if it is not there.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The label whose targets are given; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Read the targets from a file, one on each line; lines that begin with # are comments.
    #[arg(long, value_name = "LIST", conflicts_with = "targets")]
    from: Option<PathBuf>,
    /// Take targets that are there with other labels out of their groups.
    #[arg(long)]
    replace: bool,
    /// If no targets are given, remove all with these labels instead of saying so.
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Whom to scrape; if none is given, read like a LIST from standard input.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// How a file is changed.
#[derive(Debug, Args)]
struct WriteOptions {
    /// Say what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait while another changes the file.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    wait: Duration,
}

/// What was done.
#[derive(Debug, Default)]
pub struct TargetsOutput {
    /// For standard output.
    pub text: String,
    /// What whoever did it should know, for standard error.
    pub note: Option<String>,
}

/// Changes or prints the targets.
pub fn run(flags: Flags) -> Result<TargetsOutput, String> {
    match flags.action {
        Action::Add(add) => {
            let labels = TargetLabels::from_args(&add.labels)?;
            edit_file(&add.file, &add.write_options, |edit| {
                let mut targets = add.targets.iter();
                targets.try_for_each(|target| edit.add(target, &labels, add.replace))
            })
        }
        Action::Remove(remove) => {
            let labels = TargetLabels::from_args(&remove.labels)?;
            let targets = &remove.targets;
            edit_file(&remove.file, &remove.write_options, |edit| {
                edit.remove(|group, address| {
                    group.labels.match_all(&labels)
                        && (targets.is_empty() || targets.iter().any(|it| it == address))
                });
                Ok(())
            })
        }
        Action::Sync(sync) => {
            let labels = TargetLabels::from_args(&sync.labels)?;
            let wanted = targets_to_sync(&sync)?;
            edit_file(&sync.file, &sync.write_options, |edit| {
                edit.sync(&wanted, &labels, sync.replace)
            })
        }
        Action::List(list) => {
            let labels = TargetLabels::from_args(&list.labels)?;
            let place = TargetFile::resolve(&list.file)?;
            let format = Format::of(&list.file)?;
            let Some(contents) = place.read()? else {
                return Err(format!("{} does not exist", list.file.display()));
            };
            let mut groups = parse_document(format, &list.file, contents.text)?.groups;
            groups.retain(|group| group.labels.match_all(&labels));
            let text = if list.json {
                json(&groups)? + "\n"
            } else {
                groups.iter().map(format_targets).collect()
            };
            Ok(TargetsOutput { text, note: None })
        }
    }
}

/// Reads, changes and writes a file while nobody else does.
fn edit_file(
    path: &Path,
    options: &WriteOptions,
    apply: impl FnOnce(&mut Edit) -> Result<(), String>,
) -> Result<TargetsOutput, String> {
    let format = Format::of(path)?;
    let place = TargetFile::resolve(path)?;
    let is_done = !options.dry_run;
    let lock = is_done.then(|| place.lock(options.wait)).transpose()?;
    let old = place.read()?;
    let document = match &old {
        Some(contents) => parse_document(format, path, contents.text.clone())?,
        None => format.empty(),
    };
    let mut edit = Edit::new(&document.groups);
    apply(&mut edit).map_err(|error| with_path(path, &error))?;
    if edit.changes.is_empty() {
        let text = "nothing to change\n".to_owned();
        return Ok(TargetsOutput { text, note: None });
    }
    let lines = edit.changes.iter();
    let mut done = TargetsOutput {
        text: lines
            .map(|change| change.describe(is_done) + "\n")
            .collect(),
        note: None,
    };
    let written = document
        .write(&edit.groups)
        .map_err(|error| with_path(path, &error))?;
    if written.lost_comments {
        let verb = if is_done { "are" } else { "would be" };
        done.note = Some(format!("comments in {} {verb} lost", path.display()));
    }
    if is_done {
        place.replace(old.as_ref(), &written.text)?;
    }
    drop(lock);
    Ok(done)
}

fn parse_document(format: Format, path: &Path, text: String) -> Result<Document, String> {
    format.read(text).map_err(|error| with_path(path, &error))
}

fn with_path(path: &Path, error: &str) -> String {
    format!("{}: {error}", path.display())
}

/// The targets that sync is given, each once.
fn targets_to_sync(sync: &SyncArgs) -> Result<Vec<String>, String> {
    let mut wanted = sync.targets.clone();
    if wanted.is_empty() {
        let text = match &sync.from {
            Some(path) if path != Path::new("-") => {
                let file = File::open(path).map_err(|error| with_path(path, &error.to_string()))?;
                file::read_bounded(file).map_err(|error| with_path(path, &error))?
            }
            _ => {
                let text = file::read_bounded(io::stdin().lock());
                text.map_err(|error| format!("standard input: {error}"))?
            }
        };
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        wanted.extend(lines.map(str::to_owned));
    }
    let mut seen = HashSet::new();
    wanted.retain(|target| seen.insert(target.clone()));
    if wanted.is_empty() && !sync.allow_empty {
        return Err(
            "no targets are given, which would remove all there are: --allow-empty if that is meant"
                .to_owned(),
        );
    }
    Ok(wanted)
}

/// A line for each target.
fn format_targets(group: &TargetGroup) -> String {
    let targets = group.targets.iter().map(|target| escape_control(target));
    targets
        .flat_map(|target| [target, format!(" {}\n", group.labels)])
        .collect()
}
