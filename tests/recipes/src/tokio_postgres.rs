//! tokio-postgres, with a pool of deadpool-postgres.

use crate::Order;

// The page has everything from here to the line.
use actix_idempotency::{
    IdempotencyInfo,
    ledger::{Dialect, TransactionError},
};
use actix_web::{HttpResponse, web};
use deadpool_postgres::Pool;

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> TransactionError {
    TransactionError::Unavailable(error.into())
}

fn failed(error: tokio_postgres::Error) -> TransactionError {
    TransactionError::Failed(error.into())
}

async fn pay(
    info: IdempotencyInfo,
    pool: web::Data<Pool>,
    order: web::Json<Order>,
) -> Result<HttpResponse, TransactionError> {
    let mut client = pool.get().await.map_err(unavailable)?;
    let transaction = client.transaction().await.map_err(unavailable)?;
    let insert = "INSERT INTO payments (amount) VALUES ($1) RETURNING id";
    let id: i64 = transaction.query_one(insert, &[&order.amount]).await.map_err(failed)?.get(0);
    let mut response = HttpResponse::Created().json(id);
    let entry = info.ledger_entry(&mut response)?;
    let statements = entry.statements(Dialect::Postgres, "idempotency_ledger").join(";");
    let ended = match transaction.batch_execute(&statements).await {
        Ok(()) => transaction.commit().await,
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
