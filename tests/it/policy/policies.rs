//! The table of policies: what a key means at each kind of route, under a required and under an exempt App.

use crate::common::{Reply, Request, Server, fresh_key};

/// Four answers: without a key, with a new key, with the same key again, and with the same key and another payload.
fn four(server: &Server, path: &str) -> [Reply; 4] {
    let key = fresh_key();
    let send = |request: Request, body: &str| server.send(request.body(body));
    [
        send(Request::post(path), "a"),
        send(Request::post(path).key(&key), "a"),
        send(Request::post(path).key(&key), "a"),
        send(Request::post(path).key(&key), "b"),
    ]
}

fn needs_key(server: &Server, path: &str) {
    let [none, first, again, other] = four(server, path);
    none.is_problem(400, "missing-key");
    assert_eq!((first.status, first.n(), first.is_replay()), (201, 1, false), "{path}");
    assert_eq!((again.status, again.n(), again.is_replay()), (409, 1, true), "{path}");
    other.is_problem(422, "key-reused");
    assert_eq!(server.runs(path), 1);
}

fn may_have_key(server: &Server, path: &str) {
    let [none, first, again, other] = four(server, path);
    assert_eq!((none.status, none.n()), (201, 1), "{path}");
    assert_eq!((first.status, first.n(), first.is_replay()), (201, 2, false), "{path}");
    assert_eq!((again.status, again.n(), again.is_replay()), (409, 2, true), "{path}");
    other.is_problem(422, "key-reused");
    assert_eq!(server.runs(path), 2);
}

fn ignores_keys(server: &Server, path: &str) {
    for (n, reply) in (1..).zip(four(server, path)) {
        assert_eq!((reply.status, reply.n(), reply.is_replay()), (201, n, false), "{path}");
    }
}

fn decides_itself(server: &Server, path: &str) {
    let [none, first, again, other] = four(server, path);
    none.is_problem(400, "missing-key");
    let said = |reply: &Reply| {
        let json: serde_json::Value = reply.json();
        (reply.status, json["n"].as_u64(), json["exists"].as_bool(), json["stored_status"].as_u64())
    };
    assert_eq!(said(&first), (201, Some(1), Some(false), None), "{path}");
    assert_eq!(said(&again), (201, Some(2), Some(true), Some(201)), "{path}");
    let stored: serde_json::Value = again.json();
    assert_eq!(
        stored["stored_body"].as_str().unwrap().as_bytes(),
        &first.body[..],
        "the handler finds the body of the previous call"
    );
    other.is_problem(422, "key-reused");
}

#[test]
fn under_a_required_app_the_innermost_governs() {
    let server = Server::start(&[]);
    for path in ["/items", "/required", "/guarded/required", "/cache/a"] {
        needs_key(&server, path);
    }
    for path in ["/optional", "/guarded/optional"] {
        may_have_key(&server, path);
    }
    for path in ["/exempt", "/guarded/exempt", "/ruled/exempt"] {
        ignores_keys(&server, path);
    }
    for path in ["/manual", "/guarded/manual"] {
        decides_itself(&server, path);
    }
}

#[test]
fn under_an_exempt_app_routes_opt_in() {
    let server = Server::start(&[("MIDDLEWARE", "exempt")]);
    for path in ["/items", "/exempt", "/guarded/exempt", "/ruled/exempt"] {
        ignores_keys(&server, path);
    }
    for path in ["/required", "/guarded/required", "/cache/b"] {
        needs_key(&server, path);
    }
    for path in ["/optional", "/guarded/optional"] {
        may_have_key(&server, path);
    }
    for path in ["/manual", "/guarded/manual"] {
        decides_itself(&server, path);
    }
}

#[test]
fn caches_are_independent() {
    let server = Server::start(&[]);
    let key = fresh_key();
    for (n, path) in (1..).zip(["/cache/a", "/cache/b", "/items"]) {
        assert_eq!(server.post(path, &key).status, 201, "{n}: the key is new in each cache");
        assert_eq!(server.post(path, &key).status, 409);
    }
}

/// Without principals, the identical request of another user would get the response of the first user.
#[test]
fn principals_never_meet() {
    let server = Server::start(&[]);
    let key = fresh_key();
    let send = |token: Option<&str>, body: &str| {
        let request = Request::post("/items").key(&key).body(body);
        server.send(match token {
            Some(token) => request.header("Authorization", token),
            None => request,
        })
    };
    let alice = send(Some("Bearer alice-1"), "x");
    assert_eq!((alice.status, alice.n()), (201, 1));
    assert_eq!(send(Some("Bearer bob-1"), "x").n(), 2);
    assert_eq!(send(Some("Bearer bob-1"), "x").n(), 2);
    assert_eq!(send(None, "another payload").status, 201, "a run, not a mismatch");
    let rotated = send(Some("Bearer alice-2"), "x");
    assert_eq!((rotated.status, rotated.n()), (409, 1), "a rotated token is the same principal");
    assert_eq!(send(Some("Basic eve"), "x").status, 401);
}

#[test]
fn safe_methods_pass_whatever_their_keys() {
    let server = Server::start(&[]);
    for n in 1..=3 {
        let reply = server.send(Request::get("/items").key("\"malformed").key("twice"));
        assert_eq!((reply.status, reply.n()), (200, n));
    }
}

#[test]
fn every_unsafe_method_is_protected() {
    let server = Server::start(&[]);
    for method in ["PUT", "PATCH", "DELETE"] {
        let key = fresh_key();
        server.send(Request::new(method, "/items")).is_problem(400, "missing-key");
        assert_eq!(server.send(Request::new(method, "/items").key(&key)).status, 200);
        assert!(server.send(Request::new(method, "/items").key(&key)).is_replay());
        server.post("/items", &key).is_problem(422, "key-reused");
    }
}

#[test]
fn route_rules_come_from_settings_too() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__EXEMPT", "/items,/status/{code}"),
        ("IDEMPOTENCY_KEY__OPTIONAL", "/bytes"),
        ("IDEMPOTENCY_KEY__MANUAL", "/slow"),
    ]);
    ignores_keys(&server, "/items");
    assert_eq!(server.send(Request::post("/status/202")).status, 202);
    assert_eq!(server.send(Request::post("/bytes?size=1")).status, 200);
    assert_eq!(server.send(Request::post("/slow?ms=0")).status, 400);
    let key = fresh_key();
    for _ in 0..2 {
        assert!(!server.post("/slow?ms=0", &key).is_replay());
    }
    assert_eq!(server.runs("/slow"), 2, "a manual handler always runs");
}

#[test]
fn an_exempt_app_opts_in_by_settings_and_methods_have_no_case_there() {
    let server = Server::start(&[
        ("MIDDLEWARE", "exempt"),
        ("IDEMPOTENCY_KEY__REQUIRED", "/items"),
        ("IDEMPOTENCY_KEY__METHODS", "post,Patch"),
    ]);
    needs_key(&server, "/items");
    assert_eq!(server.send(Request::new("PUT", "/items")).status, 200);
    assert_eq!(server.send(Request::new("PATCH", "/items")).status, 400);
}

#[test]
fn a_manual_answer_that_is_not_stored_keeps_the_one_before() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "201"),
        ("IDEMPOTENCY_KEY__MANUAL", "/status/{code}"),
    ]);
    let key = fresh_key();
    assert_eq!(server.post("/manual", &key).status, 201);
    // The same key on another route is a mismatch, which leaves the record as it was.
    server.post("/status/500", &key).is_problem(422, "key-reused");
    let again: serde_json::Value = server.post("/manual", &key).json();
    assert_eq!(again["exists"], true);
}
