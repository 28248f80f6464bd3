//! A fault affects only what depends on the faulty part. The faults are real, and the exporter is a
//! process that is scraped over HTTP and observed through `/proc`.
//!
//! `docs/faults.md` lists the cost of each fault; these tests verify it. The clock that
//! steps back is in `tests/system/v2_machine`.

#![allow(clippy::float_cmp, reason = "values are copied, not computed")]

mod churn;
mod descriptors;
mod disk_full;
mod docker;
mod exporter;
mod fifo;
mod libvirt;
mod memory;
mod read_only;
mod rights;
mod stuck_mount;

#[test]
fn docs_list_exactly_the_tested_faults() {
    assert_eq!(
        crate::support::faults::documented_faults(),
        crate::support::faults::FAULTS
    );
}
