//! The task that sees to it that there is a connection.
//!
//! A daemon that is not there, or not any more, is tried again, ever more seldom; and at
//! once when somebody asks, if the last try is not just over.

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
    connection::{Counts, Failure},
    heard::Heard,
    news::News,
    place::{Place, Places},
    session::Session,
};

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Until a daemon that is not there is tried again, the first time.
    pub(super) backoff: Duration,
    /// The same, at most. One that was there for so long is tried anew.
    pub(super) max_backoff: Duration,
    /// From one try to the next when somebody asks.
    pub(super) pause: Duration,
    /// How long it may take until a connection is of use.
    pub(super) handshake: Duration,
    /// From one list of domains to the next while nobody asks.
    pub(super) refresh: Duration,
    /// How long what a description says is good without an event.
    pub(super) lifetime: Duration,
    /// Until a domain is asked again of which not all was said, each time.
    pub(super) again: [Duration; 2],
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            handshake: Duration::from_secs(60),
            refresh: Duration::from_secs(300),
            lifetime: Duration::from_secs(300),
            again: [Duration::from_millis(30), Duration::from_millis(100)],
        }
    }
}

/// How it stands.
#[derive(Debug, Clone)]
pub(super) enum Status {
    /// Somebody is connecting.
    Connecting,
    Up(Arc<Session>),
    /// There is nobody.
    Absent,
    /// It did not work, then.
    Down {
        tried: Instant,
        reason: String,
        /// Whether the daemon said no, and should not hear the same question soon.
        is_refused: bool,
        /// Whether it was because it does not let this user in.
        is_locked_out: bool,
    },
}

/// What the task and those who ask share.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) places: Places,
    pub(super) heard: Arc<Heard>,
    pub(super) counts: Arc<Counts>,
    news: Arc<News>,
    timing: Timing,
    status: watch::Sender<Status>,
    /// Told when somebody would like to have a connection.
    wanted: Notify,
    /// Whether somebody waited in vain for a connection, and there has been none since.
    is_silent: AtomicBool,
}

impl Keeper {
    pub(super) fn new(places: Places, timing: Timing, news: Arc<News>) -> Self {
        Self {
            places,
            news,
            timing,
            heard: Arc::default(),
            counts: Arc::default(),
            status: watch::Sender::new(Status::Connecting),
            wanted: Notify::new(),
            is_silent: AtomicBool::new(false),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Whether there is no connection as the daemon does not let this user in.
    pub(super) fn is_locked_out(&self) -> bool {
        let status = self.status.borrow();
        matches!(&*status, Status::Down { is_locked_out, .. } if *is_locked_out)
    }

    /// How it stands by then, after another try if there is need of one.
    pub(super) async fn stands(&self, by: Instant) -> Status {
        let mut status = self.status.subscribe();
        let now = status.borrow_and_update().clone();
        match &now {
            Status::Up(session) if session.end().is_none() => return now,
            Status::Connecting if self.is_silent.load(Ordering::Relaxed) => return now,
            Status::Down {
                tried, is_refused, ..
            } if *is_refused || tried.elapsed() < self.timing.pause => return now,
            Status::Connecting | Status::Up(_) => {}
            Status::Absent | Status::Down { .. } => {
                self.wanted.notify_one();
                let tries = timeout_at(by.into(), status.changed()).await;
                if tries.is_err() || self.is_silent.load(Ordering::Relaxed) {
                    return Status::Connecting;
                }
            }
        }
        let is_known = |status: &Status| match status {
            Status::Connecting => false,
            Status::Up(session) => session.end().is_none(),
            Status::Absent | Status::Down { .. } => true,
        };
        let known = timeout_at(by.into(), status.wait_for(is_known)).await;
        if let Ok(Ok(status)) = known {
            return status.clone();
        }
        self.is_silent.store(true, Ordering::Relaxed);
        Status::Connecting
    }

    /// Keeps a connection for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = self.timing.backoff;
        let mut kept = None;
        // Whether there should be one: none that never was is missed.
        let mut is_known = self.places.is_named;
        loop {
            self.status.send_replace(Status::Connecting);
            let begun = self.begin(kept.as_deref()).await;
            let tried = Instant::now();
            let missing = "there is no such socket".to_owned();
            let mut is_locked_out = false;
            let (reason, is_refused) = match begun {
                Ok(session) => {
                    kept = session.place().names.first().cloned();
                    let reason = self.keep(session).await;
                    if tried.elapsed() >= self.timing.max_backoff {
                        backoff = self.timing.backoff;
                    }
                    (Some(reason), false)
                }
                Err(Some((place, failure))) => {
                    if failure != Failure::Late {
                        self.is_silent.store(false, Ordering::Relaxed);
                    }
                    let reason = format!("{}: {failure}", place.socket.display());
                    is_locked_out = matches!(failure, Failure::LockedOut(_));
                    let is_refused = is_locked_out || matches!(failure, Failure::Refused(_));
                    (Some(reason), is_refused)
                }
                Err(None) => (is_known.then_some(missing), false),
            };
            is_known |= reason.is_some();
            let status = match reason {
                Some(reason) => {
                    self.news.is_down(&reason);
                    Status::Down {
                        tried: Instant::now(),
                        reason,
                        is_refused,
                        is_locked_out,
                    }
                }
                None => Status::Absent,
            };
            self.status.send_replace(status);
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.wanted.notified() => {}
            }
            backoff = backoff.saturating_mul(2).min(self.timing.max_backoff);
        }
    }

    /// Waits until a session is over, and says why.
    async fn keep(&self, session: Arc<Session>) -> String {
        Counts::add(&self.counts.connections);
        self.is_silent.store(false, Ordering::Relaxed);
        self.status.send_replace(Status::Up(Arc::clone(&session)));
        self.news.is_up(session.place().socket.display());
        let listing = async {
            loop {
                if session.is_hung().is_none() {
                    let by = Instant::now() + self.timing.handshake;
                    // Whoever asks is told.
                    session.guests(by).await.ok();
                }
                sleep(self.timing.refresh).await;
            }
        };
        tokio::select! {
            reason = session.over() => reason,
            () = listing => String::new(),
        }
    }

    /// Connects to the first place that lets us. Nothing where there is none; else what
    /// the first that is there says. Once it was one of the system's or of a user's, the
    /// other is not tried.
    async fn begin(&self, kept: Option<&str>) -> Result<Arc<Session>, Option<(&Place, Failure)>> {
        let mut first = None;
        let is_like =
            |place: &&Place| kept.is_none_or(|kept| place.names.iter().any(|n| n == kept));
        for place in self.places.all.iter().filter(is_like) {
            if !is_there(place) {
                continue;
            }
            let (heard, counts) = (Arc::clone(&self.heard), Arc::clone(&self.counts));
            match Session::begin(place.clone(), self.timing, heard, counts).await {
                Ok(session) => return Ok(session),
                Err(failure) => first.get_or_insert((place, failure)),
            };
        }
        Err(first)
    }

    /// Whether there is a socket to connect to.
    pub(super) fn is_anywhere(&self) -> bool {
        self.places.all.iter().any(is_there)
    }
}

/// Also where it cannot be seen, for then it can be said why.
fn is_there(place: &Place) -> bool {
    let found = fs::symlink_metadata(&place.socket);
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

    /// Who sees to a connection to this socket, and tries again only when asked to.
    fn keeper(socket: PathBuf, handshake: Duration) -> Arc<Keeper> {
        let place = Place {
            socket,
            names: vec!["qemu:///system".to_owned()],
        };
        let places = Places {
            all: vec![place],
            is_named: true,
        };
        let timing = Timing {
            backoff: LONG,
            max_backoff: LONG,
            pause: Duration::ZERO,
            handshake,
            ..Timing::default()
        };
        Arc::new(Keeper::new(places, timing, Arc::default()))
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    async fn until(keeper: &Keeper, is_so: impl Fn(&Status) -> bool) {
        let mut status = keeper.status.subscribe();
        status.wait_for(is_so).await.unwrap();
    }

    /// What whoever has all the time there is hears at once, if anything.
    async fn at_once(keeper: &Keeper) -> Option<Status> {
        let stands = keeper.stands(Instant::now() + LONG);
        timeout(Duration::ZERO, stands).await.ok()
    }

    #[test]
    fn a_daemon_that_takes_a_connection_and_says_nothing_is_waited_for_once() {
        let socket = socket("silent");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let keeper = keeper(socket, LONG);
            tokio::spawn(Arc::clone(&keeper).run());
            assert!(at_once(&keeper).await.is_none());
            let soon = Instant::now() + Duration::from_millis(50);
            assert!(matches!(keeper.stands(soon).await, Status::Connecting));
            // Everybody else has better to do.
            let next = at_once(&keeper).await;
            assert!(matches!(next, Some(Status::Connecting)), "{next:?}");

            daemon.hang(false);
            until(&keeper, |status| matches!(status, Status::Up(_))).await;
            assert!(matches!(at_once(&keeper).await, Some(Status::Up(_))));
            // Should it be lost, it is waited for again.
            assert!(!keeper.is_silent.load(Ordering::Relaxed));
        });
    }

    #[test]
    fn who_gave_up_on_a_silent_daemon_does_not_wait_for_the_next_try() {
        let socket = socket("tries");
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        daemon.hang(true);
        run(async {
            let keeper = keeper(socket, Duration::from_millis(20));
            keeper.is_silent.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&keeper).run());
            until(&keeper, |status| matches!(status, Status::Down { .. })).await;
            // It did say nothing.
            assert!(keeper.is_silent.load(Ordering::Relaxed));
            let next = keeper.stands(Instant::now() + LONG).await;
            assert!(matches!(next, Status::Connecting), "{next:?}");
        });
    }

    #[test]
    fn a_daemon_that_refuses_is_not_silent() {
        let socket = socket("refuses");
        drop(UnixListener::bind(&socket).unwrap());
        run(async {
            let keeper = keeper(socket.clone(), LONG);
            keeper.is_silent.store(true, Ordering::Relaxed);
            tokio::spawn(Arc::clone(&keeper).run());
            until(&keeper, |status| matches!(status, Status::Down { .. })).await;
            assert!(!keeper.is_silent.load(Ordering::Relaxed));
        });
        fs::remove_file(&socket).unwrap();
    }
}
