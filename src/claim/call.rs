//! One call to a store: timed, limited, and repeated.

use std::time::Duration;

use tokio::time::Instant;

use super::store_handle::Health;
use crate::{
    observe::metrics::CallTimer,
    store::{StoreError, StoreFuture},
};

/// One call to a store, which the metrics time.
pub(super) struct StoreCall<'a, T> {
    future: StoreFuture<'a, T>,
    timer: CallTimer<'a>,
    health: &'a Health,
}

impl<'a, T: Unpin> StoreCall<'a, T> {
    /// Starts to time a call that has just been made. `cache` and `name` are its labels.
    pub(super) fn new(cache: &'a str, name: &'static str, health: &'a Health, future: StoreFuture<'a, T>) -> Self {
        Self { future, timer: CallTimer::starts(cache, name), health }
    }

    /// The answer, if it is known already; else the call itself.
    pub(super) fn now(self) -> Result<Result<T, StoreError>, Self> {
        match self.future.try_ready() {
            Ok(answer) => {
                self.timer.ends(&answer);
                self.health.heard(&answer);
                Ok(answer)
            }
            Err(future) => Err(Self { future, ..self }),
        }
    }

    /// The answer, or [`StoreError::TimedOut`] after `timeout`.
    pub(super) async fn within(self, timeout: Duration) -> Result<T, StoreError> {
        let Self { future, timer, health } = match self.now() {
            Ok(answer) => return answer,
            Err(call) => call,
        };
        let answer = match tokio::time::timeout(timeout, future).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(timeout)),
        };
        timer.ends(&answer);
        health.heard(&answer);
        answer
    }
}

/// Repeats a call until it succeeds or `limit` is over, with pauses that grow up to a second. A pause ends at once when
/// another call hears from the store again: what waits must arrive before a lease and its grace are over.
pub(super) async fn retry<T, F>(health: &Health, limit: Duration, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(20);
    loop {
        match call().await {
            Err(error) if Instant::now() + pause < until => {
                tracing::debug!(error = %error, "a store call failed; it is tried again");
                health.pause(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}
