//! Payments in PostgreSQL.

use std::time::Duration;

use actix_idempotency::ledger::Transactions;
use actix_idempotency_sqlx::{Error, SqlxPostgres};
use actix_web::{HttpResponse, web};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{Order, Payment};

/// Stands in for migrations. Alice has some money.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO accounts VALUES ('alice', 1000) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS payments (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        account text NOT NULL REFERENCES accounts,
        amount bigint NOT NULL
    )";

pub(crate) async fn open(url: &str) -> Result<(SqlxPostgres, PgPool), sqlx::Error> {
    // A request waits for a connection for a second, and then gets a 503.
    let pool = PgPoolOptions::new().max_connections(10).acquire_timeout(Duration::from_secs(1)).connect(url).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let ledger = SqlxPostgres::new(pool.clone());
    ledger.create_table().await?;
    Ok((ledger, pool))
}

pub(crate) fn routes(config: &mut web::ServiceConfig, pool: &PgPool) {
    config
        .app_data(web::Data::new(pool.clone()))
        .route("/payments", web::post().to(pay))
        .route("/payments", web::get().to(payments));
}

/// Pays once per key. The closure does not commit: the middleware does, together with the answer.
async fn pay(db: Transactions<SqlxPostgres>, order: web::Json<Order>) -> Result<HttpResponse, Error> {
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

async fn payments(pool: web::Data<PgPool>) -> Result<HttpResponse, Error> {
    let rows = sqlx::query_as("SELECT id, account, amount FROM payments ORDER BY id").fetch_all(&**pool).await?;
    let payments = rows.into_iter().map(|(id, account, amount)| Payment { id, account, amount });
    Ok(HttpResponse::Ok().json(payments.collect::<Vec<_>>()))
}
