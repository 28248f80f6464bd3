//! Log lines on standard error, as logfmt or JSON.

use clap::ValueEnum;
use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How important a line must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// What happens rarely, too.
    Info,
    /// What somebody should look at.
    Warn,
    /// What does not work.
    Error,
}

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Starts logging; for the whole process, once.
pub fn init(level: Level, format: LogFormat) {
    let level = match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(level);
    match format {
        LogFormat::Logfmt => {
            let logfmt = tracing_logfmt::builder().with_target(false).layer();
            registry.with(logfmt.with_writer(std::io::stderr)).init();
        }
        LogFormat::Json => {
            let json = fmt::layer().json().flatten_event(true).with_target(false);
            registry.with(json.with_writer(std::io::stderr)).init();
        }
    }
}
