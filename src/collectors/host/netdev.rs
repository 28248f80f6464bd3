//! Traffic of network interfaces, from rtnetlink, documented in `linux/if_link.h`, or, if the
//! flag disables netlink, from `/proc/net/dev`, documented in `proc_pid_net(5)`.
//!
//! Metrics are named after the columns of `/proc/net/dev`, which are sums of netlink's counters;
//! `--collector.netdev.enable-detailed-metrics` exposes the latter separately. The interfaces
//! are those of the exporter's own network namespace.

use std::net::{IpAddr, Ipv6Addr};

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    pattern::{Filter, Pattern},
    sources::{Dir, Link, LinkStats, Snapshot, Text},
};

metrics! {
    /// Bytes received.
    RECEIVE_BYTES: Counter = "node_network_receive_bytes_total" ["device"];
    /// Packets received.
    RECEIVE_PACKETS: Counter = "node_network_receive_packets_total" ["device"];
    /// Received packets with errors.
    RECEIVE_ERRS: Counter = "node_network_receive_errs_total" ["device"];
    /// Intact received packets that were dropped, for lack of buffers or of a receiver.
    RECEIVE_DROP: Counter = "node_network_receive_drop_total" ["device"];
    /// Received packets lost to a FIFO overrun.
    RECEIVE_FIFO: Counter = "node_network_receive_fifo_total" ["device"];
    /// Received packets with a wrong length, checksum or alignment.
    RECEIVE_FRAME: Counter = "node_network_receive_frame_total" ["device"];
    /// Compressed packets received.
    RECEIVE_COMPRESSED: Counter = "node_network_receive_compressed_total" ["device"];
    /// Multicast packets received.
    RECEIVE_MULTICAST: Counter = "node_network_receive_multicast_total" ["device"];
    /// Packets dropped because they arrived on an inactive bond or team port; only with netlink.
    RECEIVE_NOHANDLER: Counter = "node_network_receive_nohandler_total" ["device"];
    /// Bytes transmitted.
    TRANSMIT_BYTES: Counter = "node_network_transmit_bytes_total" ["device"];
    /// Packets transmitted.
    TRANSMIT_PACKETS: Counter = "node_network_transmit_packets_total" ["device"];
    /// Packets that could not be transmitted because of an error.
    TRANSMIT_ERRS: Counter = "node_network_transmit_errs_total" ["device"];
    /// Packets dropped on transmit, mostly for lack of buffers.
    TRANSMIT_DROP: Counter = "node_network_transmit_drop_total" ["device"];
    /// Packets lost to a FIFO underrun on transmit.
    TRANSMIT_FIFO: Counter = "node_network_transmit_fifo_total" ["device"];
    /// Collisions during transmission.
    TRANSMIT_COLLS: Counter = "node_network_transmit_colls_total" ["device"];
    /// Packets not transmitted because of a lost carrier or an aborted transmission.
    TRANSMIT_CARRIER: Counter = "node_network_transmit_carrier_total" ["device"];
    /// Compressed packets transmitted.
    TRANSMIT_COMPRESSED: Counter = "node_network_transmit_compressed_total" ["device"];
    /// Received packets with errors; replaces errs with detailed metrics.
    RECEIVE_ERRORS: Counter = "node_network_receive_errors_total" ["device"];
    /// Intact received packets dropped, without missed errors; replaces drop with detailed metrics.
    RECEIVE_DROPPED: Counter = "node_network_receive_dropped_total" ["device"];
    /// Multicast packets received; replaces receive_multicast with detailed metrics.
    MULTICAST: Counter = "node_network_multicast_total" ["device"];
    /// Received packets with a wrong length; only with detailed metrics.
    RECEIVE_LENGTH_ERRORS: Counter = "node_network_receive_length_errors_total" ["device"];
    /// Received packets that overflowed the ring buffer; only with detailed metrics.
    RECEIVE_OVER_ERRORS: Counter = "node_network_receive_over_errors_total" ["device"];
    /// Received packets with a wrong checksum; only with detailed metrics.
    RECEIVE_CRC_ERRORS: Counter = "node_network_receive_crc_errors_total" ["device"];
    /// Received packets with a wrong alignment; only with detailed metrics.
    RECEIVE_FRAME_ERRORS: Counter = "node_network_receive_frame_errors_total" ["device"];
    /// Received packets lost to a FIFO overrun; replaces fifo with detailed metrics.
    RECEIVE_FIFO_ERRORS: Counter = "node_network_receive_fifo_errors_total" ["device"];
    /// Packets missed because the device had no buffer; only with detailed metrics.
    RECEIVE_MISSED_ERRORS: Counter = "node_network_receive_missed_errors_total" ["device"];
    /// Packets that could not be transmitted because of an error; replaces errs with detailed
    /// metrics.
    TRANSMIT_ERRORS: Counter = "node_network_transmit_errors_total" ["device"];
    /// Packets dropped on transmit; replaces drop with detailed metrics.
    TRANSMIT_DROPPED: Counter = "node_network_transmit_dropped_total" ["device"];
    /// Collisions during transmission; replaces colls with detailed metrics.
    COLLISIONS: Counter = "node_network_collisions_total" ["device"];
    /// Aborted transmissions; only with detailed metrics.
    TRANSMIT_ABORTED_ERRORS: Counter = "node_network_transmit_aborted_errors_total" ["device"];
    /// Packets not transmitted because of a lost carrier; only with detailed metrics.
    TRANSMIT_CARRIER_ERRORS: Counter = "node_network_transmit_carrier_errors_total" ["device"];
    /// Packets lost to a FIFO underrun on transmit; replaces fifo with detailed metrics.
    TRANSMIT_FIFO_ERRORS: Counter = "node_network_transmit_fifo_errors_total" ["device"];
    /// Transmissions without a heartbeat signal of the transceiver; only with detailed metrics.
    TRANSMIT_HEARTBEAT_ERRORS: Counter = "node_network_transmit_heartbeat_errors_total" ["device"];
    /// Packets not transmitted because of a late collision; only with detailed metrics.
    TRANSMIT_WINDOW_ERRORS: Counter = "node_network_transmit_window_errors_total" ["device"];
    /// IP addresses of each interface and their scope; the value is always 1.
    ADDRESS_INFO: Info = "node_network_address_info" ["device", "address", "netmask", "scope"];
}

const INCLUDE: &str = "collector.netdev.device-include";
const EXCLUDE: &str = "collector.netdev.device-exclude";

#[derive(Debug, clap::Args)]
#[group(skip)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
pub(super) struct NetDevFlags {
    /// Regexp of devices to include (mutually exclusive with device-exclude).
    #[arg(
        long = INCLUDE,
        value_name = "REGEX",
        alias = "collector.netdev.device-whitelist"
    )]
    netdev_device_include: Option<Pattern>,
    /// Regexp of devices to exclude (mutually exclusive with device-include).
    #[arg(
        long = EXCLUDE,
        value_name = "REGEX",
        alias = "collector.netdev.device-blacklist"
    )]
    netdev_device_exclude: Option<Pattern>,
    /// Use netlink instead of /proc/net/dev.
    #[arg(long = "collector.netdev.netlink", default_value_t = true, action = ArgAction::Set)]
    netdev_netlink: bool,
    /// Expose the addresses of all interfaces.
    #[arg(long = "collector.netdev.address-info", default_value_t = false, action = ArgAction::Set)]
    netdev_address_info: bool,
    /// Expose detailed counters; some replace others under a different name.
    #[arg(
        long = "collector.netdev.enable-detailed-metrics",
        default_value_t = false,
        action = ArgAction::Set
    )]
    netdev_enable_detailed_metrics: bool,
    /// Add a label with the interface's alias.
    #[arg(long = "collector.netdev.label-ifalias", default_value_t = false, action = ArgAction::Set)]
    netdev_label_ifalias: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
pub(super) struct NetDev {
    devices: Filter,
    netlink: bool,
    address_info: bool,
    detailed: bool,
    label_ifalias: bool,
}

impl Collector for NetDev {
    const NAME: &'static str = "netdev";
    const ABOUT: &'static str = "network interface traffic";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NetDevFlags;

    fn new(flags: NetDevFlags) -> Result<Self, String> {
        Ok(Self {
            devices: Filter::new(
                (INCLUDE, flags.netdev_device_include),
                (EXCLUDE, flags.netdev_device_exclude),
                "",
            )?,
            netlink: flags.netdev_netlink,
            address_info: flags.netdev_address_info,
            detailed: flags.netdev_enable_detailed_metrics,
            label_ifalias: flags.netdev_label_ifalias,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        if self.netlink {
            self.add_links(&mut out, snapshot.links()?);
        } else {
            let class = self.label_ifalias.then(|| snapshot.sys_dir("class/net"));
            let class = class.and_then(|class| out.ok_or_skip(class));
            self.add_table(&mut out, &snapshot.read_proc("net/dev")?, class.as_ref());
        }
        if self.address_info {
            add_addresses(&mut out, snapshot);
        }
        Ok(out)
    }
}

impl NetDev {
    fn add_links(&self, out: &mut Families, links: &[Link]) {
        for link in links.iter().filter(|link| self.devices.matches(&link.name)) {
            let Some(stats) = &link.stats else { continue };
            let ifalias = self.label_ifalias.then_some(link.ifalias.as_str());
            let rows = if self.detailed {
                detailed_counters
            } else {
                proc_counters
            };
            add_rows(out, &link.name, ifalias, rows(stats), stats.rx_nohandler);
        }
    }

    fn add_table(&self, out: &mut Families, table: &Text, class: Option<&Dir>) {
        let mut columns = Vec::new();
        for mut fields in table.lines() {
            // Old alias interfaces have a colon in their names, as in `eth0:1`.
            let Some((device, numbers)) = fields.rest().rsplit_once(':') else {
                if fields.rest().contains('|') {
                    columns = self.columns(fields.rest());
                }
                continue;
            };
            let device = device.trim_ascii();
            if !self.devices.matches(device) {
                continue;
            }
            let values: Result<Vec<u64>> = numbers
                .split_ascii_whitespace()
                .map(|word| fields.parse_word(word, "count"))
                .collect();
            let Some(values) = out.ok_or_skip(values) else {
                continue;
            };
            if values.len() < columns.len() {
                let _device = fields.next_word();
                out.record_error(fields.error("fewer values than columns"));
                continue;
            }
            let ifalias = self.label_ifalias.then(|| {
                let alias = class.map(|class| class.read_trimmed(format!("{device}/ifalias")));
                alias
                    .and_then(|alias| out.ok_or_skip(alias))
                    .unwrap_or_default()
            });
            for (metric, value) in columns.iter().zip(values) {
                if let Some(metric) = metric {
                    add(out, metric, device, ifalias.as_deref(), value);
                }
            }
        }
    }

    /// Returns the metrics in the order of the columns; old kernels have fewer columns.
    fn columns(&self, header: &str) -> Vec<Option<&'static Metric<1>>> {
        let mut sections = header.split('|').skip(1);
        let mut section_metrics = |metric_for: fn(&Self, &str) -> Option<&'static Metric<1>>| {
            let words = sections.next().unwrap_or_default();
            let metrics = words
                .split_ascii_whitespace()
                .map(|word| metric_for(self, word));
            metrics.collect::<Vec<_>>()
        };
        let mut columns = section_metrics(Self::receive_metric);
        columns.extend(section_metrics(Self::transmit_metric));
        columns
    }

    fn receive_metric(&self, column: &str) -> Option<&'static Metric<1>> {
        Some(match column {
            "bytes" => &RECEIVE_BYTES,
            "packets" => &RECEIVE_PACKETS,
            "errs" if self.detailed => &RECEIVE_ERRORS,
            "errs" => &RECEIVE_ERRS,
            "drop" if self.detailed => &RECEIVE_DROPPED,
            "drop" => &RECEIVE_DROP,
            "fifo" => &RECEIVE_FIFO,
            "frame" => &RECEIVE_FRAME,
            "compressed" => &RECEIVE_COMPRESSED,
            "multicast" => &RECEIVE_MULTICAST,
            _ => return None,
        })
    }

    fn transmit_metric(&self, column: &str) -> Option<&'static Metric<1>> {
        Some(match column {
            "bytes" => &TRANSMIT_BYTES,
            "packets" => &TRANSMIT_PACKETS,
            "errs" if self.detailed => &TRANSMIT_ERRORS,
            "errs" => &TRANSMIT_ERRS,
            "drop" if self.detailed => &TRANSMIT_DROPPED,
            "drop" => &TRANSMIT_DROP,
            "fifo" => &TRANSMIT_FIFO,
            "colls" => &TRANSMIT_COLLS,
            "carrier" => &TRANSMIT_CARRIER,
            "compressed" => &TRANSMIT_COMPRESSED,
            _ => return None,
        })
    }
}

/// Adds the detailed counters, without the `ifalias` label.
pub(super) fn add_detailed(out: &mut Families, device: &str, stats: &LinkStats) {
    add_rows(
        out,
        device,
        None,
        detailed_counters(stats),
        stats.rx_nohandler,
    );
}

fn add_rows(
    out: &mut Families,
    device: &str,
    ifalias: Option<&str>,
    rows: Vec<(&'static Metric<1>, u64)>,
    nohandler: Option<u64>,
) {
    for (metric, value) in rows {
        add(out, metric, device, ifalias, value);
    }
    if let Some(nohandler) = nohandler {
        add(out, &RECEIVE_NOHANDLER, device, ifalias, nohandler);
    }
}

fn add(
    out: &mut Families,
    metric: &'static Metric<1>,
    device: &str,
    ifalias: Option<&str>,
    value: u64,
) {
    match ifalias {
        None => out.add(metric, [device], value),
        Some(ifalias) => out.add_dynamic(metric, [device], &[("ifalias", ifalias)], value),
    }
}

/// The sums that the kernel's `dev_seq_printf_stats` writes to `/proc/net/dev`.
fn proc_counters(stats: &LinkStats) -> Vec<(&'static Metric<1>, u64)> {
    let sum = |counts: &[u64]| counts.iter().fold(0, |a: u64, b| a.saturating_add(*b));
    let frame = [
        stats.rx_length_errors,
        stats.rx_over_errors,
        stats.rx_crc_errors,
        stats.rx_frame_errors,
    ];
    let carrier = [
        stats.tx_carrier_errors,
        stats.tx_aborted_errors,
        stats.tx_window_errors,
        stats.tx_heartbeat_errors,
    ];
    vec![
        (&RECEIVE_BYTES, stats.rx_bytes),
        (&RECEIVE_PACKETS, stats.rx_packets),
        (&RECEIVE_ERRS, stats.rx_errors),
        (
            &RECEIVE_DROP,
            sum(&[stats.rx_dropped, stats.rx_missed_errors]),
        ),
        (&RECEIVE_FIFO, stats.rx_fifo_errors),
        (&RECEIVE_FRAME, sum(&frame)),
        (&RECEIVE_COMPRESSED, stats.rx_compressed),
        (&RECEIVE_MULTICAST, stats.multicast),
        (&TRANSMIT_BYTES, stats.tx_bytes),
        (&TRANSMIT_PACKETS, stats.tx_packets),
        (&TRANSMIT_ERRS, stats.tx_errors),
        (&TRANSMIT_DROP, stats.tx_dropped),
        (&TRANSMIT_FIFO, stats.tx_fifo_errors),
        (&TRANSMIT_COLLS, stats.collisions),
        (&TRANSMIT_CARRIER, sum(&carrier)),
        (&TRANSMIT_COMPRESSED, stats.tx_compressed),
    ]
}

fn detailed_counters(stats: &LinkStats) -> Vec<(&'static Metric<1>, u64)> {
    vec![
        (&RECEIVE_BYTES, stats.rx_bytes),
        (&RECEIVE_PACKETS, stats.rx_packets),
        (&RECEIVE_ERRORS, stats.rx_errors),
        (&RECEIVE_DROPPED, stats.rx_dropped),
        (&MULTICAST, stats.multicast),
        (&RECEIVE_LENGTH_ERRORS, stats.rx_length_errors),
        (&RECEIVE_OVER_ERRORS, stats.rx_over_errors),
        (&RECEIVE_CRC_ERRORS, stats.rx_crc_errors),
        (&RECEIVE_FRAME_ERRORS, stats.rx_frame_errors),
        (&RECEIVE_FIFO_ERRORS, stats.rx_fifo_errors),
        (&RECEIVE_MISSED_ERRORS, stats.rx_missed_errors),
        (&RECEIVE_COMPRESSED, stats.rx_compressed),
        (&TRANSMIT_BYTES, stats.tx_bytes),
        (&TRANSMIT_PACKETS, stats.tx_packets),
        (&TRANSMIT_ERRORS, stats.tx_errors),
        (&TRANSMIT_DROPPED, stats.tx_dropped),
        (&COLLISIONS, stats.collisions),
        (&TRANSMIT_ABORTED_ERRORS, stats.tx_aborted_errors),
        (&TRANSMIT_CARRIER_ERRORS, stats.tx_carrier_errors),
        (&TRANSMIT_FIFO_ERRORS, stats.tx_fifo_errors),
        (&TRANSMIT_HEARTBEAT_ERRORS, stats.tx_heartbeat_errors),
        (&TRANSMIT_WINDOW_ERRORS, stats.tx_window_errors),
        (&TRANSMIT_COMPRESSED, stats.tx_compressed),
    ]
}

/// Not subject to the device filter, as in `node_exporter`.
fn add_addresses(out: &mut Families, snapshot: &Snapshot) {
    let read = snapshot
        .links()
        .and_then(|links| Ok((links, snapshot.addresses()?)));
    let Some((links, addresses)) = out.ok_or_skip(read) else {
        return;
    };
    for address in addresses {
        if let Some(link) = Link::find(links, address.ifindex) {
            let ip = address.ip.to_string();
            let netmask = address.prefix_len.to_string();
            let labels = [link.name.as_str(), &ip, &netmask, scope(address.ip)];
            out.add(&ADDRESS_INFO, labels, true);
        }
    }
}

/// Scope of an address as in `node_exporter`: derived from the address, with loopback addresses
/// reported as `link-local`.
fn scope(ip: IpAddr) -> &'static str {
    let (is_link_local, has_no_scope) = match ip {
        IpAddr::V4(ip) => (
            ip.is_loopback() || ip.is_link_local() || ip.octets().starts_with(&[224, 0, 0]),
            ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast(),
        ),
        IpAddr::V6(ip) => (
            ip.is_loopback() || ip.is_unicast_link_local() || is_multicast(ip, 2),
            ip.is_unspecified() || ip.is_multicast(),
        ),
    };
    match ip {
        _ if is_link_local => "link-local",
        IpAddr::V6(ip) if is_multicast(ip, 1) => "interface-local",
        _ if has_no_scope => "",
        _ => "global",
    }
}

/// Whether `ip` is a multicast address of the given scope.
fn is_multicast(ip: Ipv6Addr, scope: u8) -> bool {
    let [first, second, ..] = ip.octets();
    first == 0xff && second & 0xf == scope
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1       2    3    4    5     6          7         8    9      10   11   12   13    14      15         16
eth0:1: 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
  bad: 1 2 x 4 5 6 7 8 9 10 11 12 13 14 15 16
short: 1 2
";

    fn netdev(detailed: bool) -> NetDev {
        NetDev {
            devices: Filter::default(),
            netlink: false,
            address_info: false,
            detailed,
            label_ifalias: false,
        }
    }

    fn table(netdev: &NetDev, table: &str) -> Families {
        let mut out = Families::default();
        netdev.add_table(&mut out, &Text::from(table), None);
        out
    }

    fn link() -> Link {
        Link {
            name: "eth0".to_owned(),
            ifalias: "uplink".to_owned(),
            stats: Some(LinkStats {
                rx_dropped: 1,
                rx_missed_errors: 2,
                rx_length_errors: 10,
                rx_over_errors: 20,
                rx_crc_errors: 40,
                rx_frame_errors: 80,
                tx_carrier_errors: 100,
                tx_aborted_errors: 200,
                tx_window_errors: 400,
                tx_heartbeat_errors: 800,
                rx_nohandler: Some(7),
                ..LinkStats::default()
            }),
            ..Link::default()
        }
    }

    fn links(netdev: &NetDev) -> Vec<String> {
        let mut out = Families::default();
        netdev.add_links(&mut out, &[link()]);
        out.lines()
    }

    #[test]
    fn maps_every_column_and_skips_malformed_lines() {
        let out = table(&netdev(false), TABLE);
        let lines = out.lines();
        let receive = r#"node_network_receive_multicast_total{device="lo"} 8"#;
        assert!(lines.iter().any(|line| line == receive));
        let alias = r#"node_network_transmit_carrier_total{device="eth0:1"} 35"#;
        assert!(lines.iter().any(|line| line == alias));
        assert_eq!(lines.len(), 32);
        let (skipped, reason) = out.errors();
        let reason = reason.unwrap().to_string();
        assert_eq!(
            (skipped, &*reason),
            (2, r#"test:5: count is not a number: "x""#)
        );
    }

    #[test]
    fn old_kernels_have_fewer_columns() {
        let old = "\
Inter-|   Receive                  |  Transmit
 face |packets errs drop fifo frame|packets errs drop fifo colls carrier
    lo:      2    3    4    5    6       10   11   12   13    14      15
";
        let lines = table(&netdev(false), old).lines();
        assert_eq!(lines.len(), 11);
        assert_eq!(
            lines[0],
            r#"node_network_receive_packets_total{device="lo"} 2"#
        );
        assert_eq!(
            lines[5],
            r#"node_network_transmit_packets_total{device="lo"} 10"#
        );
    }

    #[test]
    fn netlink_counters_are_summed_like_proc_net_dev() {
        let lines = links(&netdev(false));
        for expected in [
            r#"node_network_receive_drop_total{device="eth0"} 3"#,
            r#"node_network_receive_frame_total{device="eth0"} 150"#,
            r#"node_network_transmit_carrier_total{device="eth0"} 1500"#,
            r#"node_network_receive_nohandler_total{device="eth0"} 7"#,
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}");
        }
        assert_eq!(lines.len(), 17);
    }

    #[test]
    fn detailed_metrics_are_not_summed() {
        let lines = links(&netdev(true));
        for expected in [
            r#"node_network_receive_dropped_total{device="eth0"} 1"#,
            r#"node_network_receive_missed_errors_total{device="eth0"} 2"#,
            r#"node_network_transmit_heartbeat_errors_total{device="eth0"} 800"#,
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}");
        }
        assert_eq!(lines.len(), 24);
        let lines = table(&netdev(true), TABLE).lines();
        assert_eq!(
            lines[4],
            r#"node_network_receive_errors_total{device="lo"} 3"#
        );
    }

    #[test]
    fn ifalias_label_is_optional() {
        let netdev = NetDev {
            label_ifalias: true,
            ..netdev(false)
        };
        let expected = r#"node_network_receive_drop_total{device="eth0",ifalias="uplink"} 3"#;
        assert_eq!(links(&netdev)[3], expected);
    }

    #[test]
    fn scope_is_derived_from_the_address() {
        for (ip, expected) in [
            ("127.0.0.1", "link-local"),
            ("169.254.1.1", "link-local"),
            ("224.0.0.1", "link-local"),
            ("fe80::1", "link-local"),
            ("::1", "link-local"),
            ("ff02::1", "link-local"),
            ("ff01::1", "interface-local"),
            ("192.168.0.1", "global"),
            ("fd00::1", "global"),
            ("0.0.0.0", ""),
            ("ff0e::1", ""),
            ("255.255.255.255", ""),
        ] {
            assert_eq!(scope(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
