//! Calls for operators: inspect, forget and list records in code. [`Idempotency::admin_scope`] is the same over HTTP.

use std::sync::Arc;

use super::Idempotency;
use crate::{
    claim::StoreHandle,
    key::{Principal, RecordId, record_id::RecordIds},
    store::{Forgotten, Inspection, StoreError},
};

impl Idempotency {
    /// The id of the record of `key`. Holds only where the encoder uses nothing but the key and `scope` is `principal`,
    /// which are the defaults; elsewhere find ids by [`list`](Self::list).
    #[must_use]
    pub fn record_id(&self, cache: &str, principal: &Principal, key: &str) -> RecordId {
        let namespace = self.settings().cache(cache).map_or_else(String::new, |settings| settings.namespace);
        let cache = cache.to_ascii_lowercase();
        self.settings().mode.record_id(RecordIds::new(&namespace, &cache).of(principal, key, None))
    }

    /// Tells what is known of a record.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't answer, or no cache has this name.
    pub async fn inspect(&self, cache: &str, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.handle(cache)?.store.inspect(id).await
    }

    /// Forgets a completed record, or one whose owner was lost, so that its key can be used again. A live claim stays.
    ///
    /// Log who did it and why, as [`admin_scope`](Self::admin_scope) does.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn forget(&self, cache: &str, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.handle(cache)?.store.forget(id).await
    }

    /// Lists at most `limit` records with ids greater than `after`, in ascending order of their ids. An empty page
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
        self.handle(cache)?.store.list(after, limit).await
    }

    fn handle(&self, cache: &str) -> Result<&Arc<StoreHandle>, StoreError> {
        self.cache(cache).map_err(StoreError::unavailable)
    }
}
