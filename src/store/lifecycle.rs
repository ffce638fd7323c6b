//! The life of a record: one pure state machine, which every store with an atomic slot per record shares.
//!
//! A [`Slot`] is everything that a store keeps under one record id. Its methods are the calls of
//! [`Store`](super::Store), as functions of the slot, the request and the time: no I/O, no clock. A store is
//! persistence around it: read the slot, call the method, write the slot back, all in one atomic step. The memory store
//! does that under a mutex. The Lua scripts of the Redis store are a second implementation, and the tests compare the
//! two.
//!
//! | state | meaning | becomes |
//! |---|---|---|
//! | vacant | nothing is known of the key | claimed, by `begin` |
//! | claimed | an owner runs, or its lease has lapsed and nobody has taken over (*owner lost*) | completed, by `complete` · vacant, by `release` or `forget` · claimed by another owner, after the lease |
//! | completed | a response is stored | vacant, when its TTL is over or by `forget` · claimed with the response beneath, by a `begin` that says [`IfCompleted::Rerun`] |
//!
//! Rules that hold in every state: another fingerprint is a mismatch; a call with the owner's token may be repeated; a
//! call with any other token changes nothing that somebody owns.

use std::{
    convert::Infallible,
    mem,
    time::{Duration, SystemTime},
};

use super::{
    Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, Inspection, OnUnknown, OwnerToken,
    RecordState, ReleaseAs, Renewal, Wait,
    clock::{Micros, end, left, system_time},
};
use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
};

/// Everything that a store keeps under one record id. The default is a vacant slot.
///
/// `now` is the store's time in microseconds since the Unix epoch. It must not go back.
///
/// ```
/// use std::time::Duration;
/// use actix_idempotency::{
///     key::{Fingerprint, RecordId},
///     store::{Begin, BeginRequest, OwnerToken, lifecycle::{Fences, Slot}},
/// };
///
/// let request = |token| {
///     BeginRequest::new(RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]), token)
///         .lease(Duration::from_secs(10))
/// };
/// let (mut slot, mut fences) = (Slot::default(), Fences::default());
/// let (first, second) = (OwnerToken::random(), OwnerToken::random());
///
/// assert!(matches!(slot.begin(&request(first), 0, &mut fences), Begin::Acquired(_)));
/// assert!(matches!(slot.begin(&request(second), 9_999_999, &mut fences), Begin::InFlight(_)));
/// // The lease of 10 s is over: the second owner takes over.
/// assert!(matches!(slot.begin(&request(second), 10_000_000, &mut fences), Begin::Acquired(_)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Slot(State);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Vacant,
    Claimed(Claimed),
    Completed(Completed),
}

/// The greatest fencing token that a store has given out. One for all its slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fences(u64);

impl Fences {
    /// The time of the claim, so that fencing tokens grow over restarts of the store; never the same token twice.
    fn next(&mut self, now: Micros) -> u64 {
        self.0 = now.max(self.0.saturating_add(1));
        self.0
    }
}

impl Slot {
    /// As [`Store::begin`](super::Store::begin).
    pub fn begin(&mut self, request: &BeginRequest, now: u64, fences: &mut Fences) -> Begin {
        let Ok(answer) = begin(&mut self.0, request, now, fences);
        answer
    }

    /// As [`Store::renew`](super::Store::renew).
    pub fn renew(&mut self, claim: &Claim, lease: Duration, now: u64) -> Renewal {
        renew(&mut self.0, claim, lease, now)
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

    /// As [`Store::inspect`](super::Store::inspect), for the record `id`.
    #[must_use]
    pub fn inspect(&self, id: RecordId, now: u64) -> Option<Inspection> {
        match &self.0 {
            State::Vacant => None,
            State::Claimed(claimed) => claimed.inspect(id, now),
            State::Completed(completed) => completed.inspect(id, now),
        }
    }
}

/// Where a store keeps one record, so that the transitions can change it there. The memory store has claimed and
/// completed records in different tables.
pub(super) trait Place {
    /// Why a claim may be refused: the store is full.
    type Full;

    /// The record, expired or not.
    fn slot(&mut self) -> SlotRef<'_>;

    /// Puts a claim in the place of whatever there is.
    fn claim(&mut self, claimed: Claimed) -> Result<(), Self::Full>;

    /// Puts a claim in the place of the completed record, which goes [beneath](Claimed::over) the claim.
    fn claim_over(&mut self, claimed: Claimed);

    /// Removes the claim, and [restores](Claimed::uncover) the completed record beneath it.
    fn uncover(&mut self);

    /// [Drops](Claimed::take_previous) the completed record beneath the claim.
    fn drop_previous(&mut self);

    /// Puts a completed record in the place of whatever there is.
    fn complete(&mut self, completed: Completed);

    /// Removes whatever there is.
    fn vacate(&mut self);

    /// The record as it is at `now`: what has expired counts as vacant.
    #[inline]
    fn at(&mut self, now: Micros) -> SlotRef<'_> {
        match self.slot() {
            SlotRef::Claimed(claimed) if now >= claimed.kept_until => SlotRef::Vacant,
            SlotRef::Completed(completed) if now >= completed.expires => SlotRef::Vacant,
            slot => slot,
        }
    }
}

/// A record in its place.
pub(super) enum SlotRef<'a> {
    Vacant,
    Claimed(&'a mut Claimed),
    Completed(&'a mut Completed),
}

impl Place for State {
    type Full = Infallible;

    fn slot(&mut self) -> SlotRef<'_> {
        match self {
            Self::Vacant => SlotRef::Vacant,
            Self::Claimed(claimed) => SlotRef::Claimed(claimed),
            Self::Completed(completed) => SlotRef::Completed(completed),
        }
    }

    fn claim(&mut self, claimed: Claimed) -> Result<(), Infallible> {
        *self = Self::Claimed(claimed);
        Ok(())
    }

    fn claim_over(&mut self, claimed: Claimed) {
        *self = Self::Claimed(match mem::take(self) {
            Self::Completed(completed) => claimed.over(completed),
            Self::Vacant | Self::Claimed(_) => claimed,
        });
    }

    fn uncover(&mut self) {
        *self = match mem::take(self) {
            Self::Claimed(claimed) => claimed.uncover().map_or(Self::Vacant, Self::Completed),
            state => state,
        };
    }

    fn drop_previous(&mut self) {
        if let Self::Claimed(claimed) = self {
            claimed.take_previous();
        }
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
    fences: &mut Fences,
) -> Result<Begin, P::Full> {
    match place.at(now) {
        SlotRef::Vacant => begin_vacant(place, request, now, fences),
        SlotRef::Completed(completed) => {
            if completed.fingerprint != request.fingerprint.into() {
                return Ok(Begin::Mismatch);
            }
            if request.if_completed == IfCompleted::Replay {
                completed.usage.replayed(now);
                let remaining = Duration::from_micros(completed.expires - now);
                return Ok(Begin::Completed(Found::new(completed.record.clone(), remaining)));
            }
            let claimed = completed.claimed_again(request, now, fences);
            let acquired = Acquired::new(claimed.claim(request.id)).previous(Some(completed.record.clone()));
            place.claim_over(claimed);
            Ok(Begin::Acquired(acquired))
        }
        SlotRef::Claimed(claimed) => {
            if claimed.fingerprint != request.fingerprint {
                return Ok(Begin::Mismatch);
            }
            if claimed.token == request.token {
                // The answer to an earlier call was lost.
                claimed.extend(request, now);
                return Ok(Begin::Acquired(claimed.acquired(request.id)));
            }
            if let Some(retry_after) = claimed.lease_left(now) {
                return Ok(Begin::InFlight(Wait::new(retry_after)));
            }
            begin_after_a_lost_owner(place, request, now, fences)
        }
    }
}

fn begin_vacant<P: Place>(
    place: &mut P,
    request: &BeginRequest,
    now: Micros,
    fences: &mut Fences,
) -> Result<Begin, P::Full> {
    let claimed = Claimed::new(request, now, fences.next(now));
    let acquired = Acquired::new(claimed.claim(request.id));
    place.claim(claimed)?;
    Ok(Begin::Acquired(acquired))
}

/// The lease is over, and another request asks.
fn begin_after_a_lost_owner<P: Place>(
    place: &mut P,
    request: &BeginRequest,
    now: Micros,
    fences: &mut Fences,
) -> Result<Begin, P::Full> {
    let SlotRef::Claimed(claimed) = place.slot() else { return begin_vacant(place, request, now, fences) };
    let previous_expired = claimed.previous.as_ref().is_some_and(|previous| now >= previous.expires);
    if request.if_completed == IfCompleted::Replay
        && let Some(previous) = &claimed.previous
    {
        // A manual owner was lost over a completed record: everybody else gets that record, while it lasts.
        let Some(remaining) = left(now, previous.expires) else { return begin_vacant(place, request, now, fences) };
        let found = Found::new(previous.record.clone(), remaining);
        claimed.usage.replayed(now);
        place.uncover();
        return Ok(Begin::Completed(found));
    }
    if request.on_unknown == OnUnknown::Reject {
        return Ok(Begin::OwnerLost);
    }
    if previous_expired {
        place.drop_previous();
    }
    let SlotRef::Claimed(claimed) = place.slot() else { return begin_vacant(place, request, now, fences) };
    claimed.token = request.token;
    claimed.attempt = claimed.attempt.saturating_add(1);
    claimed.fence = fences.next(now);
    claimed.taken_over = true;
    claimed.usage.seen(now);
    claimed.extend(request, now);
    Ok(Begin::Acquired(claimed.acquired(request.id)))
}

/// Extends a lease.
pub(super) fn renew(place: &mut impl Place, claim: &Claim, lease: Duration, now: Micros) -> Renewal {
    match place.at(now) {
        SlotRef::Vacant => Renewal::Gone,
        SlotRef::Claimed(claimed) if claimed.token == claim.token => {
            // How long the claim stays visible after its lease does not change.
            let keep = claimed.kept_until.saturating_sub(claimed.lease_ends);
            claimed.lease_ends = end(now, lease);
            claimed.kept_until = claimed.lease_ends.saturating_add(keep);
            Renewal::Extended
        }
        SlotRef::Claimed(_) | SlotRef::Completed(_) => Renewal::Lost,
    }
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
    let usage = match place.at(now) {
        SlotRef::Vacant => Usage::starts(now),
        SlotRef::Claimed(claimed) if claimed.token == claim.token => claimed.usage,
        SlotRef::Claimed(_) => return Completion::Superseded(None),
        SlotRef::Completed(completed) if completed.token == claim.token => return Completion::Stored,
        SlotRef::Completed(completed) => return Completion::Superseded(Some(completed.record.clone())),
    };
    place.complete(Completed {
        token: claim.token,
        fingerprint: claim.fingerprint.into(),
        attempt: claim.attempt,
        usage,
        since: now,
        expires: end(now, ttl),
        record: record.clone(),
    });
    Completion::Stored
}

/// Gives a claim up. Whether this token held it.
pub(super) fn release(place: &mut impl Place, claim: &Claim, release_as: ReleaseAs, now: Micros) -> bool {
    let SlotRef::Claimed(claimed) = place.at(now) else { return false };
    if claimed.token != claim.token {
        return false;
    }
    match release_as {
        ReleaseAs::Unknown => claimed.lease_ends = now,
        ReleaseAs::Free if claimed.previous.as_ref().is_some_and(|previous| now < previous.expires) => place.uncover(),
        ReleaseAs::Free => place.vacate(),
    }
    true
}

/// Removes a record, unless a live owner holds it.
pub(super) fn forget(place: &mut impl Place, now: Micros) -> Forgotten {
    match place.at(now) {
        SlotRef::Vacant => Forgotten::Absent,
        SlotRef::Claimed(claimed) if now < claimed.lease_ends => Forgotten::InFlight,
        SlotRef::Claimed(_) | SlotRef::Completed(_) => {
            place.vacate();
            Forgotten::Removed
        }
    }
}

/// A claimed record. After `lease_ends` its owner counts as lost.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    token: OwnerToken,
    fingerprint: Fingerprint,
    attempt: u32,
    fence: u64,
    taken_over: bool,
    usage: Usage,
    lease_ends: Micros,
    /// When a lapsed claim stops being visible.
    kept_until: Micros,
    /// The completed record beneath a manual claim.
    previous: Option<Completed>,
}

/// A completed record, as small as it can be: there are many.
#[derive(Clone, Debug)]
pub(super) struct Completed {
    token: OwnerToken,
    fingerprint: ShortFingerprint,
    attempt: u32,
    usage: Usage,
    /// When the record was completed.
    pub(super) since: Micros,
    pub(super) expires: Micros,
    pub(super) record: Record,
}

/// The first 192 bits of a fingerprint: enough to tell operations apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShortFingerprint([u8; 24]);

impl From<Fingerprint> for ShortFingerprint {
    fn from(fingerprint: Fingerprint) -> Self {
        let (head, _) = fingerprint.as_bytes().split_first_chunk().expect("a fingerprint is longer");
        Self(*head)
    }
}

impl Claimed {
    /// The first claim of a key.
    fn new(request: &BeginRequest, now: Micros, fence: u64) -> Self {
        let lease_ends = end(now, request.lease);
        Self {
            token: request.token,
            fingerprint: request.fingerprint,
            attempt: 1,
            fence,
            taken_over: false,
            usage: Usage::starts(now),
            lease_ends,
            kept_until: end(lease_ends, request.keep),
            previous: None,
        }
    }

    /// This claim with a completed record beneath it.
    pub(super) fn over(self, previous: Completed) -> Self {
        Self { previous: Some(previous), ..self }
    }

    /// The completed record beneath this claim, as it is when the claim is gone. Attempts that led to nothing count.
    pub(super) fn uncover(self) -> Option<Completed> {
        let previous = self.previous?;
        Some(Completed { attempt: self.attempt, usage: self.usage, ..previous })
    }

    pub(super) const fn previous(&self) -> Option<&Completed> {
        self.previous.as_ref()
    }

    pub(super) const fn take_previous(&mut self) -> Option<Completed> {
        self.previous.take()
    }

    pub(super) const fn has_expired(&self, now: Micros) -> bool {
        now >= self.kept_until
    }

    /// How long the lease still lasts. `None`: it is over.
    pub(super) fn lease_left(&self, now: Micros) -> Option<Duration> {
        left(now, self.lease_ends)
    }

    fn extend(&mut self, request: &BeginRequest, now: Micros) {
        self.lease_ends = end(now, request.lease);
        // A claim stays visible as long as asked for, and at least as long as the completed record beneath it.
        let previous_expires = self.previous.as_ref().map_or(0, |previous| previous.expires);
        self.kept_until = end(self.lease_ends, request.keep).max(previous_expires);
    }

    fn acquired(&self, id: RecordId) -> Acquired {
        let previous = self.previous.as_ref().map(|previous| previous.record.clone());
        Acquired { claim: self.claim(id), previous }
    }

    fn claim(&self, id: RecordId) -> Claim {
        Claim {
            id,
            fingerprint: self.fingerprint,
            token: self.token,
            attempt: self.attempt,
            fence: self.fence,
            taken_over: self.taken_over,
        }
    }

    pub(super) fn inspect(&self, id: RecordId, now: Micros) -> Option<Inspection> {
        let (state, remaining) = match self.lease_left(now) {
            Some(lease) => (RecordState::InFlight, lease),
            None => (RecordState::OwnerLost, left(now, self.kept_until)?),
        };
        Some(self.usage.inspection(Inspection::new(id, state, remaining), self.token, self.attempt))
    }
}

impl Completed {
    /// A claim on this record, which stays beneath it.
    fn claimed_again(&mut self, request: &BeginRequest, now: Micros, fences: &mut Fences) -> Claimed {
        self.usage.seen(now);
        let mut claimed = Claimed::new(request, now, fences.next(now));
        claimed.attempt = self.attempt.saturating_add(1);
        claimed.usage = self.usage;
        claimed.kept_until = claimed.kept_until.max(self.expires);
        claimed
    }

    pub(super) fn inspect(&self, id: RecordId, now: Micros) -> Option<Inspection> {
        let remaining = left(now, self.expires)?;
        let inspection = Inspection::new(id, RecordState::Completed, remaining);
        let inspection = Inspection { record: Some(self.record.clone()), ..inspection };
        Some(self.usage.inspection(inspection, self.token, self.attempt))
    }
}

/// When a key was first and last asked for, in seconds since the epoch, and how often it was replayed.
#[derive(Clone, Copy, Debug)]
struct Usage {
    first: u32,
    last: u32,
    replays: u32,
}

impl Usage {
    fn starts(now: Micros) -> Self {
        let now = seconds(now);
        Self { first: now, last: now, replays: 0 }
    }

    fn seen(&mut self, now: Micros) {
        self.last = seconds(now);
    }

    fn replayed(&mut self, now: Micros) {
        self.seen(now);
        self.replays = self.replays.saturating_add(1);
    }

    fn inspection(self, inspection: Inspection, owner: OwnerToken, attempt: u32) -> Inspection {
        Inspection {
            attempt,
            owner: Some(owner),
            replays: Some(self.replays.into()),
            first_seen: Some(time(self.first)),
            last_seen: Some(time(self.last)),
            ..inspection
        }
    }
}

/// 32 bits of seconds last until 2106.
fn seconds(now: Micros) -> u32 {
    u32::try_from(now / 1_000_000).unwrap_or(u32::MAX)
}

fn time(seconds: u32) -> SystemTime {
    system_time(u64::from(seconds) * 1_000_000)
}
