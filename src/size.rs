//! Sizes in flags: a number of bytes, or a number with a unit.

/// Bytes in each unit. Single letters are rejected: `m` is 1024 * 1024 for Docker, `M` is
/// 1000 * 1000 in SI.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
    ("", 1),
];

/// Parses a size in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let invalid = || {
        format!(
            "invalid size {text:?}: expected a number of bytes, or a number with a unit: kB, MB, \
             GB (powers of 1000) or KiB, MiB, GiB (powers of 1024), such as 10MB"
        )
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(number).unwrap_or_default();
    let size = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, size) = size.ok_or_else(invalid)?;
    // `u64` would parse a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let number: u64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(*size).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_plain_bytes_and_units() {
        for (text, bytes) in [
            ("0", 0),
            ("33554432", 33_554_432),
            ("7B", 7),
            ("1kB", 1000),
            ("1KB", 1000),
            ("10MB", 10_000_000),
            ("64KiB", 65_536),
            ("32MiB", 33_554_432),
            ("2GB", 2_000_000_000),
            ("2GiB", 2_147_483_648),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rejects_other_text_and_names_the_units() {
        for text in [
            "",
            "MB",
            "1.5MB",
            "-1",
            "+1",
            "1 MB",
            "1m",
            "1M",
            "1mb",
            "1TB",
            "x",
            "99999999999GB",
            "18446744073709551616",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("MB") && error.contains("GiB"), "{error}");
        }
    }
}
