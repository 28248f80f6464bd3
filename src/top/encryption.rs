//! TLS to an exporter.
//!
//! Sessions are not resumed: its certificate is looked at anew each time.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::ring,
    pki_types::ServerName,
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{http_config::TlsClientConfig, server_certificates::Trust};
use crate::config_file::{ConfigError, ConfigReader, TlsVersion, certificates, certified_key};

pub(super) struct Encryption {
    connector: TlsConnector,
    /// Whose certificate has to be shown.
    name: ServerName<'static>,
    own: Arc<Own>,
}

/// What is shown to those that ask who asks.
#[derive(Debug)]
pub(super) struct Own {
    certified: Option<Arc<CertifiedKey>>,
    /// Whether one was asked for.
    is_asked: AtomicBool,
}

impl Encryption {
    /// Reads what the settings name, and whom the system trusts if they name nobody.
    pub(super) fn new(
        tls: &TlsClientConfig,
        name: &ServerName<'static>,
        reader: &mut ConfigReader,
    ) -> Result<Self, ConfigError> {
        let provider = Arc::new(ring::default_provider());
        let trust = match &tls.ca {
            _ if tls.insecure_skip_verify => Trust::in_anybody(&provider),
            Some(ca) => {
                let named = certificates(ca, reader)?;
                Trust::in_named(named, &provider).map_err(|said| ca.error(&said))?
            }
            None => Trust::in_systems(&provider),
        };
        let certified = match &tls.client_cert {
            Some((cert, key)) => Some(Arc::new(certified_key(cert, key, &provider, reader)?)),
            None => None,
        };
        let own = Arc::new(Own {
            certified,
            is_asked: AtomicBool::new(false),
        });
        let versions = TlsVersion::protocol_versions(tls.min_version, tls.max_version);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| ConfigError::without_position(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust))
            .with_client_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: tls.server_name.as_ref().unwrap_or(name).clone(),
            own,
        })
    }

    pub(super) async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }

    pub(super) fn own(&self) -> &Own {
        &self.own
    }
}

impl Own {
    /// Whether there is something to show.
    pub(super) fn is_there(&self) -> bool {
        self.certified.is_some()
    }

    pub(super) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_asked.store(true, Ordering::Relaxed);
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        self.is_there()
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
