//! Asking an engine over its Unix socket, with bollard.
//!
//! bollard reads an answer to its end whatever its length, and then decodes all of it, so
//! the bound is below it: in the socket, which ends when too much came out of it. Each
//! request has a connection of its own, and what it may take.

use std::{
    collections::HashMap,
    error::Error as _,
    fmt,
    future::{Future, poll_fn},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error, models::EventMessage,
    query_parameters::EventsOptionsBuilder,
};
use futures_core::Stream;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{HOST, HeaderValue},
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    task::AbortHandle,
};

use super::{
    Image, Sizes,
    answers::{self, Event, Inspected, Kept, Listed, Version},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What an answer may take: bytes, and opening braces among them. What is decoded from
/// `{}` takes hundreds of bytes.
#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: u64,
    braces: u64,
}

const SMALL: Limit = Limit {
    bytes: 64 * KIB,
    braces: 1000,
};
const ABOUT: Limit = Limit {
    bytes: MIB,
    braces: 10_000,
};
const INSPECT: Limit = Limit {
    bytes: 4 * MIB,
    braces: 50_000,
};
const LIST: Limit = Limit {
    bytes: 64 * MIB,
    braces: 500_000,
};
/// From one event to the next.
const EVENT: Limit = Limit {
    bytes: MIB,
    braces: 10_000,
};

/// No header is longer.
const MAX_HEAD: usize = 64 * 1024;
/// No reason is longer.
const MAX_REASON: usize = 300;

/// What is followed. Docker has `die`, `destroy` and `delete` where Podman has `died` and
/// `remove`; Podman before 4.4 filters by its own words and yet tells of `die`. What
/// engines tell of a health check's own process is left out: three events for each.
const EVENTS: [&str; 28] = [
    "create",
    "start",
    "die",
    "died",
    "oom",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "destroy",
    "remove",
    "restart",
    "cleanup",
    "sync",
    "commit",
    "reload",
    "pull",
    "tag",
    "untag",
    "delete",
    "import",
    "load",
    "loadfromarchive",
    "build",
    "push",
    "save",
    "prune",
];

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    what: &'static str,
    reason: String,
    /// Whether the engine says that there is no such thing.
    is_absent: bool,
}

impl Failure {
    pub(super) fn new(what: &'static str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        let printable = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self {
            what,
            reason: printable.take(MAX_REASON).collect(),
            is_absent: false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: Arc<Path>,
    /// Before each path: the version of the API that is spoken.
    prefix: String,
    kept: Arc<Kept>,
}

impl Client {
    pub(super) fn new(socket: &Path, kept: Arc<Kept>) -> Self {
        Self {
            socket: socket.into(),
            prefix: String::new(),
            kept,
        }
    }

    /// Speaks this version of the API from now on.
    pub(super) fn speak(&mut self, version: Option<&str>) {
        self.prefix = version
            .map(|version| format!("/v{version}"))
            .unwrap_or_default();
    }

    /// Who is there.
    pub(super) async fn version(&self, within: Duration) -> Result<Version> {
        let talk = self.talk("version", ABOUT)?;
        let answer = talk.within(within, talk.docker.version()).await?;
        Ok(Version::of(answer))
    }

    /// Which driver makes its control groups.
    pub(super) async fn cgroup_driver(&self, within: Duration) -> Result<Option<String>> {
        let talk = self.talk("info", ABOUT)?;
        let answer = talk.get("/info", within).await?;
        talk.read(answers::cgroup_driver(&answer))
    }

    /// Whether it is well.
    pub(super) async fn ping(&self, within: Duration) -> Result<()> {
        let talk = self.talk("ping", SMALL)?;
        talk.within(within, talk.docker.ping()).await?;
        Ok(())
    }

    /// All containers.
    pub(super) async fn containers(&self, within: Duration) -> Result<Vec<Listed>> {
        let talk = self.talk("list of containers", LIST)?;
        let answer = talk.get("/containers/json?all=true", within).await?;
        talk.read(Listed::all(&answer, &self.kept))
    }

    /// One container; nothing if there is none of this id.
    pub(super) async fn container(&self, id: &str, within: Duration) -> Result<Option<Inspected>> {
        let talk = self.talk("container", INSPECT)?;
        let asked = talk.get(&format!("/containers/{id}/json"), within).await;
        let answer = match asked {
            Err(failure) if failure.is_absent => return Ok(None),
            answer => answer?,
        };
        let inspected = talk.read(Inspected::read(&answer, &self.kept))?;
        match inspected.filter(|inspected| inspected.container.id == id) {
            None => Err(Failure::new("container", "the answer does not describe it")),
            inspected => Ok(inspected),
        }
    }

    /// The first images, at most so many.
    pub(super) async fn images(&self, most: usize, within: Duration) -> Result<Vec<Image>> {
        let talk = self.talk("list of images", LIST)?;
        let answer = talk.get("/images/json", within).await?;
        talk.read(answers::images(&answer, most, &self.kept))
    }

    /// Room on disk. It takes long.
    pub(super) async fn sizes(&self, within: Duration) -> Result<Sizes> {
        let talk = self.talk("sizes on disk", LIST)?;
        let asked = Instant::now();
        let answer = talk.get("/system/df?verbose=1", within).await?;
        talk.read(Sizes::read(&answer, asked))
    }

    /// Begins to listen. All that happens from then on is told.
    pub(super) async fn events(&self, within: Duration) -> Result<Events> {
        let talk = self.talk("events", EVENT)?;
        let types = vec!["container", "image", "daemon"];
        let filters = HashMap::from([("type", types), ("event", EVENTS.to_vec())]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let stream = Box::pin(talk.docker.events(Some(options)));
        let mut events = Events {
            first: None,
            stream,
            talk,
        };
        let begun = poll_fn(|cx| match events.stream.as_mut().poll_next(cx) {
            Poll::Ready(first) => Poll::Ready(Some(first)),
            Poll::Pending if events.talk.line.is_answered.load(Ordering::Relaxed) => {
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        });
        match tokio::time::timeout(within, begun).await {
            Ok(None) => Ok(events),
            Ok(Some(Some(Ok(first)))) => {
                events.first = Some(first);
                Ok(events)
            }
            Ok(Some(Some(Err(error)))) => Err(events.talk.failure(&error)),
            Ok(Some(None)) => Err(Failure::new("events", "ended at once")),
            Err(_) => Err(Failure::new("events", "no answer in time")),
        }
    }

    fn talk(&self, what: &'static str, limit: Limit) -> Result<Talk> {
        let line = Arc::new(Line {
            socket: self.socket.to_path_buf(),
            prefix: self.prefix.clone(),
            allowance: Arc::new(Allowance::new(limit)),
            is_answered: AtomicBool::new(false),
            driver: Mutex::default(),
        });
        let over = Arc::clone(&line);
        let transport = move |request| Arc::clone(&over).request(request);
        // Its own time limit is that of the answer's head, in whole seconds; ours is
        // shorter.
        let docker = Docker::connect_with_custom_transport(
            transport,
            Some("http://localhost"),
            3600,
            API_DEFAULT_VERSION,
        )
        .map_err(|error| Failure::new(what, error))?;
        Ok(Talk { what, docker, line })
    }
}

/// What happens, as it is told.
pub(super) struct Events {
    first: Option<EventMessage>,
    stream: Pin<Box<dyn Stream<Item = std::result::Result<EventMessage, Error>> + Send>>,
    talk: Talk,
}

impl Events {
    /// Waits for the next event. Can be given up and begun again.
    pub(super) async fn next(&mut self) -> Result<Event> {
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await,
        };
        match next {
            Some(Ok(event)) => {
                self.talk.line.allowance.renew(EVENT);
                Ok(Event::of(event))
            }
            Some(Err(error)) => Err(self.talk.failure(&error)),
            None => Err(Failure::new("events", "ended")),
        }
    }
}

/// How an engine says what is wrong.
#[derive(Deserialize)]
struct Complaint {
    message: String,
}

/// One request and its answer.
struct Talk {
    what: &'static str,
    docker: Docker,
    line: Arc<Line>,
}

impl Talk {
    async fn within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(time, answer).await {
            Ok(answer) => answer.map_err(|error| self.failure(&error)),
            Err(_) => Err(Failure::new(self.what, "no answer in time")),
        }
    }

    /// Asks for what bollard's models are too strict for, or do not have.
    async fn get(&self, path: &str, within: Duration) -> Result<Bytes> {
        let asked = async {
            let request = Request::get(path).body(bollard::body_full(Bytes::new()))?;
            let answer = Arc::clone(&self.line).request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = self.within(within, asked).await?;
        if status.is_success() {
            return Ok(body);
        }
        let complaint = serde_json::from_slice::<Complaint>(&body).map(|it| it.message);
        let complaint = complaint.unwrap_or_else(|_| {
            let begin = body.get(..MAX_REASON).unwrap_or(&body);
            String::from_utf8_lossy(begin).into_owned()
        });
        let reason = format!("{}: {complaint}", status.as_u16());
        Err(Failure {
            is_absent: status == StatusCode::NOT_FOUND,
            ..Failure::new(self.what, reason)
        })
    }

    fn read<T>(&self, answer: serde_json::Result<T>) -> Result<T> {
        answer.map_err(|error| Failure::new(self.what, error))
    }

    fn failure(&self, error: &Error) -> Failure {
        if self.line.allowance.is_used_up() {
            return Failure::new(self.what, "the answer is too long");
        }
        let mut reason = match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => format!("{status_code}: {message}"),
            Error::IOError { err } => err.to_string(),
            error => error.to_string(),
        };
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !reason.contains(&text) {
                reason += &format!(": {text}");
            }
            cause = error.source();
        }
        Failure::new(self.what, reason)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let mut driver = self
            .line
            .driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // hyper itself would only notice when something arrives, which may be never.
        if let Some(driver) = driver.take() {
            driver.abort();
        }
    }
}

/// The way of one request to the engine.
struct Line {
    socket: PathBuf,
    prefix: String,
    allowance: Arc<Allowance>,
    /// Whether the head of the answer is here.
    is_answered: AtomicBool,
    /// The task that moves the bytes.
    driver: Mutex<Option<AbortHandle>>,
}

impl Line {
    async fn request(
        self: Arc<Self>,
        mut request: BollardRequest,
    ) -> std::result::Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await?;
        let stream = TokioIo::new(Bounded {
            stream,
            allowance: Arc::clone(&self.allowance),
        });
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(stream)
            .await?;
        let driver = tokio::spawn(async move {
            // What goes wrong is told to whoever waits for the answer.
            connection.await.ok();
        });
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver.abort_handle());
        // bollard leaves the version out of the path.
        let path = request.uri().path_and_query();
        let path = path.map(PathAndQuery::as_str).unwrap_or_default();
        let path = match path.split('?').next() {
            Some("/version" | "/_ping") => path.to_owned(),
            _ => format!("{}{path}", self.prefix),
        };
        *request.uri_mut() = Uri::try_from(path)?;
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
        let answer = sender.send_request(request).await?;
        self.is_answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }
}

/// What is left of a limit.
#[derive(Debug)]
struct Allowance {
    bytes: AtomicU64,
    braces: AtomicU64,
    used_up: AtomicBool,
}

impl Allowance {
    fn new(limit: Limit) -> Self {
        Self {
            bytes: limit.bytes.into(),
            braces: limit.braces.into(),
            used_up: AtomicBool::new(false),
        }
    }

    fn renew(&self, limit: Limit) {
        self.bytes.store(limit.bytes, Ordering::Relaxed);
        self.braces.store(limit.braces, Ordering::Relaxed);
    }

    /// Takes for these bytes; whether there was enough.
    fn take(&self, bytes: &[u8]) -> bool {
        let take = |left: &AtomicU64, n: usize| {
            // Nobody else takes, and renewing at the same time is no harm.
            let rest = left.load(Ordering::Relaxed).checked_sub(n as u64);
            left.store(rest.unwrap_or_default(), Ordering::Relaxed);
            rest.is_some()
        };
        #[expect(clippy::naive_bytecount, reason = "no scrape waits for it")]
        let braces = bytes.iter().filter(|byte| **byte == b'{').count();
        let is_enough = take(&self.bytes, bytes.len()) & take(&self.braces, braces);
        if !is_enough {
            self.used_up.store(true, Ordering::Relaxed);
        }
        is_enough
    }

    fn is_used_up(&self) -> bool {
        self.used_up.load(Ordering::Relaxed)
    }
}

/// A socket out of which no more comes than is allowed.
struct Bounded {
    stream: UnixStream,
    allowance: Arc<Allowance>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if !self.allowance.take(read) {
            return Poll::Ready(Err(io::Error::other("too long")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_have_few_bytes_and_few_objects() {
        let limit = Limit {
            bytes: 10,
            braces: 2,
        };
        let allowance = Allowance::new(limit);
        assert!(allowance.take(b"0123456789"));
        assert!(!allowance.is_used_up());
        assert!(!allowance.take(b"0"));
        assert!(allowance.is_used_up());

        let allowance = Allowance::new(limit);
        assert!(allowance.take(b"[{},{}"));
        allowance.renew(limit);
        assert!(allowance.take(b",{},{}"));
        assert!(!allowance.take(b"{"));
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let failure = Failure::new("ping", format!("500: a\nb{}", "x".repeat(1000)));
        let text = failure.to_string();
        assert!(text.starts_with("ping: 500: a bxxx"), "{text}");
        assert_eq!(text.len(), "ping: ".len() + MAX_REASON);
    }
}
