//! `--web.config.file`: TLS, basic authentication, headers and a rate limit, in the format of
//! Prometheus's exporter-toolkit.
//!
//! `docs/web-config.md` documents the settings and the differences from the toolkit.

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

pub use check::{WebConfigCheckOutput, WebConfigFlags, check_file, run};
pub use schema::{WebServerConfig, parse};

pub(super) use reload::WebConfigWatcher;

use crate::config_file::{ConfigError, ConfigReader, FileVersion};
use schema::ClientAuth;
use tls::ServerTls;

/// A loaded web config file with the files it refers to.
#[derive(Debug)]
pub(super) struct LoadedConfig {
    config: WebServerConfig,
    /// `None` for plain HTTP.
    tls: Option<ServerTls>,
}

impl LoadedConfig {
    /// Loads a file. The error contains its path. Returns the versions of all files read, also on
    /// error.
    fn load(path: &Path) -> (Result<Self, String>, Vec<FileVersion>) {
        let mut reader = ConfigReader::default();
        let loaded = match reader.read(path) {
            Ok(bytes) => Self::from_bytes(&bytes, path, &mut reader),
            Err(error) => Err(ConfigError::without_position(error)),
        };
        let loaded = loaded.map_err(|error| format!("{}:{error}", path.display()));
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

    /// Expiry of the server's certificate, in seconds since 1970.
    fn cert_expires(&self) -> Option<i64> {
        self.tls.as_ref().map(|tls| tls.cert_expires)
    }

    /// Whether this config can be replaced by a new one while the server runs.
    fn can_be_replaced_by(&self, new: &Self) -> Result<(), &'static str> {
        match (&self.tls, &new.tls) {
            (Some(_), None) => Err("cannot disable TLS while the exporter runs"),
            (None, Some(_)) => Err("cannot enable TLS while the exporter runs"),
            // For example truncated before it is rewritten. Without users, all requests would be
            // accepted.
            _ if new.config.is_empty() && !self.config.is_empty() => Err("file is empty"),
            _ => Ok(()),
        }
    }

    /// Summarises the settings.
    fn summary(&self) -> String {
        let mut parts = vec!["valid"];
        match &self.config.tls {
            None => parts.push("no TLS"),
            Some(tls) => parts.push(match tls.client_auth {
                ClientAuth::NoClientCert => "TLS",
                ClientAuth::RequestClientCert => {
                    "TLS, client certificates requested and not verified"
                }
                ClientAuth::RequireAnyClientCert => {
                    "TLS, client certificates required and not verified"
                }
                ClientAuth::VerifyClientCertIfGiven => {
                    "TLS, client certificates verified if presented"
                }
                ClientAuth::RequireAndVerifyClientCert => {
                    "TLS, client certificates required and verified"
                }
            }),
        }
        let users = match self.config.users.len() {
            0 => "no authentication".to_owned(),
            1 => "1 user".to_owned(),
            many => format!("{many} users"),
        };
        parts.push(&users);
        if self.config.rate_limit.is_some() {
            parts.push("rate limit");
        }
        parts.join(", ")
    }
}
