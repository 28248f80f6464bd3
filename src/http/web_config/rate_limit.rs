//! Rate limit of requests.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::schema::RateLimit;

/// A token bucket with `burst` tokens that refills by one token per interval. Its state is the
/// time at which it is full again.
#[derive(Debug)]
pub(super) struct TokenBucket {
    interval: Duration,
    depth: Duration,
    full_at: Mutex<Instant>,
}

impl TokenBucket {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            interval: limit.interval,
            depth: limit.interval.saturating_mul(limit.burst),
            full_at: Mutex::new(Instant::now()),
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn try_take(&self) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = (*full_at).max(now).checked_add(self.interval) else {
            return false;
        };
        let has_token = next.duration_since(now) <= self.depth;
        if has_token {
            *full_at = next;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn allows_burst_then_one_per_interval() {
        let interval = Duration::from_secs(10);
        let bucket = TokenBucket::new(RateLimit { interval, burst: 3 });
        let taken = |bucket: &TokenBucket| (0..10).filter(|_| bucket.try_take()).count();
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
    async fn longest_interval_does_not_overflow() {
        let interval = Duration::MAX;
        let bucket = TokenBucket::new(RateLimit { interval, burst: 3 });
        assert!(!bucket.try_take());
    }
}
