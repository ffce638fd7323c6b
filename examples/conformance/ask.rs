//! A route whose lost runs the server is asked about. It answers as the request says.

use std::time::Duration;

use actix_idempotency::{
    IdempotencyInfo,
    lost::{Lost, Verdict},
};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::{Outcome, Runs, logged, report};

#[derive(Deserialize)]
pub(crate) struct Question {
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    verdict: String,
    #[serde(default, rename = "as")]
    way: String,
}

/// Runs for some time, and dies at its first attempt.
pub(crate) async fn run(
    request: HttpRequest,
    runs: web::Data<Runs>,
    info: IdempotencyInfo,
    query: web::Query<Question>,
) -> Outcome {
    let inner = request.clone();
    logged(&runs, &request, |n| async move {
        actix_web::rt::time::sleep(Duration::from_millis(query.ms)).await;
        if query.way == "abort" && info.attempt() == 1 {
            std::process::abort();
        }
        Ok(HttpResponse::Ok().json(report(&inner, n)))
    })
    .await
}

/// The hook.
pub(crate) async fn verdict(lost: &Lost) -> Verdict {
    let query = web::Query::<Question>::from_query(lost.request.uri.query().unwrap_or_default());
    match query.as_ref().map_or("unknown", |query| &query.verdict) {
        "done" => Verdict::Done(HttpResponse::Created().json(serde_json::json!({ "verdict": "done" }))),
        "not-done" => Verdict::NotDone,
        _ => Verdict::Unknown,
    }
}
