//! Metrics of the exporter itself, exposed in every scrape, filtered or not.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::debug;

use crate::{
    family::Families,
    metric::Desc,
    metrics, sandbox,
    sources::{self, ProcessUsage, ResourceBudget},
};

metrics! {
    /// Version of strata_exporter, always 1.
    BUILD_INFO: Info = "strata_build_info" ["version"];
    /// Stands in for node_exporter's build info, for dashboards that query it; always 1. The labels
    /// identify strata_exporter instead of a Go build.
    NODE_EXPORTER_BUILD_INFO: Info = "node_exporter_build_info" ["branch", "goarch", "goos", "goversion", "revision", "tags", "version"];
    /// Active sandbox restrictions, always 1. landlock: version of the Landlock ABI in force;
    /// seccomp: whether system calls are filtered. off: not in force, whatever --sandbox requests.
    SANDBOX_INFO: Info = "strata_sandbox_info" ["landlock", "seccomp"];
    /// Worker threads for collectors. More than two: collectors are blocked in the kernel, one
    /// thread each.
    WORKER_THREADS: Gauge = "strata_worker_threads" [];
    /// Series in all responses.
    SERIES: Counter = "strata_exposition_series_total" [];
    /// Bytes of all responses before compression.
    BYTES: Counter = "strata_exposition_bytes_total" [];
    /// Bytes of all responses as sent.
    SENT_BYTES: Counter = "strata_exposition_sent_bytes_total" [];
    /// Time spent encoding and compressing responses in seconds, without collecting.
    ENCODE_SECONDS: Counter = "strata_exposition_encode_seconds_total" [];
    /// Open connections to the exporter.
    CONNECTIONS: Gauge = "strata_http_connections" [];
    /// Connections closed by the server, by reason: idle or slow beyond the limits, or evicted at the connection limit.
    CONNECTIONS_CLOSED: Counter = "strata_http_connections_closed_total" ["reason"];
    /// Responses to scrape requests by HTTP status code; named as in the Go client library.
    REQUESTS: Counter = "promhttp_metric_handler_requests_total" ["code"];
    /// Scrape requests in flight, including this one.
    REQUESTS_IN_FLIGHT: Gauge = "promhttp_metric_handler_requests_in_flight" [];
    /// Families and series dropped because of a conflicting name (gathering), and responses that could not be encoded (encoding).
    ERRORS: Counter = "promhttp_metric_handler_errors_total" ["cause"];
    /// Whether the last reload of --web.config.file succeeded; after a failed reload the previous configuration stays in use.
    WEB_CONFIG_SUCCESS: Gauge = "strata_web_config_last_reload_successful" [];
    /// Unix time of the last successful reload of --web.config.file.
    WEB_CONFIG_RELOAD_TIME: Gauge = "strata_web_config_last_reload_success_timestamp_seconds" [];
    /// Unix time at which the served TLS certificate expires.
    CERTIFICATE_EXPIRES: Gauge = "strata_web_config_certificate_expiry_timestamp_seconds" [];
    /// TLS handshakes that failed, by reason: timeout, plain HTTP, client or server certificate rejected, disconnect, or no common protocol.
    TLS_HANDSHAKE_ERRORS: Counter = "strata_tls_handshake_errors_total" ["reason"];
    /// Requests rejected by the web config, by reason: rate limit, missing or wrong credentials, or too many password checks at once.
    REQUESTS_REJECTED: Counter = "strata_web_requests_rejected_total" ["reason"];
    /// User and system CPU time of this process in seconds.
    CPU_SECONDS: Counter = "process_cpu_seconds_total" [];
    /// Open file descriptors of this process.
    OPEN_FDS: Gauge = "process_open_fds" [];
    /// Maximum number of open file descriptors of this process; 18446744073709551615 without a limit.
    MAX_FDS: Gauge = "process_max_fds" [];
    /// Resident memory of this process in bytes.
    RESIDENT_MEMORY: Gauge = "process_resident_memory_bytes" [];
    /// Memory limit of the exporter's own cgroup at the start in bytes; absent without a limit. Below 550 MB the exporter keeps fewer files open, stores fewer samples and serves fewer scrapes at once.
    MEMORY_LIMIT: Gauge = "strata_memory_limit_bytes" [];
    /// Maximum number of cgroup files kept open between scrapes, from the limits on memory and open files; other files are opened in each scrape.
    CGROUP_MAX_OPEN_FILES: Gauge = "strata_cgroup_max_open_files" [];
    /// Unix time at which this process started.
    START_TIME: Gauge = "process_start_time_seconds" [];
    /// Virtual memory of this process in bytes.
    VIRTUAL_MEMORY: Gauge = "process_virtual_memory_bytes" [];
    /// Maximum virtual memory of this process in bytes; 18446744073709551615 without a limit.
    VIRTUAL_MEMORY_MAX: Gauge = "process_virtual_memory_max_bytes" [];
}

/// Number of responses after which all code that scrapes need has run.
const WARMUP_EXPOSITIONS: u64 = 3;
/// Interval between releases of memory that only rare requests needed.
const TRIM_INTERVAL: Duration = Duration::from_secs(3600);

/// The kernel's value for no limit, which `node_exporter` exposes: `RLIM_INFINITY`.
const NO_LIMIT: u64 = u64::MAX;

/// Descriptions of the metrics of the exporter itself.
pub const SELF_METRICS: &[&Desc] = METRICS;

/// Why the server closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseReason {
    /// No request within the idle timeout.
    Idle,
    /// A request was not completed in time.
    SlowRequest,
    /// The client read too slowly, or was evicted to free a slot or buffer memory.
    SlowReader,
    /// Evicted at the connection limit.
    TooManyConnections,
}

impl CloseReason {
    const ALL: [Self; 4] = [
        Self::Idle,
        Self::SlowRequest,
        Self::SlowReader,
        Self::TooManyConnections,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SlowRequest => "slow_request",
            Self::SlowReader => "slow_reader",
            Self::TooManyConnections => "too_many",
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It was not completed in time.
    Slow,
    /// The client sent plain HTTP.
    PlainHttp,
    /// The client's certificate was missing or rejected.
    ClientCertificate,
    /// The client sent an alert, for example because it rejected the server certificate.
    RejectedByClient,
    /// The client disconnected.
    Closed,
    /// No common protocol version or cipher suite.
    Protocol,
}

impl HandshakeFailure {
    const ALL: [Self; 6] = [
        Self::Slow,
        Self::PlainHttp,
        Self::ClientCertificate,
        Self::RejectedByClient,
        Self::Closed,
        Self::Protocol,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::PlainHttp => "plain_http",
            Self::ClientCertificate => "client_certificate",
            Self::RejectedByClient => "by_client",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
        }
    }
}

/// Why a request was rejected by the web config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The rate limit was exceeded.
    RateLimit,
    /// It had no credentials.
    NoPassword,
    /// Its credentials are wrong.
    WrongPassword,
    /// Too many password checks were in progress.
    Busy,
}

impl RejectReason {
    const ALL: [Self; 4] = [
        Self::RateLimit,
        Self::NoPassword,
        Self::WrongPassword,
        Self::Busy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::NoPassword => "no_password",
            Self::WrongPassword => "wrong_password",
            Self::Busy => "busy",
        }
    }
}

/// State of the web config.
#[derive(Debug, Default)]
struct WebConfigMetrics {
    is_current: bool,
    last_reload: Duration,
    /// Only with TLS, in seconds since 1970.
    certificate_expiry: Option<i64>,
    handshake_failures: [u64; HandshakeFailure::ALL.len()],
    rejected: [u64; RejectReason::ALL.len()],
}

/// Counters and gauges of the server.
#[derive(Debug)]
pub struct SelfMetrics {
    started: SystemTime,
    /// Connections that are open.
    pub connections: AtomicUsize,
    connections_closed: Mutex<BTreeMap<CloseReason, u64>>,
    requests: Mutex<BTreeMap<u16, u64>>,
    /// Scrape requests that are being answered.
    pub in_flight: AtomicUsize,
    conflicts: AtomicU64,
    encode_errors: AtomicU64,
    series: AtomicU64,
    bytes: AtomicU64,
    sent_bytes: AtomicU64,
    encode_nanos: AtomicU64,
    /// `None` without a web config.
    web_config: Mutex<Option<WebConfigMetrics>>,
    expositions: AtomicU64,
    last_trim: Mutex<Option<Instant>>,
}

impl SelfMetrics {
    /// Creates the counters.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: SystemTime::now(),
            connections: AtomicUsize::new(0),
            connections_closed: Mutex::default(),
            // Present from the start, so that an increase from 0 is visible to rate().
            requests: Mutex::new([(200, 0), (500, 0), (503, 0)].into()),
            in_flight: AtomicUsize::new(0),
            conflicts: AtomicU64::new(0),
            encode_errors: AtomicU64::new(0),
            series: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            encode_nanos: AtomicU64::new(0),
            web_config: Mutex::default(),
            expositions: AtomicU64::new(0),
            last_trim: Mutex::default(),
        }
    }

    /// Counts a response to a scrape request.
    pub fn count_response(&self, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(status).or_default() += 1;
    }

    /// Counts a connection that the server closed.
    pub fn count_closed(&self, reason: CloseReason) {
        let mut closed = self
            .connections_closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *closed.entry(reason).or_default() += 1;
    }

    /// Records a successful reload of the web config; `certificate_expiry` is in seconds since
    /// 1970.
    pub fn web_config_reloaded(&self, certificate_expiry: Option<i64>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut web_config = self.web_config();
        let web_config = web_config.get_or_insert_default();
        web_config.is_current = true;
        web_config.last_reload = now.unwrap_or_default();
        web_config.certificate_expiry = certificate_expiry;
    }

    /// Records a failed reload of the web config.
    pub fn web_config_reload_failed(&self) {
        self.web_config().get_or_insert_default().is_current = false;
    }

    /// Counts a failed TLS handshake.
    pub fn count_handshake_failure(&self, reason: HandshakeFailure) {
        let mut web_config = self.web_config();
        let counts = &mut web_config.get_or_insert_default().handshake_failures;
        let count = HandshakeFailure::ALL
            .iter()
            .zip(counts)
            .find(|(it, _)| **it == reason);
        if let Some((_, count)) = count {
            *count += 1;
        }
    }

    /// Counts a request rejected by the web config.
    pub fn count_rejected(&self, reason: RejectReason) {
        let mut web_config = self.web_config();
        let counts = &mut web_config.get_or_insert_default().rejected;
        let count = RejectReason::ALL
            .iter()
            .zip(counts)
            .find(|(it, _)| **it == reason);
        if let Some((_, count)) = count {
            *count += 1;
        }
    }

    fn web_config(&self) -> MutexGuard<'_, Option<WebConfigMetrics>> {
        self.web_config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an encoded response and the time spent on it.
    pub fn count_exposition(
        &self,
        series: usize,
        bytes: usize,
        sent: usize,
        conflicts: usize,
        duration: Duration,
    ) {
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.series, series);
        add(&self.bytes, bytes);
        add(&self.sent_bytes, sent);
        add(&self.conflicts, conflicts);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.encode_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Releases memory that only the start needed, after the first few responses, and then every
    /// hour. Must be called after every response, where a millisecond does not matter.
    pub fn trim_memory(&self) {
        let responses = self.expositions.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self
            .last_trim
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_time = last.map_or(responses >= WARMUP_EXPOSITIONS, |last| {
            last.elapsed() >= TRIM_INTERVAL
        });
        if !is_time {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        if let Err(error) = sources::release_memory() {
            debug!(%error, "cannot release unused memory");
        }
    }

    /// Counts a response that could not be encoded.
    pub fn count_encode_error(&self) {
        self.encode_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the metrics of the exporter itself; if they are disabled, only the build info.
    pub fn families(&self, worker_threads: usize, is_disabled: bool) -> Families {
        let mut out = Families::default();
        let version = env!("CARGO_PKG_VERSION");
        out.add(&BUILD_INFO, [version], true);
        let this = concat!("strata_exporter-", env!("CARGO_PKG_VERSION"));
        let arch = std::env::consts::ARCH;
        let labels = ["none", arch, "linux", "none", "none", "rust", this];
        out.add(&NODE_EXPORTER_BUILD_INFO, labels, true);
        if is_disabled {
            return out;
        }
        self.add_server_metrics(&mut out);
        if let Some(sandbox) = sandbox::active() {
            let landlock = sandbox.landlock_label();
            out.add(&SANDBOX_INFO, [&landlock, sandbox.seccomp_label()], true);
        }
        out.add(&WORKER_THREADS, [], worker_threads);
        let budget = ResourceBudget::for_this_process();
        if let Some(limit) = budget.memory_limit {
            out.add(&MEMORY_LIMIT, [], limit);
        }
        out.add(&CGROUP_MAX_OPEN_FILES, [], budget.cgroup_files);
        let usage = ProcessUsage::read();
        if let Some(usage) = out.ok_or_skip(usage) {
            add_process_metrics(&mut out, &usage);
        }
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH);
        out.add(&START_TIME, [], started.unwrap_or_default());
        out
    }

    fn add_server_metrics(&self, out: &mut Families) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (code, count) in &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            out.add(&REQUESTS, [&code.to_string()], *count);
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        out.add(&REQUESTS_IN_FLIGHT, [], in_flight);
        out.add(&ERRORS, ["encoding"], load(&self.encode_errors));
        out.add(&ERRORS, ["gathering"], load(&self.conflicts));
        out.add(&SERIES, [], load(&self.series));
        out.add(&BYTES, [], load(&self.bytes));
        out.add(&SENT_BYTES, [], load(&self.sent_bytes));
        let encode = Duration::from_nanos(load(&self.encode_nanos));
        out.add(&ENCODE_SECONDS, [], encode);
        let connections = self.connections.load(Ordering::Relaxed);
        out.add(&CONNECTIONS, [], connections);
        let closed = self
            .connections_closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for reason in CloseReason::ALL {
            let count = closed.get(&reason).copied().unwrap_or_default();
            out.add(&CONNECTIONS_CLOSED, [reason.name()], count);
        }
        if let Some(web_config) = &*self.web_config() {
            web_config.add_metrics(out);
        }
    }
}

impl WebConfigMetrics {
    fn add_metrics(&self, out: &mut Families) {
        out.add(&WEB_CONFIG_SUCCESS, [], self.is_current);
        out.add(&WEB_CONFIG_RELOAD_TIME, [], self.last_reload);
        if let Some(expires) = self.certificate_expiry {
            out.add(&CERTIFICATE_EXPIRES, [], expires);
            for (reason, count) in HandshakeFailure::ALL.iter().zip(self.handshake_failures) {
                out.add(&TLS_HANDSHAKE_ERRORS, [reason.name()], count);
            }
        }
        for (reason, count) in RejectReason::ALL.iter().zip(self.rejected) {
            out.add(&REQUESTS_REJECTED, [reason.name()], count);
        }
    }
}

fn add_process_metrics(out: &mut Families, usage: &ProcessUsage) {
    out.add(&CPU_SECONDS, [], usage.cpu);
    out.add(&OPEN_FDS, [], usage.fds);
    out.add(&MAX_FDS, [], usage.max_fds.unwrap_or(NO_LIMIT));
    out.add(&RESIDENT_MEMORY, [], usage.resident_memory);
    out.add(&VIRTUAL_MEMORY, [], usage.virtual_memory);
    let max = usage.max_virtual_memory.unwrap_or(NO_LIMIT);
    out.add(&VIRTUAL_MEMORY_MAX, [], max);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposes_counters() {
        let exporter = SelfMetrics::start();
        exporter.count_response(200);
        exporter.count_response(418);
        exporter.count_closed(CloseReason::SlowReader);
        exporter.count_exposition(5, 60, 7, 2, Duration::from_millis(1500));
        let lines = exporter.families(3, false).lines();
        for line in [
            r#"promhttp_metric_handler_requests_total{code="200"} 1"#,
            r#"promhttp_metric_handler_requests_total{code="418"} 1"#,
            r#"promhttp_metric_handler_requests_total{code="503"} 0"#,
            r#"promhttp_metric_handler_errors_total{cause="gathering"} 2"#,
            r#"strata_http_connections_closed_total{reason="slow_reader"} 1"#,
            r#"strata_http_connections_closed_total{reason="idle"} 0"#,
            "strata_exposition_series_total 5",
            "strata_exposition_bytes_total 60",
            "strata_exposition_sent_bytes_total 7",
            "strata_exposition_encode_seconds_total 1.5",
            "strata_worker_threads 3",
        ] {
            assert!(
                lines.iter().any(|l| l == line),
                "{line} is not in {lines:#?}"
            );
        }
    }

    #[test]
    fn disabled_metrics_still_include_build_info() {
        let lines = SelfMetrics::start().families(2, true).lines();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("strata_build_info{version="));
    }
}
