//! How long a row is kept, when its handler says so.

use std::time::Duration;

use actix_idempotency::{
    IdempotencyInfo, ResponseExt as _,
    ledger::{Ledger as _, NewRow, TransactionError, Transactions, Tx},
};
use actix_web::{HttpResponse, web};

use super::common::{Counts, Faulty, World, ask, serve};
use crate::common::in_process::alone;

const HOUR: Duration = Duration::from_secs(3600);

fn paid(counts: &Counts) -> HttpResponse {
    HttpResponse::Created().body(format!("run {}", counts.next_run())).keep_for(2 * HOUR)
}

async fn by_tx(_: Tx<Faulty>, counts: web::Data<Counts>) -> HttpResponse {
    paid(&counts)
}

async fn by_closure(db: Transactions<Faulty>, counts: web::Data<Counts>) -> Result<HttpResponse, TransactionError> {
    db.run(async |_| Ok::<_, TransactionError>(paid(&counts))).await
}

async fn by_hand(
    info: IdempotencyInfo,
    counts: web::Data<Counts>,
    ledger: web::Data<Faulty>,
) -> Result<HttpResponse, TransactionError> {
    let mut response = paid(&counts);
    let entry = info.ledger_entry(&mut response)?;
    assert_eq!(entry.keep(), 2 * HOUR);
    let ledger = ledger.inner();
    let look = ledger.look(entry.id()).await.unwrap();
    let mut row = NewRow::new(*entry.id(), *entry.fingerprint(), *entry.token(), entry.record().clone(), &look);
    (row.over, row.keep) = (entry.over().copied(), entry.keep());
    let mut tx = ledger.begin(None, &(), row.max_run).await.unwrap();
    ledger.write(&mut tx, &row).await.unwrap();
    ledger.commit(tx).await.unwrap();
    Ok(response)
}

macro_rules! a_row_is_kept_as_its_handler_says {
    ($handler:expr) => {
        alone(|| async {
            for (max_ttl, kept) in [(None, 2 * HOUR), (Some(3 * HOUR), 2 * HOUR)] {
                let world = World::with(|settings| (settings.storage.ttl, settings.storage.max_ttl) = (HOUR, max_ttl));
                let app = serve!(world, world.wrap(), "/" => $handler; web::Data::new(world.ledger.clone()));
                ask(&*app, "/", "k").await.is(201, "run 1");
                let rows = world.ledger.inner().list(None, 9).await.unwrap();
                assert_eq!(rows.iter().map(|row| row.remaining).collect::<Vec<_>>(), [kept]);
                world.clock.advance(kept - Duration::from_secs(1));
                ask(&*app, "/", "k").await.is_replay(201, "run 1");
                world.clock.advance(Duration::from_secs(2));
                ask(&*app, "/", "k").await.is(201, "run 2");
            }
        });
    };
}

#[test]
fn by_a_transaction() {
    a_row_is_kept_as_its_handler_says!(by_tx);
}

#[test]
fn by_a_closure() {
    a_row_is_kept_as_its_handler_says!(by_closure);
}

#[test]
fn by_hand_too() {
    a_row_is_kept_as_its_handler_says!(by_hand);
}
