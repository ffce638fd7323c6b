//! Extractors beside `Tx`, which may fail while a transaction is being begun.

use std::future::{Ready, ready};

use actix_idempotency::{ledger::Tx, testing::LedgerCall};
use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, error::ErrorUnprocessableEntity, web};
use futures_util::future::LocalBoxFuture;

use super::common::{Counts, Faulty, World, answer_to, ask, begin, key_of, serve, within};
use crate::common::in_process::{alone, post};

/// Fails at once.
struct Failing;

impl FromRequest for Failing {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Err(ErrorUnprocessableEntity("failed")))
    }
}

/// Fails some polls later.
struct FailingLater;

impl FromRequest for FailingLater {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let polls = request.query_string().len();
        Box::pin(async move {
            for _ in 0..polls {
                actix_web::rt::task::yield_now().await;
            }
            Err(ErrorUnprocessableEntity("failed later"))
        })
    }
}

async fn before(_: Failing, mut tx: Tx<Faulty>, counts: web::Data<Counts>) -> HttpResponse {
    counts.pay(&mut tx)
}

async fn behind(mut tx: Tx<Faulty>, _: Failing, counts: web::Data<Counts>) -> HttpResponse {
    counts.pay(&mut tx)
}

async fn before_later(_: FailingLater, mut tx: Tx<Faulty>, counts: web::Data<Counts>) -> HttpResponse {
    counts.pay(&mut tx)
}

async fn behind_later(mut tx: Tx<Faulty>, _: FailingLater, counts: web::Data<Counts>) -> HttpResponse {
    counts.pay(&mut tx)
}

#[test]
fn an_extractor_that_fails_beside_a_transaction_leaves_none_open() {
    alone(|| async {
        let world = World::with(|settings| settings.storage.store_on_statuses = "2xx".parse().unwrap());
        let app = serve!(
            world,
            world.wrap(),
            "/before" => before,
            "/behind" => behind,
            "/before-later" => before_later,
            "/behind-later" => behind_later,
        );
        for n in 0..1000 {
            let query = "q".repeat(n % 7);
            for path in ["/before", "/behind"] {
                ask(&*app, path, path).await.is(422, "failed");
                assert_eq!(world.faults.open(), 0, "the transaction has ended before the answer");
            }
            for path in ["/before-later", "/behind-later"] {
                ask(&*app, &format!("{path}?{query}"), &format!("{path}{query}")).await.is(422, "failed later");
                assert_eq!(world.faults.open(), 0, "the transaction has ended before the answer");
            }
        }
        world.has(0, 0);
    });
}

#[test]
fn a_begin_that_no_handler_waits_for_is_driven_to_its_end() {
    alone(|| async {
        let world = World::with(|settings| settings.storage.store_on_statuses = "2xx".parse().unwrap());
        let app = serve!(world, world.wrap(), "/behind" => behind, "/before-later" => before_later);
        for path in ["/behind", "/before-later?q"] {
            let gate = world.faults.gate(LedgerCall::Begin);
            let request = begin(&app, post(path, Some(&key_of(path))));
            within(gate.reached()).await;
            for _ in 0..20 {
                actix_web::rt::task::yield_now().await;
            }
            assert!(!request.is_finished(), "the answer waits for the rollback");
            gate.open();
            assert_eq!(answer_to(request).await.status, 422);
            assert_eq!(world.faults.open(), 0);
        }
        assert_eq!(world.faults.calls(LedgerCall::Rollback), 2);
    });
}

#[test]
fn the_answer_of_an_extractor_gets_a_row_if_its_status_is_stored() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/before" => before, "/behind" => behind);
        for path in ["/before", "/behind"] {
            ask(&*app, path, path).await.is(422, "failed");
            ask(&*app, path, path).await.is_replay(422, "failed");
        }
        world.has(0, 0);
        world.ends_transactions().await;
    });
}
