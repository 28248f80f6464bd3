//! What the hypervisor says of itself: QEMU's I/O threads, how fast a guest writes to its
//! memory, hardware counters, and KVM's own statistics, documented in the kernel's
//! `Documentation/virt/kvm/api.rst` and named in `arch/*/kvm`.
//!
//! libvirt ends the names of KVM's statistics in `.sum` where they count up, `.cur` where
//! they go up and down, `.max` for peaks. The rest, histograms, is not shown.

use std::collections::{BTreeSet, HashMap};

use super::labels::{DOMAIN, Labelled};
use crate::{family::Families, metrics, pattern::Pattern};

metrics! {
    /// How long an I/O thread of QEMU polls at most before it sleeps. One series for each thread.
    POLL_MAX: Gauge = "libvirt_domain_iothread_poll_max_seconds" of DOMAIN ["iothread"];
    /// How fast the guest writes to memory that it had not written to, as was last measured; nobody measures unless told to.
    DIRTY_RATE: Gauge = "libvirt_domain_dirty_rate_bytes_per_second" of DOMAIN [];
    /// What hardware counted for the domain, where that was switched on for it (virsh perf --enable).
    PERF: Counter = "libvirt_domain_perf_events_total" of DOMAIN ["event"];
    /// Cache of the CPUs that the domain holds, where that was switched on for it (virsh perf --enable cmt).
    CACHE: Gauge = "libvirt_domain_perf_cache_occupancy_bytes" of DOMAIN [];
    /// What KVM counted for the domain as a whole, by KVM's names.
    EVENTS: Counter = "libvirt_domain_kvm_events_total" of DOMAIN ["stat"];
    /// What KVM has for the domain as a whole at this moment, by KVM's names.
    NOW: Gauge = "libvirt_domain_kvm_current" of DOMAIN ["stat"];
    /// The most that KVM ever had for the domain as a whole, by KVM's names.
    PEAK: Gauge = "libvirt_domain_kvm_peak" of DOMAIN ["stat"];
    /// What KVM counted for the virtual CPU, by KVM's names: exits are the times that the guest gave way to the host.
    VCPU_EVENTS: Counter = "libvirt_domain_vcpu_kvm_events_total" of DOMAIN ["vcpu", "stat"];
    /// What KVM has for the virtual CPU at this moment, by KVM's names.
    VCPU_NOW: Gauge = "libvirt_domain_vcpu_kvm_current" of DOMAIN ["vcpu", "stat"];
    /// The most that KVM ever had for the virtual CPU, by KVM's names.
    VCPU_PEAK: Gauge = "libvirt_domain_vcpu_kvm_peak" of DOMAIN ["vcpu", "stat"];
}

/// KVM's statistics that are shown: with all, each virtual CPU would have forty series.
pub(super) const KVM_INCLUDED: &str =
    "exits$|injections$|^remote_tlb_flush$|^pages_|^halt_(successful|wakeup)|^preemption_";

/// Which of KVM's statistics are shown. Each virtual CPU has the same ones, so that each
/// name is looked at once in a scrape.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    included: &'a Pattern,
    known: HashMap<&'a str, bool>,
}

impl<'a> Shown<'a> {
    pub(super) fn by(included: &'a Pattern) -> Self {
        Self {
            included,
            known: HashMap::new(),
        }
    }

    /// The statistic's own name and what it is, if it is to be shown.
    fn shown(&mut self, name: &'a str) -> Option<(&'a str, Kind)> {
        let (stat, kind) = name.rsplit_once('.')?;
        let kind = match kind {
            "sum" => Kind::Sum,
            "cur" => Kind::Current,
            "max" => Kind::Peak,
            _ => return None,
        };
        let included = self.included;
        let known = self.known.entry(stat);
        known
            .or_insert_with(|| included.matches(stat))
            .then_some((stat, kind))
    }
}

pub(super) fn families<'a>(out: &mut Families, of: &Labelled<'a>, kvm: &mut Shown<'a>) {
    let stats = &of.domain.stats;
    let mut number = itoa::Buffer::new();
    for thread in &stats.io_threads {
        if let Some(poll_max) = thread.poll_max {
            let number = number.format(thread.number);
            out.add_of(&POLL_MAX, &of.own, [number], poll_max);
        }
    }
    let dirty_rate = stats.dirty_rate.as_ref();
    if let Some(rate) = dirty_rate.and_then(|rate| rate.bytes_per_second) {
        out.add_of(&DIRTY_RATE, &of.own, [], rate);
    }
    for (event, value) in first_of_each(&stats.perf) {
        match event {
            "cmt" => out.add_of(&CACHE, &of.own, [], value),
            event => out.add_of(&PERF, &of.own, [event], value),
        }
    }
    for (stat, value) in first_of_each(&stats.kvm) {
        if let Some((stat, kind)) = kvm.shown(stat) {
            let metric = match kind {
                Kind::Sum => &EVENTS,
                Kind::Current => &NOW,
                Kind::Peak => &PEAK,
            };
            out.add_of(metric, &of.own, [stat], value);
        }
    }
    for vcpu in &stats.vcpus {
        let number = number.format(vcpu.number);
        for (stat, value) in first_of_each(&vcpu.kvm) {
            if let Some((stat, kind)) = kvm.shown(stat) {
                let metric = match kind {
                    Kind::Sum => &VCPU_EVENTS,
                    Kind::Current => &VCPU_NOW,
                    Kind::Peak => &VCPU_PEAK,
                };
                out.add_of(metric, &of.own, [number, stat], value);
            }
        }
    }
}

/// What a statistic of KVM's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    Current,
    Peak,
}

/// Each name once, whatever libvirt says.
fn first_of_each(list: &[(String, u64)]) -> impl Iterator<Item = (&str, u64)> {
    let mut seen = BTreeSet::new();
    list.iter()
        .map(|(name, value)| (name.as_str(), *value))
        .filter(move |(name, _)| seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::{DirtyRate, Domain, IoThread, Stats, Vcpu};

    fn named(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        let own = list
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        own.collect()
    }

    fn domain() -> Domain {
        let stats = Stats {
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
            ..Stats::default()
        };
        Domain {
            stats,
            ..testing::domain("web")
        }
    }

    fn lines(pattern: &str) -> Vec<String> {
        let pattern = pattern.parse().unwrap();
        let of_domain =
            |out: &mut Families, of: &Labelled<'_>| families(out, of, &mut Shown::by(&pattern));
        testing::lines(&domain(), "inovex", of_domain)
    }

    #[test]
    fn what_counts_up_is_told_from_what_goes_up_and_down() {
        assert_eq!(
            lines(KVM_INCLUDED),
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
    fn a_flag_shows_more_of_kvm_or_nothing() {
        let all = lines(".");
        let of_kvm = all.iter().filter(|line| line.contains("kvm"));
        assert_eq!(of_kvm.count(), 5, "{all:#?}");
        let peak =
            r#"libvirt_domain_kvm_peak{domain="web",stat="max_mmu_page_hash_collisions"} 12"#;
        assert!(all.iter().any(|line| line == peak));
        assert!(!lines("").iter().any(|line| line.contains("kvm")));
    }
}
