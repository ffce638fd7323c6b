//! Runs the handler, and lets the run outlive its connection.
//!
//! The handler is called and its response recorded in one future, which is polled in place. When the connection drops
//! that future half way, [`CallFuture`] spawns it as a task of its worker.

use std::{
    any::Any,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use pin_project_lite::pin_project;
use tracing::{Instrument as _, Span};

use super::{
    operation::Operation,
    response::{AnswerBody, capture},
    service::Governed,
};
use crate::{
    client::problem::Problem,
    handler::{IdempotencyInfo, Stage},
    observe::Outcome,
    settings::OnDisconnect,
    store::OnUnknown,
};

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Calls the handler and stores its response.
    pub(super) async fn run(&mut self) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let is_observed = self.config.settings.is_observed();
        if is_observed {
            self.info.set_stage(Stage::Observing);
        } else if self.config.settings.on_disconnect == OnDisconnect::Finish {
            self.info.set_stage(Stage::Running);
        }
        let payload = self.body.take_payload();
        // The handler is called within the future, so that a panic of the call itself is caught too.
        let inside = async { self.pending.enter(&*self.service, payload).await };
        let ended = AssertUnwindSafe(inside).catch_unwind().await;
        match ended {
            Ok(Ok(response)) => capture::response(response, self).await,
            Ok(Err(error)) => {
                Box::pin(capture::error(&error, self)).await;
                Err(error)
            }
            Err(panic) if is_observed => {
                self.operation.recorder.outcome(Outcome::Panicked);
                self.operation = Operation::default();
                panic::resume_unwind(panic)
            }
            Err(panic) => self.panicked(&*panic).await,
        }
    }

    /// Frees the key (or bars it, with `on_unknown = reject`) and answers 500.
    async fn panicked(&mut self, panic: &(dyn Any + Send)) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        self.operation.recorder.outcome(Outcome::Panicked);
        drop(self.operation.held.take());
        let key = match self.config.settings.on_unknown {
            OnUnknown::Rerun => "free",
            OnUnknown::Reject => "barred until its record is forgotten",
        };
        tracing::error!(panic = text_of(panic), key, "a protected handler panicked");
        let response = Problem::Panicked.response(&self.config.style).map_body(|_, body| AnswerBody::boxed(body));
        self.pending.answer(response, &self.config.synthetic).await
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

pin_project! {
    /// The future of an [`IdempotencyService`](super::IdempotencyService).
    pub struct CallFuture<F, B>
    where
        B: MessageBody,
        B: 'static,
    {
        #[pin]
        path: Path<F, B>,
    }
}

pin_project! {
    #[project = PathProj]
    enum Path<F, B>
    where
        B: MessageBody,
        B: 'static,
    {
        /// Unprotected: the inner service's own future.
        Passing { #[pin] inner: F },
        /// Answered without the inner service.
        Answered { answer: Option<ServiceResponse<AnswerBody<B>>> },
        /// Protected, or still to be decided.
        Governed { future: DetachableFuture<B> },
    }
}

impl<F, B: MessageBody + 'static> CallFuture<F, B> {
    pub(super) const fn passing(inner: F) -> Self {
        Self { path: Path::Passing { inner } }
    }

    pub(super) const fn answered(answer: ServiceResponse<AnswerBody<B>>) -> Self {
        Self { path: Path::Answered { answer: Some(answer) } }
    }

    pub(super) fn governed(
        future: impl Future<Output = Result<ServiceResponse<AnswerBody<B>>, Error>> + 'static,
        info: IdempotencyInfo,
    ) -> Self {
        Self { path: Path::Governed { future: DetachableFuture { future: Some(Box::pin(future)), info, span: None } } }
    }
}

impl<F, B> Future for CallFuture<F, B>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody + 'static,
{
    type Output = Result<ServiceResponse<AnswerBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().path.project() {
            PathProj::Passing { inner } => Poll::Ready(
                ready!(inner.poll(cx)).map(|response| response.map_body(|_, body| AnswerBody::through(body))),
            ),
            PathProj::Answered { answer } => Poll::Ready(Ok(answer.take().expect("polled after completion"))),
            PathProj::Governed { future } => future.poll(cx),
        }
    }
}

/// A future that goes on as a task when it is dropped after the handler has started.
struct DetachableFuture<B: MessageBody + 'static> {
    /// `None`: the future has finished, or panicked while it was polled.
    future: Option<LocalBoxFuture<'static, Result<ServiceResponse<AnswerBody<B>>, Error>>>,
    info: IdempotencyInfo,
    span: Option<Span>,
}

impl<B: MessageBody + 'static> DetachableFuture<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ServiceResponse<AnswerBody<B>>, Error>> {
        // Taken out while it is polled: after a panic there is nothing to spawn.
        let mut future = self.future.take().expect("polled after completion");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.span.get_or_insert_with(Span::current);
            self.future = Some(future);
        }
        polled
    }
}

impl<B: MessageBody + 'static> Drop for DetachableFuture<B> {
    /// The client has left. The stage is `Running` only with `on_disconnect = finish`.
    fn drop(&mut self) {
        let (Some(future), Stage::Running) = (self.future.take(), self.info.stage()) else { return };
        tracing::debug!("the client left; the operation goes on");
        let span = self.span.take().unwrap_or_else(Span::none);
        // A recorded body that nobody takes finishes its recording when it is dropped.
        actix_web::rt::spawn(async move { drop(future.await) }.instrument(span));
    }
}

impl<F, B: MessageBody> std::fmt::Debug for CallFuture<F, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.path {
            Path::Passing { .. } => "CallFuture(passing)",
            Path::Answered { .. } => "CallFuture(answered)",
            Path::Governed { .. } => "CallFuture(governed)",
        })
    }
}
