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
        let current = status.borrow_and_update().clone();
        match &current {
            ConnectionStatus::Up(session) if session.close_error().is_none() => return current,
            ConnectionStatus::Connecting if self.is_unresponsive.load(Ordering::Relaxed) => {
                return current;
            }
            ConnectionStatus::Down {
                tried_at,
                is_rejected,
                ..
            } if *is_rejected || tried_at.elapsed() < self.timing.min_retry_interval => {
                return current;
            }
            ConnectionStatus::Connecting | ConnectionStatus::Up(_) => {}
            ConnectionStatus::NotFound | ConnectionStatus::Down { .. } => {
                self.retry_requested.notify_one();
                let retried = timeout_at(deadline.into(), status.changed()).await;
                if retried.is_err() || self.is_unresponsive.load(Ordering::Relaxed) {
                    return ConnectionStatus::Connecting;
                }
            }
        }
        let is_settled = |status: &ConnectionStatus| match status {
            ConnectionStatus::Connecting => false,
            ConnectionStatus::Up(session) => session.close_error().is_none(),
            ConnectionStatus::NotFound | ConnectionStatus::Down { .. } => true,
        };
        let settled = timeout_at(deadline.into(), status.wait_for(is_settled)).await;
        if let Ok(Ok(status)) = settled {
            return status.clone();
        }
        self.is_unresponsive.store(true, Ordering::Relaxed);
        ConnectionStatus::Connecting
    }

    /// Runs the reconnect loop forever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = self.timing.backoff;
        let mut last_uri = None;
        // Whether a daemon is expected: a default socket that has never existed is not an error.
        let mut was_found = self.endpoints.is_explicit;
        loop {
            self.status.send_replace(ConnectionStatus::Connecting);
            let result = self.connect(last_uri.as_deref()).await;
            let tried_at = Instant::now();
            let missing = "socket not found".to_owned();
            let mut is_permission_denied = false;
            let (reason, is_rejected) = match result {
                Ok(session) => {
                    last_uri = session.endpoint().uris.first().cloned();
                    let reason = self.run_session(session).await;
                    if tried_at.elapsed() >= self.timing.max_backoff {
                        backoff = self.timing.backoff;
                    }
                    (Some(reason), false)
                }
                Err(Some((endpoint, error))) => {
                    if error != CallError::TimedOut {
                        self.is_unresponsive.store(false, Ordering::Relaxed);
                    }
                    let reason = format!("{}: {error}", endpoint.socket.display());
                    is_permission_denied = matches!(error, CallError::PermissionDenied(_));
                    let is_rejected = is_permission_denied || matches!(error, CallError::Remote(_));
                    (Some(reason), is_rejected)
                }
                Err(None) => (was_found.then_some(missing), false),
            };
            was_found |= reason.is_some();
            let status = match reason {
                Some(reason) => {
                    self.status_log.log_down(&reason);
                    ConnectionStatus::Down {
                        tried_at: Instant::now(),
                        reason,
                        is_rejected,
                        is_permission_denied,
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
                    let deadline = Instant::now() + self.timing.connect_timeout;
                    // The error is reported to the next scrape.
                    session.list_domains(deadline).await.ok();
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
        let mut first_error = None;
        let offers_last_uri = |endpoint: &&Endpoint| {
            last_uri.is_none_or(|last| endpoint.uris.iter().any(|uri| uri == last))
        };
        for endpoint in self.endpoints.list.iter().filter(offers_last_uri) {
            if !socket_exists(endpoint) {
                continue;
            }
            let (events, counters) = (Arc::clone(&self.events), Arc::clone(&self.counters));
            match LibvirtSession::connect(endpoint.clone(), self.timing, events, counters).await {
                Ok(session) => return Ok(session),
                Err(error) => first_error.get_or_insert((endpoint, error)),
            };
        }
        Err(first_error)
    }

    /// Returns whether any of the sockets exists.
    pub(super) fn any_socket_exists(&self) -> bool {
        self.endpoints.list.iter().any(socket_exists)
    }
}

/// Also true if the directory cannot be searched, so that connecting reports why.
fn socket_exists(endpoint: &Endpoint) -> bool {
    let metadata = fs::symlink_metadata(&endpoint.socket);
    !metadata.is_err_and(|error| {
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
        let endpoint = Endpoint {
            socket,
            uris: vec!["qemu:///system".to_owned()],
        };
        let endpoints = Endpoints {
            list: vec![endpoint],
            is_explicit: true,
        };
        let timing = Timing {
            backoff: LONG,
            max_backoff: LONG,
            min_retry_interval: Duration::ZERO,
            connect_timeout,
            ..Timing::default()
        };
        Arc::new(ConnectionManager::new(endpoints, timing, Arc::default()))
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    async fn wait_for_status(
        manager: &ConnectionManager,
        predicate: impl Fn(&ConnectionStatus) -> bool,
    ) {
        let mut status = manager.status.subscribe();
        status.wait_for(predicate).await.unwrap();
    }

    /// Returns the status if it is available without waiting.
    async fn poll_now(manager: &ConnectionManager) -> Option<ConnectionStatus> {
        let status = manager.wait_connected(Instant::now() + LONG);
        timeout(Duration::ZERO, status).await.ok()
    }

    // The daemon accepts the connection and sends nothing.
    #[test]
    fn silent_daemon_is_waited_for_once() {
        let socket = socket("silent");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let manager = manager(socket, LONG);
            tokio::spawn(Arc::clone(&manager).run());
            assert!(poll_now(&manager).await.is_none());
            let deadline = Instant::now() + Duration::from_millis(50);
            assert!(matches!(
                manager.wait_connected(deadline).await,
                ConnectionStatus::Connecting
            ));
            // Later callers return at once.
            let next = poll_now(&manager).await;
            assert!(
                matches!(next, Some(ConnectionStatus::Connecting)),
                "{next:?}"
            );

            daemon.hang(false);
            wait_for_status(&manager, |status| matches!(status, ConnectionStatus::Up(_))).await;
            assert!(matches!(
                poll_now(&manager).await,
                Some(ConnectionStatus::Up(_))
            ));
            // After a lost connection, callers wait again.
            assert!(!manager.is_unresponsive.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn silent_daemon_is_not_waited_for_between_attempts() {
        let socket = socket("tries");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let manager = manager(socket, Duration::from_millis(20));
            manager.is_unresponsive.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&manager).run());
            wait_for_status(&manager, |status| {
                matches!(status, ConnectionStatus::Down { .. })
            })
            .await;
            // The daemon has not sent anything.
            assert!(manager.is_unresponsive.load(Ordering::Relaxed));
            let next = manager.wait_connected(Instant::now() + LONG).await;
            assert!(matches!(next, ConnectionStatus::Connecting), "{next:?}");
        });
    }

    #[test]
    fn rejected_connection_clears_silence() {
        let socket = socket("refuses");
        drop(UnixListener::bind(&socket).unwrap());
        run(async {
            let manager = manager(socket.clone(), LONG);
            manager.is_unresponsive.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&manager).run());
            wait_for_status(&manager, |status| {
                matches!(status, ConnectionStatus::Down { .. })
            })
            .await;
            assert!(!manager.is_unresponsive.load(Ordering::Relaxed));
        });
        fs::remove_file(&socket).unwrap();
    }
}
