//! The active web config, reloaded when its files change.
//!
//! On use, but at most once a second, the config file and its certificates and keys are checked
//! for changes with `stat`, on a separate thread, because a file system may hang. The first
//! request or connection after a change waits for the reload, with a timeout. An invalid new
//! config is rejected: the old one stays active, and the error is logged once.

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

/// Minimum time between two checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request waits for a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of checks whether a file is still being written.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);
const MAX_SETTLE_CHECKS: usize = 10;

#[derive(Debug)]
pub(in crate::http) struct WebConfigWatcher {
    path: PathBuf,
    state: Mutex<ReloadState>,
    /// Set at the start, not reloaded.
    rate_limiter: Option<TokenBucket>,
    authenticator: Arc<Authenticator>,
    self_metrics: Arc<SelfMetrics>,
}

#[derive(Debug)]
struct ReloadState {
    current: Arc<LoadedConfig>,
    /// Versions of the files when they were last read.
    versions: Vec<FileVersion>,
    checked_at: Instant,
    is_checking: bool,
}

impl WebConfigWatcher {
    /// Loads the file for the first time.
    pub(in crate::http) fn load(
        path: &Path,
        self_metrics: Arc<SelfMetrics>,
    ) -> Result<Self, String> {
        let flag_error = |message: String| format!("--web.config.file: {message}");
        let (loaded, versions) = LoadedConfig::load(path);
        let current = Arc::new(loaded.map_err(flag_error)?);
        self_metrics.web_config_reloaded(current.cert_expires());
        Ok(Self {
            path: path.to_owned(),
            rate_limiter: current.config.rate_limit.map(TokenBucket::new),
            authenticator: Arc::new(Authenticator::new().map_err(flag_error)?),
            state: Mutex::new(ReloadState {
                current,
                versions,
                checked_at: Instant::now(),
                is_checking: false,
            }),
            self_metrics,
        })
    }

    /// Summarises the settings for the log.
    pub(in crate::http) fn summary(&self) -> String {
        self.lock().current.summary()
    }

    /// TLS configuration of a new connection; `None` for plain HTTP.
    pub(in crate::http) async fn tls(self: &Arc<Self>) -> Option<Arc<ServerConfig>> {
        let tls = self.current().await.tls.clone();
        tls.map(|tls| tls.config)
    }

    /// Checks the rate limit and the credentials of a request.
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

    /// Sets the configured response headers.
    pub(in crate::http) fn apply_headers<B>(&self, response: &mut Response<B>) {
        let current = Arc::clone(&self.lock().current);
        for (name, value) in &current.config.headers {
            response.headers_mut().insert(name, value.clone());
        }
    }

    /// Reads the files again even if they look unchanged, such as after a SIGHUP, and logs the
    /// result.
    pub(in crate::http) async fn reload(self: &Arc<Self>) {
        loop {
            // One thread reads at a time.
            let was_checking = std::mem::replace(&mut self.lock().is_checking, true);
            if !was_checking {
                break;
            }
            time::sleep(SETTLE_INTERVAL).await;
        }
        let task = ReloadTask(Arc::clone(self));
        aside(move || task.run()).await;
    }

    fn lock(&self) -> MutexGuard<'_, ReloadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current config, reloaded if it has changed and the check does not time out.
    async fn current(self: &Arc<Self>) -> Arc<LoadedConfig> {
        let is_due = {
            let mut state = self.lock();
            let is_due = !state.is_checking && state.checked_at.elapsed() >= CHECK_INTERVAL;
            state.is_checking |= is_due;
            is_due
        };
        if is_due {
            let task = ReloadTask(Arc::clone(self));
            let check = aside(move || task.reload_if_changed());
            if time::timeout(CHECK_TIMEOUT, check).await.is_err() {
                warn!(file = %self.path.display(), "timed out reading the web config files");
            }
        }
        Arc::clone(&self.lock().current)
    }
}

/// A check in progress. Dropping it ends the check, even if it never started.
struct ReloadTask(Arc<WebConfigWatcher>);

impl Drop for ReloadTask {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_checking = false;
        state.checked_at = Instant::now();
    }
}

impl ReloadTask {
    /// Reloads the config if its file or a file it refers to has changed.
    fn reload_if_changed(self) {
        let versions = self.0.lock().versions.clone();
        if !versions.iter().all(FileVersion::is_current) {
            self.run();
        }
    }

    /// Reloads the config.
    fn run(self) {
        let watcher = &*self.0;
        let versions = watcher.lock().versions.clone();
        wait_until_stable(&versions);
        let (loaded, versions) = LoadedConfig::load(&watcher.path);
        let result = loaded.and_then(|loaded| {
            let old = Arc::clone(&watcher.lock().current);
            old.can_be_replaced_by(&loaded)
                .map_err(|error| format!("{}: {error}", watcher.path.display()))?;
            Ok(loaded)
        });
        let mut state = watcher.lock();
        state.versions = versions;
        match result {
            Ok(loaded) => {
                info!(file = %watcher.path.display(), summary = loaded.summary(), "web config \
                                                                                   reloaded");
                if loaded.config.rate_limit != state.current.config.rate_limit {
                    warn!("rate_limit changed: takes effect after a restart");
                }
                watcher
                    .self_metrics
                    .web_config_reloaded(loaded.cert_expires());
                state.current = Arc::new(loaded);
            }
            Err(error) => {
                error!(%error, "cannot reload web config, keeping the old one");
                watcher.self_metrics.web_config_reload_failed();
            }
        }
    }
}

/// Waits until the files stop changing, with a limit.
fn wait_until_stable(files: &[FileVersion]) {
    let stat_all = || -> Vec<FileVersion> {
        files
            .iter()
            .map(|file| FileVersion::stat(&file.path))
            .collect()
    };
    let mut before = stat_all();
    for _ in 0..MAX_SETTLE_CHECKS {
        thread::sleep(SETTLE_INTERVAL);
        let now = stat_all();
        if now == before {
            return;
        }
        before = now;
    }
}
