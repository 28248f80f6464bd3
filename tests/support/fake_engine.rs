//! A fake container engine: on a real socket it sends the replies that a test sets, and counts
//! requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::server_process::TempDir;

/// Header of a response that ends with the connection.
pub const RESPONSE_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
/// Header of a chunked response.
const CHUNKED_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// How the engine replies.
#[derive(Clone)]
pub enum Reply {
    /// A response with this status and body.
    Status(u16, String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// This text repeatedly, up to this many bytes.
    Flood(&'static str, u64),
    /// No reply, on a connection that stays open.
    Hang,
    /// The stream of events sent from then on.
    Events,
}

impl Reply {
    pub fn json(body: &Value) -> Self {
        Self::Status(200, body.to_string())
    }

    pub fn raw(text: impl Into<Vec<u8>>) -> Self {
        Self::Raw(text.into())
    }
}

/// A container as the engine describes it.
#[derive(Clone)]
pub struct FakeContainer {
    pub id: String,
    pub name: String,
    pub image: String,
    pub labels: Vec<(String, String)>,
    pub state: &'static str,
    pub pid: u32,
    pub restarts: u64,
    pub exit_code: i64,
    /// The health object, if present.
    pub health: Option<Value>,
    pub restart_policy: &'static str,
}

impl FakeContainer {
    /// A running container, whose ID is this digit 64 times.
    pub fn running(digit: char, name: &str) -> Self {
        Self {
            id: digit.to_string().repeat(64),
            name: name.to_owned(),
            image: "nginx:1.27".to_owned(),
            labels: Vec::new(),
            state: "running",
            pid: 4001,
            restarts: 0,
            exit_code: 0,
            health: None,
            restart_policy: "no",
        }
    }

    fn labels(&self) -> Value {
        self.labels.iter().cloned().collect()
    }

    fn list_json(&self) -> Value {
        json!({
            "Id": self.id, "Names": [format!("/{}", self.name)], "Image": self.image,
            "ImageID": "sha256:11", "Created": 1_795_244_000, "State": self.state,
            "Status": "whatever", "Labels": self.labels(),
            "NetworkSettings": {"Networks": null}, "Mounts": [],
        })
    }

    fn inspect_json(&self) -> Value {
        let mut described = json!({
            "Id": self.id, "Name": format!("/{}", self.name), "Image": "sha256:11",
            "Created": "2026-11-21T06:50:00.5Z", "RestartCount": self.restarts,
            "State": {
                "Status": self.state, "Pid": self.pid, "ExitCode": self.exit_code,
                "StartedAt": "2026-11-21T06:57:09.299047132Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
            },
            "Config": {"Image": self.image, "Labels": self.labels()},
            "HostConfig": {"RestartPolicy": {"Name": self.restart_policy}, "Memory": 0},
        });
        if let Some(health) = &self.health {
            described["State"]["Health"] = health.clone();
        }
        described
    }

    /// The event of this action.
    pub fn event_json(&self, action: &str, attributes: &[(&str, &str)]) -> Value {
        let mut actor = json!({"name": self.name, "image": self.image});
        for (name, value) in attributes {
            actor[*name] = (*value).into();
        }
        json!({
            "Type": "container", "Action": action,
            "Actor": {"ID": self.id, "Attributes": actor},
            "scope": "local", "time": 1_795_244_300, "timeNano": 1_795_244_300_000_000_007_i64,
        })
    }
}

/// State shared with the connections' threads.
#[derive(Default)]
struct FakeEngineState {
    /// By path, without API version and query.
    replies: BTreeMap<String, Reply>,
    /// Paths whose replies are held back until released.
    held_paths: BTreeSet<String>,
    /// Requested paths as received.
    requests: Vec<String>,
    /// Event streams, with the number of the connection.
    event_listeners: Vec<(usize, UnixStream)>,
    connections: usize,
    /// Connections that the client has not closed.
    open_connections: usize,
    /// All accepted connections.
    streams: Vec<UnixStream>,
    /// Bytes of floods that were accepted.
    flooded: u64,
    /// Number of floods that the client aborted.
    aborted_floods: usize,
    is_stopped: bool,
}

#[derive(Default)]
struct SharedState {
    state: Mutex<FakeEngineState>,
    changed: Condvar,
}

impl SharedState {
    fn lock(&self) -> MutexGuard<'_, FakeEngineState> {
        self.state.lock().unwrap()
    }
}

/// A fake engine, stopped when dropped.
pub struct FakeEngine {
    dir: TempDir,
    shared: Arc<SharedState>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl FakeEngine {
    /// Docker 20.10 without containers, listening.
    pub fn docker(test: &str) -> Self {
        let mut engine = Self::not_listening(test);
        engine.listen();
        engine
    }

    /// Docker 20.10 without containers, not listening yet.
    pub fn not_listening(test: &str) -> Self {
        let engine = Self {
            dir: TempDir::new(&format!("fake-{test}")),
            shared: Arc::default(),
            acceptor: None,
        };
        engine.set_version(&json!({
            "Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "MinAPIVersion": "1.12",
            "Components": [{"Name": "Engine", "Version": "20.10.24+dfsg1"}],
        }));
        engine.set_reply("/info", Reply::json(&json!({"CgroupDriver": "cgroupfs"})));
        engine.set_reply("/_ping", Reply::Status(200, "OK".to_owned()));
        engine.set_reply("/images/json", Reply::json(&json!([])));
        engine.set_reply("/events", Reply::Events);
        engine.set_containers(&[]);
        engine
    }

    pub fn set_version(&self, version: &Value) {
        self.set_reply("/version", Reply::json(version));
    }

    /// Sets the reply for a path.
    pub fn set_reply(&self, path: &str, reply: Reply) {
        self.shared.lock().replies.insert(path.to_owned(), reply);
    }

    /// Sets the containers without sending events.
    pub fn set_containers(&self, containers: &[FakeContainer]) {
        let mut state = self.shared.lock();
        state
            .replies
            .retain(|path, _| !path.starts_with("/containers/"));
        for container in containers {
            let path = format!("/containers/{}/json", container.id);
            state
                .replies
                .insert(path, Reply::json(&container.inspect_json()));
        }
        let list = containers.iter().map(FakeContainer::list_json).collect();
        let list = Reply::json(&Value::Array(list));
        state.replies.insert("/containers/json".to_owned(), list);
    }

    /// Holds back replies for this path; when released, the then current reply is sent.
    pub fn hold_replies(&self, path: &str) {
        self.shared.lock().held_paths.insert(path.to_owned());
    }

    pub fn release_replies(&self, path: &str) {
        self.shared.lock().held_paths.remove(path);
        self.shared.changed.notify_all();
    }

    /// Sends an event to all event streams.
    pub fn send_event(&self, event: &Value) {
        self.send_event_bytes(format!("{event}\n").as_bytes());
    }

    pub fn send_event_bytes(&self, bytes: &[u8]) {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        let mut state = self.shared.lock();
        let is_taken = |to: &mut UnixStream| to.write_all(&chunk).is_ok();
        state.event_listeners.retain_mut(|(_, to)| is_taken(to));
    }

    /// Ends all event streams as HTTP specifies.
    pub fn end_events(&self) {
        for (_, mut to) in self.shared.lock().event_listeners.drain(..) {
            let _gone = to.write_all(b"0\r\n\r\n");
        }
    }

    /// Closes all connections.
    pub fn drop_connections(&self) {
        let mut state = self.shared.lock();
        state.event_listeners.clear();
        for connected in state.streams.drain(..) {
            let _gone = connected.shutdown(Shutdown::Both);
        }
    }

    /// Starts or resumes listening.
    pub fn listen(&mut self) {
        let listener = UnixListener::bind(self.socket_path()).unwrap();
        self.shared.lock().is_stopped = false;
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut state = shared.lock();
                if state.is_stopped {
                    return;
                }
                state.streams.push(stream.try_clone().unwrap());
                state.connections += 1;
                state.open_connections += 1;
                let number = state.connections;
                drop(state);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    serve(number, &stream, &shared);
                    let mut state = shared.lock();
                    state.open_connections -= 1;
                    state.event_listeners.retain(|(it, _)| *it != number);
                });
            }
        }));
    }

    /// Stops listening and removes the socket.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.shared.lock().is_stopped = true;
        self.shared.changed.notify_all();
        let woken = UnixStream::connect(self.socket_path());
        fs::remove_file(self.socket_path()).unwrap();
        self.drop_connections();
        acceptor.join().unwrap();
        drop(woken);
    }

    pub fn socket_path(&self) -> PathBuf {
        self.dir.0.join("sock")
    }

    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// Requests so far, as received.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// Number of requests for this path so far.
    pub fn request_count(&self, path: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|it| strip_version_and_query(it) == path)
            .count()
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open_connections
    }

    /// Number of event streams.
    pub fn event_listener_count(&self) -> usize {
        self.shared.lock().event_listeners.len()
    }

    /// Bytes of floods that were accepted, and the number of aborted floods.
    pub fn flooded(&self) -> (u64, usize) {
        let state = self.shared.lock();
        (state.flooded, state.aborted_floods)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The path without API version and query.
fn strip_version_and_query(path: &str) -> &str {
    let path = path.split('?').next().unwrap();
    match path.strip_prefix("/v1.") {
        Some(versioned) => versioned.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => path,
    }
}

/// Serves one connection until it ends.
fn serve(number: usize, mut stream: &UnixStream, shared: &SharedState) {
    while let Some(path) = read_request_path(stream) {
        let route = strip_version_and_query(&path).to_owned();
        let mut state = shared.lock();
        state.requests.push(path);
        let reply = state.replies.get(&route).cloned();
        if matches!(reply, Some(Reply::Events)) {
            if stream.write_all(CHUNKED_HEAD.as_bytes()).is_ok() {
                state
                    .event_listeners
                    .push((number, stream.try_clone().unwrap()));
            }
            continue;
        }
        while state.held_paths.contains(&route) && !state.is_stopped {
            state = shared.changed.wait(state).unwrap();
        }
        drop(state);
        let (status, body) = match reply {
            Some(Reply::Status(status, body)) => (status, body),
            Some(Reply::Raw(bytes)) => {
                let _gone = stream.write_all(&bytes);
                let _gone = stream.shutdown(Shutdown::Both);
                return;
            }
            Some(Reply::Flood(text, limit)) => return send_flood(stream, shared, text, limit),
            Some(Reply::Hang | Reply::Events) => continue,
            None => (404, json!({"message": "not found"}).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status} It\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _gone = stream.write_all(format!("{head}{body}").as_bytes());
    }
}

/// Reads the head of a request and returns its path. Requests of the exporter have no body.
fn read_request_path(mut stream: &UnixStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    Some(head.split(' ').nth(1).unwrap().to_owned())
}

fn send_flood(mut stream: &UnixStream, shared: &SharedState, text: &str, limit: u64) {
    let piece = text.repeat(65_536_usize.div_ceil(text.len()));
    // Does not wait for a client that neither reads nor disconnects.
    stream
        .set_write_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut sent = 0;
    let mut rest = RESPONSE_HEAD.as_bytes();
    while sent < limit {
        let Ok(written) = stream.write(rest) else {
            shared.lock().aborted_floods += 1;
            return;
        };
        sent += written as u64;
        shared.lock().flooded += written as u64;
        rest = &rest[written..];
        if rest.is_empty() {
            rest = piece.as_bytes();
        }
    }
}
