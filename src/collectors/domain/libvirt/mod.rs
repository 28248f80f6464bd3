//! Virtual machines: what they are, do and use.
//!
//! One collector, for all of it comes in one answer per domain; a file for each subject.
//! There are several exporters for libvirt. The names here are those of inovex's (v2), and
//! by a flag those of Tinkoff's that differ, or those of the older kumina's (0.2.0).

mod labels;
mod state;

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{self, Desc},
    metrics,
    sources::{Snapshot, libvirt::Fetched},
};
use labels::block;

metrics! {
    /// Whether libvirt answered in this scrape.
    UP: Gauge = "libvirt_up" [];
    /// Domains, whatever they are doing.
    DOMAINS: Gauge = "libvirt_domains" [];
}

/// The metrics of all subjects.
const ALL: &[&Desc] =
    &metric::joined::<{ METRICS.len() + state::METRICS.len() }>(&[METRICS, state::METRICS]);

/// Whose names there are beside those that all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compat {
    /// Those of inovex's exporter, version 2.
    Inovex,
    /// Those of Tinkoff's exporter that differ.
    Tinkoff,
    /// Those of kumina's exporter, 0.2.0, whose labels exclude all others.
    Kumina,
}

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
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Libvirt {
    flags: Flags,
}

impl Collector for Libvirt {
    const NAME: &'static str = "libvirt";
    const ABOUT: &'static str = "what virtual machines are, do and use";
    const METRICS: &'static [&'static Desc] = ALL;
    type Flags = Flags;

    fn new(flags: Flags) -> Result<Self, String> {
        let kumina = flags.libvirt_compat.contains(&Compat::Kumina);
        if kumina && flags.libvirt_compat.len() > 1 {
            return Err("--collector.libvirt.compat: kumina excludes the others, as it has other labels on the same names".to_owned());
        }
        Ok(Self { flags })
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        self.families(&mut out, machine.domains()?);
        Ok(out)
    }
}

impl Libvirt {
    fn families(&self, out: &mut Families, fetched: &Fetched) {
        let _ = &self.flags;
        out.add(&UP, [], fetched.connection.is_up);
        if !fetched.connection.is_up {
            return;
        }
        out.add(&DOMAINS, [], fetched.domains.len());
        for domain in &fetched.domains {
            state::families(out, &block(domain), domain);
        }
    }
}
