//! An instance asks by a copy of a request who governs. What the copy lacks never lets a request through, and a wrap or a
//! guard inside is never missed.

use std::{cell::Cell, process::Command, rc::Rc};

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, guard};
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{Extensions, Service, ServiceResponse},
    guard::{Header, fn_guard},
    middleware::from_fn,
    web,
};

use super::witness::{ALL, ActsInCall, AppThing, CALLS, Mark, handler, manual, outside, post, send, witnessed};
use crate::common::in_process::alone;

/// A copy has neither extensions nor app data, unless `.showing` puts them there.
#[test]
fn an_exemption_that_guards_decide_by_data_of_the_request_is_found() {
    for is_shown in [false, true] {
        alone(move || async move {
            let by_extension = fn_guard(|ctx| ctx.req_data().contains::<Mark>());
            let by_app_data = fn_guard(|ctx| ctx.app_data::<web::Data<AppThing>>().is_some());
            let mut wrap = IdempotencyKey::default();
            if is_shown {
                wrap = wrap.showing(|request, copy| {
                    if request.extensions().contains::<Mark>() {
                        copy.extensions_mut().insert(Mark);
                    }
                    if let Some(thing) = request.app_data::<web::Data<AppThing>>() {
                        let mut data = Extensions::new();
                        data.insert(thing.clone());
                        copy.add_data_container(Rc::new(data));
                    }
                });
            }
            let free = |path, guard| {
                web::scope(path).guard(guard).wrap(ExemptIdempotencyKey::default()).route("", web::post().to(handler))
            };
            let app = witnessed!(
                .service(free("/x", by_extension))
                .service(web::scope("/y").guard(by_app_data).wrap(ExemptIdempotencyKey::default())
                    .route("", web::post().to(handler)))
                .default_service(web::to(HttpResponse::ImATeapot))
                .wrap(wrap)
                .wrap(from_fn(outside))
            );
            for path in ["/x", "/y"] {
                for key in ["", "k", "k", ""] {
                    let answer = send(&app, post(path, key)).await;
                    assert_eq!((answer.status, answer.is_replay), (201, false), "{path} {key:?}, shown: {is_shown}");
                    assert!(!is_shown || answer.found == ALL, "{answer:?}");
                }
            }
        });
    }
}

#[test]
fn a_copy_that_finds_too_much_lets_nothing_through() {
    alone(|| async {
        // These guards hold for a copy, and not for the request itself.
        let for_copies = || fn_guard(|ctx| !ctx.req_data().contains::<Mark>());
        let app = witnessed!(
            .service(web::scope("/x").guard(for_copies()).wrap(ExemptIdempotencyKey::default())
                .route("", web::post().to(handler)))
            .service(web::scope("/x").route("", web::post().to(handler)))
            .service(web::scope("/z").guard(for_copies()).guard(guard::exempt()).route("", web::post().to(handler)))
            .service(web::scope("/z").route("", web::post().to(handler)))
            .wrap(IdempotencyKey::default())
            .wrap(from_fn(outside))
        );
        for path in ["/x", "/z"] {
            let key = &path[1..];
            assert_eq!(send(&app, post(path, "")).await.status, 400, "{path}");
            assert_eq!(send(&app, post(path, key)).await.status, 201, "{path}");
            let again = send(&app, post(path, key)).await;
            assert_eq!((again.status, again.is_replay), (409, true), "{path}");
        }
    });
}

#[test]
fn one_route_may_say_different_things_about_different_requests() {
    alone(|| async {
        let is_free = || Header("x-free", "1");
        let is_manual = || Header("x-manual", "1");
        let app = witnessed!(
            .service(web::resource("/r")
                .route(web::post().guard(is_free()).guard(guard::exempt()).to(handler))
                .route(web::post().guard(is_manual()).guard(guard::manual()).to(manual))
                .route(web::post().guard(guard::required()).to(handler)))
            .service(web::scope("/s").guard(is_free()).wrap(ExemptIdempotencyKey::default())
                .route("", web::post().to(handler)))
            .service(web::scope("/s").route("", web::post().to(handler)))
            .wrap(IdempotencyKey::default())
            .wrap(from_fn(outside))
        );
        for (path, round) in ["/r", "/s"].into_iter().flat_map(|path| (0..3).map(move |round| (path, round))) {
            let key = format!("{}{round}", &path[1..]);
            let free = |key: &str| post(path, key).insert_header(("x-free", "1"));
            assert_eq!(send(&app, free("")).await.status, 201);
            assert_eq!(send(&app, post(path, "")).await.status, 400);
            assert_eq!(send(&app, free(&key)).await.outcome(), (201, false, ALL));
            assert_eq!(send(&app, post(path, &key)).await.outcome(), (201, false, ALL), "nothing was stored before");
            assert_eq!(send(&app, free(&key)).await.outcome(), (201, false, ALL), "the record is not looked at");
            assert_eq!(send(&app, post(path, &key)).await.outcome(), (409, true, ALL));
            if path == "/r" {
                let answer = send(&app, post(path, &key).insert_header(("x-manual", "1"))).await;
                assert_eq!((answer.outcome(), &*answer.body), ((201, false, ALL), "true"));
                assert_eq!(send(&app, post(path, &key)).await.outcome(), (409, true, ALL));
            }
        }
    });
}

/// Whether the wrap around a layer asks by copies: then the layer is called at a replay.
async fn asks<S, B>(app: &S, path: &str) -> bool
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    thread_local!(static NEXT: Cell<u32> = const { Cell::new(0) });
    NEXT.set(NEXT.get() + 1);
    let key = format!("k{}", NEXT.get());
    assert_eq!(send(app, post(path, &key)).await.status, 201, "{path}");
    CALLS.set(0);
    assert_eq!(send(app, post(path, &key)).await.status, 409, "{path}");
    CALLS.get() > 0
}

/// Runs a test of this module in a process without other tests.
fn in_a_process_of_its_own(test: &str, run: fn()) {
    const IS_ALONE: &str = "THIS_TEST_IS_ALONE";
    if std::env::var_os(IS_ALONE).is_some() {
        return run();
    }
    let (_, module) = module_path!().split_once("::").expect("this is a module of the binary");
    let test = format!("{module}::{test}");
    let mut again = Command::new(std::env::current_exe().expect("a test has a binary"));
    let output = again.args(["--exact", &test]).env(IS_ALONE, "1").output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A policy guard anywhere in the process makes every instance ask, since nothing tells into which App it went.
#[test]
fn an_instance_asks_only_where_others_may_be_inside() {
    in_a_process_of_its_own("an_instance_asks_only_where_others_may_be_inside", || {
        alone(|| async {
            let ok = || web::post().to(handler);
            let wrap = IdempotencyKey::default();
            // As when a server binds two addresses: its factory is called, and the App built, for each.
            for _ in 0..2 {
                let app = witnessed!(.route("/", ok()).wrap(ActsInCall).wrap(wrap.clone()));
                assert!(!asks(&app, "/").await, "nothing is inside");
                let app = witnessed!(.route("/", ok()).wrap(ActsInCall).wrap(IdempotencyKey::default()));
                assert!(!asks(&app, "/").await, "nothing is inside");
            }
            let app = witnessed!(
                .service(web::scope("/a").route("", ok()).wrap(ActsInCall).wrap(IdempotencyKey::default()))
                .service(web::scope("/b").route("", ok()).wrap(ActsInCall).wrap(wrap.clone()))
                .service(web::resource("/c").route(ok()).wrap(ActsInCall).wrap(wrap.clone()))
                .service(web::resource("/d").route(ok().wrap(ActsInCall).wrap(wrap.clone())))
            );
            for path in ["/a", "/b", "/c", "/d"] {
                assert!(!asks(&app, path).await, "{path}: the others are beside");
            }
            let app = witnessed!(
                .service(web::scope("/a")
                    .service(web::scope("/in").route("", ok()).wrap(wrap.clone()))
                    .route("", ok()).wrap(ActsInCall).wrap(wrap.clone()))
                .service(web::scope("/b").route("", ok()).wrap(ActsInCall).wrap(wrap.clone()))
            );
            assert!(asks(&app, "/a").await, "another is inside");
            assert!(!asks(&app, "/b").await, "nothing is inside");
            let idempotency = Idempotency::in_memory();
            let app = witnessed!(
                .service(web::scope("/ops").service(idempotency.admin_scope()))
                .route("/", ok())
                .route("/x/forget", ok())
                .wrap(ActsInCall)
                .wrap(wrap.clone())
            );
            assert!(!asks(&app, "/").await, "the operators' scope is known by its paths");
            assert!(asks(&app, "/x/forget").await, "a path that ends like one of them");
            assert_eq!(send(&app, post("/ops/find", "")).await.status, 415, "the operators' scope answers");
            let guard = guard::exempt();
            let app = witnessed!(.route("/", ok()).wrap(ActsInCall).wrap(wrap.clone()));
            assert!(asks(&app, "/").await, "a guard is alive");
            drop(guard);
        });
    });
}
