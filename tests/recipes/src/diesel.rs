//! diesel-async.

use crate::Order;

// The page has everything from here to the line.
use actix_idempotency::{
    IdempotencyInfo,
    ledger::{Dialect, TransactionError},
};
use actix_web::{HttpResponse, web};
use diesel::ExpressionMethods as _;
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _,
    pooled_connection::deadpool::Pool,
};

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> TransactionError {
    TransactionError::Unavailable(error.into())
}

fn failed(error: diesel::result::Error) -> TransactionError {
    TransactionError::Failed(error.into())
}

async fn pay(
    info: IdempotencyInfo,
    pool: web::Data<Pool<AsyncPgConnection>>,
    order: web::Json<Order>,
) -> Result<HttpResponse, TransactionError> {
    let mut connection = pool.get().await.map_err(unavailable)?;
    AnsiTransactionManager::begin_transaction(&mut *connection).await.map_err(unavailable)?;
    let inserted = insert(&info, &mut connection, order.amount).await;
    let ended = match &inserted {
        Ok((_, Ok(()))) => AnsiTransactionManager::commit_transaction(&mut *connection).await,
        _ => AnsiTransactionManager::rollback_transaction(&mut *connection).await,
    };
    let (response, row) = inserted?;
    if let Err(error) = row.and(ended) {
        tracing::warn!(%error, "the ledger will say what became of a transaction");
    }
    Ok(response)
}

/// The response, and whether its row was inserted.
async fn insert(
    info: &IdempotencyInfo,
    connection: &mut AsyncPgConnection,
    amount: i64,
) -> Result<(HttpResponse, diesel::QueryResult<()>), TransactionError> {
    // `payments` is a table of the application.
    let insert = diesel::insert_into(payments::table).values(payments::amount.eq(amount));
    let id: i64 = insert.returning(payments::id).get_result(connection).await.map_err(failed)?;
    let mut response = HttpResponse::Created().json(id);
    let entry = info.ledger_entry(&mut response)?;
    let statements = entry.statements(Dialect::Postgres, "idempotency_ledger").join(";");
    let inserted = connection.batch_execute(&statements).await;
    Ok((response, inserted))
}

// ---------------------------------------------------------------------------------------------------------------------

diesel::table! {
    payments (id) {
        id -> BigInt,
        amount -> BigInt,
    }
}

pub fn pay_route() -> actix_web::Route {
    web::post().to(pay)
}
