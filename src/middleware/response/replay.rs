//! A stored response as the answer to a retry.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    body::MessageBody,
    http::header::{self, HeaderName, HeaderValue},
};

use super::body::AnswerBody;
use crate::middleware::config::Config;
use crate::record::{Record, UnreadableRecord};

const BODY: HeaderName = HeaderName::from_static("idempotency-body");

/// Describe a body; wrong where it was not kept.
const OF_THE_BODY: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ETAG,
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-md5"),
];

/// `remaining`: how long the record will be there, when that is known.
pub(in crate::middleware) fn replay<B: MessageBody + 'static>(
    record: &Record,
    remaining: Option<Duration>,
    config: &Config,
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
        if !(omitted && OF_THE_BODY.contains(&name)) {
            headers.append(name, value);
        }
    }
    if omitted {
        headers.insert(BODY, HeaderValue::from_static("omitted"));
    }
    if let Some(marker) = &config.settings.replay_header {
        headers.insert(marker.clone(), HeaderValue::from_static("true"));
    }
    if let Some(remaining) = remaining {
        config.tell_expiry(headers, remaining);
    }
    Ok(response)
}
