//! Connections: how long each may take for what, and how many there may be.
//!
//! A connection that is too slow is closed, and when there are too many the one that
//! has been idle longest makes room: somebody who opens connections and asks for
//! nothing cannot keep the scraper out.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::listen::Stream;
use crate::exporter::{Closed, Exporter};

/// How long a request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may wait for its reader to take the next part.
const READER_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection may stay without a request. Longer than the scrape
/// intervals people use, so that scrapers can keep theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(150);

/// Further away than anybody waits.
const NEVER: Duration = Duration::from_secs(86400);

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    phase: Mutex<(Phase, Instant)>,
    evicted: Notify,
}

impl Pulse {
    fn get(&self) -> (Phase, Instant) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (phase, Instant::now());
    }

    /// A request has arrived whole.
    pub(super) fn answering(&self) {
        self.set(Phase::Answering);
    }

    /// Its answer is there.
    pub(super) fn answered(&self) {
        self.set(Phase::Writing);
    }

    /// Until when the connection may go on as it does, and what it is if it does not.
    fn limit(&self) -> (Instant, Closed) {
        let (phase, since) = self.get();
        match phase {
            Phase::Idle => (since + IDLE_LIMIT, Closed::Idle),
            Phase::Reading => (since + REQUEST_LIMIT, Closed::SlowRequest),
            Phase::Writing => (since + READER_LIMIT, Closed::SlowReader),
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
        tokio::select! {
            reason = over => reason,
            () = self.evicted.notified() => Closed::TooMany,
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    open: Mutex<Vec<Weak<Pulse>>>,
    exporter: Arc<Exporter>,
}

/// One connection's place among them.
#[derive(Debug)]
pub(super) struct Place {
    pub pulse: Arc<Pulse>,
    exporter: Arc<Exporter>,
}

impl Connections {
    pub(super) fn new(max: usize, exporter: Arc<Exporter>) -> Self {
        Self {
            max,
            open: Mutex::default(),
            exporter,
        }
    }

    /// Makes room for a connection. There is none when all that are open are being
    /// answered.
    pub(super) fn enter(&self) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pulse| pulse.strong_count() > 0);
        if open.len() >= self.max {
            let waiting = |pulse: &Weak<Pulse>| {
                let pulse = pulse.upgrade()?;
                let (phase, since) = pulse.get();
                matches!(phase, Phase::Idle | Phase::Reading).then_some((since, pulse))
            };
            let longest = open
                .iter()
                .filter_map(waiting)
                .min_by_key(|(since, _)| *since);
            let Some((_, pulse)) = longest else {
                self.exporter.closed(Closed::TooMany);
                return None;
            };
            pulse.evicted.notify_one();
            // It is on its way out, and not to be asked twice.
            open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&pulse)));
        }
        let pulse = Arc::new(Pulse {
            phase: Mutex::new((Phase::Idle, Instant::now())),
            evicted: Notify::new(),
        });
        open.push(Arc::downgrade(&pulse));
        self.exporter.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            pulse,
            exporter: Arc::clone(&self.exporter),
        })
    }
}

impl Place {
    /// Counts that the connection was closed unasked.
    pub(super) fn close(&self, reason: Closed) {
        self.exporter.closed(reason);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.exporter.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that tells its pulse what happens on it.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    pulse: Arc<Pulse>,
}

impl Watched {
    pub(super) fn new(stream: Stream, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.pulse.set(Phase::Writing);
        }
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! either {
    ($watched:expr, $stream:ident => $call:expr) => {
        match &mut $watched.stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = either!(self, stream => Pin::new(stream).poll_read(context, buffer));
        if buffer.filled().len() > before && self.pulse.get().0 == Phase::Idle {
            self.pulse.set(Phase::Reading);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = either!(self, stream => Pin::new(stream).poll_write(context, bytes));
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(self, stream => Pin::new(stream).poll_write_vectored(context, parts));
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Flushed only when all of an answer was written.
        if self.pulse.get().0 == Phase::Writing {
            self.pulse.set(Phase::Idle);
        }
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize) -> (Connections, Arc<Exporter>) {
        let exporter = Arc::new(Exporter::starting_now());
        (Connections::new(max, Arc::clone(&exporter)), exporter)
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_limit() {
        let (connections, _) = connections(1);
        for (phase, limit, reason) in [
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
}
