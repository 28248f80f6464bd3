//! HTTP/2, which clients may choose where connections are encrypted.
//!
//! Everything that `h2` would keep for a client has a bound far below its own: requests have no
//! bodies worth speaking of, and answers are handed over in pieces, each when there is room for it.

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

/// Requests at the same time on one connection; those beyond are to be asked again.
const MAX_STREAMS: u32 = 16;
/// What is read of a request's body before it is refused.
const WINDOW_SIZE: u32 = 65_535;
/// What is kept of an answer that is not taken.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// What is handed over of an answer at once.
const CHUNK_SIZE: usize = 16 << 10;
/// Requests that were taken back before they were looked at: more close the connection.
const MAX_PENDING_RESETS: usize = 32;
/// Requests that were sent away: more close the connection. Clients that do not know the number
/// of streams yet send a hundred at once.
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

/// An answer's body in pieces, whose reader is watched.
#[derive(Debug)]
pub(super) struct ChunkedBody {
    rest: Bytes,
    slot: RequestSlot,
}

impl ChunkedBody {
    /// An answer with its body in pieces; without, but with its length, where only the head is
    /// wanted, which over HTTP/1 hyper sees to.
    pub(super) fn response(
        answer: HttpResponse,
        include_body: bool,
        slot: RequestSlot,
    ) -> Response<Self> {
        let (mut head, mut rest) = answer.into_parts();
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
        let piece = self.rest.split_to(len);
        self.slot.record_progress();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
