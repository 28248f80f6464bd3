//! TCP socket counts from `sock_diag(7)`, as in `ss`. This avoids the text of `/proc/net/tcp`, for
//! which the kernel formats 150 bytes per socket.

use rustix::net::{AddressFamily, netlink::SOCK_DIAG};

use super::{
    Snapshot,
    netlink::{self, Dump},
};
use crate::error::Result;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
/// All states in [`TcpSockets::STATES`].
const TCPF_ALL: u32 = 0xfff;
/// `struct inet_diag_req_v2`.
const REQUEST_LEN: usize = 56;

/// Number of TCP sockets, and sizes of their queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpSockets {
    states: [u64; Self::STATES.len()],
    /// Received bytes not yet read; for listening sockets, connections not yet accepted.
    pub rx_queue: u64,
    /// Sent bytes not yet acknowledged; for listening sockets, the maximum backlog.
    pub tx_queue: u64,
}

impl TcpSockets {
    /// Names of the states, in the order of the kernel's `enum` in `net/tcp_states.h`.
    const STATES: [&str; 11] = [
        "established",
        "syn_sent",
        "syn_recv",
        "fin_wait1",
        "fin_wait2",
        "time_wait",
        "close",
        "close_wait",
        "last_ack",
        "listen",
        "closing",
    ];

    /// Iterates over the names of the states and the number of sockets in each.
    pub fn states(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::STATES.into_iter().zip(self.states)
    }

    fn merge(mut self, other: &Self) -> Self {
        for (count, other_count) in self.states.iter_mut().zip(other.states) {
            *count += other_count;
        }
        self.rx_queue += other.rx_queue;
        self.tx_queue += other.tx_queue;
        self
    }

    pub(super) fn add_message(&mut self, message: &[u8]) {
        self.try_add_message(message).unwrap_or_default();
    }

    fn try_add_message(&mut self, message: &[u8]) -> Option<()> {
        let state = usize::from(*message.get(1)?);
        let (rx, tx) = (message.get(56..)?, message.get(60..)?);
        let (rx, tx) = (netlink::parse_u32(rx)?, netlink::parse_u32(tx)?);
        // States are numbered from one.
        *self.states.get_mut(state.checked_sub(1)?)? += 1;
        self.rx_queue += u64::from(rx);
        self.tx_queue += u64::from(tx);
        Some(())
    }
}

impl Snapshot {
    /// Returns the IPv4 and IPv6 TCP sockets of the exporter's network namespace.
    pub fn tcp_sockets(&self) -> Result<TcpSockets> {
        let sockets = self.tcp_sockets_by_family(AddressFamily::INET)?;
        // A kernel without IPv6 has no handler for the request.
        if !self.proc_dir("net")?.has("tcp6") {
            return Ok(sockets);
        }
        Ok(sockets.merge(&self.tcp_sockets_by_family(AddressFamily::INET6)?))
    }

    fn tcp_sockets_by_family(&self, family: AddressFamily) -> Result<TcpSockets> {
        let [family, _] = family.as_raw().to_le_bytes();
        let mut body = vec![family, IPPROTO_TCP, 0, 0];
        body.extend(TCPF_ALL.to_ne_bytes());
        body.resize(REQUEST_LEN, 0);
        let dump = Dump {
            name: "SOCK_DIAG_BY_FAMILY",
            protocol: Some(SOCK_DIAG),
            message_type: SOCK_DIAG_BY_FAMILY,
            body: &body,
        };
        dump.fold(self.deadline(), TcpSockets::add_message)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn message(state: &str, queues: &str) -> Vec<u8> {
        let id = "00".repeat(48);
        netlink::hex(&format!("02 {state} 0000 {id} 00000000 {queues}"))
    }

    #[test]
    fn sockets_are_counted_by_state_and_queues_summed() {
        let mut sockets = TcpSockets::default();
        sockets
            .try_add_message(&message("01", "05000000 07000000"))
            .unwrap();
        sockets
            .try_add_message(&message("01", "01000000 00000000"))
            .unwrap();
        let mut other = TcpSockets::default();
        other
            .try_add_message(&message("0b", "00000000 02000000"))
            .unwrap();
        let all = sockets.merge(&other);
        let states: Vec<_> = all.states().filter(|(_, count)| *count > 0).collect();
        assert_eq!(states, [("established", 2), ("closing", 1)]);
        assert_eq!((all.rx_queue, all.tx_queue), (6, 9));
    }

    #[test]
    fn invalid_message_is_not_counted() {
        let mut sockets = TcpSockets::default();
        for (state, queues) in [("00", "05000000 07000000"), ("01", "05000000")] {
            assert_eq!(sockets.try_add_message(&message(state, queues)), None);
        }
        assert_eq!(
            sockets.try_add_message(&message("0c", "05000000 07000000")),
            None
        );
        assert_eq!(sockets, TcpSockets::default());
    }
}
