//! Handlers that stop waiting for their own closure.

use std::time::Duration;

use actix_idempotency::{
    ledger::{TransactionError, Transactions},
    testing::LedgerCall,
};
use actix_web::{HttpResponse, rt::time::timeout, web};

use super::common::{Counts, Door, Faulty, World, ask, begin, serve, within};
use crate::common::in_process::{alone, post};

/// Waits for a closure for at most this time. Then it answers 202.
async fn impatient(
    db: Transactions<Faulty>,
    counts: web::Data<Counts>,
    door: web::Data<Door>,
) -> Result<HttpResponse, TransactionError> {
    let run = db.run(async |tx| {
        let response = counts.pay(tx);
        door.pass().await;
        Ok::<_, TransactionError>(response)
    });
    match timeout(Duration::from_millis(50), run).await {
        Ok(answer) => answer,
        Err(_) => Ok(HttpResponse::Accepted().body("later")),
    }
}

#[test]
fn a_closure_that_is_dropped_half_way_commits_nothing() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => impatient; web::Data::new(Door::new()));
        ask(&*app, "/", "k").await.is(202, "later");
        world.has(0, 1);
        ask(&*app, "/", "k").await.is_replay(202, "later");
        world.has(0, 1);
        world.ends_transactions().await;
    });
}

#[test]
fn a_closure_that_is_dropped_half_way_may_be_followed_by_another_run() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            let stuck = db.run(async |tx| {
                counts.pay(tx);
                std::future::pending::<Result<HttpResponse, TransactionError>>().await
            });
            assert!(timeout(Duration::from_millis(20), stuck).await.is_err());
            db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        ask(&*app, "/", "k").await.is(201, "run 2");
        world.has(1, 2);
        world.ends_transactions().await;
    });
}

/// Waits for a whole transaction for at most 50 ms. Then it answers 504.
async fn too_short(db: Transactions<Faulty>, counts: web::Data<Counts>) -> Result<HttpResponse, TransactionError> {
    let run = db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx)));
    match timeout(Duration::from_millis(50), run).await {
        Ok(answer) => answer,
        Err(_) => Ok(HttpResponse::GatewayTimeout().body("too slow")),
    }
}

#[test]
fn a_commit_that_has_begun_is_not_cancelled_by_the_handlers_own_time_out() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => too_short);
        for (n, call) in (1..).zip([LedgerCall::Write, LedgerCall::Commit]) {
            let gate = world.faults.gate(call);
            let key = format!("{call:?}");
            let request = begin(&app, post("/", Some(&key)));
            within(gate.reached()).await;
            // The handler's time is up.
            actix_web::rt::time::sleep(Duration::from_millis(80)).await;
            assert!(!request.is_finished(), "the answer waits for the COMMIT");
            gate.open();
            within(request).await.unwrap().is(201, &format!("run {n}"));
            ask(&*app, "/", &key).await.is_replay(201, &format!("run {n}"));
            world.has(n, n);
        }
        world.ends_transactions().await;
    });
}

#[test]
fn a_rollback_that_outlasts_the_handlers_own_time_out_is_no_misuse() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            let run = db.run(async |tx| {
                counts.pay(tx);
                Ok::<_, TransactionError>(HttpResponse::Conflict().body("refused"))
            });
            match timeout(Duration::from_millis(50), run).await {
                Ok(answer) => answer,
                Err(_) => Ok(HttpResponse::GatewayTimeout().body("too slow")),
            }
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        let gate = world.faults.gate(LedgerCall::Rollback);
        let request = begin(&app, post("/", Some("k")));
        within(gate.reached()).await;
        actix_web::rt::time::sleep(Duration::from_millis(80)).await;
        gate.open();
        within(request).await.unwrap().is(504, "too slow");
        world.has(0, 1);
        world.ends_transactions().await;
    });
}
