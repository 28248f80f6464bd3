//! What runs on the machine, in a few series.
//!
//! To add a collector, write its module and name it here, twice.

use crate::collector::Entry;

/// Every collector of this layer.
pub(super) const ALL: &[Entry] = &[];
