//! From a handler's response to a record: whether it is kept, and what of it.

use std::{future::poll_fn, pin::pin, sync::Once};

use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse,
    body::{self, BodySize, MessageBody},
    dev::{ResponseHead, ServiceResponse},
    error::ErrorInternalServerError,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, ready};

use super::{
    body::{AnswerBody, Recording},
    replay::replay,
};
use crate::middleware::{run::Run, wrap::Answering};
use crate::{
    claim::{Held, Written},
    handler::info::Stage,
    key::Principal,
    observe::Outcome,
    record::Record,
    settings::Settings,
};

/// A handler's word on whether its response is stored, whatever `store_on_statuses` says.
///
/// ```
/// use actix_idempotency::StoreResponse;
/// use actix_web::HttpResponse;
///
/// async fn pay() -> HttpResponse {
///     let mut response = HttpResponse::Accepted().body("try again in a minute");
///     StoreResponse::Never.set(&mut response);
///     response
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResponse {
    /// Stored. What can't be replayed (1xx, 304, a failed stream) still isn't.
    Always,
    /// Not stored: the key is free.
    Never,
}

impl StoreResponse {
    /// Leaves the word with a response.
    pub fn set<B>(self, response: &mut HttpResponse<B>) {
        response.extensions_mut().insert(self);
    }
}

/// Stores what the handler answered, and passes it on.
pub(in crate::middleware) fn response<B>(response: ServiceResponse<B>, run: &mut Run) -> Answering<'_, B>
where
    B: MessageBody + 'static,
{
    let Some(held) = run.held.take() else {
        return at_once(through(response));
    };
    let config = run.config.clone();
    let settings = &config.settings;
    if run.anonymous {
        warn_of_late_principal(response.request());
    }
    let stored = !run.info.is_late_exempt() && is_stored(&response, settings);
    if settings.is_observed() {
        observe(stored.then(|| response.response().head()), held, run);
        return at_once(through(response));
    }
    if !stored {
        run.witness.sees(Outcome::NotStored);
        return Either::Right(Box::pin(async move {
            held.release().await;
            Ok(through(response))
        }));
    }
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let most = settings.storage.max_response_body as u64;
    let endless = is_event_stream(response.headers());
    let length = match body.size() {
        BodySize::None => Some(0),
        BodySize::Sized(length) => Some(length).filter(|length| *length <= most && !endless),
        BodySize::Stream => None,
    };
    let Some(length) = length else {
        run.held = Some(held);
        let bare = record_of(response.head(), None, settings);
        // From completion, which is still to come: it will be there a little longer.
        config.tell_expiry(response.headers_mut(), settings.storage.ttl);
        let recording = Recording::new(body, bare, endless, run);
        return at_once(ServiceResponse::new(request, response.set_body(AnswerBody::recorded(recording))));
    };
    let kept = Kept { request, response, held, run };
    match whole(body, length) {
        Ok(bytes) => kept.store(bytes),
        Err(body) => Either::Right(Box::pin(async move {
            match in_pieces(body, length).await {
                Ok(bytes) => kept.store(bytes).await,
                Err(error) => {
                    // No truncated answer may ever be replayed.
                    kept.run.witness.sees(Outcome::NotStored);
                    kept.held.release().await;
                    Err(error)
                }
            }
        })),
    }
}

/// A response that is stored with its body.
struct Kept<'a> {
    request: HttpRequest,
    response: HttpResponse<()>,
    held: Box<Held>,
    run: &'a mut Run,
}

impl<'a> Kept<'a> {
    fn store<B: MessageBody + 'static>(self, bytes: Bytes) -> Answering<'a, B> {
        let Self { request, response, held, run } = self;
        // Whatever a handler gave these, it is not sent.
        let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
        let kept = if bodiless { &[][..] } else { &bytes[..] };
        let record = record_of(response.head(), Some(kept), &run.config.settings);
        run.witness.writes(&record);
        match held.complete(record) {
            Either::Left(written) => at_once(answer(request, response, bytes, written.into_inner(), run)),
            Either::Right(writing) => Either::Right(Box::pin(async move {
                let written = writing.await;
                Ok(answer(request, response, bytes, written, run))
            })),
        }
    }
}

/// What the client gets once it is known what became of the record.
fn answer<B: MessageBody + 'static>(
    request: HttpRequest,
    mut response: HttpResponse<()>,
    bytes: Bytes,
    written: Written,
    run: &mut Run,
) -> ServiceResponse<AnswerBody<B>> {
    run.witness.sees(written.outcome());
    run.info.set_stage(Stage::Governing);
    match written {
        // A late owner's client gets the answer that everybody gets.
        Written::Superseded(Some(winner)) => {
            if let Ok(response) = replay(&winner, None, &run.config) {
                return ServiceResponse::new(request, response);
            }
        }
        Written::Stored | Written::Behind => {
            run.config.tell_expiry(response.headers_mut(), run.config.settings.storage.ttl);
        }
        Written::Superseded(None) | Written::Lost => {}
    }
    ServiceResponse::new(request, response.set_body(AnswerBody::whole(bytes)))
}

fn at_once<B: MessageBody + 'static>(response: ServiceResponse<AnswerBody<B>>) -> Answering<'static, B> {
    Either::Left(ready(Ok(response)))
}

/// Stores the response that a middleware's error will become.
pub(in crate::middleware) async fn error(error: &Error, run: &mut Run) {
    let Some(held) = run.held.take() else { return };
    let response = error.error_response();
    let config = run.config.clone();
    let settings = &config.settings;
    let stored = !run.info.is_late_exempt() && keeps(response.status(), response.head(), settings);
    if settings.is_observed() {
        observe(stored.then(|| response.head()), held, run);
        return;
    }
    let (response, body) = response.into_parts();
    let record = if stored {
        match body::to_bytes_limited(body, settings.storage.max_response_body).await {
            Ok(Ok(bytes)) => Some(record_of(response.head(), Some(&bytes), settings)),
            Ok(Err(_)) => None,
            Err(_) => Some(record_of(response.head(), None, settings)),
        }
    } else {
        None
    };
    if let Some(record) = record {
        run.witness.writes(&record);
        run.witness.sees(held.complete(record).await.outcome());
    } else {
        run.witness.sees(Outcome::NotStored);
        held.release().await;
    }
}

/// Keeps in mind that the key was used, and for what. No client waits for that, and nobody will be answered with it, so
/// it has no body.
fn observe(stored: Option<&ResponseHead>, held: Box<Held>, run: &mut Run) {
    let Some(response) = stored else {
        run.witness.sees(Outcome::NotStored);
        held.free();
        return;
    };
    let record = record_of(response, None, &run.config.settings);
    run.witness.writes(&record);
    run.witness.sees(Outcome::Stored);
    held.complete_unwaited(record);
}

/// Once: an answer to somebody is stored as one to anybody.
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
    pub(in crate::middleware) const fn outcome(&self) -> Outcome {
        match self {
            Self::Stored => Outcome::Stored,
            Self::Behind => Outcome::WrittenBehind,
            Self::Superseded(_) => Outcome::Superseded,
            Self::Lost => Outcome::NotStored,
        }
    }
}

fn through<B: MessageBody + 'static>(response: ServiceResponse<B>) -> ServiceResponse<AnswerBody<B>> {
    response.map_body(|_, body| AnswerBody::through(body))
}

fn is_stored<B>(response: &ServiceResponse<B>, settings: &Settings) -> bool {
    let unmatched = response.status() == StatusCode::NOT_FOUND && !matched_a_resource(response.request());
    let word = response.response().extensions().get::<StoreResponse>().copied();
    match word {
        Some(StoreResponse::Never) => false,
        Some(StoreResponse::Always) => is_replayable(response.status(), response.response().head()),
        None => !unmatched && keeps(response.status(), response.response().head(), settings),
    }
}

/// Whether the router found a resource. One that its guards turned down leaves its path unprocessed, although a pattern
/// would match it.
fn matched_a_resource(request: &HttpRequest) -> bool {
    request.match_info().unprocessed().is_empty() && request.match_pattern().is_some()
}

fn keeps(status: StatusCode, head: &ResponseHead, settings: &Settings) -> bool {
    status != StatusCode::METHOD_NOT_ALLOWED
        && settings.storage.store_on_statuses.contains(status)
        && is_replayable(status, head)
}

fn is_replayable(status: StatusCode, head: &ResponseHead) -> bool {
    !status.is_informational() && status != StatusCode::NOT_MODIFIED && !head.upgrade()
}

/// Server-sent events go on for ever: neither copied nor read to an end.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media = kind.split(|&b| b == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// A body that can be had in one piece.
fn whole<B: MessageBody>(body: B, length: u64) -> Result<Bytes, B> {
    // One of no size is not looked at: nothing of it is sent.
    if length == 0 { Ok(Bytes::new()) } else { body.try_into_bytes() }
}

/// All of a body whose length is known.
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

/// The field of a record of a request that was only observed.
pub(crate) static OBSERVED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("idempotency-observed"), HeaderValue::from_static("true"));

fn record_of(head: &ResponseHead, body: Option<&[u8]>, settings: &Settings) -> Record {
    let nominated: Vec<&[u8]> = connection_options(&head.headers).collect();
    let kept = head.headers.iter().filter(|(name, _)| {
        !is_left_out(name, settings)
            && !nominated.iter().any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
    });
    // It says itself that nobody is to be answered with it.
    let observed = settings.is_observed().then_some((&OBSERVED.0, &OBSERVED.1));
    Record::new(head.status, kept.chain(observed), body)
}

/// The fields that `Connection` names belong to this connection only (RFC 9110, 7.6.1).
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONNECTION);
    lines
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// Headers of one connection, one moment or an outer layer: a replay gets its own.
fn is_left_out(name: &HeaderName, settings: &Settings) -> bool {
    const LEFT_OUT: [&str; 17] = [
        "age",
        "alt-svc",
        "connection",
        "content-length",
        "date",
        "idempotency-body",
        "keep-alive",
        "proxy-connection",
        "retry-after",
        "server-timing",
        "te",
        "traceparent",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
        "ratelimit",
    ];
    const PREFIXES: [&str; 4] = ["access-control-", "proxy-auth", "ratelimit-", "x-ratelimit-"];
    let text = name.as_str();
    LEFT_OUT.contains(&text)
        || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || (name == header::SET_COOKIE && !settings.replay_cookies)
        || settings.replay_header.as_ref() == Some(name)
        || settings.exclude_headers.contains(name)
}
