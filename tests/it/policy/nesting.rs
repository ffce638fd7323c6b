//! Which instance governs a request: wraps, guards and rules at every level, and inner instances that are found too
//! late.

use std::sync::atomic::{AtomicUsize, Ordering};

use actix_idempotency::{
    ExemptIdempotencyKey, Idempotency, IdempotencyInfo, IdempotencyKey, Policy, guard, settings::Mode,
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    middleware::{Condition, Next, from_fn},
    rt,
    test::{TestRequest, init_service},
    web,
};

use crate::common::in_process::{MARKER, Runs, alone, app, post, send};

/// Awaits before it calls the inner service. An outer instance then decides before the router reaches an inner one.
async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    rt::task::yield_now().await;
    next.call(request).await
}

#[test]
fn percent_encoding_does_not_get_around_a_rule() {
    alone(|| async {
        let app = app!(
            .wrap(IdempotencyKey::default().exempt("/free"))
            .route("/pay", web::post().to(HttpResponse::Created))
            .route("/free", web::post().to(HttpResponse::Created))
        );
        for path in ["/pay", "/%70ay", "/p%61y"] {
            assert_eq!(send(&app, post(path, None)).await.0, 400, "{path}");
        }
        assert_eq!(send(&app, post("/fr%65e", None)).await.0, 201, "rules match the decoded path, as the router does");
    });
}

/// Middleware that awaits before it calls the inner service hides inner instances: the outer instance has decided
/// already.
#[test]
fn an_exempt_instance_found_late_keeps_the_answer_out_of_the_store() {
    alone(|| async {
        let runs = Runs::default();
        let counted = runs.clone();
        let handler = move || {
            let n = counted.next();
            async move { HttpResponse::Created().body(n.to_string()) }
        };
        let app = app!(
            .wrap(IdempotencyKey::default())
            .service(web::scope("/hidden").wrap(ExemptIdempotencyKey::default()).wrap(from_fn(pass))
                .route("", web::post().to(handler.clone())))
            .service(web::scope("/kept").wrap(IdempotencyKey::default()).wrap(from_fn(pass))
                .route("", web::post().to(handler.clone())))
        );
        assert_eq!(send(&app, post("/hidden", None)).await.0, 400, "the outer instance refuses requests without a key");
        for n in 1..=2 {
            assert_eq!(send(&app, post("/hidden", Some("k"))).await.2, n.to_string());
        }
        assert_eq!(send(&app, post("/kept", Some("l"))).await.2, "3");
        let (_, headers, body) = send(&app, post("/kept", Some("l"))).await;
        assert!(headers.contains_key(MARKER));
        assert_eq!(body, "3", "claimed once, by the outer instance");
    });
}

#[test]
fn of_several_instances_found_late_the_innermost_governs() {
    alone(|| async {
        let ok = || web::post().to(HttpResponse::Created);
        let app = app!(
            .wrap(IdempotencyKey::default())
            .service(web::scope("/guarded").wrap(from_fn(pass))
                .route("", web::post().guard(guard::exempt()).to(HttpResponse::Created)))
            .service(web::scope("/back").wrap(ExemptIdempotencyKey::default()).wrap(from_fn(pass))
                .service(web::resource("").wrap(IdempotencyKey::default()).route(ok())))
        );
        for _ in 0..2 {
            let (status, headers, _) = send(&app, post("/guarded", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER)), (201, false), "an exempt route is not stored");
        }
        assert_eq!(send(&app, post("/back", Some("l"))).await.0, 201);
        assert_eq!(
            send(&app, post("/back", Some("l"))).await.0,
            409,
            "the innermost wrap requires a key again, so the answer is stored"
        );
    });
}

#[test]
fn manual_and_optional_go_together() {
    alone(|| async {
        let tell = |info: IdempotencyInfo| async move { HttpResponse::Ok().body(info.exists().to_string()) };
        let app = app!(
            .wrap(IdempotencyKey::default())
            .service(web::resource("/a").wrap(IdempotencyKey::default().optional().manual()).route(web::post().to(tell)))
            .service(web::resource("/b").wrap(IdempotencyKey::default().manual().optional()).route(web::post().to(tell)))
        );
        for path in ["/a", "/b"] {
            assert_eq!(send(&app, post(path, None)).await.2, "false");
            assert_eq!(send(&app, post(path, Some(&path[1..]))).await.2, "false");
            assert_eq!(send(&app, post(path, Some(&path[1..]))).await.2, "true");
        }
    });
}

#[test]
fn under_an_exempt_app_a_hidden_instance_governs() {
    alone(|| async {
        let app = app!(
            .wrap(ExemptIdempotencyKey::default())
            .service(web::scope("/pay").wrap(IdempotencyKey::default()).wrap(from_fn(pass))
                .route("", web::post().to(HttpResponse::Created)))
        );
        assert_eq!(send(&app, post("/pay", None)).await.0, 400);
        assert_eq!(send(&app, post("/pay", Some("k"))).await.0, 201);
        assert_eq!(send(&app, post("/pay", Some("k"))).await.0, 409);
    });
}

#[test]
fn wraps_and_guards_govern_at_every_level() {
    alone(|| async {
        let ok = || web::post().to(HttpResponse::Created);
        let app = app!(
            .wrap(IdempotencyKey::default())
            .service(web::resource("/resource").wrap(ExemptIdempotencyKey::default()).route(ok()))
            .route("/route", web::post().to(HttpResponse::Created).wrap(ExemptIdempotencyKey::default()))
            .service(web::scope("/scope").guard(guard::exempt()).route("", ok())
                .route("/strict", web::post().guard(guard::required()).to(HttpResponse::Created)))
            .service(web::scope("/deep").wrap(ExemptIdempotencyKey::default())
                .service(web::scope("/er").wrap(IdempotencyKey::default().rule("/free", Policy::Exempt))
                    .route("", ok()).route("/free", ok())
                    .service(web::resource("/free/not").wrap(IdempotencyKey::default()).route(ok()))))
            .default_service(web::to(HttpResponse::ImATeapot))
        );
        for (path, keyless) in [
            ("/resource", 201),
            ("/route", 201),
            ("/scope", 201),
            ("/scope/strict", 400),
            ("/deep/er", 400),
            ("/deep/er/free", 201),
            ("/deep/er/free/not", 400),
            ("/default", 400),
        ] {
            assert_eq!(send(&app, post(path, None)).await.0.as_u16(), keyless, "{path}");
        }
        assert_eq!(send(&app, post("/default", Some("k"))).await.0, 418);
    });
}

#[test]
fn every_handler_under_an_instance_finds_the_info() {
    alone(|| async {
        let tell = |info: web::ReqData<IdempotencyInfo>| async move {
            let key = info.key().map_or("-", |key| key.as_str()).to_owned();
            HttpResponse::Ok().body(format!("{key} {} {} {}", info.exists(), info.attempt(), info.fence() > 0))
        };
        let app = app!(
            .wrap(IdempotencyKey::default())
            .route("/required", web::post().to(tell))
            .route("/required", web::get().to(tell))
            .service(web::resource("/exempt").wrap(ExemptIdempotencyKey::default()).route(web::post().to(tell)))
            .service(web::resource("/optional").wrap(IdempotencyKey::default().optional()).route(web::post().to(tell)))
        );
        let body = |path: &'static str, key| {
            let app = &app;
            async move { send(app, post(path, key)).await.2 }
        };
        assert_eq!(body("/required", Some("\"k 1\"")).await, "k 1 false 1 true");
        assert_eq!(body("/exempt", Some("k")).await, "- false 0 false");
        assert_eq!(body("/optional", None).await, "- false 0 false");
        assert_eq!(body("/optional", Some("k2")).await, "k2 false 1 true");
        let got = TestRequest::get().uri("/required").insert_header(("idempotency-key", "k"));
        assert_eq!(send(&app, got).await.2, "- false 0 false");
    });
}

#[test]
fn a_wrap_that_was_given_its_idempotency_refuses_to_start_on_a_mistake() {
    alone(|| async {
        let idempotency = Idempotency::in_memory();
        for wrap in [
            IdempotencyKey::default().cache_name("nowhere"),
            IdempotencyKey::default().rule("/a", Policy::Exempt).rule("/a", Policy::Manual),
            IdempotencyKey::default().exempt("no-slash"),
            IdempotencyKey::default().configure(|settings| settings.max_key_length = 0),
        ] {
            let app = App::new().wrap(wrap.using(&idempotency)).route("/", web::post().to(HttpResponse::Created));
            let started = app.into_factory().new_service(AppConfig::default()).await;
            assert!(started.is_err());
        }
    });
}

#[test]
fn without_an_idempotency_wraps_use_one_store_for_the_process() {
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let send_one = || {
        alone(|| async {
            let app = App::new().wrap(IdempotencyKey::default()).route("/", web::post().to(HttpResponse::Created));
            let app = init_service(app).await;
            let (status, ..) = send(&app, post("/", Some("of-the-process"))).await;
            let expected = if FIRST.fetch_add(1, Ordering::SeqCst) == 0 { 201 } else { 409 };
            assert_eq!(status.as_u16(), expected);
        });
    };
    send_one();
    send_one();
}

/// An observing instance outside once claimed the key first, where middleware that awaits hid the enforcing instance
/// inside.
#[test]
fn an_observing_instance_leaves_everything_to_an_enforcing_one_inside() {
    alone(|| async {
        for hidden in [false, true] {
            let runs = Runs::default();
            let counting = runs.clone();
            let handler = move || {
                let n = counting.next();
                async move { HttpResponse::Created().body(n.to_string()) }
            };
            let inner = IdempotencyKey::default().configure(|settings| settings.mode = Mode::Enforce);
            let scope = web::scope("/pay").wrap(inner).route("", web::post().to(handler));
            let app = app!(
                .service(scope.wrap(Condition::new(hidden, from_fn(pass))))
                .wrap(IdempotencyKey::default().configure(|settings| settings.mode = Mode::Observe))
            );
            assert_eq!(send(&app, post("/pay", None)).await.0, 400, "{hidden}");
            assert_eq!(send(&app, post("/pay", Some("k"))).await.0, 201, "{hidden}");
            let (status, headers, _) = send(&app, post("/pay", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER), runs.0.get()), (409, true, 1), "{hidden}");
        }
    });
}
