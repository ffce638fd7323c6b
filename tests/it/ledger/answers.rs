//! What commits and what rolls back, by the answer of a handler.

use actix_idempotency::{
    ResponseExt as _, Settings,
    ledger::{Transactions, Tx},
    settings::Profile,
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
    web,
};

use super::common::{Counts, Faulty, World, ask, by_closure, by_itself, by_tx, serve};
use crate::common::in_process::alone;

/// Sends a request twice with one key. Statuses, whether the second is a replay, and what was committed.
fn twice(path: &'static str, statuses: [u16; 2], replayed: bool, rows: u32, runs: u32) {
    twice_with(|_| {}, path, statuses, replayed, rows, runs);
}

fn twice_with(change: fn(&mut Settings), path: &'static str, statuses: [u16; 2], replayed: bool, rows: u32, runs: u32) {
    alone(move || async move {
        let world = World::with(change);
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself);
        let first = ask(&*app, path, "k").await;
        let second = ask(&*app, path, "k").await;
        assert_eq!([first.status, second.status], statuses, "{path}: {first:?} {second:?}");
        assert_eq!(second.is_replay, replayed, "{path}: {second:?}");
        if replayed {
            assert_eq!(first.text, second.text, "{path}");
        }
        assert_eq!((world.counts.rows(), world.counts.runs()), (rows, runs), "{path}");
        world.ends_transactions().await;
    });
}

#[test]
fn a_success_is_committed_with_its_answer() {
    for path in ["/tx?status=201", "/closure?status=201", "/tx?status=303", "/closure?status=303"] {
        let status = path[path.len() - 3..].parse().unwrap();
        twice(path, [status, status], true, 1, 1);
    }
}

#[test]
fn a_success_is_recorded_whatever_the_statuses_that_are_stored() {
    for path in ["/tx?status=201", "/closure?status=201", "/tx?status=307", "/closure?status=307"] {
        let status = path[path.len() - 3..].parse().unwrap();
        let only_5xx = |settings: &mut Settings| settings.storage.store_on_statuses = "5xx".parse().unwrap();
        twice_with(only_5xx, path, [status, status], true, 1, 1);
    }
}

#[test]
fn a_refusal_of_the_handler_rolls_back_and_its_status_decides_on_a_row() {
    for path in ["/tx?status=409", "/closure?status=409", "/none?status=409"] {
        twice(path, [409, 409], true, 0, 1);
    }
    for path in ["/tx?status=503", "/closure?status=503", "/none?status=503"] {
        twice(path, [503, 503], false, 0, 2);
    }
}

#[test]
fn a_success_without_a_transaction_gets_a_row_if_its_status_is_stored() {
    twice("/none?status=201", [201, 201], true, 0, 1);
    twice("/none?status=201&fail=unstored", [201, 201], false, 0, 2);
    let only_4xx = |settings: &mut Settings| settings.storage.store_on_statuses = "4xx".parse().unwrap();
    twice_with(only_4xx, "/none?status=201", [201, 201], false, 0, 2);
}

#[test]
fn an_error_and_a_panic_roll_back_and_free_the_key() {
    for path in ["/tx?status=201&fail=error", "/closure?status=201&fail=error"] {
        twice(path, [500, 500], false, 0, 2);
    }
    for path in ["/tx?status=201&fail=panic", "/closure?status=201&fail=panic", "/none?status=201&fail=panic"] {
        twice(path, [500, 500], false, 0, 2);
    }
}

#[test]
fn a_panic_rolls_back_and_frees_the_key_also_where_lost_owners_bar_it() {
    let reject = |settings: &mut Settings| settings.on_unknown = actix_idempotency::settings::OnUnknown::Reject;
    for path in ["/tx?status=201&fail=panic", "/closure?status=201&fail=panic"] {
        twice_with(reject, path, [500, 500], false, 0, 2);
    }
}

#[test]
fn a_success_that_must_not_be_recorded_is_rolled_back() {
    for path in ["/tx?status=201&fail=unstored", "/closure?status=201&fail=unstored"] {
        twice(path, [500, 500], false, 0, 2);
        alone(move || async move {
            let world = World::new();
            let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure);
            ask(&*app, path, "k").await.is_problem(500, "not-recorded");
        });
    }
}

#[test]
fn an_answer_that_can_not_be_replayed_is_rolled_back() {
    for path in ["/tx?status=304", "/closure?status=304"] {
        twice(path, [500, 500], false, 0, 2);
    }
}

#[test]
fn the_middlewares_own_answers_are_not_recorded_where_all_statuses_are() {
    let stripe = |settings: &mut Settings| *settings = Settings::of(Profile::Stripe);
    for path in ["/tx?status=201&fail=error", "/closure?status=201&fail=error", "/none?status=201&fail=error"] {
        twice_with(stripe, path, [500, 500], false, 0, 2);
    }
    // The handler's own failure is.
    twice_with(stripe, "/tx?status=503", [503, 503], true, 0, 1);
}

#[derive(Debug)]
struct SeeOther;

impl std::fmt::Display for SeeOther {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see other")
    }
}

impl ResponseError for SeeOther {
    fn status_code(&self) -> StatusCode {
        StatusCode::SEE_OTHER
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::SeeOther().insert_header((header::LOCATION, "/login")).body("see other").store_anyway()
    }
}

impl From<actix_idempotency::ledger::TransactionError> for SeeOther {
    fn from(_: actix_idempotency::ledger::TransactionError) -> Self {
        Self
    }
}

#[test]
fn an_error_that_renders_as_a_redirection_rolls_back_and_is_not_recorded() {
    alone(|| async {
        let world = World::new();
        let by_tx = |mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move {
            counts.pay(&mut tx);
            Err::<HttpResponse, _>(SeeOther)
        };
        let by_closure = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            db.run(async |tx| {
                counts.pay(tx);
                Err::<HttpResponse, _>(SeeOther)
            })
            .await
        };
        let by_itself = |counts: web::Data<Counts>| async move {
            counts.next_run();
            Err::<HttpResponse, _>(SeeOther)
        };
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself);
        for (runs, path) in [(2, "/tx"), (4, "/closure"), (6, "/none")] {
            for _ in 0..2 {
                ask(&*app, path, path).await.is(303, "see other");
            }
            world.has(0, runs);
        }
        world.ends_transactions().await;
    });
}

#[test]
fn an_answer_is_not_sent_before_its_row_is_committed() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/none" => by_itself);
        for (call, fault, status, name) in [
            (LedgerCall::Begin, LedgerFault::Unavailable, 503, "store-unavailable"),
            (LedgerCall::Write, LedgerFault::Conflict, 503, "store-unavailable"),
            (LedgerCall::Write, LedgerFault::Refused, 500, "transaction-failed"),
            (LedgerCall::Commit, LedgerFault::Refused, 500, "transaction-failed"),
        ] {
            for path in ["/none?status=409", "/none?status=201"] {
                world.faults.next(call, fault);
                ask(&*app, path, path).await.is_problem(status, name);
            }
        }
        ask(&*app, "/none?status=409", "/none?status=409").await.is(409, "run 9");
        ask(&*app, "/none?status=409", "/none?status=409").await.is_replay(409, "run 9");
        world.ends_transactions().await;
    });
}
