//! The contract between the middleware and a ledger.

use std::{any::Any, error::Error as StdError, time::Duration};

use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    record::Record,
    store::{Inspection, Moment, OwnerToken, RecordState, StoreError},
};

/// A table of committed answers in the database in which handlers make their changes.
///
/// The row of an operation is inserted by the last statement of the handler's own transaction. Its primary key is the record
/// id, so whoever commits first wins, and the rows of anybody else roll back with their answer.
///
/// The middleware never cancels a call: one whose request is dropped goes on as a task of its own. `storage.timeout` bounds how long a
/// request waits for [`look`](Self::look) and [`settle`](Self::settle). `settle`, [`forget`](Self::forget),
/// [`list`](Self::list) and [`sweep`](Self::sweep) are called on a background thread, so they need connections of their own.
///
/// [`testing::accept_ledger`](crate::testing::accept_ledger) checks an implementation.
pub trait Ledger: Clone + Send + Sync + 'static {
    /// An open transaction: what a handler gets by [`Tx`](super::Tx). Its drop must roll back sooner or later.
    type Tx: Send + 'static;

    /// How a transaction can differ from others of this ledger: its isolation level, say.
    /// [`Transactions::with`](super::Transactions::with) chooses; elsewhere it is the default.
    type Options: Clone + Default + Send + Sync + 'static;

    /// The connection that a look can leave for the transaction of the same request, which saves taking another one from a
    /// pool. `()` where there is nothing to leave. Its drop must give the connection back.
    type Kept: Send + 'static;

    /// Names the ledger to operators, and tells ledgers of one process apart: the database and the table, without secrets.
    /// Values with the same name are one ledger.
    fn name(&self) -> String;

    /// Reads the row of an operation. An expired row counts as none.
    fn look(&self, id: &RecordId) -> impl Future<Output = Result<Look, LedgerError>> + Send;

    /// As [`look`](Self::look), for a request that will probably run. It is dropped at once if the request doesn't, or if
    /// its handler wants no transaction when it is first polled. Default: keeps nothing.
    fn look_and_keep(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<(Look, Option<Self::Kept>), LedgerError>> + Send {
        async { Ok((self.look(id).await?, None)) }
    }

    /// Begins a transaction, on the connection that was kept or on another one. `max_run`: how long it may be idle, at most.
    fn begin(
        &self,
        kept: Option<Self::Kept>,
        options: &Self::Options,
        max_run: Duration,
    ) -> impl Future<Output = Result<Self::Tx, LedgerError>> + Send;

    /// Inserts the row. The call waits for another transaction that has inserted a row of this id, up to `row.patience`.
    ///
    /// Only an expired row whose token is `row.over` is replaced. Nothing is written for a run that is older
    /// than `row.max_run` since `row.looked_at`, by the database's clock.
    fn write(&self, tx: &mut Self::Tx, row: &NewRow) -> impl Future<Output = Result<Write, LedgerError>> + Send;

    /// Fails if the transaction can't be committed any more: for transactions without a row.
    fn probe(&self, tx: &mut Self::Tx) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Commits. [`LedgerError::Unknown`] when the answer was lost, any other error when nothing was committed.
    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Rolls back. A transaction that can't be reached any more rolls back by itself.
    fn rollback(&self, tx: Self::Tx) -> impl Future<Output = ()> + Send;

    /// As [`look`](Self::look), but waits for transactions that have inserted a row of this id, so that its answer stays.
    /// [`LedgerError::Conflict`] when one of them is still open after `patience`.
    fn settle(&self, id: &RecordId, patience: Duration) -> impl Future<Output = Result<Look, LedgerError>> + Send;

    /// Puts a row that has expired in place of the operation's, so that a run that began before commits nothing. `true`:
    /// there was a row that had not expired.
    fn forget(&self, id: &RecordId) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// At most `limit` rows that have not expired, with ids greater than `after`, in ascending order.
    fn list(&self, after: Option<RecordId>, limit: usize)
    -> impl Future<Output = Result<Vec<Row>, LedgerError>> + Send;

    /// Deletes some rows that expired more than `max_run` and a minute ago, and tells how many.
    fn sweep(&self, max_run: Duration) -> impl Future<Output = Result<u64, LedgerError>> + Send;

    /// Tries the statements in a transaction that is rolled back: whether the table is there, and may be read and written.
    fn check(&self) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Whether an error of a closure given to [`Transactions::run`](super::Transactions::run) says that another try may
    /// succeed. `error` is the closure's error as it is. Default: never.
    fn may_retry(&self, error: &dyn Any) -> bool {
        let _ = error;
        false
    }
}

/// The row of a committed operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The record id.
    pub id: RecordId,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The token of the run that committed it.
    pub token: OwnerToken,
    /// How often the key was claimed until then.
    pub attempt: u32,
    /// The principal's tag.
    pub principal_tag: PrincipalTag,
    /// How long the row is still kept.
    pub remaining: Duration,
    /// The response.
    pub record: Record,
}

impl Row {
    /// The row that a ledger has read.
    #[must_use]
    pub const fn new(
        id: RecordId,
        fingerprint: Fingerprint,
        token: OwnerToken,
        principal_tag: PrincipalTag,
        remaining: Duration,
        record: Record,
    ) -> Self {
        Self { id, fingerprint, token, attempt: 1, principal_tag, remaining, record }
    }

    /// Sets [`attempt`](Self::attempt).
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }
}

impl From<Row> for Inspection {
    fn from(row: Row) -> Self {
        Self {
            attempt: row.attempt,
            record: Some(row.record),
            fingerprint: Some(row.fingerprint),
            owner: Some(row.token),
            principal: Some(row.principal_tag),
            ..Self::new(row.id, RecordState::Completed, row.remaining)
        }
    }
}

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> Self {
        Self::unavailable(error)
    }
}

/// The answer of a ledger to a look at an operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Look {
    /// The row, unless there is none or it has expired.
    pub row: Option<Row>,
    /// The token of an expired row. A run that begins after this look may replace it.
    pub over: Option<OwnerToken>,
    /// The database's clock.
    pub looked_at: Moment,
}

impl Look {
    /// An answer with these contents.
    #[must_use]
    pub const fn new(row: Option<Row>, over: Option<OwnerToken>, looked_at: Moment) -> Self {
        Self { row, over, looked_at }
    }
}

/// The row that a run is about to commit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRow {
    /// The record id.
    pub id: RecordId,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The token of this run.
    pub token: OwnerToken,
    /// How often the key was claimed.
    pub attempt: u32,
    /// The principal's tag.
    pub principal_tag: PrincipalTag,
    /// How long the row is kept.
    pub keep: Duration,
    /// The response.
    pub record: Record,
    /// The token of the expired row that this run may replace.
    pub over: Option<OwnerToken>,
    /// When the run looked, by the database's clock.
    pub looked_at: Moment,
    /// How old a run may be (`limits.max_run`).
    pub max_run: Duration,
    /// How long to wait for another transaction with a row of this id.
    pub patience: Duration,
}

impl NewRow {
    /// A row for tests of ledgers: kept for an hour, by a run that looked when `look` says.
    #[must_use]
    pub const fn new(id: RecordId, fingerprint: Fingerprint, token: OwnerToken, record: Record, look: &Look) -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            id,
            fingerprint,
            token,
            attempt: 1,
            principal_tag: PrincipalTag::from_bytes([0; 8]),
            keep: HOUR,
            record,
            over: look.over,
            looked_at: look.looked_at,
            max_run: HOUR,
            patience: Duration::from_secs(1),
        }
    }
}

/// The result of writing a [`NewRow`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Write {
    /// The row is in the transaction.
    Written,
    /// A row that has not expired is there.
    Taken(Box<Row>),
    /// The run is too old, or the row was forgotten or replaced since it looked.
    Stale,
    /// The transaction is not the one that was begun: the handler has committed or rolled it back.
    Misused,
}

/// Why a ledger can't do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The database can't be reached, or has no free connection. Nothing was committed.
    #[error("the database can't be reached: {0}")]
    Unavailable(#[source] Cause),
    /// Another transaction stood in the way (a serialization failure, a deadlock, a lock that was not free in time): another
    /// try may succeed. Nothing was committed.
    #[error("another transaction stood in the way: {0}")]
    Conflict(#[source] Cause),
    /// The database refused. Nothing was committed.
    #[error("the database refused: {0}")]
    Refused(#[source] Cause),
    /// The answer of a COMMIT was lost: it may have been committed.
    #[error("the answer of a COMMIT was lost: {0}")]
    Unknown(#[source] Cause),
    /// A row can't be read by this version. Its operation must not run.
    #[error("a row of the ledger can't be read: {0}")]
    Unreadable(#[source] Cause),
}

/// The error of a database's library.
pub type Cause = Box<dyn StdError + Send + Sync>;
