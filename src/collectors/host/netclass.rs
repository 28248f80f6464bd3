//! Properties and settings of network interfaces, from `/sys/class/net`, documented in the
//! kernel's `Documentation/ABI/testing/sysfs-class-net`.
//!
//! Most values are not read from there: reading 25 files for each of 67 interfaces takes 4.6 ms,
//! whereas a single rtnetlink dump with the same values takes 0.1 ms and is needed by the netdev
//! collector, too. However, rtnetlink reports the exporter's own network namespace, whereas a
//! sysfs shows the namespace it was mounted in. Therefore rtnetlink is used only if both list
//! the same interfaces; see [`is_same_namespace`]. The values are always those of sysfs.

use std::{
    borrow::Cow,
    collections::HashMap,
    ffi::{OsStr, OsString},
    sync::{Mutex, PoisonError},
};

use clap::ArgAction;

use super::netdev;
use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    pattern::Pattern,
    sources::{Dir, Link, LinkMode, Snapshot, Text},
};

metrics! {
    /// Value is 1 if operstate is 'up', 0 otherwise (also if unknown, as for lo).
    UP: Gauge = "node_network_up" ["device"];
    /// Non-numeric data of the network interface, value is always 1.
    INFO: Info = "node_network_info" ["device", "address", "broadcast", "duplex", "operstate", "adminstate", "ifalias"];
    /// Origin of the hardware address: 0 permanent, 1 random, 2 stolen from another device, 3 set.
    ADDRESS_ASSIGN_TYPE: Gauge = "node_network_address_assign_type" ["device"];
    /// Whether the interface has a carrier; missing while it is administratively down.
    CARRIER: Gauge = "node_network_carrier" ["device"];
    /// Number of carrier changes.
    CARRIER_CHANGES: Counter = "node_network_carrier_changes_total" ["device"];
    /// Number of times the carrier came up.
    CARRIER_UP_CHANGES: Counter = "node_network_carrier_up_changes_total" ["device"];
    /// Number of times the carrier went down.
    CARRIER_DOWN_CHANGES: Counter = "node_network_carrier_down_changes_total" ["device"];
    /// Device ID that distinguishes interfaces sharing a hardware address.
    DEVICE_ID: Gauge = "node_network_device_id" ["device"];
    /// Whether the interface waits for an external event; missing while it is administratively
    /// down.
    DORMANT: Gauge = "node_network_dormant" ["device"];
    /// Interface flags as a bit mask, IFF_* in linux/if.h.
    FLAGS: Gauge = "node_network_flags" ["device"];
    /// Interface index.
    IFACE_ID: Gauge = "node_network_iface_id" ["device"];
    /// Index of the lower interface or the peer, or the interface's own index.
    IFACE_LINK: Gauge = "node_network_iface_link" ["device"];
    /// Link mode: operational as soon as there is a carrier (0), or after user space allows it (1).
    IFACE_LINK_MODE: Gauge = "node_network_iface_link_mode" ["device"];
    /// Maximum transmission unit in bytes.
    MTU_BYTES: Gauge = "node_network_mtu_bytes" ["device"];
    /// Origin of the name: 1 enumerated by the kernel, 2 predictable, 3 user space, 4 renamed.
    NAME_ASSIGN_TYPE: Gauge = "node_network_name_assign_type" ["device"];
    /// Group that the administrator assigned the interface to.
    NET_DEV_GROUP: Gauge = "node_network_net_dev_group" ["device"];
    /// Speed in bytes per second; -125000 if the driver does not know it.
    SPEED_BYTES: Gauge = "node_network_speed_bytes" ["device"];
    /// Transmit queue length in packets.
    TRANSMIT_QUEUE_LENGTH: Gauge = "node_network_transmit_queue_length" ["device"];
    /// Link type, ARPHRD_* in linux/if_arp.h; 1 is Ethernet.
    PROTOCOL_TYPE: Gauge = "node_network_protocol_type" ["device"];
    /// Alternative names of the interface, value is always 1; available only through netlink.
    ALTNAMES_INFO: Info = "node_network_altnames_info" ["device", "altname"];
}

/// Number of scrapes after which an interface's cached attributes are read again: setting the
/// same address once more changes `addr_assign_type` only.
const REREAD_SCRAPES: u32 = 64;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct NetClassFlags {
    /// Regexp of devices to ignore.
    #[arg(
        long = "collector.netclass.ignored-devices",
        value_name = "REGEX",
        default_value = "^$"
    )]
    netclass_ignored_devices: Pattern,
    /// Ignore speeds that the driver does not know.
    #[arg(
        long = "collector.netclass.ignore-invalid-speed",
        default_value_t = false,
        action = ArgAction::Set
    )]
    netclass_ignore_invalid_speed: bool,
    /// Always use netlink, even if sysfs lists other interfaces.
    #[arg(long = "collector.netclass.netlink", default_value_t = false, action = ArgAction::Set)]
    netclass_netlink: bool,
    /// Expose the netdev collector's detailed statistics as well; requires netclass.netlink.
    #[arg(
        long = "collector.netclass_rtnl.with-stats",
        default_value_t = false,
        action = ArgAction::Set
    )]
    netclass_rtnl_with_stats: bool,
}

#[derive(Debug)]
pub(super) struct NetClass {
    ignored: Pattern,
    ignore_invalid_speed: bool,
    netlink: bool,
    with_stats: bool,
    cache: Mutex<NetClassCache>,
}

/// Attributes cached from earlier scrapes.
#[derive(Debug, Default)]
struct NetClassCache {
    /// Number of scrapes so far.
    scrapes: u32,
    /// Keyed by interface index.
    by_ifindex: HashMap<u32, CachedAttributes>,
}

/// Attributes available only in sysfs, which rarely change unless the name or the address does.
#[derive(Debug)]
struct CachedAttributes {
    name: String,
    address: String,
    addr_assign_type: Option<i64>,
    name_assign_type: Option<i64>,
    dev_id: Option<i64>,
}

/// An interface with the attributes of sysfs. `None` if the kernel does not report the value.
#[derive(Debug, Default)]
struct NetClassInterface<'a> {
    name: Cow<'a, str>,
    address: Cow<'a, str>,
    broadcast: Cow<'a, str>,
    duplex: Cow<'a, str>,
    operstate: Cow<'a, str>,
    ifalias: Cow<'a, str>,
    addr_assign_type: Option<i64>,
    carrier: Option<i64>,
    carrier_changes: Option<i64>,
    carrier_up_count: Option<i64>,
    carrier_down_count: Option<i64>,
    dev_id: Option<i64>,
    dormant: Option<i64>,
    flags: Option<i64>,
    ifindex: Option<i64>,
    iflink: Option<i64>,
    link_mode: Option<i64>,
    mtu: Option<i64>,
    name_assign_type: Option<i64>,
    netdev_group: Option<i64>,
    /// In megabits per second.
    speed: Option<i64>,
    tx_queue_len: Option<i64>,
    kind: Option<i64>,
    altnames: &'a [String],
}

impl Collector for NetClass {
    const NAME: &'static str = "netclass";
    const ABOUT: &'static str = "network interface attributes";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NetClassFlags;

    fn new(flags: NetClassFlags) -> Result<Self, String> {
        Ok(Self {
            ignored: flags.netclass_ignored_devices,
            ignore_invalid_speed: flags.netclass_ignore_invalid_speed,
            netlink: flags.netclass_netlink,
            with_stats: flags.netclass_netlink && flags.netclass_rtnl_with_stats,
            cache: Mutex::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let class = snapshot.sys_dir("class/net")?;
        let names = interface_names(&class)?;
        let mut out = Families::default();
        match snapshot.links() {
            Ok(links) if is_same_namespace(&class, &names, links) => {
                self.add_links(&mut out, snapshot, Some(&class), links);
            }
            Ok(links) if self.netlink => self.add_links(&mut out, snapshot, None, links),
            // Reading sysfs does not depend on netlink.
            _ => {
                let is_included = |name: &&OsString| !self.ignored.matches(&name.to_string_lossy());
                for name in names.iter().filter(is_included) {
                    if let Some(interface) = read_interface(&mut out, &class, name) {
                        self.add(&mut out, &interface);
                    }
                }
            }
        }
        Ok(out)
    }
}

impl NetClass {
    /// `class` provides the attributes missing from netlink, if it lists the same interfaces.
    fn add_links(
        &self,
        out: &mut Families,
        snapshot: &Snapshot,
        class: Option<&Dir>,
        links: &[Link],
    ) {
        // If the request fails, the files are read instead.
        let modes = snapshot.link_modes().ok();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.scrapes = cache.scrapes.wrapping_add(1);
        let scrapes = cache.scrapes;
        let mut current = HashMap::with_capacity(links.len());
        for link in links
            .iter()
            .filter(|link| !self.ignored.matches(&link.name))
        {
            let is_stale = link
                .ifindex
                .wrapping_add(scrapes)
                .is_multiple_of(REREAD_SCRAPES);
            let attributes = cache
                .by_ifindex
                .remove(&link.ifindex)
                .filter(|cached| {
                    !is_stale && cached.name == link.name && cached.address == link.address
                })
                .unwrap_or_else(|| CachedAttributes::read(out, class, link));
            let mut interface = NetClassInterface::from_link(link, &attributes);
            if link.is_up() {
                fill_link_mode(out, class, modes.as_deref(), link, &mut interface);
            }
            if interface.flags.is_none() {
                interface.flags = read_attribute(out, class, &link.name, "flags");
            }
            self.add(out, &interface);
            if let Some(stats) = link.stats.filter(|_| self.with_stats) {
                netdev::add_detailed(out, &link.name, &stats);
            }
            current.insert(link.ifindex, attributes);
        }
        cache.by_ifindex = current;
    }

    fn add(&self, out: &mut Families, interface: &NetClassInterface<'_>) {
        let device = &*interface.name;
        if !interface.operstate.is_empty() {
            out.add(&UP, [device], interface.operstate == "up");
        }
        let adminstate = match interface.flags {
            None => "unknown",
            Some(flags) if flags & i64::from(Link::UP) != 0 => "up",
            Some(_) => "down",
        };
        let labels = [
            device,
            &interface.address,
            &interface.broadcast,
            &interface.duplex,
            &interface.operstate,
            adminstate,
            &interface.ifalias,
        ];
        out.add(&INFO, labels, true);
        for altname in interface.altnames {
            out.add(&ALTNAMES_INFO, [device, altname], true);
        }
        let is_valid = |speed: &i64| *speed >= 0 || !self.ignore_invalid_speed;
        let speed = interface.speed.filter(is_valid);
        let numbers: [(&'static Metric<1>, Option<i64>); 17] = [
            (&ADDRESS_ASSIGN_TYPE, interface.addr_assign_type),
            (&CARRIER, interface.carrier),
            (&CARRIER_CHANGES, interface.carrier_changes),
            (&CARRIER_UP_CHANGES, interface.carrier_up_count),
            (&CARRIER_DOWN_CHANGES, interface.carrier_down_count),
            (&DEVICE_ID, interface.dev_id),
            (&DORMANT, interface.dormant),
            (&FLAGS, interface.flags),
            (&IFACE_ID, interface.ifindex),
            (&IFACE_LINK, interface.iflink),
            (&IFACE_LINK_MODE, interface.link_mode),
            (&MTU_BYTES, interface.mtu),
            (&NAME_ASSIGN_TYPE, interface.name_assign_type),
            (&NET_DEV_GROUP, interface.netdev_group),
            (
                &SPEED_BYTES,
                speed.map(|speed| speed.saturating_mul(125_000)),
            ),
            (&TRANSMIT_QUEUE_LENGTH, interface.tx_queue_len),
            (&PROTOCOL_TYPE, interface.kind),
        ];
        for (metric, value) in numbers {
            if let Some(value) = value {
                out.add(metric, [device], value);
            }
        }
    }
}

impl CachedAttributes {
    fn read(out: &mut Families, class: Option<&Dir>, link: &Link) -> Self {
        let mut number = |file| read_attribute(out, class, &link.name, file);
        Self {
            name: link.name.clone(),
            address: link.address.clone(),
            addr_assign_type: number("addr_assign_type"),
            name_assign_type: number("name_assign_type"),
            dev_id: number("dev_id"),
        }
    }
}

impl<'a> NetClassInterface<'a> {
    fn from_link(link: &'a Link, attributes: &CachedAttributes) -> Self {
        // In sysfs these two have no value while the interface is administratively down.
        let while_up = |value: Option<bool>| value.filter(|_| link.is_up()).map(i64::from);
        Self {
            name: link.name.as_str().into(),
            address: link.address.as_str().into(),
            broadcast: link.broadcast.as_str().into(),
            duplex: "".into(),
            operstate: link.operstate().unwrap_or_default().into(),
            ifalias: link.ifalias.as_str().into(),
            addr_assign_type: attributes.addr_assign_type,
            carrier: while_up(link.carrier),
            carrier_changes: link.carrier_changes.map(i64::from),
            carrier_up_count: link.carrier_up_count.map(i64::from),
            carrier_down_count: link.carrier_down_count.map(i64::from),
            dev_id: attributes.dev_id,
            dormant: while_up(Some(link.is_dormant())),
            flags: link.sysfs_flags().map(i64::from),
            ifindex: Some(link.ifindex.into()),
            iflink: Some(link.iflink.into()),
            link_mode: link.link_mode.map(i64::from),
            mtu: link.mtu.map(i64::from),
            name_assign_type: attributes.name_assign_type,
            netdev_group: link.group.map(i64::from),
            speed: None,
            tx_queue_len: link.tx_queue_len.map(i64::from),
            kind: Some(link.kind.into()),
            altnames: &link.altnames,
        }
    }
}

/// Fills in speed and duplex; an interface that is administratively down has neither.
fn fill_link_mode(
    out: &mut Families,
    class: Option<&Dir>,
    modes: Option<&[LinkMode]>,
    link: &Link,
    interface: &mut NetClassInterface<'_>,
) {
    let Some(modes) = modes else {
        interface.speed = read_attribute(out, class, &link.name, "speed");
        interface.duplex = read_word(out, class, &link.name, "duplex").into();
        return;
    };
    let at = modes.binary_search_by_key(&link.ifindex, |mode| mode.ifindex);
    if let Some(mode) = at.ok().and_then(|at| modes.get(at)) {
        interface.speed = mode.speed;
        interface.duplex = mode.duplex().unwrap_or_default().into();
    }
}

/// Lists the interfaces in sysfs, without `bonding_masters`, the only file among them.
fn interface_names(class: &Dir) -> Result<Vec<OsString>> {
    let names = class.names()?.into_iter();
    Ok(names.filter(|name| name != "bonding_masters").collect())
}

/// Whether sysfs shows the exporter's own network namespace: the names are the same, and the
/// newest interface has the same index. Indexes are allocated per namespace, so two namespaces
/// with the same names, such as those of two containers, rarely have the same indexes. If there
/// is only `lo`, whose index is always 1, the namespaces cannot be distinguished.
fn is_same_namespace(class: &Dir, names: &[OsString], links: &[Link]) -> bool {
    let names = names.iter().map(|name| name.to_string_lossy());
    let mut listed: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
    listed.sort_unstable();
    let newest = links.last().filter(|link| link.ifindex > 1);
    names.eq(listed)
        && newest.is_some_and(|newest| {
            let ifindex = class.read_number::<u32>(format!("{}/ifindex", newest.name));
            ifindex.is_ok_and(|ifindex| ifindex == newest.ifindex)
        })
}

/// Reads all attributes of an interface from sysfs; `None` if it has disappeared.
fn read_interface(
    out: &mut Families,
    class: &Dir,
    name: &OsStr,
) -> Option<NetClassInterface<'static>> {
    let dir = out.ok_or_skip(class.dir(name))?;
    let mut number = |file| read_attribute(out, Some(&dir), ".", file);
    let mut interface = NetClassInterface {
        addr_assign_type: number("addr_assign_type"),
        carrier: number("carrier"),
        carrier_changes: number("carrier_changes"),
        carrier_up_count: number("carrier_up_count"),
        carrier_down_count: number("carrier_down_count"),
        dev_id: number("dev_id"),
        dormant: number("dormant"),
        flags: number("flags"),
        ifindex: number("ifindex"),
        iflink: number("iflink"),
        link_mode: number("link_mode"),
        mtu: number("mtu"),
        name_assign_type: number("name_assign_type"),
        netdev_group: number("netdev_group"),
        speed: number("speed"),
        tx_queue_len: number("tx_queue_len"),
        kind: number("type"),
        ..NetClassInterface::default()
    };
    let mut word = |file| Cow::from(read_word(out, Some(&dir), ".", file));
    interface.address = word("address");
    interface.broadcast = word("broadcast");
    interface.duplex = word("duplex");
    interface.operstate = word("operstate");
    interface.ifalias = word("ifalias");
    interface.name = dir.name().into();
    let exists = interface.flags.is_some() || !interface.operstate.is_empty();
    exists.then_some(interface)
}

fn read_attribute(out: &mut Families, dir: Option<&Dir>, name: &str, file: &str) -> Option<i64> {
    let read = dir?.read(format!("{name}/{file}"));
    out.ok_or_skip(read.and_then(|text| parse_number(&text)))
}

/// Parses a number; flags and device numbers are hexadecimal.
fn parse_number(text: &Text) -> Result<i64> {
    match text.trimmed().strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16)
            .map_err(|_| text.error(1, format_args!("invalid number {digits:?}"))),
        None => text.parse_number(),
    }
}

fn read_word(out: &mut Families, dir: Option<&Dir>, name: &str, file: &str) -> String {
    let word = dir.map(|dir| dir.read_trimmed(format!("{name}/{file}")));
    word.and_then(|word| out.ok_or_skip(word))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netclass(ignore_invalid_speed: bool) -> NetClass {
        NetClass {
            ignored: Pattern::default(),
            ignore_invalid_speed,
            netlink: false,
            with_stats: false,
            cache: Mutex::default(),
        }
    }

    fn lines(netclass: &NetClass, interface: &NetClassInterface<'_>) -> Vec<String> {
        let mut out = Families::default();
        netclass.add(&mut out, interface);
        out.lines()
    }

    #[test]
    fn unknown_speed_is_negative_unless_ignored() {
        let interface = NetClassInterface {
            name: "tap0".into(),
            speed: Some(-1),
            ..NetClassInterface::default()
        };
        let speed = r#"node_network_speed_bytes{device="tap0"} -125000"#;
        let info = lines(&netclass(true), &interface);
        assert_eq!(lines(&netclass(false), &interface)[1], speed);
        assert_eq!(info.len(), 1);
        assert!(info[0].contains(r#"operstate="",adminstate="unknown""#));
    }

    #[test]
    fn up_follows_operstate_not_adminstate() {
        let link = |operstate, flags| Link {
            name: "eth0".to_owned(),
            operstate: Some(operstate),
            flags,
            ..Link::default()
        };
        let attributes = CachedAttributes {
            name: String::new(),
            address: String::new(),
            addr_assign_type: Some(3),
            name_assign_type: None,
            dev_id: None,
        };
        let netclass = netclass(false);
        let unknown = link(0, Link::UP);
        let up = lines(
            &netclass,
            &NetClassInterface::from_link(&unknown, &attributes),
        );
        assert_eq!(up[0], r#"node_network_up{device="eth0"} 0"#);
        assert!(
            up.iter()
                .any(|line| line.starts_with("node_network_dormant"))
        );
        let down = link(2, 0);
        let down = lines(&netclass, &NetClassInterface::from_link(&down, &attributes));
        assert!(
            !down
                .iter()
                .any(|line| line.starts_with("node_network_dormant"))
        );
    }

    #[test]
    fn flags_are_hexadecimal_and_numbers_are_not() {
        assert_eq!(parse_number(&Text::from("0x1003\n")).unwrap(), 0x1003);
        assert_eq!(parse_number(&Text::from("-1\n")).unwrap(), -1);
        let error = parse_number(&Text::from("0xz\n")).unwrap_err().to_string();
        assert_eq!(error, r#"test:1: invalid number "z""#);
    }

    fn from_netlink_and_sysfs(snapshot: &Snapshot) -> (Vec<String>, Vec<String>) {
        let class = snapshot.sys_dir("class/net").unwrap();
        let netclass = netclass(false);
        let (mut netlink, mut sysfs) = (Families::default(), Families::default());
        let links = snapshot.links().unwrap();
        netclass.add_links(&mut netlink, snapshot, Some(&class), links);
        for link in links {
            let interface = read_interface(&mut sysfs, &class, OsStr::new(&link.name));
            netclass.add(&mut sysfs, &interface.unwrap_or_default());
        }
        netlink.remove(ALTNAMES_INFO.desc().name);
        let sorted = |out: Families| {
            let mut samples = out.lines();
            samples.sort_unstable();
            samples
        };
        (sorted(netlink), sorted(sysfs))
    }

    #[test]
    fn netlink_and_sysfs_agree() {
        let machine = Snapshot::for_test_host();
        let class = machine.sys_dir("class/net").unwrap();
        let links = machine.links().unwrap();
        let mut listed: Vec<OsString> = links.iter().map(|link| (&link.name).into()).collect();
        listed.sort_unstable();
        if interface_names(&class).unwrap() != listed {
            return; // This sysfs belongs to another network namespace.
        }
        // An interface may change between the two reads, but not every time.
        let same = (0..5).any(|_| {
            let (netlink, sysfs) = from_netlink_and_sysfs(&Snapshot::for_test_host());
            netlink == sysfs
        });
        assert!(same, "{:#?}", from_netlink_and_sysfs(&machine));
    }

    #[test]
    fn sysfs_attributes_are_cached_until_name_or_address_changes() {
        let root = std::env::temp_dir().join(format!("strata-netclass-{}", std::process::id()));
        let write = |name: &str, value: &str| {
            let dir = root.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("addr_assign_type"), value).unwrap();
        };
        let netclass = netclass(false);
        let machine = Snapshot::for_test_host();
        write("eth0", "1");
        let class = machine.open_dir(&root).unwrap();
        let address_type = |address: &str| {
            let link = Link {
                ifindex: 7,
                name: "eth0".to_owned(),
                address: address.to_owned(),
                ..Link::default()
            };
            let mut out = Families::default();
            netclass.add_links(&mut out, &machine, Some(&class), &[link]);
            let samples = out.lines();
            let sample = samples.iter().find(|s| s.contains("address_assign_type"));
            sample.and_then(|s| s.chars().last())
        };
        assert_eq!(address_type("02:00"), Some('1'));
        write("eth0", "3");
        assert_eq!(address_type("02:00"), Some('1'));
        assert_eq!(address_type("02:01"), Some('3'));
        let mut out = Families::default();
        netclass.add_links(&mut out, &machine, Some(&class), &[]);
        assert!(netclass.cache.lock().unwrap().by_ifindex.is_empty());
        write("eth0", "0");
        assert_eq!(address_type("02:01"), Some('0'));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn detects_sysfs_of_another_network_namespace() {
        let root = std::env::temp_dir().join(format!("strata-namespace-{}", std::process::id()));
        for (name, ifindex) in [("lo", "1"), ("eth0", "7")] {
            std::fs::create_dir_all(root.join(name)).unwrap();
            std::fs::write(root.join(name).join("ifindex"), ifindex).unwrap();
        }
        std::fs::write(root.join("bonding_masters"), "").unwrap();
        let class = Snapshot::for_test_host().open_dir(&root).unwrap();
        let names = interface_names(&class).unwrap();
        let link = |ifindex, name: &str| Link {
            ifindex,
            name: name.to_owned(),
            ..Link::default()
        };
        let is_same = |links: &[Link]| is_same_namespace(&class, &names, links);
        assert!(is_same(&[link(1, "lo"), link(7, "eth0")]));
        assert!(!is_same(&[link(1, "lo"), link(8, "eth0")]));
        assert!(!is_same(&[link(1, "lo"), link(7, "eth1")]));
        assert!(!is_same(&[link(1, "lo")]));
        assert!(!is_same_namespace(&class, &["lo".into()], &[link(1, "lo")]));
        std::fs::remove_dir_all(root).unwrap();
    }
}
