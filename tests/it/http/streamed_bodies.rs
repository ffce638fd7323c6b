//! Requests whose handlers read bodies as they arrive (`body = stream`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    common::{Reply, Request, RunLog, Server, eventually, fresh_key},
    store::{redis::fixture::Redis, sqlite::fixture::Folder},
};

const ECHO: &str = "/uploads/echo";

fn digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

fn upload(path: &str, key: &str, body: &[u8]) -> Request {
    Request::post(path).key(key).body(body)
}

fn with_digest(path: &str, key: &str, body: &[u8]) -> Request {
    upload(path, key, body).header("Content-Digest", &digest(body))
}

/// Makes a request of a path, a key and a body.
type Made = fn(&str, &str, &[u8]) -> Request;

/// Without a digest, and with one.
const VARIANTS: [Made; 2] = [upload, with_digest];

fn replays(first: &Reply, again: &Reply) {
    assert!(!first.is_replay() && again.is_replay(), "{first:?} {again:?}");
    assert_eq!(again.body, first.body);
}

#[test]
fn a_handler_has_the_beginning_of_a_body_before_its_end_is_sent() {
    let log = RunLog::new();
    let server = Server::start(&[("RUN_LOG", log.path())]);
    let body = b"0123456789";
    let bytes = with_digest(ECHO, &fresh_key(), body).bytes();
    let mut connection = server.connect();
    connection.write(&bytes[..bytes.len() - 5]);
    log.wait_for("start", 1);
    connection.write(&bytes[bytes.len() - 5..]);
    let reply: Value = connection.reply().json();
    assert_eq!(reply["len"], 10);
    let sha256 = Sha256::digest(body).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(reply["sha256"], sha256);
}

#[test]
fn a_retry_gets_the_first_response_and_another_body_is_a_mismatch() {
    let server = Server::start(&[]);
    let (body, same_length, longer) = (&b"the body"[..], &b"another."[..], &b"the body and more"[..]);
    for first in VARIANTS {
        for again in VARIANTS {
            let key = fresh_key();
            let reply = server.send(first(ECHO, &key, body));
            assert_eq!(reply.status, 200);
            replays(&reply, &server.send(again(ECHO, &key, body)));
            for other in [same_length, longer, b""] {
                server.send(again(ECHO, &key, other)).is_problem(422, "key-reused");
            }
            server.send(again("/uploads/early", &key, body)).is_problem(422, "key-reused");
            let query = again(&format!("{ECHO}?a=1"), &key, body);
            server.send(query).is_problem(422, "key-reused");
            server.send(again(ECHO, &key, body).header("Content-Type", "text/csv")).is_problem(422, "key-reused");
        }
    }
    assert_eq!(server.runs(ECHO), 4);
}

#[test]
fn the_pieces_in_which_a_body_arrives_do_not_count() {
    let server = Server::start(&[]);
    let request = upload(ECHO, &fresh_key(), b"in pieces");
    let chunked = |request: &Request| {
        let mut connection = server.connect();
        connection.write(&request.chunked());
        connection.reply()
    };
    let first = chunked(&request);
    replays(&first, &server.send(request.clone()));
    replays(&first, &chunked(&request));
    chunked(&request.clone().body("in piece")).is_problem(422, "key-reused");
    chunked(&request.body("in pieces!")).is_problem(422, "key-reused");
}

#[test]
fn a_body_with_a_wrong_digest_is_refused_whatever_its_handler_answers_and_its_key_stays_free() {
    let server = Server::start(&[]);
    for path in [ECHO, "/uploads/careless", "/uploads/early"] {
        let key = fresh_key();
        let wrong = upload(path, &key, b"the bodY").header("Content-Digest", &digest(b"the body"));
        server.send(wrong.clone()).is_problem(400, "wrong-digest");
        let first = server.send(with_digest(path, &key, b"the body"));
        assert!(first.status < 300 && !first.is_replay(), "{first:?}");
        server.send(wrong).is_problem(400, "wrong-digest");
        replays(&first, &server.send(with_digest(path, &key, b"the body")));
    }
}

#[test]
fn a_malformed_digest_is_refused_and_other_algorithms_are_passed_over() {
    let server = Server::start(&[]);
    let request = |header: &str| upload(ECHO, &fresh_key(), b"x").header("Content-Digest", header);
    for header in ["sha-256=:AAAA:", "sha-256=1", "none at all"] {
        server.send(request(header)).is_problem(400, "invalid-digest");
    }
    assert_eq!(server.runs(ECHO), 0);
    assert_eq!(server.send(request("sha-512=:AAAA:")).status, 200);
    let optional = Request::post(ECHO).header("Content-Digest", "sha-256=1").body("x");
    server.send(optional).is_problem(400, "missing-key");
}

#[test]
fn what_a_handler_leaves_of_a_body_is_read_up_to_the_limit_and_beyond_it_nothing_is_stored() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100000")]);
    let fits = upload("/uploads/early", &fresh_key(), &vec![7; 100_000]);
    let first = server.send(fits.clone());
    replays(&first, &server.send(fits.clone()));
    server.send(fits.body(vec![8; 100_000])).is_problem(422, "key-reused");
    let beyond = upload("/uploads/early", &fresh_key(), &vec![7; 1_000_000]);
    for _ in 0..2 {
        let mut connection = server.connect();
        // The server may close the connection before everything is sent.
        let reply = connection.try_send(&beyond);
        assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 201 && !reply.is_replay()));
    }
    assert_eq!(server.runs("/uploads/early"), 3);
    // A handler that reads has no such limit.
    let whole = with_digest(ECHO, &fresh_key(), &vec![7; 1_000_000]);
    let first = server.send(whole.clone());
    assert_eq!(first.json::<Value>()["len"], 1_000_000);
    replays(&first, &server.send(whole));
}

#[test]
fn a_body_may_take_long_but_not_stop() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__LIMITS__BODY_TIMEOUT", "0.2"),
        ("IDEMPOTENCY_KEY__LIMITS__BODY_IDLE_TIMEOUT", "0.7"),
    ]);
    let (key, body) = (fresh_key(), b"0123456789");
    let bytes = with_digest(ECHO, &key, body).bytes();
    let until_the_end = |n: usize| &bytes[..bytes.len() - n];
    for path in [ECHO, "/uploads/careless", "/uploads/early"] {
        let bytes = with_digest(path, &fresh_key(), body).bytes();
        let mut connection = server.connect();
        connection.write(&bytes[..bytes.len() - 1]);
        let refused = connection.reply();
        refused.is_problem(408, "body-timeout");
        assert!(String::from_utf8_lossy(&refused.body).contains("had begun"), "{refused:?}");
    }
    let mut connection = server.connect();
    connection.write(until_the_end(4));
    for n in (0..4).rev() {
        std::thread::sleep(std::time::Duration::from_millis(300));
        connection.write(&bytes[bytes.len() - n - 1..bytes.len() - n]);
    }
    let first = connection.reply();
    assert_eq!(first.status, 200);
    // A retry is as patient.
    let mut connection = server.connect();
    connection.write(until_the_end(1));
    let refused = connection.reply();
    refused.is_problem(408, "body-timeout");
    assert!(String::from_utf8_lossy(&refused.body).contains("not run"), "{refused:?}");
    replays(&first, &server.send(with_digest(ECHO, &key, body)));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_leaves_a_free_key() {
    for on_unknown in ["rerun", "reject"] {
        let log = RunLog::new();
        let server = Server::start(&[("IDEMPOTENCY_KEY__ON_UNKNOWN", on_unknown), ("RUN_LOG", log.path())]);
        for (n, path) in [(1, ECHO), (3, "/uploads/careless")] {
            let request = with_digest(path, &fresh_key(), b"0123456789");
            let bytes = request.bytes();
            let mut connection = server.connect();
            connection.write(&bytes[..bytes.len() - 5]);
            log.wait_for("start", n);
            drop(connection);
            eventually("a free key", || match server.send(request.clone()) {
                reply if reply.status < 300 && !reply.is_replay() => Ok(()),
                reply => Err(reply),
            });
        }
    }
}

#[test]
fn a_duplicate_waits_for_the_upload_or_is_refused_while_it_goes_on() {
    let log = RunLog::new();
    let server = Server::start(&[("RUN_LOG", log.path()), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "10")]);
    let request = with_digest(ECHO, &fresh_key(), b"0123456789");
    let bytes = request.bytes();
    let mut connection = server.connect();
    connection.write(&bytes[..bytes.len() - 5]);
    log.wait_for("start", 1);
    server.send(request.clone().header("Prefer", "wait=0")).is_problem(423, "in-flight");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.send(request.clone()));
        connection.write(&bytes[bytes.len() - 5..]);
        replays(&connection.reply(), &waiting.join().unwrap());
    });
    assert_eq!(log.count("start"), 1);
}

#[test]
fn a_response_that_is_sent_while_the_body_arrives_is_stored_at_the_end_of_both() {
    let server = Server::start(&[]);
    let request = with_digest("/uploads/relay", &fresh_key(), &vec![b'x'; 300_000]);
    let first = server.send(request.clone());
    assert_eq!(first.body.len(), 300_000);
    replays(&first, &server.send(request.clone()));
    let wrong = upload("/uploads/relay", &fresh_key(), b"y").header("Content-Digest", &digest(b"x"));
    for _ in 0..2 {
        let broken = server.connect().try_send(&wrong);
        assert!(broken.is_err(), "{broken:?}");
    }
    assert_eq!(server.runs("/uploads/relay"), 3);
}

#[test]
fn observed_requests_run_with_their_bodies_as_they_are() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__MODE", "observe"), ("IDEMPOTENCY_KEY__OBSERVE_HEADER", "X-Would")]);
    let key = fresh_key();
    let would = |request: Request, outcome: &str| {
        let reply = server.send(request);
        assert_eq!((reply.status, reply.value("x-would")), (200, Some(outcome)), "{reply:?}");
        assert!(!reply.is_replay());
    };
    assert_eq!(server.send(with_digest(ECHO, &key, b"a")).status, 200);
    would(with_digest(ECHO, &key, b"a"), "replayed");
    would(with_digest(ECHO, &key, b"b"), "key-reused");
    would(upload(ECHO, &fresh_key(), b"a").header("Content-Digest", "sha-256=1"), "unreadable-body");
    assert_eq!(server.send(upload(ECHO, &fresh_key(), b"a").header("Content-Digest", &digest(b"b"))).status, 200);
}

/// The part of a status of this process that is in memory at most, in KiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn large_uploads_and_their_retries_take_no_memory() {
    let server = Server::start(&[("WORKERS", "1")]);
    let body = vec![7; 64 << 20];
    let small = with_digest(ECHO, &fresh_key(), &body[..1 << 20]);
    replays(&server.send(small.clone()), &server.send(small));
    let before = peak(&server);
    let key = fresh_key();
    let first = server.send(with_digest(ECHO, &key, &body));
    assert_eq!(first.json::<Value>()["len"], 64 << 20);
    replays(&first, &server.send(with_digest(ECHO, &key, &body)));
    replays(&first, &server.send(upload(ECHO, &key, &body)));
    let after = peak(&server);
    // The kernel counts in batches, so a later peak may seem to be lower.
    assert!(after <= before + (8 << 10), "{before} KiB before, {after} KiB after");
}

/// A record keeps what its request was, in every store, and sealed.
#[test]
fn in_every_store_a_retry_is_compared_with_the_first_body() {
    let redis = Redis::start();
    let folder = Folder::new();
    let file = folder.new_file();
    let locations = [("memory", "unused".into()), ("redis", redis.url()), ("sqlite", file.display().to_string())];
    for (class, location) in &locations {
        for sealed in [false, true] {
            let mut variables = vec![
                ("IDEMPOTENCY_KEY__STORAGE__CLASS", *class),
                ("IDEMPOTENCY_KEY__STORAGE__LOCATION", location.as_str()),
                ("IDEMPOTENCY_KEY__STORAGE__NAMESPACE", if sealed { "sealed" } else { "plain" }),
            ];
            if sealed {
                variables.push(("IDEMPOTENCY_KEY__ENCRYPTION__KEYS", "1:env:SEAL"));
                variables.push(("SEAL", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="));
            }
            let server = Server::start(&variables);
            for request in VARIANTS {
                let key = fresh_key();
                let first = server.send(request(ECHO, &key, b"a body"));
                assert_eq!(first.status, 200, "{class}: {first:?}");
                replays(&first, &server.send(request(ECHO, &key, b"a body")));
                server.send(request(ECHO, &key, b"b body")).is_problem(422, "key-reused");
            }
        }
    }
}

/// Once, the client of an upload whose claim was taken over got the response to another body.
#[test]
fn an_upload_that_lost_its_key_to_another_body_keeps_its_own_response() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TTL", "0.3")]);
    for is_same in [false, true] {
        let key = fresh_key();
        let late = upload(ECHO, &key, b"0123456789");
        let bytes = late.bytes();
        let mut connection = server.connect();
        connection.write(&bytes[..bytes.len() - 5]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        let other = if is_same { late.clone() } else { late.clone().body("another body") };
        let winner = server.send(other.clone());
        assert_eq!(winner.status, 200);
        connection.write(&bytes[bytes.len() - 5..]);
        let own = connection.reply();
        assert_eq!((own.json::<Value>()["len"].clone(), own.is_replay()), (10.into(), is_same), "{own:?}");
        replays(&winner, &server.send(other));
    }
}
