//! Copies a streamed body at the pace at which it is produced, until it is stored. The client reads the copy.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_web::body::MessageBody;
use bytes::{Bytes, BytesMut};

use super::body::BoxError;
use crate::{
    claim::{HeldBytes, InFlightGuard, Written},
    middleware::{detach::drop_caught, operation::Operation, request::Unsettled},
    record::Record,
};

/// Pieces that are smaller are put together, so that a body that is produced byte by byte does not take many times its
/// size.
const SMALL: usize = 4096;

/// The copy that a pump and its client share.
pub(super) struct SharedCopy<B> {
    /// The body so far.
    chunks: Vec<Bytes>,
    /// Small pieces that come after the chunks.
    tail: BytesMut,
    /// How many chunks the client has read.
    read: usize,
    end: Option<EndOfCopy<B>>,
    client: ClientState,
    /// The task that sends the body to the client, and the task that reads the handler's body, while they wait.
    client_waker: Option<Waker>,
    pump_waker: Option<Waker>,
    /// The bytes of the copy, once the operation has ended.
    held: Option<HeldBytes>,
}

/// Why nothing more is copied.
pub(super) enum EndOfCopy<B> {
    /// The body has ended, and is stored.
    Whole,
    /// The body failed.
    Failed(Option<BoxError>),
    /// The body is too large to keep. It is stored without its body, and the client reads the rest itself.
    TooLarge(Option<Pin<Box<B>>>),
}

/// Whether the client is there, and what follows if it has left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientState {
    Reads,
    /// The body is read on, for at most this long.
    Left(Duration),
    /// The body is dropped, and the key is free.
    Cancelled,
}

impl<B> SharedCopy<B> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            tail: BytesMut::new(),
            read: 0,
            end: None,
            client: ClientState::Reads,
            client_waker: None,
            pump_waker: None,
            held: None,
        }
    }

    /// The next piece for the client, or the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, &mut EndOfCopy<B>>> {
        if self.read == self.chunks.len() {
            self.cut();
        }
        if let Some(chunk) = self.chunks.get_mut(self.read) {
            self.read += 1;
            // After the end the copy belongs to the client alone.
            let is_kept = self.end.is_none();
            return Poll::Ready(Ok(if is_kept { chunk.clone() } else { std::mem::take(chunk) }));
        }
        let Some(end) = &mut self.end else {
            self.client_waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.held = None;
        Poll::Ready(Err(end))
    }

    /// The client has left.
    pub(super) fn leave(&mut self, client: ClientState) {
        self.client = client;
        if let Some(waker) = self.pump_waker.take() {
            waker.wake();
        }
    }

    fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.tail.extend_from_slice(&piece);
            if self.tail.len() >= SMALL {
                self.cut();
            }
        } else {
            self.cut();
            self.chunks.push(piece);
        }
        self.wake_client();
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
    }

    fn whole(&mut self) -> Vec<u8> {
        self.cut();
        self.chunks.concat()
    }

    fn end(&mut self, end: EndOfCopy<B>) {
        self.end = Some(end);
        self.wake_client();
    }

    fn wake_client(&mut self) {
        if let Some(waker) = self.client_waker.take() {
            waker.wake();
        }
    }
}

/// Fills a [`SharedCopy`]. The fields are dropped in this order: the handler's body before the operation, whose claim the
/// body may still use.
pub(super) struct Pump<B: MessageBody + 'static> {
    body: Option<Pin<Box<B>>>,
    copy: Rc<RefCell<SharedCopy<B>>>,
    length: usize,
    /// The most bytes that are copied.
    most: usize,
    /// The record without a body: what is stored when the body can't be kept.
    without_body: Record,
    operation: Operation,
}

impl<B: MessageBody + 'static> Pump<B> {
    pub(super) fn new(
        body: B,
        copy: Rc<RefCell<SharedCopy<B>>>,
        most: usize,
        without_body: Record,
        operation: Operation,
    ) -> Self {
        Self { body: Some(Box::pin(body)), copy, length: 0, most, without_body, operation }
    }

    /// Copies the body to its end, and stores it.
    pub(super) async fn run(mut self) {
        let left = self.copy_while_read().await;
        let Some(limit) = left else { return };
        tracing::debug!("the client left; its stream is read on");
        if tokio::time::timeout(limit, self.copy_to_the_end()).await.is_err() {
            tracing::warn!("a stream whose client left did not end in time: it is stored without its body");
            self.drop_body();
            let _ = self.store(None).await;
        }
    }

    /// Copies until the body has ended. `Some`: the client has left before, and the rest has so much time.
    async fn copy_while_read(&mut self) -> Option<Duration> {
        let mut pieces = 0_u32;
        loop {
            let client = self.copy.borrow().client;
            match client {
                ClientState::Reads => {}
                ClientState::Left(limit) => return Some(limit),
                ClientState::Cancelled => return None,
            }
            let polled = poll_fn(|cx| {
                {
                    let mut copy = self.copy.borrow_mut();
                    if copy.client != ClientState::Reads {
                        return Poll::Ready(None);
                    }
                    copy.pump_waker = Some(cx.waker().clone());
                }
                self.poll_body(cx).map(Some)
            });
            let Some(piece) = polled.await else { continue };
            if self.take(piece).await {
                return None;
            }
            give_way(&mut pieces).await;
        }
    }

    async fn copy_to_the_end(&mut self) {
        let mut pieces = 0_u32;
        loop {
            let piece = poll_fn(|cx| self.poll_body(cx)).await;
            if self.take(piece).await {
                return;
            }
            give_way(&mut pieces).await;
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        match &mut self.body {
            Some(body) => body.as_mut().poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    /// Copies a piece. Whether nothing more is to be copied.
    async fn take(&mut self, piece: Option<Result<Bytes, B::Error>>) -> bool {
        match piece {
            Some(Ok(piece)) => {
                self.length += piece.len();
                let in_flight = self.operation.in_flight.as_mut();
                let has_room = in_flight.is_none_or(|in_flight| in_flight.hold_bytes(piece.len()));
                self.copy.borrow_mut().push(piece);
                if self.length <= self.most && has_room {
                    return false;
                }
                let _ = self.store(None).await;
                // The client reads on by itself: its pace is the body's from now on. Without a client the body is dropped,
                // since nothing of it is left to record.
                let body = self.body.take();
                let is_read = self.copy.borrow().client == ClientState::Reads;
                if is_read {
                    self.end(EndOfCopy::TooLarge(body));
                } else {
                    drop_caught(body, "a response body");
                }
            }
            Some(Err(error)) => {
                // A truncated response must never be replayed.
                self.drop_body();
                if self.operation.held.is_some() {
                    self.operation.fail().await;
                }
                self.copy.borrow_mut().end(EndOfCopy::Failed(Some(error.into())));
            }
            None => {
                let whole = self.copy.borrow_mut().whole();
                // The response's body may hold the request's body.
                self.drop_body();
                let stored = self.store(Some(&whole)).await;
                self.end(match stored {
                    Ok(()) => EndOfCopy::Whole,
                    Err(_) => EndOfCopy::Failed(Some("the request's body is not what its client said".into())),
                });
            }
        }
        true
    }

    /// Ends the copy. The operation is not in flight any more, and the bytes that the client has yet to read are held.
    fn end(&mut self, end: EndOfCopy<B>) {
        let held = self.operation.in_flight.take().map(InFlightGuard::end);
        let mut copy = self.copy.borrow_mut();
        copy.held = held;
        copy.end(end);
    }

    fn drop_body(&mut self) {
        drop_caught(self.body.take(), "a response body");
    }

    /// Stores the record. From here on it is stored even if the pump is dropped. Fails if the client must not take the
    /// response for one that is stored.
    async fn store(&mut self, body: Option<&[u8]>) -> Result<(), Unsettled> {
        if self.operation.held.is_none() {
            return Ok(());
        }
        // The response's body may still read the request's, as long as more of the former is to come.
        if let Err(why) = self.operation.settle(body.is_some()).await {
            return if why.problem().is_some() { Err(why) } else { Ok(()) };
        }
        let Some(held) = self.operation.held.take() else { return Ok(()) };
        let record = body.map_or_else(|| self.without_body.clone(), |body| self.without_body.with_body(body));
        self.operation.recorder.writes(&record);
        let written: Written = held.complete(record).await;
        self.operation.recorder.outcome(written.outcome());
        self.operation.recorder.finish();
        Ok(())
    }
}

impl<B: MessageBody + 'static> Drop for Pump<B> {
    /// A body that panicked, or whose runtime ends, must not leave its client waiting.
    fn drop(&mut self) {
        drop_caught(self.body.take(), "a response body");
        if let Ok(mut copy) = self.copy.try_borrow_mut()
            && copy.end.is_none()
        {
            copy.end(EndOfCopy::Failed(None));
        }
    }
}

/// A body that is always ready must not keep its worker from everything else.
async fn give_way(pieces: &mut u32) {
    *pieces = pieces.wrapping_add(1);
    if pieces.is_multiple_of(32) {
        tokio::task::yield_now().await;
    }
}
