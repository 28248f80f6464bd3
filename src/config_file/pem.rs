//! Certificates and keys in PEM format.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

use super::{Given, Reader, Wrong};

/// More than any chain, or set of authorities, has.
const MAX_CERTIFICATES: usize = 1_000;

/// All certificates that are given, of which there is one at least.
pub(crate) fn certificates(
    pem: &Given,
    reader: &mut Reader,
) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    pem.read(reader, |bytes| {
        let found = CertificateDer::pem_slice_iter(bytes);
        let found: Result<Vec<_>, _> = found.take(MAX_CERTIFICATES + 1).collect();
        let found = found.map_err(|error| no_pem(&error, "certificate"))?;
        match found.len() {
            0 => Err("has no certificate in PEM format".to_owned()),
            1..=MAX_CERTIFICATES => Ok(found),
            _ => Err(format!("has more than {MAX_CERTIFICATES} certificates")),
        }
    })
}

/// A certificate, with its chain behind it, and its key.
pub(crate) fn certified(
    cert: &Given,
    key: &Given,
    provider: &CryptoProvider,
    reader: &mut Reader,
) -> Result<CertifiedKey, Wrong> {
    let chain = certificates(cert, reader)?;
    let der = key.read(reader, |bytes| {
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| no_pem(&error, "private key"))
    })?;
    CertifiedKey::from_der(chain, der, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => key.wrong("is not the key of the certificate"),
        rustls::Error::InvalidCertificate(error) => {
            cert.wrong(&format!("cannot be shown: {error:?}"))
        }
        error => key.wrong(&error.to_string()),
    })
}

fn no_pem(error: &PemError, what: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("has no {what} in PEM format"),
        error => format!("has no {what} that can be read: {error}"),
    }
}
