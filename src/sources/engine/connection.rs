//! HTTP client of an engine's Unix socket, based on bollard.
//!
//! bollard reads a response of any length to its end and then decodes all of it. The limit is
//! therefore applied below it: the socket reports its end once too much was read. Each request has
//! a connection and a limit of its own.

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
    EngineDiskUsage, Image,
    api_types::{
        self, EngineEvent, EngineVersion, InspectedContainer, LabelFilter, ListedContainer,
    },
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Maximum size of a response: bytes, and opening braces in them. Decoding `{}` takes hundreds of
/// bytes.
#[derive(Debug, Clone, Copy)]
struct ResponseLimit {
    bytes: u64,
    braces: u64,
}

const PING_LIMIT: ResponseLimit = ResponseLimit {
    bytes: 64 * KIB,
    braces: 1000,
};
const INFO_LIMIT: ResponseLimit = ResponseLimit {
    bytes: MIB,
    braces: 10_000,
};
const INSPECT_LIMIT: ResponseLimit = ResponseLimit {
    bytes: 4 * MIB,
    braces: 50_000,
};
const LIST_LIMIT: ResponseLimit = ResponseLimit {
    bytes: 64 * MIB,
    braces: 500_000,
};
/// Between two events.
const EVENT_LIMIT: ResponseLimit = ResponseLimit {
    bytes: MIB,
    braces: 10_000,
};

/// Maximum length of response headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Maximum length of an error's reason.
const MAX_REASON_LEN: usize = 300;

/// Subscribed events. Docker has `die`, `destroy` and `delete` where Podman has `died` and
/// `remove`; Podman before 4.4 filters by its own names and yet sends `die`. Events of a health
/// check's own process are left out: engines send three for each check.
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

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineError {
    operation: &'static str,
    reason: String,
    /// Whether the engine responded that the object does not exist.
    is_not_found: bool,
}

impl EngineError {
    pub(super) fn new(operation: &'static str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        let printable = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self {
            operation,
            reason: printable.take(MAX_REASON_LEN).collect(),
            is_not_found: false,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.reason)
    }
}

pub(super) type EngineResult<T> = std::result::Result<T, EngineError>;

/// Client of one engine.
#[derive(Debug, Clone)]
pub(super) struct EngineClient {
    socket: Arc<Path>,
    /// Path prefix with the API version.
    prefix: String,
    filter: Arc<LabelFilter>,
}

impl EngineClient {
    pub(super) fn new(socket: &Path, filter: Arc<LabelFilter>) -> Self {
        Self {
            socket: socket.into(),
            prefix: String::new(),
            filter,
        }
    }

    /// Sets the API version of all further requests.
    pub(super) fn set_api_version(&mut self, version: Option<&str>) {
        self.prefix = version
            .map(|version| format!("/v{version}"))
            .unwrap_or_default();
    }

    /// Requests kind and version of the engine.
    pub(super) async fn version(&self, timeout: Duration) -> EngineResult<EngineVersion> {
        let request = self.new_request("version", INFO_LIMIT)?;
        let response = request
            .with_timeout(timeout, request.docker.version())
            .await?;
        Ok(EngineVersion::from_response(response))
    }

    /// Requests the cgroup driver.
    pub(super) async fn cgroup_driver(&self, timeout: Duration) -> EngineResult<Option<String>> {
        let request = self.new_request("info", INFO_LIMIT)?;
        let response = request.get("/info", timeout).await?;
        request.decode(api_types::parse_cgroup_driver(&response))
    }

    /// Checks that the engine responds.
    pub(super) async fn ping(&self, timeout: Duration) -> EngineResult<()> {
        let request = self.new_request("ping", PING_LIMIT)?;
        request.with_timeout(timeout, request.docker.ping()).await?;
        Ok(())
    }

    /// Lists all containers.
    pub(super) async fn containers(&self, timeout: Duration) -> EngineResult<Vec<ListedContainer>> {
        let request = self.new_request("list containers", LIST_LIMIT)?;
        let response = request.get("/containers/json?all=true", timeout).await?;
        request.decode(ListedContainer::parse_list(&response, &self.filter))
    }

    /// Inspects one container; `None` if it does not exist.
    pub(super) async fn container(
        &self,
        id: &str,
        timeout: Duration,
    ) -> EngineResult<Option<InspectedContainer>> {
        let request = self.new_request("inspect container", INSPECT_LIMIT)?;
        let response = request
            .get(&format!("/containers/{id}/json"), timeout)
            .await;
        let response = match response {
            Err(error) if error.is_not_found => return Ok(None),
            response => response?,
        };
        let inspected = request.decode(InspectedContainer::parse(&response, &self.filter))?;
        match inspected.filter(|inspected| inspected.container.id == id) {
            None => Err(EngineError::new(
                "inspect container",
                "response describes another container",
            )),
            inspected => Ok(inspected),
        }
    }

    /// Lists images; at most `max_images` are returned.
    pub(super) async fn images(
        &self,
        max_images: usize,
        timeout: Duration,
    ) -> EngineResult<Vec<Image>> {
        let request = self.new_request("list images", LIST_LIMIT)?;
        let response = request.get("/images/json", timeout).await?;
        request.decode(api_types::parse_images(&response, max_images, &self.filter))
    }

    /// Requests disk usage. This is slow.
    pub(super) async fn disk_usage(&self, timeout: Duration) -> EngineResult<EngineDiskUsage> {
        let request = self.new_request("disk usage", LIST_LIMIT)?;
        let requested_at = Instant::now();
        let response = request.get("/system/df?verbose=1", timeout).await?;
        request.decode(EngineDiskUsage::parse(&response, requested_at))
    }

    /// Opens the event stream. It delivers all events from then on.
    pub(super) async fn events(&self, timeout: Duration) -> EngineResult<EventStream> {
        let request = self.new_request("events", EVENT_LIMIT)?;
        let types = vec!["container", "image", "daemon"];
        let filters = HashMap::from([("type", types), ("event", EVENTS.to_vec())]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let stream = Box::pin(request.docker.events(Some(options)));
        let mut events = EventStream {
            first: None,
            stream,
            request,
        };
        let opened = poll_fn(|cx| match events.stream.as_mut().poll_next(cx) {
            Poll::Ready(first) => Poll::Ready(Some(first)),
            Poll::Pending
                if events
                    .request
                    .transport
                    .headers_received
                    .load(Ordering::Relaxed) =>
            {
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        });
        match tokio::time::timeout(timeout, opened).await {
            Ok(None) => Ok(events),
            Ok(Some(Some(Ok(first)))) => {
                events.first = Some(first);
                Ok(events)
            }
            Ok(Some(Some(Err(error)))) => Err(events.request.engine_error(&error)),
            Ok(Some(None)) => Err(EngineError::new("events", "stream ended at once")),
            Err(_) => Err(EngineError::new("events", "timed out")),
        }
    }

    fn new_request(
        &self,
        operation: &'static str,
        limit: ResponseLimit,
    ) -> EngineResult<EngineRequest> {
        let shared = Arc::new(RequestTransport {
            socket: self.socket.to_path_buf(),
            prefix: self.prefix.clone(),
            budget: Arc::new(ResponseBudget::new(limit)),
            headers_received: AtomicBool::new(false),
            driver: Mutex::default(),
        });
        let transport_handle = Arc::clone(&shared);
        let transport = move |request| Arc::clone(&transport_handle).send(request);
        // bollard's own timeout covers the response headers, in whole seconds; ours is shorter.
        let docker = Docker::connect_with_custom_transport(
            transport,
            Some("http://localhost"),
            3600,
            API_DEFAULT_VERSION,
        )
        .map_err(|error| EngineError::new(operation, error))?;
        Ok(EngineRequest {
            operation,
            docker,
            transport: shared,
        })
    }
}

/// Stream of engine events.
pub(super) struct EventStream {
    first: Option<EventMessage>,
    stream: Pin<Box<dyn Stream<Item = std::result::Result<EventMessage, Error>> + Send>>,
    request: EngineRequest,
}

impl EventStream {
    /// Waits for the next event. Cancel safe.
    pub(super) async fn next(&mut self) -> EngineResult<EngineEvent> {
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await,
        };
        match next {
            Some(Ok(event)) => {
                self.request.transport.budget.reset(EVENT_LIMIT);
                Ok(EngineEvent::from_message(event))
            }
            Some(Err(error)) => Err(self.request.engine_error(&error)),
            None => Err(EngineError::new("events", "stream ended")),
        }
    }
}

/// Error response of an engine.
#[derive(Deserialize)]
struct EngineErrorBody {
    message: String,
}

/// One request and its response.
struct EngineRequest {
    operation: &'static str,
    docker: Docker,
    transport: Arc<RequestTransport>,
}

impl EngineRequest {
    async fn with_timeout<T>(
        &self,
        timeout: Duration,
        response: impl Future<Output = std::result::Result<T, Error>>,
    ) -> EngineResult<T> {
        match tokio::time::timeout(timeout, response).await {
            Ok(response) => response.map_err(|error| self.engine_error(&error)),
            Err(_) => Err(EngineError::new(self.operation, "timed out")),
        }
    }

    /// Requests what bollard's models reject or lack.
    async fn get(&self, path: &str, timeout: Duration) -> EngineResult<Bytes> {
        let exchange = async {
            let request = Request::get(path).body(bollard::body_full(Bytes::new()))?;
            let response = Arc::clone(&self.transport).send(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok((status, body))
        };
        let (status, body) = self.with_timeout(timeout, exchange).await?;
        if status.is_success() {
            return Ok(body);
        }
        let message = serde_json::from_slice::<EngineErrorBody>(&body).map(|body| body.message);
        let message = message.unwrap_or_else(|_| {
            let start = body.get(..MAX_REASON_LEN).unwrap_or(&body);
            String::from_utf8_lossy(start).into_owned()
        });
        let reason = format!("{}: {message}", status.as_u16());
        Err(EngineError {
            is_not_found: status == StatusCode::NOT_FOUND,
            ..EngineError::new(self.operation, reason)
        })
    }

    fn decode<T>(&self, decoded: serde_json::Result<T>) -> EngineResult<T> {
        decoded.map_err(|error| EngineError::new(self.operation, error))
    }

    fn engine_error(&self, error: &Error) -> EngineError {
        if self.transport.budget.is_exhausted() {
            return EngineError::new(self.operation, "response too large");
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
        EngineError::new(self.operation, reason)
    }
}

impl Drop for EngineRequest {
    fn drop(&mut self) {
        let mut driver = self
            .transport
            .driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // hyper notices a dropped response only when more data arrives, which may be never.
        if let Some(driver) = driver.take() {
            driver.abort();
        }
    }
}

/// Transport of one request to the engine.
struct RequestTransport {
    socket: PathBuf,
    prefix: String,
    budget: Arc<ResponseBudget>,
    /// Whether the response headers were received.
    headers_received: AtomicBool,
    /// Task that drives the connection.
    driver: Mutex<Option<AbortHandle>>,
}

impl RequestTransport {
    async fn send(
        self: Arc<Self>,
        mut request: BollardRequest,
    ) -> std::result::Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.socket).await?;
        let stream = TokioIo::new(BoundedStream {
            stream,
            budget: Arc::clone(&self.budget),
        });
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .handshake(stream)
            .await?;
        let driver = tokio::spawn(async move {
            // Errors are returned to the task that waits for the response.
            connection.await.ok();
        });
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver.abort_handle());
        // bollard omits the version from the path.
        let path = request.uri().path_and_query();
        let path = path.map(PathAndQuery::as_str).unwrap_or_default();
        let path = match path.split('?').next() {
            Some("/version" | "/_ping") => path.to_owned(),
            _ => format!("{}{path}", self.prefix),
        };
        *request.uri_mut() = Uri::try_from(path)?;
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
        let response = sender.send_request(request).await?;
        self.headers_received.store(true, Ordering::Relaxed);
        Ok(response)
    }
}

/// What remains of a limit.
#[derive(Debug)]
struct ResponseBudget {
    bytes: AtomicU64,
    braces: AtomicU64,
    exhausted: AtomicBool,
}

impl ResponseBudget {
    fn new(limit: ResponseLimit) -> Self {
        Self {
            bytes: limit.bytes.into(),
            braces: limit.braces.into(),
            exhausted: AtomicBool::new(false),
        }
    }

    fn reset(&self, limit: ResponseLimit) {
        self.bytes.store(limit.bytes, Ordering::Relaxed);
        self.braces.store(limit.braces, Ordering::Relaxed);
    }

    /// Consumes the budget for these bytes; returns whether it sufficed.
    fn consume(&self, bytes: &[u8]) -> bool {
        let take = |remaining: &AtomicU64, n: usize| {
            // There is one consumer, and a concurrent reset does no harm.
            let rest = remaining.load(Ordering::Relaxed).checked_sub(n as u64);
            remaining.store(rest.unwrap_or_default(), Ordering::Relaxed);
            rest.is_some()
        };
        #[expect(clippy::naive_bytecount, reason = "not on the path of a scrape")]
        let braces = bytes.iter().filter(|byte| **byte == b'{').count();
        let is_within = take(&self.bytes, bytes.len()) & take(&self.braces, braces);
        if !is_within {
            self.exhausted.store(true, Ordering::Relaxed);
        }
        is_within
    }

    fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }
}

/// A socket that reports its end once a budget is used up.
struct BoundedStream {
    stream: UnixStream,
    budget: Arc<ResponseBudget>,
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if !self.budget.consume(read) {
            return Poll::Ready(Err(io::Error::other("response too large")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedStream {
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
    fn response_is_limited_in_bytes_and_objects() {
        let limit = ResponseLimit {
            bytes: 10,
            braces: 2,
        };
        let budget = ResponseBudget::new(limit);
        assert!(budget.consume(b"0123456789"));
        assert!(!budget.is_exhausted());
        assert!(!budget.consume(b"0"));
        assert!(budget.is_exhausted());

        let budget = ResponseBudget::new(limit);
        assert!(budget.consume(b"[{},{}"));
        budget.reset(limit);
        assert!(budget.consume(b",{},{}"));
        assert!(!budget.consume(b"{"));
    }

    #[test]
    fn error_reason_is_one_short_line() {
        let error = EngineError::new("ping", format!("500: a\nb{}", "x".repeat(1000)));
        let text = error.to_string();
        assert!(text.starts_with("ping: 500: a bxxx"), "{text}");
        assert_eq!(text.len(), "ping: ".len() + MAX_REASON_LEN);
    }
}
