//! Explores random thread schedules of the memory store and its wake-ups with shuttle. `cargo xtask test` builds and
//! runs this with `--cfg shuttle`, which makes the store use the mutex of shuttle.
#![cfg(shuttle)]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, Claim, Completion, MemoryLimits, MemoryStore, OwnerToken, ReleaseAs, Store},
};
use actix_web::http::StatusCode;
use futures_util::FutureExt as _;
use shuttle::{future, thread};

const TTL: Duration = Duration::from_secs(3600);
const ITERATIONS: usize = 5_000;

fn ask() -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([1; 42]), OwnerToken::random())
}

fn record(n: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[n]))
}

async fn claim(store: &MemoryStore, request: &BeginRequest) -> Option<Claim> {
    match store.begin(request).await.unwrap() {
        Begin::Acquired(acquired) => Some(acquired.claim),
        _ => None,
    }
}

/// A request as the middleware makes it: calls `begin`, waits while another request runs, and calls `begin` again.
/// Returns the response that the client gets, and counts in `ran` whether this request ran.
async fn request(store: &MemoryStore, ran: &AtomicUsize, n: u8) -> Record {
    let request = ask();
    for round in 0.. {
        match store.begin(&request).await.unwrap() {
            Begin::Acquired(acquired) => {
                ran.fetch_add(1, SeqCst);
                thread::yield_now();
                assert_eq!(store.complete(&acquired.claim, &record(n), TTL).await.unwrap(), Completion::Stored);
                return record(n);
            }
            Begin::Completed(found) => return found.record,
            Begin::InFlight(_) => store.wait_for_change(&request.id, round, TTL).await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
    unreachable!("the loop ends with an answer")
}

/// In another project, a waiter that registered between the look-up and the completion slept for ever. Shuttle reports
/// that as a deadlock.
#[test]
fn of_concurrent_requests_one_runs_and_all_get_its_answer() {
    shuttle::check_random(
        || {
            let store = Arc::new(MemoryStore::new(MemoryLimits::default()));
            let ran = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..3)
                .map(|n| {
                    let (store, ran) = (store.clone(), ran.clone());
                    thread::spawn(move || future::block_on(request(&store, &ran, n)))
                })
                .collect();
            let answers: Vec<Record> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(ran.load(SeqCst), 1);
            assert!(answers.iter().all(|answer| *answer == answers[0]));
        },
        ITERATIONS,
    );
}

#[test]
fn a_released_claim_wakes_a_waiter_who_then_runs() {
    shuttle::check_random(
        || {
            let store = Arc::new(MemoryStore::new(MemoryLimits::default()));
            let claim = future::block_on(claim(&store, &ask())).unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            let waiters: Vec<_> = (0..2)
                .map(|n| {
                    let (store, ran) = (store.clone(), ran.clone());
                    thread::spawn(move || future::block_on(request(&store, &ran, n)))
                })
                .collect();
            let released = thread::spawn({
                let store = store.clone();
                move || future::block_on(store.release(&claim, ReleaseAs::Free)).unwrap()
            });
            assert!(released.join().unwrap());
            waiters.into_iter().for_each(|waiter| drop(waiter.join().unwrap()));
            assert_eq!(ran.load(SeqCst), 1);
        },
        ITERATIONS,
    );
}

#[test]
fn a_waiter_that_gives_up_leaves_the_others_their_wake_up() {
    shuttle::check_random(
        || {
            let store = Arc::new(MemoryStore::new(MemoryLimits::default()));
            let claim = future::block_on(claim(&store, &ask())).unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            let stays = thread::spawn({
                let (store, ran) = (store.clone(), ran.clone());
                move || future::block_on(request(&store, &ran, 1))
            });
            let leaves = thread::spawn({
                let store = store.clone();
                move || {
                    future::block_on(async {
                        let id = ask().id;
                        let mut waiting = Box::pin(store.wait_for_change(&id, 0, TTL));
                        let _ = waiting.as_mut().now_or_never();
                        // The future is dropped while it waits.
                    });
                }
            });
            future::block_on(store.complete(&claim, &record(9), TTL)).unwrap();
            leaves.join().unwrap();
            assert_eq!(stays.join().unwrap(), record(9));
            assert_eq!(ran.load(SeqCst), 0);
        },
        ITERATIONS,
    );
}
