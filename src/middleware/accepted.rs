//! Operations that go on after their client was told so: 202, and where to look for the answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use tokio::time::Sleep;

use super::{config::WrapConfig, request::RequestHead, response::AnswerBody};
use crate::{client::prefer::Prefer, handler::IdempotencyInfo, key::RecordId};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How long an operation may take before its client is told that it goes on, where the client names no time. Operations
/// that take no longer are not worth a second request.
const AT_LEAST: Duration = Duration::from_millis(20);

/// The promise to a client that prefers an answer at once.
pub(super) struct Promise {
    timer: Pin<Box<Sleep>>,
    head: RequestHead,
    is_made: Arc<AtomicBool>,
}

impl Promise {
    /// For a request that prefers it, where the wrap allows it.
    pub(super) fn of(request: &ServiceRequest, config: &WrapConfig) -> Option<Box<Self>> {
        if !config.responds_async || config.settings.is_observed() {
            return None;
        }
        let prefer = Prefer::of(request.headers().get_all(PREFER));
        if !prefer.respond_async {
            return None;
        }
        let wait = prefer.wait.map_or(AT_LEAST, |wait| wait.min(config.settings.lock.max_wait));
        let (timer, head) = (Box::pin(tokio::time::sleep(wait)), RequestHead::of(request.head()));
        Some(Box::new(Self { timer, head, is_made: Arc::default() }))
    }

    /// Whether the promise was made, for the claim: the record then remembers a run that ended without a stored response.
    pub(super) fn is_made(&self) -> Arc<AtomicBool> {
        self.is_made.clone()
    }

    /// Whether the client has waited long enough.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.is_elapsed() || matches!(self.timer.as_mut().poll(cx), Poll::Ready(()))
    }

    /// Makes the promise. `None`: there is no record yet, or the request has given the promise up.
    pub(super) fn make<B: MessageBody + 'static>(
        &mut self,
        info: &IdempotencyInfo,
        config: &WrapConfig,
    ) -> Option<ServiceResponse<AnswerBody<B>>> {
        if Arc::strong_count(&self.is_made) == 1 {
            return None;
        }
        let response = accepted(config, &info.record()?)?;
        let request = config.synthetic.stand_in(std::mem::take(&mut self.head))?;
        self.is_made.store(true, SeqCst);
        Some(ServiceResponse::new(request, response))
    }
}

/// The answer while an operation goes on. `None`: nobody has said where operations are looked up.
pub(super) fn accepted<B: MessageBody + 'static>(
    config: &WrapConfig,
    record: &RecordId,
) -> Option<HttpResponse<AnswerBody<B>>> {
    let path = config.settings.operations.path.as_ref()?;
    let location = HeaderValue::try_from(format!("{}/{record}", path.trim_end_matches('/'))).ok()?;
    let mut response = HttpResponse::with_body(StatusCode::ACCEPTED, AnswerBody::whole(bytes::Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// How long a duplicate waits, if its client has said so.
pub(super) fn wait_of<'a>(
    lines: impl Iterator<Item = &'a HeaderValue>,
    responds_async: bool,
    longest: Duration,
) -> Option<Duration> {
    let prefer = Prefer::of(lines);
    prefer.wait.map(|wait| wait.min(longest)).or((responds_async && prefer.respond_async).then_some(Duration::ZERO))
}
