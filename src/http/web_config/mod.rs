//! `--web.config.file`: TLS, passwords, headers and a limit of requests, by the schema of
//! Prometheus's exporter-toolkit.
//!
//! docs/web-config.md says what is read how, and where this differs from the toolkit.

mod aside;
mod auth;
mod check;
mod client_certificates;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod go_names;
mod password_hash;
mod rate_limit;
mod reload;
mod schema;
mod tls;

use std::path::Path;

pub use check::{CheckFlags, WebConfigCheckOutput, check_file, run};
pub use schema::{WebServerConfig, parse};

pub(super) use reload::WebConfigWatcher;

use crate::config_file::{ConfigError, ConfigReader, FileVersion};
use schema::ClientAuth;
use tls::ServerTls;

/// A file that was read, with the files it names.
#[derive(Debug)]
pub(super) struct LoadedConfig {
    config: WebServerConfig,
    /// None for plain HTTP.
    tls: Option<ServerTls>,
}

impl LoadedConfig {
    /// Reads a file. The error names it. What was read on the way is told in any case.
    fn load(path: &Path) -> (Result<Self, String>, Vec<FileVersion>) {
        let mut reader = ConfigReader::default();
        let loaded = match reader.read(path) {
            Ok(bytes) => Self::from_bytes(&bytes, path, &mut reader),
            Err(said) => Err(ConfigError::without_position(said)),
        };
        let loaded = loaded.map_err(|wrong| format!("{}:{wrong}", path.display()));
        (loaded, reader.versions)
    }

    fn from_bytes(
        bytes: &[u8],
        path: &Path,
        reader: &mut ConfigReader,
    ) -> Result<Self, ConfigError> {
        let config = parse(bytes, path.parent().unwrap_or(Path::new("")))?;
        let tls = match &config.tls {
            Some(tls) => Some(tls::load_server_tls(tls, config.http2, reader)?),
            None => None,
        };
        Ok(Self { config, tls })
    }

    /// Until when our own certificate holds, in seconds since 1970.
    fn cert_expires(&self) -> Option<i64> {
        self.tls.as_ref().map(|tls| tls.cert_expires)
    }

    /// Whether a new file may take this one's place while the server runs.
    fn can_be_replaced_by(&self, new: &Self) -> Result<(), &'static str> {
        match (&self.tls, &new.tls) {
            (Some(_), None) => Err("TLS cannot be turned off while the exporter runs"),
            (None, Some(_)) => Err("TLS cannot be turned on while the exporter runs"),
            // Such as one that was cut to be written anew. Without users it would let
            // everybody in.
            _ if new.config.is_empty() && !self.config.is_empty() => Err("is empty"),
            _ => Ok(()),
        }
    }

    /// What it makes of the server.
    fn summary(&self) -> String {
        let mut parts = vec!["good"];
        match &self.config.tls {
            None => parts.push("without TLS"),
            Some(tls) => parts.push(match tls.client_auth {
                ClientAuth::NoClientCert => "TLS",
                ClientAuth::RequestClientCert => {
                    "TLS, client certificates are asked for and not verified"
                }
                ClientAuth::RequireAnyClientCert => {
                    "TLS, client certificates are required and not verified"
                }
                ClientAuth::VerifyClientCertIfGiven => {
                    "TLS, client certificates are verified if given"
                }
                ClientAuth::RequireAndVerifyClientCert => {
                    "TLS, client certificates are required and verified"
                }
            }),
        }
        let users = match self.config.users.len() {
            0 => "no passwords".to_owned(),
            1 => "1 user".to_owned(),
            many => format!("{many} users"),
        };
        parts.push(&users);
        if self.config.rate_limit.is_some() {
            parts.push("a limit of requests");
        }
        parts.join(", ")
    }
}
