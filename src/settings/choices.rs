//! Settings that choose between a few ways.

use actix_web::http::Method;

/// Which defaults; setting `profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// As django-idempotency-key documents them.
    #[default]
    Default,
    /// As draft-ietf-httpapi-idempotency-key-header-07 recommends.
    Ietf,
    /// As clients written for Stripe expect.
    Stripe,
}

/// Whether what is decided is done; setting `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enforcement {
    /// Yes.
    #[default]
    Enforce,
    /// No: every request runs, and what would have become of it is only told. For switching on an API that is in use.
    Observe,
}

/// Which methods are protected; setting `methods`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Methods {
    /// All but GET, HEAD, OPTIONS, TRACE, QUERY and CONNECT.
    Unsafe,
    /// These.
    List(Vec<Method>),
}

/// What one key of one principal means; setting `scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// One operation, wherever it is sent: on another path it is a mismatch.
    #[default]
    Principal,
    /// An operation per method and path.
    Endpoint,
}

/// What to do after an owner was lost while it ran; setting `on_unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnUnknown {
    /// The next request runs again.
    #[default]
    Rerun,
    /// 409 `outcome-unknown` until an operator forgets the key. Covers panics and cancelled runs too.
    Reject,
}

/// What to do when the client leaves while the handler runs; setting `on_disconnect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The operation finishes, and its response is stored for the retry.
    #[default]
    Finish,
    /// The operation is dropped, as actix does by itself, and the key freed.
    Cancel,
}

/// What a full memory store does; setting `storage.on_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// Gives up the oldest bodies over `max_bytes`, the oldest records past `min_retention` over `max_entries`; then 503.
    #[default]
    Shrink,
    /// 503 for new keys; nothing is evicted.
    Reject,
}

/// What to do when the store can't answer before the run; setting `storage.on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// 503 with Retry-After.
    #[default]
    Reject,
    /// The handler runs unprotected: gives up *fail closed*.
    Run,
}

/// What to do about a danger that is seen at start; settings `storage.on_evicting` and `storage.on_unreachable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    /// The server does not start.
    #[default]
    Reject,
    /// It starts, and the log says what may happen.
    Warn,
}

/// Methods that RFC 9110 and its extensions define as safe, and CONNECT, which has no operation to protect.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "CONNECT")
}

impl Methods {
    pub(crate) fn protect(&self, method: &Method) -> bool {
        match self {
            Self::Unsafe => !is_safe(method),
            Self::List(methods) => methods.contains(method),
        }
    }
}
