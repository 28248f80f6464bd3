//! Listeners: TCP addresses, Unix sockets, and sockets passed by systemd.

use std::{
    fmt,
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, ToSocketAddrs},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use listenfd::ListenFd;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListenAddress {
    /// A host and a port; without a host, all addresses of the machine.
    Tcp {
        /// A host name or an address; IPv6 without brackets.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(address: &str) -> Result<Self, String> {
        if let Some(path) = address.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: requires a path".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if address.starts_with("vsock:") {
            return Err("vsock is not supported".to_owned());
        }
        let (host, port) = address
            .rsplit_once(':')
            .ok_or("expected HOST:PORT, :PORT or unix:PATH")?;
        let port = port.parse().map_err(|_| format!("invalid port {port:?}"))?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').ok_or("missing ] in address")?,
            None if host.contains(':') => return Err("IPv6 address must be in brackets".to_owned()),
            None => host,
        };
        let host = (!host.is_empty()).then(|| host.to_owned());
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => match host.as_deref() {
                Some(host) if host.contains(':') => write!(f, "[{host}]:{port}"),
                host => write!(f, "{}:{port}", host.unwrap_or_default()),
            },
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket, with its path if the exporter created it and has to remove it.
    Unix(UnixListener, Option<PathBuf>),
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// Calls the same method on either variant.
macro_rules! either {
    ($this:expr, $stream:ident => $call:expr) => {
        match $this.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

impl Listener {
    /// Binds to an address.
    pub(super) async fn bind(address: &ListenAddress) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot listen on {address}: {error}");
        match address {
            ListenAddress::Tcp { host, port } => {
                let bound = match host {
                    Some(host) => {
                        // Not with tokio, which resolves names on a thread that would remain.
                        let addresses = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
                        let addresses: Vec<_> = addresses.collect();
                        TcpListener::bind(addresses.as_slice()).await
                    }
                    // Without IPv6, all addresses means all IPv4 addresses.
                    None => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).await {
                        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                            TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).await
                        }
                        bound => bound,
                    },
                };
                bound.map(Self::Tcp).map_err(failed)
            }
            ListenAddress::Unix(path) => {
                remove_stale(path).await;
                let listener = UnixListener::bind(path).map_err(failed)?;
                Ok(Self::Unix(listener, Some(path.clone())))
            }
        }
    }

    /// The sockets passed by systemd.
    pub(super) fn from_systemd() -> Result<Vec<Self>, String> {
        let failed = |error: io::Error| format!("cannot use systemd socket: {error}");
        let mut passed = ListenFd::from_env();
        let mut listeners = Vec::new();
        for at in 0..passed.len() {
            if let Ok(Some(tcp)) = passed.take_tcp_listener(at) {
                tcp.set_nonblocking(true).map_err(failed)?;
                listeners.push(Self::Tcp(TcpListener::from_std(tcp).map_err(failed)?));
            } else if let Some(unix) = passed.take_unix_listener(at).map_err(failed)? {
                unix.set_nonblocking(true).map_err(failed)?;
                let unix = UnixListener::from_std(unix).map_err(failed)?;
                listeners.push(Self::Unix(unix, None));
            }
        }
        if listeners.is_empty() {
            let message = "--web.systemd-socket: no socket passed by systemd (LISTEN_FDS)";
            return Err(message.to_owned());
        }
        Ok(listeners)
    }

    /// The path to remove on shutdown, if any.
    pub(super) fn owned_socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(_, path) => path.as_deref(),
            Self::Tcp(_) => None,
        }
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A response is written at once; its last segment must not be delayed.
                stream.set_nodelay(true).ok();
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            // If this fails, the next start removes it.
            std::fs::remove_file(path).ok();
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("TCP socket"),
            },
            Self::Unix(_, Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(..) => f.write_str("Unix socket passed by systemd"),
        }
    }
}

/// Removes a socket without a listener, such as after a crash.
async fn remove_stale(path: &PathBuf) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_as_in_go() {
        for (text, host, port) in [
            (":9100", None, 9100),
            ("localhost:9100", Some("localhost"), 9100),
            ("[::1]:80", Some("::1"), 80),
            ("127.0.0.1:0", Some("127.0.0.1"), 0),
        ] {
            let host = host.map(str::to_owned);
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address, ListenAddress::Tcp { host, port });
            assert_eq!(address.to_string(), text);
        }
        let unix: ListenAddress = "unix:/run/x.sock".parse().unwrap();
        assert_eq!(unix, ListenAddress::Unix("/run/x.sock".into()));
        for invalid in [
            "9100",
            ":port",
            ":99999",
            "::1:9100",
            "[::1:9100",
            "unix:",
            "vsock://:1",
        ] {
            assert!(invalid.parse::<ListenAddress>().is_err(), "{invalid}");
        }
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_live_socket_is_not() {
        let path = std::env::temp_dir().join(format!("strata-listen-{}", std::process::id()));
        let address = ListenAddress::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address).await.unwrap();
        assert!(Listener::bind(&address).await.is_err());
        drop(listener);
        assert!(!path.exists());
    }
}
