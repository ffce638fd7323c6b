//! A response's body, read before the response is sent.

use std::{
    error::Error as StdError,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};

/// A body that was read to its end, or to a limit.
pub(crate) enum Buffered<B> {
    /// All bytes of the body.
    Whole(Bytes),
    /// The body is larger than the limit, or there is no room for it.
    TooLarge(Started<B>),
    /// The body failed, or has not the length that it promised.
    Failed(Box<dyn StdError>),
}

/// A body of which the beginning has been read.
pub(crate) struct Started<B> {
    size: BodySize,
    beginning: Bytes,
    /// `None`: the beginning is all of it.
    rest: Option<Pin<Box<B>>>,
}

/// Reads a body of at most `most` bytes. `holds` accounts for the bytes of each piece that is copied, and says whether there
/// is room for them.
pub(crate) async fn buffer<B: MessageBody + 'static>(
    body: B,
    most: usize,
    mut holds: impl FnMut(usize) -> bool,
) -> Buffered<B> {
    let size = body.size();
    let length = match size {
        BodySize::None | BodySize::Sized(0) => return Buffered::Whole(Bytes::new()),
        BodySize::Sized(length) => Some(length),
        BodySize::Stream => None,
    };
    let body = match body.try_into_bytes() {
        Ok(bytes) if bytes.len() <= most => return Buffered::Whole(bytes),
        Ok(beginning) => return Buffered::TooLarge(Started { size, beginning, rest: None }),
        Err(body) => body,
    };
    let mut rest = Box::pin(body);
    let mut bytes = BytesMut::new();
    if length.is_some_and(|length| length > most as u64) {
        return Buffered::TooLarge(Started { size, beginning: Bytes::new(), rest: Some(rest) });
    }
    while let Some(piece) = poll_fn(|cx| rest.as_mut().poll_next(cx)).await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => return Buffered::Failed(error.into()),
        };
        bytes.extend_from_slice(&piece);
        if length.is_some_and(|length| bytes.len() as u64 > length) {
            break;
        }
        if !holds(piece.len()) || bytes.len() > most {
            return Buffered::TooLarge(Started { size, beginning: bytes.freeze(), rest: Some(rest) });
        }
    }
    if length.is_some_and(|length| bytes.len() as u64 != length) {
        return Buffered::Failed("it does not have the length that it promised".into());
    }
    Buffered::Whole(bytes.freeze())
}

impl<B: MessageBody + 'static> MessageBody for Started<B> {
    type Error = Box<dyn StdError>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let beginning = mem::take(&mut self.beginning);
        if !beginning.is_empty() {
            return Poll::Ready(Some(Ok(beginning)));
        }
        match &mut self.rest {
            Some(rest) => rest.as_mut().poll_next(cx).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }
}
