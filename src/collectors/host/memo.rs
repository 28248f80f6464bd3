//! What was decided about the names in a file, so that a scrape does not decide again.
//!
//! The kernel lists the same names in the same order scrape after scrape. So a
//! decision is found by its place in the list, where a map would hash every name.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// More names than any list of the kernel's has; those beyond are decided each time.
const MAX_NAMES: usize = 1 << 17;

/// Decisions of an earlier scrape.
#[derive(Debug)]
pub(super) struct Memo<T>(Mutex<Vec<(String, T)>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Memo<T> {
    /// Begins to go through the list.
    pub(super) fn recall(&self) -> Recall<'_, T> {
        Recall {
            decided: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            place: 0,
        }
    }
}

/// The decisions, and how far the list has been gone through.
#[derive(Debug)]
pub(super) struct Recall<'a, T> {
    decided: MutexGuard<'a, Vec<(String, T)>>,
    place: usize,
}

impl<T> Recall<'_, T> {
    /// The decision about the next name in the list; `decide` makes it where the
    /// name was not in this place before.
    pub(super) fn next(&mut self, name: &str, decide: impl FnOnce(&str) -> T) -> &T {
        let place = self.place.min(MAX_NAMES);
        self.place += 1;
        let known = self.decided.get(place).is_some_and(|(n, _)| n == name);
        if !known {
            self.decided.truncate(place);
            self.decided.push((name.to_owned(), decide(name)));
        }
        &self.decided[place].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided_anew(memo: &Memo<usize>, list: &[&str]) -> Vec<String> {
        let mut anew = Vec::new();
        let mut recall = memo.recall();
        for name in list {
            let decision = recall.next(name, |name| {
                anew.push(name.to_owned());
                name.len()
            });
            assert_eq!(*decision, name.len());
        }
        anew
    }

    #[test]
    fn only_a_name_that_was_not_there_before_is_decided() {
        let memo = Memo::default();
        assert_eq!(decided_anew(&memo, &["a", "bb", "ccc"]), ["a", "bb", "ccc"]);
        assert!(decided_anew(&memo, &["a", "bb", "ccc"]).is_empty());
        assert_eq!(decided_anew(&memo, &["a", "new", "ccc"]), ["new", "ccc"]);
        assert!(decided_anew(&memo, &["a", "new"]).is_empty());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let memo = Memo::default();
        let mut recall = memo.recall();
        for i in 0..MAX_NAMES + 9 {
            assert_eq!(*recall.next(&i.to_string(), |_| i), i);
        }
        assert_eq!(recall.decided.len(), MAX_NAMES + 1);
    }
}
