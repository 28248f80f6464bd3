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
struct LibvirtFixture {
    daemon: LibvirtDaemon,
    /// Kernel and initrd.
    _boot: TempDir,
    busy: String,
    paused: String,
    off: String,
}

impl LibvirtFixture {
    /// Starts all of them. Skips the test and returns `None` where that is impossible.
    fn new(name: &str) -> Option<Self> {
        let boot = TempDir::new(&format!("{name}-boot"));
        let kernel = match DomainKernel::new(&boot.0, WORK) {
            Ok(kernel) => kernel,
            Err(what) => return skip_with(what),
        };
        let daemon = match LibvirtDaemon::start(name) {
            Ok(daemon) => daemon,
            Err(what) => return skip_with(what),
        };
        // The parent cgroup is shared with other daemons, so names are unique.
        let own = |it: &str| format!("{it}-{}-{name}", std::process::id());
        let fixture = Self {
            busy: own("busy"),
            paused: own("paused"),
            off: own("off"),
            daemon,
            _boot: boot,
        };
        for (number, domain) in (0..).zip([&fixture.busy, &fixture.paused, &fixture.off]) {
            fixture.define(domain, number, &kernel);
        }
        fixture.virsh(&["start", &fixture.busy]);
        fixture.virsh(&["start", "--paused", &fixture.paused]);
        Some(fixture)
    }

    fn define(&self, domain: &str, number: u32, kernel: &DomainKernel) {
        let mut devices = String::new();
        for (disk, format, megabytes, ..) in DISKS {
            let image =
                self.daemon
                    .create_disk_image(&format!("{domain}-{disk}"), format, megabytes);
            devices += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
                 <source file='{image}'/><target dev='{disk}' bus='virtio'/></disk>"
            );
        }
        let [image, initrd] = [&kernel.image, &kernel.initrd].map(|path| path.display());
        let console = self.console(domain);
        let xml = format!(
            "<domain type='qemu'><name>{domain}</name><title>guest {number}</title>\
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
        self.daemon.define_domain(domain, &xml);
    }

    fn console(&self, domain: &str) -> String {
        let file = self.daemon.dir.0.join(format!("{domain}.console"));
        file.display().to_string()
    }

    fn virsh(&self, line: &[&str]) -> String {
        let output = self.daemon.virsh(line);
        output.unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits until the busy guest has done its work and reported its memory.
    fn wait_for_work(&self) {
        wait_until("the domain's work", || {
            let console = fs::read(self.console(&self.busy)).unwrap_or_default();
            String::from_utf8_lossy(&console)
                .contains(DONE)
                .then_some(())
        });
        wait_until("the domain's memory report", || {
            self.stats(&self.busy).get("balloon.usable").copied()
        });
    }

    /// Numbers from `virsh domstats` for a domain, with devices by name.
    fn stats(&self, domain: &str) -> BTreeMap<String, f64> {
        let output = self.virsh(&["domstats", "--raw", domain]);
        let pairs = output
            .lines()
            .filter_map(|line| line.trim_start().split_once('='));
        let pairs: BTreeMap<_, _> = pairs.collect();
        let mut stats = BTreeMap::new();
        for (key, value) in &pairs {
            let Ok(value) = value.parse() else {
                continue;
            };
            let mut parts = key.splitn(3, '.');
            let device = (parts.next().unwrap(), parts.next().unwrap());
            let name = pairs.get(format!("{}.{}.name", device.0, device.1).as_str());
            let key = match (name, parts.next()) {
                (Some(name), Some(field)) => format!("{}.{name}.{field}", device.0),
                _ => (*key).to_owned(),
            };
            stats.insert(key, value);
        }
        stats
    }

    /// A line of `virsh dominfo`.
    fn info(&self, domain: &str, key: &str) -> Option<String> {
        let output = self.virsh(&["dominfo", domain]);
        let mut lines = output.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == key)?;
        Some(value.trim().to_owned())
    }

    fn exporter(&self, flags: &[&str]) -> ServerProcess {
        let socket = self.daemon.socket("libvirt-sock-ro");
        let mut line = vec![format!("--libvirt.uri={}", socket.display())];
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        ServerProcess::start_exporter(&line, &self.daemon.dir.0)
    }

    fn signal(&self, domain: &str, signal: Signal) {
        kill_process(self.daemon.domain_pid(domain).unwrap(), signal).unwrap();
    }
}

fn skip_with<T>(what: &str) -> Option<T> {
    skip(what);
    None
}

fn scrape(exporter: &ServerProcess) -> Scrape {
    Scrape::parse(&exporter.metrics_text())
}

/// A family's value for the domain of this name.
fn domain_value(scrape: &Scrape, family: &str, domain: &str) -> Option<f64> {
    scrape.value(family, &[("domain", domain)])
}

/// Waits for a scrape that meets the condition.
fn scrape_when(what: &str, exporter: &ServerProcess, is_met: impl Fn(&Scrape) -> bool) -> Scrape {
    wait_until(what, || {
        Some(scrape(exporter)).filter(|metrics| is_met(metrics))
    })
}

/// Seconds since the Unix epoch.
fn now() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Interface metrics, their names in libvirt, and their columns in the host's `/proc/net/dev`. The
/// host receives what the guest sends.
const INTERFACE_METRICS: [(&str, &str, usize); 8] = [
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
const DISK_METRICS: [(&str, &str, f64); 11] = [
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
const MEMORY_METRICS: [(&str, &str, f64); 13] = [
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
const CPU_METRICS: [(&str, &str); 3] = [
    ("libvirt_domain_info_cpu_time_seconds_total", "cpu.time"),
    ("libvirt_domain_cpu_user_seconds_total", "cpu.user"),
    ("libvirt_domain_cpu_system_seconds_total", "cpu.system"),
];

#[test]
fn metrics_match_libvirt_and_guests() {
    let test_start = now();
    let Some(fixture) = LibvirtFixture::new("metrics") else {
        return;
    };
    let exporter = fixture.exporter(&[]);
    fixture.wait_for_work();
    // The balloon driver reports every second: no report may fall between the readings.
    let (before, metrics, after) = wait_until("no report in between", || {
        let before = fixture.stats(&fixture.busy);
        let devices = fixture.daemon.network_devices();
        let metrics = scrape(&exporter);
        let after = fixture.stats(&fixture.busy);
        let reported = |stats: &BTreeMap<String, f64>| stats["balloon.last-update"];
        let is_unchanged = reported(&before) == reported(&after);
        is_unchanged.then(|| {
            (
                (before, devices),
                metrics,
                (after, fixture.daemon.network_devices()),
            )
        })
    });

    assert_interfaces(&metrics, &fixture.busy, &before, &after);
    assert_disks(&metrics, &fixture.busy, &before.0, &after.0);
    assert_memory(&metrics, &fixture, &before.0, &after.0);
    assert_cpu(&metrics, &fixture.busy, &before.0, &after.0);
    assert_states(&metrics, &fixture, test_start);
    assert_group(&exporter, &fixture);

    assert_kumina(&fixture, &metrics);
    assert_readable(&exporter);
    let log = exporter.log();
    assert!(!log.contains("level=error"), "{log}");
}

type Stats = BTreeMap<String, f64>;

type Devices = BTreeMap<String, Vec<f64>>;

fn assert_interfaces(
    metrics: &Scrape,
    domain: &str,
    before: &(Stats, Devices),
    after: &(Stats, Devices),
) {
    for interface in ["bridged0", "alone0"] {
        let labels = [("domain", domain), ("target_device", interface)];
        for (field, key, column) in INTERFACE_METRICS {
            let family = format!("libvirt_domain_interface_stats_{field}_total");
            let exposed = metrics.value(&family, &labels);
            let key = format!("net.{interface}.{key}");
            let what = format!("{field} of {interface}");
            assert_between(&what, exposed, before.0[&key], after.0[&key], 0.0);
            let (one, other) = (&before.1[interface], &after.1[interface]);
            assert_between(&what, exposed, one[column], other[column], 0.0);
        }
        for family in ["info", "meta"] {
            let family = match family {
                "info" => "libvirt_domain_interface_stats_info",
                _ => "libvirt_domain_interface_meta",
            };
            assert_eq!(metrics.value(family, &labels), Some(1.0), "{family}");
        }
    }
    let bytes = |interface: &str, way: &str| {
        let family = format!("libvirt_domain_interface_stats_{way}_bytes_total");
        let labels = [("domain", domain), ("target_device", interface)];
        metrics.value(&family, &labels).unwrap()
    };
    assert!(bytes("bridged0", "receive") >= PINGED);
    assert!(bytes("bridged0", "transmit") >= PINGED);
    // It sent ARP requests, which nothing answered.
    let (received, sent) = (bytes("alone0", "receive"), bytes("alone0", "transmit"));
    assert!(sent > 0.0 && received < PINGED, "{received} {sent}");
    for way in ["receive", "transmit"] {
        let family = format!("libvirt_domain_net_{way}_bytes_total");
        let sum = bytes("bridged0", way) + bytes("alone0", way);
        assert_eq!(
            domain_value(metrics, &family, domain),
            Some(sum),
            "{family}"
        );
    }
}

fn assert_disks(metrics: &Scrape, domain: &str, before: &Stats, after: &Stats) {
    let mut written_in_all = 0.0;
    for (disk, _, megabytes, written, read) in DISKS {
        let labels = [("domain", domain), ("target_device", disk)];
        let exposed = |field: &str| {
            let family = format!("libvirt_domain_block_stats_{field}");
            metrics.value(&family, &labels)
        };
        for (field, key, unit) in DISK_METRICS {
            let key = format!("block.{disk}.{key}");
            let what = format!("{field} of {disk}");
            let (one, other) = (before[&key] / unit, after[&key] / unit);
            assert_between(&what, exposed(field), one, other, 1e-6);
        }
        assert_eq!(exposed("write_bytes_total"), Some(written), "{disk}");
        assert!(exposed("read_bytes_total") >= Some(read), "{disk}");
        assert!(exposed("flush_requests_total") >= Some(1.0), "{disk}");
        let capacity = f64::from(megabytes) * MIB;
        assert_eq!(exposed("capacity_bytes"), Some(capacity), "{disk}");
        assert_eq!(exposed("info"), Some(1.0), "{disk}");
        let errors = metrics.value("libvirt_domain_block_io_errors_total", &labels);
        assert_eq!(errors, Some(0.0), "{disk}");
        written_in_all += written;
    }
    let exposed = domain_value(metrics, "libvirt_domain_disk_write_bytes_total", domain);
    assert_eq!(exposed, Some(written_in_all));
}

fn assert_memory(metrics: &Scrape, fixture: &LibvirtFixture, before: &Stats, after: &Stats) {
    let domain = fixture.busy.as_str();
    for (field, key, unit) in MEMORY_METRICS {
        let family = format!("libvirt_domain_{field}");
        let key = format!("balloon.{key}");
        let (one, other) = (before[&key] * unit, after[&key] * unit);
        assert_between(
            &family,
            domain_value(metrics, &family, domain),
            one,
            other,
            0.0,
        );
    }
    // Resident pages change all the time.
    let rss = "libvirt_domain_memory_stats_rss_bytes";
    let [one, other] = [before, after].map(|stats| stats["balloon.rss"] * 1024.0);
    assert_between(
        rss,
        domain_value(metrics, rss, domain),
        one,
        other,
        16.0 * MIB,
    );
    let memory = |family: &str| {
        domain_value(
            metrics,
            &format!("libvirt_domain_memory_stats_{family}"),
            domain,
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
        let exposed = domain_value(metrics, family, domain).unwrap() / 1024.0;
        assert_eq!(fixture.info(domain, key), Some(format!("{exposed} KiB")));
    }
}

fn assert_cpu(metrics: &Scrape, domain: &str, before: &Stats, after: &Stats) {
    for (family, key) in CPU_METRICS {
        let (one, other) = (before[key] / 1e9, after[key] / 1e9);
        let exposed = domain_value(metrics, family, domain);
        assert!(exposed > Some(0.0), "{family}");
        assert_between(family, exposed, one, other, 1e-6);
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
        let exposed = metrics.value(family, &[("domain", domain), ("vcpu", "0")]);
        assert_between(family, exposed, one, other, rounded);
    }
    let cpus = domain_value(metrics, "libvirt_domain_info_virtual_cpus", domain);
    assert_eq!(cpus, Some(before["vcpu.current"]));
    let max = domain_value(metrics, "libvirt_domain_vcpu_maximum", domain);
    assert_eq!(max, Some(before["vcpu.maximum"]));
}

fn assert_states(metrics: &Scrape, fixture: &LibvirtFixture, test_start: f64) {
    assert_eq!(metrics.value("libvirt_up", &[]), Some(1.0));
    assert_eq!(metrics.value("libvirt_domains", &[]), Some(3.0));
    for (number, (domain, state, code, virsh_state)) in (0..).zip([
        (&fixture.busy, "running", 1.0, "running"),
        (&fixture.paused, "paused", 3.0, "paused"),
        (&fixture.off, "shutoff", 5.0, "shut off"),
    ]) {
        assert_eq!(fixture.info(domain, "State").as_deref(), Some(virsh_state));
        let state_of = |(labels, value): (&crate::support::text_format::Labels, f64)| {
            (labels["domain"] == *domain && value == 1.0).then(|| labels["state"].clone())
        };
        let states: Vec<_> = metrics
            .series_named("libvirt_domain_state")
            .filter_map(state_of)
            .collect();
        assert_eq!(states, [state], "{domain}");
        let exposed = domain_value(metrics, "libvirt_domain_info_vstate", domain);
        assert_eq!(exposed, Some(code), "{domain}");
        let reason = domain_value(metrics, "libvirt_domain_info_state_reason", domain);
        assert_eq!(
            reason,
            Some(fixture.stats(domain)["state.reason"]),
            "{domain}"
        );
        let title = format!("guest {number}");
        let uuid = fixture.info(domain, "UUID").unwrap();
        let id = fixture.info(domain, "Id").unwrap();
        let info_labels = [
            ("domain", domain.as_str()),
            ("title", &title),
            ("uuid", &uuid),
            ("id", if id == "-" { "" } else { &id }),
        ];
        let info = metrics.value("libvirt_domain_info", &info_labels);
        assert_eq!(info, Some(1.0), "{domain}");

        let is_on = state != "shutoff";
        for family in [
            "libvirt_domain_info_cpu_time_seconds_total",
            "libvirt_domain_info_memory_usage_bytes",
            "libvirt_domain_uptime_seconds",
            "libvirt_domain_start_time_seconds",
        ] {
            assert_eq!(
                domain_value(metrics, family, domain).is_some(),
                is_on,
                "{family} {domain}"
            );
        }
        if is_on {
            // By the kernel's coarse file clock, which lags by up to a tick.
            let started =
                domain_value(metrics, "libvirt_domain_start_time_seconds", domain).unwrap();
            assert!((test_start - 0.1..now()).contains(&started), "{domain}");
            let uptime = domain_value(metrics, "libvirt_domain_uptime_seconds", domain).unwrap();
            assert!(
                (0.0..now() - test_start + 0.1).contains(&uptime),
                "{domain}"
            );
        }
        for family in [
            "libvirt_domain_stuck",
            "libvirt_domain_stats_partial",
            "libvirt_domain_timed_out",
        ] {
            assert_eq!(domain_value(metrics, family, domain), Some(0.0), "{family}");
        }
        let maximum = domain_value(metrics, "libvirt_domain_info_maximum_memory_bytes", domain);
        assert_eq!(maximum, Some(96.0 * MIB), "{domain}");
        let disk = [("domain", domain.as_str()), ("target_device", "vdb")];
        let capacity = metrics.value("libvirt_domain_block_stats_capacity_bytes", &disk);
        let info = fixture.virsh(&["domblkinfo", domain, "vdb"]);
        let line = info.lines().find(|line| line.starts_with("Capacity"));
        let number = line.and_then(|line| line.split_whitespace().last());
        assert_eq!(capacity, number.map(|it| it.parse().unwrap()), "{domain}");
    }
    for (state, count) in [
        ("running", 1.0),
        ("paused", 1.0),
        ("stopped", 1.0),
        ("other", 0.0),
    ] {
        let exposed = metrics.value("census_domains", &[("state", state)]);
        assert_eq!(exposed, Some(count), "{state}");
    }
}

/// The cgroup that libvirt created for the domain is exposed with the domain's name.
fn assert_group(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    let pid = fixture.daemon.domain_pid(&fixture.busy).unwrap();
    let group = CgroupReader::for_pid(pid.as_raw_nonzero().get().unsigned_abs());
    // It may contain nested cgroups.
    let is_domain_dir = |name: &str| name.contains("qemu") && !name.contains('/');
    let group = match group {
        CgroupReader::V1(root, path) => {
            CgroupReader::V1(root, up_to(Path::new(&path), is_domain_dir))
        }
        CgroupReader::V2(path) => CgroupReader::V2(up_to(&path, is_domain_dir).into()),
    };
    let family = "container_memory_usage_bytes";
    let before = group.memory();
    let metrics = scrape(exporter);
    let after = group.memory();
    let labels = [("domain", fixture.busy.as_str()), ("id", &group.id())];
    assert_between(
        family,
        metrics.value(family, &labels),
        before,
        after,
        4.0 * MIB,
    );
    // CPU time also agrees with libvirt, in the same scrape and in the next.
    for metrics in [metrics, scrape(exporter)] {
        let family = "container_cpu_usage_seconds_total";
        let usage = metrics.value(family, &[("domain", &fixture.busy), ("id", &group.id())]);
        let time = domain_value(
            &metrics,
            "libvirt_domain_info_cpu_time_seconds_total",
            &fixture.busy,
        );
        assert_between(family, usage, time.unwrap(), time.unwrap(), 0.5);
    }
}

/// The path up to the first component that matches.
fn up_to(path: &Path, is_domain_dir: impl Fn(&str) -> bool) -> String {
    let all = path.ancestors().filter(|it| {
        let name = it.file_name().and_then(|name| name.to_str());
        name.is_some_and(&is_domain_dir)
    });
    let kumina_labels = all.last().unwrap_or(path);
    kumina_labels.display().to_string()
}

fn assert_kumina(fixture: &LibvirtFixture, default_metrics: &Scrape) {
    let exporter = fixture.exporter(&["--collector.libvirt.compat=kumina"]);
    let metrics = scrape(&exporter);
    assert_eq!(metrics.value("libvirt_domains_number", &[]), Some(2.0));
    let busy_domain = fixture.busy.as_str();
    let uuid = fixture.info(busy_domain, "UUID").unwrap();
    let kumina_labels = [("domain", busy_domain), ("uuid", &uuid)];
    let only = |family: &str, labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let labels: crate::support::text_format::Labels = labels.collect();
        let value = metrics
            .series
            .get(family)
            .and_then(|series| series.get(&labels));
        value
            .copied()
            .unwrap_or_else(|| panic!("{family}{labels:?}"))
    };
    assert_eq!(only("libvirt_domain_state_code", &kumina_labels), 1.0);
    assert_eq!(
        domain_value(&metrics, "libvirt_domain_state_code", &fixture.off),
        None
    );
    let family = "libvirt_domain_info_cpu_time_seconds_total";
    assert!(
        Some(only(family, &kumina_labels)) >= domain_value(default_metrics, family, busy_domain)
    );
    let [domain, uuid] = kumina_labels;
    let image = fixture.daemon.dir.0.join(format!("{busy_domain}-vdb.raw"));
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
    assert_eq!(
        metrics.series_named("libvirt_domain_info_vstate").next(),
        None
    );
}

fn assert_readable(exporter: &ServerProcess) {
    if crate::support::is_installed("promtool") {
        assert_promtool_lint(
            &exporter.metrics_text(),
            TOLERATED_LINTS,
            "metrics with domains",
        );
    } else {
        skip("promtool");
    }
    if has_strict_parser() {
        assert_strict_parse(&exporter.openmetrics_text(), "metrics with domains");
    } else {
        skip("python3-prometheus-client");
    }
}

#[test]
fn domain_and_daemon_changes_are_exposed() {
    let Some(mut fixture) = LibvirtFixture::new("becomes") else {
        return;
    };
    let exporter = fixture.exporter(&[]);
    fixture.wait_for_work();
    disks_come_and_go(&exporter, &fixture);
    descriptions_change(&exporter, &fixture);
    starts_and_stops(&exporter, &fixture);
    stuck_domain_affects_only_itself(&exporter, &fixture);
    hanging_daemon_affects_only_domains(&exporter, &fixture);
    restarted_daemon_is_reconnected(&exporter, &mut fixture);
}

fn disks_come_and_go(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    const TOTALS: [&str; 4] = [
        "libvirt_domain_disk_read_bytes_total",
        "libvirt_domain_disk_read_requests_total",
        "libvirt_domain_disk_write_bytes_total",
        "libvirt_domain_disk_write_requests_total",
    ];
    let domain = fixture.busy.as_str();
    let disk = [("domain", domain), ("target_device", "vdd")];
    let family = "libvirt_domain_block_stats_read_bytes_total";
    let info = "libvirt_domain_block_stats_info";
    let mut last = [0.0; 4];
    let mut scraped = || {
        let metrics = scrape(exporter);
        let now = TOTALS.map(|it| domain_value(&metrics, it, domain).unwrap());
        for ((total, now), last) in TOTALS.iter().zip(now).zip(last) {
            assert!(last <= now, "{total} was {last} and is {now}");
        }
        last = now;
        metrics
    };
    let metrics = scraped();
    assert_eq!(metrics.value(family, &disk), None);
    let image = fixture.daemon.create_disk_image("hot", "raw", 16);
    fixture.virsh(&["attach-disk", domain, &image, "vdd", "--live"]);
    // The guest reads the partition table.
    let read = wait_until("reads of the disk", || {
        let metrics = scraped();
        let read = metrics.value(family, &disk).filter(|read| *read > 0.0)?;
        metrics.value(info, &disk).map(|_| read)
    });
    let others = |metrics: &Scrape| {
        let disk_values = DISKS.map(|(disk, ..)| {
            let labels = [("domain", domain), ("target_device", disk)];
            metrics.value(family, &labels).unwrap()
        });
        disk_values.iter().sum::<f64>()
    };
    // virsh may time out if the guest is slow, which does not matter.
    let _done = fixture
        .daemon
        .virsh(&["detach-disk", domain, "vdd", "--live"]);
    let metrics = wait_until("no such disk", || {
        let metrics = scraped();
        let is_gone = [family, info]
            .iter()
            .all(|it| metrics.value(it, &disk).is_none());
        is_gone.then_some(metrics)
    });
    // Totals keep what the removed disk had counted.
    let [read_in_all, ..] = TOTALS.map(|it| domain_value(&metrics, it, domain).unwrap());
    assert!(read_in_all >= others(&metrics) + read);
}

/// The change must arrive by its event: the periodic refresh is after five minutes, longer than the
/// test waits.
fn descriptions_change(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    let domain = fixture.busy.as_str();
    fixture.virsh(&["desc", domain, "--live", "--title", "another title"]);
    scrape_when("another title", exporter, |metrics| {
        let labels = [("domain", domain), ("title", "another title")];
        metrics.value("libvirt_domain_info", &labels).is_some()
    });
    let nova = "<instance><name>web</name><flavor name='small'/>\
                <owner><project uuid='p-1'>shop</project></owner></instance>";
    let uri = "http://openstack.org/xmlns/libvirt/nova/1.1";
    let set = [
        "metadata", domain, uri, "--live", "--key", "nova", "--set", nova,
    ];
    fixture.virsh(&set);
    scrape_when("OpenStack metadata", exporter, |metrics| {
        let labels = [
            ("domain", domain),
            ("instance_name", "web"),
            ("flavor_name", "small"),
            ("project_name", "shop"),
        ];
        metrics.value("libvirt_domain_openstack_info", &labels) == Some(1.0)
    });
    let most = ["--total-bytes-sec", "50000000"];
    fixture.virsh(&[&["blkdeviotune", domain, "vdb", "--live"][..], &most].concat());
    scrape_when("a limit of a disk", exporter, |metrics| {
        let labels = [("domain", domain), ("target_device", "vdb")];
        let family = "libvirt_domain_block_stats_limit_total_bytes";
        metrics.value(family, &labels) == Some(5e7)
    });
}

fn starts_and_stops(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    let domain = fixture.paused.as_str();
    let (starts, stops) = ("libvirt_domain_starts_total", "libvirt_domain_stops_total");
    let census = |metrics: &Scrape, state| metrics.value("census_domains", &[("state", state)]);
    let first = scrape(exporter);
    let [started, stopped] = [starts, stops].map(|it| domain_value(&first, it, domain).unwrap());
    fixture.virsh(&["destroy", domain]);
    let metrics = scrape_when("a stop", exporter, |metrics| {
        domain_value(metrics, stops, domain) == Some(stopped + 1.0)
            && census(metrics, "stopped") == Some(2.0)
    });
    assert_eq!(domain_value(&metrics, starts, domain), Some(started));
    assert_eq!(census(&metrics, "paused"), Some(0.0));
    assert_eq!(domain_value(&metrics, CPU_METRICS[0].0, domain), None);
    fixture.virsh(&["start", "--paused", domain]);
    let metrics = scrape_when("a start", exporter, |metrics| {
        domain_value(metrics, starts, domain) == Some(started + 1.0)
            && census(metrics, "paused") == Some(1.0)
    });
    assert_eq!(domain_value(&metrics, stops, domain), Some(stopped + 1.0));
    assert_eq!(census(&metrics, "stopped"), Some(1.0));
    for family in [starts, stops] {
        let others = [&fixture.busy, &fixture.off];
        for other in others {
            let [one, now] = [&first, &metrics].map(|metrics| domain_value(metrics, family, other));
            assert_eq!(one, now, "{family} of {other}");
        }
    }
}

fn stuck_domain_affects_only_itself(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    let (domain, other) = (fixture.busy.as_str(), fixture.paused.as_str());
    let stuck = "libvirt_domain_stuck";
    fixture.signal(domain, Signal::STOP);
    let others_are_complete = |metrics: &Scrape| {
        assert_eq!(metrics.value("libvirt_up", &[]), Some(1.0));
        assert_eq!(domain_value(metrics, stuck, other), Some(0.0));
        assert_eq!(
            domain_value(metrics, "libvirt_domain_stats_partial", other),
            Some(0.0)
        );
        assert!(domain_value(metrics, CPU_METRICS[0].0, other).is_some());
        for (disk, ..) in DISKS {
            let labels = [("domain", other), ("target_device", disk)];
            let read = metrics.value("libvirt_domain_block_stats_read_bytes_total", &labels);
            assert_eq!(read, Some(0.0), "{disk}");
        }
        let state = domain_value(metrics, "libvirt_domain_info_vstate", &fixture.off);
        assert_eq!(state, Some(5.0));
        assert!(metrics.value("node_load1", &[]).is_some());
    };
    let metrics = wait_until("a stuck domain", || {
        let metrics = scrape(exporter);
        others_are_complete(&metrics);
        (domain_value(&metrics, stuck, domain) == Some(1.0)).then_some(metrics)
    });
    // Metrics that need the process are absent, not invented.
    assert_eq!(
        domain_value(&metrics, "libvirt_domain_disk_read_bytes_total", domain),
        None
    );
    fixture.signal(domain, Signal::CONT);
    scrape_when("a responding domain", exporter, |metrics| {
        others_are_complete(metrics);
        domain_value(metrics, stuck, domain) == Some(0.0)
            && domain_value(metrics, "libvirt_domain_stats_partial", domain) == Some(0.0)
            && domain_value(metrics, "libvirt_domain_disk_read_bytes_total", domain).is_some()
            && metrics.value("strata_libvirt_stuck_requests", &[]) == Some(0.0)
    });
}

fn hanging_daemon_affects_only_domains(exporter: &ServerProcess, fixture: &LibvirtFixture) {
    fixture.daemon.signal(Signal::STOP);
    let metrics = scrape_when("a hanging daemon", exporter, |metrics| {
        assert!(metrics.value("node_load1", &[]).is_some());
        metrics.value("libvirt_up", &[]) == Some(0.0)
    });
    assert_eq!(metrics.series_named("libvirt_domain_state").next(), None);
    fixture.daemon.signal(Signal::CONT);
    assert_all_exposed(exporter, fixture);
}

fn restarted_daemon_is_reconnected(exporter: &ServerProcess, fixture: &mut LibvirtFixture) {
    let connections = "strata_libvirt_connections_total";
    let before = scrape(exporter).value(connections, &[]);
    fixture.daemon.stop();
    scrape_when("no daemon", exporter, |metrics| {
        assert!(metrics.value("node_load1", &[]).is_some());
        metrics.value("libvirt_up", &[]) == Some(0.0)
    });
    fixture.daemon.restart();
    let metrics = assert_all_exposed(exporter, fixture);
    assert!(metrics.value(connections, &[]) > before);
}

/// Waits until all metrics of all domains are exposed.
fn assert_all_exposed(exporter: &ServerProcess, fixture: &LibvirtFixture) -> Scrape {
    scrape_when("all domains", exporter, |metrics| {
        let running = [&fixture.busy, &fixture.paused].iter().all(|domain| {
            let families = [CPU_METRICS[0].0, "libvirt_domain_disk_read_bytes_total"];
            families
                .iter()
                .all(|it| domain_value(metrics, it, domain).is_some())
        });
        metrics.value("libvirt_up", &[]) == Some(1.0)
            && metrics.value("libvirt_domains", &[]) == Some(3.0)
            && running
    })
}
