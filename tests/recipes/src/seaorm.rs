//! SeaORM.

use crate::Order;

// The page has everything from here to the line.
use actix_idempotency::{
    IdempotencyInfo,
    ledger::{Dialect, TransactionError},
};
use actix_web::{HttpResponse, web};
use sea_orm::{ActiveModelTrait as _, ConnectionTrait as _, DatabaseConnection, DbErr, Set, TransactionTrait as _};

fn unavailable(error: DbErr) -> TransactionError {
    TransactionError::Unavailable(error.into())
}

fn failed(error: DbErr) -> TransactionError {
    TransactionError::Failed(error.into())
}

async fn pay(
    info: IdempotencyInfo,
    database: web::Data<DatabaseConnection>,
    order: web::Json<Order>,
) -> Result<HttpResponse, TransactionError> {
    let transaction = database.begin().await.map_err(unavailable)?;
    // `payment` is an entity of the application.
    let new = payment::ActiveModel { amount: Set(order.amount), ..Default::default() };
    let payment = new.insert(&transaction).await.map_err(failed)?;
    let mut response = HttpResponse::Created().json(payment.id);
    let entry = info.ledger_entry(&mut response)?;
    let statements = entry.statements(Dialect::Postgres, "idempotency_ledger").join(";");
    let ended = match transaction.execute_unprepared(&statements).await {
        Ok(_) => transaction.commit().await,
        Err(error) => transaction.rollback().await.and(Err(error)),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the ledger will say what became of a transaction");
    }
    Ok(response)
}

// ---------------------------------------------------------------------------------------------------------------------

pub mod payment {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "payments")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub amount: i64,
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub fn pay_route() -> actix_web::Route {
    web::post().to(pay)
}
