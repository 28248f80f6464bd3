//! Errors of sources and collectors.

use std::{fmt, io, path::PathBuf, sync::Arc};

/// The result of reading or parsing something.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why data could not be read or parsed.
///
/// Cloning is cheap: all collectors that share a read during a scrape share its error.
#[derive(Debug, Clone)]
pub enum Error {
    /// The file, device or socket does not exist on this machine.
    NotFound(PathBuf),
    /// The kernel refused the read.
    Io {
        /// The file that could not be read.
        path: PathBuf,
        /// The error of the system call.
        source: Arc<io::Error>,
    },
    /// The file was read, but its content does not match the documented format.
    Parse {
        /// The file that could not be parsed.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What was expected there.
        reason: String,
    },
    /// A daemon, or the kernel over netlink, rejected or failed a request.
    Api {
        /// The name of the API in error messages: `systemd`, `netlink`.
        api: &'static str,
        /// The error it returned.
        reason: String,
    },
    /// No response before the scrape's deadline.
    TimedOut(String),
    /// A collector of `node_exporter` that is not implemented yet.
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

    /// Whether the object disappeared between listing and reading.
    ///
    /// Processes, cgroups and devices may disappear during a scrape, and the kernel returns a
    /// different error for each. The errno is matched because `ErrorKind` has no stable name for
    /// the last two.
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

    /// Whether the kernel reported that the attribute has no value.
    ///
    /// Drivers return one of these errors for an attribute that the device does not support or that
    /// is temporarily unavailable; none of them is a fault.
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

    /// Whether reading requires more privileges than the exporter has.
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
            Self::TimedOut(what) => write!(f, "{what} timed out"),
            Self::Unsupported => write!(f, "node_exporter collector not implemented yet"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_cgroup_or_process_is_gone() {
        for (errno, gone) in [(2, true), (3, true), (19, true), (5, false), (13, false)] {
            let error = Error::io("/x", io::Error::from_raw_os_error(errno));
            assert_eq!(error.is_gone(), gone, "errno {errno}: {error}");
        }
    }

    #[test]
    fn permission_denied_is_not_unavailable() {
        for (errno, unavailable) in [(2, true), (22, true), (61, true), (1, false), (13, false)] {
            let error = Error::io("/x", io::Error::from_raw_os_error(errno));
            assert_eq!(
                error.is_unavailable(),
                unavailable,
                "errno {errno}: {error}"
            );
            assert_eq!(
                error.is_permission_denied(),
                !unavailable,
                "errno {errno}: {error}"
            );
        }
    }
}
