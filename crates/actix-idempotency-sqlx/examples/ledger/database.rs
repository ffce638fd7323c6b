//! The two databases of this example, each with a table `effects` to which handlers add rows.

use std::{collections::BTreeMap, str::FromStr as _, time::Duration};

use actix_idempotency::ledger::Ledger;
use actix_idempotency_sqlx::{Isolation, PgTx, SqliteTx, SqlxPostgres, SqlxSqlite};
use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

/// How long a request waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(2);

/// A database, by the type of its ledger.
pub(crate) trait Database: Ledger {
    type Pool: Clone + Send + Sync + 'static;

    /// How the transactions of `/transactions` differ.
    const STRICT: Self::Options;

    /// Connects, and creates the tables of this example and of the ledger.
    fn connect(url: &str, size: u32) -> impl Future<Output = Result<(Self, Self::Pool), sqlx::Error>>;

    /// Adds a row, in the transaction of a handler.
    fn add(tx: &mut Self::Tx, key: &str, path: &str) -> impl Future<Output = Result<(), sqlx::Error>>;

    /// The number of rows of each key.
    fn count(pool: &Self::Pool) -> impl Future<Output = Result<BTreeMap<String, i64>, sqlx::Error>>;
}

const COUNT: &str = "SELECT key, count(*) FROM effects GROUP BY key";

fn pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}

impl Database for SqlxPostgres {
    type Pool = PgPool;
    const STRICT: Isolation = Isolation::Serializable;

    async fn connect(url: &str, size: u32) -> Result<(Self, PgPool), sqlx::Error> {
        let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE).connect(url).await?;
        // Several processes may start at once, and CREATE TABLE IF NOT EXISTS is no match for that.
        let mut tx = pool.begin().await?;
        sqlx::raw_sql("SELECT pg_advisory_xact_lock(4711)").execute(&mut *tx).await?;
        sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS effects (n serial PRIMARY KEY, key text NOT NULL, path text NOT NULL, \
             pid int NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())",
        )
        .execute(&mut *tx)
        .await?;
        sqlx::raw_sql(Self::SCHEMA).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok((Self::new(pool.clone()), pool))
    }

    async fn add(tx: &mut PgTx, key: &str, path: &str) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO effects (key, path, pid) VALUES ($1, $2, $3)").persistent(false);
        insert.bind(key).bind(path).bind(pid()).execute(&mut **tx).await.map(|_| ())
    }

    async fn count(pool: &PgPool) -> Result<BTreeMap<String, i64>, sqlx::Error> {
        Ok(sqlx::query_as::<_, (String, i64)>(COUNT).persistent(false).fetch_all(pool).await?.into_iter().collect())
    }
}

impl Database for SqlxSqlite {
    type Pool = SqlitePool;
    const STRICT: () = ();

    async fn connect(url: &str, size: u32) -> Result<(Self, SqlitePool), sqlx::Error> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(ACQUIRE);
        let pool =
            SqlitePoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE).connect_with(options).await?;
        sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS effects (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, \
             path TEXT NOT NULL, pid INTEGER NOT NULL, at TEXT NOT NULL DEFAULT current_timestamp)",
        )
        .execute(&pool)
        .await?;
        let ledger = Self::new(pool.clone());
        ledger.create_table().await?;
        Ok((ledger, pool))
    }

    async fn add(tx: &mut SqliteTx, key: &str, path: &str) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO effects (key, path, pid) VALUES ($1, $2, $3)");
        insert.bind(key).bind(path).bind(pid()).execute(&mut **tx).await.map(|_| ())
    }

    async fn count(pool: &SqlitePool) -> Result<BTreeMap<String, i64>, sqlx::Error> {
        Ok(sqlx::query_as::<_, (String, i64)>(COUNT).fetch_all(pool).await?.into_iter().collect())
    }
}
