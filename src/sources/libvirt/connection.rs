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
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(error) => f.write_str(&one_line(error)),
            Self::PermissionDenied(reason) | Self::Closed(reason) => f.write_str(&one_line(reason)),
            Self::Decode(error) => error.fmt(f),
            Self::TimedOut => f.write_str("timed out"),
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
    /// Any slot, for calls that the daemon completes by itself.
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
        let (outgoing, messages) = mpsc::channel(SEND_QUEUE);
        let shared = Arc::new(ConnectionShared {
            pending: Mutex::default(),
            outgoing,
            slots: Arc::new(Semaphore::new(MAX_PENDING_CALLS)),
            slow_slots: Arc::new(Semaphore::new(MAX_SLOW_CALLS)),
            counters,
        });
        let (close_tx, close_rx) = watch::channel(None);
        let connection = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let reason = tokio::select! {
                reason = connection.read_loop(&stream, &on_event) => reason,
                reason = write_loop(&stream, messages) => reason,
            };
            connection.close(&reason);
            close_tx.send_replace(Some(reason));
        });
        Ok(Self {
            shared,
            task: task.abort_handle(),
            close_reason: close_rx,
        })
    }

    /// Waits until the connection is closed and returns the reason.
    pub(super) async fn wait_closed(&self) -> String {
        let mut close_reason = self.close_reason.clone();
        let close_reason = close_reason.wait_for(Option::is_some).await;
        let reason = close_reason.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Returns the reason if the connection is closed.
    pub(super) fn close_error(&self) -> Option<CallError> {
        let pending = self.shared.pending();
        pending.closed.clone().map(CallError::Closed)
    }

    /// Sends a call if a slot is free, else returns the reply handler.
    pub(super) fn try_call(
        &self,
        slot: SlotClass,
        request: RpcRequest,
        on_reply: ReplyHandler,
    ) -> std::result::Result<(), (RpcRequest, ReplyHandler)> {
        let shared = &self.shared;
        let try_acquire = |slots: &Arc<Semaphore>| Arc::clone(slots).try_acquire_owned().ok();
        let slow_permit = match slot {
            SlotClass::Any => None,
            SlotClass::Slow => match try_acquire(&shared.slow_slots) {
                None => return Err((request, on_reply)),
                permit => permit,
            },
        };
        match try_acquire(&shared.slots) {
            None => Err((request, on_reply)),
            permit => {
                shared.send_call(request, on_reply, [permit, slow_permit]);
                Ok(())
            }
        }
    }

    /// Sends a call as soon as a slot is free and waits for the reply.
    pub(super) async fn call(&self, request: RpcRequest) -> Result<Vec<u8>> {
        let deadline = request.deadline;
        let reply = async {
            let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
            let (reply_tx, reply_rx) = oneshot::channel();
            // The caller may have timed out.
            let on_reply = Box::new(|reply| drop(reply_tx.send(reply)));
            self.shared.send_call(request, on_reply, [slot.ok(), None]);
            reply_rx
                .await
                .unwrap_or_else(|_| Err(CallError::closed("closed")))
        };
        let reply = timeout_at(deadline.into(), reply).await;
        reply.unwrap_or(Err(CallError::TimedOut))
    }

    /// Returns since when an abandoned call of this procedure has been pending, or all slots have
    /// been occupied by abandoned calls so that no other call can be sent.
    pub(super) fn hung_since(&self, procedure: u32) -> Option<Instant> {
        let now = Instant::now();
        let pending = self.shared.pending();
        let overdue = || pending.calls.values().filter(|call| call.deadline <= now);
        let is_full = overdue().count() >= MAX_PENDING_CALLS;
        let hung = overdue().filter(|call| is_full || call.procedure == procedure);
        hung.map(|call| call.sent_at).min()
    }

    /// Returns the number of pending calls whose caller has timed out.
    pub(super) fn abandoned_calls(&self) -> u64 {
        let now = Instant::now();
        let pending = self.shared.pending();
        let overdue = pending.calls.values().filter(|call| call.deadline <= now);
        overdue.fold(0, |count, _| count + 1)
    }

    /// Returns whether all slots for slow calls have been occupied for that long, or by abandoned
    /// calls.
    pub(super) fn is_saturated(&self, timeout: Duration) -> bool {
        let now = Instant::now();
        let pending = self.shared.pending();
        let slow = pending.calls.values().filter(|call| call.is_slow);
        let old = slow.filter(|call| call.deadline <= now || call.sent_at + timeout <= now);
        old.count() >= MAX_SLOW_CALLS
    }
}

impl fmt::Debug for RpcConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcConnection").finish_non_exhaustive()
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
            deadline,
        } = request;
        let mut pending = self.pending();
        if let Some(reason) = pending.closed.clone() {
            drop(pending);
            drop(permits);
            return on_reply(Err(CallError::Closed(reason)));
        }
        loop {
            pending.last_serial = pending.last_serial.wrapping_add(1);
            if pending.last_serial != 0 && !pending.calls.contains_key(&pending.last_serial) {
                break;
            }
        }
        let serial = pending.last_serial;
        let message = Message {
            program: wire::REMOTE_PROGRAM,
            procedure,
            kind: MessageType::Call,
            serial,
            is_error: false,
            body: &body,
        };
        let [_, slow] = &permits;
        let call = PendingCall {
            on_reply,
            procedure,
            sent_at: Instant::now(),
            deadline,
            is_slow: slow.is_some(),
            _permits: permits,
        };
        pending.calls.insert(serial, call);
        drop(pending);
        RpcCounters::increment(&self.counters.requests);
        // The queue has room for a message per slot; without a reader all calls are completed with
        // the reason.
        self.outgoing.try_send(message.encode()).ok();
    }

    /// Reads messages until the connection fails and returns the reason.
    async fn read_loop(&self, stream: &UnixStream, on_event: &EventHandler) -> String {
        let mut bytes = Vec::new();
        let mut window = (Instant::now(), 0_u32);
        loop {
            match read_chunk(stream, &mut bytes).await {
                Ok(0) => return "the daemon closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
            let mut rest = bytes.as_slice();
            loop {
                match Message::parse(rest) {
                    Ok(Some((message, remaining))) => {
                        rest = remaining;
                        if self.handle_message(&message, on_event) {
                            window.1 = window.1.saturating_add(1);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
            let consumed = bytes.len() - rest.len();
            bytes.drain(..consumed);
            if bytes.is_empty() {
                // A long reply is seldom followed by another one.
                bytes.shrink_to(READ_CHUNK);
            }
            let window_end = window.0 + Duration::from_secs(1);
            if window.1 >= MAX_EVENTS_PER_SECOND {
                sleep_until(window_end.into()).await;
            }
            if window_end <= Instant::now() {
                window = (Instant::now(), 0);
            }
        }
    }

    /// Handles a message and returns whether it was unsolicited (an event or a ping).
    fn handle_message(&self, message: &Message<'_>, on_event: &EventHandler) -> bool {
        match (message.program, message.kind) {
            (wire::REMOTE_PROGRAM, MessageType::Reply) => {
                let call = self.pending().calls.remove(&message.serial);
                let Some(call) = call else {
                    return true;
                };
                let PendingCall {
                    on_reply,
                    _permits: permits,
                    ..
                } = call;
                drop(permits);
                on_reply(if message.is_error {
                    Err(match RemoteError::parse(message.body) {
                        Ok(error) => CallError::Remote(error),
                        Err(error) => CallError::Decode(error),
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
        let mut pending = self.pending();
        pending.closed.get_or_insert_with(|| reason.to_owned());
        let calls = std::mem::take(&mut pending.calls);
        drop(pending);
        for call in calls.into_values() {
            let PendingCall {
                on_reply,
                _permits: permits,
                ..
            } = call;
            drop(permits);
            on_reply(Err(CallError::closed(reason)));
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
            result => return result,
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
