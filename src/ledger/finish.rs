//! The end of a transaction: the row is written, the transaction is committed, and a lost answer is settled.

use std::time::Duration;

use tokio::{runtime::Handle, time::timeout};

use super::{
    AnyLedger, AnyTx, Cause, LedgerError, NewRow, Row, Write,
    any::{Task, give_back},
};
use crate::{key::RecordId, observe::metrics, store::OwnerToken};

/// The end of a transaction that was to be committed with its row.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Changes and row are committed together.
    Committed,
    /// Nothing of it is committed: this row was first.
    Superseded(Box<Row>),
    /// Nothing of it is committed.
    RolledBack(Why),
    /// The answer of COMMIT was lost, and the ledger could not tell in time.
    Unsettled,
}

/// Why nothing was committed.
#[derive(Debug)]
pub(crate) enum Why {
    /// Another try may succeed: a conflict, or a database that can't be reached.
    Passing(Cause),
    /// The run is too old, or an operator has forgotten the key since it began.
    Stale,
    /// The database refused.
    Refused(Cause),
    /// The handler has ended the transaction itself.
    Misused,
}

/// Writes the row, commits, and settles. To be run in a task, so that nothing cancels it.
pub(crate) async fn commit_with_row(ledger: &AnyLedger, mut tx: AnyTx, row: &NewRow) -> Verdict {
    let (writer, new) = (ledger.clone(), row.clone());
    let write = Task::in_place(async move {
        let written = writer.write(&mut tx, &new).await;
        (tx, written)
    });
    // A call that is not answered goes on in its task, and its transaction is dropped there.
    let Ok(Some((tx, written))) = timeout(patient(row), write).await else {
        return Verdict::RolledBack(Why::Passing("the write of a row was not answered".into()));
    };
    let why = match written {
        Ok(Write::Written) => return commit_written(ledger, tx, row).await,
        Ok(Write::Taken(first)) => {
            ledger.rollback(tx).await;
            metrics::superseded();
            return Verdict::Superseded(first);
        }
        Ok(Write::Stale) => Why::Stale,
        Ok(Write::Misused) => Why::Misused,
        Err(LedgerError::Conflict(cause)) => {
            ledger.rollback(tx).await;
            return after_conflict(ledger, row, cause).await;
        }
        Err(error) => Why::of(error),
    };
    ledger.rollback(tx).await;
    Verdict::RolledBack(why)
}

/// How long a statement may stay unanswered. The database gives up waiting for locks far earlier.
fn patient(row: &NewRow) -> Duration {
    row.patience.saturating_mul(10)
}

async fn commit_written(ledger: &AnyLedger, tx: AnyTx, row: &NewRow) -> Verdict {
    let committed = timeout(patient(row), Task::in_place(ledger.commit(tx))).await;
    let lost = || Err(LedgerError::Unknown("it was not answered in time".into()));
    match committed.ok().flatten().unwrap_or_else(lost) {
        Ok(()) => Verdict::Committed,
        Err(LedgerError::Conflict(cause)) => after_conflict(ledger, row, cause).await,
        // A connection that broke may have broken after the COMMIT.
        Err(LedgerError::Unknown(cause) | LedgerError::Unavailable(cause)) => {
            tracing::warn!(error = &*cause as &dyn std::error::Error, record = ?row.id, "the answer of a COMMIT was lost");
            match settle(ledger, row.id, row.token, row.patience).await {
                Ok(settled) => settled.verdict(cause),
                Err(_) => Verdict::Unsettled,
            }
        }
        Err(error) => Verdict::RolledBack(Why::of(error)),
    }
}

/// A serializable database says "conflict" where others say that the row is taken.
async fn after_conflict(ledger: &AnyLedger, row: &NewRow, cause: Cause) -> Verdict {
    match ledger.settle(row.id, row.patience).await {
        Ok(look) => match look.row {
            Some(first) => {
                metrics::superseded();
                Verdict::Superseded(Box::new(first))
            }
            None => Verdict::RolledBack(Why::Passing(cause)),
        },
        Err(_) => Verdict::RolledBack(Why::Passing(cause)),
    }
}

/// The row that is committed under an id after a COMMIT whose answer was lost.
pub(crate) enum Settled {
    /// The row of that COMMIT, unless it has expired since.
    Ours(Option<Box<Row>>),
    /// The row of another run.
    Theirs(Box<Row>),
    /// Nothing.
    Nothing,
}

impl Settled {
    fn verdict(self, cause: Cause) -> Verdict {
        match self {
            Self::Ours(_) => Verdict::Committed,
            Self::Theirs(row) => Verdict::Superseded(row),
            Self::Nothing => Verdict::RolledBack(Why::Passing(cause)),
        }
    }
}

/// Asks what is committed under an id, once.
pub(crate) async fn settle(
    ledger: &AnyLedger,
    id: RecordId,
    token: OwnerToken,
    patience: Duration,
) -> Result<Settled, LedgerError> {
    let look = ledger.settle(id, patience).await?;
    let settled = match look.row {
        Some(row) if row.token == token => Settled::Ours(Some(Box::new(row))),
        Some(row) => Settled::Theirs(Box::new(row)),
        None if look.over == Some(token) => Settled::Ours(None),
        None => Settled::Nothing,
    };
    metrics::settled();
    Ok(settled)
}

/// Commits a transaction without a row. To be run in a task.
pub(crate) async fn commit_without_row(ledger: &AnyLedger, mut tx: AnyTx) -> Result<(), LedgerError> {
    // The answer to a COMMIT of a transaction that has failed is a success.
    match ledger.probe(&mut tx).await {
        Ok(()) => ledger.commit(tx).await,
        Err(error) => {
            ledger.rollback(tx).await;
            Err(error)
        }
    }
}

impl Why {
    pub(crate) fn of(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable(cause)
            | LedgerError::Conflict(cause)
            | LedgerError::Unknown(cause)
            | LedgerError::Unreadable(cause) => Self::Passing(cause),
            LedgerError::Refused(cause) => Self::Refused(cause),
        }
    }
}

impl AnyLedger {
    /// Rolls back in a task that nothing cancels.
    pub(crate) fn rollback_in_task(&self, tx: AnyTx) -> Task<()> {
        Task::spawn(self.rollback(tx))
    }

    /// Rolls back what is dropped where nobody can wait. Without a runtime the connection is left to its database.
    pub(crate) fn rollback_detached(&self, tx: AnyTx) {
        if Handle::try_current().is_ok() {
            drop(self.rollback_in_task(tx));
        } else {
            give_back(tx);
        }
    }
}
