//! `strata_exporter targets`: edits scrape targets in files for Prometheus's `file_sd_configs`.
//!
//! The subcommands `add`, `remove`, `list` and `sync` maintain such a file for machines that come
//! and go. An edit is atomic, and an unchanged file is not written.

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
--label NAME=VALUE sets a label that Prometheus attaches to the target's series. Names that begin
with __ configure Prometheus: __scheme__, __metrics_path__, __param_NAME, __scrape_interval__ and
__scrape_timeout__ change how a target is scraped.

The exit code is 0 if the file is in the requested state, whether it was changed or not; 1 on
failure; 2 for an invalid command line.";

/// Edit the scrape targets in a Prometheus target file (`file_sd_configs`).
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    arg_required_else_help = false,
    disable_help_subcommand = true
)]
pub struct TargetsFlags {
    #[command(subcommand)]
    action: TargetsAction,
}

#[derive(Debug, Subcommand)]
enum TargetsAction {
    /// Add targets to the group with exactly these labels.
    Add(AddArgs),
    /// Remove targets, by address, by labels, or by both.
    Remove(RemoveArgs),
    /// Print the targets.
    List(ListArgs),
    /// Replace the targets with these labels by the listed ones.
    ///
    /// Other groups of the file are not changed. Existing targets keep their other labels, new ones
    /// get only these labels. Without --label, the whole file is replaced.
    Sync(SyncArgs),
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Target file, named *.json, *.yml or *.yaml; created if missing.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Label of the targets; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Move existing targets with other labels out of their groups.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Addresses to scrape: HOST:PORT, without http:// and path.
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Target file, named *.json, *.yml or *.yaml.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only targets with this label and value; can be repeated.
    #[arg(
        long = "label",
        value_name = "NAME=VALUE",
        required_unless_present = "targets"
    )]
    labels: Vec<TargetLabel>,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Addresses as written in the file [default: all targets with the labels].
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Target file, named *.json, *.yml or *.yaml.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only targets with this label and value; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Print JSON in Prometheus's format for target files and HTTP service discovery.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SyncArgs {
    /// Target file, named *.json, *.yml or *.yaml; created if missing.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Label of the targets to replace; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<TargetLabel>,
    /// Read the targets from a file, one per line; lines that start with # are comments.
    #[arg(long, value_name = "LIST", conflicts_with = "targets")]
    from: Option<PathBuf>,
    /// Move existing targets with other labels out of their groups.
    #[arg(long)]
    replace: bool,
    /// Accept an empty list of targets, which removes all targets with these labels.
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    write_options: WriteOptions,
    /// Addresses to scrape [default: read in the format of LIST from standard input].
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Options of subcommands that write.
#[derive(Debug, Args)]
struct WriteOptions {
    /// Print the changes without writing them.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for another process that locks the file.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    wait: Duration,
}

/// Output of the subcommand.
#[derive(Debug, Default)]
pub struct TargetsOutput {
    /// For standard output.
    pub text: String,
    /// A warning, for standard error.
    pub note: Option<String>,
}

/// Changes or prints the targets.
pub fn run(flags: TargetsFlags) -> Result<TargetsOutput, String> {
    match flags.action {
        TargetsAction::Add(add) => {
            let labels = TargetLabels::from_args(&add.labels)?;
            edit_file(&add.file, &add.write_options, |edit| {
                let mut targets = add.targets.iter();
                targets.try_for_each(|target| edit.add(target, &labels, add.replace))
            })
        }
        TargetsAction::Remove(remove) => {
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
        TargetsAction::Sync(sync) => {
            let labels = TargetLabels::from_args(&sync.labels)?;
            let targets = targets_to_sync(&sync)?;
            edit_file(&sync.file, &sync.write_options, |edit| {
                edit.sync(&targets, &labels, sync.replace)
            })
        }
        TargetsAction::List(list) => {
            let labels = TargetLabels::from_args(&list.labels)?;
            let target_file = TargetFile::resolve(&list.file)?;
            let format = Format::of(&list.file)?;
            let Some(contents) = target_file.read()? else {
                return Err(format!(
                    "{}: no such file or directory",
                    list.file.display()
                ));
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

/// Reads, changes and writes a file while holding its lock.
fn edit_file(
    path: &Path,
    options: &WriteOptions,
    apply: impl FnOnce(&mut Edit) -> Result<(), String>,
) -> Result<TargetsOutput, String> {
    let format = Format::of(path)?;
    let target_file = TargetFile::resolve(path)?;
    let is_written = !options.dry_run;
    let lock = is_written
        .then(|| target_file.lock(options.wait))
        .transpose()?;
    let old = target_file.read()?;
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
    let mut output = TargetsOutput {
        text: lines
            .map(|change| change.describe(is_written) + "\n")
            .collect(),
        note: None,
    };
    let written = document
        .write(&edit.groups)
        .map_err(|error| with_path(path, &error))?;
    if written.lost_comments {
        let verb = if is_written { "are" } else { "would be" };
        output.note = Some(format!("comments in {} {verb} lost", path.display()));
    }
    if is_written {
        target_file.replace(old.as_ref(), &written.text)?;
    }
    drop(lock);
    Ok(output)
}

fn parse_document(format: Format, path: &Path, text: String) -> Result<Document, String> {
    format.read(text).map_err(|error| with_path(path, &error))
}

fn with_path(path: &Path, error: &str) -> String {
    format!("{}: {error}", path.display())
}

/// The targets for sync, without duplicates.
fn targets_to_sync(sync: &SyncArgs) -> Result<Vec<String>, String> {
    let mut targets = sync.targets.clone();
    if targets.is_empty() {
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
        targets.extend(lines.map(str::to_owned));
    }
    let mut seen = HashSet::new();
    targets.retain(|target| seen.insert(target.clone()));
    if targets.is_empty() && !sync.allow_empty {
        return Err(
            "no targets, which would remove all existing ones: use --allow-empty to confirm"
                .to_owned(),
        );
    }
    Ok(targets)
}

/// One line per target.
fn format_targets(group: &TargetGroup) -> String {
    let targets = group.targets.iter().map(|target| escape_control(target));
    targets
        .flat_map(|target| [target, format!(" {}\n", group.labels)])
        .collect()
}
