//! A fake libvirtd for tests, on a real socket, modelled on the observed behaviour of the real
//! one.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::AtomicUsize, atomic::Ordering},
    thread,
    time::Duration,
};

use super::wire::{self, Message, MessageType, NamedObject, XdrEncoder, procedure};

#[derive(Debug, Clone)]
pub(super) struct FakeDomain {
    pub(super) name: Vec<u8>,
    pub(super) id: i32,
    /// Whether its monitor does not respond.
    pub(super) is_hung: bool,
    /// How many statistics replies are partial because the domain is busy with another job.
    pub(super) busy_replies: usize,
    pub(super) title: String,
}

/// How the daemon responds to a request.
#[derive(Debug, Clone)]
pub(super) enum ReplyAction {
    Normal,
    Error(i32),
    /// These bytes instead of a message.
    Raw(Vec<u8>),
    /// A reply with this body.
    Reply(Vec<u8>),
    /// A reply whose body is truncated to this length.
    Truncated(usize),
    NoReply,
}

/// A received request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReceivedCall {
    /// Number of the connection.
    pub(super) connection: usize,
    pub(super) procedure: u32,
    pub(super) body: Vec<u8>,
}

/// Groups that need no monitor.
const QUICK_GROUPS: u32 = 0b1_0001;

type DecideFn = Box<dyn FnMut(&ReceivedCall) -> ReplyAction + Send>;

#[derive(Default)]
pub(super) struct FakeState {
    pub(super) domains: Vec<FakeDomain>,
    pub(super) pools: Vec<Vec<u8>>,
    pub(super) networks: Vec<Vec<u8>>,
    pub(super) driver: &'static str,
    pub(super) auths: Vec<u32>,
    /// Whether the daemon does not respond at all.
    pub(super) is_hung: bool,
    pub(super) decide: Option<DecideFn>,
    /// Delay of each reply.
    pub(super) reply_delay: Duration,
    pub(super) received: Vec<ReceivedCall>,
    pub(super) pongs: usize,
    /// Requests without a reply, by connection: now, and the maximum.
    pub(super) outstanding: HashMap<usize, usize>,
    pub(super) max_outstanding: HashMap<usize, usize>,
    /// Requests that wait for a hung domain to resume: connection, serial, name.
    suspended: Vec<(usize, u32, Vec<u8>)>,
    streams: HashMap<usize, UnixStream>,
}

impl FakeState {
    pub(super) fn domain(&mut self, name: &str) -> &mut FakeDomain {
        let mut domains = self.domains.iter_mut();
        domains
            .find(|domain| domain.name == name.as_bytes())
            .unwrap()
    }

    pub(super) fn calls_to(&self, procedure: u32) -> usize {
        self.received
            .iter()
            .filter(|call| call.procedure == procedure)
            .count()
    }

    fn domain_in_body<'a>(&'a self, body: &[u8]) -> Option<&'a FakeDomain> {
        let mut domains = self.domains.iter();
        domains.find(|domain| {
            let uuid = uuid(&domain.name);
            body.windows(16).any(|bytes| bytes == uuid)
        })
    }

    fn reply(
        &mut self,
        connection: usize,
        serial: u32,
        procedure: u32,
        is_error: bool,
        body: &[u8],
    ) {
        let message = Message {
            program: wire::REMOTE_PROGRAM,
            procedure,
            kind: MessageType::Reply,
            serial,
            is_error,
            body,
        };
        self.write(connection, &message.encode());
        *self.outstanding.get_mut(&connection).unwrap() -= 1;
    }

    fn write(&mut self, connection: usize, bytes: &[u8]) {
        // The client may have disconnected.
        if let Some(stream) = self.streams.get_mut(&connection) {
            stream.write_all(bytes).ok();
        }
    }
}

pub(super) struct FakeLibvirt {
    pub(super) socket: PathBuf,
    shared: Arc<FakeShared>,
}

struct FakeShared {
    state: Mutex<FakeState>,
    changed: Condvar,
    is_over: Mutex<bool>,
    connections: AtomicUsize,
}

impl FakeLibvirt {
    /// Starts a daemon with these domains, all running.
    pub(super) fn start(socket: &Path, domains: &[&str]) -> Self {
        let domains = domains.iter().zip(1..).map(|(name, id)| FakeDomain {
            name: name.as_bytes().to_vec(),
            id,
            is_hung: false,
            busy_replies: 0,
            title: format!("title of {name}"),
        });
        let state = FakeState {
            domains: domains.collect(),
            driver: "QEMU",
            auths: vec![0],
            ..FakeState::default()
        };
        let shared = Arc::new(FakeShared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_over: Mutex::new(false),
            connections: AtomicUsize::new(0),
        });
        let listener = UnixListener::bind(socket).unwrap();
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if *server.is_over.lock().unwrap() {
                    return;
                }
                let stream = stream.unwrap();
                let connection = server.connections.fetch_add(1, Ordering::SeqCst);
                let mut state = server.state.lock().unwrap();
                state
                    .streams
                    .insert(connection, stream.try_clone().unwrap());
                state.outstanding.insert(connection, 0);
                let server = Arc::clone(&server);
                thread::spawn(move || serve_connection(&server, connection, stream));
            }
        });
        Self {
            socket: socket.to_owned(),
            shared,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.shared.state.lock().unwrap()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Sets a handler that decides how requests are answered.
    pub(super) fn set_handler(
        &self,
        decide: impl FnMut(&ReceivedCall) -> ReplyAction + Send + 'static,
    ) {
        self.state().decide = Some(Box::new(decide));
    }

    /// Suspends or resumes the daemon.
    pub(super) fn hang(&self, is_hung: bool) {
        self.state().is_hung = is_hung;
        self.shared.changed.notify_all();
    }

    /// Resumes a hung domain.
    pub(super) fn resume_domain(&self, name: &str) {
        let mut state = self.state();
        state.domain(name).is_hung = false;
        let suspended = std::mem::take(&mut state.suspended);
        for (connection, serial, domain) in suspended {
            if domain == name.as_bytes() {
                let domain = state.domain(name).clone();
                let body = encode_stats_records(&[&domain], false);
                state.reply(
                    connection,
                    serial,
                    procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS,
                    false,
                    &body,
                );
            } else {
                state.suspended.push((connection, serial, domain));
            }
        }
    }

    /// Sends a message on the first connection.
    pub(super) fn send_message(&self, program: u32, procedure: u32, body: &[u8]) {
        let message = Message {
            program,
            procedure,
            kind: MessageType::Event,
            serial: 0,
            is_error: false,
            body,
        };
        self.state().write(0, &message.encode());
    }

    /// Sends an event about a domain; `rest` follows the domain in the body.
    pub(super) fn send_event(&self, procedure: u32, name: &str, rest: &[u8]) {
        let domain = self.state().domain(name).clone();
        let mut body = put_fake_domain(XdrEncoder::default().put_u32(7), &domain).into_bytes();
        body.extend(rest);
        self.send_message(wire::REMOTE_PROGRAM, procedure, &body);
    }

    /// Waits until the condition holds.
    pub(super) fn wait_until(&self, predicate: impl Fn(&FakeState) -> bool) {
        for _ in 0..2000 {
            if predicate(&self.state()) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("condition never met: {:?}", self.state().received);
    }
}

impl Drop for FakeLibvirt {
    fn drop(&mut self) {
        *self.shared.is_over.lock().unwrap() = true;
        self.hang(false);
        std::fs::remove_file(&self.socket).ok();
        for stream in self.state().streams.values() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// A UUID derived from a name.
pub(super) fn uuid(name: &[u8]) -> [u8; 16] {
    let mut uuid = [0xa5; 16];
    for (byte, character) in uuid.iter_mut().zip(name.iter().rev()) {
        *byte = *character;
    }
    uuid
}

fn serve_connection(shared: &Arc<FakeShared>, connection: usize, mut stream: UnixStream) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut state = shared.state.lock().unwrap();
        while state.is_hung {
            state = shared.changed.wait(state).unwrap();
        }
        drop(state);
        while let Some((message, rest)) = Message::parse(&bytes).unwrap() {
            handle_message(shared, connection, &message);
            bytes = rest.to_vec();
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    shared.state.lock().unwrap().streams.remove(&connection);
}

fn handle_message(shared: &Arc<FakeShared>, connection: usize, message: &Message<'_>) {
    let mut state = shared.state.lock().unwrap();
    if message.program == wire::KEEPALIVE_PROGRAM {
        assert_eq!(
            (message.procedure, message.kind),
            (wire::KEEPALIVE_PROC_PONG, MessageType::Event)
        );
        state.pongs += 1;
        return;
    }
    assert_eq!(
        (message.program, message.kind),
        (wire::REMOTE_PROGRAM, MessageType::Call)
    );
    let (procedure, serial) = (message.procedure, message.serial);
    let call = ReceivedCall {
        connection,
        procedure,
        body: message.body.to_vec(),
    };
    state.received.push(call.clone());
    let outstanding = state.outstanding.get_mut(&connection).unwrap();
    *outstanding += 1;
    let outstanding = *outstanding;
    let maximum = state.max_outstanding.entry(connection).or_default();
    *maximum = outstanding.max(*maximum);
    let action = match &mut state.decide {
        Some(decide) => decide(&call),
        None => ReplyAction::Normal,
    };
    let (is_error, body) = match action {
        ReplyAction::NoReply => return,
        ReplyAction::Raw(bytes) => return state.write(connection, &bytes),
        ReplyAction::Reply(body) => (false, body),
        ReplyAction::Error(code) => (true, encode_error(code)),
        action => {
            let Some(mut body) = normal_reply(&mut state, &call, serial) else {
                return;
            };
            if let ReplyAction::Truncated(length) = action {
                body.truncate(length);
            }
            (false, body)
        }
    };
    if state.reply_delay.is_zero() {
        return state.reply(connection, serial, procedure, is_error, &body);
    }
    let (delay, shared) = (state.reply_delay, Arc::clone(shared));
    thread::spawn(move || {
        thread::sleep(delay);
        let mut state = shared.state.lock().unwrap();
        state.reply(connection, serial, procedure, is_error, &body);
    });
}

fn encode_error(code: i32) -> Vec<u8> {
    let body = XdrEncoder::default()
        .put_u32(code.cast_unsigned())
        .put_u32(7);
    body.put_optional_string(b"access\ndenied")
        .put_u32(2)
        .into_bytes()
}

fn normal_reply(state: &mut FakeState, call: &ReceivedCall, serial: u32) -> Option<Vec<u8>> {
    let body = XdrEncoder::default();
    let length = |length: usize| u32::try_from(length).unwrap();
    Some(match call.procedure {
        procedure::REMOTE_PROC_AUTH_LIST => {
            let body = body.put_u32(length(state.auths.len()));
            state
                .auths
                .iter()
                .fold(body, |body, auth| body.put_u32(*auth))
                .into_bytes()
        }
        procedure::REMOTE_PROC_AUTH_POLKIT => body.put_u32(1).into_bytes(),
        procedure::REMOTE_PROC_CONNECT_OPEN => Vec::new(),
        procedure::REMOTE_PROC_CONNECT_GET_TYPE => {
            body.put_string(state.driver.as_bytes()).into_bytes()
        }
        procedure::REMOTE_PROC_CONNECT_GET_VERSION => 7_002_022_u64.to_be_bytes().to_vec(),
        procedure::REMOTE_PROC_CONNECT_GET_LIB_VERSION => 9_000_000_u64.to_be_bytes().to_vec(),
        procedure::REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY => {
            body.put_u32(7).into_bytes()
        }
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS => {
            let domains = state.domains.iter();
            let body = domains.fold(body.put_u32(length(state.domains.len())), put_fake_domain);
            body.put_u32(1).into_bytes()
        }
        procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS => {
            let mut requested = Vec::new();
            let tail = call.body.get(4..).unwrap();
            for domain in &mut state.domains {
                let uuid = uuid(&domain.name);
                if tail.windows(16).any(|bytes| bytes == uuid) {
                    requested.push(domain.clone());
                    domain.busy_replies = domain.busy_replies.saturating_sub(1);
                }
            }
            if let [domain] = requested.as_slice()
                && domain.is_hung
                && requested_groups(&call.body) & !QUICK_GROUPS != 0
            {
                let is_suspended = state
                    .suspended
                    .iter()
                    .any(|(_, _, name)| *name == domain.name);
                if !is_suspended {
                    state
                        .suspended
                        .push((call.connection, serial, domain.name.clone()));
                    return None;
                }
            }
            let requested: Vec<_> = requested.iter().collect();
            let is_quick = requested_groups(&call.body) & !QUICK_GROUPS == 0;
            encode_stats_records(&requested, is_quick)
        }
        procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC => {
            let domain = state.domain_in_body(&call.body)?;
            let xml = format!("<domain><title>{}</title></domain>", domain.title);
            body.put_string(xml.as_bytes()).into_bytes()
        }
        procedure::REMOTE_PROC_DOMAIN_GET_INFO => {
            let domain = state.domain_in_body(&call.body)?;
            let body = body.put_u32(if domain.id < 0 { 5 } else { 1 });
            let mut bytes = body.into_bytes();
            bytes.extend(2048_u64.to_be_bytes());
            bytes.extend(1024_u64.to_be_bytes());
            bytes.extend(3_u32.to_be_bytes());
            bytes.extend(5_000_000_000_u64.to_be_bytes());
            bytes
        }
        procedure::REMOTE_PROC_DOMAIN_GET_STATE => body.put_u32(1).put_u32(9).into_bytes(),
        procedure::REMOTE_PROC_DOMAIN_GET_JOB_INFO => {
            let mut bytes = body.put_u32(2).into_bytes();
            for number in 1..=11_u64 {
                bytes.extend((number * 1000).to_be_bytes());
            }
            bytes
        }
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_STORAGE_POOLS => encode_objects(&state.pools),
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_NETWORKS => encode_objects(&state.networks),
        procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO => {
            let is_off = call.body.windows(3).any(|bytes| bytes == b"off");
            let mut bytes = body.put_u32(if is_off { 0 } else { 2 }).into_bytes();
            for number in [30_u64, 10, 20] {
                bytes.extend(number.to_be_bytes());
            }
            bytes
        }
        procedure::REMOTE_PROC_NETWORK_IS_ACTIVE => {
            let is_off = call.body.windows(3).any(|bytes| bytes == b"off");
            body.put_u32((!is_off).into()).into_bytes()
        }
        procedure::REMOTE_PROC_NETWORK_GET_BRIDGE_NAME => body.put_string(b"virbr0").into_bytes(),
        procedure => panic!("unexpected procedure {procedure}"),
    })
}

/// Returns the requested groups.
pub(super) fn requested_groups(body: &[u8]) -> u32 {
    let [.., a, b, c, d, _, _, _, _] = body else {
        return 0;
    };
    u32::from_be_bytes([*a, *b, *c, *d])
}

fn put_fake_domain(body: XdrEncoder, domain: &FakeDomain) -> XdrEncoder {
    let body = body.put_named_object(&domain.name, &uuid(&domain.name));
    body.put_u32(domain.id.cast_unsigned())
}

fn encode_objects(names: &[Vec<u8>]) -> Vec<u8> {
    let objects = names.iter().map(|name| NamedObject {
        name: name.clone(),
        uuid: uuid(name),
    });
    let body = XdrEncoder::default().put_u32(u32::try_from(names.len()).unwrap());
    let add =
        |body: XdrEncoder, object: NamedObject| body.put_named_object(&object.name, &object.uuid);
    objects.fold(body, add).put_u32(1).into_bytes()
}

pub(super) fn encode_stats_records(domains: &[&FakeDomain], is_quick: bool) -> Vec<u8> {
    let body = XdrEncoder::default().put_u32(u32::try_from(domains.len()).unwrap());
    let body = domains.iter().fold(body, |body, domain| {
        let is_active = domain.id >= 0;
        let state: u32 = if is_active { 1 } else { 5 };
        let mut params = vec![("state.state", 1, u64::from(state)), ("state.reason", 1, 1)];
        if !is_quick {
            // libvirt 9 also returns this for domains that do not run.
            params.extend([("cpu.time", 4, 7_000_000_000)]);
            params.extend([("balloon.maximum", 4, 2048), ("balloon.current", 4, 1024)]);
            params.extend([("block.count", 2, 1)]);
            if is_active && !domain.is_hung && domain.busy_replies == 0 {
                params.extend([("balloon.rss", 4, 512), ("block.0.rd.reqs", 4, 11)]);
            }
        }
        let strings = if is_quick { 0 } else { 2 };
        let count = u32::try_from(params.len() + strings).unwrap();
        let mut body = put_fake_domain(body, domain).put_u32(count);
        for (name, kind, value) in params {
            body = body.put_string(name.as_bytes()).put_u32(kind);
            let [high, low] =
                [value >> 32, value & 0xffff_ffff].map(|half| u32::try_from(half).unwrap());
            if kind == 4 {
                body = body.put_u32(high);
            }
            body = body.put_u32(low);
        }
        if strings > 0 {
            body = body
                .put_string(b"block.0.name")
                .put_u32(7)
                .put_string(b"vda");
            body = body
                .put_string(b"block.0.path")
                .put_u32(7)
                .put_string(b"/a");
        }
        body
    });
    body.into_bytes()
}
