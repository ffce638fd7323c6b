//! From a question ("may this request run?") to a held claim, and from a held claim to a stored response. The calls to
//! the store are bounded and repeated here, so that stores need not.

mod behind;
mod held;
mod keeper;
mod local;
mod terms;
mod waiting;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{sync::futures::OwnedNotified, time::Instant};

use self::{
    behind::Underway,
    keeper::LeaseKeeper,
    local::{LocalClaims, Look},
    waiting::WaitingRoom,
};
pub(crate) use self::{
    held::{Held, Written},
    terms::{Terms, century},
};
use crate::{
    Begin, BeginRequest, Claim, Completion, Fingerprint, Mode, OwnerToken, Record, RecordId, Store, StoreError,
    StoreFuture, metrics::StoreCall, operations::Operations,
};

/// A store under its name, with those who wait for it and those who hold its claims.
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    waiting: WaitingRoom,
    keeper: LeaseKeeper,
    local: LocalClaims,
    operations: Arc<Operations>,
    releases: AtomicUsize,
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

enum InFlight {
    /// In this process; resolves when it has ended.
    Here(OwnedNotified),
    /// Its lease ends then, if it is not renewed.
    Elsewhere(Duration),
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

    /// Asks until there is an answer other than "in flight", for as long as the terms allow. Says how long it waited, too.
    ///
    /// Boxed where it waits, as every way here: it would make the future of each request larger, which is moved.
    pub(crate) fn claim<'a>(
        self: &'a Arc<Self>,
        question: Question,
        terms: &'a Arc<Terms>,
    ) -> impl Future<Output = (Result<Claimed, StoreError>, Duration)> + 'a {
        let request = question.begin(OwnerToken::random(), terms);
        async move {
            if !terms.exclusive {
                return (Box::pin(self.claim_unlocked(&request, terms)).await, Duration::ZERO);
            }
            match self.ask(&request, terms).await {
                Ok(Asked::Answer(claimed)) => (Ok(claimed), Duration::ZERO),
                Ok(Asked::InFlight(in_flight)) => Box::pin(self.claim_later(&request, terms, in_flight)).await,
                Err(error) => (Err(error), Duration::ZERO),
            }
        }
    }

    /// Asks again and again, as long as somebody else runs.
    async fn claim_later(
        self: &Arc<Self>,
        request: &BeginRequest,
        terms: &Arc<Terms>,
        mut in_flight: InFlight,
    ) -> (Result<Claimed, StoreError>, Duration) {
        let start = Instant::now();
        let mut waited = Duration::ZERO;
        let mut seat = None;
        for round in 0.. {
            let left = terms.wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            if seat.is_none() {
                seat = self.waiting.enter(request.id, terms.max_waiters);
                if seat.is_none() {
                    break;
                }
            }
            let now = Instant::now();
            self.wait(&request.id, in_flight, round, left).await;
            waited += now.elapsed();
            in_flight = match self.ask(request, terms).await {
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
    async fn ask(self: &Arc<Self>, request: &BeginRequest, terms: &Arc<Terms>) -> Result<Asked, StoreError> {
        if self.store.leases() {
            match self.local.look(request) {
                Look::Nothing => {}
                Look::Mismatch => return Ok(Asked::Answer(Claimed::Mismatch)),
                Look::InFlight(ended) => return Ok(Asked::InFlight(InFlight::Here(ended))),
            }
        }
        Ok(match self.begin(request, terms).await? {
            Begin::Fresh { claim, previous } => {
                let held = Held::new(self.clone(), terms.clone(), claim);
                Asked::Answer(Claimed::Run { held, previous })
            }
            Begin::Completed { record, remaining } => Asked::Answer(Claimed::Completed { record, remaining }),
            Begin::Mismatch => Asked::Answer(Claimed::Mismatch),
            Begin::OwnerLost => Asked::Answer(Claimed::OwnerLost),
            Begin::InFlight { retry_after } => Asked::InFlight(InFlight::Elsewhere(retry_after)),
        })
    }

    /// Waits until it is worth asking again, `at_most` that long.
    async fn wait(&self, id: &RecordId, in_flight: InFlight, round: u32, at_most: Duration) {
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

    /// With `lock.enable = false` nothing is claimed before the run: only a completed record stops it.
    async fn claim_unlocked(
        self: &Arc<Self>,
        request: &BeginRequest,
        terms: &Arc<Terms>,
    ) -> Result<Claimed, StoreError> {
        let answer = self.begin(request, terms).await?;
        let previous = match answer {
            Begin::Fresh { claim, previous } => {
                let held = Held::new(self.clone(), terms.clone(), claim);
                held.release().await;
                previous
            }
            Begin::Completed { record, remaining } => return Ok(Claimed::Completed { record, remaining }),
            Begin::Mismatch => return Ok(Claimed::Mismatch),
            Begin::OwnerLost => return Ok(Claimed::OwnerLost),
            Begin::InFlight { .. } => None,
        };
        let question = Question { id: request.id, fingerprint: request.fingerprint, mode: request.mode };
        let held = Held::unlocked(self.clone(), terms.clone(), question);
        Ok(Claimed::Run { held, previous })
    }

    /// A call to the store that has just been made.
    fn call<'a, T: Unpin>(&'a self, name: &'static str, future: StoreFuture<'a, T>) -> Call<'a, T> {
        Call::new(&self.name, name, future)
    }

    /// `complete`, where the store answers at once.
    fn complete_now(&self, claim: &Claim, record: &Record, terms: &Terms) -> Option<Result<Completion, StoreError>> {
        let measure = StoreCall::starts(&self.name, "complete");
        let answer = self.store.complete(claim, record, terms.ttl).try_ready().ok()?;
        measure.ends(&answer);
        Some(answer)
    }

    /// `begin`, repeated with the same token while `storage.timeout` lasts. A caller that gives up frees its token behind.
    async fn begin(self: &Arc<Self>, request: &BeginRequest, terms: &Arc<Terms>) -> Result<Begin, StoreError> {
        let measure = StoreCall::starts(&self.name, "begin");
        let call = match self.store.begin(request).try_ready() {
            Ok(Err(StoreError::Unavailable(_))) => self.store.begin(request),
            Ok(answer) => {
                measure.ends(&answer);
                return answer;
            }
            Err(call) => call,
        };
        let answer = Box::pin(self.begin_in_time(call, request, terms)).await;
        measure.ends(&answer);
        answer
    }

    async fn begin_in_time(
        self: &Arc<Self>,
        call: StoreFuture<'_, Begin>,
        request: &BeginRequest,
        terms: &Arc<Terms>,
    ) -> Result<Begin, StoreError> {
        let mut underway = Underway { cache: self, terms, request, answered: false };
        let mut tries = 1;
        let twice = async {
            match call.await {
                Err(StoreError::Unavailable(error)) => {
                    tries += 1;
                    tracing::debug!(error = &*error, record = ?request.id, "begin failed; once more with the same token");
                    self.store.begin(request).await
                }
                answer => answer,
            }
        };
        let answer = match tokio::time::timeout(terms.timeout, twice).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(terms.timeout)),
        };
        // A first refusal is one; after an answer that was lost nobody knows.
        underway.answered = answer.is_ok() || (tries == 1 && matches!(answer, Err(StoreError::Full)));
        answer
    }
}

impl Question {
    fn begin(self, token: OwnerToken, terms: &Terms) -> BeginRequest {
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

/// One call to the store, measured.
struct Call<'a, T> {
    future: StoreFuture<'a, T>,
    measure: StoreCall<'a>,
}

impl<'a, T: Unpin> Call<'a, T> {
    fn new(cache: &'a str, name: &'static str, future: StoreFuture<'a, T>) -> Self {
        Self { future, measure: StoreCall::starts(cache, name) }
    }

    /// Its answer, within its time.
    async fn within(self, timeout: Duration) -> Result<T, StoreError> {
        let answer = match self.future.try_ready() {
            Ok(answer) => answer,
            // Boxed, as every way here that waits: it would make the future of each request larger, which is moved often.
            Err(call) => match Box::pin(tokio::time::timeout(timeout, call)).await {
                Ok(answer) => answer,
                Err(_) => Err(StoreError::TimedOut(timeout)),
            },
        };
        self.measure.ends(&answer);
        answer
    }
}

/// Repeats a call until it succeeds or `limit` is over, in growing intervals up to a second.
async fn retry<T, F>(limit: Duration, mut call: impl FnMut() -> F) -> Result<T, StoreError>
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
