//! Requests without a row: those without a key, and those that are only observed.

use actix_idempotency::{
    ledger::{Ledger as _, TransactionError, Transactions, Tx},
    settings::Mode,
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{HttpResponse, web};

use super::common::{
    Counts, Door, Faulty, Reply, World, ask, begin, by_closure, by_itself, by_tx, leave, send, serve, within,
};
use crate::common::in_process::{alone, post};

macro_rules! app {
    ($world:expr, $wrap:expr) => {
        serve!($world, $wrap, "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself)
    };
}

/// Sends a request without a key under an optional wrap, and one that is observed.
fn without_a_row(path: &'static str, status: u16, rows: u32, faults: &'static [(LedgerCall, LedgerFault)]) {
    for is_observed in [false, true] {
        alone(move || async move {
            let world = World::with(|settings| {
                if is_observed {
                    settings.mode = Mode::Observe;
                }
            });
            let app = app!(world, world.wrap().optional());
            for (call, fault) in faults {
                world.faults.next(*call, *fault);
            }
            let answer: Reply = within(send(&*app, post(path, is_observed.then_some("k")))).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert!(!answer.is_replay, "{path}: {answer:?}");
            assert_eq!((world.counts.rows(), world.counts.runs()), (rows, 1), "{path}, observed: {is_observed}");
            assert!(world.ledger.inner().list(None, 10).await.unwrap().is_empty(), "{path}");
            world.ends_transactions().await;
            assert_eq!(world.faults.left(), 0, "{path}");
        });
    }
}

#[test]
fn a_success_without_a_key_is_committed_without_a_row() {
    for path in ["/tx?status=201", "/closure?status=201", "/tx?status=303", "/closure?status=303"] {
        without_a_row(path, path[path.len() - 3..].parse().unwrap(), 1, &[]);
    }
    for path in ["/tx?status=201&fail=unstored", "/closure?status=201&fail=unstored"] {
        without_a_row(path, 201, 1, &[]);
    }
    without_a_row("/none?status=201", 201, 0, &[]);
}

#[test]
fn a_failure_without_a_key_rolls_back() {
    for path in ["/tx?status=409", "/closure?status=409", "/tx?status=503", "/closure?status=503"] {
        without_a_row(path, path[path.len() - 3..].parse().unwrap(), 0, &[]);
    }
    without_a_row("/tx?status=201&fail=error", 500, 0, &[]);
    without_a_row("/closure?status=201&fail=error", 500, 0, &[]);
}

#[test]
fn a_commit_that_fails_without_a_key_is_no_success() {
    for (call, fault, status) in [
        (LedgerCall::Probe, LedgerFault::Refused, 500),
        (LedgerCall::Commit, LedgerFault::Refused, 500),
        (LedgerCall::Commit, LedgerFault::Conflict, 503),
    ] {
        without_a_row("/tx?status=201", status, 0, Box::leak(Box::new([(call, fault)])));
    }
    for (call, fault) in [(LedgerCall::Probe, LedgerFault::Refused), (LedgerCall::Commit, LedgerFault::Refused)] {
        without_a_row("/closure?status=201", 500, 0, Box::leak(Box::new([(call, fault)])));
    }
}

#[test]
fn a_commit_whose_answer_was_lost_is_not_tried_again_without_a_key() {
    for fault in [LedgerFault::LoseAnswer, LedgerFault::Unknown] {
        let rows = u32::from(fault == LedgerFault::LoseAnswer);
        let faults: &'static [_] = Box::leak(Box::new([(LedgerCall::Commit, fault)]));
        without_a_row("/tx?status=201", 500, rows, faults);
        without_a_row("/closure?status=201", 500, rows, faults);
    }
}

#[test]
fn a_conflict_without_a_key_is_tried_again() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap().optional());
        for call in [LedgerCall::Probe, LedgerCall::Commit] {
            world.faults.next(call, LedgerFault::Conflict);
        }
        within(send(&*app, post("/closure?status=201", None))).await.is(201, "run 3");
        world.has(1, 3);
        world.ends_transactions().await;
    });
}

#[test]
fn a_panic_without_a_key_rolls_back() {
    for path in ["/tx?status=201&fail=panic", "/closure?status=201&fail=panic"] {
        alone(move || async move {
            let world = World::new();
            let app = app!(world, world.wrap().optional());
            assert!(within(begin(&app, post(path, None))).await.unwrap_err().is_panic());
            world.has(0, 1);
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_client_without_a_key_that_leaves_rolls_back() {
    alone(|| async {
        let world = World::new();
        let door = Door::new();
        let handler = {
            let door = door.clone();
            move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
                let door = door.clone();
                async move {
                    let response = counts.pay(&mut tx);
                    door.pass().await;
                    response
                }
            }
        };
        let app = serve!(world, world.wrap().optional(), "/" => handler);
        let request = begin(&app, post("/", None));
        door.reached_by(1).await;
        leave(request).await;
        world.ends_transactions().await;
        world.has(0, 1);
    });
}

#[test]
fn several_runs_without_a_key_are_committed_one_by_one() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            for _ in 0..2 {
                db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await?;
            }
            Ok::<_, TransactionError>(HttpResponse::BadRequest().body("and no more"))
        };
        let app = serve!(world, world.wrap().optional(), "/" => handler);
        within(send(&*app, post("/", None))).await.is(400, "and no more");
        world.has(2, 2);
        world.ends_transactions().await;
    });
}

#[test]
fn an_observed_request_is_never_replayed_from_a_row() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        ask(&*app, "/tx?status=201", "k").await.is(201, "run 1");
        let observed = app!(world, world.wrap().configure(|settings| settings.mode = Mode::Observe));
        ask(&*observed, "/tx?status=201", "k").await.is(201, "run 2");
        world.has(2, 2);
    });
}
