//! Steps where no claim protects the request, where the store saves none, and beside transactions.

use std::sync::Arc;

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    ledger::{MemoryLedger, Transactions, Tx},
    settings::Mode,
    steps::StepError,
    store::{ComposedStore, ThreadLock},
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{App, Error, HttpResponse, dev::AppConfig, test::init_service, web};

use super::{Log, app_of, refusal};
use crate::{
    common::in_process::{Runs, alone, post, send},
    steps::later,
    store::custom_parts::MapStorage,
};

#[test]
fn without_a_claim_closures_run_each_time_under_a_key_and_nothing_runs_at_most_once() {
    alone(|| async {
        let change = |change: fn(&mut Settings)| IdempotencyKey::default().configure(change);
        for (wrap, key) in [
            (IdempotencyKey::default().optional(), None),
            (IdempotencyKey::default().exempt("/"), Some("k")),
            (change(|settings| settings.mode = Mode::Observe), Some("k")),
            (change(|settings| settings.lock.enable = false), Some("k")),
        ] {
            let (log, runs) = (Log::default(), Runs::default());
            let seen = log.clone();
            let app = app_of(Idempotency::in_memory(), wrap, async move |info| {
                let n = runs.next();
                let work = async |key: actix_idempotency::key::Key| {
                    assert_eq!(key.as_str().len(), 64);
                    log.add(n.to_string());
                    Ok::<_, StepError>(())
                };
                info.step("a", work).await?;
                let once = info.step("once", async |_| Ok::<_, StepError>(())).at_most_once().await;
                assert!(matches!(once, Err(StepError::Unprotected { .. })), "{once:?}");
                Err(later())
            })
            .await;
            for _ in 0..2 {
                assert_eq!(send(&app, post("/", key)).await.0, 503);
            }
            assert_eq!(seen.take(), ["1", "2"]);
        }
    });
}

fn composed() -> Arc<ComposedStore> {
    Arc::new(ComposedStore::new(MapStorage::default(), ThreadLock::default(), "lock"))
}

#[test]
fn a_store_without_steps_is_found_at_start_where_the_wrap_asks_for_them() {
    alone(|| async {
        let idempotency = Idempotency::in_memory();
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().wrap(wrap.using(&idempotency)).route("/", web::post().to(HttpResponse::Created));
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(starts(IdempotencyKey::default().steps()).await);
        assert!(starts(IdempotencyKey::default().store(composed())).await, "it asks for none");
        assert!(!starts(IdempotencyKey::default().store(composed()).steps()).await);
        assert!(!starts(IdempotencyKey::default().steps().configure(|settings| settings.lock.enable = false)).await);
    });
}

#[test]
fn a_step_whose_store_saves_none_does_not_run() {
    alone(|| async {
        let log = Log::default();
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default().store(composed()), async move |info| {
            let work = async |_| {
                log.add("ran");
                Ok::<_, StepError>(())
            };
            let error = info.step("a", work).await.unwrap_err();
            assert!(matches!(error, StepError::Unsupported { .. }), "{error:?}");
            Err(error.into())
        })
        .await;
        assert_eq!(refusal(&app, "k").await, (500, "about:blank".into()));
        assert_eq!(seen.take(), [""; 0]);
    });
}

/// What a step does can't be rolled back.
#[test]
fn no_step_runs_while_a_transaction_of_the_request_is_open() {
    alone(|| async {
        let idempotency = Idempotency::in_memory();
        let open = async |info: actix_idempotency::IdempotencyInfo| {
            let error = info.step("a", async |_| Ok::<_, StepError>(())).await.unwrap_err();
            assert!(matches!(error, StepError::InTransaction { .. }), "{error:?}");
            error
        };
        let with_tx = move |info, tx: Tx<MemoryLedger>| async move {
            let error = open(info).await;
            drop(tx);
            Err::<HttpResponse, Error>(error.into())
        };
        let in_closure = move |info: actix_idempotency::IdempotencyInfo, db: Transactions<MemoryLedger>| async move {
            let before = info.step("before", async |_| Ok::<_, StepError>(7)).await?;
            let error =
                db.run(async |_| Err::<HttpResponse, Error>(open(info.clone()).await.into())).await.unwrap_err();
            assert!(error.as_error::<StepError>().is_some());
            info.step("after", async |_| Ok::<_, StepError>(before)).await?;
            db.run(async |_| Ok::<_, Error>(HttpResponse::Created().json(before))).await
        };
        let wrap = IdempotencyKey::default().using(&idempotency).ledger(&MemoryLedger::default()).steps();
        let app = App::new().wrap(wrap).route("/tx", web::post().to(with_tx)).route("/run", web::post().to(in_closure));
        let app = init_service(app).await;
        let (status, _, body) = send(&app, post("/tx", Some("k"))).await;
        assert!(status == 500 && body.windows(18).any(|part| part == b"transaction-misuse"), "{body:?}");
        let (status, _, body) = send(&app, post("/run", Some("other"))).await;
        assert_eq!((status.as_u16(), &body[..]), (201, &b"7"[..]));
    });
}

/// The answer is in the ledger, and the steps are with the claim.
#[test]
fn a_run_whose_transaction_failed_finds_its_steps_at_the_retry() {
    alone(|| async {
        let (runs, log) = (Runs::default(), Log::default());
        let seen = log.clone();
        let handler = move |info: actix_idempotency::IdempotencyInfo, db: Transactions<MemoryLedger>| {
            let (n, log) = (runs.next(), log.clone());
            async move {
                let work = async |_| {
                    log.add(n.to_string());
                    Ok::<_, StepError>(n)
                };
                let saved = info.step("charge", work).await?;
                db.run(async |_| match n {
                    1 => Err(later()),
                    _ => Ok::<_, Error>(HttpResponse::Created().json(saved)),
                })
                .await
            }
        };
        let wrap = IdempotencyKey::default().using(&Idempotency::in_memory()).ledger(&MemoryLedger::default());
        let app = init_service(App::new().wrap(wrap).route("/", web::post().to(handler))).await;
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 503);
        for _ in 0..2 {
            assert_eq!(&send(&app, post("/", Some("k"))).await.2[..], b"1");
        }
        assert_eq!(seen.take(), ["1"]);
    });
}
