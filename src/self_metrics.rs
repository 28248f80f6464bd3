//! What the exporter says about itself in every answer, filtered or not.

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
    /// Which exporter this is: always 1.
    BUILD_INFO: Info = "strata_build_info" ["version"];
    /// What stands in node_exporter's place here, for boards that ask for it: always 1. The labels say that this is strata_exporter, and no Go.
    NODE_EXPORTER_BUILD_INFO: Info = "node_exporter_build_info" ["branch", "goarch", "goos", "goversion", "revision", "tags", "version"];
    /// What the exporter gave up by --sandbox, if anything: always 1. The labels say which version of Landlock restricts it, and whether a filter of system calls does; off where one is not in force, whatever the flag says.
    SANDBOX_INFO: Info = "strata_sandbox_info" ["landlock", "seccomp"];
    /// Threads that collectors run on. More than two were needed because something hung; each thing that still hangs holds one.
    WORKER_THREADS: Gauge = "strata_worker_threads" [];
    /// Series in all answers so far.
    SERIES: Counter = "strata_exposition_series_total" [];
    /// Bytes of all answers so far, before compression.
    BYTES: Counter = "strata_exposition_bytes_total" [];
    /// Bytes of all answers so far, as they were sent.
    SENT_BYTES: Counter = "strata_exposition_sent_bytes_total" [];
    /// Time spent on writing answers down and compressing them, without collecting.
    ENCODE_SECONDS: Counter = "strata_exposition_encode_seconds_total" [];
    /// Connections to the exporter that are open now.
    CONNECTIONS: Gauge = "strata_http_connections" [];
    /// Connections closed by the server, by reason: idle or slow beyond the limits, or evicted at the connection limit.
    CONNECTIONS_CLOSED: Counter = "strata_http_connections_closed_total" ["reason"];
    /// Requests for metrics that were answered, by HTTP status code; named as by the Go client library.
    REQUESTS: Counter = "promhttp_metric_handler_requests_total" ["code"];
    /// Requests for metrics that are being answered, including this one.
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

/// The answers after which all code that scrapes need has been run.
const WARMUP_EXPOSITIONS: u64 = 3;
/// How often what only rare requests needed is given back.
const TRIM_INTERVAL: Duration = Duration::from_secs(3600);

/// How the kernel, and so `node_exporter`, says that there is none: `RLIM_INFINITY`.
const NO_LIMIT: u64 = u64::MAX;

/// What the exporter exposes about itself.
pub const SELF_METRICS: &[&Desc] = METRICS;

/// Why a connection was closed unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CloseReason {
    /// Nothing was asked for too long.
    Idle,
    /// A request did not come to its end.
    SlowRequest,
    /// An answer was not taken in time, or before others needed its place or its memory.
    SlowReader,
    /// Others needed the place.
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

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It did not come to its end.
    Slow,
    /// The client spoke HTTP.
    PlainHttp,
    /// The client had no certificate that is taken.
    ClientCertificate,
    /// The client refused, such as for our certificate.
    RejectedByClient,
    /// The client went away.
    Closed,
    /// The two have nothing in common.
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

/// Why the web config refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// There were too many.
    RateLimit,
    /// It had no name and password.
    NoPassword,
    /// Name and password are nobody's.
    WrongPassword,
    /// Too many passwords are being checked.
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

/// What became of the web config.
#[derive(Debug, Default)]
struct WebConfigMetrics {
    is_current: bool,
    last_reload: Duration,
    /// With TLS only, in seconds since 1970.
    certificate_expiry: Option<i64>,
    handshake_failures: [u64; HandshakeFailure::ALL.len()],
    rejected: [u64; RejectReason::ALL.len()],
}

/// What is counted while serving.
#[derive(Debug)]
pub struct SelfMetrics {
    started: SystemTime,
    /// Connections that are open.
    pub connections: AtomicUsize,
    connections_closed: Mutex<BTreeMap<CloseReason, u64>>,
    requests: Mutex<BTreeMap<u16, u64>>,
    /// Requests for metrics that are being answered.
    pub in_flight: AtomicUsize,
    conflicts: AtomicU64,
    encode_errors: AtomicU64,
    series: AtomicU64,
    bytes: AtomicU64,
    sent_bytes: AtomicU64,
    encode_nanos: AtomicU64,
    /// None without one.
    web_config: Mutex<Option<WebConfigMetrics>>,
    expositions: AtomicU64,
    last_trim: Mutex<Option<Instant>>,
}

impl SelfMetrics {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: SystemTime::now(),
            connections: AtomicUsize::new(0),
            connections_closed: Mutex::default(),
            // There from the start, so that the first one is seen to count.
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

    /// Counts an answer to a request for metrics.
    pub fn count_response(&self, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(status).or_default() += 1;
    }

    /// Counts a connection that was closed unasked.
    pub fn count_closed(&self, reason: CloseReason) {
        let mut closed = self
            .connections_closed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *closed.entry(reason).or_default() += 1;
    }

    /// Says that the web config was read and is served with; `expires` is the end of its
    /// certificate, in seconds since 1970.
    pub fn web_config_reloaded(&self, certificate_expiry: Option<i64>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut web_config = self.web_config();
        let web_config = web_config.get_or_insert_default();
        web_config.is_current = true;
        web_config.last_reload = now.unwrap_or_default();
        web_config.certificate_expiry = certificate_expiry;
    }

    /// Says that the web config was changed to something wrong.
    pub fn web_config_reload_failed(&self) {
        self.web_config().get_or_insert_default().is_current = false;
    }

    /// Counts a connection that did not become an encrypted one.
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

    /// Counts a request that the web config refused.
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

    /// Counts what was written down, and how long that took.
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

    /// Gives back memory that only the start needed, once some answers were written, and
    /// then each hour. To be called for each, where it may take a millisecond.
    pub fn trim_memory(&self) {
        let written = self.expositions.fetch_add(1, Ordering::Relaxed) + 1;
        let mut last = self
            .last_trim
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_time = last.map_or(written >= WARMUP_EXPOSITIONS, |last| {
            last.elapsed() >= TRIM_INTERVAL
        });
        if !is_time {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        if let Err(error) = sources::release_memory() {
            debug!(%error, "no memory was given back");
        }
    }

    /// Counts an answer that could not be written.
    pub fn count_encode_error(&self) {
        self.encode_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything the exporter says about itself; of `disabled` metrics only which
    /// exporter it is.
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
        let allowance = ResourceBudget::for_this_process();
        if let Some(limit) = allowance.memory_limit {
            out.add(&MEMORY_LIMIT, [], limit);
        }
        out.add(&CGROUP_MAX_OPEN_FILES, [], allowance.cgroup_files);
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
    fn what_was_counted_is_said() {
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
    fn without_its_own_metrics_it_still_says_who_it_is() {
        let lines = SelfMetrics::start().families(2, true).lines();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("strata_build_info{version="));
    }
}
