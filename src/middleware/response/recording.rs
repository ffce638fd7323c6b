//! A streamed body that is copied while it passes. Its end is withheld until the record is stored.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, LocalBoxFuture, ready as ready_future};
use tracing::{Instrument as _, Span};

use super::body::BoxError;
use crate::{
    claim::Written,
    middleware::operation::Operation,
    observe::Outcome,
    record::Record,
    settings::{OnDisconnect, Settings},
};

/// A recorded body as the client reads it.
pub(super) struct Recording<B: MessageBody + 'static> {
    /// `None`: the body has ended, or its rest is read without the client.
    stream: Option<RecordedStream<B>>,
    size: BodySize,
    on_client_gone: OnClientGone,
    span: Span,
}

/// The part of a recording that goes on without the client. The fields are dropped in this order: the handler's body
/// before the operation, whose claim the body may still use.
struct RecordedStream<B> {
    body: Pin<Box<B>>,
    has_ended: bool,
    /// The record without a body: what is stored when the body can't be kept.
    without_body: Record,
    /// The body so far. `None`: the body is not kept.
    copy: Option<BytesMut>,
    most: usize,
    /// The write of the record, once it has begun.
    storing: Option<LocalBoxFuture<'static, Written>>,
    operation: Operation,
}

/// The reaction to a client that leaves before the end of the body.
#[derive(Clone, Copy)]
enum OnClientGone {
    /// The body is read on, for at most this long.
    ReadOn(Duration),
    /// The record is completed without a body, because the body may never end.
    Complete,
    /// Everything is dropped, and the key is free.
    Cancel,
}

impl<B: MessageBody + 'static> Recording<B> {
    /// Takes over what the operation owes. An `is_endless` body is neither copied nor read on without its client.
    pub(super) fn new(
        body: B,
        without_body: Record,
        is_endless: bool,
        mut operation: Operation,
        settings: &Settings,
    ) -> Self {
        let on_client_gone = match settings.on_disconnect {
            OnDisconnect::Cancel => OnClientGone::Cancel,
            OnDisconnect::Finish if is_endless => OnClientGone::Complete,
            OnDisconnect::Finish => OnClientGone::ReadOn(settings.limits.drain_timeout),
        };
        let most = settings.storage.max_response_body;
        let size = body.size();
        let is_too_large = matches!(size, BodySize::Sized(length) if length > most as u64);
        if is_endless {
            // Shutdown does not wait for a body that may never end.
            operation.in_flight = None;
        }
        let mut stream = RecordedStream {
            body: Box::pin(body),
            has_ended: false,
            without_body,
            copy: (!is_endless && !is_too_large).then(BytesMut::new),
            most,
            storing: None,
            operation,
        };
        if is_too_large && !is_endless {
            stream.store();
        }
        Self { stream: Some(stream), size, on_client_gone, span: Span::current() }
    }

    pub(super) const fn size(&self) -> BodySize {
        self.size
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let polled = ready!(stream.poll_next(cx));
        if !matches!(polled, Some(Ok(_))) {
            self.stream = None;
        }
        Poll::Ready(polled)
    }
}

impl<B: MessageBody + 'static> Drop for Recording<B> {
    /// The client has left before the end of the body.
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        let on_client_gone = if std::thread::panicking() { OnClientGone::Cancel } else { self.on_client_gone };
        let rest = async move {
            match on_client_gone {
                OnClientGone::Cancel => {}
                OnClientGone::Complete => stream.complete_without_body().await,
                OnClientGone::ReadOn(limit) => {
                    tracing::debug!("the client left; its stream is read on");
                    if tokio::time::timeout(limit, stream.read_on()).await.is_err() {
                        tracing::warn!("a stream whose client left did not end in time: it is stored without its body");
                        stream.complete_without_body().await;
                    }
                }
            }
        };
        if !matches!(on_client_gone, OnClientGone::Cancel) {
            let span = mem::replace(&mut self.span, Span::none());
            actix_web::rt::spawn(rest.instrument(span));
        }
    }
}

impl<B: MessageBody + 'static> RecordedStream<B> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if self.storing.is_some() {
                ready!(self.poll_storing(cx));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            match ready!(self.body.as_mut().poll_next(cx)) {
                Some(Ok(piece)) => {
                    self.copy(&piece);
                    // A client that stalls now must not keep the record from the store.
                    let _ = self.poll_storing(cx);
                    return Poll::Ready(Some(Ok(piece)));
                }
                Some(Err(error)) => {
                    // A truncated response must never be replayed, so the key is freed.
                    if let Some(held) = self.operation.held.take() {
                        self.operation.recorder.outcome(Outcome::NotStored);
                        held.free();
                    }
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    self.has_ended = true;
                    self.store();
                }
            }
        }
    }

    fn copy(&mut self, piece: &Bytes) {
        match &mut self.copy {
            Some(copy) if copy.len() + piece.len() <= self.most => copy.extend_from_slice(piece),
            Some(_) => {
                // The body is too large to keep: the record is stored without it, at once.
                self.copy = None;
                self.store();
            }
            None => {}
        }
    }

    /// Begins the write of the record. From here on the record is stored even if this value is dropped.
    fn store(&mut self) {
        if let Some(held) = self.operation.held.take() {
            let record = match self.copy.take() {
                Some(body) => self.without_body.with_body(&body),
                None => self.without_body.clone(),
            };
            self.operation.recorder.writes(&record);
            self.storing = Some(match held.complete(record) {
                Either::Left(written) => Box::pin(ready_future(written.into_inner())),
                Either::Right(writing) => writing,
            });
        }
    }

    /// Resolves when the record is stored, or nothing is being stored.
    fn poll_storing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(storing) = &mut self.storing {
            let written = ready!(storing.as_mut().poll(cx));
            self.storing = None;
            self.operation.recorder.outcome(written.outcome());
            self.operation.recorder.finish();
        }
        Poll::Ready(())
    }

    async fn read_on(&mut self) {
        let mut pieces = 0_u32;
        while let Some(Ok(_)) = poll_fn(|cx| self.poll_next(cx)).await {
            pieces = pieces.wrapping_add(1);
            // A body that is always ready must not keep its worker and its timer from everything else.
            if pieces.is_multiple_of(32) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn complete_without_body(&mut self) {
        self.copy = None;
        self.store();
        poll_fn(|cx| self.poll_storing(cx)).await;
    }
}
