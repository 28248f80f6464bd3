//! Many clients that request too much, read too slowly or send nothing. Meanwhile every scrape must
//! succeed, memory must stay within a bound, and afterwards the exporter must return to its initial
//! state.
//!
//! Each test is one case, on every transport. With `STRATA_LOAD_TABLE=FILE` it appends its row to
//! the table for `docs/operations/load.md`.

mod roads;

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
use roads::{Road, Wire};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Scrape timeout, also sent in the scraper's header.
const DEADLINE: Duration = Duration::from_secs(10);
/// Timeout of every client except the scraper.
const PATIENCE: Duration = Duration::from_secs(60);
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
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Wire {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads to the end, or for this time.
    fn rest(&mut self, limit: Duration) -> io::Result<Vec<u8>> {
        let (started, mut all) = (Instant::now(), Vec::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.tcp.set_read_timeout(Some(left))?;
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
        match self.rest(PATIENCE) {
            Ok(_) => true,
            Err(error) => matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
        }
    }

    /// Response to a request with `Connection: close`.
    fn ask(&mut self, path: &str, headers: &str, limit: Duration) -> io::Result<Answer> {
        self.send(get(path, &format!("Connection: close\r\n{headers}")))?;
        let answers = answers(&self.rest(limit)?);
        let nothing = || io::Error::new(ErrorKind::UnexpectedEof, "no answer");
        answers.into_iter().next().ok_or_else(nothing)
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// All complete responses in these bytes.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
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
        all.push(Answer {
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
    road: &'static Road,
    before: State,
    scraper: Option<JoinHandle<Scrapes>>,
    /// Number of scrapes.
    came: Arc<AtomicU32>,
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
    fn on(road: &'static Road, case: &str, flags: &[&str]) -> Self {
        allow_many_files();
        let page = TempDir::new(&format!("load-{case}-{}", road.name));
        let label = "x".repeat(64 << 10);
        let lines = (0..LARGE >> 16).map(|n| format!("large{{n=\"{n}\",x=\"{label}\"}} {n}\n"));
        fs::write(page.0.join("large.prom"), lines.collect::<String>()).unwrap();
        let mut line = vec![
            "--collector.disable-defaults".to_owned(),
            "--collector.textfile".to_owned(),
            format!("--collector.textfile.directory={}", page.0.display()),
        ];
        line.extend(COLLECTORS.iter().map(|it| format!("--collector.{it}")));
        line.extend((road.flags)(&page.0));
        line.extend(flags.iter().map(ToString::to_string));
        let answer = |program: &ServerProcess, path: &str| {
            let mut wire = (road.connect)(program.address)?;
            wire.ask(path, "", PATIENCE)
        };
        let program =
            ServerProcess::start_and_wait_for(exporter_command().args(line), &page.0, |program| {
                answer(program, "/-/healthy").is_ok()
            });
        // Resources allocated by the first scrapes do not count.
        for _ in 0..5 {
            assert_eq!(answer(&program, SCRAPE).unwrap().status, 200);
        }
        // Resets the peak resident memory.
        fs::write(format!("/proc/{}/clear_refs", program.pid()), "5").unwrap();
        let before = wait_until("idle connections end", || {
            let state = State::of(program.pid());
            (connections(&program, road) <= 1).then_some(state)
        });
        let mut load = Self {
            program,
            road,
            before,
            scraper: None,
            came: Arc::default(),
            is_over: Arc::default(),
            _page: page,
        };
        load.scraper = Some(load.start_scraper());
        load
    }

    /// Scrapes repeatedly until the end of the test.
    fn start_scraper(&self) -> JoinHandle<Scrapes> {
        let (address, connect) = (self.program.address, self.road.connect);
        let (is_over, came) = (Arc::clone(&self.is_over), Arc::clone(&self.came));
        thread::spawn(move || {
            let mut scrapes = Scrapes::default();
            let seconds = DEADLINE.as_secs();
            let says = format!("X-Prometheus-Scrape-Timeout-Seconds: {seconds}\r\n");
            while !is_over.load(Ordering::SeqCst) {
                let started = Instant::now();
                let answer = connect(address).and_then(|mut it| it.ask(SCRAPE, &says, DEADLINE));
                scrapes.count = came.fetch_add(1, Ordering::SeqCst) + 1;
                scrapes.slowest = scrapes.slowest.max(started.elapsed());
                match answer {
                    Ok(answer) if answer.status == 200 && says_load(&answer.body) => {}
                    Ok(answer) => scrapes.failed.push(format!("status {}", answer.status)),
                    Err(error) => scrapes.failed.push(error.to_string()),
                }
                thread::sleep(Duration::from_millis(50));
            }
            scrapes
        })
    }

    fn connect(&self) -> io::Result<Wire> {
        let wire = (self.road.connect)(self.program.address)?;
        wire.tcp.set_write_timeout(Some(PATIENCE))?;
        Ok(wire)
    }

    fn many(&self, number: usize) -> Vec<Wire> {
        (0..number).map(|_| self.connect().unwrap()).collect()
    }

    /// Value of one of the exporter's own series.
    fn value(&self, series: &str) -> u64 {
        value(&self.program, self.road, series)
    }

    /// Connections closed by the server for this reason.
    fn closed(&self, reason: &str) -> u64 {
        self.value(&format!(
            "strata_http_connections_closed_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Repeats an action until ten more scrapes were done.
    fn meanwhile(&self, mut again: impl FnMut()) {
        let before = self.came.load(Ordering::SeqCst);
        let started = Instant::now();
        while self.came.load(Ordering::SeqCst) < before + 10 {
            assert!(
                started.elapsed() < 2 * PATIENCE,
                "the scraper does not come"
            );
            again();
        }
    }

    /// Keeps the current state for ten scrapes.
    fn stay(&self) {
        self.meanwhile(|| thread::sleep(Duration::from_millis(10)));
    }

    /// After all clients have gone: every scrape succeeded, and resources are back to their initial
    /// values.
    fn over(mut self, case: &str, most: u64, said: &str) {
        self.is_over.store(true, Ordering::SeqCst);
        let scrapes = self.scraper.take().unwrap().join().unwrap();
        assert!(scrapes.failed.is_empty(), "{case}: {:?}", scrapes.failed);
        assert!(scrapes.count >= 10, "{case}: {} scrapes", scrapes.count);
        let before = self.before;
        let mut after = before;
        let back = (0..600).any(|_| {
            thread::sleep(Duration::from_millis(100));
            after = State::of(self.program.pid());
            after.threads <= before.threads && after.fds <= before.fds
        });
        assert!(back, "{case}: {before:?}, and after it {after:?}");
        let more = after.peak.saturating_sub(before.peak);
        assert!(more <= most, "{case}: {} MB more", more / MEGABYTE);
        let Some(table) = std::env::var_os("STRATA_LOAD_TABLE") else {
            return;
        };
        let row = format!(
            "| {case}{} | {} of {} | {:.0} ms | {} MB | {} MB | {said} |\n",
            self.road.said,
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

fn says_load(body: &[u8]) -> bool {
    body.windows(12).any(|it| it == b"\nnode_load1 ")
}

fn value(program: &ServerProcess, road: &Road, series: &str) -> u64 {
    let answer = (road.connect)(program.address)
        .and_then(|mut it| it.ask("/metrics?collect[]=loadavg", "", PATIENCE));
    let text = String::from_utf8(answer.unwrap().body).unwrap();
    let line = text
        .lines()
        .find_map(|it| it.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}"))
        .parse()
        .unwrap()
}

fn connections(program: &ServerProcess, road: &Road) -> u64 {
    value(program, road, "strata_http_connections")
}

impl State {
    fn of(pid: u32) -> Self {
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
    let wanted = maximum.unwrap_or(20_000).min(20_000);
    if current.is_some_and(|current| current < wanted) {
        let limit = Rlimit {
            current: Some(wanted),
            maximum,
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    assert!(wanted >= 4096, "needs 4096 open files (ulimit -n)");
}

#[test]
fn thousand_idle_connections_do_not_block_the_scraper() {
    for road in roads::all() {
        let load = Load::on(road, "idle", &[]);
        let idle = load.many(1000);
        load.stay();
        let (open, closed) = (
            load.value("strata_http_connections"),
            load.closed("too_many"),
        );
        assert!(open <= 512, "{open} are open");
        // Of 1,000 connections and the scraper's at most 512 are open.
        assert!(closed >= 488, "{closed} were closed");
        drop(idle);
        load.over(
            "1,000 idle connections",
            32 * MEGABYTE,
            "the oldest make room: `too_many`",
        );
    }
}

#[test]
fn requests_sent_byte_by_byte_are_closed() {
    for road in roads::all() {
        let load = Load::on(road, "bytes", &[]);
        let mut slow = load.many(200);
        let mut request = get("/metrics", &"X-Filler: y\r\n".repeat(20)).into_bytes();
        request.truncate(200);
        let started = Instant::now();
        for byte in request {
            let mut alive = 0;
            for client in &mut slow {
                alive += usize::from(client.send([byte]).is_ok());
            }
            if alive == 0 || started.elapsed() > PATIENCE {
                break;
            }
            thread::sleep(Duration::from_millis(250));
        }
        assert_eq!(load.closed("slow_request"), 200);
        assert!(slow.iter_mut().all(Wire::is_closed));
        drop(slow);
        load.over(
            "200 requests, a byte each 250 ms",
            16 * MEGABYTE,
            "ended after 10 s: `slow_request`",
        );
    }
}

/// Clients with a small receive window that request a large page and do not read it.
fn slow_readers(load: &Load, number: usize) -> Vec<Wire> {
    let begin = || {
        let mut client = load.connect().ok()?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.tcp, 4096).ok()?;
        client.tcp.set_read_timeout(Some(PATIENCE)).ok()?;
        client.send(get("/metrics?collect[]=textfile", "")).ok()?;
        // Its response has started, so the number of concurrent requests stays within the limit.
        client.stream.read_exact(&mut [0; 8]).ok()?;
        Some(client)
    };
    // With few connections allowed, the scraper may evict it before its request.
    (0..number)
        .map(|_| wait_until("an answer", begin))
        .collect()
}

#[test]
fn unread_responses_do_not_fill_memory() {
    for road in roads::all() {
        let load = Load::on(road, "readers", &[]);
        let slow = slow_readers(&load, 20);
        load.stay();
        // At most five responses of 12 MB are buffered at a time.
        let closed = load.closed("slow_reader");
        assert!(closed >= 15, "{closed} were closed");
        drop(slow);
        load.over(
            "20 clients that do not take their 12 MB",
            160 * MEGABYTE,
            "the oldest give way beyond 64 MB: `slow_reader`",
        );
    }
}

#[test]
fn slow_readers_do_not_occupy_all_connections() {
    for road in roads::all() {
        let load = Load::on(road, "places", &["--web.max-connections=4"]);
        let mut slow = slow_readers(&load, 4);
        for _ in 0..20 {
            for client in &mut slow {
                // Evicted connections are closed.
                let _gone = client.stream.read(&mut [0]);
            }
            thread::sleep(Duration::from_millis(50));
        }
        load.stay();
        assert!(load.closed("slow_reader") >= 1);
        drop(slow);
        load.over(
            "4 such on 4 places, a byte each 50 ms",
            160 * MEGABYTE,
            "the oldest makes room: `slow_reader`",
        );
    }
}

/// Requests a large page over HTTP/2 and waits for its response to start, without reading it.
fn ask_in_vain(client: &mut Wire, stream: u8, authority: &str) -> io::Result<()> {
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
        let [_, one, other, kind, .., of] = head;
        let mut payload = vec![0; u16::from_be_bytes([one, other]).into()];
        client.stream.read_exact(&mut payload)?;
        if (kind, of) == (0x1, stream) {
            return Ok(());
        }
    }
}

#[test]
fn unread_http2_responses_do_not_fill_memory() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 0x4, 0, 0, 0, 0, 0];
    let Some(road) = roads::over_tls() else {
        return;
    };
    let load = Load::on(road, "streams", &[]);
    let address = load.program.address;
    let slow = [0; 2].map(|_| {
        let mut client = roads::http2(address).unwrap();
        client.tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send([PREFACE, EMPTY_SETTINGS].concat()).unwrap();
        // Client streams have odd numbers.
        let mut streams = (1..32).step_by(2);
        let error = streams.find_map(|at| ask_in_vain(&mut client, at, &address.to_string()).err());
        (client, error)
    });
    for (_, error) in &slow {
        assert!(error.is_some(), "one holds 16 times 12 MB");
    }
    load.stay();
    assert!(load.closed("slow_reader") >= 2);
    drop(slow);
    load.over(
        "2 clients that do not take 16 times 12 MB each over HTTP/2",
        160 * MEGABYTE,
        "the oldest give way beyond 64 MB, and who holds them alone: `slow_reader`",
    );
}

#[test]
fn pipelined_requests_are_all_answered() {
    const ROW: usize = 100;
    for road in roads::all() {
        let load = Load::on(road, "row", &[]);
        load.meanwhile(|| {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let mut client = load.connect().unwrap();
                    let mut row = get("/metrics?collect[]=loadavg", "").repeat(ROW - 1);
                    row += &get("/metrics?collect[]=loadavg", "Connection: close\r\n");
                    thread::spawn(move || {
                        client.send(row)?;
                        client.rest(PATIENCE)
                    })
                })
                .collect();
            for client in clients {
                let answers = answers(&client.join().unwrap().unwrap());
                assert_eq!(answers.len(), ROW);
                assert!(
                    answers
                        .iter()
                        .all(|it| it.status == 200 && says_load(&it.body))
                );
            }
        });
        load.over(
            "20 clients, 100 requests in a row each",
            32 * MEGABYTE,
            "each is answered",
        );
    }
}

#[test]
fn pipeline_is_not_read_while_responses_are_unread() {
    for road in roads::all() {
        let load = Load::on(road, "deaf", &[]);
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
        load.stay();
        drop(clients);
        load.over(
            "10 clients that send up to 64 MB of requests and read nothing",
            200 * MEGABYTE,
            "not read on until an answer was taken",
        );
    }
}

#[test]
fn half_closed_clients_are_answered_or_closed() {
    for road in roads::all() {
        let load = Load::on(road, "half", &[]);
        let (whole, part) = (get("/-/healthy", ""), "GET /metrics HTTP/1.1\r\nHost:");
        load.meanwhile(|| {
            for (said, answered) in [(whole.as_str(), 1), (part, 0), ("", 0)] {
                let mut clients = load.many(100);
                for client in &mut clients {
                    client.send(said).unwrap();
                    client.stream.end().unwrap();
                }
                for client in &mut clients {
                    let answers = answers(&client.rest(PATIENCE).unwrap());
                    let well = answers.iter().filter(|it| it.status == 200).count();
                    assert_eq!(well, answered, "{said:?}");
                }
            }
        });
        load.over(
            "300 half-closed connections: after a request, in one, before one",
            16 * MEGABYTE,
            "answered, or closed at once",
        );
    }
}

#[test]
fn two_hundred_concurrent_scrapes_queue() {
    for road in roads::all() {
        let load = Load::on(road, "at-once", &[]);
        load.meanwhile(|| {
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
                        thread::spawn(move || client.ask(&path, "", PATIENCE))
                    })
                    .collect();
                for client in clients {
                    let answer = client.join().unwrap().unwrap();
                    assert_eq!(answer.status, 200);
                    assert!(says_load(&answer.body));
                }
            }
        });
        load.over(
            "200 scrapes at once, with one filter and with many",
            64 * MEGABYTE,
            "40 at a time, the others wait",
        );
    }
}

#[test]
fn endless_headers_are_rejected() {
    for road in roads::all() {
        let load = Load::on(road, "headers", &[]);
        let endless = format!("GET /metrics HTTP/1.1\r\nX-Large: {}", "x".repeat(4 << 20));
        let many = get("/metrics", &"X-Many: y\r\n".repeat(100_000));
        load.meanwhile(|| {
            for request in [&endless, &many] {
                for mut client in load.many(50) {
                    // The server closes the connection before it has read everything.
                    let sent = client.send(request);
                    let answers = client.rest(PATIENCE).map(|it| answers(&it));
                    let statuses: Vec<_> = answers.iter().flatten().map(|it| it.status).collect();
                    assert!(statuses.is_empty() || statuses == [431], "{statuses:?}");
                    assert!(sent.is_err() || !statuses.is_empty() || answers.is_err());
                }
            }
        });
        load.over(
            "100 requests with 4 MB of one header or 100,000 headers",
            16 * MEGABYTE,
            "status 431 after 64 KB",
        );
    }
}

#[test]
fn request_bodies_are_not_read() {
    for road in roads::all() {
        let load = Load::on(road, "bodies", &[]);
        let long = "Content-Length: 1000000000\r\n";
        let parts = "Transfer-Encoding: chunked\r\n";
        let first = |method: &str, headers: &str| {
            let head =
                format!("{method} /metrics?collect[]=loadavg HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            head.into_bytes()
        };
        let begun = [b"fffffff\r\n".as_slice(), &[b'x'; 10_000]].concat();
        let filler = vec![b'x'; 100_000];
        load.meanwhile(|| {
            for (head, body, status) in [
                (first("GET", long), filler.as_slice(), 200),
                (first("POST", long), &filler, 405),
                (first("PUT", parts), &begun, 405),
                (
                    first("POST", "Expect: 100-continue\r\nContent-Length: 9\r\n"),
                    &[],
                    405,
                ),
            ] {
                for mut client in load.many(25) {
                    client.send(&head).unwrap();
                    // It may have answered and closed the connection.
                    let _heard = client.send(body);
                    let mut start = [0; 12];
                    client.tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                    client.stream.read_exact(&mut start).unwrap();
                    assert_eq!(start, *format!("HTTP/1.1 {status}").as_bytes());
                }
            }
        });
        load.over(
            "100 requests with bodies of up to 1 GB announced",
            16 * MEGABYTE,
            "answered without them",
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
    for road in roads::all() {
        let load = Load::on(road, "nonsense", &[]);
        let noise = noise();
        let zeros = vec![0; 70_000];
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        load.meanwhile(|| {
            for said in [
                noise.as_slice(),
                CLIENT_HELLO,
                http2,
                &zeros,
                b"\r\n\r\n\x80\r\n\r\n",
            ] {
                for mut client in load.many(40) {
                    let _heard = client.send(said);
                    let answers = client.rest(PATIENCE).map(|it| answers(&it));
                    for answer in answers.iter().flatten() {
                        assert!((400..=505).contains(&answer.status), "{}", answer.status);
                    }
                }
            }
        });
        load.over(
            "200 clients that speak no HTTP, TLS's first words among it",
            16 * MEGABYTE,
            "status 400 or closed",
        );
    }
}

#[test]
fn stalled_handshakes_do_not_block_the_scraper() {
    let Some(road) = roads::over_tls() else {
        return;
    };
    let load = Load::on(road, "handshakes", &[]);
    let begun: Vec<_> = (0..1000)
        .map(|_| {
            let mut tcp = TcpStream::connect(load.program.address).unwrap();
            // It may have been evicted.
            let _heard = tcp.write_all(&CLIENT_HELLO[..20]);
            tcp
        })
        .collect();
    load.stay();
    let closed = load.closed("too_many");
    assert!(closed >= 488, "{closed} were closed");
    drop(begun);
    load.over(
        "1,000 handshakes that stop in the first message",
        32 * MEGABYTE,
        "the oldest make room: `too_many`; ended after 10 s: `slow_request`",
    );
}

#[test]
fn non_tls_input_is_closed() {
    let Some(road) = roads::over_tls() else {
        return;
    };
    let load = Load::on(road, "no-tls", &[]);
    let noise = noise();
    // A record of application data before the handshake.
    let early = [b"\x17\x03\x03\x40\x00".as_slice(), &[b'x'; 1 << 14]].concat();
    let plain = get("/metrics", "");
    // A handshake message with a declared length of 16 MB.
    let mut endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec();
    endless.resize(1 << 20, 3);
    load.meanwhile(|| {
        for said in [&noise, &early, plain.as_bytes(), CLIENT_HELLO, &endless] {
            let mut clients: Vec<_> = (0..40)
                .map(|_| TcpStream::connect(load.program.address).unwrap())
                .collect();
            for client in &mut clients {
                let _heard = client.write_all(said);
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut heard = Vec::new();
                let ended = client.read_to_end(&mut heard);
                let is_over = ended.map_err(|error| error.kind());
                assert!(
                    matches!(is_over, Ok(_) | Err(ErrorKind::ConnectionReset)),
                    "{is_over:?}"
                );
                // A TLS alert, or Go's error for plain HTTP.
                let is_told = heard.first().is_none_or(|it| *it == 0x15)
                    || heard.starts_with(b"HTTP/1.0 400 ");
                assert!(is_told, "{heard:?}");
            }
        }
    });
    load.over(
        "200 clients that speak no TLS to a port for it",
        16 * MEGABYTE,
        "an alert, status 400 or closed",
    );
}
