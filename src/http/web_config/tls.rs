//! What `rustls` serves with, made of the file.
//!
//! Sessions are not resumed: whoever scrapes keeps its connection, nothing is remembered of those
//! who come and go, and a certificate that was taken off the list is looked at anew each time.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::parse_x509_certificate;

use super::{
    client_certificates::Shown,
    go_names::{Curve, Suite},
    schema::{Clients, Tls},
};
use crate::config_file::{Reader, Version, Wrong, certificates, certified};

/// How to serve.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    pub config: Arc<ServerConfig>,
    /// Until when our own certificate holds, in seconds since 1970.
    pub expires: i64,
}

/// Reads what the file names.
pub(super) fn serving(tls: &Tls, http2: bool, reader: &mut Reader) -> Result<Serving, Wrong> {
    let provider = Arc::new(provider(tls));
    let clients = clients(tls, &provider, reader)?;
    let versions = Version::between(tls.min_version, tls.max_version);

    let wrong = |at| move |error: rustls::Error| Wrong::at(at, error.to_string());
    let certified = certified(&tls.cert, &tls.key, &provider, reader)?;
    let expires = certified.end_entity_cert().ok().and_then(expires);
    let expires = expires.ok_or_else(|| tls.cert.wrong("is no certificate"))?;
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(wrong(tls.cert.at))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::new(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.ignore_client_order = tls.prefers_own_order;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let http1 = b"http/1.1".to_vec();
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), http1]
    } else {
        vec![http1]
    };
    let config = Arc::new(config);
    Ok(Serving { config, expires })
}

/// The suites of TLS 1.3 are all there, whatever is named: Go does so.
fn provider(tls: &Tls) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let suites: Vec<Suite> = if tls.suites.is_empty() {
        Suite::all().collect()
    } else {
        let named = tls.suites.iter().copied();
        let all = Suite::all().filter(|suite| suite.version() == Version::Tls13);
        let mut suites: Vec<Suite> = Vec::new();
        for suite in named.chain(all) {
            if !suites.iter().any(|known| known.0 == suite.0) {
                suites.push(suite);
            }
        }
        suites
    };
    provider.cipher_suites = suites.iter().map(|suite| suite.0).collect();
    let curves: Vec<Curve> = if tls.curves.is_empty() {
        Curve::all().collect()
    } else {
        tls.curves.clone()
    };
    provider.kx_groups = curves.iter().map(|curve| curve.0).collect();
    provider
}

/// Whose connections are taken; None for everybody's.
fn clients(
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
    reader: &mut Reader,
) -> Result<Option<Shown>, Wrong> {
    if tls.clients == Clients::ShowNothing {
        return Ok(None);
    }
    let is_optional = matches!(tls.clients, Clients::MayShowAny | Clients::MayShowKnown);
    let chain: Option<Arc<dyn ClientCertVerifier>> = match &tls.client_ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca, reader)? {
                roots
                    .add(certificate)
                    .map_err(|error| ca.wrong(&error.to_string()))?;
            }
            let provider = Arc::clone(provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            Some(
                verifier
                    .build()
                    .map_err(|error| ca.wrong(&error.to_string()))?,
            )
        }
        None => None,
    };
    let sans = tls.allowed_sans.clone();
    Ok(Some(Shown::new(provider, chain, is_optional, sans)))
}

fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
