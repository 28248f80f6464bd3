//! Certificates and keys in PEM format.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

use super::{ConfigError, ConfigReader, InlineOrFile};

/// More than any chain or set of certificate authorities has.
const MAX_CERTIFICATES: usize = 1_000;

/// Parses all certificates; at least one is required.
pub(crate) fn certificates(
    pem: &InlineOrFile,
    reader: &mut ConfigReader,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    pem.read(reader, |bytes| {
        let certificates = CertificateDer::pem_slice_iter(bytes);
        let certificates: Result<Vec<_>, _> = certificates.take(MAX_CERTIFICATES + 1).collect();
        let certificates = certificates.map_err(|error| pem_error(&error, "certificate"))?;
        match certificates.len() {
            0 => Err("has no certificate in PEM format".to_owned()),
            1..=MAX_CERTIFICATES => Ok(certificates),
            _ => Err(format!("has more than {MAX_CERTIFICATES} certificates")),
        }
    })
}

/// Parses a certificate, followed by its chain, and its key.
pub(crate) fn certified_key(
    cert: &InlineOrFile,
    key: &InlineOrFile,
    provider: &CryptoProvider,
    reader: &mut ConfigReader,
) -> Result<CertifiedKey, ConfigError> {
    let chain = certificates(cert, reader)?;
    let der = key.read(reader, |bytes| {
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| pem_error(&error, "private key"))
    })?;
    CertifiedKey::from_der(chain, der, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => key.error("does not match the certificate"),
        rustls::Error::InvalidCertificate(error) => cert.error(&format!("is invalid: {error:?}")),
        error => key.error(&error.to_string()),
    })
}

fn pem_error(error: &PemError, what: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("has no {what} in PEM format"),
        error => format!("has an invalid {what}: {error}"),
    }
}
