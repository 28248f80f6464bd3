//! Invariants of every exposition, whatever was read.

use std::{collections::HashSet, sync::Arc};

use crate::{
    collectors::host::textfile::fuzzing::samples,
    exposition::{Exposition, Format},
    family::{Families, Value},
};

/// Invariants to check in addition to that the exposition can be parsed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Invariants {
    pub(super) series_once: bool,
    pub(super) finite_values: bool,
}

/// Checks that both formats are at most `max_len` long and can be parsed, with the same number of
/// series. Returns this number.
pub(super) fn check(families: Families, max_len: usize, invariants: Invariants) -> usize {
    let mut series_seen = HashSet::new();
    for family in families.iter() {
        for (part, labels, value) in family.samples() {
            let series = || format!("{}{}{{{labels}}}", family.name, part.suffix());
            let is_finite = !matches!(value, Value::Float(value) if !value.is_finite());
            assert!(
                is_finite || !invariants.finite_values,
                "{} is {value:?}",
                series()
            );
            let is_unique = !invariants.series_once || series_seen.insert(series());
            assert!(is_unique, "duplicate series {}", series());
        }
    }
    let exposition = Arc::new(Exposition::new(vec![Arc::new(families)], |_| true));
    for format in [Format::Text, Format::OpenMetrics] {
        let text = exposition.encode(format);
        assert!(text.is_ok(), "encoding failed: {format:?}");
        let text = text.unwrap_or_default();
        assert!(text.len() <= max_len, "{} bytes: {format:?}", text.len());
        let read = samples(&text);
        assert!(
            read.as_ref()
                .is_ok_and(|count| *count == exposition.series_count()),
            "parsed {read:?} of {} series: {format:?}",
            exposition.series_count()
        );
    }
    exposition.series_count()
}
