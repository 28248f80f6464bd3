//! Schema of the web config file, with the names and rules of exporter-toolkit.
//!
//! Unlike the toolkit, which silently accepts them, numbers are rejected where a duration is
//! expected.

use std::{collections::BTreeMap, path::Path, time::Duration};

use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_saphyr::Spanned;

use super::{
    go_names::{Curve, Suite},
    password_hash::PasswordHash,
};
use crate::{
    config_file::{
        ConfigError, InlineOrFile, Position, Secret, TlsVersion, parse_inline_or_file, parse_yaml,
    },
    duration,
};

/// The headers that may be set, with their allowed values; an empty list allows any value.
const ALLOWED_HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The settings of a web config file.
#[derive(Debug)]
pub struct WebServerConfig {
    /// `None` for plain HTTP.
    pub(super) tls: Option<TlsServerConfig>,
    pub(super) http2: bool,
    /// Set on every response.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// If empty, no password is required.
    pub(super) users: BTreeMap<String, PasswordHash>,
    pub(super) rate_limit: Option<RateLimit>,
}

/// TLS settings and client authentication.
#[derive(Debug)]
pub(super) struct TlsServerConfig {
    pub cert: InlineOrFile,
    pub key: InlineOrFile,
    pub client_ca: Option<InlineOrFile>,
    pub client_auth: ClientAuth,
    /// `None` allows all names.
    pub allowed_sans: Option<Vec<String>>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// In order of preference; if empty, all supported suites.
    pub cipher_suites: Vec<Suite>,
    pub prefer_server_cipher_suites: bool,
    pub curve_preferences: Vec<Curve>,
}

/// Which certificate a client has to present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuth {
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

/// At most `burst` requests at once, and one more after every interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

/// The structure of the whole file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebConfigDocument {
    tls_server_config: Option<Spanned<TlsServerSection>>,
    http_server_config: Option<HttpServerSection>,
    basic_auth_users: Option<BTreeMap<String, Option<Spanned<Secret>>>>,
    rate_limit: Option<RateLimitSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsServerSection {
    cert: Option<Spanned<Secret>>,
    cert_file: Option<Spanned<String>>,
    key: Option<Spanned<Secret>>,
    key_file: Option<Spanned<String>>,
    client_ca: Option<Spanned<Secret>>,
    client_ca_file: Option<Spanned<String>>,
    client_auth_type: Option<Spanned<ClientAuth>>,
    client_allowed_sans: Option<Spanned<Vec<String>>>,
    min_version: Option<Spanned<TlsVersion>>,
    max_version: Option<TlsVersion>,
    cipher_suites: Option<Vec<Suite>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Vec<Curve>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpServerSection {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, Option<Spanned<String>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimitSection {
    interval: Option<Spanned<String>>,
    burst: Option<Spanned<i64>>,
}

impl<'de> Deserialize<'de> for ClientAuth {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Ok(match name.as_str() {
            "" | "NoClientCert" => Self::NoClientCert,
            "RequestClientCert" => Self::RequestClientCert,
            "RequireAnyClientCert" | "RequireClientCert" => Self::RequireAnyClientCert,
            "VerifyClientCertIfGiven" => Self::VerifyClientCertIfGiven,
            "RequireAndVerifyClientCert" => Self::RequireAndVerifyClientCert,
            _ => {
                return Err(D::Error::custom(format!(
                    "unknown client_auth_type {name:?}, expected NoClientCert, RequestClientCert, \
                     RequireAnyClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
                )));
            }
        })
    }
}

impl WebServerConfig {
    pub(super) fn is_empty(&self) -> bool {
        self.tls.is_none()
            && self.http2
            && self.headers.is_empty()
            && self.users.is_empty()
            && self.rate_limit.is_none()
    }
}

/// Parses the file's bytes. Referenced files are not opened; relative paths are resolved against
/// `dir`.
pub fn parse(bytes: &[u8], dir: &Path) -> Result<WebServerConfig, ConfigError> {
    let document: Option<WebConfigDocument> = parse_yaml(bytes)?;
    let document = document.unwrap_or_default();

    let http = document.http_server_config;
    let (http2, headers) = http.map_or((None, None), |http| (http.http2, http.headers));
    let headers = headers.unwrap_or_default().into_iter();
    let headers = headers.map(|(name, value)| parse_header(&name, value));
    let rate_limit = document.rate_limit.map(parse_rate_limit).transpose()?;
    Ok(WebServerConfig {
        tls: match document.tls_server_config {
            Some(section) => parse_tls(section, dir)?,
            None => None,
        },
        http2: http2.unwrap_or(true),
        headers: headers.collect::<Result<_, _>>()?,
        users: parse_users(document.basic_auth_users.unwrap_or_default())?,
        rate_limit: rate_limit.flatten(),
    })
}

fn parse_tls(
    section: Spanned<TlsServerSection>,
    dir: &Path,
) -> Result<Option<TlsServerConfig>, ConfigError> {
    let at = Position::from(&section);
    let fields = section.value;
    let clients = fields.client_auth_type.as_ref().map(|it| it.value);
    let cert = parse_inline_or_file(fields.cert, fields.cert_file, "cert", dir)?;
    let key = parse_inline_or_file(fields.key, fields.key_file, "key", dir)?;
    let client_ca =
        parse_inline_or_file(fields.client_ca, fields.client_ca_file, "client_ca", dir)?;
    let sans = fields.client_allowed_sans;
    let is_empty = cert.is_none()
        && key.is_none()
        && client_ca.is_none()
        && clients.is_none()
        && sans.is_none()
        && fields.min_version.is_none()
        && fields.max_version.is_none()
        && fields.cipher_suites.is_none()
        && fields.curve_preferences.is_none();
    if is_empty {
        return Ok(None);
    }
    let cert = cert.ok_or_else(|| ConfigError::at(at, "missing one of cert or cert_file"))?;
    let key = key.ok_or_else(|| ConfigError::at(at, "missing one of key or key_file"))?;
    let clients = clients.unwrap_or(ClientAuth::NoClientCert);
    if let Some(ca) = &client_ca
        && !clients.verifies_chain()
    {
        return Err(ConfigError::at(
            ca.position,
            "client_ca requires client_auth_type VerifyClientCertIfGiven or \
             RequireAndVerifyClientCert",
        ));
    }
    if clients.verifies_chain() && client_ca.is_none() {
        let at = fields.client_auth_type.as_ref().map_or(at, Position::from);
        return Err(ConfigError::at(
            at,
            "this client_auth_type requires client_ca or client_ca_file",
        ));
    }
    if let Some(sans) = &sans {
        if clients == ClientAuth::NoClientCert {
            return Err(ConfigError::at(
                Position::from(sans),
                "client_allowed_sans requires a client_auth_type that requests certificates",
            ));
        }
        if sans.value.is_empty() {
            return Err(ConfigError::at(
                Position::from(sans),
                "client_allowed_sans is empty, which would reject all clients",
            ));
        }
    }
    let (min_version, max_version) =
        TlsVersion::parse_range(fields.min_version, fields.max_version, at)?;
    Ok(Some(TlsServerConfig {
        cert,
        key,
        client_ca,
        client_auth: clients,
        allowed_sans: sans.map(|sans| sans.value),
        min_version,
        max_version,
        cipher_suites: fields.cipher_suites.unwrap_or_default(),
        prefer_server_cipher_suites: fields.prefer_server_cipher_suites.unwrap_or(true),
        curve_preferences: fields.curve_preferences.unwrap_or_default(),
    }))
}

fn parse_header(
    name: &str,
    value: Option<Spanned<String>>,
) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let at = value
        .as_ref()
        .map_or_else(Position::default, Position::from);
    let entry = ALLOWED_HEADERS.iter().find(|(allowed, _)| *allowed == name);
    let Some((header, allowed)) = entry else {
        let names: Vec<_> = ALLOWED_HEADERS.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "header {name:?} is not supported, expected one of {}",
            names.join(", ")
        );
        return Err(ConfigError::at(at, message));
    };
    let value = value.map(|value| value.value).unwrap_or_default();
    if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
        let message = format!(
            "invalid value {value:?} of {header}, expected {}",
            allowed.join(" or ")
        );
        return Err(ConfigError::at(at, message));
    }
    let invalid = |message: &str| ConfigError::at(at, format!("{header}: {message}"));
    let name =
        HeaderName::from_bytes(header.as_bytes()).map_err(|_| invalid("invalid header name"))?;
    let value =
        HeaderValue::from_str(&value).map_err(|_| invalid("invalid character in header value"))?;
    Ok((name, value))
}

fn parse_users(
    entries: BTreeMap<String, Option<Spanned<Secret>>>,
) -> Result<BTreeMap<String, PasswordHash>, ConfigError> {
    let mut users = BTreeMap::new();
    for (name, hash) in entries {
        let Some(hash) = hash else {
            return Err(ConfigError::without_position(format!(
                "basic_auth_users: missing hash of user {name:?}"
            )));
        };
        let parsed = PasswordHash::parse(&hash.value.0).map_err(|error| {
            let message = format!("password of user {name:?}: {error}");
            ConfigError::at(Position::from(&hash), message)
        })?;
        if name.contains(':') {
            let message = format!(
                "user name {name:?} contains a colon, which basic authentication does not allow"
            );
            return Err(ConfigError::at(Position::from(&hash), message));
        }
        users.insert(name, parsed);
    }
    Ok(users)
}

/// `None` if the interval is 0 or missing.
fn parse_rate_limit(fields: RateLimitSection) -> Result<Option<RateLimit>, ConfigError> {
    let Some(interval) = fields.interval else {
        return Ok(None);
    };
    let at = Position::from(&interval);
    let interval = duration::parse(&interval.value).map_err(|error| ConfigError::at(at, error))?;
    if interval.is_zero() {
        return Ok(None);
    }
    let burst_at = fields.burst.as_ref().map_or(at, Position::from);
    let burst = fields.burst.map_or(0, |burst| burst.value);
    match u32::try_from(burst) {
        Ok(burst @ 1..=1_000_000) => Ok(Some(RateLimit { interval, burst })),
        _ => Err(ConfigError::at(
            burst_at,
            "rate_limit requires a burst from 1 to 1000000",
        )),
    }
}

impl ClientAuth {
    /// Whether presented certificates have to be signed by the client CA.
    pub(super) fn verifies_chain(self) -> bool {
        matches!(
            self,
            Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::ValueSource;

    const HASH: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

    fn try_parse(text: &str) -> Result<WebServerConfig, String> {
        parse(text.as_bytes(), Path::new("/etc/web")).map_err(|error| error.to_string())
    }

    fn parse_valid(text: &str) -> WebServerConfig {
        try_parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn empty_file_is_valid() {
        for text in [
            "",
            "\n",
            "# nothing\n",
            "---\n",
            "{}",
            "tls_server_config:\n",
            "tls_server_config: {}\nhttp_server_config:\nbasic_auth_users:\nrate_limit:\n",
            "tls_server_config: {cert_file: '', key:}",
            "tls_server_config: {prefer_server_cipher_suites: false}",
        ] {
            let config = parse_valid(text);
            assert!(config.tls.is_none() && config.http2, "{text}");
            assert!(
                config.headers.is_empty() && config.users.is_empty(),
                "{text}"
            );
            assert_eq!(config.rate_limit, None, "{text}");
        }
    }

    #[test]
    fn all_settings_are_parsed() {
        let config = parse_valid(&format!(
            "\u{feff}tls_server_config:\r\n  cert_file: web.crt\r\n  key_file: /k/web.key\r\n  \
             client_ca: |\r\n    pem\r\n  client_auth_type: RequireAndVerifyClientCert\r\n  \
             client_allowed_sans: [a.example, 10.0.0.1]\r\n  min_version: TLS13\r\n  \
             max_version: TLS13\r\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\r\n  \
             prefer_server_cipher_suites: no\r\n  curve_preferences: [CurveP256, X25519]\r\n\
             http_server_config:\r\n  http2: off\r\n  headers: {{X-Frame-Options: deny}}\r\n\
             basic_auth_users: {{alice: {HASH}, 7: '{HASH}'}}\r\n\
             rate_limit: {{interval: 1.5s, burst: 3}}\r\n"
        ));
        let tls = config.tls.unwrap();
        let path = |pem: &InlineOrFile| match &pem.source {
            ValueSource::File(path) => path.display().to_string(),
            ValueSource::Inline(Secret(text)) => text.clone(),
        };
        assert_eq!(path(&tls.cert), "/etc/web/web.crt");
        assert_eq!(path(&tls.key), "/k/web.key");
        assert_eq!(path(&tls.client_ca.unwrap()), "pem\n");
        assert_eq!(tls.client_auth, ClientAuth::RequireAndVerifyClientCert);
        assert_eq!(tls.allowed_sans.unwrap(), ["a.example", "10.0.0.1"]);
        assert_eq!(tls.min_version, TlsVersion::Tls13);
        assert_eq!(
            (tls.cipher_suites.len(), tls.curve_preferences.len()),
            (1, 2)
        );
        assert!(!tls.prefer_server_cipher_suites && !config.http2);
        assert_eq!(config.headers[0].1, "deny");
        assert_eq!(config.users.keys().collect::<Vec<_>>(), ["7", "alice"]);
        let limit = config.rate_limit.unwrap();
        assert_eq!(limit.interval, Duration::from_millis(1500));
        assert_eq!(limit.burst, 3);
    }

    #[test]
    fn secrets_are_redacted_in_debug() {
        let text = format!(
            "tls_server_config: {{cert: public, key: hush}}\nbasic_auth_users: {{a: {HASH}}}\n"
        );
        let debug = format!("{:?}", parse_valid(&text));
        assert!(
            !debug.contains("hush") && !debug.contains("QOau"),
            "{debug}"
        );
    }

    /// Invalid files, and the start of the error for each.
    const INVALID_CONFIGS: &[(&str, &str)] = &[
        ("tls_config: {}", "1:1: unknown field `tls_config`"),
        (
            "http_server_config: {}\nhttp_server_config: {}",
            "2:1: duplicate mapping key: http_server_config",
        ),
        ("http_server_config:\n  http2: perhaps", "2:10: "),
        ("tls_server_config:\n  cert_file: [a]\n", "2:14: "),
        ("tls_server_config: [a]\n", "1:20: "),
        (
            "tls_server_config:\n  key: k",
            "2:3: missing one of cert or cert_file",
        ),
        (
            "tls_server_config:\n  cert_file: c",
            "2:3: missing one of key or key_file",
        ),
        (
            "tls_server_config:\n  min_version: TLS13",
            "2:3: missing one of cert",
        ),
        (
            "tls_server_config:\n  cert: c\n  cert_file: c\n  key: k",
            "3:14: only one of cert and cert_file must be provided",
        ),
        (
            "tls_server_config: {PAIR, client_ca_file: x}",
            "1:54: client_ca requires client_auth_type",
        ),
        (
            "tls_server_config: {PAIR, client_ca_file: x, client_auth_type: RequestClientCert}",
            "1:54: client_ca requires client_auth_type",
        ),
        (
            "tls_server_config: {PAIR, client_auth_type: RequireAndVerifyClientCert}",
            "1:56: this client_auth_type requires client_ca",
        ),
        (
            "tls_server_config: {PAIR, client_auth_type: Sometimes}",
            "1:56: unknown client_auth_type \"Sometimes\"",
        ),
        (
            "tls_server_config: {PAIR, client_allowed_sans: [a]}",
            "1:59: client_allowed_sans requires",
        ),
        (
            "tls_server_config: {PAIR, client_allowed_sans: [], client_auth_type: \
             RequestClientCert}",
            "1:59: client_allowed_sans is empty",
        ),
        (
            "tls_server_config: {PAIR, min_version: TLS13, max_version: TLS12}",
            "1:51: min_version is above max_version",
        ),
        (
            "tls_server_config: {PAIR, min_version: TLS10}",
            "1:51: TLS10 is not supported",
        ),
        (
            "tls_server_config: {PAIR, min_version: SSL30}",
            "1:51: unknown TLS version \"SSL30\"",
        ),
        (
            "tls_server_config: {PAIR, curve_preferences: [CurveP521]}",
            "1:58: curve CurveP521 is not supported",
        ),
        (
            "tls_server_config: {PAIR, cipher_suites:\n [TLS_RSA_WITH_AES_128_CBC_SHA]}",
            "2:3: cipher suite TLS_RSA_WITH_AES_128_CBC_SHA is weak",
        ),
        (
            "http_server_config: {headers: {Server: x}}",
            "1:40: header \"Server\" is not supported",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: DENY}}",
            "1:49: invalid value \"DENY\" of X-Frame-Options, expected deny or sameorigin",
        ),
        (
            "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}",
            "1:50: X-XSS-Protection: invalid character",
        ),
        ("basic_auth_users: {a: b}", "1:23: password of user \"a\": "),
        (
            "basic_auth_users: {a: }",
            " basic_auth_users: missing hash of user \"a\"",
        ),
        (
            "basic_auth_users: {'a:b': HASH}",
            "1:27: user name \"a:b\" contains a colon",
        ),
        (
            "rate_limit: {interval: 5, burst: 1}",
            "1:24: invalid duration",
        ),
        (
            "rate_limit: {interval: 5s}",
            "1:24: rate_limit requires a burst",
        ),
        (
            "rate_limit: {interval: 5s, burst: 0}",
            "1:35: rate_limit requires a burst",
        ),
        ("rate_limit: {interval: 5s, burst: 1.5}", "1:35: "),
        ("a: 1\n---\nb: 1\n", "1:1: unknown field"),
        ("{}\n---\n{}\n", "3:1: multiple YAML documents"),
        ("a: [", ""),
    ];

    #[test]
    fn errors_name_line_and_column() {
        let mut different = Vec::new();
        for (text, expected) in INVALID_CONFIGS {
            let text = text
                .replace("PAIR", "cert: c, key: k")
                .replace("HASH", HASH);
            let error = try_parse(&text).unwrap_err();
            if !error.starts_with(expected) {
                different.push(format!("{text}\n{error}\n{expected}\n"));
            }
            assert!(!error.contains('\n') && !error.contains(HASH), "{error}");
        }
        assert!(different.is_empty(), "{}", different.concat());
    }

    #[test]
    fn all_sizes_are_bounded() {
        let users = |from: usize, to: usize| -> String {
            let users = (from..to).map(|user| format!("u{user}: {HASH}, "));
            users.collect()
        };
        let bomb = format!(
            "basic_auth_users: {{<<: [&u {{{}}}, {}]}}",
            users(0, 200),
            "*u, ".repeat(5_000)
        );
        let deep = format!("basic_auth_users: {{a: {}", "[".repeat(100_000));
        let many = format!("basic_auth_users: {{{}}}", users(0, 15_000));
        let large = "#".repeat(2 << 20);
        for (text, expected) in [
            (&bomb, "budget"),
            (&deep, ""),
            (&many, "budget"),
            (&large, "is larger than 1 MiB"),
        ] {
            let error = try_parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(
            parse_valid(&format!("basic_auth_users: {{{}}}", users(0, 5_000)))
                .users
                .len(),
            5_000
        );
        assert!(parse(&[0xff, 0xfe], Path::new("/")).is_err());
    }

    #[test]
    fn yaml_anchors_are_resolved() {
        let text = format!("basic_auth_users: {{a: &h {HASH}, b: *h}}");
        assert_eq!(parse_valid(&text).users.len(), 2);
    }
}
