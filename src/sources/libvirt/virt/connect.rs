//! A connection that is opened on demand and reopened after it broke.

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

/// First and maximum delay between attempts to connect.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Interval of keepalive messages, in seconds.
const KEEPALIVE_SECONDS: i32 = 5;
/// Number of unanswered keepalive messages after which the connection is closed.
const KEEPALIVE_COUNT: u32 = 5;

static EVENT_LOOP: Once = Once::new();

/// Counters of all connections since the start.
#[derive(Debug, Default)]
pub(super) struct CallCounters {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl CallCounters {
    /// Counts a request.
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that may be closed.
#[derive(Debug)]
pub(super) struct LibraryConnection {
    uri: Arc<str>,
    pub(super) counters: Arc<CallCounters>,
    connect: Option<Connect>,
    /// Whether the connection was opened for the current request.
    is_new: bool,
    versions: Option<Versions>,
    last_failure: Option<ConnectFailure>,
}

/// A failed attempt to connect and when it may be repeated.
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

    /// Returns the connection, opening it if needed, and the versions of its driver and daemon.
    fn ensure_open(&mut self) -> Result<(&Connect, Option<Versions>), String> {
        // Drivers without support for this check live in this process.
        let is_alive = |connect: &Connect| connect.is_alive().unwrap_or(true);
        let open = self.connect.take().filter(is_alive);
        self.is_new = open.is_none();
        let connect = open.map_or_else(|| self.connect(), Ok)?;
        Ok((self.connect.insert(connect), self.versions.clone()))
    }

    /// Requests a list. On failure the connection is closed; if it was not new, it may have been
    /// broken already, and the list is requested again on a new one.
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
        if let Some(failure) = &self.last_failure
            && Instant::now() < failure.retry_at
        {
            return Err(failure.reason.clone());
        }
        match Connect::open_read_only(Some(&self.uri)) {
            Ok(connect) => {
                self.last_failure = None;
                self.counters.connections.fetch_add(1, Ordering::Relaxed);
                // Drivers in this process need no keepalive.
                connect
                    .set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                    .ok();
                self.versions = read_versions(&connect);
                Ok(connect)
            }
            Err(error) => {
                let reason = one_line(error.message());
                let last_backoff = self.last_failure.take().map(|failure| failure.backoff);
                let backoff = last_backoff.map_or(BACKOFF[0], |last_backoff| {
                    (last_backoff * 2).min(BACKOFF[1])
                });
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

/// Silences the library and starts its event loop, which keepalive needs.
fn start_event_loop() {
    // The default handler writes each error to standard error.
    error::clear_error_callback();
    if event::event_register_default_impl().is_err() {
        return;
    }
    let run_loop = || {
        loop {
            if event::event_run_default_impl().is_err() {
                thread::sleep(BACKOFF[0]);
            }
        }
    };
    // Without the event loop, a silent daemon is not detected; everything else works.
    let thread = thread::Builder::new().name("libvirt-events".to_owned());
    thread.spawn(run_loop).ok();
}

fn read_versions(connect: &Connect) -> Option<Versions> {
    let hypervisor = connect.hyp_version().ok();
    Some(Versions {
        driver: connect.driver_type().ok()?,
        hypervisor: hypervisor
            .filter(|version| *version > 0)
            .map(format_version),
        daemon: format_version(connect.lib_version().ok()?),
    })
}

/// Formats a version; the number has three decimal digits for each part but the first.
fn format_version(number: u32) -> String {
    let (major, minor, release) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
    format!("{major}.{minor}.{release}")
}
