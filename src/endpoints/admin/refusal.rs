//! Refusals for operators.

use actix_web::{
    HttpResponse, ResponseError,
    error::{JsonPayloadError, QueryPayloadError},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};

use crate::store::StoreError;

/// Why an operator's request was refused. Becomes problem+json.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: &(impl ToString + ?Sized)) -> Self {
        Self { status, detail: detail.to_string() }
    }

    pub(super) fn bad(detail: &(impl ToString + ?Sized)) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn absent() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such record")
    }

    pub(super) fn of_json(error: &JsonPayloadError) -> Self {
        let status = match error {
            JsonPayloadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            error => error.status_code(),
        };
        Self::new(status, error)
    }

    pub(super) fn of_query(error: &QueryPayloadError) -> Self {
        Self::bad(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // The source of the error tells an operator more than the error itself.
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let status = match error {
            StoreError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, &format!("{error}{cause}"))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        const PROBLEM: (HeaderName, HeaderValue) =
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        HttpResponse::build(self.status).insert_header(PROBLEM).body(
            serde_json::json!({
                "type": "about:blank",
                "title": self.status.canonical_reason(),
                "status": self.status.as_u16(),
                "detail": self.detail,
            })
            .to_string(),
        )
    }
}
