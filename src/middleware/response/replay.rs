//! Makes the response to a retry from a record.

use std::{sync::LazyLock, time::Duration};

use actix_web::{
    HttpResponse,
    body::MessageBody,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};

use bytes::Bytes;

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

/// A status as the value of a header. Made once, because most replays have one.
fn text_of(status: StatusCode) -> HeaderValue {
    static TEXTS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| (0..1000_u16).map(HeaderValue::from).collect());
    TEXTS.get(usize::from(status.as_u16())).cloned().unwrap_or_else(|| HeaderValue::from(status.as_u16()))
}

/// The response to a retry. `remaining`: how long the record is still kept, if that is known. `accepts`: whether the client
/// can read a body of this `Content-Encoding`; without that it gets no body.
pub(in crate::middleware) fn replay<B: MessageBody + 'static>(
    record: &Record,
    remaining: Option<Duration>,
    config: &WrapConfig,
    accepts: impl Fn(&HeaderValue) -> bool,
) -> Result<HttpResponse<AnswerBody<B>>, UnreadableRecord> {
    let stored = record.open()?;
    let first = stored.status()?;
    let status = config.settings.conflict_status_code.unwrap_or(first);
    let body = stored.body();
    let mut omitted = body.is_none();
    let mut response = HttpResponse::with_body(status, AnswerBody::whole(body.unwrap_or_default()));
    let headers = response.headers_mut();
    for line in stored.headers() {
        let (name, value) = line?;
        omitted |= name == header::CONTENT_ENCODING && !accepts(&value);
        headers.append(name, value);
    }
    if omitted {
        for name in BODY_HEADERS {
            headers.remove(name);
        }
        headers.insert(BODY, HeaderValue::from_static("omitted"));
    }
    if let Some(marker) = &config.settings.replay_header {
        headers.insert(marker.clone(), HeaderValue::from_static("true"));
    }
    if status != first
        && let Some(name) = &config.settings.original_status_header
    {
        headers.insert(name.clone(), text_of(first));
    }
    config.add_should_retry(headers);
    if let Some(remaining) = remaining {
        config.add_expiry(headers, remaining);
    }
    Ok(if omitted { response.map_body(|_, _| AnswerBody::whole(Bytes::new())) } else { response })
}
