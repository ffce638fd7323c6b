//! Operators see rows and claims as one list, and forget both.

use actix_idempotency::{
    key::RecordId,
    ledger::{Ledger as _, Tx},
    store::{Forgotten, RecordState},
    testing::{LedgerCall, LedgerFault},
};
use actix_web::web;

use super::common::{Counts, Door, Faulty, World, answer_to, ask, ask_for_another, begin, by_itself, by_tx, serve};
use crate::common::in_process::{alone, post};

const PATH: &str = "/tx?status=201";

#[test]
fn an_operator_sees_the_row_of_a_key() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/tx" => by_tx);
        let id = world.id("k");
        assert!(world.idempotency.inspect("default", &id).await.unwrap().is_none());
        ask(&*app, PATH, "k").await.is(201, "run 1");
        let seen = world.idempotency.inspect("default", &id).await.unwrap().unwrap();
        let row = world.ledger.inner().look(&id).await.unwrap().row.unwrap();
        assert_eq!((seen.id, seen.state, seen.attempt), (id, RecordState::Completed, 1));
        assert_eq!((seen.record.as_ref(), seen.owner), (Some(&row.record), Some(row.token)));
        assert_eq!((seen.fingerprint, seen.principal), (Some(row.fingerprint), Some(row.principal_tag)));
        assert_eq!(seen.remaining, world.idempotency.settings().storage.ttl);
        world.faults.next(LedgerCall::Look, LedgerFault::Unavailable);
        assert!(world.idempotency.inspect("default", &id).await.is_err());
    });
}

#[test]
fn an_operator_forgets_the_row_of_a_key() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/tx" => by_tx);
        let id = world.id("k");
        assert_eq!(world.idempotency.forget("default", &id).await.unwrap(), Forgotten::Absent);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        assert_eq!(world.idempotency.forget("default", &id).await.unwrap(), Forgotten::Removed);
        assert_eq!(world.idempotency.forget("default", &id).await.unwrap(), Forgotten::Absent);
        assert!(world.idempotency.inspect("default", &id).await.unwrap().is_none());
        assert!(world.idempotency.list("default", None, 10).await.unwrap().is_empty());
        ask_for_another(&*app, PATH, "k").await.is(201, "run 2");
        world.has(2, 2);
        world.faults.next(LedgerCall::Forget, LedgerFault::Unavailable);
        assert!(world.idempotency.forget("default", &id).await.is_err());
        ask_for_another(&*app, PATH, "k").await.is_replay(201, "run 2");
    });
}

#[test]
fn a_key_that_is_in_flight_is_not_forgotten_in_the_ledger_either() {
    alone(|| async {
        let world = World::new();
        let door = Door::new();
        let waiting = {
            let door = door.clone();
            move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
                let door = door.clone();
                async move {
                    door.pass().await;
                    counts.pay(&mut tx)
                }
            }
        };
        let app = serve!(world, world.wrap(), "/" => waiting);
        let request = begin(&app, post("/", Some("k")));
        door.reached_by(1).await;
        assert_eq!(world.idempotency.forget("default", &world.id("k")).await.unwrap(), Forgotten::InFlight);
        // A claim whose lease is over may come back within its grace.
        world.clock.advance(world.idempotency.settings().lock.lease);
        assert_eq!(world.idempotency.forget("default", &world.id("k")).await.unwrap(), Forgotten::InFlight);
        assert_eq!(world.faults.calls(LedgerCall::Forget), 0);
        door.open();
        answer_to(request).await.is(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn rows_and_claims_are_listed_together_in_the_order_of_their_ids() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/tx" => by_tx);
        let before = serve!(world, world.wrap_without_ledger(), "/none" => by_itself);
        let mut ids: Vec<RecordId> = Vec::new();
        for n in 0..12 {
            let (row, record) = (format!("row-{n}"), format!("record-{n}"));
            ask(&*app, PATH, &row).await;
            ask(&*before, "/none?status=201", &record).await;
            ids.extend([world.id(&row), world.id(&record)]);
        }
        ids.sort_unstable();
        for limit in [1, 3, 5, 24, 100] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = world.idempotency.list("default", after, limit).await.unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                assert!(page.iter().all(|record| record.state == RecordState::Completed));
                seen.extend(page.iter().map(|record| record.id));
            }
            assert_eq!(seen, ids, "pages of {limit}");
        }
    });
}

#[test]
fn a_key_with_a_row_and_a_claim_is_listed_once() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap().ledger_transition(), "/tx" => by_tx);
        ask(&*app, PATH, "k").await.is(201, "run 1");
        let listed = world.idempotency.list("default", None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), [world.id("k")]);
        // Both are forgotten.
        assert_eq!(world.idempotency.forget("default", &world.id("k")).await.unwrap(), Forgotten::Removed);
        assert!(world.idempotency.list("default", None, 10).await.unwrap().is_empty());
        ask(&*app, PATH, "k").await.is(201, "run 2");
    });
}

#[test]
fn a_ledger_is_checked_when_its_wrap_is_made() {
    alone(|| async {
        let world = World::new();
        let _app = serve!(world, world.wrap(), "/tx" => by_tx);
        super::common::eventually("the check", async || world.faults.calls(LedgerCall::Check) == 1).await;
        let _another_worker = serve!(world, world.wrap(), "/tx" => by_tx);
        assert_eq!(world.faults.calls(LedgerCall::Check), 1);
    });
}
