//! RPC connection to a libvirt daemon. Calls are pipelined; replies are matched by serial number.
//!
//! The daemon reads at most five unanswered requests of a connection (`max_client_requests`), so
//! at most four are sent at a time. A caller that times out leaves its call pending: the call
//! occupies its slot until the reply arrives, because the daemon does not cancel it either.

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

use super::wire::{self, DecodeError, Message, MessageType, RemoteError};

/// Maximum number of pending calls.
const MAX_PENDING_CALLS: usize = 4;
/// Maximum number of pending calls that may hang: the last slot stays free for others.
const MAX_SLOW_CALLS: usize = 3;
/// Capacity of the queue of messages to send: calls, and replies to keepalive pings.
const SEND_QUEUE: usize = 16;
/// Bytes read at a time.
const READ_CHUNK: usize = 64 * 1024;
/// Maximum number of events and pings handled per second; further ones are delayed.
const MAX_EVENTS_PER_SECOND: u32 = 5000;
/// Maximum number of characters of a reason in a log line.
const MAX_REASON: usize = 300;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// The daemon returned an error.
    Remote(RemoteError),
    /// The daemon rejected this user, for this reason.
    PermissionDenied(String),
    /// The connection is closed or was never opened, for this reason.
    Closed(String),
    /// The reply could not be decoded.
    Decode(DecodeError),
    /// The reply did not arrive in time.
    TimedOut,
}

impl CallError {
    pub(super) fn closed(reason: impl fmt::Display) -> Self {
        Self::Closed(reason.to_string())
    }
}

impl From<DecodeError> for CallError {
    fn from(wrong: DecodeError) -> Self {
        Self::Decode(wrong)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(refusal) => f.write_str(&one_line(refusal)),
            Self::PermissionDenied(reason) | Self::Closed(reason) => f.write_str(&one_line(reason)),
            Self::Decode(wrong) => wrong.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

/// Formats text of foreign origin as one line for a log.
pub(super) fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(MAX_REASON).collect()
}

pub(super) type Result<T> = std::result::Result<T, CallError>;

/// Called with the reply or the error.
pub(super) type ReplyHandler = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// Called with the procedure and body of each event.
pub(super) type EventHandler = Arc<dyn Fn(u32, &[u8]) + Send + Sync>;

/// Counters since the start of the exporter.
#[derive(Debug, Default)]
pub(super) struct RpcCounters {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) events: AtomicU64,
}

impl RpcCounters {
    pub(super) fn increment(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Which slots a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotClass {
    /// Any slot, for calls that the daemon answers by itself.
    Any,
    /// Any but the last, for calls that may hang in a domain or a storage backend.
    Slow,
}

/// A call to be sent.
#[derive(Debug)]
pub(super) struct RpcRequest {
    pub(super) procedure: u32,
    pub(super) body: Vec<u8>,
    /// When the caller stops waiting.
    pub(super) deadline: Instant,
}

/// An open connection, closed when dropped.
pub(super) struct RpcConnection {
    shared: Arc<ConnectionShared>,
    task: AbortHandle,
    close_reason: watch::Receiver<Option<String>>,
}

struct ConnectionShared {
    pending: Mutex<PendingCalls>,
    outgoing: mpsc::Sender<Vec<u8>>,
    slots: Arc<Semaphore>,
    slow_slots: Arc<Semaphore>,
    counters: Arc<RpcCounters>,
}

#[derive(Default)]
struct PendingCalls {
    last_serial: u32,
    calls: HashMap<u32, PendingCall>,
    /// Set when the connection is closed: the reason.
    closed: Option<String>,
}

/// A call without a reply.
struct PendingCall {
    on_reply: ReplyHandler,
    procedure: u32,
    sent_at: Instant,
    deadline: Instant,
    is_slow: bool,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl RpcConnection {
    /// Connects. Must be called on the runtime.
    pub(super) async fn connect(
        socket: &Path,
        counters: Arc<RpcCounters>,
        on_event: EventHandler,
    ) -> Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(CallError::closed)?;
        let (out, messages) = mpsc::channel(SEND_QUEUE);
        let shared = Arc::new(ConnectionShared {
            pending: Mutex::default(),
            outgoing: out,
            slots: Arc::new(Semaphore::new(MAX_PENDING_CALLS)),
            slow_slots: Arc::new(Semaphore::new(MAX_SLOW_CALLS)),
            counters,
        });
        let (say, end) = watch::channel(None);
        let reader = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let reason = tokio::select! {
                reason = reader.read_loop(&stream, &on_event) => reason,
                reason = write_loop(&stream, messages) => reason,
            };
            reader.close(&reason);
            say.send_replace(Some(reason));
        });
        Ok(Self {
            shared,
            task: task.abort_handle(),
            close_reason: end,
        })
    }

    /// Waits until the connection is closed and returns the reason.
    pub(super) async fn wait_closed(&self) -> String {
        let mut end = self.close_reason.clone();
        let end = end.wait_for(Option::is_some).await;
        let reason = end.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Returns the reason if the connection is closed.
    pub(super) fn close_error(&self) -> Option<CallError> {
        let waiting = self.shared.pending();
        waiting.closed.clone().map(CallError::Closed)
    }

    /// Sends a call if a slot is free, else returns the reply handler.
    pub(super) fn try_call(
        &self,
        slot: SlotClass,
        request: RpcRequest,
        on_reply: ReplyHandler,
    ) -> std::result::Result<(), (RpcRequest, ReplyHandler)> {
        let shared = &self.shared;
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let second = match slot {
            SlotClass::Any => None,
            SlotClass::Slow => match take(&shared.slow_slots) {
                None => return Err((request, on_reply)),
                permit => permit,
            },
        };
        match take(&shared.slots) {
            None => Err((request, on_reply)),
            permit => {
                shared.send_call(request, on_reply, [permit, second]);
                Ok(())
            }
        }
    }

    /// Sends a call as soon as a slot is free and waits for the reply.
    pub(super) async fn call(&self, request: RpcRequest) -> Result<Vec<u8>> {
        let by = request.deadline;
        let answer = async {
            let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
            let (reply_tx, reply_rx) = oneshot::channel();
            // The caller may have timed out.
            let then = Box::new(|answer| drop(reply_tx.send(answer)));
            self.shared.send_call(request, then, [slot.ok(), None]);
            reply_rx
                .await
                .unwrap_or_else(|_| Err(CallError::closed("closed")))
        };
        let answer = timeout_at(by.into(), answer).await;
        answer.unwrap_or(Err(CallError::TimedOut))
    }

    /// Returns since when an abandoned call of this procedure has been pending, or all slots have
    /// been occupied by abandoned calls so that no other call can be sent.
    pub(super) fn hung_since(&self, procedure: u32) -> Option<Instant> {
        let now = Instant::now();
        let waiting = self.shared.pending();
        let overdue = || waiting.calls.values().filter(|asked| asked.deadline <= now);
        let is_full = overdue().count() >= MAX_PENDING_CALLS;
        let hung = overdue().filter(|asked| is_full || asked.procedure == procedure);
        hung.map(|asked| asked.sent_at).min()
    }

    /// Returns the number of pending calls whose caller has timed out.
    pub(super) fn abandoned_calls(&self) -> u64 {
        let now = Instant::now();
        let waiting = self.shared.pending();
        let overdue = waiting.calls.values().filter(|asked| asked.deadline <= now);
        overdue.fold(0, |count, _| count + 1)
    }

    /// Returns whether all slots for slow calls have been occupied for that long, or by abandoned
    /// calls.
    pub(super) fn is_saturated(&self, timeout: Duration) -> bool {
        let now = Instant::now();
        let waiting = self.shared.pending();
        let slow = waiting.calls.values().filter(|asked| asked.is_slow);
        let old = slow.filter(|asked| asked.deadline <= now || asked.sent_at + timeout <= now);
        old.count() >= MAX_SLOW_CALLS
    }
}

impl fmt::Debug for RpcConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Drop for RpcConnection {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.close("closed");
    }
}

impl ConnectionShared {
    fn pending(&self) -> MutexGuard<'_, PendingCalls> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_call(
        &self,
        request: RpcRequest,
        on_reply: ReplyHandler,
        permits: [Option<OwnedSemaphorePermit>; 2],
    ) {
        let RpcRequest {
            procedure,
            body,
            deadline: by,
        } = request;
        let mut waiting = self.pending();
        if let Some(reason) = waiting.closed.clone() {
            drop(waiting);
            drop(permits);
            return on_reply(Err(CallError::Closed(reason)));
        }
        loop {
            waiting.last_serial = waiting.last_serial.wrapping_add(1);
            if waiting.last_serial != 0 && !waiting.calls.contains_key(&waiting.last_serial) {
                break;
            }
        }
        let serial = waiting.last_serial;
        let message = Message {
            program: wire::REMOTE_PROGRAM,
            procedure,
            kind: MessageType::Call,
            serial,
            is_error: false,
            body: &body,
        };
        let [_, slow] = &permits;
        let asked = PendingCall {
            on_reply,
            procedure,
            sent_at: Instant::now(),
            deadline: by,
            is_slow: slow.is_some(),
            _permits: permits,
        };
        waiting.calls.insert(serial, asked);
        drop(waiting);
        RpcCounters::increment(&self.counters.requests);
        // The queue has room for a message per slot; without a reader all calls are completed with
        // the reason.
        self.outgoing.try_send(message.encode()).ok();
    }

    /// Reads messages until the connection fails and returns the reason.
    async fn read_loop(&self, stream: &UnixStream, on_event: &EventHandler) -> String {
        let mut bytes = Vec::new();
        let mut second = (Instant::now(), 0_u32);
        loop {
            match read_chunk(stream, &mut bytes).await {
                Ok(0) => return "the daemon closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            let mut rest = bytes.as_slice();
            loop {
                match Message::parse(rest) {
                    Ok(Some((message, behind))) => {
                        rest = behind;
                        if self.handle_message(&message, on_event) {
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
                // A long reply is seldom followed by another one.
                bytes.shrink_to(READ_CHUNK);
            }
            let end = second.0 + Duration::from_secs(1);
            if second.1 >= MAX_EVENTS_PER_SECOND {
                sleep_until(end.into()).await;
            }
            if end <= Instant::now() {
                second = (Instant::now(), 0);
            }
        }
    }

    /// Handles a message and returns whether it was unsolicited (an event or a ping).
    fn handle_message(&self, message: &Message<'_>, on_event: &EventHandler) -> bool {
        match (message.program, message.kind) {
            (wire::REMOTE_PROGRAM, MessageType::Reply) => {
                let asked = self.pending().calls.remove(&message.serial);
                let Some(asked) = asked else {
                    return true;
                };
                let PendingCall {
                    on_reply: then,
                    _permits: permits,
                    ..
                } = asked;
                drop(permits);
                then(if message.is_error {
                    Err(match RemoteError::parse(message.body) {
                        Ok(refusal) => CallError::Remote(refusal),
                        Err(wrong) => CallError::Decode(wrong),
                    })
                } else {
                    Ok(message.body.to_vec())
                });
                return false;
            }
            (wire::REMOTE_PROGRAM, MessageType::Event) => {
                RpcCounters::increment(&self.counters.events);
                on_event(message.procedure, message.body);
            }
            (wire::KEEPALIVE_PROGRAM, MessageType::Event)
                if message.procedure == wire::KEEPALIVE_PROC_PING =>
            {
                let pong = Message {
                    program: wire::KEEPALIVE_PROGRAM,
                    procedure: wire::KEEPALIVE_PROC_PONG,
                    kind: MessageType::Event,
                    serial: 0,
                    is_error: false,
                    body: &[],
                };
                // A peer that sends pings and does not read gets no more replies; the room for
                // calls stays free.
                if self.outgoing.capacity() > MAX_PENDING_CALLS {
                    self.outgoing.try_send(pong.encode()).ok();
                }
            }
            _ => {}
        }
        true
    }

    fn close(&self, reason: &str) {
        let mut waiting = self.pending();
        waiting.closed.get_or_insert_with(|| reason.to_owned());
        let requests = std::mem::take(&mut waiting.calls);
        drop(waiting);
        for asked in requests.into_values() {
            let PendingCall {
                on_reply: then,
                _permits: permits,
                ..
            } = asked;
            drop(permits);
            then(Err(CallError::closed(reason)));
        }
    }
}

/// Reads the available bytes; 0 at the end of the stream.
async fn read_chunk(stream: &UnixStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        bytes.reserve(READ_CHUNK);
        match stream.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Writes messages until the connection fails and returns the reason.
async fn write_loop(stream: &UnixStream, mut messages: mpsc::Receiver<Vec<u8>>) -> String {
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
