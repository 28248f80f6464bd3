//! The beginning of an encrypted connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::exporter::Handshake;

/// How much tells HTTP from TLS: a record's head.
const HEAD: usize = 5;
/// How requests begin, as far as Go looks at them.
const REQUESTS: [&[u8; HEAD]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What Go says to them.
const NO_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// What of such a request is read, lest closing the connection take the answer back.
const MAX_REST: u64 = 64 << 10;

/// A stream whose first bytes were looked at, and are still to be read.
#[derive(Debug)]
pub(super) struct Opened<S> {
    stream: S,
    head: [u8; HEAD],
    /// How many of them were read again.
    given: usize,
}

/// Agrees with the client on how to encrypt, if it is one.
pub(super) async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<Opened<S>>, Handshake> {
    let mut opened = Opened::of(stream).await.map_err(|_| Handshake::Closed)?;
    if REQUESTS.iter().any(|head| **head == opened.head) {
        // Whoever asked may have gone.
        opened.say_no().await.ok();
        return Err(Handshake::PlainHttp);
    }
    let accepted = TlsAcceptor::from(config).accept(opened).await;
    accepted.map_err(|error| reason(&error))
}

fn reason(error: &io::Error) -> Handshake {
    let by_rustls = error.get_ref().and_then(|error| error.downcast_ref());
    match by_rustls {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            Handshake::ClientCertificate
        }
        // Such as one that does not know who signed our certificate.
        Some(rustls::Error::AlertReceived(alert)) if *alert != AlertDescription::CloseNotify => {
            Handshake::ByClient
        }
        Some(rustls::Error::AlertReceived(_)) | None => Handshake::Closed,
        Some(_) => Handshake::Protocol,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Opened<S> {
    async fn of(mut stream: S) -> io::Result<Self> {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await?;
        let given = 0;
        Ok(Self {
            stream,
            head,
            given,
        })
    }

    async fn say_no(&mut self) -> io::Result<()> {
        self.stream.write_all(NO_TLS).await?;
        self.stream.shutdown().await?;
        let mut rest = (&mut self.stream).take(MAX_REST);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.head.get(self.given..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let len = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..len).unwrap_or_default());
        self.given += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_again_and_in_its_order() {
        for at_once in [1, 3, 5, 10] {
            let (mut here, there) = tokio::io::duplex(64);
            here.write_all(b"0123456789").await.unwrap();
            drop(here);
            let mut opened = Opened::of(there).await.unwrap();
            let mut read = Vec::new();
            let mut part = vec![0; at_once];
            loop {
                let len = opened.read(&mut part).await.unwrap();
                if len == 0 {
                    break;
                }
                read.extend_from_slice(&part[..len]);
            }
            assert_eq!(read, b"0123456789", "{at_once}");
        }
    }
}
