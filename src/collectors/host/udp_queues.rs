//! Bytes in the queues of UDP sockets, from `/proc/net/udp` and `/proc/net/udp6`, documented in
//! `proc_pid_net(5)`.
//!
//! The files have one line per socket, so only the two numbers of a line are extracted.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, Text},
};

metrics! {
    /// Bytes in the receive (rx) and transmit (tx) queues of all UDP sockets.
    QUEUES: Gauge = "node_udp_queues" ["ip", "queue"];
}

#[derive(Debug)]
pub(super) struct UdpQueues;

impl Collector for UdpQueues {
    const NAME: &'static str = "udp_queues";
    const ABOUT: &'static str = "bytes queued in UDP sockets";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let mut not_found = None;
        for (ip, file) in [("v4", "net/udp"), ("v6", "net/udp6")] {
            match snapshot.read_proc(file) {
                Ok(text) => add_queues(&mut out, ip, &text),
                Err(error) if error.is_gone() => not_found = Some(error),
                Err(error) => out.record_error(error),
            }
        }
        match not_found {
            Some(error) if out.is_empty() => Err(error),
            _ => Ok(out),
        }
    }
}

fn add_queues(out: &mut Families, ip: &str, text: &Text) {
    let sums = sum_queues(text);
    if let Some((tx, rx)) = out.ok_or_skip(sums) {
        out.add(&QUEUES, [ip, "tx"], tx);
        out.add(&QUEUES, [ip, "rx"], rx);
    }
}

/// All of the file or nothing: an incomplete sum would be wrong.
fn sum_queues(text: &Text) -> Result<(u64, u64)> {
    let mut sums = (0_u64, 0_u64);
    for (number, line) in text.body().lines().enumerate().skip(1) {
        // `sl local_address rem_address st tx_queue:rx_queue ...`
        let queues = line.split_ascii_whitespace().nth(4);
        let Some((tx, rx)) = queues.and_then(parse_queues) else {
            return Err(text.error(number + 1, "no tx_queue:rx_queue in column 5"));
        };
        sums = (sums.0.saturating_add(tx), sums.1.saturating_add(rx));
    }
    Ok(sums)
}

fn parse_queues(queues: &str) -> Option<(u64, u64)> {
    let (tx, rx) = queues.split_once(':')?;
    let hex = |word| u64::from_str_radix(word, 16).ok();
    Some((hex(tx)?, hex(rx)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";

    fn sums_of(lines: &str) -> Result<(u64, u64), String> {
        let text = Text::from(format!("{HEAD}{lines}").as_str());
        sum_queues(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn queues_of_all_sockets_are_summed_up() {
        let lines = "    5: 0A000005:0016 00000000:0000 0A 00000001:00000010 00:00000000\n\
                     12345: 0A000005:0016 00000000:0000 0A 00000002:FFFFFFFF 00:00000000\n";
        assert_eq!(sums_of(lines), Ok((3, 0x1_0000_000F)));
        assert_eq!(sums_of(""), Ok((0, 0)));
    }

    #[test]
    fn incomplete_sum_is_not_exposed() {
        let error = "test:2: no tx_queue:rx_queue in column 5";
        for line in ["5: a b 0A\n", "5: a b 0A 1\n", "5: a b 0A 1:x\n"] {
            assert_eq!(sums_of(line), Err(error.to_owned()));
        }
    }
}
