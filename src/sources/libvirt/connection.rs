//! A connection to the daemon: requests go out as they are made, answers find whoever
//! asked by their serial number.
//!
//! The daemon reads no more than five requests of a connection that it has not answered
//! (`max_client_requests`), so four are made at a time. Whoever does not want to wait any
//! longer goes; its request stays, and its slot is taken, until the answer comes, for
//! the daemon does not forget it either.

use std::{
    collections::HashMap,
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
    time::{sleep_until, timeout_at},
};

use super::wire::{self, Kind, Message, Refusal, Wrong};

/// So many requests without an answer.
const SLOTS: usize = 4;
/// So many of them that may hang: with them the last slot is left.
const SLOTS_FOR_SLOW: usize = 3;
/// So many messages wait to be written: the requests, and answers to pings.
const OUT: usize = 16;
/// So much is read at a time.
const CHUNK: usize = 64 * 1024;
/// So many events and pings are taken in a second; who tells more has to wait.
const MAX_TOLD: u32 = 5000;
/// No reason is longer.
const MAX_REASON: usize = 300;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The daemon says no.
    Refused(Refusal),
    /// The daemon does not let this user in, for this reason.
    LockedOut(String),
    /// There is no connection, or none any more.
    Closed(String),
    /// The answer makes no sense.
    Wrong(Wrong),
    /// It did not come in time.
    Late,
}

impl Failure {
    pub(super) fn closed(reason: impl fmt::Display) -> Self {
        Self::Closed(reason.to_string())
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(&one_line(refusal)),
            Self::LockedOut(reason) | Self::Closed(reason) => f.write_str(&one_line(reason)),
            Self::Wrong(wrong) => wrong.fmt(f),
            Self::Late => f.write_str("no answer in time"),
        }
    }
}

/// What somebody else wrote, made fit for a log.
pub(super) fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_REASON).collect()
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// What becomes of an answer.
pub(super) type Then = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// What becomes of events.
pub(super) type Told = Arc<dyn Fn(u32, &[u8]) + Send + Sync>;

/// What was counted so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) events: AtomicU64,
}

impl Counts {
    pub(super) fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Which slot a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Any, for what the daemon answers by itself.
    Any,
    /// Not the last, for what somebody else has to answer first.
    Slow,
}

/// A question.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) procedure: u32,
    pub(super) body: Vec<u8>,
    /// When whoever asks will have gone.
    pub(super) by: Instant,
}

/// An open connection, closed when it is dropped.
pub(super) struct Line {
    shared: Arc<Shared>,
    task: AbortHandle,
    end: watch::Receiver<Option<String>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    out: mpsc::Sender<Vec<u8>>,
    slots: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Waiting {
    serial: u32,
    requests: HashMap<u32, Asked>,
    /// Why no request can be made any more.
    closed: Option<String>,
}

/// A request without an answer.
struct Asked {
    then: Then,
    procedure: u32,
    since: Instant,
    by: Instant,
    is_slow: bool,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Line {
    /// Connects. Must be called on the runtime.
    pub(super) async fn connect(socket: &Path, counts: Arc<Counts>, told: Told) -> Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(Failure::closed)?;
        let (out, messages) = mpsc::channel(OUT);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            out,
            slots: Arc::new(Semaphore::new(SLOTS)),
            slow: Arc::new(Semaphore::new(SLOTS_FOR_SLOW)),
            counts,
        });
        let (say, end) = watch::channel(None);
        let of = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let reason = tokio::select! {
                reason = of.read(&stream, &told) => reason,
                reason = write(&stream, messages) => reason,
            };
            of.close(&reason);
            say.send_replace(Some(reason));
        });
        Ok(Self {
            shared,
            task: task.abort_handle(),
            end,
        })
    }

    /// Waits until it is closed, and says why.
    pub(super) async fn closed(&self) -> String {
        let mut end = self.end.clone();
        let end = end.wait_for(Option::is_some).await;
        let reason = end.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Why it is closed, if it is.
    pub(super) fn end(&self) -> Option<Failure> {
        let waiting = self.shared.waiting();
        waiting.closed.clone().map(Failure::Closed)
    }

    /// Asks if there is room, else gives back what was to become of the answer.
    pub(super) fn try_ask(
        &self,
        slot: Slot,
        request: Request,
        then: Then,
    ) -> std::result::Result<(), (Request, Then)> {
        let shared = &self.shared;
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let second = match slot {
            Slot::Any => None,
            Slot::Slow => match take(&shared.slow) {
                None => return Err((request, then)),
                permit => permit,
            },
        };
        match take(&shared.slots) {
            None => Err((request, then)),
            permit => {
                shared.ask(request, then, [permit, second]);
                Ok(())
            }
        }
    }

    /// Asks as soon as there is room, and waits for the answer.
    pub(super) async fn ask(&self, request: Request) -> Result<Vec<u8>> {
        let by = request.by;
        let answer = async {
            let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
            let (say, said) = oneshot::channel();
            // Whoever waited may have gone.
            let then = Box::new(|answer| drop(say.send(answer)));
            self.shared.ask(request, then, [slot.ok(), None]);
            said.await
                .unwrap_or_else(|_| Err(Failure::closed("closed")))
        };
        let answer = timeout_at(by.into(), answer).await;
        answer.unwrap_or(Err(Failure::Late))
    }

    /// Since when a question of this kind waits for its answer that nobody waits for any
    /// more; or all of them, so that no other can be asked.
    pub(super) fn is_hung(&self, procedure: u32) -> Option<Instant> {
        let now = Instant::now();
        let waiting = self.shared.waiting();
        let overdue = || waiting.requests.values().filter(|asked| asked.by <= now);
        let is_full = overdue().count() >= SLOTS;
        let hung = overdue().filter(|asked| is_full || asked.procedure == procedure);
        hung.map(|asked| asked.since).min()
    }

    /// How many requests have no answer although whoever asked has gone.
    pub(super) fn overdue(&self) -> u64 {
        let now = Instant::now();
        let waiting = self.shared.waiting();
        let overdue = waiting.requests.values().filter(|asked| asked.by <= now);
        overdue.fold(0, |count, _| count + 1)
    }

    /// Whether all slots for what is slow are taken, and have been for so long or for
    /// nobody any more.
    pub(super) fn is_full_for(&self, long: Duration) -> bool {
        let now = Instant::now();
        let waiting = self.shared.waiting();
        let slow = waiting.requests.values().filter(|asked| asked.is_slow);
        let old = slow.filter(|asked| asked.by <= now || asked.since + long <= now);
        old.count() >= SLOTS_FOR_SLOW
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.close("closed");
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: Request, then: Then, permits: [Option<OwnedSemaphorePermit>; 2]) {
        let Request {
            procedure,
            body,
            by,
        } = request;
        let mut waiting = self.waiting();
        if let Some(reason) = waiting.closed.clone() {
            drop(waiting);
            drop(permits);
            return then(Err(Failure::Closed(reason)));
        }
        loop {
            waiting.serial = waiting.serial.wrapping_add(1);
            if waiting.serial != 0 && !waiting.requests.contains_key(&waiting.serial) {
                break;
            }
        }
        let serial = waiting.serial;
        let message = Message {
            program: wire::REMOTE,
            procedure,
            kind: Kind::Call,
            serial,
            is_error: false,
            body: &body,
        };
        let [_, slow] = &permits;
        let asked = Asked {
            then,
            procedure,
            since: Instant::now(),
            by,
            is_slow: slow.is_some(),
            _permits: permits,
        };
        waiting.requests.insert(serial, asked);
        drop(waiting);
        Counts::add(&self.counts.requests);
        // There is room for as many as there are slots; and without a reader all
        // questions are answered with the reason.
        self.out.try_send(message.bytes()).ok();
    }

    /// Reads for ever, or says why not.
    async fn read(&self, stream: &UnixStream, told: &Told) -> String {
        let mut bytes = Vec::new();
        let mut second = (Instant::now(), 0_u32);
        loop {
            match read_some(stream, &mut bytes).await {
                Ok(0) => return "the daemon closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            let mut rest = bytes.as_slice();
            loop {
                match Message::split(rest) {
                    Ok(Some((message, behind))) => {
                        rest = behind;
                        if self.take(&message, told) {
                            second.1 = second.1.saturating_add(1);
                        }
                    }
                    Ok(None) => break,
                    Err(wrong) => return wrong.to_string(),
                }
            }
            let done = bytes.len() - rest.len();
            bytes.drain(..done);
            if bytes.is_empty() {
                // A long answer is seldom followed by another.
                bytes.shrink_to(CHUNK);
            }
            let end = second.0 + Duration::from_secs(1);
            if second.1 >= MAX_TOLD {
                sleep_until(end.into()).await;
            }
            if end <= Instant::now() {
                second = (Instant::now(), 0);
            }
        }
    }

    /// Takes a message; whether nobody asked for it.
    fn take(&self, message: &Message<'_>, told: &Told) -> bool {
        match (message.program, message.kind) {
            (wire::REMOTE, Kind::Reply) => {
                let asked = self.waiting().requests.remove(&message.serial);
                let Some(asked) = asked else {
                    return true;
                };
                let Asked {
                    then,
                    _permits: permits,
                    ..
                } = asked;
                drop(permits);
                then(if message.is_error {
                    Err(match Refusal::read(message.body) {
                        Ok(refusal) => Failure::Refused(refusal),
                        Err(wrong) => Failure::Wrong(wrong),
                    })
                } else {
                    Ok(message.body.to_vec())
                });
                return false;
            }
            (wire::REMOTE, Kind::Told) => {
                Counts::add(&self.counts.events);
                told(message.procedure, message.body);
            }
            (wire::KEEPALIVE, Kind::Told) if message.procedure == wire::PING => {
                let pong = Message {
                    program: wire::KEEPALIVE,
                    procedure: wire::PONG,
                    kind: Kind::Told,
                    serial: 0,
                    is_error: false,
                    body: &[],
                };
                // Who asks and does not read gets no more answers; the requests' room
                // stays free.
                if self.out.capacity() > SLOTS {
                    self.out.try_send(pong.bytes()).ok();
                }
            }
            _ => {}
        }
        true
    }

    fn close(&self, reason: &str) {
        let mut waiting = self.waiting();
        waiting.closed.get_or_insert_with(|| reason.to_owned());
        let requests = std::mem::take(&mut waiting.requests);
        drop(waiting);
        for asked in requests.into_values() {
            let Asked {
                then,
                _permits: permits,
                ..
            } = asked;
            drop(permits);
            then(Err(Failure::closed(reason)));
        }
    }
}

/// Reads what is there; 0 at the end.
async fn read_some(stream: &UnixStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        bytes.reserve(CHUNK);
        match stream.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Writes for ever, or says why not.
async fn write(stream: &UnixStream, mut messages: mpsc::Receiver<Vec<u8>>) -> String {
    while let Some(message) = messages.recv().await {
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            let written = match stream.writable().await {
                Ok(()) => stream.try_write(rest),
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return error.to_string(),
            }
        }
    }
    "closed".to_owned()
}
