//! The body of a request: read before anything is claimed, hashed as it is, and handed to the handler unchanged.

use actix_web::{dev::Payload, error::PayloadError};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

use crate::client::problem::Problem;

/// The first pieces are kept as they arrive. After `FEW` of them, pieces smaller than `SMALL` bytes are put together: a
/// body that is sent byte by byte would otherwise take many times its size.
const FEW: usize = 8;
const SMALL: usize = 4096;

/// A body in the pieces in which it arrived.
pub(in crate::middleware) struct RequestBody {
    pieces: Pieces,
    /// The part that was not read.
    rest: Option<Payload>,
}

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
    pub(in crate::middleware) fn unread(payload: Payload) -> Self {
        Self { pieces: Pieces::None, rest: Some(payload).filter(|payload| !matches!(payload, Payload::None)) }
    }

    /// Reads the body to its end, at most `limit` bytes. When it is larger, [`take_payload`](Self::take_payload) still
    /// gives the whole body: the part that was read, then the rest.
    pub(in crate::middleware) async fn read(&mut self, limit: usize) -> Result<(), Problem> {
        let Some(payload) = &mut self.rest else { return Ok(()) };
        let mut small = BytesMut::new();
        let mut length = 0;
        let mut read = Ok(());
        while let Some(piece) = payload.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::debug!(%error, "a request body could not be read to its end");
                    *payload = failed(error);
                    read = Err(Problem::UnreadableBody);
                    break;
                }
            };
            length += piece.len();
            if piece.is_empty() {
                continue;
            }
            if self.pieces.as_slice().len() < FEW || piece.len() >= SMALL {
                if !small.is_empty() {
                    self.pieces.push(small.split().freeze());
                }
                self.pieces.push(piece);
            } else {
                small.extend_from_slice(&piece);
            }
            if length > limit {
                read = Err(Problem::BodyTooLarge { limit });
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
    pub(in crate::middleware) async fn discard(&mut self, limit: usize) {
        let Some(payload) = &mut self.rest else { return };
        let mut length = 0;
        while let Some(Ok(piece)) = payload.next().await {
            length += piece.len();
            if length > limit {
                return;
            }
        }
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

fn stream_of(stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static) -> Payload {
    Payload::Stream { payload: Box::pin(stream) }
}
