//! `limits.fresh_per_principal`: how fast one principal may begin new operations.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Reply, Request, RunLog, Server, at_once, eventually, fresh_key};

/// Three at once, and the next one after 20 minutes.
const SLOW: (&str, &str) = ("IDEMPOTENCY_KEY__LIMITS__FRESH_PER_PRINCIPAL", "3/h");

fn of(principal: &str, request: Request) -> Request {
    request.header("Authorization", &format!("Bearer {principal}-1"))
}

fn alice(path: &str, key: &str) -> Request {
    of("alice", Request::post(path).key(key))
}

#[track_caller]
fn is_refused(reply: &Reply) {
    reply.is_problem(429, "too-many-keys");
    let wait: u64 = reply.value("retry-after").unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&wait), "{wait}");
}

/// Begins as many operations as alice may begin. Returns their keys.
fn use_up(server: &Server) -> [String; 3] {
    let keys = [(); 3].map(|()| fresh_key());
    for key in &keys {
        assert_eq!(server.send(alice("/items", key)).status, 201);
    }
    keys
}

#[test]
fn a_principal_begins_a_burst_and_then_waits_and_others_do_not() {
    let server = Server::start(&[SLOW]);
    use_up(&server);
    for path in ["/items", "/optional", "/manual", "/cache/a"] {
        is_refused(&server.send(alice(path, &fresh_key())));
    }
    assert_eq!((server.runs("/items"), server.runs("/cache/a")), (3, 0));
    for _ in 0..3 {
        assert_eq!(server.send(of("bob", Request::post("/items").key(&fresh_key()))).status, 201);
    }
    // Anonymous requests are no principal.
    assert!((0..10).all(|_| server.post("/items", &fresh_key()).status == 201));
}

#[test]
fn of_first_runs_at_the_same_time_no_more_than_the_burst_run() {
    let server = Server::start(&[SLOW]);
    let replies = at_once(16, |_| server.send(alice("/items", &fresh_key())));
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 3);
    replies.iter().filter(|reply| reply.status != 201).for_each(is_refused);
    assert_eq!(server.runs("/items"), 3);
}

/// The answers to requests that are no first runs are those of a server without the setting.
fn everything_but_first_runs_is_served(server: &Server) {
    let manual = fresh_key();
    assert_eq!(server.send(alice("/manual", &manual)).status, 201);
    let slow = fresh_key();
    let mut running = server.begin(&alice("/slow?ms=3000", &slow));
    server.wait_for_runs("/slow", 1);
    let stored = fresh_key();
    assert_eq!(server.send(alice("/items", &stored)).status, 201);
    for _ in 0..4 {
        is_refused(&server.send(alice("/items", &fresh_key())));
        assert!(server.send(alice("/items", &stored)).is_replay());
        server.send(alice("/items", &stored).body("another")).is_problem(422, "key-reused");
        let again = server.send(alice("/manual", &manual));
        assert_eq!((again.status, again.json::<Value>()["exists"].as_bool()), (201, Some(true)));
    }
    server.send(alice("/slow?ms=3000", &slow)).is_problem(423, "in-flight");
    assert_eq!(running.reply().status, 200);
    server.send(of("alice", Request::post("/items"))).is_problem(400, "missing-key");
    is_refused(&server.send(alice("/items", &fresh_key())));
    assert_eq!((server.runs("/items"), server.runs("/manual")), (1, 5));
}

/// A request that is refused leaves nothing at its key.
fn a_refused_key_is_free(server: &Server) {
    use_up(server);
    let key = fresh_key();
    is_refused(&server.send(alice("/items", &key).body("first")));
    let records: Value = server.send(of("alice", Request::get("/admin/records"))).json();
    assert_eq!(records["records"].as_array().unwrap().len(), 3, "{records}");
    // Another payload is no mismatch.
    is_refused(&server.send(alice("/items", &key).body("second")));
}

#[test]
fn over_memory() {
    everything_but_first_runs_is_served(&Server::start(&[SLOW]));
    a_refused_key_is_free(&Server::start(&[SLOW]));
}

#[test]
#[cfg(feature = "redis")]
fn over_redis() {
    for test in [everything_but_first_runs_is_served, a_refused_key_is_free] {
        let (redis, log) = (crate::store::redis::fixture::Redis::start(), RunLog::new());
        test(&redis.server(&log, &[SLOW]));
    }
}

#[test]
#[cfg(feature = "sqlite")]
fn over_sqlite() {
    for test in [everything_but_first_runs_is_served, a_refused_key_is_free] {
        let (folder, log) = (crate::store::sqlite::fixture::Folder::new(), RunLog::new());
        test(&crate::store::sqlite::fixture::server(&folder.new_file(), &log, &[SLOW]));
    }
}

#[test]
fn a_refused_request_runs_later_with_the_same_key() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__FRESH_PER_PRINCIPAL", "2/s")]);
    let refused = (0..1000).map(|_| fresh_key()).find(|key| server.send(alice("/items", key)).status == 429);
    let (key, start) = (refused.expect("one is refused"), Instant::now());
    let ran = server.runs("/items");
    eventually("room for one more", || match server.send(alice("/items", &key)) {
        reply if reply.status == 201 => Ok(()),
        reply => {
            reply.is_problem(429, "too-many-keys");
            assert_eq!(reply.value("retry-after"), Some("1"), "rounded up");
            assert!(start.elapsed() < Duration::from_secs(5), "one each half second");
            Err(reply.status)
        }
    });
    assert!(server.send(alice("/items", &key)).is_replay());
    assert_eq!(server.runs("/items"), ran + 1);
}

#[test]
fn a_run_whose_response_was_not_stored_counts_and_so_does_its_retry() {
    let server = Server::start(&[SLOW]);
    let key = fresh_key();
    for _ in 0..3 {
        assert_eq!(server.send(alice("/status/503", &key)).status, 503);
    }
    is_refused(&server.send(alice("/status/503", &key)));
    assert_eq!(server.runs("/status/503"), 3);
}

#[test]
fn a_run_that_goes_on_where_another_one_stopped_is_not_refused() {
    let server = Server::start(&[SLOW]);
    let key = fresh_key();
    let steps = || server.send(alice("/steps?fail=2", &key)).status;
    assert_eq!(steps(), 503);
    use_up_rest(&server);
    assert_eq!(steps(), 201);
}

/// Begins operations until one is refused.
fn use_up_rest(server: &Server) {
    eventually("a refusal", || match server.send(alice("/items", &fresh_key())).status {
        429 => Ok(()),
        status => Err(status),
    });
}

#[test]
#[cfg(feature = "sqlite")]
fn a_take_over_from_a_lost_owner_is_not_refused() {
    let (folder, log) = (crate::store::sqlite::fixture::Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut dies = crate::store::sqlite::fixture::server(&file, &log, &[SLOW]);
    let key = fresh_key();
    let _lost = dies.begin(&alice("/slow?ms=500", &key));
    dies.wait_for_runs("/slow", 1);
    dies.kill();
    let server = crate::store::sqlite::fixture::server(&file, &log, &[SLOW]);
    use_up(&server);
    is_refused(&server.send(alice("/slow?ms=1", &fresh_key())));
    assert_eq!(server.send(alice("/slow?ms=500", &key)).status, 200);
}

#[test]
fn a_client_that_would_get_a_202_is_refused_before() {
    let server = Server::start(&[SLOW]);
    let slow = || alice("/async?ms=400", &fresh_key()).header("Prefer", "respond-async");
    for _ in 0..3 {
        assert_eq!(server.send(slow()).status, 202);
    }
    let refused = server.send(slow());
    is_refused(&refused);
    assert_eq!((refused.value("location"), refused.value("preference-applied")), (None, None));
    assert_eq!(server.runs("/async"), 3);
}

#[test]
fn without_a_lock_first_runs_count_too() {
    let server = Server::start(&[SLOW, ("IDEMPOTENCY_KEY__LOCK__ENABLE", "false")]);
    let [key, ..] = use_up(&server);
    is_refused(&server.send(alice("/items", &fresh_key())));
    assert!(server.send(alice("/items", &key)).is_replay());
}

#[test]
fn an_observed_request_runs_and_its_outcome_is_reported() {
    let server =
        Server::start(&[SLOW, ("IDEMPOTENCY_KEY__MODE", "observe"), ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would-Be")]);
    let [key, ..] = use_up(&server);
    let refused = fresh_key();
    for request in [alice("/items", &refused), alice("/items", &refused).body("another")] {
        let reply = server.send(request);
        assert_eq!((reply.status, reply.value("x-would-be")), (201, Some("too-many-keys")), "{reply:?}");
    }
    assert_eq!(server.send(alice("/items", &key)).value("x-would-be"), Some("replayed"));
    let other = server.send(of("bob", Request::post("/items").key(&fresh_key())));
    assert_eq!((other.status, other.value("x-would-be")), (201, None));
    assert_eq!(server.runs("/items"), 7);
}

#[test]
fn clients_of_stripe_are_told_to_retry() {
    let server = Server::start(&[SLOW, ("IDEMPOTENCY_KEY__PROFILE", "stripe")]);
    use_up(&server);
    let refused = server.send(alice("/items", &fresh_key()));
    is_refused(&refused);
    assert_eq!(refused.value("stripe-should-retry"), Some("true"));
    let error = &refused.json::<Value>()["error"];
    assert_eq!((&error["type"], &error["code"]), (&"invalid_request_error".into(), &"too_many_keys".into()));
}
