//! The store itself, and the lock for custom storages.

use std::time::Duration;

use actix_idempotency::{
    Begin, BeginRequest, Claim, Completion, Fate, Fingerprint, Forgotten, Idempotency, Lock as _, Mode, OnUnknown,
    OwnerToken, Principal, Record, RecordId, RecordState, RedisLock, RedisStore, Renewal, Settings, Storage, Store,
    StoreError,
};
use actix_web::rt::time::{sleep, timeout};
use bytes::Bytes;

use super::fixture::Redis;

const TTL: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(150);

pub(super) fn store(redis: &Redis) -> RedisStore {
    let mut settings = Settings::default().storage;
    settings.location = redis.url();
    // The machine may be busy.
    settings.timeout = Duration::from_secs(10);
    RedisStore::new("default", &settings).unwrap()
}

fn ask(n: u8) -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([n; 32]), Fingerprint::from_bytes([1; 32]), OwnerToken::random())
}

fn record(n: u8) -> Record {
    Record::from_bytes(Bytes::from(vec![1, 251, 201, 0, 0, 1, 1, n])).unwrap()
}

async fn claim(store: &RedisStore, request: &BeginRequest) -> Claim {
    match store.begin(request).await.unwrap() {
        Begin::Fresh { claim, .. } => claim,
        other => panic!("{other:?}"),
    }
}

async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match condition().await {
                Some(value) => return value,
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("it comes true")
}

#[actix_web::test]
async fn the_life_of_a_record() {
    let redis = Redis::start();
    let store = store(&redis);
    let request = ask(1);
    let held = claim(&store, &request).await;
    assert_eq!((held.attempt, held.taken_over), (1, false));
    let again = claim(&store, &request).await;
    assert_eq!((again.attempt, again.fence), (1, held.fence), "the same call once more");
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::InFlight { retry_after } if retry_after > SHORT));
    let other = BeginRequest { fingerprint: Fingerprint::from_bytes([2; 32]), ..ask(1) };
    assert!(matches!(store.begin(&other).await.unwrap(), Begin::Mismatch));
    assert_eq!(store.renew(&held, TTL).await.unwrap(), Renewal::Extended);
    assert_eq!(store.complete(&held, &record(7), TTL).await.unwrap(), Completion::Stored);
    assert_eq!(store.complete(&held, &record(7), TTL).await.unwrap(), Completion::Stored);
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(r) if r == record(7)));
    assert!(matches!(store.begin(&other).await.unwrap(), Begin::Mismatch));
    assert_eq!(store.renew(&held, TTL).await.unwrap(), Renewal::Lost);
    store.release(&held, Fate::Free).await.unwrap();
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(_)), "a completed record is not released");
}

#[actix_web::test]
async fn a_lease_that_ends_is_taken_over_and_its_owner_refused() {
    let redis = Redis::start();
    let store = store(&redis);
    let late = claim(&store, &BeginRequest { lease: SHORT, ..ask(1) }).await;
    let taker = eventually(async || match store.begin(&ask(1)).await.unwrap() {
        Begin::Fresh { claim, .. } => Some(claim),
        Begin::InFlight { retry_after } => {
            assert!(retry_after <= SHORT);
            None
        }
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!((taker.attempt, taker.taken_over), (2, true));
    assert!(taker.fence > late.fence);
    assert_eq!(store.complete(&late, &record(1), TTL).await.unwrap(), Completion::Superseded(None));
    assert_eq!(store.renew(&late, TTL).await.unwrap(), Renewal::Lost);
    store.release(&late, Fate::Free).await.unwrap();
    assert_eq!(store.complete(&taker, &record(2), TTL).await.unwrap(), Completion::Stored);
    assert_eq!(store.complete(&late, &record(1), TTL).await.unwrap(), Completion::Superseded(Some(record(2))));
}

#[actix_web::test]
async fn a_lapsed_lease_that_nobody_took_still_accepts_its_owner_and_a_lost_record_is_restored() {
    let redis = Redis::start();
    let store = store(&redis);
    let held = claim(&store, &BeginRequest { lease: Duration::from_millis(1), ..ask(1) }).await;
    let lost = async || store.inspect(&held.id).await.unwrap().filter(|i| i.state == RecordState::OwnerLost);
    eventually(lost).await;
    assert_eq!(store.complete(&held, &record(1), TTL).await.unwrap(), Completion::Stored);
    let held = claim(&store, &ask(2)).await;
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    assert_eq!(store.complete(&held, &record(1), TTL).await.unwrap(), Completion::Stored);
    assert!(matches!(store.begin(&ask(2)).await.unwrap(), Begin::Completed(_)));
}

#[actix_web::test]
async fn a_lost_owner_can_bar_the_key() {
    let redis = Redis::start();
    let store = store(&redis);
    let rejecting = || BeginRequest { on_unknown: OnUnknown::Reject, ..ask(1) };
    let held = claim(&store, &rejecting()).await;
    store.release(&held, Fate::Unknown).await.unwrap();
    assert!(matches!(store.begin(&rejecting()).await.unwrap(), Begin::OwnerLost));
    assert_eq!(store.inspect(&held.id).await.unwrap().unwrap().state, RecordState::OwnerLost);
    assert_eq!(store.forget(&held.id).await.unwrap(), Forgotten::Removed);
    assert_eq!(store.forget(&held.id).await.unwrap(), Forgotten::Absent);
    claim(&store, &rejecting()).await;
    assert_eq!(store.forget(&held.id).await.unwrap(), Forgotten::InFlight);
}

#[actix_web::test]
async fn manual_claims_keep_the_record_and_its_end_beneath() {
    let redis = Redis::start();
    let store = store(&redis);
    let held = claim(&store, &ask(1)).await;
    store.complete(&held, &record(1), TTL).await.unwrap();
    let again = || BeginRequest { mode: Mode::Again, ..ask(1) };
    let Begin::Fresh { claim: second, previous } = store.begin(&again()).await.unwrap() else { panic!() };
    assert_eq!((previous, second.attempt, second.taken_over), (Some(record(1)), 2, false));
    assert!(matches!(store.begin(&again()).await.unwrap(), Begin::InFlight { .. }));
    store.release(&second, Fate::Free).await.unwrap();
    let restored = store.inspect(&second.id).await.unwrap().unwrap();
    assert_eq!((restored.state, restored.record), (RecordState::Completed, Some(record(1))));
    assert!(restored.remaining <= TTL, "its end is what it was: {:?}", restored.remaining);
    // A manual owner that is lost leaves the record to everybody else.
    let lost = claim(&store, &BeginRequest { lease: Duration::from_millis(1), ..again() }).await;
    let found = async || match store.begin(&ask(1)).await.unwrap() {
        Begin::Completed(record) => Some(record),
        Begin::InFlight { .. } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(eventually(found).await, record(1));
    assert!(store.inspect(&lost.id).await.unwrap().unwrap().remaining <= TTL);
    let third = claim(&store, &again()).await;
    assert_eq!(store.complete(&third, &record(3), TTL * 2).await.unwrap(), Completion::Stored);
    let replaced = store.inspect(&third.id).await.unwrap().unwrap();
    assert_eq!(replaced.record, Some(record(3)));
    assert!(replaced.remaining > TTL, "its TTL anew");
}

#[actix_web::test]
async fn operators_list_inspect_and_forget() {
    let redis = Redis::start();
    let mut settings = Settings::default();
    settings.storage.class = "redis".into();
    settings.storage.location = redis.url();
    settings.storage.namespace = "a*b".into();
    settings.storage.timeout = Duration::from_secs(10);
    let idempotency = Idempotency::builder().settings(settings.clone()).build().unwrap();
    idempotency.check().await.unwrap();
    let store = RedisStore::new("default", &settings.storage).unwrap();
    redis::cmd("SET").arg("idempotency:axb:default:other").arg("x").exec(&mut redis.connect()).unwrap();
    for n in 0..25 {
        let held = claim(&store, &ask(n)).await;
        store.complete(&held, &record(n), TTL).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    while let Some(last) = {
        let page = idempotency.list("default", after, 10).await.unwrap();
        assert!(page.len() <= 10);
        seen.extend(page.iter().map(|inspection| inspection.id));
        page.last().map(|inspection| inspection.id)
    } {
        after = Some(last);
    }
    assert_eq!(seen, (0..25).map(|n| ask(n).id).collect::<Vec<_>>());
    assert!(idempotency.inspect("default", &ask(3).id).await.unwrap().is_some());
    assert_eq!(idempotency.forget("default", &ask(3).id).await.unwrap(), Forgotten::Removed);
    assert!(
        idempotency
            .inspect("default", &idempotency.record_id("default", &Principal::anonymous(), "k"))
            .await
            .unwrap()
            .is_none()
    );
}

#[actix_web::test]
async fn a_lock_per_name_with_owner_end_and_renewal() {
    let redis = Redis::start();
    // As Django spells the location.
    let lock = RedisLock::new(&format!("127.0.0.1:{}", redis.port), Duration::from_secs(10)).unwrap();
    let (a, b) = (OwnerToken::random(), OwnerToken::random());
    assert!(lock.acquire("k", a, TTL).await.unwrap());
    assert!(lock.acquire("k", a, TTL).await.unwrap(), "repeatable with the same token");
    assert!(!lock.acquire("k", b, TTL).await.unwrap());
    assert!(lock.acquire("other", b, TTL).await.unwrap(), "unrelated keys don't meet");
    assert!(!lock.renew("k", b, TTL).await.unwrap());
    lock.release("k", b).await.unwrap();
    assert!(lock.renew("k", a, SHORT).await.unwrap(), "only the owner frees it");
    eventually(async || lock.acquire("k", b, TTL).await.unwrap().then_some(())).await;
    assert!(!lock.renew("k", a, TTL).await.unwrap(), "it ended, and another took it");
    lock.release("k", b).await.unwrap();
    lock.release("other", b).await.unwrap();
    assert!(redis.names().is_empty());
}

struct Nothing;

impl Storage for Nothing {
    async fn get(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
    async fn put(&self, _: &str, _: Bytes, _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
    async fn remove(&self, _: &str) -> Result<bool, StoreError> {
        Ok(false)
    }
}

#[actix_web::test]
async fn lock_class_redis_serves_custom_storages() {
    let redis = Redis::start();
    let mut settings = Settings::default();
    settings.storage.class = "nothing".into();
    settings.lock.class = "redis".into();
    settings.lock.location = redis.url();
    settings.lock.name = "TheirLock".into();
    let idempotency = Idempotency::builder().settings(settings).storage("nothing", Nothing).build().unwrap();
    let lock = RedisLock::new(&redis.url(), Duration::from_secs(10)).unwrap();
    let id = ask(1).id;
    let name = format!("TheirLock:{id}");
    assert!(lock.acquire(&name, OwnerToken::random(), TTL).await.unwrap());
    assert_eq!(idempotency.forget("default", &id).await.unwrap(), Forgotten::InFlight, "another process holds it");
}
