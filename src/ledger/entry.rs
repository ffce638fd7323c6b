//! The row by hand, for libraries without an adapter.

use actix_web::http::StatusCode;

use super::{Look, NewRow};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId, digest::hex},
    record::Record,
    store::{Moment, OwnerToken},
};

/// The row of an operation, to be inserted by the handler in its own transaction, as its last statement: for libraries
/// without an adapter. [`IdempotencyInfo::ledger_entry`](crate::IdempotencyInfo::ledger_entry) gives it.
///
/// The handler commits, and returns its response, also when the INSERT or the COMMIT failed: a duplicate is an error of the
/// INSERT, which dooms the transaction. Once an entry was asked for, the middleware writes no row for a success. Before it
/// sends one it asks the ledger: this row is there: it is sent; another row is there: its answer is sent; none: 500
/// `not-recorded`.
///
/// Where nothing is recorded (without a key, and with `mode = observe`), [`is_recorded`](Self::is_recorded) is `false`, there
/// are no [`statements`](Self::statements), and the columns mean nothing.
#[derive(Clone, Debug)]
pub struct LedgerEntry {
    row: NewRow,
    is_recorded: bool,
}

/// The SQL of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// PostgreSQL 13 or later, with the table of `SqlxPostgres`.
    Postgres,
    /// SQLite, with the table of `SqlxSqlite`.
    Sqlite,
}

impl LedgerEntry {
    pub(crate) const fn new(row: NewRow) -> Self {
        Self { row, is_recorded: true }
    }

    /// The entry of an answer that is not recorded.
    pub(crate) fn unrecorded(status: StatusCode) -> Self {
        let nothing = Look::new(None, None, Moment::new(0));
        let (id, fingerprint) = (RecordId::from_bytes([0; 32]), Fingerprint::from_bytes([0; Fingerprint::LENGTH]));
        let record = Record::new(status, [], None);
        Self { row: NewRow::new(id, fingerprint, OwnerToken::random(), record, &nothing), is_recorded: false }
    }

    /// Whether there is a row to insert.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// The column `id`.
    #[must_use]
    pub const fn id(&self) -> &RecordId {
        &self.row.id
    }

    /// The column `fingerprint`.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.row.fingerprint
    }

    /// The column `token`.
    #[must_use]
    pub const fn token(&self) -> &OwnerToken {
        &self.row.token
    }

    /// The column `attempt`.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.row.attempt
    }

    /// The column `principal_tag`.
    #[must_use]
    pub const fn principal_tag(&self) -> &PrincipalTag {
        &self.row.principal_tag
    }

    /// How long after now the row expires.
    #[must_use]
    pub const fn keep(&self) -> std::time::Duration {
        self.row.keep
    }

    /// The column `record`: its [bytes](Record::to_bytes).
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.row.record
    }

    /// The token of an expired row that has to be deleted before.
    #[must_use]
    pub const fn over(&self) -> Option<&OwnerToken> {
        self.row.over.as_ref()
    }

    /// The statements, to be run in this order in the handler's transaction. They have no parameters, and no text of a client
    /// in them but as hexadecimal digits. A run that is older than `limits.max_run` violates NOT NULL.
    #[must_use]
    pub fn statements(&self, dialect: Dialect, table: &str) -> Vec<String> {
        if !self.is_recorded {
            return Vec::new();
        }
        let row = &self.row;
        let bytes = |bytes: &[u8]| match dialect {
            Dialect::Postgres => format!("'\\x{}'", hex(bytes)),
            Dialect::Sqlite => format!("X'{}'", hex(bytes)),
        };
        let (keep, looked_at) = (row.keep.as_millis(), row.looked_at.get());
        let last = looked_at.saturating_add(u64::try_from(row.max_run.as_micros()).unwrap_or(u64::MAX));
        let expires = match dialect {
            Dialect::Postgres => format!(
                "CASE WHEN clock_timestamp() < timestamptz 'epoch' + {} * interval '1 microsecond' \
                 THEN clock_timestamp() + {keep} * interval '1 millisecond' END",
                last.min(MOST_MICROSECONDS)
            ),
            Dialect::Sqlite => {
                format!("CASE WHEN {SQLITE_NOW} < {} THEN {SQLITE_NOW} + {keep} END", last / 1000)
            }
        };
        let now = match dialect {
            Dialect::Postgres => "clock_timestamp()",
            Dialect::Sqlite => SQLITE_NOW,
        };
        let mut statements = Vec::new();
        if let Some(over) = &row.over {
            let (id, over) = (bytes(row.id.as_bytes()), bytes(over.as_bytes()));
            statements.push(format!("DELETE FROM {table} WHERE id = {id} AND token = {over} AND expires <= {now}"));
        }
        statements.push(format!(
            "INSERT INTO {table} (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES ({}, {}, {}, {}, {}, {expires}, {})",
            bytes(row.id.as_bytes()),
            bytes(row.fingerprint.as_bytes()),
            bytes(row.token.as_bytes()),
            row.attempt,
            bytes(row.principal_tag.as_bytes()),
            bytes(&row.record.to_bytes()),
        ));
        statements
    }
}

/// Milliseconds since the Unix epoch.
const SQLITE_NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// The year 9999, which every database knows.
const MOST_MICROSECONDS: u64 = 253_370_764_800_000_000;
