//! TLS versions, by the names used in Go.

use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_saphyr::Spanned;

use super::{ConfigError, Position};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// Returns the minimum and maximum version of a section; `at` is its position.
    pub(crate) fn parse_range(
        min: Option<Spanned<Self>>,
        max: Option<Self>,
        at: Position,
    ) -> Result<(Self, Self), ConfigError> {
        let at = min.as_ref().map_or(at, Position::from);
        let min = min.map_or(Self::Tls12, |it| it.value);
        let max = max.unwrap_or(Self::Tls13);
        if min > max {
            return Err(ConfigError::at(at, "min_version is above max_version"));
        }
        Ok((min, max))
    }

    /// The versions in a range, the newest first.
    pub(crate) fn protocol_versions(
        min: Self,
        max: Self,
    ) -> Vec<&'static SupportedProtocolVersion> {
        let supported = [(Self::Tls13, &TLS13), (Self::Tls12, &TLS12)].into_iter();
        let supported = supported.filter(|(version, _)| (min..=max).contains(version));
        supported.map(|(_, version)| version).collect()
    }
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        match name.as_str() {
            "TLS12" => Ok(Self::Tls12),
            "TLS13" => Ok(Self::Tls13),
            "TLS10" | "TLS11" => Err(D::Error::custom(format!(
                "{name} is not supported because it is insecure: use TLS12 or TLS13"
            ))),
            _ => Err(D::Error::custom(format!(
                "unknown TLS version {name:?}: use TLS12 or TLS13"
            ))),
        }
    }
}
