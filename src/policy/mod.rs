//! Policies: whether a route requires a key, and what the key does there.

mod pattern;
mod rules;

pub use self::pattern::PatternError;
pub(crate) use self::rules::{MatchedPath, Rules};

/// The meaning of a key for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Without a key: `400 missing-key`.
    Required,
    /// Without a key the request runs unprotected.
    Optional,
    /// A key is ignored.
    Exempt,
    /// The handler always runs, one at a time per key, and decides itself by
    /// [`IdempotencyInfo`](crate::IdempotencyInfo). Without a key: `400 missing-key`.
    Manual,
    /// [`Manual`](Self::Manual) with a key; without one the request runs unprotected.
    OptionalManual,
}

impl Policy {
    /// The name of the policy in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
            Self::Exempt => "exempt",
            Self::Manual => "manual",
            Self::OptionalManual => "optional-manual",
        }
    }

    /// Whether a request may come without a key.
    pub(crate) const fn allows_keyless(self) -> bool {
        matches!(self, Self::Optional | Self::OptionalManual)
    }

    /// Whether the handler runs although a response is stored.
    pub(crate) const fn is_manual(self) -> bool {
        matches!(self, Self::Manual | Self::OptionalManual)
    }
}
