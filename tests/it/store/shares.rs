//! The memory store when it is full: whom it refuses, and what it gives up. One principal can't take the room of others.

use std::time::Duration;

use actix_idempotency::{
    Principal,
    store::{Begin, Clock, Completion, MemoryLimits, MemoryStore, Store as _, StoreError},
};

use super::memory::{ask, begin, claim, complete, now, record};
use crate::common::{Reply, Request, Server, fresh_key};

const MINUTE: Duration = Duration::from_secs(60);

fn has_body(store: &MemoryStore, n: u64) -> bool {
    match begin(store, &ask(n)) {
        Begin::Completed(found) => found.record.response().unwrap().body().is_some(),
        other => panic!("{n}: {other:?}"),
    }
}

fn of(principal: &str, n: u64) -> actix_idempotency::store::BeginRequest {
    ask(n).principal(Principal::new(principal))
}

#[test]
fn bodies_are_kept_for_min_retention_and_a_newcomer_does_without() {
    let clock = Clock::steered();
    let limits = MemoryLimits { max_bytes: 100_000, ..MemoryLimits::default() };
    let store = MemoryStore::with_clock(limits, clock.clone());
    let body = [7; 5000];
    let fill = |range: std::ops::Range<u64>| {
        for n in range {
            assert_eq!(complete(&store, &claim(&store, &ask(n)), &body), Completion::Stored);
            clock.advance(Duration::from_millis(1));
        }
    };
    fill(0..40);
    let kept = (0..40).take_while(|n| has_body(&store, *n)).count() as u64;
    assert!((10..=20).contains(&kept), "{kept}");
    assert!((kept..40).all(|n| !has_body(&store, n)), "none of the newcomers took the body of an older record");
    clock.advance(MINUTE);
    fill(40..41);
    assert!(has_body(&store, 40) && !has_body(&store, 0), "after that the oldest body goes");
}

#[test]
fn a_principal_takes_no_more_than_its_share_of_the_entries() {
    let clock = Clock::steered();
    let limits = MemoryLimits { max_entries: 100, ..MemoryLimits::default() };
    let store = MemoryStore::with_clock(limits, clock.clone());
    for n in 0..50 {
        complete(&store, &claim(&store, &of("alice", n)), b"x");
    }
    assert!(matches!(now(store.begin(&of("alice", 50))), Err(StoreError::Full)));
    for n in 100..150 {
        complete(&store, &claim(&store, &of("bob", n)), b"x");
    }
    // Past their retention her own oldest records go, and nobody else's.
    clock.advance(MINUTE);
    for n in 50..60 {
        complete(&store, &claim(&store, &of("alice", n)), b"x");
    }
    let is_kept = |principal: &str, n| matches!(begin(&store, &of(principal, n)), Begin::Completed(_));
    assert!((100..150).all(|n| is_kept("bob", n)));
    assert!((10..60).all(|n| is_kept("alice", n)));
}

#[test]
fn a_principal_takes_no_more_than_its_share_of_the_bytes() {
    let limits = MemoryLimits { max_bytes: 200_000, ..MemoryLimits::default() };
    let store = MemoryStore::with_clock(limits, Clock::steered());
    let small = |n: u64| assert_eq!(complete(&store, &claim(&store, &of("alice", n)), &[7; 1000]), Completion::Stored);
    (0..20).for_each(small);
    for n in 100..1000 {
        match now(store.begin(&of("bob", n))) {
            Ok(Begin::Acquired(acquired)) => {
                complete(&store, &acquired.claim, &[7; 5000]);
            }
            Err(StoreError::Full) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(store.bytes() < 150_000, "{}", store.bytes());
    (20..40).for_each(small);
    assert!((0..40).all(|n| has_body(&store, n)), "her bodies stay, and there is room for more");
}

#[test]
fn over_http_too_a_principal_takes_no_more_than_its_share() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__MAX_ENTRIES", "100")]);
    let post = |who: &str, path: &str, key: &str| -> Reply {
        server.send(Request::post(path).key(key).header("Authorization", &format!("Bearer {who}-1")))
    };
    for n in 0..50 {
        assert_eq!(post("alice", "/items", &format!("k{n}")).status, 201);
    }
    post("alice", "/items", &fresh_key()).is_problem(503, "store-unavailable");
    assert!(post("alice", "/items", "k0").is_replay(), "her answers are still there");
    assert_eq!(post("bob", "/items", &fresh_key()).status, 201);
    assert_eq!(server.post("/items", &fresh_key()).status, 201);
}

#[test]
fn over_http_too_the_bodies_of_one_principal_stay_when_another_fills_the_store() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__STORAGE__MAX_BYTES", "8MiB"),
        ("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "500kB"),
    ]);
    let mut connection = server.connect();
    let mut post = |who: &str, path: &str, key: &str| -> Reply {
        connection.send(&Request::post(path).key(key).header("Authorization", &format!("Bearer {who}-1")))
    };
    for n in 0..50 {
        assert_eq!(post("alice", "/items", &format!("k{n}")).status, 201);
    }
    for n in 0..40 {
        let status = post("bob", "/bytes?size=400000", &format!("k{n}")).status;
        assert!(matches!(status, 200 | 503), "{status}");
    }
    for n in 0..50 {
        let again = post("alice", "/items", &format!("k{n}"));
        assert!(again.is_replay() && again.value("idempotency-body").is_none(), "{again:?}");
    }
}

#[test]
fn limits_may_be_as_large_as_numbers_go() {
    let limits = MemoryLimits {
        max_entries: usize::MAX,
        max_bytes: usize::MAX,
        max_response_body: usize::MAX,
        min_retention: Duration::MAX,
        ..MemoryLimits::default()
    };
    for limits in [limits, MemoryLimits { max_response_body: usize::MAX, ..MemoryLimits::default() }] {
        let store = MemoryStore::new(limits);
        complete(&store, &claim(&store, &of("alice", 1)), b"x");
        assert!(matches!(begin(&store, &ask(1)), Begin::Completed(found) if found.record == record(b"x")));
    }
}
