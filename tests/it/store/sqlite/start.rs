//! The start of a process: new files, and files that are refused.

use std::fs;

use super::fixture::{Folder, is_sound, open, server, variables};
use crate::common::{RunLog, Server, at_once, fresh_key};

#[test]
fn processes_that_start_at_once_on_a_new_file_all_start() {
    let (folder, log) = (Folder::new(), RunLog::new());
    for n in 1..=5 {
        let file = folder.new_file();
        let servers = at_once(4, |_| server(&file, &log, &[]));
        let key = fresh_key();
        assert_eq!(servers.iter().filter(|server| server.post("/items", &key).status == 201).count(), 1);
        assert_eq!(log.count("start"), n);
        drop(servers);
        is_sound(&file);
    }
}

/// A process may die while it makes the file.
#[test]
fn a_file_that_was_only_begun_is_made_whole() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let (empty, begun) = (folder.new_file(), folder.new_file());
    fs::write(&empty, "").unwrap();
    let connection = open(&begun);
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    drop(connection);
    assert!(fs::metadata(&begun).unwrap().len() > 0);
    for file in [empty, begun] {
        let server = server(&file, &log, &[]);
        let key = fresh_key();
        server.post("/items", &key);
        assert!(server.post("/items", &key).is_replay());
    }
}

#[test]
fn what_is_no_file_of_this_store_is_refused_and_stays_as_it_is() {
    let folder = Folder::new();
    let [text, short, foreign, newer] = [(); 4].map(|()| folder.new_file());
    fs::write(&text, "no database ".repeat(1000)).unwrap();
    fs::write(&short, "no").unwrap();
    open(&foreign).execute_batch("CREATE TABLE orders (number INTEGER); INSERT INTO orders VALUES (17)").unwrap();
    drop(server(&newer, &RunLog::new(), &[]));
    open(&newer).pragma_update(None, "user_version", 1000).unwrap();
    let subfolder = folder.0.join("folder.db");
    fs::create_dir(&subfolder).unwrap();
    let missing = folder.0.join("nowhere").join("a.db");
    let cases = [
        (&text, "not a database"),
        (&short, "not a database"),
        (&foreign, "another application"),
        (&newer, "version 1000"),
        (&subfolder, "directory"),
        (&missing, "No such file"),
    ];
    for (file, why) in cases {
        let before = fs::read(file).ok();
        let output = Server::fails_to_start(&variables(file));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{file:?}");
        assert!(said.contains(file.to_str().unwrap()), "the error names the file {file:?}: {said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read(file).ok(), before, "{file:?} is not written to");
    }
    assert!(!missing.parent().unwrap().exists());
}

/// The server may wait for its file; it does not keep records elsewhere meanwhile.
#[test]
fn with_on_unreachable_warn_nothing_runs_without_the_file() {
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.0.join("later").join("a.db");
    let server = server(&file, &log, &[("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")]);
    let key = fresh_key();
    for _ in 0..2 {
        server.post("/items", &key).is_problem(503, "store-unavailable");
    }
    assert_eq!(log.count("start"), 0);
    fs::create_dir(file.parent().unwrap()).unwrap();
    assert_eq!(server.post("/items", &key).status, 201);
    assert!(server.post("/items", &key).is_replay());
}

#[test]
fn a_file_that_may_not_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let file = folder.new_file();
    drop(server(&file, &RunLog::new(), &[]));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    if fs::File::options().write(true).open(&file).is_ok() {
        println!("not checked: this user may write to everything");
        return;
    }
    let said = Server::fails_to_start(&variables(&file));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains(file.to_str().unwrap()), "{said}");
}

/// Answers are nobody else's business.
#[test]
fn only_its_user_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, log) = (Folder::new(), RunLog::new());
    let server = server(&folder.new_file(), &log, &[]);
    server.post("/items", &fresh_key());
    for entry in fs::read_dir(&folder.0).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let is_empty = entry.metadata().unwrap().len() == 0;
        assert!(is_empty || mode == 0o600, "{:?}: {mode:o}", entry.path());
    }
}
