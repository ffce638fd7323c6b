//! COMMITs whose answers are lost.

use std::time::Duration;

use actix_idempotency::{
    ledger::Ledger as _,
    testing::{LedgerCall, LedgerFault},
};

use super::common::{World, answer_to, ask, begin, by_closure, by_itself, by_tx, eventually, serve, within};
use crate::common::in_process::{alone, post};

macro_rules! app {
    ($world:expr) => {
        serve!($world, $world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself)
    };
}

const PATHS: [(&str, u32); 3] = [("/tx?status=201", 1), ("/closure?status=201", 1), ("/none?status=201", 0)];

#[test]
fn a_commit_that_arrived_is_settled_and_its_answer_is_sent() {
    for (path, rows) in PATHS {
        alone(move || async move {
            let world = World::new();
            let app = app!(world);
            world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
            ask(&*app, path, "k").await.is(201, "run 1");
            world.has(rows, 1);
            ask(&*app, path, "k").await.is_replay(201, "run 1");
            world.has(rows, 1);
        });
    }
}

#[test]
fn a_commit_that_did_not_arrive_answers_503_and_frees_the_key() {
    for (path, rows) in [("/tx?status=201", 1), ("/none?status=201", 0)] {
        for fault in [LedgerFault::Unknown, LedgerFault::Unavailable] {
            alone(move || async move {
                let world = World::new();
                let app = app!(world);
                world.faults.next(LedgerCall::Commit, fault);
                ask(&*app, path, "k").await.is_problem(503, "store-unavailable");
                world.has(0, 1);
                ask(&*app, path, "k").await.is(201, "run 2");
                ask(&*app, path, "k").await.is_replay(201, "run 2");
                world.has(rows, 2);
            });
        }
    }
}

#[test]
fn a_closures_commit_that_did_not_arrive_is_tried_again() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        world.faults.next_calls(2, LedgerCall::Commit, LedgerFault::Unknown);
        ask(&*app, "/closure?status=201", "k").await.is(201, "run 3");
        ask(&*app, "/closure?status=201", "k").await.is_replay(201, "run 3");
        world.has(1, 3);
    });
}

#[test]
fn a_lost_commit_that_another_run_has_overtaken_gets_its_answer() {
    for path in ["/tx?status=201", "/closure?status=201"] {
        alone(move || async move {
            let world = World::with(|settings| settings.lock.enable = false);
            let app = app!(world);
            let commit = world.faults.gate(LedgerCall::Commit);
            world.faults.next(LedgerCall::Commit, LedgerFault::Unknown);
            let first = begin(&app, post(path, Some("k")));
            within(commit.reached()).await;
            // The first is rolled back, and settles. Meanwhile the second commits.
            let settle = world.faults.gate(LedgerCall::Settle);
            commit.open();
            within(settle.reached()).await;
            ask(&*app, path, "k").await.is(201, "run 2");
            settle.open();
            answer_to(first).await.is_replay(201, "run 2");
            world.has(1, 2);
        });
    }
}

/// The first request's COMMIT is lost, and the ledger does not settle until it is healed.
fn while_the_ledger_is_away(path: &'static str, fault: LedgerFault, second: (u16, &'static str, bool)) {
    alone(move || async move {
        let world = World::with(|settings| settings.lock.timeout = Duration::from_millis(10));
        let app = app!(world);
        world.faults.next(LedgerCall::Commit, fault);
        world.faults.always(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, path, "k").await.is_problem(503, "store-unavailable");
        world.faults.always(LedgerCall::Look, LedgerFault::Unavailable);
        let settles = world.faults.calls(LedgerCall::Settle);
        for _ in 0..3 {
            ask(&*app, path, "k").await.is_problem(423, "in-flight");
        }
        eventually("it is settled behind", async || world.faults.calls(LedgerCall::Settle) > settles + 1).await;
        ask(&*app, path, "k").await.is_problem(423, "in-flight");
        world.faults.heal();
        eventually("the key is free", async || ask(&*app, path, "k").await.status != 423).await;
        let answer = ask(&*app, path, "k").await;
        assert_eq!((answer.status, answer.text.as_str()), (second.0, second.1), "{answer:?}");
        assert!(answer.is_replay);
        let rows = u32::from(!path.starts_with("/none"));
        world.has(rows, if second.2 { 2 } else { 1 });
    });
}

#[test]
fn a_key_is_held_until_the_ledger_tells_what_was_committed() {
    for (path, _) in PATHS {
        while_the_ledger_is_away(path, LedgerFault::LoseAnswer, (201, "run 1", false));
        while_the_ledger_is_away(path, LedgerFault::Unknown, (201, "run 2", true));
    }
}

#[test]
fn a_row_that_is_seen_is_replayed_while_its_commit_is_settled_behind() {
    alone(|| async {
        let world = World::with(|settings| settings.lock.timeout = Duration::from_millis(10));
        let app = app!(world);
        world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
        world.faults.always(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, "/tx?status=201", "k").await.is_problem(503, "store-unavailable");
        ask(&*app, "/tx?status=201", "k").await.is_replay(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn a_ledger_that_hangs_while_it_settles_answers_503_in_time() {
    alone(|| async {
        let world = World::with(|settings| settings.storage.timeout = Duration::from_millis(100));
        let app = app!(world);
        world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
        let gate = world.faults.gate(LedgerCall::Settle);
        ask(&*app, "/tx?status=201", "k").await.is_problem(503, "store-unavailable");
        gate.open();
        eventually("it is settled", async || ask(&*app, "/tx?status=201", "k").await.is_replay).await;
        world.has(1, 1);
    });
}

#[test]
fn a_conflict_of_a_commit_that_can_not_be_settled_frees_the_key() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        world.faults.next(LedgerCall::Commit, LedgerFault::Conflict);
        world.faults.next(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, "/tx?status=201", "k").await.is_problem(503, "store-unavailable");
        ask(&*app, "/tx?status=201", "k").await.is(201, "run 2");
        world.has(1, 2);
    });
}

#[test]
fn a_restored_database_loses_rows_and_answers_together() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        ask(&*app, "/tx?status=201", "k").await.is(201, "run 1");
        world.ledger.inner().lose_rows();
        assert!(world.ledger.look(&world.id("k")).await.unwrap().row.is_none());
        ask(&*app, "/tx?status=201", "k").await.is(201, "run 2");
        ask(&*app, "/tx?status=201", "k").await.is_replay(201, "run 2");
    });
}
