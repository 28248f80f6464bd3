//! Asking an exporter, near or far, over plain HTTP.
//!
//! The answers come side by side, each over a connection of its own. Without virtual
//! machines, such as when libvirt hangs, there is all the rest.

use std::{path::PathBuf, str::FromStr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time,
};

use crate::api::said::{Containers, Domains, Host, Missing, One};

/// What the exporter is given, in seconds, before it answers without what hangs.
const PATIENCE: &str = "3";
/// When an exporter counts as away.
const LIMIT: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 32 << 10;
/// An answer about 10,000 containers; and their braces, for what is decoded from `{}` takes
/// hundreds of bytes.
const MAX_BODY: usize = 16 << 20;
const MAX_BRACES: usize = 100_000;
const MAX_REASON: usize = 300;

/// An exporter to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exporter {
    way: Way,
    /// As the header `Host` has it.
    host: String,
    /// What stands before `/api`.
    base: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// A host and its port.
    Tcp(String),
    Unix(PathBuf),
}

/// What was said at one time.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub host: Host,
    pub containers: Containers,
    pub domains: Domains,
}

impl Default for Exporter {
    fn default() -> Self {
        Self {
            way: Way::Tcp("localhost:9100".to_owned()),
            host: "localhost:9100".to_owned(),
            base: String::new(),
        }
    }
}

impl FromStr for Exporter {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err("expected unix:///PATH".to_owned());
            }
            return Ok(Self {
                way: Way::Unix(path.into()),
                host: "localhost".to_owned(),
                base: String::new(),
            });
        }
        // As in --web.listen-address, there need be no more than a host.
        let (url, port) = match url.split_once("://") {
            Some(("http", _)) => (url.to_owned(), 80),
            Some(("https", _)) => return Err("HTTPS is not supported yet".to_owned()),
            Some(_) => return Err("expected http://HOST:PORT or unix:///PATH".to_owned()),
            None => (format!("http://{url}"), 9100),
        };
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let authority = uri.authority().ok_or("a host is missing")?;
        if authority.as_str().contains('@') {
            return Err("passwords are not supported yet".to_owned());
        }
        if uri.query().is_some() {
            return Err("expected no ?".to_owned());
        }
        let port = uri.port_u16().unwrap_or(port);
        Ok(Self {
            way: Way::Tcp(format!("{}:{port}", authority.host())),
            host: authority.as_str().to_owned(),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Exporter {
    pub(super) async fn ask(&self) -> Result<Said, String> {
        let (host, containers, domains) = tokio::join!(
            self.get::<Host>("host"),
            self.get::<Containers>("containers"),
            self.get::<Domains>("domains"),
        );
        let without = |reason| Domains {
            missing: vec![Missing {
                part: "virtual machines".to_owned(),
                reason,
            }],
            ..Domains::default()
        };
        Ok(Said {
            host: host?,
            containers: containers?,
            domains: domains.unwrap_or_else(without),
        })
    }

    async fn get<T: DeserializeOwned>(&self, resource: &str) -> Result<T, String> {
        let path = format!("{}/api/v1/{resource}", self.base);
        let asked = async {
            match &self.way {
                Way::Tcp(address) => self.talk(TcpStream::connect(address).await?, &path).await,
                Way::Unix(socket) => self.talk(UnixStream::connect(socket).await?, &path).await,
            }
        };
        let answered = match time::timeout(LIMIT, asked).await {
            Ok(Ok((status, body))) => decoded(status, &body),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        };
        answered.map_err(|reason| {
            let whom = match &self.way {
                Way::Tcp(address) => format!("http://{address}"),
                Way::Unix(socket) => format!("unix://{}", socket.display()),
            };
            // Foreign text does not steer the terminal.
            let reason = reason.chars().filter(|c| !c.is_control());
            let reason: String = reason.take(MAX_REASON).collect();
            format!("{whom}{path}: {reason}")
        })
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut builder = http1::Builder::new();
        let shaken = builder
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = shaken.await?;
        // Moves the bytes until it is dropped.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(ACCEPT, "application/json")
            .header("X-Prometheus-Scrape-Timeout-Seconds", PATIENCE)
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

fn decoded<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, String> {
    if status == StatusCode::UNAUTHORIZED {
        return Err("it asks for a password, and passwords are not supported yet".to_owned());
    }
    if status != StatusCode::OK {
        let said = serde_json::from_slice::<One>(body).unwrap_or_default();
        return Err(format!("{status} {}", said.error).trim_end().to_owned());
    }
    #[expect(clippy::naive_bytecount, reason = "it is asked for every other second")]
    let braces = body.iter().filter(|byte| **byte == b'{').count();
    if braces > MAX_BRACES {
        return Err("the answer is too long".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("not what an exporter says: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn an_exporter_goes_by_its_url_or_its_host() {
        for (url, address, base) in [
            ("http://localhost:9100", "localhost:9100", ""),
            ("http://example/strata/", "example:80", "/strata"),
            ("example", "example:9100", ""),
            ("127.0.0.1:9200", "127.0.0.1:9200", ""),
            ("http://[::1]:9100/", "[::1]:9100", ""),
        ] {
            let exporter: Exporter = url.parse().unwrap();
            assert_eq!(exporter.way, Way::Tcp(address.to_owned()), "{url}");
            assert_eq!(exporter.base, base, "{url}");
        }
        for url in ["unix:///run/s", "unix:/run/s"] {
            let exporter: Exporter = url.parse().unwrap();
            assert_eq!(exporter.way, Way::Unix("/run/s".into()), "{url}");
        }
        for (url, said) in [
            ("https://x", "HTTPS is not supported yet"),
            ("http://me:secret@x", "passwords are not supported yet"),
            ("unix:s", "expected unix:///PATH"),
            ("ftp://x", "expected http://HOST:PORT or unix:///PATH"),
            ("x?y=1", "expected no ?"),
        ] {
            assert_eq!(url.parse::<Exporter>(), Err(said.to_owned()), "{url}");
        }
        assert!("".parse::<Exporter>().is_err());
    }

    /// What is made of an answer, but for who gave it.
    async fn asked(answer: &'static str) -> Result<Said, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                request.truncate(length);
                let request = String::from_utf8(request).unwrap();
                assert!(request.starts_with("GET /api/v1/"), "{request}");
                let is_domains = request.contains("/domains");
                let answer = if is_domains {
                    "HTTP/1.0 500 No\r\n\r\n"
                } else {
                    answer
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let exporter: Exporter = address.to_string().parse().unwrap();
        let whom = format!("http://{address}/api/v1/host: ");
        exporter.ask().await.map_err(|error| {
            let reason = error.strip_prefix(&whom).unwrap_or(&error);
            reason.to_owned()
        })
    }

    #[tokio::test]
    async fn virtual_machines_may_be_missing() {
        let said = asked("HTTP/1.0 200 OK\r\n\r\n{\"name\": \"here\"}").await;
        let said = said.unwrap();
        assert_eq!(said.host.name, "here");
        let reason = &said.domains.missing[0].reason;
        assert!(reason.ends_with("500 Internal Server Error"), "{reason}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_an_answer_is_said_in_one_line() {
        for (answer, said) in [
            (
                "HTTP/1.0 503 Busy\r\n\r\n{\"error\": \"try \\u001b[2J\\nlater\"}",
                "503 Service Unavailable try [2Jlater",
            ),
            ("HTTP/1.0 404 No\r\n\r\n<html>", "404 Not Found"),
            (
                "HTTP/1.0 401 No\r\n\r\n",
                "it asks for a password, and passwords are not supported yet",
            ),
            (
                "HTTP/1.0 200 OK\r\n\r\n<html>",
                "not what an exporter says: expected value at line 1 column 1",
            ),
            ("", "connection closed before message completed"),
        ] {
            assert_eq!(asked(answer).await.unwrap_err(), said);
        }
    }

    #[tokio::test]
    async fn an_answer_that_never_ends_is_not_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
                    while stream.write_all(&[b' '; 1 << 12]).await.is_ok() {}
                });
            }
        });
        let exporter: Exporter = address.to_string().parse().unwrap();
        let error = exporter.ask().await.unwrap_err();
        assert!(error.ends_with("length limit exceeded"), "{error}");
    }

    #[test]
    fn an_answer_of_too_many_parts_is_not_decoded() {
        let body = format!("{{\"containers\": [{}{{}}]}}", "{},".repeat(MAX_BRACES));
        let error = decoded::<Containers>(StatusCode::OK, body.as_bytes()).unwrap_err();
        assert_eq!(error, "the answer is too long");
    }
}
