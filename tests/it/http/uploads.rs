//! Request bodies under way: how long they may take, how many there may be, and which are refused before they are sent.

use serde_json::Value;

use crate::common::{Connection, Request, Server, eventually, fresh_key};

/// Sends a request but for the last byte of its body.
fn all_but_the_end(server: &Server, request: &Request) -> Connection {
    let bytes = request.bytes();
    let mut connection = server.connect();
    connection.write(&bytes[..bytes.len() - 1]);
    connection
}

#[test]
fn a_body_that_takes_too_long_is_refused_and_its_key_stays_free() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__BODY_TIMEOUT", "0.3")]);
    let request = Request::post("/items").key(&fresh_key()).body("0123456789");
    all_but_the_end(&server, &request).reply().is_problem(408, "body-timeout");
    assert_eq!(server.runs("/items"), 0);
    assert_eq!(server.send(request).status, 201);
}

#[test]
fn a_body_that_makes_progress_has_more_time() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__BODY_TIMEOUT", "0.3")]);
    // A minute for what has arrived.
    let request = Request::post("/items").key(&fresh_key()).body(vec![b'x'; 60 * 16 * 1024]);
    let mut connection = all_but_the_end(&server, &request);
    std::thread::sleep(std::time::Duration::from_millis(700));
    connection.write(b"x");
    assert_eq!(connection.reply().status, 201);
}

#[test]
fn slow_uploads_count_toward_the_operations_in_flight() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "2")]);
    let request = || Request::post("/items").key(&fresh_key()).body("0123456789");
    let mut uploads = [1, 2].map(|n| {
        let upload = all_but_the_end(&server, &request());
        eventually("the begin of an upload", || {
            let status: Value = server.send(Request::get("/admin/status")).json();
            if status["running"] == n { Ok(()) } else { Err(status) }
        });
        upload
    });
    server.send(request()).is_problem(503, "store-unavailable");
    assert_eq!(server.send(Request::post("/exempt")).status, 201, "other requests go on");
    for upload in &mut uploads {
        upload.write(b"9");
        assert_eq!(upload.reply().status, 201);
    }
    eventually("room again", || match server.send(request()).status {
        201 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn uploads_hold_no_more_bytes_than_max_buffered() {
    // One worker, so that no small body is under way when the upload arrives.
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_BUFFERED", "100kB"), ("WORKERS", "1")]);
    let request = |n: usize| Request::post("/items").key(&fresh_key()).body(vec![b'x'; n]);
    server.send(request(100_001)).is_problem(503, "store-unavailable");
    let mut upload = all_but_the_end(&server, &request(99_991));
    eventually("a refusal", || match server.send(request(20)).status {
        503 => Ok(()),
        status => Err(status),
    });
    assert_eq!(server.send(request(5)).status, 201, "there is room for a smaller one");
    upload.write(b"x");
    assert_eq!(upload.reply().status, 201);
    assert_eq!(server.send(request(99_991)).status, 201, "there is room again");
}

#[test]
fn a_body_announced_as_too_large_is_refused_before_it_is_sent() {
    let server = Server::start(&[]);
    for expect in [None, Some("100-continue")] {
        let request = Request::post("/echo").key(&fresh_key());
        let request = match expect {
            Some(expect) => request.header("Expect", expect),
            None => request,
        };
        let mut connection = server.connect();
        connection.write(&[&request.head()[..], b"Content-Length: 2097153\r\n\r\n"].concat());
        let mut reply = connection.reply();
        // actix-web answers the expectation before any middleware sees the request.
        while reply.status == 100 {
            reply = connection.reply();
        }
        reply.is_problem(413, "body-too-large");
    }
    assert_eq!(server.runs("/echo"), 0);
}

/// Such a request has no body, and actix-web takes everything that follows for one.
#[test]
fn a_request_that_wants_another_protocol_is_answered_without_a_wait_for_its_body() {
    let server = Server::start(&[]);
    let send = |request: Request| {
        let head = request.header("Connection", "Upgrade").header("Upgrade", "websocket").head();
        let mut connection = server.connect();
        connection.write(&[&head[..], b"\r\n"].concat());
        connection.reply_head().unwrap()
    };
    let request = Request::post("/items").key(&fresh_key());
    assert_eq!(send(request.clone()).status, 201);
    assert!(send(request).is_replay());
    assert_eq!(send(Request::post("/items")).status, 400);
    assert_eq!(send(Request::post("/items").key("\"open")).status, 400);
    assert_eq!(server.runs("/items"), 1);
    for body in ["buffer", "stream"] {
        let server = Server::start(&[("IDEMPOTENCY_KEY__BODY", body)]);
        let send = |path: &str, more: &str| {
            let mut connection = server.connect();
            let head = Request::post(path).key(&fresh_key()).header("Upgrade", "websocket").head();
            connection.write(&[&head[..], more.as_bytes()].concat());
            connection.reply_head().unwrap()
        };
        // An empty body has an end, with and without the header that goes with `Upgrade`.
        assert_eq!(send("/items", "Content-Length: 0\r\n\r\n").status, 201, "{body}");
        assert_eq!(send("/items", "Connection: Upgrade\r\nContent-Length: 0\r\n\r\n").status, 201, "{body}");
        // actix-web hides the end of another one.
        assert_eq!(send("/items", "Content-Length: 3\r\n\r\nabc").status, 400, "{body}");
        assert_eq!(send("/echo", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n").status, 200, "{body}");
        assert_eq!(server.runs("/items"), 2, "{body}");
    }
}
