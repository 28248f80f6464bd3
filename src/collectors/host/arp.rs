//! ARP table entries per network interface, from rtnetlink, documented in `linux/neighbour.h`,
//! or, if the flag disables netlink, from `/proc/net/arp`, documented in `proc_pid_net(5)`.

use std::collections::BTreeMap;

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    pattern::{Filter, Pattern},
    sources::{Link, Neighbour, Snapshot, Text},
};

metrics! {
    /// ARP table entries by device, in any state.
    ENTRIES: Gauge = "node_arp_entries" ["device"];
}

const INCLUDE: &str = "collector.arp.device-include";
const EXCLUDE: &str = "collector.arp.device-exclude";

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct ArpFlags {
    /// Regexp of devices to include (mutually exclusive with device-exclude).
    #[arg(long = INCLUDE, value_name = "REGEX")]
    arp_device_include: Option<Pattern>,
    /// Regexp of devices to exclude (mutually exclusive with device-include).
    #[arg(long = EXCLUDE, value_name = "REGEX")]
    arp_device_exclude: Option<Pattern>,
    /// Use netlink instead of /proc/net/arp.
    #[arg(long = "collector.arp.netlink", default_value_t = true, action = ArgAction::Set)]
    arp_netlink: bool,
}

#[derive(Debug)]
pub(super) struct Arp {
    devices: Filter,
    netlink: bool,
}

impl Collector for Arp {
    const NAME: &'static str = "arp";
    const ABOUT: &'static str = "ARP table size";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = ArpFlags;

    fn new(flags: ArpFlags) -> Result<Self, String> {
        Ok(Self {
            devices: Filter::new(
                (INCLUDE, flags.arp_device_include),
                (EXCLUDE, flags.arp_device_exclude),
                "",
            )?,
            netlink: flags.arp_netlink,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        if self.netlink {
            let entries = count_neighbours(snapshot.links()?, &snapshot.neighbours()?);
            self.add(&mut out, entries);
        } else {
            let table = snapshot.read_proc("net/arp")?;
            let entries = count_table(&mut out, &table);
            self.add(&mut out, entries);
        }
        Ok(out)
    }
}

impl Arp {
    fn add(&self, out: &mut Families, entries: BTreeMap<&str, u64>) {
        for (device, entries) in entries {
            if self.devices.matches(device) {
                out.add(&ENTRIES, [device], entries);
            }
        }
    }
}

fn count_neighbours<'a>(links: &'a [Link], neighbours: &[Neighbour]) -> BTreeMap<&'a str, u64> {
    let mut entries = BTreeMap::new();
    for neighbour in neighbours.iter().filter(|neighbour| !neighbour.is_noarp()) {
        if let Some(link) = Link::find(links, neighbour.ifindex) {
            *entries.entry(link.name.as_str()).or_default() += 1;
        }
    }
    entries
}

fn count_table<'a>(out: &mut Families, table: &'a Text) -> BTreeMap<&'a str, u64> {
    let mut entries = BTreeMap::new();
    // The first line is the header.
    for mut fields in table.lines().skip(1) {
        if fields.rest().is_empty() {
            continue;
        }
        for _address_type_flags_hardware_mask in 0..5 {
            fields.next_word();
        }
        if let Some(device) = out.ok_or_skip(fields.word("device")) {
            *entries.entry(device).or_default() += 1;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_line_is_skipped() {
        let table = Text::from(
            "IP address       HW type     Flags       HW address            Mask     Device\n\
             192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        eth0\n\
             192.0.2.9        0x1         0x0\n\
             192.0.2.2        0x1         0x0         00:00:00:00:00:00     *        eth0\n\
             10.0.0.1         0x1         0x2         02:fc:00:00:00:06     *        br-lan\n",
        );
        let mut out = Families::default();
        let entries = count_table(&mut out, &table);
        assert_eq!(entries, BTreeMap::from([("br-lan", 1), ("eth0", 2)]));
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 1);
        assert_eq!(reason.unwrap().to_string(), "test:3: device is missing");
    }
}
