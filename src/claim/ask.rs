//! Asks the store whether a request may run.

use std::{sync::Arc, time::Duration};

use super::{
    config::ClaimConfig, hold::HeldClaim, local::LocalState, store_handle::StoreHandle, wait::Holder,
    write_behind::BeginGuard,
};
use crate::{
    key::{Fingerprint, Principal, RecordId},
    ledger::{AnyLedger, Row},
    observe::metrics::{self, CallTimer},
    record::{Record, UnreadableRecord},
    settings::Settings,
    store::{Begin, BeginRequest, Found, IfCompleted, OwnerToken, Step, StoreError, StoreFuture},
};

/// The claims of one instance of the middleware: in which store, and by which settings. Each worker has its own,
/// because a reference count that workers share would make them wait for each other.
pub(crate) struct Claims {
    pub(crate) handle: Arc<StoreHandle>,
    pub(super) config: ClaimConfig,
}

/// The request for a claim.
#[derive(Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) id: RecordId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) principal: Principal,
    pub(crate) if_completed: IfCompleted,
    /// Where duplicates look for an answer while they wait.
    pub(crate) ledger: Option<AnyLedger>,
    /// The keys for sealing its response. `None`: it is not sealed.
    #[cfg(feature = "encryption")]
    pub(crate) sealing: Option<Arc<crate::sealing::Sealing>>,
}

/// The answer to a [`ClaimRequest`].
pub(crate) enum ClaimAnswer {
    /// The request holds the claim and runs.
    Run { held: Box<HeldClaim>, previous: Option<Record> },
    /// The operation has run.
    Completed { record: Record, remaining: Duration },
    /// The operation has run, and the ledger has its answer.
    Recorded(Box<Row>),
    /// Another request still runs. With the grace that is left when its lease is over.
    InFlight(Option<Duration>),
    /// The key was used for another operation.
    Mismatch,
    /// The previous owner was lost.
    OwnerLost,
}

/// The answer of a store that is asked once, or the holder of the claim.
pub(super) enum Asked {
    Answer(ClaimAnswer),
    InFlight(Holder),
}

impl Claims {
    pub(crate) fn new(handle: Arc<StoreHandle>, settings: &Settings) -> Arc<Self> {
        let config = ClaimConfig::new(settings, &*handle.store);
        Arc::new(Self { handle, config })
    }

    /// Asks until there is an answer other than "in flight", for at most the time that the client wants to wait, or else
    /// `lock.timeout`. Returns the time that it waited, too.
    ///
    /// Paths that wait are boxed: they would make the future of every request larger, and that future is moved.
    pub(crate) fn claim(
        self: &Arc<Self>,
        request: ClaimRequest,
        wait: impl FnOnce() -> Option<Duration>,
    ) -> impl Future<Output = (Result<ClaimAnswer, StoreError>, Duration)> {
        let ledger = request.ledger.clone();
        let begin = request.begin(self.handle.new_token(), &self.config);
        async move {
            if !self.config.exclusive {
                return (Box::pin(self.look(begin)).await, Duration::ZERO);
            }
            match self.ask(&begin).await {
                Ok(Asked::Answer(answer)) => (Ok(answer), Duration::ZERO),
                Ok(Asked::InFlight(holder)) => {
                    let wait = wait().unwrap_or(self.config.wait);
                    Box::pin(self.wait_for_claim(&begin, holder, ledger, wait)).await
                }
                Err(error) => (Err(error), Duration::ZERO),
            }
        }
    }

    /// Looks into the table of this process's own claims, then asks the store.
    pub(super) async fn ask(self: &Arc<Self>, begin: &BeginRequest) -> Result<Asked, StoreError> {
        if !self.handle.store.answers_at_once() {
            match self.handle.local.state(begin) {
                LocalState::Nothing => {}
                LocalState::Mismatch => return Ok(Asked::Answer(ClaimAnswer::Mismatch)),
                LocalState::InFlight(ended) => return Ok(Asked::InFlight(Holder::Here(ended))),
            }
        }
        Ok(match self.begin(begin).await? {
            Begin::Acquired(acquired) if acquired.steps.iter().any(Step::is_sealed) => {
                // The settings have no keys any more.
                HeldClaim::new(self.clone(), acquired.claim, Vec::new()).free();
                return Err(UnreadableRecord::Unopened.into());
            }
            Begin::Acquired(acquired) => {
                count_other_scheme(acquired.other_scheme);
                let held = HeldClaim::new(self.clone(), acquired.claim, acquired.steps);
                Asked::Answer(ClaimAnswer::Run { held, previous: acquired.previous })
            }
            Begin::Completed(Found { record, remaining, other_scheme }) => {
                count_other_scheme(other_scheme);
                Asked::Answer(ClaimAnswer::Completed { record, remaining })
            }
            Begin::Mismatch => Asked::Answer(ClaimAnswer::Mismatch),
            Begin::OwnerLost => Asked::Answer(ClaimAnswer::OwnerLost),
            Begin::InFlight(wait) => Asked::InFlight(Holder::Elsewhere(wait)),
        })
    }

    /// Calls `begin`, repeated with the same token while `storage.timeout` lasts. A caller that leaves before the
    /// answer gives its token up in the background.
    pub(super) async fn begin(self: &Arc<Self>, begin: &BeginRequest) -> Result<Begin, StoreError> {
        let timer = CallTimer::starts(&self.handle.name, "begin");
        let call = match self.handle.store.begin(begin).try_ready() {
            Ok(Err(StoreError::Unavailable(_))) => self.handle.store.begin(begin),
            Ok(answer) => {
                timer.ends(&answer);
                self.handle.health.heard(&answer);
                return answer;
            }
            Err(call) => call,
        };
        let answer = Box::pin(self.begin_in_time(call, begin)).await;
        timer.ends(&answer);
        self.handle.health.heard(&answer);
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
    fn begin(self, token: OwnerToken, config: &ClaimConfig) -> BeginRequest {
        BeginRequest {
            principal: self.principal,
            lease: config.lease,
            grace: config.grace,
            keep: config.ttl,
            if_completed: self.if_completed,
            on_unknown: config.on_unknown,
            #[cfg(feature = "encryption")]
            sealing: self.sealing,
            ..BeginRequest::new(self.id, self.fingerprint, token)
        }
    }
}

fn count_other_scheme(other_scheme: bool) {
    if other_scheme {
        metrics::other_scheme();
    }
}
