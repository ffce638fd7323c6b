//! The service on a Redis Cluster, behind Redis Sentinel, and with `storage.replicas`: what its clients see while
//! primaries are replaced, killed and frozen, and while slots move.

mod cluster;
mod cluster_fail_overs;
mod load;
mod replicas;
mod sentinel;
mod sentinel_fail_overs;
mod slots;

use serde_json::{Value, json};

pub(super) use self::load::RECOVERY;
use self::load::{LIMIT, Load};
use crate::{
    common::{Connection, Reply, Request, RunLog, Server, at_once, eventually, fresh_key},
    operate::operators,
};

/// Runs `n` operations, and returns the key and the answer of each.
fn completed(server: &Server, n: usize) -> Vec<(String, Reply)> {
    let run = |_| {
        let key = fresh_key();
        let reply = server.post("/items", &key);
        assert_eq!((reply.status, reply.is_replay()), (201, false), "{reply:?}");
        (key, reply)
    };
    (0..n).map(run).collect()
}

/// Sends a duplicate of each request, which must be answered by a replay at once.
#[track_caller]
fn are_replayed(server: &Server, answers: &[(String, Reply)]) {
    for (key, answer) in answers {
        let again = server.post("/items", key);
        assert!(again.is_replay(), "{key}: {again:?}");
        assert_eq!(again.body, answer.body, "{key}");
    }
}

/// `Ok`: a replay of `first`. `Err`: the service does not know the response yet, and ran nothing.
#[track_caller]
fn is_replay_or_wait(again: &Reply, first: &Reply) -> Result<(), u16> {
    if !again.is_replay() {
        assert!(matches!(again.status, 423 | 503), "{again:?}");
        return Err(again.status);
    }
    assert_eq!(again.body, first.body);
    Ok(())
}

/// Sends duplicates until a replay answers. The first response may have been stored late, but nothing runs again.
#[track_caller]
fn are_replayed_later(server: &Server, answers: &[(String, Reply)]) {
    for (key, answer) in answers {
        eventually(key, || {
            let again = server.post("/items", key);
            is_replay_or_wait(&again, answer)
        });
    }
}

fn of_five_at_once_one_runs(servers: &[Server; 2], log: &RunLog) {
    let before = log.count("start");
    let request = Request::post("/slow?ms=300").key(&fresh_key());
    let replies = at_once(5, |n| servers[n % 2].send(request.clone()));
    assert_eq!(log.count("start"), before + 1);
    assert_eq!(replies.iter().filter(|reply| !reply.is_replay()).count(), 1, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.body == replies[0].body), "{replies:?}");
}

/// Operations of one owner that go on for seconds.
struct SlowRuns {
    requests: Vec<Request>,
    running: Vec<Connection>,
}

impl SlowRuns {
    fn begin(server: &Server, log: &RunLog, ms: u64) -> Self {
        let before = log.count("start");
        let requests: Vec<Request> =
            (0..5).map(|_| Request::post(&format!("/slow?ms={ms}")).key(&fresh_key())).collect();
        let running = requests.iter().map(|request| server.begin(request)).collect();
        log.wait_for("start", before + requests.len());
        Self { requests, running }
    }

    /// Sends a duplicate of each, which must not run beside the owner.
    fn do_not_run_at(&self, server: &Server) {
        for reply in at_once(self.requests.len(), |n| server.send(self.requests[n].clone())) {
            assert!(matches!(reply.status, 423 | 503), "{reply:?}");
        }
    }

    /// The owner answers, and another process replays its answers.
    fn end_and_are_replayed_by(self, server: &Server) {
        let answers: Vec<Reply> = self.running.into_iter().map(|mut connection| connection.reply()).collect();
        for (request, answer) in self.requests.into_iter().zip(answers) {
            assert_eq!((answer.status, answer.is_replay()), (200, false), "{answer:?}");
            eventually("a replay", || {
                let again = server.send(request.clone());
                is_replay_or_wait(&again, &answer)
            });
        }
    }
}

/// The ids of all records that the operators' pages list, page by page.
fn listed(server: &Server) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page: Value = operators::get(server, &format!("records?limit=7{after}")).json();
        let records = page["records"].as_array().unwrap_or_else(|| panic!("{page}"));
        ids.extend(records.iter().map(|record| record["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return ids,
        }
    }
}

fn operators_see_all_records(servers: &[Server; 2]) {
    operators::a_record_is_found_shown_and_forgotten(&servers[1]);
    let answers = completed(&servers[0], 40);
    let ids = listed(&servers[1]);
    let mut sorted = ids.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((ids.len(), &ids), (41, &sorted), "each record once, in order of ids");
    for (key, _) in &answers[..10] {
        let find = Request::post("/admin/find").header("Content-Type", "application/json");
        let found: Value = servers[1].send(find.body(json!({ "key": key }).to_string())).json();
        assert_eq!(found["record"]["state"], "completed", "{found}");
        let one = format!("records/default/{}", found["id"].as_str().unwrap());
        let forget = Request::post(&format!("/admin/{one}/forget")).header("Content-Type", "application/json");
        let forgotten: Value = servers[0].send(forget.body(json!({ "reason": "a test" }).to_string())).json();
        assert_eq!(forgotten, json!({ "forgotten": "removed" }));
        assert_eq!(operators::get(&servers[1], &one).status, 404);
        assert_eq!(servers[1].post("/items", key).status, 201, "the key can run again");
    }
    are_replayed(&servers[1], &answers[10..]);
}
