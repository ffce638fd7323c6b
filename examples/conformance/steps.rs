//! Routes whose handlers run steps, and fail in the middle of them as they are told.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use actix_idempotency::{IdempotencyInfo, ResponseExt as _, key::Key, steps::StepError};
use actix_web::{Error, HttpRequest, HttpResponse, error, web};
use serde::Deserialize;

use crate::{Outcome, Runs, logged};

#[derive(Deserialize)]
pub(crate) struct Failure {
    /// Before which step the first attempt fails, counted from 1.
    #[serde(default)]
    fail: usize,
    /// How it fails.
    #[serde(default, rename = "as")]
    way: Way,
    /// How long to pause between two steps.
    #[serde(default)]
    ms: u64,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Way {
    #[default]
    Status,
    Panic,
    Abort,
}

/// A number that no other run makes.
fn random() -> u32 {
    u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default()
}

/// The work of a step.
fn work(runs: &Runs, path: &str, name: &str, key: &Key) -> u32 {
    let value = random();
    runs.count(&format!("{path}#{name}"));
    runs.log("step", &format!("{} {name} {} {value}", std::process::id(), key.as_str()));
    value
}

/// Three steps.
pub(crate) async fn three(
    request: HttpRequest,
    runs: web::Data<Runs>,
    info: IdempotencyInfo,
    query: web::Query<Failure>,
) -> Outcome {
    let inner = request.clone();
    logged(&runs.clone(), &request, |n| async move {
        let Failure { fail, way, ms } = query.into_inner();
        let mut values = Vec::new();
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            if at > 0 && ms > 0 {
                actix_web::rt::time::sleep(Duration::from_millis(ms)).await;
            }
            if fail == at + 1 && info.attempt() == 1 {
                match way {
                    Way::Status => {
                        return Err(error::ErrorServiceUnavailable("the handler failed, as it was asked to"));
                    }
                    Way::Panic => panic!("the handler panicked, as it was asked to"),
                    Way::Abort => std::process::abort(),
                }
            }
            let step = info.step(name, async |key| Ok::<_, Error>(work(&runs, inner.path(), name, &key)));
            values.push(step.await?);
        }
        let (attempt, taken_over) = (info.attempt(), info.taken_over());
        let body = serde_json::json!({ "n": n, "attempt": attempt, "taken_over": taken_over, "values": values });
        Ok(HttpResponse::Created().json(body))
    })
    .await
}

/// One step that runs at most once.
pub(crate) async fn once(
    request: HttpRequest,
    runs: web::Data<Runs>,
    info: IdempotencyInfo,
    query: web::Query<Failure>,
) -> Outcome {
    let inner = request.clone();
    logged(&runs.clone(), &request, |n| async move {
        let step = info.step("once", async |key| {
            let value = work(&runs, inner.path(), "once", &key);
            if query.way == Way::Abort && info.attempt() == 1 {
                std::process::abort();
            }
            Ok::<_, Error>(value)
        });
        match step.at_most_once().await {
            Ok(value) => Ok(HttpResponse::Created().json(serde_json::json!({ "n": n, "value": value }))),
            Err(StepError::Unknown { step }) => {
                Ok(HttpResponse::Conflict().json(serde_json::json!({ "unknown": step })).do_not_store())
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}
