//! Every label of every family has a privacy class; `docs/metrics/*.md` list them, and
//! `docs/privacy.md` explains the classes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::support::text_format::Scrape;
use strata_exporter::{collectors, metric::Desc, scrape, self_metrics};

/// What the values of a label identify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privacy {
    /// Names that people on this machine chose.
    Names,
    /// People or customers.
    Owners,
    /// Network addresses.
    Addresses,
    /// Values that no other machine or part has.
    Identifiers,
    /// Hardware and software versions.
    Versions,
    /// Words and numbers that are the same on all machines.
    Public,
}

use Privacy::{Addresses, Identifiers, Names, Owners, Public, Versions};

impl Privacy {
    /// The name of the class in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Names => "names",
            Owners => "owners",
            Addresses => "addresses",
            Identifiers => "identifiers",
            Versions => "versions",
            Public => "public",
        }
    }
}

/// The class of every label; without collectors, that of all collectors that have it.
const LABELS: &[(Privacy, &[&str], &[&str])] = &[
    (
        Names,
        &[],
        &[
            "altname",
            "bridge",
            "container_label_*",
            "domain",
            "domainname",
            "file",
            "ifalias",
            "lv_name",
            "master",
            "mountpoint",
            "network",
            "nodename",
            "pool",
            "source_bridge",
            "source_file",
            "storage_pool",
            "vg_name",
        ],
    ),
    (Names, CONTAINERS, &["id", "image", "name"]),
    (Names, &["census_images"], &["image"]),
    (Names, &["btrfs"], &["label"]),
    (Names, &["diskstats", "systemd"], &["name"]),
    // Whole file systems of others, and interfaces by people's names.
    (
        Names,
        &[
            "arp",
            "ethtool",
            "filesystem",
            "mdadm",
            "netclass",
            "netdev",
            "network_route",
            "qdisc",
            "container_filesystem",
            "xfs",
            "swap",
        ],
        &["device"],
    ),
    (Names, &["sysctl"], &["value"]),
    (
        Names,
        &["libvirt"],
        &["title", "uri", "flavor", "flavor_name", "instance_name"],
    ),
    (Names, &["container_engine", "container_size"], &["socket"]),
    (
        Owners,
        &["libvirt"],
        &[
            "project_id",
            "project_name",
            "project_uuid",
            "user_id",
            "user_name",
            "user_uuid",
        ],
    ),
    (
        Addresses,
        &[],
        &[
            "address",
            "dest",
            "export",
            "gw",
            "mac_address",
            "mountaddr",
            "netmask",
            "src",
        ],
    ),
    (
        Identifiers,
        &[],
        &[
            "boot_id",
            "instance_id",
            "machine_id",
            "root_uuid",
            "serial",
            "system_uuid",
            "uuid",
            "virtual_interface",
            "wwn",
        ],
    ),
    (Identifiers, &["diskstats"], &["path"]),
    (Versions, &["census_images", "os"], &["image_id"]),
    (Versions, &["os"], &["id", "name"]),
    (Versions, &["census_timezone"], &["timezone"]),
    (Versions, &["time"], &["time_zone"]),
    (
        Versions,
        &[],
        &[
            "api_version",
            "bug",
            "build_id",
            "cachesize",
            "cadvisorRevision",
            "cadvisorVersion",
            "cgroup_driver",
            "chip_name",
            "codename",
            "dimm_label",
            "dockerVersion",
            "driver",
            "expansion_rom_version",
            "family",
            "firmware_revision",
            "firmware_version",
            "flag",
            "goarch",
            "goos",
            "goversion",
            "hypervisor_running",
            "id_like",
            "landlock",
            "seccomp",
            "identity",
            "image_version",
            "kernelVersion",
            "libvirt_library",
            "libvirtd_running",
            "machine",
            "microcode",
            "mitigation",
            "model",
            "model_name",
            "model_type",
            "osVersion",
            "os_type",
            "os_type_arch",
            "os_type_machine",
            "pretty_name",
            "release",
            "revision",
            "stepping",
            "sysname",
            "tags",
            "variant",
            "variant_id",
            "vendor",
            "version",
            "version_codename",
            "version_id",
            "virtualization_type",
            "branch",
        ],
    ),
    (
        Public,
        &[],
        &[
            "adminstate",
            "ana_state",
            "block_group_type",
            "broadcast",
            "bus",
            "bus_info",
            "cache",
            "cause",
            "channel",
            "chip",
            "class",
            "clocksource",
            "cntlid",
            "code",
            "collector",
            "controller",
            "controllers",
            "core",
            "core_id",
            "cpu",
            "csrow",
            "device_error",
            "devices",
            "devid",
            "discard",
            "disk_type",
            "driver_cache",
            "driver_discard",
            "driver_name",
            "driver_type",
            "duplex",
            "engine",
            "error",
            "event",
            "failure_type",
            "fstype",
            "governor",
            "index",
            "info",
            "interface",
            "interface_type",
            "iothread",
            "ip",
            "kind",
            "level",
            "lv_layer",
            "major",
            "method",
            "minor",
            "mode",
            "mtu_size",
            "node",
            "node_id",
            "nsid",
            "operation",
            "operstate",
            "options",
            "outcome",
            "package",
            "page_size",
            "pagesize",
            "power_supply",
            "pretimeout_governor",
            "priority",
            "proto",
            "protocol",
            "queue",
            "rapl_zone",
            "reason",
            "remote",
            "root_type",
            "rotational",
            "scope",
            "seat",
            "sensor",
            "size",
            "slab",
            "source_protocol",
            "stat",
            "state",
            "state_desc",
            "status",
            "subsys_name",
            "subsystem",
            "swap_type",
            "target_bus",
            "target_device",
            "target_node_id",
            "tcp_state",
            "thread_id",
            "thread_state",
            "transport",
            "type",
            "udp_state",
            "ulimit",
            "usage",
            "vcpu",
            "vector",
            "weight",
            "window",
            "zone",
        ],
    ),
    (
        Public,
        &["btrfs", "diskstats", "nvme", "time", "container_disk"],
        &["device"],
    ),
    (Public, &["hwmon"], &["label"]),
    (Public, &["libvirt"], &["id"]),
    (Public, &["sysctl", "thermal_zone", "watchdog"], &["name"]),
    (Public, &["rapl"], &["path"]),
];

/// Collectors of containers, whose series have the labels of a container.
const CONTAINERS: &[&str] = &[
    "container_cpu",
    "container_cpuset",
    "container_disk",
    "container_filesystem",
    "container_hugetlb",
    "container_lifecycle",
    "container_memory",
    "container_network",
    "container_numa",
    "container_pids",
    "container_pressure",
    "container_processes",
    "container_size",
    "container_spec",
    "history",
];

/// Labels that only some machines have, by family.
const OPTIONAL_LABELS: &[(&str, Privacy, &[&str])] = &[
    (
        "node_dmi_info",
        Names,
        &["board_asset_tag", "chassis_asset_tag"],
    ),
    (
        "node_dmi_info",
        Identifiers,
        &[
            "board_serial",
            "chassis_serial",
            "product_serial",
            "product_uuid",
        ],
    ),
    (
        "node_dmi_info",
        Versions,
        &[
            "bios_date",
            "bios_release",
            "bios_vendor",
            "bios_version",
            "board_name",
            "board_vendor",
            "board_version",
            "chassis_vendor",
            "chassis_version",
            "product_family",
            "product_name",
            "product_sku",
            "product_version",
            "system_vendor",
        ],
    ),
    ("node_power_supply_info", Identifiers, &["serial_number"]),
    (
        "node_power_supply_info",
        Versions,
        &["manufacturer", "model_name", "technology"],
    ),
    (
        "node_power_supply_info",
        Public,
        &[
            "capacity_level",
            "charge_type",
            "health",
            "scope",
            "status",
            "type",
            "usb_type",
        ],
    ),
];

/// Flags that hide label values; `--no-collector.NAME` removes all families of a collector.
const HIDDEN_BY: &[(&[&str], &str)] = &[
    (
        CONTAINERS,
        "`--engine.image-include=` for `image`; `--engine.label-include=` for `container_label_*`; \
         `--engine.socket=` for `name`, `image` and all labels; `--cgroup.exclude` for single groups",
    ),
    (
        &["census_images"],
        "`--engine.image-include` for `image`; `--census.hash-images` for the report",
    ),
    (
        &["filesystem"],
        "`--collector.filesystem.mount-points-exclude` for single mounts",
    ),
    (
        &["netdev"],
        "`--collector.netdev.device-exclude` for single interfaces; addresses are off by default",
    ),
    (
        &["netclass"],
        "`--collector.netclass.ignored-devices` for single interfaces",
    ),
    (
        &["systemd"],
        "`--collector.systemd.unit-exclude` for single units",
    ),
    (
        &["sysctl"],
        "only what `--collector.sysctl.include-info` names is exposed",
    ),
];

/// The flags that hide values of labels of a collector.
pub fn hidden_by(collector: &str) -> Option<&'static str> {
    let hidden = HIDDEN_BY
        .iter()
        .find(|(collectors, _)| collectors.contains(&collector));
    hidden.map(|(_, flags)| *flags)
}

/// The classes that the table has for a label of a collector; exactly one if it is right.
fn classes(collector: &str, label: &str) -> Vec<Privacy> {
    let matches = |(_, collectors, labels): &&(Privacy, &[&str], &[&str])| {
        labels.contains(&label) && (collectors.is_empty() || collectors.contains(&collector))
    };
    LABELS
        .iter()
        .filter(matches)
        .map(|(class, ..)| *class)
        .collect()
}

fn all() -> Vec<(&'static str, Vec<&'static Desc>)> {
    let built = collectors::ALL.iter().filter(|entry| !entry.is_planned());
    let mut all: Vec<_> = built
        .map(|entry| (entry.name, entry.metrics.to_vec()))
        .collect();
    let own = [scrape::SCRAPE_METRICS, self_metrics::SELF_METRICS].concat();
    all.push(("exporter", own));
    all
}

fn labels(desc: &Desc) -> impl Iterator<Item = &'static str> {
    desc.base_labels.iter().chain(desc.labels).copied()
}

#[test]
fn every_label_has_one_privacy_class() {
    let mut errors = Vec::new();
    let mut met = BTreeSet::new();
    for (collector, metrics) in all() {
        for label in metrics.iter().flat_map(|desc| labels(desc)) {
            met.insert((collector, label));
            let classes = classes(collector, label);
            if classes.len() != 1 {
                errors.push(format!(
                    "{label} of {collector} has the classes {classes:?}"
                ));
            }
        }
    }
    for (_, collectors, labels) in LABELS {
        for label in *labels {
            let any = collectors.is_empty() && met.iter().any(|(_, met)| met == label);
            let missing = collectors
                .iter()
                .filter(|it| !met.contains(&(**it, *label)));
            errors.extend(missing.map(|it| format!("{it} has no label {label}")));
            if collectors.is_empty() && !any {
                errors.push(format!("no collector has a label {label}"));
            }
        }
    }
    errors.sort_unstable();
    errors.dedup();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The labels of a family with their classes, optional ones included.
pub fn labels_of(collector: &str, desc: &Desc) -> BTreeSet<(Privacy, &'static str)> {
    let described = labels(desc).map(|label| (classes(collector, label)[0], label));
    let optional = OPTIONAL_LABELS
        .iter()
        .filter(|(family, ..)| *family == desc.name)
        .flat_map(|(_, class, labels)| labels.iter().map(|label| (*class, *label)));
    described.chain(optional).collect()
}

#[test]
fn golden_files_have_described_labels_only() {
    let mut described: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (collector, metrics) in all() {
        for desc in metrics {
            let labels = labels_of(collector, desc)
                .into_iter()
                .map(|(_, label)| label);
            described.entry(desc.name).or_default().extend(labels);
        }
    }
    let mut families = BTreeSet::new();
    for machine in crate::support::MACHINES {
        let path = format!("tests/golden/{machine}.prom");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let scrape = Scrape::parse(&fs::read_to_string(path).unwrap());
        for (family, series) in scrape.series {
            // A name with a word that the kernel chose has the labels of its pattern.
            let Some(described) = described.get(family.as_str()) else {
                continue;
            };
            for label in series.keys().flat_map(|labels| labels.keys()) {
                let is_of_container = label.starts_with("container_label_");
                let is_described = is_of_container || described.contains(label.as_str());
                assert!(is_described, "{family} has a label {label}");
            }
            families.insert(family);
        }
    }
    assert!(families.len() > 500, "{}", families.len());
}
