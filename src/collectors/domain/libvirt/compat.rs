//! Whose names and labels there are where exporters for libvirt differ.

use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The names of one exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Compat {
    /// Those of inovex's exporter, version 2.
    Inovex,
    /// Those of Tinkoff's exporter that differ.
    Tinkoff,
    /// Those of kumina's exporter, 0.2.0, whose labels exclude all others.
    Kumina,
}

/// Which names there are beside those that all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CompatNames {
    /// Those that inovex has, and others have otherwise.
    pub inovex: bool,
    /// Those that Tinkoff has for what inovex has, too.
    pub tinkoff: bool,
    /// Those that kumina alone has; and its labels on those that all have.
    pub kumina: bool,
}

impl CompatNames {
    /// Those that a flag asks for. What kumina does not have is called as inovex calls it.
    pub(super) fn from_compat(compat: &[Compat]) -> Result<Self, String> {
        let kumina = compat.contains(&Compat::Kumina);
        if kumina && compat.iter().any(|each| *each != Compat::Kumina) {
            return Err("--collector.libvirt.compat: kumina excludes the others, as it has other labels on the same names".to_owned());
        }
        Ok(Self {
            inovex: kumina || compat.contains(&Compat::Inovex),
            tinkoff: compat.contains(&Compat::Tinkoff),
            kumina,
        })
    }
}

/// The flag of the `libvirt` collector, for another that heeds it and has none itself.
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
