//! Keys that are in the query or in the body, by the setting `key_sources`.

use actix_idempotency::{Idempotency, IdempotencyKey, Policy, Settings, openapi, settings::ConfigError};
use actix_web::{
    App, HttpRequest, HttpResponse,
    http::{Method, header},
    test::{TestRequest, init_service},
    web,
};
use serde_json::Value;

use crate::common::{
    Request, Server, fresh_key,
    in_process::{Runs, alone, send},
};

const ALL: &str = "header:Idempotency-Key,json:/data/key,query:key,form:_key";

fn server(more: &[(&str, &str)]) -> Server {
    let mut settings = vec![("IDEMPOTENCY_KEY__KEY_SOURCES", ALL)];
    settings.extend(more);
    Server::start(&settings)
}

fn json(path: &str, body: &str) -> Request {
    Request::post(path).header("Content-Type", "application/json").body(body)
}

fn form(path: &str, body: &str) -> Request {
    Request::post(path).header("Content-Type", "application/x-www-form-urlencoded").body(body)
}

#[test]
fn a_key_is_found_in_each_of_its_places() {
    let server = server(&[]);
    for of in [
        |key: &str| Request::post("/items").key(key),
        |key: &str| json("/items", &format!("{{\"n\":1,\"data\":{{\"key\":\"{key}\"}}}}")),
        |key: &str| {
            let kind = "application/vnd.api+json; charset=utf-8";
            Request::post("/items").header("Content-Type", kind).body(format!("{{\"data\":{{\"key\":\"{key}\"}}}}"))
        },
        |key: &str| Request::post(&format!("/items?a=1&key={key}")),
        |key: &str| form("/items", &format!("a=1&_key={key}")),
    ] {
        let key = fresh_key();
        assert_eq!(server.send(of(&key)).status, 201);
        assert!(server.send(of(&key)).is_replay());
        assert!(!server.send(of(&fresh_key())).is_replay());
    }
    // The key is the same key wherever it is: this is another operation under it.
    let key = fresh_key();
    assert_eq!(server.send(Request::post("/items").key(&key)).status, 201);
    server.send(Request::post(&format!("/items?key={key}"))).is_problem(422, "key-reused");
}

#[test]
fn places_that_agree_have_one_key_and_others_none() {
    let server = server(&[]);
    let key = fresh_key();
    let twice = || json(&format!("/items?key={key}"), &format!("{{\"data\":{{\"key\":\"{key}\"}}}}")).key(&key);
    assert_eq!(server.send(twice()).status, 201);
    assert!(server.send(twice()).is_replay());
    for request in [
        Request::post("/items?key=a").key("b"),
        json("/items?key=a", r#"{"data":{"key":"b"}}"#),
        json("/items", r#"{"data":{"key":"b"}}"#).key("a"),
        form("/items", "_key=a").key("b"),
        form("/items", "_key=a&_key=a"),
        Request::post("/items?key=a&key=a"),
        json("/items", r#"{"data":{"key":"a","key":"a"}}"#),
        json("/items", r#"{"data":{},"data":{"key":"a"}}"#),
        json("/items", r#"{"data":{"key":7}}"#),
        json("/items", r#"{"data":{"key":""}}"#),
        Request::post("/items?key=%ff"),
    ] {
        server.send(request.clone()).is_problem(400, "invalid-key");
    }
    assert_eq!(server.send(Request::get("/runs")).body, b"{\"/items\":1}");
}

#[test]
fn what_is_no_json_has_no_key_there() {
    let server = server(&[]);
    let body = r#"{"data":{"key":"a"}}"#;
    for request in [
        json("/items", "{\"data\":{\"key\":\"a\"}"),
        json("/items", r#"{"data":{"key":null}}"#),
        json("/items", r#"{"data":{"keys":"a"}}"#),
        json("/items", body).header("Content-Encoding", "gzip"),
        Request::post("/items").body(body),
        Request::post("/items").header("Content-Type", "text/plain").body(body),
        form("/items", body),
        json("/items", "_key=a"),
    ] {
        let reply = server.send(request);
        reply.is_problem(400, "missing-key");
        let detail = reply.json::<Value>()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("`/data/key` of a JSON body") && detail.contains("`Idempotency-Key`"), "{detail}");
    }
}

#[test]
fn a_body_without_a_key_passes_where_none_is_needed() {
    let server = server(&[("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "64")]);
    let large = format!("{{\"data\":{{\"key\":\"a\"}},\"more\":\"{}\"}}", "x".repeat(100));
    for body in ["{}", large.as_str()] {
        for request in [json("/optional", body).bytes(), json("/optional", body).chunked()] {
            for _ in 0..2 {
                let mut connection = server.connect();
                connection.write(&request);
                let reply = connection.reply();
                assert!(reply.status == 201 && !reply.is_replay(), "{reply:?}");
            }
        }
    }
    server.send(json("/items", &large)).is_problem(413, "body-too-large");
    server.send(json("/optional", &large).key("k")).is_problem(413, "body-too-large");
    // An exempt route never looks.
    assert_eq!(server.send(json("/exempt", r#"{"data":{"key":7}}"#)).status, 201);
}

#[test]
fn a_handler_gets_what_its_client_sent_where_the_body_had_no_key() {
    alone(|| async {
        let mut settings = Settings::ietf();
        settings.key_sources = vec!["json:/key".parse().unwrap()];
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let runs = Runs::default();
        let counted = runs.clone();
        let handler = move |request: HttpRequest, body: web::Bytes| {
            counted.next();
            let coding = request.headers().get(header::ACCEPT_ENCODING).cloned();
            async move { HttpResponse::Ok().body(format!("{coding:?} {body:?}")) }
        };
        let wrap = IdempotencyKey::default().optional().using(&idempotency);
        let app = init_service(App::new().wrap(wrap).route("/", web::post().to(handler))).await;
        let ask = async |body: &'static str| {
            let request = TestRequest::post().uri("/").insert_header((header::CONTENT_TYPE, "application/json"));
            let request = request.insert_header((header::ACCEPT_ENCODING, "br")).set_payload(body);
            String::from_utf8(send(&app, request).await.2.to_vec()).unwrap()
        };
        let keyless = r#"Some("br") b"{\"n\":1}""#;
        assert_eq!((ask(r#"{"n":1}"#).await.as_str(), ask(r#"{"n":1}"#).await.as_str()), (keyless, keyless));
        assert_eq!(runs.0.get(), 2);
        let first = ask(r#"{"key":"k"}"#).await;
        assert_eq!(first, r#"None b"{\"key\":\"k\"}""#, "it is stored, so it must not be compressed");
        assert_eq!(ask(r#"{"key":"k"}"#).await, first);
        assert_eq!(runs.0.get(), 3);
    });
}

#[test]
fn observed_requests_run_whatever_their_bodies_have() {
    let server = server(&[
        ("IDEMPOTENCY_KEY__MODE", "observe"),
        ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would"),
        ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "64"),
    ]);
    let would = |request: Request| {
        let reply = server.send(request);
        assert_eq!(reply.status, 201);
        reply.value("x-would").map(str::to_owned)
    };
    assert_eq!(would(json("/items", "{}")).as_deref(), Some("missing-key"));
    assert_eq!(would(json("/items", r#"{"data":{"key":7}}"#)).as_deref(), Some("invalid-key"));
    assert_eq!(would(json("/items", r#"{"data":{"key":"a"}}"#)), None);
    assert_eq!(would(json("/items", r#"{"data":{"key":"a"}}"#)).as_deref(), Some("replayed"));
    let large = format!("{{\"more\":\"{}\"}}", "x".repeat(100));
    assert_eq!(would(json("/items", &large)).as_deref(), Some("body-too-large"));
    assert_eq!(would(json("/optional", &large)), None);
}

#[test]
fn sources_that_contradict_the_setting_header_are_an_error() {
    let with = |header: &str, sources: &[&str]| {
        let mut settings = Settings::default();
        settings.header = vec![header.parse().unwrap()];
        settings.key_sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        settings.check()
    };
    assert!(with("x-key", &["header:X-Key", "query:key"]).is_ok());
    assert!(with("idempotency-key", &["query:key"]).is_ok(), "the default of `header` says nothing");
    for sources in [&["query:key"][..], &["header:Idempotency-Key"]] {
        let refused = with("x-key", sources);
        assert!(matches!(&refused, Err(ConfigError::Combination(why)) if why.contains("key_sources")), "{refused:?}");
    }
    let output =
        Server::fails_to_start(&[("IDEMPOTENCY_KEY__KEY_SOURCES", "query:key"), ("IDEMPOTENCY_KEY__HEADER", "X-Key")]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("key_sources"));
}

#[test]
fn the_description_says_where_the_key_is() {
    let described = |sources: &[&str]| {
        let mut settings = Settings::default();
        settings.key_sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        let components: Value = serde_json::from_str(&openapi::components(&settings)).unwrap();
        let operation: Value =
            serde_json::from_str(&openapi::operation(&settings, &Method::POST, Policy::Required)).unwrap();
        (components, operation)
    };
    let (components, operation) = described(&["query:key"]);
    let parameter = &components["parameters"]["IdempotencyKey"];
    assert_eq!(
        (&parameter["name"], &parameter["in"], &parameter["required"]),
        (&"key".into(), &"query".into(), &true.into())
    );
    assert_eq!(operation["parameters"].as_array().unwrap().len(), 1);
    let (components, operation) = described(&["json:/idempotency_key"]);
    assert_eq!(operation["parameters"], Value::Array(Vec::new()));
    assert!(components["parameters"].as_object().unwrap().is_empty());
    let says = components["responses"]["Idempotency400"]["description"].as_str().unwrap();
    assert!(says.contains("`/idempotency_key` of a JSON body"), "{says}");
    let (components, _) = described(&["header:X-Key", "json:/idempotency_key"]);
    let parameter = &components["parameters"]["IdempotencyKey"];
    assert_eq!((&parameter["name"], &parameter["required"]), (&"X-Key".into(), &false.into()));
}
