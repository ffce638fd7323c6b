//! Streamed responses: the body is produced while it is sent.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Connection, Request, Server, eventually, fresh_key};

#[test]
fn a_stream_is_passed_on_as_it_is_produced_and_replayed_whole() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none")]);
    let request = Request::post("/stream?chunks=4&size=100&delay_ms=200").key(&fresh_key());
    let start = Instant::now();
    let mut connection = server.connect();
    connection.write(&request.bytes());
    assert_eq!(connection.reply_head().unwrap().status, 200);
    connection.some_bytes();
    assert!(start.elapsed() < Duration::from_millis(550), "the first chunk does not wait for the last");
    let first = server.send(request.clone());
    assert_eq!(first.status, 423, "in flight until the end of the body is stored");
    drop(connection);
    let mut again = server.send(request.clone());
    eventually("the stream is read to its end after its client has left", || {
        again = server.send(request.clone());
        if again.is_replay() { Ok(()) } else { Err(again.status) }
    });
    assert_eq!((again.status, again.body.len(), again.value("content-length")), (200, 400, Some("400")));
    assert_eq!(server.runs("/stream"), 1);
}

#[test]
fn a_client_that_saw_the_end_can_always_replay() {
    let server = Server::start(&[]);
    for _ in 0..50 {
        let request = Request::post("/stream?chunks=3&size=10").key(&fresh_key());
        let first = server.send(request.clone());
        let again = server.send(request);
        assert!(again.is_replay());
        assert_eq!(again.body, first.body);
    }
}

#[test]
fn a_failed_stream_is_never_replayed_and_frees_the_key() {
    let server = Server::start(&[]);
    let request = Request::post("/stream?chunks=5&size=10&fail_at=3").key(&fresh_key());
    for n in 1..=2 {
        let mut connection = server.connect();
        connection.write(&request.bytes());
        assert!(connection.try_reply().is_err(), "the answer broke off");
        eventually("the run", || if server.runs("/stream") == n { Ok(()) } else { Err(n) });
    }
    // The key is free also when the client left before the stream failed.
    let request = Request::post("/stream?chunks=5&size=10&delay_ms=50&fail_at=3").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    connection.some_bytes();
    connection.reset();
    eventually("the key is free", || match server.connect().try_send(&request) {
        Err(_) => Ok(()),
        Ok(reply) => Err(reply.status),
    });
    assert_eq!(server.runs("/stream"), 4);
}

#[test]
fn a_stream_that_does_not_end_in_time_is_stored_without_its_body() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__DRAIN_TIMEOUT", "0.3")]);
    let request = Request::post("/stream?chunks=1000&size=10&delay_ms=100").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    connection.some_bytes();
    connection.reset();
    let mut again = server.send(request.clone());
    eventually("an end", || {
        again = server.send(request.clone());
        if again.is_replay() { Ok(()) } else { Err(again.status) }
    });
    assert_eq!((again.value("idempotency-body"), again.body.len()), (Some("omitted"), 0));
    assert_eq!(server.runs("/stream"), 1);
}

#[test]
fn with_on_disconnect_cancel_an_abandoned_stream_frees_the_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ON_DISCONNECT", "cancel")]);
    let request = Request::post("/stream?chunks=1000&size=10&delay_ms=100").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    connection.some_bytes();
    connection.reset();
    eventually("a second run", || {
        let mut connection = server.connect();
        connection.write(&request.bytes());
        match connection.reply_head().unwrap().status {
            200 => Ok(()),
            status => Err(status),
        }
    });
}

#[test]
fn a_stream_that_is_always_ready_does_not_keep_its_worker() {
    let server = Server::start(&[("WORKERS", "1"), ("IDEMPOTENCY_KEY__LIMITS__DRAIN_TIMEOUT", "0.3")]);
    let request = Request::post("/stream?chunks=1000000000000&size=1").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    connection.some_bytes();
    connection.reset();
    assert_eq!(server.send(Request::get("/healthz")).status, 200);
    eventually("an end", || {
        let again = server.send(request.clone());
        if again.is_replay() { Ok(()) } else { Err(again.status) }
    });
}

/// Once, the record was written at the pace of the client, and the operation held its place among those in flight.
#[test]
fn a_stream_is_stored_at_its_own_pace_although_its_client_reads_nothing() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "16MiB"),
        ("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "1"),
    ]);
    // Larger than all buffers of a connection.
    let request = Request::post("/stream?chunks=800&size=10000").key(&fresh_key());
    let mut slow = Connection::open_narrow(server.address);
    slow.write(&request.bytes());
    server.wait_for_runs("/stream", 1);
    eventually("the end of the operation", || {
        let status: Value = server.send(Request::get("/admin/status")).json();
        if status["running"] == 0 { Ok(()) } else { Err(status) }
    });
    let again = server.send(request);
    assert!(again.is_replay(), "{:?}", again.headers);
    assert_eq!((server.runs("/stream"), again.body.len()), (1, 8_000_000));
    slow.widen();
    let first = slow.reply();
    assert_eq!((first.status, first.is_replay()), (200, false));
    assert!(first.body == again.body, "the client gets the whole body, of {} bytes", first.body.len());
}

#[test]
fn a_stream_that_fails_breaks_off_without_the_text_of_its_error() {
    let server = Server::start(&[]);
    // The pauses let the first chunks arrive: actix-web drops what it has not sent when a body fails.
    let request = Request::post("/stream?chunks=5&size=10&delay_ms=50&fail_at=3").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    let bytes = connection.rest();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("aaaaaaaaaa"), "{text}");
    assert!(!text.contains("failed") && !text.contains("asked"), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "the client can see that the end is missing: {text}");
}

#[test]
fn under_on_unknown_reject_a_stream_that_fails_bars_its_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__ON_UNKNOWN", "reject")]);
    let request = Request::post("/stream?chunks=5&size=10&fail_at=3").key(&fresh_key());
    assert!(server.connect().try_send(&request).is_err(), "the answer broke off");
    eventually("the outcome is unknown", || match server.send(request.clone()).status {
        409 => Ok(()),
        status => Err(status),
    });
    server.send(request).is_problem(409, "outcome-unknown");
    assert_eq!(server.runs("/stream"), 1);
}
