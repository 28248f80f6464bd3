//! Hardware of the machine under cAdvisor's names, and the metrics that cAdvisor exposes about
//! itself. From `devices/system/{cpu,node,edac}` in sysfs, documented in the kernel's
//! `ABI/stable/sysfs-devices-system-cpu` and `-node`, and `/proc/meminfo`.
//!
//! Cores and sockets are counted by their lists of CPUs, because their numbers may repeat across
//! sockets. Values that are unavailable, such as `machine_nvm_*`, which need Intel's library, have
//! no series, where cAdvisor exposes 0.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{self, BaseLabels, Families, Value},
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot, Text, engine},
};

/// The labels of all metrics about the machine. Unknown ones are left out.
const MACHINE: &[&str] = &["machine_id", "system_uuid", "boot_id"];

metrics! {
    /// Online CPUs (hardware threads).
    CPU_CORES: Gauge = "machine_cpu_cores" base MACHINE [];
    /// Physical cores with at least one online CPU.
    PHYSICAL_CORES: Gauge = "machine_cpu_physical_cores" base MACHINE [];
    /// CPU sockets with at least one online CPU.
    SOCKETS: Gauge = "machine_cpu_sockets" base MACHINE [];
    /// CPU books; IBM mainframes only.
    BOOKS: Gauge = "machine_cpu_books" base MACHINE [];
    /// CPU drawers; IBM mainframes only.
    DRAWERS: Gauge = "machine_cpu_drawers" base MACHINE [];
    /// Total usable memory in bytes (MemTotal).
    MEMORY: Gauge = "machine_memory_bytes" base MACHINE [];
    /// Total swap space in bytes.
    SWAP: Gauge = "machine_swap_bytes" base MACHINE [];
    /// Memory modules of this type, from the EDAC driver.
    DIMMS: Gauge = "machine_dimm_count" base MACHINE ["type"];
    /// Total capacity of the memory modules of this type in bytes.
    DIMM_CAPACITY: Gauge = "machine_dimm_capacity_bytes" base MACHINE ["type"];
    /// Cache size in bytes. A cache shared by all CPUs of a node has an empty core_id; one shared
    /// by several cores is listed for each.
    CACHE: Gauge = "machine_cpu_cache_capacity_bytes" base MACHINE ["node_id", "core_id", "type", "level"];
    /// Online CPUs on the same core as this CPU.
    THREAD_SIBLINGS: Gauge = "machine_thread_siblings_count" base MACHINE ["node_id", "core_id", "thread_id"];
    /// Memory of this NUMA node in bytes.
    NODE_MEMORY: Gauge = "machine_node_memory_capacity_bytes" base MACHINE ["node_id"];
    /// Huge pages reserved on this NUMA node, by page size in kB.
    NODE_HUGE_PAGES: Gauge = "machine_node_hugepages_count" base MACHINE ["node_id", "page_size"];
    /// Distance from one NUMA node to another, where 10 is local.
    NODE_DISTANCE: Gauge = "machine_node_distance" base MACHINE ["node_id", "target_node_id"];
    /// Whether CPUs or memory could not be read in this scrape (1) or could (0).
    MACHINE_ERROR: Gauge = "machine_scrape_error" [];
    /// Whether the cgroups could not be listed in this scrape (1) or could (0).
    CONTAINER_ERROR: Gauge = "container_scrape_error" [];
    /// Versions of kernel, operating system and Docker; the version label names this exporter,
    /// which is not cAdvisor.
    VERSION: Info = "cadvisor_version_info" ["kernelVersion", "osVersion", "dockerVersion", "cadvisorVersion", "cadvisorRevision"];
}

/// More CPUs than any machine has. A longer list is an error.
const MAX_CPUS: u32 = 1 << 16;

/// Files that list the CPUs of a CPU's core: the current name, and the one before Linux 5.3.
const CORE_CPUS_FILES: &[&str] = &["topology/core_cpus_list", "topology/thread_siblings_list"];

/// Exposed in the place of cAdvisor's version.
const OWN_VERSION: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));

/// The flags of the machine collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct MachineCollectorFlags {
    /// Expose caches, threads per core, and NUMA nodes.
    #[arg(long = "collector.machine.topology", default_value_t = false, action = ArgAction::Set)]
    machine_topology: bool,
}

#[derive(Debug)]
pub(super) struct MachineCollector {
    topology: bool,
    /// The CPUs of an earlier scrape, valid while the list of online CPUs is the same.
    cache: Mutex<Option<(String, Arc<CpuTopology>)>>,
}

impl Collector for MachineCollector {
    const NAME: &'static str = "machine";
    const ABOUT: &'static str =
        "CPUs, memory and NUMA nodes of the machine, under cAdvisor's names";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = MachineCollectorFlags;

    fn new(flags: MachineCollectorFlags) -> Result<Self, String> {
        Ok(Self {
            topology: flags.machine_topology,
            cache: Mutex::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let base = identity_labels(snapshot);
        let cpus = self.read_cpus(snapshot);
        let memory = snapshot
            .read_proc("meminfo")
            .and_then(|text| parse_memory(&text));
        out.add(&MACHINE_ERROR, [], cpus.is_err() || memory.is_err());
        if let Ok(cpus) = &cpus {
            add_cpus(&mut out, &base, cpus);
        }
        if let Some((total, swap)) = ok_or_record_error(&mut out, memory) {
            out.add_with(&MEMORY, &base, [], total);
            out.add_with(&SWAP, &base, [], swap);
        }
        let dimms = read_dimms(snapshot);
        for (kind, count, bytes) in out.ok_or_skip(dimms).unwrap_or_default() {
            out.add_with(&DIMMS, &base, [&kind], count);
            out.add_with(&DIMM_CAPACITY, &base, [&kind], bytes);
        }
        let cpus = ok_or_record_error(&mut out, cpus);
        if self.topology {
            let nodes = read_nodes(snapshot);
            let nodes = out.ok_or_skip(nodes).unwrap_or_default();
            let numbers: Vec<_> = nodes.iter().map(|(number, _)| *number).collect();
            for (number, node) in &nodes {
                add_node(&mut out, &base, *number, node, &numbers, cpus.as_deref());
            }
        }
        let inventory = snapshot.workloads();
        out.add(&CONTAINER_ERROR, [], inventory.is_err());
        let docker = inventory.ok().and_then(|inventory| {
            let mut engines = inventory.engines.iter();
            let docker = engines.find(|engine| engine.kind == Some(engine::EngineKind::Docker));
            docker?.version.clone()
        });
        let kernel = snapshot.read_proc("sys/kernel/osrelease");
        let kernel = out.ok_or_skip(kernel);
        out.add(
            &VERSION,
            [
                kernel.as_ref().map_or("", Text::trimmed),
                &snapshot.os_name().ok().flatten().unwrap_or_default(),
                &docker.unwrap_or_default(),
                OWN_VERSION,
                "none",
            ],
            true,
        );
        Ok(out)
    }
}

/// Like `Families::ok_or_skip`, but a missing file is an error, too.
fn ok_or_record_error<T>(out: &mut Families, read: Result<T>) -> Option<T> {
    read.map_err(|error| out.record_error(error)).ok()
}

/// The identity of the machine; only root may read its UUID.
fn identity_labels(snapshot: &Snapshot) -> BaseLabels {
    let word = |text: Result<Text>| Some(text.ok()?.trimmed().to_owned());
    let id = word(snapshot.read_rootfs("etc/machine-id")).filter(|id| !id.is_empty());
    let values = [
        id.or_else(|| word(snapshot.read_rootfs("var/lib/dbus/machine-id"))),
        word(snapshot.read_sys("class/dmi/id/product_uuid")),
        word(snapshot.read_proc("sys/kernel/random/boot_id")),
    ];
    let labels = MACHINE.iter().zip(&values);
    family::render_labels(labels.filter_map(|(name, value)| {
        let value = value.as_deref().filter(|value| !value.is_empty())?;
        Some((*name, value))
    }))
}

/// The online CPUs. A property that is missing for one CPU is unknown for all.
#[derive(Debug, Default)]
struct CpuTopology {
    online: usize,
    cores: Option<usize>,
    sockets: Option<usize>,
    books: Option<usize>,
    drawers: Option<usize>,
    /// Caches and siblings of each CPU, if enabled.
    details: Vec<LogicalCpu>,
}

#[derive(Debug)]
struct LogicalCpu {
    number: u32,
    core_id: String,
    /// The CPUs of its core, in the kernel's list format.
    thread_siblings: String,
    caches: Vec<CpuCache>,
}

#[derive(Debug)]
struct CpuCache {
    level: String,
    kind: String,
    bytes: Value,
    /// The CPUs that share it, in the kernel's list format.
    shared_cpu_list: String,
}

impl MachineCollector {
    fn read_cpus(&self, snapshot: &Snapshot) -> Result<Arc<CpuTopology>> {
        let dir = snapshot.sys_dir("devices/system/cpu")?;
        let online = dir.read("online")?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cached)) = cache.as_ref().filter(|(list, _)| list == online.body()) {
            return Ok(Arc::clone(cached));
        }
        let numbers = parse_cpu_list(online.trimmed());
        let numbers = numbers.ok_or_else(|| online.error(1, "invalid CPU list"))?;
        let cpus = Arc::new(read_topology(&dir, &numbers, self.topology));
        *cache = Some((online.body().to_owned(), Arc::clone(&cpus)));
        Ok(cpus)
    }
}

fn read_topology(dir: &Dir, numbers: &[u32], with_details: bool) -> CpuTopology {
    let open = |number: &u32| dir.dir(format!("cpu{number}")).ok();
    let dirs: Vec<(u32, Option<Dir>)> = numbers.iter().map(|n| (*n, open(n))).collect();
    // The number of distinct lists of CPUs.
    let groups = |files: &[&str]| {
        let lists = dirs.iter().map(|(_, dir)| {
            let dir = dir.as_ref()?;
            files.iter().find_map(|file| dir.read_trimmed(file).ok())
        });
        let lists: Option<BTreeSet<String>> = lists.collect();
        lists.map(|lists| lists.len())
    };
    let details = dirs
        .iter()
        .filter(|_| with_details)
        .filter_map(|(number, dir)| read_cpu(*number, dir.as_ref()?));
    CpuTopology {
        online: numbers.len(),
        cores: groups(CORE_CPUS_FILES),
        sockets: groups(&["topology/package_cpus_list", "topology/core_siblings_list"]),
        books: groups(&["topology/book_siblings_list"]),
        drawers: groups(&["topology/drawer_siblings_list"]),
        details: details.collect(),
    }
}

fn read_cpu(number: u32, dir: &Dir) -> Option<LogicalCpu> {
    let cache = |cache: &Dir| {
        Some(CpuCache {
            level: cache.read_trimmed("level").ok()?,
            kind: cache.read_trimmed("type").ok()?,
            bytes: parse_size(&cache.read_trimmed("size").ok()?)?,
            shared_cpu_list: cache.read_trimmed("shared_cpu_list").ok()?,
        })
    };
    let caches = dir.dir("cache").and_then(|caches| caches.dirs());
    Some(LogicalCpu {
        number,
        core_id: dir.read_trimmed("topology/core_id").ok()?,
        thread_siblings: CORE_CPUS_FILES
            .iter()
            .find_map(|file| dir.read_trimmed(file).ok())?,
        caches: caches.iter().flatten().filter_map(cache).collect(),
    })
}

/// Parses a size such as `32K` into bytes.
fn parse_size(text: &str) -> Option<Value> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    Some(Value::product(number.parse().ok()?, unit))
}

/// Parses a list such as `0-3,8`.
fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if last < first || last >= MAX_CPUS || numbers.last().is_some_and(|before| *before >= first)
        {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

fn add_cpus(out: &mut Families, base: &BaseLabels, cpus: &CpuTopology) {
    out.add_with(&CPU_CORES, base, [], cpus.online);
    for (metric, count) in [
        (&PHYSICAL_CORES, cpus.cores),
        (&SOCKETS, cpus.sockets),
        (&BOOKS, cpus.books),
        (&DRAWERS, cpus.drawers),
    ] {
        if let Some(count) = count {
            out.add_with(metric, base, [], count);
        }
    }
}

/// Memory and swap space.
fn parse_memory(text: &Text) -> Result<(Value, Value)> {
    let kilobytes = |name: &str| {
        for mut line in text.lines() {
            if line.next_word() == Some(name) {
                return Ok(Value::product(line.parse(name)?, 1024));
            }
        }
        Err(text.error(1, format_args!("{name} line is missing")))
    };
    Ok((kilobytes("MemTotal:")?, kilobytes("SwapTotal:")?))
}

/// Memory modules by type: their number and capacity in bytes. If one cannot be read, the call
/// fails.
fn read_dimms(snapshot: &Snapshot) -> Result<Vec<(String, u64, Value)>> {
    let mut types: Vec<(String, u64, u64)> = Vec::new();
    for controller in snapshot.sys_dirs("devices/system/edac/mc")? {
        if !is_numbered(&controller.name(), "mc") {
            continue;
        }
        for module in controller.dirs()? {
            if !is_numbered(&module.name(), "dimm") {
                continue;
            }
            let kind = module.read_trimmed("dimm_mem_type")?;
            let megabytes: u64 = module.read_number("size")?;
            match types
                .iter_mut()
                .find(|(known_kind, ..)| *known_kind == kind)
            {
                Some((_, count, sum)) => {
                    *count += 1;
                    *sum = sum.saturating_add(megabytes);
                }
                None => types.push((kind, 1, megabytes)),
            }
        }
    }
    let in_bytes = |(kind, count, megabytes)| (kind, count, Value::product(megabytes, 1 << 20));
    Ok(types.into_iter().map(in_bytes).collect())
}

fn is_numbered(name: &str, kind: &str) -> bool {
    let number = name.strip_prefix(kind);
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

fn read_nodes(snapshot: &Snapshot) -> Result<Vec<(u32, Dir)>> {
    let dirs = snapshot.sys_dirs("devices/system/node")?.into_iter();
    let mut nodes: Vec<_> = dirs
        .filter_map(|dir| Some((dir.name().strip_prefix("node")?.parse().ok()?, dir)))
        .collect();
    nodes.sort_unstable_by_key(|(number, _)| *number);
    Ok(nodes)
}

fn add_node(
    out: &mut Families,
    base: &BaseLabels,
    number: u32,
    node: &Dir,
    all: &[u32],
    cpus: Option<&CpuTopology>,
) {
    let id = number.to_string();
    let memory = node
        .read("meminfo")
        .and_then(|text| parse_node_memory(&text));
    if let Some(memory) = out.ok_or_skip(memory) {
        out.add_with(&NODE_MEMORY, base, [&id], memory);
    }
    let sizes = node.dir("hugepages").and_then(|sizes| sizes.dirs());
    for pages in out.ok_or_skip(sizes).unwrap_or_default() {
        let name = pages.name();
        let size = name.strip_prefix("hugepages-");
        let Some(size) = size.and_then(|size| size.strip_suffix("kB")) else {
            continue;
        };
        let count = pages.read_number::<u64>("nr_hugepages");
        if let Some(count) = out.ok_or_skip(count) {
            out.add_with(&NODE_HUGE_PAGES, base, [&id, size], count);
        }
    }
    let distances = node.read("distance");
    let distances = distances.and_then(|text| parse_distances(all, &text));
    let distances = out.ok_or_skip(distances).unwrap_or_default();
    for (target, distance) in all.iter().zip(distances) {
        out.add_with(&NODE_DISTANCE, base, [&id, &target.to_string()], distance);
    }
    let cpulist = node.read("cpulist");
    if let Some(cpulist) = out.ok_or_skip(cpulist) {
        let cpus = cpus.map(|cpus| cpus.details.as_slice());
        add_cores(out, base, &id, cpulist.trimmed(), cpus.unwrap_or_default());
    }
}

/// Parses `Node 0 MemTotal: 16420536 kB`.
fn parse_node_memory(text: &Text) -> Result<Value> {
    for mut line in text.lines() {
        if line.clone().rest().contains(" MemTotal:") {
            let (_node, _number, name) = (line.next_word(), line.next_word(), line.next_word());
            return Ok(Value::product(line.parse(name.unwrap_or_default())?, 1024));
        }
    }
    Err(Error::NotFound(text.path().to_owned()))
}

/// Parses `10 21`.
fn parse_distances(nodes: &[u32], text: &Text) -> Result<Vec<u64>> {
    let words = text.body().split_ascii_whitespace();
    let distances: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
    let distances = distances.filter(|it| it.len() == nodes.len());
    distances.ok_or_else(|| text.error(1, "expected one distance per node"))
}

/// Adds caches and threads of one node's cores. Cores with the same number on two sockets of a
/// node have the same cache labels, which are exposed once.
fn add_cores(
    out: &mut Families,
    base: &BaseLabels,
    node: &str,
    cpulist: &str,
    cpus: &[LogicalCpu],
) {
    let numbers = parse_cpu_list(cpulist).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for cpu in cpus.iter().filter(|cpu| numbers.contains(&cpu.number)) {
        let core = cpu.core_id.as_str();
        let siblings = cpus
            .iter()
            .filter(|other| other.thread_siblings == cpu.thread_siblings);
        let thread = cpu.number.to_string();
        out.add_with(
            &THREAD_SIBLINGS,
            base,
            [node, core, &thread],
            siblings.count(),
        );
        for cache in &cpu.caches {
            let is_node_wide =
                cache.shared_cpu_list == cpulist && cache.shared_cpu_list != cpu.thread_siblings;
            let core = if is_node_wide { "" } else { core };
            let labels = [node, core, &cache.kind, &cache.level];
            if seen.insert(labels) {
                out.add_with(&CACHE, base, labels, cache.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing;

    fn collect(machine: &testing::MachineFixture, topology: bool) -> Families {
        let collector = MachineCollector {
            topology,
            cache: Mutex::default(),
        };
        collector.collect(&machine.snapshot()).unwrap()
    }

    /// The lines of a family, without its name and the machine's labels.
    fn series_of(out: &Families, name: &str) -> Vec<String> {
        let lines = out.lines().into_iter();
        let lines = lines.filter_map(|line| Some(line.strip_prefix(name)?.to_owned()));
        lines.filter(|rest| rest.starts_with(['{', ' '])).collect()
    }

    fn two_sockets(name: &str) -> testing::MachineFixture {
        let machine = testing::MachineFixture::new(name);
        machine.write("sys/devices/system/cpu/online", "0-3,6-7\n");
        machine.write("proc/meminfo", "MemTotal: 3 kB\nSwapTotal: 2 kB\n");
        for (cpu, core, core_list, socket_list) in [
            (0, 0, "0-1", "0-3"),
            (1, 0, "0-1", "0-3"),
            (2, 1, "2-3", "0-3"),
            (3, 1, "2-3", "0-3"),
            (6, 0, "6-7", "6-7"),
            (7, 0, "6-7", "6-7"),
        ] {
            let file = |file: &str, body: &str| {
                machine.write(&format!("sys/devices/system/cpu/cpu{cpu}/{file}"), body);
            };
            file("topology/core_id", &format!("{core}\n"));
            file("topology/core_cpus_list", &format!("{core_list}\n"));
            file("topology/package_cpus_list", &format!("{socket_list}\n"));
            for (index, level, size, shared) in
                [(0, 1, "32K", core_list), (1, 3, "8M", socket_list)]
            {
                let file =
                    |name: &str, body: &str| file(&format!("cache/index{index}/{name}"), body);
                file("level", &format!("{level}\n"));
                file("type", "Unified\n");
                file("size", &format!("{size}\n"));
                file("shared_cpu_list", &format!("{shared}\n"));
            }
        }
        machine
    }

    #[test]
    fn same_core_id_on_two_sockets_is_two_cores() {
        let out = collect(&two_sockets("machine-sockets"), false);
        assert_eq!(series_of(&out, "machine_cpu_cores"), [" 6"]);
        assert_eq!(series_of(&out, "machine_cpu_physical_cores"), [" 3"]);
        assert_eq!(series_of(&out, "machine_cpu_sockets"), [" 2"]);
        assert_eq!(series_of(&out, "machine_memory_bytes"), [" 3072"]);
        assert_eq!(series_of(&out, "machine_swap_bytes"), [" 2048"]);
        assert_eq!(series_of(&out, "machine_scrape_error"), [" 0"]);
        for absent in [
            "machine_cpu_books",
            "machine_cpu_drawers",
            "machine_dimm_count",
        ] {
            assert!(series_of(&out, absent).is_empty(), "{absent}");
        }
    }

    #[test]
    fn mainframes_have_books_and_drawers() {
        let machine = two_sockets("machine-books");
        for cpu in [0, 1, 2, 3, 6, 7] {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            let book = if cpu < 6 { "0-3\n" } else { "6-7\n" };
            machine.write(&format!("{topology}/book_siblings_list"), book);
            machine.write(&format!("{topology}/drawer_siblings_list"), "0-3,6-7\n");
        }
        let out = collect(&machine, false);
        assert_eq!(series_of(&out, "machine_cpu_books"), [" 2"]);
        assert_eq!(series_of(&out, "machine_cpu_drawers"), [" 1"]);
    }

    #[test]
    fn attribute_missing_on_one_cpu_is_dropped_for_all() {
        let machine = two_sockets("machine-unsaid");
        machine.write("sys/devices/system/cpu/online", "0-3,6-8\n");
        let out = collect(&machine, false);
        assert_eq!(series_of(&out, "machine_cpu_cores"), [" 7"]);
        assert!(series_of(&out, "machine_cpu_physical_cores").is_empty());
    }

    #[test]
    fn unreadable_machine_sets_scrape_error() {
        let machine = two_sockets("machine-error");
        machine.write("proc/meminfo", "MemTotal: x kB\n");
        let out = collect(&machine, false);
        assert_eq!(series_of(&out, "machine_scrape_error"), [" 1"]);
        assert_eq!(series_of(&out, "machine_cpu_cores"), [" 6"]);
        let (skipped, reason) = out.errors();
        let reason = reason.map(ToString::to_string).unwrap_or_default();
        assert_eq!(skipped, 1);
        assert!(
            reason.ends_with(r#"meminfo:1: MemTotal: is not a number: "x""#),
            "{reason}"
        );
        let out = collect(&testing::MachineFixture::new("machine-nothing"), false);
        assert_eq!(series_of(&out, "machine_scrape_error"), [" 1"]);
    }

    #[test]
    fn identity_labels_use_available_ids() {
        let machine = two_sockets("machine-identity");
        machine.write("root/etc/machine-id", "\n");
        machine.write("root/var/lib/dbus/machine-id", "m\n");
        machine.write("proc/sys/kernel/random/boot_id", "b\n");
        let out = collect(&machine, false);
        let labels = r#"{machine_id="m",boot_id="b"} 6"#;
        assert_eq!(series_of(&out, "machine_cpu_cores"), [labels]);
        machine.write("root/etc/machine-id", "e\n");
        machine.write("sys/class/dmi/id/product_uuid", "u\n");
        let out = collect(&machine, false);
        let labels = r#"{machine_id="e",system_uuid="u",boot_id="b"} 6"#;
        assert_eq!(series_of(&out, "machine_cpu_cores"), [labels]);
    }

    #[test]
    fn memory_modules_are_counted_by_type() {
        let machine = two_sockets("machine-dimms");
        for (module, kind, size) in [
            ("mc0/dimm0", "DDR4", 1024),
            ("mc0/dimm3", "DDR5", 3),
            ("mc1/dimm0", "DDR4", 2048),
        ] {
            let module = format!("sys/devices/system/edac/mc/{module}");
            machine.write(&format!("{module}/dimm_mem_type"), &format!("{kind}\n"));
            machine.write(&format!("{module}/size"), &format!("{size}\n"));
        }
        machine.write("sys/devices/system/edac/mc/power/dimm0/size", "7\n");
        let out = collect(&machine, false);
        let counts = [r#"{type="DDR4"} 2"#, r#"{type="DDR5"} 1"#];
        assert_eq!(series_of(&out, "machine_dimm_count"), counts);
        let bytes = [r#"{type="DDR4"} 3221225472"#, r#"{type="DDR5"} 3145728"#];
        assert_eq!(series_of(&out, "machine_dimm_capacity_bytes"), bytes);
    }

    #[test]
    fn node_wide_cache_has_no_core_id() {
        let machine = two_sockets("machine-topology");
        for (node, cpus, distance) in [(0, "0-3", "10 21"), (2, "6-7", "22 10")] {
            let file = |file: &str, body: String| {
                machine.write(&format!("sys/devices/system/node/node{node}/{file}"), &body);
            };
            file("cpulist", format!("{cpus}\n"));
            file("distance", format!("{distance}\n"));
            file(
                "meminfo",
                format!("Node {node} MemTotal: {} kB\n", node + 1),
            );
            file(
                "hugepages/hugepages-2048kB/nr_hugepages",
                format!("{}\n", node + 5),
            );
        }
        let out = collect(&machine, true);
        assert_eq!(
            series_of(&out, "machine_cpu_cache_capacity_bytes"),
            [
                r#"{node_id="0",core_id="0",type="Unified",level="1"} 32768"#,
                r#"{node_id="0",core_id="",type="Unified",level="3"} 8388608"#,
                r#"{node_id="0",core_id="1",type="Unified",level="1"} 32768"#,
                r#"{node_id="2",core_id="0",type="Unified",level="1"} 32768"#,
                // If a core is a whole node, all caches belong to the core.
                r#"{node_id="2",core_id="0",type="Unified",level="3"} 8388608"#,
            ]
        );
        let threads = series_of(&out, "machine_thread_siblings_count");
        assert_eq!(threads.len(), 6);
        assert_eq!(threads[5], r#"{node_id="2",core_id="0",thread_id="7"} 2"#);
        assert_eq!(
            series_of(&out, "machine_node_distance")[1..3],
            [
                r#"{node_id="0",target_node_id="2"} 21"#,
                r#"{node_id="2",target_node_id="0"} 22"#,
            ]
        );
        let memory = [r#"{node_id="0"} 1024"#, r#"{node_id="2"} 3072"#];
        assert_eq!(
            series_of(&out, "machine_node_memory_capacity_bytes"),
            memory
        );
        let pages = series_of(&out, "machine_node_hugepages_count");
        assert_eq!(pages[1], r#"{node_id="2",page_size="2048"} 7"#);
    }

    #[test]
    fn parses_cpu_lists_of_numbers_and_ranges() {
        assert_eq!(parse_cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        for malformed in ["", "x", "1-", "3-1,2", "0-4294967295", "4,2"] {
            assert_eq!(parse_cpu_list(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn cpus_are_reread_when_online_list_changes() {
        let machine = two_sockets("machine-cached");
        let collector = MachineCollector {
            topology: false,
            cache: Mutex::default(),
        };
        let sockets = || {
            series_of(
                &collector.collect(&machine.snapshot()).unwrap(),
                "machine_cpu_sockets",
            )
        };
        assert_eq!(sockets(), [" 2"]);
        machine.write(
            "sys/devices/system/cpu/cpu6/topology/package_cpus_list",
            "7\n",
        );
        assert_eq!(sockets(), [" 2"]);
        machine.write("sys/devices/system/cpu/online", "0-3\n");
        assert_eq!(sockets(), [" 1"]);
    }
}
