//! Makes the response to a retry from a record.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    body::MessageBody,
    http::header::{self, HeaderName, HeaderValue},
};

use super::body::AnswerBody;
use crate::{
    middleware::config::WrapConfig,
    record::{Record, UnreadableRecord},
};

const BODY: HeaderName = HeaderName::from_static("idempotency-body");

/// Headers that describe a body. They would be wrong on a replay without the body.
const BODY_HEADERS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ETAG,
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-md5"),
];

/// The response to a retry. `remaining`: how long the record is still kept, if that is known.
pub(in crate::middleware) fn replay<B: MessageBody + 'static>(
    record: &Record,
    remaining: Option<Duration>,
    config: &WrapConfig,
) -> Result<HttpResponse<AnswerBody<B>>, UnreadableRecord> {
    let stored = record.open()?;
    let first = stored.status()?;
    let status = config.settings.conflict_status_code.unwrap_or(first);
    let body = stored.body();
    let omitted = body.is_none();
    let mut response = HttpResponse::with_body(status, AnswerBody::whole(body.unwrap_or_default()));
    let headers = response.headers_mut();
    for line in stored.headers() {
        let (name, value) = line?;
        if !(omitted && BODY_HEADERS.contains(&name)) {
            headers.append(name, value);
        }
    }
    if omitted {
        headers.insert(BODY, HeaderValue::from_static("omitted"));
    }
    if let Some(marker) = &config.settings.replay_header {
        headers.insert(marker.clone(), HeaderValue::from_static("true"));
    }
    if status != first
        && let Some(name) = &config.settings.original_status_header
    {
        headers.insert(name.clone(), HeaderValue::from(first.as_u16()));
    }
    config.add_should_retry(headers);
    if let Some(remaining) = remaining {
        config.add_expiry(headers, remaining);
    }
    Ok(response)
}
