//! Virtual machines: what they are, do and use.
//!
//! One collector, for all of it comes in one answer per domain; a file for each subject.
//! There are several exporters for libvirt. The names here are those of inovex's (v2), and
//! by a flag those of Tinkoff's that differ, or those of the older kumina's (0.2.0). What
//! only one of them has is always there.

mod about;
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
mod state;
#[cfg(test)]
mod testing;
mod totals;

use std::time::Duration;

pub(super) use compat::Borrowed;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{self, Desc},
    metrics,
    pattern::Pattern,
    sources::{Snapshot, libvirt::Fetched},
};
use compat::{Compat, Names};
use labels::Labelled;
use totals::Totals;

metrics! {
    /// Domains, whatever they are doing.
    DOMAINS: Gauge = "libvirt_domains" [];
    /// Domains that run or are paused. With --collector.libvirt.compat=kumina.
    NUMBER: Gauge = "libvirt_domains_number" [];
}

/// The metrics of all subjects.
const ALL: &[&Desc] = &metric::joined::<COUNT>(SUBJECTS);

const SUBJECTS: &[&[&Desc]] = &[
    connection::METRICS,
    METRICS,
    about::METRICS,
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

const COUNT: usize = {
    let (mut count, mut at) = (0, 0);
    while at < SUBJECTS.len() {
        count += SUBJECTS[at].len();
        at += 1;
    }
    count
};

/// The flags of the `libvirt` collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Whose names to use where exporters for libvirt differ.
    #[arg(
        long = "collector.libvirt.compat",
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = "inovex,tinkoff"
    )]
    libvirt_compat: Vec<Compat>,
    /// Which of KVM's own statistics to show, by their names: a regular expression.
    #[arg(
        long = "collector.libvirt.kvm-include",
        value_name = "REGEX",
        default_value = hypervisor::KVM_INCLUDED
    )]
    libvirt_kvm_include: Pattern,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Libvirt {
    names: Names,
    kvm: Pattern,
    totals: Totals,
}

impl Collector for Libvirt {
    const NAME: &'static str = "libvirt";
    const ABOUT: &'static str = "what virtual machines are, do and use";
    const METRICS: &'static [&'static Desc] = ALL;
    type Flags = Flags;

    fn new(flags: Flags) -> Result<Self, String> {
        Ok(Self {
            names: Names::of(&flags.libvirt_compat)?,
            kvm: flags.libvirt_kvm_include,
            totals: Totals::default(),
        })
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let fetched = machine.domains()?;
        let mut out = Families::default();
        self.families(&mut out, fetched, machine.now());
        Ok(out)
    }
}

impl Libvirt {
    fn families(&self, out: &mut Families, fetched: &Fetched, now: Option<Duration>) {
        connection::families(out, &fetched.connection);
        if !fetched.connection.is_up {
            return;
        }
        let domains = &fetched.domains;
        self.totals.keep(domains);
        out.add(&DOMAINS, [], domains.len());
        let mut active = 0_u64;
        let mut kvm = hypervisor::Shown::by(&self.kvm);
        for domain in domains {
            let of = Labelled::new(domain, self.names);
            active += u64::from(of.is_active());
            about::families(out, &of);
            state::families(out, &of, now);
            cpu::families(out, &of);
            memory::families(out, &of);
            interfaces::families(out, &of);
            disks::families(out, &of);
            self.totals.families(out, &of);
            hypervisor::families(out, &of, &mut kvm);
            job::families(out, &of);
        }
        if self.names.kumina {
            out.add(&NUMBER, [], active);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sources::libvirt::{Connection, Domain, State};

    fn collector(compat: &[Compat]) -> Libvirt {
        let flags = Flags {
            libvirt_compat: compat.to_vec(),
            libvirt_kvm_include: Pattern::default(),
        };
        Libvirt::new(flags).unwrap()
    }

    fn fetched(is_up: bool, domains: Vec<Domain>) -> Fetched {
        let connection = Connection {
            is_up,
            ..Connection::default()
        };
        Fetched {
            connection,
            domains,
        }
    }

    fn lines(libvirt: &Libvirt, fetched: &Fetched) -> Vec<String> {
        let mut out = Families::default();
        libvirt.families(&mut out, fetched, None);
        out.lines()
    }

    #[test]
    fn of_a_libvirt_that_is_down_nothing_is_said_of_domains() {
        let libvirt = collector(&[Compat::Inovex, Compat::Tinkoff]);
        let lines = lines(&libvirt, &fetched(false, vec![testing::domain("web")]));
        assert_eq!(lines[0], "libvirt_up 0");
        assert!(!lines.iter().any(|line| line.starts_with("libvirt_domain")));
    }

    #[test]
    fn domains_are_counted_and_kumina_counts_those_that_run() {
        let with = |name, state| Domain {
            state: Some(state),
            ..testing::domain(name)
        };
        let domains = vec![
            with("a", State::Running),
            with("b", State::Shutoff),
            with("c", State::Paused),
        ];
        let fetched = fetched(true, domains);
        let of = |compat| {
            let lines = lines(&collector(&[compat]), &fetched);
            let counts = lines
                .into_iter()
                .filter(|it| it.starts_with("libvirt_domains"));
            counts.collect::<Vec<_>>()
        };
        assert_eq!(of(Compat::Inovex), ["libvirt_domains 3"]);
        let both = ["libvirt_domains 3", "libvirt_domains_number 2"];
        assert_eq!(of(Compat::Kumina), both);
    }

    #[test]
    fn a_name_with_quotes_and_newlines_stays_in_its_label() {
        let domain = testing::domain("a\"b\\c\nd");
        let libvirt = collector(&[Compat::Kumina]);
        let lines = lines(&libvirt, &fetched(true, vec![domain]));
        let of_domain = lines.iter().filter(|line| line.contains('{'));
        let expected = r#"{domain="a\"b\\c\nd""#;
        let of_domain = of_domain.filter(|line| !line.starts_with("strata_libvirt_info"));
        assert!(of_domain.clone().all(|line| line.contains(expected)));
        assert!(of_domain.count() > 3);
    }

    #[test]
    fn every_subject_is_in_the_table_once() {
        let names: BTreeSet<_> = ALL.iter().map(|desc| desc.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.len() > 100, "{}", ALL.len());
    }
}
