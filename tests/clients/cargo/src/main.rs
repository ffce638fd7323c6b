//! reqwest-retry. The job, the outcome and the caller's retries are those of `npm/outcome.mjs`.

use std::{env, error::Error, time::Duration};

use reqwest::{Client, Method};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{Jitter, RetryTransientMiddleware, policies::ExponentialBackoff};
use serde_json::{Map, Value, json};

const MOST_CALLS: u32 = 4;

async fn call(job: &Value) -> Result<Value, Box<dyn Error>> {
    let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    // Without a random part, so that the pauses together are longer than the operation.
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(500), Duration::from_secs(2))
        .jitter(Jitter::None)
        .build_with_max_retries(4);
    let timeout = Duration::from_millis(job["timeout"].as_u64().unwrap_or_default());
    let client = ClientBuilder::new(Client::builder().timeout(timeout).build()?)
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .build();
    let response = client
        .request(Method::from_bytes(text("method").as_bytes())?, text("url") + &text("path"))
        .header("Idempotency-Key", text("key"))
        .header("Content-Type", "application/json")
        .body(text("payload"))
        .send()
        .await?;
    let status = response.status().as_u16();
    let headers: Map<String, Value> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Ok(json!({ "status": status, "headers": headers, "body": response.text().await? }))
}

fn may_be_sent_again(result: &Value) -> bool {
    let headers = &result["headers"];
    matches!(result["status"].as_u64(), Some(408 | 409 | 503))
        && headers["retry-after"].is_string()
        && headers["content-type"] == "application/problem+json"
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let job: Value = serde_json::from_str(&env::args().nth(1).ok_or("the first argument is a job")?)?;
    for calls in 1.. {
        let mut result = match call(&job).await {
            Ok(result) => result,
            Err(error) => json!({ "status": null, "error": error.to_string(), "detail": format!("{error:?}") }),
        };
        if calls < MOST_CALLS && (result["status"].is_null() || may_be_sent_again(&result)) {
            let pause = result["headers"]["retry-after"].as_str().and_then(|seconds| seconds.parse().ok());
            tokio::time::sleep(Duration::from_secs(pause.unwrap_or_default())).await;
            continue;
        }
        result["calls"] = calls.into();
        println!("{result}");
        break;
    }
    Ok(())
}
