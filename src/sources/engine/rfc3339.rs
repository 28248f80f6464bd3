//! Parses timestamps of engines: RFC 3339, for years in which containers exist.

use std::time::Duration;

/// Seconds in a day.
const DAY: u64 = 86_400;

/// Parses a time into the duration since the Unix epoch. Engines write the year 1 for a time that
/// is not set; it is before the epoch and returns `None`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = parse_numbers(date, '-', [4, 2, 2])?;
    let zone_start = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_start);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = parse_numbers(time, ':', [2, 2, 2])?;
    let is_valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_valid || year < 1970 {
        return None;
    }
    let years: u64 = (1970..year)
        .map(|year| 365 + u64::from(is_leap(year)))
        .sum();
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    let local = (years + months + day - 1) * DAY + hour * 3600 + minute * 60 + second;
    let seconds = match zone {
        "Z" | "z" => local,
        _ => {
            let (sign, offset) = zone.split_at(1);
            let [hours, minutes] = parse_numbers(offset, ':', [2, 2])?;
            let offset = hours * 3600 + minutes * 60;
            match sign {
                "+" => local.checked_sub(offset)?,
                _ => local + offset,
            }
        }
    };
    Some(Duration::new(seconds, parse_nanoseconds(fraction)?))
}

/// Parses numbers of exactly these digit counts, separated by one character.
fn parse_numbers<const N: usize>(
    text: &str,
    separator: char,
    lengths: [usize; N],
) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, length) in numbers.iter_mut().zip(lengths) {
        let part = parts.next()?;
        if part.len() != length || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Parses the fraction of a second; digits after the ninth are ignored.
fn parse_nanoseconds(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some(padded.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_timestamps_of_engines() {
        for (text, seconds, nanoseconds) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-11-21T06:57:09.299047132Z", 1_795_244_229, 299_047_132),
            ("2026-11-21T07:57:09.5+01:00", 1_795_244_229, 500_000_000),
            ("2026-11-20T23:27:09-07:30", 1_795_244_229, 0),
            ("2000-02-29T12:00:00Z", 951_825_600, 0),
            (
                "2026-11-21T06:57:09.1234567899Z",
                1_795_244_229,
                123_456_789,
            ),
        ] {
            let expected = Duration::new(seconds, nanoseconds);
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn unset_timestamp_is_none() {
        for text in [
            "0001-01-01T00:00:00Z",
            "",
            "2026-11-21",
            "2026-11-21T06:57:09",
            "2026-13-21T06:57:09Z",
            "2026-02-29T06:57:09Z",
            "2026-11-21T24:57:09Z",
            "2026-11-21T06:57:09.Z",
            "2026-11-21T06:57:09.-1Z",
            "+026-11-21T06:57:09Z",
            "2026-11-21T06:57:09Z ",
            "2026-11-21T06:57:09+1:00",
            "2026-11-21T06:57:09é",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
