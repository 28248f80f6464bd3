//! Transports on which all load cases run.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::support::{certificates, is_installed, server_process::TempDir, skip};

/// Timeout of the peer's part of a handshake.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The exporter's flags for a transport, and how to connect.
pub struct Transport {
    pub name: &'static str,
    /// Suffix for the case's name in the table.
    pub suffix: &'static str,
    /// The flags; files that they name are written to the directory.
    pub flags: fn(&Path) -> Vec<String>,
    pub connect: fn(SocketAddr) -> io::Result<Connection>,
}

static PLAIN: Transport = Transport {
    name: "plain",
    suffix: "",
    flags: |_| Vec::new(),
    connect: |address| {
        let tcp = TcpStream::connect(address)?;
        Ok(Connection {
            stream: Box::new(tcp.try_clone()?),
            tcp,
        })
    },
};

static TLS: Transport = Transport {
    name: "tls",
    suffix: ", over TLS",
    flags: |dir| {
        let file = dir.join("web.yml");
        fs::write(&file, &tls().unwrap().web_config).unwrap();
        vec![format!("--web.config.file={}", file.display())]
    },
    connect: |address| encrypted(address, &tls().unwrap().client),
};

/// All available transports.
pub fn all() -> Vec<&'static Transport> {
    [Some(&PLAIN), over_tls()].into_iter().flatten().collect()
}

/// Transport over TLS. Skips it and returns `None` where openssl is missing.
pub fn over_tls() -> Option<&'static Transport> {
    tls().map(|_| &TLS)
}

/// A connection that negotiated HTTP/2.
pub fn http2(address: SocketAddr) -> io::Result<Connection> {
    let mut client = ClientConfig::clone(&tls().unwrap().client);
    client.alpn_protocols = vec![b"h2".to_vec()];
    encrypted(address, &Arc::new(client))
}

/// A connection.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// The underlying TCP connection.
    pub tcp: TcpStream,
}

pub trait Stream: Read + Write + Send {
    /// Closes the sending side; reading still works.
    fn end(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Unlike rustls' own stream it can be read after writing has become impossible.
struct Encrypted(StreamOwned<ClientConnection, TcpStream>);

impl Read for Encrypted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let StreamOwned { conn, sock } = &mut self.0;
        loop {
            match conn.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            conn.read_tls(sock)?;
            conn.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Encrypted {
    fn end(&mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.flush()?;
        self.0.sock.shutdown(Shutdown::Write)
    }
}

fn encrypted(address: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<Connection> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    let name = address.ip().into();
    let mut agreed = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
    while agreed.is_handshaking() {
        agreed.complete_io(&mut tcp)?;
    }
    tcp.set_read_timeout(None)?;
    Ok(Connection {
        tcp: tcp.try_clone()?,
        stream: Box::new(Encrypted(StreamOwned::new(agreed, tcp))),
    })
}

/// Settings of both ends.
struct Tls {
    web_config: String,
    client: Arc<ClientConfig>,
}

/// Created once for all tests.
fn tls() -> Option<&'static Tls> {
    static MADE: OnceLock<Option<Tls>> = OnceLock::new();
    MADE.get_or_init(|| {
        if !is_installed("openssl") {
            skip("openssl");
            return None;
        }
        Some(make_tls())
    })
    .as_ref()
}

fn make_tls() -> Tls {
    let dir = TempDir::new("load-certificate");
    // Self-signed, and not an authority.
    let more = [
        "subjectAltName=IP:127.0.0.1",
        "basicConstraints=critical,CA:FALSE",
    ];
    let more = more.map(|extension| ["-addext", extension]);
    certificates::self_signed(&dir.0, "web", "/CN=load", more.as_flattened());

    let mut trusted = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(dir.0.join("web.crt")).unwrap();
    trusted.add(certificate).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(trusted)
        .with_no_client_auth();

    let mut web_config = "tls_server_config:\n".to_owned();
    for (key, file) in [("cert", "web.crt"), ("key", "web.key")] {
        let text = fs::read_to_string(dir.0.join(file)).unwrap();
        let lines = text.lines().map(|line| format!("    {line}\n"));
        web_config += &format!("  {key}: |\n{}", lines.collect::<String>());
    }
    Tls {
        web_config,
        client: Arc::new(client),
    }
}
