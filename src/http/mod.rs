//! The HTTP server.

mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gzip;
mod handshake;
mod http2;
mod listener;
mod query;
mod routes;
pub mod web_config;

use std::{
    convert::Infallible,
    future::Future,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use clap::ArgAction;
use http_body_util::Full;
use hyper::{Method, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    signal::unix::Signal,
    sync::{Semaphore, watch},
    time,
};
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::{
    api::Api,
    collector::{Entry, Layer},
    scrape::{Scraper, Workers},
    self_metrics::{HandshakeFailure, SelfMetrics},
    sources::ResourceBudget,
    web_ui::WebUi,
};
use connection::{ConnPermit, Connections, RequestSlot, TrackedStream};
use handshake::PeekedStream;
use http2::ChunkedBody;
use listener::{ListenAddress, Listener, Stream};
use query::CollectorFilter;
use routes::{HttpResponse, Service};
use web_config::WebConfigWatcher;

/// Maximum time for requests to finish during shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before the next attempt if accepting a connection fails, such as without free file
/// descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Interval at which failures to accept are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);
/// More than any scrape request needs. Hyper may read as much again before it checks the limit.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// Flags of the HTTP server.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct WebFlags {
    /// Address to listen on: HOST:PORT, :PORT for all addresses, or unix:PATH. May be repeated.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDRESS",
        default_value = ":9100",
        action = ArgAction::Append
    )]
    listen_addresses: Vec<ListenAddress>,
    /// Path under which metrics are exposed.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        default_value = "/metrics",
        value_parser = parse_telemetry_path
    )]
    telemetry_path: String,
    /// Maximum concurrent requests for metrics, and as many for the JSON API and pages; excess
    /// requests for metrics queue for half their timeout, then get status 503, the others get 503
    /// at once. 0 means no limit.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    max_requests: usize,
    /// Maximum open connections, at most a quarter of the system's limit of open files; for a
    /// further one, the connection that has been idle longest is closed.
    #[arg(long = "web.max-connections", value_name = "N", default_value_t = 512)]
    max_connections: usize,
    /// Exclude metrics about the exporter itself (process_*, promhttp_*, strata_*).
    #[arg(long = "web.disable-exporter-metrics", default_value_t = false, action = ArgAction::Set)]
    disable_exporter_metrics: bool,
    /// Listen on the sockets passed by systemd instead of on addresses.
    #[arg(long = "web.systemd-socket", default_value_t = false, action = ArgAction::Set)]
    systemd_socket: bool,
    /// YAML file that enables TLS, passwords, headers and a rate limit, in the format of
    /// exporter-toolkit.
    #[arg(long = "web.config.file", value_name = "FILE", value_parser = parse_config_file)]
    config_file: Option<ConfigFile>,
}

/// A path, or empty for no file, as in `node_exporter`.
#[derive(Debug, Clone)]
struct ConfigFile(Option<PathBuf>);

// This never fails, but clap expects a result.
#[expect(clippy::unnecessary_wraps)]
fn parse_config_file(path: &str) -> Result<ConfigFile, String> {
    Ok(ConfigFile((!path.is_empty()).then(|| path.into())))
}

impl WebFlags {
    /// The value of `--web.config.file`, if set.
    #[must_use]
    pub fn config_file(&self) -> Option<&Path> {
        self.config_file.as_ref()?.0.as_deref()
    }
}

fn parse_telemetry_path(path: &str) -> Result<String, String> {
    if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err("must start with /".to_owned())
    }
}

/// A server with bound listeners.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    connections: Arc<Connections>,
    shared: Arc<ServerState>,
}

/// State shared by all connections.
#[derive(Debug)]
struct ServerState {
    service: Service,
    /// `None` without a web config file.
    web_config: Option<Arc<WebConfigWatcher>>,
    self_metrics: Arc<SelfMetrics>,
}

impl ServerState {
    /// Responds to a request, unless the web config rejects it.
    async fn respond(&self, request: hyper::Request<Incoming>) -> HttpResponse {
        let Some(web_config) = &self.web_config else {
            return self.service.respond(request).await;
        };
        let mut response = match web_config.authorize(request.headers()).await {
            Ok(()) => self.service.respond(request).await,
            Err(reason) => {
                self.self_metrics.count_rejected(reason);
                routes::rejection(reason)
            }
        };
        web_config.apply_headers(&mut response);
        response
    }
}

impl Server {
    /// Binds the listeners of the flags. Errors are worded for the command line.
    pub async fn bind(
        flags: WebFlags,
        scraper: Arc<Scraper>,
        api: Api,
        collectors: &'static [Entry],
        workers: Workers,
    ) -> Result<Self, String> {
        let self_metrics = Arc::new(SelfMetrics::start());
        let web_config = match flags.config_file() {
            Some(path) => {
                let watcher = WebConfigWatcher::load(path, Arc::clone(&self_metrics))?;
                info!(file = %path.display(), summary = watcher.summary(), "loaded web config");
                Some(Arc::new(watcher))
            }
            None => None,
        };
        let listeners = if flags.systemd_socket {
            Listener::from_systemd()?
        } else {
            let mut listeners = Vec::new();
            for address in &flags.listen_addresses {
                listeners.push(Listener::bind(address).await?);
            }
            listeners
        };
        let budget = ResourceBudget::for_this_process();
        let all = collectors.iter().map(|entry| entry.name);
        let enabled: Vec<(_, Layer)> = scraper.collectors().collect();
        let api = Arc::new(api);
        let web_ui = WebUi::new(
            Arc::clone(&api),
            Arc::clone(&scraper),
            workers.clone(),
            collectors,
            &flags.telemetry_path,
        );
        let service = Service {
            web_ui,
            collector_filter: CollectorFilter::new(all, enabled),
            scraper,
            api,
            api_in_flight: AtomicUsize::new(0),
            workers,
            self_metrics: Arc::clone(&self_metrics),
            telemetry_path: flags.telemetry_path,
            max_requests: NonZeroUsize::new(flags.max_requests),
            scrape_permits: Semaphore::new(
                flags
                    .max_requests
                    .min(budget.concurrent_scrapes)
                    .min(Semaphore::MAX_PERMITS),
            ),
            self_metrics_disabled: flags.disable_exporter_metrics,
        };
        Ok(Self {
            listeners,
            connections: Arc::new(Connections::new(
                flags.max_connections.clamp(1, budget.connections),
                budget.response_buffer_bytes,
                Arc::clone(&self_metrics),
            )),
            shared: Arc::new(ServerState {
                service,
                web_config,
                self_metrics,
            }),
        })
    }

    /// The Unix sockets to remove on shutdown.
    pub fn owned_sockets(&self) -> impl Iterator<Item = &Path> {
        self.listeners.iter().filter_map(Listener::owned_socket)
    }

    /// Reloads the web config at each of these signals.
    pub fn reload_on(&self, mut signal: Signal) {
        let web_config = self.shared.web_config.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if let Some(web_config) = &web_config {
                    web_config.reload().await;
                } else {
                    info!("no web config file to reload");
                }
            }
        });
    }

    /// Serves until `stop` completes, then waits for requests in progress.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut accepting = Vec::new();
        for listener in self.listeners {
            info!(address = %listener, "listening");
            let connections = Arc::clone(&self.connections);
            let shared = Arc::clone(&self.shared);
            accepting.push(tokio::spawn(accept(
                listener,
                connections,
                shared,
                stopped.clone(),
            )));
        }
        drop(stopped);
        stop.await;
        // Fails if all connections are closed already.
        stopping.send(true).ok();
        if time::timeout(DRAIN_TIMEOUT, stopping.closed())
            .await
            .is_err()
        {
            warn!("shutdown timed out with requests in progress");
        }
    }
}

/// Accepts connections until the server stops.
async fn accept(
    listener: Listener,
    connections: Arc<Connections>,
    shared: Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok(stream) => {
                if let Some(permit) = connections.try_acquire() {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(handle_connection(stream, permit, shared, stopped.clone()));
                }
            }
            Err(error) => {
                // Limited, because it may fail for every connection.
                if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    warn!(%error, "cannot accept connection");
                }
                time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Negotiates the protocol of a connection and serves it until it is closed.
async fn handle_connection(
    stream: Stream,
    permit: ConnPermit,
    shared: Arc<ServerState>,
    stopped: watch::Receiver<bool>,
) {
    let permit = Arc::new(permit);
    match &shared.web_config {
        None => serve_http1(stream, &permit, &shared, stopped).await,
        // Boxed, so that plain connections do not reserve the memory that TLS needs.
        Some(web_config) => {
            Box::pin(serve_secured(stream, web_config, &permit, &shared, stopped)).await;
        }
    }
}

async fn serve_secured(
    stream: Stream,
    web_config: &Arc<WebConfigWatcher>,
    permit: &Arc<ConnPermit>,
    shared: &Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
    permit.conn.handshake_started();
    let negotiation = async {
        match web_config.tls().await {
            Some(config) => {
                let stream = handshake::accept_tls(stream, config).await?;
                Ok(NegotiatedStream::Tls(Box::new(stream)))
            }
            None => Ok(NegotiatedStream::Plain(stream)),
        }
    };
    let negotiated = tokio::select! {
        result = negotiation => result,
        reason = permit.conn.wait_for_close() => {
            debug!(?reason, "connection closed during TLS handshake");
            permit.record_close(reason);
            Err(HandshakeFailure::Slow)
        }
        _ = stopped.changed() => return,
    };
    permit.conn.handshake_finished();
    match negotiated {
        Ok(NegotiatedStream::Plain(stream)) => serve_http1(stream, permit, shared, stopped).await,
        Ok(NegotiatedStream::Tls(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(stream, permit, shared, stopped).await;
        }
        Ok(NegotiatedStream::Tls(stream)) => serve_http1(stream, permit, shared, stopped).await,
        Err(reason) => {
            debug!(?reason, "TLS handshake failed");
            shared.self_metrics.count_handshake_failure(reason);
        }
    }
}

/// The negotiated transport.
enum NegotiatedStream {
    Plain(Stream),
    Tls(Box<TlsStream<PeekedStream<Stream>>>),
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    permit: &ConnPermit,
    shared: &ServerState,
    stopped: watch::Receiver<bool>,
) {
    let conn = &permit.conn;
    let response = service_fn(|request: hyper::Request<Incoming>| async {
        conn.request_received();
        let response = shared.respond(request).await;
        conn.response_ready();
        Ok::<_, Infallible>(response.map(|body| Full::new(permit.track_unsent(body))))
    });
    let io = TokioIo::new(TrackedStream::new(stream, Arc::clone(conn)));
    let connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(MAX_HEADER_BYTES)
        // `ConnState` has its own timeouts, which distinguish idle from slow.
        .header_read_timeout(None)
        .serve_connection(io, response);
    let shut_down = |connection: Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
    serve_connection(connection, shut_down, permit, stopped).await;
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    permit: &Arc<ConnPermit>,
    shared: &Arc<ServerState>,
    stopped: watch::Receiver<bool>,
) {
    let (conn_permit, shared) = (Arc::clone(permit), Arc::clone(shared));
    let response = service_fn(move |request: hyper::Request<Incoming>| {
        let slot = RequestSlot::open(&conn_permit.conn);
        let (permit, shared) = (Arc::clone(&conn_permit), Arc::clone(&shared));
        async move {
            let include_body = request.method() != Method::HEAD;
            let response = shared
                .respond(request)
                .await
                .map(|body| permit.track_unsent(body));
            Ok::<_, Infallible>(ChunkedBody::response(response, include_body, slot))
        }
    });
    let connection = http2::builder().serve_connection(TokioIo::new(stream), response);
    let shut_down = |connection: Pin<&mut hyper::server::conn::http2::Connection<_, _, _>>| {
        connection.graceful_shutdown();
    };
    serve_connection(connection, shut_down, permit, stopped).await;
}

/// Serves one connection until it is closed.
async fn serve_connection<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    shut_down: impl Fn(Pin<&mut C>),
    permit: &ConnPermit,
    mut stopped: watch::Receiver<bool>,
) {
    tokio::pin!(connection);
    let overdue = permit.conn.wait_for_close();
    tokio::pin!(overdue);
    let mut draining = false;
    loop {
        tokio::select! {
            // The connection comes first, because its activity changes the deadline.
            biased;
            served = connection.as_mut() => {
                if let Err(error) = served {
                    debug!(%error, "connection failed");
                }
                return;
            }
            reason = overdue.as_mut() => {
                debug!(?reason, "connection closed");
                permit.record_close(reason);
                return;
            }
            _ = stopped.changed(), if !draining => {
                draining = true;
                shut_down(connection.as_mut());
            }
        }
    }
}
