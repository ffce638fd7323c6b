//! The body of a response that has passed an instance.

use std::{
    error::Error as StdError,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use pin_project_lite::pin_project;

use super::recording::Recording;

pub(super) type BoxError = Box<dyn StdError>;

pin_project! {
    /// The body of a response that has passed an instance: passed through, available whole, or recorded while it is
    /// produced.
    pub struct AnswerBody<B>
    where
        B: MessageBody,
        B: 'static,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B>
    where
        B: MessageBody,
        B: 'static,
    {
        Through { #[pin] body: B },
        Whole { bytes: Bytes },
        Boxed { #[pin] body: BoxBody },
        /// Boxed, because few bodies are recorded and all bodies are moved often.
        Recorded { recording: Box<Recording<B>> },
    }
}

impl<B: MessageBody + 'static> AnswerBody<B> {
    /// The body of an unprotected response.
    pub(in crate::middleware) const fn through(body: B) -> Self {
        Self { kind: Kind::Through { body } }
    }

    pub(in crate::middleware) const fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole { bytes } }
    }

    /// The body of a problem.
    pub(in crate::middleware) const fn boxed(body: BoxBody) -> Self {
        Self { kind: Kind::Boxed { body } }
    }

    pub(super) fn recorded(recording: Recording<B>) -> Self {
        Self { kind: Kind::Recorded { recording: Box::new(recording) } }
    }
}

impl<B: MessageBody + 'static> MessageBody for AnswerBody<B> {
    type Error = BoxError;

    fn size(&self) -> BodySize {
        match &self.kind {
            Kind::Through { body } => body.size(),
            Kind::Whole { bytes } => bytes.size(),
            Kind::Boxed { body } => body.size(),
            Kind::Recorded { recording } => recording.size(),
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Through { body } => body.poll_next(cx).map_err(Into::into),
            KindProj::Whole { bytes } => Poll::Ready((!bytes.is_empty()).then(|| Ok(mem::take(bytes)))),
            KindProj::Boxed { body } => body.poll_next(cx),
            KindProj::Recorded { recording } => recording.poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self.kind {
            Kind::Through { body } => body.try_into_bytes().map_err(Self::through),
            Kind::Whole { bytes } => Ok(bytes),
            Kind::Boxed { body } => body.try_into_bytes().map_err(Self::boxed),
            kind @ Kind::Recorded { .. } => Err(Self { kind }),
        }
    }
}

impl<B: MessageBody> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Through { .. } => "AnswerBody(through)",
            Kind::Whole { .. } | Kind::Boxed { .. } => "AnswerBody(whole)",
            Kind::Recorded { .. } => "AnswerBody(recorded)",
        })
    }
}
