//! The labels that every metric of a virtual machine has.
//!
//! The metrics that kumina's exporter has, too, have its labels by a flag: the domain's
//! UUID, and of a device what it is made of or connected to.

use std::{collections::BTreeSet, fmt::Debug};

use super::compat::CompatNames;
use crate::{
    error::Error,
    family::{self, BaseLabels, Families, Value},
    metric::Metric,
    sources::libvirt::{Domain, DomainState},
};

/// The names of the labels.
pub(super) const DOMAIN: &[&str] = &["domain"];

/// The names of the labels of what kumina's exporter alone has.
pub(super) const DOMAIN_UUID: &[&str] = &["domain", "uuid"];

/// A domain with its labels, rendered once for all its samples.
#[derive(Debug)]
pub(super) struct LabelledDomain<'a> {
    pub domain: &'a Domain,
    pub compat: CompatNames,
    /// The labels of the metrics that kumina does not have.
    pub base: BaseLabels,
    /// The labels of the metrics that all exporters have.
    shared_base: BaseLabels,
}

impl<'a> LabelledDomain<'a> {
    pub(super) fn new(domain: &'a Domain, compat: CompatNames) -> Self {
        let base = family::render_labels([("domain", domain.name.as_str())]);
        Self {
            domain,
            compat,
            shared_base: if compat.kumina {
                family::render_labels([("domain", domain.name.as_str()), ("uuid", &domain.uuid)])
            } else {
                BaseLabels::clone(&base)
            },
            base,
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
        if self.is_active() || !self.compat.kumina {
            out.add_with(metric, &self.shared_base, [], value);
        }
    }

    /// The labels of the metrics that all exporters have of a device: kumina has one more.
    pub(super) fn shared_device_base(&self, kumina_label: &str, value: &str) -> BaseLabels {
        if self.compat.kumina {
            let Domain { name, uuid, .. } = self.domain;
            family::render_labels([
                ("domain", name.as_str()),
                ("uuid", uuid),
                (kumina_label, value),
            ])
        } else {
            BaseLabels::clone(&self.shared_base)
        }
    }

    /// Whether there is a process for it, as far as is known.
    pub(super) fn is_active(&self) -> bool {
        let state = self.domain.state;
        state.map_or(self.domain.id.is_some(), DomainState::is_active)
    }

    /// Whether this name is the first of its like. Another would be the same series
    /// again: it is noted as left out.
    pub(super) fn is_first<K: Ord + Debug>(
        &self,
        out: &mut Families,
        seen: &mut BTreeSet<K>,
        kind: &str,
        key: K,
    ) -> bool {
        if seen.contains(&key) {
            let name = &self.domain.name;
            let reason = format!("domain {name:?}: there is another {kind} {key:?}");
            out.record_error(Error::api("libvirt", reason));
            return false;
        }
        seen.insert(key)
    }
}
