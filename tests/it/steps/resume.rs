//! Servers that fail and die in the middle of an operation, whose retry goes on.

use std::collections::BTreeSet;

use crate::common::{Reply, Request, RunLog, Server, eventually, fresh_key};
#[cfg(feature = "redis")]
use crate::store::redis::fixture::Redis;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::fixture::{Folder, server as sqlite};

const V2: (&str, &str) = ("IDEMPOTENCY_KEY__PROFILE", "stripe-v2");

/// The steps of a log: which process ran which, under which key, with which result.
fn steps(log: &RunLog) -> Vec<[String; 4]> {
    let text = std::fs::read_to_string(log.path()).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix("step "));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            [words[1], words[2], words[3], words[4]].map(str::to_owned)
        })
        .collect()
}

/// Each step ran once, each under a key of its own, and the answer has its result.
#[track_caller]
fn ran_once_each(log: &RunLog, answer: &Reply) {
    assert_eq!(answer.status, 201, "{answer:?}");
    let steps = steps(log);
    let names: Vec<&str> = steps.iter().map(|step| &*step[1]).collect();
    assert_eq!(names, ["a", "b", "c"], "{steps:?}");
    assert_eq!(steps.iter().map(|step| &step[2]).collect::<BTreeSet<_>>().len(), 3, "{steps:?}");
    let values: Vec<String> = steps.iter().map(|step| step[3].clone()).collect();
    let answered = answer.json::<serde_json::Value>()["values"].clone();
    let answered: Vec<String> = answered.as_array().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(answered, values);
}

#[test]
fn an_answer_that_is_not_stored_and_a_panic_keep_the_steps() {
    for (fail, way) in [(2, "status"), (3, "status"), (2, "panic"), (3, "panic")] {
        let log = RunLog::new();
        let server = Server::start(&[V2, ("RUN_LOG", log.path())]);
        let (path, key) = (format!("/steps?fail={fail}&as={way}"), fresh_key());
        let first = server.post(&path, &key);
        assert_eq!(first.status, if way == "panic" { 500 } else { 503 });
        server.send(Request::post(&path).key(&key).body("another")).is_problem(400, "key-reused");
        let second = server.post(&path, &key);
        ran_once_each(&log, &second);
        let body: serde_json::Value = second.json();
        assert_eq!((&body["n"], &body["attempt"], &body["taken_over"]), (&2.into(), &2.into(), &false.into()));
        assert!(server.post(&path, &key).is_replay());
        assert_eq!(["a", "b", "c"].map(|name| server.runs(&format!("/steps#{name}"))), [1; 3]);
    }
}

/// Before the first step there is nothing to keep: the count of attempts begins anew.
#[test]
fn a_run_that_failed_before_its_first_step_leaves_nothing() {
    let server = Server::start(&[V2]);
    let key = fresh_key();
    for _ in 0..2 {
        assert_eq!(server.post("/steps?fail=1&as=status", &key).status, 503);
    }
}

/// Sends a request to a server that dies of it.
fn dies(mut server: Server, path: &str, key: &str) {
    assert!(server.connect().try_send(&Request::post(path).key(key)).is_err());
    eventually("the process has died", || server.has_exited().map(drop).ok_or("it lives"));
}

/// The first answer that this looks for: until the lease of a lost owner and its grace are over there is none.
#[track_caller]
fn answer_to(server: &Server, path: &str, key: &str, is_it: impl Fn(&Reply) -> bool) -> Reply {
    let mut last = None;
    eventually("the key is free", || {
        let reply = last.insert(server.post(path, key));
        if is_it(reply) { Ok(()) } else { Err(reply.status) }
    });
    last.unwrap()
}

/// A process dies between any two steps, and another one goes on.
fn crash_between_steps(start: impl Fn(&RunLog) -> Server) {
    for fail in 1..=3 {
        let log = RunLog::new();
        let (path, key) = (format!("/steps?fail={fail}&as=abort"), fresh_key());
        dies(start(&log), &path, &key);
        let second = start(&log);
        let answer = answer_to(&second, &path, &key, |reply| reply.status == 201);
        ran_once_each(&log, &answer);
        let body: serde_json::Value = answer.json();
        assert_eq!((&body["attempt"], &body["taken_over"]), (&2.into(), &true.into()));
        let processes: BTreeSet<String> = steps(&log).into_iter().map(|[pid, ..]| pid).collect();
        assert_eq!(processes.len(), if fail == 1 { 1 } else { 2 });
        assert!(second.post(&path, &key).is_replay());
    }
    let (log, key) = (RunLog::new(), fresh_key());
    dies(start(&log), "/steps/once?as=abort", &key);
    let second = start(&log);
    for _ in 0..2 {
        // What is in flight is a 409, too.
        let is_unknown = |reply: &Reply| reply.json::<serde_json::Value>()["unknown"] == "once";
        let answer = answer_to(&second, "/steps/once?as=abort", &key, is_unknown);
        assert_eq!((answer.status, answer.is_replay()), (409, false));
    }
    assert_eq!(steps(&log).len(), 1);
}

#[cfg(feature = "redis")]
#[test]
fn another_process_goes_on_where_one_died_with_redis() {
    let redis = Redis::start();
    let short = [("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "100ms"), ("IDEMPOTENCY_KEY__LOCK__LEASE", "500ms"), V2];
    crash_between_steps(|log| redis.server(log, &short));
}

#[cfg(feature = "sqlite")]
#[test]
fn another_process_goes_on_where_one_died_with_sqlite() {
    let folder = Folder::new();
    let file = folder.new_file();
    crash_between_steps(|log| sqlite(&file, log, &[V2]));
}

/// How many steps the only record has saved.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn saved(server: &Server) -> usize {
    let listed: serde_json::Value = server.send(Request::get("/admin/records")).json();
    listed["records"][0]["steps"].as_array().map_or(0, Vec::len)
}

/// Kills one process after the other between two steps of an operation, each once its step is saved. Two processes at a time
/// would run a step twice: the second save is refused.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn killed_between_steps(start: impl Fn(&RunLog) -> Server) {
    let (log, key, path) = (RunLog::new(), fresh_key(), "/steps?ms=700");
    for n in 1..=2 {
        let mut doomed = start(&log);
        let request = Request::post(path).key(&key);
        eventually("one more step", || {
            // The claim of the process before may still be waited for.
            let _connection = doomed.begin(&request);
            for _ in 0..20 {
                if saved(&doomed) >= n {
                    return Ok(());
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Err(saved(&doomed))
        });
        doomed.kill();
    }
    let last = start(&log);
    ran_once_each(&log, &answer_to(&last, path, &key, |reply| reply.status == 201));
}

#[cfg(feature = "redis")]
#[test]
fn processes_that_are_killed_between_steps_run_no_saved_step_again_with_redis() {
    let redis = Redis::start();
    let short = [("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "100ms"), ("IDEMPOTENCY_KEY__LOCK__LEASE", "500ms"), V2];
    killed_between_steps(|log| redis.server(log, &short));
}

#[cfg(feature = "sqlite")]
#[test]
fn processes_that_are_killed_between_steps_run_no_saved_step_again_with_sqlite() {
    let folder = Folder::new();
    let file = folder.new_file();
    killed_between_steps(|log| sqlite(&file, log, &[V2]));
}
