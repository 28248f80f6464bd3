//! The README says what the code says.
use std::{fs, path::Path};

use strata_exporter::{collectors, exporter, reference, scrape};

#[test]
fn the_metric_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let own = [scrape::OWN_METRICS, exporter::OWN_METRICS].concat();
    let current = reference::update(&readme, collectors::ALL, &own);
    let current = current.expect("the README has a place for the reference");
    crate::support::assert_same_as_file(&path, &current);
}
