//! What must hold of everything that is exposed, whatever was read.

use std::{collections::HashSet, sync::Arc};

use crate::{
    collectors::host::textfile::fuzzing::samples,
    exposition::{Exposition, Format},
    family::{Families, Value},
};

/// What is to be looked for beside that it can be read again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Has {
    pub(super) series_once: bool,
    pub(super) finite_values: bool,
}

/// Both formats are no longer than that and can be read again, with as many series. Says how
/// many there are.
pub(super) fn check(families: Families, most: usize, has: Has) -> usize {
    let mut seen = HashSet::new();
    for family in families.iter() {
        for (part, labels, value) in family.samples() {
            let series = || format!("{}{}{{{labels}}}", family.name, part.suffix());
            let is_finite = !matches!(value, Value::Float(value) if !value.is_finite());
            assert!(is_finite || !has.finite_values, "{} is {value:?}", series());
            let is_new = !has.series_once || seen.insert(series());
            assert!(is_new, "{} is there twice", series());
        }
    }
    let page = Arc::new(Exposition::new(vec![Arc::new(families)], |_| true));
    for format in [Format::Text, Format::OpenMetrics] {
        let text = page.encode(format);
        assert!(text.is_ok(), "it cannot be written down: {format:?}");
        let text = text.unwrap_or_default();
        assert!(text.len() <= most, "{} bytes: {format:?}", text.len());
        let read = samples(&text);
        assert!(
            read.as_ref()
                .is_ok_and(|count| *count == page.series_count()),
            "{read:?} of {}: {format:?}",
            page.series_count()
        );
    }
    page.series_count()
}
