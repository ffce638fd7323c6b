//! Settings that choose one of a few alternatives.

use actix_web::http::Method;

use crate::key::RecordId;

/// The set of defaults; setting `profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// The defaults that django-idempotency-key documents.
    #[default]
    Default,
    /// The recommendations of draft-ietf-httpapi-idempotency-key-header-07.
    Ietf,
    /// The behaviour that clients written for Stripe expect.
    Stripe,
    /// As `Stripe`, with the retries of its second API: a failure is not stored, so that its retry goes on where the run
    /// stopped.
    StripeV2,
}

impl Profile {
    /// Whether clients written for Stripe are expected.
    pub(crate) const fn is_stripe(self) -> bool {
        matches!(self, Self::Stripe | Self::StripeV2)
    }
}

/// How the body of a request reaches its handler; setting `body`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyMode {
    /// The body is read before the key is claimed, up to `max_request_body`, and compared with everything else of the
    /// request.
    #[default]
    Buffer,
    /// The handler reads the body as it arrives, and it is hashed on the way. For large uploads.
    Stream,
}

/// Whether decisions are enforced or only observed; setting `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Requests are refused, replayed or run as decided.
    #[default]
    Enforce,
    /// Every request runs, and the decision is only reported. For switching the middleware on at an API that is in use.
    Observe,
}

/// Which methods need a key; setting `methods`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Methods {
    /// All but GET, HEAD, OPTIONS, TRACE, QUERY and CONNECT.
    Unsafe,
    /// These methods.
    List(Vec<Method>),
}

/// How far one key of one principal reaches; setting `scope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// The key names one operation. On another path it is a mismatch.
    #[default]
    Principal,
    /// The key names one operation per method and path.
    Endpoint,
}

/// The reaction to a client that leaves while the handler runs; setting `on_disconnect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The operation finishes, and its response is stored for the retry. One that outruns `limits.max_run` is dropped.
    #[default]
    Finish,
    /// The operation is dropped, as actix does by itself, and the key freed.
    Cancel,
}

/// The reaction to a store that can't answer before the run; setting `storage.on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The client gets 503 with `Retry-After`.
    #[default]
    Reject,
    /// The handler runs unprotected. Gives the guarantee *fail closed* up.
    Run,
}

/// Whether RFC 9110 and its extensions define the method as safe. CONNECT counts too: it has no operation to protect.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "CONNECT")
}

impl Methods {
    /// Whether the method needs a key, where the policy asks for one.
    pub(crate) fn need_key(&self, method: &Method) -> bool {
        match self {
            Self::Unsafe => !is_safe(method),
            Self::List(methods) => methods.contains(method),
        }
    }
}

impl Mode {
    /// The record id of a request in this mode.
    pub(crate) fn record_id(self, id: RecordId) -> RecordId {
        match self {
            Self::Enforce => id,
            Self::Observe => id.observed(),
        }
    }
}
