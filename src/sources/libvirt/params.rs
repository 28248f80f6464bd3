//! Parses the statistics of a domain: a flat list of names such as `net.0.rx.bytes` with typed
//! values. The names are documented with `virConnectGetAllDomainStats`; the units are not uniform.
//!
//! For an inactive domain, libvirt (9.0) returns two misleading values: as CPU time that of the
//! daemon itself, and as current memory what the domain would have if it ran.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use super::domain::{
    DirtyRate, DiskOperations, DomainDisk, DomainInterface, DomainState, DomainStats, IoThread,
    Vcpu,
};

/// Maximum number of parameters parsed per domain; 500 virtual CPUs with KVM's statistics have a
/// third of it.
const MAX_PARAMS: usize = 1 << 16;
/// Maximum number of devices per kind.
const MAX_DEVICES: usize = 4096;

/// Maximum length of a device's name and of a path.
const MAX_TEXT: usize = 4096;

/// A value of any numeric type, widened, or a string.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TypedParamValue {
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
    Text(String),
}

impl TypedParamValue {
    /// Returns a count. libvirt returns -1 for an unknown count.
    fn count(&self) -> Option<u64> {
        match *self {
            Self::Int(number) => number.try_into().ok(),
            Self::Unsigned(number) => Some(number),
            Self::Bool(is) => Some(is.into()),
            Self::Float(_) | Self::Text(_) => None,
        }
    }

    fn int(&self) -> Option<i32> {
        match *self {
            Self::Int(number) => number.try_into().ok(),
            Self::Unsigned(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// Returns bytes, for a value in units of this many bytes.
    fn bytes(&self, unit: u64) -> Option<u64> {
        self.count()?.checked_mul(unit)
    }

    fn nanoseconds(&self) -> Option<Duration> {
        self.count().map(Duration::from_nanos)
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) if (1..=MAX_TEXT).contains(&text.len()) => Some(text),
            _ => None,
        }
    }
}

/// Parses the parameters of a domain: its state, the reason, and its statistics.
pub(super) fn parse_stats(
    params: impl IntoIterator<Item = (String, TypedParamValue)>,
) -> (Option<DomainState>, Option<i32>, DomainStats) {
    let mut parser = StatsParser::default();
    for (name, value) in params.into_iter().take(MAX_PARAMS) {
        // Unknown names are from a newer libvirt.
        parser.apply(&name, value);
    }
    parser.finish()
}

/// Whether the statistics include those that libvirt reads from QEMU's monitor and leaves out when
/// it must not wait. The presence of the other values of a group shows that the group was
/// requested.
pub(super) fn is_complete(reported: &DomainStats, state: Option<DomainState>) -> bool {
    if !state.is_some_and(DomainState::is_active) {
        return true;
    }
    let (balloon, disks) = (&reported.balloon, &reported.disks);
    let lacks_memory = balloon.current.is_some() && balloon.rss.is_none();
    // A disk that is not served by QEMU (vhost-user) has no path and no counters. A QEMU disk
    // without a path is judged by the memory statistics, because libvirt waits once for both.
    let is_counted = |disk: &DomainDisk| balloon.rss.is_none() || disk.path.is_some();
    let lacks_disks =
        disks.iter().any(is_counted) && disks.iter().all(|disk| disk.read.requests.is_none());
    !lacks_memory && !lacks_disks
}

/// Parameters parsed so far. Devices are indexed by number because numbers have gaps: offline
/// virtual CPUs, and network interfaces without counters.
#[derive(Default)]
struct StatsParser {
    state: Option<DomainState>,
    reason: Option<i32>,
    stats: DomainStats,
    vcpus: BTreeMap<u32, Vcpu>,
    interfaces: BTreeMap<u32, DomainInterface>,
    disks: BTreeMap<u32, DomainDisk>,
    io_threads: BTreeMap<u32, IoThread>,
}

impl StatsParser {
    fn apply(&mut self, name: &str, value: TypedParamValue) -> Option<()> {
        let (group, rest) = name.split_once('.')?;
        match group {
            "state" => match rest {
                "state" => self.state = value.int().and_then(DomainState::from_number),
                "reason" => self.reason = value.int(),
                _ => {}
            },
            "cpu" => {
                let cpu = &mut self.stats.cpu;
                match rest {
                    "time" => cpu.time = value.nanoseconds(),
                    "user" => cpu.user = value.nanoseconds(),
                    "system" => cpu.system = value.nanoseconds(),
                    _ => {}
                }
            }
            "balloon" => self.apply_balloon(rest, &value),
            "vcpu" => match rest {
                "current" => self.stats.vcpu_current = value.count(),
                "maximum" => self.stats.vcpu_maximum = value.count(),
                _ => {
                    let (number, rest) = split_index(rest)?;
                    let vcpu = device_mut(&mut self.vcpus, number)?;
                    vcpu.number = number;
                    apply_vcpu(vcpu, rest, &value);
                }
            },
            "net" => {
                let (number, rest) = split_index(rest)?;
                apply_interface(device_mut(&mut self.interfaces, number)?, rest, value);
            }
            "block" => {
                let (number, rest) = split_index(rest)?;
                apply_disk(device_mut(&mut self.disks, number)?, rest, value);
            }
            "iothread" => {
                let (number, rest) = split_index(rest)?;
                let thread = device_mut(&mut self.io_threads, number)?;
                thread.number = number;
                if rest == "poll-max-ns" {
                    thread.poll_max = value.nanoseconds();
                }
            }
            "dirtyrate" => {
                let rate = self.stats.dirty_rate.get_or_insert_default();
                if rest == "megabytes_per_second" {
                    *rate = DirtyRate {
                        bytes_per_second: value.bytes(1 << 20),
                    };
                }
            }
            "vm" => self.stats.kvm.push((rest.to_owned(), value.count()?)),
            "perf" => self.stats.perf.push((rest.to_owned(), value.count()?)),
            _ => {}
        }
        Some(())
    }

    fn apply_balloon(&mut self, name: &str, value: &TypedParamValue) {
        let balloon = &mut self.stats.balloon;
        let (field, unit) = match name {
            "current" => (&mut balloon.current, 1024),
            "maximum" => (&mut balloon.maximum, 1024),
            "swap_in" => (&mut balloon.swap_in, 1024),
            "swap_out" => (&mut balloon.swap_out, 1024),
            "major_fault" => (&mut balloon.major_fault, 1),
            "minor_fault" => (&mut balloon.minor_fault, 1),
            "unused" => (&mut balloon.unused, 1024),
            "available" => (&mut balloon.available, 1024),
            "usable" => (&mut balloon.usable, 1024),
            "disk_caches" => (&mut balloon.disk_caches, 1024),
            "hugetlb_pgalloc" => (&mut balloon.hugetlb_pgalloc, 1),
            "hugetlb_pgfail" => (&mut balloon.hugetlb_pgfail, 1),
            "rss" => (&mut balloon.rss, 1024),
            "last-update" => {
                // 0 means that the guest has never reported.
                let last_update = value.count().filter(|seconds| *seconds > 0);
                balloon.last_update = last_update.map(Duration::from_secs);
                return;
            }
            _ => return,
        };
        *field = value.bytes(unit);
    }

    fn finish(self) -> (Option<DomainState>, Option<i32>, DomainStats) {
        let mut stats = DomainStats {
            vcpus: self.vcpus.into_values().collect(),
            interfaces: named_devices(self.interfaces, |interface| &interface.name),
            disks: named_devices(self.disks, |disk| &disk.name),
            io_threads: self.io_threads.into_values().collect(),
            ..self.stats
        };
        if !self.state.is_some_and(DomainState::is_active) {
            stats.cpu = super::CpuTimes::default();
            stats.balloon.current = None;
        }
        (self.state, self.reason, stats)
    }
}

/// Splits a device's number from the rest of the name.
fn split_index(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Returns the device with this number, inserting it if it is new.
fn device_mut<T: Default>(devices: &mut BTreeMap<u32, T>, number: u32) -> Option<&mut T> {
    if devices.len() >= MAX_DEVICES && !devices.contains_key(&number) {
        return None;
    }
    Some(devices.entry(number).or_default())
}

/// Returns the devices that have a name, in the order of their numbers; the first of two with the
/// same name.
fn named_devices<T>(devices: BTreeMap<u32, T>, name: impl Fn(&T) -> &String) -> Vec<T> {
    let mut seen = HashSet::new();
    let is_new: Vec<_> = devices
        .values()
        .map(|device| !name(device).is_empty() && seen.insert(name(device)))
        .collect();
    let devices = devices.into_values().zip(is_new);
    devices
        .filter_map(|(device, is_new)| is_new.then_some(device))
        .collect()
}

fn apply_vcpu(vcpu: &mut Vcpu, name: &str, value: &TypedParamValue) {
    match name {
        "state" => vcpu.state = value.count(),
        "time" => vcpu.time = value.nanoseconds(),
        // libvirt also returns 0 where the kernel does not count.
        "wait" => vcpu.wait = value.nanoseconds().filter(|wait| !wait.is_zero()),
        "delay" => vcpu.delay = value.nanoseconds(),
        // KVM's statistics end in the kind of the number: `exits.sum`.
        name if name.contains('.') => {
            vcpu.kvm
                .extend(value.count().map(|count| (name.to_owned(), count)));
        }
        _ => {}
    }
}

fn apply_interface(interface: &mut DomainInterface, name: &str, value: TypedParamValue) {
    let (traffic, counter) = match name.split_once('.') {
        Some(("rx", counter)) => (&mut interface.received, counter),
        Some(("tx", counter)) => (&mut interface.sent, counter),
        Some(_) => return,
        None => {
            if name == "name" {
                interface.name = value.text().unwrap_or_default();
            }
            return;
        }
    };
    match counter {
        "bytes" => traffic.bytes = value.count(),
        "pkts" => traffic.packets = value.count(),
        "errs" => traffic.errors = value.count(),
        "drop" => traffic.drops = value.count(),
        _ => {}
    }
}

fn apply_disk(disk: &mut DomainDisk, name: &str, value: TypedParamValue) {
    match name {
        "name" => disk.name = value.text().unwrap_or_default(),
        "path" => disk.path = value.text(),
        "errors" => disk.errors = value.count(),
        "allocation" => disk.allocation = value.count(),
        "capacity" => disk.capacity = value.count(),
        "physical" => disk.physical = value.count(),
        _ => match name.split_once('.') {
            Some(("rd", counter)) => apply_operations(&mut disk.read, counter, &value),
            Some(("wr", counter)) => apply_operations(&mut disk.written, counter, &value),
            Some(("fl", counter)) => apply_operations(&mut disk.flushed, counter, &value),
            _ => {}
        },
    }
}

fn apply_operations(operations: &mut DiskOperations, name: &str, value: &TypedParamValue) {
    match name {
        "reqs" => operations.requests = value.count(),
        "bytes" => operations.bytes = value.count(),
        "times" => operations.time = value.nanoseconds(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::domain::{Balloon, CpuTimes, InterfaceTraffic},
        TypedParamValue::{Bool, Int, Text, Unsigned},
        *,
    };

    /// libvirt 9.0.0 and QEMU 7.2, a running domain, trimmed.
    const RUNNING: &str = "\
        state.state (int) = 1
        state.reason (int) = 2
        cpu.time (ullong) = 9352174001
        cpu.user (ullong) = 8502868002
        cpu.system (ullong) = 849306003
        cpu.cache.monitor.count (uint) = 0
        cpu.haltpoll.success.time (ullong) = 0
        balloon.current (ullong) = 98304
        balloon.maximum (ullong) = 98305
        balloon.swap_in (ullong) = 1
        balloon.swap_out (ullong) = 2
        balloon.major_fault (ullong) = 3
        balloon.minor_fault (ullong) = 16523
        balloon.unused (ullong) = 32692
        balloon.available (ullong) = 61776
        balloon.usable (ullong) = 39376
        balloon.last-update (ullong) = 1795219168
        balloon.disk_caches (ullong) = 2488
        balloon.hugetlb_pgalloc (ullong) = 4
        balloon.hugetlb_pgfail (ullong) = 5
        balloon.rss (ullong) = 223440
        vcpu.current (uint) = 2
        vcpu.maximum (uint) = 3
        vcpu.0.state (int) = 1
        vcpu.0.time (ullong) = 5000000000
        vcpu.0.wait (ullong) = 0
        vcpu.0.delay (ullong) = 2408420265
        vcpu.2.state (int) = 2
        vcpu.2.time (ullong) = 3520000000
        vcpu.2.wait (ullong) = 7
        vcpu.2.delay (ullong) = 2391239020
        net.count (uint) = 3
        net.0.name (string) = lvt01n0
        net.0.rx.bytes (ullong) = 12794
        net.0.rx.pkts (ullong) = 139
        net.0.rx.errs (ullong) = 1
        net.0.rx.drop (ullong) = 2
        net.0.tx.bytes (ullong) = 7334
        net.0.tx.pkts (ullong) = 85
        net.0.tx.errs (ullong) = 3
        net.0.tx.drop (ullong) = 4
        block.count (uint) = 2
        block.0.name (string) = vda
        block.0.path (string) = /img/lvt01-vda.qcow2
        block.0.backingIndex (uint) = 4
        block.0.rd.reqs (ullong) = 209
        block.0.rd.bytes (ullong) = 27136512
        block.0.rd.times (ullong) = 10279881
        block.0.wr.reqs (ullong) = 24
        block.0.wr.bytes (ullong) = 6029312
        block.0.wr.times (ullong) = 13377723
        block.0.fl.reqs (ullong) = 23
        block.0.fl.times (ullong) = 17311864
        block.0.allocation (ullong) = 589824
        block.0.capacity (ullong) = 33554432
        block.0.physical (ullong) = 528384
        block.3.name (string) = hdc
        block.3.rd.reqs (ullong) = 0
        block.3.rd.bytes (ullong) = 0
        block.3.rd.times (ullong) = 0
        block.3.wr.reqs (ullong) = 0
        block.3.wr.bytes (ullong) = 0
        block.3.wr.times (ullong) = 0
        block.3.fl.reqs (ullong) = 0
        block.3.fl.times (ullong) = 0
        iothread.count (uint) = 1
        iothread.1.poll-max-ns (ullong) = 32768
        iothread.1.poll-grow (uint) = 0
        iothread.1.poll-shrink (uint) = 0
        dirtyrate.calc_status (int) = 0
        dirtyrate.calc_start_time (llong) = 0
        dirtyrate.calc_period (int) = 0
        dirtyrate.calc_mode (string) = page-sampling";

    /// The same versions, a domain that was defined and never started.
    const SHUT_OFF: &str = "\
        state.state (int) = 5
        state.reason (int) = 0
        cpu.time (ullong) = 290000000
        cpu.user (ullong) = 140000000
        cpu.system (ullong) = 150000000
        balloon.current (ullong) = 98304
        balloon.maximum (ullong) = 98304
        vcpu.current (uint) = 1
        vcpu.maximum (uint) = 1
        block.count (uint) = 1
        block.0.name (string) = vda
        block.0.path (string) = /img/lvt04-vda.qcow2
        block.0.allocation (ullong) = 200704
        block.0.capacity (ullong) = 33554432
        block.0.physical (ullong) = 196616";

    /// The same versions, a domain whose QEMU was stopped, queried without waiting.
    const HUNG: &str = "\
        state.state (int) = 1
        state.reason (int) = 1
        cpu.time (ullong) = 9789393000
        cpu.user (ullong) = 7165776000
        cpu.system (ullong) = 2623616000
        balloon.current (ullong) = 98304
        balloon.maximum (ullong) = 98304
        vcpu.current (uint) = 1
        vcpu.maximum (uint) = 1
        vcpu.0.state (int) = 1
        vcpu.0.time (ullong) = 4540000000
        net.count (uint) = 1
        net.0.name (string) = lvt05n0
        net.0.rx.bytes (ullong) = 866
        block.count (uint) = 1
        block.0.name (string) = vda
        block.0.path (string) = /img/lvt05-vda.qcow2
        block.0.backingIndex (uint) = 3";

    /// Parses a list in the format of `virsh domstats`.
    fn parse_list(list: &str) -> (Option<DomainState>, Option<i32>, DomainStats) {
        parse_stats(list.lines().map(|line| {
            let (name, rest) = line.trim_start().split_once(" (").unwrap();
            let (kind, value) = rest.split_once(") = ").unwrap();
            let value = match kind {
                "int" | "llong" => Int(value.parse().unwrap()),
                "uint" | "ullong" => Unsigned(value.parse().unwrap()),
                "string" => Text(value.to_owned()),
                "boolean" => Bool(value == "yes"),
                _ => panic!("{line}"),
            };
            (name.to_owned(), value)
        }))
    }

    #[test]
    fn parses_running_domain() {
        let (state, reason, domain_stats) = parse_list(RUNNING);
        assert_eq!((state, reason), (Some(DomainState::Running), Some(2)));
        let cpu = CpuTimes {
            time: Some(Duration::from_nanos(9_352_174_001)),
            user: Some(Duration::from_nanos(8_502_868_002)),
            system: Some(Duration::from_nanos(849_306_003)),
        };
        assert_eq!(domain_stats.cpu, cpu);
        let balloon = Balloon {
            current: Some(100_663_296),
            maximum: Some(100_664_320),
            swap_in: Some(1024),
            swap_out: Some(2048),
            major_fault: Some(3),
            minor_fault: Some(16523),
            unused: Some(33_476_608),
            available: Some(63_258_624),
            usable: Some(40_321_024),
            disk_caches: Some(2_547_712),
            hugetlb_pgalloc: Some(4),
            hugetlb_pgfail: Some(5),
            last_update: Some(Duration::from_secs(1_795_219_168)),
            rss: Some(228_802_560),
        };
        assert_eq!(domain_stats.balloon, balloon);
        assert_eq!(
            (domain_stats.vcpu_current, domain_stats.vcpu_maximum),
            (Some(2), Some(3))
        );
        let threads = [IoThread {
            number: 1,
            poll_max: Some(Duration::from_nanos(32768)),
        }];
        assert_eq!(domain_stats.io_threads, threads);
        assert_eq!(domain_stats.dirty_rate, Some(DirtyRate::default()));
        assert_eq!((domain_stats.kvm.len(), domain_stats.perf.len()), (0, 0));
        assert!(is_complete(&domain_stats, state));
    }

    #[test]
    fn parses_vcpus_and_devices_of_running_domain() {
        let (_, _, domain_stats) = parse_list(RUNNING);
        let vcpu = |number, state, [time, wait, delay]: [u64; 3]| Vcpu {
            number,
            state: Some(state),
            time: Some(Duration::from_nanos(time)),
            wait: (wait > 0).then(|| Duration::from_nanos(wait)),
            delay: Some(Duration::from_nanos(delay)),
            cpu: None,
            kvm: vec![],
        };
        let vcpus = [
            vcpu(0, 1, [5_000_000_000, 0, 2_408_420_265]),
            vcpu(2, 2, [3_520_000_000, 7, 2_391_239_020]),
        ];
        assert_eq!(domain_stats.vcpus, vcpus);
        let traffic = |[bytes, packets, errors, drops]: [u64; 4]| InterfaceTraffic {
            bytes: Some(bytes),
            packets: Some(packets),
            errors: Some(errors),
            drops: Some(drops),
        };
        let interfaces = [DomainInterface {
            name: "lvt01n0".to_owned(),
            received: traffic([12794, 139, 1, 2]),
            sent: traffic([7334, 85, 3, 4]),
        }];
        assert_eq!(domain_stats.interfaces, interfaces);
        let operations = |requests, bytes, time| DiskOperations {
            requests: Some(requests),
            bytes,
            time: Some(Duration::from_nanos(time)),
        };
        let disks = [
            DomainDisk {
                name: "vda".to_owned(),
                path: Some("/img/lvt01-vda.qcow2".to_owned()),
                read: operations(209, Some(27_136_512), 10_279_881),
                written: operations(24, Some(6_029_312), 13_377_723),
                flushed: operations(23, None, 17_311_864),
                errors: None,
                allocation: Some(589_824),
                capacity: Some(33_554_432),
                physical: Some(528_384),
            },
            DomainDisk {
                name: "hdc".to_owned(),
                read: operations(0, Some(0), 0),
                written: operations(0, Some(0), 0),
                flushed: operations(0, None, 0),
                ..DomainDisk::default()
            },
        ];
        assert_eq!(domain_stats.disks, disks);
    }

    #[test]
    fn inactive_domain_has_no_cpu_time_and_current_memory() {
        let (state, reason, domain_stats) = parse_list(SHUT_OFF);
        assert_eq!((state, reason), (Some(DomainState::Shutoff), Some(0)));
        assert_eq!(domain_stats.cpu, CpuTimes::default());
        assert_eq!(domain_stats.balloon.current, None);
        assert_eq!(domain_stats.balloon.maximum, Some(100_663_296));
        assert_eq!(domain_stats.vcpu_maximum, Some(1));
        assert_eq!(domain_stats.disks[0].capacity, Some(33_554_432));
        assert_eq!(domain_stats.disks[0].read, DiskOperations::default());
        assert!(is_complete(&domain_stats, state));
    }

    #[test]
    fn unknown_state_drops_cpu_time() {
        let (state, _, domain_stats) = parse_list("cpu.time (ullong) = 290000000");
        assert_eq!((state, domain_stats.cpu.time), (None, None));
    }

    #[test]
    fn paused_domain_keeps_cpu_time_without_memory_report() {
        let (state, _, domain_stats) = parse_list(
            "\
            state.state (int) = 3
            cpu.time (ullong) = 249395000
            balloon.current (ullong) = 98304
            balloon.last-update (ullong) = 0
            balloon.rss (ullong) = 55248",
        );
        assert_eq!(state, Some(DomainState::Paused));
        assert_eq!(domain_stats.cpu.time, Some(Duration::from_micros(249_395)));
        assert_eq!(domain_stats.balloon.last_update, None);
        assert!(is_complete(&domain_stats, state));
    }

    #[test]
    fn domain_queried_without_waiting_is_incomplete() {
        let (state, _, mut domain_stats) = parse_list(HUNG);
        assert_eq!(
            domain_stats.cpu.user,
            Some(Duration::from_micros(7_165_776))
        );
        assert_eq!(domain_stats.interfaces[0].received.bytes, Some(866));
        assert_eq!(domain_stats.disks[0].read, DiskOperations::default());
        assert!(!is_complete(&domain_stats, state));
        // Disks alone are enough to detect it, and so is the memory.
        let balloon = std::mem::take(&mut domain_stats.balloon);
        assert!(!is_complete(&domain_stats, state));
        (domain_stats.balloon, domain_stats.disks) = (balloon, vec![]);
        assert!(!is_complete(&domain_stats, state));
        domain_stats.balloon.rss = Some(1);
        assert!(is_complete(&domain_stats, state));
    }

    #[test]
    fn disk_not_served_by_qemu_needs_no_counters() {
        let (state, _, mut domain_stats) = parse_list(
            "\
            state.state (int) = 1
            balloon.current (ullong) = 98304
            balloon.rss (ullong) = 55248
            block.0.name (string) = vda",
        );
        assert!(is_complete(&domain_stats, state));
        domain_stats.disks[0].path = Some("/img/a".to_owned());
        assert!(!is_complete(&domain_stats, state));
    }

    #[test]
    fn driver_that_only_reports_state_is_complete() {
        let (state, _, domain_stats) = parse_list("state.state (int) = 1");
        assert!(is_complete(&domain_stats, state));
    }

    #[test]
    fn parses_kvm_statistics_of_domain_and_vcpus() {
        let (_, _, domain_stats) = parse_list(
            "\
            vm.remote_tlb_flush.sum (ullong) = 17
            vm.pages_4k.cur (ullong) = 18
            vcpu.0.state (int) = 1
            vcpu.0.halted (boolean) = yes
            vcpu.0.exits.sum (ullong) = 19
            vcpu.0.guest_mode.cur (boolean) = yes
            vcpu.1.exits.sum (ullong) = 20
            perf.cache_misses (ullong) = 21
            perf.broken (string) = x",
        );
        let named = |name: &str, value| (name.to_owned(), value);
        let kvm = [named("remote_tlb_flush.sum", 17), named("pages_4k.cur", 18)];
        assert_eq!(domain_stats.kvm, kvm);
        let exits = [named("exits.sum", 19), named("guest_mode.cur", 1)];
        assert_eq!(domain_stats.vcpus[0].kvm, exits);
        assert_eq!(domain_stats.vcpus[1].kvm, [named("exits.sum", 20)]);
        assert_eq!(domain_stats.perf, [named("cache_misses", 21)]);
    }

    #[test]
    fn dirty_rate_is_in_mebibytes_once_measured() {
        let (_, _, domain_stats) = parse_list(
            "\
            dirtyrate.calc_status (int) = 2
            dirtyrate.megabytes_per_second (llong) = 3
            dirtyrate.vcpu.0.megabytes_per_second (ullong) = 4",
        );
        let rate = domain_stats.dirty_rate.unwrap();
        assert_eq!(rate.bytes_per_second, Some(3_145_728));
        assert_eq!(parse_list("state.state (int) = 1").2.dirty_rate, None);
    }

    #[test]
    fn unknown_values_are_dropped() {
        let (state, reason, domain_stats) = parse_list(
            "\
            state.state (int) = 99
            state.reason (llong) = 5000000000
            block.0.name (string) = vda
            block.0.errors (llong) = -1
            block.0.capacity (string) = much
            block.1.name (string) = vdb
            block.1.errors (llong) = 2
            balloon.rss (ullong) = 18446744073709551615",
        );
        assert_eq!((state, reason), (None, None));
        assert_eq!(
            (domain_stats.disks[0].errors, domain_stats.disks[0].capacity),
            (None, None)
        );
        assert_eq!(domain_stats.disks[1].errors, Some(2));
        assert_eq!(domain_stats.balloon.rss, None);
    }

    #[test]
    fn drops_devices_without_name_or_with_duplicate_name() {
        let (_, _, domain_stats) = parse_list(
            "\
            net.count (uint) = 4294967295
            net.0.rx.bytes (ullong) = 1
            net.1.name (string) = \n\
            net.1.rx.bytes (ullong) = 2
            net.3.name (string) = tap0
            net.3.rx.bytes (ullong) = 4
            net.2.rx.bytes (ullong) = 3
            net.2.name (string) = tap0
            block.0.capacity (ullong) = 5",
        );
        let [tap] = &domain_stats.interfaces[..] else {
            panic!("{:?}", domain_stats.interfaces);
        };
        assert_eq!((&*tap.name, tap.received.bytes), ("tap0", Some(3)));
        assert_eq!(domain_stats.disks, []);
    }

    #[test]
    fn ignores_unknown_and_malformed_names() {
        let names = [
            "",
            ".",
            "state",
            "vcpu.",
            "vcpu..",
            "vcpu.x.time",
            "vcpu.-1.time",
            "net.0",
            "é.0.é",
            "vcpu.4294967296.time",
            "block.0.limits.rd.bytes",
            "memory.bandwidth.monitor.count",
        ];
        let params = names.map(|name| (name.to_owned(), Unsigned(1)));
        assert_eq!(parse_stats(params), (None, None, DomainStats::default()));
    }

    #[test]
    fn number_of_devices_and_params_is_bounded() {
        let many = (0..100_000).map(|number| (format!("vcpu.{number}.time"), Unsigned(number)));
        let (_, _, domain_stats) = parse_stats(many.rev());
        assert_eq!(domain_stats.vcpus.len(), MAX_DEVICES);
        let names = (0..100_000).map(|number| (format!("vm.{number}"), Unsigned(number)));
        assert_eq!(super::parse_stats(names).2.kvm.len(), MAX_PARAMS);
    }
}
