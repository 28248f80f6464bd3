//! Test support for this collector's modules.

use super::{
    compat::{Compat, CompatNames},
    labels::LabelledDomain,
};
use crate::{family::Families, sources::libvirt::Domain};

pub(super) const UUID: &str = "65264178-ac37-5d9a-9d66-bc590fddde8d";

/// A domain with only a name and a UUID.
pub(super) fn domain(name: &str) -> Domain {
    Domain {
        name: name.to_owned(),
        uuid: UUID.to_owned(),
        ..Domain::default()
    }
}

/// Families of a domain with the metric names of these exporters.
pub(super) fn families(
    domain: &Domain,
    names: &str,
    families: impl FnOnce(&mut Families, &LabelledDomain<'_>),
) -> Families {
    let compat = names.split(',').map(|name| match name {
        "inovex" => Compat::Inovex,
        "tinkoff" => Compat::Tinkoff,
        _ => Compat::Kumina,
    });
    let compat: Vec<_> = compat.collect();
    let mut out = Families::default();
    families(
        &mut out,
        &LabelledDomain::new(domain, CompatNames::from_compat(&compat).unwrap()),
    );
    out
}

/// Like `families`, as lines.
pub(super) fn lines(
    domain: &Domain,
    names: &str,
    collect_into: impl FnOnce(&mut Families, &LabelledDomain<'_>),
) -> Vec<String> {
    families(domain, names, collect_into).lines()
}
