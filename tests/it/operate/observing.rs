//! `mode = observe`: every request runs, and the outcome that enforcing would have had is only reported.

use actix_idempotency::key::RecordId;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::{Request, Server, at_once, fresh_key};

const OBSERVE: [(&str, &str); 2] =
    [("IDEMPOTENCY_KEY__MODE", "observe"), ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would-Be")];

#[test]
fn duplicates_run_and_are_reported() {
    let server = Server::start(&OBSERVE);
    let key = fresh_key();
    let first = server.post("/items", &key);
    assert_eq!((first.status, first.n(), first.value("x-would-be")), (201, 1, None));
    let again = server.post("/items", &key);
    assert_eq!((again.status, again.n(), again.is_replay()), (201, 2, false));
    assert_eq!(again.value("x-would-be"), Some("replayed"));
    let other = server.send(Request::post("/items").key(&key).body("other"));
    assert_eq!((other.status, other.value("x-would-be")), (201, Some("key-reused")));
    let none = server.send(Request::post("/items"));
    assert_eq!((none.status, none.value("x-would-be")), (201, Some("missing-key")));
    assert_eq!(server.runs("/items"), 4);
}

#[test]
fn duplicates_do_not_wait_for_each_other() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "60")]);
    let key = fresh_key();
    let replies = at_once(4, |_| server.post("/slow?ms=300", &key));
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    let in_flight = replies.iter().filter(|reply| reply.value("x-would-be") == Some("in-flight")).count();
    assert_eq!((in_flight, server.runs("/slow")), (3, 4));
}

/// With `mode = enforce` a body beyond the limit is refused. Here the handler gets all of it.
#[test]
fn a_body_that_would_be_refused_arrives_whole() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100000")]);
    let body: Vec<u8> = (0..100_001_u32).map(|n| n as u8).collect();
    let reply = server.send(Request::post("/items").key(&fresh_key()).body(body));
    assert_eq!((reply.status, reply.value("x-would-be")), (201, Some("body-too-large")));
    let sent: Vec<u8> = (0..200_001_u32).map(|n| n as u8).collect();
    let sha256 = RecordId::from_bytes(Sha256::digest(&sent).into()).to_string();
    let echo: Value = server.send(Request::post("/echo").key(&fresh_key()).body(sent)).json();
    assert_eq!((&echo["len"], &echo["sha256"]), (&json!(200_001), &json!(sha256)));
}

#[test]
fn a_body_that_would_be_refused_arrives_whole_in_however_many_pieces() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100")]);
    let sent: Vec<u8> = (0..250).collect();
    let sha256 = RecordId::from_bytes(Sha256::digest(&sent).into()).to_string();
    let mut connection = server.connect();
    connection.write(&Request::post("/echo").key(&fresh_key()).body(sent).chunked());
    let reply = connection.reply();
    let echo: Value = reply.json();
    assert_eq!((&echo["len"], &echo["sha256"]), (&json!(250), &json!(sha256)));
    assert_eq!(reply.value("x-would-be"), Some("body-too-large"));
}

#[test]
fn requests_run_when_the_store_is_full() {
    let server = Server::start(&[
        OBSERVE[0],
        OBSERVE[1],
        ("IDEMPOTENCY_KEY__STORAGE__MAX_ENTRIES", "1"),
        ("IDEMPOTENCY_KEY__STORAGE__ON_FULL", "reject"),
    ]);
    assert_eq!(server.post("/items", &fresh_key()).value("x-would-be"), None);
    let full = server.post("/items", &fresh_key());
    assert_eq!((full.status, full.value("x-would-be")), (201, Some("store-unavailable")));
}

/// actix-web drops the handler of a client that left. Observing must not change that.
#[test]
fn a_client_that_leaves_takes_its_handler_with_it() {
    let log = crate::common::RunLog::new();
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("RUN_LOG", log.path())]);
    let key = fresh_key();
    let mut client = server.connect();
    client.write(&Request::post("/slow?ms=500").key(&key).bytes());
    log.wait_for("start", 1);
    client.reset();
    // The key is free as soon as the handler is dropped. If it had gone on, the outcome of a duplicate would be
    // `in-flight`, and then `replayed`.
    let mut outcome = None;
    crate::common::eventually("the end of the dropped handler", || {
        outcome = server.post("/slow?ms=500", &key).value("x-would-be").map(str::to_owned);
        if outcome.as_deref() == Some("in-flight") { Err("in flight") } else { Ok(()) }
    });
    assert_eq!(outcome, None);
    assert_eq!(log.count("end"), log.count("start") - 1, "the first run was dropped before its end");
}

#[test]
#[cfg(feature = "redis")]
fn requests_run_while_the_store_is_down() {
    let mut redis = crate::store::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let server = redis.server(&log, &OBSERVE);
    redis.kill();
    let down = server.post("/items", &fresh_key());
    assert_eq!((down.status, down.value("x-would-be")), (201, Some("store-unavailable")));
}

/// A response that was only observed is never replayed to a client.
#[test]
#[cfg(feature = "redis")]
fn a_response_that_was_observed_is_not_replayed_after_the_switch_to_enforce() {
    let redis = crate::store::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let key = fresh_key();
    let observed = redis.server(&log, &OBSERVE);
    assert_eq!(observed.post("/items", &key).status, 201);
    // An observed response is written to a shared store in the background.
    crate::common::eventually("the response is stored", || match observed.post("/items", &key).value("x-would-be") {
        Some("replayed") => Ok(()),
        other => Err(other.map(str::to_owned)),
    });
    let enforced = redis.server(&log, &[]);
    assert_eq!(enforced.post("/items", &key).status, 201);
    assert!(enforced.post("/items", &key).is_replay());
}

/// Store calls whose answer nobody waits for must not count as lost answers. Once they did, and connections were
/// replaced because of them.
#[test]
#[cfg(feature = "redis")]
fn observing_keeps_its_connections() {
    let redis = crate::store::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let server = redis.server(&log, &OBSERVE);
    let made = || {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut redis.connect()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
        line.trim().parse::<u32>().unwrap()
    };
    let before = made();
    for _ in 0..10 {
        at_once(10, |_| server.post("/slow?ms=5", &fresh_key()));
    }
    let after = made();
    assert!(after < before + 15, "{} connections", after - before);
}

/// With `lock.enable = false` the record is claimed after the run, in the background.
#[test]
#[cfg(feature = "redis")]
fn an_operation_without_a_lock_is_observed_too() {
    let redis = crate::store::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let server = redis.server(&log, &[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__LOCK__ENABLE", "false")]);
    let key = fresh_key();
    crate::common::eventually("the response is stored", || match server.post("/items", &key).value("x-would-be") {
        Some("replayed") => Ok(()),
        other => Err(other.map(str::to_owned)),
    });
}
