//! Keys in the body under wraps that have others inside, and for clients that prefer an answer at once: the body is read
//! after the request was routed, or after a copy of it was.

use std::time::Duration;

use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey, Settings, guard};
use actix_service::Service as _;
use actix_web::{
    App, HttpMessage as _, HttpResponse,
    http::header,
    rt,
    test::{TestRequest, init_service},
    web,
};

use crate::common::in_process::{MARKER, Runs, alone, send};

fn idempotency() -> Idempotency {
    let mut settings = Settings::ietf();
    settings.key_sources = vec!["json:/data/key".parse().unwrap(), "header:Idempotency-Key".parse().unwrap()];
    settings.operations.path = Some("/operations".into());
    Idempotency::builder().settings(settings).build().unwrap()
}

fn json(path: &str, body: &str) -> TestRequest {
    let kind = (header::CONTENT_TYPE, "application/json");
    TestRequest::post().uri(path).insert_header(kind).set_payload(body.to_owned())
}

fn with_key(path: &str, key: &str) -> TestRequest {
    json(path, &format!("{{\"n\":1,\"data\":{{\"key\":\"{key}\"}}}}"))
}

/// A handler that counts its runs and answers with what it was sent.
fn counted(runs: &Runs) -> impl AsyncFn(String) -> HttpResponse + Clone + 'static {
    let runs = runs.clone();
    async move |body: String| HttpResponse::Created().body(format!("run {} of {body}", runs.next()))
}

macro_rules! handler {
    ($runs:expr) => {{
        let counted = counted(&$runs);
        move |body: String| {
            let counted = counted.clone();
            async move { counted(body).await }
        }
    }};
}

struct Guarded;

#[test]
fn wraps_inside_see_the_whole_body_and_govern_by_the_key_in_it() {
    alone(|| async {
        let (idempotency, runs) = (idempotency(), Runs::default());
        let wrap = || IdempotencyKey::default().using(&idempotency);
        let app = App::new()
            .service(web::resource("/inner").wrap(wrap()).route(web::post().to(handler!(runs))))
            .service(
                web::resource("/exempt").wrap(ExemptIdempotencyKey::default()).route(web::post().to(handler!(runs))),
            )
            .service(web::resource("/optional").wrap(wrap().optional()).route(web::post().to(handler!(runs))))
            .route("/declared", web::post().guard(guard::exempt()).to(handler!(runs)))
            .route("/plain", web::post().to(handler!(runs)))
            .wrap(wrap());
        let app = init_service(app).await;
        let ask = async |request: TestRequest| {
            let (status, headers, body) = send(&app, request).await;
            (status.as_u16(), headers.contains_key(MARKER), String::from_utf8(body.to_vec()).unwrap())
        };
        let body = |key: &str| format!("{{\"n\":1,\"data\":{{\"key\":\"{key}\"}}}}");
        let mut run = 0;
        let next = |run: &mut u32, key: &str| {
            *run += 1;
            format!("run {run} of {}", body(key))
        };
        for path in ["/plain", "/inner", "/optional"] {
            for _ in 0..2 {
                // A place is remembered after its first refusal.
                let (status, _, refusal) = ask(json(path, r#"{"n":1}"#)).await;
                if path == "/optional" {
                    run += 1;
                    assert_eq!((status, refusal), (201, format!("run {run} of {{\"n\":1}}")));
                } else {
                    assert_eq!((status, refusal.contains("/missing-key")), (400, true), "{path}: {refusal}");
                }
            }
            let key = format!("key-of{}", path.replace('/', "-"));
            let first = next(&mut run, &key);
            assert_eq!(ask(with_key(path, &key)).await, (201, false, first.clone()), "{path}");
            assert_eq!(ask(with_key(path, &key)).await, (201, true, first), "{path}");
            let another = json(path, &format!("{{\"n\":2,\"data\":{{\"key\":\"{key}\"}}}}"));
            assert_eq!(ask(another).await.0, 422, "{path}");
        }
        for path in ["/exempt", "/declared"] {
            for _ in 0..2 {
                assert_eq!(ask(with_key(path, "k")).await, (201, false, next(&mut run, "k")), "{path}");
            }
        }
        assert_eq!(ask(with_key("/nowhere", "k2")).await.0, 404);
    });
}

/// Without a key in its header, a request is asked itself before it is refused. One whose body may have the key, too.
#[test]
fn a_request_whose_body_has_no_key_is_not_refused_for_what_a_copy_said() {
    alone(|| async {
        let (idempotency, runs) = (idempotency(), Runs::default());
        let wrap = || IdempotencyKey::default().using(&idempotency);
        // A copy of a request has none of its extensions, so it takes the other route.
        let is_seen = |context: &actix_web::guard::GuardContext<'_>| context.req_data().contains::<Guarded>();
        let exempt = web::scope("").guard(actix_web::guard::fn_guard(is_seen)).wrap(ExemptIdempotencyKey::default());
        let app = App::new()
            .service(exempt.route("/", web::post().to(handler!(runs))))
            .route("/", web::post().to(handler!(runs)))
            .wrap(wrap())
            .wrap_fn(|request, service| {
                request.extensions_mut().insert(Guarded);
                service.call(request)
            });
        let app = init_service(app).await;
        for n in 1..4 {
            let (status, _, body) = send(&app, json("/", r#"{"n":1}"#)).await;
            assert_eq!((status.as_u16(), &*body), (201, format!("run {n} of {{\"n\":1}}").as_bytes()));
        }
        for n in 4..6 {
            let (status, headers, _) = send(&app, with_key("/", "k")).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER), runs.0.get()), (201, false, n));
        }
    });
}

#[test]
fn a_client_that_prefers_an_answer_at_once_may_have_its_key_in_the_body() {
    for is_nested in [false, true] {
        alone(move || async move {
            let (idempotency, runs) = (idempotency(), Runs::default());
            let counted = runs.clone();
            let slow = move |body: String| {
                let n = counted.next();
                async move {
                    rt::time::sleep(Duration::from_millis(150)).await;
                    HttpResponse::Created().body(format!("run {n} of {body}"))
                }
            };
            let wrap = IdempotencyKey::default().using(&idempotency).respond_async();
            let operations = web::scope("/operations").service(idempotency.operations_scope());
            let report = web::resource("/report").route(web::post().to(slow));
            let exempt = web::resource("/exempt").route(web::post().to(HttpResponse::Ok));
            let app = if is_nested {
                let inner = exempt.wrap(ExemptIdempotencyKey::default());
                App::new().service(operations).service(web::scope("").service(report).service(inner).wrap(wrap))
            } else {
                App::new().service(operations).service(web::scope("").service(report).service(exempt).wrap(wrap))
            };
            let app = init_service(app).await;
            let of_carol = |request: TestRequest| request.insert_header(("x-api-key", "carol"));
            let prefer = |request: TestRequest| of_carol(request.insert_header(("prefer", "respond-async")));
            let (status, headers, _) = send(&app, prefer(with_key("/report", "k"))).await;
            assert_eq!(status, 202);
            let location = headers.get("location").unwrap().to_str().unwrap().to_owned();
            let (status, headers, _) = send(&app, prefer(with_key("/report", "k"))).await;
            assert_eq!((status.as_u16(), headers.get("location").unwrap().to_str().unwrap()), (202, &*location));
            let look = |request: TestRequest| of_carol(request.insert_header(("prefer", "wait=9")));
            let by_key = TestRequest::get().uri("/operations").insert_header(("idempotency-key", "k"));
            for look_up in [look(TestRequest::get().uri(&location)), look(by_key)] {
                let (status, _, body) = send(&app, look_up).await;
                assert_eq!(status, 201);
                assert_eq!(body, r#"run 1 of {"n":1,"data":{"key":"k"}}"#);
            }
            let (status, headers, _) = send(&app, prefer(with_key("/report", "k"))).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER), runs.0.get()), (201, true, 1));
            let (status, _, body) = send(&app, prefer(json("/report", "{}"))).await;
            assert_eq!((status.as_u16(), body.windows(12).any(|part| part == b"/missing-key")), (400, true));
        });
    }
}
