//! Layers inside of a wrap: authentication in the wrong place, errors, and compression.

use std::{cell::Cell, fmt};

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, Principal, Settings, guard};
use actix_web::{
    App, Error, HttpMessage as _, HttpRequest, HttpResponse, ResponseError,
    body::{MessageBody, to_bytes},
    dev::{Service as _, ServiceRequest, ServiceResponse},
    error::ErrorUnauthorized,
    http::{StatusCode, header::HeaderMap},
    middleware::{Compress, Next, from_fn},
    test::init_service,
    web,
};
use futures_util::stream;

use crate::common::in_process::{MARKER, Runs, alone, app, post, send};

/// The principal comes too late for a wrap outside of this layer.
async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let user = request.headers().get("x-user").and_then(|user| user.to_str().ok()).map(str::to_owned);
    request.extensions_mut().insert(Principal::new(user.ok_or_else(|| ErrorUnauthorized("who?"))?));
    next.call(request).await
}

/// Once, bob got alice's answer.
#[test]
fn what_runs_for_a_principal_that_was_named_inside_is_not_stored() {
    alone(|| async {
        let runs = Runs::default();
        let secret = move |request: HttpRequest| {
            let n = runs.next();
            async move {
                let whose = request.extensions().get::<Principal>().unwrap().subject().unwrap().to_owned();
                let text = format!("{n} secret of {whose}");
                if request.path() == "/whole" {
                    return HttpResponse::Created().body(text);
                }
                HttpResponse::Created().streaming(stream::iter([Ok::<_, Error>(web::Bytes::from(text))]))
            }
        };
        let app = app!(
            .wrap(from_fn(authenticate))
            .wrap(IdempotencyKey::default())
            .route("/whole", web::post().to(secret.clone()))
            .route("/stream", web::post().to(secret))
        );
        let mut n = 0;
        for path in ["/whole", "/stream"] {
            for user in ["alice", "bob", "bob"] {
                n += 1;
                let (status, headers, body) =
                    send(&app, post(path, Some(&path[1..])).insert_header(("x-user", user))).await;
                assert_eq!((status.as_u16(), headers.contains_key(MARKER)), (201, false), "{path} {user}");
                assert_eq!(body, format!("{n} secret of {user}"));
            }
        }
    });
}

/// An error that is another response each time it is rendered, as one with an id or a time is.
#[derive(Debug)]
struct Numbered(Cell<u32>);

impl fmt::Display for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbered")
    }
}

impl ResponseError for Numbered {
    fn status_code(&self) -> StatusCode {
        StatusCode::CONFLICT
    }

    fn error_response(&self) -> HttpResponse {
        self.0.set(self.0.get() + 1);
        HttpResponse::Conflict().insert_header(("x-n", self.0.get())).body(format!("rendering {}", self.0.get()))
    }
}

#[test]
fn the_error_of_a_layer_inside_is_rendered_once() {
    alone(|| async {
        async fn fail(_: ServiceRequest, _: Next<impl MessageBody>) -> Result<ServiceResponse, Error> {
            Err(Numbered(Cell::new(0)).into())
        }
        let idempotency = Idempotency::builder().settings(Settings::ietf()).build().unwrap();
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let inside = web::scope("/in").wrap(from_fn(fail)).route("", web::post().to(HttpResponse::Created));
        let app = init_service(app.service(inside)).await;
        let first = match app.call(post("/in", Some("k")).to_request()).await {
            Ok(response) => response.into_parts().1.map_into_boxed_body(),
            // As actix-web does with the error of an App.
            Err(error) => error.error_response(),
        };
        let n = |headers: &HeaderMap| headers.get("x-n").unwrap().to_str().unwrap().to_owned();
        let (status, first_n) = (first.status(), n(first.headers()));
        let first = to_bytes(first.into_body()).await.unwrap();
        let (again, headers, body) = send(&app, post("/in", Some("k"))).await;
        assert!(headers.contains_key(MARKER));
        assert_eq!((again, n(&headers), body), (status, first_n, first));
    });
}

fn text() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain").body("hello ".repeat(500))
}

fn coding(headers: &HeaderMap) -> Option<&str> {
    headers.get("content-encoding").map(|coding| coding.to_str().unwrap())
}

/// Once, gzip was stored there, and replayed to clients that accept none.
#[test]
fn under_an_exempt_app_a_guarded_route_stores_identity_although_compress_is_inside() {
    alone(|| async {
        let app = app!(
            .route("/pay", web::post().guard(guard::required()).to(|| async { text() }))
            .wrap(Compress::default())
            .wrap(ExemptIdempotencyKey::default())
        );
        let pay = || post("/pay", Some("k"));
        for request in [
            pay().insert_header(("accept-encoding", "gzip")),
            pay(),
            pay().insert_header(("accept-encoding", "identity")),
            pay().insert_header(("accept-encoding", "gzip;q=0")),
        ] {
            let (_, headers, body) = send(&app, request).await;
            assert_eq!((coding(&headers), body.len()), (None, 3000), "{headers:?}");
        }
    });
}

/// At a resource, a layer outside may hold a clone of the request. So its `Accept-Encoding` stays there.
#[test]
fn a_body_in_a_coding_that_a_client_does_not_accept_is_left_out_of_its_replay() {
    alone(|| async {
        let app = app!(.service(
            web::resource("/pay").wrap(Compress::default()).wrap(IdempotencyKey::default())
                .route(web::post().to(|| async { text() }))
        ));
        let pay = |accepts: &'static str| post("/pay", Some("k")).insert_header(("accept-encoding", accepts));
        let (_, headers, first) = send(&app, pay("gzip")).await;
        assert_eq!(coding(&headers), Some("gzip"));
        let (_, headers, body) = send(&app, pay("identity")).await;
        assert!(headers.contains_key(MARKER));
        assert_eq!((coding(&headers), body.len()), (None, 0));
        assert_eq!(headers.get("idempotency-body").unwrap(), "omitted");
        let (_, headers, body) = send(&app, pay("gzip")).await;
        assert_eq!((coding(&headers), body), (Some("gzip"), first));
    });
}

/// Answers with the `Accept-Encoding` that the handler finds, and a text long enough to be compressed.
async fn told(request: HttpRequest) -> HttpResponse {
    let accepts = request.headers().get("accept-encoding").map_or("none", |value| value.to_str().unwrap());
    HttpResponse::Ok().content_type("text/plain").body(format!("{accepts} {}", "hello ".repeat(500)))
}

/// Sends requests that accept gzip to routes that a guard exempts: one alone, and one inside of a compressing layer.
async fn keeps_its_accept_encoding(keys: &[Option<&str>]) {
    let free = || web::post().guard(guard::exempt()).to(told);
    let app = app!(
        .route("/free", free())
        .service(web::scope("/in").wrap(Compress::default()).route("", free()))
        .wrap(IdempotencyKey::default())
    );
    for key in keys {
        let with = |path: &str| post(path, *key).insert_header(("accept-encoding", "gzip"));
        let (_, _, body) = send(&app, with("/free")).await;
        assert!(body.starts_with(b"gzip "), "{key:?}: {:?}", String::from_utf8_lossy(&body[..20]));
        let (_, headers, _) = send(&app, with("/in")).await;
        assert_eq!(coding(&headers), Some("gzip"), "{key:?}");
    }
}

#[test]
fn under_a_required_app_a_route_that_a_guard_exempts_keeps_its_accept_encoding() {
    alone(|| keeps_its_accept_encoding(&[None, None]));
}

/// A client may send keys with everything.
#[test]
fn under_a_required_app_a_route_that_a_guard_exempts_keeps_its_accept_encoding_beside_a_key() {
    alone(|| keeps_its_accept_encoding(&[Some("k"), Some("k"), Some("l")]));
}
