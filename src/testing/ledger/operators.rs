//! The rules of the calls for operators.

use super::{LIMIT, Subject, Try, ends, id, row, same};
use crate::{
    key::RecordId,
    ledger::{Ledger, LedgerError, NewRow},
};

impl<L: Ledger> Subject<L> {
    async fn forget(&self, rule: &str, at: u8) -> bool {
        let forgotten = ends(rule, self.ledger.forget(&id(at))).await;
        forgotten.unwrap_or_else(|error| panic!("{rule}: forget: {error}"))
    }

    pub(super) async fn stops_runs_that_began_before_a_forget(&self) {
        let rule = "a forgotten row is gone, and a run that began before commits nothing";
        let before = self.has_none(rule, 1).await;
        self.is_committed(rule, &row(1, 1, &before)).await;
        same("forget says whether there was a row", self.forget(rule, 1).await, true);
        let after = self.has_none(rule, 1).await;
        assert!(after.over.is_some(), "{rule}: there is no tombstone");
        self.is_stale(rule, &row(1, 2, &before)).await;
        same("forget says whether there was a row", self.forget(rule, 1).await, false);
        self.is_stale("also one that began before a second forget", &row(1, 3, &after)).await;
        let last = self.has_none(rule, 1).await;
        let new = row(1, 4, &last);
        self.is_committed("and a run that begins after it commits", &new).await;
        same("and can be forgotten again", self.forget(rule, 1).await, true);
    }

    pub(super) async fn forgets_what_was_never_there(&self) {
        let rule = "forget leaves a tombstone where there was no row";
        let before = self.has_none(rule, 1).await;
        same("forget says whether there was a row", self.forget(rule, 1).await, false);
        self.is_stale(rule, &row(1, 1, &before)).await;
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: the tombstone is listed");
        let settled = self.settle(rule, 1).await;
        assert!(settled.row.is_none(), "{rule}: the tombstone settles as a row");
        self.is_committed(rule, &row(1, 2, &settled)).await;
    }

    pub(super) async fn forgets_a_row_that_is_about_to_be_committed(&self) {
        let rule = "a run whose row was written and not committed when its key was forgotten leaves no row";
        let before = self.has_none(rule, 1).await;
        let new = row(1, 1, &before);
        let tx = self.written(rule, &new).await;
        let commit = async {
            tokio::time::sleep(super::WATCHED).await;
            ends(rule, self.ledger.commit(tx)).await
        };
        let at = id(1);
        let forget = ends(rule, self.ledger.forget(&at));
        let (forgotten, committed) = futures_util::future::join(forget, commit).await;
        match (forgotten, committed) {
            // `forget` waited, and found the row; or the COMMIT failed.
            (Ok(_), Ok(()) | Err(LedgerError::Conflict(_) | LedgerError::Refused(_))) => {
                self.has_none(rule, 1).await;
                match self.unhindered(rule, &row(1, 2, &before)).await {
                    Try::Stale => {}
                    other => panic!("{rule}: expected Stale afterwards, got {other:?}"),
                }
            }
            // `forget` did not wait so long, and says so.
            (Err(LedgerError::Conflict(_) | LedgerError::Unavailable(_)), Ok(())) => self.has(rule, &new).await,
            other => panic!("{rule}: {other:?}"),
        }
    }

    pub(super) async fn lists_in_pages(&self) {
        let rule = "live rows are listed in pages, each once, in the order of their ids";
        let mut ids: Vec<RecordId> = (0..23_u8).map(|n| RecordId::from_bytes([n.wrapping_mul(97); 32])).collect();
        for (n, id) in (0..).zip(&ids) {
            let look = ends(rule, self.ledger.look(id)).await.expect(rule);
            self.committed(rule, &NewRow { id: *id, ..row(0, n, &look) }).await;
        }
        let look = self.has_none(rule, 100).await;
        self.committed(rule, &NewRow { keep: super::BRIEF, ..row(100, 1, &look) }).await;
        self.expires(rule, 100).await;
        self.forget(rule, 101).await;
        ids.sort_unstable();
        let (mut seen, mut after) = (Vec::new(), None);
        let mut pages = 0;
        loop {
            let page = ends(rule, self.ledger.list(after, 10)).await.unwrap_or_else(|error| panic!("{rule}: {error}"));
            assert!(page.len() <= 10, "{rule}: a page of {} rows", page.len());
            pages += 1;
            assert!(pages < 20, "{rule}: {pages} pages within {LIMIT:?}");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|row| row.id));
            assert!(page.iter().all(|row| !row.remaining.is_zero()), "{rule}: an expired row is listed");
        }
        same(rule, seen, ids.clone());
        let one = ends(rule, self.ledger.list(Some(ids[4]), 1)).await.expect(rule);
        same(rule, one.iter().map(|row| row.id).collect::<Vec<_>>(), vec![ids[5]]);
        let found = ends(rule, self.ledger.look(&ids[5])).await.expect(rule).row.expect(rule);
        same("a listed row is the row", &one[0].record, &found.record);
        same("a listed row is the row", (one[0].token, one[0].attempt), (found.token, found.attempt));
    }
}
