//! What is given in the file itself, or in one that it names.

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::{ConfigError, ConfigReader, Position, Secret};

/// A text, such as certificates, a key or a password, and where in the file it stands.
#[derive(Debug)]
pub(crate) struct InlineOrFile {
    pub source: ValueSource,
    pub position: Position,
}

/// Where a text is.
#[derive(Debug)]
pub(crate) enum ValueSource {
    Inline(Secret),
    File(PathBuf),
}

/// What is given inline or by file, not by both. What is empty is not given. Relative names are
/// below `dir`.
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
    /// Whether it is in a file of its own.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, ValueSource::File(_))
    }

    /// Reads it, or what is in the file.
    pub(crate) fn read<T>(
        &self,
        reader: &mut ConfigReader,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let read = match &self.source {
            ValueSource::Inline(Secret(text)) => parse(text.as_bytes()),
            ValueSource::File(path) => reader.read(path).and_then(|bytes| parse(&bytes)),
        };
        read.map_err(|said| self.error(&said))
    }

    /// Says what is wrong with it.
    pub(crate) fn error(&self, message: &str) -> ConfigError {
        let message = match &self.source {
            ValueSource::Inline(_) => format!("what stands here {message}"),
            ValueSource::File(path) => format!("{}: {message}", path.display()),
        };
        ConfigError::at(self.position, message)
    }
}
