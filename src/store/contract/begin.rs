//! The question that a request asks a store, and the answers to it.

use std::time::Duration;

use super::{Claim, OnUnknown, OwnerToken, Step};
use crate::{
    key::{Fingerprint, Principal, RecordId},
    record::Record,
};

/// The arguments of [`Store::begin`](super::Store::begin).
///
/// ```
/// use std::time::Duration;
/// use actix_idempotency::{key::{Fingerprint, RecordId}, store::{BeginRequest, OwnerToken}};
///
/// let (id, fingerprint) = (RecordId::from_bytes([1; 32]), Fingerprint::new([0; 2], [1; 8], [2; 32]));
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
    /// On whose behalf. Default: anonymous.
    pub principal: Principal,
    /// Who asks. Made before the first call, and the same when the call is repeated.
    pub token: OwnerToken,
    /// How long the claim lasts without renewal. Default: 30 s.
    pub lease: Duration,
    /// For how long the record answers as in flight after its lapsed lease was noticed, so that an owner that was only
    /// stalled can come back. Default: none.
    pub grace: Duration,
    /// How long a record without a response is kept, from its last change. Default: 24 h.
    pub keep: Duration,
    /// The reaction to a record that is completed already. Default: [`IfCompleted::Replay`].
    pub if_completed: IfCompleted,
    /// The reaction to a previous owner that was lost. Default: [`OnUnknown::Rerun`].
    pub on_unknown: OnUnknown,
    /// The facts that are needed to seal the response.
    #[cfg(feature = "encryption")]
    pub(crate) sealing: Option<std::sync::Arc<crate::sealing::Sealing>>,
}

impl BeginRequest {
    /// A request with the defaults named at the fields.
    #[must_use]
    pub const fn new(id: RecordId, fingerprint: Fingerprint, token: OwnerToken) -> Self {
        Self {
            id,
            fingerprint,
            principal: Principal::anonymous(),
            token,
            lease: Duration::from_secs(30),
            grace: Duration::ZERO,
            keep: Duration::from_secs(24 * 60 * 60),
            if_completed: IfCompleted::Replay,
            on_unknown: OnUnknown::Rerun,
            #[cfg(feature = "encryption")]
            sealing: None,
        }
    }

    /// Sets [`principal`](Self::principal).
    #[must_use]
    pub fn principal(mut self, principal: Principal) -> Self {
        self.principal = principal;
        self
    }

    /// Sets [`grace`](Self::grace).
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
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
    /// The steps that earlier attempts have saved.
    pub steps: Vec<Step>,
    /// Whether the record has a fingerprint of another scheme, which counts as equal.
    pub other_scheme: bool,
}

impl Acquired {
    /// A claim on a record without a stored response.
    #[must_use]
    pub const fn new(claim: Claim) -> Self {
        Self { claim, previous: None, steps: Vec::new(), other_scheme: false }
    }

    /// Sets [`steps`](Self::steps).
    #[must_use]
    pub fn steps(mut self, steps: Vec<Step>) -> Self {
        self.steps = steps;
        self
    }

    /// Sets [`other_scheme`](Self::other_scheme).
    #[must_use]
    pub const fn other_scheme(mut self, other_scheme: bool) -> Self {
        self.other_scheme = other_scheme;
        self
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
    /// How long the lease, or the grace after it, still lasts. After that it makes sense to ask again.
    pub left: Duration,
    /// Whether the lease is over, and its owner may still come back within the grace.
    pub lapsed: bool,
}

impl Wait {
    /// The other request's lease lasts so long, if it is not renewed.
    #[must_use]
    pub const fn lease(left: Duration) -> Self {
        Self { left, lapsed: false }
    }

    /// The lease of the other request is over, and the grace lasts so long.
    #[must_use]
    pub const fn grace(left: Duration) -> Self {
        Self { left, lapsed: true }
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
    /// Whether the record has a fingerprint of another scheme, which counts as equal.
    pub other_scheme: bool,
}

impl Found {
    /// This response is kept for `remaining`.
    #[must_use]
    pub const fn new(record: Record, remaining: Duration) -> Self {
        Self { record, remaining, other_scheme: false }
    }

    /// Sets [`other_scheme`](Self::other_scheme).
    #[must_use]
    pub const fn other_scheme(mut self, other_scheme: bool) -> Self {
        self.other_scheme = other_scheme;
        self
    }
}
