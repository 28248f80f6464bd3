//! Development tasks: `cargo xtask --help`.

mod fixtures;

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
}

fn main() -> ExitCode {
    let Task::Fixtures(command) = Cli::parse().task;
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
