//! A claim: the right to run one operation, and what can become of it.

use std::{fmt, time::Duration};

use super::{BeginRequest, Step};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    record::Record,
};

/// The right to run one operation. Stores make it; its owner hands it back with every later call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Which record.
    pub id: RecordId,
    /// Which operation.
    pub fingerprint: Fingerprint,
    /// The owner.
    pub token: OwnerToken,
    /// How often this record was claimed, from 1.
    pub attempt: u32,
    /// The fencing token: grows with every claim of the same key, so that another system can refuse a late writer.
    pub fence: u64,
    /// Whether an earlier owner was lost while it ran, and no response was stored since.
    pub taken_over: bool,
    /// How often the record was completed before: more than 0 for a manual claim over a completed record.
    pub completions: u32,
    /// For how long the record answers as in flight after a lapsed lease was noticed.
    pub grace: Duration,
    /// How long a record without a response is kept.
    pub keep: Duration,
    /// Whose record it is.
    pub principal: PrincipalTag,
    /// The facts that are needed to seal the response.
    #[cfg(feature = "encryption")]
    pub(crate) sealing: Option<std::sync::Arc<crate::sealing::Sealing>>,
}

impl Claim {
    /// The claim that a store grants to `request`. It takes nothing over.
    #[must_use]
    pub fn new(request: &BeginRequest, attempt: u32, fence: u64) -> Self {
        Self {
            id: request.id,
            fingerprint: request.fingerprint,
            token: request.token,
            attempt,
            fence,
            taken_over: false,
            completions: 0,
            grace: request.grace,
            keep: request.keep,
            principal: request.principal.tag(&request.id),
            #[cfg(feature = "encryption")]
            sealing: request.sealing.clone(),
        }
    }

    /// Sets [`taken_over`](Self::taken_over).
    #[must_use]
    pub const fn taken_over(mut self, taken_over: bool) -> Self {
        self.taken_over = taken_over;
        self
    }

    /// Sets [`completions`](Self::completions).
    #[must_use]
    pub const fn completions(mut self, completions: u32) -> Self {
        self.completions = completions;
        self
    }
}

/// The owner token: 128 bits that tell owners apart, over all processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken([u8; 16]);

impl OwnerToken {
    /// A new token, with randomness of the operating system: two processes that were restored from one snapshot must
    /// not make the same tokens.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            tracing::warn!(%error, "the operating system gives no randomness; owner tokens are counted");
            return Self::within_this_process();
        }
        Self(bytes)
    }

    /// A new token that no other one of this process equals. For claims in a store that lives in this process: counting
    /// on from a random start takes a few nanoseconds, and asking the operating system takes some hundred.
    #[must_use]
    pub(crate) fn within_this_process() -> Self {
        use std::{
            cell::Cell,
            hash::{BuildHasher, RandomState},
        };
        thread_local! {
            static NEXT: Cell<u128> = {
                let random = RandomState::new();
                Cell::new(u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1)))
            };
        }
        NEXT.with(|next| Self(next.replace(next.get().wrapping_add(1)).to_le_bytes()))
    }

    /// The 16 bytes of the token.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A token from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerToken({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The answer of [`Store::renew`](super::Store::renew) and [`Store::restore`](super::Store::restore).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was extended, or the claim restored.
    Extended,
    /// Another owner holds the record, or has completed it, or nobody holds it any more.
    Lost,
    /// The store has no such record any more. The owner can restore its claim, and can still complete it.
    Gone(Moment),
}

/// A moment by the store's own clock. Only the store that gave it can compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment that the store's clock shows, in any unit of the store.
    #[must_use]
    pub const fn new(at: u64) -> Self {
        Self(at)
    }

    /// The number that the store gave.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The arguments of [`Store::restore`](super::Store::restore), besides the claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Restore {
    /// How long the restored claim lasts without renewal.
    pub lease: Duration,
    /// The moment of the answer [`Renewal::Gone`].
    pub gone: Moment,
    /// How long after that moment the claim may be restored. A restoration that arrives later is refused: its owner may
    /// have freed the key since.
    pub within: Duration,
    /// The steps of the operation so far.
    pub steps: Vec<Step>,
}

impl Restore {
    /// A restoration without steps.
    #[must_use]
    pub const fn new(lease: Duration, gone: Moment, within: Duration) -> Self {
        Self { lease, gone, within, steps: Vec::new() }
    }

    /// Sets [`steps`](Self::steps).
    #[must_use]
    pub fn steps(mut self, steps: Vec<Step>) -> Self {
        self.steps = steps;
        self
    }
}

/// The answer of [`Store::complete`](super::Store::complete).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The response is stored, perhaps by an earlier call with the same token.
    Stored,
    /// Another owner took over. Its response, if it has completed the record and the operation is the same.
    Superseded(Option<Record>),
}

/// The state of a record after its claim is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseAs {
    /// Free: the next request may run. Steps, and the memory of a lost owner, stay for `keep`.
    Free,
    /// Unknown: nobody knows what the run did, and the record stays as *owner lost*.
    Unknown,
    /// Free, and the record remembers for an hour that the run ended with this status, which was not stored. For a
    /// client that was promised an answer with a 202.
    NotStored {
        /// The status of the response.
        status: u16,
    },
    /// Vacant: the response is kept elsewhere, in a ledger. Nothing stays.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_owners_have_the_same_token() {
        for new in [OwnerToken::random, OwnerToken::within_this_process] {
            let some = move || (0..1000).map(|_| new()).collect::<Vec<_>>();
            let others = [std::thread::spawn(some), std::thread::spawn(some)].map(|thread| thread.join().unwrap());
            let all: HashSet<OwnerToken> = others.into_iter().flatten().chain(some()).collect();
            assert_eq!(all.len(), 3000);
        }
    }
}
