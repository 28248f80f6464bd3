//! A container engine that is made up: on a real socket it answers what a test says, and
//! counts what it is asked.

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

use super::live::Scratch;

/// What begins an answer whose end is the end of the connection.
pub const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
/// What begins an answer in pieces.
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// How the engine answers.
#[derive(Clone)]
pub enum Reply {
    /// With this status and body.
    Status(u16, String),
    /// With these bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// With this over and over, as many bytes as are taken up to so many.
    Flood(&'static str, u64),
    /// Not at all, and the connection stays open.
    Silence,
    /// With what is told from then on.
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
pub struct Made {
    pub id: String,
    pub name: String,
    pub image: String,
    pub labels: Vec<(String, String)>,
    pub state: &'static str,
    pub pid: u32,
    pub restarts: u64,
    pub exit_code: i64,
    /// What is said of its health, if anything.
    pub health: Option<Value>,
    pub restart_policy: &'static str,
}

impl Made {
    /// One that runs. Its id is this digit, 64 times.
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

    fn listed(&self) -> Value {
        json!({
            "Id": self.id, "Names": [format!("/{}", self.name)], "Image": self.image,
            "ImageID": "sha256:11", "Created": 1_795_244_000, "State": self.state,
            "Status": "whatever", "Labels": self.labels(),
            "NetworkSettings": {"Networks": null}, "Mounts": [],
        })
    }

    fn described(&self) -> Value {
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

    /// What is told when this happens to it.
    pub fn event(&self, action: &str, attributes: &[(&str, &str)]) -> Value {
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

/// What a running engine says and hears.
#[derive(Default)]
struct Said {
    /// By path, without the version of the API and the query.
    replies: BTreeMap<String, Reply>,
    /// Paths that are not answered until they are let go.
    held: BTreeSet<String>,
    /// What was asked, as it came.
    requests: Vec<String>,
    /// Whoever listens for events, and the number of the connection.
    listeners: Vec<(usize, UnixStream)>,
    connections: usize,
    /// Connections that the other side has not ended.
    open: usize,
    /// All that were ever connected.
    connected: Vec<UnixStream>,
    /// Bytes of floods that were taken.
    flooded: u64,
    /// How often somebody went away in the middle of a flood.
    turned_away: usize,
    is_over: bool,
}

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap()
    }
}

/// The engine. It ends with the test.
pub struct FakeEngine {
    dir: Scratch,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl FakeEngine {
    /// Docker 20.10 without any container, listening.
    pub fn docker(test: &str) -> Self {
        let mut engine = Self::absent(test);
        engine.listen();
        engine
    }

    /// The same, before it listens for the first time.
    pub fn absent(test: &str) -> Self {
        let engine = Self {
            dir: Scratch::new(&format!("fake-{test}")),
            shared: Arc::default(),
            acceptor: None,
        };
        engine.is_version(&json!({
            "Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "MinAPIVersion": "1.12",
            "Components": [{"Name": "Engine", "Version": "20.10.24+dfsg1"}],
        }));
        engine.answers("/info", Reply::json(&json!({"CgroupDriver": "cgroupfs"})));
        engine.answers("/_ping", Reply::Status(200, "OK".to_owned()));
        engine.answers("/images/json", Reply::json(&json!([])));
        engine.answers("/events", Reply::Events);
        engine.has(&[]);
        engine
    }

    pub fn is_version(&self, version: &Value) {
        self.answers("/version", Reply::json(version));
    }

    /// Answers so from now on.
    pub fn answers(&self, path: &str, reply: Reply) {
        self.shared.said().replies.insert(path.to_owned(), reply);
    }

    /// Has these containers from now on, and tells nobody.
    pub fn has(&self, containers: &[Made]) {
        let mut said = self.shared.said();
        said.replies
            .retain(|path, _| !path.starts_with("/containers/"));
        for container in containers {
            let path = format!("/containers/{}/json", container.id);
            said.replies
                .insert(path, Reply::json(&container.described()));
        }
        let list = containers.iter().map(Made::listed).collect();
        let list = Reply::json(&Value::Array(list));
        said.replies.insert("/containers/json".to_owned(), list);
    }

    /// Lets whoever asks for this wait for the answer that there is at that moment.
    pub fn hold(&self, path: &str) {
        self.shared.said().held.insert(path.to_owned());
    }

    pub fn let_go(&self, path: &str) {
        self.shared.said().held.remove(path);
        self.shared.changed.notify_all();
    }

    /// Tells everybody who listens.
    pub fn tell(&self, event: &Value) {
        self.tell_bytes(format!("{event}\n").as_bytes());
    }

    pub fn tell_bytes(&self, bytes: &[u8]) {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        let mut said = self.shared.said();
        let is_taken = |to: &mut UnixStream| to.write_all(&chunk).is_ok();
        said.listeners.retain_mut(|(_, to)| is_taken(to));
    }

    /// Ends all streams of events as HTTP would have it.
    pub fn end_events(&self) {
        for (_, mut to) in self.shared.said().listeners.drain(..) {
            let _gone = to.write_all(b"0\r\n\r\n");
        }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        let mut said = self.shared.said();
        said.listeners.clear();
        for connected in said.connected.drain(..) {
            let _gone = connected.shutdown(Shutdown::Both);
        }
    }

    /// Begins to listen, at first or again.
    pub fn listen(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        self.shared.said().is_over = false;
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut said = shared.said();
                if said.is_over {
                    return;
                }
                said.connected.push(stream.try_clone().unwrap());
                said.connections += 1;
                said.open += 1;
                let number = said.connections;
                drop(said);
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    serve(number, &stream, &shared);
                    let mut said = shared.said();
                    said.open -= 1;
                    said.listeners.retain(|(of, _)| *of != number);
                });
            }
        }));
    }

    /// Goes away: the socket too.
    pub fn go(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        self.shared.said().is_over = true;
        self.shared.changed.notify_all();
        let woken = UnixStream::connect(self.path());
        fs::remove_file(self.path()).unwrap();
        self.cut();
        acceptor.join().unwrap();
        drop(woken);
    }

    pub fn path(&self) -> PathBuf {
        self.dir.0.join("sock")
    }

    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// What was asked so far, as it came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.said().requests.clone()
    }

    /// How often this was asked so far.
    pub fn asked(&self, path: &str) -> usize {
        let requests = self.requests();
        requests.iter().filter(|it| route(it) == path).count()
    }

    /// How many connections there are.
    pub fn open(&self) -> usize {
        self.shared.said().open
    }

    /// How many listen for events.
    pub fn listeners(&self) -> usize {
        self.shared.said().listeners.len()
    }

    /// Bytes of floods that were taken, and how often somebody went away meanwhile.
    pub fn flooded(&self) -> (u64, usize) {
        let said = self.shared.said();
        (said.flooded, said.turned_away)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.go();
    }
}

/// The path without the version of the API and the query.
fn route(path: &str) -> &str {
    let path = path.split('?').next().unwrap();
    match path.strip_prefix("/v1.") {
        Some(versioned) => versioned.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => path,
    }
}

/// Answers on one connection for as long as it lasts.
fn serve(number: usize, mut stream: &UnixStream, shared: &Shared) {
    while let Some(path) = request(stream) {
        let route = route(&path).to_owned();
        let mut said = shared.said();
        said.requests.push(path);
        let reply = said.replies.get(&route).cloned();
        if matches!(reply, Some(Reply::Events)) {
            if stream.write_all(CHUNKED.as_bytes()).is_ok() {
                said.listeners.push((number, stream.try_clone().unwrap()));
            }
            continue;
        }
        while said.held.contains(&route) && !said.is_over {
            said = shared.changed.wait(said).unwrap();
        }
        drop(said);
        let (status, body) = match reply {
            Some(Reply::Status(status, body)) => (status, body),
            Some(Reply::Raw(bytes)) => {
                let _gone = stream.write_all(&bytes);
                let _gone = stream.shutdown(Shutdown::Both);
                return;
            }
            Some(Reply::Flood(text, most)) => return flood(stream, shared, text, most),
            Some(Reply::Silence | Reply::Events) => continue,
            None => (404, json!({"message": "no such thing"}).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status} It\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let _gone = stream.write_all(format!("{head}{body}").as_bytes());
    }
}

/// Reads the head of a request; its path. None of those that come has a body.
fn request(mut stream: &UnixStream) -> Option<String> {
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

fn flood(mut stream: &UnixStream, shared: &Shared, text: &str, most: u64) {
    let piece = text.repeat(65_536_usize.div_ceil(text.len()));
    // Who neither reads nor hangs up is not waited for.
    stream
        .set_write_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut taken = 0;
    let mut rest = HEAD.as_bytes();
    while taken < most {
        let Ok(written) = stream.write(rest) else {
            shared.said().turned_away += 1;
            return;
        };
        taken += written as u64;
        shared.said().flooded += written as u64;
        rest = &rest[written..];
        if rest.is_empty() {
            rest = piece.as_bytes();
        }
    }
}
