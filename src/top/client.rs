//! Asking an exporter, near or far.
//!
//! The answers come side by side, each over a connection of its own. Without virtual
//! machines, such as when libvirt hangs, there is all the rest.

use std::{error::Error, path::Path, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time,
};

use super::{
    encryption::Encryption,
    exporter_url::{ExporterUrl, HttpTransport},
    failure,
    http_config::{self, HttpConfig},
};
use crate::{
    api::said::{Containers, Domains, Host, Missing, One},
    config_file::{ConfigError, ConfigReader},
};

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
/// How Go's servers, and this exporter, answer to HTTP where they speak TLS.
const TO_HTTPS: &str = "Client sent an HTTP request to an HTTPS server";

/// Who asks an exporter.
#[derive(Debug)]
pub struct Client {
    exporter: ExporterUrl,
    /// What the header `Authorization` says.
    login: Option<HeaderValue>,
    /// None for plain HTTP.
    encryption: Option<Encryption>,
}

/// What was said at one time.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub host: Host,
    pub containers: Containers,
    pub domains: Domains,
}

impl Client {
    /// Reads the settings, and whom this system trusts if that is of use.
    pub fn new(exporter: ExporterUrl, settings: Option<&Path>) -> Result<Self, String> {
        let file = settings.map(|file| file.display().to_string());
        let file = file.unwrap_or_default();
        let wrong = |wrong: ConfigError| format!("--http.config.file: {file}:{wrong}");
        let mut reader = ConfigReader::default();
        let settings = match settings {
            Some(path) => read(path, &mut reader).map_err(wrong)?,
            None => HttpConfig::default(),
        };
        let login = settings
            .basic_auth
            .map(|login| login.authorization_header(&mut reader));
        let encryption = match &exporter.transport {
            HttpTransport::Https(_, name) => {
                Some(Encryption::new(&settings.tls, name, &mut reader))
            }
            HttpTransport::Http(_) | HttpTransport::Unix(_) => None,
        };
        Ok(Self {
            login: login.transpose().map_err(wrong)?,
            encryption: encryption.transpose().map_err(wrong)?,
            exporter,
        })
    }

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
        let path = format!("{}/api/v1/{resource}", self.exporter.base_path);
        let answered = match time::timeout(LIMIT, self.fetch(&path)).await {
            Ok(Ok((status, body))) => decoded(status, &body, self.login.is_some()),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        };
        answered.map_err(|reason| {
            // Foreign text does not steer the terminal.
            let reason = reason.chars().filter(|c| !c.is_control());
            let reason: String = reason.take(MAX_REASON).collect();
            format!("{}{path}: {reason}", self.exporter.transport)
        })
    }

    async fn fetch(&self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let connected = |error: std::io::Error| error.to_string();
        let own = self.encryption.as_ref().map(Encryption::own);
        let answered = match &self.exporter.transport {
            HttpTransport::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(connected)?;
                self.talk(stream, path).await
            }
            HttpTransport::Http(address) | HttpTransport::Https(address, _) => {
                let stream = TcpStream::connect(address).await.map_err(connected)?;
                match &self.encryption {
                    None => self.talk(stream, path).await,
                    Some(encryption) => {
                        let shaken = encryption.shake(stream).await;
                        let stream =
                            shaken.map_err(|error| failure::not_begun(&error, encryption.own()))?;
                        self.talk(stream, path).await
                    }
                }
            }
        };
        answered.map_err(|error| failure::reason(&*error, own))
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let mut builder = http1::Builder::new();
        let shaken = builder
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = shaken.await?;
        // Moves the bytes until it is dropped.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::get(path)
            .header(HOST, &self.exporter.host)
            .header(ACCEPT, "application/json")
            .header("X-Prometheus-Scrape-Timeout-Seconds", PATIENCE)
            .body(Empty::<Bytes>::new())?;
        if let Some(login) = &self.login {
            request.headers_mut().insert(AUTHORIZATION, login.clone());
        }
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

fn read(path: &Path, reader: &mut ConfigReader) -> Result<HttpConfig, ConfigError> {
    let bytes = reader.read(path).map_err(ConfigError::without_position)?;
    http_config::parse(&bytes, path.parent().unwrap_or(Path::new("")))
}

fn decoded<T: DeserializeOwned>(
    status: StatusCode,
    body: &[u8],
    with_login: bool,
) -> Result<T, String> {
    if status == StatusCode::UNAUTHORIZED {
        return Err(if with_login {
            "it does not take the name and password of basic_auth in --http.config.file"
        } else {
            "it asks for a password: name it by basic_auth in --http.config.file"
        }
        .to_owned());
    }
    if status == StatusCode::BAD_REQUEST && says(body, TO_HTTPS) {
        return Err("it speaks TLS: ask for https://".to_owned());
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

fn says(body: &[u8], what: &str) -> bool {
    body.windows(what.len()).any(|part| part == what.as_bytes())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn client(exporter: &str) -> Client {
        Client::new(exporter.parse().unwrap(), None).unwrap()
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
        let client = client(&address.to_string());
        let whom = format!("http://{address}/api/v1/host: ");
        client.ask().await.map_err(|error| {
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
                "it asks for a password: name it by basic_auth in --http.config.file",
            ),
            (
                "HTTP/1.0 400 No\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
                "it speaks TLS: ask for https://",
            ),
            ("HTTP/1.0 400 No\r\n\r\n", "400 Bad Request"),
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
        let client = client(&address.to_string());
        let error = client.ask().await.unwrap_err();
        assert!(error.ends_with("length limit exceeded"), "{error}");
    }

    #[test]
    fn an_answer_of_too_many_parts_is_not_decoded() {
        let body = format!("{{\"containers\": [{}{{}}]}}", "{},".repeat(MAX_BRACES));
        let error = decoded::<Containers>(StatusCode::OK, body.as_bytes(), false).unwrap_err();
        assert_eq!(error, "the answer is too long");
    }
}
