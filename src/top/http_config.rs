//! `--http.config.file`: of Prometheus's settings for clients of HTTP those that concern an
//! exporter, with its names and rules, so that lines of a `prometheus.yml` can be copied.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config_file::{Given, Place, Reader, Secret, Version, Wrong, document, one};

/// What Prometheus knows beside what is here.
const NOT_HERE: [&str; 16] = [
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

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct HttpConfig {
    pub login: Option<Login>,
    pub tls: Tls,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Login {
    username: Given,
    /// Empty if there is none.
    password: Option<Given>,
}

/// How connections are encrypted, and whom to trust.
#[derive(Debug)]
pub(super) struct Tls {
    /// None for those whom the system trusts.
    pub ca: Option<Given>,
    /// Our own certificate and its key.
    pub own: Option<(Given, Given)>,
    /// None for that in the URL.
    pub server_name: Option<ServerName<'static>>,
    pub trusts_anybody: bool,
    pub min_version: Version,
    pub max_version: Version,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            own: None,
            server_name: None,
            trusts_anybody: false,
            min_version: Version::Tls12,
            max_version: Version::Tls13,
        }
    }
}

/// The whole file, as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    basic_auth: Option<Spanned<LoginSection>>,
    tls_config: Option<Spanned<TlsSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginSection {
    username: Option<Spanned<Secret>>,
    username_file: Option<Spanned<String>>,
    password: Option<Spanned<Secret>>,
    password_file: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    ca: Option<Spanned<Secret>>,
    ca_file: Option<Spanned<String>>,
    cert: Option<Spanned<Secret>>,
    cert_file: Option<Spanned<String>>,
    key: Option<Spanned<Secret>>,
    key_file: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
    insecure_skip_verify: Option<bool>,
    min_version: Option<Spanned<Version>>,
    max_version: Option<Version>,
}

/// Reads the file's bytes. What it names is not opened; relative names are below `dir`.
pub(super) fn parse(bytes: &[u8], dir: &Path) -> Result<HttpConfig, Wrong> {
    let document: Option<Document> = document(bytes).map_err(not_here)?;
    let document = document.unwrap_or_default();
    let login = document.basic_auth.map(|section| login(section, dir));
    let tls = document.tls_config.map(|section| tls(section, dir));
    Ok(HttpConfig {
        login: login.transpose()?,
        tls: tls.transpose()?.unwrap_or_default(),
    })
}

/// Tells what is Prometheus's from what is nobody's.
fn not_here(mut wrong: Wrong) -> Wrong {
    let key = wrong.said.strip_prefix("unknown field `");
    let key = key.and_then(|rest| rest.split_once('`'));
    let known = key.and_then(|(key, _)| NOT_HERE.into_iter().find(|known| *known == key));
    if let Some(key) = known {
        wrong.said = format!("top does not know {key}, only basic_auth and tls_config");
    }
    wrong
}

fn login(section: Spanned<LoginSection>, dir: &Path) -> Result<Login, Wrong> {
    let at = Place::from(&section);
    let said = section.value;
    let username = one(said.username, said.username_file, "username", dir)?;
    let password = one(said.password, said.password_file, "password", dir)?;
    let missing = || Wrong::at(at, "basic_auth needs username or username_file");
    let username = username.ok_or_else(missing)?;
    Ok(Login { username, password })
}

fn tls(section: Spanned<TlsSection>, dir: &Path) -> Result<Tls, Wrong> {
    let at = Place::from(&section);
    let said = section.value;
    let ca = one(said.ca, said.ca_file, "ca", dir)?;
    let cert = one(said.cert, said.cert_file, "cert", dir)?;
    let key = one(said.key, said.key_file, "key", dir)?;
    let own = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (Some(cert), None) => return Err(Wrong::at(cert.at, "missing one of key or key_file")),
        (None, Some(key)) => return Err(Wrong::at(key.at, "missing one of cert or cert_file")),
        (None, None) => None,
    };
    let server_name = said.server_name.filter(|name| !name.value.is_empty());
    let server_name = server_name.map(|name| {
        let at = Place::from(&name);
        ServerName::try_from(name.value)
            .map_err(|_| Wrong::at(at, "no certificate has such a server_name"))
    });
    let (min_version, max_version) = Version::range(said.min_version, said.max_version, at)?;
    Ok(Tls {
        ca,
        own,
        server_name: server_name.transpose()?,
        trusts_anybody: said.insecure_skip_verify.unwrap_or(false),
        min_version,
        max_version,
    })
}

impl Login {
    /// What the header `Authorization` has to say.
    pub(super) fn header(&self, reader: &mut Reader) -> Result<HeaderValue, Wrong> {
        let username = text(&self.username, reader)?;
        if username.is_empty() {
            return Err(self.username.wrong("has no name in it"));
        }
        if username.contains(':') {
            let said = "is a name with a colon, which cannot be sent";
            return Err(self.username.wrong(said));
        }
        let password = self.password.as_ref().map(|it| text(it, reader));
        let password = password.transpose()?.unwrap_or_default();
        let login = STANDARD.encode(format!("{username}:{password}"));
        let mut header = HeaderValue::from_str(&format!("Basic {login}"))
            .map_err(|error| self.username.wrong(&error.to_string()))?;
        // Not shown by Debug.
        header.set_sensitive(true);
        Ok(header)
    }
}

/// What is given; of a file without the white space around it, as Prometheus takes it.
fn text(given: &Given, reader: &mut Reader) -> Result<String, Wrong> {
    let is_file = given.is_file();
    given.read(reader, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        let text = if is_file { text.trim() } else { text };
        Ok(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config_file::Source;

    fn read(text: &str) -> Result<HttpConfig, String> {
        let config = parse(text.as_bytes(), Path::new("/etc/top"));
        config.map_err(|wrong| wrong.to_string())
    }

    fn good(text: &str) -> HttpConfig {
        read(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn a_file_may_say_nothing() {
        for text in ["", "# nothing\n", "{}", "basic_auth:\ntls_config:\n"] {
            let config = good(text);
            assert!(config.login.is_none() && config.tls.ca.is_none(), "{text}");
        }
    }

    #[test]
    fn everything_is_read() {
        let config = good(
            "basic_auth:\n  username: scraper\n  password_file: secret\ntls_config:\n  \
             ca_file: ca.crt\n  cert_file: /k/own.crt\n  key: |\n    pem\n  \
             server_name: strata.example\n  insecure_skip_verify: true\n  \
             min_version: TLS13\n  max_version: TLS13\n",
        );
        let from = |given: &Given| match &given.from {
            Source::File(path) => path.display().to_string(),
            Source::Text(Secret(text)) => text.clone(),
        };
        let login = config.login.unwrap();
        assert_eq!(from(&login.username), "scraper");
        assert_eq!(from(&login.password.unwrap()), "/etc/top/secret");
        let tls = config.tls;
        let (cert, key) = tls.own.unwrap();
        assert_eq!(from(&tls.ca.unwrap()), "/etc/top/ca.crt");
        assert_eq!(
            (from(&cert), from(&key)),
            ("/k/own.crt".into(), "pem\n".into())
        );
        assert_eq!(
            tls.server_name,
            Some(ServerName::try_from("strata.example").unwrap())
        );
        assert!(tls.trusts_anybody);
        assert_eq!(
            (tls.min_version, tls.max_version),
            (Version::Tls13, Version::Tls13)
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            (
                "basic_auht: {}",
                "1:1: unknown field `basic_auht`, expected ",
            ),
            (
                "tls_config: {}\nauthorization:\n  credentials: hush",
                "2:1: top does not know authorization, only basic_auth and tls_config",
            ),
            (
                "tls_config:\n  ca_ref: x",
                "2:3: top does not know ca_ref, only",
            ),
            (
                "follow_redirects: true",
                "1:1: top does not know follow_redirects, only",
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
                "1:27: no certificate has such a server_name",
            ),
            (
                "tls_config: {min_version: TLS10}",
                "1:27: TLS10 is not offered",
            ),
            (
                "tls_config: {min_version: TLS13, max_version: TLS12}",
                "1:27: min_version is above max_version",
            ),
            ("{}\n---\n{}\n", "3:1: multiple YAML documents"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(said), "{text}\n{error}");
            assert!(!error.contains('\n') && !error.contains("hush"), "{error}");
        }
        let large = "#".repeat(2 << 20);
        assert_eq!(read(&large).unwrap_err(), " is larger than 1 MiB");
    }

    #[test]
    fn a_password_is_sent_and_not_shown() {
        let dir = std::env::temp_dir().join(format!("strata-login-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("password"), " \thush hush\r\n\n").unwrap();
        fs::write(dir.join("empty"), "\n").unwrap();
        let header = |text: &str| {
            let config = parse(format!("basic_auth: {{{text}}}").as_bytes(), &dir);
            let login = config.unwrap().login.unwrap();
            let header = login.header(&mut Reader::default());
            let shown = format!("{login:?} {header:?}");
            assert!(
                !shown.contains("hush") && !shown.contains("aHVzaC"),
                "{shown}"
            );
            let header = header.map_err(|wrong| wrong.to_string())?;
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
        let there = dir.display();
        for (text, said) in [
            (
                "username_file: empty",
                format!("1:29: {there}/empty: has no name in it"),
            ),
            (
                "username: me, password_file: none",
                format!("1:43: {there}/none: No such file or directory (os error 2)"),
            ),
            (
                "username: 'a:b'",
                "1:24: what stands here is a name with a colon, which cannot be sent".to_owned(),
            ),
        ] {
            assert_eq!(header(text), Err(said), "{text}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
