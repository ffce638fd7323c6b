//! Sends duplicates of one request at the same time.

use actix_web::{
    Error,
    body::{MessageBody, to_bytes},
    dev::{Service, ServiceResponse},
    http::{StatusCode, header::HeaderMap},
    test::TestRequest,
};
use bytes::Bytes;
use futures_util::future::join_all;

/// The response to one duplicate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Whether it carries the default replay marker.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotent-replayed")
    }

    /// Whether it is a problem that this crate answers with instead of the handler.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        let base = crate::client::problem::TYPE_BASE.as_bytes();
        self.status.as_u16() >= 400 && self.body.windows(base.len()).any(|part| part == base)
    }

    /// Whether the handler ran for it.
    #[must_use]
    pub fn ran(&self) -> bool {
        !self.is_replay() && !self.is_problem()
    }
}

/// Sends `n` requests made by `request` to `app` at once, and gives their answers in the order in which they were sent.
///
/// The requests run on one thread, and meet wherever a handler or a store waits. Duplicates on several threads, or over
/// real connections, need a server.
///
/// # Panics
/// When the service fails, or a body does.
pub async fn storm<S, B>(app: &S, n: usize, request: impl Fn() -> TestRequest) -> Vec<Answer>
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    join_all((0..n).map(|_| {
        let call = app.call(request().to_request());
        async move {
            let response = call.await.expect("the service answers");
            let (status, headers) = (response.status(), response.headers().clone());
            let Ok(body) = to_bytes(response.into_body()).await else { panic!("the body of an answer failed") };
            Answer { status, headers, body }
        }
    }))
    .await
}
