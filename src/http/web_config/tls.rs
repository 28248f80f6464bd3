//! What `rustls` serves with, made of the file.
//!
//! Sessions are not resumed: whoever scrapes keeps its connection, nothing is remembered of those
//! who come and go, and a certificate that was taken off the list is looked at anew each time.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use x509_parser::parse_x509_certificate;

use super::{
    client_certificates::Shown,
    files::Reader,
    go_names::{Curve, Suite, Version},
    schema::{Clients, Pem, Secret, Source, Tls, Wrong},
};

/// More than any chain, or set of authorities, has.
const MAX_CERTIFICATES: usize = 1_000;

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
    let chain = certificates(&tls.cert, reader)?;
    let key = tls.key.read(reader, |bytes| {
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| no_pem(&error, "private key"))
    })?;
    let clients = clients(tls, &provider, reader)?;
    let versions = versions(tls.min_version, tls.max_version);

    let wrong = |at| move |error: rustls::Error| Wrong::at(at, error.to_string());
    let expires = chain.first().map(expires);
    let expires = expires
        .flatten()
        .ok_or_else(|| tls.cert.wrong("is no certificate"))?;
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => tls.key.wrong("is not the key of the certificate"),
        rustls::Error::InvalidCertificate(error) => {
            tls.cert.wrong(&format!("cannot be served: {error:?}"))
        }
        error => tls.key.wrong(&error.to_string()),
    })?;
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

fn versions(min: Version, max: Version) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)].into_iter();
    let known = known.filter(|(version, _)| (min..=max).contains(version));
    known.map(|(_, version)| version).collect()
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

fn certificates(pem: &Pem, reader: &mut Reader) -> Result<Vec<CertificateDer<'static>>, Wrong> {
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

fn no_pem(error: &PemError, what: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("has no {what} in PEM format"),
        error => format!("has no {what} that can be read: {error}"),
    }
}

fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

impl Pem {
    fn read<T>(
        &self,
        reader: &mut Reader,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Wrong> {
        let read = match &self.from {
            Source::Text(Secret(text)) => parse(text.as_bytes()),
            Source::File(path) => reader.read(path).and_then(|bytes| parse(&bytes)),
        };
        read.map_err(|said| self.wrong(&said))
    }

    fn wrong(&self, said: &str) -> Wrong {
        let said = match &self.from {
            Source::Text(_) => format!("what stands here {said}"),
            Source::File(path) => format!("{}: {said}", path.display()),
        };
        Wrong::at(self.at, said)
    }
}
