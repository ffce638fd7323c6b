//! Transactions that can't be committed together with an answer.

use std::{cell::RefCell, rc::Rc};

use actix_idempotency::{
    ExemptIdempotencyKey, IdempotencyKey, guard,
    ledger::{MemoryLedger, TransactionError, Transactions, Tx},
    testing::FaultyLedger,
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{
    App, HttpResponse,
    dev::AppConfig,
    test::{TestRequest, init_service},
    web,
};
use bytes::Bytes;
use futures_util::stream;

use super::common::{Counts, Door, Faulty, World, ask, by_closure, by_itself, by_tx, send, serve, within};
use crate::common::in_process::alone;

/// The handler's transaction is rolled back, its client gets a 500, and its key is free.
macro_rules! is_misused {
    ($world:expr, $handler:expr) => {{
        let app = serve!($world, $world.wrap(), "/" => $handler);
        for n in 1..=2 {
            ask(&*app, "/", "k").await.is_problem(500, "transaction-misused");
            $world.has(0, n);
        }
    }};
}

#[test]
fn a_transaction_that_a_task_keeps_is_rolled_back_when_it_is_dropped() {
    alone(|| async {
        let world = World::new();
        let door = Door::new();
        let handler = {
            let door = door.clone();
            move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
                let door = door.clone();
                async move {
                    let response = counts.pay(&mut tx);
                    actix_web::rt::spawn(async move {
                        door.pass().await;
                        drop(tx);
                    });
                    response
                }
            }
        };
        is_misused!(world, handler);
        assert_eq!(world.faults.open(), 2);
        door.reached_by(2).await;
        door.open();
        world.ends_transactions().await;
        world.has(0, 2);
    });
}

#[test]
fn a_transaction_that_the_body_keeps_is_rolled_back() {
    alone(|| async {
        let world = World::new();
        let handler = |mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move {
            counts.pay(&mut tx);
            let body = stream::once(async move {
                drop(tx);
                Ok::<_, std::io::Error>(Bytes::from_static(b"kept"))
            });
            HttpResponse::Created().streaming(body)
        };
        is_misused!(world, handler);
        world.ends_transactions().await;
    });
}

#[test]
fn a_transaction_that_a_global_keeps_never_commits() {
    alone(|| async {
        thread_local!(static KEPT: RefCell<Vec<Tx<Faulty>>> = const { RefCell::new(Vec::new()) });
        let world = World::new();
        let handler = |mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move {
            let response = counts.pay(&mut tx);
            KEPT.with_borrow_mut(|kept| kept.push(tx));
            response
        };
        is_misused!(world, handler);
        KEPT.with_borrow_mut(Vec::clear);
        world.ends_transactions().await;
        world.has(0, 2);
    });
}

#[test]
fn a_request_has_one_transaction() {
    alone(|| async {
        let world = World::new();
        let two =
            |mut tx: Tx<Faulty>, _other: Tx<Faulty>, counts: web::Data<Counts>| async move { counts.pay(&mut tx) };
        let beside = |mut tx: Tx<Faulty>, db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            counts.pay(&mut tx);
            db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await
        };
        let within_one = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            db.run(async |tx| {
                counts.pay(tx);
                db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await
            })
            .await
        };
        let app = serve!(world, world.wrap(), "/two" => two, "/beside" => beside, "/within" => within_one);
        for path in ["/two", "/beside", "/within"] {
            for _ in 0..2 {
                ask(&*app, path, path).await.is_problem(500, "transaction-misused");
            }
        }
        world.has(0, 4);
        world.ends_transactions().await;
    });
}

#[test]
fn a_ledger_of_another_type_is_no_ledger_of_the_wrap() {
    alone(|| async {
        let world = World::new();
        let by_tx = |_: Tx<MemoryLedger>, counts: web::Data<Counts>| async move {
            counts.next_run();
            HttpResponse::Created().finish()
        };
        let by_closure = |db: Transactions<FaultyLedger<Faulty>>, counts: web::Data<Counts>| async move {
            db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await
        };
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure);
        for path in ["/tx", "/closure"] {
            for _ in 0..2 {
                ask(&*app, path, path).await.is_problem(500, "transaction-misused");
            }
        }
        world.has(0, 0);
        world.ends_transactions().await;
    });
}

#[test]
fn no_transaction_is_begun_without_a_wrap_that_has_a_ledger() {
    alone(|| async {
        let world = World::new();
        let none = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .route("/tx", web::post().to(by_tx))
                .route("/closure", web::post().to(by_closure)),
        )
        .await;
        let other = serve!(world, world.wrap_without_ledger(), "/tx" => by_tx, "/closure" => by_closure);
        let exempt = serve!(world, world.wrap().exempt("/{any}"), "/tx" => by_tx, "/closure" => by_closure);
        let outside = serve!(world, ExemptIdempotencyKey::default().using(&world.idempotency).ledger(&world.ledger),
            "/tx" => by_tx, "/closure" => by_closure);
        for path in ["/tx?status=201", "/closure?status=201"] {
            ask(&none, path, "k").await.is_problem(500, "transaction-misused");
            ask(&*other, path, "k").await.is_problem(500, "transaction-misused");
            ask(&*exempt, path, "k").await.is_problem(500, "transaction-misused");
            ask(&*outside, path, "k").await.is_problem(500, "transaction-misused");
        }
        world.has(0, 0);
        assert_eq!(world.faults.open(), 0);
    });
}

#[test]
fn no_transaction_is_begun_for_a_safe_method() {
    alone(|| async {
        let world = World::new();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .wrap(world.wrap())
                .route("/tx", web::get().to(by_tx))
                .route("/closure", web::get().to(by_closure)),
        )
        .await;
        for path in ["/tx?status=200", "/closure?status=200"] {
            let request = TestRequest::get().uri(path).insert_header(("idempotency-key", "k"));
            within(send(&app, request)).await.is_problem(500, "transaction-misused");
        }
        world.has(0, 0);
    });
}

#[test]
fn an_inner_wrap_governs_with_its_ledger_or_without_one() {
    alone(|| async {
        let world = World::new();
        let inner = IdempotencyKey::default().using(&world.idempotency);
        let with = IdempotencyKey::default().using(&world.idempotency).ledger(&world.ledger);
        let app = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .service(web::scope("/without").wrap(inner).route("", web::post().to(by_tx)))
                .service(web::scope("/with").wrap(with).route("", web::post().to(by_tx)))
                .route("/outer", web::post().to(by_tx))
                .wrap(world.wrap()),
        )
        .await;
        for _ in 0..3 {
            ask(&app, "/without?status=201", "a").await.is_problem(500, "transaction-misused");
        }
        ask(&app, "/with?status=201", "b").await.is(201, "run 1");
        ask(&app, "/with?status=201", "b").await.is_replay(201, "run 1");
        ask(&app, "/outer?status=201", "c").await.is(201, "run 2");
        ask(&app, "/outer?status=201", "c").await.is_replay(201, "run 2");
        world.has(2, 2);
        world.ends_transactions().await;
    });
}

#[test]
fn a_manual_wrap_with_a_ledger_does_not_start() {
    alone(|| async {
        let world = World::new();
        for wrap in [
            world.wrap().manual(),
            world.wrap().manual().optional(),
            world.wrap().rule("/a", actix_idempotency::Policy::Manual),
        ] {
            let app = App::new().wrap(wrap).route("/", web::post().to(by_itself));
            let started = app.into_factory().new_service(AppConfig::default()).await;
            assert!(started.is_err());
        }
    });
}

#[test]
fn a_manual_guard_under_a_ledger_is_refused() {
    alone(|| async {
        let world = World::new();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .wrap(world.wrap())
                .route("/", web::post().guard(guard::manual()).to(by_tx)),
        )
        .await;
        let answer = ask(&app, "/?status=201", "k").await;
        assert_eq!(answer.status, 500, "{answer:?}");
        world.has(0, 0);
    });
}

#[test]
fn a_transaction_that_is_dropped_early_is_committed_with_the_answer() {
    alone(|| async {
        let world = World::new();
        let log = Rc::new(RefCell::new(Vec::new()));
        let handler = {
            let log = log.clone();
            move |mut tx: Tx<Faulty>, counts: web::Data<Counts>| {
                let log = log.clone();
                async move {
                    let response = counts.pay(&mut tx);
                    drop(tx);
                    log.borrow_mut().push(counts.rows());
                    response
                }
            }
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        ask(&*app, "/", "k").await.is(201, "run 1");
        assert_eq!(*log.borrow(), [0], "it is not committed before the answer");
        world.has(1, 1);
    });
}
