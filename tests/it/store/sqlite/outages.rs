//! A file that another program locks, and records that are damaged.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fixture::{Folder, open, server};
use crate::{
    common::{Request, RunLog, Server, eventually, fresh_key},
    operate::operators::get,
};

const QUICK: [(&str, &str); 1] = [("IDEMPOTENCY_KEY__STORAGE__TIMEOUT", "0.5")];

fn recovers(server: &Server) {
    eventually("recovery without a restart", || match server.post("/items", &fresh_key()).status {
        201 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn while_another_program_writes_nothing_runs_and_replays_go_on() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let server = server(&file, &log, &QUICK);
    let key = fresh_key();
    server.post("/items", &key);
    let other = open(&file);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
        assert!(server.post("/items", &key).is_replay());
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(log.count("start"), 1);
    assert_eq!(get(&server, "records").status, 200, "operators only read");
    other.execute_batch("COMMIT").unwrap();
    recovers(&server);
}

#[test]
fn a_begin_that_timed_out_leaves_no_claim() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let server = server(&file, &log, &QUICK);
    let (key, other) = (fresh_key(), open(&file));
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    server.post("/items", &key).is_problem(503, "store-unavailable");
    other.execute_batch("COMMIT").unwrap();
    eventually("the key is free", || match server.post("/items", &key).status {
        201 => Ok(()),
        status => Err(status),
    });
    assert_eq!(log.count("start"), 1);
}

#[test]
fn an_answer_that_could_not_be_written_is_given_and_written_later() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let [one, two] = [(); 2].map(|()| server(&file, &log, &QUICK));
    let request = Request::post("/slow?ms=300").key(&fresh_key());
    let mut running = one.begin(&request);
    log.wait_for("start", 1);
    let other = open(&file);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = running.reply();
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    for server in [&one, &two] {
        let meanwhile = server.send(request.clone());
        assert!(matches!(meanwhile.status, 423 | 503), "{meanwhile:?}");
    }
    other.execute_batch("COMMIT").unwrap();
    for server in [&one, &two] {
        let mut again = server.send(request.clone());
        eventually("the deferred write", || {
            again = server.send(request.clone());
            if again.is_replay() { Ok(()) } else { Err(again.status) }
        });
        assert_eq!(again.body, first.body);
    }
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_damaged_record_is_an_error_and_never_a_run_until_it_is_forgotten() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let server = server(&file, &log, &[]);
    let (key, sound) = (fresh_key(), fresh_key());
    let find = json!({ "key": key }).to_string();
    let request = Request::post("/admin/find").header("Content-Type", "application/json").body(find);
    server.post("/items", &key);
    let found: Value = server.send(request).json();
    let id = found["id"].as_str().unwrap();
    server.post("/items", &sound);
    let of_id = format!("WHERE hex(id) = upper('{id}')");
    let before: Vec<u8> =
        open(&file).query_row(&format!("SELECT slot FROM slots {of_id}"), [], |row| row.get(0)).unwrap();
    let mut damages = vec![vec![], vec![0], vec![0; 300], before[..before.len() - 1].to_vec()];
    for at in (0..before.len()).step_by(7) {
        let mut flipped = before.clone();
        flipped[at] ^= 1;
        damages.push(flipped);
    }
    for damage in damages {
        assert_eq!(open(&file).execute(&format!("UPDATE slots SET slot = ?1 {of_id}"), [&damage]).unwrap(), 1);
        server.post("/items", &key).is_problem(503, "store-unavailable");
        server.send(Request::post("/items").key(&key).body("other")).is_problem(503, "store-unavailable");
        assert!(server.post("/items", &sound).is_replay());
    }
    assert_eq!(get(&server, &format!("records/default/{id}")).status, 503);
    assert_eq!(log.count("start"), 2);
    let forget = Request::post(&format!("/admin/records/default/{id}/forget"))
        .header("Content-Type", "application/json")
        .body(r#"{"reason":"damaged"}"#);
    let forgotten: Value = server.send(forget).json();
    assert_eq!(forgotten, json!({ "forgotten": "removed" }));
    assert_eq!(server.post("/items", &key).status, 201);
    assert_eq!(get(&server, "records").status, 200);
}
