//! Refusals: the responses that a client gets instead of the handler's, as RFC 9457 problem details.
//!
//! A client compares the whole `type`, or its last segment. A `type` is an identifier and need not lead to a page; with
//! the setting `docs_url` each refusal links to a page of yours.
//!
//! | last segment | status | what a client does |
//! |---|---|---|
//! | `missing-key` | `missing_key_status_code` | sends a key |
//! | `invalid-key` | 400 | sends a well-formed key, once |
//! | `key-reused` | `mismatch_status_code` | uses a new key for a new operation |
//! | `in-flight` | `in_flight_status_code` | retries later with the same key |
//! | `body-too-large` | 413 | sends less |
//! | `body-timeout` | 408 | sends faster, with the same key |
//! | `invalid-digest` | 400 | sends a `Content-Digest` as RFC 9530 has it, or none |
//! | `wrong-digest` | 400 | sends the body that its `Content-Digest` names, with the same key |
//! | `too-many-keys` | 429 | retries later with the same key, and begins fewer new operations |
//! | `store-unavailable` | 503 | retries later with the same key |
//! | `outcome-unknown` | 409 | asks a person: whether the operation took effect is not known |
//! | `not-completed` | 409 | sends the request again with the same key: it ended without a stored response |
//! | `shutting-down` | 503 | retries with the same key |
//! | `transaction-failed` | 500 | reports it: the database refused the transaction, and nothing was committed |
//! | `transaction-misused` | 500 | reports it: the handler is wrong, and nothing was committed |
//! | `steps-full` | 500 | reports it: the handler has more steps, or larger results, than a record may have |
//! | `not-recorded` | 500 | reports it: a success that must not be recorded was rolled back |
//!
//! With the setting `fingerprint.differences`, a `key-reused` may have a member `differences`: the JSON pointers to the
//! members of the body that the first request had otherwise, or did not have.
//!
//! An unreadable body (400), a panicked handler and a misconfigured instance (500) are `about:blank`: their status says
//! it all.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};

use crate::{key::InvalidKey, observe::Outcome, settings::Settings};

/// The beginning of each `type`; the name of the problem follows.
pub const TYPE_BASE: &str = "https://docs.rs/actix-idempotency/latest/actix_idempotency/problem/";

/// Why a request was refused. A refusal is never stored, and never changes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    MissingKey,
    InvalidKey(InvalidKey),
    KeyReused,
    InFlight {
        /// The lease of the first request is over, and its grace lasts so long.
        grace: Option<Duration>,
    },
    BodyTooLarge {
        limit: usize,
    },
    /// The body arrived too slowly.
    BodyTimeout {
        /// The handler was reading the body as it arrived.
        has_begun: bool,
    },
    /// The body could not be read to its end.
    UnreadableBody,
    /// The header `Content-Digest` is malformed.
    InvalidDigest,
    /// The body is not the one that `Content-Digest` names.
    WrongDigest,
    StoreUnavailable,
    /// More operations in flight than `limits.max_in_flight`.
    Overloaded,
    /// The principal begins new operations at a higher rate than `limits.fresh_per_principal`.
    TooManyKeys {
        /// After this time there is room for one more.
        wait: Duration,
    },
    OutcomeUnknown,
    /// The operation that is looked up ended without a stored response.
    NotCompleted,
    ShuttingDown,
    /// The database refused the handler's transaction.
    TransactionFailed,
    /// The handler uses its transaction in a way that can't be committed.
    TransactionMisused,
    /// A success that must not be recorded was rolled back.
    NotRecorded,
    /// The record has no room for a step.
    StepsFull,
    /// The handler panicked.
    Panicked,
    /// The instance names something that its `Idempotency` does not have.
    Misconfigured,
}

/// The configurable parts of a refusal.
#[derive(Clone)]
pub(crate) struct ProblemStyle {
    /// Where the key is sent, as people read it.
    pub(crate) header: String,
    pub(crate) mismatch_status: StatusCode,
    pub(crate) missing_key_status: StatusCode,
    pub(crate) in_flight_status: StatusCode,
    /// `Link: <…>; rel="describedby"`.
    pub(crate) link: Option<HeaderValue>,
    /// Headers that tell whether to retry.
    should_retry: Vec<HeaderName>,
    /// Whether a member `error` repeats the problem for clients that know Stripe's errors only.
    stripe_error: bool,
    shape: Option<RefusalFn>,
}

/// Changes a refusal, or replaces it.
pub(crate) type RefusalFn = Arc<dyn Fn(&Refusal<'_>, HttpResponse) -> HttpResponse + Send + Sync>;

/// A refusal, for an API whose errors have a shape of their own.
///
/// Refusals have the body of RFC 9457 problem details. [`Builder::refusal`](crate::Builder::refusal) can give them another
/// one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refusal<'a> {
    /// The last segment of the problem's `type`, for example `in-flight`. `None`: the status says everything.
    pub name: Option<&'static str>,
    /// The status.
    pub status: StatusCode,
    /// A short text that is the same for each problem of this name.
    pub title: &'static str,
    /// A text about this occurrence. Nothing of the request is in it.
    pub detail: &'a str,
    /// How long the client should wait before it sends the request again. `None`: it would be refused again.
    pub retry_after: Option<Duration>,
    /// The JSON pointers to the members that differ from those of the first request. `None`: they are not known.
    pub differences: Option<&'a [String]>,
}

impl Default for ProblemStyle {
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}

impl ProblemStyle {
    pub(crate) fn of(settings: &Settings) -> Self {
        let link =
            settings.docs_url.as_ref().map(|url| HeaderValue::from_str(&format!("<{url}>; rel=\"describedby\"")));
        Self {
            header: settings.key_places(),
            mismatch_status: settings.mismatch_status_code,
            missing_key_status: settings.missing_key_status_code,
            in_flight_status: settings.in_flight_status_code,
            // `Settings::check` has seen that it is a header value.
            link: link.and_then(Result::ok),
            should_retry: settings.should_retry_headers.clone(),
            stripe_error: settings.profile.is_stripe(),
            shape: None,
        }
    }

    /// Lets the application shape refusals.
    pub(crate) fn shaped_by(mut self, shape: Option<RefusalFn>) -> Self {
        self.shape = shape;
        self
    }
}

impl std::fmt::Debug for ProblemStyle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProblemStyle").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Problem {
    /// The last segment of `type`. `None`: the type is `about:blank`, and the status says everything.
    pub(crate) const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::MissingKey => "missing-key",
            Self::InvalidKey(_) => "invalid-key",
            Self::KeyReused => "key-reused",
            Self::InFlight { .. } => "in-flight",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::BodyTimeout { .. } => "body-timeout",
            Self::InvalidDigest => "invalid-digest",
            Self::WrongDigest => "wrong-digest",
            Self::StoreUnavailable | Self::Overloaded => "store-unavailable",
            Self::TooManyKeys { .. } => "too-many-keys",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::NotCompleted => "not-completed",
            Self::ShuttingDown => "shutting-down",
            Self::TransactionFailed => "transaction-failed",
            Self::TransactionMisused => "transaction-misused",
            Self::NotRecorded => "not-recorded",
            Self::StepsFull => "steps-full",
            Self::UnreadableBody | Self::Panicked | Self::Misconfigured => return None,
        })
    }

    /// The outcome of a request that is refused with this problem.
    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            Self::MissingKey => Outcome::MissingKey,
            Self::InvalidKey(_) => Outcome::InvalidKey,
            Self::KeyReused => Outcome::KeyReused,
            Self::InFlight { .. } => Outcome::InFlight,
            Self::BodyTooLarge { .. } => Outcome::BodyTooLarge,
            Self::BodyTimeout { .. } => Outcome::BodyTimeout,
            Self::UnreadableBody | Self::InvalidDigest | Self::WrongDigest => Outcome::UnreadableBody,
            Self::StoreUnavailable => Outcome::StoreUnavailable,
            Self::Overloaded => Outcome::Overloaded,
            Self::TooManyKeys { .. } => Outcome::TooManyKeys,
            Self::OutcomeUnknown => Outcome::OutcomeUnknown,
            Self::ShuttingDown => Outcome::ShuttingDown,
            Self::TransactionFailed | Self::TransactionMisused | Self::NotRecorded => Outcome::RolledBack,
            Self::StepsFull | Self::NotCompleted => Outcome::NotStored,
            Self::Panicked | Self::Misconfigured => Outcome::Panicked,
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::MissingKey => "Idempotency key missing",
            Self::InvalidKey(_) => "Idempotency key invalid",
            Self::KeyReused => "Idempotency key reused for another request",
            Self::InFlight { .. } => "A request with this idempotency key is still running",
            Self::BodyTooLarge { .. } => "Request body too large",
            Self::BodyTimeout { .. } => "Request body too slow",
            Self::InvalidDigest => "Content-Digest malformed",
            Self::WrongDigest => "Request body is not that of its Content-Digest",
            Self::StoreUnavailable | Self::Overloaded => "Idempotency store unavailable",
            Self::TooManyKeys { .. } => "Too many new operations",
            Self::OutcomeUnknown => "Outcome of the first request unknown",
            Self::NotCompleted => "The operation ended without a stored answer",
            Self::ShuttingDown => "Server shutting down",
            Self::TransactionFailed => "Transaction failed",
            Self::TransactionMisused => "Transaction misused",
            Self::NotRecorded => "Answer not recorded",
            Self::StepsFull => "Too many steps, or too large ones",
            Self::UnreadableBody => "Bad Request",
            Self::Panicked | Self::Misconfigured => "Internal Server Error",
        }
    }

    fn detail(self, style: &ProblemStyle) -> String {
        match self {
            Self::MissingKey => format!("This operation needs a key that is unique to it, sent as {}.", style.header),
            Self::InvalidKey(why) => format!("In {}, {why}.", style.header),
            Self::KeyReused => {
                "The key was used with another method, path, query or payload. Use a new key for a new operation."
                    .into()
            }
            Self::InFlight { .. } => "Retry later with the same key.".into(),
            Self::BodyTooLarge { limit } => format!("At most {limit} bytes are accepted here."),
            Self::BodyTimeout { has_begun: false } => {
                "The request body took too long to arrive. The operation was not run.".into()
            }
            Self::BodyTimeout { has_begun: true } => {
                "The request body took too long to arrive. The operation had begun, and no response was stored.".into()
            }
            Self::UnreadableBody => "The request body could not be read to its end.".into(),
            Self::InvalidDigest => "Content-Digest is not a dictionary whose sha-256 has 32 bytes (RFC 9530).".into(),
            Self::WrongDigest => {
                "The body that arrived has another SHA-256 than Content-Digest says. No response was stored.".into()
            }
            Self::StoreUnavailable => {
                "The operation can't be run, or its outcome can't be recorded, at the moment. Retry later with the same key."
                    .into()
            }
            Self::Overloaded => {
                "Too many operations are running; this one was not run. Retry later with the same key.".into()
            }
            Self::TooManyKeys { .. } => {
                "You begin new operations too fast; this one was not run. Retry later with the same key.".into()
            }
            Self::OutcomeUnknown => {
                "The first request was lost while it ran. Whether it took effect has to be looked into before this key \
                 can be used again."
                    .into()
            }
            Self::NotCompleted => "Send the request again with the same key.".into(),
            Self::ShuttingDown => "The operation was not run. Retry with the same key.".into(),
            Self::TransactionFailed => "The database refused the transaction, and nothing of it was committed.".into(),
            Self::TransactionMisused => {
                "The transaction could not be committed together with its answer, and was rolled back.".into()
            }
            Self::NotRecorded => "The answer must not be recorded, so its transaction was rolled back.".into(),
            Self::StepsFull => "The operation has more steps, or larger results, than can be saved.".into(),
            Self::Panicked => "The operation failed.".into(),
            Self::Misconfigured => "The operation was not run: its idempotency is misconfigured.".into(),
        }
    }

    pub(crate) fn status(self, style: &ProblemStyle) -> StatusCode {
        match self {
            Self::MissingKey => style.missing_key_status,
            Self::InvalidKey(_) | Self::UnreadableBody | Self::InvalidDigest | Self::WrongDigest => {
                StatusCode::BAD_REQUEST
            }
            Self::KeyReused => style.mismatch_status,
            Self::InFlight { .. } => style.in_flight_status,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::StoreUnavailable | Self::Overloaded | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyKeys { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::OutcomeUnknown | Self::NotCompleted => StatusCode::CONFLICT,
            Self::TransactionFailed
            | Self::TransactionMisused
            | Self::NotRecorded
            | Self::StepsFull
            | Self::Panicked
            | Self::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// How long a client should wait. `None`: the same request would be refused again.
    pub(crate) const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::InFlight { grace: Some(wait) } | Self::TooManyKeys { wait } => Some(wait),
            Self::InFlight { grace: None }
            | Self::BodyTimeout { .. }
            | Self::StoreUnavailable
            | Self::Overloaded
            | Self::NotCompleted => Some(Duration::from_secs(1)),
            Self::ShuttingDown => Some(Duration::from_secs(2)),
            // An operator has to look first.
            Self::OutcomeUnknown => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    pub(crate) fn response(self, style: &ProblemStyle) -> HttpResponse {
        self.explained(style, None)
    }

    /// As [`response`](Self::response), with the pointers to the members that differ.
    pub(crate) fn explained(self, style: &ProblemStyle, differences: Option<&[String]>) -> HttpResponse {
        let status = self.status(style);
        let mut response = HttpResponse::build(status);
        response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")));
        if let Some(wait) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, whole_seconds(wait)));
        }
        if let Some(link) = &style.link {
            response.append_header((header::LINK, link.clone()));
        }
        let should_retry = HeaderValue::from_static(if self.retry_after().is_some() { "true" } else { "false" });
        for name in &style.should_retry {
            response.insert_header((name.clone(), should_retry.clone()));
        }
        let (base, name) = self.name().map_or(("about:", "blank"), |name| (TYPE_BASE, name));
        let (title, detail) = (self.title(), self.detail(style));
        let error = if style.stripe_error { self.stripe_error(&detail) } else { String::new() };
        let pointers = differences.and_then(|pointers| serde_json::to_string(pointers).ok());
        let pointers = pointers.map_or_else(String::new, |pointers| format!(r#","differences":{pointers}"#));
        // No other text here comes from outside or has a character that JSON escapes.
        let response = response.body(format!(
            r#"{{"type":"{base}{name}","title":"{title}","status":{},"detail":"{detail}"{pointers}{error}}}"#,
            status.as_u16(),
        ));
        match &style.shape {
            Some(shape) => {
                let (name, retry_after) = (self.name(), self.retry_after());
                shape(&Refusal { name, status, title, detail: &detail, retry_after, differences }, response)
            }
            None => response,
        }
    }

    /// The member `error` that Stripe's clients go by: without it some of them take a refusal for a success.
    fn stripe_error(self, message: &str) -> String {
        let kind = match self {
            Self::KeyReused => "idempotency_error",
            Self::MissingKey
            | Self::InvalidKey(_)
            | Self::BodyTooLarge { .. }
            | Self::UnreadableBody
            | Self::InvalidDigest
            | Self::WrongDigest
            // As Stripe's own 429.
            | Self::TooManyKeys { .. } => "invalid_request_error",
            _ => "api_error",
        };
        let code = self.name().unwrap_or("internal").replace('-', "_");
        format!(r#","error":{{"type":"{kind}","code":"{code}","message":"{message}"}}"#)
    }
}

/// Rounded up, and at least one.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::{self, MessageBody as _};

    #[test]
    fn every_problem_is_json_that_repeats_its_status() {
        let key = InvalidKey::Malformed("not a well-formed quoted string");
        for problem in [
            Problem::MissingKey,
            Problem::InvalidKey(key),
            Problem::KeyReused,
            Problem::InFlight { grace: None },
            Problem::BodyTooLarge { limit: 7 },
            Problem::BodyTimeout { has_begun: false },
            Problem::BodyTimeout { has_begun: true },
            Problem::UnreadableBody,
            Problem::InvalidDigest,
            Problem::WrongDigest,
            Problem::StoreUnavailable,
            Problem::Overloaded,
            Problem::TooManyKeys { wait: Duration::from_millis(1500) },
            Problem::OutcomeUnknown,
            Problem::NotCompleted,
            Problem::ShuttingDown,
            Problem::TransactionFailed,
            Problem::TransactionMisused,
            Problem::NotRecorded,
            Problem::StepsFull,
            Problem::Panicked,
            Problem::Misconfigured,
        ] {
            let response = problem.response(&ProblemStyle::default());
            let status = response.status().as_u16();
            let retry = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(retry, matches!(status, 408 | 409 | 423 | 429 | 503), "{problem:?}");
            let body = response
                .into_body()
                .try_into_bytes()
                .unwrap_or_else(|_| body::BoxBody::new(()).try_into_bytes().unwrap());
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["status"], status);
            let kind = json["type"].as_str().unwrap();
            assert_eq!(kind.rsplit('/').next(), problem.name().or(Some("about:blank")), "{kind}");
        }
    }
}
