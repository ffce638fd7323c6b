//! The Redis store without HTTP.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, Principal, Settings,
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Forgotten, IfCompleted, OwnerToken, RecordState, RedisOptions, RedisStore,
        ReleaseAs, Store, StoreError,
    },
};
use actix_web::http::StatusCode;
use actix_web::rt::time::{sleep, timeout};

use super::fixture::Redis;

const TTL: Duration = Duration::from_secs(60);

pub(super) fn store(redis: &Redis) -> RedisStore {
    let mut options = RedisOptions::new(redis.url());
    // The machine may be busy.
    options.timeout = Duration::from_secs(10);
    RedisStore::new(options).unwrap()
}

fn ask(n: u8) -> BeginRequest {
    BeginRequest::new(RecordId::from_bytes([n; 32]), Fingerprint::from_bytes([1; 42]), OwnerToken::random())
}

fn record(n: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[n]))
}

async fn claim(store: &RedisStore, request: &BeginRequest) -> Claim {
    match store.begin(request).await.unwrap() {
        Begin::Acquired(acquired) => acquired.claim,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            match condition().await {
                Some(value) => return value,
                None => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("the condition becomes true")
}

#[actix_web::test]
async fn a_lease_does_not_end_before_its_time() {
    let redis = Redis::start();
    let store = store(&redis);
    let lease = Duration::from_millis(200);
    let start = std::time::Instant::now();
    claim(&store, &ask(1).lease(lease)).await;
    eventually(async || matches!(store.begin(&ask(1)).await.unwrap(), Begin::Acquired(_)).then_some(())).await;
    assert!(start.elapsed() >= lease, "{:?}", start.elapsed());
}

/// Releases write to Redis, and must work although maxmemory denies new claims.
#[actix_web::test]
async fn releases_pass_at_maxmemory() {
    let redis = Redis::start();
    let store = store(&redis);
    let first = claim(&store, &ask(1)).await;
    store.complete(&first, &record(1), TTL).await.unwrap();
    let over = claim(&store, &ask(1).if_completed(IfCompleted::Rerun)).await;
    let lost = claim(&store, &ask(2)).await;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut redis.connect()).unwrap();
    assert!(matches!(store.begin(&ask(3)).await, Err(StoreError::Full)));
    assert!(store.release(&over, ReleaseAs::Free).await.unwrap());
    assert!(store.release(&lost, ReleaseAs::Unknown).await.unwrap());
    assert!(!store.release(&over, ReleaseAs::Free).await.unwrap(), "the claim is released already");
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(found) if found.record == record(1)));
    assert_eq!(store.inspect(&lost.id).await.unwrap().unwrap().state, RecordState::Lost);
}

#[actix_web::test]
async fn a_record_that_an_operator_persisted_survives_a_manual_claim() {
    let redis = Redis::start();
    let store = store(&redis);
    let first = claim(&store, &ask(1)).await;
    store.complete(&first, &record(1), TTL).await.unwrap();
    redis::cmd("PERSIST").arg(&redis.names()[0]).exec(&mut redis.connect()).unwrap();
    let over = claim(&store, &ask(1).if_completed(IfCompleted::Rerun)).await;
    store.release(&over, ReleaseAs::Free).await.unwrap();
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(_)));
}

#[actix_web::test]
async fn the_pages_of_one_listing_need_one_look_at_all_names() {
    let redis = Redis::start();
    let store = store(&redis);
    for n in 0..30 {
        let held = claim(&store, &ask(n)).await;
        store.complete(&held, &record(n), TTL).await.unwrap();
    }
    let scans = || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.connect()).unwrap();
        let scans = stats.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls=")).unwrap();
        scans.split(',').next().unwrap().to_owned()
    };
    let first = store.list(None, 4).await.unwrap();
    let for_the_first = scans();
    let (mut seen, mut after) = (first.len(), first.last().map(|last| last.id));
    loop {
        let page = store.list(after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        (seen, after) = (seen + page.len(), Some(last.id));
    }
    assert_eq!((seen, scans()), (30, for_the_first));
}

#[actix_web::test]
async fn operators_list_inspect_and_forget() {
    let redis = Redis::start();
    let mut settings = Settings::default();
    settings.storage.class = "redis".into();
    settings.storage.location = redis.url().into();
    settings.storage.namespace = "a*b".into();
    settings.storage.timeout = Duration::from_secs(10);
    let idempotency = Idempotency::builder().settings(settings.clone()).build().unwrap();
    idempotency.check().await.unwrap();
    let mut options = RedisOptions::new(redis.url());
    options.namespace.clone_from(&settings.storage.namespace);
    options.timeout = Duration::from_secs(10);
    let store = RedisStore::new(options).unwrap();
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

/// An ACL may deny the commands that only keep figures for operators. Once, `begin` failed half way then and left a
/// claim that never expired.
#[actix_web::test]
async fn a_claim_expires_although_an_acl_denies_commands() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    redis::cmd("ACL").arg(&["SETUSER", "default", "-hsetnx", "-hincrby"]).exec(&mut connection).unwrap();
    let store = store(&redis);
    let claim = claim(&store, &ask(1)).await;
    let name = redis.names().pop().unwrap();
    let left: i64 = redis::cmd("TTL").arg(&name).query(&mut connection).unwrap();
    assert!(left > 0, "{left}");
    store.complete(&claim, &record(1), TTL).await.unwrap();
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(_)));
}
