//! The TLS handshake, with a plain-text response to clients that send HTTP instead.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::self_metrics::HandshakeFailure;

/// Bytes needed to distinguish HTTP from TLS: the header of a TLS record.
const PEEK_LEN: usize = 5;
/// Prefixes of HTTP requests that Go recognises.
const HTTP_PREFIXES: [&[u8; PEEK_LEN]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// Go's response to them.
const PLAIN_HTTP_RESPONSE: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Maximum bytes of such a request that are read before closing: unread data would reset the
/// connection and the client would lose the response.
const MAX_DRAIN: u64 = 64 << 10;

/// A stream whose first bytes were read ahead and are returned again.
#[derive(Debug)]
pub(super) struct PeekedStream<S> {
    stream: S,
    peeked: [u8; PEEK_LEN],
    /// How many of these bytes were returned again.
    replayed: usize,
}

/// Performs the handshake, or rejects a plain HTTP request.
pub(super) async fn accept_tls<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<PeekedStream<S>>, HandshakeFailure> {
    let mut peeked = PeekedStream::peek(stream)
        .await
        .map_err(|_| HandshakeFailure::Closed)?;
    if HTTP_PREFIXES.iter().any(|head| **head == peeked.peeked) {
        // The client may have closed the connection.
        peeked.reject_plain_http().await.ok();
        return Err(HandshakeFailure::PlainHttp);
    }
    let accepted = TlsAcceptor::from(config).accept(peeked).await;
    accepted.map_err(|error| classify_error(&error))
}

fn classify_error(error: &io::Error) -> HandshakeFailure {
    let by_rustls = error.get_ref().and_then(|error| error.downcast_ref());
    match by_rustls {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
            HandshakeFailure::ClientCertificate
        }
        // For example a client that does not trust the issuer of the exporter's certificate.
        Some(rustls::Error::AlertReceived(alert)) if *alert != AlertDescription::CloseNotify => {
            HandshakeFailure::RejectedByClient
        }
        Some(rustls::Error::AlertReceived(_)) | None => HandshakeFailure::Closed,
        Some(_) => HandshakeFailure::Protocol,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PeekedStream<S> {
    async fn peek(mut stream: S) -> io::Result<Self> {
        let mut head = [0; PEEK_LEN];
        stream.read_exact(&mut head).await?;
        Ok(Self {
            stream,
            peeked: head,
            replayed: 0,
        })
    }

    async fn reject_plain_http(&mut self) -> io::Result<()> {
        self.stream.write_all(PLAIN_HTTP_RESPONSE).await?;
        self.stream.shutdown().await?;
        let mut rest = (&mut self.stream).take(MAX_DRAIN);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeekedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.peeked.get(self.replayed..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let len = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..len).unwrap_or_default());
        self.replayed += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeekedStream<S> {
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
    async fn peeked_bytes_are_replayed_in_order() {
        for at_once in [1, 3, 5, 10] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(b"0123456789").await.unwrap();
            drop(client);
            let mut stream = PeekedStream::peek(server).await.unwrap();
            let mut read = Vec::new();
            let mut part = vec![0; at_once];
            loop {
                let len = stream.read(&mut part).await.unwrap();
                if len == 0 {
                    break;
                }
                read.extend_from_slice(&part[..len]);
            }
            assert_eq!(read, b"0123456789", "{at_once}");
        }
    }
}
