//! Concurrent duplicates in one process.

use std::sync::Mutex;

use crate::common::{Reply, Request, Server, at_once, fresh_key};

/// In other projects all concurrent duplicates ran: one released its lock right after the look-up, another had a store
/// per worker.
#[test]
fn of_200_concurrent_duplicates_one_runs() {
    let server = Server::start(&[
        ("WORKERS", "4"),
        ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10"),
        ("IDEMPOTENCY_KEY__LOCK__MAX_WAITERS", "1000"),
    ]);
    for path in ["/slow?ms=200", "/required", "/guarded/required", "/cache/a", "/optional"] {
        let request = Request::post(path).key(&fresh_key());
        let replies = at_once(200, |_| server.send(request.clone()));
        let name = path.split('?').next().unwrap();
        assert_eq!(server.runs(name), 1, "{path}");
        assert_eq!(replies.iter().filter(|reply| !reply.is_replay()).count(), 1, "{path}");
        assert!(replies.iter().all(|reply| reply.body == replies[0].body), "{path}: all answers are equal");
    }
}

#[test]
fn a_duplicate_waits_no_longer_than_lock_timeout() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0.05"), ("WORKERS", "1")]);
    let request = Request::post("/slow?ms=1500").key(&fresh_key());
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    server.send(request.clone()).is_problem(423, "in-flight");
    let mut waiting = server.connect();
    waiting.send(&request).is_problem(423, "in-flight");
    assert_eq!(first.reply().status, 200);
    assert!(waiting.send(&request).is_replay());
    assert_eq!(server.runs("/slow"), 1);
}

#[test]
fn waiters_beyond_max_waiters_are_answered_at_once() {
    let server =
        Server::start(&[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10"), ("IDEMPOTENCY_KEY__LOCK__MAX_WAITERS", "3")]);
    let request = Request::post("/slow?ms=600").key(&fresh_key());
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    let replies: Vec<Reply> = at_once(8, |_| server.send(request.clone()));
    assert_eq!(replies.iter().filter(|reply| reply.status == 423).count(), 5);
    assert_eq!(replies.iter().filter(|reply| reply.is_replay()).count(), 3);
    assert_eq!(first.reply().status, 200);
}

#[test]
fn manual_duplicates_run_one_at_a_time() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MANUAL", "/slow"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")]);
    let request = Request::post("/slow?ms=500").key(&fresh_key());
    let mut first = server.connect();
    first.write(&request.bytes());
    server.wait_for_runs("/slow", 1);
    server.send(request.clone()).is_problem(423, "in-flight");
    assert_eq!(first.reply().status, 200);
    assert_eq!(server.send(request).status, 200);
    assert_eq!(server.runs("/slow"), 2);
}

#[test]
fn ten_thousand_keys_in_random_order_run_once_each() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10")]);
    let keys: Vec<String> = (0..10_000).map(|_| fresh_key()).collect();
    // Each key five times, in an order that is random and the same in every run of the test.
    let mut sends: Vec<&String> = keys.iter().flat_map(|key| std::iter::repeat_n(key, 5)).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..sends.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sends.swap(i, (seed >> 33) as usize % (i + 1));
    }
    let queue = Mutex::new(sends.into_iter());
    at_once(8, |_| {
        let mut connection = server.connect();
        while let Some(key) = { queue.lock().unwrap().next() } {
            let reply = connection.send(&Request::post("/items").key(key));
            assert!(matches!(reply.status, 201 | 409), "{reply:?}");
        }
    });
    assert_eq!(server.runs("/items"), 10_000);
}

#[test]
fn without_the_lock_duplicates_may_run_and_later_ones_replay() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__ENABLE", "false"), ("WORKERS", "4")]);
    let request = Request::post("/slow?ms=300").key(&fresh_key());
    let replies = at_once(4, |_| server.send(request.clone()));
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(server.runs("/slow") > 1);
    let runs = server.runs("/slow");
    assert!(server.send(request.clone()).is_replay());
    server.send(request.body("other")).is_problem(422, "key-reused");
    assert_eq!(server.runs("/slow"), runs);
}

#[test]
fn operations_in_flight_are_bounded() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "2")]);
    let mut running: Vec<_> = (0..2)
        .map(|_| {
            let mut connection = server.connect();
            connection.write(&Request::post("/slow?ms=600").key(&fresh_key()).bytes());
            connection
        })
        .collect();
    server.wait_for_runs("/slow", 2);
    server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert_eq!(server.send(Request::post("/exempt")).status, 201, "unprotected requests are not limited");
    for connection in &mut running {
        assert_eq!(connection.reply().status, 200);
    }
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
}
