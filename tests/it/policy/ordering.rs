//! The wraps together with other middleware, in the orders that the docs recommend.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix_cors::Cors;
use actix_http::ConnectionType;
use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, Principal, guard};
use actix_session::{Session, SessionExt as _, SessionMiddleware, storage::CookieSessionStore};
use actix_web::{
    App, Error, HttpMessage as _, HttpResponse,
    body::{BoxBody, MessageBody},
    cookie,
    dev::{Service, ServiceRequest, ServiceResponse},
    http::Version,
    middleware::{Compat, Compress, DefaultHeaders, ErrorHandlers, Logger, Next, NormalizePath, from_fn},
    test::init_service,
    web,
};

use crate::common::in_process::{MARKER, alone, app, post, send};

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

async fn with_boxed_body(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, Error> {
    next.call(request).await
}

#[test]
fn a_layer_that_needs_a_boxed_body_goes_outside_with_compat_between() {
    alone(|| async {
        let whole = || async { HttpResponse::Created().body("whole") };
        let streamed = || async {
            let pieces = [Ok::<_, Error>(web::Bytes::from_static(b"stre")), Ok(web::Bytes::from_static(b"amed"))];
            HttpResponse::Created().streaming(futures_util::stream::iter(pieces))
        };
        let app = app!(
            .route("/whole", web::post().to(whole))
            .route("/streamed", web::post().to(streamed))
            .wrap(Compat::new(IdempotencyKey::default()))
            .wrap(from_fn(with_boxed_body))
        );
        for path in ["/whole", "/streamed"] {
            assert_eq!(send(&app, post(path, None)).await.0, 400);
            for (status, is_replay) in [(201, false), (409, true)] {
                let (answered, headers, body) = send(&app, post(path, Some(&path[1..]))).await;
                assert_eq!((answered.as_u16(), headers.contains_key(MARKER)), (status, is_replay), "{path}");
                assert_eq!(body, path[1..]);
            }
        }
    });
}

/// A replay is made without the inner service, which got the original request. Layers outside must still see the head
/// of that request in the response.
#[test]
fn layers_outside_see_the_head_of_a_replayed_request() {
    alone(|| async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let notes = seen.clone();
        let app = app!(
            .wrap(IdempotencyKey::default())
            .wrap_fn(move |mut request, service| {
                request.head_mut().set_connection_type(ConnectionType::Upgrade);
                let (notes, answer) = (notes.clone(), service.call(request));
                async move {
                    let response = answer.await?;
                    let (path, head) = (response.request().path(), response.request().head());
                    let mut lines: Vec<_> = head.headers.iter().map(|line| format!("{line:?}")).collect();
                    lines.sort();
                    let (method, peer) = (&head.method, head.peer_addr.unwrap());
                    let (uri, version, connection) = (&head.uri, head.version, head.connection_type());
                    notes.borrow_mut().push(format!("{method} {path} {uri} {version:?} {peer} {connection:?} {lines:?}"));
                    Ok(response)
                }
            })
            .service(web::resource("/free").wrap(ExemptIdempotencyKey::default()).route(web::post().to(HttpResponse::Created)))
            .route("/pay/{id}", web::post().to(HttpResponse::Created))
        );
        let ask = |key| {
            post("/pay/1%207?x=%20y", key)
                .version(Version::HTTP_10)
                .peer_addr("10.0.0.1:1".parse().unwrap())
                .append_header(("x-a", "1"))
                .append_header(("x-a", "2"))
        };
        for status in [201, 409, 409, 409] {
            assert_eq!(send(&app, ask(Some("k"))).await.0, status);
        }
        let seen = seen.take();
        assert_eq!(seen.len(), 4);
        assert!(
            seen[0].contains("POST /pay/1%207 /pay/1%207?x=%20y HTTP/1.0 10.0.0.1:1 Upgrade")
                && seen[0].contains("x-a")
        );
        assert!(seen.iter().all(|seen_later| *seen_later == seen[0]), "{seen:#?}");
    });
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
        // Another project replayed gzip bodies to clients that had not asked for gzip.
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
fn cors_goes_outside_and_each_answer_has_its_own_headers() {
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
                assert_eq!(allowed, [origin], "the origin of this request, once");
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
                "{user}: each user has their own keys"
            );
            let (status, headers, body) = send(&app, pay()).await;
            assert_eq!((status.as_u16(), headers.contains_key("set-cookie"), &body[..]), (409, false, &b"paid"[..]));
        }
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
