//! Sparklines: a word-sized line of the last values.

use std::fmt::Write;

/// The `d` attribute of an SVG path through equidistant values in a box of this size, from 0 at the
/// bottom to the maximum at the top. The last value is at the right edge, `slots` values fill the
/// width, and unknown values leave gaps.
#[must_use]
pub fn sparkline(values: &[Option<f64>], slots: u32, (width, height): (f64, f64)) -> String {
    let last = values.len().min(slots as usize);
    let values = values.iter().skip(values.len() - last);
    let known = values.clone().flatten().filter(|value| value.is_finite());
    let max = known.fold(0.0_f64, |max, value| max.max(*value));
    let scale = if max > 0.0 { height / max } else { 0.0 };
    let step = width / f64::from(slots.saturating_sub(1).max(1));
    let mut path = String::new();
    let mut is_drawing = false;
    for (left, value) in (0..last).rev().zip(values) {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            is_drawing = false;
            continue;
        };
        let left = u32::try_from(left).map_or(0.0, f64::from);
        let (x, y) = (width - left * step, height - value.max(0.0) * scale);
        let command = if is_drawing { 'L' } else { 'M' };
        // Writing to a String cannot fail.
        write!(path, "{command}{x:.1} {y:.1}").ok();
        if !is_drawing {
            // Makes an isolated point visible.
            path.push_str("h.1");
        }
        is_drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_rightmost_and_max_is_top() {
        let values = [Some(1.0), Some(4.0), None, Some(2.0)];
        let path = sparkline(&values, 5, (40.0, 16.0));
        assert_eq!(path, "M10.0 12.0h.1L20.0 0.0M40.0 8.0h.1");
        // If there are too many values, the newest are drawn.
        assert_eq!(sparkline(&values, 2, (40.0, 16.0)), "M40.0 0.0h.1");
    }

    #[test]
    fn zero_is_at_the_bottom() {
        let path = sparkline(&[Some(0.0), Some(0.0)], 2, (10.0, 8.0));
        assert_eq!(path, "M0.0 8.0h.1L10.0 8.0");
        assert_eq!(sparkline(&[None, Some(f64::INFINITY)], 2, (9.0, 9.0)), "");
    }
}
