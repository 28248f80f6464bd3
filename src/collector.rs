//! The trait of collectors, and the entries of their registry.

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::{
    error::{Error, Result},
    family::Families,
    metric::Desc,
    sources::Snapshot,
};

/// Describes the metrics of one subject and fills them from a snapshot.
///
/// A collector is synchronous code. It runs on a thread that may block, a panic does not affect
/// other collectors, and a run that exceeds the scrape's deadline is abandoned. Beside its flags it
/// holds only state that must outlive a scrape, such as counters that must not decrease.
pub trait Collector: Send + Sync + Sized + 'static {
    /// The name in `--collector.<name>` and in the `collector` label.
    const NAME: &'static str;
    /// Short description without a full stop, displayed after "Collects".
    const ABOUT: &'static str;
    /// Whether it is enabled by default.
    const ENABLED: bool = true;
    /// Every metric it can expose; `metrics!` generates this table.
    const METRICS: &'static [&'static Desc];
    /// Its own flags, all named `--collector.<name>.*`; [`NoFlags`] if it has none.
    type Flags: Args;

    /// Creates the collector. An invalid value of one flag is rejected by that flag's parser; an
    /// error here means that flags conflict, and is one line that names them.
    fn new(flags: Self::Flags) -> Result<Self, String>;

    /// Reads the machine and returns the samples.
    ///
    /// On an error nothing is exposed. If parts are independent of each other, a part that fails is
    /// left out and recorded with [`Families::ok_or_skip`].
    fn collect(&self, snapshot: &Snapshot) -> Result<Families>;
}

/// The flags of a collector without flags.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct NoFlags {}

/// The layers of a machine; each can be scraped by itself at `/metrics/<layer>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The machine itself: `node_*`.
    Host,
    /// Containers and other cgroups: `container_*`, `machine_*`.
    Containers,
    /// Libvirt domains: `libvirt_*`.
    Domains,
    /// Workloads of the machine in a few series: `census_*`.
    Census,
}

impl Layer {
    /// All layers.
    pub const ALL: [Self; 4] = [Self::Host, Self::Containers, Self::Domains, Self::Census];

    /// The name in the path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Containers => "containers",
            Self::Domains => "domains",
            Self::Census => "census",
        }
    }

    /// Short description.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Host => "the machine itself",
            Self::Containers => "containers, services and other control groups",
            Self::Domains => "virtual machines",
            Self::Census => "what runs here, in a few series",
        }
    }

    /// Whether its metrics need data of the container engines.
    #[must_use]
    pub const fn needs_engines(self) -> bool {
        matches!(self, Self::Containers | Self::Census)
    }

    /// Whether its metrics need data of libvirt, including the names of the domains' cgroups.
    #[must_use]
    pub const fn needs_libvirt(self) -> bool {
        matches!(self, Self::Containers | Self::Domains | Self::Census)
    }
}

/// A collector with its flags, type-erased.
pub type CollectFn = Box<dyn Fn(&Snapshot) -> Result<Families> + Send + Sync>;

/// An entry in the registry of collectors.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// [`Collector::NAME`].
    pub name: &'static str,
    /// [`Collector::ABOUT`].
    pub about: &'static str,
    /// [`Collector::ENABLED`].
    pub enabled: bool,
    /// The layer it belongs to.
    pub layer: Layer,
    /// [`Collector::METRICS`].
    pub metrics: &'static [&'static Desc],
    /// For a planned collector, its flags that are already accepted, without `collector.` and its
    /// name.
    pub reserved_flags: &'static [&'static str],
    /// Adds the collector's own flags to the command line.
    pub(crate) add_flags: fn(Command) -> Command,
    /// Creates the collector from the parsed command line.
    pub(crate) make: fn(&ArgMatches) -> Result<CollectFn, clap::Error>,
}

impl Entry {
    /// Registers `C`.
    #[must_use]
    pub const fn new<C: Collector>(layer: Layer) -> Self {
        Self {
            name: C::NAME,
            about: C::ABOUT,
            enabled: C::ENABLED,
            layer,
            metrics: C::METRICS,
            reserved_flags: &[],
            add_flags: C::Flags::augment_args,
            make: |matches| {
                let collector = C::new(C::Flags::from_arg_matches(matches)?).map_err(|clash| {
                    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, clash)
                })?;
                Ok(Box::new(move |snapshot| collector.collect(snapshot)))
            },
        }
    }

    /// Registers a collector of `node_exporter` that is not implemented yet, so that unit files and
    /// scrape configurations that name it keep working.
    #[must_use]
    pub const fn planned(
        name: &'static str,
        enabled: bool,
        reserved_flags: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            about: "nothing: not implemented yet",
            enabled,
            layer: Layer::Host,
            metrics: &[],
            reserved_flags,
            add_flags: |command| command,
            make: |_| Ok(Box::new(|_| Err(Error::Unsupported))),
        }
    }

    /// Whether the collector is not implemented yet.
    #[must_use]
    pub const fn is_planned(&self) -> bool {
        self.metrics.is_empty()
    }
}
