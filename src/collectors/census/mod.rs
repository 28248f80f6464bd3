//! What runs on the machine, in a few series that can be summed over a fleet. None of
//! them names a container or virtual machine.
//!
//! To add a collector, write its module and name it here, twice.

#[expect(clippy::module_inception, reason = "a file is named as its collector")]
mod census;
mod census_domains;
mod census_images;
mod census_timezone;

use crate::collector::{Entry, Layer::Census};

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::of::<census::Containers>(Census),
    Entry::of::<census_domains::Domains>(Census),
    Entry::of::<census_images::Images>(Census),
    Entry::of::<census_timezone::Zone>(Census),
];
