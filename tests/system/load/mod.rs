//! Many clients that request too much, read too slowly or send nothing. Meanwhile every scrape must
//! succeed, memory must stay within a bound, and afterwards the exporter must return to its initial
//! state.
//!
//! Each test is one case, on every transport. With `STRATA_LOAD_TABLE=FILE` it appends its row to
//! the table for `docs/operations/load.md`.

mod transports;

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::server_process::{ServerProcess, TempDir, exporter_command, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use transports::{Connection, Transport};

/// Scrape timeout, also sent in the scraper's header.
const DEADLINE: Duration = Duration::from_secs(10);
/// Timeout of every client except the scraper.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Collectors that are enabled beside the large text file.
const COLLECTORS: &[&str] = &[
    "cpu",
    "diskstats",
    "filefd",
    "loadavg",
    "meminfo",
    "netdev",
    "netstat",
    "stat",
    "uname",
    "vmstat",
];
/// Size of the large text file; no socket buffer holds it.
const LARGE: usize = 12 << 20;
const MEGABYTE: u64 = 1 << 20;

#[derive(Debug)]
struct Response {
    status: u16,
    body: Vec<u8>,
}

impl Connection {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads to the end, or for this time.
    fn read_to_end(&mut self, limit: Duration) -> io::Result<Vec<u8>> {
        let (started, mut all) = (Instant::now(), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let remaining = limit.saturating_sub(started.elapsed());
            if remaining.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.tcp.set_read_timeout(Some(remaining))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(all),
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // TCP was closed without a TLS close_notify.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the server closes the connection, in time.
    fn is_closed(&mut self) -> bool {
        match self.read_to_end(TIMEOUT) {
            Ok(_) => true,
            Err(error) => matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
        }
    }

    /// Response to a request with `Connection: close`.
    fn request(&mut self, path: &str, headers: &str, limit: Duration) -> io::Result<Response> {
        self.send(get(path, &format!("Connection: close\r\n{headers}")))?;
        let responses = parse_responses(&self.read_to_end(limit)?);
        let no_response = || io::Error::new(ErrorKind::UnexpectedEof, "no response");
        responses.into_iter().next().ok_or_else(no_response)
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// All complete responses in these bytes.
fn parse_responses(mut bytes: &[u8]) -> Vec<Response> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse().ok())
            .unwrap();
        let len = head
            .lines()
            .find_map(|it| it.strip_prefix("content-length: "));
        let len: usize = len.map_or(0, |it| it.trim().parse().unwrap());
        let Some(body) = bytes[end + 4..].get(..len) else {
            break;
        };
        all.push(Response {
            status,
            body: body.to_vec(),
        });
        bytes = &bytes[end + 4 + len..];
    }
    all
}

/// The exporter under load, with a scraper that runs all the time.
struct Load {
    program: ServerProcess,
    transport: &'static Transport,
    before: State,
    scraper: Option<JoinHandle<Scrapes>>,
    /// Number of scrapes.
    scrape_count: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
    _page: TempDir,
}

/// Resources of the process.
#[derive(Debug, Clone, Copy)]
struct State {
    threads: u64,
    fds: usize,
    /// Peak resident memory, in bytes.
    peak: u64,
}

/// Results of the scraper.
#[derive(Debug, Default)]
struct Scrapes {
    count: u32,
    slowest: Duration,
    failed: Vec<String>,
}

impl Load {
    fn on(transport: &'static Transport, case: &str, flags: &[&str]) -> Self {
        allow_many_files();
        let dir = TempDir::new(&format!("load-{case}-{}", transport.name));
        let label = "x".repeat(64 << 10);
        let lines = (0..LARGE >> 16).map(|n| format!("large{{n=\"{n}\",x=\"{label}\"}} {n}\n"));
        fs::write(dir.0.join("large.prom"), lines.collect::<String>()).unwrap();
        let mut line = vec![
            "--collector.disable-defaults".to_owned(),
            "--collector.textfile".to_owned(),
            format!("--collector.textfile.directory={}", dir.0.display()),
        ];
        line.extend(COLLECTORS.iter().map(|it| format!("--collector.{it}")));
        line.extend((transport.flags)(&dir.0));
        line.extend(flags.iter().map(ToString::to_string));
        let request = |program: &ServerProcess, path: &str| {
            let mut connection = (transport.connect)(program.address)?;
            connection.request(path, "", TIMEOUT)
        };
        let program =
            ServerProcess::start_and_wait_for(exporter_command().args(line), &dir.0, |program| {
                request(program, "/-/healthy").is_ok()
            });
        // Resources allocated by the first scrapes do not count.
        for _ in 0..5 {
            assert_eq!(request(&program, SCRAPE).unwrap().status, 200);
        }
        // Resets the peak resident memory.
        fs::write(format!("/proc/{}/clear_refs", program.pid()), "5").unwrap();
        let before = wait_until("idle connections end", || {
            let state = State::read(program.pid());
            (connections(&program, transport) <= 1).then_some(state)
        });
        let mut load = Self {
            program,
            transport,
            before,
            scraper: None,
            scrape_count: Arc::default(),
            is_over: Arc::default(),
            _page: dir,
        };
        load.scraper = Some(load.start_scraper());
        load
    }

    /// Scrapes repeatedly until the end of the test.
    fn start_scraper(&self) -> JoinHandle<Scrapes> {
        let (address, connect) = (self.program.address, self.transport.connect);
        let (is_over, scrape_count) = (Arc::clone(&self.is_over), Arc::clone(&self.scrape_count));
        thread::spawn(move || {
            let mut scrapes = Scrapes::default();
            let seconds = DEADLINE.as_secs();
            let timeout_header = format!("X-Prometheus-Scrape-Timeout-Seconds: {seconds}\r\n");
            while !is_over.load(Ordering::SeqCst) {
                let started = Instant::now();
                let response = connect(address)
                    .and_then(|mut it| it.request(SCRAPE, &timeout_header, DEADLINE));
                scrapes.count = scrape_count.fetch_add(1, Ordering::SeqCst) + 1;
                scrapes.slowest = scrapes.slowest.max(started.elapsed());
                match response {
                    Ok(response) if response.status == 200 && has_load(&response.body) => {}
                    Ok(response) => scrapes.failed.push(format!("status {}", response.status)),
                    Err(error) => scrapes.failed.push(error.to_string()),
                }
                thread::sleep(Duration::from_millis(50));
            }
            scrapes
        })
    }

    fn connect(&self) -> io::Result<Connection> {
        let connection = (self.transport.connect)(self.program.address)?;
        connection.tcp.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }

    fn connect_many(&self, number: usize) -> Vec<Connection> {
        (0..number).map(|_| self.connect().unwrap()).collect()
    }

    /// Value of one of the exporter's own series.
    fn value(&self, series: &str) -> u64 {
        value(&self.program, self.transport, series)
    }

    /// Connections closed by the server for this reason.
    fn closed(&self, reason: &str) -> u64 {
        self.value(&format!(
            "strata_http_connections_closed_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Repeats an action until ten more scrapes were done.
    fn during_scrapes(&self, mut action: impl FnMut()) {
        let before = self.scrape_count.load(Ordering::SeqCst);
        let started = Instant::now();
        while self.scrape_count.load(Ordering::SeqCst) < before + 10 {
            assert!(started.elapsed() < 2 * TIMEOUT, "the scraper is stuck");
            action();
        }
    }

    /// Keeps the current state for ten scrapes.
    fn hold(&self) {
        self.during_scrapes(|| thread::sleep(Duration::from_millis(10)));
    }

    /// After all clients have gone: every scrape succeeded, and resources are back to their initial
    /// values.
    fn finish(mut self, case: &str, most: u64, effect: &str) {
        self.is_over.store(true, Ordering::SeqCst);
        let scrapes = self.scraper.take().unwrap().join().unwrap();
        assert!(scrapes.failed.is_empty(), "{case}: {:?}", scrapes.failed);
        assert!(scrapes.count >= 10, "{case}: {} scrapes", scrapes.count);
        let before = self.before;
        let mut after = before;
        let is_back = (0..600).any(|_| {
            thread::sleep(Duration::from_millis(100));
            after = State::read(self.program.pid());
            after.threads <= before.threads && after.fds <= before.fds
        });
        assert!(is_back, "{case}: {before:?}, and after it {after:?}");
        let more = after.peak.saturating_sub(before.peak);
        assert!(more <= most, "{case}: {} MB more", more / MEGABYTE);
        let Some(table) = std::env::var_os("STRATA_LOAD_TABLE") else {
            return;
        };
        let row = format!(
            "| {case}{} | {} of {} | {:.0} ms | {} MB | {} MB | {effect} |\n",
            self.transport.suffix,
            scrapes.count,
            scrapes.count,
            scrapes.slowest.as_secs_f64() * 1e3,
            more / MEGABYTE,
            most / MEGABYTE,
        );
        let file = fs::OpenOptions::new().append(true).create(true).open(table);
        file.unwrap().write_all(row.as_bytes()).unwrap();
    }
}

const SCRAPE: &str = "/metrics?exclude[]=textfile";

fn has_load(body: &[u8]) -> bool {
    body.windows(12).any(|it| it == b"\nnode_load1 ")
}

fn value(program: &ServerProcess, transport: &Transport, series: &str) -> u64 {
    let response = (transport.connect)(program.address)
        .and_then(|mut it| it.request("/metrics?collect[]=loadavg", "", TIMEOUT));
    let text = String::from_utf8(response.unwrap().body).unwrap();
    let line = text
        .lines()
        .find_map(|it| it.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}"))
        .parse()
        .unwrap()
}

fn connections(program: &ServerProcess, transport: &Transport) -> u64 {
    value(program, transport, "strata_http_connections")
}

impl State {
    fn read(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|it| it.strip_prefix(name));
            let number = line.unwrap().split_whitespace().next();
            number.unwrap().parse::<u64>().unwrap()
        };
        Self {
            threads: number("Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            peak: number("VmHWM:") * 1024,
        }
    }
}

/// This process needs a descriptor for its end of each connection, and the exporter inherits the
/// limit.
fn allow_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let soft_limit = maximum.unwrap_or(20_000).min(20_000);
    if current.is_some_and(|current| current < soft_limit) {
        let limit = Rlimit {
            current: Some(soft_limit),
            maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    assert!(soft_limit >= 4096, "needs 4096 open files (ulimit -n)");
}

#[test]
fn thousand_idle_connections_do_not_block_the_scraper() {
    for transport in transports::all() {
        let load = Load::on(transport, "idle", &[]);
        let idle = load.connect_many(1000);
        load.hold();
        let (open, closed) = (
            load.value("strata_http_connections"),
            load.closed("too_many"),
        );
        assert!(open <= 512, "{open} are open");
        // Of 1,000 connections and the scraper's at most 512 are open.
        assert!(closed >= 488, "{closed} were closed");
        drop(idle);
        load.finish(
            "1,000 idle connections",
            32 * MEGABYTE,
            "the oldest are closed: `too_many`",
        );
    }
}

#[test]
fn requests_sent_byte_by_byte_are_closed() {
    for transport in transports::all() {
        let load = Load::on(transport, "bytes", &[]);
        let mut slow = load.connect_many(200);
        let mut request = get("/metrics", &"X-Filler: y\r\n".repeat(20)).into_bytes();
        request.truncate(200);
        let started = Instant::now();
        for byte in request {
            let mut alive = 0;
            for client in &mut slow {
                alive += usize::from(client.send([byte]).is_ok());
            }
            if alive == 0 || started.elapsed() > TIMEOUT {
                break;
            }
            thread::sleep(Duration::from_millis(250));
        }
        assert_eq!(load.closed("slow_request"), 200);
        assert!(slow.iter_mut().all(Connection::is_closed));
        drop(slow);
        load.finish(
            "200 requests, a byte each 250 ms",
            16 * MEGABYTE,
            "closed after 10 s: `slow_request`",
        );
    }
}

/// Clients with a small receive window that request a large page and do not read it.
fn slow_readers(load: &Load, number: usize) -> Vec<Connection> {
    let begin = || {
        let mut client = load.connect().ok()?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.tcp, 4096).ok()?;
        client.tcp.set_read_timeout(Some(TIMEOUT)).ok()?;
        client.send(get("/metrics?collect[]=textfile", "")).ok()?;
        // Its response has started, so the number of concurrent requests stays within the limit.
        client.stream.read_exact(&mut [0; 8]).ok()?;
        Some(client)
    };
    // With few connections allowed, the scraper may evict it before its request.
    (0..number)
        .map(|_| wait_until("a response", begin))
        .collect()
}

#[test]
fn unread_responses_do_not_fill_memory() {
    for transport in transports::all() {
        let load = Load::on(transport, "readers", &[]);
        let slow = slow_readers(&load, 20);
        load.hold();
        // At most five responses of 12 MB are buffered at a time.
        let closed = load.closed("slow_reader");
        assert!(closed >= 15, "{closed} were closed");
        drop(slow);
        load.finish(
            "20 clients that do not read their 12 MB",
            160 * MEGABYTE,
            "beyond 64 MB the oldest are closed: `slow_reader`",
        );
    }
}

#[test]
fn slow_readers_do_not_occupy_all_connections() {
    for transport in transports::all() {
        let load = Load::on(transport, "places", &["--web.max-connections=4"]);
        let mut slow = slow_readers(&load, 4);
        for _ in 0..20 {
            for client in &mut slow {
                // Evicted connections are closed.
                let _result = client.stream.read(&mut [0]);
            }
            thread::sleep(Duration::from_millis(50));
        }
        load.hold();
        assert!(load.closed("slow_reader") >= 1);
        drop(slow);
        load.finish(
            "4 such clients with 4 connections allowed, a byte each 50 ms",
            160 * MEGABYTE,
            "the oldest is closed: `slow_reader`",
        );
    }
}

/// Requests a large page over HTTP/2 and waits for its response to start, without reading it.
fn request_unread(client: &mut Connection, stream: u8, authority: &str) -> io::Result<()> {
    // `:method: GET` and `:scheme: https` from the static table; names of `:path` and `:authority`
    // from the table, with literal values: RFC 7541.
    let mut block = vec![0x82, 0x87];
    for (name, value) in [(0x04, "/metrics?collect[]=textfile"), (0x01, authority)] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    // HEADERS with END_STREAM and END_HEADERS: RFC 9113.
    let length = u8::try_from(block.len()).unwrap();
    client.send([&[0, 0, length, 0x1, 0x5, 0, 0, 0, stream], &block[..]].concat())?;
    loop {
        let mut head = [0; 9];
        client.stream.read_exact(&mut head)?;
        let [_, one, other, kind, .., stream_id] = head;
        let mut payload = vec![0; u16::from_be_bytes([one, other]).into()];
        client.stream.read_exact(&mut payload)?;
        if (kind, stream_id) == (0x1, stream) {
            return Ok(());
        }
    }
}

#[test]
fn unread_http2_responses_do_not_fill_memory() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 0x4, 0, 0, 0, 0, 0];
    let Some(transport) = transports::over_tls() else {
        return;
    };
    let load = Load::on(transport, "streams", &[]);
    let address = load.program.address;
    let slow = [0; 2].map(|_| {
        let mut client = transports::http2(address).unwrap();
        client.tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.send([PREFACE, EMPTY_SETTINGS].concat()).unwrap();
        // Client streams have odd numbers.
        let mut streams = (1..32).step_by(2);
        let error =
            streams.find_map(|at| request_unread(&mut client, at, &address.to_string()).err());
        (client, error)
    });
    for (_, error) in &slow {
        assert!(error.is_some(), "one connection holds 16 times 12 MB");
    }
    load.hold();
    assert!(load.closed("slow_reader") >= 2);
    drop(slow);
    load.finish(
        "2 clients that do not read 16 responses of 12 MB each over HTTP/2",
        160 * MEGABYTE,
        "beyond 64 MB the oldest are closed, also a single client that exceeds it: `slow_reader`",
    );
}

#[test]
fn pipelined_requests_are_all_answered() {
    const ROW: usize = 100;
    for transport in transports::all() {
        let load = Load::on(transport, "row", &[]);
        load.during_scrapes(|| {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let mut client = load.connect().unwrap();
                    let mut row = get("/metrics?collect[]=loadavg", "").repeat(ROW - 1);
                    row += &get("/metrics?collect[]=loadavg", "Connection: close\r\n");
                    thread::spawn(move || {
                        client.send(row)?;
                        client.read_to_end(TIMEOUT)
                    })
                })
                .collect();
            for client in clients {
                let responses = parse_responses(&client.join().unwrap().unwrap());
                assert_eq!(responses.len(), ROW);
                assert!(
                    responses
                        .iter()
                        .all(|it| it.status == 200 && has_load(&it.body))
                );
            }
        });
        load.finish(
            "20 clients, 100 requests in a row each",
            32 * MEGABYTE,
            "each gets a response",
        );
    }
}

#[test]
fn pipeline_is_not_read_while_responses_are_unread() {
    for transport in transports::all() {
        let load = Load::on(transport, "deaf", &[]);
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let mut client = load.connect().unwrap();
                let limit = Duration::from_secs(3);
                client.tcp.set_write_timeout(Some(limit)).unwrap();
                let row = get("/metrics?collect[]=textfile", "").repeat(2000);
                thread::spawn(move || {
                    let mut sent = 0;
                    // Far more than all buffers together hold.
                    while sent < 64 << 20 {
                        match client.stream.write(row.as_bytes()) {
                            Ok(written) => sent += written,
                            Err(_) => break,
                        }
                    }
                    (sent, client)
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(clients.iter().all(|(sent, _)| *sent < 64 << 20));
        load.hold();
        drop(clients);
        load.finish(
            "10 clients that send up to 64 MB of requests and read nothing",
            200 * MEGABYTE,
            "not read further until a response has been read",
        );
    }
}

#[test]
fn half_closed_clients_are_answered_or_closed() {
    for transport in transports::all() {
        let load = Load::on(transport, "half", &[]);
        let (complete, part) = (get("/-/healthy", ""), "GET /metrics HTTP/1.1\r\nHost:");
        load.during_scrapes(|| {
            for (sent, answered) in [(complete.as_str(), 1), (part, 0), ("", 0)] {
                let mut clients = load.connect_many(100);
                for client in &mut clients {
                    client.send(sent).unwrap();
                    client.stream.end().unwrap();
                }
                for client in &mut clients {
                    let responses = parse_responses(&client.read_to_end(TIMEOUT).unwrap());
                    let ok_count = responses.iter().filter(|it| it.status == 200).count();
                    assert_eq!(ok_count, answered, "{sent:?}");
                }
            }
        });
        load.finish(
            "300 half-closed connections: after, during and before a request",
            16 * MEGABYTE,
            "a response, or closed at once",
        );
    }
}

#[test]
fn two_hundred_concurrent_scrapes_queue() {
    for transport in transports::all() {
        let load = Load::on(transport, "at-once", &[]);
        load.during_scrapes(|| {
            for is_same in [true, false] {
                let clients: Vec<_> = (0..200)
                    .map(|n| {
                        let mut client = load.connect().unwrap();
                        let path = if is_same {
                            SCRAPE.to_owned()
                        } else {
                            let name = |at: usize| COLLECTORS[at % COLLECTORS.len()];
                            let (one, other) = (name(n), name(n / 10 + n + 1));
                            format!("/metrics?collect[]={one}&collect[]={other}&collect[]=loadavg")
                        };
                        thread::spawn(move || client.request(&path, "", TIMEOUT))
                    })
                    .collect();
                for client in clients {
                    let response = client.join().unwrap().unwrap();
                    assert_eq!(response.status, 200);
                    assert!(has_load(&response.body));
                }
            }
        });
        load.finish(
            "200 concurrent scrapes, with one filter and with many",
            64 * MEGABYTE,
            "40 at a time, the others wait",
        );
    }
}

#[test]
fn endless_headers_are_rejected() {
    for transport in transports::all() {
        let load = Load::on(transport, "headers", &[]);
        let endless = format!("GET /metrics HTTP/1.1\r\nX-Large: {}", "x".repeat(4 << 20));
        let many = get("/metrics", &"X-Many: y\r\n".repeat(100_000));
        load.during_scrapes(|| {
            for request in [&endless, &many] {
                for mut client in load.connect_many(50) {
                    // The server closes the connection before it has read everything.
                    let sent = client.send(request);
                    let responses = client.read_to_end(TIMEOUT).map(|it| parse_responses(&it));
                    let statuses: Vec<_> = responses.iter().flatten().map(|it| it.status).collect();
                    assert!(statuses.is_empty() || statuses == [431], "{statuses:?}");
                    assert!(sent.is_err() || !statuses.is_empty() || responses.is_err());
                }
            }
        });
        load.finish(
            "100 requests with 4 MB of one header or 100,000 headers",
            16 * MEGABYTE,
            "status 431 after 64 KB",
        );
    }
}

#[test]
fn request_bodies_are_not_read() {
    for transport in transports::all() {
        let load = Load::on(transport, "bodies", &[]);
        let long = "Content-Length: 1000000000\r\n";
        let parts = "Transfer-Encoding: chunked\r\n";
        let first = |method: &str, headers: &str| {
            let head =
                format!("{method} /metrics?collect[]=loadavg HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            head.into_bytes()
        };
        let chunk_start = [b"fffffff\r\n".as_slice(), &[b'x'; 10_000]].concat();
        let filler = vec![b'x'; 100_000];
        load.during_scrapes(|| {
            for (head, body, status) in [
                (first("GET", long), filler.as_slice(), 200),
                (first("POST", long), &filler, 405),
                (first("PUT", parts), &chunk_start, 405),
                (
                    first("POST", "Expect: 100-continue\r\nContent-Length: 9\r\n"),
                    &[],
                    405,
                ),
            ] {
                for mut client in load.connect_many(25) {
                    client.send(&head).unwrap();
                    // It may have answered and closed the connection.
                    let _result = client.send(body);
                    let mut start = [0; 12];
                    client.tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
                    client.stream.read_exact(&mut start).unwrap();
                    assert_eq!(start, *format!("HTTP/1.1 {status}").as_bytes());
                }
            }
        });
        load.finish(
            "100 requests with bodies of up to 1 GB announced",
            16 * MEGABYTE,
            "response without reading them",
        );
    }
}

/// Deterministic random bytes.
fn noise() -> Vec<u8> {
    let numbers = 0..10_000_u32;
    numbers
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect()
}

/// A TLS `ClientHello`, sent to a port without TLS.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x04\x13\x01\x00\x2f\x01\x00";

#[test]
fn non_http_input_is_closed() {
    for transport in transports::all() {
        let load = Load::on(transport, "nonsense", &[]);
        let noise = noise();
        let zeros = vec![0; 70_000];
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        load.during_scrapes(|| {
            for sent in [
                noise.as_slice(),
                CLIENT_HELLO,
                http2,
                &zeros,
                b"\r\n\r\n\x80\r\n\r\n",
            ] {
                for mut client in load.connect_many(40) {
                    let _result = client.send(sent);
                    let responses = client.read_to_end(TIMEOUT).map(|it| parse_responses(&it));
                    for response in responses.iter().flatten() {
                        assert!(
                            (400..=505).contains(&response.status),
                            "{}",
                            response.status
                        );
                    }
                }
            }
        });
        load.finish(
            "200 clients that send no HTTP, some of it TLS handshakes",
            16 * MEGABYTE,
            "status 400 or closed",
        );
    }
}

#[test]
fn stalled_handshakes_do_not_block_the_scraper() {
    let Some(transport) = transports::over_tls() else {
        return;
    };
    let load = Load::on(transport, "handshakes", &[]);
    let handshakes: Vec<_> = (0..1000)
        .map(|_| {
            let mut tcp = TcpStream::connect(load.program.address).unwrap();
            // It may have been evicted.
            let _result = tcp.write_all(&CLIENT_HELLO[..20]);
            tcp
        })
        .collect();
    load.hold();
    let closed = load.closed("too_many");
    assert!(closed >= 488, "{closed} were closed");
    drop(handshakes);
    load.finish(
        "1,000 handshakes that stop in the first message",
        32 * MEGABYTE,
        "the oldest are closed: `too_many`; closed after 10 s: `slow_request`",
    );
}

#[test]
fn non_tls_input_is_closed() {
    let Some(transport) = transports::over_tls() else {
        return;
    };
    let load = Load::on(transport, "no-tls", &[]);
    let noise = noise();
    // A record of application data before the handshake.
    let early = [b"\x17\x03\x03\x40\x00".as_slice(), &[b'x'; 1 << 14]].concat();
    let plain = get("/metrics", "");
    // A handshake message with a declared length of 16 MB.
    let mut endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec();
    endless.resize(1 << 20, 3);
    load.during_scrapes(|| {
        for sent in [&noise, &early, plain.as_bytes(), CLIENT_HELLO, &endless] {
            let mut clients: Vec<_> = (0..40)
                .map(|_| TcpStream::connect(load.program.address).unwrap())
                .collect();
            for client in &mut clients {
                let _result = client.write_all(sent);
                client.set_read_timeout(Some(TIMEOUT)).unwrap();
                let mut received = Vec::new();
                let ended = client.read_to_end(&mut received);
                let is_over = ended.map_err(|error| error.kind());
                assert!(
                    matches!(is_over, Ok(_) | Err(ErrorKind::ConnectionReset)),
                    "{is_over:?}"
                );
                // A TLS alert, or Go's error for plain HTTP.
                let is_rejected = received.first().is_none_or(|it| *it == 0x15)
                    || received.starts_with(b"HTTP/1.0 400 ");
                assert!(is_rejected, "{received:?}");
            }
        }
    });
    load.finish(
        "200 clients that send no TLS to a TLS port",
        16 * MEGABYTE,
        "an alert, status 400 or closed",
    );
}
