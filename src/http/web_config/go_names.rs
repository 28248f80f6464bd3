//! Go's names of cipher suites and curves that `rustls` with `ring` supports. Unsupported ones are
//! old or rare and cause an error that names them: if they were ignored, the server could be
//! unreachable, or reachable by more clients than intended.

use rustls::{
    CipherSuite, NamedGroup, SupportedCipherSuite,
    crypto::{SupportedKxGroup, ring},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::config_file::TlsVersion;

#[derive(Debug, Clone, Copy)]
pub(super) struct Suite(pub SupportedCipherSuite);

/// A key exchange group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Curve(pub &'static dyn SupportedKxGroup);

/// The supported suites, in Go's order of preference.
const SUITES: [(&str, CipherSuite); 9] = [
    (
        "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// The suites that only Go supports.
const UNSUPPORTED_SUITES: [&str; 8] = [
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// The supported curves, in Go's order of preference.
const CURVES: [(&str, NamedGroup); 3] = [
    ("X25519", NamedGroup::X25519),
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
];

impl Suite {
    fn from_id(id: CipherSuite) -> Option<Self> {
        let all = ring::ALL_CIPHER_SUITES.iter();
        all.copied().find(|suite| suite.suite() == id).map(Self)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        SUITES.iter().filter_map(|(_, id)| Self::from_id(*id))
    }

    pub(super) fn version(self) -> TlsVersion {
        match self.0 {
            SupportedCipherSuite::Tls12(_) => TlsVersion::Tls12,
            SupportedCipherSuite::Tls13(_) => TlsVersion::Tls13,
        }
    }
}

impl Curve {
    fn from_id(id: NamedGroup) -> Option<Self> {
        let all = ring::ALL_KX_GROUPS.iter();
        all.copied().find(|group| group.name() == id).map(Self)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        CURVES.iter().filter_map(|(_, id)| Self::from_id(*id))
    }
}

impl<'de> Deserialize<'de> for Suite {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let found = SUITES.iter().find(|(supported, _)| *supported == name);
        found.and_then(|(_, id)| Self::from_id(*id)).ok_or_else(|| {
            let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            D::Error::custom(if UNSUPPORTED_SUITES.contains(&name.as_str()) {
                format!("cipher suite {name} is weak and not supported, expected one of {names}")
            } else {
                format!("unknown cipher suite {name:?}, expected one of {names}")
            })
        })
    }
}

impl<'de> Deserialize<'de> for Curve {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let found = CURVES.iter().find(|(supported, _)| *supported == name);
        found.and_then(|(_, id)| Self::from_id(*id)).ok_or_else(|| {
            let names: Vec<_> = CURVES.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            D::Error::custom(if name == "CurveP521" {
                format!("curve CurveP521 is not supported, expected one of {names}")
            } else {
                format!("unknown curve {name:?}, expected one of {names}")
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_exactly_what_rustls_supports() {
        assert_eq!(Suite::all().count(), SUITES.len());
        assert_eq!(SUITES.len(), ring::ALL_CIPHER_SUITES.len());
        assert_eq!(Curve::all().count(), CURVES.len());
        assert_eq!(CURVES.len(), ring::ALL_KX_GROUPS.len());
    }
}
