//! Who gives way when all rings together reach their bound: the oldest containers, those
//! that are gone before those that are there. All are halved before one is quartered, and
//! of those that are gone whole rings are given up last.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Flags, Moment, Series, packed::BYTES};

/// No ring gets shorter than this.
const MIN_POINTS: usize = 12;

/// How many points there may be in all.
pub(super) fn all(flags: &Flags) -> usize {
    let bytes = usize::try_from(flags.history_max_bytes).unwrap_or(usize::MAX);
    bytes / BYTES
}

/// The rings, and what is left beside them.
#[derive(Debug)]
pub(super) struct Room<'a> {
    series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
    left: usize,
    points: usize,
}

impl<'a> Room<'a> {
    /// Of rings that may have so many points together, and each so many.
    pub(super) fn of(
        series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
        all: usize,
        points: usize,
    ) -> Self {
        let taken: usize = series.values().map(|it| it.ring().capacity()).sum();
        Self {
            series,
            left: all.saturating_sub(taken),
            points,
        }
    }

    /// The one of this id, made if there is room.
    pub(super) fn series(&mut self, id: &str, path: &str, now: Moment) -> Option<Arc<Series>> {
        if let Some(known) = self.series.get(id) {
            return Some(Arc::clone(known));
        }
        if self.left < self.points {
            self.make();
        }
        let capacity = self.points.min(self.left);
        if capacity < MIN_POINTS.min(self.points) {
            return None;
        }
        self.left -= capacity;
        let series = Arc::new(Series::new(id, path, capacity, now));
        self.series
            .insert(Arc::clone(&series.id), Arc::clone(&series));
        Some(series)
    }

    /// Those that are gone, the longest first, then the others, the oldest first.
    fn oldest(&self) -> Vec<Arc<Series>> {
        let mut all: Vec<_> = self.series.values().map(Arc::clone).collect();
        all.sort_by_key(|it| {
            let when = if it.is_gone() {
                it.last_there()
            } else {
                it.begun
            };
            (!it.is_gone(), when)
        });
        all
    }

    /// Makes room for a whole ring, as far as that can be.
    fn make(&mut self) {
        let oldest = self.oldest();
        let mut points = self.points;
        while points > MIN_POINTS {
            points = (points / 2).max(MIN_POINTS);
            for series in &oldest {
                if self.left >= self.points {
                    return;
                }
                let mut ring = series.ring();
                let spared = ring.capacity().saturating_sub(points);
                if spared > 0 {
                    ring.resize(points);
                    self.left += spared;
                }
            }
        }
        for series in oldest.iter().filter(|it| it.is_gone.load(Relaxed)) {
            if self.left >= self.points {
                return;
            }
            self.series.remove(&series.id);
            self.left += series.ring().capacity();
        }
    }

    /// Gives back what was taken, to the youngest first, where there is room again.
    pub(super) fn grow(&mut self) {
        if self.left == 0 {
            return;
        }
        for series in self.oldest().iter().rev() {
            let mut ring = series.ring();
            let lacks = self.points.saturating_sub(ring.capacity());
            if lacks > 0 && lacks <= self.left {
                ring.resize(self.points);
                self.left -= lacks;
            }
        }
    }
}
