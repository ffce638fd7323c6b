//! The view that operators have of a record.

use std::time::{Duration, SystemTime};

use super::OwnerToken;
use crate::{key::RecordId, record::Record};

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
    /// How long until the lease ends or the record expires.
    pub remaining: Duration,
    /// The response of a completed record.
    pub record: Option<Record>,
    /// The owner of the current or last claim.
    pub owner: Option<OwnerToken>,
    /// How often the response was replayed.
    pub replays: Option<u64>,
    /// When the key was first claimed.
    pub first_seen: Option<SystemTime>,
    /// When the key was last claimed or replayed.
    pub last_seen: Option<SystemTime>,
}

impl Inspection {
    /// An inspection with everything that a store may leave out left out: attempt 0, the rest `None`.
    #[must_use]
    pub const fn new(id: RecordId, state: RecordState, remaining: Duration) -> Self {
        Self {
            id,
            state,
            attempt: 0,
            remaining,
            record: None,
            owner: None,
            replays: None,
            first_seen: None,
            last_seen: None,
        }
    }
}

/// The state of a record, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// An owner holds the claim.
    InFlight,
    /// The lease ended without a response.
    OwnerLost,
    /// A response is stored.
    Completed,
}

impl RecordState {
    /// All states.
    pub(crate) const ALL: [Self; 3] = [Self::InFlight, Self::OwnerLost, Self::Completed];

    /// The name of the state in JSON: `in-flight`, `owner-lost`, `completed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::OwnerLost => "owner-lost",
            Self::Completed => "completed",
        }
    }
}

/// The answer of [`Store::forget`](super::Store::forget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The record was removed.
    Removed,
    /// There was no record.
    Absent,
    /// A live owner holds the record; it stays.
    InFlight,
}
