//! Connection limits: time limits for each phase, the number of connections, and the memory of
//! unsent responses.
//!
//! A connection that is too slow is closed. When there are too many connections, the one that has
//! been idle longest is evicted, otherwise the one whose response has been pending longest.
//! Connections younger than 1 s are evicted last, so a connection flood, or clients that read
//! nothing, cannot displace the scraper. Responses that are not read cannot exhaust memory.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::self_metrics::{CloseReason, SelfMetrics};

/// Maximum time for a request to arrive, and for a handshake to finish.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without write progress while a response is sent.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for sending a whole response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum time without a request. Longer than common scrape intervals, so that scrapers can reuse
/// their connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// A connection younger than this is evicted last.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Effectively no timeout.
const NO_TIMEOUT: Duration = Duration::from_secs(86400);

/// What the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The TLS handshake is in progress.
    Handshake,
    /// No request is in progress.
    Idle,
    /// A request is arriving.
    Reading,
    /// The request is processed, which has a deadline of its own.
    Processing,
    /// The response is being sent.
    Writing,
}

/// State of one connection.
#[derive(Debug)]
pub(super) struct ConnState {
    phase_state: Mutex<PhaseState>,
    /// Concurrent requests, which HTTP/2 allows.
    requests: Mutex<OpenRequests>,
    requests_changed: Notify,
    /// Bytes of responses that are not sent yet.
    unsent_bytes: AtomicUsize,
    evicted: Notify,
}

#[derive(Debug, Clone, Copy)]
struct PhaseState {
    phase: Phase,
    /// Start of the phase, or time of the last progress in it.
    since: Instant,
    /// Time at which the current response was ready; with concurrent ones, the oldest unsent one.
    response_started: Instant,
}

/// Requests by number, with the progress of their responses; `None` until the response is ready.
#[derive(Debug, Default)]
struct OpenRequests {
    next_id: u64,
    open: BTreeMap<u64, Option<ResponseProgress>>,
}

/// Progress of sending one of several responses.
#[derive(Debug, Clone, Copy)]
struct ResponseProgress {
    /// Time of the last progress.
    since: Instant,
    /// Time at which the response was ready.
    started: Instant,
}

/// One of several requests on a connection, until its response is sent.
#[derive(Debug)]
pub(super) struct RequestSlot {
    conn: Arc<ConnState>,
    id: u64,
}

impl RequestSlot {
    pub(super) fn open(conn: &Arc<ConnState>) -> Self {
        let mut id = 0;
        conn.update_requests(|requests| {
            id = requests.next_id;
            requests.next_id += 1;
            requests.open.insert(id, None);
        });
        let conn = Arc::clone(conn);
        Self { conn, id }
    }

    /// Records that the response is ready, or that another part of it was sent.
    pub(super) fn record_progress(&self) {
        self.conn.update_requests(|requests| {
            let since = Instant::now();
            let started = match requests.open.get(&self.id) {
                Some(Some(progress)) => progress.started,
                _ => since,
            };
            let progress = ResponseProgress { since, started };
            requests.open.insert(self.id, Some(progress));
        });
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.conn.update_requests(|requests| {
            requests.open.remove(&self.id);
        });
    }
}

impl ConnState {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            phase_state: Mutex::new(PhaseState {
                phase: Phase::Idle,
                since: now,
                response_started: now,
            }),
            requests: Mutex::default(),
            requests_changed: Notify::new(),
            unsent_bytes: AtomicUsize::new(0),
            evicted: Notify::new(),
        }
    }

    fn phase_state(&self) -> PhaseState {
        *self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        let mut state = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (state.phase, state.since) = (phase, Instant::now());
    }

    /// Changes the set of concurrent requests. The slowest response determines the phase.
    fn update_requests(&self, change: impl FnOnce(&mut OpenRequests)) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut requests);
        let progresses = || requests.open.values().flatten();
        let oldest_progress = progresses().map(|progress| progress.since).min();
        let oldest_start = progresses().map(|progress| progress.started).min();
        let mut state = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.phase = match oldest_progress {
            Some(_) => Phase::Writing,
            None if requests.open.is_empty() => Phase::Idle,
            None => Phase::Processing,
        };
        state.since = oldest_progress.unwrap_or_else(Instant::now);
        state.response_started = oldest_start.unwrap_or(state.response_started);
        drop(state);
        drop(requests);
        self.requests_changed.notify_one();
    }

    pub(super) fn handshake_started(&self) {
        self.set_phase(Phase::Handshake);
    }

    pub(super) fn handshake_finished(&self) {
        self.set_phase(Phase::Idle);
    }

    /// A request has arrived completely.
    pub(super) fn request_received(&self) {
        self.set_phase(Phase::Processing);
    }

    pub(super) fn response_ready(&self) {
        self.set_phase(Phase::Writing);
        let mut state = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.response_started = state.since;
    }

    /// The time at which the current phase expires, and the reason for closing the connection
    /// then.
    fn deadline(&self) -> (Instant, CloseReason) {
        let PhaseState {
            phase,
            since,
            response_started,
        } = self.phase_state();
        match phase {
            Phase::Idle => (since + IDLE_TIMEOUT, CloseReason::Idle),
            Phase::Handshake | Phase::Reading => {
                (since + REQUEST_TIMEOUT, CloseReason::SlowRequest)
            }
            Phase::Writing => {
                let limit = (since + WRITE_STALL_TIMEOUT).min(response_started + RESPONSE_TIMEOUT);
                (limit, CloseReason::SlowReader)
            }
            // Requests have deadlines of their own.
            Phase::Processing => (since + NO_TIMEOUT, CloseReason::SlowReader),
        }
    }

    /// Waits until the connection should be closed, and returns the reason. It must be polled after each
    /// poll of the connection, because that is when the deadline changes.
    pub(super) async fn wait_for_close(&self) -> CloseReason {
        let timer = sleep_until(self.deadline().0);
        tokio::pin!(timer);
        let expired = poll_fn(|context| {
            let (limit, reason) = self.deadline();
            if timer.deadline() != limit {
                timer.as_mut().reset(limit);
            }
            timer.as_mut().poll(context).map(|()| reason)
        });
        tokio::pin!(expired);
        loop {
            tokio::select! {
                reason = expired.as_mut() => return reason,
                () = self.evicted.notified() => return match self.phase_state().phase {
                    Phase::Writing => CloseReason::SlowReader,
                    _ => CloseReason::TooManyConnections,
                },
                // Changed by another task: check the deadline again.
                () = self.requests_changed.notified() => {}
            }
        }
    }
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Maximum bytes of unsent responses over all connections.
    max_unsent_bytes: usize,
    /// Open connections, except those being evicted.
    open: Mutex<Vec<Weak<ConnState>>>,
    self_metrics: Arc<SelfMetrics>,
}

/// Counts one open connection until dropped.
#[derive(Debug)]
pub(super) struct ConnPermit {
    pub conn: Arc<ConnState>,
    connections: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(max: usize, max_unsent_bytes: usize, self_metrics: Arc<SelfMetrics>) -> Self {
        Self {
            max,
            max_unsent_bytes,
            open: Mutex::default(),
            self_metrics,
        }
    }

    /// Reserves a slot, evicting a connection if necessary. `None` if all connections are
    /// processing requests.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<ConnPermit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|conn| conn.strong_count() > 0);
        if open.len() >= self.max {
            let eviction_order = |conn: &Weak<ConnState>| {
                let conn = conn.upgrade()?;
                let state = conn.phase_state();
                let (is_writing, since) = match state.phase {
                    Phase::Handshake | Phase::Idle | Phase::Reading => (false, state.since),
                    Phase::Writing => (true, state.response_started),
                    Phase::Processing => return None,
                };
                // Connections younger than `EVICTION_GRACE` come after all older ones.
                Some(((since.elapsed() < EVICTION_GRACE, is_writing, since), conn))
            };
            let candidates = open.iter().filter_map(eviction_order);
            let first = candidates.min_by_key(|(order, _)| *order);
            let Some((_, conn)) = first else {
                self.self_metrics
                    .count_closed(CloseReason::TooManyConnections);
                return None;
            };
            conn.evicted.notify_one();
            // It is being evicted and must not be selected again.
            open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&conn)));
        }
        let conn = Arc::new(ConnState::new());
        open.push(Arc::downgrade(&conn));
        self.self_metrics
            .connections
            .fetch_add(1, Ordering::Relaxed);
        Some(ConnPermit {
            conn,
            connections: Arc::clone(self),
        })
    }

    /// Evicts connections whose responses have been pending longest, until the unsent bytes of all
    /// connections are within the limit. The connection with the latest response is evicted last,
    /// and only if it has other unsent responses: one response may exceed the limit.
    fn evict_slow_readers(&self, latest: &Arc<ConnState>, latest_len: usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates: Vec<_> = open
            .iter()
            .filter_map(Weak::upgrade)
            .map(|conn| (conn.unsent_bytes.load(Ordering::Relaxed), conn))
            .filter(|(unsent, _)| *unsent > 0)
            .collect();
        let mut total: usize = candidates.iter().map(|(unsent, _)| unsent).sum();
        if total <= self.max_unsent_bytes {
            return;
        }
        candidates.sort_by_key(|(_, conn)| {
            (
                Arc::ptr_eq(conn, latest),
                conn.phase_state().response_started,
            )
        });
        for (unsent, conn) in candidates {
            if total <= self.max_unsent_bytes {
                return;
            }
            let can_evict = if Arc::ptr_eq(&conn, latest) {
                unsent > latest_len
            } else {
                conn.phase_state().phase == Phase::Writing
            };
            if can_evict {
                conn.evicted.notify_one();
                open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&conn)));
                total -= unsent;
            }
        }
    }
}

/// A response that counts as unsent until it is dropped.
struct BufferedBody {
    bytes: Bytes,
    conn: Arc<ConnState>,
}

impl AsRef<[u8]> for BufferedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for BufferedBody {
    fn drop(&mut self) {
        let len = self.bytes.len();
        self.conn.unsent_bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

impl ConnPermit {
    /// Counts that the exporter closed the connection.
    pub(super) fn record_close(&self, reason: CloseReason) {
        self.connections.self_metrics.count_closed(reason);
    }

    /// Returns the same bytes, counted as unsent until they are dropped.
    pub(super) fn track_unsent(&self, bytes: Bytes) -> Bytes {
        let len = bytes.len();
        self.conn.unsent_bytes.fetch_add(len, Ordering::Relaxed);
        self.connections.evict_slow_readers(&self.conn, len);
        Bytes::from_owner(BufferedBody {
            bytes,
            conn: Arc::clone(&self.conn),
        })
    }
}

impl Drop for ConnPermit {
    fn drop(&mut self) {
        let open_connections = &self.connections.self_metrics.connections;
        open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that records its activity in the connection's state.
#[derive(Debug)]
pub(super) struct TrackedStream<S> {
    stream: S,
    conn: Arc<ConnState>,
}

impl<S> TrackedStream<S> {
    pub(super) fn new(stream: S, conn: Arc<ConnState>) -> Self {
        Self { stream, conn }
    }

    fn on_write(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.conn.set_phase(Phase::Writing);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.conn.phase_state().phase == Phase::Idle {
            self.conn.set_phase(Phase::Reading);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.on_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.on_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // Hyper flushes when the whole response is written. The flush is done when everything was
        // sent, including TLS's own buffer.
        if matches!(flushed, Poll::Ready(Ok(()))) && self.conn.phase_state().phase == Phase::Writing
        {
            self.conn.set_phase(Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize) -> (Arc<Connections>, Arc<SelfMetrics>) {
        let self_metrics = Arc::new(SelfMetrics::start());
        let connections = Connections::new(max, 100, Arc::clone(&self_metrics));
        (Arc::new(connections), self_metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_timeout() {
        let (connections, _) = connections(1);
        for (phase, limit, reason) in [
            (Phase::Handshake, REQUEST_TIMEOUT, CloseReason::SlowRequest),
            (Phase::Idle, IDLE_TIMEOUT, CloseReason::Idle),
            (Phase::Reading, REQUEST_TIMEOUT, CloseReason::SlowRequest),
            (Phase::Writing, WRITE_STALL_TIMEOUT, CloseReason::SlowReader),
        ] {
            let permit = connections.try_acquire().unwrap();
            permit.conn.set_phase(phase);
            let started = Instant::now();
            assert_eq!(permit.conn.wait_for_close().await, reason);
            let took = started.elapsed();
            assert!(
                took >= limit && took < limit + Duration::from_secs(1),
                "{took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_progress_are_not_closed() {
        let (connections, _) = connections(1);
        let permit = connections.try_acquire().unwrap();
        permit.conn.request_received();
        let long = Duration::from_secs(300);
        assert!(
            tokio::time::timeout(long, permit.conn.wait_for_close())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn longest_idle_connection_is_evicted() {
        let (connections, exporter) = connections(2);
        let busy = connections.try_acquire().unwrap();
        busy.conn.request_received();
        tokio::time::advance(Duration::from_secs(1)).await;
        let idle = connections.try_acquire().unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let third = connections.try_acquire().unwrap();
        assert_eq!(
            idle.conn.wait_for_close().await,
            CloseReason::TooManyConnections
        );
        drop(idle);
        assert_eq!(exporter.connections.load(Ordering::Relaxed), 2);
        third.conn.request_received();
        assert!(connections.try_acquire().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn slowest_of_several_streams_sets_deadline() {
        let (connections, _) = connections(1);
        let permit = connections.try_acquire().unwrap();
        let slow = RequestSlot::open(&permit.conn);
        slow.record_progress();
        let started = Instant::now();
        let conn = Arc::clone(&permit.conn);
        // Other requests come and go, and one is processed for a long time.
        let others = tokio::spawn(async move {
            let _open = RequestSlot::open(&conn);
            loop {
                RequestSlot::open(&conn).record_progress();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(permit.conn.wait_for_close().await, CloseReason::SlowReader);
        assert!(started.elapsed() < WRITE_STALL_TIMEOUT + Duration::from_secs(2));
        others.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_idle_after_all_responses_are_read() {
        let (connections, _) = connections(1);
        let permit = connections.try_acquire().unwrap();
        let requests = [
            RequestSlot::open(&permit.conn),
            RequestSlot::open(&permit.conn),
        ];
        assert!(connections.try_acquire().is_none());
        requests[0].record_progress();
        let started = Instant::now();
        let slow_reader = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(requests);
        });
        assert_eq!(permit.conn.wait_for_close().await, CloseReason::Idle);
        assert!(started.elapsed() >= IDLE_TIMEOUT);
        slow_reader.await.unwrap();
        assert!(connections.try_acquire().is_some());
    }

    /// Whether it is evicted now.
    async fn is_evicted(permit: &ConnPermit) -> bool {
        let now = tokio::time::timeout(Duration::ZERO, permit.conn.wait_for_close());
        now.await == Ok(CloseReason::SlowReader)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_but_steady_reader_has_five_minutes() {
        let (connections, _) = connections(1);
        let permit = connections.try_acquire().unwrap();
        permit.conn.response_ready();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(20)).await;
                permit.conn.set_phase(Phase::Writing);
            }
        };
        let started = Instant::now();
        tokio::select! {
            reason = async { loop {
                // Polled again after each progress, as the server does.
                let limit = Duration::from_secs(10);
                if let Ok(reason) = tokio::time::timeout(limit, permit.conn.wait_for_close()).await {
                    break reason;
                }
            } } => assert_eq!(reason, CloseReason::SlowReader),
            () = trickle => {}
        }
        let took = started.elapsed();
        assert!(
            took >= RESPONSE_TIMEOUT && took < RESPONSE_TIMEOUT + WRITE_STALL_TIMEOUT,
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slowest_reader_is_evicted_when_none_is_idle() {
        let (connections, _) = connections(2);
        let slow = connections.try_acquire().unwrap();
        slow.conn.response_ready();
        tokio::time::advance(Duration::from_secs(1)).await;
        let other = connections.try_acquire().unwrap();
        other.conn.response_ready();
        tokio::time::advance(Duration::from_secs(1)).await;
        // Progress does not prevent eviction.
        slow.conn.set_phase(Phase::Writing);
        let third = connections.try_acquire();
        assert!(third.is_some() && is_evicted(&slow).await && !is_evicted(&other).await);
    }

    #[tokio::test(start_paused = true)]
    async fn young_connections_are_evicted_last() {
        let (connections, _) = connections(2);
        let slow = connections.try_acquire().unwrap();
        slow.conn.response_ready();
        tokio::time::advance(EVICTION_GRACE).await;
        let young = connections.try_acquire().unwrap();
        young.conn.handshake_started();
        let next = connections.try_acquire().unwrap();
        assert!(is_evicted(&slow).await && !is_evicted(&young).await);
        // If all connections are young, the idle one is evicted.
        next.conn.response_ready();
        drop(slow);
        assert!(connections.try_acquire().is_some());
        assert_eq!(
            young.conn.wait_for_close().await,
            CloseReason::TooManyConnections
        );
    }

    #[tokio::test(start_paused = true)]
    async fn unread_responses_are_dropped_oldest_first() {
        let (connections, _) = connections(9);
        let body = |len| Bytes::from(vec![7; len]);
        let mut readers = Vec::new();
        for _ in 0..4 {
            let permit = connections.try_acquire().unwrap();
            permit.conn.response_ready();
            let held = permit.track_unsent(body(30));
            readers.push((permit, held));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let permits = readers.iter().map(|(permit, _)| permit);
        let mut gone = Vec::new();
        for permit in permits {
            gone.push(is_evicted(permit).await);
        }
        assert_eq!(gone, [true, false, false, false]);
        readers.remove(0);
        // The evicted connection's bytes are no longer counted, so no other one is evicted.
        let (permit, _) = &readers[2];
        drop(permit.track_unsent(body(10)));
        for (permit, _) in &readers[1..] {
            assert!(!is_evicted(permit).await);
        }
        readers.remove(0);

        // A single response may exceed the limit.
        let large = connections.try_acquire().unwrap();
        large.conn.response_ready();
        let held = large.track_unsent(body(500));
        assert_eq!(held.len(), 500);
        for (permit, _) in &readers {
            assert!(is_evicted(permit).await);
        }
        assert!(!is_evicted(&large).await);
        drop((readers, held));
        // Several responses on one connection may not.
        let several = [large.track_unsent(body(60)), large.track_unsent(body(60))];
        assert!(is_evicted(&large).await);
        drop(several);
        assert_eq!(large.conn.unsent_bytes.load(Ordering::Relaxed), 0);
    }
}
