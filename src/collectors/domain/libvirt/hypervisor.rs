//! Statistics of the hypervisor: QEMU's I/O threads, the rate at which a guest dirties its memory,
//! hardware counters, and KVM's own statistics, documented in the kernel's
//! `Documentation/virt/kvm/api.rst` and named in `arch/*/kvm`.
//!
//! In libvirt, the names of KVM statistics end in `.sum` for counters, `.cur` for gauges and
//! `.max` for peaks. The others, histograms, are not exposed.

use std::collections::{BTreeSet, HashMap};

use super::labels::{DOMAIN, LabelledDomain};
use crate::{family::Families, metrics, pattern::Pattern};

metrics! {
    /// Maximum polling time of an I/O thread of QEMU before it sleeps, one series per thread.
    POLL_MAX: Gauge = "libvirt_domain_iothread_poll_max_seconds" base DOMAIN ["iothread"];
    /// Rate at which the guest dirties memory, from the last measurement; absent unless a
    /// measurement was requested.
    DIRTY_RATE: Gauge = "libvirt_domain_dirty_rate_bytes_per_second" base DOMAIN [];
    /// Hardware performance events of the domain that were enabled with virsh perf --enable.
    PERF: Counter = "libvirt_domain_perf_events_total" base DOMAIN ["event"];
    /// CPU cache occupancy of the domain; only if enabled with virsh perf --enable cmt.
    CACHE_OCCUPANCY: Gauge = "libvirt_domain_perf_cache_occupancy_bytes" base DOMAIN [];
    /// KVM event counters of the domain, with the names of KVM.
    EVENTS: Counter = "libvirt_domain_kvm_events_total" base DOMAIN ["stat"];
    /// Current KVM statistics of the domain, with the names of KVM.
    CURRENT: Gauge = "libvirt_domain_kvm_current" base DOMAIN ["stat"];
    /// Peak KVM statistics of the domain, with the names of KVM.
    PEAK: Gauge = "libvirt_domain_kvm_peak" base DOMAIN ["stat"];
    /// KVM event counters of the virtual CPU, with the names of KVM; exits are switches from the
    /// guest to the host.
    VCPU_EVENTS: Counter = "libvirt_domain_vcpu_kvm_events_total" base DOMAIN ["vcpu", "stat"];
    /// Current KVM statistics of the virtual CPU, with the names of KVM.
    VCPU_CURRENT: Gauge = "libvirt_domain_vcpu_kvm_current" base DOMAIN ["vcpu", "stat"];
    /// Peak KVM statistics of the virtual CPU, with the names of KVM.
    VCPU_PEAK: Gauge = "libvirt_domain_vcpu_kvm_peak" base DOMAIN ["vcpu", "stat"];
}

/// Default selection of KVM statistics: with all, each virtual CPU would have forty series.
pub(super) const DEFAULT_KVM_INCLUDE: &str =
    "exits$|injections$|^remote_tlb_flush$|^pages_|^halt_(successful|wakeup)|^preemption_";

/// Selects KVM statistics by name. All virtual CPUs have the same names, so the decision for each
/// name is cached during a scrape.
#[derive(Debug)]
pub(super) struct KvmFilter<'a> {
    include: &'a Pattern,
    decisions: HashMap<&'a str, bool>,
}

impl<'a> KvmFilter<'a> {
    pub(super) fn new(include: &'a Pattern) -> Self {
        Self {
            include,
            decisions: HashMap::new(),
        }
    }

    /// The statistic's name without suffix and its kind, if it is selected.
    fn classify(&mut self, name: &'a str) -> Option<(&'a str, KvmStatKind)> {
        let (stat, kind) = name.rsplit_once('.')?;
        let kind = match kind {
            "sum" => KvmStatKind::Sum,
            "cur" => KvmStatKind::Current,
            "max" => KvmStatKind::Peak,
            _ => return None,
        };
        let include = self.include;
        let decision = self.decisions.entry(stat);
        decision
            .or_insert_with(|| include.matches(stat))
            .then_some((stat, kind))
    }
}

pub(super) fn collect_into<'a>(
    out: &mut Families,
    labelled: &LabelledDomain<'a>,
    kvm: &mut KvmFilter<'a>,
) {
    let stats = &labelled.domain.stats;
    let mut number = itoa::Buffer::new();
    for thread in &stats.io_threads {
        if let Some(poll_max) = thread.poll_max {
            let number = number.format(thread.number);
            out.add_with(&POLL_MAX, &labelled.base, [number], poll_max);
        }
    }
    let dirty_rate = stats.dirty_rate.as_ref();
    if let Some(rate) = dirty_rate.and_then(|rate| rate.bytes_per_second) {
        out.add_with(&DIRTY_RATE, &labelled.base, [], rate);
    }
    for (event, value) in dedup_by_name(&stats.perf) {
        match event {
            "cmt" => out.add_with(&CACHE_OCCUPANCY, &labelled.base, [], value),
            event => out.add_with(&PERF, &labelled.base, [event], value),
        }
    }
    for (stat, value) in dedup_by_name(&stats.kvm) {
        if let Some((stat, kind)) = kvm.classify(stat) {
            let metric = match kind {
                KvmStatKind::Sum => &EVENTS,
                KvmStatKind::Current => &CURRENT,
                KvmStatKind::Peak => &PEAK,
            };
            out.add_with(metric, &labelled.base, [stat], value);
        }
    }
    for vcpu in &stats.vcpus {
        let number = number.format(vcpu.number);
        for (stat, value) in dedup_by_name(&vcpu.kvm) {
            if let Some((stat, kind)) = kvm.classify(stat) {
                let metric = match kind {
                    KvmStatKind::Sum => &VCPU_EVENTS,
                    KvmStatKind::Current => &VCPU_CURRENT,
                    KvmStatKind::Peak => &VCPU_PEAK,
                };
                out.add_with(metric, &labelled.base, [number, stat], value);
            }
        }
    }
}

/// The kind of a KVM statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KvmStatKind {
    Sum,
    Current,
    Peak,
}

/// The first entry of each name, in case libvirt repeats one.
fn dedup_by_name(list: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
    let mut seen = BTreeSet::new();
    list.iter()
        .map(|(name, value)| (name.as_str(), *value))
        .filter(move |(name, _)| seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::{DirtyRate, Domain, DomainStats, IoThread, Vcpu};

    fn named(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        let own = list
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        own.collect()
    }

    fn domain() -> Domain {
        let stats = DomainStats {
            io_threads: vec![IoThread {
                number: 1,
                poll_max: Some(Duration::from_nanos(32_768)),
            }],
            dirty_rate: Some(DirtyRate {
                bytes_per_second: Some(1 << 20),
            }),
            perf: named(&[("cmt", 7), ("cache_misses", 8)]),
            kvm: named(&[
                ("remote_tlb_flush.sum", 9),
                ("remote_tlb_flush.sum", 10),
                ("pages_4k.cur", 11),
                ("max_mmu_page_hash_collisions.max", 12),
            ]),
            vcpus: vec![Vcpu {
                number: 2,
                kvm: named(&[("exits.sum", 13), ("halt_wait_ns.sum", 14), ("exits", 15)]),
                ..Vcpu::default()
            }],
            ..DomainStats::default()
        };
        Domain {
            stats,
            ..testing::domain("web")
        }
    }

    fn lines(pattern: &str) -> Vec<String> {
        let pattern = pattern.parse().unwrap();
        let collect = |out: &mut Families, labelled: &LabelledDomain<'_>| {
            collect_into(out, labelled, &mut KvmFilter::new(&pattern));
        };
        testing::lines(&domain(), "inovex", collect)
    }

    #[test]
    fn separates_counters_from_gauges() {
        assert_eq!(
            lines(DEFAULT_KVM_INCLUDE),
            [
                r#"libvirt_domain_iothread_poll_max_seconds{domain="web",iothread="1"} 0.000032768"#,
                r#"libvirt_domain_dirty_rate_bytes_per_second{domain="web"} 1048576"#,
                r#"libvirt_domain_perf_cache_occupancy_bytes{domain="web"} 7"#,
                r#"libvirt_domain_perf_events_total{domain="web",event="cache_misses"} 8"#,
                r#"libvirt_domain_kvm_events_total{domain="web",stat="remote_tlb_flush"} 9"#,
                r#"libvirt_domain_kvm_current{domain="web",stat="pages_4k"} 11"#,
                r#"libvirt_domain_vcpu_kvm_events_total{domain="web",vcpu="2",stat="exits"} 13"#,
            ]
        );
    }

    #[test]
    fn flag_selects_kvm_statistics() {
        let all = lines(".");
        let kvm_lines = all.iter().filter(|line| line.contains("kvm"));
        assert_eq!(kvm_lines.count(), 5, "{all:#?}");
        let peak =
            r#"libvirt_domain_kvm_peak{domain="web",stat="max_mmu_page_hash_collisions"} 12"#;
        assert!(all.iter().any(|line| line == peak));
        assert!(!lines("").iter().any(|line| line.contains("kvm")));
    }
}
