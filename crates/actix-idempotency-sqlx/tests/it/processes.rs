//! The example server, with processes that are killed, a database that is away, and COMMITs whose answers are lost.

use std::collections::BTreeMap;

use crate::{
    common::{Reply, Request, Server, at_once, eventually, fresh_key},
    databases::{Cluster, Commits, Proxy},
};

/// The example server on this database.
fn server(url: &str, more: &[(&str, &str)]) -> Server {
    let mut variables = vec![("DATABASE_URL", url), ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none")];
    variables.extend(more);
    Server::example("ledger", &variables)
}

/// How many rows of a key are committed.
fn effects(server: &Server, key: &str) -> i64 {
    let all: BTreeMap<String, i64> = server.send(Request::get("/effects")).json();
    all.get(key).copied().unwrap_or(0)
}

fn is_first(reply: &Reply) {
    assert_eq!((reply.status, reply.is_replay()), (201, false), "{reply:?}");
}

fn replays(reply: &Reply, first: &Reply) {
    assert_eq!((reply.status, reply.is_replay(), &reply.body), (201, true, &first.body), "{reply:?}");
}

/// A new database of the shared server. `None`: PostgreSQL is not installed.
async fn database() -> Option<(&'static Cluster, String)> {
    let cluster = Cluster::shared()?;
    Some((cluster, cluster.new_database().await))
}

#[actix_web::test]
async fn duplicates_at_processes_that_share_nothing_but_the_database_commit_once() {
    let Some((_, url)) = database().await else { return };
    let servers = [server(&url, &[]), server(&url, &[])];
    for path in ["/tx?ms=30", "/transactions?ms=30"] {
        for _ in 0..5 {
            let key = fresh_key();
            let replies = at_once(8, |n| servers[n % 2].post(path, &key));
            let answered: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
            assert!(!answered.is_empty(), "{replies:?}");
            assert!(answered.iter().all(|reply| reply.body == answered[0].body), "{path}: {answered:?}");
            assert!(replies.iter().all(|reply| matches!(reply.status, 201 | 423 | 503)), "{path}: {replies:?}");
            assert_eq!(effects(&servers[0], &key), 1, "{path}");
            replays(&servers[1].post(path, &key), answered[0]);
        }
    }
}

#[actix_web::test]
async fn after_a_process_was_killed_in_its_transaction_another_one_commits_once() {
    let Some((_, url)) = database().await else { return };
    let (mut killed, other) = (server(&url, &[]), server(&url, &[]));
    let key = fresh_key();
    let hanging = killed.begin(&Request::post("/tx?ms=60000").key(&key));
    killed.wait_for_runs("/tx", 1);
    killed.kill();
    drop(hanging);
    assert_eq!(effects(&other, &key), 0);
    let first = other.post("/tx?ms=60", &key);
    is_first(&first);
    assert_eq!(effects(&other, &key), 1);
}

#[actix_web::test]
async fn a_handler_that_aborts_its_process_commits_nothing() {
    let Some((_, url)) = database().await else { return };
    let (mut aborted, other) = (server(&url, &[]), server(&url, &[]));
    let key = fresh_key();
    let request = Request::post("/tx?fail=abort").key(&key);
    assert!(aborted.connect().try_send(&request).is_err());
    eventually("the process", || aborted.has_exited().map(drop).ok_or("running"));
    assert_eq!(effects(&other, &key), 0);
}

#[actix_web::test]
async fn a_commit_whose_answer_was_lost_is_found_and_answered() {
    let Some((cluster, url)) = database().await else { return };
    let proxy = Proxy::start(cluster.port);
    let server = server(&proxy.through(&url), &[]);
    for path in ["/tx", "/transactions"] {
        let key = fresh_key();
        proxy.commits(Commits::LoseAnswer);
        let before = proxy.lost();
        let first = server.post(path, &key);
        assert!(proxy.lost() > before, "an answer was lost");
        proxy.commits(Commits::Pass);
        is_first(&first);
        assert_eq!(effects(&server, &key), 1, "{path}");
        replays(&server.post(path, &key), &first);
    }
}

#[actix_web::test]
async fn a_commit_that_was_lost_commits_nothing_and_its_retry_runs() {
    let Some((cluster, url)) = database().await else { return };
    let proxy = Proxy::start(cluster.port);
    let server = server(&proxy.through(&url), &[]);
    let key = fresh_key();
    proxy.commits(Commits::Lose);
    let refused = server.post("/tx", &key);
    refused.is_problem(503, "store-unavailable");
    assert_eq!(refused.value("retry-after"), Some("1"));
    proxy.commits(Commits::Pass);
    assert_eq!(effects(&server, &key), 0);
    is_first(&server.post("/tx", &key));
    assert_eq!(effects(&server, &key), 1);
    // A closure is run again within the request.
    let key = fresh_key();
    proxy.commits(Commits::Lose);
    server.post("/transactions", &key).is_problem(503, "store-unavailable");
    assert_eq!(server.runs("/transactions"), 1, "the handler is called once, and its closure again");
}

#[actix_web::test]
async fn a_commit_that_cannot_be_settled_is_settled_behind_and_its_retry_gets_the_answer() {
    let Some((cluster, url)) = database().await else { return };
    let proxy = Proxy::start(cluster.port);
    let server = server(&proxy.through(&url), &[("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "300ms")]);
    let key = fresh_key();
    proxy.commits(Commits::LoseAnswerAndAll);
    server.post("/tx", &key).is_problem(503, "store-unavailable");
    proxy.commits(Commits::Pass);
    eventually("the retry", || {
        let reply = server.post("/tx", &key);
        if reply.status == 201 && reply.is_replay() { Ok(()) } else { Err(reply) }
    });
    assert_eq!((effects(&server, &key), server.runs("/tx")), (1, 1));
}

#[actix_web::test]
async fn while_the_database_is_away_requests_are_refused_and_afterwards_they_run_once() {
    let Some(mut cluster) = Cluster::start() else { return };
    let server = server(&cluster.new_database().await, &[]);
    let key = fresh_key();
    let mut hanging = server.begin(&Request::post("/tx?ms=1500").key(&key));
    server.wait_for_runs("/tx", 1);
    cluster.kill();
    let reply = hanging.reply();
    assert!(matches!(reply.status, 500 | 503), "{reply:?}");
    server.post("/tx?ms=0", &fresh_key()).is_problem(503, "store-unavailable");
    cluster.restart();
    eventually("a run", || {
        let reply = server.post("/tx?ms=1500", &key);
        if reply.status == 201 { Ok(()) } else { Err(reply) }
    });
    assert_eq!(effects(&server, &key), 1);
}

#[actix_web::test]
async fn with_a_pool_of_one_many_requests_are_served_one_after_the_other() {
    let Some((_, url)) = database().await else { return };
    let server = server(&url, &[("POOL", "1")]);
    let keys: Vec<_> = (0..16).map(|_| fresh_key()).collect();
    let replies = at_once(16, |n| server.post("/tx?ms=10", &keys[n]));
    replies.iter().for_each(is_first);
    assert!(keys.iter().all(|key| effects(&server, key) == 1));
}

#[actix_web::test]
async fn sqlite_commits_once_too() {
    let file = std::env::temp_dir().join(format!("ledger-{}.db", fresh_key()));
    let url = format!("sqlite://{}", file.display());
    let (mut killed, other) = (server(&url, &[]), server(&url, &[]));
    for path in ["/tx", "/transactions"] {
        let key = fresh_key();
        let first = killed.post(path, &key);
        is_first(&first);
        replays(&other.post(path, &key), &first);
        assert_eq!(effects(&other, &key), 1);
    }
    let key = fresh_key();
    let hanging = killed.begin(&Request::post("/tx?ms=60000").key(&key));
    killed.wait_for_runs("/tx", 2);
    killed.kill();
    drop(hanging);
    assert_eq!(effects(&other, &key), 0);
    is_first(&other.post("/tx?ms=1", &key));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", file.display()));
    }
}
