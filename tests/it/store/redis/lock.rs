//! The Redis lock for custom storages: on one server, on a cluster and behind sentinels.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, Lock as _, Settings, Storage,
    key::RecordId,
    store::{Forgotten, OwnerToken, RedisLock, StoreError},
};
use bytes::Bytes;

use super::{cluster::Cluster, fixture::Redis, sentinel::Sentinels, store::eventually};

const TTL: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(150);

fn lock(location: &str) -> RedisLock {
    // The machine may be busy.
    RedisLock::new(location, Duration::from_secs(10)).unwrap()
}

/// A name for each of many slots.
fn names() -> impl Iterator<Item = String> {
    (0..30).map(|n| format!("lock-{n}"))
}

async fn has_an_owner_an_expiry_and_a_renewal(lock: &RedisLock, name: &str) {
    let (a, b) = (OwnerToken::random(), OwnerToken::random());
    assert!(lock.acquire(name, a, TTL).await.unwrap());
    assert!(lock.acquire(name, a, TTL).await.unwrap(), "`acquire` may be repeated with the same token");
    assert!(!lock.acquire(name, b, TTL).await.unwrap());
    let other = format!("other-{name}");
    assert!(lock.acquire(&other, b, TTL).await.unwrap(), "locks with different names are independent");
    assert!(!lock.renew(name, b, TTL).await.unwrap());
    lock.release(name, b).await.unwrap();
    assert!(lock.renew(name, a, SHORT).await.unwrap(), "a release by another token changes nothing");
    eventually(async || lock.acquire(name, b, TTL).await.unwrap().then_some(())).await;
    assert!(!lock.renew(name, a, TTL).await.unwrap(), "the lock expired, and another owner has it");
    lock.release(name, b).await.unwrap();
    lock.release(&other, b).await.unwrap();
}

/// The clocks of two processes may differ, and primaries may be replaced.
async fn fencing_tokens_grow(locks: &[RedisLock; 2], mut last: u64) -> u64 {
    for n in 0..20 {
        let fence = locks[n % 2].fence().await.unwrap().expect("a fencing token");
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
    last
}

/// Names that an owner locks at one process, and whether they are held then at the other.
async fn hold(locks: &[RedisLock; 2], owner: OwnerToken) {
    for name in names() {
        assert!(locks[0].acquire(&name, owner, TTL).await.unwrap(), "{name}");
        assert!(!locks[1].acquire(&name, OwnerToken::random(), TTL).await.unwrap(), "{name}");
    }
}

async fn are_held_by(locks: &[RedisLock; 2], owner: OwnerToken) {
    for name in names() {
        assert!(!locks[0].acquire(&name, OwnerToken::random(), TTL).await.unwrap(), "{name}");
        assert!(locks[1].renew(&name, owner, TTL).await.unwrap(), "{name}");
        locks[0].release(&name, owner).await.unwrap();
        assert!(locks[1].acquire(&name, OwnerToken::random(), TTL).await.unwrap(), "{name}");
    }
}

#[actix_web::test]
async fn a_lock_has_a_name_an_owner_an_expiry_and_a_renewal() {
    let redis = Redis::start();
    // A location without a scheme, as in Django's settings.
    has_an_owner_an_expiry_and_a_renewal(&lock(&format!("127.0.0.1:{}", redis.port)), "k").await;
    assert!(redis.names().is_empty());
}

#[actix_web::test]
async fn the_fencing_tokens_of_a_redis_lock_grow_over_processes() {
    let redis = Redis::start();
    fencing_tokens_grow(&[0, 1].map(|_| lock(&redis.url())), 0).await;
}

#[actix_web::test]
async fn the_locks_of_a_cluster_are_on_all_primaries_and_survive_a_fail_over() {
    let cluster = Cluster::start();
    let locks = [0, 1].map(|_| lock(&cluster.url()));
    has_an_owner_an_expiry_and_a_renewal(&locks[0], "k").await;
    let last = fencing_tokens_grow(&locks, 0).await;
    let owner = OwnerToken::random();
    hold(&locks, owner).await;
    let mut primaries: Vec<usize> = cluster.names().into_iter().map(|(primary, _)| primary).collect();
    primaries.sort_unstable();
    primaries.dedup();
    assert_eq!(primaries, [0, 1, 2]);
    let slot = cluster.slot_of("idempotency:lock-fence");
    cluster.fail_over(cluster.owner_of(slot).expect("an owner"));
    cluster.recovered(slot);
    fencing_tokens_grow(&locks, last).await;
    are_held_by(&locks, owner).await;
}

#[actix_web::test]
async fn the_locks_behind_sentinels_survive_a_fail_over() {
    let sentinels = Sentinels::start();
    let locks = [0, 1].map(|_| lock(&sentinels.url()));
    has_an_owner_an_expiry_and_a_renewal(&locks[0], "k").await;
    let last = fencing_tokens_grow(&locks, 0).await;
    let owner = OwnerToken::random();
    hold(&locks, owner).await;
    sentinels.has_all(1);
    sentinels.fail_over();
    // The service asks the sentinels four times a second, and this test has blocked its thread meanwhile.
    actix_web::rt::time::sleep(super::topologies::RECOVERY).await;
    fencing_tokens_grow(&locks, last).await;
    are_held_by(&locks, owner).await;
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
    settings.lock.location = redis.url().into();
    settings.lock.name = "TheirLock".into();
    let idempotency = Idempotency::builder().settings(settings).storage("nothing", Nothing).build().unwrap();
    let lock = lock(&redis.url());
    let id = RecordId::from_bytes([1; 32]);
    let name = format!("TheirLock:{id}");
    assert!(lock.acquire(&name, OwnerToken::random(), TTL).await.unwrap());
    assert_eq!(
        idempotency.forget("default", &id).await.unwrap(),
        Forgotten::InFlight,
        "another process holds the lock"
    );
}
