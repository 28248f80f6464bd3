//! A connection that is made when it is needed, and again when it broke.

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::virt::{connect::Connect, error, event};

use crate::sources::libvirt::{Versions, connection::one_line};

/// From one attempt to connect to the next, at first and at most.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// So often, in seconds, a daemon has to show that it is there.
const KEEPALIVE_SECONDS: i32 = 5;
/// After so many of these without a sign of it, the connection is closed.
const KEEPALIVE_COUNT: u32 = 5;

static EVENT_LOOP: Once = Once::new();

/// What was done so far, by all connections.
#[derive(Debug, Default)]
pub(super) struct CallCounters {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl CallCounters {
    /// One more request.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, or the way to one.
#[derive(Debug)]
pub(super) struct LibraryConnection {
    uri: Arc<str>,
    pub(super) counters: Arc<CallCounters>,
    connect: Option<Connect>,
    /// Whether nothing was asked over it so far.
    is_new: bool,
    versions: Option<Versions>,
    last_failure: Option<ConnectFailure>,
}

/// Why there is no connection, and until when none is tried.
#[derive(Debug)]
struct ConnectFailure {
    reason: String,
    retry_at: Instant,
    backoff: Duration,
}

impl LibraryConnection {
    pub(super) fn new(uri: Arc<str>, counters: Arc<CallCounters>) -> Self {
        Self {
            uri,
            counters,
            connect: None,
            is_new: false,
            versions: None,
            last_failure: None,
        }
    }

    /// The connection, and the versions of what is there; or why there is none.
    fn ensure_open(&mut self) -> Result<(&Connect, Option<Versions>), String> {
        // A driver that does not say lives in this process.
        let is_alive = |connect: &Connect| connect.is_alive().unwrap_or(true);
        let kept = self.connect.take().filter(is_alive);
        self.is_new = kept.is_none();
        let connect = kept.map_or_else(|| self.connect(), Ok)?;
        Ok((self.connect.insert(connect), self.versions.clone()))
    }

    /// Asks for a list. If that fails, the connection is given up; and if it was an older
    /// one, which may have broken without a sign, it is asked for over another.
    pub(super) fn list<T>(
        &mut self,
        list: impl Fn(&Connect) -> Result<T, error::Error>,
    ) -> Result<(T, Option<Versions>), String> {
        loop {
            let (connect, versions) = self.ensure_open()?;
            match list(connect) {
                Ok(list) => {
                    self.counters.count_request();
                    return Ok((list, versions));
                }
                Err(error) => {
                    self.connect = None;
                    if self.is_new {
                        return Err(one_line(error.message()));
                    }
                }
            }
        }
    }

    fn connect(&mut self) -> Result<Connect, String> {
        EVENT_LOOP.call_once(start_event_loop);
        if let Some(refused) = &self.last_failure
            && Instant::now() < refused.retry_at
        {
            return Err(refused.reason.clone());
        }
        match Connect::open_read_only(Some(&self.uri)) {
            Ok(connect) => {
                self.last_failure = None;
                self.counters.connections.fetch_add(1, Ordering::Relaxed);
                // Those in this process have no need of it.
                connect
                    .set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                    .ok();
                self.versions = read_versions(&connect);
                Ok(connect)
            }
            Err(error) => {
                let reason = one_line(error.message());
                let last = self.last_failure.take().map(|refused| refused.backoff);
                let backoff = last.map_or(BACKOFF[0], |last| (last * 2).min(BACKOFF[1]));
                self.last_failure = Some(ConnectFailure {
                    reason: reason.clone(),
                    retry_at: Instant::now() + backoff,
                    backoff,
                });
                Err(reason)
            }
        }
    }
}

/// Silences the library, and drives what watches over its connections.
fn start_event_loop() {
    // It would write each error to standard error.
    error::clear_error_callback();
    if event::event_register_default_impl().is_err() {
        return;
    }
    let drive = || {
        loop {
            if event::event_run_default_impl().is_err() {
                thread::sleep(BACKOFF[0]);
            }
        }
    };
    // Without it, a daemon that is silent is waited for; nothing else.
    let thread = thread::Builder::new().name("libvirt-events".to_owned());
    thread.spawn(drive).ok();
}

fn read_versions(connect: &Connect) -> Option<Versions> {
    let hypervisor = connect.hyp_version().ok();
    Some(Versions {
        driver: connect.driver_type().ok()?,
        hypervisor: hypervisor.filter(|it| *it > 0).map(format_version),
        daemon: format_version(connect.lib_version().ok()?),
    })
}

/// A version as it is written: the number has three digits for each part but the first.
fn format_version(number: u32) -> String {
    let (major, minor, release) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
    format!("{major}.{minor}.{release}")
}
