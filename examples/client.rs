//! A client that retries as a client of such an API should: one key for all attempts of one operation, growing pauses
//! with jitter, and at least as long as `Retry-After` says.
//!
//! `cargo run --example client -- http://127.0.0.1:8080/charges '{"amount":100,"currency":"EUR"}'`, with the payments
//! example running. `KEY` continues an operation that an earlier process began.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use ureq::{Agent, Body, http::Response};

/// A server forgets a key some time after the operation; retrying must have ended long before.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What to do about an answer.
enum Verdict {
    /// The operation's answer, now or at the first attempt.
    Done,
    /// The same request with the same key may fare better, not before so long.
    Retry(Duration),
    /// The same request will never fare better: something must be mended first.
    Refused,
}

fn judge(response: &Response<Body>) -> Verdict {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    // A replay is the first attempt's answer, even where the server gives it the status 409.
    if header("idempotent-replayed") == Some("true") {
        return Verdict::Done;
    }
    let wait =
        header("retry-after").and_then(|seconds| seconds.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    match response.status().as_u16() {
        200..400 => Verdict::Done,
        // Too early, too often, still running, or a server in trouble: nothing was refused for good. A 409 without
        // Retry-After is an answer of the operation itself.
        408 | 423 | 425 | 429 | 500.. => Verdict::Retry(wait),
        409 if header("retry-after").is_some() => Verdict::Retry(wait),
        _ => Verdict::Refused,
    }
}

/// Half of it at least, so that clients that failed together don't return together.
fn jittered(pause: Duration) -> Duration {
    let thousandths = u32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or_default();
    pause / 2 + pause / 2000 * thousandths
}

/// 128 random bits: nobody else's key.
fn new_key() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(1), RandomState::new().hash_one(2))
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(url), Some(body)) = (arguments.next(), arguments.next()) else {
        eprintln!("client URL JSON");
        return ExitCode::FAILURE;
    };
    let key = env::var("KEY").unwrap_or_else(|_| new_key());
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into();
    let start = Instant::now();
    let mut pause = Duration::from_millis(100);
    for attempt in 1.. {
        let sent =
            agent.post(&url).header("content-type", "application/json").header("idempotency-key", &key).send(&body);
        let wait = match sent {
            Ok(mut response) => match judge(&response) {
                Verdict::Retry(wait) => {
                    eprintln!("attempt {attempt}: {}", response.status());
                    wait
                }
                verdict => {
                    eprintln!("attempt {attempt}: {}", response.status());
                    println!("{}", response.body_mut().read_to_string().unwrap_or_default());
                    return if matches!(verdict, Verdict::Done) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                }
            },
            // The request may have arrived. That is what the key is for.
            Err(error) => {
                eprintln!("attempt {attempt}: {error}");
                Duration::ZERO
            }
        };
        let wait = wait.max(jittered(pause));
        if start.elapsed() + wait > GIVE_UP_AFTER {
            break;
        }
        thread::sleep(wait);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    eprintln!("given up; whether the operation took effect is not known. KEY={key} continues it");
    ExitCode::FAILURE
}
