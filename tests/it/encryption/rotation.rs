//! Keys come and go: what was sealed opens as long as its key is there, and never runs again where it does not.

use actix_idempotency::settings::{Encryption, OnError};

use super::common::{BODY, KEY, STEP, Shared, ask, build, count, keys, process, runs, service, settings};

#[actix_web::test]
async fn the_old_key_opens_and_the_new_one_seals() {
    let (store, runs) = (Shared::default(), runs());
    let app = service(&process(&store, keys(&[(1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    assert_eq!(ask(&app, "/steps", "steps").await.0, 503);
    // Every process knows the new key before one of them seals with it.
    for ring in [&[(1, 1), (2, 2)], &[(2, 2), (1, 1)]] {
        let app = service(&process(&store, keys(ring)), &runs).await;
        assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    }
    let app = service(&process(&store, keys(&[(2, 2), (1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), false), "the step is known");
    assert_eq!(ask(&app, "/pay", "later").await, (201, BODY.into(), false));
    assert_eq!(count(&runs), 4);

    let app = service(&process(&store, keys(&[(2, 2)])), &runs).await;
    assert_eq!(ask(&app, "/pay", "later").await, (201, BODY.into(), true), "the new key has sealed it");
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), true));
    let (status, problem, _) = ask(&app, "/pay", KEY).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("store-unavailable"), "{problem}");
    assert_eq!(count(&runs), 4, "what does not open does not run");
}

#[actix_web::test]
async fn a_key_whose_record_does_not_open_never_runs() {
    let (store, runs) = (Shared::default(), runs());
    let app = service(&process(&store, keys(&[(1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    assert_eq!(ask(&app, "/steps", "steps").await.0, 503);
    assert_eq!(count(&runs), 2);
    // The key is lost; no process has keys any more; and records may run unprotected while the store is down.
    let mut unprotected = settings(keys(&[(3, 3)]));
    unprotected.storage.on_error = OnError::Run;
    for settings in [settings(keys(&[(3, 3)])), settings(Encryption::default()), unprotected] {
        let app = service(&build(&store, settings).unwrap(), &runs).await;
        for (path, key) in [("/pay", KEY), ("/steps", "steps")] {
            for _ in 0..2 {
                let (status, problem, _) = ask(&app, path, key).await;
                assert_eq!((status, problem.contains("store-unavailable")), (503, true), "{path}: {problem}");
            }
        }
        assert_eq!(count(&runs), 2);
    }
    let app = service(&process(&store, keys(&[(1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true), "the key is back");
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), false), "and the step is still known");
}

#[actix_web::test]
async fn a_manual_handler_does_not_run_over_a_record_that_does_not_open() {
    let (store, runs) = (Shared::default(), runs());
    let manual = actix_idempotency::IdempotencyKey::manual;
    let app = super::common::service_with(&process(&store, keys(&[(1, 1)])), &runs, manual).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    let app = super::common::service_with(&process(&store, keys(&[(3, 3)])), &runs, manual).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
    assert_eq!(count(&runs), 1);
    let app = super::common::service_with(&process(&store, keys(&[(1, 1)])), &runs, manual).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201, "the claim over the record was given up");
    assert_eq!(count(&runs), 2);
}

#[actix_web::test]
async fn without_a_lock_a_record_that_does_not_open_does_not_run_either() {
    let (store, runs) = (Shared::default(), runs());
    let unlocked = |encryption| {
        let mut settings = settings(encryption);
        settings.lock.enable = false;
        build(&store, settings).unwrap()
    };
    let app = service(&unlocked(keys(&[(1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    let app = service(&unlocked(keys(&[(3, 3)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
    assert_eq!(count(&runs), 1);
}

#[actix_web::test]
async fn records_from_before_the_encryption_are_answered_only_where_that_is_meant() {
    let (store, runs) = (Shared::default(), runs());
    let app = service(&process(&store, Encryption::default()), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    let app = service(&process(&store, keys(&[(1, 1)])), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
    let mut accepting = keys(&[(1, 1)]);
    accepting.accept_unsealed = true;
    let app = service(&process(&store, accepting), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    assert_eq!(count(&runs), 1);
}
