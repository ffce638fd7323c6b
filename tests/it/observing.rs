//! `mode = observe`: every request runs, and what would have become of it is only told.

use actix_idempotency::key::Fingerprint;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::{Request, Server, at_once, fresh_key};

const OBSERVE: [(&str, &str); 2] =
    [("IDEMPOTENCY_KEY__MODE", "observe"), ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would-Be")];

#[test]
fn duplicates_run_and_are_told_of() {
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
fn nobody_waits_for_anybody() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "60")]);
    let key = fresh_key();
    let replies = at_once(4, |_| server.post("/slow?ms=300", &key));
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    let in_flight = replies.iter().filter(|reply| reply.value("x-would-be") == Some("in-flight")).count();
    assert_eq!((in_flight, server.runs("/slow")), (3, 4));
}

/// A body beyond the limit would be refused; here the handler gets all of it.
#[test]
fn a_body_that_would_be_refused_arrives_whole() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100000")]);
    let body: Vec<u8> = (0..100_001_u32).map(|n| n as u8).collect();
    let reply = server.send(Request::post("/items").key(&fresh_key()).body(body));
    assert_eq!((reply.status, reply.value("x-would-be")), (201, Some("body-too-large")));
    let sent: Vec<u8> = (0..200_001_u32).map(|n| n as u8).collect();
    let sha256 = Fingerprint::from_bytes(Sha256::digest(&sent).into()).to_string();
    let echo: Value = server.send(Request::post("/echo").key(&fresh_key()).body(sent)).json();
    assert_eq!((&echo["len"], &echo["sha256"]), (&json!(200_001), &json!(sha256)));
}

#[test]
fn a_body_that_would_be_refused_arrives_whole_in_however_many_pieces() {
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100")]);
    let sent: Vec<u8> = (0..250).collect();
    let sha256 = Fingerprint::from_bytes(Sha256::digest(&sent).into()).to_string();
    let mut connection = server.connect();
    connection.write(&Request::post("/echo").key(&fresh_key()).body(sent).chunked());
    let reply = connection.reply();
    let echo: Value = reply.json();
    assert_eq!((&echo["len"], &echo["sha256"]), (&json!(250), &json!(sha256)));
    assert_eq!(reply.value("x-would-be"), Some("body-too-large"));
}

#[test]
fn a_store_that_is_full_harms_nobody() {
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

/// Actix drops the handler of a client that left: nothing is to change by being watched.
#[test]
fn a_client_that_leaves_takes_its_handler_with_it() {
    let log = crate::common::RunLog::new();
    let server = Server::start(&[OBSERVE[0], OBSERVE[1], ("RUN_LOG", log.path())]);
    let key = fresh_key();
    let mut client = server.connect();
    client.write(&Request::post("/slow?ms=500").key(&key).bytes());
    log.wait_for("start", 1);
    client.reset();
    // The key is free as soon as the handler is gone. Had it gone on, this would be told as in flight, and then as replayed.
    let mut told = None;
    crate::common::eventually("the handler is gone", || {
        told = server.post("/slow?ms=500", &key).value("x-would-be").map(str::to_owned);
        if told.as_deref() == Some("in-flight") { Err("in flight") } else { Ok(()) }
    });
    assert_eq!(told, None);
    assert_eq!(log.count("end"), log.count("start") - 1, "the first never came to its end");
}

#[test]
#[cfg(feature = "redis")]
fn a_store_that_is_down_harms_nobody() {
    let mut redis = crate::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let server = redis.server(&log, &OBSERVE);
    redis.kill();
    let down = server.post("/items", &fresh_key());
    assert_eq!((down.status, down.value("x-would-be")), (201, Some("store-unavailable")));
}

/// What was only watched is never the answer to anybody.
#[test]
#[cfg(feature = "redis")]
fn what_was_observed_is_not_replayed_when_it_is_enforced() {
    let redis = crate::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let key = fresh_key();
    let observed = redis.server(&log, &OBSERVE);
    assert_eq!(observed.post("/items", &key).status, 201);
    // Nobody waits for a shared store to have written it.
    crate::common::eventually("it is stored", || match observed.post("/items", &key).value("x-would-be") {
        Some("replayed") => Ok(()),
        other => Err(other.map(str::to_owned)),
    });
    let enforced = redis.server(&log, &[]);
    assert_eq!(enforced.post("/items", &key).status, 201);
    assert!(enforced.post("/items", &key).is_replay());
}

/// What nobody waits for must not look like a network that swallows answers: connections were thrown away for it.
#[test]
#[cfg(feature = "redis")]
fn observing_keeps_its_connections() {
    let redis = crate::redis::fixture::Redis::start();
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

/// Without a lock the record is claimed when the run is over, by which time nobody waits.
#[test]
#[cfg(feature = "redis")]
fn what_ran_without_a_lock_is_observed_too() {
    let redis = crate::redis::fixture::Redis::start();
    let log = crate::common::RunLog::new();
    let server = redis.server(&log, &[OBSERVE[0], OBSERVE[1], ("IDEMPOTENCY_KEY__LOCK__ENABLE", "false")]);
    let key = fresh_key();
    crate::common::eventually("it is stored", || match server.post("/items", &key).value("x-would-be") {
        Some("replayed") => Ok(()),
        other => Err(other.map(str::to_owned)),
    });
}
