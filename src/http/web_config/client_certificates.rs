//! Verification of client certificates.
//!
//! `webpki` verifies certificate chains. If certificates need not be signed by a CA, only
//! possession of the private key is verified, as in exporter-toolkit. If a list of names is
//! configured, any certificate must contain one of them.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

#[derive(Debug)]
pub(super) struct SanVerifier {
    /// Verifies the chain, if it has to be verified.
    pub chain: Option<Arc<dyn ClientCertVerifier>>,
    /// Whether a client may omit its certificate.
    pub is_optional: bool,
    /// `None` allows all names.
    pub allowed_sans: Option<Vec<String>>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl SanVerifier {
    pub(super) fn new(
        provider: &CryptoProvider,
        chain: Option<Arc<dyn ClientCertVerifier>>,
        is_optional: bool,
        allowed_sans: Option<Vec<String>>,
    ) -> Self {
        Self {
            chain,
            is_optional,
            allowed_sans,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

/// Error for a certificate with no name on the list.
#[derive(Debug)]
struct SanNotAllowed;

impl std::fmt::Display for SanNotAllowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no subject alternative name of the certificate is in client_allowed_sans")
    }
}

impl std::error::Error for SanNotAllowed {}

impl ClientCertVerifier for SanVerifier {
    fn client_auth_mandatory(&self) -> bool {
        // A client without a certificate has no name on the list.
        !self.is_optional || self.allowed_sans.is_some()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain
            .as_ref()
            .map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        if let Some(allowed) = &self.allowed_sans {
            let names = subject_alt_names(end_entity)?;
            if !names.iter().any(|name| allowed.contains(name)) {
                let reason = CertificateError::Other(OtherError(Arc::new(SanNotAllowed)));
                return Err(Error::InvalidCertificate(reason));
            }
        }
        Ok(ClientCertVerified::assertion())
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

/// The subject alternative names of a certificate, in Go's notation.
pub(super) fn subject_alt_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let invalid = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| invalid())?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| invalid())?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => parse_ip(bytes).map(|address| address.to_string()),
        _ => None,
    });
    Ok(names.collect())
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_are_formatted_as_in_go() {
        let v6 = |text: &str| {
            let octets: [u8; 16] = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            parse_ip(&octets).unwrap().to_string()
        };
        assert_eq!(parse_ip(&[10, 0, 0, 1]).unwrap().to_string(), "10.0.0.1");
        assert_eq!(v6("::1"), "::1");
        assert_eq!(v6("2001:db8:0:0:1::"), "2001:db8:0:0:1::");
        assert_eq!(v6("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(parse_ip(&[1, 2, 3]), None);
    }
}
