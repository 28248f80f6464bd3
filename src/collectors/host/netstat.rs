//! The network stack's own counters, from `/proc/net/netstat`, `/proc/net/snmp` and
//! `/proc/net/snmp6`, documented in the kernel's `networking/snmp_counter.rst` and RFC 1213.
//!
//! The kernel has some 400 of them and dashboards want 40, so `--collector.netstat.fields`
//! chooses. What it chose is remembered with the names as the kernel wrote them, because
//! these hardly ever change: a scrape compares the lines of names and matches nothing.

use super::memo::Memo;
use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    pattern::Pattern,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Protocol counter * as the kernel keeps it, or for a few, such as Tcp_CurrEstab, its present value.
    FIELD: Unknown = "node_netstat_*" [];
}

/// What dashboards and alerts use.
const FIELDS: &str = r"^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$";

/// The flags of the netstat collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Counters to expose, by protocol and name, such as `Tcp_InSegs`.
    #[arg(
        long = "collector.netstat.fields",
        value_name = "REGEX",
        default_value = FIELDS
    )]
    netstat_fields: Pattern,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NetStat {
    fields: Pattern,
    netstat: Memo<Chosen>,
    snmp: Memo<Chosen>,
    snmp6: Memo<Chosen>,
}

/// What was chosen of one line of names.
#[derive(Debug)]
struct Chosen {
    /// How many names there are.
    count: usize,
    /// Which in the line, and how it is called in the metric's name.
    names: Vec<(usize, String)>,
}

impl Collector for NetStat {
    const NAME: &'static str = "netstat";
    const ABOUT: &'static str = "counters of the network protocols";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = Flags;

    fn new(flags: Flags) -> Result<Self, String> {
        Ok(Self {
            fields: flags.netstat_fields,
            netstat: Memo::default(),
            snmp: Memo::default(),
            snmp6: Memo::default(),
        })
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let netstat = machine.proc("net/netstat")?;
        in_pairs(&mut out, &netstat, &self.fields, &self.netstat);
        if let Some(snmp) = out.keep(machine.proc("net/snmp")) {
            in_pairs(&mut out, &snmp, &self.fields, &self.snmp);
        }
        // Absent where IPv6 is off.
        if let Some(snmp6) = out.keep(machine.proc("net/snmp6")) {
            one_a_line(&mut out, &snmp6, &self.fields, &self.snmp6);
        }
        Ok(out)
    }
}

/// A line of names, then a line of their values, each beginning with the protocol.
fn in_pairs(out: &mut Families, text: &Text, fields: &Pattern, memo: &Memo<Chosen>) {
    let mut lines = text.lines();
    let mut recall = memo.recall();
    while let Some(names) = lines.next() {
        let Some(values) = lines.next() else {
            out.skip(names.error("the line with the values is missing"));
            break;
        };
        let line = names.rest();
        let chosen = recall.next(line, |line| choose(line, fields));
        let pair = pair(line, chosen, values);
        for (word, value) in out.keep(pair).unwrap_or_default() {
            out.add_word(&FIELD, word, [], value);
        }
    }
}

fn choose(line: &str, fields: &Pattern) -> Chosen {
    let mut words = line.split_ascii_whitespace();
    let protocol = words.next().unwrap_or_default().trim_end_matches(':');
    let names: Vec<_> = words.map(|name| format!("{protocol}_{name}")).collect();
    Chosen {
        count: names.len(),
        names: names
            .into_iter()
            .enumerate()
            .filter(|(_, name)| fields.matches(name))
            .collect(),
    }
}

/// The values of the chosen names: all of them or none.
fn pair<'a>(
    line: &str,
    chosen: &'a Chosen,
    mut values: Fields<'_>,
) -> Result<Vec<(&'a str, Value)>> {
    let protocol = values.word("protocol")?;
    if line.split_ascii_whitespace().next() != Some(protocol) {
        return Err(values.error(format_args!("{protocol:?} is not the line of names above")));
    }
    let count = values.rest().split_ascii_whitespace().count();
    if count != chosen.count {
        let expected = chosen.count;
        return Err(values.error(format_args!("{count} values for {expected} names")));
    }
    let mut wanted = chosen.names.iter().peekable();
    let mut found = Vec::with_capacity(chosen.names.len());
    for (at, value) in values.rest().split_ascii_whitespace().enumerate() {
        if let Some((_, word)) = wanted.next_if(|(column, _)| *column == at) {
            found.push((word.as_str(), values.parse_word(value, word)?));
        }
    }
    Ok(found)
}

/// A name and its value in each line.
fn one_a_line(out: &mut Families, text: &Text, fields: &Pattern, memo: &Memo<Chosen>) {
    let mut recall = memo.recall();
    for mut line in text.lines() {
        // `Ip6InOctets` is `Ip6_InOctets`, `UdpLite6InErrors` is `UdpLite6_InErrors`.
        let Some(name) = line.next_word() else {
            continue;
        };
        let chosen = recall.next(name, |name| {
            let word = name.split_once('6').map(|(p, rest)| format!("{p}6_{rest}"));
            let word = word.filter(|word| fields.matches(word));
            Chosen {
                count: 1,
                names: word.into_iter().map(|word| (0, word)).collect(),
            }
        });
        for (_, word) in &chosen.names {
            let value = line.parse::<Value>(word);
            if let Some(value) = out.keep(value) {
                out.add_word(&FIELD, word, [], value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Pattern {
        ".*".parse().unwrap()
    }

    fn reason(out: &Families) -> String {
        out.skipped().1.unwrap().to_string()
    }

    #[test]
    fn names_and_values_stand_in_lines_above_each_other() {
        let text =
            Text::from("Ip: Forwarding InOctets\nIp: 2 18446744073709551615\nTcp: Max\nTcp: -1\n");
        let mut out = Families::default();
        in_pairs(&mut out, &text, &all(), &Memo::default());
        assert_eq!(
            out.lines(),
            [
                "node_netstat_Ip_Forwarding 2",
                "node_netstat_Ip_InOctets 18446744073709551615",
                "node_netstat_Tcp_Max -1",
            ]
        );
    }

    #[test]
    fn a_pair_of_lines_that_do_not_match_costs_only_itself() {
        let good = "Udp: InErrors\nUdp: 7\n";
        for (bad, said) in [
            ("Ip: A B\nIp: 1\n", "test:2: 1 values for 2 names"),
            ("Ip: A\nIp: 1 2\n", "test:2: 2 values for 1 names"),
            (
                "Ip: A\nTcp: 1\n",
                r#"test:2: "Tcp:" is not the line of names above"#,
            ),
            ("Ip: A\nIp: x\n", r#"test:2: Ip_A is not a number: "x""#),
        ] {
            let mut out = Families::default();
            let text = Text::from(format!("{bad}{good}").as_str());
            in_pairs(&mut out, &text, &all(), &Memo::default());
            assert_eq!(out.lines(), ["node_netstat_Udp_InErrors 7"]);
            assert_eq!(reason(&out), said);
        }
        let mut out = Families::default();
        let cut_off = Text::from("Ip: A\n");
        in_pairs(&mut out, &cut_off, &all(), &Memo::default());
        assert_eq!(reason(&out), "test:1: the line with the values is missing");
    }

    #[test]
    fn names_of_the_sixth_version_are_split_behind_the_six() {
        let text = Text::from("Ip6InOctets  \t3\nUdpLite6InErrors\t4\nIcmp6OutType133 5\nOdd 6\n");
        let mut out = Families::default();
        one_a_line(&mut out, &text, &all(), &Memo::default());
        assert_eq!(
            out.lines(),
            [
                "node_netstat_Ip6_InOctets 3",
                "node_netstat_UdpLite6_InErrors 4",
                "node_netstat_Icmp6_OutType133 5",
            ]
        );
    }

    #[test]
    fn a_name_that_appears_later_does_not_shift_the_values() {
        let memo = Memo::default();
        for text in [
            "Icmp: A\nIcmp: 1\nTcp: B C\nTcp: 2 3\n",
            "Icmp: A\nIcmp: 1\nIcmpMsg: T3\nIcmpMsg: 9\nTcp: B C\nTcp: 2 3\n",
            "Icmp: A\nIcmp: 1\nTcp: X B C\nTcp: 8 2 3\n",
            "Icmp: A\nIcmp: 1\nTcp: B C\nTcp: 2 3\n",
        ] {
            let mut out = Families::default();
            let only = "^Tcp_[BC]$".parse().unwrap();
            in_pairs(&mut out, &Text::from(text), &only, &memo);
            assert_eq!(
                out.lines(),
                ["node_netstat_Tcp_B 2", "node_netstat_Tcp_C 3"],
                "{text}"
            );
            assert!(out.skipped().1.is_none());
        }
    }

    #[test]
    fn an_ordinary_scrape_matches_no_name() {
        let memo = Memo::default();
        let text = Text::from("Tcp: B\nTcp: 2\n");
        let mut out = Families::default();
        in_pairs(&mut out, &text, &all(), &memo);
        // Had it been matched again, it would not have been found.
        in_pairs(&mut out, &text, &Pattern::default(), &memo);
        assert_eq!(out.lines(), ["node_netstat_Tcp_B 2"; 2]);
    }
}
