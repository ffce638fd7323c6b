//! What clients written for Stripe and for other APIs go by: the shape of refusals, hints to retry, keys with every
//! method, and credentials in headers of their own.

use actix_idempotency::{Idempotency, IdempotencyKey, problem::Refusal};
use actix_web::{App, HttpResponse, http::header, test::init_service, web};
use serde_json::{Value, json};

use crate::common::{
    Reply, Request, Server, fresh_key,
    in_process::{alone, post, send},
};

const STRIPE: (&str, &str) = ("IDEMPOTENCY_KEY__PROFILE", "stripe");
const NO_WAIT: (&str, &str) = ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0");

/// A duplicate of a request that runs.
fn in_flight(server: &Server) -> Reply {
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let before = server.runs("/slow");
    let _running = server.begin(&request);
    server.wait_for_runs("/slow", before + 1);
    server.send(request)
}

fn reused(server: &Server) -> Reply {
    let key = fresh_key();
    assert_eq!(server.send(Request::post("/items").key(&key).body("a")).status, 201);
    server.send(Request::post("/items").key(&key).body("b"))
}

/// stripe-node throws only where the body has a member `error`; without it a refusal resolves as a success.
#[test]
fn in_profile_stripe_refusals_have_the_error_that_its_clients_go_by() {
    let server = Server::start(&[STRIPE, NO_WAIT]);
    for (reply, status, kind) in [
        (reused(&server), 400, "idempotency_error"),
        (in_flight(&server), 409, "api_error"),
        (server.send(Request::post("/items")), 400, "invalid_request_error"),
    ] {
        let body: Value = reply.json();
        assert_eq!((reply.status, &body["error"]["type"]), (status, &json!(kind)), "{body}");
        assert!(body["error"]["message"].is_string() && body["error"]["code"].is_string(), "{body}");
        assert!(body["type"].is_string() && body["title"].is_string(), "still problem details: {body}");
    }
    let ietf = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "ietf")]);
    assert_eq!(reused(&ietf).json::<Value>()["error"], Value::Null);
}

fn panic_on_purpose() -> &'static str {
    panic!("on purpose")
}

#[test]
fn an_application_can_shape_refusals() {
    alone(|| async {
        let shape = |refusal: &Refusal<'_>, response: HttpResponse| {
            let wait = refusal.retry_after.map(|wait| wait.as_secs());
            let body = json!({ "fault": refusal.name, "code": refusal.status.as_u16(), "wait": wait });
            let mut response = response.set_body(body.to_string()).map_into_boxed_body();
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            response
        };
        let idempotency = Idempotency::builder().refusal(shape).build().unwrap();
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let panics = || async { HttpResponse::Ok().body(panic_on_purpose()) };
        let app = app.route("/", web::post().to(HttpResponse::Created)).route("/panic", web::post().to(panics));
        let app = init_service(app).await;
        send(&app, post("/", Some("k"))).await;
        for (request, status, body) in [
            (post("/", None), 400, json!({ "fault": "missing-key", "code": 400, "wait": null })),
            (post("/", Some("k")).set_payload("x"), 422, json!({ "fault": "key-reused", "code": 422, "wait": null })),
            (post("/panic", Some("l")), 500, json!({ "fault": null, "code": 500, "wait": null })),
        ] {
            let (got, headers, bytes) = send(&app, request).await;
            assert_eq!(got.as_u16(), status);
            assert_eq!(headers.get("content-type").unwrap(), "application/json");
            assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), body);
        }
    });
}

/// Clients of these profiles send keys with every method that they retry.
#[test]
fn profiles_ietf_and_stripe_honour_a_key_with_every_unsafe_method_and_require_it_with_some() {
    for (profile, required) in [("ietf", &["POST", "PATCH"][..]), ("stripe", &["POST"])] {
        let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", profile)]);
        for method in ["POST", "PATCH", "PUT", "DELETE"] {
            let request = Request::new(method, "/items");
            let keyless = server.send(request.clone());
            assert_eq!(keyless.status == 400, required.contains(&method), "{profile} {method}: {keyless:?}");
            let request = request.key(&fresh_key());
            let first = server.send(request.clone());
            assert!(first.status < 300 && !first.is_replay(), "{profile} {method}: {first:?}");
            let again = server.send(request);
            assert!(again.is_replay(), "{profile} {method}: {again:?}");
            assert_eq!(again.body, first.body);
        }
    }
}

/// Many SDKs don't retry a 409, so a duplicate that is answered at once fails while the first try runs.
#[test]
fn in_profiles_ietf_and_stripe_a_duplicate_waits_for_the_first_answer() {
    for profile in ["ietf", "stripe"] {
        let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", profile)]);
        let request = Request::post("/slow?ms=700").key(&fresh_key());
        let mut running = server.begin(&request);
        server.wait_for_runs("/slow", 1);
        let again = server.send(request);
        assert_eq!((again.status, again.is_replay()), (200, true), "{profile}: {again:?}");
        assert_eq!(again.body, running.reply().body);
        assert_eq!(server.runs("/slow"), 1);
    }
}

#[test]
fn in_profile_stripe_answers_say_whether_to_retry() {
    let hints = |reply: &Reply| {
        ["stripe-should-retry", "x-should-retry"].map(|name| reply.value(name).unwrap_or("nothing").to_owned())
    };
    let server = Server::start(&[STRIPE, NO_WAIT]);
    let busy = in_flight(&server);
    assert_eq!((busy.status, hints(&busy)), (409, ["true", "true"].map(str::to_owned)));
    assert!(busy.value("retry-after").is_some());
    let request = Request::post("/status/500").key(&fresh_key());
    for replayed in [false, true] {
        let reply = server.send(request.clone());
        assert_eq!((reply.status, reply.is_replay()), (500, replayed));
        assert_eq!(hints(&reply), ["false", "false"].map(str::to_owned), "it is stored: {reply:?}");
    }
    assert_eq!(hints(&reused(&server)), ["false", "false"].map(str::to_owned));
    let chosen = Server::start(&[NO_WAIT, ("IDEMPOTENCY_KEY__SHOULD_RETRY_HEADERS", "X-Again")]);
    let busy = in_flight(&chosen);
    assert_eq!((busy.value("x-again"), hints(&busy)), (Some("true"), ["nothing", "nothing"].map(str::to_owned)));
    assert_eq!(in_flight(&Server::start(&[NO_WAIT])).value("x-should-retry"), None);
}

/// Once, B received A's answer.
#[test]
fn credentials_in_other_headers_than_authorization_tell_accounts_apart() {
    let server = Server::start(&[]);
    let send = |server: &Server, key: &str, name: &str, value: &str| {
        server.send(Request::post("/items").key(key).header(name, value))
    };
    for name in ["X-API-Key", "Api-Key", "X-Auth-Token"] {
        let key = fresh_key();
        let [a, b] = ["a", "b"].map(|account| send(&server, &key, name, account));
        assert_eq!((a.status, b.status), (201, 201), "{name}");
        assert_ne!(a.n(), b.n());
        for (account, first) in [("a", &a), ("b", &b)] {
            let again = send(&server, &key, name, account);
            assert!(again.is_replay(), "{name}: {again:?}");
            assert_eq!(again.body, first.body);
        }
    }
    let key = fresh_key();
    assert_eq!(send(&server, &key, "X-Account", "a").status, 201);
    assert!(send(&server, &key, "X-Account", "b").is_replay(), "a header that nobody has named");
    let server = Server::start(&[("IDEMPOTENCY_KEY__CREDENTIAL_HEADERS", "X-Account")]);
    for (account, status) in [("a", 201), ("b", 201), ("a", 409), ("b", 409)] {
        assert_eq!(send(&server, &key, "X-Account", account).status, status);
    }
}
