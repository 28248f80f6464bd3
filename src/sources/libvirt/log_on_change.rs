//! Logs changes of availability: one line when libvirt becomes unavailable and one when it is
//! available again, whether the connection task or a scrape notices first.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

/// Whether the last logged status was up; nothing before the first log line.
#[derive(Debug, Default)]
pub(super) struct StatusLog(Mutex<Option<bool>>);

impl StatusLog {
    /// Logs that the daemon at this URI is available, unless that was the last logged state.
    pub(super) fn log_up(&self, uri: impl Display) {
        if self.is_change(true) {
            info!(%uri, "libvirt is up");
        }
    }

    /// Logs that the daemon is unavailable and why, unless that was the last logged state.
    pub(super) fn log_down(&self, error: impl Display) {
        if self.is_change(false) {
            warn!(%error, "libvirt is down");
        }
    }

    fn is_change(&self, is_up: bool) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace(is_up) != Some(is_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_only_changes() {
        let log = StatusLog::default();
        let changes = [false, false, true, true, false].map(|is_up| log.is_change(is_up));
        assert_eq!(changes, [true, false, true, false, true]);
    }
}
