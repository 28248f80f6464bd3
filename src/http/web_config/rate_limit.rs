//! How many requests are answered.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::schema::RateLimit;

/// A bucket of as many tokens as may be taken at once, into which another falls after every
/// interval; kept as the moment at which it is full again.
#[derive(Debug)]
pub(super) struct Bucket {
    interval: Duration,
    depth: Duration,
    full_at: Mutex<Instant>,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            interval: limit.interval,
            depth: limit.interval.saturating_mul(limit.burst),
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&self) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = (*full_at).max(now).checked_add(self.interval) else {
            return false;
        };
        let has_one = next.duration_since(now) <= self.depth;
        if has_one {
            *full_at = next;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_answered_and_then_one_in_every_interval() {
        let interval = Duration::from_secs(10);
        let bucket = Bucket::new(RateLimit { interval, burst: 3 });
        let taken = |bucket: &Bucket| (0..10).filter(|_| bucket.take()).count();
        assert_eq!(taken(&bucket), 3);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(taken(&bucket), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&bucket), 1);
        tokio::time::advance(Duration::from_secs(25)).await;
        assert_eq!(taken(&bucket), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&bucket), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn no_interval_is_too_long() {
        let interval = Duration::MAX;
        let bucket = Bucket::new(RateLimit { interval, burst: 3 });
        assert!(!bucket.take());
    }
}
