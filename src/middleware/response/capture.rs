//! Stores a handler's response before the client gets it.

use std::{fmt, future::Ready, mem, sync::Once};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse, ResponseError,
    body::{self, BodySize, BoxBody, MessageBody},
    dev::{ResponseHead, ServiceRequest, ServiceResponse},
    http::{StatusCode, header::HeaderMap},
};
use bytes::Bytes;
use futures_util::future::{Either, LocalBoxFuture};

use super::{
    body::AnswerBody,
    keep::{is_event_stream, record_of, stores, stores_status},
    recording::Recording,
    replay::replay,
};
use crate::{
    claim::{HeldClaim, Written},
    client::problem::Problem,
    handler::{Stage, StoreOverride},
    key::Principal,
    ledger::OwnAnswer,
    middleware::{request::Unsettled, run::Panic, service::Governed},
    observe::Outcome,
    record::{Buffered, Record, buffer},
    settings::Settings,
};

/// The response that the client gets. It is mostly known at once. Only a response that must be waited for is a future, in a
/// box: the future of every request is moved, and must stay small.
type Answer<'a, B> = Either<
    Ready<Result<ServiceResponse<AnswerBody<B>>, Error>>,
    LocalBoxFuture<'a, Result<ServiceResponse<AnswerBody<B>>, Error>>,
>;

/// How a handler has ended.
pub(in crate::middleware) type Ended<B> = Result<Result<ServiceResponse<B>, Error>, Panic>;

/// Stores what the handler answered, if its status says so, and passes it on.
pub(in crate::middleware) fn response<S, B>(response: ServiceResponse<B>, governed: &mut Governed<S>) -> Answer<'_, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Some(mut held) = governed.operation.held.take() else {
        return at_once(through(response));
    };
    let settings = &governed.config.settings;
    let keep = governed.config.keep_of(&response.response().extensions());
    held.keep_for(keep);
    // The record of an anonymous request answers whoever sends its key.
    let is_of_somebody = governed.is_anonymous && response.request().extensions().contains::<Principal>();
    if is_of_somebody {
        warn_of_late_principal();
    }
    let is_stored =
        !governed.info.is_late_exempt() && !is_of_somebody && stores(response.request(), response.response(), settings);
    if settings.is_observed() {
        observe(is_stored.then(|| response.response().head()), held, governed);
        return at_once(through(response));
    }
    if !is_stored {
        // A handler has returned an error of the middleware's own: it is answered as this instance answers.
        let own = response.response().extensions().get::<OwnAnswer>().map(|own| own.0);
        governed.operation.recorder.outcome(own.map_or(Outcome::NotStored, Problem::outcome));
        held.answers(response.status());
        return Either::Right(Box::pin(async move {
            held.release().await;
            let Some(problem) = own else { return Ok(through(response)) };
            let problem = problem.response(&governed.config.style).map_body(|_, body| AnswerBody::boxed(body));
            Ok(response.into_response(problem))
        }));
    }
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let is_endless = is_event_stream(response.headers());
    let most = settings.storage.max_response_body;
    if let BodySize::Sized(length) = body.size()
        && length > most as u64
        && !is_endless
        && governed.operation.upload.is_none()
    {
        let record = record_of(response.head(), None, settings);
        return Stored { request, response, held, governed }.store(record, AnswerBody::through(body));
    }
    let length = length_to_buffer(body.size(), is_endless);
    let Some(length) = length.filter(|length| *length <= most as u64) else {
        governed.operation.held = Some(held);
        let without_body = record_of(response.head(), None, settings);
        // The TTL starts at completion, which is still to come: the record will be kept a little longer than this says.
        governed.config.add_should_retry(response.headers_mut());
        governed.config.add_expiry(response.headers_mut(), keep);
        let operation = mem::take(&mut governed.operation);
        let recording = Recording::new(body, without_body, is_endless, operation, settings);
        return at_once(ServiceResponse::new(request, response.set_body(AnswerBody::recorded(recording))));
    };
    let stored = Stored { request, response, held, governed };
    match in_one_piece(body, length) {
        Ok(bytes) if stored.governed.operation.upload.is_none() => stored.store_whole(bytes),
        Ok(bytes) => Either::Right(Box::pin(stored.store_with_upload(Some(bytes.clone()), AnswerBody::whole(bytes)))),
        Err(body) => Either::Right(Box::pin(async move {
            let in_flight = &mut stored.governed.operation.in_flight;
            let holds = |bytes| in_flight.as_mut().is_none_or(|in_flight| in_flight.hold_bytes(bytes));
            let why = match buffer(body, most, holds).await {
                Buffered::Whole(bytes) => {
                    return stored.store_with_upload(Some(bytes.clone()), AnswerBody::whole(bytes)).await;
                }
                Buffered::TooLarge(started) => {
                    return stored.store_with_upload(None, AnswerBody::boxed(BoxBody::new(started))).await;
                }
                Buffered::Failed(error) => error,
            };
            stored.fail(&*why).await
        })),
    }
}

/// Whether what a handler has answered may be stored.
pub(in crate::middleware) fn may_be_stored<B>(ended: &Ended<B>, settings: &Settings) -> bool {
    match ended {
        Ok(Ok(response)) => stores(response.request(), response.response(), settings),
        Ok(Err(error)) => settings.storage.store_on_statuses.contains(error.as_response_error().status_code()),
        Err(_) => false,
    }
}

/// The length of a body that is stored before the response is sent. `None`: the body is a stream.
const fn length_to_buffer(size: BodySize, is_endless: bool) -> Option<u64> {
    match size {
        BodySize::None => Some(0),
        BodySize::Sized(length) if !is_endless => Some(length),
        BodySize::Sized(_) | BodySize::Stream => None,
    }
}

/// A response that is stored before it is sent.
struct Stored<'a, S: Service<ServiceRequest>> {
    request: HttpRequest,
    response: HttpResponse<()>,
    held: Box<HeldClaim>,
    governed: &'a mut Governed<S>,
}

impl<'a, S: Service<ServiceRequest>> Stored<'a, S> {
    fn store_whole<B: MessageBody + 'static>(self, bytes: Bytes) -> Answer<'a, B> {
        let record = record_of(self.response.head(), Some(&bytes), &self.governed.config.settings);
        self.store(record, AnswerBody::whole(bytes))
    }

    /// Stores the response once it is known what the request's body was: the body of the response, which has ended, or a task
    /// may have had it until now. `kept` is `None` for a body that goes on, and is not kept.
    async fn store_with_upload<B: MessageBody + 'static>(
        self,
        kept: Option<Bytes>,
        body: AnswerBody<B>,
    ) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let Self { request, response, held, governed } = self;
        governed.operation.held = Some(held);
        let settled = governed.operation.settle(kept.is_some()).await;
        let problem = settled.err().and_then(Unsettled::problem);
        match (problem, governed.operation.held.take()) {
            (Some(problem), _) => Ok(refusal(request, problem, governed)),
            (None, Some(held)) => {
                let record = record_of(response.head(), kept.as_deref(), &governed.config.settings);
                Stored { request, response, held, governed }.store(record, body).await
            }
            (None, None) => Ok(ServiceResponse::new(request, response.set_body(body))),
        }
    }

    /// A truncated response must never be replayed.
    async fn fail<B: MessageBody + 'static>(
        self,
        why: &(dyn std::error::Error + 'static),
    ) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let Self { request, held, governed, .. } = self;
        tracing::error!(error = why, "the body of a protected response failed; the client gets a 500");
        let of_request = governed.operation.upload.as_ref().and_then(|upload| upload.so_far().err()?.problem());
        governed.operation.held = Some(held);
        governed.operation.fail().await;
        if let Some(problem) = of_request {
            return Ok(refusal(request, problem, governed));
        }
        let response = HttpResponse::InternalServerError().finish();
        Ok(ServiceResponse::new(request, response.map_body(|_, body| AnswerBody::boxed(body))))
    }

    fn store<B: MessageBody + 'static>(self, record: Record, body: AnswerBody<B>) -> Answer<'a, B> {
        let Self { request, response, held, governed } = self;
        governed.operation.recorder.writes(&record);
        match held.complete(record) {
            Either::Left(written) => at_once(answer(request, response, body, written.into_inner(), governed)),
            Either::Right(writing) => Either::Right(Box::pin(async move {
                let written = writing.await;
                Ok(answer(request, response, body, written, governed))
            })),
        }
    }
}

/// Stores the response of a lost run that was done, whatever its status. `None`: its body failed, and the outcome stays
/// unknown.
pub(in crate::middleware) async fn verdict<S: Service<ServiceRequest>, B: MessageBody + 'static>(
    response: HttpResponse,
    mut held: Box<HeldClaim>,
    governed: &mut Governed<S>,
) -> Option<HttpResponse<AnswerBody<B>>> {
    let keep = governed.config.keep_of(&response.extensions());
    held.keep_for(keep);
    let (mut response, body) = response.into_parts();
    let in_flight = &mut governed.operation.in_flight;
    let holds = |bytes| in_flight.as_mut().is_none_or(|in_flight| in_flight.hold_bytes(bytes));
    let (kept, body) = match buffer(body, governed.config.settings.storage.max_response_body, holds).await {
        Buffered::Whole(bytes) => (Some(bytes.clone()), AnswerBody::whole(bytes)),
        Buffered::TooLarge(started) => (None, AnswerBody::boxed(BoxBody::new(started))),
        Buffered::Failed(error) => {
            tracing::error!(error = &*error, "the body of a verdict of `.on_unknown` failed");
            held.fail().await;
            return None;
        }
    };
    let record = record_of(response.head(), kept.as_deref(), &governed.config.settings);
    governed.operation.recorder.writes(&record);
    let written = held.complete(record).await;
    governed.operation.recorder.outcome(written.outcome());
    if let Written::Superseded(Some(winner)) = written
        && let Ok(response) = replay(&winner, None, &governed.config, |_| true)
    {
        return Some(response);
    }
    governed.config.add_should_retry(response.headers_mut());
    governed.config.add_expiry(response.headers_mut(), keep);
    Some(response.set_body(body))
}

/// The response for the client, once it is known what became of the record.
fn answer<S: Service<ServiceRequest>, B: MessageBody + 'static>(
    request: HttpRequest,
    mut response: HttpResponse<()>,
    body: AnswerBody<B>,
    written: Written,
    governed: &mut Governed<S>,
) -> ServiceResponse<AnswerBody<B>> {
    governed.operation.recorder.outcome(written.outcome());
    governed.info.set_stage(Stage::Governing);
    match written {
        // The client of a late owner gets the response that everybody gets.
        Written::Superseded(Some(winner)) => {
            if let Ok(response) = replay(&winner, None, &governed.config, |_| true) {
                return ServiceResponse::new(request, response);
            }
        }
        Written::Stored | Written::Behind => {
            governed.config.add_should_retry(response.headers_mut());
            let keep = governed.config.keep_of(&response.extensions());
            governed.config.add_expiry(response.headers_mut(), keep);
        }
        Written::Superseded(None) | Written::Lost => {}
    }
    ServiceResponse::new(request, response.set_body(body))
}

/// Stores the response that an inner middleware's error becomes. Returns the error that becomes just that response: it is
/// rendered once, so that a replay is equal to the first answer.
pub(in crate::middleware) async fn error<S: Service<ServiceRequest>>(
    error: Error,
    governed: &mut Governed<S>,
) -> Error {
    let Some(mut held) = governed.operation.held.take() else { return error };
    let response = error.error_response();
    let settings = &governed.config.settings;
    let keep = governed.config.keep_of(&response.extensions());
    held.keep_for(keep);
    let is_refused = response.extensions().get::<StoreOverride>() == Some(&StoreOverride::Never);
    let is_stored =
        !governed.info.is_late_exempt() && !is_refused && stores_status(response.status(), response.head(), settings);
    // The error has another status than it said, and nobody has found out what the request's body was.
    let is_stored = is_stored && governed.operation.upload.is_none();
    if settings.is_observed() {
        observe(is_stored.then(|| response.head()), held, governed);
        return error;
    }
    if !is_stored {
        governed.operation.recorder.outcome(Outcome::NotStored);
        held.answers(response.status());
        held.release().await;
        return error;
    }
    let (response, body) = response.into_parts();
    let rendered = match body::to_bytes_limited(body, settings.storage.max_response_body).await {
        Ok(Ok(bytes)) => RenderedError { error, status: response.status(), headers: response.headers().clone(), bytes },
        // Too large to keep, or broken: it is rendered again.
        Ok(Err(_)) => {
            governed.operation.recorder.outcome(Outcome::NotStored);
            held.fail().await;
            return error;
        }
        Err(_) => {
            let record = record_of(response.head(), None, settings);
            governed.operation.recorder.writes(&record);
            governed.operation.recorder.outcome(held.complete(record).await.outcome());
            return error;
        }
    };
    let record = record_of(response.head(), Some(&rendered.bytes), settings);
    governed.operation.recorder.writes(&record);
    governed.operation.recorder.outcome(held.complete(record).await.outcome());
    let mut rendered = rendered;
    governed.config.add_should_retry(&mut rendered.headers);
    governed.config.add_expiry(&mut rendered.headers, keep);
    rendered.into()
}

/// An error of an inner middleware with the response that was stored for it.
pub(super) struct RenderedError {
    error: Error,
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
}

impl RenderedError {
    /// The error that becomes this response.
    pub(super) async fn of<B: MessageBody + 'static>(error: Error, response: HttpResponse<AnswerBody<B>>) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = body::to_bytes(response.into_body()).await.unwrap_or_default();
        Self { error, status, headers, bytes }.into()
    }
}

impl fmt::Debug for RenderedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Display for RenderedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl ResponseError for RenderedError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::with_body(self.status, BoxBody::new(self.bytes.clone()));
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// In observe mode: records that the key was used, and for which operation. `kept` is `None` for a response that is not
/// stored. No client waits for the record, and it has no body, because it will never be replayed.
fn observe<S: Service<ServiceRequest>>(kept: Option<&ResponseHead>, held: Box<HeldClaim>, governed: &mut Governed<S>) {
    let recorder = &mut governed.operation.recorder;
    let Some(kept) = kept else {
        recorder.outcome(Outcome::NotStored);
        held.free();
        return;
    };
    let record = record_of(kept, None, &governed.config.settings);
    recorder.writes(&record);
    recorder.outcome(Outcome::Stored);
    held.complete_unwaited(record);
}

/// Says once why no response is stored.
pub(super) fn warn_of_late_principal() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::error!(
            "a `Principal` came into a request's extensions inside of the idempotency wrap, which took the request for \
             anonymous. Such responses are not stored, since anybody with the same key would get them, and their retries \
             run again. Put the authentication outside of the wrap"
        );
    });
}

impl Written {
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Stored => Outcome::Stored,
            Self::Behind => Outcome::WrittenBehind,
            Self::Superseded(_) => Outcome::Superseded,
            Self::Lost => Outcome::NotStored,
        }
    }
}

fn refusal<S: Service<ServiceRequest>, B: MessageBody + 'static>(
    request: HttpRequest,
    problem: Problem,
    governed: &Governed<S>,
) -> ServiceResponse<AnswerBody<B>> {
    let response = problem.response(&governed.config.style);
    ServiceResponse::new(request, response.map_body(|_, body| AnswerBody::boxed(body)))
}

fn at_once<B: MessageBody + 'static>(response: ServiceResponse<AnswerBody<B>>) -> Answer<'static, B> {
    Either::Left(std::future::ready(Ok(response)))
}

fn through<B: MessageBody + 'static>(response: ServiceResponse<B>) -> ServiceResponse<AnswerBody<B>> {
    response.map_body(|_, body| AnswerBody::through(body))
}

/// A body that is available in one piece; else the body itself.
fn in_one_piece<B: MessageBody>(body: B, length: u64) -> Result<Bytes, B> {
    // An empty body need not be polled: nothing of it is sent.
    if length == 0 { Ok(Bytes::new()) } else { body.try_into_bytes() }
}
