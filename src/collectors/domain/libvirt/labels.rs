//! The base labels of all metrics of a virtual machine.
//!
//! A flag adds the labels of kumina's exporter to the metrics that it has, too: the domain's UUID,
//! and for a device its source or target.

use std::{collections::BTreeSet, fmt::Debug};

use super::compat::CompatNames;
use crate::{
    error::Error,
    family::{self, BaseLabels, Families, Value},
    metric::Metric,
    sources::libvirt::{Domain, DomainState},
};

/// The label names.
pub(super) const DOMAIN: &[&str] = &["domain"];

/// The label names of metrics that only kumina's exporter has.
pub(super) const DOMAIN_UUID: &[&str] = &["domain", "uuid"];

/// A domain with its labels, rendered once for all its samples.
#[derive(Debug)]
pub(super) struct LabelledDomain<'a> {
    pub domain: &'a Domain,
    pub compat: CompatNames,
    /// Labels of the metrics that kumina's exporter does not have.
    pub base: BaseLabels,
    /// Labels of the metrics that all exporters have.
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

    /// Adds a sample of a metric that kumina's exporter has, too. That exporter has no samples of
    /// inactive domains; with its names they are left out, so that sums are the same.
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

    /// Labels of a device metric that all exporters have; kumina's exporter has one label more.
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

    /// Whether the domain has a process, as far as is known.
    pub(super) fn is_active(&self) -> bool {
        let state = self.domain.state;
        state.map_or(self.domain.id.is_some(), DomainState::is_active)
    }

    /// Whether this key is the first of its kind. A second one would be a duplicate series: it is
    /// recorded as an error.
    pub(super) fn is_first<K: Ord + Debug>(
        &self,
        out: &mut Families,
        seen: &mut BTreeSet<K>,
        kind: &str,
        key: K,
    ) -> bool {
        if seen.contains(&key) {
            let name = &self.domain.name;
            let reason = format!("domain {name:?}: duplicate {kind} {key:?}");
            out.record_error(Error::api("libvirt", reason));
            return false;
        }
        seen.insert(key)
    }
}
