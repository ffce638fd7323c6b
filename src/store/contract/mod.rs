//! The contract between the middleware and a store: one trait, whose central call answers one question atomically: *may
//! this request run?*
//!
//! The life of a record that all stores share is in [`lifecycle`](super::lifecycle).

mod begin;
mod claim;
mod error;
mod future;
mod inspection;
mod location;
mod options;
mod step;

use std::time::Duration;

pub use self::{
    begin::{Acquired, Begin, BeginRequest, Found, IfCompleted, Wait},
    claim::{Claim, Completion, Moment, OwnerToken, ReleaseAs, Renewal, Restore},
    error::StoreError,
    future::StoreFuture,
    inspection::{Erased, Forgotten, Inspection, RecordState, SeenStep},
    location::{Location, LocationError},
    options::{Durability, OnFull, OnUnknown, StartupCheck},
    step::{Saved, Step},
};
use crate::{key::RecordId, record::Record};

/// Keeps records and decides which request may run.
///
/// The trait is object-safe: the middleware holds every store as an `Arc<dyn Store>`.
///
/// For a key-value store that can only get and put, implement [`Storage`](super::Storage) instead; a
/// [`ComposedStore`](super::ComposedStore) makes a `Store` of it with a [`Lock`](super::Lock). Implement this trait
/// when your store can change one record atomically: in a transaction, in a script, or under a mutex. The transitions
/// of a record are then those of [`lifecycle::Slot`](super::lifecycle::Slot), and your store only has to keep the slot.
///
/// # What every implementation promises
///
/// - Each call is one atomic step on the record of one id. Time is the store's own clock.
/// - The fingerprint is compared before anything else is answered, in every state of the record but vacant.
/// - Within its TTL a completed record is claimed again only by [`IfCompleted::Rerun`]. The TTL counts from completion,
///   and no read prolongs it.
/// - A claim lasts for its lease. The first request that finds the lease over notes it, and from then on the owner has
///   the grace to come back: until its end nobody takes over.
/// - A record whose owner was lost says so to every later claim, until a response is stored or the record expires.
/// - Every write is a compare-and-set on the owner token.
/// - `begin` and `complete` may be repeated with the same token, because a caller can't know whether a call that timed
///   out was applied.
/// - Calls don't block their thread: a worker that waits serves nobody. A call that panics is answered as
///   [`StoreError::Unavailable`].
///
/// [`lifecycle`](super::lifecycle) has the whole life of a record as a table. The suites in `testing` (feature
/// `testing`) check all of this.
pub trait Store: Send + Sync + 'static {
    /// Answers whether this request may run, and claims the record if it may.
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin>;

    /// Extends the lease to `lease` from now, unless this token does not hold the claim any more.
    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal>;

    /// Claims a record again that the store has lost while its owner runs.
    ///
    /// Succeeds only when nobody has claimed the record since, and only within [`Restore::within`] of the moment at
    /// which [`renew`](Self::renew) found it gone.
    ///
    /// The default can't restore: then the owner runs without a claim, and completes the record all the same.
    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        let _ = (claim, restore);
        StoreFuture::ready(Err(StoreError::Unsupported("restore a claim")))
    }

    /// Saves a step of the operation with the record. The default can't.
    ///
    /// The first result of a step stays. An empty result is none: the step may be started again.
    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        let _ = (claim, step);
        StoreFuture::ready(Err(StoreError::Unsupported("save steps")))
    }

    /// Stores the response for `ttl` from now.
    ///
    /// Succeeds also when nobody holds the claim any more and nobody took over, and when the store has lost the record.
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion>;

    /// Gives the claim up. A completed record beneath a manual claim is restored.
    ///
    /// `false` when this token does not hold the claim, which includes a `begin` that has not arrived yet. A store that
    /// can't tell answers `true`.
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool>;

    /// Waits until the record of `id` may have changed, or for `at_most`. May return early.
    ///
    /// The default sleeps: 20 ms, growing with `round` up to 250 ms, jittered. A caller that asks again after each
    /// return polls with backoff.
    fn wait_for_change<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        let backoff = Duration::from_millis(20).mul_f64(1.5_f64.powf(f64::from(round.min(8))));
        let jitter = 0.8 + f64::from(id.as_bytes()[round as usize % 32]) / 256.0 * 0.4;
        let pause = backoff.min(Duration::from_millis(250)).mul_f64(jitter).min(at_most);
        StoreFuture::boxed(async move {
            tokio::time::sleep(pause).await;
            Ok(())
        })
    }

    /// Tells operators what is known of a record. Changes nothing.
    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>>;

    /// Tells operators the steps of a record, with their results. Changes nothing. The default knows of none.
    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        let _ = id;
        StoreFuture::ready(Ok(Vec::new()))
    }

    /// Removes a record that nobody holds. A live claim stays, and so does a lapsed one within its grace; like `begin`,
    /// the first call that finds a lease over starts the grace.
    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten>;

    /// Lists records with ids greater than `after`, in ascending order of their ids.
    ///
    /// At most `limit` records. A page may hold fewer than `limit` before the last one; only an empty page means that
    /// there are no more.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>>;

    /// Whether an owner has to renew its lease to keep its claim.
    ///
    /// `false` for a store that knows by itself when an owner died. The middleware then claims for `limits.max_run` at
    /// once (or for `lock.ttl`), without a grace, and never calls [`renew`](Self::renew).
    fn needs_renewal(&self) -> bool {
        true
    }

    /// Whether the store can [save steps](Self::save_step). A handler whose store can't learns so before its step runs.
    fn saves_steps(&self) -> bool {
        false
    }

    /// Whether every call but [`wait_for_change`](Self::wait_for_change) returns a [`StoreFuture::ready`], because the store
    /// lives in this process's memory.
    ///
    /// The middleware then calls the store where it could not wait, for example in a destructor, and keeps no table of
    /// its own claims in front of the store.
    fn answers_at_once(&self) -> bool {
        false
    }

    /// Checks the store before the server starts: is it reachable, and does its configuration keep the promises above?
    fn check(&self) -> StoreFuture<'_, ()> {
        StoreFuture::ready(Ok(()))
    }
}
