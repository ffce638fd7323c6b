//! One shard: the tables in which records lie, under one lock. What happens to a record is decided by
//! [`lifecycle`](crate::store::lifecycle); a shard finds its slot, applies the change and keeps the accounts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lru::LruCache;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::{
    MemoryLimits, PreHashed,
    expiry::ExpiryQueue,
    shares::{Share, Shares},
};
use crate::{
    key::RecordId,
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, ReleaseAs, Renewal, Restore, Saved, Step,
        StoreError,
        clock::Micros,
        lifecycle::{self, Completed, FenceCounter, Place, SlotRef, Unfinished},
    },
};

/// How many due records one call frees at most.
pub(super) const SWEEP_BATCH: usize = 64;

pub(super) struct Shard {
    pub(super) limits: MemoryLimits,
    /// Records that somebody holds. Never evicted.
    claimed: HashMap<RecordId, Entry, PreHashed>,
    /// Unfinished records that nobody holds, in the order in which they came here.
    pub(super) traces: LruCache<RecordId, Entry, PreHashed>,
    /// Completed records in the order of their completion.
    pub(super) with_body: CompletedTable,
    /// Completed records whose body was given up, in the order in which that happened.
    pub(super) without_body: CompletedTable,
    /// The part of `bytes` that is in `without_body`.
    pub(super) bytes_without_body: usize,
    expiry: ExpiryQueue,
    pub(super) bytes: usize,
    pub(super) shares: Shares,
    fences: FenceCounter,
}

/// Completed records in the order in which they were put here.
type CompletedTable = LruCache<RecordId, Kept, PreHashed>;

/// A completed record, and whose it is.
pub(super) struct Kept {
    pub(super) completed: Completed,
    pub(super) share: Share,
}

/// An unfinished record, whose it is, and who waits for it.
pub(super) struct Entry {
    unfinished: Unfinished,
    share: Share,
    /// Made by the first waiter.
    waiters: Waiters,
    /// When the record became a trace.
    pub(super) since: Micros,
}

impl Entry {
    #[inline]
    const fn new(unfinished: Unfinished, share: Share) -> Self {
        Self { unfinished, share, waiters: None, since: 0 }
    }

    /// The bytes of the steps, and of the completed record beneath the claim.
    #[inline]
    fn bytes(&self) -> usize {
        self.unfinished.journal_bytes() + self.unfinished.previous().map_or(0, cost)
    }
}

type Waiters = Option<Arc<Notify>>;

pub(super) fn wake(waiters: Waiters) {
    if let Some(waiters) = waiters {
        waiters.notify_waiters();
    }
}

/// The bytes that a record costs beyond its own: its place in the tables, its expiry entry, the allocator. Measured,
/// and rounded up.
pub(super) const UPKEEP: usize = 320;

/// The bytes that a completed record is accounted for.
pub(super) fn cost(completed: &Completed) -> usize {
    completed.record.len() + completed.journal_bytes() + UPKEEP
}

impl Shard {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            claimed: HashMap::default(),
            traces: LruCache::unbounded_with_hasher(PreHashed::default()),
            with_body: LruCache::unbounded_with_hasher(PreHashed::default()),
            without_body: LruCache::unbounded_with_hasher(PreHashed::default()),
            bytes_without_body: 0,
            expiry: ExpiryQueue::default(),
            bytes: 0,
            shares: Shares::new(limits.principal_share, limits.max_entries, limits.max_bytes),
            fences: FenceCounter::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.claimed.len() + self.traces.len() + self.with_body.len() + self.without_body.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ids of all records. A claim may hide a record of the same id that has expired, so an id may come twice.
    pub(super) fn ids(&self) -> impl Iterator<Item = RecordId> {
        let completed = self.with_body.iter().chain(self.without_body.iter()).map(|(id, _)| *id);
        self.claimed.keys().copied().chain(self.traces.iter().map(|(id, _)| *id)).chain(completed)
    }

    pub(super) fn begin(&mut self, request: &BeginRequest, now: Micros) -> Result<Begin, StoreError> {
        self.free_some_due(now);
        let mut fences = self.fences;
        let share = request.principal.share();
        let answer = lifecycle::begin(&mut self.seat(&request.id, share, now), request, now, &mut fences);
        self.fences = fences;
        answer
    }

    pub(super) fn renew(&mut self, claim: &Claim, lease: Duration, now: Micros) -> Renewal {
        lifecycle::renew(&mut self.seat(&claim.id, None, now), claim, lease, now)
    }

    pub(super) fn restore(&mut self, claim: &Claim, restore: &Restore, now: Micros) -> Result<Renewal, StoreError> {
        lifecycle::restore(&mut self.seat(&claim.id, None, now), claim, restore, now)
    }

    pub(super) fn save_step(&mut self, claim: &Claim, step: &Step, now: Micros) -> Saved {
        lifecycle::save_step(&mut self.seat(&claim.id, None, now), claim, step, now)
    }

    pub(super) fn complete(
        &mut self,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
        now: Micros,
    ) -> (Completion, Waiters) {
        self.free_some_due(now);
        let mut seat = self.seat(&claim.id, None, now);
        let answer = lifecycle::complete(&mut seat, claim, record, ttl, now);
        (answer, seat.waiters)
    }

    pub(super) fn release(&mut self, claim: &Claim, release_as: ReleaseAs, now: Micros) -> (bool, Waiters) {
        let mut seat = self.seat(&claim.id, None, now);
        let released = lifecycle::release(&mut seat, claim, release_as, now);
        (released, seat.waiters)
    }

    pub(super) fn forget(&mut self, id: &RecordId, now: Micros) -> (Forgotten, Waiters) {
        let mut seat = self.seat(id, None, now);
        let answer = lifecycle::forget(&mut seat, now);
        (answer, seat.waiters)
    }

    /// The notification that a waiter waits for, and how long at most; `None` when nobody runs. It is made under the
    /// lock under which the claim ends, so no wake-up is missed.
    pub(super) fn watch(&mut self, id: &RecordId, now: Micros) -> Option<(OwnedNotified, Duration)> {
        let entry = self.claimed.get_mut(id)?;
        let left = entry.unfinished.wait_left(now)?;
        let waiters = entry.waiters.get_or_insert_default().clone();
        Some((waiters.notified_owned(), left))
    }

    pub(super) fn inspect(&self, id: &RecordId, now: Micros) -> Option<Inspection> {
        let completed = || self.with_body.peek(id).or_else(|| self.without_body.peek(id));
        let unfinished = self.claimed.get(id).or_else(|| self.traces.peek(id));
        let unfinished = unfinished.and_then(|entry| entry.unfinished.inspect(*id, now));
        unfinished.or_else(|| completed()?.completed.inspect(*id, now))
    }

    pub(super) fn steps(&self, id: &RecordId, now: Micros) -> Vec<Step> {
        if self.inspect(id, now).is_none() {
            return Vec::new();
        }
        let completed = || self.with_body.peek(id).or_else(|| self.without_body.peek(id));
        let unfinished = self.claimed.get(id).or_else(|| self.traces.peek(id));
        let unfinished = unfinished.map(|entry| entry.unfinished.steps());
        unfinished.or_else(|| Some(completed()?.completed.steps())).unwrap_or_default().to_vec()
    }

    /// Adds the first `wanted` records with greater ids to `page`.
    pub(super) fn list(&self, mut after: Option<RecordId>, wanted: usize, now: Micros, page: &mut Vec<Inspection>) {
        let full = page.len() + wanted;
        while page.len() < full {
            let mut ids: Vec<RecordId> = self.ids().filter(|id| after.is_none_or(|after| *id > after)).collect();
            // Some may have expired, and then the next ones are looked for.
            let some = wanted * 2;
            if ids.len() > some {
                ids.select_nth_unstable(some);
                ids.truncate(some);
            }
            ids.sort_unstable();
            ids.dedup();
            let Some(last) = ids.last() else { return };
            after = Some(*last);
            let left = full - page.len();
            page.extend(ids.iter().filter_map(|id| self.inspect(id, now)).take(left));
        }
    }

    /// Frees what is due, at most a batch. Whether there may be more.
    pub(super) fn sweep(&mut self, now: Micros) -> bool {
        let more = self.free_due(now, SWEEP_BATCH);
        if !more {
            let expired = self.claimed.iter().filter(|(_, entry)| entry.unfinished.has_expired(now));
            let expired: Vec<_> = expired.map(|(id, _)| *id).collect();
            for id in expired {
                self.take_unfinished(&id);
            }
        }
        more
    }

    /// Frees a few records whose time is over: as many as requests need to keep up with expiry.
    #[inline]
    fn free_some_due(&mut self, now: Micros) {
        if self.expiry.is_due(now) {
            self.free_due(now, 4);
        }
    }

    /// Frees completed records and traces whose time is over. Whether there may be more.
    pub(super) fn free_due(&mut self, now: Micros, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some((expires, id)) = self.expiry.take_due(now) else { return false };
            let completed = self.with_body.peek(&id).or_else(|| self.without_body.peek(&id));
            if completed.is_some_and(|kept| kept.completed.expires == expires) {
                self.take_completed(&id);
            } else if self.traces.peek(&id).is_some_and(|entry| entry.unfinished.has_expired(now)) {
                self.take_unfinished(&id);
            }
        }
        true
    }

    const fn seat<'a>(&'a mut self, id: &'a RecordId, share: Share, now: Micros) -> Seat<'a> {
        Seat { shard: self, id, share, now, waiters: None }
    }

    #[inline]
    fn account(&mut self, share: Share, bytes: usize) {
        self.bytes += bytes;
        self.shares.add(share, bytes);
    }

    #[inline]
    fn discount(&mut self, share: Share, bytes: usize) {
        self.bytes -= bytes;
        self.shares.remove(share, bytes);
    }

    #[inline]
    fn hold(&mut self, id: RecordId, entry: Entry) {
        self.account(entry.share, entry.bytes());
        // An entry in this place has expired.
        if let Some(expired) = self.claimed.insert(id, entry) {
            self.discount(expired.share, expired.bytes());
        } else if !self.traces.is_empty()
            && let Some(expired) = self.traces.pop(&id)
        {
            self.discount(expired.share, expired.bytes() + UPKEEP);
        }
    }

    fn change_unfinished(&mut self, id: &RecordId, change: impl FnOnce(&mut Unfinished)) {
        if let Some(entry) = self.claimed.get_mut(id).or_else(|| self.traces.peek_mut(id)) {
            let before = entry.bytes();
            change(&mut entry.unfinished);
            let after = entry.bytes();
            self.bytes = self.bytes - before + after;
            self.shares.resize(entry.share, before, after);
        }
    }

    #[inline]
    pub(super) fn take_unfinished(&mut self, id: &RecordId) -> Option<Entry> {
        let (entry, upkeep) = match self.claimed.remove(id) {
            Some(entry) => (entry, 0),
            None if self.traces.is_empty() => return None,
            None => (self.traces.pop(id)?, UPKEEP),
        };
        self.discount(entry.share, entry.bytes() + upkeep);
        Some(entry)
    }

    pub(super) fn take_completed(&mut self, id: &RecordId) -> Option<Kept> {
        let kept = if let Some(kept) = self.with_body.pop(id) {
            kept
        } else {
            let kept = self.without_body.pop(id)?;
            self.bytes_without_body -= cost(&kept.completed);
            kept
        };
        self.discount(kept.share, cost(&kept.completed));
        self.expiry.removed(kept.completed.expires, *id);
        Some(kept)
    }

    /// Keeps a record in the place of what was there, which may have expired without being freed.
    fn keep_completed(&mut self, id: RecordId, kept: Kept) {
        self.take_completed(&id);
        self.account(kept.share, cost(&kept.completed));
        let expires = kept.completed.expires;
        self.with_body.put(id, kept);
        self.expires_at(expires, id);
    }

    fn expires_at(&mut self, expires: Micros, id: RecordId) {
        self.expiry.add(expires, id);
        // Records that are removed out of turn leave their entry in the queue behind, and a record that comes back from
        // beneath a claim adds another. The queue is rebuilt before such entries outnumber the records.
        if self.expiry.len() > (self.with_body.len() + self.without_body.len() + self.traces.len()) * 2 + 64 {
            let completed = self.with_body.iter().chain(self.without_body.iter());
            let completed = completed.map(|(id, kept)| (kept.completed.expires, *id));
            let traces = self.traces.iter().map(|(id, entry)| (entry.unfinished.expires(), *id));
            self.expiry.replace(completed.chain(traces));
        }
    }
}

/// The place of one record in a shard, for one transition.
struct Seat<'a> {
    shard: &'a mut Shard,
    id: &'a RecordId,
    /// Who asks to claim the record.
    share: Share,
    now: Micros,
    /// The waiters of a claim that the transition has ended. They are woken when the shard is unlocked.
    waiters: Waiters,
}

impl Place for Seat<'_> {
    type Full = StoreError;

    #[inline]
    fn slot(&mut self) -> SlotRef<'_> {
        if let Some(entry) = self.shard.claimed.get_mut(self.id) {
            return SlotRef::Unfinished(&mut entry.unfinished);
        }
        // Before completed records: an unfinished one may hide a completed one that has expired.
        if !self.shard.traces.is_empty()
            && let Some(entry) = self.shard.traces.peek_mut(self.id)
        {
            return SlotRef::Unfinished(&mut entry.unfinished);
        }
        let completed = match self.shard.with_body.peek_mut(self.id) {
            None => self.shard.without_body.peek_mut(self.id),
            completed => completed,
        };
        completed.map_or(SlotRef::Vacant, |kept| SlotRef::Completed(&mut kept.completed))
    }

    #[inline]
    fn claim(&mut self, claimed: Unfinished) -> Result<(), StoreError> {
        if self.shard.is_full_for(self.share) {
            // An entry in this place has expired, and gives its own room first.
            self.vacate();
            self.shard.make_room(self.share, self.now)?;
        }
        // A completed record that has expired stays in its table until it is swept, or until this claim is completed.
        self.shard.hold(*self.id, Entry::new(claimed, self.share));
        Ok(())
    }

    fn claim_over(&mut self, claimed: Unfinished) {
        if let Some(Kept { completed, share }) = self.shard.take_completed(self.id) {
            self.shard.hold(*self.id, Entry::new(claimed.over(completed), share));
        }
    }

    fn moved(&mut self) {
        let Some(mut entry) = self.shard.take_unfinished(self.id) else { return };
        if !entry.unfinished.is_trace() {
            return self.shard.hold(*self.id, entry);
        }
        self.waiters = entry.waiters.take();
        entry.since = self.now;
        self.shard.account(entry.share, entry.bytes() + UPKEEP);
        let expires = entry.unfinished.expires();
        self.shard.traces.put(*self.id, entry);
        self.shard.expires_at(expires, *self.id);
    }

    fn uncover(&mut self) {
        if let Some(entry) = self.shard.take_unfinished(self.id) {
            self.waiters = entry.waiters;
            if let Some(completed) = entry.unfinished.uncover() {
                self.shard.keep_completed(*self.id, Kept { completed, share: entry.share });
            }
        }
    }

    fn drop_previous(&mut self) {
        self.shard.change_unfinished(self.id, |unfinished| {
            unfinished.take_previous();
        });
    }

    fn save(&mut self, step: &Step) -> Result<(), StoreError> {
        let share = self.shard.claimed.get(self.id).and_then(|entry| entry.share);
        if !self.shard.may_grow(share, step.len()) {
            return Err(StoreError::Full);
        }
        self.shard.change_unfinished(self.id, |unfinished| unfinished.save(step.clone()));
        Ok(())
    }

    fn complete(&mut self, completed: Completed) {
        let entry = self.shard.take_unfinished(self.id);
        let share = entry.as_ref().and_then(|entry| entry.share);
        self.waiters = entry.and_then(|entry| entry.waiters);
        self.shard.keep_completed(*self.id, Kept { completed, share });
        self.shard.shrink(self.id, share, self.now);
    }

    fn vacate(&mut self) {
        self.shard.take_completed(self.id);
        self.waiters = self.shard.take_unfinished(self.id).and_then(|entry| entry.waiters);
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("claimed", &self.claimed.len())
            .field("traces", &self.traces.len())
            .field("completed", &(self.with_body.len() + self.without_body.len()))
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::StatusCode;

    use crate::{
        key::Fingerprint,
        store::{IfCompleted, OwnerToken},
    };

    /// A client that repeats a manual request whose answers are not stored.
    #[test]
    fn a_record_that_comes_back_again_and_again_leaves_few_expiry_entries_behind() {
        let mut shard = Shard::new(MemoryLimits::default());
        let record = Record::new(StatusCode::CREATED, [], None);
        let ask = |n: u8, if_completed| {
            let id = RecordId::from_bytes([n; 32]);
            BeginRequest::new(id, Fingerprint::from_bytes([0; 42]), OwnerToken::random()).if_completed(if_completed)
        };
        let claim = |shard: &mut Shard, n, if_completed| match shard.begin(&ask(n, if_completed), 1000).unwrap() {
            Begin::Acquired(acquired) => acquired.claim,
            other => panic!("{other:?}"),
        };
        // The first record is the next to expire, all the time.
        for (n, ttl) in [(1, 10), (2, 20), (3, 15)] {
            let claim = claim(&mut shard, n, IfCompleted::Replay);
            let _ = shard.complete(&claim, &record, Duration::from_secs(ttl), 1000);
        }
        for _ in 0..1000 {
            for n in [2, 3] {
                let claim = claim(&mut shard, n, IfCompleted::Rerun);
                assert!(shard.release(&claim, ReleaseAs::Free, 1000).0);
            }
            assert!(shard.expiry.len() <= 3 * 2 + 64);
        }
        assert!(!shard.free_due(25_000_000, 10_000));
        assert_eq!((shard.len(), shard.expiry.len(), shard.bytes()), (0, 0, 0));
    }
}
