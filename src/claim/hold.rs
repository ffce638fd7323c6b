//! A claim in the hands of a running operation. It ends in exactly one way: completed, released, or given up by its
//! drop.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use actix_web::http::StatusCode;

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either, Ready, ready},
};
use tokio::time::Instant;

use super::{
    ask::Claims,
    call::StoreCall,
    local::LocalEntry,
    renewal::{RenewalGuard, Restoring},
};
use crate::{
    observe::metrics,
    record::{Record, RequestDigest},
    store::{BeginRequest, Claim, Completion, IfCompleted, OnUnknown, RecordState, ReleaseAs, Step, StoreError},
};

/// The claim of a running operation. Dropping it frees the key, or marks the record as *owner lost* with
/// `on_unknown = reject`.
pub(crate) struct HeldClaim {
    pub(super) claims: Arc<Claims>,
    state: State,
    /// Whether the operation ran without a claim. Then another response may be first, and nobody took over.
    is_unlocked: bool,
    /// With `lock.ttl`: when the claim is freed by force.
    ceiling: Option<Instant>,
    /// With a store that other processes share, or whose leases have to be renewed.
    pub(super) upkeep: Option<Upkeep>,
    /// The steps that earlier attempts have saved, until the handler gets them.
    steps: Vec<Step>,
    /// How the claim ends when its response is not stored.
    release_as: ReleaseAs,
    /// Whether a run that stores nothing leaves steps for the next one.
    has_steps: bool,
    /// Whether the client was promised an answer with a 202. `None`: it did not ask for that.
    promise: Option<Arc<AtomicBool>>,
    /// The pairs that explain a later mismatch, for the record.
    #[cfg(feature = "encryption")]
    pairs: Option<Box<[u8]>>,
    /// The status of a response that is not stored.
    status: u16,
    /// How long the record of the response is kept.
    pub(super) ttl: Duration,
    /// The request's body, where the claim did not compare it.
    request: Option<Box<RequestDigest>>,
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
    /// There was nothing to store.
    Lost,
}

enum State {
    /// The operation runs under a claim.
    Claimed(Claim),
    /// The operation runs without a claim (`lock.enable = false`).
    Unlocked(BeginRequest),
    /// As `Unlocked`, and the response is to replace a completed record (policy manual).
    Replacing(BeginRequest, Record),
    /// The claim is to end in this way, whatever happens to this value.
    Releasing(Claim, ReleaseAs),
    /// The response must reach the store, whatever happens to this value.
    Completing(Claim, Record),
    Ended,
}

impl HeldClaim {
    /// Boxed, because it is moved often.
    pub(super) fn new(claims: Arc<Claims>, claim: Claim, steps: Vec<Step>) -> Box<Self> {
        let Claims { handle, config } = &*claims;
        let upkeep = (!handle.store.answers_at_once() || handle.store.needs_renewal()).then(|| {
            let until = Instant::now() + config.renewed_for.unwrap_or(config.lease);
            let entry = handle.local.enter(&claim, until);
            (handle.renewals.start(&claim, &steps, config, entry.end()), entry)
        });
        let ceiling = config.renewed_for.is_none().then(|| Instant::now() + config.lease);
        let ttl = config.ttl;
        Box::new(Self {
            claims,
            state: State::Claimed(claim),
            is_unlocked: false,
            ceiling,
            upkeep,
            steps,
            release_as: ReleaseAs::Free,
            has_steps: false,
            promise: None,
            #[cfg(feature = "encryption")]
            pairs: None,
            status: 500,
            ttl,
            request: None,
        })
    }

    pub(super) fn unlocked(claims: Arc<Claims>, begin: BeginRequest) -> Box<Self> {
        let ttl = claims.config.ttl;
        Box::new(Self {
            claims,
            state: State::Unlocked(begin),
            is_unlocked: true,
            ceiling: None,
            upkeep: None,
            steps: Vec::new(),
            release_as: ReleaseAs::Free,
            has_steps: false,
            promise: None,
            #[cfg(feature = "encryption")]
            pairs: None,
            status: 500,
            ttl,
            request: None,
        })
    }

    /// Takes the steps that earlier attempts have saved. `None`: the operation runs without a claim, and saves none.
    pub(crate) fn take_steps(&mut self) -> Option<Vec<Step>> {
        if !self.steps.is_empty() {
            self.has_steps = true;
            metrics::resumed();
        }
        matches!(self.state, State::Claimed(_)).then(|| mem::take(&mut self.steps))
    }

    /// The claim, unless the operation runs without one.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match &self.state {
            State::Claimed(claim) | State::Completing(claim, _) | State::Releasing(claim, _) => Some(claim),
            State::Unlocked(_) | State::Replacing(..) | State::Ended => None,
        }
    }

    /// Whether the run goes on with nothing that was begun before: neither the run of a lost owner, nor a journal, nor a
    /// completed record.
    pub(crate) fn is_first_run(&self) -> bool {
        let is_new = |claim: &Claim| !claim.taken_over && claim.completions == 0;
        self.steps.is_empty() && self.claim().is_none_or(is_new)
    }

    /// The steps that earlier attempts have saved, before the handler gets them.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The lost owner of the record had no effect: the record forgets it, also when this run stores nothing. Where a journal
    /// or a completed record would go too, the memory stays.
    pub(crate) fn clear_lost_owner(&mut self, has_previous: bool) {
        if let State::Claimed(claim) = &mut self.state {
            claim.taken_over = false;
        }
        if self.steps.is_empty() && !has_previous {
            self.release_as = ReleaseAs::Ended;
        }
    }

    /// The run has saved steps, which stay with the record.
    pub(crate) fn keep_steps(&mut self) {
        self.release_as = ReleaseAs::Free;
        self.has_steps = true;
    }

    /// Once the promise is made, a record whose response is not stored remembers that.
    pub(crate) fn remembers(&mut self, promise: Arc<AtomicBool>) {
        self.promise = Some(promise);
    }

    /// The status of the response, which is not stored.
    pub(crate) fn answers(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// The record of the response gets the pairs that explain a later mismatch.
    #[cfg(feature = "encryption")]
    pub(crate) fn explained_by(&mut self, pairs: Vec<u8>) {
        self.pairs = Some(pairs.into());
    }

    /// The record of the response is kept for this long.
    pub(crate) fn keep_for(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// The record of the response keeps what the body of its request was.
    pub(crate) fn of_request(&mut self, digest: RequestDigest) {
        self.request = Some(Box::new(digest));
    }

    /// How the claim ends when the response is not known.
    fn given_up_as(&self) -> ReleaseAs {
        match self.claims.config.on_unknown {
            OnUnknown::Rerun if self.promise.is_some() => self.release_as(),
            OnUnknown::Rerun => ReleaseAs::Free,
            OnUnknown::Reject | OnUnknown::Ask => ReleaseAs::Unknown,
        }
    }

    fn release_as(&self) -> ReleaseAs {
        match &self.promise {
            Some(promise) if promise.load(SeqCst) => ReleaseAs::NotStored { status: self.status },
            _ => self.release_as,
        }
    }

    /// When the key was first claimed, if the store tells.
    pub(crate) async fn first_seen(&self) -> Option<SystemTime> {
        let handle = &self.claims.handle;
        let seen = handle.call("inspect", handle.store.inspect(&self.claim()?.id)).within(self.claims.config.timeout);
        seen.await.ok()??.first_seen
    }

    /// The record of another owner that has completed the operation, as the store tells it.
    pub(crate) async fn winner(&self) -> Option<Record> {
        let (claim, handle) = (self.claim()?, &self.claims.handle);
        let seen = handle.call("inspect", handle.store.inspect(&claim.id)).within(self.claims.config.timeout);
        let seen = seen.await.ok()??;
        let is_same = seen.fingerprint?.compare(&claim.fingerprint).is_same();
        seen.record.filter(|_| seen.state == RecordState::Completed && is_same && seen.owner != Some(claim.token))
    }

    /// Stores the response: at once in a store that answers at once, else within `storage.timeout`. A store that can't
    /// take it in that time gets it by write-behind.
    ///
    /// From this call on (not from the first poll) the response is stored even if the returned future is dropped.
    pub(crate) fn complete(mut self: Box<Self>, record: Record) -> Either<Ready<Written>, BoxFuture<'static, Written>> {
        #[cfg(feature = "encryption")]
        let record = match self.pairs.take() {
            Some(pairs) => record.with_pairs(&pairs),
            None => record,
        };
        self.warn_of_ceiling();
        let record = match self.request.take() {
            Some(digest) => record.of_request(*digest),
            None => record,
        };
        if let Some((Some(renewals), _)) = &self.upkeep {
            renewals.completing();
        }
        self.state = match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => State::Completing(claim, record),
            // A store takes a response for which nobody holds a claim. The first response stays.
            State::Unlocked(begin) if begin.if_completed == IfCompleted::Replay => {
                State::Completing(Claim::new(&begin, 1, 0), record)
            }
            State::Unlocked(begin) => State::Replacing(begin, record),
            state => state,
        };
        // If the store is not ready at once after all, `write` calls `complete` again; the call is idempotent per
        // token.
        if let State::Completing(claim, record) = &self.state
            && self.claims.handle.store.answers_at_once()
            && let Some(answer) = self.claims.call_complete(claim, record, self.ttl).now().ok()
        {
            return Either::Left(ready(self.completed(answer)));
        }
        Either::Right(Box::pin(self.write()))
    }

    async fn write(mut self: Box<Self>) -> Written {
        if let State::Replacing(begin, record) = &self.state {
            let written = self.claims.replace(begin, record, self.ttl, self.claims.config.timeout).await;
            if !matches!(written, Written::Behind) {
                self.state = State::Ended;
            }
            return written;
        }
        let State::Completing(claim, record) = &self.state else { return Written::Lost };
        let answer = self.claims.call_complete(claim, record, self.ttl).within(self.claims.config.timeout).await;
        self.completed(answer)
    }

    fn completed(&mut self, answer: Result<Completion, StoreError>) -> Written {
        let State::Completing(claim, record) = &self.state else { return Written::Lost };
        match answer {
            Ok(completion) => {
                let written = match completion {
                    Completion::Superseded(_) if self.is_unlocked => Written::Superseded(None),
                    Completion::Superseded(Some(winner)) if !winner.answers(record) => {
                        Written::of(claim, Completion::Superseded(None))
                    }
                    completion => Written::of(claim, completion),
                };
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
    pub(crate) async fn release(self: Box<Self>) {
        let release_as = self.release_as();
        self.end_and_wait(release_as).await;
    }

    /// Ends the claim of an operation whose response is not known, as a drop does, and waits for the store as
    /// [`release`](Self::release) does.
    pub(crate) async fn fail(self: Box<Self>) {
        let release_as = self.given_up_as();
        self.end_and_wait(release_as).await;
    }

    async fn end_and_wait(mut self: Box<Self>, release_as: ReleaseAs) {
        self.warn_of_ceiling();
        let State::Claimed(claim) = mem::replace(&mut self.state, State::Ended) else { return };
        self.state = State::Releasing(claim.clone(), release_as);
        self.count_unfinished();
        let timeout = self.claims.config.timeout;
        if let Some((Some(renewals), local)) = self.upkeep.take() {
            let restoring = renewals.stop();
            self.upkeep = Some((None, local));
            if tokio::time::timeout(timeout, restoring.ended()).await.is_err() {
                return;
            }
        }
        let handle = &self.claims.handle;
        let call = handle.call("release", handle.store.release(&claim, release_as));
        if call.within(timeout).await.is_ok() {
            self.state = State::Ended;
        }
    }

    /// As [`release`](Self::release), without waiting for the store.
    pub(crate) fn free(mut self: Box<Self>) {
        self.end(ReleaseAs::Free);
    }

    /// Frees the key of an operation whose answer is in a ledger, without waiting for the store. The record forgets its
    /// lost owners and its steps.
    pub(crate) fn ended(mut self: Box<Self>) {
        self.end(ReleaseAs::Ended);
    }

    /// Ends the claim as that of a lost owner: whoever asks next is told, and with a ledger settles before it runs.
    pub(crate) fn bar(mut self: Box<Self>) {
        self.end(ReleaseAs::Unknown);
    }

    fn end(&mut self, release_as: ReleaseAs) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => {
                if release_as != ReleaseAs::Ended {
                    self.count_unfinished();
                }
                // A store that answers at once frees the key here. Other stores are not called from a drop, which may
                // happen where no runtime is left.
                let store = &self.claims.handle.store;
                let released =
                    store.answers_at_once() && matches!(store.release(&claim, release_as).try_ready(), Ok(Ok(_)));
                if !released {
                    let restoring = self.stop_renewals();
                    self.claims.release_in_background(claim, release_as, restoring);
                }
            }
            State::Releasing(claim, release_as) => {
                let restoring = self.stop_renewals();
                self.claims.release_in_background(claim, release_as, restoring);
            }
            State::Completing(claim, record) => self.write_behind(claim, record),
            State::Replacing(begin, record) => self.claims.replace_in_background(begin, record, self.ttl),
            State::Unlocked(_) | State::Ended => {}
        }
    }

    fn count_unfinished(&self) {
        if self.has_steps {
            metrics::unfinished();
        }
    }

    fn stop_renewals(&mut self) -> Option<Arc<Restoring>> {
        Some(self.upkeep.take()?.0?.stop())
    }

    fn warn_of_ceiling(&self) {
        if self.ceiling.is_some_and(|ceiling| Instant::now() >= ceiling) {
            tracing::warn!("an operation outran lock.ttl: its key was free while it ran");
        }
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        self.end(self.given_up_as());
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
    pub(super) fn call_complete<'a>(
        &'a self,
        claim: &'a Claim,
        record: &'a Record,
        ttl: Duration,
    ) -> StoreCall<'a, Completion> {
        self.handle.call("complete", self.handle.store.complete(claim, record, ttl))
    }
}
