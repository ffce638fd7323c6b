//! A streamed body as its client reads it.

use std::{
    cell::RefCell,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tracing::{Instrument as _, Span};

use super::{
    body::BoxError,
    pump::{ClientState, EndOfCopy, Pump, SharedCopy},
};
use crate::{
    middleware::{
        detach::{self, drop_caught},
        operation::Operation,
        request::Upload,
    },
    observe::Outcome,
    record::Record,
    settings::{OnDisconnect, Settings},
};

/// A streamed body that is stored, or is to be stored.
pub(super) struct Recording<B: MessageBody + 'static> {
    source: Source<B>,
    size: BodySize,
    /// The meaning of a client that leaves before the end.
    when_client_leaves: ClientState,
    span: Span,
}

enum Source<B: MessageBody + 'static> {
    /// A task copies the body, and the client reads the copy. The end is withheld until the record is stored.
    Copied {
        copy: Rc<RefCell<SharedCopy<B>>>,
        /// The task, where it could not be spawned: the client polls it.
        pump: Option<LocalBoxFuture<'static, ()>>,
    },
    /// The client reads the rest itself, because the record is stored already, without its body.
    Direct(Pin<Box<B>>),
    /// The client reads the body itself, which may never end. The record is stored when the client leaves.
    Endless(Endless<B>),
    Ended,
}

/// The fields are dropped in this order: the handler's body before the operation, whose claim the body may still use.
struct Endless<B> {
    body: Pin<Box<B>>,
    without_body: Record,
    operation: Operation,
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
        let when_client_leaves = match settings.on_disconnect {
            OnDisconnect::Cancel => ClientState::Cancelled,
            OnDisconnect::Finish => ClientState::Left(settings.limits.drain_timeout),
        };
        let (size, span) = (body.size(), Span::current());
        let source = if is_endless {
            // Shutdown does not wait for a body that may never end.
            operation.in_flight = None;
            Source::Endless(Endless { body: Box::pin(body), without_body, operation })
        } else {
            let most = settings.storage.max_response_body;
            let copy = Rc::new(RefCell::new(SharedCopy::new()));
            let pump = Pump::new(body, copy.clone(), most, without_body, operation);
            let pump = detach::spawn(Box::pin(pump.run().instrument(span.clone()))).err();
            Source::Copied { copy, pump }
        };
        Self { source, size, when_client_leaves, span }
    }

    pub(super) const fn size(&self) -> BodySize {
        self.size
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            let end = match &mut self.source {
                Source::Ended => return Poll::Ready(None),
                Source::Direct(body) => ready!(body.as_mut().poll_next(cx)).map(|piece| piece.map_err(Into::into)),
                Source::Endless(endless) => {
                    ready!(endless.body.as_mut().poll_next(cx)).map(|piece| piece.map_err(Into::into))
                }
                Source::Copied { copy, pump } => {
                    if let Some(running) = pump
                        && running.as_mut().poll(cx).is_ready()
                    {
                        *pump = None;
                    }
                    let mut shared = copy.borrow_mut();
                    match ready!(shared.poll_next(cx)) {
                        Ok(piece) => return Poll::Ready(Some(Ok(piece))),
                        Err(EndOfCopy::Whole) => None,
                        Err(EndOfCopy::TooLarge(body)) => {
                            let Some(body) = body.take() else { return Poll::Ready(None) };
                            drop(shared);
                            self.source = Source::Direct(body);
                            continue;
                        }
                        Err(EndOfCopy::Failed(error)) => {
                            Some(Err(error.take().unwrap_or_else(|| "the body of a response was dropped".into())))
                        }
                    }
                }
            };
            if let Some(Ok(piece)) = end {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Source::Endless(endless) = mem::replace(&mut self.source, Source::Ended) {
                endless.end(end.is_none(), &self.span);
            }
            return Poll::Ready(end);
        }
    }
}

impl<B: MessageBody + 'static> Drop for Recording<B> {
    /// The client has left, perhaps before the end of the body.
    fn drop(&mut self) {
        match mem::replace(&mut self.source, Source::Ended) {
            Source::Ended => {}
            // Nothing is left to record.
            Source::Direct(body) => drop_caught(body, "a response body"),
            Source::Endless(endless) => {
                let completes = self.when_client_leaves != ClientState::Cancelled && !std::thread::panicking();
                if completes {
                    endless.end(true, &self.span);
                } else {
                    drop_caught(endless, "a response body");
                }
            }
            Source::Copied { copy, pump } => {
                if let Ok(mut copy) = copy.try_borrow_mut() {
                    copy.leave(self.when_client_leaves);
                }
                if let Some(pump) = pump
                    && let Err(pump) = detach::spawn(pump)
                {
                    drop_caught(pump, "a response body");
                }
            }
        }
    }
}

impl<B: MessageBody + 'static> Endless<B> {
    /// Stores the record without a body. A body that failed is not stored.
    fn end(self, is_stored: bool, span: &Span) {
        let Self { body, without_body, mut operation } = self;
        drop_caught(body, "a response body");
        if is_stored {
            complete_detached(operation, without_body, span);
        } else {
            // The claim ends as the operation is dropped.
            operation.recorder.outcome(Outcome::NotStored);
        }
    }
}

/// Stores a record that nobody waits for.
fn complete_detached(mut operation: Operation, record: Record, span: &Span) {
    let Some(mut held) = operation.held.take() else { return };
    match operation.upload.as_ref().map(Upload::so_far) {
        None => {}
        Some(Ok(digest)) => held.of_request(digest),
        Some(Err(_)) => {
            operation.recorder.outcome(Outcome::NotStored);
            // Otherwise the claim ends as it is dropped.
            if operation.upload.as_ref().is_some_and(Upload::is_told) {
                held.free();
            }
            return;
        }
    }
    operation.recorder.writes(&record);
    let mut completing = held.complete(record);
    let waker = std::task::Waker::noop();
    if let Poll::Ready(written) = Pin::new(&mut completing).poll(&mut Context::from_waker(waker)) {
        operation.recorder.outcome(written.outcome());
        return;
    }
    let task = async move {
        let written = completing.await;
        operation.recorder.outcome(written.outcome());
    };
    // Where it can't be spawned, the write-behind stores the record.
    drop(detach::spawn(Box::pin(task.instrument(span.clone()))));
}
