//! The bodies of answers that are committed with a transaction: large ones, streams, and streams that fail.

use std::{convert::Infallible, io};

use actix_idempotency::ledger::{TransactionError, Transactions, Tx};
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::common::{Counts, Faulty, World, ask, serve};
use crate::common::in_process::alone;

#[derive(Deserialize)]
struct Body {
    kind: String,
}

const PIECE: &[u8] = b"0123456789";

fn pieces(n: usize) -> impl Stream<Item = Result<Bytes, io::Error>> {
    stream::iter((0..n).map(|_| Ok(Bytes::from_static(PIECE))))
}

/// An answer with a body. The limit of the tests is 100 bytes.
fn answer(kind: &str) -> HttpResponse {
    match kind {
        "none" => HttpResponse::Created().finish(),
        "whole" => HttpResponse::Created().body(PIECE.repeat(5)),
        "large" => HttpResponse::Created().body(PIECE.repeat(20)),
        "stream" => HttpResponse::Created().streaming(pieces(5)),
        "large-stream" => HttpResponse::Created().streaming(pieces(20)),
        "sized" => HttpResponse::Created().no_chunking(50).streaming(pieces(5)),
        "large-sized" => HttpResponse::Created().no_chunking(200).streaming(pieces(20)),
        "short" => HttpResponse::Created().no_chunking(50).streaming(pieces(3)),
        "failing" => {
            HttpResponse::Created().streaming(pieces(3).chain(stream::iter([Err(io::Error::other("broken"))])))
        }
        "events" => HttpResponse::Ok()
            .content_type("text/event-stream")
            .streaming(stream::pending::<Result<Bytes, Infallible>>()),
        other => panic!("{other}"),
    }
}

async fn by_tx(mut tx: Tx<Faulty>, counts: web::Data<Counts>, body: web::Query<Body>) -> HttpResponse {
    counts.pay(&mut tx);
    answer(&body.kind)
}

async fn by_closure(
    db: Transactions<Faulty>,
    counts: web::Data<Counts>,
    body: web::Query<Body>,
) -> Result<HttpResponse, TransactionError> {
    db.run(async |tx| {
        counts.pay(tx);
        Ok(answer(&body.kind))
    })
    .await
}

async fn by_itself(counts: web::Data<Counts>, body: web::Query<Body>) -> HttpResponse {
    counts.next_run();
    answer(&body.kind)
}

/// Sends two requests with one key. The lengths of the first answer and of its replay, and what is committed.
fn twice(path: &'static str, lengths: [usize; 2], rows: u32) {
    twice_with(512 << 20, path, lengths, rows);
}

/// As [`twice`], where all requests together hold at most `most` bytes.
fn twice_with(most: usize, path: &'static str, lengths: [usize; 2], rows: u32) {
    alone(move || async move {
        let world = World::with(|settings| {
            settings.storage.max_response_body = 100;
            settings.limits.max_buffered = most;
        });
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself);
        let (first, second) = (ask(&*app, path, "k").await, ask(&*app, path, "k").await);
        assert_eq!([first.status, second.status], [201, 201], "{path}: {first:?} {second:?}");
        assert!(!first.is_replay && second.is_replay, "{path}: {first:?} {second:?}");
        assert_eq!([first.text.len(), second.text.len()], lengths, "{path}");
        assert_eq!((world.counts.rows(), world.counts.runs()), (rows, 1), "{path}");
        world.ends_transactions().await;
    });
}

#[test]
fn a_body_is_kept_whether_it_comes_whole_or_in_pieces() {
    for (path, rows) in [("/tx", 1), ("/closure", 1), ("/none", 0)] {
        for kind in ["whole", "stream", "sized"] {
            twice(Box::leak(format!("{path}?kind={kind}").into_boxed_str()), [50, 50], rows);
        }
        twice(Box::leak(format!("{path}?kind=none").into_boxed_str()), [0, 0], rows);
    }
}

#[test]
fn a_body_that_is_too_large_is_sent_whole_and_committed_without_its_body() {
    for (path, rows) in [("/tx", 1), ("/closure", 1), ("/none", 0)] {
        for kind in ["large", "large-stream", "large-sized"] {
            twice(Box::leak(format!("{path}?kind={kind}").into_boxed_str()), [200, 0], rows);
        }
    }
}

#[test]
fn a_body_for_which_there_is_no_room_is_sent_whole_and_committed_without_its_body() {
    for (path, rows) in [("/tx", 1), ("/closure", 1), ("/none", 0)] {
        for kind in ["stream", "sized"] {
            twice_with(40, Box::leak(format!("{path}?kind={kind}").into_boxed_str()), [50, 0], rows);
            twice_with(50, Box::leak(format!("{path}?kind={kind}").into_boxed_str()), [50, 50], rows);
        }
    }
}

#[test]
fn a_body_that_fails_rolls_back_and_frees_the_key() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself);
        for kind in ["failing", "short"] {
            for path in ["/tx", "/closure", "/none"] {
                let path = format!("{path}?kind={kind}");
                let before = world.counts.runs();
                for n in 1..=2 {
                    assert_eq!(ask(&*app, &path, &path).await.status, 500, "{path}");
                    assert_eq!((world.counts.rows(), world.counts.runs()), (0, before + n), "{path}");
                }
            }
        }
        world.ends_transactions().await;
    });
}

#[test]
fn a_stream_of_events_can_not_be_committed_with_a_transaction() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/tx" => by_tx, "/closure" => by_closure);
        for path in ["/tx?kind=events", "/closure?kind=events"] {
            for _ in 0..2 {
                ask(&*app, path, path).await.is_problem(500, "transaction-misused");
            }
        }
        world.has(0, 4);
        world.ends_transactions().await;
    });
}

#[test]
fn a_stream_of_events_without_a_transaction_is_recorded_without_its_body() {
    alone(|| async {
        let world = World::new();
        let events = |counts: web::Data<Counts>| async move {
            counts.next_run();
            HttpResponse::Ok().content_type("text/event-stream").streaming(pieces(2))
        };
        let app = serve!(world, world.wrap(), "/" => events);
        ask(&*app, "/", "k").await.is(200, "01234567890123456789");
        ask(&*app, "/", "k").await.is_replay(200, "");
        world.has(0, 1);
    });
}
