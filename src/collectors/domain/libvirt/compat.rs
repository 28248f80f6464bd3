//! Selection of metric names and labels where libvirt exporters differ.

use clap::{ArgMatches, Args, Command, FromArgMatches};

/// A libvirt exporter whose names can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Compat {
    /// Names of inovex's exporter, version 2.
    Inovex,
    /// Names of Tinkoff's exporter that differ from inovex's.
    Tinkoff,
    /// Names and labels of kumina's exporter, 0.2.0; excludes the others.
    Kumina,
}

/// The names that are exposed in addition to the common ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CompatNames {
    /// inovex's names for metrics that other exporters name differently.
    pub inovex: bool,
    /// Tinkoff's names for metrics that inovex's exporter has, too.
    pub tinkoff: bool,
    /// Names that only kumina's exporter has, and its labels on the common metrics.
    pub kumina: bool,
}

impl CompatNames {
    /// The names for the values of the flag. Metrics that kumina's exporter does not have get
    /// inovex's names.
    pub(super) fn from_compat(compat: &[Compat]) -> Result<Self, String> {
        let kumina = compat.contains(&Compat::Kumina);
        if kumina && compat.iter().any(|each| *each != Compat::Kumina) {
            return Err(
                "--collector.libvirt.compat: kumina cannot be combined with other values, \
                 because its labels differ"
                    .to_owned(),
            );
        }
        Ok(Self {
            inovex: kumina || compat.contains(&Compat::Inovex),
            tinkoff: compat.contains(&Compat::Tinkoff),
            kumina,
        })
    }
}

/// The flag of the `libvirt` collector, for another collector that depends on it.
#[derive(Debug)]
pub(in super::super) struct SharedFlags(Vec<Compat>);

impl SharedFlags {
    pub(in super::super) fn compat_names(&self) -> Result<CompatNames, String> {
        CompatNames::from_compat(&self.0)
    }
}

impl FromArgMatches for SharedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let found = matches.try_get_many("libvirt_compat");
        let values = found.map_err(|error| {
            clap::Error::raw(clap::error::ErrorKind::UnknownArgument, error.to_string())
        })?;
        Ok(Self(values.unwrap_or_default().copied().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SharedFlags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kumina_excludes_others_and_implies_inovex() {
        let names = CompatNames::from_compat(&[Compat::Kumina, Compat::Kumina]).unwrap();
        assert!(names.kumina && names.inovex && !names.tinkoff);
        let names = CompatNames::from_compat(&[Compat::Tinkoff]).unwrap();
        assert!(!names.kumina && !names.inovex && names.tinkoff);
        assert!(CompatNames::from_compat(&[Compat::Inovex, Compat::Kumina]).is_err());
    }
}
