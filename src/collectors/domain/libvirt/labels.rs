//! The labels that every metric of a virtual machine has.

use crate::{
    family::{self, Block},
    sources::libvirt::Domain,
};

/// The names of the labels.
pub(super) const DOMAIN: &[&str] = &["domain"];

/// The labels of a domain, rendered once for all its samples.
pub(super) fn block(domain: &Domain) -> Block {
    family::block([("domain", domain.name.as_str())])
}
