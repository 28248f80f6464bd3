//! Socket paths and connection URIs of libvirt daemons.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Drivers with a modular daemon, and its name.
const DAEMONS: [(&str, &str); 5] = [
    ("qemu", "virtqemud"),
    ("lxc", "virtlxcd"),
    ("xen", "virtxend"),
    ("vbox", "virtvboxd"),
    ("ch", "virtchd"),
];
/// The monolithic daemon, which has all drivers.
const LIBVIRTD: &str = "libvirt";

/// A socket and the URIs to open on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) socket: PathBuf,
    /// Tried in order. A user's daemon has no `qemu:///system`.
    pub(super) uris: Vec<String>,
}

/// Sockets to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Tried in order.
    pub(super) list: Vec<Endpoint>,
    /// Whether they are configured rather than defaults.
    pub(super) is_explicit: bool,
}

/// Directories of sockets.
#[derive(Debug)]
pub(super) struct SocketPaths<'a> {
    pub(super) rootfs: &'a Path,
    /// `XDG_RUNTIME_DIR` or its default.
    pub(super) runtime_dir: PathBuf,
    pub(super) is_root: bool,
}

impl<'a> SocketPaths<'a> {
    pub(super) fn new(rootfs: &'a Path) -> Self {
        let user = rustix::process::geteuid();
        let dir = env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let dir = dir.map_or_else(
            || format!("/run/user/{}", user.as_raw()).into(),
            PathBuf::from,
        );
        Self {
            rootfs,
            runtime_dir: dir,
            is_root: user.is_root(),
        }
    }

    fn system(&self, daemon: &str) -> PathBuf {
        let dir = self.rootfs.join("run/libvirt");
        dir.join(format!("{daemon}-sock-ro"))
    }

    /// A user's daemon has no read-only socket.
    fn session(&self, daemon: &str) -> PathBuf {
        let dir = self.runtime_dir.join("libvirt");
        dir.join(format!("{daemon}-sock"))
    }

    /// Returns the possible sockets of a driver's daemon.
    fn endpoints_for(&self, driver: &str, path: &str) -> Vec<Endpoint> {
        let driver_daemon = DAEMONS.iter().find(|(name, _)| *name == driver);
        let daemons = driver_daemon.map(|(_, daemon)| *daemon).into_iter();
        let socket_for = |daemon| match path {
            "/session" => self.session(daemon),
            _ => self.system(daemon),
        };
        let sockets = daemons.chain([LIBVIRTD]).map(socket_for);
        let endpoint = |socket| Endpoint {
            socket,
            uris: vec![format!("{driver}://{path}")],
        };
        sockets.map(endpoint).collect()
    }
}

impl Endpoints {
    /// Parses a URI, or returns the default sockets if there is none. `None` for a URI that needs
    /// more than a local socket.
    pub(super) fn from_uri(uri: Option<&str>, paths: &SocketPaths<'_>) -> Option<Self> {
        let Some(uri) = uri else {
            let mut endpoints = paths.endpoints_for("qemu", "/system");
            if !paths.is_root {
                endpoints.extend(paths.endpoints_for("qemu", "/session"));
            }
            let is_explicit = false;
            return Some(Self {
                list: endpoints,
                is_explicit,
            });
        };
        let default_uris = || vec!["qemu:///system".to_owned(), "qemu:///session".to_owned()];
        let path = uri.strip_prefix("unix://").unwrap_or(uri);
        let endpoints = if path.starts_with('/') {
            let (socket, uris) = (path.into(), default_uris());
            vec![Endpoint { socket, uris }]
        } else {
            Self::from_driver_uri(uri, paths)?
        };
        let is_explicit = true;
        Some(Self {
            list: endpoints,
            is_explicit,
        })
    }

    fn from_driver_uri(uri: &str, paths: &SocketPaths<'_>) -> Option<Vec<Endpoint>> {
        let (scheme, rest) = uri.split_once("://")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !path.starts_with('/') {
            // On another host.
            return None;
        }
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport)),
            None => (scheme, None),
        };
        let mut query = form_urlencoded::parse(query.as_bytes());
        let socket = query.find(|(key, _)| key == "socket");
        let is_known = DAEMONS.iter().any(|(name, _)| *name == driver);
        let is_local = match transport {
            Some(transport) => transport == "unix",
            None => is_known,
        };
        match socket {
            Some((_, socket)) if is_local => Some(vec![Endpoint {
                socket: socket.into_owned().into(),
                uris: vec![format!("{driver}://{path}")],
            }]),
            None if is_local && is_known => Some(paths.endpoints_for(driver, path)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(uri: Option<&str>, is_root: bool) -> Option<Vec<String>> {
        let paths = SocketPaths {
            rootfs: Path::new("/host"),
            runtime_dir: "/run/user/7".into(),
            is_root,
        };
        let endpoints = Endpoints::from_uri(uri, &paths)?.list.into_iter();
        let lines = endpoints
            .map(|endpoint| format!("{} {}", endpoint.socket.display(), endpoint.uris.join(" ")));
        Some(lines.collect())
    }

    #[test]
    fn default_sockets_are_system_then_session() {
        let system = [
            "/host/run/libvirt/virtqemud-sock-ro qemu:///system",
            "/host/run/libvirt/libvirt-sock-ro qemu:///system",
        ];
        let session = [
            "/run/user/7/libvirt/virtqemud-sock qemu:///session",
            "/run/user/7/libvirt/libvirt-sock qemu:///session",
        ];
        assert_eq!(sockets(None, true).unwrap(), system);
        assert_eq!(sockets(None, false).unwrap(), [system, session].concat());
        assert_eq!(sockets(Some("qemu:///system"), false).unwrap(), system);
        assert_eq!(sockets(Some("qemu:///session"), true).unwrap(), session);
    }

    #[test]
    fn accepts_socket_as_path_or_in_uri() {
        let expected = ["/a/b qemu:///system qemu:///session"];
        assert_eq!(sockets(Some("/a/b"), true).unwrap(), expected);
        assert_eq!(sockets(Some("unix:///a/b"), true).unwrap(), expected);
        let uri = "qemu+unix:///system?mode=auto&socket=/a%20b";
        assert_eq!(sockets(Some(uri), true).unwrap(), ["/a b qemu:///system"]);
        let uri = "qemu:///session?socket=/a";
        assert_eq!(sockets(Some(uri), true).unwrap(), ["/a qemu:///session"]);
        let uri = "test+unix:///default?socket=/a";
        assert_eq!(sockets(Some(uri), true).unwrap(), ["/a test:///default"]);
    }

    #[test]
    fn rejects_uri_that_needs_more_than_local_socket() {
        for uri in [
            "test:///default",
            "test:///default?socket=/a",
            "qemu+ssh://host/system",
            "qemu+tls:///system",
            "qemu://host/system?socket=/a",
            "libvirt-sock",
            "",
        ] {
            assert_eq!(sockets(Some(uri), true), None, "{uri}");
        }
    }
}
