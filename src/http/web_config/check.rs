//! `strata_exporter web-config check FILE...`: validates web config files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::LoadedConfig;

const AFTER_HELP: &str = "\
Certificates and keys that a file names are read, too: run this as the user that the exporter runs
as. The exit code is 0 if all is well, 1 if something is wrong, 2 for a wrong command line.";

/// Validate files for --web.config.file.
#[derive(Debug, Args)]
#[command(
    after_help = AFTER_HELP,
    arg_required_else_help = false,
    disable_help_subcommand = true
)]
pub struct WebConfigFlags {
    #[command(subcommand)]
    action: WebConfigAction,
}

#[derive(Debug, Subcommand)]
enum WebConfigAction {
    /// Validate files and print errors with their positions.
    Check {
        /// Web config file; can be repeated.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Results of the validation.
#[derive(Debug, Default)]
pub struct WebConfigCheckOutput {
    /// Summaries of valid files, for standard output.
    pub valid: String,
    /// Errors of invalid files, for standard error.
    pub errors: String,
}

/// Validates the files.
#[must_use]
pub fn run(flags: &WebConfigFlags) -> WebConfigCheckOutput {
    let WebConfigAction::Check { files } = &flags.action;
    let mut output = WebConfigCheckOutput::default();
    for file in files {
        match check_file(file) {
            Ok(summary) => output.valid += &(summary + "\n"),
            Err(error) => output.errors += &(error + "\n"),
        }
    }
    output
}

/// Validates one file. Returns a summary, or the error.
pub fn check_file(file: &Path) -> Result<String, String> {
    let loaded = LoadedConfig::load(file).0?;
    Ok(format!("{}: {}", file.display(), loaded.summary()))
}
