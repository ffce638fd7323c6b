//! The life of a record: one pure state machine, which every store with an atomic slot per record shares.
//!
//! A [`Slot`] is everything that a store keeps under one record id. Its methods are the calls of
//! [`Store`](super::Store), as functions of the slot, the request and the time: no I/O, no clock. A store is persistence
//! around it: read the slot, call the method, write the slot back, all in one atomic step. The memory store does that
//! under a mutex. The Lua scripts of the Redis store are a second implementation, and the tests compare the two.
//!
//! # States
//!
//! | state | meaning |
//! |---|---|
//! | vacant | nothing is known of the key |
//! | claimed | an owner runs, or its lease is over and nobody has noticed |
//! | lapsed | the lease is over, which a request has noted; until the end of the grace the owner may come back |
//! | lost | the owner has said that nobody knows what its run did |
//! | free | nobody holds the key, and the record remembers steps, a lost owner, or a response that was not stored |
//! | completed | a response is stored; it may lie beneath a manual claim |
//!
//! # Transitions
//!
//! | from | by | to |
//! |---|---|---|
//! | vacant | `begin` | claimed |
//! | claimed, lease over | first `begin` or `forget` that finds it | lapsed until now + grace; the answer is "in flight" (without a grace: as lapsed, grace over) |
//! | claimed, lapsed | `renew`, `complete` of the owner | claimed, completed |
//! | lapsed, grace over | `begin` | claimed by the taker (`attempt` + 1, `taken_over`), or refused by `on_unknown` |
//! | claimed, lapsed | `release(Unknown)` | lost |
//! | lost | `begin` | as lapsed, grace over |
//! | claimed, lapsed | `release(Free)` | free, if an owner was lost or there are steps; else vacant |
//! | claimed, lapsed | `release(NotStored)` | free |
//! | claimed, lapsed | `release(Ended)` | vacant |
//! | free | `begin` | claimed (`attempt` + 1, with the steps; `taken_over` if an owner was lost), or refused by `on_unknown` if an owner was lost |
//! | vacant, lost, free | `complete` of any owner with an equal fingerprint | completed |
//! | completed | `begin` that says [`IfCompleted::Rerun`] | claimed, with the record beneath |
//! | claimed over a record | `release(Free)`, or a `begin` that is not manual when the owner is lost | completed, as before; attempt, lost owner and steps stay with it |
//! | vacant | `restore` of an owner whose record the store lost | claimed |
//! | lapsed with its grace over, lost, free, completed | `forget` | vacant |
//! | any | time: `keep` after the last change, or the TTL | vacant |
//!
//! Rules that hold in every state: another fingerprint is a mismatch; a call with the owner's token may be repeated; a
//! call with any other token changes nothing that somebody holds.

mod state;
mod wire;

use std::{convert::Infallible, mem, time::Duration};

#[cfg(feature = "redis")]
pub(in crate::store) use self::state::NOT_STORED_KEPT;
pub(in crate::store) use self::state::{Completed, Unfinished};
use self::state::{Phase, Usage};
use super::{
    Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, Inspection, Moment, OnUnknown,
    ReleaseAs, Renewal, Restore, Saved, Step, Wait,
    clock::{Micros, left, micros},
};
use crate::{
    key::{Match, RecordId},
    record::{Record, UnreadableRecord},
};

/// Everything that a store keeps under one record id. The default is a vacant slot.
///
/// `now` is the store's time in microseconds since the Unix epoch. It must not go back.
///
/// ```
/// use std::time::Duration;
/// use actix_idempotency::{
///     key::{Fingerprint, RecordId},
///     store::{Begin, BeginRequest, OwnerToken, lifecycle::{FenceCounter, Slot}},
/// };
///
/// let request = |token| {
///     BeginRequest::new(RecordId::from_bytes([1; 32]), Fingerprint::new([0; 2], [1; 8], [2; 32]), token)
///         .lease(Duration::from_secs(10))
/// };
/// let (mut slot, mut fences) = (Slot::default(), FenceCounter::default());
/// let (first, second) = (OwnerToken::random(), OwnerToken::random());
///
/// assert!(matches!(slot.begin(&request(first), 0, &mut fences), Begin::Acquired(_)));
/// assert!(matches!(slot.begin(&request(second), 9_999_999, &mut fences), Begin::InFlight(_)));
/// // The lease of 10 s is over, and there is no grace: the second owner takes over.
/// assert!(matches!(slot.begin(&request(second), 10_000_000, &mut fences), Begin::Acquired(_)));
///
/// // A store that keeps bytes keeps these.
/// let bytes = slot.to_bytes();
/// assert!(Slot::from_bytes(&bytes).is_ok());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Slot(State);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Vacant,
    Unfinished(Unfinished),
    Completed(Completed),
}

/// The greatest fencing token that a store has given out. One for all slots of a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct FenceCounter(u64);

impl FenceCounter {
    /// Goes on after this fencing token.
    #[must_use]
    pub const fn starting_after(last: u64) -> Self {
        Self(last)
    }

    /// The greatest fencing token so far. A store that outlives its process keeps it with the slots.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.0
    }

    /// The time of the claim, so that fencing tokens grow over restarts of the store; never the same token twice.
    fn next(&mut self, now: Micros) -> u64 {
        self.0 = now.max(self.0.saturating_add(1));
        self.0
    }
}

impl Slot {
    /// As [`Store::begin`](super::Store::begin).
    pub fn begin(&mut self, request: &BeginRequest, now: u64, fences: &mut FenceCounter) -> Begin {
        let Ok(answer) = begin(&mut self.0, request, now, fences);
        answer
    }

    /// As [`Store::renew`](super::Store::renew). A [`Moment`] is `now`.
    pub fn renew(&mut self, claim: &Claim, lease: Duration, now: u64) -> Renewal {
        renew(&mut self.0, claim, lease, now)
    }

    /// As [`Store::restore`](super::Store::restore). The [`Moment`] is `now` of [`renew`](Self::renew).
    pub fn restore(&mut self, claim: &Claim, restored: &Restore, now: u64) -> Renewal {
        let Ok(answer) = restore(&mut self.0, claim, restored, now);
        answer
    }

    /// As [`Store::save_step`](super::Store::save_step).
    pub fn save_step(&mut self, claim: &Claim, step: &Step, now: u64) -> Saved {
        save_step(&mut self.0, claim, step, now)
    }

    /// As [`Store::complete`](super::Store::complete).
    pub fn complete(&mut self, claim: &Claim, record: &Record, ttl: Duration, now: u64) -> Completion {
        complete(&mut self.0, claim, record, ttl, now)
    }

    /// As [`Store::release`](super::Store::release).
    pub fn release(&mut self, claim: &Claim, release_as: ReleaseAs, now: u64) -> bool {
        release(&mut self.0, claim, release_as, now)
    }

    /// As [`Store::forget`](super::Store::forget).
    pub fn forget(&mut self, now: u64) -> Forgotten {
        forget(&mut self.0, now)
    }

    /// Empties the slot when everything in it has expired. Whether the slot is vacant: a store need not keep it then.
    pub fn expire(&mut self, now: u64) -> bool {
        if matches!(self.0.at(now), SlotRef::Vacant) {
            self.0 = State::Vacant;
        }
        matches!(self.0, State::Vacant)
    }

    /// The process of the owner has died: the record is that of a lost owner, as after `release(Unknown)`. For stores that
    /// see a process die. Whether somebody held the record.
    pub fn lose_owner(&mut self, now: u64) -> bool {
        match &mut self.0 {
            State::Unfinished(unfinished) if !unfinished.is_trace() => {
                unfinished.rest(Phase::Lost, now);
                true
            }
            _ => false,
        }
    }

    /// Counts a replay that was answered from a copy of the slot.
    pub fn count_replay(&mut self, now: u64) {
        if let SlotRef::Completed(completed) = self.0.at(now) {
            completed.usage.replayed(now);
        }
    }

    /// Whether an owner holds the record, or may come back for it.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(&self.0, State::Unfinished(unfinished) if !unfinished.is_trace())
    }

    /// When the record was completed. `None`: it is not, or a manual claim lies over it.
    #[must_use]
    pub const fn completed_since(&self) -> Option<u64> {
        match &self.0 {
            State::Completed(completed) => Some(completed.since),
            _ => None,
        }
    }

    /// When everything in the slot has expired. `None`: the slot is vacant.
    #[must_use]
    pub const fn expires(&self) -> Option<u64> {
        match &self.0 {
            State::Vacant => None,
            State::Unfinished(unfinished) => Some(unfinished.expires),
            State::Completed(completed) => Some(completed.expires),
        }
    }

    /// As [`Store::inspect`](super::Store::inspect), for the record `id`.
    #[must_use]
    pub fn inspect(&self, id: RecordId, now: u64) -> Option<Inspection> {
        match &self.0 {
            State::Vacant => None,
            State::Unfinished(unfinished) => unfinished.inspect(id, now),
            State::Completed(completed) => completed.inspect(id, now),
        }
    }

    /// As [`Store::steps`](super::Store::steps).
    #[must_use]
    pub fn steps(&self, now: u64) -> Vec<Step> {
        let steps = match &self.0 {
            State::Unfinished(unfinished) if unfinished.expires > now => unfinished.steps(),
            State::Completed(completed) if completed.expires > now => completed.steps(),
            _ => &[],
        };
        steps.to_vec()
    }

    /// The bytes of the slot, for a store that outlives its process.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(&self.0)
    }

    /// The slot whose bytes a store has kept.
    ///
    /// # Errors
    /// [`UnreadableRecord`] when the bytes are damaged, or another version wrote them. Treat this as an error of the store,
    /// never as a vacant slot: a vacant slot runs the operation a second time.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableRecord> {
        wire::decode(bytes).map(Self)
    }
}

/// Where a store keeps one record, so that the transitions can change it there. The memory store has records of different
/// states in different tables.
pub(super) trait Place {
    /// Why a claim may be refused: the store is full.
    type Full;

    /// The record, expired or not.
    fn slot(&mut self) -> SlotRef<'_>;

    /// Puts a claim in the place of whatever there is.
    fn claim(&mut self, claimed: Unfinished) -> Result<(), Self::Full>;

    /// Puts a claim in the place of the completed record, which goes [beneath](Unfinished::over) the claim.
    fn claim_over(&mut self, claimed: Unfinished);

    /// An unfinished record was claimed, or has become a [trace](Unfinished::is_trace).
    fn moved(&mut self);

    /// Removes the claim, and [restores](Unfinished::uncover) the completed record beneath it.
    fn uncover(&mut self);

    /// [Drops](Unfinished::take_previous) the completed record beneath the claim.
    fn drop_previous(&mut self);

    /// Saves a step of the unfinished record, unless the store is full.
    fn save(&mut self, step: &Step) -> Result<(), Self::Full>;

    /// Puts a completed record in the place of whatever there is.
    fn complete(&mut self, completed: Completed);

    /// Removes whatever there is.
    fn vacate(&mut self);

    /// The record as it is at `now`: what has expired counts as vacant.
    #[inline]
    fn at(&mut self, now: Micros) -> SlotRef<'_> {
        match self.slot() {
            SlotRef::Unfinished(unfinished) if unfinished.has_expired(now) => SlotRef::Vacant,
            SlotRef::Completed(completed) if now >= completed.expires => SlotRef::Vacant,
            slot => slot,
        }
    }
}

/// A record in its place.
pub(super) enum SlotRef<'a> {
    Vacant,
    Unfinished(&'a mut Unfinished),
    Completed(&'a mut Completed),
}

impl Place for State {
    type Full = Infallible;

    fn slot(&mut self) -> SlotRef<'_> {
        match self {
            Self::Vacant => SlotRef::Vacant,
            Self::Unfinished(unfinished) => SlotRef::Unfinished(unfinished),
            Self::Completed(completed) => SlotRef::Completed(completed),
        }
    }

    fn claim(&mut self, claimed: Unfinished) -> Result<(), Infallible> {
        *self = Self::Unfinished(claimed);
        Ok(())
    }

    fn claim_over(&mut self, claimed: Unfinished) {
        if let Self::Completed(completed) = mem::take(self) {
            *self = Self::Unfinished(claimed.over(completed));
        }
    }

    fn moved(&mut self) {}

    fn uncover(&mut self) {
        if let Self::Unfinished(claimed) = mem::take(self) {
            *self = claimed.uncover().map_or(Self::Vacant, Self::Completed);
        }
    }

    fn drop_previous(&mut self) {
        if let Self::Unfinished(claimed) = self {
            claimed.take_previous();
        }
    }

    fn save(&mut self, step: &Step) -> Result<(), Infallible> {
        if let Self::Unfinished(record) = self {
            record.save(step.clone());
        }
        Ok(())
    }

    fn complete(&mut self, completed: Completed) {
        *self = Self::Completed(completed);
    }

    fn vacate(&mut self) {
        *self = Self::Vacant;
    }
}

/// May this request run?
#[inline]
pub(super) fn begin<P: Place>(
    place: &mut P,
    request: &BeginRequest,
    now: Micros,
    fences: &mut FenceCounter,
) -> Result<Begin, P::Full> {
    match place.at(now) {
        SlotRef::Vacant => {
            let claimed = Unfinished::new(request, now, fences.next(now));
            let acquired = claimed.acquired(request.id, Match::Same);
            place.claim(claimed)?;
            Ok(Begin::Acquired(acquired))
        }
        SlotRef::Completed(completed) => {
            let matched = completed.fingerprint.compare(&request.fingerprint);
            if !matched.is_same() {
                return Ok(Begin::Mismatch);
            }
            let other_scheme = matched == Match::OtherScheme;
            if request.if_completed == IfCompleted::Replay {
                completed.usage.replayed(now);
                let remaining = Duration::from_micros(completed.expires - now);
                let found = Found::new(completed.record.clone(), remaining).other_scheme(other_scheme);
                return Ok(Begin::Completed(found));
            }
            if completed.lost_owner && request.on_unknown == OnUnknown::Reject {
                return Ok(Begin::OwnerLost);
            }
            let claimed = completed.claimed_again(request, now, fences.next(now));
            let acquired: Acquired = claimed.acquired(request.id, matched).previous(Some(completed.record.clone()));
            place.claim_over(claimed);
            Ok(Begin::Acquired(acquired))
        }
        SlotRef::Unfinished(_) => Ok(begin_unfinished(place, request, now, fences)),
    }
}

fn begin_unfinished(place: &mut impl Place, request: &BeginRequest, now: Micros, fences: &mut FenceCounter) -> Begin {
    let SlotRef::Unfinished(record) = place.slot() else { unreachable!("the caller has seen an unfinished record") };
    let matched = record.fingerprint.compare(&request.fingerprint);
    if !matched.is_same() {
        return Begin::Mismatch;
    }
    if record.is_held_by(request.token) {
        // The answer to an earlier call was lost.
        record.extend(request, now);
        return Begin::Acquired(record.acquired(request.id, matched));
    }
    if let Some(wait) = wait_for_owner(record, now) {
        return Begin::InFlight(wait);
    }
    // From here on nobody holds the record.
    let is_lost = !matches!(record.phase, Phase::Free { .. });
    let previous_remains = record.previous.as_ref().map(|previous| left(now, previous.expires));
    match (previous_remains, request.if_completed) {
        // A manual owner was lost over a completed record: everybody else gets that record, while it lasts.
        (Some(Some(remaining)), IfCompleted::Replay) => {
            record.lost_owner = true;
            record.usage.replayed(now);
            let record = record.previous.as_ref().map(|previous| previous.record.clone());
            let record = record.unwrap_or_else(|| unreachable!("it remains"));
            place.uncover();
            return Begin::Completed(Found::new(record, remaining).other_scheme(matched == Match::OtherScheme));
        }
        (Some(None), _) => place.drop_previous(),
        _ => {}
    }
    let SlotRef::Unfinished(record) = place.slot() else { unreachable!("only what lay beneath it is gone") };
    let lost_owner = record.lost_owner || is_lost;
    if lost_owner && request.on_unknown == OnUnknown::Reject {
        return Begin::OwnerLost;
    }
    record.lost_owner = lost_owner;
    record.claim_for(request, now, fences.next(now));
    let acquired = record.acquired(request.id, matched);
    place.moved();
    Begin::Acquired(acquired)
}

/// How long to wait for the owner of a record. Notes a lease that is over. `None`: nobody holds the record.
fn wait_for_owner(record: &mut Unfinished, now: Micros) -> Option<Wait> {
    if let Phase::Claimed { lease_ends } = record.phase {
        if let Some(lease_left) = left(now, lease_ends) {
            return Some(Wait::lease(lease_left));
        }
        record.rest(Phase::Lapsed { grace_ends: now.saturating_add(record.grace) }, now);
    }
    match record.phase {
        Phase::Lapsed { grace_ends } => left(now, grace_ends).map(Wait::grace),
        _ => None,
    }
}

/// Extends a lease.
pub(super) fn renew(place: &mut impl Place, claim: &Claim, lease: Duration, now: Micros) -> Renewal {
    match place.at(now) {
        SlotRef::Vacant => Renewal::Gone(Moment::new(now)),
        SlotRef::Unfinished(record) if record.is_held_by(claim.token) => {
            record.hold(lease, now);
            Renewal::Extended
        }
        SlotRef::Unfinished(_) | SlotRef::Completed(_) => Renewal::Lost,
    }
}

/// Claims a record again that the store has lost.
pub(super) fn restore<P: Place>(
    place: &mut P,
    claim: &Claim,
    restored: &Restore,
    now: Micros,
) -> Result<Renewal, P::Full> {
    match place.at(now) {
        SlotRef::Vacant if now <= restored.gone.get().saturating_add(micros(restored.within)) => {
            place.claim(Unfinished::restored(claim, restored.steps.clone(), restored.lease, now))?;
            Ok(Renewal::Extended)
        }
        SlotRef::Unfinished(record) if record.is_held_by(claim.token) => {
            record.hold(restored.lease, now);
            Ok(Renewal::Extended)
        }
        SlotRef::Vacant | SlotRef::Unfinished(_) | SlotRef::Completed(_) => Ok(Renewal::Lost),
    }
}

/// Saves a step.
pub(super) fn save_step(place: &mut impl Place, claim: &Claim, step: &Step, now: Micros) -> Saved {
    match place.at(now) {
        SlotRef::Vacant => return Saved::Gone,
        SlotRef::Unfinished(record) if record.is_held_by(claim.token) => {
            if record.journal.knows(step) {
                return Saved::Saved;
            }
            if !record.journal.has_room(step) {
                return Saved::Full;
            }
        }
        SlotRef::Unfinished(_) | SlotRef::Completed(_) => return Saved::Lost,
    }
    if place.save(step).is_err() { Saved::Full } else { Saved::Saved }
}

/// Stores a response.
#[inline]
pub(super) fn complete(
    place: &mut impl Place,
    claim: &Claim,
    record: &Record,
    ttl: Duration,
    now: Micros,
) -> Completion {
    let (completions, usage) = match place.at(now) {
        SlotRef::Vacant => (claim.completions, Usage::starts(now)),
        SlotRef::Unfinished(open) if open.is_held_by(claim.token) => (open.completions, open.usage),
        // Nobody holds the key: a late response is better than none.
        SlotRef::Unfinished(open) if open.is_trace() && open.fingerprint.compare(&claim.fingerprint).is_same() => {
            (open.completions, open.usage)
        }
        SlotRef::Unfinished(_) => return Completion::Superseded(None),
        SlotRef::Completed(completed) if completed.token == claim.token => return Completion::Stored,
        SlotRef::Completed(completed) => {
            // The response to another operation is none of this client's business.
            let is_same = completed.fingerprint.compare(&claim.fingerprint).is_same();
            return Completion::Superseded(is_same.then(|| completed.record.clone()));
        }
    };
    place.complete(Completed::new(claim, record, completions.saturating_add(1), usage, now, ttl));
    Completion::Stored
}

/// Gives a claim up. Whether this token held it.
pub(super) fn release(place: &mut impl Place, claim: &Claim, release_as: ReleaseAs, now: Micros) -> bool {
    let SlotRef::Unfinished(record) = place.at(now) else { return false };
    if !record.is_held_by(claim.token) {
        return false;
    }
    let previous_remains = record.previous.as_ref().is_some_and(|previous| now < previous.expires);
    let remembers = record.lost_owner || !record.journal.is_empty();
    match release_as {
        ReleaseAs::Ended => place.vacate(),
        ReleaseAs::Unknown => {
            record.rest(Phase::Lost, now);
            place.moved();
        }
        ReleaseAs::Free | ReleaseAs::NotStored { .. } if previous_remains => place.uncover(),
        ReleaseAs::Free if !remembers => place.vacate(),
        ReleaseAs::Free | ReleaseAs::NotStored { .. } => {
            let not_stored = match release_as {
                ReleaseAs::NotStored { status } => Some(status),
                _ => None,
            };
            place.drop_previous();
            if let SlotRef::Unfinished(record) = place.slot() {
                record.rest(Phase::Free { not_stored }, now);
            }
            place.moved();
        }
    }
    true
}

/// Removes a record that nobody holds.
pub(super) fn forget(place: &mut impl Place, now: Micros) -> Forgotten {
    match place.at(now) {
        SlotRef::Vacant => return Forgotten::Absent,
        SlotRef::Unfinished(record) => {
            if wait_for_owner(record, now).is_some() {
                return Forgotten::InFlight;
            }
        }
        SlotRef::Completed(_) => {}
    }
    place.vacate();
    Forgotten::Removed
}
