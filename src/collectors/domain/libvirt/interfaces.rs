//! Network interfaces of a virtual machine, from the guest's perspective: it receives what the
//! host sends into the interface.
//!
//! libvirt counts traffic only for interfaces that are a device of the host. Others, such as a
//! virtual function of a network card or user-mode networking, have an info series but no
//! counters.

use std::collections::BTreeSet;

use super::{
    labels::{DOMAIN, LabelledDomain},
    metadata::text_or_empty,
};
use crate::{error::Error, family::Families, metrics, sources::libvirt::InterfaceDef};

metrics! {
    /// Interface of the domain: always 1; without target_device if it is not a device of the host.
    INFO: Info = "libvirt_domain_interface_stats_info" base DOMAIN ["interface_type", "source_bridge", "target_device", "mac_address", "model_type", "mtu_size"];
    /// Interface of the domain with its bridge and virtual switch port id: always 1.
    META: Gauge = "libvirt_domain_interface_meta" base DOMAIN ["source_bridge", "target_device", "virtual_interface"];
    /// Bytes received by the domain.
    RECEIVE_BYTES: Counter = "libvirt_domain_interface_stats_receive_bytes_total" base DOMAIN ["target_device"];
    /// Packets received by the domain.
    RECEIVE_PACKETS: Counter = "libvirt_domain_interface_stats_receive_packets_total" base DOMAIN ["target_device"];
    /// Receive errors of the domain.
    RECEIVE_ERRORS: Counter = "libvirt_domain_interface_stats_receive_errors_total" base DOMAIN ["target_device"];
    /// Packets to the domain that were dropped, mostly because it did not read them fast enough.
    RECEIVE_DROPS: Counter = "libvirt_domain_interface_stats_receive_drops_total" base DOMAIN ["target_device"];
    /// Bytes sent by the domain.
    TRANSMIT_BYTES: Counter = "libvirt_domain_interface_stats_transmit_bytes_total" base DOMAIN ["target_device"];
    /// Packets sent by the domain.
    TRANSMIT_PACKETS: Counter = "libvirt_domain_interface_stats_transmit_packets_total" base DOMAIN ["target_device"];
    /// Transmit errors of the domain.
    TRANSMIT_ERRORS: Counter = "libvirt_domain_interface_stats_transmit_errors_total" base DOMAIN ["target_device"];
    /// Packets from the domain that were dropped.
    TRANSMIT_DROPS: Counter = "libvirt_domain_interface_stats_transmit_drops_total" base DOMAIN ["target_device"];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let metadata = labelled.domain.definition.as_deref();
    let described = metadata.map_or(&[][..], |definition| &definition.interfaces);
    let mut seen = BTreeSet::new();
    for each in described {
        add_description(out, labelled, each, &mut seen);
    }
    let mut seen = BTreeSet::new();
    for interface in &labelled.domain.stats.interfaces {
        let name = interface.name.as_str();
        if name.is_empty() {
            let domain = &labelled.domain.name;
            let reason = format!("domain {domain:?}: interface without a name");
            out.record_error(Error::api("libvirt", reason));
            continue;
        }
        if !labelled.is_first(out, &mut seen, "interface", name) {
            continue;
        }
        let bridge = described
            .iter()
            .find(|it| it.target.as_deref() == Some(name));
        let bridge = bridge.map_or("", |it| text_or_empty(&it.source_bridge));
        let base = labelled.shared_device_base("source_bridge", bridge);
        let (received, sent) = (&interface.received, &interface.sent);
        for (metric, count) in [
            (&RECEIVE_BYTES, received.bytes),
            (&RECEIVE_PACKETS, received.packets),
            (&RECEIVE_ERRORS, received.errors),
            (&RECEIVE_DROPS, received.drops),
            (&TRANSMIT_BYTES, sent.bytes),
            (&TRANSMIT_PACKETS, sent.packets),
            (&TRANSMIT_ERRORS, sent.errors),
            (&TRANSMIT_DROPS, sent.drops),
        ] {
            if let Some(count) = count {
                out.add_with(metric, &base, [name], count);
            }
        }
    }
}

fn add_description<'a>(
    out: &mut Families,
    labelled: &LabelledDomain<'_>,
    interface: &'a InterfaceDef,
    seen: &mut BTreeSet<(&'a str, &'a str)>,
) {
    let (target, mac) = (
        text_or_empty(&interface.target),
        text_or_empty(&interface.mac),
    );
    if !labelled.is_first(out, seen, "interface", (target, mac)) {
        return;
    }
    let bridge = text_or_empty(&interface.source_bridge);
    if labelled.compat.inovex {
        let mtu = interface.mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
        let labels = [
            &interface.kind,
            bridge,
            target,
            mac,
            text_or_empty(&interface.model),
            &mtu,
        ];
        out.add_with(&INFO, &labelled.base, labels, true);
    }
    // Two interfaces without a name would be the same series.
    if labelled.compat.tinkoff && !target.is_empty() {
        let labels = [bridge, target, text_or_empty(&interface.virtual_port)];
        out.add_with(&META, &labelled.base, labels, true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::testing, *};
    use crate::sources::libvirt::{
        Domain, DomainDef, DomainInterface, DomainStats, InterfaceTraffic,
    };

    fn described(kind: &str, target: Option<&str>, mac: Option<&str>) -> InterfaceDef {
        InterfaceDef {
            kind: kind.to_owned(),
            target: target.map(str::to_owned),
            mac: mac.map(str::to_owned),
            ..InterfaceDef::default()
        }
    }

    fn counted(name: &str, first: u64) -> DomainInterface {
        let traffic = |first| InterfaceTraffic {
            bytes: Some(first),
            packets: Some(first + 1),
            errors: Some(first + 2),
            drops: Some(first + 3),
        };
        DomainInterface {
            name: name.to_owned(),
            received: traffic(first),
            sent: traffic(first + 4),
        }
    }

    fn domain(definitions: Vec<InterfaceDef>, interfaces: Vec<DomainInterface>) -> Domain {
        Domain {
            definition: Some(Arc::new(DomainDef {
                interfaces: definitions,
                ..DomainDef::default()
            })),
            stats: DomainStats {
                interfaces,
                ..DomainStats::default()
            },
            ..testing::domain("web")
        }
    }

    #[test]
    fn interface_is_exposed_under_both_naming_schemes() {
        let definition = InterfaceDef {
            source_bridge: Some("br0".to_owned()),
            model: Some("virtio".to_owned()),
            mtu: Some(1450),
            virtual_port: Some("p0".to_owned()),
            ..described("bridge", Some("vnet0"), Some("52:54:00:00:00:01"))
        };
        let domain = domain(vec![definition], vec![counted("vnet0", 10)]);
        assert_eq!(
            testing::lines(&domain, "inovex,tinkoff", collect_into),
            [
                r#"libvirt_domain_interface_stats_info{domain="web",interface_type="bridge",source_bridge="br0",target_device="vnet0",mac_address="52:54:00:00:00:01",model_type="virtio",mtu_size="1450"} 1"#,
                r#"libvirt_domain_interface_meta{domain="web",source_bridge="br0",target_device="vnet0",virtual_interface="p0"} 1"#,
                r#"libvirt_domain_interface_stats_receive_bytes_total{domain="web",target_device="vnet0"} 10"#,
                r#"libvirt_domain_interface_stats_receive_packets_total{domain="web",target_device="vnet0"} 11"#,
                r#"libvirt_domain_interface_stats_receive_errors_total{domain="web",target_device="vnet0"} 12"#,
                r#"libvirt_domain_interface_stats_receive_drops_total{domain="web",target_device="vnet0"} 13"#,
                r#"libvirt_domain_interface_stats_transmit_bytes_total{domain="web",target_device="vnet0"} 14"#,
                r#"libvirt_domain_interface_stats_transmit_packets_total{domain="web",target_device="vnet0"} 15"#,
                r#"libvirt_domain_interface_stats_transmit_errors_total{domain="web",target_device="vnet0"} 16"#,
                r#"libvirt_domain_interface_stats_transmit_drops_total{domain="web",target_device="vnet0"} 17"#,
            ]
        );
        let lines = testing::lines(&domain, "kumina", collect_into);
        let uuid = testing::UUID;
        let labels = format!(
            r#"{{domain="web",uuid="{uuid}",source_bridge="br0",target_device="vnet0"}} 17"#
        );
        let last = format!("libvirt_domain_interface_stats_transmit_drops_total{labels}");
        assert_eq!(lines.last(), Some(&last));
    }

    #[test]
    fn duplicate_or_unnamed_interfaces_yield_no_duplicates() {
        let definitions = vec![
            described("hostdev", None, Some("52:54:00:00:00:01")),
            described("hostdev", None, Some("52:54:00:00:00:02")),
            described("user", None, None),
            described("user", None, None),
        ];
        let interfaces = vec![
            counted("", 10),
            counted("", 20),
            counted("vnet0", 30),
            counted("vnet0", 40),
        ];
        let domain = domain(definitions, interfaces);
        let out = testing::families(&domain, "inovex,tinkoff", collect_into);
        let lines = out.lines();
        let series: BTreeSet<_> = lines.iter().map(|line| line.rsplit_once(' ')).collect();
        assert_eq!(series.len(), lines.len());
        assert_eq!(lines.len(), 3 + 8, "{lines:#?}");
        let first = r#"libvirt_domain_interface_stats_receive_bytes_total{domain="web",target_device="vnet0"} 30"#;
        assert!(lines.iter().any(|line| line == first));
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 4);
        let reason = reason.unwrap().to_string();
        let expected = r#"libvirt: domain "web": duplicate interface ("", "")"#;
        assert_eq!(reason, expected);
    }

    #[test]
    fn missing_counters_are_absent() {
        let interface = DomainInterface {
            name: "vnet0".to_owned(),
            received: InterfaceTraffic {
                bytes: Some(1),
                ..InterfaceTraffic::default()
            },
            ..DomainInterface::default()
        };
        let lines = testing::lines(&domain(vec![], vec![interface]), "inovex", collect_into);
        assert_eq!(lines.len(), 1);
    }
}
