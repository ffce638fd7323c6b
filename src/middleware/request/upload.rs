//! A body that its handler reads while it is hashed (`body = stream`).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_web::{dev::Payload, error::PayloadError};
use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::stream_of;
use crate::{claim::at_most_a_century, client::problem::Problem, key::Fingerprint, record::RequestDigest};

/// The body of a request, while its handler reads it and until it was read to its end.
#[derive(Clone)]
pub(in crate::middleware) struct Upload(Rc<RefCell<Reading>>);

struct Reading {
    payload: Payload,
    /// The fingerprint of the request without a digest of its body.
    head: Fingerprint,
    hash: Sha256,
    length: u64,
    /// How many bytes were read on behalf of the handler.
    left: u64,
    most: u64,
    /// The SHA-256 of the body, as the client says.
    digest: Option<[u8; 32]>,
    /// How long the handler has waited for a byte.
    idle: Idle,
    /// How long nobody has read anything. A timer of its own, because a timer wakes one task: whoever polled it last.
    stalled: Idle,
    end: Option<Result<RequestDigest, Unsettled>>,
    /// Whether the handler got an error.
    is_told: bool,
    /// Whether the handler has let the body go.
    is_left: bool,
    /// The task that waits for the end of the body.
    waiting: Option<Waker>,
}

/// Why it is not known what a body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::middleware) enum Unsettled {
    /// The body is not the one that `Content-Digest` names.
    Wrong,
    /// No byte came for `limits.body_idle_timeout`.
    Slow,
    /// The body broke off.
    Failed,
    /// The handler left more of the body than is read on the handler's behalf.
    Unread,
}

impl Unsettled {
    /// The problem that the client gets in place of the handler's answer.
    pub(in crate::middleware) const fn problem(self) -> Option<Problem> {
        match self {
            Self::Wrong => Some(Problem::WrongDigest),
            Self::Slow => Some(Problem::BodyTimeout { has_begun: true }),
            Self::Failed | Self::Unread => None,
        }
    }

    /// The problem of a request that does not run.
    pub(in crate::middleware) const fn refusal(self) -> Problem {
        match self {
            Self::Wrong => Problem::WrongDigest,
            Self::Slow => Problem::BodyTimeout { has_begun: false },
            Self::Failed | Self::Unread => Problem::UnreadableBody,
        }
    }
}

impl Upload {
    /// `idle`: how long may pass without a byte. `most`: how many bytes are read of what the handler has left.
    pub(in crate::middleware) fn new(
        payload: Payload,
        head: Fingerprint,
        digest: Option<[u8; 32]>,
        idle: Duration,
        most: u64,
    ) -> Self {
        Self(Rc::new(RefCell::new(Reading {
            payload,
            head,
            hash: Sha256::new(),
            length: 0,
            left: 0,
            most,
            digest,
            idle: Idle::new(idle),
            stalled: Idle::new(idle),
            end: None,
            is_told: false,
            is_left: true,
            waiting: None,
        })))
    }

    /// The body for the handler. Call once.
    pub(in crate::middleware) fn payload(&self) -> Payload {
        self.0.borrow_mut().is_left = false;
        stream_of(UploadPayload(self.clone()))
    }

    /// Waits until the handler has read the body or let it go, and reads what it has left.
    pub(in crate::middleware) async fn settle(&self) -> Result<RequestDigest, Unsettled> {
        std::future::poll_fn(|cx| self.0.borrow_mut().poll_end(cx)).await
    }

    /// Whether nobody has the body any more who could read it.
    pub(in crate::middleware) fn is_left(&self) -> bool {
        self.0.borrow().is_left
    }

    /// Whether the handler knows that the body is not what it should be.
    pub(in crate::middleware) fn is_told(&self) -> bool {
        self.0.borrow().is_told
    }

    /// The end of the body, if it is known now.
    pub(in crate::middleware) fn so_far(&self) -> Result<RequestDigest, Unsettled> {
        self.0.borrow().end.unwrap_or(Err(Unsettled::Unread))
    }
}

impl Reading {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<RequestDigest, Unsettled>> {
        loop {
            if let Some(end) = self.end {
                return Poll::Ready(end);
            }
            if !self.is_left {
                self.waiting = Some(cx.waker().clone());
                // A task that has taken the body may never read on.
                ready!(self.stalled.poll(cx));
                // Where the handler waits for the client, it finds out first.
                match self.idle.since.map(|since| since + self.idle.most) {
                    Some(due) if due + self.idle.most > Instant::now() => self.stalled.since = Some(due),
                    _ => self.end = Some(Err(Unsettled::Unread)),
                }
            } else if let Some(Ok(piece)) = ready!(self.poll_next(cx)) {
                self.left += piece.len() as u64;
                if self.left > self.most {
                    self.end = Some(Err(Unsettled::Unread));
                }
            }
        }
    }

    /// The next piece for the handler. An error comes once: whoever passes over errors would not stop asking.
    fn poll_for_handler(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        if self.is_told {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll_next(cx));
        self.is_told = matches!(next, Some(Err(_)));
        Poll::Ready(next)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        match self.end {
            None => {}
            Some(Ok(_)) => return Poll::Ready(None),
            Some(Err(_)) => return Poll::Ready(Some(Err(PayloadError::Incomplete(None)))),
        }
        let next = match Pin::new(&mut self.payload).poll_next(cx) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                ready!(self.idle.poll(cx));
                let error = io::Error::new(io::ErrorKind::TimedOut, "the body of the request does not arrive");
                return Poll::Ready(Some(Err(self.fails(Unsettled::Slow, PayloadError::Io(error)))));
            }
        };
        (self.idle.since, self.stalled.since) = (None, None);
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.hash.update(&piece);
                self.length += piece.len() as u64;
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(self.fails(Unsettled::Failed, error))),
            None => {
                let sha256 = self.hash.finalize_reset().into();
                if self.digest.is_some_and(|digest| digest != sha256) {
                    let error =
                        io::Error::new(io::ErrorKind::InvalidData, "the body is not that of its Content-Digest");
                    Some(Err(self.fails(Unsettled::Wrong, PayloadError::Io(error))))
                } else {
                    self.ends(Ok(RequestDigest { head: self.head, length: self.length, sha256 }));
                    None
                }
            }
        })
    }

    fn fails(&mut self, why: Unsettled, error: PayloadError) -> PayloadError {
        tracing::debug!(%error, length = self.length, "the body of a request could not be read to its end");
        self.ends(Err(why));
        error
    }

    fn ends(&mut self, end: Result<RequestDigest, Unsettled>) {
        self.end = Some(end);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// The body in the hands of its handler.
struct UploadPayload(Upload);

impl Stream for UploadPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.0.borrow_mut().poll_for_handler(cx)
    }
}

impl Drop for UploadPayload {
    fn drop(&mut self) {
        let mut reading = self.0.0.borrow_mut();
        reading.is_left = true;
        if let Some(waiting) = reading.waiting.take() {
            waiting.wake();
        }
    }
}

/// How long nothing has come, while somebody waited.
struct Idle {
    most: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(most: Duration) -> Self {
        Self { most: at_most_a_century(most), since: None, timer: None }
    }

    /// Ready when nothing has come for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + self.most;
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
