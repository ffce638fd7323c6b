//! Processes that are killed while they hold a claim.

use std::time::{Duration, Instant};

use super::fixture::Redis;
use crate::common::{Request, RunLog, eventually, fresh_key};

#[test]
fn the_key_of_a_killed_process_is_in_flight_until_its_lease_ends_then_one_takes_over() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let lease = [("IDEMPOTENCY_KEY__LOCK__LEASE", "1"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")];
    let mut doomed = redis.server(&log, &lease);
    let others = [redis.server(&log, &lease), redis.server(&log, &lease)];
    let hangs = Request::post("/slow?ms=100").key(&fresh_key());
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let mut connection = doomed.connect();
    connection.write(&request.bytes());
    log.wait_for("start", 1);
    doomed.kill();
    let killed = Instant::now();
    others[0].send(request.clone()).is_problem(423, "in-flight");
    // When the lease has ended, one of the other servers takes over. Further duplicates are in flight again.
    let mut taker = others[0].connect();
    eventually("a take-over", || {
        taker = others[0].connect();
        taker.write(&request.bytes());
        if log.count("start") == 2 { Ok(()) } else { Err(log.count("start")) }
    });
    assert!(killed.elapsed() >= Duration::from_millis(300), "no take-over before the lease ended");
    others[1].send(request).is_problem(423, "in-flight");
    assert_eq!(log.count("start"), 2);
    assert_eq!(others[1].send(hangs).status, 200, "other keys are not affected");
}

#[test]
fn with_on_unknown_reject_the_key_of_a_lost_owner_is_refused() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let settings = [("IDEMPOTENCY_KEY__LOCK__LEASE", "0.5"), ("IDEMPOTENCY_KEY__ON_UNKNOWN", "reject")];
    let mut doomed = redis.server(&log, &settings);
    let other = redis.server(&log, &settings);
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let mut connection = doomed.connect();
    connection.write(&request.bytes());
    log.wait_for("start", 1);
    doomed.kill();
    eventually("the end of the lease", || {
        let reply = other.send(request.clone());
        if reply.status == 409 { Ok(()) } else { Err(reply.status) }
    });
    other.send(request.clone()).is_problem(409, "outcome-unknown");
    other.send(request.body("another payload")).is_problem(422, "key-reused");
    assert_eq!(log.count("start"), 1);
    // With this setting, a panic leaves an unknown outcome, too.
    let key = fresh_key();
    assert_eq!(other.post("/panic", &key).status, 500);
    other.post("/panic", &key).is_problem(409, "outcome-unknown");
}

#[test]
fn a_look_up_tells_that_the_owner_is_lost() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let settings = [("IDEMPOTENCY_KEY__LOCK__LEASE", "0.5")];
    let mut doomed = redis.server(&log, &settings);
    let other = redis.server(&log, &settings);
    let (key, alice) = (fresh_key(), ("Authorization", "Bearer alice-1"));
    let request = Request::post("/async?ms=60000").key(&key).header(alice.0, alice.1).header("Prefer", "respond-async");
    assert_eq!(doomed.send(request).status, 202);
    let look = Request::get("/operations").key(&key).header(alice.0, alice.1);
    assert_eq!(other.send(look.clone()).status, 202);
    doomed.kill();
    // No request with the key notes the end of the lease.
    eventually("the end of lease and grace", || match other.send(look.clone()).status {
        409 => Ok(()),
        status => Err(status),
    });
    other.send(look).is_problem(409, "outcome-unknown");
}

#[test]
fn a_restarted_process_finds_what_was_stored() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let key = fresh_key();
    let mut server = redis.server(&log, &[]);
    let first = server.post("/items", &key);
    server.kill();
    let again = redis.server(&log, &[]).post("/items", &key);
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
}

#[test]
fn a_drained_process_leaves_no_key_locked() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let mut server = redis.server(&log, &[]);
    let request = Request::post("/slow?ms=500").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    log.wait_for("start", 1);
    connection.reset();
    server.terminate();
    eventually("the exit", || server.has_exited().map(drop).ok_or(()));
    assert!(redis.server(&log, &[]).send(request).is_replay());
    assert_eq!((log.count("start"), log.count("end")), (1, 1));
}
