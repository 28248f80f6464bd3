//! Common parts of configuration files with Prometheus's schemas, for servers and clients.
//!
//! Files are parsed with `serde-saphyr`, which limits depth, nodes and aliases and provides line
//! and column for errors, including those detected later. A file with a second document is
//! rejected; Prometheus ignores the second document.

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

/// Maximum size of a file; enough for inline certificates and keys.
const MAX_SIZE: u64 = 1 << 20;
/// Maximum number of YAML nodes; enough for users, `client_allowed_sans` and the like.
const MAX_NODES: usize = 20_000;

/// A value that must not be logged.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Position in the file: line and column, from 1; line 0 for the whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub line: u64,
    pub column: u64,
}

/// An error in a configuration file.
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

/// Parses a file; `None` if it is empty.
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

/// Converts a parser error. The position is a prefix of the message, not a part of it.
fn yaml_error(error: &serde_saphyr::Error) -> ConfigError {
    let position = error.location().as_ref().map(Position::from);
    // Suffixes to remove: the position, and advice for programmers.
    let suffixes = [
        " (defined at line ",
        " at line ",
        " (line ",
        ", set DuplicateKeyPolicy",
        "; use from_str_multiple",
    ];
    let message = error.to_string();
    let message = suffixes.iter().fold(message.as_str(), |message, suffix| {
        message
            .split_once(suffix)
            .map_or(message, |(message, _)| message)
    });
    ConfigError::at(position.unwrap_or_default(), message)
}
