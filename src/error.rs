//! What a source or a collector can fail with.

use std::{fmt, io, path::PathBuf, sync::Arc};

/// The result of reading or parsing something.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a reading could not be had.
///
/// Cloning is cheap: one failed reading is shared by every collector that asked
/// for it during the scrape.
#[derive(Debug, Clone)]
pub enum Error {
    /// There is nothing to read here: the file, device or socket does not exist.
    NotFound(PathBuf),
    /// The kernel refused the read.
    Io {
        /// The file that was being read.
        path: PathBuf,
        /// What the kernel answered.
        source: Arc<io::Error>,
    },
    /// The file was read but does not have the shape its documentation promises.
    Parse {
        /// The file that was being parsed.
        path: PathBuf,
        /// The line at fault, counted from one.
        line: usize,
        /// What was expected there.
        reason: String,
    },
    /// A daemon or the kernel, asked by message, refused or failed a request.
    Api {
        /// Whom we asked, as its users call it: `systemd`, `netlink`.
        api: &'static str,
        /// What it answered.
        reason: String,
    },
    /// What we asked did not answer before the scrape's deadline.
    TimedOut(String),
    /// A collector of `node_exporter`'s that this exporter does not have yet.
    Unsupported,
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.into(), source.into());
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound(path),
            _ => Self::Io {
                path,
                source: Arc::new(source),
            },
        }
    }

    pub(crate) fn api(api: &'static str, reason: impl fmt::Display) -> Self {
        Self::Api {
            api,
            reason: reason.to_string(),
        }
    }

    /// Whether the thing being read went away between listing it and reading it.
    ///
    /// Processes, cgroups and devices come and go under a scrape, and the kernel
    /// has a different answer for each of them. The raw number is matched because
    /// `ErrorKind` has no stable name for the last two.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NotFound(_) => true,
            Self::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
            }
            _ => false,
        }
    }

    /// Whether this is how the kernel says that an attribute has no value.
    ///
    /// Drivers answer a read of what their device lacks, or cannot tell just now,
    /// with one of these; none of them is a fault of ours or of the machine.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(
                    source.raw_os_error(),
                    Some(
                        libc::EINVAL
                            | libc::EOPNOTSUPP
                            | libc::ENODATA
                            | libc::ENXIO
                            | libc::EAGAIN
                            | libc::EBUSY
                            | libc::EIO
                            | libc::ETIMEDOUT
                            | libc::ENOTDIR
                    )
                ) || self.is_gone()
            }
            _ => self.is_gone(),
        }
    }

    /// Whether the kernel shows this only to users with more rights than ours.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(path) => write!(f, "{} does not exist", path.display()),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Parse { path, line, reason } => {
                write!(f, "{}:{line}: {reason}", path.display())
            }
            Self::Api { api, reason } => write!(f, "{api}: {reason}"),
            Self::TimedOut(what) => write!(f, "{what} did not answer in time"),
            Self::Unsupported => write!(f, "this collector of node_exporter's is not built yet"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_cgroup_or_process_counts_as_vanished() {
        for (errno, vanished) in [(2, true), (3, true), (19, true), (5, false), (13, false)] {
            let error = Error::io("/x", io::Error::from_raw_os_error(errno));
            assert_eq!(error.is_gone(), vanished, "errno {errno}: {error}");
        }
    }

    #[test]
    fn a_missing_right_is_not_the_kernel_having_nothing_to_say() {
        for (errno, unsaid) in [(2, true), (22, true), (61, true), (1, false), (13, false)] {
            let error = Error::io("/x", io::Error::from_raw_os_error(errno));
            assert_eq!(error.is_unavailable(), unsaid, "errno {errno}: {error}");
            assert_eq!(
                error.is_permission_denied(),
                !unsaid,
                "errno {errno}: {error}"
            );
        }
    }
}
