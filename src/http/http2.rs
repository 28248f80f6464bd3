//! HTTP/2, which clients may negotiate over TLS.
//!
//! Everything that `h2` would buffer for a client has a limit far below its default: request
//! bodies are practically empty, and responses are passed on in chunks, each when there is buffer
//! space for it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Response,
    body::{Body, Bytes, Frame, SizeHint},
    header::CONTENT_LENGTH,
    server::conn::http2::Builder,
};
use hyper_util::rt::TokioExecutor;

use super::{MAX_HEADER_BYTES, connection::RequestSlot, routes::HttpResponse};

/// Concurrent requests on one connection. Clients have to retry further ones.
const MAX_STREAMS: u32 = 16;
/// Flow-control window: bytes of a request body that are received before it is refused.
const WINDOW_SIZE: u32 = 65_535;
/// Bytes buffered of a response that the client does not read.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Bytes of a response passed on at once.
const CHUNK_SIZE: usize = 16 << 10;
/// Requests that the client may reset before they are accepted; more close the connection.
const MAX_PENDING_RESETS: usize = 32;
/// Requests that the server may refuse; more close the connection. Clients that do not know the
/// maximum number of streams yet send a hundred at once.
const MAX_LOCAL_RESETS: usize = 512;

pub(super) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW_SIZE)
        .initial_connection_window_size(WINDOW_SIZE)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS);
    builder
}

/// A response body in chunks, which records the progress of its reader.
#[derive(Debug)]
pub(super) struct ChunkedBody {
    rest: Bytes,
    slot: RequestSlot,
}

impl ChunkedBody {
    /// A response with its body in chunks. For HEAD requests the body is dropped and its length is
    /// set in the header, which hyper does itself for HTTP/1.
    pub(super) fn response(
        response: HttpResponse,
        include_body: bool,
        slot: RequestSlot,
    ) -> Response<Self> {
        let (mut head, mut rest) = response.into_parts();
        if !include_body {
            head.headers.insert(CONTENT_LENGTH, rest.len().into());
            rest = Bytes::new();
        }
        slot.record_progress();
        Response::from_parts(head, Self { rest, slot })
    }
}

impl Body for ChunkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(CHUNK_SIZE);
        let chunk = self.rest.split_to(len);
        self.slot.record_progress();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
