//! Payments in SQLite.

use std::{str::FromStr as _, time::Duration};

use actix_idempotency::ledger::Transactions;
use actix_idempotency_sqlx::{Error, SqlxSqlite};
use actix_web::{HttpResponse, web};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use crate::{Order, Payment};

/// Stands in for migrations. Alice has some money.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance integer NOT NULL);
    INSERT INTO accounts VALUES ('alice', 1000) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS payments (
        id integer PRIMARY KEY AUTOINCREMENT,
        account text NOT NULL REFERENCES accounts,
        amount integer NOT NULL
    )";

pub(crate) async fn open(url: &str) -> Result<(SqlxSqlite, SqlitePool), sqlx::Error> {
    // A file has one writer. A request waits for it, and for a connection, and then gets a 503.
    let options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(1));
    let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_secs(1)).connect_with(options).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let ledger = SqlxSqlite::new(pool.clone());
    ledger.create_table().await?;
    Ok((ledger, pool))
}

pub(crate) fn routes(config: &mut web::ServiceConfig, pool: &SqlitePool) {
    config
        .app_data(web::Data::new(pool.clone()))
        .route("/payments", web::post().to(pay))
        .route("/payments", web::get().to(payments));
}

/// Pays once per key. The closure does not commit: the middleware does, together with the answer.
async fn pay(db: Transactions<SqlxSqlite>, order: web::Json<Order>) -> Result<HttpResponse, Error> {
    let (account, amount) = (&order.account, i64::from(order.amount));
    db.run(async |tx| {
        let take = "UPDATE accounts SET balance = balance - $1 WHERE name = $2 AND balance >= $1";
        let taken = sqlx::query(take).bind(amount).bind(account).execute(&mut **tx).await?;
        if taken.rows_affected() == 0 {
            // Not a success: whatever the closure has written is rolled back.
            return Ok(HttpResponse::PaymentRequired().body("there is not enough money in this account"));
        }
        let insert = "INSERT INTO payments (account, amount) VALUES ($1, $2) RETURNING id";
        let id = sqlx::query_scalar(insert).bind(account).bind(amount).fetch_one(&mut **tx).await?;
        Ok(HttpResponse::Created().json(Payment { id, account: account.clone(), amount }))
    })
    .await
}

async fn payments(pool: web::Data<SqlitePool>) -> Result<HttpResponse, Error> {
    let rows = sqlx::query_as("SELECT id, account, amount FROM payments ORDER BY id").fetch_all(&**pool).await?;
    let payments = rows.into_iter().map(|(id, account, amount)| Payment { id, account, amount });
    Ok(HttpResponse::Ok().json(payments.collect::<Vec<_>>()))
}
