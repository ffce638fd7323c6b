//! Keys that clients send: which are accepted, and how the others are refused.

use actix_idempotency::{
    Principal,
    key::{Key, KeyRequest, Syntax},
};
use actix_web::http::{
    Method,
    header::{self, HeaderMap, HeaderValue},
};
use bytes::Bytes;

use crate::common::{Request, Server, fresh_key};

#[test]
fn malformed_keys_are_refused_and_nothing_runs() {
    let server = Server::start(&[]);
    let long = "k".repeat(256);
    for value in [
        "",
        "   ",
        "\"\"",
        "\"  \"",
        "\"open",
        "a b",
        "a,b",
        ":x",
        "@x",
        "=x",
        "\"a\"b",
        "\"a\";",
        "\u{e9}",
        long.as_str(),
    ] {
        for path in ["/items", "/optional", "/manual", "/guarded/optional"] {
            server.send(Request::post(path).key(value)).is_problem(400, "invalid-key");
        }
    }
    assert_eq!(server.send(Request::get("/runs")).body, b"{}");
}

#[test]
fn exempt_routes_do_not_look_at_keys() {
    let server = Server::start(&[]);
    for path in ["/exempt", "/guarded/exempt", "/ruled/exempt"] {
        assert_eq!(server.send(Request::post(path).key("\"open").key("twice")).status, 201);
    }
}

#[test]
fn a_key_comes_in_one_line() {
    let server = Server::start(&[]);
    server.send(Request::post("/items").key("k").key("k")).is_problem(400, "invalid-key");
    server
        .send(Request::post("/items").header("idempotency-KEY", "k").header("Idempotency-key", "l"))
        .is_problem(400, "invalid-key");
    assert_eq!(
        server.send(Request::post("/items").header("IDEMPOTENCY-KEY", "k")).status,
        201,
        "header names are case-insensitive"
    );
}

#[test]
fn a_missing_key_has_the_status_that_the_setting_names() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MISSING_KEY_STATUS_CODE", "428")]);
    server.send(Request::post("/items")).is_problem(428, "missing-key");
    server.send(Request::post("/items").key("a b")).is_problem(400, "invalid-key");
    assert_eq!(server.send(Request::post("/optional")).status, 201);
}

#[test]
fn a_key_outside_of_its_header_does_not_count() {
    let server = Server::start(&[]);
    server.send(Request::post("/items?Idempotency-Key=k")).is_problem(400, "missing-key");
    server.send(Request::post("/items").header("Idempotency_Key", "k")).is_problem(400, "missing-key");
    server.send(Request::post("/items").header("X-Idempotency-Key", "k")).is_problem(400, "missing-key");
}

#[test]
fn quoted_and_bare_forms_are_one_key_by_default() {
    let server = Server::start(&[]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    assert!(server.post("/items", &format!("\"{key}\"")).is_replay());
    assert!(server.post("/items", &format!("  \"{key}\";v=1 ")).is_replay());
    assert_eq!(server.post("/items", &key.to_uppercase()).status, 201, "key values are case-sensitive");
}

#[test]
fn strict_takes_quoted_keys_only() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__SYNTAX", "strict")]);
    server.post("/items", "8e03978e-40d5-43dd-bc93-6894a57f9324").is_problem(400, "invalid-key");
    for other in ["17", "?1", ":YQ==:", "@17", "tok", "(\"a\")", "\"a\", \"b\""] {
        server.post("/items", other).is_problem(400, "invalid-key");
    }
    assert_eq!(server.post("/items", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"; a=1").status, 201);
}

#[test]
fn raw_takes_keys_as_they_are() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__SYNTAX", "raw")]);
    assert_eq!(server.post("/items", "a;b,{c}").status, 201);
    assert_eq!(server.post("/items", "k").status, 201);
    assert_eq!(server.post("/items", "\"k\"").status, 201, "quotes are part of the key");
    assert_eq!(server.post("/items", " a b ").status, 201, "blanks inside, as Stripe's clients send them");
    assert!(server.post("/items", "a b").is_replay());
    server.post("/items", "a\tb").is_problem(400, "invalid-key");
}

/// Another project silently ignored keys of more than 32 characters, so every hyphenated UUID was unprotected.
#[test]
fn a_key_of_the_greatest_length_protects() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MAX_KEY_LENGTH", "36")]);
    let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    assert_eq!(server.post("/items", &format!("\"{uuid}\"")).status, 201, "quotes do not count toward the length");
    assert!(server.post("/items", uuid).is_replay());
    server.post("/items", &format!("{uuid}0")).is_problem(400, "invalid-key");
}

#[test]
fn another_header_can_carry_the_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__HEADER", "HTTP_X_REQUEST_KEY")]);
    server.post("/items", "k").is_problem(400, "missing-key");
    assert_eq!(server.send(Request::post("/items").header("X-Request-Key", "k")).status, 201);
}

/// Clients of several APIs send their keys to one route.
#[test]
fn any_of_several_headers_names_the_key_and_two_must_agree() {
    let names = "Idempotency-Key, PayPal-Request-Id, Cko-Idempotency-Key";
    let server = Server::start(&[("IDEMPOTENCY_KEY__HEADER", names)]);
    let with = |name: &str, key: &str| Request::post("/items").header(name, key);
    for name in names.split(", ") {
        let key = fresh_key();
        assert_eq!(server.send(with(name, &key)).status, 201, "{name}");
        assert!(server.send(with(name, &key)).is_replay(), "{name}");
        for other in names.split(", ").filter(|other| *other != name) {
            assert!(server.send(with(name, &key).header(other, &key)).is_replay(), "the same key in two headers");
            server.send(with(name, &key).header(other, "another")).is_problem(400, "invalid-key");
        }
    }
    server.send(with("X-Request-Key", "k")).is_problem(400, "missing-key");
}

/// Django took them.
#[test]
fn any_takes_whatever_a_header_can_carry() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__SYNTAX", "any")]);
    for key in ["a b", "caf\u{e9}", "\"open", "a,b;c=###", "a\tb", "\u{1f980}"] {
        assert_eq!(server.post("/items", key).status, 201, "{key:?}");
        assert!(server.post("/items", key).is_replay(), "{key:?}");
    }
    assert_eq!(server.post("/items", "\"a b\"").status, 201, "quotes are part of the key");
}

#[test]
fn the_connection_stays_usable_after_a_refusal() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send(&Request::post("/items").body("unread")).is_problem(400, "missing-key");
    connection.send(&Request::post("/items").key("\"").body("unread")).is_problem(400, "invalid-key");
    assert_eq!(connection.send(&Request::post("/items").key(&fresh_key()).body("x")).status, 201);
}

/// The body is larger than the buffers of a connection. If nobody read it, the connection would be lost with the
/// refusal.
#[test]
fn the_connection_stays_usable_after_a_refusal_with_a_large_body() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    let large = vec![b'x'; 1 << 20];
    for n in 0..3 {
        connection.send(&Request::post("/items").body(large.clone())).is_problem(400, "missing-key");
        connection.send(&Request::post("/items").key("\"").body(large.clone())).is_problem(400, "invalid-key");
        assert_eq!(connection.send(&Request::post("/items").key(&fresh_key())).status, 201, "{n}");
    }
}

#[test]
fn a_key_is_never_echoed() {
    let server = Server::start(&[]);
    let key = "Secret0123456789";
    let first = server.send(Request::post("/items").key(key).body("a"));
    let replies = [
        first,
        server.post("/items", key),
        server.post("/items", &format!("{key}\"")),
        server.send(Request::post("/items").key(key).key(key)),
    ];
    for reply in replies {
        let text = format!("{:?} {}", reply.headers, String::from_utf8_lossy(&reply.body));
        assert!(!text.contains(key), "{text}");
    }
}

/// An encoder of the application may log what it gets.
#[test]
fn a_request_shows_neither_key_nor_credentials_nor_body_to_a_log() {
    let key = Key::parse(b"secret-key", Syntax::Lenient, 255).unwrap();
    let principal = Principal::new("secret-subject");
    let mut headers = HeaderMap::new();
    for name in [header::AUTHORIZATION, header::COOKIE, header::HeaderName::from_static("x-api-key")] {
        headers.insert(name, HeaderValue::from_static("secret-credentials"));
    }
    let body = [Bytes::from_static(b"secret-body")];
    let request = KeyRequest::new(&key, &principal, &Method::POST, "/pay", "page=1", &headers, &body);
    let text = format!("{request:?} {:?} {key:?} {principal:?}", request.headers);
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn refusals_link_to_the_docs() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__DOCS_URL", "https://example.com/keys")]);
    let reply = server.send(Request::post("/items"));
    reply.is_problem(400, "missing-key");
    assert_eq!(reply.value("link"), Some("<https://example.com/keys>; rel=\"describedby\""));
}
