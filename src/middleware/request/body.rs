//! The body of a request: read before anything is claimed, hashed as it is, and handed to the handler unchanged.

use std::time::Duration;

use actix_web::{
    dev::{Payload, RequestHead},
    error::PayloadError,
    http::{
        Method,
        header::{self, HeaderValue},
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::time::Instant;

use crate::{
    claim::{InFlightGuard, at_most_a_century},
    client::problem::Problem,
};

/// The first pieces are kept as they arrive. After `FEW` of them, pieces smaller than `SMALL` bytes are put together: a
/// body that is sent byte by byte would otherwise take many times its size.
const FEW: usize = 8;
const SMALL: usize = 4096;

/// A body in the pieces in which it arrived.
pub(in crate::middleware) struct RequestBody {
    pieces: Pieces,
    /// The part that was not read.
    rest: Option<Payload>,
    announced: Announced,
}

/// The body of a request as its head announces it.
#[derive(Clone, Copy)]
pub(in crate::middleware) struct Announced {
    /// `Content-Length`, or 0.
    length: u64,
    /// The connection becomes another protocol's. actix-web takes everything that follows for a body that does not end.
    is_upgrade: bool,
}

impl Announced {
    pub(in crate::middleware) fn by(head: &RequestHead) -> Self {
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let length = length.unwrap_or(0);
        let is_websocket = |value: &HeaderValue| {
            value.to_str().is_ok_and(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
        };
        let takes_over =
            head.headers.get_all(header::UPGRADE).any(is_websocket) || head.method == Method::CONNECT && length == 0;
        let is_upgrade = takes_over && !head.headers.contains_key(header::TRANSFER_ENCODING);
        Self { length, is_upgrade }
    }

    const fn exceeds(self, limits: BodyLimits) -> bool {
        self.length > limits.bytes as u64
    }
}

/// How much of a body is read, and for how long.
#[derive(Clone, Copy)]
pub(in crate::middleware) struct BodyLimits {
    /// `max_request_body`.
    pub(in crate::middleware) bytes: usize,
    /// `limits.body_timeout`, with one more second for each [`PER_SECOND`] bytes that have arrived.
    pub(in crate::middleware) time: Duration,
}

/// A client that sends so many bytes a second is not too slow.
const PER_SECOND: usize = 16 << 10;

/// Most bodies are small, and arrive in one piece.
#[derive(Default)]
enum Pieces {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(piece),
            Self::One(first) => Self::Many(vec![first, piece]),
            Self::Many(mut pieces) => {
                pieces.push(piece);
                Self::Many(pieces)
            }
        }
    }

    fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::None => &[],
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

impl RequestBody {
    /// The body of a payload that nobody has polled yet.
    pub(in crate::middleware) fn unread(payload: Payload, announced: Announced) -> Self {
        let rest = Some(payload).filter(|payload| !matches!(payload, Payload::None));
        Self { pieces: Pieces::None, rest, announced }
    }

    /// An upgrade with a body is refused: actix-web does not tell where that body ends.
    pub(in crate::middleware) fn has_end(&self) -> Result<(), Problem> {
        if self.announced.is_upgrade && self.announced.length > 0 { Err(Problem::UnreadableBody) } else { Ok(()) }
    }

    /// Reads the body to its end. When it is larger than the limit, [`take_payload`](Self::take_payload) still gives the
    /// whole body: the part that was read, then the rest.
    ///
    /// A body that arrived with its head is read without a timer.
    pub(in crate::middleware) async fn read(
        &mut self,
        limits: BodyLimits,
        in_flight: &mut InFlightGuard,
    ) -> Result<(), Problem> {
        let Some(payload) = &mut self.rest else { return Ok(()) };
        if self.announced.is_upgrade {
            return Ok(());
        }
        if self.announced.exceeds(limits) {
            return Err(Problem::BodyTooLarge { limit: limits.bytes });
        }
        let started = Instant::now();
        let mut small = BytesMut::new();
        let mut length = 0;
        let mut read = Ok(());
        loop {
            let next = if let Some(next) = payload.next().now_or_never() {
                Ok(next)
            } else {
                let seconds = Duration::from_secs((length / PER_SECOND) as u64);
                let until = started + at_most_a_century(limits.time.saturating_add(seconds));
                Box::pin(tokio::time::timeout_at(until, payload.next())).await
            };
            let piece = match next {
                Ok(None) => break,
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a request body could not be read to its end");
                    *payload = failed(error);
                    read = Err(Problem::UnreadableBody);
                    break;
                }
                Err(_) => {
                    tracing::debug!(length, "a request body took too long to arrive");
                    read = Err(Problem::BodyTimeout { has_begun: false });
                    break;
                }
            };
            length += piece.len();
            if piece.is_empty() {
                continue;
            }
            let has_room = in_flight.hold_bytes(piece.len());
            if self.pieces.as_slice().len() < FEW || piece.len() >= SMALL {
                if !small.is_empty() {
                    self.pieces.push(small.split().freeze());
                }
                self.pieces.push(piece);
            } else {
                small.extend_from_slice(&piece);
            }
            if length > limits.bytes {
                read = Err(Problem::BodyTooLarge { limit: limits.bytes });
                break;
            }
            if !has_room {
                tracing::warn!("limits.max_buffered is reached: a request is refused");
                read = Err(Problem::Overloaded);
                break;
            }
        }
        if !small.is_empty() {
            self.pieces.push(small.freeze());
        }
        if read.is_ok() {
            self.rest = None;
        }
        read
    }

    /// Reads and drops at most `limit` bytes of the unread part. A response to an unread body would cost the client its
    /// connection, and over HTTP/2 the response too.
    pub(in crate::middleware) async fn discard(&mut self, limits: BodyLimits) {
        let Some(payload) = &mut self.rest else { return };
        if self.announced.is_upgrade || self.announced.exceeds(limits) {
            return;
        }
        let all = async {
            let mut length = 0;
            while let Some(Ok(piece)) = payload.next().await {
                length += piece.len();
                if length > limits.bytes {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limits.time, all).await;
    }

    /// `Content-Length`, if the request has one that says something.
    pub(in crate::middleware) fn announced_length(&self) -> Option<u64> {
        Some(self.announced.length).filter(|&length| length > 0)
    }

    /// Whether the body was neither read nor handed on.
    pub(in crate::middleware) const fn is_unread(&self) -> bool {
        self.rest.is_some()
    }

    /// Whether the connection becomes another protocol's.
    pub(in crate::middleware) const fn is_upgrade(&self) -> bool {
        self.announced.is_upgrade
    }

    pub(in crate::middleware) fn pieces(&self) -> &[Bytes] {
        self.pieces.as_slice()
    }

    /// The same body for the handler.
    pub(in crate::middleware) fn take_payload(&mut self) -> Payload {
        match (std::mem::take(&mut self.pieces), self.rest.take()) {
            (Pieces::None, rest) => rest.unwrap_or(Payload::None),
            (Pieces::One(piece), None) => stream_of(stream::iter([Ok(piece)])),
            (Pieces::One(piece), Some(rest)) => stream_of(stream::iter([Ok(piece)]).chain(rest)),
            (Pieces::Many(pieces), None) => stream_of(stream::iter(pieces.into_iter().map(Ok))),
            (Pieces::Many(pieces), Some(rest)) => stream_of(stream::iter(pieces.into_iter().map(Ok)).chain(rest)),
        }
    }
}

/// A payload that fails with this error.
fn failed(error: PayloadError) -> Payload {
    stream_of(stream::iter([Err(error)]))
}

pub(super) fn stream_of(stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static) -> Payload {
    Payload::Stream { payload: Box::pin(stream) }
}
