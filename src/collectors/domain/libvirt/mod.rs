//! State, resource usage and properties of virtual machines.
//!
//! This is one collector, because libvirt returns all of it in one response per domain, with a
//! file for each subject. Exporters for libvirt differ in names. The names here are inovex's (v2),
//! and by a flag Tinkoff's where they differ, or those of kumina's older exporter (0.2.0). Metrics
//! that only one of them has are always exposed.

mod compat;
mod connection;
mod cpu;
mod disks;
mod hypervisor;
mod interfaces;
mod job;
mod labels;
mod limits;
mod memory;
mod metadata;
mod state;
#[cfg(test)]
mod testing;
mod totals;

use std::time::Duration;

pub(super) use compat::SharedFlags;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{self, Desc},
    metrics,
    pattern::Pattern,
    sources::{Snapshot, libvirt::FetchResult},
};
use compat::{Compat, CompatNames};
use labels::LabelledDomain;
use totals::DeviceTotals;

metrics! {
    /// Domains in any state.
    DOMAINS: Gauge = "libvirt_domains" [];
    /// Running and paused domains. With --collector.libvirt.compat=kumina.
    DOMAINS_NUMBER: Gauge = "libvirt_domains_number" [];
}

const ALL_METRICS: &[&Desc] = &metric::concat_tables::<METRIC_COUNT>(METRICS_BY_MODULE);

const METRICS_BY_MODULE: &[&[&Desc]] = &[
    connection::METRICS,
    METRICS,
    metadata::METRICS,
    state::METRICS,
    cpu::METRICS,
    memory::METRICS,
    interfaces::METRICS,
    disks::METRICS,
    limits::METRICS,
    totals::METRICS,
    hypervisor::METRICS,
    job::METRICS,
];

const METRIC_COUNT: usize = {
    let (mut count, mut at) = (0, 0);
    while at < METRICS_BY_MODULE.len() {
        count += METRICS_BY_MODULE[at].len();
        at += 1;
    }
    count
};

/// The flags of the `libvirt` collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct LibvirtCollectorFlags {
    /// Libvirt exporters whose names are used where they differ.
    #[arg(
        long = "collector.libvirt.compat",
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "inovex,tinkoff"
    )]
    libvirt_compat: Vec<Compat>,
    /// Regular expression for the KVM statistics to expose, matched against their names.
    #[arg(
        long = "collector.libvirt.kvm-include",
        value_name = "REGEX",
        default_value = hypervisor::DEFAULT_KVM_INCLUDE
    )]
    libvirt_kvm_include: Pattern,
}

#[derive(Debug)]
pub(super) struct LibvirtCollector {
    compat: CompatNames,
    kvm_include: Pattern,
    totals: DeviceTotals,
}

impl Collector for LibvirtCollector {
    const NAME: &'static str = "libvirt";
    const ABOUT: &'static str = "state, configuration and statistics of libvirt domains";
    const METRICS: &'static [&'static Desc] = ALL_METRICS;
    type Flags = LibvirtCollectorFlags;

    fn new(flags: LibvirtCollectorFlags) -> Result<Self, String> {
        Ok(Self {
            compat: CompatNames::from_compat(&flags.libvirt_compat)?,
            kvm_include: flags.libvirt_kvm_include,
            totals: DeviceTotals::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let fetched = snapshot.domains()?;
        let mut out = Families::default();
        self.collect_into(&mut out, fetched, snapshot.unix_time());
        Ok(out)
    }
}

impl LibvirtCollector {
    fn collect_into(&self, out: &mut Families, fetched: &FetchResult, now: Option<Duration>) {
        connection::collect_into(out, &fetched.connection);
        if !fetched.connection.is_up {
            return;
        }
        let domains = &fetched.domains;
        self.totals.retain(domains);
        out.add(&DOMAINS, [], domains.len());
        let mut active = 0_u64;
        let mut kvm_filter = hypervisor::KvmFilter::new(&self.kvm_include);
        for domain in domains {
            let labelled = LabelledDomain::new(domain, self.compat);
            active += u64::from(labelled.is_active());
            metadata::collect_into(out, &labelled);
            state::collect_into(out, &labelled, now);
            cpu::collect_into(out, &labelled);
            memory::collect_into(out, &labelled);
            interfaces::collect_into(out, &labelled);
            disks::collect_into(out, &labelled);
            self.totals.collect_into(out, &labelled);
            hypervisor::collect_into(out, &labelled, &mut kvm_filter);
            job::collect_into(out, &labelled);
        }
        if self.compat.kumina {
            out.add(&DOMAINS_NUMBER, [], active);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sources::libvirt::{ConnectionInfo, Domain, DomainState};

    fn collector(compat: &[Compat]) -> LibvirtCollector {
        let flags = LibvirtCollectorFlags {
            libvirt_compat: compat.to_vec(),
            libvirt_kvm_include: Pattern::default(),
        };
        LibvirtCollector::new(flags).unwrap()
    }

    fn fetched(is_up: bool, domains: Vec<Domain>) -> FetchResult {
        let connection = ConnectionInfo {
            is_up,
            ..ConnectionInfo::default()
        };
        FetchResult {
            connection,
            domains,
        }
    }

    fn lines(libvirt: &LibvirtCollector, fetched: &FetchResult) -> Vec<String> {
        let mut out = Families::default();
        libvirt.collect_into(&mut out, fetched, None);
        out.lines()
    }

    #[test]
    fn no_domain_series_while_libvirt_is_down() {
        let libvirt = collector(&[Compat::Inovex, Compat::Tinkoff]);
        let lines = lines(&libvirt, &fetched(false, vec![testing::domain("web")]));
        assert_eq!(lines[0], "libvirt_up 0");
        assert!(!lines.iter().any(|line| line.starts_with("libvirt_domain")));
    }

    #[test]
    fn counts_domains_and_kumina_counts_active_ones() {
        let with = |name, state| Domain {
            state: Some(state),
            ..testing::domain(name)
        };
        let domains = vec![
            with("a", DomainState::Running),
            with("b", DomainState::Shutoff),
            with("c", DomainState::Paused),
        ];
        let fetched = fetched(true, domains);
        let counts_of = |compat| {
            let lines = lines(&collector(&[compat]), &fetched);
            let counts = lines
                .into_iter()
                .filter(|it| it.starts_with("libvirt_domains"));
            counts.collect::<Vec<_>>()
        };
        assert_eq!(counts_of(Compat::Inovex), ["libvirt_domains 3"]);
        let both = ["libvirt_domains 3", "libvirt_domains_number 2"];
        assert_eq!(counts_of(Compat::Kumina), both);
    }

    #[test]
    fn quotes_and_newlines_in_names_are_escaped() {
        let domain = testing::domain("a\"b\\c\nd");
        let libvirt = collector(&[Compat::Kumina]);
        let lines = lines(&libvirt, &fetched(true, vec![domain]));
        let domain_lines = lines.iter().filter(|line| line.contains('{'));
        let expected = r#"{domain="a\"b\\c\nd""#;
        let domain_lines = domain_lines.filter(|line| !line.starts_with("strata_libvirt_info"));
        assert!(domain_lines.clone().all(|line| line.contains(expected)));
        assert!(domain_lines.count() > 3);
    }

    #[test]
    fn every_module_is_listed_once() {
        let names: BTreeSet<_> = ALL_METRICS.iter().map(|desc| desc.name).collect();
        assert_eq!(names.len(), ALL_METRICS.len());
        assert!(ALL_METRICS.len() > 100, "{}", ALL_METRICS.len());
    }
}
