//! The check of Redis before the server listens.

use super::fixture::Redis;
use crate::common::{Request, RunLog, Server, eventually, fresh_key};

/// The error with which a server does not start.
fn start_error(redis: &Redis, more: &[(&str, &str)]) -> String {
    let url = redis.url();
    let mut variables =
        vec![("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"), ("IDEMPOTENCY_KEY__STORAGE__LOCATION", url.as_str())];
    variables.extend(more);
    let output = Server::fails_to_start(&variables);
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_evicting_redis_is_refused_with_the_danger_named() {
    let (redis, log) = (Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]), RunLog::new());
    let text = start_error(&redis, &[]);
    for word in ["maxmemory-policy", "allkeys-lru", "noeviction", "second time", "cache `a`"] {
        assert!(text.contains(word), "{text}");
    }
    let warned = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__ON_EVICTING", "warn")]);
    assert_eq!(warned.post("/items", &fresh_key()).status, 201);
}

#[test]
fn an_unreachable_redis_is_an_error_or_a_warning_by_setting() {
    let (mut redis, log) = (Redis::start(), RunLog::new());
    redis.kill();
    let text = start_error(&redis, &[]);
    assert!(text.contains("can't be reached") && text.contains("refused"), "{text}");
    let server = redis.server(&log, &[("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")]);
    server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    redis.run_again();
    eventually("recovery", || match server.send(Request::post("/items").key(&fresh_key())).status {
        201 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn a_wrong_password_and_a_replica_are_refused() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let text = start_error(&redis, &[]);
    assert!(text.contains("NOAUTH") || text.contains("uthentication"), "{text}");
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]);
    assert!(start_error(&cluster, &[]).contains("cluster"));
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", "1"]);
    assert!(start_error(&replica, &[]).contains("replica"));
}

#[test]
fn a_redis_that_denies_info_is_a_warning() {
    let (redis, log) = (Redis::start(), RunLog::new());
    redis::cmd("ACL").arg(&["SETUSER", "default", "-info"]).exec(&mut redis.connect()).unwrap();
    assert_eq!(redis.server(&log, &[]).post("/items", &fresh_key()).status, 201);
}

#[test]
fn a_location_that_is_no_redis_url_is_an_error() {
    let output = Server::fails_to_start(&[
        ("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"),
        ("IDEMPOTENCY_KEY__CACHES__A__LOCATION", "http://user:secret@example.com"),
    ]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("caches.a.location") && !text.contains("secret"), "{text}");
}
