//! Runs the handler, and lets the run outlive its connection.
//!
//! The handler is called and its response recorded in one future, which is polled in place. When the connection drops
//! that future half way, [`CallFuture`] spawns it as a task of its worker.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{self, AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use actix_service::Service;
use actix_web::{
    Error, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use pin_project_lite::pin_project;
use tracing::{Instrument as _, Span};

use super::{
    accepted::Promise,
    config::WrapConfig,
    detach::{self, drop_caught},
    operation::Operation,
    response::{AnswerBody, capture, commit, end_ordinary, replay},
    service::Governed,
};
use crate::{
    claim::at_most_a_century,
    client::problem::Problem,
    handler::{IdempotencyInfo, Stage},
    ledger::LedgerRun,
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
        if let Some(run) = self.operation.ledger.as_ref().filter(|_| is_observed) {
            run.is_ordinary();
        }
        let payload = self.payload();
        // The handler is called within the future, so that a panic of the call itself is caught too.
        let ledger = self.operation.ledger.clone();
        let ended = {
            let inside = async { self.pending.enter(&*self.service, payload).await };
            let mut inside = pin!(AssertUnwindSafe(inside).catch_unwind());
            let polled = poll_fn(|cx| {
                let polled = inside.as_mut().poll(cx);
                if let Some(run) = &ledger {
                    run.keeps_no_more();
                }
                polled
            });
            polled.await
        };
        if self.info.ends_steps()
            && let Some(held) = &mut self.operation.held
        {
            held.keep_steps();
        }
        if self.info.is_superseded()
            && let Some(response) = Box::pin(self.winners_response()).await
        {
            return self.pending.answer(response, &self.config.synthetic);
        }
        if let Some(run) = self.operation.ledger.clone() {
            return Box::pin(self.end_with_ledger(ended, run)).await;
        }
        self.end(ended).await
    }

    /// The response of the owner that took over, for the client of the late one. `None`: that owner has not answered yet, or
    /// a ledger tells who was first.
    async fn winners_response(&mut self) -> Option<HttpResponse<AnswerBody<B>>> {
        let held = self.operation.held.as_ref().filter(|_| self.operation.ledger.is_none())?;
        let response = replay(&held.winner().await?, None, &self.config, |_| true).ok()?;
        self.operation.recorder.outcome(Outcome::Superseded);
        Some(response)
    }

    /// Stores what the handler answered.
    async fn end(&mut self, ended: capture::Ended<B>) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let is_observed = self.config.settings.is_observed();
        if self.operation.upload.is_some()
            && let Err(problem) = Box::pin(self.settle_body(&ended)).await
        {
            return self.refuse(problem).await;
        }
        match ended {
            Ok(Ok(response)) => capture::response(response, self).await,
            Ok(Err(error)) => Err(Box::pin(capture::error(error, self)).await),
            Err(panic) if is_observed => {
                self.operation.recorder.outcome(Outcome::Panicked);
                self.operation = Operation::default();
                panic::resume_unwind(panic)
            }
            Err(panic) => Box::pin(self.panicked(&*panic)).await,
        }
    }

    /// Commits what the handler did and answered, or rolls it back.
    async fn end_with_ledger(
        &mut self,
        ended: capture::Ended<B>,
        run: Rc<LedgerRun>,
    ) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        if self.config.settings.is_observed() {
            if let Ok(Ok(response)) = &ended
                && let Err(problem) = end_ordinary(&run, response).await
            {
                return self.refuse(problem).await;
            }
            return self.end(ended).await;
        }
        match ended {
            Ok(ended) => commit::response(ended, self, &run).await,
            Err(panic) => match commit::after_panic(self, &run).await {
                Some(committed) => {
                    tracing::error!(panic = text_of(&*panic), "a handler panicked after its transaction was committed");
                    self.pending.answer(committed, &self.config.synthetic)
                }
                None => Box::pin(self.panicked(&*panic)).await,
            },
        }
    }

    /// Frees the key (or bars it, with `on_unknown = reject`) and answers 500.
    async fn panicked(&mut self, panic: &(dyn Any + Send)) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        self.operation.recorder.outcome(Outcome::Panicked);
        if let Some(held) = self.operation.held.take() {
            held.fail().await;
        }
        // A ledger tells what became of it.
        let on_unknown = if self.config.ledger.is_some() { OnUnknown::Rerun } else { self.config.settings.on_unknown };
        let key = match on_unknown {
            OnUnknown::Rerun => "free",
            OnUnknown::Ask => "in question",
            _ => "barred until its record is forgotten",
        };
        tracing::error!(panic = text_of(panic), key, "a protected handler panicked");
        let response = Problem::Panicked.response(&self.config.style).map_body(|_, body| AnswerBody::boxed(body));
        self.pending.answer(response, &self.config.synthetic)
    }
}

pub(super) type Panic = Box<dyn Any + Send>;

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

    /// The future of a copy of a request, which is never polled.
    pub(super) const fn of_copy() -> Self {
        Self { path: Path::Answered { answer: None } }
    }

    pub(super) fn governed(
        future: impl Future<Output = Result<ServiceResponse<AnswerBody<B>>, Error>> + 'static,
        info: IdempotencyInfo,
        config: &Rc<WrapConfig>,
        promise: Option<Box<Promise>>,
    ) -> Self {
        let config = config.clone();
        let future = DetachableFuture { future: Some(Box::pin(future)), info, config, begun: None, promise };
        Self { path: Path::Governed { future } }
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
    config: Rc<WrapConfig>,
    /// `None`: the future has not been pending yet.
    begun: Option<Begun>,
    /// The client prefers an answer at once.
    promise: Option<Box<Promise>>,
}

/// The context that a future takes along when it goes on as a task.
struct Begun {
    at: Instant,
    span: Span,
    carry: Option<Carry>,
}

/// Wraps the rest of an operation whose client has left; see [`on_detach`](crate::IdempotencyKey::on_detach).
pub(crate) type Carry = Box<dyn FnOnce(LocalBoxFuture<'static, ()>) -> LocalBoxFuture<'static, ()>>;

impl<B: MessageBody + 'static> DetachableFuture<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ServiceResponse<AnswerBody<B>>, Error>> {
        // Taken out while it is polled: after a panic there is nothing to spawn.
        let mut future = self.future.take().expect("polled after completion");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            if self.begun.is_none() {
                // Here the layers outside have entered their spans and task-locals.
                let carry = self.config.carry.as_ref().map(|carry| carry());
                self.begun = Some(Begun { at: Instant::now(), span: Span::current(), carry });
            }
            self.future = Some(future);
            if let Some(promise) = &mut self.promise
                && promise.is_due(cx)
                && self.info.stage() == Stage::Running
                && let Some(accepted) = promise.make(&self.info, &self.config)
            {
                self.detach("its client was told that it goes on");
                return Poll::Ready(Ok(accepted));
            }
        }
        polled
    }

    /// Lets the rest go on as a task. The stage is `Running` only with `on_disconnect = finish`.
    fn detach(&mut self, why: &'static str) {
        let Some(future) = self.future.take() else { return };
        let (Stage::Running, Some(Begun { at, span, carry })) = (self.info.stage(), self.begun.take()) else {
            return drop_caught(future, "a request");
        };
        tracing::debug!(why, "the operation goes on");
        let until = at + at_most_a_century(self.config.settings.limits.max_run);
        // A recorded body that nobody takes finishes its recording when it is dropped.
        let rest = async move {
            if let Ok(answer) = tokio::time::timeout_at(until.into(), future).await {
                drop_caught(answer, "a response");
            } else {
                tracing::error!("an operation whose client left outran limits.max_run: it is dropped");
            }
        };
        let rest: LocalBoxFuture<'static, ()> = Box::pin(rest.instrument(span));
        let rest = match carry {
            Some(carry) => catch_unwind(AssertUnwindSafe(|| carry(rest))),
            None => Ok(rest),
        };
        match rest.map(detach::spawn) {
            Ok(Ok(())) => {}
            Ok(Err(rest)) => {
                tracing::error!(
                    "the client left, and there is no runtime on which the operation could go on: it is dropped"
                );
                drop_caught(rest, "an operation");
            }
            Err(_) => tracing::error!("the hook of `on_detach` panicked: the operation is dropped"),
        }
    }
}

impl<B: MessageBody + 'static> Drop for DetachableFuture<B> {
    fn drop(&mut self) {
        self.detach("the client left");
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
