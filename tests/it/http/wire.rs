//! Resets, closes, half-closes, cut bodies and other things that clients and networks do to connections.

use crate::common::{PATIENCE, Request, Server, eventually, fresh_key};

fn replayed(server: &Server, request: &Request) {
    eventually("a replay", || {
        let reply = server.send(request.clone());
        if reply.is_replay() { Ok(()) } else { Err(reply.status) }
    });
}

/// In another project, a client that left cancelled the handler: nothing was stored, and the retry ran again.
#[test]
fn the_operation_outlives_a_reset() {
    for middleware in ["required", "exempt"] {
        let server = Server::start(&[("MIDDLEWARE", middleware), ("IDEMPOTENCY_KEY__MANUAL", "/never")]);
        let path = if middleware == "required" { "/slow" } else { "/required" };
        let request =
            Request::post(if middleware == "required" { "/slow?ms=400" } else { "/required" }).key(&fresh_key());
        let mut connection = server.connect();
        connection.write(&request.bytes());
        server.wait_for_runs(path, 1);
        connection.reset();
        if middleware == "required" {
            let meanwhile = server.send(request.clone());
            assert!(meanwhile.status == 423 || meanwhile.is_replay(), "{meanwhile:?}");
        }
        replayed(&server, &request);
        assert_eq!(server.runs(path), 1);
    }
}

#[test]
fn the_operation_outlives_a_close_and_a_half_close() {
    let server = Server::start(&[]);
    for half in [false, true] {
        let before = server.runs("/slow");
        let request = Request::post("/slow?ms=300").key(&fresh_key());
        let mut connection = server.connect();
        connection.write(&request.bytes());
        server.wait_for_runs("/slow", before + 1);
        if half {
            connection.half_close();
            assert_eq!(connection.reply().status, 200, "a half-closed client gets its answer");
        } else {
            drop(connection);
        }
        replayed(&server, &request);
        assert_eq!(server.runs("/slow"), before + 1);
    }
}

#[test]
fn resets_at_every_stage_leave_one_run_and_no_locked_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "5")]);
    let request = |key: &str| Request::post("/slow?ms=20").key(key).body("0123456789");
    let length = request(&fresh_key()).bytes().len();
    for cut in (1..=length).step_by(7).chain([length - 1, length]) {
        let key = fresh_key();
        let mut connection = server.connect();
        connection.write(&request(&key).bytes()[..cut.min(request(&key).bytes().len())]);
        connection.reset();
        let reply = server.send(request(&key));
        assert!(reply.status == 200 || reply.is_replay(), "cut at {cut}: {reply:?}");
        assert!(server.send(request(&key)).is_replay());
    }
}

#[test]
fn on_disconnect_cancel_frees_the_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ON_DISCONNECT", "cancel")]);
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    connection.reset();
    let mut again = server.connect();
    eventually("the key is free", || {
        again = server.connect();
        again.write(&request.bytes());
        match server.runs("/slow") {
            1 => Err(1),
            _ => Ok(()),
        }
    });
}

#[test]
fn a_body_cut_short_leaves_nothing_behind() {
    let server = Server::start(&[]);
    for chunked in [false, true] {
        let request = Request::post("/echo").key(&fresh_key()).body("0123456789");
        let bytes = if chunked { request.chunked() } else { request.bytes() };
        let mut connection = server.connect();
        connection.write(&bytes[..bytes.len() - 7]);
        connection.half_close();
        if let Ok(reply) = connection.try_reply() {
            assert_eq!(reply.status, 400);
        }
        assert_eq!(server.runs("/echo"), u64::from(chunked));
        assert_eq!(server.send(request).status, 200, "the key is free");
    }
}

#[test]
fn a_malformed_chunk_is_a_bad_request() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    let head = Request::post("/echo").key(&fresh_key()).head();
    connection.write(&[&head[..], b"Transfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n"].concat());
    assert_eq!(connection.reply().status, 400);
    assert_eq!(server.runs("/echo"), 0);
    assert_eq!(server.send(Request::get("/healthz")).status, 200, "the worker still serves");
}

#[test]
fn pipelined_duplicates_are_answered_in_order() {
    let server = Server::start(&[]);
    let request = Request::post("/items").key(&fresh_key()).body("x");
    let mut connection = server.connect();
    connection.write(&request.bytes().repeat(3));
    assert_eq!(connection.reply().status, 201);
    assert!(connection.reply().is_replay());
    assert!(connection.reply().is_replay());
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let server = Server::start(&[]);
    let request = Request::post("/echo").key(&fresh_key()).header("Expect", "100-continue").body("late");
    let bytes = request.bytes();
    let (head, body) = bytes.split_at(bytes.len() - 4);
    let mut connection = server.connect();
    for again in [false, true] {
        connection.write(head);
        assert_eq!(connection.reply_head().unwrap().status, 100);
        connection.write(body);
        assert_eq!(connection.reply().is_replay(), again);
    }
}

#[test]
fn http_1_0_gets_a_length_and_never_chunks() {
    let server = Server::start(&[]);
    for path in ["/items", "/stream?chunks=3&size=5", "/status/204"] {
        let request = Request::post(path).key(&fresh_key());
        let old = String::from_utf8(request.bytes()).unwrap().replace("HTTP/1.1", "HTTP/1.0");
        let mut first = server.connect();
        first.write(old.as_bytes());
        assert!(first.reply().status < 300);
        let mut again = server.connect();
        again.write(old.as_bytes());
        let again = again.reply();
        assert!(again.is_replay() && again.value("content-length").is_some(), "{again:?}");
        assert_eq!(again.value("transfer-encoding"), None);
    }
}

#[test]
fn preconditions_and_ranges_of_a_retry_are_not_evaluated() {
    let server = Server::start(&[]);
    let request = Request::post("/items").key(&fresh_key());
    let first = server.send(request.clone());
    let conditional =
        request.header("If-None-Match", "\"v1\"").header("If-Match", "\"other\"").header("Range", "bytes=0-1");
    let again = server.send(conditional);
    assert_eq!((again.status, again.body), (409, first.body));
}

#[test]
fn get_and_head_never_get_a_stored_answer() {
    let server = Server::start(&[]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    let got = server.send(Request::get("/items").key(&key));
    assert!(!got.is_replay());
    assert_eq!(got.status, 200);
}

/// In another project, an exception of the handler left the key locked: every retry got a 409 for ever.
#[test]
fn a_panic_is_answered_and_frees_the_key() {
    let server = Server::start(&[("WORKERS", "1")]);
    let key = fresh_key();
    let mut connection = server.connect();
    for n in 1..=3 {
        let reply = connection.send(&Request::post("/panic").key(&key));
        assert_eq!(reply.status, 500, "{reply:?}");
        assert_eq!(reply.value("content-type"), Some("application/problem+json"));
        assert_eq!(server.runs("/panic"), n);
    }
    assert_eq!(connection.send(&Request::post("/items").key(&fresh_key())).status, 201, "the connection stays usable");
}

#[test]
fn with_on_unknown_reject_a_panic_leaves_the_outcome_unknown() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ON_UNKNOWN", "reject")]);
    let key = fresh_key();
    assert_eq!(server.post("/panic", &key).status, 500);
    server.post("/panic", &key).is_problem(409, "outcome-unknown");
    server.send(Request::post("/panic").key(&key).body("other")).is_problem(422, "key-reused");
    assert_eq!(server.runs("/panic"), 1);
    // A status that is not stored is a known outcome, so the key is free.
    let key = fresh_key();
    assert_eq!(server.post("/status/500", &key).status, 500);
    assert_eq!(server.post("/status/500", &key).status, 500);
    assert_eq!(server.runs("/status/500"), 2);
}

#[test]
fn lock_ttl_is_a_hard_ceiling() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TTL", "0.2"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "5")]);
    let request = Request::post("/slow?ms=1000").key(&fresh_key());
    let start = std::time::Instant::now();
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    let mut second = server.connect();
    second.write(&request.bytes());
    server.wait_for_runs("/slow", 2);
    assert!(start.elapsed() < PATIENCE);
    // Both ran, as the documentation of `lock.ttl` warns. The response of the owner that took over is stored.
    assert_eq!(first.reply().status, 200);
    let second = second.reply();
    let again = server.send(request);
    assert!(again.is_replay());
    assert_eq!(again.body, second.body);
}
