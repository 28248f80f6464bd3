//! HTTP server tests over real sockets, against the exporter's binary.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

const BINARY: &str = env!("CARGO_BIN_EXE_strata_exporter");
/// Timeout of a test's wait.
const TIMEOUT: Duration = Duration::from_secs(60);
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// Two collectors that are cheap and work everywhere.
const CHEAP_COLLECTORS: &[&str] = &[
    "--collector.disable-defaults",
    "--collector.loadavg",
    "--collector.uname",
];
const ANY_PORT: &str = "--web.listen-address=127.0.0.1:0";

/// A temporary directory, removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("strata-http-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A running exporter, stopped at the end of the test at the latest.
struct Exporter {
    child: Child,
    /// Listen addresses from the log.
    addresses: Vec<String>,
    log: Receiver<String>,
}

impl Exporter {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(CHEAP_COLLECTORS).arg(ANY_PORT).args(flags);
        Self::spawn(command, 1)
    }

    /// Starts the exporter and waits until it has logged `listening` addresses.
    fn spawn(mut command: Command, listening: usize) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may have dropped the receiver.
                drop(sender.send(line));
            }
        });
        let mut exporter = Self {
            child,
            addresses: Vec::new(),
            log,
        };
        let mut lines = Vec::new();
        while exporter.addresses.len() < listening {
            let line = exporter.log.recv_timeout(TIMEOUT);
            let line = line.unwrap_or_else(|e| panic!("{e}: {lines:#?}"));
            let address = line.split_once("address=").map(|(_, rest)| rest);
            if let Some(address) = address.filter(|_| line.contains("listening")) {
                let address = address.split(' ').next().unwrap_or_default();
                let address = address.trim_matches('"').to_owned();
                exporter.addresses.push(address);
            }
            lines.push(line);
        }
        exporter
    }

    fn tcp(&self) -> SocketAddr {
        self.addresses[0].parse().unwrap()
    }

    fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.tcp()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Client(BufReader::new(stream))
    }

    fn get(&self, path: &str) -> Response {
        self.connect().request(&get(path, ""))
    }

    fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
    }

    fn wait_for_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        while started.elapsed() < TIMEOUT {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the exporter did not exit");
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _result = self.child.kill();
        let _result = self.child.wait();
    }
}

/// A client connection.
struct Client<S>(BufReader<S>);

#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "duplicate header {name}");
        first
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Whether the body has a sample of this family.
    fn has(&self, family: &str) -> bool {
        self.text().lines().any(|line| {
            line.strip_prefix(family)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
    }

    #[track_caller]
    fn assert_is(&self, status: u16, content_type: &str, body: &str) {
        let is = (
            self.status,
            self.header("content-type").unwrap_or_default(),
            self.text(),
        );
        assert_eq!(is, (status, content_type, body));
    }
}

impl<S: Read + Write> Client<S> {
    fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn request(&mut self, request: &str) -> Response {
        self.send(request);
        let with_body = !request.starts_with("HEAD");
        self.read_response(with_body).unwrap()
    }

    fn read_response(&mut self, with_body: bool) -> io::Result<Response> {
        let mut line = String::new();
        let mut next = |from: &mut BufReader<S>| {
            line.clear();
            from.read_line(&mut line)?;
            if !line.ends_with("\r\n") {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(line.trim_end().to_owned())
        };
        let first = next(&mut self.0)?;
        let status = first.strip_prefix("HTTP/1.1 ").unwrap();
        let status = status.split(' ').next().unwrap().parse().unwrap();
        let mut response = Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let header = next(&mut self.0)?;
            let Some((name, value)) = header.split_once(": ") else {
                break;
            };
            let header = (name.to_lowercase(), value.to_owned());
            response.headers.push(header);
        }
        if with_body {
            let len = response.header("content-length").unwrap_or("0");
            response.body = vec![0; len.parse().unwrap()];
            self.0.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset counts as closed, too.
        let read = self.0.read_to_end(&mut rest);
        rest.is_empty() && !read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// A system bus that never replies, so that its collectors take all of their time.
struct HungBus {
    _socket: Scratch,
    path: PathBuf,
    connections: Receiver<UnixStream>,
}

impl HungBus {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let path = scratch.path("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, connections) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Self {
            _socket: scratch,
            path,
            connections,
        }
    }

    fn exporter(&self, flags: &[&str]) -> Exporter {
        let mut command = Command::new(BINARY);
        command
            .args(CHEAP_COLLECTORS)
            .args([ANY_PORT, "--collector.logind"])
            .args(flags)
            .env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", self.path.display()),
            );
        Exporter::spawn(command, 1)
    }

    /// Waits until a collector has connected to the bus.
    fn wait_for_connection(&self) -> UnixStream {
        self.connections.recv_timeout(TIMEOUT).unwrap()
    }
}

const TIMEOUT_HEADER: &str = "X-Prometheus-Scrape-Timeout-Seconds: 2\r\n";

#[test]
fn format_is_the_one_the_scraper_prefers() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let om = "application/openmetrics-text";
    for (accept, content_type) in [
        (String::new(), PLAIN),
        ("Accept: */*\r\n".to_owned(), PLAIN),
        ("Accept: text/html\r\n".to_owned(), PLAIN),
        (format!("Accept: {om}\r\n"), OPEN_METRICS),
        (format!("Accept: {om};version=1.0.0\r\n"), OPEN_METRICS),
        (format!("accept: {om};version=0.0.1\r\n"), PLAIN),
        (format!("Accept: {om};q=0\r\n"), PLAIN),
        (
            format!("Accept: {om};q=0.5,text/plain;q=0.4\r\n"),
            OPEN_METRICS,
        ),
        (format!("Accept: {om};q=0.4,text/plain;q=0.5\r\n"), PLAIN),
        // The header of Prometheus 3.
        (
            format!(
                "Accept: {om};version=1.0.0;escaping=allow-utf-8;q=0.5,{om};version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1\r\n"
            ),
            OPEN_METRICS,
        ),
    ] {
        let response = client.request(&get("/metrics", &accept));
        assert_eq!(response.status, 200, "{accept}");
        assert_eq!(
            response.header("content-type"),
            Some(content_type),
            "{accept}"
        );
        assert_eq!(response.header("vary"), Some("Accept, Accept-Encoding"));
        let ends = response.text().ends_with("\n# EOF\n");
        assert_eq!(ends, content_type == OPEN_METRICS, "{accept}");
        assert!(response.has("node_load1"), "{accept}");
    }
}

#[test]
fn head_matches_get_without_body() {
    let exporter = Exporter::start(&[]);
    // One connection: a body would be parsed as the next response.
    let mut client = exporter.connect();
    for path in [
        "/metrics",
        "/",
        "/-/healthy",
        "/nothing",
        "/metrics?collect[]=x",
    ] {
        let full = client.request(&get(path, ""));
        let head = client.request(&get(path, "").replacen("GET", "HEAD", 1));
        assert_eq!(full.status, head.status, "{path}");
        assert!(!full.body.is_empty(), "{path}");
        let headers = |response: &Response| {
            let mut headers = response.headers.clone();
            // The content of /metrics and of the page differs between requests.
            let differs = ["/metrics", "/"].contains(&path);
            headers.retain(|(n, _)| n != "date" && (n != "content-length" || !differs));
            headers
        };
        assert_eq!(headers(&full), headers(&head), "{path}");
        assert!(head.header("content-length").is_some(), "{path}");
    }
}

#[test]
fn only_get_and_head_are_allowed() {
    let exporter = Exporter::start(&[]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for path in ["/metrics", "/", "/-/healthy", "/nothing"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            let response = exporter.connect().request(&request);
            response.assert_is(
                405,
                TEXT,
                "Method not allowed: only GET and HEAD are supported.\n",
            );
            assert_eq!(response.header("allow"), Some("GET, HEAD"));
        }
    }
}

#[test]
fn other_paths_are_served_or_not_found() {
    let exporter = Exporter::start(&[]);
    exporter
        .get("/-/healthy")
        .assert_is(200, TEXT, "Healthy.\n");
    exporter.get("/-/ready").assert_is(200, TEXT, "Ready.\n");
    for path in [
        "/nothing",
        "/metrics/",
        "/metrics/nothing",
        "/metricsx",
        "/-/",
    ] {
        exporter
            .get(path)
            .assert_is(404, TEXT, "404 page not found\n");
    }
    let landing = exporter.get("/");
    assert_eq!(landing.status, 200);
    assert_eq!(
        landing.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = landing.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"));
    assert!(!policy.contains("unsafe"), "{policy}");
    for link in [
        "/metrics",
        "/metrics/host",
        "/-/healthy",
        "/-/ready",
        "/metrics?collect[]=uname",
    ] {
        let href = format!("href=\"{link}\"");
        assert!(
            landing.text().contains(&href),
            "{href} in {}",
            landing.text()
        );
        assert_eq!(exporter.get(link).status, 200, "{link}");
    }
}

#[test]
fn query_selects_collectors_and_families() {
    let exporter = Exporter::start(&[]);
    for (query, load, load5, uname) in [
        ("", true, true, true),
        ("?collect[]=loadavg", true, true, false),
        ("?collect%5B%5D=loadavg&collect[]=uname", true, true, true),
        ("?exclude[]=loadavg", false, false, true),
        ("?exclude[]=loadavg&exclude[]=uname", false, false, false),
        ("?exclude[]=nonsense", true, true, true),
        ("?name[]=node_load1", true, false, false),
        (
            "?name[]=node_load1&name[]=node_uname_info",
            true,
            false,
            true,
        ),
        ("?collect[]=uname&name[]=node_load1", false, false, false),
        ("?name[]=nonsense", false, false, false),
    ] {
        for path in ["/metrics", "/metrics/host"] {
            let response = exporter.get(&format!("{path}{query}"));
            assert_eq!(response.status, 200, "{path}{query}");
            let has = ["node_load1", "node_load5", "node_uname_info"].map(|n| response.has(n));
            assert_eq!(has, [load, load5, uname], "{path}{query}");
            // Metrics of the scrape itself are filtered by `name[]` only.
            let named = query.contains("name[]");
            assert_eq!(response.has("strata_build_info"), !named, "{path}{query}");
        }
    }
    let prefix = "Couldn't create filtered metrics handler: couldn't create collector: ";
    for (query, reason) in [
        (
            "collect[]=nonsense",
            format!("{prefix}missing collector: nonsense\n"),
        ),
        (
            "collect[]=meminfo",
            format!("{prefix}disabled collector: meminfo\n"),
        ),
        (
            "collect[]=uname&exclude[]=loadavg",
            "Combined collect and exclude queries are not allowed.\n".to_owned(),
        ),
    ] {
        for path in ["/metrics", "/metrics/host"] {
            let response = exporter.get(&format!("{path}?{query}"));
            response.assert_is(400, TEXT, &reason);
        }
    }
    let counted = "promhttp_metric_handler_requests_total{code=\"400\"} 6\n";
    assert!(exporter.get("/metrics").text().contains(counted));
}

#[test]
fn responses_are_compressed_on_request() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    for (accept, is_packed) in [
        ("", false),
        ("Accept-Encoding: gzip\r\n", true),
        ("Accept-Encoding: deflate, gzip;q=0.5\r\n", true),
        ("Accept-Encoding: gzip;q=0\r\n", false),
        ("Accept-Encoding: gzip;q=0, *;q=1\r\n", false),
        ("Accept-Encoding: identity\r\n", false),
    ] {
        let response = client.request(&get("/metrics", accept));
        let encoding = is_packed.then_some("gzip");
        assert_eq!(response.header("content-encoding"), encoding, "{accept}");
        assert_eq!(response.header("content-type"), Some(PLAIN), "{accept}");
        let mut body = String::new();
        if is_packed {
            let mut gunzip = flate2::read::GzDecoder::new(&*response.body);
            gunzip.read_to_string(&mut body).unwrap();
        } else {
            body.push_str(response.text());
        }
        assert!(
            body.contains("\nnode_load1 ") && body.ends_with('\n'),
            "{body}"
        );
    }
}

#[test]
fn page_assets_are_cacheable() {
    let exporter = Exporter::start(&[]);
    let page = exporter.get("/");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let text = page.text();
    for (before, content_type) in [
        ("<script src=\"", "text/javascript; charset=utf-8"),
        (
            "<link rel=\"stylesheet\" href=\"",
            "text/css; charset=utf-8",
        ),
        ("type=\"image/svg+xml\" href=\"", "image/svg+xml"),
    ] {
        let (_, path) = text.split_once(before).expect(before);
        let (path, _) = path.split_once('"').unwrap();
        let file = exporter.get(path);
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("content-type"), Some(content_type));
        let cache_control = file.header("cache-control").unwrap();
        assert!(
            cache_control.ends_with("immutable"),
            "{path}: {cache_control}"
        );
        assert!(!file.body.is_empty());
    }
    exporter
        .get("/page/x/nothing")
        .assert_is(404, TEXT, "404 page not found\n");
}

#[test]
fn host_and_containers_have_pages_and_plots() {
    let exporter = Exporter::start(&[]);
    let page = exporter.get("/host?window=5m");
    assert_eq!(page.status, 200);
    let picture = "/plot/host.svg?what=memory&amp;window=5m";
    assert!(page.text().contains(picture), "{}", page.text());
    let plot = exporter.get("/plot/host.svg?what=memory&window=5m&width=300");
    assert_eq!(plot.status, 200);
    assert_eq!(plot.header("content-type"), Some("image/svg+xml"));
    let policy = plot.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(plot.text().contains("width=\"300\""));
    for (path, status) in [
        ("/plot/host.svg?what=love", 400),
        ("/plot/host.svg?window=long", 400),
        ("/plot/containers/unknown.svg", 404),
        ("/plot/containers/.svg", 404),
        ("/plot/host", 404),
        ("/containers/unknown", 404),
        ("/containers/%ff", 400),
        ("/host?window=long", 400),
    ] {
        assert_eq!(exporter.get(path).status, status, "{path}");
    }
    let none = exporter.get("/containers/%3Cscript%3E");
    assert!(none.text().contains("&lt;script&gt;"), "{}", none.text());
    assert!(!none.text().contains("<script>"), "{}", none.text());
}

#[test]
fn check_page_is_served() {
    let exporter = Exporter::start(&["--collector.disable-defaults", "--collector.loadavg"]);
    let page = exporter.get("/check");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("loadavg"), "{}", page.text());
}

#[test]
fn metrics_path_is_configurable() {
    let exporter = Exporter::start(&["--web.telemetry-path=/else/where"]);
    assert!(exporter.get("/else/where").has("node_load1"));
    assert!(exporter.get("/else/where/host").has("node_load1"));
    assert_eq!(exporter.get("/metrics").status, 404);
    let landing = exporter.get("/");
    assert!(landing.text().contains("href=\"/else/where\""));

    let exporter = Exporter::start(&["--web.telemetry-path=/"]);
    assert!(exporter.get("/").has("node_load1"));
    exporter
        .get("/-/healthy")
        .assert_is(200, TEXT, "Healthy.\n");
}

#[test]
fn exporter_metrics_can_be_disabled() {
    let own_samples = |response: &Response| {
        let lines = response.text().lines().map(str::to_owned);
        let is_own = |line: &String| {
            ["process_", "promhttp_", "strata_http_"]
                .iter()
                .any(|p| line.starts_with(p))
        };
        lines.filter(is_own).count()
    };
    let response = Exporter::start(&[]).get("/metrics");
    assert!(own_samples(&response) > 10, "{}", response.text());
    let response = Exporter::start(&["--web.disable-exporter-metrics"]).get("/metrics");
    assert_eq!(own_samples(&response), 0, "{}", response.text());
    for name in [
        "node_load1",
        "node_scrape_collector_success",
        "node_exporter_build_info",
    ] {
        assert!(response.has(name), "{name}");
    }
}

#[test]
fn excess_requests_get_503() {
    let bus = HungBus::new("many");
    let exporter = bus.exporter(&["--web.max-requests=1"]);
    let mut slow = exporter.connect();
    let within = |seconds| format!("X-Prometheus-Scrape-Timeout-Seconds: {seconds}\r\n");
    slow.send(&get("/metrics", &within(8)));
    let _waiting = bus.wait_for_connection();
    let limit_error = "Limit of concurrent requests reached (1), try again later.\n";
    // A request with a longer timeout queues.
    let mut impatient = exporter.connect();
    let impatient = impatient.request(&get("/metrics", &within(1)));
    impatient.assert_is(503, TEXT, limit_error);
    let mut patient = exporter.connect();
    patient.send(&get("/metrics?exclude[]=logind", &within(60)));
    exporter
        .get("/-/healthy")
        .assert_is(200, TEXT, "Healthy.\n");
    let response = slow.read_response(true).unwrap();
    assert_eq!(response.status, 200);
    assert!(response.has("node_load1"), "{}", response.text());
    let failed = "node_scrape_collector_success{collector=\"logind\"} 0\n";
    assert!(response.text().contains(failed), "{}", response.text());
    assert_eq!(patient.read_response(true).unwrap().status, 200);
    // The slot is free again.
    let response = exporter.get("/metrics?exclude[]=logind");
    let counted = "promhttp_metric_handler_requests_total{code=\"503\"} 1\n";
    assert!(response.text().contains(counted), "{}", response.text());

    // As in node_exporter, 0 means unlimited.
    let unlimited = Exporter::start(&["--web.max-requests=0"]);
    assert_eq!(unlimited.get("/metrics").status, 200);
}

#[test]
fn listens_on_several_addresses_and_unix_sockets() {
    let scratch = Scratch::new("unix");
    let socket = scratch.path("socket");
    // A stale socket of a crashed process.
    drop(UnixListener::bind(&socket).unwrap());
    let unix = format!("--web.listen-address=unix:{}", socket.display());
    let mut command = Command::new(BINARY);
    command
        .args(CHEAP_COLLECTORS)
        .args([ANY_PORT, &unix, ANY_PORT]);
    let mut exporter = Exporter::spawn(command, 3);
    let mut addresses = exporter.addresses.clone();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for address in addresses {
        let healthy = get("/metrics", "");
        let response = match address.strip_prefix("unix:") {
            Some(path) => {
                Client(BufReader::new(UnixStream::connect(path).unwrap())).request(&healthy)
            }
            None => Client(BufReader::new(TcpStream::connect(address).unwrap())).request(&healthy),
        };
        assert!(response.has("node_load1"));
    }

    // A socket in use, or a file that is not a socket, is not replaced.
    assert_startup_error(&[&unix], &["cannot listen on unix:", "in use"]);
    let file = scratch.path("file");
    fs::write(&file, "mine").unwrap();
    let not_a_socket = format!("--web.listen-address=unix:{}", file.display());
    assert_startup_error(&[&not_a_socket], &["cannot listen on unix:", "in use"]);
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");

    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    exporter.terminate();
    assert!(exporter.wait_for_exit().success());
    assert!(!socket.exists());
}

#[test]
fn sockets_can_be_passed_by_systemd() {
    if !crate::support::is_installed("python3") {
        return crate::support::skip("python3");
    }
    let scratch = Scratch::new("systemd");
    let path = scratch.path("socket");
    let script = "
import os, socket, sys
tcp = socket.socket(); tcp.bind(('127.0.0.1', 0)); tcp.listen()
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1]); unix.listen()
spare = [os.dup(s.fileno()) for s in (tcp, unix) for _ in range(3)]
os.dup2(spare[-4], 8); os.dup2(spare[-1], 9)
os.dup2(8, 3); os.dup2(9, 4)
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(&path).arg(BINARY);
    command.args(CHEAP_COLLECTORS).arg("--web.systemd-socket");
    let mut exporter = Exporter::spawn(command, 2);
    assert!(exporter.get("/metrics").has("node_load1"));
    let mut unix = Client(BufReader::new(UnixStream::connect(&path).unwrap()));
    assert!(unix.request(&get("/metrics", "")).has("node_load1"));
    drop(unix);
    exporter.terminate();
    assert!(exporter.wait_for_exit().success());
    // The socket belongs to systemd and is not removed.
    assert!(path.exists());
    assert_startup_error(&["--web.systemd-socket"], &["no socket passed by systemd"]);
}

fn run(flags: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    let child = command
        .args(CHEAP_COLLECTORS)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It should exit at once; if it does not, dropping this stops it.
    let mut exporter = Exporter {
        child,
        addresses: Vec::new(),
        log: mpsc::channel().1,
    };
    let status = exporter.wait_for_exit();
    let mut output = Output {
        status,
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let child = &mut exporter.child;
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_end(&mut output.stdout).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_end(&mut output.stderr).unwrap();
    output
}

/// The exporter exits and logs the reason in one line.
#[track_caller]
fn assert_startup_error(flags: &[&str], expected: &[&str]) {
    let output = run(flags);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{flags:?}");
    assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
    assert!(
        stderr.starts_with("strata_exporter: "),
        "{flags:?}: {stderr}"
    );
    for word in expected {
        assert!(stderr.contains(word), "{word} for {flags:?}: {stderr}");
    }
}

#[test]
fn startup_errors_are_one_line() {
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("--web.listen-address={}", local_address(&in_use));
    for (flags, expected) in [
        (&["--no-such-flag"][..], &["'--no-such-flag'"][..]),
        (&["surplus"], &["'surplus'"]),
        (&[&in_use], &["cannot listen on 127.0.0.1:", "in use"]),
        (
            &["--web.listen-address=nonsense"],
            &["--web.listen-address", "HOST:PORT"],
        ),
        (
            &["--web.listen-address=127.0.0.1:99999"],
            &["invalid port \"99999\""],
        ),
        (
            &["--web.listen-address=192.0.2.1:0"],
            &["cannot listen on 192.0.2.1:0"],
        ),
        (
            &["--web.listen-address=unix:/nowhere/x"],
            &["cannot listen on unix:/nowhere/x"],
        ),
        (
            &["--web.telemetry-path=metrics"],
            &["--web.telemetry-path", "must start with /"],
        ),
        (&["--web.max-requests=-1"], &["--web.max-requests"]),
        (&["--web.max-requests=many"], &["--web.max-requests"]),
        (
            &["--path.procfs=/nowhere"],
            &["--path.procfs: /nowhere is not a directory"],
        ),
        (
            &["--path.sysfs=/etc/passwd"],
            &["--path.sysfs: /etc/passwd is not a directory"],
        ),
        (&["--path.rootfs="], &["--path.rootfs"]),
        (&["--log.level=loud"], &["--log.level", "loud"]),
        (&["--log.format=xml"], &["--log.format", "xml"]),
        (
            &["--collector.loadavg=maybe"],
            &["--collector.loadavg", "maybe"],
        ),
        (
            &["--collector.diskstats.device-exclude=("],
            &["--collector.diskstats.device-exclude"],
        ),
        (
            &["--collector.netclass.ignored-devices=["],
            &["--collector.netclass.ignored-devices"],
        ),
        // Whether the collector is enabled or not.
        (
            &[
                "--collector.diskstats.device-exclude=a",
                "--collector.diskstats.device-include=b",
            ],
            &[
                "--collector.diskstats.device-include",
                "--collector.diskstats.device-exclude",
            ],
        ),
        (
            &[
                "--collector.netdev",
                "--collector.netdev.device-exclude=a",
                "--collector.netdev.device-include=b",
            ],
            &[
                "--collector.netdev.device-include",
                "--collector.netdev.device-exclude",
            ],
        ),
    ] {
        assert_startup_error(flags, expected);
    }
}

fn local_address(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

#[test]
fn command_line_overrides_environment() {
    let with = |flags: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .args(["--collector.disable-defaults", "--collector.loadavg"])
            .args(flags)
            .env("STRATA_WEB_LISTEN_ADDRESS", "127.0.0.1:0")
            .env("STRATA_WEB_TELEMETRY_PATH", "/from-environment")
            .env("STRATA_COLLECTOR_UNAME", "true")
            .env("STRATA_COLLECTOR_LOADAVG", "false");
        Exporter::spawn(command, 1)
    };
    let exporter = with(&[]);
    let response = exporter.get("/from-environment");
    assert!(response.has("node_uname_info") && response.has("node_load1"));
    let exporter = with(&["--web.telemetry-path=/from-flag", "--no-collector.uname"]);
    assert_eq!(exporter.get("/from-environment").status, 404);
    let response = exporter.get("/from-flag");
    assert!(!response.has("node_uname_info") && response.has("node_load1"));
}

#[test]
fn requests_before_shutdown_are_answered() {
    let bus = HungBus::new("drain");
    let mut exporter = bus.exporter(&[]);
    let mut idle = exporter.connect();
    idle.request(&get("/-/healthy", ""));
    let mut scraper = exporter.connect();
    scraper.send(&get("/metrics", TIMEOUT_HEADER));
    let _waiting = bus.wait_for_connection();
    exporter.terminate();
    assert!(idle.is_closed());
    // New connections are rejected.
    let rejected = TcpStream::connect(exporter.tcp());
    let rejected = rejected.is_err() || {
        let stream = rejected.unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client(BufReader::new(stream)).is_closed()
    };
    assert!(rejected);
    let response = scraper.read_response(true).unwrap();
    assert_eq!(response.status, 200);
    assert!(response.has("node_load1") && response.text().ends_with('\n'));
    assert!(scraper.is_closed());
    assert_eq!(exporter.wait_for_exit().code(), Some(0));
}

/// A directory with a text file too large for the buffer of any socket.
fn large_page(name: &str) -> (Scratch, String) {
    let scratch = Scratch::new(name);
    let label = "x".repeat(64 << 10);
    let samples: Vec<_> = (0..256)
        .map(|n| format!("large{{n=\"{n}\",x=\"{label}\"}} {n}\n"))
        .collect();
    fs::write(scratch.path("large.prom"), samples.concat()).unwrap();
    let flag = format!("--collector.textfile.directory={}", scratch.0.display());
    (scratch, flag)
}

#[test]
fn slow_reader_gets_full_response_during_shutdown() {
    let (_scratch, flag) = large_page("slow");
    let mut exporter = Exporter::start(&["--collector.textfile", &flag]);
    let mut slow = exporter.connect();
    slow.send(&get("/metrics", ""));
    // The response has started.
    slow.0.fill_buf().unwrap();
    exporter.terminate();
    thread::sleep(Duration::from_millis(100));
    assert!(exporter.child.try_wait().unwrap().is_none());
    let response = slow.read_response(true).unwrap();
    assert_eq!(response.text().matches("\nlarge{").count(), 256);
    assert_eq!(exporter.wait_for_exit().code(), Some(0));
}

#[test]
fn client_that_disconnects_midway_costs_nothing() {
    let (_scratch, flag) = large_page("gone");
    let exporter = Exporter::start(&["--collector.textfile", &flag]);
    for _ in 0..3 {
        let mut gone = exporter.connect();
        gone.send(&get("/metrics", ""));
        gone.0.fill_buf().unwrap();
    }
    let response = exporter.get("/metrics?collect[]=loadavg");
    assert!(response.has("node_load1"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    let requests = ["/-/healthy", "/metrics", "/nothing", "/-/ready"].map(|path| get(path, ""));
    client.send(&requests.concat());
    client
        .read_response(true)
        .unwrap()
        .assert_is(200, TEXT, "Healthy.\n");
    assert!(client.read_response(true).unwrap().has("node_load1"));
    assert_eq!(client.read_response(true).unwrap().status, 404);
    client
        .read_response(true)
        .unwrap()
        .assert_is(200, TEXT, "Ready.\n");
}

#[test]
fn half_closed_client_is_answered() {
    let exporter = Exporter::start(&[]);
    let mut client = exporter.connect();
    client.send(&get("/metrics", ""));
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(client.read_response(true).unwrap().has("node_load1"));
    assert!(client.is_closed());
}

#[test]
fn malformed_requests_are_rejected() {
    let mut exporter = Exporter::start(&[]);
    let huge = get(
        "/metrics",
        &format!("X-Large: {}\r\n", "x".repeat(100 << 10)),
    );
    let many = get("/metrics", &"X-Many: y\r\n".repeat(9_000));
    let long = get(&format!("/metrics?{}", "x".repeat(100 << 10)), "");
    for (request, statuses) in [
        (huge, &[431][..]),
        (many, &[431]),
        (long, &[414, 431]),
        ("nonsense\r\n\r\n".to_owned(), &[400]),
        ("GET /metrics HTTP/9.9\r\n\r\n".to_owned(), &[400, 505]),
        ("\0\u{1}\u{16}\u{3}\r\n\r\n".to_owned(), &[400]),
    ] {
        let mut client = exporter.connect();
        let start: String = request.chars().take(40).collect();
        // The server may close the connection before it has read everything.
        drop(client.0.get_mut().write_all(request.as_bytes()));
        match client.read_response(true) {
            Ok(response) => assert!(
                statuses.contains(&response.status),
                "{start}: {}",
                response.status
            ),
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ),
                "{start}: {error}"
            ),
        }
        assert!(exporter.get("/metrics").has("node_load1"), "{start}");
    }
    assert!(exporter.child.try_wait().unwrap().is_none());
}

#[test]
fn idle_connections_do_not_displace_the_scraper() {
    let exporter = Exporter::start(&["--web.max-connections=3"]);
    let mut idle: Vec<_> = (0..5).map(|_| exporter.connect()).collect();
    // Two have sent the start of a request.
    for client in &mut idle[3..] {
        client.send("GET /metrics HTTP/1.1\r\n");
    }
    let response = exporter.get("/metrics");
    assert!(response.has("node_load1"));
    let closed = "strata_http_connections_closed_total{reason=\"too_many\"} 3\n";
    assert!(response.text().contains(closed), "{}", response.text());
    // The connections that were idle longest were evicted.
    for client in &mut idle[..3] {
        assert!(client.is_closed());
    }
}

#[test]
fn log_format_json() {
    if !crate::support::is_installed("python3") {
        return crate::support::skip("python3");
    }
    let mut command = Command::new(BINARY);
    command
        .args(CHEAP_COLLECTORS)
        .args([ANY_PORT, "--log.format=json", "--log.level=debug"]);
    command.args([
        "--collector.textfile",
        "--collector.textfile.directory=/nowhere/\"x\"\t*",
    ]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut exporter = Exporter {
        child,
        addresses: Vec::new(),
        log: mpsc::channel().1,
    };
    let mut output = String::new();
    let address = loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "{output}");
        output += &line;
        if let Some((_, rest)) = line.split_once("\"address\":\"") {
            break rest.split('"').next().unwrap().to_owned();
        }
    };
    exporter.addresses.push(address);
    assert_eq!(exporter.get("/metrics").status, 200);
    exporter.terminate();
    assert!(exporter.wait_for_exit().success());
    stderr.read_to_string(&mut output).unwrap();
    assert!(output.lines().count() >= 4, "{output}");
    let script = "
import json, sys
for line in sys.stdin:
    entry = json.loads(line)
    assert entry['level'] in ('DEBUG', 'INFO', 'WARN'), entry
    assert entry['timestamp'] and entry['message'], entry
";
    let mut python = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(output.as_bytes()).unwrap();
    drop(stdin);
    assert!(python.wait().unwrap().success(), "{output}");
}
