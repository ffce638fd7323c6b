//! Settings and pages that hold with each store, with this one.

use super::fixture::{Folder, open, server};
use crate::common::{Request, RunLog, eventually, fresh_key};

#[test]
fn operators_find_a_record_from_any_process() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let _other = server(&file, &log, &[]);
    crate::operate::operators::a_record_is_found_shown_and_forgotten(&server(&file, &log, &[]));
}

#[test]
fn observed_duplicates_run_at_each_process_and_are_reported() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let observe = [("IDEMPOTENCY_KEY__MODE", "observe"), ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would-Be")];
    let servers = [(); 2].map(|()| server(&file, &log, &observe));
    let key = fresh_key();
    assert_eq!(servers[0].post("/items", &key).value("x-would-be"), None);
    for server in &servers {
        // An observed request does not wait until its answer is stored.
        eventually("the stored answer", || {
            let again = server.post("/items", &key);
            assert_eq!((again.status, again.is_replay()), (201, false));
            if again.value("x-would-be") == Some("replayed") { Ok(()) } else { Err(again) }
        });
    }
    let runs = log.count("start");
    let slow = Request::post("/slow?ms=600").key(&fresh_key());
    let mut running = servers[0].begin(&slow);
    log.wait_for("start", runs + 1);
    assert_eq!(servers[1].send(slow).value("x-would-be"), Some("in-flight"));
    assert_eq!(running.reply().status, 200);
    assert_eq!(log.count("start"), runs + 2);
}

#[test]
fn without_locks_the_first_answer_that_is_stored_stays() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let servers = [(); 2].map(|()| server(&file, &log, &[("IDEMPOTENCY_KEY__LOCK__ENABLE", "false")]));
    let request = Request::post("/slow?ms=400").key(&fresh_key());
    let mut running = servers.each_ref().map(|server| server.begin(&request));
    for reply in running.each_mut().map(|running| running.reply()) {
        assert_eq!(reply.status, 200);
    }
    assert_eq!(log.count("start"), 2);
    let replays = servers.each_ref().map(|server| server.send(request.clone()));
    assert!(replays.iter().all(|replay| replay.is_replay() && replay.body == replays[0].body));
}

#[test]
fn caches_share_a_file_or_have_their_own_and_keep_their_keys_apart() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let (file, other) = (folder.new_file(), folder.new_file());
    let shared = server(&file, &log, &[]);
    let apart = server(
        &file,
        &log,
        &[
            ("IDEMPOTENCY_KEY__CACHES__B__LOCATION", other.to_str().unwrap()),
            ("IDEMPOTENCY_KEY__CACHES__B__TTL", "100"),
        ],
    );
    let named = server(&file, &log, &[("IDEMPOTENCY_KEY__STORAGE__NAMESPACE", "shop")]);
    let key = fresh_key();
    let runs = |server: &crate::common::Server| {
        ["/items", "/cache/a", "/cache/b"].map(|path| {
            let ran = !server.post(path, &key).is_replay();
            assert!(server.post(path, &key).is_replay());
            ran
        })
    };
    assert_eq!(runs(&shared), [true, true, true]);
    assert_eq!(runs(&apart), [false, false, true], "the cache `b` has another file");
    assert_eq!(runs(&named), [true, true, true]);
    assert_eq!(runs(&shared), [false, false, false]);
    let records = |file| open(file).query_row("SELECT count(*) FROM slots", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((records(&file), records(&other)), (6, 1));
}

#[test]
fn other_statuses_panics_and_failures_free_the_key() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let servers = [(); 2].map(|()| server(&file, &log, &[]));
    for (path, status) in [("/status/400", 400), ("/error/500", 500), ("/panic", 500)] {
        let key = fresh_key();
        for server in [0, 1, 0].map(|n: usize| &servers[n]) {
            let reply = server.post(path, &key);
            assert_eq!((reply.status, reply.is_replay()), (status, false), "{path}");
        }
    }
    // A panic frees its key in the background.
    eventually("nothing is left of them", || {
        match open(&file).query_row("SELECT count(*) FROM slots", [], |row| row.get::<_, i64>(0)).unwrap() {
            0 => Ok(()),
            slots => Err(slots),
        }
    });
}

/// Other processes see the end of `lock.ttl`, although the owner still runs.
#[test]
fn lock_ttl_is_a_hard_ceiling_for_other_processes() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let ceiling = [("IDEMPOTENCY_KEY__LOCK__TTL", "0.3"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10")];
    let servers = [(); 2].map(|()| server(&file, &log, &ceiling));
    let slow = Request::post("/stream?chunks=4&size=3&delay_ms=400").key(&fresh_key());
    let mut first = servers[0].begin(&slow);
    log.wait_for("start", 1);
    let second = servers[1].send(slow.clone());
    assert_eq!((second.status, log.count("start")), (200, 2), "two runs, as the documentation of `lock.ttl` warns");
    assert_eq!(first.reply().body, second.body);
    let again = servers[0].send(slow);
    assert!(again.is_replay() && again.body == second.body);
}
