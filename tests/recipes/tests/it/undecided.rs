//! A handler for each library that asks for the row of its answer, and then rolls back.

use actix_idempotency::{IdempotencyInfo, ledger::Dialect};
use actix_web::{Error, HttpResponse, error::ErrorInternalServerError, http::StatusCode, web};
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager as _,
    pooled_connection::deadpool::Pool,
};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, TransactionTrait as _};
use sqlx::{AssertSqlSafe, PgPool};

const INSERT: &str = "INSERT INTO payments (amount) VALUES (1)";

type Outcome = Result<HttpResponse, Error>;

/// The answer with the status of the path, and the statements of the handler.
fn answer(info: &IdempotencyInfo, status: u16) -> Result<(HttpResponse, String), Error> {
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap()).body("undecided");
    let entry = info.ledger_entry(&mut response)?;
    Ok((response, format!("{INSERT};{}", entry.statements(Dialect::Postgres, "idempotency_ledger").join(";"))))
}

pub(crate) async fn sqlx(info: IdempotencyInfo, pool: web::Data<PgPool>, status: web::Path<u16>) -> Outcome {
    let mut transaction = pool.begin().await.map_err(ErrorInternalServerError)?;
    let (response, statements) = answer(&info, *status)?;
    let inserted = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *transaction).await;
    inserted.map_err(ErrorInternalServerError)?;
    transaction.rollback().await.map_err(ErrorInternalServerError)?;
    Ok(response)
}

pub(crate) async fn seaorm(
    info: IdempotencyInfo,
    database: web::Data<DatabaseConnection>,
    status: web::Path<u16>,
) -> Outcome {
    let transaction = database.begin().await.map_err(ErrorInternalServerError)?;
    let (response, statements) = answer(&info, *status)?;
    transaction.execute_unprepared(&statements).await.map_err(ErrorInternalServerError)?;
    transaction.rollback().await.map_err(ErrorInternalServerError)?;
    Ok(response)
}

pub(crate) async fn diesel(
    info: IdempotencyInfo,
    pool: web::Data<Pool<AsyncPgConnection>>,
    status: web::Path<u16>,
) -> Outcome {
    let mut connection = pool.get().await.map_err(ErrorInternalServerError)?;
    let connection = &mut *connection;
    AnsiTransactionManager::begin_transaction(connection).await.map_err(ErrorInternalServerError)?;
    let (response, statements) = answer(&info, *status)?;
    connection.batch_execute(&statements).await.map_err(ErrorInternalServerError)?;
    AnsiTransactionManager::rollback_transaction(connection).await.map_err(ErrorInternalServerError)?;
    Ok(response)
}

pub(crate) async fn tokio_postgres(
    info: IdempotencyInfo,
    pool: web::Data<deadpool_postgres::Pool>,
    status: web::Path<u16>,
) -> Outcome {
    let mut client = pool.get().await.map_err(ErrorInternalServerError)?;
    let transaction = client.transaction().await.map_err(ErrorInternalServerError)?;
    let (response, statements) = answer(&info, *status)?;
    transaction.batch_execute(&statements).await.map_err(ErrorInternalServerError)?;
    transaction.rollback().await.map_err(ErrorInternalServerError)?;
    Ok(response)
}
