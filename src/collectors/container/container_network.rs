//! Network traffic of containers: `net/dev` of the first process of each, documented in
//! `proc_pid_net(5)`, and `net/dev` of process 1 for the whole machine.
//!
//! The counters belong to a network namespace, and each namespace is exposed once. A container in
//! the host's namespace has none of its own. If containers share a namespace, as in a pod, the one
//! that started first exposes it: the namespace was created for it.

use clap::ArgAction;

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::Collector,
    error::Result,
    family::{BaseLabels, Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{NetnsOwners, Process, Snapshot, Text, interface_rows},
};

metrics! {
    /// Bytes received. Of containers that share a network namespace only the first has these
    /// metrics; containers in the host network have none.
    RECEIVE_BYTES: Counter = "container_network_receive_bytes_total" base CGROUP ["interface"];
    /// Packets received.
    RECEIVE_PACKETS: Counter = "container_network_receive_packets_total" base CGROUP ["interface"];
    /// Receive errors.
    RECEIVE_ERRORS: Counter = "container_network_receive_errors_total" base CGROUP ["interface"];
    /// Received packets dropped.
    RECEIVE_DROPPED: Counter = "container_network_receive_packets_dropped_total" base CGROUP ["interface"];
    /// Bytes sent. Of containers that share a network namespace only the first has these metrics;
    /// containers in the host network have none.
    TRANSMIT_BYTES: Counter = "container_network_transmit_bytes_total" base CGROUP ["interface"];
    /// Packets sent.
    TRANSMIT_PACKETS: Counter = "container_network_transmit_packets_total" base CGROUP ["interface"];
    /// Transmit errors.
    TRANSMIT_ERRORS: Counter = "container_network_transmit_errors_total" base CGROUP ["interface"];
    /// Packets dropped while transmitting.
    TRANSMIT_DROPPED: Counter = "container_network_transmit_packets_dropped_total" base CGROUP ["interface"];
    /// TCP sockets over IPv4 by state, counted at the local end only.
    TCP: Gauge = "container_network_tcp_usage_total" base CGROUP ["tcp_state"];
    /// TCP sockets over IPv6 by state, including those that also accept IPv4.
    TCP6: Gauge = "container_network_tcp6_usage_total" base CGROUP ["tcp_state"];
    /// UDP sockets over IPv4: unconnected sockets (listen), packets dropped by open sockets, bytes
    /// in their queues.
    UDP: Gauge = "container_network_udp_usage_total" base CGROUP ["udp_state"];
    /// UDP sockets over IPv6: unconnected sockets (listen), packets dropped by open sockets, bytes
    /// in their queues.
    UDP6: Gauge = "container_network_udp6_usage_total" base CGROUP ["udp_state"];
    /// TCP counters and settings of the kernel, with their names in lower case; see the SNMP
    /// counter documentation of the kernel.
    ADVANCED_TCP: Gauge = "container_network_advance_tcp_stats_total" base CGROUP ["tcp_state"];
}

/// Columns of `net/dev` and their metrics, without those that cAdvisor never had.
const COLUMNS: [(usize, &Metric<1>); 8] = [
    (0, &RECEIVE_BYTES),
    (1, &RECEIVE_PACKETS),
    (2, &RECEIVE_ERRORS),
    (3, &RECEIVE_DROPPED),
    (8, &TRANSMIT_BYTES),
    (9, &TRANSMIT_PACKETS),
    (10, &TRANSMIT_ERRORS),
    (11, &TRANSMIT_DROPPED),
];

/// The states of TCP sockets by the kernel's numbers, starting at 1.
const TCP_STATES: [&str; 11] = [
    "established",
    "synsent",
    "synrecv",
    "finwait1",
    "finwait2",
    "timewait",
    "close",
    "closewait",
    "lastack",
    "listen",
    "closing",
];

/// State of a UDP socket that is not connected.
const UNCONNECTED: &str = "07";

/// The flags of the `container_network` collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct ContainerNetworkFlags {
    /// Count the TCP sockets of each container by state.
    #[arg(long = "collector.container_network.tcp", default_value_t = false, action = ArgAction::Set)]
    container_network_tcp: bool,
    /// Count the UDP sockets of each container, and the bytes queued in them.
    #[arg(long = "collector.container_network.udp", default_value_t = false, action = ArgAction::Set)]
    container_network_udp: bool,
    /// Expose all of the kernel's TCP counters for each container.
    #[arg(long = "collector.container_network.advanced-tcp", default_value_t = false, action = ArgAction::Set)]
    container_network_advanced_tcp: bool,
}

#[derive(Debug)]
pub(super) struct ContainerNetwork {
    flags: ContainerNetworkFlags,
    networks: NetnsOwners,
}

impl Collector for ContainerNetwork {
    const NAME: &'static str = "container_network";
    const ABOUT: &'static str = "network traffic of containers";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = ContainerNetworkFlags;

    fn new(flags: ContainerNetworkFlags) -> Result<Self, String> {
        Ok(Self {
            flags,
            networks: NetnsOwners::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let owners = self.networks.owners(snapshot, |error| {
            out.ok_or_skip::<()>(Err(error));
        })?;
        for owner in owners {
            self.add_network(&mut out, base_labels(owner.workload), &owner.process);
        }
        Ok(out)
    }
}

impl ContainerNetwork {
    fn add_network(&self, out: &mut Families, base: &BaseLabels, process: &Process) {
        let text = process.read("net/dev");
        if let Some(text) = out.ok_or_skip(text) {
            add_interfaces(out, base, &text);
        }
        if self.flags.container_network_tcp {
            for (file, metric) in [("net/tcp", &TCP), ("net/tcp6", &TCP6)] {
                let counts = process.read(file).and_then(|text| count_tcp_states(&text));
                for (state, count) in TCP_STATES
                    .iter()
                    .zip(out.ok_or_skip(counts).iter().flatten())
                {
                    out.add_with(metric, base, [state], *count);
                }
            }
        }
        if self.flags.container_network_udp {
            for (file, metric) in [("net/udp", &UDP), ("net/udp6", &UDP6)] {
                let sums = process.read(file).and_then(|text| sum_udp_sockets(&text));
                for (name, sum) in out.ok_or_skip(sums).into_iter().flatten() {
                    out.add_with(metric, base, [name], sum);
                }
            }
        }
        if self.flags.container_network_advanced_tcp {
            for (file, table) in [("net/snmp", "Tcp:"), ("net/netstat", "TcpExt:")] {
                let text = process.read(file);
                if let Some(text) = out.ok_or_skip(text) {
                    add_table(out, base, &text, table);
                }
            }
        }
    }
}

fn add_interfaces(out: &mut Families, base: &BaseLabels, text: &Text) {
    for (number, row) in interface_rows(text.body().as_bytes()) {
        let Some(row) = row else {
            out.record_error(text.error(number, "missing colon after interface name"));
            continue;
        };
        if NetnsOwners::is_engine_interface(row.name) {
            continue;
        }
        let counters = row.counters();
        let counters = counters.ok_or_else(|| text.error(number, "fewer than 12 counters"));
        if let Some(counters) = out.ok_or_skip(counters) {
            for (column, metric) in COLUMNS {
                if let Some(counter) = counters.get(column) {
                    out.add_with(metric, base, [row.name], *counter);
                }
            }
        }
    }
}

/// Sockets in each state. An invalid line fails the whole file, because a partial sum is wrong.
fn count_tcp_states(text: &Text) -> Result<[u64; TCP_STATES.len()]> {
    let mut counts = [0_u64; TCP_STATES.len()];
    for (number, line) in (1..).zip(text.body().lines()).skip(1) {
        let state = line.split_ascii_whitespace().nth(3);
        let state = state.and_then(|state| usize::from_str_radix(state, 16).ok());
        let state = state.ok_or_else(|| text.error(number, "no socket state in column 4"))?;
        // States added by future kernels have no name.
        if let Some(count) = counts.get_mut(state.wrapping_sub(1)) {
            *count += 1;
        }
    }
    Ok(counts)
}

/// UDP socket values under cAdvisor's names.
fn sum_udp_sockets(text: &Text) -> Result<[(&'static str, u64); 4]> {
    let [mut listen, mut dropped, mut received, mut sent] = [0_u64; 4];
    for (number, line) in (1..).zip(text.body().lines()).skip(1) {
        let invalid = || text.error(number, "invalid socket line");
        // `sl local rem st tx_queue:rx_queue tr:when retrnsmt uid timeout inode ref
        // pointer drops`
        let mut words = line.split_ascii_whitespace().skip(3);
        let state = words.next().ok_or_else(invalid)?;
        let (tx, rx) = words
            .next()
            .and_then(|queues| queues.split_once(':'))
            .ok_or_else(invalid)?;
        let hex = |word| u64::from_str_radix(word, 16).map_err(|_| invalid());
        let drops = words.nth(7).and_then(|drops| drops.parse().ok());
        listen += u64::from(state == UNCONNECTED);
        dropped = dropped.saturating_add(drops.ok_or_else(invalid)?);
        received = received.saturating_add(hex(rx)?);
        sent = sent.saturating_add(hex(tx)?);
    }
    Ok([
        ("listen", listen),
        ("dropped", dropped),
        ("rxqueued", received),
        ("txqueued", sent),
    ])
}

/// Adds a table of two lines, names and numbers, that start with the same word.
fn add_table(out: &mut Families, base: &BaseLabels, text: &Text, table: &str) {
    let mut rows = text
        .body()
        .lines()
        .filter_map(|line| line.strip_prefix(table));
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else {
        return out.record_error(text.error(1, format_args!("missing {table} table")));
    };
    let names = names.split_ascii_whitespace();
    for (name, value) in names.zip(values.split_ascii_whitespace()) {
        let value = value
            .parse::<Value>()
            .map_err(|_| text.error(1, format_args!("invalid number {value:?}")));
        if let Some(value) = out.ok_or_skip(value) {
            out.add_with(&ADVANCED_TCP, base, [&name.to_ascii_lowercase()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    fn lines(add: impl FnOnce(&mut Families, &BaseLabels)) -> (Vec<String>, usize) {
        let mut out = Families::default();
        add(&mut out, &family::render_labels([("id", "/a")]));
        (out.lines(), out.errors().0)
    }

    #[test]
    fn skips_engine_interfaces_and_malformed_lines() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    \
                    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                    veth1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  \
                    eth0:100 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\
                    eth1: 1 2 3\n\
                    eth2 1 2 3\n\
                    a:1: 1 2 3 4 5 6 7 8 9 10 11 18446744073709551616\n";
        let (lines, skipped) = lines(|out, block| add_interfaces(out, block, &text.into()));
        let series = r#"{id="/a",interface="eth0"}"#;
        let expected = [
            ("receive_bytes", 100),
            ("receive_packets", 2),
            ("receive_errors", 3),
            ("receive_packets_dropped", 4),
            ("transmit_bytes", 9),
            ("transmit_packets", 10),
            ("transmit_errors", 11),
            ("transmit_packets_dropped", 12),
        ];
        let expected =
            expected.map(|(name, n)| format!("container_network_{name}_total{series} {n}"));
        assert_eq!(lines, expected);
        assert_eq!(skipped, 3);
    }

    #[test]
    fn sockets_are_counted_by_state() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let text = |rows: &str| Text::from(format!("{head}{rows}").as_str());
        let rows = "0: 0:16 0:0 0A 0:0\n1: 0:16 0:9 01 0:0\n2: 0:16 0:9 01 0:0\n3: 0 0 0B 0\n4: 0 0 0C 0\n";
        let counts = count_tcp_states(&text(rows)).unwrap();
        assert_eq!(counts, [2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        let error = count_tcp_states(&text("0: 0:16 0:0\n")).unwrap_err();
        assert_eq!(error.to_string(), "test:2: no socket state in column 4");
    }

    #[test]
    fn connected_udp_sockets_do_not_count_as_listen() {
        let rows = "head\n\
                    1: 0:44 0:0 07 00000003:00000010 00:00000000 00000000 998 0 12198 2 0000 5\n\
                    2: 0:45 0:9 01 00000004:00000020 00:00000000 00000000 998 0 12198 2 0000 6\n";
        let sums = sum_udp_sockets(&rows.into()).unwrap();
        let expected = [
            ("listen", 1),
            ("dropped", 11),
            ("rxqueued", 0x30),
            ("txqueued", 7),
        ];
        assert_eq!(sums, expected);
        assert!(sum_udp_sockets(&"head\n1: 0:44 0:0 07 3:1 0 0 9 0 1 2 0\n".into()).is_err());
        assert!(sum_udp_sockets(&"head\n1: 0:44 0:0 07 3\n".into()).is_err());
    }

    #[test]
    fn tcp_settings_may_be_negative() {
        let text = "Ip: A\nIp: 1\nTcp: MaxConn InSegs\nTcp: -1 7\n".into();
        let (lines, skipped) = lines(|out, block| add_table(out, block, &text, "Tcp:"));
        let expected = [("maxconn", "-1"), ("insegs", "7")].map(|(name, value)| {
            format!(
                r#"container_network_advance_tcp_stats_total{{id="/a",tcp_state="{name}"}} {value}"#
            )
        });
        assert_eq!((lines, skipped), (expected.to_vec(), 0));
    }

    #[test]
    fn table_without_values_is_an_error() {
        let (lines, skipped) =
            lines(|out, block| add_table(out, block, &"Tcp: A\n".into(), "Tcp:"));
        assert_eq!((lines.len(), skipped), (0, 1));
    }
}
