//! A scrape of each fixture machine equals the files in `tests/golden` byte for byte.

use std::{collections::BTreeSet, path::Path};

use strata_exporter::{collectors, exposition::Format};

#[tokio::test(flavor = "multi_thread")]
async fn text_format_matches_golden_files() {
    for machine in crate::support::MACHINES {
        is_golden(machine, Format::Text, "prom").await;
    }
}

/// One machine is enough: the others have no further sample types.
#[tokio::test(flavor = "multi_thread")]
async fn openmetrics_matches_golden_file() {
    is_golden("hardware", Format::OpenMetrics, "openmetrics").await;
}

/// `cargo xtask fixtures pack --collector NAME` accepts any name.
#[test]
fn archives_are_named_after_collectors() {
    let hardware = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hardware");
    let names: BTreeSet<_> = collectors::ALL.iter().map(|entry| entry.name).collect();
    let archives = ttar::archive_files(&hardware).unwrap();
    assert!(archives.len() > 40, "{archives:?}");
    for archive in archives {
        let name = archive.file_stem().unwrap().to_str().unwrap();
        assert!(
            name == "common" || names.contains(name),
            "{name} is not a collector"
        );
    }
}

async fn is_golden(machine: &str, format: Format, extension: &str) {
    let body = crate::support::fixture_exposition(machine, format).await;
    let golden = crate::support::golden(&format!("{machine}.{extension}"));
    crate::support::assert_matches_file(&golden, &body);
}
