//! The file as it is served with, read again when it changed.
//!
//! It is looked at on use, at most once a second: it, its certificates and keys, by what `stat`
//! says of them, on a thread of its own, for a file system may hang. The request or connection
//! that is the first to come after a change waits for it, though not long. A new file that is
//! wrong is not taken: what is known stays, and that is said once.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hyper::{HeaderMap, Response};
use rustls::ServerConfig;
use tokio::time::{self, Instant};
use tracing::{error, info, warn};

use super::{Loaded, aside::aside, logins::Logins, rate_limit::Bucket};
use crate::{
    config_file::Seen,
    exporter::{Exporter, Refused},
};

/// How long the file is taken to be as it was.
const EVERY: Duration = Duration::from_secs(1);
/// How long a request waits for the files to be looked at.
const PATIENCE: Duration = Duration::from_secs(1);
/// A file that is being written is looked at again after this, a few times.
const SETTLES: Duration = Duration::from_millis(50);
const SETTLES_TIMES: usize = 10;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::http) struct Kept {
    path: PathBuf,
    state: Mutex<State>,
    /// As the file said at the start.
    limit: Option<Bucket>,
    logins: Arc<Logins>,
    exporter: Arc<Exporter>,
}

#[derive(Debug)]
struct State {
    current: Arc<Loaded>,
    /// The files, as they were when they were last read.
    seen: Vec<Seen>,
    looked: Instant,
    is_looking: bool,
}

impl Kept {
    /// Reads the file for the first time.
    pub(in crate::http) fn read(path: &Path, exporter: Arc<Exporter>) -> Result<Self, String> {
        let wrong = |said: String| format!("--web.config.file: {said}");
        let (loaded, seen) = Loaded::read(path);
        let current = Arc::new(loaded.map_err(wrong)?);
        exporter.web_config_read(current.expires());
        Ok(Self {
            path: path.to_owned(),
            limit: current.config.rate_limit.map(Bucket::new),
            logins: Arc::new(Logins::new().map_err(wrong)?),
            state: Mutex::new(State {
                current,
                seen,
                looked: Instant::now(),
                is_looking: false,
            }),
            exporter,
        })
    }

    /// What it makes of the server, for the log.
    pub(in crate::http) fn said(&self) -> String {
        self.lock().current.said()
    }

    /// What a connection is to be encrypted with; None for plain HTTP.
    pub(in crate::http) async fn tls(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        let tls = self.current().await.tls.clone();
        tls.map(|tls| tls.config)
    }

    /// Whether a request is to be answered.
    pub(in crate::http) async fn admit(
        self: &Arc<Self>,
        headers: &HeaderMap,
    ) -> Result<(), Refused> {
        if self.limit.as_ref().is_some_and(|limit| !limit.take()) {
            return Err(Refused::RateLimit);
        }
        let current = self.current().await;
        if current.config.users.is_empty() {
            return Ok(());
        }
        self.logins.check(&current.config.users, headers).await
    }

    /// Sets the headers that every answer has.
    pub(in crate::http) fn dress<B>(&self, answer: &mut Response<B>) {
        let current = Arc::clone(&self.lock().current);
        for (name, value) in &current.config.headers {
            answer.headers_mut().insert(name, value.clone());
        }
    }

    /// Reads the files again even if they look unchanged, such as after a SIGHUP, and logs the
    /// result.
    pub(in crate::http) async fn reload(self: &Arc<Self>) {
        loop {
            // One thread reads at a time.
            let was_looking = std::mem::replace(&mut self.lock().is_looking, true);
            if !was_looking {
                break;
            }
            time::sleep(SETTLES).await;
        }
        let look = Look(Arc::clone(self));
        aside(move || look.take()).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, as it is now if that can be seen soon.
    async fn current(self: &Arc<Self>) -> Arc<Loaded> {
        let is_due = {
            let mut state = self.lock();
            let is_due = !state.is_looking && state.looked.elapsed() >= EVERY;
            state.is_looking |= is_due;
            is_due
        };
        if is_due {
            let look = Look(Arc::clone(self));
            let look = aside(move || look.take_if_changed());
            if time::timeout(PATIENCE, look).await.is_err() {
                warn!(file = %self.path.display(), "the web config's files do not answer");
            }
        }
        Arc::clone(&self.lock().current)
    }
}

/// A look that is under way, until it is done or could not be begun.
struct Look(Arc<Kept>);

impl Drop for Look {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_looking = false;
        state.looked = Instant::now();
    }
}

impl Look {
    /// Reads the file again if it, or one that it names, has changed.
    fn take_if_changed(self) {
        let seen = self.0.lock().seen.clone();
        if !seen.iter().all(Seen::is_current) {
            self.take();
        }
    }

    /// Reads the file again.
    fn take(self) {
        let kept = &*self.0;
        let seen = kept.lock().seen.clone();
        settle(&seen);
        let (loaded, seen) = Loaded::read(&kept.path);
        let taken = loaded.and_then(|loaded| {
            let old = Arc::clone(&kept.lock().current);
            old.gives_way_to(&loaded)
                .map_err(|said| format!("{}: {said}", kept.path.display()))?;
            Ok(loaded)
        });
        let mut state = kept.lock();
        state.seen = seen;
        match taken {
            Ok(loaded) => {
                info!(file = %kept.path.display(), said = loaded.said(), "web config reloaded");
                if loaded.config.rate_limit != state.current.config.rate_limit {
                    warn!("a new rate_limit holds from the next start on");
                }
                kept.exporter.web_config_read(loaded.expires());
                state.current = Arc::new(loaded);
            }
            Err(error) => {
                error!(%error, "the new web config is wrong, the old one goes on");
                kept.exporter.web_config_is_wrong();
            }
        }
    }
}

/// Waits, though not for ever, until nobody writes any more.
fn settle(files: &[Seen]) {
    let look = || -> Vec<Seen> { files.iter().map(|file| Seen::now(&file.path)).collect() };
    let mut before = look();
    for _ in 0..SETTLES_TIMES {
        thread::sleep(SETTLES);
        let now = look();
        if now == before {
            return;
        }
        before = now;
    }
}
