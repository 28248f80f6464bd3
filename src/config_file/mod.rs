//! Files of settings by Prometheus's schemas, for the servers and the clients of its exporters:
//! what they have in common.
//!
//! Read with `serde-saphyr`, which is bounded in depth, nodes and aliases; it says line and column
//! of what it refuses, and of what is refused later. Not read is a second document, which
//! Prometheus's reader takes without a word.

mod files;
mod inline_or_file;
mod pem;
mod tls_version;

use std::fmt;

use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::{Location, Options, Spanned};

pub(crate) use files::{ConfigReader, FileVersion};
#[cfg(test)]
pub(crate) use inline_or_file::ValueSource;
pub(crate) use inline_or_file::{InlineOrFile, parse_inline_or_file};
pub(crate) use pem::{certificates, certified_key};
pub(crate) use tls_version::TlsVersion;

/// More than any such file needs, with certificates and their keys in it.
const MAX_SIZE: u64 = 1 << 20;
/// Users, addresses in `client_allowed_sans` and the like: none needs more.
const MAX_NODES: usize = 20_000;

/// A text that stands in no log.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Where in the file: line and column, counted from one; 0 is nowhere in particular.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub line: u64,
    pub column: u64,
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub(crate) position: Position,
    pub(crate) message: String,
}

impl ConfigError {
    pub(crate) fn at(at: Position, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            position: at,
            message,
        }
    }

    pub(crate) fn without_position(message: impl Into<String>) -> Self {
        Self::at(Position::default(), message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Position { line: 0, .. } => write!(f, " {}", self.message),
            Position { line, column } => write!(f, "{line}:{column}: {}", self.message),
        }
    }
}

impl From<&Location> for Position {
    fn from(location: &Location) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
        }
    }
}

impl<T> From<&Spanned<T>> for Position {
    fn from(value: &Spanned<T>) -> Self {
        Self::from(&value.referenced)
    }
}

/// What a file's bytes say; None if that is nothing.
pub(crate) fn parse_yaml<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<T>, ConfigError> {
    if bytes.len() as u64 > MAX_SIZE {
        return Err(ConfigError::without_position(too_large()));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| ConfigError::without_position("is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options: Options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 8,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| yaml_error(&error))
}

fn too_large() -> String {
    format!("is larger than {} MiB", MAX_SIZE >> 20)
}

/// What the reader of YAML says. Its place stands before it, not in it.
fn yaml_error(error: &serde_saphyr::Error) -> ConfigError {
    let position = error.location().as_ref().map(Position::from);
    // What follows is a place again, or advice for programmers.
    let ends = [
        " (defined at line ",
        " at line ",
        " (line ",
        ", set DuplicateKeyPolicy",
        "; use from_str_multiple",
    ];
    let message = error.to_string();
    let message = ends.iter().fold(message.as_str(), |said, end| {
        said.split_once(end).map_or(said, |(said, _)| said)
    });
    ConfigError::at(position.unwrap_or_default(), message)
}
