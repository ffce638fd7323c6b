//! A Redis that is down, frozen, full, read-only, or holds something else than records.

use std::time::{Duration, Instant};

use super::fixture::Redis;
use crate::common::{Request, RunLog, Server, at_once, eventually, fresh_key};

fn answers_503_quickly(server: &Server) {
    let start = Instant::now();
    for _ in 0..3 {
        server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

fn recovers(server: &Server) {
    eventually("recovery without a restart", || match server.post("/items", &fresh_key()).status {
        201 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn while_redis_is_down_nothing_runs_and_recovery_needs_no_restart() {
    let (mut redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
    redis.kill();
    answers_503_quickly(&server);
    assert_eq!(log.count("start"), 1);
    assert_eq!(server.send(Request::post("/exempt")).status, 201, "exempt routes need no store");
    assert_eq!(server.send(Request::post("/optional")).status, 201);
    // The new redis-server has none of the scripts in its cache.
    redis.run_again();
    recovers(&server);
}

#[test]
fn a_frozen_redis_costs_no_more_than_the_time_out() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[("WORKERS", "1")]);
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
    redis.freeze();
    let start = Instant::now();
    for reply in at_once(50, |_| server.post("/items", &fresh_key())) {
        reply.is_problem(503, "store-unavailable");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(log.count("start"), 1);
    redis.thaw();
    recovers(&server);
}

/// The response of such a run is not stored, so a client that was told to look for it would look in vain.
#[test]
fn an_unprotected_run_is_answered_directly() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__ON_ERROR", "run")]);
    let request = |key: &str| {
        let request = Request::post("/async?ms=1500").key(key).header("Authorization", "Bearer alice-1");
        server.send(request.header("Prefer", "respond-async"))
    };
    assert_eq!(request(&fresh_key()).status, 202);
    redis.freeze();
    assert_eq!(request(&fresh_key()).status, 200);
    redis.thaw();
}

#[cfg(feature = "encryption")]
#[test]
fn a_process_that_starts_without_the_index_key_while_redis_is_away_runs_nothing() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let index_key = "07".repeat(32);
    let keyed = [("IDEMPOTENCY_KEY__ENCRYPTION__INDEX_KEY", "env:INDEX"), ("INDEX", &*index_key)];
    let key = fresh_key();
    assert_eq!(redis.server(&log, &keyed).post("/items", &key).status, 201);
    redis.freeze();
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")]);
    redis.thaw();
    // Also after the first look has failed.
    for _ in 0..3 {
        server.post("/items", &key).is_problem(503, "store-unavailable");
    }
    let look = Request::get("/operations").key(&key).header("Authorization", "Bearer alice-1");
    server.send(look).is_problem(503, "store-unavailable");
    assert_eq!(log.count("start"), 1);
}

/// In another project, a claim call that timed out had been applied all the same, and its owner locked itself out.
#[test]
fn a_begin_that_timed_out_leaves_no_claim() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    server.post("/items", &fresh_key());
    redis.freeze();
    let key = fresh_key();
    server.post("/items", &key).is_problem(503, "store-unavailable");
    // Redis now applies the call that was sent. The claim is released in the background.
    redis.thaw();
    eventually("the key is free", || match server.post("/items", &key).status {
        201 => Ok(()),
        status => Err(status),
    });
    assert_eq!(log.count("start"), 2);
}

#[test]
fn with_on_error_run_requests_run_while_redis_is_down() {
    let (mut redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__ON_ERROR", "run")]);
    redis.kill();
    let key = fresh_key();
    for n in 1..=2 {
        assert_eq!(server.post("/items", &key).status, 201);
        assert_eq!(log.count("start"), n);
    }
}

#[test]
fn recovery_from_a_wrong_password_needs_no_restart() {
    let (mut redis, log) = (Redis::start_with(&["--requirepass", "secret"]), RunLog::new());
    let url = format!("redis://:secret@127.0.0.1:{}/0", redis.port);
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__LOCATION", &url)]);
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
    redis.kill();
    // With another password Redis refuses the handshake of a connection, and the client may keep that error.
    redis.arguments(&["--requirepass", "another"]);
    redis.run_again();
    answers_503_quickly(&server);
    redis.kill();
    redis.arguments(&["--requirepass", "secret"]);
    redis.run_again();
    recovers(&server);
}

#[test]
fn at_maxmemory_a_manual_claim_is_refused_and_leaves_the_record() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(
        &log,
        &[("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "200,201"), ("IDEMPOTENCY_KEY__MANUAL", "/stream")],
    );
    let key = fresh_key();
    assert_eq!(server.post("/manual", &key).status, 201);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut redis.connect()).unwrap();
    let again: serde_json::Value = server.post("/manual", &key).json();
    assert_eq!(
        again["type"].as_str().map(|kind| kind.ends_with("store-unavailable")),
        Some(true),
        "a new claim is refused"
    );
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec(&mut redis.connect()).unwrap();
    let again: serde_json::Value = server.post("/manual", &key).json();
    assert_eq!(again["exists"], true, "the refused claim left the record as it was");
}

/// In other projects, a write that failed after the run turned the success into an error, or led to a second run.
#[test]
fn when_redis_is_down_after_the_run_the_client_gets_its_answer_and_the_response_is_stored_later() {
    let (mut redis, log) = (Redis::persistent(), RunLog::new());
    let server = redis.server(&log, &[]);
    let request = Request::post("/slow?ms=700").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    log.wait_for("start", 1);
    redis.kill();
    let first = connection.reply();
    assert_eq!(first.status, 200, "{first:?}");
    assert!(!first.is_replay());
    // Until the response is stored, duplicates in this process are in flight and do not run.
    let meanwhile = server.send(request.clone());
    assert!(matches!(meanwhile.status, 423 | 503), "{meanwhile:?}");
    redis.run_again();
    let mut again = server.send(request.clone());
    eventually("the deferred write", || {
        again = server.send(request.clone());
        if again.is_replay() { Ok(()) } else { Err(again.status) }
    });
    assert_eq!(again.body, first.body);
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_flushed_redis_does_not_let_a_live_owners_duplicates_run_in_its_process() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    let request = Request::post("/slow?ms=600").key(&fresh_key());
    let mut connection = server.connect();
    connection.write(&request.bytes());
    log.wait_for("start", 1);
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    server.send(request.clone()).is_problem(423, "in-flight");
    assert_eq!(connection.reply().status, 200);
    assert!(server.send(request).is_replay(), "the owner's completion restores the record");
    assert_eq!(log.count("start"), 1);
}

#[test]
fn at_maxmemory_claims_are_refused_and_answers_still_stored() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__LOCK__LEASE", "0.6")]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    let request = Request::post("/slow?ms=1200").key(&fresh_key());
    let mut running = server.connect();
    running.write(&request.bytes());
    log.wait_for("start", 2);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut redis.connect()).unwrap();
    server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert!(server.post("/items", &key).is_replay(), "replays are reads");
    assert_eq!(running.reply().status, 200, "the claim is renewed and the response is stored at maxmemory");
    assert!(server.send(request).is_replay());
    assert_eq!(log.count("start"), 2);
}

#[test]
fn garbage_under_a_records_name_is_an_error_and_never_a_run() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    let key = fresh_key();
    server.post("/items", &key);
    let name = redis.names().pop().unwrap();
    let mut connection = redis.connect();
    let cases: [&[&[&str]]; 5] = [
        &[&["HSET", "r", "nonsense"]],
        &[&["HSET", "v", "2"]],
        &[&["HDEL", "v"]],
        &[&["HDEL", "r", "v"], &["HSET", "v", "1"]],
        &[&["DEL"], &["SET", "text"]],
    ];
    for commands in cases {
        for command in commands {
            redis::cmd(command[0]).arg(&name).arg(&command[1..]).exec(&mut connection).unwrap();
        }
        server.post("/items", &key).is_problem(503, "store-unavailable");
    }
    assert_eq!(log.count("start"), 1);
    let kept: String = redis::cmd("GET").arg(&name).query(&mut connection).unwrap();
    assert_eq!(kept, "text", "a value that is no record is not overwritten");
}

#[test]
fn a_record_with_a_damaged_field_is_an_error_and_never_a_run() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    let (key, mut connection) = (fresh_key(), redis.connect());
    let first = server.post("/items", &key);
    let name = redis.names().pop().unwrap();
    let mut set = |field: &str, value: &[u8]| {
        redis::cmd("HSET").arg(&name).arg(field).arg(value).exec(&mut connection).unwrap();
    };
    // State, fingerprint, owner, attempt and fence.
    for (field, damaged) in [
        ("s", &["", "?", "d", "7", "DD"][..]),
        ("f", &["", "short", "\0"]),
        ("o", &["", "short"]),
        ("a", &["", "x"]),
        ("n", &["", "x"]),
    ] {
        let good: Vec<u8> = redis::cmd("HGET").arg(&name).arg(field).query(&mut redis.connect()).unwrap();
        for value in damaged {
            set(field, value.as_bytes());
            server.post("/items", &key).is_problem(503, "store-unavailable");
        }
        set(field, &good);
        let again = server.post("/items", &key);
        assert!(again.is_replay() && again.body == first.body, "{field}: {again:?}");
    }
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_redis_that_became_a_replica_or_wants_a_password_is_an_outage() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let server = redis.server(&log, &[]);
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").exec(&mut redis.connect()).unwrap();
    answers_503_quickly(&server);
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut redis.connect()).unwrap();
    recovers(&server);
    let mut connection = redis.connect();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("secret").exec(&mut connection).unwrap();
    redis::cmd("AUTH").arg("secret").exec(&mut connection).unwrap();
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").exec(&mut connection).unwrap();
    answers_503_quickly(&server);
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("").exec(&mut connection).unwrap();
    recovers(&server);
    assert_eq!(log.count("start"), 3);
}
