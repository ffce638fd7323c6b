//! Stores a handler's response before the client gets it.

use std::{future::poll_fn, mem, pin::pin, sync::Once};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse,
    body::{self, BodySize, MessageBody},
    dev::{ResponseHead, ServiceRequest, ServiceResponse},
    error::ErrorInternalServerError,
    http::StatusCode,
};
use bytes::{Bytes, BytesMut};
use futures_util::future::Either;

use super::{
    body::AnswerBody,
    keep::{is_event_stream, record_of, stores, stores_status},
    recording::Recording,
    replay::replay,
};
use crate::{
    claim::{HeldClaim, Written},
    handler::Stage,
    key::Principal,
    middleware::{request::MaybeReady, service::Governed},
    observe::Outcome,
};

/// The response that the client gets.
type Answer<'a, B> = MaybeReady<'a, ServiceResponse<AnswerBody<B>>>;

/// Stores what the handler answered, if its status says so, and passes it on.
pub(in crate::middleware) fn response<S, B>(response: ServiceResponse<B>, governed: &mut Governed<S>) -> Answer<'_, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Some(held) = governed.operation.held.take() else {
        return at_once(through(response));
    };
    if governed.principal.is_anonymous() {
        warn_of_late_principal(response.request());
    }
    let settings = &governed.config.settings;
    let is_stored = !governed.info.is_late_exempt() && stores(&response, settings);
    if settings.is_observed() {
        observe(is_stored.then(|| response.response().head()), held, governed);
        return at_once(through(response));
    }
    if !is_stored {
        governed.operation.recorder.outcome(Outcome::NotStored);
        return Either::Right(Box::pin(async move {
            held.release().await;
            Ok(through(response))
        }));
    }
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let is_endless = is_event_stream(response.headers());
    let Some(length) = length_to_buffer(body.size(), is_endless, settings.storage.max_response_body) else {
        governed.operation.held = Some(held);
        let without_body = record_of(response.head(), None, settings);
        // The TTL starts at completion, which is still to come: the record will be kept a little longer than this says.
        governed.config.add_expiry(response.headers_mut(), settings.storage.ttl);
        let operation = mem::take(&mut governed.operation);
        let recording = Recording::new(body, without_body, is_endless, operation, settings);
        return at_once(ServiceResponse::new(request, response.set_body(AnswerBody::recorded(recording))));
    };
    let buffered = Buffered { request, response, held, governed };
    match in_one_piece(body, length) {
        Ok(bytes) => buffered.store(bytes),
        Err(body) => Either::Right(Box::pin(async move {
            match in_pieces(body, length).await {
                Ok(bytes) => buffered.store(bytes).await,
                Err(error) => {
                    // A truncated response must never be replayed, so the key is freed.
                    buffered.governed.operation.recorder.outcome(Outcome::NotStored);
                    buffered.held.release().await;
                    Err(error)
                }
            }
        })),
    }
}

/// The length of a body that is stored before the response is sent. `None`: the body is a stream, or too large to keep.
fn length_to_buffer(size: BodySize, is_endless: bool, most: usize) -> Option<u64> {
    match size {
        BodySize::None => Some(0),
        BodySize::Sized(length) => Some(length).filter(|length| *length <= most as u64 && !is_endless),
        BodySize::Stream => None,
    }
}

/// A response that is stored with its whole body.
struct Buffered<'a, S: Service<ServiceRequest>> {
    request: HttpRequest,
    response: HttpResponse<()>,
    held: Box<HeldClaim>,
    governed: &'a mut Governed<S>,
}

impl<'a, S: Service<ServiceRequest>> Buffered<'a, S> {
    fn store<B: MessageBody + 'static>(self, bytes: Bytes) -> Answer<'a, B> {
        let Self { request, response, held, governed } = self;
        // A body that a handler gave to one of these statuses is not sent.
        let is_bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
        let kept = if is_bodiless { &[][..] } else { &bytes[..] };
        let record = record_of(response.head(), Some(kept), &governed.config.settings);
        governed.operation.recorder.writes(&record);
        match held.complete(record) {
            Either::Left(written) => at_once(answer(request, response, bytes, written.into_inner(), governed)),
            Either::Right(writing) => Either::Right(Box::pin(async move {
                let written = writing.await;
                Ok(answer(request, response, bytes, written, governed))
            })),
        }
    }
}

/// The response for the client, once it is known what became of the record.
fn answer<S: Service<ServiceRequest>, B: MessageBody + 'static>(
    request: HttpRequest,
    mut response: HttpResponse<()>,
    bytes: Bytes,
    written: Written,
    governed: &mut Governed<S>,
) -> ServiceResponse<AnswerBody<B>> {
    governed.operation.recorder.outcome(written.outcome());
    governed.info.set_stage(Stage::Governing);
    match written {
        // The client of a late owner gets the response that everybody gets.
        Written::Superseded(Some(winner)) => {
            if let Ok(response) = replay(&winner, None, &governed.config) {
                return ServiceResponse::new(request, response);
            }
        }
        Written::Stored | Written::Behind => {
            governed.config.add_expiry(response.headers_mut(), governed.config.settings.storage.ttl);
        }
        Written::Superseded(None) | Written::Lost => {}
    }
    ServiceResponse::new(request, response.set_body(AnswerBody::whole(bytes)))
}

/// Stores the response that an inner middleware's error will become.
pub(in crate::middleware) async fn error<S: Service<ServiceRequest>>(error: &Error, governed: &mut Governed<S>) {
    let Some(held) = governed.operation.held.take() else { return };
    let response = error.error_response();
    let settings = &governed.config.settings;
    let is_stored = !governed.info.is_late_exempt() && stores_status(response.status(), response.head(), settings);
    if settings.is_observed() {
        observe(is_stored.then(|| response.head()), held, governed);
        return;
    }
    let (response, body) = response.into_parts();
    let record = if is_stored {
        match body::to_bytes_limited(body, settings.storage.max_response_body).await {
            Ok(Ok(bytes)) => Some(record_of(response.head(), Some(&bytes), settings)),
            Ok(Err(_)) => None,
            Err(_) => Some(record_of(response.head(), None, settings)),
        }
    } else {
        None
    };
    let recorder = &mut governed.operation.recorder;
    if let Some(record) = record {
        recorder.writes(&record);
        recorder.outcome(held.complete(record).await.outcome());
    } else {
        recorder.outcome(Outcome::NotStored);
        held.release().await;
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

/// Warns once: the response to one account is stored as the response to anybody.
fn warn_of_late_principal(request: &HttpRequest) {
    static WARNED: Once = Once::new();
    if !WARNED.is_completed() && request.extensions().contains::<Principal>() {
        WARNED.call_once(|| {
            tracing::error!(
                "a `Principal` came into a request's extensions inside of the idempotency wrap, which took the request for \
                 anonymous: whoever sends the same key gets this answer. Put the authentication outside of the wrap"
            );
        });
    }
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

/// The whole of a body whose length is known.
async fn in_pieces<B: MessageBody>(body: B, length: u64) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    let mut body = pin!(body);
    while let Some(piece) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        let piece = piece.map_err(|error| ErrorInternalServerError(error.into().to_string()))?;
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > length {
            break;
        }
    }
    if bytes.len() as u64 != length {
        return Err(ErrorInternalServerError("a body did not have the length that it promised"));
    }
    Ok(bytes.freeze())
}
