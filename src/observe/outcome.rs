//! The outcome of a request.

/// The outcome of a request. With `mode = observe`: the outcome that enforcing would have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The request ran, and its response is stored.
    Stored,
    /// The request ran; its response is not one that is stored, and the key is free.
    NotStored,
    /// The request ran; the store could not take the response in time, and the write-behind goes on.
    WrittenBehind,
    /// The request ran too long, or without a lock, and another owner's response stands.
    Superseded,
    /// The request ran; its transaction was rolled back: it failed, was misused, or had a success that must not be
    /// recorded.
    RolledBack,
    /// The handler panicked.
    Panicked,
    /// The client left before the handler ran, or while it ran with `on_disconnect = cancel`; or the operation went on without
    /// its client and outran `limits.max_run`.
    Abandoned,
    /// The request ran unprotected: the store could not answer, and `storage.on_error = run`.
    Unprotected,
    /// The request ran unprotected: it had no key, and the policy allows that.
    Keyless,
    /// The request got the stored response.
    Replayed,
    /// Refused: `in-flight`.
    InFlight,
    /// Refused: `key-reused`.
    KeyReused,
    /// Refused: `missing-key`.
    MissingKey,
    /// Refused: `invalid-key`.
    InvalidKey,
    /// Refused: `body-too-large`.
    BodyTooLarge,
    /// Refused: `body-timeout`.
    BodyTimeout,
    /// Refused: its body could not be read to its end.
    UnreadableBody,
    /// Refused: `store-unavailable`.
    StoreUnavailable,
    /// Refused as `store-unavailable`: the process has reached `limits.max_in_flight` or `limits.max_buffered`, or the
    /// principal its share of the former.
    Overloaded,
    /// Refused: `too-many-keys`.
    TooManyKeys,
    /// Refused: `outcome-unknown`.
    OutcomeUnknown,
    /// Refused: `shutting-down`.
    ShuttingDown,
}

impl Outcome {
    /// The name of the outcome in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::NotStored => "not-stored",
            Self::WrittenBehind => "written-behind",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled-back",
            Self::Panicked => "panicked",
            Self::Abandoned => "abandoned",
            Self::Unprotected => "unprotected",
            Self::Keyless => "keyless",
            Self::Replayed => "replayed",
            Self::InFlight => "in-flight",
            Self::KeyReused => "key-reused",
            Self::MissingKey => "missing-key",
            Self::InvalidKey => "invalid-key",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTimeout => "body-timeout",
            Self::UnreadableBody => "unreadable-body",
            Self::StoreUnavailable => "store-unavailable",
            Self::Overloaded => "overloaded",
            Self::TooManyKeys => "too-many-keys",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::ShuttingDown => "shutting-down",
        }
    }
}
