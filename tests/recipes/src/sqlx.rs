//! sqlx, by hand.

use crate::Order;

// The page has everything from here to the line.
use actix_idempotency::{IdempotencyInfo, ledger::Dialect};
use actix_idempotency_sqlx::Error;
use actix_web::{HttpResponse, web};
use sqlx::{AssertSqlSafe, PgPool};

async fn pay(info: IdempotencyInfo, pool: web::Data<PgPool>, order: web::Json<Order>) -> Result<HttpResponse, Error> {
    let mut transaction = pool.begin().await?;
    let id: i64 = sqlx::query_scalar("INSERT INTO payments (amount) VALUES ($1) RETURNING id")
        .bind(order.amount)
        .fetch_one(&mut *transaction)
        .await?;
    let mut response = HttpResponse::Created().json(id);
    let entry = info.ledger_entry(&mut response)?;
    let statements = entry.statements(Dialect::Postgres, "idempotency_ledger").join(";");
    let ended = match sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await {
        Ok(_) => transaction.commit().await,
        Err(error) => transaction.rollback().await.and(Err(error)),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the ledger will say what became of a transaction");
    }
    Ok(response)
}

// ---------------------------------------------------------------------------------------------------------------------

pub fn pay_route() -> actix_web::Route {
    web::post().to(pay)
}
