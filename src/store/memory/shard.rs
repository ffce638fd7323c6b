//! One shard: the tables in which records lie, under one lock. What happens to a record is decided by
//! [`lifecycle`](crate::store::lifecycle); a shard finds its slot, applies the change and keeps the accounts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lru::LruCache;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::{MemoryLimits, PreHashed, expiry::ExpiryQueue};
use crate::{
    key::RecordId,
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, ReleaseAs, Renewal, StoreError,
        clock::Micros,
        lifecycle::{self, Claimed, Completed, Fences, Place, SlotRef},
    },
};

/// How many due records one call frees at most.
pub(super) const SWEEP_BATCH: usize = 64;

pub(super) struct Shard {
    pub(super) limits: MemoryLimits,
    /// Claims. Never evicted.
    claimed: HashMap<RecordId, Entry, PreHashed>,
    /// Completed records in the order of their completion. When bodies have to go, the oldest goes first...
    pub(super) with_body: CompletedTable,
    /// ...and its record moves here. So the records here are older than those of `with_body`, and are evicted first.
    pub(super) without_body: CompletedTable,
    /// The part of `bytes` that is in `without_body`.
    pub(super) bytes_without_body: usize,
    expiry: ExpiryQueue,
    pub(super) bytes: usize,
    fences: Fences,
}

/// Completed records in the order in which they were put here.
type CompletedTable = LruCache<RecordId, Completed, PreHashed>;

struct Entry {
    claimed: Claimed,
    /// Made by the first waiter.
    waiters: Waiters,
}

impl Entry {
    /// The bytes of the completed record beneath the claim.
    fn previous_cost(&self) -> usize {
        self.claimed.previous().map_or(0, cost)
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
const UPKEEP: usize = 288;

/// The bytes that a completed record is accounted for.
pub(super) fn cost(completed: &Completed) -> usize {
    completed.record.as_bytes().len() + UPKEEP
}

impl Shard {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            claimed: HashMap::default(),
            with_body: LruCache::unbounded_with_hasher(PreHashed::default()),
            without_body: LruCache::unbounded_with_hasher(PreHashed::default()),
            bytes_without_body: 0,
            expiry: ExpiryQueue::default(),
            bytes: 0,
            fences: Fences::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.claimed.len() + self.with_body.len() + self.without_body.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RecordId> {
        let completed = self.with_body.iter().chain(self.without_body.iter()).map(|(id, _)| *id);
        self.claimed.keys().copied().chain(completed)
    }

    pub(super) fn begin(&mut self, request: &BeginRequest, now: Micros) -> Result<Begin, StoreError> {
        self.free_some_due(now);
        let mut fences = self.fences;
        let answer = lifecycle::begin(&mut self.seat(&request.id, now), request, now, &mut fences);
        self.fences = fences;
        answer
    }

    pub(super) fn renew(&mut self, claim: &Claim, lease: Duration, now: Micros) -> Renewal {
        lifecycle::renew(&mut self.seat(&claim.id, now), claim, lease, now)
    }

    pub(super) fn complete(
        &mut self,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
        now: Micros,
    ) -> (Completion, Waiters) {
        self.free_some_due(now);
        let mut seat = self.seat(&claim.id, now);
        let answer = lifecycle::complete(&mut seat, claim, record, ttl, now);
        (answer, seat.waiters)
    }

    pub(super) fn release(&mut self, claim: &Claim, release_as: ReleaseAs, now: Micros) -> (bool, Waiters) {
        let mut seat = self.seat(&claim.id, now);
        let released = lifecycle::release(&mut seat, claim, release_as, now);
        let waiters = seat.waiters.or_else(|| {
            // Released as unknown: the record stays, and nobody runs any more.
            self.claimed.get_mut(&claim.id).filter(|_| released).and_then(|entry| entry.waiters.take())
        });
        (released, waiters)
    }

    pub(super) fn forget(&mut self, id: &RecordId, now: Micros) -> (Forgotten, Waiters) {
        let mut seat = self.seat(id, now);
        let answer = lifecycle::forget(&mut seat, now);
        (answer, seat.waiters)
    }

    /// The notification that a waiter waits for, and how long at most; `None` when nobody runs. It is made under the
    /// lock under which the claim ends, so no wake-up is missed.
    pub(super) fn watch(&mut self, id: &RecordId, now: Micros) -> Option<(OwnedNotified, Duration)> {
        let entry = self.claimed.get_mut(id)?;
        let lease_left = entry.claimed.lease_left(now)?;
        let waiters = entry.waiters.get_or_insert_default().clone();
        Some((waiters.notified_owned(), lease_left))
    }

    pub(super) fn inspect(&self, id: &RecordId, now: Micros) -> Option<Inspection> {
        match self.claimed.get(id) {
            Some(entry) => entry.claimed.inspect(*id, now),
            None => self.with_body.peek(id).or_else(|| self.without_body.peek(id))?.inspect(*id, now),
        }
    }

    /// Frees what is due, at most a batch. Whether there may be more.
    pub(super) fn sweep(&mut self, now: Micros) -> bool {
        let more = self.free_due(now, SWEEP_BATCH);
        if !more {
            let expired = self.claimed.iter().filter(|(_, entry)| entry.claimed.has_expired(now));
            let expired: Vec<_> = expired.map(|(id, _)| *id).collect();
            for id in expired {
                self.take_claimed(&id);
            }
        }
        more
    }

    /// Frees a few completed records whose TTL is over: as many as requests need to keep up with expiry.
    #[inline]
    fn free_some_due(&mut self, now: Micros) {
        if self.expiry.is_due(now) {
            self.free_due(now, 4);
        }
    }

    /// Frees completed records whose TTL is over. Whether there may be more.
    pub(super) fn free_due(&mut self, now: Micros, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some((expires, id)) = self.expiry.take_due(now) else { return false };
            let completed = self.with_body.peek(&id).or_else(|| self.without_body.peek(&id));
            if completed.is_some_and(|completed| completed.expires == expires) {
                self.take_completed(&id);
            }
        }
        true
    }

    const fn seat<'a>(&'a mut self, id: &'a RecordId, now: Micros) -> Seat<'a> {
        Seat { shard: self, id, now, waiters: None }
    }

    fn take_claimed(&mut self, id: &RecordId) -> Option<Entry> {
        let entry = self.claimed.remove(id)?;
        self.bytes -= entry.previous_cost();
        Some(entry)
    }

    pub(super) fn take_completed(&mut self, id: &RecordId) -> Option<Completed> {
        let completed = if let Some(completed) = self.with_body.pop(id) {
            completed
        } else {
            let completed = self.without_body.pop(id)?;
            self.bytes_without_body -= cost(&completed);
            completed
        };
        self.bytes -= cost(&completed);
        self.expiry.removed(completed.expires, *id);
        Some(completed)
    }

    /// Keeps a record in the place of what was there, which may have expired without being freed.
    fn keep_completed(&mut self, id: RecordId, completed: Completed) {
        self.take_completed(&id);
        self.bytes += cost(&completed);
        let expires = completed.expires;
        self.with_body.put(id, completed);
        self.expiry.add(expires, id);
        // Records that are removed out of turn leave their entry in the queue behind, and a record that comes back from
        // beneath a claim adds another. The queue is rebuilt before such entries outnumber the records.
        if self.expiry.len() > (self.with_body.len() + self.without_body.len()) * 2 + 64 {
            let completed = self.with_body.iter().chain(self.without_body.iter());
            self.expiry.replace(completed.map(|(id, completed)| (completed.expires, *id)));
        }
    }
}

/// The place of one record in a shard, for one transition.
struct Seat<'a> {
    shard: &'a mut Shard,
    id: &'a RecordId,
    now: Micros,
    /// The waiters of a claim that the transition has ended. They are woken when the shard is unlocked.
    waiters: Waiters,
}

impl Place for Seat<'_> {
    type Full = StoreError;

    #[inline]
    fn slot(&mut self) -> SlotRef<'_> {
        if let Some(entry) = self.shard.claimed.get_mut(self.id) {
            return SlotRef::Claimed(&mut entry.claimed);
        }
        let completed = match self.shard.with_body.peek_mut(self.id) {
            None => self.shard.without_body.peek_mut(self.id),
            completed => completed,
        };
        completed.map_or(SlotRef::Vacant, SlotRef::Completed)
    }

    fn claim(&mut self, claimed: Claimed) -> Result<(), StoreError> {
        self.shard.make_room(self.now)?;
        // A completed record that has expired stays in its table until it is swept, or until this claim is completed.
        let expired = self.shard.claimed.insert(*self.id, Entry { claimed, waiters: None });
        self.shard.bytes -= expired.map_or(0, |entry| entry.previous_cost());
        Ok(())
    }

    fn claim_over(&mut self, claimed: Claimed) {
        if let Some(completed) = self.shard.take_completed(self.id) {
            // The record stays in memory, and so in the accounts.
            self.shard.bytes += cost(&completed);
            self.shard.claimed.insert(*self.id, Entry { claimed: claimed.over(completed), waiters: None });
        }
    }

    fn uncover(&mut self) {
        if let Some(entry) = self.shard.take_claimed(self.id) {
            self.waiters = entry.waiters;
            if let Some(completed) = entry.claimed.uncover() {
                self.shard.keep_completed(*self.id, completed);
            }
        }
    }

    fn drop_previous(&mut self) {
        let previous = self.shard.claimed.get_mut(self.id).and_then(|entry| entry.claimed.take_previous());
        self.shard.bytes -= previous.as_ref().map_or(0, cost);
    }

    fn complete(&mut self, completed: Completed) {
        self.waiters = self.shard.take_claimed(self.id).and_then(|entry| entry.waiters);
        self.shard.keep_completed(*self.id, completed);
        self.shard.shrink(self.now);
    }

    fn vacate(&mut self) {
        self.shard.take_completed(self.id);
        self.waiters = self.shard.take_claimed(self.id).and_then(|entry| entry.waiters);
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("claimed", &self.claimed.len())
            .field("completed", &(self.with_body.len() + self.without_body.len()))
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::Fingerprint,
        store::{IfCompleted, OwnerToken},
    };

    /// A client that repeats a manual request whose answers are not stored.
    #[test]
    fn a_record_that_comes_back_again_and_again_leaves_few_expiry_entries_behind() {
        let mut shard = Shard::new(MemoryLimits::default());
        let record = Record::from_bytes(vec![1, 251, 201, 0, 0, 0].into()).unwrap();
        let ask = |n: u8, if_completed| {
            let id = RecordId::from_bytes([n; 32]);
            BeginRequest::new(id, Fingerprint::from_bytes([0; 32]), OwnerToken::random()).if_completed(if_completed)
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
