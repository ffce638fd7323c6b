//! Asks the store whether a request may run.

use std::{sync::Arc, time::Duration};

use super::{
    config::ClaimConfig, hold::HeldClaim, local::LocalState, store_handle::StoreHandle, wait::Holder,
    write_behind::BeginGuard,
};
use crate::{
    key::{Fingerprint, RecordId},
    observe::metrics::CallTimer,
    record::Record,
    settings::Settings,
    store::{Begin, BeginRequest, Found, IfCompleted, OwnerToken, StoreError, StoreFuture},
};

/// The claims of one instance of the middleware: in which store, and by which settings. Each worker has its own,
/// because a reference count that workers share would make them wait for each other.
pub(crate) struct Claims {
    pub(crate) handle: Arc<StoreHandle>,
    pub(super) config: ClaimConfig,
}

/// The request for a claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) id: RecordId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) if_completed: IfCompleted,
}

/// The answer to a [`ClaimRequest`].
pub(crate) enum ClaimAnswer {
    /// The request holds the claim and runs.
    Run { held: Box<HeldClaim>, previous: Option<Record> },
    /// The operation has run.
    Completed { record: Record, remaining: Duration },
    /// Another request still runs.
    InFlight,
    /// The key was used for another operation.
    Mismatch,
    /// The previous owner was lost.
    OwnerLost,
}

/// One poll of the store: an answer, or who holds the claim.
pub(super) enum Poll {
    Answer(ClaimAnswer),
    InFlight(Holder),
}

impl Claims {
    pub(crate) fn new(handle: Arc<StoreHandle>, settings: &Settings) -> Arc<Self> {
        let config = ClaimConfig::new(settings, &*handle.store);
        Arc::new(Self { handle, config })
    }

    /// Asks until there is an answer other than "in flight", for at most `lock.timeout`. Returns the time that it
    /// waited, too.
    ///
    /// Paths that wait are boxed: they would make the future of every request larger, and that future is moved.
    pub(crate) fn claim(
        self: &Arc<Self>,
        request: ClaimRequest,
    ) -> impl Future<Output = (Result<ClaimAnswer, StoreError>, Duration)> {
        let begin = request.begin(OwnerToken::random(), &self.config);
        async move {
            if !self.config.exclusive {
                return (Box::pin(self.claim_unlocked(request, &begin)).await, Duration::ZERO);
            }
            match self.poll(&begin).await {
                Ok(Poll::Answer(answer)) => (Ok(answer), Duration::ZERO),
                Ok(Poll::InFlight(holder)) => Box::pin(self.wait_for_claim(&begin, holder)).await,
                Err(error) => (Err(error), Duration::ZERO),
            }
        }
    }

    /// Looks into the table of this process's own claims, then asks the store.
    pub(super) async fn poll(self: &Arc<Self>, begin: &BeginRequest) -> Result<Poll, StoreError> {
        if !self.handle.store.answers_at_once() {
            match self.handle.local.state(begin) {
                LocalState::Nothing => {}
                LocalState::Mismatch => return Ok(Poll::Answer(ClaimAnswer::Mismatch)),
                LocalState::InFlight(ended) => return Ok(Poll::InFlight(Holder::Here(ended))),
            }
        }
        Ok(match self.begin(begin).await? {
            Begin::Acquired(acquired) => {
                let held = HeldClaim::new(self.clone(), acquired.claim);
                Poll::Answer(ClaimAnswer::Run { held, previous: acquired.previous })
            }
            Begin::Completed(Found { record, remaining }) => Poll::Answer(ClaimAnswer::Completed { record, remaining }),
            Begin::Mismatch => Poll::Answer(ClaimAnswer::Mismatch),
            Begin::OwnerLost => Poll::Answer(ClaimAnswer::OwnerLost),
            Begin::InFlight(wait) => Poll::InFlight(Holder::Elsewhere(wait.retry_after)),
        })
    }

    /// With `lock.enable = false` nothing is claimed before the run, and only a completed record stops it.
    async fn claim_unlocked(
        self: &Arc<Self>,
        request: ClaimRequest,
        begin: &BeginRequest,
    ) -> Result<ClaimAnswer, StoreError> {
        let previous = match self.begin(begin).await? {
            Begin::Acquired(acquired) => {
                HeldClaim::new(self.clone(), acquired.claim).release().await;
                acquired.previous
            }
            Begin::Completed(Found { record, remaining }) => return Ok(ClaimAnswer::Completed { record, remaining }),
            Begin::Mismatch => return Ok(ClaimAnswer::Mismatch),
            Begin::OwnerLost => return Ok(ClaimAnswer::OwnerLost),
            Begin::InFlight(_) => None,
        };
        Ok(ClaimAnswer::Run { held: HeldClaim::unlocked(self.clone(), request), previous })
    }

    /// Calls `begin`, repeated with the same token while `storage.timeout` lasts. A caller that leaves before the
    /// answer gives its token up in the background.
    pub(super) async fn begin(self: &Arc<Self>, begin: &BeginRequest) -> Result<Begin, StoreError> {
        let timer = CallTimer::starts(&self.handle.name, "begin");
        let call = match self.handle.store.begin(begin).try_ready() {
            Ok(Err(StoreError::Unavailable(_))) => self.handle.store.begin(begin),
            Ok(answer) => {
                timer.ends(&answer);
                return answer;
            }
            Err(call) => call,
        };
        let answer = Box::pin(self.begin_in_time(call, begin)).await;
        timer.ends(&answer);
        answer
    }

    async fn begin_in_time(
        self: &Arc<Self>,
        call: StoreFuture<'_, Begin>,
        begin: &BeginRequest,
    ) -> Result<Begin, StoreError> {
        let mut guard = BeginGuard { claims: self, begin, answered: false };
        let mut tries = 1;
        let twice = async {
            match call.await {
                Err(StoreError::Unavailable(error)) => {
                    tries += 1;
                    tracing::debug!(error = &*error, record = ?begin.id, "begin failed; once more with the same token");
                    self.handle.store.begin(begin).await
                }
                answer => answer,
            }
        };
        let answer = match tokio::time::timeout(self.config.timeout, twice).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(self.config.timeout)),
        };
        // `Full` on the first try means that nothing was claimed. On the second try, the first call may have claimed
        // although its answer was lost.
        guard.answered = answer.is_ok() || (tries == 1 && matches!(answer, Err(StoreError::Full)));
        answer
    }
}

impl ClaimRequest {
    pub(super) fn begin(self, token: OwnerToken, config: &ClaimConfig) -> BeginRequest {
        BeginRequest {
            lease: config.lease,
            keep: config.ttl,
            if_completed: self.if_completed,
            on_unknown: config.on_unknown,
            ..BeginRequest::new(self.id, self.fingerprint, token)
        }
    }
}
