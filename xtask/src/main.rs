//! Development tasks: `cargo xtask --help`.

mod fixtures;
mod prose;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of the exporter.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Unpack and pack the text archives in tests/fixtures.
    #[command(subcommand)]
    Fixtures(fixtures::Command),
    /// Report words that the project does not use.
    Prose,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Fixtures(command) => command.run(),
        Task::Prose => prose::check().map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
