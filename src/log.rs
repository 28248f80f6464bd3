//! Logging to standard error, as logfmt or JSON.

use clap::ValueEnum;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Libraries that log what clients do, once per connection or frame: only their errors are logged.
const CAPPED: [&str; 6] = [
    "h2",
    "hyper",
    "hyper_util",
    "rustls",
    "tokio_rustls",
    "zbus",
];

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

fn filter(level: LevelFilter) -> Targets {
    let capped = CAPPED.map(|library| (library, level.min(LevelFilter::ERROR)));
    Targets::new().with_default(level).with_targets(capped)
}

/// Initializes logging for the process. Must be called once.
pub fn init(level: Level, format: LogFormat) {
    let level = match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(filter(level));
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::{LevelFilter, filter};

    #[test]
    fn libraries_log_only_errors() {
        for level in [LevelFilter::DEBUG, LevelFilter::WARN, LevelFilter::ERROR] {
            let filter = filter(level);
            for target in ["h2::proto::streams", "hyper::proto", "rustls::conn"] {
                assert!(filter.would_enable(target, &Level::ERROR), "{target}");
                assert!(!filter.would_enable(target, &Level::WARN), "{target}");
            }
            let is_warn_on = filter.would_enable("strata_exporter::http", &Level::WARN);
            assert_eq!(is_warn_on, level != LevelFilter::ERROR);
        }
    }
}
