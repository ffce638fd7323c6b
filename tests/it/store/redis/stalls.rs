//! Redis stalls, restarts or forgets everything, or an owner is paused, while an operation runs. As long as its owner
//! lives, its key is not given away.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::fixture::Redis;
use crate::common::{Reply, Request, RunLog, Server, at_once, eventually, fresh_key};

/// Longer than the lease of 2 seconds, and shorter than lease and grace.
const STALL: Duration = Duration::from_millis(2300);

/// Duplicates wait until the first run has ended. The grace grows with the time that a call may take: it is 2.3 seconds.
const PATIENT: [(&str, &str); 3] = [
    ("IDEMPOTENCY_KEY__LOCK__LEASE", "2"),
    ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "15"),
    ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "1"),
];

/// Several keys, because chance decides whether Redis sees the owner or the duplicate first when it goes on.
const KEYS: usize = 5;

fn requests(path: &str) -> Vec<Request> {
    (0..KEYS).map(|_| Request::post(path).key(&fresh_key())).collect()
}

/// Sends a duplicate of each request, all at once.
fn are_answered_by(server: &Server, requests: &[Request], answers: &[Reply], log: &RunLog) {
    let replays = at_once(KEYS, |n| server.send(requests[n].clone()));
    for (replay, answer) in replays.iter().zip(answers) {
        assert!(replay.is_replay(), "{replay:?}");
        assert_eq!(replay.body, answer.body);
    }
    assert_eq!(log.count("start"), KEYS, "nothing ran again");
}

#[test]
fn a_stall_longer_than_the_lease_leaves_a_key_to_its_living_owner() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let [owner, other] = [0, 1].map(|_| redis.server(&log, &PATIENT));
    let requests = requests("/slow?ms=4500");
    let mut running: Vec<_> = requests.iter().map(|request| owner.begin(request)).collect();
    log.wait_for("start", KEYS);
    redis.freeze();
    // What these ask arrives as soon as Redis goes on, for some keys before the owner's renewal.
    let mut early: Vec<_> = requests.iter().map(|request| other.begin(request)).collect();
    sleep(STALL);
    redis.thaw();
    let replays = at_once(KEYS, |n| other.send(requests[n].clone()));
    assert_eq!(log.count("start"), KEYS, "no duplicate ran beside the owner");
    for (replay, running) in replays.iter().zip(&mut running) {
        let first = running.reply();
        assert_eq!((first.status, first.is_replay()), (200, false));
        assert!(replay.is_replay(), "{replay:?}");
        assert_eq!(replay.body, first.body);
    }
    for connection in &mut early {
        let reply = connection.reply();
        assert!(reply.status == 503 || reply.is_replay(), "{reply:?}");
    }
}

/// The clients have their answers before Redis does.
fn answers_outlast(outage: fn(&mut Redis), end: fn(&mut Redis)) {
    let (mut redis, log) = (Redis::persistent(), RunLog::new());
    let [owner, other] = [0, 1].map(|_| redis.server(&log, &PATIENT));
    let requests = requests("/slow?ms=700");
    let mut running: Vec<_> = requests.iter().map(|request| owner.begin(request)).collect();
    log.wait_for("start", KEYS);
    outage(&mut redis);
    let since = Instant::now();
    let answers: Vec<Reply> = running.iter_mut().map(|connection| connection.reply()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200 && !answer.is_replay()), "{answers:?}");
    sleep(STALL.saturating_sub(since.elapsed()));
    end(&mut redis);
    are_answered_by(&other, &requests, &answers, &log);
}

#[test]
fn answers_given_while_redis_stalled_longer_than_the_lease_are_replayed_by_other_processes() {
    answers_outlast(|redis| redis.freeze(), |redis| redis.thaw());
}

#[test]
fn answers_given_while_redis_was_restarted_are_replayed_by_other_processes() {
    answers_outlast(Redis::kill, Redis::run_again);
}

#[test]
fn an_owner_that_is_paused_for_less_than_lease_and_grace_keeps_its_key() {
    let (redis, log) = (Redis::start(), RunLog::new());
    // So that the grace is more than 4 seconds.
    let slow_calls = ("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "2");
    let [owner, other] = [0, 1].map(|_| redis.server(&log, &[PATIENT[0], PATIENT[1], slow_calls]));
    let hasty = redis.server(&log, &[PATIENT[0], ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0"), slow_calls]);
    let request = Request::post("/slow?ms=3500").key(&fresh_key());
    let mut running = owner.begin(&request);
    log.wait_for("start", 1);
    owner.pause();
    let mut waiting = other.begin(&request);
    eventually("the end of the lease", || {
        let lapsed: Value = hasty.send(Request::get("/admin/records?state=lapsed")).json();
        if lapsed["records"].as_array().is_some_and(|records| records.len() == 1) { Ok(()) } else { Err(lapsed) }
    });
    // It finds the lease over, and must leave the key alone until the grace is over too.
    hasty.send(request.clone()).is_problem(423, "in-flight");
    owner.resume();
    let first = running.reply();
    assert_eq!((first.status, first.is_replay()), (200, false));
    let replay = waiting.reply();
    assert!(replay.is_replay(), "{replay:?}");
    assert_eq!(replay.body, first.body);
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_claim_that_redis_has_lost_is_restored_while_its_owner_runs() {
    let (redis, log) = (Redis::start(), RunLog::new());
    let lease = [("IDEMPOTENCY_KEY__LOCK__LEASE", "1")];
    let [owner, other] = [0, 1].map(|_| redis.server(&log, &lease));
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let _running = owner.begin(&request);
    log.wait_for("start", 1);
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    eventually("the claim", || if redis.names().len() == 1 { Ok(()) } else { Err(redis.names()) });
    other.send(request.clone()).is_problem(423, "in-flight");
    other.send(request.body("another payload")).is_problem(422, "key-reused");
    assert_eq!(log.count("start"), 1);
}
