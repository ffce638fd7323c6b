//! A client that retries correctly: it uses one key for all attempts of one operation, and pauses between attempts. The
//! pauses grow, have jitter, and are at least as long as `Retry-After` says.
//!
//! Start the payments example, then run `cargo run --example client -- http://127.0.0.1:8080/charges
//! '{"amount":100,"currency":"EUR"}'`. The environment variable `KEY` continues an operation that an earlier process
//! began. With `PREFER=respond-async` a server that allows it answers 202 while a long operation goes on, and the client
//! looks the answer up; servers give it to the caller of the same `AUTHORIZATION` only.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use ureq::{Agent, Body, http::Response};

/// A server keeps the response of a key for a limited time. Retries must end long before that, or the operation may run
/// again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The next step after an answer.
enum Verdict {
    /// The operation succeeded: in this attempt, or in an earlier one whose answer is replayed.
    Done,
    /// Send the same request with the same key again, after at least this time.
    Retry(Duration),
    /// The operation goes on, and its answer will be at this path.
    Look(String),
    /// The operation failed and the failure is stored, or the request will always be refused. The same request with the
    /// same key gets the same answer each time.
    Failed,
}

/// `looked_up`: where the answer was looked up. `None`: the operation was sent.
fn judge(response: &Response<Body>, looked_up: Option<&str>) -> Verdict {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    // A replay is the answer of the operation, and the first status is its outcome. A server that sends replays with a
    // status of their own, mostly 409, names the first one in `Idempotent-Status`. The marker alone says nothing about
    // success: failures are stored too.
    if header("idempotent-replayed") == Some("true") {
        let first = header("idempotent-status").and_then(|status| status.parse().ok());
        return match first.unwrap_or(response.status().as_u16()) {
            200..400 => Verdict::Done,
            _ => Verdict::Failed,
        };
    }
    let wait =
        header("retry-after").and_then(|seconds| seconds.parse().ok()).map_or(Duration::ZERO, Duration::from_secs);
    match response.status().as_u16() {
        202 if looked_up.is_some() => looked_up.map_or(Verdict::Done, |path| Verdict::Look(path.to_owned())),
        // A 202 of the operation itself has no `Preference-Applied`.
        202 if header("preference-applied").is_some_and(|applied| applied.contains("respond-async")) => {
            header("location").map_or(Verdict::Retry(wait), |path| Verdict::Look(path.to_owned()))
        }
        200..400 => Verdict::Done,
        // The request took too long to arrive, came too early or too often, is still in flight, or the server is in
        // trouble: a retry may succeed. So may one after a 409 with Retry-After. A 409 without Retry-After is an answer
        // of the operation itself.
        408 | 423 | 425 | 429 | 500.. => Verdict::Retry(wait),
        409 if header("retry-after").is_some() => Verdict::Retry(wait),
        _ => Verdict::Failed,
    }
}

/// A random time between one half of `pause` and all of it, so that clients that failed together don't retry together.
fn jittered(pause: Duration) -> Duration {
    let thousandths = u32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or_default();
    pause / 2 + pause / 2000 * thousandths
}

/// A key of 128 random bits, so that no other client has the same one.
fn new_key() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(1), RandomState::new().hash_one(2))
}

/// The beginning of a URL, up to its path.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |path| &url[..host + path])
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let (Some(url), Some(body)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: client URL JSON");
        return ExitCode::FAILURE;
    };
    let key = env::var("KEY").unwrap_or_else(|_| new_key());
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into();
    let (prefer, authorization) = (env::var("PREFER").ok(), env::var("AUTHORIZATION").ok());
    let start = Instant::now();
    // Where the answer of an operation that goes on will be.
    let mut place: Option<String> = None;
    let mut pause = Duration::from_millis(100);
    for attempt in 1.. {
        let sent = if let Some(path) = &place {
            let looking = agent.get(origin(&url).to_owned() + path).header("prefer", "wait=10");
            authorization.iter().fold(looking, |looking, value| looking.header("authorization", value)).call()
        } else {
            let sending = agent.post(&url).header("content-type", "application/json").header("idempotency-key", &key);
            let sending = prefer.iter().fold(sending, |sending, value| sending.header("prefer", value));
            authorization.iter().fold(sending, |sending, value| sending.header("authorization", value)).send(&body)
        };
        let wait = match sent {
            Ok(mut response) => match judge(&response, place.as_deref()) {
                Verdict::Retry(wait) => {
                    eprintln!("attempt {attempt}: {}", response.status());
                    // An operation that ended without a stored answer is sent again.
                    place = None;
                    wait
                }
                Verdict::Look(path) => {
                    eprintln!("attempt {attempt}: {}, the operation goes on", response.status());
                    place = Some(path);
                    Duration::ZERO
                }
                verdict => {
                    eprintln!("attempt {attempt}: {}", response.status());
                    println!("{}", response.body_mut().read_to_string().unwrap_or_default());
                    return if matches!(verdict, Verdict::Done) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                }
            },
            // The operation may have run although no answer arrived. The key makes the retry safe.
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
    eprintln!("no answer, so it is not known whether the operation took effect. Set KEY={key} to continue it");
    ExitCode::FAILURE
}
