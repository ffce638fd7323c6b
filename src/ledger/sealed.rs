//! Seals the rows that a ledger gets, and opens those that it has. The ledger does not know of it.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use actix_web::http::StatusCode;

use super::{AnyLedger, LedgerError, Look, NewRow, Row, Write, any::gone};
use crate::{
    key::RecordId,
    record::Record,
    sealing::{CacheSeals, Check, Sealing},
    store::OwnerToken,
};

/// The keys of the rows of one wrap.
#[derive(Clone, Default)]
pub(super) struct RowSeals {
    seals: Option<CacheSeals>,
    /// The operation of a request, whose rows must open. `None`: for operators, who see that a row is sealed.
    operation: Option<Arc<Sealing>>,
    /// Whether the keys were found to be those of the ledger's rows.
    is_checked: Arc<AtomicBool>,
}

impl AnyLedger {
    /// The same ledger, whose rows are sealed, if there are keys.
    pub(crate) fn sealed(mut self, seals: CacheSeals) -> Self {
        self.1 = RowSeals { seals: Some(seals), ..RowSeals::default() };
        self
    }

    /// The same ledger, for the operation of a request.
    pub(crate) fn of_operation(mut self, operation: Option<Arc<Sealing>>) -> Self {
        self.1.operation = operation;
        self
    }

    /// Checks, before the first look of a wrap, that the keys are those of the ledger's rows.
    pub(super) async fn check_keys(&self, within: Duration) -> Result<(), LedgerError> {
        let Some(seals) = self.1.seals.as_ref().filter(|_| !self.1.is_checked.load(Relaxed)) else { return Ok(()) };
        // The rows of the checks are not sealed.
        let mut plain = self.clone();
        plain.1 = RowSeals::default();
        for check in seals.checks() {
            plain.check_key(&check, within).await?;
        }
        self.1.is_checked.store(true, Relaxed);
        Ok(())
    }

    async fn check_key(&self, check: &Check, within: Duration) -> Result<(), LedgerError> {
        let refused = || Err(LedgerError::Refused(check.refusal.clone().into()));
        let mut look = self.look(check.id, within).await?;
        let Some(value) = check.value else {
            return if look.row.is_some() { refused() } else { Ok(()) };
        };
        match &look.row {
            Some(row) if row.fingerprint == value => return Ok(()),
            Some(_) if check.may_change => {
                self.forget(check.id).await?;
                look = self.look(check.id, within).await?;
            }
            Some(_) => return refused(),
            None if check.needs_empty_store && !self.rows_of_requests(None, 1).await?.is_empty() => {
                return refused();
            }
            None => {}
        }
        let record = Record::new(StatusCode::NO_CONTENT, [], None);
        let mut row = NewRow::new(check.id, value, OwnerToken::random(), record, &look);
        row.keep = Duration::from_secs(100 * 366 * 24 * 60 * 60);
        let mut tx = self.begin(row.max_run).await.unwrap_or_else(|| Err(gone()))?;
        match self.write(&mut tx, &row).await {
            Ok(Write::Written) => self.commit(tx).await,
            other => {
                self.rollback(tx).await;
                match other? {
                    // Another process was faster.
                    Write::Taken(first) if first.fingerprint == value => Ok(()),
                    Write::Taken(_) => refused(),
                    _ => Err(LedgerError::Conflict("the check of a key was not written".into())),
                }
            }
        }
    }

    /// Lists rows without those of the checks.
    pub(super) async fn rows_of_requests(
        &self,
        mut after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Row>, LedgerError> {
        loop {
            let mut rows = self.list_all(after, limit).await?;
            let Some(last) = rows.last().map(|row| row.id) else { return Ok(rows) };
            rows.retain(|row| !Check::has_made(&row.fingerprint));
            if !rows.is_empty() {
                return Ok(rows);
            }
            after = Some(last);
        }
    }
}

impl RowSeals {
    /// The keys. `None`: there are none.
    pub(super) fn seals(&self) -> Option<&CacheSeals> {
        self.seals.as_ref().filter(|seals| seals.are_set())
    }

    /// The row as the ledger gets it.
    pub(super) fn seal<'a>(&self, row: &'a NewRow) -> Result<Cow<'a, NewRow>, LedgerError> {
        let Some(seals) = self.seals() else { return Ok(Cow::Borrowed(row)) };
        let sealed = seals.seal(&row.id, &row.record, self.operation.as_deref());
        let record = sealed.map_err(|error| LedgerError::Unavailable(error.into()))?;
        Ok(Cow::Owned(NewRow { record, ..row.clone() }))
    }

    /// Opens a row. One that does not open stays sealed for operators, and is an error for a request.
    pub(super) fn open(&self, mut row: Row) -> Result<Row, LedgerError> {
        let Some(seals) = self.seals() else { return Ok(row) };
        match seals.open(&row.id, &row.record, self.operation.as_deref()) {
            Ok(record) => row.record = record,
            Err(_) if self.operation.is_none() => {}
            Err(error) => return Err(LedgerError::Unreadable(error.into())),
        }
        Ok(row)
    }

    pub(super) fn look(&self, mut look: Look) -> Result<Look, LedgerError> {
        look.row = look.row.map(|row| self.open(row)).transpose()?;
        Ok(look)
    }

    pub(super) fn written(&self, written: Write) -> Result<Write, LedgerError> {
        match written {
            Write::Taken(row) => Ok(Write::Taken(Box::new(self.open(*row)?))),
            other => Ok(other),
        }
    }
}
