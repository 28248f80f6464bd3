//! What is wrong with a machine costs what is concerned, and nothing else: each fault is a
//! real one, and the exporter is a process that is asked over HTTP and looked at in `/proc`.
//!
//! What each costs stands in `docs/faults.md`, which these tests hold to be so. The clock
//! that steps back is that of the machine in `tests/v2_machine`.

#![allow(clippy::float_cmp, reason = "what is compared is copied, not computed")]

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
fn the_docs_name_the_faults_that_are_tested_and_no_others() {
    assert_eq!(
        crate::support::faults::documented_faults(),
        crate::support::faults::FAULTS
    );
}
