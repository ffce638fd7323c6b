//! Steps that run at most once.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, IdempotencyKey,
    steps::{NotDone, StepError},
};
use actix_web::{HttpResponse, rt};

use super::{Log, app_of, ask, later, refusal};
use crate::common::in_process::{Runs, alone};

#[test]
fn a_step_that_failed_in_the_middle_is_unknown_for_every_later_attempt() {
    alone(|| async {
        let (log, runs) = (Log::default(), Runs::default());
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            let step = info.step("sms", async |_| {
                log.add(n.to_string());
                Err::<u32, _>(later())
            });
            step.at_most_once().await?;
            unreachable!("it fails")
        })
        .await;
        assert_eq!(ask(&app, "k").await, (503, "later".into()));
        for _ in 0..2 {
            assert_eq!(refusal(&app, "k").await, (409, "outcome-unknown".into()));
        }
        assert_eq!(seen.take(), ["1"]);
    });
}

#[test]
fn a_step_that_was_dropped_in_the_middle_is_unknown() {
    alone(|| async {
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async |info| {
            let step = info.step("sms", async |_| Ok::<u32, StepError>(std::future::pending().await)).at_most_once();
            let _ = rt::time::timeout(Duration::from_millis(20), step.into_future()).await;
            let again = info.step("sms", async |_| Ok::<u32, StepError>(7)).at_most_once().await;
            assert!(matches!(again, Err(StepError::Unknown { .. })), "{again:?}");
            Err(later())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
    });
}

#[test]
fn a_closure_that_knows_that_nothing_was_done_can_run_again_and_then_counts() {
    alone(|| async {
        let (log, runs) = (Log::default(), Runs::default());
        let seen = log.clone();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            let step = info.step("sms", async |_| {
                log.add(n.to_string());
                match n {
                    1 | 2 => Err(NotDone(later()).into()),
                    3 => Err(later()),
                    _ => Ok(n),
                }
            });
            let id = step.at_most_once().await?;
            Ok(HttpResponse::Created().json(id))
        })
        .await;
        assert_eq!(ask(&app, "k").await, (503, "later".into()));
        assert_eq!(ask(&app, "k").await, (503, "later".into()));
        assert_eq!(ask(&app, "k").await, (503, "later".into()));
        assert_eq!(refusal(&app, "k").await, (409, "outcome-unknown".into()));
        assert_eq!(seen.take(), ["1", "2", "3"]);
    });
}

#[test]
fn a_step_that_was_done_is_found() {
    alone(|| async {
        let runs = Runs::default();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            let n = runs.next();
            let id = info.step("sms", async |_| Ok::<_, StepError>(n)).at_most_once().await?;
            if n == 1 { Err(later()) } else { Ok(HttpResponse::Created().json(id)) }
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        assert_eq!(ask(&app, "k").await, (201, "1".into()));
    });
}

/// A deployment that forgets the type of a step must not run it twice.
#[test]
fn a_step_whose_result_is_of_another_type_does_not_run_again() {
    alone(|| async {
        let runs = Runs::default();
        let app = app_of(Idempotency::in_memory(), IdempotencyKey::default(), async move |info| {
            if runs.next() == 1 {
                info.step("sms", async |_| Ok::<_, StepError>("text".to_owned())).at_most_once().await?;
                return Err(later());
            }
            let again = info.step("sms", async |_| Ok::<u32, StepError>(7)).at_most_once().or_rerun().await;
            assert!(matches!(again, Err(StepError::Undecodable { .. })), "{again:?}");
            Ok(HttpResponse::Created().finish())
        })
        .await;
        assert_eq!(ask(&app, "k").await.0, 503);
        assert_eq!(ask(&app, "k").await.0, 201);
    });
}
