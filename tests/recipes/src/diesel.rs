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
    let (answer, ended) = match insert(&info, &mut connection, order.amount).await {
        Ok((response, Ok(()))) => {
            (Ok(response), AnsiTransactionManager::commit_transaction(&mut *connection).await)
        }
        Ok((response, Err(error))) => {
            let rolled_back = AnsiTransactionManager::rollback_transaction(&mut *connection).await;
            (Ok(response), rolled_back.and(Err(error)))
        }
        Err(error) => (Err(error), AnsiTransactionManager::rollback_transaction(&mut *connection).await),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the ledger will say what became of a transaction");
    }
    answer
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
