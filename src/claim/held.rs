//! A claim in the hands of a running operation. It ends in exactly one way: completed, released, or given up.

use std::{mem, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, Ready, ready},
};
use tokio::time::Instant;

use super::{Claims, Question, local::Holding, renewal::Keeping, store_handle::retry};
use super::{background, in_flight::Running};
use crate::{
    observe::metrics,
    record::Record,
    settings::OnUnknown,
    store::{Begin, Claim, Completion, Fate, OwnerToken, StoreError},
};

/// Dropping it frees the key, or marks it as *owner lost* where `on_unknown = reject` asks for that.
pub(crate) struct Held {
    claims: Arc<Claims>,
    state: State,
    /// When the claim is lost, where no lease is renewed.
    ceiling: Option<Instant>,
    /// In a store that is shared: the lease is renewed, and the claim known to the duplicates of this process.
    upkeep: Option<Upkeep>,
}

/// What became of a response that was to be stored.
pub(crate) enum Written {
    Stored,
    /// The store could not take it in time; it is tried again.
    Behind,
    /// Another owner took over, or was first where nothing is locked; their record, when it is known.
    Superseded(Option<Record>),
    /// It ran without a claim, and the store could not be asked for one afterwards.
    Lost,
}

type Upkeep = (Option<Keeping>, Holding);

enum State {
    /// Runs under a claim.
    Claimed(Claim),
    /// Runs without one (`lock.enable = false`).
    Unlocked(Question),
    /// As that, and the response is known.
    CompletingUnlocked(Question, Record),
    /// The key is to be free, whatever happens to this future.
    Releasing(Claim),
    /// The response is known and must reach the store, whatever happens to this future.
    Completing(Claim, Record),
    Ended,
}

impl Held {
    /// Boxed: it goes through many hands.
    pub(super) fn new(claims: Arc<Claims>, claim: Claim) -> Box<Self> {
        let Claims { cache, terms } = &*claims;
        let upkeep = cache.store.leases().then(|| {
            let until = Instant::now() + terms.renewed_for.unwrap_or(terms.lease);
            let holding = cache.local.hold(&claim, until);
            (cache.keeper.keep(&claim, terms, holding.end()), holding)
        });
        let ceiling = terms.renewed_for.is_none().then(|| Instant::now() + terms.lease);
        Box::new(Self { claims, state: State::Claimed(claim), ceiling, upkeep })
    }

    pub(super) fn unlocked(claims: Arc<Claims>, question: Question) -> Box<Self> {
        Box::new(Self { claims, state: State::Unlocked(question), ceiling: None, upkeep: None })
    }

    /// The claim, unless the operation runs without one.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match &self.state {
            State::Claimed(claim) | State::Completing(claim, _) | State::Releasing(claim) => Some(claim),
            State::Unlocked(_) | State::CompletingUnlocked(..) | State::Ended => None,
        }
    }

    /// Stores the response: a store in this process at once, another one within `storage.timeout`; one that can't take it
    /// by then gets it from behind.
    ///
    /// From the call on, not from the first poll, dropping anything leads to the response being stored.
    pub(crate) fn complete(mut self: Box<Self>, record: Record) -> Either<Ready<Written>, BoxFuture<'static, Written>> {
        self.warn_of_ceiling();
        self.state = match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => State::Completing(claim, record),
            State::Unlocked(question) => State::CompletingUnlocked(question, record),
            state => state,
        };
        // One that does not know at once is asked again, which is one completion: the token is the same.
        if let State::Completing(claim, record) = &self.state
            && !self.claims.cache.store.leases()
            && let Some(answer) = self.claims.call_complete(claim, record).now().ok()
        {
            return Either::Left(ready(self.ends(answer)));
        }
        Either::Right(Box::pin(self.write()))
    }

    async fn write(mut self: Box<Self>) -> Written {
        if let State::CompletingUnlocked(question, record) = &self.state {
            let (question, record) = (*question, record.clone());
            let late = self.claim_late(question).await;
            self.state = match late {
                Ok(claim) => State::Completing(claim, record),
                Err(written) => {
                    self.state = State::Ended;
                    return written;
                }
            };
        }
        let State::Completing(claim, record) = &self.state else { return Written::Lost };
        let answer = self.claims.call_complete(claim, record).within(self.claims.terms.timeout).await;
        self.ends(answer)
    }

    fn ends(&mut self, answer: Result<Completion, StoreError>) -> Written {
        let State::Completing(claim, _) = &self.state else { return Written::Lost };
        match answer {
            Ok(completion) => {
                let written = written(claim, completion);
                self.state = State::Ended;
                written
            }
            Err(error) => {
                tracing::warn!(%error, record = ?claim.id, "the response is not stored yet; it is written behind");
                // The drop hands the write on.
                Written::Behind
            }
        }
    }

    /// As [`complete`](Self::complete), where nobody waits: in a store of this process at once, in another one behind.
    pub(crate) fn complete_unwaited(self: Box<Self>, record: Record) {
        if self.claims.cache.store.leases() {
            self.complete_in_background(record);
        } else {
            drop(self.complete(record).now_or_never());
        }
    }

    fn complete_in_background(self: Box<Self>, record: Record) {
        let running = self.claims.cache.operations.track();
        background::spawn(async move {
            drop(self.complete(record).await);
            drop(running);
        });
    }

    /// The operation gave an answer that is not kept: the key is free by the time that the client has it, if the store
    /// can do that within `storage.timeout`.
    pub(crate) async fn release(mut self: Box<Self>) {
        self.warn_of_ceiling();
        let State::Claimed(claim) = mem::replace(&mut self.state, State::Ended) else { return };
        self.state = State::Releasing(claim.clone());
        let call = self.claims.cache.call("release", self.claims.cache.store.release(&claim, Fate::Free));
        let released = call.within(self.claims.terms.timeout).await;
        if released.is_ok() {
            self.state = State::Ended;
        }
    }

    /// As [`release`](Self::release), without waiting for it.
    pub(crate) fn free(mut self: Box<Self>) {
        self.end(Fate::Free);
    }

    fn end(&mut self, fate: Fate) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => {
                // A store in this process frees it here and now. Others are not called from a drop, which may happen
                // where no runtime is left.
                let store = &self.claims.cache.store;
                let released = !store.leases() && matches!(store.release(&claim, fate).try_ready(), Ok(Ok(_)));
                if !released {
                    self.claims.release_behind(claim, fate);
                }
            }
            State::Releasing(claim) => self.claims.release_behind(claim, Fate::Free),
            State::Completing(claim, record) => self.complete_behind(claim, record),
            State::CompletingUnlocked(question, record) => {
                let rest = Self::unlocked(self.claims.clone(), question);
                rest.complete_in_background(record);
            }
            State::Unlocked(_) | State::Ended => {}
        }
    }

    /// Without a lock the record is claimed only now, for as long as storing it takes; whoever was first stays.
    async fn claim_late(&self, question: Question) -> Result<Claim, Written> {
        let request = question.begin(OwnerToken::random(), &self.claims.terms);
        match self.claims.begin(&request).await {
            Ok(Begin::Fresh { claim, .. }) => Ok(claim),
            Ok(_) => Err(Written::Superseded(None)),
            Err(error) => {
                metrics::write_lost();
                tracing::warn!(%error, record = ?question.id, "the response of an operation without a lock is not stored");
                Err(Written::Lost)
            }
        }
    }

    /// Retries the write on the background thread, for `storage.retry_for`; the lease is renewed meanwhile.
    fn complete_behind(&mut self, claim: Claim, record: Record) {
        let (claims, upkeep) = (self.claims.clone(), self.upkeep.take());
        let running: Running = claims.cache.operations.track();
        let behind = metrics::Behind::starts();
        background::spawn(async move {
            // Nobody waits: a large record over a slow link has its time.
            let patient = claims.terms.timeout.max(Duration::from_secs(10));
            let write = || claims.call_complete(&claim, &record).within(patient);
            match retry(claims.terms.retry_for, write).await {
                Ok(completion) => drop(written(&claim, completion)),
                Err(error) => {
                    metrics::write_lost();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        record = ?claim.id,
                        "the response of a finished operation could not be stored: its retry may run again after the lease"
                    );
                }
            }
            drop((upkeep, running, behind));
        });
    }

    fn warn_of_ceiling(&self) {
        if self.ceiling.is_some_and(|ceiling| Instant::now() >= ceiling) {
            tracing::warn!("an operation outran lock.ttl: its key was free while it ran");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(match self.claims.terms.on_unknown {
            OnUnknown::Rerun => Fate::Free,
            OnUnknown::Reject => Fate::Unknown,
        });
    }
}

fn written(claim: &Claim, completion: Completion) -> Written {
    match completion {
        Completion::Stored => Written::Stored,
        Completion::Superseded(winner) => {
            tracing::warn!(record = ?claim.id, attempt = claim.attempt, "another owner took over: this response is not stored");
            Written::Superseded(winner)
        }
    }
}
