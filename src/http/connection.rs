//! Connections: how long each may take for what, and how many there may be.
//!
//! A connection that is too slow is closed, and when there are too many the one that
//! has been idle longest makes room, or else the one whose answer takes longest to be
//! taken, and before either is a second old none: somebody who opens connections and asks
//! for nothing, or reads nothing, cannot keep the scraper out. Nor do answers that nobody
//! takes fill the memory.

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

/// How long a request may take to arrive, and a handshake to be done.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may wait for its reader to take the next part.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take in all to take an answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a connection may stay without a request. Longer than the scrape
/// intervals people use, so that scrapers can keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// How long anybody is let be before making room for others.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// Further away than anybody waits.
const FAR_FUTURE: Duration = Duration::from_secs(86400);

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The two agree on how to encrypt.
    Handshake,
    /// Nothing.
    Idle,
    /// A request is arriving.
    Reading,
    /// The answer is being made, which has a deadline of its own.
    Processing,
    /// The answer is being sent.
    Writing,
}

/// What is known about one connection.
#[derive(Debug)]
pub(super) struct ConnState {
    phase_state: Mutex<PhaseState>,
    /// Requests on it at the same time, which HTTP/2 allows.
    requests: Mutex<OpenRequests>,
    requests_changed: Notify,
    /// Bytes of answers that are still held for it.
    unsent_bytes: AtomicUsize,
    evicted: Notify,
}

#[derive(Debug, Clone, Copy)]
struct PhaseState {
    phase: Phase,
    /// Since when, or since when there was no progress.
    since: Instant,
    /// When the last answer was there; of several that are being taken, the first.
    response_started: Instant,
}

/// Requests by number, with the readers of their answers; None while the answer is being made.
#[derive(Debug, Default)]
struct OpenRequests {
    next_id: u64,
    open: BTreeMap<u64, Option<ResponseProgress>>,
}

/// Who takes one of several answers.
#[derive(Debug, Clone, Copy)]
struct ResponseProgress {
    /// Since when the next part waits.
    since: Instant,
    /// When the answer was there.
    started: Instant,
}

/// One of several requests on a connection, until its answer was taken.
#[derive(Debug)]
pub(super) struct RequestSlot {
    conn: Arc<ConnState>,
    id: u64,
}

impl RequestSlot {
    pub(super) fn open(conn: &Arc<ConnState>) -> Self {
        let mut id = 0;
        conn.update_requests(|turns| {
            id = turns.next_id;
            turns.next_id += 1;
            turns.open.insert(id, None);
        });
        let conn = Arc::clone(conn);
        Self { conn, id }
    }

    /// The answer is there, or another part of it was taken.
    pub(super) fn record_progress(&self) {
        self.conn.update_requests(|turns| {
            let since = Instant::now();
            let answered = match turns.open.get(&self.id) {
                Some(Some(reader)) => reader.started,
                _ => since,
            };
            let reader = ResponseProgress {
                since,
                started: answered,
            };
            turns.open.insert(self.id, Some(reader));
        });
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        self.conn.update_requests(|turns| {
            turns.open.remove(&self.id);
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
        let mut now = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (now.phase, now.since) = (phase, Instant::now());
    }

    /// Changes the requests at the same time. The slowest reader counts.
    fn update_requests(&self, change: impl FnOnce(&mut OpenRequests)) {
        let mut turns = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut turns);
        let readers = || turns.open.values().flatten();
        let slowest = readers().map(|reader| reader.since).min();
        let longest = readers().map(|reader| reader.started).min();
        let mut now = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.phase = match slowest {
            Some(_) => Phase::Writing,
            None if turns.open.is_empty() => Phase::Idle,
            None => Phase::Processing,
        };
        now.since = slowest.unwrap_or_else(Instant::now);
        now.response_started = longest.unwrap_or(now.response_started);
        drop(now);
        drop(turns);
        self.requests_changed.notify_one();
    }

    /// The two begin to agree on how to encrypt.
    pub(super) fn handshake_started(&self) {
        self.set_phase(Phase::Handshake);
    }

    /// They have agreed.
    pub(super) fn handshake_finished(&self) {
        self.set_phase(Phase::Idle);
    }

    /// A request has arrived whole.
    pub(super) fn request_received(&self) {
        self.set_phase(Phase::Processing);
    }

    /// Its answer is there.
    pub(super) fn response_ready(&self) {
        self.set_phase(Phase::Writing);
        let mut now = self
            .phase_state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        now.response_started = now.since;
    }

    /// Until when the connection may go on as it does, and what it is if it does not.
    fn deadline(&self) -> (Instant, CloseReason) {
        let PhaseState {
            phase,
            since,
            response_started: answered,
        } = self.phase_state();
        match phase {
            Phase::Idle => (since + IDLE_TIMEOUT, CloseReason::Idle),
            Phase::Handshake | Phase::Reading => {
                (since + REQUEST_TIMEOUT, CloseReason::SlowRequest)
            }
            Phase::Writing => {
                let limit = (since + WRITE_STALL_TIMEOUT).min(answered + RESPONSE_TIMEOUT);
                (limit, CloseReason::SlowReader)
            }
            Phase::Processing => (since + FAR_FUTURE, CloseReason::SlowReader),
        }
    }

    /// Returns when the connection should be closed, with the reason. To be polled
    /// whenever the connection was, for that is when the limit changes.
    pub(super) async fn wait_overdue(&self) -> CloseReason {
        let alarm = sleep_until(self.deadline().0);
        tokio::pin!(alarm);
        let over = poll_fn(|context| {
            let (limit, reason) = self.deadline();
            if alarm.deadline() != limit {
                alarm.as_mut().reset(limit);
            }
            alarm.as_mut().poll(context).map(|()| reason)
        });
        tokio::pin!(over);
        loop {
            tokio::select! {
                reason = over.as_mut() => return reason,
                () = self.evicted.notified() => return match self.phase_state().phase {
                    Phase::Writing => CloseReason::SlowReader,
                    _ => CloseReason::TooManyConnections,
                },
                // Not by the connection's own task: look at the limit again.
                () = self.requests_changed.notified() => {}
            }
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Bytes of answers that may be held for slow readers.
    max_unsent_bytes: usize,
    /// But for those that are on their way out.
    open: Mutex<Vec<Weak<ConnState>>>,
    self_metrics: Arc<SelfMetrics>,
}

/// One connection's place among them.
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

    /// Makes room for a connection. There is none when all that are open are being
    /// answered.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<ConnPermit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pulse| pulse.strong_count() > 0);
        if open.len() >= self.max {
            let waiting = |pulse: &Weak<ConnState>| {
                let pulse = pulse.upgrade()?;
                let now = pulse.phase_state();
                let (is_writing, since) = match now.phase {
                    Phase::Handshake | Phase::Idle | Phase::Reading => (false, now.since),
                    Phase::Writing => (true, now.response_started),
                    Phase::Processing => return None,
                };
                // Who has just come goes after all who have been here for a while.
                Some(((since.elapsed() < EVICTION_GRACE, is_writing, since), pulse))
            };
            let waiting = open.iter().filter_map(waiting);
            let longest = waiting.min_by_key(|(order, _)| *order);
            let Some((_, pulse)) = longest else {
                self.self_metrics
                    .count_closed(CloseReason::TooManyConnections);
                return None;
            };
            pulse.evicted.notify_one();
            // It is on its way out, and not to be asked twice.
            open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&pulse)));
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

    /// Closes who takes longest to take an answer, until what is held for all is within
    /// its bound. Whoever has the latest answer goes last, and never for this one alone.
    fn evict_slow_readers(&self, latest: &Arc<ConnState>, answer: usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holding: Vec<_> = open
            .iter()
            .filter_map(Weak::upgrade)
            .map(|pulse| (pulse.unsent_bytes.load(Ordering::Relaxed), pulse))
            .filter(|(unsent, _)| *unsent > 0)
            .collect();
        let mut held: usize = holding.iter().map(|(unsent, _)| unsent).sum();
        if held <= self.max_unsent_bytes {
            return;
        }
        holding.sort_by_key(|(_, pulse)| {
            (
                Arc::ptr_eq(pulse, latest),
                pulse.phase_state().response_started,
            )
        });
        for (unsent, pulse) in holding {
            if held <= self.max_unsent_bytes {
                return;
            }
            let may_go = if Arc::ptr_eq(&pulse, latest) {
                unsent > answer
            } else {
                pulse.phase_state().phase == Phase::Writing
            };
            if may_go {
                pulse.evicted.notify_one();
                open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&pulse)));
                held -= unsent;
            }
        }
    }
}

/// An answer that is held until all of it was sent.
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
    /// Counts that the connection was closed unasked.
    pub(super) fn record_close(&self, reason: CloseReason) {
        self.connections.self_metrics.count_closed(reason);
    }

    /// The same bytes, which count as held until they were sent.
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
        let open = &self.connections.self_metrics.connections;
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that tells its pulse what happens on it.
#[derive(Debug)]
pub(super) struct TimedIo<S> {
    stream: S,
    conn: Arc<ConnState>,
}

impl<S> TimedIo<S> {
    pub(super) fn new(stream: S, conn: Arc<ConnState>) -> Self {
        Self { stream, conn }
    }

    fn on_write(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.conn.set_phase(Phase::Writing);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
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
        // Flushed only when all of an answer was written, and done when it left: TLS has
        // a buffer of its own.
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
        let exporter = Arc::new(SelfMetrics::start());
        let connections = Connections::new(max, 100, Arc::clone(&exporter));
        (Arc::new(connections), exporter)
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
            let place = connections.try_acquire().unwrap();
            place.conn.set_phase(phase);
            let started = Instant::now();
            assert_eq!(place.conn.wait_overdue().await, reason);
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
        let place = connections.try_acquire().unwrap();
        place.conn.request_received();
        let long = Duration::from_secs(300);
        assert!(
            tokio::time::timeout(long, place.conn.wait_overdue())
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
            idle.conn.wait_overdue().await,
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
        let place = connections.try_acquire().unwrap();
        let slow = RequestSlot::open(&place.conn);
        slow.record_progress();
        let started = Instant::now();
        let pulse = Arc::clone(&place.conn);
        // Others come and go, and one answer is made for long.
        let others = tokio::spawn(async move {
            let _made = RequestSlot::open(&pulse);
            loop {
                RequestSlot::open(&pulse).record_progress();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(place.conn.wait_overdue().await, CloseReason::SlowReader);
        assert!(started.elapsed() < WRITE_STALL_TIMEOUT + Duration::from_secs(2));
        others.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_idle_after_all_responses_are_read() {
        let (connections, _) = connections(1);
        let place = connections.try_acquire().unwrap();
        let turns = [
            RequestSlot::open(&place.conn),
            RequestSlot::open(&place.conn),
        ];
        assert!(connections.try_acquire().is_none());
        turns[0].record_progress();
        let started = Instant::now();
        let asleep = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(turns);
        });
        assert_eq!(place.conn.wait_overdue().await, CloseReason::Idle);
        assert!(started.elapsed() >= IDLE_TIMEOUT);
        asleep.await.unwrap();
        assert!(connections.try_acquire().is_some());
    }

    /// Whether it has to go now.
    async fn is_evicted(permit: &ConnPermit) -> bool {
        let now = tokio::time::timeout(Duration::ZERO, permit.conn.wait_overdue());
        now.await == Ok(CloseReason::SlowReader)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_but_steady_reader_has_five_minutes() {
        let (connections, _) = connections(1);
        let place = connections.try_acquire().unwrap();
        place.conn.response_ready();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(20)).await;
                place.conn.set_phase(Phase::Writing);
            }
        };
        let started = Instant::now();
        tokio::select! {
            reason = async { loop {
                // Polled anew with each progress, as whoever serves it does.
                let limit = Duration::from_secs(10);
                if let Ok(reason) = tokio::time::timeout(limit, place.conn.wait_overdue()).await {
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
        // Progress does not help it.
        slow.conn.set_phase(Phase::Writing);
        let third = connections.try_acquire();
        assert!(third.is_some() && is_evicted(&slow).await && !is_evicted(&other).await);
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_are_not_evicted() {
        let (connections, _) = connections(2);
        let slow = connections.try_acquire().unwrap();
        slow.conn.response_ready();
        tokio::time::advance(EVICTION_GRACE).await;
        let young = connections.try_acquire().unwrap();
        young.conn.handshake_started();
        let next = connections.try_acquire().unwrap();
        assert!(is_evicted(&slow).await && !is_evicted(&young).await);
        // Where all have, it is the one that is idle all the same.
        next.conn.response_ready();
        drop(slow);
        assert!(connections.try_acquire().is_some());
        assert_eq!(
            young.conn.wait_overdue().await,
            CloseReason::TooManyConnections
        );
    }

    #[tokio::test(start_paused = true)]
    async fn unread_responses_are_dropped_oldest_first() {
        let (connections, _) = connections(9);
        let answer = |len| Bytes::from(vec![7; len]);
        let mut readers = Vec::new();
        for _ in 0..4 {
            let place = connections.try_acquire().unwrap();
            place.conn.response_ready();
            let held = place.track_unsent(answer(30));
            readers.push((place, held));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let places = readers.iter().map(|(place, _)| place);
        let mut gone = Vec::new();
        for place in places {
            gone.push(is_evicted(place).await);
        }
        assert_eq!(gone, [true, false, false, false]);
        readers.remove(0);
        // It does not count any more, so that nobody goes for it as well.
        let (place, _) = &readers[2];
        drop(place.track_unsent(answer(10)));
        for (place, _) in &readers[1..] {
            assert!(!is_evicted(place).await);
        }
        readers.remove(0);

        // One answer may be larger than all may be together.
        let large = connections.try_acquire().unwrap();
        large.conn.response_ready();
        let held = large.track_unsent(answer(500));
        assert_eq!(held.len(), 500);
        for (place, _) in &readers {
            assert!(is_evicted(place).await);
        }
        assert!(!is_evicted(&large).await);
        drop((readers, held));
        // But several on one connection may not.
        let several = [
            large.track_unsent(answer(60)),
            large.track_unsent(answer(60)),
        ];
        assert!(is_evicted(&large).await);
        drop(several);
        assert_eq!(large.conn.unsent_bytes.load(Ordering::Relaxed), 0);
    }
}
