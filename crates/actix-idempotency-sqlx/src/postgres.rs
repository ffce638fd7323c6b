//! A ledger in PostgreSQL.

use std::{
    any::Any,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use actix_idempotency::{
    key::RecordId,
    ledger::{Ledger, LedgerError, Look, NewRow, Row, Write},
    store::{Moment, OwnerToken},
};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgExecutor, PgPool, Postgres, Row as _, SqlSafeStr as _, Transaction,
    pool::PoolConnection,
    postgres::{PgPoolOptions, PgQueryResult, PgRow},
};
use tokio::sync::OnceCell;

use crate::{
    error::{commit_error, ledger_error, may_retry},
    row::{Hex, look, millis, named, quoted, row},
};

/// A ledger in PostgreSQL 13 or later: in the table `idempotency_ledger` unless [`table`](Self::table) names another one.
///
/// Handlers take [`Tx<SqlxPostgres>`](actix_idempotency::ledger::Tx) or
/// [`Transactions<SqlxPostgres>`](actix_idempotency::ledger::Transactions), and use `&mut **tx` as the executor of their
/// statements. Connections come from the pool that is given here. Two more, made with the options of that pool, are the
/// ledger's own: for settling lost COMMITs, for sweeping and for operators.
///
/// Every statement is in the simple protocol and has no parameters, so pooling proxies in transaction mode will do; without
/// such a proxy, [`prepared`](Self::prepared) statements are faster.
#[derive(Clone)]
pub struct SqlxPostgres(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    pool: PgPool,
    own: Arc<OnceLock<PgPool>>,
    /// As the user named it.
    table: String,
    quoted: String,
    isolation: Isolation,
    is_prepared: bool,
    /// The role's own limit for idle transactions.
    idle_limit: Arc<OnceCell<Option<Duration>>>,
    clock: Arc<Clock>,
}

/// The isolation level of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// As the ledger was made; without a word there, the database's own default.
    #[default]
    Default,
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ. Transactions fail where others have changed what they write.
    RepeatableRead,
    /// SERIALIZABLE. Transactions fail where no serial order exists; use
    /// [`Transactions`](actix_idempotency::ledger::Transactions), which tries again.
    Serializable,
}

/// An open transaction. Use `&mut **tx` as an executor, and end it neither by COMMIT nor by ROLLBACK.
pub struct PgTx {
    tx: Transaction<'static, Postgres>,
    /// A value of a setting that is local to the transaction. A handler that ended it has lost the value.
    mark: OwnerToken,
}

impl SqlxPostgres {
    /// The definition of the default table.
    pub const SCHEMA: &str = include_str!("../migrations/postgres/0001_idempotency_ledger.up.sql");

    /// A ledger beside the tables of this pool's database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        let table = "idempotency_ledger";
        Self(Arc::new(Shared {
            pool,
            own: Arc::default(),
            quoted: quoted(table),
            table: table.to_owned(),
            isolation: Isolation::Default,
            is_prepared: false,
            idle_limit: Arc::default(),
            clock: Arc::default(),
        }))
    }

    /// Chooses another table, `name` or `schema.name`, as it is spelt in the catalogue.
    #[must_use]
    pub fn table(self, table: &str) -> Self {
        self.change(|shared| (shared.table, shared.quoted) = (table.to_owned(), quoted(table)))
    }

    /// Sets the isolation level of transactions that choose none.
    #[must_use]
    pub fn isolation(self, isolation: Isolation) -> Self {
        self.change(|shared| shared.isolation = isolation)
    }

    /// Prepares the ledger's statements, once in each connection: faster, where connections lead to the server itself.
    /// PgBouncer before 1.21 breaks them in transaction mode. Default: `false`.
    #[must_use]
    pub fn prepared(self, is_prepared: bool) -> Self {
        self.change(|shared| shared.is_prepared = is_prepared)
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

    fn change(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.0);
        change(&mut shared);
        Self(Arc::new(shared))
    }

    /// The ledger's own connections. Made by the background thread, on whose runtime they live.
    fn own(&self) -> &PgPool {
        self.0.own.get_or_init(|| {
            let options = (*self.0.pool.connect_options()).clone();
            PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(5)).connect_lazy_with(options)
        })
    }

    /// Reads the row of an operation.
    #[doc(hidden)] // For the benchmark.
    #[must_use]
    pub fn look_statement(&self, id: &RecordId) -> String {
        format!("SELECT {COLUMNS} FROM {} AS l WHERE l.id = {}", self.0.quoted, bytes(id.as_bytes()))
    }

    /// Reads the row of an operation, and the clock unless it was read a moment ago.
    async fn look_by(&self, id: &RecordId, executor: impl PgExecutor<'_>) -> Result<Look, LedgerError> {
        let known = self.0.clock.known();
        if let Some(now) = known
            && self.0.is_prepared
        {
            let sql = format!("SELECT {COLUMNS} FROM {} AS l WHERE l.id = $1", self.0.quoted);
            let look_for = sqlx::query(AssertSqlSafe(sql)).bind(&id.as_bytes()[..]);
            return look(now, look_for.fetch_optional(executor).await.map_err(ledger_error)?.as_ref());
        }
        let look_statement = self.look_statement(id);
        let sql = if known.is_some() { look_statement } else { format!("SELECT {NOW}; {look_statement}") };
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(executor).await.map_err(ledger_error)?;
        if let Some(now) = known {
            return look(now, found.first());
        }
        let (now, found) = found.split_first().ok_or_else(|| LedgerError::Unreadable("no clock".into()))?;
        look(self.0.clock.read(now)?, found.first())
    }

    /// A shorter limit of the role stays in force. Asked on the connection of the caller: a pool may have no other one.
    async fn idle_limit(&self, max_run: Duration, connection: &mut PgConnection) -> Duration {
        let ask = async || {
            let sql = "SELECT (extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) \
                       * 1000)::bigint";
            let limit: i64 = sqlx::raw_sql(sql).fetch_one(connection).await?.try_get(0)?;
            Ok::<_, sqlx::Error>(u64::try_from(limit).ok().filter(|limit| *limit > 0).map(Duration::from_millis))
        };
        let limit = self.0.idle_limit.get_or_try_init(ask).await;
        limit.ok().copied().flatten().map_or(max_run, |limit| limit.min(max_run))
    }
}

/// The columns of a row, as [`row`] reads them.
const COLUMNS: &str = "l.id, l.fingerprint, l.token, l.attempt, l.principal_tag, l.record, \
                       date_part('epoch', l.expires - clock_timestamp())";

/// The database's clock in seconds. `extract` would count in `numeric`, which is slow.
const NOW: &str = "date_part('epoch', clock_timestamp())";

/// The same value whether `standard_conforming_strings` is on or off.
fn bytes(bytes: &[u8]) -> String {
    format!("E'\\\\x{}'", Hex(bytes))
}

/// The database's clock, as it was a moment ago. A run that is dated back by so little is refused a little early, and saves
/// a statement.
#[derive(Default)]
struct Clock(Mutex<Option<(Instant, Moment)>>);

impl Clock {
    const KEPT: Duration = Duration::from_millis(500);

    fn known(&self) -> Option<Moment> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(at, _)| at.elapsed() < Self::KEPT).map(|(_, now)| now)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds of this century")]
    fn read(&self, row: &PgRow) -> Result<Moment, LedgerError> {
        let seconds: f64 = row.try_get(0).map_err(|error| LedgerError::Unreadable(error.into()))?;
        let now = Moment::new((seconds * 1e6) as u64);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), now));
        Ok(now)
    }
}

impl Ledger for SqlxPostgres {
    type Tx = PgTx;
    type Options = Isolation;
    type Kept = PoolConnection<Postgres>;

    fn name(&self) -> String {
        let options = self.0.pool.connect_options();
        let database = options.get_database().unwrap_or_default();
        format!("postgres {}:{}/{database} {}", options.get_host(), options.get_port(), self.0.table)
    }

    async fn look(&self, id: &RecordId) -> Result<Look, LedgerError> {
        self.look_by(id, &self.0.pool).await
    }

    async fn look_and_keep(&self, id: &RecordId) -> Result<(Look, Option<Self::Kept>), LedgerError> {
        let mut connection = self.0.pool.acquire().await.map_err(ledger_error)?;
        let look = self.look_by(id, &mut *connection).await?;
        Ok((look, Some(connection)))
    }

    async fn begin(
        &self,
        kept: Option<Self::Kept>,
        isolation: &Isolation,
        max_run: Duration,
    ) -> Result<PgTx, LedgerError> {
        let isolation = if *isolation == Isolation::Default { self.0.isolation } else { *isolation };
        let mark = OwnerToken::random();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.0.pool.acquire().await.map_err(ledger_error)?,
        };
        let begin = format!(
            "BEGIN{}; SET LOCAL idempotency.run = '{}'; SET LOCAL idle_in_transaction_session_timeout = {}",
            isolation.sql(),
            Hex(mark.as_bytes()),
            millis(self.idle_limit(max_run, &mut connection).await).min(i32::MAX.into())
        );
        let begin = AssertSqlSafe(begin).into_sql_str();
        let tx = Transaction::begin(connection, Some(begin)).await.map_err(ledger_error)?;
        Ok(PgTx { tx, mark })
    }

    async fn write(&self, tx: &mut PgTx, new: &NewRow) -> Result<Write, LedgerError> {
        let written =
            if self.0.is_prepared { self.write_prepared(tx, new).await } else { self.write_simple(tx, new).await };
        match written.map_err(ledger_error)?.rows_affected() {
            1 => Ok(Write::Written),
            _ => self.why_not_written(tx, new).await,
        }
    }

    async fn probe(&self, tx: &mut PgTx) -> Result<(), LedgerError> {
        let sql = format!("SELECT current_setting('idempotency.run', true) = '{}'", Hex(tx.mark.as_bytes()));
        let connection: &mut PgConnection = tx;
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await.map_err(ledger_error)?;
        match found.try_get::<Option<bool>, _>(0) {
            Ok(Some(true)) => Ok(()),
            _ => Err(LedgerError::Refused("the handler ended the transaction itself".into())),
        }
    }

    async fn commit(&self, tx: PgTx) -> Result<(), LedgerError> {
        tx.tx.commit().await.map_err(commit_error)
    }

    async fn rollback(&self, tx: PgTx) {
        if let Err(error) = tx.tx.rollback().await {
            tracing::debug!(%error, "a transaction could not be rolled back; its connection is gone");
        }
    }

    async fn settle(&self, id: &RecordId, patience: Duration) -> Result<Look, LedgerError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = 10000",
            millis(patience).clamp(1, i32::MAX.into())
        );
        let mut tx = self.own().begin_with(AssertSqlSafe(begin)).await.map_err(ledger_error)?;
        // Waits for whoever is about to commit a row of this id. DO UPDATE locks a row that is there, although it changes
        // nothing; DO NOTHING need not.
        let sql = format!(
            "INSERT INTO {} AS l (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES ({}, '', '', 0, '', clock_timestamp(), '') ON CONFLICT (id) DO UPDATE SET attempt = 0 WHERE false",
            self.0.quoted,
            bytes(id.as_bytes())
        );
        let probed = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(ledger_error)?;
        let look = if probed.rows_affected() == 1 {
            // The row that a look would see is the probe.
            let now = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {NOW}"))).fetch_one(&mut *tx).await;
            now.map_err(ledger_error).and_then(|now| Ok(Look::new(None, None, self.0.clock.read(&now)?)))
        } else {
            self.look_by(id, &mut *tx).await
        };
        tx.rollback().await.map_err(ledger_error)?;
        look
    }

    async fn forget(&self, id: &RecordId) -> Result<bool, LedgerError> {
        let (table, id, token) = (&self.0.quoted, bytes(id.as_bytes()), bytes(OwnerToken::random().as_bytes()));
        // The INSERT waits for whoever is about to commit such a row, and the UPDATE sees it then.
        let sql = format!(
            "INSERT INTO {table} (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES ({id}, '', {token}, 0, '', clock_timestamp(), '') ON CONFLICT (id) DO NOTHING; \
             UPDATE {table} AS l SET fingerprint = '', token = {token}, attempt = 0, principal_tag = '', \
             born = clock_timestamp(), expires = clock_timestamp(), record = '' \
             FROM (SELECT id, expires > clock_timestamp() AS live FROM {table} WHERE id = {id} FOR UPDATE) AS was \
             WHERE l.id = was.id RETURNING was.live"
        );
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(self.own()).await.map_err(ledger_error)?;
        found.try_get(0).map_err(ledger_error)
    }

    async fn list(&self, after: Option<RecordId>, limit: usize) -> Result<Vec<Row>, LedgerError> {
        let after = after.map_or_else(String::new, |id| format!(" AND l.id > {}", bytes(id.as_bytes())));
        let sql = format!(
            "SELECT {COLUMNS} FROM {} AS l WHERE l.expires > clock_timestamp(){after} ORDER BY l.id LIMIT {limit}",
            self.0.quoted
        );
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(self.own()).await.map_err(ledger_error)?;
        found.iter().map(row).collect()
    }

    async fn sweep(&self, max_run: Duration) -> Result<u64, LedgerError> {
        let table = &self.0.quoted;
        let sql = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} \
             WHERE expires < clock_timestamp() - {} * interval '1 millisecond' ORDER BY expires LIMIT 500 \
             FOR UPDATE SKIP LOCKED)",
            millis(max_run.saturating_add(Duration::from_secs(60)))
        );
        let swept = sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.own()).await.map_err(ledger_error)?;
        Ok(swept.rows_affected())
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let refused = |error: sqlx::Error| match ledger_error(error) {
            LedgerError::Refused(error) => LedgerError::Refused(
                format!("{error}. The ledger needs SELECT, INSERT, UPDATE and DELETE on its table:\n{}", self.schema())
                    .into(),
            ),
            error => error,
        };
        // A connection of its own: one of the pool would belong to the runtime that checks.
        let options = self.0.pool.connect_options();
        let mut connection = PgConnection::connect_with(&options).await.map_err(refused)?;
        let mut tx = connection.begin().await.map_err(refused)?;
        let (table, id) = (&self.0.quoted, bytes(OwnerToken::random().as_bytes()));
        let sql = format!(
            "INSERT INTO {table} AS l (id, fingerprint, token, attempt, principal_tag, expires, record) \
             VALUES ({id}, '', '', 0, '', clock_timestamp(), '') \
             ON CONFLICT (id) DO UPDATE SET token = EXCLUDED.token WHERE l.token = ''; \
             UPDATE {table} SET expires = expires WHERE id = {id}; \
             SELECT {COLUMNS} FROM {table} AS l WHERE id = {id}; \
             DELETE FROM {table} WHERE id = {id}"
        );
        let tried = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await;
        let rolled_back = tx.rollback().await;
        let _ = connection.close().await;
        tried.map_err(refused)?;
        rolled_back.map_err(refused)
    }

    fn may_retry(&self, error: &dyn Any) -> bool {
        may_retry(error)
    }
}

impl SqlxPostgres {
    /// Inserts the row in one round trip, without a prepared statement.
    async fn write_simple(&self, tx: &mut PgTx, new: &NewRow) -> sqlx::Result<PgQueryResult> {
        let (id, table, mark) = (bytes(new.id.as_bytes()), &self.0.quoted, Hex(tx.mark.as_bytes()));
        let until = until(new);
        let on_conflict = new.over.map_or_else(
            || "NOTHING".to_owned(),
            |over| {
                format!(
                    "UPDATE SET fingerprint = EXCLUDED.fingerprint, token = EXCLUDED.token, \
                     attempt = EXCLUDED.attempt, principal_tag = EXCLUDED.principal_tag, born = clock_timestamp(), \
                     expires = EXCLUDED.expires, record = EXCLUDED.record \
                     WHERE l.token = {} AND l.expires <= clock_timestamp()",
                    bytes(over.as_bytes())
                )
            },
        );
        let sql = format!(
            "SET LOCAL lock_timeout = {}; INSERT INTO {table} AS l \
             (id, fingerprint, token, attempt, principal_tag, expires, record) \
             SELECT {id}, {}, {}, {}, {}, clock_timestamp() + {} * interval '1 millisecond', {} \
             WHERE current_setting('idempotency.run', true) = '{mark}' AND {NOW} < {until:.6} \
             ON CONFLICT (id) DO {on_conflict}",
            millis(new.patience).clamp(1, i32::MAX.into()),
            bytes(new.fingerprint.as_bytes()),
            bytes(new.token.as_bytes()),
            new.attempt,
            bytes(new.principal_tag.as_bytes()),
            millis(new.keep),
            bytes(&new.record.to_bytes()),
        );
        let connection: &mut PgConnection = tx;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await
    }

    /// Inserts the row in one statement, which is prepared once in each connection.
    async fn write_prepared(&self, tx: &mut PgTx, new: &NewRow) -> sqlx::Result<PgQueryResult> {
        let sql = format!(
            "INSERT INTO {} AS l (id, fingerprint, token, attempt, principal_tag, expires, record) \
             SELECT $1, $2, $3, $4, $5, clock_timestamp() + $6 * interval '1 millisecond', $7 \
             WHERE set_config('lock_timeout', $8, true) IS NOT NULL AND current_setting('idempotency.run', true) = $9 \
             AND {NOW} < $10 ON CONFLICT (id) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, token = EXCLUDED.token, \
             attempt = EXCLUDED.attempt, principal_tag = EXCLUDED.principal_tag, born = clock_timestamp(), \
             expires = EXCLUDED.expires, record = EXCLUDED.record \
             WHERE l.token = $11 AND l.expires <= clock_timestamp()",
            self.0.quoted
        );
        let mark = Hex(tx.mark.as_bytes()).to_string();
        let insert = sqlx::query(AssertSqlSafe(sql))
            .bind(&new.id.as_bytes()[..])
            .bind(&new.fingerprint.as_bytes()[..])
            .bind(&new.token.as_bytes()[..])
            .bind(i32::try_from(new.attempt).unwrap_or(i32::MAX))
            .bind(&new.principal_tag.as_bytes()[..])
            .bind(as_f64(millis(new.keep)))
            .bind(new.record.to_bytes().to_vec())
            .bind(format!("{}ms", millis(new.patience).clamp(1, i32::MAX.into())))
            .bind(mark)
            .bind(until(new))
            .bind(new.over.map(|over| over.as_bytes().to_vec()));
        let connection: &mut PgConnection = tx;
        insert.execute(connection).await
    }

    async fn why_not_written(&self, tx: &mut PgTx, new: &NewRow) -> Result<Write, LedgerError> {
        match self.probe(tx).await {
            Ok(()) => {}
            Err(LedgerError::Refused(_)) => return Ok(Write::Misused),
            // A connection that broke says nothing of the handler.
            Err(error) => return Err(error),
        }
        let connection: &mut PgConnection = tx;
        Ok(match self.look_by(&new.id, connection).await?.row {
            Some(row) => Write::Taken(Box::new(row)),
            // The run is too old, or the row was forgotten, replaced or swept since it looked.
            None => Write::Stale,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a century of milliseconds is exact")]
fn as_f64(millis: i64) -> f64 {
    millis as f64
}

/// When a run is too old to write, in seconds by the database's clock.
#[expect(clippy::cast_precision_loss, reason = "microseconds of this century are exact")]
fn until(new: &NewRow) -> f64 {
    new.looked_at.get() as f64 / 1e6 + new.max_run.as_secs_f64()
}

impl Isolation {
    const fn sql(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
            Self::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Self::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

impl Deref for PgTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.tx
    }
}

impl DerefMut for PgTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

impl fmt::Debug for SqlxPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxPostgres").field("table", &self.0.table).finish_non_exhaustive()
    }
}

impl fmt::Debug for PgTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PgTx")
    }
}
