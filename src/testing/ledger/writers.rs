//! The rules of two runs of one operation, and of what settles between them.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::{Either, join_all, select};

use super::{LIMIT, LONG, SHORT, Subject, Try, WATCHED, ends, id, row, same};
use crate::ledger::{Ledger, LedgerError, NewRow};

impl<L: Ledger> Subject<L> {
    pub(super) async fn gives_the_first_answer_to_later_writers(&self) {
        let rule = "an id is unique while its row lives: later writers get that row";
        let look = self.has_none(rule, 1).await;
        let first = row(1, 1, &look);
        self.is_committed(rule, &first).await;
        // The same operation, another one under the same key, and the same run again.
        for later in [row(1, 1, &look), row(1, 2, &look), first.clone()] {
            match self.unhindered(rule, &later).await {
                Try::Taken(found) => self.is_row(rule, &found, &first),
                other => panic!("{rule}: expected Taken, got {other:?}"),
            }
        }
        let late = self.look(rule, 1).await;
        match self.unhindered(rule, &row(1, 3, &late)).await {
            Try::Taken(found) => self.is_row(rule, &found, &first),
            other => panic!("{rule}: expected Taken, got {other:?}"),
        }
        self.has(rule, &first).await;
    }

    /// Runs `second` beside an open transaction, which `end` ends once `second` was seen to wait.
    async fn beside<T>(&self, rule: &str, second: impl Future<Output = T>, end: impl Future<Output = ()>) -> (T, bool) {
        let mut second = pin!(second);
        match select(second.as_mut(), pin!(tokio::time::sleep(WATCHED))).await {
            Either::Left((early, _)) => {
                ends(rule, end).await;
                (early, false)
            }
            Either::Right(_) => {
                let ((), late) = futures_util::future::join(ends(rule, end), ends(rule, second)).await;
                (late, true)
            }
        }
    }

    pub(super) async fn lets_a_second_writer_wait_for_a_commit(&self) {
        let rule = "a second writer waits for the first, and gets its row when it is committed";
        let look = self.has_none(rule, 1).await;
        let (first, second) = (row(1, 1, &look), row(1, 2, &look));
        let tx = self.written(rule, &first).await;
        let (what, _) = self.beside(rule, self.attempt(rule, &second), self.commit(rule, tx)).await;
        match what {
            Try::Taken(found) => self.is_row(rule, &found, &first),
            Try::Hindered => match self.settle(rule, 1).await.row {
                Some(found) => self.is_row("settle tells the winner of a conflict", &found, &first),
                None => panic!("{rule}: after a conflict, settle does not tell the winner"),
            },
            other => panic!("{rule}: expected Taken, got {other:?}"),
        }
        self.has(rule, &first).await;
    }

    pub(super) async fn lets_a_second_writer_wait_for_a_rollback(&self) {
        let rule = "a second writer waits for the first, and writes when that one is rolled back";
        let look = self.has_none(rule, 1).await;
        let (first, second) = (row(1, 1, &look), row(1, 2, &look));
        let tx = self.written(rule, &first).await;
        let rollback = self.ledger.rollback(tx);
        let (what, waited) = self.beside(rule, self.attempt(rule, &second), rollback).await;
        match what {
            Try::Committed if waited => self.has(rule, &second).await,
            Try::Committed => panic!("{rule}: it did not wait"),
            Try::Hindered => self.is_committed(rule, &second).await,
            other => panic!("{rule}: expected Written, got {other:?}"),
        }
    }

    pub(super) async fn lets_no_writer_wait_longer_than_its_patience(&self) {
        let rule = "a writer waits no longer than its patience, and then says Conflict";
        let look = self.has_none(rule, 1).await;
        let (first, second) = (row(1, 1, &look), NewRow { patience: SHORT, ..row(1, 2, &look) });
        let tx = self.written(rule, &first).await;
        let start = Instant::now();
        match self.attempt(rule, &second).await {
            Try::Hindered => {}
            other => panic!("{rule}: expected Conflict, got {other:?}"),
        }
        assert!(start.elapsed() < LIMIT / 2, "{rule}: it took {:?}", start.elapsed());
        self.has_none(rule, 1).await;
        self.commit("and does not harm the first", tx).await;
        self.has(rule, &first).await;
    }

    pub(super) async fn lets_one_of_many_writers_win(&self) {
        let rule = "of many runs at once, one is committed, and the others get its row";
        for at in 1..=5 {
            let look = self.has_none(rule, at).await;
            let rows: Vec<NewRow> = (1..=6).map(|n| row(at, n, &look)).collect();
            let tries = join_all(rows.iter().map(|row| self.attempt(rule, row))).await;
            let won: Vec<usize> = (0..rows.len()).filter(|&n| matches!(tries[n], Try::Committed)).collect();
            assert!(won.len() < 2, "{rule}: {} were committed", won.len());
            let Some(&winner) = won.first() else {
                // Each stood in the way of the others.
                assert!(tries.iter().all(|one| matches!(one, Try::Hindered)), "{rule}: {tries:?}");
                self.has_none(rule, at).await;
                continue;
            };
            self.has(rule, &rows[winner]).await;
            for one in &tries {
                match one {
                    Try::Taken(found) => self.is_row(rule, found, &rows[winner]),
                    Try::Stale => panic!("{rule}: a run is Stale, and nothing had expired"),
                    Try::Committed | Try::Hindered => {}
                }
            }
        }
    }

    pub(super) async fn settles_what_is_over(&self) {
        let rule = "settle tells what is committed, and leaves nothing";
        for _ in 0..2 {
            let settled = self.settle(rule, 1).await;
            assert!(settled.row.is_none() && settled.over.is_none(), "{rule}: {settled:?}");
        }
        let look = self.has_none(rule, 1).await;
        assert!(look.over.is_none(), "{rule}: it left an expired row");
        let listed = ends(rule, self.ledger.list(None, 10)).await.expect(rule);
        assert!(listed.is_empty(), "{rule}: it left a row");
        let settled = self.settle(rule, 1).await;
        let new = row(1, 1, &settled);
        self.is_committed("a run may begin by settle instead of look", &new).await;
        match self.settle(rule, 1).await.row {
            Some(found) => self.is_row(rule, &found, &new),
            None => panic!("{rule}: it does not find the row"),
        }
        self.has(rule, &new).await;
    }

    pub(super) async fn waits_for_an_open_transaction_to_settle(&self) {
        let rule = "settle waits for a transaction with a row of the id";
        let look = self.has_none(rule, 1).await;
        let first = row(1, 1, &look);
        let tx = self.written(rule, &first).await;
        let (settled, waited) = self.beside(rule, self.settle(rule, 1), self.ledger.rollback(tx)).await;
        assert!(waited, "{rule}: it answered while the transaction was open");
        assert!(settled.row.is_none(), "{rule}: it found a row that was rolled back");
        let tx = self.written(rule, &first).await;
        let (settled, waited) = self.beside(rule, self.settle(rule, 1), self.commit(rule, tx)).await;
        assert!(waited, "{rule}: it answered while the transaction was open");
        match settled.row {
            Some(found) => self.is_row(rule, &found, &first),
            None => panic!("{rule}: it did not find the row that was committed meanwhile"),
        }
    }

    pub(super) async fn settles_no_longer_than_its_patience(&self) {
        let rule = "settle says Conflict when a transaction stays open for longer than its patience";
        let look = self.has_none(rule, 1).await;
        let first = row(1, 1, &look);
        let tx = self.written(rule, &first).await;
        let start = Instant::now();
        let settled = ends(rule, self.ledger.settle(&id(1), SHORT)).await;
        assert!(matches!(settled, Err(LedgerError::Conflict(_))), "{rule}: got {settled:?}");
        assert!(start.elapsed() < LONG, "{rule}: it took {:?}", start.elapsed());
        let looked = tokio::time::timeout(Duration::from_secs(5), self.ledger.look(&id(1))).await;
        let looked = looked.expect("look does not wait for open transactions").expect(rule);
        assert!(looked.row.is_none(), "{rule}: the row of an open transaction is seen");
        self.commit("and does not harm the transaction", tx).await;
        same(rule, self.settle(rule, 1).await.row.map(|row| row.token), Some(first.token));
    }
}
