//! The run: the handler is called and its response recorded in one future, polled in place. When the connection drops
//! that future half way, it goes on as a task of its own.

use std::{
    any::Any,
    future::Future,
    mem,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
};
use futures_util::{FutureExt as _, future::LocalBoxFuture};
use pin_project_lite::pin_project;
use tracing::{Instrument as _, Span};

use super::{
    config::Config,
    request::pending::Entry,
    response::{body::AnswerBody, capture},
    witness::Witness,
};
use crate::{
    claim::{Held, in_flight::Running},
    client::problem::Problem,
    handler::{IdempotencyInfo, info::Stage},
    observe::Outcome,
    settings::{OnDisconnect, OnUnknown},
};

/// A protected operation: what it works with, and what has to be given back when it ends, in this order. Nobody is told
/// of its end before its key is free, and shutdown waits for that.
pub(super) struct Run {
    /// `None`: it runs unprotected, since the store could not answer and settings say to run then; or its end is told.
    pub(super) held: Option<Box<Held>>,
    pub(super) running: Option<Running>,
    pub(super) witness: Witness,
    pub(super) config: Rc<Config>,
    pub(super) info: IdempotencyInfo,
    /// No principal is known.
    pub(super) anonymous: bool,
}

impl Run {
    /// Of one that may not come to run.
    pub(super) const fn new(config: Rc<Config>, info: IdempotencyInfo, witness: Witness) -> Self {
        Self { held: None, running: None, witness, config, info, anonymous: false }
    }
}

/// Calls the handler and stores its response.
pub(super) async fn run<S, B>(
    service: &S,
    entry: &mut Entry<S>,
    payload: Payload,
    run: &mut Run,
) -> Result<ServiceResponse<AnswerBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let observed = run.config.settings.is_observed();
    if observed {
        run.info.set_stage(Stage::Observing);
    } else if run.config.settings.on_disconnect == OnDisconnect::Finish {
        run.info.set_stage(Stage::Running);
    }
    let inside = async { entry.enter(service, payload).await };
    let ended = AssertUnwindSafe(inside).catch_unwind().await;
    let response = match ended {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            Box::pin(capture::error(&error, run)).await;
            return Err(error);
        }
        Err(panic) => {
            run.witness.sees(Outcome::Panicked);
            drop(run.held.take());
            if observed {
                drop((run.running.take(), mem::take(&mut run.witness)));
                panic::resume_unwind(panic);
            }
            let barred = run.config.settings.on_unknown == OnUnknown::Reject;
            let becomes = if barred { "barred until its record is forgotten" } else { "free" };
            tracing::error!(panic = text_of(&*panic), key = becomes, "a protected handler panicked");
            let problem = Problem::Panicked.response(&run.config.style);
            let problem = problem.map_body(|_, body| AnswerBody::whole_of(body));
            return entry.answer(problem, &run.config.stand_ins).await;
        }
    };
    capture::response(response, run).await
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

pin_project! {
    /// The future of [`IdempotencyService`](super::IdempotencyService).
    pub struct CallFuture<F, B>
    where
        B: MessageBody,
        B: 'static,
    {
        #[pin]
        way: Way<F, B>,
    }
}

pin_project! {
    #[project = WayProj]
    enum Way<F, B>
    where
        B: MessageBody,
        B: 'static,
    {
        /// Unprotected: the inner service's own future.
        Passing { #[pin] inner: F },
        /// Answered without going inside.
        Answered { answer: Option<ServiceResponse<AnswerBody<B>>> },
        /// Protected, or about to be decided.
        Governed { operation: Operation<B> },
    }
}

impl<F, B: MessageBody + 'static> CallFuture<F, B> {
    pub(super) const fn passing(inner: F) -> Self {
        Self { way: Way::Passing { inner } }
    }

    pub(super) const fn answered(answer: ServiceResponse<AnswerBody<B>>) -> Self {
        Self { way: Way::Answered { answer: Some(answer) } }
    }

    pub(super) fn governed(
        future: impl Future<Output = Result<ServiceResponse<AnswerBody<B>>, Error>> + 'static,
        info: IdempotencyInfo,
    ) -> Self {
        Self { way: Way::Governed { operation: Operation { future: Some(Box::pin(future)), info, span: None } } }
    }
}

impl<F, B> Future for CallFuture<F, B>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody + 'static,
{
    type Output = Result<ServiceResponse<AnswerBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().way.project() {
            WayProj::Passing { inner } => Poll::Ready(
                ready!(inner.poll(cx)).map(|response| response.map_body(|_, body| AnswerBody::through(body))),
            ),
            WayProj::Answered { answer } => Poll::Ready(Ok(answer.take().expect("polled after completion"))),
            WayProj::Governed { operation } => operation.poll(cx),
        }
    }
}

/// A future that outlives its connection once the handler has started.
struct Operation<B: MessageBody + 'static> {
    /// `None`: finished, or panicked while it was polled.
    future: Option<LocalBoxFuture<'static, Result<ServiceResponse<AnswerBody<B>>, Error>>>,
    info: IdempotencyInfo,
    span: Option<Span>,
}

impl<B: MessageBody + 'static> Operation<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ServiceResponse<AnswerBody<B>>, Error>> {
        // Out of place while it is polled: a panic must not hand it on.
        let mut future = self.future.take().expect("polled after completion");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.span.get_or_insert_with(Span::current);
            self.future = Some(future);
        }
        polled
    }
}

impl<B: MessageBody + 'static> Drop for Operation<B> {
    fn drop(&mut self) {
        let (Some(future), Stage::Running) = (self.future.take(), self.info.stage()) else { return };
        tracing::debug!("the client left; the operation goes on");
        let span = self.span.take().unwrap_or_else(Span::none);
        // A response that nobody takes finishes its own recording when it is dropped.
        actix_web::rt::spawn(async move { drop(future.await) }.instrument(span));
    }
}

impl<F, B: MessageBody> std::fmt::Debug for CallFuture<F, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.way {
            Way::Passing { .. } => "CallFuture(passing)",
            Way::Answered { .. } => "CallFuture(answered)",
            Way::Governed { .. } => "CallFuture(governed)",
        })
    }
}
