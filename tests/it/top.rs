//! `strata_exporter top` against exporters that are protected by a web config.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::support::{
    certificates,
    server_process::{self, ServerProcess, TempDir},
};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};

/// Hash of the password `one`, at bcrypt's minimum cost.
const ONE: &str = "$2y$04$TMlH9aNYQmNkfzzjC5Pzuu3F3NcAkAq8tb.zAu51Y0pg3hCeM6mLi";

const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";
const UNTRUSTED: &str = "signed by nobody who is trusted here: name who signed it in \
                         tls_config.ca_file of --http.config.file";
const NO_CERTIFICATE: &str = "a client certificate: name one by cert_file and key_file in \
                              tls_config of --http.config.file";

/// A directory of certificates and settings.
struct TopFixture {
    scratch: TempDir,
}

/// A running exporter.
struct Server {
    program: ServerProcess,
    socket: String,
}

/// Exit code and output of `top`.
#[derive(Debug)]
struct TopOutput {
    status: Option<i32>,
    text: String,
}

impl TopFixture {
    /// Creates `ca.crt`, which signed `web.crt` for a server and `own.crt` for a client;
    /// `guide.crt`, created as in `node_exporter`'s guide, for localhost only; `other.crt` of an
    /// authority that signed nothing.
    fn new(name: &str) -> Option<Self> {
        if !crate::support::is_installed("openssl") {
            crate::support::skip("openssl");
            return None;
        }
        let scratch = TempDir::new(&format!("top-{name}"));
        let dir = &scratch.0;
        certificates::self_signed(dir, "ca", "/CN=authority", &[]);
        certificates::self_signed(dir, "other", "/CN=other", &[]);
        let name = "subjectAltName = DNS:localhost";
        certificates::self_signed(dir, "guide", "/C=US/O=x/CN=localhost", &["-addext", name]);
        let server = format!("{NAMES}\nextendedKeyUsage=serverAuth");
        certificates::ca_signed(dir, "web", "rsa:2048", "ca", "30", &server);
        let client = "extendedKeyUsage=clientAuth";
        certificates::ca_signed(dir, "own", "ec", "ca", "30", client);
        Some(Self { scratch })
    }

    fn dir(&self) -> &Path {
        &self.scratch.0
    }

    /// Starts an exporter with this web config.
    fn serve(&self, config: &str) -> Server {
        static SERVED: AtomicUsize = AtomicUsize::new(0);
        let number = SERVED.fetch_add(1, Ordering::Relaxed);
        let socket = self.dir().join(format!("{number}.socket"));
        let socket = socket.display().to_string();
        let mut command = server_process::exporter_command();
        command.args([
            "--collector.disable-defaults",
            "--collector.loadavg",
            "--engine.socket=",
            "--libvirt.uri=qemu+unix:///system?socket=/nowhere",
            &format!("--web.listen-address=unix:{socket}"),
        ]);
        let (program, _) = ServerProcess::start_with_web_config(&mut command, self.dir(), config);
        Server { program, socket }
    }

    /// Runs `top` with these settings, or without a settings file if they are empty.
    fn top(&self, url: &str, settings: &str) -> TopOutput {
        self.top_where(url, settings, "/dev/null")
    }

    /// Like `top`, where the system trusts the certificates in this file.
    fn top_where(&self, url: &str, settings: &str, trusted: &str) -> TopOutput {
        let mut command = server_process::exporter_command();
        command.args(["top", url]).current_dir("/");
        command.env("SSL_CERT_FILE", self.dir().join(trusted));
        command.env_remove("SSL_CERT_DIR");
        if !settings.is_empty() {
            let file = self.dir().join("http.yml");
            fs::write(&file, settings).unwrap();
            command.arg(format!("--http.config.file={}", file.display()));
        }
        let (status, text) = server_process::run_with_input(&mut command, "");
        TopOutput { status, text }
    }
}

impl Server {
    /// The exporter's URL with this scheme and host.
    fn url(&self, before: &str) -> String {
        format!("{before}:{}", self.program.address.port())
    }
}

impl TopOutput {
    #[track_caller]
    fn is_table(&self) {
        let header = self.text.lines().nth(1).unwrap_or_default();
        assert!(header.starts_with("NAME "), "{self:?}");
        assert_eq!(self.status, Some(0), "{self:?}");
    }

    /// Asserts that `top` failed with this one-line reason, because there was no usable response.
    #[track_caller]
    fn is(&self, reason: &str) {
        self.is_error(1, reason);
    }

    /// Asserts that the command line, or a file that it names, was rejected.
    #[track_caller]
    fn is_usage_error(&self, reason: &str) {
        self.is_error(2, reason);
    }

    #[track_caller]
    fn is_error(&self, status: i32, reason: &str) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.text.lines().count(), 1, "{self:?}");
        assert!(self.text.contains(reason), "{}not: {reason}", self.text);
    }
}

fn tls(name: &str) -> String {
    format!("tls_server_config:\n  cert_file: {name}.crt\n  key_file: {name}.key\n")
}

fn ca(name: &str) -> String {
    format!("tls_config:\n  ca_file: {name}.crt\n")
}

#[test]
fn only_certificates_of_configured_authorities_are_trusted() {
    let Some(fixture) = TopFixture::new("ca") else {
        return;
    };
    let server = fixture.serve(&tls("web"));
    let (by_name, by_address) = (
        server.url("https://localhost"),
        server.url("https://127.0.0.1"),
    );
    fixture.top(&by_name, &ca("ca")).is_table();
    fixture.top(&by_address, &ca("ca")).is_table();
    let pem = fs::read_to_string(fixture.dir().join("ca.crt")).unwrap();
    let inline = format!(
        "tls_config:\n  ca: |\n    {}\n",
        pem.replace('\n', "\n    ")
    );
    fixture.top(&by_name, &inline).is_table();
    fixture.top(&by_name, &ca("other")).is(UNTRUSTED);
    fixture.top(&by_name, "").is(UNTRUSTED);
    fixture.top_where(&by_name, "", "ca.crt").is_table();
    // Configured authorities replace those of the system.
    fixture
        .top_where(&by_name, &ca("other"), "ca.crt")
        .is(UNTRUSTED);
    fixture
        .top(
            &by_name,
            &format!("{}  server_name: elsewhere.example\n", ca("ca")),
        )
        .is(
            "its certificate is not for elsewhere.example: ask for a name that it has, or set \
             tls_config.server_name in --http.config.file to one; it is for localhost, 127.0.0.1",
        );
}

#[test]
fn self_signed_certificate_is_trusted_if_configured() {
    let Some(fixture) = TopFixture::new("guide") else {
        return;
    };
    let server = fixture.serve(&tls("guide"));
    let url = server.url("https://localhost");
    fixture.top(&url, &ca("guide")).is_table();
    let itself = "to trust it, name it itself in tls_config.ca_file of --http.config.file";
    fixture.top(&url, "").is(itself);
    fixture.top(&url, &ca("ca")).is(itself);
    fixture.top_where(&url, "", "ca.crt").is(itself);
    let by_address = server.url("https://127.0.0.1");
    fixture
        .top(&by_address, &ca("guide"))
        .is("not for 127.0.0.1");
    let named = format!("{}  server_name: localhost\n", ca("guide"));
    fixture.top(&by_address, &named).is_table();
}

#[test]
fn configured_certificate_must_still_be_valid() {
    let Some(fixture) = TopFixture::new("named") else {
        return;
    };
    let dir = fixture.dir();
    certificates::ca_signed(dir, "expired", "ec", "ca", "-1", NAMES);
    let client = format!("{NAMES}\nextendedKeyUsage=clientAuth");
    certificates::ca_signed(dir, "backwards", "ec", "ca", "30", &client);
    // Signed by a certificate that is not an authority.
    let leaf = format!("{NAMES}\nbasicConstraints=CA:FALSE");
    certificates::ca_signed(dir, "leaf", "ec", "ca", "30", &leaf);
    certificates::ca_signed(dir, "forged", "ec", "leaf", "30", &leaf);
    for (served, named, expected) in [
        ("leaf", "leaf", None),
        ("expired", "expired", Some("its certificate has expired")),
        ("expired", "ca", Some("its certificate has expired")),
        ("backwards", "backwards", Some("it is not one for servers")),
        ("forged", "leaf", Some(UNTRUSTED)),
    ] {
        let server = fixture.serve(&tls(served));
        let output = fixture.top(&server.url("https://localhost"), &ca(named));
        match expected {
            Some(expected) => output.is(expected),
            None => output.is_table(),
        }
    }
}

#[test]
fn skipped_verification_accepts_any_certificate() {
    let Some(fixture) = TopFixture::new("skip") else {
        return;
    };
    let skip = "tls_config:\n  ca_file: other.crt\n  insecure_skip_verify: true\n";
    for name in ["web", "guide"] {
        let server = fixture.serve(&tls(name));
        fixture
            .top(&server.url("https://127.0.0.1"), skip)
            .is_table();
        fixture
            .top(&server.url("https://127.0.0.1"), &ca("other"))
            .is("certificate is ");
    }
}

/// A server that presents a certificate whose key it does not have.
fn impostor(dir: &Path) -> SocketAddr {
    let chain = CertificateDer::from_pem_file(dir.join("guide.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("other.key")).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    // Skips the check that certificate and key match.
    let certified = CertifiedKey::new(vec![chain], key);
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // Until the client disconnects.
            while let Ok((1.., _) | (_, 1..)) = connection.complete_io(&mut stream) {}
        }
    });
    address
}

#[test]
fn server_without_the_certificates_key_is_rejected() {
    let Some(fixture) = TopFixture::new("impostor") else {
        return;
    };
    let url = format!("https://localhost:{}", impostor(fixture.dir()).port());
    let skip = "tls_config: {insecure_skip_verify: true}";
    let tls12 = "tls_config: {insecure_skip_verify: true, max_version: TLS12}";
    for settings in [&ca("guide"), skip, tls12] {
        fixture.top(&url, settings).is("a signature is wrong");
    }
}

#[test]
fn client_certificate_is_sent_on_request() {
    let Some(fixture) = TopFixture::new("clients") else {
        return;
    };
    let own = format!("{}  cert_file: own.crt\n  key_file: own.key\n", ca("ca"));
    let foreign = own.replace("own.", "other.");
    for version in ["TLS12", "TLS13"] {
        let server = fixture.serve(&format!(
            "{}  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n  \
             max_version: {version}\n",
            tls("web")
        ));
        let url = server.url("https://localhost");
        fixture.top(&url, &own).is_table();
        fixture.top(&url, &ca("ca")).is(NO_CERTIFICATE);
        fixture
            .top(&url, &foreign)
            .is("client_ca has to have signed that of tls_config");
    }
    let server = fixture.serve(&format!(
        "{}  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven\n",
        tls("web")
    ));
    fixture
        .top(&server.url("https://localhost"), &ca("ca"))
        .is_table();
}

#[test]
fn correct_password_is_accepted() {
    let Some(fixture) = TopFixture::new("password") else {
        return;
    };
    fs::write(fixture.dir().join("right"), "one\n").unwrap();
    let login = |password: &str| format!("basic_auth:\n  username: me\n  {password}\n");
    let users = format!("basic_auth_users:\n  me: {ONE}\n");
    let (plain, secret) = (fixture.serve(&users), fixture.serve(&(tls("web") + &users)));
    for url in [
        plain.url("http://localhost"),
        format!("unix://{}", plain.socket),
        secret.url("https://localhost"),
    ] {
        let with = |password: &str| fixture.top(&url, &(login(password) + &ca("ca")));
        with("password: one").is_table();
        with("password_file: right").is_table();
        with("password: two").is("it does not take the name and password of basic_auth");
        with("").is("it does not take the name and password of basic_auth");
        fixture
            .top(&url, &ca("ca"))
            .is("it asks for a password: name it by basic_auth in --http.config.file");
    }
}

#[test]
fn settings_can_be_copied_from_prometheus_yml() {
    let Some(fixture) = TopFixture::new("copied") else {
        return;
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/tls.yml");
    let example = fs::read_to_string(example).unwrap();
    let (_, after) = example.split_once("    scheme: https\n").unwrap();
    let (lines, _) = after.split_once("    static_configs:").unwrap();
    assert!(lines.contains("basic_auth:") && lines.contains("tls_config:"));
    let lines: String = lines
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap().to_owned() + "\n")
        .collect();
    let config_dir = "/etc/prometheus/strata";
    let lines = lines.replace(&format!("{config_dir}.password"), "right");
    let lines = lines.replace(&format!("{config_dir}-ca.crt"), "ca.crt");
    fs::write(fixture.dir().join("right"), "one\n").unwrap();
    let users = format!("basic_auth_users:\n  prometheus: {ONE}\n");
    let server = fixture.serve(&(tls("web") + &users));
    fixture
        .top(&server.url("https://localhost"), &lines)
        .is_table();
}

#[test]
fn tls_versions_follow_the_settings() {
    let Some(fixture) = TopFixture::new("versions") else {
        return;
    };
    let server = fixture.serve(&(tls("web") + "  min_version: TLS13\n"));
    let url = server.url("https://localhost");
    fixture
        .top(&url, &(ca("ca") + "  min_version: TLS13\n"))
        .is_table();
    let output = fixture.top(&url, &(ca("ca") + "  max_version: TLS12\n"));
    output.is("TLS: received fatal alert: ProtocolVersion");
}

#[test]
fn wrong_protocol_is_reported() {
    let Some(fixture) = TopFixture::new("other") else {
        return;
    };
    let (plain, secret) = (fixture.serve("{}"), fixture.serve(&tls("web")));
    fixture
        .top(&secret.url("http://localhost"), "")
        .is("it speaks TLS: ask for https://");
    fixture
        .top(&plain.url("https://localhost"), &ca("ca"))
        .is("ask for http://");
    // A server that closes the connection without a reply.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _read = stream.unwrap().read(&mut [0; 4096]);
        }
    });
    let output = fixture.top(&format!("https://localhost:{}", address.port()), &ca("ca"));
    output.is("closed the connection instead of speaking TLS: if it speaks HTTP, ask for http://");
}

#[test]
fn settings_errors_name_their_position_before_connecting() {
    let Some(fixture) = TopFixture::new("wrong") else {
        return;
    };
    let file = fixture.dir().join("http.yml");
    let (file, config_dir) = (file.display(), fixture.dir().display());
    fs::write(fixture.dir().join("empty"), "").unwrap();
    for (settings, expected) in [
        ("basic_auth: [", format!("{file}:")),
        (
            "proxy_url: x",
            format!("{file}:1:1: proxy_url is not supported by top"),
        ),
        (
            "tls_config: {ca_file: none}",
            format!("{file}:1:23: {config_dir}/none: No such file or directory"),
        ),
        (
            "tls_config: {ca_file: empty}",
            format!("{file}:1:23: {config_dir}/empty: has no certificate in PEM format"),
        ),
        (
            "tls_config: {cert_file: own.crt, key_file: web.key}",
            format!("{file}:1:44: {config_dir}/web.key: does not match the certificate"),
        ),
        (
            "basic_auth: {username: me, password_file: /dev/zero}",
            format!("{file}:1:43: /dev/zero: is not a regular file"),
        ),
    ] {
        let output = fixture.top("https://localhost:1", settings);
        output.is_usage_error(&format!("strata_exporter: --http.config.file: {expected}"));
    }
    let output = fixture.top("https://me:secret@localhost:1", "");
    output.is_usage_error("URL: user name and password are not supported in the URL");
    assert!(!output.text.contains("secret"), "{output:?}");
}
