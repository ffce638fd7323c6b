//! Values of the ledger's table, to and from SQL.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use actix_idempotency::{
    key::{Fingerprint, PrincipalTag, RecordId},
    ledger::{LedgerError, Row},
    record::Record,
    store::OwnerToken,
};
use sqlx::{ColumnIndex, Database, Decode, Row as SqlRow, Type};

/// Bytes as hexadecimal digits, so that a statement needs no parameters.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::with_capacity(self.0.len() * 2);
        for byte in self.0 {
            write!(digits, "{byte:02x}")?;
        }
        f.write_str(&digits)
    }
}

/// A table's name, quoted. `schema.name` has two parts.
pub(crate) fn quoted(table: &str) -> String {
    let parts = table.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

/// Milliseconds, for SQL.
pub(crate) fn millis(duration: Duration) -> i64 {
    // A century, which every database can add to its clock.
    const MOST: i64 = 100 * 366 * 24 * 60 * 60 * 1000;
    i64::try_from(duration.as_millis()).unwrap_or(MOST).min(MOST)
}

/// The columns `id, fingerprint, token, attempt, principal_tag, record, remaining`, where they begin.
pub(crate) fn row<R: SqlRow>(row: &R, at: usize) -> Result<Row, LedgerError>
where
    usize: ColumnIndex<R>,
    Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i32: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    let unreadable = |error: sqlx::Error| LedgerError::Unreadable(error.into());
    let bytes = |column: usize| row.try_get::<Vec<u8>, _>(at + column).map_err(unreadable);
    let record = Record::from_bytes(bytes(5)?.into()).map_err(|error| LedgerError::Unreadable(error.into()))?;
    let remaining: i64 = row.try_get(at + 6).map_err(unreadable)?;
    let attempt: i32 = row.try_get(at + 3).map_err(unreadable)?;
    let found = Row::new(
        RecordId::from_bytes(exact(bytes(0)?)?),
        Fingerprint::from_bytes(exact(bytes(1)?)?),
        token(bytes(2)?)?,
        PrincipalTag::from_bytes(exact(bytes(4)?)?),
        Duration::from_millis(remaining.max(0).unsigned_abs()),
        record,
    );
    Ok(found.attempt(attempt.max(1).unsigned_abs()))
}

/// The column `token`.
pub(crate) fn token(bytes: Vec<u8>) -> Result<OwnerToken, LedgerError> {
    exact(bytes).map(OwnerToken::from_bytes)
}

fn exact<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], LedgerError> {
    let length = bytes.len();
    bytes.try_into().map_err(|_| LedgerError::Unreadable(format!("{length} bytes where {N} belong").into()))
}
