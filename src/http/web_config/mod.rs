//! `--web.config.file`: TLS, passwords, headers and a limit of requests, by the schema of
//! Prometheus's exporter-toolkit.
//!
//! docs/web-config.md says what is read how, and where this differs from the toolkit.

mod aside;
mod check;
mod client_certificates;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod go_names;
mod kept;
mod logins;
mod passwords;
mod rate_limit;
mod schema;
mod tls;

use std::path::Path;

pub use check::{CheckFlags, Checked, look, run};
pub use schema::{Config, parse};

pub(super) use kept::Kept;

use crate::config_file::{Reader, Seen, Wrong};
use schema::Clients;
use tls::Serving;

/// A file that was read, with the files it names.
#[derive(Debug)]
pub(super) struct Loaded {
    config: Config,
    /// None for plain HTTP.
    tls: Option<Serving>,
}

impl Loaded {
    /// Reads a file. The error names it. What was read on the way is told in any case.
    fn read(path: &Path) -> (Result<Self, String>, Vec<Seen>) {
        let mut reader = Reader::default();
        let loaded = match reader.read(path) {
            Ok(bytes) => Self::of(&bytes, path, &mut reader),
            Err(said) => Err(Wrong::nowhere(said)),
        };
        let loaded = loaded.map_err(|wrong| format!("{}:{wrong}", path.display()));
        (loaded, reader.seen)
    }

    fn of(bytes: &[u8], path: &Path, reader: &mut Reader) -> Result<Self, Wrong> {
        let config = parse(bytes, path.parent().unwrap_or(Path::new("")))?;
        let tls = match &config.tls {
            Some(tls) => Some(tls::serving(tls, config.http2, reader)?),
            None => None,
        };
        Ok(Self { config, tls })
    }

    /// Until when our own certificate holds, in seconds since 1970.
    fn expires(&self) -> Option<i64> {
        self.tls.as_ref().map(|tls| tls.expires)
    }

    /// Whether a new file may take this one's place while the server runs.
    fn gives_way_to(&self, new: &Self) -> Result<(), &'static str> {
        match (&self.tls, &new.tls) {
            (Some(_), None) => Err("TLS cannot be turned off while the exporter runs"),
            (None, Some(_)) => Err("TLS cannot be turned on while the exporter runs"),
            // Such as one that was cut to be written anew. Without users it would let
            // everybody in.
            _ if new.config.says_nothing() && !self.config.says_nothing() => Err("is empty"),
            _ => Ok(()),
        }
    }

    /// What it makes of the server.
    fn said(&self) -> String {
        let mut said = vec!["good"];
        match &self.config.tls {
            None => said.push("without TLS"),
            Some(tls) => said.push(match tls.clients {
                Clients::ShowNothing => "TLS",
                Clients::MayShowAny => "TLS, client certificates are asked for and not verified",
                Clients::ShowAny => "TLS, client certificates are required and not verified",
                Clients::MayShowKnown => "TLS, client certificates are verified if given",
                Clients::ShowKnown => "TLS, client certificates are required and verified",
            }),
        }
        let users = match self.config.users.len() {
            0 => "no passwords".to_owned(),
            1 => "1 user".to_owned(),
            many => format!("{many} users"),
        };
        said.push(&users);
        if self.config.rate_limit.is_some() {
            said.push("a limit of requests");
        }
        said.join(", ")
    }
}
