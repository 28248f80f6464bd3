//! Formatting of numbers with units.

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlotUnit {
    /// Percent; for CPU time, of one core.
    Percent,
    /// Bytes, with binary prefixes as for memory.
    Bytes,
    /// Bytes per second, with decimal prefixes as for network links.
    BytesPerSecond,
    /// A count.
    Count,
}

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const DECIMAL: [&str; 7] = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s", "EB/s"];

impl PlotUnit {
    /// The number with its unit, in three significant digits.
    #[must_use]
    pub fn format(self, number: f64) -> String {
        let (number, name) = match self {
            Self::Percent => (number, "%"),
            Self::Bytes => scaled(number, 1024.0, &BINARY),
            Self::BytesPerSecond => scaled(number, 1000.0, &DECIMAL),
            Self::Count => return three_digits(number),
        };
        format!("{} {name}", three_digits(number))
    }

    /// Factor between prefixes: 1024 or 1000, if the unit has prefixes.
    pub(super) fn scale_base(self) -> Option<f64> {
        match self {
            Self::Percent | Self::Count => None,
            Self::Bytes => Some(1024.0),
            Self::BytesPerSecond => Some(1000.0),
        }
    }
}

/// The number with the largest prefix that leaves an integer part.
fn scaled(mut number: f64, base: f64, names: &[&'static str]) -> (f64, &'static str) {
    let mut names = names.iter();
    let mut name = names.next();
    // A value that would be rounded to the base takes the next prefix.
    while number.abs() >= base - 0.5 {
        let Some(next) = names.next() else { break };
        number /= base;
        name = Some(next);
    }
    (number, name.copied().unwrap_or_default())
}

fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        let short = text.trim_end_matches('0').trim_end_matches('.');
        // A small negative number rounds to 0, not to -0.
        return if short == "-0" { "0" } else { short }.to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_significant_digits() {
        use PlotUnit::{Bytes, BytesPerSecond, Count, Percent};
        for (unit, number, text) in [
            (Percent, 0.0, "0 %"),
            (Percent, 0.126, "0.13 %"),
            (Percent, 12.34, "12.3 %"),
            (Percent, 399.6, "400 %"),
            (Percent, 100.0, "100 %"),
            (Bytes, 512.0, "512 B"),
            (Bytes, 1023.7, "1 KiB"),
            (Bytes, 1536.0, "1.5 KiB"),
            (Bytes, 67_108_864.0, "64 MiB"),
            (Bytes, 18_446_744_073_709_551_615.0, "16 EiB"),
            (BytesPerSecond, 999.0, "999 B/s"),
            (BytesPerSecond, 1_250_000.0, "1.25 MB/s"),
            (Count, 1200.0, "1200"),
            (Count, -0.001, "0"),
        ] {
            assert_eq!(unit.format(number), text);
        }
    }
}
