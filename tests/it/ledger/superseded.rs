//! Two runs of one operation at once: one commits, and the other's client gets its answer.

use std::{cell::Cell, rc::Rc};

use actix_idempotency::{
    ledger::{Ledger as _, TransactionError, Transactions, Tx},
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{HttpResponse, web};

use super::common::{
    Counts, Door, Faulty, World, answer_to, ask, ask_for_another, begin, by_itself, by_tx, eventually, serve,
};
use crate::common::in_process::{alone, post};

/// A world without claims.
fn unlocked() -> World {
    World::with(|settings| settings.lock.enable = false)
}

/// The first run of a handler waits at a door; later ones don't.
macro_rules! first_waits {
    ($world:expr, $door:expr) => {{
        let is_first = Rc::new(Cell::new(true));
        let (door, first) = ($door.clone(), is_first.clone());
        let by_tx = move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
            let (door, waits) = (door.clone(), first.replace(false));
            async move {
                let response = counts.pay(&mut tx);
                if waits {
                    door.pass().await;
                }
                response
            }
        };
        let (door, first) = ($door.clone(), is_first.clone());
        let by_closure = move |db: Transactions<Faulty>, counts: web::Data<Counts>| {
            let (door, waits) = (door.clone(), first.replace(false));
            async move {
                db.run(async |tx| {
                    let response = counts.pay(tx);
                    if waits {
                        door.pass().await;
                    }
                    Ok::<_, TransactionError>(response)
                })
                .await
            }
        };
        let (door, first) = ($door.clone(), is_first);
        let by_itself = move |counts: web::Data<Counts>| {
            let (door, waits) = (door.clone(), first.replace(false));
            async move {
                let run = counts.next_run();
                if waits {
                    door.pass().await;
                }
                HttpResponse::Created().body(format!("run {run}"))
            }
        };
        serve!($world, $world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself)
    }};
}

#[test]
fn a_run_that_was_overtaken_gets_the_first_answer() {
    for (path, rows) in [("/tx", 1), ("/closure", 1), ("/none", 0)] {
        alone(move || async move {
            let world = unlocked();
            let door = Door::new();
            let app = first_waits!(world, door);
            let stalled = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            ask(&*app, path, "k").await.is(201, "run 2");
            door.open();
            answer_to(stalled).await.is_replay(201, "run 2");
            world.has(rows, 2);
            ask(&*app, path, "k").await.is_replay(201, "run 2");
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_run_that_was_overtaken_by_another_operation_is_refused() {
    for (path, rows) in [("/tx", 1), ("/closure", 1), ("/none", 0)] {
        alone(move || async move {
            let world = unlocked();
            let door = Door::new();
            let app = first_waits!(world, door);
            let stalled = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            ask_for_another(&*app, path, "k").await.is(201, "run 2");
            door.open();
            answer_to(stalled).await.is_problem(422, "key-reused");
            world.has(rows, 2);
            ask(&*app, path, "k").await.is_problem(422, "key-reused");
            ask_for_another(&*app, path, "k").await.is_replay(201, "run 2");
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_run_that_meets_a_row_about_to_be_committed_waits_for_it() {
    for fault in [None, Some(LedgerFault::Refused)] {
        alone(move || async move {
            let world = World::with(|settings| {
                settings.lock.enable = false;
                settings.storage.timeout = std::time::Duration::from_secs(10);
            });
            let app = serve!(world, world.wrap(), "/" => by_tx);
            let gate = world.faults.gate(LedgerCall::Commit);
            if let Some(fault) = fault {
                world.faults.next(LedgerCall::Commit, fault);
            }
            let first = begin(&app, post("/?status=201", Some("k")));
            super::common::within(gate.reached()).await;
            // The second is past its look when the first has written its row.
            let id = world.id("k");
            assert!(world.ledger.inner().look(&id).await.unwrap().row.is_none());
            let begun = world.faults.gate(LedgerCall::Begin);
            let settled = world.faults.gate(LedgerCall::Settle);
            let second = begin(&app, post("/?status=201", Some("k")));
            super::common::within(settled.reached()).await;
            settled.open();
            begun.open();
            gate.open();
            let (first, second) = (answer_to(first).await, answer_to(second).await);
            if fault.is_none() {
                first.is(201, "run 1");
                second.is_replay(201, "run 1");
                world.has(1, 1);
            } else {
                first.is_problem(500, "transaction-failed");
                second.is(201, "run 2");
                world.has(1, 2);
            }
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_conflict_is_settled_for_the_winner() {
    for path in ["/tx", "/closure", "/none"] {
        alone(move || async move {
            let world = unlocked();
            let door = Door::new();
            let app = first_waits!(world, door);
            let stalled = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            ask(&*app, path, "k").await.is(201, "run 2");
            world.faults.next(LedgerCall::Write, LedgerFault::Conflict);
            door.open();
            answer_to(stalled).await.is_replay(201, "run 2");
            assert_eq!(world.counts.runs(), 2, "a run that has lost is not tried again");
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_winner_that_is_about_to_commit_is_waited_for_no_longer_than_the_time_out() {
    alone(|| async {
        let world = unlocked();
        let door = Door::new();
        let app = first_waits!(world, door);
        let stalled = begin(&app, post("/tx", Some("k")));
        door.reached_by(1).await;
        let gate = world.faults.gate(LedgerCall::Commit);
        let winner = begin(&app, post("/tx", Some("k")));
        super::common::within(gate.reached()).await;
        door.open();
        answer_to(stalled).await.is_problem(503, "store-unavailable");
        gate.open();
        answer_to(winner).await.is(201, "run 2");
        ask(&*app, "/tx", "k").await.is_replay(201, "run 2");
        world.has(1, 2);
        world.ends_transactions().await;
    });
}

#[test]
fn a_key_that_was_forgotten_while_it_ran_commits_nothing() {
    for path in ["/tx", "/closure", "/none"] {
        alone(move || async move {
            let world = unlocked();
            let door = Door::new();
            let app = first_waits!(world, door);
            let stalled = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            world.idempotency.forget("default", &world.id("k")).await.unwrap();
            door.open();
            answer_to(stalled).await.is_problem(503, "store-unavailable");
            assert_eq!(world.counts.rows(), 0);
            ask(&*app, path, "k").await.is(201, "run 2");
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_run_that_is_older_than_max_run_commits_nothing() {
    for path in ["/tx", "/closure", "/none"] {
        alone(move || async move {
            let world = World::new();
            let door = Door::new();
            let app = first_waits!(world, door);
            let stalled = begin(&app, post(path, Some("k")));
            door.reached_by(1).await;
            world.clock.advance(world.idempotency.settings().limits.max_run);
            door.open();
            answer_to(stalled).await.is_problem(503, "store-unavailable");
            assert_eq!(world.counts.rows(), 0);
            eventually("the key is free", async || ask(&*app, path, "k").await.text == "run 2").await;
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_row_that_has_expired_is_replaced_by_the_next_run() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => by_tx, "/none" => by_itself);
        ask(&*app, "/?status=201", "k").await.is(201, "run 1");
        world.clock.advance(world.idempotency.settings().storage.ttl);
        ask(&*app, "/?status=201", "k").await.is(201, "run 2");
        ask(&*app, "/?status=201", "k").await.is_replay(201, "run 2");
        world.clock.advance(world.idempotency.settings().storage.ttl);
        ask_for_another(&*app, "/none?status=409", "k").await.is(409, "run 3");
        ask_for_another(&*app, "/none?status=409", "k").await.is_replay(409, "run 3");
        world.has(2, 3);
    });
}

#[test]
fn many_requests_without_claims_commit_once() {
    alone(|| async {
        let world = World::with(|settings| {
            settings.lock.enable = false;
            settings.storage.timeout = std::time::Duration::from_secs(10);
        });
        let app = serve!(world, world.wrap(), "/" => by_tx);
        let requests: Vec<_> = (0..50).map(|_| begin(&app, post("/?status=201", Some("k")))).collect();
        let mut texts = Vec::new();
        for request in requests {
            let answer = answer_to(request).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            texts.push(answer.text);
        }
        texts.dedup();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert_eq!(world.counts.rows(), 1);
        world.ends_transactions().await;
    });
}
