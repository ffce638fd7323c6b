//! The body of an answer: passed through, known whole, or recorded while it is produced.

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use pin_project_lite::pin_project;
use tracing::{Instrument as _, Span};

use crate::middleware::{run::Run, witness::Witness};
use crate::{
    claim::{Held, in_flight::Running},
    observe::Outcome,
    record::Record,
    settings::OnDisconnect,
};

type BoxError = Box<dyn StdError>;

pin_project! {
    /// The body of a response that has passed an instance.
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
        /// Boxed: few bodies are recorded, and all are moved often.
        Recorded { recording: Box<Recording<B>> },
    }
}

impl<B: MessageBody + 'static> AnswerBody<B> {
    pub(in crate::middleware) const fn through(body: B) -> Self {
        Self { kind: Kind::Through { body } }
    }

    pub(in crate::middleware) const fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole { bytes } }
    }

    /// A body of our own making.
    pub(in crate::middleware) const fn whole_of(body: BoxBody) -> Self {
        Self { kind: Kind::Boxed { body } }
    }

    pub(in crate::middleware) fn recorded(recording: Recording<B>) -> Self {
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
            Kind::Boxed { body } => body.try_into_bytes().map_err(Self::whole_of),
            kind @ Kind::Recorded { .. } => Err(Self { kind }),
        }
    }
}

/// A body that is copied while it passes; its end is withheld until the record is stored.
pub(in crate::middleware) struct Recording<B: MessageBody + 'static> {
    /// `None`: ended, or handed on.
    tape: Option<Tape<B>>,
    size: BodySize,
    left: Left,
    span: Span,
}

/// What goes on without the client.
struct Tape<B> {
    body: Pin<Box<B>>,
    ended: bool,
    /// The record so far: without a body.
    bare: Record,
    /// `None`: the body is not kept.
    copy: Option<BytesMut>,
    most: usize,
    /// `None`: the record is stored, or being so.
    held: Option<Box<Held>>,
    storing: Option<LocalBoxFuture<'static, ()>>,
    /// `None`: shutdown does not wait for an endless body.
    _running: Option<Running>,
    witness: Witness,
}

/// What to do when the client leaves.
#[derive(Clone, Copy)]
enum Left {
    /// Read on, so long.
    Drain(Duration),
    /// Complete without a body: it would go on for ever.
    Complete,
    Cancel,
}

impl<B: MessageBody + 'static> Recording<B> {
    /// `bare` is the record without a body: what is stored when the body can't be kept. An `endless` body is neither
    /// copied nor read on without its client.
    pub(in crate::middleware) fn new(body: B, bare: Record, endless: bool, run: &mut Run) -> Self {
        let settings = &run.config.settings;
        let left = match settings.on_disconnect {
            OnDisconnect::Cancel => Left::Cancel,
            OnDisconnect::Finish if endless => Left::Complete,
            OnDisconnect::Finish => Left::Drain(settings.limits.drain_timeout),
        };
        let most = settings.storage.max_response_body;
        let size = body.size();
        let too_large = matches!(size, BodySize::Sized(length) if length > most as u64);
        let mut tape = Tape {
            body: Box::pin(body),
            ended: false,
            bare,
            copy: (!endless && !too_large).then(BytesMut::new),
            most,
            held: run.held.take(),
            storing: None,
            _running: run.running.take().filter(|_| !endless),
            witness: mem::take(&mut run.witness),
        };
        if too_large && !endless {
            tape.store();
        }
        Self { tape: Some(tape), size, left, span: Span::current() }
    }

    const fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(tape) = &mut self.tape else { return Poll::Ready(None) };
        let polled = ready!(tape.poll_next(cx));
        if !matches!(polled, Some(Ok(_))) {
            self.tape = None;
        }
        Poll::Ready(polled)
    }
}

impl<B: MessageBody + 'static> Drop for Recording<B> {
    fn drop(&mut self) {
        let Some(mut tape) = self.tape.take() else { return };
        let left = if std::thread::panicking() { Left::Cancel } else { self.left };
        let rest = async move {
            match left {
                Left::Cancel => {}
                Left::Complete => tape.complete_bare().await,
                Left::Drain(limit) => {
                    tracing::debug!("the client left; its stream is read on");
                    if tokio::time::timeout(limit, tape.drain()).await.is_err() {
                        tracing::warn!("a stream whose client left did not end in time: it is stored without its body");
                        tape.complete_bare().await;
                    }
                }
            }
        };
        if !matches!(left, Left::Cancel) {
            let span = mem::replace(&mut self.span, Span::none());
            actix_web::rt::spawn(rest.instrument(span));
        }
    }
}

impl<B: MessageBody + 'static> Tape<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if let Some(storing) = &mut self.storing {
                ready!(storing.as_mut().poll(cx));
                self.storing = None;
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.body.as_mut().poll_next(cx)) {
                Some(Ok(piece)) => {
                    self.copy(&piece);
                    // A client that stalls now must not keep the record from the store.
                    if let Some(storing) = &mut self.storing
                        && storing.as_mut().poll(cx).is_ready()
                    {
                        self.storing = None;
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Some(Err(error)) => {
                    // No truncated answer may ever be replayed: the key is free.
                    if let Some(held) = self.held.take() {
                        self.witness.sees(Outcome::NotStored);
                        held.free();
                    }
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    self.ended = true;
                    self.store();
                }
            }
        }
    }

    fn copy(&mut self, piece: &Bytes) {
        match &mut self.copy {
            Some(copy) if copy.len() + piece.len() <= self.most => copy.extend_from_slice(piece),
            Some(_) => {
                // Too large to keep: the record does without, now.
                self.copy = None;
                self.store();
            }
            None => {}
        }
    }

    fn store(&mut self) {
        if let Some(held) = self.held.take() {
            let record = match self.copy.take() {
                Some(body) => self.bare.with_body(Some(&body)),
                None => self.bare.clone(),
            };
            // Begun here, not at its first poll: from now on the record is stored, whatever becomes of this body.
            self.witness.writes(&record);
            let (completing, mut witness) = (held.complete(record), mem::take(&mut self.witness));
            self.storing = Some(Box::pin(async move { witness.sees(completing.await.outcome()) }));
        }
    }

    async fn drain(&mut self) {
        let mut pieces = 0_u32;
        while let Some(Ok(_)) = poll_fn(|cx| self.poll_next(cx)).await {
            pieces = pieces.wrapping_add(1);
            // A body that is always ready must not keep its worker, nor the timer, from everything else.
            if pieces.is_multiple_of(32) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn complete_bare(&mut self) {
        self.copy = None;
        self.store();
        if let Some(storing) = self.storing.take() {
            storing.await;
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
