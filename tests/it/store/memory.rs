//! The memory store: its bounds, its evictions, and its answers in every state of a record. Time is steered.

use std::{sync::Arc, time::Duration};

use actix_idempotency::{
    Idempotency,
    key::{Fingerprint, RecordId},
    record::Record,
    settings::OnFull,
    store::{
        Begin, BeginRequest, Claim, Clock, Completion, Forgotten, IfCompleted, MemoryLimits, MemoryStore, OwnerToken,
        ReleaseAs, Renewal, Store, StoreError,
    },
};
use actix_web::http::StatusCode;
use futures_util::FutureExt as _;

const LEASE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_micros(1);

fn store(limits: MemoryLimits) -> (MemoryStore, Clock) {
    let clock = Clock::steered();
    (MemoryStore::with_clock(limits, clock.clone()), clock)
}

fn id(n: u64) -> RecordId {
    // Spread like a hash, because the store takes ids for hashes and does not hash them again.
    let mut bytes = [0; 32];
    for (i, part) in bytes.chunks_mut(8).enumerate() {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13 * i as u32 + 7);
        part.copy_from_slice(&x.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    RecordId::from_bytes(bytes)
}

pub(super) fn ask(n: u64) -> BeginRequest {
    let mut request = BeginRequest::new(id(n), Fingerprint::from_bytes([1; 42]), OwnerToken::random());
    request.lease = LEASE;
    request
}

pub(super) fn record(body: &[u8]) -> Record {
    Record::new(StatusCode::CREATED, [], Some(body))
}

/// The answer of a store that answers at once.
pub(super) fn now<T>(future: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    future.now_or_never().expect("a memory store answers at once")
}

pub(super) fn begin(store: &MemoryStore, request: &BeginRequest) -> Begin {
    now(store.begin(request)).unwrap()
}

pub(super) fn claim(store: &MemoryStore, request: &BeginRequest) -> Claim {
    match begin(store, request) {
        Begin::Acquired(acquired) => acquired.claim,
        other => panic!("{other:?}"),
    }
}

pub(super) fn complete(store: &MemoryStore, claim: &Claim, body: &[u8]) -> Completion {
    now(store.complete(claim, &record(body), TTL)).unwrap()
}

fn done(store: &MemoryStore, n: u64, body: &[u8]) {
    let claim = claim(store, &ask(n));
    assert_eq!(complete(store, &claim, body), Completion::Stored);
}

#[test]
fn a_lease_ends_exactly_when_it_says() {
    let (store, clock) = store(MemoryLimits::default());
    let late = claim(&store, &ask(1));
    clock.advance(LEASE - TICK);
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight(_)));
    clock.advance(TICK);
    let taker = claim(&store, &ask(1));
    assert_eq!((taker.attempt, taker.taken_over), (2, true));
    assert!(taker.fence > late.fence);
    // The owner whose lease ended can neither complete, renew nor release.
    assert_eq!(complete(&store, &late, b"late"), Completion::Superseded(None));
    assert_eq!(now(store.renew(&late, LEASE)).unwrap(), Renewal::Lost);
    now(store.release(&late, ReleaseAs::Free)).unwrap();
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight(_)), "the new owner's claim stands");
    assert_eq!(complete(&store, &taker, b"winner"), Completion::Stored);
    assert_eq!(complete(&store, &late, b"late"), Completion::Superseded(Some(record(b"winner"))));
}

/// In another project, "get" checked the expiry and "set if absent" did not, so two requests passed after the TTL.
#[test]
fn a_record_expires_exactly_at_its_ttl_for_every_caller() {
    let (store, clock) = store(MemoryLimits::default());
    done(&store, 1, b"x");
    clock.advance(TTL - TICK);
    assert!(matches!(begin(&store, &ask(1)), Begin::Completed(_)));
    clock.advance(TICK);
    let held = claim(&store, &ask(1));
    assert_eq!(held.attempt, 1);
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight(_)));
}

#[test]
fn expired_records_are_freed_without_traffic_on_their_keys() {
    let (store, clock) = store(MemoryLimits::default());
    for n in 0..5000 {
        done(&store, n, b"x");
    }
    assert!(store.bytes() > 0);
    clock.advance(TTL);
    store.sweep();
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn live_claims_are_never_evicted() {
    let limits = MemoryLimits { max_entries: 100, min_retention: Duration::ZERO, ..MemoryLimits::default() };
    let (store, _) = store(limits);
    let claims: Vec<_> = (0..50).map(|n| claim(&store, &ask(n))).collect();
    for n in 100..1000 {
        done(&store, n, b"x");
    }
    assert!(store.len() <= 100);
    for claim in &claims {
        assert_eq!(complete(&store, claim, b"x"), Completion::Stored);
        assert!(now(store.inspect(&claim.id)).unwrap().is_some());
    }
    // A store that holds nothing but claims is full.
    for n in 2000..2100 {
        claim(&store, &ask(n));
    }
    assert!(matches!(now(store.begin(&ask(3000))), Err(StoreError::Full)));
}

#[test]
fn entries_are_evicted_oldest_first_and_only_past_their_retention() {
    let limits = MemoryLimits { max_entries: 10, ..MemoryLimits::default() };
    let (store, clock) = store(limits);
    for n in 0..10 {
        done(&store, n, b"x");
        clock.advance(Duration::from_secs(1));
    }
    assert!(matches!(now(store.begin(&ask(10))), Err(StoreError::Full)), "all records are younger than a minute");
    assert!(matches!(begin(&store, &ask(0)), Begin::Completed(_)), "a full store still replays its records");
    clock.advance(Duration::from_secs(50));
    done(&store, 10, b"x");
    assert!(now(store.inspect(&id(0))).unwrap().is_none());
    assert!(now(store.inspect(&id(1))).unwrap().is_some());
}

#[test]
fn over_max_bytes_the_oldest_bodies_are_given_up_and_nothing_runs_again() {
    let limits = MemoryLimits { max_bytes: 100_000, min_retention: Duration::ZERO, ..MemoryLimits::default() };
    let (store, _) = store(limits);
    let body = [7; 5000];
    for n in 0..60 {
        done(&store, n, &body);
        assert!(store.bytes() <= 100_000);
    }
    let bodies: Vec<bool> = (0..60)
        .map(|n| match begin(&store, &ask(n)) {
            Begin::Completed(found) => found.record.response().unwrap().body().is_some(),
            other => panic!("{n}: {other:?}"),
        })
        .collect();
    assert!(bodies[59] && !bodies[0]);
    assert!(bodies.is_sorted(), "the oldest bodies are given up first: {bodies:?}");
}

#[test]
fn records_without_bodies_do_not_crowd_out_the_bodies_of_new_ones() {
    let limits = MemoryLimits { max_bytes: 50_000, ..MemoryLimits::default() };
    let (store, clock) = store(limits);
    for n in 0..2000 {
        done(&store, n, &[7; 1000]);
        clock.advance(Duration::from_secs(2));
        assert!(store.bytes() <= 50_000);
    }
    let Begin::Completed(newest) = begin(&store, &ask(1999)) else { panic!() };
    assert!(newest.record.response().unwrap().body().is_some());
    assert!(now(store.inspect(&id(0))).unwrap().is_none());
    assert!(now(store.inspect(&id(1970))).unwrap().is_some(), "nothing younger than a minute was evicted");
}

#[test]
fn the_record_beneath_a_manual_claim_counts_toward_the_bytes() {
    let (store, _) = store(MemoryLimits::default());
    done(&store, 1, &[7; 1000]);
    let bytes = store.bytes();
    for _ in 0..1000 {
        let held = claim(&store, &ask(1).if_completed(IfCompleted::Rerun));
        assert_eq!(store.bytes(), bytes);
        now(store.release(&held, ReleaseAs::Free)).unwrap();
    }
    assert_eq!((store.len(), store.bytes()), (1, bytes));
}

#[test]
fn on_full_reject_evicts_nothing() {
    let limits = MemoryLimits {
        max_bytes: 20_000,
        min_retention: Duration::ZERO,
        on_full: OnFull::Reject,
        ..MemoryLimits::default()
    };
    let (store, _) = store(limits);
    let mut kept = 0;
    while let Ok(Begin::Acquired(acquired)) = now(store.begin(&ask(kept))) {
        complete(&store, &acquired.claim, &[7; 3000]);
        kept += 1;
    }
    assert!(kept >= 6, "{kept}");
    for n in 0..kept {
        assert!(matches!(begin(&store, &ask(n)), Begin::Completed(_)));
    }
}

#[test]
fn after_200_000_keys_the_store_is_within_its_bounds() {
    let limits = MemoryLimits { max_entries: 10_000, min_retention: Duration::ZERO, ..MemoryLimits::default() };
    let (store, _) = store(limits);
    let mut flat = 0;
    for n in 0..200_000 {
        done(&store, n, &[7; 200]);
        if n == 50_000 {
            flat = store.bytes();
        }
    }
    assert!(store.len() <= 11_000, "{}", store.len());
    assert!(store.bytes() <= flat + flat / 10);
}

#[test]
fn manual_reruns_of_one_key_leave_nothing_behind() {
    let (store, _) = store(MemoryLimits::default());
    done(&store, 1, b"x");
    let bytes = store.bytes();
    for _ in 0..10_000 {
        let held = claim(&store, &ask(1).if_completed(IfCompleted::Rerun));
        complete(&store, &held, b"x");
    }
    assert_eq!((store.len(), store.bytes()), (1, bytes));
}

#[actix_web::test]
async fn waiters_are_woken_by_completion_and_by_release() {
    let store = Arc::new(MemoryStore::default());
    for released in [false, true] {
        let held = claim(&store, &ask(u64::from(released)));
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (store, id) = (store.clone(), held.id);
                actix_web::rt::spawn(async move { store.wait_for_change(&id, 0, Duration::from_secs(60)).await })
            })
            .collect();
        actix_web::rt::task::yield_now().await;
        if released {
            store.release(&held, ReleaseAs::Free).await.unwrap();
        } else {
            complete(&store, &held, b"x");
        }
        let woken = futures_util::future::join_all(waiting);
        actix_web::rt::time::timeout(Duration::from_secs(5), woken).await.expect("every waiter wakes");
        store.wait_for_change(&held.id, 0, Duration::from_secs(60)).await.unwrap();
    }
}

#[actix_web::test]
async fn a_waiter_is_woken_when_a_lease_ends() {
    let store = MemoryStore::default();
    let request = ask(1).lease(Duration::from_millis(30));
    claim(&store, &request);
    actix_web::rt::time::timeout(Duration::from_secs(5), store.wait_for_change(&id(1), 0, Duration::from_secs(60)))
        .await
        .expect("a waiter wakes when the lease of the owner ends")
        .unwrap();
}

#[actix_web::test]
async fn an_operator_finds_the_record_of_a_key() {
    let idempotency = Idempotency::in_memory();
    let alice = actix_idempotency::Principal::new("alice");
    let id = idempotency.record_id("default", &alice, "order-17");
    assert_ne!(id, idempotency.record_id("default", &actix_idempotency::Principal::anonymous(), "order-17"));
    assert!(idempotency.inspect("default", &id).await.unwrap().is_none());
    assert_eq!(idempotency.forget("default", &id).await.unwrap(), Forgotten::Absent);
    assert!(idempotency.inspect("nowhere", &id).await.is_err());
}
