//! User and permissions of this process, to diagnose missing data.

use std::path::Path;

use rustix::{
    fs::{Access, AtFlags, CWD, FileType},
    io::Errno,
};

use super::Snapshot;
use crate::error::Result;

/// The user that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// User name, if known.
    pub name: Option<String>,
}

/// Whether this process may connect to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAccess {
    /// The path does not exist.
    Missing,
    /// The path is not a socket, or a parent of it is not a directory.
    NotASocket,
    /// Permission denied; joining the socket's group would grant it, if there is a group other
    /// than root's.
    Denied {
        /// Name of the group, or its ID.
        group: Option<String>,
    },
    /// Access is permitted.
    Allowed,
}

impl Snapshot {
    /// Returns the user that this process runs as.
    #[must_use]
    pub fn user(&self) -> User {
        let uid = rustix::process::geteuid().as_raw();
        let name = self.lookup_name("etc/passwd", uid).ok().flatten();
        User { uid, name }
    }

    /// Whether processes of other users are visible. With `hidepid` they are not, unless this
    /// process may trace them.
    #[must_use]
    pub fn can_see_other_processes(&self) -> bool {
        self.proc_dir("1").is_ok_and(|init| init.has("stat"))
    }

    /// Whether this process may connect to a socket. It does not connect.
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
        let is_group_writable = stat.st_mode & 0o020 != 0 && stat.st_gid != 0;
        let name = || {
            let name = self.lookup_name("etc/group", stat.st_gid).ok().flatten();
            name.unwrap_or_else(|| stat.st_gid.to_string())
        };
        SocketAccess::Denied {
            group: is_group_writable.then(name),
        }
    }

    /// Returns the name of an ID in a file such as `/etc/passwd`.
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
    fn sockets_are_distinguished_from_other_files() {
        let dir = std::env::temp_dir().join(format!("strata-rights-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let snapshot = Snapshot::for_test_host();
        let _listening = UnixListener::bind(dir.join("socket")).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        let access = |name: &str| snapshot.socket_access(&dir.join(name));
        assert_eq!(access("socket"), SocketAccess::Allowed);
        assert_eq!(access("file"), SocketAccess::NotASocket);
        assert_eq!(access("file/socket"), SocketAccess::NotASocket);
        assert_eq!(access("none"), SocketAccess::Missing);
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(
            snapshot.lookup_name("etc/passwd", 0).unwrap().unwrap(),
            "root"
        );
    }
}
