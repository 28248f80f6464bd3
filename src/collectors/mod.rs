//! The collectors, one module each.

mod host;

use crate::collector::Entry;

/// Every collector there is, in the order the README lists them.
pub const ALL: &[Entry] = host::ALL;
