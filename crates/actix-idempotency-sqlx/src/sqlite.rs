//! A ledger in SQLite.

use std::{
    any::Any,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix_idempotency::{
    key::RecordId,
    ledger::{Ledger, LedgerError, Look, NewRow, Row, Write},
    store::{Moment, OwnerToken},
};
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqlitePoolOptions, SqliteRow},
};

use crate::{
    error::{commit_error, ledger_error, may_retry},
    row::{Hex, look, millis, named, quoted, row},
};

/// A ledger in SQLite: in the table `idempotency_ledger` unless [`table`](Self::table) names another one.
///
/// A file has one writer, so transactions are `BEGIN IMMEDIATE` and run one after the other. Use
/// [`Transactions<SqlxSqlite>`](actix_idempotency::ledger::Transactions) with short closures; a handler with a
/// [`Tx<SqlxSqlite>`](actix_idempotency::ledger::Tx) must not wait for other services.
///
/// A handler that ends its transaction by COMMIT is noticed, and gets a 500 `transaction-misused`. One that says COMMIT and
/// BEGIN is not.
#[derive(Clone)]
pub struct SqlxSqlite(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    pool: SqlitePool,
    own: Arc<OnceLock<SqlitePool>>,
    /// As the user named it.
    table: String,
    quoted: String,
}

/// An open transaction. Use `&mut **tx` as an executor, and end it neither by COMMIT nor by ROLLBACK.
pub struct SqliteTx(Transaction<'static, Sqlite>);

impl SqlxSqlite {
    /// The definition of the default table.
    pub const SCHEMA: &str = include_str!("../migrations/sqlite/0001_idempotency_ledger.up.sql");

    /// A ledger beside the tables of this pool's database.
    #[must_use]
    pub fn new(pool: SqlitePool) -> Self {
        let table = "idempotency_ledger";
        Self(Arc::new(Shared { pool, own: Arc::default(), quoted: quoted(table), table: table.to_owned() }))
    }

    /// Chooses another table.
    #[must_use]
    pub fn table(self, table: &str) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.0);
        (shared.table, shared.quoted) = (table.to_owned(), quoted(table));
        Self(Arc::new(shared))
    }

    /// The definition of this ledger's table.
    #[must_use]
    pub fn schema(&self) -> String {
        named(Self::SCHEMA, &self.0.table)
    }

    /// Creates the table, unless it is there. Most applications take the migration files instead.
    ///
    /// # Errors
    /// The database's own errors.
    pub async fn create_table(&self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(self.schema())).execute(&self.0.pool).await.map(|_| ())
    }

    /// The ledger's own connection. A database in memory is its connection, so there is no other one.
    fn own(&self) -> &SqlitePool {
        self.0.own.get_or_init(|| {
            let options = (*self.0.pool.connect_options()).clone();
            if options.get_filename().to_string_lossy().contains(":memory:") {
                return self.0.pool.clone();
            }
            SqlitePoolOptions::new()
                .max_connections(1)
                .acquire_timeout(Duration::from_secs(5))
                .connect_lazy_with(options)
        })
    }

    fn look_statement(&self, id: &RecordId) -> String {
        format!("SELECT {NOW}; SELECT {COLUMNS} FROM {} AS l WHERE l.id = X'{}'", self.0.quoted, Hex(id.as_bytes()))
    }

    async fn look_by(&self, id: &RecordId, connection: &mut SqliteConnection) -> Result<Look, LedgerError> {
        let sql = AssertSqlSafe(self.look_statement(id));
        look_of(&sqlx::raw_sql(sql).fetch_all(connection).await.map_err(ledger_error)?)
    }
}

/// The columns of a row, as [`row`] reads them.
const COLUMNS: &str = "l.id, l.fingerprint, l.token, l.attempt, l.principal_tag, l.record, \
                       (l.expires - CAST(unixepoch('subsec') * 1000 AS INTEGER)) / 1000.0";

/// The clock in milliseconds.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

fn look_of(found: &[SqliteRow]) -> Result<Look, LedgerError> {
    let (now, found) = found.split_first().ok_or_else(|| LedgerError::Unreadable("no clock".into()))?;
    let now: i64 = now.try_get(0).map_err(|error| LedgerError::Unreadable(error.into()))?;
    // In microseconds, as every ledger counts.
    look(Moment::new(now.max(0).unsigned_abs().saturating_mul(1000)), found.first())
}

impl Ledger for SqlxSqlite {
    type Tx = SqliteTx;
    type Options = ();
    type Kept = ();

    fn name(&self) -> String {
        format!("sqlite {} {}", self.0.pool.connect_options().get_filename().display(), self.0.table)
    }

    async fn look(&self, id: &RecordId) -> Result<Look, LedgerError> {
        let mut connection = self.0.pool.acquire().await.map_err(ledger_error)?;
        self.look_by(id, &mut connection).await
    }

    async fn begin(&self, _: Option<()>, (): &(), _: Duration) -> Result<SqliteTx, LedgerError> {
        begin_on(&self.0.pool).await.map_err(ledger_error)
    }

    async fn write(&self, tx: &mut SqliteTx, new: &NewRow) -> Result<Write, LedgerError> {
        if !is_still_open(tx).await? {
            return Ok(Write::Misused);
        }
        let until = (new.looked_at.get() / 1000).saturating_add(millis(new.max_run).unsigned_abs());
        // A file has one writer, so no row of another transaction can appear in between.
        let look = self.look_by(&new.id, tx).await?;
        if let Some(row) = look.row {
            return Ok(Write::Taken(Box::new(row)));
        }
        if look.looked_at.get() / 1000 >= until || (look.over.is_some() && look.over != new.over) {
            return Ok(Write::Stale);
        }
        let sql = format!(
            "INSERT OR REPLACE INTO {} (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES (X'{}', X'{}', X'{}', {}, X'{}', {NOW} + {}, X'{}')",
            self.0.quoted,
            Hex(new.id.as_bytes()),
            Hex(new.fingerprint.as_bytes()),
            Hex(new.token.as_bytes()),
            new.attempt,
            Hex(new.principal_tag.as_bytes()),
            millis(new.keep),
            Hex(&new.record.to_bytes()),
        );
        let connection: &mut SqliteConnection = tx;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map_err(ledger_error)?;
        Ok(Write::Written)
    }

    async fn probe(&self, tx: &mut SqliteTx) -> Result<(), LedgerError> {
        if is_still_open(tx).await? {
            return Ok(());
        }
        Err(LedgerError::Refused("the handler ended the transaction itself".into()))
    }

    async fn commit(&self, tx: SqliteTx) -> Result<(), LedgerError> {
        tx.0.commit().await.map_err(commit_error)
    }

    async fn rollback(&self, tx: SqliteTx) {
        if let Err(error) = roll_back(tx).await {
            tracing::debug!(%error, "a transaction could not be rolled back");
        }
    }

    async fn settle(&self, id: &RecordId, _: Duration) -> Result<Look, LedgerError> {
        // Waits for the one writer that there may be, as long as the pool's `busy_timeout`.
        let mut tx = begin_on(self.own()).await.map_err(ledger_error)?;
        let look = self.look_by(id, &mut tx).await;
        roll_back(tx).await?;
        look
    }

    async fn forget(&self, id: &RecordId) -> Result<bool, LedgerError> {
        let mut tx = begin_on(self.own()).await.map_err(ledger_error)?;
        let look = self.look_by(id, &mut tx).await;
        let sql = format!(
            "INSERT OR REPLACE INTO {} (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES (X'{}', X'', X'{}', 0, X'', {NOW}, X'')",
            self.0.quoted,
            Hex(id.as_bytes()),
            Hex(OwnerToken::random().as_bytes())
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(ledger_error)?;
        tx.0.commit().await.map_err(ledger_error)?;
        // A row that could not be read is forgotten as well.
        Ok(look.is_ok_and(|look| look.row.is_some()))
    }

    async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        let after = after.map_or_else(String::new, |id| format!(" AND l.id > X'{}'", Hex(id.as_bytes())));
        let sql = format!(
            "SELECT {COLUMNS} FROM {} AS l WHERE l.expires > {NOW}{after} ORDER BY l.id LIMIT {limit}",
            self.0.quoted
        );
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(self.own()).await.map_err(ledger_error)?;
        found.iter().map(row).collect()
    }

    async fn sweep(&self, max_run: Duration) -> Result<u64, LedgerError> {
        let table = &self.0.quoted;
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires < {NOW} - {} ORDER BY expires LIMIT 500)",
            millis(max_run.saturating_add(Duration::from_secs(60)))
        );
        let swept = sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.own()).await.map_err(ledger_error)?;
        Ok(swept.rows_affected())
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let refused = |error: sqlx::Error| match ledger_error(error) {
            LedgerError::Refused(error) => {
                LedgerError::Refused(format!("{error}. The ledger needs its table:\n{}", self.schema()).into())
            }
            error => error,
        };
        let mut tx = begin_on(&self.0.pool).await.map_err(refused)?;
        let (table, id) = (&self.0.quoted, OwnerToken::random());
        let sql = format!(
            "INSERT INTO {table} (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES (X'{0}', X'', X'', 0, X'', {NOW}, X''); \
             SELECT {COLUMNS} FROM {table} AS l WHERE id = X'{0}'; DELETE FROM {table} WHERE id = X'{0}'",
            Hex(id.as_bytes())
        );
        let tried = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await;
        let rolled_back = roll_back(tx).await;
        tried.map_err(refused)?;
        rolled_back
    }

    fn may_retry(&self, error: &dyn Any) -> bool {
        may_retry(error)
    }
}

/// Begins a transaction.
///
/// SQLite rolls some transactions back itself, for example when the disk is full. sqlx counts such a transaction as open if
/// its ROLLBACK fails, and its connection can begin none any more: connections in this state are closed.
async fn begin_on(pool: &SqlitePool) -> Result<SqliteTx, sqlx::Error> {
    loop {
        match pool.begin_with("BEGIN IMMEDIATE").await {
            Err(sqlx::Error::InvalidSavePointStatement) => {}
            begun => return begun.map(SqliteTx),
        }
        let mut idle = vec![pool.acquire().await?];
        while let Some(connection) = pool.try_acquire() {
            idle.push(connection);
        }
        for connection in idle.iter_mut().filter(|connection| connection.is_in_transaction()) {
            connection.close_on_drop();
        }
    }
}

/// Rolls back, also where SQLite has done so itself.
async fn roll_back(mut tx: SqliteTx) -> Result<(), LedgerError> {
    // Where no transaction is open, the question begins one, so that ROLLBACK does not fail.
    is_still_open(&mut tx).await?;
    tx.0.rollback().await.map_err(ledger_error)
}

/// Whether the transaction is still open: only then SQLite refuses another BEGIN.
async fn is_still_open(tx: &mut SqliteTx) -> Result<bool, LedgerError> {
    let connection: &mut SqliteConnection = tx;
    match sqlx::raw_sql("BEGIN").execute(&mut *connection).await {
        Err(sqlx::Error::Database(error)) if error.message().contains("within a transaction") => Ok(true),
        Err(error) => Err(ledger_error(error)),
        Ok(_) => Ok(false),
    }
}

impl Deref for SqliteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for SqliteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

impl fmt::Debug for SqlxSqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxSqlite").field("table", &self.0.table).finish_non_exhaustive()
    }
}

impl fmt::Debug for SqliteTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteTx")
    }
}
