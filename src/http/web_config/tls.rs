//! The `rustls` configuration of a web config file.
//!
//! Session resumption is disabled: scrapers keep their connections open, no state is held for
//! short-lived clients, and each handshake verifies the certificate again, so a removed one is
//! rejected.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::parse_x509_certificate;

use super::{
    client_certificates::SanVerifier,
    go_names::{Curve, Suite},
    schema::{ClientAuth, TlsServerConfig},
};
use crate::config_file::{ConfigError, ConfigReader, TlsVersion, certificates, certified_key};

/// TLS configuration of the server.
#[derive(Debug, Clone)]
pub(super) struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// Expiry of the server's certificate, in seconds since 1970.
    pub cert_expires: i64,
}

/// Loads the files that the settings refer to.
pub(super) fn load_server_tls(
    tls: &TlsServerConfig,
    http2: bool,
    reader: &mut ConfigReader,
) -> Result<ServerTls, ConfigError> {
    let provider = Arc::new(crypto_provider(tls));
    let clients = client_verifier(tls, &provider, reader)?;
    let versions = TlsVersion::protocol_versions(tls.min_version, tls.max_version);

    let config_error = |at| move |error: rustls::Error| ConfigError::at(at, error.to_string());
    let certified = certified_key(&tls.cert, &tls.key, &provider, reader)?;
    let expires = certified.end_entity_cert().ok().and_then(not_after);
    let expires = expires.ok_or_else(|| tls.cert.error("is not a certificate"))?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(config_error(tls.cert.position))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let http1 = b"http/1.1".to_vec();
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), http1]
    } else {
        vec![http1]
    };
    let config = Arc::new(config);
    Ok(ServerTls {
        config,
        cert_expires: expires,
    })
}

/// All suites of TLS 1.3 are enabled regardless of the configured list, as in Go.
fn crypto_provider(tls: &TlsServerConfig) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let suites: Vec<Suite> = if tls.cipher_suites.is_empty() {
        Suite::all().collect()
    } else {
        let named = tls.cipher_suites.iter().copied();
        let all = Suite::all().filter(|suite| suite.version() == TlsVersion::Tls13);
        let mut suites: Vec<Suite> = Vec::new();
        for suite in named.chain(all) {
            if !suites.iter().any(|other| other.0 == suite.0) {
                suites.push(suite);
            }
        }
        suites
    };
    provider.cipher_suites = suites.iter().map(|suite| suite.0).collect();
    let curves: Vec<Curve> = if tls.curve_preferences.is_empty() {
        Curve::all().collect()
    } else {
        tls.curve_preferences.clone()
    };
    provider.kx_groups = curves.iter().map(|curve| curve.0).collect();
    provider
}

/// The verifier of client certificates; `None` if none is requested.
fn client_verifier(
    tls: &TlsServerConfig,
    provider: &Arc<CryptoProvider>,
    reader: &mut ConfigReader,
) -> Result<Option<SanVerifier>, ConfigError> {
    if tls.client_auth == ClientAuth::NoClientCert {
        return Ok(None);
    }
    let is_optional = matches!(
        tls.client_auth,
        ClientAuth::RequestClientCert | ClientAuth::VerifyClientCertIfGiven
    );
    let chain: Option<Arc<dyn ClientCertVerifier>> = match &tls.client_ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca, reader)? {
                roots
                    .add(certificate)
                    .map_err(|error| ca.error(&error.to_string()))?;
            }
            let provider = Arc::clone(provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            Some(
                verifier
                    .build()
                    .map_err(|error| ca.error(&error.to_string()))?,
            )
        }
        None => None,
    };
    let sans = tls.allowed_sans.clone();
    Ok(Some(SanVerifier::new(provider, chain, is_optional, sans)))
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
