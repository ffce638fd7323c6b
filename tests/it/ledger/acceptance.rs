//! The suite that every ledger must pass: the ledger in memory passes, and ledgers that break a rule do not.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use actix_idempotency::{
    key::RecordId,
    ledger::{Ledger, LedgerError, Look, MemoryLedger, MemoryTx, NewRow, Row, Write},
    testing::{FaultyLedger, accept_ledger},
};
use futures_util::FutureExt as _;

#[actix_web::test]
async fn the_ledger_in_memory_passes() {
    accept_ledger(async || MemoryLedger::default()).await;
}

#[actix_web::test]
async fn a_ledger_whose_faults_are_not_planned_passes() {
    accept_ledger(async || FaultyLedger::new(MemoryLedger::default()).0).await;
}

/// A way to break a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    ShowsExpiredRows,
    ForgetsNothing,
    ForgetsWithoutATombstone,
    ReplacesAnyExpiredRow,
    KeepsAFixedAttempt,
    SettlesByALook,
    SettleLeavesATombstone,
    RunsOfAnyAge,
    SaysStaleInsteadOfTaken,
    WritesAtOnce,
    ListsAllInOnePage,
    ListsFromTheBeginning,
    CountsBodies,
    FailsItsCheck,
    CommitsOnRollback,
}

#[derive(Clone)]
struct BrokenLedger(MemoryLedger, Broken);

impl Ledger for BrokenLedger {
    type Tx = MemoryTx;
    type Options = ();
    type Kept = ();

    fn name(&self) -> String {
        self.0.name()
    }

    async fn look(&self, id: &RecordId) -> Result<Look, LedgerError> {
        let mut look = self.0.look(id).await?;
        if self.1 == Broken::ShowsExpiredRows && look.over.is_some() {
            look.over = None;
        }
        if self.1 == Broken::KeepsAFixedAttempt {
            look.row = look.row.map(|row| row.attempt(1));
        }
        Ok(look)
    }

    async fn begin(&self, kept: Option<()>, (): &(), max_run: Duration) -> Result<MemoryTx, LedgerError> {
        self.0.begin(kept, &(), max_run).await
    }

    async fn write(&self, tx: &mut MemoryTx, row: &NewRow) -> Result<Write, LedgerError> {
        let mut row = row.clone();
        match self.1 {
            Broken::RunsOfAnyAge => row.max_run = Duration::from_secs(86400),
            Broken::ReplacesAnyExpiredRow => row.over = self.0.look(&row.id).await?.over,
            Broken::CountsBodies => row.record = row.record.without_body(),
            _ => {}
        }
        let written = self.0.write(tx, &row).await?;
        if self.1 == Broken::WritesAtOnce {
            let mut other = self.0.begin(None, &(), Duration::from_secs(1)).await?;
            std::mem::swap(tx, &mut other);
            self.0.commit(other).await?;
        }
        Ok(match written {
            Write::Taken(_) if self.1 == Broken::SaysStaleInsteadOfTaken => Write::Stale,
            written => written,
        })
    }

    async fn probe(&self, tx: &mut MemoryTx) -> Result<(), LedgerError> {
        self.0.probe(tx).await
    }

    async fn commit(&self, tx: MemoryTx) -> Result<(), LedgerError> {
        self.0.commit(tx).await
    }

    async fn rollback(&self, tx: MemoryTx) {
        if self.1 == Broken::CommitsOnRollback {
            let _ = self.0.commit(tx).await;
        }
    }

    async fn settle(&self, id: &RecordId, patience: Duration) -> Result<Look, LedgerError> {
        match self.1 {
            Broken::SettlesByALook => self.0.look(id).await,
            Broken::SettleLeavesATombstone => {
                let look = self.0.settle(id, patience).await?;
                if look.row.is_none() {
                    self.0.forget(id).await?;
                }
                Ok(look)
            }
            _ => self.0.settle(id, patience).await,
        }
    }

    async fn forget(&self, id: &RecordId) -> Result<bool, LedgerError> {
        match self.1 {
            Broken::ForgetsNothing => Ok(self.0.look(id).await?.row.is_some()),
            Broken::ForgetsWithoutATombstone => {
                let was_there = self.0.look(id).await?.row.is_some();
                if was_there {
                    self.0.lose_rows();
                }
                Ok(was_there)
            }
            _ => self.0.forget(id).await,
        }
    }

    async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        match self.1 {
            Broken::ListsAllInOnePage => self.0.list(after, usize::MAX).await,
            Broken::ListsFromTheBeginning => self.0.list(None, limit).await,
            _ => self.0.list(after, limit).await,
        }
    }

    async fn sweep(&self, max_run: Duration) -> Result<u64, LedgerError> {
        self.0.sweep(max_run).await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        if self.1 == Broken::FailsItsCheck {
            return Err(LedgerError::Refused("on purpose".into()));
        }
        self.0.check().await
    }
}

/// Runs the suite on a broken ledger. Returns what it says.
async fn refusal_of(broken: Broken) -> String {
    let suite = accept_ledger(async || BrokenLedger(MemoryLedger::default(), broken));
    let ended = AssertUnwindSafe(suite).catch_unwind().await;
    let panic: Box<dyn Any + Send> = ended.expect_err(&format!("{broken:?} passes"));
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap()
}

#[actix_web::test]
async fn a_ledger_that_breaks_a_rule_is_refused_with_the_promise() {
    for (broken, promise) in [
        (Broken::ShowsExpiredRows, "an expired row counts as none"),
        (Broken::ForgetsNothing, "a forgotten row is gone"),
        (Broken::ForgetsWithoutATombstone, "there is no tombstone"),
        (Broken::ReplacesAnyExpiredRow, "an expired row is replaced by a run that saw it"),
        (Broken::KeepsAFixedAttempt, "a row is seen once it is committed"),
        (Broken::SettlesByALook, "settle waits for a transaction"),
        (Broken::SettleLeavesATombstone, "settle tells what is committed, and leaves nothing"),
        (Broken::RunsOfAnyAge, "a run that is older than max_run"),
        (Broken::SaysStaleInsteadOfTaken, "an id is unique while its row lives"),
        (Broken::WritesAtOnce, "a row is seen once it is committed, and not before"),
        (Broken::ListsAllInOnePage, "live rows are listed in pages"),
        (Broken::ListsFromTheBeginning, "live rows are listed in pages"),
        (Broken::CountsBodies, "a row is seen once it is committed"),
        (Broken::FailsItsCheck, "`check` passes"),
        (Broken::CommitsOnRollback, "a transaction that was rolled back leaves nothing"),
    ] {
        let said = refusal_of(broken).await;
        assert!(said.contains(promise), "{broken:?}: {said}");
    }
}
