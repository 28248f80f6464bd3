//! Logging to standard error, as logfmt or JSON.

use clap::ValueEnum;
use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Minimum severity of the lines to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Everything.
    Debug,
    /// Also rare events, such as starts and reconnects.
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors only.
    Error,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Initializes logging for the process. Must be called once.
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
