//! A stored response, opened.

use actix_web::{
    HttpResponse,
    body::BoxBody,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
};
use bytes::Bytes;

/// The stored response of a key: manual handlers find it in [`IdempotencyInfo`](crate::IdempotencyInfo), and every
/// retry of another route gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Option<Bytes>,
}

impl StoredResponse {
    /// The status of the first response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The stored headers. Repeated headers keep their order.
    #[must_use]
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The body. `None`: it was too large to keep, or a full store gave it up.
    #[must_use]
    pub const fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// A response equal to the stored one, for a handler that decides itself. It carries no replay marker. A body that
    /// was not kept is empty.
    #[must_use]
    pub fn to_response(&self) -> HttpResponse {
        let mut response = HttpResponse::with_body(self.status, BoxBody::new(self.body.clone().unwrap_or_default()));
        for (name, value) in &self.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        response
    }
}
