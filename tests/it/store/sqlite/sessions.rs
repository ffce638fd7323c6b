//! Sessions: how processes know of each other's deaths.

use std::{fs, time::Duration};

use actix_idempotency::store::{Begin, RecordState, SqliteStore, Store as _};

use super::fixture::{Folder, ask, claim, is_sound, open, options, server};
use crate::common::{Request, RunLog, eventually, fresh_key};

const AT_ONCE: (&str, &str) = ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0");

#[test]
fn the_key_of_a_killed_process_is_taken_over_at_once() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut doomed = server(&file, &log, &[]);
    // A request without patience: it is answered with 423 unless it takes over.
    let other = server(&file, &log, &[AT_ONCE]);
    let requests: Vec<Request> = (0..3).map(|_| Request::post("/slow?ms=700").key(&fresh_key())).collect();
    let _open: Vec<_> = requests.iter().map(|request| doomed.begin(request)).collect();
    log.wait_for("start", 3);
    other.send(requests[0].clone()).is_problem(423, "in-flight");
    doomed.kill();
    for request in &requests {
        let reply = other.send(request.clone());
        assert!(reply.status == 200 && !reply.is_replay(), "{reply:?}");
    }
    assert_eq!(log.count("start"), 6);
    assert_eq!(folder.sessions().len(), 1, "the session file of the dead process is removed");
}

#[test]
fn a_process_that_starts_takes_over_from_one_that_was_killed_before() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut doomed = server(&file, &log, &[]);
    let request = Request::post("/slow?ms=300").key(&fresh_key());
    let _open = doomed.begin(&request);
    log.wait_for("start", 1);
    doomed.kill();
    let next = server(&file, &log, &[AT_ONCE]);
    assert_eq!(folder.sessions().len(), 1);
    assert_eq!(next.send(request).status, 200);
}

#[test]
fn a_waiter_at_another_process_takes_over_soon_after_the_owner_was_killed() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut doomed = server(&file, &log, &[]);
    let other = server(&file, &log, &[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "15")]);
    let request = Request::post("/slow?ms=500").key(&fresh_key());
    let _open = doomed.begin(&request);
    log.wait_for("start", 1);
    let mut waits = other.begin(&request);
    // The answer is the same if the waiter arrives after the death.
    doomed.kill();
    let killed = std::time::Instant::now();
    assert_eq!(waits.reply().status, 200);
    assert!(killed.elapsed() < Duration::from_secs(8), "{:?}", killed.elapsed());
}

#[test]
fn with_on_unknown_reject_the_key_of_a_killed_process_is_refused() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let reject = [("IDEMPOTENCY_KEY__ON_UNKNOWN", "reject")];
    let (mut doomed, other) = (server(&file, &log, &reject), server(&file, &log, &reject));
    let request = Request::post("/slow?ms=60000").key(&fresh_key());
    let _open = doomed.begin(&request);
    log.wait_for("start", 1);
    doomed.kill();
    other.send(request.clone()).is_problem(409, "outcome-unknown");
    server(&file, &log, &reject).send(request.clone()).is_problem(409, "outcome-unknown");
    other.send(request.body("another payload")).is_problem(422, "key-reused");
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_living_process_makes_up_for_a_session_file_that_was_removed() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut owner = server(&file, &log, &[]);
    let before = folder.sessions();
    let other = server(&file, &log, &[AT_ONCE]);
    let request = Request::post("/slow?ms=4000").key(&fresh_key());
    let _open = owner.begin(&request);
    log.wait_for("start", 1);
    fs::remove_file(&before[0]).unwrap();
    other.send(request.clone()).is_problem(423, "in-flight");
    eventually("a new session", || if folder.sessions().len() == 2 { Ok(()) } else { Err(folder.sessions()) });
    // The file is made before the claims carry its name.
    let digits = before[0].to_str().unwrap().rsplit('-').next().unwrap();
    let old = u64::from_str_radix(digits, 16).unwrap().cast_signed();
    eventually("claims of the new session", || {
        let sql = "SELECT count(*) FROM slots WHERE session = ?1";
        match open(&file).query_row(sql, [old], |row| row.get::<_, i64>(0)).unwrap() {
            0 => Ok(()),
            claims => Err(claims),
        }
    });
    other.send(request.clone()).is_problem(423, "in-flight");
    owner.kill();
    assert_eq!(other.send(request).status, 200, "the death is known by the new file");
}

#[test]
fn the_key_of_a_dead_process_whose_session_file_was_removed_is_taken_over_after_a_lease() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut doomed = server(&file, &log, &[]);
    let session = folder.sessions().remove(0);
    // The least that counts is 3 s.
    let other = server(&file, &log, &[AT_ONCE, ("IDEMPOTENCY_KEY__LOCK__LEASE", "2")]);
    let request = Request::post("/slow?ms=0").key(&fresh_key());
    let running = Request::post("/slow?ms=60000").key(&fresh_key());
    let _open = doomed.begin(&running);
    log.wait_for("start", 1);
    assert_eq!(other.send(request).status, 200);
    doomed.kill();
    fs::remove_file(session).unwrap();
    let same = running.clone();
    other.send(same.clone()).is_problem(423, "in-flight");
    let missed = std::time::Instant::now();
    // A run of the retry would take a minute: its beginning tells enough.
    let mut asked = Vec::new();
    eventually("a take-over", || {
        asked.push(other.begin(&same));
        if log.count("start") == 3 { Ok(()) } else { Err(log.count("start")) }
    });
    assert!(missed.elapsed() >= Duration::from_secs(3), "{:?}", missed.elapsed());
}

#[test]
fn a_process_that_ends_in_order_removes_its_session_file_and_leaves_no_key_locked() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut ends = server(&file, &log, &[]);
    let request = Request::post("/slow?ms=500").key(&fresh_key());
    let connection = ends.begin(&request);
    log.wait_for("start", 1);
    connection.reset();
    ends.terminate();
    eventually("the exit", || ends.has_exited().map(drop).ok_or(()));
    assert!(folder.sessions().is_empty());
    assert!(server(&file, &log, &[]).send(request).is_replay());
    assert_eq!((log.count("start"), log.count("end")), (1, 1));
    is_sound(&file);
}

/// Session files lie beside the file that a link leads to, or processes with different paths know nothing of each other.
#[test]
fn processes_that_name_the_file_by_different_paths_see_each_other_die() {
    let (folder, links, log) = (Folder::new(), Folder::new(), RunLog::new());
    let (file, link) = (folder.new_file(), links.new_file());
    let other = server(&file, &log, &[AT_ONCE]);
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut doomed = server(&link, &log, &[]);
    let request = Request::post("/slow?ms=300").key(&fresh_key());
    let _open = doomed.begin(&request);
    log.wait_for("start", 1);
    other.send(request.clone()).is_problem(423, "in-flight");
    doomed.kill();
    assert_eq!(other.send(request).status, 200);
}

#[actix_web::test]
async fn the_claims_of_a_store_that_was_dropped_are_those_of_a_lost_owner() {
    let folder = Folder::new();
    let options = options(folder.new_file());
    let store = SqliteStore::new(&options).unwrap();
    let held = claim(&store, &ask(1)).await;
    drop(store);
    assert_eq!(folder.sessions().len(), 1, "its claims are found by its session");
    let store = SqliteStore::new(&options).unwrap();
    store.check().await.unwrap();
    assert_eq!(store.inspect(&held.id).await.unwrap().unwrap().state, RecordState::Lost);
    let taken = claim(&store, &ask(1)).await;
    assert!(taken.taken_over && taken.attempt == 2 && taken.fence > held.fence, "{taken:?}");
    store.release(&taken, actix_idempotency::store::ReleaseAs::Ended).await.unwrap();
    drop(store);
    assert!(folder.sessions().is_empty());
}

/// A row that can't be read must not keep the others from being taken over, nor the process from starting.
#[test]
fn a_damaged_claim_of_a_dead_process_does_no_harm_to_its_other_claims() {
    let (folder, log) = (Folder::new(), RunLog::new());
    for found_at_start in [true, false] {
        let file = folder.new_file();
        let mut doomed = server(&file, &log, &[]);
        let running = log.count("start");
        let requests: Vec<Request> = (0..4).map(|_| Request::post("/slow?ms=200").key(&fresh_key())).collect();
        let _open: Vec<_> = requests.iter().map(|request| doomed.begin(request)).collect();
        log.wait_for("start", running + 4);
        let early = (!found_at_start).then(|| server(&file, &log, &[AT_ONCE]));
        doomed.kill();
        let first = "(SELECT min(rowid) FROM slots WHERE session IS NOT NULL)";
        let damage = format!("UPDATE slots SET slot = x'0011223344' WHERE rowid = {first}");
        assert_eq!(open(&file).execute(&damage, []).unwrap(), 1);
        let next = early.unwrap_or_else(|| server(&file, &log, &[AT_ONCE]));
        let mut answers: Vec<u16> = requests.iter().map(|request| next.send(request.clone()).status).collect();
        answers.sort_unstable();
        assert_eq!(answers, [200, 200, 200, 503], "found at start: {found_at_start}");
    }
}

#[actix_web::test]
async fn one_process_uses_a_file_with_one_durability() {
    let folder = Folder::new();
    let mut options = options(folder.new_file());
    let store = SqliteStore::new(&options).unwrap();
    store.check().await.unwrap();
    options.durability = actix_idempotency::store::Durability::Power;
    assert!(SqliteStore::new(&options).is_err());
    drop(store);
    let store = SqliteStore::new(&options).unwrap();
    // The stores of one file share its claims.
    let twin = SqliteStore::new(&options).unwrap();
    claim(&store, &ask(1)).await;
    assert!(matches!(twin.begin(&ask(1)).await.unwrap(), Begin::InFlight(_)));
}

/// The client of a panic may come back at once.
#[test]
fn a_panic_is_answered_after_its_key_is_free_or_barred() {
    let (folder, log) = (Folder::new(), RunLog::new());
    for (on_unknown, status) in [("rerun", 500), ("reject", 409)] {
        let at_once = [("IDEMPOTENCY_KEY__ON_UNKNOWN", on_unknown), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")];
        let server = server(&folder.new_file(), &log, &at_once);
        for _ in 0..40 {
            let key = fresh_key();
            assert_eq!([(); 2].map(|()| server.post("/panic", &key).status), [500, status], "{on_unknown}");
        }
    }
}
