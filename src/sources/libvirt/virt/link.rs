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

static EVENTS: Once = Once::new();

/// What was done so far, by all connections.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl Counts {
    /// One more request.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection, or the way to one.
#[derive(Debug)]
pub(super) struct Link {
    uri: Arc<str>,
    pub(super) counts: Arc<Counts>,
    connect: Option<Connect>,
    /// Whether nothing was asked over it so far.
    is_new: bool,
    versions: Option<Versions>,
    refused: Option<Refused>,
}

/// Why there is no connection, and until when none is tried.
#[derive(Debug)]
struct Refused {
    reason: String,
    until: Instant,
    backoff: Duration,
}

impl Link {
    pub(super) fn new(uri: Arc<str>, counts: Arc<Counts>) -> Self {
        Self {
            uri,
            counts,
            connect: None,
            is_new: false,
            versions: None,
            refused: None,
        }
    }

    /// The connection, and the versions of what is there; or why there is none.
    fn open(&mut self) -> Result<(&Connect, Option<Versions>), String> {
        // A driver that does not say lives in this process.
        let is_alive = |connect: &Connect| connect.is_alive().unwrap_or(true);
        let kept = self.connect.take().filter(is_alive);
        self.is_new = kept.is_none();
        let connect = kept.map_or_else(|| self.opened(), Ok)?;
        Ok((self.connect.insert(connect), self.versions.clone()))
    }

    /// Asks for a list. If that fails, the connection is given up; and if it was an older
    /// one, which may have broken without a sign, it is asked for over another.
    pub(super) fn list<T>(
        &mut self,
        list: impl Fn(&Connect) -> Result<T, error::Error>,
    ) -> Result<(T, Option<Versions>), String> {
        loop {
            let (connect, versions) = self.open()?;
            match list(connect) {
                Ok(list) => {
                    self.counts.asked();
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

    fn opened(&mut self) -> Result<Connect, String> {
        EVENTS.call_once(begin);
        if let Some(refused) = &self.refused
            && Instant::now() < refused.until
        {
            return Err(refused.reason.clone());
        }
        match Connect::open_read_only(Some(&self.uri)) {
            Ok(connect) => {
                self.refused = None;
                self.counts.connections.fetch_add(1, Ordering::Relaxed);
                // Those in this process have no need of it.
                connect
                    .set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                    .ok();
                self.versions = versions(&connect);
                Ok(connect)
            }
            Err(error) => {
                let reason = one_line(error.message());
                let last = self.refused.take().map(|refused| refused.backoff);
                let backoff = last.map_or(BACKOFF[0], |last| (last * 2).min(BACKOFF[1]));
                self.refused = Some(Refused {
                    reason: reason.clone(),
                    until: Instant::now() + backoff,
                    backoff,
                });
                Err(reason)
            }
        }
    }
}

/// Silences the library, and drives what watches over its connections.
fn begin() {
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

fn versions(connect: &Connect) -> Option<Versions> {
    let hypervisor = connect.hyp_version().ok();
    Some(Versions {
        driver: connect.driver_type().ok()?,
        hypervisor: hypervisor.filter(|it| *it > 0).map(version),
        daemon: version(connect.lib_version().ok()?),
    })
}

/// A version as it is written: the number has three digits for each part but the first.
fn version(number: u32) -> String {
    let (major, minor, release) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
    format!("{major}.{minor}.{release}")
}
