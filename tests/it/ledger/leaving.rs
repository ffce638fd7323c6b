//! Clients that leave, at each stage of a request.

use std::time::Duration;

use actix_idempotency::{
    Settings,
    ledger::{TransactionError, Transactions, Tx},
    settings::OnDisconnect,
    testing::LedgerCall,
};
use actix_web::{HttpResponse, rt, web};
use bytes::Bytes;
use futures_util::stream;

use super::common::{
    Counts, Door, Faulty, World, ask, begin, by_closure, by_itself, by_tx, eventually, leave, serve, within,
};
use crate::common::in_process::{alone, post};

fn cancelling(settings: &mut Settings) {
    settings.on_disconnect = OnDisconnect::Cancel;
}

macro_rules! app {
    ($world:expr) => {
        serve!($world, $world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself)
    };
}

/// A world whose handlers wait at a door after they have added their row.
macro_rules! waiting {
    ($world:expr, $door:expr) => {{
        let (tx_door, closure_door) = ($door.clone(), $door.clone());
        serve!(
            $world,
            $world.wrap(),
            "/tx" => move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
                let door = tx_door.clone();
                async move {
                    let response = counts.pay(&mut tx);
                    door.pass().await;
                    response
                }
            },
            "/closure" => move |db: Transactions<Faulty>, counts: web::Data<Counts>| {
                let door = closure_door.clone();
                async move {
                    db.run(async |tx| {
                        let response = counts.pay(tx);
                        door.pass().await;
                        Ok::<_, TransactionError>(response)
                    })
                    .await
                }
            },
        )
    }};
}

#[test]
fn a_client_that_leaves_while_the_handler_runs_rolls_back_with_cancel() {
    for path in ["/tx", "/closure"] {
        alone(move || async move {
            let world = World::with(cancelling);
            let door = Door::new();
            let app = waiting!(world, door);
            let request = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            leave(request).await;
            world.ends_transactions().await;
            door.open();
            world.has(0, 1);
            eventually("the key is free", async || ask(&*app, path, "k").await.status == 201).await;
            ask(&*app, path, "k").await.is_replay(201, "run 2");
            world.has(1, 2);
        });
    }
}

#[test]
fn a_client_that_leaves_while_the_handler_runs_changes_nothing_with_finish() {
    for path in ["/tx", "/closure"] {
        alone(move || async move {
            let world = World::with(|settings| settings.lock.timeout = Duration::from_secs(10));
            let door = Door::new();
            let app = waiting!(world, door);
            let request = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            leave(request).await;
            door.open();
            ask(&*app, path, "k").await.is_replay(201, "run 1");
            world.has(1, 1);
            world.ends_transactions().await;
        });
    }
}

/// Leaves while a call of the ledger waits. The number of rows that are committed in the end.
fn leaves_at(call: LedgerCall, path: &'static str, rows: u32) {
    for on_disconnect in [OnDisconnect::Cancel, OnDisconnect::Finish] {
        alone(move || async move {
            let world = World::with(|settings| {
                settings.on_disconnect = on_disconnect;
                settings.lock.timeout = Duration::from_secs(10);
            });
            let app = app!(world);
            let gate = world.faults.gate(call);
            let request = begin(&app, post(path, Some("k")));
            within(gate.reached()).await;
            leave(request).await;
            let retry = begin(&app, post(path, Some("k")));
            for _ in 0..20 {
                rt::task::yield_now().await;
            }
            gate.open();
            let retry = within(retry).await.unwrap();
            assert_eq!(retry.status, path[path.len() - 3..].parse::<u16>().unwrap(), "{call:?}: {retry:?}");
            assert!(retry.is_replay, "{call:?} {on_disconnect:?}: {retry:?}");
            assert_eq!((world.counts.rows(), world.counts.runs()), (rows, 1), "{call:?} {on_disconnect:?}");
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_client_that_leaves_after_the_response_is_known_changes_nothing() {
    for call in [LedgerCall::Write, LedgerCall::Commit] {
        for path in ["/tx?status=201", "/closure?status=201"] {
            leaves_at(call, path, 1);
        }
        leaves_at(call, "/none?status=201", 0);
        leaves_at(call, "/tx?status=409", 0);
    }
    leaves_at(LedgerCall::Begin, "/none?status=201", 0);
}

#[test]
fn a_client_that_leaves_during_begin_leaves_no_transaction_open_and_frees_the_key() {
    for path in ["/tx?status=201", "/closure?status=201"] {
        alone(move || async move {
            let world = World::with(cancelling);
            let app = app!(world);
            let gate = world.faults.gate(LedgerCall::Begin);
            let request = begin(&app, post(path, Some("k")));
            within(gate.reached()).await;
            leave(request).await;
            ask(&*app, path, "k").await.is_problem(423, "in-flight");
            gate.open();
            world.ends_transactions().await;
            eventually("the key is free", async || ask(&*app, path, "k").await.status == 201).await;
            world.has(1, 1);
            assert_eq!(world.faults.calls(LedgerCall::Rollback), 1);
        });
    }
}

#[test]
fn a_key_is_not_free_before_its_transaction_is_rolled_back() {
    for path in ["/tx", "/closure"] {
        alone(move || async move {
            let world = World::with(cancelling);
            let door = Door::new();
            let app = waiting!(world, door);
            let request = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            let gate = world.faults.gate(LedgerCall::Rollback);
            leave(request).await;
            within(gate.reached()).await;
            door.open();
            ask(&*app, path, "k").await.is_problem(423, "in-flight");
            gate.open();
            eventually("the key is free", async || ask(&*app, path, "k").await.status == 201).await;
            world.has(1, 2);
        });
    }
}

#[test]
fn a_client_that_leaves_while_a_refusal_is_rolled_back_frees_the_key_afterwards() {
    alone(|| async {
        let world = World::with(cancelling);
        let app = app!(world);
        let gate = world.faults.gate(LedgerCall::Rollback);
        let request = begin(&app, post("/tx?status=503", Some("k")));
        within(gate.reached()).await;
        leave(request).await;
        ask(&*app, "/tx?status=503", "k").await.is_problem(423, "in-flight");
        gate.open();
        eventually("the key is free", async || ask(&*app, "/tx?status=503", "k").await.text == "run 2").await;
        world.ends_transactions().await;
    });
}

/// A stream that waits in the middle.
macro_rules! streaming {
    ($world:expr, $door:expr) => {{
        let door = $door.clone();
        serve!($world, $world.wrap(), "/" => move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
            let door = door.clone();
            async move {
                counts.pay(&mut tx);
                let pieces = stream::unfold(0, move |n| {
                    let door = door.clone();
                    async move {
                        if n == 1 {
                            door.pass().await;
                        }
                        (n < 2).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"piece ")), n + 1))
                    }
                });
                HttpResponse::Created().streaming(pieces)
            }
        })
    }};
}

#[test]
fn a_client_that_leaves_while_a_body_is_read_rolls_back_with_cancel() {
    alone(|| async {
        let world = World::with(cancelling);
        let door = Door::new();
        let app = streaming!(world, door);
        let request = begin(&app, post("/", Some("k")));
        door.reached_by(1).await;
        leave(request).await;
        world.ends_transactions().await;
        door.open();
        world.has(0, 1);
        eventually("the key is free", async || ask(&*app, "/", "k").await.status == 201).await;
        world.has(1, 2);
    });
}

#[test]
fn a_client_that_leaves_while_a_body_is_read_changes_nothing_with_finish() {
    alone(|| async {
        let world = World::with(|settings| settings.lock.timeout = Duration::from_secs(10));
        let door = Door::new();
        let app = streaming!(world, door);
        let request = begin(&app, post("/", Some("k")));
        door.reached_by(1).await;
        leave(request).await;
        door.open();
        ask(&*app, "/", "k").await.is_replay(201, "piece piece ");
        world.has(1, 1);
        world.ends_transactions().await;
    });
}

#[test]
fn a_client_that_leaves_after_a_closure_was_committed_changes_nothing() {
    for on_disconnect in [OnDisconnect::Cancel, OnDisconnect::Finish] {
        alone(move || async move {
            let world = World::with(|settings| {
                settings.on_disconnect = on_disconnect;
                settings.lock.timeout = Duration::from_secs(10);
            });
            let door = Door::new();
            let handler = {
                let door = door.clone();
                move |db: Transactions<Faulty>, counts: web::Data<Counts>| {
                    let door = door.clone();
                    async move {
                        let answer = db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await;
                        door.pass().await;
                        answer
                    }
                }
            };
            let app = serve!(world, world.wrap(), "/" => handler);
            let request = begin(&app, post("/", Some("k")));
            door.reached_by(1).await;
            leave(request).await;
            ask(&*app, "/", "k").await.is_replay(201, "run 1");
            door.open();
            ask(&*app, "/", "k").await.is_replay(201, "run 1");
            world.has(1, 1);
        });
    }
}

#[test]
fn an_operation_without_its_client_that_outruns_max_run_is_rolled_back() {
    alone(|| async {
        let world = World::with(|settings| settings.limits.max_run = Duration::from_millis(300));
        let door = Door::new();
        let app = waiting!(world, door);
        let request = begin(&app, post("/tx", Some("k")));
        door.reached_by(1).await;
        leave(request).await;
        world.ends_transactions().await;
        world.has(0, 1);
        door.open();
        eventually("the key is free", async || ask(&*app, "/tx", "k").await.status == 201).await;
        world.has(1, 2);
    });
}
