//! Duplicates of a request in flight, which are answered from the row as soon as it is seen.

use std::time::Duration;

use actix_idempotency::{
    ledger::Ledger as _,
    testing::{LedgerCall, LedgerFault},
};

use super::common::{World, answer_to, ask, ask_for_another, begin, by_tx, eventually, serve, within};
use crate::common::in_process::{alone, post};

const PATH: &str = "/tx?status=201";

macro_rules! app {
    ($world:expr) => {
        serve!($world, $world.wrap(), "/tx" => by_tx)
    };
}

/// Holds a claim whose answer is committed: its `release` is still to come.
struct Committed {
    world: World,
}

/// A first request whose row is committed while its claim is still held.
macro_rules! committed_and_held {
    ($world:expr, $app:expr, $gate:ident, $first:ident) => {
        $world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
        let $gate = $world.faults.gate(LedgerCall::Settle);
        let $first = begin(&$app, post(PATH, Some("k")));
        within($gate.reached()).await;
        assert!($world.ledger.inner().look(&$world.id("k")).await.unwrap().row.is_some());
    };
}

impl Committed {
    fn new(wait: Duration) -> Self {
        let world = World::with(|settings| {
            settings.lock.timeout = wait;
            settings.storage.timeout = Duration::from_secs(10);
        });
        Self { world }
    }
}

#[test]
fn a_duplicate_in_flight_is_answered_from_the_row_before_it_waits() {
    alone(|| async {
        let Committed { world } = Committed::new(Duration::from_secs(60));
        let app = app!(world);
        committed_and_held!(world, app, gate, first);
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        gate.open();
        answer_to(first).await.is(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn a_duplicate_that_waits_not_at_all_is_answered_from_the_row() {
    alone(|| async {
        let Committed { world } = Committed::new(Duration::ZERO);
        let app = app!(world);
        committed_and_held!(world, app, gate, first);
        ask(&*app, PATH, "k").await.is_replay(201, "run 1");
        // A look that fails leaves what the claims say.
        world.faults.next_calls(2, LedgerCall::Look, LedgerFault::Unavailable);
        ask(&*app, PATH, "k").await.is_problem(423, "in-flight");
        gate.open();
        answer_to(first).await.is(201, "run 1");
    });
}

#[test]
fn a_duplicate_in_flight_is_answered_from_the_row_at_the_last_moment() {
    alone(|| async {
        let Committed { world } = Committed::new(Duration::from_millis(300));
        let app = app!(world);
        let door = world.faults.gate(LedgerCall::Commit);
        world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
        let settle = world.faults.gate(LedgerCall::Settle);
        let first = begin(&app, post(PATH, Some("k")));
        within(door.reached()).await;
        let looks = world.faults.calls(LedgerCall::Look);
        let second = begin(&app, post(PATH, Some("k")));
        eventually("the duplicate has looked", async || world.faults.calls(LedgerCall::Look) > looks).await;
        // The row is committed while the duplicate waits for a claim that stays.
        door.open();
        answer_to(second).await.is_replay(201, "run 1");
        settle.open();
        answer_to(first).await.is(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn a_duplicate_in_flight_is_answered_from_the_row_when_the_claim_ends() {
    alone(|| async {
        let Committed { world } = Committed::new(Duration::from_secs(60));
        let app = app!(world);
        let gate = world.faults.gate(LedgerCall::Commit);
        let first = begin(&app, post(PATH, Some("k")));
        within(gate.reached()).await;
        let looks = world.faults.calls(LedgerCall::Look);
        let second = begin(&app, post(PATH, Some("k")));
        eventually("the duplicate has looked", async || world.faults.calls(LedgerCall::Look) > looks).await;
        gate.open();
        answer_to(first).await.is(201, "run 1");
        answer_to(second).await.is_replay(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn a_duplicate_in_flight_without_a_row_is_refused() {
    alone(|| async {
        let world = World::new();
        let app = app!(world);
        let gate = world.faults.gate(LedgerCall::Commit);
        let first = begin(&app, post(PATH, Some("k")));
        within(gate.reached()).await;
        ask(&*app, PATH, "k").await.is_problem(423, "in-flight");
        ask_for_another(&*app, PATH, "k").await.is_problem(422, "key-reused");
        gate.open();
        answer_to(first).await.is(201, "run 1");
        world.has(1, 1);
    });
}
