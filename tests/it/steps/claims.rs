//! Steps whose store fails, and owners that lose their claims.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    record::Record,
    steps::StepError,
    store::{Begin, BeginRequest, Claim, Completion, MemoryStore, OwnerToken, ReleaseAs, Store, StoreFuture},
    testing::{Call, Fault, FaultyStore},
};
use actix_web::{HttpResponse, http::StatusCode, rt};

use super::{Log, app_of, ask, later, refusal};
use crate::common::in_process::{Runs, alone};

fn over(store: impl Store) -> Idempotency {
    let mut settings = Settings::default();
    settings.storage.class = "own".into();
    settings.storage.timeout = Duration::from_millis(200);
    settings.lock.timeout = Duration::ZERO;
    Idempotency::builder().settings(settings).store("own", store).build().unwrap()
}

#[test]
fn a_save_whose_answer_was_lost_is_repeated() {
    alone(|| async {
        for fault in [Fault::LoseAnswer, Fault::Fail] {
            let (store, faults) = FaultyStore::new(MemoryStore::default());
            let runs = Runs::default();
            let app = app_of(over(store), IdempotencyKey::default(), async move |info| {
                let n = runs.next();
                let a = info.step("a", async |_| Ok::<_, StepError>(n)).await?;
                if n == 1 { Err(later()) } else { Ok(HttpResponse::Created().json(a)) }
            })
            .await;
            faults.next(Call::SaveStep, fault);
            assert_eq!(ask(&app, "k").await, (503, "later".into()));
            assert_eq!(ask(&app, "k").await, (201, "1".into()));
            assert_eq!(faults.calls(Call::SaveStep), 2);
        }
    });
}

#[test]
fn nothing_runs_after_a_step_that_the_store_does_not_take() {
    alone(|| async {
        let (store, faults) = FaultyStore::new(MemoryStore::default());
        let (runs, log) = (Runs::default(), Log::default());
        let seen = log.clone();
        let app = app_of(over(store), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            for name in ["a", "b"] {
                let work = async |_| {
                    log.add(format!("{n}{name}"));
                    Ok::<_, StepError>(())
                };
                info.step(name, work).await?;
            }
            Ok(HttpResponse::Created().finish())
        })
        .await;
        (0..100).for_each(|_| faults.next(Call::SaveStep, Fault::Fail));
        assert_eq!(refusal(&app, "k").await, (503, "store-unavailable".into()));
        assert!(faults.left() > 0, "the save is given up");
        assert_eq!(seen.take(), ["1a"]);
    });
}

/// A store that other processes share, which can lose the record of a claim, or give it to another owner.
#[derive(Clone)]
struct Losing(Arc<MemoryStore>, Arc<Mutex<Option<BeginRequest>>>);

impl Losing {
    fn new() -> Self {
        Self(Arc::default(), Arc::default())
    }

    /// The record is gone.
    async fn lose(&self) {
        let begin = self.1.lock().unwrap().clone().unwrap();
        assert!(self.0.release(&Claim::new(&begin, 1, 1), ReleaseAs::Ended).await.unwrap());
    }

    /// Another process holds the claim, and has perhaps answered.
    async fn take_over(&self, answers: bool) {
        self.lose().await;
        let begin = self.1.lock().unwrap().clone().unwrap();
        let other = BeginRequest::new(begin.id, begin.fingerprint, OwnerToken::random());
        let Begin::Acquired(acquired) = self.0.begin(&other).await.unwrap() else { panic!("nobody holds it") };
        if answers {
            let record = Record::new(StatusCode::ACCEPTED, [], Some(b"the other's"));
            self.0.complete(&acquired.claim, &record, Duration::from_secs(60)).await.unwrap();
        }
    }
}

impl Store for Losing {
    crate::common::delegate_to_inner_store!();
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        *self.1.lock().unwrap() = Some(request.clone());
        self.0.begin(request)
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }
}

#[test]
fn a_step_restores_the_claim_that_its_store_has_lost_with_all_steps_before() {
    alone(|| async {
        let (store, runs, log) = (Losing::new(), Runs::default(), Log::default());
        let (seen, losing) = (log.clone(), store.clone());
        let app = app_of(over(store), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            for name in ["a", "b", "c"] {
                let work = async |_| {
                    log.add(format!("{n}{name}"));
                    if (n, name) == (1, "b") || (n, name) == (2, "c") {
                        losing.lose().await;
                    }
                    Ok::<_, StepError>(())
                };
                info.step(name, work).await?;
                if n < 3 && name == ["b", "c"][n as usize - 1] {
                    return Err(later());
                }
            }
            Ok(HttpResponse::Created().finish())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        assert_eq!(ask(&app, "k").await.0, 503, "steps that an earlier attempt has saved are restored, too");
        assert_eq!(ask(&app, "k").await.0, 201);
        assert_eq!(seen.take(), ["1a", "1b", "2c"]);
    });
}

#[test]
fn an_owner_that_was_superseded_learns_so_at_its_next_step() {
    alone(|| async {
        for answers in [false, true] {
            let (store, log) = (Losing::new(), Log::default());
            let (seen, losing) = (log.clone(), store.clone());
            let app = app_of(over(store), IdempotencyKey::default(), async move |info| {
                for name in ["a", "b"] {
                    let work = async |_| {
                        log.add(name);
                        losing.take_over(answers).await;
                        Ok::<_, StepError>(())
                    };
                    let saved = info.step(name, work).await;
                    assert!(matches!(saved, Err(StepError::Superseded { .. })), "{saved:?}");
                    saved?;
                }
                unreachable!("the first step is not saved")
            })
            .await;
            if answers {
                assert_eq!(ask(&app, "k").await, (409, "the other's".into()), "as a replay");
            } else {
                assert_eq!(refusal(&app, "k").await, (423, "in-flight".into()));
            }
            assert_eq!(seen.take(), ["a"]);
        }
    });
}

/// A restoration that overtook the release would lock a key that is free.
#[test]
fn a_step_that_outlives_its_handler_claims_nothing() {
    alone(|| async {
        let (store, runs, log) = (Losing::new(), Runs::default(), Log::default());
        let seen = log.clone();
        let app = app_of(over(store), IdempotencyKey::default(), async move |info| {
            if runs.next() > 1 {
                return Ok(HttpResponse::Created().finish());
            }
            let log = log.clone();
            rt::spawn(async move {
                let work = async |_| {
                    rt::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, StepError>(())
                };
                log.add(format!("{:?}", info.step("a", work).await));
            });
            rt::time::sleep(Duration::from_millis(10)).await;
            Err(later())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        rt::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(seen.take(), [r#"Err(Late { step: "a" })"#]);
        assert_eq!(ask(&app, "k").await.0, 201, "the key is free");
    });
}
