//! Which responses are stored, and what a retry gets.

use crate::common::{Reply, Request, Server, fresh_key};

fn twice(server: &Server, request: &Request) -> (Reply, Reply) {
    let request = request.clone().key(&fresh_key());
    (server.send(request.clone()), server.send(request))
}

#[test]
fn a_replay_has_the_headers_and_the_body_of_the_first_answer() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none")]);
    let (first, again) = twice(&server, &Request::post("/headers"));
    assert_eq!(first.values("set-cookie").len(), 2, "the first answer is untouched");
    assert!(first.value("x-hop").is_some() && !first.is_replay());
    assert_eq!((again.status, &again.body, again.is_replay()), (201, &first.body, true));
    assert_eq!(
        again.values("link"),
        ["</first>; rel=\"first\"", "</second>; rel=\"second\""],
        "repeated headers keep their order"
    );
    for kept in ["vary", "x-app", "content-type"] {
        assert_eq!(again.value(kept), first.value(kept), "{kept}");
    }
    for not_stored in ["set-cookie", "x-hop", "keep-alive", "x-request-id"] {
        assert_eq!(again.value(not_stored), None, "{not_stored}");
    }
    assert_ne!(again.value("date"), Some("Tue, 15 Nov 1994 08:12:31 GMT"));
    assert_eq!(again.values("date").len(), 1);
    assert_eq!(again.value("content-length"), Some(first.body.len().to_string().as_str()));
    let (item, replayed) = twice(&server, &Request::post("/items"));
    for kept in ["location", "etag"] {
        assert_eq!(replayed.value(kept), item.value(kept));
    }
}

#[test]
fn cookies_and_other_headers_by_setting() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__REPLAY_COOKIES", "true"),
        ("IDEMPOTENCY_KEY__EXCLUDE_HEADERS", "Vary, x-app"),
        ("IDEMPOTENCY_KEY__REPLAY_HEADER", "X-Replay"),
    ]);
    let (_, again) = twice(&server, &Request::post("/headers"));
    assert_eq!(again.values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!((again.value("vary"), again.value("x-app"), again.value("x-replay")), (None, None, Some("true")));
    let unmarked = Server::start(&[("IDEMPOTENCY_KEY__REPLAY_HEADER", "none")]);
    assert_eq!(twice(&unmarked, &Request::post("/items")).1.value("idempotent-replayed"), None);
}

#[test]
fn by_default_200_to_207_are_stored_and_nothing_else() {
    let server = Server::start(&[]);
    for status in [200, 201, 202, 203, 204, 205, 206, 207] {
        let (first, again) = twice(&server, &Request::post(&format!("/status/{status}")));
        assert_eq!((first.status, again.status, again.is_replay()), (status, 409, true), "{status}");
        assert_eq!(again.body, first.body);
    }
    for status in [208, 226, 301, 302, 303, 304, 307, 308, 400, 401, 404, 409, 429, 500, 503] {
        let path = format!("/status/{status}");
        let (first, again) = twice(&server, &Request::post(&path));
        assert_eq!((first.status, again.status, again.is_replay()), (status, status, false), "{status}");
        assert_eq!(server.runs(&path), 2, "{status} frees the key");
    }
}

#[test]
fn profile_ietf() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "ietf"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")]);
    for status in [200, 201, 204, 205, 226, 302, 303, 400, 404, 409, 410, 422] {
        let (first, again) = twice(&server, &Request::post(&format!("/status/{status}")));
        assert_eq!((first.status, again.status, again.is_replay()), (status, status, true), "{status}");
        assert_eq!(again.body, first.body);
    }
    for status in [301, 304, 307, 308, 401, 403, 407, 408, 421, 423, 425, 429, 500, 503] {
        assert!(!twice(&server, &Request::post(&format!("/status/{status}"))).1.is_replay(), "{status}");
    }
    // Only POST and PATCH are protected.
    for method in ["PUT", "DELETE"] {
        assert_eq!(server.send(Request::new(method, "/items")).status, 200);
    }
    server.send(Request::new("PATCH", "/items")).is_problem(400, "missing-key");
    in_flight(&server, 409);
    mismatch(&server, 422);
    // An `Err` of the handler is treated like the response that it becomes.
    let (_, again) = twice(&server, &Request::post("/error/404"));
    assert!(again.is_replay());
    assert_eq!(again.status, 404);
    assert!(!twice(&server, &Request::post("/error/500")).1.is_replay());
}

#[test]
fn profile_stripe() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "stripe"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")]);
    for status in [200, 303, 400, 404, 500, 503] {
        let (first, again) = twice(&server, &Request::post(&format!("/status/{status}")));
        assert_eq!((first.status, again.status, again.is_replay()), (status, status, true), "{status}");
    }
    for status in [401, 429] {
        assert!(!twice(&server, &Request::post(&format!("/status/{status}"))).1.is_replay(), "{status}");
    }
    assert_eq!(server.send(Request::new("PATCH", "/items")).status, 200, "only POST needs a key");
    let patch = Request::new("PATCH", "/items").key(&fresh_key());
    assert_eq!(server.send(patch.clone()).status, 200);
    assert!(server.send(patch).is_replay(), "a key that is sent is honoured with every unsafe method");
    assert_eq!(server.post("/items", "any,visible;\"ascii\"").status, 201);
    in_flight(&server, 409);
    mismatch(&server, 400);
}

fn in_flight(server: &Server, status: u16) {
    let request = Request::post("/slow?ms=400").key(&fresh_key());
    let before = server.runs("/slow");
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", before + 1);
    server.send(request).is_problem(status, "in-flight");
    assert_eq!(first.reply().status, 200);
}

fn mismatch(server: &Server, status: u16) {
    let key = fresh_key();
    assert_eq!(server.send(Request::post("/items").key(&key).body("a")).status, 201);
    server.send(Request::post("/items").key(&key).body("b")).is_problem(status, "key-reused");
}

#[test]
fn the_default_profile_says_locked_while_the_first_runs() {
    in_flight(&Server::start(&[]), 423);
}

#[test]
fn a_404_or_405_of_the_router_is_not_stored() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__PROFILE", "ietf")]);
    for path in ["/nowhere", "/healthz"] {
        let (first, again) = twice(&server, &Request::post(path));
        assert!(matches!(first.status, 404 | 405), "{first:?}");
        assert_eq!((again.status, again.is_replay()), (first.status, false));
    }
    // A 405 of the handler itself is not stored either. A 404 of the handler is (see `profile_ietf`).
    assert!(!twice(&server, &Request::post("/status/405")).1.is_replay());
}

/// Other projects left parts of the request out: one hashed forms as if they were empty, and one compared nothing while
/// the first request still ran.
#[test]
fn everything_of_the_request_is_in_the_fingerprint() {
    let server = Server::start(&[]);
    let key = fresh_key();
    let base = Request::post("/echo?a=1").key(&key).header("Content-Type", "text/plain").body("body");
    assert_eq!(server.send(base.clone()).status, 200);
    for other in [
        Request::post("/echo?a=2").key(&key).header("Content-Type", "text/plain").body("body"),
        Request::post("/echo").key(&key).header("Content-Type", "text/plain").body("body"),
        Request::post("/echo/?a=1").key(&key).header("Content-Type", "text/plain").body("body"),
        Request::new("PUT", "/echo?a=1").key(&key).header("Content-Type", "text/plain").body("body"),
        Request::post("/echo?a=1").key(&key).header("Content-Type", "text/html").body("body"),
        Request::post("/echo?a=1").key(&key).header("Content-Type", "text/plain").body("bodY"),
        Request::post("/echo?a=1").key(&key).header("Content-Type", "text/plain"),
        base.clone().header("Content-Encoding", "identity"),
    ] {
        server.send(other).is_problem(422, "key-reused");
    }
    let changed = base
        .clone()
        .header("User-Agent", "x")
        .header("Accept", "y/z")
        .header("Cookie", "c=1")
        .header("Traceparent", "t");
    assert!(
        server.send(changed).is_replay(),
        "other headers do not count, and the mismatches left the record unchanged"
    );
    assert_eq!(server.runs("/echo"), 1);
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json"] {
        let key = fresh_key();
        let with = |body: &str| server.send(Request::post("/echo").key(&key).header("Content-Type", kind).body(body));
        assert_eq!(with("amount=1").status, 200);
        with("amount=2").is_problem(422, "key-reused");
    }
}

/// Another project hashed only the first megabyte of the body.
#[test]
fn all_of_a_large_body_is_in_the_fingerprint() {
    let server = Server::start(&[]);
    let key = fresh_key();
    let mut body = vec![b'x'; (2 << 20) - 1];
    assert_eq!(server.send(Request::post("/echo").key(&key).body(body.clone())).status, 200);
    assert!(server.send(Request::post("/echo").key(&key).body(body.clone())).is_replay());
    *body.last_mut().unwrap() = b'y';
    server.send(Request::post("/echo").key(&key).body(body)).is_problem(422, "key-reused");
}

/// Another project passed its state in a request header, and a client that sent this header hung the server.
#[test]
fn no_request_header_other_than_the_key_changes_the_state() {
    let server = Server::start(&[]);
    for path in ["/items", "/required", "/guarded/required"] {
        let key = fresh_key();
        let request = || {
            Request::post(path)
                .key(&key)
                .header("Idempotent-Replayed", "true")
                .header("Idempotency-Body", "omitted")
                .header("Idempotency-Key-Exists", "1")
                .header("X-Idempotency-Status", "completed")
        };
        let first = server.send(request());
        assert_eq!((first.status, first.is_replay()), (201, false));
        let again = server.send(request());
        assert_eq!((again.status, again.is_replay(), &again.body), (409, true, &first.body));
    }
}

#[test]
fn another_payload_is_refused_while_the_first_runs() {
    let server = Server::start(&[]);
    let request = Request::post("/slow?ms=500").key(&fresh_key());
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    server.send(request.clone().body("other")).is_problem(422, "key-reused");
    assert_eq!(first.reply().status, 200);
    assert!(server.send(request).is_replay());
}

#[test]
fn the_framing_of_a_body_does_not_count() {
    let server = Server::start(&[]);
    let request = Request::post("/echo").key(&fresh_key()).body("some body");
    let first = server.send(request.clone());
    assert_eq!(first.json::<serde_json::Value>()["len"], 9);
    let mut connection = server.connect();
    connection.write(&request.chunked());
    assert!(connection.reply().is_replay());
    // The request target in absolute form, then an empty body in each framing.
    let absolute = String::from_utf8(request.bytes()).unwrap().replace("POST /echo", "POST http://test/echo");
    connection.write(absolute.as_bytes());
    assert!(connection.reply().is_replay());
    let empty = Request::post("/echo").key(&fresh_key());
    assert_eq!(server.send(empty.clone()).status, 200);
    connection.write(&empty.chunked());
    assert!(connection.reply().is_replay());
    connection.write(&[&empty.head()[..], b"\r\n"].concat());
    assert!(connection.reply().is_replay());
}

#[test]
fn scope_endpoint_has_an_operation_per_method_and_path() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__SCOPE", "endpoint")]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    assert_eq!(server.send(Request::new("PUT", "/items").key(&key)).status, 200);
    assert!(!server.post("/echo", &key).is_replay());
    assert!(server.post("/items", &key).is_replay());
    server.send(Request::post("/items").key(&key).body("x")).is_problem(422, "key-reused");
}

#[test]
fn encoder_canonical_json_compares_the_values_of_bodies() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ENCODER", "canonical-json")]);
    let key = fresh_key();
    let send = |body: &str| {
        let request = Request::post("/echo").key(&key).header("Content-Type", "application/json");
        server.send(request.body(body))
    };
    assert_eq!(send(r#"{"amount":100,"currency":"EUR"}"#).status, 200);
    assert!(send("{ \"currency\": \"EUR\",\n \"amount\": 100 }").is_replay());
    send(r#"{"amount":101,"currency":"EUR"}"#).is_problem(422, "key-reused");
    assert_eq!(server.runs("/echo"), 1);
}

#[test]
fn encoder_django_has_another_record_per_payload() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ENCODER", "django")]);
    let key = fresh_key();
    let send = |path: &str, body: &str| server.send(Request::post(path).key(&key).body(body));
    assert_eq!(send("/items", "a").status, 201);
    assert_eq!(send("/items", "b").status, 201, "another body is another record");
    assert!(send("/items", "a").is_replay());
    assert!(!send("/echo", "a").is_replay());
    // Django knows neither queries nor content types.
    assert!(send("/items?a=1", "a").is_replay());
}

#[test]
fn a_body_over_the_limit_is_refused_whole() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "1000")]);
    let request = |n: usize| Request::post("/echo").key(&fresh_key()).body("x".repeat(n));
    assert_eq!(server.send(request(1000)).status, 200);
    server.send(request(1001)).is_problem(413, "body-too-large");
    let mut connection = server.connect();
    connection.write(&request(1001).chunked());
    connection.reply().is_problem(413, "body-too-large");
    assert_eq!(server.runs("/echo"), 1);
}

/// In another project, a response over the limit freed the key, and the retry ran a second time.
#[test]
fn a_response_over_the_limit_leaves_a_record_without_its_body() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "1000")]);
    for (path, omitted) in [
        ("/bytes?size=1000", false),
        ("/bytes?size=1001", true),
        ("/stream?chunks=10&size=100", false),
        ("/stream?chunks=11&size=100", true),
    ] {
        let (first, again) = twice(&server, &Request::post(path));
        assert!(first.body.len() >= 1000, "the first answer is complete");
        assert!(again.is_replay(), "{path}");
        if omitted {
            assert_eq!(
                (again.value("idempotency-body"), again.value("content-type"), &again.body[..]),
                (Some("omitted"), None, &b""[..])
            );
            assert_eq!(again.value("content-length"), Some("0"));
        } else {
            assert_eq!((again.value("idempotency-body"), &again.body), (None, &first.body));
        }
    }
}

#[test]
fn the_conflict_status_is_a_setting() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "208")]);
    let (first, again) = twice(&server, &Request::post("/items"));
    assert_eq!((first.status, again.status, &again.body), (201, 208, &first.body));
}

/// In another project, each replay was stored again, so that the record never expired.
#[test]
fn the_ttl_counts_from_completion() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__TTL", "1"), ("IDEMPOTENCY_KEY__CACHES__A__TTL", "1h")]);
    let key = fresh_key();
    let start = std::time::Instant::now();
    assert_eq!(server.post("/items", &key).status, 201);
    assert_eq!(server.post("/cache/a", &key).status, 201);
    let mut replays = 0;
    while server.post("/items", &key).is_replay() {
        replays += 1;
        assert!(start.elapsed().as_secs() < 10, "replays prolong the TTL");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(replays > 0 && start.elapsed().as_millis() >= 1000, "{replays} replays");
    assert!(server.post("/cache/a", &key).is_replay(), "cache a has its own, longer TTL");
}
