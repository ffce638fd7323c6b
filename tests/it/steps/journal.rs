//! Results that are saved and found again.

use actix_idempotency::{Idempotency, IdempotencyKey, Settings, steps::StepError, store::Step};
use actix_web::{HttpResponse, error::ErrorBadGateway, rt};

use super::{Log, app_of, ask, later, refusal};
use crate::common::in_process::{Runs, alone, post, send};

#[test]
fn a_retry_goes_on_after_the_last_saved_step_under_the_same_keys() {
    alone(|| async {
        let (log, runs) = (Log::default(), Runs::default());
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            let mut values = Vec::new();
            for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
                let step = info.step(name, async |key| {
                    assert_eq!(Some(&key), info.derive("step", name).as_ref());
                    log.add(format!("{n}{name}"));
                    match (n, at) {
                        (1, 1) => Err(ErrorBadGateway("the provider is down")),
                        (2, 2) => panic!("the handler panics, on purpose"),
                        _ => Ok(n),
                    }
                });
                values.push(step.await?);
            }
            assert_eq!(info.attempt(), n);
            Ok(HttpResponse::Created().json(values))
        })
        .await;
        assert_eq!(ask(&app, "k").await, (502, "the provider is down".into()));
        assert_eq!(ask(&app, "k").await.0, 500, "a panic keeps the steps, too");
        assert_eq!(ask(&app, "k").await, (201, "[1,2,3]".into()));
        assert_eq!(ask(&app, "k").await, (409, "[1,2,3]".into()), "a replay");
        assert_eq!(seen.take(), ["1a", "1b", "2b", "2c", "3c"]);
    });
}

#[test]
fn a_key_with_saved_steps_stands_for_one_payload() {
    alone(|| async {
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async |info| {
            info.step("a", async |_| Ok::<_, StepError>(1)).await?;
            Err(later())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        assert_eq!(send(&app, post("/", Some("k")).set_payload("another")).await.0, 422);
    });
}

#[test]
fn a_run_over_a_completed_record_begins_with_no_steps_and_with_other_keys() {
    alone(|| async {
        let log = Log::default();
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default().manual(), async move |info| {
            let step = info.step("a", async |key| {
                log.add(key.as_str());
                Ok::<_, StepError>(())
            });
            step.await?;
            Ok(HttpResponse::Created().finish())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(ask(&app, "k").await.0, 201);
        }
        let keys = seen.take();
        assert_eq!(keys.len(), 3);
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2], "{keys:?}");
    });
}

#[test]
fn a_name_is_used_once_in_a_run_unless_its_step_failed() {
    alone(|| async {
        let (log, runs) = (Log::default(), Runs::default());
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            let failed: Result<(), _> = info.step("a", async |_| Err(later())).await;
            assert!(matches!(failed, Err(StepError::Failed(_))), "{failed:?}");
            info.step("a", async |_| Ok::<_, StepError>(1)).await?;
            if n == 2 {
                return Ok(HttpResponse::Created().finish());
            }
            let work = async |_| {
                log.add("ran");
                Ok::<_, StepError>(2)
            };
            match info.step("a", work).await {
                Err(error @ StepError::Repeated { .. }) => Err(error.into()),
                other => panic!("{other:?}"),
            }
        })
        .await;
        assert_eq!(refusal(&app, "k").await, (500, "about:blank".into()));
        assert_eq!(seen.take(), [""; 0]);
        let twice = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async |info| {
            let step = || info.step("a", async |_| Ok::<_, StepError>(std::future::ready(7).await)).into_future();
            let (first, second) = futures_util::future::join(step(), step()).await;
            assert!(first.is_ok() && matches!(second, Err(StepError::Repeated { .. })));
            Ok(HttpResponse::Created().finish())
        })
        .await;
        assert_eq!(ask(&twice, "k").await.0, 201);
    });
}

#[test]
fn an_operation_has_at_most_64_steps_of_16_kib_each() {
    alone(|| async {
        let log = Log::default();
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let largest = "x".repeat(Step::MOST_BYTES - 2);
            info.step("0", async |_| Ok::<_, StepError>(largest.clone())).await?;
            let larger = info.step("larger", async |_| Ok::<_, StepError>(format!("{largest}x"))).await;
            assert!(matches!(larger, Err(StepError::Full { .. })), "{larger:?}");
            for n in 1..=Step::MOST {
                let work = async |_| {
                    log.add(n.to_string());
                    Ok::<_, StepError>(())
                };
                info.step(n.to_string(), work).await?;
            }
            unreachable!("one is too many")
        })
        .await;
        assert_eq!(refusal(&app, "k").await, (500, "steps-full".into()));
        assert_eq!(seen.take().len(), Step::MOST - 1, "the one too many did not run");
    });
}

#[test]
fn a_result_of_another_type_is_an_error_that_names_both_unless_it_may_run_again() {
    alone(|| async {
        let runs = Runs::default();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            if runs.next() == 1 {
                info.step("a", async |_| Ok::<_, StepError>("text".to_owned())).await?;
                return Err(later());
            }
            let error = info.step("a", async |_| Ok::<u32, StepError>(7)).await.unwrap_err();
            assert_eq!(error.to_string(), "the saved result of step `a` is no u32");
            let again = info.step("a", async |_| Ok::<u32, StepError>(7)).or_rerun().await?;
            Ok(HttpResponse::Created().json(again))
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        assert_eq!(ask(&app, "k").await, (201, "7".into()));
    });
}

#[test]
fn a_key_of_the_handlers_own_replaces_that_of_the_step() {
    alone(|| async {
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async |info| {
            let own = info.derive("stripe", "charge");
            let step = info.step("a", async |key| Ok::<_, StepError>(key.as_str().to_owned())).key(own.clone());
            assert_eq!(step.await?, own.unwrap().as_str());
            Ok(HttpResponse::Created().finish())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 201);
    });
}

/// The profile `stripe` stores 5xx. A refusal is never stored, and looks as all refusals of its instance.
#[test]
fn the_answer_of_a_step_error_is_a_refusal() {
    alone(|| async {
        let runs = Runs::default();
        let idempotency = Idempotency::builder().settings(Settings::stripe()).build().unwrap();
        let app = app_of(idempotency, IdempotencyKey::default(), async move |info| {
            if runs.next() == 1 {
                info.step("a", async |_| Ok::<_, StepError>(())).await?;
                info.step("a", async |_| Ok::<_, StepError>(())).await?;
            }
            Ok(HttpResponse::Created().finish())
        })
        .await;
        let (status, body) = ask(&app, "k").await;
        assert!(status == 500 && body.contains(r#""error":{"type":"api_error""#), "{body}");
        assert_eq!(ask(&app, "k").await.0, 201, "it was not stored");
    });
}

/// The key may belong to another request by then.
#[test]
fn no_step_begins_after_its_handler_has_returned() {
    alone(|| async {
        let log = Log::default();
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let log = log.clone();
            rt::spawn(async move {
                rt::task::yield_now().await;
                let late = info.step("a", async |_| Ok::<_, StepError>(())).await;
                log.add(late.unwrap_err().to_string());
            });
            Ok(HttpResponse::Created().finish())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 201);
        rt::task::yield_now().await;
        rt::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(seen.take(), ["step `a` was begun after its handler had returned"]);
    });
}
