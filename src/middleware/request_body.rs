//! The body of a request: read before anything is claimed, hashed as it is, and handed on unchanged.

use actix_web::{dev::Payload, error::PayloadError};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use crate::problem::Problem;

/// So many pieces are kept as they came; then small ones are put together. A body sent byte by byte would otherwise take
/// many times its size.
const FEW: usize = 8;
const SMALL: usize = 4096;

/// A body in the pieces in which it arrived.
#[derive(Debug, Default)]
pub(super) struct RequestBody {
    pieces: Vec<Bytes>,
}

impl RequestBody {
    /// Reads to the end, at most `limit` bytes.
    pub(super) async fn read(payload: &mut Payload, limit: usize) -> Result<Self, Problem> {
        let mut pieces = Vec::new();
        let mut small = BytesMut::new();
        let mut length = 0;
        if matches!(payload, Payload::None) {
            return Ok(Self { pieces });
        }
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(unreadable)?;
            length += piece.len();
            if length > limit {
                return Err(Problem::BodyTooLarge { limit });
            }
            if piece.is_empty() {
                continue;
            }
            if pieces.len() < FEW || piece.len() >= SMALL {
                if !small.is_empty() {
                    pieces.push(small.split().freeze());
                }
                pieces.push(piece);
            } else {
                small.extend_from_slice(&piece);
            }
        }
        if !small.is_empty() {
            pieces.push(small.freeze());
        }
        Ok(Self { pieces })
    }

    /// Reads at most `limit` bytes and drops them: an answer to an unread body would cost the client its connection, and
    /// over HTTP/2 the answer.
    pub(super) async fn discard(payload: &mut Payload, limit: usize) {
        let mut length = 0;
        while let Some(Ok(piece)) = payload.next().await {
            length += piece.len();
            if length > limit {
                return;
            }
        }
    }

    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The same body for the handler.
    pub(super) fn into_payload(self) -> Payload {
        if self.pieces.is_empty() {
            return Payload::None;
        }
        Payload::Stream { payload: Box::pin(stream::iter(self.pieces.into_iter().map(Ok))) }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: PayloadError) -> Problem {
    tracing::debug!(%error, "a request body could not be read to its end");
    Problem::UnreadableBody
}
