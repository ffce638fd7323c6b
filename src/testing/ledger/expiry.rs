//! The rules of expired rows and of old runs.

use std::time::Duration;

use super::{BRIEF, Subject, Try, ends, row, same};
use crate::{
    ledger::{Ledger, NewRow},
    store::OwnerToken,
};

impl<L: Ledger> Subject<L> {
    /// Commits a row and waits until it has expired. Returns the row and a look that came before it.
    async fn expired(&self, rule: &str, at: u8) -> (NewRow, crate::ledger::Look) {
        let before = self.has_none(rule, at).await;
        let new = NewRow { keep: BRIEF, ..row(at, 1, &before) };
        self.committed(rule, &new).await;
        self.expires(rule, at).await;
        (new, before)
    }

    pub(super) async fn counts_an_expired_row_as_none(&self) {
        let rule = "an expired row counts as none, and a look tells its token";
        let (old, _) = self.expired(rule, 1).await;
        let look = self.has_none(rule, 1).await;
        same(rule, look.over, Some(old.token));
        let settled = self.settle(rule, 1).await;
        assert!(settled.row.is_none(), "{rule}: settle finds it");
        same(rule, settled.over, Some(old.token));
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: it is listed");
    }

    pub(super) async fn replaces_only_the_expired_row_that_a_run_saw(&self) {
        let rule = "an expired row is replaced by a run that saw it, and by no other";
        let (old, before) = self.expired(rule, 1).await;
        self.is_stale(rule, &row(1, 2, &before)).await;
        let look = self.has_none(rule, 1).await;
        let guessed = NewRow { over: Some(OwnerToken::random()), ..row(1, 3, &look) };
        self.is_stale(rule, &guessed).await;
        same(rule, self.has_none(rule, 1).await.over, Some(old.token));

        // The run rolls back, so the expired row stays for the next one that saw it.
        let tx = self.written(rule, &row(1, 4, &look)).await;
        ends(rule, self.ledger.rollback(tx)).await;
        same(rule, self.has_none(rule, 1).await.over, Some(old.token));

        let overtaking = NewRow { keep: Duration::from_secs(3), ..row(1, 5, &look) };
        self.is_committed(rule, &overtaking).await;
        let stalled = row(1, 6, &look);
        match self.unhindered(rule, &stalled).await {
            Try::Taken(found) => self.is_row(rule, &found, &overtaking),
            other => panic!("{rule}: a run that was overtaken expected Taken, got {other:?}"),
        }
        let after = self.expires(rule, 1).await;
        same(rule, after.over, Some(overtaking.token));
        self.is_stale("a run that was overtaken stays so when the other's row has expired", &stalled).await;
        self.is_committed(rule, &row(1, 7, &after)).await;
    }

    pub(super) async fn refuses_a_run_that_is_too_old(&self) {
        let rule = "a run that is older than max_run since it looked writes nothing";
        let look = self.has_none(rule, 1).await;
        let max_run = Duration::from_millis(50);
        tokio::time::sleep(max_run * 4).await;
        self.is_stale(rule, &NewRow { max_run, ..row(1, 1, &look) }).await;
        self.has_none(rule, 1).await;
        let look = self.has_none(rule, 1).await;
        let in_time = NewRow { max_run: Duration::from_secs(20), ..row(1, 2, &look) };
        self.is_committed("and one that is younger writes", &in_time).await;
    }

    pub(super) async fn keeps_what_has_expired_lately(&self) {
        let rule = "sweep keeps rows that live or have expired lately";
        let (old, before) = self.expired(rule, 1).await;
        let look = self.has_none(rule, 2).await;
        let live = row(2, 2, &look);
        self.is_committed(rule, &live).await;
        let tombstone = self.has_none(rule, 3).await;
        ends(rule, self.ledger.forget(&super::id(3))).await.expect(rule);
        for max_run in [Duration::ZERO, Duration::from_secs(900)] {
            let swept = ends(rule, self.ledger.sweep(max_run)).await.unwrap_or_else(|error| panic!("{rule}: {error}"));
            same(rule, swept, 0);
        }
        self.has(rule, &live).await;
        same(rule, self.has_none(rule, 1).await.over, Some(old.token));
        self.is_stale("so a run that overslept the row still meets it", &row(1, 3, &before)).await;
        self.is_stale("and so does one whose key was forgotten", &row(3, 3, &tombstone)).await;
    }
}
