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

use crate::exporter::{Closed, Exporter};

/// How long a request may take to arrive, and a handshake to be done.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may wait for its reader to take the next part.
const READER_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take in all to take an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// How long a connection may stay without a request. Longer than the scrape
/// intervals people use, so that scrapers can keep theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(150);

/// How long anybody is let be before making room for others.
const GRACE: Duration = Duration::from_secs(1);

/// Further away than anybody waits.
const NEVER: Duration = Duration::from_secs(86400);

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
    Answering,
    /// The answer is being sent.
    Writing,
}

/// What is known about one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    now: Mutex<Now>,
    /// Requests on it at the same time, which HTTP/2 allows.
    turns: Mutex<Turns>,
    turned: Notify,
    /// Bytes of answers that are still held for it.
    unsent: AtomicUsize,
    evicted: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Now {
    phase: Phase,
    /// Since when, or since when there was no progress.
    since: Instant,
    /// When the last answer was there; of several that are being taken, the first.
    answered: Instant,
}

/// Requests by number, with the readers of their answers; None while the answer is being made.
#[derive(Debug, Default)]
struct Turns {
    next: u64,
    open: BTreeMap<u64, Option<Reader>>,
}

/// Who takes one of several answers.
#[derive(Debug, Clone, Copy)]
struct Reader {
    /// Since when the next part waits.
    since: Instant,
    /// When the answer was there.
    answered: Instant,
}

/// One of several requests on a connection, until its answer was taken.
#[derive(Debug)]
pub(super) struct Turn {
    pulse: Arc<Pulse>,
    number: u64,
}

impl Turn {
    pub(super) fn begin(pulse: &Arc<Pulse>) -> Self {
        let mut number = 0;
        pulse.turn(|turns| {
            number = turns.next;
            turns.next += 1;
            turns.open.insert(number, None);
        });
        let pulse = Arc::clone(pulse);
        Self { pulse, number }
    }

    /// The answer is there, or another part of it was taken.
    pub(super) fn taken(&self) {
        self.pulse.turn(|turns| {
            let since = Instant::now();
            let answered = match turns.open.get(&self.number) {
                Some(Some(reader)) => reader.answered,
                _ => since,
            };
            let reader = Reader { since, answered };
            turns.open.insert(self.number, Some(reader));
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pulse.turn(|turns| {
            turns.open.remove(&self.number);
        });
    }
}

impl Pulse {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now: Mutex::new(Now {
                phase: Phase::Idle,
                since: now,
                answered: now,
            }),
            turns: Mutex::default(),
            turned: Notify::new(),
            unsent: AtomicUsize::new(0),
            evicted: Notify::new(),
        }
    }

    fn get(&self) -> Now {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        (now.phase, now.since) = (phase, Instant::now());
    }

    /// Changes the requests at the same time. The slowest reader counts.
    fn turn(&self, change: impl FnOnce(&mut Turns)) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut turns);
        let readers = || turns.open.values().flatten();
        let slowest = readers().map(|reader| reader.since).min();
        let longest = readers().map(|reader| reader.answered).min();
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.phase = match slowest {
            Some(_) => Phase::Writing,
            None if turns.open.is_empty() => Phase::Idle,
            None => Phase::Answering,
        };
        now.since = slowest.unwrap_or_else(Instant::now);
        now.answered = longest.unwrap_or(now.answered);
        drop(now);
        drop(turns);
        self.turned.notify_one();
    }

    /// The two begin to agree on how to encrypt.
    pub(super) fn shaking_hands(&self) {
        self.set(Phase::Handshake);
    }

    /// They have agreed.
    pub(super) fn shook_hands(&self) {
        self.set(Phase::Idle);
    }

    /// A request has arrived whole.
    pub(super) fn answering(&self) {
        self.set(Phase::Answering);
    }

    /// Its answer is there.
    pub(super) fn answered(&self) {
        self.set(Phase::Writing);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.answered = now.since;
    }

    /// Until when the connection may go on as it does, and what it is if it does not.
    fn limit(&self) -> (Instant, Closed) {
        let Now {
            phase,
            since,
            answered,
        } = self.get();
        match phase {
            Phase::Idle => (since + IDLE_LIMIT, Closed::Idle),
            Phase::Handshake | Phase::Reading => (since + REQUEST_LIMIT, Closed::SlowRequest),
            Phase::Writing => {
                let limit = (since + READER_LIMIT).min(answered + ANSWER_LIMIT);
                (limit, Closed::SlowReader)
            }
            Phase::Answering => (since + NEVER, Closed::SlowReader),
        }
    }

    /// Returns when the connection should be closed, with the reason. To be polled
    /// whenever the connection was, for that is when the limit changes.
    pub(super) async fn overdue(&self) -> Closed {
        let alarm = sleep_until(self.limit().0);
        tokio::pin!(alarm);
        let over = poll_fn(|context| {
            let (limit, reason) = self.limit();
            if alarm.deadline() != limit {
                alarm.as_mut().reset(limit);
            }
            alarm.as_mut().poll(context).map(|()| reason)
        });
        tokio::pin!(over);
        loop {
            tokio::select! {
                reason = over.as_mut() => return reason,
                () = self.evicted.notified() => return match self.get().phase {
                    Phase::Writing => Closed::SlowReader,
                    _ => Closed::TooMany,
                },
                // Not by the connection's own task: look at the limit again.
                () = self.turned.notified() => {}
            }
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    /// Bytes of answers that may be held for slow readers.
    max_unsent: usize,
    /// But for those that are on their way out.
    open: Mutex<Vec<Weak<Pulse>>>,
    exporter: Arc<Exporter>,
}

/// One connection's place among them.
#[derive(Debug)]
pub(super) struct Place {
    pub pulse: Arc<Pulse>,
    connections: Arc<Connections>,
}

impl Connections {
    pub(super) fn new(max: usize, max_unsent: usize, exporter: Arc<Exporter>) -> Self {
        Self {
            max,
            max_unsent,
            open: Mutex::default(),
            exporter,
        }
    }

    /// Makes room for a connection. There is none when all that are open are being
    /// answered.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pulse| pulse.strong_count() > 0);
        if open.len() >= self.max {
            let waiting = |pulse: &Weak<Pulse>| {
                let pulse = pulse.upgrade()?;
                let now = pulse.get();
                let (is_writing, since) = match now.phase {
                    Phase::Handshake | Phase::Idle | Phase::Reading => (false, now.since),
                    Phase::Writing => (true, now.answered),
                    Phase::Answering => return None,
                };
                // Who has just come goes after all who have been here for a while.
                Some(((since.elapsed() < GRACE, is_writing, since), pulse))
            };
            let waiting = open.iter().filter_map(waiting);
            let longest = waiting.min_by_key(|(order, _)| *order);
            let Some((_, pulse)) = longest else {
                self.exporter.closed(Closed::TooMany);
                return None;
            };
            pulse.evicted.notify_one();
            // It is on its way out, and not to be asked twice.
            open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&pulse)));
        }
        let pulse = Arc::new(Pulse::new());
        open.push(Arc::downgrade(&pulse));
        self.exporter.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            pulse,
            connections: Arc::clone(self),
        })
    }

    /// Closes who takes longest to take an answer, until what is held for all is within
    /// its bound. Whoever has the latest answer goes last, and never for this one alone.
    fn make_room_for(&self, latest: &Arc<Pulse>, answer: usize) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut holding: Vec<_> = open
            .iter()
            .filter_map(Weak::upgrade)
            .map(|pulse| (pulse.unsent.load(Ordering::Relaxed), pulse))
            .filter(|(unsent, _)| *unsent > 0)
            .collect();
        let mut held: usize = holding.iter().map(|(unsent, _)| unsent).sum();
        if held <= self.max_unsent {
            return;
        }
        holding.sort_by_key(|(_, pulse)| (Arc::ptr_eq(pulse, latest), pulse.get().answered));
        for (unsent, pulse) in holding {
            if held <= self.max_unsent {
                return;
            }
            let may_go = if Arc::ptr_eq(&pulse, latest) {
                unsent > answer
            } else {
                pulse.get().phase == Phase::Writing
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
struct Unsent {
    bytes: Bytes,
    pulse: Arc<Pulse>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let len = self.bytes.len();
        self.pulse.unsent.fetch_sub(len, Ordering::Relaxed);
    }
}

impl Place {
    /// Counts that the connection was closed unasked.
    pub(super) fn close(&self, reason: Closed) {
        self.connections.exporter.closed(reason);
    }

    /// The same bytes, which count as held until they were sent.
    pub(super) fn hold(&self, bytes: Bytes) -> Bytes {
        let len = bytes.len();
        self.pulse.unsent.fetch_add(len, Ordering::Relaxed);
        self.connections.make_room_for(&self.pulse, len);
        Bytes::from_owner(Unsent {
            bytes,
            pulse: Arc::clone(&self.pulse),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = &self.connections.exporter.connections;
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that tells its pulse what happens on it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.pulse.set(Phase::Writing);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.pulse.get().phase == Phase::Idle {
            self.pulse.set(Phase::Reading);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // Flushed only when all of an answer was written, and done when it left: TLS has
        // a buffer of its own.
        if matches!(flushed, Poll::Ready(Ok(()))) && self.pulse.get().phase == Phase::Writing {
            self.pulse.set(Phase::Idle);
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

    fn connections(max: usize) -> (Arc<Connections>, Arc<Exporter>) {
        let exporter = Arc::new(Exporter::starting_now());
        let connections = Connections::new(max, 100, Arc::clone(&exporter));
        (Arc::new(connections), exporter)
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_limit() {
        let (connections, _) = connections(1);
        for (phase, limit, reason) in [
            (Phase::Handshake, REQUEST_LIMIT, Closed::SlowRequest),
            (Phase::Idle, IDLE_LIMIT, Closed::Idle),
            (Phase::Reading, REQUEST_LIMIT, Closed::SlowRequest),
            (Phase::Writing, READER_LIMIT, Closed::SlowReader),
        ] {
            let place = connections.enter().unwrap();
            place.pulse.set(phase);
            let started = Instant::now();
            assert_eq!(place.pulse.overdue().await, reason);
            let took = started.elapsed();
            assert!(
                took >= limit && took < limit + Duration::from_secs(1),
                "{took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_the_making_is_not_cut_short() {
        let (connections, _) = connections(1);
        let place = connections.enter().unwrap();
        place.pulse.answering();
        let long = Duration::from_secs(300);
        assert!(
            tokio::time::timeout(long, place.pulse.overdue())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_makes_room() {
        let (connections, exporter) = connections(2);
        let busy = connections.enter().unwrap();
        busy.pulse.answering();
        tokio::time::advance(Duration::from_secs(1)).await;
        let idle = connections.enter().unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let third = connections.enter().unwrap();
        assert_eq!(idle.pulse.overdue().await, Closed::TooMany);
        drop(idle);
        assert_eq!(exporter.connections.load(Ordering::Relaxed), 2);
        third.pulse.answering();
        assert!(connections.enter().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_readers_the_slowest_counts() {
        let (connections, _) = connections(1);
        let place = connections.enter().unwrap();
        let slow = Turn::begin(&place.pulse);
        slow.taken();
        let started = Instant::now();
        let pulse = Arc::clone(&place.pulse);
        // Others come and go, and one answer is made for long.
        let others = tokio::spawn(async move {
            let _made = Turn::begin(&pulse);
            loop {
                Turn::begin(&pulse).taken();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(place.pulse.overdue().await, Closed::SlowReader);
        assert!(started.elapsed() < READER_LIMIT + Duration::from_secs(2));
        others.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_all_its_answers_were_taken() {
        let (connections, _) = connections(1);
        let place = connections.enter().unwrap();
        let turns = [Turn::begin(&place.pulse), Turn::begin(&place.pulse)];
        assert!(connections.enter().is_none());
        turns[0].taken();
        let started = Instant::now();
        let asleep = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(turns);
        });
        assert_eq!(place.pulse.overdue().await, Closed::Idle);
        assert!(started.elapsed() >= IDLE_LIMIT);
        asleep.await.unwrap();
        assert!(connections.enter().is_some());
    }

    /// Whether it has to go now.
    async fn is_evicted(place: &Place) -> bool {
        let now = tokio::time::timeout(Duration::ZERO, place.pulse.overdue());
        now.await == Ok(Closed::SlowReader)
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_an_answer_bit_by_bit_has_five_minutes_for_it() {
        let (connections, _) = connections(1);
        let place = connections.enter().unwrap();
        place.pulse.answered();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(20)).await;
                place.pulse.set(Phase::Writing);
            }
        };
        let started = Instant::now();
        tokio::select! {
            reason = async { loop {
                // Polled anew with each progress, as whoever serves it does.
                let limit = Duration::from_secs(10);
                if let Ok(reason) = tokio::time::timeout(limit, place.pulse.overdue()).await {
                    break reason;
                }
            } } => assert_eq!(reason, Closed::SlowReader),
            () = trickle => {}
        }
        let took = started.elapsed();
        assert!(
            took >= ANSWER_LIMIT && took < ANSWER_LIMIT + READER_LIMIT,
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_reader_makes_room_where_nobody_is_idle() {
        let (connections, _) = connections(2);
        let slow = connections.enter().unwrap();
        slow.pulse.answered();
        tokio::time::advance(Duration::from_secs(1)).await;
        let other = connections.enter().unwrap();
        other.pulse.answered();
        tokio::time::advance(Duration::from_secs(1)).await;
        // Progress does not help it.
        slow.pulse.set(Phase::Writing);
        let third = connections.enter();
        assert!(third.is_some() && is_evicted(&slow).await && !is_evicted(&other).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_makes_no_room_for_the_next() {
        let (connections, _) = connections(2);
        let slow = connections.enter().unwrap();
        slow.pulse.answered();
        tokio::time::advance(GRACE).await;
        let young = connections.enter().unwrap();
        young.pulse.shaking_hands();
        let next = connections.enter().unwrap();
        assert!(is_evicted(&slow).await && !is_evicted(&young).await);
        // Where all have, it is the one that is idle all the same.
        next.pulse.answered();
        drop(slow);
        assert!(connections.enter().is_some());
        assert_eq!(young.pulse.overdue().await, Closed::TooMany);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_are_given_up_oldest_first() {
        let (connections, _) = connections(9);
        let answer = |len| Bytes::from(vec![7; len]);
        let mut readers = Vec::new();
        for _ in 0..4 {
            let place = connections.enter().unwrap();
            place.pulse.answered();
            let held = place.hold(answer(30));
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
        drop(place.hold(answer(10)));
        for (place, _) in &readers[1..] {
            assert!(!is_evicted(place).await);
        }
        readers.remove(0);

        // One answer may be larger than all may be together.
        let large = connections.enter().unwrap();
        large.pulse.answered();
        let held = large.hold(answer(500));
        assert_eq!(held.len(), 500);
        for (place, _) in &readers {
            assert!(is_evicted(place).await);
        }
        assert!(!is_evicted(&large).await);
        drop((readers, held));
        // But several on one connection may not.
        let several = [large.hold(answer(60)), large.hold(answer(60))];
        assert!(is_evicted(&large).await);
        drop(several);
        assert_eq!(large.pulse.unsent.load(Ordering::Relaxed), 0);
    }
}
