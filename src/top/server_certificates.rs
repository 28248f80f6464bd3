//! Whom to trust: the certificates that exporters show.
//!
//! `webpki` does the checking of chains. It takes none for a server's that may sign others; but such
//! ones are what `openssl req -x509` makes, and what Prometheus takes if they are named as `ca_file`.
//! So a certificate that is itself among those that are named is trusted, if its names and times fit.
//! Of those that are named, only authorities make others trusted: `webpki` would not look.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{parse_x509_certificate, x509::X509Version};

#[derive(Debug)]
pub(super) struct Trust {
    whom: Whom,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Whom {
    /// Whoever has the key of the certificate, whatever that is.
    Anybody,
    Known {
        /// None if nobody is an authority.
        authorities: Option<Arc<WebPkiServerVerifier>>,
        named: Vec<CertificateDer<'static>>,
    },
}

/// Says that a certificate may sign others, and was not named itself.
#[derive(Debug)]
struct IsAuthority;

impl fmt::Display for IsAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "it is signed by itself, or is an authority's: to trust it, name it itself in \
             tls_config.ca_file of --http.config.file",
        )
    }
}

impl std::error::Error for IsAuthority {}

impl Trust {
    /// In whoever has the key of the certificate, whatever that is.
    pub(super) fn in_anybody(provider: &CryptoProvider) -> Self {
        Self {
            whom: Whom::Anybody,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// In the certificates that are named, and in those that they signed.
    pub(super) fn in_named(
        named: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in named.iter().filter(|named| may_sign(named)) {
            roots
                .add(certificate.clone())
                .map_err(|error| error.to_string())?;
        }
        Ok(Self::new(roots, named, provider))
    }

    /// In the authorities that this system trusts.
    pub(super) fn in_systems(provider: &Arc<CryptoProvider>) -> Self {
        let mut roots = RootCertStore::empty();
        // What cannot be read is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::new(roots, Vec::new(), provider)
    }

    fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        let builder =
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
        let authorities = builder.build().ok();
        Self {
            whom: Whom::Known { authorities, named },
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Whom::Known { authorities, named } = &self.whom else {
            return Ok(ServerCertVerified::assertion());
        };
        if named.iter().any(|named| named == end_entity) {
            return verify_named(end_entity, server_name, now);
        }
        let verified = match authorities {
            Some(authorities) => authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verified.map_err(|error| match error {
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            ) if is_authority(end_entity) => {
                CertificateError::Other(OtherError(Arc::new(IsAuthority))).into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies all of a certificate but who signed it.
fn verify_named(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let unread = || Error::from(CertificateError::BadEncoding);
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| unread())?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = certificate.extended_key_usage().map_err(|_| unread())?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(ServerCertVerified::assertion())
}

/// Whether it is an authority's.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let parsed = parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Whether it may sign others, as Go has it: before version 3 no certificate says so.
fn may_sign(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else {
        return false;
    };
    let usage = certificate.key_usage().ok().flatten();
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
    signs && (certificate.is_ca() || certificate.version() != X509Version::V3)
}
