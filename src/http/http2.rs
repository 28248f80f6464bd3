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

use super::{MAX_HEADERS, connection::Turn, routes::Answer};

/// Requests at the same time on one connection; those beyond are to be asked again.
const MAX_STREAMS: u32 = 16;
/// What is read of a request's body before it is refused.
const WINDOW: u32 = 65_535;
/// What is kept of an answer that is not taken.
const MAX_UNSENT: usize = 64 << 10;
/// What is handed over of an answer at once.
const PIECE: usize = 16 << 10;
/// Requests that were taken back before they were looked at: more close the connection.
const MAX_TAKEN_BACK: usize = 32;
/// Requests that were sent away: more close the connection. Clients that do not know the number
/// of streams yet send a hundred at once.
const MAX_SENT_AWAY: usize = 512;

pub(super) fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADERS).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(MAX_UNSENT)
        .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
        .max_local_error_reset_streams(MAX_SENT_AWAY);
    builder
}

/// An answer's body in pieces, whose reader is watched.
#[derive(Debug)]
pub(super) struct Pieces {
    rest: Bytes,
    turn: Turn,
}

impl Pieces {
    /// An answer with its body in pieces; without, but with its length, where only the head is
    /// wanted, which over HTTP/1 hyper sees to.
    pub(super) fn answer(answer: Answer, wants_body: bool, turn: Turn) -> Response<Self> {
        let (mut head, mut rest) = answer.into_parts();
        if !wants_body {
            head.headers.insert(CONTENT_LENGTH, rest.len().into());
            rest = Bytes::new();
        }
        turn.taken();
        Response::from_parts(head, Self { rest, turn })
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(len);
        self.turn.taken();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
