//! What is given in the file itself, or in one that it names.

use std::path::{Path, PathBuf};

use serde_saphyr::Spanned;

use super::{Place, Reader, Secret, Wrong};

/// A text, such as certificates, a key or a password, and where in the file it stands.
#[derive(Debug)]
pub(crate) struct Given {
    pub from: Source,
    pub at: Place,
}

/// Where a text is.
#[derive(Debug)]
pub(crate) enum Source {
    Text(Secret),
    File(PathBuf),
}

/// What is given inline or by file, not by both. What is empty is not given. Relative names are
/// below `dir`.
pub(crate) fn one(
    inline: Option<Spanned<Secret>>,
    file: Option<Spanned<String>>,
    name: &str,
    dir: &Path,
) -> Result<Option<Given>, Wrong> {
    let inline = inline.filter(|inline| !inline.value.0.is_empty());
    let file = file.filter(|file| !file.value.is_empty());
    Ok(match (inline, file) {
        (Some(_), Some(file)) => {
            return Err(Wrong::at(
                Place::from(&file),
                format!("only one of {name} and {name}_file must be provided"),
            ));
        }
        (Some(inline), None) => {
            let at = Place::from(&inline);
            let from = Source::Text(inline.value);
            Some(Given { from, at })
        }
        (None, Some(file)) => {
            let at = Place::from(&file);
            let from = Source::File(dir.join(file.value));
            Some(Given { from, at })
        }
        (None, None) => None,
    })
}

impl Given {
    /// Whether it is in a file of its own.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.from, Source::File(_))
    }

    /// Reads it, or what is in the file.
    pub(crate) fn read<T>(
        &self,
        reader: &mut Reader,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Wrong> {
        let read = match &self.from {
            Source::Text(Secret(text)) => parse(text.as_bytes()),
            Source::File(path) => reader.read(path).and_then(|bytes| parse(&bytes)),
        };
        read.map_err(|said| self.wrong(&said))
    }

    /// Says what is wrong with it.
    pub(crate) fn wrong(&self, said: &str) -> Wrong {
        let said = match &self.from {
            Source::Text(_) => format!("what stands here {said}"),
            Source::File(path) => format!("{}: {said}", path.display()),
        };
        Wrong::at(self.at, said)
    }
}
