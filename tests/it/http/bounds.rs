//! The bounds of load: a test for each row of the table in `docs/guarantees.md` that has none elsewhere. `uploads.rs`
//! attacks with bodies, `streams.rs` with clients that leave, `claims/concurrency.rs` with duplicates,
//! `claims/orphans.rs` with operations whose client has left, `store/shares.rs` with one principal's records, and `rates.rs`
//! with its new operations.

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, Settings,
    record::Record,
    store::{Begin, BeginRequest, Claim, Completion, MemoryStore, RecordState, ReleaseAs, Store, StoreFuture},
};
use actix_web::{App, Error, HttpResponse, body::MessageBody as _, dev::Service as _, rt, test::init_service, web};
use futures_util::stream;
use serde_json::Value;

use crate::{
    common::{
        Connection, Reply, Request, Server, delegate_to_inner_store, eventually, fresh_key,
        in_process::{MARKER, alone, post, send},
    },
    store::custom_parts,
};

fn wait_until_in_flight(server: &Server, n: u64) {
    eventually("operations in flight", || {
        let status: Value = server.send(Request::get("/admin/status")).json();
        if status["running"] == n { Ok(()) } else { Err(status) }
    });
}

fn hanging(key: &str) -> Request {
    Request::post("/slow?ms=60000").key(key)
}

fn of(principal: &str, request: Request) -> Request {
    request.header("Authorization", &format!("Bearer {principal}-1"))
}

#[test]
fn duplicates_that_wait_count_toward_the_operations_in_flight() {
    let server =
        Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "3"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "60")]);
    let request = hanging(&fresh_key());
    let _waiting = [(); 3].map(|()| server.begin(&request));
    wait_until_in_flight(&server, 3);
    server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert_eq!((server.runs("/slow"), server.runs("/items")), (1, 0));
}

#[test]
fn a_request_that_is_refused_is_not_counted_while_its_body_arrives() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "1"),
        ("IDEMPOTENCY_KEY__LIMITS__BODY_TIMEOUT", "0.5"),
    ]);
    let _running = server.begin(&hanging(&fresh_key()));
    wait_until_in_flight(&server, 1);
    let upload = || {
        let bytes = Request::post("/items").key(&fresh_key()).body("0123456789").bytes();
        let mut connection = server.connect();
        connection.write(&bytes[..bytes.len() - 1]);
        connection
    };
    let mut refused = [(); 5].map(|()| upload());
    for connection in &mut refused {
        // The rest of its body does not arrive.
        connection.reply().is_problem(503, "store-unavailable");
    }
    wait_until_in_flight(&server, 1);
    assert_eq!(server.runs("/items"), 0);
}

#[test]
fn one_principal_runs_no_more_than_its_share_of_the_operations_in_flight() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_IN_FLIGHT", "12")]);
    // A quarter of the bound is not counted, and alice's share is a half.
    let mut running: Vec<Connection> = (1..=9)
        .map(|n| {
            let connection = server.begin(&of("alice", hanging(&fresh_key())));
            wait_until_in_flight(&server, n);
            connection
        })
        .collect();
    let quick = |principal: &str| server.send(of(principal, Request::post("/items").key(&fresh_key())));
    for _ in 0..3 {
        quick("alice").is_problem(503, "store-unavailable");
        assert_eq!(quick("bob").status, 201);
    }
    // Requests without a principal have no share, and stop at the bound of all.
    running.extend((10..=12).map(|n| {
        let connection = server.begin(&hanging(&fresh_key()));
        wait_until_in_flight(&server, n);
        connection
    }));
    server.post("/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert_eq!(server.runs("/slow"), 12);
}

#[test]
fn copies_of_streams_hold_no_more_bytes_than_max_buffered() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__LIMITS__MAX_BUFFERED", "8MB"),
        ("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "32MiB"),
        ("WORKERS", "1"),
    ]);
    // Both are larger than all buffers of a connection: the bytes that may be held, and the stream.
    let request = Request::post("/stream?chunks=2000&size=10000").key(&fresh_key());
    let mut stalled = Connection::open_narrow(server.address);
    stalled.write(&request.bytes());
    eventually("the record", || {
        let again = server.send(request.clone());
        if again.is_replay() { Ok(()) } else { Err(again.status) }
    });
    assert_eq!(server.send(request).value("idempotency-body"), Some("omitted"), "stored without its body");
    let small = |n: usize| server.send(Request::post("/items").key(&fresh_key()).body(vec![b'x'; n])).status;
    assert_eq!((small(20_000), small(0)), (503, 201), "the reader holds what there is");
    stalled.widen();
    let first = stalled.reply();
    assert_eq!((first.status, first.body.len()), (200, 20_000_000), "its client gets all of it");
    eventually("room again", || match small(1_000_000) {
        201 => Ok(()),
        status => Err(status),
    });
}

/// A store whose `complete` takes several polls.
struct Hesitating(MemoryStore);

impl Store for Hesitating {
    delegate_to_inner_store!();
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.0.begin(request)
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::boxed(async move {
            for _ in 0..5 {
                rt::task::yield_now().await;
            }
            self.0.complete(claim, record, ttl).await
        })
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }
}

#[test]
fn a_stream_too_large_to_keep_is_stored_without_its_reader_and_then_goes_at_its_readers_pace() {
    const MOST: usize = 100_000;
    const PIECE: usize = 10_000;
    alone(|| async {
        let mut settings = Settings::default();
        settings.storage.class = "own".into();
        settings.storage.max_response_body = MOST;
        let store = Hesitating(MemoryStore::default());
        let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
        let produced = Rc::new(Cell::new(0));
        let count = produced.clone();
        let handler = move || {
            let count = count.clone();
            let pieces = stream::repeat_with(move || {
                count.set(count.get() + PIECE);
                Ok::<_, Error>(web::Bytes::from(vec![7; PIECE]))
            });
            async move { HttpResponse::Ok().streaming(pieces) }
        };
        let app = App::new().app_data(web::Data::new(idempotency.clone())).wrap(IdempotencyKey::default());
        let app = init_service(app.route("/", web::post().to(handler))).await;
        let response = app.call(post("/", Some("k")).to_request()).await.unwrap();
        let id = idempotency.record_id("default", &Principal::anonymous(), "k");
        // Its client reads nothing.
        custom_parts::eventually(async || {
            let seen = idempotency.inspect("default", &id).await.unwrap();
            seen.is_some_and(|seen| seen.state == RecordState::Completed)
        })
        .await;
        custom_parts::eventually(async || idempotency.running() == 0).await;
        assert!(produced.get() <= MOST + 2 * PIECE, "{} bytes for a client that reads nothing", produced.get());
        let (status, headers, body) = send(&app, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), body.len()), (409, true, 0));
        let mut body = pin!(response.into_body());
        let mut read = 0;
        while read < 10 * MOST {
            let piece = poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap();
            read += piece.map_err(|_| ()).unwrap().len();
            assert!(produced.get() <= read + MOST + 2 * PIECE, "{} bytes for {read}", produced.get());
        }
    });
}

#[test]
fn a_claim_lasts_no_longer_than_max_run() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LIMITS__MAX_RUN", "1"), ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0")]);
    let request = hanging(&fresh_key());
    let mut running = vec![server.begin(&request)];
    server.wait_for_runs("/slow", 1);
    server.send(request.clone()).is_problem(423, "in-flight");
    eventually("a second run", || {
        running.push(server.begin(&request));
        match server.runs("/slow") {
            1 => Err(1),
            _ => Ok(()),
        }
    });
}

#[test]
fn a_full_store_refuses_new_keys_and_keeps_its_answers() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__MAX_ENTRIES", "50")]);
    let keys: Vec<String> = (0..80).map(|_| fresh_key()).collect();
    let is_stored: Vec<bool> = keys.iter().map(|key| server.post("/items", key).status == 201).collect();
    let stored = is_stored.iter().filter(|is_stored| **is_stored).count();
    assert!((45..=55).contains(&stored), "{stored}");
    for (key, is_stored) in keys.iter().zip(is_stored) {
        let again = server.post("/items", key);
        if is_stored {
            assert!(again.is_replay(), "{again:?}");
        } else {
            again.is_problem(503, "store-unavailable");
        }
    }
    assert_eq!(server.runs("/items"), stored as u64);
}

#[test]
fn a_store_whose_bytes_are_used_up_keeps_its_records_and_no_more_bodies() {
    const BODY: usize = 90_000;
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__STORAGE__MAX_BYTES", "4MB"),
        ("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "100kB"),
    ]);
    let mut connection = server.connect();
    let keys: Vec<String> = (0..100).map(|_| fresh_key()).collect();
    let mut send = |key: &String| connection.send(&Request::post(&format!("/bytes?size={BODY}")).key(key));
    for key in &keys {
        assert_eq!(send(key).body.len(), BODY);
    }
    let replays: Vec<Reply> = keys.iter().map(send).collect();
    assert!(replays.iter().all(Reply::is_replay), "nothing runs again");
    let kept = replays.iter().filter(|replay| replay.body.len() == BODY).count();
    assert!((10..=4_000_000 * 3 / 4 * 11 / 10 / BODY).contains(&kept), "{kept} bodies");
    assert_eq!(server.runs("/bytes"), 100);
}
