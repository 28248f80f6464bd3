//! What a virtual machine is doing, and why.

use super::labels::DOMAIN;
use crate::{
    family::{Block, Families},
    metrics,
    sources::libvirt::Domain,
};

metrics! {
    /// What the domain is doing, as libvirt's number: 0 nothing known, 1 running, 2 blocked, 3 paused, 4 about to be off, 5 off, 6 crashed, 7 asleep.
    STATE: Gauge = "libvirt_domain_info_vstate" of DOMAIN [];
}

pub(super) fn families(out: &mut Families, of: &Block, domain: &Domain) {
    if let Some(state) = domain.state {
        out.add_of(&STATE, of, [], state as u64);
    }
}
