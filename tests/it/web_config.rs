//! `--web.config.file` as clients see it: openssl and curl against this exporter and, with the same
//! file, against Debian's `node_exporter`, whose exporter-toolkit defines the file's format. Every
//! difference between the two is listed here with its reason.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    certificates,
    server_process::{self, ServerProcess, TempDir, WAIT_TIMEOUT, wait_until},
};

const ORACLE: &str = "prometheus-node-exporter";
/// A path that both serve cheaply.
const PATH: &str = "/metrics?collect[]=loadavg";
/// Hash of the password `one`, at bcrypt's minimum cost.
const ONE: &str = "$2y$04$TMlH9aNYQmNkfzzjC5Pzuu3F3NcAkAq8tb.zAu51Y0pg3hCeM6mLi";

/// Certificate authorities and their certificates, in a directory of the test.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Creates `ca.crt`, which signed `web.crt`, `next.crt`, `known.crt` and `expired.crt`;
    /// `other.crt`, signed by another authority; and the self-signed `self.crt`.
    fn new(dir: &Path) -> Self {
        let this = Self {
            dir: dir.to_owned(),
        };
        for ca in ["ca", "ca2"] {
            certificates::self_signed(dir, ca, "/CN=authority", &[]);
        }
        let server = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth";
        let client = "subjectAltName=DNS:scraper.example,IP:10.1.2.3,email:who@example.org,\
                      URI:spiffe://example/scraper\nextendedKeyUsage=clientAuth";
        this.sign("web", "rsa:2048", "ca", "30", server);
        this.sign("next", "rsa:2048", "ca", "20", server);
        this.sign("known", "ec", "ca", "30", client);
        this.sign("nameless", "ec", "ca", "30", "extendedKeyUsage=clientAuth");
        this.sign("expired", "ec", "ca", "-1", client);
        this.sign("other", "ec", "ca2", "30", client);
        certificates::self_signed(dir, "self", "/CN=self", &[]);
        this
    }

    fn sign(&self, name: &str, kind: &str, ca: &str, days: &str, extensions: &str) {
        certificates::ca_signed(&self.dir, name, kind, ca, days, extensions);
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }
}

/// A running server.
struct Server {
    program: ServerProcess,
    config: PathBuf,
    dir: PathBuf,
}

impl Server {
    fn start(mut command: Command, dir: &Path, config: &str) -> Self {
        let (program, config) = ServerProcess::start_with_web_config(&mut command, dir, config);
        Self {
            program,
            config,
            dir: dir.to_owned(),
        }
    }

    fn ours(dir: &Path, config: &str) -> Self {
        let mut command = server_process::exporter_command();
        command.args(["--collector.disable-defaults", "--collector.loadavg"]);
        Self::start(command, dir, config)
    }

    fn oracle(dir: &Path, config: &str) -> Self {
        let mut command = Command::new(ORACLE);
        command.args(["--collector.disable-defaults", "--collector.loadavg"]);
        Self::start(command, dir, config)
    }

    /// Replaces the config file.
    fn change(&self, config: &str) {
        let new = self.config.with_extension("new");
        fs::write(&new, config).unwrap();
        fs::rename(&new, &self.config).unwrap();
    }

    fn curl(&self, scheme: &str, path: &str, args: &[&str]) -> CurlResponse {
        CurlResponse::run(
            curl(&self.dir, args).arg(format!("{scheme}://{}{path}", self.program.address)),
        )
    }

    fn https(&self, args: &[&str]) -> CurlResponse {
        self.curl("https", PATH, args)
    }

    /// A sample's value, by name and labels.
    fn sample(&self, scheme: &str, args: &[&str], name: &str) -> Option<String> {
        let body = self.curl(scheme, "/metrics", args).body;
        let mut lines = body.lines().filter_map(|line| line.rsplit_once(' '));
        let found = lines.find(|(found, _)| *found == name);
        found.map(|(_, value)| value.to_owned())
    }
}

fn curl(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-g", "--max-time", "60", "--cacert", "ca.crt"])
        .args(["-D", "/dev/stderr", "-w", "\n%{http_code} %{http_version}"])
        .args(args)
        .current_dir(dir);
    command
}

/// Result of a curl request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CurlResponse {
    /// 0 if there was no response.
    status: u16,
    version: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl CurlResponse {
    fn run(command: &mut Command) -> Self {
        Self::read(&command.output().unwrap())
    }

    fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, last) = text.rsplit_once('\n').unwrap();
        let (status, version) = last.split_once(' ').unwrap();
        let heads = String::from_utf8_lossy(&output.stderr);
        let headers = heads.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        Self {
            status: status.parse().unwrap(),
            version: version.to_owned(),
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }
}

/// Result of an openssl connection: protocol, cipher, ALPN and the response's status, or that there
/// was none.
fn s_client(server: &Server, args: &[&str]) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-CAfile", "ca.crt", "-ign_eof", "-connect"])
        .arg(server.program.address.to_string())
        .args(args)
        .current_dir(&server.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request = format!("GET {PATH} HTTP/1.0\r\n\r\n");
    // openssl may have exited already.
    let mut stdin = client.stdin.take().unwrap();
    let _gone = stdin.write_all(request.as_bytes());
    let output = client.wait_with_output().unwrap();
    drop(stdin);
    let text = String::from_utf8_lossy(&output.stdout);
    let after = |mark: &str| {
        let found = text.split_once(mark).map(|(_, rest)| rest);
        found.and_then(|rest| rest.lines().next()).unwrap_or("none")
    };
    // It may follow other output of openssl on the same line.
    let status = ["HTTP/1.0 ", "HTTP/1.1 "]
        .iter()
        .find_map(|version| text.split_once(version)?.1.lines().next());
    let Some(status) = status else {
        return "refused".to_owned();
    };
    format!(
        "{} {}, ALPN {}, {}",
        after("New, ").split(',').next().unwrap(),
        after("Cipher is "),
        after("ALPN protocol: "),
        status.trim()
    )
}

/// Whether the required programs are installed.
fn can_run() -> bool {
    let missing = ["openssl", "curl", ORACLE, "promtool"];
    let missing = missing
        .iter()
        .find(|program| !crate::support::is_installed(program));
    if let Some(program) = missing {
        crate::support::skip(program);
    }
    missing.is_none()
}

fn with_certificates(name: &str) -> Option<(TempDir, Authority)> {
    can_run().then(|| {
        let scratch = TempDir::new(&format!("web-config-{name}"));
        let authority = Authority::new(&scratch.0);
        (scratch, authority)
    })
}

const PAIR: &str = "tls_server_config:\n  cert_file: web.crt\n  key_file: web.key\n";

/// An intended difference: the client, our result, and why.
type Difference = (&'static str, &'static str, &'static str);

/// Asserts that each client gets the same result from both servers, apart from intended
/// differences.
fn compare(
    dir: &Path,
    config: &str,
    clients: &[&str],
    request: impl Fn(&Server, &[&str]) -> String,
    differences: &[Difference],
) {
    let (ours, theirs) = (Server::ours(dir, config), Server::oracle(dir, config));
    for client in clients {
        let args: Vec<&str> = client.split_whitespace().collect();
        let (actual, expected) = (request(&ours, &args), request(&theirs, &args));
        let difference = differences.iter().find(|(name, ..)| name == client);
        match difference {
            Some((_, intended, reason)) => {
                assert_eq!(actual, *intended, "{client}: {reason}\n{config}");
                assert_ne!(actual, expected, "{client} no longer differs\n{config}");
            }
            None => assert_eq!(
                actual,
                expected,
                "{client}\n{config}\n{}",
                ours.program.log()
            ),
        }
    }
}

#[test]
fn protocols_and_ciphers_match_node_exporter() {
    let Some((scratch, _authority)) = with_certificates("ciphers") else {
        return;
    };
    let clients = [
        "",
        "-tls1_3",
        "-tls1_2",
        "-tls1_1 -cipher DEFAULT@SECLEVEL=0",
        "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256",
        "-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384",
        "-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384",
        "-tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305",
        "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        "-tls1_2 -cipher ECDHE-RSA-AES128-SHA",
        "-tls1_2 -cipher AES128-GCM-SHA256",
        "-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256",
        "-curves X25519",
        "-curves P-256",
        "-curves P-384",
        "-curves P-521",
        "-curves P-521:P-256",
        "-alpn h2",
        "-alpn http/1.1",
        "-alpn http/1.1,h2",
        "-alpn spdy/3",
    ];
    let weak = "weak: no forward secrecy, or CBC";
    let weak: &[Difference] = &[
        ("-tls1_2 -cipher ECDHE-RSA-AES128-SHA", "refused", weak),
        ("-tls1_2 -cipher AES128-GCM-SHA256", "refused", weak),
        ("-curves P-521", "refused", "ring does not have it"),
    ];
    compare(&scratch.0, PAIR, &clients, s_client, weak);
    let config = format!("{PAIR}  min_version: TLS13\n  curve_preferences: [CurveP384]\n");
    compare(&scratch.0, &config, &clients, s_client, &[]);
    let config = format!(
        "{PAIR}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, \
         TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n"
    );
    compare(&scratch.0, &config, &clients, s_client, &weak[2..]);
    let config = format!(
        "{PAIR}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
         TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n"
    );
    let order: &[Difference] = &[(
        "-cipher ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        "TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384, ALPN none, 200 OK",
        "the order in the file counts, as exporter-toolkit promises and Go does not do any more",
    )];
    compare(&scratch.0, &config, &[order[0].0], s_client, order);
    let config = format!("{config}  prefer_server_cipher_suites: false\n");
    let clients = [
        "-cipher ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        "-cipher ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
    ];
    let order: &[Difference] = &[(
        clients[1],
        "TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384, ALPN none, 200 OK",
        "the client's order counts where the file says so",
    )];
    compare(&scratch.0, &config, &clients, s_client, order);
}

#[test]
fn client_certificates_match_node_exporter() {
    let Some((scratch, _authority)) = with_certificates("clients") else {
        return;
    };
    let clients = [
        "",
        "-cert known.crt -key known.key",
        "-cert nameless.crt -key nameless.key",
        "-cert expired.crt -key expired.key",
        "-cert other.crt -key other.key",
        "-cert self.crt -key self.key",
        "-cert web.crt -key web.key",
        "-tls1_2",
        "-tls1_2 -cert known.crt -key known.key",
        "-tls1_2 -cert other.crt -key other.key",
        "-tls1_2 -cert self.crt -key self.key",
    ];
    for kind in [
        "NoClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
        "RequireClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ] {
        let ca = if kind.contains("Verify") {
            "  client_ca_file: ca.crt\n"
        } else {
            ""
        };
        let config = format!("{PAIR}  client_auth_type: {kind}\n{ca}");
        compare(&scratch.0, &config, &clients, s_client, &[]);
    }
}

#[test]
fn names_in_client_certificates_are_verified() {
    let Some((scratch, _authority)) = with_certificates("sans") else {
        return;
    };
    let known_client = ["--cert", "known.crt", "--key", "known.key"];
    for (san, status) in [
        ("scraper.example", 200),
        ("10.1.2.3", 200),
        ("who@example.org", 200),
        ("spiffe://example/scraper", 200),
        ("known", 0),
        ("Scraper.example", 0),
        ("scraper.exampl", 0),
    ] {
        let config = format!(
            "{PAIR}  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven\n  \
             client_allowed_sans: [nobody, '{san}']\n"
        );
        let server = Server::ours(&scratch.0, &config);
        assert_eq!(server.https(&known_client).status, status, "{san}");
        for rejected in [
            &[][..],
            &["--cert", "nameless.crt", "--key", "nameless.key"],
            &["--cert", "other.crt", "--key", "other.key"],
        ] {
            assert_eq!(server.https(rejected).status, 0, "{san} {rejected:?}");
        }
    }
    // The list also applies to certificates that are not verified.
    let config =
        format!("{PAIR}  client_auth_type: RequestClientCert\n  client_allowed_sans: [10.1.2.3]\n");
    let server = Server::ours(&scratch.0, &config);
    let other = ["--cert", "other.crt", "--key", "other.key"];
    assert_eq!(server.https(&other).status, 200);
    assert_eq!(
        server
            .https(&["--cert", "self.crt", "--key", "self.key"])
            .status,
        0
    );
    assert_eq!(server.https(&[]).status, 0);
    let failed = r#"strata_tls_handshake_errors_total{reason="client_certificate"}"#;
    assert_eq!(server.sample("https", &other, failed).as_deref(), Some("2"));
}

/// curl's result without headers that rightly differ between the exporters.
fn comparable_response(server: &Server, scheme: &str, path: &str, args: &[&str]) -> String {
    let actual = server.curl(scheme, path, args);
    let headers_compared = [
        "content-security-policy",
        "strict-transport-security",
        "www-authenticate",
        "x-content-type-options",
        "x-frame-options",
        "x-xss-protection",
    ];
    let headers = actual
        .headers
        .iter()
        .filter(|(name, _)| headers_compared.contains(&name.as_str()));
    let headers: Vec<_> = headers
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    format!("{} HTTP/{} {headers:?}", actual.status, actual.version)
}

#[test]
fn passwords_match_node_exporter() {
    if !can_run() {
        return;
    }
    let scratch = TempDir::new("web-config-passwords");
    let long = "x".repeat(72);
    let config = format!(
        "basic_auth_users:\n  a: {ONE}\n  'b c': {ONE}\n  \u{e9}: {ONE}\n  7: {ONE}\n  '': {ONE}\n"
    );
    let clients = [
        "",
        "-u a:one",
        "-u a:two",
        "-u a:",
        "-u 7:one",
        "-u :one",
        "-u \u{e9}:one",
        "-u nobody:one",
        "-u nobody:fakepassword",
        "-u a:one:",
        "-H authorization:basic\u{a0}YTpvbmU=",
        "-H Authorization:Bearer",
        "-H Authorization:Basic",
        "-H Authorization:YTpvbmU=",
        "-u a:one -X POST",
    ];
    let methods: &[Difference] = &[(
        "-u a:one -X POST",
        "405 HTTP/1.1 []",
        "methods other than GET and HEAD are refused",
    )];
    compare(
        &scratch.0,
        &config,
        &clients,
        |server, args| {
            let args: Vec<_> = args
                .iter()
                .map(|word| word.replace('\u{a0}', " "))
                .collect();
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            comparable_response(server, "http", PATH, &args)
        },
        methods,
    );
    let server = Server::ours(&scratch.0, &config);
    for path in [
        "/",
        "/metrics",
        "/metrics/host",
        "/-/healthy",
        "/api/v1/",
        "/nothing",
    ] {
        assert_eq!(server.curl("http", path, &[]).status, 401, "{path}");
    }
    assert_eq!(
        server.curl("http", "/-/healthy", &["-u", "b c:one"]).status,
        200
    );
    let guess = format!("a:{long}one");
    assert_eq!(server.curl("http", PATH, &["-u", &guess]).status, 401);
    let rejected_count = |reason: &str| {
        let name = format!("strata_web_requests_rejected_total{{reason=\"{reason}\"}}");
        server.sample("http", &["-u", "a:one"], &name).unwrap()
    };
    assert_eq!(
        [
            rejected_count("no_password"),
            rejected_count("wrong_password"),
            rejected_count("busy")
        ],
        ["6", "1", "0"]
    );
}

#[test]
fn headers_and_http2_match_node_exporter() {
    let Some((scratch, _authority)) = with_certificates("headers") else {
        return;
    };
    let headers = "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n    \
                   X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    \
                   X-XSS-Protection: 1; mode=block\n    Strict-Transport-Security: max-age=60\n";
    let clients = [
        "-u a:one",
        "-u a:two",
        "-u a:one --http2",
        "-u a:one --http1.1",
        "",
    ];
    let users = format!("basic_auth_users: {{a: {ONE}}}\n");
    for http2 in ["", "  http2: true\n", "  http2: false\n"] {
        let config = format!("{PAIR}{headers}{http2}{users}");
        let request =
            |server: &Server, args: &[&str]| comparable_response(server, "https", PATH, args);
        compare(&scratch.0, &config, &clients, request, &[]);
    }
    let config = format!("{headers}{users}");
    let request = |server: &Server, args: &[&str]| comparable_response(server, "http", PATH, args);
    compare(&scratch.0, &config, &clients, request, &[]);
    // They are set on every response, also where the page sets its own.
    let server = Server::ours(&scratch.0, &config);
    for (path, status) in [("/", 200), ("/nothing", 404), ("/api/v1/nothing", 404)] {
        let actual = server.curl("http", path, &["-u", "a:one"]);
        assert_eq!(actual.status, status, "{path}");
        assert_eq!(
            actual.headers["content-security-policy"], "default-src 'self'",
            "{path}"
        );
        assert_eq!(actual.headers["x-frame-options"], "sameorigin", "{path}");
    }
}

#[test]
fn http2_connection_serves_many_requests() {
    let Some((scratch, _authority)) = with_certificates("http2") else {
        return;
    };
    let server = Server::ours(&scratch.0, PAIR);
    // More than the maximum number of concurrent streams.
    let url = format!("https://{}/-/healthy?[1-60]", server.program.address);
    let output = Command::new("curl")
        .args([
            "-sS",
            "--http2",
            "-Z",
            "--parallel-max",
            "60",
            "--cacert",
            "ca.crt",
        ])
        .args([
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version} %{num_connects}\n",
            &url,
        ])
        .current_dir(&scratch.0)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let answered = text
        .lines()
        .filter(|line| line.starts_with("200 2 "))
        .count();
    assert_eq!(answered, 60, "{text}\n{error}");
    let landing_page = server.curl("https", "/", &["--http2"]);
    assert_eq!(
        (landing_page.status, landing_page.version.as_str()),
        (200, "2")
    );
    assert!(
        landing_page.body.trim_end().ends_with("</html>"),
        "{}",
        landing_page.body
    );
    let head = server.curl("https", "/metrics", &["--http2", "-I"]);
    assert_eq!((head.status, head.version.as_str()), (200, "2"));
    let post = server.curl("https", "/metrics", &["--http2", "-X", "POST"]);
    assert_eq!(post.status, 405);
}

#[test]
fn plain_http_on_tls_port_gets_go_error() {
    let Some((scratch, _authority)) = with_certificates("plain") else {
        return;
    };
    let request = |server: &Server, args: &[&str]| {
        let actual = server.curl("http", PATH, args);
        format!("{} {} {}", actual.status, actual.version, actual.body)
    };
    compare(&scratch.0, PAIR, &["", "-X POST", "-I"], request, &[]);
    let server = Server::ours(&scratch.0, PAIR);
    let mut noise = TcpStream::connect(server.program.address).unwrap();
    noise.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    noise.write_all(&[0; 200]).unwrap();
    // Reset or closed, with an alert or without.
    let _gone = noise.read_to_end(&mut Vec::new());
    drop(TcpStream::connect(server.program.address).unwrap());
    request(&server, &[]);
    let wrong_ca = server.curl("https", PATH, &["--cacert", "ca2.crt"]);
    assert_eq!(wrong_ca.status, 0);
    // The first `closed` is the connection that waited for the server to start.
    for (reason, count) in [
        ("plain_http", 1),
        ("protocol", 1),
        ("closed", 2),
        ("by_client", 1),
        ("slow", 0),
    ] {
        let name = format!("strata_tls_handshake_errors_total{{reason=\"{reason}\"}}");
        wait_until(&format!("{count} of {name}"), || {
            let actual = server.sample("https", &[], &name)?;
            (actual == count.to_string()).then_some(())
        });
    }
}

#[test]
fn stalled_handshake_is_aborted() {
    let Some((scratch, _authority)) = with_certificates("slow") else {
        return;
    };
    let server = Server::ours(&scratch.0, PAIR);
    let mut slow: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(server.program.address).unwrap())
        .collect();
    slow[1].write_all(&[22, 3, 1]).unwrap();
    slow[2].write_all(&[22, 3, 1, 1, 0, 1]).unwrap();
    assert_eq!(server.https(&[]).status, 200);
    for mut stream in slow {
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_ok_and(|_| rest.is_empty()));
    }
    let name = r#"strata_tls_handshake_errors_total{reason="slow"}"#;
    assert_eq!(server.sample("https", &[], name).as_deref(), Some("3"));
}

#[test]
fn connections_in_handshake_can_be_evicted() {
    let Some((scratch, _authority)) = with_certificates("room") else {
        return;
    };
    let mut command = server_process::exporter_command();
    command.args(["--collector.disable-defaults", "--collector.loadavg"]);
    command.arg("--web.max-connections=3");
    let server = Server::start(command, &scratch.0, PAIR);
    let slow: Vec<TcpStream> = (0..10)
        .map(|_| TcpStream::connect(server.program.address).unwrap())
        .collect();
    assert_eq!(server.https(&[]).status, 200);
    drop(slow);
}

#[test]
fn rate_limit_precedes_passwords() {
    if !can_run() {
        return;
    }
    let scratch = TempDir::new("web-config-limit");
    let config = format!(
        "rate_limit: {{interval: 1h, burst: 4}}\nbasic_auth_users: {{a: {ONE}}}\n\
         http_server_config: {{headers: {{X-Frame-Options: deny}}}}\n"
    );
    let server = Server::ours(&scratch.0, &config);
    let request = |password: &str| server.curl("http", PATH, &["-u", password]);
    assert_eq!(request("a:one").status, 200);
    assert_eq!(request("a:two").status, 401);
    assert_eq!(request("b:two").status, 401);
    assert_eq!(request("a:one").status, 200);
    for password in ["a:one", "a:two"] {
        let rejected = request(password);
        assert_eq!(rejected.status, 429);
        assert_eq!(rejected.headers["x-frame-options"], "deny");
        assert!(rejected.body.contains("rate_limit"), "{}", rejected.body);
    }
}

#[test]
fn certificates_and_keys_may_be_inline() {
    let Some((scratch, authority)) = with_certificates("inline") else {
        return;
    };
    let block = |name: &str| authority.text(name).trim_end().replace('\n', "\n    ");
    let config = format!(
        "tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n  client_ca: |\n    {}\n  \
         client_auth_type: RequireAndVerifyClientCert\n",
        block("web.crt"),
        block("web.key"),
        block("ca.crt")
    );
    let server = Server::ours(&scratch.0, &config.replace('\n', "\r\n"));
    assert_eq!(
        server
            .https(&["--cert", "known.crt", "--key", "known.key"])
            .status,
        200
    );
    assert_eq!(server.https(&[]).status, 0);
    assert!(
        !server.program.log().contains("PRIVATE"),
        "{}",
        server.program.log()
    );
}

#[test]
fn password_guesses_do_not_block_known_users() {
    if !can_run() {
        return;
    }
    let scratch = TempDir::new("web-config-guesses");
    // Verifying this hash takes a second or more in a debug build.
    let expensive = ONE.replace("$04$", "$12$");
    let config = format!("basic_auth_users: {{a: {ONE}, dear: {expensive}}}\n");
    let server = Server::ours(&scratch.0, &config);
    assert_eq!(server.curl("http", PATH, &["-u", "a:one"]).status, 200);
    let url = format!("http://{}{PATH}", server.program.address);
    let guesses: Vec<Child> = (0..40)
        .map(|guess| {
            let password = format!("dear:{guess}");
            curl(&scratch.0, &["-u", &password, &url])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let busy = r#"strata_web_requests_rejected_total{reason="busy"}"#;
    let busy_count = || {
        server
            .sample("http", &["-u", "a:one"], busy)
            .filter(|count| count != "0")
    };
    wait_until("too many guesses", busy_count);
    for _ in 0..20 {
        assert_eq!(server.curl("http", PATH, &["-u", "a:one"]).status, 200);
    }
    // Rejected guesses have finished; the others are not waited for.
    let mut rejected = 0;
    for mut guess in guesses {
        if guess.try_wait().unwrap().is_none() {
            guess.kill().unwrap();
            guess.wait().unwrap();
            continue;
        }
        let response = CurlResponse::read(&guess.wait_with_output().unwrap());
        if response.status == 503 {
            rejected += 1;
            assert_eq!(response.headers["retry-after"], "1");
        } else {
            assert_eq!(response.status, 401, "{response:?}");
        }
    }
    assert!(rejected > 0);
}

/// The subject of the server's certificate.
fn serial(server: &Server) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &server.program.address.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut x509 = Command::new("openssl")
        .args(["x509", "-noout", "-subject"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    x509.stdin
        .take()
        .unwrap()
        .write_all(&output.stdout)
        .unwrap();
    let output = x509.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const RELOAD_SUCCESSFUL: &str = "strata_web_config_last_reload_successful";

/// Waits until the config's state metric has this value.
fn wait_for_reload(server: &Server, scheme: &str, args: &[&str], expected: &str) {
    wait_until(&format!("{RELOAD_SUCCESSFUL} {expected}"), || {
        let actual = server.sample(scheme, args, RELOAD_SUCCESSFUL)?;
        (actual == expected).then_some(())
    });
}

#[test]
fn changed_file_is_reloaded_unless_invalid() {
    let Some((scratch, _authority)) = with_certificates("again") else {
        return;
    };
    let dir = &scratch.0;
    let users = |name: &str| format!("{PAIR}basic_auth_users: {{{name}: {ONE}}}\n");
    let server = Server::ours(dir, &users("a"));
    let status_of = |name: &str| server.https(&["-u", &format!("{name}:one")]).status;
    assert_eq!((status_of("a"), status_of("b")), (200, 401));
    // A persistent connection gets the new settings, too.
    let url = format!("https://{}{PATH}", server.program.address);
    let persistent = Command::new("curl")
        .args([
            "-sS", "-g", "--cacert", "ca.crt", "-u", "a:one", "--rate", "40/m",
        ])
        .args([
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{num_connects}\n",
            &url,
            &url,
            &url,
            &url,
        ])
        .args(["-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1_200));
    server.change(&users("b"));
    wait_until("the new user", || (status_of("b") == 200).then_some(()));
    assert_eq!(status_of("a"), 401);
    let persistent = persistent.wait_with_output().unwrap();
    let persistent = String::from_utf8(persistent.stdout).unwrap();
    assert!(
        persistent.starts_with("200 1\n") && persistent.ends_with("401 0\n"),
        "{persistent}"
    );

    let good = users("b");
    let off = format!("basic_auth_users: {{b: {ONE}}}\n");
    let no_key = good.replace("web.key", "no.key");
    let other_key = good.replace("web.key", "next.key");
    for (invalid, error) in [
        ("tls_server_config: [", "web-"),
        ("", "cannot disable TLS"),
        (off.as_str(), "cannot disable TLS"),
        (no_key.as_str(), "no.key: No such file"),
        (other_key.as_str(), "does not match the certificate"),
    ] {
        let logged = server.program.log().len();
        server.change(invalid);
        wait_for_reload(&server, "https", &["-u", "b:one"], "0");
        thread::sleep(Duration::from_millis(1_200));
        assert_eq!((status_of("b"), status_of("a")), (200, 401), "{invalid}");
        let log = server.program.log().split_off(logged);
        assert_eq!(log.matches("cannot reload web config").count(), 1, "{log}");
        assert!(log.contains(error), "{log}");
        server.change(&good);
        wait_for_reload(&server, "https", &["-u", "b:one"], "1");
    }

    // Missing, and not a regular file.
    fs::remove_file(&server.config).unwrap();
    wait_for_reload(&server, "https", &["-u", "b:one"], "0");
    let mkfifo = Command::new("mkfifo").arg(&server.config).status().unwrap();
    assert!(mkfifo.success());
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(status_of("b"), 200);
    wait_until("a line about the FIFO", || {
        status_of("b");
        server
            .program
            .log()
            .contains("is not a regular file")
            .then_some(())
    });
    fs::remove_file(&server.config).unwrap();
    // Written in place, with a pause in the middle.
    let mut slowly = File::create(&server.config).unwrap();
    let (first, second) = good.split_at(good.len() / 2);
    slowly.write_all(first.as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(20));
    slowly.write_all(second.as_bytes()).unwrap();
    wait_for_reload(&server, "https", &["-u", "b:one"], "1");
}

#[test]
fn renewed_certificates_and_authorities_are_reloaded() {
    let Some((scratch, authority)) = with_certificates("renewed") else {
        return;
    };
    let dir = &scratch.0;
    for (from, to) in [
        ("web.crt", "s.crt"),
        ("web.key", "s.key"),
        ("ca.crt", "c.crt"),
    ] {
        fs::copy(dir.join(from), dir.join(to)).unwrap();
    }
    let config = "tls_server_config:\n  cert_file: s.crt\n  key_file: s.key\n  client_ca_file: c.crt\n  \
                  client_auth_type: VerifyClientCertIfGiven\n";
    let server = Server::ours(dir, config);
    assert_eq!(serial(&server), "subject=CN = web");
    let expiry = "strata_web_config_certificate_expiry_timestamp_seconds";
    let before = server.sample("https", &[], expiry).unwrap();
    let known_client = ["--cert", "known.crt", "--key", "known.key"];
    let other = ["--cert", "other.crt", "--key", "other.key"];
    assert_eq!(
        (
            server.https(&known_client).status,
            server.https(&other).status
        ),
        (200, 0)
    );

    // Until the key follows, the old pair is served.
    fs::copy(dir.join("next.crt"), dir.join("s.crt")).unwrap();
    wait_for_reload(&server, "https", &[], "0");
    assert_eq!(serial(&server), "subject=CN = web");
    fs::copy(dir.join("next.key"), dir.join("s.key")).unwrap();
    wait_until("the new certificate", || {
        (serial(&server) == "subject=CN = next").then_some(())
    });
    let after = server.sample("https", &[], expiry).unwrap();
    let seconds = |text: &str| text.parse::<f64>().unwrap();
    assert!(
        seconds(&before) - seconds(&after) > 9.0 * 86400.0,
        "{before} {after}"
    );

    fs::copy(dir.join("ca2.crt"), dir.join("c.crt")).unwrap();
    wait_until("the new authority", || {
        (server.https(&other).status == 200).then_some(())
    });
    assert_eq!(server.https(&known_client).status, 0);

    // An expired certificate is served nevertheless, and its expiry is exposed.
    authority.sign(
        "late",
        "rsa:2048",
        "ca",
        "-1",
        "subjectAltName=IP:127.0.0.1",
    );
    fs::copy(dir.join("late.crt"), dir.join("s.crt")).unwrap();
    fs::copy(dir.join("late.key"), dir.join("s.key")).unwrap();
    wait_until("the expired certificate", || {
        (serial(&server) == "subject=CN = late").then_some(())
    });
    assert_eq!(server.https(&[]).status, 0);
    let expires = server.sample("https", &["-k"], expiry).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!(seconds(&expires) < now.unwrap().as_secs_f64(), "{expires}");
}

#[test]
fn reload_neither_enables_tls_nor_drops_passwords() {
    let Some((scratch, _authority)) = with_certificates("on") else {
        return;
    };
    let users = format!("basic_auth_users: {{a: {ONE}}}\n");
    let server = Server::ours(&scratch.0, &users);
    for invalid in [format!("{PAIR}{users}").as_str(), "", "# nothing\n"] {
        server.change(invalid);
        wait_for_reload(&server, "http", &["-u", "a:one"], "0");
        assert_eq!(server.curl("http", PATH, &[]).status, 401);
        server.change(&users);
        wait_for_reload(&server, "http", &["-u", "a:one"], "1");
    }
    // A non-empty file without users does remove the password.
    server.change("http_server_config: {headers: {X-Frame-Options: deny}}\n");
    wait_until("an accepted connection", || {
        (server.curl("http", PATH, &[]).status == 200).then_some(())
    });
}

#[test]
fn no_web_config_metrics_without_a_file() {
    if !can_run() {
        return;
    }
    let scratch = TempDir::new("web-config-none");
    let flags = [
        "--collector.disable-defaults".to_owned(),
        "--web.config.file=".to_owned(),
    ];
    let server = ServerProcess::start_exporter(&flags, &scratch.0);
    let text = server.metrics_text();
    assert!(text.contains("strata_http_connections "), "{text}");
    assert!(!text.contains("strata_web_"), "{text}");
}

#[test]
fn invalid_file_prevents_startup_and_fails_check() {
    let scratch = TempDir::new("web-config-wrong");
    let file = scratch.0.join("web.yml");
    fs::write(&file, "http_server_config:\n  http3: true\n").unwrap();
    let flag = format!("--web.config.file={}", file.display());
    let error = format!("{}:2:3: unknown field `http3`", file.display());
    let run = |words: &[&str]| {
        let output = server_process::exporter_command()
            .args(words)
            .args([
                "--collector.disable-defaults",
                "--web.listen-address=127.0.0.1:0",
                &flag,
            ])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = run(&[]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains(&format!("--web.config.file: {error}")) && text.lines().count() == 1,
        "{text}"
    );
    let (code, text) = run(&["check"]);
    assert_eq!(code, Some(1), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("WRONG web config:") && words.contains("unknown field `http3`"),
        "{text}"
    );
    fs::write(&file, "http_server_config:\n  http2: true\n").unwrap();
    let (_, text) = run(&["check"]);
    assert!(text.contains("valid, no TLS"), "{text}");
}

/// Files that both accept or both reject. PAIR stands for a certificate and its key, HERE for the
/// directory, REST for what follows the cost in a hash.
const SAME_AS_PROMTOOL: &[&str] = &[
    "",
    "{}",
    "# nothing\n",
    "\u{feff}{}\r\n",
    "tls_server_config: {PAIR}",
    "tls_server_config: {cert_file: HERE/web.crt, key_file: web.key}",
    "tls_server_config:",
    "tls_server_config: {}",
    "tls_server_config: []",
    "tls_server_config: {cert_file: web.crt}",
    "tls_server_config: {key_file: web.key}",
    "tls_server_config: {client_auth_type: NoClientCert}",
    "tls_server_config: {client_ca_file: ca.crt}",
    "tls_server_config: {cert_file: no.crt, key_file: web.key}",
    "tls_server_config: {cert_file: web.crt, key_file: next.key}",
    "tls_server_config: {cert_file: web.crt, key_file: web.crt}",
    "tls_server_config: {cert_file: web.key, key_file: web.key}",
    "tls_server_config: {cert_file: ., key_file: web.key}",
    "tls_server_config: {PAIR, client_ca_file: ca.crt}",
    "tls_server_config: {PAIR, client_ca_file: ca.crt, client_auth_type: NoClientCert}",
    "tls_server_config: {PAIR, client_ca_file: ca.crt, client_auth_type: VerifyClientCertIfGiven}",
    "tls_server_config: {PAIR, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}",
    "tls_server_config: {PAIR, client_ca_file: no.crt, client_auth_type: RequireAndVerifyClientCert}",
    "tls_server_config: {PAIR, client_auth_type: RequireClientCert}",
    "tls_server_config: {PAIR, client_auth_type: RequestClientCert}",
    "tls_server_config: {PAIR, client_auth_type: requestclientcert}",
    "tls_server_config: {PAIR, min_version: TLS12, max_version: TLS13}",
    "tls_server_config: {PAIR, min_version: TLS14}",
    "tls_server_config: {PAIR, min_version: 1.2}",
    "tls_server_config: {PAIR, min_version: [TLS12]}",
    "tls_server_config: {PAIR, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}",
    "tls_server_config: {PAIR, cipher_suites: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}",
    "tls_server_config: {PAIR, cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256]}",
    "tls_server_config: {PAIR, cipher_suites: []}",
    "tls_server_config: {PAIR, curve_preferences: [CurveP256, X25519, CurveP384]}",
    "tls_server_config: {PAIR, curve_preferences: [P256]}",
    "tls_server_config: {PAIR, prefer_server_cipher_suites: no}",
    "tls_server_config: {PAIR, prefer_server_cipher_suites: 1}",
    "tls_server_config: {PAIR, no_such_key: 1}",
    "no_such_key: 1",
    "http_server_config: {http2: false}",
    "http_server_config: {http2: off}",
    "http_server_config: {http2: nope}",
    "http_server_config: {http2: true, http2: true}",
    "http_server_config: {http2: true}\nhttp_server_config: {http2: true}",
    "http_server_config: {headers: {X-Frame-Options: deny}}",
    "http_server_config: {headers: {X-Frame-Options: DENY}}",
    "http_server_config: {headers: {X-Frame-Options: ''}}",
    "http_server_config: {headers: {X-Content-Type-Options: nosniff}}",
    "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
    "http_server_config: {headers: {Content-Security-Policy: anything}}",
    "http_server_config: {headers: {Strict-Transport-Security: ''}}",
    "http_server_config: {headers: {X-XSS-Protection: 0}}",
    "http_server_config: {headers: {x-frame-options: deny}}",
    "http_server_config: {headers: {Server: x}}",
    "http_server_config: {headers: [a]}",
    "basic_auth_users: {a: $2y$10$REST}",
    "basic_auth_users: {a: $2y$04$REST}",
    "basic_auth_users: {a: $2a$12$REST}",
    "basic_auth_users: {a: $2b$12$REST}",
    "basic_auth_users: {a: $2y$03$REST}",
    "basic_auth_users: {a: $2y$32$REST}",
    "basic_auth_users: {a: $2y$xx$REST}",
    "basic_auth_users: {a: $3y$10$REST}",
    "basic_auth_users: {a: ''}",
    "basic_auth_users: {a: secret}",
    "basic_auth_users: [a]",
    "basic_auth_users: {a: $2y$04$REST, a: $2y$04$REST}",
    "basic_auth_users: {a: &h $2y$04$REST, b: *h}",
    "basic_auth_users: {a: *h}",
    "basic_auth_users: {",
    "- no_such_key\n",
    "5",
    "text",
];

/// Files that promtool accepts but this exporter rejects, and why.
const STRICTER_THAN_PROMTOOL: &[(&str, &str)] = &[
    (
        "tls_server_config: {PAIR, min_version: TLS10}",
        "broken, and rustls does not have it",
    ),
    (
        "tls_server_config: {PAIR, max_version: TLS11}",
        "broken, and rustls does not have it",
    ),
    (
        "tls_server_config: {PAIR, cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]}",
        "weak, and rustls does not have it",
    ),
    (
        "tls_server_config: {PAIR, curve_preferences: [CurveP521]}",
        "ring does not have it",
    ),
    (
        "tls_server_config: {PAIR, min_version: TLS13, max_version: TLS12}",
        "no client could connect",
    ),
    (
        "tls_server_config: {PAIR, client_auth_type: RequireAndVerifyClientCert}",
        "Go takes every public authority",
    ),
    (
        "tls_server_config: {PAIR, client_ca_file: web.key, client_auth_type: RequireAndVerifyClientCert}",
        "no authority in it",
    ),
    (
        "tls_server_config: {min_version: TLS13}",
        "plain HTTP is not what is meant",
    ),
    (
        "tls_server_config: {PAIR, client_ca_file: ca.crt, client_auth_type: RequestClientCert}",
        "the CA would not be used",
    ),
    ("{}\n---\nno_such_key: 1\n", "a second document is not read"),
    (
        "basic_auth_users: {a: $1y$10$REST}",
        "not bcrypt's: no user could log in",
    ),
    (
        "basic_auth_users: {a: $2y$17$REST}",
        "seconds of CPU time for each guess",
    ),
    (
        "basic_auth_users: {a: $2y$10$!!REST}",
        "no hash, no user could log in",
    ),
    (
        "basic_auth_users: {'a:b': $2y$04$REST}",
        "no user could log in",
    ),
    (
        "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}",
        "no header can be that",
    ),
];

/// Files with settings newer than Debian's promtool.
const NEWER_THAN_PROMTOOL: &[&str] = &[
    "rate_limit: {interval: 1s, burst: 5}",
    "rate_limit: {interval: 0, burst: 5}",
    "tls_server_config: {PAIR, client_auth_type: RequestClientCert, client_allowed_sans: [a]}",
    "tls_server_config: {cert: '', key: '', client_ca: ''}",
];

#[test]
fn files_are_judged_as_by_promtool() {
    let Some((scratch, _authority)) = with_certificates("files") else {
        return;
    };
    let dir = &scratch.0;
    let rest = ONE.strip_prefix("$2y$04$").unwrap();
    let text = |text: &str| {
        text.replace("PAIR", "cert_file: web.crt, key_file: web.key")
            .replace("HERE", &dir.display().to_string())
            .replace("REST", rest)
    };
    let mut different = Vec::new();
    let nested = "[".repeat(20_000);
    for file in SAME_AS_PROMTOOL.iter().chain([&nested.as_str()]) {
        let file = text(file);
        let (ours, theirs) = (check(dir, &file), promtool(dir, &file));
        if ours.0 != theirs {
            different.push(format!("promtool: {theirs} {file}\n{}", ours.1));
        }
    }
    assert!(different.is_empty(), "{}", different.concat());
    for (file, reason) in STRICTER_THAN_PROMTOOL {
        let file = text(file);
        let ours = check(dir, &file);
        assert!(promtool(dir, &file), "{reason}: no longer differs: {file}");
        assert!(!ours.0, "{reason}: {file}\n{}", ours.1);
    }
    for file in NEWER_THAN_PROMTOOL {
        let file = text(file);
        let ours = check(dir, &file);
        assert!(ours.0, "{file}\n{}", ours.1);
        assert!(
            !promtool(dir, &file),
            "promtool accepts this now, move it to SAME_AS_PROMTOOL: {file}"
        );
    }
}

/// Whether `web-config check` accepts the file, and its output.
fn check(dir: &Path, text: &str) -> (bool, String) {
    let file = dir.join("checked.yml");
    fs::write(&file, text).unwrap();
    let output = server_process::exporter_command()
        .args(["web-config", "check"])
        .arg(&file)
        .output();
    let output = output.unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let is_valid = output.status.code() == Some(0);
    // One line, on stdout or stderr, that begins with the file's name.
    let (message, empty) = if is_valid { (out, err) } else { (err, out) };
    assert!(
        message.starts_with(&file.display().to_string()),
        "{message}"
    );
    assert_eq!(
        (message.lines().count(), empty.as_str()),
        (1, ""),
        "{message}"
    );
    assert!(is_valid || output.status.code() == Some(1), "{message}");
    (is_valid, message)
}

fn promtool(dir: &Path, text: &str) -> bool {
    let file = dir.join("checked.yml");
    fs::write(&file, text).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "web-config"])
        .arg(file)
        .output();
    checked.unwrap().status.success()
}

#[test]
fn several_files_are_checked_at_once() {
    let scratch = TempDir::new("web-config-several");
    let (good, invalid) = (scratch.0.join("good.yml"), scratch.0.join("wrong.yml"));
    fs::write(&good, "{}").unwrap();
    fs::write(&invalid, "a: 1").unwrap();
    let output = server_process::exporter_command()
        .args(["web-config", "check"])
        .args([&good, &invalid, &good])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').count(), 3);
    assert_eq!(output.stderr.split(|byte| *byte == b'\n').count(), 2);
    let no_files = server_process::exporter_command()
        .arg("web-config")
        .output()
        .unwrap();
    assert_eq!(no_files.status.code(), Some(2));
    let help = server_process::exporter_command()
        .args(["web-config", "--help"])
        .output()
        .unwrap();
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn example_is_valid() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web-config.yml");
    if !crate::support::is_installed("openssl") {
        return crate::support::skip("openssl");
    }
    let scratch = TempDir::new("web-config-example");
    Authority::new(&scratch.0);
    let text = fs::read_to_string(example).unwrap();
    let scratch_dir = scratch.0.display();
    let files = [
        ("/etc/strata_exporter/web.crt", "web.crt"),
        ("/etc/strata_exporter/web.key", "web.key"),
        ("/etc/strata_exporter/prometheus-ca.crt", "ca.crt"),
    ];
    let text = files.iter().fold(text, |text, (name, file)| {
        assert!(text.contains(name), "{name} is not in the example");
        text.replace(name, &format!("{scratch_dir}/{file}"))
    });
    let (is_valid, output) = check(&scratch.0, &text);
    assert!(is_valid, "{output}");
}
