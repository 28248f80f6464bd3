use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A result whose error is [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why an archive cannot be read, written or unpacked.
#[derive(Debug)]
pub enum Error {
    /// The text of an archive is invalid.
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry cannot be archived or unpacked.
    Entry {
        /// The path of the entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An error in an archive file.
    Archive {
        /// The archive file.
        archive: PathBuf,
        /// The error.
        source: Box<Error>,
    },
}

impl Error {
    pub(crate) fn syntax(line: usize, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Syntax { line, reason }
    }

    pub(crate) fn entry(path: &Path, reason: &'static str) -> Self {
        let path = path.to_owned();
        Self::Entry { path, reason }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn archive(archive: &Path) -> impl FnOnce(Self) -> Self {
        let archive = archive.to_owned();
        move |source| Self::Archive {
            archive,
            source: Box::new(source),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, reason } => write!(f, "line {line}: {reason}"),
            Self::Entry { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Archive { archive, source } => match source.as_ref() {
                Self::Syntax { line, reason } => {
                    write!(f, "{}:{line}: {reason}", archive.display())
                }
                source => write!(f, "{}: {source}", archive.display()),
            },
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Archive { source, .. } => Some(source),
            Self::Syntax { .. } | Self::Entry { .. } => None,
        }
    }
}
