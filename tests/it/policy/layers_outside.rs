//! Layers outside find in every answer what they have put into its request, whatever is inside of the wrap.

use std::{sync::mpsc, time::Duration};

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, guard};
use actix_session::{
    Session, SessionMiddleware,
    config::{PersistentSession, TtlExtensionPolicy},
    storage::CookieSessionStore,
};
use actix_web::{
    App, Error, HttpResponse, HttpServer,
    body::MessageBody,
    cookie,
    dev::{Service, ServiceRequest, ServiceResponse},
    http::header::{self, HeaderName},
    middleware::{Next, from_fn},
    rt, web,
};

use super::witness::{ALL, handler, manual, outside, post, send, witnessed};
use crate::common::{Connection, Request, in_process::alone};

/// A request without a key, a run, a replay, and a malformed key. `keyless`: the status without a key. `is_stored`: whether
/// the instance that governs stores the answer.
async fn four<S, B>(app: &S, path: &str, keyless: u16, is_stored: bool)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let key = format!("k{}", path.replace('/', "-"));
    // At the first refusal of a route its request has been routed already, and something stands in for it.
    assert_eq!(send(app, post(path, "")).await.status, keyless, "{path}");
    assert_eq!(send(app, post(path, "")).await.outcome(), (keyless, false, ALL), "{path}: without a key");
    let first = send(app, post(path, &key)).await;
    assert_eq!(first.outcome(), (201, false, ALL), "{path}: a run");
    let again = send(app, post(path, &key)).await;
    assert_eq!(again.outcome(), (if is_stored { 409 } else { 201 }, is_stored, ALL), "{path}: a retry");
    assert_eq!(again.body == first.body, is_stored, "{path}");
    let malformed = send(app, post(path, "\"malformed")).await;
    assert_eq!(malformed.outcome(), (if is_stored { 400 } else { 201 }, false, ALL), "{path}: a malformed key");
}

#[test]
fn of_a_wrap_around_an_app_they_find_everything() {
    alone(|| async {
        let ok = || web::post().to(handler);
        let required = || IdempotencyKey::default().ttl(Duration::from_secs(60));
        let app = witnessed!(
            .service(web::resource("/none").route(ok()))
            .service(web::resource("/exempt").wrap(ExemptIdempotencyKey::default()).route(ok()))
            .service(web::resource("/required").wrap(required()).route(ok()))
            .service(web::resource("/optional").wrap(IdempotencyKey::default().optional()).route(ok()))
            .service(web::resource("/gexempt").route(web::post().guard(guard::exempt()).to(handler)))
            .service(web::resource("/goptional").route(web::post().guard(guard::optional()).to(handler)))
            .service(web::resource("/grequired").route(web::post().guard(guard::required()).to(handler)))
            .service(web::resource("/gmanual").route(web::post().guard(guard::manual()).to(manual)))
            .service(web::scope("/a/{x}").service(web::scope("/b").wrap(ExemptIdempotencyKey::default())
                .service(web::resource("/{y}").route(ok()).wrap(IdempotencyKey::default()))
                .service(web::resource("/{y}/free").route(ok()))))
            .wrap(IdempotencyKey::default())
            .wrap(from_fn(outside))
        );
        for (path, keyless, is_stored) in [
            ("/none", 400, true),
            ("/exempt", 201, false),
            ("/required", 400, true),
            ("/optional", 201, true),
            ("/gexempt", 201, false),
            ("/goptional", 201, true),
            ("/grequired", 400, true),
            ("/a/1/b/2", 400, true),
            ("/a/1/b/2/free", 201, false),
        ] {
            four(&app, path, keyless, is_stored).await;
        }
        for exists in ["false", "true"] {
            let answer = send(&app, post("/gmanual", "m")).await;
            assert_eq!((answer.outcome(), &*answer.body), ((201, false, ALL), exists));
        }
        let panicked = send(&app, post("/none", "p").insert_header(("x-panic", "1"))).await;
        assert_eq!((panicked.status, panicked.is_replay), (500, false));
    });
}

#[test]
fn of_a_wrap_around_a_scope_they_find_everything() {
    alone(|| async {
        let ok = || web::post().to(handler);
        let app = witnessed!(.service(
            web::scope("/s/{x}")
                .service(web::resource("/none/{y}").route(ok()))
                .service(web::resource("/exempt/{y}").wrap(ExemptIdempotencyKey::default()).route(ok()))
                .service(web::resource("/required/{y}").wrap(IdempotencyKey::default()).route(ok()))
                .service(web::resource("/gexempt/{y}").route(web::post().guard(guard::exempt()).to(handler)))
                .service(web::resource("/goptional/{y}").route(web::post().guard(guard::optional()).to(handler)))
                .wrap(IdempotencyKey::default())
                .wrap(from_fn(outside))
        ));
        for (path, keyless, is_stored) in [
            ("/s/1/none/2", 400, true),
            ("/s/1/exempt/2", 201, false),
            ("/s/1/required/2", 400, true),
            ("/s/1/gexempt/2", 201, false),
            ("/s/1/goptional/2", 201, true),
        ] {
            four(&app, path, keyless, is_stored).await;
        }
    });
}

#[test]
fn of_a_wrap_around_a_resource_or_a_route_they_find_everything() {
    alone(|| async {
        let ok = || web::post().to(handler);
        let wrapped = |path: &str| web::resource(path).wrap(IdempotencyKey::default()).wrap(from_fn(outside));
        let app = witnessed!(
            .service(wrapped("/r/none").route(ok()))
            .service(wrapped("/r/exempt").route(ok().wrap(ExemptIdempotencyKey::default())))
            .service(wrapped("/r/optional").route(ok().wrap(IdempotencyKey::default().optional())))
            .service(wrapped("/r/gexempt").route(web::post().guard(guard::exempt()).to(handler)))
            .service(web::resource("/t/none").wrap(from_fn(outside)).route(ok().wrap(IdempotencyKey::default())))
            .service(web::resource("/t/exempt").wrap(from_fn(outside))
                .route(ok().wrap(ExemptIdempotencyKey::default()).wrap(IdempotencyKey::default())))
            .service(web::resource("/t/required").wrap(from_fn(outside))
                .route(ok().wrap(IdempotencyKey::default()).wrap(ExemptIdempotencyKey::default())))
        );
        for (path, keyless, is_stored) in [
            ("/r/none", 400, true),
            ("/r/exempt", 201, false),
            ("/r/optional", 201, true),
            ("/r/gexempt", 201, false),
            ("/t/none", 400, true),
            ("/t/exempt", 201, false),
            ("/t/required", 400, true),
        ] {
            four(&app, path, keyless, is_stored).await;
        }
    });
}

/// Once, whatever was made earlier on the thread took this from them.
#[test]
fn instances_that_were_made_before_take_nothing_from_what_they_find() {
    alone(|| async {
        let ok = || web::post().to(handler);
        let exempt = |path: &str| web::resource(path).wrap(ExemptIdempotencyKey::default()).route(ok());
        let operators = || web::scope("/admin").service(Idempotency::in_memory().admin_scope());
        // As a second `.bind()` makes one.
        let _other = witnessed!(.service(exempt("/exempt")).service(operators()).wrap(IdempotencyKey::default()));
        let around_a_resource = witnessed!(
            .service(operators())
            .service(exempt("/sibling"))
            .service(web::resource("/resource").wrap(IdempotencyKey::default()).wrap(from_fn(outside)).route(ok()))
        );
        four(&around_a_resource, "/resource", 400, true).await;
        let around_an_app = witnessed!(
            .service(operators())
            .service(exempt("/sibling"))
            .route("/app", ok())
            .wrap(IdempotencyKey::default())
            .wrap(from_fn(outside))
        );
        four(&around_an_app, "/app", 400, true).await;
        four(&around_an_app, "/sibling", 201, false).await;
    });
}

/// Holds a clone of the request, which actix-web allows at a resource and at a route.
async fn holds_a_clone(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let held = request.request().clone();
    let response = next.call(request).await?;
    assert_eq!(held.path(), response.request().path());
    Ok(response)
}

/// Once, `Accept-Encoding` was taken out of the shared request, which panics.
#[test]
fn a_layer_outside_may_hold_a_clone_of_a_request_with_accept_encoding() {
    alone(|| async {
        let required = || web::post().guard(guard::required()).to(handler);
        let wrapped = |path: &str| {
            web::resource(path).wrap(IdempotencyKey::default()).wrap(from_fn(holds_a_clone)).wrap(from_fn(outside))
        };
        let app = witnessed!(
            .service(wrapped("/resource").route(web::post().to(handler)))
            .service(wrapped("/guarded").route(required()))
            .service(web::resource("/route").wrap(from_fn(outside))
                .route(web::post().to(handler).wrap(IdempotencyKey::default()).wrap(from_fn(holds_a_clone))))
        );
        for path in ["/resource", "/guarded", "/route"] {
            let request = |key| post(path, key).insert_header((header::ACCEPT_ENCODING, "gzip"));
            let key = &path[1..];
            assert_eq!(send(&app, request("")).await.status, 400, "{path}");
            assert_eq!(send(&app, request(key)).await.outcome(), (201, false, ALL), "{path}");
            assert_eq!(send(&app, request(key)).await.outcome(), (409, true, ALL), "{path}");
        }
    });
}

/// The number of a connection, which the server puts into its data.
struct ConnectionNumber(u32);

/// Shows the number of the connection at each answer.
async fn show_number(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let mut response = next.call(request).await?;
    let number = response.request().conn_data::<ConnectionNumber>().map_or(0, |connection| connection.0);
    response.headers_mut().insert(HeaderName::from_static("x-connection"), number.into());
    Ok(response)
}

#[test]
fn sessions_and_connection_data_are_kept_at_runs_replays_and_refusals() {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let idempotency = Idempotency::in_memory();
        let app = move || {
            let on_every_request =
                PersistentSession::default().session_ttl_extension_policy(TtlExtensionPolicy::OnEveryRequest);
            let session = SessionMiddleware::builder(CookieSessionStore::default(), cookie::Key::from(&[7; 64]));
            let session = session.cookie_secure(false).session_lifecycle(on_every_request).build();
            let pay = |session: Session| async move {
                session.insert("paid", true).unwrap();
                HttpResponse::Created().finish()
            };
            App::new()
                .app_data(web::Data::new(idempotency.clone()))
                .service(web::resource("/free").wrap(ExemptIdempotencyKey::default()).route(web::post().to(handler)))
                .route("/pay", web::post().to(pay))
                .wrap(IdempotencyKey::default())
                .wrap(from_fn(show_number))
                .wrap(session)
        };
        rt::System::new().block_on(async {
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.on_connect(|_, data| {
                data.insert(ConnectionNumber(42));
            });
            let server = server.bind("127.0.0.1:0").expect("a free port");
            let address = server.addrs()[0];
            let server = server.run();
            sender.send((address, server.handle())).expect("the test waits");
            server.await.expect("the server serves");
        });
    });
    let (address, handle) = receiver.recv().expect("the server starts");
    let pay = Request::post("/pay");
    let run = Connection::open(address).send(&pay.clone().key("k"));
    let cookie = run.value("set-cookie").expect("a session").split(';').next().unwrap().to_owned();
    let pay = pay.header("Cookie", &cookie);
    let replay = Connection::open(address).send(&pay.clone().key("k"));
    Connection::open(address).send(&pay.clone());
    let refusal = Connection::open(address).send(&pay);
    for (reply, status) in [(run, 201), (replay, 409), (refusal, 400)] {
        assert_eq!((reply.status, reply.value("x-connection")), (status, Some("42")), "{reply:?}");
        assert!(reply.values("set-cookie").iter().any(|cookie| cookie.starts_with("id=")), "{reply:?}");
    }
    drop(handle.stop(false));
}
