//! Whoever reads an answer learns what `docs/privacy.md` says, and nothing else: each label
//! of each family is of a kind that is named here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::support::text::Scrape;
use strata_exporter::{collectors, exporter, metric::Desc, scrape};

/// The comments that the list stands between.
const BEGIN: &str = "<!-- labels: written by `UPDATE=1 cargo test`, do not edit -->\n";
const END: &str = "<!-- /labels -->\n";

/// What the values of a label tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tells {
    /// Words that somebody here chose.
    Names,
    /// People, or a customer.
    Owners,
    /// An address of the network.
    Addresses,
    /// What no other machine or part has.
    Identity,
    /// What hardware and software this is, and how old.
    Make,
    /// Words and numbers that are the same everywhere.
    Nothing,
}

use Tells::{Addresses, Identity, Make, Names, Nothing, Owners};

impl Tells {
    fn words(self) -> &'static str {
        match self {
            Names => "names chosen here",
            Owners => "owners",
            Addresses => "addresses",
            Identity => "identifiers",
            Make => "make and version",
            Nothing => "nothing",
        }
    }
}

/// Every label: of which collectors, none for all that have it, and what it tells.
const LABELS: &[(Tells, &[&str], &[&str])] = &[
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
        Identity,
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
    (Identity, &["diskstats"], &["path"]),
    (Make, &["census_images", "os"], &["image_id"]),
    (Make, &["os"], &["id", "name"]),
    (Make, &["census_timezone"], &["timezone"]),
    (Make, &["time"], &["time_zone"]),
    (
        Make,
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
        Nothing,
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
        Nothing,
        &["btrfs", "diskstats", "nvme", "time", "container_disk"],
        &["device"],
    ),
    (Nothing, &["hwmon"], &["label"]),
    (Nothing, &["libvirt"], &["id"]),
    (Nothing, &["sysctl", "thermal_zone", "watchdog"], &["name"]),
    (Nothing, &["rapl"], &["path"]),
];

/// Whose groups have an engine's names.
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

/// Labels that are described in words, for not every machine has them: of which family, and
/// what they tell.
const SOMETIMES: &[(&str, Tells, &[&str])] = &[
    (
        "node_dmi_info",
        Names,
        &["board_asset_tag", "chassis_asset_tag"],
    ),
    (
        "node_dmi_info",
        Identity,
        &[
            "board_serial",
            "chassis_serial",
            "product_serial",
            "product_uuid",
        ],
    ),
    (
        "node_dmi_info",
        Make,
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
    ("node_power_supply_info", Identity, &["serial_number"]),
    (
        "node_power_supply_info",
        Make,
        &["manufacturer", "model_name", "technology"],
    ),
    (
        "node_power_supply_info",
        Nothing,
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

/// How what a label tells is kept back, other than by `--no-collector.…`, which keeps back
/// every family of a collector.
const KEPT_BACK: &[(&[&str], &[&str], &str)] = &[
    (
        CONTAINERS,
        &["id", "image", "name", "container_label_*", "domain"],
        "`image`: `--engine.image-include=`; `container_label_*`: `--engine.label-include=`; `image`, `name` and labels: \
         `--engine.socket=`; single groups: `--cgroup.exclude`",
    ),
    (
        &["census_images"],
        &["image"],
        "`--engine.image-include`; in the report also `--census.hash-images`",
    ),
    (
        &["filesystem"],
        &["device", "mountpoint"],
        "single ones: `--collector.filesystem.mount-points-exclude`",
    ),
    (
        &["netdev"],
        &["device", "address"],
        "single ones: `--collector.netdev.device-exclude`; addresses: off by default",
    ),
    (
        &["netclass"],
        &["device"],
        "single ones: `--collector.netclass.ignored-devices`",
    ),
    (
        &["systemd"],
        &["name"],
        "single ones: `--collector.systemd.unit-exclude`",
    ),
    (
        &["sysctl"],
        &["value"],
        "only what `--collector.sysctl.include-info` names is told",
    ),
];

/// What a label of a collector tells.
fn tells(collector: &str, label: &str) -> Vec<Tells> {
    let of = |(_, collectors, labels): &&(Tells, &[&str], &[&str])| {
        labels.contains(&label) && (collectors.is_empty() || collectors.contains(&collector))
    };
    LABELS.iter().filter(of).map(|(tells, ..)| *tells).collect()
}

fn all() -> Vec<(&'static str, Vec<&'static Desc>)> {
    let built = collectors::ALL.iter().filter(|entry| !entry.is_to_come());
    let mut all: Vec<_> = built
        .map(|entry| (entry.name, entry.metrics.to_vec()))
        .collect();
    let own = [scrape::OWN_METRICS, exporter::OWN_METRICS].concat();
    all.push(("the exporter itself", own));
    all
}

fn labels(desc: &Desc) -> impl Iterator<Item = &'static str> {
    desc.block.iter().chain(desc.labels).copied()
}

#[test]
fn of_every_label_is_known_what_it_tells() {
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for (collector, metrics) in all() {
        for label in metrics.iter().flat_map(|desc| labels(desc)) {
            met.insert((collector, label));
            let told = tells(collector, label);
            if told.len() != 1 {
                wrong.push(format!("{label} of {collector} tells {told:?}"));
            }
        }
    }
    for (_, collectors, labels) in LABELS {
        for label in *labels {
            let any = collectors.is_empty() && met.iter().any(|(_, met)| met == label);
            let missing = collectors
                .iter()
                .filter(|it| !met.contains(&(**it, *label)));
            wrong.extend(missing.map(|it| format!("{it} has no label {label}")));
            if collectors.is_empty() && !any {
                wrong.push(format!("nobody has a label {label}"));
            }
        }
    }
    wrong.sort_unstable();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a family tells, by label.
fn told(collector: &str, desc: &Desc) -> BTreeSet<(Tells, &'static str)> {
    let described = labels(desc).map(|label| (tells(collector, label)[0], label));
    let of_family = SOMETIMES.iter().filter(|(family, ..)| *family == desc.name);
    let sometimes = of_family.flat_map(|(_, tells, labels)| labels.iter().map(|it| (*tells, *it)));
    described.chain(sometimes).collect()
}

#[test]
fn no_family_has_labels_that_are_not_described() {
    let mut described: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (collector, metrics) in all() {
        for desc in metrics {
            let labels = told(collector, desc).into_iter().map(|(_, label)| label);
            described.entry(desc.name).or_default().extend(labels);
        }
    }
    let mut families = BTreeSet::new();
    for machine in crate::support::MACHINES {
        let path = format!("tests/golden/{machine}.prom");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let page = Scrape::parse(&fs::read_to_string(path).unwrap());
        for (family, series) in page.series {
            // Names with a word of the kernel's have the labels of what is described.
            let Some(described) = described.get(family.as_str()) else {
                continue;
            };
            for label in series.keys().flat_map(|labels| labels.keys()) {
                let is_of_container = label.starts_with("container_label_");
                let known = is_of_container || described.contains(label.as_str());
                assert!(known, "{family} has a label {label}");
            }
            families.insert(family);
        }
    }
    assert!(families.len() > 500, "{}", families.len());
}

#[test]
fn the_documentation_says_it_family_by_family() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/privacy.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let current = [head, BEGIN, &list(), END, tail].concat();
    crate::support::assert_same_as_file(&path, &current);
}

#[test]
fn flags_that_keep_something_back_exist() {
    let command = strata_exporter::cli::command(collectors::ALL);
    let known: BTreeSet<_> = command
        .get_arguments()
        .filter_map(|it| it.get_long())
        .collect();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/privacy.md"));
    let text = text.unwrap();
    let mut flags = 0;
    for rest in text.split("`--").skip(1) {
        let flag = rest.split(['`', '=', ' ']).next().unwrap();
        let flag = flag.strip_prefix("no-").unwrap_or(flag);
        if flag.contains('…') {
            continue;
        }
        assert!(known.contains(flag), "--{flag}");
        flags += 1;
    }
    assert!(flags > 10, "{flags}");
}

fn list() -> String {
    let mut out = String::new();
    let mut silent = Vec::new();
    for (collector, metrics) in all() {
        // By what they tell, families that tell the same together.
        let mut rows: BTreeMap<Vec<(Tells, &str)>, Vec<&str>> = BTreeMap::new();
        for desc in metrics {
            let told = told(collector, desc).into_iter();
            let told = told.filter(|(tells, _)| *tells != Nothing).collect();
            rows.entry(told).or_default().push(desc.name);
        }
        if rows.keys().all(Vec::is_empty) {
            silent.push(collector);
            continue;
        }
        out += &format!("\n### {collector}\n\n| Families | Tell | Kept back by |\n|---|---|---|\n");
        // Those that tell most first.
        for (told, families) in rows.iter().rev() {
            let families: Vec<_> = families.iter().map(|name| format!("`{name}`")).collect();
            let families = families.join(", ");
            out += &format!(
                "| {families} | {} | {} |\n",
                said(told),
                kept_back(collector, told)
            );
        }
    }
    let silent: Vec<_> = silent.iter().map(|name| format!("`{name}`")).collect();
    let silent = silent.join(", ");
    out + &format!(
        "\n### All others\n\nNo family of these has a label that tells anything: {silent}.\n\n"
    )
}

fn said(told: &[(Tells, &str)]) -> String {
    if told.is_empty() {
        return "numbers alone".to_owned();
    }
    let mut by: BTreeMap<Tells, Vec<String>> = BTreeMap::new();
    for (tells, label) in told {
        by.entry(*tells).or_default().push(format!("`{label}`"));
    }
    let parts = by.iter().map(|(tells, labels)| {
        let words = tells.words();
        format!("{words}: {}", labels.join(", "))
    });
    parts.collect::<Vec<_>>().join("; ")
}

fn kept_back(collector: &str, told: &[(Tells, &str)]) -> String {
    if told.is_empty() {
        return String::new();
    }
    let ways = KEPT_BACK.iter().filter(|(collectors, labels, _)| {
        collectors.contains(&collector) && told.iter().any(|(_, label)| labels.contains(label))
    });
    let mut ways: Vec<_> = ways.map(|(.., way)| (*way).to_owned()).collect();
    ways.push(if collector == "the exporter itself" {
        "`--web.disable-exporter-metrics`, but for the version".to_owned()
    } else {
        format!("`--no-collector.{collector}`")
    });
    ways.join("; ")
}
