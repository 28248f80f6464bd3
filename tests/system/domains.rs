//! Domains of a real libvirt, tested through the command line: metrics are compared with libvirt,
//! the kernel and the guest systems themselves.
//!
//! These tests need root, libvirt, QEMU and the machine of `tests/machine`, whose kernel the guests
//! boot, and start everything else themselves.

#![allow(
    clippy::float_cmp,
    reason = "values are copied from libvirt, not computed"
)]

use std::{collections::BTreeMap, fs, path::Path, time::SystemTime};

use crate::support::{
    cgroups::{CgroupReader, assert_between},
    libvirt_daemon::{BRIDGE, DomainKernel, LibvirtDaemon},
    prometheus_tools::{
        TOLERATED_LINTS, assert_promtool_lint, assert_strict_parse, has_strict_parser,
    },
    server_process::{ServerProcess, TempDir, wait_until},
    skip,
    text_format::Scrape,
};
use rustix::process::{Signal, kill_process};

const MIB: f64 = 1024.0 * 1024.0;

/// Init script of a guest: it writes and reads as much as [`DISKS`] says on each disk, gets a reply
/// to every ping on the first interface and to none on the second, then stays busy.
const WORK: &str = "
ip addr add 10.77.0.2/24 dev eth0
ip addr add 10.78.0.2/24 dev eth1
ip link set eth0 up
ip link set eth1 up
work() {
    dd if=/dev/zero of=/dev/$1 bs=4k count=$2 conv=fsync
    dd if=/dev/$1 of=/dev/null bs=64k skip=64 count=$3
}
work vda 64 8
work vdb 128 16
work vdc 32 24
ping -c 5 -s 1000 10.77.0.1
ping -c 1 -W 1 10.78.0.1
echo WORK DONE
while :; do
    dd if=/dev/zero of=/dev/null bs=64k count=100
    ping -c 1 -s 1000 10.77.0.1
    sleep 1
done
";

/// The guest's last output before that.
const DONE: &str = "WORK DONE";

/// A disk, its format, its size in MB, the bytes written to it, and the minimum of bytes read.
const DISKS: [(&str, &str, u32, f64, f64); 3] = [
    ("vda", "qcow2", 32, 64.0 * 4096.0, 8.0 * 65_536.0),
    ("vdb", "raw", 48, 128.0 * 4096.0, 16.0 * 65_536.0),
    ("vdc", "qcow2", 64, 32.0 * 4096.0, 24.0 * 65_536.0),
];

/// Minimum size of five replies to pings.
const PINGED: f64 = 5.0 * (14.0 + 20.0 + 8.0 + 1000.0);

/// A daemon and three domains: running, paused and shut off.
struct World {
    daemon: LibvirtDaemon,
    /// Kernel and initrd.
    _boot: TempDir,
    busy: String,
    paused: String,
    off: String,
}

impl World {
    /// Starts all of them. Skips the test and returns `None` where that is impossible.
    fn new(name: &str) -> Option<Self> {
        let boot = TempDir::new(&format!("{name}-boot"));
        let kernel = match DomainKernel::new(&boot.0, WORK) {
            Ok(kernel) => kernel,
            Err(what) => return say(what),
        };
        let daemon = match LibvirtDaemon::start(name) {
            Ok(daemon) => daemon,
            Err(what) => return say(what),
        };
        // The parent cgroup is shared with other daemons, so names are unique.
        let own = |it: &str| format!("{it}-{}-{name}", std::process::id());
        let world = Self {
            busy: own("busy"),
            paused: own("paused"),
            off: own("off"),
            daemon,
            _boot: boot,
        };
        for (number, guest) in (0..).zip([&world.busy, &world.paused, &world.off]) {
            world.define(guest, number, &kernel);
        }
        world.virsh(&["start", &world.busy]);
        world.virsh(&["start", "--paused", &world.paused]);
        Some(world)
    }

    fn define(&self, guest: &str, number: u32, kernel: &DomainKernel) {
        let mut devices = String::new();
        for (disk, format, megabytes, ..) in DISKS {
            let image =
                self.daemon
                    .create_disk_image(&format!("{guest}-{disk}"), format, megabytes);
            devices += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
                 <source file='{image}'/><target dev='{disk}' bus='virtio'/></disk>"
            );
        }
        let [image, initrd] = [&kernel.image, &kernel.initrd].map(|path| path.display());
        let console = self.console(guest);
        let xml = format!(
            "<domain type='qemu'><name>{guest}</name><title>guest {number}</title>\
             <memory unit='MiB'>96</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type>\
             <kernel>{image}</kernel><initrd>{initrd}</initrd>\
             <cmdline>console=ttyS0 quiet panic=-1</cmdline></os>\
             <features><acpi/></features><devices>{devices}\
             <interface type='bridge'><source bridge='{BRIDGE}'/>\
             <target dev='bridged{number}'/><model type='virtio'/></interface>\
             <interface type='ethernet'><target dev='alone{number}'/>\
             <model type='virtio'/></interface>\
             <serial type='file'><source path='{console}'/></serial>\
             <memballoon model='virtio'><stats period='1'/></memballoon>\
             </devices></domain>"
        );
        self.daemon.define_domain(guest, &xml);
    }

    fn console(&self, guest: &str) -> String {
        let file = self.daemon.dir.0.join(format!("{guest}.console"));
        file.display().to_string()
    }

    fn virsh(&self, line: &[&str]) -> String {
        let said = self.daemon.virsh(line);
        said.unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits until the busy guest has done its work and reported its memory.
    fn worked(&self) {
        wait_until("what a guest does", || {
            let said = fs::read(self.console(&self.busy)).unwrap_or_default();
            String::from_utf8_lossy(&said).contains(DONE).then_some(())
        });
        wait_until("what a guest reports", || {
            self.stats(&self.busy).get("balloon.usable").copied()
        });
    }

    /// Numbers from `virsh domstats` for a domain, with devices by name.
    fn stats(&self, guest: &str) -> BTreeMap<String, f64> {
        let said = self.virsh(&["domstats", "--raw", guest]);
        let pairs = said
            .lines()
            .filter_map(|line| line.trim_start().split_once('='));
        let pairs: BTreeMap<_, _> = pairs.collect();
        let mut stats = BTreeMap::new();
        for (key, value) in &pairs {
            let Ok(value) = value.parse() else {
                continue;
            };
            let mut words = key.splitn(3, '.');
            let device = (words.next().unwrap(), words.next().unwrap());
            let name = pairs.get(format!("{}.{}.name", device.0, device.1).as_str());
            let key = match (name, words.next()) {
                (Some(name), Some(field)) => format!("{}.{name}.{field}", device.0),
                _ => (*key).to_owned(),
            };
            stats.insert(key, value);
        }
        stats
    }

    /// A line of `virsh dominfo`.
    fn info(&self, guest: &str, key: &str) -> Option<String> {
        let said = self.virsh(&["dominfo", guest]);
        let mut lines = said.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == key)?;
        Some(value.trim().to_owned())
    }

    fn exporter(&self, flags: &[&str]) -> ServerProcess {
        let socket = self.daemon.socket("libvirt-sock-ro");
        let mut line = vec![format!("--libvirt.uri={}", socket.display())];
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        ServerProcess::start_exporter(&line, &self.daemon.dir.0)
    }

    fn signal(&self, guest: &str, signal: Signal) {
        kill_process(self.daemon.domain_pid(guest).unwrap(), signal).unwrap();
    }
}

fn say<T>(what: &str) -> Option<T> {
    skip(what);
    None
}

fn scrape(exporter: &ServerProcess) -> Scrape {
    Scrape::parse(&exporter.metrics_text())
}

/// A family's value for the domain of this name.
fn of(scrape: &Scrape, family: &str, domain: &str) -> Option<f64> {
    scrape.value(family, &[("domain", domain)])
}

/// Waits for a scrape that meets the condition.
fn scraped_when(what: &str, exporter: &ServerProcess, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    wait_until(what, || Some(scrape(exporter)).filter(|page| is_so(page)))
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Interface metrics, their names in libvirt, and their columns in the host's `/proc/net/dev`. The
/// host receives what the guest sends.
const OF_INTERFACES: [(&str, &str, usize); 8] = [
    ("receive_bytes", "rx.bytes", 8),
    ("receive_packets", "rx.pkts", 9),
    ("receive_errors", "rx.errs", 10),
    ("receive_drops", "rx.drop", 11),
    ("transmit_bytes", "tx.bytes", 0),
    ("transmit_packets", "tx.pkts", 1),
    ("transmit_errors", "tx.errs", 2),
    ("transmit_drops", "tx.drop", 3),
];

/// Disk metrics, their names in libvirt, and the factor between the units.
const OF_DISKS: [(&str, &str, f64); 11] = [
    ("read_bytes_total", "rd.bytes", 1.0),
    ("read_requests_total", "rd.reqs", 1.0),
    ("read_time_seconds_total", "rd.times", 1e9),
    ("write_bytes_total", "wr.bytes", 1.0),
    ("write_requests_total", "wr.reqs", 1.0),
    ("write_time_seconds_total", "wr.times", 1e9),
    ("flush_requests_total", "fl.reqs", 1.0),
    ("flush_time_seconds_total", "fl.times", 1e9),
    ("capacity_bytes", "capacity", 1.0),
    ("allocation_bytes", "allocation", 1.0),
    ("physicalsize_bytes", "physical", 1.0),
];

/// Memory metrics; libvirt reports KiB.
const OF_MEMORY: [(&str, &str, f64); 13] = [
    ("info_maximum_memory_bytes", "maximum", 1024.0),
    ("info_memory_usage_bytes", "current", 1024.0),
    ("memory_stats_maximum_bytes", "maximum", 1024.0),
    ("memory_stats_current_balloon_bytes", "current", 1024.0),
    ("memory_stats_actual_balloon_bytes", "current", 1024.0),
    ("memory_stats_available_bytes", "available", 1024.0),
    ("memory_stats_usable_bytes", "usable", 1024.0),
    ("memory_stats_unused_bytes", "unused", 1024.0),
    ("memory_stats_disk_caches_bytes", "disk_caches", 1024.0),
    ("memory_stats_swap_in_bytes", "swap_in", 1024.0),
    ("memory_stats_major_fault_total", "major_fault", 1.0),
    ("memory_stats_minor_fault_total", "minor_fault", 1.0),
    (
        "memory_stats_last_update_timestamp_seconds",
        "last-update",
        1.0,
    ),
];

/// CPU time metrics.
const OF_CPU: [(&str, &str); 3] = [
    ("libvirt_domain_info_cpu_time_seconds_total", "cpu.time"),
    ("libvirt_domain_cpu_user_seconds_total", "cpu.user"),
    ("libvirt_domain_cpu_system_seconds_total", "cpu.system"),
];

#[test]
fn metrics_match_libvirt_and_guests() {
    let began = now();
    let Some(world) = World::new("said") else {
        return;
    };
    let exporter = world.exporter(&[]);
    world.worked();
    // The balloon driver reports every second: no report may fall between the readings.
    let (before, page, after) = wait_until("no report in between", || {
        let before = world.stats(&world.busy);
        let devices = world.daemon.network_devices();
        let page = scrape(&exporter);
        let after = world.stats(&world.busy);
        let reported = |of: &BTreeMap<String, f64>| of["balloon.last-update"];
        let is_one = reported(&before) == reported(&after);
        is_one.then(|| {
            (
                (before, devices),
                page,
                (after, world.daemon.network_devices()),
            )
        })
    });

    assert_interfaces(&page, &world.busy, &before, &after);
    assert_disks(&page, &world.busy, &before.0, &after.0);
    assert_memory(&page, &world, &before.0, &after.0);
    assert_cpu(&page, &world.busy, &before.0, &after.0);
    assert_states(&page, &world, began);
    assert_group(&exporter, &world);

    assert_kumina(&world, &page);
    assert_readable(&exporter);
    let log = exporter.log();
    assert!(!log.contains("level=error"), "{log}");
}

type Stats = BTreeMap<String, f64>;

type Devices = BTreeMap<String, Vec<f64>>;

fn assert_interfaces(
    page: &Scrape,
    guest: &str,
    before: &(Stats, Devices),
    after: &(Stats, Devices),
) {
    for interface in ["bridged0", "alone0"] {
        let labels = [("domain", guest), ("target_device", interface)];
        for (field, key, column) in OF_INTERFACES {
            let family = format!("libvirt_domain_interface_stats_{field}_total");
            let said = page.value(&family, &labels);
            let key = format!("net.{interface}.{key}");
            let what = format!("{field} of {interface}");
            assert_between(&what, said, before.0[&key], after.0[&key], 0.0);
            let (one, other) = (&before.1[interface], &after.1[interface]);
            assert_between(&what, said, one[column], other[column], 0.0);
        }
        for family in ["info", "meta"] {
            let family = match family {
                "info" => "libvirt_domain_interface_stats_info",
                _ => "libvirt_domain_interface_meta",
            };
            assert_eq!(page.value(family, &labels), Some(1.0), "{family}");
        }
    }
    let bytes = |interface: &str, way: &str| {
        let family = format!("libvirt_domain_interface_stats_{way}_bytes_total");
        let labels = [("domain", guest), ("target_device", interface)];
        page.value(&family, &labels).unwrap()
    };
    assert!(bytes("bridged0", "receive") >= PINGED);
    assert!(bytes("bridged0", "transmit") >= PINGED);
    // It sent ARP requests, which nothing answered.
    let (received, sent) = (bytes("alone0", "receive"), bytes("alone0", "transmit"));
    assert!(sent > 0.0 && received < PINGED, "{received} {sent}");
    for way in ["receive", "transmit"] {
        let family = format!("libvirt_domain_net_{way}_bytes_total");
        let sum = bytes("bridged0", way) + bytes("alone0", way);
        assert_eq!(of(page, &family, guest), Some(sum), "{family}");
    }
}

fn assert_disks(page: &Scrape, guest: &str, before: &Stats, after: &Stats) {
    let mut written_in_all = 0.0;
    for (disk, _, megabytes, written, read) in DISKS {
        let labels = [("domain", guest), ("target_device", disk)];
        let said = |field: &str| {
            let family = format!("libvirt_domain_block_stats_{field}");
            page.value(&family, &labels)
        };
        for (field, key, unit) in OF_DISKS {
            let key = format!("block.{disk}.{key}");
            let what = format!("{field} of {disk}");
            let (one, other) = (before[&key] / unit, after[&key] / unit);
            assert_between(&what, said(field), one, other, 1e-6);
        }
        assert_eq!(said("write_bytes_total"), Some(written), "{disk}");
        assert!(said("read_bytes_total") >= Some(read), "{disk}");
        assert!(said("flush_requests_total") >= Some(1.0), "{disk}");
        let capacity = f64::from(megabytes) * MIB;
        assert_eq!(said("capacity_bytes"), Some(capacity), "{disk}");
        assert_eq!(said("info"), Some(1.0), "{disk}");
        let errors = page.value("libvirt_domain_block_io_errors_total", &labels);
        assert_eq!(errors, Some(0.0), "{disk}");
        written_in_all += written;
    }
    let said = of(page, "libvirt_domain_disk_write_bytes_total", guest);
    assert_eq!(said, Some(written_in_all));
}

fn assert_memory(page: &Scrape, world: &World, before: &Stats, after: &Stats) {
    let guest = world.busy.as_str();
    for (field, key, unit) in OF_MEMORY {
        let family = format!("libvirt_domain_{field}");
        let key = format!("balloon.{key}");
        let (one, other) = (before[&key] * unit, after[&key] * unit);
        assert_between(&family, of(page, &family, guest), one, other, 0.0);
    }
    // Resident pages change all the time.
    let rss = "libvirt_domain_memory_stats_rss_bytes";
    let [one, other] = [before, after].map(|stats| stats["balloon.rss"] * 1024.0);
    assert_between(rss, of(page, rss, guest), one, other, 16.0 * MIB);
    let memory = |family: &str| {
        of(
            page,
            &format!("libvirt_domain_memory_stats_{family}"),
            guest,
        )
    };
    let [available, usable] = ["available_bytes", "usable_bytes"].map(|it| memory(it).unwrap());
    assert!(0.0 < usable && usable < available && available < 96.0 * MIB);
    let used = (available - usable) / available * 100.0;
    assert_between("used", memory("used_percent"), used, used, 1e-6);
    assert_eq!(memory("period_seconds"), Some(1.0));
    for (family, key) in [
        ("libvirt_domain_info_maximum_memory_bytes", "Max memory"),
        ("libvirt_domain_info_memory_usage_bytes", "Used memory"),
    ] {
        let said = of(page, family, guest).unwrap() / 1024.0;
        assert_eq!(world.info(guest, key), Some(format!("{said} KiB")));
    }
}

fn assert_cpu(page: &Scrape, guest: &str, before: &Stats, after: &Stats) {
    for (family, key) in OF_CPU {
        let (one, other) = (before[key] / 1e9, after[key] / 1e9);
        let said = of(page, family, guest);
        assert!(said > Some(0.0), "{family}");
        assert_between(family, said, one, other, 1e-6);
    }
    for (family, key, rounded) in [
        // libvirt adds user and system time in ticks.
        (
            "libvirt_domain_vcpu_time_seconds_total",
            "vcpu.0.time",
            0.02,
        ),
        (
            "libvirt_domain_vcpu_delay_seconds_total",
            "vcpu.0.delay",
            1e-6,
        ),
    ] {
        let (one, other) = (before[key] / 1e9, after[key] / 1e9);
        let said = page.value(family, &[("domain", guest), ("vcpu", "0")]);
        assert_between(family, said, one, other, rounded);
    }
    let cpus = of(page, "libvirt_domain_info_virtual_cpus", guest);
    assert_eq!(cpus, Some(before["vcpu.current"]));
    let max = of(page, "libvirt_domain_vcpu_maximum", guest);
    assert_eq!(max, Some(before["vcpu.maximum"]));
}

fn assert_states(page: &Scrape, world: &World, began: f64) {
    assert_eq!(page.value("libvirt_up", &[]), Some(1.0));
    assert_eq!(page.value("libvirt_domains", &[]), Some(3.0));
    for (number, (guest, state, code, words)) in (0..).zip([
        (&world.busy, "running", 1.0, "running"),
        (&world.paused, "paused", 3.0, "paused"),
        (&world.off, "shutoff", 5.0, "shut off"),
    ]) {
        assert_eq!(world.info(guest, "State").as_deref(), Some(words));
        let is_it = |(labels, value): (&crate::support::text_format::Labels, f64)| {
            (labels["domain"] == *guest && value == 1.0).then(|| labels["state"].clone())
        };
        let states: Vec<_> = page
            .series_named("libvirt_domain_state")
            .filter_map(is_it)
            .collect();
        assert_eq!(states, [state], "{guest}");
        let said = of(page, "libvirt_domain_info_vstate", guest);
        assert_eq!(said, Some(code), "{guest}");
        let reason = of(page, "libvirt_domain_info_state_reason", guest);
        assert_eq!(reason, Some(world.stats(guest)["state.reason"]), "{guest}");
        let title = format!("guest {number}");
        let uuid = world.info(guest, "UUID").unwrap();
        let id = world.info(guest, "Id").unwrap();
        let about = [
            ("domain", guest.as_str()),
            ("title", &title),
            ("uuid", &uuid),
            ("id", if id == "-" { "" } else { &id }),
        ];
        let about = page.value("libvirt_domain_info", &about);
        assert_eq!(about, Some(1.0), "{guest}");

        let is_on = state != "shutoff";
        for family in [
            "libvirt_domain_info_cpu_time_seconds_total",
            "libvirt_domain_info_memory_usage_bytes",
            "libvirt_domain_uptime_seconds",
            "libvirt_domain_start_time_seconds",
        ] {
            assert_eq!(of(page, family, guest).is_some(), is_on, "{family} {guest}");
        }
        if is_on {
            // By the kernel's coarse file clock, which lags by up to a tick.
            let started = of(page, "libvirt_domain_start_time_seconds", guest).unwrap();
            assert!((began - 0.1..now()).contains(&started), "{guest}");
            let uptime = of(page, "libvirt_domain_uptime_seconds", guest).unwrap();
            assert!((0.0..now() - began + 0.1).contains(&uptime), "{guest}");
        }
        for family in [
            "libvirt_domain_stuck",
            "libvirt_domain_stats_partial",
            "libvirt_domain_timed_out",
        ] {
            assert_eq!(of(page, family, guest), Some(0.0), "{family}");
        }
        let maximum = of(page, "libvirt_domain_info_maximum_memory_bytes", guest);
        assert_eq!(maximum, Some(96.0 * MIB), "{guest}");
        let disk = [("domain", guest.as_str()), ("target_device", "vdb")];
        let capacity = page.value("libvirt_domain_block_stats_capacity_bytes", &disk);
        let info = world.virsh(&["domblkinfo", guest, "vdb"]);
        let line = info.lines().find(|line| line.starts_with("Capacity"));
        let number = line.and_then(|line| line.split_whitespace().last());
        assert_eq!(capacity, number.map(|it| it.parse().unwrap()), "{guest}");
    }
    for (state, count) in [
        ("running", 1.0),
        ("paused", 1.0),
        ("stopped", 1.0),
        ("other", 0.0),
    ] {
        let said = page.value("census_domains", &[("state", state)]);
        assert_eq!(said, Some(count), "{state}");
    }
}

/// The cgroup that libvirt created for the domain is exposed with the domain's name.
fn assert_group(exporter: &ServerProcess, world: &World) {
    let pid = world.daemon.domain_pid(&world.busy).unwrap();
    let group = CgroupReader::for_pid(pid.as_raw_nonzero().get().unsigned_abs());
    // It may contain nested cgroups.
    let is_its = |name: &str| name.contains("qemu") && !name.contains('/');
    let group = match group {
        CgroupReader::V1(root, path) => CgroupReader::V1(root, up_to(Path::new(&path), is_its)),
        CgroupReader::V2(path) => CgroupReader::V2(up_to(&path, is_its).into()),
    };
    let family = "container_memory_usage_bytes";
    let before = group.memory();
    let page = scrape(exporter);
    let after = group.memory();
    let labels = [("domain", world.busy.as_str()), ("id", &group.id())];
    assert_between(
        family,
        page.value(family, &labels),
        before,
        after,
        4.0 * MIB,
    );
    // CPU time also agrees with libvirt, in the same scrape and in the next.
    for page in [page, scrape(exporter)] {
        let family = "container_cpu_usage_seconds_total";
        let usage = page.value(family, &[("domain", &world.busy), ("id", &group.id())]);
        let time = of(
            &page,
            "libvirt_domain_info_cpu_time_seconds_total",
            &world.busy,
        );
        assert_between(family, usage, time.unwrap(), time.unwrap(), 0.5);
    }
}

/// The path up to the first component that matches.
fn up_to(path: &Path, is_its: impl Fn(&str) -> bool) -> String {
    let all = path.ancestors().filter(|it| {
        let name = it.file_name().and_then(|name| name.to_str());
        name.is_some_and(&is_its)
    });
    let its = all.last().unwrap_or(path);
    its.display().to_string()
}

fn assert_kumina(world: &World, usual: &Scrape) {
    let exporter = world.exporter(&["--collector.libvirt.compat=kumina"]);
    let page = scrape(&exporter);
    assert_eq!(page.value("libvirt_domains_number", &[]), Some(2.0));
    let guest = world.busy.as_str();
    let uuid = world.info(guest, "UUID").unwrap();
    let its = [("domain", guest), ("uuid", &uuid)];
    let only = |family: &str, labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let labels: crate::support::text_format::Labels = labels.collect();
        let value = page.series.get(family).and_then(|of| of.get(&labels));
        value
            .copied()
            .unwrap_or_else(|| panic!("{family}{labels:?}"))
    };
    assert_eq!(only("libvirt_domain_state_code", &its), 1.0);
    assert_eq!(of(&page, "libvirt_domain_state_code", &world.off), None);
    let family = "libvirt_domain_info_cpu_time_seconds_total";
    assert!(Some(only(family, &its)) >= of(usual, family, guest));
    let [domain, uuid] = its;
    let image = world.daemon.dir.0.join(format!("{guest}-vdb.raw"));
    let image = image.display().to_string();
    let disk = [
        domain,
        uuid,
        ("source_file", &image),
        ("target_device", "vdb"),
    ];
    let (_, _, _, written, _) = DISKS[1];
    let family = "libvirt_domain_block_stats_write_bytes_total";
    assert_eq!(only(family, &disk), written);
    let interface = [
        domain,
        uuid,
        ("source_bridge", BRIDGE),
        ("target_device", "bridged0"),
    ];
    let family = "libvirt_domain_interface_stats_receive_bytes_total";
    assert!(only(family, &interface) >= PINGED);
    assert_eq!(page.series_named("libvirt_domain_info_vstate").next(), None);
}

fn assert_readable(exporter: &ServerProcess) {
    if crate::support::is_installed("promtool") {
        assert_promtool_lint(
            &exporter.metrics_text(),
            TOLERATED_LINTS,
            "a page with guests",
        );
    } else {
        skip("promtool");
    }
    if has_strict_parser() {
        assert_strict_parse(&exporter.openmetrics_text(), "a page with guests");
    } else {
        skip("python3-prometheus-client");
    }
}

#[test]
fn domain_and_daemon_changes_are_exposed() {
    let Some(mut world) = World::new("becomes") else {
        return;
    };
    let exporter = world.exporter(&[]);
    world.worked();
    disks_come_and_go(&exporter, &world);
    descriptions_change(&exporter, &world);
    starts_and_stops(&exporter, &world);
    a_stuck_guest_costs_only_itself(&exporter, &world);
    a_daemon_hangs(&exporter, &world);
    a_daemon_is_restarted(&exporter, &mut world);
}

fn disks_come_and_go(exporter: &ServerProcess, world: &World) {
    const TOTALS: [&str; 4] = [
        "libvirt_domain_disk_read_bytes_total",
        "libvirt_domain_disk_read_requests_total",
        "libvirt_domain_disk_write_bytes_total",
        "libvirt_domain_disk_write_requests_total",
    ];
    let guest = world.busy.as_str();
    let disk = [("domain", guest), ("target_device", "vdd")];
    let family = "libvirt_domain_block_stats_read_bytes_total";
    let info = "libvirt_domain_block_stats_info";
    let mut last = [0.0; 4];
    let mut scraped = || {
        let page = scrape(exporter);
        let now = TOTALS.map(|it| of(&page, it, guest).unwrap());
        for ((total, now), last) in TOTALS.iter().zip(now).zip(last) {
            assert!(last <= now, "{total} was {last} and is {now}");
        }
        last = now;
        page
    };
    let page = scraped();
    assert_eq!(page.value(family, &disk), None);
    let image = world.daemon.create_disk_image("hot", "raw", 16);
    world.virsh(&["attach-disk", guest, &image, "vdd", "--live"]);
    // The guest reads the partition table.
    let read = wait_until("a disk that is read", || {
        let page = scraped();
        let read = page.value(family, &disk).filter(|read| *read > 0.0)?;
        page.value(info, &disk).map(|_| read)
    });
    let others = |page: &Scrape| {
        let of_disks = DISKS.map(|(disk, ..)| {
            let labels = [("domain", guest), ("target_device", disk)];
            page.value(family, &labels).unwrap()
        });
        of_disks.iter().sum::<f64>()
    };
    // virsh may time out if the guest is slow, which does not matter.
    let _done = world.daemon.virsh(&["detach-disk", guest, "vdd", "--live"]);
    let page = wait_until("no such disk", || {
        let page = scraped();
        let is_gone = [family, info]
            .iter()
            .all(|it| page.value(it, &disk).is_none());
        is_gone.then_some(page)
    });
    // Totals keep what the removed disk had counted.
    let [read_in_all, ..] = TOTALS.map(|it| of(&page, it, guest).unwrap());
    assert!(read_in_all >= others(&page) + read);
}

/// The change must arrive by its event: the periodic refresh is after five minutes, longer than the
/// test waits.
fn descriptions_change(exporter: &ServerProcess, world: &World) {
    let guest = world.busy.as_str();
    world.virsh(&["desc", guest, "--live", "--title", "another title"]);
    scraped_when("another title", exporter, |page| {
        let labels = [("domain", guest), ("title", "another title")];
        page.value("libvirt_domain_info", &labels).is_some()
    });
    let nova = "<instance><name>web</name><flavor name='small'/>\
                <owner><project uuid='p-1'>shop</project></owner></instance>";
    let uri = "http://openstack.org/xmlns/libvirt/nova/1.1";
    let set = [
        "metadata", guest, uri, "--live", "--key", "nova", "--set", nova,
    ];
    world.virsh(&set);
    scraped_when("what OpenStack says", exporter, |page| {
        let labels = [
            ("domain", guest),
            ("instance_name", "web"),
            ("flavor_name", "small"),
            ("project_name", "shop"),
        ];
        page.value("libvirt_domain_openstack_info", &labels) == Some(1.0)
    });
    let most = ["--total-bytes-sec", "50000000"];
    world.virsh(&[&["blkdeviotune", guest, "vdb", "--live"][..], &most].concat());
    scraped_when("a limit of a disk", exporter, |page| {
        let labels = [("domain", guest), ("target_device", "vdb")];
        let family = "libvirt_domain_block_stats_limit_total_bytes";
        page.value(family, &labels) == Some(5e7)
    });
}

fn starts_and_stops(exporter: &ServerProcess, world: &World) {
    let guest = world.paused.as_str();
    let (starts, stops) = ("libvirt_domain_starts_total", "libvirt_domain_stops_total");
    let census = |page: &Scrape, state| page.value("census_domains", &[("state", state)]);
    let first = scrape(exporter);
    let [started, stopped] = [starts, stops].map(|it| of(&first, it, guest).unwrap());
    world.virsh(&["destroy", guest]);
    let page = scraped_when("a stop", exporter, |page| {
        of(page, stops, guest) == Some(stopped + 1.0) && census(page, "stopped") == Some(2.0)
    });
    assert_eq!(of(&page, starts, guest), Some(started));
    assert_eq!(census(&page, "paused"), Some(0.0));
    assert_eq!(of(&page, OF_CPU[0].0, guest), None);
    world.virsh(&["start", "--paused", guest]);
    let page = scraped_when("a start", exporter, |page| {
        of(page, starts, guest) == Some(started + 1.0) && census(page, "paused") == Some(1.0)
    });
    assert_eq!(of(&page, stops, guest), Some(stopped + 1.0));
    assert_eq!(census(&page, "stopped"), Some(1.0));
    for family in [starts, stops] {
        let others = [&world.busy, &world.off];
        for other in others {
            let [one, now] = [&first, &page].map(|page| of(page, family, other));
            assert_eq!(one, now, "{family} of {other}");
        }
    }
}

fn a_stuck_guest_costs_only_itself(exporter: &ServerProcess, world: &World) {
    let (guest, other) = (world.busy.as_str(), world.paused.as_str());
    let stuck = "libvirt_domain_stuck";
    world.signal(guest, Signal::STOP);
    let others_are_complete = |page: &Scrape| {
        assert_eq!(page.value("libvirt_up", &[]), Some(1.0));
        assert_eq!(of(page, stuck, other), Some(0.0));
        assert_eq!(of(page, "libvirt_domain_stats_partial", other), Some(0.0));
        assert!(of(page, OF_CPU[0].0, other).is_some());
        for (disk, ..) in DISKS {
            let labels = [("domain", other), ("target_device", disk)];
            let read = page.value("libvirt_domain_block_stats_read_bytes_total", &labels);
            assert_eq!(read, Some(0.0), "{disk}");
        }
        let state = of(page, "libvirt_domain_info_vstate", &world.off);
        assert_eq!(state, Some(5.0));
        assert!(page.value("node_load1", &[]).is_some());
    };
    let page = wait_until("a stuck guest", || {
        let page = scrape(exporter);
        others_are_complete(&page);
        (of(&page, stuck, guest) == Some(1.0)).then_some(page)
    });
    // Metrics that need the process are absent, not invented.
    assert_eq!(
        of(&page, "libvirt_domain_disk_read_bytes_total", guest),
        None
    );
    world.signal(guest, Signal::CONT);
    scraped_when("a guest that answers again", exporter, |page| {
        others_are_complete(page);
        of(page, stuck, guest) == Some(0.0)
            && of(page, "libvirt_domain_stats_partial", guest) == Some(0.0)
            && of(page, "libvirt_domain_disk_read_bytes_total", guest).is_some()
            && page.value("strata_libvirt_stuck_requests", &[]) == Some(0.0)
    });
}

fn a_daemon_hangs(exporter: &ServerProcess, world: &World) {
    world.daemon.signal(Signal::STOP);
    let page = scraped_when("a daemon that hangs", exporter, |page| {
        assert!(page.value("node_load1", &[]).is_some());
        page.value("libvirt_up", &[]) == Some(0.0)
    });
    assert_eq!(page.series_named("libvirt_domain_state").next(), None);
    world.daemon.signal(Signal::CONT);
    is_all_there(exporter, world);
}

fn a_daemon_is_restarted(exporter: &ServerProcess, world: &mut World) {
    let connections = "strata_libvirt_connections_total";
    let before = scrape(exporter).value(connections, &[]);
    world.daemon.stop();
    scraped_when("no daemon", exporter, |page| {
        assert!(page.value("node_load1", &[]).is_some());
        page.value("libvirt_up", &[]) == Some(0.0)
    });
    world.daemon.restart();
    let page = is_all_there(exporter, world);
    assert!(page.value(connections, &[]) > before);
}

/// Waits until all metrics of all domains are exposed.
fn is_all_there(exporter: &ServerProcess, world: &World) -> Scrape {
    scraped_when("all guests", exporter, |page| {
        let running = [&world.busy, &world.paused].iter().all(|guest| {
            let families = [OF_CPU[0].0, "libvirt_domain_disk_read_bytes_total"];
            families.iter().all(|it| of(page, it, guest).is_some())
        });
        page.value("libvirt_up", &[]) == Some(1.0)
            && page.value("libvirt_domains", &[]) == Some(3.0)
            && running
    })
}
