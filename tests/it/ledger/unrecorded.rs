//! Successes that must not be recorded, because of what came late: a principal, or an exemption.

use actix_idempotency::{ExemptIdempotencyKey, Principal, ledger::Tx};
use actix_web::{App, HttpMessage as _, HttpRequest, dev::Service as _, middleware::from_fn, test::init_service, web};

use super::common::{Counts, Faulty, World, ask, by_closure, by_itself, by_tx, serve};
use crate::common::in_process::alone;

#[test]
fn a_principal_that_comes_late_keeps_a_success_from_being_recorded() {
    alone(|| async {
        let world = World::new();
        let late = |request: HttpRequest, mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move {
            request.extensions_mut().insert(Principal::new("alice"));
            counts.pay(&mut tx)
        };
        let app = serve!(world, world.wrap(), "/tx" => late);
        for _ in 0..2 {
            ask(&*app, "/tx", "k").await.is_problem(500, "not-recorded");
        }
        world.has(0, 2);
        // An authentication inside of the wrap.
        let app = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .route("/tx", web::post().to(by_tx))
                .route("/closure", web::post().to(by_closure))
                .route("/none", web::post().to(by_itself))
                .wrap(from_fn(async |request: actix_web::dev::ServiceRequest, next: actix_web::middleware::Next<_>| {
                    request.extensions_mut().insert(Principal::new("alice"));
                    next.call(request).await
                }))
                .wrap(world.wrap()),
        )
        .await;
        for path in ["/tx?status=201", "/closure?status=201"] {
            for _ in 0..2 {
                ask(&app, path, path).await.is_problem(500, "not-recorded");
            }
        }
        for n in 7..=8 {
            ask(&app, "/none?status=201", "n").await.is(201, &format!("run {n}"));
        }
        world.has(0, 8);
        world.ends_transactions().await;
    });
}

#[test]
fn an_exemption_that_comes_late_keeps_a_success_from_being_recorded() {
    alone(|| async {
        let world = World::new();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(world.counts.clone()))
                .service(
                    web::scope("")
                        .wrap(ExemptIdempotencyKey::default().using(&world.idempotency))
                        .route("/tx", web::post().to(by_tx))
                        .route("/closure", web::post().to(by_closure)),
                )
                // The wrap inside is reached after the decision.
                .wrap_fn(|request, service| {
                    let call = service.call(request);
                    async move {
                        actix_web::rt::task::yield_now().await;
                        call.await
                    }
                })
                .wrap(from_fn(async |request: actix_web::dev::ServiceRequest, next: actix_web::middleware::Next<_>| {
                    actix_web::rt::task::yield_now().await;
                    next.call(request).await
                }))
                .wrap(world.wrap()),
        )
        .await;
        for path in ["/tx?status=201", "/closure?status=201"] {
            for _ in 0..2 {
                ask(&app, path, path).await.is_problem(500, "not-recorded");
            }
        }
        world.has(0, 4);
        world.ends_transactions().await;
    });
}
