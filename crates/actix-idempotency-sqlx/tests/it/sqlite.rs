//! The ledger in SQLite.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    ledger::{Ledger as _, NewRow, Write},
    record::Record,
    store::OwnerToken,
    testing::accept_ledger,
};
use actix_idempotency_sqlx::SqlxSqlite;
use actix_web::http::StatusCode;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use crate::common::fresh_key;

/// Files that are removed with the test.
#[derive(Default)]
pub(crate) struct Files(std::sync::Mutex<Vec<PathBuf>>);

impl Files {
    pub(crate) async fn pool(&self, mode: SqliteJournalMode) -> SqlitePool {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ledger-{}-{}.db", fresh_key(), NEXT.fetch_add(1, SeqCst));
        let file = std::env::temp_dir().join(name);
        self.0.lock().unwrap().push(file.clone());
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(mode)
            .busy_timeout(Duration::from_secs(1));
        SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in self.0.lock().unwrap().iter() {
            for end in ["", "-wal", "-shm", "-journal"] {
                let _ = std::fs::remove_file(format!("{}{end}", file.display()));
            }
        }
    }
}

#[actix_web::test]
async fn it_passes_the_acceptance_suite_in_both_journal_modes() {
    let files = Files::default();
    for mode in [SqliteJournalMode::Wal, SqliteJournalMode::Delete] {
        accept_ledger(async || {
            let ledger = SqlxSqlite::new(files.pool(mode).await);
            ledger.create_table().await.unwrap();
            ledger
        })
        .await;
    }
}

/// SQLite rolls a transaction back itself when the disk is full, for example. The next one must not suffer from it.
#[actix_web::test]
async fn a_transaction_that_sqlite_ends_does_no_harm_to_its_connection() {
    let files = Files::default();
    let pool = files.pool(SqliteJournalMode::Wal).await;
    let ledger = SqlxSqlite::new(pool.clone());
    ledger.create_table().await.unwrap();
    let tables = "CREATE TABLE t (a); CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT raise(ROLLBACK, 'no'); END";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let id = RecordId::from_bytes([1; 32]);
    for dropped in [false, true] {
        for _ in 0..6 {
            let mut tx = ledger.begin(None, &(), Duration::from_secs(60)).await.unwrap();
            assert!(sqlx::raw_sql("INSERT INTO t VALUES (1)").execute(&mut *tx).await.is_err());
            if dropped {
                drop(tx);
            } else {
                ledger.rollback(tx).await;
            }
        }
        assert!(ledger.settle(&id, Duration::from_secs(1)).await.unwrap().row.is_none());
        let look = ledger.look(&id).await.unwrap();
        let record = Record::new(StatusCode::CREATED, [], Some(b"a"));
        let row = NewRow::new(id, Fingerprint::from_bytes([1; 42]), OwnerToken::random(), record, &look);
        let mut tx = ledger.begin(None, &(), Duration::from_secs(60)).await.unwrap();
        assert!(matches!(ledger.write(&mut tx, &row).await, Ok(Write::Written)));
        ledger.commit(tx).await.unwrap();
        assert!(ledger.forget(&id).await.unwrap());
    }
}

#[actix_web::test]
async fn a_handler_that_commits_itself_is_noticed() {
    let files = Files::default();
    let ledger = SqlxSqlite::new(files.pool(SqliteJournalMode::Wal).await).table("Our ledger");
    assert!(ledger.check().await.unwrap_err().to_string().contains("\"Our ledger\""));
    ledger.create_table().await.unwrap();
    ledger.check().await.unwrap();
    let id = RecordId::from_bytes([1; 32]);
    let look = ledger.look(&id).await.unwrap();
    let record = Record::new(StatusCode::CREATED, [], Some(b"a"));
    let row = NewRow::new(id, Fingerprint::from_bytes([1; 42]), OwnerToken::random(), record, &look);
    let mut tx = ledger.begin(None, &(), Duration::from_secs(60)).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap();
    assert!(matches!(ledger.write(&mut tx, &row).await, Ok(Write::Misused)));
    ledger.rollback(tx).await;
    let mut tx = ledger.begin(None, &(), Duration::from_secs(60)).await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut *tx).await.unwrap();
    assert!(ledger.probe(&mut tx).await.is_err());
    ledger.rollback(tx).await;
    assert!(ledger.look(&id).await.unwrap().row.is_none());
}
