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

use super::{LoadedConfig, aside::aside, auth::Authenticator, rate_limit::TokenBucket};
use crate::{
    config_file::FileVersion,
    self_metrics::{RejectReason, SelfMetrics},
};

/// How long the file is taken to be as it was.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request waits for the files to be looked at.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// A file that is being written is looked at again after this, a few times.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);
const MAX_SETTLE_CHECKS: usize = 10;

#[derive(Debug)]
pub(in crate::http) struct WebConfigWatcher {
    path: PathBuf,
    state: Mutex<ReloadState>,
    /// As the file said at the start.
    rate_limiter: Option<TokenBucket>,
    authenticator: Arc<Authenticator>,
    self_metrics: Arc<SelfMetrics>,
}

#[derive(Debug)]
struct ReloadState {
    current: Arc<LoadedConfig>,
    /// The files, as they were when they were last read.
    versions: Vec<FileVersion>,
    checked_at: Instant,
    is_checking: bool,
}

impl WebConfigWatcher {
    /// Reads the file for the first time.
    pub(in crate::http) fn load(
        path: &Path,
        self_metrics: Arc<SelfMetrics>,
    ) -> Result<Self, String> {
        let wrong = |message: String| format!("--web.config.file: {message}");
        let (loaded, versions) = LoadedConfig::load(path);
        let current = Arc::new(loaded.map_err(wrong)?);
        self_metrics.web_config_reloaded(current.cert_expires());
        Ok(Self {
            path: path.to_owned(),
            rate_limiter: current.config.rate_limit.map(TokenBucket::new),
            authenticator: Arc::new(Authenticator::new().map_err(wrong)?),
            state: Mutex::new(ReloadState {
                current,
                versions,
                checked_at: Instant::now(),
                is_checking: false,
            }),
            self_metrics,
        })
    }

    /// What it makes of the server, for the log.
    pub(in crate::http) fn summary(&self) -> String {
        self.lock().current.summary()
    }

    /// What a connection is to be encrypted with; None for plain HTTP.
    pub(in crate::http) async fn tls(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        let tls = self.current().await.tls.clone();
        tls.map(|tls| tls.config)
    }

    /// Whether a request is to be answered.
    pub(in crate::http) async fn authorize(
        self: &Arc<Self>,
        headers: &HeaderMap,
    ) -> Result<(), RejectReason> {
        if self
            .rate_limiter
            .as_ref()
            .is_some_and(|limit| !limit.try_take())
        {
            return Err(RejectReason::RateLimit);
        }
        let current = self.current().await;
        if current.config.users.is_empty() {
            return Ok(());
        }
        self.authenticator
            .authenticate(&current.config.users, headers)
            .await
    }

    /// Sets the headers that every answer has.
    pub(in crate::http) fn apply_headers<B>(&self, answer: &mut Response<B>) {
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
            let was_looking = std::mem::replace(&mut self.lock().is_checking, true);
            if !was_looking {
                break;
            }
            time::sleep(SETTLE_INTERVAL).await;
        }
        let look = ReloadTask(Arc::clone(self));
        aside(move || look.run()).await;
    }

    fn lock(&self) -> MutexGuard<'_, ReloadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, as it is now if that can be seen soon.
    async fn current(self: &Arc<Self>) -> Arc<LoadedConfig> {
        let is_due = {
            let mut state = self.lock();
            let is_due = !state.is_checking && state.checked_at.elapsed() >= CHECK_INTERVAL;
            state.is_checking |= is_due;
            is_due
        };
        if is_due {
            let look = ReloadTask(Arc::clone(self));
            let look = aside(move || look.take_if_changed());
            if time::timeout(CHECK_TIMEOUT, look).await.is_err() {
                warn!(file = %self.path.display(), "the web config's files do not answer");
            }
        }
        Arc::clone(&self.lock().current)
    }
}

/// A look that is under way, until it is done or could not be begun.
struct ReloadTask(Arc<WebConfigWatcher>);

impl Drop for ReloadTask {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_checking = false;
        state.checked_at = Instant::now();
    }
}

impl ReloadTask {
    /// Reads the file again if it, or one that it names, has changed.
    fn take_if_changed(self) {
        let seen = self.0.lock().versions.clone();
        if !seen.iter().all(FileVersion::is_current) {
            self.run();
        }
    }

    /// Reads the file again.
    fn run(self) {
        let watcher = &*self.0;
        let seen = watcher.lock().versions.clone();
        wait_until_stable(&seen);
        let (loaded, seen) = LoadedConfig::load(&watcher.path);
        let taken = loaded.and_then(|loaded| {
            let old = Arc::clone(&watcher.lock().current);
            old.can_be_replaced_by(&loaded)
                .map_err(|said| format!("{}: {said}", watcher.path.display()))?;
            Ok(loaded)
        });
        let mut state = watcher.lock();
        state.versions = seen;
        match taken {
            Ok(loaded) => {
                info!(file = %watcher.path.display(), said = loaded.summary(), "web config reloaded");
                if loaded.config.rate_limit != state.current.config.rate_limit {
                    warn!("a new rate_limit holds from the next start on");
                }
                watcher
                    .self_metrics
                    .web_config_reloaded(loaded.cert_expires());
                state.current = Arc::new(loaded);
            }
            Err(error) => {
                error!(%error, "the new web config is wrong, the old one goes on");
                watcher.self_metrics.web_config_reload_failed();
            }
        }
    }
}

/// Waits, though not for ever, until nobody writes any more.
fn wait_until_stable(files: &[FileVersion]) {
    let look = || -> Vec<FileVersion> {
        files
            .iter()
            .map(|file| FileVersion::stat(&file.path))
            .collect()
    };
    let mut before = look();
    for _ in 0..MAX_SETTLE_CHECKS {
        thread::sleep(SETTLE_INTERVAL);
        let now = look();
        if now == before {
            return;
        }
        before = now;
    }
}
