//! Which responses are stored, and which of their headers.

use actix_web::{
    HttpRequest, HttpResponse,
    dev::ResponseHead,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};

use crate::{
    handler::StoreOverride,
    record::{OBSERVED, Record},
    settings::Settings,
};

/// Whether a handler's response is stored.
pub(super) fn stores<B>(request: &HttpRequest, response: &HttpResponse<B>, settings: &Settings) -> bool {
    let head = response.head();
    let status = response.status();
    let word = response.extensions().get::<StoreOverride>().copied();
    match word {
        Some(StoreOverride::Never) => false,
        Some(StoreOverride::Always) => is_replayable(status, head),
        None => {
            let unmatched = status == StatusCode::NOT_FOUND && !matched_a_resource(request);
            !unmatched && stores_status(status, head, settings)
        }
    }
}

/// Whether a response with this status is stored, as far as the settings say.
pub(super) fn stores_status(status: StatusCode, head: &ResponseHead, settings: &Settings) -> bool {
    status != StatusCode::METHOD_NOT_ALLOWED
        && settings.storage.store_on_statuses.contains(status)
        && is_replayable(status, head)
}

pub(in crate::middleware) fn is_replayable(status: StatusCode, head: &ResponseHead) -> bool {
    !status.is_informational() && status != StatusCode::NOT_MODIFIED && !head.upgrade()
}

/// Whether the router found a resource. A resource whose guards rejected the request leaves the path unprocessed,
/// although its pattern matches.
fn matched_a_resource(request: &HttpRequest) -> bool {
    request.match_info().unprocessed().is_empty() && request.match_pattern().is_some()
}

/// Whether the body is a stream of server-sent events. Such a stream may never end, so it is neither copied nor read
/// on.
pub(in crate::middleware) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media = kind.split(|&b| b == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// The record of a response. `body` is `None` when the body is not kept.
pub(in crate::middleware) fn record_of(head: &ResponseHead, body: Option<&[u8]>, settings: &Settings) -> Record {
    // A body that a handler gave to one of these statuses is not sent.
    let is_bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    let body = if is_bodiless { body.map(|_| &[][..]) } else { body };
    let nominated: Vec<&[u8]> = connection_options(&head.headers).collect();
    let kept = head.headers.iter().filter(|(name, _)| {
        !is_left_out(name, head.status, settings)
            && !nominated.iter().any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
    });
    // An observed record is marked, because it must never be replayed.
    let observed = settings.is_observed().then_some((&OBSERVED.0, &OBSERVED.1));
    Record::new(head.status, kept.chain(observed), body)
}

/// The header names that `Connection` lists: they belong to this connection only (RFC 9110, 7.6.1).
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONNECTION);
    lines
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// Whether a header belongs to one connection, one moment or an outer layer. A replay gets its own.
fn is_left_out(name: &HeaderName, status: StatusCode, settings: &Settings) -> bool {
    const LEFT_OUT: [&str; 16] = [
        "age",
        "alt-svc",
        "connection",
        "content-length",
        "date",
        "idempotency-body",
        "keep-alive",
        "proxy-connection",
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
    // Beside 202 and redirections it tells when to look at another resource; elsewhere, when to send the request again.
    let repeats = name == header::RETRY_AFTER && status != StatusCode::ACCEPTED && !status.is_redirection();
    LEFT_OUT.contains(&text)
        || repeats
        || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || (name == header::SET_COOKIE && !settings.replay_cookies)
        || settings.replay_header.as_ref() == Some(name)
        || settings.original_status_header.as_ref() == Some(name)
        || settings.should_retry_headers.contains(name)
        || settings.exclude_headers.contains(name)
}
