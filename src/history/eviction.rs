//! Eviction when all rings together reach the memory limit. The oldest containers lose samples
//! first, and containers that are gone before those that are present. All rings are halved before
//! one is quartered; whole rings are evicted last, and only of containers that are gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{BootInstant, HistoryFlags, Series, packed::PACKED_SIZE};

/// Minimum capacity of a ring.
const MIN_POINTS: usize = 12;

/// Maximum number of points in all rings.
pub(super) fn max_points(flags: &HistoryFlags) -> usize {
    let bytes = usize::try_from(flags.history_max_bytes).unwrap_or(usize::MAX);
    bytes / PACKED_SIZE
}

/// The rings, and the number of unallocated points.
#[derive(Debug)]
pub(super) struct RingAllocator<'a> {
    series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
    free_points: usize,
    points_per_ring: usize,
}

impl<'a> RingAllocator<'a> {
    /// Creates an allocator for rings with `max_points` in total and `points_per_ring` each.
    pub(super) fn new(
        series: &'a mut BTreeMap<Arc<str>, Arc<Series>>,
        max_points: usize,
        points_per_ring: usize,
    ) -> Self {
        let allocated: usize = series.values().map(|it| it.ring().capacity()).sum();
        Self {
            series,
            free_points: max_points.saturating_sub(allocated),
            points_per_ring,
        }
    }

    /// Returns the series of this id, or creates it if there is space.
    pub(super) fn get_or_create(
        &mut self,
        id: &str,
        path: &str,
        now: BootInstant,
    ) -> Option<Arc<Series>> {
        if let Some(series) = self.series.get(id) {
            return Some(Arc::clone(series));
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

    /// All series in order of eviction: those that are gone, the longest first, then the others,
    /// the oldest first.
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

    /// Frees as many points as possible, up to a full ring.
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
                let freed = ring.capacity().saturating_sub(points);
                if freed > 0 {
                    ring.resize(points);
                    self.free_points += freed;
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

    /// Restores the capacity of shortened rings while there is space, the youngest first.
    pub(super) fn regrow(&mut self) {
        if self.free_points == 0 {
            return;
        }
        for series in self.eviction_order().iter().rev() {
            let mut ring = series.ring();
            let missing = self.points_per_ring.saturating_sub(ring.capacity());
            if missing > 0 && missing <= self.free_points {
                ring.resize(self.points_per_ring);
                self.free_points -= missing;
            }
        }
    }
}
