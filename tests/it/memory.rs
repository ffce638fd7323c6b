//! The memory store: bounded, and sound in every state of a record. Time is steered.

use std::{sync::Arc, time::Duration};

use actix_idempotency::{
    Idempotency,
    key::{Fingerprint, RecordId},
    record::Record,
    settings::OnFull,
    store::{
        Begin, BeginRequest, Claim, Clock, Completion, Fate, Forgotten, MemoryLimits, MemoryStore, Mode, OwnerToken,
        Renewal, Store, StoreError,
    },
};
use futures_util::FutureExt as _;

const LEASE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_micros(1);

fn store(limits: MemoryLimits) -> (MemoryStore, Clock) {
    let clock = Clock::steered();
    (MemoryStore::with_clock(limits, clock.clone()), clock)
}

fn id(n: u64) -> RecordId {
    // Hash-like: the store uses the bytes as they are.
    let mut bytes = [0; 32];
    for (i, part) in bytes.chunks_mut(8).enumerate() {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13 * i as u32 + 7);
        part.copy_from_slice(&x.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    RecordId::from_bytes(bytes)
}

fn ask(n: u64) -> BeginRequest {
    let mut request = BeginRequest::new(id(n), Fingerprint::from_bytes([1; 32]), OwnerToken::random());
    request.lease = LEASE;
    request
}

fn record(body: &[u8]) -> Record {
    // As `Record` writes it: version, status, no headers, a body.
    let mut bytes = vec![1, 251, 201, 0, 0, 1];
    match body.len() {
        length @ 0..=250 => bytes.push(length as u8),
        length => bytes.extend([251, length as u8, (length >> 8) as u8]),
    }
    bytes.extend(body);
    Record::from_bytes(bytes.into()).unwrap()
}

/// The answer of a store that never waits.
fn now<T>(future: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    future.now_or_never().expect("a memory store answers at once")
}

fn begin(store: &MemoryStore, request: &BeginRequest) -> Begin {
    now(store.begin(request)).unwrap()
}

fn claim(store: &MemoryStore, request: &BeginRequest) -> Claim {
    match begin(store, request) {
        Begin::Fresh { claim, .. } => claim,
        other => panic!("{other:?}"),
    }
}

fn complete(store: &MemoryStore, claim: &Claim, body: &[u8]) -> Completion {
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
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight { .. }));
    clock.advance(TICK);
    let taker = claim(&store, &ask(1));
    assert_eq!((taker.attempt, taker.taken_over), (2, true));
    assert!(taker.fence > late.fence);
    // No stale writer.
    assert_eq!(complete(&store, &late, b"late"), Completion::Superseded(None));
    assert_eq!(now(store.renew(&late, LEASE)).unwrap(), Renewal::Lost);
    now(store.release(&late, Fate::Free)).unwrap();
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight { .. }), "the new owner's claim stands");
    assert_eq!(complete(&store, &taker, b"winner"), Completion::Stored);
    assert_eq!(complete(&store, &late, b"late"), Completion::Superseded(Some(record(b"winner"))));
}

/// Expiry was checked in `get` but not in `set if absent` elsewhere: after the TTL two requests both passed.
#[test]
fn a_record_expires_exactly_when_it_says_and_for_all() {
    let (store, clock) = store(MemoryLimits::default());
    done(&store, 1, b"x");
    clock.advance(TTL - TICK);
    assert!(matches!(begin(&store, &ask(1)), Begin::Completed { .. }));
    clock.advance(TICK);
    let held = claim(&store, &ask(1));
    assert_eq!(held.attempt, 1);
    assert!(matches!(begin(&store, &ask(1)), Begin::InFlight { .. }));
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
    // Nothing but claims: full.
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
    assert!(matches!(now(store.begin(&ask(10))), Err(StoreError::Full)), "all are younger than a minute");
    assert!(matches!(begin(&store, &ask(0)), Begin::Completed { .. }), "what is there still answers");
    clock.advance(Duration::from_secs(50));
    done(&store, 10, b"x");
    assert!(now(store.inspect(&id(0))).unwrap().is_none());
    assert!(now(store.inspect(&id(1))).unwrap().is_some());
}

#[test]
fn over_its_bytes_the_store_gives_up_the_oldest_bodies_and_runs_nothing_again() {
    let limits = MemoryLimits { max_bytes: 100_000, ..MemoryLimits::default() };
    let (store, _) = store(limits);
    let body = [7; 5000];
    for n in 0..60 {
        done(&store, n, &body);
        assert!(store.bytes() <= 100_000);
    }
    let bodies: Vec<bool> = (0..60)
        .map(|n| match begin(&store, &ask(n)) {
            Begin::Completed { record, .. } => record.response().unwrap().body().is_some(),
            other => panic!("{n}: {other:?}"),
        })
        .collect();
    assert!(bodies[59] && !bodies[0]);
    assert!(bodies.is_sorted(), "the oldest went first: {bodies:?}");
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
    let Begin::Completed { record: newest, .. } = begin(&store, &ask(1999)) else { panic!() };
    assert!(newest.response().unwrap().body().is_some());
    assert!(now(store.inspect(&id(0))).unwrap().is_none());
    assert!(now(store.inspect(&id(1970))).unwrap().is_some(), "nothing younger than a minute was evicted");
}

#[test]
fn what_a_manual_claim_holds_is_accounted_for() {
    let (store, _) = store(MemoryLimits::default());
    done(&store, 1, &[7; 1000]);
    let bytes = store.bytes();
    for _ in 0..1000 {
        let held = claim(&store, &BeginRequest { mode: Mode::Again, ..ask(1) });
        assert_eq!(store.bytes(), bytes);
        now(store.release(&held, Fate::Free)).unwrap();
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
    while let Ok(Begin::Fresh { claim, .. }) = now(store.begin(&ask(kept))) {
        complete(&store, &claim, &[7; 3000]);
        kept += 1;
    }
    assert!(kept >= 6, "{kept}");
    for n in 0..kept {
        assert!(matches!(begin(&store, &ask(n)), Begin::Completed { .. }));
    }
}

#[test]
fn a_million_keys_leave_no_more_than_they_may() {
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
        let held = claim(&store, &BeginRequest { mode: Mode::Again, ..ask(1) });
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
                actix_web::rt::spawn(async move { store.changed(&id, 0, Duration::from_secs(60)).await })
            })
            .collect();
        actix_web::rt::task::yield_now().await;
        if released {
            store.release(&held, Fate::Free).await.unwrap();
        } else {
            complete(&store, &held, b"x");
        }
        let woken = futures_util::future::join_all(waiting);
        actix_web::rt::time::timeout(Duration::from_secs(5), woken).await.expect("none sleeps on");
        store.changed(&held.id, 0, Duration::from_secs(60)).await.unwrap();
    }
}

#[actix_web::test]
async fn a_waiter_is_woken_when_a_lease_ends() {
    let store = MemoryStore::default();
    let request = BeginRequest { lease: Duration::from_millis(30), ..ask(1) };
    claim(&store, &request);
    actix_web::rt::time::timeout(Duration::from_secs(5), store.changed(&id(1), 0, Duration::from_secs(60)))
        .await
        .expect("it does not wait for an owner that is lost")
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
