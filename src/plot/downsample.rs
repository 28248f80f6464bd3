//! Downsampling to what is visible: per pixel column the first, minimum, maximum and last point, so
//! that peaks of a single sample remain visible.

use std::time::Duration;

/// Time in seconds since the Unix epoch, and value.
pub(super) type TimedValue = (f64, f64);

/// Downsampled segments of a line between gaps. A gap is a missing value, or two points further
/// apart than `gap`, unless it lies within one pixel column.
pub(super) fn segments(
    points: &[(Duration, Option<f64>)],
    (from, to): (f64, f64),
    columns: u32,
    gap: f64,
) -> Vec<Vec<TimedValue>> {
    let width = ((to - from) / f64::from(columns.max(1))).max(f64::MIN_POSITIVE);
    let mut segments: Vec<Vec<TimedValue>> = Vec::new();
    let mut current = Segment::default();
    let mut has_gap = false;
    for (at, value) in points {
        let at = at.as_secs_f64();
        if at < from || at > to {
            continue;
        }
        let Some(value) = value.filter(|value| value.is_finite()) else {
            has_gap = true;
            continue;
        };
        let column = ((at - from) / width).floor();
        has_gap |= current.last().is_some_and(|(last, _)| at - last > gap);
        if has_gap && current.column.is_some_and(|it| it < column) {
            segments.extend(current.finish());
        }
        has_gap = false;
        current.add(column, (at, value));
    }
    segments.extend(current.finish());
    segments
}

#[derive(Default)]
struct Segment {
    points: Vec<TimedValue>,
    column: Option<f64>,
    /// Points of the current column, sorted by time when it is complete.
    first: TimedValue,
    min: TimedValue,
    max: TimedValue,
    last: TimedValue,
}

impl Segment {
    fn last(&self) -> Option<TimedValue> {
        self.column.map(|_| self.last)
    }

    fn add(&mut self, column: f64, point: TimedValue) {
        if self.column != Some(column) {
            self.end_column();
            self.column = Some(column);
            (self.first, self.min, self.max) = (point, point, point);
        }
        self.last = point;
        if point.1 < self.min.1 {
            self.min = point;
        }
        if point.1 > self.max.1 {
            self.max = point;
        }
    }

    fn end_column(&mut self) {
        if self.column.take().is_none() {
            return;
        }
        let mut points = [self.first, self.min, self.max, self.last];
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        for point in points {
            if self.points.last() != Some(&point) {
                self.points.push(point);
            }
        }
    }

    fn finish(&mut self) -> Option<Vec<TimedValue>> {
        self.end_column();
        let points = std::mem::take(&mut self.points);
        (!points.is_empty()).then_some(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[(u64, Option<f64>)]) -> Vec<(Duration, Option<f64>)> {
        let seconds = |(at, value): &(u64, _)| (Duration::from_secs(*at), *value);
        values.iter().map(seconds).collect()
    }

    #[test]
    fn downsampling_keeps_peaks() {
        let many: Vec<_> = (0..100_000).map(|n| (n, Some(1.0))).collect();
        let mut many = points(&many);
        many[54_321].1 = Some(9.0);
        many[54_322].1 = Some(-9.0);
        let sampled = segments(&many, (0.0, 100_000.0), 100, 2.0);
        assert_eq!(sampled.len(), 1);
        assert!(sampled[0].len() <= 400, "{}", sampled[0].len());
        assert!(sampled[0].contains(&(54_321.0, 9.0)));
        assert!(sampled[0].contains(&(54_322.0, -9.0)));
        assert!(sampled[0].is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn missing_values_leave_gaps() {
        let some = Some(1.0);
        let line = points(&[(0, some), (5, some), (10, None), (15, some), (40, some)]);
        let lengths = |columns| -> Vec<usize> {
            let all = segments(&line, (0.0, 50.0), columns, 12.0);
            all.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(50), [2, 1, 1]);
        // Gaps narrower than a pixel are ignored.
        assert_eq!(lengths(1), [2]);
    }

    #[test]
    fn drops_non_finite_and_out_of_range_points() {
        let line = points(&[(5, Some(1.0)), (15, Some(f64::NAN)), (25, Some(2.0))]);
        let segments_found = segments(&line, (10.0, 30.0), 20, 100.0);
        assert_eq!(segments_found, [[(25.0, 2.0)]]);
        assert!(segments(&[], (0.0, 1.0), 0, 1.0).is_empty());
    }
}
