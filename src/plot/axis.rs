//! Positions and labels of axis ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use super::PlotUnit;

/// A plotters axis with explicit tick positions, because plotters supports neither times nor steps
/// of 1024.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Axis {
    pub(super) fn new(range: Range<f64>, ticks: Vec<f64>) -> Self {
        Self { range, ticks }
    }
}

impl Ranged for Axis {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    #[expect(
        clippy::cast_possible_truncation,
        reason = "pixel coordinates are small"
    )]
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        (f64::from(first) + share * f64::from(last.saturating_sub(first))).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Tick positions and the end of an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AxisTicks {
    pub positions: Vec<f64>,
    pub end: f64,
}

/// About `count` ticks from 0 to at least `max`, in round steps of the unit.
pub(super) fn value_ticks(max: f64, unit: PlotUnit, count: usize) -> AxisTicks {
    let max = if max.is_finite() && max > 0.0 {
        max
    } else {
        1.0
    };
    let count = to_f64(count.max(1));
    let step = round_step(max / count, unit);
    let steps = (max / step).ceil().max(1.0);
    let mut positions = Vec::new();
    let mut number = 0.0;
    while number <= steps {
        positions.push(number * step);
        number += 1.0;
    }
    AxisTicks {
        positions,
        end: steps * step,
    }
}

/// The smallest round step that is at least `min`.
fn round_step(min: f64, unit: PlotUnit) -> f64 {
    let mut scale = 1.0;
    if let Some(base) = unit.scale_base() {
        while scale * base <= min {
            scale *= base;
        }
        if unit == PlotUnit::Bytes {
            // Powers of two, so that ticks are whole numbers of KiB, MiB and so on.
            let mut step = scale;
            while step < min {
                step *= 2.0;
            }
            return step;
        }
        // Fractions of a byte do not exist.
        return round_decimal(min.max(1.0));
    }
    round_decimal(min)
}

/// 1, 2 or 5 times a power of ten.
fn round_decimal(min: f64) -> f64 {
    let power = 10_f64.powf(min.log10().floor());
    let rounded = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    let step = rounded.into_iter().find(|step| *step >= min * 0.999_999);
    step.unwrap_or(power * 10.0)
}

/// Steps between times, in seconds.
const STEPS: [u32; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400,
    172_800, 604_800,
];

/// At most `count` times between `from` and `to`, in seconds since the Unix epoch, and the step
/// between them.
pub(super) fn time_ticks(from: f64, to: f64, count: usize) -> (Vec<f64>, f64) {
    let min = (to - from) / to_f64(count.max(1));
    let steps = STEPS.iter().map(|step| f64::from(*step));
    let step = steps.into_iter().find(|step| *step >= min);
    let step = step.unwrap_or_else(|| (min / 604_800.0).ceil() * 604_800.0);
    let mut positions = Vec::new();
    let mut time = (from / step).ceil() * step;
    while time <= to && positions.len() < 100 {
        positions.push(time);
        time += step;
    }
    (positions, step)
}

/// Time of day in UTC, or the date for steps of whole days.
#[expect(
    clippy::cast_possible_truncation,
    reason = "plotted times are near the present"
)]
pub(super) fn format_time(time: f64, step: f64) -> String {
    let seconds = time.round() as i64;
    let (day, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (hour, minute) = (second / 3600, second / 60 % 60);
    if step >= 86400.0 {
        let (month, day) = month_and_day(day);
        format!("{month:02}-{day:02}")
    } else if step >= 60.0 {
        format!("{hour:02}:{minute:02}")
    } else {
        format!("{hour:02}:{minute:02}:{:02}", second % 60)
    }
}

/// Month and day of a day number since the Unix epoch, by Howard Hinnant's
/// [days_from_civil](https://howardhinnant.github.io/date_algorithms.html).
fn month_and_day(day: i64) -> (i64, i64) {
    let day_of_era = (day + 719_468).rem_euclid(146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, day_of_month)
}

/// Converts a small number.
fn to_f64(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_steps_are_round_in_unit() {
        for (max, unit, step, end) in [
            (100.0, PlotUnit::Percent, 20.0, 100.0),
            (101.0, PlotUnit::Percent, 50.0, 150.0),
            (0.3, PlotUnit::Percent, 0.1, 0.3),
            (0.0, PlotUnit::Percent, 0.2, 1.0),
            (f64::NAN, PlotUnit::Percent, 0.2, 1.0),
            (100e6, PlotUnit::Bytes, 33_554_432.0, 100_663_296.0),
            (3.0, PlotUnit::Bytes, 1.0, 3.0),
            (7e6, PlotUnit::BytesPerSecond, 2e6, 8e6),
            (1.0, PlotUnit::BytesPerSecond, 1.0, 1.0),
        ] {
            let ticks = value_ticks(max, unit, 5);
            assert!(
                (ticks.positions[1] - step).abs() < step / 1e6,
                "{max}: {ticks:?}"
            );
            assert!((ticks.end - end).abs() < step / 1e6, "{max}: {ticks:?}");
            assert!(ticks.positions[0].abs() < f64::EPSILON);
        }
    }

    #[test]
    fn time_ticks_are_round() {
        let (at, step) = time_ticks(1_000_000_007.0, 1_000_000_307.0, 6);
        assert_eq!((at.len(), step), (5, 60.0));
        assert_eq!(format_time(at[0], step), "01:47");
        assert_eq!(format_time(1_000_000_007.0, 5.0), "01:46:47");
        // 2001-09-09, and the leap day of 2024.
        assert_eq!(format_time(1_000_000_007.0, 86400.0), "09-09");
        assert_eq!(format_time(1_709_164_800.0, 86400.0), "02-29");
        let (at, _) = time_ticks(0.0, 1e12, 6);
        assert!(at.len() <= 7);
    }
}
