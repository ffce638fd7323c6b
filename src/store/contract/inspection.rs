//! The view that operators have of a record.

use std::time::{Duration, SystemTime};

use super::{OwnerToken, Step};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    record::Record,
};

/// Everything that an operator can see of a record. A field is `None` when the store does not keep it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Which record.
    pub id: RecordId,
    /// The state of the record.
    pub state: RecordState,
    /// How often the record was claimed. 0: the store can't tell.
    pub attempt: u32,
    /// In flight: the rest of the lease. Lapsed: the rest of the grace, which is counted from the end of the lease until a
    /// request has noted that end; zero: the owner is taken for lost. Else: how long until the record expires.
    pub remaining: Duration,
    /// The response of a completed record.
    pub record: Option<Record>,
    /// Which operation.
    pub fingerprint: Option<Fingerprint>,
    /// The owner of the current or last claim.
    pub owner: Option<OwnerToken>,
    /// Whether an owner was lost while it ran, and no response was stored since.
    pub lost_owner: Option<bool>,
    /// The status of a response that was not stored, where a client was promised an answer.
    pub not_stored: Option<u16>,
    /// The steps of the operation, without their results.
    pub steps: Vec<SeenStep>,
    /// Whose record it is.
    pub principal: Option<PrincipalTag>,
    /// How often the response was replayed.
    pub replays: Option<u64>,
    /// When the key was first claimed.
    pub first_seen: Option<SystemTime>,
    /// When the key was last claimed or replayed.
    pub last_seen: Option<SystemTime>,
}

impl Inspection {
    /// An inspection with everything that a store may leave out left out: attempt 0, no steps, the rest `None`.
    #[must_use]
    pub const fn new(id: RecordId, state: RecordState, remaining: Duration) -> Self {
        Self {
            id,
            state,
            attempt: 0,
            remaining,
            record: None,
            fingerprint: None,
            owner: None,
            lost_owner: None,
            not_stored: None,
            steps: Vec::new(),
            principal: None,
            replays: None,
            first_seen: None,
            last_seen: None,
        }
    }
}

/// A step, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenStep {
    /// The name.
    pub name: Box<str>,
    /// The size of the result in bytes. `None`: the step was started, and its result is not known.
    pub size: Option<usize>,
    /// When the process that ran the step saved it.
    pub at: Option<SystemTime>,
}

impl SeenStep {
    /// A step of which it is not known when it was saved.
    #[must_use]
    pub fn new(name: impl Into<Box<str>>, size: Option<usize>) -> Self {
        Self { name: name.into(), size, at: None }
    }
}

impl From<&Step> for SeenStep {
    fn from(step: &Step) -> Self {
        Self { name: step.name.clone(), size: step.result.as_ref().map(bytes::Bytes::len), at: step.at }
    }
}

/// The state of a record, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordState {
    /// An owner holds the claim.
    InFlight,
    /// The lease ended without a response. The owner may still come back.
    Lapsed,
    /// The run ended, and nobody knows what it did.
    Lost,
    /// Nobody holds the key, and the record remembers steps, a lost owner, or a response that was not stored.
    Free,
    /// A response is stored.
    Completed,
}

impl RecordState {
    /// All states.
    pub(crate) const ALL: [Self; 5] = [Self::InFlight, Self::Lapsed, Self::Lost, Self::Free, Self::Completed];

    /// The name of the state in JSON: `in-flight`, `lapsed`, `lost`, `free`, `completed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::Lapsed => "lapsed",
            Self::Lost => "lost",
            Self::Free => "free",
            Self::Completed => "completed",
        }
    }
}

/// The records that [`forget_principal`](crate::Idempotency::forget_principal) has erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// How many records were removed.
    pub removed: usize,
    /// The records of operations that run. They stay.
    pub in_flight: Vec<RecordId>,
}

/// The answer of [`Store::forget`](super::Store::forget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The record was removed.
    Removed,
    /// There was no record.
    Absent,
    /// An owner holds the record, or may still come back for it within the grace; it stays.
    InFlight,
}
