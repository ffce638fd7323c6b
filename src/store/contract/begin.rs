//! The question that a request asks a store, and the answers to it.

use std::time::Duration;

use super::{Claim, OnUnknown, OwnerToken};
use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
};

/// The arguments of [`Store::begin`](super::Store::begin).
///
/// ```
/// use std::time::Duration;
/// use actix_idempotency::{key::{Fingerprint, RecordId}, store::{BeginRequest, OwnerToken}};
///
/// let (id, fingerprint) = (RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]));
/// let request = BeginRequest::new(id, fingerprint, OwnerToken::random()).lease(Duration::from_secs(10));
/// # let _ = request;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BeginRequest {
    /// Which record.
    pub id: RecordId,
    /// Which operation. Another fingerprint under the same id is a mismatch.
    pub fingerprint: Fingerprint,
    /// Who asks. Made before the first call, and the same when the call is repeated.
    pub token: OwnerToken,
    /// How long the claim lasts without renewal. Default: 30 s.
    pub lease: Duration,
    /// How long a claim whose owner was lost stays visible after its lease. Default: 24 h.
    pub keep: Duration,
    /// The reaction to a record that is completed already. Default: [`IfCompleted::Replay`].
    pub if_completed: IfCompleted,
    /// The reaction to a previous owner that was lost. Default: [`OnUnknown::Rerun`].
    pub on_unknown: OnUnknown,
}

impl BeginRequest {
    /// A request with the defaults named at the fields.
    #[must_use]
    pub const fn new(id: RecordId, fingerprint: Fingerprint, token: OwnerToken) -> Self {
        Self {
            id,
            fingerprint,
            token,
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(24 * 60 * 60),
            if_completed: IfCompleted::Replay,
            on_unknown: OnUnknown::Rerun,
        }
    }

    /// Sets [`lease`](Self::lease).
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets [`keep`](Self::keep).
    #[must_use]
    pub const fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Sets [`if_completed`](Self::if_completed).
    #[must_use]
    pub const fn if_completed(mut self, if_completed: IfCompleted) -> Self {
        self.if_completed = if_completed;
        self
    }

    /// Sets [`on_unknown`](Self::on_unknown).
    #[must_use]
    pub const fn on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.on_unknown = on_unknown;
        self
    }
}

/// Whether a completed record is replayed or run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfCompleted {
    /// The stored response is the answer.
    Replay,
    /// The record is claimed again; its response stays beneath the claim until the new one replaces it (policy manual).
    Rerun,
}

/// The answer of [`Store::begin`](super::Store::begin).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Begin {
    /// The request holds the claim and may run.
    Acquired(Acquired),
    /// Another request holds the claim.
    InFlight(Wait),
    /// The key was used for another operation. The record may be in any state.
    Mismatch,
    /// The operation has run; here is its response.
    Completed(Found),
    /// The previous owner was lost, and the request said [`OnUnknown::Reject`].
    OwnerLost,
}

/// The claim that a request was granted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Acquired {
    /// To be renewed, completed or released.
    pub claim: Claim,
    /// With [`IfCompleted::Rerun`]: the completed record beneath the claim.
    pub previous: Option<Record>,
}

impl Acquired {
    /// A claim on a record without a stored response.
    #[must_use]
    pub const fn new(claim: Claim) -> Self {
        Self { claim, previous: None }
    }

    /// Sets [`previous`](Self::previous).
    #[must_use]
    pub fn previous(mut self, previous: Option<Record>) -> Self {
        self.previous = previous;
        self
    }
}

/// The claim that another request holds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Wait {
    /// How long the lease of the other request still lasts, if it is not renewed.
    pub retry_after: Duration,
}

impl Wait {
    /// The other request's lease lasts so long.
    #[must_use]
    pub const fn new(retry_after: Duration) -> Self {
        Self { retry_after }
    }
}

/// A stored response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The response.
    pub record: Record,
    /// How long it is still kept.
    pub remaining: Duration,
}

impl Found {
    /// This response is kept for `remaining`.
    #[must_use]
    pub const fn new(record: Record, remaining: Duration) -> Self {
        Self { record, remaining }
    }
}
