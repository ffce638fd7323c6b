//! The contract between the middleware and what keeps records: one trait that answers one question atomically, *may
//! this request run?*

mod future;

pub use self::future::StoreFuture;
use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    settings::OnUnknown,
};

/// Keeps records and decides who may run. Object-safe: everything that the middleware holds is an `Arc<dyn Store>`.
///
/// For a key-value store of your own, implement [`Storage`](crate::store::Storage) instead; a [`ComposedStore`](crate::store::ComposedStore) makes a `Store`
/// of it with a [`Lock`](crate::store::Lock). Implement this trait when your store can decide atomically by itself.
///
/// # What every implementation promises
///
/// - Each call is one atomic step on the record of one id. Time is the store's own clock.
/// - The fingerprint is compared before anything else is answered, in every state.
/// - A completed record is never claimed again within its TTL, save by [`Mode::Again`]. The TTL counts from completion;
///   no reading prolongs it.
/// - A claim lasts for its lease; after that it stays visible as *owner lost* until somebody takes over.
/// - Every write is a compare-and-set on the owner's token.
/// - `begin` and `complete` may be repeated with the same token, for the caller can't know whether a call that timed out
///   was applied.
pub trait Store: Send + Sync + 'static {
    /// May this request run?
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin>;

    /// Extends the lease by `lease` from now, unless somebody else took over.
    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal>;

    /// Stores the response: also when the lease lapsed but nobody took over, and when the record got lost.
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion>;

    /// Gives the claim up; a completed record beneath it is restored. `false`: it was not this owner's (any more), or not
    /// yet. A store that can't tell answers `true`.
    fn release<'a>(&'a self, claim: &'a Claim, fate: Fate) -> StoreFuture<'a, bool>;

    /// Waits until the record of `id` may have changed, `at_most` that long. May wake early.
    ///
    /// The default waits a while (20 ms, growing with `round`, jittered), so that callers poll with backoff.
    fn changed<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        let backoff = Duration::from_millis(20).mul_f64(1.5_f64.powf(f64::from(round.min(8))));
        let jitter = 0.8 + f64::from(id.as_bytes()[round as usize % 32]) / 256.0 * 0.4;
        let pause = backoff.min(Duration::from_millis(250)).mul_f64(jitter).min(at_most);
        StoreFuture::boxed(async move {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    /// What is known of a record, for operators.
    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>>;

    /// Removes a completed record or one whose owner was lost. A live claim stays.
    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten>;

    /// A page of records behind `after`, in the ascending order of their ids: at most `limit`, and fewer than there are only
    /// if they are none. An empty page is the end.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>>;

    /// Whether a claim needs renewing to stay alive. `false`: claims die with the process that holds them.
    fn leases(&self) -> bool {
        true
    }

    /// Looks at the store before a server starts.
    fn check(&self) -> StoreFuture<'_, ()> {
        StoreFuture::ready(Ok(()))
    }
}

/// What [`Store::begin`] is asked.
#[derive(Clone, Debug)]
pub struct BeginRequest {
    /// Which record.
    pub id: RecordId,
    /// Which operation.
    pub fingerprint: Fingerprint,
    /// Who asks. Random, made before the first call, the same when the call is repeated.
    pub token: OwnerToken,
    /// How long the claim lasts without renewal.
    pub lease: Duration,
    /// How long a claim whose owner was lost stays visible.
    pub keep: Duration,
    /// Whether a completed record answers, or is claimed once more.
    pub mode: Mode,
    /// What to do when the owner was lost.
    pub on_unknown: OnUnknown,
}

/// Whether a completed record ends the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A completed record is the answer.
    Once,
    /// A completed record is claimed and kept beneath the claim (policy manual).
    Again,
}

/// The answer of [`Store::begin`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Begin {
    /// Run: the claim is yours.
    Fresh {
        /// To renew, complete or release.
        claim: Claim,
        /// With [`Mode::Again`]: the completed record beneath the claim.
        previous: Option<Record>,
    },
    /// Somebody runs.
    InFlight {
        /// When their lease ends, if it is not renewed.
        retry_after: Duration,
    },
    /// The key was used for another operation, in whatever state that is.
    Mismatch,
    /// It ran.
    Completed {
        /// The answer.
        record: Record,
        /// How long it will be there.
        remaining: Duration,
    },
    /// The owner was lost, and the request said [`OnUnknown::Reject`].
    OwnerLost,
}

/// The right to run one operation. Made by stores.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which record.
    pub id: RecordId,
    /// Which operation.
    pub fingerprint: Fingerprint,
    /// Whose it is.
    pub token: OwnerToken,
    /// How often this record was claimed, from 1.
    pub attempt: u32,
    /// Grows with every claim of the same key: lets another system refuse a late writer.
    pub fence: u64,
    /// Whether the owner before was lost while it ran.
    pub taken_over: bool,
}

/// 128 bits that tell owners apart, also those of other processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerToken([u8; 16]);

impl OwnerToken {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        use std::{
            cell::Cell,
            hash::{BuildHasher, RandomState},
        };
        // A thread starts anywhere and counts from there. That need not be hard to guess: whoever can show a store a token
        // can do with its records what they like.
        thread_local! {
            static NEXT: Cell<u128> = {
                let random = RandomState::new();
                Cell::new(u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1)))
            };
        }
        NEXT.with(|next| Self(next.replace(next.get().wrapping_add(1)).to_le_bytes()))
    }

    /// Its 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From its 16 bytes.
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

/// The answer of [`Store::renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was extended.
    Extended,
    /// Somebody else owns the record, or completed it.
    Lost,
    /// The record is gone. Its owner can still complete it.
    Gone,
}

/// The answer of [`Store::complete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The response is stored (perhaps by an earlier call with the same token).
    Stored,
    /// Somebody else took over; their record, when they have completed.
    Superseded(Option<Record>),
}

/// What becomes of a record whose claim is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The next request may run.
    Free,
    /// Nobody knows what the run did: the record stays as *owner lost*.
    Unknown,
}

/// The answer of [`Store::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The record is gone.
    Removed,
    /// There was none.
    Absent,
    /// A live owner holds it; it stays.
    InFlight,
}

/// What an operator can see of a record.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Which record.
    pub id: RecordId,
    /// What state it is in.
    pub state: RecordState,
    /// How often it was claimed. 0: the store can't tell.
    pub attempt: u32,
    /// Until the lease ends or the record expires.
    pub remaining: Duration,
    /// The response, once there is one.
    pub record: Option<Record>,
    /// Whose claim it is or was.
    pub owner: Option<OwnerToken>,
    /// How often the response was given again. `None`: the store does not count.
    pub replays: Option<u64>,
    /// When the key was first claimed. `None`: the store does not keep it.
    pub first_seen: Option<SystemTime>,
    /// When it was last claimed or replayed. `None`: the store does not keep it.
    pub last_seen: Option<SystemTime>,
}

/// The state of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// Somebody runs.
    InFlight,
    /// The lease ended without an answer.
    OwnerLost,
    /// There is a response.
    Completed,
}

/// Why a store could not answer. Clients see `store-unavailable`; the cause goes to the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It can't be reached, or refuses to work right now.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not answer within `storage.timeout`; the call may have been applied.
    #[error("the store did not answer within {0:?}")]
    TimedOut(Duration),
    /// It is full, and nothing may be evicted.
    #[error("the store is full")]
    Full,
    /// It is not made for that.
    #[error("this store can't {0}")]
    Unsupported(&'static str),
    /// It holds something that this crate can't read.
    #[error("the store holds an unreadable record")]
    Unreadable(#[from] crate::record::UnreadableRecord),
}

impl StoreError {
    /// What a store holds is not ours, or not of a version that this crate reads.
    #[cfg(feature = "redis")]
    pub(crate) fn foreign(what: &'static str) -> Self {
        Self::Unreadable(crate::record::UnreadableRecord::Damaged(what.into()))
    }

    /// Wraps the error of a client library.
    pub fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

impl BeginRequest {
    /// A request with everything that tests and own tools rarely care about at its default: a lease of 30 s, kept for a
    /// day, [`Mode::Once`], [`OnUnknown::Rerun`].
    #[must_use]
    pub fn new(id: RecordId, fingerprint: Fingerprint, token: OwnerToken) -> Self {
        Self {
            id,
            fingerprint,
            token,
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(24 * 60 * 60),
            mode: Mode::Once,
            on_unknown: OnUnknown::Rerun,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_owners_have_the_same_token() {
        let some = || (0..1000).map(|_| OwnerToken::random()).collect::<Vec<_>>();
        let others = [std::thread::spawn(some), std::thread::spawn(some)].map(|thread| thread.join().unwrap());
        let all: HashSet<OwnerToken> = others.into_iter().flatten().chain(some()).collect();
        assert_eq!(all.len(), 3000);
    }
}
