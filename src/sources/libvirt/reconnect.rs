//! Reconnect loop.
//!
//! A missing or lost daemon is retried with exponential backoff, and at once when a scrape needs
//! the connection, unless the last attempt has only just failed.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout_at},
};

use super::{
    connection::{CallError, RpcCounters},
    endpoint::{Endpoint, Endpoints},
    event_state::DomainEvents,
    log_on_change::StatusLog,
    session::LibvirtSession,
};

/// Intervals and timeouts of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// First delay before a missing daemon is retried.
    pub(super) backoff: Duration,
    /// Maximum of that delay. A connection that lasted this long resets it.
    pub(super) max_backoff: Duration,
    /// Minimum interval between attempts triggered by scrapes.
    pub(super) min_retry_interval: Duration,
    /// Timeout for connecting, authenticating and opening.
    pub(super) connect_timeout: Duration,
    /// Interval between domain lists without scrapes.
    pub(super) list_interval: Duration,
    /// How long a cached definition is valid without an event.
    pub(super) definition_ttl: Duration,
    /// Delays before the statistics of a busy domain are queried again.
    pub(super) stats_retry_delays: [Duration; 2],
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            min_retry_interval: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(60),
            list_interval: Duration::from_secs(300),
            definition_ttl: Duration::from_secs(300),
            stats_retry_delays: [Duration::from_millis(30), Duration::from_millis(100)],
        }
    }
}

/// State of the connection.
#[derive(Debug, Clone)]
pub(super) enum ConnectionStatus {
    /// An attempt is in progress.
    Connecting,
    Up(Arc<LibvirtSession>),
    /// No socket exists.
    NotFound,
    /// The last attempt failed, or the connection was lost.
    Down {
        tried_at: Instant,
        reason: String,
        /// Whether the daemon rejected the connection, so that the next attempt waits for the
        /// backoff.
        is_rejected: bool,
        /// Whether the daemon rejected this user.
        is_permission_denied: bool,
    },
}

/// State shared by the reconnect loop and its users.
#[derive(Debug)]
pub(super) struct ConnectionManager {
    pub(super) endpoints: Endpoints,
    pub(super) events: Arc<DomainEvents>,
    pub(super) counters: Arc<RpcCounters>,
    status_log: Arc<StatusLog>,
    timing: Timing,
    status: watch::Sender<ConnectionStatus>,
    /// Notified when a scrape needs a connection.
    retry_requested: Notify,
    /// Whether a caller has timed out waiting for a connection since the last successful one.
    is_unresponsive: AtomicBool,
}

impl ConnectionManager {
    pub(super) fn new(endpoints: Endpoints, timing: Timing, status_log: Arc<StatusLog>) -> Self {
        Self {
            endpoints,
            status_log,
            timing,
            events: Arc::default(),
            counters: Arc::default(),
            status: watch::Sender::new(ConnectionStatus::Connecting),
            retry_requested: Notify::new(),
            is_unresponsive: AtomicBool::new(false),
        }
    }

    pub(super) fn status(&self) -> ConnectionStatus {
        self.status.borrow().clone()
    }

    /// Returns whether the daemon rejected this user.
    pub(super) fn is_permission_denied(&self) -> bool {
        let status = self.status.borrow();
        matches!(&*status, ConnectionStatus::Down { is_permission_denied, .. } if *is_permission_denied)
    }

    /// Returns the state, waiting until the deadline for an attempt in progress or a new one.
    pub(super) async fn wait_connected(&self, deadline: Instant) -> ConnectionStatus {
        let mut status = self.status.subscribe();
        let now = status.borrow_and_update().clone();
        match &now {
            ConnectionStatus::Up(session) if session.close_error().is_none() => return now,
            ConnectionStatus::Connecting if self.is_unresponsive.load(Ordering::Relaxed) => {
                return now;
            }
            ConnectionStatus::Down {
                tried_at: tried,
                is_rejected: is_refused,
                ..
            } if *is_refused || tried.elapsed() < self.timing.min_retry_interval => return now,
            ConnectionStatus::Connecting | ConnectionStatus::Up(_) => {}
            ConnectionStatus::NotFound | ConnectionStatus::Down { .. } => {
                self.retry_requested.notify_one();
                let tries = timeout_at(deadline.into(), status.changed()).await;
                if tries.is_err() || self.is_unresponsive.load(Ordering::Relaxed) {
                    return ConnectionStatus::Connecting;
                }
            }
        }
        let is_known = |status: &ConnectionStatus| match status {
            ConnectionStatus::Connecting => false,
            ConnectionStatus::Up(session) => session.close_error().is_none(),
            ConnectionStatus::NotFound | ConnectionStatus::Down { .. } => true,
        };
        let known = timeout_at(deadline.into(), status.wait_for(is_known)).await;
        if let Ok(Ok(status)) = known {
            return status.clone();
        }
        self.is_unresponsive.store(true, Ordering::Relaxed);
        ConnectionStatus::Connecting
    }

    /// Runs the reconnect loop forever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = self.timing.backoff;
        let mut kept = None;
        // Whether a daemon is expected: a default socket that has never existed is not an error.
        let mut is_known = self.endpoints.is_explicit;
        loop {
            self.status.send_replace(ConnectionStatus::Connecting);
            let begun = self.connect(kept.as_deref()).await;
            let tried = Instant::now();
            let missing = "there is no such socket".to_owned();
            let mut is_locked_out = false;
            let (reason, is_refused) = match begun {
                Ok(session) => {
                    kept = session.endpoint().uris.first().cloned();
                    let reason = self.run_session(session).await;
                    if tried.elapsed() >= self.timing.max_backoff {
                        backoff = self.timing.backoff;
                    }
                    (Some(reason), false)
                }
                Err(Some((place, failure))) => {
                    if failure != CallError::TimedOut {
                        self.is_unresponsive.store(false, Ordering::Relaxed);
                    }
                    let reason = format!("{}: {failure}", place.socket.display());
                    is_locked_out = matches!(failure, CallError::PermissionDenied(_));
                    let is_refused = is_locked_out || matches!(failure, CallError::Remote(_));
                    (Some(reason), is_refused)
                }
                Err(None) => (is_known.then_some(missing), false),
            };
            is_known |= reason.is_some();
            let status = match reason {
                Some(reason) => {
                    self.status_log.log_down(&reason);
                    ConnectionStatus::Down {
                        tried_at: Instant::now(),
                        reason,
                        is_rejected: is_refused,
                        is_permission_denied: is_locked_out,
                    }
                }
                None => ConnectionStatus::NotFound,
            };
            self.status.send_replace(status);
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.retry_requested.notified() => {}
            }
            backoff = backoff.saturating_mul(2).min(self.timing.max_backoff);
        }
    }

    /// Runs a session until it ends and returns the reason.
    async fn run_session(&self, session: Arc<LibvirtSession>) -> String {
        RpcCounters::increment(&self.counters.connections);
        self.is_unresponsive.store(false, Ordering::Relaxed);
        self.status
            .send_replace(ConnectionStatus::Up(Arc::clone(&session)));
        self.status_log.log_up(session.endpoint().socket.display());
        let listing = async {
            loop {
                if session.listing_hung_for().is_none() {
                    let by = Instant::now() + self.timing.connect_timeout;
                    // The error is reported to the next scrape.
                    session.list_domains(by).await.ok();
                }
                sleep(self.timing.list_interval).await;
            }
        };
        tokio::select! {
            reason = session.wait_closed() => reason,
            () = listing => String::new(),
        }
    }

    /// Connects to the first endpoint that accepts. The error is that of the first existing
    /// endpoint, or `None` if no socket exists. After a system or session connection, only
    /// endpoints with the same URI are tried.
    async fn connect(
        &self,
        last_uri: Option<&str>,
    ) -> Result<Arc<LibvirtSession>, Option<(&Endpoint, CallError)>> {
        let mut first = None;
        let is_like =
            |place: &&Endpoint| last_uri.is_none_or(|kept| place.uris.iter().any(|n| n == kept));
        for place in self.endpoints.list.iter().filter(is_like) {
            if !socket_exists(place) {
                continue;
            }
            let (heard, counts) = (Arc::clone(&self.events), Arc::clone(&self.counters));
            match LibvirtSession::connect(place.clone(), self.timing, heard, counts).await {
                Ok(session) => return Ok(session),
                Err(failure) => first.get_or_insert((place, failure)),
            };
        }
        Err(first)
    }

    /// Returns whether any of the sockets exists.
    pub(super) fn any_socket_exists(&self) -> bool {
        self.endpoints.list.iter().any(socket_exists)
    }
}

/// Also true if the directory cannot be searched, so that connecting reports why.
fn socket_exists(endpoint: &Endpoint) -> bool {
    let found = fs::symlink_metadata(&endpoint.socket);
    !found.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::PathBuf};

    use tokio::{runtime, time::timeout};

    use super::{super::fake::FakeLibvirt, *};

    const LONG: Duration = Duration::from_secs(3600);

    fn socket(name: &str) -> PathBuf {
        let file = format!("strata-libvirt-watch-{}-{name}", std::process::id());
        std::env::temp_dir().join(file)
    }

    /// A manager for this socket that retries only on request.
    fn manager(socket: PathBuf, connect_timeout: Duration) -> Arc<ConnectionManager> {
        let place = Endpoint {
            socket,
            uris: vec!["qemu:///system".to_owned()],
        };
        let places = Endpoints {
            list: vec![place],
            is_explicit: true,
        };
        let timing = Timing {
            backoff: LONG,
            max_backoff: LONG,
            min_retry_interval: Duration::ZERO,
            connect_timeout,
            ..Timing::default()
        };
        Arc::new(ConnectionManager::new(places, timing, Arc::default()))
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    async fn wait_for_status(
        manager: &ConnectionManager,
        is_so: impl Fn(&ConnectionStatus) -> bool,
    ) {
        let mut status = manager.status.subscribe();
        status.wait_for(is_so).await.unwrap();
    }

    /// Returns the status if it is available without waiting.
    async fn poll_now(manager: &ConnectionManager) -> Option<ConnectionStatus> {
        let stands = manager.wait_connected(Instant::now() + LONG);
        timeout(Duration::ZERO, stands).await.ok()
    }

    // The daemon accepts the connection and sends nothing.
    #[test]
    fn silent_daemon_is_waited_for_once() {
        let socket = socket("silent");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let keeper = manager(socket, LONG);
            tokio::spawn(Arc::clone(&keeper).run());
            assert!(poll_now(&keeper).await.is_none());
            let soon = Instant::now() + Duration::from_millis(50);
            assert!(matches!(
                keeper.wait_connected(soon).await,
                ConnectionStatus::Connecting
            ));
            // Later callers return at once.
            let next = poll_now(&keeper).await;
            assert!(
                matches!(next, Some(ConnectionStatus::Connecting)),
                "{next:?}"
            );

            daemon.hang(false);
            wait_for_status(&keeper, |status| matches!(status, ConnectionStatus::Up(_))).await;
            assert!(matches!(
                poll_now(&keeper).await,
                Some(ConnectionStatus::Up(_))
            ));
            // After a lost connection, callers wait again.
            assert!(!keeper.is_unresponsive.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn silent_daemon_is_not_waited_for_between_attempts() {
        let socket = socket("tries");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let keeper = manager(socket, Duration::from_millis(20));
            keeper.is_unresponsive.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&keeper).run());
            wait_for_status(&keeper, |status| {
                matches!(status, ConnectionStatus::Down { .. })
            })
            .await;
            // The daemon has not sent anything.
            assert!(keeper.is_unresponsive.load(Ordering::Relaxed));
            let next = keeper.wait_connected(Instant::now() + LONG).await;
            assert!(matches!(next, ConnectionStatus::Connecting), "{next:?}");
        });
    }

    #[test]
    fn rejected_connection_clears_silence() {
        let socket = socket("refuses");
        drop(UnixListener::bind(&socket).unwrap());
        run(async {
            let keeper = manager(socket.clone(), LONG);
            keeper.is_unresponsive.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&keeper).run());
            wait_for_status(&keeper, |status| {
                matches!(status, ConnectionStatus::Down { .. })
            })
            .await;
            assert!(!keeper.is_unresponsive.load(Ordering::Relaxed));
        });
        fs::remove_file(&socket).unwrap();
    }
}
