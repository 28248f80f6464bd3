//! What a collector is, and how one is registered.

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::{
    error::{Error, Result},
    family::Families,
    metric::Desc,
    sources::Snapshot,
};

/// One subject, one module: describes its metrics and fills them from a snapshot.
///
/// A collector is plain synchronous code. It runs on a thread where blocking is
/// fine, may panic without hurting its neighbours, and is abandoned when it
/// outlives the scrape. Beside its flags it holds only what must outlive a
/// scrape, such as the counters that may not step back.
pub trait Collector: Send + Sync + Sized + 'static {
    /// The name in `--collector.<name>` and in the `collector` label.
    const NAME: &'static str;
    /// What it is about, in a few words without a full stop, to be read after
    /// "Collects".
    const ABOUT: &'static str;
    /// Whether it runs unless told otherwise.
    const ENABLED: bool = true;
    /// Every metric it can expose; `metrics!` writes this table.
    const METRICS: &'static [&'static Desc];
    /// Its own flags, all named `--collector.<name>.*`; [`NoFlags`] for none.
    type Flags: Args;

    /// Makes the collector. A value that is wrong by itself is rejected by its
    /// flag's own parser; what is left to fail here is flags that clash, with one
    /// line that says which.
    fn new(flags: Self::Flags) -> Result<Self, String>;

    /// Reads the machine and says what it saw.
    ///
    /// An error means that nothing is exposed. Where parts are independent of each
    /// other, one that fails is left out and noted with [`Families::keep`].
    fn collect(&self, snapshot: &Snapshot) -> Result<Families>;
}

/// The flags of a collector that has none.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct NoFlags {}

/// The layers of a machine; each can be scraped by itself at `/metrics/<layer>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The machine itself: `node_*`.
    Host,
    /// Its containers and other control groups: `container_*`, `machine_*`.
    Containers,
    /// Its virtual machines: `libvirt_*`.
    Domains,
    /// What runs on it, in a few series: `census_*`.
    Census,
}

impl Layer {
    /// All of them.
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

    /// What it is about, in a few words.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Host => "the machine itself",
            Self::Containers => "containers, services and other control groups",
            Self::Domains => "virtual machines",
            Self::Census => "what runs here, in a few series",
        }
    }

    /// Whether it takes container engines to say all of it.
    #[must_use]
    pub const fn needs_engines(self) -> bool {
        matches!(self, Self::Containers | Self::Census)
    }

    /// Whether it takes libvirt to say all of it: to name the control groups of virtual
    /// machines, too.
    #[must_use]
    pub const fn needs_libvirt(self) -> bool {
        matches!(self, Self::Containers | Self::Domains | Self::Census)
    }
}

/// A made collector, with its type forgotten.
pub type CollectFn = Box<dyn Fn(&Snapshot) -> Result<Families> + Send + Sync>;

/// A collector in the list of all collectors.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// [`Collector::NAME`].
    pub name: &'static str,
    /// [`Collector::ABOUT`].
    pub about: &'static str,
    /// [`Collector::ENABLED`].
    pub enabled: bool,
    /// What part of the machine it looks at.
    pub layer: Layer,
    /// [`Collector::METRICS`].
    pub metrics: &'static [&'static Desc],
    /// Of a collector still to come, the flags that are taken already, without
    /// `collector.` and its name.
    pub reserved_flags: &'static [&'static str],
    /// Adds the collector's own flags to the command line.
    pub(crate) add_flags: fn(Command) -> Command,
    /// Makes the collector from the parsed command line.
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
                Ok(Box::new(move |machine| collector.collect(machine)))
            },
        }
    }

    /// Holds the place of a collector of `node_exporter`'s that is still to come, so
    /// that unit files and scrape configurations which name it go on working.
    #[must_use]
    pub const fn planned(
        name: &'static str,
        enabled: bool,
        reserved_flags: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            about: "nothing yet: not built",
            enabled,
            layer: Layer::Host,
            metrics: &[],
            reserved_flags,
            add_flags: |command| command,
            make: |_| Ok(Box::new(|_| Err(Error::Unsupported))),
        }
    }

    /// Whether the collector is still to come.
    #[must_use]
    pub const fn is_planned(&self) -> bool {
        self.metrics.is_empty()
    }
}
