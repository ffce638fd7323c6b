//! A claim in the hands of a running operation. It ends in exactly one way: completed, released, or given up by its
//! drop.

use std::{mem, sync::Arc};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, Ready, ready},
};
use tokio::time::Instant;

use super::{
    ask::{ClaimRequest, Claims},
    call::StoreCall,
    local::LocalEntry,
    renewal::RenewalGuard,
};
use crate::{
    observe::metrics,
    record::Record,
    store::{Begin, Claim, Completion, OnUnknown, OwnerToken, ReleaseAs, StoreError},
};

/// The claim of a running operation. Dropping it frees the key, or marks the record as *owner lost* with
/// `on_unknown = reject`.
pub(crate) struct HeldClaim {
    pub(super) claims: Arc<Claims>,
    state: State,
    /// With `lock.ttl`: when the claim is freed by force.
    ceiling: Option<Instant>,
    /// With a store that other processes share, or whose leases have to be renewed.
    pub(super) upkeep: Option<Upkeep>,
}

/// Keeps a claim alive, and known to the duplicates of this process.
pub(super) type Upkeep = (Option<RenewalGuard>, LocalEntry);

/// The fate of a response that was to be stored.
pub(crate) enum Written {
    /// The response is stored.
    Stored,
    /// The store could not take the response in time. The write-behind goes on.
    Behind,
    /// Another owner took over, or was first where nothing is locked. Its response, if it is known.
    Superseded(Option<Record>),
    /// The operation ran without a claim, and the store could not be asked for one after the run.
    Lost,
}

enum State {
    /// The operation runs under a claim.
    Claimed(Claim),
    /// The operation runs without a claim (`lock.enable = false`).
    Unlocked(ClaimRequest),
    /// As `Unlocked`, and the response is known.
    CompletingUnlocked(ClaimRequest, Record),
    /// The key is to be free, whatever happens to this value.
    Releasing(Claim),
    /// The response must reach the store, whatever happens to this value.
    Completing(Claim, Record),
    Ended,
}

impl HeldClaim {
    /// Boxed, because it is moved often.
    pub(super) fn new(claims: Arc<Claims>, claim: Claim) -> Box<Self> {
        let Claims { handle, config } = &*claims;
        let upkeep = (!handle.store.answers_at_once() || handle.store.needs_renewal()).then(|| {
            let until = Instant::now() + config.renewed_for.unwrap_or(config.lease);
            let entry = handle.local.enter(&claim, until);
            (handle.renewals.start(&claim, config, entry.end()), entry)
        });
        let ceiling = config.renewed_for.is_none().then(|| Instant::now() + config.lease);
        Box::new(Self { claims, state: State::Claimed(claim), ceiling, upkeep })
    }

    pub(super) fn unlocked(claims: Arc<Claims>, request: ClaimRequest) -> Box<Self> {
        Box::new(Self { claims, state: State::Unlocked(request), ceiling: None, upkeep: None })
    }

    /// The claim, unless the operation runs without one.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match &self.state {
            State::Claimed(claim) | State::Completing(claim, _) | State::Releasing(claim) => Some(claim),
            State::Unlocked(_) | State::CompletingUnlocked(..) | State::Ended => None,
        }
    }

    /// Stores the response: at once in a store that answers at once, else within `storage.timeout`. A store that can't
    /// take it in that time gets it by write-behind.
    ///
    /// From this call on (not from the first poll) the response is stored even if the returned future is dropped.
    pub(crate) fn complete(mut self: Box<Self>, record: Record) -> Either<Ready<Written>, BoxFuture<'static, Written>> {
        self.warn_of_ceiling();
        self.state = match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => State::Completing(claim, record),
            State::Unlocked(request) => State::CompletingUnlocked(request, record),
            state => state,
        };
        // If the store is not ready at once after all, `write` calls `complete` again; the call is idempotent per
        // token.
        if let State::Completing(claim, record) = &self.state
            && self.claims.handle.store.answers_at_once()
            && let Some(answer) = self.claims.call_complete(claim, record).now().ok()
        {
            return Either::Left(ready(self.completed(answer)));
        }
        Either::Right(Box::pin(self.write()))
    }

    async fn write(mut self: Box<Self>) -> Written {
        if let State::CompletingUnlocked(request, record) = &self.state {
            let (request, record) = (*request, record.clone());
            let late = self.claim_late(request).await;
            self.state = match late {
                Ok(claim) => State::Completing(claim, record),
                Err(written) => {
                    self.state = State::Ended;
                    return written;
                }
            };
        }
        let State::Completing(claim, record) = &self.state else { return Written::Lost };
        let answer = self.claims.call_complete(claim, record).within(self.claims.config.timeout).await;
        self.completed(answer)
    }

    fn completed(&mut self, answer: Result<Completion, StoreError>) -> Written {
        let State::Completing(claim, _) = &self.state else { return Written::Lost };
        match answer {
            Ok(completion) => {
                let written = Written::of(claim, completion);
                self.state = State::Ended;
                written
            }
            Err(error) => {
                tracing::warn!(%error, record = ?claim.id, "the response is not stored yet; the write-behind goes on");
                // The drop of this value starts the write-behind.
                Written::Behind
            }
        }
    }

    /// As [`complete`](Self::complete), for a response that nobody waits for.
    pub(crate) fn complete_unwaited(self: Box<Self>, record: Record) {
        if self.claims.handle.store.answers_at_once() {
            drop(self.complete(record).now_or_never());
        } else {
            self.complete_in_background(record);
        }
    }

    /// Frees the key, because the response is not one that is stored. Waits for the store up to `storage.timeout`, so
    /// that the key is free when the client has its response.
    pub(crate) async fn release(mut self: Box<Self>) {
        self.warn_of_ceiling();
        let State::Claimed(claim) = mem::replace(&mut self.state, State::Ended) else { return };
        self.state = State::Releasing(claim.clone());
        let handle = &self.claims.handle;
        let call = handle.call("release", handle.store.release(&claim, ReleaseAs::Free));
        if call.within(self.claims.config.timeout).await.is_ok() {
            self.state = State::Ended;
        }
    }

    /// As [`release`](Self::release), without waiting for the store.
    pub(crate) fn free(mut self: Box<Self>) {
        self.end(ReleaseAs::Free);
    }

    fn end(&mut self, release_as: ReleaseAs) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => {
                // A store that answers at once frees the key here. Other stores are not called from a drop, which may
                // happen where no runtime is left.
                let store = &self.claims.handle.store;
                let released =
                    store.answers_at_once() && matches!(store.release(&claim, release_as).try_ready(), Ok(Ok(_)));
                if !released {
                    self.claims.release_in_background(claim, release_as);
                }
            }
            State::Releasing(claim) => self.claims.release_in_background(claim, ReleaseAs::Free),
            State::Completing(claim, record) => self.write_behind(claim, record),
            State::CompletingUnlocked(request, record) => {
                Self::unlocked(self.claims.clone(), request).complete_in_background(record);
            }
            State::Unlocked(_) | State::Ended => {}
        }
    }

    /// Claims the record after the run, where nothing was claimed before it. The claim lasts only as long as storing
    /// takes; an owner that was first stays.
    async fn claim_late(&self, request: ClaimRequest) -> Result<Claim, Written> {
        let begin = request.begin(OwnerToken::random(), &self.claims.config);
        match self.claims.begin(&begin).await {
            Ok(Begin::Acquired(acquired)) => Ok(acquired.claim),
            Ok(_) => Err(Written::Superseded(None)),
            Err(error) => {
                metrics::write_lost();
                tracing::warn!(%error, record = ?request.id, "the response of an operation without a lock is not stored");
                Err(Written::Lost)
            }
        }
    }

    fn warn_of_ceiling(&self) {
        if self.ceiling.is_some_and(|ceiling| Instant::now() >= ceiling) {
            tracing::warn!("an operation outran lock.ttl: its key was free while it ran");
        }
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        self.end(match self.claims.config.on_unknown {
            OnUnknown::Rerun => ReleaseAs::Free,
            OnUnknown::Reject => ReleaseAs::Unknown,
        });
    }
}

impl Written {
    pub(super) fn of(claim: &Claim, completion: Completion) -> Self {
        match completion {
            Completion::Stored => Self::Stored,
            Completion::Superseded(winner) => {
                let attempt = claim.attempt;
                tracing::warn!(record = ?claim.id, attempt, "another owner took over: this response is not stored");
                Self::Superseded(winner)
            }
        }
    }
}

impl Claims {
    pub(super) fn call_complete<'a>(&'a self, claim: &'a Claim, record: &'a Record) -> StoreCall<'a, Completion> {
        self.handle.call("complete", self.handle.store.complete(claim, record, self.config.ttl))
    }
}
