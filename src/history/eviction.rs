//! Who gives way when all rings together reach their bound: the oldest containers, those
//! that are gone before those that are there. All are halved before one is quartered, and
//! of those that are gone whole rings are given up last.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{BootInstant, HistoryFlags, Series, packed::PACKED_SIZE};

/// No ring gets shorter than this.
const MIN_POINTS: usize = 12;

/// How many points there may be in all.
pub(super) fn max_points(flags: &HistoryFlags) -> usize {
    let bytes = usize::try_from(flags.history_max_bytes).unwrap_or(usize::MAX);
    bytes / PACKED_SIZE
}

/// The rings, and what is left beside them.
#[derive(Debug)]
pub(super) struct RingAllocator<'a> {
    series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
    free_points: usize,
    points_per_ring: usize,
}

impl<'a> RingAllocator<'a> {
    /// Of rings that may have so many points together, and each so many.
    pub(super) fn new(
        series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
        max_points: usize,
        points_per_ring: usize,
    ) -> Self {
        let taken: usize = series.values().map(|it| it.ring().capacity()).sum();
        Self {
            series,
            free_points: max_points.saturating_sub(taken),
            points_per_ring,
        }
    }

    /// The one of this id, made if there is room.
    pub(super) fn get_or_create(
        &mut self,
        id: &str,
        path: &str,
        now: BootInstant,
    ) -> Option<Arc<Series>> {
        if let Some(known) = self.series.get(id) {
            return Some(Arc::clone(known));
        }
        if self.free_points < self.points_per_ring {
            self.evict();
        }
        let capacity = self.points_per_ring.min(self.free_points);
        if capacity < MIN_POINTS.min(self.points_per_ring) {
            return None;
        }
        self.free_points -= capacity;
        let series = Arc::new(Series::new(id, path, capacity, now));
        self.series
            .insert(Arc::clone(&series.id), Arc::clone(&series));
        Some(series)
    }

    /// Those that are gone, the longest first, then the others, the oldest first.
    fn eviction_order(&self) -> Vec<Arc<Series>> {
        let mut all: Vec<_> = self.series.values().map(Arc::clone).collect();
        all.sort_by_key(|it| {
            let when = if it.is_gone() {
                it.last_sampled()
            } else {
                it.created
            };
            (!it.is_gone(), when)
        });
        all
    }

    /// Makes room for a whole ring, as far as that can be.
    fn evict(&mut self) {
        let oldest = self.eviction_order();
        let mut points = self.points_per_ring;
        while points > MIN_POINTS {
            points = (points / 2).max(MIN_POINTS);
            for series in &oldest {
                if self.free_points >= self.points_per_ring {
                    return;
                }
                let mut ring = series.ring();
                let spared = ring.capacity().saturating_sub(points);
                if spared > 0 {
                    ring.resize(points);
                    self.free_points += spared;
                }
            }
        }
        for series in oldest.iter().filter(|it| it.is_gone.load(Relaxed)) {
            if self.free_points >= self.points_per_ring {
                return;
            }
            self.series.remove(&series.id);
            self.free_points += series.ring().capacity();
        }
    }

    /// Gives back what was taken, to the youngest first, where there is room again.
    pub(super) fn regrow(&mut self) {
        if self.free_points == 0 {
            return;
        }
        for series in self.eviction_order().iter().rev() {
            let mut ring = series.ring();
            let lacks = self.points_per_ring.saturating_sub(ring.capacity());
            if lacks > 0 && lacks <= self.free_points {
                ring.resize(self.points_per_ring);
                self.free_points -= lacks;
            }
        }
    }
}
