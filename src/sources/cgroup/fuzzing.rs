//! Fuzz target for the parsers of cgroup files: see [`crate::fuzzing`].

use super::parse;

/// Parses one file with every parser; returns the number of parsers that accepted it.
pub(crate) fn file(bytes: &[u8]) -> usize {
    let number = parse::number(bytes);
    if let Ok(number) = number {
        assert!(parse::limit(bytes) == Ok(Some(number)));
        assert!(parse::limit_unless_negative(bytes) == Ok(Some(number)));
        assert!(parse::decimal(number.to_string().as_bytes()) == Some(number));
    }
    let mut parsed = usize::from(number.is_ok());
    parsed += usize::from(parse::quota_and_period(bytes).is_ok());
    parsed += usize::from(parse::pressure(bytes).is_ok_and(|stall| stall.some.is_some()));
    let mut keys = 0;
    for (key, value) in parse::flat_keyed(bytes) {
        keys += key.len();
        let (number, micros) = (value.number(), value.micros());
        assert!(number.is_ok() == micros.is_ok() && micros.is_ok() == value.nanos().is_ok());
    }
    assert!(keys <= bytes.len());
    parse::number_for_key(bytes, b"oom_kill").ok();
    if let Ok(items) = parse::percpu_usage(bytes) {
        assert!(items.len() <= bytes.len() / 2 + 1);
    }
    if let Ok(items) = parse::processes(bytes) {
        assert!(items.len() <= bytes.len() / 2 + 1);
    }
    for (all_are_hierarchical, size) in [(true, 1), (false, 4096)] {
        let pages = parse::numa_pages(bytes, all_are_hierarchical, size);
        assert!(pages.map_or(0, |items| items.len()) <= bytes.len());
    }
    let words = parse::lines(bytes).flat_map(|(_, line)| parse::words(line));
    parsed + words.filter_map(parse::device).count()
}
