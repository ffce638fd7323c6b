//! From a question ("may this request run?") to a held claim, and from a held claim to a stored response. The calls to
//! the store are bounded and repeated here, so that stores need not.

mod held;
mod keeper;
mod waiting;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub(crate) use self::held::Held;
use self::{keeper::LeaseKeeper, waiting::WaitingRoom};
use crate::{
    Begin, BeginRequest, Claim, Fate, Fingerprint, LockSettings, Mode, OnUnknown, OwnerToken, Record, RecordId,
    Settings, Store, StoreError, StoreFuture, background, operations::Operations,
};

/// A store under its name, with those who wait for it and those who hold its claims.
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    waiting: WaitingRoom,
    keeper: LeaseKeeper,
    operations: Arc<Operations>,
}

/// What is asked about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) id: RecordId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) mode: Mode,
}

/// The terms on which a claim is held; an excerpt of the settings.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// How long a claim lasts in the store.
    lease: Duration,
    /// For how long the lease is renewed; `None`: it is a hard ceiling.
    renewed_for: Option<Duration>,
    /// `lock.enable`.
    exclusive: bool,
    pub(crate) wait: Duration,
    max_waiters: usize,
    on_unknown: OnUnknown,
    ttl: Duration,
    timeout: Duration,
    retry_for: Duration,
}

/// The answer to a question.
pub(crate) enum Claimed {
    Run { held: Held, previous: Option<Record> },
    Completed(Record),
    InFlight,
    Mismatch,
    OwnerLost,
}

impl Terms {
    /// `settings.storage` must be those of the cache.
    pub(crate) fn new(settings: &Settings, store: &dyn Store) -> Self {
        let LockSettings { ttl, lease, enable, timeout, max_waiters, .. } = settings.lock;
        let max_run = settings.limits.max_run;
        let (lease, renewed_for) = match ttl {
            Some(ceiling) => (ceiling, None),
            None if store.leases() => (lease, Some(max_run)),
            // Without renewal the claim lasts as long as renewals would have kept it.
            None => (max_run, Some(max_run)),
        };
        Self {
            lease,
            renewed_for,
            exclusive: enable,
            wait: timeout,
            max_waiters,
            on_unknown: settings.on_unknown,
            ttl: settings.storage.ttl,
            timeout: settings.storage.timeout,
            retry_for: settings.storage.retry_for,
        }
    }
}

impl Cache {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, operations: Arc<Operations>) -> Arc<Self> {
        let keeper = LeaseKeeper::new(store.clone());
        Arc::new(Self { name, store, waiting: WaitingRoom::default(), keeper, operations })
    }

    /// Asks until there is an answer other than "in flight", for as long as the terms allow.
    pub(crate) async fn claim(self: &Arc<Self>, question: Question, terms: &Arc<Terms>) -> Result<Claimed, StoreError> {
        if !terms.exclusive {
            return self.claim_unlocked(question, terms).await;
        }
        let request = question.begin(OwnerToken::random(), terms);
        let mut until = None;
        let mut seat = None;
        for round in 0.. {
            match self.begin(&request, terms).await? {
                Begin::Fresh { claim, previous } => {
                    let held = Held::new(self.clone(), terms.clone(), claim);
                    return Ok(Claimed::Run { held, previous });
                }
                Begin::Completed(record) => return Ok(Claimed::Completed(record)),
                Begin::Mismatch => return Ok(Claimed::Mismatch),
                Begin::OwnerLost => return Ok(Claimed::OwnerLost),
                Begin::InFlight { .. } if terms.wait.is_zero() => return Ok(Claimed::InFlight),
                Begin::InFlight { .. } => {}
            }
            let now = Instant::now();
            let left = until.get_or_insert_with(|| now + terms.wait).saturating_duration_since(now);
            if left.is_zero() {
                return Ok(Claimed::InFlight);
            }
            if seat.is_none() {
                seat = self.waiting.enter(request.id, terms.max_waiters);
                if seat.is_none() {
                    return Ok(Claimed::InFlight);
                }
            }
            // An error here is an early wake-up; `begin` will meet it again.
            let _ = tokio::time::timeout(left, self.store.changed(&request.id, round, left)).await;
        }
        Ok(Claimed::InFlight)
    }

    /// With `lock.enable = false` nothing is claimed before the run: only a completed record stops it.
    async fn claim_unlocked(self: &Arc<Self>, question: Question, terms: &Arc<Terms>) -> Result<Claimed, StoreError> {
        let token = OwnerToken::random();
        let request = question.begin(token, terms);
        let answer = self.begin(&request, terms).await?;
        let previous = match answer {
            Begin::Fresh { claim, previous } => {
                bounded(self.store.release(&claim, Fate::Free), terms.timeout).await?;
                previous
            }
            Begin::Completed(record) => return Ok(Claimed::Completed(record)),
            Begin::Mismatch => return Ok(Claimed::Mismatch),
            Begin::OwnerLost => return Ok(Claimed::OwnerLost),
            Begin::InFlight { .. } => None,
        };
        let held = Held::unlocked(self.clone(), terms.clone(), question);
        Ok(Claimed::Run { held, previous })
    }

    /// `begin`, repeated with the same token while `storage.timeout` lasts. A caller that gives up frees its token behind.
    async fn begin(&self, request: &BeginRequest, terms: &Terms) -> Result<Begin, StoreError> {
        let call = match self.store.begin(request).try_ready() {
            Ok(Err(StoreError::Unavailable(_))) => self.store.begin(request),
            Ok(answer) => return answer,
            Err(call) => call,
        };
        let twice = async {
            match call.await {
                Err(StoreError::Unavailable(error)) => {
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
        if let Err(StoreError::TimedOut(_) | StoreError::Unavailable(_)) = &answer {
            self.release_behind(request.gives_up(), Fate::Free, terms);
        }
        answer
    }

    /// Frees a claim on the background thread, again and again until the lease would have ended.
    fn release_behind(&self, claim: Claim, fate: Fate, terms: &Terms) {
        let (store, timeout, limit) = (self.store.clone(), terms.timeout, terms.lease.min(terms.retry_for));
        background::spawn(async move {
            let freed = retry(limit, || bounded(store.release(&claim, fate), timeout)).await;
            if let Err(error) = freed {
                tracing::warn!(error = %error, record = ?claim.id, "a claim could not be freed; it ends with its lease");
            }
        });
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

impl BeginRequest {
    /// The claim that this request may have been granted without its caller learning of it.
    fn gives_up(&self) -> Claim {
        Claim { id: self.id, fingerprint: self.fingerprint, token: self.token, attempt: 0, fence: 0, taken_over: false }
    }
}

/// One store call within its time.
async fn bounded<T: Unpin>(call: StoreFuture<'_, T>, timeout: Duration) -> Result<T, StoreError> {
    match call.try_ready() {
        Ok(answer) => answer,
        Err(call) => match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::TimedOut(timeout)),
        },
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
