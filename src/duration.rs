//! Durations in flags, in Go's format: `5s`, `1m30s`, `1.5h`, `500ms`.

use std::time::Duration;

/// Nanoseconds in each unit. A unit precedes units that are a prefix of it.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),  // the micro sign
    ("\u{3bc}s", 1e3), // the Greek letter
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses a duration. A number needs a unit, unless it is `0`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || {
        format!(
            "invalid duration {text:?}: expected numbers with a unit (ns, us, ms, s, m or h), such \
             as 5s, 1m30s or 500ms"
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    let mut rest = text;
    loop {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let (digits, after) = rest.split_at(rest.len() - number.len());
        let digits: f64 = digits.parse().map_err(|_| invalid())?;
        let (nanoseconds, after) = UNITS
            .iter()
            .find_map(|(unit, size)| Some((digits * size, after.strip_prefix(unit)?)))
            .ok_or_else(invalid)?;
        sum = Duration::try_from_secs_f64(nanoseconds / 1e9)
            .ok()
            .and_then(|part| sum.checked_add(part))
            .ok_or_else(invalid)?;
        if after.is_empty() {
            return Ok(sum);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_go_durations() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("2000us", 2),
            ("2000\u{b5}s", 2),
            ("0", 0),
        ] {
            assert_eq!(
                parse(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn rejects_other_text_and_names_the_units() {
        for text in [
            "", "5", "s", "5 s", "-5s", "5s3", "5d", "1e3s", "1..2s", "9e99h",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let error = parse("5").unwrap_err();
        assert_eq!(
            error,
            "invalid duration \"5\": expected numbers with a unit (ns, us, ms, s, m or h), such as \
             5s, 1m30s or 500ms"
        );
    }
}
