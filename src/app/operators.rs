//! Calls for operators: inspect, forget and list records in code. [`Idempotency::admin_scope`] is the same over HTTP.

use std::sync::Arc;

use super::Idempotency;
use crate::{
    claim::StoreHandle,
    key::{Principal, RecordId, record_id::RecordIds},
    store::{Forgotten, Inspection, Step, StoreError},
};

impl Idempotency {
    /// The id of the record of `key`. Holds only where the encoder uses nothing but the key and `scope` is `principal`,
    /// which are the defaults; elsewhere find ids by [`list`](Self::list).
    #[must_use]
    pub fn record_id(&self, cache: &str, principal: &Principal, key: &str) -> RecordId {
        let namespace = self.settings().cache(cache).map_or_else(String::new, |settings| settings.namespace);
        let cache = cache.to_ascii_lowercase();
        let id = RecordIds::new(&namespace, &cache).of(principal, key, None);
        self.stored_ids(self.settings().mode).of(id)
    }

    /// Tells what is known of a record: in the ledgers of the cache's wraps, or in its store.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't answer, or no cache has this name.
    pub async fn inspect(&self, cache: &str, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        for ledger in self.ledgers(cache) {
            // With the memory of a lost owner or steps, both have something to tell, and the row is the answer.
            if let Some(row) = ledger.look(*id, self.settings().storage.timeout).await?.row {
                return Ok(Some(row.into()));
            }
        }
        self.handle(cache)?.store.inspect(id).await
    }

    /// The record of `key`, as [`inspect`](Self::inspect) tells it. Opens a record that only its client's key opens
    /// (`encryption.mode = client`). Holds where [`record_id`](Self::record_id) does.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn find(&self, cache: &str, principal: &Principal, key: &str) -> Result<Option<Inspection>, StoreError> {
        let mut found = self.inspect(cache, &self.record_id(cache, principal, key)).await?;
        if let Some(seen) = &mut found {
            self.handle(cache)?.open(key, principal, seen);
        }
        Ok(found)
    }

    /// The steps of an operation that has no stored response yet, with their results as JSON: what its handler has saved, and
    /// the next attempt finds. With `encryption.mode = client` the results stay sealed.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn steps(&self, cache: &str, id: &RecordId) -> Result<Vec<Step>, StoreError> {
        self.handle(cache)?.store.steps(id).await
    }

    /// Forgets a completed record, or one whose owner was lost, so that its key can be used again. A live claim stays, and
    /// so does a row of a ledger beside it.
    ///
    /// Log who did it and why, as [`admin_scope`](Self::admin_scope) does.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn forget(&self, cache: &str, id: &RecordId) -> Result<Forgotten, StoreError> {
        let mut forgotten = self.handle(cache)?.store.forget(id).await?;
        if forgotten == Forgotten::InFlight {
            return Ok(forgotten);
        }
        for ledger in self.ledgers(cache) {
            if ledger.forget(*id).await? {
                forgotten = Forgotten::Removed;
            }
        }
        Ok(forgotten)
    }

    /// Lists at most `limit` records, rows of ledgers among them, with ids greater than `after`, in ascending order of their ids. An empty page
    /// means that there are no more.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn list(
        &self,
        cache: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Inspection>, StoreError> {
        let mut records = self.handle(cache)?.store.list(after, limit).await?;
        for ledger in self.ledgers(cache) {
            let rows = ledger.list(after, limit).await?;
            records.retain(|record| rows.iter().all(|row| row.id != record.id));
            records.extend(rows.into_iter().map(Inspection::from));
            records.sort_by_key(|record| record.id);
            records.truncate(limit);
        }
        Ok(records)
    }

    fn handle(&self, cache: &str) -> Result<&Arc<StoreHandle>, StoreError> {
        self.cache(cache).map_err(StoreError::unavailable)
    }
}
