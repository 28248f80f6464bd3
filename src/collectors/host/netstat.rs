//! Counters of the network protocols, from `/proc/net/netstat`, `/proc/net/snmp` and
//! `/proc/net/snmp6`, documented in the kernel's `networking/snmp_counter.rst` and RFC 1213.
//!
//! The kernel has some 400 of them and dashboards use about 40, so `--collector.netstat.fields`
//! selects them. The names hardly ever change, so the selection is cached with them: a scrape
//! compares the lines of names and matches no patterns.

use super::positional_cache::PositionalCache;
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
    /// Protocol statistic *, mostly a counter; a few, such as Tcp_CurrEstab, are gauges.
    FIELD: Unknown = "node_netstat_*" [];
}

/// Default selection: the counters used by dashboards and alerts.
const FIELDS: &str = r"^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)|TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)|Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)|Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct NetStatFlags {
    /// Regexp of fields to return, matched against protocol and name, such as `Tcp_InSegs`.
    #[arg(
        long = "collector.netstat.fields",
        value_name = "REGEX",
        default_value = FIELDS
    )]
    netstat_fields: Pattern,
}

#[derive(Debug)]
pub(super) struct NetStat {
    fields: Pattern,
    netstat: PositionalCache<SelectedFields>,
    snmp: PositionalCache<SelectedFields>,
    snmp6: PositionalCache<SelectedFields>,
}

/// Fields selected from a line of names.
#[derive(Debug)]
struct SelectedFields {
    /// Number of names in the line.
    total: usize,
    /// Position in the line and field name of each selected field.
    names: Vec<(usize, String)>,
}

impl Collector for NetStat {
    const NAME: &'static str = "netstat";
    const ABOUT: &'static str = "network protocol statistics";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NetStatFlags;

    fn new(flags: NetStatFlags) -> Result<Self, String> {
        Ok(Self {
            fields: flags.netstat_fields,
            netstat: PositionalCache::default(),
            snmp: PositionalCache::default(),
            snmp6: PositionalCache::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let netstat = snapshot.read_proc("net/netstat")?;
        add_paired_lines(&mut out, &netstat, &self.fields, &self.netstat);
        if let Some(snmp) = out.ok_or_skip(snapshot.read_proc("net/snmp")) {
            add_paired_lines(&mut out, &snmp, &self.fields, &self.snmp);
        }
        // Missing if IPv6 is disabled.
        if let Some(snmp6) = out.ok_or_skip(snapshot.read_proc("net/snmp6")) {
            add_single_lines(&mut out, &snmp6, &self.fields, &self.snmp6);
        }
        Ok(out)
    }
}

/// Adds pairs of a line of names and a line of values; both begin with the protocol.
fn add_paired_lines(
    out: &mut Families,
    text: &Text,
    fields: &Pattern,
    cache: &PositionalCache<SelectedFields>,
) {
    let mut lines = text.lines();
    let mut cursor = cache.cursor();
    while let Some(names) = lines.next() {
        let Some(values) = lines.next() else {
            out.record_error(names.error("values line is missing"));
            break;
        };
        let line = names.rest();
        let selected = cursor.next_or_insert_with(line, |line| select_fields(line, fields));
        let pair = parse_pair(line, selected, values);
        for (word, value) in out.ok_or_skip(pair).unwrap_or_default() {
            out.add_named(&FIELD, word, [], value);
        }
    }
}

fn select_fields(line: &str, fields: &Pattern) -> SelectedFields {
    let mut words = line.split_ascii_whitespace();
    let protocol = words.next().unwrap_or_default().trim_end_matches(':');
    let names: Vec<_> = words.map(|name| format!("{protocol}_{name}")).collect();
    SelectedFields {
        total: names.len(),
        names: names
            .into_iter()
            .enumerate()
            .filter(|(_, name)| fields.matches(name))
            .collect(),
    }
}

/// Parses the values of the selected fields: all of them, or none if one is malformed.
fn parse_pair<'a>(
    line: &str,
    selected: &'a SelectedFields,
    mut values: Fields<'_>,
) -> Result<Vec<(&'a str, Value)>> {
    let protocol = values.word("protocol")?;
    if line.split_ascii_whitespace().next() != Some(protocol) {
        return Err(values.error(format_args!(
            "values line {protocol:?} does not match names line"
        )));
    }
    let count = values.rest().split_ascii_whitespace().count();
    if count != selected.total {
        let expected = selected.total;
        return Err(values.error(format_args!("expected {expected} values, found {count}")));
    }
    let mut columns = selected.names.iter().peekable();
    let mut found = Vec::with_capacity(selected.names.len());
    for (at, value) in values.rest().split_ascii_whitespace().enumerate() {
        if let Some((_, word)) = columns.next_if(|(column, _)| *column == at) {
            found.push((word.as_str(), values.parse_word(value, word)?));
        }
    }
    Ok(found)
}

/// Adds lines of a name and its value.
fn add_single_lines(
    out: &mut Families,
    text: &Text,
    fields: &Pattern,
    cache: &PositionalCache<SelectedFields>,
) {
    let mut cursor = cache.cursor();
    for mut line in text.lines() {
        // `Ip6InOctets` becomes `Ip6_InOctets`, `UdpLite6InErrors` becomes `UdpLite6_InErrors`.
        let Some(name) = line.next_word() else {
            continue;
        };
        let selected = cursor.next_or_insert_with(name, |name| {
            let word = name.split_once('6').map(|(p, rest)| format!("{p}6_{rest}"));
            let word = word.filter(|word| fields.matches(word));
            SelectedFields {
                total: 1,
                names: word.into_iter().map(|word| (0, word)).collect(),
            }
        });
        for (_, word) in &selected.names {
            let value = line.parse::<Value>(word);
            if let Some(value) = out.ok_or_skip(value) {
                out.add_named(&FIELD, word, [], value);
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
        out.errors().1.unwrap().to_string()
    }

    #[test]
    fn parses_pairs_of_name_and_value_lines() {
        let text =
            Text::from("Ip: Forwarding InOctets\nIp: 2 18446744073709551615\nTcp: Max\nTcp: -1\n");
        let mut out = Families::default();
        add_paired_lines(&mut out, &text, &all(), &PositionalCache::default());
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
    fn mismatched_pair_is_skipped() {
        let good = "Udp: InErrors\nUdp: 7\n";
        for (bad, expected) in [
            ("Ip: A B\nIp: 1\n", "test:2: expected 2 values, found 1"),
            ("Ip: A\nIp: 1 2\n", "test:2: expected 1 values, found 2"),
            (
                "Ip: A\nTcp: 1\n",
                r#"test:2: values line "Tcp:" does not match names line"#,
            ),
            ("Ip: A\nIp: x\n", r#"test:2: Ip_A is not a number: "x""#),
        ] {
            let mut out = Families::default();
            let text = Text::from(format!("{bad}{good}").as_str());
            add_paired_lines(&mut out, &text, &all(), &PositionalCache::default());
            assert_eq!(out.lines(), ["node_netstat_Udp_InErrors 7"]);
            assert_eq!(reason(&out), expected);
        }
        let mut out = Families::default();
        let cut_off = Text::from("Ip: A\n");
        add_paired_lines(&mut out, &cut_off, &all(), &PositionalCache::default());
        assert_eq!(reason(&out), "test:1: values line is missing");
    }

    #[test]
    fn ipv6_names_are_split_after_the_six() {
        let text = Text::from("Ip6InOctets  \t3\nUdpLite6InErrors\t4\nIcmp6OutType133 5\nOdd 6\n");
        let mut out = Families::default();
        add_single_lines(&mut out, &text, &all(), &PositionalCache::default());
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
    fn new_name_does_not_shift_values() {
        let memo = PositionalCache::default();
        for text in [
            "Icmp: A\nIcmp: 1\nTcp: B C\nTcp: 2 3\n",
            "Icmp: A\nIcmp: 1\nIcmpMsg: T3\nIcmpMsg: 9\nTcp: B C\nTcp: 2 3\n",
            "Icmp: A\nIcmp: 1\nTcp: X B C\nTcp: 8 2 3\n",
            "Icmp: A\nIcmp: 1\nTcp: B C\nTcp: 2 3\n",
        ] {
            let mut out = Families::default();
            let only = "^Tcp_[BC]$".parse().unwrap();
            add_paired_lines(&mut out, &Text::from(text), &only, &memo);
            assert_eq!(
                out.lines(),
                ["node_netstat_Tcp_B 2", "node_netstat_Tcp_C 3"],
                "{text}"
            );
            assert!(out.errors().1.is_none());
        }
    }

    #[test]
    fn cached_scrape_matches_no_names() {
        let memo = PositionalCache::default();
        let text = Text::from("Tcp: B\nTcp: 2\n");
        let mut out = Families::default();
        add_paired_lines(&mut out, &text, &all(), &memo);
        // The empty pattern would select nothing, so the selection came from the cache.
        add_paired_lines(&mut out, &text, &Pattern::default(), &memo);
        assert_eq!(out.lines(), ["node_netstat_Tcp_B 2"; 2]);
    }
}
