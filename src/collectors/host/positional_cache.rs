//! Cache of values computed from the names in a file, so that a scrape does not recompute them.
//!
//! The kernel lists the same names in the same order in every scrape. A cached value is
//! therefore found by its position in the list, whereas a map would hash every name.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Larger than any list of the kernel; names beyond the limit are computed every time.
const MAX_ENTRIES: usize = 1 << 17;

/// Values computed by earlier scrapes.
#[derive(Debug)]
pub(super) struct PositionalCache<T>(Mutex<Vec<(String, T)>>);

impl<T> Default for PositionalCache<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> PositionalCache<T> {
    /// Starts a pass over the list.
    pub(super) fn cursor(&self) -> CacheCursor<'_, T> {
        CacheCursor {
            entries: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            position: 0,
        }
    }
}

/// Cached values and the current position in the list.
#[derive(Debug)]
pub(super) struct CacheCursor<'a, T> {
    entries: MutexGuard<'a, Vec<(String, T)>>,
    position: usize,
}

impl<T> CacheCursor<'_, T> {
    /// Returns the value of the next name in the list; calls `compute` if the name was not at
    /// this position before.
    pub(super) fn next_or_insert_with(
        &mut self,
        name: &str,
        compute: impl FnOnce(&str) -> T,
    ) -> &T {
        let position = self.position.min(MAX_ENTRIES);
        self.position += 1;
        let is_hit = self.entries.get(position).is_some_and(|(n, _)| n == name);
        if !is_hit {
            self.entries.truncate(position);
            self.entries.push((name.to_owned(), compute(name)));
        }
        &self.entries[position].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recomputed(memo: &PositionalCache<usize>, list: &[&str]) -> Vec<String> {
        let mut recomputed = Vec::new();
        let mut recall = memo.cursor();
        for name in list {
            let decision = recall.next_or_insert_with(name, |name| {
                recomputed.push(name.to_owned());
                name.len()
            });
            assert_eq!(*decision, name.len());
        }
        recomputed
    }

    #[test]
    fn only_new_names_are_computed() {
        let memo = PositionalCache::default();
        assert_eq!(recomputed(&memo, &["a", "bb", "ccc"]), ["a", "bb", "ccc"]);
        assert!(recomputed(&memo, &["a", "bb", "ccc"]).is_empty());
        assert_eq!(recomputed(&memo, &["a", "new", "ccc"]), ["new", "ccc"]);
        assert!(recomputed(&memo, &["a", "new"]).is_empty());
    }

    #[test]
    fn cache_is_bounded() {
        let memo = PositionalCache::default();
        let mut recall = memo.cursor();
        for i in 0..MAX_ENTRIES + 9 {
            assert_eq!(*recall.next_or_insert_with(&i.to_string(), |_| i), i);
        }
        assert_eq!(recall.entries.len(), MAX_ENTRIES + 1);
    }
}
