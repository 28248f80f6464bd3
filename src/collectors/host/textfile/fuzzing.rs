//! Entry points of the fuzz targets for text files: see [`crate::fuzzing`].

use std::time::{Duration, Instant};

use super::{FamilyMerger, parse};
use crate::{family::Families, sources::UserFile};

/// Merges two files, which are separated by a line `####` in `bytes`.
pub(crate) fn files(bytes: &[u8]) -> Families {
    const BETWEEN: &[u8] = b"\n####\n";
    let at = bytes.windows(BETWEEN.len()).position(|it| it == BETWEEN);
    let (first, second) = at.map_or((bytes, &b""[..]), |at| {
        let (first, second) = bytes.split_at(at + 1);
        (first, second.get(BETWEEN.len() - 1..).unwrap_or_default())
    });
    let mut gathering = FamilyMerger::new(Instant::now() + Duration::from_secs(60));
    for (name, body) in [("a.prom", first), ("b.prom", second)] {
        let file = file(name, body);
        if let Err(error) = gathering.merge_file(&file, name) {
            assert!(error.to_string().len() <= 2 * body.len() + 1000);
            gathering.record_error(error);
        }
    }
    gathering.into_families()
}

/// Returns the number of samples in a text written by the exporter, or the parse error.
pub(crate) fn samples(text: &str) -> Result<usize, String> {
    let file = file("page", text.as_bytes());
    let parsed = parse::parse(&file, usize::MAX).map_err(|error| error.to_string())?;
    match parsed.skipped.first() {
        Some((line, reason)) => Err(format!("line {line}: {reason}")),
        None => Ok(parsed.families.iter().map(|it| it.samples.len()).sum()),
    }
}

fn file(name: &str, body: &[u8]) -> UserFile {
    UserFile {
        path: name.into(),
        body: body.to_vec(),
        modified: 1_700_000_000,
    }
}
