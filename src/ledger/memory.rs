//! A ledger in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{Ledger, LedgerError, Look, NewRow, Row, Write};
use crate::{
    key::RecordId,
    store::{Clock, Moment, OwnerToken},
};

/// A ledger in memory, for tests of handlers: its transactions have changes that are made when they are committed.
///
/// ```
/// use actix_idempotency::{Idempotency, IdempotencyKey, ledger::MemoryLedger};
///
/// let ledger = MemoryLedger::default();
/// let wrap = IdempotencyKey::default().using(&Idempotency::in_memory()).ledger(&ledger);
/// ```
#[derive(Clone, Default)]
pub struct MemoryLedger(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<Inner>,
    /// A transaction with a row has ended.
    ended: Notify,
    clock: Clock,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<RecordId, Kept>,
    /// Rows of open transactions: nobody else may insert a row of such an id.
    open: HashMap<RecordId, u64>,
    next: u64,
}

/// A row, and when it expires.
#[derive(Clone)]
struct Kept {
    token: OwnerToken,
    expires: Duration,
    /// `None`: the key was forgotten.
    row: Option<Row>,
}

/// A transaction of a [`MemoryLedger`].
pub struct MemoryTx {
    shared: Arc<Shared>,
    serial: u64,
    changes: Vec<Box<dyn FnOnce() + Send>>,
    row: Option<(RecordId, Kept)>,
}

impl MemoryLedger {
    /// A ledger whose time is this clock's.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self(Arc::new(Shared { clock, ..Shared::default() }))
    }

    /// Loses every row and change, as a restored database does. Only the rows are known here.
    pub fn lose_rows(&self) {
        self.0.state.lock().rows.clear();
    }

    /// By the clock, since the Unix epoch.
    fn now(&self) -> Duration {
        Duration::from_micros(self.0.clock.now())
    }

    fn look_at(&self, id: &RecordId) -> Look {
        let now = self.now();
        let looked_at = Moment::new(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        match self.0.state.lock().rows.get(id) {
            Some(kept) => match kept.live_row(now) {
                Some(row) => Look::new(Some(row), None, looked_at),
                None => Look::new(None, Some(kept.token), looked_at),
            },
            None => Look::new(None, None, looked_at),
        }
    }

    /// Waits until no other transaction has a row of this id.
    async fn wait(&self, id: &RecordId, serial: u64, patience: Duration) -> Result<(), LedgerError> {
        let until = Instant::now() + patience;
        loop {
            let ended = self.0.ended.notified();
            if self.0.state.lock().open.get(id).is_none_or(|holder| *holder == serial) {
                return Ok(());
            }
            if tokio::time::timeout_at(until, ended).await.is_err() {
                return Err(LedgerError::Conflict("another transaction has a row of this id".into()));
            }
        }
    }
}

impl Ledger for MemoryLedger {
    type Tx = MemoryTx;
    type Options = ();
    type Kept = ();

    fn name(&self) -> String {
        format!("memory {:p}", Arc::as_ptr(&self.0))
    }

    async fn look(&self, id: &RecordId) -> Result<Look, LedgerError> {
        Ok(self.look_at(id))
    }

    async fn begin(&self, _: Option<()>, (): &(), _: Duration) -> Result<MemoryTx, LedgerError> {
        let mut state = self.0.state.lock();
        state.next += 1;
        Ok(MemoryTx { shared: self.0.clone(), serial: state.next, changes: Vec::new(), row: None })
    }

    async fn write(&self, tx: &mut MemoryTx, row: &NewRow) -> Result<Write, LedgerError> {
        loop {
            self.wait(&row.id, tx.serial, row.patience).await?;
            let look = self.look_at(&row.id);
            if let Some(row) = look.row {
                return Ok(Write::Taken(Box::new(row)));
            }
            let now = self.now();
            let age = now.saturating_sub(Duration::from_micros(row.looked_at.get()));
            if age >= row.max_run || (look.over.is_some() && look.over != row.over) {
                return Ok(Write::Stale);
            }
            let kept = Row::new(row.id, row.fingerprint, row.token, row.principal_tag, row.keep, row.record.clone());
            let kept = Kept { token: row.token, expires: now + row.keep, row: Some(kept.attempt(row.attempt)) };
            let mut state = self.0.state.lock();
            // Another transaction may have been faster since.
            let is_free = *state.open.entry(row.id).or_insert(tx.serial) == tx.serial;
            if is_free && state.rows.get(&row.id).is_none_or(|there| Some(there.token) == row.over) {
                tx.row = Some((row.id, kept));
                return Ok(Write::Written);
            }
            if is_free {
                state.open.remove(&row.id);
            }
        }
    }

    async fn probe(&self, _: &mut MemoryTx) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn commit(&self, mut tx: MemoryTx) -> Result<(), LedgerError> {
        let mut state = self.0.state.lock();
        if let Some((id, kept)) = tx.row.take() {
            state.rows.insert(id, kept);
            state.open.remove(&id);
        }
        drop(state);
        for change in tx.changes.drain(..) {
            change();
        }
        self.0.ended.notify_waiters();
        Ok(())
    }

    async fn rollback(&self, tx: MemoryTx) {
        drop(tx);
    }

    async fn settle(&self, id: &RecordId, patience: Duration) -> Result<Look, LedgerError> {
        self.wait(id, 0, patience).await?;
        Ok(self.look_at(id))
    }

    async fn forget(&self, id: &RecordId) -> Result<bool, LedgerError> {
        loop {
            self.wait(id, 0, Duration::from_secs(5)).await?;
            let now = self.now();
            let tombstone = Kept { token: OwnerToken::random(), expires: now, row: None };
            let mut state = self.0.state.lock();
            // A transaction may have written its row since.
            if !state.open.contains_key(id) {
                let before = state.rows.insert(*id, tombstone);
                return Ok(before.is_some_and(|kept| kept.row.is_some() && kept.expires > now));
            }
        }
    }

    async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        let now = self.now();
        let state = self.0.state.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let live = state.rows.range((from, Bound::Unbounded)).filter_map(|(_, kept)| kept.live_row(now));
        Ok(live.take(limit).collect())
    }

    async fn sweep(&self, max_run: Duration) -> Result<u64, LedgerError> {
        let now = self.now();
        let mut state = self.0.state.lock();
        let before = state.rows.len();
        state.rows.retain(|_, kept| kept.expires + max_run + Duration::from_secs(60) > now);
        Ok((before - state.rows.len()) as u64)
    }

    async fn check(&self) -> Result<(), LedgerError> {
        Ok(())
    }
}

impl Kept {
    /// The row, unless it has expired.
    fn live_row(&self, now: Duration) -> Option<Row> {
        let remaining = self.expires.checked_sub(now).filter(|left| !left.is_zero())?;
        Some(Row { remaining, ..self.row.clone()? })
    }
}

impl MemoryTx {
    /// Makes a change when the transaction is committed, and not before.
    pub fn on_commit(&mut self, change: impl FnOnce() + Send + 'static) {
        self.changes.push(Box::new(change));
    }
}

impl Drop for MemoryTx {
    /// Rolls back, unless it was committed.
    fn drop(&mut self) {
        if let Some((id, _)) = self.row.take() {
            self.shared.state.lock().open.remove(&id);
            self.shared.ended.notify_waiters();
        }
    }
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger").field("rows", &self.0.state.lock().rows.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTx").field("serial", &self.serial).finish_non_exhaustive()
    }
}
