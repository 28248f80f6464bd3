//! Values that are set inline or in a separate file.

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::{ConfigError, ConfigReader, Position, Secret};

/// A value such as certificates, a key or a password, and its position in the configuration file.
#[derive(Debug)]
pub(crate) struct InlineOrFile {
    pub source: ValueSource,
    pub position: Position,
}

/// Source of a value.
#[derive(Debug)]
pub(crate) enum ValueSource {
    Inline(Secret),
    File(PathBuf),
}

/// Returns the value set inline or by file; setting both is an error. Empty values count as not
/// set. Relative paths are relative to `dir`.
pub(crate) fn parse_inline_or_file(
    inline: Option<Spanned<Secret>>,
    file: Option<Spanned<String>>,
    name: &str,
    dir: &Path,
) -> Result<Option<InlineOrFile>, ConfigError> {
    let inline = inline.filter(|inline| !inline.value.0.is_empty());
    let file = file.filter(|file| !file.value.is_empty());
    Ok(match (inline, file) {
        (Some(_), Some(file)) => {
            return Err(ConfigError::at(
                Position::from(&file),
                format!("only one of {name} and {name}_file must be provided"),
            ));
        }
        (Some(inline), None) => {
            let position = Position::from(&inline);
            let source = ValueSource::Inline(inline.value);
            Some(InlineOrFile { source, position })
        }
        (None, Some(file)) => {
            let position = Position::from(&file);
            let source = ValueSource::File(dir.join(file.value));
            Some(InlineOrFile { source, position })
        }
        (None, None) => None,
    })
}

impl InlineOrFile {
    /// Whether the value is in a separate file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, ValueSource::File(_))
    }

    /// Reads and parses the value.
    pub(crate) fn read<T>(
        &self,
        reader: &mut ConfigReader,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let read = match &self.source {
            ValueSource::Inline(Secret(text)) => parse(text.as_bytes()),
            ValueSource::File(path) => reader.read(path).and_then(|bytes| parse(&bytes)),
        };
        read.map_err(|message| self.error(&message))
    }

    /// Creates an error about the value.
    pub(crate) fn error(&self, message: &str) -> ConfigError {
        let message = match &self.source {
            ValueSource::Inline(_) => format!("inline value {message}"),
            ValueSource::File(path) => format!("{}: {message}", path.display()),
        };
        ConfigError::at(self.position, message)
    }
}
