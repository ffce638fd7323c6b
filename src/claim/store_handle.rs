//! A store under its name, and calls to it.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::time::Instant;

use super::in_flight::Operations;
use super::{ask::InFlight, local::LocalClaims, renewal::LeaseKeeper, waiting_room::WaitingRoom};
use crate::{
    key::RecordId,
    observe::metrics::StoreCall,
    store::{Store, StoreError, StoreFuture},
};

/// A store, with those who wait for it and those who hold its claims.
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(super) waiting: WaitingRoom,
    pub(super) keeper: LeaseKeeper,
    pub(super) local: LocalClaims,
    pub(super) operations: Arc<Operations>,
    pub(super) releases: AtomicUsize,
}

impl Cache {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, operations: Arc<Operations>) -> Arc<Self> {
        let keeper = LeaseKeeper::new(&name, store.clone());
        Arc::new(Self {
            name,
            store,
            waiting: WaitingRoom::default(),
            keeper,
            local: LocalClaims::default(),
            operations,
            releases: AtomicUsize::new(0),
        })
    }

    /// Waits until it is worth asking again, `at_most` that long.
    pub(super) async fn wait(&self, id: &RecordId, in_flight: InFlight, round: u32, at_most: Duration) {
        let lease_left = match in_flight {
            InFlight::Here(ended) => {
                let _ = tokio::time::timeout(at_most, ended).await;
                return;
            }
            InFlight::Elsewhere(lease_left) => lease_left,
        };
        let at_most = at_most.min(lease_left);
        let changed = tokio::time::timeout(at_most, self.store.changed(id, round, at_most)).await;
        if let Ok(Err(error)) = changed {
            // `begin` will meet it again; not at once.
            tracing::debug!(%error, record = ?id, "a waiter is not told of changes");
            tokio::time::sleep(at_most.min(Duration::from_millis(20))).await;
        }
    }

    /// A call to the store that has just been made.
    pub(super) fn call<'a, T: Unpin>(&'a self, name: &'static str, future: StoreFuture<'a, T>) -> Call<'a, T> {
        Call::new(&self.name, name, future)
    }
}

/// One call to the store, measured.
pub(super) struct Call<'a, T> {
    future: StoreFuture<'a, T>,
    measure: StoreCall<'a>,
}

impl<'a, T: Unpin> Call<'a, T> {
    pub(super) fn new(cache: &'a str, name: &'static str, future: StoreFuture<'a, T>) -> Self {
        Self { future, measure: StoreCall::starts(cache, name) }
    }

    /// Its answer, when it is known already.
    pub(super) fn now(self) -> Result<Result<T, StoreError>, Self> {
        match self.future.try_ready() {
            Ok(answer) => {
                self.measure.ends(&answer);
                Ok(answer)
            }
            Err(future) => Err(Self { future, ..self }),
        }
    }

    /// Its answer, within its time.
    pub(super) async fn within(self, timeout: Duration) -> Result<T, StoreError> {
        let Self { future, measure } = match self.now() {
            Ok(answer) => return answer,
            Err(call) => call,
        };
        let answer = match tokio::time::timeout(timeout, future).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(timeout)),
        };
        measure.ends(&answer);
        answer
    }
}

/// Repeats a call until it succeeds or `limit` is over, in growing intervals up to a second.
pub(super) async fn retry<T, F>(limit: Duration, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(20);
    loop {
        match call().await {
            Err(error) if Instant::now() + pause < until => {
                tracing::debug!(error = %error, "a store call failed; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("name", &self.name).finish_non_exhaustive()
    }
}
