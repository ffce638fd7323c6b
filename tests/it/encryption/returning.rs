//! A key of the ring that was missing comes back: what its records and journals have is still there.

use actix_idempotency::{
    Idempotency, IdempotencyKey,
    key::{Fingerprint, RecordId},
    record::Record,
    settings::Encryption,
    store::{Begin, BeginRequest, IfCompleted, OwnerToken, ReleaseAs, Step, Store},
    testing::sealed_store,
};
use actix_web::http::StatusCode;
use std::time::Duration;

use super::common::{BODY, KEY, STEP, Shared, ask, count, keys, runs, service, service_with};

/// Requests reach processes with another key between those with the right one.
async fn nothing_is_lost(process: impl Fn(Encryption) -> Idempotency) {
    let (runs, manual) = (runs(), IdempotencyKey::manual);
    let right = || process(keys(&[(1, 1)]));
    let app = service(&right(), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    assert_eq!(ask(&app, "/steps", "steps").await.0, 503);
    assert_eq!(count(&runs), 2);
    for _ in 0..2 {
        let other = process(keys(&[(2, 2)]));
        let app = service(&other, &runs).await;
        for _ in 0..3 {
            for (path, key) in [("/pay", KEY), ("/steps", "steps")] {
                let (status, problem, _) = ask(&app, path, key).await;
                assert_eq!((status, problem.contains("store-unavailable")), (503, true), "{path}: {problem}");
            }
        }
        let app = service_with(&other, &runs, manual).await;
        assert_eq!(ask(&app, "/pay", KEY).await.0, 503, "a manual claim over the record is given up");
        assert_eq!(count(&runs), 2);
    }
    let app = service(&right(), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), false), "the step has not run again");
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), true));
    assert_eq!(count(&runs), 3);
}

#[actix_web::test]
async fn nothing_is_lost_in_memory() {
    let store = Shared::default();
    nothing_is_lost(|encryption| super::common::process(&store, encryption)).await;
}

#[cfg(feature = "sqlite")]
#[actix_web::test]
async fn nothing_is_lost_in_sqlite() {
    let folder = crate::store::sqlite::fixture::Folder::new();
    let file = folder.new_file();
    nothing_is_lost(|encryption| {
        let mut settings = super::common::settings(encryption);
        settings.storage.class = "sqlite".into();
        settings.storage.location = file.to_str().unwrap().into();
        Idempotency::builder().settings(settings).build().unwrap()
    })
    .await;
}

#[cfg(feature = "redis")]
#[actix_web::test]
async fn nothing_is_lost_in_redis() {
    let redis = crate::store::redis::fixture::Redis::start();
    nothing_is_lost(|encryption| {
        let mut settings = super::common::settings(encryption);
        settings.storage.class = "redis".into();
        settings.storage.location = redis.url().into();
        Idempotency::builder().settings(settings).build().unwrap()
    })
    .await;
}

fn request() -> BeginRequest {
    let (id, fingerprint) = (RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([1; Fingerprint::LENGTH]));
    BeginRequest::new(id, fingerprint, OwnerToken::random()).lease(Duration::from_secs(9)).keep(Duration::from_secs(99))
}

#[actix_web::test]
async fn the_memory_of_a_lost_owner_stays() {
    let store = Shared::default();
    let (right, other) = (keys(&[(1, 1)]), keys(&[(2, 2)]));
    let (right, other) = (sealed_store(store.clone(), &right).unwrap(), sealed_store(store, &other).unwrap());
    let Begin::Acquired(acquired) = right.begin(&request()).await.unwrap() else { panic!("it is free") };
    let charged = Step::done("charge", "\"ch_1\"");
    right.save_step(&acquired.claim, &charged).await.unwrap();
    right.release(&acquired.claim, ReleaseAs::Unknown).await.unwrap();
    for _ in 0..3 {
        other.begin(&request()).await.unwrap_err();
    }
    let Begin::Acquired(acquired) = right.begin(&request()).await.unwrap() else { panic!("it is free") };
    assert!(acquired.claim.taken_over, "an owner was lost");
    assert_eq!(acquired.steps, [charged]);
}

#[actix_web::test]
async fn a_record_beneath_a_claim_stays() {
    let store = Shared::default();
    let (right, other) = (keys(&[(1, 1)]), keys(&[(2, 2)]));
    let (right, other) = (sealed_store(store.clone(), &right).unwrap(), sealed_store(store, &other).unwrap());
    let Begin::Acquired(acquired) = right.begin(&request()).await.unwrap() else { panic!("it is free") };
    let paid = Record::new(StatusCode::CREATED, [], Some(b"paid"));
    right.complete(&acquired.claim, &paid, Duration::from_secs(99)).await.unwrap();
    let again = || request().if_completed(IfCompleted::Rerun);
    for _ in 0..3 {
        other.begin(&again()).await.unwrap_err();
        other.begin(&request()).await.unwrap_err();
    }
    let Begin::Completed(found) = right.begin(&request()).await.unwrap() else { panic!("it is completed") };
    assert_eq!(found.record, paid);
    let Begin::Acquired(acquired) = right.begin(&again()).await.unwrap() else { panic!("it may run again") };
    assert_eq!((acquired.previous, acquired.claim.completions), (Some(paid), 1));
}
