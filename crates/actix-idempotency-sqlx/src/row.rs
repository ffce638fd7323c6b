//! Values of the ledger's table, to and from SQL.

use std::{fmt, time::Duration};

use actix_idempotency::{
    key::{Fingerprint, PrincipalTag, RecordId},
    ledger::{LedgerError, Look, Row},
    record::Record,
    store::{Moment, OwnerToken},
};
use sqlx::{ColumnIndex, Decode, Row as SqlRow, Type};

/// Bytes as hexadecimal digits, so that a statement needs no parameters.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = String::with_capacity(self.0.len() * 2);
        for byte in self.0 {
            digits.push(char::from(DIGITS[usize::from(byte >> 4)]));
            digits.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        f.write_str(&digits)
    }
}

/// A table's name, quoted. `schema.name` has two parts.
pub(crate) fn quoted(table: &str) -> String {
    let parts = table.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\"")));
    parts.collect::<Vec<_>>().join(".")
}

/// The definition of the default table, for a table of this name.
pub(crate) fn named(schema: &str, table: &str) -> String {
    // An index lies in the schema of its table, and has a name without it.
    let index = quoted(&format!("{}_expires", table.rsplit('.').next().unwrap_or(table)));
    let table = quoted(table);
    let schema = schema.replace("EXISTS idempotency_ledger_expires", &format!("EXISTS {index}"));
    let schema = schema.replace("EXISTS idempotency_ledger", &format!("EXISTS {table}"));
    schema.replace("ON idempotency_ledger", &format!("ON {table}"))
}

/// Milliseconds, for SQL.
pub(crate) fn millis(duration: Duration) -> i64 {
    // A century, which every database can add to its clock.
    const MOST: i64 = 100 * 366 * 24 * 60 * 60 * 1000;
    i64::try_from(duration.as_millis()).unwrap_or(MOST).min(MOST)
}

/// The columns `id, fingerprint, token, attempt, principal_tag, record, seconds that remain`. Types of databases, whose
/// traits are long.
pub(crate) trait Columns: SqlRow {
    fn bytes(&self, column: usize) -> Result<Vec<u8>, LedgerError>;
    fn attempt(&self) -> Result<i32, LedgerError>;
    fn remaining(&self) -> Result<f64, LedgerError>;
}

impl<R: SqlRow> Columns for R
where
    usize: ColumnIndex<R>,
    Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    f64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    i32: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    fn bytes(&self, column: usize) -> Result<Vec<u8>, LedgerError> {
        self.try_get(column).map_err(unreadable)
    }

    fn attempt(&self) -> Result<i32, LedgerError> {
        self.try_get(3).map_err(unreadable)
    }

    fn remaining(&self) -> Result<f64, LedgerError> {
        self.try_get(6).map_err(unreadable)
    }
}

fn unreadable(error: sqlx::Error) -> LedgerError {
    LedgerError::Unreadable(error.into())
}

/// The answer of a ledger about an operation, by its row where there is one.
pub(crate) fn look(now: Moment, found: Option<&impl Columns>) -> Result<Look, LedgerError> {
    let Some(found) = found else { return Ok(Look::new(None, None, now)) };
    if found.remaining()? > 0.0 {
        return Ok(Look::new(Some(row(found)?), None, now));
    }
    let over = exact(found.bytes(2)?).map(OwnerToken::from_bytes)?;
    Ok(Look::new(None, Some(over), now))
}

pub(crate) fn row(row: &impl Columns) -> Result<Row, LedgerError> {
    let record = Record::from_bytes(row.bytes(5)?.into()).map_err(|error| LedgerError::Unreadable(error.into()))?;
    let found = Row::new(
        RecordId::from_bytes(exact(row.bytes(0)?)?),
        Fingerprint::from_bytes(exact(row.bytes(1)?)?),
        OwnerToken::from_bytes(exact(row.bytes(2)?)?),
        PrincipalTag::from_bytes(exact(row.bytes(4)?)?),
        Duration::try_from_secs_f64(row.remaining()?).unwrap_or_default(),
        record,
    );
    Ok(found.attempt(row.attempt()?.max(1).unsigned_abs()))
}

fn exact<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], LedgerError> {
    let length = bytes.len();
    bytes.try_into().map_err(|_| LedgerError::Unreadable(format!("{length} bytes where {N} belong").into()))
}
