//! How a shard keeps within its bounds: what it gives up when it is full, and in which order.

use super::{
    end,
    shard::{SWEEP_BATCH, Shard},
};
use crate::{
    observe::metrics::{self, Evicted},
    settings::OnFull,
    store::{StoreError, clock::Micros},
};

impl Shard {
    /// Room for one more claim, or the store is full.
    pub(super) fn make_room(&mut self, now: Micros) -> Result<(), StoreError> {
        let full = |shard: &Self| {
            shard.len() >= shard.limits.max_entries
                || (shard.bytes >= shard.limits.max_bytes
                    && (shard.limits.on_full == OnFull::Reject || shard.whole.is_empty()))
        };
        while full(self) && self.expire(now, SWEEP_BATCH) {}
        while full(self) {
            if self.limits.on_full == OnFull::Reject || !self.evict_oldest(now) {
                return Err(StoreError::Full);
            }
        }
        Ok(())
    }

    /// After a completion: back under `max_bytes`, if giving up can do it.
    pub(super) fn shrink(&mut self, now: Micros) {
        while self.bytes > self.limits.max_bytes {
            // Bodies have half of the room at least, as long as there is anything old to evict.
            let shrinks = self.limits.on_full == OnFull::Shrink;
            if shrinks && self.bare_bytes > self.limits.max_bytes / 2 && self.evict_oldest(now) {
                continue;
            }
            let gives_up = match self.limits.on_full {
                OnFull::Shrink => self.whole.pop_lru(),
                // Nothing older may go: the newcomer itself does without a body.
                OnFull::Reject => self.whole.peek_mru().map(|(id, _)| *id).and_then(|id| self.whole.pop_entry(&id)),
            };
            let Some((id, done)) = gives_up else {
                while self.bytes > self.limits.max_bytes && self.evict_oldest(now) {}
                return;
            };
            metrics::evicted(Evicted::Body);
            self.bytes -= done.cost();
            let done = done.without_body();
            self.bytes += done.cost();
            self.bare_bytes += done.cost();
            self.bare.put(id, done);
            if self.limits.on_full == OnFull::Reject {
                return;
            }
        }
    }

    /// Evicts the oldest record, if it was kept for `min_retention`.
    fn evict_oldest(&mut self, now: Micros) -> bool {
        let oldest = self.bare.peek_lru().or_else(|| self.whole.peek_lru());
        let Some((&id, done)) = oldest else { return false };
        if now < end(done.completed, self.limits.min_retention) {
            return false;
        }
        tracing::debug!(record = ?id, "evicted a completed record before its TTL: the store is full");
        self.take_done(&id);
        metrics::evicted(Evicted::Record);
        true
    }
}
