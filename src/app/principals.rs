//! The records of one principal: to export them, and to erase them where a law asks for it.

use super::Idempotency;
use crate::{
    key::{Principal, RecordId},
    settings::Mode,
    store::{Erased, Forgotten, Inspection, StoreError},
};

/// How many records are looked at in one call of the store: they come with their responses.
const AT_ONCE: usize = 50;

impl Idempotency {
    /// The records of a principal in a cache, rows of ledgers among them: at most `limit`, with ids greater than `after`, in
    /// ascending order of their ids. An empty list means that there are no more.
    ///
    /// A record has a tag by which it can be compared with a principal, and no list by principals: every record of the cache
    /// is looked at. A record that only its client's key opens is still [sealed](crate::record::Record::is_sealed).
    ///
    /// # Errors
    /// [`StoreError`] when the store can't list its records, and for an anonymous principal: nothing tells whose records of
    /// anonymous requests are.
    pub async fn records_of_principal(
        &self,
        cache: &str,
        principal: &Principal,
        mut after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Inspection>, StoreError> {
        let mut records = Vec::new();
        while records.len() < limit {
            let page = self.page_of(cache, principal, &mut after).await?;
            let Some(page) = page else { break };
            records.extend(page);
        }
        records.truncate(limit);
        Ok(records)
    }

    /// Erases the records of a principal in a cache, rows of ledgers among them. Their keys can run again.
    ///
    /// An operation that runs is not erased, and neither is its response once it is stored: the answer names it, and the
    /// caller calls again later.
    ///
    /// Log who did it and why, as [`admin_scope`](Self::admin_scope) does.
    ///
    /// # Errors
    /// As for [`records_of_principal`](Self::records_of_principal). Some records may be erased by then.
    pub async fn forget_principal(&self, cache: &str, principal: &Principal) -> Result<Erased, StoreError> {
        let (mut after, mut erased) = (None, Erased::default());
        while let Some(page) = self.page_of(cache, principal, &mut after).await? {
            for record in page {
                match self.forget(cache, &record.id).await? {
                    Forgotten::Removed => erased.removed += 1,
                    Forgotten::Absent => {}
                    Forgotten::InFlight => erased.in_flight.push(record.id),
                }
            }
        }
        Ok(erased)
    }

    /// The records of a principal among the next ones. `None`: there are no more.
    async fn page_of(
        &self,
        cache: &str,
        principal: &Principal,
        after: &mut Option<RecordId>,
    ) -> Result<Option<Vec<Inspection>>, StoreError> {
        if principal.is_anonymous() {
            return Err(StoreError::Unsupported("tell the records of anonymous requests apart"));
        }
        // Tags have nothing to do with the mode.
        let principal = self.stored_ids(Mode::Enforce).index.principal(principal.clone());
        let page = self.list(cache, *after, AT_ONCE).await?;
        // A store that answers at once would keep this worker from its other requests.
        tokio::task::yield_now().await;
        let Some(last) = page.last() else { return Ok(None) };
        *after = Some(last.id);
        Ok(Some(page.into_iter().filter(|record| record.principal == Some(principal.tag(&record.id))).collect()))
    }
}
