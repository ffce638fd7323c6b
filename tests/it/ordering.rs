//! Inside and outside of other middleware, in the orders that the docs recommend; and what is dropped half way. In
//! process, each App on a thread of its own, since instances count what was made on their thread.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use actix_cors::Cors;
use actix_idempotency::{
    ExemptIdempotencyKey, Idempotency, IdempotencyInfo, IdempotencyKey, Policy, Principal, StoreResponse, guard,
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_session::{Session, SessionExt as _, SessionMiddleware, storage::CookieSessionStore};
use actix_web::{
    App, Error, HttpMessage as _, HttpResponse,
    body::{MessageBody, to_bytes},
    cookie,
    dev::{AppConfig, Service, ServiceRequest, ServiceResponse},
    http::{StatusCode, header},
    middleware::{Compress, DefaultHeaders, ErrorHandlers, Logger, Next, NormalizePath, from_fn},
    rt,
    test::{TestRequest, init_service},
    web,
};
use futures_util::stream;

const MARKER: &str = "idempotent-replayed";

/// Runs a test on a thread where nothing was announced before.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || rt::System::new().block_on(test())).join().expect("the test passes");
}

/// A handler's counter: how often it ran.
#[derive(Clone, Default)]
struct Runs(Rc<Cell<u32>>);

impl Runs {
    fn next(&self) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

macro_rules! app {
    ($($chain:tt)*) => {
        init_service(
            App::new().app_data(web::Data::new(Idempotency::in_memory())) $($chain)*
        )
        .await
    };
}

fn post(path: &str, key: Option<&str>) -> TestRequest {
    let request = TestRequest::post().uri(path);
    match key {
        Some(key) => request.insert_header(("idempotency-key", key)),
        None => request,
    }
}

async fn send<S, B>(app: &S, request: TestRequest) -> (StatusCode, header::HeaderMap, web::Bytes)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let response = app.call(request.to_request()).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let Ok(body) = to_bytes(response.into_body()).await else { panic!("a whole body") };
    (status, headers, body)
}

#[test]
fn compress_goes_outside_and_what_is_stored_is_identity() {
    alone(|| async {
        let text = "hello ".repeat(500);
        let handler = move || {
            let text = text.clone();
            async move { HttpResponse::Created().content_type("text/plain").body(text) }
        };
        let app = app!(.wrap(IdempotencyKey::default()).wrap(Compress::default()).route("/", web::post().to(handler)));
        let with = |encoding: &str| post("/", Some("k")).insert_header(("accept-encoding", encoding));
        let (_, headers, body) = send(&app, with("gzip")).await;
        assert_eq!(headers.get("content-encoding").unwrap(), "gzip");
        assert!(body.len() < 3000);
        // gzip bodies were replayed elsewhere to clients that had not asked for gzip.
        let (_, headers, body) = send(&app, with("identity")).await;
        assert!(headers.get("content-encoding").is_none() && headers.contains_key(MARKER));
        assert_eq!(body.len(), 3000);
        let (_, headers, _) = send(&app, with("gzip")).await;
        assert!(headers.contains_key(MARKER));
        assert_eq!(headers.get("content-encoding").unwrap(), "gzip");
    });
}

#[test]
fn compress_inside_does_not_reach_the_record_either() {
    alone(|| async {
        let handler = || async { HttpResponse::Created().content_type("text/plain").body("hello ".repeat(500)) };
        let app = app!(
            .wrap(IdempotencyKey::default())
            .service(web::scope("/in").wrap(Compress::default()).route("", web::post().to(handler)))
            .service(web::scope("/free").wrap(ExemptIdempotencyKey::default()).wrap(Compress::default())
                .route("", web::post().to(handler)))
            .service(web::scope("/freed").wrap(Compress::default()).wrap(ExemptIdempotencyKey::default())
                .route("", web::post().to(handler)))
        );
        for again in [false, true] {
            let (_, headers, body) =
                send(&app, post("/in", Some("k")).insert_header(("accept-encoding", "gzip"))).await;
            assert_eq!(headers.contains_key(MARKER), again);
            assert!(headers.get("content-encoding").is_none());
            assert_eq!(body.len(), 3000);
        }
        // An exempt scope gets its `Accept-Encoding` back.
        let (_, headers, _) = send(&app, post("/freed", Some("k")).insert_header(("accept-encoding", "gzip"))).await;
        assert_eq!(headers.get("content-encoding").unwrap(), "gzip");
    });
}

#[test]
fn cors_goes_outside_and_its_headers_are_of_each_answer() {
    for nested in [false, true] {
        alone(move || async move {
            let cors = Cors::default().allow_any_origin().allow_any_method().allow_any_header().expose_any_header();
            let app = App::new().app_data(web::Data::new(Idempotency::in_memory()));
            let guarded = || guard::required();
            let route = web::post();
            let route = if nested { route.guard(guarded()) } else { route };
            let app = init_service(
                app.wrap(IdempotencyKey::default())
                    .wrap(cors)
                    .wrap(DefaultHeaders::new().add(("x-default", "1")))
                    .wrap(Logger::new("%r %s"))
                    .route("/", route.to(HttpResponse::Created)),
            )
            .await;
            for (key, origin, status, marked) in [
                (None, "https://a.example", 400, false),
                (Some("k"), "https://a.example", 201, false),
                (Some("k"), "https://b.example", 409, true),
            ] {
                let (got, headers, _) = send(&app, post("/", key).insert_header(("origin", origin))).await;
                assert_eq!((got.as_u16(), headers.contains_key(MARKER)), (status, marked), "nested: {nested}");
                let allowed: Vec<_> = headers.get_all("access-control-allow-origin").collect();
                assert_eq!(allowed, [origin], "its own, once");
                assert_eq!(headers.get("x-default").unwrap(), "1");
            }
        });
    }
}

#[test]
fn normalize_path_goes_outside() {
    alone(|| async {
        let app = app!(
            .wrap(IdempotencyKey::default().exempt("/free/{tail}*"))
            .wrap(NormalizePath::trim())
            .route("/pay", web::post().to(HttpResponse::Created))
            .route("/free/x", web::post().to(HttpResponse::Created))
        );
        assert_eq!(send(&app, post("/pay/", Some("k"))).await.0, 201);
        assert_eq!(send(&app, post("/pay", Some("k"))).await.0, 409, "one path, one operation");
        assert_eq!(send(&app, post("//free/x/", None)).await.0, 201);
    });
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
        assert_eq!(send(&app, post("/fr%65e", None)).await.0, 201, "as the router sees it");
    });
}

async fn as_alice(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if request.headers().get("x-user").is_none() {
        return Ok(request.into_response(HttpResponse::Unauthorized().finish()).map_into_right_body());
    }
    request.extensions_mut().insert(Principal::new("alice"));
    Ok(next.call(request).await?.map_into_left_body())
}

#[test]
fn authentication_goes_outside() {
    alone(|| async {
        let app = app!(
            .wrap(IdempotencyKey::default())
            .wrap(from_fn(as_alice))
            .route("/", web::post().to(HttpResponse::Created))
        );
        let with =
            |user: bool| if user { post("/", Some("k")).insert_header(("x-user", "1")) } else { post("/", Some("k")) };
        assert_eq!(send(&app, with(true)).await.0, 201);
        assert_eq!(send(&app, with(false)).await.0, 401, "no replay without credentials");
        assert_eq!(send(&app, with(true)).await.0, 409);
    });
}

async fn pass(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    rt::task::yield_now().await;
    next.call(request).await
}

/// What awaits before calling on hides what is inside: then the outer one has decided.
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
        assert_eq!(send(&app, post("/hidden", None)).await.0, 400, "keyless requests are refused already");
        for n in 1..=2 {
            assert_eq!(send(&app, post("/hidden", Some("k"))).await.2, n.to_string());
        }
        assert_eq!(send(&app, post("/kept", Some("l"))).await.2, "3");
        let (_, headers, body) = send(&app, post("/kept", Some("l"))).await;
        assert!(headers.contains_key(MARKER));
        assert_eq!(body, "3", "claimed once, by the outer one");
    });
}

#[test]
fn of_what_is_found_late_the_innermost_counts() {
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
        assert_eq!(send(&app, post("/back", Some("l"))).await.0, 409, "opted back in: stored");
    });
}

#[test]
fn manual_and_optional_go_together() {
    alone(|| async {
        let tell =
            |info: web::ReqData<IdempotencyInfo>| async move { HttpResponse::Ok().body(info.exists().to_string()) };
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
fn a_handler_can_say_whether_its_answer_is_stored() {
    alone(|| async {
        let runs = Runs::default();
        let handler = move |word: web::Path<String>| {
            runs.next();
            let n = runs.0.get();
            async move {
                let (mut response, word) = match word.as_str() {
                    "never" => (HttpResponse::Created().body(n.to_string()), StoreResponse::Never),
                    _ => (HttpResponse::InternalServerError().body(n.to_string()), StoreResponse::Always),
                };
                word.set(&mut response);
                response
            }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/{word}", web::post().to(handler)));
        assert_eq!(send(&app, post("/never", Some("a"))).await.2, "1");
        assert_eq!(send(&app, post("/never", Some("a"))).await.2, "2");
        assert_eq!(send(&app, post("/always", Some("b"))).await.2, "3");
        let (status, headers, body) = send(&app, post("/always", Some("b"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (409, true, &b"3"[..]));
    });
}

#[test]
fn errors_of_middleware_inside_are_treated_like_the_equal_response() {
    alone(|| async {
        async fn refuse(_: ServiceRequest, _: Next<impl MessageBody>) -> Result<ServiceResponse, Error> {
            Err(actix_web::error::ErrorConflict("no"))
        }
        let mut settings = actix_idempotency::Settings::ietf();
        settings.storage.ttl = Duration::from_secs(60);
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(idempotency))
                .wrap(IdempotencyKey::default())
                .wrap(ErrorHandlers::new())
                .service(web::scope("/in").wrap(from_fn(refuse)).route("", web::post().to(HttpResponse::Created))),
        )
        .await;
        let first = app.call(post("/in", Some("k")).to_request()).await;
        let first = first.map_or_else(|error| error.as_response_error().status_code(), |response| response.status());
        assert_eq!(first, 409);
        let (status, headers, body) = send(&app, post("/in", Some("k"))).await;
        assert_eq!((status.as_u16(), &body[..]), (409, &b"no"[..]));
        assert!(headers.contains_key(MARKER));
    });
}

/// What an HTTP/2 reset, or a half-closed connection that is not allowed, does to a request's future.
#[test]
fn a_future_dropped_half_way_goes_on_in_its_span() {
    for nested in [false, true] {
        alone(move || async move {
            static FINISHED: AtomicUsize = AtomicUsize::new(0);
            FINISHED.store(0, Ordering::SeqCst);
            let handler = || async {
                rt::time::sleep(Duration::from_millis(50)).await;
                FINISHED.fetch_add(1, Ordering::SeqCst);
                HttpResponse::Created().body("done")
            };
            let route = if nested { web::post().guard(guard::required()) } else { web::post() };
            let app = app!(.wrap(IdempotencyKey::default()).route("/", route.to(handler)));
            let call = app.call(post("/", Some("k")).to_request());
            assert!(rt::time::timeout(Duration::from_millis(10), call).await.is_err(), "dropped half way");
            assert_eq!(send(&app, post("/", Some("k"))).await.2, "done", "a duplicate waits for it");
            assert_eq!(FINISHED.load(Ordering::SeqCst), 1);
            // Dropped before the handler started: nothing runs, and the key is free.
            drop(app.call(post("/", Some("l")).to_request()));
            rt::task::yield_now().await;
            assert_eq!(send(&app, post("/", Some("l"))).await.0, 201);
            assert_eq!(FINISHED.load(Ordering::SeqCst), 2);
        });
    }
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
fn without_set_up_the_pair_uses_one_store_for_the_process() {
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

#[test]
fn sessions_go_outside_and_may_name_the_principal() {
    alone(|| async {
        let key = cookie::Key::from(&[7; 64]);
        let session = SessionMiddleware::builder(CookieSessionStore::default(), key).cookie_secure(false).build();
        let user = |request: &ServiceRequest| {
            let user = request.get_session().get::<String>("user").ok()??;
            Some(Principal::new(user))
        };
        let log_in = |session: Session, user: web::Path<String>| async move {
            session.insert("user", user.as_str()).unwrap();
            HttpResponse::Ok().finish()
        };
        let pay = |session: Session| async move {
            session.insert("paid", true).unwrap();
            HttpResponse::Created().body("paid")
        };
        let app = app!(
            .wrap(IdempotencyKey::default().principal(user).exempt("/login/{user}"))
            .wrap(session)
            .route("/login/{user}", web::post().to(log_in))
            .route("/pay", web::post().to(pay))
        );
        for user in ["alice", "bob"] {
            let (_, headers, _) = send(&app, post(&format!("/login/{user}"), None)).await;
            let cookie = headers.get("set-cookie").unwrap().to_str().unwrap().split(';').next().unwrap().to_owned();
            let pay = || post("/pay", Some("k")).insert_header(("cookie", cookie.clone()));
            let (status, headers, _) = send(&app, pay()).await;
            assert_eq!(
                (status.as_u16(), headers.contains_key("set-cookie")),
                (201, true),
                "{user}: a key of one's own"
            );
            let (status, headers, body) = send(&app, pay()).await;
            assert_eq!((status.as_u16(), headers.contains_key("set-cookie"), &body[..]), (409, false, &b"paid"[..]));
        }
    });
}

/// Tells when it is dropped.
struct Told(Rc<Cell<bool>>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn an_event_stream_ends_with_its_client_and_is_not_run_again() {
    alone(|| async {
        let (runs, dropped) = (Runs::default(), Rc::new(Cell::new(false)));
        let (count, tell) = (runs.clone(), dropped.clone());
        let handler = move || {
            count.next();
            let told = Told(tell.clone());
            let events = stream::repeat_with(move || {
                let _ = &told;
                Ok::<_, Error>(web::Bytes::from_static(b"data: x\n\n"))
            });
            async move { HttpResponse::Ok().content_type("text/event-stream; charset=utf-8").streaming(events) }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/", web::post().to(handler)));
        let response = app.call(post("/", Some("k")).to_request()).await.unwrap();
        let mut body = Box::pin(response.into_body());
        for _ in 0..3 {
            let piece = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap();
            assert_eq!(piece.map_err(|_| ()).unwrap(), "data: x\n\n", "passed on as it is");
        }
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 423, "in flight while its client listens");
        drop(body);
        let (status, headers, body) = send(&app, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.get("idempotency-body").unwrap().to_str().unwrap()), (409, "omitted"));
        assert!(body.is_empty() && dropped.get(), "not read on without its client");
        assert_eq!(runs.0.get(), 1);
    });
}

#[test]
fn an_upgrade_passes_untouched_and_is_not_stored() {
    alone(|| async {
        let runs = Runs::default();
        let count = runs.clone();
        let handler = move || {
            count.next();
            async {
                HttpResponse::SwitchingProtocols()
                    .upgrade("chat")
                    .streaming(stream::empty::<Result<web::Bytes, Error>>())
            }
        };
        let app = app!(.wrap(IdempotencyKey::default()).route("/", web::post().to(handler)));
        for n in 1..=2 {
            let (status, headers, _) = send(&app, post("/", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.get("upgrade").unwrap().to_str().unwrap()), (101, "chat"));
            assert_eq!(runs.0.get(), n);
        }
    });
}
