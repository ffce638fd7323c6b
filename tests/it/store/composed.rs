//! Stores that are composed of a storage and a lock: when their records end, and their fencing tokens.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, ComposedStore, Lock, OwnerToken, ReleaseAs, Store as _, StoreError,
        ThreadLock,
    },
};
use actix_web::{http::StatusCode, rt};

use super::custom_parts::{MapStorage, eventually};
use crate::common::at_once;

fn ask() -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([2; 42]), OwnerToken::random())
}

async fn claim(store: &ComposedStore) -> Claim {
    match store.begin(&ask()).await.unwrap() {
        Begin::Acquired(acquired) => acquired.claim,
        other => panic!("{other:?}"),
    }
}

/// The storage keeps its values for ever, as one does that sweeps now and then.
#[actix_web::test]
async fn after_the_ttl_a_composed_store_replays_nothing_that_its_storage_still_has() {
    const TTL: Duration = Duration::from_millis(200);
    let store = ComposedStore::new(MapStorage::default(), ThreadLock::default(), "lock");
    let first = claim(&store).await;
    let start = Instant::now();
    let record = Record::new(StatusCode::CREATED, [], Some(b"x"));
    assert_eq!(store.complete(&first, &record, TTL).await.unwrap(), Completion::Stored);
    eventually(async || match store.begin(&ask()).await.unwrap() {
        Begin::Completed(found) => {
            assert!(found.remaining <= TTL, "{found:?}");
            false
        }
        Begin::Acquired(acquired) => {
            store.release(&acquired.claim, ReleaseAs::Free).await.unwrap();
            true
        }
        other => panic!("{other:?}"),
    })
    .await;
    assert!(start.elapsed() >= TTL, "{:?}", start.elapsed());
    assert!(store.inspect(&ask().id).await.unwrap().is_none(), "operators do not see it either");
}

/// A lock that gives fencing tokens.
#[derive(Default)]
struct Fencing(ThreadLock, AtomicU64);

impl Lock for Fencing {
    async fn acquire(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        self.0.acquire(name, token, ttl).await
    }
    async fn renew(&self, name: &str, token: OwnerToken, ttl: Duration) -> Result<bool, StoreError> {
        self.0.renew(name, token, ttl).await
    }
    async fn release(&self, name: &str, token: OwnerToken) -> Result<(), StoreError> {
        self.0.release(name, token).await
    }
    async fn fence(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.1.fetch_add(1, SeqCst) + 7))
    }
}

#[actix_web::test]
async fn the_fencing_tokens_of_a_composed_store_are_those_of_its_lock() {
    let store = ComposedStore::new(MapStorage::default(), Fencing::default(), "lock");
    for fence in 7..10 {
        let claim = claim(&store).await;
        assert_eq!(claim.fence, fence);
        store.release(&claim, ReleaseAs::Free).await.unwrap();
    }
}

/// Claims of several workers come within one tick of the clock.
#[test]
fn without_fencing_tokens_of_the_lock_no_two_claims_of_a_process_have_the_same_one() {
    let fences = at_once(4, |_| {
        rt::System::new().block_on(async {
            let store = ComposedStore::new(MapStorage::default(), ThreadLock::default(), "lock");
            let mut fences = Vec::new();
            for _ in 0..2000 {
                let claim = claim(&store).await;
                store.release(&claim, ReleaseAs::Free).await.unwrap();
                fences.push(claim.fence);
            }
            fences
        })
    });
    assert!(fences.iter().all(|fences| fences.is_sorted()), "they grow with every claim of a key");
    assert_eq!(fences.concat().into_iter().collect::<BTreeSet<u64>>().len(), 8000);
}
