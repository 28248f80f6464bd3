//! An inventory of the host in a few series that can be summed over a fleet. None of them names a
//! container or virtual machine.
//!
//! To add a collector, write its module and list it here twice.

#[expect(
    clippy::module_inception,
    reason = "the file has the name of its collector"
)]
mod census;
mod census_domains;
mod census_images;
mod census_timezone;

use crate::collector::{Entry, Layer::Census};

/// All collectors of this layer.
pub(super) const ALL: &[Entry] = &[
    Entry::new::<census::CensusCollector>(Census),
    Entry::new::<census_domains::CensusDomains>(Census),
    Entry::new::<census_images::CensusImages>(Census),
    Entry::new::<census_timezone::CensusTimezone>(Census),
];
