//! TCP sockets by state, from `sock_diag(7)`, IPv4 and IPv6 combined.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, TcpSockets},
};

metrics! {
    /// Number of connections by state, and bytes in the receive and transmit queues of all sockets;
    /// a listening socket adds its connection queue length and limit to these.
    CONNECTION_STATES: Gauge = "node_tcp_connection_states" ["state"];
}

#[derive(Debug)]
pub(super) struct TcpStat;

impl Collector for TcpStat {
    const NAME: &'static str = "tcpstat";
    const ABOUT: &'static str = "TCP sockets by state";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.tcp_sockets()?))
    }
}

/// States without sockets are exposed as 0, so that their series do not come and go.
fn families(sockets: &TcpSockets) -> Families {
    let mut out = Families::default();
    for (state, count) in sockets.states() {
        out.add(&CONNECTION_STATES, [state], count);
    }
    out.add(&CONNECTION_STATES, ["rx_queued_bytes"], sockets.rx_queue);
    out.add(&CONNECTION_STATES, ["tx_queued_bytes"], sockets.tx_queue);
    out
}
