//! A primary behind sentinels without faults, and how a server starts there.

use super::{are_replayed, completed, of_five_at_once_one_runs, operators_see_all_records};
use crate::{
    common::{RunLog, Server, fresh_key},
    store::redis::sentinel::Sentinels,
};

const LOCATION: &str = "IDEMPOTENCY_KEY__STORAGE__LOCATION";

fn names(sentinels: &Sentinels, database: u8) -> Vec<String> {
    let mut connection = sentinels.primary().connect();
    redis::cmd("SELECT").arg(database).exec(&mut connection).unwrap();
    redis::cmd("KEYS").arg("*").query(&mut connection).unwrap()
}

#[test]
fn all_processes_find_the_primary_that_the_sentinels_name() {
    let (mut sentinels, log) = (Sentinels::start(), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10")]));
    let answers = completed(&servers[0], 20);
    are_replayed(&servers[1], &answers);
    assert_eq!(names(&sentinels, 0).len(), 20);
    for _ in 0..3 {
        of_five_at_once_one_runs(&servers, &log);
    }
    for server in &sentinels.servers {
        server.ask::<()>(redis::cmd("SCRIPT").arg("FLUSH")).unwrap();
    }
    are_replayed(&servers[1], &answers);
    completed(&servers[0], 5);
    // One sentinel that answers is enough for a start, whichever it is.
    sentinels.watchers[0].kill();
    sentinels.watchers[1].freeze();
    let late = sentinels.server(&log, &[]);
    are_replayed(&late, &answers);
    assert_eq!(log.count("start"), 28);
}

#[test]
fn records_are_in_the_database_of_the_location() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let url = sentinels.url_of("mymaster", 3);
    let servers = [0, 1].map(|_| sentinels.server(&log, &[(LOCATION, &url)]));
    let answers = completed(&servers[0], 5);
    are_replayed(&servers[1], &answers);
    assert_eq!((names(&sentinels, 3).len(), names(&sentinels, 0).len()), (5, 0));
    assert_eq!(super::listed(&servers[1]).len(), 5);
}

#[test]
fn sentinels_may_have_other_credentials_than_the_servers() {
    let (sentinels, log) = (Sentinels::start_with(1, "secret-of-servers", "secret-of-sentinels"), RunLog::new());
    let servers = [0, 1].map(|_| sentinels.server(&log, &[]));
    let answers = completed(&servers[0], 5);
    are_replayed(&servers[1], &answers);
    for (right, wrong) in [("secret-of-servers", "wrong-of-servers"), ("secret-of-sentinels", "wrong-of-sentinels")] {
        let text = start_error(&sentinels.url().replace(right, wrong));
        assert!(text.contains("WRONGPASS") || text.contains("assword authentication failed"), "{text}");
        assert!(!text.contains("-of-servers") && !text.contains("-of-sentinels"), "{text}");
    }
}

#[test]
fn operators_see_all_records_behind_sentinels() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    operators_see_all_records(&[0, 1].map(|_| sentinels.server(&log, &[])));
}

/// The error with which a server does not start.
fn start_error(location: &str) -> String {
    let output = Server::fails_to_start(&[("IDEMPOTENCY_KEY__STORAGE__CLASS", "redis"), (LOCATION, location)]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{location}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_name_that_the_sentinels_do_not_know_is_an_error_or_a_warning_by_setting() {
    let (sentinels, log) = (Sentinels::start(), RunLog::new());
    let url = sentinels.url_of("nowhere", 0);
    let text = start_error(&url);
    assert!(text.contains("name no primary: `nowhere`") || text.contains("`nowhere`: "), "{text}");
    let warned = sentinels.server(&log, &[(LOCATION, &url), ("IDEMPOTENCY_KEY__STORAGE__ON_UNREACHABLE", "warn")]);
    warned.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert_eq!(log.count("start"), 0);
}

#[test]
fn sentinels_that_are_not_there_are_an_error() {
    let text = start_error("redis-sentinel://127.0.0.1:1,127.0.0.1:2/mymaster");
    assert!(text.contains("name no primary") && text.contains("refused"), "{text}");
}
