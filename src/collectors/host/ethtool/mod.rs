//! Driver statistics and link capabilities of network interfaces, read by `ioctl`, documented in
//! `ethtool(8)`.
//!
//! Statistic names are chosen by the driver. If two statistics of an interface map to the same
//! metric name, both are dropped, because they would be indistinguishable.

mod speeds;

use std::collections::HashMap;

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    pattern::{Filter, Pattern},
    sources::{self, DriverInfo, LinkModeSet, LinkSettings, Snapshot, Statistics},
};

use super::{
    positional_cache::{CacheCursor, PositionalCache},
    sanitize::sanitize_name,
};

metrics! {
    /// Driver, bus address and firmware version of the network interface.
    DRIVER: Info = "node_ethtool_info" [
        "bus_info", "device", "driver", "expansion_rom_version", "firmware_version", "version",
    ];
    /// Driver statistic * of the network interface; its meaning depends on the driver.
    STATISTIC: Unknown = "node_ethtool_*" ["device"];
    /// Type of ports or PHYs supported by the network interface.
    SUPPORTED_PORT: Info = "node_network_supported_port_info" ["device", "type"];
    /// Combination of speeds and features supported by the network interface, in bytes per second.
    SUPPORTED_SPEED: Gauge = "node_network_supported_speed_bytes" ["device", "duplex", "mode"];
    /// Whether this network interface supports auto-negotiation.
    SUPPORTED_AUTONEGOTIATE: Gauge = "node_network_autonegotiate_supported" ["device"];
    /// Whether this network interface supports pause frames.
    SUPPORTED_PAUSE: Gauge = "node_network_pause_supported" ["device"];
    /// Whether this network interface supports asymmetric pause frames.
    SUPPORTED_ASYMMETRIC_PAUSE: Gauge = "node_network_asymmetricpause_supported" ["device"];
    /// Combination of speeds and features advertised by the network interface, in bytes per second.
    ADVERTISED_SPEED: Gauge = "node_network_advertised_speed_bytes" ["device", "duplex", "mode"];
    /// Whether this network interface advertises auto-negotiation.
    ADVERTISED_AUTONEGOTIATE: Gauge = "node_network_autonegotiate_advertised" ["device"];
    /// Whether this network interface advertises pause frame support.
    ADVERTISED_PAUSE: Gauge = "node_network_pause_advertised" ["device"];
    /// Whether this network interface advertises asymmetric pause frame support.
    ADVERTISED_ASYMMETRIC_PAUSE: Gauge = "node_network_asymmetricpause_advertised" ["device"];
    /// Whether this network interface uses auto-negotiation.
    AUTONEGOTIATE: Gauge = "node_network_autonegotiate" ["device"];
}

/// Link mode bits: `ETHTOOL_LINK_MODE_Autoneg_BIT` and others.
const AUTONEG: u32 = 6;
const PAUSE: u32 = 13;
const ASYM_PAUSE: u32 = 14;
const PORTS: [(u32, &str); 6] = [
    (7, "TP"),
    (8, "AUI"),
    (9, "MII"),
    (10, "FIBRE"),
    (11, "BNC"),
    (16, "Backplane"),
];
const INCLUDE: &str = "collector.ethtool.device-include";
const EXCLUDE: &str = "collector.ethtool.device-exclude";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct EthtoolCollectorFlags {
    /// Regexp of network interfaces to include (mutually exclusive with device-exclude).
    #[arg(long = INCLUDE, value_name = "REGEX")]
    ethtool_device_include: Option<Pattern>,
    /// Regexp of network interfaces to exclude (mutually exclusive with device-include).
    #[arg(long = EXCLUDE, value_name = "REGEX")]
    ethtool_device_exclude: Option<Pattern>,
    /// Regexp of statistics to expose, matched against the driver's names.
    #[arg(
        long = "collector.ethtool.metrics-include",
        value_name = "REGEX",
        default_value = ".*"
    )]
    ethtool_metrics_include: Pattern,
}

#[derive(Debug)]
pub(super) struct EthtoolCollector {
    interfaces: Filter,
    statistics: Pattern,
    /// Metric name of each statistic of each interface; `None` if it is not selected.
    names: PositionalCache<Option<String>>,
}

impl Collector for EthtoolCollector {
    const NAME: &'static str = "ethtool";
    const ABOUT: &'static str = "network driver statistics and link settings";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = EthtoolCollectorFlags;

    fn new(flags: EthtoolCollectorFlags) -> Result<Self, String> {
        Ok(Self {
            interfaces: Filter::new(
                (INCLUDE, flags.ethtool_device_include),
                (EXCLUDE, flags.ethtool_device_exclude),
                "",
            )?,
            statistics: flags.ethtool_metrics_include,
            names: PositionalCache::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let interfaces = snapshot.sys_dir("class/net")?.names()?;
        let mut ethtool = snapshot.ethtool()?;
        let mut names = self.names.cursor();
        let mut out = Families::default();
        for interface in interfaces.iter().filter_map(|name| name.to_str()) {
            if self.interfaces.matches(interface) {
                self.add(&mut out, &mut ethtool, &mut names, interface);
            }
        }
        Ok(out)
    }
}

impl EthtoolCollector {
    fn add(
        &self,
        out: &mut Families,
        ethtool: &mut sources::EthtoolSocket,
        names: &mut CacheCursor<'_, Option<String>>,
        interface: &str,
    ) {
        let link = ethtool.link_settings(interface);
        // The interface is gone, the entry is not an interface (`bonding_masters`), or it
        // belongs to a network namespace other than the exporter's.
        if link.as_ref().is_err_and(Error::is_gone) {
            return;
        }
        if let Some(link) = out.ok_or_skip(link) {
            add_link(out, interface, &link);
        }
        if let Some(driver) = out.ok_or_skip(ethtool.driver_info(interface)) {
            add_driver(out, interface, &driver);
        }
        if let Some(statistics) = out.ok_or_skip(ethtool.statistics(interface)) {
            self.add_statistics(out, names, interface, &statistics);
        }
    }

    fn add_statistics(
        &self,
        out: &mut Families,
        names: &mut CacheCursor<'_, Option<String>>,
        interface: &str,
        statistics: &Statistics,
    ) {
        let mut values: Vec<(String, Value)> = Vec::new();
        let mut uses = HashMap::new();
        for (name, value) in statistics.iter() {
            let select = |name: &str| self.statistics.matches(name).then(|| statistic_name(name));
            if let Some(metric_name) = names.next_or_insert_with(&name, select) {
                *uses.entry(metric_name.clone()).or_insert(0) += 1;
                values.push((metric_name.clone(), value.into()));
            }
        }
        for (metric_name, value) in values {
            if uses.get(&metric_name) == Some(&1) {
                out.add_named(&STATISTIC, &metric_name, [interface], value);
            }
        }
    }
}

fn add_driver(out: &mut Families, interface: &str, driver: &DriverInfo) {
    let labels = [
        &driver.bus_info,
        interface,
        &driver.name,
        &driver.expansion_rom_version,
        &driver.firmware_version,
        &driver.version,
    ];
    out.add(&DRIVER, labels, true);
}

fn add_link(out: &mut Families, interface: &str, link: &LinkSettings) {
    for (mode, port) in PORTS {
        if link.supported.has(mode) {
            out.add(&SUPPORTED_PORT, [interface, port], true);
        }
    }
    add_speeds(out, &SUPPORTED_SPEED, interface, &link.supported);
    add_speeds(out, &ADVERTISED_SPEED, interface, &link.advertising);
    for (modes, metric, mode) in [
        (&link.supported, &SUPPORTED_AUTONEGOTIATE, AUTONEG),
        (&link.supported, &SUPPORTED_PAUSE, PAUSE),
        (&link.supported, &SUPPORTED_ASYMMETRIC_PAUSE, ASYM_PAUSE),
        (&link.advertising, &ADVERTISED_AUTONEGOTIATE, AUTONEG),
        (&link.advertising, &ADVERTISED_PAUSE, PAUSE),
        (&link.advertising, &ADVERTISED_ASYMMETRIC_PAUSE, ASYM_PAUSE),
    ] {
        out.add(metric, [interface], modes.has(mode));
    }
    out.add(&AUTONEGOTIATE, [interface], link.autoneg);
}

fn add_speeds(
    out: &mut Families,
    metric: &'static Metric<3>,
    interface: &str,
    modes: &LinkModeSet,
) {
    for speed in speeds::SPEEDS {
        if modes.has(speed.mode) {
            let bytes = Value::product(speed.megabits, 1_000_000 / 8);
            out.add(metric, [interface, speed.duplex, speed.name], bytes);
        }
    }
}

/// Converts a statistic name to a part of a metric name.
fn statistic_name(statistic: &str) -> String {
    let name = match statistic {
        "rx_bytes" | "rx_dropped" | "rx_errors" | "rx_packets" | "tx_bytes" | "tx_errors"
        | "tx_packets" => format!("{statistic}_total"),
        _ => sanitize_name(statistic).to_lowercase(),
    };
    let name = name.trim_start_matches('_');
    expand_abbreviation(
        &expand_abbreviation(name, "rx", "received"),
        "tx",
        "transmitted",
    )
}

/// Replaces the word `short` by `long`. Of two in a row only the first is replaced, as in
/// `node_exporter`: `tx_tx_timeouts` becomes `transmitted_tx_timeouts`.
fn expand_abbreviation(name: &str, short: &str, long: &str) -> String {
    let mut words = Vec::new();
    let mut last_was_replaced = false;
    for word in name.split('_') {
        last_was_replaced = word == short && !last_was_replaced;
        words.push(if last_was_replaced { long } else { word });
    }
    words.join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethtool(include: &str) -> EthtoolCollector {
        EthtoolCollector {
            interfaces: Filter::default(),
            statistics: include.parse().unwrap(),
            names: PositionalCache::default(),
        }
    }

    fn lines(ethtool: &EthtoolCollector, statistics: &[(&str, u64)]) -> Vec<String> {
        let mut out = Families::default();
        let mut words = ethtool.names.cursor();
        ethtool.add_statistics(&mut out, &mut words, "eth 0", &statistics.into());
        out.lines()
    }

    #[test]
    fn statistic_names_match_node_exporter() {
        for (statistic, name) in [
            ("rx_bytes", "received_bytes_total"),
            ("rx_packets", "received_packets_total"),
            ("tx_errors", "transmitted_errors_total"),
            ("rx_drops", "received_drops"),
            ("tx_tx_timeouts", "transmitted_tx_timeouts"),
            ("tx0_tx_timeouts", "tx0_transmitted_timeouts"),
            ("tx_tx_tx", "transmitted_tx_transmitted"),
            ("rx_queue_0_xdp_packets", "received_queue_0_xdp_packets"),
            ("port.RX_dropped", "port_received_dropped"),
            ("[7]: tx bytes", "7_transmitted_bytes"),
            ("peer_ifindex", "peer_ifindex"),
            ("Tx", "transmitted"),
        ] {
            assert_eq!(statistic_name(statistic), name);
        }
    }

    #[test]
    fn conflicting_statistic_names_are_dropped() {
        let statistics = [("rx.err", 1), ("rx_err", 2), ("tx_err", 3), ("rx-err", 4)];
        let ethtool = ethtool(".*");
        for _ in 0..2 {
            assert_eq!(
                lines(&ethtool, &statistics),
                [r#"node_ethtool_transmitted_err{device="eth 0"} 3"#]
            );
        }
    }

    #[test]
    fn include_pattern_matches_driver_names() {
        let statistics = [("rx_err", 1), ("tx_err", 2), ("received", 3)];
        assert_eq!(
            lines(&ethtool("^rx_"), &statistics),
            [r#"node_ethtool_received_err{device="eth 0"} 1"#]
        );
        assert!(lines(&ethtool(""), &statistics).is_empty());
    }

    #[test]
    fn link_exposes_supported_and_advertised_modes() {
        let link = LinkSettings {
            autoneg: true,
            // TP, MII, auto-negotiation, pause, 100baseT half and full, 25000baseKR.
            supported: [1 << 7 | 1 << 9 | 1 << 6 | 1 << 13 | 0b1100, 1, 0, 0].into(),
            // Asymmetric pause, 1000baseT full.
            advertising: [1 << 14 | 1 << 5, 0, 0, 0].into(),
        };
        let mut out = Families::default();
        add_link(&mut out, "eth0", &link);
        assert_eq!(
            out.lines(),
            [
                r#"node_network_supported_port_info{device="eth0",type="TP"} 1"#,
                r#"node_network_supported_port_info{device="eth0",type="MII"} 1"#,
                r#"node_network_supported_speed_bytes{device="eth0",duplex="half",mode="100baseT"} 12500000"#,
                r#"node_network_supported_speed_bytes{device="eth0",duplex="full",mode="100baseT"} 12500000"#,
                r#"node_network_supported_speed_bytes{device="eth0",duplex="full",mode="25000baseKR"} 3125000000"#,
                r#"node_network_advertised_speed_bytes{device="eth0",duplex="full",mode="1000baseT"} 125000000"#,
                r#"node_network_autonegotiate_supported{device="eth0"} 1"#,
                r#"node_network_pause_supported{device="eth0"} 1"#,
                r#"node_network_asymmetricpause_supported{device="eth0"} 0"#,
                r#"node_network_autonegotiate_advertised{device="eth0"} 0"#,
                r#"node_network_pause_advertised{device="eth0"} 0"#,
                r#"node_network_asymmetricpause_advertised{device="eth0"} 1"#,
                r#"node_network_autonegotiate{device="eth0"} 1"#,
            ]
        );
    }

    #[test]
    fn driver_info_has_all_labels() {
        let driver = DriverInfo {
            name: "e1000e".into(),
            version: "6.1".into(),
            firmware_version: "0.5-4".into(),
            bus_info: "0000:00:1f.6".into(),
            expansion_rom_version: "9".into(),
        };
        let mut out = Families::default();
        add_driver(&mut out, "eth0", &driver);
        assert_eq!(
            out.lines(),
            [
                r#"node_ethtool_info{bus_info="0000:00:1f.6",device="eth0",driver="e1000e",expansion_rom_version="9",firmware_version="0.5-4",version="6.1"} 1"#
            ]
        );
    }
}
