//! Parsers for the formats of cgroup files. They read bytes; only lists allocate.

use std::{fmt::Display, time::Duration};

use super::stats::{NumaPages, PageKind, PressureStall};

/// A line that does not match its documented format.
#[derive(Debug, PartialEq)]
pub(super) struct CgroupParseError {
    /// Line number, counted from one.
    pub(super) line: usize,
    pub(super) reason: String,
}

pub(super) type CgroupParseResult<T> = Result<T, CgroupParseError>;

impl CgroupParseError {
    pub(super) fn new(line: usize, reason: impl Display) -> Self {
        Self {
            line,
            reason: reason.to_string(),
        }
    }

    fn not_a_number(line: usize, name: &[u8], value: &[u8]) -> Self {
        let (name, value) = (name.escape_ascii(), value.escape_ascii());
        Self::new(line, format_args!("{name} is not a number: \"{value}\""))
    }
}

/// Parses an unsigned number; `None` if it is anything else or too large.
pub(super) fn decimal(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Parses a file that holds one number.
pub(super) fn number(bytes: &[u8]) -> CgroupParseResult<u64> {
    let word = bytes.trim_ascii();
    decimal(word).ok_or_else(|| CgroupParseError::not_a_number(1, b"value", word))
}

/// Parses a file that holds one number, or `max` for no limit.
pub(super) fn limit(bytes: &[u8]) -> CgroupParseResult<Option<u64>> {
    match bytes.trim_ascii() {
        b"max" => Ok(None),
        _ => number(bytes).map(Some),
    }
}

/// Parses a file that holds one number, negative for no limit.
pub(super) fn limit_unless_negative(bytes: &[u8]) -> CgroupParseResult<Option<u64>> {
    match bytes.trim_ascii() {
        [b'-', digits @ ..] if decimal(digits).is_some() => Ok(None),
        _ => number(bytes).map(Some),
    }
}

/// Parses `cpu.max`: the quota in microseconds or `max`, and the period in microseconds.
pub(super) fn quota_and_period(bytes: &[u8]) -> CgroupParseResult<(Option<u64>, u64)> {
    let mut words = words(bytes);
    let quota = limit(words.next().unwrap_or_default())?;
    let period = words.next().unwrap_or_default();
    match decimal(period) {
        Some(period) => Ok((quota, period)),
        None => Err(CgroupParseError::not_a_number(1, b"period", period)),
    }
}

/// Iterates over a file of lines `KEY VALUE`.
pub(super) fn flat_keyed(bytes: &[u8]) -> impl Iterator<Item = (&[u8], KeyedValue<'_>)> {
    lines(bytes).filter_map(|(number, line)| {
        let space = line.iter().position(|b| *b == b' ')?;
        let (key, value) = line.split_at_checked(space)?;
        let value = KeyedValue {
            line: number,
            key,
            word: value.trim_ascii(),
        };
        Some((key, value))
    })
}

/// The value of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyedValue<'a> {
    line: usize,
    key: &'a [u8],
    word: &'a [u8],
}

impl KeyedValue<'_> {
    pub(super) fn number(self) -> CgroupParseResult<u64> {
        decimal(self.word)
            .ok_or_else(|| CgroupParseError::not_a_number(self.line, self.key, self.word))
    }

    pub(super) fn micros(self) -> CgroupParseResult<Duration> {
        self.number().map(Duration::from_micros)
    }

    pub(super) fn nanos(self) -> CgroupParseResult<Duration> {
        self.number().map(Duration::from_nanos)
    }
}

/// Returns the number of one key in a file of lines `KEY VALUE`.
pub(super) fn number_for_key(bytes: &[u8], key: &[u8]) -> CgroupParseResult<Option<u64>> {
    let mut pairs = flat_keyed(bytes);
    let pair = pairs.find(|(name, _)| *name == key);
    pair.map(|(_, value)| value.number()).transpose()
}

/// Parses a `*.pressure` file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=440732`, and the same
/// for `full`, which older kernels lack for the CPU.
pub(super) fn pressure(bytes: &[u8]) -> CgroupParseResult<PressureStall> {
    let mut stalls = PressureStall::default();
    for (number, line) in lines(bytes) {
        let mut words = words(line);
        let slot = match words.next() {
            Some(b"some") => &mut stalls.some,
            Some(b"full") => &mut stalls.full,
            _ => continue,
        };
        let total = words.find_map(|word| word.strip_prefix(b"total="));
        let total = total.ok_or_else(|| CgroupParseError::new(number, "total is missing"))?;
        let micros = decimal(total);
        let micros =
            micros.ok_or_else(|| CgroupParseError::not_a_number(number, b"total", total))?;
        *slot = Some(Duration::from_micros(micros));
    }
    Ok(stalls)
}

/// Parses `cpuacct.usage_percpu`: nanoseconds of each possible CPU.
pub(super) fn percpu_usage(bytes: &[u8]) -> CgroupParseResult<Vec<(u32, Duration)>> {
    let usages = words(bytes).zip(0..).map(|(word, cpu)| {
        let nanos =
            decimal(word).ok_or_else(|| CgroupParseError::not_a_number(1, b"usage", word))?;
        Ok((cpu, Duration::from_nanos(nanos)))
    });
    usages.collect()
}

/// Parses `cgroup.procs`: one process ID per line.
pub(super) fn processes(bytes: &[u8]) -> CgroupParseResult<Vec<u32>> {
    let pids = lines(bytes).map(|(number, line)| {
        let process = decimal(line).and_then(|process| process.try_into().ok());
        process.ok_or_else(|| CgroupParseError::not_a_number(number, b"process", line))
    });
    pids.collect()
}

/// Parses `memory.numa_stat`: in version 1, lines `file=7 N0=3 N1=4`, where the names of
/// hierarchical sums begin with `hierarchical_`; in version 2, lines `file N0=12288 N1=16384`,
/// always hierarchical. Values are multiples of `size`.
pub(super) fn numa_pages(
    bytes: &[u8],
    all_are_hierarchical: bool,
    size: u64,
) -> CgroupParseResult<Vec<NumaPages>> {
    let mut pages = Vec::new();
    for (line, text) in lines(bytes) {
        let mut words = words(text);
        let first = words.next().unwrap_or_default();
        let key = first.split(|b| *b == b'=').next().unwrap_or_default();
        let hierarchical = key.strip_prefix(b"hierarchical_");
        let name = hierarchical.unwrap_or(key);
        let mut kinds = PageKind::ALL.into_iter();
        let Some(kind) = kinds.find(|kind| kind.name().as_bytes() == name) else {
            continue;
        };
        for word in words {
            let separator = word.iter().position(|b| *b == b'=').unwrap_or(word.len());
            let (node, value) = word.split_at_checked(separator).unwrap_or_default();
            let node = node.strip_prefix(b"N").and_then(decimal);
            let value = value.strip_prefix(b"=").and_then(decimal);
            let error = || CgroupParseError::not_a_number(line, key, word);
            pages.push(NumaPages {
                node: node
                    .and_then(|number| number.try_into().ok())
                    .ok_or_else(error)?,
                kind,
                is_hierarchical: all_are_hierarchical || hierarchical.is_some(),
                pages: value
                    .and_then(|number| number.checked_div(size))
                    .ok_or_else(error)?,
            });
        }
    }
    Ok(pages)
}

/// Parses a device number, `254:0`.
pub(super) fn device(word: &[u8]) -> Option<(u32, u32)> {
    let colon = word.iter().position(|b| *b == b':')?;
    let (major, minor) = word.split_at_checked(colon)?;
    let number = |digits| decimal(digits)?.try_into().ok();
    Some((number(major)?, number(minor.strip_prefix(b":")?)?))
}

/// Iterates over non-empty lines with their numbers.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(|b| *b == b'\n').zip(1..);
    lines
        .map(|(line, number)| (number, line))
        .filter(|(_, line)| !line.is_empty())
}

/// Iterates over words separated by white space.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T: std::fmt::Debug>(parsed: CgroupParseResult<T>) -> String {
        let CgroupParseError { line, reason } = parsed.unwrap_err();
        format!("{line}: {reason}")
    }

    #[test]
    fn number_must_fill_the_file_and_fit() {
        assert_eq!(number(b"18446744073709551615\n"), Ok(u64::MAX));
        assert_eq!(number(b"0"), Ok(0));
        for bad in ["", "-1", "1 2", "x", "+1", "18446744073709551616"] {
            let expected = format!("1: value is not a number: \"{bad}\"");
            assert_eq!(reason(number(bad.as_bytes())), expected);
        }
    }

    #[test]
    fn parses_both_notations_of_no_limit() {
        assert_eq!(limit(b"max\n"), Ok(None));
        assert_eq!(limit(b"4096\n"), Ok(Some(4096)));
        assert!(limit(b"min\n").is_err());
        assert_eq!(limit_unless_negative(b"-1\n"), Ok(None));
        assert_eq!(limit_unless_negative(b"50000\n"), Ok(Some(50_000)));
        assert!(limit_unless_negative(b"-x\n").is_err());
    }

    #[test]
    fn quota_always_has_a_period() {
        assert_eq!(quota_and_period(b"max 100000\n"), Ok((None, 100_000)));
        assert_eq!(
            quota_and_period(b"50000 200000\n"),
            Ok((Some(50_000), 200_000))
        );
        assert_eq!(
            reason(quota_and_period(b"5\n")),
            "1: period is not a number: \"\""
        );
    }

    #[test]
    fn only_requested_keys_must_be_numbers() {
        let bytes = b"anon 7\nodd x\nfile 8x\nno_value\n\nlast 9";
        let keys: Vec<_> = flat_keyed(bytes).map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"anon"[..], b"odd", b"file", b"last"]);
        assert_eq!(number_for_key(bytes, b"last"), Ok(Some(9)));
        assert_eq!(number_for_key(bytes, b"gone"), Ok(None));
        assert_eq!(
            reason(number_for_key(bytes, b"file")),
            "3: file is not a number: \"8x\""
        );
    }

    #[test]
    fn cpu_pressure_may_lack_full_line() {
        let line = "some avg10=9.63 avg60=2.66 avg300=4.36 total=1381500003\n";
        let both = format!("{line}full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n");
        let some = Some(Duration::from_micros(1_381_500_003));
        assert_eq!(
            pressure(line.as_bytes()),
            Ok(PressureStall { some, full: None })
        );
        let full = Some(Duration::from_micros(12));
        assert_eq!(pressure(both.as_bytes()), Ok(PressureStall { some, full }));
        assert_eq!(reason(pressure(b"some avg10=1\n")), "1: total is missing");
        assert_eq!(
            reason(pressure(b"x\nfull total=-\n")),
            "2: total is not a number: \"-\""
        );
    }

    #[test]
    fn percpu_usage_is_numbered_by_position() {
        let usages = percpu_usage(b"3111725657869 0 7 \n").unwrap();
        let nanos = Duration::from_nanos;
        assert_eq!(
            usages,
            [(0, nanos(3_111_725_657_869)), (1, nanos(0)), (2, nanos(7))]
        );
        assert_eq!(percpu_usage(b""), Ok(vec![]));
        assert!(percpu_usage(b"1 x\n").is_err());
    }

    #[test]
    fn parses_one_process_id_per_line() {
        assert_eq!(processes(b"1\n42\n"), Ok(vec![1, 42]));
        assert_eq!(processes(b""), Ok(vec![]));
        assert_eq!(
            reason(processes(b"1\n4294967296\n")),
            "2: process is not a number: \"4294967296\""
        );
    }

    #[test]
    fn numa_pages_are_own_or_hierarchical() {
        let pages = |node, kind, is_hierarchical, pages| NumaPages {
            node,
            kind,
            is_hierarchical,
            pages,
        };
        let v1 = b"total=9 N0=9 N1=0\nfile=2 N0=1 N1=3\nanon=4 N0=4\nunevictable=5 N12=5\n\
            hierarchical_total=9 N0=9\nhierarchical_file=6 N0=6\nodd=7 N0=x\n";
        assert_eq!(
            numa_pages(v1, false, 1),
            Ok(vec![
                pages(0, PageKind::File, false, 1),
                pages(1, PageKind::File, false, 3),
                pages(0, PageKind::Anon, false, 4),
                pages(12, PageKind::Unevictable, false, 5),
                pages(0, PageKind::File, true, 6),
            ])
        );
        let v2 = b"anon N0=8192 N1=4096\nfile N0=0\nkernel_stack N0=x\nfile_mapped N0=4096\n";
        assert_eq!(
            numa_pages(v2, true, 4096),
            Ok(vec![
                pages(0, PageKind::Anon, true, 2),
                pages(1, PageKind::Anon, true, 1),
                pages(0, PageKind::File, true, 0),
            ])
        );
        for bad in ["file=1 N0", "file=1 N0=", "file=1 0=1", "file=1 Nx=1"] {
            let word = bad.split_once(' ').unwrap().1;
            let expected = format!("2: file is not a number: \"{word}\"");
            let bytes = format!("total=1 N0=1\n{bad}\n");
            assert_eq!(reason(numa_pages(bytes.as_bytes(), false, 1)), expected);
        }
    }

    #[test]
    fn parses_device_numbers() {
        assert_eq!(device(b"254:16"), Some((254, 16)));
        for bad in ["254", "254:", ":0", "a:b", "1:2:3", "(null)"] {
            assert_eq!(device(bad.as_bytes()), None, "{bad}");
        }
    }
}
