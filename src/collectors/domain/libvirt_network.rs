//! libvirt's virtual networks. Their traffic is in the host collectors, under the names of their
//! bridges.

use std::collections::BTreeSet;

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, libvirt::VirtualNetwork},
};

metrics! {
    /// Defined virtual networks, active or not.
    NETWORKS: Gauge = "libvirt_networks" [];
    /// Virtual network and its bridge: always 1; without bridge if it has none or is inactive.
    INFO: Info = "libvirt_network_info" ["network", "uuid", "bridge"];
    /// Whether the virtual network is active.
    ACTIVE: Gauge = "libvirt_network_active" ["network"];
}

#[derive(Debug)]
pub(super) struct LibvirtNetwork;

impl Collector for LibvirtNetwork {
    const NAME: &'static str = "libvirt_network";
    const ABOUT: &'static str = "libvirt virtual networks and their bridges";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.virtual_networks()?))
    }
}

fn families(networks: &[VirtualNetwork]) -> Families {
    let mut out = Families::default();
    out.add(&NETWORKS, [], networks.len());
    let mut seen = BTreeSet::new();
    for network in networks {
        let name = network.name.as_str();
        if !seen.insert(name) {
            let reason = format!("duplicate network {name:?}");
            out.record_error(Error::api("libvirt", reason));
            continue;
        }
        let bridge = network.bridge.as_deref().unwrap_or_default();
        out.add(&INFO, [name, &network.uuid, bridge], true);
        if let Some(is_active) = network.is_active {
            out.add(&ACTIVE, [name], is_active);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_network_has_its_bridge() {
        let network = |name: &str, is_active, bridge: Option<&str>| VirtualNetwork {
            name: name.to_owned(),
            uuid: format!("uuid-of-{name}"),
            is_active,
            bridge: bridge.map(str::to_owned),
        };
        let networks = [
            network("default", Some(true), Some("virbr0")),
            network("off", Some(false), None),
            network("off", Some(true), None),
            network("unknown", None, None),
        ];
        let out = families(&networks);
        assert_eq!(
            out.lines(),
            [
                "libvirt_networks 4",
                r#"libvirt_network_info{network="default",uuid="uuid-of-default",bridge="virbr0"} 1"#,
                r#"libvirt_network_info{network="off",uuid="uuid-of-off",bridge=""} 1"#,
                r#"libvirt_network_info{network="unknown",uuid="uuid-of-unknown",bridge=""} 1"#,
                r#"libvirt_network_active{network="default"} 1"#,
                r#"libvirt_network_active{network="off"} 0"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }
}
