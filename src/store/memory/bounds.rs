//! How a shard keeps within its bounds: what it gives up when it is full, and in which order.

use super::{
    shard::{Kept, SWEEP_BATCH, Shard, UPKEEP, cost},
    shares::Share,
};
use crate::{
    key::RecordId,
    observe::metrics::{self, Evicted},
    store::{
        OnFull, StoreError,
        clock::{Micros, end},
    },
};

/// How many of the oldest records are looked at for one of a given principal.
const OLDEST: usize = 64;

impl Shard {
    /// Makes room for one more claim of this principal.
    ///
    /// # Errors
    /// [`StoreError::Full`] when nothing may be evicted.
    pub(super) fn make_room(&mut self, share: Share, now: Micros) -> Result<(), StoreError> {
        let may_evict = self.limits.on_full == OnFull::Shrink;
        while self.is_full(now) && self.free_due(now, SWEEP_BATCH) {}
        while self.is_full(now) {
            if !(may_evict && self.evict_oldest(now)) {
                return Err(StoreError::Full);
            }
        }
        while self.shares.is_exhausted(share) && self.free_due(now, SWEEP_BATCH) {}
        while self.shares.is_exhausted(share) {
            if !(may_evict && self.evict_oldest_of(share, now)) {
                return Err(StoreError::Full);
            }
        }
        Ok(())
    }

    /// Whether a claim needs [`make_room`](Self::make_room) first.
    #[inline]
    pub(super) fn is_full_for(&self, share: Share) -> bool {
        self.len() >= self.limits.max_entries || self.bytes >= self.limits.max_bytes || self.shares.is_exhausted(share)
    }

    fn is_full(&self, now: Micros) -> bool {
        self.len() >= self.limits.max_entries
            || (self.bytes >= self.limits.max_bytes
                && (self.limits.on_full == OnFull::Reject || self.oldest_body(now).is_none()))
    }

    /// After a completion: gives up bodies and records until shard and principal are within their bytes again, as far as
    /// they may.
    pub(super) fn shrink(&mut self, newest: &RecordId, share: Share, now: Micros) {
        while self.shares.exceeds_bytes(share) {
            let oldest = self.oldest_body_of(share, now).filter(|_| self.limits.on_full == OnFull::Shrink);
            if !self.give_up_body(&oldest.unwrap_or(*newest)) {
                break;
            }
        }
        while self.bytes > self.limits.max_bytes || self.bodies_exceed_their_part() {
            // Records without a body may take half of the room. Beyond that the oldest of them go before any more bodies.
            let shrinks = self.limits.on_full == OnFull::Shrink;
            if shrinks && self.bytes_without_body > self.limits.max_bytes / 2 && self.evict_oldest(now) {
                continue;
            }
            // Where nothing older may go, the newest record itself does without a body.
            let oldest = self.oldest_body(now).filter(|_| shrinks);
            let gave_up = self.give_up_body(&oldest.unwrap_or(*newest)) || (shrinks && self.evict_oldest(now));
            if !gave_up {
                return;
            }
        }
    }

    /// Bodies may take three quarters of the room, so that they leave some to new keys while they are too young to go.
    fn bodies_exceed_their_part(&self) -> bool {
        self.limits.on_full == OnFull::Shrink
            && self.bytes - self.bytes_without_body > self.limits.max_bytes - self.limits.max_bytes / 4
            && self.with_body.len() > 1
    }

    /// The oldest record with a body, if it was kept for `min_retention`.
    fn oldest_body(&self, now: Micros) -> Option<RecordId> {
        let (id, kept) = self.with_body.peek_lru()?;
        self.was_retained(kept, now).then_some(*id)
    }

    /// The oldest record of this principal with a body, if it was kept for `min_retention` and is among the oldest of all.
    fn oldest_body_of(&self, share: Share, now: Micros) -> Option<RecordId> {
        let oldest = self.with_body.iter().rev().take(OLDEST);
        let mut theirs = oldest.filter(|(_, kept)| kept.share == share && self.was_retained(kept, now));
        theirs.next().map(|(id, _)| *id)
    }

    fn was_retained(&self, kept: &Kept, now: Micros) -> bool {
        now >= end(kept.completed.since, self.limits.min_retention)
    }

    /// Gives up the body of a record. Whether it had one.
    fn give_up_body(&mut self, id: &RecordId) -> bool {
        let Some(mut kept) = self.with_body.pop(id) else { return false };
        metrics::evicted(Evicted::Body);
        let before = cost(&kept.completed);
        kept.completed.record = kept.completed.record.without_body();
        let after = cost(&kept.completed);
        self.bytes = self.bytes - before + after;
        self.shares.resize(kept.share, before, after);
        self.bytes_without_body += after;
        self.without_body.put(*id, kept);
        true
    }

    /// Evicts the oldest completed record, if it was kept for `min_retention`. When there is none, the oldest record that
    /// nobody holds. Whether there was one.
    fn evict_oldest(&mut self, now: Micros) -> bool {
        let oldest = [self.without_body.peek_lru(), self.with_body.peek_lru()];
        let oldest = oldest.into_iter().flatten().min_by_key(|(_, kept)| kept.completed.since);
        if let Some((&id, kept)) = oldest
            && self.was_retained(kept, now)
        {
            self.evict(&id);
            return true;
        }
        let Some((&id, trace)) = self.traces.peek_lru() else { return false };
        if now < end(trace.since, self.limits.min_retention) {
            return false;
        }
        tracing::warn!(
            record = ?id,
            "a full store forgot a key whose operation is not finished; its next request runs as the first"
        );
        self.take_unfinished(&id);
        metrics::evicted(Evicted::Unfinished);
        true
    }

    /// Evicts the oldest completed record of this principal, if it was kept for `min_retention` and is among the oldest of
    /// all. Whether there was one.
    fn evict_oldest_of(&mut self, share: Share, now: Micros) -> bool {
        let oldest = self.without_body.iter().rev().take(OLDEST).chain(self.with_body.iter().rev().take(OLDEST));
        let mut theirs = oldest.filter(|(_, kept)| kept.share == share && self.was_retained(kept, now));
        let Some(id) = theirs.next().map(|(id, _)| *id) else { return false };
        self.evict(&id);
        true
    }

    fn evict(&mut self, id: &RecordId) {
        tracing::debug!(record = ?id, "evicted a completed record before its TTL: the store is full");
        self.take_completed(id);
        metrics::evicted(Evicted::Record);
    }

    /// Whether an unfinished record of this principal may grow by so many bytes.
    pub(super) fn may_grow(&self, share: Share, bytes: usize) -> bool {
        self.bytes + bytes <= self.limits.max_bytes + UPKEEP && !self.shares.exceeds_bytes(share)
    }
}
