//! What the ledger is asked before a request runs, waits, or is refused.

use std::{sync::Arc, time::Duration};

use actix_idempotency::{
    Idempotency,
    settings::OnError,
    store::{Clock, MemoryLimits, MemoryStore, Store as _},
    testing::{Call, Fault, FaultyStore, LedgerCall, LedgerFault},
};

use super::common::{Door, World, answer_to, ask, ask_for_another, begin, by_itself, by_tx, serve, settings};
use crate::common::in_process::{alone, post};

const PATH: &str = "/tx?status=201";

/// Before its first request, a wrap asks whether the ledger has the rows of an index key.
const FIRST: usize = cfg!(feature = "encryption") as usize;

macro_rules! app {
    ($world:expr) => {
        serve!($world, $world.wrap(), "/tx" => by_tx, "/none" => by_itself)
    };
}

#[test]
fn a_key_that_was_acquired_is_looked_up_once() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        assert_eq!((world.faults.calls(LedgerCall::Look), world.faults.calls(LedgerCall::Settle)), (FIRST + 1, 0));
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        assert_eq!((world.faults.calls(LedgerCall::Look), world.faults.calls(LedgerCall::Settle)), (FIRST + 2, 0));
        ask_for_another(&*app, PATH, "k").await.is_problem(422, "key-reused");
        assert_eq!(world.faults.calls(LedgerCall::Look), FIRST + 3);
        // Neither the replay nor the refusal holds the key.
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn the_claims_hold_no_answer_and_no_claim_afterwards() {
    alone(|| async {
        let clock = Clock::steered();
        let store = Arc::new(MemoryStore::with_clock(MemoryLimits::default(), clock.clone()));
        let idempotency = Idempotency::builder().settings(settings()).build().unwrap();
        let world = World::of(idempotency, clock);
        let app = serve!(world, world.wrap().store(store.clone()), "/tx" => by_tx, "/none" => by_itself);
        for path in [PATH, PATH, "/tx?status=409", "/none?status=201", "/none?status=503"] {
            ask(&*app, path, path).await;
            assert!(store.list(None, 10).await.unwrap().is_empty(), "{path}");
            if path == PATH {
                ask_for_another(&*app, path, path).await.is_problem(422, "key-reused");
                assert!(store.list(None, 10).await.unwrap().is_empty(), "{path}");
            }
        }
        world.has(1, 4);
    });
}

#[test]
fn a_ledger_that_can_not_answer_refuses_the_run_and_frees_the_key() {
    for fault in [LedgerFault::Unavailable, LedgerFault::Unreadable, LedgerFault::Refused, LedgerFault::Conflict] {
        alone(move || async move {
            let world = World::new();
            let app = app!(world);
            world.faults.next(LedgerCall::Look, fault);
            ask(&*app, PATH, "k").await.is_problem(503, "store-unavailable");
            world.has(0, 0);
            ask(&*app, PATH, "k").await.is(201, "run 1");
        });
    }
}

#[test]
fn a_look_that_hangs_is_given_up_after_the_time_out() {
    alone(|| async {
        let world = World::with(|settings| settings.storage.timeout = Duration::from_millis(50));
        let app = app!(world);
        let gate = world.faults.gate(LedgerCall::Look);
        ask(&*app, PATH, "k").await.is_problem(503, "store-unavailable");
        world.has(0, 0);
        gate.open();
        ask(&*app, PATH, "k").await.is(201, "run 1");
    });
}

/// A claim for another operation is held, and the row is of this one: a run without claims has overtaken it.
#[test]
fn a_mismatch_of_the_claims_is_overruled_by_a_row_of_this_operation() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        let unlocked = serve!(world, world.wrap().configure(|settings| settings.lock.enable = false), "/tx" => by_tx);
        let door = Door::new();
        let waiting = {
            let door = door.clone();
            move || {
                let door = door.clone();
                async move {
                    door.pass().await;
                    actix_web::HttpResponse::Created().body("waited")
                }
            }
        };
        let slow = serve!(world, world.wrap(), "/slow" => waiting);
        let held = begin(&slow, post("/slow", Some("k")));
        door.reached_by(1).await;
        ask(&*app, PATH, "k").await.is_problem(422, "key-reused");
        ask(&*unlocked, PATH, "k").await.is(201, "run 1");
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        ask_for_another(&*app, PATH, "k").await.is_problem(422, "key-reused");
        world.faults.next(LedgerCall::Look, LedgerFault::Unavailable);
        ask(&*app, PATH, "k").await.is_problem(503, "store-unavailable");
        door.open();
        answer_to(held).await.is_problem(422, "key-reused");
        world.has(1, 1);
    });
}

#[test]
fn a_record_from_before_the_ledger_is_replayed_unless_there_is_a_row() {
    alone(|| async {
        let world = World::new();
        let before = serve!(world, world.wrap_without_ledger(), "/none" => by_itself);
        ask(&*before, "/none?status=201", "k").await.is(201, "run 1");
        let app = app!(world);
        ask(&*app, "/none?status=201", "k").await.is_replay(201, "run 1");
        ask_for_another(&*app, "/none?status=201", "k").await.is_problem(422, "key-reused");
        world.faults.next(LedgerCall::Look, LedgerFault::Unavailable);
        ask(&*app, "/none?status=201", "k").await.is_problem(503, "store-unavailable");
        // A row that a run without claims has committed since is the answer.
        let unlocked = serve!(
            world,
            world.wrap().cache_name("default").configure(|settings| settings.lock.enable = false),
            "/none" => by_itself
        );
        ask(&*unlocked, "/none?status=201", "k").await.is_replay(201, "run 1");
        world.has(0, 1);
    });
}

#[test]
fn without_claims_the_ledger_is_settled_and_its_row_decides() {
    alone(|| async {
        let world = World::with(|settings| settings.lock.enable = false);
        let app = app!(world);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        ask_for_another(&*app, PATH, "k").await.is_problem(422, "key-reused");
        assert_eq!((world.faults.calls(LedgerCall::Look), world.faults.calls(LedgerCall::Settle)), (FIRST, 3));
        world.faults.next(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, PATH, "l").await.is_problem(503, "store-unavailable");
        world.has(1, 1);
    });
}

/// A world whose claims fail on demand.
fn with_faulty_claims(on_error: OnError) -> (World, actix_idempotency::testing::Faults) {
    let (store, claims) = FaultyStore::new(MemoryStore::default());
    let mut settings = settings();
    settings.storage.class = "own".into();
    settings.storage.on_error = on_error;
    let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
    (World::of(idempotency, Clock::system()), claims)
}

fn take_down(claims: &actix_idempotency::testing::Faults) {
    // `begin` is tried twice.
    claims.next(Call::Begin, Fault::Fail);
    claims.next(Call::Begin, Fault::Fail);
}

#[test]
fn a_store_of_claims_that_is_away_refuses_the_run() {
    alone(|| async {
        let (world, claims) = with_faulty_claims(OnError::Reject);
        let app = app!(world);
        take_down(&claims);
        ask(&*app, PATH, "k").await.is_problem(503, "store-unavailable");
        world.has(0, 0);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        take_down(&claims);
        ask(&*app, PATH, "k").await.is_problem(503, "store-unavailable");
    });
}

#[test]
fn with_on_error_run_the_ledger_alone_keeps_a_run_from_happening_twice() {
    alone(|| async {
        let (world, claims) = with_faulty_claims(OnError::Run);
        let app = app!(world);
        take_down(&claims);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        for _ in 0..2 {
            take_down(&claims);
            ask(&*app, PATH, "k").await.is_replay(201, "run 1");
            take_down(&claims);
            ask_for_another(&*app, PATH, "k").await.is_problem(422, "key-reused");
        }
        assert_eq!(world.faults.calls(LedgerCall::Look), FIRST, "it is settled");
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        take_down(&claims);
        world.faults.next(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, PATH, "l").await.is_problem(503, "store-unavailable");
        world.has(1, 1);
    });
}
