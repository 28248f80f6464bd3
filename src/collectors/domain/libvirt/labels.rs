//! The labels that every metric of a virtual machine has.
//!
//! The metrics that kumina's exporter has, too, have its labels by a flag: the domain's
//! UUID, and of a device what it is made of or connected to.

use std::{collections::BTreeSet, fmt::Debug};

use super::compat::Names;
use crate::{
    error::Error,
    family::{self, Block, Families, Value},
    metric::Metric,
    sources::libvirt::{Domain, State},
};

/// The names of the labels.
pub(super) const DOMAIN: &[&str] = &["domain"];

/// The names of the labels of what kumina's exporter alone has.
pub(super) const DOMAIN_UUID: &[&str] = &["domain", "uuid"];

/// A domain with its labels, rendered once for all its samples.
#[derive(Debug)]
pub(super) struct Labelled<'a> {
    pub domain: &'a Domain,
    pub names: Names,
    /// The labels of the metrics that kumina does not have.
    pub own: Block,
    /// The labels of the metrics that all exporters have.
    shared: Block,
}

impl<'a> Labelled<'a> {
    pub(super) fn new(domain: &'a Domain, names: Names) -> Self {
        let own = family::block([("domain", domain.name.as_str())]);
        Self {
            domain,
            names,
            shared: if names.kumina {
                family::block([("domain", domain.name.as_str()), ("uuid", &domain.uuid)])
            } else {
                Block::clone(&own)
            },
            own,
        }
    }

    /// Adds a sample of a metric that kumina has, too. That has none of a domain that is
    /// off, and sums over them would be others.
    pub(super) fn add_shared(
        &self,
        out: &mut Families,
        metric: &'static Metric<0>,
        value: impl Into<Value>,
    ) {
        if self.is_active() || !self.names.kumina {
            out.add_of(metric, &self.shared, [], value);
        }
    }

    /// The labels of the metrics that all exporters have of a device: kumina has one more.
    pub(super) fn shared_of_device(&self, kumina: &str, value: &str) -> Block {
        if self.names.kumina {
            let Domain { name, uuid, .. } = self.domain;
            family::block([("domain", name.as_str()), ("uuid", uuid), (kumina, value)])
        } else {
            Block::clone(&self.shared)
        }
    }

    /// Whether there is a process for it, as far as is known.
    pub(super) fn is_active(&self) -> bool {
        let state = self.domain.state;
        state.map_or(self.domain.id.is_some(), State::is_active)
    }

    /// Whether this name is the first of its like. Another would be the same series
    /// again: it is noted as left out.
    pub(super) fn is_first<K: Ord + Debug>(
        &self,
        out: &mut Families,
        seen: &mut BTreeSet<K>,
        what: &str,
        key: K,
    ) -> bool {
        if seen.contains(&key) {
            let name = &self.domain.name;
            let reason = format!("domain {name:?}: there is another {what} {key:?}");
            out.skip(Error::api("libvirt", reason));
            return false;
        }
        seen.insert(key)
    }
}
