//! The ids of all records, for operators.
//!
//! Redis has no order, so a page needs a look at all names. Many pages in a row need one look: its result is kept for a
//! moment.

use std::time::Duration;

use bb8_redis::redis;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connections::Connections;
use crate::{key::RecordId, store::StoreError};

/// How old the result of a look may be when the next page is asked for.
const KEPT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Names(Mutex<Option<Seen>>);

/// The ids that one scan has found.
struct Seen {
    at: Instant,
    /// In ascending order.
    ids: Vec<RecordId>,
}

impl Names {
    /// The `limit` smallest ids greater than `after`. The first page is of this moment; later ones may be of a moment ago.
    pub(super) async fn after(
        &self,
        after: Option<RecordId>,
        limit: usize,
        connections: &Connections,
        prefix: &str,
    ) -> Result<Vec<RecordId>, StoreError> {
        if let Some(after) = after
            && let Some(page) = self.kept(after, limit)
        {
            return Ok(page);
        }
        let ids = scan(connections, prefix).await?;
        let page = page_of(&ids, after, limit);
        *self.0.lock() = (!page.is_empty()).then(|| Seen { at: Instant::now(), ids });
        Ok(page)
    }

    fn kept(&self, after: RecordId, limit: usize) -> Option<Vec<RecordId>> {
        let mut seen = self.0.lock();
        let page = page_of(&seen.as_ref().filter(|seen| seen.at.elapsed() < KEPT)?.ids, Some(after), limit);
        if page.is_empty() {
            // The end of the listing.
            *seen = None;
        }
        Some(page)
    }
}

fn page_of(ids: &[RecordId], after: Option<RecordId>, limit: usize) -> Vec<RecordId> {
    let from = after.map_or(0, |after| ids.partition_point(|id| *id <= after));
    ids[from..].iter().take(limit).copied().collect()
}

async fn scan(connections: &Connections, prefix: &str) -> Result<Vec<RecordId>, StoreError> {
    let mut ids = Vec::new();
    for server in connections.servers().await? {
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}*", super::escape(prefix))).arg("COUNT").arg(1000);
            let (next, names): (u64, Vec<String>) = connections.command_at(&server, scan).await?;
            ids.extend(names.iter().filter_map(|name| name[prefix.len()..].parse::<RecordId>().ok()));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    ids.sort_unstable();
    // A record that moves from one node of a cluster to another is seen at both.
    ids.dedup();
    Ok(ids)
}
