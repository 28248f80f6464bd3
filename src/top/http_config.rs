//! `--http.config.file`: the part of Prometheus's HTTP client settings that applies to an
//! exporter, with the same names and rules, so that lines of a `prometheus.yml` can be copied.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config_file::{
    ConfigError, ConfigReader, InlineOrFile, Position, Secret, TlsVersion, parse_inline_or_file,
    parse_yaml,
};

/// Settings of Prometheus that are not supported here.
const UNSUPPORTED_KEYS: [&str; 16] = [
    "authorization",
    "bearer_token",
    "bearer_token_file",
    "ca_ref",
    "cert_ref",
    "enable_http2",
    "follow_redirects",
    "http_headers",
    "key_ref",
    "no_proxy",
    "oauth2",
    "password_ref",
    "proxy_connect_header",
    "proxy_from_environment",
    "proxy_url",
    "username_ref",
];

/// The parsed file.
#[derive(Debug, Default)]
pub(super) struct HttpConfig {
    pub basic_auth: Option<BasicAuth>,
    pub tls: TlsClientConfig,
}

/// Credentials.
#[derive(Debug)]
pub(super) struct BasicAuth {
    username: InlineOrFile,
    /// Empty password if `None`.
    password: Option<InlineOrFile>,
}

/// TLS versions, certificates and trust anchors.
#[derive(Debug)]
pub(super) struct TlsClientConfig {
    /// `None` for the trust anchors of the system.
    pub ca: Option<InlineOrFile>,
    /// The client certificate and its key.
    pub client_cert: Option<(InlineOrFile, InlineOrFile)>,
    /// `None` for the name in the URL.
    pub server_name: Option<ServerName<'static>>,
    pub insecure_skip_verify: bool,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

impl Default for TlsClientConfig {
    fn default() -> Self {
        Self {
            ca: None,
            client_cert: None,
            server_name: None,
            insecure_skip_verify: false,
            min_version: TlsVersion::Tls12,
            max_version: TlsVersion::Tls13,
        }
    }
}

/// The file as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpConfigDocument {
    basic_auth: Option<Spanned<BasicAuthSection>>,
    tls_config: Option<Spanned<TlsClientSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicAuthSection {
    username: Option<Spanned<Secret>>,
    username_file: Option<Spanned<String>>,
    password: Option<Spanned<Secret>>,
    password_file: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsClientSection {
    ca: Option<Spanned<Secret>>,
    ca_file: Option<Spanned<String>>,
    cert: Option<Spanned<Secret>>,
    cert_file: Option<Spanned<String>>,
    key: Option<Spanned<Secret>>,
    key_file: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
    insecure_skip_verify: Option<bool>,
    min_version: Option<Spanned<TlsVersion>>,
    max_version: Option<TlsVersion>,
}

/// Parses the file. Files that it refers to are not opened; relative paths are resolved in `dir`.
pub(super) fn parse(bytes: &[u8], dir: &Path) -> Result<HttpConfig, ConfigError> {
    let document: Option<HttpConfigDocument> = parse_yaml(bytes).map_err(explain_unsupported)?;
    let document = document.unwrap_or_default();
    let basic_auth = document
        .basic_auth
        .map(|section| parse_basic_auth(section, dir));
    let tls = document.tls_config.map(|section| parse_tls(section, dir));
    Ok(HttpConfig {
        basic_auth: basic_auth.transpose()?,
        tls: tls.transpose()?.unwrap_or_default(),
    })
}

/// Distinguishes unsupported settings of Prometheus from unknown ones.
fn explain_unsupported(mut error: ConfigError) -> ConfigError {
    let key = error.message.strip_prefix("unknown field `");
    let key = key.and_then(|rest| rest.split_once('`'));
    let unsupported = key.and_then(|(key, _)| UNSUPPORTED_KEYS.into_iter().find(|it| *it == key));
    if let Some(key) = unsupported {
        error.message = format!("{key} is not supported by top, only basic_auth and tls_config");
    }
    error
}

fn parse_basic_auth(
    section: Spanned<BasicAuthSection>,
    dir: &Path,
) -> Result<BasicAuth, ConfigError> {
    let at = Position::from(&section);
    let fields = section.value;
    let username = parse_inline_or_file(fields.username, fields.username_file, "username", dir)?;
    let password = parse_inline_or_file(fields.password, fields.password_file, "password", dir)?;
    let missing = || ConfigError::at(at, "basic_auth needs username or username_file");
    let username = username.ok_or_else(missing)?;
    Ok(BasicAuth { username, password })
}

fn parse_tls(
    section: Spanned<TlsClientSection>,
    dir: &Path,
) -> Result<TlsClientConfig, ConfigError> {
    let at = Position::from(&section);
    let fields = section.value;
    let ca = parse_inline_or_file(fields.ca, fields.ca_file, "ca", dir)?;
    let cert = parse_inline_or_file(fields.cert, fields.cert_file, "cert", dir)?;
    let key = parse_inline_or_file(fields.key, fields.key_file, "key", dir)?;
    let client_cert = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (Some(cert), None) => {
            return Err(ConfigError::at(
                cert.position,
                "missing one of key or key_file",
            ));
        }
        (None, Some(key)) => {
            return Err(ConfigError::at(
                key.position,
                "missing one of cert or cert_file",
            ));
        }
        (None, None) => None,
    };
    let server_name = fields.server_name.filter(|name| !name.value.is_empty());
    let server_name = server_name.map(|name| {
        let at = Position::from(&name);
        ServerName::try_from(name.value).map_err(|_| ConfigError::at(at, "invalid server_name"))
    });
    let (min_version, max_version) =
        TlsVersion::parse_range(fields.min_version, fields.max_version, at)?;
    Ok(TlsClientConfig {
        ca,
        client_cert,
        server_name: server_name.transpose()?,
        insecure_skip_verify: fields.insecure_skip_verify.unwrap_or(false),
        min_version,
        max_version,
    })
}

impl BasicAuth {
    /// Value of the header `Authorization`.
    pub(super) fn authorization_header(
        &self,
        reader: &mut ConfigReader,
    ) -> Result<HeaderValue, ConfigError> {
        let username = read_text(&self.username, reader)?;
        if username.is_empty() {
            return Err(self.username.error("is empty"));
        }
        if username.contains(':') {
            let message = "contains a colon, which basic authentication does not allow";
            return Err(self.username.error(message));
        }
        let password = self.password.as_ref().map(|it| read_text(it, reader));
        let password = password.transpose()?.unwrap_or_default();
        let login = STANDARD.encode(format!("{username}:{password}"));
        let mut header = HeaderValue::from_str(&format!("Basic {login}"))
            .map_err(|error| self.username.error(&error.to_string()))?;
        // Redacted by Debug.
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Reads the value; that of a file is trimmed, as in Prometheus.
fn read_text(value: &InlineOrFile, reader: &mut ConfigReader) -> Result<String, ConfigError> {
    let is_file = value.is_file();
    value.read(reader, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        let text = if is_file { text.trim() } else { text };
        Ok(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config_file::ValueSource;

    fn try_parse(text: &str) -> Result<HttpConfig, String> {
        let config = parse(text.as_bytes(), Path::new("/etc/top"));
        config.map_err(|error| error.to_string())
    }

    fn parse_valid(text: &str) -> HttpConfig {
        try_parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn empty_file_is_valid() {
        for text in ["", "# nothing\n", "{}", "basic_auth:\ntls_config:\n"] {
            let config = parse_valid(text);
            assert!(
                config.basic_auth.is_none() && config.tls.ca.is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn all_settings_are_parsed() {
        let config = parse_valid(
            "basic_auth:\n  username: scraper\n  password_file: secret\ntls_config:\n  \
             ca_file: ca.crt\n  cert_file: /k/own.crt\n  key: |\n    pem\n  \
             server_name: strata.example\n  insecure_skip_verify: true\n  \
             min_version: TLS13\n  max_version: TLS13\n",
        );
        let from = |value: &InlineOrFile| match &value.source {
            ValueSource::File(path) => path.display().to_string(),
            ValueSource::Inline(Secret(text)) => text.clone(),
        };
        let login = config.basic_auth.unwrap();
        assert_eq!(from(&login.username), "scraper");
        assert_eq!(from(&login.password.unwrap()), "/etc/top/secret");
        let tls = config.tls;
        let (cert, key) = tls.client_cert.unwrap();
        assert_eq!(from(&tls.ca.unwrap()), "/etc/top/ca.crt");
        assert_eq!(
            (from(&cert), from(&key)),
            ("/k/own.crt".into(), "pem\n".into())
        );
        assert_eq!(
            tls.server_name,
            Some(ServerName::try_from("strata.example").unwrap())
        );
        assert!(tls.insecure_skip_verify);
        assert_eq!(
            (tls.min_version, tls.max_version),
            (TlsVersion::Tls13, TlsVersion::Tls13)
        );
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, expected) in [
            (
                "basic_auht: {}",
                "1:1: unknown field `basic_auht`, expected ",
            ),
            (
                "tls_config: {}\nauthorization:\n  credentials: hush",
                "2:1: authorization is not supported by top, only basic_auth and tls_config",
            ),
            (
                "tls_config:\n  ca_ref: x",
                "2:3: ca_ref is not supported by top, only",
            ),
            (
                "follow_redirects: true",
                "1:1: follow_redirects is not supported by top, only",
            ),
            (
                "basic_auth: {}\nbasic_auth: {}",
                "2:1: duplicate mapping key: basic_auth",
            ),
            (
                "basic_auth:\n  password: hush",
                "2:3: basic_auth needs username",
            ),
            (
                "basic_auth:\n  username: a\n  username_file: b",
                "3:18: only one of username and username_file must be provided",
            ),
            (
                "basic_auth:\n  username: a\n  password: hush\n  password_file: b",
                "4:18: only one of password and password_file must be provided",
            ),
            ("basic_auth:\n  username: a\n  password: [hush]", "3:13: "),
            (
                "tls_config: {ca: a, ca_file: b}",
                "1:30: only one of ca and ca_file",
            ),
            (
                "tls_config: {cert: a}",
                "1:20: missing one of key or key_file",
            ),
            (
                "tls_config: {key_file: a}",
                "1:24: missing one of cert or cert_file",
            ),
            (
                "tls_config: {server_name: a..b}",
                "1:27: invalid server_name",
            ),
            (
                "tls_config: {min_version: TLS10}",
                "1:27: TLS10 is not supported",
            ),
            (
                "tls_config: {min_version: TLS13, max_version: TLS12}",
                "1:27: min_version is above max_version",
            ),
            ("{}\n---\n{}\n", "3:1: multiple YAML documents"),
        ] {
            let error = try_parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n{error}");
            assert!(!error.contains('\n') && !error.contains("hush"), "{error}");
        }
        let large = "#".repeat(2 << 20);
        assert_eq!(try_parse(&large).unwrap_err(), " is larger than 1 MiB");
    }

    #[test]
    fn password_is_sent_but_redacted_in_debug() {
        let dir = std::env::temp_dir().join(format!("strata-login-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("password"), " \thush hush\r\n\n").unwrap();
        fs::write(dir.join("empty"), "\n").unwrap();
        let header = |text: &str| {
            let config = parse(format!("basic_auth: {{{text}}}").as_bytes(), &dir);
            let login = config.unwrap().basic_auth.unwrap();
            let header = login.authorization_header(&mut ConfigReader::default());
            let debug = format!("{login:?} {header:?}");
            assert!(
                !debug.contains("hush") && !debug.contains("aHVzaC"),
                "{debug}"
            );
            let header = header.map_err(|error| error.to_string())?;
            let sent = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
            Ok::<_, String>(String::from_utf8(STANDARD.decode(sent).unwrap()).unwrap())
        };
        for (text, sent) in [
            ("username: me, password_file: password", "me:hush hush"),
            ("username: me, password: ' hush '", "me: hush "),
            ("username: me, password: 0123", "me:0123"),
            ("username: me", "me:"),
            ("username: me, password_file: empty", "me:"),
            ("username_file: password, password: x", "hush hush:x"),
        ] {
            assert_eq!(header(text), Ok(sent.to_owned()), "{text}");
        }
        let dir_path = dir.display();
        for (text, expected) in [
            (
                "username_file: empty",
                format!("1:29: {dir_path}/empty: is empty"),
            ),
            (
                "username: me, password_file: none",
                format!("1:43: {dir_path}/none: No such file or directory (os error 2)"),
            ),
            (
                "username: 'a:b'",
                "1:24: inline value contains a colon, which basic authentication \
                 does not allow"
                    .to_owned(),
            ),
        ] {
            assert_eq!(header(text), Err(expected), "{text}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
