//! What the log is told of libvirt: a line when it goes, and one when it is back, whoever
//! notices first: who keeps the connection that it is lost, or who asks that nobody answers.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

/// Whether the last logged status was up; nothing before the first log line.
#[derive(Debug, Default)]
pub(super) struct StatusLog(Mutex<Option<bool>>);

impl StatusLog {
    /// It answers, there.
    pub(super) fn log_up(&self, uri: impl Display) {
        if self.is_change(true) {
            info!(%uri, "libvirt answers");
        }
    }

    /// It does not, for this reason.
    pub(super) fn log_down(&self, error: impl Display) {
        if self.is_change(false) {
            warn!(%error, "libvirt does not answer");
        }
    }

    fn is_change(&self, is_up: bool) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.replace(is_up) != Some(is_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_says_already_is_no_news() {
        let news = StatusLog::default();
        let said = [false, false, true, true, false].map(|is_up| news.is_change(is_up));
        assert_eq!(said, [true, false, true, false, true]);
    }
}
