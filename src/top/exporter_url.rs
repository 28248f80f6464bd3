//! Whom to ask, as it is named on the command line.

use std::{fmt, path::PathBuf, str::FromStr};

use hyper::Uri;
use rustls::pki_types::ServerName;

/// An exporter to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExporterUrl {
    pub(super) transport: HttpTransport,
    /// As the header `Host` has it.
    pub(super) host: String,
    /// What stands before `/api`.
    pub(super) base_path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HttpTransport {
    /// A host and its port.
    Http(String),
    /// A host and its port, and the name that its certificate has to have.
    Https(String, ServerName<'static>),
    Unix(PathBuf),
}

impl Default for ExporterUrl {
    fn default() -> Self {
        Self {
            transport: HttpTransport::Http("localhost:9100".to_owned()),
            host: "localhost:9100".to_owned(),
            base_path: String::new(),
        }
    }
}

impl FromStr for ExporterUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err("expected unix:///PATH".to_owned());
            }
            return Ok(Self {
                transport: HttpTransport::Unix(path.into()),
                host: "localhost".to_owned(),
                base_path: String::new(),
            });
        }
        // As in --web.listen-address, there need be no more than a host.
        let (url, port) = match url.split_once("://") {
            Some(("http", _)) => (url.to_owned(), 80),
            Some(("https", _)) => (url.to_owned(), 443),
            Some(_) => return Err("expected http://, https:// or unix:///PATH".to_owned()),
            None => (format!("http://{url}"), 9100),
        };
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let authority = uri.authority().ok_or("a host is missing")?;
        if authority.as_str().contains('@') {
            let message = "name and password belong into --http.config.file, as basic_auth";
            return Err(message.to_owned());
        }
        if uri.query().is_some() {
            return Err("expected no ?".to_owned());
        }
        let host = authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => port,
            None => return Err("expected a port up to 65535".to_owned()),
        };
        let address = format!("{host}:{port}");
        let way = if uri.scheme_str() == Some("https") {
            let name = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            let name = name.unwrap_or(host).to_owned();
            let name = ServerName::try_from(name)
                .map_err(|_| "no certificate has such a name".to_owned())?;
            HttpTransport::Https(address, name)
        } else {
            HttpTransport::Http(address)
        };
        Ok(Self {
            transport: way,
            host: authority.as_str().to_owned(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Https(address, _) => write!(f, "https://{address}"),
            Self::Unix(socket) => write!(f, "unix://{}", socket.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_url_or_bare_host() {
        for (url, address, base) in [
            ("http://localhost:9100", "localhost:9100", ""),
            ("http://example/strata/", "example:80", "/strata"),
            ("example", "example:9100", ""),
            ("127.0.0.1:9200", "127.0.0.1:9200", ""),
            ("http://[::1]:9100/", "[::1]:9100", ""),
        ] {
            let exporter: ExporterUrl = url.parse().unwrap();
            assert_eq!(
                exporter.transport,
                HttpTransport::Http(address.to_owned()),
                "{url}"
            );
            assert_eq!(exporter.base_path, base, "{url}");
        }
        for (url, address, name) in [
            ("https://example", "example:443", "example"),
            ("https://10.0.0.1:9100/strata", "10.0.0.1:9100", "10.0.0.1"),
            ("https://[::1]:9100", "[::1]:9100", "::1"),
        ] {
            let exporter: ExporterUrl = url.parse().unwrap();
            let name = ServerName::try_from(name).unwrap();
            assert_eq!(
                exporter.transport,
                HttpTransport::Https(address.to_owned(), name),
                "{url}"
            );
        }
        for url in ["unix:///run/s", "unix:/run/s"] {
            let exporter: ExporterUrl = url.parse().unwrap();
            assert_eq!(
                exporter.transport,
                HttpTransport::Unix("/run/s".into()),
                "{url}"
            );
        }
        let password = "name and password belong into --http.config.file, as basic_auth";
        for (url, said) in [
            ("https://me:secret@x", password),
            ("http://me@x", password),
            ("me:secret@x", password),
            ("https://a..b", "no certificate has such a name"),
            ("x:99999", "expected a port up to 65535"),
            ("https://[::1]:", "expected a port up to 65535"),
            ("unix:s", "expected unix:///PATH"),
            ("ftp://x", "expected http://, https:// or unix:///PATH"),
            ("x?y=1", "expected no ?"),
        ] {
            assert_eq!(url.parse::<ExporterUrl>(), Err(said.to_owned()), "{url}");
        }
        assert!("".parse::<ExporterUrl>().is_err());
    }
}
