//! Who this process is, and what it may do: for those who ask why something is missing.

use std::path::Path;

use rustix::{
    fs::{Access, AtFlags, CWD, FileType},
    io::Errno,
};

use super::Snapshot;
use crate::error::Result;

/// Who this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its name, where that is known.
    pub name: Option<String>,
}

/// Whether a socket can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAccess {
    /// There is none.
    Missing,
    /// There is something else, or something on the way to it is no directory.
    NotASocket,
    /// This user may not; the socket's group may, if there is one to join, which root's is
    /// not.
    Denied {
        /// The group's name, or its number.
        group: Option<String>,
    },
    /// This user may.
    Allowed,
}

impl Snapshot {
    /// The user that this process runs as.
    #[must_use]
    pub fn user(&self) -> User {
        let uid = rustix::process::geteuid().as_raw();
        let name = self.lookup_name("etc/passwd", uid).ok().flatten();
        User { uid, name }
    }

    /// Whether processes of others are there for this one. With `hidepid` they are not, but
    /// for who may trace them.
    #[must_use]
    pub fn can_see_other_processes(&self) -> bool {
        self.proc_dir("1").is_ok_and(|first| first.has("stat"))
    }

    /// Whether this process may connect to a socket. Nobody is connected to.
    #[must_use]
    pub fn socket_access(&self, socket: &Path) -> SocketAccess {
        let stat = match rustix::fs::statat(CWD, socket, AtFlags::empty()) {
            Ok(stat) => stat,
            Err(Errno::ACCESS | Errno::PERM) => return SocketAccess::Denied { group: None },
            Err(Errno::NOENT) => return SocketAccess::Missing,
            Err(_) => return SocketAccess::NotASocket,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return SocketAccess::NotASocket;
        }
        if rustix::fs::accessat(CWD, socket, Access::WRITE_OK, AtFlags::EACCESS).is_ok() {
            return SocketAccess::Allowed;
        }
        let may = stat.st_mode & 0o020 != 0 && stat.st_gid != 0;
        let name = || {
            let name = self.lookup_name("etc/group", stat.st_gid).ok().flatten();
            name.unwrap_or_else(|| stat.st_gid.to_string())
        };
        SocketAccess::Denied {
            group: may.then(name),
        }
    }

    /// The name that a file such as `/etc/passwd` has for a number.
    fn lookup_name(&self, file: &str, number: u32) -> Result<Option<String>> {
        let text = self.read_rootfs(file)?;
        let number = number.to_string();
        Ok(text.body().lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_told_from_what_is_none() {
        let dir = std::env::temp_dir().join(format!("strata-rights-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let machine = Snapshot::for_test_host();
        let _listening = UnixListener::bind(dir.join("socket")).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        let access = |name: &str| machine.socket_access(&dir.join(name));
        assert_eq!(access("socket"), SocketAccess::Allowed);
        assert_eq!(access("file"), SocketAccess::NotASocket);
        assert_eq!(access("file/socket"), SocketAccess::NotASocket);
        assert_eq!(access("none"), SocketAccess::Missing);
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(
            machine.lookup_name("etc/passwd", 0).unwrap().unwrap(),
            "root"
        );
    }
}
