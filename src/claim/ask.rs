//! Asking the store: from a question to an answer.

use std::{sync::Arc, time::Duration};

use tokio::{sync::futures::OwnedNotified, time::Instant};

use super::{config::Terms, give_up::Underway, local::Look, store_handle::Call};
use super::{held::Held, store_handle::Cache};
use crate::{
    key::{Fingerprint, RecordId},
    observe::metrics::StoreCall,
    record::Record,
    settings::Settings,
    store::{Begin, BeginRequest, Claim, Completion, Mode, OwnerToken, StoreError, StoreFuture},
};

/// The claims of one instance of the middleware: in which cache, and on what terms. Each worker has its own, since those
/// who hold it are counted: workers would wait for each other.
pub(crate) struct Claims {
    pub(crate) cache: Arc<Cache>,
    pub(super) terms: Terms,
}

/// What is asked about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) id: RecordId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) mode: Mode,
}

/// The answer to a question.
pub(crate) enum Claimed {
    Run { held: Box<Held>, previous: Option<Record> },
    Completed { record: Record, remaining: Duration },
    InFlight,
    Mismatch,
    OwnerLost,
}

/// An answer, or where the first request runs.
enum Asked {
    Answer(Claimed),
    InFlight(InFlight),
}

pub(super) enum InFlight {
    /// In this process; resolves when it has ended.
    Here(OwnedNotified),
    /// Its lease ends then, if it is not renewed.
    Elsewhere(Duration),
}

impl Claims {
    pub(crate) fn new(cache: Arc<Cache>, settings: &Settings) -> Arc<Self> {
        let terms = Terms::new(settings, &*cache.store);
        Arc::new(Self { cache, terms })
    }

    /// Asks until there is an answer other than "in flight", for as long as the terms allow. Says how long it waited, too.
    ///
    /// Boxed where it waits, as every way here: it would make the future of each request larger, which is moved.
    pub(crate) fn claim(
        self: &Arc<Self>,
        question: Question,
    ) -> impl Future<Output = (Result<Claimed, StoreError>, Duration)> {
        let request = question.begin(OwnerToken::random(), &self.terms);
        async move {
            if !self.terms.exclusive {
                return (Box::pin(self.claim_unlocked(&request)).await, Duration::ZERO);
            }
            match self.ask(&request).await {
                Ok(Asked::Answer(claimed)) => (Ok(claimed), Duration::ZERO),
                Ok(Asked::InFlight(in_flight)) => Box::pin(self.claim_later(&request, in_flight)).await,
                Err(error) => (Err(error), Duration::ZERO),
            }
        }
    }

    /// Asks again and again, as long as somebody else runs.
    async fn claim_later(
        self: &Arc<Self>,
        request: &BeginRequest,
        mut in_flight: InFlight,
    ) -> (Result<Claimed, StoreError>, Duration) {
        let start = Instant::now();
        let mut waited = Duration::ZERO;
        let mut seat = None;
        for round in 0.. {
            let left = self.terms.wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            if seat.is_none() {
                seat = self.cache.waiting.enter(request.id, self.terms.max_waiters);
                if seat.is_none() {
                    break;
                }
            }
            let now = Instant::now();
            self.cache.wait(&request.id, in_flight, round, left).await;
            waited += now.elapsed();
            in_flight = match self.ask(request).await {
                Ok(Asked::Answer(claimed)) => return (Ok(claimed), waited),
                Ok(Asked::InFlight(in_flight)) => in_flight,
                // Somebody ran a moment ago: a store that has gone silent since is no leave to run beside them.
                Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)) => break,
                Err(error) => return (Err(error), waited),
            };
        }
        (Ok(Claimed::InFlight), waited)
    }

    /// One look at what this process knows, and else one question to the store.
    async fn ask(self: &Arc<Self>, request: &BeginRequest) -> Result<Asked, StoreError> {
        if self.cache.store.leases() {
            match self.cache.local.look(request) {
                Look::Nothing => {}
                Look::Mismatch => return Ok(Asked::Answer(Claimed::Mismatch)),
                Look::InFlight(ended) => return Ok(Asked::InFlight(InFlight::Here(ended))),
            }
        }
        Ok(match self.begin(request).await? {
            Begin::Fresh { claim, previous } => {
                let held = Held::new(self.clone(), claim);
                Asked::Answer(Claimed::Run { held, previous })
            }
            Begin::Completed { record, remaining } => Asked::Answer(Claimed::Completed { record, remaining }),
            Begin::Mismatch => Asked::Answer(Claimed::Mismatch),
            Begin::OwnerLost => Asked::Answer(Claimed::OwnerLost),
            Begin::InFlight { retry_after } => Asked::InFlight(InFlight::Elsewhere(retry_after)),
        })
    }

    /// With `lock.enable = false` nothing is claimed before the run: only a completed record stops it.
    async fn claim_unlocked(self: &Arc<Self>, request: &BeginRequest) -> Result<Claimed, StoreError> {
        let answer = self.begin(request).await?;
        let previous = match answer {
            Begin::Fresh { claim, previous } => {
                let held = Held::new(self.clone(), claim);
                held.release().await;
                previous
            }
            Begin::Completed { record, remaining } => return Ok(Claimed::Completed { record, remaining }),
            Begin::Mismatch => return Ok(Claimed::Mismatch),
            Begin::OwnerLost => return Ok(Claimed::OwnerLost),
            Begin::InFlight { .. } => None,
        };
        let question = Question { id: request.id, fingerprint: request.fingerprint, mode: request.mode };
        let held = Held::unlocked(self.clone(), question);
        Ok(Claimed::Run { held, previous })
    }

    pub(super) fn call_complete<'a>(&'a self, claim: &'a Claim, record: &'a Record) -> Call<'a, Completion> {
        self.cache.call("complete", self.cache.store.complete(claim, record, self.terms.ttl))
    }

    /// `begin`, repeated with the same token while `storage.timeout` lasts. A caller that gives up frees its token behind.
    pub(super) async fn begin(self: &Arc<Self>, request: &BeginRequest) -> Result<Begin, StoreError> {
        let measure = StoreCall::starts(&self.cache.name, "begin");
        let call = match self.cache.store.begin(request).try_ready() {
            Ok(Err(StoreError::Unavailable(_))) => self.cache.store.begin(request),
            Ok(answer) => {
                measure.ends(&answer);
                return answer;
            }
            Err(call) => call,
        };
        let answer = Box::pin(self.begin_in_time(call, request)).await;
        measure.ends(&answer);
        answer
    }

    async fn begin_in_time(
        self: &Arc<Self>,
        call: StoreFuture<'_, Begin>,
        request: &BeginRequest,
    ) -> Result<Begin, StoreError> {
        let mut underway = Underway { claims: self, request, answered: false };
        let mut tries = 1;
        let twice = async {
            match call.await {
                Err(StoreError::Unavailable(error)) => {
                    tries += 1;
                    tracing::debug!(error = &*error, record = ?request.id, "begin failed; once more with the same token");
                    self.cache.store.begin(request).await
                }
                answer => answer,
            }
        };
        let answer = match tokio::time::timeout(self.terms.timeout, twice).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(self.terms.timeout)),
        };
        // A first refusal is one; after an answer that was lost nobody knows.
        underway.answered = answer.is_ok() || (tries == 1 && matches!(answer, Err(StoreError::Full)));
        answer
    }
}

impl Question {
    pub(super) fn begin(self, token: OwnerToken, terms: &Terms) -> BeginRequest {
        BeginRequest {
            id: self.id,
            fingerprint: self.fingerprint,
            token,
            lease: terms.lease,
            keep: terms.ttl,
            mode: self.mode,
            on_unknown: terms.on_unknown,
        }
    }
}
