//! How a shard keeps within its bounds: what it gives up when it is full, and in which order.

use super::shard::{SWEEP_BATCH, Shard, cost};
use crate::{
    observe::metrics::{self, Evicted},
    store::{
        OnFull, StoreError,
        clock::{Micros, end},
    },
};

impl Shard {
    /// Makes room for one more claim.
    ///
    /// # Errors
    /// [`StoreError::Full`] when nothing may be evicted.
    pub(super) fn make_room(&mut self, now: Micros) -> Result<(), StoreError> {
        let full = |shard: &Self| {
            shard.len() >= shard.limits.max_entries
                || (shard.bytes >= shard.limits.max_bytes
                    && (shard.limits.on_full == OnFull::Reject || shard.with_body.is_empty()))
        };
        while full(self) && self.free_due(now, SWEEP_BATCH) {}
        while full(self) {
            if self.limits.on_full == OnFull::Reject || !self.evict_oldest(now) {
                return Err(StoreError::Full);
            }
        }
        Ok(())
    }

    /// After a completion: gives up bodies and records until the shard is within `max_bytes` again, as far as it may.
    pub(super) fn shrink(&mut self, now: Micros) {
        while self.bytes > self.limits.max_bytes {
            // Records without a body may take half of the room. Beyond that the oldest of them go before any more
            // bodies.
            let shrinks = self.limits.on_full == OnFull::Shrink;
            if shrinks && self.bytes_without_body > self.limits.max_bytes / 2 && self.evict_oldest(now) {
                continue;
            }
            let gives_up = match self.limits.on_full {
                OnFull::Shrink => self.with_body.pop_lru(),
                // Nothing older may go: the newest record itself does without a body.
                OnFull::Reject => {
                    self.with_body.peek_mru().map(|(id, _)| *id).and_then(|id| self.with_body.pop_entry(&id))
                }
            };
            let Some((id, mut completed)) = gives_up else {
                while self.bytes > self.limits.max_bytes && self.evict_oldest(now) {}
                return;
            };
            metrics::evicted(Evicted::Body);
            self.bytes -= cost(&completed);
            completed.record = completed.record.with_body(None);
            self.bytes += cost(&completed);
            self.bytes_without_body += cost(&completed);
            self.without_body.put(id, completed);
            if self.limits.on_full == OnFull::Reject {
                return;
            }
        }
    }

    /// Evicts the oldest record, if it was kept for `min_retention`. Whether it was.
    fn evict_oldest(&mut self, now: Micros) -> bool {
        let oldest = self.without_body.peek_lru().or_else(|| self.with_body.peek_lru());
        let Some((&id, completed)) = oldest else { return false };
        if now < end(completed.since, self.limits.min_retention) {
            return false;
        }
        tracing::debug!(record = ?id, "evicted a completed record before its TTL: the store is full");
        self.take_completed(&id);
        metrics::evicted(Evicted::Record);
        true
    }
}
