//! Exporter URL of the command line.

use std::{fmt, path::PathBuf, str::FromStr};

use hyper::Uri;
use rustls::pki_types::ServerName;

/// An exporter to query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExporterUrl {
    pub(super) transport: HttpTransport,
    /// Value of the header `Host`.
    pub(super) host: String,
    /// Path before `/api`.
    pub(super) base_path: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HttpTransport {
    /// `HOST:PORT`.
    Http(String),
    /// `HOST:PORT`, and the name that the certificate has to be valid for.
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
        // A host is enough, as in --web.listen-address.
        let (url, port) = match url.split_once("://") {
            Some(("http", _)) => (url.to_owned(), 80),
            Some(("https", _)) => (url.to_owned(), 443),
            Some(_) => return Err("expected http://, https:// or unix:///PATH".to_owned()),
            None => (format!("http://{url}"), 9100),
        };
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let authority = uri.authority().ok_or("missing host")?;
        if authority.as_str().contains('@') {
            let message = "user name and password are not supported in the URL, set basic_auth in \
                           --http.config.file";
            return Err(message.to_owned());
        }
        if uri.query().is_some() {
            return Err("unexpected query string".to_owned());
        }
        let host = authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => port,
            None => return Err("invalid port".to_owned()),
        };
        let address = format!("{host}:{port}");
        let transport = if uri.scheme_str() == Some("https") {
            let name = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            let name = name.unwrap_or(host).to_owned();
            let name = ServerName::try_from(name).map_err(|_| "invalid server name".to_owned())?;
            HttpTransport::Https(address, name)
        } else {
            HttpTransport::Http(address)
        };
        Ok(Self {
            transport,
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
        let password = "user name and password are not supported in the URL, set basic_auth in \
                        --http.config.file";
        for (url, expected) in [
            ("https://me:secret@x", password),
            ("http://me@x", password),
            ("me:secret@x", password),
            ("https://a..b", "invalid server name"),
            ("x:99999", "invalid port"),
            ("https://[::1]:", "invalid port"),
            ("unix:s", "expected unix:///PATH"),
            ("ftp://x", "expected http://, https:// or unix:///PATH"),
            ("x?y=1", "unexpected query string"),
        ] {
            assert_eq!(
                url.parse::<ExporterUrl>(),
                Err(expected.to_owned()),
                "{url}"
            );
        }
        assert!("".parse::<ExporterUrl>().is_err());
    }
}
